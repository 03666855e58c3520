//! Health as a service's policy sees it: gates, tiers of backends, endpoints, slow start, connections of a backend that goes
//! down.

use std::net::{SocketAddr, TcpStream as StdStream};
use std::time::Duration;

use evenkeel_plan::{
    BackendCell, CheckKind, OnDown, Scheduler, ServiceCell, ServiceName, Stale, Unchecked,
};
use evenkeel_scoreboard::{
    Admin, AdminState, BackendCount, GateState, GlobalCount, HealthState, ServiceCount,
};
use evenkeel_sys::clock::monotonic_ms;
use tokio::net::TcpStream;

use crate::rig::{
    Rig, Service, abc, any, backend, echoes, eventually, greeted, is_reset, letters, nobody, run,
    silent,
};

async fn ab() -> Service {
    Service::new("ab", 0)
        .listener(0, any())
        .backend(0, backend(b'a').await)
        .backend(1, backend(b'b').await)
}

/// Whether a new client is reset, and before it has seen a byte.
async fn resets(address: SocketAddr) -> bool {
    is_reset(&mut TcpStream::connect(address).await.unwrap()).await
}

#[test]
fn a_closed_gate_resets_whoever_comes_from_one_instant_on() {
    run(async {
        let mut rig = Rig::serving(&[ab().await]).await;
        let address = rig.listener(0);
        let (mut before, _) = greeted(address).await;
        // They wait in the queue: the worker does not run between these.
        let waiting: Vec<_> = (0..20)
            .map(|_| StdStream::connect(address).unwrap())
            .collect();
        rig.set_gate(0, GateState::Closed);
        for client in waiting {
            client.set_nonblocking(true).unwrap();
            assert!(is_reset(&mut TcpStream::from_std(client).unwrap()).await);
        }
        assert!(resets(address).await);
        assert_eq!(rig.of_service(0, ServiceCount::Closed), 21);
        assert_eq!(rig.of_backend(0, BackendCount::Connections), 1);
        assert_eq!(rig.of_backend(1, BackendCount::Connections), 0);
        // What runs runs on, and the turns go on where they were.
        echoes(&mut before).await;
        rig.set_gate(0, GateState::Open);
        assert_eq!(letters(address, 2).await, "ba");
        drop(before);
        eventually(|| rig.is_balanced()).await;
    });
}

#[test]
fn the_gate_is_read_again_before_another_try() {
    run(async {
        let (silent, _full) = silent();
        let service = |endpoints: &[SocketAddr], next| {
            let mut service = Service::new("s", 0)
                .listener(0, any())
                .endpoints(0, endpoints)
                .backend(1, next);
            service.connect.timeout = Duration::from_millis(50);
            service
        };
        let b = backend(b'b').await;
        for endpoints in [&[silent][..], &[silent, b]] {
            let mut rig = Rig::serving(&[service(endpoints, b)]).await;
            let mut client = TcpStream::connect(rig.listener(0)).await.unwrap();
            eventually(|| rig.of_backend(0, BackendCount::Active) == 1).await;
            rig.set_gate(0, GateState::Closed);
            assert!(is_reset(&mut client).await);
            assert!(rig.is_balanced());
            assert_eq!(rig.of_service(0, ServiceCount::Closed), 1);
            assert_eq!(rig.of_service(0, ServiceCount::Retries), 0);
            assert_eq!(rig.of_backend(0, BackendCount::ConnectFailures), 1);
            assert_eq!(rig.of_backend(0, BackendCount::Connections), 0);
        }
    });
}

#[test]
fn a_sorry_service_takes_the_connections_of_a_closed_one_and_its_own_is_not_followed() {
    run(async {
        let mut service = ab().await;
        service.policy.sorry = Some(ServiceName::new("sorry").unwrap());
        let mut sorry = Service::new("sorry", 1)
            .listener(1, any())
            .backend(2, nobody())
            .backend(3, backend(b's').await);
        sorry.policy.sorry = Some(ServiceName::new("ab").unwrap());
        let mut rig = Rig::serving(&[service, sorry]).await;
        let address = rig.listener(0);
        let (mut kept, letter) = greeted(address).await;
        assert_eq!(letter, 'a');
        rig.set_gate(0, GateState::Closed);
        let (mut client, letter) = greeted(address).await;
        assert_eq!(letter, 's');
        echoes(&mut client).await;
        echoes(&mut kept).await;
        assert_eq!(rig.of_service(0, ServiceCount::Active), 1);
        assert_eq!(rig.of_service(0, ServiceCount::Sorry), 1);
        assert_eq!(rig.of_service(1, ServiceCount::Active), 1);
        assert_eq!(rig.of_service(1, ServiceCount::Accepted), 1);
        assert_eq!(rig.of_service(1, ServiceCount::Retries), 1);
        assert_eq!(rig.of_service(1, ServiceCount::BytesReceived), 5);
        drop((client, kept));
        eventually(|| rig.is_balanced()).await;
        assert_eq!(rig.of_service(0, ServiceCount::Relayed), 1);
        assert_eq!(rig.of_service(1, ServiceCount::Relayed), 1);

        // The sorry service has nobody, or is closed itself.
        rig.set_health(3, HealthState::Down);
        assert!(resets(address).await);
        assert_eq!(rig.of_service(1, ServiceCount::ConnectFailed), 1);
        rig.set_gate(1, GateState::Closed);
        assert!(resets(address).await);
        assert!(rig.is_balanced());
        assert_eq!(rig.of_service(1, ServiceCount::Closed), 1);
        assert_eq!(rig.of_service(0, ServiceCount::Closed), 0);
        assert_eq!(rig.of_service(0, ServiceCount::Sorry), 3);
    });
}

#[test]
fn a_service_whose_sorry_service_is_not_in_the_plan_resets() {
    run(async {
        let mut service = ab().await;
        service.policy.sorry = Some(ServiceName::new("gone").unwrap());
        let mut rig = Rig::serving(&[service]).await;
        rig.set_gate(0, GateState::Closed);
        assert!(resets(rig.listener(0)).await);
        assert!(rig.is_balanced());
        assert_eq!(rig.of_service(0, ServiceCount::Closed), 1);
    });
}

#[test]
fn a_panic_uses_every_enabled_backend_whatever_its_verdict() {
    run(async {
        let mut service = abc().await.backend(3, backend(b'd').await);
        service.backends[3].weight = 0;
        let mut rig = Rig::serving(&[service]).await;
        let address = rig.listener(0);
        rig.set_health(0, HealthState::Down);
        rig.set_health(1, HealthState::Starting);
        rig.set_health(2, HealthState::Up);
        assert_eq!(letters(address, 2).await, "cc");
        rig.set_gate(0, GateState::Panic);
        assert_eq!(letters(address, 3).await, "abc");
        let (state, weight) = (AdminState::Disabled, None);
        let admin = Admin { state, weight };
        rig.board.backend(BackendCell(1)).set_admin(admin);
        assert_eq!(letters(address, 4).await, "acac");
    });
}

#[test]
fn without_fresh_news_a_service_closes_where_its_policy_says_so() {
    run(async {
        let mut careful = ab().await;
        careful.policy.stale = Stale::Closed;
        let other = Service::new("other", 1)
            .listener(1, any())
            .backend(2, backend(b'o').await);
        let mut rig = Rig::serving(&[careful, other]).await;
        let (address, other) = (rig.listener(0), rig.listener(1));
        let beat = |ms| rig.board.set(GlobalCount::MonitorBeat, ms);
        // Later than any time at which this test may look.
        beat(u64::MAX >> 8);
        assert_eq!(letters(address, 2).await, "ab");
        beat(monotonic_ms().saturating_sub(1_001));
        assert!(resets(address).await);
        assert_eq!(letters(other, 1).await, "o");
        rig.set_gate(0, GateState::Panic);
        assert!(resets(address).await);
        assert_eq!(rig.of_service(0, ServiceCount::Closed), 2);
        beat(u64::MAX >> 8);
        assert_eq!(letters(address, 2).await, "ab");
    });
}

#[test]
fn backups_are_used_only_while_nobody_else_can_be() {
    run(async {
        let service = ab()
            .await
            .backend(2, backend(b'x').await)
            .backup()
            .backend(3, backend(b'y').await)
            .backup();
        let mut rig = Rig::serving(&[service]).await;
        let address = rig.listener(0);
        assert_eq!(letters(address, 3).await, "aba");
        rig.set_health(0, HealthState::Down);
        rig.set_health(1, HealthState::Starting);
        // A backup comes after one of which nothing is known.
        assert_eq!(letters(address, 2).await, "bb");
        rig.set_health(1, HealthState::Down);
        assert_eq!(letters(address, 3).await, "xyx");
        rig.set_health(2, HealthState::Starting);
        assert_eq!(letters(address, 2).await, "yy");
        rig.set_health(3, HealthState::Down);
        assert_eq!(letters(address, 2).await, "xx");
        rig.set_gate(0, GateState::Panic);
        assert_eq!(letters(address, 2).await, "ab");
        rig.set_gate(0, GateState::Open);
        rig.set_health(0, HealthState::Up);
        assert_eq!(letters(address, 2).await, "aa");
    });
}

#[test]
fn a_backup_takes_who_could_not_be_connected_to_the_others() {
    run(async {
        let service = Service::new("s", 0)
            .listener(0, any())
            .backend(0, nobody())
            .backend(1, backend(b'x').await)
            .backup();
        let mut rig = Rig::serving(&[service]).await;
        assert_eq!(letters(rig.listener(0), 2).await, "xx");
        assert_eq!(rig.of_backend(0, BackendCount::ConnectFailures), 2);
    });
}

#[test]
fn what_was_never_checked_is_used_as_the_policy_says() {
    run(async {
        for (unchecked, nobody_is_up, one_is_up) in [
            (Unchecked::IfNoneUp, Some("abc"), "bbb"),
            (Unchecked::Never, None, "bbb"),
            (Unchecked::Always, Some("abc"), "abc"),
        ] {
            let mut service = abc().await;
            service.policy.unchecked = unchecked;
            let mut rig = Rig::serving(&[service]).await;
            let address = rig.listener(0);
            for cell in 0..3 {
                rig.set_health(cell, HealthState::Starting);
            }
            match nobody_is_up {
                Some(expected) => assert_eq!(letters(address, 3).await, expected),
                None => assert!(resets(address).await),
            }
            rig.set_health(1, HealthState::Up);
            assert_eq!(letters(address, 3).await, one_is_up, "{unchecked:?}");
        }
    });
}

#[test]
fn who_says_drain_or_maint_gets_nothing_new_and_keeps_what_runs() {
    run(async {
        let mut rig = Rig::serving(&[abc().await]).await;
        let address = rig.listener(0);
        let (mut client, letter) = greeted(address).await;
        assert_eq!(letter, 'a');
        rig.set_health(0, HealthState::Drain);
        rig.set_health(1, HealthState::Maint);
        assert_eq!(letters(address, 2).await, "cc");
        echoes(&mut client).await;
    });
}

#[test]
fn endpoints_of_a_backend_take_turns() {
    run(async {
        let (a, b, c) = (
            backend(b'a').await,
            backend(b'b').await,
            backend(b'c').await,
        );
        let service = Service::new("s", 0)
            .listener(0, any())
            .endpoints(0, &[a, b])
            .backend(1, c);
        let mut rig = Rig::serving(&[service]).await;
        assert_eq!(letters(rig.listener(0), 6).await, "acbcac");
        assert_eq!(rig.of_backend(0, BackendCount::Connections), 3);
    });
}

#[test]
fn another_endpoint_is_tried_before_another_backend_and_all_are_one_attempt() {
    run(async {
        let (a, b) = (backend(b'a').await, backend(b'b').await);
        let mut service = Service::new("s", 0)
            .listener(0, any())
            .endpoints(0, &[nobody(), nobody(), a])
            .endpoints(1, &[nobody(), nobody(), nobody()])
            .backend(2, b);
        service.connect.attempts = 2;
        let mut rig = Rig::serving(&[service]).await;
        let address = rig.listener(0);
        assert_eq!(letters(address, 1).await, "a");
        assert_eq!(rig.of_service(0, ServiceCount::Retries), 0);
        assert_eq!(rig.of_backend(0, BackendCount::ConnectFailures), 0);
        assert_eq!(letters(address, 1).await, "b");
        assert_eq!(rig.of_service(0, ServiceCount::Retries), 1);
        assert_eq!(rig.of_backend(1, BackendCount::ConnectFailures), 1);
        eventually(|| rig.is_balanced()).await;
    });
}

#[test]
fn a_backend_without_an_address_waits_for_one() {
    run(async {
        let b = backend(b'b').await;
        let service = |endpoints: &[SocketAddr]| {
            Service::new("s", 0)
                .listener(0, any())
                .endpoints(0, endpoints)
        };
        let mut rig = Rig::serving(&[service(&[])]).await;
        let address = rig.listener(0);
        assert!(resets(address).await);
        assert_eq!(rig.of_service(0, ServiceCount::NoBackend), 1);
        rig.set_gate(0, GateState::Panic);
        assert!(resets(address).await);
        assert_eq!(rig.reload(&[service(&[b])]).await, []);
        assert_eq!(letters(address, 2).await, "bb");
    });
}

#[test]
fn the_share_of_a_backend_that_came_up_grows_and_turns_are_exact_afterwards() {
    const WHOLE_MS: u64 = 60_000;
    run(async {
        for scheduler in [Scheduler::Rr, Scheduler::Wrr] {
            let mut service = ab().await;
            service.scheduler = scheduler;
            service.policy.slow_start = Duration::from_millis(WHOLE_MS);
            let mut rig = Rig::serving(&[service]).await;
            let address = rig.listener(0);
            let age = |age_ms| {
                let since_ms = monotonic_ms().saturating_sub(age_ms);
                rig.set_verdict(1, HealthState::Up, since_ms);
            };
            let mut last = 0;
            // Of 200 turns one with the share s of another gets 200 s / (1 + s).
            for (age_ms, expected) in [(0, 8..29), (WHOLE_MS / 2, 55..86)] {
                age(age_ms);
                let seen = letters(address, 200).await;
                let count = seen.chars().filter(|&letter| letter == 'b').count();
                assert!(expected.contains(&count) && count > last, "{count}");
                last = count;
            }
            age(WHOLE_MS);
            let seen = letters(address, 20).await;
            assert!(seen == "ab".repeat(10) || seen == "ba".repeat(10), "{seen}");
            // Nobody else is there: then it takes all.
            age(0);
            rig.set_health(0, HealthState::Down);
            assert_eq!(letters(address, 20).await, "b".repeat(20));
        }
    });
}

#[test]
fn weights_of_an_operator_are_exact_from_the_next_epoch_on() {
    run(async {
        let mut service = ab().await;
        service.scheduler = Scheduler::Wrr;
        for backend in &mut service.backends {
            backend.weight = 10;
        }
        let mut rig = Rig::serving(&[service]).await;
        let address = rig.listener(0);
        assert_eq!(letters(address, 4).await, "abab");
        let say = |cell, weight| {
            let (state, weight) = (AdminState::Enabled, Some(weight));
            let cells = rig.board.backend(BackendCell(cell));
            cells.set_admin(Admin { state, weight });
        };
        // Under the plan's weights alone, 3 and 1 would be below their divisor.
        say(0, 3);
        say(1, 1);
        rig.board.service(ServiceCell(0)).raise_epoch();
        // The pass that was under way ends with the old threshold.
        letters(address, 4).await;
        for _ in 0..3 {
            let seen = letters(address, 4).await;
            assert_eq!(seen.chars().filter(|&letter| letter == 'a').count(), 3);
        }
    });
}

#[test]
fn half_of_its_weight_is_what_an_agent_gets_that_asks_for_it_even_of_one() {
    run(async {
        let mut service = ab().await;
        service.scheduler = Scheduler::Wrr;
        for backend in &mut service.backends {
            backend.check = Some(CheckKind::Agent { send: None });
        }
        let mut rig = Rig::serving(&[service]).await;
        let address = rig.listener(0);
        for cell in [0, 1] {
            rig.set_health(cell, HealthState::Up);
        }
        assert_eq!(letters(address, 4).await, "abab");
        let ask = |percent| {
            rig.board.backend(BackendCell(1)).set_agent_percent(percent);
            rig.board.service(ServiceCell(0)).raise_epoch();
        };
        ask(Some(50));
        // The pass that was under way ends with the old threshold.
        letters(address, 3).await;
        for _ in 0..3 {
            let seen = letters(address, 6).await;
            assert_eq!(seen.chars().filter(|&letter| letter == 'b').count(), 2);
        }
        ask(Some(0));
        assert_eq!(letters(address, 4).await, "aaaa");
        ask(None);
        letters(address, 4).await;
        let seen = letters(address, 4).await;
        assert_eq!(seen.chars().filter(|&letter| letter == 'b').count(), 2);
    });
}

async fn resetting() -> Service {
    let mut service = ab().await;
    service.policy.on_down = OnDown::Reset;
    service
}

#[test]
fn the_doorbell_resets_the_connections_of_a_backend_that_went_down() {
    run(async {
        let keeping = Service::new("keeping", 1)
            .listener(1, any())
            .backend(2, backend(b'k').await);
        let mut rig = Rig::serving(&[resetting().await, keeping]).await;
        let address = rig.listener(0);
        let (mut a, _) = greeted(address).await;
        let (mut b, _) = greeted(address).await;
        let (mut k, _) = greeted(rig.listener(1)).await;
        // Nobody is down.
        rig.ring();
        tokio::task::yield_now().await;
        echoes(&mut a).await;
        rig.set_health(0, HealthState::Down);
        rig.set_health(2, HealthState::Down);
        rig.ring();
        rig.ring();
        assert!(is_reset(&mut a).await);
        echoes(&mut b).await;
        echoes(&mut k).await;
        assert_eq!(rig.of_service(0, ServiceCount::DownReset), 1);
        assert_eq!(rig.of_backend(0, BackendCount::Active), 0);
        // Up and down again, and who says of itself that it goes.
        rig.set_health(0, HealthState::Up);
        let (mut a, letter) = greeted(address).await;
        assert_eq!(letter, 'a');
        rig.set_health(0, HealthState::Maint);
        rig.ring();
        tokio::task::yield_now().await;
        echoes(&mut a).await;
        rig.set_verdict(0, HealthState::Down, 2);
        rig.ring();
        assert!(is_reset(&mut a).await);
        drop((b, k));
        eventually(|| rig.is_balanced()).await;
        assert_eq!(rig.of_service(0, ServiceCount::DownReset), 2);
        assert_eq!(rig.of_service(0, ServiceCount::Relayed), 1);
        assert_eq!(rig.of_service(0, ServiceCount::DrainCut), 0);
    });
}

#[test]
fn who_was_picked_in_a_panic_is_not_reset_for_what_was_known() {
    run(async {
        let mut rig = Rig::serving(&[resetting().await]).await;
        let address = rig.listener(0);
        for cell in [0, 1] {
            rig.set_verdict(cell, HealthState::Down, 7);
        }
        rig.set_gate(0, GateState::Panic);
        let (mut a, _) = greeted(address).await;
        let (mut b, _) = greeted(address).await;
        rig.ring();
        tokio::task::yield_now().await;
        echoes(&mut a).await;
        echoes(&mut b).await;
        rig.set_health(1, HealthState::Up);
        rig.set_verdict(1, HealthState::Down, 9);
        rig.ring();
        assert!(is_reset(&mut b).await);
        echoes(&mut a).await;
    });
}

#[test]
fn what_happens_on_down_is_what_the_plan_in_force_says() {
    run(async {
        let mut service = resetting().await;
        service.policy.on_down = OnDown::Keep;
        let mut rig = Rig::serving(std::slice::from_ref(&service)).await;
        let (mut a, _) = greeted(rig.listener(0)).await;
        rig.set_health(0, HealthState::Down);
        rig.ring();
        tokio::task::yield_now().await;
        echoes(&mut a).await;
        service.policy.on_down = OnDown::Reset;
        rig.reload(&[service]).await;
        rig.ring();
        assert!(is_reset(&mut a).await);
        eventually(|| rig.is_balanced()).await;
    });
}

#[test]
fn a_backend_that_goes_down_while_it_is_connected_is_passed_over() {
    run(async {
        // Its queue is full, so that its answer can be held back.
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let listener = listener.unwrap();
        listener.bind(&any().into()).unwrap();
        listener.listen(0).unwrap();
        let slow = listener.local_addr().unwrap().as_socket().unwrap();
        let _first = StdStream::connect(slow).unwrap();
        let mut service = Service::new("s", 0)
            .listener(0, any())
            .backend(0, slow)
            .backend(1, backend(b'b').await);
        service.policy.on_down = OnDown::Reset;
        let mut rig = Rig::serving(&[service]).await;
        let address = rig.listener(0);
        let client = tokio::task::spawn_local(async move { greeted(address).await });
        eventually(|| rig.of_backend(0, BackendCount::Active) == 1).await;
        rig.set_health(0, HealthState::Down);
        rig.ring();
        tokio::task::yield_now().await;
        // There is room in its queue now: the handshake is answered when it is tried again.
        drop(listener.accept().unwrap());
        let (mut client, letter) = client.await.unwrap();
        assert_eq!(letter, 'b');
        echoes(&mut client).await;
        drop(client);
        eventually(|| rig.is_balanced()).await;
        assert_eq!(rig.of_service(0, ServiceCount::Relayed), 1);
        assert_eq!(rig.of_backend(0, BackendCount::ConnectFailures), 0);
    });
}
