//! What the user wrote: values with their places, before anything is fitted together.

use std::net::SocketAddr;
use std::time::Duration;

use evenkeel_plan::{
    BackendName, CheckKind, ConnectSpec, DrainSpec, LimitsSpec, LogSpec, PoolName, Scheduler,
    ServiceName, UserSpec, WatchdogSpec, Workers,
};

use crate::problem::Span;
use crate::value::Address;

/// What the user wrote.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) workers: Got<Workers>,
    pub(crate) user: UserSpec,
    pub(crate) metrics: Vec<Placed<SocketAddr>>,
    pub(crate) drain: DrainSpec,
    pub(crate) log: LogSpec,
    pub(crate) limits: Limits,
    pub(crate) watchdog: WatchdogSpec,
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
    pub(crate) port: Option<u16>,
    pub(crate) check: Option<Check>,
}

#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) name: Option<Placed<BackendName>>,
    pub(crate) address: Address,
    pub(crate) at: Span,
    pub(crate) key: String,
    pub(crate) weight: Got<u16>,
}

/// A check without its address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Check {
    pub(crate) kind: CheckKind,
    pub(crate) port: Option<u16>,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    pub(crate) rise: u16,
    pub(crate) fall: u16,
    pub(crate) jitter_percent: u8,
}

#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) name: Option<ServiceName>,
    /// As written.
    pub(crate) label: String,
    pub(crate) at: Span,
    pub(crate) key: String,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) source: Source,
    pub(crate) port: Got<Option<u16>>,
    pub(crate) scheduler: Scheduler,
    pub(crate) connect: ConnectSpec,
}

#[derive(Clone, Debug)]
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    pub(crate) at: Span,
    pub(crate) key: String,
    pub(crate) freebind: bool,
    pub(crate) backlog: u32,
}

/// Where a service's backends come from.
#[derive(Debug)]
pub(crate) enum Source {
    Named(Placed<String>),
    Inline(Pool),
    /// Could not be read; reported.
    Broken,
}
