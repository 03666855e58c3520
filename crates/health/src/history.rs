//! The last checks of a backend, for whoever asks why it is what it is.

use std::borrow::Cow;
use std::collections::VecDeque;

use crate::probe::Outcome;
use crate::verdict::Observation;

/// Checks that are kept of each backend.
pub const RECORDS_MAX: usize = 16;

/// One check that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Monotonic ms when it began.
    pub at_ms: u64,
    /// What was found.
    pub result: Observation,
    /// The same in words.
    pub answer: Cow<'static, str>,
    /// What was asked, shortened and without secrets.
    pub sent: Cow<'static, str>,
    /// What came back, shortened and without secrets.
    pub received: Cow<'static, str>,
    /// How long it took.
    pub duration_us: u64,
}

/// The last [`RECORDS_MAX`] checks, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct History(VecDeque<Record>);

impl History {
    pub(crate) fn push(&mut self, outcome: &Outcome) {
        if self.0.len() == RECORDS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Record {
            at_ms: outcome.at_ms,
            result: outcome.observation,
            answer: outcome.answer.clone(),
            sent: outcome.sent.clone(),
            received: outcome.received.clone(),
            duration_us: u64::try_from(outcome.duration.as_micros()).unwrap_or(u64::MAX),
        });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn records(&self) -> Vec<Record> {
        self.0.iter().cloned().collect()
    }
}
