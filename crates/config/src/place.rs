//! Where a backend is, as it is written: an address, a host name, an SRV name.

use std::fmt;
use std::net::IpAddr;

use evenkeel_plan as plan;

use crate::problem::shown;
use crate::value::{Address, parse_address};

/// What an SRV name begins with.
const SRV: &str = "srv:";

/// Longest host name, in bytes, without a trailing dot. RFC 1035 section 2.3.4, less the root's length byte and the first.
const HOST_BYTES_MAX: usize = 253;

/// Longest name of a backend that is made of its address. What is left of [`plan::NAME_BYTES_MAX`] is for a hyphen and a count.
pub(crate) const STEM_BYTES_MAX: usize = plan::NAME_BYTES_MAX - 6;

/// Longest label, in bytes. RFC 1035 section 2.3.4.
const LABEL_BYTES_MAX: usize = 63;

/// Where a backend is. Names are as written, without a trailing dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Ip(Address),
    Name { host: String, port: Option<u16> },
    Service { name: String },
}

impl Place {
    /// The port that was written.
    pub(crate) fn port(&self) -> Option<u16> {
        match self {
            Self::Ip(address) => address.port(),
            Self::Name { port, .. } => *port,
            Self::Service { .. } => None,
        }
    }

    /// The place at `port`; an SRV name has none of its own, its records say it. Names in small letters: `DB` and `db` are one.
    pub(crate) fn with_port(&self, port: u16) -> plan::Address {
        match self {
            Self::Ip(address) => plan::Address::Socket(address.with_port(port)),
            Self::Name { host, .. } => plan::Address::Name {
                host: host.to_ascii_lowercase(),
                port,
            },
            Self::Service { name } => plan::Address::Service {
                name: name.to_ascii_lowercase(),
            },
        }
    }

    /// What tells places apart, where those without a port are at `port`.
    pub(crate) fn identity(&self, port: Option<u16>) -> (plan::Address, bool) {
        let port = self.port().or(port);
        let place = match self.with_port(port.unwrap_or(0)) {
            plan::Address::Socket(mut address) => {
                address.set_ip(address.ip().to_canonical());
                plan::Address::Socket(address)
            }
            other => other,
        };
        (place, port.is_some())
    }

    /// The name of a backend that has none of its own: the address as written, without what a name cannot have.
    pub(crate) fn stem(&self) -> String {
        let stem = match self {
            Self::Ip(address) => match address.port() {
                Some(port) => format!("{}-{port}", address.ip()),
                None => address.ip().to_string(),
            },
            Self::Name {
                host,
                port: Some(port),
            } => format!("{host}-{port}"),
            Self::Name { host, port: None } => host.clone(),
            Self::Service { name } => format!("srv-{name}"),
        };
        let stem = stem.replace(':', "-");
        // A name starts with a letter or digit: `::1` is `0::1`.
        match stem.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            true => stem,
            false => format!("0{stem}"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name {
                host,
                port: Some(port),
            } => write!(f, "{host}:{port}"),
            Self::Name { host, port: None } => f.write_str(host),
            Self::Service { name } => write!(f, "{SRV}{name}"),
        }
    }
}

/// Reads where a backend is.
///
/// # Errors
/// What is wrong, and what would be right.
pub(crate) fn parse_place(text: &str) -> Result<Place, (String, String)> {
    if let Some(name) = text.strip_prefix(SRV) {
        return service(text, name);
    }
    let refused = match parse_address(text) {
        Ok(address) => return server(text, address),
        Err(refused) => refused,
    };
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    // Not meant as a name: what is wrong with the address says more.
    let letter = host.chars().any(|c| c.is_ascii_alphabetic());
    if !letter || text.contains("://") || host.contains([':', '[', ']']) {
        return Err(refused);
    }
    if host.starts_with('_') && host.contains("._") {
        let message = format!("{} looks like an SRV name", shown(text));
        let name = host.trim_end_matches('.');
        return Err((message, format!("write `\"{SRV}{name}\"`, without a port")));
    }
    let host = host_name(host)?;
    let port = match port {
        None => None,
        Some(digits) => match digits.parse::<u16>() {
            Ok(port) if port > 0 && !digits.starts_with('+') => Some(port),
            _ => {
                let message = format!("{} has no usable port", shown(text));
                return Err((
                    message,
                    format!("write `\"{host}:5984\"`; a port is 1 to 65535"),
                ));
            }
        },
    };
    Ok(Place::Name { host, port })
}

fn server(text: &str, address: Address) -> Result<Place, (String, String)> {
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
    Ok(Place::Ip(address))
}

fn service(text: &str, name: &str) -> Result<Place, (String, String)> {
    if let Some((name, _)) = name.split_once(':') {
        return Err((
            format!("{} has a port, which an SRV name cannot have", shown(text)),
            format!(
                "write `\"{SRV}{}\"`; its records name the ports",
                name.trim_end_matches('.')
            ),
        ));
    }
    let name = host_name(name)?;
    Ok(Place::Service { name })
}

/// A host name without its trailing dot. Source: RFC 1123 section 2.1; the underscore is for SRV names and for what Docker and
/// Windows call their hosts.
///
/// # Errors
/// What is wrong, and what would be right.
pub(crate) fn host_name(text: &str) -> Result<String, (String, String)> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let refused = |why: String| {
        let message = format!("{} is not a host name", shown(text));
        Err((message, why))
    };
    if name.is_empty() {
        return refused("write a name such as `\"couchdb-1.local\"`".to_owned());
    }
    if name.len() > HOST_BYTES_MAX {
        return refused(format!(
            "a host name has at most {HOST_BYTES_MAX} characters"
        ));
    }
    for label in name.split('.') {
        let usual = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if label.is_empty() {
            return refused("there is nothing between two of its dots".to_owned());
        }
        if label.len() > LABEL_BYTES_MAX {
            return refused(format!(
                "a part between dots has at most {LABEL_BYTES_MAX} characters"
            ));
        }
        if let Some(c) = label.chars().find(|c| !usual(*c)) {
            let found = shown(&c.to_string());
            return refused(format!(
                "it has letters, digits, `-`, `_` and `.` only, and not {found}"
            ));
        }
        if label.starts_with('-') || label.ends_with('-') {
            return refused("no part between dots begins or ends with `-`".to_owned());
        }
    }
    let last = name.rsplit('.').next().unwrap_or(name);
    if last.bytes().all(|b| b.is_ascii_digit()) {
        return refused("its last part is a number: is it an address?".to_owned());
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_as_people_write_them() {
        let long = format!("{}.example.org:80", ["a"; 100].join("."));
        for (text, port, stem) in [
            ("10.0.0.2:80", Some(80), "10.0.0.2-80"),
            ("::1", None, "0--1"),
            ("localhost", None, "localhost"),
            ("couchdb-1.local:5984", Some(5984), "couchdb-1.local-5984"),
            ("_odd_host", None, "0_odd_host"),
            ("3com.com", None, "3com.com"),
            (
                "srv:_couchdb._tcp.example.org",
                None,
                "srv-_couchdb._tcp.example.org",
            ),
            (&long, Some(80), &long.replace(':', "-")),
        ] {
            let place = parse_place(text).unwrap();
            assert_eq!(place.to_string(), text);
            assert_eq!((place.port(), &*place.stem()), (port, stem));
        }
        let dotted = parse_place("DB.example.org.:80").unwrap();
        assert_eq!(dotted.to_string(), "DB.example.org:80");
        assert_eq!(dotted.with_port(81).to_string(), "db.example.org:81");
        let srv = parse_place("srv:_a._tcp.b.").unwrap().with_port(9);
        assert_eq!(srv.name(), Some("_a._tcp.b"));
    }

    #[test]
    fn places_that_are_refused() {
        let label = "a".repeat(64);
        let long = ["abc"; 64].join(".");
        for (text, part) in [
            ("", "empty"),
            ("http://db:80/x", "is a URL"),
            ("10.0.0.256:80", "not an address"),
            ("[fd00::2:80", "not an address"),
            ("fd00::x", "not an address"),
            ("db:", "no usable port"),
            ("db:0", "no usable port"),
            ("db:+80", "no usable port"),
            ("db:http", "no usable port"),
            ("-db:80", "not a host name"),
            ("db-:80", "not a host name"),
            ("a..b", "not a host name"),
            (".a", "not a host name"),
            ("a b", "not a host name"),
            ("dé.local", "not a host name"),
            ("db.1", "not a host name"),
            (&label, "not a host name"),
            (&long, "not a host name"),
            ("_couchdb._tcp.example.org", "SRV name"),
            ("srv:", "not a host name"),
            ("srv:_a._tcp.b:80", "has a port"),
        ] {
            let (message, help) = parse_place(text).unwrap_err();
            assert!(message.contains(part), "{text}: {message} ({help})");
        }
    }
}
