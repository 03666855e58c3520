//! A message on its way: bytes that are read from one side, framed afresh, and written to the other.
//!
//! ```text
//!   Up      client --Inbox--> [head, body] --> backend        both (up.rs, down.rs) are polled in turn by one task
//!   Down    client <-- [head, body] <--Inbox-- backend
//! ```
//!
//! Bodies with a length go from the buffer that they were read into; those in chunks are framed anew on their way. Nothing is read
//! before what was read is written (back-pressure).

use evenkeel_http1::chunked::{self, Decoder};
use evenkeel_http1::{Body, Limits};

/// Buffers that a direction moves before other tasks get their turn.
pub(super) const MOVES_A_TURN: u32 = 8;

/// A body as it comes in.
#[derive(Debug, Default)]
pub(super) enum Incoming {
    #[default]
    None,
    /// So many bytes are to come.
    Length(u64),
    Chunked(Decoder),
    ToEnd,
}

impl Incoming {
    pub(super) fn new(body: Body, limits: &Limits) -> Self {
        match body {
            Body::None => Self::None,
            Body::Length(length) => Self::Length(length),
            Body::Chunked => Self::Chunked(Decoder::new(limits)),
            Body::ToEnd => Self::ToEnd,
        }
    }
}

/// Whom a direction waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum WaitsFor {
    /// Nobody: it is done, or has not begun.
    #[default]
    Nobody,
    /// The one that sends.
    Sender,
    /// The one that is to read.
    Reader,
}

/// What is written before anything else, and how much of it was.
#[derive(Debug, Default)]
pub(crate) struct Out {
    pub(crate) bytes: Vec<u8>,
    at: usize,
}

impl Out {
    pub(super) fn left(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// `count` bytes were written; how many of them were others than these.
    pub(super) fn wrote(&mut self, count: usize) -> usize {
        let own = count.min(self.bytes.len() - self.at);
        self.at += own;
        if self.is_empty() {
            self.clear();
        }
        count - own
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.at = 0;
    }
}

pub(super) fn end(decoder: &Decoder, out: &mut Vec<u8>) {
    match decoder.trailers() {
        Ok(trailers) => chunked::end(out, &trailers),
        Err(_) => out.extend_from_slice(chunked::BODY_END),
    }
}

pub(super) fn first(bytes: &[u8], count: u64) -> &[u8] {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    &bytes[..count.min(bytes.len())]
}
