//! HTTP under load, while things go wrong: backends and workers that are killed, reloads, clients that are slow, a stop.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use evenkeel_testkit::http::{
    Broken, Ended, Gate, HttpBackend, HttpClient, HttpLoad, Outcome, upgrade_answer,
    upgrade_request,
};
use evenkeel_testkit::{Daemon, Signal, client, eventually, pause_until, proc};
use socket2::{Domain, Socket, Type};

use crate::x_http::{assert_rest, inner, service, start};
use crate::{PROGRAM, SOON, alone, file};

/// A little after a harm: what was on its way then has arrived.
const AFTERMATH: Duration = Duration::from_millis(250);

fn get(id: &str) -> String {
    format!("GET /{id} HTTP/1.1\r\nHost: a\r\nX-Id: {id}\r\n\r\n")
}

/// A GET or a POST, in turns.
fn mixed(id: &str) -> String {
    if id.ends_with(['0', '2', '4', '6', '8']) {
        return get(id);
    }
    format!("POST /{id} HTTP/1.1\r\nHost: a\r\nX-Id: {id}\r\nContent-Length: 5\r\n\r\nhello")
}

fn failed(outcomes: &[Outcome]) -> Vec<&Outcome> {
    let all = outcomes.iter();
    all.filter(|outcome| outcome.status() != Some(200))
        .collect()
}

/// That nothing failed.
#[track_caller]
fn assert_all_served(outcomes: &[Outcome]) {
    let failed = failed(outcomes);
    let some: Vec<_> = failed.iter().take(5).collect();
    assert!(
        failed.is_empty(),
        "{} of {}: {some:#?}",
        failed.len(),
        outcomes.len()
    );
}

/// No connection ended that had not said so in the answer before.
#[track_caller]
fn assert_no_silent_close(outcomes: &[Outcome]) {
    for outcome in outcomes {
        if let Err(Broken { by, .. }) = &outcome.result {
            assert!(
                outcome.number == 1 || !matches!(by, Ended::Fin | Ended::Reset),
                "closed without Connection: close: {outcome:#?}"
            );
        }
    }
}

fn answered(load: &HttpLoad, count: u64) {
    let from = load.answered();
    eventually(SOON, &format!("{count} answers more"), || {
        (load.answered() >= from + count).then_some(())
    });
}

/// GETs never fail unless their answer had begun; POSTs in flight there get a 502; nothing unsafe is executed twice.
#[test]
fn a_backend_is_killed_under_64_clients() {
    let _alone = alone();
    let names = ["b1", "b2", "b3"];
    let servers: Vec<_> = names
        .map(|name| {
            HttpBackend::start(name, |exchange| {
                // Long enough for some to be in flight whenever it is killed.
                Gate::new().wait_for(Duration::from_millis(5));
                exchange.answer(200, "", "done");
            })
        })
        .into();
    let all: Vec<_> = servers.iter().collect();
    let (daemon, address) = start(2, &service("web", &all, ""));
    let load = HttpLoad::start(address, 64, Duration::from_millis(25), mixed);
    let mut harms = Vec::new();
    answered(&load, 300);
    for victim in &servers {
        let begun = Instant::now();
        victim.kill();
        harms.push((begun, Instant::now() + AFTERMATH));
        answered(&load, 400);
        let before = victim.requests();
        victim.resume();
        eventually(Duration::from_secs(15), "it is used again", || {
            (victim.requests() > before).then_some(())
        });
    }
    let outcomes = load.stop();
    for outcome in failed(&outcomes) {
        let in_flight = harms.iter().any(|harm| outcome.overlaps(*harm));
        assert!(in_flight, "nothing was killed then: {outcome:#?}");
        assert_ne!(
            outcome.method, "GET",
            "the answer had not begun: {outcome:#?}"
        );
        assert_eq!(outcome.status(), Some(502), "{outcome:#?}");
    }
    assert_no_silent_close(&outcomes);
    for outcome in outcomes.iter().filter(|outcome| outcome.method == "POST") {
        let times: usize = servers
            .iter()
            .map(|server| server.executed(&outcome.id))
            .sum();
        assert!(times <= 1, "{times} times: {outcome:#?}");
        assert!(
            times == 1 || outcome.status() != Some(200),
            "answered by nobody: {outcome:#?}"
        );
    }
    let posts = failed(&outcomes).len();
    assert!(
        posts <= 3 * 64,
        "{posts} POSTs of {} requests",
        outcomes.len()
    );
    assert_rest(&daemon);
}

#[test]
fn reloads_of_routes_and_backends_lose_no_request() {
    const RELOADS: usize = 200;
    let _alone = alone();
    let servers: Vec<_> = ["b1", "b2", "b3"].map(HttpBackend::named).into();
    let config = |turn: usize| {
        // Each turn another pair of backends, and another service behind the route.
        let one = [&servers[turn % 3], &servers[(turn + 1) % 3]];
        let two = [&servers[(turn + 2) % 3]];
        let target = if turn.is_multiple_of(2) { "one" } else { "two" };
        let routes = format!(
            "[[services.web.routes]]\nprefix = \"/{turn}\"\nanswer = {{ body = \"fixed\" }}\n\
             [[services.web.routes]]\nprefix = \"/\"\nservice = \"{target}\"\n"
        );
        // One listener for all of them: a port that is chosen anew would be another one.
        let text = service("web", &[], &routes) + &inner("one", &one, "") + &inner("two", &two, "");
        file("", &text)
    };
    let daemon = Daemon::builder(PROGRAM, &config(1)).start();
    let address = daemon.address("web");
    let load = HttpLoad::start(address, 8, Duration::from_millis(4), |id| {
        format!("GET /of/{id} HTTP/1.1\r\nHost: a\r\nX-Id: {id}\r\n\r\n")
    });
    answered(&load, 50);
    for turn in 0..RELOADS {
        daemon.apply(&config(turn));
        if turn % 10 == 0 {
            answered(&load, 8);
        }
    }
    let outcomes = load.stop();
    assert_eq!(daemon.address("web"), address);
    assert_all_served(&outcomes);
    assert_no_silent_close(&outcomes);
    assert!(outcomes.len() > 500, "{}", outcomes.len());
    let reached: BTreeSet<String> = outcomes
        .iter()
        .filter_map(|outcome| Some(outcome.result.as_ref().ok()?.text()))
        .collect();
    assert_eq!(reached.len(), 3, "{reached:?}");
    assert_rest(&daemon);
}

/// Threads that keep thousands of connections busy with almost nothing.
struct Drips {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<usize>>,
}

impl Drips {
    /// Does `drip` to each connection, again and again; those that fail are forgotten.
    fn start(
        mut streams: Vec<HttpClient>,
        mut drip: impl FnMut(&mut HttpClient) -> bool + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let run = move || {
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                streams.retain_mut(&mut drip);
                pause_until(begun + Duration::from_millis(200));
            }
            streams.len()
        };
        Self {
            stop,
            thread: Some(std::thread::spawn(run)),
        }
    }

    /// How many are left.
    fn stop(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Drips {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A client that takes little at a time: small buffers and small segments, so that what is on its way is little too.
fn narrow(address: SocketAddr) -> HttpClient {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.cloexec(), None).unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.set_tcp_mss(536).unwrap();
    socket.connect(&address.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(client::PATIENCE)).unwrap();
    HttpClient::new(stream)
}

/// How others are served meanwhile.
fn assert_unharmed(address: SocketAddr, what: &str) {
    let load = HttpLoad::start(address, 8, Duration::from_millis(10), mixed);
    answered(&load, 400);
    let outcomes = load.stop();
    assert_all_served(&outcomes);
    let mut times: Vec<_> = outcomes.iter().map(Outcome::took).collect();
    times.sort();
    let (middle, slowest) = (times[times.len() / 2], times[times.len() - 1]);
    assert!(
        middle < Duration::from_millis(100) && slowest < Duration::from_secs(5),
        "with {what}: median {middle:?}, slowest {slowest:?}"
    );
}

const SLOW: usize = 2_000;

/// What a slow reader asks for: more than lies in buffers between, and little enough for 2,000 of them.
const LONG_BYTES: usize = 400_000;

#[test]
fn thousands_of_slow_clients_harm_nobody() {
    let _alone = alone();
    let descriptors = proc::raise_descriptors();
    assert!(
        descriptors > 10_000,
        "{descriptors} descriptors, more are needed"
    );
    let server = HttpBackend::start("b1", |exchange| {
        if exchange.target() == "/long" {
            exchange.answer(200, "", vec![b'x'; LONG_BYTES]);
        } else {
            exchange.answer(200, "", "done");
        }
    });
    let other = HttpBackend::named("b2");
    let (daemon, address) = start(2, &service("web", &[&server, &other], ""));
    other.set(|exchange| {
        if exchange.target() == "/long" {
            exchange.answer(200, "", vec![b'x'; LONG_BYTES]);
        } else {
            exchange.answer(200, "", "done");
        }
    });
    let workers = daemon.workers();
    let held = || -> Option<usize> { workers.iter().map(|pid| proc::descriptors(*pid)).sum() };
    let held_before = held();
    let connect = |first: &str| -> Vec<HttpClient> {
        (0..SLOW)
            .map(|_| {
                let mut client = HttpClient::connect(address);
                assert!(client.send(first));
                client
            })
            .collect()
    };
    // Slow heads: a byte of a field now and then.
    let slow = connect("GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ");
    let drips = Drips::start(slow, |client| client.send("x"));
    assert_unharmed(address, "slow heads");
    let before = server.requests() + other.requests();
    assert_eq!(drips.stop(), SLOW, "none of them was thrown out");
    // Slow bodies: each has its backend's connection.
    let slow = connect("POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
    eventually(SOON, "the backends have them", || {
        (server.requests() + other.requests() >= before + SLOW).then_some(())
    });
    let drips = Drips::start(slow, |client| client.send("x"));
    assert_unharmed(address, "slow bodies");
    assert_eq!(drips.stop(), SLOW, "none of them was thrown out");
    // Slow readers.
    let slow: Vec<_> = (0..SLOW)
        .map(|_| {
            let mut client = narrow(address);
            assert!(client.send("GET /long HTTP/1.1\r\nHost: a\r\n\r\n"));
            client
        })
        .collect();
    let drips = Drips::start(slow, |client| client.exactly(1).is_ok());
    assert_unharmed(address, "slow readers");
    assert_eq!(drips.stop(), SLOW, "none of them was thrown out");
    assert_rest(&daemon);
    assert_eq!(daemon.workers(), workers, "the same ones all the while");
    if let Some(before) = held_before {
        eventually(SOON, "no descriptor is left over", || {
            // Idle connections to backends may stay for their time.
            (held()? < before + 50).then_some(())
        });
    }
}

fn fast_drain(services: &str) -> String {
    file("", services).replace("workers = 2", "workers = 1")
}

#[test]
fn a_stop_lets_answers_finish_and_says_close() {
    let gate = Gate::new();
    let wait = gate.clone();
    let server = HttpBackend::start("b1", move |exchange| {
        if exchange.target() == "/long" {
            exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n");
            wait.wait();
            exchange.send("4\r\nrest\r\n0\r\n\r\n");
        } else if exchange.target() == "/late" {
            wait.wait();
            exchange.answer(200, "", "late");
        } else {
            exchange.answer(200, "", "done");
        }
    });
    let mut daemon = Daemon::builder(PROGRAM, &fast_drain(&service("web", &[&server], ""))).start();
    let address = daemon.address("web");
    // Put away after a second of silence.
    let mut parked = HttpClient::connect(address);
    assert_eq!(parked.get("/").status(), 200);
    pause_until(Instant::now() + Duration::from_millis(1_500));
    let mut idle = HttpClient::connect(address);
    assert_eq!(idle.get("/").status(), 200);
    let mut silent = HttpClient::connect(address);
    let mut long = HttpClient::connect(address);
    assert!(long.send("GET /long HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert_eq!(long.head().unwrap().status(), 200);
    assert_eq!(long.exactly(9).unwrap(), b"4\r\nhalf\r\n");
    let mut late = HttpClient::connect(address);
    assert!(late.send("GET /late HTTP/1.1\r\nHost: a\r\n\r\n"));
    eventually(SOON, "all are there", || {
        (server.requests() == 4).then_some(())
    });
    daemon.signal(Signal::TERM);
    daemon.wait_status("it drains", |status| status.phase == "draining");
    assert_eq!(
        idle.end(SOON),
        Some(Ended::Fin),
        "an idle one is ended in order"
    );
    assert_eq!(
        parked.end(SOON),
        Some(Ended::Fin),
        "one that was put away, too"
    );
    let end = silent.end(SOON);
    assert!(matches!(end, Some(Ended::Fin | Ended::Reset)), "{end:?}");
    assert!(daemon.is_running());
    gate.open();
    assert_eq!(long.exactly(14).unwrap(), b"4\r\nrest\r\n0\r\n\r\n"[..14]);
    let answer = late.answer("GET").unwrap();
    assert_eq!(answer.text(), "late");
    assert!(answer.closes(), "{answer:?}");
    late.assert_ends();
    assert_eq!(long.end(SOON), Some(Ended::Fin));
    let ended = daemon.wait_end(SOON);
    assert_eq!(ended.code(), Some(0), "{ended}");
}

#[test]
fn a_stop_ends_what_does_not_end_by_itself() {
    let server = HttpBackend::start("b1", |exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        exchange.wait_end();
    });
    let text = fast_drain(&service("web", &[&server], ""))
        .replace("deadline = \"5s\"", "deadline = \"500ms\"");
    let mut daemon = Daemon::builder(PROGRAM, &text).start();
    let mut feed = HttpClient::connect(daemon.address("web"));
    assert!(feed.send("GET /_changes HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert_eq!(feed.head().unwrap().status(), 200);
    let begun = Instant::now();
    assert_eq!(daemon.stop().code(), Some(0));
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    let broken = feed.some().unwrap_err();
    assert_eq!(broken.by, Ended::Reset, "what was cut does not look whole");
}

#[test]
fn under_load_a_stop_breaks_no_answer() {
    let _alone = alone();
    let server = HttpBackend::named("b1");
    let (mut daemon, address) = start(2, &service("web", &[&server], ""));
    let load = HttpLoad::start(address, 16, Duration::from_millis(4), mixed);
    answered(&load, 200);
    let harm = Instant::now();
    daemon.signal(Signal::TERM);
    let ended = daemon.wait_end(SOON);
    let outcomes = load.stop();
    assert_eq!(ended.code(), Some(0));
    let mut said = 0;
    for outcome in &outcomes {
        match &outcome.result {
            Ok(answer) => {
                assert_eq!(answer.status(), 200, "{outcome:#?}");
                said += usize::from(answer.closes());
            }
            // Nobody listens any more; or an idle connection was ended in the moment in which it was used again (RFC 9112
            // section 9.3.1): no byte of an answer, and the server has not seen it.
            Err(broken) => {
                assert!(outcome.ended >= harm, "{outcome:#?}");
                assert!(
                    broken.got.is_empty() || broken.got.starts_with(b"no connection"),
                    "{outcome:#?}"
                );
                assert_eq!(server.executed(&outcome.id), 0, "{outcome:#?}");
            }
        }
    }
    assert!(said > 0, "some were told");
}

#[test]
fn a_killed_worker_takes_only_its_own_connections_with_it() {
    let _alone = alone();
    let servers: Vec<_> = ["b1", "b2"].map(HttpBackend::named).into();
    let all: Vec<_> = servers.iter().collect();
    let (daemon, address) = start(2, &service("web", &all, ""));
    let load = HttpLoad::start(address, 32, Duration::from_millis(10), mixed);
    answered(&load, 300);
    let mut harms = Vec::new();
    for _ in 0..3 {
        let begun = Instant::now();
        let victim = daemon.workers()[0];
        proc::signal(victim, Signal::KILL);
        daemon.wait_status("there is another one", |status| {
            let mut workers = status.workers.iter();
            workers.all(|worker| worker.state == "live" && worker.pid != victim)
        });
        harms.push((begun, Instant::now() + AFTERMATH));
        answered(&load, 300);
    }
    let outcomes = load.stop();
    let failed = failed(&outcomes);
    // Each kill: at most those of the 32 that had a connection to that worker.
    assert!(failed.len() <= 3 * 32, "{}", failed.len());
    for outcome in &failed {
        assert!(
            harms.iter().any(|harm| outcome.overlaps(*harm)),
            "{outcome:#?}"
        );
        let by = outcome.result.as_ref().err().map(|broken| broken.by);
        assert_eq!(
            by,
            Some(Ended::Reset),
            "a reset, and never a clean end: {outcome:#?}"
        );
        let times: usize = servers
            .iter()
            .map(|server| server.executed(&outcome.id))
            .sum();
        assert!(times <= 1, "{outcome:#?}");
    }
    assert_rest(&daemon);
}

/// A service that is configured no more: what runs is finished, and said to be the last.
#[test]
fn a_service_that_is_removed_ends_in_order() {
    let gate = Gate::new();
    let wait = gate.clone();
    let server = HttpBackend::start("b1", move |exchange| {
        if exchange.head.names("upgrade", "websocket") {
            exchange.send(upgrade_answer());
            exchange.wait_end();
            return;
        }
        if exchange.target() == "/wait" {
            wait.wait();
        }
        exchange.answer(200, "", "done");
    });
    let both = service("web", &[&server], "") + &service("other", &[&server], "");
    let daemon = Daemon::builder(PROGRAM, &file("", &both)).start();
    let (address, other) = (daemon.address("web"), daemon.address("other"));
    let mut idle = HttpClient::connect(address);
    assert_eq!(idle.get("/").status(), 200);
    let mut waits = HttpClient::connect(address);
    assert!(waits.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n"));
    let mut tunnel = HttpClient::connect(other);
    assert!(tunnel.send(upgrade_request("/socket")));
    assert_eq!(tunnel.answer("GET").unwrap().status(), 101);
    eventually(SOON, "all are there", || {
        (server.requests() == 3).then_some(())
    });
    daemon.apply(&file(
        "",
        &service(
            "other",
            &[&server],
            "[services.other.http]\nallow_half_close = true\n",
        ),
    ));
    assert_eq!(idle.end(SOON), Some(Ended::Fin), "in order");
    gate.open();
    let answer = waits.answer("GET").unwrap();
    assert_eq!(answer.text(), "done");
    if !answer.closes() {
        // Another one on this connection would be the last.
        let answer = waits.get("/");
        assert!(answer.closes(), "{answer:?}");
    }
    waits.assert_ends();
    // What stays is not touched.
    assert_eq!(tunnel.end(Duration::from_millis(200)), Some(Ended::Timeout));
    assert_eq!(HttpClient::connect(other).get("/").text(), "done");
}
