//! Active health checks.
//!
//! ```text
//! Checker::apply(targets) --> one task for each distinct CheckSpec
//!                               |  schedule: when
//!                               |  probe: Outcome (passed, failed, or inconclusive)
//!                               |  verdict::step for each backend that shares the check
//!                               v
//!                             Sink::checked
//! ```
//!
//! A kind of check is a file in `probe` and a variant of the plan's `CheckKind`; nothing else knows kinds.
#![forbid(unsafe_code)]

mod checker;
pub mod probe;
pub mod schedule;
pub mod verdict;

pub use checker::{Checked, Checker, PROBES_MAX, Sink, Target};
pub use probe::Outcome;
pub use verdict::{Health, Observation, Reason, State, Transition};
