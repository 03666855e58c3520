//! Round robin: each eligible candidate in turn, weights ignored except 0.
//!
//! Source: kernel `ip_vs_rr.c`. Uses only [`State::position`]; the threshold is left alone.

use crate::{Candidates, State};

/// Picks the next eligible candidate with a weight above 0 after the last pick, wrapping; the one
/// picked last comes last. `None` if there is none: the caller keeps its state.
///
/// Looks at each candidate once at most. A position past the end of the list counts as its head.
///
/// Source: kernel `ip_vs_rr.c`, `ip_vs_rr_schedule`.
#[inline]
pub fn step<C: Candidates + ?Sized>(candidates: &C, state: State) -> Option<(usize, State)> {
    let len = candidates.len();
    let resume = state.resume(len);
    (resume..len)
        .chain(0..resume)
        .find(|&index| candidates.weight(index) > 0 && candidates.eligible(index))
        .map(|index| (index, state.picked(index, state.threshold)))
}

/// The state after the list changed from `old` to `new`, both given as identities in list order,
/// each at most once in a list; `tag` marks the plan generation that brought `new`.
///
/// The pointer stays at the candidate picked last, wherever that stands in `new`. If it was
/// removed, the pointer moves to the nearest one before it in `old` that survives, or to the head.
/// So nobody is passed over, and a new candidate gets its turn when the scan reaches it.
///
/// For the supervisor at a plan switch: the work grows with both lengths multiplied when all
/// candidates before the pointer were removed.
///
/// Source: kernel `ip_vs_rr.c`, `ip_vs_rr_del_dest`.
pub fn carry(old: &[u64], new: &[u64], state: State, tag: u16) -> State {
    let picked_or_before = &old[..state.resume(old.len())];
    let survivor = picked_or_before
        .iter()
        .rev()
        .find_map(|identity| new.iter().position(|candidate| candidate == identity));
    let head = State {
        tag,
        threshold: state.threshold,
        position: 0,
    };
    survivor.map_or(head, |index| head.picked(index, state.threshold))
}
