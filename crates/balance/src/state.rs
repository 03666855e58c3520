//! The scheduler state of one service as it lies in its shared cell.
//!
//! ```text
//!  63         48 47                24 23                 0
//! +-------------+--------------------+--------------------+
//! |   tag: 16   |   threshold: 24    |    position: 24    |
//! +-------------+--------------------+--------------------+
//! ```

const FIELD_BITS: u32 = 24;
const FIELD_MAX: u32 = (1 << FIELD_BITS) - 1;
const THRESHOLD_SHIFT: u32 = FIELD_BITS;
const TAG_SHIFT: u32 = 2 * FIELD_BITS;

const _: () = assert!(TAG_SHIFT + u16::BITS == u64::BITS);
const _: () = assert!(u16::MAX as u32 <= FIELD_MAX, "every weight is a threshold");

/// Where one service's scheduler stands.
///
/// Fits one shared word (see [`to_bits`](Self::to_bits)), so it moves by compare-and-swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Low 16 bits of the plan generation in which the service's list last changed, so a worker
    /// still on the older plan never takes a newer position for its own. Steps hand it on; the
    /// caller compares it.
    pub tag: u16,
    /// The weight a candidate needs to get a turn in the present pass (`cw` in the kernel's
    /// `ip_vs_wrr.c`). Range: 0..=16,777,215 (24 bits); 0 = no pass has begun yet. Only `wrr` uses it.
    pub threshold: u32,
    /// The candidate picked last. Range: 0..=[`POSITION_MAX`](Self::POSITION_MAX); 0 = before the
    /// first (the kernel's list head), `i + 1` = candidate `i`.
    pub position: u32,
}

impl State {
    /// The highest position that fits, and so the longest list that is served in full order.
    pub const POSITION_MAX: u32 = FIELD_MAX;

    /// The state of a service that has not picked yet: before the first candidate, no pass begun.
    pub const fn initial(tag: u16) -> Self {
        Self {
            tag,
            threshold: 0,
            position: 0,
        }
    }

    /// Reads a shared word. Every word is a state; what does not fit the list (a position past its
    /// end, a threshold between two passes) is put right by the next step.
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "each field is shifted and masked to its width"
    )]
    pub const fn from_bits(bits: u64) -> Self {
        Self {
            tag: (bits >> TAG_SHIFT) as u16,
            threshold: (bits >> THRESHOLD_SHIFT) as u32 & FIELD_MAX,
            position: bits as u32 & FIELD_MAX,
        }
    }

    /// The word to store: `tag:16 | threshold:24 | position:24`, the tag in the highest bits.
    ///
    /// Threshold and position outside their ranges lose their upper bits; no step produces such.
    #[inline]
    pub const fn to_bits(self) -> u64 {
        (self.tag as u64) << TAG_SHIFT
            | ((self.threshold & FIELD_MAX) as u64) << THRESHOLD_SHIFT
            | (self.position & FIELD_MAX) as u64
    }

    /// The state after candidate `index` was picked in a pass at `threshold`.
    #[inline]
    pub(crate) fn picked(self, index: usize, threshold: u32) -> Self {
        // A list longer than the field starts over at its head: unfair to its tail, never wrong.
        let position = u32::try_from(index)
            .ok()
            .filter(|&index| index < FIELD_MAX)
            .map_or(0, |index| index + 1);
        Self {
            tag: self.tag,
            threshold,
            position,
        }
    }

    /// Index of the candidate after the one picked last, in a list of `len`: 0..=len, `len` when
    /// the last one was picked. A position past the end of the list counts as its head.
    #[inline]
    pub(crate) fn resume(self, len: usize) -> usize {
        usize::try_from(self.position)
            .ok()
            .filter(|&position| position <= len)
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_the_layout_says() {
        let state = State {
            tag: 0xabcd,
            threshold: 0x01_2345,
            position: 0x06_789a,
        };
        assert_eq!(state.to_bits(), 0xabcd_0123_4506_789a);
        assert_eq!(State::initial(7).to_bits(), 7 << 48);
    }

    #[test]
    fn a_pick_beyond_the_field_starts_over_at_the_head() {
        let last = usize::try_from(State::POSITION_MAX).unwrap() - 1;
        let state = State::initial(1);
        assert_eq!(state.picked(last, 0).position, State::POSITION_MAX);
        assert_eq!(state.picked(last + 1, 0), State::initial(1));
    }
}
