//! The real daemon: supervisor, monitor and workers as processes, real sockets, scripted backends and clients.
//!
//! Files run from simple to complex. Each test starts a daemon of its own and leaves nothing behind. Nothing needs root, but for one
//! test that is skipped without it.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

mod a_smoke;
mod b_balance;
mod c_health;
mod d_drain_reload;
mod e_crash;
mod f_slots;
mod g_supervisor;
mod h_broken_config;
mod i_tcp;
mod j_couchdb;
mod k_openhim;
mod l_faults;
mod m_names;
mod n_admin;
mod o_limits;
mod p_schedulers;
mod q_timeouts;
mod r_proxy_protocol;
mod s_mllp;
mod t_access_log;
mod u_client_address;
mod v_network_faults;
mod w_parking;
mod x_http;
mod x_http_backends;
mod x_http_limits;
mod x_http_log;
mod x_http_routes;
mod y_http_classes;
mod y_http_corpus;
mod z_http_faults;
mod z_http_life;
mod z_http_tricks;
mod z_http_websocket;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use evenkeel_control::operator::{ServiceStatus, Status};
use evenkeel_testkit::{Config, Daemon, Probe, ScrapeReport, one_shot, proc};

/// The daemon under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_evenkeel");

/// Deadline for what takes milliseconds on an idle machine.
const SOON: Duration = Duration::from_secs(10);

/// Starts a daemon and waits until every backend that is checked is up.
fn start(config: &Config) -> Daemon {
    let daemon = Daemon::builder(PROGRAM, config).start();
    daemon.wait_backends_up();
    daemon
}

/// The same for a configuration as text.
fn start_file(text: &str) -> Daemon {
    let daemon = Daemon::builder(PROGRAM, &text).start();
    daemon.wait_backends_up();
    daemon
}

/// Not a test: the body of every double.
#[test]
#[ignore = "started by tests, as a process of its own"]
fn double_process() {
    evenkeel_testkit::doubles::run();
}

/// A configuration with short times around `services`; `top` are lines of the top of the file.
fn file(top: &str, services: &str) -> String {
    format!(
        "version = 1\nworkers = 2\n{top}\n[metrics]\nlisten = \"127.0.0.1:0\"\n\
         [drain]\ndelay = \"0s\"\ndeadline = \"5s\"\nhandshakes = \"500ms\"\n{services}"
    )
}

/// The table of a backend.
fn backend(name: &str, address: &dyn std::fmt::Display) -> String {
    format!("{{ name = \"{name}\", address = \"{address}\" }}")
}

/// Checks that nothing was lost but what was in flight at one of the `harms`, each from when it was begun to when it was done.
fn assert_only_in_flight(probes: &[Probe], harms: &[(Instant, Instant)]) {
    for probe in probes {
        let Err(failure) = &probe.outcome else {
            continue;
        };
        let in_flight = harms
            .iter()
            .any(|(begun, done)| probe.begun <= *done && probe.ended >= *begun);
        let after: Vec<_> = harms
            .iter()
            .map(|(_, done)| probe.begun.saturating_duration_since(*done))
            .collect();
        assert!(
            in_flight,
            "{failure:?}, begun {after:?} after each harm, took {:?}",
            probe.ended - probe.begun
        );
    }
}

/// Held by tests that keep both CPUs busy, so that only one of them runs at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Connects `count` times, one after another, and counts the names that answer.
fn tally(address: SocketAddr, count: usize) -> BTreeMap<String, usize> {
    let mut names = BTreeMap::new();
    for number in 0..count {
        let name = one_shot(address).unwrap_or_else(|failure| panic!("{failure:?} at {number}"));
        *names.entry(name).or_default() += 1;
    }
    names
}

/// Waits until nothing runs any more, and checks that the books are balanced: no gauge is left over, and every connection
/// that was accepted was relayed or failed.
fn assert_balanced(daemon: &Daemon, service: &str) -> ServiceStatus {
    // In one answer: clients that are gone already may still wait in a queue, and are accepted after a moment of rest.
    let at_rest = |status: &Status| {
        status.workers.iter().all(|worker| worker.active == 0)
            && status.services.iter().all(|service| {
                let failed: u64 = service.failed.values().sum();
                service.active == 0
                    && service.backends.iter().all(|backend| backend.active == 0)
                    && service.accepted == service.relayed + failed
            })
    };
    let what = "every gauge is zero again, and accepted = relayed + failed";
    let status = daemon.wait_status(what, at_rest);
    let service = status
        .services
        .into_iter()
        .find(|found| found.name == service)
        .unwrap();
    assert_eq!(
        service.accepted,
        service.accepted_by_slot.values().sum::<u64>(),
        "{service:?}"
    );
    service
}

/// Descriptors that a child holds; where the kernel does not show them, `None`, and the part that is skipped is printed.
///
/// Children are not dumpable, so only root may look.
fn descriptors_or_skip(pid: u32, part: &str) -> Option<usize> {
    let count = proc::descriptors(pid);
    if count.is_none() {
        skipped(
            part,
            "only root sees the descriptors of a process that is not dumpable",
        );
    }
    count
}

/// Says what was not looked at, and why, past the capture of output.
fn skipped(part: &str, reason: &str) {
    let line = format!("skipped: {part}: {reason}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// Checks that metrics came all the while and that no counter fell.
fn assert_only_rose(report: &ScrapeReport) {
    assert!(report.fallen.is_empty(), "{:#?}", report.fallen);
    assert!(
        report.scrapes > 10,
        "{} scrapes, {:?}",
        report.scrapes,
        report.failures
    );
}
