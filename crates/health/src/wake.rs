//! What brings a check forward.

use std::cell::Cell;

use tokio::sync::Notify;

/// Wakes the task of a check before its time.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    notify: Notify,
    is_doubted: Cell<bool>,
    is_lost: Cell<bool>,
    is_changed: Cell<bool>,
}

impl Wake {
    /// How it is asked has changed.
    pub(crate) fn changed(&self) {
        self.is_changed.set(true);
        self.notify.notify_one();
    }

    /// The traffic speaks against a backend.
    pub(crate) fn doubted(&self) {
        self.is_doubted.set(true);
        self.notify.notify_one();
    }

    /// A kept connection has ended while nothing was asked on it.
    pub(crate) fn lost(&self) {
        self.is_lost.set(true);
        self.notify.notify_one();
    }

    pub(crate) fn take_doubted(&self) -> bool {
        self.is_doubted.take()
    }

    pub(crate) fn take_lost(&self) -> bool {
        self.is_lost.take()
    }

    pub(crate) fn take_changed(&self) -> bool {
        self.is_changed.take()
    }

    /// # Cancel safety
    /// No wake is lost when the future is dropped.
    pub(crate) async fn notified(&self) {
        self.notify.notified().await;
    }
}
