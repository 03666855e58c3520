//! Weighted least connections: the candidate that would carry the least for its weight.
//!
//! Three formulas were weighed; `n` is the number of active connections, `w` the weight:
//!
//! ```text
//! IPVS      ((n << 8) + inactive) / w      the first of equal ones wins: without load, always the same server
//! plain     (n + 1) / w                    without load the heaviest wins every time, the others starve
//! HAProxy   0 when idle, else (n + 1) / w  without load all take turns alike, whatever their weights
//! ```
//!
//! Ours is HAProxy's, but idle candidates take turns by weight, as by `wrr`. So connections that
//! come one by one and end at once are shared out by weight; connections that stay give each
//! candidate one, and then go where `(n + 1) / w` is least: a multiple of the sum of the weights is
//! held in exact proportion. Of equal busy ones the first after the last pick is taken.
//!
//! What [`lc`](crate::lc) says of workers that pick in the same moment holds here too.
//!
//! Source: kernel `ip_vs_wlc.c`, `ip_vs_wlc_schedule`, and `ip_vs_dest_conn_overhead`; HAProxy
//! `lb_fwlc.c`, `fwlc_get_key`.

use crate::wrr::Passes;
use crate::{Loads, State, WeightSummary};

/// Picks the eligible candidate that is least loaded for its weight; see the module. `None` if no
/// candidate with a weight above 0 is eligible: the caller keeps its state.
///
/// Asks whether a candidate is eligible once at most. A position past the end of the list counts as
/// its head; a threshold is read as [`wrr::step`](crate::wrr::step) reads it.
#[inline]
pub fn step<C: Loads + ?Sized>(
    candidates: &C,
    summary: WeightSummary,
    state: State,
) -> Option<(usize, State)> {
    let len = candidates.len();
    let resume = state.resume(len);
    let passes = Passes::of(summary, state);
    let mut idle: Option<Idle> = None;
    let mut busy: Option<Busy> = None;
    for index in (resume..len).chain(0..resume) {
        let weight = candidates.weight(index);
        if weight == 0 {
            continue;
        }
        let active = candidates.active(index);
        if active == 0 {
            let in_present_pass = index >= resume && weight >= passes.current;
            let later = Idle { index, weight };
            if !in_present_pass && idle.is_some_and(|idle| !later.is_before(idle, passes.next)) {
                continue;
            }
            if !candidates.eligible(index) {
                continue;
            }
            if in_present_pass {
                return Some((index, state.picked(index, passes.current)));
            }
            idle = Some(later);
        } else {
            let load = Busy {
                index,
                active,
                weight,
            };
            if idle.is_none()
                && busy.is_none_or(|busy| load.is_less(busy))
                && candidates.eligible(index)
            {
                busy = Some(load);
            }
        }
    }
    match (idle, busy) {
        (Some(Idle { index, weight }), _) => {
            let threshold = if weight >= passes.next {
                passes.next
            } else {
                summary.threshold_within(weight)
            };
            Some((index, state.picked(index, threshold)))
        }
        (None, Some(Busy { index, .. })) => Some((index, state.picked(index, state.threshold))),
        (None, None) => None,
    }
}

/// The state after the list or a weight changed; the same as [`wrr::carry`](crate::wrr::carry),
/// since threshold and position mean the same.
pub fn carry(state: State, new: WeightSummary, tag: u16) -> State {
    crate::wrr::carry(state, new, tag)
}

/// An eligible candidate without connections whose turn is not in the present pass.
#[derive(Clone, Copy)]
struct Idle {
    index: usize,
    weight: u32,
}

impl Idle {
    /// Whether the turn of `self` comes before that of `other`, when the pass at `next` follows: the
    /// first in the list of those that reach it, or else the first of the heaviest (why, says
    /// [`wrr::step`](crate::wrr::step)).
    #[inline]
    fn is_before(self, other: Self, next: u32) -> bool {
        let (reach, other_reach) = (self.weight.min(next), other.weight.min(next));
        reach > other_reach || (reach == other_reach && self.index < other.index)
    }
}

/// An eligible candidate with connections.
#[derive(Clone, Copy)]
struct Busy {
    index: usize,
    active: u64,
    weight: u32,
}

impl Busy {
    /// `(self.active + 1) / self.weight < (other.active + 1) / other.weight`, without a division. A
    /// product has 65 + 32 bits at most.
    #[inline]
    fn is_less(self, other: Self) -> bool {
        let after = |load: Self| u128::from(load.active) + 1;
        after(self) * u128::from(other.weight) < after(other) * u128::from(self.weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_counts_and_weights_are_compared() {
        let load = |active, weight| Busy {
            index: 0,
            active,
            weight,
        };
        assert!(load(u64::MAX - 1, u32::MAX).is_less(load(u64::MAX, u32::MAX)));
        assert!(!load(u64::MAX, u32::MAX).is_less(load(u64::MAX, u32::MAX)));
        assert!(load(u64::MAX, u32::MAX).is_less(load(u64::MAX, u32::MAX - 1)));
        assert!(load(1, 2).is_less(load(2, 2)) && !load(1, 2).is_less(load(0, 1)));
    }
}
