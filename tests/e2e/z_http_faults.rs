//! What must hold of HTTP when its two sides misbehave at the worst moment.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use evenkeel_testkit::http::{
    Ended, Gate, HttpBackend, HttpClient, upgrade_answer, upgrade_request,
};
use evenkeel_testkit::{Daemon, client, eventually, pause_until};
use socket2::{Domain, SockRef, Socket, Type};

use crate::x_http::{assert_rest, service, start, web};
use crate::z_http_tricks::{ask_on, trickster};
use crate::{PROGRAM, SOON, alone, assert_balanced, backend, file};

/// A client that takes little at a time.
fn narrow(address: SocketAddr) -> HttpClient {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.cloexec(), None).unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.connect(&address.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(client::PATIENCE)).unwrap();
    HttpClient::new(stream)
}

#[test]
fn the_body_of_a_request_beyond_the_limit_is_no_request() {
    let gate = Gate::new();
    let wait = gate.clone();
    let server = HttpBackend::start("b1", move |exchange| {
        if exchange.target() == "/hold" {
            wait.wait();
        }
        exchange.answer(200, "", "done");
    });
    let limit = "[services.web.http.limits]\nconcurrent_requests = 1\n";
    let (daemon, address) = web(&[&server], limit);
    // Two requests at the same time, so that what the worker keeps of both can be used again: one of them is a head for long.
    let mut first = HttpClient::connect(address);
    assert!(first.send("GET /a HTTP/1.1\r\nHo"));
    let mut other = HttpClient::connect(address);
    for _ in 0..3 {
        assert_eq!(other.get("/b").status(), 200);
    }
    assert!(first.send("st: a\r\n\r\n"));
    assert_eq!(first.answer("GET").unwrap().status(), 200);
    // The only place is taken.
    let before = server.requests();
    assert!(first.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n"));
    eventually(SOON, "it is held", || {
        (server.requests() > before).then_some(())
    });
    let answer = other.post("/", "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(answer.status(), 503, "{answer:?}");
    assert!(answer.closes(), "its body was not read: {answer:?}");
    assert_eq!(other.end(SOON), Some(Ended::Fin), "there was one request");
    gate.open();
    assert_eq!(first.answer("GET").unwrap().status(), 200);
    assert!(
        server
            .seen()
            .iter()
            .all(|seen| seen.head.target() != "/smuggled")
    );
    assert_rest(&daemon);
}

/// A server that ends each connection in the very segment that its answer ends in, and does not say so.
fn corked() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut room = [0; 4_096];
            let mut length = 0;
            while !room[..length].ends_with(b"body") {
                match stream.read(&mut room[length..]) {
                    Ok(0) | Err(_) => break,
                    Ok(count) => length += count,
                }
            }
            SockRef::from(&stream).set_tcp_cork(true).unwrap();
            // The daemon may be gone already.
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone"));
            drop(stream.shutdown(Shutdown::Write));
        }
    });
    address
}

#[test]
fn a_backend_that_ends_with_its_answer_gets_no_further_request_on_that_connection() {
    let backends = backend("b1", &corked());
    let text = format!(
        "[services.web]\nmode = \"http\"\nlisten = \"127.0.0.1:0\"\ncheck = \"none\"\nbackends = [{backends}]\n"
    );
    let (daemon, address) = start(1, &text);
    let mut client = HttpClient::connect(address);
    for number in 0..20 {
        let answer = client.post("/", "body");
        assert_eq!(answer.status(), 200, "{number}: {answer:?}");
    }
    let status = assert_rest(&daemon);
    let http = status.services[0].backends[0].http.unwrap();
    assert_eq!((http.reused, http.idle), (0, 0), "{http:?}");
}

#[test]
fn what_a_client_sends_behind_its_last_request_does_not_cost_it_the_answer() {
    const BYTES: usize = 300_000;
    let server = HttpBackend::start("b1", |exchange| {
        // Long enough for the second request to arrive meanwhile.
        Gate::new().wait_for(Duration::from_millis(50));
        exchange.answer(200, "", vec![b'x'; BYTES]);
    });
    let limit = "[services.web.http.limits]\nrequests_per_connection = 1\n";
    let (daemon, address) = web(&[&server], limit);
    for number in 1..5 {
        let mut client = narrow(address);
        assert!(client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n"));
        eventually(SOON, "it is there", || {
            (server.requests() == number).then_some(())
        });
        assert!(client.send("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n"));
        let head = client.head().unwrap();
        assert!(head.names("connection", "close"), "{head:?}");
        client.skip(BYTES).unwrap();
        client.assert_ends();
    }
    assert_rest(&daemon);
}

#[test]
fn an_answer_of_ours_does_not_cut_an_interim_one_that_is_being_written() {
    let server = HttpBackend::start("b1", |exchange| {
        let filler = "x".repeat(7_000);
        for number in 0..70 {
            let mut hints = format!("HTTP/1.1 103 Odd\r\nX-Number: {number}\r\n");
            for field in 0..8 {
                hints += &format!("Link-{field}: {filler}\r\n");
            }
            if !exchange.send(hints + "\r\n") {
                return exchange.leave();
            }
        }
        exchange.answer(200, "", "late");
    });
    let (daemon, address) = web(&[&server], "");
    let mut client = narrow(address);
    assert!(client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
    eventually(SOON, "it has its answer", || {
        let status = daemon.status();
        let http = status.services[0].http.as_ref().unwrap();
        (http.own_answers == 1).then_some(())
    });
    let answer = client.answer("GET").unwrap();
    assert!(answer.status() >= 500, "{answer:?}");
    assert_rest(&daemon);
}

#[test]
fn a_head_that_is_allowed_to_be_long_is_answered() {
    let server = HttpBackend::named("b1");
    let limit = "[services.web.http.limits]\nhead_bytes = \"64KiB\"\n";
    let (daemon, address) = web(&[&server], limit);
    let field = format!("X-Long: {}\r\n", "x".repeat(7_000));
    let long = field.repeat(15);
    let mut client = HttpClient::connect(address);
    let answer = client
        .ask(format!("GET / HTTP/1.1\r\nHost: a\r\n{long}\r\n"))
        .unwrap();
    assert!([200, 431].contains(&answer.status()), "{answer:?}");
    // The longest one that fits, behind an empty line.
    let limit = 65_536 - "GET / HTTP/1.1\r\nHost: a\r\n\r\n".len() - 8;
    let count = limit / field.len();
    let rest = "x".repeat(limit - count * field.len() - "X-Rest: \r\n".len());
    let long = field.repeat(count) + &format!("X-Rest: {rest}\r\n");
    let mut client = HttpClient::connect(address);
    let answer = client
        .ask(format!("\r\nGET / HTTP/1.1\r\nHost: a\r\n{long}\r\n"))
        .unwrap();
    assert!([200, 431].contains(&answer.status()), "{answer:?}");
    assert_rest(&daemon);
}

#[test]
fn a_tunnel_over_reloads_holds_its_own_backend_and_no_plan() {
    const FILLERS: usize = 40;
    let server = HttpBackend::start("b1", |exchange| {
        exchange.send(upgrade_answer());
        while !exchange.some().is_empty() {
            exchange.send("pong");
        }
    });
    let config = |round: usize| {
        let mut backends = vec![];
        if round == 0 {
            backends.push(backend("b1", &server.address()));
        } else {
            backends.extend((0..FILLERS).map(|number| {
                let name = format!("filler-{round}-{number}");
                backend(&name, &server.address())
            }));
        }
        // Those of two rounds, and few to spare.
        let top = format!("limits = {{ backends = {} }}", 2 * FILLERS + 8);
        file(
            &top,
            &format!(
                "[services.web]\nmode = \"http\"\nlisten = \"127.0.0.1:0\"\ncheck = \"none\"\nbackends = [{}]\n",
                backends.join(", ")
            ),
        )
    };
    let daemon = Daemon::builder(PROGRAM, &config(0)).start();
    let address = daemon.address("web");
    let tunnel = || {
        let mut client = HttpClient::connect(address);
        assert!(client.send(upgrade_request("/socket")));
        assert_eq!(client.answer("GET").unwrap().status(), 101);
        client
    };
    let mut first = tunnel();
    daemon.apply(&config(1));
    // One by a plan of many backends, of which it needs one.
    let mut second = tunnel();
    for round in 2..6 {
        for client in [&mut first, &mut second] {
            assert!(client.send("ping"));
            assert_eq!(client.exactly(4).unwrap(), b"pong");
        }
        daemon.apply(&config(round));
    }
    drop((first, second));
    assert_rest(&daemon);
}

#[test]
fn a_client_of_a_listener_that_is_gone_is_told_to_leave() {
    let server = HttpBackend::named("b1");
    let of = |listen: &str| {
        let text = service("web", &[&server], "");
        file("", &text.replace("listen = \"127.0.0.1:0\"", listen))
    };
    let both = "listen = [\"127.0.0.1:0\", \"127.0.0.2:0\"]";
    let daemon = Daemon::builder(PROGRAM, &of(both)).start();
    let status = daemon.status();
    let listeners = &status.services[0].listeners;
    let mut clients: Vec<_> = listeners
        .iter()
        .map(|address| HttpClient::connect(*address))
        .collect();
    for client in &mut clients {
        assert!(!client.get("/").closes());
    }
    daemon.apply(&of("listen = \"127.0.0.1:0\""));
    for (client, address) in clients.iter_mut().zip(listeners) {
        let is_gone = address.ip() == Ipv4Addr::new(127, 0, 0, 2);
        let answer = client.get("/");
        assert_eq!(answer.closes(), is_gone, "{address}: {answer:?}");
    }
    assert_rest(&daemon);
}

#[test]
fn a_client_that_pipelines_without_end_keeps_nobody_waiting() {
    let server = HttpBackend::named("b1");
    let routes = "[[services.web.routes]]\nprefix = \"/fixed\"\nanswer = { status = 200, body = \"fixed\" }\n";
    let (daemon, address) = web(&[&server], routes);
    let stream = TcpStream::connect(address).unwrap();
    let mut sending = stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        let many = "GET /fixed HTTP/1.1\r\nHost: a\r\n\r\n".repeat(1_000);
        while sending.write_all(many.as_bytes()).is_ok() {}
    });
    let mut reading = stream.try_clone().unwrap();
    let reader = std::thread::spawn(move || {
        let mut room = vec![0; 1 << 20];
        while reading.read(&mut room).is_ok_and(|count| count > 0) {}
    });
    eventually(SOON, "it is busy", || {
        let metrics = daemon.metrics();
        let total = metrics.value("evenkeel_http_requests_total", &[("service", "web")]);
        (total? > 2_000.0).then_some(())
    });
    let mut client = HttpClient::connect(address);
    let mut slowest = Duration::ZERO;
    for _ in 0..50 {
        let begun = Instant::now();
        assert_eq!(client.get("/").text(), "b1");
        slowest = slowest.max(begun.elapsed());
    }
    stream.shutdown(Shutdown::Both).unwrap();
    sender.join().unwrap();
    reader.join().unwrap();
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    assert_rest(&daemon);
}

#[test]
fn a_second_backend_is_told_its_own_address_as_the_host() {
    let drop_first = |exchange: &mut evenkeel_testkit::http::Exchange<'_>| {
        let is_first = exchange
            .head
            .field("x-id")
            .is_some_and(|id| id == exchange.name);
        if is_first {
            exchange.close();
        } else {
            exchange.answer(200, "", "done");
        }
    };
    let servers = ["b1", "b2"].map(|name| HttpBackend::start(name, drop_first));
    let (_daemon, address) = web(&[&servers[0], &servers[1]], "");
    for dropped in ["b1", "b2", "b1", "b2"] {
        let mut client = HttpClient::connect(address);
        let answer = client.ask(format!("GET / HTTP/1.0\r\nX-Id: {dropped}\r\n\r\n"));
        assert_eq!(answer.unwrap().status(), 200);
    }
    for server in &servers {
        let own = server.address().to_string();
        assert!(server.requests() >= 2);
        for seen in server.seen() {
            assert_eq!(seen.head.field("host").unwrap(), own);
        }
    }
}

#[test]
fn a_request_that_is_tried_elsewhere_is_not_lost_with_the_backend_before() {
    let gate = Gate::new();
    let wait = gate.clone();
    let first = HttpBackend::start("b1", move |exchange| {
        if exchange.target() == "/" {
            wait.wait();
            exchange.close();
        } else {
            exchange.answer(200, "", "well");
        }
    });
    // Takes connections for its checks, until they are as many as may wait.
    let second = Socket::new(Domain::IPV4, Type::STREAM.cloexec(), None).unwrap();
    second
        .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
        .unwrap();
    second.listen(16).unwrap();
    let silent = second.local_addr().unwrap().as_socket().unwrap();
    let lines = "on_down = \"reset\"\nconnect = { timeout = \"3s\" }\n\
                 check = { interval = \"200ms\", timeout = \"200ms\", rise = 1, fall = 1 }";
    let text = format!(
        "[services.web]\nmode = \"http\"\nlisten = \"127.0.0.1:0\"\n{lines}\nbackends = [{}, {}]\n",
        backend("b1", &first.address()),
        backend("b2", &silent)
    );
    let (daemon, address) = start(1, &text);
    let ask = |client: &mut HttpClient| assert!(client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
    let mut clients: Vec<_> = (0..2).map(|_| HttpClient::connect(address)).collect();
    clients.iter_mut().for_each(ask);
    eventually(SOON, "one of them is there", || {
        (first.requests() == 1).then_some(())
    });
    // From now on nobody can connect there any more: what is tried waits.
    let stuffing: Vec<_> = (0..32)
        .map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM.cloexec(), None).unwrap();
            socket.set_nonblocking(true).unwrap();
            drop(socket.connect(&silent.into()));
            socket
        })
        .collect();
    first.stop();
    gate.open();
    daemon.wait_status("both are down", |status| {
        status.services[0]
            .backends
            .iter()
            .all(|backend| backend.state == "down")
    });
    let answers: Vec<_> = clients
        .iter_mut()
        .map(|client| client.answer("GET"))
        .collect();
    drop(stuffing);
    // The other one was connected to the second.
    let answered: Vec<_> = answers.iter().flatten().collect();
    assert_eq!(answered.len(), 1, "{answers:?}");
    assert_eq!(answered[0].status(), 502, "{answers:?}");
    assert_rest(&daemon);
}

#[test]
fn a_service_turns_from_http_to_tcp_and_back_under_its_clients() {
    let gate = Gate::new();
    let wait = gate.clone();
    let server = HttpBackend::start("b1", move |exchange| {
        if exchange.head.names("upgrade", "websocket") {
            exchange.send(upgrade_answer());
            while !exchange.some().is_empty() {
                exchange.send("pong");
            }
            return;
        }
        if exchange.target() == "/hold" {
            wait.wait();
        }
        exchange.answer(200, "", "done");
    });
    let http = file("", &service("web", &[&server], ""));
    let tcp = http.replace("mode = \"http\"", "connect_on = \"data\"");
    let daemon = Daemon::builder(PROGRAM, &http).start();
    let address = daemon.address("web");
    let mut tunnel = HttpClient::connect(address);
    assert!(tunnel.send(upgrade_request("/socket")));
    assert_eq!(tunnel.answer("GET").unwrap().status(), 101);
    let mut parked = HttpClient::connect(address);
    assert_eq!(parked.get("/").status(), 200);
    let mut half = HttpClient::connect(address);
    assert!(half.send("GET /half HTTP/1.1\r\nHo"));
    eventually(SOON, "one is parked", || {
        // The tunnel and the client between two requests, in one worker or in two.
        let metrics = daemon.metrics();
        let of = |slot| metrics.value("evenkeel_worker_parked_connections", &[("slot", slot)]);
        (of("0")? + of("1").unwrap_or(0.0) >= 2.0).then_some(())
    });
    let mut held = HttpClient::connect(address);
    assert!(held.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n"));
    eventually(SOON, "it is held", || {
        (server.requests() == 3).then_some(())
    });
    daemon.apply(&tcp);
    assert_eq!(daemon.address("web"), address);
    let mut waiting = HttpClient::connect(address);
    assert_eq!(HttpClient::connect(address).get("/tcp").status(), 200);
    gate.open();
    let answer = held.answer("GET").unwrap();
    assert_eq!(answer.status(), 200);
    held.assert_ends();
    assert!(half.send("st: a\r\n\r\n"));
    assert_eq!(half.answer("GET").unwrap().status(), 200);
    half.assert_ends();
    assert!(parked.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
    parked.assert_ends();
    assert!(tunnel.send("ping"));
    assert_eq!(tunnel.exactly(4).unwrap(), b"pong");
    daemon.apply(&http);
    assert_eq!(HttpClient::connect(address).get("/").status(), 200);
    // What came for TCP is not passed by the routes and rules that there are now.
    assert!(waiting.send("GET /raw HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert!(waiting.end(SOON).is_some());
    assert!(
        server
            .seen()
            .iter()
            .all(|seen| seen.head.target() != "/raw")
    );
    assert!(tunnel.send("ping"));
    assert_eq!(tunnel.exactly(4).unwrap(), b"pong");
    drop((tunnel, waiting, parked, half, held));
    assert_rest(&daemon);
    assert_balanced(&daemon, "web");
}

#[test]
fn places_and_books_survive_rude_clients_and_reloads() {
    let _alone = alone();
    let wrong = Arc::new(Mutex::new(Vec::new()));
    let servers = [trickster("b1", &wrong), trickster("b2", &wrong)];
    let of = |turn: usize| {
        let backends: Vec<_> = servers
            .iter()
            .map(|server| {
                let (name, address) = (server.name(), server.address());
                let max = 2 + turn % 2;
                format!("{{ name = \"{name}\", address = \"{address}\", max_connections = {max} }}")
            })
            .collect();
        let text = format!(
            "[services.web]\nmode = \"http\"\nlisten = \"127.0.0.1:0\"\ncheck = \"none\"\nbackends = [{}]\n\
             queue = {{ length = 20, timeout = \"300ms\" }}\n\
             [services.web.http.limits]\nconcurrent_requests = {}\n",
            backends.join(", "),
            9 + turn % 3,
        );
        file("", &text)
    };
    let daemon = Daemon::builder(PROGRAM, &of(0)).start();
    let address = daemon.address("web");
    let until = Instant::now() + Duration::from_secs(6);
    let threads: Vec<_> = (100..112)
        .map(|thread| std::thread::spawn(move || ask_on(address, thread, until, true)))
        .collect();
    let mut turn = 0;
    while Instant::now() < until {
        turn += 1;
        daemon.apply(&of(turn));
    }
    let mut served = 0;
    for thread in threads {
        let (count, found) = thread.join().unwrap();
        served += count;
        wrong.lock().unwrap().extend(found);
    }
    let wrong: Vec<_> = wrong.lock().unwrap().iter().cloned().collect();
    let some: Vec<_> = wrong
        .iter()
        .take(8)
        .map(|what| what.get(..600).unwrap_or(what))
        .collect();
    assert!(wrong.is_empty(), "{} of {served}: {some:#?}", wrong.len());
    assert_rest(&daemon);
    assert_balanced(&daemon, "web");
    let status = daemon.status();
    // Every place is free again.
    for limit in &status.services[0].limits {
        assert_eq!(limit.active, 0, "{limit:?}");
    }
    for number in 0..40 {
        let id = format!("last-{number}-");
        let mut client = HttpClient::connect(address);
        assert_eq!(client.get(&format!("/0/0/{id}")).text(), id);
    }
}

#[test]
fn slow_clients_do_not_make_the_worker_compress_without_end() {
    const MOST: usize = 256;
    let gate = Gate::new();
    let wait = gate.clone();
    let server = HttpBackend::start("b1", move |exchange| {
        // The rest of it never comes.
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1000000\r\n\r\n";
        exchange.send(format!("{head}{}", "x".repeat(1_000)));
        wait.wait();
        exchange.close();
    });
    let lines = "[services.web.http.compression]\ncodings = [\"gzip\"]\ntypes = [\"text/plain\"]\n";
    let (daemon, address) = web(&[&server], lines);
    let ask = || {
        let mut client = HttpClient::connect(address);
        assert!(client.send("GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n"));
        let head = client.head().unwrap();
        let coding = head.field("content-encoding");
        assert_eq!(head.field("vary").as_deref(), Some("Accept-Encoding"));
        assert_eq!(head.field("content-length").is_some(), coding.is_none());
        (client, coding.is_some())
    };
    let slow: Vec<_> = (0..MOST).map(|_| ask()).collect();
    assert!(slow.iter().all(|(_, is_compressed)| *is_compressed));
    assert!(!ask().1, "one more is passed on as it is");
    drop(slow);
    eventually(SOON, "there is room again", || ask().1.then_some(()));
    gate.open();
    assert_rest(&daemon);
}

#[test]
fn an_empty_line_behind_a_body_is_no_request_that_is_late() {
    let server = HttpBackend::named("b1");
    let lines = "[services.web.http.timeouts]\nrequest_head = \"300ms\"\n";
    let (daemon, address) = web(&[&server], lines);
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody\r\n";
    let mut client = HttpClient::connect(address);
    for _ in 0..2 {
        assert_eq!(client.ask(post).unwrap().status(), 200);
    }
    // An answer now would be taken for that to the next request.
    client.assert_ends();
    let status = assert_rest(&daemon);
    let http = status.services[0].http.as_ref().unwrap();
    assert_eq!((http.requests, http.own_answers), (2, 0), "{http:?}");
}

#[test]
fn idle_connections_give_way_when_descriptors_are_short() {
    const CLIENTS: usize = 300;
    let gate = Gate::new();
    let wait = gate.clone();
    let server = HttpBackend::start("b1", move |exchange| {
        wait.wait();
        exchange.answer(200, "", "done");
    });
    let text = file("", &service("web", &[&server], "")).replace("workers = 2", "workers = 1");
    let daemon = Daemon::builder(PROGRAM, &text).descriptors(740).start();
    let address = daemon.address("web");
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| HttpClient::connect(address)).collect();
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    for client in &mut clients {
        assert!(client.send(post));
    }
    eventually(SOON, "all are there", || {
        (server.requests() == CLIENTS).then_some(())
    });
    gate.open();
    for client in &mut clients {
        assert_eq!(client.answer("POST").unwrap().status(), 200);
    }
    assert!(daemon.backend("web", "b1").http.unwrap().idle > 200);
    // Idle for too long to be used by what must not be sent twice.
    pause_until(Instant::now() + Duration::from_millis(1_500));
    server.set(|exchange| {
        // Long enough for all of them to be there at once.
        Gate::new().wait_for(Duration::from_secs(2));
        exchange.answer(200, "", "done");
    });
    for client in &mut clients {
        assert!(client.send(post));
    }
    for client in &mut clients {
        let answer = client.answer("POST").unwrap();
        assert_eq!(answer.status(), 200, "{answer:?}");
    }
    assert_rest(&daemon);
}
