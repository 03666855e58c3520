//! Idle connections to backends.

use serde::{Deserialize, Serialize};

/// Idle connections to backends, which are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolSpec {
    /// Idle connections to each backend, over all workers, 0..=1,000,000; each worker keeps an equal share, rounded up. 0: none is
    /// kept, each request makes its own connection. Default 1,024.
    pub idle: u32,
    /// Requests of one connection, 1..=4,294,967,295, then it is closed; `None` = any. Default `None`.
    pub requests: Option<u32>,
}

impl Default for PoolSpec {
    fn default() -> Self {
        Self {
            idle: 1_024,
            requests: None,
        }
    }
}
