//! Elements of `X-Forwarded-For` and `Forwarded` (RFC 7239 sections 4 to 6).

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::HOPS_MAX;

/// Who is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// An address, and a port where it is said in digits.
    Address(IpAddr, Option<u16>),
    /// Somebody who is not to be known: `unknown`, or an obfuscated id (`_hidden`).
    Hidden,
    /// Nothing that means anything.
    Malformed,
}

impl Node {
    /// Reads a node: `192.0.2.1`, `192.0.2.1:80`, `[2001:db8::1]`, `[2001:db8::1]:80`, `unknown`, `_id`; and, as
    /// `X-Forwarded-For` has it, an IPv6 address without brackets.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        Self::read(text).unwrap_or(Self::Malformed)
    }

    fn read(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(Self::Address(address, None));
        }
        if let Some(inner) = text.strip_prefix('[') {
            let (address, rest) = inner.split_once(']')?;
            let address: Ipv6Addr = address.parse().ok()?;
            return Some(Self::Address(address.into(), port(rest)?));
        }
        let (name, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
        if let Ok(address) = name.parse::<Ipv4Addr>() {
            return Some(Self::Address(address.into(), port(rest)?));
        }
        port(rest)?;
        let is_id = name
            .strip_prefix('_')
            .is_some_and(|id| !id.is_empty() && id.bytes().all(is_id_byte));
        (is_id || name.eq_ignore_ascii_case("unknown")).then_some(Self::Hidden)
    }
}

fn is_id_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

/// Nothing, or a colon and a port in digits, or an obfuscated one. `None` = malformed.
fn port(rest: &str) -> Option<Option<u16>> {
    let Some(port) = rest.strip_prefix(':') else {
        return rest.is_empty().then_some(None);
    };
    if let Some(id) = port.strip_prefix('_') {
        return (!id.is_empty() && id.bytes().all(is_id_byte)).then_some(None);
    }
    let digits = (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
    digits
        .then(|| port.parse().ok())
        .map(Some)?
        .filter(Option::is_some)
}

/// One element of `Forwarded`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Element<'a> {
    /// `for`; `Malformed` where it is not said, or the element is malformed.
    pub(super) node: Node,
    pub(super) proto: Option<&'a [u8]>,
    pub(super) host: Option<Cow<'a, [u8]>>,
}

const MALFORMED: Element<'static> = Element {
    node: Node::Malformed,
    proto: None,
    host: None,
};

/// The nodes that a value of `Forwarded` names with `for`, from left to right.
#[must_use]
pub fn parse_forwarded(value: &[u8]) -> Vec<Node> {
    split(value, b',')
        .map(|element| read(element).node)
        .collect()
}

/// The last elements of all lines, the last one first, [`HOPS_MAX`] at most.
///
/// A line in which a quoted string does not end is malformed as a whole: where its elements are separated is then a matter of opinion.
pub(super) fn last_forwarded<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Vec<Element<'a>> {
    let lines: Vec<&[u8]> = lines.collect();
    let mut found = Vec::new();
    for line in lines.into_iter().rev() {
        if !quotes_are_closed(line) {
            found.push(MALFORMED);
            break;
        }
        let elements: Vec<_> = split(line, b',').collect();
        found.extend(elements.into_iter().rev().map(read));
        if found.len() >= HOPS_MAX {
            break;
        }
    }
    found.truncate(HOPS_MAX);
    found
}

fn read(text: &[u8]) -> Element<'_> {
    let mut element = MALFORMED;
    let mut seen = [false; 3];
    for pair in split(text, b';') {
        let pair = pair.trim_ascii();
        let Some(at) = pair.iter().position(|byte| *byte == b'=') else {
            return MALFORMED;
        };
        let (name, value) = pair.split_at(at);
        let Some(value) = value.get(1..).and_then(unquoted) else {
            return MALFORMED;
        };
        let which = ["for", "proto", "host"]
            .iter()
            .position(|known| name.eq_ignore_ascii_case(known.as_bytes()));
        // RFC 7239 section 4: each parameter occurs once at most.
        if let Some(which) = which
            && std::mem::replace(&mut seen[which], true)
        {
            return MALFORMED;
        }
        match (which, value) {
            (Some(0), value) => element.node = Node::parse(&value),
            (Some(1), Cow::Borrowed(value)) => element.proto = Some(value),
            (Some(2), value) => element.host = Some(value),
            _ => {}
        }
    }
    element
}

/// A token or quoted string, without its quotes.
fn unquoted(text: &[u8]) -> Option<Cow<'_, [u8]>> {
    let Some(inner) = text.strip_prefix(b"\"") else {
        // Colons and brackets should be quoted, and often are not.
        let plain = |byte: &u8| byte.is_ascii_graphic() && !b"\"\\,;=".contains(byte);
        return (!text.is_empty() && text.iter().all(plain)).then_some(Cow::Borrowed(text));
    };
    let inner = inner.strip_suffix(b"\"")?;
    if !inner.iter().any(|byte| matches!(byte, b'\\' | b'"')) {
        return Some(Cow::Borrowed(inner));
    }
    let mut out = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return None,
            b'\\' => out.push(*bytes.next()?),
            byte => out.push(*byte),
        }
    }
    Some(Cow::Owned(out))
}

/// Splits at `at` outside of quoted strings.
fn split(text: &[u8], at: u8) -> impl Iterator<Item = &[u8]> {
    let mut quotes = Quotes::default();
    text.split(move |byte| quotes.is_outside(*byte) && *byte == at)
}

fn quotes_are_closed(text: &[u8]) -> bool {
    let mut quotes = Quotes::default();
    text.iter().for_each(|byte| {
        quotes.is_outside(*byte);
    });
    !quotes.quoted
}

#[derive(Clone, Copy, Default)]
struct Quotes {
    quoted: bool,
    escaped: bool,
}

impl Quotes {
    /// Whether the next byte is outside of a quoted string.
    fn is_outside(&mut self, byte: u8) -> bool {
        if self.escaped {
            self.escaped = false;
        } else if byte == b'\\' && self.quoted {
            self.escaped = true;
        } else if byte == b'"' {
            self.quoted = !self.quoted;
        }
        !self.quoted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str, port: Option<u16>) -> Node {
        Node::Address(text.parse().unwrap(), port)
    }

    #[test]
    fn nodes_are_read() {
        for (text, node) in [
            ("192.0.2.1", address("192.0.2.1", None)),
            ("192.0.2.1:80", address("192.0.2.1", Some(80))),
            ("192.0.2.1:_p", address("192.0.2.1", None)),
            ("2001:db8::1", address("2001:db8::1", None)),
            ("[2001:db8::1]", address("2001:db8::1", None)),
            ("[2001:db8::1]:443", address("2001:db8::1", Some(443))),
            ("unknown", Node::Hidden),
            ("Unknown:8", Node::Hidden),
            ("_hidden", Node::Hidden),
            ("_SEVKISEK", Node::Hidden),
        ] {
            assert_eq!(Node::parse(text.as_bytes()), node, "{text}");
        }
        for text in [
            "",
            "-",
            "_",
            "localhost",
            "192.0.2",
            "192.0.2.1:",
            "192.0.2.1:99999",
            "192.0.2.1:123456",
            "192.0.2.1:8x",
            "192.0.2.1 ",
            "0192.0.2.1",
            "[192.0.2.1]",
            "[2001:db8::1",
            "[2001:db8::1]80",
            "2001:db8::1]",
            "fe80::1%eth0",
            "'192.0.2.1'",
            "_a b",
            "\u{663}",
        ] {
            assert_eq!(Node::parse(text.as_bytes()), Node::Malformed, "{text}");
        }
    }

    /// The examples of RFC 7239 section 4, and what is near them.
    #[test]
    fn forwarded_is_read() {
        for (value, nodes) in [
            ("for=\"_gazonk\"", vec![Node::Hidden]),
            (
                "For=\"[2001:db8:cafe::17]:4711\"",
                vec![address("2001:db8:cafe::17", Some(4711))],
            ),
            (
                "for=192.0.2.60;proto=http;by=203.0.113.43",
                vec![address("192.0.2.60", None)],
            ),
            (
                "for=192.0.2.43, for=198.51.100.17",
                vec![address("192.0.2.43", None), address("198.51.100.17", None)],
            ),
            ("by=203.0.113.43", vec![Node::Malformed]),
            ("for=192.0.2.1;for=192.0.2.2", vec![Node::Malformed]),
            ("for=192.0.2.1;x", vec![Node::Malformed]),
            (
                "for=\"192.0.2.1\\:80\"",
                vec![address("192.0.2.1", Some(80))],
            ),
            ("for=\"a, for=192.0.2.1\"", vec![Node::Malformed]),
            (
                "for=x;ext=\"a,b;for=1.2.3.4\", for=192.0.2.1",
                vec![Node::Malformed, address("192.0.2.1", None)],
            ),
            ("for=192.0.2.1:80", vec![address("192.0.2.1", Some(80))]),
            ("", vec![Node::Malformed]),
        ] {
            assert_eq!(parse_forwarded(value.as_bytes()), nodes, "{value}");
        }
    }

    #[test]
    fn a_string_without_an_end_hides_nothing() {
        let lines = ["for=192.0.2.9, for=\"x", "for=192.0.2.1"];
        let found = last_forwarded(lines.iter().map(|line| line.as_bytes()));
        let nodes: Vec<_> = found.iter().map(|element| element.node).collect();
        assert_eq!(nodes, [address("192.0.2.1", None), Node::Malformed]);
    }
}
