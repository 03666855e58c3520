//! Who gets the next connection: the least loaded, whichever worker asks; the same one for the same source; and nobody with
//! a weight of 0.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use evenkeel_testkit::{Backend, Daemon, Mode, client, eventually};

use crate::o_limits::{service, start};
use crate::{SOON, assert_balanced, backend, tally};

const QUICK: &str = "check = { interval = \"100ms\", timeout = \"100ms\", rise = 1, fall = 1 }";

/// The service with a check.
fn checked(lines: &str, backends: &[String]) -> String {
    let text = service("web", &format!("{lines}\n{QUICK}"), backends);
    text.replace("check = \"none\"\n", "")
}

fn with_keys(server: &Backend, keys: &str) -> String {
    let table = backend(server.name(), &server.address());
    match keys.is_empty() {
        true => table,
        false => table.replace(" }", &format!(", {keys} }}")),
    }
}

fn tables(servers: &[Backend]) -> Vec<String> {
    servers.iter().map(|server| with_keys(server, "")).collect()
}

/// A connection that stays, and who has it.
fn hold(address: SocketAddr) -> (String, TcpStream) {
    let mut stream = client::connect(address).unwrap();
    (client::read_line(&mut stream).unwrap(), stream)
}

fn counts(held: &[(String, TcpStream)]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for (name, _) in held {
        *counts.entry(name.clone()).or_default() += 1;
    }
    counts
}

fn wait_active(daemon: &Daemon, name: &str, active: u64) {
    eventually(SOON, &format!("{name} has {active}"), || {
        (daemon.backend("web", name).active == active).then_some(())
    });
}

fn wait_state(daemon: &Daemon, name: &str, state: &str) {
    eventually(SOON, &format!("{name} is {state}"), || {
        (daemon.backend("web", name).state == state).then_some(())
    });
}

fn expected(counts: &[(&str, usize)]) -> BTreeMap<String, usize> {
    let all = counts
        .iter()
        .map(|(name, count)| ((*name).to_owned(), *count));
    all.collect()
}

#[test]
fn the_next_connection_goes_to_the_least_loaded_whoever_accepts_it() {
    let servers = Backend::several(&["b1", "b2", "b3"], Mode::Greet);
    let daemon = start(4, &service("web", "scheduler = \"lc\"", &tables(&servers)));
    let address = daemon.address("web");
    let mut held: Vec<_> = (0..30).map(|_| hold(address)).collect();
    // Those that have as few take turns.
    for three in held.chunks(3) {
        assert_eq!(counts(three).len(), 3, "{:?}", counts(&held));
    }
    let slots = daemon.service("web").accepted_by_slot;
    assert!(
        slots.values().filter(|count| **count > 0).count() >= 3,
        "{slots:?}"
    );
    // One is relieved of all that it has, and another of half.
    held.retain(|(name, _)| name != "b2");
    let mut halved = 0;
    held.retain(|(name, _)| {
        halved += usize::from(name == "b3");
        name != "b3" || halved % 2 == 0
    });
    wait_active(&daemon, "b2", 0);
    wait_active(&daemon, "b3", 5);
    let more: Vec<_> = (0..5).map(|_| hold(address)).collect();
    assert_eq!(counts(&more), expected(&[("b2", 5)]));
    held.extend(more);
    let more: Vec<_> = (0..10).map(|_| hold(address)).collect();
    assert_eq!(counts(&more), expected(&[("b2", 5), ("b3", 5)]));
    held.extend(more);
    assert_eq!(
        counts(&held),
        expected(&[("b1", 10), ("b2", 10), ("b3", 10)])
    );
    drop(held);
    assert_balanced(&daemon, "web");
    // Without any load they take turns as well.
    let names = tally_quiet(&daemon, 30);
    assert!(
        names.len() == 3 && names.values().all(|count| *count >= 7),
        "{names:?}"
    );
}

/// One connection after another, each when the one before has ended.
fn tally_quiet(daemon: &Daemon, count: usize) -> BTreeMap<String, usize> {
    let address = daemon.address("web");
    let mut names = BTreeMap::new();
    for _ in 0..count {
        let (name, stream) = hold(address);
        drop(stream);
        wait_active(daemon, &name, 0);
        *names.entry(name).or_default() += 1;
    }
    names
}

#[test]
fn load_follows_the_weights() {
    let servers = Backend::several(&["b1", "b2", "b3"], Mode::Greet);
    let backends = [
        with_keys(&servers[0], ""),
        with_keys(&servers[1], "weight = 2"),
        with_keys(&servers[2], "weight = 3"),
    ];
    let daemon = start(4, &service("web", "scheduler = \"wlc\"", &backends));
    let address = daemon.address("web");
    let mut held: Vec<_> = (0..36).map(|_| hold(address)).collect();
    assert_eq!(
        counts(&held),
        expected(&[("b1", 6), ("b2", 12), ("b3", 18)])
    );
    held.retain(|(name, _)| name == "b1");
    wait_active(&daemon, "b2", 0);
    wait_active(&daemon, "b3", 0);
    let more: Vec<_> = (0..30).map(|_| hold(address)).collect();
    assert_eq!(counts(&more), expected(&[("b2", 12), ("b3", 18)]));
}

/// Sources of this host.
fn sources() -> Vec<IpAddr> {
    let one = |n: u8| Ipv4Addr::new(127, 0, n % 7, 1 + n).into();
    (0..60).map(one).collect()
}

/// Who answers each source, asked `times` times: always the same.
fn owners(daemon: &Daemon, times: usize) -> BTreeMap<IpAddr, String> {
    let address = daemon.address("web");
    let owner = |source: IpAddr| {
        let ask = |_| {
            let mut stream = client::connect_from(source, address).unwrap();
            client::read_line(&mut stream).unwrap()
        };
        let names: BTreeSet<_> = (0..times).map(ask).collect();
        assert_eq!(names.len(), 1, "{source}: {names:?}");
        (source, names.into_iter().next().unwrap())
    };
    sources().into_iter().map(owner).collect()
}

#[test]
fn a_source_has_its_backend_in_every_worker_and_on_every_balancer() {
    let servers = Backend::several(&["b1", "b2", "b3", "b4"], Mode::Name);
    let mut backends = tables(&servers);
    let lines = "scheduler = \"source-hash\"";
    let daemon = start(4, &checked(lines, &backends));
    backends.rotate_left(1);
    backends.swap(0, 2);
    let other = start(3, &checked(lines, &backends));
    let whole = owners(&daemon, 5);
    assert_eq!(owners(&other, 2), whole);
    let mut shares = BTreeMap::<&str, usize>::new();
    for name in whole.values() {
        *shares.entry(name).or_default() += 1;
    }
    assert!(
        shares.len() == 4 && shares.values().all(|share| *share >= 5),
        "{shares:?}"
    );

    // Only those move whose backend is down, and they come back.
    servers[1].stop();
    for daemon in [&daemon, &other] {
        wait_state(daemon, "b2", "down");
    }
    let without = owners(&daemon, 5);
    assert_eq!(owners(&other, 2), without);
    for (source, name) in &whole {
        match name.as_str() {
            "b2" => assert_ne!(without[source], "b2"),
            _ => assert_eq!(without[source], *name, "{source}"),
        }
    }
    let moved = whole.iter().filter(|(_, name)| *name == "b2");
    let heirs: BTreeSet<_> = moved.map(|(source, _)| &without[source]).collect();
    assert!(heirs.len() >= 2, "{heirs:?}");
    servers[1].resume();
    for daemon in [&daemon, &other] {
        wait_state(daemon, "b2", "up");
        assert_eq!(owners(daemon, 2), whole);
    }
}

#[test]
fn a_source_keeps_its_backend_over_a_restart_of_its_workers_and_a_reload() {
    let servers = Backend::several(&["b1", "b2", "b3"], Mode::Name);
    let lines = "scheduler = \"source-hash\"";
    let text = |workers: u16, lines: &str| {
        let services = service("web", lines, &tables(&servers));
        crate::file("", &services).replace("workers = 2", &format!("workers = {workers}"))
    };
    let daemon = start(2, &service("web", lines, &tables(&servers)));
    let before = owners(&daemon, 2);
    daemon.apply(&text(
        4,
        "scheduler = \"source-hash\"\nmax_connections = 1000",
    ));
    daemon.wait_ready();
    assert_eq!(owners(&daemon, 4), before);
}

#[test]
fn backups_come_after_the_others_whatever_their_load() {
    let servers = Backend::several(&["b1", "b2", "spare"], Mode::Greet);
    for scheduler in ["lc", "source-hash"] {
        let backends = [
            with_keys(&servers[0], ""),
            with_keys(&servers[1], ""),
            with_keys(&servers[2], "backup = true"),
        ];
        let lines = format!("scheduler = \"{scheduler}\"");
        let daemon = start(2, &checked(&lines, &backends));
        daemon.wait_backends_up();
        let address = daemon.address("web");
        let held: Vec<_> = (0..10).map(|_| hold(address)).collect();
        assert!(!counts(&held).contains_key("spare"), "{:?}", counts(&held));
        servers[0].kill();
        wait_state(&daemon, "b1", "down");
        let more: Vec<_> = (0..10).map(|_| hold(address)).collect();
        assert_eq!(counts(&more), expected(&[("b2", 10)]));
        servers[1].kill();
        wait_state(&daemon, "b2", "down");
        let more: Vec<_> = (0..10).map(|_| hold(address)).collect();
        assert_eq!(counts(&more), expected(&[("spare", 10)]));
        servers[0].resume();
        servers[1].resume();
        wait_state(&daemon, "b1", "up");
        wait_state(&daemon, "b2", "up");
        let more: Vec<_> = (0..10).map(|_| hold(address)).collect();
        assert!(!counts(&more).contains_key("spare"), "{:?}", counts(&more));
    }
}

#[test]
fn a_weight_of_zero_gets_nothing_under_any_scheduler() {
    let servers = Backend::several(&["b1", "zero", "b3"], Mode::Name);
    for scheduler in ["rr", "wrr", "lc", "wlc", "source-hash"] {
        let backends = [
            with_keys(&servers[0], ""),
            with_keys(&servers[1], "weight = 0"),
            with_keys(&servers[2], ""),
        ];
        let lines = format!("scheduler = \"{scheduler}\"");
        let daemon = start(2, &service("web", &lines, &backends));
        let names = match scheduler {
            "source-hash" => owners(&daemon, 1).into_values().collect(),
            _ => tally(daemon.address("web"), 30)
                .into_keys()
                .collect::<BTreeSet<_>>(),
        };
        let both: BTreeSet<_> = ["b1", "b3"].map(str::to_owned).into();
        assert_eq!(names, both, "{scheduler}");
    }
    assert_eq!(servers[1].accepted(), 0);
}
