//! Carries actions out as `perform.rs` of the supervisor does, each checked first against what the world knows.

use std::collections::{BTreeSet, VecDeque};

use evenkeel_plan::SlotIdx;
use evenkeel_supervisor::life::{Action, Event, Outcome, SlotPhase, State, Ticket, Who};

use crate::world::{Happening, Message, Ms, Process, Reload, Sockets, Stall, World, ms};

impl World {
    pub(crate) fn step(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let quiet = matches!(event, Event::Tick { on_time: true, .. });
            let before = self.state.clone();
            if let Event::SpawnFailed { who, .. } = &event {
                self.processes.remove(who);
            }
            let actions = self.state.step(event.clone(), ms(self.now));
            if !quiet || !actions.is_empty() {
                match &event {
                    Event::Tick { on_time, .. } => self.note(format!("Tick on_time={on_time}")),
                    other => self.note(format!("{other:?}")),
                }
            }
            self.heard(&event);
            self.failed_open = None;
            for action in actions {
                self.note(format!("    {action:?}"));
                assert!(!self.exited, "Exit is the last action");
                self.perform(action, &event, &before, &mut events);
            }
            self.check();
        }
    }

    /// What the supervisor knows from now on.
    pub(crate) fn heard(&mut self, event: &Event) {
        let unpaused = self.unpaused();
        match event {
            Event::Exited { who, .. } | Event::SpawnFailed { who, .. } => {
                let Who::Worker(slot) = *who else { return };
                self.unsettled.insert(slot.0);
                for sockets in &mut self.slots {
                    sockets.letting_go.remove(&slot.0);
                    if sockets.adopter == Some(slot.0) {
                        sockets.adopter = None;
                    }
                }
            }
            Event::Prepared {
                who, generation, ..
            } => {
                let process = self.processes.get_mut(who).unwrap();
                process.answered |= process.asked == Some(*generation);
            }
            Event::Refused {
                who, generation, ..
            } => {
                let process = self.processes.get_mut(who).unwrap();
                if process.asked == Some(*generation) {
                    process.asked = None;
                }
            }
            Event::Applied {
                who, generation, ..
            } => {
                let process = self.processes.get_mut(who).unwrap();
                if process.committed == Some(*generation) {
                    process.committed = None;
                }
                if !process.ready && *generation == self.current {
                    // Ready = has the plan in force. It was not judged by its heartbeat before.
                    process.ready = true;
                    process.well_since = unpaused;
                    process.known_late = false;
                }
                process.applied = *generation;
            }
            Event::Disowned { by, slot, .. } => {
                if by == slot {
                    self.processes.get_mut(&Who::Worker(*by)).unwrap().own = false;
                } else if let Some(sockets) = self.slots.get_mut(usize::from(slot.0)) {
                    sockets.letting_go.remove(&by.0);
                }
            }
            _ => {}
        }
    }

    /// Ready, beats as far as the supervisor knows, and was not told to end.
    pub(crate) fn is_healthy(&self, slot: u16) -> bool {
        self.processes
            .get(&Who::Worker(SlotIdx(slot)))
            .is_some_and(|process| {
                process.ready
                    && process.own
                    && !process.own_disowned
                    && !process.killed
                    && !process.draining
                    && !process.known_late
            })
    }

    pub(crate) fn perform(
        &mut self,
        action: Action,
        event: &Event,
        before: &State,
        events: &mut VecDeque<Event>,
    ) {
        match action {
            Action::Spawn { who, incarnation } => self.spawn(who, incarnation, events),
            Action::Kill { who, reason } => self.kill(who, reason, event),
            Action::Settle { slot, .. } => {
                assert!(self.unsettled.remove(&slot.0), "settled twice, or alive");
            }
            Action::Prepare { who, generation } => {
                let coming = self.reload.as_ref().and_then(|reload| reload.generation);
                assert!(generation == self.current || Some(generation) == coming);
                let unpaused = self.unpaused();
                let process = self.processes.get_mut(&who).unwrap();
                // A child has room for one plan in preparation.
                assert_eq!(process.asked, None, "{who}: two plans at once");
                assert_eq!(process.committed, None, "{who}: has not switched yet");
                assert!(!process.draining, "{who}: was told to end");
                assert!(
                    process.own && !process.own_disowned || who == Who::Monitor,
                    "{who}: a plan hands the slot's sockets over again"
                );
                process.asked = Some(generation);
                process.asked_at = unpaused;
                process.answered = false;
                self.send(who, Message::Prepare(generation));
            }
            Action::Commit { who, generation } => {
                assert_eq!(generation, self.current, "a plan that is not in force");
                let process = self.processes.get_mut(&who).unwrap();
                assert_eq!(process.asked.take(), Some(generation));
                assert!(process.answered, "{who}: has not prepared");
                process.committed = Some(generation);
                self.send(who, Message::Commit(generation));
            }
            Action::Abort { who, generation } => {
                let process = self.processes.get_mut(&who).unwrap();
                assert_eq!(process.asked.take(), Some(generation));
                self.send(who, Message::Abort(generation));
            }
            Action::Switch { generation } => self.switch(generation, before),
            Action::Discard { generation } => {
                let reload = self.reload.as_mut().unwrap();
                assert_eq!(reload.generation.take(), Some(generation));
                if reload.tickets.is_empty() {
                    // Nobody is answered.
                    self.reload = None;
                    self.names_refused = Some(self.now);
                }
                assert_eq!(self.state.current, self.current, "nothing has changed");
                assert_eq!(self.state.settings, before.settings, "nothing has changed");
            }
            Action::Compile { tickets } => {
                assert!(self.reload.is_none(), "one reload at a time");
                let names = tickets.is_empty();
                if names {
                    let since = self.names_refused.map_or(Ms::MAX, |at| self.now - at);
                    assert!(
                        since >= 900,
                        "refused names are tried again after {since} ms"
                    );
                }
                self.reload = Some(Reload {
                    tickets,
                    generation: None,
                });
                let takes = if names { 0 } else { self.rng.between(5, 600) };
                self.after(takes, Happening::Compiled);
            }
            Action::Answer { tickets, outcome } => self.answer(tickets, &outcome),
            Action::Open { slot } => self.open_slot(slot, events),
            Action::Close { slot } => self.close_slot(slot.0),
            Action::Steer { live } => {
                let live: Vec<u16> = live.iter().map(|slot| slot.0).collect();
                assert!(!live.is_empty(), "clients need somewhere to go");
                assert!(live.is_sorted_by(|a, b| a < b), "rising");
                self.steered = live;
            }
            Action::Adopt { slot, by } => {
                assert_ne!(slot, by);
                assert!(self.is_healthy(by.0), "{by} does not accept itself");
                let sockets = &mut self.slots[usize::from(slot.0)];
                assert_eq!(sockets.adopter, None, "one adopter at a time");
                // It would close what it was just given when it comes to the message before.
                assert!(!sockets.letting_go.contains(&by.0));
                sockets.adopter = Some(by.0);
                self.send(Who::Worker(by), Message::Adopt(slot.0));
            }
            Action::Disown { slot, by } => {
                if slot == by {
                    let process = self.processes.get_mut(&Who::Worker(by)).unwrap();
                    assert!(process.own && !process.own_disowned);
                    assert!(
                        !self.steered.contains(&slot.0),
                        "slot {slot} is let go of while clients are sent to it"
                    );
                    process.own_disowned = true;
                } else {
                    let sockets = &mut self.slots[usize::from(slot.0)];
                    assert_eq!(sockets.adopter.take(), Some(by.0), "it does not hold it");
                    sockets.letting_go.insert(by.0);
                }
                self.send(Who::Worker(by), Message::Disown(slot.0));
            }
            Action::Drain { who, deadline } => {
                let open = self.open();
                let process = self.processes.get_mut(&who).unwrap();
                assert!(!process.draining, "told twice");
                process.draining = true;
                let closed = match who {
                    Who::Monitor => self.processes.keys().all(|&who| who == Who::Monitor),
                    Who::Worker(slot) => self.closed_all || slot.0 >= open,
                };
                assert!(closed, "{who} is told to end before its sockets are closed");
                let deadline = u64::try_from(deadline.as_millis()).unwrap();
                self.send(who, Message::Drain(deadline));
            }
            Action::CloseAll => {
                assert!(self.terminated > 0);
                self.close_all();
            }
            Action::Ready { ready } => {
                assert_ne!(self.ready, ready);
                assert!(ready || self.terminated > 0);
                self.ready = ready;
            }
            Action::Stopping => assert!(self.terminated > 0),
            Action::Exit => {
                assert!(
                    self.terminated > 1 || self.processes.is_empty(),
                    "processes are left behind"
                );
                for (who, process) in &self.processes {
                    assert!(process.killed, "{who} is left behind alive");
                }
                self.exited = true;
            }
        }
    }

    pub(crate) fn spawn(&mut self, who: Who, incarnation: u64, events: &mut VecDeque<Event>) {
        assert!(!self.processes.contains_key(&who), "{who} runs already");
        assert!(!self.closed_all, "{who} is started while stopping");
        let last = self.incarnations.insert(who, incarnation).unwrap_or(0);
        assert!(incarnation > last, "an incarnation is used twice");
        if let Who::Worker(slot) = who {
            assert!(!self.unsettled.contains(&slot.0), "its row is not settled");
            let opened_in_vain = self.failed_open.is_some_and(|failed| slot.0 >= failed);
            assert!(slot.0 < self.open() || opened_in_vain, "no sockets");
        }
        // What the same actions say to a process that could not be started is lost.
        let failed = self.faults && self.rng.percent(3);
        if failed {
            events.push_back(Event::SpawnFailed { who, incarnation });
        }
        let process = Process {
            incarnation,
            dead: failed,
            stall: Stall::None,
            mute: self.faults && self.rng.percent(4),
            beat: self.now,
            cpu: 0,
            inbox: VecDeque::new(),
            at: 0,
            preparing: None,
            prepared: None,
            holds: BTreeSet::new(),
            last_said: 0,
            asked: None,
            asked_at: 0,
            answered: false,
            committed: None,
            applied: 0,
            ready: false,
            well_since: 0,
            own: who != Who::Monitor,
            own_disowned: false,
            killed: false,
            judged: false,
            draining: false,
            known_late: false,
        };
        self.processes.insert(who, process);
    }

    pub(crate) fn kill(&mut self, who: Who, reason: &str, event: &Event) {
        let heartbeat = reason.starts_with("its heartbeat");
        let others = self.processes.values().any(|process| process.judged);
        let unpaused = self.unpaused();
        let process = self.processes.get_mut(&who).unwrap();
        assert!(
            !process.killed || self.terminated > 1,
            "{who} is killed twice"
        );
        if heartbeat {
            // A pause of the whole machine makes all of them late at once.
            assert!(!others, "one judgement at a time");
            assert!(matches!(event, Event::Tick { on_time: true, .. }));
            let hung = matches!(process.stall, Stall::Stopped | Stall::Burning);
            assert!(
                hung || process.dead,
                "{who} only lacks CPU, or runs: {:?}",
                process.stall
            );
            process.judged = true;
        }
        if reason == "it did not answer to a new plan" {
            // Time in which nobody could answer does not count.
            let had = unpaused - process.asked_at;
            assert!(had >= 4_500, "{who} had only {had} ms for its answer");
        }
        process.killed = true;
        let incarnation = process.incarnation;
        let delay = self.rng.below(300);
        self.after(delay, Happening::Exit(who, incarnation));
    }

    pub(crate) fn switch(&mut self, generation: u64, before: &State) {
        let reload = self.reload.as_mut().unwrap();
        assert_eq!(reload.generation.take(), Some(generation));
        assert!(generation > self.current, "generations rise");
        for (&who, process) in &self.processes {
            let Who::Worker(slot) = who else { continue };
            if process.killed || process.own_disowned {
                continue;
            }
            let asked = process.asked == Some(generation);
            assert!(!asked || process.answered, "{who} has not answered");
            // Who serves the plan in force switches at the same instant as all others.
            let serves = process.ready
                && process.applied == self.current
                && process.committed.is_none()
                && !process.draining
                && before.slots[usize::from(slot.0)].phase != SlotPhase::Closing;
            assert!(!serves || asked, "{who} was not asked");
        }
        self.current = generation;
        self.names_in_force = self.names_tried;
        if self.reload.as_ref().unwrap().tickets.is_empty() {
            self.reload = None;
        }
    }

    pub(crate) fn answer(&mut self, tickets: Vec<Ticket>, outcome: &Outcome) {
        assert!(!tickets.is_empty());
        for ticket in &tickets {
            assert!(self.pending_tickets.remove(ticket), "answered twice");
        }
        match outcome {
            Outcome::Applied { .. } | Outcome::Failed { .. } => {
                let reload = self.reload.take().unwrap();
                assert_eq!(reload.tickets, tickets);
                assert_eq!(reload.generation, None, "neither switched nor discarded");
            }
            Outcome::Denied { .. } => assert!(self.terminated > 0),
        }
    }

    pub(crate) fn open_slot(&mut self, slot: SlotIdx, events: &mut VecDeque<Event>) {
        assert!(!self.closed_all);
        if self.failed_open.is_some() {
            // As the executor does: there is no place for it without the one before.
            return;
        }
        assert_eq!(slot.0, self.open(), "only the next index can be opened");
        if self.faults && self.rng.percent(5) {
            self.failed_open = Some(slot.0);
            events.push_back(Event::OpenFailed { slot });
            return;
        }
        self.slots.push(Sockets::default());
    }

    pub(crate) fn close_slot(&mut self, slot: u16) {
        assert_eq!(slot + 1, self.open(), "only the last index can be closed");
        let sockets = self.slots.pop().unwrap();
        // Closing a listening socket resets whoever waits in its queue.
        assert!(sockets.queue.is_empty(), "{:?} are reset", sockets.queue);
        assert_eq!(sockets.adopter, None);
        assert!(sockets.letting_go.is_empty());
        for (who, process) in &self.processes {
            assert!(
                !process.holds.contains(&slot),
                "{who} still accepts from slot {slot}"
            );
        }
        assert!(
            !self.steered.contains(&slot),
            "clients are sent to slot {slot}"
        );
    }

    pub(crate) fn close_all(&mut self) {
        let helper = (0..self.open()).any(|slot| self.is_healthy(slot));
        for (index, sockets) in self.slots.iter().enumerate() {
            let index = u16::try_from(index).unwrap();
            let holder = self.processes.iter().any(|(&who, process)| {
                who == Who::Worker(SlotIdx(index)) && process.ready && !process.killed
            });
            let held = holder || sockets.adopter.is_some();
            // Whoever waits is accepted by somebody, as long as there is somebody.
            assert!(
                held || !helper || sockets.queue.is_empty(),
                "{} who wait in slot {index} are reset by the stop",
                sockets.queue.len()
            );
        }
        self.closed_all = true;
    }
}
