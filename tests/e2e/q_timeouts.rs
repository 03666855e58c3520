//! How long connections may take: never cut too early, nor much too late.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use evenkeel_testkit::{Backend, Daemon, Failure, Mode, client, eventually, pause_until};

use crate::o_limits::{service, start};
use crate::{SOON, assert_balanced, backend, skipped};

/// Latest end after the time is up, on a machine that has other things to do.
const LATE: Duration = Duration::from_millis(1_500);

/// Times are of the worker's clock, which may have begun a moment before ours.
const GRAIN: Duration = Duration::from_millis(5);

fn behind(mode: Mode, lines: &str) -> (Backend, Daemon) {
    let server = Backend::start("b1", mode);
    let daemon = start(
        2,
        &service("web", lines, &[backend("b1", &server.address())]),
    );
    (server, daemon)
}

fn connect(daemon: &Daemon) -> TcpStream {
    client::connect(daemon.address("web")).unwrap()
}

/// Sends a byte and gets it back.
fn talk(stream: &mut TcpStream) -> Instant {
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    Instant::now()
}

/// Waits for the reset of a connection, which is due `limit` after `since`.
fn assert_ends(mut stream: TcpStream, since: Instant, limit: Duration) {
    let mut rest = Vec::new();
    let outcome = stream.read_to_end(&mut rest);
    let took = since.elapsed();
    let kind = outcome.unwrap_err().kind();
    assert_eq!(kind, std::io::ErrorKind::ConnectionReset, "after {took:?}");
    assert!(
        took + GRAIN >= limit && took < limit + LATE,
        "{took:?}, not {limit:?}"
    );
}

fn parked(daemon: &Daemon) -> f64 {
    let metrics = daemon.metrics();
    metrics
        .value("evenkeel_worker_parked_connections", &[])
        .unwrap()
}

#[test]
fn idle_connections_end() {
    const IDLE: Duration = Duration::from_millis(700);
    let (server, daemon) = behind(Mode::Echo, "timeouts = { idle = \"700ms\" }");
    let mut quiet = connect(&daemon);
    // One that never says anything, and one that goes on saying something.
    let begun = Instant::now();
    let silent = connect(&daemon);
    let since = talk(&mut quiet);
    let mut busy = connect(&daemon);
    std::thread::scope(|scope| {
        scope.spawn(|| assert_ends(quiet, since, IDLE));
        scope.spawn(|| assert_ends(silent, begun, IDLE));
        while begun.elapsed() < 4 * IDLE {
            talk(&mut busy);
            pause_until(Instant::now() + IDLE / 3);
        }
    });
    let since = talk(&mut busy);
    assert_ends(busy, since, IDLE);
    eventually(SOON, "the backend has seen them go", || {
        (server.resets() == 3).then_some(())
    });
    let service = assert_balanced(&daemon, "web");
    assert_eq!(
        (service.failed["idle"], service.relayed),
        (3, 0),
        "{service:?}"
    );
}

#[test]
fn parked_connections_end_as_well() {
    const COUNT: usize = 50;
    let idle = Duration::from_millis(2_500);
    let (server, daemon) = behind(Mode::Echo, "timeouts = { idle = \"2500ms\" }");
    let mut streams: Vec<_> = (0..COUNT).map(|_| connect(&daemon)).collect();
    let first = Instant::now();
    let times: Vec<_> = streams.iter_mut().map(talk).collect();
    eventually(SOON, "they are parked", || {
        (parked(&daemon) == COUNT as f64).then_some(())
    });
    assert!(first.elapsed() < idle, "{:?}", first.elapsed());
    // A byte starts the time anew.
    let mut woken = streams.pop().unwrap();
    let since = talk(&mut woken);
    std::thread::scope(|scope| {
        for (stream, since) in streams.into_iter().zip(times) {
            scope.spawn(move || assert_ends(stream, since, idle));
        }
        scope.spawn(move || assert_ends(woken, since, idle));
    });
    eventually(SOON, "the backend has seen them go", || {
        (server.resets() == COUNT as u64).then_some(())
    });
    let service = assert_balanced(&daemon, "web");
    assert_eq!(service.failed["idle"], COUNT as u64, "{service:?}");
    assert_eq!(parked(&daemon), 0.0);
}

#[test]
fn half_closed_connections_end_sooner() {
    let lines = "timeouts = { idle = \"1h\", half_closed = \"1200ms\" }";
    let limit = Duration::from_millis(1_200);
    // By the client, while the backend says no more; and by the backend.
    let (_deaf, deaf) = behind(Mode::Deaf, lines);
    let (_half, half) = behind(Mode::HalfClose, lines);
    let mut whole = connect(&deaf);
    let ended = connect(&deaf);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let since = Instant::now();
            ended.shutdown(Shutdown::Write).unwrap();
            assert_ends(ended, since, limit);
        });
        let mut stream = connect(&half);
        assert_eq!(client::read_to_end(&mut stream).unwrap(), b"b1\n");
        // Bytes that still come keep it.
        let begun = Instant::now();
        while begun.elapsed() < 2 * limit {
            stream.write_all(b"x").unwrap();
            pause_until(Instant::now() + limit / 4);
        }
        let since = Instant::now();
        eventually(SOON, "it has ended", || {
            stream
                .write_all(b"")
                .err()
                .or_else(|| stream.take_error().unwrap())
        });
        let took = since.elapsed();
        assert!(
            took + limit / 4 + GRAIN >= limit && took < limit + LATE,
            "{took:?}"
        );
    });
    // One that is whole has more time.
    whole
        .set_read_timeout(Some(Duration::from_millis(10)))
        .unwrap();
    assert_eq!(client::read_line(&mut whole), Err(Failure::Timeout));
    drop(whole);
    for daemon in [deaf, half] {
        eventually(SOON, "it is counted", || {
            (daemon.service("web").failed["half_closed"] == 1).then_some(())
        });
    }
}

#[test]
fn connections_end_when_they_are_old() {
    let limit = Duration::from_millis(1_500);
    let lines = "timeouts = { total = \"1500ms\" }\nqueue = { timeout = \"1m\" }";
    let server = Backend::start("b1", Mode::Echo);
    let limited = backend("b1", &server.address()).replace(" }", ", max_connections = 2 }");
    let daemon = start(2, &service("web", lines, &[limited]));
    std::thread::scope(|scope| {
        let since = Instant::now();
        let mut busy = connect(&daemon);
        scope.spawn(move || {
            loop {
                let before = Instant::now();
                if busy
                    .write_all(b"x")
                    .and_then(|()| busy.read_exact(&mut [0]))
                    .is_err()
                {
                    break;
                }
                pause_until(before + Duration::from_millis(20));
            }
            let took = since.elapsed();
            assert!(took + GRAIN >= limit && took < limit + LATE, "{took:?}");
        });
        let parked = connect(&daemon);
        eventually(SOON, "both have the backend", || {
            (server.open() == 2).then_some(())
        });
        // In the queue, too.
        let waits = connect(&daemon);
        scope.spawn(move || assert_ends(parked, since, limit));
        // It may get the backend when the others have to go, and its time runs from its accept nevertheless.
        assert_ends(waits, since, limit);
    });
    let service = assert_balanced(&daemon, "web");
    assert_eq!(service.failed["total"], 3, "{service:?}");
}

#[test]
fn a_reload_keeps_the_times_of_what_runs() {
    let lines = |idle: &str| format!("timeouts = {{ idle = \"{idle}\" }}");
    let (server, daemon) = behind(Mode::Echo, &lines("1s"));
    let text = |idle: &str| {
        let backends = [backend("b1", &server.address())];
        crate::file("", &service("web", &lines(idle), &backends))
    };
    let mut old = connect(&daemon);
    let since = talk(&mut old);
    daemon.apply(&text("1h"));
    let mut new = connect(&daemon);
    talk(&mut new);
    assert_ends(old, since, Duration::from_secs(1));
    new.set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    assert_eq!(client::read_line(&mut new), Err(Failure::Timeout));
}

/// What the kernel says of the timers of established connections with this port.
fn timers(port: u16) -> Option<String> {
    let filter = format!("( sport = :{port} or dport = :{port} )");
    let output = Command::new("ss")
        .args(["-Htno", "state", "established", &filter])
        .output();
    Some(String::from_utf8_lossy(&output.ok()?.stdout).into_owned())
}

#[test]
fn quiet_connections_are_kept_alive_on_both_sides() {
    let lines = "keepalive = { idle = \"37s\", interval = \"5s\", probes = 3 }";
    let (server, daemon) = behind(Mode::Echo, lines);
    let address = daemon.address("web");
    let mut stream = connect(&daemon);
    talk(&mut stream);
    let Some(_) = timers(address.port()) else {
        return skipped("keepalive", "there is no ss");
    };
    // Of each connection both ends are on this host, and ours is the one that has a timer.
    let has = |port: u16| {
        let all = timers(port).unwrap();
        let kept = all
            .lines()
            .filter(|line| line.contains("timer:(keepalive,3"));
        kept.count() == 1
    };
    assert!(has(address.port()), "{:?}", timers(address.port()));
    eventually(SOON, "the backend's has it once it is parked", || {
        has(server.address().port()).then_some(())
    });
    eventually(SOON, "it is counted as parked", || {
        (parked(&daemon) == 1.0).then_some(())
    });
    talk(&mut stream);
}
