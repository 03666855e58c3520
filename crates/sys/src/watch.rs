//! Raw descriptors under tokio's reactor.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers `fd` with the current runtime. Dropping the result deregisters it and then closes it: an epoll registration
/// otherwise outlives a closed descriptor for as long as another process holds the same open file.
///
/// # Errors
/// When epoll refuses the descriptor.
///
/// # Panics
/// Outside a tokio runtime.
pub fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open and keeps its number and its open file until it is dropped, which happens in the AsyncFd
    // after deregistration; nothing in this program replaces a descriptor above 2 (dup2).
    let watched = unsafe { AsyncFd::register_with_interest(fd, interest) };
    watched.map_err(io::Error::from)
}
