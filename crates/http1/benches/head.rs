//! What a head costs: parsed into memory that is used again, and written afresh. `cargo bench -p evenkeel-http1`.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use evenkeel_http::list::{Name, Value};
use evenkeel_http::{AnswerHead, RequestHead, Version};
use evenkeel_http1::answer::{self, RequestContext};
use evenkeel_http1::{Limits, chunked, framing, request, write};

/// What a phone with the CHT sends when it replicates.
const REQUEST: &[u8] = b"GET /medic/_changes?style=all_docs&heartbeat=10000&since=1234-g1AAAACheJzLYWBgYMpgTmEQTM4vTc5ISXIwNDLXMwBCwxyQVCJDUv3___-zMpgTxXKBAuzGyZYplilG2DTgMSaPBUgyNACp_1DTRMGmmRuZpaUlG2PTlwUAPv8mtA&limit=25 HTTP/1.1\r\n\
Host: cht.example.org\r\n\
User-Agent: Mozilla/5.0 (Linux; Android 13; SM-A135F) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Mobile Safari/537.36 medic.gateway\r\n\
Accept: application/json\r\n\
Accept-Encoding: gzip, deflate, br\r\n\
Accept-Language: en-US,en;q=0.9,sw;q=0.8\r\n\
Connection: keep-alive\r\n\
Cookie: AuthSession=Y2hhbmdlbWU6NjU1RTI0QjM6zYxJ9Tz7pM2mJ0n5m7xwq3c8h1E; userCtx=%7B%22name%22%3A%22chw-12%22%2C%22roles%22%3A%5B%22chw%22%5D%7D; locale=en\r\n\
Referer: https://cht.example.org/\r\n\
Sec-Fetch-Dest: empty\r\n\
Sec-Fetch-Mode: cors\r\n\
Sec-Fetch-Site: same-origin\r\n\
medic-replication-id: 3f1c1f9e-3a1b-4f0e-8a41-2f5f33c1d9a2\r\n\
X-Requested-With: XMLHttpRequest\r\n\
\r\n";

const SMALL: &[u8] = b"GET /small HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n";

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\n\
Cache-Control: must-revalidate\r\n\
Content-Type: application/json\r\n\
Date: Fri, 20 Nov 2026 10:00:00 GMT\r\n\
ETag: \"4AVHKQBRXV8LW26PKSVCAEXAM\"\r\n\
Server: CouchDB/3.3.3 (Erlang OTP/24)\r\n\
X-Couch-Request-ID: 9f9b1c3a51\r\n\
X-CouchDB-Body-Time: 0\r\n\
Transfer-Encoding: chunked\r\n\
\r\n";

fn heads(c: &mut Criterion) {
    for (name, bytes) in [("request_cht", REQUEST), ("request_small", SMALL)] {
        let (mut head, mut out) = (RequestHead::new(), Vec::new());
        c.bench_function(&format!("{name}_parse"), |b| {
            b.iter(|| request::Parser::new().parse(black_box(bytes), &Limits::REQUESTS, &mut head));
        });
        c.bench_function(&format!("{name}_parse_and_write"), |b| {
            b.iter(|| {
                let parsed =
                    request::Parser::new().parse(black_box(bytes), &Limits::REQUESTS, &mut head);
                let Ok(address) = Value::new(b"192.0.2.17") else {
                    unreachable!("it is a value")
                };
                head.fields
                    .set(Name::from_static("X-Forwarded-For"), address);
                out.clear();
                write::request(
                    &mut out,
                    &head,
                    framing::of_request(&head),
                    write::Connection::Stays,
                );
                (parsed, out.len())
            });
        });
    }
    let (mut head, mut out, context) = (AnswerHead::new(), Vec::new(), RequestContext::default());
    c.bench_function("answer_couchdb_parse_and_write", |b| {
        b.iter(|| {
            let parsed = answer::Parser::new().parse(
                black_box(ANSWER),
                &Limits::ANSWERS,
                &context,
                &mut head,
            );
            let outgoing =
                framing::to_client(&head, framing::of_answer(&head, &context), Version::Http11);
            out.clear();
            write::answer(
                &mut out,
                &head,
                outgoing,
                write::Connection::Stays,
                Version::Http11,
            );
            (parsed, out.len())
        });
    });
}

fn chunks(c: &mut Criterion) {
    let (mut body, mut data) = (Vec::new(), 0);
    for _ in 0..4 {
        chunked::chunk(&mut body, &[b'x'; 4096]);
    }
    body.extend(chunked::BODY_END);
    c.bench_function("chunked_4x4096_decode", |b| {
        b.iter(|| {
            let mut decoder = chunked::Decoder::new(&Limits::ANSWERS);
            let mut at = 0;
            while let Ok(piece) = decoder.decode(black_box(&body[at..])) {
                at += piece.consumed;
                data += piece.data.len();
                if piece.ended {
                    break;
                }
            }
            data
        });
    });
}

criterion_group!(benches, heads, chunks);
criterion_main!(benches);
