//! Real probes on loopback, told to a sink that keeps everything. Waits have deadlines.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::cell::RefCell;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use evenkeel_health::{
    Checked, Checker, Health, Observation, Reason, Sink, State, Target, Transition,
};
use evenkeel_plan::{BackendCell, CheckKind, CheckSpec};
use tokio::task::LocalSet;

const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
struct Seen {
    identity: String,
    state: State,
    transition: Option<Transition>,
    observation: Observation,
    answer: String,
}

#[derive(Clone, Default)]
struct Notes(Rc<RefCell<Vec<Seen>>>, Rc<tokio::sync::Notify>);

impl Sink for Notes {
    fn checked(&self, checked: Checked<'_>) {
        self.0.borrow_mut().push(Seen {
            identity: checked.identity.to_owned(),
            state: checked.state,
            transition: checked.transition,
            observation: checked.outcome.observation,
            answer: checked.outcome.answer.to_string(),
        });
        self.1.notify_one();
    }

    fn now_ms(&self) -> u64 {
        42
    }
}

impl Notes {
    /// Waits until `found` says yes to all that was seen.
    async fn until(&self, found: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
        let wait = async {
            while !found(&self.0.borrow()) {
                self.1.notified().await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        let seen = self.0.borrow().clone();
        assert!(waited.is_ok(), "{seen:#?}");
        seen
    }
}

fn last_reason(seen: &[Seen]) -> Reason {
    let mut changes = seen.iter().rev().filter_map(|seen| seen.transition);
    changes.next().unwrap().reason
}

fn check() -> CheckSpec {
    CheckSpec {
        interval: Duration::from_millis(20),
        fast_interval: Duration::from_millis(20),
        timeout: Duration::from_millis(20),
        ..CheckSpec::of(CheckKind::Tcp)
    }
}

fn target(cell: u32, address: SocketAddr, check: CheckSpec, known: Health) -> Target {
    Target {
        backend: BackendCell(cell),
        identity: format!("web/b{cell}"),
        check: Arc::new(check),
        endpoints: vec![address],
        host: address.ip().to_string(),
        known: State::new(known, 7),
        service: "web".to_owned(),
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, test);
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[test]
fn one_check_starts_it_fall_takes_it_down_and_rise_brings_it_back() {
    run(async {
        let (server, address) = listener();
        let notes = Notes::default();
        let mut checker = Checker::new(notes.clone());
        checker.apply([target(1, address, check(), Health::Starting)]);
        assert!(checker.is_starting(BackendCell(1), "web/b1"));
        let seen = notes.until(|seen| !seen.is_empty()).await;
        let first = seen[0].transition.unwrap();
        assert_eq!((first.to, first.reason), (Health::Up, Reason::FirstPassed));
        assert_eq!(seen[0].answer, "connected");
        assert!(!checker.is_starting(BackendCell(1), "web/b1"));
        drop(server);
        let down = |seen: &[Seen]| seen.last().unwrap().state.health == Health::Down;
        let seen = notes.until(down).await;
        assert_eq!(last_reason(&seen), Reason::Failed(3));
        assert_eq!(seen.last().unwrap().answer, "connection refused");
        let failed = |seen: &&Seen| seen.observation == Observation::Failed;
        assert!(seen.iter().filter(failed).count() >= 3);
        let _server = TcpListener::bind(address).unwrap();
        let up = |seen: &[Seen]| seen.last().unwrap().state.health == Health::Up;
        let seen = notes.until(up).await;
        assert_eq!(last_reason(&seen), Reason::Passed(2));
    });
}

#[test]
fn what_is_known_is_kept_until_the_whole_row_is_seen() {
    run(async {
        let (server, address) = listener();
        drop(server);
        let notes = Notes::default();
        let mut checker = Checker::new(notes.clone());
        checker.apply([target(1, address, check(), Health::Up)]);
        let seen = notes
            .until(|seen| seen.iter().any(|seen| seen.transition.is_some()))
            .await;
        let healths: Vec<_> = seen.iter().map(|seen| seen.state.health).collect();
        assert_eq!(healths[..3], [Health::Up, Health::Up, Health::Down]);
        assert_eq!(seen[0].state.since_ms, 7);
    });
}

#[test]
fn equal_checks_are_made_once_and_a_latecomer_knows_at_once() {
    run(async {
        let (server, address) = listener();
        server.set_nonblocking(true).unwrap();
        let server = tokio::net::TcpListener::from_std(server).unwrap();
        let slow = CheckSpec {
            interval: Duration::from_secs(600),
            timeout: Duration::from_secs(5),
            ..check()
        };
        let notes = Notes::default();
        let mut checker = Checker::new(notes.clone());
        checker.apply((0..10).map(|cell| target(cell, address, slow.clone(), Health::Starting)));
        assert_eq!(checker.distinct(), 1);
        let seen = notes.until(|seen| seen.len() >= 10).await;
        assert!(seen.iter().all(|seen| seen.state.health == Health::Up));
        drop(server.accept().await.unwrap());
        checker.apply((0..11).map(|cell| target(cell, address, slow.clone(), Health::Starting)));
        let seen = notes.until(|seen| seen.len() == 11).await;
        let late = seen.last().unwrap();
        assert_eq!(late.identity, "web/b10");
        assert_eq!(late.transition.unwrap().reason, Reason::Shared);
        let another = tokio::time::timeout(Duration::from_millis(50), server.accept()).await;
        assert!(another.is_err(), "a second probe was made");
        checker.apply([]);
        assert_eq!(checker.distinct(), 0);
    });
}

#[test]
fn a_new_rhythm_keeps_the_health_and_a_new_address_asks_anew() {
    run(async {
        let (_server, address) = listener();
        let (gone, dead) = listener();
        drop(gone);
        let notes = Notes::default();
        let mut checker = Checker::new(notes.clone());
        checker.apply([target(1, address, check(), Health::Starting)]);
        notes.until(|seen| !seen.is_empty()).await;
        let faster = CheckSpec {
            interval: Duration::from_millis(10),
            timeout: Duration::from_millis(10),
            ..check()
        };
        checker.apply([target(1, address, faster.clone(), Health::Starting)]);
        assert!(!checker.is_starting(BackendCell(1), "web/b1"));
        checker.apply([target(1, dead, faster, Health::Starting)]);
        assert!(checker.is_starting(BackendCell(1), "web/b1"));
        let seen = notes
            .until(|seen| seen.last().unwrap().state.health == Health::Down)
            .await;
        assert_eq!(last_reason(&seen), Reason::FirstFailed);
    });
}

#[test]
fn silence_is_a_failure_after_the_timeout() {
    run(async {
        // A listener whose queue is full drops what else arrives, so that a connect gets no answer.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let server = socket.listen(1).unwrap();
        let address = server.local_addr().unwrap();
        let mut fill = Vec::new();
        while let Ok(stream) = tokio::time::timeout(
            Duration::from_millis(100),
            tokio::net::TcpStream::connect(address),
        )
        .await
        {
            fill.push(stream.unwrap());
        }
        let notes = Notes::default();
        let mut checker = Checker::new(notes.clone());
        checker.apply([target(1, address, check(), Health::Starting)]);
        let seen = notes
            .until(|seen| seen.iter().any(|seen| seen.transition.is_some()))
            .await;
        let last = seen.last().unwrap();
        assert_eq!(last.answer, "no answer within 20 ms");
        assert_eq!(last.state.health, Health::Down);
    });
}

#[test]
fn a_thousand_checks_a_second_are_made_on_time() {
    run(async {
        // A queue that holds them all: what a full one drops would look like a dead backend.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let server = socket.listen(4_096).unwrap();
        let address = server.local_addr().unwrap();
        drop(tokio::task::spawn_local(async move {
            loop {
                drop(server.accept().await);
            }
        }));
        let notes = Notes::default();
        let mut checker = Checker::new(notes.clone());
        let begun = Instant::now();
        // A timeout of its own for each, so that no two share a check.
        let targets = (0..1_000_u32).map(|cell| {
            let timeout = Duration::from_micros(900_000 + u64::from(cell));
            let check = CheckSpec {
                interval: Duration::from_secs(1),
                timeout,
                ..check()
            };
            target(cell, address, check, Health::Starting)
        });
        checker.apply(targets);
        assert_eq!(checker.distinct(), 1_000);
        let seen = notes.until(|seen| seen.len() >= 3_000).await;
        let failed = seen.iter().find(|seen| seen.state.health != Health::Up);
        assert!(failed.is_none(), "{failed:?}");
        let took = begun.elapsed();
        assert!(took > Duration::from_millis(1_800), "{took:?}");
        assert!(took < Duration::from_secs(8), "{took:?}");
    });
}
