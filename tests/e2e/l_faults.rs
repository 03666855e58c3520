//! What goes wrong with backends, one thing a test: no connection is lost that another backend could have taken.
//!
//! Backends are processes. What was in flight at one that dies is lost, and nothing else.

use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use evenkeel_testkit::doubles::{Dns, Speaker, Speech, Zone, http_line, loopback};
use evenkeel_testkit::{
    Backend, Daemon, Failure, Load, Mode, Probe, Probes, TempDir, client, eventually, one_shot,
    pause_until, throughout,
};

use crate::{PROGRAM, SOON, alone, assert_balanced, assert_only_in_flight, backend, file, tally};

const PACE: Duration = Duration::from_millis(10);

/// Longer than a client of a service with a healthy backend ever waits.
const PATIENCE: Duration = Duration::from_secs(8);

/// A quick check; two failures take a backend down, one success brings it up.
const QUICK: &str = "interval = \"100ms\", timeout = \"100ms\", rise = 1, fall = 2";

/// A service called `web` with these backends (tables of them) and further lines.
fn web(backends: &[String], lines: &str) -> String {
    format!(
        "[services.web]\nlisten = \"127.0.0.1:0\"\nconnect = {{ timeout = \"500ms\", attempts = 3 }}\n\
         backends = [{}]\n{lines}\n",
        backends.join(", ")
    )
}

fn check(kind: &str) -> String {
    format!("check = {{ kind = \"{kind}\", {QUICK} }}")
}

fn start(top: &str, services: &str) -> Daemon {
    let daemon = Daemon::builder(PROGRAM, &file(top, services)).start();
    daemon.wait_backends_up();
    daemon
}

/// Two speakers called `b1` and `b2`, and a daemon that checks them by connecting.
fn pair() -> (Speaker, Speaker, Daemon) {
    let (first, second) = (Speaker::start("b1"), Speaker::start("b2"));
    let backends = [
        backend("b1", &first.address()),
        backend("b2", &second.address()),
    ];
    let daemon = start("", &web(&backends, &check("tcp")));
    (first, second, daemon)
}

fn probes(daemon: &Daemon) -> Probes {
    let probes = Probes::start(daemon.address("web"), PACE, "", PATIENCE);
    more(&probes, 20);
    probes
}

/// Waits until `count` more have ended.
fn more(probes: &Probes, count: usize) {
    let now = Instant::now();
    eventually(SOON, "there is load", || {
        let seen = probes.seen();
        let later = seen.iter().filter(|probe| probe.begun >= now);
        (later.count() >= count).then_some(())
    });
}

fn wait_state(daemon: &Daemon, name: &str, state: &str) {
    daemon.wait_status(&format!("{name} is {state}"), |status| {
        let mut backends = status.services.iter().flat_map(|service| &service.backends);
        backends.any(|backend| backend.name == name && backend.state == state)
    });
}

/// Connections answered with `name`.
fn answered(probes: &[Probe], name: &str) -> usize {
    let by = |probe: &&Probe| {
        probe
            .outcome
            .as_deref()
            .is_ok_and(|text| text.contains(name))
    };
    probes.iter().filter(by).count()
}

#[test]
fn a_killed_backend() {
    let (_first, mut second, daemon) = pair();
    let probes = probes(&daemon);
    let begun = Instant::now();
    second.kill();
    let done = Instant::now();
    wait_state(&daemon, "b2", "down");
    more(&probes, 30);
    second.restart();
    wait_state(&daemon, "b2", "up");
    let back = Instant::now();
    more(&probes, 30);
    let seen = probes.stop();
    assert_only_in_flight(&seen, &[(begun, done)]);
    let since_back = seen.iter().position(|probe| probe.begun > back).unwrap();
    assert!(answered(&seen[since_back..], "b2") > 10);
}

#[test]
fn a_backend_that_does_not_accept() {
    let first = Speaker::start("b1");
    let second = Speaker::start_at(loopback().into(), 8, "b2", &[]);
    let backends = [
        backend("b1", &first.address()),
        backend("b2", &second.address()),
    ];
    let daemon = start("", &web(&backends, &check("tcp")));
    let begun = Instant::now();
    second.freeze();
    // Who is in its queue has connected and waits: fill it, so that nobody else gets there.
    let patience = Duration::from_millis(200);
    let mut queued = Vec::new();
    while let Ok(stream) = client::connect_within(second.address(), patience) {
        queued.push(stream);
    }
    let probes = probes(&daemon);
    wait_state(&daemon, "b2", "down");
    more(&probes, 30);
    second.thaw();
    drop(queued);
    wait_state(&daemon, "b2", "up");
    more(&probes, 30);
    let seen = probes.stop();
    assert_only_in_flight(&seen, &[]);
    let slowest = seen.iter().map(|probe| probe.ended - probe.begun).max();
    // One connect that is not answered, and a busy machine.
    assert!(slowest < Some(Duration::from_secs(2)), "{slowest:?}");
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_backend_that_resets() {
    let (first, second) = (Speaker::start_http("b1"), Speaker::start_http("b2"));
    let backends = [
        backend("b1", &first.address()),
        backend("b2", &second.address()),
    ];
    let daemon = start("", &web(&backends, &check("http")));
    let address = daemon.address("web");
    second.say(Speech::Reset);
    wait_state(&daemon, "b2", "down");
    let load = Load::start(address, 2, Duration::from_millis(5));
    eventually(SOON, "there is load", || {
        (load.answered() > 100).then_some(())
    });
    second.say(Speech::Line(http_line("b2")));
    wait_state(&daemon, "b2", "up");
    let answered = load.answered();
    eventually(SOON, "more load", || {
        (load.answered() > answered + 100).then_some(())
    });
    let report = load.stop();
    assert!(
        report.failures.is_empty(),
        "{:?}",
        report.failures_by_kind()
    );
    assert_eq!(report.answers.len(), 2, "{:?}", report.answers);
}

#[test]
fn a_backend_that_drips() {
    let (first, second) = (Speaker::start_http("b1"), Speaker::start_http("b2"));
    let backends = [
        backend("b1", &first.address()),
        backend("b2", &second.address()),
    ];
    let mut services = web(&backends, &check("http"));
    services.push_str(&web(&backends, &check("tcp")).replace("web", "patient"));
    let daemon = start("", &services);
    let patient = Probes::start(daemon.address("patient"), PACE, "", PATIENCE);
    more(&patient, 20);
    second.say(Speech::Drip("HTTP/1.0 200 b2\r\n\r".to_owned()));
    // Each byte comes in time, the whole does not: a check has one deadline.
    daemon.wait_status("b2 is too slow for the one", |status| {
        let web = status.services.iter().find(|service| service.name == "web");
        web.unwrap().backends[1].state == "down"
    });
    let out = Instant::now();
    assert!(
        tally(daemon.address("web"), 20)
            .keys()
            .all(|name| name.contains("b1"))
    );
    // For the other it is well: its clients wait, and nobody else does.
    assert_eq!(daemon.backend("patient", "b2").state, "up");
    more(&patient, 100);
    let seen = patient.stop();
    assert_only_in_flight(&seen, &[]);
    let later = seen.iter().position(|probe| probe.begun > out).unwrap();
    assert!(answered(&seen[later..], "b2") > 20);
    for probe in &seen[later..] {
        if probe
            .outcome
            .as_deref()
            .is_ok_and(|text| text.contains("b1"))
        {
            let took = probe.ended - probe.begun;
            assert!(took < Duration::from_millis(400), "b1 took {took:?}");
        }
    }
}

#[test]
fn a_backend_that_flaps_each_second() {
    let _alone = alone();
    let (_first, mut second, daemon) = pair();
    let probes = probes(&daemon);
    let mut harms = Vec::new();
    for _ in 0..4 {
        let begun = Instant::now();
        second.kill();
        harms.push((begun, Instant::now()));
        pause_until(begun + Duration::from_secs(1));
        second.restart();
        pause_until(begun + Duration::from_secs(2));
    }
    more(&probes, 30);
    let seen = probes.stop();
    assert_only_in_flight(&seen, &harms);
    assert!(seen.len() > 400, "{}", seen.len());
    assert!(daemon.tell(&["events"]).contains("web/b2"));
}

#[test]
fn a_backend_that_comes_back_at_another_address() {
    let dns = Dns::start();
    let (first, mut second) = (Speaker::start("b1"), Speaker::start("b2"));
    let zone = |address: SocketAddr| Zone::Addresses(vec![address.ip()], 1);
    dns.set("b2.test", &zone(second.address()));
    let port = second.address().port();
    let backends = [
        backend("b1", &first.address()),
        backend("b2", &format!("b2.test:{port}")),
    ];
    let resolve = format!("[resolve]\nservers = [\"{}\"]\n", dns.address());
    let daemon = start("", &(resolve + &web(&backends, &check("tcp"))));
    let probes = probes(&daemon);
    let begun = Instant::now();
    second.kill();
    let done = Instant::now();
    second.restart_at(loopback().into());
    dns.set("b2.test", &zone(second.address()));
    eventually(SOON, "its new address gets connections", || {
        (daemon.backend("web", "b2").endpoints == [second.address()]).then_some(())
    });
    wait_state(&daemon, "b2", "up");
    let back = Instant::now();
    more(&probes, 40);
    let seen = probes.stop();
    assert_only_in_flight(&seen, &[(begun, done)]);
    let later = seen.iter().position(|probe| probe.begun > back).unwrap();
    assert!(answered(&seen[later..], "b2") > 10);
}

/// A network namespace with an address that this host reaches. Gone when dropped.
struct Elsewhere {
    name: String,
    here: IpAddr,
    there: IpAddr,
}

impl Elsewhere {
    /// Why not, where it cannot be made.
    fn new() -> Result<Self, String> {
        // From the block for documentation (RFC 5737): nobody has them.
        let part = u8::try_from(std::process::id() % 60).unwrap() * 4;
        let name = format!("ek{}", std::process::id());
        let space = Self {
            here: [198, 51, 100, part + 1].into(),
            there: [198, 51, 100, part + 2].into(),
            name,
        };
        let (name, here, there) = (&space.name, space.here, space.there);
        let lines = [
            format!("netns add {name}"),
            format!("link add {name}a type veth peer name {name}b netns {name}"),
            format!("address add {here}/30 dev {name}a"),
            format!("link set {name}a up"),
            format!("-n {name} address add {there}/30 dev {name}b"),
            format!("-n {name} link set {name}b up"),
        ];
        lines.iter().try_for_each(|line| ip(line))?;
        Ok(space)
    }

    /// From now on, or no longer, everything that is sent from there is lost.
    fn silence(&self, silent: bool) {
        let (name, here) = (&self.name, self.here);
        let verb = if silent { "add" } else { "del" };
        ip(&format!("-n {name} route {verb} blackhole {here}/32")).unwrap();
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        // Its end of the pair goes with it, and the other end with that one.
        drop(ip(&format!("netns del {}", self.name)));
    }
}

fn ip(line: &str) -> Result<(), String> {
    let output = Command::new("ip").args(line.split(' ')).output();
    let output = output.map_err(|error| format!("ip: {error}"))?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let failed = format!("ip {line}: {error}");
    output.status.success().then_some(()).ok_or(failed)
}

#[test]
fn a_backend_whose_packets_are_lost() {
    let elsewhere = match Elsewhere::new() {
        Ok(elsewhere) => elsewhere,
        Err(why) => {
            eprintln!("skipped, since it needs a network namespace: {why}");
            return;
        }
    };
    let wrapper = ["ip", "netns", "exec", &elsewhere.name];
    let first = Speaker::start("b1");
    let second = Speaker::start_at(elsewhere.there, 1_024, "b2", &wrapper);
    let backends = [
        backend("b1", &first.address()),
        backend("b2", &second.address()),
    ];
    let daemon = start("", &web(&backends, &check("tcp")));
    let probes = probes(&daemon);
    let begun = Instant::now();
    elsewhere.silence(true);
    let done = Instant::now();
    wait_state(&daemon, "b2", "down");
    more(&probes, 60);
    elsewhere.silence(false);
    wait_state(&daemon, "b2", "up");
    let back = Instant::now();
    more(&probes, 40);
    let seen = probes.stop();
    assert_only_in_flight(&seen, &[(begun, done)]);
    let later = seen.iter().position(|probe| probe.begun > back).unwrap();
    assert!(answered(&seen[later..], "b2") > 10);
}

/// Threads that do nothing but keep CPUs busy.
struct Busy {
    stop: Arc<AtomicBool>,
}

impl Busy {
    fn start(threads: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        for _ in 0..threads {
            let stop = Arc::clone(&stop);
            let burn = move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            };
            drop(std::thread::Builder::new().spawn(burn).unwrap());
        }
        Self { stop }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_host_without_cpu_is_no_reason_to_take_backends_down() {
    let _alone = alone();
    let speakers: Vec<Speaker> = (1..=4)
        .map(|number| Speaker::start_http(&format!("b{number}")))
        .collect();
    let backends: Vec<String> = (1..)
        .zip(&speakers)
        .map(|(number, speaker)| backend(&format!("b{number}"), &speaker.address()))
        .collect();
    let mut services = web(&backends, &check("tcp"));
    let http = "check = { kind = \"http\", interval = \"300ms\", timeout = \"300ms\", rise = 1, fall = 2 }";
    services.push_str(&web(&backends, http).replace("web", "api"));
    let daemon = start("", &services);
    let downs = || {
        let all = daemon.status().services;
        let backends = all.into_iter().flat_map(|service| service.backends);
        backends
            .filter(|backend| backend.state != "up")
            .map(|backend| format!("{backend:?}"))
            .collect::<Vec<_>>()
    };
    let cpus = std::thread::available_parallelism().unwrap().get();
    let busy = Busy::start(8 * cpus);
    throughout(Duration::from_secs(4), "all backends are up", || {
        let downs = downs();
        if !downs.is_empty() {
            eprintln!("{downs:?}");
        }
        downs.is_empty()
    });
    drop(busy);
    let events = daemon.tell(&["events"]);
    assert!(!events.contains("down"), "{events}");
}

#[test]
fn connections_of_a_backend_that_goes_down_are_kept_or_reset_as_wished() {
    let server = Speaker::start_http("b1");
    let backends = [backend("b1", &server.address())];
    let lines = |word: &str| format!("on_down = \"{word}\"\n{}", check("http"));
    let mut services = web(&backends, &lines("reset"));
    services.push_str(&web(&backends, &lines("keep")).replace("web", "keep"));
    let daemon = start("", &services);
    server.say(Speech::Hold(http_line("held")));
    let held = |service: &str| {
        let mut stream = client::connect(daemon.address(service)).unwrap();
        let line = client::read_line(&mut stream).unwrap();
        assert!(line.contains("held"), "{line}");
        stream
    };
    let (mut reset, mut kept) = (held("web"), held("keep"));
    server.say(Speech::Reset);
    wait_state(&daemon, "b1", "down");
    let mut rest = String::new();
    let begun = Instant::now();
    let error = reset.read_to_string(&mut rest).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(begun.elapsed() < Duration::from_secs(3));
    eventually(SOON, "it is counted", || {
        (daemon.service("web").failed["down_reset"] == 1).then_some(())
    });
    kept.set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let waits = client::read_line(&mut kept);
    // The blank line of the head was still to come; then nothing.
    assert_eq!(waits.as_deref(), Ok("\r"));
    assert_eq!(client::read_line(&mut kept), Err(Failure::Timeout));
    assert_eq!(daemon.service("keep").active, 1);
    drop(kept);
    assert_balanced(&daemon, "web");
}

#[test]
fn a_sorry_service_serves_while_the_other_is_closed() {
    let (first, mut second) = (Speaker::start("b1"), Speaker::start("b2"));
    let sorry = Backend::start("sorry", Mode::Name);
    let backends = [
        backend("b1", &first.address()),
        backend("b2", &second.address()),
    ];
    let lines = format!(
        "require = \"all\"\nsorry = \"maintenance\"\n{}",
        check("tcp")
    );
    let mut services = web(&backends, &lines);
    let page = [backend("page", &sorry.address())];
    services.push_str(&web(&page, "check = \"none\"").replace("web", "maintenance"));
    let daemon = start("", &services);
    let address = daemon.address("web");
    assert_eq!(tally(address, 10).len(), 2);
    let probes = probes(&daemon);
    let begun = Instant::now();
    second.kill();
    let done = Instant::now();
    daemon.wait_status("closed", |status| {
        status
            .services
            .iter()
            .any(|service| service.name == "web" && service.gate == "closed")
    });
    assert_eq!(tally(address, 10)["sorry"], 10);
    second.restart();
    daemon.wait_status("open", |status| {
        status.services.iter().all(|service| service.gate == "open")
    });
    eventually(SOON, "its own backends serve", || {
        (one_shot(address).unwrap() != "sorry").then_some(())
    });
    assert!(!tally(address, 10).contains_key("sorry"));
    assert_only_in_flight(&probes.stop(), &[(begun, done)]);
}

#[test]
fn a_backup_serves_only_when_nobody_else_can() {
    let (mut first, mut second) = (Speaker::start("b1"), Speaker::start("b2"));
    let spare = Speaker::start("spare");
    let backends = [
        backend("b1", &first.address()),
        backend("b2", &second.address()),
        backend("spare", &spare.address()).replace(" }", ", backup = true }"),
    ];
    let daemon = start("", &web(&backends, &check("tcp")));
    let address = daemon.address("web");
    let names = tally(address, 20);
    assert_eq!((names["b1"], names["b2"]), (10, 10), "{names:?}");
    first.kill();
    wait_state(&daemon, "b1", "down");
    assert_eq!(tally(address, 10)["b2"], 10);
    let probes = probes(&daemon);
    let begun = Instant::now();
    second.kill();
    let done = Instant::now();
    wait_state(&daemon, "b2", "down");
    assert_eq!(tally(address, 10)["spare"], 10);
    assert!(daemon.backend("web", "spare").backup);
    first.restart();
    wait_state(&daemon, "b1", "up");
    assert_eq!(tally(address, 10)["b1"], 10);
    assert_only_in_flight(&probes.stop(), &[(begun, done)]);
}

#[test]
fn a_backend_that_comes_up_gets_its_share_bit_by_bit() {
    const WHOLE: Duration = Duration::from_secs(3);
    let _alone = alone();
    let (first, mut second) = (Speaker::start("b1"), Speaker::start("b2"));
    let backends = [
        backend("b1", &first.address()),
        backend("b2", &second.address()),
    ];
    let lines = format!("scheduler = \"wrr\"\nslow_start = \"3s\"\n{}", check("tcp"));
    let daemon = start("", &web(&backends, &lines));
    let address = daemon.address("web");
    // At the start both were new.
    pause_until(Instant::now() + WHOLE);
    let share = || {
        let names = tally(address, 100);
        names.get("b2").copied().unwrap_or(0)
    };
    assert_eq!(share(), 50);
    second.kill();
    wait_state(&daemon, "b2", "down");
    let restarted = Instant::now();
    second.restart();
    wait_state(&daemon, "b2", "up");
    let mut shares = Vec::new();
    while restarted.elapsed() < WHOLE {
        shares.push((restarted.elapsed().as_millis(), share()));
    }
    // It grows from a tenth of its turns to all of them, and its turns are half of all.
    let quarter = WHOLE.as_millis() / 4;
    let mean = |from: u128| {
        let within = shares
            .iter()
            .filter(|(at, _)| *at >= from && *at < from + quarter);
        let shares: Vec<usize> = within.map(|(_, share)| *share).collect();
        shares.iter().sum::<usize>() / shares.len().max(1)
    };
    let (early, late) = (mean(0), mean(2 * quarter));
    assert!(early < 25, "{early} % at first, {shares:?}");
    assert!(late > early + 10 && late < 48, "{late} % later, {shares:?}");
    eventually(SOON, "it has its whole share", || {
        (share() == 50).then_some(())
    });
}

#[test]
fn an_agent_has_its_say() {
    let first = Speaker::start("b1");
    let second = Speaker::start("b2");
    // Each stands beside its server, all at the same port.
    let other = Speaker::start_at(first.address().ip(), 128, "up", &[]);
    let port = other.address().port();
    let agent = Speaker::start_at_port(SocketAddr::new(second.address().ip(), port), "up");
    let backends = [
        backend("b1", &first.address()),
        backend("b2", &second.address()),
    ];
    let lines =
        format!("scheduler = \"wrr\"\ncheck = {{ kind = \"agent\", port = {port}, {QUICK} }}");
    let daemon = start("", &web(&backends, &lines));
    let address = daemon.address("web");
    let tell = |words: &str| agent.say(Speech::Line(words.to_owned()));
    let names = tally(address, 20);
    assert_eq!((names["b1"], names["b2"]), (10, 10), "{names:?}");
    for (words, state) in [("drain", "drain"), ("down", "down"), ("maint", "maint")] {
        tell(words);
        wait_state(&daemon, "b2", state);
        assert_eq!(tally(address, 10)["b1"], 10, "{words}");
        tell("up ready");
        wait_state(&daemon, "b2", "up");
    }
    assert!(tally(address, 10).len() == 2);
    tell("up 50%");
    daemon.wait_status("the share that it asks for is shown", |status| {
        let b2 = &status.services[0].backends[1];
        b2.state == "up" && b2.answer.contains("50%")
    });
    eventually(SOON, "it gets the share that it asks for", || {
        let names = tally(address, 30);
        (names["b2"] == 10).then_some(())
    });
}

#[test]
fn a_check_by_a_program_needs_to_be_allowed() {
    let server = Backend::start("b1", Mode::Name);
    let dir = TempDir::new();
    let (program, well) = (dir.join("probe"), dir.join("well"));
    let script = format!(
        "#!/bin/sh\necho \"$EVENKEEL_BACKEND at $EVENKEEL_ADDRESS\"\ntest -e {}\n",
        well.display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(&well, "").unwrap();
    let backends = [backend("b1", &server.address())];
    let lines = format!(
        "check = {{ kind = \"exec\", command = [\"{}\"], interval = \"200ms\", timeout = \"200ms\", rise = 1, fall = 2 }}",
        program.display()
    );
    let services = web(&backends, &lines);
    let refused = file("", &services);
    let mut daemon = Daemon::builder(PROGRAM, &refused).launch();
    let ended = daemon.wait_end(Duration::from_secs(20));
    assert_eq!(ended.code(), Some(3), "{}", daemon.log());
    assert!(daemon.log().contains("allow_exec"), "{}", daemon.log());

    let daemon = start("allow_exec = true", &services);
    let found = daemon.backend("web", "b1");
    assert!(
        found.answer.contains(&server.address().to_string()),
        "{found:?}"
    );
    std::fs::remove_file(&well).unwrap();
    wait_state(&daemon, "b1", "down");
    std::fs::write(&well, "").unwrap();
    wait_state(&daemon, "b1", "up");
}

/// With checks far apart, the traffic itself has a dead backend asked at once.
#[test]
fn failed_connects_are_evidence() {
    let (first, mut second) = (Speaker::start("b1"), Speaker::start("b2"));
    let backends = [
        backend("b1", &first.address()),
        backend("b2", &second.address()),
    ];
    let seldom =
        "check = { interval = \"60s\", fast_interval = \"100ms\", timeout = \"500ms\", fall = 2 }";
    let mut services = web(&backends, seldom);
    services.push_str(&web(&backends, "check = \"none\"").replace("web", "unchecked"));
    let daemon = start("", &services);
    let checked = probes(&daemon);
    let unchecked = Probes::start(daemon.address("unchecked"), PACE, "", PATIENCE);
    more(&unchecked, 20);
    let begun = Instant::now();
    second.kill();
    let done = Instant::now();
    daemon.wait_status("it is out of both", |status| {
        let mut services = status.services.iter();
        services.all(|service| service.backends[1].state == "down")
    });
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    let failures = || daemon.backend("unchecked", "b2").connect_failures;
    let before = failures();
    more(&unchecked, 60);
    assert!(
        failures() <= before + 2,
        "it is left in peace: {before} and {}",
        failures()
    );
    let harm = [(begun, done)];
    assert_only_in_flight(&checked.stop(), &harm);
    assert_only_in_flight(&unchecked.stop(), &harm);
}

#[test]
fn a_service_needs_as_many_as_it_says() {
    let mut speakers = ["b1", "b2", "b3"].map(Speaker::start);
    let backends: Vec<String> = ["b1", "b2", "b3"]
        .iter()
        .zip(&speakers)
        .map(|(name, speaker)| backend(name, &speaker.address()))
        .collect();
    let mut services = String::new();
    for (name, policy) in [
        ("any", "require = \"any\""),
        ("two", "require = 2"),
        ("half", "require = \"50%\""),
        ("all", "require = \"all\""),
        ("panic", "panic = \"50%\""),
    ] {
        let lines = format!("{policy}\n{}", check("tcp"));
        services.push_str(&web(&backends, &lines).replace("web", name));
    }
    let daemon = start("", &services);
    let expect = |gates: [(&str, &str); 5]| {
        daemon.wait_status(&format!("{gates:?}"), |status| {
            gates.iter().all(|(name, gate)| {
                let mut services = status.services.iter();
                services.any(|service| service.name == *name && service.gate == *gate)
            })
        });
        for (name, gate) in gates {
            let outcome = one_shot(daemon.address(name));
            let wanted = match gate {
                "closed" => outcome == Err(Failure::ResetBeforeFirstByte),
                _ => outcome.is_ok(),
            };
            assert!(wanted, "{name} is {gate}: {outcome:?}");
        }
    };
    let gates = |two, half, all, panic| {
        [
            ("any", "open"),
            ("two", two),
            ("half", half),
            ("all", all),
            ("panic", panic),
        ]
    };
    expect(gates("open", "open", "open", "open"));
    speakers[2].kill();
    expect(gates("open", "open", "closed", "open"));
    speakers[1].kill();
    expect(gates("closed", "closed", "closed", "panic"));
    speakers[2].restart();
    expect(gates("open", "open", "closed", "open"));
    speakers[1].restart();
    expect(gates("open", "open", "open", "open"));
}
