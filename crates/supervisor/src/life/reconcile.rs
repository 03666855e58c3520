//! Compares what is with what should be, and emits what is missing.

use std::time::Duration;

use evenkeel_plan::SlotIdx;

use super::event::{Action, Who};
use super::state::{
    ADOPT_AFTER, ChildPhase, DRAIN_SLACK, Phase, READY_DEADLINE, Slot, SlotPhase, State, indexed,
};

/// The monitor has only lines to write out.
const MONITOR_DRAIN: Duration = Duration::from_secs(1);

impl State {
    pub(super) fn reconcile(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.current == 0 {
            return;
        }
        self.overdue(now, actions);
        if let Phase::Delaying { until } = self.phase
            && now >= until
        {
            self.begin_draining(now, actions);
        }
        if matches!(self.phase, Phase::Draining | Phase::Ended) {
            self.drained(now, actions);
            return;
        }
        self.reconcile_reload(now, actions);
        self.reconcile_slots(now, actions);
        self.spawn(now, actions);
        self.catch_up(now, actions);
        self.steer(actions);
        self.adopt(ADOPT_AFTER, now, actions);
        self.report_ready(now, actions);
    }

    /// Children that were told to finish and have not in time.
    fn overdue(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let overdue: Vec<Who> = self
            .children()
            .filter(|(_, child)| {
                matches!(child.phase, ChildPhase::Draining { until } if now >= until)
                    && !child.killed
            })
            .map(|(who, _)| who)
            .collect();
        for who in overdue {
            self.kill(who, "it did not end by its deadline", actions);
        }
    }

    fn begin_draining(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let deadline = self.settings.drain_deadline;
        self.phase = Phase::Draining;
        // Whoever waits in a slot whose worker is just being replaced is still accepted.
        self.adopt(Duration::ZERO, now, actions);
        // The supervisor's copies first: then the last close of each socket is its worker's, right after it found the queue empty.
        actions.push(Action::CloseAll);
        for index in 0..self.slots.len() {
            let who = Who::Worker(slot_index(index));
            self.drain_child(who, deadline, now, actions);
        }
    }

    fn drain_child(
        &mut self,
        who: Who,
        deadline: Duration,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        let Some(child) = self.child_mut(who) else {
            return;
        };
        match child.phase {
            ChildPhase::Live { .. } | ChildPhase::Late { .. } => {
                child.phase = ChildPhase::Draining {
                    until: now + deadline + DRAIN_SLACK,
                };
                child.preparing = None;
                child.prepared = false;
                child.committing = None;
                actions.push(Action::Drain { who, deadline });
            }
            ChildPhase::Started { .. } => {
                child.phase = ChildPhase::Draining { until: now };
                self.kill(who, "it is not wanted any more", actions);
            }
            ChildPhase::Absent { .. } | ChildPhase::Draining { .. } => {}
        }
    }

    fn drained(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.phase == Phase::Ended || self.slots.iter().any(|slot| slot.child.runs()) {
            return;
        }
        if self.monitor.runs() {
            self.drain_child(Who::Monitor, MONITOR_DRAIN, now, actions);
        } else {
            self.phase = Phase::Ended;
            actions.push(Action::Exit);
        }
    }

    /// Slots with sockets are always the first n, since a socket's index in its group is its slot's number: they are
    /// opened lowest first and closed highest first.
    fn reconcile_slots(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let wanted = usize::from(self.settings.workers);
        if self.slots.len() < wanted {
            self.slots.resize(wanted, Slot::new());
        }
        // Those that are not wanted serve on until one that is wanted does: clients would have nobody to be steered to.
        let relieved = self.slots[..wanted].iter().any(accepts);
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let stays = index < wanted || !relieved;
            match slot.phase {
                SlotPhase::Open if !stays => {
                    slot.phase = SlotPhase::Retiring { since: now };
                }
                SlotPhase::Retiring { .. } if stays => slot.phase = SlotPhase::Open,
                _ => {}
            }
        }
        if let Some(last) = self.last_with_sockets() {
            self.retire(last, actions);
        }
        let deadline = self.settings.drain_deadline;
        for index in 0..self.slots.len() {
            if self.slots[index].phase == SlotPhase::Closed {
                self.drain_child(Who::Worker(slot_index(index)), deadline, now, actions);
            }
        }
        let closing = |slot: &Slot| slot.phase == SlotPhase::Closing;
        if self.slots.iter().any(closing) {
            return;
        }
        for index in 0..wanted {
            if self.slots[index].phase == SlotPhase::Closed {
                self.slots[index].phase = SlotPhase::Open;
                self.slots[index].unserved_since = Some(now);
                let slot = slot_index(index);
                actions.push(Action::Open { slot });
            }
        }
    }

    fn last_with_sockets(&self) -> Option<usize> {
        self.slots
            .iter()
            .rposition(|slot| slot.phase != SlotPhase::Closed)
    }

    /// Steered away, then a grace for handshakes on their way, then an empty queue, then let go, then closed.
    fn retire(&mut self, index: usize, actions: &mut Vec<Action>) {
        let position = slot_index(index);
        let handshakes = self.settings.handshakes;
        let waited = self.waiting.contains(&position);
        let slot = &mut self.slots[index];
        if let SlotPhase::Retiring { since } = slot.phase {
            // As of the last tick, which looked into its queue: one before it retired did not.
            let quiet = self.ticked > since && self.ticked - since >= handshakes && !waited;
            let served = slot.own || slot.adopted_by.is_some();
            if quiet && served {
                slot.phase = SlotPhase::Closing;
                if slot.own && !slot.own_disowning {
                    slot.own_disowning = true;
                    actions.push(Action::Disown {
                        slot: position,
                        by: position,
                    });
                }
                if let Some(by) = slot.adopted_by.take() {
                    slot.disowning.push(by);
                    actions.push(Action::Disown { slot: position, by });
                }
            }
        }
        let slot = &mut self.slots[index];
        if slot.phase == SlotPhase::Closing && !slot.own && slot.disowning.is_empty() {
            slot.phase = SlotPhase::Closed;
            slot.unserved_since = None;
            actions.push(Action::Close { slot: position });
        }
    }

    fn spawn(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let due = |phase| matches!(phase, ChildPhase::Absent { not_before } if now >= not_before);
        let mut spawn = |who, child: &mut super::state::Child| {
            child.incarnation += 1;
            child.phase = ChildPhase::Started { since: now };
            actions.push(Action::Spawn {
                who,
                incarnation: child.incarnation,
            });
        };
        if due(self.monitor.phase) {
            spawn(Who::Monitor, &mut self.monitor);
        }
        let wanted = usize::from(self.settings.workers);
        for (index, slot) in self.slots.iter_mut().enumerate().take(wanted) {
            if slot.phase == SlotPhase::Open && due(slot.child.phase) {
                spawn(Who::Worker(slot_index(index)), &mut slot.child);
                slot.own = true;
                slot.own_disowning = false;
            }
        }
    }

    /// Children that do not have the plan in force: the new ones, and those that missed a switch.
    fn catch_up(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let current = self.current;
        let coming = self.reload_generation();
        let behind: Vec<Who> = self
            .children()
            .filter(|(_, child)| {
                matches!(child.phase, ChildPhase::Started { .. })
                    || (child.serves() && (child.at != current || child.preparing.is_some()))
            })
            .filter(|(_, child)| child.committing.is_none() && !child.killed)
            .map(|(who, _)| who)
            .filter(|&who| !self.is_closing(who))
            .collect();
        for who in behind {
            let Some(child) = self.child_mut(who) else {
                continue;
            };
            match child.preparing {
                Some(generation) if generation == current => {
                    if child.prepared {
                        child.commit(generation, now);
                        actions.push(Action::Commit { who, generation });
                    }
                }
                Some(generation) if Some(generation) == coming => {}
                stale => {
                    if let Some(generation) = stale {
                        actions.push(Action::Abort { who, generation });
                    }
                    child.preparing = None;
                    child.prepared = false;
                    if child.at != current {
                        child.prepare(current, now);
                        actions.push(Action::Prepare {
                            who,
                            generation: current,
                        });
                    }
                }
            }
        }
    }

    /// A worker that is letting go of its sockets has no use for a plan with new ones; it is told to finish next.
    pub(super) fn is_closing(&self, who: Who) -> bool {
        match who {
            Who::Monitor => false,
            Who::Worker(slot) => self.slots[usize::from(slot.0)].phase == SlotPhase::Closing,
        }
    }

    /// To those that beat; where none does, to those that at least have been ready; else to all that are wanted.
    fn steer(&mut self, actions: &mut Vec<Action>) {
        let workers = self.settings.workers;
        let open = |suits: &dyn Fn(SlotIdx, &Slot) -> bool| -> Vec<SlotIdx> {
            indexed(&self.slots)
                .filter(|&(index, slot)| slot.phase == SlotPhase::Open && suits(index, slot))
                .map(|(index, _)| index)
                .collect()
        };
        let choices = [
            open(&|_, slot| accepts(slot)),
            open(&|_, slot| slot.child.serves() && slot.own),
            open(&|index, _| index.0 < workers),
        ];
        let live = choices.into_iter().find(|choice| !choice.is_empty());
        if let Some(live) = live
            && live != self.steered
        {
            self.steered.clone_from(&live);
            actions.push(Action::Steer { live });
        }
    }

    /// A slot whose own worker does not accept for as long as `after` has a neighbour accept its queue.
    fn adopt(&mut self, after: Duration, now: Duration, actions: &mut Vec<Action>) {
        for index in 0..self.slots.len() {
            let position = slot_index(index);
            let slot = &self.slots[index];
            let has_sockets = matches!(slot.phase, SlotPhase::Open | SlotPhase::Retiring { .. });
            if !has_sockets {
                continue;
            }
            let served = accepts(slot);
            let adopter_accepts = slot
                .adopted_by
                .is_none_or(|by| self.slots[usize::from(by.0)].child.is_live());
            let late = matches!(slot.child.phase, ChildPhase::Late { .. });
            let slot = &mut self.slots[index];
            if (served || !adopter_accepts)
                && let Some(by) = slot.adopted_by.take()
            {
                slot.disowning.push(by);
                actions.push(Action::Disown { slot: position, by });
            }
            if served {
                slot.unserved_since = None;
                continue;
            }
            let since = *slot.unserved_since.get_or_insert(now);
            let due = late || now.saturating_sub(since) >= after;
            if due
                && slot.adopted_by.is_none()
                && let Some(by) = self.adopter_for(position)
            {
                self.slots[index].adopted_by = Some(by);
                actions.push(Action::Adopt { slot: position, by });
            }
        }
    }

    /// The live slot with the fewest slots to accept for already; one that has not still to let go of this one.
    fn adopter_for(&self, orphan: SlotIdx) -> Option<SlotIdx> {
        let load = |by: SlotIdx| {
            let adopted = self.slots.iter().filter(|slot| slot.adopted_by == Some(by));
            adopted.count()
        };
        let letting_go = &self.slots[usize::from(orphan.0)].disowning;
        indexed(&self.slots)
            .filter(|(by, slot)| {
                *by != orphan
                    && slot.phase == SlotPhase::Open
                    && slot.own
                    && slot.child.is_live()
                    && !letting_go.contains(by)
            })
            .map(|(by, _)| by)
            .min_by_key(|&by| load(by))
    }

    fn report_ready(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.phase != Phase::Starting {
            return;
        }
        let current = self.current;
        let up = |slot: &Slot| slot.child.is_live() && slot.child.at == current;
        let wanted = usize::from(self.settings.workers);
        let all = self.slots.iter().take(wanted).all(up) && self.monitor.is_live();
        let late = now.saturating_sub(self.began) >= READY_DEADLINE;
        if all || (late && self.slots.iter().any(up)) {
            self.phase = Phase::Running;
            self.ready = true;
            actions.push(Action::Ready { ready: true });
        }
    }

    pub(super) fn kill(&mut self, who: Who, reason: &'static str, actions: &mut Vec<Action>) {
        if let Some(child) = self.child_mut(who)
            && child.runs()
            && !child.killed
        {
            child.killed = true;
            actions.push(Action::Kill { who, reason });
        }
    }
}

/// Whether its own worker accepts from its sockets.
fn accepts(slot: &Slot) -> bool {
    slot.child.is_live() && slot.own
}

fn slot_index(index: usize) -> SlotIdx {
    SlotIdx(u16::try_from(index).unwrap_or(u16::MAX))
}
