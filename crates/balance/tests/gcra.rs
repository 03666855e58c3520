//! The rate limit against what it promises: in every window at most a burst and what the rate gives.

use evenkeel_balance::gcra::Limit;
use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #[test]
    fn any_window_holds_a_burst_and_the_rate_at_most(
        interval in 1..50_u64,
        burst in 1..8_u64,
        gaps in vec(0..40_u64, 1..200),
    ) {
        let limit = Limit { interval, burst };
        let mut word = 0;
        let mut now = 1_000;
        let mut passed = Vec::new();
        for gap in gaps {
            now += gap;
            // The naive one keeps every arrival, and lets one pass if no window that ends with it
            // would then hold too many.
            let expected = (0..passed.len()).all(|first| {
                let inside = (passed.len() - first + 1) as u64;
                inside <= burst + (now - passed[first]) / interval
            });
            match limit.step(word, now) {
                Ok(next) => {
                    prop_assert!(expected, "{now} after {passed:?}");
                    passed.push(now);
                    word = next;
                }
                Err(wait) => {
                    prop_assert!(!expected, "{now} after {passed:?}");
                    prop_assert!(wait > 0 && limit.step(word, now + wait - 1).is_err());
                    prop_assert!(limit.step(word, now + wait).is_ok());
                }
            }
        }
    }

    #[test]
    fn any_bits_will_do(word: u64, now: u64, interval: u64, burst: u64) {
        let limit = Limit { interval, burst };
        match limit.step(word, now) {
            Ok(next) => prop_assert!(next >= now && next >= word),
            Err(wait) => {
                prop_assert!(wait > 0);
                prop_assert!(limit.step(word, now + wait).is_ok());
            }
        }
        let carried = limit.carry(word, now);
        prop_assert!(carried <= word);
        // Whatever it was, the next passes within one interval.
        prop_assert!(limit.step(carried, now.saturating_add(interval)).is_ok());
    }

    #[test]
    fn no_interval_is_no_limit(word in 0..1_000_u64, burst: u64) {
        let limit = Limit { interval: 0, burst };
        prop_assert!(limit.step(word, 1_000).is_ok());
    }
}
