//! Evidence from the traffic: what workers counted of each backend, looked at in turns.

use std::collections::HashMap;
use std::time::Duration;

use evenkeel_health::passive::{EJECT_FIRST, Evidence, Passive, Rule, Sample};
use evenkeel_plan::{Address, BackendCell, Plan, SourceSpec};
use evenkeel_scoreboard::{BackendCount, HealthState, Scoreboard};

/// Most backends in one turn of the loop; with more of them each is looked at less often.
const BACKENDS_MAX: usize = 1_000;

/// Most cells in one turn: each backend has some in every row.
const CELLS_MAX: usize = 64 * 1_024;

/// Cells of a backend that are read in each row.
const CELLS_EACH: usize = 4;

/// How long a backend without checks that was left out when the monitor began stays so: as long as the first time.
const HELD: Duration = EJECT_FIRST;

/// What to look at when connects from clients' addresses get no answer from a backend that passes its checks: those come from
/// this host's own address.
const NO_WAY_BACK_CHECKED: &str = "connects from clients' addresses get no answer, while checks from this host's own address pass: does the backend send its answers to clients through this host? (deploy/transparent-routes)";

/// The same where there are no checks to compare with.
const NO_WAY_BACK: &str = "connects from clients' addresses get no answer: does the backend send its answers to clients through this host? (deploy/transparent-routes)";

/// What a look at the traffic asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) cell: BackendCell,
    /// `service/backend`.
    pub(crate) identity: String,
    /// Whether it has checks, which decide then.
    pub(crate) is_checked: bool,
    pub(crate) what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Connects to what this name stands for fail.
    Unreachable(Address),
    Evidence {
        evidence: Evidence,
        /// The same in words, for people.
        words: String,
    },
    /// It passes its checks, and what it sends to clients' addresses does not arrive here: why, in words.
    NoWayBack(&'static str),
    /// That is over: why, in words.
    WayBack(&'static str),
    /// It was left out when the monitor began, and that was long enough.
    Released,
}

#[derive(Debug)]
pub(crate) struct Traffic {
    board: Scoreboard,
    watched: Vec<Watched>,
    /// Whose turn is next.
    turn: usize,
}

#[derive(Debug)]
struct Watched {
    cell: BackendCell,
    identity: String,
    address: Address,
    rule: Rule,
    passive: Passive,
    before: Option<Sample>,
    /// Monotonic ms until which it is left out because it was when the monitor began.
    held_until_ms: Option<u64>,
    /// Connections to it come from clients' addresses.
    is_transparent: bool,
    /// Totals of connections when [`What::NoWayBack`] was said; `None` = it is not.
    no_way_back: Option<u64>,
    last: Option<Said>,
}

/// Evidence, for people.
#[derive(Debug)]
struct Said {
    words: String,
    at_ms: u64,
    /// It speaks of resets, which connections that are made do not disprove.
    of_resets: bool,
    /// When connections were first made again, and not reset.
    over_ms: Option<u64>,
}

impl Traffic {
    pub(crate) fn new(board: Scoreboard) -> Self {
        Self {
            board,
            watched: Vec::new(),
            turn: 0,
        }
    }

    /// Watches the backends of `plan`. What is known of those that were watched before stays.
    pub(crate) fn apply(&mut self, plan: &Plan, held: &[BackendCell], now_ms: u64) {
        let held_until_ms = now_ms + u64::try_from(HELD.as_millis()).unwrap_or(u64::MAX);
        let before = std::mem::take(&mut self.watched).into_iter();
        let mut before: HashMap<_, _> = before
            .map(|watched| ((watched.cell, watched.identity.clone()), watched))
            .collect();
        for sealed in plan.services() {
            let record = sealed.record();
            for backend in record.backends() {
                let identity = record.identity(&backend.spec.name);
                let rule = Rule {
                    checked: backend.spec.check.is_some(),
                    failures: record.spec.policy.passive_failures,
                };
                let address = backend.spec.address.clone();
                let is_transparent = record.spec.connect.source == SourceSpec::Client;
                let known = before.remove(&(backend.cell, identity.clone()));
                self.watched.push(match known {
                    Some(watched) => Watched {
                        rule,
                        address,
                        is_transparent,
                        ..watched
                    },
                    None => Watched {
                        cell: backend.cell,
                        identity,
                        address,
                        rule,
                        passive: Passive::default(),
                        before: None,
                        held_until_ms: held.contains(&backend.cell).then_some(held_until_ms),
                        is_transparent,
                        no_way_back: None,
                        last: None,
                    },
                });
            }
        }
    }

    /// Whether a backend without checks is left out at present.
    pub(crate) fn is_left_out(&self, cell: BackendCell) -> bool {
        let mut watched = self.watched.iter();
        watched.any(|w| w.cell == cell && (w.passive.is_ejected() || w.held_until_ms.is_some()))
    }

    /// Looks at some backends: the next ones after those of the last call.
    pub(crate) fn look(&mut self, now_ms: u64) -> Vec<Finding> {
        let rows = self.board.rows().count().max(1);
        let most = (CELLS_MAX / (CELLS_EACH * rows)).clamp(1, BACKENDS_MAX);
        let count = self.watched.len();
        let mut findings = Vec::new();
        for _ in 0..count.min(most) {
            if self.turn >= count {
                self.turn = 0;
            }
            let watched = &mut self.watched[self.turn];
            self.turn += 1;
            watched.look(&self.board, now_ms, &mut findings);
        }
        findings
    }

    /// What is known of a backend, in words; empty = nothing.
    pub(crate) fn words(&self, cell: BackendCell, now_ms: u64) -> String {
        let watched = self.watched.iter().find(|watched| watched.cell == cell);
        let Some(watched) = watched else {
            return String::new();
        };
        let mut parts = Vec::new();
        if let Some(said) = &watched.last {
            let age = |at_ms| now_ms.saturating_sub(at_ms) / 1_000;
            parts.push(format!("{}, {} s ago", said.words, age(said.at_ms)));
            if let Some(over_ms) = said.over_ms {
                let since = age(over_ms);
                parts.push(format!(
                    "connections are made again, the first {since} s ago"
                ));
            }
        }
        let until_ms = watched.passive.ejected_until_ms().or(watched.held_until_ms);
        if let Some(until_ms) = until_ms {
            let left = until_ms.saturating_sub(now_ms).div_ceil(1_000);
            parts.push(format!("tried again in {left} s"));
        }
        parts.join("; ")
    }
}

impl Watched {
    fn look(&mut self, board: &Scoreboard, now_ms: u64, findings: &mut Vec<Finding>) {
        let sum = |count| board.sum_backend(self.cell, count);
        let sample = Sample {
            connect_failures: sum(BackendCount::ConnectFailures),
            connect_timeouts: sum(BackendCount::ConnectTimeouts),
            connections: sum(BackendCount::Connections),
            resets: sum(BackendCount::Resets),
        };
        let before = self.before.replace(sample);
        let (passive, evidence) = self.passive.step(sample, self.rule, now_ms);
        self.passive = passive;
        let no_way_back = evidence.and_then(|evidence| self.no_way_back(board, evidence));
        let mut find = |what| {
            findings.push(Finding {
                cell: self.cell,
                identity: self.identity.clone(),
                is_checked: self.rule.checked,
                what,
            });
        };
        let has_failed =
            before.is_some_and(|before| sample.connect_failures > before.connect_failures);
        if has_failed && self.address.name().is_some() {
            find(What::Unreachable(self.address.clone()));
        }
        if let (Some(said), Some(before)) = (&mut self.last, before) {
            let made = sample.connections.saturating_sub(before.connections);
            let resets = match said.of_resets {
                true => sample.resets.saturating_sub(before.resets),
                false => 0,
            };
            if made > resets {
                said.over_ms.get_or_insert(now_ms);
            }
        }
        if let Some(evidence) = evidence {
            let words = match no_way_back {
                Some(hint) => format!("{evidence}; {hint}"),
                None => evidence.to_string(),
            };
            self.last = Some(Said {
                words: words.clone(),
                at_ms: now_ms,
                of_resets: matches!(
                    evidence,
                    Evidence::Doubt(rows) | Evidence::Eject { rows, .. } if rows.resets > 0
                ),
                over_ms: None,
            });
            find(What::Evidence { evidence, words });
        }
        match self.no_way_back {
            None if self.rule.checked => {
                if let Some(hint) = no_way_back {
                    self.no_way_back = Some(sample.connections);
                    find(What::NoWayBack(hint));
                }
            }
            Some(before) if sample.connections > before => {
                self.no_way_back = None;
                find(What::WayBack("connects are answered again"));
            }
            Some(_) if !self.is_transparent => {
                self.no_way_back = None;
                find(What::WayBack(
                    "connects do not come from clients' addresses any more",
                ));
            }
            None | Some(_) => {}
        }
        if self
            .held_until_ms
            .is_some_and(|until_ms| now_ms >= until_ms)
        {
            self.held_until_ms = None;
            // Unless it has earned it anew meanwhile.
            if !passive.is_ejected() {
                find(What::Released);
            }
        }
    }

    /// What connects without an answer say of one whose connections come from clients' addresses: unless it is known to be down
    /// anyway, that its answers go elsewhere.
    fn no_way_back(&self, board: &Scoreboard, evidence: Evidence) -> Option<&'static str> {
        let (Evidence::Doubt(rows) | Evidence::Eject { rows, .. }) = evidence else {
            return None;
        };
        if !self.is_transparent || rows.timeouts == 0 {
            return None;
        }
        match (self.rule.checked, board.backend(self.cell).verdict().state) {
            (false, _) => Some(NO_WAY_BACK),
            (true, HealthState::Up) => Some(NO_WAY_BACK_CHECKED),
            (true, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_control::operator;

    use super::*;

    #[test]
    fn status_knows_these_words_by_their_beginning() {
        for words in [NO_WAY_BACK, NO_WAY_BACK_CHECKED] {
            assert!(words.starts_with(operator::NO_WAY_BACK), "{words}");
        }
    }
}
