//! Messages between processes.
//!
//! [`child`] is the private conversation between the supervisor and one child: both ends are the same binary.
//! [`reunion`] is how children that were left alone hand their sockets to the next supervisor.
//! [`operator`] is the public one, over the control socket: JSON, so that a person can read it.
#![forbid(unsafe_code)]

pub mod channel;
pub mod child;
pub mod link;
pub mod operator;
pub mod reunion;

pub use channel::{Channel, ChannelError};
pub use link::{Link, Outbox};
