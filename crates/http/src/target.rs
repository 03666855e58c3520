//! Targets of requests: their forms, and the authorities in them and in `Host`.

use std::net::Ipv6Addr;
use std::ops::Range;

use crate::head::Method;
use crate::strict::{self, Rule};

/// The form in which a client wrote its target. Source: RFC 9112 3.2. The fourth, a bare authority, belongs to CONNECT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// A path and perhaps a query.
    #[default]
    Origin,
    /// A whole URI, as for a proxy. It goes on as a path, and its authority is the host.
    Absolute,
    /// `*`, for the server as a whole.
    Asterisk,
}

/// A target taken apart; places are those in the bytes that were parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// How the client wrote it.
    pub form: Form,
    /// The path and query, or `*`. Empty where an absolute target has no path and no query.
    pub path: Range<usize>,
    /// The authority of an absolute target.
    pub authority: Option<Range<usize>>,
}

/// A host with an optional port, as in `Host` and in absolute targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authority<'a> {
    text: &'a str,
    host: &'a str,
    port: Option<u16>,
}

impl Target {
    /// Takes `target` apart, for a request with that `method`.
    ///
    /// # Errors
    /// The rules `target-*`.
    pub fn parse(method: Method, target: &[u8]) -> Result<Self, &'static Rule> {
        if !target.iter().all(u8::is_ascii_graphic) {
            return Err(&strict::TARGET_BYTE);
        }
        if target.contains(&b'#') {
            return Err(&strict::TARGET_FRAGMENT);
        }
        match target {
            [b'/', ..] => Self::from_path(Form::Origin, target, 0, None),
            b"*" if method == Method::Options => Ok(Self {
                form: Form::Asterisk,
                path: 0..1,
                authority: None,
            }),
            b"*" => Err(&strict::TARGET_ASTERISK),
            _ => Self::absolute(target),
        }
    }

    fn absolute(target: &[u8]) -> Result<Self, &'static Rule> {
        let separator = target.windows(3).position(|three| three == b"://");
        let colon = separator.ok_or(&strict::TARGET_FORM)?;
        let scheme = &target[..colon];
        if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
            let letters = scheme.first().is_some_and(u8::is_ascii_alphabetic)
                && scheme
                    .iter()
                    .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(b));
            return Err(if letters {
                &strict::TARGET_SCHEME
            } else {
                &strict::TARGET_FORM
            });
        }
        let from = colon + 3;
        let length = target[from..].iter().position(|byte| b"/?".contains(byte));
        let path = length.map_or(target.len(), |length| from + length);
        // Valid by its grammar; HAProxy takes the query for a part of the authority.
        let query = target.get(path) == Some(&b'?');
        if query || Authority::parse(&target[from..path]).is_err() {
            return Err(&strict::TARGET_AUTHORITY);
        }
        Self::from_path(Form::Absolute, target, path, Some(from..path))
    }

    fn from_path(
        form: Form,
        target: &[u8],
        from: usize,
        authority: Option<Range<usize>>,
    ) -> Result<Self, &'static Rule> {
        check_path(&target[from..])?;
        Ok(Self {
            form,
            path: from..target.len(),
            authority,
        })
    }
}

/// Checks escapes and dot segments of a path; a query is not looked at.
fn check_path(path_and_query: &[u8]) -> Result<(), &'static Rule> {
    let end = path_and_query.iter().position(|&byte| byte == b'?');
    let path = &path_and_query[..end.unwrap_or(path_and_query.len())];
    let mut escaped = false;
    for (at, _) in path.iter().enumerate().filter(|&(_, &byte)| byte == b'%') {
        escaped = true;
        match path.get(at + 1..at + 3) {
            Some(b"00") => return Err(&strict::TARGET_ESCAPE),
            Some([high, low]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {}
            _ => return Err(&strict::TARGET_ESCAPE),
        }
    }
    let dots = escaped || path.windows(2).any(|two| two == b"..");
    if dots && climbs_above_root(path) {
        return Err(&strict::TARGET_ABOVE_ROOT);
    }
    Ok(())
}

/// Whether `..` segments lead out, with dots and slashes that are escaped taken for what they stand for, and empty
/// segments for nothing, as a server might.
fn climbs_above_root(path: &[u8]) -> bool {
    let (mut depth, mut length, mut dots, mut at) = (0_u32, 0_usize, 0_usize, 0);
    loop {
        let (byte, step) = match &path[at.min(path.len())..] {
            [] => (b'/', 1),
            [b'%', b'2', b'e' | b'E', ..] => (b'.', 3),
            [b'%', b'2', b'f' | b'F', ..] => (b'/', 3),
            [byte, ..] => (*byte, 1),
        };
        if byte == b'/' {
            match (length, dots) {
                (0, _) | (1, 1) => {}
                (2, 2) if depth == 0 => return true,
                (2, 2) => depth -= 1,
                _ => depth += 1,
            }
            if at >= path.len() {
                return false;
            }
            (length, dots) = (0, 0);
        } else {
            length += 1;
            dots += usize::from(byte == b'.');
        }
        at += step;
    }
}

impl<'a> Authority<'a> {
    /// Checks a host with an optional port. The host is not empty; a comma, which a name may have by its grammar, is
    /// refused, since it is how some join two `Host` fields.
    ///
    /// # Errors
    /// `host-malformed`.
    ///
    /// Source: RFC 3986 3.2.2, RFC 9110 7.2.
    pub fn parse(text: &'a [u8]) -> Result<Self, &'static Rule> {
        const BAD: &Rule = &strict::HOST_MALFORMED;
        let text = std::str::from_utf8(text).map_err(|_| BAD)?;
        let host_bytes = if text.starts_with('[') {
            text.find(']').ok_or(BAD)? + 1
        } else {
            text.find(':').unwrap_or(text.len())
        };
        let (host, rest) = text.split_at(host_bytes);
        let valid = match host.strip_prefix('[') {
            Some(rest) => {
                let address = rest.strip_suffix(']').unwrap_or_default();
                address.parse::<Ipv6Addr>().is_ok()
            }
            None => is_name(host.as_bytes()),
        };
        if !valid {
            return Err(BAD);
        }
        let port = match rest.strip_prefix(':') {
            // An empty port is the scheme's own (RFC 3986 3.2.3).
            Some("") => None,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(digits.parse().map_err(|_| BAD)?)
            }
            None if rest.is_empty() => None,
            Some(_) | None => return Err(BAD),
        };
        Ok(Self { text, host, port })
    }

    /// As the client wrote it.
    #[must_use]
    pub const fn as_str(&self) -> &'a str {
        self.text
    }

    /// The host, in brackets if it is an IPv6 address; case and a last dot as the client wrote them. Not empty.
    #[must_use]
    pub const fn host(&self) -> &'a str {
        self.host
    }

    /// The port, if one was given.
    #[must_use]
    pub const fn port(&self) -> Option<u16> {
        self.port
    }

    /// Whether both mean the same host and port, where no port means `default_port`.
    #[must_use]
    pub fn same(&self, other: &Authority<'_>, default_port: u16) -> bool {
        self.host.eq_ignore_ascii_case(other.host)
            && self.port.unwrap_or(default_port) == other.port.unwrap_or(default_port)
    }
}

/// `reg-name` of RFC 3986 3.2.2, but neither empty nor with a comma.
fn is_name(host: &[u8]) -> bool {
    let mut rest = host;
    while let Some((&first, after)) = rest.split_first() {
        rest = match (first, after) {
            (b'%', [high, low, after @ ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                after
            }
            (b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&'..=b'+' | b';' | b'=', _) => after,
            _ if first.is_ascii_alphanumeric() => after,
            _ => return false,
        };
    }
    !host.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_targets() {
        let form = |method, target: &str| Target::parse(method, target.as_bytes()).map(|t| t.form);
        assert_eq!(form(Method::Get, "/a?b"), Ok(Form::Origin));
        assert_eq!(form(Method::Get, "HTTP://a:80"), Ok(Form::Absolute));
        assert_eq!(form(Method::Options, "*"), Ok(Form::Asterisk));
        assert_eq!(form(Method::Get, "*"), Err(&strict::TARGET_ASTERISK));
        assert_eq!(form(Method::Get, "ftp://a/"), Err(&strict::TARGET_SCHEME));
        assert_eq!(form(Method::Get, "a.example:80"), Err(&strict::TARGET_FORM));
        assert_eq!(
            form(Method::Get, "http:///a"),
            Err(&strict::TARGET_AUTHORITY)
        );
        assert_eq!(
            form(Method::Get, "http://u@a/"),
            Err(&strict::TARGET_AUTHORITY)
        );
        assert_eq!(
            form(Method::Get, "http://a?b"),
            Err(&strict::TARGET_AUTHORITY)
        );
        assert_eq!(form(Method::Get, ""), Err(&strict::TARGET_FORM));
    }

    #[test]
    fn paths_that_climb() {
        for (path, refused) in [
            ("/a/../b", false),
            ("/a/..", false),
            ("/..a/...", false),
            ("/.", false),
            ("/..", true),
            ("/a/../..", true),
            ("/a/%2e%2E/%2e./x", true),
            ("/%2f../x", true),
            ("//../x", true),
            ("/a/./../..", true),
            ("/a?/../..", false),
        ] {
            let parsed = Target::parse(Method::Get, path.as_bytes());
            assert_eq!(parsed == Err(&strict::TARGET_ABOVE_ROOT), refused, "{path}");
        }
    }

    #[test]
    fn authorities() {
        let parts =
            |text: &'static str| Authority::parse(text.as_bytes()).map(|a| (a.host(), a.port()));
        assert_eq!(parts("a.example"), Ok(("a.example", None)));
        assert_eq!(parts("a_1:8080"), Ok(("a_1", Some(8080))));
        assert_eq!(parts("[::1]:5984"), Ok(("[::1]", Some(5984))));
        assert_eq!(parts("a:"), Ok(("a", None)));
        for text in [
            "",
            ":80",
            "a:b",
            "a:65536",
            "a:-1",
            "a:+1",
            "a b",
            "a,b",
            "a/b",
            "u@a",
            "[::1",
            "[::1]a",
            "[v1.a]",
            "::1",
            "a:1:2",
            "a%2",
            "\u{e4}",
            "[fe80::1%25eth0]",
        ] {
            assert_eq!(parts(text), Err(&strict::HOST_MALFORMED), "{text:?}");
        }
    }
}
