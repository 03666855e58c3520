//! Descriptors that this process was started with.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

/// Takes ownership of an inherited descriptor such as those of systemd's `LISTEN_FDS`, and makes it close-on-exec. Call it
/// once for each, at the start, before anything else could have opened a descriptor of that number.
///
/// # Errors
/// When `raw` is not open, or is one of the standard three.
pub fn take(raw: RawFd) -> io::Result<OwnedFd> {
    if raw <= 2 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: borrowed for one system call, which checks that the number is an open descriptor; `raw` is not -1.
    let borrowed = unsafe { BorrowedFd::borrow_raw(raw) };
    rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC)?;
    // SAFETY: the descriptor is open (the call above would have failed), was passed on by whoever started this process, and
    // nothing in this process owns it: it is taken once.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}
