//! Decoding of pools: backends and their check.

use std::collections::HashMap;
use std::net::IpAddr;

use evenkeel_plan::{BackendName, CheckKind, NameError, PoolName};
use toml::de::{DeTable, DeValue};

use crate::fields::{Fields, Node, article, narrow};
use crate::problem::{Sink, Span, shown};
use crate::schema::Section;
use crate::suggest::unknown_word;
use crate::value::{Address, DurationText, parse_address};
use crate::written::{Backend, Check, Got, Pool};

pub(crate) fn named_pool(node: Node<'_>, sink: &mut Sink<'_>) -> Pool {
    let name = PoolName::new(node.label)
        .map_err(|error| bad_name(&node, "pool", error, sink))
        .ok();
    let Some(fields) = node.fields(Section::Pool, sink) else {
        return Pool {
            name,
            label: node.label.to_owned(),
            at: node.at,
            key: node.key,
            backends: Vec::new(),
            complete: false,
            port: None,
            check: None,
        };
    };
    if fields.get("backends").is_none() {
        sink.missing(
            node.at,
            &node.key,
            format!("pool {} has no backends", shown(node.label)),
            "write `backends = [\"10.0.0.2:80\", \"10.0.0.3:80\"]`",
        );
    }
    let port = fields.port("port", sink).value;
    pool(&fields, name, node.label, port, sink)
}

/// The keys that named pools and services have in common.
pub(crate) fn pool(
    fields: &Fields<'_>,
    name: Option<PoolName>,
    label: &str,
    port: Option<u16>,
    sink: &mut Sink<'_>,
) -> Pool {
    let (backends, complete) = backends(fields, label, sink);
    let pool = Pool {
        name,
        label: label.to_owned(),
        at: fields.at,
        key: fields.key.clone(),
        backends,
        complete,
        port,
        check: check(fields, sink),
    };
    examine(&pool, sink);
    pool
}

fn backends(fields: &Fields<'_>, label: &str, sink: &mut Sink<'_>) -> (Vec<Backend>, bool) {
    const RIGHT: &str = "write `backends = [\"10.0.0.2:80\", \"10.0.0.3:80\"]`";
    let Some(node) = fields.get("backends") else {
        return (Vec::new(), false);
    };
    let Some(array) = node.value.as_array() else {
        let found = article(node.value);
        node.error(
            sink,
            format!("expected an array of backends, found {found}"),
            RIGHT,
        );
        return (Vec::new(), false);
    };
    let limit = usize::from(u16::MAX);
    if array.is_empty() {
        let message = format!("{} has no backends", shown(label));
        sink.missing(node.at, &node.key, message, RIGHT);
        return (Vec::new(), false);
    }
    if array.len() > limit {
        let message = format!("{} backends, at most {limit} are possible", array.len());
        node.error(sink, message, "divide them over several services");
        return (Vec::new(), false);
    }
    let backends: Vec<Backend> = node
        .one_or_many()
        .filter_map(|node| backend(&node, sink))
        .collect();
    let complete = backends.len() == array.len();
    (backends, complete)
}

fn backend(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<Backend> {
    const SHORT: &str = "\"10.0.0.2:80\"";
    let address_of = |node: &Node<'_>, sink: &mut Sink<'_>| {
        let text = node.text(sink, SHORT)?;
        match backend_address(text) {
            Ok(address) => Some(address),
            Err((message, help)) => {
                node.error(sink, message, help);
                None
            }
        }
    };
    if !node.value.is_table() {
        if !node.value.is_str() {
            let found = article(node.value);
            let message = format!("expected a string such as `{SHORT}` or a table, found {found}");
            node.error(
                sink,
                message,
                "a table is `{ name = \"b1\", address = \"10.0.0.2:80\" }`",
            );
            return None;
        }
        return Some(Backend {
            name: None,
            address: address_of(node, sink)?,
            at: node.at,
            key: node.key.clone(),
            weight: Got {
                value: 1,
                at: None,
                good: true,
                key: node.key.clone(),
            },
        });
    }
    let fields = node.fields(Section::Backend, sink)?;
    let name = fields.get("name").and_then(|node| {
        let text = node.text(sink, "\"openhim-1\"")?;
        match BackendName::new(text) {
            Ok(name) => Some(node.placed(name)),
            Err(error) => {
                bad_name(
                    &Node {
                        label: text,
                        ..node
                    },
                    "backend",
                    error,
                    sink,
                );
                None
            }
        }
    });
    let name_is_bad = fields.get("name").is_some() && name.is_none();
    let weight = fields.integer("weight", None, sink).map(narrow);
    let Some(address_node) = fields.get("address") else {
        sink.missing(
            node.at,
            &node.key,
            "a backend without `address`",
            "write `{ address = \"10.0.0.2:80\" }`",
        );
        return None;
    };
    let address = address_of(&address_node, sink)?;
    (!name_is_bad).then_some(Backend {
        name,
        address,
        at: address_node.at,
        key: node.key.clone(),
        weight,
    })
}

fn backend_address(text: &str) -> Result<Address, (String, String)> {
    let address = parse_address(text)?;
    let ip = address.ip();
    let shown = shown(text);
    if address.port() == Some(0) {
        return Err((
            format!("{shown} has port 0, which cannot be connected to"),
            "a port is 1 to 65535; leave it out to take the one of the pool or service".to_owned(),
        ));
    }
    let broadcast = match ip {
        IpAddr::V4(ip) => ip.is_broadcast(),
        IpAddr::V6(_) => false,
    };
    if ip.is_unspecified() || ip.is_multicast() || broadcast {
        return Err((
            format!("{shown} is not the address of a server"),
            "write the address of one host; for this host `127.0.0.1`".to_owned(),
        ));
    }
    Ok(address)
}

/// What can be said of a pool on its own.
fn examine(pool: &Pool, sink: &mut Sink<'_>) {
    let weights = pool.backends.iter().map(|backend| &backend.weight);
    if pool.complete
        && weights
            .clone()
            .all(|weight| weight.good && weight.value == 0)
    {
        let first = weights
            .clone()
            .find_map(|weight| Some((weight.at?, &weight.key)));
        if let Some((at, key)) = first {
            sink.error(
                at,
                key,
                format!(
                    "all backends of {} have weight 0: none would get a connection",
                    shown(&pool.label)
                ),
                "give at least one a weight of 1 or more",
            );
        }
    }

    let mut names: HashMap<&BackendName, Span> = HashMap::new();
    let mut addresses: HashMap<(IpAddr, Option<u16>), Span> = HashMap::new();
    for backend in &pool.backends {
        if let Some(name) = &backend.name {
            if let Some(first) = names.get(&name.value) {
                let message = format!("duplicate backend name {}", shown(name.value.as_str()));
                let help = format!(
                    "the first is in line {}; names are unique in a pool",
                    sink.line(*first)
                );
                sink.error(name.at, &name.key, message, help);
            } else {
                names.insert(&name.value, name.at);
            }
        }
        let place = (
            backend.address.ip().to_canonical(),
            backend.address.port().or(pool.port),
        );
        if let Some(first) = addresses.get(&place) {
            let message = format!(
                "duplicate backend address {}",
                shown(&backend.address.to_string())
            );
            let help = format!(
                "the first is in line {}; one server with more share has a `weight` under `wrr`",
                sink.line(*first)
            );
            sink.warning(backend.at, &backend.key, message, help);
        } else {
            addresses.insert(place, backend.at);
        }
    }
}

pub(crate) fn check(fields: &Fields<'_>, sink: &mut Sink<'_>) -> Option<Check> {
    let empty = DeTable::new();
    let defaults = Fields::empty(&empty, Section::Check, "check");
    let Some(node) = fields.get("check") else {
        return check_table(&defaults, sink);
    };
    match node.value {
        DeValue::String(text) => {
            let words = defaults.words("kind");
            if words.contains(&text.as_ref()) {
                (text != "none")
                    .then(|| check_table(&defaults, sink))
                    .flatten()
            } else {
                unknown_word(&node, "check", text, words, sink);
                None
            }
        }
        DeValue::Table(_) => {
            let fields = node.fields(Section::Check, sink)?;
            check_table(&fields, sink)
        }
        other => {
            let found = article(other);
            let message = format!("expected a string such as `\"tcp\"` or a table, found {found}");
            node.error(
                sink,
                message,
                "`\"tcp\"`, `\"none\"`, or `{ interval = \"2s\", timeout = \"1s\" }`",
            );
            None
        }
    }
}

fn check_table(fields: &Fields<'_>, sink: &mut Sink<'_>) -> Option<Check> {
    let kind = fields.choice("kind", sink);
    let port = fields.port("port", sink).value;
    let interval = fields.duration("interval", sink);
    let mut timeout = fields.duration("timeout", sink);
    if timeout.at.is_none() {
        timeout.value = timeout.value.min(interval.value);
    }
    if let Some(at) = timeout.at
        && timeout.good
        && interval.good
        && timeout.value > interval.value
    {
        sink.error(
            at,
            &timeout.key,
            format!(
                "the time-out {} is longer than the interval {}",
                DurationText(timeout.value),
                DurationText(interval.value)
            ),
            format!(
                "a time-out of at most `\"{}\"`, or an interval of at least `\"{}\"`",
                DurationText(interval.value),
                DurationText(timeout.value)
            ),
        );
    }
    let check = Check {
        kind: CheckKind::Tcp,
        port,
        interval: interval.value,
        timeout: timeout.value,
        rise: narrow(fields.integer("rise", None, sink).value),
        fall: narrow(fields.integer("fall", None, sink).value),
        jitter_percent: fields.percent("jitter", sink),
    };
    (kind != "none").then_some(check)
}

pub(crate) fn bad_name(node: &Node<'_>, what: &str, error: NameError, sink: &mut Sink<'_>) {
    let message = format!("{} cannot be the name of a {what}", shown(node.label));
    sink.error(node.at, &node.key, message, error.to_string());
}
