//! Whether a backend gets new connections, as the workers see it, and if not, why, in words.

use evenkeel_plan::{BackendRecord, ServiceRecord, Unchecked};
use evenkeel_scoreboard::{AdminState, BackendCount, GateState, HealthState};
use evenkeel_sys::clock::{monotonic_ms, unix_seconds};

use crate::perform::Supervisor;
use crate::words::{ago, span};

/// What keeps a backend from new connections, whatever the others do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hindrance {
    /// An operator said so.
    Admin(AdminState),
    /// Its weight is 0, or its agent asks for none of it.
    Weight,
    /// Nobody knows yet where it is.
    Unresolved,
    /// Its checks say so.
    Health(HealthState),
    /// It was not checked yet, and that is not enough here.
    Unchecked,
}

/// A service's backends, each with what hinders it.
#[derive(Debug)]
pub(crate) struct Eligibility {
    pub(crate) gate: GateState,
    /// In file order.
    pub(crate) hindrances: Vec<Option<Hindrance>>,
    /// A backend that is no backup has no hindrance.
    pub(crate) primary: bool,
}

impl Eligibility {
    /// Whether new connections find a backend, or need none: the service has routes alone.
    pub(crate) fn serves(&self) -> bool {
        let finds = self.hindrances.is_empty() || self.hindrances.iter().any(Option::is_none);
        self.gate != GateState::Closed && finds
    }
}

impl Supervisor {
    /// Looks at all cells of a service.
    pub(crate) fn eligibility(&self, record: &ServiceRecord) -> Eligibility {
        let gate = self.board.service(record.cell).gate().state;
        let standing = |backend: &BackendRecord<'_>| {
            let cells = self.board.backend(backend.cell);
            let admin = cells.admin();
            let hindrance = if admin.state != AdminState::Enabled {
                Some(Hindrance::Admin(admin.state))
            } else if admin.weight.unwrap_or(backend.spec.weight) == 0
                || cells.agent_percent() == Some(0)
            {
                Some(Hindrance::Weight)
            } else if backend.endpoints.is_empty() {
                Some(Hindrance::Unresolved)
            } else {
                None
            };
            (hindrance, cells.verdict().state)
        };
        let standings: Vec<_> = record.backends().map(|b| standing(&b)).collect();
        let something_up = standings
            .iter()
            .any(|(hindrance, health)| hindrance.is_none() && health.is_healthy());
        let unchecked = match record.spec.policy.unchecked {
            Unchecked::Always => true,
            Unchecked::IfNoneUp => !something_up,
            Unchecked::Never => false,
        };
        let hindrances: Vec<_> = standings
            .into_iter()
            .map(|(hindrance, health)| {
                hindrance.or_else(|| match health {
                    _ if gate == GateState::Panic => None,
                    HealthState::Up | HealthState::Unchecked => None,
                    HealthState::Starting if unchecked => None,
                    HealthState::Starting => Some(Hindrance::Unchecked),
                    HealthState::Down | HealthState::Drain | HealthState::Maint => {
                        Some(Hindrance::Health(health))
                    }
                })
            })
            .collect();
        let primary = record
            .backends()
            .zip(&hindrances)
            .any(|(backend, hindrance)| !backend.spec.backup && hindrance.is_none());
        Eligibility {
            gate,
            hindrances,
            primary,
        }
    }

    /// Whether the backend at `index` is eligible now, and if not, why.
    pub(crate) fn eligible_words(&self, record: &ServiceRecord, index: usize) -> String {
        let eligibility = self.eligibility(record);
        let Some(backend) = record.backends().nth(index) else {
            return String::new();
        };
        let closed = eligibility.gate == GateState::Closed;
        let hindrance = eligibility.hindrances.get(index).copied().flatten();
        // No trouble: it gets connections again as soon as one of its own ends.
        if hindrance.is_none()
            && !closed
            && let Some(full) = self.full_words(&backend)
        {
            return format!("not eligible now: {full}");
        }
        let mut words = match hindrance {
            Some(hindrance) => format!(
                "not eligible: {}",
                self.hindrance_words(record, &backend, hindrance)
            ),
            None if closed => {
                return format!("not eligible: {}", self.closed_words(record));
            }
            None if backend.spec.backup && eligibility.primary => {
                return "not eligible now: it is a backup, and another backend is eligible"
                    .to_owned();
            }
            None if backend.spec.backup => {
                "eligible: it is a backup, and no other backend is eligible".to_owned()
            }
            None => match self.board.backend(backend.cell).verdict().state {
                HealthState::Up | HealthState::Unchecked => "eligible".to_owned(),
                HealthState::Starting => {
                    "eligible although it was not checked yet, as the service's policy says"
                        .to_owned()
                }
                HealthState::Down | HealthState::Drain | HealthState::Maint => {
                    "eligible although its checks speak against it: too few backends are healthy, and the checks themselves are doubted (panic)"
                        .to_owned()
                }
            },
        };
        if closed {
            words.push_str(&format!("; besides, {}", self.closed_words(record)));
        }
        words
    }

    /// The most connections that a backend gets: of the plan's limit and its agent's the lower one.
    pub(crate) fn backend_limit(&self, backend: &BackendRecord<'_>) -> Option<u32> {
        let agent = self.board.backend(backend.cell).agent_limit();
        let limits = [backend.spec.max_connections, agent];
        limits.into_iter().flatten().min()
    }

    /// `full: 100 of 100 connections`; `None` = it has room.
    fn full_words(&self, backend: &BackendRecord<'_>) -> Option<String> {
        let limit = self.backend_limit(backend)?;
        let active = self.board.sum_backend(backend.cell, BackendCount::Active);
        full_words(active, limit)
    }

    /// `service web is closed by its policy: ...`
    pub(crate) fn closed_words(&self, record: &ServiceRecord) -> String {
        format!(
            "service {} is closed by its policy: {}",
            record.name(),
            self.gate_reason(record)
        )
    }

    /// Why the gate is as it is.
    pub(crate) fn gate_reason(&self, record: &ServiceRecord) -> String {
        let state = self.board.service(record.cell).gate().state;
        let report = self.gates.get(record.name().as_str());
        match report.filter(|report| report.state == state.as_str()) {
            Some(report) => report.reason.clone(),
            None if state == GateState::Closed => {
                "the monitor has not said yet that enough backends are healthy".to_owned()
            }
            None => String::new(),
        }
    }

    fn hindrance_words(
        &self,
        record: &ServiceRecord,
        backend: &BackendRecord<'_>,
        hindrance: Hindrance,
    ) -> String {
        let identity = record.identity(&backend.spec.name);
        let entry = self.admin.get(&identity);
        let by = entry.map_or_else(String::new, |entry| {
            format!(" by {} {}", entry.by, ago(entry.at_unix, unix_seconds()))
        });
        let cells = self.board.backend(backend.cell);
        let verdict = cells.verdict();
        let age_s = monotonic_ms().saturating_sub(verdict.since_ms) / 1_000;
        let because = || {
            let report = self.report(backend.cell, &identity);
            let causes = report.map_or_else(Vec::new, |report| {
                let causes = [report.reason.as_str(), report.answer.as_str()];
                causes.into_iter().filter(|c| !c.is_empty()).collect()
            });
            match causes.is_empty() {
                true => String::new(),
                false => format!(": {}", causes.join(", ")),
            }
        };
        match hindrance {
            Hindrance::Admin(AdminState::Disabled) => format!("disabled{by}"),
            Hindrance::Admin(AdminState::Drain | AdminState::Enabled) => format!("drained{by}"),
            Hindrance::Weight if cells.admin().weight.is_some() => {
                format!("its weight was set to 0{by}")
            }
            Hindrance::Weight => "its weight is 0 in the configuration".to_owned(),
            Hindrance::Unresolved => format!(
                "nobody knows yet what its name {} stands for",
                backend.spec.address
            ),
            Hindrance::Health(state) => format!(
                "its checks say {} for {}{}",
                state.as_str(),
                span(age_s),
                because()
            ),
            Hindrance::Unchecked => match record.spec.policy.unchecked {
                Unchecked::Never => "it was not checked yet".to_owned(),
                Unchecked::IfNoneUp | Unchecked::Always => {
                    "it was not checked yet, and others are up".to_owned()
                }
            },
        }
    }
}

/// `full: 100 of 100 connections`; `None` = there is room.
fn full_words(active: u64, limit: u32) -> Option<String> {
    let is_full = active >= u64::from(limit);
    is_full.then(|| format!("full: {active} of {limit} connections"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_needs_no_backend_serves_without() {
        let of = |gate, hindrances| Eligibility {
            gate,
            hindrances,
            primary: false,
        };
        assert!(of(GateState::Open, Vec::new()).serves());
        assert!(!of(GateState::Closed, Vec::new()).serves());
        assert!(!of(GateState::Open, vec![Some(Hindrance::Weight)]).serves());
        assert!(of(GateState::Open, vec![Some(Hindrance::Weight), None]).serves());
    }

    #[test]
    fn full_is_at_the_limit_and_above_it() {
        assert_eq!(full_words(99, 100), None);
        let full = "full: 100 of 100 connections";
        assert_eq!(full_words(100, 100).as_deref(), Some(full));
        // Lowered below what runs: nothing is cut.
        let above = "full: 120 of 100 connections";
        assert_eq!(full_words(120, 100).as_deref(), Some(above));
    }
}
