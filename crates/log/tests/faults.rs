//! Outputs that are stuck, full or gone, seen through the real writer: nobody waits, what is lost is counted and told, and
//! lines go on when the output does.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, UNIX_EPOCH};

use evenkeel_log::access::{AccessLog, End, Phase, Record, Side};
use evenkeel_log::{Receiver, Writer, channel};
use evenkeel_plan::AccessFormat;
use evenkeel_sys::packet;

const PATIENCE: Duration = Duration::from_secs(10);

/// A process that logs and writes an access log, as `service=<name> bytes=<number of the line>` and some 200 bytes more.
struct Sender {
    log: OwnedFd,
    access: AccessLog,
    dropped: Rc<Cell<u64>>,
    written: u64,
}

impl Sender {
    fn new() -> (Self, Receiver) {
        let (log, fd) = channel().unwrap();
        let dropped = Rc::new(Cell::new(0));
        let count = Rc::clone(&dropped);
        let format = AccessFormat::Template(format!(
            "access {{bytes_sent}} {{service}} {}",
            "x".repeat(200)
        ));
        let access = AccessLog::new(
            log.try_clone().unwrap(),
            &format,
            Box::new(move |lines| count.set(count.get() + lines)),
        )
        .unwrap();
        let source = "worker-0".to_owned();
        let sender = Self {
            log,
            access,
            dropped,
            written: 0,
        };
        (sender, Receiver { source, fd })
    }

    fn access(&mut self, lines: u64) {
        let address: SocketAddr = "192.0.2.7:80".parse().unwrap();
        for _ in 0..lines {
            self.access.write(&Record {
                accepted: UNIX_EPOCH,
                service: "api",
                listener: address,
                client: address,
                peer: address,
                backend: None,
                endpoint: None,
                source: None,
                worker: 0,
                id: 0,
                attempts: 0,
                handshake_us: None,
                queue_us: None,
                connect_us: None,
                first_byte_us: None,
                duration_us: 0,
                bytes_received: 0,
                bytes_sent: self.written,
                http: None,
                end: End {
                    by: Side::Client,
                    phase: Phase::Relay,
                    reason: "end",
                },
            });
            self.written += 1;
        }
    }

    fn log(&self, line: &str) -> bool {
        packet::send(self.log.as_fd(), format!("log {line}\n").as_bytes(), &[]).is_ok()
    }
}

fn pipe() -> (File, OwnedFd) {
    let (reader, writer) = std::io::pipe().unwrap();
    (OwnedFd::from(reader).into(), writer.into())
}

fn start(receiver: Receiver, output: OwnedFd) -> Writer {
    Writer::start(vec![receiver], output, |_| {}).unwrap()
}

fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

/// Every line of `text` is whole; their numbers, by `prefix`, rise. Returns how many there are.
fn rising(text: &str, prefix: &str) -> u64 {
    let numbers = text.lines().filter_map(|line| {
        let (number, _) = line.strip_prefix(prefix)?.split_once(' ')?;
        assert!(line.ends_with("xxxx"), "torn: {line}");
        Some(number.parse::<u64>().unwrap())
    });
    let mut count = 0;
    let mut last = None;
    for number in numbers {
        assert!(last < Some(number), "{last:?} {number}");
        last = Some(number);
        count += 1;
    }
    count
}

/// A file of its own for a test.
fn scratch(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::remove_file(&path).ok();
    path
}

fn append(path: &Path) -> OwnedFd {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    options.open(path).unwrap().into()
}

#[test]
fn a_reader_that_stops_holds_up_nobody_and_nothing_else_is_lost() {
    let (mut reader, output) = pipe();
    let (mut sender, receiver) = Sender::new();
    let writer = start(receiver, output);
    // Nobody reads: pipe, then channel fill up, then lines are dropped, and writing still takes no time.
    while sender.dropped.get() < 1_000 {
        sender.access(100);
    }
    // Connections have pushed out nothing of the log: its own half is free.
    let mut logged = 0;
    while logged < 100 {
        assert!(sender.log(&logged.to_string()));
        logged += 1;
    }
    sender.access.flush();
    let dropped = sender.dropped.get();
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    // It goes on by itself as soon as somebody reads.
    eventually("the channel empties", || {
        packet::send_queue(sender.log.as_fd()).unwrap() == 0
    });
    sender.access(1);
    sender.access.flush();
    assert_eq!(sender.dropped.get(), dropped);
    assert!(writer.stop(PATIENCE));
    let text = reading.join().unwrap();
    assert_eq!(rising(&text, "access "), sender.written - dropped);
    let lines = text.lines().filter(|line| line.starts_with("log "));
    assert_eq!(lines.count(), logged);
    let last = sender.written - 1;
    assert!(text.contains(&format!("access {last} ")));
}

#[test]
fn a_stuck_log_does_not_hold_up_a_file_and_is_told_what_it_lost() {
    let path = scratch("beside_a_stuck_log");
    let (reader, output) = pipe();
    let (mut sender, receiver) = Sender::new();
    let writer = start(receiver, output);
    writer.set_access_output(Some(append(&path)));
    let long = "y".repeat(1_000);
    eventually("the writer gives up log lines", || {
        sender.log(&long);
        writer.unwritten_log_lines() > 0
    });
    sender.access(1_000);
    sender.access.flush();
    let lines = || rising(&std::fs::read_to_string(&path).unwrap(), "access ");
    eventually("the file has every line", || {
        lines() + sender.dropped.get() == 1_000
    });
    // The reader comes back, and is told.
    let mut reader = BufReader::new(reader);
    let mut line = String::new();
    while !line.contains("could not be written") {
        line.clear();
        assert!(reader.read_line(&mut line).unwrap() > 0);
    }
    assert!(
        line.contains(" WARN monitor log lines could not be written lines="),
        "{line}"
    );
    assert_eq!(writer.unwritten_access_lines(), 0);
    drop(reader);
    assert!(writer.stop(PATIENCE));
}

#[test]
fn a_stuck_access_output_does_not_hold_up_the_log() {
    let (access_reader, access) = pipe();
    let (reader, output) = pipe();
    let (mut sender, receiver) = Sender::new();
    let writer = start(receiver, output);
    writer.set_access_output(Some(access));
    let mut reader = BufReader::new(reader);
    let mut line = String::new();
    eventually("the writer gives up access lines", || {
        sender.access(100);
        writer.unwritten_access_lines() > 0
    });
    assert!(sender.log("still here"));
    // In either order: the line, and what was lost.
    let mut seen = [false; 2];
    while seen != [true; 2] {
        line.clear();
        assert!(reader.read_line(&mut line).unwrap() > 0);
        seen[0] |= line == "log still here\n";
        seen[1] |= line.contains("lines of the access log could not be written lines=");
    }
    // It goes on where it stood, with whole lines, and every line was either read or counted.
    let read = Arc::new(AtomicU64::new(0));
    let reading = {
        let read = Arc::clone(&read);
        std::thread::spawn(move || {
            let mut text = String::new();
            let mut access_reader = BufReader::new(access_reader);
            while access_reader.read_line(&mut text).unwrap() > 0 {
                read.fetch_add(1, Relaxed);
            }
            text
        })
    };
    sender.access.flush();
    eventually("every line is accounted for", || {
        let lost = sender.dropped.get() + writer.unwritten_access_lines();
        read.load(Relaxed) + lost == sender.written
    });
    assert!(writer.stop(PATIENCE));
    let text = reading.join().unwrap();
    assert_eq!(rising(&text, "access "), read.load(Relaxed));
}

#[test]
fn a_full_disk_loses_and_counts_lines_until_there_is_room() {
    let full = || OwnedFd::from(OpenOptions::new().write(true).open("/dev/full").unwrap());
    let path = scratch("after_a_full_disk");
    let (reader, output) = pipe();
    let (mut sender, receiver) = Sender::new();
    let writer = start(receiver, output);
    writer.set_access_output(Some(full()));
    sender.access(10);
    sender.access.flush();
    eventually("lines are counted", || {
        writer.unwritten_access_lines() == 10
    });
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line).unwrap();
    let told = "lines of the access log could not be written lines=10 \
                error=\"No space left on device (os error 28)\"\n";
    assert!(line.ends_with(told), "{line}");
    writer.set_access_output(Some(append(&path)));
    sender.access(5);
    sender.access.flush();
    assert!(writer.stop(PATIENCE));
    assert_eq!(
        rising(&std::fs::read_to_string(&path).unwrap(), "access "),
        5
    );
    assert_eq!(sender.dropped.get(), 0);

    // The log itself on a full disk.
    let (sender, receiver) = Sender::new();
    let writer = start(receiver, full());
    for n in 0..7 {
        assert!(sender.log(&n.to_string()));
    }
    eventually("lines are counted", || writer.unwritten_log_lines() == 7);
    assert!(writer.stop(PATIENCE));
}

/// A file system of 64 KiB, where a write can end in the middle of a line.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(name: &str) -> Option<Self> {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "none"])
            .arg(&path)
            .output();
        mounted
            .is_ok_and(|done| done.status.success())
            .then_some(Self(path))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).output().ok();
    }
}

#[test]
fn a_line_that_was_cut_by_a_full_disk_is_not_glued_to_the_next() {
    let Some(disk) = SmallDisk::mount("small_disk") else {
        eprintln!("not tried: no right to mount");
        return;
    };
    let path = disk.0.join("access");
    let (_reader, output) = pipe();
    let (mut sender, receiver) = Sender::new();
    let writer = start(receiver, output);
    writer.set_access_output(Some(append(&path)));
    sender.access(1_000);
    sender.access.flush();
    eventually("the disk is full and everything was tried", || {
        packet::send_queue(sender.log.as_fd()).unwrap() == 0 && writer.unwritten_access_lines() > 0
    });
    let full = std::fs::read_to_string(&path).unwrap();
    assert!(!full.ends_with('\n'), "the last line was not cut");
    let whole = u64::try_from(full.lines().count()).unwrap() - 1;
    eventually("what was lost was counted", || {
        writer.unwritten_access_lines() + whole == 1_000
    });
    // Room for the next lines, as when an old file was removed: the first page of this one.
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    rustix::fs::fallocate(
        &file,
        rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE,
        0,
        32 * 1_024,
    )
    .unwrap();
    sender.access(2);
    sender.access.flush();
    assert!(writer.stop(PATIENCE));
    let mut tail = vec![0; 1_024];
    let file = File::open(&path).unwrap();
    let end = file.metadata().unwrap().len();
    file.read_exact_at(&mut tail, end - 1_024).unwrap();
    let tail = String::from_utf8(tail).unwrap();
    let lines: Vec<_> = tail.lines().rev().collect();
    assert!(lines[1].starts_with("access 1000 ") && lines[1].ends_with('x'));
    assert!(lines[0].starts_with("access 1001 ") && lines[0].ends_with('x'));
}

#[test]
fn lines_for_a_reader_that_is_gone_are_counted() {
    let (reader, output) = pipe();
    drop(reader);
    let (mut sender, receiver) = Sender::new();
    let writer = start(receiver, output);
    sender.access(3);
    sender.access.flush();
    assert!(sender.log("nobody reads this"));
    eventually("lines are counted", || {
        writer.unwritten_access_lines() == 3 && writer.unwritten_log_lines() == 1
    });
    assert!(sender.log("nor this"));
    eventually("the next is tried", || writer.unwritten_log_lines() == 2);
    assert!(writer.stop(PATIENCE));
}

#[test]
fn a_writer_that_is_started_again_goes_on_where_the_one_before_stopped() {
    let path = scratch("two_writers");
    let (mut reader, output) = pipe();
    let (mut sender, receiver) = Sender::new();
    let held = receiver.fd.try_clone().unwrap();
    let mut logged = 0;
    let mut both = |sender: &mut Sender| {
        sender.access(30);
        sender.access.flush();
        assert!(sender.log(&logged.to_string()));
        logged += 1;
    };
    both(&mut sender);
    for _ in 0..3 {
        let fd = held.try_clone().unwrap();
        let source = receiver.source.clone();
        let output = output.try_clone().unwrap();
        let writer = Writer::start(Vec::new(), output, |_| {}).unwrap();
        // The output comes first, or the first lines would go where the log goes.
        writer.set_access_output(Some(append(&path)));
        writer.add(Receiver { source, fd });
        both(&mut sender);
        assert!(writer.stop(PATIENCE));
        both(&mut sender);
    }
    // And with no writer left at all.
    let file = File::from(append(&path));
    evenkeel_log::drain(&[held.as_fd()], Some(file.as_fd()));
    drop(output);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    // The last line of the log went to the real standard error.
    assert_eq!(text, "log 0\nlog 1\nlog 2\nlog 3\nlog 4\nlog 5\n");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("access 0 "), "{text}");
    assert_eq!(rising(&text, "access "), sender.written);
}
