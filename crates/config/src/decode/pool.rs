//! Decoding of pools: backends and their check.

use std::collections::HashMap;

use evenkeel_plan::{self as plan, BackendName, NameError, PoolName};

use super::Around;
use super::check::check;
use crate::fields::{Fields, Node, article, narrow};
use crate::place::{Place, STEM_BYTES_MAX, parse_place};
use crate::problem::{Sink, Span, shown};
use crate::schema::Section;
use crate::written::{Backend, Got, Pool, port_of_srv};

pub(super) fn named_pool(node: Node<'_>, around: Around<'_>, sink: &mut Sink<'_>) -> Pool {
    let name = PoolName::new(node.label)
        .map_err(|error| bad_name(&node, "pool", error, sink))
        .ok();
    let Some(fields) = node.fields(Section::Pool, sink) else {
        return Pool {
            name,
            label: node.label.to_owned(),
            at: node.at,
            port: Got {
                value: None,
                at: None,
                good: false,
                key: node.key.clone(),
            },
            key: node.key,
            backends: Vec::new(),
            complete: false,
            check: None,
            backend_max_connections: None,
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
    pool(&fields, name, node.label, around, sink)
}

/// The keys that named pools and services have in common.
pub(super) fn pool(
    fields: &Fields<'_>,
    name: Option<PoolName>,
    label: &str,
    around: Around<'_>,
    sink: &mut Sink<'_>,
) -> Pool {
    let (backends, complete) = backends(fields, label, sink);
    // A service's own `port` goes over everything and is looked at with it.
    let port = match fields.section {
        Section::Pool => fields.port("port", sink),
        _ => fields.absent("port", None),
    };
    let check = check(fields, members(&backends), around, sink);
    let backend_max_connections = fields.number("backend_max_connections", sink).value;
    let pool = Pool {
        name,
        label: label.to_owned(),
        at: fields.at,
        key: fields.key.clone(),
        backends,
        complete,
        port,
        check,
        backend_max_connections,
    };
    examine(&pool, sink);
    pool
}

/// How many servers `backends` are, those for emergencies left out. `None` when that is for a name server to say.
fn members(backends: &[Backend]) -> Option<u16> {
    let service = |backend: &Backend| matches!(backend.address, Place::Service { .. });
    if backends.iter().any(service) {
        return None;
    }
    let count = backends.iter().filter(|backend| !backend.backup.value);
    u16::try_from(count.count()).ok()
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
        match parse_place(text) {
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
        let address = address_of(node, sink)?;
        if !stem_fits(&address, node, sink) {
            return None;
        }
        return Some(Backend {
            name: None,
            address,
            at: node.at,
            key: node.key.clone(),
            weight: Got {
                value: 1,
                at: None,
                good: true,
                key: node.key.clone(),
            },
            backup: Got {
                value: false,
                at: None,
                good: true,
                key: node.key.clone(),
            },
            max_connections: None,
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
    let backup = fields.boolean("backup", None, sink);
    let max_connections = fields.number("max_connections", sink).value;
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
    if fields.get("name").is_none() && !stem_fits(&address, &address_node, sink) {
        return None;
    }
    (!name_is_bad).then_some(Backend {
        name,
        address,
        at: address_node.at,
        key: node.key.clone(),
        weight,
        backup,
        max_connections,
    })
}

fn stem_fits(address: &Place, node: &Node<'_>, sink: &mut Sink<'_>) -> bool {
    let fits = address.stem().len() <= STEM_BYTES_MAX;
    if !fits {
        let text = address.to_string();
        let message = format!("{} is too long to be the backend's name", shown(&text));
        let help = "give it one: `{ name = \"b1\", address = \"…\" }`";
        sink.missing(node.at, &node.key, message, help);
    }
    fits
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

    let all_backup = pool
        .backends
        .iter()
        .all(|b| b.backup.good && b.backup.value);
    if pool.complete
        && all_backup
        && let Some((at, backup)) = pool
            .backends
            .first()
            .and_then(|b| Some((b.backup.at?, &b.backup)))
    {
        let message = format!("all backends of {} are `backup`", shown(&pool.label));
        let help = "a backup stands in for others: leave `backup` out of at least one";
        sink.error(at, &backup.key, message, help);
    }
    if let (Some(at), Some(service)) = (pool.port.at, pool.srv_name()) {
        port_of_srv(at, &pool.port.key, service, sink);
    }

    let mut names: HashMap<&BackendName, Span> = HashMap::new();
    let mut addresses: HashMap<(plan::Address, bool), Span> = HashMap::new();
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
        let place = backend.address.identity(pool.port.value);
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

pub(super) fn bad_name(node: &Node<'_>, what: &str, error: NameError, sink: &mut Sink<'_>) {
    let message = format!("{} cannot be the name of a {what}", shown(node.label));
    sink.error(node.at, &node.key, message, error.to_string());
}
