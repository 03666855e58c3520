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

/// Knocks: asks for less than a ring does, which is for whoever answers to know. As many times as a bell may be rung.
///
/// # Errors
/// When `bell` is no doorbell.
pub fn knock(bell: BorrowedFd<'_>) -> io::Result<()> {
    match rustix::io::write(bell, &KNOCK.to_ne_bytes()) {
        Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Counted above every ring: a bell is answered long before it was rung 2^32 times.
const KNOCK: u64 = 1 << 32;

/// What came since the last answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// A ring.
    pub ring: bool,
    /// A knock.
    pub knock: bool,
}

/// Answers, and says what there was.
///
/// # Errors
/// When `bell` is no doorbell.
pub fn hear(bell: BorrowedFd<'_>) -> io::Result<Heard> {
    let mut count = [0_u8; 8];
    let count = match rustix::io::read(bell, &mut count) {
        Ok(_) => u64::from_ne_bytes(count),
        Err(rustix::io::Errno::AGAIN) => 0,
        Err(error) => return Err(error.into()),
    };
    Ok(Heard {
        ring: count % KNOCK > 0,
        knock: count >= KNOCK,
    })
}

/// Answers: whether it was rung since the last answer.
///
/// # Errors
/// When `bell` is no doorbell.
pub fn answer(bell: BorrowedFd<'_>) -> io::Result<bool> {
    hear(bell).map(|heard| heard.ring)
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

    #[test]
    fn rings_are_told_from_knocks() {
        let bell = new().unwrap();
        let heard = |ring, knock| Heard { ring, knock };
        assert_eq!(hear(bell.as_fd()).unwrap(), heard(false, false));
        for _ in 0..3 {
            knock(bell.as_fd()).unwrap();
        }
        assert_eq!(hear(bell.as_fd()).unwrap(), heard(false, true));
        ring(bell.as_fd()).unwrap();
        assert_eq!(hear(bell.as_fd()).unwrap(), heard(true, false));
        knock(bell.as_fd()).unwrap();
        ring(bell.as_fd()).unwrap();
        assert_eq!(hear(bell.as_fd()).unwrap(), heard(true, true));
    }
}
