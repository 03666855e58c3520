//! Accepting from one listening socket, whatever goes wrong.
//!
//! A listening socket is shared with other processes, so `shutdown` is never called on it, and it is deregistered from
//! epoll before it is closed: the registration would outlive our descriptor for as long as another process holds the same
//! open file. Dropping tokio's watch does both in that order. What is accepted never passes through tokio's registration.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::SocketFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::coop;

use crate::is_exhaustion;
use crate::stream::Stream;

/// First pause after an accept that failed for lack of a resource.
pub const PAUSE_MIN: Duration = Duration::from_millis(1);

/// Longest pause.
pub const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Most connections that are accepted before other tasks get their turn.
pub const BURST_MAX: u32 = 16;

/// Why an accept gave no connection. Neither is a reason to give the listener up.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The connection's own reason: it was gone before it was accepted.
    #[error("the connection was gone")]
    Aborted(#[source] io::Error),
    /// A lack of descriptors or memory. The next accept waits first.
    #[error("no resources for a connection")]
    Exhausted(#[source] io::Error),
}

/// An accepted connection and its peer.
pub type Accepted = (Stream, SocketAddr);

/// Accepts from one listening socket.
#[derive(Debug)]
pub struct Acceptor {
    listener: AsyncFd<OwnedFd>,
    pace: Pace,
    /// Connections since others had their turn.
    burst: u32,
}

impl Acceptor {
    /// Takes a listening socket that is non-blocking already (the mode is shared with other processes). Call it within a
    /// `LocalSet` of a tokio runtime.
    ///
    /// # Errors
    /// When it cannot be registered with the runtime.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            listener: evenkeel_sys::watch::watch(socket, Interest::READABLE)?,
            pace: Pace::default(),
            burst: 0,
        })
    }

    /// The next connection. After an [`AcceptError::Exhausted`] it waits before it tries again, longer each time; each
    /// success halves the wait. Several connections that wait are taken in one wake: only an accept that finds nothing
    /// goes back to the event loop, or one after [`BURST_MAX`] others.
    ///
    /// # Errors
    /// [`AcceptError`]; the acceptor stays usable.
    ///
    /// # Cancel safety
    /// No connection is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Accepted, AcceptError> {
        self.pace.wait().await;
        let result = std::future::poll_fn(|cx| self.poll(cx)).await;
        self.pace.note(result)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        if self.burst >= BURST_MAX {
            self.burst = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            let mut ready = match ready!(self.listener.poll_read_ready(cx)) {
                Ok(ready) => ready,
                Err(error) => return Poll::Ready(Err(error)),
            };
            match accept_now(self.listener.get_ref().as_fd()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready.clear_ready();
                    self.burst = 0;
                }
                result => {
                    self.burst += 1;
                    return Poll::Ready(result);
                }
            }
        }
    }

    /// Waits before the next accept, longer each time, as if the last one had failed for lack of a resource: whoever takes what it
    /// accepts lacks one.
    pub fn pause(&mut self) {
        self.pace.lengthen();
    }

    /// Deregisters the socket; what waits in its queue stays there.
    ///
    /// # Errors
    /// Never, as things are; who calls it must do without the socket then.
    pub fn into_socket(self) -> io::Result<OwnedFd> {
        Ok(self.listener.into_inner())
    }
}

/// Accepts what waits in the queue of a socket that is about to be let go.
#[derive(Debug)]
pub struct Queue {
    socket: OwnedFd,
    pace: Pace,
}

impl Queue {
    /// Takes a listening socket that is registered nowhere. Call it within a `LocalSet` of a tokio runtime.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            pace: Pace::default(),
        }
    }

    /// The next connection that waits; `None` when none does. Waits only after an [`AcceptError::Exhausted`], and lets
    /// other tasks run in between.
    ///
    /// # Errors
    /// [`AcceptError`]; the queue stays usable.
    pub async fn next(&mut self) -> Result<Option<Accepted>, AcceptError> {
        self.pace.wait().await;
        coop::consume_budget().await;
        let result = accept_now(self.socket.as_fd());
        match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            result => self.pace.note(result).map(Some),
        }
    }

    /// The socket.
    #[must_use]
    pub fn into_socket(self) -> OwnedFd {
        self.socket
    }
}

fn accept_now(socket: BorrowedFd<'_>) -> io::Result<Accepted> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (accepted, peer) = rustix::net::acceptfrom_with(socket, flags)?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
    // The kernel gives no address for a connection that was reset before it was accepted, in some versions.
    let peer = peer.ok_or(io::ErrorKind::ConnectionAborted)?;
    Ok((Stream::new(accepted)?, peer))
}

/// How long to wait before the next accept.
#[derive(Debug, Default)]
struct Pace {
    pause: Duration,
    /// Whether the pause has to be waited out before the next accept.
    due: bool,
}

impl Pace {
    async fn wait(&mut self) {
        if self.due {
            tokio::time::sleep(self.pause).await;
            self.due = false;
        }
    }

    fn lengthen(&mut self) {
        self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        self.due = true;
    }

    fn note<T>(&mut self, result: io::Result<T>) -> Result<T, AcceptError> {
        match result {
            Ok(accepted) => {
                if !self.pause.is_zero() {
                    self.pause = match self.pause / 2 {
                        half if half < PAUSE_MIN => Duration::ZERO,
                        half => half,
                    };
                }
                Ok(accepted)
            }
            Err(error) if is_exhaustion(&error) => {
                self.lengthen();
                Err(AcceptError::Exhausted(error))
            }
            Err(error) => Err(AcceptError::Aborted(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    fn fail(pace: &mut Pace, errno: Errno) -> AcceptError {
        pace.note::<()>(Err(errno.into())).unwrap_err()
    }

    #[test]
    fn the_pause_grows_to_its_bound_and_decays_with_success() {
        let mut pace = Pace::default();
        assert!(matches!(
            fail(&mut pace, Errno::MFILE),
            AcceptError::Exhausted(_)
        ));
        assert_eq!((pace.pause, pace.due), (PAUSE_MIN, true));
        for _ in 0..20 {
            drop(fail(&mut pace, Errno::NFILE));
        }
        assert_eq!(pace.pause, PAUSE_MAX);
        pace.due = false;
        pace.note(Ok(())).unwrap();
        assert_eq!((pace.pause, pace.due), (PAUSE_MAX / 2, false));
        for _ in 0..20 {
            pace.note(Ok(())).unwrap();
        }
        assert_eq!(pace.pause, Duration::ZERO);
    }

    #[test]
    fn a_connection_that_is_gone_is_passed_over_without_a_pause() {
        let mut pace = Pace::default();
        for errno in [Errno::CONNABORTED, Errno::PROTO, Errno::HOSTUNREACH] {
            assert!(matches!(fail(&mut pace, errno), AcceptError::Aborted(_)));
            assert!(!pace.due);
        }
    }

    #[test]
    fn a_queue_is_emptied_and_then_says_so() {
        crate::tests::run(emptied_and_then_says_so());
    }

    async fn emptied_and_then_says_so() {
        let socket = evenkeel_sys::listen::bind(
            SocketAddr::from(([127, 0, 0, 1], 0)),
            evenkeel_sys::listen::Options::default(),
        )
        .unwrap();
        evenkeel_sys::listen::listen(socket.as_fd(), 64).unwrap();
        let address = evenkeel_sys::listen::local_address(socket.as_fd()).unwrap();
        let mut acceptor = Acceptor::new(socket).unwrap();
        let first = std::net::TcpStream::connect(address).unwrap();
        let (_, peer) = acceptor.next().await.unwrap();
        assert_eq!(peer, first.local_addr().unwrap());
        let _waiting: Vec<_> = (0..40)
            .map(|_| std::net::TcpStream::connect(address).unwrap())
            .collect();
        let mut queue = Queue::new(acceptor.into_socket().unwrap());
        let mut taken = 0;
        while queue.next().await.unwrap().is_some() {
            taken += 1;
        }
        assert_eq!(taken, 40);
    }
}
