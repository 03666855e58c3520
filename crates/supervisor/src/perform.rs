//! Carries out what the machine decides.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use evenkeel_config::DurationText;
use evenkeel_control::child::{
    CookieKeys, Descriptor, FromChild, GateReport, Hello, OrphanRule, Report, Resolved, Secrets,
    ToChild,
};
use evenkeel_control::operator::{Answer, LastReload, Request};
use evenkeel_plan::{Address, BackendCell, Plan, Sealed, SlotIdx, Spec};
use evenkeel_scoreboard::{GlobalCount, ListenerCount, Scoreboard, SlotState};
use evenkeel_sys::clock::{monotonic_ms, unix_seconds};
use evenkeel_sys::process::{ExitStatus, Identity};
use sd_notify::NotifyState;
use tokio::sync::{mpsc, oneshot};

use crate::access_log::AccessLog;
use crate::admin::{self, Admins};
use crate::cells::{CellTable, Holders};
use crate::children::{Children, FromTasks};
use crate::compile::{self, Metrics, Pending, Read};
use crate::events::Events;
use crate::keep::Keeper;
use crate::life::{
    Action, ChildPhase, Event, Outcome, Phase, Sample, Slot, SlotPhase, State, Ticket, Who,
};
use crate::operators::{Asked, Reply, reply};
use crate::rights;
use crate::seal::{self, Names};
use crate::secrets;
use crate::sockets::Sockets;
use crate::store::Store;
use crate::why::Questions;
use crate::workers::Machine;

/// A tick that comes later than this after the one before means that this process did not get to run.
const ON_TIME: Duration = Duration::from_millis(300);

/// Kernel clock ticks are hundredths of a second (USER_HZ).
const CPU_TICK: Duration = Duration::from_millis(10);

/// Most reports or names in one message: each has well under a kilobyte, and a message must stay below its limit.
const SEEDS_MAX: usize = 48;

/// Everything that the executor holds.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(crate) config: PathBuf,
    pub(crate) machine: Machine,
    pub(crate) identity: Option<Identity>,
    pub(crate) store: Store,
    pub(crate) state: State,
    pub(crate) board: Scoreboard,
    pub(crate) board_fd: Arc<OwnedFd>,
    pub(crate) plan: Plan,
    pub(crate) spec: Spec,
    pub(crate) table: CellTable,
    pub(crate) holders: Holders,
    pub(crate) next_generation: u64,
    pub(crate) pending: Option<Pending>,
    pub(crate) sockets: Sockets,
    pub(crate) metrics: Metrics,
    pub(crate) access_log: AccessLog,
    pub(crate) children: Children,
    pub(crate) logs: Logs,
    pub(crate) reunion: Option<Arc<OwnedFd>>,
    pub(crate) reports: Reports,
    /// Why services' gates are as they are, by service.
    pub(crate) gates: HashMap<String, GateReport>,
    /// The last good answer of each.
    pub(crate) names: Names,
    pub(crate) secrets: Secrets,
    pub(crate) cookie_keys: CookieKeys,
    pub(crate) doorbells: BTreeMap<SlotIdx, Arc<OwnedFd>>,
    pub(crate) admin: Admins,
    pub(crate) events: Events,
    pub(crate) questions: Questions,
    pub(crate) next_question: u64,
    pub(crate) keeper: Keeper,
    pub(crate) compiling: Vec<Ticket>,
    pub(crate) answers: HashMap<Ticket, oneshot::Sender<Reply>>,
    pub(crate) next_ticket: u64,
    /// The answer to the reload that was just put in force.
    pub(crate) applied: Option<Answer>,
    pub(crate) last_reload: Option<LastReload>,
    pub(crate) warnings: Vec<String>,
    /// What went wrong at the start.
    pub(crate) start_warnings: Vec<String>,
    pub(crate) descriptor_limit: u64,
    pub(crate) deltas: BTreeMap<(u64, u64), Arc<OwnedFd>>,
    pub(crate) read: mpsc::UnboundedSender<Read>,
    pub(crate) began: Instant,
    pub(crate) last_tick: Instant,
    pub(crate) last_watchdog: Instant,
    pub(crate) ended: bool,
}

/// What the monitor last said of backends.
pub(crate) type Reports = HashMap<BackendCell, Report>;

/// Line channels by source. Both ends are kept here, so that nothing is lost while a writer or the reader is away.
pub(crate) type Logs = BTreeMap<String, (Arc<OwnedFd>, Arc<OwnedFd>)>;

impl Supervisor {
    /// Takes in one event and everything that follows from it.
    pub(crate) fn take(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let now = self.began.elapsed();
            for action in self.state.step(event, now) {
                self.perform(action, &mut events);
            }
        }
        self.publish();
    }

    /// What a child's tasks say.
    pub(crate) fn child_event(&mut self, event: FromTasks) {
        match event {
            FromTasks::Message {
                who,
                incarnation,
                message,
            } => self.message(who, incarnation, message),
            FromTasks::Exited {
                who,
                incarnation,
                status,
            } => {
                let asked = self
                    .state
                    .child(who)
                    .is_some_and(|child| matches!(child.phase, ChildPhase::Draining { .. }));
                let words = match status {
                    ExitStatus::Code(0) if asked => {
                        tracing::info!(%who, "ended");
                        "ended".to_owned()
                    }
                    ExitStatus::Code(code) => {
                        tracing::error!(%who, code, "ended unexpectedly");
                        format!("ended unexpectedly with code {code}")
                    }
                    ExitStatus::Signal(signal) => {
                        tracing::error!(%who, signal, "was killed by a signal");
                        format!("was killed by signal {signal}")
                    }
                };
                self.happened("process", &who.to_string(), words);
                self.children.remove(who, incarnation);
                if who == Who::Monitor {
                    self.answer_overdue(true);
                }
                self.holders.ended(who);
                self.free_cells();
                self.take(Event::Exited { who, incarnation });
            }
        }
    }

    fn message(&mut self, who: Who, incarnation: u64, message: FromChild) {
        let is_current = self
            .children
            .get(who)
            .is_some_and(|running| running.incarnation == incarnation);
        if !is_current {
            return;
        }
        match message {
            FromChild::Taken { .. } => {}
            FromChild::NotTaken { reason } => {
                tracing::warn!(%who, reason, "did not take descriptors")
            }
            FromChild::Prepared { generation } => self.take(Event::Prepared {
                who,
                incarnation,
                generation,
            }),
            FromChild::Refused { generation, reason } => {
                tracing::warn!(%who, generation, reason, "refused a plan");
                // It has dropped what was sent for it.
                self.forget_sent_for_prepare(who);
                self.take(Event::Refused {
                    who,
                    incarnation,
                    generation,
                    reason,
                });
            }
            FromChild::Lingering { cells, .. } => self.holders.lingering(who, &cells),
            FromChild::Applied { generation } => {
                self.holders.applied(who, generation);
                self.free_cells();
                self.take(Event::Applied {
                    who,
                    incarnation,
                    generation,
                });
            }
            FromChild::Released { cells } => {
                self.holders.released(who, &cells);
                self.free_cells();
            }
            FromChild::Disowned { slot } => {
                if let Some(running) = self.children.get_mut(who) {
                    running
                        .sent
                        .retain(|descriptor| !is_of_slot(descriptor, slot));
                }
                if let Who::Worker(by) = who {
                    self.take(Event::Disowned {
                        by,
                        incarnation,
                        slot,
                    });
                }
            }
            FromChild::Drained { cut } => tracing::info!(%who, cut, "drained"),
            FromChild::Verdicts { reports } => {
                for report in reports {
                    let state = report.state.clone();
                    let before = self.reports.insert(report.backend, report);
                    if before.is_some_and(|before| before.state == state) {
                        self.keeper.answers();
                    } else {
                        self.keeper.news();
                    }
                }
            }
            FromChild::Resolved(resolved) => self.resolved(resolved),
            FromChild::Events { events } => {
                for event in events {
                    self.events.push(event);
                }
            }
            FromChild::Explained {
                ticket,
                explanation,
            } => self.explained(ticket, explanation),
            FromChild::Gates { gates } => {
                for gate in gates {
                    self.gates.insert(gate.service.clone(), gate);
                }
            }
        }
    }

    /// A name stands for other addresses than before: a plan that names it follows.
    fn resolved(&mut self, resolved: Resolved) {
        let Resolved { address, endpoints } = resolved;
        if endpoints.is_empty() || self.names.get(&address) == Some(&endpoints) {
            return;
        }
        self.names.insert(address.clone(), endpoints);
        self.keeper.news();
        let wanted = seal::endpoints(&address, &self.names);
        let pending = self.pending.as_ref().map(|pending| &pending.sealed.plan);
        let behind = |plan: &Plan| {
            plan.services().any(|sealed| {
                let mut backends = sealed.record().backends();
                backends.any(|b| b.spec.address == address && b.endpoints != wanted)
            })
        };
        if behind(&self.plan) || pending.is_some_and(behind) {
            self.take(Event::NamesChanged);
        }
    }

    fn forget_sent_for_prepare(&mut self, who: Who) {
        if let Some(running) = self.children.get_mut(who) {
            for descriptor in std::mem::take(&mut running.sent_for_prepare) {
                running.sent.remove(&descriptor);
            }
        }
    }

    pub(crate) fn free_cells(&mut self) {
        let board = self.board;
        let is_idle = |cell| board.sum_listener(cell, ListenerCount::Active) == 0;
        for cell in self.table.free(&self.holders, is_idle) {
            self.reports.remove(&cell);
        }
    }

    /// What an operator asks for.
    pub(crate) fn asked(&mut self, asked: Asked) {
        if self.children.has_pid(asked.peer.pid) {
            let reason = "the daemon's own children may not control it".to_owned();
            reply(asked.answer, Answer::Denied { reason });
            return;
        }
        match asked.request {
            Request::Status => {
                let status = Box::new(self.status());
                reply(asked.answer, Answer::Status(status));
            }
            Request::Reload => {
                tracing::info!(
                    uid = asked.peer.uid,
                    pid = asked.peer.pid,
                    "reload asked for"
                );
                self.request_reload(Some(asked.answer));
            }
            Request::Backend { name, action } => {
                let answer = self.take_admin(&name, action, &asked.by);
                reply(asked.answer, answer);
            }
            Request::Why { name } => self.ask_why(&name, asked.answer),
            Request::Events { follow } => {
                let answer = match self.events.subscribe(follow) {
                    Ok(subscription) => Reply::Events(subscription),
                    Err(reason) => Reply::Answer(Answer::Denied { reason }),
                };
                // Whoever asked may have gone.
                drop(asked.answer.send(answer));
            }
        }
    }

    /// Asks the machine for a reload.
    pub(crate) fn request_reload(&mut self, answer: Option<oneshot::Sender<Reply>>) {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        if let Some(answer) = answer {
            self.answers.insert(ticket, answer);
        }
        self.take(Event::ReloadRequested { ticket });
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self) {
        let now = Instant::now();
        let on_time = now.duration_since(self.last_tick) < ON_TIME;
        self.last_tick = now;
        let now_ms = monotonic_ms();
        self.board.set(GlobalCount::SupervisorBeat, now_ms);
        self.answer_overdue(false);
        self.keep_if_due();
        let samples = self.samples(now_ms);
        let retiring = self
            .state
            .slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| matches!(slot.phase, SlotPhase::Retiring { .. }))
            .filter_map(|(index, _)| u16::try_from(index).ok().map(SlotIdx));
        let queued = self.sockets.queued(retiring);
        if let Some(interval) = self.store.watchdog()
            && on_time
            && now.duration_since(self.last_watchdog) >= interval / 3
        {
            self.last_watchdog = now;
            self.store.notify(&[NotifyState::Watchdog]);
        }
        self.take(Event::Tick {
            on_time,
            samples,
            queued,
        });
    }

    fn samples(&self, now_ms: u64) -> Vec<Sample> {
        let steer_after = self.state.settings.steer_after;
        self.children
            .iter()
            .map(|(who, running)| {
                let beat = match who {
                    Who::Monitor => self.board.get(GlobalCount::MonitorBeat),
                    Who::Worker(slot) => self.board.slot(slot).last_beat(),
                };
                let beat_age = Duration::from_millis(now_ms.saturating_sub(beat));
                // Only a late one is worth a look at /proc.
                let vitals = (beat_age >= steer_after)
                    .then(|| evenkeel_sys::process::vitals(running.pid))
                    .flatten();
                let ticks = vitals.map_or(0, |vitals| vitals.cpu_ticks);
                Sample {
                    who,
                    beat_age,
                    stopped: vitals.is_some_and(|vitals| vitals.stopped),
                    cpu: CPU_TICK.saturating_mul(u32::try_from(ticks).unwrap_or(u32::MAX)),
                }
            })
            .collect()
    }

    fn perform(&mut self, action: Action, events: &mut VecDeque<Event>) {
        match action {
            Action::Spawn { who, incarnation } => {
                if let Err(error) = self.spawn(who, incarnation) {
                    tracing::error!(%who, %error, "cannot start");
                    let words = format!("cannot be started: {error}");
                    self.happened("process", &who.to_string(), words);
                    events.push_back(Event::SpawnFailed { who, incarnation });
                }
            }
            Action::Kill { who, reason } => {
                tracing::error!(%who, reason, "killed");
                self.happened("process", &who.to_string(), format!("killed: {reason}"));
                self.children.kill(who);
            }
            Action::Settle { slot, crashed } => self.settle(slot, crashed),
            Action::Prepare { who, generation } => self.prepare(who, generation),
            Action::Commit { who, generation } => self.commit(who, generation),
            Action::Abort { who, generation } => {
                self.forget_sent_for_prepare(who);
                if let Some(running) = self.children.get_mut(who) {
                    running.send(ToChild::Abort { generation });
                }
            }
            Action::Switch { generation } => self.switch(generation),
            Action::Discard { generation } => {
                tracing::warn!(generation, "threw a new plan away; what ran runs on");
                self.sockets.discard();
                self.pending = None;
                self.deltas.clear();
            }
            // What names stand for. In a turn of its own, after all that these actions have led to.
            Action::Compile { tickets } if tickets.is_empty() => {
                drop(self.read.send(Read::Names));
            }
            Action::Compile { tickets } => {
                self.store.notify(&reloading());
                self.compiling = tickets;
                let (path, result) = (self.config.clone(), self.read.clone());
                drop(tokio::task::spawn_local(async move {
                    drop(result.send(compile::read(path).await));
                }));
            }
            Action::Answer { tickets, outcome } => self.outcome(tickets, outcome),
            // The one before could not be opened; the machine is about to hear of it.
            Action::Open { slot } if slot.0 > self.sockets.open_slots() => {}
            Action::Open { slot } => {
                if let Err(error) = self.sockets.open(slot, &self.store) {
                    tracing::error!(%slot, %error, cause = %error.source, "cannot open a slot; going on with fewer workers");
                    self.warnings.push(format!(
                        "only {} workers: failed to {error}: {}",
                        slot.0, error.source
                    ));
                    events.push_back(Event::OpenFailed { slot });
                }
            }
            Action::Close { slot } => self.sockets.close(slot, &self.store),
            Action::Steer { live } => self.sockets.steer(&live),
            Action::Adopt { slot, by } => {
                tracing::info!(%slot, %by, "accepts for a slot without a worker");
                let sockets = self.sockets.of_slot(&self.plan, slot);
                if let Some(running) = self.children.get_mut(Who::Worker(by)) {
                    running.send_descriptors(listeners(sockets, slot), false);
                    running.send(ToChild::Adopt { slot });
                }
            }
            Action::Disown { slot, by } => {
                if let Some(running) = self.children.get_mut(Who::Worker(by)) {
                    running.send(ToChild::Disown { slot });
                }
            }
            Action::Drain { who, deadline } => {
                if let Some(running) = self.children.get_mut(who) {
                    running.send(ToChild::Drain { deadline });
                }
            }
            Action::CloseAll => self.sockets.close_all(),
            Action::Ready { ready } => {
                self.board.set(GlobalCount::Ready, u64::from(ready));
                if ready {
                    let workers = self.state.settings.workers;
                    tracing::info!(workers, services = self.plan.services().len(), "ready");
                    let status =
                        format!("{workers} workers, {} services", self.plan.services().len());
                    self.store
                        .notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
                }
            }
            Action::Stopping => {
                tracing::info!(
                    delay = %DurationText(self.state.settings.drain_delay),
                    deadline = %DurationText(self.state.settings.drain_deadline),
                    "stopping"
                );
                self.store.notify(&[NotifyState::Stopping]);
            }
            Action::Exit => self.ended = true,
        }
    }

    fn spawn(&mut self, who: Who, incarnation: u64) -> std::io::Result<()> {
        let source = source(who);
        let is_new = !self.logs.contains_key(&source);
        let (sender, receiver) = log_channel(&mut self.logs, &source)?;
        if let Who::Worker(slot) = who {
            self.have_doorbell(slot)?;
        }
        let slot = match who {
            Who::Monitor => SlotIdx(0),
            Who::Worker(slot) => slot,
        };
        let hello = Hello {
            slot,
            incarnation,
            parity: 0,
            cpu: match who {
                Who::Monitor => None,
                Who::Worker(slot) => self.machine.cpu(slot.0, self.state.settings.workers),
            },
            become_user: self.identity.as_ref().map(|user| (user.uid, user.gid)),
            keep_net_raw: who != Who::Monitor && self.needs_net_raw(),
            orphan: if self.store.keeps() {
                OrphanRule::Drain
            } else {
                OrphanRule::ServeOn
            },
            supervisor: std::process::id(),
        };
        let now_ms = monotonic_ms();
        match who {
            Who::Monitor => {
                self.board.set(GlobalCount::MonitorIncarnation, incarnation);
                self.board.set(GlobalCount::MonitorBeat, now_ms);
            }
            Who::Worker(slot) => {
                let used = self
                    .board
                    .get(GlobalCount::SlotsUsed)
                    .max(u64::from(slot.0) + 1);
                self.board.set(GlobalCount::SlotsUsed, used);
                self.board.slot(slot).set_incarnation(incarnation);
                self.board.slot(slot).beat(now_ms);
                self.holders.started(who);
            }
        }
        let pid = self.children.spawn(who, incarnation, hello)?;
        tracing::info!(%who, pid, incarnation, "started");
        self.happened("process", &who.to_string(), format!("started, pid {pid}"));
        let mut descriptors = vec![
            (Descriptor::Scoreboard, Arc::clone(&self.board_fd)),
            (Descriptor::LogSender, sender),
        ];
        descriptors.extend(
            self.reunion
                .clone()
                .map(|socket| (Descriptor::Reunion, socket)),
        );
        if who == Who::Monitor {
            descriptors.extend(self.logs.iter().map(|(source, (_, receiver))| {
                let source = source.clone();
                (Descriptor::LogReceiver { source }, Arc::clone(receiver))
            }));
        } else if is_new && let Some(monitor) = self.children.get_mut(Who::Monitor) {
            let lines = (Descriptor::LogReceiver { source }, receiver);
            monitor.send_descriptors([lines], false);
        }
        let bells = self.doorbells.iter();
        descriptors
            .extend(bells.map(|(&slot, bell)| (Descriptor::Doorbell { slot }, Arc::clone(bell))));
        let seeds: Vec<Report> = self.reports.values().cloned().collect();
        let names: Vec<Resolved> = self
            .names
            .iter()
            .map(|(address, endpoints)| Resolved {
                address: address.clone(),
                endpoints: endpoints.clone(),
            })
            .collect();
        if let Some(running) = self.children.get_mut(who) {
            running.send_descriptors(descriptors, false);
            if who == Who::Monitor {
                for reports in seeds.chunks(SEEDS_MAX) {
                    running.send(ToChild::Seed {
                        reports: reports.to_vec(),
                    });
                }
                for names in names.chunks(SEEDS_MAX) {
                    running.send(ToChild::SeedNames {
                        names: names.to_vec(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Makes the bell of a slot when it is not there yet, and tells everybody who runs. It is kept over all workers of the slot.
    fn have_doorbell(&mut self, slot: SlotIdx) -> std::io::Result<()> {
        if self.doorbells.contains_key(&slot) {
            return Ok(());
        }
        let bell = Arc::new(evenkeel_sys::doorbell::new()?);
        for running in self.children.iter_mut() {
            let bell = (Descriptor::Doorbell { slot }, Arc::clone(&bell));
            running.send_descriptors([bell], false);
        }
        self.doorbells.insert(slot, bell);
        Ok(())
    }

    /// Whether a worker that is started now must be able to connect from clients' addresses: by the plan in force, or by the one
    /// that is about to be.
    fn needs_net_raw(&self) -> bool {
        let pending = self.pending.as_ref().map(|pending| &pending.sealed.plan);
        let plans = std::iter::once(&self.plan).chain(pending);
        let mut services = plans.flat_map(Plan::services);
        let asks =
            |sealed: &Arc<Sealed>| rights::needs_net_raw(std::iter::once(&sealed.record().spec));
        services.any(asks) && evenkeel_sys::process::has_net_raw()
    }

    fn settle(&mut self, slot: SlotIdx, crashed: bool) {
        let table = &self.table;
        let (services, listeners) = (table.service_cells(), table.listener_cells());
        let died = self
            .board
            .settle(slot, 0, services, listeners, table.backend_cells());
        if crashed {
            self.board.slot(slot).add_crash();
        }
        if died > 0 {
            tracing::warn!(%slot, connections = died, "connections died with their worker");
        }
    }

    fn target(&self, generation: u64) -> Option<&Plan> {
        if generation == self.plan.generation {
            return Some(&self.plan);
        }
        let pending = self.pending.as_ref().map(|pending| &pending.sealed.plan);
        pending.filter(|plan| plan.generation == generation)
    }

    fn prepare(&mut self, who: Who, generation: u64) {
        let Some(target) = self.target(generation).cloned() else {
            return;
        };
        let Some(base) = self.children.get(who).map(|running| running.base.clone()) else {
            return;
        };
        let key = (base.generation, generation);
        let delta = match self.deltas.get(&key) {
            Some(delta) => Arc::clone(delta),
            None => {
                let bytes = target.delta_from(&base).encode();
                match evenkeel_sys::blob::seal("evenkeel-plan", &bytes) {
                    Ok(blob) => {
                        let blob = Arc::new(blob);
                        self.deltas.insert(key, Arc::clone(&blob));
                        blob
                    }
                    Err(error) => {
                        // The child will miss its delta and refuse.
                        tracing::error!(%error, "cannot make a plan delta");
                        Arc::clone(&self.board_fd)
                    }
                }
            }
        };
        let mut descriptors = vec![(Descriptor::Delta { generation }, delta)];
        match who {
            Who::Monitor => {
                let pending = self.pending.as_ref();
                let (metrics, secrets, access_log) = pending
                    .filter(|pending| pending.sealed.plan.generation == generation)
                    .map_or(
                        (&self.metrics, &self.secrets, &self.access_log),
                        |pending| (&pending.metrics, &pending.secrets, &pending.access_log),
                    );
                descriptors.extend(
                    access_log
                        .clone()
                        .map(|file| (Descriptor::AccessLog { generation }, file)),
                );
                match secret_blob(secrets) {
                    Ok(blob) => {
                        descriptors.push((Descriptor::Secrets { generation }, Arc::new(blob)));
                    }
                    // The monitor says of each check that lacks its secret.
                    Err(error) => tracing::error!(%error, "cannot pass secrets on"),
                }
                descriptors.extend(metrics.values().map(|(address, socket)| {
                    (
                        Descriptor::Metrics { address: *address },
                        Arc::clone(socket),
                    )
                }));
            }
            Who::Worker(slot) => {
                descriptors.extend(listeners(self.sockets.of_slot(&target, slot), slot));
                let pending = self.pending.as_ref();
                let keys = pending
                    .filter(|pending| pending.sealed.plan.generation == generation)
                    .map_or(&self.cookie_keys, |pending| &pending.cookie_keys);
                match secrets::for_workers(keys, &target).map(secret_blob) {
                    Some(Ok(blob)) => {
                        descriptors.push((Descriptor::CookieKeys { generation }, Arc::new(blob)));
                    }
                    // The worker will miss them and refuse.
                    Some(Err(error)) => tracing::error!(%error, "cannot pass keys of cookies on"),
                    None => {}
                }
            }
        }
        if let Some(running) = self.children.get_mut(who) {
            running.send_descriptors(descriptors, true);
            running.send(ToChild::Prepare { generation });
        }
    }

    fn commit(&mut self, who: Who, generation: u64) {
        let plan = self.plan.clone();
        let named: Vec<_> = plan
            .listeners()
            .map(|(listener, _)| listener.cell)
            .collect();
        let metrics: Vec<_> = self.metrics.values().map(|(address, _)| *address).collect();
        if let Some(running) = self.children.get_mut(who) {
            running.base = plan;
            running.sent_for_prepare.clear();
            // What the plan does not name the child closes by itself.
            running.sent.retain(|descriptor| match descriptor {
                Descriptor::Listener { listener, .. } => named.contains(listener),
                Descriptor::Metrics { address } => metrics.contains(address),
                Descriptor::Delta { .. }
                | Descriptor::Secrets { .. }
                | Descriptor::CookieKeys { .. }
                | Descriptor::AccessLog { .. } => false,
                Descriptor::Doorbell { .. }
                | Descriptor::Scoreboard
                | Descriptor::LogSender
                | Descriptor::LogReceiver { .. }
                | Descriptor::Reunion => true,
            });
            running.send(ToChild::Commit { generation });
        }
    }

    fn switch(&mut self, generation: u64) {
        let Some(pending) = self.pending.take() else {
            return;
        };
        let plan = pending.sealed.plan;
        if let Err(error) = self.sockets.commit(&plan, &self.store) {
            // Bound before, so only the kernel's memory can be at fault; the others listen.
            tracing::error!(%error, cause = %error.source, "a new listener does not listen");
        }
        seal::carry_schedulers(&self.board, &self.plan, &plan);
        let now_unix = unix_seconds();
        let said = admin::settle(&mut self.admin, &plan, now_unix);
        admin::seed(&self.board, &self.admin, &self.plan, &plan);
        self.board.switch_generation(generation);
        self.plan = plan;
        self.table = pending.sealed.table;
        self.metrics = pending.metrics;
        self.access_log = pending.access_log;
        self.deltas.clear();
        self.free_cells();
        let Some(of_file) = pending.of_file else {
            tracing::debug!(generation, "names stand for other addresses");
            return;
        };
        self.spec = pending.spec;
        self.secrets = pending.secrets;
        self.cookie_keys = pending.cookie_keys;
        self.forget_unnamed();
        if !said.is_empty() {
            self.keep_soon();
        }
        evenkeel_log::set_spec(self.plan.globals.log);
        self.warn_about_limits();
        for change in &of_file.changes {
            tracing::info!(generation, "{change}");
        }
        for warning in &said {
            tracing::warn!("{warning}");
        }
        let mut warnings = of_file.warnings;
        warnings.extend(said);
        let answer = Answer::Reloaded {
            generation,
            changes: of_file.changes,
            warnings,
        };
        self.remember_reload(true, &answer);
        self.applied = Some(answer);
    }

    /// Names and gates that the plan does not name any more.
    pub(crate) fn forget_unnamed(&mut self) {
        let named: HashSet<&Address> = self
            .plan
            .services()
            .flat_map(|sealed| sealed.record().spec.backends.iter())
            .map(|backend| &backend.address)
            .collect();
        self.names.retain(|address, _| named.contains(address));
        let plan = &self.plan;
        self.gates
            .retain(|service, _| plan.service(service).is_some());
    }

    fn outcome(&mut self, tickets: Vec<Ticket>, outcome: Outcome) {
        let answer = match outcome {
            Outcome::Applied { generation } => {
                self.applied.take().unwrap_or_else(|| Answer::Reloaded {
                    generation,
                    changes: Vec::new(),
                    warnings: Vec::new(),
                })
            }
            Outcome::Failed { reason } => {
                let answer = Answer::Failed { reason };
                self.remember_reload(false, &answer);
                answer
            }
            Outcome::Denied { reason } => Answer::Denied { reason },
        };
        self.answer(tickets, &answer);
    }

    pub(crate) fn answer(&mut self, tickets: Vec<Ticket>, answer: &Answer) {
        if self.state.phase == Phase::Running {
            self.store.notify(&[NotifyState::Ready]);
        }
        for ticket in tickets {
            if let Some(waiting) = self.answers.remove(&ticket) {
                reply(waiting, answer.clone());
            }
        }
    }

    pub(crate) fn remember_reload(&mut self, applied: bool, answer: &Answer) {
        let message = match answer {
            Answer::Reloaded { changes, .. } => format!("{} changes", changes.len()),
            Answer::Invalid { problems, .. } => {
                let first = problems.first().map_or("", String::as_str);
                format!(
                    "{} errors in the configuration; the first: {first}",
                    problems.len()
                )
            }
            Answer::Failed { reason } | Answer::Denied { reason } => reason.clone(),
            Answer::Status(_)
            | Answer::Backend { .. }
            | Answer::Why(_)
            | Answer::Event(_)
            | Answer::EventsEnd => String::new(),
        };
        if applied {
            tracing::info!(generation = self.plan.generation, message, "reloaded");
        } else {
            tracing::error!(message, "reload refused; what ran runs on");
        }
        let words = match applied {
            true => format!("applied, generation {}: {message}", self.plan.generation),
            false => format!("refused; what ran runs on: {message}"),
        };
        self.happened("reload", "", words);
        let at_unix = unix_seconds();
        let count = if applied {
            GlobalCount::ReloadsApplied
        } else {
            GlobalCount::ReloadsRefused
        };
        self.board.add(count, 1);
        self.board.set(GlobalCount::LastReload, at_unix);
        self.board
            .set(GlobalCount::LastReloadApplied, u64::from(applied));
        self.last_reload = Some(LastReload {
            at_unix,
            applied,
            message,
        });
    }

    /// Too few descriptors for what is configured: said at the start, at each reload and in `status`.
    pub(crate) fn warn_about_limits(&mut self) {
        const CONNECTIONS: u64 = 1_000;
        const BESIDES: u64 = 128;
        self.warnings.clear();
        let sockets = self.sockets.len() as u64;
        let listeners = self.plan.listeners().count() as u64;
        let need = (sockets + BESIDES).max(listeners + 2 * CONNECTIONS + BESIDES);
        if self.descriptor_limit < need {
            let warning = format!(
                "the limit on descriptors is {}, and this configuration needs at least {need} (listening sockets, and {CONNECTIONS} connections a worker); raise LimitNOFILE",
                self.descriptor_limit
            );
            tracing::warn!("{warning}");
            self.warnings.push(warning);
        }
    }

    /// What the host does not do for us; said once, at the start.
    pub(crate) fn warn_about_host(&self) {
        let migrates = evenkeel_sys::process::sysctl("net/ipv4/tcp_migrate_req");
        if migrates.as_deref() == Some("0") {
            tracing::warn!(
                "net.ipv4.tcp_migrate_req is 0: if a listening socket is ever closed with connections in its queue, they are reset; set it to 1 (deploy/99-evenkeel.conf)"
            );
        }
    }

    /// Brings the slots' cells up to date.
    fn publish(&self) {
        let now = self.began.elapsed();
        let workers = u64::from(self.state.settings.workers);
        self.board.set(GlobalCount::Workers, workers);
        let monitor = self.children.get(Who::Monitor).map_or(0, |child| child.pid);
        self.board.set(GlobalCount::MonitorPid, u64::from(monitor));
        for (index, slot) in self.state.slots.iter().enumerate() {
            let Ok(index) = u16::try_from(index) else {
                continue;
            };
            let cells = self.board.slot(SlotIdx(index));
            let child = self.children.get(Who::Worker(SlotIdx(index)));
            cells.set_pid(child.map_or(0, |child| child.pid));
            cells.set_state(slot_state(self.state.phase, slot, now));
        }
    }
}

/// Whether the slot's worker has ended and none follows it, because the daemon is draining.
pub(crate) fn has_ended(phase: Phase, slot: &Slot) -> bool {
    matches!(phase, Phase::Draining | Phase::Ended)
        && slot.phase != SlotPhase::Closed
        && matches!(slot.child.phase, ChildPhase::Absent { .. })
}

pub(crate) fn slot_state(phase: Phase, slot: &Slot, now: Duration) -> SlotState {
    if has_ended(phase, slot) {
        return SlotState::Empty;
    }
    match (slot.phase, slot.child.phase) {
        (SlotPhase::Retiring { .. } | SlotPhase::Closing, _) => SlotState::Retiring,
        (SlotPhase::Closed, ChildPhase::Absent { .. }) => SlotState::Empty,
        (SlotPhase::Closed, _) | (_, ChildPhase::Draining { .. }) => SlotState::Retiring,
        (SlotPhase::Open, ChildPhase::Absent { not_before }) if not_before > now => {
            SlotState::BackingOff
        }
        (SlotPhase::Open, ChildPhase::Absent { .. } | ChildPhase::Started { .. }) => {
            SlotState::Starting
        }
        (SlotPhase::Open, ChildPhase::Live { .. }) => SlotState::Live,
        (SlotPhase::Open, ChildPhase::Late { .. }) => SlotState::Late,
    }
}

/// A child's name as a source of log lines.
pub(crate) fn source(who: Who) -> String {
    match who {
        Who::Monitor => "monitor".to_owned(),
        Who::Worker(slot) => format!("worker-{slot}"),
    }
}

/// The line channel of `source`, made when it is not there yet.
pub(crate) fn log_channel(
    logs: &mut Logs,
    source: &str,
) -> std::io::Result<(Arc<OwnedFd>, Arc<OwnedFd>)> {
    if let Some((sender, receiver)) = logs.get(source) {
        return Ok((Arc::clone(sender), Arc::clone(receiver)));
    }
    let (sender, receiver) = evenkeel_log::channel()?;
    let pair = (Arc::new(sender), Arc::new(receiver));
    logs.insert(source.to_owned(), pair.clone());
    Ok(pair)
}

fn listeners(
    sockets: Vec<(
        evenkeel_plan::ListenerCell,
        std::net::SocketAddr,
        Arc<OwnedFd>,
    )>,
    slot: SlotIdx,
) -> impl Iterator<Item = (Descriptor, Arc<OwnedFd>)> {
    sockets.into_iter().map(move |(listener, address, socket)| {
        let descriptor = Descriptor::Listener {
            listener,
            slot,
            address,
        };
        (descriptor, socket)
    })
}

fn secret_blob(secrets: &impl serde::Serialize) -> std::io::Result<OwnedFd> {
    let bytes = postcard::to_stdvec(secrets).map_err(std::io::Error::other)?;
    evenkeel_sys::blob::seal("evenkeel-secrets", &bytes)
}

fn is_of_slot(descriptor: &Descriptor, wanted: SlotIdx) -> bool {
    matches!(descriptor, Descriptor::Listener { slot, .. } if *slot == wanted)
}

/// sd_notify(3): a reload says when it began, so that the service manager can tell old messages from new ones.
fn reloading() -> Vec<NotifyState<'static>> {
    let mut state = vec![NotifyState::Reloading];
    state.extend(NotifyState::monotonic_usec_now());
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_has_ended_in_a_drain_is_not_starting() {
        let mut slot = Slot::new();
        slot.phase = SlotPhase::Open;
        let state = |phase, slot: &Slot| {
            (
                slot_state(phase, slot, Duration::ZERO),
                has_ended(phase, slot),
            )
        };
        assert_eq!(state(Phase::Running, &slot), (SlotState::Starting, false));
        assert_eq!(state(Phase::Draining, &slot), (SlotState::Empty, true));
        slot.child.phase = ChildPhase::Draining {
            until: Duration::ZERO,
        };
        assert_eq!(state(Phase::Draining, &slot), (SlotState::Retiring, false));
        assert!(!has_ended(Phase::Draining, &Slot::new()), "it never ran");
    }
}
