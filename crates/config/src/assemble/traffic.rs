//! Who may connect, how connections look to backends, and who waits: what of it must fit together.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use evenkeel_plan::{
    AcceptProxySpec, Address, AdmissionSpec, BackendSpec, CheckKind, ListenerSpec, Network,
    RateSpec, SourceSpec,
};

use crate::problem::{Sink, Span, shown};
use crate::written::{Admission, Listener, Pool, Rate, Service};

/// The listeners of `service`.
pub(super) fn listeners(service: &Service, sink: &mut Sink<'_>) -> Vec<ListenerSpec> {
    bursts(service, |admission| &admission.rate, "rate", sink);
    bursts(
        service,
        |admission| &admission.source_rate,
        "source_rate",
        sink,
    );
    let mut looked_at: Option<&Rc<Admission>> = None;
    let mut specs = Vec::with_capacity(service.listeners.len());
    for listener in &service.listeners {
        let admission = &listener.admission;
        let again = looked_at.is_some_and(|before| Rc::ptr_eq(before, admission));
        if !again || admission.allow.value.is_empty() {
            cancel_out(service, listener, sink);
        }
        if !again {
            trusts_anybody(admission, sink);
        }
        looked_at = Some(admission);
        specs.push(ListenerSpec {
            address: listener.address,
            freebind: listener.freebind,
            backlog: listener.backlog,
            admission: spec(admission),
        });
    }
    specs
}

fn spec(admission: &Admission) -> AdmissionSpec {
    let from = admission.accept_proxy.value.clone();
    AdmissionSpec {
        allow: admission.allow.value.clone(),
        deny: admission.deny.value.clone(),
        max_connections: admission.max_connections.value,
        rate: rate(&admission.rate),
        source_rate: rate(&admission.source_rate),
        accept_proxy: (!from.is_empty()).then_some(AcceptProxySpec { from }),
    }
}

fn rate(rate: &Rate) -> Option<RateSpec> {
    let per_second = rate.per_second.value?;
    Some(RateSpec {
        per_second,
        burst: rate.burst.value.unwrap_or(per_second),
    })
}

/// A burst of which no listener has the rate.
fn bursts(service: &Service, of: impl Fn(&Admission) -> &Rate, name: &str, sink: &mut Sink<'_>) {
    let rates = || service.listeners.iter().map(|l| of(&l.admission));
    let with_rate: HashSet<Span> = rates()
        .filter(|rate| rate.per_second.value.is_some() || !rate.per_second.good)
        .filter_map(|rate| rate.burst.at)
        .collect();
    for rate in rates() {
        if let Some(at) = rate.burst.at
            && !with_rate.contains(&at)
        {
            let burst = rate.burst.key.rsplit('.').next().unwrap_or_default();
            let message = format!("`{burst}` without `{name}`: there is no rate to go beyond");
            let help = format!("write `{name}` too, in connections a second");
            sink.missing(at, &rate.burst.key, message, help);
        }
    }
}

/// `deny` has all that `allow` lets in.
fn cancel_out(service: &Service, listener: &Listener, sink: &mut Sink<'_>) {
    let Admission { allow, deny, .. } = &*listener.admission;
    let Some(at) = deny.at else {
        return;
    };
    let everybody = everybody(listener.address);
    let allowed = match allow.value.as_slice() {
        [] => everybody.as_slice(),
        some => some,
    };
    let denied = |network: &Network| deny.value.iter().any(|denied| denied.covers(network));
    if allow.good && deny.good && allowed.iter().all(denied) {
        let message = format!(
            "`deny` has all that may connect to service {}: nobody can",
            shown(&service.label)
        );
        let help = "`deny` holds also where `allow` has an address: take out what is to be let in";
        sink.warning(at, &deny.key, message, help);
    }
}

/// The addresses that can connect to `address` at all.
fn everybody(address: SocketAddr) -> Vec<Network> {
    let v4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let v6 = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    // A listener of IPv6 takes IPv6 only, `[::]` too.
    let whole = if address.is_ipv4() { v4 } else { v6 };
    Network::new(whole, 0).into_iter().collect()
}

fn trusts_anybody(admission: &Admission, sink: &mut Sink<'_>) {
    let proxies = &admission.accept_proxy;
    let all = proxies.value.iter().find(|network| network.bits() == 0);
    if let (Some(at), Some(all)) = (proxies.at, all) {
        let message = format!("`accept_proxy` trusts {all}: anybody can then claim any address");
        let help = "name only the proxies and balancers that stand before this one";
        sink.warning(at, &proxies.key, message, help);
    }
}

/// Whether the addresses that backends are to see can be used towards `backends`.
pub(super) fn source(service: &Service, backends: &[BackendSpec], sink: &mut Sink<'_>) {
    match &service.connect_source.value {
        SourceSpec::Kernel => {}
        SourceSpec::Addresses(addresses) => own_addresses(service, addresses, backends, sink),
        SourceSpec::Client => clients_addresses(service, backends, sink),
    }
}

fn own_addresses(
    service: &Service,
    addresses: &[IpAddr],
    backends: &[BackendSpec],
    sink: &mut Sink<'_>,
) {
    let Some(at) = service.connect_source.at else {
        return;
    };
    for (family, is_ipv4) in [("IPv4", true), ("IPv6", false)] {
        if addresses.iter().any(|ip| ip.is_ipv4() == is_ipv4) {
            continue;
        }
        let mut without = sockets(backends).filter(|(_, a)| a.is_ipv4() == is_ipv4);
        let Some((backend, address)) = without.next() else {
            continue;
        };
        let more = match without.count() {
            0 => String::new(),
            count => format!(" (and {count} more)"),
        };
        let message = format!(
            "`source` has no {family} address for backend {} ({address}){more} of service {}",
            shown(backend.name.as_str()),
            shown(&service.label)
        );
        let help = format!("add an {family} address of this host, or leave `source` out");
        sink.error(at, &service.connect_source.key, message, help);
    }
}

fn clients_addresses(service: &Service, backends: &[BackendSpec], sink: &mut Sink<'_>) {
    let got = &service.connect_source;
    let Some(at) = got.at else {
        return;
    };
    let mut listeners = service.listeners.iter();
    let other_family = listeners.find_map(|listener| {
        let proxied = !listener.admission.accept_proxy.value.is_empty();
        let ip = listener.address.ip();
        // A proxy may tell of clients of either family.
        if proxied {
            return None;
        }
        let mut all = sockets(backends);
        let (backend, address) = all.find(|(_, a)| a.is_ipv4() != ip.is_ipv4())?;
        Some((listener.address, backend, address))
    });
    if let Some((listener, backend, address)) = other_family {
        let message = format!(
            "clients of {listener} have {} addresses, which backend {} ({address}) cannot be shown",
            match listener.is_ipv4() {
                true => "IPv4",
                false => "IPv6",
            },
            shown(backend.name.as_str())
        );
        let help = "listen and forward in one family, or leave `source` out";
        sink.warning(at, &got.key, message, help);
    }

    let mut addresses: Vec<String> = Vec::new();
    let mut names: Vec<String> = Vec::new();
    let mut seen = HashSet::new();
    for backend in backends.iter().filter(|b| seen.insert(&b.address)) {
        match &backend.address {
            Address::Socket(address) => addresses.push(canonical(*address).to_string()),
            name @ (Address::Name { .. } | Address::Service { .. }) => {
                names.push(format!("`{name}`"));
            }
        }
    }
    if addresses.is_empty() && names.is_empty() {
        return;
    }
    let message = format!(
        "backends of service {} see the addresses of clients: they must send their answers through this host",
        shown(&service.label)
    );
    let command = format!("deploy/transparent-routes up {}", addresses.join(" "));
    let help = match (addresses.is_empty(), names.is_empty()) {
        (false, true) => format!("`{command}` sets up the routes of this host"),
        (false, false) => format!(
            "`{command}` sets up the routes of this host; add the addresses and ports of {}",
            names.join(", ")
        ),
        (true, _) => format!(
            "`{command}ADDRESS:PORT ...` sets up the routes of this host, with the addresses and ports of {}",
            names.join(", ")
        ),
    };
    sink.note(at, &got.key, message, help);
}

/// Backends that have an address and no name.
fn sockets(backends: &[BackendSpec]) -> impl Iterator<Item = (&BackendSpec, SocketAddr)> {
    backends.iter().filter_map(|backend| match backend.address {
        Address::Socket(address) => Some((backend, canonical(address))),
        Address::Name { .. } | Address::Service { .. } => None,
    })
}

fn canonical(mut address: SocketAddr) -> SocketAddr {
    address.set_ip(address.ip().to_canonical());
    address
}

/// A queue in which nothing ever waits.
pub(super) fn queue(service: &Service, pool: &Pool, backends: &[BackendSpec], sink: &mut Sink<'_>) {
    // An agent may say how many its server takes.
    let limited = |backend: &BackendSpec| {
        let check = backend.check.as_ref();
        let agent = check.is_some_and(|check| matches!(check.kind, CheckKind::Agent { .. }));
        backend.max_connections.is_some() || agent
    };
    if let Some((at, key)) = &service.queue.at
        && !backends.is_empty()
        && !backends.iter().any(limited)
    {
        let message = format!(
            "nothing ever waits in the queue of service {}: none of its backends has `max_connections`",
            shown(&service.label)
        );
        let place = match &pool.name {
            Some(name) => format!("`[pools.{name}]`"),
            None => "the service".to_owned(),
        };
        let help = format!(
            "write `backend_max_connections` in {place}, or `max_connections` in entries of `backends`"
        );
        sink.warning(*at, key, message, help);
    }
}
