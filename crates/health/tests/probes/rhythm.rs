//! When checks are made, of which endpoints, and what is remembered of them.

use std::hint::spin_loop;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use evenkeel_health::{Checker, Health, Observation, RECORDS_MAX, describe};
use evenkeel_plan::{CheckKind, CheckSpec, HttpRequestSpec, TlsSpec};
use tokio::net::TcpListener;

use crate::{
    BACKEND, IDENTITY, NEVER, Notes, PATIENCE, ask, ask_in_vain, check, run, say, serve, target,
};

async fn dead() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

fn agent() -> CheckSpec {
    check(CheckKind::Agent { send: None })
}

#[test]
fn the_first_endpoint_that_passes_decides_and_one_that_hangs_hides_nobody() {
    run(async {
        let (dead, hanging, up) = (dead().await, say(b"").await, say(b"up\n").await);
        let drain = say(b"drain\n").await;
        let check = CheckSpec {
            timeout: Duration::from_millis(600),
            ..agent()
        };
        let outcome = ask(&check, &[dead, hanging, up]).await;
        assert_eq!(outcome.observation, Observation::Passed, "{outcome:?}");
        assert_eq!(outcome.answer, format!("{up}: the agent said \"up\""));
        let outcome = ask(&check, &[dead, drain]).await;
        assert_eq!(outcome.observation, Observation::Drain, "{outcome:?}");
        let outcome = ask_in_vain(&check, &[dead, hanging]).await;
        let words = format!("{dead}: connection refused; {hanging}: no answer within");
        assert!(outcome.answer.starts_with(&words), "{outcome:?}");
    });
}

#[test]
fn without_an_address_nothing_is_asked_and_the_state_stays() {
    run(async {
        let up = say(b"up\n").await;
        let notes = Notes::default();
        let mut checker = Checker::new(notes.clone());
        checker.apply([target(&agent(), &[])]);
        let seen = notes.count(1).await;
        assert_eq!(seen[0].outcome.observation, Observation::Inconclusive);
        assert_eq!(seen[0].outcome.answer, "its name has no address yet");
        assert_eq!(
            (seen[0].state.health, seen[0].next_ms),
            (Health::Starting, None)
        );
        assert_eq!(checker.next_check_ms(BACKEND, IDENTITY), None);
        checker.apply([target(&agent(), &[up])]);
        let seen = notes.count(2).await;
        assert_eq!(seen[1].state.health, Health::Up);
        // Elsewhere: up until the next check, which decides alone.
        checker.apply([target(&agent(), &[])]);
        let seen = notes.count(3).await;
        assert_eq!(seen[2].state.health, Health::Up);
        let other = SocketAddr::new("127.0.0.77".parse().unwrap(), dead().await.port());
        checker.apply([target(&agent(), &[other])]);
        assert!(!checker.is_starting(BACKEND, IDENTITY));
        let seen = notes.count(4).await;
        assert_eq!(seen[3].state.health, Health::Down);
        let answers = checker.history(BACKEND, IDENTITY);
        assert_eq!(answers.len(), 4, "{answers:?}");
    });
}

#[test]
fn the_checks_own_port_and_source_are_used() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut address = listener.local_addr().unwrap();
        let check = CheckSpec {
            port: Some(address.port()),
            source: Some("127.0.0.2".parse().unwrap()),
            ..check(CheckKind::Tcp)
        };
        address.set_port(1);
        let outcome = ask(&check, &[address]).await;
        assert_eq!(outcome.answer, "connected");
        let (_, peer) = listener.accept().await.unwrap();
        assert_eq!(peer.ip().to_string(), "127.0.0.2");
        let outcome = ask_in_vain(&check, &["[::1]:1".parse().unwrap()]).await;
        assert!(
            outcome.answer.contains("cannot be asked from"),
            "{outcome:?}"
        );
    });
}

#[test]
fn doubt_brings_a_check_at_once_and_the_fast_rhythm_until_it_is_cleared() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let check = CheckSpec {
            fast_interval: Duration::from_millis(10),
            fall: 3,
            ..check(CheckKind::Tcp)
        };
        let notes = Notes::default();
        let mut checker = Checker::new(notes.clone());
        checker.apply([target(&check, &[address])]);
        notes.count(1).await;
        assert!(checker.next_check_ms(BACKEND, IDENTITY).unwrap() > 300_000);
        checker.doubt(BACKEND);
        let seen = notes.count(2).await;
        assert_eq!(seen[1].state.health, Health::Up);
        assert!(seen[1].next_ms.unwrap() > 300_000, "cleared: {seen:?}");
        drop(listener);
        checker.doubt(BACKEND);
        let seen = notes
            .until(|seen| seen.last().unwrap().state.health == Health::Down)
            .await;
        assert_eq!(seen.len(), 5);
        assert!(seen[4].transition.is_some());
    });
}

#[test]
fn many_doubts_bring_one_check_at_once_and_then_the_fast_rhythm() {
    run(async {
        let address = serve(|stream| async move { drop(stream) }).await;
        let check = CheckSpec {
            fast_interval: Duration::from_millis(50),
            ..check(CheckKind::Tcp)
        };
        let notes = Notes::default();
        let mut checker = Checker::new(notes.clone());
        checker.apply([target(&check, &[address])]);
        notes.count(1).await;
        let begun = Instant::now();
        let mut ticks = tokio::time::interval(Duration::from_millis(1));
        while begun.elapsed() < Duration::from_millis(500) {
            checker.doubt(BACKEND);
            ticks.tick().await;
        }
        let seen = notes.count(2).await;
        // Ten of them fit in; a busy host makes fewer.
        assert!((2..=13).contains(&seen.len()), "{}", seen.len());
        let first = seen[1].at.saturating_duration_since(begun);
        assert!(first < Duration::from_secs(2), "{first:?}");
    });
}

#[test]
fn a_process_that_was_not_given_the_cpu_blames_nobody() {
    run(async {
        let address = say(b"").await;
        let check = CheckSpec {
            timeout: Duration::from_millis(20),
            ..check(CheckKind::Http {
                tls: None,
                requests: vec![HttpRequestSpec::default()],
            })
        };
        let notes = Notes::default();
        let mut checker = Checker::new(notes.clone());
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let asked = tokio::task::spawn_local(async move {
            let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(server.local_addr().unwrap()).unwrap();
            let (stream, _) = server.accept().await.unwrap();
            // The probe is under way: now nobody runs for long.
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(200) {
                spin_loop();
            }
            stream
        });
        let starved = receiver.await.unwrap();
        assert_ne!(starved, address);
        checker.apply([target(&check, &[starved])]);
        let seen = notes.count(1).await;
        assert_eq!(
            seen[0].outcome.observation,
            Observation::Inconclusive,
            "{seen:?}"
        );
        assert!(seen[0].outcome.answer.starts_with("this process was"));
        drop(asked.await.unwrap());
    });
}

#[test]
fn the_last_checks_are_kept_in_order() {
    run(async {
        let address = serve(|stream| async move { drop(stream) }).await;
        let check = CheckSpec {
            interval: Duration::from_millis(5),
            fast_interval: Duration::from_millis(5),
            ..check(CheckKind::Tcp)
        };
        let notes = Notes::default();
        let mut checker = Checker::new(notes.clone());
        checker.apply([target(&check, &[address])]);
        notes.count(RECORDS_MAX + 3).await;
        let records = checker.history(BACKEND, IDENTITY);
        assert_eq!(records.len(), RECORDS_MAX);
        assert!(records.is_sorted_by_key(|record| record.at_ms));
        assert_eq!(records[0].result, Observation::Passed);
        // Another rhythm is the same question.
        let slower = CheckSpec {
            interval: NEVER,
            ..check
        };
        checker.apply([target(&slower, &[address])]);
        assert_eq!(checker.history(BACKEND, IDENTITY).len(), RECORDS_MAX);
        assert!(
            tokio::time::timeout(PATIENCE, notes.count(RECORDS_MAX + 4))
                .await
                .is_ok()
        );
    });
}

#[test]
fn a_check_is_described_as_an_operator_would() {
    let endpoint = "10.0.0.2:5000".parse().unwrap();
    let https = CheckSpec {
        port: Some(8080),
        ..check(CheckKind::Http {
            tls: Some(TlsSpec {
                server_name: None,
                roots: None,
            }),
            requests: vec![HttpRequestSpec {
                path: "/heartbeat?key=opensesame".to_owned(),
                expect: vec![(200, 200)],
                ..HttpRequestSpec::default()
            }],
        })
    };
    assert_eq!(
        describe(&https, "10.0.0.2", &[endpoint]),
        "GET https://10.0.0.2:8080/heartbeat?... expects 200"
    );
    let tcp = check(CheckKind::Tcp);
    assert_eq!(
        describe(&tcp, "b1", &[]),
        "TCP connection to b1 (no address yet)"
    );
    assert_eq!(
        describe(&tcp, "b1", &[endpoint, endpoint]),
        "TCP connection to b1:5000"
    );
}
