//! What is written down of requests, and answers that are compressed.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use evenkeel_control::operator::HttpStatus;
use evenkeel_testkit::http::{
    Ended, Frame, Framing, HttpBackend, HttpClient, upgrade_answer, upgrade_request,
};
use evenkeel_testkit::{Daemon, TempDir, eventually};
use serde_json::Value;

use crate::x_http::{assert_rest, inner, service, start, web};
use crate::{PROGRAM, SOON, alone, file};

fn logged(log: &Path, services: &str) -> (Daemon, SocketAddr) {
    let top = format!(
        "access_log = {{ format = \"json\", file = \"{}\" }}",
        log.display()
    );
    let text = file(&top, services).replace("workers = 2", "workers = 1");
    let daemon = Daemon::builder(PROGRAM, &text).start();
    let address = daemon.address("web");
    (daemon, address)
}

/// The lines of requests once there are `count`.
fn lines(log: &Path, count: usize) -> Vec<Value> {
    let all = eventually(SOON, &format!("there are {count} lines"), || {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        (text.ends_with('\n') && text.lines().count() >= count).then_some(text)
    });
    all.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn each_request_has_a_line_of_its_own() {
    let dir = TempDir::new();
    let log = dir.join("access.log");
    let server = HttpBackend::start("b1", |exchange| match &*exchange.target() {
        "/cut" => {
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
            exchange.close();
        }
        "/drop" => exchange.close(),
        "/garbage" => drop(exchange.send("SSH-2.0-OpenSSH\r\n")),
        "/wait" => drop(exchange.wait_end()),
        _ => exchange.answer(201, "", "hello"),
    });
    let routes = "[[services.web.routes]]\npath = \"/none\"\nanswer = { status = 404, body = \"\" }\n\
                  [[services.web.routes]]\nprefix = \"/\"\nservice = \"inner\"\n";
    let services = service("web", &[], routes) + &inner("inner", &[&server], "");
    let (daemon, address) = logged(&log, &services);
    let mut client = HttpClient::connect(address);
    assert_eq!(client.post("/a/b?secret=1", "abc").status(), 201);
    assert_eq!(client.get("/two").status(), 201);
    assert_eq!(client.get("/none").status(), 404);
    client
        .ask("POST /drop HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        .unwrap();
    assert_eq!(client.get("/garbage").status(), 502);
    drop(client.ask("GET /cut HTTP/1.1\r\nHost: a\r\n\r\n"));
    let mut client = HttpClient::connect(address);
    client.ask("GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut client = HttpClient::connect(address);
    assert!(client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n"));
    eventually(SOON, "it is asked", || {
        (server.last().head.target() == "/wait").then_some(())
    });
    drop(client);
    let all = lines(&log, 8);
    assert_eq!(all.len(), 8, "{all:#?}");
    let of = |path: &str| {
        let found = all.iter().find(|line| line["path"] == path);
        found.unwrap_or_else(|| panic!("no line of {path}: {all:#?}"))
    };
    let first = of("/a/b");
    for (field, value) in [
        ("service", "inner"),
        ("backend", "b1"),
        ("client", "127.0.0.1"),
        ("method", "POST"),
        ("host", "a.example"),
        ("version", "1.1"),
        ("end", "end"),
    ] {
        assert_eq!(first[field], value, "{field} of {first}");
    }
    assert_eq!(
        (&first["status"], &first["route"], &first["request"]),
        (&201.into(), &2.into(), &1.into()),
        "{first}"
    );
    let seen = server.seen();
    let id = seen[0].head.field("x-request-id").unwrap();
    assert_eq!(first["request_id"], id.as_str());
    assert!(
        !first.to_string().contains("secret"),
        "the query is in templates only"
    );
    assert!(first["bytes_received"].as_u64() >= Some(3) && first["bytes_sent"].as_u64() >= Some(5));
    assert!(
        first["duration_ms"].as_f64() >= first["first_byte_ms"].as_f64(),
        "{first}"
    );
    let is_reused = |line: &Value| line["reused"].to_string().contains("true");
    assert!(
        !is_reused(first) && is_reused(of("/two")),
        "{first} {}",
        of("/two")
    );
    assert_eq!(of("/two")["request"], 2);
    assert_eq!(of("/none")["status"], 404);
    assert_eq!(of("/none")["service"], "web");
    assert!(of("/none")["backend"].is_null());
    for (path, status, end, by) in [
        ("/drop", Some(502), "backend_closed", "backend"),
        ("/garbage", Some(502), "backend_malformed", "backend"),
        ("/cut", Some(200), "backend_closed", "backend"),
        ("/wait", None, "client_gone", "client"),
    ] {
        let line = of(path);
        let found = line["status"].as_u64();
        assert_eq!(
            (found, &line["end"], &line["end_by"]),
            (status, &end.into(), &by.into()),
            "{line}"
        );
    }
    let malformed = all.iter().find(|line| line["end"] == "malformed");
    let malformed = malformed.unwrap_or_else(|| panic!("{all:#?}"));
    assert_eq!(
        (&malformed["status"], &malformed["end_by"]),
        (&400.into(), &"client".into())
    );
    // A client's fault is nobody's but its own.
    let backend = daemon.backend("inner", "b1");
    assert_eq!(
        (backend.connect_failures, backend.state.as_str()),
        (0, "unchecked")
    );
}

#[test]
fn what_a_client_sends_cannot_forge_a_line() {
    let dir = TempDir::new();
    let log = dir.join("access.log");
    let server = HttpBackend::named("b1");
    let (daemon, address) = logged(&log, &service("web", &[&server], ""));
    let mut client = HttpClient::connect(address);
    let path = format!("/\"}}{{'\\{}", "x".repeat(5_000));
    client
        .ask(format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nUser-Agent: \"\\\u{fc}\r\n\r\n"
        ))
        .unwrap();
    assert_eq!(client.get("/next").status(), 200);
    let all = lines(&log, 2);
    assert_eq!(all.len(), 2);
    assert!(
        all[0]["path"].as_str().unwrap().starts_with("/\"}{'"),
        "{}",
        all[0]
    );
    // A template may name the query, and is safe all the same.
    let top = format!(
        "access_log = {{ format = \"{{method}} {{path}} [{{query}}] {{status}} {{user_agent}}\", file = \"{}\" }}",
        log.display()
    );
    daemon
        .apply(&file(&top, &service("web", &[&server], "")).replace("workers = 2", "workers = 1"));
    assert_eq!(
        client.get_with("/q?a=b", "User-Agent: x y\r\n").status(),
        200
    );
    let last = eventually(SOON, "a line more", || {
        let text = std::fs::read_to_string(&log).unwrap();
        text.lines().nth(2).map(str::to_owned)
    });
    assert!(last.starts_with("GET /q [a=b] 200 "), "{last}");
}

/// Asks and does not mind how it ends.
fn ask(address: SocketAddr, request: &str) {
    HttpClient::connect(address)
        .ask(request)
        .map(drop)
        .unwrap_or_default();
}

#[test]
fn each_failure_is_counted_once_and_by_its_reason() {
    let server = HttpBackend::start("b1", |exchange| match &*exchange.target() {
        "/closes" => exchange.close(),
        "/garbage" => drop(exchange.send("SSH-2.0-OpenSSH\r\n")),
        "/silent" => drop(exchange.wait_end()),
        "/500" => exchange.answer(500, "", ""),
        _ => exchange.answer(200, "", ""),
    });
    let gone = HttpBackend::stopped("gone", |_| ());
    let routes = "[[services.web.routes]]\nprefix = \"/b1\"\nservice = \"inner\"\nstrip_prefix = \"/b1\"\n\
                  [[services.web.routes]]\nprefix = \"/gone\"\nservice = \"gone\"\n\
                  [[services.web.routes]]\nprefix = \"/moved\"\nredirect = { location = \"/b1\" }\n\
                  [services.web.http.limits]\nhead_bytes = \"1KiB\"\nuri_bytes = \"100B\"\nbody_bytes = \"10B\"\n\
                  [services.web.http.timeouts]\nrequest_head = \"200ms\"\nbody_idle = \"200ms\"\n";
    let times = "[services.inner.http.timeouts]\nfirst_byte = \"200ms\"\n";
    let services = service("web", &[], routes)
        + &inner("inner", &[&server], times)
        + &inner("gone", &[&gone], "");
    let (daemon, address) = start(2, &services);
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    let long = "x".repeat(2_000);
    for request in [
        // Of the listener's service, since no route has them.
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET / HTTP/2.0\r\n\r\n".to_owned(),
        format!("GET / HTTP/1.1\r\nHost: a\r\nA: {long}\r\n\r\n"),
        get(&format!("/{}", "x".repeat(200))),
        "GET / HTTP/1.1\r\nHost: a".to_owned(),
        get("/nowhere"),
        get("/moved"),
        "POST /b1/fine HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello world".to_owned(),
        // Of the services that routes lead to.
        get("/gone"),
        get("/b1/fine"),
        get("/b1/500"),
        "POST /b1/closes HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".to_owned(),
        get("/b1/garbage"),
        get("/b1/silent"),
        "POST /b1/fine HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello".to_owned(),
    ] {
        ask(address, &request);
    }
    let mut client = HttpClient::connect(address);
    let before = server.requests();
    assert!(client.send(get("/b1/silent")));
    eventually(SOON, "it is asked", || {
        (server.requests() > before).then_some(())
    });
    client.reset();
    // A connection without a request is none.
    drop(HttpClient::connect(address));
    let status = assert_rest(&daemon);
    let of = |name: &str| {
        let found = status.services.iter().find(|service| service.name == name);
        found.unwrap().http.clone().unwrap()
    };
    let failed = |http: &HttpStatus| -> Vec<(String, u64)> {
        let some = http.failed.iter().filter(|(_, count)| **count > 0);
        some.map(|(reason, count)| (reason.clone(), *count))
            .collect()
    };
    let pairs = |pairs: &[(&str, u64)]| -> Vec<(String, u64)> {
        pairs
            .iter()
            .map(|(word, count)| ((*word).to_owned(), *count))
            .collect()
    };
    let (web, inner, gone) = (of("web"), of("inner"), of("gone"));
    assert_eq!(
        failed(&web),
        pairs(&[
            ("malformed", 3),
            ("no_route", 1),
            ("request_timeout", 1),
            ("too_large", 3)
        ])
    );
    assert_eq!((web.requests, web.own_answers), (9, 9), "{web:#?}");
    assert_eq!(
        (web.answers["3xx"], web.answers["4xx"], web.answers["5xx"]),
        (1, 6, 2),
        "{web:#?}"
    );
    assert_eq!(failed(&gone), pairs(&[("connect", 1)]));
    assert_eq!(
        (gone.requests, gone.answers["5xx"], gone.own_answers),
        (1, 1, 1),
        "{gone:#?}"
    );
    let reasons = [
        ("backend_closed", 1),
        ("backend_malformed", 1),
        ("backend_timeout", 1),
        ("client_gone", 1),
        ("request_timeout", 1),
    ];
    assert_eq!(failed(&inner), pairs(&reasons), "{inner:#?}");
    assert_eq!(
        (inner.requests, inner.own_answers, inner.upgrades),
        (7, 4, 0),
        "{inner:#?}"
    );
    assert_eq!(
        (
            inner.answers["2xx"],
            inner.answers["4xx"],
            inner.answers["5xx"]
        ),
        (1, 1, 4),
        "{inner:#?}"
    );
    // What the backend is to blame for, and no more.
    let backend = daemon.backend("inner", "b1").http.unwrap();
    assert_eq!(backend.answers_5xx, 1, "{backend:?}");
    // The one that closed is not, where its connection had been used before: it may have been closing then.
    assert!((2..=3).contains(&backend.bad_answers), "{backend:?}");
    let metrics = daemon.metrics();
    let refused = metrics.value(
        "evenkeel_http_request_failures_total",
        &[("service", "web"), ("reason", "malformed")],
    );
    assert_eq!(refused, Some(3.0));
}

/// A server whose answers say what their path names.
fn texts() -> HttpBackend {
    HttpBackend::start("b1", |exchange| {
        let body = "hello ".repeat(1_000);
        let fields = match &*exchange.target() {
            "/json" => "Content-Type: application/json\r\nETag: \"a\"\r\n",
            "/image" => "Content-Type: image/png\r\n",
            "/coded" => "Content-Type: text/plain\r\nContent-Encoding: gzip\r\n",
            "/fixed" => "Content-Type: text/plain\r\nCache-Control: no-transform\r\n",
            "/short" => return exchange.answer(200, "Content-Type: text/plain\r\n", "hello"),
            "/feed" => {
                exchange.send("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n");
                exchange.send("1\r\n\n\r\n");
                drop(exchange.some());
                return exchange.leave();
            }
            _ => "Content-Type: text/plain\r\n",
        };
        exchange.answer(200, fields, body);
    })
}

#[test]
fn answers_are_compressed_only_where_that_is_asked_for_and_helps() {
    let server = texts();
    let keys = "[services.web.http.compression]\ncodings = [\"zstd\", \"br\", \"gzip\"]\n";
    let (_daemon, address) = web(&[&server], keys);
    let mut client = HttpClient::connect(address);
    for (accept, coding) in [
        ("gzip", "gzip"),
        ("br", "br"),
        ("zstd", "zstd"),
        ("gzip, br, zstd", "zstd"),
        ("gzip;q=1.0, zstd;q=0.5", "gzip"),
        ("zstd;q=0, *", "br"),
    ] {
        for path in ["/json", "/text"] {
            let answer = client.get_with(path, &format!("Accept-Encoding: {accept}\r\n"));
            assert_eq!(
                answer.field("content-encoding").as_deref(),
                Some(coding),
                "{accept}"
            );
            assert!(
                answer.body.data.len() < 1_000,
                "{accept}: {:?}",
                answer.body
            );
            assert!(answer.head.names("vary", "accept-encoding"), "{answer:?}");
            assert_eq!(
                answer.field("content-length").is_some(),
                answer.body.framing != Framing::Chunked
            );
            let strong = answer
                .field("etag")
                .is_some_and(|etag| etag.starts_with('"'));
            assert!(!strong, "other bytes have another tag: {answer:?}");
        }
    }
    let gzip = client.get_with("/json", "Accept-Encoding: gzip\r\n");
    assert_eq!(gzip.body.data[..2], [0x1f, 0x8b], "RFC 1952");
    for (path, accept) in [
        ("/json", ""),
        ("/json", "Accept-Encoding: identity\r\n"),
        ("/json", "Accept-Encoding: gzip;q=0\r\n"),
        ("/image", "Accept-Encoding: gzip\r\n"),
        ("/fixed", "Accept-Encoding: gzip\r\n"),
        ("/short", "Accept-Encoding: gzip\r\n"),
    ] {
        let answer = client.get_with(path, accept);
        assert_eq!(answer.field("content-encoding"), None, "{path} {accept}");
        assert!(answer.text().starts_with("hello"), "{path} {accept}");
    }
    let coded = client.get_with("/coded", "Accept-Encoding: zstd\r\n");
    assert_eq!(coded.field("content-encoding").as_deref(), Some("gzip"));
    assert_eq!(coded.body.data.len(), 6_000, "as it came");
    let head = client
        .ask("HEAD /json HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n")
        .unwrap();
    assert_eq!(head.status(), 200);
    assert_eq!(
        client.get("/json").status(),
        200,
        "the connection is in order"
    );
    // A feed is passed on as it comes.
    let mut client = HttpClient::connect(address);
    assert!(client.send("GET /feed HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n"));
    assert_eq!(client.head().unwrap().field("content-encoding"), None);
    client
        .stream()
        .set_read_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    assert_eq!(client.exactly(6).unwrap(), b"1\r\n\n\r\n");
}

#[test]
fn nothing_is_compressed_unless_it_is_configured() {
    let server = texts();
    let (_daemon, address) = web(&[&server], "");
    let answer = HttpClient::connect(address).get_with("/json", "Accept-Encoding: gzip\r\n");
    assert_eq!(
        (answer.field("content-encoding"), answer.body.data.len()),
        (None, 6_000)
    );
    let seen = server.last().head;
    assert_eq!(
        seen.field("accept-encoding").as_deref(),
        Some("gzip"),
        "the backend may"
    );
}

/// What an answer says, unpacked by gzip itself.
fn unpacked(bytes: &[u8]) -> String {
    let mut gzip = Command::new("gzip")
        .args(["-d", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = gzip.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writing = std::thread::spawn(move || input.write_all(&bytes).unwrap());
    let output = gzip.wait_with_output().unwrap();
    writing.join().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_is_compressed_is_whole_or_seen_as_broken() {
    let long: String = (0..200_000)
        .map(|number: u32| format!("{number} "))
        .collect();
    let body = long.clone();
    let server = HttpBackend::start("b1", move |exchange| {
        const TEXT: &str = "Content-Type: text/plain\r\n";
        if exchange.target() == "/cut" {
            let head = format!(
                "HTTP/1.1 200 OK\r\n{TEXT}Content-Length: {}\r\n\r\n",
                body.len()
            );
            exchange.send(head + &body[..body.len() / 2]);
            exchange.close();
        } else {
            exchange.answer(200, TEXT, &body);
        }
    });
    let keys = "[services.web.http.compression]\ncodings = \"gzip\"\n";
    let (_daemon, address) = web(&[&server], keys);
    let mut client = HttpClient::connect(address);
    for _ in 0..2 {
        let answer = client.get_with("/", "Accept-Encoding: gzip\r\n");
        assert_eq!(answer.field("content-encoding").as_deref(), Some("gzip"));
        assert!(unpacked(&answer.body.data) == long);
    }
    let mut old = HttpClient::connect(address);
    let answer = old
        .ask("GET / HTTP/1.0\r\nAccept-Encoding: gzip\r\n\r\n")
        .unwrap();
    assert_ne!(
        answer.body.framing,
        Framing::Chunked,
        "HTTP/1.0 knows no chunks"
    );
    let text = match answer.field("content-encoding") {
        Some(_) => unpacked(&answer.body.data),
        None => answer.text(),
    };
    assert!(text == long);
    for version in ["1.1", "1.0"] {
        let mut client = HttpClient::connect(address);
        let request =
            format!("GET /cut HTTP/{version}\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n");
        match client.ask(request) {
            Ok(answer) => assert_eq!(answer.status(), 502, "{answer:?}"),
            // A length says it, too.
            Err(broken) if version == "1.0" => assert!(
                broken.by == Ended::Reset
                    || String::from_utf8_lossy(&broken.got).contains("Content-Length"),
                "{broken:?}"
            ),
            Err(broken) => assert!(!broken.got.ends_with(b"0\r\n\r\n"), "{broken:?}"),
        }
    }
}

/// Compressing takes the worker's time, and others are served meanwhile.
#[test]
fn compressing_much_holds_nobody_up() {
    let _alone = alone();
    let server = HttpBackend::start("b1", |exchange| {
        if exchange.target() != "/long" {
            return exchange.answer(200, "", "short");
        }
        let piece: String = (0..8_000)
            .map(|number: u32| format!("{} ", number.wrapping_mul(2_654_435_761)))
            .collect();
        let length = piece.len() * 200;
        exchange.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n"
        ));
        (0..200).all(|_| exchange.send(&piece));
    });
    for coding in ["zstd", "br", "gzip"] {
        let keys = format!("[services.web.http.compression]\ncodings = \"{coding}\"\n");
        let (_daemon, address) = web(&[&server], &keys);
        let mut long = HttpClient::connect(address);
        assert!(long.send(format!(
            "GET /long HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {coding}\r\n\r\n"
        )));
        let reading = std::thread::spawn(move || long.answer("GET").unwrap());
        eventually(SOON, "it has begun", || {
            let seen = server.seen();
            seen.last()
                .filter(|seen| seen.head.target() == "/long")
                .map(drop)
        });
        let mut other = HttpClient::connect(address);
        let mut took = Vec::new();
        for _ in 0..50 {
            let begun = Instant::now();
            assert_eq!(other.get("/").text(), "short");
            took.push(begun.elapsed());
        }
        let answer = reading.join().unwrap();
        assert_eq!(answer.field("content-encoding").as_deref(), Some(coding));
        took.sort();
        // Without turns, some would wait for all of it.
        assert!(took[25] < Duration::from_millis(150), "{coding}: {took:?}");
        assert!(took[49] < Duration::from_secs(1), "{coding}: {took:?}");
    }
}

#[test]
fn a_tunnel_has_its_line_when_it_ends() {
    let dir = TempDir::new();
    let log = dir.join("access.log");
    let server = HttpBackend::start("b1", |exchange| {
        exchange.send(upgrade_answer());
        while let Some(frame) = exchange.frame() {
            exchange.send(Frame::new(2, frame.payload).encode());
        }
    });
    let (daemon, address) = logged(&log, &service("web", &[&server], ""));
    let mut client = HttpClient::connect(address);
    assert!(client.send(upgrade_request("/socket")));
    assert_eq!(client.answer("GET").unwrap().status(), 101);
    assert!(client.send(Frame::new(2, vec![7; 10_000]).masked().encode()));
    assert_eq!(client.frame().unwrap().payload.len(), 10_000);
    drop(client);
    let line = lines(&log, 1).pop().unwrap();
    assert_eq!(
        (&line["status"], &line["path"]),
        (&101.into(), &"/socket".into()),
        "{line}"
    );
    assert!(
        line["bytes_received"].as_u64() >= Some(10_000)
            && line["bytes_sent"].as_u64() >= Some(10_000),
        "{line}"
    );
    let status = assert_rest(&daemon);
    let http = status.services[0].http.clone().unwrap();
    assert_eq!((http.requests, http.upgrades), (1, 1));
}

/// The proxy tells, so that the line names who asked: of a request, and of a tunnel at its end.
#[test]
fn a_line_says_who_asked_where_a_trusted_proxy_tells() {
    let dir = TempDir::new();
    let log = dir.join("access.log");
    let server = HttpBackend::start("b1", |exchange| {
        if exchange.head.names("upgrade", "websocket") {
            exchange.send(upgrade_answer());
        } else {
            exchange.answer(200, "", "b1");
        }
    });
    let keys = "[services.web.http.forwarded]\ntrusted = \"127.0.0.1\"\n";
    let (_daemon, address) = logged(&log, &service("web", &[&server], keys));
    let told = "X-Forwarded-For: 6.6.6.6, 203.0.113.9\r\n";
    for head in [
        format!("GET / HTTP/1.1\r\nHost: a\r\n{told}\r\n"),
        upgrade_request("/socket").replacen("\r\n", &format!("\r\n{told}"), 1),
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
    ] {
        let count = lines_now(&log) + 1;
        let mut client = HttpClient::connect(address);
        assert!(client.send(&head));
        assert!([101, 200].contains(&client.answer("GET").unwrap().status()));
        drop(client);
        let line = lines(&log, count).pop().unwrap();
        assert_eq!(line["peer"], "127.0.0.1", "{line}");
        let (client, port) = (&line["client"], line["client_port"].as_u64().unwrap());
        match head.contains(told) {
            true => assert_eq!((client, port), (&"203.0.113.9".into(), 0), "{line}"),
            false => assert!(client == "127.0.0.1" && port > 0, "{line}"),
        }
    }
}

fn lines_now(log: &Path) -> usize {
    std::fs::read_to_string(log).map_or(0, |text| text.lines().count())
}
