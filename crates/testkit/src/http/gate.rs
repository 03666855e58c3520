//! Something that a script waits for.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::client::PATIENCE;

/// Closed until it is opened; then it stays open. Clones are the same gate.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    shared: Arc<(Mutex<bool>, Condvar)>,
}

impl Gate {
    /// A closed one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens it.
    pub fn open(&self) {
        let (is_open, changed) = &*self.shared;
        *is_open.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
    }

    /// Waits until it is open, for a test's whole patience three times over; whether it is.
    pub fn wait(&self) -> bool {
        self.wait_for(PATIENCE * 3)
    }

    /// Waits for at most `time`; whether it is open.
    pub fn wait_for(&self, time: Duration) -> bool {
        let (is_open, changed) = &*self.shared;
        let guard = is_open.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = changed.wait_timeout_while(guard, time, |is_open| !*is_open);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}
