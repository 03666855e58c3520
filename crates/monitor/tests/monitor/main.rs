//! A monitor on a thread, a scripted supervisor, real sockets on loopback. Waits have deadlines.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![expect(clippy::panic, reason = "a test stops at the first surprise")]

mod access_log;
mod double;
mod evidence;
mod traffic;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use evenkeel_control::child::{Descriptor, FromChild, OrphanRule, Report, ToChild};
use evenkeel_plan::{BackendCell, CheckSpec};
use evenkeel_scoreboard::{GlobalCount, HealthState, Verdict};

use double::{Supervisor, board, check, eventually, plan, quiet, run, service};

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An address where nobody listens.
fn nowhere() -> SocketAddr {
    listener().1
}

/// An address that does not answer: a full queue drops what else arrives.
fn silent() -> (tokio::net::TcpListener, Vec<TcpStream>, SocketAddr) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut fill = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
        fill.push(stream);
    }
    (listener, fill, address)
}

async fn start() -> Supervisor {
    Supervisor::start(board(), OrphanRule::Drain, Vec::new()).await
}

#[test]
fn a_start_knows_every_backend_before_it_is_ready_and_follows_them_afterwards() {
    run(async {
        let (server, alive) = listener();
        let dead = nowhere();
        let mut supervisor = start().await;
        let backends = [
            ("b1", 1, alive, Some(check())),
            ("b2", 2, dead, Some(check())),
            ("b3", 3, dead, None),
        ];
        let first = plan(1, quiet(), [service("web", 0, &backends)]);
        supervisor.prepare(&first, Vec::new()).await;
        supervisor.prepared(1).await;
        assert_eq!(supervisor.state(1), HealthState::Up);
        assert_eq!(supervisor.state(2), HealthState::Down);
        assert_eq!(supervisor.state(3), HealthState::Unchecked);
        let told = |cell, state: &str| {
            let same = |report: &&Report| report.backend == BackendCell(cell);
            let last = supervisor.reports.iter().rfind(same);
            assert_eq!(last.unwrap().state, state, "told before it was prepared");
        };
        told(1, "up");
        told(2, "down");
        told(3, "unchecked");
        supervisor.commit(first).await;
        let beat = supervisor.board.get(GlobalCount::MonitorBeat);
        eventually("the heart beats", || {
            supervisor.board.get(GlobalCount::MonitorBeat) > beat
        })
        .await;

        drop(server);
        let down = supervisor.report(1, |report| report.state == "down").await;
        assert_eq!(down.identity, "web/b1");
        assert_eq!(down.reason, "3 checks failed in a row");
        assert_eq!(down.answer, "connection refused");
        assert!(down.since_unix > 0 && down.checked_unix >= down.since_unix);
        assert_eq!(supervisor.state(1), HealthState::Down);
        let cells = supervisor.board.backend(BackendCell(1));
        assert!(cells.check_failures() >= 3);
        assert_eq!(cells.transitions(), 2);

        supervisor.reports.clear();
        let _server = TcpListener::bind(alive).unwrap();
        let up = supervisor.report(1, |report| report.state == "up").await;
        assert_eq!(up.reason, "2 checks passed in a row");
        assert_eq!(supervisor.state(1), HealthState::Up);
        supervisor
            .send(ToChild::Drain {
                deadline: Duration::ZERO,
            })
            .await;
        supervisor
            .wait(|message| *message == FromChild::Drained { cut: 0 })
            .await;
        assert_eq!(supervisor.ended(false).await, ExitCode::SUCCESS);
    });
}

#[test]
fn a_new_monitor_goes_on_from_what_is_known() {
    run(async {
        let dead = nowhere();
        let slow = CheckSpec {
            interval: Duration::from_millis(100),
            ..check()
        };
        let (board, fd) = board();
        // One is known from its cell, one from the supervisor's words.
        board.backend(BackendCell(1)).set_verdict(Verdict {
            state: HealthState::Up,
            since_ms: 77,
        });
        let mut supervisor = Supervisor::start((board, fd), OrphanRule::Drain, Vec::new()).await;
        let seed = |cell: u32, state: &str| Report {
            backend: BackendCell(cell),
            identity: format!("web/b{cell}"),
            state: state.to_owned(),
            since_unix: evenkeel_sys::clock::unix_seconds() - 5,
            reason: "a reason of old".to_owned(),
            answer: "an answer of old".to_owned(),
            duration_us: 1,
            checked_unix: 2,
            next_ms: 0,
        };
        supervisor
            .send(ToChild::Seed {
                reports: vec![seed(1, "up"), seed(2, "up"), seed(9, "down")],
            })
            .await;
        let backends = [
            ("b1", 1, dead, Some(slow.clone())),
            ("b2", 2, dead, Some(slow)),
        ];
        let first = plan(4, quiet(), [service("web", 0, &backends)]);
        let begun = Instant::now();
        supervisor.prepare(&first, Vec::new()).await;
        supervisor.prepared(4).await;
        assert!(begun.elapsed() < Duration::from_millis(250), "it waited");
        assert_eq!(supervisor.state(1), HealthState::Up);
        assert_eq!(supervisor.state(2), HealthState::Up);
        let since = supervisor.board.backend(BackendCell(1)).verdict().since_ms;
        assert_eq!(since, 77);
        let old = supervisor.report(2, |report| report.state == "up").await;
        assert_eq!(old.reason, "a reason of old");
        supervisor.commit(first).await;
        for cell in [1, 2] {
            let down = supervisor
                .report(cell, |report| report.state == "down")
                .await;
            assert_eq!(down.reason, "3 checks failed in a row");
        }
    });
}

#[test]
fn a_reload_waits_for_first_verdicts_of_new_backends_only() {
    run(async {
        let (_server, alive) = listener();
        let (_listener, _fill, silent) = silent();
        let patient = CheckSpec {
            interval: Duration::from_millis(600),
            timeout: Duration::from_millis(600),
            ..check()
        };
        let mut supervisor = start().await;
        let one = [("b1", 1, alive, Some(check()))];
        let two = [one[0].clone(), ("b2", 2, silent, Some(patient))];
        supervisor
            .switch(plan(1, quiet(), [service("web", 0, &one)]), Vec::new())
            .await;
        let checks = supervisor.checks(1);
        let next = plan(2, quiet(), [service("web", 0, &two)]);
        let begun = Instant::now();
        supervisor.prepare(&next, Vec::new()).await;
        supervisor.prepared(2).await;
        assert!(begun.elapsed() > Duration::from_millis(500));
        assert_eq!(supervisor.state(2), HealthState::Down);
        assert!(supervisor.checks(1) > checks, "the others go on meanwhile");

        // Forgotten, its checks end and the ones in force go on.
        supervisor.send(ToChild::Abort { generation: 2 }).await;
        let checks = supervisor.checks(1);
        eventually("checks go on", || supervisor.checks(1) > checks + 3).await;
        let gone = supervisor.checks(2);
        let checks = supervisor.checks(1);
        eventually("checks go on", || supervisor.checks(1) > checks + 25).await;
        assert_eq!(supervisor.checks(2), gone);
        // The next generation is one of its own.
        let next = plan(3, quiet(), [service("web", 0, &one)]);
        supervisor.switch(next, Vec::new()).await;
    });
}

#[test]
fn a_start_does_not_wait_for_a_silent_backend() {
    run(async {
        let (_listener, _fill, silent) = silent();
        let patient = CheckSpec {
            interval: Duration::from_secs(60),
            timeout: Duration::from_secs(60),
            ..check()
        };
        let mut supervisor = start().await;
        let backends = [("b1", 1, silent, Some(patient))];
        let begun = Instant::now();
        supervisor
            .switch(plan(1, quiet(), [service("web", 0, &backends)]), Vec::new())
            .await;
        assert!(begun.elapsed() < Duration::from_secs(2));
        assert_eq!(supervisor.state(1), HealthState::Starting);
    });
}

#[test]
fn a_server_in_two_services_is_asked_once() {
    run(async {
        let (server, alive) = listener();
        let mut supervisor = start().await;
        let services = [
            service("api", 0, &[("b1", 1, alive, Some(check()))]),
            service("web", 1, &[("b1", 2, alive, Some(check()))]),
        ];
        supervisor
            .switch(plan(1, quiet(), services), Vec::new())
            .await;
        eventually("some checks", || supervisor.checks(2) >= 10).await;
        supervisor.switch(plan(2, quiet(), []), Vec::new()).await;
        assert_eq!(supervisor.checks(1), supervisor.checks(2));
        server.set_nonblocking(true).unwrap();
        let asked = std::iter::from_fn(|| server.accept().ok()).count() as u64;
        let counted = supervisor.checks(1);
        // One may have been under way when the checks ended.
        assert!(
            asked == counted || asked == counted + 1,
            "{asked} {counted}"
        );
    });
}

/// An answer to `GET path`; the error when there is none.
fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(double::PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn metrics_are_served_while_the_plan_names_the_address() {
    run(async {
        let (socket, address) = listener();
        let mut supervisor = start().await;
        let dead = nowhere();
        let backends = [("b1", 1, dead, Some(check()))];
        let mut globals = quiet();
        globals.metrics = vec!["127.0.0.1:0".parse().unwrap()];
        let first = plan(1, globals, [service("web", 0, &backends)]);
        let metrics = (Descriptor::Metrics { address }, OwnedFd::from(socket));
        supervisor.switch(first.clone(), vec![metrics]).await;
        let ask = move |path: &'static str| async move {
            tokio::task::spawn_blocking(move || get(address, path))
                .await
                .unwrap()
        };
        let text = ask("/metrics").await.unwrap();
        assert!(
            text.contains(
                "evenkeel_backend_state{service=\"web\",backend=\"b1\",state=\"down\"} 1"
            ),
            "{text}"
        );
        assert!(ask("/ready").await.unwrap().starts_with("HTTP/1.1 503"));
        supervisor.board.set(GlobalCount::Ready, 1);
        assert!(ask("/ready").await.unwrap().starts_with("HTTP/1.1 200"));
        // A reload that keeps the address sends no socket again.
        let next = plan(2, (*first.globals).clone(), []);
        supervisor.switch(next, Vec::new()).await;
        let text = ask("/metrics").await.unwrap();
        assert!(!text.contains("service=\"web\""), "{text}");
        supervisor.switch(plan(3, quiet(), []), Vec::new()).await;
        // The task that held the last copy has ended by the time the next message was answered, or soon after.
        let refused = || TcpStream::connect(address).is_err();
        eventually("the socket is closed", refused).await;
    });
}

#[test]
fn a_plan_that_cannot_be_read_is_refused_and_nothing_changes() {
    run(async {
        let (_server, alive) = listener();
        let mut supervisor = start().await;
        let one = [("b1", 1, alive, Some(check()))];
        let first = plan(1, quiet(), [service("web", 0, &one)]);
        supervisor.switch(first.clone(), Vec::new()).await;
        supervisor.send(ToChild::Prepare { generation: 2 }).await;
        let refused = |message: &FromChild| matches!(message, FromChild::Refused { .. });
        supervisor.wait(refused).await;
        let beyond = [("b1", 1_000, alive, None)];
        let next = plan(3, quiet(), [service("web", 0, &beyond)]);
        supervisor.prepare(&next, Vec::new()).await;
        let FromChild::Refused { reason, .. } = supervisor.wait(refused).await else {
            unreachable!("only that was waited for");
        };
        assert!(reason.contains("capacity"), "{reason}");
        let checks = supervisor.checks(1);
        eventually("checks go on", || supervisor.checks(1) > checks + 3).await;
        supervisor
            .switch(plan(4, quiet(), [service("web", 0, &one)]), Vec::new())
            .await;
    });
}

#[test]
fn without_a_supervisor_it_serves_on_until_nobody_is_left() {
    for orphan in [OrphanRule::ServeOn, OrphanRule::Drain] {
        run(async {
            let (server, alive) = listener();
            let (worker, receiver) = evenkeel_log::channel().unwrap();
            let (_own, own_receiver) = evenkeel_log::channel().unwrap();
            let lines = |source: &str| Descriptor::LogReceiver {
                source: source.to_owned(),
            };
            let descriptors = vec![
                (lines("monitor"), own_receiver),
                (lines("worker-0"), receiver),
            ];
            let mut supervisor = Supervisor::start(board(), orphan, descriptors).await;
            let one = [("b1", 1, alive, Some(check()))];
            supervisor
                .switch(plan(1, quiet(), [service("web", 0, &one)]), Vec::new())
                .await;
            let board = supervisor.board;
            let cells = board.backend(BackendCell(1));
            let ended = tokio::task::spawn_local(supervisor.ended(true));
            drop(server);
            eventually("it checks on", || {
                cells.verdict().state == HealthState::Down
            })
            .await;
            assert!(!ended.is_finished());
            drop(worker);
            assert_eq!(ended.await.unwrap(), ExitCode::SUCCESS);
        });
    }
}
