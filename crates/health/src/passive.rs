//! Evidence from the traffic itself: connects that fail, and connections that the backend resets.
//!
//! ```text
//!   in use --- passive_failures reset in a row ----> with checks: Doubt, the checks decide
//!   in use --- passive_failures failed in a row ---> with checks: Doubt, the checks decide
//!     ^  ^                                           without:     Eject for 10 s
//!     |  `---- a connection is made                                  |
//!     |                                                              v
//!     `---------------------- time is over: Return, on trial --------'
//!              on trial, the first failure ejects again, for twice as long, up to 5 min
//! ```
//!
//! Samples are totals over all workers. Our own exhaustion (no ports, no descriptors) is never counted in them. Within one
//! tick the order is not known, so that any connection made in it ends the row of failed connects; a row of resets ends with a tick
//! in which more connections were made than reset.
//!
//! Resets alone never leave a backend out. Whose fault a reset is cannot be told at TCP: a server that dies resets its connections,
//! and so does one that throws a bad client out. Checks can tell the two apart; a backend without any is left in use.

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
    /// Those of them that got no answer.
    pub connect_timeouts: u64,
    /// Connections that were made.
    pub connections: u64,
    /// Connections that the backend reset.
    pub resets: u64,
}

/// What the traffic says, for the one who acts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// It has checks: ask now, and often. See [`crate::Checker::doubt`].
    Doubt(Rows),
    /// It has none: leave it out.
    Eject {
        /// Why.
        rows: Rows,
        /// For how long.
        duration: Duration,
    },
    /// It has been left out long enough: try it again.
    Return {
        /// For how long it was left out.
        after: Duration,
    },
}

/// What has gone wrong in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Connects that failed.
    pub failures: u64,
    /// Those of them that got no answer.
    pub timeouts: u64,
    /// Connections that the backend reset.
    pub resets: u64,
}

/// What is known of one backend from its traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passive {
    last: Option<Sample>,
    rows: Rows,
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
    /// Failures, or resets, in a row that are evidence; 0 = none are.
    pub failures: u16,
}

impl Passive {
    /// Takes the totals at `now_ms`. The first sample is where counting starts.
    #[must_use]
    pub fn step(self, sample: Sample, rule: Rule, now_ms: u64) -> (Self, Option<Evidence>) {
        let mut next = self;
        let last = self.last.unwrap_or(sample);
        next.last = Some(sample);
        let since = |count: fn(&Sample) -> u64| count(&sample).saturating_sub(count(&last));
        let failed = since(|sample| sample.connect_failures);
        let made = since(|sample| sample.connections);
        let resets = since(|sample| sample.resets);
        if made > 0 {
            (next.rows.failures, next.rows.timeouts, next.on_trial) = (0, 0, false);
        } else {
            let timeouts = since(|sample| sample.connect_timeouts);
            next.rows.failures = self.rows.failures.saturating_add(failed);
            next.rows.timeouts = self.rows.timeouts.saturating_add(timeouts);
        }
        next.rows.resets = match made > resets {
            true => 0,
            false => self.rows.resets.saturating_add(resets),
        };
        if rule.failures == 0 || rule.checked {
            let was_ejected = next.ejected.take().is_some();
            next.on_trial = false;
            if was_ejected {
                let after = std::mem::take(&mut next.span);
                next.rows = Rows::default();
                return (next, Some(Evidence::Return { after }));
            }
            let limit = u64::from(rule.failures);
            let is_doubt = rule.failures > 0
                && (failed > 0 && next.rows.failures >= limit
                    || resets > 0 && next.rows.resets >= limit);
            return (next, is_doubt.then_some(Evidence::Doubt(next.rows)));
        }
        match next.ejected {
            Some(ejection) if now_ms < ejection.until_ms => (next, None),
            Some(_) => {
                next.ejected = None;
                next.on_trial = true;
                next.returned_ms = now_ms;
                next.rows = Rows::default();
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
        if failed == 0 || self.rows.failures < limit {
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
            rows: self.rows,
            duration: self.span,
        };
        (self, Some(eject))
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Doubt(rows) => write!(f, "{rows}; checked at once"),
            Self::Eject { rows, duration } => {
                write!(f, "{rows}; left out for {} s", duration.as_secs())
            }
            Self::Return { after } => {
                write!(f, "tried again after {} s", after.as_secs())
            }
        }
    }
}

impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            failures,
            timeouts,
            resets,
        } = *self;
        match failures {
            0 => {}
            1 => f.write_str("1 connect failed")?,
            _ => write!(f, "{failures} connects in a row failed")?,
        }
        match (failures, timeouts) {
            (_, 0) => {}
            (0 | 1, _) => f.write_str(", without an answer")?,
            _ => write!(f, ", {} of them without an answer", timeouts.min(failures))?,
        }
        match (failures, resets) {
            (_, 0) => Ok(()),
            (0, 1) => f.write_str("1 connection was reset"),
            (0, _) => write!(f, "{resets} connections in a row were reset"),
            (_, 1) => f.write_str(", 1 connection was reset"),
            _ => write!(f, ", {resets} connections were reset"),
        }
    }
}
