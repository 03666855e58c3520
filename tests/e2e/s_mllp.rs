//! MLLP frames, towards a server that takes each read of its socket as one message.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use evenkeel_testkit::{Backend, Daemon, Failure, Mode, client, eventually, pause_until};

use crate::o_limits::{service, start};
use crate::{SOON, assert_balanced, backend};

const KIB: usize = 1024;

/// A frame of `length` bytes in all, whose content is told from that of others by `mark`.
fn frame(length: usize, mark: u8) -> Vec<u8> {
    let content = (0..length - 3).map(|n| b'a' + (mark + u8::try_from(n % 7).unwrap()) % 26);
    let mut frame = vec![0x0b];
    frame.extend(content);
    frame.extend([0x1c, 0x0d]);
    frame
}

/// A server that waits until its socket is readable and quiet for a moment, and reads once: each read is a message, which is
/// answered by a frame with its length.
struct Receiver {
    address: SocketAddr,
    reads: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Receiver {
    fn start(buffer_bytes: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // Room for the longest message, so that none is cut by the window.
        rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 4 * KIB * KIB).unwrap();
        let address = listener.local_addr().unwrap();
        let reads = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let shared = Arc::clone(&reads);
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || receive(stream, buffer_bytes, &shared));
            }
        });
        Self { address, reads }
    }

    fn reads(&self) -> Vec<Vec<u8>> {
        self.reads.lock().unwrap().clone()
    }
}

fn receive(mut stream: TcpStream, buffer_bytes: usize, reads: &Mutex<Vec<Vec<u8>>>) {
    const QUIET: Duration = Duration::from_millis(10);
    let mut buffer = vec![0; buffer_bytes];
    while stream.peek(&mut [0]).is_ok_and(|seen| seen > 0) {
        let waiting = || rustix::io::ioctl_fionread(&stream).unwrap();
        let mut before = 0;
        while before != waiting() {
            before = waiting();
            pause_until(Instant::now() + QUIET);
        }
        let Ok(length) = stream.read(&mut buffer) else {
            return;
        };
        reads.lock().unwrap().push(buffer[..length].to_vec());
        let answer = format!("\x0b{length}\x1c\x0d");
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// Writes `bytes` in pieces with pauses, each long enough for the receiver to find its socket quiet.
fn drib(mut stream: &TcpStream, bytes: &[u8], pieces: usize) {
    stream.set_nodelay(true).unwrap();
    for piece in bytes.chunks(bytes.len().div_ceil(pieces)) {
        stream.write_all(piece).unwrap();
        pause_until(Instant::now() + Duration::from_millis(25));
    }
}

/// The next frame that comes.
fn read_frame(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(&[0x1c, 0x0d]) {
        stream.read_exact(&mut byte).unwrap();
        bytes.push(byte[0]);
    }
    bytes
}

fn framed(receiver: &Receiver, lines: &str) -> Daemon {
    let lines = format!("framing = \"mllp\"\n{lines}");
    let backends = [backend("b1", &receiver.address)];
    start(2, &service("web", &lines, &backends))
}

#[test]
fn each_frame_is_one_message_however_it_came() {
    let receiver = Receiver::start(KIB * KIB);
    let daemon = framed(&receiver, "");
    let address = daemon.address("web");
    let mut frames = Vec::new();
    // One connection for all of them.
    let mut stream = client::connect(address).unwrap();
    for (mark, (length, pieces)) in (0..).zip([
        (100 * KIB, 7),
        (300 * KIB, 11),
        (3, 1),
        (200, 20),
        (64 * KIB, 3),
        (64 * KIB + 1, 2),
        (900 * KIB, 5),
    ]) {
        let frame = frame(length, mark);
        drib(&stream, &frame, pieces);
        let answer = format!("\x0b{length}\x1c\x0d");
        assert_eq!(read_frame(&mut stream), answer.as_bytes());
        frames.push(frame);
    }
    assert!(receiver.reads() == frames, "{:?}", lengths(&receiver));
    drop(stream);
    let service = assert_balanced(&daemon, "web");
    let bytes: usize = frames.iter().map(Vec::len).sum();
    assert_eq!(service.bytes_received, bytes as u64);
}

fn lengths(receiver: &Receiver) -> Vec<usize> {
    receiver.reads().iter().map(Vec::len).collect()
}

#[test]
fn a_small_buffer_needs_no_more_reads_than_it_must() {
    let receiver = Receiver::start(64 * KIB);
    let daemon = framed(&receiver, "");
    for (mark, length) in (0..).zip([10 * KIB, 100 * KIB, 300 * KIB]) {
        let before = receiver.reads().len();
        let stream = client::connect(daemon.address("web")).unwrap();
        let frame = frame(length, mark);
        drib(&stream, &frame, 9);
        eventually(SOON, "all of it has come", || {
            let reads = receiver.reads()[before..].concat();
            (reads == frame).then_some(())
        });
        let reads = receiver.reads().len() - before;
        assert_eq!(reads, length.div_ceil(64 * KIB), "{:?}", lengths(&receiver));
    }
}

#[test]
fn frames_at_once_arrive_in_order_and_whole() {
    const FRAMES: usize = 2_000;
    let echo = Backend::start("b1", Mode::Echo);
    let lines = "framing = \"mllp\"";
    let daemon = start(2, &service("web", lines, &[backend("b1", &echo.address())]));
    let mut sent = Vec::new();
    for number in 0..FRAMES {
        sent.extend(frame(
            3 + number * 7 % 3_000,
            u8::try_from(number % 20).unwrap(),
        ));
        if number % 5 == 0 {
            sent.extend(b"\r\n");
        }
    }
    // A frame that is broken off goes on as it is.
    sent.extend(b"\x0bbroken");
    let mut stream = client::connect(daemon.address("web")).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let bytes = sent.clone();
    let writing = std::thread::spawn(move || {
        for piece in bytes.chunks(77_777) {
            writer.write_all(piece).unwrap();
        }
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let seen = client::read_to_end(&mut stream).unwrap();
    writing.join().unwrap();
    assert!(seen == sent, "{} of {} bytes", seen.len(), sent.len());
    let service = assert_balanced(&daemon, "web");
    let bytes = sent.len() as u64;
    assert_eq!((service.bytes_received, service.bytes_sent), (bytes, bytes));
}

#[test]
fn a_frame_that_is_too_long_ends_the_connection() {
    let receiver = Receiver::start(KIB * KIB);
    let daemon = framed(&receiver, "frame_max = \"100KiB\"");
    let address = daemon.address("web");
    let mut stream = client::connect(address).unwrap();
    stream.write_all(&frame(100 * KIB, 1)).unwrap();
    assert_eq!(
        read_frame(&mut stream),
        format!("\x0b{}\x1c\x0d", 100 * KIB).as_bytes()
    );
    // It is reset in the middle of it, perhaps.
    drop(stream.write_all(&frame(100 * KIB + 1, 2)));
    let outcome = client::read_to_end(&mut stream);
    assert_eq!(outcome, Err(Failure::ResetBeforeFirstByte));
    assert_eq!(lengths(&receiver), [100 * KIB]);
    let found = assert_balanced(&daemon, "web");
    assert_eq!(found.failed["frame_too_long"], 1, "{found:?}");
    assert_eq!(found.relayed, 0);

    // The backend's too.
    let talker = TcpListener::bind("127.0.0.1:0").unwrap();
    let lines = "framing = \"mllp\"\nframe_max = \"1KiB\"";
    let backends = [backend("b1", &talker.local_addr().unwrap())];
    let daemon = start(2, &service("web", lines, &backends));
    let mut stream = client::connect(daemon.address("web")).unwrap();
    let (mut server, _) = talker.accept().unwrap();
    server.write_all(&frame(KIB, 3)).unwrap();
    assert_eq!(read_frame(&mut stream).len(), KIB);
    server.write_all(&frame(KIB + 1, 3)).unwrap();
    let outcome = client::read_to_end(&mut stream);
    assert_eq!(outcome, Err(Failure::ResetBeforeFirstByte));
    assert!(server.read(&mut [0]).is_err(), "it is reset, too");
    let found = assert_balanced(&daemon, "web");
    assert_eq!(found.failed["frame_too_long"], 1, "{found:?}");
}

fn service_of(lines: &str, echo: &Backend) -> String {
    service("web", lines, &[backend("b1", &echo.address())])
}

#[test]
fn what_is_no_frame_goes_at_once() {
    const PROMPT: Duration = Duration::from_millis(500);
    let echo = Backend::start("b1", Mode::Echo);
    for lines in ["", "framing = \"mllp\""] {
        let daemon = start(2, &service_of(lines, &echo));
        let mut stream = client::connect(daemon.address("web")).unwrap();
        let mut said = |bytes: &[u8]| {
            stream.write_all(bytes).unwrap();
            let begun = Instant::now();
            let mut seen = vec![0; bytes.len()];
            stream.read_exact(&mut seen).unwrap();
            assert_eq!(seen, bytes);
            assert!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
        };
        said(b"GET / HTTP/1.1\r\n");
        said(b"\r\n");
        // Where no frames are looked for, the beginning of one goes at once.
        if lines.is_empty() {
            said(b"\x0bMSH|");
            said(b"x");
            continue;
        }
        stream.write_all(b"\x0bMSH|").unwrap();
        stream
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        let waits = stream.read(&mut [0; 9]).map_err(|error| error.kind());
        assert_eq!(waits, Err(ErrorKind::WouldBlock));
        // Not even when it waits for so long that others are parked.
        pause_until(Instant::now() + Duration::from_millis(1_500));
        stream.write_all(b"\x1c\x0d").unwrap();
        assert_eq!(read_frame(&mut stream), b"\x0bMSH|\x1c\x0d");
    }
}
