//! The access log: one line for each connection, at its end; for one that carries HTTP, one for each request.
//!
//! ```text
//! Record --Formatter--> batch of lines --one packet--> [line channel] --> Writer --> access output
//!                         sent when it is full, by flush() and at the end
//! ```

mod batch;
mod escape;
mod format;
mod human;
mod record;

pub use batch::{AccessLog, BATCH_BYTES};
pub use format::Formatter;
pub use record::{End, HttpRecord, Phase, Record, Side};
