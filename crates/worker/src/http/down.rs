//! An answer on its way to the client.

use std::io::ErrorKind;
use std::rc::Rc;
use std::task::{Context, Poll};

use evenkeel_http::Rule;
use evenkeel_http::compress::Encoder;
use evenkeel_http1::chunked;
use evenkeel_http1::{Body, Limits};
use evenkeel_net::Stream;
use evenkeel_net::stream::Follows;

use super::inbox::Inbox;
use super::transfer::{Incoming, MOVES_A_TURN, Out, WaitsFor, end, first};

/// Body bytes that are copied behind the head instead of being named to the kernel apart.
const COPIED_MAX: usize = 2_048;

/// Why an answer was not passed on to its end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DownError {
    /// The client has gone.
    ClientGone,
    /// The backend closed before the end.
    BackendClosed,
    /// Its body is malformed.
    Malformed(&'static Rule),
    /// It cannot be compressed any further.
    Encoding,
}

/// Most answers that a worker compresses at the same time: each takes up to 2 MiB, for as long as its client likes to read.
const ENCODINGS_MAX: usize = 256;

/// Counts answers that are being compressed.
#[derive(Debug, Default)]
pub(crate) struct Encodings(Rc<()>);

impl Encodings {
    /// A place for one more, if there is room.
    pub(crate) fn place(&self) -> Option<Rc<()>> {
        (Rc::strong_count(&self.0) <= ENCODINGS_MAX).then(|| Rc::clone(&self.0))
    }
}

/// An encoder and its place.
#[derive(Debug)]
pub(crate) struct Encoding {
    pub(crate) encoder: Encoder,
    #[expect(dead_code, reason = "it counts while it is held")]
    pub(crate) place: Rc<()>,
}

/// An answer on its way to the client.
#[derive(Debug, Default)]
pub(crate) struct Down {
    body: Incoming,
    to: Framing,
    encoder: Option<Box<Encoding>>,
    /// Whether the encoder was given something since it was flushed.
    is_encoding: bool,
    encoded: Vec<u8>,
    /// Whether the connection ends behind it: the end then goes in one segment with the last bytes.
    pub(crate) is_last: bool,
    pub(crate) out: Out,
    is_read: bool,
    waits_for: WaitsFor,
    moved: u64,
    received: u64,
    has_progressed: bool,
}

/// How a body is framed towards the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Framing {
    #[default]
    AsItIs,
    Chunked,
}

impl Down {
    /// Begins an answer whose head [`Self::out`] has, with that body, which goes on framed as `to`. Only a body with a length, that goes
    /// in chunks, has an encoder.
    pub(crate) fn begin(
        &mut self,
        body: Body,
        limits: &Limits,
        to: Body,
        encoder: Option<Box<Encoding>>,
    ) {
        self.encoder = encoder;
        self.body = Incoming::new(body, limits);
        self.to = match to {
            Body::Chunked => Framing::Chunked,
            Body::None | Body::Length(_) | Body::ToEnd => Framing::AsItIs,
        };
        self.is_read = body == Body::None;
    }

    /// Memory that it keeps for the next one.
    pub(crate) fn bytes(&self) -> usize {
        self.out.bytes.capacity() + self.encoded.capacity()
    }

    /// Forgets what was before.
    pub(crate) fn clear(&mut self) {
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        *self = Self {
            out,
            ..Self::default()
        };
    }

    pub(crate) fn waits_for(&self) -> WaitsFor {
        self.waits_for
    }

    /// Bytes that were written to the client since the last call.
    pub(crate) fn take_moved(&mut self) -> u64 {
        std::mem::take(&mut self.moved)
    }

    /// Bytes that were read from the backend since the last call.
    pub(crate) fn take_received(&mut self) -> u64 {
        std::mem::take(&mut self.received)
    }

    /// Notes bytes that were read before the body.
    pub(crate) fn note_received(&mut self, count: usize) {
        self.received += count as u64;
        self.has_progressed = true;
    }

    pub(crate) fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.has_progressed)
    }

    /// Writes what is to go before the body, or instead of it. Ready when it has gone.
    pub(crate) fn poll_out(
        &mut self,
        cx: &mut Context<'_>,
        client: &Stream,
    ) -> Poll<Result<(), DownError>> {
        while !self.out.is_empty() {
            if client.poll_writable(cx).is_pending() {
                self.waits_for = WaitsFor::Reader;
                return Poll::Pending;
            }
            self.write(client, &[], true)?;
        }
        self.waits_for = WaitsFor::Nobody;
        Poll::Ready(Ok(()))
    }

    /// Goes on. Ready when the answer is with the client's kernel.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        inbox: &mut Inbox,
        backend: &Stream,
        client: &Stream,
    ) -> Poll<Result<(), DownError>> {
        // Compressing a buffer takes as long as moving many.
        let moves = match self.encoder {
            Some(_) => 1,
            None => MOVES_A_TURN,
        };
        for _ in 0..moves {
            self.waits_for = WaitsFor::Nobody;
            let is_direct = self.to == Framing::AsItIs;
            let direct = match self.body {
                Incoming::Length(left) if is_direct => first(inbox.bytes(), left),
                Incoming::ToEnd if is_direct => inbox.bytes(),
                Incoming::None | Incoming::Length(_) | Incoming::Chunked(_) | Incoming::ToEnd => {
                    &[]
                }
            };
            if !self.out.is_empty() || !direct.is_empty() {
                if client.poll_writable(cx).is_pending() {
                    self.waits_for = WaitsFor::Reader;
                    return Poll::Pending;
                }
                let count = direct.len();
                if !self.out.is_empty() && (1..=COPIED_MAX).contains(&count) {
                    self.out.bytes.extend_from_slice(direct);
                    self.took(count);
                    inbox.consume(count);
                    self.write(client, &[], self.is_read)?;
                } else {
                    let is_all = match self.body {
                        Incoming::Length(left) => left == count as u64,
                        _ => self.is_read,
                    };
                    let of_body = self.write(client, direct, is_all)?;
                    self.took(of_body);
                    inbox.consume(of_body);
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
            if backend.poll_readable(cx).is_pending() {
                // A backend that pauses does not keep the client waiting for what the encoder has.
                if self.is_encoding {
                    self.flush()?;
                    continue;
                }
                self.waits_for = WaitsFor::Sender;
                return Poll::Pending;
            }
            match inbox.fill(backend) {
                Ok(0) => self.ends()?,
                Ok(count) => self.note_received(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(Err(DownError::BackendClosed)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes what is out, and `direct` behind it; how much of the latter.
    fn write(&mut self, client: &Stream, direct: &[u8], is_all: bool) -> Result<usize, DownError> {
        let follows = match is_all && self.is_last {
            true => Follows::Soon,
            false => Follows::Nothing,
        };
        match client.try_write_both(self.out.left(), direct, follows) {
            Ok(count) => {
                self.has_progressed = true;
                self.moved += count as u64;
                Ok(self.out.wrote(count))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            Err(_) => Err(DownError::ClientGone),
        }
    }

    /// The backend has ended its direction.
    fn ends(&mut self) -> Result<(), DownError> {
        match self.body {
            Incoming::ToEnd => {
                if self.to == Framing::Chunked {
                    self.out.bytes.extend_from_slice(chunked::BODY_END);
                }
                self.is_read = true;
                Ok(())
            }
            Incoming::None | Incoming::Length(_) | Incoming::Chunked(_) => {
                Err(DownError::BackendClosed)
            }
        }
    }

    /// Takes what is there of a body that is framed anew.
    fn read(&mut self, inbox: &mut Inbox) -> Result<(), DownError> {
        match &mut self.body {
            Incoming::Chunked(decoder) => {
                while !inbox.is_empty() {
                    let bytes = inbox.bytes();
                    let piece = decoder.decode(bytes).map_err(DownError::Malformed)?;
                    let data = &bytes[piece.data];
                    match self.to {
                        Framing::Chunked => chunked::chunk(&mut self.out.bytes, data),
                        Framing::AsItIs => self.out.bytes.extend_from_slice(data),
                    }
                    inbox.consume(piece.consumed);
                    if piece.ended {
                        decoder.trailers().map_err(DownError::Malformed)?;
                        if self.to == Framing::Chunked {
                            end(decoder, &mut self.out.bytes);
                        }
                        self.is_read = true;
                        break;
                    }
                }
            }
            Incoming::ToEnd => {
                let count = inbox.bytes().len();
                chunked::chunk(&mut self.out.bytes, inbox.bytes());
                inbox.consume(count);
            }
            Incoming::Length(left) => {
                let data = first(inbox.bytes(), *left);
                let count = data.len();
                if let Some(Encoding { encoder, .. }) = self.encoder.as_deref_mut() {
                    let encoded = &mut self.encoded;
                    encoded.clear();
                    encoder
                        .push(data, encoded)
                        .map_err(|_| DownError::Encoding)?;
                    self.is_encoding |= count > 0;
                }
                *left -= count as u64;
                let is_end = *left == 0;
                inbox.consume(count);
                if is_end && let Some(encoding) = self.encoder.take() {
                    let ended = encoding.encoder.finish(&mut self.encoded);
                    ended.map_err(|_| DownError::Encoding)?;
                    self.is_encoding = false;
                }
                chunked::chunk(&mut self.out.bytes, &self.encoded);
                self.encoded.clear();
                if is_end {
                    self.out.bytes.extend_from_slice(chunked::BODY_END);
                    self.is_read = true;
                }
            }
            Incoming::None => {}
        }
        Ok(())
    }

    /// Lets out what the encoder has.
    fn flush(&mut self) -> Result<(), DownError> {
        self.is_encoding = false;
        if let Some(Encoding { encoder, .. }) = self.encoder.as_deref_mut() {
            let flushed = encoder.flush(&mut self.encoded);
            flushed.map_err(|_| DownError::Encoding)?;
        }
        chunked::chunk(&mut self.out.bytes, &self.encoded);
        self.encoded.clear();
        Ok(())
    }

    fn took(&mut self, count: usize) {
        if let Incoming::Length(left) = &mut self.body {
            *left -= count as u64;
            self.is_read = *left == 0;
        }
    }
}
