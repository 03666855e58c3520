//! Start, and the loop.

use std::fs::DirBuilder;
use std::io::{self, IsTerminal as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use evenkeel_config::Loaded;
use evenkeel_control::child::CookieKeys;
use evenkeel_control::operator::SOCKET_NAME;
use evenkeel_plan::{Plan, UserSpec};
use evenkeel_scoreboard::{Capacities, GlobalCount, Scoreboard};
use evenkeel_sys::clock::unix_seconds;
use evenkeel_sys::lock::Lock;
use evenkeel_sys::process::{self, Identity};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::MissedTickBehavior;

use crate::access_log::{self, AccessLog};
use crate::admin;
use crate::cells::{CellTable, Holders};
use crate::children::Children;
use crate::compile::{self, Metrics};
use crate::events::Events;
use crate::keep::{self, Keeper};
use crate::life::{Event, State};
use crate::operators;
use crate::perform::{Logs, Supervisor, log_channel};
use crate::rights;
use crate::seal::{self, Names};
use crate::secrets;
use crate::sockets::{Inherited, Sockets};
use crate::store::Store;
use crate::why::Questions;
use crate::workers::Machine;

/// Exit codes of the daemon, documented in its help.
pub mod exit_code {
    /// Could not start, or failed while running.
    pub const FAILED: u8 = 1;
    /// The configuration has errors.
    pub const CONFIG: u8 = 3;
    /// Another instance runs in this runtime directory.
    pub const RUNS_ALREADY: u8 = 7;
}

/// Name of the lock in the runtime directory.
const LOCK_NAME: &str = "evenkeel.lock";

/// Name of the socket on which orphans answer the next supervisor.
const REUNION_NAME: &str = "reunion.sock";

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration's file.
    pub config: PathBuf,
    /// Where lock and sockets lie; made if it is not there.
    pub runtime_dir: PathBuf,
    /// Where what outlives this process lies; made if it is not there. `None` = the runtime directory.
    pub state_dir: Option<PathBuf>,
}

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("{0}")]
    Config(String),
    #[error(
        "another evenkeel runs already in {0}\nhelp: stop it first, or choose another --runtime-dir"
    )]
    RunsAlready(String),
    #[error("failed to {what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("{0}")]
    Words(String),
}

impl StartError {
    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    fn code(&self) -> u8 {
        match self {
            Self::Config(_) => exit_code::CONFIG,
            Self::RunsAlready(_) => exit_code::RUNS_ALREADY,
            Self::Io { .. } | Self::Words(_) => exit_code::FAILED,
        }
    }
}

/// Runs the daemon until it is told to stop.
#[must_use]
pub fn run(options: &Options) -> ExitCode {
    let mut logs = Logs::new();
    let mut access_log = None;
    let result = start(options, &mut logs, &mut access_log);
    let receivers: Vec<_> = logs
        .values()
        .map(|(_, receiver)| std::os::fd::AsFd::as_fd(receiver))
        .collect();
    let access_log = access_log.as_ref().map(std::os::fd::AsFd::as_fd);
    evenkeel_log::drain(&receivers, access_log);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "the last word, with no log to go to")]
            {
                match &error {
                    // Rendered with its own heads.
                    StartError::Config(report) => eprintln!("{report}"),
                    _ => eprintln!("error: {error}"),
                }
            }
            ExitCode::from(error.code())
        }
    }
}

fn start(
    options: &Options,
    logs: &mut Logs,
    last_access_log: &mut AccessLog,
) -> Result<(), StartError> {
    let descriptor_limit = process::raise_descriptor_limit();
    let loaded = evenkeel_config::load(&options.config).map_err(|errors| {
        // https://no-color.org
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let color = !plain && io::stderr().is_terminal();
        StartError::Config(errors.render(color))
    })?;
    let _lock = lock(&options.runtime_dir)?;
    let (sender, _) =
        log_channel(logs, "supervisor").map_err(StartError::io("make a line channel"))?;
    let sender = process::duplicate(&*sender).map_err(StartError::io("make a line channel"))?;
    let machine = Machine::here();
    let mut limits = loaded.spec.globals.limits;
    limits.workers = limits
        .workers
        .max(u16::try_from(machine.cpus.len() * 2).unwrap_or(u16::MAX));
    let (board, board_fd) = Scoreboard::create(Capacities {
        slots: limits.workers,
        services: limits.services,
        listeners: limits.listeners,
        backends: limits.backends,
        sources: limits.sources,
    })
    .map_err(|error| StartError::io("make the scoreboard")(error.into()))?;
    evenkeel_log::init(
        sender,
        loaded.spec.globals.log,
        "supervisor".to_owned(),
        Box::new(move |lines| board.add(GlobalCount::LogDropped, lines)),
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::io("start the runtime"))?;
    let local = LocalSet::new();
    let parts = Parts {
        options,
        loaded,
        machine,
        descriptor_limit,
        board,
        board_fd: Arc::new(board_fd),
    };
    local.block_on(&runtime, serve(parts, logs, last_access_log))
}

struct Parts<'a> {
    options: &'a Options,
    loaded: Loaded,
    machine: Machine,
    descriptor_limit: u64,
    board: Scoreboard,
    board_fd: Arc<OwnedFd>,
}

async fn serve(
    parts: Parts<'_>,
    logs: &mut Logs,
    last_access_log: &mut AccessLog,
) -> Result<(), StartError> {
    let Parts {
        options,
        loaded,
        machine,
        descriptor_limit,
        board,
        board_fd,
    } = parts;
    let directory = &options.runtime_dir;
    let identity = identity(&loaded.spec.globals.user)?;
    let store = Store::from_environment();
    let limits = loaded.spec.globals.limits;
    let table = CellTable::new(limits.services, limits.listeners, limits.backends);
    let state_dir = options.state_dir.as_ref().unwrap_or(directory);
    let (kept, problem) = keep::read(state_dir);
    let mut warnings = Vec::new();
    if let Some(problem) = problem {
        tracing::warn!("{problem}");
        warnings.push(problem);
    }
    let names: Names = kept
        .names
        .into_iter()
        .map(|resolved| (resolved.address, resolved.endpoints))
        .collect();
    let sealed = seal::seal(&loaded.spec, 1, &Plan::empty(), &table, &names)
        .map_err(|full| StartError::Words(full.to_string()))?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let secrets = secrets::read(&loaded.spec);
    for problem in secrets::problems(&secrets) {
        tracing::warn!("{problem}");
    }

    let cookie_keys = CookieKeys {
        own: secrets::make_key().map_err(StartError::io("make a key for cookies"))?,
        values: secrets::read_keys(&loaded.spec).map_err(StartError::Words)?,
    };

    rights::check(&loaded.spec).map_err(StartError::Words)?;
    let access_log =
        access_log::open(&loaded.spec.globals.access_log).map_err(StartError::Words)?;

    let settings = compile::settings(&sealed.plan, &machine);
    let mut inherited = store.take();
    inherited.extend(orphans(&directory.join(REUNION_NAME)).await);
    if !inherited.is_empty() {
        tracing::info!(sockets = inherited.len(), "took over listening sockets");
    }
    let mut sockets = Sockets::default();
    drop(sockets.inherit(&sealed.plan, settings.workers, inherited));
    let listen = |error: crate::sockets::ListenError| {
        let what = error.to_string();
        StartError::io(what)(error.source)
    };
    sockets.bind(&sealed.plan).map_err(listen)?;
    sockets.fill(&store).map_err(listen)?;
    sockets.commit(&sealed.plan, &store).map_err(listen)?;
    let metrics = compile::metrics_sockets(&sealed.plan.globals.metrics, &Metrics::new())
        .map_err(StartError::Words)?;

    board.set(GlobalCount::Started, unix_seconds());
    board.set(GlobalCount::DescriptorLimit, descriptor_limit);
    seal::carry_schedulers(&board, &Plan::empty(), &sealed.plan);
    seal::seed_gates(&board, &Plan::empty(), &sealed.plan);
    let mut admin = kept.admin;
    for said in admin::settle(&mut admin, &sealed.plan, unix_seconds()) {
        tracing::warn!("{said}");
    }
    admin::seed(&board, &admin, &Plan::empty(), &sealed.plan);
    let reports = keep::restore_verdicts(&board, &sealed.plan, kept.reports);
    if !admin.is_empty() || !reports.is_empty() {
        tracing::info!(
            admin = admin.len(),
            verdicts = reports.len(),
            "goes on with what was known before"
        );
    }
    board.switch_generation(1);

    let path = directory.join(SOCKET_NAME);
    let listener = operators::bind(&path).map_err(StartError::io(format!(
        "make the control socket {}",
        path.display()
    )))?;
    let reunion = reunion(&store, &directory.join(REUNION_NAME));
    let (asked, mut asked_queue) = mpsc::channel(16);
    drop(tokio::task::spawn_local(operators::serve(listener, asked)));
    let (child_events, mut child_queue) = mpsc::unbounded_channel();
    let (read, mut read_queue) = mpsc::unbounded_channel();
    let (kept, mut kept_queue) = mpsc::unbounded_channel();

    let failed = |what: &str| StartError::io(format!("handle {what}"));
    let mut hangup = signal(SignalKind::hangup()).map_err(failed("SIGHUP"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed("SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed("SIGINT"))?;
    let mut ticks = tokio::time::interval(crate::life::TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);

    let open = sockets.open_slots();
    let now = Instant::now();
    let mut supervisor = Supervisor {
        config: options.config.clone(),
        machine,
        identity,
        store,
        state: State::new(),
        board,
        board_fd,
        plan: sealed.plan,
        spec: loaded.spec,
        table: sealed.table,
        holders: Holders::default(),
        next_generation: 2,
        pending: None,
        sockets,
        metrics,
        access_log,
        children: Children::new(child_events),
        logs: std::mem::take(logs),
        reunion,
        reports,
        gates: std::collections::HashMap::new(),
        names,
        secrets,
        cookie_keys,
        doorbells: std::collections::BTreeMap::new(),
        admin,
        events: Events::default(),
        questions: Questions::new(),
        next_question: 0,
        keeper: Keeper::new(state_dir.clone(), kept, now),
        compiling: Vec::new(),
        answers: std::collections::HashMap::new(),
        next_ticket: 0,
        applied: None,
        last_reload: None,
        warnings: Vec::new(),
        start_warnings: warnings,
        descriptor_limit,
        deltas: std::collections::BTreeMap::new(),
        read,
        began: now,
        last_tick: now,
        last_watchdog: now,
        ended: false,
    };
    supervisor.warn_about_limits();
    supervisor.warn_about_host();
    supervisor.forget_unnamed();
    supervisor.keep_soon();
    supervisor.take(Event::Begin { open, settings });
    while !supervisor.ended {
        tokio::select! {
            Some(event) = child_queue.recv() => supervisor.child_event(event),
            Some(asked) = asked_queue.recv() => supervisor.asked(asked),
            Some(read) = read_queue.recv() => {
                let event = supervisor.compiled(read);
                supervisor.take(event);
            }
            Some(result) = kept_queue.recv() => supervisor.kept_result(result),
            _ = ticks.tick() => supervisor.tick(),
            Some(()) = hangup.recv() => supervisor.request_reload(None),
            Some(()) = terminate.recv() => supervisor.take(Event::Terminate),
            Some(()) = interrupt.recv() => supervisor.take(Event::Terminate),
        }
    }
    if supervisor.keeper.is_writing() {
        // Two at the same time would write to the same file.
        drop(kept_queue.recv().await);
    }
    supervisor.keep_last();
    tracing::info!("ended");
    // Nobody can have taken its place: the lock is still held. One that is gone already is as good.
    drop(std::fs::remove_file(path));
    *logs = supervisor.logs;
    *last_access_log = supervisor.access_log;
    Ok(())
}

fn lock(directory: &Path) -> Result<Lock, StartError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(StartError::io(format!(
            "make the runtime directory {}",
            directory.display()
        )))?;
    let path = directory.join(LOCK_NAME);
    Lock::take(&path)
        .map_err(StartError::io(format!("lock {}", path.display())))?
        .ok_or_else(|| StartError::RunsAlready(directory.display().to_string()))
}

/// Whom the children become.
fn identity(user: &UserSpec) -> Result<Option<Identity>, StartError> {
    if process::effective_uid() != 0 {
        return Ok(None);
    }
    let find = |name: &str| {
        process::user(name).map_err(StartError::io(format!("look up the user `{name}`")))
    };
    match user {
        UserSpec::Keep => Ok(None),
        UserSpec::Named(name) => match find(name)? {
            Some(found) => Ok(Some(found)),
            None => Err(StartError::Words(format!(
                "there is no user `{name}` on this host\nhelp: create it (useradd --system {name}), or set `user` to another, or to \"keep\""
            ))),
        },
        UserSpec::Default => Ok(match find("evenkeel")? {
            Some(found) => Some(found),
            None => find("nobody")?,
        }),
    }
}

/// Workers of a supervisor that died without a descriptor store serve on and hold its listening sockets; each hands them over
/// when it is asked.
async fn orphans(path: &Path) -> Vec<Inherited> {
    let mut inherited = Vec::new();
    // Each orphan answers once, so this ends; the bound is against one that does not.
    for _ in 0..u16::MAX {
        match evenkeel_control::reunion::take(path).await {
            Ok(sockets) => {
                tracing::info!(sockets = sockets.len(), "an orphan handed its sockets over");
                inherited.extend(sockets.into_iter().map(|(handed, socket)| Inherited {
                    slot: handed.slot,
                    address: handed.address,
                    place: None,
                    socket,
                }));
            }
            Err(error) => {
                let nobody = matches!(
                    error.kind(),
                    io::ErrorKind::NotFound
                        | io::ErrorKind::ConnectionRefused
                        // The last one had just let go of the socket.
                        | io::ErrorKind::ConnectionReset
                );
                if !nobody {
                    tracing::warn!(%error, "an orphan did not hand its sockets over");
                }
                break;
            }
        }
    }
    inherited
}

/// Made anew by each supervisor that has no descriptor store; its children hold it, and answer on it as orphans.
fn reunion(store: &Store, path: &Path) -> Option<Arc<OwnedFd>> {
    // One that is not there is as good as removed; one that cannot be removed fails the bind.
    drop(std::fs::remove_file(path));
    if store.keeps() {
        return None;
    }
    let bound = std::os::unix::net::UnixListener::bind(path).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(Arc::new(OwnedFd::from(listener)))
    });
    match bound {
        Ok(listener) => Some(listener),
        Err(error) => {
            tracing::warn!(%error, "cannot make the socket on which orphans would answer");
            None
        }
    }
}
