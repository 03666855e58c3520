//! The line channel: a sequenced-packet socket pair.
//!
//! ```text
//! packet = line of the log                            | any first byte but 0x01
//!        | 0x01, then lines of the access log, whole   | dropped by its sender when the channel is more than half full
//! ```
//!
//! One channel for both, so that whoever keeps channels alive keeps one a process; the half that only log lines may fill
//! keeps a flood of connections from pushing out the warning about it.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use evenkeel_sys::packet;
use rustix::event::{PollFd, PollFlags};

/// What a channel may hold, in bytes as the kernel counts them: every packet costs some 700 bytes more than its text.
const CHANNEL_BYTES: usize = 1 << 20;

/// First byte of a packet of access lines. No line begins with it: control characters are escaped.
pub(crate) const ACCESS_MARK: u8 = 0x01;

/// Lost lines are told about at most this often while more are being lost.
pub(crate) const TELL_INTERVAL: Duration = Duration::from_secs(10);

/// How long the last lines may wait for a standard error that nobody reads.
const DRAIN_PATIENCE: Duration = Duration::from_secs(1);

/// A pipe that polls as writable takes this many bytes without waiting (PIPE_BUF of pipe(7)).
pub(crate) const PIPE_BYTES: usize = 4_096;

/// A line channel: its sender and its receiver, non-blocking. The receiver sees the end only when every copy of the sender
/// is closed.
///
/// # Errors
/// When no descriptor is left.
pub fn channel() -> io::Result<(OwnedFd, OwnedFd)> {
    let (sender, receiver) = packet::pair()?;
    packet::set_send_buffer(sender.as_fd(), CHANNEL_BYTES)?;
    Ok((sender, receiver))
}

/// Writes the lines that still wait in `receivers` to standard error, those of the access log to `access` where there is one, and
/// returns. For whoever holds the receivers when there is no writer any more. Gives an output up when nobody reads it for a second.
pub fn drain(receivers: &[BorrowedFd<'_>], access: Option<BorrowedFd<'_>>) {
    let stderr = rustix::stdio::stderr();
    // Each waits for its own reader; one that is gone does not take the other along.
    let deadline = Instant::now() + DRAIN_PATIENCE;
    let mut log_lost = false;
    let mut access_lost = false;
    let mut buffer = vec![0; packet::MESSAGE_BYTES_MAX];
    for receiver in receivers {
        loop {
            let packet = match next_packet(*receiver, &mut buffer) {
                Ok(Some(packet)) => packet,
                Ok(None) => break,
                Err(error) if is_passing(&error) => continue,
                Err(_) => break,
            };
            let (output, lost) = match (packet.kind, access) {
                (Kind::Access, Some(access)) => (access, &mut access_lost),
                (Kind::Access, None) | (Kind::Log, _) => (stderr, &mut log_lost),
            };
            if !*lost {
                *lost = write_within(output, packet.lines, deadline).is_err();
            }
        }
    }
}

/// What lines are part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Log,
    Access,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet<'a> {
    pub(crate) kind: Kind,
    /// Whole lines, the last ended by a line feed too.
    pub(crate) lines: &'a [u8],
}

/// The next packet; `None` when the other end is closed or sent an empty packet.
///
/// # Errors
/// `WouldBlock` when nothing waits.
pub(crate) fn next_packet<'a>(
    receiver: BorrowedFd<'_>,
    buffer: &'a mut [u8],
) -> io::Result<Option<Packet<'a>>> {
    // One byte is kept for the line feed. Descriptors that somebody sent along are closed right here.
    let room = buffer.len() - 1;
    let (mut length, _) = packet::receive(receiver, &mut buffer[..room])?;
    if length == 0 {
        return Ok(None);
    }
    if buffer[length - 1] != b'\n' {
        buffer[length] = b'\n';
        length += 1;
    }
    Ok(Some(if buffer[0] == ACCESS_MARK {
        Packet {
            kind: Kind::Access,
            lines: &buffer[1..length],
        }
    } else {
        Packet {
            kind: Kind::Log,
            lines: &buffer[..length],
        }
    }))
}

/// Whether the next packet may be read after this error: a packet larger than any of ours, or a signal.
pub(crate) fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::Interrupted
    )
}

fn write_within(output: BorrowedFd<'_>, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        wait_writable(output, left)?;
        let piece = &bytes[..bytes.len().min(PIPE_BYTES)];
        match rustix::io::write(output, piece) {
            Ok(written) => bytes = &bytes[written..],
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Waits until `output` takes at least a byte.
///
/// # Errors
/// `TimedOut`, or what poll(2) says.
pub(crate) fn wait_writable(output: BorrowedFd<'_>, within: Duration) -> io::Result<()> {
    let timeout = within.try_into().map_err(io::Error::other)?;
    let mut polled = [PollFd::from_borrowed_fd(output, PollFlags::OUT)];
    match rustix::event::poll(&mut polled, Some(&timeout)) {
        Ok(0) => Err(io::ErrorKind::TimedOut.into()),
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
