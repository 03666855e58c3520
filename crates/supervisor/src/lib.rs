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
//!   eligible  whether a backend gets new connections, and if not, why
//!   why       the same with what the monitor knows
//!   admin     what operators said of backends
//!   rights    what workers have to be allowed
//!   access_log its file
//!   secrets   values that health checks and cookies need
//!   events    what happened lately, and who listens
//!   keep      what outlives this process
//! ```
#![forbid(unsafe_code)]

mod access_log;
mod admin;
mod cells;
mod children;
mod compile;
mod eligible;
mod events;
mod keep;
pub mod life;
mod operators;
mod perform;
mod rights;
mod run;
mod seal;
mod secrets;
mod sockets;
mod status;
mod store;
mod why;
mod words;
mod workers;

pub use cells::{CellTable, Fresh, Full, Holders};
pub use run::{Options, exit_code, run};
pub use seal::{Names, SealedPlan, carry_schedulers, listener_identity, seal};
pub use workers::Machine;
