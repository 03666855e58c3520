//! Streams under the driver on real loopback sockets: readiness that is told once is neither lost nor mixed up.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::cell::Cell;
use std::future::Future;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use evenkeel_net::Stream;
use evenkeel_net::driver;
use evenkeel_net::park::{Lot, Sockets};
use evenkeel_net::stream::Follows;
use evenkeel_sys::stream::reset_on_close;
use rustix::net::{SendFlags, send};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::task::{LocalSet, spawn_local};

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        let within = tokio::time::timeout(Duration::from_secs(30), test);
        within.await.unwrap();
    });
}

/// The peer's end, which blocks, and ours.
fn pair() -> (TcpStream, Stream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    reset_on_close(&ours).unwrap();
    (peer, Stream::new(ours.into()).unwrap())
}

/// What a read gives, waited for.
async fn read(stream: &Stream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        stream.readable().await;
        match stream.try_read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

/// Lets the driver run until it has nothing more to say.
async fn settle() {
    for _ in 0..5 {
        tokio::task::yield_now().await;
    }
}

fn is_waiting(result: &io::Result<usize>) -> bool {
    let error = result.as_ref().err().map(io::Error::kind);
    error == Some(io::ErrorKind::WouldBlock)
}

#[test]
fn every_message_is_told_however_the_turns_fall() {
    run(async {
        const ROUNDS: usize = 2_000;
        let (mut peer, ours) = pair();
        let echoes = std::thread::spawn(move || {
            // Each message waits for the answer to the one before, so that one lost wake stops everything.
            for round in 0..ROUNDS {
                peer.write_all(&[round.to_le_bytes()[0]; 3]).unwrap();
                peer.read_exact(&mut [0; 3]).unwrap();
            }
        });
        let mut seen = 0;
        let mut buffer = [0; 64];
        while seen < ROUNDS * 3 {
            let count = read(&ours, &mut buffer).await.unwrap();
            assert!(count > 0);
            seen += ours.try_write(&buffer[..count], Follows::Nothing).unwrap();
        }
        echoes.join().unwrap();
        assert_eq!(read(&ours, &mut buffer).await.unwrap(), 0);
    });
}

#[test]
fn more_sockets_than_a_batch_of_events_are_all_told() {
    run(async {
        // Two descriptors each; the limit may be 1,024.
        let mut pairs: Vec<_> = (0..400).map(|_| pair()).collect();
        settle().await;
        for (peer, _) in &mut pairs {
            peer.write_all(b"x").unwrap();
        }
        for (_, ours) in &pairs {
            assert_eq!(read(ours, &mut [0; 8]).await.unwrap(), 1);
        }
    });
}

#[test]
fn the_end_that_comes_with_the_last_bytes_is_told_without_another_call() {
    run(async {
        let (mut peer, ours) = pair();
        settle().await;
        peer.write_all(b"the last words").unwrap();
        drop(peer);
        ours.readable().await;
        let mut buffer = [0; 64];
        assert_eq!(ours.try_read(&mut buffer).unwrap(), 14);
        assert!(ours.is_end_read());
        assert_eq!(ours.try_read(&mut buffer).unwrap(), 0);
    });
}

#[test]
fn the_end_is_not_told_before_the_last_byte_was_read() {
    run(async {
        for size in [1, 7, 8, 9, 16, 1000] {
            let (mut peer, ours) = pair();
            let bytes: Vec<u8> = (0..=250).cycle().take(size).collect();
            peer.write_all(&bytes).unwrap();
            drop(peer);
            settle().await;
            let mut seen = Vec::new();
            let mut buffer = [0; 8];
            loop {
                match read(&ours, &mut buffer).await.unwrap() {
                    0 => break,
                    count => seen.extend_from_slice(&buffer[..count]),
                }
            }
            assert_eq!(seen, bytes);
        }
    });
}

#[test]
fn bytes_behind_an_urgent_one_are_not_lost_at_the_end() {
    run(async {
        let (mut peer, ours) = pair();
        settle().await;
        // A read stops at the mark, so a short one does not mean that there is no more.
        peer.write_all(b"before").unwrap();
        send(&peer, b"!", SendFlags::OOB).unwrap();
        peer.write_all(b"behind").unwrap();
        drop(peer);
        settle().await;
        let mut seen = Vec::new();
        let mut buffer = [0; 64];
        loop {
            match read(&ours, &mut buffer).await.unwrap() {
                0 => break,
                count => seen.extend_from_slice(&buffer[..count]),
            }
        }
        assert_eq!(seen, b"beforebehind");
    });
}

#[test]
fn a_reset_is_told_and_an_end_is_none() {
    run(async {
        let (peer, ours) = pair();
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(read(&ours, &mut [0; 8]).await.unwrap(), 0);
        ours.shutdown_write().unwrap();
        // Both directions have ended, which the kernel calls a hang-up.
        settle().await;
        let reset = tokio::time::timeout(Duration::from_millis(50), ours.reset());
        assert!(reset.await.is_err());

        let (peer, ours) = pair();
        reset_on_close(&peer).unwrap();
        drop(peer);
        ours.reset().await;
        let error = read(&ours, &mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_writer_is_told_of_room() {
    run(async {
        let (mut peer, ours) = pair();
        let chunk = [0; 65_536];
        let mut written = 0;
        let error = loop {
            match ours.try_write(&chunk, Follows::Nothing) {
                Ok(count) => written += count,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let reader = std::thread::spawn(move || {
            let mut rest = vec![0; written + 1];
            peer.read_exact(&mut rest).unwrap();
        });
        loop {
            ours.writable().await;
            match ours.try_write(b"!", Follows::Nothing) {
                Ok(count) => break assert_eq!(count, 1),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        reader.join().unwrap();
    });
}

#[test]
fn an_entry_is_used_again_without_what_was_known_of_the_socket_before() {
    run(async {
        let (mut peer, ours) = pair();
        peer.write_all(b"for the one before").unwrap();
        let before = ours.token();
        drop(ours);
        // The same entry and the same descriptor number, while an event of the socket before may be on its way.
        let (_peer, ours) = pair();
        assert_ne!(ours.token(), before);
        settle().await;
        assert!(is_waiting(&ours.try_read(&mut [0; 8])));
        // Nobody is woken by the old name.
        let is_woken = Rc::new(Cell::new(false));
        let woken = Rc::clone(&is_woken);
        let token = ours.token();
        let waiting = spawn_local(async move {
            let mut is_first = true;
            std::future::poll_fn(|cx| {
                woken.set(!is_first);
                is_first = false;
                ours.poll_readable(cx)
            })
            .await;
        });
        settle().await;
        driver::nudge(before);
        settle().await;
        assert!(!is_woken.get());
        driver::nudge(token);
        settle().await;
        assert!(is_woken.get());
        waiting.abort();
    });
}

#[test]
fn the_driver_of_a_thread_serves_one_runtime_after_the_other() {
    for _ in 0..3 {
        run(async {
            let (mut peer, ours) = pair();
            settle().await;
            peer.write_all(b"x").unwrap();
            assert_eq!(read(&ours, &mut [0; 8]).await.unwrap(), 1);
        });
    }
}

/// Two sockets and a name, as a relay would park.
struct Two(Stream, Stream, u32);

impl Sockets for Two {
    fn each(&self, each: &mut dyn FnMut(&Stream)) {
        each(&self.0);
        each(&self.1);
    }
}

#[test]
fn a_parked_pair_is_given_back_for_bytes_an_end_or_a_reset_of_either() {
    run(async {
        let lot = Lot::new();
        for side in 0..2 {
            for what in 0..3 {
                let ((peer_a, a), (peer_b, b)) = (pair(), pair());
                settle().await;
                let Ok(_) = lot.park(Two(a, b, what)) else {
                    panic!("something was there already");
                };
                settle().await;
                let idle = tokio::time::timeout(Duration::from_millis(10), lot.next());
                assert!(idle.await.is_err());
                let (mut active, quiet) = match side {
                    0 => (peer_a, peer_b),
                    _ => (peer_b, peer_a),
                };
                match what {
                    0 => active.write_all(b"x").unwrap(),
                    1 => active.shutdown(std::net::Shutdown::Write).unwrap(),
                    _ => {
                        reset_on_close(&active).unwrap();
                        drop(active);
                    }
                }
                let Two(a, b, name) = lot.next().await;
                assert_eq!(name, what);
                let stirred = if side == 0 { &a } else { &b };
                match (what, stirred.try_read(&mut [0; 8])) {
                    (0, Ok(1)) | (1, Ok(0)) | (2, Err(_)) => {}
                    (_, result) => panic!("{what}: {result:?}"),
                }
                // The other one belongs to a task again, too, although nothing has happened to it.
                drop(quiet);
                let other = if side == 0 { &b } else { &a };
                assert_eq!(read(other, &mut [0; 8]).await.unwrap(), 0);
                assert!(lot.is_empty());
            }
        }
    });
}

#[test]
fn what_has_bytes_waiting_is_not_parked_and_what_was_taken_is_not_given_again() {
    run(async {
        let lot = Lot::new();
        let (mut peer, ours) = pair();
        peer.write_all(b"x").unwrap();
        settle().await;
        let ours = lot.park(ours).unwrap_err();
        assert_eq!(ours.try_read(&mut [0; 8]).unwrap(), 1);
        let spot = lot.park(ours).unwrap();
        peer.write_all(b"y").unwrap();
        settle().await;
        drop(lot.take(spot).unwrap());
        assert!(lot.take(spot).is_none());
        let none = tokio::time::timeout(Duration::from_millis(10), lot.next());
        assert!(none.await.is_err());
    });
}

#[test]
fn ten_thousand_are_parked_and_each_is_found_again() {
    run(async {
        let limit = getrlimit(Resource::Nofile);
        let (current, maximum) = (limit.maximum, limit.maximum);
        setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
        let room = usize::try_from(maximum.unwrap_or(u64::MAX) / 2).unwrap_or(usize::MAX);
        let count = room.saturating_sub(100).min(10_000);
        if count < 10_000 {
            println!("{count} only: the limit of descriptors is {maximum:?}");
        }
        let lot = Lot::new();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut peers = Vec::new();
        for _ in 0..count {
            peers.push(TcpStream::connect(address).unwrap());
            let (ours, _) = listener.accept().unwrap();
            ours.set_nonblocking(true).unwrap();
            let ours = Stream::new(ours.into()).unwrap();
            assert!(lot.park(ours).is_ok());
            tokio::task::yield_now().await;
        }
        assert_eq!(lot.len(), count);
        for (index, peer) in peers.iter_mut().enumerate().step_by(97) {
            let mark = u8::try_from(index % 251).unwrap();
            peer.write_all(&[mark]).unwrap();
            let ours = lot.next().await;
            let mut seen = [0; 8];
            assert_eq!(ours.try_read(&mut seen).unwrap(), 1);
            assert_eq!(seen[0], mark);
        }
        assert_eq!(lot.len(), count - count.div_ceil(97));
    });
}
