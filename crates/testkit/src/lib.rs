//! The real daemon under test: its process, its backends, its clients, its service manager.
//!
//! Everything blocks and everything has a deadline: a test that waits says for what ([`eventually`]) and fails with those
//! words. Nothing here sleeps for a time that somebody guessed.
#![forbid(unsafe_code)]
#![expect(
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a test stops at the first surprise"
)]

mod backend;
pub mod client;
mod config;
mod daemon;
mod dir;
pub mod doubles;
mod gauge;
pub mod http;
mod load;
mod netns;
mod probes;
pub mod proc;
pub mod prometheus;
mod service_manager;
mod serving;
mod wait;

pub use backend::{Backend, Blackhole, Mode};
pub use client::{Failure, one_shot};
pub use config::{Config, Service};
pub use daemon::{Builder, Daemon};
pub use dir::TempDir;
pub use gauge::Gauge;
pub use load::{Load, LoadReport};
pub use netns::Namespace;
pub use probes::{Probe, Probes};
pub use prometheus::{Metrics, ScrapeReport, Scraper};
pub use rustix::process::Signal;
pub use service_manager::{Notice, ServiceManager};
pub use serving::Serving;
pub use wait::{eventually, pause_until, throughout};

/// Not a test: the body of a double that this crate's own tests start.
#[cfg(test)]
#[test]
#[ignore = "started by tests, as a process of its own"]
fn double_process() {
    doubles::run();
}
