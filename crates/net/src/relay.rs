//! Relays bytes both ways between a client and a backend until both directions have ended.
//!
//! ```text
//!                  read              write
//!   client  up:   ------->  Buffer  ------->   backend       a Flow a direction
//!           down: <-------  Buffer  <-------
//!
//!   Flow:  nothing held --readable, read--> holds bytes --all written--> nothing held
//!               |  end of file                   ^ not writable: wait, and read nothing (back-pressure)
//!               v
//!             ended: the other socket's write side is shut, or, if both have ended, both sockets are closed
//! ```
//!
//! * A buffer is taken when a read is about to succeed and given back as soon as it is empty: an idle relay holds none.
//! * An end of file of one side is passed on as the end of writing to the other, after the bytes before it. The other
//!   direction goes on.
//! * A reset of one side is passed on as a reset: the other socket is dropped with linger 0. A side that is not being read
//!   (back-pressure, or it has ended its direction) is watched for a reset as well.
//! * Linger is cleared at the orderly end only, so that what was written is still delivered after the close.
//! * The last bytes before an end that is known go out together with it: one segment less each connection.
//! * One that is idle can stop without ending, and go on later from the little that it leaves ([`State`]).

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, Waker, ready};

use crate::hold::{Frames, Hold, Plain};
use crate::mllp::TooLong;
use crate::stream::{Follows, Stream};

/// Buffers that a direction reads before other tasks get their turn: 1 MiB.
const READS_A_TURN: u32 = 8;

/// Told of bytes as they flow, since a connection may live for hours.
pub trait Meter {
    /// `count` more bytes have gone from the client to the backend.
    fn up(&self, count: usize);
    /// `count` more bytes have gone from the backend to the client.
    fn down(&self, count: usize);
    /// A direction has ended and the other goes on.
    fn half_closed(&self) {}
    /// Whether the relay is to stop now if it is idle. Asked at each turn that finds nothing to do.
    fn may_park(&self) -> bool {
        false
    }
}

/// How a relay ended. One that we cut ourselves has no end: its future is dropped, and both sockets are reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// In order; the client ended its direction first.
    Client,
    /// In order; the backend ended its direction first.
    Backend,
    /// The client reset the connection, or could not be reached any more.
    ClientReset,
    /// The backend did.
    BackendReset,
    /// The client sent a frame that is longer than it may be.
    ClientFrameTooLong,
    /// The backend did.
    BackendFrameTooLong,
}

/// What a relay without work leaves of itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct State {
    up: Way,
    down: Way,
    /// Whose direction ended first, in order.
    first: Option<End>,
    /// Whether the other side has been told of that.
    is_passed_on: bool,
}

/// Why a relay returned.
#[derive(Clone, Copy, Debug)]
pub enum Stopped {
    /// It is over.
    Ended(End),
    /// It was asked to stop and holds nothing.
    Idle(State),
}

/// Relays between `client` and `backend` until both directions have ended or one side fails. The caller then closes both
/// by dropping them, which ends them as they have to end: in order, or by a reset.
///
/// Begins with `State::default()`, or goes on where it stopped. Both sockets must have linger 0 (see the crate).
///
/// # Cancel safety
/// The future can be dropped; dropping the sockets then resets both connections.
pub fn relay<'a>(
    client: &'a Stream,
    backend: &'a Stream,
    meter: &'a impl Meter,
    state: State,
) -> impl Future<Output = Stopped> + 'a {
    let holds = (Plain::default(), Plain::default());
    relay_by(client, backend, meter, state, holds)
}

/// The same for MLLP: each frame in one write, in both directions, once it is whole (see [`crate::mllp`]). One that is longer
/// than `frame_bytes_max` ends the connection. A relay that holds the beginning of a frame is not idle.
///
/// # Cancel safety
/// The future can be dropped; dropping the sockets then resets both connections.
pub fn relay_frames<'a>(
    client: &'a Stream,
    backend: &'a Stream,
    meter: &'a impl Meter,
    state: State,
    frame_bytes_max: usize,
) -> impl Future<Output = Stopped> + 'a {
    let hold = || Frames::new(frame_bytes_max);
    relay_by(client, backend, meter, state, (hold(), hold()))
}

/// No async function: that would keep room for its arguments twice.
fn relay_by<'a, H: Hold + 'a>(
    client: &'a Stream,
    backend: &'a Stream,
    meter: &'a impl Meter,
    state: State,
    (up, down): (H, H),
) -> impl Future<Output = Stopped> + 'a {
    let mut relay = Relay {
        client,
        backend,
        meter,
        up: Flow::of(state.up, up),
        down: Flow::of(state.down, down),
        first: state.first,
        is_passed_on: state.is_passed_on,
        is_up_first: false,
    };
    async move {
        let by = poll_fn(|cx| relay.poll_or_park(cx)).await;
        let Some(by) = by else {
            return Stopped::Idle(State {
                up: relay.up.way,
                down: relay.down.way,
                first: relay.first,
                is_passed_on: relay.is_passed_on,
            });
        };
        relay.finish(by);
        Stopped::Ended(by)
    }
}

struct Relay<'a, M, H> {
    client: &'a Stream,
    backend: &'a Stream,
    meter: &'a M,
    up: Flow<H>,
    down: Flow<H>,
    first: Option<End>,
    is_passed_on: bool,
    /// Which direction is polled first.
    is_up_first: bool,
}

impl<M: Meter, H: Hold> Relay<'_, M, H> {
    /// None when it has stopped without an end.
    fn poll_or_park(&mut self, cx: &mut Context<'_>) -> Poll<Option<End>> {
        let end = self.poll(cx).map(Some);
        let is_idle = || !self.up.is_busy() && !self.down.is_busy();
        end.or(|| match is_idle() && self.meter.may_park() {
            true => Poll::Ready(None),
            false => Poll::Pending,
        })
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        // They take turns in being first, so that one which is always ready cannot use up the task's turn for ever.
        self.is_up_first = !self.is_up_first;
        let end = if self.is_up_first {
            self.poll_up(cx).or(|| self.poll_down(cx))
        } else {
            self.poll_down(cx).or(|| self.poll_up(cx))
        };
        let end = end.or(|| self.pass_end_on());
        // Who is not being read would not be heard, so it is watched for a reset.
        end.or(|| match self.up.is_deaf() {
            true => self.client.poll_reset(cx).map(|()| End::ClientReset),
            false => Poll::Pending,
        })
        .or(|| match self.down.is_deaf() {
            true => self.backend.poll_reset(cx).map(|()| End::BackendReset),
            false => Poll::Pending,
        })
    }

    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let count = |count| self.meter.up(count);
        match ready!(self.up.poll(cx, self.client, self.backend, count)) {
            Ok(()) => self.end_direction(End::Client),
            Err(Failed::Reading) => Poll::Ready(End::ClientReset),
            Err(Failed::Writing) => Poll::Ready(End::BackendReset),
            Err(Failed::Framing) => Poll::Ready(End::ClientFrameTooLong),
        }
    }

    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let count = |count| self.meter.down(count);
        match ready!(self.down.poll(cx, self.backend, self.client, count)) {
            Ok(()) => self.end_direction(End::Backend),
            Err(Failed::Reading) => Poll::Ready(End::BackendReset),
            Err(Failed::Writing) => Poll::Ready(End::ClientReset),
            Err(Failed::Framing) => Poll::Ready(End::BackendFrameTooLong),
        }
    }

    fn end_direction(&mut self, by: End) -> Poll<End> {
        match self.first {
            // Both have ended. The close that follows tells the other side: no shutdown is needed.
            Some(first) => Poll::Ready(first),
            None => {
                self.first = Some(by);
                self.meter.half_closed();
                Poll::Pending
            }
        }
    }

    /// Tells one side that the other has ended its direction, once both directions had their chance to end together.
    fn pass_end_on(&mut self) -> Poll<End> {
        let (socket, failed) = match self.first {
            Some(End::Client) if !self.is_passed_on => (self.backend, End::BackendReset),
            Some(End::Backend) if !self.is_passed_on => (self.client, End::ClientReset),
            _ => return Poll::Pending,
        };
        self.is_passed_on = true;
        match socket.shutdown_write() {
            Ok(()) => Poll::Pending,
            // ENOTCONN: it was reset meanwhile.
            Err(_) => Poll::Ready(failed),
        }
    }

    fn finish(&mut self, by: End) {
        match by {
            End::Client | End::Backend => {
                self.client.finish_on_close();
                self.backend.finish_on_close();
            }
            // What had arrived from a side before its reset is handed on, as far as that goes without waiting.
            End::ClientReset => self
                .up
                .flush(self.client, self.backend, |n| self.meter.up(n)),
            End::BackendReset => self
                .down
                .flush(self.backend, self.client, |n| self.meter.down(n)),
            // Both are reset: an end in order would make a message of what was broken off.
            End::ClientFrameTooLong | End::BackendFrameTooLong => {}
        }
    }
}

/// What is kept of a direction.
#[derive(Clone, Copy, Debug, Default)]
struct Way {
    /// End of file was read, and so everything before it was written.
    is_ended: bool,
}

/// One direction.
#[derive(Debug)]
struct Flow<H> {
    way: Way,
    /// Bytes read and not yet written. While some are to be written, nothing is read.
    held: H,
}

/// What failed, seen from a direction.
enum Failed {
    /// The socket that is read.
    Reading,
    /// The socket that is written.
    Writing,
    /// What was read cannot be written as it has to be.
    Framing,
}

impl From<TooLong> for Failed {
    fn from(_: TooLong) -> Self {
        Self::Framing
    }
}

impl<H: Hold> Flow<H> {
    fn of(way: Way, held: H) -> Self {
        Self { way, held }
    }

    /// Whether the socket it reads from is not being read.
    fn is_deaf(&self) -> bool {
        self.way.is_ended || !self.held.unit().is_empty()
    }

    /// Whether it holds bytes.
    fn is_busy(&self) -> bool {
        !self.held.is_empty()
    }

    /// Moves bytes until there are none, the reader of them does not keep up, or end of file; or until it is others' turn.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &Stream,
        to: &Stream,
        count: impl Fn(usize),
    ) -> Poll<Result<(), Failed>> {
        if self.way.is_ended {
            return Poll::Pending;
        }
        let mut reads = 0;
        loop {
            let unit = self.held.unit();
            if unit.is_empty() {
                ready!(from.poll_readable(cx));
                if from.is_end_read() {
                    self.held.end();
                    if !self.held.is_empty() {
                        continue;
                    }
                    self.way.is_ended = true;
                    return Poll::Ready(Ok(()));
                }
                if reads == READS_A_TURN {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                reads += 1;
                let read = from.try_read(self.held.room());
                let filled = self.held.fill(*read.as_ref().unwrap_or(&0));
                match read {
                    Ok(_) => filled?,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return Poll::Ready(Err(Failed::Reading)),
                }
            } else {
                if let Some(bytes) = self.held.room_wanted() {
                    to.make_room(bytes);
                }
                ready!(to.poll_writable(cx));
                let unit = self.held.unit();
                // The end that was read behind these bytes is passed on as soon as they are written.
                let follows = match from.is_end_read() && self.held.is_last() {
                    true => Follows::Soon,
                    false => Follows::Nothing,
                };
                match to.try_write(unit, follows) {
                    Ok(written) => {
                        count(written);
                        self.held.consume(written)?;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return Poll::Ready(Err(Failed::Writing)),
                }
            }
        }
    }

    /// Moves what can be moved without waiting.
    fn flush(&mut self, from: &Stream, to: &Stream, count: impl Fn(usize)) {
        let mut cx = Context::from_waker(Waker::noop());
        match self.poll(&mut cx, from, to, count) {
            Poll::Pending
            | Poll::Ready(Ok(()) | Err(Failed::Reading | Failed::Writing | Failed::Framing)) => {}
        }
    }
}

/// The first of two that is ready; the second is not asked when the first is.
trait Or {
    fn or(self, other: impl FnOnce() -> Self) -> Self;
}

impl<T> Or for Poll<T> {
    fn or(self, other: impl FnOnce() -> Self) -> Self {
        match self {
            Self::Ready(_) => self,
            Self::Pending => other(),
        }
    }
}
