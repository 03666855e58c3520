//! What the user wrote to a [`Spec`]: what must fit together.
//!
//! Values that could not be read are already reported and not here; nothing is said again about them.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use evenkeel_plan::{
    BackendName, BackendSpec, CheckSpec, Globals, ListenerSpec, NAME_BYTES_MAX, Scheduler,
    ServiceSpec, Spec,
};

use crate::host::Host;
use crate::own::{Own, listeners};
use crate::problem::{Sink, Span, shown};
use crate::suggest::nearest;
use crate::written::{Backend, Got, Pool, Service, Source, Written};

/// Ports that OpenHIM uses for itself.
const OPENHIM_INTERNAL: [(u16, &str); 2] = [(7786, "rerun"), (7788, "polling")];

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
            limits: written.limits.spec,
            watchdog: written.watchdog,
            user: written.user,
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
    let (pool, at) = match &service.source {
        Source::Broken => return None,
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
    let whole = backends.len() == pool.backends.len() && pool.complete;
    let listeners: Vec<ListenerSpec> = service
        .listeners
        .iter()
        .map(|listener| ListenerSpec {
            address: listener.address,
            freebind: listener.freebind,
            backlog: listener.backlog,
        })
        .collect();
    if !whole || listeners.is_empty() || at.is_some() != pool.name.is_some() {
        return None;
    }
    Some(ServiceSpec {
        name: service.name.clone()?,
        listeners,
        scheduler: service.scheduler,
        pool: pool.name.clone(),
        backends,
        connect: service.connect,
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

fn assemble_backends(
    service: &Service,
    pool: &Pool,
    pool_at: Option<(Span, &str)>,
    own: &Own<'_>,
    sink: &mut Sink<'_>,
) -> Vec<BackendSpec> {
    if !service.port.good {
        return Vec::new();
    }
    let port_of = |backend: &Backend| {
        let own = backend.address.port();
        service.port.value.or(own).or(pool.port)
    };
    let portless: Vec<_> = pool
        .backends
        .iter()
        .filter(|b| port_of(b).is_none())
        .collect();
    if let Some(first) = portless.first() {
        let (at, key) = pool_at.unwrap_or((first.at, first.key.as_str()));
        missing_port(service, pool, first, portless.len(), at, key, sink);
    }

    let names = names(&pool.backends);
    let mut places: HashMap<SocketAddr, &Backend> = HashMap::new();
    let mut specs = Vec::with_capacity(pool.backends.len());
    for (backend, name) in pool.backends.iter().zip(names) {
        let Some(port) = port_of(backend) else {
            continue;
        };
        let address = backend.address.with_port(port);
        let (at, key) = match service.port.at {
            Some(at) => (at, service.port.key.as_str()),
            None => (backend.at, backend.key.as_str()),
        };
        if let Some(owner) = own.serves(address) {
            let message = format!(
                "backend {} ({address}) of service {} is a listener of service {}: connections would go in a circle",
                shown(name.as_str()),
                shown(&service.label),
                shown(owner),
            );
            sink.error(at, key, message, "name the server's own address and port");
        }
        for (internal, what) in OPENHIM_INTERNAL {
            if port == internal {
                let message = format!(
                    "port {port} is OpenHIM's own {what} port: it trusts what the request says of its client"
                );
                sink.warning(
                    at,
                    key,
                    message,
                    "forward to a transaction port, usually 5000 or 5001",
                );
            }
        }
        if let (Some(port), Some(first)) = (service.port.value, places.insert(address, backend))
            && first.address.port() != backend.address.port()
        {
            let message = format!(
                "with `port = {port}` the backends {} and {} are the same address",
                first.address, backend.address
            );
            sink.warning(at, key, message, "remove one, or leave `port` out");
        }
        specs.push(BackendSpec {
            name,
            address,
            weight: backend.weight.value,
            check: pool.check.map(|check| CheckSpec {
                kind: check.kind,
                target: backend.address.with_port(check.port.unwrap_or(port)),
                interval: check.interval,
                timeout: check.timeout,
                rise: check.rise,
                fall: check.fall,
                jitter_percent: check.jitter_percent,
            }),
        });
    }
    specs
}

fn missing_port(
    service: &Service,
    pool: &Pool,
    first: &Backend,
    count: usize,
    at: Span,
    key: &str,
    sink: &mut Sink<'_>,
) {
    let more = match count {
        1 => String::new(),
        count => format!(" (and {} more)", count - 1),
    };
    let message = format!(
        "backend {}{more} of service {} has no port",
        shown(&first.address.to_string()),
        shown(&service.label)
    );
    let with_port = first.address.with_port(80);
    let help = match &pool.name {
        Some(name) => {
            format!("write `\"{with_port}\"`, or `port = 80` in the service or in `[pools.{name}]`")
        }
        None => format!("write `\"{with_port}\"`, or `port = 80` in the service"),
    };
    sink.missing(at, key, message, help);
}

/// Weights other than 0 and 1 that nothing looks at.
fn idle_weights(service: &Service, pool: &Pool, sink: &mut Sink<'_>) {
    let idle = |weight: &Got<u16>| weight.good && weight.value > 1;
    if service.scheduler == Scheduler::Rr
        && let Some(backend) = pool.backends.iter().find(|backend| idle(&backend.weight))
    {
        let message = format!(
            "service {} takes turns without looking at weights, such as {} of backend {}",
            shown(&service.label),
            backend.weight.value,
            shown(&backend.address.to_string())
        );
        sink.warning(
            service.at,
            &service.key,
            message,
            "write `scheduler = \"wrr\"` to use them",
        );
    }
}

/// A name for every backend: its own, else its address as it was written, with the port where that was. A name must not depend
/// on the other backends: its connections and totals go with it.
fn names(backends: &[Backend]) -> Vec<BackendName> {
    let given = backends.iter().filter_map(|backend| backend.name.as_ref());
    let mut taken: HashSet<String> = given.map(|name| name.value.to_string()).collect();
    let mut counts: HashMap<String, usize> = HashMap::new();
    let mut name_of = |backend: &Backend| {
        if let Some(name) = &backend.name {
            return name.value.clone();
        }
        let ip = backend.address.ip();
        let stem = match backend.address.port() {
            Some(port) => format!("{ip}-{port}"),
            None => ip.to_string(),
        };
        let stem = stem.replace(':', "-");
        // A name starts with a letter or digit: `::1` is `0::1`.
        let stem = if stem.starts_with('-') {
            format!("0{stem}")
        } else {
            stem
        };
        // Counted on from the last of the same stem: thousands of equal addresses must not take quadratic time.
        let count = counts.entry(stem.clone()).or_insert(0_usize);
        let name = loop {
            *count += 1;
            let name = match *count {
                1 => stem.clone(),
                count => format!("{stem}-{count}"),
            };
            if taken.insert(name.clone()) {
                break name;
            }
        };
        BackendName::new(name).unwrap_or_else(|error| unreachable!("made of digits: {error}"))
    };
    // The longest IPv6 address, a port, a count.
    const { assert!(39 + 1 + 5 + 1 + 10 < NAME_BYTES_MAX) };
    backends.iter().map(&mut name_of).collect()
}

/// What there is against what `limits` allow.
fn capacities(written: &Written, services: &[ServiceSpec], sink: &mut Sink<'_>) {
    let limits = &written.limits;
    let count = |count: usize, limit: &Got<u32>, what: &str| {
        let limit_value = usize::try_from(limit.value).unwrap_or(usize::MAX);
        (limit.good && count > limit_value).then(|| {
            (
                format!("{count} {what}, but `{}` is {}", limit.key, limit.value),
                format!("raise `{}`; it is fixed while the daemon runs", limit.key),
            )
        })
    };
    let at_service = |index: usize| {
        let last = written.services.len().saturating_sub(1);
        let service = written.services.get(index.min(last));
        service.map_or(limits.services.at, |service| Some(service.at))
    };
    // The first service that goes beyond, where the limit itself is not written.
    let beyond = |limit: u32, of: &dyn Fn(&ServiceSpec) -> usize| {
        let mut sum = 0;
        services.iter().position(|service| {
            sum += of(service);
            u32::try_from(sum).is_ok_and(|sum| sum > limit)
        })
    };
    let listeners_of = |service: &ServiceSpec| service.listeners.len();
    let backends_of = |service: &ServiceSpec| service.backends.len();
    let found = [
        (
            &limits.services,
            count(written.services.len(), &limits.services, "services"),
            usize::try_from(limits.services.value).ok(),
        ),
        (
            &limits.listeners,
            count(
                services.iter().map(listeners_of).sum(),
                &limits.listeners,
                "listening addresses",
            ),
            beyond(limits.listeners.value, &listeners_of),
        ),
        (
            &limits.backends,
            count(
                services.iter().map(backends_of).sum(),
                &limits.backends,
                "backends",
            ),
            beyond(limits.backends.value, &backends_of),
        ),
    ];
    for (limit, problem, index) in found {
        if let Some((message, help)) = problem {
            let at = limit
                .at
                .or_else(|| at_service(index.unwrap_or(0)))
                .unwrap_or(TOP);
            sink.error(at, &limit.key, message, help);
        }
    }
}
