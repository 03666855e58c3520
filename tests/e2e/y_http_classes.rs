//! Each class of advisories about HTTP/1, through the real daemon.

use std::time::Duration;

use evenkeel_testkit::eventually;
use evenkeel_testkit::http::{Answer, Gate, HttpClient, upgrade_request};

use crate::SOON;
use crate::x_http::connection_of;
use crate::y_http_corpus::{Answers, HIDDEN, Strict, answer_target, answers_until, corpus};

/// CL.TE and TE.CL, RFC 9112 sections 6.1 and 6.3.
#[test]
fn class_both_lengths() {
    Strict::new().requests(&["cl-te", "te-cl", "te-cl-0", "te-cl-get"]);
}

/// CVE-2021-21299 (hyper), CVE-2026-2835 (Pingora), CVE-2019-18277 (HAProxy), CVE-2019-15605 (Node).
#[test]
fn class_lists_of_transfer_codings() {
    Strict::new().requests(&[
        "te-chunked-chunked",
        "te-two-fields",
        "te-two-fields-identity",
        "te-two-fields-cow",
        "te-identity",
        "te-identity-chunked",
        "te-gzip-chunked",
        "te-chunked-gzip",
        "te-unknown",
        "te-empty",
        "te-empty-element",
        "te-empty-element-last",
        "te-vertical-tab",
        "te-form-feed",
        "te-nul",
        "te-nbsp",
        "te-quoted",
        "te-single-quoted",
        "te-parameter",
        "te-space-list",
        "te-colon",
    ]);
}

/// CVE-2026-2835 (Pingora): chunks over HTTP/1.0, and a body that ends with the connection.
#[test]
fn class_http_1_0_with_transfer_encoding() {
    let strict = Strict::new();
    strict.requests(&["te-http10", "te-http10-cl", "te-http10-get"]);
    // Without a length there is no body: what follows is not one, and as the connection closes it is nothing.
    let mark = strict.server.requests();
    let mut client = HttpClient::connect(strict.address);
    client.send(format!("POST /old HTTP/1.0\r\nHost: a\r\n\r\n{HIDDEN}"));
    let (answers, _) = answers_until(&mut client, false);
    assert_eq!(answers.len(), 1, "{answers:?}");
    strict.good_next(mark).unwrap();
}

/// CVE-2021-32715 (hyper), CVE-2023-40225 (HAProxy), CVE-2023-34188 (Mongoose).
#[test]
fn class_syntax_of_lengths() {
    Strict::new().requests(&[
        "cl-plus",
        "cl-negative",
        "cl-empty",
        "cl-spaces",
        "cl-hex",
        "cl-exponent",
        "cl-dot",
        "cl-underscore",
        "cl-space-inside",
        "cl-quoted",
        "cl-junk",
        "cl-list-equal",
        "cl-list-different",
        "cl-list-empty-element",
        "cl-other-digits",
        "cl-two-equal",
        "cl-two-different",
        "cl-two-one-empty",
        "cl-two-get",
        "cl-2pow64",
        "cl-2pow63",
        "cl-100-digits",
    ]);
}

/// CVE-2020-35863 (hyper), 0.CL and CL.0 (2022, 2025), TE.0 (2024): a body is a body with every method, and is always consumed.
#[test]
fn class_bodies_of_requests_that_have_none_elsewhere() {
    let strict = Strict::new();
    strict.requests(&["cl-get", "cl-head", "cl-delete", "te-get", "te-options"]);
    for method in ["GET", "OPTIONS", "DELETE", "PROPFIND", "POST"] {
        let length = HIDDEN.len();
        let seen = strict.served(&format!(
            "{method} /body HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{HIDDEN}"
        ));
        assert_eq!(seen.body.unwrap().text(), HIDDEN, "{method}");
        let chunk = format!("{length:x}\r\n{HIDDEN}\r\n0\r\n\r\n");
        let seen = strict.served(&format!(
            "{method} /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}"
        ));
        assert_eq!(seen.body.unwrap().text(), HIDDEN, "{method}");
    }
}

/// CVE-2021-32714 (hyper), VSV00001 (Varnish).
#[test]
fn class_sizes_of_chunks() {
    Strict::new().requests(&[
        "ch-17-digits",
        "ch-17-zeros",
        "ch-2pow63",
        "ch-2pow64",
        "ch-no-size",
        "ch-prefix",
        "ch-plus",
        "ch-minus",
        "ch-underscore",
        "ch-space-before",
        "ch-space-behind",
    ]);
}

/// CVE-2025-22871 (Go), errata 7633, VSV00016 (Varnish).
#[test]
fn class_bare_line_feeds_in_chunks() {
    Strict::new().requests(&[
        "ch-lf-size",
        "ch-lf-before-size",
        "ch-lf-data",
        "ch-lf-last",
        "ch-lf-end",
        "ch-cr-size",
        "ch-cr-end",
        "ch-cr-data",
        "ch-xx",
        "ch-data-longer",
        "ch-no-end-behind-data",
    ]);
}

/// CVE-2025-55315 (Kestrel), TERM.EXT and EXT.TERM, CVE-2026-24033 (Traffic Server), CVE-2023-39326 (Go).
#[test]
fn class_chunk_extensions() {
    let strict = Strict::new();
    strict.requests(&[
        "ch-ext-dropped",
        "ch-ext-quoted-high-byte",
        "ch-ext-lf",
        "ch-ext-lf-nameless",
        "ch-ext-cr",
        "ch-ext-quoted-crlf",
        "ch-ext-quoted-lf",
        "ch-ext-quoted-open",
        "ch-ext-nameless",
        "ch-ext-valueless",
    ]);
    let volume = corpus("requests")
        .into_iter()
        .find(|entry| entry.name == "ch-ext-volume");
    strict.request(&volume.unwrap(), false, HIDDEN).unwrap();
}

/// CVE-2024-35161 (Traffic Server).
#[test]
fn class_trailers() {
    Strict::new().requests(&[
        "ch-trailer",
        "ch-trailer-framing",
        "ch-trailer-routing",
        "ch-trailer-authentication",
        "ch-trailer-malformed",
        "ch-trailer-nameless",
        "ch-trailer-fold",
        "ch-trailer-lf",
    ]);
}

/// CVE-2023-25725 (HAProxy).
#[test]
fn class_empty_names_of_fields() {
    Strict::new().requests(&[
        "fd-empty-name",
        "fd-empty-name-only",
        "fd-no-colon",
        "fd-no-colon-first",
    ]);
}

/// CVE-2021-40346 (HAProxy): a name of 270 bytes that begins with Content-Length.
#[test]
fn class_overflow_of_names_of_fields() {
    let strict = Strict::new();
    strict.requests(&["cl-long-name", "fd-name-256", "fd-name-255"]);
    let long = format!("Content-Length0{}", "a".repeat(255));
    strict.refused(
        &format!("POST / HTTP/1.1\r\nHost: a\r\n{long}: \r\nContent-Length: 0\r\n\r\n"),
        431,
    );
}

/// CVE-2021-39241, CVE-2021-39240, CVE-2021-39242 (HAProxy).
#[test]
fn class_methods_with_spaces_schemes_and_authorities() {
    Strict::new().requests(&[
        "rl-second-line",
        "rl-space-in-target",
        "rl-two-spaces",
        "rl-method-colon",
        "rl-scheme-odd",
        "rl-scheme-ftp",
        "rl-absolute-other-host",
        "rl-absolute-other-port",
        "rl-absolute-user",
        "rl-absolute-empty-authority",
        "rl-absolute-query-only",
    ]);
}

/// CVE-2023-45539 (HAProxy), CVE-2023-47106 (Traefik).
#[test]
fn class_fragments_in_targets() {
    Strict::new().requests(&[
        "rl-fragment",
        "rl-fragment-in-query",
        "rl-fragment-absolute",
    ]);
}

/// CVE-2025-32094 (Akamai), CVE-2025-55702 (Traffic Server).
#[test]
fn class_folding_and_expectations() {
    let strict = Strict::new();
    strict.requests(&[
        "cl-expect-folded",
        "cl-expect-unknown",
        "cl-expect-two",
        "cl-expect-empty",
        "expect-continue",
        "expect-continue-http10",
        "fold-space",
        "fold-te",
    ]);
    // The backend answers before it has the body: what the client then sends is the body, or nothing.
    strict.server.set(|exchange| {
        if exchange.target() == "/early" {
            exchange.answer_early(417, "", "no");
            exchange.wait_end();
        } else {
            answer_target(exchange);
        }
    });
    let mark = strict.server.requests();
    let mut client = HttpClient::connect(strict.address);
    let length = HIDDEN.len();
    let head = format!(
        "POST /early HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
    );
    assert!(client.send(head));
    assert_eq!(client.answer("POST").unwrap().status(), 417);
    client.send(HIDDEN);
    client.send(HIDDEN);
    let (answers, _) = if client.end(Duration::from_millis(100)).is_some() {
        (Vec::new(), None)
    } else {
        answers_until(&mut client, false)
    };
    // Where the connection stays, the first is the body and only the second one a request.
    assert!(answers.len() < 2, "{answers:?}");
    if answers.is_empty() {
        strict.good_next(mark).unwrap();
    }
}

/// CVE-2025-31699 (Traffic Server), hyper PR 2646, CVE-2024-24791 (Go): the backend answers before the body was sent.
#[test]
fn class_early_answers() {
    let strict = Strict::new();
    let gate = Gate::new();
    let wait = gate.clone();
    strict.server.set(move |exchange| {
        if exchange.target() == "/early" {
            exchange.answer_early(401, "", "no");
            wait.wait();
        } else {
            answer_target(exchange);
        }
    });
    let mut client = HttpClient::connect(strict.address);
    let length = 2 * HIDDEN.len();
    assert!(client.send(format!(
        "POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{HIDDEN}"
    )));
    assert_eq!(client.answer("POST").unwrap().status(), 401);
    let early = connection_of(&strict.server, "/early");
    for _ in 0..5 {
        strict.good_next(0).unwrap();
        assert_ne!(
            connection_of(&strict.server, "/good"),
            early,
            "it still owes a body"
        );
    }
    gate.open();
    client.send(HIDDEN);
    strict.good_next(0).unwrap();
}

/// CVE-2025-4366 (Pingora), CVE-2022-22720 (Apache), VSV00008 (Varnish): see also `the_body_behind_an_answer_of_our_own_is_no_request`.
#[test]
fn class_bodies_that_nobody_read() {
    let strict = Strict::new();
    strict.server.kill();
    for framing in [
        format!("Content-Length: {}\r\n\r\n{HIDDEN}", HIDDEN.len()),
        format!(
            "Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{HIDDEN}\r\n0\r\n\r\n",
            HIDDEN.len()
        ),
    ] {
        let mut client = HttpClient::connect(strict.address);
        let request = format!(
            "POST / HTTP/1.1\r\nHost: a\r\n{framing}GET /second HTTP/1.1\r\nHost: a\r\n\r\n"
        );
        assert!(client.send(request));
        let (answers, end) = answers_until(&mut client, false);
        let statuses: Vec<_> = answers.iter().map(Answer::status).collect();
        assert!(
            statuses == [503] || statuses == [503, 503],
            "{statuses:?} {end:?}"
        );
    }
    strict.server.resume();
    eventually(SOON, "it serves again", || strict.good_next(0).ok());
}

/// VSV00015, CVE-2025-30346 (Varnish): a malformed request on a kept connection ends it.
#[test]
fn class_dead_pipelines() {
    let strict = Strict::new();
    strict.requests(&["pl-bad-second", "pl-junk-behind-body", "pl-after-close"]);
    let mut client = HttpClient::connect(strict.address);
    for _ in 0..3 {
        assert_eq!(client.get("/first").status(), 200);
    }
    client.send(format!("GET /bad HTTP/1.1\r\nHost : a\r\n\r\n{HIDDEN}"));
    let (answers, end) = answers_until(&mut client, false);
    assert_eq!((answers.len(), answers[0].status()), (1, 400));
    assert!(end.is_some());
    strict.good_next(0).unwrap();
}

/// Response splitting: LF or CR in a value of a backend's.
#[test]
fn class_splitting_of_answers() {
    Answers::new().all(&[
        "r-lf-in-value",
        "r-cr-in-value",
        "r-lf-only",
        "r-nul",
        "r-fold",
    ]);
}

/// RFC 9112 section 6.3: two lengths, both framings, bad chunks.
#[test]
fn class_framing_of_answers() {
    Answers::new().all(&[
        "r-cl-two",
        "r-cl-two-equal",
        "r-cl-list",
        "r-cl-plus",
        "r-cl-te",
        "r-te-cl",
        "r-te-chunked-chunked",
        "r-te-two",
        "r-te-http10",
        "r-ch-size",
        "r-ch-large",
        "r-ch-lf",
        "r-ch-end",
    ]);
}

/// CVE-2026-42584 (Netty), Bun 37438: spare bytes behind an answer; the next client gets its own.
#[test]
fn class_desynchronised_answers() {
    Answers::new().all(&[
        "r-two",
        "r-two-chunked",
        "r-length-0-spare",
        "r-head-body",
        "r-204-body",
        "r-204-announced",
        "r-304-body",
    ]);
}

/// CVE-2026-73548 (Envoy), CVE-2026-71324 (Traefik): no tunnel for CONNECT or an unknown upgrade.
#[test]
fn class_tunnels_that_nobody_may_have() {
    let strict = Strict::new();
    strict.requests(&[
        "rl-connect",
        "rl-connect-path",
        "rl-connect-http10",
        "up-unknown",
        "up-tls",
    ]);
    // Not even where the backend says so.
    strict.server.set(|exchange| {
        if exchange.target() == "/socket" {
            exchange.send(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: Upgrade\r\n\r\n",
            );
            exchange.wait_end();
        } else {
            answer_target(exchange);
        }
    });
    let mark = strict.server.requests();
    let mut client = HttpClient::connect(strict.address);
    client.send(format!(
        "GET /socket HTTP/1.1\r\nHost: a\r\nUpgrade: other\r\nConnection: Upgrade\r\n\r\n{HIDDEN}"
    ));
    assert_eq!(client.answer("GET").unwrap().status(), 502);
    drop(client);
    let seen = strict.server.seen_since(mark);
    assert!(seen[0].head.field("upgrade").is_none(), "{seen:?}");
}

/// CVE-2026-2833 (Pingora), CVE-2026-69243 (aiohttp): bytes behind a request for an upgrade are requests unless there is a 101.
#[test]
fn class_premature_upgrades() {
    let strict = Strict::new();
    strict.requests(&["up-early-bytes", "up-body", "up-http10", "up-unnamed"]);
    strict.server.set(|exchange| {
        let target = format!("X-Target: {}\r\n", exchange.target());
        exchange.answer(200, &target, "");
    });
    // Refused: the second request is one of its own, checked and forwarded as any other.
    let mut client = HttpClient::connect(strict.address);
    let upgrade = upgrade_request("/socket");
    client.send(format!(
        "{upgrade}GET /second HTTP/1.1\r\nHost: a\r\nConnection: x, X-Gone\r\nX-Gone: 1\r\n\r\n"
    ));
    assert_eq!(client.answer("GET").unwrap().status(), 200);
    assert_eq!(
        client.answer("GET").unwrap().field("x-target").as_deref(),
        Some("/second")
    );
    let second = strict.server.last();
    assert!(second.head.field("x-gone").is_none() && second.head.field("connection").is_none());
    let mut client = HttpClient::connect(strict.address);
    client.send(format!("{upgrade}GET /hidden HTTP/1.1\r\nHost : a\r\n\r\n"));
    assert_eq!(client.answer("GET").unwrap().status(), 200);
    assert_eq!(client.answer("GET").unwrap().status(), 400);
    strict.good_next(0).unwrap();
}

/// CVE-2024-23326 (Envoy): a 200 is a plain answer; a 101 that nobody asked for is a 502.
#[test]
fn class_200_taken_for_an_upgrade() {
    Answers::new().all(&[
        "r-200-upgrade",
        "r-426",
        "r-101-unasked",
        "r-101-http10",
        "r-101-unnamed",
        "r-101-other",
        "r-101-no-connection",
    ]);
}

/// h2c smuggling (2020): `Upgrade: h2c` and `HTTP2-Settings` in any spelling.
#[test]
fn class_h2c() {
    let strict = Strict::new();
    strict.requests(&[
        "up-h2c",
        "up-h2c-unnamed",
        "up-h2c-spelling",
        "up-list",
        "up-two",
        "rl-http2-preface",
    ]);
}

/// CVE-2022-31813 (Apache), CVE-2021-33197 (Go), CVE-2024-45410 (Traefik), CVE-2025-48865 (Fabio), CVE-2022-45059 (Varnish).
#[test]
fn class_fields_that_are_named_away() {
    let strict = Strict::new();
    strict.requests(&[
        "hop-named",
        "hop-named-before",
        "hop-named-forwarded",
        "hop-named-host",
        "hop-named-transfer-encoding",
        "hop-all",
        "hop-close-among-others",
        "hop-quoted",
        "hop-high-byte",
    ]);
}

/// CVE-2025-64484 (oauth2-proxy): see also `what_strangers_say_of_who_asked_is_removed` and `couchdb_never_sees_who_a_client_says_it_is`.
#[test]
fn class_twins_with_underscores() {
    let strict = Strict::new();
    strict.requests(&["xff-underscore", "host-underscore"]);
    let seen = strict.served(
        "GET /twins HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: 6.6.6.6\r\nContent_Length: 5\r\nX_Real_IP: 6.6.6.6\r\n\r\n",
    );
    assert_eq!(seen.head.fields().len(), 1, "{seen:?}");
}

/// Two Hosts, none, or one that says several things: what routes here must be what routes behind (RFC 9112 section 3.2).
#[test]
fn class_hosts() {
    Strict::new().requests(&[
        "host-none",
        "host-two",
        "host-two-equal",
        "host-list",
        "host-empty",
        "host-user",
        "host-path",
        "host-uri",
        "fd-host-space",
    ]);
}
