//! Decoding of who may connect to a listener, and how often.

use std::rc::Rc;

use evenkeel_plan::{NETWORKS_MAX, Network, NetworkError};

use crate::fields::{Fields, Node};
use crate::problem::{Sink, shown};
use crate::written::{Admission, Got, Rate};

/// Keys of a service that hold for each of its listeners, and of an entry of `listen`.
const KEYS: [&str; 8] = [
    "allow",
    "deny",
    "max_connections",
    "rate",
    "rate_burst",
    "source_rate",
    "source_burst",
    "accept_proxy",
];

/// What a service says for all of its listeners.
pub(super) fn of_service(fields: &Fields<'_>, sink: &mut Sink<'_>) -> Rc<Admission> {
    Rc::new(admission(fields, sink))
}

/// What an entry of `listen` says; what it does not say is as in `service`.
pub(super) fn of_listener(
    fields: &Fields<'_>,
    service: &Rc<Admission>,
    sink: &mut Sink<'_>,
) -> Rc<Admission> {
    if KEYS.iter().all(|key| fields.get(key).is_none()) {
        return Rc::clone(service);
    }
    let own = admission(fields, sink);
    Rc::new(Admission {
        allow: over(own.allow, &service.allow),
        deny: over(own.deny, &service.deny),
        max_connections: over(own.max_connections, &service.max_connections),
        rate: over_rate(own.rate, &service.rate),
        source_rate: over_rate(own.source_rate, &service.source_rate),
        accept_proxy: over(own.accept_proxy, &service.accept_proxy),
    })
}

fn over<T: Clone>(own: Got<T>, service: &Got<T>) -> Got<T> {
    match own.at {
        Some(_) => own,
        None => service.clone(),
    }
}

fn over_rate(own: Rate, service: &Rate) -> Rate {
    Rate {
        per_second: over(own.per_second, &service.per_second),
        burst: over(own.burst, &service.burst),
    }
}

fn admission(fields: &Fields<'_>, sink: &mut Sink<'_>) -> Admission {
    let allow = networks(fields, "allow", sink);
    // Nobody knows whether it is meant to let in everybody or nobody.
    if let (true, true, Some(at)) = (allow.good, allow.value.is_empty(), allow.at) {
        let help = "leave it out to let everybody in, or name who may: `allow = \"10.0.0.0/8\"`";
        sink.missing(at, &allow.key, "`allow` has no network", help);
    }
    Admission {
        allow,
        deny: networks(fields, "deny", sink),
        max_connections: fields.number("max_connections", sink),
        rate: Rate {
            per_second: fields.number("rate", sink),
            burst: fields.number("rate_burst", sink),
        },
        source_rate: Rate {
            per_second: fields.number("source_rate", sink),
            burst: fields.number("source_burst", sink),
        },
        accept_proxy: networks(fields, "accept_proxy", sink),
    }
}

pub(super) fn networks(
    fields: &Fields<'_>,
    name: &'static str,
    sink: &mut Sink<'_>,
) -> Got<Vec<Network>> {
    let Some(node) = fields.get(name) else {
        return fields.absent(name, Vec::new());
    };
    if let Some(array) = node.value.as_array()
        && array.len() > NETWORKS_MAX
    {
        let message = format!(
            "{} networks, at most {NETWORKS_MAX} are possible",
            array.len()
        );
        node.error(sink, message, "put neighbours together into larger ones");
        return node.got(None, Vec::new());
    }
    let mut found = Vec::new();
    let mut good = true;
    for node in node.one_or_many() {
        match network(&node, sink) {
            // The same again says nothing new, and is not worth a word in a list that was put together from others.
            Some(network) if found.contains(&network) => {}
            Some(network) => found.push(network),
            None => good = false,
        }
    }
    node.got(good.then_some(found), Vec::new())
}

fn network(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<Network> {
    const RIGHT: &str =
        "write a network such as `\"10.0.0.0/8\"` or `\"fd00::/8\"`, or one address";
    let text = node.text(sink, "\"10.0.0.0/8\"")?;
    let error = match text.parse::<Network>() {
        Ok(network) => return Some(network),
        Err(error) => error,
    };
    let what = shown(text);
    let (message, help) = match error {
        NetworkError::Address if matches!(text, "all" | "any" | "*") => (
            format!("{what} is not a network"),
            "write `[\"0.0.0.0/0\", \"::/0\"]` for every address".to_owned(),
        ),
        NetworkError::Address => (format!("{what} is not a network"), RIGHT.to_owned()),
        NetworkError::Bits { max } => (
            format!("{what} has no usable prefix length"),
            format!("after the slash a number from 0 to {max}"),
        ),
        NetworkError::Host { network } => (
            format!("{what} has bits beyond its prefix"),
            host_help(text, &network),
        ),
    };
    node.error(sink, message, help);
    None
}

fn host_help(text: &str, network: &Network) -> String {
    let address = text.split('/').next().unwrap_or(text);
    format!("write `\"{network}\"` for the network, or `\"{address}\"` for the one address")
}
