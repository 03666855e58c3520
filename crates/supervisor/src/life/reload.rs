//! A reload: compile, prepare the monitor, prepare the workers, switch; or leave everything as it was.
//!
//! ```text
//!  request --> Compiling --> Monitor --(prepared, gone or deadline)--> Workers --(all prepared)--> switch, commit
//!                 |             |                                        |
//!                 | errors      | refused                                | one refused, or deadline (that one is replaced)
//!                 v             v                                        v
//!              answer        abort everywhere, discard, answer: nothing has changed
//! ```
//!
//! What names stand for goes the same way, without a ticket: the file is not read, and nobody is answered. A request goes
//! first; a refusal is tried again after a while.

use std::time::Duration;

use super::event::{Action, Outcome, Ticket, Who};
use super::state::{Child, Settings, SlotPhase, State};

/// A worker that has not answered by then is replaced, and the reload is undone.
const WORKERS_DEADLINE: Duration = Duration::from_secs(5);

/// First verdicts of new backends are waited for at most this long.
const MONITOR_DEADLINE: Duration = Duration::from_secs(3);

/// Changed names that were refused are tried again after this long.
const NAMES_RETRY: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reload {
    /// None = only names have changed.
    pub(super) tickets: Vec<Ticket>,
    pub(super) stage: Stage,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Compiling,
    Monitor {
        generation: u64,
        settings: Settings,
        deadline: Duration,
    },
    Workers {
        generation: u64,
        settings: Settings,
    },
}

impl Reload {
    pub(super) fn forgive(&mut self, lost: Duration) {
        match &mut self.stage {
            Stage::Monitor { deadline, .. } => *deadline += lost,
            Stage::Compiling | Stage::Workers { .. } => {}
        }
    }
}

impl State {
    pub(super) fn reload_requested(&mut self, ticket: Ticket, actions: &mut Vec<Action>) {
        if self.phase.is_stopping() {
            actions.push(Action::Answer {
                tickets: vec![ticket],
                outcome: Outcome::Denied {
                    reason: "the daemon is stopping".to_owned(),
                },
            });
        } else {
            // However many ask while one is in progress, they share the next.
            self.queued.push(ticket);
        }
    }

    pub(super) fn compiled(
        &mut self,
        generation: u64,
        settings: Settings,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        self.set_stage(Stage::Monitor {
            generation,
            settings,
            deadline: now + MONITOR_DEADLINE,
        });
        if self.phase.is_stopping() {
            self.abandon_reload(now, actions);
        }
    }

    pub(super) fn refused(
        &mut self,
        who: Who,
        incarnation: u64,
        generation: u64,
        reason: &str,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        let current = self.current;
        let Some(child) = self.current_child_mut(who, incarnation) else {
            return;
        };
        if child.preparing != Some(generation) {
            return;
        }
        child.preparing = None;
        child.prepared = false;
        if generation == current {
            // It cannot take the plan that everybody else has: another process might.
            self.kill(who, "it refused the plan in force", actions);
        } else if self.reload_generation() == Some(generation) {
            self.fail_reload(&format!("{who} refused: {reason}"), now, actions);
        }
    }

    /// Goes as far as it can with the reload at hand, and begins the next where one is wanted.
    pub(super) fn reconcile_reload(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let names_due = self.names_changed && now >= self.names_not_before;
        if self.reload.is_none()
            && (!self.queued.is_empty() || names_due)
            && !self.phase.is_stopping()
            && self.monitor_or_worker_has_been_ready()
        {
            // The file may have errors, so that only a turn of their own settles what names stand for.
            let tickets = std::mem::take(&mut self.queued);
            if tickets.is_empty() {
                self.names_changed = false;
            }
            actions.push(Action::Compile {
                tickets: tickets.clone(),
            });
            self.reload = Some(Reload {
                tickets,
                stage: Stage::Compiling,
            });
        }
        loop {
            let Some(reload) = &self.reload else { return };
            match reload.stage {
                Stage::Compiling => return,
                Stage::Monitor {
                    generation,
                    settings,
                    deadline,
                } => {
                    let takes_part = self.monitor.serves() && self.monitor.at == self.current;
                    if takes_part && self.monitor.preparing.is_none() {
                        self.monitor.prepare(generation, now);
                        actions.push(Action::Prepare {
                            who: Who::Monitor,
                            generation,
                        });
                    }
                    let waits = takes_part && !self.monitor.prepared && self.ticked < deadline;
                    if waits {
                        return;
                    }
                    self.set_stage(Stage::Workers {
                        generation,
                        settings,
                    });
                }
                Stage::Workers {
                    generation,
                    settings,
                } => {
                    self.prepare_workers(generation, now, actions);
                    let unanswered = |(who, child): &(Who, &Child)| {
                        *who != Who::Monitor
                            && child.preparing == Some(generation)
                            && !child.prepared
                    };
                    // Whoever is still on its way to the plan in force is asked when it is there: all switch at one instant.
                    // FOLLOW_DEADLINE ends the wait for one that never arrives.
                    let follows = |(who, child): (Who, &Child)| {
                        who != Who::Monitor
                            && child.serves()
                            && !child.killed
                            && !self.is_closing(who)
                            && child.preparing != Some(generation)
                    };
                    if self.children().any(follows) {
                        return;
                    }
                    if !self.children().any(|child| unanswered(&child)) {
                        self.switch(generation, settings, now, actions);
                        return;
                    }
                    // Each has its own time: one that became ready in the middle was asked later.
                    let silent: Vec<Who> = self
                        .children()
                        .filter(unanswered)
                        .filter(|(_, child)| {
                            self.ticked.saturating_sub(child.asked) >= WORKERS_DEADLINE
                        })
                        .map(|(who, _)| who)
                        .collect();
                    if !silent.is_empty() {
                        for &who in &silent {
                            self.kill(who, "it did not answer to a new plan", actions);
                        }
                        let names: Vec<_> = silent.iter().map(Who::to_string).collect();
                        self.fail_reload(
                            &format!("{} did not answer in time", names.join(", ")),
                            now,
                            actions,
                        );
                    }
                    return;
                }
            }
        }
    }

    /// A reload before the first plan has arrived anywhere would only race with the start.
    fn monitor_or_worker_has_been_ready(&self) -> bool {
        self.children().any(|(_, child)| child.serves())
    }

    fn prepare_workers(&mut self, generation: u64, now: Duration, actions: &mut Vec<Action>) {
        let current = self.current;
        for index in 0..self.slots.len() {
            let closing = self.slots[index].phase == SlotPhase::Closing;
            let child = &mut self.slots[index].child;
            let takes_part = !closing
                && child.serves()
                && child.at == current
                && child.committing.is_none()
                && child.preparing.is_none()
                && !child.killed;
            if takes_part {
                child.prepare(generation, now);
                let slot = evenkeel_plan::SlotIdx(u16::try_from(index).unwrap_or(u16::MAX));
                actions.push(Action::Prepare {
                    who: Who::Worker(slot),
                    generation,
                });
            }
        }
    }

    fn switch(
        &mut self,
        generation: u64,
        settings: Settings,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        self.current = generation;
        // Names change no settings, and what could not be opened is not tried again for them.
        if self
            .reload
            .as_ref()
            .is_some_and(|reload| !reload.tickets.is_empty())
        {
            self.settings = settings;
        }
        actions.push(Action::Switch { generation });
        let prepared: Vec<Who> = self
            .children()
            .filter(|(_, child)| child.preparing == Some(generation) && child.prepared)
            .map(|(who, _)| who)
            .collect();
        for who in prepared {
            if let Some(child) = self.child_mut(who) {
                child.commit(generation, now);
                actions.push(Action::Commit { who, generation });
            }
        }
        if let Some(reload) = self.reload.take()
            && !reload.tickets.is_empty()
        {
            actions.push(Action::Answer {
                tickets: reload.tickets,
                outcome: Outcome::Applied { generation },
            });
        }
    }

    fn set_stage(&mut self, stage: Stage) {
        if let Some(reload) = &mut self.reload {
            reload.stage = stage;
        }
    }

    pub(super) fn reload_generation(&self) -> Option<u64> {
        match self.reload.as_ref()?.stage {
            Stage::Compiling => None,
            Stage::Monitor { generation, .. } | Stage::Workers { generation, .. } => {
                Some(generation)
            }
        }
    }

    fn fail_reload(&mut self, reason: &str, now: Duration, actions: &mut Vec<Action>) {
        if let Some(generation) = self.reload_generation() {
            let preparing: Vec<Who> = self
                .children()
                .filter(|(_, child)| child.preparing == Some(generation))
                .map(|(who, _)| who)
                .collect();
            for who in preparing {
                if let Some(child) = self.child_mut(who) {
                    child.preparing = None;
                    child.prepared = false;
                    actions.push(Action::Abort { who, generation });
                }
            }
            actions.push(Action::Discard { generation });
        }
        if let Some(reload) = self.reload.take() {
            if reload.tickets.is_empty() {
                self.names_changed = true;
                self.names_not_before = now + NAMES_RETRY;
                return;
            }
            actions.push(Action::Answer {
                tickets: reload.tickets,
                outcome: Outcome::Failed {
                    reason: reason.to_owned(),
                },
            });
        }
    }

    /// A stop has the right of way. One that is compiling is thrown away when its result comes.
    pub(super) fn abandon_reload(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let reason = "the daemon is stopping";
        if self.reload_generation().is_some() {
            self.fail_reload(reason, now, actions);
        }
        let queued = std::mem::take(&mut self.queued);
        if !queued.is_empty() {
            actions.push(Action::Answer {
                tickets: queued,
                outcome: Outcome::Denied {
                    reason: reason.to_owned(),
                },
            });
        }
    }
}
