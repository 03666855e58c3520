//! From one observation to the next state.
//!
//! ```text
//!                first passed                     fall failed in a row
//!   Starting --------------------------> Up ---------------------------> Down
//!      |                                  ^                               ^ |
//!      |                                  `-------- rise passed ----------|-'
//!      `------------------- first failed ---------------------------------'
//!
//!   any ---- drain, maint ----> Drain, Maint ---- first passed ----> Up
//!                                     `---- fall failed in a row ----> Down
//! ```
//!
//! In `Starting` nothing is known, so the first observation decides alone, either way: a fresh start serves after one round
//! of checks, and does not send work to what is plainly dead. From then on `fall` and `rise` damp.
//!
//! `Drain` and `Maint` are what a backend says of itself, and a statement needs no repetition: they hold from the first
//! observation on, and end with the first that passes, since a backend that says so was well all along.
//!
//! An inconclusive observation (our own exhaustion, a probe that was not given the CPU) changes nothing: it neither counts
//! nor ends a row.
//!
//! Flapping: with three changes between `Up` and `Down` within a minute, each further one doubles the passes that it takes to
//! come up, to 16 times `rise` at most; each minute without a change halves them again. What goes down goes down as fast as
//! ever.

use std::fmt;

use evenkeel_plan::CheckSpec;

/// A change counts as recent for this long, and after as long without one the damping gives way by half.
pub const FLAP_WINDOW_MS: u64 = 60_000;

/// Recent changes that are let pass.
pub const FLAPS_FREE: usize = 3;

/// How often `rise` is doubled at most: 16 times.
pub const DAMPING_MAX: u8 = 4;

/// What checks say of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    /// Nothing is known yet.
    Starting,
    /// Passes its checks.
    Up,
    /// Fails its checks.
    Down,
    /// Says that it wants no new connections; what runs goes on.
    Drain,
    /// Says that it is being worked on.
    Maint,
}

impl Health {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Down => "down",
            Self::Drain => "drain",
            Self::Maint => "maint",
        }
    }
}

/// What one probe says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Observation {
    /// The backend answered as it should.
    Passed,
    /// It did not.
    Failed,
    /// The backend said: no new connections.
    Drain,
    /// The backend said: I am being worked on.
    Maint,
    /// Nothing can be said of the backend: the fault is ours.
    Inconclusive,
}

impl Observation {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Drain => "drain",
            Self::Maint => "maint",
            Self::Inconclusive => "inconclusive",
        }
    }
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
    /// The next observation decides alone, as the first of all does: the backend's name stands for other addresses now.
    pub anew: bool,
    /// Its recent changes.
    pub flaps: Flaps,
}

/// Recent changes between up and down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flaps {
    /// Monotonic ms of the last changes, latest first; 0 = none.
    recent: [u64; FLAPS_FREE],
    /// How often `rise` was doubled at the last change.
    damping: u8,
}

impl Flaps {
    /// How often `rise` is doubled at `now_ms`.
    #[must_use]
    pub fn damping(&self, now_ms: u64) -> u8 {
        let quiet = now_ms.saturating_sub(self.recent[0]) / FLAP_WINDOW_MS;
        let given_way = u8::try_from(quiet).unwrap_or(u8::MAX);
        self.damping.saturating_sub(given_way)
    }

    fn changed(self, now_ms: u64) -> Self {
        let [first, second, third] = self.recent;
        let is_recent = |at_ms: u64| at_ms != 0 && now_ms.saturating_sub(at_ms) < FLAP_WINDOW_MS;
        let further = u8::from(is_recent(third));
        Self {
            recent: [now_ms.max(1), first, second],
            damping: (self.damping(now_ms) + further).min(DAMPING_MAX),
        }
    }
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
    /// The backend said so itself.
    Said,
    /// It said that it drains or is being worked on, and does not any more.
    SaidNoMore,
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
    use Health::{Down, Drain, Maint, Starting, Up};
    let decides_alone = state.anew || state.health == Starting;
    match (state.health, observation) {
        (_, Observation::Inconclusive) => (state, None),
        (Up, Observation::Passed)
        | (Down, Observation::Failed)
        | (Drain, Observation::Drain)
        | (Maint, Observation::Maint) => (state.confirmed(), None),
        (_, Observation::Drain) => state.change(Drain, Reason::Said, now_ms),
        (_, Observation::Maint) => state.change(Maint, Reason::Said, now_ms),
        (_, Observation::Passed) if decides_alone => state.change(Up, Reason::FirstPassed, now_ms),
        (_, Observation::Failed) if decides_alone => {
            state.change(Down, Reason::FirstFailed, now_ms)
        }
        (Drain | Maint, Observation::Passed) => state.change(Up, Reason::SaidNoMore, now_ms),
        (Down | Starting, Observation::Passed) => {
            let limit = state.rise(spec, now_ms);
            state.contradicted(limit, Up, Reason::Passed, now_ms)
        }
        (Up | Drain | Maint | Starting, Observation::Failed) => {
            state.contradicted(spec.fall, Down, Reason::Failed, now_ms)
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
            anew: false,
            flaps: Flaps::default(),
        }
    }

    /// Passes in a row that bring it up at `now_ms`: `rise`, and more when it flaps.
    #[must_use]
    pub fn rise(&self, spec: &CheckSpec, now_ms: u64) -> u16 {
        spec.rise
            .saturating_mul(1 << self.flaps.damping(now_ms).min(DAMPING_MAX))
    }

    fn change(self, to: Health, reason: Reason, now_ms: u64) -> (Self, Option<Transition>) {
        let from = self.health;
        debug_assert_ne!(from, to, "a change to the same health");
        let flaps = match (from, to) {
            (Health::Up, Health::Down) | (Health::Down, Health::Up) => self.flaps.changed(now_ms),
            _ => self.flaps,
        };
        let state = Self {
            flaps,
            ..Self::new(to, now_ms)
        };
        (state, Some(Transition { from, to, reason }))
    }

    fn confirmed(self) -> Self {
        Self {
            against: 0,
            anew: false,
            ..self
        }
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
            Self::Said => f.write_str("the backend says so"),
            Self::SaidNoMore => f.write_str("the backend does not say so any more"),
            Self::Shared => f.write_str("the same check already runs for another backend"),
        }
    }
}
