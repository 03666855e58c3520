//! HTTP/1 messages as bytes: no sockets, no clocks, no tasks.
//!
//! ```text
//! client  --request::Parser-->  RequestHead --write::request--> backend
//!         --framing, chunked decoder--> data --chunked encoder-->
//!
//! backend --answer::Parser--->  AnswerHead  --write::answer---> client
//! ```
//!
//! Every refusal is a rule of `evenkeel_http::strict`. Nothing that frames a message is copied: a head that was parsed has
//! end-to-end fields only, and [`mod@write`] adds framing, `Host` and `Connection` from what [`framing`] and [`persistence`]
//! decided.
//!
//! Source: RFC 9112, cited by section.
#![forbid(unsafe_code)]

pub mod answer;
pub mod chunked;
mod explain;
pub mod framing;
pub mod limits;
pub mod persistence;
pub mod request;
mod search;
pub mod write;

pub use crate::framing::Body;
pub use crate::limits::{Limits, Underscores};
