//! What the user wrote: values with their places, before anything is fitted together.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_plan::http::{HttpSpec, RouteSpec};
use evenkeel_plan::{
    AccessLogSpec, BackendName, CheckSpec, ConnectSpec, DrainSpec, Framing, KeepaliveSpec,
    LimitsSpec, LogSpec, Network, OnDown, PoolName, QueueSpec, Require, ResolveSpec, Scheduler,
    ServiceName, SourceSpec, Stale, TimeoutsSpec, Unchecked, UserSpec, WatchdogSpec, Workers,
};

use crate::place::Place;
use crate::problem::{Sink, Span, shown};

/// What the user wrote.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) workers: Got<Workers>,
    pub(crate) user: UserSpec,
    pub(crate) metrics: Vec<Placed<SocketAddr>>,
    pub(crate) drain: DrainSpec,
    pub(crate) log: LogSpec,
    pub(crate) access_log: AccessLogSpec,
    pub(crate) limits: Limits,
    pub(crate) watchdog: WatchdogSpec,
    pub(crate) resolve: ResolveSpec,
    pub(crate) allow_exec: Got<bool>,
    /// In file order.
    pub(crate) pools: Vec<Pool>,
    /// In file order.
    pub(crate) services: Vec<Service>,
}

/// A value with its place.
#[derive(Clone, Debug)]
pub(crate) struct Placed<T> {
    pub(crate) value: T,
    pub(crate) at: Span,
    /// Dotted key.
    pub(crate) key: String,
}

/// The value of a key that has a default.
#[derive(Clone, Debug)]
pub(crate) struct Got<T> {
    pub(crate) value: T,
    /// Where it is written; `None` = the default.
    pub(crate) at: Option<Span>,
    /// Whether it could be read.
    pub(crate) good: bool,
    /// Dotted key.
    pub(crate) key: String,
}

impl<T> Got<T> {
    pub(crate) fn map<U>(self, f: impl FnOnce(T) -> U) -> Got<U> {
        Got {
            value: f(self.value),
            at: self.at,
            good: self.good,
            key: self.key,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Limits {
    pub(crate) spec: LimitsSpec,
    pub(crate) services: Got<u32>,
    pub(crate) listeners: Got<u32>,
    pub(crate) backends: Got<u32>,
}

/// A pool, named or written in a service.
#[derive(Debug)]
pub(crate) struct Pool {
    /// `None` for a bad name, and for one that is written in a service.
    pub(crate) name: Option<PoolName>,
    /// As written.
    pub(crate) label: String,
    pub(crate) at: Span,
    pub(crate) key: String,
    pub(crate) backends: Vec<Backend>,
    /// Whether all of `backends` could be read.
    pub(crate) complete: bool,
    pub(crate) port: Got<Option<u16>>,
    pub(crate) check: Option<Arc<CheckSpec>>,
    /// Of backends that have none of their own.
    pub(crate) backend_max_connections: Option<u32>,
}

impl Pool {
    /// The pool of a service that needs no backends.
    pub(crate) fn none(service: &Service) -> Self {
        Self {
            name: None,
            label: service.label.clone(),
            at: service.at,
            key: service.key.clone(),
            backends: Vec::new(),
            complete: true,
            port: Got {
                value: None,
                at: None,
                good: true,
                key: service.key.clone(),
            },
            check: None,
            backend_max_connections: None,
        }
    }

    /// The first SRV name among the backends.
    pub(crate) fn srv_name(&self) -> Option<&Place> {
        let mut places = self.backends.iter().map(|backend| &backend.address);
        places.find(|place| matches!(place, Place::Service { .. }))
    }
}

/// A port where an SRV name is.
pub(crate) fn port_of_srv(at: Span, key: &str, service: &Place, sink: &mut Sink<'_>) {
    let message = format!(
        "`port` beside the SRV name {}, whose records name the ports",
        shown(&service.to_string())
    );
    let help = "leave `port` out, or write host names instead of the SRV name";
    sink.error(at, key, message, help);
}

#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) name: Option<Placed<BackendName>>,
    pub(crate) address: Place,
    pub(crate) at: Span,
    pub(crate) key: String,
    pub(crate) weight: Got<u16>,
    pub(crate) backup: Got<bool>,
    pub(crate) max_connections: Option<u32>,
}

#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) name: Option<ServiceName>,
    /// As written.
    pub(crate) label: String,
    pub(crate) at: Span,
    pub(crate) key: String,
    pub(crate) listeners: Vec<Listener>,
    /// Whether `listen` is written, readable or not.
    pub(crate) has_listen: bool,
    pub(crate) source: Source,
    pub(crate) port: Got<Option<u16>>,
    pub(crate) scheduler: Scheduler,
    /// Its `source` is `connect_source`.
    pub(crate) connect: ConnectSpec,
    pub(crate) connect_source: Got<SourceSpec>,
    pub(crate) policy: Policy,
    pub(crate) timeouts: TimeoutsSpec,
    pub(crate) keepalive: KeepaliveSpec,
    pub(crate) queue: Queue,
    pub(crate) framing: Framing,
    /// `None` = connections are relayed.
    pub(crate) http: Option<Http>,
}

/// HTTP of a service.
#[derive(Debug)]
pub(crate) struct Http {
    /// Without its routes.
    pub(crate) spec: HttpSpec,
    /// In file order.
    pub(crate) routes: Vec<Route>,
}

/// A route.
#[derive(Debug)]
pub(crate) struct Route {
    /// `None` when a part of it could not be read; reported.
    pub(crate) spec: Option<RouteSpec>,
    /// The service that it leads to, as written.
    pub(crate) service: Option<Placed<String>>,
    pub(crate) at: Span,
    pub(crate) key: String,
}

/// Who waits for a backend that is full.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) spec: QueueSpec,
    /// Where it is written, and its dotted key.
    pub(crate) at: Option<(Span, String)>,
}

/// When a service serves at all.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) require: Got<Require>,
    pub(crate) sorry: Option<Placed<String>>,
    pub(crate) panic: Option<u8>,
    /// `None` = what goes with `require`.
    pub(crate) stale: Option<Stale>,
    pub(crate) unchecked: Unchecked,
    pub(crate) on_down: OnDown,
    pub(crate) slow_start: Duration,
    pub(crate) passive_failures: u16,
}

#[derive(Clone, Debug)]
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    pub(crate) at: Span,
    pub(crate) key: String,
    pub(crate) freebind: bool,
    pub(crate) backlog: u32,
    /// Shared by the listeners that say nothing of their own.
    pub(crate) admission: Rc<Admission>,
}

/// Who may connect to a listener, and how often.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    /// Empty = everybody.
    pub(crate) allow: Got<Vec<Network>>,
    pub(crate) deny: Got<Vec<Network>>,
    pub(crate) max_connections: Got<Option<u32>>,
    pub(crate) rate: Rate,
    pub(crate) source_rate: Rate,
    /// Empty = nobody's.
    pub(crate) accept_proxy: Got<Vec<Network>>,
}

/// A limit on new connections in time.
#[derive(Clone, Debug)]
pub(crate) struct Rate {
    pub(crate) per_second: Got<Option<u32>>,
    pub(crate) burst: Got<Option<u32>>,
}

/// Where a service's backends come from.
#[derive(Debug)]
pub(crate) enum Source {
    Named(Placed<String>),
    Inline(Pool),
    /// There are none, and need not be: the service has routes.
    None,
    /// Could not be read; reported.
    Broken,
}
