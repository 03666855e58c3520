//! Something that lines are written to, which may be stuck, full or gone.
//!
//! * A regular file takes everything that waits in one write.
//! * Anything else (pipe, terminal, the journal's socket) is asked first whether it takes bytes, and gets at most 4,096 at a
//!   time, whole lines unless one line is longer: a pipe takes that many without waiting once it polls as writable, and does
//!   not mix them with what other processes write to it (PIPE_BUF of pipe(7)). So nothing here waits, although the
//!   descriptor is a blocking one: it is shared with others, whom O_NONBLOCK on it would surprise.
//! * Lines that cannot be written (no space, no reader) are given up and counted; the next ones are tried again. A line that
//!   was cut by such an error is ended before the next begins.

use std::collections::VecDeque;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::channel::{Kind, PIPE_BYTES, wait_writable};

/// Most bytes that wait for an output that is stuck.
pub(crate) const PENDING_BYTES_MAX: usize = 256 * 1024;

#[derive(Debug)]
pub(crate) struct Output {
    fd: OwnedFd,
    is_file: bool,
    pending: Vec<u8>,
    /// Bytes of `pending` that are written.
    written: usize,
    /// The rest of `pending`, by what it is. A line never crosses from one segment to the next.
    segments: VecDeque<Segment>,
    /// The last byte written is not a line feed.
    in_line: bool,
    /// The rest of the line that was begun is lost.
    is_torn: bool,
    /// Why the last write failed; none after one that did not.
    failure: Option<Errno>,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    kind: Kind,
    bytes: usize,
}

impl Output {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        let is_file = rustix::fs::fstat(&fd)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
        Self {
            fd,
            is_file,
            pending: Vec::new(),
            written: 0,
            segments: VecDeque::new(),
            in_line: false,
            is_torn: false,
            failure: None,
        }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Bytes that wait to be written.
    pub(crate) fn waiting(&self) -> usize {
        self.pending.len() - self.written
    }

    /// Why nothing could be written when it was last tried.
    pub(crate) fn failure(&self) -> Option<Errno> {
        self.failure
    }

    /// Takes whole lines, to be written by [`Output::write`]. When too much waits already they are told to `lost`.
    pub(crate) fn push(&mut self, kind: Kind, lines: &[u8], lost: &mut impl FnMut(Kind, u64)) {
        if self.waiting() + lines.len() > PENDING_BYTES_MAX {
            lost(kind, line_feeds(lines));
            return;
        }
        if self.pending.len() + lines.len() > PENDING_BYTES_MAX {
            self.pending.drain(..self.written);
            self.written = 0;
        }
        self.pending.extend_from_slice(lines);
        match self.segments.back_mut() {
            Some(last) if last.kind == kind => last.bytes += lines.len(),
            _ => self.segments.push_back(Segment {
                kind,
                bytes: lines.len(),
            }),
        }
    }

    /// Writes what the output takes now. Lines that it refuses are told to `lost`.
    pub(crate) fn write(&mut self, lost: &mut impl FnMut(Kind, u64)) {
        while let Some(segment) = self.segments.front().copied() {
            if !self.is_file && wait_writable(self.fd(), Duration::ZERO).is_err() {
                return;
            }
            let rest = &self.pending[self.written..self.written + segment.bytes];
            let part: &[u8] = match (self.is_torn, self.is_file) {
                (true, _) => b"\n",
                (false, true) => rest,
                (false, false) => piece(rest),
            };
            match rustix::io::write(&self.fd, part) {
                Ok(_) if self.is_torn => {
                    self.failure = None;
                    self.is_torn = false;
                }
                Ok(bytes) => {
                    self.failure = None;
                    self.in_line = bytes > 0 && rest[bytes - 1] != b'\n';
                    self.advance(bytes);
                }
                Err(Errno::INTR) => {}
                // Somebody who shares the descriptor has made it non-blocking, and somebody took the room.
                Err(Errno::AGAIN) => return,
                Err(error) => {
                    self.failure = Some(error);
                    self.is_torn |= self.in_line;
                    self.in_line = false;
                    let bytes = if self.is_file {
                        rest.len()
                    } else {
                        whole_lines(rest, piece(rest).len())
                    };
                    lost(segment.kind, line_feeds(&rest[..bytes]));
                    self.advance(bytes);
                }
            }
        }
    }

    /// Gives up what waits.
    pub(crate) fn give_up(&mut self, lost: &mut impl FnMut(Kind, u64)) {
        while let Some(segment) = self.segments.front().copied() {
            let rest = &self.pending[self.written..self.written + segment.bytes];
            lost(segment.kind, line_feeds(rest));
            self.advance(segment.bytes);
        }
    }

    fn advance(&mut self, bytes: usize) {
        self.written += bytes;
        if let Some(first) = self.segments.front_mut() {
            first.bytes -= bytes;
            if first.bytes == 0 {
                self.segments.pop_front();
            }
        }
        if self.segments.is_empty() {
            self.pending.clear();
            self.written = 0;
        }
    }
}

/// What is written at once: as many whole lines as fit, or as much of one as fits.
fn piece(rest: &[u8]) -> &[u8] {
    let most = &rest[..rest.len().min(PIPE_BYTES)];
    match most.iter().rposition(|byte| *byte == b'\n') {
        Some(last) => &most[..=last],
        None => most,
    }
}

/// The end of the line that the last of `bytes` is in.
fn whole_lines(rest: &[u8], bytes: usize) -> usize {
    let end = rest[bytes - 1..].iter().position(|byte| *byte == b'\n');
    end.map_or(rest.len(), |end| bytes + end)
}

fn line_feeds(lines: &[u8]) -> u64 {
    lines.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}
