//! What a client and a backend see of each other through the daemon.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use evenkeel_testkit::{
    Backend, Blackhole, Config, Daemon, Failure, Mode, Service, client, eventually, one_shot, proc,
    throughout,
};

use crate::{SOON, assert_balanced, descriptors_or_skip, start, tally};

const MIB: usize = 1024 * 1024;

/// One unchecked backend behind one worker, so that nothing but the test connects to it.
fn single(mode: Mode) -> (Backend, Daemon) {
    let backend = Backend::start("b1", mode);
    let config = Config::new([Service::new("web", [&backend]).unchecked()]).workers(1);
    let daemon = start(&config);
    (backend, daemon)
}

fn connect(daemon: &Daemon) -> TcpStream {
    client::connect(daemon.address("web")).unwrap()
}

#[test]
fn a_client_may_end_its_side_first() {
    let (_backend, daemon) = single(Mode::Sink);
    let mut stream = connect(&daemon);
    stream.write_all(&[7; 100_000]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client::read_to_end(&mut stream).unwrap(), b"100000\n");
    drop(stream);
    let service = assert_balanced(&daemon, "web");
    assert_eq!((service.bytes_received, service.bytes_sent), (100_000, 7));
}

#[test]
fn a_backend_may_end_its_side_first() {
    let (backend, daemon) = single(Mode::HalfClose);
    let mut stream = connect(&daemon);
    assert_eq!(client::read_to_end(&mut stream).unwrap(), b"b1\n");
    // The other direction is still open.
    stream.write_all(&[7; 1_000]).unwrap();
    eventually(SOON, "the backend has read it", || {
        (backend.bytes() == 1_000).then_some(())
    });
    stream.write_all(&[7; 1_000]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    eventually(SOON, "the backend has seen the end", || {
        (backend.ended() == 1).then_some(())
    });
    assert_eq!((backend.bytes(), backend.resets()), (2_000, 0));
    assert_balanced(&daemon, "web");
}

#[test]
fn a_backends_reset_is_passed_on() {
    let (backend, daemon) = single(Mode::Hold);
    let mut stream = connect(&daemon);
    assert_eq!(client::read_line(&mut stream).as_deref(), Ok("b1"));
    backend.reset_all();
    assert_eq!(
        client::read_to_end(&mut stream),
        Err(Failure::ResetBeforeFirstByte)
    );
    let service = assert_balanced(&daemon, "web");
    assert_eq!(
        (service.relayed, service.backends[0].resets),
        (1, 1),
        "{service:?}"
    );
}

#[test]
fn a_reset_before_a_byte_is_passed_on_too() {
    let (_backend, daemon) = single(Mode::Reset);
    for _ in 0..5 {
        assert_eq!(
            one_shot(daemon.address("web")),
            Err(Failure::ResetBeforeFirstByte)
        );
    }
    assert_balanced(&daemon, "web");
}

#[test]
fn a_clients_reset_is_passed_on() {
    let (backend, daemon) = single(Mode::Greet);
    let mut stream = connect(&daemon);
    assert_eq!(client::read_line(&mut stream).as_deref(), Ok("b1"));
    client::reset(stream);
    eventually(SOON, "the backend has seen the reset", || {
        (backend.resets() == 1).then_some(())
    });
    assert_eq!(backend.ended(), 0);
    assert_balanced(&daemon, "web");
}

#[test]
fn an_orderly_end_is_not_a_reset() {
    let (backend, daemon) = single(Mode::Greet);
    for _ in 0..20 {
        let mut stream = connect(&daemon);
        assert_eq!(client::read_line(&mut stream).as_deref(), Ok("b1"));
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client::read_to_end(&mut stream).unwrap(), b"");
    }
    eventually(SOON, "the backend has seen the ends", || {
        (backend.ended() == 20).then_some(())
    });
    assert_eq!(backend.resets(), 0);
    let service = assert_balanced(&daemon, "web");
    assert_eq!((service.relayed, service.backends[0].resets), (20, 0));
}

#[test]
fn every_byte_arrives_in_both_directions_at_once() {
    const BYTES: usize = 32 * MIB;
    let (_backend, daemon) = single(Mode::Echo);
    let mut reader = connect(&daemon);
    let mut writer = reader.try_clone().unwrap();
    let byte_at = |position: usize| u8::try_from(position % 251).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let pattern: Vec<u8> = (0..251 * 256).map(byte_at).collect();
            let mut left = BYTES;
            while left > 0 {
                let part = left.min(pattern.len());
                writer.write_all(&pattern[..part]).unwrap();
                left -= part;
            }
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut buffer = vec![0; 64 * 1024];
        let mut position = 0;
        loop {
            let length = reader.read(&mut buffer).unwrap();
            if length == 0 {
                break;
            }
            for (offset, byte) in buffer[..length].iter().enumerate() {
                assert_eq!(
                    *byte,
                    byte_at(position + offset),
                    "at {}",
                    position + offset
                );
            }
            position += length;
        }
        assert_eq!(position, BYTES);
    });
    let service = assert_balanced(&daemon, "web");
    let bytes = BYTES as u64;
    assert_eq!((service.bytes_received, service.bytes_sent), (bytes, bytes));
    let backend = &service.backends[0];
    assert_eq!((backend.bytes_received, backend.bytes_sent), (bytes, bytes));
}

#[test]
fn a_client_that_does_not_read_costs_no_memory() {
    let (_backend, daemon) = single(Mode::Flood);
    let worker = daemon.workers()[0];
    let before = proc::memory_kib(worker).unwrap();
    let mut streams: Vec<_> = (0..4).map(|_| connect(&daemon)).collect();
    eventually(SOON, "the flood has begun", || {
        (daemon.service("web").bytes_sent > MIB as u64).then_some(())
    });
    throughout(
        Duration::from_secs(2),
        "the worker's memory is bounded",
        || proc::memory_kib(worker).unwrap() < before + 4 * 1024,
    );
    // Nothing is lost or stuck: whoever reads gets it all.
    let stream = &mut streams[0];
    let mut total = 0;
    let mut buffer = vec![0; 256 * 1024];
    while total < 64 * MIB {
        total += stream.read(&mut buffer).unwrap();
    }
    assert!(proc::memory_kib(worker).unwrap() < before + 4 * 1024);
    drop(streams);
    assert_balanced(&daemon, "web");
}

#[test]
fn a_backend_that_does_not_read_stops_the_client() {
    let (_backend, daemon) = single(Mode::Deaf);
    let worker = daemon.workers()[0];
    let before = proc::memory_kib(worker).unwrap();
    let mut stream = connect(&daemon);
    stream
        .set_write_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    let part = vec![7; MIB];
    let mut written = 0;
    while let Ok(length) = stream.write(&part) {
        written += length;
        assert!(written < 256 * MIB, "nothing holds the client back");
    }
    assert!(
        proc::memory_kib(worker).unwrap() < before + 4 * 1024,
        "after {written} bytes"
    );
}

#[test]
fn a_connect_that_is_refused_goes_to_another_backend() {
    let alive = Backend::start("b1", Mode::Name);
    let dead = Backend::stopped("dead", Mode::Name);
    let daemon = start(&Config::new([
        Service::new("web", [&alive, &dead]).unchecked()
    ]));
    assert_eq!(tally(daemon.address("web"), 40)["b1"], 40);
    let service = assert_balanced(&daemon, "web");
    assert_eq!(service.relayed, 40);
    assert!(service.retries > 0, "{service:?}");
    assert_eq!(service.backends[1].connect_failures, service.retries);
    assert_eq!(service.backends[1].connections, 0);
}

#[test]
fn a_connect_without_an_answer_goes_to_another_backend() {
    let alive = Backend::start("b1", Mode::Name);
    let hole = Blackhole::new();
    let mut service = Service::new("web", [&alive]).unchecked();
    service.connect_timeout = "200ms".to_owned();
    service
        .backends
        .push(("hole".to_owned(), hole.address(), 1));
    let daemon = start(&Config::new([service]));
    assert_eq!(tally(daemon.address("web"), 10)["b1"], 10);
    let service = assert_balanced(&daemon, "web");
    assert!(service.backends[1].connect_failures > 0, "{service:?}");
}

#[test]
fn when_all_refuse_the_client_is_reset_at_once() {
    let dead = [
        Backend::stopped("d1", Mode::Name),
        Backend::stopped("d2", Mode::Name),
    ];
    let daemon = start(&Config::new([Service::new("web", &dead).unchecked()]));
    let begun = Instant::now();
    for _ in 0..10 {
        assert_eq!(
            one_shot(daemon.address("web")),
            Err(Failure::ResetBeforeFirstByte)
        );
    }
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    let service = assert_balanced(&daemon, "web");
    assert_eq!(service.failed["connect"], 10, "{service:?}");
}

#[test]
fn idle_connections_hold_no_buffer() {
    const CLIENTS: usize = 300;
    let (backend, daemon) = single(Mode::Echo);
    let worker = daemon.workers()[0];
    let talk = |stream: &mut TcpStream| {
        stream.write_all(&[7; 20_000]).unwrap();
        stream.read_exact(&mut [0; 20_000]).unwrap();
    };
    // The first ones warm up whatever is kept for the process as a whole.
    let mut streams: Vec<_> = (0..20).map(|_| connect(&daemon)).collect();
    streams.iter_mut().for_each(talk);
    let before = proc::memory_kib(worker).unwrap();
    streams.extend((0..CLIENTS).map(|_| connect(&daemon)));
    streams.iter_mut().for_each(talk);
    eventually(SOON, "all are there", || {
        (backend.open() == CLIENTS + 20).then_some(())
    });
    let after = proc::memory_kib(worker).unwrap();
    let held = daemon.metrics().value("evenkeel_worker_buffer_bytes", &[]);
    assert_eq!(held, Some(0.0), "every buffer is back in the pool");
    // Below the smallest sensible buffer for each.
    let each = after.saturating_sub(before) * 1024 / CLIENTS as u64;
    assert!(each < 6_000, "{each} bytes for an idle connection");
    assert_eq!(daemon.service("web").active, CLIENTS as u64 + 20);
    drop(streams);
    let service = assert_balanced(&daemon, "web");
    assert_eq!(service.relayed, CLIENTS as u64 + 20);
    if descriptors_or_skip(worker, "whether every descriptor is closed").is_some() {
        eventually(SOON, "every descriptor is closed", || {
            (proc::descriptors(worker)? < 40).then_some(())
        });
    }
}

#[test]
fn a_client_that_is_gone_at_once_leaves_nothing() {
    let (_backend, daemon) = single(Mode::Echo);
    for _ in 0..100 {
        client::reset(connect(&daemon));
        drop(connect(&daemon));
    }
    // Those that closed in order are accepted for sure.
    daemon.wait_status("they are accepted", |status| {
        status.services[0].accepted >= 100
    });
    let service = assert_balanced(&daemon, "web");
    assert!(service.accepted <= 200, "{service:?}");
}

/// Out of descriptors a worker neither spins nor gives its listener up: who waits is served when there is room again.
#[test]
fn without_descriptors_clients_wait_and_are_served_later() {
    const CLIENTS: usize = 40;
    let backend = Backend::start("b1", Mode::Greet);
    let service = Service::new("web", [&backend]).unchecked();
    let mut config = Config::new([service]).workers(1);
    // Limits of another user's process are not ours to change.
    config.top = "user = \"keep\"".to_owned();
    let daemon = start(&config);
    let worker = daemon.workers()[0];
    let unlimited = daemon.status().descriptor_limit;
    let Some(held) = descriptors_or_skip(worker, "a worker without descriptors") else {
        return;
    };
    proc::limit_descriptors(worker, held as u64 + 20).unwrap();
    // One that gets a descriptor while its backend gets none is reset, perhaps before it knows that it is connected.
    let address = daemon.address("web");
    let mut streams: Vec<_> = (0..CLIENTS).map(|_| client::connect(address)).collect();
    daemon.wait_status("the worker has run out", |status| {
        let refused = status.services[0].failed["exhausted"];
        status.workers[0].accept_exhausted > 0 || refused > 0
    });
    let before = proc::cpu_ticks(worker).unwrap();
    let begun = Instant::now();
    throughout(Duration::from_secs(2), "the worker lives", || {
        daemon.workers() == [worker]
    });
    let ticks = proc::cpu_ticks(worker).unwrap() - before;
    let allowed = u64::try_from(begun.elapsed().as_millis()).unwrap() / 10 / 4;
    assert!(ticks < allowed, "it burnt {ticks} ticks of 10 ms");
    proc::limit_descriptors(worker, unlimited).unwrap();
    let answers = streams.iter_mut().map(|stream| match stream {
        Ok(stream) => client::read_line(stream),
        Err(failure) => Err(failure.clone()),
    });
    let outcomes: Vec<_> = answers.collect();
    let served = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    let service = daemon.service("web");
    let refused = service.failed["exhausted"];
    assert_eq!(
        served as u64 + refused,
        CLIENTS as u64,
        "{outcomes:?} {service:?}"
    );
    assert_eq!(
        service.backends[0].connect_failures, 0,
        "it is not the backend's fault"
    );
    drop(streams);
    assert_balanced(&daemon, "web");
    assert_eq!(one_shot_greeted(&daemon).as_deref(), Ok("b1"));
}

fn one_shot_greeted(daemon: &Daemon) -> Result<String, Failure> {
    client::read_line(&mut connect(daemon))
}
