//! Decoding of `[resolve]`.

use std::net::SocketAddr;

use evenkeel_plan::ResolveSpec;

use crate::fields::{Fields, Node};
use crate::problem::{Sink, shown};
use crate::schema::Section;
use crate::value::{DurationText, parse_address};

/// Most name servers.
const SERVERS_MAX: usize = 8;

/// Port of name servers. RFC 1035 section 4.2.
const DNS_PORT: u16 = 53;

pub(super) fn resolve(root: &Fields<'_>, sink: &mut Sink<'_>) -> ResolveSpec {
    let Some(fields) = root.section("resolve", Section::Resolve, sink) else {
        return ResolveSpec::default();
    };
    let ttl_min = fields.duration("ttl_min", sink);
    let ttl_max = fields.duration("ttl_max", sink);
    if ttl_min.good && ttl_max.good && ttl_min.value > ttl_max.value {
        let (at, key) = match (ttl_max.at, ttl_min.at) {
            (Some(at), _) => (at, &ttl_max.key),
            (None, at) => (at.unwrap_or(fields.at), &ttl_min.key),
        };
        let (min, max) = (DurationText(ttl_min.value), DurationText(ttl_max.value));
        let message = format!("answers would be kept for at least {min} and at most {max}");
        let help = format!("make `ttl_max` `\"{min}\"` or more");
        sink.error(at, key, message, help);
    }
    ResolveSpec {
        servers: servers(&fields, sink),
        ttl_min: ttl_min.value,
        ttl_max: ttl_max.value,
        timeout: fields.duration("timeout", sink).value,
        retry: fields.duration("retry", sink).value,
    }
}

fn servers(fields: &Fields<'_>, sink: &mut Sink<'_>) -> Vec<SocketAddr> {
    let Some(node) = fields.get("servers") else {
        return Vec::new();
    };
    if let Some(array) = node.value.as_array()
        && array.len() > SERVERS_MAX
    {
        let message = format!(
            "{} name servers, at most {SERVERS_MAX} are possible",
            array.len()
        );
        node.error(sink, message, "keep the nearest");
        return Vec::new();
    }
    let mut servers = Vec::new();
    for node in node.one_or_many() {
        let Some(server) = server(&node, sink) else {
            continue;
        };
        if servers.contains(&server) {
            let message = format!("{server} is in `servers` twice");
            node.error(sink, message, "remove one of them");
        } else {
            servers.push(server);
        }
    }
    servers
}

fn server(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<SocketAddr> {
    const RIGHT: &str = "write an address such as `\"10.0.0.53\"` or `\"10.0.0.53:5353\"`";
    let text = node.text(sink, "\"10.0.0.53\"")?;
    let address = match parse_address(text) {
        Ok(address) => address,
        Err((message, _)) => {
            node.error(sink, message, RIGHT);
            return None;
        }
    };
    let server = address.with_port(address.port().unwrap_or(DNS_PORT));
    let ip = server.ip();
    if server.port() == 0 || ip.is_unspecified() || ip.is_multicast() {
        let message = format!("{} is not the address of a name server", shown(text));
        node.error(sink, message, RIGHT);
        return None;
    }
    Some(server)
}
