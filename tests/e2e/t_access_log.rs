//! The access log: a line of each connection, whatever ended it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::net::Shutdown;
use std::path::Path;
use std::time::{Duration, Instant};

use evenkeel_testkit::{
    Backend, Blackhole, Daemon, Gauge, Mode, TempDir, client, eventually, one_shot, pause_until,
};
use serde_json::Value;

use crate::o_limits::service;
use crate::{PROGRAM, SOON, assert_balanced, backend, file, tally};

fn top(format: &str, log: &Path) -> String {
    format!(
        "access_log = {{ format = \"{format}\", file = \"{}\" }}",
        log.display()
    )
}

fn start(format: &str, log: &Path, services: &str) -> Daemon {
    Daemon::builder(PROGRAM, &file(&top(format, log), services)).start()
}

fn text(log: &Path) -> String {
    fs::read_to_string(log).unwrap_or_default()
}

/// The lines once there are `count`; each as one object.
fn lines(log: &Path, count: usize) -> Vec<Value> {
    let all = eventually(SOON, &format!("there are {count} lines"), || {
        let text = text(log);
        (text.ends_with('\n') && text.lines().count() >= count).then_some(text)
    });
    let parsed = all.lines().map(serde_json::from_str);
    let parsed: Vec<Value> = parsed.collect::<Result<_, _>>().unwrap();
    assert_eq!(parsed.len(), count, "{all}");
    parsed
}

/// The pairs of a line of logfmt, none of which has a space in its value.
fn pairs(line: &str) -> BTreeMap<&str, &str> {
    let pairs = line.split(' ').map(|pair| pair.split_once('=').unwrap());
    pairs.collect()
}

#[test]
fn each_connection_has_one_line_in_each_format() {
    let dir = TempDir::new();
    let log = dir.join("access.log");
    let server = Backend::start("b1", Mode::Name);
    let services = service("web", "", &[backend("b1", &server.address())]);
    let daemon = start("json", &log, &services);
    let address = daemon.address("web");
    assert_eq!(tally(address, 50)["b1"], 50);
    let endpoint = server.address().to_string();
    for line in lines(&log, 50) {
        assert_eq!(line["service"], "web", "{line}");
        assert_eq!(line["client"], "127.0.0.1");
        assert_eq!(line["client_port"], line["peer_port"]);
        assert_eq!(
            (&line["backend"], &line["endpoint"]),
            (&"b1".into(), &endpoint.clone().into())
        );
        assert!(
            line["source"].as_str().unwrap().starts_with("127.0.0.1:"),
            "{line}"
        );
        assert_eq!(
            (
                &line["attempts"],
                &line["bytes_received"],
                &line["bytes_sent"]
            ),
            (&1.into(), &0.into(), &3.into())
        );
        assert_eq!(
            (&line["end"], &line["end_by"], &line["end_phase"]),
            (&"end".into(), &"backend".into(), &"relay".into())
        );
        assert!(
            line["duration_ms"].as_f64() >= line["connect_ms"].as_f64(),
            "{line}"
        );
        assert!(
            line["first_byte_ms"].is_number() && line["queue_ms"].is_null(),
            "{line}"
        );
    }
    // The other formats, switched to while the daemon runs.
    let mut seen = 50;
    let mut more = |format: &str| {
        daemon.apply(&file(&top(format, &log), &services));
        assert_eq!(tally(address, 20)["b1"], 20);
        seen += 20;
        let all = eventually(SOON, "the lines are there", || {
            let text = text(&log);
            (text.lines().count() >= seen && text.ends_with('\n')).then_some(text)
        });
        let new: Vec<_> = all.lines().skip(seen - 20).map(str::to_owned).collect();
        assert_eq!(new.len(), 20, "{format}: {new:#?}");
        new
    };
    for line in more("logfmt") {
        let pairs = pairs(&line);
        assert_eq!(
            (pairs["service"], pairs["backend"], pairs["endpoint"]),
            ("web", "b1", &*endpoint)
        );
        assert_eq!(
            (pairs["bytes_sent"], pairs["end"], pairs["end_by"]),
            ("3", "end", "backend")
        );
        assert!(!pairs.contains_key("queue_ms"));
    }
    for line in more("human") {
        assert!(
            line.contains(" web 127.0.0.1:") && line.contains(&format!(" -> b1 {endpoint} ")),
            "{line}"
        );
        assert!(line.ends_with(" in 0B out 3B ended by backend"), "{line}");
    }
    for line in more("{{{service}}} {backend}|{queue_ms}|{bytes_sent} {end}") {
        assert_eq!(line, "{web} b1|-|3 end");
    }
    daemon.apply(&file(&top("off", &log), &services));
    tally(address, 20);
    daemon.apply(&file(&top("json", &log), &services));
    tally(address, 1);
    eventually(SOON, "one more", || {
        (text(&log).lines().count() > seen).then_some(())
    });
    assert_eq!(text(&log).lines().count(), seen + 1);
    assert_balanced(&daemon, "web");
}

#[test]
fn lines_are_there_soon_and_add_up() {
    let dir = TempDir::new();
    let log = dir.join("access.log");
    let server = Backend::start("b1", Mode::Echo);
    let services = service("web", "", &[backend("b1", &server.address())]);
    let daemon = start("json", &log, &services);
    let address = daemon.address("web");
    let mut times = Vec::new();
    for count in 1..=15 {
        let mut stream = client::connect(address).unwrap();
        stream.write_all(&vec![7; count * 3_000]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(
            client::read_to_end(&mut stream).unwrap().len(),
            count * 3_000
        );
        let ended = Instant::now();
        drop(stream);
        lines(&log, count);
        times.push(ended.elapsed());
    }
    times.sort();
    assert!(times[12] < Duration::from_millis(300), "{times:?}");
    let all = lines(&log, 15);
    let sum = |field: &str| {
        all.iter()
            .map(|line| line[field].as_u64().unwrap())
            .sum::<u64>()
    };
    let found = assert_balanced(&daemon, "web");
    assert_eq!(
        (sum("bytes_received"), sum("bytes_sent")),
        (found.bytes_received, found.bytes_sent)
    );
    assert!(
        all.iter()
            .all(|line| line["end_by"] == "client" && line["end"] == "end"),
        "{all:#?}"
    );
}

#[test]
fn no_two_connections_have_the_same_name() {
    let dir = TempDir::new();
    let log = dir.join("access.log");
    let server = Backend::start("b1", Mode::Name);
    let services = service("web", "", &[backend("b1", &server.address())]);
    let daemon = start("json", &log, &services);
    let address = daemon.address("web");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| tally(address, 250));
        }
    });
    let all = lines(&log, 1_000);
    let ids: BTreeSet<_> = all
        .iter()
        .map(|line| line["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), 1_000);
    assert!(ids.iter().all(|id| id.len() == 32));
    let mut slots = BTreeMap::new();
    for line in &all {
        let slot = u16::try_from(line["worker"].as_u64().unwrap()).unwrap();
        *slots.entry(slot).or_insert(0) += 1_u64;
    }
    assert_eq!(slots, daemon.service("web").accepted_by_slot);
    let dropped = daemon
        .metrics()
        .value("evenkeel_worker_access_log_dropped_total", &[]);
    assert_eq!(dropped, Some(0.0));
}

#[test]
fn a_rotated_file_is_let_go_at_a_reload_and_no_line_is_lost() {
    let dir = TempDir::new();
    let (log, old) = (dir.join("access.log"), dir.join("access.log.1"));
    let server = Backend::start("b1", Mode::Name);
    let services = service("web", "", &[backend("b1", &server.address())]);
    let daemon = start("json", &log, &services);
    let address = daemon.address("web");
    assert_eq!(tally(address, 20).len(), 1);
    let answered = std::thread::scope(|scope| {
        let load = scope.spawn(|| tally(address, 600)["b1"]);
        for round in 0..3 {
            let enough = 40 * (round + 1);
            eventually(SOON, "some lines", || {
                (text(&log).lines().count() > enough).then_some(())
            });
            let before = text(&old);
            fs::rename(&log, &old).unwrap();
            daemon.reload();
            eventually(SOON, "there is a new file", || log.exists().then_some(()));
            // What the round before had is kept.
            let now = text(&old);
            fs::write(&old, before + &now).unwrap();
        }
        load.join().unwrap()
    });
    let count = || text(&old).lines().count() + text(&log).lines().count();
    eventually(SOON, "all lines are in one of them", || {
        (count() >= 20 + answered).then_some(())
    });
    assert_eq!(count(), 20 + answered);
    let before = text(&old).len();
    tally(address, 10);
    eventually(SOON, "new ones are in the new file", || {
        (count() >= 30 + answered).then_some(())
    });
    assert_eq!(text(&old).len(), before);
    for line in (text(&old) + &text(&log)).lines() {
        drop(serde_json::from_str::<Value>(line).unwrap());
    }
}

/// One connection for each way to end, and what its line says: word, side, phase.
#[test]
fn every_end_has_its_word() {
    let dir = TempDir::new();
    let log = dir.join("access.log");
    let echo = Backend::start("b1", Mode::Echo);
    let reset = Backend::start("reset", Mode::Reset);
    let dead = Backend::stopped("dead", Mode::Name);
    let deaf = Backend::start("deaf", Mode::Deaf);
    let hole = Blackhole::new();
    let gauge = Gauge::start();
    let b1 = [backend("b1", &echo.address())];
    let limited = backend("b1", &gauge.address()).replace(" }", ", max_connections = 1 }");
    let dead_one = [backend("dead", &dead.address())];
    let checked = "check = { interval = \"100ms\", timeout = \"100ms\", fall = 1 }";
    let many = "queue = { length = 1, timeout = \"300ms\" }";
    let services = [
        service("plain", "", &b1),
        service("reset", "", &[backend("reset", &reset.address())]),
        service("dead", "", &dead_one),
        service(
            "hole",
            "connect = { timeout = \"100ms\", attempts = 1 }",
            &[backend("hole", &hole.address())],
        ),
        service(
            "slow",
            "connect = { timeout = \"5s\" }",
            &[backend("hole", &hole.address())],
        ),
        service("none", checked, &dead_one).replace(
            "check = \"none\"
",
            "",
        ),
        service("denied", "deny = \"127.0.0.0/8\"", &b1),
        service("full", "max_connections = 1", &b1),
        service("rate", "rate = 1\nrate_burst = 1", &b1),
        service("source", "source_rate = 1\nsource_burst = 1", &b1),
        service("header", "accept_proxy = \"127.0.0.1\"", &b1),
        service("queue", many, &[limited]),
        service("idle", "timeouts = { idle = \"200ms\" }", &b1),
        service(
            "half",
            "timeouts = { half_closed = \"200ms\" }",
            &[backend("deaf", &deaf.address())],
        ),
        service("total", "timeouts = { total = \"200ms\" }", &b1),
        service("frame", "framing = \"mllp\"\nframe_max = \"1KiB\"", &b1),
    ]
    .concat();
    let daemon = start("json", &log, &services);
    eventually(SOON, "one is known to be down", || {
        (daemon.backend("none", "dead").state == "down").then_some(())
    });
    let connect = |name: &str| client::connect(daemon.address(name)).unwrap();
    let mut expected = BTreeMap::<(String, String), usize>::new();
    let mut expect = |name: &str, words: &str| {
        *expected
            .entry((name.to_owned(), words.to_owned()))
            .or_default() += 1;
    };

    let mut stream = connect("plain");
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client::read_to_end(&mut stream).unwrap(), b"");
    expect("plain", "end client relay");
    let mut stream = connect("plain");
    stream.write_all(b"x").unwrap();
    std::io::Read::read_exact(&mut stream, &mut [0]).unwrap();
    client::reset(stream);
    expect("plain", "reset client relay");
    for (name, words) in [
        ("reset", "reset backend relay"),
        ("dead", "connect backend connect"),
        ("hole", "connect backend connect"),
        ("none", "no_backend balancer connect"),
        ("denied", "denied balancer handshake"),
        ("idle", "idle balancer relay"),
        ("total", "total balancer relay"),
    ] {
        assert!(one_shot(daemon.address(name)).is_err());
        expect(name, words);
    }
    let stream = connect("slow");
    pause_until(Instant::now() + Duration::from_millis(100));
    client::reset(stream);
    expect("slow", "client_gone client connect");
    for (name, words) in [
        ("full", "max_connections balancer handshake"),
        ("rate", "rate balancer handshake"),
        ("source", "source_rate balancer handshake"),
    ] {
        let mut first = connect(name);
        first.write_all(b"x").unwrap();
        std::io::Read::read_exact(&mut first, &mut [0]).unwrap();
        assert!(one_shot(daemon.address(name)).is_err());
        expect(name, words);
        first.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client::read_to_end(&mut first).unwrap(), b"");
        expect(name, "end client relay");
    }
    let mut stream = connect("header");
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert!(client::read_to_end(&mut stream).is_err());
    expect("header", "proxy_header balancer handshake");
    let mut held = connect("queue");
    client::read_line(&mut held).unwrap();
    let mut waits = connect("queue");
    eventually(SOON, "it waits", || {
        (daemon.service("queue").queued == 1).then_some(())
    });
    assert!(one_shot(daemon.address("queue")).is_err());
    expect("queue", "queue_full balancer queue");
    assert!(client::read_line(&mut waits).is_err());
    expect("queue", "queue_timeout balancer queue");
    let waits = connect("queue");
    eventually(SOON, "it waits", || {
        (daemon.service("queue").queued == 1).then_some(())
    });
    client::reset(waits);
    expect("queue", "client_gone client queue");
    client::reset(held);
    expect("queue", "reset client relay");
    // The backend ends its side when the client has; this one does not.
    let mut stream = connect("half");
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(client::read_to_end(&mut stream).is_err());
    expect("half", "half_closed balancer relay");
    let mut stream = connect("frame");
    stream.write_all(&[0x0b; 2_000]).unwrap();
    assert!(client::read_to_end(&mut stream).is_err());
    expect("frame", "frame_too_long balancer relay");
    let total: usize = expected.values().sum();
    let all = lines(&log, total);
    let mut found = BTreeMap::<(String, String), usize>::new();
    for line in &all {
        let text = |field: &str| line[field].as_str().unwrap().to_owned();
        let mut words = format!("{} {} {}", text("end"), text("end_by"), text("end_phase"));
        // One that resets at once may do so before the connection is known to be made.
        if text("service") == "reset" && words == "connect backend connect" {
            words = "reset backend relay".to_owned();
        }
        *found.entry((text("service"), words)).or_default() += 1;
    }
    assert_eq!(found, expected);
    // Of each service as many lines as connections, with the same reasons.
    for service in daemon.status().services {
        let of_it: Vec<_> = all
            .iter()
            .filter(|line| line["service"] == *service.name)
            .collect();
        assert_eq!(of_it.len() as u64, service.accepted, "{service:?}");
        for (reason, count) in &service.failed {
            let with = of_it.iter().filter(|line| line["end"] == **reason);
            assert_eq!(with.count() as u64, *count, "{} {reason}", service.name);
        }
    }
    let line = |service: &str, end: &str| {
        let mut found = all
            .iter()
            .filter(|line| line["service"] == service && line["end"] == end);
        found.next().unwrap()
    };
    assert!(line("denied", "denied")["backend"].is_null());
    assert!(
        line("hole", "connect")["connect_ms"].as_f64() >= Some(100.0),
        "{}",
        line("hole", "connect")
    );
    assert!(
        line("queue", "queue_timeout")["queue_ms"].as_f64() >= Some(300.0),
        "{}",
        line("queue", "queue_timeout")
    );
    assert!(
        line("dead", "connect")["attempts"] == 1 && line("dead", "connect")["endpoint"].is_string()
    );
    let idle = line("idle", "idle")["duration_ms"].as_f64().unwrap();
    assert!((200.0..1_700.0).contains(&idle), "{idle}");
}

#[test]
fn a_drain_writes_the_lines_of_what_it_cuts() {
    let dir = TempDir::new();
    let log = dir.join("access.log");
    let server = Backend::start("b1", Mode::Hold);
    let services = service("web", "", &[backend("b1", &server.address())]);
    let text =
        file(&top("json", &log), &services).replace("deadline = \"5s\"", "deadline = \"200ms\"");
    let mut daemon = Daemon::builder(PROGRAM, &text).start();
    let mut held: Vec<_> = (0..10)
        .map(|_| client::connect(daemon.address("web")).unwrap())
        .collect();
    for stream in &mut held {
        assert_eq!(client::read_line(stream).as_deref(), Ok("b1"));
    }
    assert!(daemon.stop().success());
    for line in lines(&log, 10) {
        assert_eq!(
            (&line["end"], &line["end_by"], &line["end_phase"]),
            (&"drain_cut".into(), &"balancer".into(), &"relay".into())
        );
    }
}
