//! Who asked, as proxies in front of us tell it, and as we tell it to backends.
//!
//! # Whom to believe
//!
//! A peer is believed when its address is in the list of trusted networks; what anybody else sent of these fields is
//! removed. Elements of a list are believed from the right-hand end: the last one was written by the peer, the one before by
//! whom that names, as long as each is trusted itself. The first that is not trusted is the client. What is left of it is whatever the client
//! wrote, and says nothing.
//!
//! ```text
//! X-Forwarded-For: 6.6.6.6, 203.0.113.9, 10.0.0.2      peer 10.0.0.1, trusted 10.0.0.0/8
//!                  (a lie)  ^^^^^^^^^^^ the client
//! ```
//!
//! An element that is no address (`unknown`, `_hidden`, junk) ends the walk: the client is then the last proxy that was found.
//!
//! Only one of both kinds of fields is believed ([`ForwardedSource`]): a proxy that writes the one passes the other on as its client sent it.
//! So the other kind is removed from everybody, and ours is written where it is wanted.
//!
//! Names with `_` for `-` count as the same field, and are removed from everybody: no proxy writes them, and CGI does not tell them apart.

mod build;
mod element;
mod request_id;

use std::net::{IpAddr, SocketAddr};

use evenkeel_plan::Network;
use evenkeel_plan::http::{ForwardMode, ForwardedSource, ForwardedSpec};

pub use build::Seen;
pub use element::{Node, parse_forwarded};
pub use request_id::{REQUEST_ID_BYTES_MAX, RequestId};

/// Most elements of a list that are looked at, from the right. So many proxies in a row are a loop.
pub const HOPS_MAX: usize = 32;

/// A field that says who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardingField {
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `X-Forwarded-Proto`.
    XForwardedProto,
    /// `X-Forwarded-Host`.
    XForwardedHost,
    /// `Forwarded`.
    Forwarded,
    /// Others that backends believe: any `X-Forwarded-*`, `X-Real-IP`, `X-Client-IP`, `X-Cluster-Client-IP`, `True-Client-IP`,
    /// `CF-Connecting-IP`; and any of all these with `_` for `-`. A trusted peer's pass, unless spelt so.
    Other,
    /// Any of them with `_` for `-`.
    Twin,
}

impl ForwardingField {
    /// What `name` is, if it is one of them.
    #[must_use]
    pub fn of(name: &[u8]) -> Option<Self> {
        // The shortest is `Forwarded`, the rest starts with one of three letters.
        let first = name.first()?.to_ascii_lowercase();
        if name.len() < 9 || !matches!(first, b'x' | b'f' | b't' | b'c') {
            return None;
        }
        let is = |known: &str| {
            name.len() == known.len()
                && name.iter().zip(known.as_bytes()).all(|(byte, known)| {
                    let folded = if *byte == b'_' {
                        b'-'
                    } else {
                        byte.to_ascii_lowercase()
                    };
                    folded == *known
                })
        };
        const PREFIX: &str = "x-forwarded-";
        let starts = name.get(..PREFIX.len()).is_some_and(|start| {
            start.iter().zip(PREFIX.as_bytes()).all(|(byte, known)| {
                *byte == b'_' && *known == b'-' || byte.to_ascii_lowercase() == *known
            })
        });
        let others = [
            "x-real-ip",
            "x-client-ip",
            "x-cluster-client-ip",
            "true-client-ip",
            "cf-connecting-ip",
        ];
        let field = if is("x-forwarded-for") {
            Self::XForwardedFor
        } else if is("x-forwarded-proto") {
            Self::XForwardedProto
        } else if is("x-forwarded-host") {
            Self::XForwardedHost
        } else if is("forwarded") {
            Self::Forwarded
        } else if starts || others.into_iter().any(is) {
            Self::Other
        } else {
            return None;
        };
        Some(if name.contains(&b'_') {
            Self::Twin
        } else {
            field
        })
    }
}

/// The fields of one request that say who asked, in the order of their lines; others than these may be among them.
pub trait HeadFields<'a>: Iterator<Item = (&'a [u8], &'a [u8])> + Clone {}

impl<'a, F: Iterator<Item = (&'a [u8], &'a [u8])> + Clone> HeadFields<'a> for F {}

/// Who asked, after trusted proxies were asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The client: the peer, or the last address from the right that is not a trusted proxy's.
    pub client: IpAddr,
    /// Whether the peer is trusted, so that its fields were believed.
    pub peer_trusted: bool,
    /// Whether the client asked by https.
    pub https: bool,
    /// The host that the client asked for, where a trusted peer tells another than the request's own. Checked: a name or address, with or
    /// without port.
    pub host: Option<String>,
    /// A trusted peer's list is malformed where the client should be. `client` is then the last proxy that was found: an address that may
    /// be allowed what clients are not, so whoever decides by it refuses the request (400).
    pub malformed: bool,
}

/// The rules of a listener, ready to be applied.
#[derive(Clone, Debug)]
pub struct Forwarding {
    pub(crate) spec: ForwardedSpec,
}

impl Forwarding {
    /// Takes the rules of `spec`.
    #[must_use]
    pub fn new(spec: &ForwardedSpec) -> Self {
        Self { spec: spec.clone() }
    }

    /// Who asked. `https` = whether the peer's connection to us is.
    pub fn origin<'a>(&self, peer: SocketAddr, https: bool, fields: impl HeadFields<'a>) -> Origin {
        let peer = peer.ip().to_canonical();
        let mut origin = Origin {
            client: peer,
            peer_trusted: is_trusted(&self.spec.trusted, peer),
            https,
            host: None,
            malformed: false,
        };
        if !origin.peer_trusted {
            return origin;
        }
        let lines = |wanted: ForwardingField| {
            fields
                .clone()
                .filter(move |(name, _)| ForwardingField::of(name) == Some(wanted))
                .map(|(_, value)| value)
        };
        match self.spec.source {
            ForwardedSource::XForwarded => {
                let nodes = last_elements(lines(ForwardingField::XForwardedFor));
                (origin.client, origin.malformed) = self.walk(peer, nodes);
                if let Some(proto) = last_element(lines(ForwardingField::XForwardedProto)) {
                    origin.https = is_https(proto).unwrap_or(https);
                }
                origin.host =
                    last_element(lines(ForwardingField::XForwardedHost)).and_then(host_text);
            }
            ForwardedSource::Forwarded => {
                let elements = element::last_forwarded(lines(ForwardingField::Forwarded));
                if let Some(last) = elements.first() {
                    origin.https = last.proto.and_then(is_https).unwrap_or(https);
                    origin.host = last.host.as_deref().and_then(host_text);
                }
                let nodes = elements.iter().map(|element| element.node);
                (origin.client, origin.malformed) = self.walk(peer, nodes);
            }
        }
        origin
    }

    /// Whether a line of this name, as the peer sent it, goes before our lines come.
    #[must_use]
    pub fn drops(&self, name: &[u8], origin: &Origin) -> bool {
        let Some(field) = ForwardingField::of(name) else {
            return self.is_request_id(name);
        };
        let believed = |source| origin.peer_trusted && self.spec.source == source;
        match field {
            ForwardingField::Twin => true,
            ForwardingField::Other => !origin.peer_trusted,
            // A list that we add to is written by us, as one line.
            ForwardingField::XForwardedFor => {
                self.spec.x_forwarded_for != ForwardMode::Off
                    || !believed(ForwardedSource::XForwarded)
            }
            ForwardingField::XForwardedProto => {
                self.spec.x_forwarded_proto != ForwardMode::Off
                    || !believed(ForwardedSource::XForwarded)
            }
            ForwardingField::XForwardedHost => {
                self.spec.x_forwarded_host != ForwardMode::Off
                    || !believed(ForwardedSource::XForwarded)
            }
            ForwardingField::Forwarded => {
                self.spec.forwarded != ForwardMode::Off || !believed(ForwardedSource::Forwarded)
            }
        }
    }

    fn is_request_id(&self, name: &[u8]) -> bool {
        let own = self.spec.request_id.as_ref();
        own.is_some_and(|own| {
            let own = own.as_str().as_bytes();
            own.len() == name.len()
                && own.iter().zip(name).all(|(own, name)| {
                    own.eq_ignore_ascii_case(name) || (*own == b'-' && *name == b'_')
                })
        })
    }

    /// `nodes` from the right: the client, and whether something malformed is where it should be.
    fn walk(&self, peer: IpAddr, nodes: impl Iterator<Item = Node>) -> (IpAddr, bool) {
        let mut found = peer;
        for node in nodes.take(HOPS_MAX) {
            match node {
                Node::Hidden => break,
                Node::Malformed => return (found, true),
                Node::Address(address, _) => found = address.to_canonical(),
            }
            if !is_trusted(&self.spec.trusted, found) {
                break;
            }
        }
        (found, false)
    }
}

fn is_trusted(trusted: &[Network], address: IpAddr) -> bool {
    trusted.iter().any(|network| network.contains(address))
}

fn is_https(proto: &[u8]) -> Option<bool> {
    if proto.eq_ignore_ascii_case(b"https") || proto.eq_ignore_ascii_case(b"wss") {
        Some(true)
    } else if proto.eq_ignore_ascii_case(b"http") || proto.eq_ignore_ascii_case(b"ws") {
        Some(false)
    } else {
        None
    }
}

/// Whether it is a name or address with or without port.
fn is_host(text: &[u8]) -> bool {
    let mut buffer = crate::route::HostBuffer::new();
    matches!(crate::route::normal_host(text, &mut buffer), Ok(Some(_)))
}

fn host_text(text: &[u8]) -> Option<String> {
    is_host(text).then(|| String::from_utf8(text.to_vec()).ok())?
}

/// Elements of a list of addresses, the last first.
fn last_elements<'a>(lines: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = Node> {
    let lines: Vec<&[u8]> = lines.collect();
    let is_empty = |line: &&[u8]| line.trim_ascii().is_empty();
    let lines = lines.into_iter().rev().skip_while(is_empty);
    lines.flat_map(|line| {
        // An empty one is what a proxy leaves that did not know whom to name: what stands before it is then a client's own word.
        line.rsplit(|byte| *byte == b',')
            .map(|element| Node::parse(element.trim_ascii()))
    })
}

/// The last element of a field that has one value and may still have become a list. What is before it may be a client's.
fn last_element<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Option<&'a [u8]> {
    let last = lines.last()?.rsplit(|byte| *byte == b',').next()?;
    Some(last.trim_ascii())
}
