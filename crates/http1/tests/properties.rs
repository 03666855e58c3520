//! What holds for all messages, not only for those of the corpus.

use std::time::{Duration, Instant};

use evenkeel_http::list::{Name, Value};
use evenkeel_http::{AnswerHead, Fields, RequestHead};
use evenkeel_http1::answer::{self, RequestContext};
use evenkeel_http1::request::{self, Parse, Parsed};
use evenkeel_http1::{Body, Limits, chunked, framing, write};
use proptest::collection::vec;
use proptest::prelude::*;

/// Bytes that are mostly pieces of messages, so that they get far.
fn message_like() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![
        &b"GET "[..],
        b"POST ",
        b"/a?b",
        b"*",
        b"http://a:80",
        b" HTTP/1.1\r\n",
        b" HTTP/1.0\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 101 \r\n",
        b"HTTP/1.1 204 \r\n",
        b"Host: a\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length:",
        b"\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close, x\r\n",
        b"Upgrade: websocket\r\n",
        b"X: y\r\n",
        b"\r",
        b"\n",
        b":",
        b" ",
        b"\t",
        b"\0",
        b"5\r\nhello\r\n",
        b"0\r\n\r\n",
        b";a=\"b\"",
        b"Expect: 100-continue\r\n",
        b"%",
        b"\xff",
    ]);
    let any = vec(any::<u8>(), 0..8);
    vec(
        prop_oneof![8 => words.prop_map(<[u8]>::to_vec), 1 => any],
        0..24,
    )
    .prop_map(|parts| parts.concat())
}

fn name() -> impl Strategy<Value = String> {
    // None that means something to us.
    "[XYxy][A-Za-z0-9!#$%&'*+.^`|~-]{0,20}"
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    vec(
        prop_oneof![8 => b' '..=b'~', 1 => Just(b'\t'), 1 => 0x80..=0xff_u8],
        0..40,
    )
}

fn fields() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    vec((name(), value()), 0..12)
}

fn body() -> impl Strategy<Value = Body> {
    prop_oneof![
        Just(Body::None),
        (1..=i64::MAX as u64).prop_map(Body::Length),
        Just(Body::Chunked)
    ]
}

fn request_head() -> impl Strategy<Value = (RequestHead, Body)> {
    let method = prop_oneof![
        Just("GET"),
        Just("POST"),
        Just("COPY"),
        Just("OPTIONS"),
        Just("DELETE"),
        Just("m")
    ];
    let target = "/[a-zA-Z0-9._~!$&'()*+,;=:@/-]{0,20}(\\?[!-\"$-~]{0,20})?";
    let target = target.prop_filter("climbs", |target: &String| !target.contains(".."));
    let host = "[a-z0-9_.-]{1,20}(:[0-9]{1,4})?";
    let fields = fields();
    (method, target, host, fields, body()).prop_map(|(method, target, host, fields, body)| {
        let framing = match body {
            Body::Length(length) => format!("Content-Length: {length}\r\n"),
            Body::Chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
            Body::None | Body::ToEnd => String::new(),
        };
        let start = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{framing}\r\n");
        let Parse::Head { mut head, .. } = request::parse(start.as_bytes(), &Limits::REQUESTS)
        else {
            unreachable!("{start}");
        };
        append(&mut head.fields, &fields);
        (head, body)
    })
}

fn append(to: &mut Fields, fields: &[(String, Vec<u8>)]) {
    for (name, value) in fields {
        let (Ok(name), Ok(value)) = (Name::new(name), Value::new(value)) else {
            unreachable!("{name}: {value:?}");
        };
        to.append(name, value);
    }
}

fn limits() -> Limits {
    Limits {
        underscores: evenkeel_http1::Underscores::Keep,
        ..Limits::REQUESTS
    }
}

proptest! {
    #[test]
    fn nothing_panics_and_pieces_say_what_the_whole_says(bytes in message_like(), at in any::<prop::sample::Index>()) {
        let at = at.index(bytes.len() + 1);
        let mut parser = request::Parser::new();
        let mut head = RequestHead::new();
        let first = parser.parse(&bytes[..at], &Limits::REQUESTS, &mut head);
        let mut in_pieces = first;
        if first == Parsed::Need {
            in_pieces = parser.parse(&bytes, &Limits::REQUESTS, &mut head);
        }
        match (request::parse(&bytes, &Limits::REQUESTS), in_pieces) {
            (Parse::Need, Parsed::Need) => {}
            (Parse::Head { consumed, head: whole }, Parsed::Head { consumed: other }) => {
                prop_assert_eq!(consumed, other);
                prop_assert_eq!(whole, head);
            }
            (Parse::Bad(whole), Parsed::Bad(pieces)) => prop_assert_eq!(whole, pieces),
            (whole, pieces) => prop_assert!(false, "{whole:?} {pieces:?}"),
        }
    }

    #[test]
    fn answers_do_not_panic_and_pieces_say_what_the_whole_says(bytes in message_like(), at in any::<prop::sample::Index>(), websocket: bool) {
        let at = at.index(bytes.len() + 1);
        let context = RequestContext { websocket, ..RequestContext::default() };
        let (mut parser, mut head) = (answer::Parser::new(), AnswerHead::new());
        let mut in_pieces = parser.parse(&bytes[..at], &Limits::ANSWERS, &context, &mut head);
        if in_pieces == Parsed::Need {
            in_pieces = parser.parse(&bytes, &Limits::ANSWERS, &context, &mut head);
        }
        let whole = answer::Parser::new().parse(&bytes, &Limits::ANSWERS, &context, &mut AnswerHead::new());
        prop_assert_eq!(whole, in_pieces);
    }

    #[test]
    fn a_request_is_what_was_written((head, body) in request_head()) {
        let mut bytes = Vec::new();
        write::request(&mut bytes, &head, body, write::Connection::Stays);
        let Parse::Head { consumed, head: read } = request::parse(&bytes, &limits()) else {
            return Err(TestCaseError::fail(bytes.escape_ascii().to_string()));
        };
        prop_assert_eq!(consumed, bytes.len());
        prop_assert_eq!(framing::of_request(&read), body);
        prop_assert_eq!((read.method_name(), read.target(), read.authority()), (head.method_name(), head.target(), head.authority()));
        prop_assert_eq!(&read.fields, &head.fields);
        // And written again, it is the same to the byte.
        let mut again = Vec::new();
        write::request(&mut again, &read, body, write::Connection::Stays);
        prop_assert_eq!(again, bytes);
    }

    #[test]
    fn every_beginning_of_a_head_needs_more((head, body) in request_head()) {
        let mut bytes = Vec::new();
        write::request(&mut bytes, &head, body, write::Connection::Closes);
        let (mut parser, mut read) = (request::Parser::new(), RequestHead::new());
        for length in 0..bytes.len() {
            prop_assert_eq!(request::parse(&bytes[..length], &limits()), Parse::Need);
            prop_assert_eq!(parser.parse(&bytes[..length], &limits(), &mut read), Parsed::Need);
        }
        prop_assert_eq!(parser.parse(&bytes, &limits(), &mut read), Parsed::Head { consumed: bytes.len() });
    }

    #[test]
    fn an_answer_is_what_was_written(status in 200..600_u16, reason in "[ -~]{0,10}", fields in fields(), body in body()) {
        let start = format!("HTTP/1.1 {status} {reason}\r\n\r\n");
        let context = RequestContext::default();
        let answer::Parse::Head { mut head, .. } = answer::parse(start.as_bytes(), &Limits::ANSWERS, &context) else {
            return Err(TestCaseError::fail(start));
        };
        append(&mut head.fields, &fields);
        let body = if matches!(status, 204 | 304) { Body::None } else { body };
        let length = match body {
            Body::Length(length) => Some(length),
            Body::None if status != 204 => Some(0),
            Body::None | Body::Chunked | Body::ToEnd => None,
        };
        let outgoing = framing::Outgoing { body, length };
        let mut bytes = Vec::new();
        write::answer(&mut bytes, &head, outgoing, write::Connection::Stays, evenkeel_http::Version::Http11);
        let answer::Parse::Head { consumed, head: read } = answer::parse(&bytes, &Limits::ANSWERS, &context) else {
            return Err(TestCaseError::fail(bytes.escape_ascii().to_string()));
        };
        prop_assert_eq!(consumed, bytes.len());
        prop_assert_eq!((read.status(), read.reason()), (status, reason.trim().as_bytes()));
        prop_assert_eq!(framing::of_answer(&read, &context), body);
        prop_assert_eq!(read.fields, head.fields);
    }

    #[test]
    fn what_was_put_in_chunks_comes_out_in_any_split(chunks in vec(vec(any::<u8>(), 0..70), 0..6), fields in fields(), steps in vec(1..40_usize, 1..8)) {
        let mut encoded = Vec::new();
        for chunk in &chunks {
            chunked::chunk(&mut encoded, chunk);
        }
        let mut trailers = Fields::new();
        append(&mut trailers, &fields);
        trailers.remove_where(|field| !evenkeel_http::fields::may_be_trailer(field.name().as_bytes()));
        chunked::end(&mut encoded, &trailers);
        let length = encoded.len();
        encoded.extend(b"GET / HTTP/1.1\r\n");

        let mut decoder = chunked::Decoder::new(&Limits::REQUESTS);
        let (mut data, mut at) = (Vec::<u8>::new(), 0);
        for step in steps.iter().cycle() {
            let there = encoded.len().min(at + step);
            let piece = match decoder.decode(&encoded[at..there]) {
                Ok(piece) => piece,
                Err(rule) => return Err(TestCaseError::fail(rule.id)),
            };
            data.extend(&encoded[at..there][piece.data]);
            at += piece.consumed;
            if piece.ended {
                break;
            }
        }
        prop_assert_eq!(at, length);
        prop_assert_eq!(data, chunks.concat());
        prop_assert_eq!(decoder.trailers(), Ok(trailers));
    }

    #[test]
    fn chunks_do_not_panic(bytes in message_like()) {
        let mut decoder = chunked::Decoder::new(&Limits::REQUESTS);
        let mut at = 0;
        while let Ok(piece) = decoder.decode(&bytes[at..]) {
            prop_assert!(piece.data.end <= piece.consumed && piece.consumed <= bytes.len() - at);
            if piece.consumed == 0 {
                break;
            }
            at += piece.consumed;
        }
    }
}

/// How: the largest head, whole and byte by byte. Looking at all bytes again with each would be 32,768 times the work of one
/// look; it is allowed a hundredth of that, since calls cost something too.
#[test]
fn a_head_that_comes_byte_by_byte_is_not_looked_at_again_and_again() {
    let mut bytes = b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
    bytes.resize(Limits::REQUESTS.head_bytes - 4, b'x');
    bytes.extend(b"\r\n\r\n");
    let mut head = RequestHead::new();
    let whole = fastest(|| {
        let parsed = request::Parser::new().parse(&bytes, &Limits::REQUESTS, &mut head);
        assert_eq!(
            parsed,
            Parsed::Head {
                consumed: bytes.len()
            }
        );
    });
    let byte_by_byte = fastest(|| {
        let mut parser = request::Parser::new();
        for length in 0..bytes.len() {
            assert_eq!(
                parser.parse(&bytes[..length], &Limits::REQUESTS, &mut head),
                Parsed::Need
            );
        }
    });
    let share = byte_by_byte.as_secs_f64() / whole.as_secs_f64();
    assert!(share < 327.0, "{share} times {whole:?}");
}

fn fastest(mut what: impl FnMut()) -> Duration {
    let mut fastest = Duration::MAX;
    for _ in 0..5 {
        let begin = Instant::now();
        what();
        fastest = fastest.min(begin.elapsed());
    }
    fastest
}
