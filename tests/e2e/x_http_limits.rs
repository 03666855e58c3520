//! Sizes, numbers and times of requests, and the answers that we give ourselves.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use evenkeel_testkit::http::{Answer, Ended, Gate, HttpBackend, HttpClient};
use evenkeel_testkit::{eventually, throughout};
use serde_json::Value;

use crate::SOON;
use crate::x_http::{echo, service, start, web};

/// Times may be longer on a busy machine, and never shorter.
fn assert_took(begun: Instant, least_ms: u64) {
    let took = begun.elapsed();
    let least = Duration::from_millis(least_ms);
    assert!(took >= least.mul_f64(0.9), "{took:?} of {least:?}");
    assert!(
        took < least + Duration::from_secs(3),
        "{took:?} of {least:?}"
    );
}

fn answered(client: &mut HttpClient) -> Answer {
    client
        .answer("GET")
        .unwrap_or_else(|broken| panic!("{broken:?}"))
}

/// That an answer of our own ends the connection.
#[track_caller]
fn assert_refused(client: &mut HttpClient, status: u16) {
    let answer = answered(client);
    assert_eq!(answer.status(), status, "{answer:?}");
    assert!(answer.closes(), "{answer:?}");
    let end = client.end(SOON);
    assert!(matches!(end, Some(Ended::Fin | Ended::Reset)), "{end:?}");
}

#[test]
fn heads_targets_and_bodies_have_limits() {
    let server = echo("b1");
    let keys = "[services.web.http.limits]\nhead_bytes = \"2KiB\"\nfields = 20\nuri_bytes = \"200B\"\nbody_bytes = \"1000B\"\n\
                body_by_type = [{ type = \"application/json\", bytes = \"2000B\" }, { type = \"image/*\" }]\n";
    let (_daemon, address) = web(&[&server], keys);
    let ask = |request: String| {
        let mut client = HttpClient::connect(address);
        client.send(request);
        client
    };
    let with = |fields: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    assert_eq!(
        answered(&mut ask(with(&format!("A: {}\r\n", "x".repeat(1_500))))).status(),
        200
    );
    assert_refused(
        &mut ask(with(&format!("A: {}\r\n", "x".repeat(2_500)))),
        431,
    );
    // Refused as soon as it is known, not when the head ends.
    assert_refused(
        &mut ask(format!(
            "GET / HTTP/1.1\r\nHost: a\r\nA: {}",
            "x".repeat(3_000)
        )),
        431,
    );
    assert_eq!(
        answered(&mut ask(with(&"A: b\r\n".repeat(19)))).status(),
        200
    );
    assert_refused(&mut ask(with(&"A: b\r\n".repeat(25))), 431);
    let target = |length: usize| {
        format!(
            "GET /{} HTTP/1.1\r\nHost: a\r\n\r\n",
            "x".repeat(length - 1)
        )
    };
    assert_eq!(answered(&mut ask(target(200))).status(), 200);
    assert_refused(&mut ask(target(201)), 414);
    let before = server.requests();
    let post = |kind: &str, length: usize| {
        let body = "x".repeat(length);
        format!("POST / HTTP/1.1\r\nHost: a\r\n{kind}Content-Length: {length}\r\n\r\n{body}")
    };
    let json = "Content-Type: application/json; charset=utf-8\r\n";
    assert_eq!(answered(&mut ask(post("", 1_000))).status(), 200);
    assert_eq!(answered(&mut ask(post(json, 2_000))).status(), 200);
    assert_eq!(
        answered(&mut ask(post("Content-Type: image/png\r\n", 100_000))).status(),
        200
    );
    assert_eq!(server.requests(), before + 3);
    assert_refused(&mut ask(post("", 1_001)), 413);
    assert_refused(&mut ask(post(json, 2_001)), 413);
    assert_eq!(
        server.requests(),
        before + 3,
        "what says its length is not begun"
    );
    // In chunks it is known when it is there; no backend takes it for whole.
    let id = "X-Id: chunks\r\nTransfer-Encoding: chunked\r\n";
    let mut client = ask(format!(
        "POST / HTTP/1.1\r\nHost: a\r\n{id}\r\n3e8\r\n{}\r\n",
        "x".repeat(1_000)
    ));
    client.send("1\r\nx\r\n0\r\n\r\n");
    assert_refused(&mut client, 413);
    assert_eq!(server.executed("chunks"), 0);
}

#[test]
fn a_connection_serves_so_many_requests_and_ends_in_order() {
    let server = HttpBackend::named("b1");
    let keys = "[services.web.http.limits]\nrequests_per_connection = 3\n";
    let (_daemon, address) = web(&[&server], keys);
    for _ in 0..3 {
        let mut client = HttpClient::connect(address);
        assert!(!client.get("/1").closes() && !client.get("/2").closes());
        assert!(client.get("/3").closes());
        client.assert_ends();
    }
    assert_eq!(
        server.connections(),
        1,
        "the backend's connection is another matter"
    );
}

#[test]
fn so_many_requests_at_a_time_over_all_workers() {
    let gate = Gate::new();
    let wait = gate.clone();
    let server = HttpBackend::start("b1", move |exchange| {
        wait.wait();
        exchange.answer(200, "", "b1");
    });
    let keys = "[services.web.http.limits]\nconcurrent_requests = 3\n";
    let (_daemon, address) = start(2, &service("web", &[&server], keys));
    let mut held: Vec<_> = (0..3).map(|_| HttpClient::connect(address)).collect();
    for (count, client) in (1..).zip(&mut held) {
        assert!(client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
        eventually(SOON, "it is asked", || {
            (server.requests() == count).then_some(())
        });
    }
    for _ in 0..6 {
        // Idle connections do not count.
        let answer = HttpClient::connect(address).get("/");
        assert_eq!(answer.status(), 503, "{answer:?}");
        assert!(answer.field("retry-after").is_some());
    }
    assert_eq!(server.requests(), 3);
    gate.open();
    for client in &mut held {
        assert_eq!(answered(client).status(), 200);
        assert_eq!(client.get("/").status(), 200);
    }
}

/// The class of CVE-2025-4366: the body behind a refusal is no request, whatever was served before with the same memory.
#[test]
fn a_refusal_by_a_limit_leaves_no_body_behind() {
    let gates = [Gate::new(), Gate::new()];
    let waits = gates.clone();
    let server = HttpBackend::start("b1", move |exchange| {
        let target = exchange.target();
        if let Some(number) = target.strip_prefix("/wait/") {
            waits[usize::from(number == "1")].wait();
        }
        exchange.answer(200, "", target);
    });
    let keys = "[services.web.http.limits]\nconcurrent_requests = 1\n";
    let services = service("web", &[&server], keys) + &service("other", &[&server], "");
    let (daemon, address) = start(1, &services);
    let ask_many = |address: SocketAddr, path: &str, count: usize| {
        let before = server.requests();
        let mut clients: Vec<_> = (0..count).map(|_| HttpClient::connect(address)).collect();
        for client in &mut clients {
            assert!(client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")));
        }
        eventually(SOON, "they are asked", || {
            (server.requests() == before + count).then_some(())
        });
        clients
    };
    // Several at a time, and all of them read to their ends.
    let mut many = ask_many(daemon.address("other"), "/wait/0", 5);
    gates[0].open();
    for client in &mut many {
        assert_eq!(answered(client).status(), 200);
    }
    let mut held = ask_many(address, "/wait/1", 1);
    let hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    for framing in [
        format!("Content-Length: {}\r\n\r\n{hidden}", hidden.len()),
        format!(
            "Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{hidden}\r\n0\r\n\r\n",
            hidden.len()
        ),
    ] {
        let mut client = HttpClient::connect(address);
        assert!(client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}")));
        assert_eq!(client.answer("POST").unwrap().status(), 503);
        let end = client.end(Duration::from_millis(300));
        assert!(
            end.is_some(),
            "an answer more: the body was taken for a request"
        );
    }
    // Nor is a connection ended that could stay.
    let mut client = HttpClient::connect(address);
    for _ in 0..3 {
        let answer = client.get("/");
        assert_eq!(
            (answer.status(), answer.closes()),
            (503, false),
            "{answer:?}"
        );
    }
    gates[1].open();
    assert_eq!(answered(&mut held[0]).status(), 200);
    assert!(
        server
            .seen()
            .iter()
            .all(|seen| seen.head.target() != "/hidden")
    );
}

#[test]
fn a_source_may_ask_so_often_over_all_workers() {
    let server = HttpBackend::named("b1");
    let keys = "[services.web.http.limits]\nsource_rate = 1\nsource_burst = 5\n";
    let (_daemon, address) = start(2, &service("web", &[&server], keys));
    let of = |last: u8| {
        let source = IpAddr::from(Ipv4Addr::new(127, 0, 2, last));
        let mut clients = [0; 2].map(|_| HttpClient::connect_from(source, address));
        let statuses = (0..12).map(|number: usize| clients[number % 2].get("/").status());
        statuses.collect::<Vec<_>>()
    };
    for last in 1..4 {
        let statuses = of(last);
        let served = statuses.iter().filter(|status| **status == 200).count();
        let refused = statuses.iter().filter(|status| **status == 429).count();
        assert!(
            (5..=7).contains(&served) && served + refused == 12,
            "{statuses:?}"
        );
    }
    let mut client = HttpClient::connect_from(IpAddr::from(Ipv4Addr::new(127, 0, 2, 9)), address);
    let refused = (0..12)
        .map(|_| client.get("/"))
        .find(|answer| answer.status() == 429);
    let refused = refused.unwrap();
    let after: u64 = refused.field("retry-after").unwrap().parse().unwrap();
    assert!((1..=5).contains(&after), "{after}");
}

#[test]
fn requests_queue_for_a_backend_that_is_full() {
    let gate = Gate::new();
    let wait = gate.clone();
    let server = HttpBackend::start("b1", move |exchange| {
        if exchange.target() == "/wait" {
            wait.wait();
        }
        exchange.answer(200, "", "b1");
    });
    let keys = "backend_max_connections = 2\nqueue = { length = 2, timeout = \"500ms\" }\n";
    let (daemon, address) = start(2, &service("web", &[&server], keys));
    let mut held: Vec<_> = (0..2).map(|_| HttpClient::connect(address)).collect();
    for (count, client) in (1..).zip(&mut held) {
        assert!(client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n"));
        eventually(SOON, "it is asked", || {
            (server.requests() == count).then_some(())
        });
    }
    let begun = Instant::now();
    let mut waiting: Vec<_> = (0..2).map(|_| HttpClient::connect(address)).collect();
    for client in &mut waiting {
        assert!(client.send("GET /queued HTTP/1.1\r\nHost: a\r\n\r\n"));
    }
    eventually(SOON, "two wait", || {
        (daemon.service("web").queued == 2).then_some(())
    });
    assert_eq!(HttpClient::connect(address).get("/full").status(), 503);
    for client in &mut waiting {
        assert_eq!(answered(client).status(), 503);
    }
    assert_took(begun, 500);
    // And one that waits is served when there is room.
    let client = &mut waiting[0];
    client.send("GET /queued HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually(SOON, "one waits", || {
        (daemon.service("web").queued == 1).then_some(())
    });
    gate.open();
    assert_eq!(answered(client).status(), 200);
    for client in &mut held {
        assert_eq!(answered(client).status(), 200);
    }
    assert!(server.connections() <= 3, "{}", server.connections());
}

#[test]
fn a_head_has_a_time_however_its_bytes_come() {
    let server = HttpBackend::named("b1");
    let keys = "[services.web.http.timeouts]\nrequest_head = \"400ms\"\n";
    let (_daemon, address) = web(&[&server], keys);
    let mut client = HttpClient::connect(address);
    assert_eq!(client.get("/").status(), 200);
    let begun = Instant::now();
    assert!(client.send("GET / HTTP/1.1\r\n"));
    // A byte now and then does not help.
    let mut sender = HttpClient::new(client.stream().try_clone().unwrap());
    let dripping = std::thread::spawn(move || {
        while sender.send("A") && begun.elapsed() < Duration::from_secs(3) {
            evenkeel_testkit::pause_until(Instant::now() + Duration::from_millis(50));
        }
    });
    let answer = answered(&mut client);
    assert_took(begun, 400);
    assert_eq!(answer.status(), 408);
    assert!(answer.closes());
    drop(client);
    dripping.join().unwrap();
    assert_eq!(server.requests(), 1);
}

#[test]
fn an_idle_client_is_let_go_in_order() {
    let server = HttpBackend::named("b1");
    let keys = "[services.web.http.timeouts]\nkeep_alive_idle = \"400ms\"\n";
    let (_daemon, address) = web(&[&server], keys);
    let mut silent = HttpClient::connect(address);
    let mut client = HttpClient::connect(address);
    assert_eq!(client.get("/").status(), 200);
    let begun = Instant::now();
    assert_eq!(client.end(SOON), Some(Ended::Fin), "no 408, no reset");
    assert_took(begun, 350);
    assert!(matches!(silent.end(SOON), Some(Ended::Fin | Ended::Reset)));
}

#[test]
fn a_body_that_stops_coming_is_the_clients_fault() {
    let server = HttpBackend::named("b1");
    let keys = "[services.web.http.timeouts]\nbody_idle = \"400ms\"\n";
    let (daemon, address) = web(&[&server], keys);
    for framing in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
        let begun = Instant::now();
        let mut client = HttpClient::connect(address);
        assert!(client.send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\nX-Id: x\r\n{framing}\r\n\r\n5\r\n"
        )));
        assert_refused(&mut client, 408);
        assert_took(begun, 400);
    }
    assert_eq!(server.executed("x"), 0);
    let backend = daemon.backend("web", "b1");
    assert_eq!(backend.connect_failures, 0, "{backend:?}");
    // One that comes slowly is served, however long it takes.
    let mut client = HttpClient::connect(address);
    assert!(client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n"));
    for _ in 0..6 {
        evenkeel_testkit::pause_until(Instant::now() + Duration::from_millis(150));
        assert!(client.send("x"));
    }
    assert_eq!(answered(&mut client).status(), 200);
}

#[test]
fn a_backend_that_does_not_answer_in_time() {
    let server = HttpBackend::start("b1", |exchange| match &*exchange.target() {
        "/silent" => drop(exchange.wait_end()),
        "/stops" => {
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
            exchange.wait_end();
        }
        _ => exchange.answer(200, "", "b1"),
    });
    let keys = "[services.web.http.timeouts]\nfirst_byte = \"400ms\"\nanswer_idle = \"600ms\"\n";
    let (_daemon, address) = web(&[&server], keys);
    let mut client = HttpClient::connect(address);
    let begun = Instant::now();
    assert_eq!(client.post("/silent", "body").status(), 504);
    assert_took(begun, 400);
    let connection = server.last().connection;
    eventually(SOON, "the backend is told", || server.ended(connection));
    let mut client = HttpClient::connect(address);
    let begun = Instant::now();
    let broken = client
        .ask("GET /stops HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap_err();
    assert_took(begun, 600);
    assert!(
        broken.got.ends_with(b"half") && broken.by != Ended::Timeout,
        "{broken:?}"
    );
    assert_eq!(HttpClient::connect(address).get("/").status(), 200);
}

/// A client that reads nothing holds a backend's connection for so long, and not for ever.
#[test]
fn a_client_that_reads_nothing_is_let_go() {
    let server = HttpBackend::start("b1", |exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let piece = format!("10000\r\n{}\r\n", "x".repeat(65_536));
        while exchange.send(&piece) {}
        exchange.leave();
    });
    let keys = "[services.web.http.timeouts]\nclient_write = \"500ms\"\n";
    let (_daemon, address) = web(&[&server], keys);
    let mut client = HttpClient::connect(address);
    assert!(client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert_eq!(client.head().unwrap().status(), 200);
    let begun = Instant::now();
    eventually(SOON, "the backend's connection ends", || {
        (server.open() == 0).then_some(())
    });
    assert_took(begun, 500);
    let broken = loop {
        if let Err(broken) = client.some() {
            break broken;
        }
    };
    assert_eq!(broken.by, Ended::Reset, "what was cut does not look whole");
}

const UNROUTED: &str =
    "[[services.web.routes]]\npath = \"/own\"\nanswer = { status = 200, body = \"own\" }\n";

fn not_found(address: SocketAddr, accept: &str) -> Answer {
    let mut client = HttpClient::connect(address);
    let fields = if accept.is_empty() {
        String::new()
    } else {
        format!("Accept: {accept}\r\n")
    };
    let answer = client.get_with("/nowhere", &fields);
    assert_eq!(answer.status(), 404);
    assert_eq!(answer.field("cache-control").as_deref(), Some("no-store"));
    answer
}

#[test]
fn answers_of_our_own_come_as_they_are_wanted() {
    let (daemon, address) = start(1, &service("web", &[], UNROUTED));
    for (accept, kind) in [
        ("", "application/json"),
        ("*/*", "application/json"),
        (
            "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8",
            "text/html",
        ),
        ("text/plain", "text/plain"),
        ("text/html;q=0.1, application/json", "application/json"),
        ("image/png", "application/json"),
    ] {
        let answer = not_found(address, accept);
        let found = answer.field("content-type").unwrap();
        assert!(found.starts_with(kind), "{accept}: {found}");
    }
    let answer = not_found(address, "");
    let body: Value = serde_json::from_slice(&answer.body.data).unwrap();
    assert_eq!(body["error"], "404 Not Found");
    assert_eq!(body["server"], "evenkeel");
    assert_eq!(body["request_id"].as_str().unwrap().len(), 32);
    // Nothing that the client sent comes back.
    let mut client = HttpClient::connect(address);
    let answer = client.get_with("/<script>", "Accept: text/html\r\nX-Request-Id: <b>\r\n");
    assert!(
        !answer.text().contains("<script") && !answer.text().contains("<b>"),
        "{answer:?}"
    );
    let head = client
        .ask("HEAD /nowhere HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    assert!(head.status() == 404 && head.body.data.is_empty());
    let tables = format!(
        "{UNROUTED}[services.web.http.answers]\ndefault = \"text\"\nserver = \"lb-1\"\n\
         [[services.web.http.answers.pages]]\nstatuses = [404]\nformat = \"html\"\n\
         body = \"<h1>{{status}} at {{server}}</h1>{{reason}}{{request_id}}\"\n"
    );
    daemon.apply(&crate::file("", &service("web", &[], &tables)));
    let answer = not_found(address, "");
    assert!(answer.text().starts_with("404 Not Found\n"), "{answer:?}");
    let page = not_found(address, "text/html");
    assert!(page.text().starts_with("<h1>404 at lb-1</h1>"), "{page:?}");
}

#[test]
fn a_field_says_what_went_wrong_where_that_is_wanted() {
    let gone = HttpBackend::stopped("gone", |_| ());
    let keys =
        "[services.web.http.answers]\nerror_field = \"X-Evenkeel-Error\"\nretry_after = \"7s\"\n";
    let (_daemon, address) = web(&[&gone], keys);
    let answer = HttpClient::connect(address).get("/");
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.field("retry-after").as_deref(), Some("7"));
    let error = answer.field("x-evenkeel-error").unwrap();
    assert!(error.contains("connect"), "{error}");
    // Not on answers of backends.
    let server = HttpBackend::named("b1");
    let (_daemon, address) = web(&[&server], keys);
    assert!(
        HttpClient::connect(address)
            .get("/")
            .field("x-evenkeel-error")
            .is_none()
    );
}

/// The class of CVE-2025-4366 and VSV00008: an answer of our own while a body is due. What is left of the body is no request.
#[test]
fn the_body_behind_an_answer_of_our_own_is_no_request() {
    let server = HttpBackend::named("b1");
    let routes = format!(
        "{UNROUTED}[[services.web.routes]]\npath = \"/b1\"\nservice = \"web\"\n\
                          [[services.web.routes]]\nprefix = \"/\"\nredirect = {{ location = \"/own\" }}\n"
    );
    let (_daemon, address) = web(&[&server], &routes);
    let hidden = "GET /b1?hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    for path in ["/own", "/elsewhere"] {
        for framing in [
            format!("Content-Length: {}\r\n\r\n{hidden}", hidden.len()),
            format!(
                "Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{hidden}\r\n0\r\n\r\n",
                hidden.len()
            ),
        ] {
            let mut client = HttpClient::connect(address);
            assert_eq!(
                client.get("/b1").text(),
                "b1",
                "one that had no body, before"
            );
            let answer = client
                .ask(format!("POST {path} HTTP/1.1\r\nHost: a\r\n{framing}"))
                .unwrap();
            assert!(matches!(answer.status(), 200 | 308), "{answer:?}");
            if answer.closes() {
                let end = client.end(SOON);
                assert!(matches!(end, Some(Ended::Fin | Ended::Reset)), "{end:?}");
            } else {
                assert_eq!(client.get("/b1").text(), "b1");
            }
        }
    }
    // A body without end is not read without end.
    let mut client = HttpClient::connect(address);
    assert!(client.send("POST /own HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000000000\r\n\r\n"));
    assert_eq!(client.answer("POST").unwrap().status(), 200);
    let piece = vec![b'x'; 1 << 20];
    let taken = (0..300).take_while(|_| client.send(&piece)).count();
    assert!(taken < 300, "{taken} MiB were read");
    throughout(
        Duration::from_millis(50),
        "nobody asks for what was hidden",
        || {
            server
                .seen()
                .iter()
                .all(|seen| !seen.head.target().contains("hidden"))
        },
    );
}
