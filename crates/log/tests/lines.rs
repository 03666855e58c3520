//! Lines of several processes arrive whole, nothing is lost at the end, and nobody waits.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::mpsc;
use std::time::Duration;

use evenkeel_log::{Receiver, Writer, channel};
use evenkeel_sys::packet;

const PATIENCE: Duration = Duration::from_secs(10);

fn pipe() -> (std::fs::File, OwnedFd) {
    let (reader, writer) = std::io::pipe().unwrap();
    (OwnedFd::from(reader).into(), writer.into())
}

#[test]
fn lines_of_several_senders_arrive_whole_and_the_end_of_each_is_told() {
    let (mut reader, output) = pipe();
    let (tell, ended) = mpsc::channel();
    let mut receivers = Vec::new();
    let mut senders = Vec::new();
    for index in 0..4 {
        let (sender, fd) = channel().unwrap();
        let source = format!("worker-{index}");
        receivers.push(Receiver { source, fd });
        senders.push(sender);
    }
    let late = receivers.pop().unwrap();
    let writer = Writer::start(receivers, output, move |source| {
        tell.send(source.to_owned()).unwrap();
    })
    .unwrap();
    writer.add(late);
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    let mut sent = 0;
    for (index, sender) in senders.into_iter().enumerate() {
        for line in 0..300 {
            let text = format!("{index} {line} {}\n", "x".repeat(5_000));
            match packet::send(sender.as_fd(), text.as_bytes(), &[]) {
                Ok(()) => sent += 1,
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
        }
    }
    let mut sources: Vec<_> = (0..4)
        .map(|_| ended.recv_timeout(PATIENCE).unwrap())
        .collect();
    sources.sort();
    assert_eq!(sources, ["worker-0", "worker-1", "worker-2", "worker-3"]);
    assert!(writer.stop(PATIENCE));
    let text = reading.join().unwrap();
    assert_eq!(text.lines().count(), sent);
    for line in text.lines() {
        assert_eq!(line.split_once('x').unwrap().1.len(), 4_999);
    }
}

#[test]
fn what_waits_at_the_end_is_written_also_while_senders_live() {
    let (mut reader, output) = pipe();
    let (sender, fd) = channel().unwrap();
    let held = fd.try_clone().unwrap();
    packet::send(sender.as_fd(), b"before the writer\n", &[]).unwrap();
    let source = "monitor".to_owned();
    let writer = Writer::start(vec![Receiver { source, fd }], output, |_| {}).unwrap();
    packet::send(sender.as_fd(), b"no line feed", &[]).unwrap();
    packet::send(sender.as_fd(), b"", &[]).unwrap();
    packet::send(sender.as_fd(), b"last\n", &[]).unwrap();
    assert!(writer.stop(PATIENCE));
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "before the writer\nno line feed\nlast\n");
    // Nothing is left for whoever holds the other copy.
    assert!(packet::receive(held.as_fd(), &mut [0; 10]).is_err());
}

#[test]
fn an_output_that_nobody_reads_does_not_hold_up_the_end() {
    let (_reader, output) = pipe();
    let (sender, fd) = channel().unwrap();
    let mut dropped = 0;
    for _ in 0..100_000 {
        if packet::send(sender.as_fd(), &[b'x'; 8_000], &[]).is_err() {
            dropped += 1;
            break;
        }
    }
    assert_eq!(dropped, 1, "a full channel refuses at once");
    let source = "worker-0".to_owned();
    let writer = Writer::start(vec![Receiver { source, fd }], output, |_| {}).unwrap();
    assert!(!writer.stop(Duration::from_millis(50)));
}

#[test]
fn logging_goes_through_the_channel_and_follows_a_new_spec() {
    use evenkeel_plan::{LogFormat, LogLevel, LogSpec};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    let (sender, fd) = channel().unwrap();
    let dropped = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&dropped);
    let count = move |lines| {
        counter.fetch_add(lines, Relaxed);
    };
    let spec = LogSpec::default();
    evenkeel_log::init(sender, spec, "worker-3".to_owned(), Box::new(count));
    let next = || {
        let mut buffer = vec![0; 10_000];
        let (length, _) = packet::receive(fd.as_fd(), &mut buffer).ok()?;
        Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
    };
    let log = || tracing::debug!(n = 1, "detail");
    log();
    assert_eq!(next(), None);
    evenkeel_log::set_spec(LogSpec {
        level: LogLevel::Debug,
        format: LogFormat::Json,
    });
    log();
    assert!(next().unwrap().contains("\"level\":\"debug\""));
    evenkeel_log::set_spec(LogSpec {
        level: LogLevel::Error,
        format: LogFormat::Human,
    });
    log();
    assert_eq!(next(), None);
    for _ in 0..1_000_000 {
        if dropped.load(Relaxed) > 0 {
            break;
        }
        tracing::error!("flood");
    }
    assert!(dropped.load(Relaxed) > 0);
    evenkeel_log::init_stderr(spec);
    while next().is_some() {}
    tracing::error!("still here");
    // First what was lost, then the line; and only once.
    let told = next().unwrap();
    assert!(
        told.ends_with("WARN worker-3 log lines were dropped lines=1\n"),
        "{told}"
    );
    evenkeel_log::tell_dropped();
    assert!(next().unwrap().ends_with("ERROR worker-3 still here\n"));
    assert_eq!(next(), None);
    // A process that has nothing more to say still says that it lost lines.
    let before = dropped.load(Relaxed);
    while dropped.load(Relaxed) == before {
        tracing::error!("flood");
    }
    evenkeel_log::tell_dropped();
    assert_eq!(dropped.load(Relaxed), before + 1);
    while next().is_some() {}
    evenkeel_log::tell_dropped();
    assert!(next().unwrap().ends_with("dropped lines=1\n"));
    drop(fd);
}
