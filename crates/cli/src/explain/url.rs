//! The URL and the fields that are typed.

use std::net::{IpAddr, Ipv6Addr};

use evenkeel_plan::http::{FieldName, Method};

/// A URL of HTTP, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    /// As it was typed, with a scheme and without what follows a `#`.
    pub(super) text: String,
    pub(super) is_https: bool,
    /// Host and port as typed: what a client writes as `Host`.
    pub(super) authority: String,
    /// The host, where it is an address.
    pub(super) ip: Option<IpAddr>,
    /// 80 or 443 where none is typed.
    pub(super) port: u16,
    /// From the slash on, without the query.
    pub(super) path: String,
    /// Without `?`.
    pub(super) query: Option<String>,
}

/// A field that is typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeaderLine {
    pub(super) name: String,
    pub(super) value: String,
}

impl HeaderLine {
    pub(super) fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }
}

/// Reads a URL; one without a scheme is of http. What follows a `#` is never sent.
pub(crate) fn url(text: &str) -> Result<Url, String> {
    const RIGHT: &str = "such as `http://example.org/path`";
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
        None => ("http".to_owned(), text),
    };
    let is_https = match scheme.as_str() {
        "http" => false,
        "https" => true,
        other => return Err(format!("`{other}` is no scheme of HTTP; {RIGHT}")),
    };
    let rest = rest.split('#').next().unwrap_or_default();
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    if authority.contains('@') {
        let right = "use --header 'Authorization: ...'";
        return Err(format!("a user's name in a URL is not sent; {right}"));
    }
    let Some((host, port)) = host_and_port(authority) else {
        return Err(format!("there is no host and port in it; {RIGHT}"));
    };
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (target, None),
    };
    let path = if path.is_empty() { "/" } else { path };
    let usual = if is_https { 443 } else { 80 };
    Ok(Url {
        text: format!("{scheme}://{rest}"),
        is_https,
        authority: authority.to_owned(),
        ip: host.trim_matches(['[', ']']).parse().ok(),
        port: port.unwrap_or(usual),
        path: path.to_owned(),
        query,
    })
}

fn host_and_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let end = match authority.strip_prefix('[') {
        Some(inside) => {
            let (address, _) = inside.split_once(']')?;
            address.parse::<Ipv6Addr>().ok()?;
            address.len() + 2
        }
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at(end);
    if host.is_empty() {
        return None;
    }
    match port.strip_prefix(':') {
        Some(digits) => digits.parse().ok().map(|port| (host, Some(port))),
        None => port.is_empty().then_some((host, None)),
    }
}

/// Reads `Name: value`.
pub(crate) fn header_line(text: &str) -> Result<HeaderLine, String> {
    const RIGHT: &str = "write it as `Name: value`";
    let (name, value) = text.split_once(':').ok_or(RIGHT)?;
    let name = FieldName::new(name).map_err(|error| format!("{error}; {RIGHT}"))?;
    let value = value.trim_matches([' ', '\t']);
    if value.chars().any(|c| c.is_control() && c != '\t') {
        return Err("a field's value has no control characters".to_owned());
    }
    Ok(HeaderLine {
        name: name.to_string(),
        value: value.to_owned(),
    })
}

/// Reads a method.
pub(crate) fn method(text: &str) -> Result<String, String> {
    let method = Method::new(text).map_err(|error| error.to_string())?;
    Ok(method.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let found = url("http://A.example.org:8080/a/b?c=d?#e").unwrap();
        assert_eq!(found.text, "http://A.example.org:8080/a/b?c=d?");
        assert_eq!(
            (&*found.authority, found.port),
            ("A.example.org:8080", 8080)
        );
        assert_eq!(
            (&*found.path, found.query.as_deref()),
            ("/a/b", Some("c=d?"))
        );
        assert_eq!(found.ip, None);
        let found = url("[::1]").unwrap();
        assert_eq!(found.text, "http://[::1]");
        assert_eq!((found.port, &*found.path), (80, "/"));
        assert_eq!(found.ip, Some(Ipv6Addr::LOCALHOST.into()));
        let found = url("HTTPS://10.0.0.1?x").unwrap();
        assert_eq!((found.is_https, found.port), (true, 443));
        assert_eq!((&*found.path, found.query.as_deref()), ("/", Some("x")));
        for bad in [
            "",
            "/path",
            "ftp://a/",
            "http://",
            "http://a:b/",
            "http://:80/",
            "http://[::1/",
            "http://[::1]80/",
            "u@a",
        ] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn fields_are_taken_apart() {
        let found = header_line("X-Tenant:  a: b ").unwrap();
        assert_eq!((&*found.name, &*found.value), ("X-Tenant", "a: b"));
        assert!(found.is("x-tenant"));
        for bad in ["X-Tenant", "X Tenant: a", ": a", "X: a\nb"] {
            assert!(header_line(bad).is_err(), "{bad}");
        }
        assert!(method("GET").is_ok());
        assert!(method("G T").is_err());
    }
}
