//! Sockets that carry traffic.
//!
//! ```text
//! accept::Acceptor --> TcpStream --+
//!                                  +--> relay::relay --> Ended
//! connect::connect --> TcpStream --+        |
//!                                     buffer (a pool a thread)
//! ```
//!
//! Every connected socket has linger 0 from its birth, so whatever ends it early (a kill, a panic, a drop) is a reset to the
//! peer and never a clean end in the middle of a message. Only [`relay::relay`] clears it, when both directions have ended.
#![forbid(unsafe_code)]

pub mod accept;
pub mod buffer;
pub mod connect;
pub mod relay;

use std::io;

use tokio::io::Interest;
use tokio::net::TcpStream;

/// Waits until `stream` is reset by its peer (or fails otherwise); an end of file is none.
///
/// # Cancel safety
/// Nothing is lost when the future is dropped.
pub async fn reset(stream: &TcpStream) {
    // The kernel reports a pending socket error (EPOLLERR) whatever was asked for. It does so for a reset and for a
    // connection that timed out, and not for an end of file: linux/net/ipv4/tcp.c, `tcp_poll`.
    if stream.ready(Interest::ERROR).await.is_err() {
        // Only while the runtime shuts down, which drops this future too.
        std::future::pending().await
    }
}

/// Whether `error` is a lack of something of our own, which no peer can be blamed for.
#[must_use]
pub fn is_exhaustion(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::MFILE
                | Errno::NFILE
                | Errno::NOBUFS
                | Errno::NOMEM
                | Errno::ADDRNOTAVAIL
                | Errno::AGAIN
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours_is_told_from_what_is_the_peers() {
        use rustix::io::Errno;
        for ours in [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOBUFS,
            Errno::NOMEM,
            Errno::ADDRNOTAVAIL,
        ] {
            assert!(is_exhaustion(&ours.into()), "{ours:?}");
        }
        for theirs in [
            Errno::CONNREFUSED,
            Errno::TIMEDOUT,
            Errno::HOSTUNREACH,
            Errno::CONNRESET,
        ] {
            assert!(!is_exhaustion(&theirs.into()), "{theirs:?}");
        }
    }
}
