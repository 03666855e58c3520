//! Least connections: the candidate that holds the fewest, weights ignored except 0.
//!
//! Source: kernel `ip_vs_lc.c`. There the load is `(active << 8) + inactive` and the first of
//! several equal ones always wins, so a service without load sends everything to one server. Here
//! only connections that have not ended count, and equal ones take turns: idle candidates are
//! served as by `rr`. Uses only [`State::position`]; the threshold is left alone.
//!
//! The word that all workers share holds the turn and not the counts, and a worker counts its pick
//! after it swapped the word. Workers that pick within that moment see the same least candidate: one
//! that is least alone can get as many of them as there are workers. Equal ones cannot, since the
//! turn has moved on.

use crate::{Loads, State};

/// Picks the eligible candidate with a weight above 0 and the fewest active connections; of equal
/// ones the first after the last pick, wrapping. `None` if there is none: the caller keeps its state.
///
/// Asks whether a candidate is eligible once at most, and only if it would be better than the best
/// one so far. A position past the end of the list counts as its head.
#[inline]
pub fn step<C: Loads + ?Sized>(candidates: &C, state: State) -> Option<(usize, State)> {
    let len = candidates.len();
    let resume = state.resume(len);
    let mut least: Option<(usize, u64)> = None;
    for index in (resume..len).chain(0..resume) {
        if candidates.weight(index) == 0 {
            continue;
        }
        let active = candidates.active(index);
        if least.is_none_or(|(_, least)| active < least) && candidates.eligible(index) {
            least = Some((index, active));
            if active == 0 {
                break;
            }
        }
    }
    least.map(|(index, _)| (index, state.picked(index, state.threshold)))
}

/// The state after the list changed; the same as [`rr::carry`](crate::rr::carry), since the
/// position means the same.
pub fn carry(old: &[u64], new: &[u64], state: State, tag: u16) -> State {
    crate::rr::carry(old, new, state, tag)
}
