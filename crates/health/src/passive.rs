//! Evidence from the traffic itself: connects that fail.
//!
//! ```text
//!   in use --- passive_failures failed in a row ---> with checks: Doubt, the checks decide
//!     ^  ^                                           without:     Eject for 10 s
//!     |  `---- a connection is made                                  |
//!     |                                                              v
//!     `---------------------- time is over: Return, on trial --------'
//!              on trial, the first failure ejects again, for twice as long, up to 5 min
//! ```
//!
//! Samples are totals over all workers. Our own exhaustion (no ports, no descriptors) is never counted in them. Within one
//! tick the order is not known, so that any connection made in it ends the row.

use std::fmt;
use std::time::Duration;

/// How long a backend without checks is left out the first time.
pub const EJECT_FIRST: Duration = Duration::from_secs(10);

/// How long it is left out at most.
pub const EJECT_MAX: Duration = Duration::from_secs(300);

/// Totals of one backend over all workers. They only rise, but may start from 0 again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Connects that failed.
    pub connect_failures: u64,
    /// Connections that were made.
    pub connections: u64,
    /// Connections that the backend reset.
    pub resets: u64,
}

/// What the traffic says, for the one who acts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// It has checks: ask now, and often. See [`crate::Checker::doubt`].
    Doubt {
        /// Failed connects in a row.
        failures: u64,
        /// Resets since the last connection that was made.
        resets: u64,
    },
    /// It has none: leave it out.
    Eject {
        /// Failed connects in a row.
        failures: u64,
        /// Resets since the last connection that was made.
        resets: u64,
        /// For how long.
        duration: Duration,
    },
    /// It has been left out long enough: try it again.
    Return {
        /// For how long it was left out.
        after: Duration,
    },
}

/// What is known of one backend from its traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passive {
    last: Option<Sample>,
    /// Failures in a row.
    row: u64,
    resets: u64,
    ejected: Option<Ejection>,
    /// The last ejection is over and no connection was made since.
    on_trial: bool,
    /// How long the last ejection was; zero = none that still counts.
    span: Duration,
    /// Since when it has been in use.
    returned_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ejection {
    until_ms: u64,
}

/// How one backend is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// It has checks.
    pub checked: bool,
    /// Failures in a row that are evidence; 0 = none are.
    pub failures: u16,
}

impl Passive {
    /// Takes the totals at `now_ms`. The first sample is where counting starts.
    #[must_use]
    pub fn step(self, sample: Sample, rule: Rule, now_ms: u64) -> (Self, Option<Evidence>) {
        let mut next = self;
        let last = self.last.unwrap_or(sample);
        next.last = Some(sample);
        let failed = sample
            .connect_failures
            .saturating_sub(last.connect_failures);
        let made = sample.connections.saturating_sub(last.connections);
        let resets = sample.resets.saturating_sub(last.resets);
        if made > 0 {
            (next.row, next.resets, next.on_trial) = (0, resets, false);
        } else {
            next.row = self.row.saturating_add(failed);
            next.resets = self.resets.saturating_add(resets);
        }
        if rule.failures == 0 || rule.checked {
            let was_ejected = next.ejected.take().is_some();
            next.on_trial = false;
            if was_ejected {
                let after = std::mem::take(&mut next.span);
                next.row = 0;
                return (next, Some(Evidence::Return { after }));
            }
            let is_doubt = rule.failures > 0 && failed > 0 && next.row >= u64::from(rule.failures);
            let doubt = Evidence::Doubt {
                failures: next.row,
                resets: next.resets,
            };
            return (next, is_doubt.then_some(doubt));
        }
        match next.ejected {
            Some(ejection) if now_ms < ejection.until_ms => (next, None),
            Some(_) => {
                next.ejected = None;
                next.on_trial = true;
                next.returned_ms = now_ms;
                (next.row, next.resets) = (0, 0);
                let after = next.span;
                (next, Some(Evidence::Return { after }))
            }
            None => next.judge(failed, rule, now_ms),
        }
    }

    /// Whether it is left out at present.
    #[must_use]
    pub fn is_ejected(&self) -> bool {
        self.ejected.is_some()
    }

    /// When it is tried again, if it is left out.
    #[must_use]
    pub fn ejected_until_ms(&self) -> Option<u64> {
        self.ejected.map(|ejection| ejection.until_ms)
    }

    fn judge(mut self, failed: u64, rule: Rule, now_ms: u64) -> (Self, Option<Evidence>) {
        let in_use_ms = now_ms.saturating_sub(self.returned_ms);
        let has_proved_itself = !self.on_trial && u128::from(in_use_ms) >= self.span.as_millis();
        let limit = if self.on_trial {
            1
        } else {
            u64::from(rule.failures)
        };
        if failed == 0 || self.row < limit {
            if has_proved_itself {
                self.span = Duration::ZERO;
            }
            return (self, None);
        }
        self.span = if self.span.is_zero() || has_proved_itself {
            EJECT_FIRST
        } else {
            (self.span * 2).min(EJECT_MAX)
        };
        let span_ms = u64::try_from(self.span.as_millis()).unwrap_or(u64::MAX);
        self.ejected = Some(Ejection {
            until_ms: now_ms.saturating_add(span_ms),
        });
        self.on_trial = false;
        let eject = Evidence::Eject {
            failures: self.row,
            resets: self.resets,
            duration: self.span,
        };
        (self, Some(eject))
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Doubt { failures, resets } => {
                row(f, *failures, *resets)?;
                f.write_str("; checked at once")
            }
            Self::Eject {
                failures,
                resets,
                duration,
            } => {
                row(f, *failures, *resets)?;
                write!(f, "; left out for {} s", duration.as_secs())
            }
            Self::Return { after } => {
                write!(f, "tried again after {} s", after.as_secs())
            }
        }
    }
}

fn row(f: &mut fmt::Formatter<'_>, failures: u64, resets: u64) -> fmt::Result {
    match failures {
        1 => f.write_str("1 connect failed")?,
        _ => write!(f, "{failures} connects in a row failed")?,
    }
    match resets {
        0 => Ok(()),
        1 => f.write_str(", 1 connection was reset"),
        _ => write!(f, ", {resets} connections were reset"),
    }
}
