//! Weighted round robin, interleaved: shares are exact over a cycle, and turns are mixed.
//!
//! A cycle is a series of passes over the list, each at a threshold; a pass gives a turn to every
//! eligible candidate whose weight reaches it. Thresholds fall by the weights' common divisor:
//!
//! ```text
//! weights a 4, b 2, c 1          threshold  4 | 3 | 2   | 1
//!                                turns      a | a | a b | a b c
//! ```
//!
//! A fresh service begins with the last of these passes, as IPVS does: there the first server
//! added makes a cycle of its own with the single threshold 1, which the later ones inherit.
//!
//! Source: kernel `ip_vs_wrr.c`.

use crate::{Candidates, State, WeightSummary};

const LOWEST_THRESHOLD: u32 = 1;

/// Picks the next eligible candidate whose turn it is; see the module. `None` if no candidate with
/// a weight above 0 is eligible: the caller keeps its state.
///
/// Gives the kernel's sequence, but not its work: passes that nobody eligible can reach are jumped
/// over, so each candidate is looked at twice at most, even at weights 65535 and 1 with the heavy
/// one down. A position past the end of the list counts as its head, a threshold above the weights
/// as the highest, one between two passes as [`carry`] would adapt it; 0 is a fresh service.
///
/// Source: kernel `ip_vs_wrr.c`, `ip_vs_wrr_schedule`.
#[inline]
pub fn step<C: Candidates + ?Sized>(
    candidates: &C,
    summary: WeightSummary,
    state: State,
) -> Option<(usize, State)> {
    let len = candidates.len();
    let Passes { current, next } = Passes::of(summary, state);

    // The rest of the present pass.
    for index in state.resume(len)..len {
        if candidates.weight(index) >= current && candidates.eligible(index) {
            return Some((index, state.picked(index, current)));
        }
    }

    // The following passes begin at the head. The first of them has `next`; if nobody eligible
    // reaches that, the first one to pick anybody has the highest threshold that the heaviest
    // eligible candidate reaches, and picks the first of that weight: lighter ones are lighter by
    // a whole divisor at least, so they do not reach it.
    let mut heaviest: Option<(usize, u32)> = None;
    for index in 0..len {
        let weight = candidates.weight(index);
        if weight <= heaviest.map_or(0, |(_, weight)| weight) || !candidates.eligible(index) {
            continue;
        }
        if weight >= next {
            return Some((index, state.picked(index, next)));
        }
        heaviest = Some((index, weight));
    }
    heaviest.map(|(index, weight)| {
        let threshold = summary.threshold_within(weight);
        (index, state.picked(index, threshold))
    })
}

/// The state after the list or a weight changed; `tag` marks the plan generation that did it.
///
/// The pointer goes to the head. The threshold stays if the new weights have a pass there, becomes
/// the highest if it lies above them, or else moves to a pass of theirs nearby; a service without
/// any weight above 0 is fresh again.
///
/// Source: kernel `ip_vs_wrr.c`, `ip_vs_wrr_dest_changed`. The kernel replaces a threshold of 0 by
/// the highest, which is the same: it has 0 only while no weight is above 0, and the first one that
/// rises makes a cycle of its own with the single threshold 1, where a fresh service begins here.
pub fn carry(state: State, new: WeightSummary, tag: u16) -> State {
    State {
        tag,
        threshold: adapt(state.threshold, new),
        position: 0,
    }
}

/// The thresholds of the present pass and of the one that follows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passes {
    pub(crate) current: u32,
    pub(crate) next: u32,
}

impl Passes {
    #[inline]
    pub(crate) fn of(summary: WeightSummary, state: State) -> Self {
        let current = adapt(state.threshold, summary).max(LOWEST_THRESHOLD);
        let next = if current > summary.step {
            current - summary.step
        } else {
            summary.top().max(LOWEST_THRESHOLD)
        };
        Self { current, next }
    }
}

/// The threshold to go on with under `summary`; 0 only for a fresh service or one without weights.
/// Leaves a threshold that is one of the cycle's alone.
#[inline]
fn adapt(threshold: u32, summary: WeightSummary) -> u32 {
    let top = summary.top();
    if threshold == 0 || threshold >= top {
        threshold.min(top)
    } else if summary.step > 1 {
        threshold / summary.step * summary.step + 1
    } else {
        threshold
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carry_adapts_the_threshold_as_the_kernel_does() {
        let cases: [(u32, &[u32], u32); 9] = [
            (0, &[4, 2], 0),
            (3, &[2, 1], 2),
            (3, &[4, 1], 3),
            (3, &[10, 5], 1),
            (5, &[10, 5], 6),
            (6, &[10, 5], 6),
            (7, &[10, 5], 6),
            (1, &[5], 1),
            (4, &[0, 0], 0),
        ];
        for (threshold, weights, expected) in cases {
            let before = State {
                tag: 1,
                threshold,
                position: 2,
            };
            let after = State {
                tag: 2,
                threshold: expected,
                position: 0,
            };
            let summary = WeightSummary::of(weights.iter().copied());
            assert_eq!(
                carry(before, summary, 2),
                after,
                "{threshold} under {weights:?}"
            );
        }
    }
}
