//! The supervisor dies: who serves meanwhile, and how the next one gets the sockets.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_testkit::{
    Backend, Config, Daemon, Load, Mode, Service, ServiceManager, Signal, client, eventually,
    one_shot, proc,
};

use crate::{PROGRAM, SOON, alone, assert_balanced, start};

fn config(backends: &[Backend]) -> Config {
    let mut service = Service::new("web", backends);
    service.check_interval = "1s".to_owned();
    service.fall = 3;
    Config::new([service])
}

fn some_load(load: &Load) {
    let answered = load.answered();
    eventually(SOON, "there is load", || {
        (load.answered() > answered + 100).then_some(())
    });
}

#[test]
fn with_a_descriptor_store_nobody_is_refused() {
    let _alone = alone();
    let backends = Backend::several(&["b1", "b2"], Mode::Name);
    let manager = Arc::new(ServiceManager::new());
    let mut daemon = Daemon::builder(PROGRAM, &config(&backends))
        .managed(&manager)
        .start();
    daemon.wait_backends_up();
    assert!(daemon.status().descriptor_store);
    let address = daemon.address("web");
    let sockets = proc::listening(address);
    assert!(
        manager.stored().len() >= sockets.len(),
        "{:?}",
        manager.stored()
    );
    let load = Load::start(address, 4, Duration::from_millis(2));
    for _ in 0..5 {
        some_load(&load);
        let orphans = daemon.processes();
        daemon.kill_supervisor();
        daemon.start_again();
        daemon.wait_ready();
        assert_eq!(daemon.address("web"), address);
        assert_eq!(
            proc::listening(address),
            sockets,
            "they are the same sockets"
        );
        some_load(&load);
        eventually(SOON, "the orphans are gone", || {
            (!orphans.iter().any(|pid| proc::alive(*pid))).then_some(())
        });
    }
    let report = load.stop();
    assert!(
        report.failures.is_empty(),
        "{:?}",
        report.failures_by_kind()
    );
    assert_balanced(&daemon, "web");
}

#[test]
fn a_connection_outlives_the_supervisor_up_to_the_drain_deadline() {
    let backend = Backend::start("b1", Mode::Greet);
    let manager = Arc::new(ServiceManager::new());
    let mut config = config(std::slice::from_ref(&backend));
    config.drain_deadline = "60s".to_owned();
    let mut daemon = Daemon::builder(PROGRAM, &config).managed(&manager).start();
    daemon.wait_backends_up();
    let mut stream = client::connect(daemon.address("web")).unwrap();
    assert_eq!(client::read_line(&mut stream).as_deref(), Ok("b1"));
    daemon.kill_supervisor();
    daemon.start_again();
    daemon.wait_ready();
    stream.write_all(b"still here\n").unwrap();
    assert_eq!(client::read_line(&mut stream).as_deref(), Ok("still here"));
    drop(stream);
    eventually(SOON, "only the new processes are left", || {
        (daemon.processes().len() == 4).then_some(())
    });
}

#[test]
fn without_a_store_the_workers_serve_on_and_the_next_supervisor_takes_over() {
    let _alone = alone();
    let backends = Backend::several(&["b1", "b2"], Mode::Name);
    let mut daemon = start(&config(&backends));
    let address = daemon.address("web");
    let sockets = proc::listening(address);
    let load = Load::start(address, 4, Duration::from_millis(2));
    for _ in 0..5 {
        some_load(&load);
        let orphans = daemon.processes();
        daemon.kill_supervisor();
        // Long enough that a queue that nobody accepts from would show.
        some_load(&load);
        some_load(&load);
        daemon.start_again();
        daemon.wait_ready();
        assert_eq!(daemon.address("web"), address);
        assert_eq!(
            proc::listening(address),
            sockets,
            "they are the same sockets"
        );
        eventually(SOON, "the orphans are gone", || {
            (!orphans.iter().any(|pid| proc::alive(*pid))).then_some(())
        });
        some_load(&load);
    }
    let report = load.stop();
    assert!(
        report.failures.is_empty(),
        "{:?}",
        report.failures_by_kind()
    );
    assert_balanced(&daemon, "web");
}

#[test]
fn orphans_keep_the_last_verdicts_and_the_monitor() {
    let backends = Backend::several(&["b1", "b2"], Mode::Name);
    let mut service = Service::new("web", &backends);
    service.fall = 1;
    let mut daemon = start(&Config::new([service]));
    let address = daemon.address("web");
    let metrics = daemon.metrics_address();
    daemon.kill_supervisor();
    assert_eq!(one_shot(address).map(|_| ()), Ok(()));
    backends[1].stop();
    eventually(SOON, "the monitor still takes a dead backend out", || {
        let scraped = evenkeel_testkit::prometheus::http(metrics, "/metrics")
            .ok()?
            .1;
        let metrics = evenkeel_testkit::Metrics::parse(&scraped).ok()?;
        let labels = [("backend", "b2"), ("state", "down")];
        let down = metrics.value("evenkeel_backend_state", &labels);
        (down == Some(1.0)).then_some(())
    });
    for _ in 0..10 {
        assert_eq!(one_shot(address).as_deref(), Ok("b1"));
    }
}

#[test]
fn the_service_manager_is_told_what_happens() {
    let backends = Backend::several(&["b1", "b2"], Mode::Name);
    let manager = Arc::new(ServiceManager::new());
    let two = Config::new([
        Service::new("web", &backends),
        Service::new("api", &backends),
    ]);
    let one = Config::new([Service::new("web", &backends)]);
    let mut daemon = Daemon::builder(PROGRAM, &two)
        .managed(&manager)
        .environment("WATCHDOG_USEC", "2000000")
        .start();
    eventually(SOON, "READY=1", || {
        (manager.count("READY", "1") == 1).then_some(())
    });
    eventually(SOON, "WATCHDOG=1 comes", || {
        (manager.count("WATCHDOG", "1") >= 2).then_some(())
    });
    let stored = manager.stored();
    assert_eq!(
        stored
            .iter()
            .filter(|name| !name.contains("metrics"))
            .count(),
        4,
        "two workers, two services: {stored:?}"
    );

    daemon.apply(&one);
    eventually(SOON, "RELOADING=1 with its time, then READY=1", || {
        let notices = manager.notices();
        let at = notices
            .iter()
            .position(|notice| notice.get("RELOADING").is_some_and(|v| v == "1"))?;
        assert!(
            notices[at].contains_key("MONOTONIC_USEC"),
            "{:?}",
            notices[at]
        );
        let mut later = notices[at..].iter();
        later
            .any(|notice| notice.get("READY").is_some_and(|v| v == "1"))
            .then_some(())
    });
    eventually(
        SOON,
        "the sockets of the service that went are taken out",
        || {
            let stored = manager.stored();
            (stored
                .iter()
                .filter(|name| !name.contains("metrics"))
                .count()
                == 2)
                .then_some(())
        },
    );
    daemon.signal(Signal::TERM);
    eventually(SOON, "STOPPING=1", || {
        (manager.count("STOPPING", "1") == 1).then_some(())
    });
    assert_eq!(daemon.wait_end(Duration::from_secs(20)).code(), Some(0));
}
