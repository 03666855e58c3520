//! The clock that all processes of the daemon share.

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds of `CLOCK_MONOTONIC`: the same in every process of the host, never set back.
#[must_use]
pub fn monotonic_ms() -> u64 {
    monotonic_ns() / 1_000_000
}

/// The same in nanoseconds; they last 584 years.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds * 1_000_000_000 + nanos
}

/// Seconds since 1970 by the wall clock; 0 when it stands before that.
#[must_use]
pub fn unix_seconds() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
