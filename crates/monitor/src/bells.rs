//! Every slot's doorbell, rung when workers have to look at verdicts at once.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::{AsFd as _, OwnedFd};

use evenkeel_plan::SlotIdx;

#[derive(Debug, Default)]
pub(crate) struct Bells(RefCell<HashMap<SlotIdx, OwnedFd>>);

impl Bells {
    pub(crate) fn add(&self, slot: SlotIdx, bell: OwnedFd) {
        self.0.borrow_mut().insert(slot, bell);
    }

    pub(crate) fn ring(&self) {
        for (slot, bell) in &*self.0.borrow() {
            if let Err(error) = evenkeel_sys::doorbell::ring(bell.as_fd()) {
                tracing::error!(%slot, %error, "cannot ring a worker's doorbell");
            }
        }
    }
}
