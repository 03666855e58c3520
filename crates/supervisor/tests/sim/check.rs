//! What must hold after each step, and what must be true again some time after the last fault.

use std::collections::BTreeSet;

use evenkeel_plan::SlotIdx;
use evenkeel_supervisor::life::{ChildPhase, Phase, SlotPhase, Who};

use crate::world::{GRACE, Ms, Stall, World};

/// A lateness of the supervisor, its grace, and two holders that hang one after the other.
const LONGEST_WAIT: Ms = 4_000 + GRACE + 2 * 1_500;

impl World {
    pub(crate) fn check(&self) {
        if self.exited || self.closed_all {
            return;
        }
        assert_eq!(self.state.current, self.current);
        assert!(self.unsettled.is_empty(), "a worker's row was not settled");
        // A socket's index in its group is its slot's number: no holes.
        let has_sockets: Vec<bool> = self
            .state
            .slots
            .iter()
            .map(|slot| slot.phase != SlotPhase::Closed)
            .collect();
        let n = has_sockets.iter().filter(|has| **has).count();
        assert!(has_sockets[..n].iter().all(|has| *has), "a hole");
        if self.failed_open.is_none() {
            assert_eq!(n, self.slots.len(), "the machine and the world disagree");
        }
        for &slot in &self.steered {
            let phase = self.state.slots[usize::from(slot)].phase;
            // The kernel would hash to a socket that goes away.
            let opened_in_vain = self.failed_open.is_some_and(|failed| slot >= failed);
            assert!(
                phase == SlotPhase::Open || opened_in_vain,
                "slot {slot} is {phase:?} and clients are sent to it"
            );
        }
        // Whenever somebody accepts, clients go only to those who do, and to all of them.
        let healthy: Vec<u16> = (0..self.open())
            .filter(|&slot| self.is_healthy(slot))
            .collect();
        if !healthy.is_empty() {
            for slot in &self.steered {
                assert!(
                    healthy.contains(slot),
                    "clients are sent to slot {slot}, and only {healthy:?} accept"
                );
            }
            for slot in &healthy {
                let open = self.state.slots[usize::from(*slot)].phase == SlotPhase::Open;
                assert!(!open || self.steered.contains(slot), "slot {slot} idles");
            }
        }
        for (slot, sockets) in self.slots.iter().enumerate() {
            let Some(by) = sockets.adopter else { continue };
            let process = &self.processes[&Who::Worker(SlotIdx(by))];
            // One that does not accept for itself does not accept for others.
            assert!(
                !process.known_late && !process.killed && !process.draining,
                "worker {by} cannot accept for slot {slot}"
            );
        }
        self.check_waits();
        for (who, child) in self.state.children() {
            let runs = !matches!(child.phase, ChildPhase::Absent { .. });
            // SpawnFailed is taken in right after the actions that it answers to.
            assert!(runs || !self.processes.contains_key(&who));
        }
    }

    /// While one worker is well, nobody waits for long: not behind hung, dead or starting ones, nor behind their adopters.
    pub(crate) fn check_waits(&self) {
        let now = self.unpaused();
        let well = self.processes.iter().any(|(who, process)| {
            matches!(who, Who::Worker(slot) if self.is_healthy(slot.0))
                && process.stall == Stall::None
                && now - process.well_since > LONGEST_WAIT
        });
        for (index, sockets) in self.slots.iter().enumerate() {
            let Some(oldest) = sockets.queue.first() else {
                continue;
            };
            let waits = now - oldest.arrived;
            let alone = self.absences - oldest.absences;
            assert!(
                !well || waits <= LONGEST_WAIT + alone,
                "a client has waited {waits} ms in slot {index}"
            );
        }
    }

    /// What must be true some time after the last fault, whatever happened before.
    pub(crate) fn check_settled(&self) {
        assert_eq!(self.state.phase, Phase::Running);
        assert!(self.ready);
        let wanted = usize::from(self.state.settings.workers);
        assert_eq!(self.slots.len(), wanted, "slots that have sockets");
        let all: BTreeSet<Who> = self.processes.keys().copied().collect();
        let workers = (0..self.state.settings.workers).map(|slot| Who::Worker(SlotIdx(slot)));
        let expected: BTreeSet<Who> = workers.chain([Who::Monitor]).collect();
        assert_eq!(all, expected, "processes that run");
        for (who, process) in &self.processes {
            assert_eq!(process.stall, Stall::None, "{who}");
            assert_eq!(process.at, self.current, "{who} has an old plan");
            assert!(!process.killed && !process.draining && !process.known_late);
            if let Who::Worker(slot) = who {
                let own = BTreeSet::from([slot.0]);
                assert_eq!(process.holds, own, "{who} accepts from these");
            }
        }
        for sockets in &self.slots {
            assert_eq!(sockets.adopter, None);
            assert!(sockets.letting_go.is_empty());
            let oldest = sockets.queue.first().copied();
            let waits = oldest.map_or(0, |oldest| self.unpaused() - oldest.arrived);
            assert!(waits < 1_000, "a client waits");
        }
        assert_eq!(usize::from(self.open()), self.steered.len());
        assert!(!self.state.is_reloading());
        assert_eq!(self.names_in_force, self.names_told, "names are forgotten");
        assert!(self.pending_tickets.is_empty(), "tickets without an answer");
    }
}
