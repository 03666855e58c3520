//! HTTP/1 as raw bytes, for both ends: what really came, framed exactly, and how the connection ended.
//!
//! ```text
//!   HttpClient --bytes--> daemon --bytes--> HttpBackend: a script (a closure) answers, byte for byte, and everything is recorded
//! ```
//!
//! Nothing here is strict about what a message says: a test sees what came, not what was understood of it.

mod backend;
mod client;
mod gate;
mod load;
mod message;
mod reader;
mod websocket;

pub use backend::{Exchange, HttpBackend, Seen};
pub use client::{Answer, HttpClient};
pub use gate::Gate;
pub use load::{HttpLoad, Outcome};
pub use message::{Body, Framing, Head, dechunked};
pub use reader::{Broken, Ended};
pub use websocket::{Frame, UPGRADE_ACCEPT, upgrade_answer, upgrade_request};
