//! Who may receive new connections, and who says so.

use std::time::{Duration, Instant};

use evenkeel_testkit::{
    Backend, Config, Failure, Mode, Service, Signal, client, eventually, one_shot, proc, throughout,
};

use crate::{SOON, assert_balanced, start, tally};

#[test]
fn a_backend_that_dies_goes_down_and_comes_back_and_no_client_sees_it() {
    let backends = Backend::several(&["b1", "b2"], Mode::Name);
    let daemon = start(&Config::new([Service::new("web", &backends)]));
    let address = daemon.address("web");
    backends[1].kill();
    // Before it is known to be down, connects to it fail and go elsewhere.
    assert_eq!(tally(address, 20)["b1"], 20);
    let status = daemon.wait_status("b2 is down, and it is said why", |status| {
        let b2 = &status.services[0].backends[1];
        b2.state == "down" && !b2.reason.is_empty()
    });
    let down = &status.services[0].backends[1];
    assert!(down.answer.contains("refused"), "{down:?}");
    assert!(down.reason.contains("failed in a row"), "{down:?}");
    assert_eq!(daemon.backend("web", "b1").state, "up");
    let metrics = daemon.metrics();
    let is = |state| {
        let labels = [("backend", "b2"), ("state", state)];
        metrics.value("evenkeel_backend_state", &labels)
    };
    assert_eq!((is("down"), is("up")), (Some(1.0), Some(0.0)));

    backends[1].resume();
    daemon.wait_backends_up();
    let names = tally(address, 20);
    assert_eq!((names["b1"], names["b2"]), (10, 10));
    assert_balanced(&daemon, "web");
}

#[test]
fn one_failed_check_is_not_enough() {
    let backends = Backend::several(&["b1", "b2"], Mode::Name);
    let mut service = Service::new("web", &backends);
    service.fall = 1_000;
    let daemon = start(&Config::new([service]));
    backends[1].stop();
    let checked = daemon.wait_status("b2 was seen refusing", |status| {
        status.services[0].backends[1].answer.contains("refused")
    });
    assert_eq!(checked.services[0].backends[1].state, "up");
    throughout(Duration::from_millis(300), "b2 is up", || {
        daemon.backend("web", "b2").state == "up"
    });
}

#[test]
fn with_nobody_eligible_a_client_is_reset_at_once() {
    let backends = Backend::several(&["b1", "b2"], Mode::Name);
    let daemon = start(&Config::new([Service::new("web", &backends)]));
    let address = daemon.address("web");
    backends.iter().for_each(Backend::stop);
    daemon.wait_status("nobody is eligible", |status| !status.services[0].serving);
    let begun = Instant::now();
    for _ in 0..10 {
        assert_eq!(one_shot(address), Err(Failure::ResetBeforeFirstByte));
    }
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    let service = assert_balanced(&daemon, "web");
    assert_eq!(service.failed["no_backend"], 10, "{service:?}");
    backends[0].resume();
    daemon.wait_status("one is eligible", |status| status.services[0].serving);
    assert_eq!(tally(address, 5)["b1"], 5);
}

#[test]
fn an_unchecked_backend_counts_as_up() {
    let backend = Backend::start("b1", Mode::Name);
    let daemon = start(&Config::new([Service::new("web", [&backend]).unchecked()]));
    assert_eq!(daemon.backend("web", "b1").state, "unchecked");
    assert_eq!(tally(daemon.address("web"), 5)["b1"], 5);
    assert_eq!(backend.accepted(), 5, "no check was made");
}

#[test]
fn verdicts_stay_when_the_monitor_dies() {
    let backends = Backend::several(&["b1", "b2"], Mode::Name);
    let daemon = start(&Config::new([Service::new("web", &backends)]));
    let address = daemon.address("web");
    backends[1].stop();
    daemon.wait_status("b2 is down", |status| {
        status.services[0].backends[1].state == "down"
    });
    let states = || {
        let backends = daemon.service("web").backends;
        [backends[0].state.clone(), backends[1].state.clone()]
    };
    for incarnation in 2..5 {
        assert!(proc::signal(daemon.monitor(), Signal::KILL));
        throughout(Duration::from_millis(300), "the verdicts stay", || {
            states() == ["up", "down"] && one_shot(address).as_deref() == Ok("b1")
        });
        daemon.wait_status("the next monitor is live", |status| {
            status.monitor.incarnation >= incarnation && status.monitor.state == "live"
        });
        assert_eq!(states(), ["up", "down"]);
    }
    // And the next one still looks.
    backends[1].resume();
    daemon.wait_backends_up();
}

#[test]
fn a_hung_worker_is_steered_around_and_left_alone_when_it_goes_on() {
    let backend = Backend::start("b1", Mode::Greet);
    let mut config = Config::new([Service::new("web", [&backend])]);
    config.steer_after = "300ms".to_owned();
    config.kill_after = "60s".to_owned();
    let daemon = start(&config);
    let address = daemon.address("web");
    // Connections that the worker holds while it is stopped.
    let mut held: Vec<_> = (0..8).map(|_| client::connect(address).unwrap()).collect();
    for stream in &mut held {
        assert_eq!(client::read_line(stream).as_deref(), Ok("b1"));
    }
    let worker = daemon.workers()[0];
    assert!(proc::signal(worker, Signal::STOP));
    let begun = Instant::now();
    daemon.wait_status("the worker is late", |status| {
        status.workers[0].state == "late"
    });
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    for number in 0..40 {
        let begun = Instant::now();
        let mut stream = client::connect(address).unwrap();
        assert_eq!(client::read_line(&mut stream).as_deref(), Ok("b1"));
        let took = begun.elapsed();
        assert!(
            took < Duration::from_secs(2),
            "connection {number} waited for {took:?}"
        );
    }
    assert!(proc::signal(worker, Signal::CONT));
    daemon.wait_status("the worker is live", |status| {
        status.workers[0].state == "live"
    });
    assert_eq!(daemon.workers()[0], worker, "it was not killed");
    for stream in &mut held {
        std::io::Write::write_all(stream, b"still here\n").unwrap();
        assert_eq!(client::read_line(stream).as_deref(), Ok("still here"));
    }
    let before = daemon.status().workers[0].accepted;
    eventually(SOON, "the worker takes connections again", || {
        drop(client::connect(address));
        (daemon.status().workers[0].accepted > before).then_some(())
    });
    drop(held);
    assert_balanced(&daemon, "web");
}

#[test]
fn a_hung_worker_is_killed_and_started_again() {
    let backend = Backend::start("b1", Mode::Name);
    let mut config = Config::new([Service::new("web", [&backend])]);
    config.steer_after = "200ms".to_owned();
    config.kill_after = "600ms".to_owned();
    let daemon = start(&config);
    let worker = daemon.workers()[0];
    assert!(proc::signal(worker, Signal::STOP));
    let status = daemon.wait_status("another worker is live in its slot", |status| {
        let first = &status.workers[0];
        first.incarnation == 2 && first.state == "live"
    });
    assert_eq!(status.workers[0].crashes, 1);
    assert!(!proc::alive(worker));
    assert_eq!(tally(daemon.address("web"), 20)["b1"], 20);
}
