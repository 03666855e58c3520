//! Picks a backend: the order of the scheduler, exact over all workers, among those that may be used.
//!
//! The scheduler's state is one word that all workers move by compare-and-swap. Its tag says which generation's list a
//! position refers to:
//!
//! ```text
//! tag = ours          step, swap it in; whoever was faster makes us step again
//! tag is older        the list changed and nobody has carried the state over: begin at the head, for everybody
//! tag is newer        a generation is in force that is not here yet: pick aside, store nothing
//! ```
//!
//! Before a foreign tag is believed, the generation cell is looked at: most often the plan has just been switched.
//!
//! The gate is read first, at every pick. Who may be picked goes by tiers; the next one is asked when nobody of the one
//! before can be picked:
//!
//! ```text
//! open     up, then starting (`unchecked` says: after the others, with them, or never), then the same of the backups
//! panic    every enabled one, then every enabled backup
//! closed   nobody
//! ```
//!
//! A backend that is full is passed over. Where all of a tier are, the next one is not asked: the connection waits (`queue.rs`).
//! Whether there was room is decided by the gauge, which is raised first and summed over all workers then.

use std::net::IpAddr;
use std::rc::Rc;

use evenkeel_balance::{Candidates, Loads, State, lc, rr, source, wlc, wrr};
use evenkeel_plan::{BackendCell, Scheduler, Unchecked};
use evenkeel_scoreboard::{AdminState, BackendCount, GateState, GlobalCount, HealthState, Verdict};
use evenkeel_sys::clock;

use crate::connections::since;
use crate::handle::Held;
use crate::mix::mix;
use crate::plan::Service;
use crate::worker::Worker;

/// Most backends that one connection tries; the configuration allows no more.
pub(crate) const ATTEMPTS_MAX: usize = 16;

/// News of health is stale when the monitor has not been heard of for this long. One that ends is started again sooner.
const STALE_MS: u64 = 1_000;

/// Share, in thousandths, that a slow start begins with.
const SLOW_START_SHARE: u64 = 100;

/// The whole, in thousandths.
const WHOLE_SHARE: u64 = 1_000;

/// Backends that a connection has tried already. By cell, so that it holds over a change of the list.
#[derive(Debug, Default)]
pub(crate) struct Tried {
    cells: [Option<BackendCell>; ATTEMPTS_MAX],
    count: usize,
}

impl Tried {
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn add(&mut self, cell: BackendCell) {
        if let Some(free) = self.cells.get_mut(self.count) {
            *free = Some(cell);
            self.count += 1;
        }
    }

    /// The last one may be tried once more.
    pub(crate) fn forget_last(&mut self) {
        self.count = self.count.saturating_sub(1);
    }

    fn contains(&self, cell: BackendCell) -> bool {
        self.cells[..self.count].contains(&Some(cell))
    }
}

/// Who is picked for.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// Backends that were tried already.
    pub(crate) tried: Tried,
    /// The client's address, for `source-hash`.
    pub(crate) client: IpAddr,
    /// A hash of what is to stay with one backend, whatever the scheduler.
    pub(crate) hash: Option<u64>,
    /// The backend that is to have it if it can be used at all, by [`Backend::stickiness`].
    ///
    /// [`Backend::stickiness`]: crate::plan::Backend::stickiness
    pub(crate) preferred: Option<u64>,
}

impl Wanted {
    pub(crate) fn of(client: IpAddr) -> Self {
        Self {
            tried: Tried::default(),
            client,
            hash: None,
            preferred: None,
        }
    }
}

/// A picked backend.
#[derive(Debug)]
pub(crate) struct Picked {
    /// Counts the connection there from now on.
    pub(crate) held: Option<Held>,
    /// Its cell.
    pub(crate) cell: BackendCell,
    /// Which one of the service.
    pub(crate) index: usize,
    /// The endpoint to begin with.
    pub(crate) turn: usize,
    /// Since when it was down when it was picked nevertheless.
    pub(crate) down_since: Option<u32>,
}

/// Why none was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The service does not serve.
    Closed,
    /// None may be used.
    NoBackend,
    /// Those that may be used have as many connections as they may have.
    Full,
}

/// Times that a backend which was full when it was looked at more closely is passed over for another.
const RACES_MAX: usize = 8;

/// The next backend of `service` that was not tried. `service` becomes what the plan in force says of it.
///
/// # Errors
/// [`Refusal`] when there is none.
pub(crate) fn pick(
    worker: &Worker,
    service: &mut Rc<Service>,
    wanted: &Wanted,
) -> Result<Picked, Refusal> {
    // Whoever lost a race for the last place looks again, and finds that backend full.
    for _ in 0..RACES_MAX {
        let (index, is_panic) = next(worker, service, wanted)?;
        let backend = &service.backends[index];
        let Some(held) = Held::within(&backend.handle, worker.board, backend.limit()) else {
            continue;
        };
        // Only a panic makes one that is down eligible.
        let down_since = is_panic
            .then(|| backend.cells.verdict())
            .filter(|verdict| verdict.state == HealthState::Down)
            .map(|verdict| since(verdict.since_ms));
        return Ok(Picked {
            held: Some(held),
            cell: backend.handle.cell(),
            index,
            turn: backend.next_turn(),
            down_since,
        });
    }
    Err(Refusal::Full)
}

fn next(
    worker: &Worker,
    service: &mut Rc<Service>,
    wanted: &Wanted,
) -> Result<(usize, bool), Refusal> {
    let is_by_state = wanted.hash.is_none()
        && wanted.preferred.is_none()
        && service.record().spec.scheduler != Scheduler::SourceHash;
    let (index, is_panic) = loop {
        let is_panic = match gate(worker, service) {
            GateState::Open => false,
            GateState::Panic => true,
            GateState::Closed => return Err(Refusal::Closed),
        };
        let step = |service: &Service, state| step(worker, service, state, wanted, is_panic);
        if !is_by_state {
            let now = worker.now(service);
            if !Rc::ptr_eq(&now, service) {
                *service = now;
            }
            if let Some(found) = sticky(worker, service, wanted, is_panic) {
                break (found?, is_panic);
            }
            if service.record().spec.scheduler == Scheduler::SourceHash || wanted.hash.is_some() {
                // Has no state.
                let (index, _) = step(service, State::initial(0))?;
                break (index, is_panic);
            }
        }
        let cell = service.scheduler;
        let seen = cell.load();
        let mut state = State::from_bits(seen);
        let tag = service.record().list_tag();
        if state.tag != tag {
            let now = worker.now(service);
            if !Rc::ptr_eq(&now, service) {
                *service = now;
                continue;
            }
            if is_newer(state.tag, tag) {
                let (index, next) = step(service, service.aside.get())?;
                service.aside.set(next);
                break (index, is_panic);
            }
            state = State::initial(tag);
        }
        let (index, next) = step(service, state)?;
        if cell.swap(seen, next.to_bits()).is_ok() {
            break (index, is_panic);
        }
    };
    if service.slow_start_ms > 0 {
        service.picks.set(service.picks.get().wrapping_add(1));
    }
    Ok((index, is_panic))
}

/// The preferred backend, if it can be used: one that is full is waited for. Those that are drained by their check or their agent, and
/// not by an operator, keep who is there already.
fn sticky(
    worker: &Worker,
    service: &Service,
    wanted: &Wanted,
    is_panic: bool,
) -> Option<Result<usize, Refusal>> {
    let preferred = wanted.preferred?;
    let backends = &service.backends;
    let index = backends.iter().position(|b| b.stickiness == preferred)?;
    let eligible = Eligible {
        worker,
        service,
        wanted,
        is_backup: backends[index].is_backup,
        health: match is_panic {
            true => Health::Any,
            false => Health::Sticky,
        },
        ramp: None,
        with_full: true,
    };
    if !eligible.eligible(index) || backends[index].endpoints.is_empty() {
        return None;
    }
    match backends[index].is_full(worker.board) {
        true => Some(Err(Refusal::Full)),
        false => Some(Ok(index)),
    }
}

/// Whether `service` does not serve now.
pub(crate) fn is_closed(worker: &Worker, service: &Service) -> bool {
    gate(worker, service) == GateState::Closed
}

fn gate(worker: &Worker, service: &Service) -> GateState {
    // The clock is read only where somebody asked for it.
    if service.closes_when_stale {
        let beat = worker.board.get(GlobalCount::MonitorBeat);
        if clock::monotonic_ms().saturating_sub(beat) > STALE_MS {
            return GateState::Closed;
        }
    }
    worker.board.service(service.record().cell).gate().state
}

/// Whether generation tag `a` comes after `b`; tags wrap.
fn is_newer(a: u16, b: u16) -> bool {
    (1..1 << 15).contains(&a.wrapping_sub(b))
}

fn step(
    worker: &Worker,
    service: &Service,
    state: State,
    wanted: &Wanted,
    is_panic: bool,
) -> Result<(usize, State), Refusal> {
    let tiers: &[Health] = match (is_panic, service.policy().unchecked) {
        (true, _) => &[Health::Any],
        (false, Unchecked::IfNoneUp) => &[Health::Up, Health::Starting],
        (false, Unchecked::Never) => &[Health::Up],
        (false, Unchecked::Always) => &[Health::UpOrStarting],
    };
    let kinds: &[bool] = match service.has_backups {
        true => &[false, true],
        false => &[false],
    };
    let ramp = (service.slow_start_ms > 0).then(|| Ramp::new(service, state));
    for &is_backup in kinds {
        for &health in tiers {
            let eligible = Eligible {
                worker,
                service,
                wanted,
                is_backup,
                health,
                ramp,
                with_full: false,
            };
            let all = || Eligible {
                ramp: None,
                ..eligible
            };
            let picked = eligible.step(state);
            // Growing shares alone are no reason to pick nobody.
            let picked = picked.or_else(|| ramp.and_then(|_| all().step(state)));
            if let Some(picked) = picked {
                return Ok(picked);
            }
            let with_full = || Eligible {
                with_full: true,
                ..all()
            };
            if service.queue.is_some() && with_full().step(state).is_some() {
                return Err(Refusal::Full);
            }
        }
    }
    Err(Refusal::NoBackend)
}

/// Verdicts of a tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Up,
    Starting,
    UpOrStarting,
    /// For who is there already.
    Sticky,
    Any,
}

impl Health {
    fn admits(self, state: HealthState) -> bool {
        match state {
            _ if self == Self::Any => true,
            HealthState::Up | HealthState::Unchecked => self != Self::Starting,
            HealthState::Starting => self != Self::Up,
            HealthState::Drain => self == Self::Sticky,
            HealthState::Down | HealthState::Maint => false,
        }
    }
}

/// Decides which turns a backend gets whose share still grows. Within a step the answer for a backend is always the same.
///
/// The scheduler's state alone would not do: with few backends it soon comes round, and the same ones would be passed over
/// each time. So the picks of this worker enter as well.
#[derive(Clone, Copy, Debug)]
struct Ramp {
    now_ms: u64,
    whole_ms: u64,
    seed: u64,
}

impl Ramp {
    fn new(service: &Service, state: State) -> Self {
        Self {
            now_ms: clock::monotonic_ms(),
            whole_ms: service.slow_start_ms,
            seed: mix(state.to_bits() ^ mix(service.picks.get())),
        }
    }

    fn admits(&self, index: usize, verdict: Verdict) -> bool {
        let age_ms = self.now_ms.saturating_sub(verdict.since_ms);
        if verdict.state != HealthState::Up || age_ms >= self.whole_ms {
            return true;
        }
        let grown = (WHOLE_SHARE - SLOW_START_SHARE).saturating_mul(age_ms) / self.whole_ms;
        mix(self.seed ^ index as u64) % WHOLE_SHARE < SLOW_START_SHARE + grown
    }
}

#[derive(Clone, Copy)]
struct Eligible<'a> {
    worker: &'a Worker,
    service: &'a Service,
    wanted: &'a Wanted,
    is_backup: bool,
    health: Health,
    ramp: Option<Ramp>,
    /// Whether those that are full are as good as others.
    with_full: bool,
}

impl Eligible<'_> {
    fn step(&self, state: State) -> Option<(usize, State)> {
        let service = self.service;
        if let Some(hash) = self.wanted.hash {
            return self.by_hash(hash).map(|index| (index, state));
        }
        match service.record().spec.scheduler {
            Scheduler::Rr => rr::step(self, state),
            Scheduler::Wrr => wrr::step(self, service.summary(self.worker.board), state),
            Scheduler::Lc => lc::step(self, state),
            Scheduler::Wlc => wlc::step(self, service.summary(self.worker.board), state),
            Scheduler::SourceHash => {
                let index = self.by_hash(source::of_address(self.wanted.client))?;
                Some((index, state))
            }
        }
    }

    fn by_hash(&self, hash: u64) -> Option<usize> {
        let table = self.service.table(self.worker.board);
        let is_usable = |&index: &usize| self.weight(index) > 0 && self.eligible(index);
        table.candidates(hash).find(is_usable)
    }
}

impl Candidates for Eligible<'_> {
    fn len(&self) -> usize {
        self.service.backends.len()
    }

    fn weight(&self, index: usize) -> u32 {
        self.service.backends[index].weight()
    }

    fn eligible(&self, index: usize) -> bool {
        let backend = &self.service.backends[index];
        if backend.is_backup != self.is_backup || backend.endpoints.is_empty() {
            return false;
        }
        let verdict = backend.cells.verdict();
        let is_enabled = match backend.cells.admin().state {
            AdminState::Enabled => true,
            AdminState::Drain | AdminState::Disabled => false,
        };
        is_enabled
            && self.health.admits(verdict.state)
            && self.ramp.is_none_or(|ramp| ramp.admits(index, verdict))
            && !self.wanted.tried.contains(backend.handle.cell())
            && (self.with_full || !backend.is_full(self.worker.board))
    }
}

impl Loads for Eligible<'_> {
    fn active(&self, index: usize) -> u64 {
        let cell = self.service.backends[index].handle.cell();
        self.worker.board.sum_backend(cell, BackendCount::Active)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_ordered_over_their_wrap() {
        assert!(is_newer(2, 1) && !is_newer(1, 2) && !is_newer(1, 1));
        assert!(is_newer(0, u16::MAX) && !is_newer(u16::MAX, 0));
    }

    #[test]
    fn what_was_tried_is_remembered_up_to_the_most_that_may_be() {
        let mut tried = Tried::default();
        for cell in 0..20 {
            tried.add(BackendCell(cell));
        }
        assert_eq!(tried.count(), ATTEMPTS_MAX);
        assert!(tried.contains(BackendCell(15)) && !tried.contains(BackendCell(16)));
    }
}
