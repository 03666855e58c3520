//! Schedulers as pure steps: `(candidates, state) -> (index, state)`.
//!
//! The worker picks with the `step` of [`rr`], [`wrr`], [`lc`] or [`wlc`]; the supervisor calls
//! their `carry` when a plan changes a service's list. [`maglev`] needs no state: it answers from a
//! table that is the same everywhere. [`gcra`] is the step of a rate limit, over a word of its own.
//! Nothing here holds state, reads a clock or allocates in a pick.
//!
//! A service's [`State`] is one word that all workers share. A pick loads it, steps, and swaps the
//! result in if nobody was faster; otherwise it steps again from what it found:
//!
//! ```
//! use std::sync::atomic::{AtomicU64, Ordering};
//! use evenkeel_balance::{Candidates, State, rr};
//!
//! fn pick<C: Candidates>(cell: &AtomicU64, candidates: &C) -> Option<usize> {
//!     let mut seen = cell.load(Ordering::Relaxed);
//!     loop {
//!         let (index, next) = rr::step(candidates, State::from_bits(seen))?;
//!         match cell.compare_exchange_weak(seen, next.to_bits(), Ordering::Relaxed, Ordering::Relaxed) {
//!             Ok(_) => return Some(index),
//!             Err(now) => seen = now,
//!         }
//!     }
//! }
//! ```
//!
//! So the order is exact over all workers, as it is in IPVS over all processors.
//!
//! # Invariants
//!
//! * A candidate that is not eligible, or has weight 0, is never picked; it is stepped over inside
//!   the step, so its share is spread over the others and does not fall on its neighbour.
//! * A step returns `None` only when nobody can be picked; the state then stays as it was.
//! * A step looks at each candidate at most twice, whatever the weights.
//! * A step is total: any 64 bits are a state it can continue from.
//!
//! # List order
//!
//! The order is the caller's, and the first candidate is picked first. The daemon gives the order
//! of the configuration file. IPVS keeps the newest server first, so a sequence recorded with
//! `ipvsadm` is reproduced by passing the servers in reverse order of their adding.

#![forbid(unsafe_code)]

pub mod gcra;
pub mod lc;
pub mod maglev;
pub mod rr;
pub mod source;
mod state;
mod weights;
pub mod wlc;
pub mod wrr;

pub use state::State;
pub use weights::WeightSummary;

/// What a scheduler sees: an ordered list of candidates.
///
/// Answers may change between two calls (other processes write them at any moment): a step asks
/// about each candidate at most twice and never goes back on an answer.
pub trait Candidates {
    /// Number of candidates. Range: 0..=[`State::POSITION_MAX`]; one beyond that can be picked, but
    /// the next pick then starts at the head again.
    fn len(&self) -> usize;

    /// Whether the list has no candidates at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Weight of candidate `index`. Range: 0..=[`State::POSITION_MAX`]; 0 = quiesced, never picked.
    ///
    /// `index` is below [`len`](Self::len).
    fn weight(&self, index: usize) -> u32;

    /// Whether candidate `index` may receive new work now: up, enabled, below its cap, and not
    /// already tried by this connection. Weight 0 need not be considered here.
    ///
    /// Asked only of candidates whose weight suffices, since it may be the dearer question.
    /// `index` is below [`len`](Self::len).
    fn eligible(&self, index: usize) -> bool;
}

/// What a scheduler sees that goes by connections.
pub trait Loads: Candidates {
    /// Connections that were picked for candidate `index` and have not ended, of all workers.
    ///
    /// Asked only of candidates with a weight above 0, once a step. `index` is below
    /// [`len`](Candidates::len).
    fn active(&self, index: usize) -> u64;
}
