//! The relay on real loopback sockets: ends, resets, back-pressure, and what it holds meanwhile.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![expect(clippy::panic, reason = "a test stops at the first surprise")]

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use evenkeel_net::Stream;
use evenkeel_net::buffer::{self, BUFFER_BYTES};
use evenkeel_net::relay::{End, Meter, State, Stopped, relay, relay_frames};
use evenkeel_sys::stream::reset_on_close;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, LocalSet, spawn_local};

#[derive(Default)]
struct Counts {
    up: Cell<usize>,
    down: Cell<usize>,
}

impl Meter for Counts {
    fn up(&self, count: usize) {
        self.up.set(self.up.get() + count);
    }

    fn down(&self, count: usize) {
        self.down.set(self.down.get() + count);
    }
}

/// How a relay ended, and what it has carried.
struct Ended {
    by: End,
    up: u64,
    down: u64,
}

/// A relay between two connections, of which a test holds the outer ends.
struct Rig {
    client: TcpStream,
    backend: TcpStream,
    counts: Rc<Counts>,
    relay: JoinHandle<End>,
}

impl Rig {
    async fn new() -> Self {
        let (client, inner_client) = pair().await;
        let (backend, inner_backend) = pair().await;
        let (inner_client, inner_backend) = (inner(inner_client), inner(inner_backend));
        let counts = Rc::new(Counts::default());
        let meter = Rc::clone(&counts);
        let relay = spawn_local(async move {
            let state = State::default();
            match relay(&inner_client, &inner_backend, &*meter, state).await {
                Stopped::Ended(ended) => ended,
                Stopped::Idle(_) => panic!("nobody asked it to stop"),
            }
        });
        Self {
            client,
            backend,
            counts,
            relay,
        }
    }

    /// One that relays MLLP frames of at most `max` bytes.
    async fn of_frames(max: usize) -> Self {
        let (client, inner_client) = pair().await;
        let (backend, inner_backend) = pair().await;
        let (inner_client, inner_backend) = (inner(inner_client), inner(inner_backend));
        let counts = Rc::new(Counts::default());
        let meter = Rc::clone(&counts);
        let relay = spawn_local(async move {
            let state = State::default();
            match relay_frames(&inner_client, &inner_backend, &*meter, state, max).await {
                Stopped::Ended(ended) => ended,
                Stopped::Idle(_) => panic!("nobody asked it to stop"),
            }
        });
        Self {
            client,
            backend,
            counts,
            relay,
        }
    }

    async fn ended(self) -> Ended {
        Ended {
            by: self.relay.await.unwrap(),
            up: self.counts.up.get() as u64,
            down: self.counts.down.get() as u64,
        }
    }
}

/// The relay's end of a connection.
fn inner(stream: TcpStream) -> Stream {
    reset_on_close(&stream).unwrap();
    Stream::new(stream.into_std().unwrap().into()).unwrap()
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let outer = TcpStream::connect(listener.local_addr().unwrap());
    let (outer, inner) = tokio::join!(outer, listener.accept());
    (outer.unwrap(), inner.unwrap().0)
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        let within = tokio::time::timeout(Duration::from_secs(20), test);
        within.await.unwrap();
    });
}

/// Lets the relay do whatever it can do now, again and again until `condition` holds.
async fn eventually(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn is_reset(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest).await {
        Ok(_) => false,
        Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn the_client_may_end_first_and_still_gets_its_answer() {
    run(async {
        let mut rig = Rig::new().await;
        rig.client.write_all(b"question").await.unwrap();
        rig.client.shutdown().await.unwrap();
        let mut seen = String::new();
        rig.backend.read_to_string(&mut seen).await.unwrap();
        assert_eq!(seen, "question");
        // Late data, long after the end of the other direction.
        rig.backend.write_all(b"ans").await.unwrap();
        eventually(|| rig.counts.down.get() == 3).await;
        rig.backend.write_all(b"wer").await.unwrap();
        rig.backend.shutdown().await.unwrap();
        seen.clear();
        rig.client.read_to_string(&mut seen).await.unwrap();
        assert_eq!(seen, "answer");
        let ended = rig.ended().await;
        assert_eq!((ended.by, ended.up, ended.down), (End::Client, 8, 6));
    });
}

#[test]
fn the_backend_may_end_first_and_still_be_sent_to() {
    run(async {
        let mut rig = Rig::new().await;
        rig.backend.write_all(b"greeting").await.unwrap();
        rig.backend.shutdown().await.unwrap();
        let mut seen = String::new();
        rig.client.read_to_string(&mut seen).await.unwrap();
        assert_eq!(seen, "greeting");
        rig.client.write_all(b"late").await.unwrap();
        eventually(|| rig.counts.up.get() == 4).await;
        rig.client.write_all(b"r").await.unwrap();
        rig.client.shutdown().await.unwrap();
        seen.clear();
        rig.backend.read_to_string(&mut seen).await.unwrap();
        assert_eq!(seen, "later");
        assert_eq!(rig.ended().await.by, End::Backend);
    });
}

#[test]
fn data_right_before_the_end_arrives_although_both_end_at_once() {
    run(async {
        let mut rig = Rig::new().await;
        // Both ends are there before the relay runs for the first time.
        rig.client.write_all(b"up").await.unwrap();
        rig.backend.write_all(b"down").await.unwrap();
        rig.client.shutdown().await.unwrap();
        rig.backend.shutdown().await.unwrap();
        let (mut up, mut down) = (String::new(), String::new());
        rig.backend.read_to_string(&mut up).await.unwrap();
        rig.client.read_to_string(&mut down).await.unwrap();
        assert_eq!((up.as_str(), down.as_str()), ("up", "down"));
        let ended = rig.ended().await;
        assert!(matches!(ended.by, End::Client | End::Backend));
        assert_eq!((ended.up, ended.down), (2, 4));
    });
}

#[test]
fn a_reset_is_passed_on_as_a_reset_both_ways() {
    run(async {
        let mut rig = Rig::new().await;
        rig.client.write_all(b"half a ques").await.unwrap();
        eventually(|| rig.counts.up.get() == 11).await;
        reset_on_close(&rig.client).unwrap();
        let (gone, mut backend) = (rig.client, rig.backend);
        drop(gone);
        assert!(is_reset(&mut backend).await);
        assert_eq!(rig.relay.await.unwrap(), End::ClientReset);

        let mut rig = Rig::new().await;
        rig.backend.write_all(b"half an ans").await.unwrap();
        eventually(|| rig.counts.down.get() == 11).await;
        reset_on_close(&rig.backend).unwrap();
        let (gone, mut client) = (rig.backend, rig.client);
        drop(gone);
        assert!(is_reset(&mut client).await);
        assert_eq!(rig.relay.await.unwrap(), End::BackendReset);
    });
}

#[test]
fn what_came_before_a_reset_is_handed_on() {
    run(async {
        let mut rig = Rig::new().await;
        // The relay has not run since; it finds the bytes and the reset together.
        rig.backend.write_all(b"refused: too large").await.unwrap();
        reset_on_close(&rig.backend).unwrap();
        drop(rig.backend);
        let mut seen = [0; 18];
        rig.client.read_exact(&mut seen).await.unwrap();
        assert_eq!(&seen, b"refused: too large");
        assert!(is_reset(&mut rig.client).await);
        assert_eq!(rig.relay.await.unwrap(), End::BackendReset);
    });
}

#[test]
fn a_slow_reader_holds_the_sender_back_and_no_more_than_one_buffer() {
    run(async {
        const TOTAL: usize = 64 << 20;
        let rig = Rig::new().await;
        let (mut client, mut backend) = (rig.client, rig.backend);
        let sent = Rc::new(Cell::new(0));
        let progress = Rc::clone(&sent);
        let sender = spawn_local(async move {
            let chunk: Vec<u8> = (0..251).cycle().take(BUFFER_BYTES).collect();
            for _ in 0..TOTAL / chunk.len() {
                backend.write_all(&chunk).await.unwrap();
                progress.set(progress.get() + chunk.len());
            }
            backend.shutdown().await.unwrap();
            backend
        });
        // Until the client reads, everything stops at the kernel's buffers and one of ours.
        let mut before = usize::MAX;
        while sent.get() == 0 || sent.get() != before {
            before = sent.get();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(sent.get() < TOTAL / 2, "{} bytes were taken", sent.get());
        assert_eq!(buffer::held(), 1);

        let mut seen = 0;
        let mut chunk = vec![0; 100_000];
        loop {
            let read = client.read(&mut chunk).await.unwrap();
            if read == 0 {
                break;
            }
            let is_right =
                |(i, &byte): (usize, &u8)| usize::from(byte) == (seen + i) % BUFFER_BYTES % 251;
            assert!(chunk[..read].iter().enumerate().all(is_right));
            assert!(buffer::held() <= 1);
            seen += read;
        }
        assert_eq!(seen, TOTAL);
        client.shutdown().await.unwrap();
        drop(sender.await.unwrap());
        assert_eq!(rig.relay.await.unwrap(), End::Backend);
        assert_eq!(buffer::held(), 0);
    });
}

#[test]
fn a_reset_is_noticed_while_its_direction_is_held_back() {
    run(async {
        let mut rig = Rig::new().await;
        let chunk = vec![7; BUFFER_BYTES];
        // The backend reads nothing, so the relay ends up with a buffer that it cannot write.
        let fill = async {
            loop {
                rig.client.write_all(&chunk).await.unwrap();
            }
        };
        let filled = tokio::time::timeout(Duration::from_millis(300), fill).await;
        assert!(filled.is_err() && buffer::held() == 1);
        reset_on_close(&rig.client).unwrap();
        drop(rig.client);
        assert_eq!(rig.relay.await.unwrap(), End::ClientReset);
        assert_eq!(buffer::held(), 0);
        assert!(is_reset(&mut rig.backend).await);
    });
}

#[test]
fn a_reset_is_noticed_after_the_end_of_its_direction() {
    run(async {
        let mut rig = Rig::new().await;
        rig.client.shutdown().await.unwrap();
        assert_eq!(rig.backend.read(&mut [0; 8]).await.unwrap(), 0);
        reset_on_close(&rig.client).unwrap();
        drop(rig.client);
        assert_eq!(rig.relay.await.unwrap(), End::ClientReset);
        // A read after an end of file is an end of file for ever; the kernel tells a writer, and whoever asks.
        rig.backend.ready(Interest::ERROR).await.unwrap();
        let error = rig.backend.take_error().unwrap().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    });
}

#[test]
fn an_idle_relay_holds_no_buffer() {
    run(async {
        let mut rig = Rig::new().await;
        for _ in 0..3 {
            rig.client.write_all(b"ping").await.unwrap();
            let mut seen = [0; 4];
            rig.backend.read_exact(&mut seen).await.unwrap();
            rig.backend.write_all(&seen).await.unwrap();
            rig.client.read_exact(&mut seen).await.unwrap();
            assert_eq!(buffer::held(), 0);
        }
        // Dropped by us: both sides see a reset.
        rig.relay.abort();
        assert!(rig.relay.await.unwrap_err().is_cancelled());
        assert!(is_reset(&mut rig.client).await);
        assert!(is_reset(&mut rig.backend).await);
    });
}

#[test]
fn both_directions_at_full_speed_both_get_on() {
    run(async {
        const TOTAL: usize = 32 << 20;
        let rig = Rig::new().await;
        let transfer = |stream: TcpStream| async move {
            let (mut read, mut write) = stream.into_split();
            let writer = spawn_local(async move {
                let chunk = vec![1; BUFFER_BYTES];
                for _ in 0..TOTAL / chunk.len() {
                    write.write_all(&chunk).await.unwrap();
                }
                write.shutdown().await.unwrap();
            });
            let mut seen = 0;
            let mut chunk = vec![0; BUFFER_BYTES];
            loop {
                match read.read(&mut chunk).await.unwrap() {
                    0 => break,
                    count => seen += count,
                }
            }
            writer.await.unwrap();
            seen
        };
        let totals = tokio::join!(transfer(rig.client), transfer(rig.backend));
        assert_eq!(totals, (TOTAL, TOTAL));
        rig.relay.await.unwrap();
        let carried = (rig.counts.up.get(), rig.counts.down.get());
        assert_eq!(carried, (TOTAL, TOTAL));
    });
}

#[test]
fn the_relays_own_state_is_small() {
    run(async {
        let (client, backend) = (inner(pair().await.0), inner(pair().await.0));
        let counts = Counts::default();
        let future = relay(&client, &backend, &counts, State::default());
        let size = size_of_val(&future);
        assert!(size <= 240, "{size} bytes");
        drop(future);
    });
}

fn frame(content: usize) -> Vec<u8> {
    let mut frame = vec![0x0b];
    frame.extend(std::iter::repeat_n(b'm', content));
    frame.extend([0x1c, 0x0d]);
    frame
}

#[test]
fn a_frame_is_not_begun_before_it_is_whole() {
    run(async {
        let mut rig = Rig::of_frames(1 << 20).await;
        for content in [100_000, 300_000] {
            let sent = frame(content);
            let (last, rest) = sent.split_last().unwrap();
            for piece in rest.chunks(10_000) {
                rig.client.write_all(piece).await.unwrap();
            }
            let mut byte = [0; 1];
            let begun = rig.backend.read(&mut byte);
            let begun = tokio::time::timeout(Duration::from_millis(50), begun).await;
            assert!(begun.is_err(), "a frame was begun before it was whole");
            rig.client.write_all(&[*last]).await.unwrap();
            let mut arrived = vec![0; sent.len()];
            rig.backend.read_exact(&mut arrived).await.unwrap();
            assert_eq!(arrived, sent);
            rig.backend.write_all(&frame(3)).await.unwrap();
            let mut answer = [0; 6];
            rig.client.read_exact(&mut answer).await.unwrap();
        }
    });
}

#[test]
fn a_frame_that_is_broken_off_is_passed_on_with_the_end() {
    run(async {
        let mut rig = Rig::of_frames(1 << 20).await;
        rig.client
            .write_all(b"\x0bwhole\x1c\x0d\x0bbrok")
            .await
            .unwrap();
        rig.client.shutdown().await.unwrap();
        let mut arrived = Vec::new();
        rig.backend.read_to_end(&mut arrived).await.unwrap();
        assert_eq!(arrived, b"\x0bwhole\x1c\x0d\x0bbrok");
        rig.backend.shutdown().await.unwrap();
        assert_eq!(rig.ended().await.by, End::Client);
    });
}

#[test]
fn a_frame_that_is_too_long_ends_the_connection_by_a_reset() {
    run(async {
        let mut rig = Rig::of_frames(10_000).await;
        rig.client.write_all(&frame(20_000)).await.unwrap();
        assert!(is_reset(&mut rig.backend).await);
        assert!(is_reset(&mut rig.client).await);
        let ended = rig.ended().await;
        assert_eq!((ended.by, ended.up), (End::ClientFrameTooLong, 0));
    });
}
