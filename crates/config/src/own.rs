//! The daemon's own addresses: which overlap, and which a backend must not be.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::host::Host;
use crate::problem::{Sink, Span, shown};
use crate::written::{Listener, Written};

/// Every listening address, to find overlaps and loops.
#[derive(Default)]
pub(crate) struct Own<'a> {
    by_port: HashMap<u16, OnPort<'a>>,
    /// Specific addresses of any listener: they are this host's.
    ips: HashSet<IpAddr>,
}

/// The addresses on one port, with the place and the owner of each.
#[derive(Default)]
struct OnPort<'a> {
    specific: HashMap<IpAddr, (Span, &'a str)>,
}

impl<'a> Own<'a> {
    /// Adds `address`; returns whom it overlaps with instead.
    fn add(
        &mut self,
        address: SocketAddr,
        at: Span,
        owner: &'a str,
    ) -> Option<(IpAddr, Span, &'a str)> {
        let ip = address.ip().to_canonical();
        if !ip.is_unspecified() {
            self.ips.insert(ip);
        }
        let on_port = self.by_port.entry(address.port()).or_default();
        if let Some((other, place)) = on_port.overlap(ip) {
            return Some((other, place.0, place.1));
        }
        on_port.specific.insert(ip, (at, owner));
        None
    }

    /// The service that a connection to `address` would come back to.
    pub(crate) fn serves(&self, address: SocketAddr) -> Option<&'a str> {
        let on_port = self.by_port.get(&address.port())?;
        let ip = address.ip().to_canonical();
        if let Some((_, owner)) = on_port.specific.get(&ip) {
            return (*owner != METRICS).then_some(*owner);
        }
        let here = ip.is_loopback() || self.ips.contains(&ip);
        let any = [
            Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
            ip.is_ipv4().then_some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        ];
        let found = any
            .into_iter()
            .flatten()
            .find_map(|any| on_port.specific.get(&any));
        found
            .filter(|_| here)
            .map(|(_, owner)| *owner)
            .filter(|owner| *owner != METRICS)
    }
}

impl<'a> OnPort<'a> {
    /// An address that cannot be bound together with `ip`: the same, or one of them stands for all. `::` takes IPv4 too.
    fn overlap(&self, ip: IpAddr) -> Option<(IpAddr, (Span, &'a str))> {
        let get = |ip: IpAddr| self.specific.get(&ip).map(|place| (ip, *place));
        let first = |family: fn(&IpAddr) -> bool| {
            let all = self.specific.iter().filter(|(ip, _)| family(ip));
            all.min_by_key(|(_, (at, _))| *at)
                .map(|(ip, place)| (*ip, *place))
        };
        let found = get(ip).or_else(|| get(IpAddr::V6(Ipv6Addr::UNSPECIFIED)));
        match ip {
            IpAddr::V6(ip) if ip.is_unspecified() => found.or_else(|| first(|_| true)),
            IpAddr::V6(_) => found,
            IpAddr::V4(ip) if ip.is_unspecified() => found.or_else(|| first(IpAddr::is_ipv4)),
            IpAddr::V4(_) => found.or_else(|| get(IpAddr::V4(Ipv4Addr::UNSPECIFIED))),
        }
    }
}

/// Owner of the metrics addresses; not a name that a service can have.
const METRICS: &str = "[metrics]";

pub(crate) fn listeners<'a>(written: &'a Written, host: &Host, sink: &mut Sink<'_>) -> Own<'a> {
    let mut own = Own::default();
    for service in &written.services {
        let mut any_port: HashSet<IpAddr> = HashSet::new();
        for listener in &service.listeners {
            let address = listener.address;
            if address.port() == 0 {
                if !any_port.insert(address.ip().to_canonical()) {
                    let message = format!("{address} is in `listen` twice");
                    let help = "with port 0 the address is how the two would be told apart";
                    sink.error(listener.at, &listener.key, message, help);
                }
                continue;
            }
            ephemeral(listener, host, sink);
            if let Some(other) = own.add(address, listener.at, &service.label) {
                let message = overlap_message(address, other);
                let help = overlap_help(other, sink);
                sink.error(listener.at, &listener.key, message, help);
            }
        }
    }
    for listen in written
        .metrics
        .iter()
        .filter(|listen| listen.value.port() != 0)
    {
        if let Some(other) = own.add(listen.value, listen.at, METRICS) {
            let message = overlap_message(listen.value, other);
            let help = overlap_help(other, sink);
            sink.error(listen.at, &listen.key, message, help);
        }
    }
    own
}

fn overlap_message(address: SocketAddr, (ip, _, owner): (IpAddr, Span, &str)) -> String {
    let whose = match owner {
        METRICS => "of the metrics".to_owned(),
        owner => format!("of service {}", shown(owner)),
    };
    if ip == address.ip().to_canonical() {
        format!("{address} is already an address {whose}")
    } else {
        let other = SocketAddr::new(ip, address.port());
        format!("{address} overlaps with {other} {whose}")
    }
}

fn overlap_help((ip, at, _): (IpAddr, Span, &str), sink: &Sink<'_>) -> String {
    let why = match ip {
        ip if !ip.is_unspecified() => "",
        IpAddr::V4(_) => "; 0.0.0.0 takes all IPv4 addresses",
        IpAddr::V6(_) => "; [::] takes all addresses, IPv4 too",
    };
    format!(
        "the first is in line {}{why}; choose another port or address",
        sink.line(at)
    )
}

fn ephemeral(listener: &Listener, host: &Host, sink: &mut Sink<'_>) {
    let port = listener.address.port();
    if host.may_be_taken(port) {
        sink.warning(
            listener.at,
            &listener.key,
            format!("port {port} is one that the kernel gives to outgoing connections: it may be taken at the next start"),
            format!("reserve it: `sysctl net.ipv4.ip_local_reserved_ports={port}`, added to those already there"),
        );
    }
}
