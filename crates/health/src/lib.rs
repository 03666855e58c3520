//! Active health checks.
//!
//! ```text
//! Checker::apply(targets) --> one task for each distinct question: endpoints and CheckSpec
//!                               |  schedule: when
//!                               |  probe: Outcome (passed, failed, drain, maint, or inconclusive)
//!                               |  verdict::step for each backend that shares the check
//!                               v
//!                             Sink::checked
//!
//! passive: totals of the traffic --> evidence --> Checker::doubt, or left out for a while
//! policy: health of all of a service's backends --> whether it serves
//! ```
//!
//! A kind of check is a file in `probe` and a variant of the plan's `CheckKind`; nothing else knows kinds.
#![forbid(unsafe_code)]

mod checker;
mod cluster;
mod history;
pub mod passive;
pub mod policy;
mod probe;
mod question;
pub mod schedule;
mod secrets;
mod tls;
pub mod verdict;
mod wake;

pub use checker::{Checked, Checker, PROBES_MAX, Sink, Target};
pub use history::{RECORDS_MAX, Record};
pub use probe::Outcome;
pub use question::describe;
pub use secrets::Secrets;
pub use verdict::{Health, Observation, Reason, State, Transition};
