//! OpenHIM: one check decides for all ports of an instance, and a restart of all instances loses nothing.

use std::time::{Duration, Instant};

use evenkeel_testkit::doubles::{Heartbeat, OpenHim};
use evenkeel_testkit::{Daemon, Probes, eventually};

use crate::{PROGRAM, SOON, alone, assert_balanced, backend, file};

const PACE: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(10);

/// Instances with the same ports, as containers have them.
fn instances(count: usize) -> Vec<OpenHim> {
    let mut instances: Vec<OpenHim> = Vec::new();
    for number in 1..=count {
        let ports = instances
            .first()
            .map_or([0, 0], |first| [first.api().port(), first.router().port()]);
        instances.push(OpenHim::start(&format!("openhim-{number}"), ports));
    }
    instances
}

/// Two services of one pool: the router and the API.
fn start(instances: &[OpenHim]) -> Daemon {
    let backends: Vec<String> = instances
        .iter()
        .map(|instance| backend(instance.name(), &instance.router().ip()))
        .collect();
    let (api, router) = (instances[0].api().port(), instances[0].router().port());
    let services = format!(
        "[pools.openhim]\nbackends = [{}]\n\
         check = {{ kind = \"openhim\", port = {api}, interval = \"500ms\", timeout = \"400ms\" }}\n\
         [services.router]\nlisten = \"127.0.0.1:0\"\npool = \"openhim\"\nport = {router}\n\
         [services.api]\nlisten = \"127.0.0.1:0\"\npool = \"openhim\"\nport = {api}\n",
        backends.join(", ")
    );
    let daemon = Daemon::builder(PROGRAM, &file("", &services)).start();
    daemon.wait_backends_up();
    daemon
}

fn load(daemon: &Daemon, path: &str) -> Probes {
    let request = format!("GET {path} HTTP/1.1\r\nHost: openhim\r\nConnection: close\r\n\r\n");
    let probes = Probes::start(daemon.address("router"), PACE, &request, PATIENCE);
    eventually(SOON, "there is load", || {
        (probes.seen().len() > 50).then_some(())
    });
    probes
}

#[test]
fn an_instance_without_its_database_is_out_within_the_time_of_its_check() {
    // Two failures, the second begun an interval (with its jitter) after the first; then its time-out; then a busy machine.
    const LIMIT: Duration = Duration::from_millis(525 + 525 + 400 + 350);
    let _alone = alone();
    let instances = instances(2);
    let daemon = start(&instances);
    for heartbeat in [Heartbeat::Failing, Heartbeat::Hanging] {
        let probes = load(&daemon, "/");
        let begun = Instant::now();
        instances[1].set_heartbeat(heartbeat);
        // Its router answers on, and fast: only the heartbeat tells.
        daemon.wait_status("it is out of both services", |status| {
            let mut services = status.services.iter();
            services.all(|service| service.backends[1].state == "down")
        });
        let out = begun + LIMIT;
        assert!(Instant::now() < out, "{heartbeat:?}: {:?}", begun.elapsed());
        eventually(SOON, "more load", || {
            let seen = probes.seen();
            (seen.iter().filter(|probe| probe.begun > out).count() > 30).then_some(())
        });
        for probe in probes.stop() {
            let answer = probe.outcome.unwrap();
            let answered = answer.starts_with("HTTP/1.1 200");
            assert!(answered || probe.begun < out, "{heartbeat:?}: {answer}");
        }
        instances[1].set_heartbeat(Heartbeat::Fine);
        daemon.wait_backends_up();
    }
}

#[test]
fn instances_are_restarted_one_after_another_and_nothing_is_lost() {
    let _alone = alone();
    let mut instances = instances(4);
    let daemon = start(&instances);
    let fast = load(&daemon, "/");
    let slow = load(&daemon, "/slow/300");
    for instance in &mut instances {
        let name = instance.name().to_owned();
        let both = format!("*/{name}");
        let begun = Instant::now();
        daemon.tell(&["backend", "drain", &both, "--wait", "--timeout", "20s"]);
        assert!(begun.elapsed() < Duration::from_secs(15));
        for service in ["router", "api"] {
            let found = daemon.backend(service, &name);
            assert_eq!(found.active, 0, "{found:?}");
            assert_eq!(found.admin.as_ref().unwrap().state, "drain", "{found:?}");
        }
        instance.restart();
        daemon.tell(&["backend", "enable", &both]);
        let connections = daemon.backend("router", &name).connections;
        daemon.wait_status("it takes its share again", |status| {
            let services = status.services.iter();
            let mut found = services.flat_map(|service| &service.backends);
            found.any(|found| found.name == name && found.connections > connections + 5)
        });
    }
    let (fast, slow) = (fast.stop(), slow.stop());
    assert!(fast.len() > 200 && slow.len() > 200);
    for probe in fast.into_iter().chain(slow) {
        let answer = probe.outcome.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let service = assert_balanced(&daemon, "router");
    assert_eq!(service.failed.values().sum::<u64>(), 0, "{service:?}");
}
