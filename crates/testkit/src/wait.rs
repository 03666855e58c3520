//! Waiting, always for something.

use std::time::{Duration, Instant};

/// Between two looks. Short, since most of what is waited for takes milliseconds.
const STEP: Duration = Duration::from_millis(5);

/// Looks until `look` finds what is waited for.
///
/// # Panics
/// With `what` when the deadline passes.
pub fn eventually<T>(deadline: Duration, what: &str, look: impl FnMut() -> Option<T>) -> T {
    until(deadline, look).unwrap_or_else(|| panic!("waited {deadline:?} in vain until {what}"))
}

/// As [`eventually`], for who wants to say more when it was in vain.
pub(crate) fn until<T>(deadline: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        nap(STEP);
    }
}

/// Looks again and again for the whole `time`: for what must *not* happen.
///
/// # Panics
/// With `what` as soon as `holds` says no.
pub fn throughout(time: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        assert!(holds(), "not so any more: {what}");
        nap(STEP);
    }
}

/// Paces something that happens at instants, such as one kill a second. Not for waiting until something is done.
pub fn pause_until(instant: Instant) {
    nap(instant.saturating_duration_since(Instant::now()));
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place where tests pass time: between two looks at what they wait for, and as a pace"
)]
fn nap(time: Duration) {
    std::thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_is_found_and_what_does_not_is_named() {
        let mut looks = 0;
        let found = eventually(Duration::from_secs(5), "three looks", || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(found, 3);
        let vain = std::panic::catch_unwind(|| {
            eventually(Duration::from_millis(20), "the moon is full", || None::<()>);
        });
        let message = *vain.unwrap_err().downcast::<String>().unwrap();
        assert!(message.contains("the moon is full"), "{message}");
    }
}
