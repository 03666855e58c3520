//! What was said so far: kept beside the probe, so that it is known too when the deadline ends it.

use std::cell::{Cell, RefCell};

/// Longest text that is kept of what was sent or received, in bytes.
pub(crate) const TEXT_BYTES_MAX: usize = 512;

/// What was said so far, and what is waited for.
#[derive(Debug, Default)]
pub(crate) struct Talk {
    sent: RefCell<String>,
    received: RefCell<String>,
    step: Cell<&'static str>,
}

impl Talk {
    /// From now on, `step` is waited for.
    pub(crate) fn begin(&self, step: &'static str) {
        self.step.set(step);
    }

    /// Must have no secrets.
    pub(crate) fn sent(&self, text: &str) {
        append(&mut self.sent.borrow_mut(), text);
    }

    /// Must have no secrets.
    pub(crate) fn received(&self, text: &str) {
        append(&mut self.received.borrow_mut(), text);
    }

    pub(crate) fn step(&self) -> &'static str {
        self.step.get()
    }

    pub(crate) fn into_texts(self) -> (String, String) {
        (self.sent.into_inner(), self.received.into_inner())
    }
}

/// `text` on one line and within `bytes_max` bytes: controls are escaped, and what is left out is shown by dots.
pub(crate) fn short(text: &str, bytes_max: usize) -> String {
    let mut short = String::new();
    let text = text.trim_end();
    for character in text.chars() {
        let length = short.len();
        if character.is_control() {
            short.extend(character.escape_default());
        } else {
            short.push(character);
        }
        if short.len() > bytes_max {
            short.truncate(length);
            short.push_str("...");
            break;
        }
    }
    short
}

fn append(to: &mut String, text: &str) {
    if to.len() >= TEXT_BYTES_MAX {
        return;
    }
    if !to.is_empty() {
        to.push_str("; ");
    }
    let room = TEXT_BYTES_MAX.saturating_sub(to.len());
    to.push_str(&short(text, room));
}
