//! HTTP services: connections that are kept, bodies of every framing, answers of every kind, clients that go.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use evenkeel_control::operator::Status;
use evenkeel_testkit::http::{Ended, Framing, Gate, Head, HttpBackend, HttpClient};
use evenkeel_testkit::{Daemon, eventually, pause_until, proc};

use crate::{PROGRAM, SOON, alone, backend, file};

const MIB: usize = 1024 * 1024;

/// A service of HTTP on a port that the kernel chooses, without checks. `lines` are its further keys, then its tables.
pub(crate) fn service(name: &str, backends: &[&HttpBackend], lines: &str) -> String {
    service_at("listen = \"127.0.0.1:0\"", name, backends, lines)
}

/// One without a listener, for routes to lead to.
pub(crate) fn inner(name: &str, backends: &[&HttpBackend], lines: &str) -> String {
    service_at("", name, backends, lines)
}

fn service_at(listen: &str, name: &str, backends: &[&HttpBackend], lines: &str) -> String {
    let mut source = String::new();
    if !backends.is_empty() {
        let all: Vec<_> = backends
            .iter()
            .map(|one| backend(one.name(), &one.address()))
            .collect();
        source = format!("check = \"none\"\nbackends = [{}]\n", all.join(", "));
    }
    format!("[services.{name}]\nmode = \"http\"\n{listen}\n{source}{lines}\n")
}

/// A daemon with this many workers, and the address of its service `web`.
pub(crate) fn start(workers: u16, services: &str) -> (Daemon, SocketAddr) {
    let text = file("", services).replace("workers = 2", &format!("workers = {workers}"));
    let daemon = Daemon::builder(PROGRAM, &text).start();
    daemon.wait_backends_up();
    let address = daemon.address("web");
    (daemon, address)
}

/// A daemon of one worker, so that there is one pool of connections, with one service `web`.
pub(crate) fn web(backends: &[&HttpBackend], lines: &str) -> (Daemon, SocketAddr) {
    start(1, &service("web", backends, lines))
}

/// Waits until no request runs any more and no connection has its backend, and checks that the books are balanced: each request
/// was answered, became a tunnel, or failed; and the metrics say the same as the status.
pub(crate) fn assert_rest(daemon: &Daemon) -> Status {
    let at_rest = |status: &Status| {
        status.services.iter().all(|service| {
            let http = service.http.as_ref();
            service.queued == 0
                && http.is_none_or(|http| http.active == 0)
                && service.backends.iter().all(|backend| backend.active == 0)
        })
    };
    let status = daemon.wait_status("no request is active", at_rest);
    let metrics = daemon.metrics();
    for service in &status.services {
        let Some(http) = &service.http else { continue };
        let answered = http.answers.values().sum::<u64>() + http.upgrades;
        let failed: u64 = http.failed.values().sum();
        assert!(
            answered <= http.requests && http.requests <= answered + failed,
            "{http:#?}"
        );
        assert!(http.own_answers <= answered, "{http:#?}");
        let of = |name: &str| metrics.value(name, &[("service", &service.name)]);
        assert_eq!(of("evenkeel_http_active_requests"), Some(0.0), "{http:#?}");
        let total = of("evenkeel_http_requests_total").unwrap_or_default();
        assert!(
            (total - http.requests as f64).abs() < 0.5,
            "{total} in the metrics, {http:#?}"
        );
        for backend in &service.backends {
            let sent = backend.http.unwrap_or_default();
            assert!(sent.reused <= sent.requests, "{backend:#?}");
        }
    }
    status
}

/// A server that sends the request's body back, in the framing in which it came.
pub(crate) fn echo(name: &str) -> HttpBackend {
    HttpBackend::start(name, |exchange| {
        if !exchange.body() {
            return;
        }
        let content = exchange.content().to_vec();
        if exchange.head.names("transfer-encoding", "chunked") {
            let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            for piece in content.chunks(1_000) {
                bytes.extend(format!("{:x}\r\n", piece.len()).bytes());
                bytes.extend(piece);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\nX-Sum: 7\r\n\r\n");
            exchange.send(bytes);
        } else {
            exchange.answer(200, "", content);
        }
    })
}

/// The connection over which the last request of the path came.
pub(crate) fn connection_of(backend: &HttpBackend, target: &str) -> u64 {
    let seen = backend.seen();
    let found = seen.iter().rfind(|seen| seen.head.target() == target);
    found.unwrap_or_else(|| panic!("no {target}")).connection
}

#[test]
fn connections_are_kept_on_both_sides() {
    let server = HttpBackend::named("b1");
    let (daemon, address) = web(&[&server], "");
    for _ in 0..3 {
        let mut client = HttpClient::connect(address);
        for number in 0..20 {
            let answer = client.get(&format!("/{number}"));
            assert_eq!((answer.status(), answer.text().as_str()), (200, "b1"));
            assert!(!answer.closes());
        }
    }
    assert_eq!(server.connections(), 1, "for 60 requests of three clients");
    let status = assert_rest(&daemon);
    let (service, backend) = (&status.services[0], &status.services[0].backends[0]);
    let sent = backend.http.unwrap();
    assert_eq!((sent.requests, sent.reused, sent.idle), (60, 59, 1));
    let http = service.http.as_ref().unwrap();
    assert_eq!(
        (http.requests, http.answers["2xx"], http.own_answers),
        (60, 60, 0)
    );
    assert_eq!(server.last().number, 60);
}

#[test]
fn requests_are_balanced_and_not_connections() {
    let servers: Vec<_> = ["b1", "b2", "b3", "b4"].map(HttpBackend::named).into();
    let all: Vec<_> = servers.iter().collect();
    let (_daemon, address) = start(2, &service("web", &all, ""));
    let mut clients: Vec<_> = (0..4).map(|_| HttpClient::connect(address)).collect();
    for turn in 0..10 {
        for client in &mut clients {
            assert_eq!(client.get("/").status(), 200);
        }
        for server in &servers {
            assert_eq!(server.requests(), turn + 1, "exact over all workers");
        }
    }
}

#[test]
fn answers_without_a_body_leave_the_connection_as_it_was() {
    let server = HttpBackend::start("b1", |exchange| {
        let answer = match &*exchange.target() {
            "/204" => "HTTP/1.1 204 No Content\r\nA: b\r\n\r\n",
            "/304" => "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 5\r\n\r\n",
            "/head" => "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
            "/empty" => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        };
        exchange.send(answer);
    });
    let (_daemon, address) = web(&[&server], "");
    let mut client = HttpClient::connect(address);
    for _ in 0..3 {
        let answer = client
            .ask("HEAD /head HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        assert_eq!(answer.field("content-length").as_deref(), Some("1000"));
        let answer = client.get("/204");
        assert_eq!(
            (answer.status(), answer.field("content-length")),
            (204, None)
        );
        let answer = client.get("/304");
        assert_eq!(answer.field("content-length").as_deref(), Some("5"));
        assert_eq!(client.get("/empty").body.framing, Framing::Length(0));
        assert_eq!(client.get("/hello").text(), "hello");
    }
    assert_eq!(server.connections(), 1);
}

#[test]
fn bodies_go_through_in_chunks_and_by_length() {
    let server = echo("b1");
    let (_daemon, address) = web(&[&server], "");
    let mut client = HttpClient::connect(address);
    let chunked = "POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer = client
        .ask(format!(
            "{chunked}3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n"
        ))
        .unwrap();
    assert_eq!(
        (answer.text().as_str(), answer.body.framing),
        ("abcde", Framing::Chunked)
    );
    assert_eq!(answer.body.trailers, b"X-Sum: 7\r\n\r\n");
    let seen = server.last();
    let body = seen.body.as_ref().unwrap();
    assert_eq!(
        (body.framing, body.text().as_str()),
        (Framing::Chunked, "abcde")
    );
    assert_eq!(body.trailers, b"X-Sum: 1\r\n\r\n");
    // Byte by byte, and in chunks of one byte.
    let mut bytes = chunked.to_owned();
    bytes.extend("hello".chars().map(|letter| format!("1\r\n{letter}\r\n")));
    bytes.push_str("0\r\n\r\n");
    assert!(client.send_bytewise(&bytes));
    assert_eq!(client.answer("POST").unwrap().text(), "hello");
    // By length, of every size around that of a buffer.
    for length in [0, 1, 999, 4_096, 16_383, 16_384, 16_385, 65_536, 200_001] {
        let content = "x".repeat(length);
        let answer = client.post("/l", &content);
        assert_eq!(answer.body.framing, Framing::Length(length));
        assert_eq!(answer.text(), content);
        let whole = format!("{chunked}{length:x}\r\n{content}\r\n0\r\n\r\n");
        if length > 0 {
            assert_eq!(client.ask(whole).unwrap().text(), content);
        }
    }
    assert_eq!(server.connections(), 1);
}

#[test]
fn an_answer_to_the_end_has_an_end_for_every_client() {
    let server = HttpBackend::start("b1", |exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nA: b\r\n\r\nhello");
        if exchange.target() == "/cut" {
            exchange.reset();
        } else {
            exchange.close();
        }
    });
    let (_daemon, address) = web(&[&server], "");
    let mut client = HttpClient::connect(address);
    for _ in 0..3 {
        let answer = client.get("/");
        assert_eq!(
            (answer.text().as_str(), answer.body.framing),
            ("hello", Framing::Chunked)
        );
        assert!(!answer.closes());
    }
    let mut old = HttpClient::connect(address);
    let answer = old
        .ask("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        .unwrap();
    assert_eq!(
        (answer.text().as_str(), answer.body.framing),
        ("hello", Framing::ToEnd)
    );
    assert!(answer.head.field("transfer-encoding").is_none());
    // What was broken off never looks whole.
    let broken = client.ask("GET /cut HTTP/1.1\r\nHost: a\r\n\r\n");
    match broken {
        Err(broken) => assert!(!broken.got.ends_with(b"0\r\n\r\n"), "{broken:?}"),
        Ok(answer) => assert_eq!(answer.status(), 502, "{answer:?}"),
    }
    let mut old = HttpClient::connect(address);
    match old.ask("GET /cut HTTP/1.0\r\n\r\n") {
        Err(broken) => assert_eq!(broken.by, Ended::Reset, "{broken:?}"),
        Ok(answer) => assert_eq!(answer.status(), 502, "{answer:?}"),
    }
}

#[test]
fn clients_of_http_1_0_are_served_in_their_way() {
    let server = echo("b1");
    let (_daemon, address) = web(&[&server], "");
    let mut client = HttpClient::connect(address);
    let kept =
        "POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nab";
    for _ in 0..3 {
        let answer = client.ask(kept).unwrap();
        assert_eq!((answer.text().as_str(), answer.status()), ("ab", 200));
        assert!(answer.head.names("connection", "keep-alive"), "{answer:?}");
    }
    let answer = client.ask("GET / HTTP/1.0\r\n\r\n").unwrap();
    assert!(answer.closes(), "{answer:?}");
    client.assert_ends();
    assert!(server.last().head.first_line().ends_with(" HTTP/1.1"));
    assert_eq!(
        server.connections(),
        1,
        "the backend's connection is kept all the same"
    );
}

#[test]
fn a_client_that_waits_for_100_gets_it_or_the_final_answer() {
    let server = HttpBackend::start("b1", |exchange| {
        if exchange.target() == "/no" {
            exchange.answer_early(403, "Connection: close\r\n", "no");
            return exchange.close();
        }
        exchange.send("HTTP/1.1 100 Continue\r\n\r\n");
        exchange.answer(201, "", "yes");
    });
    let (_daemon, address) = web(&[&server], "");
    let mut client = HttpClient::connect(address);
    let head = |path: &str| {
        format!(
            "PUT {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        )
    };
    for _ in 0..3 {
        assert!(client.send(head("/yes")));
        assert_eq!(client.head().unwrap().status(), 100);
        assert!(client.send("hello"));
        assert_eq!(client.answer("PUT").unwrap().text(), "yes");
    }
    let seen = server.last();
    assert_eq!(seen.head.field("expect").as_deref(), Some("100-continue"));
    assert_eq!(seen.body.unwrap().text(), "hello");
    // Refused: what follows cannot be told from the body, so it is not looked at as a request.
    assert!(client.send(head("/no")));
    let answer = client.answer("PUT").unwrap();
    assert_eq!((answer.status(), answer.text().as_str()), (403, "no"));
    if answer.closes() {
        client.send("GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n");
        let end = client.end(SOON);
        assert!(matches!(end, Some(Ended::Fin | Ended::Reset)), "{end:?}");
    } else {
        assert!(client.send("hello"));
        assert_eq!(client.get("/yes").interim.len(), 1);
    }
    let seen = server.seen();
    assert!(seen.iter().all(|seen| seen.head.target() != "/hidden"));
}

/// CouchDB answers 401 when it has seen the head, and closes without having read the body: the answer must not be lost by the reset
/// that follows (CVE-2025-31699 and hyper PR 2646 are about what becomes of the connection).
#[test]
fn an_early_answer_reaches_a_client_that_still_sends() {
    let server = HttpBackend::start("b1", |exchange| {
        if exchange.target() == "/big" {
            exchange.answer_early(401, "Connection: close\r\n", "who are you");
            return exchange.close();
        }
        exchange.answer(200, "", "fine");
    });
    let (_daemon, address) = web(&[&server], "");
    let body = vec![b'x'; 5 * MIB];
    for turn in 0..10 {
        let mut client = HttpClient::connect(address);
        let head = format!(
            "PUT /big HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        assert!(client.send(head));
        // Where the daemon closes after a while, the rest is not taken; the answer must be there all the same.
        client.send(&body);
        let answer = client.answer("PUT");
        let answer = answer.unwrap_or_else(|broken| panic!("at {turn}: {broken:?}"));
        assert_eq!(
            (answer.status(), answer.text().as_str()),
            (401, "who are you")
        );
        // The next client gets its own answer.
        assert_eq!(HttpClient::connect(address).get("/").text(), "fine");
    }
    // The same from a backend that keeps its connection open and reads nothing more: never used again.
    let gate = Gate::new();
    let wait = gate.clone();
    server.set(move |exchange| {
        if exchange.target() == "/big" {
            exchange.answer_early(401, "", "who");
            wait.wait();
            exchange.leave();
        } else {
            exchange.answer(200, "", "fine");
        }
    });
    let mut client = HttpClient::connect(address);
    assert!(client.send("PUT /big HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf"));
    assert_eq!(client.answer("PUT").unwrap().status(), 401);
    let early = connection_of(&server, "/big");
    assert_eq!(HttpClient::connect(address).get("/after").text(), "fine");
    assert_ne!(connection_of(&server, "/after"), early);
    gate.open();
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let gate = Gate::new();
    let wait = gate.clone();
    let server = HttpBackend::start("b1", move |exchange| {
        let target = exchange.target();
        if target == "/0" {
            wait.wait();
        }
        exchange.answer(200, "", target);
    });
    let (_daemon, address) = web(&[&server, &HttpBackend::named("unused")][..1], "");
    let mut client = HttpClient::connect(address);
    let mut bytes = String::new();
    for number in 0..50 {
        let request = if number % 3 == 0 {
            format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n")
        } else {
            format!("POST /{number} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
        };
        bytes.push_str(&request);
    }
    assert!(client.send(&bytes));
    eventually(SOON, "the first is there", || {
        (server.requests() > 0).then_some(())
    });
    gate.open();
    for number in 0..50 {
        assert_eq!(client.answer("GET").unwrap().text(), format!("/{number}"));
    }
    // Half of the next one came with the one before.
    assert!(client.send("GET /50 HTTP/1.1\r\nHost: a\r\n\r\nGET /51 HT"));
    assert_eq!(client.answer("GET").unwrap().text(), "/50");
    assert!(client.send("TP/1.1\r\nHost: a\r\n\r\n"));
    assert_eq!(client.answer("GET").unwrap().text(), "/51");
    // The last one ends it, and what stands behind it is nobody's.
    assert!(client.send(
        "GET /52 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /53 HTTP/1.1\r\nHost: a\r\n\r\n"
    ));
    assert!(client.answer("GET").unwrap().closes());
    let end = client.end(SOON);
    assert!(matches!(end, Some(Ended::Fin | Ended::Reset)), "{end:?}");
    assert_eq!(server.requests(), 53);
}

#[test]
fn interim_answers_are_passed_on() {
    let server = HttpBackend::start("b1", |exchange| {
        exchange
            .send("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
        exchange.answer(200, "", "b1");
    });
    let (_daemon, address) = web(&[&server], "");
    let mut client = HttpClient::connect(address);
    for _ in 0..2 {
        let answer = client.get("/");
        let statuses: Vec<_> = answer.interim.iter().map(Head::status).collect();
        assert_eq!((statuses, answer.text().as_str()), (vec![102, 103], "b1"));
        assert_eq!(answer.interim[1].field("link").as_deref(), Some("</a>"));
    }
    let mut old = HttpClient::connect(address);
    let answer = old.ask("GET / HTTP/1.0\r\n\r\n").unwrap();
    assert!(answer.interim.is_empty(), "HTTP/1.0 knows none: {answer:?}");
}

#[test]
fn a_head_may_come_byte_by_byte_from_both_sides() {
    let server = HttpBackend::start("b1", |exchange| {
        for byte in b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        {
            exchange.send([*byte]);
        }
    });
    let (_daemon, address) = web(&[&server], "");
    let mut client = HttpClient::connect(address);
    for _ in 0..3 {
        assert!(client.send_bytewise("\r\nGET /slow HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\n"));
        assert_eq!(client.answer("GET").unwrap().text(), "hello");
    }
    assert_eq!(server.last().head.field("a").as_deref(), Some("b"));
}

/// 50 MB up and down at once, by length and in chunks: the worker holds buffers and not bodies.
#[test]
fn large_bodies_cost_no_memory() {
    const BYTES: usize = 50 * MIB;
    let _alone = alone();
    let server = HttpBackend::start("b1", |exchange| {
        if exchange.target() == "/up" {
            if exchange.skip_body() {
                exchange.answer(200, "", "whole");
            }
            return;
        }
        let piece = vec![b'x'; MIB];
        if exchange.target() == "/down" {
            exchange.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n"
            ));
            (0..BYTES / MIB).all(|_| exchange.send(&piece));
        } else {
            exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            for _ in 0..BYTES / MIB {
                exchange.send(format!("{MIB:x}\r\n"));
                exchange.send(&piece);
                exchange.send("\r\n");
            }
            exchange.send("0\r\n\r\n");
        }
    });
    let (daemon, address) = web(&[&server], "");
    let worker = daemon.workers()[0];
    let mut client = HttpClient::connect(address);
    assert_eq!(client.post("/up", "small").text(), "whole");
    let before = proc::memory_kib(worker).unwrap();
    let mut most = 0;
    let mut look = || most = most.max(proc::memory_kib(worker).unwrap());
    let piece = vec![b'y'; MIB];
    assert!(client.send(format!(
        "POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: {BYTES}\r\n\r\n"
    )));
    for _ in 0..BYTES / MIB {
        assert!(client.send(&piece));
        look();
    }
    assert_eq!(client.answer("POST").unwrap().text(), "whole");
    assert!(client.send("GET /down HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert_eq!(client.head().unwrap().status(), 200);
    for _ in 0..BYTES / MIB {
        client.skip(MIB).unwrap();
        look();
    }
    assert!(client.send("GET /chunks HTTP/1.1\r\nHost: a\r\n\r\n"));
    let answer = client.answer("GET").unwrap();
    assert_eq!(answer.body.data.len(), BYTES);
    look();
    assert_eq!(client.post("/up", "small").text(), "whole");
    assert!(
        most < before + 4_096,
        "{before} KiB before, {most} KiB meanwhile"
    );
}

/// As CouchDB's `_changes` with `feed=continuous&heartbeat`: one byte now and then, for hours.
#[test]
fn heartbeats_of_a_feed_arrive_at_once() {
    const BEATS: usize = 30;
    let _alone = alone();
    let (sent, times) = std::sync::mpsc::channel();
    let server = HttpBackend::start("b1", move |exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for _ in 0..BEATS {
            pause_until(Instant::now() + Duration::from_millis(20));
            sent.send(Instant::now()).unwrap();
            exchange.send("1\r\n\n\r\n");
        }
        exchange.send("0\r\n\r\n");
    });
    let (_daemon, address) = web(&[&server], "");
    let mut client = HttpClient::connect(address);
    assert!(client.send("GET /_changes HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert_eq!(client.head().unwrap().status(), 200);
    let mut took = Vec::new();
    for _ in 0..BEATS {
        assert_eq!(client.exactly(6).unwrap(), b"1\r\n\n\r\n");
        took.push(times.recv().unwrap().elapsed());
    }
    assert_eq!(client.exactly(5).unwrap(), b"0\r\n\r\n");
    took.sort();
    // A machine that is busy with something else may hold one up; a buffer would hold up all of them.
    assert!(took[BEATS - 3] < Duration::from_millis(100), "{took:?}");
    assert!(took[BEATS / 2] < Duration::from_millis(20), "{took:?}");
    assert_eq!(
        client
            .ask("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap()
            .status(),
        200
    );
}

#[test]
fn when_the_client_goes_its_request_is_cancelled() {
    let server = HttpBackend::start("b1", |exchange| {
        if exchange.target() == "/feed" {
            exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        }
        exchange.wait_end();
    });
    let (daemon, address) = web(&[&server], "");
    let mut longest = Duration::ZERO;
    for turn in 0..12 {
        let feed = turn % 2 == 0;
        let mut client = HttpClient::connect(address);
        let path = if feed { "/feed" } else { "/wait" };
        assert!(client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")));
        if feed {
            assert_eq!(client.head().unwrap().status(), 200);
        }
        let connection = eventually(SOON, "it is asked", || {
            (server.requests() == turn + 1).then(|| server.last().connection)
        });
        let left = Instant::now();
        match turn % 3 {
            0 => drop(client),
            1 => client.reset(),
            _ => client.end_writing(),
        }
        let (seen, _) = eventually(SOON, "the backend's connection ends", || {
            server.ended(connection)
        });
        longest = longest.max(seen.saturating_duration_since(left));
    }
    assert!(longest < Duration::from_millis(100), "{longest:?}");
    let status = assert_rest(&daemon);
    let http = status.services[0].http.clone().unwrap();
    assert_eq!(http.failed["client_gone"], 12, "{http:?}");
}

#[test]
fn a_client_may_end_its_direction_where_that_is_allowed() {
    let gate = Gate::new();
    let wait = gate.clone();
    let server = HttpBackend::start("b1", move |exchange| {
        wait.wait();
        exchange.answer(200, "", "b1");
    });
    let (_daemon, address) = web(&[&server], "[services.web.http]\nallow_half_close = true");
    let mut client = HttpClient::connect(address);
    assert!(client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab"));
    client.end_writing();
    eventually(SOON, "it is asked", || {
        (server.requests() == 1).then_some(())
    });
    evenkeel_testkit::throughout(Duration::from_millis(200), "it is not cancelled", || {
        server.ended(1).is_none()
    });
    gate.open();
    let answer = client.answer("POST").unwrap();
    assert_eq!(answer.text(), "b1");
    client.assert_ends();
    assert_eq!(server.last().body.unwrap().text(), "ab");
}

/// A connection that is silent for a second is put away until it stirs: its next request is served as any other.
#[test]
fn a_client_that_was_silent_for_long_is_served_again() {
    let server = echo("b1");
    let (daemon, address) = start(2, &service("web", &[&server], ""));
    let mut clients: Vec<_> = (0..40).map(|_| HttpClient::connect(address)).collect();
    for client in clients.iter_mut().take(30) {
        assert_eq!(client.post("/first", "a").text(), "a");
    }
    let silence = Instant::now() + Duration::from_millis(2_200);
    // Some send half a head just before, and the rest long after.
    for client in clients.iter_mut().take(10) {
        assert!(client.send("POST /second HTTP/1.1\r\nHost: a\r\nContent-Le"));
    }
    pause_until(silence);
    for (number, client) in clients.iter_mut().enumerate() {
        match number {
            0..10 => assert!(client.send("ngth: 1\r\n\r\nb")),
            10..20 => assert!(client.send_bytewise("POST /second HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nb")),
            _ => assert!(client.send("POST /second HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nbPOST /third HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nc")),
        }
    }
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.answer("POST").unwrap().text(), "b", "{number}");
        if number >= 20 {
            assert_eq!(client.answer("POST").unwrap().text(), "c", "{number}");
        }
    }
    // Silent again, and gone then.
    pause_until(Instant::now() + Duration::from_millis(1_500));
    let reset = clients.split_off(20);
    reset.into_iter().for_each(HttpClient::reset);
    drop(clients);
    daemon.wait_status("nobody is there", |status| status.services[0].active == 0);
    assert_rest(&daemon);
}

/// What a backend sends and a client does not read stays at the backend.
#[test]
fn a_client_that_reads_nothing_costs_no_memory() {
    let server = HttpBackend::start("b1", |exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let piece = format!("10000\r\n{}\r\n", "x".repeat(65_536));
        (0..500).all(|_| exchange.send(&piece));
        exchange.leave();
    });
    let (daemon, address) = web(&[&server], "");
    let worker = daemon.workers()[0];
    let before = proc::memory_kib(worker).unwrap();
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let mut client = HttpClient::connect(address);
            assert!(client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
            assert_eq!(client.head().unwrap().status(), 200);
            client
        })
        .collect();
    evenkeel_testkit::throughout(Duration::from_millis(500), "its memory stays", || {
        proc::memory_kib(worker).unwrap() < before + 20 * 256
    });
    drop(clients);
    assert_rest(&daemon);
}

/// What a client sends before its turn waits at the client, and it is still seen to go.
#[test]
fn a_flood_of_pipelined_requests_costs_no_memory() {
    let server = HttpBackend::start("b1", |exchange| {
        if exchange.target() == "/wait" {
            exchange.wait_end();
        } else {
            exchange.answer(200, "", "b1");
        }
    });
    let (daemon, address) = web(&[&server], "");
    let worker = daemon.workers()[0];
    let mut client = HttpClient::connect(address);
    assert_eq!(client.get("/").status(), 200);
    let before = proc::memory_kib(worker).unwrap();
    assert!(client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n"));
    eventually(SOON, "it is asked", || {
        (server.requests() == 2).then_some(())
    });
    let many = "GET /more HTTP/1.1\r\nHost: a\r\n\r\n".repeat(20_000);
    let timeout = Some(Duration::from_millis(200));
    client.stream().set_write_timeout(timeout).unwrap();
    let sent = (0..100).take_while(|_| client.send(&many)).count();
    assert!(
        sent < 100,
        "the client has to wait, after {sent} times {} bytes",
        many.len()
    );
    let most = proc::memory_kib(worker).unwrap();
    assert!(
        most < before + 1_024,
        "{before} KiB before, {most} KiB then"
    );
    let left = Instant::now();
    client.reset();
    let (seen, _) = eventually(SOON, "its request is cancelled", || server.ended(1));
    assert!(seen.saturating_duration_since(left) < Duration::from_millis(500));
    assert_rest(&daemon);
}

/// What stands unread when a connection is closed makes the kernel reset it and drop what was not sent (linux/net/ipv4/tcp.c,
/// tcp_close): an answer that was still held back then would be lost. Old clients send a line end behind a body.
#[test]
fn bytes_behind_the_last_request_do_not_cost_its_answer() {
    let gates = [Gate::new(), Gate::new()];
    let waits = gates.clone();
    let server = HttpBackend::start("b1", move |exchange| {
        let place: usize = exchange.target().trim_start_matches('/').parse().unwrap();
        if exchange.body() {
            waits[place].wait();
            exchange.answer(200, "", "whole");
        }
    });
    let (_daemon, address) = web(&[&server], "");
    for (place, request) in [
        "POST /0 HTTP/1.0\r\nHost: a\r\nContent-Length: 2\r\n\r\nab",
        "POST /1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nab",
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = HttpClient::connect(address);
        assert!(client.send(request));
        eventually(SOON, "it is asked", || {
            (server.requests() == place + 1).then_some(())
        });
        assert!(client.send("\r\n"));
        gates[place].open();
        let answer = client.answer("POST");
        let answer = answer.unwrap_or_else(|broken| panic!("{request:?}: {broken:?}"));
        assert_eq!(answer.text(), "whole");
    }
}
