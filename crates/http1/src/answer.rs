//! Heads of answers.
//!
//! A backend is no more trusted than a client: what is not well-formed becomes a 502, and the connection is thrown away.

use std::mem::MaybeUninit;
use std::ops::Range;

use evenkeel_http::fields::{self, ConnectionOptions, FramingFields, Known};
use evenkeel_http::head::AnswerParts;
use evenkeel_http::list::{self, NAME_BYTES_MAX};
use evenkeel_http::{
    AnswerHead, Declared, Fields, Method, RequestHead, Rule, Side, Version, strict,
};
use httparse::{Header, Status};

use crate::explain;
use crate::limits::{FIELDS_MAX, Limits};
use crate::request::{Parsed, place};
use crate::search::Search;

/// What must be known of the request to read its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestContext {
    /// The method: an answer to HEAD has no body.
    pub method: Method,
    /// Whether an upgrade to the WebSocket protocol was asked for, so that a 101 is an answer.
    pub websocket: bool,
}

/// What the bytes so far are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parse {
    /// The beginning of a head, or nothing.
    Need,
    /// A head.
    Head {
        /// Its length in bytes.
        consumed: usize,
        /// What it says.
        head: AnswerHead,
    },
    /// No head that may go further.
    Bad(&'static Rule),
}

/// Parses the answers on one connection, one after the other; see [`crate::request::Parser`].
#[derive(Clone, Debug, Default)]
pub struct Parser {
    search: Search,
}

/// Parses one head.
#[must_use]
pub fn parse(bytes: &[u8], limits: &Limits, context: &RequestContext) -> Parse {
    let mut head = AnswerHead::new();
    match Parser::new().parse(bytes, limits, context, &mut head) {
        Parsed::Need => Parse::Need,
        Parsed::Head { consumed } => Parse::Head { consumed, head },
        Parsed::Bad(rule) => Parse::Bad(rule),
    }
}

impl RequestContext {
    /// That of `request`.
    #[must_use]
    pub const fn of(request: &RequestHead) -> Self {
        Self {
            method: request.method(),
            websocket: request.websocket(),
        }
    }
}

impl Parser {
    /// One that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks for a head at the beginning of `bytes`; as [`crate::request::Parser::parse`].
    pub fn parse(
        &mut self,
        bytes: &[u8],
        limits: &Limits,
        context: &RequestContext,
        head: &mut AnswerHead,
    ) -> Parsed {
        match self.try_parse(bytes, limits, *context, head) {
            Ok(None) => Parsed::Need,
            Ok(Some(consumed)) => Parsed::Head { consumed },
            Err(rule) => Parsed::Bad(rule),
        }
    }

    fn try_parse(
        &mut self,
        bytes: &[u8],
        limits: &Limits,
        context: RequestContext,
        head: &mut AnswerHead,
    ) -> Result<Option<usize>, &'static Rule> {
        match bytes {
            [b'\r', b'\n', ..] => return Err(&strict::LINES_EMPTY),
            [b'\n', ..] => return Err(&strict::LINE_LF),
            // What another answer left behind, or another protocol, need not be waited for.
            [first, ..] if *first != b'H' && *first != b'\r' => return Err(&strict::STATUS_LINE),
            _ => {}
        }
        let within = &bytes[..bytes.len().min(limits.head_bytes)];
        let Some(end) = self.search.end(within)? else {
            if within.len() < limits.head_bytes {
                return Ok(None);
            }
            return Err(&strict::HEAD_LONG);
        };
        split(&within[..end], limits, context, head)?;
        Ok(Some(end))
    }
}

/// Takes a whole head apart that has no forbidden bytes and ends its lines with CR LF.
fn split(
    raw: &[u8],
    limits: &Limits,
    context: RequestContext,
    head: &mut AnswerHead,
) -> Result<(), &'static Rule> {
    let mut headers = [const { MaybeUninit::<Header<'_>>::uninit() }; FIELDS_MAX];
    let mut answer = httparse::Response::new(&mut []);
    let headers = &mut headers[..limits.fields.min(FIELDS_MAX)];
    let split = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut answer,
        raw,
        headers,
    );
    let (Ok(Status::Complete(length)), Some(status), Some(minor)) =
        (split, answer.code, answer.version)
    else {
        return Err(refusal(raw, split));
    };
    if length != raw.len() {
        return Err(&strict::STATUS_LINE);
    }
    if !(100..=599).contains(&status) {
        return Err(&strict::STATUS_RANGE);
    }
    let version = if minor == 0 {
        Version::Http10
    } else {
        Version::Http11
    };

    head.fields.begin(raw);
    let mut seen = Seen::default();
    for header in answer.headers.iter() {
        seen.field(raw, header, head)?;
    }
    if seen.connection.names_others {
        let named = answer.headers.iter();
        for header in named.filter(|header| header.name.eq_ignore_ascii_case("connection")) {
            fields::remove_named(&mut head.fields, header.value);
        }
    }

    let declared = seen.framing.declared();
    if declared == Declared::Streamed && version == Version::Http10 {
        return Err(&strict::TE_HTTP10);
    }
    if status < 200 && declared != Declared::Absent {
        return Err(&strict::INTERIM_FRAMING);
    }
    if status == 101 {
        seen.check_switch(context, version, &head.fields)?;
    }
    head.assemble(AnswerParts {
        status,
        reason: reason(raw),
        version,
        declared,
        persistent: match version {
            Version::Http10 => seen.connection.keep_alive && !seen.connection.close,
            Version::Http11 | Version::Http2 => !seen.connection.close,
        },
        kept_s: seen.kept_s,
    });
    Ok(())
}

/// The seconds of `timeout=5, max=100` (RFC 2068 section 19.7.1.1, which nothing newer defines, and which Node and Apache write).
fn kept_s(value: &[u8]) -> Option<u32> {
    let timeout = fields::elements(value).find_map(|element| {
        let at = element.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (&element[..at], &element[at + 1..]);
        name.eq_ignore_ascii_case(b"timeout").then_some(value)
    })?;
    std::str::from_utf8(timeout).ok()?.parse().ok()
}

/// What fields that are ours to understand say.
#[derive(Default)]
struct Seen {
    framing: FramingFields,
    connection: ConnectionOptions,
    upgrades: u32,
    upgrade_to_websocket: bool,
    kept_s: Option<u32>,
}

impl Seen {
    fn field(
        &mut self,
        raw: &[u8],
        header: &Header<'_>,
        head: &mut AnswerHead,
    ) -> Result<(), &'static Rule> {
        let (name, value) = (header.name.as_bytes(), header.value);
        if name.len() > NAME_BYTES_MAX {
            return Err(&strict::NAME_LONG);
        }
        match Known::named(name) {
            Some(Known::ContentLength) => self.framing.read_length(value),
            Some(Known::TransferEncoding) => self.framing.read_transfer_encoding(value),
            Some(Known::Connection) => self.connection.read(value),
            Some(Known::KeepAlive) => {
                self.kept_s = kept_s(value);
                Ok(())
            }
            Some(Known::Upgrade) => {
                self.upgrades += 1;
                self.upgrade_to_websocket = value.eq_ignore_ascii_case(b"websocket");
                Ok(())
            }
            Some(known) if known.is_hop_by_hop(Side::Answer) => Ok(()),
            _ => {
                head.fields.note(place(raw, name), place(raw, value));
                Ok(())
            }
        }
    }

    fn check_switch(
        &self,
        context: RequestContext,
        version: Version,
        fields: &Fields,
    ) -> Result<(), &'static Rule> {
        if !context.websocket || version != Version::Http11 {
            return Err(&strict::SWITCH_UNASKED);
        }
        if !self.connection.upgrade || self.upgrades != 1 || !self.upgrade_to_websocket {
            return Err(&strict::SWITCH_UNNAMED);
        }
        if fields.only("sec-websocket-accept").is_none() {
            return Err(&strict::SWITCH_UNNAMED);
        }
        Ok(())
    }
}

/// The reason phrase: what follows `HTTP/1.1 200 `, if anything does.
fn reason(raw: &[u8]) -> Range<usize> {
    const FROM: usize = "HTTP/1.1 200 ".len();
    let line_end = line_end(raw);
    let from = FROM.min(line_end);
    place(raw, list::trimmed(&raw[from..line_end]))
}

fn line_end(raw: &[u8]) -> usize {
    raw.iter()
        .position(|&byte| byte == b'\r')
        .unwrap_or(raw.len())
}

fn refusal(raw: &[u8], split: Result<Status<usize>, httparse::Error>) -> &'static Rule {
    let line_end = line_end(raw);
    match split {
        Err(httparse::Error::TooManyHeaders) => &strict::FIELDS_MANY,
        Err(httparse::Error::HeaderName | httparse::Error::HeaderValue) => {
            explain::fields(raw.get(line_end + 2..).unwrap_or_default())
        }
        _ => explain::status_line(&raw[..line_end]),
    }
}
