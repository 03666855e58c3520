//! A CouchDB cluster that serves whole or not at all, as CHT wants it.
//!
//! Off means: a connection is made and reset at once, without a byte, and no node sees it. It is so for all connections from
//! one instant on, and on again from one instant on.

use std::time::{Duration, Instant};

use evenkeel_control::operator::{ServiceStatus, Status};
use evenkeel_testkit::doubles::{CouchDb, Dns, Zone, loopback};
use evenkeel_testkit::{
    Daemon, Failure, Probe, Probes, Signal, TempDir, eventually, pause_until, proc,
};

use crate::{PROGRAM, SOON, alone, assert_balanced, backend, file};

const USER: &str = "medic";

/// With what needs escaping in URLs and forms.
const PASSWORD: &str = "s3cret/of:the+tests&more";

/// Between two clients.
const PACE: Duration = Duration::from_millis(10);

/// Longer than any client of a service that is off waits. A node that hangs keeps its clients.
const PATIENCE: Duration = Duration::from_secs(3);

/// A node was killed: off within this long.
const OFF_AFTER_KILL: Duration = Duration::from_millis(1_000);

/// A node hangs: off within this long. Also: on again, once all nodes answer.
const OFF_AFTER_HANG: Duration = Duration::from_millis(1_500);

/// There is no news of health for this long at most, and that alone is a reason.
const WITHOUT_MONITOR: Duration = Duration::from_millis(2_000);

const NAMES: [&str; 3] = [
    "couchdb@couchdb-1",
    "couchdb@couchdb-2",
    "couchdb@couchdb-3",
];

const CLIENT: &str = "GET /probe HTTP/1.1\r\nHost: cht\r\nConnection: close\r\n\r\n";

fn config(nodes: &[CouchDb]) -> String {
    let backends: Vec<String> = (1..)
        .zip(nodes)
        .map(|(number, node)| backend(&format!("couchdb-{number}"), &node.address()))
        .collect();
    let services = format!(
        "[log]\nlevel = \"debug\"\n\
         [pools.couchdb]\nbackends = [{}]\n\
         [pools.couchdb.check]\nkind = \"couchdb\"\n\
         credentials = {{ user_env = \"COUCHDB_USER\", password_env = \"COUCHDB_PASSWORD\" }}\n\
         [services.couchdb]\nlisten = \"127.0.0.1:0\"\npool = \"couchdb\"\nrequire = \"all\"\n\
         connect = {{ timeout = \"1s\", attempts = 3 }}\n",
        backends.join(", ")
    );
    file("", &services)
}

fn launch(nodes: &[CouchDb], password: &str) -> Daemon {
    Daemon::builder(PROGRAM, &config(nodes))
        .environment("COUCHDB_USER", USER)
        .environment("COUCHDB_PASSWORD", password)
        .start()
}

fn start() -> (Vec<CouchDb>, Daemon) {
    let nodes = CouchDb::cluster(3, USER, PASSWORD);
    let daemon = launch(&nodes, PASSWORD);
    daemon.wait_status("the service is open", is_open);
    (nodes, daemon)
}

fn is_open(status: &Status) -> bool {
    status.services[0].gate == "open" && status.services[0].serving
}

fn is_closed(status: &Status) -> bool {
    status.services[0].gate == "closed" && !status.services[0].serving
}

/// Clients of the service, once they are served.
fn clients(daemon: &Daemon) -> Probes {
    let probes = Probes::start(daemon.address("couchdb"), PACE, CLIENT, PATIENCE);
    eventually(SOON, "clients are served", || {
        (probes.seen().iter().filter(|probe| served(probe)).count() > 50).then_some(())
    });
    probes
}

fn served(probe: &Probe) -> bool {
    let answered = |answer: &String| answer.starts_with("HTTP/1.1 200");
    probe.outcome.as_ref().is_ok_and(answered)
}

fn refused(probe: &Probe) -> bool {
    probe.outcome == Err(Failure::ResetBeforeFirstByte)
}

/// Waits until the service is off for those who come after `since`, and then watches for a while whether a node sees any of
/// those clients.
fn watch_off(probes: &Probes, nodes: &[&CouchDb], since: Instant) {
    let refusals = || {
        let seen = probes.seen();
        let later = seen.iter().filter(|probe| probe.begun > since);
        later.filter(|probe| refused(probe)).count()
    };
    eventually(SOON, "clients are refused", || {
        (refusals() > 10).then_some(())
    });
    let seen_by_nodes = || -> Vec<[u64; 2]> {
        let counts = nodes.iter().map(|node| node.counts());
        counts
            .map(|counts| ["/probe", "silent"].map(|name| counts.get(name).copied().unwrap_or(0)))
            .collect()
    };
    let (before, count) = (seen_by_nodes(), refusals());
    eventually(SOON, "more clients are refused", || {
        (refusals() > count + 60).then_some(())
    });
    assert_eq!(
        seen_by_nodes(),
        before,
        "requests and silent connections of clients, by node"
    );
}

/// Checks that the service went off at one instant, at most `limit` after `cause`, and stayed so until `until`. `gone`: when
/// what was done was done.
fn assert_off(probes: &[Probe], [cause, gone, until]: [Instant; 3], limit: Duration) {
    let from = |instant: Instant| {
        let later = move |probe: &&Probe| probe.begun >= instant && probe.begun < until;
        probes.iter().filter(later)
    };
    let first = from(gone)
        .filter(|probe| refused(probe))
        .min_by_key(|probe| probe.ended);
    let off = first.expect("a client was refused").ended;
    let took = off - cause;
    eprintln!("off after {took:?}");
    assert!(took <= limit, "off after {took:?}");
    assert!(from(off).count() > 20);
    for probe in from(off) {
        let (late, lasted) = (probe.begun - off, probe.ended - probe.begun);
        assert!(
            refused(probe),
            "{:?}, {late:?} after it was off",
            probe.outcome
        );
        assert!(
            lasted < Duration::from_millis(500),
            "refused after {lasted:?}"
        );
    }
}

/// Checks that the service was on again at one instant, at most `limit` after `answering`.
fn assert_on(probes: &[Probe], answering: Instant, limit: Duration) {
    let from = |instant: Instant| probes.iter().filter(move |probe| probe.begun >= instant);
    let on = from(answering)
        .find(|probe| served(probe))
        .expect("a client was served")
        .ended;
    let took = on - answering;
    eprintln!("on after {took:?}");
    assert!(took <= limit, "on after {took:?}");
    assert!(from(on).count() > 20);
    for probe in from(on) {
        let late = probe.begun - on;
        assert!(
            served(probe),
            "{:?}, {late:?} after it was on",
            probe.outcome
        );
    }
}

fn wait_served(probes: &Probes, since: Instant) {
    eventually(SOON, "clients are served again", || {
        let seen = probes.seen();
        let later = seen.iter().filter(|probe| probe.begun > since);
        (later.filter(|probe| served(probe)).count() > 60).then_some(())
    });
}

fn tell_membership(nodes: &[CouchDb], all: &[&str]) {
    for node in nodes {
        node.set_membership(all, &NAMES);
    }
}

/// Kills or hangs a node at three moments of its checks' round, each time with a fresh daemon, since a backend that changes
/// often comes back more slowly.
fn at_several_moments(take: impl Fn(&mut Vec<CouchDb>, &Daemon)) {
    for offset in [0, 250, 500] {
        let (mut nodes, daemon) = start();
        pause_until(Instant::now() + Duration::from_millis(offset));
        take(&mut nodes, &daemon);
    }
}

#[test]
fn a_killed_node_takes_the_whole_cluster_off_and_its_return_brings_it_back() {
    let _alone = alone();
    at_several_moments(|nodes, daemon| {
        let probes = clients(daemon);
        let cause = Instant::now();
        nodes[2].kill();
        let gone = Instant::now();
        tell_membership(&nodes[..2], &NAMES[..2]);
        watch_off(&probes, &[&nodes[0], &nodes[1]], gone);
        let status = daemon.status();
        assert!(is_closed(&status), "{status:?}");
        let reason = &status.services[0].gate_reason;
        assert!(reason.contains("couchdb-3"), "{reason}");

        let back = Instant::now();
        nodes[2].restart();
        tell_membership(nodes, &NAMES);
        let answering = Instant::now();
        wait_served(&probes, answering);
        let seen = probes.stop();
        assert_off(&seen, [cause, gone, back], OFF_AFTER_KILL);
        assert_on(&seen, answering, OFF_AFTER_HANG);
        let service = assert_balanced(daemon, "couchdb");
        assert!(service.failed["closed"] > 60, "{service:?}");
    });
}

#[test]
fn a_hung_node_takes_the_whole_cluster_off_and_its_return_brings_it_back() {
    let _alone = alone();
    at_several_moments(|nodes, daemon| {
        let probes = clients(daemon);
        let cause = Instant::now();
        nodes[2].freeze();
        let gone = Instant::now();
        nodes[..2].iter().for_each(|node| node.set_waiting(true));
        watch_off(&probes, &[&nodes[0], &nodes[1]], gone);
        let back = Instant::now();
        nodes[2].thaw();
        nodes[..2].iter().for_each(|node| node.set_waiting(false));
        let answering = Instant::now();
        wait_served(&probes, answering);
        let seen = probes.stop();
        assert_off(&seen, [cause, gone, back], OFF_AFTER_HANG);
        assert_on(&seen, answering, OFF_AFTER_HANG);
    });
}

/// As containers do.
#[test]
fn a_node_that_returns_at_another_address_brings_the_cluster_back() {
    let _alone = alone();
    let dns = Dns::start();
    let mut nodes = CouchDb::cluster(3, USER, PASSWORD);
    let mut text = config(&nodes);
    let tell_dns = |number: usize, node: &CouchDb| {
        let zone = Zone::Addresses(vec![node.address().ip()], 1);
        dns.set(&format!("couchdb-{number}.test"), &zone);
    };
    for (number, node) in (1..).zip(&nodes) {
        let address = node.address();
        let name = format!("couchdb-{number}.test:{}", address.port());
        text = text.replace(&address.to_string(), &name);
        tell_dns(number, node);
    }
    text.push_str(&format!("[resolve]\nservers = [\"{}\"]\n", dns.address()));
    let daemon = Daemon::builder(PROGRAM, &text)
        .environment("COUCHDB_USER", USER)
        .environment("COUCHDB_PASSWORD", PASSWORD)
        .start();
    daemon.wait_status("the service is open", is_open);
    let probes = clients(&daemon);
    let cause = Instant::now();
    nodes[0].kill();
    let gone = Instant::now();
    tell_membership(&nodes[1..], &NAMES[1..]);
    watch_off(&probes, &[&nodes[1], &nodes[2]], gone);
    let back = Instant::now();
    nodes[0].restart_at(loopback());
    tell_membership(&nodes, &NAMES);
    tell_dns(1, &nodes[0]);
    let answering = Instant::now();
    wait_served(&probes, answering);
    let seen = probes.stop();
    assert_off(&seen, [cause, gone, back], OFF_AFTER_KILL);
    // The lifetime of the old answer comes on top.
    assert_on(&seen, answering, OFF_AFTER_HANG + Duration::from_secs(1));
    assert!(nodes[0].count("/probe") > 5);
}

/// CHT's own check asks the first node only: when that one hangs, it says little of use.
#[test]
fn a_hung_first_node_is_named() {
    let (nodes, daemon) = start();
    nodes[0].freeze();
    nodes[1..].iter().for_each(|node| node.set_waiting(true));
    let status = daemon.wait_status("off", |status| {
        is_closed(status) && status.services[0].gate_reason.contains("couchdb-1")
    });
    let first = &status.services[0].backends[0];
    assert_eq!(first.state, "down", "{first:?}");
    let why = daemon.tell(&["why", "couchdb/couchdb-1"]);
    assert!(why.contains("down"), "{why}");
    nodes[0].thaw();
    nodes[1..].iter().for_each(|node| node.set_waiting(false));
    daemon.wait_status("on", is_open);
}

#[test]
fn the_rule_holds_without_a_monitor() {
    let _alone = alone();
    let (mut nodes, daemon) = start();
    let probes = clients(&daemon);
    // Killed: the next one looks again, and meanwhile nobody is turned away without need.
    let begun = Instant::now();
    let monitor = daemon.monitor();
    assert!(proc::signal(monitor, Signal::KILL));
    daemon.wait_status("the next monitor is live", |status| {
        status.monitor.pid != monitor && status.monitor.state == "live"
    });
    wait_served(&probes, Instant::now());
    let seen = probes.seen();
    let lost: Vec<_> = seen
        .iter()
        .filter(|probe| probe.begun >= begun && !served(probe))
        .collect();
    assert!(lost.is_empty(), "{lost:?}");

    // Killed, and a node with it.
    let cause = Instant::now();
    assert!(proc::signal(daemon.monitor(), Signal::KILL));
    nodes[1].kill();
    let gone = Instant::now();
    nodes[0].set_membership(&[NAMES[0], NAMES[2]], &NAMES);
    nodes[2].set_membership(&[NAMES[0], NAMES[2]], &NAMES);
    watch_off(&probes, &[&nodes[0], &nodes[2]], gone);
    let back = Instant::now();
    nodes[1].restart();
    tell_membership(&nodes, &NAMES);
    wait_served(&probes, Instant::now());
    assert_off(&probes.seen(), [cause, gone, back], WITHOUT_MONITOR);

    // Stopped: there is no news at all, and that is not enough for a service that requires all.
    let cause = Instant::now();
    let monitor = daemon.monitor();
    assert!(proc::signal(monitor, Signal::STOP));
    nodes[1].kill();
    let gone = Instant::now();
    watch_off(&probes, &[&nodes[0], &nodes[2]], gone);
    let back = Instant::now();
    nodes[1].restart();
    // The supervisor may have replaced it meanwhile.
    proc::signal(monitor, Signal::CONT);
    wait_served(&probes, Instant::now());
    assert_off(&probes.stop(), [cause, gone, back], WITHOUT_MONITOR);
}

#[test]
fn a_node_in_maintenance_takes_the_cluster_off() {
    let (nodes, daemon) = start();
    nodes[1].set_maintenance(true);
    // The gate closes at once; the words about it come a moment later.
    daemon.wait_status("off, and it is said why", |status| {
        let service = &status.services[0];
        let said = service.gate_reason.contains("couchdb-2")
            && service.backends[1].answer.contains("maintenance");
        is_closed(status) && said
    });
    let why = daemon.tell(&["why", "couchdb/couchdb-2"]);
    assert!(why.contains("maintenance"), "{why}");
    nodes[1].set_maintenance(false);
    daemon.wait_status("on", is_open);
}

#[test]
fn other_nodes_than_configured_take_the_cluster_off() {
    let (nodes, daemon) = start();
    let four = [NAMES[0], NAMES[1], NAMES[2], "couchdb@couchdb-4"];
    let lists: [(&str, &[&str], &[&str]); 3] = [
        ("one too many", &four, &four),
        ("one too few", &NAMES[..2], &NAMES[..2]),
        ("connected and not in the cluster", &NAMES, &NAMES[..2]),
    ];
    for (what, all, cluster) in lists {
        nodes
            .iter()
            .for_each(|node| node.set_membership(all, cluster));
        // The answer that decided may be that of another node than the first.
        let told = |service: &ServiceStatus| {
            let mut backends = service.backends.iter();
            backends.any(|backend| backend.state == "down" && backend.answer.contains("node"))
        };
        daemon.wait_status(what, |status| {
            let service = &status.services[0];
            is_closed(status) && service.gate_reason.contains("couchdb-") && told(service)
        });
        tell_membership(&nodes, &NAMES);
        daemon.wait_status("on", is_open);
    }
}

/// A service that never opened, and no word of the password anywhere.
#[test]
fn a_wrong_password_is_told_and_never_shown() {
    let nodes = CouchDb::cluster(3, USER, PASSWORD);
    let wrong = "wr0ng/of:the+tests&more";
    let daemon = launch(&nodes, wrong);
    let status = daemon.wait_status("refused", |status| {
        let mut backends = status.services[0].backends.iter();
        is_closed(status) && backends.all(|backend| backend.answer.contains("401"))
    });
    let service = &status.services[0];
    for backend in &service.backends {
        assert_eq!(backend.state, "down", "{backend:?}");
        assert!(backend.answer.contains("password"), "{backend:?}");
    }
    assert_secret(&daemon, &status, wrong);
    drop(daemon);

    let daemon = launch(&nodes, PASSWORD);
    let status = daemon.wait_status("open", is_open);
    assert_secret(&daemon, &status, PASSWORD);
    // One hash of the password, then its session.
    let before = nodes[0].counts();
    eventually(SOON, "ten more checks", || {
        (nodes[0].count("/_up") > before["/_up"] + 10).then_some(())
    });
    assert_eq!(nodes[0].counts()["/_session"], before["/_session"]);
}

#[test]
fn a_new_password_is_read_at_a_reload() {
    let nodes = CouchDb::cluster(3, USER, PASSWORD);
    let secrets = TempDir::new();
    let (user, password) = (secrets.join("user"), secrets.join("password"));
    std::fs::write(&user, format!("{USER}\n")).unwrap();
    std::fs::write(&password, format!("{PASSWORD}\n")).unwrap();
    let text = config(&nodes)
        .replace(
            "user_env = \"COUCHDB_USER\"",
            &format!("user_file = {user:?}"),
        )
        .replace(
            "password_env = \"COUCHDB_PASSWORD\"",
            &format!("password_file = {password:?}"),
        );
    let daemon = Daemon::builder(PROGRAM, &text).start();
    daemon.wait_status("the service is open", is_open);
    let other = "an0ther/of:the+tests&more";
    for node in &nodes {
        node.set_password(other);
    }
    let status = daemon.wait_status("off", is_closed);
    assert_secret(&daemon, &status, PASSWORD);
    std::fs::write(&password, other).unwrap();
    daemon.reload();
    let status = daemon.wait_status("on", is_open);
    assert_secret(&daemon, &status, other);
}

fn assert_secret(daemon: &Daemon, status: &Status, password: &str) {
    let tail: String = password.chars().skip(2).collect();
    let escaped = "of%3Athe%2Btests";
    let mut shown = vec![
        format!("{status:?}"),
        format!("{:?}", daemon.reload()),
        daemon.tell(&["status"]),
        daemon.tell(&["status", "--json"]),
        daemon.tell(&["events"]),
        daemon.http("/metrics").1,
    ];
    for number in 1..=3 {
        shown.push(daemon.tell(&["why", &format!("couchdb/couchdb-{number}")]));
    }
    shown.push(daemon.log());
    for text in shown {
        assert!(!text.contains(&tail) && !text.contains(escaped), "{text}");
    }
}
