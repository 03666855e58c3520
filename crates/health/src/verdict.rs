//! From one observation to the next state.
//!
//! ```text
//!                first passed                     fall failed in a row
//!   Starting --------------------------> Up ---------------------------> Down
//!      |                                  ^                               ^ |
//!      |                                  `-------- rise passed ----------|-'
//!      `------------------- first failed ---------------------------------'
//! ```
//!
//! In `Starting` nothing is known, so the first observation decides alone, either way: a fresh start serves after one round
//! of checks, and does not send work to what is plainly dead. From then on `fall` and `rise` damp.
//!
//! An inconclusive observation (our own exhaustion, a probe that was not given the CPU) changes nothing: it neither counts
//! nor ends a row.

use std::fmt;

use evenkeel_plan::CheckSpec;

/// What checks say of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    /// Nothing is known yet.
    Starting,
    /// Passes its checks.
    Up,
    /// Fails its checks.
    Down,
}

/// What one probe says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Observation {
    /// The backend answered as it should.
    Passed,
    /// It did not.
    Failed,
    /// Nothing can be said of the backend: the fault is ours.
    Inconclusive,
}

/// Health, since when, and the observations against it so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The health.
    pub health: Health,
    /// Monotonic ms of its last change.
    pub since_ms: u64,
    /// Observations in a row that speak against it: failures while up, successes while down.
    pub against: u16,
}

/// A change of health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The health before.
    pub from: Health,
    /// The health after.
    pub to: Health,
    /// What brought it about.
    pub reason: Reason,
}

/// What brought a change of health about; shown in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The first check of all passed.
    FirstPassed,
    /// The first check of all failed.
    FirstFailed,
    /// This many passed in a row.
    Passed(u16),
    /// This many failed in a row.
    Failed(u16),
    /// The same check was running for another backend and its result was known.
    Shared,
}

/// The state after `observation` at `now_ms`, and the change of health if there was one.
#[must_use]
pub fn step(
    state: State,
    observation: Observation,
    spec: &CheckSpec,
    now_ms: u64,
) -> (State, Option<Transition>) {
    match (state.health, observation) {
        (_, Observation::Inconclusive) => (state, None),
        (Health::Starting, Observation::Passed) => {
            state.change(Health::Up, Reason::FirstPassed, now_ms)
        }
        (Health::Starting, Observation::Failed) => {
            state.change(Health::Down, Reason::FirstFailed, now_ms)
        }
        (Health::Up, Observation::Passed) | (Health::Down, Observation::Failed) => {
            (state.confirmed(), None)
        }
        (Health::Up, Observation::Failed) => {
            state.contradicted(spec.fall, Health::Down, Reason::Failed, now_ms)
        }
        (Health::Down, Observation::Passed) => {
            state.contradicted(spec.rise, Health::Up, Reason::Passed, now_ms)
        }
    }
}

impl State {
    /// A state with no observation against it.
    #[must_use]
    pub fn new(health: Health, since_ms: u64) -> Self {
        Self {
            health,
            since_ms,
            against: 0,
        }
    }

    fn change(self, to: Health, reason: Reason, now_ms: u64) -> (Self, Option<Transition>) {
        let from = self.health;
        debug_assert_ne!(from, to, "a change to the same health");
        (Self::new(to, now_ms), Some(Transition { from, to, reason }))
    }

    fn confirmed(self) -> Self {
        Self { against: 0, ..self }
    }

    fn contradicted(
        self,
        limit: u16,
        to: Health,
        reason: fn(u16) -> Reason,
        now_ms: u64,
    ) -> (Self, Option<Transition>) {
        let against = self.against.saturating_add(1);
        if against >= limit {
            self.change(to, reason(against), now_ms)
        } else {
            (Self { against, ..self }, None)
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirstPassed => f.write_str("first check passed"),
            Self::FirstFailed => f.write_str("first check failed"),
            Self::Passed(1) => f.write_str("1 check passed"),
            Self::Failed(1) => f.write_str("1 check failed"),
            Self::Passed(count) => write!(f, "{count} checks passed in a row"),
            Self::Failed(count) => write!(f, "{count} checks failed in a row"),
            Self::Shared => f.write_str("the same check already runs for another backend"),
        }
    }
}
