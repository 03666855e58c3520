//! The world around the machine: processes, groups of listening sockets, clients, operators, and a clock.
//!
//! The world knows what each process holds and was told, and who waits in which queue. What the machine believes is looked
//! at only where both must agree.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

use evenkeel_plan::SlotIdx;
use evenkeel_supervisor::life::{Event, Sample, Settings, SlotPhase, State, Ticket, Who};

use crate::rng::Rng;

/// Milliseconds since the run began.
pub(crate) type Ms = u64;

pub(crate) const TICK: Ms = 100;
/// As in `perform.rs`.
const ON_TIME: Ms = 300;
/// As in the machine: what is promised about a supervisor that was late.
pub(crate) const GRACE: Ms = 1_000;
const LINES_KEPT: usize = 150;

/// What keeps a process from running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stall {
    None,
    /// `SIGSTOP`.
    Stopped,
    /// An endless loop.
    Burning,
    /// Gets no CPU.
    Starved,
}

#[derive(Clone, Debug)]
pub(crate) enum Message {
    Prepare(u64),
    /// The plan is decoded.
    Decoded(u64),
    Commit(u64),
    /// The plan is in force in the process.
    Switched(u64),
    Abort(u64),
    Adopt(u16),
    Disown(u16),
    Drain(Ms),
}

#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) incarnation: u64,
    pub(crate) dead: bool,
    pub(crate) stall: Stall,
    /// Beats, and never answers to a plan.
    pub(crate) mute: bool,
    pub(crate) beat: Ms,
    pub(crate) cpu: Ms,
    pub(crate) inbox: VecDeque<Message>,
    pub(crate) at: u64,
    pub(crate) preparing: Option<u64>,
    pub(crate) prepared: Option<u64>,
    pub(crate) holds: BTreeSet<u16>,
    pub(crate) last_said: Ms,
    // What the supervisor has told it and heard from it.
    pub(crate) asked: Option<u64>,
    pub(crate) asked_at: Ms,
    pub(crate) answered: bool,
    pub(crate) committed: Option<u64>,
    pub(crate) applied: u64,
    pub(crate) ready: bool,
    /// Since when it could accept, on the clock without pauses.
    pub(crate) well_since: Ms,
    pub(crate) own: bool,
    pub(crate) own_disowned: bool,
    pub(crate) killed: bool,
    pub(crate) judged: bool,
    pub(crate) draining: bool,
    pub(crate) known_late: bool,
}

/// A client that waits to be accepted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    /// When it came, pauses aside.
    pub(crate) arrived: Ms,
    /// [`World::absences`] until then.
    pub(crate) absences: Ms,
}

/// A slot's sockets, one group for all listeners.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    /// Arrival of each client that waits.
    pub(crate) queue: Vec<Waiting>,
    pub(crate) adopter: Option<u16>,
    pub(crate) letting_go: BTreeSet<u16>,
}

#[derive(Debug)]
pub(crate) enum Happening {
    Tick,
    Tell(Event),
    From(Who, u64, Event),
    Wake(Who, u64),
    Inner(Who, u64, Message),
    Exit(Who, u64),
    Reap(Who, u64),
    Continue(Who, u64),
    /// Processes run.
    Run,
    /// Clients arrive.
    Clients,
    Land(u16),
    Compiled,
    Fault,
    Reload,
    Names,
}

#[derive(Debug)]
pub(crate) struct Reload {
    pub(crate) tickets: Vec<Ticket>,
    pub(crate) generation: Option<u64>,
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) now: Ms,
    pub(crate) state: State,
    pub(crate) faults: bool,
    pub(crate) processes: BTreeMap<Who, Process>,
    pub(crate) slots: Vec<Sockets>,
    pub(crate) pending_tickets: BTreeSet<Ticket>,
    pub(crate) current: u64,
    pub(crate) exited: bool,
    pub(crate) ready: bool,
    pub(crate) accepted: u64,
    pub(crate) terminated: u64,
    pub(crate) steered: Vec<u16>,
    pub(crate) incarnations: BTreeMap<Who, u64>,
    pub(crate) unsettled: BTreeSet<u16>,
    /// Opened in vain in the actions that are being carried out.
    pub(crate) failed_open: Option<u16>,
    pub(crate) reload: Option<Reload>,
    pub(crate) next_generation: u64,
    /// Changes of names that the supervisor was told of, that the last compilation took in, and that are in force.
    pub(crate) names_told: u64,
    pub(crate) names_tried: u64,
    pub(crate) names_in_force: u64,
    pub(crate) names_refused: Option<Ms>,
    pub(crate) next_ticket: u64,
    pub(crate) closed_all: bool,
    pub(crate) last_tick: Ms,
    pub(crate) late_tick: Option<Ms>,
    pub(crate) supervisor_busy_until: Ms,
    /// Time so far, pauses aside, in which the supervisor did not run: nobody can be helped in it.
    pub(crate) absences: Ms,
    pub(crate) pauses: Ms,
    pub(crate) heap: BinaryHeap<Reverse<(Ms, u64)>>,
    pub(crate) happenings: BTreeMap<u64, Happening>,
    pub(crate) next_happening: u64,
    pub(crate) handshakes: Ms,
    pub(crate) lines: VecDeque<String>,
}

pub(crate) fn ms(ms: Ms) -> Duration {
    Duration::from_millis(ms)
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let handshakes = rng.pick(&[0, 50, 300, 1_000]);
        Self {
            rng,
            now: 0,
            state: State::new(),
            faults: true,
            processes: BTreeMap::new(),
            slots: Vec::new(),
            pending_tickets: BTreeSet::new(),
            current: 0,
            exited: false,
            ready: false,
            accepted: 0,
            terminated: 0,
            steered: Vec::new(),
            incarnations: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            failed_open: None,
            reload: None,
            next_generation: 2,
            names_told: 0,
            names_tried: 0,
            names_in_force: 0,
            names_refused: None,
            next_ticket: 0,
            closed_all: false,
            last_tick: 0,
            late_tick: None,
            supervisor_busy_until: 0,
            absences: 0,
            pauses: 0,
            heap: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            next_happening: 0,
            handshakes,
            lines: VecDeque::new(),
        }
    }

    pub(crate) fn begin(&mut self) {
        let settings = self.settings();
        let open = settings.workers + u16::try_from(self.rng.pick(&[0, 0, 0, 3])).unwrap();
        self.slots.resize_with(usize::from(open), Sockets::default);
        self.current = 1;
        self.step(Event::Begin { open, settings });
        for (after, happening) in [
            (TICK, Happening::Tick),
            (1, Happening::Run),
            (1, Happening::Clients),
            (500, Happening::Fault),
            (1_000, Happening::Reload),
            (1_500, Happening::Names),
        ] {
            self.after(after, happening);
        }
    }

    /// Lets everything happen up to `until`, or to the supervisor's end.
    pub(crate) fn run(&mut self, until: Ms) {
        while !self.exited {
            let Some(&Reverse((at, _))) = self.heap.peek() else {
                return;
            };
            if at > until {
                break;
            }
            let Reverse((_, number)) = self.heap.pop().unwrap();
            self.now = at;
            let happening = self.happenings.remove(&number).unwrap();
            self.happen(happening);
        }
        self.now = self.now.max(until);
    }

    pub(crate) fn terminate(&mut self) {
        self.terminated += 1;
        self.step(Event::Terminate);
    }

    /// The clock of a machine that was never paused.
    pub(crate) fn unpaused(&self) -> Ms {
        self.now - self.pauses
    }

    pub(crate) fn request_reload(&mut self) {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.pending_tickets.insert(ticket);
        self.tell(0, Event::ReloadRequested { ticket });
    }

    pub(crate) fn tail(&self) -> String {
        let lines: Vec<&str> = self.lines.iter().map(String::as_str).collect();
        lines.join("\n")
    }

    pub(crate) fn note(&mut self, line: String) {
        if self.lines.len() == LINES_KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(format!("{:>7} {line}", self.now));
    }

    pub(crate) fn after(&mut self, delay: Ms, happening: Happening) {
        let number = self.next_happening;
        self.next_happening += 1;
        self.heap.push(Reverse((self.now + delay, number)));
        self.happenings.insert(number, happening);
    }

    pub(crate) fn tell(&mut self, delay: Ms, event: Event) {
        self.after(delay, Happening::Tell(event));
    }

    pub(crate) fn settings(&mut self) -> Settings {
        let steer_after = self.rng.between(300, 600);
        Settings {
            workers: u16::try_from(self.rng.between(1, 5)).unwrap(),
            steer_after: ms(steer_after),
            kill_after: ms(steer_after + self.rng.between(200, 1_500)),
            drain_delay: ms(self.rng.pick(&[0, 0, 300, 1_000])),
            drain_deadline: ms(self.rng.pick(&[500, 1_000, 3_000])),
            handshakes: ms(self.handshakes),
        }
    }

    pub(crate) fn happen(&mut self, happening: Happening) {
        let to_supervisor = matches!(
            happening,
            Happening::Tick
                | Happening::Tell(_)
                | Happening::From(..)
                | Happening::Reap(..)
                | Happening::Compiled
                | Happening::Names
        );
        if to_supervisor && self.now < self.supervisor_busy_until {
            let late = match happening {
                // What comes first after a lateness is chance; what one child says stays in order.
                Happening::Tick => self.rng.below(5),
                _ => 0,
            };
            self.after(self.supervisor_busy_until - self.now + late, happening);
            return;
        }
        match happening {
            Happening::Tick => self.tick(),
            Happening::Tell(event) => self.step(event),
            Happening::From(who, incarnation, event) => {
                if self.is_current(who, incarnation) {
                    self.step(event);
                }
            }
            Happening::Wake(who, incarnation) => self.wake(who, incarnation),
            Happening::Inner(who, incarnation, message) => {
                if let Some(process) = self.process(who, incarnation) {
                    process.inbox.push_back(message);
                    self.after(0, Happening::Wake(who, incarnation));
                }
            }
            Happening::Exit(who, incarnation) => self.exit(who, incarnation),
            Happening::Reap(who, incarnation) => {
                if self.is_current(who, incarnation) {
                    self.processes.remove(&who);
                    self.step(Event::Exited { who, incarnation });
                }
            }
            Happening::Continue(who, incarnation) => {
                let (now, unpaused) = (self.now, self.unpaused());
                if let Some(process) = self.process(who, incarnation) {
                    process.stall = Stall::None;
                    process.well_since = unpaused;
                    process.beat = now;
                    self.note(format!("{who} runs again"));
                    self.after(0, Happening::Wake(who, incarnation));
                }
            }
            Happening::Run => self.run_processes(),
            Happening::Clients => self.clients(),
            Happening::Land(slot) => self.land(slot),
            Happening::Compiled => self.compiled(),
            Happening::Fault => {
                if self.faults {
                    self.fault();
                    let next = self.rng.between(20, 2_500);
                    self.after(next, Happening::Fault);
                }
            }
            Happening::Reload => {
                if self.faults {
                    let storm = self.rng.pick(&[1, 1, 1, 2, 5]);
                    for _ in 0..storm {
                        self.request_reload();
                    }
                    let next = self.rng.pick(&[50, 400, 2_000, 6_000]);
                    self.after(next, Happening::Reload);
                }
            }
            Happening::Names => {
                if self.faults {
                    self.names_told += 1;
                    self.step(Event::NamesChanged);
                    let next = self.rng.pick(&[5, 100, 1_500, 5_000]);
                    self.after(next, Happening::Names);
                }
            }
        }
    }

    pub(crate) fn is_current(&self, who: Who, incarnation: u64) -> bool {
        self.processes
            .get(&who)
            .is_some_and(|process| process.incarnation == incarnation)
    }

    pub(crate) fn process(&mut self, who: Who, incarnation: u64) -> Option<&mut Process> {
        self.processes
            .get_mut(&who)
            .filter(|process| process.incarnation == incarnation && !process.dead)
    }

    pub(crate) fn tick(&mut self) {
        let on_time = self.now - self.last_tick < ON_TIME;
        self.last_tick = self.now;
        let steer_after = u64::try_from(self.state.settings.steer_after.as_millis()).unwrap();
        let judged = on_time && self.late_tick.is_none_or(|at| self.now - at >= GRACE);
        if !on_time {
            self.late_tick = Some(self.now);
        }
        let mut samples = Vec::new();
        for (&who, process) in &mut self.processes {
            let age = self.now - process.beat;
            let late = age >= steer_after;
            if judged {
                process.known_late = late;
            }
            // A process that has ended and was not reaped has no vitals.
            let visible = late && !process.dead;
            samples.push(Sample {
                who,
                beat_age: ms(age),
                stopped: visible && process.stall == Stall::Stopped,
                cpu: ms(if visible { process.cpu } else { 0 }),
            });
        }
        let mut queued = Vec::new();
        for (index, slot) in self.state.slots.iter().enumerate() {
            let waits = self.slots.get(index).is_some_and(|s| !s.queue.is_empty());
            if matches!(slot.phase, SlotPhase::Retiring { .. }) && waits {
                queued.push(SlotIdx(u16::try_from(index).unwrap()));
            }
        }
        self.after(TICK, Happening::Tick);
        self.step(Event::Tick {
            on_time,
            samples,
            queued,
        });
    }

    /// Beats, burns and accepts.
    pub(crate) fn run_processes(&mut self) {
        const STEP: Ms = 20;
        for (who, process) in &mut self.processes {
            if process.dead {
                continue;
            }
            match process.stall {
                Stall::None => {
                    process.beat = self.now;
                    process.cpu += STEP / 5;
                    let accepts = process.at > 0 && self.rng.percent(60);
                    if accepts && matches!(who, Who::Worker(_)) {
                        for &slot in &process.holds {
                            if let Some(sockets) = self.slots.get_mut(usize::from(slot)) {
                                self.accepted += sockets.queue.len() as u64;
                                sockets.queue.clear();
                            }
                        }
                    }
                }
                Stall::Burning => process.cpu += STEP,
                Stall::Stopped | Stall::Starved => {}
            }
        }
        self.after(STEP, Happening::Run);
    }

    /// The slot is chosen when the first packet of the handshake arrives, the client waits in its queue from the last one on.
    pub(crate) fn clients(&mut self) {
        if self.closed_all {
            return;
        }
        if !self.slots.is_empty() {
            let open: Vec<u16> = (0..self.open()).collect();
            let among = if self.steered.is_empty() {
                open
            } else {
                self.steered.clone()
            };
            for _ in 0..self.rng.below(3) {
                let slot = self.rng.pick(&among);
                let handshake = self.rng.below(self.handshakes.max(1));
                self.after(handshake, Happening::Land(slot));
            }
        }
        let next = self.rng.between(5, 60);
        self.after(next, Happening::Clients);
    }

    pub(crate) fn land(&mut self, slot: u16) {
        if self.closed_all {
            return;
        }
        let now = self.unpaused();
        // What is left of an absence is still to come for this one.
        let absences = self.absences - self.supervisor_busy_until.saturating_sub(self.now);
        let sockets = self.slots.get_mut(usize::from(slot));
        // The promise of scaling down: whoever was steered to a slot finds its sockets.
        assert!(
            sockets.is_some(),
            "a client on its way to slot {slot} was reset: its sockets are closed"
        );
        sockets.unwrap().queue.push(Waiting {
            arrived: now,
            absences,
        });
    }

    pub(crate) fn open(&self) -> u16 {
        u16::try_from(self.slots.len()).unwrap()
    }

    /// What names stand for: no file is read.
    pub(crate) fn names_compiled(&mut self) {
        self.names_tried = self.names_told;
        if self.names_tried == self.names_in_force || self.rng.percent(10) {
            // They are back at what is in force.
            self.names_in_force = self.names_tried;
            self.reload = None;
            self.step(Event::NothingToDo);
            return;
        }
        let generation = self.next_generation;
        self.next_generation += 1;
        self.reload.as_mut().unwrap().generation = Some(generation);
        // They may differ from those at the switch, and must not count.
        let settings = self.settings();
        self.step(Event::Compiled {
            generation,
            settings,
        });
    }

    pub(crate) fn compiled(&mut self) {
        if self.reload.as_ref().unwrap().tickets.is_empty() {
            self.names_compiled();
            return;
        }
        // The names that are known now go into it.
        let names = self.names_told;
        let reload = self.reload.as_mut().unwrap();
        if self.rng.percent(20) {
            // The executor answers, with the errors or with "nothing has changed".
            for ticket in std::mem::take(&mut reload.tickets) {
                assert!(self.pending_tickets.remove(&ticket));
            }
            self.reload = None;
            self.step(Event::NothingToDo);
        } else {
            let generation = self.next_generation;
            self.next_generation += 1;
            reload.generation = Some(generation);
            self.names_tried = names;
            let settings = self.settings();
            self.step(Event::Compiled {
                generation,
                settings,
            });
        }
    }

    pub(crate) fn fault(&mut self) {
        let who: Vec<(Who, u64)> = self
            .processes
            .iter()
            .filter(|(_, process)| !process.dead)
            .map(|(&who, process)| (who, process.incarnation))
            .collect();
        let kind = self.rng.below(100);
        if kind < 4 {
            let late = self.rng.between(200, 4_000);
            self.note(format!("the supervisor does not run for {late} ms"));
            self.absences += late;
            self.supervisor_busy_until = self.now + late;
            return;
        }
        if kind < 8 {
            let pause = self.rng.pick(&[400, 3_000, 12_000]);
            self.note(format!("the machine pauses for {pause} ms"));
            let shifted = self.heap.drain().map(|Reverse((at, n))| (at + pause, n));
            self.heap = shifted.map(Reverse).collect();
            self.supervisor_busy_until += pause;
            self.pauses += pause;
            self.now += pause;
            return;
        }
        if who.is_empty() {
            return;
        }
        let (who, incarnation) = self.rng.pick(&who);
        if kind < 45 {
            self.note(format!("{who} crashes"));
            self.exit(who, incarnation);
            return;
        }
        if kind < 52 {
            self.note(format!("{who} answers to no more plans"));
            self.process(who, incarnation).unwrap().mute = true;
            return;
        }
        let stall = self
            .rng
            .pick(&[Stall::Stopped, Stall::Burning, Stall::Starved]);
        let lasts = self.rng.pick(&[200, 800, 3_000, 8_000]);
        let for_ever = stall != Stall::Starved && self.rng.percent(50);
        let process = self.process(who, incarnation).unwrap();
        if process.stall != Stall::None {
            return;
        }
        process.stall = stall;
        self.note(format!(
            "{who}: {stall:?} for {lasts} ms, for ever: {for_ever}"
        ));
        if !for_ever {
            self.after(lasts, Happening::Continue(who, incarnation));
        }
    }

    pub(crate) fn exit(&mut self, who: Who, incarnation: u64) {
        let Some(process) = self.process(who, incarnation) else {
            return;
        };
        process.dead = true;
        process.holds.clear();
        let delay = self.rng.below(20);
        self.after(delay, Happening::Reap(who, incarnation));
    }

    pub(crate) fn send(&mut self, who: Who, message: Message) {
        let delay = self.rng.below(15);
        let Some(process) = self.processes.get_mut(&who) else {
            return;
        };
        process.inbox.push_back(message);
        let incarnation = process.incarnation;
        self.after(delay, Happening::Wake(who, incarnation));
    }

    /// A process does the next thing that it was told.
    pub(crate) fn wake(&mut self, who: Who, incarnation: u64) {
        let faults = self.faults;
        let (fast, slow, chance) = (
            self.rng.between(5, 200),
            self.rng.between(1_000, 7_000),
            self.rng.below(100),
        );
        let Some(process) = self.process(who, incarnation) else {
            return;
        };
        if process.stall != Stall::None {
            return;
        }
        let Some(message) = process.inbox.pop_front() else {
            return;
        };
        let own = match who {
            Who::Worker(slot) => Some(slot.0),
            Who::Monitor => None,
        };
        let mut say = None;
        match message {
            Message::Prepare(generation) => {
                process.preparing = Some(generation);
                process.prepared = None;
                if process.at == 0 {
                    // The sockets come with the first plan.
                    process.holds.extend(own);
                }
                let delay = if faults && chance < 8 { slow } else { fast };
                if !process.mute {
                    let decoded = Message::Decoded(generation);
                    self.after(delay, Happening::Inner(who, incarnation, decoded));
                }
            }
            Message::Decoded(generation) => {
                if process.preparing == Some(generation) {
                    process.preparing = None;
                    if faults && chance < 4 {
                        say = Some(Event::Refused {
                            who,
                            incarnation,
                            generation,
                            reason: "chance".to_owned(),
                        });
                    } else {
                        process.prepared = Some(generation);
                        say = Some(Event::Prepared {
                            who,
                            incarnation,
                            generation,
                        });
                    }
                }
            }
            Message::Commit(generation) => {
                assert_eq!(
                    process.prepared.take(),
                    Some(generation),
                    "{who} was told to switch to what it has not prepared"
                );
                if !(faults && chance < 2) {
                    let switched = Message::Switched(generation);
                    self.after(fast / 4, Happening::Inner(who, incarnation, switched));
                }
            }
            Message::Switched(generation) => {
                process.at = generation;
                say = Some(Event::Applied {
                    who,
                    incarnation,
                    generation,
                });
            }
            Message::Abort(generation) => {
                if process.preparing == Some(generation) {
                    process.preparing = None;
                }
                if process.prepared == Some(generation) {
                    process.prepared = None;
                }
            }
            Message::Adopt(slot) => {
                process.holds.insert(slot);
            }
            Message::Disown(slot) => {
                // A worker may close at once: that nobody waits then is the machine's to see to.
                process.holds.remove(&slot);
                if let Who::Worker(by) = who {
                    let slot = SlotIdx(slot);
                    say = Some(Event::Disowned {
                        by,
                        incarnation,
                        slot,
                    });
                }
            }
            Message::Drain(deadline) => {
                for slot in std::mem::take(&mut process.holds) {
                    if let Some(sockets) = self.slots.get_mut(usize::from(slot)) {
                        self.accepted += sockets.queue.len() as u64;
                        sockets.queue.clear();
                    }
                }
                if !(faults && chance < 10) {
                    let ends = self.rng.between(0, deadline);
                    self.after(ends, Happening::Exit(who, incarnation));
                }
            }
        }
        if let Some(event) = say {
            let delay = self.rng.below(10);
            let now = self.now;
            let process = self.process(who, incarnation).unwrap();
            // What one process says arrives in order.
            process.last_said = process.last_said.max(now + delay);
            let delay = process.last_said - now;
            self.after(delay, Happening::From(who, incarnation, event));
        }
        if self
            .process(who, incarnation)
            .is_some_and(|process| !process.inbox.is_empty())
        {
            self.after(1, Happening::Wake(who, incarnation));
        }
    }
}
