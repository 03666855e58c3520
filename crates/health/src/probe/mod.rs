//! One question to one backend, within a time limit. One file a kind of check.

mod outcome;
mod tcp;

use evenkeel_plan::{CheckKind, CheckSpec};

pub use outcome::Outcome;

/// Asks once. Takes no longer than the timeout of `spec`, as far as this process is given the CPU.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub async fn probe(spec: &CheckSpec) -> Outcome {
    match spec.kind {
        CheckKind::Tcp => tcp::probe(spec.target, spec.timeout).await,
    }
}
