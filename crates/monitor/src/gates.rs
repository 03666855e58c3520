//! Whether services serve: their policies, evaluated whenever a verdict changes.
//!
//! What counts is what the cells say, so that a new monitor comes to the decision that is in force. The gate is one store, and
//! it comes before everything that takes time.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use evenkeel_control::child::GateReport;
use evenkeel_health::policy::{self, Decision, Member, Standing};
use evenkeel_plan::{BackendCell, OnDown, Plan, Sealed, ServiceRecord};
use evenkeel_scoreboard::{Gate, GateState, HealthState, Scoreboard};
use evenkeel_sys::clock::monotonic_ms;

use crate::news::{News, unix_of};

#[derive(Debug)]
pub(crate) struct Gates {
    board: Scoreboard,
    news: Rc<News>,
    /// The service of each backend.
    services: RefCell<HashMap<BackendCell, Arc<Sealed>>>,
    /// What was last said of each service.
    reports: RefCell<HashMap<String, GateReport>>,
}

impl Gates {
    pub(crate) fn new(board: Scoreboard, news: Rc<News>) -> Self {
        Self {
            board,
            news,
            services: RefCell::default(),
            reports: RefCell::default(),
        }
    }

    /// Evaluates every service of `plan`, which is in force, and of `next` those that are new in it: nobody uses their gates
    /// yet, and whoever does first finds them as they should be.
    pub(crate) fn apply(&self, plan: &Plan, next: Option<&Plan>) {
        let is_new =
            |sealed: &&Arc<Sealed>| plan.service(sealed.record().name().as_str()).is_none();
        let new = next.into_iter().flat_map(Plan::services).filter(is_new);
        let sealed: Vec<_> = plan.services().chain(new).collect();
        let cells = |sealed: &Arc<Sealed>| {
            let cells = sealed.record().backend_cells.clone();
            let sealed = Arc::clone(sealed);
            cells
                .into_iter()
                .map(move |cell| (cell, Arc::clone(&sealed)))
        };
        let services = sealed.iter().copied().flat_map(cells).collect();
        *self.services.borrow_mut() = services;
        let is_there = |name: &str| {
            plan.service(name).is_some() || next.is_some_and(|next| next.service(name).is_some())
        };
        self.reports.borrow_mut().retain(|name, _| is_there(name));
        for sealed in sealed {
            self.evaluate(sealed.record());
        }
    }

    /// Evaluates the service of a backend whose verdict has changed.
    pub(crate) fn look(&self, cell: BackendCell) {
        let sealed = self.services.borrow().get(&cell).cloned();
        if let Some(sealed) = sealed {
            self.evaluate(sealed.record());
        }
    }

    /// Whether the connections of a backend that goes down are to be reset.
    pub(crate) fn resets_on_down(&self, cell: BackendCell) -> bool {
        let services = self.services.borrow();
        let sealed = services.get(&cell);
        sealed.is_some_and(|sealed| sealed.record().spec.policy.on_down == OnDown::Reset)
    }

    /// What was last said of a service.
    pub(crate) fn report(&self, service: &str) -> Option<GateReport> {
        self.reports.borrow().get(service).cloned()
    }

    fn evaluate(&self, record: &ServiceRecord) {
        let cells = self.board.service(record.cell);
        let before = cells.gate();
        let decision = self.decide(record, before.state);
        let state = state_of(decision.state);
        let mut gate = before;
        if state != before.state {
            gate = Gate {
                state,
                since_ms: monotonic_ms(),
            };
            cells.set_gate(gate);
            cells.count_gate_change();
            announce(record, state, &decision.reason);
            let text = format!("{}: {}", in_capitals(state), decision.reason);
            self.news.event("policy", record.name().as_str(), &text);
        }
        let report = GateReport {
            service: record.name().to_string(),
            state: state.as_str().to_owned(),
            since_unix: match gate.since_ms {
                0 => 0,
                since_ms => unix_of(since_ms),
            },
            reason: decision.reason,
        };
        let mut reports = self.reports.borrow_mut();
        let is_told = reports.get(&report.service).is_some_and(|told| {
            // Since when is reckoned from two clocks, whose seconds need not turn at once.
            (&told.state, &told.reason) == (&report.state, &report.reason)
        });
        if !is_told || gate != before {
            self.news.gate(report.clone());
            reports.insert(report.service.clone(), report);
        }
    }

    fn decide(&self, record: &ServiceRecord, before: GateState) -> Decision {
        let members: Vec<_> = record
            .backends()
            .map(|backend| {
                let state = self.board.backend(backend.cell).verdict().state;
                Member {
                    name: backend.spec.name.as_str(),
                    health: standing(state, backend.spec.check.is_some()),
                    backup: backend.spec.backup,
                    weight: backend.spec.weight,
                }
            })
            .collect();
        let before = match before {
            GateState::Open => policy::Gate::Open,
            GateState::Closed => policy::Gate::Closed,
            GateState::Panic => policy::Gate::Panic,
        };
        policy::gate(&record.spec.policy, &members, Some(before))
    }
}

fn standing(state: HealthState, is_checked: bool) -> Standing {
    match state {
        HealthState::Starting => Standing::Starting,
        HealthState::Up => Standing::Up,
        HealthState::Unchecked => Standing::Unchecked,
        HealthState::Drain => Standing::Drain,
        HealthState::Maint => Standing::Maint,
        HealthState::Down if is_checked => Standing::Down,
        // Nobody else takes one without checks down.
        HealthState::Down => Standing::Ejected,
    }
}

fn state_of(gate: policy::Gate) -> GateState {
    match gate {
        policy::Gate::Open => GateState::Open,
        policy::Gate::Closed => GateState::Closed,
        policy::Gate::Panic => GateState::Panic,
    }
}

fn in_capitals(state: GateState) -> &'static str {
    match state {
        GateState::Open => "OPEN",
        GateState::Closed => "CLOSED",
        GateState::Panic => "in PANIC",
    }
}

/// One line a change.
fn announce(record: &ServiceRecord, state: GateState, reason: &str) {
    let (service, state_words) = (record.name(), in_capitals(state));
    match state {
        GateState::Open => tracing::info!("service {service} is {state_words}: {reason}"),
        GateState::Closed | GateState::Panic => {
            tracing::warn!("service {service} is {state_words}: {reason}");
        }
    }
}
