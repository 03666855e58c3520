//! Limits: connections at a time, queues, rates, networks, descriptors; each over all workers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use evenkeel_control::operator::Answer;
use evenkeel_testkit::doubles::{Speaker, Speech};
use evenkeel_testkit::{
    Backend, Daemon, Failure, Gauge, Mode, Signal, client, eventually, pause_until, proc,
};

use crate::{PROGRAM, SOON, alone, assert_balanced, backend, file};

/// A service on a port that the kernel chooses.
pub(crate) fn service(name: &str, lines: &str, backends: &[String]) -> String {
    let backends = backends.join(", ");
    format!(
        "[services.{name}]\nlisten = \"127.0.0.1:0\"\ncheck = \"none\"\nbackends = [{backends}]\n{lines}\n"
    )
}

/// A daemon with this many workers.
pub(crate) fn start(workers: u16, services: &str) -> Daemon {
    let daemon = Daemon::builder(PROGRAM, &config(workers, services)).start();
    daemon.wait_backends_up();
    daemon
}

fn config(workers: u16, services: &str) -> String {
    file("", services).replace("workers = 2", &format!("workers = {workers}"))
}

/// A backend with further keys.
fn backend_with(name: &str, address: SocketAddr, keys: &str) -> String {
    backend(name, &address).replace(" }", &format!(", {keys} }}"))
}

/// A connection that has its backend: the number that a [`Gauge`] gave to it.
fn enter(address: SocketAddr) -> Result<(TcpStream, u64), Failure> {
    let mut stream = client::connect(address)?;
    let number = client::read_line(&mut stream)?;
    Ok((stream, number.parse().unwrap()))
}

fn enter_many(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let all = (0..count).map(|_| enter(address).unwrap().0);
    all.collect()
}

/// That so many come in at a time and no more; they are gone afterwards.
fn assert_room(daemon: &Daemon, service: &str, room: usize) {
    let address = daemon.address(service);
    let held = enter_many(address, room);
    for _ in 0..3 {
        assert_eq!(
            enter(address).map(drop),
            Err(Failure::ResetBeforeFirstByte),
            "one more than {room} at {service}"
        );
    }
    drop(held);
    at_rest(daemon, service);
}

fn at_rest(daemon: &Daemon, name: &str) {
    daemon.wait_status("nothing is active any more", |status| {
        let service = status.services.iter().find(|found| found.name == name);
        service.is_some_and(|service| {
            service.active == 0
                && service.queued == 0
                && service.limits.iter().all(|limit| limit.active == 0)
                && service.backends.iter().all(|backend| backend.active == 0)
        })
    });
}

fn queued(daemon: &Daemon, count: u64) {
    eventually(SOON, &format!("{count} wait"), || {
        (daemon.service("web").queued == count).then_some(())
    });
}

/// From `threads` threads for `time`, each connection ended by `end`: how many came in, and how many were reset before the first byte. Anything else is an error.
fn hammer(address: SocketAddr, threads: usize, time: Duration, end: fn(TcpStream)) -> (u64, u64) {
    let (entered, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    let until = Instant::now() + time;
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while Instant::now() < until {
                    let count = match enter(address) {
                        Ok((stream, _)) => {
                            end(stream);
                            &entered
                        }
                        Err(Failure::ResetBeforeFirstByte) => &refused,
                        Err(failure) => panic!("{failure:?}"),
                    };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    (entered.into_inner(), refused.into_inner())
}

#[test]
fn a_listener_never_has_more_connections_than_it_may_have() {
    let _alone = alone();
    let gauge = Gauge::start();
    let services = service(
        "web",
        "max_connections = 8",
        &[backend("b1", &gauge.address())],
    );
    let daemon = start(4, &services);
    let (entered, refused) = hammer(daemon.address("web"), 16, Duration::from_secs(2), drop);
    assert!(
        entered > 200 && refused > 50,
        "{entered} entered, {refused} refused"
    );
    assert!(gauge.most() <= 8, "{} at a time", gauge.most());
    let service = assert_balanced(&daemon, "web");
    assert_eq!(
        (service.relayed, service.accepted),
        (entered, entered + refused)
    );
    assert_eq!(service.failed["max_connections"], refused);
    let workers = service
        .accepted_by_slot
        .values()
        .filter(|count| **count > 0);
    assert_eq!(workers.count(), 4);
    let labels = [("service", "web"), ("reason", "max_connections")];
    let counted = daemon.metrics();
    let counted = counted.value("evenkeel_listener_refused_total", &labels);
    assert_eq!(counted, Some(refused as f64));
    assert_room(&daemon, "web", 8);
    assert_eq!(gauge.most(), 8);
}

#[test]
fn a_worker_that_dies_gives_its_places_back() {
    let gauge = Gauge::start();
    let services = service(
        "web",
        "max_connections = 12",
        &[backend("b1", &gauge.address())],
    );
    let daemon = start(2, &services);
    let address = daemon.address("web");
    for round in 0..3 {
        let mut held = enter_many(address, 12);
        let before = daemon.status();
        let victim = before.workers.iter().max_by_key(|w| w.active).unwrap();
        let lost = victim.active;
        assert!(lost > 0, "{before:?}");
        proc::signal(victim.pid, Signal::KILL);
        let limit =
            |status: &evenkeel_control::operator::Status| status.services[0].limits[0].active;
        daemon.wait_status("the lost ones count no longer", |status| {
            limit(status) == 12 - lost
        });
        daemon.wait_ready();
        let more = enter_many(address, usize::try_from(lost).unwrap());
        assert_eq!(
            enter(address).map(drop),
            Err(Failure::ResetBeforeFirstByte),
            "round {round}"
        );
        assert!(gauge.most() <= 12, "{}", gauge.most());
        held.extend(more);
        drop(held);
        at_rest(&daemon, "web");
    }
    let service = assert_balanced(&daemon, "web");
    assert!(service.failed["worker_died"] >= 18, "{service:?}");
}

#[test]
fn whatever_ends_a_connection_gives_its_place_back() {
    const EACH: usize = 80;
    let _alone = alone();
    let gauge = Gauge::start();
    let nobody = Backend::stopped("nobody", Mode::Name);
    let limited = backend_with("b1", gauge.address(), "max_connections = 2");
    let queue = "max_connections = 20\nqueue = { length = 10, timeout = \"20ms\" }";
    let services = service("web", queue, &[limited])
        + &service(
            "dead",
            "max_connections = 20",
            &[backend("nobody", &nobody.address())],
        )
        + &service(
            "idle",
            "max_connections = 20\naccept_proxy = \"127.0.0.0/8\"\ntimeouts = { handshake = \"20ms\" }",
            &[backend("b1", &gauge.address())],
        )
        + &service(
            "denied",
            "max_connections = 20\ndeny = \"127.0.0.1\"",
            &[backend("b1", &gauge.address())],
        );
    let daemon = start(4, &services);
    let addresses = ["web", "dead", "idle", "denied"].map(|name| daemon.address(name));
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                for number in 0..EACH {
                    for address in addresses {
                        let Ok(mut stream) = client::connect(address) else {
                            continue;
                        };
                        match (thread + number) % 3 {
                            0 => {
                                drop(client::read_line(&mut stream));
                                pause_until(Instant::now() + Duration::from_millis(30));
                            }
                            1 => client::reset(stream),
                            _ => drop(stream),
                        }
                    }
                }
            });
        }
    });
    let web = assert_balanced(&daemon, "web");
    assert!(web.failed["queue_timeout"] > 0, "{web:?}");
    let total: u64 = daemon.status().services.iter().map(|s| s.accepted).sum();
    assert!(total > 2_000, "{total}");
    let metrics = daemon.metrics();
    for name in [
        "evenkeel_listener_active_connections",
        "evenkeel_backend_active_connections",
        "evenkeel_service_queued_connections",
        "evenkeel_service_active_connections",
        "evenkeel_worker_active_connections",
    ] {
        assert_eq!(metrics.value(name, &[]), Some(0.0), "{name}");
    }
    assert!(gauge.most() <= 2 + 20, "{}", gauge.most());
    assert_room(&daemon, "web", 2);
    let labels = [("service", "dead"), ("reason", "max_connections")];
    assert!(
        metrics
            .value("evenkeel_listener_refused_total", &labels)
            .is_some()
    );
}

#[test]
fn a_reload_changes_limits_under_connections() {
    let gauge = Gauge::start();
    let other = Backend::start("other", Mode::Name);
    let web = |lines: &str| service("web", lines, &[backend("b1", &gauge.address())]);
    let rest = service(
        "other",
        "max_connections = 9",
        &[backend("other", &other.address())],
    );
    let full = |daemon: &Daemon| {
        let outcome = enter(daemon.address("web")).map(drop);
        assert_eq!(outcome, Err(Failure::ResetBeforeFirstByte));
    };
    let daemon = start(2, &(web("max_connections = 4") + &rest));
    let mut held = enter_many(daemon.address("web"), 4);
    full(&daemon);
    daemon.apply(&config(2, &(web("max_connections = 6") + &rest)));
    held.extend(enter_many(daemon.address("web"), 2));
    full(&daemon);
    daemon.apply(&config(2, &(web("") + &rest)));
    held.extend(enter_many(daemon.address("web"), 4));
    // Those that came in while there was no limit count when there is one again.
    daemon.apply(&config(2, &(web("max_connections = 8") + &rest)));
    full(&daemon);
    assert_eq!(daemon.service("web").limits[0].active, 10);
    held.truncate(7);
    daemon.wait_status("three have left", |status| {
        let web = status.services.iter().find(|service| service.name == "web");
        web.unwrap().limits[0].active == 7
    });
    held.extend(enter_many(daemon.address("web"), 1));
    full(&daemon);

    // Removed, added again and changed while the connections run.
    daemon.apply(&config(2, &rest));
    for stream in &mut held[..2] {
        drop(stream.shutdown(std::net::Shutdown::Both));
    }
    daemon.apply(&config(2, &(web("max_connections = 3") + &rest)));
    let new = enter_many(daemon.address("web"), 3);
    full(&daemon);
    drop(held);
    eventually(SOON, "the old ones have ended", || {
        (gauge.open() == 3).then_some(())
    });
    let limits = daemon.service("web").limits;
    assert_eq!(limits[0].active, 3, "{limits:?}");
    full(&daemon);
    drop(new);
    at_rest(&daemon, "web");
    assert_room(&daemon, "web", 3);
    assert_eq!(daemon.service("other").limits[0].active, 0);
}

#[test]
fn a_backend_never_has_more_connections_than_it_may_have() {
    let _alone = alone();
    let gauges = [Gauge::start(), Gauge::start()];
    let backends = [
        backend_with("b1", gauges[0].address(), "max_connections = 3"),
        backend_with("b2", gauges[1].address(), "max_connections = 2"),
    ];
    for scheduler in ["rr", "lc"] {
        let lines = format!("scheduler = \"{scheduler}\"");
        let daemon = start(4, &service("web", &lines, &backends));
        let (entered, refused) = hammer(daemon.address("web"), 20, Duration::from_secs(2), drop);
        assert_eq!(refused, 0);
        assert!(entered > 200, "{entered}");
        let most = [gauges[0].most(), gauges[1].most()];
        assert_eq!(most, [3, 2], "with {scheduler}");
        let service = assert_balanced(&daemon, "web");
        assert_eq!(service.relayed, entered);
        let waited = daemon
            .metrics()
            .value("evenkeel_service_waited_total", &[("service", "web")]);
        assert!(waited.unwrap() > 50.0, "{waited:?}");
    }
}

/// A client's reset ends both connections at once: the place must not be another's before the backend has been told.
#[test]
fn a_place_is_given_on_when_the_backend_has_seen_the_end() {
    let _alone = alone();
    let gauge = Gauge::start();
    let limited = backend_with("b1", gauge.address(), "max_connections = 1");
    let daemon = start(4, &service("web", "queue = { length = 4 }", &[limited]));
    let time = Duration::from_secs(3);
    let (entered, refused) = hammer(daemon.address("web"), 8, time, client::reset);
    assert!(entered > 100, "{entered}");
    assert_eq!(gauge.most(), 1);
    let service = assert_balanced(&daemon, "web");
    assert_eq!(service.failed["queue_full"], refused);
}

#[test]
fn who_came_first_is_served_first_and_soon() {
    const WAITING: usize = 24;
    let _alone = alone();
    let gauge = Gauge::start();
    let limited = backend_with("b1", gauge.address(), "max_connections = 1");
    let daemon = start(
        4,
        &service("web", "queue = { timeout = \"30s\" }", &[limited]),
    );
    let address = daemon.address("web");
    let (_first, number) = enter(address).unwrap();
    assert_eq!(number, 1);
    let mut waiting = Vec::new();
    for count in 1..=WAITING {
        waiting.push(client::connect(address).unwrap());
        queued(&daemon, count as u64);
    }
    let mut numbers = Vec::new();
    let mut times = Vec::new();
    for stream in &mut waiting {
        let released = Instant::now();
        assert!(gauge.release());
        numbers.push(client::read_line(stream).unwrap().parse::<usize>().unwrap());
        times.push(released.elapsed());
    }
    // The look round of another worker may come in between, so that one is overtaken by one.
    for (place, number) in (2..).zip(&numbers) {
        assert!(number.abs_diff(place) <= 2, "{numbers:?}");
    }
    let in_order = (2..)
        .zip(&numbers)
        .filter(|(place, number)| place == *number);
    assert!(in_order.count() >= WAITING - 4, "{numbers:?}");
    times.sort();
    assert!(times[WAITING / 2] < Duration::from_millis(20), "{times:?}");
    assert!(
        times[WAITING * 3 / 4] < Duration::from_millis(60),
        "{times:?}"
    );
    assert_eq!(gauge.most(), 1);
    drop(waiting);
    while gauge.release() {}
    assert_balanced(&daemon, "web");
}

#[test]
fn a_queue_has_its_length_and_its_time() {
    const TIME: Duration = Duration::from_millis(1_000);
    let gauge = Gauge::start();
    let limited = backend_with("b1", gauge.address(), "max_connections = 1");
    let lines = "queue = { length = 3, timeout = \"1s\" }";
    let daemon = start(2, &service("web", lines, &[limited]));
    let address = daemon.address("web");
    let (_held, _) = enter(address).unwrap();
    let refused = || {
        let begun = Instant::now();
        let outcome = enter(address).map(drop);
        assert_eq!(outcome, Err(Failure::ResetBeforeFirstByte));
        assert!(begun.elapsed() < TIME / 2, "{:?}", begun.elapsed());
    };
    // A client that leaves frees its place.
    let mut leaving: Vec<_> = (0..3).map(|_| client::connect(address).unwrap()).collect();
    queued(&daemon, 3);
    refused();
    client::reset(leaving.pop().unwrap());
    queued(&daemon, 2);
    let waits =
        std::thread::spawn(move || (Instant::now(), enter(address).map(drop), Instant::now()));
    queued(&daemon, 3);
    refused();
    let (begun, outcome, ended) = waits.join().unwrap();
    assert_eq!(outcome, Err(Failure::ResetBeforeFirstByte));
    let took = ended - begun;
    assert!(
        took >= TIME && took < TIME + Duration::from_millis(500),
        "{took:?}"
    );
    drop(leaving);
    assert!(gauge.release());
    eventually(SOON, "the place is free again", || enter(address).ok());
    while gauge.release() {}
    let service = assert_balanced(&daemon, "web");
    assert_eq!(service.failed["queue_full"], 2, "{service:?}");
    assert_eq!(service.failed["client_gone"], 1, "{service:?}");
    assert_eq!(service.failed["queue_timeout"], 3, "{service:?}");
}

#[test]
fn a_worker_that_dies_with_its_queue_does_not_hold_up_the_others() {
    let gauge = Gauge::start();
    let limited = backend_with("b1", gauge.address(), "max_connections = 1");
    let daemon = start(
        2,
        &service("web", "queue = { timeout = \"30s\" }", &[limited]),
    );
    let address = daemon.address("web");
    for round in 0..2 {
        let (_held, _) = enter(address).unwrap();
        let mut waiting: Vec<_> = (0..12).map(|_| client::connect(address).unwrap()).collect();
        queued(&daemon, 12);
        // Once the one with the lowest tickets dies, once the other.
        let victim = &daemon.status().workers[round];
        assert!(victim.active > 0);
        proc::signal(victim.pid, Signal::KILL);
        let stop = AtomicBool::new(false);
        let (served, lost) = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    gauge.release();
                    pause_until(Instant::now() + Duration::from_millis(5));
                }
            });
            let begun = Instant::now();
            let outcomes: Vec<_> = waiting.iter_mut().map(client::read_line).collect();
            stop.store(true, Ordering::Relaxed);
            assert!(
                begun.elapsed() < Duration::from_secs(3),
                "{:?}",
                begun.elapsed()
            );
            let lost = outcomes
                .iter()
                .filter(|outcome| **outcome == Err(Failure::ResetBeforeFirstByte));
            let served = outcomes.iter().filter(|outcome| outcome.is_ok());
            (served.count(), lost.count())
        });
        assert!(
            served > 0 && lost > 0 && served + lost == 12,
            "{served} {lost}"
        );
        drop(waiting);
        while gauge.release() {}
        daemon.wait_ready();
        at_rest(&daemon, "web");
    }
    assert_eq!(gauge.most(), 1);
    assert_balanced(&daemon, "web");
}

#[test]
fn a_reload_changes_what_is_waited_for() {
    let gauge = Gauge::start();
    let text = |workers: u16, limit: &str| {
        let table = match limit {
            "" => backend("b1", &gauge.address()),
            limit => backend_with("b1", gauge.address(), limit),
        };
        config(
            workers,
            &service("web", "queue = { timeout = \"30s\" }", &[table]),
        )
    };
    let daemon = Daemon::builder(PROGRAM, &text(4, "max_connections = 1")).start();
    let address = daemon.address("web");
    let mut clients: Vec<_> = (0..12).map(|_| client::connect(address).unwrap()).collect();
    queued(&daemon, 11);
    let waits_for = |open: usize| {
        let begun = Instant::now();
        eventually(SOON, &format!("{open} are served"), || {
            (gauge.open() == open).then_some(())
        });
        assert!(
            begun.elapsed() < Duration::from_secs(1),
            "{:?}",
            begun.elapsed()
        );
    };
    daemon.apply(&text(4, "max_connections = 4"));
    waits_for(4);
    queued(&daemon, 8);
    // Lowered: those that run go on, and nobody comes in before there is room again.
    daemon.apply(&text(4, "max_connections = 2"));
    assert!(gauge.release() && gauge.release());
    at_least_queued(&daemon, 8);
    assert_eq!((gauge.open(), gauge.accepted()), (2, 4));
    assert!(gauge.release());
    eventually(SOON, "the next one is served", || {
        (gauge.accepted() == 5).then_some(())
    });
    assert_eq!(gauge.open(), 2);
    // Fewer workers: those that wait in one that goes are served nevertheless.
    daemon.apply(&text(2, "max_connections = 2"));
    for accepted in 6..=7 {
        assert!(gauge.release());
        eventually(SOON, "the next one is served", || {
            (gauge.accepted() == accepted).then_some(())
        });
    }
    // Without a limit all come in, and the books are in order.
    daemon.apply(&text(2, ""));
    eventually(SOON, "all are served", || {
        (gauge.accepted() == 12).then_some(())
    });
    for stream in &mut clients {
        assert!(client::read_line(stream).is_ok());
    }
    drop(clients);
    assert_balanced(&daemon, "web");
    at_rest(&daemon, "web");
}

/// For a while.
fn at_least_queued(daemon: &Daemon, count: u64) {
    evenkeel_testkit::throughout(Duration::from_millis(300), "they wait", || {
        daemon.service("web").queued >= count
    });
}

#[test]
fn an_agent_lowers_the_limit_of_its_backend() {
    let gauge = Gauge::start();
    let agent = Speaker::start_at(Ipv4Addr::LOCALHOST.into(), 128, "up maxconn:2", &[]);
    let check = format!(
        "check = {{ kind = \"agent\", port = {}, interval = \"100ms\", timeout = \"100ms\", rise = 1 }}",
        agent.address().port()
    );
    let limited = backend_with("b1", gauge.address(), "max_connections = 4");
    let services = service("web", &check, &[limited]).replace("check = \"none\"\n", "");
    let daemon = start(2, &services);
    let limit = |limit: u32| {
        daemon.wait_status("the limit is known", |status| {
            status.services[0].backends[0].max_connections == Some(limit)
        });
    };
    let address = daemon.address("web");
    limit(2);
    let mut held = enter_many(address, 2);
    let mut waits = client::connect(address).unwrap();
    queued(&daemon, 1);
    agent.say(Speech::Line("up maxconn:3".to_owned()));
    assert_eq!(client::read_line(&mut waits).as_deref(), Ok("3"));
    held.push(waits);
    // It cannot raise what the configuration says.
    agent.say(Speech::Line("up maxconn:100".to_owned()));
    limit(4);
    held.extend(enter_many(address, 1));
    let mut waits = client::connect(address).unwrap();
    queued(&daemon, 1);
    held.truncate(3);
    assert_eq!(client::read_line(&mut waits).as_deref(), Ok("5"));
    assert_eq!(gauge.most(), 4);
}

#[test]
fn new_connections_come_no_faster_than_the_rate_over_all_workers() {
    let _alone = alone();
    let gauge = Gauge::start();
    let lines = "rate = 100\nrate_burst = 20";
    let daemon = start(
        4,
        &service("web", lines, &[backend("b1", &gauge.address())]),
    );
    let address = daemon.address("web");
    let begun = Instant::now();
    let (entered, refused) = hammer(address, 6, Duration::from_secs(2), drop);
    let most = 20.0 + 100.0 * begun.elapsed().as_secs_f64();
    let share = entered as f64 / most;
    assert!(share <= 1.01 && share > 0.8, "{entered} of {most}");
    let service = assert_balanced(&daemon, "web");
    assert_eq!(service.failed["rate"], refused);
    // After a quiet time the burst is whole again, and no more than whole.
    pause_until(Instant::now() + Duration::from_millis(500));
    let begun = Instant::now();
    let mut burst = 0;
    while enter(address).is_ok() {
        burst += 1;
    }
    let grown = begun.elapsed().as_secs_f64() * 100.0;
    assert!(burst >= 20 && f64::from(burst) <= 21.0 + grown, "{burst}");
}

#[test]
fn each_source_has_a_rate_of_its_own_over_all_workers() {
    let gauge = Gauge::start();
    // One more in ten seconds would be too seldom to be seen.
    let lines = "source_rate = 1\nsource_burst = 6";
    let mut services = service("web", lines, &[backend("b1", &gauge.address())]);
    services.push_str(
        &service("six", lines, &[backend("b1", &gauge.address())])
            .replace("127.0.0.1:0", "[::1]:0"),
    );
    let daemon = start(4, &services);
    let from = |source: &str, service: &str| {
        let source: IpAddr = source.parse().unwrap();
        let mut stream = client::connect_from(source, daemon.address(service))?;
        client::read_line(&mut stream)
    };
    let refused = Err(Failure::ResetBeforeFirstByte);
    for (source, service) in [("127.0.0.1", "web"), ("127.0.0.2", "web"), ("::1", "six")] {
        let begun = Instant::now();
        let mut passed = 0;
        for _ in 0..30 {
            let outcome = from(source, service);
            passed += u64::from(outcome.is_ok());
            assert!(
                outcome.is_ok() || outcome.clone().map(drop) == refused,
                "{outcome:?}"
            );
        }
        assert!(
            passed >= 6 && passed <= 6 + begun.elapsed().as_secs() + 1,
            "{source}: {passed}"
        );
    }
    let service = assert_balanced(&daemon, "web");
    assert!(service.failed["source_rate"] >= 2 * 22, "{service:?}");
    assert!(
        service
            .accepted_by_slot
            .values()
            .filter(|count| **count > 0)
            .count()
            > 2
    );
}

#[test]
fn who_may_not_come_is_reset() {
    let gauge = Gauge::start();
    let backends = [backend("b1", &gauge.address())];
    let services = service(
        "allow",
        "allow = [\"127.0.0.2\", \"127.0.1.0/24\"]",
        &backends,
    ) + &service(
        "both",
        "allow = \"127.0.0.0/8\"\ndeny = \"127.0.0.2/31\"",
        &backends,
    ) + &service("six", "deny = \"::1\"", &backends)
        .replace("127.0.0.1:0", "[::1]:0")
        + &service("four", "deny = \"127.0.0.0/8\"", &backends).replace("127.0.0.1:0", "[::1]:0");
    let daemon = start(2, &services);
    for (service, source, comes) in [
        ("allow", "127.0.0.1", false),
        ("allow", "127.0.0.2", true),
        ("allow", "127.0.1.77", true),
        ("allow", "127.0.2.77", false),
        ("both", "127.0.0.1", true),
        ("both", "127.0.0.2", false),
        ("both", "127.0.0.3", false),
        ("both", "127.0.0.4", true),
        ("six", "::1", false),
        ("four", "::1", true),
    ] {
        let source: IpAddr = source.parse().unwrap();
        let stream = client::connect_from(source, daemon.address(service));
        let outcome = stream.and_then(|mut stream| client::read_line(&mut stream));
        match comes {
            true => assert!(outcome.is_ok(), "{service} {source} {outcome:?}"),
            false => assert_eq!(
                outcome,
                Err(Failure::ResetBeforeFirstByte),
                "{service} {source}"
            ),
        }
    }
    let metrics = daemon.metrics();
    for (name, count) in [("allow", 2), ("both", 2), ("six", 1), ("four", 0)] {
        assert_balanced(&daemon, name);
        let denied = daemon.service(name).failed.get("denied").copied();
        assert_eq!(denied.unwrap_or(0), count, "{name}");
        let labels = [("service", name), ("reason", "denied")];
        let counted = metrics.value("evenkeel_listener_refused_total", &labels);
        assert_eq!(counted, Some(count as f64), "{name}");
    }
}

#[test]
fn without_descriptors_what_runs_goes_on() {
    const DESCRIPTORS: u32 = 400;
    let _alone = alone();
    let gauge = Gauge::start();
    let backends = [backend("b1", &gauge.address())];
    let lines = "check = { interval = \"100ms\", timeout = \"100ms\", rise = 1 }";
    let services = service("web", lines, &backends).replace("check = \"none\"\n", "");
    let text = config(2, &services);
    let daemon = Daemon::builder(PROGRAM, &text)
        .descriptors(DESCRIPTORS)
        .start();
    daemon.wait_backends_up();
    let address = daemon.address("web");
    let mut held = Vec::new();
    let mut refused = 0;
    for _ in 0..400 {
        match enter(address) {
            Ok((stream, _)) => held.push(stream),
            Err(Failure::ResetBeforeFirstByte) => refused += 1,
            Err(failure) => panic!("{failure:?}"),
        }
    }
    let metrics = daemon.metrics();
    let counted = metrics.value("evenkeel_worker_refused_total", &[]);
    assert_eq!(counted, Some(f64::from(refused)), "{} held", held.len());
    assert!(refused > 50, "{refused} refused, {} held", held.len());
    let exhausted = [("reason", "exhausted")];
    let exhausted = metrics.value("evenkeel_worker_accept_errors_total", &exhausted);
    assert_eq!(exhausted, Some(0.0));
    // Health and reload go on.
    let checks = || metrics_of(&daemon, "evenkeel_backend_checks_total");
    let before = checks();
    let answer = daemon.reload();
    assert!(matches!(answer, Answer::Reloaded { .. }), "{answer:?}");
    let more = text + &service("new", "", &backends);
    daemon.apply(&more);
    eventually(SOON, "checks go on", || {
        (checks() > before + 2.0).then_some(())
    });
    assert_eq!(daemon.backend("web", "b1").state, "up");
    let is_alive = |stream: &mut TcpStream| {
        stream.set_nonblocking(true).unwrap();
        let seen = stream.peek(&mut [0]).map_err(|error| error.kind());
        seen == Err(std::io::ErrorKind::WouldBlock)
    };
    assert!(held.iter_mut().all(is_alive));
    // Room comes back as they end.
    drop(held);
    at_rest(&daemon, "web");
    for _ in 0..100 {
        drop(enter(address).unwrap());
    }
    let service = assert_balanced(&daemon, "web");
    assert_eq!(service.failed["exhausted"], u64::try_from(refused).unwrap());
}

fn metrics_of(daemon: &Daemon, name: &str) -> f64 {
    daemon
        .metrics()
        .value(name, &[("service", "web")])
        .unwrap_or(0.0)
}

#[test]
fn a_client_that_has_ended_its_side_is_still_served() {
    let gauge = Gauge::start();
    let limited = backend_with("b1", gauge.address(), "max_connections = 1");
    let daemon = start(2, &service("web", "", &[limited]));
    let address = daemon.address("web");
    let (_held, _) = enter(address).unwrap();
    let mut waits = client::connect(address).unwrap();
    waits.shutdown(std::net::Shutdown::Write).unwrap();
    queued(&daemon, 1);
    assert!(gauge.release());
    assert_eq!(client::read_to_end(&mut waits).unwrap(), b"2\n");
}
