//! What the user wrote to a [`Spec`]: what must fit together.
//!
//! Values that could not be read are already reported and not here; nothing is said again about them.

mod backends;
mod capacities;
mod http;
mod policy;
mod traffic;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use evenkeel_plan::{ConnectSpec, Globals, Scheduler, ServiceSpec, Spec};

use self::backends::assemble_backends;
use self::capacities::capacities;
use self::policy::{policy, sorry};

use crate::host::Host;
use crate::own::{Own, listeners};
use crate::problem::{Sink, Span, shown};
use crate::suggest::nearest;
use crate::written::{Got, Pool, Service, Source, Written};

/// The first character of the file.
const TOP: Span = Span { start: 0, end: 0 };

/// Checks `written` as a whole. `None` when a name or a service could not be read; the reason is in `sink`.
pub(crate) fn assemble(written: Written, host: &Host, sink: &mut Sink<'_>) -> Option<Spec> {
    let own = listeners(&written, host, sink);
    let mut used = HashSet::new();
    let mut services = Vec::with_capacity(written.services.len());
    let mut readable = true;
    let pools = Pools::new(&written.pools);
    for service in &written.services {
        match assemble_service(service, &pools, &own, &mut used, sink) {
            Some(spec) => services.push(spec),
            None => readable = false,
        }
    }
    for pool in &written.pools {
        if !used.contains(pool.label.as_str()) {
            let message = format!("pool {} is not used by any service", shown(&pool.label));
            let help = "remove it, or name it in a service: `pool = \"NAME\"`";
            sink.warning(pool.at, &pool.key, message, help);
        }
    }
    if written.services.is_empty() {
        let help = "write a `[services.NAME]` with `listen` and `backends`";
        let message = "no services: nothing will be listened on";
        sink.warning(TOP, "services", message, help);
    }
    sorry(&written.services, sink);
    http::services(&written.services, sink);
    capacities(&written, &services, sink);

    readable.then(|| Spec {
        globals: Globals {
            workers: written.workers.value,
            metrics: written
                .metrics
                .into_iter()
                .map(|listen| listen.value)
                .collect(),
            drain: written.drain,
            log: written.log,
            access_log: written.access_log,
            limits: written.limits.spec,
            watchdog: written.watchdog,
            user: written.user,
            resolve: written.resolve,
            allow_exec: written.allow_exec.value,
        },
        services,
    })
}

/// Pools by name.
struct Pools<'a> {
    all: &'a [Pool],
    by_label: HashMap<&'a str, &'a Pool>,
}

impl<'a> Pools<'a> {
    fn new(all: &'a [Pool]) -> Self {
        Self {
            all,
            by_label: all.iter().map(|pool| (pool.label.as_str(), pool)).collect(),
        }
    }
}

fn assemble_service<'a>(
    service: &'a Service,
    pools: &Pools<'a>,
    own: &Own<'a>,
    used: &mut HashSet<&'a str>,
    sink: &mut Sink<'_>,
) -> Option<ServiceSpec> {
    let none = Pool::none(service);
    let (pool, at) = match &service.source {
        Source::Broken => return None,
        Source::None => (&none, None),
        Source::Inline(pool) => (pool, None),
        Source::Named(name) => match pools.by_label.get(name.value.as_str()) {
            Some(pool) => {
                used.insert(pool.label.as_str());
                (*pool, Some((name.at, name.key.as_str())))
            }
            None => {
                unknown_pool(&name.value, name.at, &name.key, pools, used, sink);
                return None;
            }
        },
    };
    let backends = assemble_backends(service, pool, at, own, sink);
    idle_weights(service, pool, sink);
    let policy = policy(service, pool, sink);
    let whole = backends.len() == pool.backends.len() && pool.complete;
    let listeners = traffic::listeners(service, sink);
    traffic::source(service, &backends, sink);
    traffic::queue(service, pool, &backends, sink);
    let heard = !listeners.is_empty() || service.http.is_some();
    if !whole || !heard || at.is_some() != pool.name.is_some() {
        return None;
    }
    Some(ServiceSpec {
        name: service.name.clone()?,
        listeners,
        scheduler: service.scheduler,
        pool: pool.name.clone(),
        backends,
        connect: ConnectSpec {
            source: service.connect_source.value.clone(),
            ..service.connect.clone()
        },
        policy,
        timeouts: service.timeouts,
        keepalive: service.keepalive,
        queue: service.queue.spec,
        framing: service.framing,
        http: service.http.as_ref().map(|http| Arc::new(http::spec(http))),
    })
}

fn unknown_pool<'a>(
    name: &str,
    at: Span,
    key: &str,
    pools: &Pools<'a>,
    used: &mut HashSet<&'a str>,
    sink: &mut Sink<'_>,
) {
    let mut message = format!("unknown pool {}", shown(name));
    let labels = || pools.all.iter().map(|pool| pool.label.as_str());
    let help = if let Some(near) = nearest(name, labels()) {
        message.push_str(&format!("; did you mean {}?", shown(near)));
        // It is meant, so it is not unused.
        used.insert(near);
        String::new()
    } else if pools.all.is_empty() {
        format!("there are no pools yet; write `[pools.{name}]` with `backends`")
    } else {
        let known: Vec<_> = labels().take(10).map(shown).collect();
        let more = if pools.all.len() > known.len() {
            ", …"
        } else {
            ""
        };
        format!("known pools: {}{more}", known.join(", "))
    };
    sink.missing(at, key, message, help);
}

/// Weights other than 0 and 1 that nothing looks at.
fn idle_weights(service: &Service, pool: &Pool, sink: &mut Sink<'_>) {
    let idle = |weight: &Got<u16>| weight.good && weight.value > 1;
    let (how, with_weights) = match service.scheduler {
        Scheduler::Rr => ("takes turns", "wrr"),
        Scheduler::Lc => ("counts connections", "wlc"),
        Scheduler::Wrr | Scheduler::Wlc | Scheduler::SourceHash => return,
    };
    if let Some(backend) = pool.backends.iter().find(|backend| idle(&backend.weight)) {
        let message = format!(
            "service {} {how} without looking at weights, such as {} of backend {}",
            shown(&service.label),
            backend.weight.value,
            shown(&backend.address.to_string())
        );
        sink.warning(
            service.at,
            &service.key,
            message,
            format!("write `scheduler = \"{with_weights}\"` to use them"),
        );
    }
}
