//! Routes: which requests, and what becomes of them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::text::{FieldName, FieldValue, Method};
use super::transform::TransformSpec;
use crate::ServiceName;

/// Most routes of a listener.
pub const ROUTES_MAX: usize = 10_000;

/// Longest host name in bytes (RFC 1035 section 2.3.4, without the root's dot).
const HOST_BYTES_MAX: usize = 253;

/// Longest prefix in bytes.
const PREFIX_BYTES_MAX: usize = 1_024;

/// Most segments of a prefix: what a request's path costs is bounded by it.
const PREFIX_SEGMENTS_MAX: usize = 16;

/// Variables of [`RedirectSpec::location`]: name, and what it is.
pub const REDIRECT_VARIABLES: &[(&str, &str)] = &[
    ("scheme", "`http` or `https`, as the client asked"),
    ("host", "the host that the client asked for, without port"),
    ("port", "the port that the client asked for"),
    ("path", "the path as the client sent it"),
    (
        "query",
        "`?` and the query as the client sent it; nothing where there is none",
    ),
];

/// Requests, and what becomes of them. A request is meant when every part says so; a part that is empty says so always.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteSpec {
    /// For one of these hosts; empty = any, also none.
    pub hosts: Vec<HostPattern>,
    /// With this path; `None` = any, also the `*` of OPTIONS.
    pub path: Option<PathMatch>,
    /// By one of these methods; empty = any. GET does not mean HEAD.
    pub methods: Vec<Method>,
    /// With all of these fields.
    pub headers: Vec<HeaderMatch>,
    /// What becomes of them.
    pub action: ActionSpec,
    /// What is changed in requests and answers. Counts for [`ActionSpec::Service`]; of the others only the answer's fields.
    pub transform: TransformSpec,
}

/// A host name, or all names under one (`*.example.org`, at any depth, not `example.org` itself). Lower case, without a dot at
/// its end; an IPv6 address stands in brackets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPattern {
    /// Without `*.`.
    name: String,
    wildcard: bool,
}

/// Why a text is no [`HostPattern`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostPatternError {
    /// It has no characters, or nothing after the star.
    #[error("a host cannot be empty; leave it out to mean any")]
    Empty,
    /// It has more than 253 bytes.
    #[error("a host has at most 253 characters")]
    TooLong,
    /// A character that is not allowed. Names in other scripts are written in their ASCII form (`xn--...`).
    #[error(
        "a host has letters, digits, `-`, `_` and `.` only, or is an IPv6 address in brackets; a port is not part of it"
    )]
    Character,
    /// A star anywhere but as the whole first label.
    #[error("a star stands for whole labels and at the start only, as in `*.example.org`")]
    Star,
}

impl HostPattern {
    /// Reads a host or wildcard.
    ///
    /// # Errors
    /// [`HostPatternError`].
    pub fn new(text: &str) -> Result<Self, HostPatternError> {
        let (name, wildcard) = match text.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        if name.contains('*') {
            return Err(HostPatternError::Star);
        }
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.is_empty() {
            return Err(HostPatternError::Empty);
        }
        if name.len() > HOST_BYTES_MAX {
            return Err(HostPatternError::TooLong);
        }
        if let Some(inner) = name.strip_prefix('[') {
            let address: std::net::Ipv6Addr = inner
                .strip_suffix(']')
                .and_then(|inner| inner.parse().ok())
                .filter(|_| !wildcard)
                .ok_or(HostPatternError::Character)?;
            return Ok(Self {
                name: format!("[{address}]"),
                wildcard,
            });
        }
        let label = |label: &str| {
            !label.is_empty()
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        if !name.split('.').all(label) {
            return Err(HostPatternError::Character);
        }
        Ok(Self {
            name: name.to_ascii_lowercase(),
            wildcard,
        })
    }

    /// The name without the star.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether names under [`Self::name`] are meant, and not it itself.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.wildcard
    }
}

/// Which paths. Compared with case, with the part before the query, in the form in which letters, digits, `-`, `.`, `_` and `~`
/// are not percent-encoded and other codes have capital letters (RFC 3986 section 6.2.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathMatch {
    /// This one.
    Exact(String),
    /// This one and those below it.
    Prefix(PathPrefix),
    /// Those that a regular expression matches from start to end.
    Regex(String),
}

/// The start of a path in whole segments: `/api` is the start of `/api`, `/api/` and `/api/v1`, not of `/apis`. A slash at the
/// end means nothing; `/` is the start of every path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathPrefix(String);

/// Why a text is no [`PathPrefix`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathPrefixError {
    /// It does not start with a slash.
    #[error("a prefix starts with `/`")]
    Slash,
    /// It has more than 1,024 bytes or 16 segments.
    #[error("a prefix has at most 1,024 characters and 16 segments")]
    TooLong,
    /// A character that a path cannot have (RFC 3986 section 3.3), or a percent code that is incomplete or stands for a slash.
    #[error(
        "a prefix has characters of a path only; others are percent-encoded, and a slash is not"
    )]
    Character,
    /// An empty segment, `.` or `..`.
    #[error("a prefix has no empty segment, no `.` and no `..`")]
    Segment,
}

impl PathPrefix {
    /// Reads a prefix; a slash at the end is dropped, percent codes are normalised.
    ///
    /// # Errors
    /// [`PathPrefixError`].
    pub fn new(text: &str) -> Result<Self, PathPrefixError> {
        let rest = text.strip_prefix('/').ok_or(PathPrefixError::Slash)?;
        if rest.is_empty() {
            return Ok(Self("/".to_owned()));
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if text.len() > PREFIX_BYTES_MAX || rest.split('/').count() > PREFIX_SEGMENTS_MAX {
            return Err(PathPrefixError::TooLong);
        }
        let normal = normalised(rest).ok_or(PathPrefixError::Character)?;
        if normal.contains("%2F") || normal.contains("%5C") {
            return Err(PathPrefixError::Character);
        }
        if normal
            .split('/')
            .any(|part| matches!(part, "" | "." | ".."))
        {
            return Err(PathPrefixError::Segment);
        }
        Ok(Self(format!("/{normal}")))
    }

    /// The prefix, without a slash at its end unless it is `/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// How many segments it has; `/` has none.
    #[must_use]
    pub fn segments(&self) -> usize {
        if self.0 == "/" {
            0
        } else {
            self.0.bytes().filter(|byte| *byte == b'/').count()
        }
    }
}

/// `text` with codes of unreserved characters decoded and other codes in capital letters; `None` where it has bytes that a path
/// cannot have.
fn normalised(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            let allowed = byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte);
            out.push(allowed.then_some(char::from(byte))?);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let code = u8::try_from(digit()? * 16 + digit()?).ok()?;
        if code.is_ascii_alphanumeric() || b"-._~".contains(&code) {
            out.push(char::from(code));
        } else {
            out.push_str(&format!("%{code:02X}"));
        }
    }
    Some(out)
}

/// A condition on one field. A field that comes in several lines counts as one, its values joined by `, ` (RFC 9110 section 5.3),
/// so that no line can be hidden behind another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderMatch {
    /// Which field.
    pub name: FieldName,
    /// What its value must be.
    pub value: HeaderValueMatch,
}

/// What the value of a field must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HeaderValueMatch {
    /// Anything, also nothing; but the field is there.
    Present,
    /// Exactly this, with case.
    Equals(String),
    /// What a regular expression matches from start to end.
    Regex(String),
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ActionSpec {
    /// A backend of this service gets it.
    Service(ServiceName),
    /// The client is sent elsewhere.
    Redirect(RedirectSpec),
    /// The client gets an answer from here.
    Fixed(FixedSpec),
}

/// Where the client is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedirectSpec {
    /// How. Default: 308.
    pub status: RedirectStatus,
    /// To where, with [`REDIRECT_VARIABLES`] in braces: `https://{host}{path}{query}`. See [`parse_redirect`].
    pub location: String,
}

/// Status of a redirect (RFC 9110 section 15.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RedirectStatus {
    /// 301, for ever; a POST may become a GET.
    MovedPermanently,
    /// 302, for now; a POST may become a GET.
    Found,
    /// 307, for now; the method stays.
    Temporary,
    /// 308, for ever; the method stays.
    #[default]
    Permanent,
}

impl RedirectStatus {
    /// The number.
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Self::MovedPermanently => 301,
            Self::Found => 302,
            Self::Temporary => 307,
            Self::Permanent => 308,
        }
    }

    /// The status of this number, if it is one of the four.
    #[must_use]
    pub fn from_code(code: u16) -> Option<Self> {
        [
            Self::MovedPermanently,
            Self::Found,
            Self::Temporary,
            Self::Permanent,
        ]
        .into_iter()
        .find(|status| status.code() == code)
    }
}

/// A part of [`RedirectSpec::location`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "what each variable is stands in REDIRECT_VARIABLES"
)]
pub enum RedirectPart {
    /// As it stands.
    Text(String),
    Scheme,
    Host,
    Port,
    Path,
    Query,
}

/// Why a text is no [`RedirectSpec::location`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedirectTemplateError {
    /// It does not start with a scheme, `/`, `{scheme}` or `{path}`.
    #[error(
        "a location starts with `http://`, `https://`, `{{scheme}}://`, `/` or `{{path}}`, and not with `//`"
    )]
    Start,
    /// A name in braces that is no variable, or a brace without its other.
    #[error("`{name}` is none of {{scheme}}, {{host}}, {{port}}, {{path}}, {{query}}")]
    Variable {
        /// What stands there.
        name: String,
    },
    /// A character that a URI cannot have.
    #[error("a location has characters of a URI only; others are percent-encoded")]
    Character,
}

/// Reads a location with variables. A location that starts with `{path}` or `/` leads to the same host.
///
/// # Errors
/// [`RedirectTemplateError`].
pub fn parse_redirect(text: &str) -> Result<Vec<RedirectPart>, RedirectTemplateError> {
    // A location that starts with two slashes leads to another host; who wants that says the scheme.
    let absolute = ["http://", "https://", "{scheme}://"]
        .iter()
        .any(|scheme| text.starts_with(scheme));
    let relative =
        (text.starts_with('/') && !text.starts_with("//") && !text.starts_with("/{path}"))
            || text.starts_with("{path}");
    if !absolute && !relative {
        return Err(RedirectTemplateError::Start);
    }
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(inside) = rest.strip_prefix('{') {
            let (name, after) = inside.split_once('}').unwrap_or((inside, ""));
            parts.push(match name {
                "scheme" => RedirectPart::Scheme,
                "host" => RedirectPart::Host,
                "port" => RedirectPart::Port,
                "path" => RedirectPart::Path,
                "query" => RedirectPart::Query,
                _ => {
                    let name = name.to_owned();
                    return Err(RedirectTemplateError::Variable { name });
                }
            });
            rest = after;
            continue;
        }
        let (plain, after) = rest.split_at(rest.find('{').unwrap_or(rest.len()));
        let allowed =
            |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?#[]%".contains(&byte);
        if !plain.bytes().all(allowed) {
            return Err(RedirectTemplateError::Character);
        }
        parts.push(RedirectPart::Text(plain.to_owned()));
        rest = after;
    }
    Ok(parts)
}

/// An answer from here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FixedSpec {
    /// Status, 200..=599; 204, 205 and 304 have no body.
    pub status: u16,
    /// Content-Type; `None` = `text/plain; charset=utf-8`. Left out where there is no body.
    pub content_type: Option<FieldValue>,
    /// The body, at most [`PAGE_BYTES_MAX`](super::PAGE_BYTES_MAX) bytes.
    pub body: String,
}

impl TryFrom<String> for HostPattern {
    type Error = HostPatternError;

    fn try_from(text: String) -> Result<Self, HostPatternError> {
        Self::new(&text)
    }
}

impl From<HostPattern> for String {
    fn from(host: HostPattern) -> Self {
        host.to_string()
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.wildcard { "*." } else { "" })?;
        f.write_str(&self.name)
    }
}

impl TryFrom<String> for PathPrefix {
    type Error = PathPrefixError;

    fn try_from(text: String) -> Result<Self, PathPrefixError> {
        Self::new(&text)
    }
}

impl From<PathPrefix> for String {
    fn from(prefix: PathPrefix) -> Self {
        prefix.0
    }
}

impl fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => write!(f, "= {path}"),
            Self::Prefix(prefix) if prefix.as_str() == "/" => f.write_str("/..."),
            Self::Prefix(prefix) => write!(f, "{prefix}/..."),
            Self::Regex(text) => write!(f, "~ {text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_lower_case_and_without_the_roots_dot() {
        for (text, normal) in [
            ("Example.ORG", "example.org"),
            ("example.org.", "example.org"),
            ("*.Example.org", "*.example.org"),
            ("[2001:DB8:0::1]", "[2001:db8::1]"),
            ("localhost", "localhost"),
            ("10.0.0.1", "10.0.0.1"),
        ] {
            assert_eq!(HostPattern::new(text).unwrap().to_string(), normal);
        }
        for (text, error) in [
            ("", HostPatternError::Empty),
            ("*.", HostPatternError::Empty),
            ("*", HostPatternError::Star),
            ("a*.example.org", HostPatternError::Star),
            ("*.*.example.org", HostPatternError::Star),
            ("example.org:80", HostPatternError::Character),
            ("a..b", HostPatternError::Character),
            ("é.org", HostPatternError::Character),
            ("*.[::1]", HostPatternError::Character),
        ] {
            assert_eq!(HostPattern::new(text), Err(error), "{text}");
        }
    }

    #[test]
    fn prefixes_are_whole_segments_in_one_spelling() {
        for (text, normal, segments) in [
            ("/", "/", 0),
            ("/api", "/api", 1),
            ("/api/", "/api", 1),
            ("/%61pi/v%2d1", "/api/v-1", 2),
            ("/a%c3%a9", "/a%C3%A9", 1),
        ] {
            let prefix = PathPrefix::new(text).unwrap();
            assert_eq!(prefix.as_str(), normal);
            assert_eq!(prefix.segments(), segments);
        }
        for (text, error) in [
            ("api", PathPrefixError::Slash),
            ("", PathPrefixError::Slash),
            ("/a//b", PathPrefixError::Segment),
            ("//", PathPrefixError::Segment),
            ("/a/..", PathPrefixError::Segment),
            ("/%2e%2E/b", PathPrefixError::Segment),
            ("/a%2fb", PathPrefixError::Character),
            ("/a%2", PathPrefixError::Character),
            ("/a b", PathPrefixError::Character),
            ("/a?b", PathPrefixError::Character),
        ] {
            assert_eq!(PathPrefix::new(text), Err(error), "{text}");
        }
    }

    #[test]
    fn locations_are_read_with_their_variables() {
        use RedirectPart::{Host, Path, Query, Scheme, Text};
        let text = |text: &str| Text(text.to_owned());
        assert_eq!(
            parse_redirect("https://{host}{path}{query}").unwrap(),
            [text("https://"), Host, Path, Query]
        );
        assert_eq!(
            parse_redirect("{scheme}://www.example.org/x?y#z").unwrap(),
            [Scheme, text("://www.example.org/x?y#z")]
        );
        for bad in [
            "",
            "//evil.example",
            "/{path}",
            "example.org",
            "javascript:x",
            "{host}",
        ] {
            assert_eq!(
                parse_redirect(bad),
                Err(RedirectTemplateError::Start),
                "{bad}"
            );
        }
        assert_eq!(
            parse_redirect("/a\r\nb"),
            Err(RedirectTemplateError::Character)
        );
        assert!(matches!(
            parse_redirect("/a{user}"),
            Err(RedirectTemplateError::Variable { name }) if name == "user"
        ));
    }
}
