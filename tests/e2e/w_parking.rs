//! Idle connections: parked after a second, cheap, and otherwise as all others.
//!
//! The backend is a process of its own, so that this one has its descriptors for clients.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use evenkeel_testkit::client::{self, connect};
use evenkeel_testkit::doubles::Echo;
use evenkeel_testkit::{Backend, Daemon, Mode, Signal, eventually, pause_until, proc, throughout};

use crate::{SOON, alone, assert_balanced, backend, file, skipped, start_file};

/// Ten thousand of anything takes its time on a machine that does other things, too.
const PATIENCE: Duration = Duration::from_secs(30);

/// A descriptor of ours each, and of the daemon's workers on average one.
const CONNECTIONS: usize = 10_000;

/// How many connections there may be.
fn count(wanted: usize, part: &str) -> usize {
    // One worker may have more of them than the other, and other tests run in this process.
    let most = usize::try_from(proc::raise_descriptors()).unwrap_or(usize::MAX);
    let most = most.saturating_sub(2_000) / 3 * 2;
    if most < wanted {
        skipped(
            part,
            &format!("{most} connections instead of {wanted}, for lack of descriptors"),
        );
    }
    wanted.min(most)
}

fn service(echo: &Echo, lines: &str) -> String {
    let backends = backend("b1", &echo.address());
    format!("[services.web]\nlisten = \"127.0.0.1:0\"\nbackends = [{backends}]\n{lines}\n")
}

const UNCHECKED: &str = "check = \"none\"";

/// Sends a byte on each connection, and then reads one from each.
fn talk(streams: &mut [TcpStream], byte: u8) {
    for stream in &mut *streams {
        stream.write_all(&[byte]).unwrap();
    }
    for (number, stream) in streams.iter_mut().enumerate() {
        let mut back = [0];
        let read = stream.read_exact(&mut back);
        assert!(
            read.is_ok() && back == [byte],
            "connection {number}: {read:?}, {back:?}"
        );
    }
}

fn connect_all(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| connect(address).unwrap()).collect()
}

/// Whether a byte comes back; else it was reset.
fn is_alive(stream: &mut TcpStream) -> bool {
    // The kernel tells of a reset only once.
    if stream.write_all(b"x").is_err() {
        return false;
    }
    let read = stream.read(&mut [0]);
    assert!(!matches!(read, Ok(0)), "a clean end");
    read.is_ok()
}

/// Reads until it is reset, which must be what comes.
fn assert_reset(stream: &mut TcpStream) {
    let end = client::read_to_end(stream);
    assert_eq!(end, Err(client::Failure::ResetBeforeFirstByte));
}

fn parked(daemon: &Daemon) -> usize {
    let metrics = daemon.metrics();
    let parked = metrics.value("evenkeel_worker_parked_connections", &[]);
    format!("{}", parked.unwrap()).parse().unwrap()
}

fn wait_parked(daemon: &Daemon, count: usize) {
    let mut last = 0;
    eventually(PATIENCE, "all are parked", || {
        last = parked(daemon);
        (last == count).then_some(())
    });
}

/// Private memory of all workers, in bytes.
fn memory(daemon: &Daemon) -> u64 {
    let workers = daemon.workers().into_iter();
    let each = workers.map(|pid| proc::memory_kib(pid).unwrap() * 1_024);
    each.sum()
}

/// Everything that counts connections counts `count` of them.
fn assert_active(daemon: &Daemon, count: usize) {
    let status = daemon.status();
    let service = &status.services[0];
    let workers: u64 = status.workers.iter().map(|worker| worker.active).sum();
    let all = [service.active, workers, service.backends[0].active];
    assert_eq!(all, [count as u64; 3], "{service:?}");
}

#[test]
fn ten_thousand_idle_relays_cost_little_and_go_on() {
    let _alone = alone();
    let count = count(CONNECTIONS, "idle relays") / 2 * 2;
    let echo = Echo::start();
    let lines = "on_down = \"reset\"\ncheck = { interval = \"200ms\", timeout = \"200ms\", rise = 1, fall = 2 }";
    let text = file("", &service(&echo, lines));
    let daemon = start_file(&text);
    let address = daemon.address("web");
    let mut streams = connect_all(address, count / 2);
    talk(&mut streams, b'a');
    wait_parked(&daemon, count / 2);
    let half = memory(&daemon);
    streams.extend(connect_all(address, count / 2));
    talk(&mut streams[count / 2..], b'b');
    wait_parked(&daemon, count);
    let each = (memory(&daemon) - half) / (count as u64 / 2);
    eprintln!(
        "an idle relay costs {each} bytes (slope between {} and {count})",
        count / 2
    );
    assert!(each < 1_000, "{each} bytes each");
    assert_active(&daemon, count);
    // Nothing of it moves with the plan.
    daemon.apply(&text.replace("fall = 2", "fall = 3"));
    daemon.apply(&text);
    assert_active(&daemon, count);
    assert_eq!(parked(&daemon), count);
    // All of them work, and are parked again.
    let begun = Instant::now();
    talk(&mut streams, b'c');
    eprintln!("a byte each way on all of them in {:?}", begun.elapsed());
    assert_active(&daemon, count);
    wait_parked(&daemon, count);
    let again = memory(&daemon).saturating_sub(half) / (count as u64 / 2);
    eprintln!("and {again} bytes once they are parked again");
    assert!(again < 1_500, "{again} bytes each");
    // Their backend goes down, and they with it.
    echo.refuse();
    daemon.wait_status("the backend is down", |status| {
        status.services[0].backends[0].state == "down"
    });
    streams.iter_mut().for_each(assert_reset);
    let web = assert_balanced(&daemon, "web");
    assert_eq!(web.failed["down_reset"], count as u64, "{web:?}");
    assert_eq!(web.accepted, count as u64);
    eventually(SOON, "none is parked", || {
        (parked(&daemon) == 0).then_some(())
    });
}

#[test]
fn parked_relays_end_as_all_others() {
    const SILENT: usize = 300;
    const TALKING: usize = 20;
    let echo = Echo::start();
    let text = file(
        "",
        &service(
            &echo,
            &format!("timeouts = {{ idle = \"3s\" }}\n{UNCHECKED}"),
        ),
    );
    let daemon = start_file(&text);
    let address = daemon.address("web");
    let mut silent = connect_all(address, SILENT);
    let mut talking = connect_all(address, TALKING);
    talk(&mut silent, b'a');
    talk(&mut talking, b'a');
    let begun = Instant::now();
    wait_parked(&daemon, SILENT + TALKING);
    // A client and a reset of its own, each while parked.
    let [ended, reset] = [silent.pop().unwrap(), silent.pop().unwrap()];
    drop(ended);
    client::reset(reset);
    eventually(SOON, "these two have ended", || {
        (daemon.service("web").relayed == 2).then_some(())
    });
    let resets = daemon
        .metrics()
        .value("evenkeel_service_client_resets_total", &[]);
    assert_eq!(resets, Some(1.0));
    // Who says something now and then is not idle, parked or not.
    for byte in b"bcde" {
        let turn = Instant::now();
        talk(&mut talking, *byte);
        pause_until(turn + Duration::from_millis(1_200));
    }
    assert!(begun.elapsed() > Duration::from_secs(4));
    silent.iter_mut().for_each(assert_reset);
    let web = daemon.service("web");
    assert_eq!(web.failed["idle"], SILENT as u64 - 2, "{web:?}");
    assert_eq!(web.active, TALKING as u64, "{web:?}");
    talk(&mut talking, b'f');
    drop(talking);
    assert_balanced(&daemon, "web");
}

#[test]
fn half_closed_relays_are_parked_and_go_on() {
    let server = Backend::start("b1", Mode::HalfClose);
    let backends = backend("b1", &server.address());
    let lines = format!("listen = \"127.0.0.1:0\"\nbackends = [{backends}]\n{UNCHECKED}\n");
    let daemon = start_file(&file("", &format!("[services.web]\n{lines}")));
    let mut streams = connect_all(daemon.address("web"), 20);
    for stream in &mut streams {
        assert_eq!(client::read_to_end(stream).as_deref(), Ok(&b"b1\n"[..]));
    }
    wait_parked(&daemon, 20);
    for stream in &mut streams {
        stream.write_all(&[7; 1_000]).unwrap();
    }
    eventually(SOON, "all of it has arrived", || {
        (server.bytes() == 20_000).then_some(())
    });
    wait_parked(&daemon, 20);
    // One half ends in order, the other by a reset.
    for stream in streams.drain(..10) {
        client::reset(stream);
    }
    drop(streams);
    eventually(SOON, "the backend has seen both", || {
        ((server.ended(), server.resets()) == (10, 10)).then_some(())
    });
    let web = assert_balanced(&daemon, "web");
    assert_eq!(web.relayed, 20, "{web:?}");
}

#[test]
fn parked_relays_are_cut_at_the_deadline_and_lost_with_their_worker() {
    const CLIENTS: usize = 300;
    let echo = Echo::start();
    let text =
        file("", &service(&echo, UNCHECKED)).replace("deadline = \"5s\"", "deadline = \"2s\"");
    let mut daemon = start_file(&text);
    let address = daemon.address("web");
    let mut streams = connect_all(address, CLIENTS);
    talk(&mut streams, b'a');
    wait_parked(&daemon, CLIENTS);
    // A worker is killed: its connections are reset, and nothing of them stays in the books.
    let before = daemon.status();
    let lost = before.workers[0].active;
    assert!(lost > 0);
    assert!(proc::signal(before.workers[0].pid, Signal::KILL));
    daemon.wait_status("its place is taken", |status| {
        status.workers[0].pid != before.workers[0].pid
    });
    daemon.wait_ready();
    let mut kept = Vec::new();
    for mut stream in streams {
        if is_alive(&mut stream) {
            kept.push(stream);
        }
    }
    assert_eq!(CLIENTS - kept.len(), usize::try_from(lost).unwrap());
    assert_active(&daemon, kept.len());
    wait_parked(&daemon, kept.len());
    let more = CLIENTS - kept.len();
    kept.extend(connect_all(address, more));
    talk(&mut kept, b'c');
    wait_parked(&daemon, CLIENTS);
    // The second worker retires: its connections may go on until the deadline, and are cut then.
    let cut = daemon.status().workers[1].active;
    let begun = Instant::now();
    daemon.apply(&text.replace("workers = 2", "workers = 1"));
    talk(&mut kept, b'd');
    assert!(begun.elapsed() < Duration::from_secs(2));
    daemon.wait_status("the worker has retired", |status| status.workers.len() == 1);
    eventually(SOON, "its connections are cut", || {
        (daemon.service("web").failed["drain_cut"] == cut).then_some(())
    });
    let rest = CLIENTS - usize::try_from(cut).unwrap();
    assert_active(&daemon, rest);
    let mut remaining = Vec::new();
    for mut stream in kept {
        if is_alive(&mut stream) {
            remaining.push(stream);
        }
    }
    assert_eq!(remaining.len(), rest);
    wait_parked(&daemon, rest);
    // The same for all that is left when the daemon stops.
    let begun = Instant::now();
    assert!(daemon.stop().success());
    assert!(
        begun.elapsed() > Duration::from_millis(1_900),
        "{:?}",
        begun.elapsed()
    );
    assert!(
        begun.elapsed() < Duration::from_secs(6),
        "{:?}",
        begun.elapsed()
    );
    remaining.iter_mut().for_each(assert_reset);
}

#[test]
fn clients_that_have_not_spoken_wait_without_a_backend() {
    let _alone = alone();
    let count = count(CONNECTIONS / 2, "silent clients");
    let echo = Echo::start();
    let lines = format!("connect_on = \"data\"\n{UNCHECKED}");
    let text = file("", &service(&echo, &lines));
    let daemon = start_file(&text);
    let address = daemon.address("web");
    let mut first = connect_all(address, 100);
    let before = memory(&daemon);
    let mut streams = connect_all(address, count);
    daemon.wait_status("all are accepted", |status| {
        status.services[0].active == count as u64 + 100
    });
    throughout(Duration::from_millis(2_500), "they wait", || {
        daemon.service("web").active == count as u64 + 100
    });
    let each = (memory(&daemon) - before) / count as u64;
    eprintln!("a client that says nothing costs {each} bytes");
    let web = daemon.service("web");
    assert_eq!(
        (web.backends[0].active, web.backends[0].connections),
        (0, 0),
        "{web:?}"
    );
    assert_eq!(echo.accepted(), 0);
    // Some leave without a word.
    for stream in first.drain(..50) {
        client::reset(stream);
    }
    daemon.wait_status("they are gone", |status| {
        status.services[0].failed["client_gone"] == 50
    });
    // One that ends its direction without a byte gets a backend, which says what comes of that.
    for stream in &mut first {
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(client::read_to_end(stream).as_deref(), Ok(&b""[..]));
    }
    drop(first);
    daemon.apply(&text.replace("[drain]", "[log]\nlevel = \"debug\"\n[drain]"));
    let begun = Instant::now();
    talk(&mut streams, b'a');
    eprintln!("all {count} got their backend in {:?}", begun.elapsed());
    assert_active(&daemon, count);
    assert_eq!(echo.accepted(), count as u64 + 50);
    wait_parked(&daemon, count);
    talk(&mut streams, b'b');
    drop(streams);
    let web = assert_balanced(&daemon, "web");
    assert_eq!(web.relayed, count as u64 + 50, "{web:?}");
    // Silence ends as idleness does.
    daemon.apply(&text.replace(
        UNCHECKED,
        &format!("timeouts = {{ idle = \"1s\" }}\n{UNCHECKED}"),
    ));
    let mut idle = connect_all(address, 50);
    idle.iter_mut().for_each(assert_reset);
    let web = assert_balanced(&daemon, "web");
    assert_eq!(web.failed["idle"], 50, "{web:?}");
}
