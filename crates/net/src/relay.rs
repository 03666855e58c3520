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

use std::future::{Future, poll_fn};
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::buffer::Buffer;
use crate::reset;

/// Told of bytes as they flow, since a connection may live for hours.
pub trait Meter {
    /// `count` more bytes have gone from the client to the backend.
    fn up(&self, count: usize);
    /// `count` more bytes have gone from the backend to the client.
    fn down(&self, count: usize);
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
}

/// The end of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// How it ended.
    pub by: End,
    /// Bytes from the client to the backend.
    pub up: u64,
    /// Bytes from the backend to the client.
    pub down: u64,
}

/// Relays between `client` and `backend` until both directions have ended or one side fails. The caller then closes both
/// by dropping them, which ends them as they have to end: in order, or by a reset.
///
/// Both must have linger 0 (see the crate). An idle timeout would be one more thing to wait for beside the two directions.
///
/// # Cancel safety
/// The future can be dropped; dropping the sockets then resets both connections.
pub async fn relay(client: &TcpStream, backend: &TcpStream, meter: &impl Meter) -> Ended {
    let mut relay = Relay {
        client,
        backend,
        meter,
        up: Flow::default(),
        down: Flow::default(),
        client_reset: None,
        backend_reset: None,
        first: None,
        is_passed_on: false,
        is_up_first: false,
    };
    let by = poll_fn(|cx| relay.poll(cx)).await;
    relay.finish(by);
    Ended {
        by,
        up: relay.up.bytes,
        down: relay.down.bytes,
    }
}

struct Relay<'a, M> {
    client: &'a TcpStream,
    backend: &'a TcpStream,
    meter: &'a M,
    up: Flow,
    down: Flow,
    /// Made when first needed: an idle relay stays small.
    client_reset: Option<Reset<'a>>,
    backend_reset: Option<Reset<'a>>,
    /// Whose direction ended first, in order.
    first: Option<End>,
    /// Whether the other side has been told of that.
    is_passed_on: bool,
    /// Which direction is polled first.
    is_up_first: bool,
}

type Reset<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

fn poll_reset<'a>(
    watch: &mut Option<Reset<'a>>,
    socket: &'a TcpStream,
    cx: &mut Context<'_>,
) -> Poll<()> {
    let watch = watch.get_or_insert_with(|| Box::pin(reset(socket)));
    watch.as_mut().poll(cx)
}

impl<M: Meter> Relay<'_, M> {
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
            true => poll_reset(&mut self.client_reset, self.client, cx).map(|()| End::ClientReset),
            false => Poll::Pending,
        })
        .or(|| match self.down.is_deaf() {
            true => {
                poll_reset(&mut self.backend_reset, self.backend, cx).map(|()| End::BackendReset)
            }
            false => Poll::Pending,
        })
    }

    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let count = |count| self.meter.up(count);
        match ready!(self.up.poll(cx, self.client, self.backend, count)) {
            Ok(()) => self.end_direction(End::Client),
            Err(Failed::Reading) => Poll::Ready(End::ClientReset),
            Err(Failed::Writing) => Poll::Ready(End::BackendReset),
        }
    }

    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let count = |count| self.meter.down(count);
        match ready!(self.down.poll(cx, self.backend, self.client, count)) {
            Ok(()) => self.end_direction(End::Backend),
            Err(Failed::Reading) => Poll::Ready(End::BackendReset),
            Err(Failed::Writing) => Poll::Ready(End::ClientReset),
        }
    }

    fn end_direction(&mut self, by: End) -> Poll<End> {
        match self.first {
            // Both have ended. The close that follows tells the other side: no shutdown is needed.
            Some(first) => Poll::Ready(first),
            None => {
                self.first = Some(by);
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
        match SockRef::from(socket).shutdown(Shutdown::Write) {
            Ok(()) => Poll::Pending,
            // ENOTCONN: it was reset meanwhile.
            Err(_) => Poll::Ready(failed),
        }
    }

    fn finish(&mut self, by: End) {
        match by {
            End::Client | End::Backend => {
                close_in_order(self.client);
                close_in_order(self.backend);
            }
            // What had arrived from a side before its reset is handed on, as far as that goes without waiting.
            End::ClientReset => self
                .up
                .flush(self.client, self.backend, |n| self.meter.up(n)),
            End::BackendReset => self
                .down
                .flush(self.backend, self.client, |n| self.meter.down(n)),
        }
    }
}

/// Makes the close that follows an end, and not a reset: what was written is still delivered.
fn close_in_order(socket: &TcpStream) {
    // A socket that refuses is no connection any more, and closes without ado.
    evenkeel_sys::stream::finish_on_close(socket).unwrap_or(());
}

/// One direction.
#[derive(Debug, Default)]
struct Flow {
    /// Bytes read and not yet written. While there are any, nothing is read.
    held: Option<Buffer>,
    /// End of file was read, and so everything before it was written.
    is_ended: bool,
    bytes: u64,
}

/// The socket that failed, seen from a direction.
enum Failed {
    /// The one that is read.
    Reading,
    /// The one that is written.
    Writing,
}

impl Flow {
    /// Whether the socket it reads from is not being read.
    fn is_deaf(&self) -> bool {
        self.is_ended || self.held.is_some()
    }

    /// Moves bytes until there are none, the reader of them does not keep up, or end of file.
    ///
    /// The system calls are made on `&TcpStream`, since the watch for a reset borrows it as well. What tokio's `poll_read`
    /// does beyond them is repeated here: a short read or write means that there is no more (room), so the readiness is
    /// cleared without the system call that would say so.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
        count: impl Fn(usize),
    ) -> Poll<Result<(), Failed>> {
        if self.is_ended {
            return Poll::Pending;
        }
        loop {
            if let Some(buffer) = &mut self.held {
                let is_ready = ready!(to.poll_write_ready(cx));
                match is_ready.and_then(|()| to.try_write(buffer.bytes())) {
                    Ok(written) => {
                        count(written);
                        self.bytes += written as u64;
                        buffer.consume(written);
                        if buffer.bytes().is_empty() {
                            self.held = None;
                        } else {
                            clear_readiness(to, Interest::WRITABLE);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return Poll::Ready(Err(Failed::Writing)),
                }
            } else {
                let is_ready = ready!(from.poll_read_ready(cx));
                let mut buffer = Buffer::take();
                match is_ready.and_then(|()| from.try_read(buffer.room())) {
                    Ok(0) => {
                        self.is_ended = true;
                        return Poll::Ready(Ok(()));
                    }
                    Ok(read) => {
                        if read < buffer.room().len() {
                            clear_readiness(from, Interest::READABLE);
                        }
                        buffer.fill(read);
                        self.held = Some(buffer);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return Poll::Ready(Err(Failed::Reading)),
                }
            }
        }
    }

    /// Moves what can be moved without waiting.
    fn flush(&mut self, from: &TcpStream, to: &TcpStream, count: impl Fn(usize)) {
        let mut cx = Context::from_waker(Waker::noop());
        match self.poll(&mut cx, from, to, count) {
            Poll::Pending | Poll::Ready(Ok(()) | Err(Failed::Reading | Failed::Writing)) => {}
        }
        self.held = None;
    }
}

/// Clears what tokio knows of readiness. An end of file or an error that it has been told of stays known.
fn clear_readiness(socket: &TcpStream, interest: Interest) {
    let nothing = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
    // It returns the very error it was given, which is what makes it clear the readiness.
    socket.try_io(interest, nothing).unwrap_or(());
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
