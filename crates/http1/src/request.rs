//! Heads of requests.
//!
//! ```text
//! bytes so far --Parser--> Need     read on, until the deadline that the caller keeps
//!                          Head     `consumed` bytes are the head, what follows is its body or the next request
//!                          Bad      answer with the rule's status and close: what follows cannot be told apart
//! ```

use std::mem::MaybeUninit;

use evenkeel_http::fields::{self, ConnectionOptions, FramingFields, Known};
use evenkeel_http::head::{METHOD_BYTES_MAX, RequestParts};
use evenkeel_http::list::{self, NAME_BYTES_MAX};
use evenkeel_http::target::{Authority, Target};
use evenkeel_http::{Declared, Method, RequestHead, Rule, Side, Version, strict};
use httparse::{Header, Status};

use crate::explain;
use crate::limits::{FIELDS_MAX, Limits, Underscores};
use crate::search::Search;

/// What the bytes so far are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parse {
    /// The beginning of a head, or nothing.
    Need,
    /// A head.
    Head {
        /// Its length in bytes, with an empty line before it if there was one.
        consumed: usize,
        /// What it says.
        head: RequestHead,
    },
    /// No head that may go further.
    Bad(&'static Rule),
}

/// What the bytes so far are, where the head is the caller's ([`Parser::parse`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The beginning of a head, or nothing.
    Need,
    /// The head was filled.
    Head {
        /// Its length in bytes, with an empty line before it if there was one.
        consumed: usize,
    },
    /// No head that may go further. What the caller's head says means nothing.
    Bad(&'static Rule),
}

/// Parses the requests of one connection, one after the other.
///
/// Remembers how far an incomplete head was looked at, so that each byte is looked at once however it arrives.
#[derive(Clone, Debug, Default)]
pub struct Parser {
    search: Search,
}

/// Parses one head.
#[must_use]
pub fn parse(bytes: &[u8], limits: &Limits) -> Parse {
    let mut head = RequestHead::new();
    match Parser::new().parse(bytes, limits, &mut head) {
        Parsed::Need => Parse::Need,
        Parsed::Head { consumed } => Parse::Head { consumed, head },
        Parsed::Bad(rule) => Parse::Bad(rule),
    }
}

impl Parser {
    /// One that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks for a head at the beginning of `bytes`: all that is unread, which was there at the last call, and perhaps
    /// more. After `Head`, the next call begins with what follows it; after `Bad` there is none.
    ///
    /// Fills `head`, whose memory is used again.
    pub fn parse(&mut self, bytes: &[u8], limits: &Limits, head: &mut RequestHead) -> Parsed {
        match self.try_parse(bytes, limits, head) {
            Ok(None) => Parsed::Need,
            Ok(Some(consumed)) => Parsed::Head { consumed },
            Err(rule) => Parsed::Bad(rule),
        }
    }

    fn try_parse(
        &mut self,
        bytes: &[u8],
        limits: &Limits,
        head: &mut RequestHead,
    ) -> Result<Option<usize>, &'static Rule> {
        // RFC 9112 2.2: an empty line before a request is to be passed over. One.
        let empty = match bytes {
            [b'\r', b'\n', ..] => 2,
            [] | [b'\r'] => return Ok(None),
            [b'\r', ..] => return Err(&strict::LINE_CR),
            [b'\n', ..] => return Err(&strict::LINE_LF),
            _ => 0,
        };
        let bytes = &bytes[empty..];
        match bytes {
            [] | [b'\r'] => return Ok(None),
            [b'\r', b'\n', ..] => return Err(&strict::LINES_EMPTY),
            [b' ' | b'\t', ..] => return Err(&strict::LINE_FOLD),
            // Another protocol, such as TLS, need not be waited for.
            [0, ..] => return Err(&strict::BYTE_NUL),
            [first, ..] if !list::is_token_byte(*first) && !b"\r\n".contains(first) => {
                return Err(&strict::METHOD_BYTE);
            }
            _ => {}
        }
        let within = &bytes[..bytes.len().min(limits.head_bytes)];
        let Some(end) = self.search.end(within)? else {
            if within.len() < limits.head_bytes {
                return Ok(None);
            }
            let line = within.contains(&b'\n');
            return Err(if line {
                &strict::HEAD_LONG
            } else {
                &strict::TARGET_LONG
            });
        };
        split(&within[..end], limits, head)?;
        Ok(Some(empty + end))
    }
}

/// Takes a whole head apart that has no forbidden bytes and ends its lines with CR LF.
fn split(raw: &[u8], limits: &Limits, head: &mut RequestHead) -> Result<(), &'static Rule> {
    let mut headers = [const { MaybeUninit::<Header<'_>>::uninit() }; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let headers = &mut headers[..limits.fields.min(FIELDS_MAX)];
    let split = httparse::ParserConfig::default().parse_request_with_uninit_headers(
        &mut request,
        raw,
        headers,
    );
    let (Ok(Status::Complete(length)), Some(method_name), Some(target), Some(minor)) =
        (split, request.method, request.path, request.version)
    else {
        return Err(refusal(raw, split));
    };
    if length != raw.len() {
        return Err(&strict::REQUEST_LINE);
    }
    let version = if minor == 0 {
        Version::Http10
    } else {
        Version::Http11
    };
    let method = check_method(method_name)?;
    if target.len() > limits.target_bytes {
        return Err(&strict::TARGET_LONG);
    }
    let target_at = place(raw, target.as_bytes());
    let target = Target::parse(method, target.as_bytes())?;

    head.fields.begin(raw);
    let mut seen = Seen::default();
    for header in request.headers.iter() {
        seen.field(raw, header, limits, head)?;
    }
    if seen.connection.names_others {
        let named = request.headers.iter();
        for header in named.filter(|header| header.name.eq_ignore_ascii_case("connection")) {
            fields::remove_named(&mut head.fields, header.value);
        }
    }

    let within =
        |range: std::ops::Range<usize>| target_at.start + range.start..target_at.start + range.end;
    let authority = match (target.authority.map(within), seen.host.clone()) {
        (Some(target), Some(host)) => {
            check_same(&raw[target.clone()], &raw[host], &raw[target_at.clone()])?;
            Some(target)
        }
        (_, None) if version == Version::Http11 => return Err(&strict::HOST_MISSING),
        (target, host) => target.or(host),
    };
    let declared = seen.check_body(method, version)?;
    head.assemble(RequestParts {
        method,
        method_name: place(raw, method_name.as_bytes()),
        version,
        form: target.form,
        target: within(target.path),
        authority,
        declared,
        persistent: match version {
            Version::Http10 => seen.connection.keep_alive && !seen.connection.close,
            Version::Http11 | Version::Http2 => !seen.connection.close,
        },
        websocket: seen.websocket(method, version, declared)?,
        // RFC 9110 10.1.1: to be ignored in HTTP/1.0.
        expects_continue: seen.expects_continue && version == Version::Http11,
    });
    if version == Version::Http10 && seen.expects_continue {
        head.fields.remove("expect");
    }
    Ok(())
}

/// What fields that are ours to understand say.
#[derive(Default)]
struct Seen {
    host: Option<std::ops::Range<usize>>,
    framing: FramingFields,
    connection: ConnectionOptions,
    upgrades: u32,
    upgrade_to_websocket: bool,
    websocket_named: bool,
    websocket_keys: u32,
    websocket_key_malformed: bool,
    expects_continue: bool,
}

impl Seen {
    fn field(
        &mut self,
        raw: &[u8],
        header: &Header<'_>,
        limits: &Limits,
        head: &mut RequestHead,
    ) -> Result<(), &'static Rule> {
        let (name, value) = (header.name.as_bytes(), header.value);
        if name.len() > NAME_BYTES_MAX {
            return Err(&strict::NAME_LONG);
        }
        match Known::named(name) {
            Some(Known::Host) => {
                if self.host.is_some() {
                    return Err(&strict::HOST_SEVERAL);
                }
                Authority::parse(value)?;
                self.host = Some(place(raw, value));
                return Ok(());
            }
            Some(Known::ContentLength) => return self.framing.read_length(value),
            Some(Known::TransferEncoding) => return self.framing.read_transfer_encoding(value),
            Some(Known::Connection) => return self.connection.read(value),
            Some(Known::Upgrade) => {
                let token = |byte: &u8| list::is_token_byte(*byte) || b"/, \t".contains(byte);
                if !value.iter().all(token) {
                    return Err(&strict::CONNECTION_MALFORMED);
                }
                self.upgrades += 1;
                self.upgrade_to_websocket = value.eq_ignore_ascii_case(b"websocket");
                let mut protocols = fields::elements(value);
                self.websocket_named |=
                    protocols.any(|name| name.eq_ignore_ascii_case(b"websocket"));
                return Ok(());
            }
            Some(Known::Expect) => {
                if self.expects_continue || !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(&strict::EXPECT_UNKNOWN);
                }
                self.expects_continue = true;
            }
            Some(Known::SecWebsocketKey) => {
                self.websocket_keys += 1;
                self.websocket_key_malformed |= !is_websocket_key(value);
            }
            Some(known) if known.is_hop_by_hop(Side::Request) => return Ok(()),
            Some(_) => {}
            None if name.contains(&b'_') => {
                let remove = match limits.underscores {
                    Underscores::Remove => true,
                    Underscores::Keep => fields::is_twin_of_known(name),
                };
                if remove {
                    return Ok(());
                }
            }
            None => {}
        }
        head.fields.note(place(raw, name), place(raw, value));
        Ok(())
    }

    fn check_body(&self, method: Method, version: Version) -> Result<Declared, &'static Rule> {
        let declared = self.framing.declared();
        if version == Version::Http10 {
            if declared == Declared::Streamed {
                return Err(&strict::TE_HTTP10);
            }
            let bodiless = matches!(method, Method::Get | Method::Head | Method::Delete);
            if bodiless && !matches!(declared, Declared::Absent | Declared::Length(0)) {
                return Err(&strict::BODY_HTTP10);
            }
        }
        Ok(declared)
    }

    /// Whether an upgrade that was asked for may be granted (`remove-upgrade`).
    fn websocket(
        &self,
        method: Method,
        version: Version,
        declared: Declared,
    ) -> Result<bool, &'static Rule> {
        let named = self.connection.upgrade && self.websocket_named;
        if named && (self.websocket_keys != 1 || self.websocket_key_malformed) {
            return Err(&strict::WEBSOCKET_KEY);
        }
        let bodiless = matches!(declared, Declared::Absent | Declared::Length(0));
        let only = self.upgrades == 1 && self.upgrade_to_websocket;
        Ok(named && only && bodiless && method == Method::Get && version == Version::Http11)
    }
}

/// RFC 6455 4.2.1: 16 bytes in Base64.
fn is_websocket_key(value: &[u8]) -> bool {
    let digit = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/".contains(byte);
    matches!(value, [digits @ .., b'=', b'='] if digits.len() == 22 && digits.iter().all(digit))
}

fn check_method(name: &str) -> Result<Method, &'static Rule> {
    match name {
        "CONNECT" => Err(&strict::METHOD_CONNECT),
        "TRACE" => Err(&strict::METHOD_TRACE),
        _ if name.len() > METHOD_BYTES_MAX => Err(&strict::METHOD_LONG),
        _ => Ok(Method::named(name.as_bytes())),
    }
}

/// RFC 9112 3.2.2: the target's authority counts. A client that says something else in `Host` is up to something.
fn check_same(authority: &[u8], host: &[u8], target: &[u8]) -> Result<(), &'static Rule> {
    let (authority, host) = (Authority::parse(authority)?, Authority::parse(host)?);
    let secure = target.get(4).is_some_and(|byte| byte | 0x20 == b's');
    if authority.same(&host, if secure { 443 } else { 80 }) {
        Ok(())
    } else {
        Err(&strict::HOST_AGAINST_TARGET)
    }
}

fn refusal(raw: &[u8], split: Result<Status<usize>, httparse::Error>) -> &'static Rule {
    if split == Err(httparse::Error::TooManyHeaders) {
        return &strict::FIELDS_MANY;
    }
    let line_end = raw
        .iter()
        .position(|&byte| byte == b'\r')
        .unwrap_or(raw.len());
    match split {
        Err(httparse::Error::HeaderName | httparse::Error::HeaderValue) => {
            explain::fields(raw.get(line_end + 2..).unwrap_or_default())
        }
        _ => explain::request_line(&raw[..line_end]),
    }
}

/// Where `part` lies in `whole`, of which it is a slice.
pub(crate) fn place(whole: &[u8], part: &[u8]) -> std::ops::Range<usize> {
    let from = part.as_ptr().addr() - whole.as_ptr().addr();
    from..from + part.len()
}
