//! The daemon as a process.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use evenkeel_control::operator;
use evenkeel_control::operator::{
    ANSWER_BYTES_MAX, Answer, BackendStatus, Request, SOCKET_NAME, ServiceStatus, Status,
};
use rustix::process::Signal;

use crate::prometheus::{Metrics, http};
use crate::service_manager::ServiceManager;
use crate::wait::until;
use crate::{Namespace, TempDir, eventually, proc};

/// Longest wait for an answer on the control socket. A reload waits for its children's deadlines.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// Longest wait for a start or an end.
const LIFE_MAX: Duration = Duration::from_secs(30);

/// Marks the daemon and, since children inherit it, everything that it starts.
const MARK: &str = "EVENKEEL_TEST_DIRECTORY";

/// How the daemon is started.
#[derive(Debug)]
pub struct Builder {
    binary: PathBuf,
    config: String,
    environment: Vec<(String, String)>,
    manager: Option<Arc<ServiceManager>>,
    wrapper: Vec<String>,
    stderr: Option<Arc<OwnedFd>>,
    descriptors: Option<u32>,
}

/// A running daemon in a directory of its own. Dropping it kills the supervisor and every process that it has started.
#[derive(Debug)]
pub struct Daemon {
    builder: Builder,
    dir: TempDir,
    child: Child,
    seen: Mutex<Seen>,
}

/// What is remembered for when the supervisor is gone.
#[derive(Debug, Default)]
struct Seen {
    processes: BTreeSet<u32>,
    metrics: Option<SocketAddr>,
}

impl Builder {
    /// Environment of the daemon.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// As a service of `manager`: with its socket for notifications and its descriptor store.
    #[must_use]
    pub fn managed(mut self, manager: &Arc<ServiceManager>) -> Self {
        self.manager = Some(Arc::clone(manager));
        self
    }

    /// With at most this many descriptors in each of its processes.
    #[must_use]
    pub fn descriptors(mut self, count: u32) -> Self {
        self.descriptors = Some(count);
        self
    }

    /// In this network namespace. Metrics and addresses are then to be reached from there.
    #[must_use]
    pub fn inside(mut self, namespace: &Namespace) -> Self {
        self.wrapper = namespace.wrapper();
        self
    }

    /// With this as its standard error; [`Daemon::log`] is empty then.
    #[must_use]
    pub fn stderr(mut self, stderr: OwnedFd) -> Self {
        self.stderr = Some(Arc::new(stderr));
        self
    }

    /// Starts it and waits until it serves.
    #[must_use]
    pub fn start(self) -> Daemon {
        let daemon = self.launch();
        // One that refuses its configuration is not waited for in vain.
        let socket = daemon.runtime_dir().join(SOCKET_NAME);
        eventually(LIFE_MAX, "it listens to operators, or has ended", || {
            let ended = !proc::alive(daemon.pid());
            (socket.exists() || ended).then_some(())
        });
        assert!(proc::alive(daemon.pid()), "{}", daemon.log());
        daemon.wait_ready();
        daemon
    }

    /// Starts it and does not wait.
    #[must_use]
    pub fn launch(self) -> Daemon {
        let dir = TempDir::new();
        fs::create_dir(dir.join("run")).expect("a fresh directory");
        fs::write(dir.join("evenkeel.toml"), &self.config).expect("a fresh directory");
        let child = spawn(&self, &dir);
        Daemon {
            builder: self,
            dir,
            child,
            seen: Mutex::default(),
        }
    }
}

impl Daemon {
    /// A daemon of the program at `binary` with this configuration.
    #[must_use]
    pub fn builder(binary: &str, config: &dyn std::fmt::Display) -> Builder {
        Builder {
            binary: PathBuf::from(binary),
            config: config.to_string(),
            environment: Vec::new(),
            manager: None,
            wrapper: Vec::new(),
            stderr: None,
            descriptors: None,
        }
    }

    /// Starts another supervisor in the same directory; the one before must have ended.
    pub fn start_again(&mut self) {
        eventually(LIFE_MAX, "the supervisor before has ended", || {
            self.child.try_wait().expect("it is our child")
        });
        self.remember(&proc::with_environment(MARK, self.dir.path()));
        self.child = spawn(&self.builder, &self.dir);
    }

    /// Runs the program to its end with these arguments, in the daemon's directory.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.builder.binary);
        command.args(arguments).current_dir(self.dir.path());
        command.env(MARK, self.dir.path()).stdin(Stdio::null());
        command.output().expect("the program starts")
    }

    /// A command of the program about this daemon, such as `status`, with what it writes to be read.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.builder.binary);
        command.args(arguments).current_dir(self.dir.path());
        command
            .env(MARK, self.dir.path())
            .env("EVENKEEL_RUNTIME_DIR", self.runtime_dir())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs such a command to its end, which must be a success: what it wrote.
    pub fn tell(&self, arguments: &[&str]) -> String {
        let output = self
            .command(arguments)
            .output()
            .expect("the program starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, error) = (text(&output.stdout), text(&output.stderr));
        assert!(
            output.status.success(),
            "{arguments:?}: {}\n{out}{error}",
            output.status
        );
        out + &error
    }

    /// A command for another supervisor with the same configuration and runtime directory.
    #[must_use]
    pub fn second(&self) -> Command {
        let mut command = Command::new(&self.builder.binary);
        arguments(&mut command, &self.dir);
        command.env(MARK, self.dir.path()).stdin(Stdio::null());
        command
    }

    /// Writes another configuration, which the next reload reads.
    pub fn rewrite_config(&self, config: &dyn std::fmt::Display) {
        let fresh = self.dir.join("evenkeel.toml.new");
        fs::write(&fresh, config.to_string()).expect("our directory");
        fs::rename(fresh, self.config_path()).expect("our directory");
    }

    /// Path of the configuration.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.dir.join("evenkeel.toml")
    }

    /// The runtime directory.
    #[must_use]
    pub fn runtime_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// Waits until the daemon runs, every worker is live and the monitor too.
    pub fn wait_ready(&self) -> Status {
        self.wait_status("the daemon is ready", |status| {
            status.phase == "running"
                && status.monitor.state == "live"
                && !status.workers.is_empty()
                && status.workers.iter().all(|worker| worker.state == "live")
        })
    }

    /// Waits until the status is as wanted.
    pub fn wait_status(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let mut last = String::new();
        let look = || match self.ask(&Request::Status) {
            Ok(Answer::Status(status)) if wanted(&status) => Some(*status),
            other => {
                last = format!("{other:?}");
                None
            }
        };
        let waited = until(LIFE_MAX, look);
        waited.unwrap_or_else(|| panic!("waited in vain until {what}; last answer: {last}"))
    }

    /// Waits until every backend of every service is `up`.
    pub fn wait_backends_up(&self) -> Status {
        self.wait_status("all backends are up", |status| {
            let mut all = status.services.iter().flat_map(|service| &service.backends);
            all.all(|backend| backend.state == "up" || backend.state == "unchecked")
        })
    }

    /// The state of everything.
    pub fn status(&self) -> Status {
        match self.ask(&Request::Status) {
            Ok(Answer::Status(status)) => *status,
            other => panic!("asked for the status and got {other:?}"),
        }
    }

    /// A service's part of the status.
    pub fn service(&self, name: &str) -> ServiceStatus {
        find(&self.status(), name)
    }

    /// A backend's part of the status.
    pub fn backend(&self, service: &str, name: &str) -> BackendStatus {
        let service = self.service(service);
        let found = service
            .backends
            .into_iter()
            .find(|backend| backend.name == name);
        found.unwrap_or_else(|| panic!("no backend {name}"))
    }

    /// Reads the configuration again.
    pub fn reload(&self) -> Answer {
        self.ask(&Request::Reload)
            .unwrap_or_else(|error| panic!("asked for a reload: {error}"))
    }

    /// Writes a configuration and switches to it; the generation that results.
    pub fn apply(&self, config: &dyn std::fmt::Display) -> u64 {
        self.rewrite_config(config);
        match self.reload() {
            Answer::Reloaded { generation, .. } => generation,
            other => panic!("the reload gave {other:?}"),
        }
    }

    /// Asks over the control socket.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub fn ask(&self, request: &Request) -> Result<Answer, String> {
        let socket = self.runtime_dir().join(SOCKET_NAME);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        let talk = async {
            let stream = tokio::net::UnixStream::connect(socket).await;
            let mut stream = stream.map_err(|error| error.to_string())?;
            operator::write(&mut stream, request)
                .await
                .map_err(|error| format!("{error}: {:?}", std::error::Error::source(&error)))?;
            operator::read(&mut stream, ANSWER_BYTES_MAX)
                .await
                .map_err(|error| format!("{error}: {:?}", std::error::Error::source(&error)))
        };
        let answer = runtime
            .block_on(async { tokio::time::timeout(ANSWER_MAX, talk).await })
            .map_err(|_| "no answer in time".to_owned())??;
        if let Answer::Status(status) = &answer {
            let workers = status.workers.iter().map(|worker| worker.pid);
            let all = workers.chain([status.monitor.pid, status.pid]);
            self.remember(&all.filter(|pid| *pid != 0).collect());
            if let Some(address) = status.metrics.first() {
                self.seen().metrics = Some(*address);
            }
        }
        Ok(answer)
    }

    /// The first listening address of a service, with its real port.
    pub fn address(&self, service: &str) -> SocketAddr {
        self.service(service).listeners[0]
    }

    /// Address of the metrics endpoint; the last one known when the supervisor is gone.
    pub fn metrics_address(&self) -> SocketAddr {
        if self.seen().metrics.is_none() {
            self.status();
        }
        self.seen()
            .metrics
            .expect("a metrics endpoint is configured")
    }

    /// Scrapes the metrics.
    pub fn metrics(&self) -> Metrics {
        let (status, body) = self.http("/metrics");
        assert_eq!(status, 200, "{body}");
        Metrics::parse(&body).unwrap_or_else(|line| panic!("not the text format: {line}"))
    }

    /// Asks the metrics endpoint for `path`: status and body.
    pub fn http(&self, path: &str) -> (u16, String) {
        http(self.metrics_address(), path).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Process id of the supervisor.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Process ids of the workers, by slot; only of slots that have one.
    pub fn workers(&self) -> Vec<u32> {
        let workers = self.status().workers.into_iter();
        workers
            .map(|worker| worker.pid)
            .filter(|pid| *pid != 0)
            .collect()
    }

    /// Process id of the monitor.
    pub fn monitor(&self) -> u32 {
        self.status().monitor.pid
    }

    /// Sends the supervisor a signal.
    pub fn signal(&self, signal: Signal) {
        proc::signal(self.pid(), signal);
    }

    /// Kills the supervisor, and nothing else.
    pub fn kill_supervisor(&mut self) {
        // Everything that it has started is remembered, so that it can be ended later.
        self.remember(&proc::children(self.pid()));
        self.signal(Signal::KILL);
        self.wait_end(LIFE_MAX);
    }

    /// Waits until the supervisor has ended.
    pub fn wait_end(&mut self, deadline: Duration) -> ExitStatus {
        eventually(deadline, "the supervisor has ended", || {
            self.child.try_wait().expect("it is our child")
        })
    }

    /// Whether the supervisor has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_none()
    }

    /// Drains it and waits for its end.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_end(LIFE_MAX)
    }

    /// Processes of this daemon that are alive: supervisor, children and orphans.
    pub fn processes(&self) -> BTreeSet<u32> {
        let mut all = proc::with_environment(MARK, self.dir.path());
        all.extend(proc::children(self.pid()));
        all.extend(&self.seen().processes);
        all.retain(|pid| proc::alive(*pid));
        all
    }

    /// What the daemon wrote on standard error so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(self.dir.join("log"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    fn remember(&self, processes: &BTreeSet<u32>) {
        self.seen().processes.extend(processes);
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        const LINES: usize = 120;
        self.remember(&proc::children(self.pid()));
        // It may have ended already; then there is nothing to kill or to wait for.
        drop(self.child.kill());
        drop(self.child.wait());
        for pid in self.processes() {
            if pid != std::process::id() {
                proc::signal(pid, Signal::KILL);
            }
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let skipped = lines.len().saturating_sub(LINES);
            eprintln!("--- the daemon's log, without its first {skipped} lines");
            lines[skipped..].iter().for_each(|line| eprintln!("{line}"));
            eprintln!("---");
        }
    }
}

/// The service called `name`.
fn find(status: &Status, name: &str) -> ServiceStatus {
    let found = status.services.iter().find(|service| service.name == name);
    found
        .unwrap_or_else(|| panic!("no service {name} in {status:?}"))
        .clone()
}

fn spawn(builder: &Builder, dir: &TempDir) -> Child {
    let mut command = match &builder.manager {
        Some(manager) => manager.command(&builder.binary).expect("descriptors left"),
        None => Command::new(&builder.binary),
    };
    if let Some((first, rest)) = builder.wrapper.split_first() {
        command = Command::new(first);
        command.args(rest).arg(&builder.binary);
    }
    if let Some(count) = builder.descriptors {
        // Both limits, since the daemon raises the soft one.
        let limit = format!("ulimit -n {count}; exec \"$0\" \"$@\"");
        command = Command::new("/bin/sh");
        command.args(["-c", &limit]).arg(&builder.binary);
    }
    arguments(&mut command, dir);
    let log = match &builder.stderr {
        Some(stderr) => stderr.try_clone().map(File::from),
        None => File::options()
            .create(true)
            .append(true)
            .open(dir.join("log")),
    };
    command
        .env(MARK, dir.path())
        .env("RUST_BACKTRACE", "1")
        .envs(builder.environment.iter().cloned())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log.expect("our directory, or a descriptor left"))
        .spawn()
        .expect("the program starts")
}

fn arguments(command: &mut Command, dir: &TempDir) {
    let path = |name: &str| -> PathBuf { Path::new(dir.path()).join(name) };
    command.arg("run");
    command.arg("--config").arg(path("evenkeel.toml"));
    command.arg("--runtime-dir").arg(path("run"));
}
