//! What an operator says of backends, and what the daemon tells an operator.

use std::io::{BufRead as _, BufReader, Write as _};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use evenkeel_control::operator::AdminStatus;
use evenkeel_testkit::{Backend, Config, Daemon, Mode, Service, Signal, client, eventually, proc};

use crate::{SOON, start, tally};

/// Two services of the same four backends, by weight.
fn config(backends: &[Backend]) -> Config {
    let service = |name| {
        let mut service = Service::new(name, backends);
        service.scheduler = "wrr".to_owned();
        service
    };
    Config::new([service("web"), service("api")])
}

fn four() -> Vec<Backend> {
    Backend::several(&["b1", "b2", "b3", "b4"], Mode::Name)
}

fn admin(daemon: &Daemon, service: &str, backend: &str) -> AdminStatus {
    let found = daemon.backend(service, backend);
    found
        .admin
        .clone()
        .unwrap_or_else(|| panic!("nothing was said of {found:?}"))
}

/// Names that answer, each with how often in `count`.
fn shares(daemon: &Daemon, service: &str, count: usize) -> Vec<(String, usize)> {
    tally(daemon.address(service), count).into_iter().collect()
}

fn named(shares: &[(&str, usize)]) -> Vec<(String, usize)> {
    let shares = shares.iter();
    shares
        .map(|(name, count)| ((*name).to_owned(), *count))
        .collect()
}

fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

#[test]
fn what_was_said_outlives_reloads_children_and_the_supervisor() {
    let backends = four();
    let config = config(&backends);
    let mut daemon = start(&config);
    let before = unix_now();
    daemon.tell(&["backend", "drain", "web/b1"]);
    daemon.tell(&["backend", "disable", "web/b2"]);
    daemon.tell(&["backend", "weight", "web/b3", "3"]);
    let after = unix_now();
    let said = ["b1", "b2", "b3"].map(|name| admin(&daemon, "web", name));
    let words = said
        .each_ref()
        .map(|admin| (admin.state.as_str(), admin.weight));
    assert_eq!(
        words,
        [("drain", None), ("disabled", None), ("enabled", Some(3))]
    );
    for admin in &said {
        assert!((before..=after).contains(&admin.at_unix), "{admin:?}");
        assert!(admin.by.contains("pid "), "{admin:?}");
    }
    let holds = |daemon: &Daemon, what: &str| {
        let now = ["b1", "b2", "b3"].map(|name| admin(daemon, "web", name));
        assert_eq!(now, said, "{what}");
        assert_eq!(
            shares(daemon, "web", 40),
            named(&[("b3", 30), ("b4", 10)]),
            "{what}"
        );
        assert_eq!(tally(daemon.address("api"), 8).len(), 4, "{what}");
    };
    holds(&daemon, "at once");

    let mut other = config;
    other.drain_deadline = "6s".to_owned();
    daemon.apply(&other);
    holds(&daemon, "after a reload");

    let monitor = daemon.monitor();
    assert!(proc::signal(monitor, Signal::KILL));
    daemon.wait_status("the next monitor is live", |status| {
        status.monitor.pid != monitor && status.monitor.state == "live"
    });
    holds(&daemon, "after the monitor died");

    for worker in daemon.workers() {
        assert!(proc::signal(worker, Signal::KILL));
        daemon.wait_status("the worker is replaced", |status| {
            let mut workers = status.workers.iter();
            workers.all(|now| now.pid != worker && now.state == "live")
        });
    }
    holds(&daemon, "after the workers died");

    daemon.kill_supervisor();
    daemon.start_again();
    daemon.wait_ready();
    daemon.wait_backends_up();
    holds(&daemon, "after the supervisor died");

    daemon.stop();
    daemon.start_again();
    daemon.wait_ready();
    daemon.wait_backends_up();
    holds(&daemon, "after a stop and a start");

    daemon.tell(&["backend", "enable", "web/b1"]);
    daemon.tell(&["backend", "enable", "web/b2"]);
    daemon.tell(&["backend", "weight", "web/b3", "auto"]);
    assert_eq!(
        tally(daemon.address("web"), 40)
            .into_values()
            .collect::<Vec<_>>(),
        [10; 4]
    );
}

#[test]
fn a_star_stands_for_all_services() {
    let backends = four();
    let daemon = start(&config(&backends));
    let told = daemon.tell(&["backend", "drain", "*/b1"]);
    assert!(told.contains("web/b1") && told.contains("api/b1"), "{told}");
    for service in ["web", "api"] {
        let names = tally(daemon.address(service), 30);
        assert_eq!(names.len(), 3, "{names:?}");
        assert!(!names.contains_key("b1"), "{names:?}");
    }
    daemon.tell(&["backend", "enable", "*/b1"]);
    assert_eq!(tally(daemon.address("api"), 8).len(), 4);
}

#[test]
fn a_weight_changes_shares_exactly() {
    let backends = four();
    let daemon = start(&config(&backends));
    daemon.tell(&["backend", "weight", "web/b1", "5"]);
    daemon.tell(&["backend", "weight", "web/b2", "0"]);
    let found = daemon.backend("web", "b1");
    assert_eq!(found.weight, 1, "the configuration's");
    assert_eq!(found.admin.unwrap().weight, Some(5));
    let shares = shares(&daemon, "web", 70);
    assert_eq!(shares, named(&[("b1", 50), ("b3", 10), ("b4", 10)]));
    assert_eq!(
        tally(daemon.address("api"), 40)["b2"],
        10,
        "the other service's are its own"
    );
}

#[test]
fn a_drained_backend_keeps_what_runs_and_the_command_waits_for_it() {
    let backends = Backend::several(&["b1", "b2"], Mode::Greet);
    let daemon = start(&Config::new([Service::new("web", &backends)]));
    let address = daemon.address("web");
    let mut streams: Vec<_> = (0..2).map(|_| client::connect(address).unwrap()).collect();
    let mut names: Vec<_> = streams
        .iter_mut()
        .map(|s| client::read_line(s).unwrap())
        .collect();
    let mut stream = streams.remove(names.iter().position(|name| name == "b1").unwrap());
    names.sort();
    assert_eq!(names, ["b1", "b2"]);
    let arguments = ["backend", "drain", "web/b1", "--wait", "--timeout", "300ms"];
    let output = daemon.command(&arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    // New ones go elsewhere, and this one is not touched.
    for _ in 0..6 {
        let mut other = client::connect(address).unwrap();
        assert_eq!(client::read_line(&mut other).as_deref(), Ok("b2"));
    }
    stream.write_all(b"still here\n").unwrap();
    assert_eq!(client::read_line(&mut stream).as_deref(), Ok("still here"));
    let arguments = ["backend", "drain", "web/b1", "--wait", "--timeout", "20s"];
    let mut waiting = daemon.command(&arguments).spawn().unwrap();
    eventually(SOON, "it waits", || proc::alive(waiting.id()).then_some(()));
    drop(stream);
    let begun = Instant::now();
    assert!(waiting.wait().unwrap().success());
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn who_is_unknown_is_suggested() {
    let backends = four();
    let daemon = start(&config(&backends));
    let output = daemon
        .command(&["backend", "drain", "web/b11"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("web/b1"), "{error}");
}

#[test]
fn why_and_events_tell_who_did_what() {
    let backends = four();
    let daemon = start(&config(&backends));
    daemon.tell(&["backend", "drain", "web/b1"]);
    daemon.tell(&["backend", "weight", "web/b3", "7"]);
    let why = daemon.tell(&["why", "web/b1"]);
    assert!(why.contains("drain") && why.contains("pid "), "{why}");
    assert!(why.contains("not eligible"), "{why}");
    let events = daemon.tell(&["events"]);
    for part in ["web/b1", "drained", "web/b3", "weight set to 7", "pid "] {
        assert!(events.contains(part), "{part}: {events}");
    }
    backends[3].kill();
    daemon.wait_status("b4 is down", |status| {
        status.services[0].backends[3].state == "down"
    });
    let why = daemon.tell(&["why", "web/b4"]);
    assert!(why.contains("refused"), "{why}");
    let why: serde_json::Value =
        serde_json::from_str(&daemon.tell(&["why", "web/b4", "--json"])).unwrap();
    let checks = why["explanation"]["checks"].as_array().unwrap();
    assert!(checks.len() > 1, "{why}");
}

#[test]
fn events_are_told_as_they_happen() {
    let backends = four();
    let daemon = start(&config(&backends));
    let mut follower = daemon.command(&["events", "--follow"]).spawn().unwrap();
    let lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let (sender, told) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let wait_for = |part: &str| {
        let mut seen = Vec::new();
        eventually(SOON, part, || {
            seen.extend(told.try_iter());
            seen.iter()
                .any(|line: &String| line.contains(part))
                .then_some(())
        });
    };
    // It follows once it has told what was before.
    wait_for("web/b1");
    daemon.tell(&["backend", "drain", "api/b2"]);
    wait_for("api/b2");
    backends[2].stop();
    wait_for("web/b3");
    follower.kill().unwrap();
    follower.wait().unwrap();
    drop(told);
    reader.join().unwrap();
}
