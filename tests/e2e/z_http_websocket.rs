//! Upgrades: WebSocket frames of every size go through unharmed, and there is no tunnel that was not asked for and granted.

use std::net::SocketAddr;
use std::time::Duration;

use evenkeel_testkit::http::{
    Ended, Frame, Gate, HttpBackend, HttpClient, UPGRADE_ACCEPT, upgrade_answer, upgrade_request,
};
use evenkeel_testkit::{eventually, proc, throughout};

use crate::SOON;
use crate::x_http::{assert_rest, web};

/// Takes every upgrade, and sends each frame back without its mask, until it is told to close.
fn frames() -> HttpBackend {
    HttpBackend::start("b1", |exchange| {
        if !exchange.head.names("upgrade", "websocket") {
            return exchange.answer(200, "", "plain");
        }
        exchange.send(upgrade_answer());
        while let Some(mut frame) = exchange.frame() {
            frame.mask = None;
            exchange.send(frame.encode());
            if frame.opcode == 8 {
                exchange.close();
                return;
            }
        }
    })
}

fn upgraded(address: SocketAddr) -> HttpClient {
    let mut client = HttpClient::connect(address);
    assert!(client.send(upgrade_request("/socket")));
    let answer = client.answer("GET").unwrap();
    assert_eq!(answer.status(), 101, "{answer:?}");
    let accept = answer.field("sec-websocket-accept");
    assert_eq!(accept.as_deref(), Some(UPGRADE_ACCEPT));
    assert!(
        answer.head.names("upgrade", "websocket") && answer.head.names("connection", "upgrade")
    );
    client
}

#[test]
fn frames_of_every_size_go_through_unharmed() {
    let server = frames();
    let (daemon, address) = web(&[&server], "");
    let mut client = upgraded(address);
    for length in [0, 1, 125, 126, 127, 65_535, 65_536, 1 << 20] {
        let payload: Vec<u8> = (0..length)
            .map(|place: usize| place.to_le_bytes()[0])
            .collect();
        let frame = Frame::new(2, payload).masked();
        assert!(client.send(frame.encode()));
        let back = client.frame().unwrap();
        assert_eq!((back.opcode, back.is_last, back.mask), (2, true, None));
        assert!(back.payload == frame.payload, "{length} bytes");
    }
    // A message in fragments, with a ping between them, byte by byte.
    let message = [
        Frame::new(1, "frag").further(),
        Frame::new(0, "men").further(),
        Frame::new(9, "ping"),
        Frame::new(0, ""),
        Frame::new(0, "ted"),
    ];
    for frame in &message {
        assert!(client.send_bytewise(frame.clone().masked().encode()));
    }
    for frame in &message {
        assert_eq!(client.frame().unwrap(), *frame);
    }
    // All at once.
    let many: Vec<u8> = (0..500_u16)
        .flat_map(|number| Frame::new(2, number.to_be_bytes()).masked().encode())
        .collect();
    assert!(client.send(many));
    for number in 0..500_u16 {
        assert_eq!(client.frame().unwrap().payload, number.to_be_bytes());
    }
    drop(client);
    eventually(SOON, "the backend is told", || server.ended(1));
    assert_rest(&daemon);
    assert_eq!(
        server.connections(),
        1,
        "a tunnel's connection is used for nothing else"
    );
    assert_eq!(HttpClient::connect(address).get("/").text(), "plain");
    assert_eq!(server.connections(), 2);
}

#[test]
fn close_codes_arrive_and_ends_are_those_of_the_other_side() {
    let server = frames();
    let (daemon, address) = web(&[&server], "");
    for (code, reason) in [
        (1000, ""),
        (1001, "going away"),
        (1011, "a fault"),
        (3999, "own"),
        (4999, "private"),
    ] {
        let mut client = upgraded(address);
        let close = Frame::close(code, reason);
        assert!(client.send(close.clone().masked().encode()));
        let back = client.frame().unwrap();
        assert_eq!(back, close);
        assert_eq!(client.end(SOON), Some(Ended::Fin), "{code}");
    }
    // A reset stays one, in both directions.
    let connection = server.connections() + 1;
    let client = upgraded(address);
    client.reset();
    let (_, by) = eventually(SOON, "the backend is told", || server.ended(connection));
    assert_eq!(by, Ended::Reset);
    let mut client = upgraded(address);
    server.reset_all();
    assert_eq!(client.end(SOON), Some(Ended::Reset));
    assert_rest(&daemon);
}

#[test]
fn an_idle_tunnel_stays_and_one_that_is_too_idle_ends() {
    let server = frames();
    let keys = "[services.web.http.timeouts]\nkeep_alive_idle = \"300ms\"\nbody_idle = \"300ms\"\nrequest_head = \"300ms\"\n\
                answer_idle = \"300ms\"\nupstream_idle = \"300ms\"\nfirst_byte = \"300ms\"\nclient_write = \"300ms\"\n";
    let (_daemon, address) = web(&[&server], keys);
    let mut client = upgraded(address);
    // None of the others' times counts for a tunnel.
    assert_eq!(
        client.end(Duration::from_millis(1_500)),
        Some(Ended::Timeout)
    );
    assert!(client.send(Frame::new(1, "still here").masked().encode()));
    assert_eq!(client.frame().unwrap().payload, b"still here");
    let (_daemon, address) = web(
        &[&server],
        "[services.web.http.timeouts]\ntunnel_idle = \"500ms\"\n",
    );
    let mut client = upgraded(address);
    for _ in 0..4 {
        assert_eq!(client.end(Duration::from_millis(250)), Some(Ended::Timeout));
        assert!(client.send(Frame::new(1, "a").masked().encode()));
        assert_eq!(client.frame().unwrap().payload, b"a");
    }
    assert!(matches!(client.end(SOON), Some(Ended::Fin | Ended::Reset)));
}

/// CVE-2026-2833: bytes behind the request wait for a 101, and are requests where there is none.
#[test]
fn what_follows_the_request_waits_for_the_101() {
    let gate = Gate::new();
    let wait = gate.clone();
    let server = HttpBackend::start("b1", move |exchange| {
        if exchange.target() != "/socket" {
            let target = exchange.target();
            return exchange.answer(200, "", target);
        }
        wait.wait();
        exchange.send(upgrade_answer());
        let early = exchange.frame();
        let text = early.map_or_else(Vec::new, |frame| frame.payload);
        exchange.send(Frame::new(2, text).encode());
        exchange.wait_end();
    });
    let (_daemon, address) = web(&[&server], "");
    let mut client = HttpClient::connect(address);
    let mut bytes = upgrade_request("/socket").into_bytes();
    bytes.extend(Frame::new(2, "early").masked().encode());
    assert!(client.send(bytes));
    eventually(SOON, "it is asked", || {
        (server.requests() == 1).then_some(())
    });
    throughout(Duration::from_millis(100), "nothing follows", || {
        server.left(1).is_empty()
    });
    gate.open();
    assert_eq!(client.answer("GET").unwrap().status(), 101);
    assert_eq!(client.frame().unwrap().payload, b"early");
}

#[test]
fn without_a_101_an_upgrade_is_a_request_as_any_other() {
    let server = HttpBackend::start("b1", |exchange| match &*exchange.target() {
        "/200" => exchange.answer(
            200,
            "Upgrade: websocket\r\nConnection: Upgrade\r\n",
            "plain",
        ),
        "/426" => exchange.answer(426, "Upgrade: websocket\r\nConnection: Upgrade\r\n", ""),
        "/unasked" => {
            exchange.send(upgrade_answer());
            exchange.wait_end();
        }
        target => {
            let target = target.to_owned();
            exchange.answer(200, "", target);
        }
    });
    let (_daemon, address) = web(&[&server], "");
    let mut client = HttpClient::connect(address);
    for (path, status) in [("/200", 200), ("/426", 426)] {
        assert!(client.send(upgrade_request(path)));
        let answer = client.answer("GET").unwrap();
        assert_eq!(answer.status(), status);
        assert!(
            answer.field("upgrade").is_none() && !answer.closes(),
            "{answer:?}"
        );
        assert_eq!(
            client.get("/next").text(),
            "/next",
            "the connection is one of requests"
        );
    }
    assert_eq!(server.connections(), 1);
    // A 101 that nobody asked for is no answer, and no tunnel.
    assert!(
        client.send(
            "GET /unasked HTTP/1.1\r\nHost: a\r\n\r\nGET /second HTTP/1.1\r\nHost: a\r\n\r\n"
        )
    );
    assert_eq!(client.answer("GET").unwrap().status(), 502);
    let (_, by) = eventually(SOON, "the backend's connection is thrown away", || {
        let unasked = server
            .seen()
            .into_iter()
            .find(|seen| seen.head.target() == "/unasked");
        server.ended(unasked?.connection)
    });
    assert!(matches!(by, Ended::Fin | Ended::Reset));
    // Upgrades that are none: over 1.0, with a body, by POST, without Connection.
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for request in [
        format!("GET /no HTTP/1.0\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{key}\r\n"),
        format!("GET /no HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{key}Content-Length: 2\r\n\r\nab"),
        format!("POST /no HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{key}Content-Length: 0\r\n\r\n"),
        format!("GET /no HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n{key}\r\n"),
        "GET /no HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAM\r\n\r\n".to_owned(),
    ] {
        let answer = HttpClient::connect(address).ask(&request).unwrap();
        assert_eq!(answer.text(), "/no", "{request}");
        let seen = server.last().head;
        assert!(seen.field("upgrade").is_none() && seen.field("http2-settings").is_none(), "{seen:?}");
    }
}

#[test]
fn a_tunnel_holds_back_and_ends_each_direction_by_itself() {
    let server = HttpBackend::start("b1", |exchange| {
        exchange.send(upgrade_answer());
        if exchange.target() == "/flood" {
            let frame = Frame::new(2, vec![7; 60_000]).encode();
            while exchange.send(&frame) {}
            return exchange.leave();
        }
        while exchange.frame().is_some() {}
        exchange.send(Frame::new(1, "the last word").encode());
        exchange.close();
    });
    let (daemon, address) = web(&[&server], "");
    let mut client = HttpClient::connect(address);
    assert!(client.send(upgrade_request("/half")));
    assert_eq!(client.answer("GET").unwrap().status(), 101);
    client.end_writing();
    assert_eq!(client.frame().unwrap().payload, b"the last word");
    assert_eq!(client.end(SOON), Some(Ended::Fin));
    let worker = daemon.workers()[0];
    let before = proc::memory_kib(worker).unwrap();
    let mut client = HttpClient::connect(address);
    assert!(client.send(upgrade_request("/flood")));
    assert_eq!(client.answer("GET").unwrap().status(), 101);
    throughout(
        Duration::from_millis(300),
        "what is not read is not taken",
        || proc::memory_kib(worker).unwrap() < before + 1_024,
    );
    drop(client);
    assert_rest(&daemon);
}
