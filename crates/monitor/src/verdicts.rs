//! What becomes of a check's result: the verdict cell first, then its service's gate, then the doorbells where connections are
//! to be reset, then a log line, and words for the supervisor.
//!
//! A backend that speaks HAProxy's agent protocol may ask for a share of its weight or for a number of connections at most. Each goes
//! to a cell of its own.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::rc::Rc;

use evenkeel_control::child::{FromChild, Report};
use evenkeel_health::{Checked, Health, Observation, Outcome, Sink, State, Transition};
use evenkeel_plan::{BackendCell, CheckKind, ServiceCell};
use evenkeel_scoreboard::{HealthState, Scoreboard, Verdict};
use evenkeel_sys::clock::{monotonic_ms, unix_seconds};
use evenkeel_sys::packet;

use crate::bells::Bells;
use crate::gates::Gates;
use crate::news::{News, shorten, unix_ms_of, unix_of};
use crate::plans::Backend;

/// Most reports in one message.
const REPORTS_MAX: usize = 64;

/// Longest answer that is passed on, in bytes.
const ANSWER_BYTES_MAX: usize = 256;

/// Longest reason that is passed on, in bytes.
const REASON_BYTES_MAX: usize = 320;

/// Reason for what was so before this process began.
const FOUND: &str = "found so when the monitor started";

/// A report: identity, answer, state and reason of ours, numbers.
const REPORT_BYTES_MAX: usize =
    2 * (evenkeel_plan::NAME_BYTES_MAX + 1) + ANSWER_BYTES_MAX + REASON_BYTES_MAX + 64;

const _: () = assert!(REPORTS_MAX * REPORT_BYTES_MAX < packet::MESSAGE_BYTES_MAX);

/// Verdicts and the words about them.
#[derive(Debug)]
pub(crate) struct Verdicts {
    board: Scoreboard,
    news: Rc<News>,
    pub(crate) gates: Gates,
    pub(crate) bells: Bells,
    entries: RefCell<HashMap<BackendCell, Entry>>,
    /// Changes of state that the supervisor has not been told.
    changed: RefCell<BTreeSet<BackendCell>>,
    /// Answers that the supervisor has not been told.
    answered: RefCell<BTreeSet<BackendCell>>,
}

#[derive(Debug)]
struct Entry {
    report: Report,
    service: ServiceCell,
    /// The last check said nothing of the backend.
    inconclusive: bool,
}

impl Verdicts {
    pub(crate) fn new(board: Scoreboard, news: Rc<News>) -> Self {
        Self {
            board,
            gates: Gates::new(board, Rc::clone(&news)),
            news,
            bells: Bells::default(),
            entries: RefCell::default(),
            changed: RefCell::default(),
            answered: RefCell::default(),
        }
    }

    /// Takes note of a backend with a check that is new to this process, and says what is known of it: what its cell says,
    /// else what the supervisor was told by the monitor before, else nothing.
    pub(crate) fn meet(&self, backend: &Backend, seed: Option<Report>) -> State {
        let cells = self.board.backend(backend.cell);
        let verdict = cells.verdict();
        let known = match verdict.state {
            HealthState::Up => State::new(Health::Up, verdict.since_ms),
            HealthState::Down => State::new(Health::Down, verdict.since_ms),
            HealthState::Drain => State::new(Health::Drain, verdict.since_ms),
            HealthState::Maint => State::new(Health::Maint, verdict.since_ms),
            HealthState::Starting | HealthState::Unchecked => seed
                .as_ref()
                .and_then(state_of_report)
                .unwrap_or_else(|| State::new(Health::Starting, monotonic_ms())),
        };
        let mut state = verdict.state;
        if known.health != Health::Starting && state != state_of(known.health) {
            state = state_of(known.health);
            let since_ms = known.since_ms;
            cells.set_verdict(Verdict { state, since_ms });
        }
        let agrees = |report: &Report| report.state == state.as_str();
        let report = seed.filter(agrees).unwrap_or_else(|| {
            let reason = match known.health {
                Health::Starting => "not checked yet",
                Health::Up | Health::Down | Health::Drain | Health::Maint => FOUND,
            };
            report(backend, state, known.since_ms, reason)
        });
        self.insert(backend, report);
        self.answered.borrow_mut().insert(backend.cell);
        known
    }

    /// Takes note of a backend without checks: it counts as up.
    pub(crate) fn uncheck(&self, backend: &Backend) -> State {
        let cells = self.board.backend(backend.cell);
        let state = HealthState::Unchecked;
        let mut since_ms = cells.verdict().since_ms;
        if cells.verdict().state != state {
            since_ms = monotonic_ms();
            cells.set_verdict(Verdict { state, since_ms });
        }
        self.insert(
            backend,
            report(backend, state, since_ms, "it has no checks"),
        );
        self.mark_changed(backend.cell);
        State::new(Health::Starting, since_ms)
    }

    /// Takes note of a backend without checks that was left out when the monitor started, and stays so for now.
    pub(crate) fn keep_left_out(&self, backend: &Backend) -> State {
        let since_ms = self.board.backend(backend.cell).verdict().since_ms;
        self.insert(backend, report(backend, HealthState::Down, since_ms, FOUND));
        self.answered.borrow_mut().insert(backend.cell);
        State::new(Health::Starting, since_ms)
    }

    /// Leaves a backend without checks out, or uses it again.
    pub(crate) fn left_out(&self, cell: BackendCell, is_left_out: bool, reason: &str) {
        let state = match is_left_out {
            true => HealthState::Down,
            false => HealthState::Unchecked,
        };
        let mut entries = self.entries.borrow_mut();
        let Some(entry) = entries.get_mut(&cell) else {
            return;
        };
        let report = &mut entry.report;
        shorten(reason, REASON_BYTES_MAX).clone_into(&mut report.reason);
        if self.board.backend(cell).verdict().state != state {
            let since_ms = monotonic_ms();
            self.store(cell, Verdict { state, since_ms });
            report.since_unix = unix_of(since_ms);
            state.as_str().clone_into(&mut report.state);
            let identity = &report.identity;
            let text = match is_left_out {
                true => format!("DOWN: {reason}"),
                false => format!("used again: {reason}"),
            };
            match is_left_out {
                true => tracing::warn!("backend {identity} is {text}"),
                false => tracing::info!("backend {identity} is {text}"),
            }
            self.news.event("health", identity, &text);
        }
        drop(entries);
        self.mark_changed(cell);
    }

    /// Says something of a backend that changes nothing in its state, until that changes.
    pub(crate) fn remark(&self, cell: BackendCell, is_trouble: bool, words: &str) {
        let mut entries = self.entries.borrow_mut();
        let Some(entry) = entries.get_mut(&cell) else {
            return;
        };
        let report = &mut entry.report;
        shorten(words, REASON_BYTES_MAX).clone_into(&mut report.reason);
        match is_trouble {
            true => tracing::warn!("backend {}: {words}", report.identity),
            false => tracing::info!("backend {}: {words}", report.identity),
        }
        self.news.event("health", &report.identity, words);
        drop(entries);
        self.mark_changed(cell);
    }

    /// What is to be seen by everybody at once, in this order: the verdict, the gate that follows from it, the doorbells.
    fn store(&self, cell: BackendCell, verdict: Verdict) {
        let cells = self.board.backend(cell);
        cells.set_verdict(verdict);
        self.gates.look(cell);
        if verdict.state == HealthState::Down && self.gates.resets_on_down(cell) {
            self.bells.ring();
        }
        cells.count_transition();
    }

    /// The state that the backend's cell says.
    pub(crate) fn state(&self, cell: BackendCell) -> HealthState {
        self.board.backend(cell).verdict().state
    }

    /// Forgets every backend that is not in `kept`.
    pub(crate) fn retain(&self, kept: &HashSet<BackendCell>) {
        let is_kept = |cell: &BackendCell| kept.contains(cell);
        self.entries.borrow_mut().retain(|cell, _| is_kept(cell));
        self.changed.borrow_mut().retain(is_kept);
        self.answered.borrow_mut().retain(is_kept);
    }

    /// Tells the supervisor of changes of state.
    pub(crate) fn tell_changes(&self) {
        self.tell(&self.changed);
    }

    /// Tells the supervisor of everything that it has not been told.
    pub(crate) fn tell_all(&self) {
        self.tell(&self.changed);
        self.tell(&self.answered);
    }

    fn tell(&self, cells: &RefCell<BTreeSet<BackendCell>>) {
        if !self.news.is_heard() {
            return;
        }
        let cells = std::mem::take(&mut *cells.borrow_mut());
        let entries = self.entries.borrow();
        let reports: Vec<_> = cells
            .iter()
            .filter_map(|cell| entries.get(cell))
            .map(|entry| entry.report.clone())
            .collect();
        for reports in reports.chunks(REPORTS_MAX) {
            self.news.send(FromChild::Verdicts {
                reports: reports.to_vec(),
            });
        }
    }

    /// A backend that is not asked by an agent check any more has all of its weight, and no limit but the plan's.
    pub(crate) fn forget_agent(&self, backend: &Backend) {
        let check = backend.check.as_ref().map(|check| &check.kind);
        if !matches!(check, Some(CheckKind::Agent { .. })) {
            self.set_percent(backend.cell, backend.service_cell, None);
            self.set_limit(backend.cell, None);
        }
    }

    fn set_percent(&self, backend: BackendCell, service: ServiceCell, percent: Option<u16>) {
        let cells = self.board.backend(backend);
        if cells.agent_percent() != percent {
            cells.set_agent_percent(percent);
            self.board.service(service).raise_epoch();
        }
    }

    /// Those who wait because the backend is full look again: it may take more than before.
    fn set_limit(&self, backend: BackendCell, limit: Option<u32>) {
        let cells = self.board.backend(backend);
        if cells.agent_limit() != limit {
            cells.set_agent_limit(limit);
            self.bells.ring();
        }
    }

    fn insert(&self, backend: &Backend, report: Report) {
        let cell = backend.cell;
        let entry = Entry {
            report,
            service: backend.service_cell,
            inconclusive: false,
        };
        self.entries.borrow_mut().insert(cell, entry);
    }

    fn mark_changed(&self, cell: BackendCell) {
        self.changed.borrow_mut().insert(cell);
        self.news.changed();
    }

    fn checked(&self, checked: Checked<'_>) {
        let cells = self.board.backend(checked.backend);
        let outcome = checked.outcome;
        if outcome.observation != Observation::Inconclusive {
            let passed = outcome.observation == Observation::Passed;
            cells.count_check(passed, micros(outcome));
        }
        let mut entries = self.entries.borrow_mut();
        let Some(entry) = entries.get_mut(&checked.backend) else {
            debug_assert!(false, "{} is checked and was never met", checked.identity);
            return;
        };
        let inconclusive = outcome.observation == Observation::Inconclusive;
        // Without an address there was no check: the look-ups say why.
        if inconclusive && !entry.inconclusive && checked.next_ms.is_some() {
            tracing::warn!(
                "a check of backend {} says nothing: {}",
                checked.identity,
                outcome.answer
            );
        }
        entry.inconclusive = inconclusive;
        // It stays until the agent says another, as in HAProxy.
        if let Some(percent) = outcome.weight_percent {
            self.set_percent(checked.backend, entry.service, Some(percent));
        }
        match outcome.observation {
            // Said in each of the agent's lines, or no limit any more. 0 = none, as in HAProxy.
            Observation::Passed | Observation::Drain | Observation::Maint => {
                self.set_limit(checked.backend, outcome.maxconn.filter(|limit| *limit > 0));
            }
            Observation::Failed | Observation::Inconclusive => {}
        }
        let report = &mut entry.report;
        shorten(&outcome.answer, ANSWER_BYTES_MAX).clone_into(&mut report.answer);
        report.next_ms = checked.next_ms.map_or(0, unix_ms_of);
        // Otherwise there was nobody to ask.
        if checked.next_ms.is_some() {
            report.duration_us = micros(outcome);
            report.checked_unix = unix_seconds();
        }
        self.answered.borrow_mut().insert(checked.backend);
        if let Some(transition) = checked.transition {
            let state = state_of(transition.to);
            // The cell may say so already: the check asks elsewhere than before and found the same.
            if cells.verdict().state != state {
                let since_ms = checked.state.since_ms;
                self.store(checked.backend, Verdict { state, since_ms });
                report.since_unix = unix_of(since_ms);
                state.as_str().clone_into(&mut report.state);
                let text = announce(checked.identity, transition, outcome);
                self.news.event("health", checked.identity, &text);
            }
            report.reason = transition.reason.to_string();
            drop(entries);
            self.mark_changed(checked.backend);
        }
    }
}

/// [`Verdicts`] as the place where the checker's results go.
#[derive(Debug)]
pub(crate) struct Told(pub(crate) Rc<Verdicts>);

impl Sink for Told {
    fn checked(&self, checked: Checked<'_>) {
        self.0.checked(checked);
    }

    fn now_ms(&self) -> u64 {
        monotonic_ms()
    }
}

/// One line a change. Returns what it says of the backend.
fn announce(identity: &str, transition: Transition, outcome: &Outcome) -> String {
    let (reason, answer) = (transition.reason, &outcome.answer);
    let millis = outcome.duration.as_secs_f64() * 1e3;
    let state = match transition.to {
        Health::Down => "DOWN",
        Health::Up => "UP",
        Health::Drain => "DRAINING",
        Health::Maint => "IN MAINTENANCE",
        Health::Starting => "not known",
    };
    let text = format!("{state}: {reason}; last: {answer} ({millis:.1} ms)");
    match transition.to {
        Health::Down => tracing::warn!("backend {identity} is {text}"),
        Health::Up | Health::Drain | Health::Maint | Health::Starting => {
            tracing::info!("backend {identity} is {text}");
        }
    }
    text
}

fn state_of(health: Health) -> HealthState {
    match health {
        Health::Starting => HealthState::Starting,
        Health::Up => HealthState::Up,
        Health::Down => HealthState::Down,
        Health::Drain => HealthState::Drain,
        Health::Maint => HealthState::Maint,
    }
}

/// What a report says, if a check said so.
fn state_of_report(report: &Report) -> Option<State> {
    let health = [Health::Up, Health::Down, Health::Drain, Health::Maint]
        .into_iter()
        .find(|health| state_of(*health).as_str() == report.state)?;
    let age_ms = unix_seconds()
        .saturating_sub(report.since_unix)
        .saturating_mul(1_000);
    Some(State::new(health, monotonic_ms().saturating_sub(age_ms)))
}

/// A report without an answer.
fn report(backend: &Backend, state: HealthState, since_ms: u64, reason: &str) -> Report {
    Report {
        backend: backend.cell,
        identity: backend.identity.clone(),
        state: state.as_str().to_owned(),
        since_unix: unix_of(since_ms),
        reason: reason.to_owned(),
        answer: String::new(),
        duration_us: 0,
        checked_unix: 0,
        next_ms: 0,
    }
}

fn micros(outcome: &Outcome) -> u64 {
    u64::try_from(outcome.duration.as_micros()).unwrap_or(u64::MAX)
}
