//! What follows from verdicts, traffic and names.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use evenkeel_control::child::{Descriptor, FromChild, OrphanRule, Resolved, Secrets, ToChild};
use evenkeel_plan::{
    Address, BackendCell, CheckKind, CheckSpec, CouchDbSpec, CredentialsSpec, OnDown, PolicySpec,
    Require, SecretSource, ServiceCell, SlotIdx,
};
use evenkeel_scoreboard::{BackendCount, Gate, GateState, GlobalCount, HealthState, Verdict};
use evenkeel_sys::doorbell;

use crate::double::{
    PATIENCE, Supervisor, board, check, check_of, eventually, placed, plan, quiet, run, service,
    service_with,
};
use crate::{listener, nowhere, start};

fn all() -> PolicySpec {
    PolicySpec {
        require: Require::All,
        ..PolicySpec::default()
    }
}

/// Checked so seldom that a test sees the first check only.
fn seldom() -> CheckSpec {
    CheckSpec {
        interval: Duration::from_secs(60),
        fast_interval: Duration::from_secs(60),
        timeout: Duration::from_secs(1),
        ..check()
    }
}

#[test]
fn the_gate_follows_verdicts_and_a_deleted_policy_opens_it() {
    run(async {
        let (_server, one) = listener();
        let (other, two) = listener();
        let backends = [("b1", 1, one, Some(check())), ("b2", 2, two, Some(check()))];
        let mut supervisor = start().await;
        let cells = supervisor.board.service(ServiceCell(3));
        let first = plan(1, quiet(), [service_with("db", 3, &backends, all())]);
        supervisor.prepare(&first, Vec::new()).await;
        supervisor.prepared(1).await;
        assert_eq!(cells.gate().state, GateState::Open, "before it is in use");
        supervisor.commit(first).await;

        drop(other);
        let gate = supervisor.gate("db", "closed").await;
        let reason = "1 of 2 backends is healthy, all are required: b2 is down";
        assert_eq!(gate.reason, reason);
        assert!(gate.since_unix > 0);
        assert_eq!(cells.gate().state, GateState::Closed);
        let verdict = supervisor.board.backend(BackendCell(2)).verdict();
        assert_eq!(verdict.state, HealthState::Down);
        let later = cells.gate().since_ms.abs_diff(verdict.since_ms);
        assert!(later < 1_000, "{later}");
        let told = |kind: &'static str, subject: &'static str, text: String| {
            move |kept: &Supervisor| {
                let mut events = kept.events.iter();
                events.any(|e| e.kind == kind && e.subject == subject && e.text.starts_with(&text))
            }
        };
        let closed = told("policy", "db", format!("CLOSED: {reason}"));
        supervisor.until("an event of the gate", closed).await;
        let down = told("health", "db/b2", "DOWN: 3 checks failed".to_owned());
        supervisor.until("an event of the backend", down).await;

        let again = TcpListener::bind(two).unwrap();
        supervisor.gate("db", "open").await;
        assert_eq!(cells.gate().state, GateState::Open);
        drop(again);
        supervisor.gate("db", "closed").await;
        let changes = cells.gate_changes();
        let next = plan(2, quiet(), [service("db", 3, &backends)]);
        supervisor.switch(next, Vec::new()).await;
        assert_eq!(cells.gate().state, GateState::Open);
        assert_eq!(cells.gate_changes(), changes + 1);
    });
}

#[test]
fn a_service_that_nothing_is_known_of_is_closed_before_anybody_uses_it() {
    run(async {
        let mut supervisor = start().await;
        let dead = nowhere();
        let backends = [("b1", 1, dead, Some(check()))];
        let first = plan(1, quiet(), [service_with("db", 3, &backends, all())]);
        supervisor.prepare(&first, Vec::new()).await;
        supervisor.prepared(1).await;
        let gate = supervisor.board.service(ServiceCell(3)).gate();
        assert_eq!(gate.state, GateState::Closed);
    });
}

#[test]
fn a_new_monitor_leaves_gates_and_those_left_out_as_they_are() {
    run(async {
        let (_server, alive) = listener();
        let dead = nowhere();
        let (board, fd) = board();
        let since_ms = 77;
        for (cell, state) in [
            (1, HealthState::Up),
            (2, HealthState::Down),
            (3, HealthState::Down),
        ] {
            let cells = board.backend(BackendCell(cell));
            cells.set_verdict(Verdict { state, since_ms });
        }
        let closed = Gate {
            state: GateState::Closed,
            since_ms,
        };
        let cells = [1, 2, 3].map(|cell| board.service(ServiceCell(cell)));
        cells[1].set_gate(closed);
        cells[2].set_gate(closed);
        let mut supervisor = Supervisor::start((board, fd), OrphanRule::Drain, Vec::new()).await;
        let services = [
            service_with("a", 1, &[("b1", 1, alive, Some(seldom()))], all()),
            service_with("b", 2, &[("b2", 2, dead, Some(seldom()))], all()),
            service_with("c", 3, &[("b3", 3, alive, None)], all()),
        ];
        supervisor
            .switch(plan(4, quiet(), services), Vec::new())
            .await;
        supervisor.gate("c", "closed").await;
        for (cells, gate) in cells.iter().zip(["open", "closed", "closed"]) {
            assert_eq!(cells.gate().state.as_str(), gate);
            assert_eq!(cells.gate_changes(), 0);
        }
        assert_eq!(cells[1].gate().since_ms, since_ms);
        assert_eq!(supervisor.state(3), HealthState::Down, "still left out");
    });
}

#[test]
fn a_backend_that_goes_down_rings_where_its_connections_are_reset() {
    run(async {
        let (server, alive) = listener();
        let (kept, other) = listener();
        let reset = PolicySpec {
            on_down: OnDown::Reset,
            ..PolicySpec::default()
        };
        let bell = doorbell::new().unwrap();
        let mut supervisor = start().await;
        let services = [
            service("kept", 1, &[("b1", 1, other, Some(check()))]),
            service_with("reset", 2, &[("b1", 2, alive, Some(check()))], reset),
        ];
        let copy = bell.try_clone().unwrap();
        let slot = SlotIdx(1);
        supervisor
            .send_descriptors(vec![(Descriptor::Doorbell { slot }, copy)])
            .await;
        supervisor
            .switch(plan(1, quiet(), services), Vec::new())
            .await;
        drop(kept);
        supervisor.report(1, |report| report.state == "down").await;
        assert!(!doorbell::answer(bell.as_fd()).unwrap(), "connections stay");
        drop(server);
        eventually("it rings", || doorbell::answer(bell.as_fd()).unwrap()).await;
        assert_eq!(supervisor.state(2), HealthState::Down, "before it rang");
    });
}

#[test]
fn failing_connects_bring_a_check_or_leave_a_backend_out() {
    run(async {
        let (server, alive) = listener();
        let (board, fd) = board();
        board.set(GlobalCount::SlotsUsed, 1);
        let mut supervisor = Supervisor::start((board, fd), OrphanRule::Drain, Vec::new()).await;
        // Seldom, but for a doubt.
        let check = CheckSpec {
            fast_interval: Duration::from_millis(50),
            ..seldom()
        };
        let backends = [("b1", 1, alive, Some(check)), ("b2", 2, alive, None)];
        supervisor
            .switch(plan(1, quiet(), [service("web", 0, &backends)]), Vec::new())
            .await;
        supervisor.report(1, |report| report.state == "up").await;
        drop(server);
        let row = |cell| board.row(SlotIdx(0), 0).backend(BackendCell(cell));
        // Until the next look, and over it.
        eventually("it is doubted and found down", || {
            row(1).add(BackendCount::ConnectFailures, 1);
            supervisor.state(1) == HealthState::Down
        })
        .await;
        eventually("it is left out", || {
            row(2).add(BackendCount::ConnectFailures, 1);
            supervisor.state(2) == HealthState::Down
        })
        .await;
        let down = supervisor.report(2, |report| report.state == "down").await;
        assert!(down.reason.contains("left out for 10 s"), "{}", down.reason);
        // A reload changes nothing of it.
        let next = plan(2, quiet(), [service("web", 0, &backends)]);
        supervisor.switch(next, Vec::new()).await;
        assert_eq!(supervisor.state(2), HealthState::Down);
        let explain = ToChild::Explain {
            ticket: 7,
            backend: BackendCell(2),
        };
        supervisor.send(explain).await;
        let answered = |message: &FromChild| matches!(message, FromChild::Explained { .. });
        let FromChild::Explained {
            explanation: Some(explanation),
            ..
        } = supervisor.wait(answered).await
        else {
            unreachable!("it is known");
        };
        assert_eq!(explanation.check, "it has no checks");
        let passive = explanation.passive;
        assert!(passive.contains("connects in a row failed"), "{passive}");
        assert!(passive.contains("tried again in "), "{passive}");
    });
}

#[test]
fn a_backend_is_explained() {
    run(async {
        let dead = nowhere();
        let mut supervisor = start().await;
        let backends = [("b1", 1, dead, Some(check()))];
        let first = plan(1, quiet(), [service_with("db", 0, &backends, all())]);
        supervisor.switch(first, Vec::new()).await;
        supervisor.report(1, |report| report.state == "down").await;
        for (ticket, cell) in [(1, 1), (2, 9)] {
            let backend = BackendCell(cell);
            supervisor.send(ToChild::Explain { ticket, backend }).await;
            let answered = |message: &FromChild| matches!(message, FromChild::Explained { .. });
            let FromChild::Explained {
                ticket: answer,
                explanation,
            } = supervisor.wait(answered).await
            else {
                unreachable!("only that was waited for");
            };
            assert_eq!(answer, ticket);
            let Some(explanation) = explanation else {
                assert_eq!(cell, 9, "nobody knows the other one");
                continue;
            };
            assert_eq!(explanation.identity, "db/b1");
            assert_eq!(explanation.check, format!("TCP connection to {dead}"));
            let newest = &explanation.checks[0];
            assert_eq!(newest.result, "failed");
            assert_eq!(newest.received, "connection refused");
            assert!(explanation.next_ms > newest.at_ms);
            assert_eq!((explanation.dns, explanation.passive), Default::default());
            let policy = "all backends must be healthy; closed: 0 of 1 backend is healthy";
            assert!(
                explanation.policy.starts_with(policy),
                "{}",
                explanation.policy
            );
        }
    });
}

/// A server that tells what it is asked, and answers nothing.
fn asked() -> (SocketAddr, mpsc::Receiver<String>) {
    let (listener, address) = listener();
    let (tell, asked) = mpsc::channel();
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut bytes = Vec::new();
            let mut buffer = [0; 1_024];
            // A form is the last thing in a request, and has the password last.
            while !bytes.ends_with(b"\r\n\r\n") && !is_form(&bytes) {
                match stream.read(&mut buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(length) => bytes.extend_from_slice(&buffer[..length]),
                }
            }
            drop(tell.send(String::from_utf8_lossy(&bytes).into_owned()));
            drop(stream.write_all(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n"));
        }
    });
    (address, asked)
}

fn is_form(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    body.contains("password=one") || body.contains("password=two")
}

#[test]
fn secrets_reach_the_check_and_only_the_check() {
    run(async {
        let (address, asked) = asked();
        let source = |name: &str| SecretSource::Environment(name.to_owned());
        let kind = CheckKind::CouchDb(CouchDbSpec {
            tls: None,
            credentials: Some(CredentialsSpec {
                user: source("DB_USER"),
                password: source("DB_PASSWORD"),
            }),
            nodes: 1,
            names: Vec::new(),
        });
        let slow = CheckSpec {
            timeout: Duration::from_secs(1),
            ..check_of(kind)
        };
        let blob = |password: &str| {
            let secrets = Secrets {
                values: vec![
                    (source("DB_USER"), Ok(b"admin".to_vec())),
                    (source("DB_PASSWORD"), Ok(password.as_bytes().to_vec())),
                ],
            };
            let bytes = postcard::to_stdvec(&secrets).unwrap();
            evenkeel_sys::blob::seal("secrets", &bytes).unwrap()
        };
        let mut supervisor = start().await;
        let backends = [("b1", 1, address, Some(slow))];
        for (generation, password) in [(1, "one"), (2, "two")] {
            let next = plan(generation, quiet(), [service("db", 0, &backends)]);
            let secrets = (Descriptor::Secrets { generation }, blob(password));
            supervisor.switch(next, vec![secrets]).await;
            let asks_with =
                |text: &String| text.contains(&format!("name=admin&password={password}"));
            let mut seen = false;
            for _ in 0..50 {
                seen |= asks_with(&asked.recv_timeout(PATIENCE).unwrap());
                if seen {
                    break;
                }
            }
            assert!(seen, "{password}");
        }
        let report = supervisor.report(1, |report| report.checked_unix > 0).await;
        assert!(!format!("{report:?}").contains("password="), "{report:?}");
    });
}

/// A name server that has one IPv4 address for every name, for no time.
fn name_server() -> (SocketAddr, Arc<Mutex<Ipv4Addr>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let says = Arc::new(Mutex::new(Ipv4Addr::new(127, 0, 0, 1)));
    let now = Arc::clone(&says);
    // Ends with the test's process.
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            // Header of 12 bytes, the name up to its empty label, type and class (RFC 1035, section 4).
            let name = buffer[12..length]
                .iter()
                .position(|byte| *byte == 0)
                .unwrap();
            let end = 12 + name + 5;
            let is_v4 = buffer[end - 3] == 1;
            let mut answer = buffer[..end].to_vec();
            let counts = [0x81, 0x80, 0, 1, 0, u8::from(is_v4), 0, 0, 0, 0];
            answer[2..12].copy_from_slice(&counts);
            if is_v4 {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
                answer.extend(now.lock().unwrap().octets());
            }
            socket.send_to(&answer, from).unwrap();
        }
    });
    (address, says)
}

#[test]
fn a_name_is_followed() {
    run(async {
        let (server, says) = name_server();
        let (_listener, alive) = listener();
        let address = Address::Name {
            host: "db.test".to_owned(),
            port: alive.port(),
        };
        let mut globals = quiet();
        globals.resolve.servers = vec![server];
        let backends = [("b1", 1, alive, Some(check()))];
        let place = |endpoints: Vec<SocketAddr>| {
            let places = (vec![address.clone()], vec![endpoints]);
            placed("db", 0, &backends, PolicySpec::default(), places)
        };
        let resolved = |ip: &str| Resolved {
            address: address.clone(),
            endpoints: vec![SocketAddr::new(ip.parse().unwrap(), alive.port())],
        };
        let mut supervisor = start().await;
        // Known from before, and therefore no news.
        let names = vec![resolved("127.0.0.1")];
        supervisor.send(ToChild::SeedNames { names }).await;
        let first = plan(1, globals.clone(), [place(Vec::new())]);
        supervisor.switch(first, Vec::new()).await;
        assert_eq!(supervisor.state(1), HealthState::Starting);
        eventually("it is looked up", || {
            supervisor.board.get(GlobalCount::Resolves) > 0
        })
        .await;
        assert_eq!(supervisor.board.get(GlobalCount::ResolveFailures), 0);
        *says.lock().unwrap() = Ipv4Addr::new(127, 0, 0, 2);
        supervisor
            .until("a change", |kept| !kept.resolved.is_empty())
            .await;
        assert_eq!(supervisor.resolved, [resolved("127.0.0.2")]);
        // Its endpoints come with the next plan, and are asked then.
        let next = plan(2, globals, [place(vec![alive])]);
        supervisor.switch(next, Vec::new()).await;
        supervisor.report(1, |report| report.state == "up").await;
        let explain = ToChild::Explain {
            ticket: 1,
            backend: BackendCell(1),
        };
        supervisor.send(explain).await;
        let answered = |message: &FromChild| matches!(message, FromChild::Explained { .. });
        let FromChild::Explained {
            explanation: Some(explanation),
            ..
        } = supervisor.wait(answered).await
        else {
            unreachable!("it is known");
        };
        let dns = explanation.dns;
        assert!(dns.starts_with("db.test = 127.0.0.2; resolved "), "{dns}");
        let is_dns = |kept: &Supervisor| {
            let mut events = kept.events.iter();
            events.any(|event| event.kind == "dns" && event.subject == "db.test")
        };
        supervisor.until("an event", is_dns).await;
    });
}
