//! Which backend a request goes to, over which connection, and when it is sent again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use evenkeel_control::operator::Answer as Said;
use evenkeel_testkit::http::{Answer, Broken, Gate, HttpBackend, HttpClient};
use evenkeel_testkit::{Daemon, Signal, TempDir, eventually, proc};

use crate::x_http::{assert_rest, connection_of, inner, service, start, web};
use crate::{PROGRAM, SOON, file};

/// Asks with an id, by which the server counts.
fn ask(
    client: &mut HttpClient,
    method: &str,
    path: &str,
    id: &str,
    body: &str,
) -> Result<Answer, Broken> {
    let length = if body.is_empty() && method != "POST" {
        String::new()
    } else {
        format!("Content-Length: {}\r\n", body.len())
    };
    client.ask(format!(
        "{method} {path} HTTP/1.1\r\nHost: a\r\nX-Id: {id}\r\n{length}\r\n{body}"
    ))
}

/// A connection that serves the next request: another one where `answer` has said that this one ends.
fn next(client: &mut HttpClient, answer: &Answer, address: SocketAddr) {
    if answer.closes() {
        client.assert_ends();
        *client = HttpClient::connect(address);
    }
    assert_eq!(client.get("/warm").status(), 200);
}

/// A server that ends, without a byte of an answer, connections over which it is asked for `/used` and that were used before;
/// for `/always` every connection.
fn dropping(name: &str) -> HttpBackend {
    HttpBackend::start(name, |exchange| {
        let drops = match &*exchange.target() {
            "/used" => exchange.number > 1,
            "/always" => true,
            _ => false,
        };
        if drops && exchange.body() {
            exchange.close();
        } else {
            let name = exchange.name.to_owned();
            exchange.answer(200, "", name);
        }
    })
}

#[test]
fn a_refused_connect_is_tried_elsewhere() {
    let gone = HttpBackend::stopped("gone", |_| ());
    let server = HttpBackend::named("b1");
    let (daemon, address) = start(2, &service("web", &[&gone, &server], ""));
    let mut client = HttpClient::connect(address);
    for number in 0..20 {
        let id = format!("p{number}");
        let answer = ask(&mut client, "POST", "/", &id, "body").unwrap();
        assert_eq!((answer.status(), answer.text().as_str()), (200, "b1"));
        assert_eq!(server.executed(&id), 1);
    }
    // A body that is too long to be held, too: nothing of it was sent to the one that refused.
    let long = "x".repeat(3_000_000);
    for number in 0..4 {
        let id = format!("long{number}");
        let answer = ask(&mut client, "POST", "/", &id, &long).unwrap();
        assert_eq!((answer.status(), server.executed(&id)), (200, 1));
        assert!(server.last().body.unwrap().data == long.as_bytes());
    }
    assert!(daemon.backend("web", "gone").connect_failures > 0);
    server.kill();
    let answer = ask(&mut client, "GET", "/", "none", "").unwrap();
    assert_eq!(answer.status(), 503, "{answer:?}");
    server.resume();
    eventually(SOON, "it serves again", || {
        (HttpClient::connect(address).get("/").status() == 200).then_some(())
    });
}

#[test]
fn only_safe_requests_are_sent_again_when_a_used_connection_was_closed() {
    let server = dropping("b1");
    let (_daemon, address) = web(&[&server], "");
    let mut client = HttpClient::connect(address);
    for (number, method) in ["GET", "HEAD", "OPTIONS", "GET"].into_iter().enumerate() {
        assert_eq!(client.get("/warm").status(), 200);
        let id = format!("s{number}");
        let answer = ask(&mut client, method, "/used", &id, "").unwrap();
        assert_eq!(answer.status(), 200, "{method}");
        assert_eq!(
            server.executed(&id),
            2,
            "{method}: once dropped, once answered"
        );
    }
    // With a body that is still held whole.
    assert_eq!(client.get("/warm").status(), 200);
    assert_eq!(
        ask(&mut client, "GET", "/used", "body", "held")
            .unwrap()
            .status(),
        200
    );
    assert_eq!(server.last().body.unwrap().text(), "held");
    assert_eq!(client.get("/warm").status(), 200);
    let chunks = "GET /used HTTP/1.1\r\nHost: a\r\nX-Id: chunks\r\nTransfer-Encoding: chunked\r\n\r\n\
                  3\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n";
    assert_eq!(client.ask(chunks).unwrap().status(), 200);
    let body = server.last().body.unwrap();
    assert_eq!(
        (body.text().as_str(), body.trailers.as_slice()),
        ("abcde", &b"X-Sum: 1\r\n\r\n"[..])
    );
    assert_eq!(server.executed("chunks"), 2);
    assert_eq!(client.get("/warm").status(), 200);
    for (number, method) in ["POST", "PUT", "DELETE", "PATCH", "PURGE"]
        .into_iter()
        .enumerate()
    {
        for path in ["/used", "/always"] {
            let id = format!("u{number}{path}");
            let answer = ask(&mut client, method, path, &id, "body").unwrap();
            // A connection may have been made for it, and that one is not dropped.
            let fresh = path == "/used" && server.last().number == 1;
            let status = if fresh { 200 } else { 502 };
            assert_eq!(answer.status(), status, "{method} {path}");
            assert_eq!(
                server.executed(&id),
                1,
                "{method} {path} is never sent again"
            );
            next(&mut client, &answer, address);
        }
    }
}

#[test]
fn what_is_never_answered_ends_after_so_many_tries() {
    let server = dropping("b1");
    let (daemon, address) = web(&[&server], "[services.web.http.retry]\nattempts = 3\n");
    let mut client = HttpClient::connect(address);
    let mut again = 0;
    for number in 0..5 {
        assert_eq!(client.get("/warm").status(), 200);
        let id = format!("{number}");
        let answer = ask(&mut client, "GET", "/always", &id, "").unwrap();
        assert_eq!(answer.status(), 502);
        assert!(
            (1..=3).contains(&server.executed(&id)),
            "{}",
            server.executed(&id)
        );
        again += server.executed(&id) as u64 - 1;
    }
    drop(client);
    // What nobody was left for was not sent again.
    let http = assert_rest(&daemon).services[0].http.clone().unwrap();
    assert_eq!(http.resent, again);
}

/// An interim answer is one that has begun: the client has seen it.
#[test]
fn what_was_answered_in_part_is_not_sent_again() {
    let server = HttpBackend::start("b1", |exchange| {
        exchange.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
        exchange.close();
    });
    let other = HttpBackend::named("b2");
    let (_daemon, address) = web(&[&server, &other], "");
    let mut client = HttpClient::connect(address);
    for number in 0..4 {
        let id = format!("{number}");
        let answer = ask(&mut client, "GET", "/", &id, "").unwrap();
        let at_first = server.executed(&id) == 1;
        assert_eq!(answer.status(), if at_first { 502 } else { 200 });
        assert_eq!(server.executed(&id) + other.executed(&id), 1);
    }
    assert_eq!(server.requests(), 2);
}

#[test]
fn put_and_delete_are_sent_again_where_that_is_configured() {
    let server = dropping("b1");
    let keys =
        "[services.web.http.retry]\nmethods = [\"PUT\", \"DELETE\"]\nbody_bytes = \"1KiB\"\n";
    let (_daemon, address) = web(&[&server], keys);
    let mut client = HttpClient::connect(address);
    let small = "x".repeat(1_000);
    for (id, method, body) in [("put", "PUT", small.as_str()), ("delete", "DELETE", "")] {
        assert_eq!(client.get("/warm").status(), 200);
        assert_eq!(
            ask(&mut client, method, "/used", id, body)
                .unwrap()
                .status(),
            200
        );
        assert!((1..=2).contains(&server.executed(id)), "{method}");
        assert_eq!(server.last().body.unwrap().text(), body);
    }
    // A body that is not held whole is not sent again.
    let large = "x".repeat(100_000);
    assert_eq!(client.get("/warm").status(), 200);
    let answer = ask(&mut client, "GET", "/used", "large", &large).unwrap();
    let fresh = server.last().number == 1;
    assert_eq!(answer.status(), if fresh { 200 } else { 502 });
    assert_eq!(server.executed("large"), 1);
    next(&mut client, &answer, address);
    assert_eq!(
        ask(&mut client, "POST", "/always", "post", &small)
            .unwrap()
            .status(),
        502
    );
    assert_eq!(server.executed("post"), 1);
}

#[test]
fn tries_again_have_a_budget() {
    let server = dropping("b1");
    let keys = "[services.web.http.retry]\nbudget = \"0%\"\nbudget_floor = 0\n";
    let (_daemon, address) = web(&[&server], keys);
    let mut client = HttpClient::connect(address);
    assert_eq!(client.get("/warm").status(), 200);
    assert_eq!(
        ask(&mut client, "GET", "/used", "a", "").unwrap().status(),
        502
    );
    assert_eq!(server.executed("a"), 1);
}

/// An answer that has begun is never asked for again, and never looks whole.
#[test]
fn an_answer_that_breaks_off_is_seen_as_broken() {
    let server = HttpBackend::start("b1", |exchange| {
        match &*exchange.target() {
            "/head" => drop(exchange.send("HTTP/1.1 200 OK\r\nContent-Le")),
            "/length" => drop(exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")),
            "/chunks" => {
                exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n");
            }
            "/last" => {
                exchange.send(
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
                );
            }
            _ => return exchange.answer(200, "", "whole"),
        }
        exchange.close();
    });
    let (_daemon, address) = web(&[&server], "");
    for path in ["/head", "/length", "/chunks", "/last"] {
        let mut client = HttpClient::connect(address);
        assert_eq!(client.get("/warm").text(), "whole");
        match ask(&mut client, "GET", path, path, "") {
            Ok(answer) => assert_eq!(answer.status(), 502, "{path}: {answer:?}"),
            Err(broken) => assert_ne!(path, "/head", "{broken:?}"),
        }
        assert_eq!(server.executed(path), 1, "{path}");
    }
}

#[test]
fn an_idle_connection_that_the_backend_has_closed_is_not_used() {
    let server = HttpBackend::named("b1");
    let (_daemon, address) = web(&[&server], "");
    let mut client = HttpClient::connect(address);
    for number in 0..20 {
        let id = format!("{number}");
        let answer = ask(&mut client, "POST", "/", &id, "body").unwrap();
        assert_eq!(
            (answer.status(), server.executed(&id)),
            (200, 1),
            "{number}"
        );
        if number % 2 == 0 {
            server.end_all();
        } else {
            server.reset_all();
        }
        eventually(SOON, "it is closed", || (server.open() == 0).then_some(()));
    }
    assert_eq!(server.connections(), 20);
}

/// The class of CVE-2026-42584: bytes behind an answer are nobody's answer.
#[test]
fn a_connection_with_spare_bytes_is_not_used_again() {
    let gate = Gate::new();
    let late = gate.clone();
    let server = HttpBackend::start("b1", move |exchange| {
        const SPARE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
        match &*exchange.target() {
            "/spare" => {
                exchange.send(format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood{SPARE}"
                ));
            }
            "/late" => {
                exchange.answer(200, "", "good");
                late.wait();
                exchange.send(SPARE);
            }
            _ => exchange.answer(200, "", "good"),
        }
    });
    let (_daemon, address) = web(&[&server], "");
    let mut client = HttpClient::connect(address);
    for path in ["/spare", "/after", "/late"] {
        assert_eq!(client.get(path).text(), "good", "{path}");
    }
    assert_ne!(
        connection_of(&server, "/spare"),
        connection_of(&server, "/after")
    );
    gate.open();
    let late = connection_of(&server, "/late");
    eventually(SOON, "the connection is thrown away", || server.ended(late));
    for _ in 0..5 {
        assert_eq!(client.get("/then").text(), "good");
    }
}

#[test]
fn what_the_backend_says_of_its_connection_counts() {
    let server = HttpBackend::start("b1", |exchange| {
        let fields = match &*exchange.target() {
            "/close" => "Connection: close\r\n",
            "/twice" => "Connection: x, Close\r\nConnection: keep-alive\r\n",
            _ => "",
        };
        exchange.answer(200, fields, "b1");
    });
    let (_daemon, address) = web(&[&server], "[services.web.http.pool]\nrequests = 3\n");
    let mut client = HttpClient::connect(address);
    for path in ["/close", "/twice"] {
        let answer = client.get(path);
        assert!(
            !answer.closes(),
            "the client's connection is another matter"
        );
        let connection = connection_of(&server, path);
        eventually(SOON, "it is closed", || server.ended(connection));
    }
    for number in 0..7 {
        assert_eq!(client.get(&format!("/{number}")).status(), 200);
    }
    let per_connection: BTreeMap<u64, u32> = server
        .seen()
        .iter()
        .map(|seen| (seen.connection, seen.number))
        .collect();
    let most: Vec<_> = per_connection.into_values().collect();
    assert_eq!(most, [1, 1, 3, 3, 1], "pool.requests");
}

#[test]
fn idle_connections_are_bounded_and_the_last_used_is_used_first() {
    let gate = Gate::new();
    let wait = gate.clone();
    let server = HttpBackend::start("b1", move |exchange| {
        if exchange.target() == "/wait" {
            wait.wait();
        }
        exchange.answer(200, "", "b1");
    });
    let keys = "[services.web.http.pool]\nidle = 3\n[services.web.http.timeouts]\nupstream_idle = \"60s\"\n";
    let (_daemon, address) = web(&[&server], keys);
    let mut clients: Vec<_> = (0..8).map(|_| HttpClient::connect(address)).collect();
    for client in &mut clients {
        assert!(client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n"));
    }
    eventually(SOON, "all of them wait", || {
        (server.requests() == 8).then_some(())
    });
    gate.open();
    for client in &mut clients {
        assert_eq!(client.answer("GET").unwrap().status(), 200);
    }
    eventually(SOON, "three are kept", || {
        (server.open() == 3).then_some(())
    });
    let first = clients.first_mut().unwrap();
    assert_eq!(first.get("/one").status(), 200);
    for _ in 0..5 {
        assert_eq!(first.get("/more").status(), 200);
    }
    assert_eq!(
        connection_of(&server, "/one"),
        connection_of(&server, "/more")
    );
    assert_eq!(server.connections(), 8);
}

/// A connection that says who its client is (PROXY header), or that comes from another address of ours, is used for nobody else.
#[test]
fn connections_are_not_shared_across_what_identifies_them() {
    let server = HttpBackend::named("b1");
    let routes = "[[services.web.routes]]\npath = \"/plain\"\nservice = \"plain\"\n\
                  [[services.web.routes]]\npath = \"/source\"\nservice = \"source\"\n\
                  [[services.web.routes]]\npath = \"/header\"\nservice = \"header\"\n";
    let services = service("web", &[], routes)
        + &inner("plain", &[&server], "")
        + &inner("source", &[&server], "source = \"127.0.0.9\"\n")
        + &inner("header", &[&server], "send_proxy = \"v1\"\n");
    let (_daemon, address) = start(1, &services);
    let sources = [2, 3, 4].map(|last| IpAddr::from(Ipv4Addr::new(127, 0, 0, last)));
    let mut clients: Vec<_> = sources
        .iter()
        .map(|source| HttpClient::connect_from(*source, address))
        .collect();
    for _ in 0..3 {
        for client in &mut clients {
            for path in ["/plain", "/source", "/header"] {
                assert_eq!(client.get(path).text(), "b1", "{path}");
            }
        }
    }
    let seen = server.seen();
    let over = |path: &str| -> BTreeSet<u64> {
        let of_path = seen.iter().filter(|seen| {
            let text = seen.head.text();
            text.contains(&format!("GET {path} "))
        });
        of_path.map(|seen| seen.connection).collect()
    };
    let (plain, source, header) = (over("/plain"), over("/source"), over("/header"));
    assert_eq!((plain.len(), source.len()), (1, 1), "{plain:?} {source:?}");
    assert!(
        plain.is_disjoint(&source) && plain.is_disjoint(&header) && source.is_disjoint(&header)
    );
    for found in &seen {
        let peer = found.peer.unwrap().ip();
        let from = IpAddr::from(Ipv4Addr::new(127, 0, 0, 9));
        assert_eq!(
            peer == from,
            source.contains(&found.connection),
            "{found:?}"
        );
    }
    // Each connection with a header serves the one client that the header names.
    let mut named = BTreeMap::new();
    for found in seen.iter().filter(|seen| header.contains(&seen.connection)) {
        let text = found.head.text();
        if let Some(line) = text.strip_prefix("PROXY TCP4 ") {
            let client = line.split(' ').next().unwrap().to_owned();
            named.insert(found.connection, client);
        }
    }
    assert_eq!(named.len(), header.len(), "each begins with a header");
    let clients: BTreeSet<_> = named.values().collect();
    assert_eq!(clients.len(), 3, "{named:?}");
    for found in seen.iter().filter(|seen| header.contains(&seen.connection)) {
        let said = &named[&found.connection];
        let forwarded = found.head.field("x-forwarded-for");
        assert_eq!(forwarded.as_ref(), Some(said), "{found:?}");
    }
}

fn several(count: usize) -> Vec<HttpBackend> {
    let names: Vec<_> = (1..=count).map(|number| format!("b{number}")).collect();
    names.iter().map(|name| HttpBackend::named(name)).collect()
}

/// Each backend checked, so that one that is gone is known to be.
fn sticky(servers: &[HttpBackend], persistence: &str) -> (Daemon, SocketAddr) {
    let all: Vec<_> = servers.iter().collect();
    let check =
        "check = { kind = \"tcp\", interval = \"100ms\", timeout = \"100ms\", rise = 1, fall = 2 }";
    let tables = format!("[services.web.http.persistence]\n{persistence}\n");
    let services = service("web", &all, &tables).replace("check = \"none\"", check);
    let daemon = Daemon::builder(PROGRAM, &file("", &services)).start();
    daemon.wait_backends_up();
    let address = daemon.address("web");
    (daemon, address)
}

/// What a browser sends back.
fn cookie(answer: &Answer) -> Option<String> {
    let set = answer.head.all("set-cookie").into_iter();
    let ours = set.filter(|value| value.starts_with("evenkeel="));
    let mut pairs = ours.map(|value| value.split(';').next().unwrap().to_owned());
    pairs.next_back()
}

#[test]
fn a_cookie_keeps_a_client_with_its_backend() {
    let servers = several(4);
    let (daemon, address) = sticky(&servers, "by = \"cookie\"");
    let first = HttpClient::connect(address).get("/");
    let ours = first.head.all("set-cookie");
    assert_eq!(ours.len(), 1, "{first:?}");
    for attribute in ["Path=/", "HttpOnly", "SameSite=Lax"] {
        assert!(ours[0].contains(attribute), "{ours:?}");
    }
    assert!(
        !ours[0].contains("Secure") && !ours[0].contains("Max-Age"),
        "{ours:?}"
    );
    let value = cookie(&first).unwrap();
    let fields = format!("Cookie: a=1; {value}; b=2\r\n");
    for _ in 0..12 {
        // Over whichever worker.
        let answer = HttpClient::connect(address).get_with("/kept", &fields);
        assert_eq!(answer.text(), first.text());
        assert_eq!(cookie(&answer), None, "issued once");
    }
    let at = servers
        .iter()
        .find(|server| server.name() == first.text())
        .unwrap();
    // The backend never sees it, and sees the others.
    let others = at.last().head.field("cookie");
    assert_eq!(others.as_deref(), Some("a=1; b=2"));
    // Forged ones choose nothing: without their backend's signature they are as none.
    let (name, text) = value.split_once('=').unwrap();
    let mut forged = text.to_owned();
    let middle = if forged.as_bytes()[5] == b'A' {
        "B"
    } else {
        "A"
    };
    forged.replace_range(5..6, middle);
    for value in [forged.as_str(), "b1", "", &text[..39], &"A".repeat(40)] {
        let fields = format!("Cookie: {name}={value}\r\n");
        let mut reached = BTreeSet::new();
        for _ in 0..8 {
            let answer = HttpClient::connect(address).get_with("/", &fields);
            assert_eq!(answer.status(), 200);
            assert!(cookie(&answer).is_some(), "a new one for {value:?}");
            reached.insert(answer.text());
        }
        assert_eq!(reached.len(), 4, "scheduled: {value:?}");
    }
    // Without its backend it moves, and stays there.
    at.kill();
    daemon.wait_status("it is down", |status| {
        let backends = status.services.iter().flat_map(|service| &service.backends);
        backends.into_iter().any(|backend| backend.state == "down")
    });
    let moved = HttpClient::connect(address).get_with("/", &fields);
    assert_eq!(moved.status(), 200);
    assert_ne!(moved.text(), first.text());
    let again = format!("Cookie: {}\r\n", cookie(&moved).unwrap());
    for _ in 0..8 {
        let answer = HttpClient::connect(address).get_with("/", &again);
        assert_eq!(answer.text(), moved.text());
    }
    // Its answer is not replaced by the backend's own cookies.
    servers.iter().for_each(|server| {
        server.set(|exchange| exchange.answer(200, "Set-Cookie: app=1\r\n", "x"));
    });
    let answer = HttpClient::connect(address).get("/");
    assert_eq!(answer.head.all("set-cookie").len(), 2, "{answer:?}");
}

/// What the answer to a request with this cookie says: who gave it, and which cookie it sets.
fn with_cookie(address: SocketAddr, value: &str) -> (String, Option<String>) {
    let answer = HttpClient::connect(address).get_with("/", &format!("Cookie: {value}\r\n"));
    assert_eq!(answer.status(), 200);
    (answer.text(), cookie(&answer))
}

#[test]
fn keys_of_cookies_change_over_reloads_and_are_never_shown() {
    const KEYS: [&str; 3] = [
        "first-key-of-this-test",
        "second-key-of-this-test",
        "third-key-of-this-test",
    ];
    let servers = several(4);
    let all: Vec<_> = servers.iter().collect();
    let dir = TempDir::new();
    let place = |number: usize| dir.join(&format!("key-{number}"));
    for (number, key) in KEYS.iter().enumerate() {
        std::fs::write(place(number), format!("{key}\n")).unwrap();
    }
    let config = |keys: &str| {
        let tables = format!("[services.web.http.persistence]\nby = \"cookie\"\n{keys}\n");
        file("", &service("web", &all, &tables))
    };
    let key = |number: usize| format!("key_file = {:?}", place(number));
    let daemon = Daemon::builder(PROGRAM, &config(&key(0))).start();
    let address = daemon.address("web");
    let (backend, first) = with_cookie(address, "");
    let first = first.unwrap();
    let counts = |cookie: &str| {
        // Over whichever worker.
        for _ in 0..8 {
            assert_eq!(with_cookie(address, cookie), (backend.clone(), None));
        }
    };
    counts(&first);

    // Another key, and the one before: nobody moves, and cookies are issued anew.
    daemon.apply(&config(&format!("{}\nprevious_{}", key(1), key(0))));
    let (still, second) = with_cookie(address, &first);
    assert_eq!(still, backend);
    let second = second.unwrap();
    counts(&second);

    // Without its key nothing is put in force.
    for (broken, words) in [
        (place(9), "cannot read the cookie key of service `web`"),
        (dir.join("short"), "too short"),
    ] {
        std::fs::write(dir.join("short"), "short-key").unwrap();
        daemon.rewrite_config(&config(&format!("key_file = {broken:?}")));
        let Said::Failed { reason } = daemon.reload() else {
            panic!("{words}");
        };
        assert!(reason.contains(words), "{reason}");
        counts(&second);
    }

    // A worker that is started later has it too.
    assert!(proc::signal(daemon.workers()[0], Signal::KILL));
    daemon.wait_status("the slot has another worker", |status| {
        let now = &status.workers[0];
        now.incarnation == 2 && now.state == "live"
    });
    counts(&second);

    // Another value in the same place.
    daemon.rewrite_config(&config(&key(1)));
    daemon.reload();
    counts(&second);
    std::fs::write(place(1), KEYS[2]).unwrap();
    let Said::Reloaded { changes, .. } = daemon.reload() else {
        panic!("no reload");
    };
    assert_eq!(changes, ["keys of cookies have changed"]);
    for old in [&first, &second] {
        assert!(with_cookie(address, old).1.is_some(), "{old} is void");
    }
    let plan = daemon.tell(&["status", "--json"]);
    for shown in [daemon.log(), plan] {
        assert!(!shown.contains("key-of-this"), "{shown}");
        assert!(!shown.contains("short-key"), "{shown}");
    }
}

#[test]
fn requests_stay_by_a_field_a_path_or_their_source() {
    let servers = several(4);
    let reached = |address: SocketAddr, path: &str, fields: &str| {
        let answers = (0..6).map(|_| HttpClient::connect(address).get_with(path, fields).text());
        answers.collect::<BTreeSet<String>>()
    };
    let spread = |ones: Vec<BTreeSet<String>>| {
        assert!(
            ones.iter().all(|one| one.len() == 1),
            "each stays: {ones:?}"
        );
        let all: BTreeSet<_> = ones.into_iter().flatten().collect();
        assert!(all.len() > 1, "and they differ: {all:?}");
    };
    {
        let (_daemon, address) = sticky(&servers, "by = \"header\"\nheader = \"X-Tenant\"");
        let of = |tenant: usize| reached(address, "/", &format!("X-Tenant: t{tenant}\r\n"));
        spread((0..12).map(of).collect());
        assert_eq!(
            reached(address, "/", "").len(),
            4,
            "without the field it is scheduled"
        );
    }
    {
        let (_daemon, address) = sticky(&servers, "by = \"uri\"");
        let of = |place: usize| reached(address, &format!("/{place}"), "");
        spread((0..12).map(of).collect());
        assert_eq!(reached(address, "/0?a", ""), reached(address, "/0?b", ""));
    }
    {
        let (_daemon, address) = sticky(&servers, "by = \"source\"");
        let of = |last: u8| -> BTreeSet<String> {
            let source = IpAddr::from(Ipv4Addr::new(127, 0, 1, last));
            let texts = (0..4).map(|_| HttpClient::connect_from(source, address).get("/").text());
            texts.collect()
        };
        spread((1..13).map(of).collect());
    }
}

/// Of the pool's own keys: idle connections end before the backend's own time.
#[test]
fn idle_connections_to_backends_end_in_time() {
    let server = HttpBackend::start("b1", |exchange| {
        let fields = if exchange.target() == "/short" {
            "Keep-Alive: timeout=2\r\n"
        } else {
            ""
        };
        exchange.answer(200, fields, "b1");
    });
    let idle = |path: &str, keys: &str| {
        let (_daemon, address) = web(
            &[&server],
            &format!("[services.web.http.timeouts]\n{keys}\n"),
        );
        HttpClient::connect(address).get(path);
        let last = server.last();
        let (at, _) = eventually(SOON, "it is ended", || server.ended(last.connection));
        at - last.at
    };
    let configured = idle("/", "upstream_idle = \"300ms\"");
    let announced = idle("/short", "upstream_idle = \"1m\"");
    let is_near = |found: Duration, ms: u64| {
        found >= Duration::from_millis(ms - ms / 5) && found < Duration::from_millis(ms + 900)
    };
    assert!(is_near(configured, 300), "{configured:?}");
    assert!(
        is_near(announced, 1_000),
        "a second before the backend's own two: {announced:?}"
    );
}

#[test]
fn a_backend_that_is_configured_no_more_keeps_no_connection() {
    let servers = several(2);
    let all: Vec<_> = servers.iter().collect();
    let long = "[services.web.http.timeouts]\nupstream_idle = \"1m\"\n";
    let text = |backends: &[&HttpBackend]| file("", &service("web", backends, long));
    let daemon = Daemon::builder(PROGRAM, &text(&all)).start();
    let address = daemon.address("web");
    let mut client = HttpClient::connect(address);
    for _ in 0..8 {
        assert_eq!(client.get("/").status(), 200);
    }
    assert!(servers.iter().all(|server| server.open() > 0));
    daemon.apply(&text(&all[..1]));
    eventually(SOON, "its connections are closed", || {
        (servers[1].open() == 0).then_some(())
    });
    for _ in 0..8 {
        assert_eq!(
            client.get("/").text(),
            "b1",
            "the client's connection stays"
        );
    }
    // It comes back as a new one.
    daemon.apply(&text(&all));
    let reached: BTreeSet<_> = (0..8).map(|_| client.get("/").text()).collect();
    assert_eq!(reached.len(), 2);
    daemon.wait_status("the books are those of before", |status| {
        status.services[0].backends.len() == 2
    });
}
