use std::cell::Cell;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::UNIX_EPOCH;

use super::super::record::{End, Phase, Side};
use super::*;
use crate::channel::channel;

struct Log {
    access: AccessLog,
    receiver: OwnedFd,
    dropped: Rc<Cell<u64>>,
}

fn start(template: &str) -> Log {
    let (sender, receiver) = channel().unwrap();
    let dropped = Rc::new(Cell::new(0));
    let count = Rc::clone(&dropped);
    let access = AccessLog::new(
        sender,
        &AccessFormat::Template(template.to_owned()),
        Box::new(move |lines| count.set(count.get() + lines)),
    )
    .unwrap();
    Log {
        access,
        receiver,
        dropped,
    }
}

fn write(access: &AccessLog, number: u64) {
    let address = "192.0.2.7:80".parse().unwrap();
    access.write(&Record {
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
        bytes_sent: number,
        http: None,
        end: End {
            by: Side::Client,
            phase: Phase::Relay,
            reason: "end",
        },
    });
}

/// The next packet, after its mark.
fn next(receiver: BorrowedFd<'_>) -> Option<String> {
    let mut buffer = vec![0; packet::MESSAGE_BYTES_MAX];
    let (length, _) = packet::receive(receiver, &mut buffer).ok()?;
    let (mark, lines) = buffer[..length].split_first()?;
    assert_eq!(*mark, ACCESS_MARK);
    Some(String::from_utf8(lines.to_vec()).unwrap())
}

#[test]
fn lines_leave_when_flushed_when_the_batch_is_full_and_at_the_end() {
    let line = format!("{{bytes_sent}} {}", "x".repeat(900));
    let Log {
        access,
        receiver,
        dropped,
    } = start(&line);
    let receiver = receiver.as_fd();
    write(&access, 0);
    assert_eq!(next(receiver), None);
    access.flush();
    assert!(next(receiver).unwrap().starts_with("0 x"));
    access.flush();
    assert_eq!(next(receiver), None, "an empty batch is no packet");
    let mut written = 1;
    let batch = loop {
        write(&access, written);
        written += 1;
        if let Some(batch) = next(receiver) {
            break batch;
        }
    };
    assert!(batch.len() < BATCH_BYTES && batch.len() > BATCH_BYTES - 1_000);
    assert!(batch.starts_with("1 x") && batch.ends_with("x\n"));
    drop(access);
    // The line that did not fit began the next batch.
    let last = next(receiver).unwrap();
    assert!(last.starts_with(&format!("{} x", written - 1)));
    assert_eq!(last.lines().count(), 1);
    assert_eq!(dropped.get(), 0);
}

#[test]
fn a_full_batch_takes_one_allocation_of_the_kernel() {
    let (sender, _receiver) = channel().unwrap();
    packet::send(sender.as_fd(), &[ACCESS_MARK; BATCH_BYTES], &[]).unwrap();
    // Source: SKB_MAX_ALLOC and SKB_TRUESIZE of the kernel; 16 KiB and the descriptor of the buffer.
    assert!(packet::send_queue(sender.as_fd()).unwrap() < 17 * 1_024);
}

#[test]
fn the_other_half_of_the_channel_is_kept_and_every_lost_line_is_counted() {
    let Log {
        access,
        receiver,
        dropped,
    } = start("{bytes_sent}");
    let mut written = 0;
    while dropped.get() == 0 {
        write(&access, written);
        written += 1;
    }
    let used = packet::send_queue(access.sender.as_fd()).unwrap();
    let whole = packet::send_buffer(access.sender.as_fd()).unwrap();
    assert!(used >= whole / 2 && used < whole / 2 + 2 * BATCH_BYTES);
    access.flush();
    let mut received = 0;
    while let Some(batch) = next(receiver.as_fd()) {
        received += u64::try_from(batch.lines().count()).unwrap();
    }
    assert_eq!(received + dropped.get(), written);
    // What comes after arrives again.
    let before = dropped.get();
    write(&access, written);
    access.flush();
    assert_eq!(next(receiver.as_fd()).unwrap(), format!("{written}\n"));
    assert_eq!(dropped.get(), before);
}

#[test]
fn a_reader_that_is_gone_is_a_full_channel() {
    let Log {
        access,
        receiver,
        dropped,
    } = start("{id}");
    drop(receiver);
    write(&access, 0);
    access.flush();
    assert_eq!(dropped.get(), 1);
}

#[test]
fn a_new_format_is_for_the_next_line_and_a_wrong_one_changes_nothing() {
    let Log {
        access, receiver, ..
    } = start("old {bytes_sent}");
    write(&access, 1);
    let wrong = AccessFormat::Template("{".to_owned());
    assert!(access.set_format(&wrong).is_err());
    write(&access, 2);
    access
        .set_format(&AccessFormat::Template("new {bytes_sent}".to_owned()))
        .unwrap();
    write(&access, 3);
    access.set_format(&AccessFormat::Off).unwrap();
    assert!(!access.is_on());
    write(&access, 4);
    access.flush();
    assert_eq!(next(receiver.as_fd()).unwrap(), "old 1\nold 2\nnew 3\n");
}

#[test]
fn the_log_is_told_once_the_channel_takes_lines_again() {
    let Log {
        access,
        receiver,
        dropped,
    } = start("{bytes_sent}");
    let untold = || access.take_untold(&mut access.state.borrow_mut());
    assert_eq!(untold(), None);
    while dropped.get() == 0 {
        write(&access, 0);
    }
    assert_eq!(untold(), None, "the channel is still full");
    while next(receiver.as_fd()).is_some() {}
    assert_eq!(untold(), Some(dropped.get()));
    // More that are lost right after are told later, not once a batch.
    let before = dropped.get();
    while dropped.get() == before {
        write(&access, 0);
    }
    while next(receiver.as_fd()).is_some() {}
    assert_eq!(untold(), None);
    let told_at = access.state.borrow().told_at;
    access.state.borrow_mut().told_at = told_at.and_then(|at| at.checked_sub(TELL_INTERVAL));
    assert_eq!(untold(), Some(dropped.get() - before));
}
