//! The listening sockets belong to slots, which outlive workers.

use std::time::Duration;

use evenkeel_testkit::{Backend, Config, Load, Mode, Scraper, Service, Signal, eventually, proc};

use crate::{
    SOON, alone, assert_balanced, assert_only_rose, descriptors_or_skip, skipped, start, tally,
};

#[test]
fn sockets_stay_when_workers_are_replaced() {
    let backend = Backend::start("b1", Mode::Name);
    let daemon = start(&Config::new([Service::new("web", [&backend])]).workers(3));
    let address = daemon.address("web");
    let sockets = proc::listening(address);
    assert_eq!(sockets.len(), 3, "one a slot");
    assert!(
        sockets.is_subset(&proc::sockets(daemon.pid())),
        "the supervisor holds them"
    );
    for slot in 0..3 {
        let worker = daemon.workers()[slot];
        assert!(proc::signal(worker, Signal::KILL));
        daemon.wait_status("the slot has another worker", |status| {
            let now = &status.workers[slot];
            now.incarnation == 2 && now.state == "live"
        });
        assert_eq!(proc::listening(address), sockets);
    }
    for worker in daemon.workers() {
        if descriptors_or_skip(worker, "whose sockets a worker has").is_none() {
            break;
        }
        let own = proc::sockets(worker);
        assert_eq!(
            own.intersection(&sockets).count(),
            1,
            "each worker has its own slot's"
        );
    }
    assert_eq!(tally(address, 30)["b1"], 30);
}

#[test]
fn fewer_workers_close_the_last_slots_and_more_open_new_ones() {
    let backend = Backend::start("b1", Mode::Name);
    let config = Config::new([Service::new("web", [&backend])]);
    let daemon = start(&config.clone().workers(4));
    let address = daemon.address("web");
    let four = proc::listening(address);
    daemon.apply(&config.clone().workers(1));
    let one = eventually(SOON, "one socket is left", || {
        let sockets = proc::listening(address);
        (sockets.len() == 1).then_some(sockets)
    });
    assert!(
        one.is_subset(&four),
        "the one that is left was there before"
    );
    daemon.wait_status("one worker is left", |status| status.workers.len() == 1);
    let accepted = daemon.service("web").accepted;
    assert_eq!(tally(address, 10)["b1"], 10);
    daemon.apply(&config.workers(4));
    let status = daemon.wait_ready();
    assert_eq!(status.workers.len(), 4);
    let again = proc::listening(address);
    assert_eq!(again.len(), 4);
    assert!(one.is_subset(&again));
    assert_eq!(
        daemon.service("web").accepted,
        accepted + 10,
        "sums go on over slots that went"
    );
}

/// `net.ipv4.tcp_migrate_req` would hide what this looks for: connections in the queue of a socket that is closed.
#[test]
fn twenty_times_from_four_workers_to_one_and_back_resets_nobody() {
    const ROUNDS: usize = 20;
    let migrate = evenkeel_sys::process::sysctl("net/ipv4/tcp_migrate_req");
    if migrate.as_deref().is_some_and(|value| value != "0") {
        let reason =
            format!("net.ipv4.tcp_migrate_req is {migrate:?}, which hides what is looked for");
        skipped("fewer slots under load", &reason);
        return;
    }
    let _alone = alone();
    let backends = Backend::several(&["b1", "b2"], Mode::Name);
    let mut service = Service::new("web", &backends);
    service.check_interval = "1s".to_owned();
    service.fall = 3;
    let mut config = Config::new([service]);
    // On a host with all cores busy the kernel takes packets up late, loopback or not: with 200 ms one handshake in some
    // thousand rounds was still on its way. The default is 5 s.
    config.handshakes = "700ms".to_owned();
    let daemon = start(&config.clone().workers(4));
    let address = daemon.address("web");
    let scraper = Scraper::start(daemon.metrics_address(), Duration::from_millis(100));
    let load = Load::start(address, 8, Duration::from_millis(1));
    for _ in 0..ROUNDS {
        daemon.apply(&config.clone().workers(1));
        daemon.wait_status("one worker is left", |status| status.workers.len() == 1);
        daemon.apply(&config.clone().workers(4));
        daemon.wait_status("there are four again", |status| {
            status.workers.len() == 4 && status.workers.iter().all(|worker| worker.state == "live")
        });
    }
    let report = load.stop();
    assert!(
        report.failures.is_empty(),
        "{:?} {:?}",
        report.failures,
        daemon.service("web")
    );
    assert!(report.answered() > 1_000, "{}", report.answered());
    let service = assert_balanced(&daemon, "web");
    assert_eq!(service.accepted, report.answered(), "{service:?}");
    assert_only_rose(&scraper.stop());
    assert_eq!(proc::listening(address).len(), 4);
}
