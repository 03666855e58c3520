//! When to ask again. Randomness comes in as an argument: any `u32`, all equally likely.

use std::time::Duration;

/// At least this long between the starts of two look-ups of a name, whatever asks for them.
pub const PACE: Duration = Duration::from_secs(1);

/// Part of a time that is left to chance, so that names that were first asked for together drift apart: one in this many.
const JITTER: u32 = 10;

/// How long an answer with `ttl` is kept, within `min` and `max`.
pub(crate) fn kept(ttl: Duration, min: Duration, max: Duration, random: u32) -> Duration {
    let max = max.max(min);
    let kept = ttl.clamp(min, max);
    let part = part(kept / JITTER, random);
    // Later rather than earlier: who asks before the time is over gets the rest of it from the name server's cache.
    let jittered = if kept < max { kept + part } else { kept - part };
    jittered.clamp(min, max)
}

/// How long after a look-up that failed the next one begins.
pub(crate) fn retry(retry: Duration, random: u32) -> Duration {
    retry + part(retry / JITTER, random)
}

fn part(whole: Duration, random: u32) -> Duration {
    whole.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_lifetime_of_nothing_is_the_floor_and_of_ages_the_ceiling() {
        for random in [0, 1 << 31, u32::MAX] {
            let floor = kept(Duration::ZERO, SECOND, 60 * SECOND, random);
            assert!(floor >= SECOND && floor <= SECOND.mul_f64(1.1));
            let ceiling = kept(Duration::from_secs(86_400), SECOND, 60 * SECOND, random);
            assert!(ceiling <= 60 * SECOND && ceiling >= 54 * SECOND);
        }
        assert_eq!(kept(7 * SECOND, SECOND, 60 * SECOND, 0), 7 * SECOND);
        assert_eq!(kept(7 * SECOND, 2 * SECOND, SECOND, 9), 2 * SECOND);
    }

    proptest! {
        #[test]
        fn an_answer_is_kept_within_the_limits_and_for_about_its_lifetime(
            ttl_ms in 0_u64..1_000_000_000,
            min_ms in 1_u64..100_000,
            more_ms in 0_u64..1_000_000,
            random in any::<u32>(),
        ) {
            let [ttl, min, max] = [ttl_ms, min_ms, min_ms + more_ms].map(Duration::from_millis);
            let kept = kept(ttl, min, max, random);
            prop_assert!(kept >= min && kept <= max);
            let wanted = ttl.clamp(min, max);
            prop_assert!(kept >= wanted.mul_f64(0.899) && kept <= wanted.mul_f64(1.101));
        }

        #[test]
        fn a_failure_is_tried_again_soon_and_never_at_once(ms in 1_u64..100_000, random in any::<u32>()) {
            let after = Duration::from_millis(ms);
            let again = retry(after, random);
            prop_assert!(again >= after && again <= after.mul_f64(1.101));
        }
    }
}
