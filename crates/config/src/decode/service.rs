//! Decoding of services: listeners, and where the backends come from.

use std::net::SocketAddr;

use evenkeel_plan::{ConnectSpec, Scheduler, ServiceName};
use toml::de::DeTable;

use super::Around;
use super::check::check;
use super::policy::policy;
use super::pool::{bad_name, pool};
use crate::fields::{Fields, Node};
use crate::problem::{Sink, shown};
use crate::schema::Section;
use crate::value::parse_listen;
use crate::written::{Listener, Service, Source};

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
    let source = if readable {
        source(&fields, &node, around, sink)
    } else {
        Source::Broken
    };
    let listeners = if readable {
        listeners(&fields, &node, sink)
    } else {
        Vec::new()
    };
    let connect = match fields.section("connect", Section::Connect, sink) {
        None => ConnectSpec::default(),
        Some(fields) => ConnectSpec {
            timeout: fields.duration("timeout", sink).value,
            attempts: u8::try_from(fields.integer("attempts", None, sink).value).unwrap_or(u8::MAX),
        },
    };
    Service {
        name,
        label,
        at: node.at,
        listeners,
        source,
        port: fields.port("port", sink),
        scheduler: match fields.choice("scheduler", sink) {
            "wrr" => Scheduler::Wrr,
            _ => Scheduler::Rr,
        },
        connect,
        policy: policy(&fields, sink),
        key: node.key,
    }
}

fn source(fields: &Fields<'_>, node: &Node<'_>, around: Around<'_>, sink: &mut Sink<'_>) -> Source {
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
            match pool_node.text(sink, "\"openhim\"") {
                Some(text) => Source::Named(pool_node.placed(text.to_owned())),
                None => Source::Broken,
            }
        }
        (None, Some(_)) => Source::Inline(pool(fields, None, label, around, sink)),
        (None, None) => {
            sink.missing(
                node.at,
                &node.key,
                format!("service {} has no backends", shown(label)),
                "write `backends = [\"10.0.0.2:80\"]`, or `pool = \"NAME\"` and a `[pools.NAME]`",
            );
            check(fields, None, around, sink);
            Source::Broken
        }
    }
}

fn listeners(fields: &Fields<'_>, service: &Node<'_>, sink: &mut Sink<'_>) -> Vec<Listener> {
    const RIGHT: &str = "write `listen = \"10.0.0.1:80\"`";
    let freebind = fields.boolean("freebind", None, sink).value;
    let backlog = fields.integer("backlog", None, sink).value;
    let Some(node) = fields.get("listen") else {
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
        .filter_map(|node| listener(&node, freebind, backlog, sink))
        .collect()
}

fn listener(
    node: &Node<'_>,
    freebind: bool,
    backlog: u32,
    sink: &mut Sink<'_>,
) -> Option<Listener> {
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
            freebind,
            backlog,
        });
    }
    let fields = node.fields(Section::Listen, sink)?;
    let freebind = fields.boolean("freebind", Some(freebind), sink).value;
    let backlog = fields.integer("backlog", Some(backlog), sink).value;
    let Some(address_node) = fields.get("address") else {
        let help = "write `{ address = \"10.0.0.1:80\" }`";
        sink.missing(node.at, &node.key, "a listener without `address`", help);
        return None;
    };
    Some(Listener {
        address: address_of(&address_node, sink)?,
        at: address_node.at,
        key: node.key.clone(),
        freebind,
        backlog,
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
