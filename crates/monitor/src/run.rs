//! The event loop: one event at a time, each answered at once. What takes longer runs beside it.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use evenkeel_control::child::{Descriptor, FromChild, Hello, OrphanRule, Report, ToChild};
use evenkeel_control::{ChannelError, Link};
use evenkeel_health::Checker;
use evenkeel_health::passive::Evidence;
use evenkeel_metrics::{Pages, scrape};
use evenkeel_plan::{BackendCell, Plan, SecretSource};
use evenkeel_resolve::{Files, Resolver};
use evenkeel_scoreboard::{AttachError, GlobalCount, Scoreboard};
use evenkeel_sys::clock::monotonic_ms;
use evenkeel_sys::process;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

use crate::endpoints::Endpoints;
use crate::lines::Lines;
use crate::names::Names;
use crate::news::News;
use crate::plans::Decoded;
use crate::refusals::Refusals;
use crate::reload::Stage;
use crate::traffic::{Finding, Traffic, What};
use crate::verdicts::{Told, Verdicts};

/// Between two heartbeats.
const BEAT: Duration = Duration::from_millis(100);

/// Between two rounds of reports on answers that changed nothing.
const REPORT: Duration = Duration::from_secs(1);

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
    match hello.become_user {
        Some((uid, gid)) => process::become_user(uid, gid, false)
            .map_err(|source| MonitorError::User { uid, source })?,
        None => process::give_up_rights(false).map_err(MonitorError::LockDown)?,
    }
    process::lock_down().map_err(MonitorError::LockDown)?;
    let (board, first) = scoreboard(&mut link).await?;
    let lines = Lines::start(board).map_err(MonitorError::Lines)?;
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

pub(crate) struct Monitor {
    hello: Hello,
    pub(crate) link: Link,
    pub(crate) board: Scoreboard,
    pub(crate) lines: Lines,
    pub(crate) news: Rc<News>,
    pub(crate) verdicts: Rc<Verdicts>,
    pub(crate) checker: Checker<Told>,
    pub(crate) resolver: Resolver<Names>,
    pub(crate) traffic: Traffic,
    pub(crate) refusals: Refusals,
    /// Values of the secrets of the plan in force.
    pub(crate) secrets: HashMap<SecretSource, Result<Vec<u8>, String>>,
    pub(crate) endpoints: Endpoints,
    /// The plan in force.
    pub(crate) plan: Arc<Plan>,
    /// The same, for scrapes on their own threads.
    pub(crate) scraped: Arc<Mutex<Arc<Plan>>>,
    pub(crate) stage: Stage,
    /// What the monitor before told of each backend, until the first plan is in force.
    pub(crate) seeds: HashMap<BackendCell, Report>,
    reunion: Option<OwnedFd>,
    orphan: Option<Orphan>,
    beat: Interval,
    report: Interval,
}

/// The supervisor is gone.
struct Orphan {
    /// When to exit although others still log; `None` = never.
    deadline: Option<Instant>,
}

pub(crate) enum Event {
    Message(Result<ToChild, ChannelError>),
    Beat,
    Report,
    /// There is something to be told.
    News,
    Decoded(Box<Result<Decoded, String>>),
    /// No more waiting for first verdicts.
    Waited,
    /// The supervisor is gone, and there is nobody left to write lines for or no time left.
    Alone,
}

impl Monitor {
    fn new(hello: Hello, link: Link, board: Scoreboard, lines: Lines) -> Self {
        let news = Rc::new(News::new(board, link.outbox()));
        let verdicts = Rc::new(Verdicts::new(board, Rc::clone(&news)));
        let names = Names {
            board,
            news: Rc::clone(&news),
        };
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
            resolver: Resolver::new(names, Files::default()),
            traffic: Traffic::new(board),
            refusals: Refusals::new(board),
            secrets: HashMap::new(),
            news,
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
            () = self.news.some() => Event::News,
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
                self.look_at_traffic();
            }
            Event::Report => {
                self.lines.publish();
                self.verdicts.tell_all();
                self.look_at_refusals();
                self.news.tell();
            }
            Event::News => {
                self.verdicts.tell_changes();
                self.news.tell();
                self.look_at_awaited();
            }
            Event::Decoded(decoded) => self.take_decoded(*decoded),
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
        let is_bell = |descriptor: &Descriptor| matches!(descriptor, Descriptor::Doorbell { .. });
        for (descriptor, fd) in self.link.take_all(is_bell) {
            if let Descriptor::Doorbell { slot } = descriptor {
                self.verdicts.bells.add(slot, fd);
            }
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
            ToChild::SeedNames { names } => {
                for name in names {
                    self.resolver.seed(name.address, name.endpoints);
                }
            }
            ToChild::Explain { ticket, backend } => self.explain(ticket, backend),
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

    /// Takes what workers counted since the last look as evidence.
    fn look_at_traffic(&mut self) {
        for finding in self.traffic.look(monotonic_ms()) {
            let Finding {
                cell,
                identity,
                is_checked,
                what,
            } = finding;
            match what {
                What::Unreachable(address) => self.resolver.again(&address),
                What::Evidence {
                    evidence: Evidence::Doubt(_),
                    words,
                } => {
                    tracing::debug!("backend {identity}: {words}");
                    self.checker.doubt(cell);
                }
                // Checks decide where there are some.
                What::Evidence { .. } | What::Released if is_checked => {}
                What::Evidence { evidence, words } => {
                    let is_left_out = matches!(evidence, Evidence::Eject { .. });
                    self.verdicts.left_out(cell, is_left_out, &words);
                }
                What::NoWayBack(words) => self.verdicts.remark(cell, true, words),
                What::WayBack(words) => self.verdicts.remark(cell, false, words),
                What::Released => self.verdicts.left_out(cell, false, "tried again"),
            }
        }
    }

    /// Tells of limits that have begun to bite, and of those that do not any more.
    fn look_at_refusals(&mut self) {
        for told in self.refusals.look(monotonic_ms()) {
            let (service, words) = (&told.service, &told.words);
            match told.is_warning {
                true => tracing::warn!("service {service}: {words}"),
                false => tracing::info!("service {service}: {words}"),
            }
            self.news.event("limit", service, words);
        }
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
        self.lines.release();
        self.forget_prepared();
        self.orphan = Some(Orphan { deadline });
        false
    }

    /// Lets the last words out.
    async fn end(mut self) {
        self.checker.apply([]);
        self.take_descriptors();
        self.link.outbox().flush().await;
        self.lines.stop();
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
