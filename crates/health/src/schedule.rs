//! When to ask next. Randomness comes in as an argument: any `u32`, all equally likely.

use std::time::{Duration, Instant};

/// Within how long the first checks of all begin, at most.
pub const FIRST_SPREAD_MAX: Duration = Duration::from_millis(200);

/// Part of the spread that each of the first checks adds: a thousand are spread over 200 ms, a few begin at once.
const FIRST_SPREAD_EACH: Duration = Duration::from_micros(200);

/// How long to wait before the first check of one of `count` that begin together.
#[must_use]
pub fn first(interval: Duration, count: usize, random: u32) -> Duration {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let spread = FIRST_SPREAD_EACH
        .saturating_mul(count)
        .min(FIRST_SPREAD_MAX)
        .min(interval);
    part(spread, random)
}

/// When the check after the one that `started` begins: an interval later, `jitter_percent` more or less, but not before
/// `now`.
#[must_use]
pub fn next(
    started: Instant,
    now: Instant,
    interval: Duration,
    jitter_percent: u8,
    random: u32,
) -> Instant {
    let jitter = interval * u32::from(jitter_percent.min(50)) / 100;
    let wait = interval - jitter + part(jitter * 2, random);
    (started + wait).max(now)
}

fn part(whole: Duration, random: u32) -> Duration {
    whole.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn first_checks_of_many_are_spread_and_of_few_begin_at_once() {
        let second = Duration::from_secs(1);
        assert_eq!(first(second, 10_000, u32::MAX), FIRST_SPREAD_MAX);
        assert_eq!(first(second, 10_000, 0), Duration::ZERO);
        assert!(first(second, 1, u32::MAX) < Duration::from_millis(1));
        let short = Duration::from_millis(50);
        assert_eq!(first(short, 10_000, u32::MAX), short);
    }

    proptest! {
        #[test]
        fn the_next_check_is_an_interval_later_give_or_take_the_jitter(
            interval_ms in 1_u64..100_000,
            jitter in 0_u8..=50,
            random in any::<u32>(),
            late_ms in 0_u64..200_000,
        ) {
            let started = Instant::now();
            let now = started + Duration::from_millis(late_ms);
            let interval = Duration::from_millis(interval_ms);
            let at = next(started, now, interval, jitter, random);
            prop_assert!(at >= now);
            if at > now {
                let wait = (at - started).as_secs_f64() / interval.as_secs_f64();
                let jitter = f64::from(jitter) / 100.0;
                prop_assert!(wait > 1.0 - jitter - 1e-6 && wait < 1.0 + jitter + 1e-6);
            }
        }
    }
}
