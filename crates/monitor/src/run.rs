//! The event loop.
//!
//! ```text
//!             Prepare g               decoded              first verdicts, or time
//!   Settled ------------> Decoding -----------> Awaiting ---------------------------> Ready
//!      ^                     |                     |              Prepared g -->        |
//!      |                     |  Abort g            |  Abort g                  Abort g  |
//!      |<--------------------+---------------------+------------------------------------|
//!      `------------------------------------------------------ Commit g, Applied g --> -'
//! ```
//!
//! Checks of the plan in force go on in every stage. A prepared plan only adds checks of backends that are new in it:
//! their cells are used by nobody yet.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use evenkeel_control::child::{Descriptor, FromChild, Hello, OrphanRule, Report, ToChild};
use evenkeel_control::{ChannelError, Link};
use evenkeel_health::{Checker, Health, State, Target};
use evenkeel_metrics::{Pages, scrape};
use evenkeel_plan::{BackendCell, Plan};
use evenkeel_scoreboard::{AttachError, GlobalCount, HealthState, Scoreboard};
use evenkeel_sys::clock::monotonic_ms;
use evenkeel_sys::process;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

use crate::endpoints::Endpoints;
use crate::lines::Lines;
use crate::plans::{self, Backend};
use crate::verdicts::{Told, Verdicts};

/// Between two heartbeats.
const BEAT: Duration = Duration::from_millis(100);

/// Between two rounds of reports on answers that changed nothing.
const REPORT: Duration = Duration::from_secs(1);

/// How long a start waits for first verdicts: a host with a dead backend must not start late.
const FIRST_PLAN_PATIENCE: Duration = Duration::from_millis(300);

/// How long a reload waits for the first verdicts of new backends, at most.
const RELOAD_PATIENCE_MAX: Duration = Duration::from_secs(2);

/// Beyond its timeout, what a first check may need to begin and to be told.
const FIRST_CHECK_SLACK: Duration = Duration::from_millis(300);

/// Without a supervisor, how long after the drain deadline the workers' last lines are waited for.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Why the monitor ended unasked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MonitorError {
    #[error("start the runtime")]
    Runtime(#[source] io::Error),
    #[error("hear the supervisor's first message")]
    Hello(#[source] ChannelError),
    #[error("become user {uid}")]
    User {
        uid: u32,
        #[source]
        source: io::Error,
    },
    #[error("give up privileges")]
    LockDown(#[source] io::Error),
    #[error("attach to the scoreboard")]
    Scoreboard(#[source] AttachError),
    #[error("a message came before the scoreboard")]
    NoScoreboard,
    #[error("start the log writer")]
    Lines(#[source] io::Error),
}

/// Runs until the supervisor says so, or is gone and everybody else too.
pub(crate) async fn run(socket: OwnedFd) -> Result<(), MonitorError> {
    let (hello, mut link) = Link::open(socket).await.map_err(MonitorError::Hello)?;
    // Before the first thread is started: users are a matter of threads.
    if let Some((uid, gid)) = hello.become_user {
        process::become_user(uid, gid).map_err(|source| MonitorError::User { uid, source })?;
    }
    process::lock_down().map_err(MonitorError::LockDown)?;
    let (board, first) = scoreboard(&mut link).await?;
    let lines = Lines::start().map_err(MonitorError::Lines)?;
    let mut monitor = Monitor::new(hello, link, board, lines);
    monitor.take_descriptors();
    let mut ended = match first {
        Some(message) => monitor.take_message(message),
        None => false,
    };
    while !ended {
        let event = monitor.next_event().await;
        ended = monitor.take_event(event);
    }
    monitor.end().await;
    Ok(())
}

/// Waits for the scoreboard; other descriptors and at most one message may have arrived with it.
async fn scoreboard(link: &mut Link) -> Result<(Scoreboard, Option<ToChild>), MonitorError> {
    let mut look = ticks(BEAT);
    loop {
        let message = tokio::select! {
            message = link.next() => Some(message.map_err(MonitorError::Hello)?),
            _ = look.tick() => None,
        };
        if let Some(fd) = link.take(&Descriptor::Scoreboard) {
            let board = Scoreboard::attach(fd.as_fd()).map_err(MonitorError::Scoreboard)?;
            return Ok((board, message));
        }
        if message.is_some() {
            return Err(MonitorError::NoScoreboard);
        }
    }
}

fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

struct Monitor {
    hello: Hello,
    link: Link,
    board: Scoreboard,
    lines: Lines,
    verdicts: Rc<Verdicts>,
    checker: Checker<Told>,
    endpoints: Endpoints,
    /// The plan in force.
    plan: Arc<Plan>,
    /// The same, for scrapes on their own threads.
    scraped: Arc<Mutex<Arc<Plan>>>,
    stage: Stage,
    /// What the monitor before told of each backend, until the first plan is in force.
    seeds: HashMap<BackendCell, Report>,
    reunion: Option<OwnedFd>,
    orphan: Option<Orphan>,
    beat: Interval,
    report: Interval,
}

/// How far the next plan is.
enum Stage {
    Settled,
    Decoding {
        generation: u64,
        result: JoinHandle<Result<Plan, String>>,
    },
    Awaiting {
        plan: Arc<Plan>,
        backends: Vec<BackendCell>,
        deadline: Instant,
    },
    Ready {
        plan: Arc<Plan>,
    },
}

/// The supervisor is gone.
struct Orphan {
    /// When to exit although others still log; `None` = never.
    deadline: Option<Instant>,
}

enum Event {
    Message(Result<ToChild, ChannelError>),
    Beat,
    Report,
    /// A backend changed its state.
    Changed,
    Decoded(Result<Plan, String>),
    /// No more waiting for first verdicts.
    Waited,
    /// The supervisor is gone, and there is nobody left to write lines for or no time left.
    Alone,
}

impl Monitor {
    fn new(hello: Hello, link: Link, board: Scoreboard, lines: Lines) -> Self {
        let verdicts = Rc::new(Verdicts::new(board, link.outbox()));
        let plan = Arc::new(Plan::empty());
        let scraped = Arc::new(Mutex::new(Arc::clone(&plan)));
        let pages = {
            let scraped = Arc::clone(&scraped);
            let metrics = move || {
                let plan = Arc::clone(&*scraped.lock().unwrap_or_else(PoisonError::into_inner));
                scrape(&board, &plan, monotonic_ms())
            };
            Pages::new(metrics, move || board.get(GlobalCount::Ready) == 1)
        };
        Self {
            hello,
            link,
            board,
            lines,
            checker: Checker::new(Told(Rc::clone(&verdicts))),
            verdicts,
            endpoints: Endpoints::new(pages),
            plan,
            scraped,
            stage: Stage::Settled,
            seeds: HashMap::new(),
            reunion: None,
            orphan: None,
            beat: ticks(BEAT),
            report: ticks(REPORT),
        }
    }

    /// Waits for whatever comes first. Everything that it waits on can be dropped and waited on again.
    async fn next_event(&mut self) -> Event {
        let is_orphan = self.orphan.is_some();
        let exit = self.orphan.as_ref().and_then(|orphan| orphan.deadline);
        tokio::select! {
            message = self.link.next(), if !is_orphan => Event::Message(message),
            _ = self.beat.tick() => Event::Beat,
            _ = self.report.tick() => Event::Report,
            () = self.verdicts.changed() => Event::Changed,
            event = self.stage.next_event() => event,
            () = self.lines.all_ended(), if is_orphan => Event::Alone,
            () = until(exit) => Event::Alone,
        }
    }

    /// Returns whether the monitor's work is over.
    fn take_event(&mut self, event: Event) -> bool {
        match event {
            Event::Message(Ok(message)) => {
                self.take_descriptors();
                return self.take_message(message);
            }
            Event::Message(Err(error)) => return self.take_channel_error(&error),
            Event::Beat => {
                self.board.set(GlobalCount::MonitorBeat, monotonic_ms());
                self.take_descriptors();
            }
            Event::Report => self.verdicts.tell_all(),
            Event::Changed => {
                self.verdicts.tell_changes();
                self.look_at_awaited();
            }
            Event::Decoded(decoded) => self.take_decoded(decoded),
            Event::Waited => self.prepared(),
            Event::Alone => {
                tracing::info!("no process is left to write lines for");
                return true;
            }
        }
        false
    }

    /// Descriptors that belong to no message: they may arrive at any time.
    fn take_descriptors(&mut self) {
        if let Some(sender) = self.link.take(&Descriptor::LogSender) {
            let board = self.board;
            let dropped = move |lines| board.add(GlobalCount::LogDropped, lines);
            let spec = self.plan.globals.log;
            evenkeel_log::init(sender, spec, "monitor".to_owned(), Box::new(dropped));
        }
        if let Some(reunion) = self.link.take(&Descriptor::Reunion) {
            self.reunion = Some(reunion);
        }
        let is_lines =
            |descriptor: &Descriptor| matches!(descriptor, Descriptor::LogReceiver { .. });
        for (descriptor, fd) in self.link.take_all(is_lines) {
            if let Descriptor::LogReceiver { source } = descriptor {
                self.lines.add(source, fd);
            }
        }
    }

    fn take_message(&mut self, message: ToChild) -> bool {
        match message {
            ToChild::Seed { reports } => {
                let reports = reports.into_iter().map(|report| (report.backend, report));
                self.seeds.extend(reports);
            }
            ToChild::Prepare { generation } => self.prepare(generation),
            ToChild::Commit { generation } => self.commit(generation),
            ToChild::Abort { generation } => {
                tracing::debug!(generation, "forgets a prepared plan");
                self.forget_prepared();
            }
            ToChild::Drain { .. } => {
                self.link.send(FromChild::Drained { cut: 0 });
                return true;
            }
            // `Link` keeps descriptors itself, the rest is for workers.
            ToChild::Hello(_)
            | ToChild::Descriptors { .. }
            | ToChild::Adopt { .. }
            | ToChild::Disown { .. } => tracing::warn!(?message, "not a message for the monitor"),
        }
        false
    }

    fn take_channel_error(&mut self, error: &ChannelError) -> bool {
        match error {
            ChannelError::Closed | ChannelError::Io(_) => {}
            ChannelError::Version { .. } | ChannelError::Code(_) | ChannelError::Cut => {
                tracing::error!(error = %crate::chain(error), "cannot read a message");
                return false;
            }
        }
        let drain = self.plan.globals.drain;
        let deadline = match self.hello.orphan {
            OrphanRule::Drain => {
                tracing::warn!("the supervisor is gone; ends when the workers have drained");
                Some(Instant::now() + drain.deadline + LAST_LINES)
            }
            OrphanRule::ServeOn => {
                tracing::warn!("the supervisor is gone; goes on with the last plan");
                None
            }
        };
        // The next supervisor asks workers on it, and nobody must answer in their place.
        self.reunion = None;
        self.forget_prepared();
        self.orphan = Some(Orphan { deadline });
        false
    }

    fn prepare(&mut self, generation: u64) {
        self.forget_prepared();
        let is_metrics = |descriptor: &Descriptor| matches!(descriptor, Descriptor::Metrics { .. });
        let sockets = self.link.take_all(is_metrics).into_iter();
        self.endpoints
            .prepare(sockets.filter_map(|(descriptor, fd)| match descriptor {
                Descriptor::Metrics { address } => Some((address, fd)),
                _ => None,
            }));
        let Some(blob) = self.link.take(&Descriptor::Delta { generation }) else {
            self.refuse(generation, "its delta did not arrive".to_owned());
            return;
        };
        let base = Arc::clone(&self.plan);
        let capacities = self.board.capacities();
        let result = tokio::task::spawn_blocking(move || plans::decode(blob, &base, capacities));
        self.stage = Stage::Decoding { generation, result };
    }

    fn refuse(&mut self, generation: u64, reason: String) {
        tracing::error!(generation, reason, "cannot switch to a plan");
        self.forget_prepared();
        self.link.send(FromChild::Refused { generation, reason });
    }

    fn forget_prepared(&mut self) {
        self.endpoints.abort();
        match std::mem::replace(&mut self.stage, Stage::Settled) {
            Stage::Settled => {}
            Stage::Decoding { result, .. } => result.abort(),
            Stage::Awaiting { .. } | Stage::Ready { .. } => {
                let plan = Arc::clone(&self.plan);
                self.check(plans::backends(&plan), &HashMap::new());
                self.keep_only(&plan);
            }
        }
    }

    fn take_decoded(&mut self, decoded: Result<Plan, String>) {
        let Stage::Decoding { generation, .. } = self.stage else {
            return;
        };
        self.stage = Stage::Settled;
        let plan = match decoded {
            Ok(plan) if plan.generation == generation => Arc::new(plan),
            Ok(plan) => {
                let reason = format!("its delta leads to generation {}", plan.generation);
                return self.refuse(generation, reason);
            }
            Err(reason) => return self.refuse(generation, reason),
        };
        let is_first = self.plan.generation == 0;
        if is_first {
            evenkeel_log::set_spec(plan.globals.log);
        }
        let new = plans::new_backends(&self.plan, &plan);
        let known: HashMap<_, _> = new
            .iter()
            .map(|backend| {
                let seed = self.seeds.remove(&backend.cell);
                let seed = seed.filter(|report| report.identity == backend.identity);
                let known = match backend.check {
                    Some(_) => self.verdicts.meet(backend, seed),
                    None => self.verdicts.uncheck(backend),
                };
                (backend.cell, known)
            })
            .collect();
        let patience = if is_first {
            FIRST_PLAN_PATIENCE
        } else {
            reload_patience(&new)
        };
        let awaited: Vec<_> = new
            .iter()
            .filter(|backend| backend.check.is_some())
            .map(|backend| backend.cell)
            .collect();
        let current = Arc::clone(&self.plan);
        self.check(plans::backends(&current).chain(new), &known);
        self.stage = Stage::Awaiting {
            plan,
            backends: awaited,
            deadline: Instant::now() + patience,
        };
        self.look_at_awaited();
    }

    /// Ends the waiting when every new backend has its first verdict.
    fn look_at_awaited(&mut self) {
        let Stage::Awaiting { backends, .. } = &mut self.stage else {
            return;
        };
        backends.retain(|cell| {
            // `Unchecked` is what a cell says from before, until its first check.
            matches!(
                self.verdicts.state(*cell),
                HealthState::Starting | HealthState::Unchecked
            )
        });
        if backends.is_empty() {
            self.prepared();
        }
    }

    fn prepared(&mut self) {
        let Stage::Awaiting { plan, .. } = &self.stage else {
            return;
        };
        let plan = Arc::clone(plan);
        self.verdicts.tell_all();
        self.link.send(FromChild::Prepared {
            generation: plan.generation,
        });
        self.stage = Stage::Ready { plan };
    }

    fn commit(&mut self, generation: u64) {
        match std::mem::replace(&mut self.stage, Stage::Settled) {
            Stage::Ready { plan } | Stage::Awaiting { plan, .. }
                if plan.generation == generation =>
            {
                self.switch(plan);
            }
            stage => {
                self.stage = stage;
                if self.plan.generation != generation {
                    tracing::error!(generation, "was told to switch to a plan that is not there");
                    return;
                }
            }
        }
        self.link.send(FromChild::Applied { generation });
    }

    fn switch(&mut self, plan: Arc<Plan>) {
        self.plan = Arc::clone(&plan);
        self.seeds.clear();
        for backend in plans::backends(&plan) {
            // Checks were taken away from one that had them.
            if backend.check.is_none()
                && self.verdicts.state(backend.cell) != HealthState::Unchecked
            {
                self.verdicts.uncheck(&backend);
            }
        }
        self.check(plans::backends(&plan), &HashMap::new());
        self.keep_only(&plan);
        self.endpoints.commit(&plan.globals.metrics);
        evenkeel_log::set_spec(plan.globals.log);
        let mut scraped = self.scraped.lock().unwrap_or_else(PoisonError::into_inner);
        *scraped = plan;
    }

    /// Checks exactly `backends`; `known` is for those that were not checked before.
    fn check(
        &mut self,
        backends: impl Iterator<Item = Backend>,
        known: &HashMap<BackendCell, State>,
    ) {
        self.checker.apply(backends.filter_map(|backend| {
            Some(Target {
                backend: backend.cell,
                check: backend.check?,
                known: known
                    .get(&backend.cell)
                    .copied()
                    .unwrap_or_else(|| State::new(Health::Starting, monotonic_ms())),
                identity: backend.identity,
            })
        }));
    }

    fn keep_only(&self, plan: &Plan) {
        let kept: HashSet<_> = plans::backends(plan).map(|backend| backend.cell).collect();
        self.verdicts.retain(&kept);
    }

    /// Lets the last words out.
    async fn end(mut self) {
        self.checker.apply([]);
        self.take_descriptors();
        self.link.outbox().flush().await;
        self.lines.stop();
    }
}

impl Stage {
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    async fn next_event(&mut self) -> Event {
        match self {
            Self::Decoding { result, .. } => {
                let decoded = result.await;
                Event::Decoded(
                    decoded.unwrap_or_else(|error| Err(format!("decoding it failed: {error}"))),
                )
            }
            Self::Awaiting { deadline, .. } => {
                sleep_until(*deadline).await;
                Event::Waited
            }
            Self::Settled | Self::Ready { .. } => std::future::pending().await,
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Long enough for one check of the slowest new backend, within limits.
fn reload_patience(new: &[Backend]) -> Duration {
    let checks = new.iter().filter_map(|backend| backend.check);
    let slowest = checks.map(|check| check.timeout).max();
    (slowest.unwrap_or_default() + FIRST_CHECK_SLACK).min(RELOAD_PATIENCE_MAX)
}
