//! What the versions of HTTP share.
//!
//! ```text
//! bytes --http1, http2--> head (checked)  --routes, policies--> head --http1, http2--> bytes
//!              |
//!              `--> a rule of `strict`: refused
//! ```
//!
//! A checked head holds end-to-end fields only: what frames the message or is about one connection was understood, taken
//! out, and is said by the head's own methods. Whoever writes a head can therefore not copy framing by mistake.
#![forbid(unsafe_code)]

pub mod accept;
pub mod compress;
pub mod fields;
pub mod forwarded;
pub mod head;
pub mod list;
pub mod own_answer;
pub mod persist;
pub mod route;
pub mod strict;
pub mod target;

pub use crate::head::{AnswerHead, Declared, Method, RequestHead, Version};
pub use crate::list::Fields;
pub use crate::strict::{Rule, Side};
