//! A sample status and what its page looks like, word for word.

use std::collections::BTreeMap;

use evenkeel_control::operator::{
    AdminStatus, BackendHttpStatus, HttpStatus, LastReload, ListenerLimit, MonitorStatus,
};

use super::*;

const NOW: u64 = 1_700_000_000;

/// A daemon with two services, one of which has lost its only backend, and a worker that crashes.
pub(crate) fn sample() -> Status {
    Status {
        program: "0.1.0".to_owned(),
        pid: 4200,
        phase: "running".to_owned(),
        started_unix: NOW - 11_520,
        config: "/etc/evenkeel/evenkeel.toml".to_owned(),
        generation: 7,
        last_reload: Some(LastReload {
            at_unix: NOW - 720,
            applied: true,
            message: "1 service added".to_owned(),
        }),
        descriptor_limit: 1_048_576,
        metrics: vec!["127.0.0.1:9180".parse().unwrap()],
        descriptor_store: true,
        warnings: vec!["net.ipv4.tcp_migrate_req is off".to_owned()],
        monitor: MonitorStatus {
            pid: 4201,
            state: "live".to_owned(),
            incarnation: 1,
            age_ms: 40,
        },
        workers: vec![worker(0, 4202, "live"), worker(1, 0, "backing-off")],
        services: vec![
            service("web", true, &["up", "up", "down"]),
            service("api", false, &["down"]),
        ],
    }
}

fn worker(slot: u16, pid: u32, state: &str) -> WorkerStatus {
    let crashed = pid == 0;
    WorkerStatus {
        slot,
        pid,
        state: state.to_owned(),
        incarnation: 1,
        crashes: if crashed { 3 } else { 0 },
        adopted_by: crashed.then_some(0),
        generation: 7,
        heartbeat_age_ms: 31,
        cpu: None,
        active: 12,
        accepted: 123_456,
        adopted: 0,
        accept_exhausted: 0,
        refused: 0,
        log_dropped: 0,
    }
}

fn service(name: &str, serving: bool, states: &[&str]) -> ServiceStatus {
    ServiceStatus {
        name: name.to_owned(),
        listeners: vec!["10.0.0.1:80".parse().unwrap()],
        limits: Vec::new(),
        scheduler: "rr".to_owned(),
        pool: None,
        active: 12,
        queued: 0,
        accepted: 123_456,
        relayed: 123_440,
        failed: BTreeMap::from([("connect".to_owned(), 4), ("no_backend".to_owned(), 0)]),
        retries: 2,
        bytes_received: 0,
        bytes_sent: 0,
        accepted_by_slot: BTreeMap::new(),
        serving,
        gate: "open".to_owned(),
        gate_since_unix: 0,
        gate_reason: String::new(),
        require: "any".to_owned(),
        http: None,
        backends: states
            .iter()
            .enumerate()
            .map(|(index, state)| backend(index, state))
            .collect(),
    }
}

fn backend(index: usize, state: &str) -> BackendStatus {
    let down = state == "down";
    BackendStatus {
        name: format!("b{}", index + 1),
        address: format!("10.0.0.{}:80", index + 2),
        endpoints: vec![format!("10.0.0.{}:80", index + 2).parse().unwrap()],
        weight: 1,
        backup: false,
        admin: None,
        check: "tcp".to_owned(),
        next_ms: 0,
        state: state.to_owned(),
        since_unix: NOW - 190,
        reason: if down { "3 checks failed in a row" } else { "" }.to_owned(),
        answer: if down {
            "connection refused"
        } else {
            "connected"
        }
        .to_owned(),
        check_ms: 0.42,
        checked_unix: NOW - 1,
        active: 4,
        max_connections: None,
        connections: 41_152,
        connect_failures: 0,
        resets: 0,
        bytes_sent: 0,
        bytes_received: 0,
        http: None,
        cell: 0,
    }
}

#[test]
fn the_page_begins_with_what_is_wrong() {
    let page = render(&sample(), NOW, Paint::OFF, None);
    assert_eq!(
        page,
        "\
CLIENTS ARE AFFECTED
  * service api: no eligible backend, its clients are turned away
  * service web: backend b3 is down for 3 min: 3 checks failed in a row, connection refused
  * service api: backend b1 is down for 3 min: 3 checks failed in a row, connection refused
  * worker 1 is not running: started again in a moment, after 3 crashes; worker 0 accepts for it
  * net.ipv4.tcp_migrate_req is off

evenkeel 0.1.0  running for 3 h 12 min  pid 4200
plan      generation 7 of /etc/evenkeel/evenkeel.toml  last reload applied 12 min ago: 1 service added
monitor   live  pid 4201  started once  verdicts 40 ms old
limits    1,048,576 descriptors  sockets kept by systemd
metrics   http://127.0.0.1:9180/metrics

WORKER   PID  STATE        CRASHES  ACTIVE  ACCEPTED  HEARTBEAT  ADOPTED BY
0       4202  live               0      12   123,456      31 ms  -
1          -  backing-off        3      12   123,456          -  worker 0

service web  serving  10.0.0.1:80  rr
  12 active  123,456 accepted  4 failed (connect 4)  2 tried on another backend
  BACKEND  ADDRESS      WEIGHT  STATE  SINCE  ACTIVE  CONNECTIONS  FAILURES  REASON                    LAST ANSWER
  b1       10.0.0.2:80       1  up     3 min       4       41,152         0                            connected in 0.4 ms, 1 s ago
  b2       10.0.0.3:80       1  up     3 min       4       41,152         0                            connected in 0.4 ms, 1 s ago
  b3       10.0.0.4:80       1  down   3 min       4       41,152         0  3 checks failed in a row  connection refused in 0.4 ms, 1 s ago

service api  NOT SERVING  10.0.0.1:80  rr
  12 active  123,456 accepted  4 failed (connect 4)  2 tried on another backend
  BACKEND  ADDRESS      WEIGHT  STATE  SINCE  ACTIVE  CONNECTIONS  FAILURES  REASON                    LAST ANSWER
  b1       10.0.0.2:80       1  down   3 min       4       41,152         0  3 checks failed in a row  connection refused in 0.4 ms, 1 s ago
"
    );
}

/// A service that speaks HTTP, and one before it that only routes.
fn sample_of_http() -> Status {
    let counts = |pairs: &[(&str, u64)]| {
        let pairs = pairs.iter();
        pairs.map(|(word, n)| ((*word).to_owned(), *n)).collect()
    };
    let mut status = sample();
    let mut door = service("door", true, &[]);
    door.http = Some(HttpStatus {
        requests: 12,
        answers: counts(&[("2xx", 0), ("3xx", 0), ("4xx", 12), ("5xx", 0)]),
        own_answers: 12,
        failed: counts(&[("no_route", 12)]),
        ..HttpStatus::default()
    });
    let mut api = service("api", true, &["up", "up"]);
    api.listeners.clear();
    api.http = Some(HttpStatus {
        requests: 98_765_432,
        active: 7,
        answers: counts(&[
            ("2xx", 98_700_000),
            ("3xx", 12),
            ("4xx", 65_000),
            ("5xx", 420),
        ]),
        own_answers: 90,
        upgrades: 3,
        failed: counts(&[
            ("backend_closed", 2),
            ("backend_timeout", 87),
            ("client_gone", 0),
            ("no_backend", 3),
            ("worker_died", 1),
        ]),
        resent: 5,
        budget_spent: 0,
    });
    for (backend, requests) in api.backends.iter_mut().zip([49_382_716, 49_382_716]) {
        backend.http = Some(BackendHttpStatus {
            requests,
            reused: requests - 40_000,
            idle: 16,
            answers_5xx: 210,
            bad_answers: 2,
        });
    }
    status.services = vec![door, api];
    status
}

fn services(page: &str) -> &str {
    let (_, services) = page.split_once("\nservice door").unwrap();
    services
}

#[test]
fn requests_stand_below_the_connections() {
    let page = render(&sample_of_http(), NOW, Paint::OFF, None);
    assert_eq!(
        services(&page),
        "  serving  10.0.0.1:80  rr
  connections  12 active  123,456 accepted  4 failed (connect 4)  2 tried on another backend
  requests     0 active  12 so far  2xx 0  3xx 0  4xx 12  5xx 0  12 answered here
  failed       12 requests  no_route 12
  no backends of its own

service api  serving  no listener  rr
  connections  12 active  123,456 accepted  4 failed (connect 4)  2 tried on another backend
  requests     7 active  98,765,432 so far  2xx 98,700,000  3xx 12  4xx 65,000  5xx 420  3 became tunnels  90 answered here  5 sent again
  failed       93 requests  backend_timeout 87  no_backend 3  backend_closed 2  worker_died 1
  BACKEND  ADDRESS      WEIGHT  STATE  SINCE  ACTIVE  CONNECTIONS    REQUESTS  IDLE  5XX  BAD  FAILURES  REASON  LAST ANSWER
  b1       10.0.0.2:80       1  up     3 min       4       41,152  49,382,716    16  210    2         0          connected in 0.4 ms, 1 s ago
  b2       10.0.0.3:80       1  up     3 min       4       41,152  49,382,716    16  210    2         0          connected in 0.4 ms, 1 s ago
"
    );
}

#[test]
fn requests_fit_a_terminal() {
    let status = sample_of_http();
    for columns in [80, 120] {
        let page = render(&status, NOW, Paint::OFF, Some(columns));
        for line in services(&page).lines() {
            assert!(line.chars().count() <= columns, "{columns}: {line}");
        }
        // What a person looks for first is still there.
        let mut lines = page.lines().rev();
        let head = lines.find(|line| line.starts_with("  BACKEND")).unwrap();
        for heading in ["STATE", "ACTIVE", "REQUESTS", "5XX", "BAD", "FAILURES"] {
            assert!(head.contains(heading), "{columns}: {head}");
        }
    }
}

#[test]
fn limits_are_shown_where_there_are_some() {
    let mut status = sample();
    let page = render(&status, NOW, Paint::OFF, None);
    assert!(!page.contains(" of 4") && !page.contains("waiting") && !page.contains("full"));
    let service = &mut status.services[0];
    service.queued = 7;
    service.limits = vec![ListenerLimit {
        address: service.listeners[0],
        active: 1_500,
        max_connections: 2_000,
    }];
    service.backends[0].max_connections = Some(4);
    service.backends[1].max_connections = Some(100);
    let page = render(&status, NOW, Paint::OFF, None);
    let head = page
        .lines()
        .position(|line| line.starts_with("service web "));
    let lines: Vec<&str> = page.lines().skip(head.unwrap()).collect();
    assert!(
        lines[0].contains("10.0.0.1:80 (1,500 of 2,000)"),
        "{}",
        lines[0]
    );
    assert!(
        lines[1].ends_with("  7 waiting for a backend"),
        "{}",
        lines[1]
    );
    let row = |name: &str| {
        let mut rows = lines.iter();
        rows.find(|line| line.trim_start().starts_with(name))
            .unwrap()
    };
    assert!(row("b1").contains("up, full"), "{}", row("b1"));
    assert!(row("b1").contains("4 of 4"), "{}", row("b1"));
    assert!(row("b2").contains("4 of 100"), "{}", row("b2"));
    assert!(!row("b2").contains("full"), "{}", row("b2"));
}

#[test]
fn a_limit_that_is_reached_is_no_calm() {
    let mut status = sample();
    status.warnings.clear();
    status.workers = vec![worker(0, 4202, "live")];
    status.services = vec![service("web", true, &["up", "up", "down"])];
    let service = &mut status.services[0];
    service.backends.truncate(2);
    service.backends[0].max_connections = Some(4);
    let words = |status: &Status| -> Vec<(bool, String)> {
        let found = findings(status, NOW);
        found.into_iter().map(|f| (f.urgent, f.words)).collect()
    };
    assert_eq!(words(&status), [], "the other has room");
    status.services[0].http = Some(HttpStatus {
        failed: BTreeMap::from([("internal".to_owned(), 2), ("no_route".to_owned(), 7)]),
        ..HttpStatus::default()
    });
    assert_eq!(
        words(&status),
        [(
            false,
            "service web: this host had no resource for a request, or met a bug of this program, 2 times so far".to_owned()
        )]
    );
    status.services[0].http = None;
    status.services[0].backends[1].weight = 0;
    assert_eq!(
        words(&status),
        [(
            false,
            "service web: every eligible backend is full: further clients wait or are turned away"
                .to_owned()
        )]
    );
    let service = &mut status.services[0];
    service.queued = 1;
    service.failed.insert("exhausted".to_owned(), 3);
    service.limits = vec![ListenerLimit {
        address: service.listeners[0],
        active: 2_000,
        max_connections: 2_000,
    }];
    assert_eq!(
        words(&status),
        [
            (
                true,
                "service web: 10.0.0.1:80 has as many connections as it may (2,000): further clients are turned away".to_owned()
            ),
            (
                true,
                "service web: 1 client waits: every eligible backend is full".to_owned()
            ),
            (
                false,
                "service web: this host had no port, descriptor or memory for a connection, or not the address in `source`, 3 times so far".to_owned()
            ),
        ]
    );
}

#[test]
fn a_narrow_terminal_goes_without_what_why_says() {
    let status = sample();
    let widest = |columns| {
        let page = render(&status, NOW, Paint::OFF, Some(columns));
        let head = page.lines().find(|line| line.starts_with("  BACKEND"));
        let row = page.lines().filter(|line| line.starts_with("  b"));
        let width = row.map(|line| line.chars().count()).max();
        (head.unwrap().to_owned(), width.unwrap())
    };
    let (head, _) = widest(200);
    assert!(
        head.ends_with("REASON                    LAST ANSWER"),
        "{head}"
    );
    let (head, width) = widest(120);
    assert!(head.ends_with("FAILURES  REASON") && width <= 120, "{head}");
    let (head, width) = widest(80);
    assert!(
        head.contains("SINCE") && head.ends_with("FAILURES") && width <= 80,
        "{head}"
    );
    let (head, _) = widest(70);
    assert!(!head.contains("SINCE"), "{head}");
    let (least, _) = widest(10);
    assert_eq!(least, head, "the rest stays whatever the width");
}

#[test]
fn a_healthy_daemon_says_so_in_one_line() {
    let mut status = sample();
    status.services = vec![service("web", true, &["up", "up"])];
    status.workers = vec![worker(0, 4202, "live")];
    status.warnings.clear();
    let page = render(&status, NOW, Paint::OFF, None);
    assert_eq!(
        page.lines().next(),
        Some("ALL IS WELL: 1 service serving, 2 of 2 backends up, 1 worker live")
    );
}

#[test]
fn policy_operators_backups_and_names_stand_where_they_belong() {
    let mut status = sample();
    status.workers = vec![worker(0, 4202, "live")];
    status.warnings.clear();
    let mut web = service("web", false, &["up", "up", "down", "drain"]);
    web.require = "all".to_owned();
    web.gate = "closed".to_owned();
    web.gate_since_unix = NOW - 190;
    web.gate_reason = "3 of 4 backends are healthy, all are required".to_owned();
    let said = |state: &str, weight| {
        Some(AdminStatus {
            state: state.to_owned(),
            weight,
            by: "root (pid 12)".to_owned(),
            at_unix: NOW - 60,
        })
    };
    web.backends[0].admin = said("drain", Some(5));
    web.backends[1].backup = true;
    web.backends[1].address = "db.example.org:80".to_owned();
    web.backends[1].endpoints = vec![
        "10.0.0.3:80".parse().unwrap(),
        "10.0.1.3:80".parse().unwrap(),
    ];
    web.backends[2].admin = said("disabled", None);
    web.backends[2].address = "_db._tcp.example.org (SRV)".to_owned();
    web.backends[2].endpoints.clear();
    web.backends[3].admin = said("enabled", Some(0));
    status.services = vec![web];
    let page = render(&status, NOW, Paint::OFF, None);
    let (head, rest) = page.split_once("\n\n").unwrap();
    assert_eq!(
        head,
        "\
CLIENTS ARE AFFECTED
  * service web: closed by its policy for 3 min: 3 of 4 backends are healthy, all are required
  * service web: backend b1 is drained, by root (pid 12) 1 min ago
  * service web: backend b3 is disabled, by root (pid 12) 1 min ago
  * service web: backend b3: nobody knows yet what _db._tcp.example.org (SRV) stands for
  * service web: backend b3 is down for 3 min: 3 checks failed in a row, connection refused
  * service web: backend b4 has weight 0, by root (pid 12) 1 min ago
  * service web: backend b4 asks for no new connections for 3 min: connected"
    );
    let (_, services) = rest.split_once("\nservice ").unwrap();
    let lines: Vec<&str> = services
        .lines()
        .map(|line| line.split("3 min").next().unwrap().trim_end())
        .collect();
    assert_eq!(
        lines,
        [
            "web  CLOSED  10.0.0.1:80  rr",
            "  12 active  123,456 accepted  4 failed (connect 4)  2 tried on another backend",
            "  policy: all backends required, closed for",
            "  BACKEND  ADDRESS                                         WEIGHT  STATE           SINCE  ACTIVE  CONNECTIONS  FAILURES  REASON                    LAST ANSWER",
            "  b1       10.0.0.2:80                                  5 (was 1)  up, drained",
            "  b2       db.example.org:80 -> 10.0.0.3:80 and 1 more          1  up, backup",
            "  b3       _db._tcp.example.org (SRV) -> not known yet          1  down, disabled",
            "  b4       10.0.0.5:80                                  0 (was 1)  drain",
        ]
    );
}

#[test]
fn every_trouble_has_words() {
    let mut status = sample();
    status.services.clear();
    status.warnings = vec!["the last reload was refused: 2 errors\nfirst".to_owned()];
    status.workers = vec![worker(0, 4202, "late"), worker(1, 0, "ended")];
    status.workers[1].adopted_by = None;
    status.workers[0].accept_exhausted = 12;
    status.workers[0].refused = 1_200;
    status.workers[1].refused = 34;
    status.workers[0].log_dropped = 1;
    status.phase = "draining".to_owned();
    status.monitor.state = "backing-off".to_owned();
    status.last_reload = Some(LastReload {
        at_unix: NOW - 5,
        applied: false,
        message: "2 errors\nfirst".to_owned(),
    });
    let words: Vec<String> = findings(&status, NOW)
        .into_iter()
        .map(|finding| finding.words)
        .collect();
    assert_eq!(
        words,
        [
            "the daemon is draining: no new connections, it ends when the last one has",
            "worker 0 has not turned for 31 ms",
            "worker 0 could not accept for lack of descriptors or memory, 12 times so far",
            "worker 0 dropped log lines, once so far",
            "1,234 clients refused so far: the last descriptors are kept in reserve for what runs (limit 1,048,576, `LimitNOFILE=`)",
            "the monitor is backing-off: health verdicts stay as they were",
            "the last reload was refused 5 s ago: 2 errors first",
        ]
    );
}
