//! It starts, serves, says what it does, and ends.

use std::time::Duration;

use evenkeel_testkit::{
    Backend, Config, Daemon, Mode, Service, Signal, eventually, one_shot, proc,
};

use crate::{PROGRAM, SOON, assert_balanced, start, tally};

#[test]
fn it_serves_and_stops_and_leaves_nothing() {
    let backends = Backend::several(&["b1", "b2"], Mode::Name);
    let mut daemon = start(&Config::new([Service::new("web", &backends)]));
    let address = daemon.address("web");
    let names = tally(address, 10);
    assert_eq!(names["b1"] + names["b2"], 10);

    let processes = daemon.processes();
    assert_eq!(processes.len(), 4, "supervisor, monitor, two workers");
    let ended = daemon.stop();
    assert_eq!(ended.code(), Some(0), "{ended}");
    eventually(SOON, "every process is gone", || {
        (!processes.iter().any(|pid| proc::alive(*pid))).then_some(())
    });
    assert!(one_shot(address).is_err());
}

#[test]
fn an_interrupt_ends_it_as_sigterm_does() {
    let backend = Backend::start("b1", Mode::Name);
    let mut daemon = start(&Config::new([Service::new("web", [&backend])]));
    daemon.signal(Signal::INT);
    let ended = daemon.wait_end(SOON);
    assert_eq!(ended.code(), Some(0), "{ended}");
    assert!(daemon.processes().is_empty());
}

#[test]
fn status_says_what_runs() {
    let backends = Backend::several(&["b1", "b2"], Mode::Name);
    let daemon = start(&Config::new([Service::new("web", &backends)]).workers(3));
    tally(daemon.address("web"), 6);
    assert_balanced(&daemon, "web");
    let status = daemon.status();
    assert_eq!(status.pid, daemon.pid());
    assert_eq!(status.phase, "running");
    assert_eq!(status.config, daemon.config_path().display().to_string());
    assert_eq!(status.workers.len(), 3);
    assert_eq!(status.monitor.state, "live");
    assert!(!status.descriptor_store);
    for (slot, worker) in (0_u16..).zip(&status.workers) {
        assert_eq!(
            (worker.slot, worker.incarnation, worker.crashes),
            (slot, 1, 0)
        );
        assert_eq!(worker.generation, status.generation);
        assert!(proc::alive(worker.pid));
    }
    let service = daemon.service("web");
    assert_eq!(service.scheduler, "rr");
    assert!(service.serving);
    assert_eq!((service.accepted, service.relayed), (6, 6));
    assert_eq!(
        service.bytes_sent,
        6 * 3,
        "six names of two bytes and a line feed"
    );
    for backend in &service.backends {
        assert_eq!(backend.state, "up");
        assert_eq!(backend.connections, 3);
        assert!(backend.checked_unix > 0 && backend.since_unix > 0);
    }
}

#[test]
fn metrics_and_pages_are_served() {
    let backends = Backend::several(&["b1", "b2"], Mode::Name);
    let daemon = start(&Config::new([Service::new("web", &backends)]));
    tally(daemon.address("web"), 10);
    assert_eq!(daemon.http("/ready").0, 200);
    assert_eq!(daemon.http("/no-such-page").0, 404);
    let metrics = daemon.metrics();
    assert!(metrics.families.len() >= 10, "{:?}", metrics.families);
    assert!(
        metrics
            .families
            .keys()
            .all(|name| name.starts_with("evenkeel_"))
    );
    for (name, kind) in &metrics.families {
        assert_eq!(
            kind == "counter",
            name.ends_with("_total"),
            "{name} is a {kind}"
        );
    }
    let service = metrics
        .series
        .keys()
        .filter(|series| series.contains("service=\"web\""));
    assert!(service.count() > 5, "{:?}", metrics.series);
    let backend = metrics
        .series
        .keys()
        .filter(|series| series.contains("backend=\"b1\""));
    assert!(backend.count() > 2, "{:?}", metrics.series);
}

#[test]
fn wrong_arguments_and_wrong_configuration_have_their_codes() {
    let backend = Backend::start("b1", Mode::Name);
    let daemon = start(&Config::new([Service::new("web", [&backend])]));
    assert_eq!(
        daemon.run(&["run", "--no-such-flag"]).status.code(),
        Some(2)
    );
    assert_eq!(daemon.run(&["no-such-command"]).status.code(), Some(2));
    assert_eq!(daemon.run(&["--version"]).status.code(), Some(0));
    let config = daemon.config_path().display().to_string();
    assert_eq!(daemon.run(&["check", &config]).status.code(), Some(0));
    let missing = daemon.run(&["run", "--config", "missing.toml", "--runtime-dir", "other"]);
    assert_eq!(missing.status.code(), Some(3));
    let output = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(output.contains("missing.toml"), "{output}");
}

#[test]
fn a_second_instance_is_turned_away_and_harms_nobody() {
    let backend = Backend::start("b1", Mode::Name);
    let daemon = start(&Config::new([Service::new("web", [&backend])]));
    let address = daemon.address("web");
    let sockets = proc::listening(address);
    let output = daemon.second().output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(7), "{text}");
    assert_eq!(proc::listening(address), sockets);
    assert_eq!(tally(address, 20)["b1"], 20);
}

#[test]
fn an_address_that_is_taken_is_a_failed_start() {
    let taken = Backend::start("taken", Mode::Name);
    let backend = Backend::start("b1", Mode::Name);
    let mut service = Service::new("web", [&backend]);
    service.listen = vec![taken.address().to_string()];
    let mut daemon = Daemon::builder(PROGRAM, &Config::new([service])).launch();
    let ended = daemon.wait_end(Duration::from_secs(20));
    assert_eq!(ended.code(), Some(1), "{}", daemon.log());
    assert!(
        daemon.log().contains(&taken.address().to_string()),
        "{}",
        daemon.log()
    );
    eventually(SOON, "no child is left", || {
        daemon.processes().is_empty().then_some(())
    });
}
