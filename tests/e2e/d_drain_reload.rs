//! Stopping, and switching to another configuration, without losing a connection.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use evenkeel_control::operator::{Answer, Request};
use evenkeel_testkit::client::one_shot_within;
use evenkeel_testkit::{
    Backend, Config, Daemon, Failure, Load, Mode, Scraper, Service, Signal, client, eventually,
    one_shot, proc,
};

use crate::{SOON, alone, assert_balanced, assert_only_rose, descriptors_or_skip, start, tally};

/// A connection that has said something and got it back.
fn talk(daemon: &Daemon, service: &str) -> TcpStream {
    let mut stream = client::connect(daemon.address(service)).unwrap();
    say(&mut stream, "hello");
    stream
}

fn say(stream: &mut TcpStream, word: &str) {
    stream.write_all(format!("{word}\n").as_bytes()).unwrap();
    assert_eq!(client::read_line(stream).as_deref(), Ok(word));
}

fn phase_is(daemon: &Daemon, phase: &str) {
    daemon.wait_status(phase, |status| status.phase == phase);
}

#[test]
fn what_runs_at_sigterm_may_finish() {
    const A_MOMENT: Duration = Duration::from_millis(100);
    let backend = Backend::start("b1", Mode::Echo);
    let mut config = Config::new([Service::new("web", [&backend])]);
    config.drain_deadline = "60s".to_owned();
    let mut daemon = start(&config);
    let address = daemon.address("web");
    let mut stream = talk(&daemon, "web");
    daemon.signal(Signal::TERM);
    phase_is(&daemon, "draining");
    say(&mut stream, "still here");
    eventually(SOON, "new connections are refused", || {
        (one_shot_within(address, A_MOMENT) == Err(Failure::Refused)).then_some(())
    });
    say(&mut stream, "and now");
    drop(stream);
    let ended = daemon.wait_end(Duration::from_secs(20));
    assert_eq!(ended.code(), Some(0), "{ended}");
    assert!(daemon.processes().is_empty());
}

#[test]
fn the_drain_deadline_cuts_what_is_left() {
    let backend = Backend::start("b1", Mode::Echo);
    let mut config = Config::new([Service::new("web", [&backend])]);
    config.drain_deadline = "1s".to_owned();
    let mut daemon = start(&config);
    let mut stream = talk(&daemon, "web");
    let begun = Instant::now();
    let ended = daemon.stop();
    assert_eq!(ended.code(), Some(0), "{ended}");
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_millis(900) && took < Duration::from_secs(8),
        "{took:?}"
    );
    let cut = client::read_to_end(&mut stream);
    assert_eq!(cut, Err(Failure::ResetBeforeFirstByte), "a cut is a reset");
}

#[test]
fn during_the_delay_it_accepts_but_is_not_ready() {
    let backend = Backend::start("b1", Mode::Name);
    let mut config = Config::new([Service::new("web", [&backend])]);
    config.drain_delay = "3s".to_owned();
    let mut daemon = start(&config);
    let address = daemon.address("web");
    assert_eq!(daemon.http("/ready").0, 200);
    let begun = Instant::now();
    daemon.signal(Signal::TERM);
    phase_is(&daemon, "delaying");
    eventually(Duration::from_secs(2), "it is not ready", || {
        (daemon.http("/ready").0 == 503).then_some(())
    });
    assert_eq!(tally(address, 20)["b1"], 20);
    let ended = daemon.wait_end(Duration::from_secs(20));
    assert_eq!(ended.code(), Some(0), "{ended}");
    assert!(
        begun.elapsed() >= Duration::from_millis(2_900),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(one_shot(address), Err(Failure::Refused));
}

#[test]
fn a_second_sigterm_ends_it_at_once() {
    let backend = Backend::start("b1", Mode::Echo);
    let mut config = Config::new([Service::new("web", [&backend])]);
    config.drain_deadline = "600s".to_owned();
    let mut daemon = start(&config);
    let _stream = talk(&daemon, "web");
    let processes = daemon.processes();
    daemon.signal(Signal::TERM);
    phase_is(&daemon, "draining");
    daemon.signal(Signal::TERM);
    daemon.wait_end(SOON);
    eventually(SOON, "every process is gone", || {
        (!processes.iter().any(|pid| proc::alive(*pid))).then_some(())
    });
}

#[test]
fn services_come_and_go_by_reload() {
    // Whoever comes in before the sockets are closed is served, by a backend that says nothing.
    const A_MOMENT: Duration = Duration::from_millis(100);
    let backends = Backend::several(&["b1", "b2"], Mode::Echo);
    let web = Service::new("web", &backends[..1]);
    let api = Service::new("api", &backends[1..]);
    let daemon = start(&Config::new([web.clone()]));
    let first = daemon.status();
    let mut stream = talk(&daemon, "web");

    let generation = daemon.apply(&Config::new([web, api.clone()]));
    assert!(generation > first.generation);
    let web_address = daemon.address("web");
    assert_eq!(
        web_address,
        first
            .services
            .iter()
            .find(|s| s.name == "web")
            .unwrap()
            .listeners[0]
    );
    let _second = talk(&daemon, "api");

    daemon.apply(&Config::new([api]));
    eventually(SOON, "nobody listens for the service that is gone", || {
        (one_shot_within(web_address, A_MOMENT) == Err(Failure::Refused)).then_some(())
    });
    say(
        &mut stream,
        "a connection of a service that is gone goes on",
    );
    assert!(proc::listening(web_address).is_empty());
    let now = daemon.status();
    assert_eq!(now.services.len(), 1);
    let pids = |status: &evenkeel_control::operator::Status| -> Vec<u32> {
        status.workers.iter().map(|worker| worker.pid).collect()
    };
    assert_eq!(pids(&first), pids(&now), "the processes are the same");
    assert_eq!(first.monitor.pid, now.monitor.pid);
}

#[test]
fn the_kernels_choice_of_a_port_is_kept() {
    let backends = Backend::several(&["b1", "b2"], Mode::Name);
    let daemon = start(&Config::new([Service::new("web", &backends[..1])]));
    let address = daemon.address("web");
    let metrics = daemon.metrics_address();
    let sockets = proc::listening(address);
    assert_eq!(sockets.len(), 2, "one a worker");
    for round in 0..5 {
        daemon.apply(&Config::new([Service::new("web", &backends[round % 2..])]));
        assert_eq!(daemon.address("web"), address);
        assert_eq!(proc::listening(address), sockets);
        assert_eq!(daemon.status().metrics, [metrics]);
    }
}

#[test]
fn a_backend_that_is_gone_keeps_its_connections_and_gets_no_new_ones() {
    let backends = Backend::several(&["b1", "b2"], Mode::Greet);
    let daemon = start(&Config::new([Service::new("web", &backends[..1])]));
    let address = daemon.address("web");
    let mut old = client::connect(address).unwrap();
    assert_eq!(client::read_line(&mut old).as_deref(), Ok("b1"));
    daemon.apply(&Config::new([Service::new("web", &backends[1..])]));
    for _ in 0..10 {
        let mut new = client::connect(address).unwrap();
        assert_eq!(client::read_line(&mut new).as_deref(), Ok("b2"));
    }
    say(&mut old, "still with b1");
    assert_eq!(backends[0].open(), 1);
}

/// All workers switch at one instant, before whoever asked has the answer.
#[test]
fn a_reload_that_is_answered_is_in_force_in_every_worker() {
    let backends = Backend::several(&["b1", "b2"], Mode::Name);
    let with = |round: usize| {
        Config::new([Service::new("web", &backends[round % 2..][..1]).unchecked()]).workers(4)
    };
    let daemon = start(&with(0));
    let address = daemon.address("web");
    for round in 1..=100 {
        daemon.apply(&with(round));
        for _ in 0..8 {
            let name = one_shot(address);
            assert_eq!(name.as_deref(), Ok(backends[round % 2].name()), "{round}");
        }
    }
}

#[test]
fn a_new_backend_that_is_dead_gets_nothing_from_the_first_moment() {
    let backends = Backend::several(&["b1", "b2"], Mode::Name);
    let dead = Backend::stopped("dead", Mode::Name);
    let mut service = Service::new("web", &backends);
    // One failed check must do, since it is the first.
    service.fall = 1;
    service
        .backends
        .push(("dead".to_owned(), dead.address(), 1));
    let daemon = start(&Config::new([Service::new("web", &backends)]));
    daemon.apply(&Config::new([service]));
    assert_eq!(daemon.backend("web", "dead").state, "down");
    let names = tally(daemon.address("web"), 20);
    assert_eq!((names["b1"], names["b2"]), (10, 10));
    let service = daemon.service("web");
    assert_eq!(service.retries, 0, "{service:?}");
}

#[test]
fn an_unchanged_configuration_changes_nothing() {
    let backend = Backend::start("b1", Mode::Name);
    let daemon = start(&Config::new([Service::new("web", [&backend])]));
    let before = daemon.status();
    let answer = daemon.reload();
    let Answer::Reloaded { changes, .. } = &answer else {
        panic!("{answer:?}")
    };
    assert!(changes.is_empty(), "{changes:?}");
    assert_eq!(
        daemon.status().services[0].backends[0].cell,
        before.services[0].backends[0].cell
    );
}

#[test]
fn a_storm_of_signals_ends_with_the_last_configuration() {
    let backends = Backend::several(&["b1", "b2"], Mode::Name);
    let daemon = start(&Config::new([Service::new("web", &backends[..1])]));
    let before = daemon.status();
    daemon.rewrite_config(&Config::new([Service::new("web", &backends[1..])]));
    for _ in 0..50 {
        daemon.signal(Signal::HUP);
    }
    let after = daemon.wait_status("b2 is the backend", |status| {
        status.services[0].backends[0].name == "b2"
    });
    assert!(
        after
            .last_reload
            .as_ref()
            .is_some_and(|reload| reload.applied),
        "{after:?}"
    );
    assert_eq!(tally(daemon.address("web"), 10)["b2"], 10);
    let after = daemon.wait_ready();
    for (before, after) in before.workers.iter().zip(&after.workers) {
        assert_eq!((before.pid, after.crashes), (after.pid, 0));
    }
}

#[test]
fn reloads_in_the_middle_of_reloads_are_all_answered() {
    const CLIENTS: usize = 8;
    let backends = Backend::several(&["b1", "b2", "b3"], Mode::Name);
    let daemon = start(&Config::new([Service::new("web", &backends[..1])]));
    for round in 0..3 {
        daemon.rewrite_config(&Config::new([Service::new("web", &backends[..=round % 3])]));
        let answers: Vec<_> = std::thread::scope(|scope| {
            let ask = || daemon.ask(&Request::Reload);
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(ask)).collect();
            clients
                .into_iter()
                .map(|client| client.join().unwrap())
                .collect()
        });
        for answer in answers {
            assert!(matches!(answer, Ok(Answer::Reloaded { .. })), "{answer:?}");
        }
        assert_eq!(daemon.service("web").backends.len(), round % 3 + 1);
    }
    daemon.wait_backends_up();
    assert_eq!(tally(daemon.address("web"), 9).len(), 3);
}

/// A configuration that binds `count` more addresses.
fn with_more_listeners(config: &Config, count: usize) -> Config {
    let mut config = config.clone();
    let more = std::iter::repeat_n("127.0.0.1:0".to_owned(), count);
    // One service for each: within a service an address may stand only once.
    let template = config.services[0].clone();
    for (number, listen) in more.enumerate() {
        let mut service = template.clone();
        service.name = format!("extra-{number}");
        service.listen = vec![listen];
        config.services.push(service);
    }
    config
}

#[test]
fn a_reload_that_a_worker_cannot_take_changes_nothing() {
    const MORE: usize = 60;
    let backend = Backend::start("b1", Mode::Name);
    let mut service = Service::new("web", [&backend]);
    service.check = false;
    let mut config = Config::new([service]);
    // Limits of another user's process are not ours to change.
    config.top = "user = \"keep\"".to_owned();
    let daemon = start(&config);
    let before = daemon.status();
    let worker = before.workers[0].pid;
    let unlimited = before.descriptor_limit;
    let Some(held) = descriptors_or_skip(worker, "a reload that a worker cannot take") else {
        return;
    };
    proc::limit_descriptors(worker, held as u64 + 4).unwrap();
    daemon.rewrite_config(&with_more_listeners(&config, MORE));
    let answer = daemon.reload();
    let Answer::Failed { reason } = &answer else {
        panic!("{answer:?}")
    };
    assert!(!reason.is_empty());
    proc::limit_descriptors(worker, unlimited).unwrap();

    let after = daemon.status();
    assert_eq!(after.generation, before.generation);
    assert_eq!(after.services.len(), 1);
    assert_eq!(after.services[0].listeners, before.services[0].listeners);
    assert_eq!(after.workers[0].pid, worker, "{reason}");
    assert_eq!(tally(daemon.address("web"), 20)["b1"], 20);
    eventually(SOON, "what was sent is let go of", || {
        (proc::descriptors(worker)? <= held + 8).then_some(())
    });
    // With room it works.
    let generation = daemon.apply(&with_more_listeners(&config, MORE));
    assert!(generation > before.generation);
    assert_eq!(one_shot(daemon.address("extra-59")).as_deref(), Ok("b1"));
}

#[test]
fn a_worker_that_does_not_answer_is_replaced_and_the_reload_undone() {
    let backends = Backend::several(&["b1", "b2"], Mode::Name);
    let with = |backends| {
        let mut config = Config::new([Service::new("web", backends)]);
        // Only the deadline of the reload may act.
        config.steer_after = "60s".to_owned();
        config.kill_after = "60s".to_owned();
        config
    };
    let daemon = start(&with(&backends[..1]));
    let before = daemon.status();
    let worker = before.workers[0].pid;
    assert!(proc::signal(worker, Signal::STOP));
    daemon.rewrite_config(&with(&backends));
    let answer = daemon.reload();
    assert!(matches!(answer, Answer::Failed { .. }), "{answer:?}");
    let after = daemon.wait_status("the worker is replaced", |status| {
        let first = &status.workers[0];
        first.pid != worker && first.state == "live"
    });
    assert_eq!(after.generation, before.generation);
    assert_eq!(after.services[0].backends.len(), 1);
    assert_eq!(after.workers[1].pid, before.workers[1].pid);
    assert!(!proc::alive(worker));
    assert_eq!(tally(daemon.address("web"), 20)["b1"], 20);
    daemon.apply(&with(&backends));
    daemon.wait_backends_up();
    assert_eq!(tally(daemon.address("web"), 20)["b2"], 10);
}

#[test]
fn more_than_the_capacity_is_refused_with_the_number() {
    let backends = Backend::several(&["b1", "b2", "b3", "b4"], Mode::Name);
    let with = |backends| {
        let mut config = Config::new([Service::new("web", backends).unchecked()]);
        config.top = "limits = { backends = 3 }".to_owned();
        config
    };
    let daemon = start(&with(&backends[..2]));
    daemon.apply(&with(&backends[..3]));
    daemon.rewrite_config(&with(&backends));
    match daemon.reload() {
        Answer::Failed { reason } => {
            assert!(reason.contains('3') || reason.contains('4'), "{reason}")
        }
        Answer::Invalid { problems, .. } => assert!(problems[0].contains('3'), "{problems:?}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(daemon.service("web").backends.len(), 3);
    assert_eq!(tally(daemon.address("web"), 9).len(), 3);
}

/// A long connection must not keep old plans in memory, and only its own backend's cell.
#[test]
fn a_long_connection_over_two_hundred_reloads_pins_no_plan() {
    const RELOADS: usize = 200;
    // One for the connection, one for the plan in force, one for the next, and few to spare.
    const CAPACITY: usize = FILLERS + 8;
    const FILLERS: usize = 100;
    let _alone = alone();
    let backend = Backend::start("b", Mode::Echo);
    let named = |name: &str| {
        let mut service = Service::new("web", [&backend]).unchecked();
        // Big enough that 200 plans kept would show.
        for number in 0..FILLERS {
            let filler = (format!("filler-{number}"), backend.address(), 0);
            service.backends.push(filler);
        }
        service.backends[0].0 = name.to_owned();
        let mut config = Config::new([service]);
        config.top = format!("limits = {{ backends = {CAPACITY} }}");
        config
    };
    let daemon = start(&named("first"));
    let mut stream = talk(&daemon, "web");
    let held_cell = daemon.backend("web", "first").cell;
    let workers = daemon.workers();
    let memory = || -> Vec<u64> {
        let workers = workers.iter();
        workers
            .map(|worker| proc::memory_kib(*worker).unwrap())
            .collect()
    };
    let mut cells = BTreeSet::new();
    let mut warm = Vec::new();
    for round in 0..RELOADS {
        let name = format!("name-{round}");
        daemon.apply(&named(&name));
        cells.insert(daemon.backend("web", &name).cell);
        if round == RELOADS / 4 {
            warm = memory();
        }
    }
    say(&mut stream, "still here");
    assert!(
        !cells.contains(&held_cell),
        "the cell is in use by the connection"
    );
    assert!(
        cells.len() < CAPACITY - FILLERS,
        "used over and over: {cells:?}"
    );
    let after = memory();
    for (warm, after) in warm.iter().zip(&after) {
        assert!(
            *after < warm + 512,
            "grew from {warm} to {after} KiB in {RELOADS} reloads"
        );
    }
    assert_eq!(daemon.workers(), workers);

    drop(stream);
    let mut round = 0;
    eventually(SOON, "the cell is used again", || {
        round += 1;
        let name = format!("after-{round}");
        daemon.apply(&named(&name));
        (daemon.backend("web", &name).cell == held_cell).then_some(())
    });
    assert_balanced(&daemon, "web");
}

/// New connections all the while, other backends with every reload: nobody notices.
#[test]
fn two_hundred_reloads_under_load_lose_nobody() {
    const RELOADS: usize = 200;
    let _alone = alone();
    let names: Vec<_> = (0..8).map(|number| format!("b{number}")).collect();
    let backends: Vec<_> = names
        .iter()
        .map(|name| Backend::start(name, Mode::Name))
        .collect();
    let with = |round: usize| {
        let mut service = Service::new("web", &backends);
        service.check_interval = "1s".to_owned();
        service.fall = 3;
        service.backends.rotate_left(round % 8);
        service.backends.truncate(2 + round % 3);
        Config::new([service])
    };
    let daemon = start(&with(0));
    let address = daemon.address("web");
    let scraper = Scraper::start(daemon.metrics_address(), Duration::from_millis(50));
    let load = Load::start(address, 4, Duration::from_millis(2));
    for round in 1..=RELOADS {
        let answered = load.answered();
        daemon.apply(&with(round));
        eventually(SOON, "there is load", || {
            (load.answered() > answered + 10).then_some(())
        });
    }
    let report = load.stop();
    assert!(
        report.failures.is_empty(),
        "{:?}",
        report.failures_by_kind()
    );
    assert!(
        report.answered() > 10 * RELOADS as u64,
        "{}",
        report.answered()
    );
    assert_eq!(report.answers.len(), names.len(), "{:?}", report.answers);
    let service = assert_balanced(&daemon, "web");
    assert_eq!(service.accepted, report.answered());
    assert_eq!(service.failed.values().sum::<u64>(), 0, "{service:?}");
    assert_only_rose(&scraper.stop());
    let status = daemon.status();
    assert!(
        status.workers.iter().all(|worker| worker.crashes == 0),
        "{status:?}"
    );
}
