//! What becomes of a check's result: the verdict cell first, then a log line, then words for the supervisor.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::rc::Rc;

use evenkeel_control::Outbox;
use evenkeel_control::child::{FromChild, Report};
use evenkeel_health::{Checked, Health, Observation, Outcome, Sink, State, Transition};
use evenkeel_plan::BackendCell;
use evenkeel_scoreboard::{GlobalCount, HealthState, Scoreboard, Verdict};
use evenkeel_sys::clock::{monotonic_ms, unix_seconds};
use evenkeel_sys::packet;
use tokio::sync::Notify;

use crate::plans::Backend;

/// Most reports in one message.
const REPORTS_MAX: usize = 64;

/// Longest answer that is passed on, in bytes.
const ANSWER_BYTES_MAX: usize = 256;

/// A report: identity, answer, state and reason of ours, numbers.
const REPORT_BYTES_MAX: usize =
    2 * (evenkeel_plan::NAME_BYTES_MAX + 1) + ANSWER_BYTES_MAX + 256 + 64;

const _: () = assert!(REPORTS_MAX * REPORT_BYTES_MAX < packet::MESSAGE_BYTES_MAX);

/// A supervisor that has not had a turn for this long is sent nothing, since nothing may pile up on the way to it.
const SUPERVISOR_LATE_MS: u64 = 5_000;

/// Verdicts and the words about them.
#[derive(Debug)]
pub(crate) struct Verdicts {
    board: Scoreboard,
    outbox: Outbox,
    entries: RefCell<HashMap<BackendCell, Entry>>,
    /// Changes of state that the supervisor has not been told.
    changed: RefCell<BTreeSet<BackendCell>>,
    /// Answers that the supervisor has not been told.
    answered: RefCell<BTreeSet<BackendCell>>,
    change: Notify,
}

#[derive(Debug)]
struct Entry {
    report: Report,
    /// The last check said nothing of the backend.
    inconclusive: bool,
}

impl Verdicts {
    pub(crate) fn new(board: Scoreboard, outbox: Outbox) -> Self {
        Self {
            board,
            outbox,
            entries: RefCell::default(),
            changed: RefCell::default(),
            answered: RefCell::default(),
            change: Notify::new(),
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
                Health::Up | Health::Down => "found so when the monitor started",
            };
            report(backend, state, known.since_ms, reason)
        });
        self.insert(report);
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
        self.insert(report(backend, state, since_ms, "it has no checks"));
        self.mark_changed(backend.cell);
        State::new(Health::Starting, since_ms)
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

    /// Waits for a change of state since the last call.
    ///
    /// # Cancel safety
    /// No change is lost when the future is dropped.
    pub(crate) async fn changed(&self) {
        self.change.notified().await;
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
        let beat = self.board.get(GlobalCount::SupervisorBeat);
        if beat != 0 && monotonic_ms().saturating_sub(beat) > SUPERVISOR_LATE_MS {
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
            self.outbox.send(FromChild::Verdicts {
                reports: reports.to_vec(),
            });
        }
    }

    fn insert(&self, report: Report) {
        let cell = report.backend;
        let entry = Entry {
            report,
            inconclusive: false,
        };
        self.entries.borrow_mut().insert(cell, entry);
    }

    fn mark_changed(&self, cell: BackendCell) {
        self.changed.borrow_mut().insert(cell);
        self.change.notify_one();
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
        if inconclusive && !entry.inconclusive {
            tracing::warn!(
                "a check of backend {} says nothing: {}",
                checked.identity,
                outcome.answer
            );
        }
        entry.inconclusive = inconclusive;
        let report = &mut entry.report;
        shorten(&outcome.answer).clone_into(&mut report.answer);
        report.duration_us = micros(outcome);
        report.checked_unix = unix_seconds();
        self.answered.borrow_mut().insert(checked.backend);
        if let Some(transition) = checked.transition {
            let state = state_of(transition.to);
            // The cell may say so already: the check asks elsewhere than before and found the same.
            if cells.verdict().state != state {
                let since_ms = checked.state.since_ms;
                cells.set_verdict(Verdict { state, since_ms });
                cells.count_transition();
                report.since_unix = unix_of(since_ms);
                state.as_str().clone_into(&mut report.state);
                announce(checked.identity, transition, outcome);
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

/// One line a change.
fn announce(identity: &str, transition: Transition, outcome: &Outcome) {
    let (reason, answer) = (transition.reason, &outcome.answer);
    let millis = outcome.duration.as_secs_f64() * 1e3;
    match transition.to {
        Health::Down => {
            tracing::warn!("backend {identity} is DOWN: {reason}; last: {answer} ({millis:.1} ms)")
        }
        Health::Up => {
            tracing::info!("backend {identity} is UP: {reason}; last: {answer} ({millis:.1} ms)")
        }
        Health::Starting => {}
    }
}

fn state_of(health: Health) -> HealthState {
    match health {
        Health::Starting => HealthState::Starting,
        Health::Up => HealthState::Up,
        Health::Down => HealthState::Down,
    }
}

/// What a report says, if it is `up` or `down`.
fn state_of_report(report: &Report) -> Option<State> {
    let health = [Health::Up, Health::Down]
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
    }
}

fn unix_of(since_ms: u64) -> u64 {
    let age_ms = monotonic_ms().saturating_sub(since_ms);
    unix_seconds().saturating_sub(age_ms / 1_000)
}

fn micros(outcome: &Outcome) -> u64 {
    u64::try_from(outcome.duration.as_micros()).unwrap_or(u64::MAX)
}

fn shorten(answer: &str) -> &str {
    let mut end = answer.len().min(ANSWER_BYTES_MAX);
    while !answer.is_char_boundary(end) {
        end -= 1;
    }
    &answer[..end]
}
