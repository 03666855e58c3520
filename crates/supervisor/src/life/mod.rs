//! The supervisor's life as a pure machine.
//!
//! ```text
//!             +---------------------------- executor ---------------------------+
//!  signals,   |                                                                 |
//!  children,  |  Event --> State::step(event, now) --> [Action] --> processes,  |
//!  operators, |                 |          ^                        sockets,    |
//!  clock      |                 v          |                        cells       |
//!             |             handle()  reconcile()                               |
//!             +-----------------------------------------------------------------+
//! ```
//!
//! `handle` takes in one fact. `reconcile` then compares what is with what should be, and emits what is missing: it is
//! level-triggered, so that no order of facts can leave something undone.
//!
//! A slot and its worker:
//!
//! ```text
//!            spawn          Applied(current)          beat late
//!  Absent ----------> Started -------------> Live <-------------> Late
//!    ^  ^                |                    |                     | stopped or burning
//!    |  | back-off       | start deadline     | exit                v
//!    |  +----------------+--------------------+------------------ killed
//!    |
//!    +--- exit --- Draining <--- (retired: steered away, grace, disowned, socket closed) or stop
//! ```

mod event;
mod reconcile;
mod reload;
mod state;

pub use event::{Action, Event, Outcome, Sample, Ticket, Who};
pub use state::{Child, ChildPhase, Phase, Settings, Slot, SlotPhase, State, TICK};
