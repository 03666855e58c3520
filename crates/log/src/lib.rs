//! Log records and formats, and the channel that carries whole lines between processes.
//!
//! ```text
//! worker 0  --tracing--> Lines --packet--> [line channel] --\
//! worker 1  --tracing--> Lines --packet--> [line channel] ---+--> Writer (a thread) --> standard error
//! monitor   --tracing--> Lines --packet--> [line channel] --/                        `-> a file, for the access log
//! ```
//!
//! * A packet is one line of the log, or a batch of lines of the [access log](access). It is written whole or not at all.
//! * A full channel drops the line and counts it; no caller ever waits.
//! * Whoever holds both ends of a channel keeps what is in it while its writer is started again.
#![forbid(unsafe_code)]

pub mod access;
mod channel;
mod digits;
mod output;
mod subscriber;
mod text;
mod time;
mod writer;

pub use channel::{channel, drain};
pub use subscriber::{init, init_stderr, set_spec, tell_dropped};
pub use text::LINE_BYTES_MAX;
pub use time::Utc;
pub use writer::{Receiver, Writer, stderr};
