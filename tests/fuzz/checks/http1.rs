//! What must hold of HTTP/1 messages, whatever the bytes.
#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each fuzz target uses one of these, and a test all"
)]

use evenkeel_http::{AnswerHead, RequestHead, Version};
use evenkeel_http1::answer::{self, RequestContext};
use evenkeel_http1::request::{self, Parsed};
use evenkeel_http1::{Limits, Underscores, chunked, framing, write};

/// A request that is accepted goes on as one that is accepted and goes on unchanged; it is the same in pieces.
pub(crate) fn request(bytes: &[u8]) {
    let limits = Limits::REQUESTS;
    let mut head = RequestHead::new();
    let whole = request::Parser::new().parse(bytes, &limits, &mut head);
    let mut parser = request::Parser::new();
    let mut in_pieces = Parsed::Need;
    let mut pieces_head = RequestHead::new();
    for length in [bytes.len() / 3, bytes.len() / 2, bytes.len()] {
        if in_pieces == Parsed::Need {
            in_pieces = parser.parse(&bytes[..length], &limits, &mut pieces_head);
        }
    }
    assert_eq!(whole, in_pieces);
    let Parsed::Head { consumed } = whole else {
        return;
    };
    assert!(consumed <= bytes.len());
    assert_eq!(head, pieces_head);

    let body = framing::of_request(&head);
    let mut out = Vec::new();
    write::request(&mut out, &head, body, write::Connection::Stays);
    if head.authority().is_none() {
        return;
    }
    let limits = Limits {
        head_bytes: out.len() + 1,
        fields: limits.fields + 2,
        underscores: Underscores::Keep,
        ..limits
    };
    let mut read = RequestHead::new();
    let again = request::Parser::new().parse(&out, &limits, &mut read);
    assert_eq!(
        again,
        Parsed::Head {
            consumed: out.len()
        }
    );
    assert_eq!(framing::of_request(&read), body);
    assert_eq!(read.fields, head.fields);
    let mut twice = Vec::new();
    write::request(&mut twice, &read, body, write::Connection::Stays);
    assert_eq!(twice, out);
}

/// The same of answers; the first byte says what was asked.
pub(crate) fn answer(bytes: &[u8]) {
    let Some((&asked, bytes)) = bytes.split_first() else {
        return;
    };
    let context = RequestContext {
        method: if asked & 1 == 0 {
            evenkeel_http::Method::Get
        } else {
            evenkeel_http::Method::Head
        },
        websocket: asked & 2 != 0,
    };
    let version = if asked & 4 == 0 {
        Version::Http11
    } else {
        Version::Http10
    };
    let limits = Limits::ANSWERS;
    let mut head = AnswerHead::new();
    let parsed = answer::Parser::new().parse(bytes, &limits, &context, &mut head);
    let Parsed::Head { consumed } = parsed else {
        return;
    };
    assert!(consumed <= bytes.len());
    let body = framing::of_answer(&head, &context);
    let outgoing = framing::to_client(&head, body, version);
    let connection = if head.status() == 101 {
        write::Connection::Websocket
    } else {
        write::Connection::Stays
    };
    let mut out = Vec::new();
    write::answer(&mut out, &head, outgoing, connection, version);
    let limits = Limits {
        head_bytes: out.len() + 1,
        fields: limits.fields + 2,
        ..limits
    };
    let mut read = AnswerHead::new();
    let again = answer::Parser::new().parse(&out, &limits, &context, &mut read);
    assert_eq!(
        again,
        Parsed::Head {
            consumed: out.len()
        }
    );
    assert_eq!(
        (read.status(), read.reason()),
        (head.status(), head.reason())
    );
    assert_eq!(read.fields, head.fields);
    assert_eq!(framing::of_answer(&read, &context), outgoing.body);
}

/// A body gives the same data in pieces, and encoded again, and stops at the same place.
pub(crate) fn chunked(bytes: &[u8]) {
    let whole = decode(bytes, bytes.len().max(1));
    let in_pieces = decode(bytes, 3);
    assert_eq!(whole, in_pieces);
    let Ok((data, consumed, true)) = whole else {
        return;
    };
    assert!(data.len() < consumed);
    let mut encoded = Vec::new();
    chunked::chunk(&mut encoded, &data);
    encoded.extend_from_slice(chunked::BODY_END);
    assert_eq!(decode(&encoded, 5), Ok((data, encoded.len(), true)));
}

fn decode(bytes: &[u8], step: usize) -> Result<(Vec<u8>, usize, bool), &'static str> {
    let mut decoder = chunked::Decoder::new(&Limits::REQUESTS);
    let (mut data, mut at, mut there) = (Vec::new(), 0, 0);
    loop {
        let unread = &bytes[at..there];
        let piece = decoder.decode(unread).map_err(|rule| rule.id)?;
        data.extend_from_slice(&unread[piece.data]);
        at += piece.consumed;
        if piece.ended || (at == there && there == bytes.len()) {
            return Ok((data, at, piece.ended));
        }
        if at == there {
            there = bytes.len().min(there + step);
        }
    }
}
