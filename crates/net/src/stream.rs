//! A connected socket under this thread's driver.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};
use socket2::SockRef;

use crate::driver::{
    self, END_ARRIVED, END_READ, FAILED, FRESH, Key, OUTGOING, READABLE, Token, URGENT, WRITABLE,
    WRITTEN,
};

/// A connected TCP socket, non-blocking. It belongs to one task at a time: whoever polled it last is woken.
///
/// Dropping it closes the socket: by a reset while linger is 0, as it is from birth, and in order after
/// [`Self::finish_on_close`].
#[derive(Debug)]
pub struct Stream {
    socket: OwnedFd,
    key: Key,
}

const _: () = assert!(size_of::<Stream>() == 8);

/// Bytes that fit into one segment of whatever connection (RFC 9293, section 3.7.1: the default of 536 for IPv4).
const SEGMENT_MIN: usize = 536;

impl Stream {
    /// Takes a connected, non-blocking socket of which there is no other descriptor. To be called within a `LocalSet`.
    ///
    /// # Errors
    /// When epoll has no memory or no watches left; the socket is closed then.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        // There is room in a new socket. Whether there is something to read, the first event says.
        Self::with(socket, WRITABLE)
    }

    /// Takes a socket that is being connected.
    pub(crate) fn connecting(socket: OwnedFd) -> io::Result<Self> {
        Self::with(socket, OUTGOING | FRESH)
    }

    fn with(socket: OwnedFd, flags: u16) -> io::Result<Self> {
        let key = driver::register(socket.as_fd(), flags)?;
        Ok(Self { socket, key })
    }

    /// Reads what is there; 0 is the end, for ever. A read that does not fill `buffer` tells that there is no more, and the
    /// end that has arrived behind it is told without another system call.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there, or what the kernel says.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let known = driver::flags(self.key);
        if known & END_READ != 0 {
            return Ok(0);
        }
        let wanted = buffer.len();
        match retry(|| rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::empty())) {
            Ok((0, _)) if wanted > 0 => {
                driver::change(self.key, 0, END_READ | READABLE);
                Ok(0)
            }
            Ok((read, _)) => {
                // Reads stop at the mark of urgent data, whatever is behind it.
                if read < wanted && known & URGENT == 0 {
                    self.emptied(known);
                }
                Ok(read)
            }
            Err(Errno::AGAIN) => {
                driver::change(self.key, READABLE, 0);
                Err(Errno::AGAIN.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Looks at what is there and leaves it there; 0 is the end. What was looked at and is not enough:
    /// [`Self::wait_for_more`].
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there, or what the kernel says.
    pub fn try_peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match retry(|| rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::PEEK)) {
            Ok((seen, _)) => Ok(seen),
            Err(Errno::AGAIN) => {
                self.wait_for_more();
                Err(Errno::AGAIN.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What has arrived so far is no reason to read: the next bytes are, or the end.
    pub fn wait_for_more(&self) {
        driver::change(self.key, READABLE, 0);
    }

    /// Whether the peer's end has arrived, behind what can still be read.
    #[must_use]
    pub fn has_end_arrived(&self) -> bool {
        driver::flags(self.key) & END_ARRIVED != 0
    }

    /// Everything was read that had arrived when `known` was.
    fn emptied(&self, known: u16) {
        if known & FAILED != 0 {
            // The next read tells what has failed; no event comes for it any more.
            return;
        }
        if known & END_ARRIVED != 0 {
            // The kernel raises RDHUP after everything before the end was queued (linux/net/ipv4/tcp_input.c, `tcp_fin`).
            driver::change(self.key, 0, END_READ | READABLE);
        } else {
            driver::change(self.key, READABLE, 0);
        }
    }

    /// Whether everything before the peer's end was read, as far as is known without asking the kernel.
    #[must_use]
    pub fn is_end_read(&self) -> bool {
        driver::flags(self.key) & END_READ != 0
    }

    /// Writes as much as there is room for. `follows`: more, or the end of this direction, is written at once, and the
    /// kernel may send both together.
    ///
    /// # Errors
    /// `WouldBlock` when there is no room, or what the kernel says.
    pub fn try_write(&self, bytes: &[u8], follows: Follows) -> io::Result<usize> {
        if driver::flags(self.key) & FRESH != 0 {
            self.begin_writing(bytes.len());
        }
        match retry(|| rustix::net::send(&self.socket, bytes, follows.flags())) {
            Ok(written) => {
                if written < bytes.len() {
                    driver::change(self.key, WRITABLE, 0);
                }
                Ok(written)
            }
            Err(Errno::AGAIN) => {
                driver::change(self.key, WRITABLE, 0);
                Err(Errno::AGAIN.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Writes as much as there is room for of `first` and what follows it, in one go.
    ///
    /// # Errors
    /// As [`Self::try_write`].
    pub fn try_write_both(
        &self,
        first: &[u8],
        second: &[u8],
        follows: Follows,
    ) -> io::Result<usize> {
        if second.is_empty() {
            return self.try_write(first, follows);
        }
        if first.is_empty() {
            return self.try_write(second, follows);
        }
        let bytes = first.len() + second.len();
        if driver::flags(self.key) & FRESH != 0 {
            self.begin_writing(bytes);
        }
        let parts = [IoSlice::new(first), IoSlice::new(second)];
        let send = || {
            let mut none = SendAncillaryBuffer::default();
            rustix::net::sendmsg(&self.socket, &parts, &mut none, follows.flags())
        };
        match retry(send) {
            Ok(written) => {
                if written < bytes {
                    driver::change(self.key, WRITABLE, 0);
                }
                Ok(written)
            }
            Err(Errno::AGAIN) => {
                driver::change(self.key, WRITABLE, 0);
                Err(Errno::AGAIN.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Asks for room for `bytes` that are to be taken by one write, however few the peer has acknowledged of those before. The kernel
    /// gives as much as net.core.wmem_max allows, and doubles it for its own book-keeping; a write beyond that goes in parts.
    ///
    /// Where there is as much room already, nothing is asked: asking ends the kernel's own adapting of it.
    pub fn make_room(&self, bytes: usize) {
        let present = rustix::net::sockopt::socket_send_buffer_size(&self.socket);
        if present.is_ok_and(|present| present / 2 >= bytes) {
            return;
        }
        rustix::net::sockopt::set_socket_send_buffer_size(&self.socket, bytes).unwrap_or(());
    }

    /// TCP_NODELAY is for what is written while something else is on its way: the first segment of a connection never is, and
    /// many connections have no second. Nagle holds back only the last, short one of several (RFC 9293, section 3.7.4).
    #[inline(never)]
    fn begin_writing(&self, bytes: usize) {
        let is_first = driver::flags(self.key) & OUTGOING != 0 && !self.has_written();
        if is_first && bytes <= SEGMENT_MIN {
            driver::change(self.key, 0, WRITTEN);
            return;
        }
        driver::change(self.key, FRESH | WRITTEN, 0);
        // A socket that refuses is no connection any more, and the write says so.
        rustix::net::sockopt::set_tcp_nodelay(&self.socket, true).unwrap_or(());
    }

    fn has_written(&self) -> bool {
        driver::flags(self.key) & WRITTEN != 0
    }

    /// Ready when a read would not wait, as far as is known.
    pub fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        driver::poll(self.key, READABLE, cx)
    }

    /// Ready when a write would not wait, as far as is known.
    pub fn poll_writable(&self, cx: &Context<'_>) -> Poll<()> {
        driver::poll(self.key, WRITABLE, cx)
    }

    /// Ready when the connection was reset or has failed otherwise; an end of file is none.
    pub fn poll_reset(&self, cx: &Context<'_>) -> Poll<()> {
        driver::poll(self.key, FAILED, cx)
    }

    /// Ready when the peer has ended its direction, whatever can still be read before that, or the connection was reset or has failed
    /// otherwise.
    pub fn poll_gone(&self, cx: &Context<'_>) -> Poll<()> {
        driver::poll_by(self.key, END_ARRIVED | FAILED, READABLE | FAILED, cx)
    }

    /// Waits until a read would not wait.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped. So it is for the three below.
    pub async fn readable(&self) {
        poll_fn(|cx| self.poll_readable(cx)).await;
    }

    /// Waits until a write would not wait.
    pub async fn writable(&self) {
        poll_fn(|cx| self.poll_writable(cx)).await;
    }

    /// Waits until the connection was reset or has failed otherwise.
    pub async fn reset(&self) {
        poll_fn(|cx| self.poll_reset(cx)).await;
    }

    /// Waits until the peer has ended its direction, or the connection was reset or has failed otherwise.
    pub async fn gone(&self) {
        poll_fn(|cx| self.poll_gone(cx)).await;
    }

    /// Ends the direction towards the peer, after what was written.
    ///
    /// Of a connection that we made, whoever ends first keeps the port in TIME_WAIT. With SO_REUSEADDR another socket can be bound
    /// to that port nevertheless, and take the place of the connection ([`crate::connect::connect`]).
    ///
    /// # Errors
    /// ENOTCONN when the connection was reset meanwhile.
    pub fn shutdown_write(&self) -> io::Result<()> {
        if driver::flags(self.key) & (OUTGOING | END_ARRIVED) == OUTGOING {
            rustix::net::sockopt::set_socket_reuseaddr(&self.socket, true)?;
        }
        Ok(rustix::net::shutdown(&self.socket, Shutdown::Write)?)
    }

    /// Makes the close that follows an end, and not a reset: what was written is still delivered.
    pub fn finish_on_close(&self) {
        // A socket that refuses is no connection any more, and closes without ado.
        evenkeel_sys::stream::finish_on_close(&self.socket).unwrap_or(());
    }

    /// Our address of the connection. A system call.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        evenkeel_sys::listen::local_address(self.socket.as_fd())
    }

    /// What has failed. Asking makes the kernel forget it.
    ///
    /// # Errors
    /// What has failed, or when the kernel does not tell.
    pub fn take_error(&self) -> io::Result<()> {
        match SockRef::from(&self.socket).take_error()? {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Its name for [`driver::nudge`].
    #[must_use]
    pub fn token(&self) -> Token {
        driver::token(self.key)
    }

    pub(crate) fn key(&self) -> Key {
        self.key
    }

    /// Whether the peer has done something that nobody has looked at.
    #[must_use]
    pub fn is_stirring(&self) -> bool {
        let known = driver::flags(self.key);
        known & FAILED != 0 || known & READABLE != 0 && known & END_READ == 0
    }

    pub(crate) fn has_failed(&self) -> bool {
        driver::flags(self.key) & FAILED != 0
    }
}

/// What is written after some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follows {
    /// Nothing that is known: they are sent at once.
    Nothing,
    /// More, or the end, right away.
    Soon,
}

impl Follows {
    fn flags(self) -> SendFlags {
        match self {
            Self::Nothing => SendFlags::NOSIGNAL,
            Self::Soon => SendFlags::NOSIGNAL | SendFlags::MORE,
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // The socket is closed right after, before anything could fetch events.
        driver::free(self.key);
    }
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
