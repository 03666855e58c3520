//! Doubles of what stands behind a balancer, each a process of its own: it can be killed, stopped and started again.
//!
//! A double is this test binary once more, started with `--ignored --exact double_process` and told by an environment
//! variable what it is. A binary that uses doubles therefore has, at its root:
//!
//! ```ignore
//! #[test]
//! #[ignore = "started by tests, as a process of its own"]
//! fn double_process() {
//!     evenkeel_testkit::doubles::run();
//! }
//! ```
//!
//! Each double has an address of its own in 127.0.0.0/8, so that its ports are never anybody else's.

mod couchdb;
mod dns;
mod echo;
mod http;
mod loopback;
mod openhim;
mod process;
mod speaker;

pub use couchdb::CouchDb;
pub use dns::{Dns, Zone};
pub use echo::Echo;
pub use loopback::loopback;
pub use openhim::{Heartbeat, OpenHim};
pub use speaker::{Speaker, Speech, http_line};

/// What a double's process does with a command: the answer, or why not.
trait Role: Send + Sync {
    fn command(&self, line: &str) -> Result<String, String>;
}

/// The whole life of a double's process. Returns at once in a process that is not one.
pub fn run() {
    process::live(|kind| match kind {
        "couchdb" => Box::new(couchdb::Node::new()),
        "openhim" => Box::new(openhim::Core::new()),
        "dns" => Box::new(dns::Server::new()),
        "echo" => Box::new(echo::Server::new()),
        "speaker" => Box::new(speaker::Server::new()),
        other => panic!("there is no double called {other}"),
    });
}
