//! The lines that we write.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use evenkeel_plan::http::{ForwardMode, ForwardedSource};

use super::{Forwarding, ForwardingField, HeadFields, Origin, RequestId, is_host};

/// What we see ourselves of a request.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Who is connected to us: the address of a PROXY protocol header, or the peer's.
    pub peer: SocketAddr,
    /// Whether it is connected by https.
    pub https: bool,
    /// The authority that it asked for, as it came.
    pub host: Option<&'a [u8]>,
}

impl Forwarding {
    /// Says each line that tells who asked to `line`, as name and value. The peer's own lines that [`Forwarding::drops`] names go before.
    /// `scratch` is room for values; what was in it is lost.
    pub fn write<'a>(
        &self,
        seen: &Seen<'_>,
        origin: &Origin,
        request_id: Option<&RequestId>,
        fields: impl HeadFields<'a>,
        scratch: &mut Vec<u8>,
        mut line: impl FnMut(&[u8], &[u8]),
    ) {
        let believed = |source| origin.peer_trusted && self.spec.source == source;
        let keep = |field: ForwardingField, source, value: &mut Vec<u8>| {
            value.clear();
            if believed(source) {
                fields
                    .clone()
                    .filter(|(name, _)| ForwardingField::of(name) == Some(field))
                    .map(|(_, line)| line.trim_ascii())
                    .filter(|line| !line.is_empty())
                    .for_each(|line| append(value, line));
            }
        };
        let peer = seen.peer.ip().to_canonical();
        // A host that is none is not passed on in a field that backends build links from.
        let asked = seen.host.filter(|host| is_host(host));
        let host = origin.host.as_deref().map(str::as_bytes).or(asked);
        match self.spec.x_forwarded_for {
            ForwardMode::Off => {}
            ForwardMode::Replace => {
                scratch.clear();
                push_address(scratch, origin.client);
                line(b"x-forwarded-for", scratch);
            }
            ForwardMode::Append => {
                let (field, source) = (ForwardingField::XForwardedFor, ForwardedSource::XForwarded);
                keep(field, source, scratch);
                append(scratch, b"");
                push_address(scratch, peer);
                line(b"x-forwarded-for", scratch);
            }
        }
        if self.spec.x_forwarded_proto != ForwardMode::Off {
            line(b"x-forwarded-proto", scheme(origin.https).as_bytes());
        }
        if self.spec.x_forwarded_host != ForwardMode::Off
            && let Some(host) = host
        {
            line(b"x-forwarded-host", host);
        }
        match self.spec.forwarded {
            ForwardMode::Off => {}
            ForwardMode::Replace => {
                scratch.clear();
                push_element(scratch, origin.client, origin.https, host);
                line(b"forwarded", scratch);
            }
            ForwardMode::Append => {
                keep(
                    ForwardingField::Forwarded,
                    ForwardedSource::Forwarded,
                    scratch,
                );
                append(scratch, b"");
                push_element(scratch, peer, seen.https, asked);
                line(b"forwarded", scratch);
            }
        }
        if let (Some(name), Some(id)) = (&self.spec.request_id, request_id) {
            line(name.as_str().as_bytes(), id.as_str().as_bytes());
        }
    }
}

fn scheme(https: bool) -> &'static str {
    if https { "https" } else { "http" }
}

/// Pushes an element of a list, after a comma unless it is the first; an empty one is about to follow.
fn append(list: &mut Vec<u8>, element: &[u8]) {
    if !list.is_empty() {
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(element);
}

fn push(out: &mut Vec<u8>, words: std::fmt::Arguments<'_>) {
    out.write_fmt(words).expect("a Vec takes everything");
}

fn push_address(out: &mut Vec<u8>, address: IpAddr) {
    let IpAddr::V4(address) = address else {
        return push(out, format_args!("{address}"));
    };
    // Written for each request: the machinery of formatting takes longer.
    for (place, octet) in address.octets().into_iter().enumerate() {
        if place > 0 {
            out.push(b'.');
        }
        if octet >= 100 {
            out.push(b'0' + octet / 100);
        }
        if octet >= 10 {
            out.push(b'0' + octet / 10 % 10);
        }
        out.push(b'0' + octet % 10);
    }
}

/// An element of `Forwarded` (RFC 7239 section 4): IPv6 addresses in brackets and quotes, a host in quotes unless it is a token.
fn push_element(out: &mut Vec<u8>, client: IpAddr, https: bool, host: Option<&[u8]>) {
    match client {
        IpAddr::V4(client) => push(out, format_args!("for={client}")),
        IpAddr::V6(client) => push(out, format_args!("for=\"[{client}]\"")),
    }
    push(out, format_args!(";proto={}", scheme(https)));
    if let Some(host) = host {
        let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
        let quote: &[u8] = if host.iter().all(is_token) {
            b""
        } else {
            b"\""
        };
        for part in [&b";host="[..], quote, host, quote] {
            out.extend_from_slice(part);
        }
    }
}
