//! The demo's daemon: `evenkeel run` as a child process, with its log.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use evenkeel_control::operator::Status;
use evenkeel_sys::process::ROLE_VARIABLE;
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::Instant;

use crate::demo::Stop;
use crate::demo::servers::Servers;
use crate::failure::{Exit, Failure};
use crate::{output, text};

/// Connections may end by themselves for this long; then the servers go, and the connections with them.
const SERVERS_STAY: Duration = Duration::from_secs(2);

/// After this it is told again, which ends it at once.
const STOP_DEADLINE: Duration = Duration::from_secs(15);

/// A supervisor that was told twice must have ended by then.
const KILL_AFTER: Duration = Duration::from_secs(2);

/// Log lines kept.
const LINES_MAX: usize = 200;

/// Longest log line shown.
const LINE_CHARS_MAX: usize = 400;

/// Beginning of the name (`comm`) of every worker and monitor.
const CHILD_NAME: &str = "ek-";

#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
    /// Process ids of workers and monitor, as last told.
    children: Vec<u32>,
}

/// What the daemon wrote.
#[derive(Debug)]
pub(super) struct Log {
    source: Option<tokio::io::Lines<BufReader<ChildStderr>>>,
    lines: VecDeque<String>,
}

impl Daemon {
    pub(super) fn start(config: &Path, runtime_dir: &Path) -> io::Result<(Self, Log)> {
        let mut child = Command::new(evenkeel_sys::process::image())
            .arg0("evenkeel")
            .arg("run")
            .arg("--config")
            .arg(config)
            .arg("--runtime-dir")
            .arg(runtime_dir)
            .arg("--state-dir")
            .arg(runtime_dir)
            .arg("--end-with-parent")
            // Of a service manager that started the demo, this daemon knows nothing.
            .env_remove(ROLE_VARIABLE)
            .env_remove("NOTIFY_SOCKET")
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_FDNAMES")
            .env_remove("WATCHDOG_USEC")
            .env_remove("WATCHDOG_PID")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let source = child
            .stderr
            .take()
            .map(|stderr| BufReader::new(stderr).lines());
        let log = Log {
            source,
            lines: VecDeque::new(),
        };
        let children = Vec::new();
        Ok((Self { child, children }, log))
    }

    /// Notes whom the daemon has started, for the case that it dies without stopping them.
    pub(super) fn remember(&mut self, status: &Status) {
        let workers = status.workers.iter().map(|worker| worker.pid);
        self.children = workers
            .chain([status.monitor.pid])
            .filter(|&pid| pid > 0)
            .collect();
    }

    /// Returns when it has ended, with how. Cancel safe.
    pub(super) async fn ended(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }

    /// Asks it to end and waits; after a second wish, or too long a time, kills it and what it has started. Its log is read
    /// meanwhile: a full pipe would hold it up.
    pub(super) async fn stop(&mut self, log: &mut Log, servers: &mut Servers, stop: &mut Stop) {
        let begun = Instant::now();
        self.signal(Signal::TERM);
        let mut servers_run = true;
        loop {
            tokio::select! {
                _ = self.child.wait() => break,
                Some(_) = log.next() => {}
                () = stop.asked() => break,
                () = tokio::time::sleep_until(begun + SERVERS_STAY), if servers_run => {
                    servers_run = false;
                    servers.stop().await;
                }
                () = tokio::time::sleep_until(begun + STOP_DEADLINE) => {
                    output::eprint("the daemon takes too long; ended at once\n");
                    break;
                }
            }
        }
        self.kill().await;
        servers.stop().await;
    }

    /// Ends it now: a supervisor that is told to stop twice kills its children and exits. One that does not is killed, and
    /// first, or it would start its children again. Nothing happens to what has ended.
    async fn kill(&mut self) {
        self.signal(Signal::TERM);
        let ended = tokio::time::timeout(KILL_AFTER, self.child.wait()).await;
        if ended.is_err() {
            // An error means that it has ended.
            self.child.kill().await.unwrap_or(());
        }
        for &pid in &self.children {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if name.starts_with(CHILD_NAME) {
                send(pid, Signal::KILL);
            }
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.child.id() {
            send(pid, signal);
        }
    }
}

/// A process that has ended meanwhile is no error.
fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        rustix::process::kill_process(pid, signal).unwrap_or(());
    }
}

impl Log {
    /// The next line, which is also kept; `None` when there are no more. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<String> {
        let line = match self.source.as_mut()?.next_line().await {
            Ok(Some(line)) => text::one_line(&line, LINE_CHARS_MAX),
            Ok(None) | Err(_) => {
                self.source = None;
                return None;
            }
        };
        self.add(line.clone());
        Some(line)
    }

    /// Keeps a line of the demo's own.
    pub(super) fn add(&mut self, line: String) {
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// The last `number` lines, oldest first.
    pub(super) fn tail(&self, number: usize) -> impl Iterator<Item = &str> {
        let skipped = self.lines.len().saturating_sub(number);
        self.lines.iter().skip(skipped).map(String::as_str)
    }

    /// Prints everything that the daemon wrote; the failure to return.
    pub(super) async fn failure(&mut self, message: &str) -> Failure {
        // What is still in the pipe. Workers that live on keep it open, so not to its end.
        let rest = async { while self.next().await.is_some() {} };
        let quiet = tokio::time::timeout(Duration::from_millis(300), rest).await;
        quiet.unwrap_or(());
        let written: String = self
            .tail(LINES_MAX)
            .map(|line| format!("{line}\n"))
            .collect();
        output::eprint(&written);
        Failure::new(Exit::Failed, message)
    }
}
