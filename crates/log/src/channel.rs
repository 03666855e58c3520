//! The line channel: a sequenced-packet socket pair, one packet a line.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use evenkeel_sys::packet;
use rustix::event::{PollFd, PollFlags};

/// What a channel may hold, in bytes as the kernel counts them: every packet costs some 700 bytes more than its text.
const CHANNEL_BYTES: usize = 1 << 20;

/// How long the last lines may wait for a standard error that nobody reads.
const DRAIN_PATIENCE: Duration = Duration::from_secs(1);

/// A pipe that polls as writable takes this many bytes without waiting (PIPE_BUF of pipe(7)).
const PIPE_BYTES: usize = 4_096;

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

/// Writes the lines that still wait in `receivers` to standard error, and returns. For whoever holds the receivers when
/// there is no writer any more. Gives up when nobody reads standard error for a second.
pub fn drain_to_stderr(receivers: &[BorrowedFd<'_>]) {
    let output = rustix::stdio::stderr();
    let deadline = Instant::now() + DRAIN_PATIENCE;
    let mut buffer = vec![0; packet::MESSAGE_BYTES_MAX];
    for receiver in receivers {
        while let Ok(Some(line)) = next_line(*receiver, &mut buffer) {
            if write_within(output, line, deadline).is_err() {
                return;
            }
        }
    }
}

/// The next packet, ended by a line feed; `None` when the other end is closed or sent an empty packet.
///
/// # Errors
/// `WouldBlock` when nothing waits.
pub(crate) fn next_line<'a>(
    receiver: BorrowedFd<'_>,
    buffer: &'a mut [u8],
) -> io::Result<Option<&'a [u8]>> {
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
    Ok(Some(&buffer[..length]))
}

fn write_within(output: BorrowedFd<'_>, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        wait_writable(output, Some(left))?;
        let piece = &bytes[..bytes.len().min(PIPE_BYTES)];
        match rustix::io::write(output, piece) {
            Ok(written) => bytes = &bytes[written..],
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Waits until `output` takes at least a byte; `None` = for ever.
///
/// # Errors
/// `TimedOut`, or what poll(2) says.
pub(crate) fn wait_writable(output: BorrowedFd<'_>, within: Option<Duration>) -> io::Result<()> {
    let timeout = match within {
        Some(within) => Some(within.try_into().map_err(io::Error::other)?),
        None => None,
    };
    let mut polled = [PollFd::from_borrowed_fd(output, PollFlags::OUT)];
    match rustix::event::poll(&mut polled, timeout.as_ref()) {
        Ok(0) => Err(io::ErrorKind::TimedOut.into()),
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
