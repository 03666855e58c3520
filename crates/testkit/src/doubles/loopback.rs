//! Addresses of this host that nobody else uses.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};

/// An address in 127.64.0.0/10, another one each time and in each process that runs at the same time.
///
/// All of 127.0.0.0/8 is on this host, and clients that do not choose come from 127.0.0.1: so a port that is free here stays
/// free while the server that has it is being restarted.
#[must_use]
pub fn loopback() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    // The last byte counts within the process; the rest tells up to 16,384 processes apart.
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let last = u8::try_from(1 + number % 254).unwrap_or(1);
    Ipv4Addr::new(127, 64 + (high & 0x3f), low, last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_differ() {
        let (first, second) = (loopback(), loopback());
        assert_ne!(first, second);
        assert!(first.is_loopback() && second.is_loopback());
    }
}
