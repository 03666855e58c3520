//! Names to addresses, followed over time.
//!
//! ```text
//! Resolver::apply(addresses) --> one task for each distinct name
//!                                  |  client: the name servers and /etc/hosts, read again when they change
//!                                  |  lookup: A and AAAA, or SRV and then A and AAAA of its targets
//!                                  |  schedule: when to ask again
//!                                  v
//!                                Sink::resolved, when the addresses are others than before
//! ```
//!
//! The last good answer stays: a name server that is gone, an answer without addresses or a name that is said not to exist
//! takes nothing away. What is behind an address is found out by health checks, not here.
#![forbid(unsafe_code)]

mod client;
mod lookup;
mod resolver;
mod schedule;
mod words;

pub use client::Files;
pub use resolver::{LookUp, Resolver, Sink};
pub use schedule::PACE;
