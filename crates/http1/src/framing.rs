//! Where bodies end, and how they go on.

use evenkeel_http::{AnswerHead, Declared, Method, RequestHead, Version};

use crate::answer::RequestContext;

/// How a body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// There is none.
    None,
    /// So many bytes; never 0 when it was parsed.
    Length(u64),
    /// In chunks.
    Chunked,
    /// To the end of the connection. Answers only.
    ToEnd,
}

/// How an answer goes on to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// How the body is framed.
    pub body: Body,
    /// The `Content-Length` to be written. It is also there where no body follows: with the answer to HEAD, with a 304, and
    /// as 0.
    pub length: Option<u64>,
}

/// The body that follows the head of a request, whatever its method (RFC 9112 6.3). Never [`Body::ToEnd`].
#[must_use]
pub const fn of_request(head: &RequestHead) -> Body {
    match head.declared() {
        Declared::Absent | Declared::Length(0) => Body::None,
        Declared::Length(length) => Body::Length(length),
        Declared::Streamed => Body::Chunked,
    }
}

/// The body that follows the head of an answer (RFC 9112 6.3). After a 101 it is the other protocol that follows.
#[must_use]
pub const fn of_answer(head: &AnswerHead, context: &RequestContext) -> Body {
    if matches!(context.method, Method::Head) || matches!(head.status(), 100..=199 | 204 | 304) {
        return Body::None;
    }
    match head.declared() {
        Declared::Length(0) => Body::None,
        Declared::Length(length) => Body::Length(length),
        Declared::Streamed => Body::Chunked,
        Declared::Absent => Body::ToEnd,
    }
}

/// How an answer with that `body` goes on to a client that spoke `version`.
///
/// A body of unknown length is chunked where the client knows that, so that it can tell the end from a broken connection.
#[must_use]
pub const fn to_client(head: &AnswerHead, body: Body, version: Version) -> Outgoing {
    let length = match (head.status(), head.declared()) {
        // RFC 9110 8.6: none in these.
        (100..=199 | 204, _) => None,
        (_, Declared::Length(length)) => Some(length),
        (_, Declared::Absent | Declared::Streamed) => None,
    };
    let body = match (body, version) {
        (Body::Chunked | Body::ToEnd, Version::Http10) => Body::ToEnd,
        (Body::Chunked | Body::ToEnd, Version::Http11 | Version::Http2) => Body::Chunked,
        (Body::None | Body::Length(_), _) => body,
    };
    Outgoing { body, length }
}
