//! Heads of requests and answers as checked types.
//!
//! A parser of one version fills them ([`RequestHead::assemble`], [`AnswerHead::assemble`]); everything else reads them
//! and changes fields, target and authority in checked ways only.

use std::ops::Range;

use crate::list::{Fields, Span};
use crate::strict::{self, Rule};
use crate::target::{Authority, Form, Target};

/// Longest method in bytes.
pub const METHOD_BYTES_MAX: usize = 32;

/// What a request asks for. Methods are case-sensitive: `get` is an extension.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// GET.
    #[default]
    Get,
    /// HEAD: its answer has no body.
    Head,
    /// POST.
    Post,
    /// PUT.
    Put,
    /// PATCH.
    Patch,
    /// DELETE.
    Delete,
    /// OPTIONS.
    Options,
    /// Any other token, such as CouchDB's COPY.
    Extension,
}

/// The version that a message was sent in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    #[default]
    Http11,
    /// HTTP/2.
    Http2,
}

/// What the head says about the length of the body. Not yet how a body is framed: an answer to HEAD has a length and no
/// body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Declared {
    /// Nothing.
    #[default]
    Absent,
    /// So many bytes; below 2^63.
    Length(u64),
    /// It is framed as it comes: `chunked`, or HTTP/2 without a length.
    Streamed,
}

/// The head of a request.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    /// End-to-end fields, without `Host`.
    pub fields: Fields,
    method: Method,
    method_name: Span,
    version: Version,
    form: Form,
    target: Span,
    authority: Option<Span>,
    asked_target: Span,
    asked_authority: Option<Span>,
    declared: Declared,
    persistent: bool,
    websocket: bool,
    expects_continue: bool,
}

/// What a parser found out about a request; places are those in the arena of the head's fields.
#[derive(Clone, Debug)]
pub struct RequestParts {
    /// The method.
    pub method: Method,
    /// Its name.
    pub method_name: Range<usize>,
    /// The version.
    pub version: Version,
    /// The target's form.
    pub form: Form,
    /// Path and query, or `*`. Empty: an absolute target with neither.
    pub target: Range<usize>,
    /// The authority that routes, well-formed: the target's own, or that of `Host`.
    pub authority: Option<Range<usize>>,
    /// What is said about the body.
    pub declared: Declared,
    /// Whether the client's connection may serve another request.
    pub persistent: bool,
    /// Whether it asks for an upgrade to the WebSocket protocol, in a way that may be granted.
    pub websocket: bool,
    /// Whether the client waits for a 100 before it sends its body.
    pub expects_continue: bool,
}

/// The head of an answer.
#[derive(Clone, Debug, Default)]
pub struct AnswerHead {
    /// End-to-end fields.
    pub fields: Fields,
    status: u16,
    reason: Span,
    version: Version,
    declared: Declared,
    persistent: bool,
    kept_s: Option<u32>,
}

/// What a parser found out about an answer.
#[derive(Clone, Debug)]
pub struct AnswerParts {
    /// 100 to 599.
    pub status: u16,
    /// The reason phrase, which may be empty.
    pub reason: Range<usize>,
    /// The version.
    pub version: Version,
    /// What is said about the body.
    pub declared: Declared,
    /// Whether the backend keeps the connection, as far as the head says.
    pub persistent: bool,
    /// For how many seconds it says that it does so without a request (`Keep-Alive: timeout=`).
    pub kept_s: Option<u32>,
}

impl Method {
    /// The method of that name.
    #[must_use]
    pub const fn named(name: &[u8]) -> Self {
        match name {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"PATCH" => Self::Patch,
            b"DELETE" => Self::Delete,
            b"OPTIONS" => Self::Options,
            _ => Self::Extension,
        }
    }

    /// Whether a server does nothing that was not asked for: it may be sent again. Source: RFC 9110 9.2.1.
    #[must_use]
    pub const fn is_safe(self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Options)
    }

    /// Whether doing it twice is as doing it once. Source: RFC 9110 9.2.2.
    #[must_use]
    pub const fn is_idempotent(self) -> bool {
        self.is_safe() || matches!(self, Self::Put | Self::Delete)
    }
}

impl RequestHead {
    /// An empty head, to be filled by a parser.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes over what a parser of some version has found and checked; the fields are there already.
    pub fn assemble(&mut self, parts: RequestParts) {
        self.method = parts.method;
        self.method_name = Span::new(parts.method_name);
        self.version = parts.version;
        self.form = parts.form;
        self.target = if parts.target.is_empty() {
            // RFC 9112 3.2.4: OPTIONS for a whole server, as it was written for a proxy.
            let whole = parts.method == Method::Options;
            self.fields.store(if whole { b"*" } else { b"/" })
        } else {
            Span::new(parts.target)
        };
        self.authority = parts.authority.map(Span::new);
        self.asked_target = self.target;
        self.asked_authority = self.authority;
        self.declared = parts.declared;
        self.persistent = parts.persistent;
        self.websocket = parts.websocket;
        self.expects_continue = parts.expects_continue;
    }

    /// The method.
    #[must_use]
    pub const fn method(&self) -> Method {
        self.method
    }

    /// The method's name, a token.
    #[must_use]
    pub fn method_name(&self) -> &str {
        self.fields.text(self.method_name)
    }

    /// The version that the client spoke.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// How the client wrote the target.
    #[must_use]
    pub const fn form(&self) -> Form {
        self.form
    }

    /// Path and query as the backend gets them: visible ASCII beginning with a slash, or `*`.
    #[must_use]
    pub fn target(&self) -> &str {
        self.fields.text(self.target)
    }

    /// Path and query as the client sent them, whatever they were changed to.
    #[must_use]
    pub fn asked_target(&self) -> &str {
        self.fields.text(self.asked_target)
    }

    /// The host and port as the client sent them.
    #[must_use]
    pub fn asked_authority(&self) -> Option<&str> {
        Some(self.fields.text(self.asked_authority?))
    }

    /// The target up to the question mark.
    #[must_use]
    pub fn path(&self) -> &str {
        let target = self.target();
        target.split_once('?').map_or(target, |(path, _)| path)
    }

    /// What follows the question mark.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.target().split_once('?').map(|(_, query)| query)
    }

    /// The host and port that the client means. `None` with HTTP/1.0 only.
    #[must_use]
    pub fn authority(&self) -> Option<Authority<'_>> {
        let text = self.fields.slice(self.authority?);
        Authority::parse(text).ok()
    }

    /// The same as bytes, without a look at them: a host and perhaps a port.
    #[must_use]
    pub fn authority_bytes(&self) -> Option<&[u8]> {
        Some(self.fields.slice(self.authority?))
    }

    /// The method's name as bytes.
    #[must_use]
    pub fn method_bytes(&self) -> &[u8] {
        self.fields.slice(self.method_name)
    }

    /// The target as bytes.
    #[must_use]
    pub fn target_bytes(&self) -> &[u8] {
        self.fields.slice(self.target)
    }

    /// The target up to the question mark, as bytes.
    #[must_use]
    pub fn path_bytes(&self) -> &[u8] {
        let target = self.target_bytes();
        let end = target.iter().position(|byte| *byte == b'?');
        &target[..end.unwrap_or(target.len())]
    }

    /// What the client said about its body.
    #[must_use]
    pub const fn declared(&self) -> Declared {
        self.declared
    }

    /// Whether the client's connection may serve another request.
    #[must_use]
    pub const fn persistent(&self) -> bool {
        self.persistent
    }

    /// Whether the client asks for an upgrade to the WebSocket protocol, and may have it if a backend answers 101.
    #[must_use]
    pub const fn websocket(&self) -> bool {
        self.websocket
    }

    /// Whether the client waits for a 100 before it sends its body. The field `Expect` is still among the fields.
    #[must_use]
    pub const fn expects_continue(&self) -> bool {
        self.expects_continue
    }

    /// Changes path and query.
    ///
    /// # Errors
    /// The rules `target-*`, as for what a client sends.
    pub fn set_target(&mut self, target: &str) -> Result<(), &'static Rule> {
        if !target.starts_with('/') {
            return Err(&strict::TARGET_FORM);
        }
        Target::parse(self.method, target.as_bytes())?;
        self.target = self.fields.store(target.as_bytes());
        Ok(())
    }

    /// Changes the host that the backend is told.
    ///
    /// # Errors
    /// `host-malformed`.
    pub fn set_authority(&mut self, authority: &str) -> Result<(), &'static Rule> {
        Authority::parse(authority.as_bytes())?;
        self.authority = Some(self.fields.store(authority.as_bytes()));
        Ok(())
    }
}

impl AnswerHead {
    /// An empty head, to be filled by a parser.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes over what a parser of some version has found and checked; the fields are there already.
    pub fn assemble(&mut self, parts: AnswerParts) {
        self.status = parts.status;
        self.reason = Span::new(parts.reason);
        self.version = parts.version;
        self.declared = parts.declared;
        self.persistent = parts.persistent;
        self.kept_s = parts.kept_s;
    }

    /// For how many seconds the backend says that it keeps the connection without a request.
    #[must_use]
    pub const fn kept_s(&self) -> Option<u32> {
        self.kept_s
    }

    /// 100 to 599; 0 before a parser has filled it.
    #[must_use]
    pub const fn status(&self) -> u16 {
        self.status
    }

    /// Whether another answer to the same request follows. Not so after a 101.
    #[must_use]
    pub const fn is_interim(&self) -> bool {
        matches!(self.status, 100 | 102..=199)
    }

    /// The reason phrase: no control characters but tabs, perhaps bytes above 0x7f, perhaps nothing.
    #[must_use]
    pub fn reason(&self) -> &[u8] {
        self.fields.slice(self.reason)
    }

    /// The version that the backend spoke.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// What the backend said about the body. An answer to HEAD and a 304 have none, whatever is said.
    #[must_use]
    pub const fn declared(&self) -> Declared {
        self.declared
    }

    /// Whether the backend keeps the connection, as far as the head says.
    #[must_use]
    pub const fn persistent(&self) -> bool {
        self.persistent
    }

    /// Declares the body to be framed as it comes, where its length is another one than the backend said. A body to the
    /// connection's end, or none, stays what it is. How the backend's bytes are framed must be known before.
    pub const fn forget_length(&mut self) {
        if let Declared::Length(_) = self.declared {
            self.declared = Declared::Streamed;
        }
    }
}

/// Equal heads say the same, wherever it lies in their arenas.
impl PartialEq for RequestHead {
    fn eq(&self, other: &Self) -> bool {
        let flags = |head: &Self| (head.persistent, head.websocket, head.expects_continue);
        self.method_name() == other.method_name()
            && self.target() == other.target()
            && self.version == other.version
            && self.authority() == other.authority()
            && self.declared == other.declared
            && flags(self) == flags(other)
            && self.fields == other.fields
    }
}

impl Eq for RequestHead {}

/// Equal heads say the same, wherever it lies in their arenas.
impl PartialEq for AnswerHead {
    fn eq(&self, other: &Self) -> bool {
        self.status == other.status
            && self.reason() == other.reason()
            && self.version == other.version
            && self.declared == other.declared
            && self.persistent == other.persistent
            && self.fields == other.fields
    }
}

impl Eq for AnswerHead {}
