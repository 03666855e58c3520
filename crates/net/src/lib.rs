//! Sockets that carry traffic.
//!
//! ```text
//! accept::Acceptor --> Stream --+
//!                               +--> relay::relay --> Stopped::Ended
//! connect::connect --> Stream --+        | ^   `----> Stopped::Idle --> park::Lot --+
//!                         |         buffer | (a pool a thread)                      |
//!                      driver (readiness)  `----------------------------------------+
//! ```
//!
//! Every connected socket has linger 0 from its birth, so whatever ends it early (a kill, a panic, a drop) is a reset to the
//! peer and never a clean end in the middle of a message. Only [`relay::relay`] clears it, when both directions have ended.
//!
//! Connected sockets are under a driver of our own and not under tokio's: an entry of 24 bytes a socket, one registration
//! and no deregistration, and readiness that is cleared without asking the kernel. Timers, listening sockets and everything
//! else stay with tokio, under which the driver's epoll lies.
#![forbid(unsafe_code)]

pub mod accept;
pub mod buffer;
pub mod connect;
pub mod driver;
mod hold;
pub mod mllp;
pub mod park;
mod ports;
pub mod proxy_protocol;
pub mod relay;
pub mod stream;

use std::io;

pub use crate::stream::Stream;

/// Whether `error` is a lack of descriptors or memory, which concerns every connection.
#[must_use]
pub fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
    )
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
                | Errno::ADDRINUSE
                | Errno::AGAIN
        )
    )
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::time::Duration;

    use super::*;

    /// Runs a test in a runtime as a worker has it, with a deadline.
    pub(crate) fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let within = tokio::time::timeout(Duration::from_secs(20), test);
            within.await.unwrap();
        });
    }

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
