//! What happens to connections under one plan.

use std::time::Duration;

use evenkeel_balance::State;
use evenkeel_plan::{BackendCell, Scheduler, ServiceCell};
use evenkeel_scoreboard::{
    Admin, AdminState, BackendCount, HealthState, ServiceCount, WorkerCount,
};
use evenkeel_sys::stream::reset_on_close;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::rig::{
    Rig, Service, abc, any, backend, echoes, eventually, greeted, is_reset, letters, nobody, run,
    silent,
};

#[test]
fn turns_are_exact_and_the_books_balance() {
    run(async {
        let mut rig = Rig::serving(&[abc().await]).await;
        let address = rig.listener(0);
        assert_eq!(letters(address, 7).await, "abcabca");
        let (mut client, letter) = greeted(address).await;
        assert_eq!(letter, 'b');
        echoes(&mut client).await;
        assert_eq!(rig.of_backend(1, BackendCount::Active), 1);
        client.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
        eventually(|| rig.is_balanced()).await;
        assert_eq!(rig.of_service(0, ServiceCount::Relayed), 8);
        assert_eq!(rig.of_backend(1, BackendCount::Connections), 3);
        assert_eq!(rig.of_service(0, ServiceCount::BytesReceived), 5);
        assert_eq!(rig.of_service(0, ServiceCount::BytesSent), 8 + 5);
        assert_eq!(rig.of_backend(1, BackendCount::BytesSent), 5);
        assert_eq!(rig.of_backend(1, BackendCount::BytesReceived), 3 + 5);
    });
}

#[test]
fn weights_are_honoured_and_an_operators_word_comes_before_them() {
    run(async {
        let mut service = abc().await;
        service.scheduler = Scheduler::Wrr;
        service.backends[0].weight = 2;
        service.backends[1].weight = 0;
        let mut rig = Rig::serving(&[service]).await;
        let address = rig.listener(0);
        let seen = letters(address, 9).await;
        let count = |letter| seen.chars().filter(|&c| c == letter).count();
        assert_eq!((count('a'), count('b'), count('c')), (6, 0, 3));
        let admin = |state, weight| Admin { state, weight };
        let cells = |cell| rig.board.backend(BackendCell(cell));
        cells(0).set_admin(admin(AdminState::Drain, None));
        cells(1).set_admin(admin(AdminState::Enabled, Some(1)));
        cells(2).set_admin(admin(AdminState::Disabled, None));
        assert_eq!(letters(address, 3).await, "bbb");
    });
}

#[test]
fn a_backend_that_refuses_is_passed_over_for_the_same_client() {
    run(async {
        let service = Service::new("retry", 0)
            .listener(0, any())
            .backend(0, nobody())
            .backend(1, backend(b'b').await)
            .backend(2, nobody());
        let mut rig = Rig::serving(&[service]).await;
        let address = rig.listener(0);
        assert_eq!(letters(address, 4).await, "bbbb");
        eventually(|| rig.is_balanced()).await;
        assert_eq!(rig.of_service(0, ServiceCount::Relayed), 4);
        let failures = [0, 1, 2].map(|cell| rig.of_backend(cell, BackendCount::ConnectFailures));
        assert_eq!(failures[1], 0);
        assert_eq!(
            failures.iter().sum::<u64>(),
            rig.of_service(0, ServiceCount::Retries)
        );
    });
}

#[test]
fn no_more_backends_are_tried_than_the_plan_says() {
    run(async {
        let mut service = Service::new("retry", 0).listener(0, any());
        for cell in 0..5 {
            service = service.backend(cell, nobody());
        }
        let mut rig = Rig::serving(&[service]).await;
        let address = rig.listener(0);
        let mut client = TcpStream::connect(address).await.unwrap();
        assert!(is_reset(&mut client).await);
        assert!(rig.is_balanced());
        assert_eq!(rig.of_service(0, ServiceCount::ConnectFailed), 1);
        assert_eq!(rig.of_service(0, ServiceCount::Retries), 2);
    });
}

#[test]
fn without_an_eligible_backend_the_client_is_reset_at_once() {
    run(async {
        let mut rig = Rig::serving(&[abc().await]).await;
        let address = rig.listener(0);
        for cell in 0..3 {
            rig.set_health(cell, HealthState::Down);
        }
        let mut client = TcpStream::connect(address).await.unwrap();
        assert!(is_reset(&mut client).await);
        // It was counted before the client saw it.
        assert!(rig.is_balanced());
        assert_eq!(rig.of_service(0, ServiceCount::NoBackend), 1);
        rig.set_health(1, HealthState::Up);
        assert_eq!(letters(address, 2).await, "bb");
    });
}

#[test]
fn a_backend_of_which_nothing_is_known_is_used_only_when_nothing_is_known_to_be_up() {
    run(async {
        let mut rig = Rig::serving(&[abc().await]).await;
        let address = rig.listener(0);
        for cell in 0..3 {
            rig.set_health(cell, HealthState::Starting);
        }
        assert_eq!(letters(address, 3).await, "abc");
        rig.set_health(2, HealthState::Up);
        assert_eq!(letters(address, 3).await, "ccc");
    });
}

#[test]
fn a_client_that_resets_while_a_backend_is_awaited_is_given_up() {
    run(async {
        let (silent, _full) = silent();
        let service = Service::new("silent", 0)
            .listener(0, any())
            .backend(0, silent);
        let mut rig = Rig::serving(&[service]).await;
        let mut client = TcpStream::connect(rig.listener(0)).await.unwrap();
        client.shutdown().await.unwrap();
        eventually(|| rig.of_backend(0, BackendCount::Active) == 1).await;
        // The end of its direction is no reason.
        tokio::task::yield_now().await;
        assert_eq!(rig.of_service(0, ServiceCount::ClientGone), 0);
        reset_on_close(&client).unwrap();
        drop(client);
        eventually(|| rig.is_balanced()).await;
        assert_eq!(rig.of_service(0, ServiceCount::ClientGone), 1);
        assert_eq!(rig.of_backend(0, BackendCount::ConnectFailures), 0);
    });
}

#[test]
fn a_backend_that_does_not_answer_in_time_is_passed_over() {
    run(async {
        let (silent, _full) = silent();
        let mut service = Service::new("silent", 0)
            .listener(0, any())
            .backend(0, silent)
            .backend(1, backend(b'b').await);
        service.connect.timeout = Duration::from_millis(50);
        let mut rig = Rig::serving(&[service]).await;
        let address = rig.listener(0);
        assert_eq!(greeted(address).await.1, 'b');
        assert_eq!(rig.of_backend(0, BackendCount::ConnectFailures), 1);
    });
}

#[test]
fn resets_are_passed_on_and_counted() {
    run(async {
        let mut rig = Rig::serving(&[abc().await]).await;
        let (client, _) = greeted(rig.listener(0)).await;
        reset_on_close(&client).unwrap();
        drop(client);
        eventually(|| rig.is_balanced()).await;
        assert_eq!(rig.of_service(0, ServiceCount::ClientResets), 1);
        assert_eq!(rig.of_service(0, ServiceCount::Relayed), 1);
        assert_eq!(rig.of_backend(0, BackendCount::Resets), 0);
    });
}

#[test]
fn a_state_of_another_generation_is_neither_misread_nor_overwritten() {
    run(async {
        let service = abc().await.list_generation(5);
        let mut rig = Rig::serving(&[service]).await;
        let address = rig.listener(0);
        let state = |tag, position| {
            let threshold = 0;
            let state = State {
                tag,
                threshold,
                position,
            };
            state.to_bits()
        };
        // Newer: somebody else's list. Picks go on from a position of this worker alone.
        rig.board.set_scheduler(ServiceCell(0), state(6, 2));
        assert_eq!(letters(address, 4).await, "abca");
        assert_eq!(rig.board.scheduler(ServiceCell(0)).load(), state(6, 2));
        // Older: nobody has carried it over.
        rig.board.set_scheduler(ServiceCell(0), state(4, 2));
        assert_eq!(letters(address, 4).await, "abca");
        assert_eq!(rig.board.scheduler(ServiceCell(0)).load(), state(5, 1));
    });
}

#[test]
fn the_event_loop_beats_and_says_what_it_holds() {
    run(async {
        let mut rig = Rig::serving(&[abc().await]).await;
        let slot = rig.board.slot(crate::rig::SLOT);
        let first = slot.last_beat();
        eventually(|| slot.last_beat() > first).await;
        let (mut client, _) = greeted(rig.listener(0)).await;
        assert_eq!(rig.of_worker(WorkerCount::Active), 1);
        echoes(&mut client).await;
        assert_eq!(rig.of_worker(WorkerCount::BufferBytes), 0);
    });
}
