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

use std::net::SocketAddr;
use std::rc::Rc;

use evenkeel_balance::{Candidates, State, rr, wrr};
use evenkeel_plan::{BackendCell, Scheduler};
use evenkeel_scoreboard::{AdminState, HealthState};

use crate::handle::BackendHandle;
use crate::plan::Service;
use crate::worker::Worker;

/// Most backends that one connection tries; the configuration allows no more.
pub(crate) const ATTEMPTS_MAX: usize = 16;

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

    fn contains(&self, cell: BackendCell) -> bool {
        self.cells[..self.count].contains(&Some(cell))
    }
}

/// A picked backend.
#[derive(Debug)]
pub(crate) struct Picked {
    pub(crate) handle: Rc<BackendHandle>,
    pub(crate) address: SocketAddr,
}

/// The next backend of `service` that is not in `tried`; `None` when none may be used. `service` becomes what the plan in
/// force says of it.
pub(crate) fn pick(worker: &Worker, service: &mut Rc<Service>, tried: &Tried) -> Option<Picked> {
    let index = loop {
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
                let (index, next) = step(service, service.aside.get(), tried)?;
                service.aside.set(next);
                break index;
            }
            state = State::initial(tag);
        }
        let (index, next) = step(service, state, tried)?;
        if cell.swap(seen, next.to_bits()).is_ok() {
            break index;
        }
    };
    let backend = &service.backends[index];
    Some(Picked {
        handle: Rc::clone(&backend.handle),
        address: backend.address,
    })
}

/// Whether generation tag `a` comes after `b`; tags wrap.
fn is_newer(a: u16, b: u16) -> bool {
    (1..1 << 15).contains(&a.wrapping_sub(b))
}

/// Those that are known to be up come first; those of which nothing is known yet are used only when nothing else can be.
fn step(service: &Service, state: State, tried: &Tried) -> Option<(usize, State)> {
    let step = |is_known_up| {
        let eligible = Eligible {
            service,
            tried,
            is_known_up,
        };
        match service.record().spec.scheduler {
            Scheduler::Rr => rr::step(&eligible, state),
            Scheduler::Wrr => wrr::step(&eligible, service.summary, state),
        }
    };
    step(true).or_else(|| step(false))
}

struct Eligible<'a> {
    service: &'a Service,
    tried: &'a Tried,
    is_known_up: bool,
}

impl Candidates for Eligible<'_> {
    fn len(&self) -> usize {
        self.service.backends.len()
    }

    fn weight(&self, index: usize) -> u32 {
        let backend = &self.service.backends[index];
        let admin = backend.cells.admin();
        u32::from(admin.weight.unwrap_or(backend.weight))
    }

    fn eligible(&self, index: usize) -> bool {
        let backend = &self.service.backends[index];
        let is_usable = match backend.cells.verdict().state {
            HealthState::Up | HealthState::Unchecked => self.is_known_up,
            HealthState::Starting => !self.is_known_up,
            HealthState::Down => false,
        };
        let is_enabled = match backend.cells.admin().state {
            AdminState::Enabled => true,
            AdminState::Drain | AdminState::Disabled => false,
        };
        is_usable && is_enabled && !self.tried.contains(backend.handle.cell())
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
