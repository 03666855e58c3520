//! Heads as bytes, written afresh.
//!
//! End-to-end fields come from the checked head; the first line, `Host`, framing and `Connection` are ours.

use evenkeel_http::{AnswerHead, Declared, Method, RequestHead, Version};

use crate::framing::{Body, Outgoing};

/// What becomes of a connection behind a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// It may serve another request.
    Stays,
    /// It is closed behind this exchange.
    Closes,
    /// It is asked to become, or becomes, one of the WebSocket protocol.
    Websocket,
}

/// Writes the head of a request to a backend, which always is one of HTTP/1.1.
///
/// `body` is how the body that follows is framed; [`Body::ToEnd`] is not for requests and counts as [`Body::None`]. A request
/// that could have a body and has none says so with a length of 0.
pub fn request(out: &mut Vec<u8>, head: &RequestHead, body: Body, connection: Connection) {
    out.extend_from_slice(head.method_bytes());
    out.push(b' ');
    out.extend_from_slice(head.target_bytes());
    // RFC 9112 3.2: Host comes first, and is empty where a client of HTTP/1.0 named none.
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    if let Some(authority) = head.authority_bytes() {
        out.extend_from_slice(authority);
    }
    out.extend_from_slice(b"\r\n");
    head.fields.write(out);
    match body {
        Body::Length(length) => write_length(out, length),
        Body::Chunked => out.extend_from_slice(CHUNKED),
        Body::None | Body::ToEnd => {
            let expected = matches!(head.method(), Method::Post | Method::Put | Method::Patch);
            if expected || head.declared() == Declared::Length(0) {
                write_length(out, 0);
            }
        }
    }
    match connection {
        Connection::Stays => {}
        Connection::Closes => out.extend_from_slice(b"Connection: close\r\n"),
        Connection::Websocket => out.extend_from_slice(WEBSOCKET),
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the head of an answer, also an interim one, to a client that spoke `version`.
///
/// Source for the version that is written: RFC 9110 6.2, ours and not the client's.
pub fn answer(
    out: &mut Vec<u8>,
    head: &AnswerHead,
    outgoing: Outgoing,
    connection: Connection,
    version: Version,
) {
    out.extend_from_slice(b"HTTP/1.1 ");
    let status = head.status();
    for digit in [status / 100 % 10, status / 10 % 10, status % 10] {
        out.push(b"0123456789"[usize::from(digit)]);
    }
    out.push(b' ');
    out.extend_from_slice(head.reason());
    out.extend_from_slice(b"\r\n");
    head.fields.write(out);
    match (outgoing.body, outgoing.length) {
        (Body::Chunked, _) => out.extend_from_slice(CHUNKED),
        (Body::Length(length), _) | (Body::None, Some(length)) => write_length(out, length),
        (Body::None | Body::ToEnd, _) => {}
    }
    match connection {
        _ if head.is_interim() => {}
        Connection::Stays if version == Version::Http10 => {
            out.extend_from_slice(b"Connection: keep-alive\r\n")
        }
        Connection::Stays => {}
        Connection::Closes => out.extend_from_slice(b"Connection: close\r\n"),
        Connection::Websocket => out.extend_from_slice(WEBSOCKET),
    }
    out.extend_from_slice(b"\r\n");
}

const CHUNKED: &[u8] = b"Transfer-Encoding: chunked\r\n";
const WEBSOCKET: &[u8] = b"Connection: Upgrade\r\nUpgrade: websocket\r\n";

/// Digits of the largest number.
const DIGITS: usize = 20;

fn write_length(out: &mut Vec<u8>, mut length: u64) {
    let mut digits = [0_u8; DIGITS];
    let mut at = DIGITS;
    loop {
        at -= 1;
        digits[at] = b"0123456789"[(length % 10) as usize];
        length /= 10;
        if length == 0 {
            break;
        }
    }
    out.extend_from_slice(b"Content-Length: ");
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}
