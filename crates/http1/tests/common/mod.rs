//! The corpus: its format, and what a relay makes of a message.
//!
//! ```text
//! # A comment.
//! [name]                 an entry; what it is about, in the tests' names
//! source RFC 9112 6.3    where the case is from
//! limits fields=3        other limits than usual (head, fields, target, extensions, trailers, underscores=keep)
//! for HEAD 1.0           answers only: the method and version of the request, or `for websocket`; usually `GET 1.1`
//! > GET / HTTP/1.1       bytes that are sent: a line, to which CR LF is added
//! >| 5\r\nhello          bytes that are sent, as they are
//! < GET / HTTP/1.1       bytes that come out at the other side, likewise; `<|` too. A body in chunks is one chunk
//! = ok                   how it ends
//! ```
//!
//! Escapes: `\r \n \t \s` (space) `\0 \\ \xHH` and `\{300*ab}` for repetition. `same` in the place of `<` lines: what was sent
//! comes out. Endings of requests: `ok` (the next request may follow), `close`, `websocket`, `need` (incomplete),
//! `bad rule`. Of answers: `keep` (the backend's connection may be used again), `close`, `switch`, `cut` (incomplete), `bad rule`.

#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each test uses a part of it"
)]

use std::fs;
use std::path::Path;

use evenkeel_http::{AnswerHead, Method, RequestHead, Version};
use evenkeel_http1::answer::{self, RequestContext};
use evenkeel_http1::request::{self, Parsed};
use evenkeel_http1::{Body, Limits, Underscores, chunked, framing, persistence, write};

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) file: String,
    pub(crate) name: String,
    pub(crate) source: String,
    pub(crate) limits: Limits,
    pub(crate) context: String,
    pub(crate) sent: Vec<u8>,
    pub(crate) seen: Option<Vec<u8>>,
    pub(crate) ending: String,
}

/// All entries of the files in `tests/corpus/<directory>`.
pub(crate) fn read(directory: &str, usual: Limits) -> Vec<Entry> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(directory);
    let mut files: Vec<_> = fs::read_dir(path)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    let mut entries: Vec<Entry> = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let file = file.file_name().unwrap().to_string_lossy().into_owned();
        for (number, line) in text.lines().enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(name) = line.strip_prefix('[') {
                entries.push(Entry {
                    file: file.clone(),
                    name: name.trim_end_matches(']').to_owned(),
                    source: String::new(),
                    limits: usual,
                    context: "GET 1.1".to_owned(),
                    sent: Vec::new(),
                    seen: None,
                    ending: String::new(),
                });
                continue;
            }
            let entry = entries.last_mut().unwrap();
            take(entry, line).unwrap_or_else(|| panic!("{file}:{}: {line}", number + 1));
        }
    }
    entries
}

fn take(entry: &mut Entry, line: &str) -> Option<()> {
    if line == "same" {
        entry.seen = Some(entry.sent.clone());
        return Some(());
    }
    let (key, rest) = line.split_once(' ').unwrap_or((line, ""));
    match key {
        "source" => entry.source = rest.to_owned(),
        "for" => entry.context = rest.to_owned(),
        "=" => entry.ending = rest.to_owned(),
        ">" => entry
            .sent
            .extend([unescaped(rest)?, b"\r\n".to_vec()].concat()),
        ">|" => entry.sent.extend(unescaped(rest)?),
        "<" => entry
            .seen
            .get_or_insert_default()
            .extend([unescaped(rest)?, b"\r\n".to_vec()].concat()),
        "<|" => entry.seen.get_or_insert_default().extend(unescaped(rest)?),
        "limits" => {
            for (key, value) in rest.split(' ').map(|pair| pair.split_once('=').unwrap()) {
                let number = || value.parse().unwrap();
                match key {
                    "head" => entry.limits.head_bytes = number(),
                    "fields" => entry.limits.fields = number(),
                    "target" => entry.limits.target_bytes = number(),
                    "extensions" => entry.limits.extension_bytes = number(),
                    "trailers" => entry.limits.trailer_bytes = number(),
                    "underscores" => entry.limits.underscores = Underscores::Keep,
                    _ => return None,
                }
            }
        }
        _ => return None,
    }
    Some(())
}

fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.extend(rest[..at].bytes());
        let kind = rest[at + 1..].chars().next()?;
        rest = &rest[at + 2..];
        match kind {
            'r' => out.push(b'\r'),
            'n' => out.push(b'\n'),
            't' => out.push(b'\t'),
            's' => out.push(b' '),
            '0' => out.push(0),
            '\\' => out.push(b'\\'),
            'x' => {
                out.push(u8::from_str_radix(rest.get(..2)?, 16).ok()?);
                rest = &rest[2..];
            }
            '{' => {
                let (count, after) = rest.split_once('*')?;
                let (what, after) = after.split_once('}')?;
                out.extend(unescaped(what)?.repeat(count.parse().ok()?));
                rest = after;
            }
            _ => return None,
        }
    }
    out.extend(rest.bytes());
    Some(out)
}

/// Bytes that arrive in pieces.
struct Arriving<'a> {
    bytes: &'a [u8],
    taken: usize,
    there: usize,
    step: usize,
}

impl<'a> Arriving<'a> {
    fn new(bytes: &'a [u8], step: usize) -> Self {
        Self {
            bytes,
            taken: 0,
            there: step.min(bytes.len()),
            step,
        }
    }

    fn unread(&self) -> &'a [u8] {
        &self.bytes[self.taken..self.there]
    }

    /// Whether there was more.
    fn more(&mut self) -> bool {
        let before = self.there;
        self.there = self.bytes.len().min(self.there + self.step);
        self.there > before
    }

    /// A body; `None`: it is not all there.
    fn body(
        &mut self,
        body: Body,
        limits: &Limits,
        out: &mut Vec<u8>,
        framed: Body,
    ) -> Result<Option<()>, String> {
        let mut data = Vec::new();
        let mut end = chunked::BODY_END.to_vec();
        match body {
            Body::None => return Ok(Some(())),
            Body::Length(length) => {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                while self.unread().len() < length {
                    if !self.more() {
                        return Ok(None);
                    }
                }
                data.extend(&self.unread()[..length]);
                self.taken += length;
            }
            Body::Chunked => {
                let mut decoder = chunked::Decoder::new(limits);
                while !decoder.ended() {
                    let unread = self.unread();
                    let piece = decoder
                        .decode(unread)
                        .map_err(|rule| format!("bad {}", rule.id))?;
                    data.extend(&unread[piece.data]);
                    self.taken += piece.consumed;
                    if piece.consumed == 0 && !piece.ended && !self.more() {
                        return Ok(None);
                    }
                }
                end.clear();
                chunked::end(&mut end, &decoder.trailers().unwrap());
            }
            Body::ToEnd => {
                while self.more() {}
                data.extend(self.unread());
                self.taken = self.there;
            }
        }
        if framed == Body::Chunked {
            chunked::chunk(out, &data);
            out.extend(end);
        } else {
            out.extend(data);
        }
        Ok(Some(()))
    }
}

/// What a backend sees of requests that arrive `step` bytes at a time, and how it ends.
pub(crate) fn relay_requests(bytes: &[u8], limits: &Limits, step: usize) -> (Vec<u8>, String) {
    let mut out = Vec::new();
    let mut arriving = Arriving::new(bytes, step);
    let mut parser = request::Parser::new();
    let mut head = RequestHead::new();
    loop {
        match parser.parse(arriving.unread(), limits, &mut head) {
            Parsed::Bad(rule) => return (out, format!("bad {}", rule.id)),
            Parsed::Need if arriving.more() => continue,
            Parsed::Need if arriving.unread().is_empty() && !bytes.is_empty() => {
                return (out, "ok".to_owned());
            }
            Parsed::Need => return (out, "need".to_owned()),
            Parsed::Head { consumed } => arriving.taken += consumed,
        }
        let body = framing::of_request(&head);
        let connection = if head.websocket() {
            write::Connection::Websocket
        } else {
            write::Connection::Stays
        };
        write::request(&mut out, &head, body, connection);
        match arriving.body(body, limits, &mut out, body) {
            Err(bad) => return (out, bad),
            Ok(None) => return (out, "need".to_owned()),
            Ok(Some(())) if head.websocket() => return (out, "websocket".to_owned()),
            Ok(Some(())) if !head.persistent() => return (out, "close".to_owned()),
            Ok(Some(())) => {}
        }
    }
}

/// What a client sees of answers that arrive `step` bytes at a time, and what becomes of the backend's connection.
pub(crate) fn relay_answer(
    bytes: &[u8],
    limits: &Limits,
    context: &str,
    step: usize,
) -> (Vec<u8>, String) {
    let request = match context {
        "websocket" => "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".to_owned(),
        _ => {
            let (method, version) = context.split_once(' ').unwrap_or((context, "1.1"));
            let (version, connection) = match version {
                "1.0-keep" => ("1.0", "Connection: keep-alive\r\n"),
                "1.1-close" => ("1.1", "Connection: close\r\n"),
                _ => (version, ""),
            };
            format!("{method} / HTTP/{version}\r\nHost: a\r\n{connection}\r\n")
        }
    };
    let request::Parse::Head { head: request, .. } =
        request::parse(request.as_bytes(), &Limits::REQUESTS)
    else {
        panic!("{context} is no request");
    };
    let context = RequestContext::of(&request);
    assert_eq!(
        context.method == Method::Head,
        request.method_name() == "HEAD"
    );
    let mut out = Vec::new();
    let mut arriving = Arriving::new(bytes, step);
    let mut parser = answer::Parser::new();
    let mut head = AnswerHead::new();
    loop {
        match parser.parse(arriving.unread(), limits, &context, &mut head) {
            Parsed::Bad(rule) => return (out, format!("bad {}", rule.id)),
            Parsed::Need if arriving.more() => continue,
            Parsed::Need => return (out, "cut".to_owned()),
            Parsed::Head { consumed } => arriving.taken += consumed,
        }
        let body = framing::of_answer(&head, &context);
        let outgoing = framing::to_client(&head, body, request.version());
        let connection = if head.status() == 101 {
            write::Connection::Websocket
        } else if persistence::client_stays(&request, &outgoing) {
            write::Connection::Stays
        } else {
            write::Connection::Closes
        };
        // RFC 9110 15.2: a client of HTTP/1.0 knows no interim answers.
        if !(head.is_interim() && request.version() == Version::Http10) {
            write::answer(&mut out, &head, outgoing, connection, request.version());
        }
        if head.status() == 101 {
            return (out, "switch".to_owned());
        }
        match arriving.body(body, limits, &mut out, outgoing.body) {
            Err(bad) => return (out, bad),
            Ok(None) => return (out, "cut".to_owned()),
            Ok(Some(())) if head.is_interim() => continue,
            Ok(Some(())) => {}
        }
        while arriving.more() {}
        let clean =
            arriving.unread().is_empty() && persistence::backend_stays(&head, body, &context);
        return (out, if clean { "keep" } else { "close" }.to_owned());
    }
}
