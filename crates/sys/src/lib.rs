//! Raw system calls behind safe functions. All `unsafe` of the project is in this crate.
//!
//! Kernel facts that the design rests on stand at the function that uses them, with the test that shows them.
#![expect(
    unsafe_code,
    reason = "the one crate that may; each block says why it holds"
)]

pub mod append;
pub mod blob;
pub mod cells;
pub mod clock;
pub mod cpu;
pub mod doorbell;
pub mod inherit;
pub mod listen;
pub mod lock;
pub mod outgoing;
pub mod packet;
pub mod process;
pub mod random;
mod rights;
pub mod steer;
pub mod stream;
pub mod watch;
