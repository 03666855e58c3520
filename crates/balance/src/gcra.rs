//! A rate limit as a pure step over one word: the generic cell rate algorithm.
//!
//! The word is the theoretical arrival time: when the next arrival would come if all of them came
//! evenly. One that comes earlier uses up some of the burst; one that comes earlier than the burst
//! allows is refused and changes nothing:
//!
//! ```text
//!           refused                passes, uses burst              passes, as if fresh
//! ---------------------------|------------------------------|--------------------------> now
//!           arrival time - (burst - 1) * interval      arrival time
//! ```
//!
//! So in every window of length `T` at most `burst + T / interval` pass, whoever asks: all workers
//! step one shared word by compare-and-swap, as they do with a scheduler's.
//!
//! Times are nanoseconds of the monotonic clock. In microseconds 300,000 a second would be 333,333.
//!
//! Source: ITU-T I.371, annex A, the virtual scheduling algorithm.

/// A limit that is kept to exactly.
///
/// `interval` and the times given to [`step`](Self::step) may have any one unit; what
/// [`per_second`](Self::per_second) makes is in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Time from one arrival to the next at the full rate. 0 = no limit.
    pub interval: u64,
    /// How many may come at once after a time without any. Range: 1 and up; 0 counts as 1.
    pub burst: u64,
}

impl Limit {
    /// The limit of `rate` arrivals a second, in nanoseconds. The interval is rounded up, so the rate
    /// is never exceeded; at 100,000 a second and below it is missed by 0.01 % at most. A rate of 0
    /// lets one burst pass in the lifetime of the clock; above 1,000,000,000 it counts as that.
    #[must_use]
    pub const fn per_second(rate: u64, burst: u64) -> Self {
        const SECOND_NS: u64 = 1_000_000_000;
        let interval = if rate == 0 {
            u64::MAX
        } else {
            SECOND_NS.div_ceil(rate)
        };
        Self { interval, burst }
    }

    /// Lets an arrival at `now` pass and returns the word to store, or refuses it and returns how
    /// long to wait until one would pass if no other came before.
    ///
    /// Total: any word can be continued from and nothing overflows. A word of 0 is a fresh limit. A
    /// word far ahead refuses until its time has come, so the cell of a limit that changed goes
    /// through [`carry`](Self::carry).
    ///
    /// # Errors
    /// The time to wait, above 0; the word stays as it is.
    #[inline]
    pub const fn step(self, word: u64, now: u64) -> Result<u64, u64> {
        let earliest = word.saturating_sub(self.tolerance());
        if now < earliest {
            return Err(earliest - now);
        }
        let arrival = if word > now { word } else { now };
        Ok(arrival.saturating_add(self.interval))
    }

    /// The word to go on with under this limit after another one was in force, or after garbage: no
    /// further ahead than a burst that was just used up.
    #[must_use]
    pub const fn carry(self, word: u64, now: u64) -> u64 {
        let furthest = now
            .saturating_add(self.tolerance())
            .saturating_add(self.interval);
        if word < furthest { word } else { furthest }
    }

    /// How much earlier than the theoretical arrival time one may come.
    const fn tolerance(self) -> u64 {
        self.interval.saturating_mul(self.burst.saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_rounded_down() {
        let cases = [
            (0, u64::MAX),
            (1, 1_000_000_000),
            (3, 333_333_334),
            (300_000, 3_334),
            (1_000_000_000, 1),
            (u64::MAX, 1),
        ];
        for (rate, interval) in cases {
            assert_eq!(Limit::per_second(rate, 1).interval, interval, "{rate}");
        }
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let limit = Limit {
            interval: 10,
            burst: 3,
        };
        let mut word = 0;
        for _ in 0..3 {
            word = limit.step(word, 1_000).unwrap();
        }
        assert_eq!(limit.step(word, 1_000), Err(10));
        assert_eq!(limit.step(word, 1_009), Err(1));
        word = limit.step(word, 1_010).unwrap();
        assert_eq!(limit.step(word, 1_010), Err(10));
    }

    #[test]
    fn a_word_from_a_longer_burst_is_brought_back() {
        let wide = Limit {
            interval: 10,
            burst: 1_000,
        };
        let narrow = Limit {
            interval: 10,
            burst: 2,
        };
        let word = (0..1_000).fold(0, |word, _| wide.step(word, 50).unwrap());
        assert_eq!(word, 10_050);
        assert_eq!(narrow.carry(word, 50), 70);
        assert_eq!(narrow.step(70, 50), Err(10));
        assert_eq!(narrow.carry(60, 50), 60);
    }
}
