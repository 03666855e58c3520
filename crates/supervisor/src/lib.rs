//! The supervisor: owns the listening sockets, the plan and the children.
//!
//! ```text
//!   run       start: lock, configuration, inherited sockets, first plan, then the loop
//!   life      the pure machine: Event in, Actions out
//!   perform   carries the actions out
//!   compile   configuration -> sealed plan with its sockets bound
//!   cells     which identity has which cell, and when a cell is used again
//!   seal      configuration -> plan with cells
//!   sockets   one listening socket a listener and slot
//!   children  processes and their sockets
//!   store     systemd
//!   operators the control socket
//!   status    what `evenkeel status` shows
//! ```
#![forbid(unsafe_code)]

mod cells;
mod children;
mod compile;
pub mod life;
mod operators;
mod perform;
mod run;
mod seal;
mod sockets;
mod status;
mod store;
mod workers;

pub use cells::{CellTable, Fresh, Full, Holders};
pub use run::{Options, exit_code, run};
pub use seal::{SealedPlan, carry_schedulers, listener_identity, seal};
pub use workers::Machine;
