//! Waking another process: an eventfd. Whoever rings need not wait, and rings before an answer are one ring.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::EventfdFlags;

/// A doorbell, non-blocking and close-on-exec.
///
/// # Errors
/// When no descriptor is left.
pub fn new() -> io::Result<OwnedFd> {
    Ok(rustix::event::eventfd(
        0,
        EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
    )?)
}

/// Rings. A bell that has been rung 2^64 - 2 times without an answer is no error.
///
/// # Errors
/// When `bell` is no doorbell.
pub fn ring(bell: BorrowedFd<'_>) -> io::Result<()> {
    match rustix::io::write(bell, &1_u64.to_ne_bytes()) {
        Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Answers: whether it was rung since the last answer.
///
/// # Errors
/// When `bell` is no doorbell.
pub fn answer(bell: BorrowedFd<'_>) -> io::Result<bool> {
    match rustix::io::read(bell, &mut [0_u8; 8]) {
        Ok(_) => Ok(true),
        Err(rustix::io::Errno::AGAIN) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn rings_before_an_answer_are_one() {
        let bell = new().unwrap();
        assert!(!answer(bell.as_fd()).unwrap());
        ring(bell.as_fd()).unwrap();
        ring(bell.as_fd()).unwrap();
        assert!(answer(bell.as_fd()).unwrap());
        assert!(!answer(bell.as_fd()).unwrap());
    }
}
