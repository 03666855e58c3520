//! `demo`: the same daemon as `run`, in front of three small servers on this host, and a live view of what goes where.
//!
//! ```text
//! demo --stdin, stdout--> demo-backend b1, b2, b3     end when their standard input ends, so also with a killed demo
//!   |----stderr, SIGTERM--> run (supervisor) -> workers, monitor
//!   `----control socket--> status, 4 times a second -> screen | lines
//! ```
//!
//! Nothing is left behind: the runtime directory is private and removed, the supervisor gets `SIGTERM` when the demo dies.

pub(crate) mod backend;
mod daemon;
mod directory;
mod lines;
mod screen;
mod servers;
mod view;

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::time::Duration;

use evenkeel_control::operator::Status;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior};

use crate::arguments::Demo;
use crate::demo::daemon::{Daemon, Log};
use crate::demo::directory::Directory;
use crate::demo::lines::Lines;
use crate::demo::screen::Screen;
use crate::demo::servers::{RESTART_AFTER, Servers};
use crate::demo::view::View;
use crate::failure::{Exit, Failure};
use crate::{client, output};

/// The daemon must run by then.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// Keys and dead servers are looked for this often; the status is read at every fifth turn.
const TURN: Duration = Duration::from_millis(50);
const TURNS_A_STATUS: u32 = 5;

/// A status that takes longer is left out.
const STATUS_DEADLINE: Duration = Duration::from_millis(500);

/// Runs until `q`, Ctrl-C or a signal.
pub(crate) fn execute(demo: &Demo) -> Result<ExitCode, Failure> {
    if demo.print_config {
        output::print(evenkeel_config::DEMO)?;
        return Ok(Exit::Ok.into());
    }
    client::block_on(run(demo.plain))
}

async fn run(plain: bool) -> Result<ExitCode, Failure> {
    let cannot =
        |what: &'static str| move |error: io::Error| Failure::new(Exit::Failed, what).cause(&error);
    let mut stop = Stop::new().map_err(cannot("cannot handle signals"))?;
    let directory = Directory::create().map_err(cannot("cannot make a runtime directory"))?;
    let mut servers = Servers::start()
        .await
        .map_err(cannot("cannot start the demo's servers"))?;
    let config = directory.path().join("demo.toml");
    std::fs::write(&config, evenkeel_config::demo(&servers.addresses()))
        .map_err(cannot("cannot write the configuration"))?;
    let (mut daemon, mut log) =
        Daemon::start(&config, directory.path()).map_err(cannot("cannot start the daemon"))?;

    let shown = show(
        plain,
        &directory,
        &mut daemon,
        &mut log,
        &mut servers,
        &mut stop,
    )
    .await;
    if shown.is_ok() {
        output::eprint("stopping; Ctrl-C again: at once\n");
    }
    daemon.stop(&mut log, &mut servers, &mut stop).await;
    shown?;
    Ok(Exit::Ok.into())
}

/// The demo proper, between start and stop.
async fn show(
    plain: bool,
    directory: &Directory,
    daemon: &mut Daemon,
    log: &mut Log,
    servers: &mut Servers,
    stop: &mut Stop,
) -> Result<(), Failure> {
    let Some(first) = until_running(directory, daemon, log, stop).await? else {
        return Ok(());
    };
    let mut view = View::new(first, Instant::now());
    let introduction = introduction(&view, servers, directory);
    output::print(&introduction)?;
    let mut face = Face::open(plain, &view, servers, introduction.lines().count());
    let mut turns = 0_u32;
    let mut turn = tokio::time::interval(TURN);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.asked() => return Ok(()),
            ended = daemon.ended() => {
                drop(face);
                return Err(log.failure(&format!("the daemon ended by itself: {ended}")).await);
            }
            Some(line) = log.next() => face.tell(&line),
            _ = turn.tick() => {
                for event in servers.tend().await {
                    log.add(event.clone());
                    face.tell(&event);
                }
                if face.quit_pressed() {
                    return Ok(());
                }
                turns += 1;
                if turns.is_multiple_of(TURNS_A_STATUS) {
                    let asked = client::status(directory.path());
                    if let Ok(Ok(status)) = tokio::time::timeout(STATUS_DEADLINE, asked).await {
                        daemon.remember(&status);
                        view.update(status, Instant::now());
                    }
                    face.draw(&view, servers, log)?;
                }
            }
        }
    }
}

/// The first status of the running daemon with a serving service; `None` = asked to stop before.
async fn until_running(
    directory: &Directory,
    daemon: &mut Daemon,
    log: &mut Log,
    stop: &mut Stop,
) -> Result<Option<Box<Status>>, Failure> {
    let deadline = Instant::now() + START_DEADLINE;
    let mut turn = tokio::time::interval(TURN);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.asked() => return Ok(None),
            ended = daemon.ended() => {
                return Err(log.failure(&format!("the daemon did not start: {ended}")).await);
            }
            Some(_) = log.next() => {}
            _ = turn.tick() => {
                let asked = client::status(directory.path());
                if let Ok(Ok(status)) = tokio::time::timeout(STATUS_DEADLINE, asked).await {
                    daemon.remember(&status);
                    if status.phase == "running" && status.services.iter().all(|s| s.serving) {
                        return Ok(Some(status));
                    }
                }
                if Instant::now() > deadline {
                    let seconds = START_DEADLINE.as_secs();
                    return Err(log.failure(&format!("the daemon does not run after {seconds} s")).await);
                }
            }
        }
    }
}

/// What is printed first: where to go, and what to try.
fn introduction(view: &View, servers: &Servers, directory: &Directory) -> String {
    let paint = output::paint_stdout();
    let status = &view.status;
    let service = view.address();
    let mut text = format!("{}\n", paint.bold(&format!("http://{service}/")));
    if let Some(metrics) = status.metrics.first() {
        text.push_str(&format!("http://{metrics}/metrics\n"));
    }
    text.push_str("\nTry in another terminal:\n");
    let mut suggest = |command: String, what: &str| {
        text.push_str(&format!("  {command:<34}{}\n", paint.dim(what)));
    };
    suggest(format!("curl http://{service}/"), "each server in turn");
    if let Some(worker) = status.workers.iter().find(|worker| worker.pid > 0) {
        suggest(
            format!("kill -9 {}", worker.pid),
            "a worker: the next one is there at once",
        );
    }
    if let Some(pid) = servers.pids().next() {
        let what = format!(
            "a server: the others take over; back in {} s",
            RESTART_AFTER.as_secs()
        );
        suggest(format!("kill {pid}"), &what);
    }
    text.push_str(&format!(
        "  {} status --runtime-dir {}\n\n",
        program(),
        directory.path().display()
    ));
    text
}

/// How this program can be called again: its name if it was found by name, else its path.
fn program() -> String {
    let typed = std::env::args().next().unwrap_or_default();
    match std::env::current_exe() {
        Ok(path) if typed.contains('/') => path.display().to_string(),
        _ => "evenkeel".to_owned(),
    }
}

/// The two ways to show it.
enum Face {
    Screen(Box<Screen>),
    Lines(Lines),
}

impl Face {
    /// A screen on a terminal that can do it, else lines.
    fn open(plain: bool, view: &View, servers: &Servers, lines_above: usize) -> Self {
        let terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        if plain || !terminal || dumb {
            return Self::Lines(Lines::default());
        }
        match Screen::open(view.status.workers.len(), servers.count(), lines_above) {
            Ok(screen) => Self::Screen(Box::new(screen)),
            // A terminal that does not say where its cursor is.
            Err(_) => Self::Lines(Lines::default()),
        }
    }

    /// A line of the daemon's log; a screen shows it at its next turn.
    fn tell(&mut self, line: &str) {
        match self {
            Self::Screen(_) => {}
            Self::Lines(_) => output::eprint(&format!("{line}\n")),
        }
    }

    fn quit_pressed(&mut self) -> bool {
        match self {
            Self::Screen(_) => screen::quit_pressed(),
            Self::Lines(_) => false,
        }
    }

    fn draw(&mut self, view: &View, servers: &Servers, log: &Log) -> Result<(), Failure> {
        match self {
            Self::Screen(screen) => screen.draw(view, servers, log).map_err(|error| {
                Failure::new(Exit::Failed, "cannot draw the screen")
                    .cause(&error)
                    .help("try `evenkeel demo --plain`")
            }),
            Self::Lines(lines) => match lines.draw(view) {
                Some(line) => output::print(&line),
                None => Ok(()),
            },
        }
    }
}

/// The ways to ask from outside for an end.
#[derive(Debug)]
struct Stop {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Stop {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Returns when one of the signals has come. Cancel safe.
    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
