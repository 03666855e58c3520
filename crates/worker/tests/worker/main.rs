//! A worker in this process, with a test in the place of the supervisor: a real channel, real listening sockets, echoing
//! backends and a real scoreboard. Worker, clients and backends are tasks of one thread, so a test can hold one back by not
//! letting the others run.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![expect(clippy::panic, reason = "a test stops at the first surprise")]

mod keys;
mod leave;
mod policy;
mod reload;
mod rig;
mod silent;
mod traffic;
