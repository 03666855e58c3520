//! The machine's state, and how it takes in one fact.

use std::time::Duration;

use evenkeel_plan::SlotIdx;

use super::event::{Action, Event, Ticket, Who};
use super::reload::Reload;

/// Time between two [`Event::Tick`]s.
pub const TICK: Duration = Duration::from_millis(100);

/// A child that is not ready by then is killed and started again.
pub(super) const START_DEADLINE: Duration = Duration::from_secs(10);

/// A child that serves and beats, and has not followed to the plan in force by then, is killed and started again.
pub(super) const FOLLOW_DEADLINE: Duration = Duration::from_secs(10);

/// A child that was ready for this long starts with a clean record when it dies.
pub(super) const STABLE_AFTER: Duration = Duration::from_secs(1);

/// Back-off after the second quick death in a row; doubles from there.
pub(super) const BACK_OFF_MIN: Duration = Duration::from_millis(100);

/// Longest back-off.
pub(super) const BACK_OFF_MAX: Duration = Duration::from_secs(5);

/// A slot without a worker for this long gets a neighbour to accept its queue. A worker that is started again at once is
/// there sooner, and handing thousands of descriptors over for that would cost more than it saves.
pub(super) const ADOPT_AFTER: Duration = Duration::from_millis(150);

/// After the drain deadline a worker ends by itself; one that has not by then is killed.
pub(super) const DRAIN_SLACK: Duration = Duration::from_secs(2);

/// Not all workers are up by then: the daemon calls itself ready with those that are.
pub(super) const READY_DEADLINE: Duration = Duration::from_secs(5);

/// After the supervisor was late itself, nobody is judged for this long.
pub(super) const OWN_LATENESS_GRACE: Duration = Duration::from_secs(1);

/// Parts of a plan that steer the machine itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Workers wanted, at least 1.
    pub workers: u16,
    /// See `watchdog.steer_after`.
    pub steer_after: Duration,
    /// See `watchdog.kill_after`.
    pub kill_after: Duration,
    /// See `drain.delay`.
    pub drain_delay: Duration,
    /// See `drain.deadline`.
    pub drain_deadline: Duration,
    /// See `drain.handshakes`.
    pub handshakes: Duration,
}

/// What the daemon is doing as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Before all workers were ready for the first time.
    Starting,
    /// Serving.
    Running,
    /// Told to stop; not ready, still accepting.
    Delaying {
        /// Since the machine began.
        until: Duration,
    },
    /// No longer accepting.
    Draining,
    /// The last action was `Exit`.
    Ended,
}

impl Phase {
    /// The word for `status`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Delaying { .. } => "delaying",
            Self::Draining => "draining",
            Self::Ended => "ended",
        }
    }

    /// Told to stop.
    #[must_use]
    pub fn is_stopping(self) -> bool {
        match self {
            Self::Starting | Self::Running => false,
            Self::Delaying { .. } | Self::Draining | Self::Ended => true,
        }
    }
}

/// A child process, or the lack of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildPhase {
    /// No process.
    Absent {
        /// None is started before.
        not_before: Duration,
    },
    /// `Spawn` was emitted; not ready yet.
    Started {
        /// When.
        since: Duration,
    },
    /// Has the plan in force and beats.
    Live {
        /// Ready since.
        since: Duration,
    },
    /// Has the plan in force; its heartbeat is late.
    Late {
        /// Ready since.
        since: Duration,
        /// Late since.
        late: Duration,
        /// CPU time used when it became late.
        cpu: Duration,
    },
    /// Told to finish.
    Draining {
        /// Killed if it still runs then.
        until: Duration,
    },
}

/// A child and its conversation about plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Child {
    /// What it is doing.
    pub phase: ChildPhase,
    /// Processes started so far; the current one's number.
    pub incarnation: u64,
    /// Quick deaths in a row.
    pub failures: u32,
    /// Killed, and not reaped yet.
    pub killed: bool,
    /// Generation it has switched to; 0 = none.
    pub at: u64,
    /// Generation it was told to prepare and has not answered, or has prepared and not been told to commit or abort.
    pub preparing: Option<u64>,
    /// Whether it has answered `Prepared` for `preparing`.
    pub prepared: bool,
    /// Generation it was told to commit and has not applied.
    pub committing: Option<u64>,
    /// When it was last told to prepare or to commit; moved on by the time in which the supervisor itself did not run.
    pub asked: Duration,
}

impl Child {
    pub(super) fn new() -> Self {
        Self {
            phase: ChildPhase::Absent {
                not_before: Duration::ZERO,
            },
            incarnation: 0,
            failures: 0,
            killed: false,
            at: 0,
            preparing: None,
            prepared: false,
            committing: None,
            asked: Duration::ZERO,
        }
    }

    pub(super) fn prepare(&mut self, generation: u64, now: Duration) {
        self.preparing = Some(generation);
        self.prepared = false;
        self.asked = now;
    }

    pub(super) fn commit(&mut self, generation: u64, now: Duration) {
        self.preparing = None;
        self.prepared = false;
        self.committing = Some(generation);
        self.asked = now;
    }

    /// Whether there is a process.
    #[must_use]
    pub fn runs(&self) -> bool {
        !matches!(self.phase, ChildPhase::Absent { .. })
    }

    /// Whether it has been ready and was not told to finish.
    #[must_use]
    pub fn serves(&self) -> bool {
        matches!(
            self.phase,
            ChildPhase::Live { .. } | ChildPhase::Late { .. }
        )
    }

    /// Whether it is ready and beats.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self.phase, ChildPhase::Live { .. }) && !self.killed
    }
}

/// Where a slot's sockets are in their life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotPhase {
    /// No sockets.
    Closed,
    /// Sockets listen and connections may be steered here.
    Open,
    /// Not wanted any more: steered away; kept for handshakes that are on their way and for its queue.
    Retiring {
        /// Since when.
        since: Duration,
    },
    /// Not wanted any more, quiet, and whoever accepts from it was told to let go.
    Closing,
}

/// A position for a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its sockets.
    pub phase: SlotPhase,
    /// Its worker.
    pub child: Child,
    /// The slot whose worker accepts for it.
    pub adopted_by: Option<SlotIdx>,
    /// Adopters that were told to let go and have not answered.
    pub disowning: Vec<SlotIdx>,
    /// Whether its own worker holds its sockets.
    pub own: bool,
    /// Its own worker was told to let go of its sockets and has not answered.
    pub own_disowning: bool,
    /// Since when it has had no worker that accepts.
    pub unserved_since: Option<Duration>,
}

impl Slot {
    pub(crate) fn new() -> Self {
        Self {
            phase: SlotPhase::Closed,
            child: Child::new(),
            adopted_by: None,
            disowning: Vec::new(),
            own: false,
            own_disowning: false,
            unserved_since: None,
        }
    }
}

/// Everything that the supervisor remembers between two events.
#[derive(Clone, Debug)]
pub struct State {
    /// What the daemon is doing as a whole.
    pub phase: Phase,
    /// Settings of the plan in force.
    pub settings: Settings,
    /// Generation in force.
    pub current: u64,
    /// All slots that were ever used.
    pub slots: Vec<Slot>,
    /// The monitor.
    pub monitor: Child,
    /// The reload in progress.
    pub(super) reload: Option<Reload>,
    /// Who asked for another reload meanwhile.
    pub(super) queued: Vec<Ticket>,
    /// Names stand for other addresses than what is in force says.
    pub(super) names_changed: bool,
    /// After a refusal they are not tried again before.
    pub(super) names_not_before: Duration,
    /// Slots that the groups choose among now.
    pub steered: Vec<SlotIdx>,
    /// Slots in which somebody waited at the last tick.
    pub(super) waiting: Vec<SlotIdx>,
    /// When the last tick came. Whether somebody has had the time for an answer is measured up to here: what comes first
    /// after a pause of the whole machine may be anything, but only a tick says that there was one.
    pub(super) ticked: Duration,
    /// Nobody is judged before.
    pub(super) judge_not_before: Duration,
    /// Whether `Ready { ready: true }` was emitted.
    pub(super) ready: bool,
    pub(super) began: Duration,
}

impl State {
    /// A machine that waits for [`Event::Begin`].
    #[must_use]
    pub fn new() -> Self {
        Self {
            phase: Phase::Starting,
            settings: Settings {
                workers: 1,
                steer_after: Duration::from_millis(500),
                kill_after: Duration::from_secs(2),
                drain_delay: Duration::ZERO,
                drain_deadline: Duration::from_secs(30),
                handshakes: Duration::from_secs(5),
            },
            current: 0,
            slots: Vec::new(),
            monitor: Child::new(),
            reload: None,
            queued: Vec::new(),
            names_changed: false,
            names_not_before: Duration::ZERO,
            steered: Vec::new(),
            waiting: Vec::new(),
            ticked: Duration::ZERO,
            judge_not_before: Duration::ZERO,
            ready: false,
            began: Duration::ZERO,
        }
    }

    /// Takes in one fact; what has to be done about it, in order. `now` never goes back.
    #[must_use]
    pub fn step(&mut self, event: Event, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.phase == Phase::Ended {
            return actions;
        }
        self.handle(event, now, &mut actions);
        if self.phase != Phase::Ended {
            self.reconcile(now, &mut actions);
        }
        actions
    }

    /// The child called `who`, if its slot was ever used.
    #[must_use]
    pub fn child(&self, who: Who) -> Option<&Child> {
        match who {
            Who::Monitor => Some(&self.monitor),
            Who::Worker(slot) => self.slots.get(usize::from(slot.0)).map(|slot| &slot.child),
        }
    }

    /// Every child, the monitor first.
    pub fn children(&self) -> impl Iterator<Item = (Who, &Child)> {
        let workers = indexed(&self.slots).map(|(index, slot)| (Who::Worker(index), &slot.child));
        std::iter::once((Who::Monitor, &self.monitor)).chain(workers)
    }

    /// Whether a reload is in progress.
    #[must_use]
    pub fn is_reloading(&self) -> bool {
        self.reload.is_some()
    }

    pub(super) fn child_mut(&mut self, who: Who) -> Option<&mut Child> {
        match who {
            Who::Monitor => Some(&mut self.monitor),
            Who::Worker(slot) => self
                .slots
                .get_mut(usize::from(slot.0))
                .map(|slot| &mut slot.child),
        }
    }

    /// The child, if `incarnation` is its current process and that has not ended.
    pub(super) fn current_child_mut(&mut self, who: Who, incarnation: u64) -> Option<&mut Child> {
        self.child_mut(who)
            .filter(|child| child.incarnation == incarnation && child.runs())
    }

    fn handle(&mut self, event: Event, now: Duration, actions: &mut Vec<Action>) {
        match event {
            Event::Begin { open, settings } => {
                self.began = now;
                self.current = 1;
                self.settings = settings;
                self.slots = vec![Slot::new(); usize::from(open)];
                for slot in &mut self.slots {
                    slot.phase = SlotPhase::Open;
                    slot.unserved_since = Some(now);
                }
            }
            Event::SpawnFailed { who, incarnation } | Event::Exited { who, incarnation } => {
                self.ended(who, incarnation, now, actions);
            }
            Event::OpenFailed { slot: index } => {
                // With as many workers as there are sockets for; the next reload tries again.
                self.settings.workers = self.settings.workers.min(index.0).max(1);
                for slot in self.slots.iter_mut().skip(usize::from(index.0)) {
                    slot.phase = SlotPhase::Closed;
                }
            }
            Event::Prepared {
                who,
                incarnation,
                generation,
            } => {
                if let Some(child) = self.current_child_mut(who, incarnation)
                    && child.preparing == Some(generation)
                {
                    child.prepared = true;
                }
            }
            Event::Refused {
                who,
                incarnation,
                generation,
                reason,
            } => self.refused(who, incarnation, generation, &reason, now, actions),
            Event::Applied {
                who,
                incarnation,
                generation,
            } => self.applied(who, incarnation, generation, now),
            Event::Disowned {
                by,
                incarnation,
                slot,
            } => self.disowned(by, incarnation, slot),
            Event::ReloadRequested { ticket } => self.reload_requested(ticket, actions),
            Event::NamesChanged => self.names_changed = true,
            Event::Compiled {
                generation,
                settings,
            } => self.compiled(generation, settings, now, actions),
            Event::NothingToDo => self.reload = None,
            Event::Tick {
                on_time,
                samples,
                queued,
            } => {
                self.waiting = queued;
                if !on_time {
                    self.forgive(now.saturating_sub(self.ticked));
                    self.look_again(&samples, now);
                    self.judge_not_before = now + OWN_LATENESS_GRACE;
                }
                self.ticked = now;
                self.judge(&samples, now, actions);
            }
            Event::Terminate => self.terminate(now, actions),
        }
    }

    fn ended(&mut self, who: Who, incarnation: u64, now: Duration, actions: &mut Vec<Action>) {
        let Some(child) = self.current_child_mut(who, incarnation) else {
            return;
        };
        let crashed = !matches!(child.phase, ChildPhase::Draining { .. });
        let stable = match child.phase {
            ChildPhase::Live { since } | ChildPhase::Late { since, .. } => {
                now.saturating_sub(since) >= STABLE_AFTER
            }
            ChildPhase::Draining { .. } => true,
            ChildPhase::Absent { .. } | ChildPhase::Started { .. } => false,
        };
        let failures = if stable { 0 } else { child.failures + 1 };
        *child = Child {
            phase: ChildPhase::Absent {
                not_before: now + back_off(failures),
            },
            incarnation: child.incarnation,
            failures,
            ..Child::new()
        };
        let Who::Worker(index) = who else { return };
        actions.push(Action::Settle {
            slot: index,
            crashed,
        });
        for slot in &mut self.slots {
            if slot.adopted_by == Some(index) {
                slot.adopted_by = None;
                // The adopter's death is the same as its letting go; start the wait for the next adopter over, served long ago.
                slot.unserved_since = Some(now.saturating_sub(ADOPT_AFTER));
            }
            slot.disowning.retain(|&by| by != index);
        }
        let slot = &mut self.slots[usize::from(index.0)];
        slot.own = false;
        slot.own_disowning = false;
        slot.unserved_since = Some(now);
    }

    fn applied(&mut self, who: Who, incarnation: u64, generation: u64, now: Duration) {
        let current = self.current;
        let Some(child) = self.current_child_mut(who, incarnation) else {
            return;
        };
        if child.committing != Some(generation) {
            return;
        }
        child.committing = None;
        child.at = generation;
        if generation == current && matches!(child.phase, ChildPhase::Started { .. }) {
            child.phase = ChildPhase::Live { since: now };
        }
    }

    fn disowned(&mut self, by: SlotIdx, incarnation: u64, index: SlotIdx) {
        if self
            .current_child_mut(Who::Worker(by), incarnation)
            .is_none()
        {
            return;
        }
        let Some(slot) = self.slots.get_mut(usize::from(index.0)) else {
            return;
        };
        if by == index {
            slot.own = false;
            slot.own_disowning = false;
        } else {
            slot.disowning.retain(|&other| other != by);
        }
    }

    fn terminate(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.phase.is_stopping() {
            // The second one ends at once.
            let running: Vec<Who> = self
                .children()
                .filter(|(_, child)| child.runs())
                .map(|(who, _)| who)
                .collect();
            for who in running {
                actions.push(Action::Kill {
                    who,
                    reason: "told to stop twice",
                });
            }
            actions.push(Action::Exit);
            self.phase = Phase::Ended;
            return;
        }
        self.phase = Phase::Delaying {
            until: now + self.settings.drain_delay,
        };
        actions.push(Action::Stopping);
        if self.ready {
            self.ready = false;
            actions.push(Action::Ready { ready: false });
        }
        self.abandon_reload(now, actions);
    }

    /// Time in which the supervisor did not run is nobody's silence: the whole machine may have been paused.
    fn forgive(&mut self, lost: Duration) {
        for slot in &mut self.slots {
            // Handshakes that were on their way still are.
            if let SlotPhase::Retiring { since } = &mut slot.phase {
                *since += lost;
            }
        }
        // One tick's time counts, so that deadlines pass even where every tick is late.
        let lost = lost.saturating_sub(TICK);
        let workers = self.slots.iter_mut().map(|slot| &mut slot.child);
        for child in workers.chain([&mut self.monitor]) {
            child.asked += lost;
            if let ChildPhase::Started { since } = &mut child.phase {
                *since += lost;
            }
        }
        if let Some(reload) = &mut self.reload {
            reload.forgive(lost);
        }
    }

    /// A late child may have recovered unseen while the supervisor did not run: what it burned before is no evidence.
    fn look_again(&mut self, samples: &[super::event::Sample], now: Duration) {
        let steer_after = self.settings.steer_after;
        for sample in samples {
            if let Some(child) = self.child_mut(sample.who)
                && let ChildPhase::Late { late, cpu, .. } = &mut child.phase
            {
                *late = now;
                // The CPU time of one that is not late is not known: the next sample is the first.
                *cpu = match sample.beat_age >= steer_after {
                    true => sample.cpu,
                    false => Duration::MAX,
                };
            }
        }
    }

    /// Heartbeats: late ones are steered around; a kill only when the process is stopped or burns CPU without beating,
    /// and only one at a time, since a pause of the whole machine makes all of them late at once.
    fn judge(
        &mut self,
        samples: &[super::event::Sample],
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        if now < self.judge_not_before {
            return;
        }
        let settings = self.settings;
        let current = self.current;
        let mut kill_pending = self.children().any(|(_, child)| child.killed);
        for sample in samples {
            let who = sample.who;
            let Some(child) = self.child_mut(who) else {
                continue;
            };
            let late_now = sample.beat_age >= settings.steer_after;
            match child.phase {
                ChildPhase::Live { since } if late_now => {
                    child.phase = ChildPhase::Late {
                        since,
                        late: now,
                        cpu: sample.cpu,
                    };
                }
                ChildPhase::Late { since, .. } if !late_now => {
                    child.phase = ChildPhase::Live { since };
                }
                ChildPhase::Late { since, late, cpu } => {
                    let (late, cpu) = match sample.cpu < cpu {
                        true => (now, sample.cpu),
                        false => (late, cpu),
                    };
                    child.phase = ChildPhase::Late { since, late, cpu };
                    let used = sample.cpu.saturating_sub(cpu);
                    let burning = used * 2 >= now.saturating_sub(late) && !used.is_zero();
                    let hung = sample.stopped || burning;
                    if sample.beat_age >= settings.kill_after
                        && hung
                        && !kill_pending
                        && !child.killed
                    {
                        child.killed = true;
                        kill_pending = true;
                        actions.push(Action::Kill {
                            who,
                            reason: if sample.stopped {
                                "its heartbeat stopped, and so is the process"
                            } else {
                                "its heartbeat stopped while it burns CPU"
                            },
                        });
                    }
                }
                ChildPhase::Started { since } => {
                    if now.saturating_sub(since) >= START_DEADLINE && !child.killed {
                        child.killed = true;
                        actions.push(Action::Kill {
                            who,
                            reason: "it was not ready in time",
                        });
                    }
                }
                ChildPhase::Live { .. } => {
                    let unanswered = child.committing.is_some()
                        || child.preparing == Some(current) && !child.prepared;
                    if unanswered
                        && now.saturating_sub(child.asked) >= FOLLOW_DEADLINE
                        && !child.killed
                    {
                        child.killed = true;
                        actions.push(Action::Kill {
                            who,
                            reason: "it does not follow to the plan in force",
                        });
                    }
                }
                ChildPhase::Absent { .. } | ChildPhase::Draining { .. } => {}
            }
        }
    }
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

/// The first death is followed at once; after that each wait is twice the one before.
fn back_off(failures: u32) -> Duration {
    match failures {
        0 | 1 => Duration::ZERO,
        more => BACK_OFF_MIN
            .saturating_mul(1 << (more - 2).min(16))
            .min(BACK_OFF_MAX),
    }
}

pub(super) fn indexed(slots: &[Slot]) -> impl DoubleEndedIterator<Item = (SlotIdx, &Slot)> {
    slots.iter().enumerate().map(|(index, slot)| {
        let index = u16::try_from(index).unwrap_or(u16::MAX);
        (SlotIdx(index), slot)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_death_is_followed_at_once_and_later_ones_ever_more_slowly() {
        let waits: Vec<_> = (0..12).map(back_off).collect();
        assert_eq!(waits[1], Duration::ZERO);
        assert_eq!(waits[2], BACK_OFF_MIN);
        assert!(waits.is_sorted());
        assert_eq!(waits[11], BACK_OFF_MAX);
    }
}
