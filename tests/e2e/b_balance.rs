//! Round robin is exact over all workers, whichever of them took a connection.

use std::sync::Barrier;

use evenkeel_testkit::{Backend, Config, Mode, Service, one_shot};

use crate::{assert_balanced, start, tally};

#[test]
fn two_workers_share_exactly() {
    shares_are_exact(2);
}

#[test]
fn four_workers_share_exactly() {
    shares_are_exact(4);
}

fn shares_are_exact(workers: u16) {
    let backends = Backend::several(&["b1", "b2", "b3", "b4"], Mode::Name);
    let mut service = Service::new("web", &backends);
    // So slow that a check is not missed on a machine that is busy with other tests.
    service.check_interval = "1s".to_owned();
    let daemon = start(&Config::new([service]).workers(workers));
    let address = daemon.address("web");
    let names = tally(address, 400);
    assert_eq!(
        names.values().copied().collect::<Vec<_>>(),
        [100; 4],
        "{names:?}"
    );
    let service = assert_balanced(&daemon, "web");
    let taken = service
        .accepted_by_slot
        .values()
        .filter(|count| **count > 0);
    assert_eq!(
        taken.count(),
        usize::from(workers),
        "every worker takes part: {service:?}"
    );
    assert_eq!(service.retries, 0);
}

#[test]
fn the_share_of_one_that_is_down_falls_evenly_on_the_others() {
    let backends = Backend::several(&["b1", "b2", "b3", "b4"], Mode::Name);
    let daemon = start(&Config::new([Service::new("web", &backends)]));
    backends[1].stop();
    daemon.wait_status("b2 is down", |status| {
        status.services[0].backends[1].state == "down"
    });
    let names = tally(daemon.address("web"), 400);
    let mut shares: Vec<_> = names.values().copied().collect();
    shares.sort_unstable();
    assert_eq!(shares, [133, 133, 134], "{names:?}");
}

#[test]
fn weights_are_exact() {
    let backends = Backend::several(&["b1", "b2"], Mode::Name);
    let mut service = Service::new("web", &backends).unchecked();
    service.scheduler = "wrr".to_owned();
    service.backends[0].2 = 3;
    let daemon = start(&Config::new([service]));
    let names = tally(daemon.address("web"), 400);
    assert_eq!((names["b1"], names["b2"]), (300, 100));
}

#[test]
fn a_weight_of_zero_gets_nothing() {
    let backends = Backend::several(&["b1", "b2", "b3"], Mode::Name);
    let mut service = Service::new("web", &backends).unchecked();
    service.backends[2].2 = 0;
    let daemon = start(&Config::new([service]));
    let names = tally(daemon.address("web"), 100);
    assert_eq!((names["b1"], names["b2"], names.len()), (50, 50, 2));
}

#[test]
fn clients_that_come_at_once_are_shared_within_one() {
    const CLIENTS: usize = 64;
    let backends = Backend::several(&["b1", "b2", "b3", "b4"], Mode::Name);
    let daemon = start(&Config::new([Service::new("web", &backends).unchecked()]).workers(4));
    let address = daemon.address("web");
    let barrier = Barrier::new(CLIENTS);
    let names: Vec<_> = std::thread::scope(|scope| {
        let client = || {
            barrier.wait();
            one_shot(address).unwrap()
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .collect()
    });
    for backend in &backends {
        let count = names.iter().filter(|name| *name == backend.name()).count();
        assert!(
            count.abs_diff(CLIENTS / 4) <= 1,
            "{count} for {}",
            backend.name()
        );
    }
}

#[test]
fn the_turn_goes_on_over_a_reload_that_changes_something_else() {
    let backends = Backend::several(&["b1", "b2", "b3"], Mode::Name);
    let mut config = Config::new([Service::new("web", &backends).unchecked()]);
    let daemon = start(&config);
    let address = daemon.address("web");
    let mut order = Vec::new();
    for round in 0..10 {
        order.push(one_shot(address).unwrap());
        order.push(one_shot(address).unwrap());
        config.drain_deadline = format!("{}s", 6 + round);
        daemon.apply(&config);
    }
    for (one, other) in order.iter().zip(&order[3..]) {
        assert_eq!(one, other, "always the same order: {order:?}");
    }
}
