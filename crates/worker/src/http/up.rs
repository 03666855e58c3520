//! A request on its way to a backend.

use std::io::ErrorKind;
use std::task::{Context, Poll};

use evenkeel_http::Rule;
use evenkeel_http1::chunked;
use evenkeel_http1::{Body, Limits};
use evenkeel_net::Stream;
use evenkeel_net::stream::Follows;

use super::inbox::Inbox;
use super::transfer::{Incoming, MOVES_A_TURN, Out, WaitsFor, end, first};

/// Why a request cannot be sent to its end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum UpError {
    /// The client has gone, or its end came too early.
    ClientGone,
    /// Its body is malformed.
    Malformed(&'static Rule),
    /// Its body is larger than it may be.
    TooLarge,
}

/// A request on its way to a backend.
#[derive(Debug, Default)]
pub(crate) struct Up {
    body: Incoming,
    pub(crate) out: Out,
    is_read: bool,
    /// The backend takes no more.
    is_broken: bool,
    waits_for: WaitsFor,
    /// Bytes of the body that have come, and may.
    received: u64,
    received_max: Option<u64>,
    /// What came of the body, for another try; none when that is too much.
    held: Option<Vec<u8>>,
    held_max: usize,
    /// Bytes that this try has written.
    sent: u64,
    /// Bytes written, and read, since it was asked last.
    moved: u64,
    has_progressed: bool,
}

impl Up {
    /// Begins a request with this body, of which `held_max` bytes are held for another try and `received_max` are taken.
    pub(crate) fn begin(
        &mut self,
        body: Body,
        limits: &Limits,
        held_max: u32,
        received_max: Option<u64>,
    ) {
        let mut held = self.held.take().unwrap_or_default();
        held.clear();
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        *self = Self {
            body: Incoming::new(body, limits),
            out,
            is_read: body == Body::None,
            received_max,
            held: Some(held),
            held_max: usize::try_from(held_max).unwrap_or(usize::MAX),
            ..Self::default()
        };
    }

    /// Begins a try: what was held of the body follows the head, which [`Self::out`] has by now.
    pub(crate) fn begin_try(&mut self) {
        self.is_broken = false;
        self.sent = 0;
        let held = self.held.as_deref().unwrap_or_default();
        match &self.body {
            Incoming::Chunked(decoder) => {
                chunked::chunk(&mut self.out.bytes, held);
                if self.is_read {
                    end(decoder, &mut self.out.bytes);
                }
            }
            Incoming::None | Incoming::Length(_) | Incoming::ToEnd => {
                self.out.bytes.extend_from_slice(held);
            }
        }
    }

    /// Memory that it keeps for the next one.
    pub(crate) fn bytes(&self) -> usize {
        self.out.bytes.capacity() + self.held.as_ref().map_or(0, Vec::capacity)
    }

    /// As if this had come of the body.
    #[cfg(test)]
    pub(crate) fn hold_for_test(&mut self, data: &[u8]) {
        hold(&mut self.held, data, self.held_max);
    }

    /// The request goes no further.
    pub(crate) fn give_up(&mut self) {
        self.is_broken = true;
    }

    /// Whether all that came of the body is held.
    pub(crate) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Whether the request was read to its end and written.
    pub(crate) fn is_done(&self) -> bool {
        self.is_read && self.out.is_empty() && !self.is_broken
    }

    /// Whether the client's request was read to its end.
    pub(crate) fn is_read(&self) -> bool {
        self.is_read
    }

    /// Whether no byte of this try has left us.
    pub(crate) fn is_unsent(&self) -> bool {
        self.sent == 0
    }

    pub(crate) fn waits_for(&self) -> WaitsFor {
        self.waits_for
    }

    /// Bytes that were written since the last call.
    pub(crate) fn take_moved(&mut self) -> u64 {
        std::mem::take(&mut self.moved)
    }

    /// Whether anything was read or written since the last call.
    pub(crate) fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.has_progressed)
    }

    /// Goes on. Ready when the request was sent, or its backend takes no more: its answer may have come already.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        inbox: &mut Inbox,
        client: &Stream,
        backend: &Stream,
    ) -> Poll<Result<(), UpError>> {
        for _ in 0..MOVES_A_TURN {
            self.waits_for = WaitsFor::Nobody;
            if self.is_broken {
                return Poll::Ready(Ok(()));
            }
            let direct = match self.body {
                Incoming::Length(left) => first(inbox.bytes(), left),
                Incoming::None | Incoming::Chunked(_) | Incoming::ToEnd => &[],
            };
            if !self.out.is_empty() || !direct.is_empty() {
                if backend.poll_writable(cx).is_pending() {
                    self.waits_for = WaitsFor::Reader;
                    return Poll::Pending;
                }
                match backend.try_write_both(self.out.left(), direct, Follows::Nothing) {
                    Ok(count) => {
                        self.has_progressed = true;
                        self.sent += count as u64;
                        self.moved += count as u64;
                        let of_body = self.out.wrote(count);
                        self.took(&inbox.bytes()[..of_body])?;
                        inbox.consume(of_body);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => self.is_broken = true,
                }
                continue;
            }
            if self.is_read {
                return Poll::Ready(Ok(()));
            }
            self.read(inbox)?;
            if self.is_read || !self.out.is_empty() {
                continue;
            }
            if client.poll_readable(cx).is_pending() {
                self.waits_for = WaitsFor::Sender;
                return Poll::Pending;
            }
            match inbox.fill(client) {
                Ok(0) => return Poll::Ready(Err(UpError::ClientGone)),
                Ok(_) => self.has_progressed = true,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(Err(UpError::ClientGone)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes what is there of a body in chunks.
    fn read(&mut self, inbox: &mut Inbox) -> Result<(), UpError> {
        let Incoming::Chunked(decoder) = &mut self.body else {
            return Ok(());
        };
        loop {
            let bytes = inbox.bytes();
            let piece = decoder.decode(bytes).map_err(UpError::Malformed)?;
            let data = &bytes[piece.data];
            chunked::chunk(&mut self.out.bytes, data);
            self.received += data.len() as u64;
            if self.received_max.is_some_and(|max| self.received > max) {
                return Err(UpError::TooLarge);
            }
            hold(&mut self.held, data, self.held_max);
            inbox.consume(piece.consumed);
            if piece.ended {
                // Malformed ones are refused before the last of the body has gone out.
                decoder.trailers().map_err(UpError::Malformed)?;
                end(decoder, &mut self.out.bytes);
                self.is_read = true;
                return Ok(());
            }
            if inbox.is_empty() {
                return Ok(());
            }
        }
    }

    /// These bytes of a body with a length were written.
    fn took(&mut self, data: &[u8]) -> Result<(), UpError> {
        if let Incoming::Length(left) = &mut self.body {
            *left -= data.len() as u64;
            self.is_read = *left == 0;
        }
        hold(&mut self.held, data, self.held_max);
        Ok(())
    }
}

fn hold(held: &mut Option<Vec<u8>>, data: &[u8], max: usize) {
    match held {
        Some(bytes) if bytes.len() + data.len() <= max => bytes.extend_from_slice(data),
        _ if data.is_empty() => {}
        _ => *held = None,
    }
}
