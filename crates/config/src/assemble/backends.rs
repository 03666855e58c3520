//! Backends: ports, names, and what must not be forwarded to.

use std::collections::{HashMap, HashSet};

use evenkeel_plan::{Address, BackendName, BackendSpec, NAME_BYTES_MAX};

use crate::own::Own;
use crate::place::{Place, STEM_BYTES_MAX};
use crate::problem::{Sink, Span, shown};
use crate::written::{Backend, Pool, Service, port_of_srv};

/// Ports that OpenHIM uses for itself.
const OPENHIM_INTERNAL: [(u16, &str); 2] = [(7786, "rerun"), (7788, "polling")];

/// The backends of `service`, each with its port. `pool_at`: where a pool is named, if it is one.
pub(super) fn assemble_backends(
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
        service.port.value.or(own).or(pool.port.value)
    };
    let portless: Vec<_> = pool
        .backends
        .iter()
        .filter(|b| port_of(b).is_none() && pool.port.good)
        .filter(|b| !matches!(b.address, Place::Service { .. }))
        .collect();
    if let Some(first) = portless.first() {
        let (at, key) = pool_at.unwrap_or((first.at, first.key.as_str()));
        missing_port(service, pool, first, portless.len(), at, key, sink);
    }

    if let (Some(at), Some(service_name)) = (service.port.at, pool.srv_name()) {
        port_of_srv(at, &service.port.key, service_name, sink);
    }

    let names = names(&pool.backends);
    let mut places: HashMap<Address, &Backend> = HashMap::new();
    let mut specs = Vec::with_capacity(pool.backends.len());
    for (backend, name) in pool.backends.iter().zip(names) {
        let port = match &backend.address {
            // Its records say it.
            Place::Service { .. } => 0,
            _ => match port_of(backend) {
                Some(port) => port,
                None => continue,
            },
        };
        let address = backend.address.with_port(port);
        let (at, key) = match service.port.at {
            Some(at) => (at, service.port.key.as_str()),
            None => (backend.at, backend.key.as_str()),
        };
        if let Address::Socket(socket) = address
            && let Some(owner) = own.serves(socket)
        {
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
        if let (Some(port), Some(first)) =
            (service.port.value, places.insert(address.clone(), backend))
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
            backup: backend.backup.value,
            max_connections: backend.max_connections.or(pool.backend_max_connections),
            check: pool.check.clone(),
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
        let stem = backend.address.stem();
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
        BackendName::new(name).unwrap_or_else(|error| unreachable!("made for a name: {error}"))
    };
    // What decoding leaves for it is enough for a hyphen and the largest count.
    const { assert!(STEM_BYTES_MAX + 1 + 5 <= NAME_BYTES_MAX) };
    // The longest IPv6 address with a port.
    const { assert!(39 + 1 + 5 <= STEM_BYTES_MAX) };
    backends.iter().map(&mut name_of).collect()
}
