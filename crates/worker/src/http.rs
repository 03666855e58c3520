//! HTTP/1 on both sides: requests are balanced, and not connections.
//!
//! ```text
//! session.rs --> exchange.rs --> dispatch.rs --> pick, queue, pool.rs or connect --> converse.rs --> session.rs (next)
//!    |              |  settings.rs: routes       |                                      |  up.rs, down.rs: bodies
//!    |              |  prepare.rs: fields        `-- tried again: elsewhere, or afresh   |  inbox.rs: what is unread
//!    |              `- own.rs: answers of ours                                          `-- tunnel.rs: after a 101
//!    `- books.rs: what is counted and logged of each request
//! ```
//!
//! A head is parsed once into a checked type and written afresh (`evenkeel_http1`): framing, `Connection` and `Host` are never copied. One task
//! serves a connection and polls both sides; while it is silent it has none (`waiting.rs`).

pub(crate) mod books;
pub(crate) mod budget;
mod converse;
mod dispatch;
pub(crate) mod down;
mod exchange;
mod inbox;
mod linger;
mod own;
pub(crate) mod pool;
mod prepare;
pub(crate) mod scratch;
pub(crate) mod session;
pub(crate) mod settings;
pub(crate) mod transfer;
pub(crate) mod tunnel;
mod up;
