//! The sender's end: lines gather in a batch, which leaves as one packet.

use std::cell::RefCell;
use std::fmt;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Instant;

use evenkeel_plan::{AccessFormat, TemplateError};
use evenkeel_sys::packet;

use super::format::Formatter;
use super::record::Record;
use crate::channel::{ACCESS_MARK, TELL_INTERVAL};
use crate::text::LINE_BYTES_MAX;

/// Longest batch in bytes, its mark included: with the kernel's 320 bytes of book-keeping it fits an allocation of 16 KiB,
/// and a few bytes more would take 32 KiB of the channel.
pub const BATCH_BYTES: usize = 16_000;

const _: () = assert!(LINE_BYTES_MAX < BATCH_BYTES && BATCH_BYTES <= packet::MESSAGE_BYTES_MAX);

/// Where a process writes its lines of the access log. For one thread.
///
/// Nothing here waits. A batch that finds the channel more than half full is dropped and its lines are counted: the other
/// half is kept for log lines, which share the channel. Lines that are not sent yet, at most [`BATCH_BYTES`] of them and
/// none older than the last [`AccessLog::flush`], are lost when the process is killed.
pub struct AccessLog {
    sender: OwnedFd,
    /// Bytes that the channel may hold, as the kernel counts them, for another batch to be sent.
    room: usize,
    dropped: Box<dyn Fn(u64)>,
    state: RefCell<State>,
}

#[derive(Debug)]
struct State {
    formatter: Option<Formatter>,
    /// Begins with the mark.
    batch: Vec<u8>,
    lines: u64,
    /// Lines that were dropped and of which the log has not been told.
    untold: u64,
    told_at: Option<Instant>,
}

impl AccessLog {
    /// Writes records as `format` says to the line channel whose sending end is `sender`, a copy of the one that the log has.
    /// Lines that are dropped are told to `dropped`; if `sender` is not a socket, those are all.
    ///
    /// # Errors
    /// When `format` is a template with an error in it.
    pub fn new(
        sender: OwnedFd,
        format: &AccessFormat,
        dropped: Box<dyn Fn(u64)>,
    ) -> Result<Self, TemplateError> {
        let room = packet::send_buffer(sender.as_fd()).unwrap_or(0) / 2;
        let mut batch = Vec::with_capacity(BATCH_BYTES + LINE_BYTES_MAX);
        batch.push(ACCESS_MARK);
        Ok(Self {
            sender,
            room,
            dropped,
            state: RefCell::new(State {
                formatter: Formatter::new(format)?,
                batch,
                lines: 0,
                untold: 0,
                told_at: None,
            }),
        })
    }

    /// Whether there is an access log: if not, no record need be made.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.state.borrow().formatter.is_some()
    }

    /// Whether lines show [`Record::source`].
    #[must_use]
    pub fn wants_source(&self) -> bool {
        self.wants(Formatter::wants_source)
    }

    /// Whether lines show [`HttpRecord::query`](super::HttpRecord::query); if not, it need not be there.
    #[must_use]
    pub fn wants_query(&self) -> bool {
        self.wants(Formatter::wants_query)
    }

    /// Whether lines show [`HttpRecord::user_agent`](super::HttpRecord::user_agent) or
    /// [`HttpRecord::referer`](super::HttpRecord::referer); if not, neither need be there.
    #[must_use]
    pub fn wants_agents(&self) -> bool {
        self.wants(Formatter::wants_agents)
    }

    fn wants(&self, what: impl FnOnce(&Formatter) -> bool) -> bool {
        self.state.borrow().formatter.as_ref().is_some_and(what)
    }

    /// Writes records as `format` says from now on.
    ///
    /// # Errors
    /// When `format` is a template with an error in it; then nothing changes.
    pub fn set_format(&self, format: &AccessFormat) -> Result<(), TemplateError> {
        self.state.borrow_mut().formatter = Formatter::new(format)?;
        Ok(())
    }

    /// Appends the line for `record` to the batch, and sends the batch when it is full. Does nothing when there is no access
    /// log.
    pub fn write(&self, record: &Record<'_>) {
        let state = &mut *self.state.borrow_mut();
        let Some(formatter) = &state.formatter else {
            return;
        };
        let before = state.batch.len();
        formatter.line(&mut state.batch, record);
        if state.batch.len() > BATCH_BYTES {
            self.send(state, before);
        }
        state.lines += 1;
    }

    /// Sends the lines that were not sent yet. To be called every 100 ms: whoever reads the log sees a line that late at most.
    /// Costs next to nothing when there are none.
    ///
    /// When lines were dropped and the channel takes lines again, the log is told how many, at most every ten seconds.
    pub fn flush(&self) {
        let untold = {
            let state = &mut *self.state.borrow_mut();
            if state.lines > 0 {
                let all = state.batch.len();
                self.send(state, all);
            }
            self.take_untold(state)
        };
        if let Some(lines) = untold {
            tracing::warn!(lines, "lines of the access log were dropped");
        }
    }

    /// Sends what is in the batch up to `end`, or drops it. What follows is the start of the next batch.
    fn send(&self, state: &mut State, end: usize) {
        let batch = &state.batch[..end];
        let sent = self.has_room() && packet::send(self.sender.as_fd(), batch, &[]).is_ok();
        if !sent && state.lines > 0 {
            (self.dropped)(state.lines);
            state.untold += state.lines;
        }
        state.lines = 0;
        let length = state.batch.len();
        // The mark stays.
        state.batch.copy_within(end..length, 1);
        state.batch.truncate(1 + length - end);
    }

    fn has_room(&self) -> bool {
        packet::send_queue(self.sender.as_fd()).is_ok_and(|bytes| bytes < self.room)
    }

    fn take_untold(&self, state: &mut State) -> Option<u64> {
        if state.untold == 0
            || state.told_at.is_some_and(|at| at.elapsed() < TELL_INTERVAL)
            || !self.has_room()
        {
            return None;
        }
        state.told_at = Some(Instant::now());
        Some(std::mem::take(&mut state.untold))
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog")
            .field("room", &self.room)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
