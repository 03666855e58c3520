//! Decoding of services: listeners, and where the backends come from.

use std::net::SocketAddr;
use std::rc::Rc;

use evenkeel_plan::{Scheduler, ServiceName};
use toml::de::DeTable;

use super::Around;
use super::check::check;
use super::http::{http, is_http};
use super::policy::policy;
use super::pool::{bad_name, pool};
use super::{admission, traffic};
use crate::fields::{Fields, Node};
use crate::problem::{Sink, shown};
use crate::schema::Section;
use crate::value::parse_listen;
use crate::written::{Admission, Listener, Service, Source};

pub(super) fn service(node: Node<'_>, around: Around<'_>, sink: &mut Sink<'_>) -> Service {
    let name = ServiceName::new(node.label)
        .map_err(|error| bad_name(&node, "service", error, sink))
        .ok();
    let empty = DeTable::new();
    let label = node.label.to_owned();
    let (fields, readable) = match node.fields(Section::Service, sink) {
        Some(fields) => (fields, true),
        None => (Fields::empty(&empty, Section::Service, &node.key), false),
    };
    let is_http = is_http(&fields, sink);
    let source = if readable {
        source(&fields, &node, is_http, around, sink)
    } else {
        Source::Broken
    };
    let listeners = if readable {
        listeners(&fields, &node, is_http, sink)
    } else {
        Vec::new()
    };
    Service {
        name,
        label,
        at: node.at,
        listeners,
        has_listen: fields.get("listen").is_some(),
        source,
        port: fields.port("port", sink),
        scheduler: match fields.choice("scheduler", sink) {
            "wrr" => Scheduler::Wrr,
            "lc" => Scheduler::Lc,
            "wlc" => Scheduler::Wlc,
            "source-hash" => Scheduler::SourceHash,
            _ => Scheduler::Rr,
        },
        connect: traffic::connect(&fields, sink),
        connect_source: traffic::source(&fields, sink),
        policy: policy(&fields, sink),
        timeouts: traffic::timeouts(&fields, sink),
        keepalive: traffic::keepalive(&fields, sink),
        queue: traffic::queue(&fields, sink),
        framing: traffic::framing(&fields, sink),
        http: http(&fields, node.label, is_http, around, sink),
        key: node.key,
    }
}

fn source(
    fields: &Fields<'_>,
    node: &Node<'_>,
    is_http: bool,
    around: Around<'_>,
    sink: &mut Sink<'_>,
) -> Source {
    let label = node.label;
    match (fields.get("pool"), fields.get("backends")) {
        (Some(pool_node), Some(inline)) => {
            inline.error(
                sink,
                format!("service {} has both `pool` and `backends`", shown(label)),
                "keep one of the two",
            );
            // What is written there is still looked at.
            pool(fields, None, label, around, sink);
            pool_node.text(sink, "\"openhim\"");
            Source::Broken
        }
        (Some(pool_node), None) => {
            if let Some(check_node) = fields.get("check") {
                let message = "a check goes with the backends, and these are in a pool";
                let help = "move it to the pool: `[pools.NAME.check]`";
                check_node.error(sink, message, help);
            }
            if let Some(limit_node) = fields.get("backend_max_connections") {
                let message = "a limit of backends goes with them, and these are in a pool";
                let help = "move it to the pool; the service's own limit is `max_connections`";
                limit_node.error(sink, message, help);
            }
            match pool_node.text(sink, "\"openhim\"") {
                Some(text) => Source::Named(pool_node.placed(text.to_owned())),
                None => Source::Broken,
            }
        }
        (None, Some(_)) => Source::Inline(pool(fields, None, label, around, sink)),
        // What no route takes is answered with 404.
        (None, None) if is_http && fields.get("routes").is_some() => Source::None,
        (None, None) => {
            const RIGHT: &str =
                "write `backends = [\"10.0.0.2:80\"]`, or `pool = \"NAME\"` and a `[pools.NAME]`";
            let help = match is_http {
                true => {
                    format!("{RIGHT}; or `[[services.NAME.routes]]` that lead to other services")
                }
                false => RIGHT.to_owned(),
            };
            let message = format!("service {} has no backends", shown(label));
            sink.missing(node.at, &node.key, message, help);
            check(fields, None, around, sink);
            fields.number("backend_max_connections", sink);
            Source::Broken
        }
    }
}

/// A service of HTTP may have none: then routes of others must lead to it.
fn listeners(
    fields: &Fields<'_>,
    service: &Node<'_>,
    is_http: bool,
    sink: &mut Sink<'_>,
) -> Vec<Listener> {
    const RIGHT: &str = "write `listen = \"10.0.0.1:80\"`";
    let freebind = fields.boolean("freebind", None, sink).value;
    let backlog = fields.integer("backlog", None, sink).value;
    let usual = Usual {
        freebind,
        backlog,
        admission: admission::of_service(fields, sink),
    };
    let Some(node) = fields.get("listen") else {
        if is_http {
            return Vec::new();
        }
        let message = format!("service {} has no `listen`", shown(service.label));
        sink.missing(service.at, &service.key, message, RIGHT);
        return Vec::new();
    };
    if node.value.as_array().is_some_and(|array| array.is_empty()) {
        let message = format!(
            "service {} has no address in `listen`",
            shown(service.label)
        );
        sink.missing(node.at, &node.key, message, RIGHT);
    }
    node.one_or_many()
        .filter_map(|node| listener(&node, &usual, sink))
        .collect()
}

/// What a service says for all of its listeners.
struct Usual {
    freebind: bool,
    backlog: u32,
    admission: Rc<Admission>,
}

fn listener(node: &Node<'_>, usual: &Usual, sink: &mut Sink<'_>) -> Option<Listener> {
    const SHORT: &str = "\"10.0.0.1:80\"";
    let address_of = |node: &Node<'_>, sink: &mut Sink<'_>| {
        let text = node.text(sink, SHORT)?;
        match listen_address(text) {
            Ok(address) => Some(address),
            Err((message, help)) => {
                node.error(sink, message, help);
                None
            }
        }
    };
    if !node.value.is_table() {
        return Some(Listener {
            address: address_of(node, sink)?,
            at: node.at,
            key: node.key.clone(),
            freebind: usual.freebind,
            backlog: usual.backlog,
            admission: Rc::clone(&usual.admission),
        });
    }
    let fields = node.fields(Section::Listen, sink)?;
    let freebind = fields.boolean("freebind", Some(usual.freebind), sink);
    let backlog = fields.integer("backlog", Some(usual.backlog), sink);
    let admission = admission::of_listener(&fields, &usual.admission, sink);
    let Some(address_node) = fields.get("address") else {
        let help = "write `{ address = \"10.0.0.1:80\" }`";
        sink.missing(node.at, &node.key, "a listener without `address`", help);
        return None;
    };
    Some(Listener {
        address: address_of(&address_node, sink)?,
        at: address_node.at,
        key: node.key.clone(),
        freebind: freebind.value,
        backlog: backlog.value,
        admission,
    })
}

fn listen_address(text: &str) -> Result<SocketAddr, (String, String)> {
    let address = parse_listen(text)?;
    if address.ip().is_multicast() {
        let message = format!("{} cannot be listened on with TCP", shown(text));
        return Err((message, "write an address of this host".to_owned()));
    }
    Ok(address)
}
