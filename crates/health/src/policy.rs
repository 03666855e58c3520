//! Whether a service serves: how many of its backends are healthy, and how many must be.
//!
//! Counts health and not admin state: a backend that an operator drains is still well. Backups never count.
//!
//! ```text
//!   require unmet ----------------> Closed
//!   require met, share < panic ---> Panic: all enabled backends are used, healthy or not
//!   else -------------------------> Open
//! ```
//!
//! With [`Require::Any`] a service is always open: workers find nobody eligible by themselves. So is one without backends: it
//! answers and forwards by its routes.

use evenkeel_plan::{PolicySpec, Require};

use crate::verdict::Health;

/// Backends that a reason names; more are counted.
const NAMED_MAX: usize = 4;

/// Health of a backend as a policy counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// Passes its checks.
    Up,
    /// Has no checks: counts as up.
    Unchecked,
    /// Has checks and nothing is known yet.
    Starting,
    /// Fails its checks.
    Down,
    /// Says that it wants no new connections.
    Drain,
    /// Says that it is being worked on.
    Maint,
    /// Left out on passive evidence.
    Ejected,
}

/// A backend of the service.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its health.
    pub health: Standing,
    /// Used only while no other is eligible. Never counts.
    pub backup: bool,
    /// Its weight. Not counted either: a weight of 0 says nothing of the health.
    pub weight: u16,
}

/// Whether the service serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gate {
    /// It serves.
    Open,
    /// It does not.
    Closed,
    /// It serves from all its enabled backends, healthy or not.
    Panic,
}

impl Gate {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
            Self::Panic => "panic",
        }
    }
}

/// What the policy says, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether the service serves.
    pub state: Gate,
    /// In words, such as `2 of 3 backends are healthy, all are required: couchdb-3 is down`.
    pub reason: String,
}

/// Decides. `before` is the decision in force, if there is one: as long as the first checks of some could still decide
/// whether to panic, it stays at that.
#[must_use]
pub fn gate(policy: &PolicySpec, members: &[Member<'_>], before: Option<Gate>) -> Decision {
    if members.is_empty() {
        return Decision {
            state: Gate::Open,
            reason: "it has no backends of its own".to_owned(),
        };
    }
    let counted = || members.iter().filter(|member| !member.backup);
    let total = counted().count();
    let healthy = counted()
        .filter(|member| member.health.is_healthy())
        .count();
    let is_starting = |member: &&Member<'_>| member.health == Standing::Starting;
    let starting = counted().filter(is_starting).count();
    let (needed, demand) = needed(policy.require, total);
    let mut state = Gate::Open;
    let mut reason = words(healthy, total);
    if healthy < needed {
        state = Gate::Closed;
        reason.push_str(&demand);
    } else if let Some(threshold) = policy.panic {
        let below = |count: usize| count * 100 < total * usize::from(threshold);
        let panics = match (below(healthy), below(healthy + starting)) {
            (true, false) => before == Some(Gate::Panic),
            (_, panics) => panics,
        };
        if panics {
            state = Gate::Panic;
            reason.push_str(&format!(
                ", less than {threshold} %: all that are enabled are used"
            ));
        }
    }
    if let Some(unwell) = unwell(members) {
        reason.push_str(": ");
        reason.push_str(&unwell);
    }
    Decision { state, reason }
}

impl Standing {
    /// Whether it counts as healthy.
    #[must_use]
    pub fn is_healthy(self) -> bool {
        match self {
            Self::Up | Self::Unchecked => true,
            Self::Starting | Self::Down | Self::Drain | Self::Maint | Self::Ejected => false,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Up => "is up",
            Self::Unchecked => "has no checks",
            Self::Starting => "is not checked yet",
            Self::Down => "is down",
            Self::Drain => "drains",
            Self::Maint => "is in maintenance",
            Self::Ejected => "is left out, connects to it fail",
        }
    }
}

impl From<Health> for Standing {
    fn from(health: Health) -> Self {
        match health {
            Health::Starting => Self::Starting,
            Health::Up => Self::Up,
            Health::Down => Self::Down,
            Health::Drain => Self::Drain,
            Health::Maint => Self::Maint,
        }
    }
}

/// How many of `total` must be healthy, and the demand in words.
fn needed(require: Require, total: usize) -> (usize, String) {
    match require {
        Require::Any => (0, String::new()),
        Require::All => (total, ", all are required".to_owned()),
        Require::Count(1) => (1, ", 1 is required".to_owned()),
        Require::Count(count) => (usize::from(count), format!(", {count} are required")),
        Require::Share(percent) => {
            let needed = (total * usize::from(percent)).div_ceil(100);
            (
                needed,
                format!(", {percent} % are required, that is {needed}"),
            )
        }
    }
}

fn words(healthy: usize, total: usize) -> String {
    match (healthy, total) {
        (0, 0) => "no backend counts, there are only backups".to_owned(),
        (healthy, 1) => format!("{healthy} of 1 backend is healthy"),
        (1, total) => format!("1 of {total} backends is healthy"),
        (healthy, total) => format!("{healthy} of {total} backends are healthy"),
    }
}

/// Who is not healthy, and how so.
fn unwell(members: &[Member<'_>]) -> Option<String> {
    let is_unwell = |member: &&Member<'_>| !member.backup && !member.health.is_healthy();
    let unwell: Vec<_> = members.iter().filter(is_unwell).collect();
    if unwell.is_empty() {
        return None;
    }
    let mut parts: Vec<_> = unwell
        .iter()
        .take(NAMED_MAX)
        .map(|member| format!("{} {}", member.name, member.health.words()))
        .collect();
    if unwell.len() > NAMED_MAX {
        parts.push(format!("and {} more", unwell.len() - NAMED_MAX));
    }
    Some(parts.join(", "))
}
