//! The exposition, the endpoint that serves it, and what Prometheus says of both and of the alert rules.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod endpoint;
mod exposition;
mod promtool;
mod rig;
