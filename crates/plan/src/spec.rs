//! What a configuration says, validated and with every default filled in. No cell numbers yet.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::name::{BackendName, PoolName, ServiceName};

/// A whole validated configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Settings of the daemon itself.
    pub globals: Globals,
    /// Services in file order; names are unique, and so are listener addresses over all services.
    pub services: Vec<ServiceSpec>,
}

/// Settings of the daemon that belong to no service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Globals {
    /// How many worker processes.
    pub workers: Workers,
    /// Addresses of the metrics endpoint; empty = none.
    pub metrics: Vec<SocketAddr>,
    /// How a stop goes.
    pub drain: DrainSpec,
    /// What is logged, and how.
    pub log: LogSpec,
    /// Sizes that are fixed for the life of the supervisor.
    pub limits: LimitsSpec,
    /// When a worker counts as hung.
    pub watchdog: WatchdogSpec,
    /// Whom workers and monitor run as when the supervisor is root.
    pub user: UserSpec,
}

/// Number of worker processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Workers {
    /// One for each CPU of the affinity mask, and not more than the cgroup CPU quota allows.
    Auto,
    /// This many, 1..=[`LimitsSpec::workers`].
    Count(u16),
}

/// How the daemon stops on `SIGTERM`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainSpec {
    /// Not ready but still accepting, so that whatever stands before this host notices. Default 0 s.
    pub delay: Duration,
    /// How long what runs may go on after the delay. Default 30 s.
    pub deadline: Duration,
    /// How long a retired slot's socket is kept after steering away, for handshakes that are on their way. Default 5 s.
    pub handshakes: Duration,
}

/// What is logged, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSpec {
    /// Least severe level that is written.
    pub level: LogLevel,
    /// Shape of a line.
    pub format: LogFormat,
}

/// Severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LogLevel {
    /// Something failed and needs a person.
    Error,
    /// Something is wrong and was coped with.
    Warn,
    /// Changes of state. The default.
    Info,
    /// One line a connection and more.
    Debug,
}

/// Shape of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogFormat {
    /// For reading. The default.
    Human,
    /// One JSON object a line.
    Json,
}

/// Capacities of the scoreboard, fixed when the supervisor starts; a reload that needs more is refused with the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsSpec {
    /// Worker slots. Default 64 or twice the CPUs, whichever is more.
    pub workers: u16,
    /// Services. Default 4,096.
    pub services: u32,
    /// Listener addresses. Default 4,096.
    pub listeners: u32,
    /// Backends, counted once for each service that uses them. Default 16,384.
    pub backends: u32,
}

/// When a worker counts as hung.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchdogSpec {
    /// Heartbeat this late: new connections go to other workers. Default 500 ms.
    pub steer_after: Duration,
    /// Heartbeat this late, and the process is stopped or burns CPU: it is killed. Default 2 s.
    pub kill_after: Duration,
}

/// User and group of workers and monitor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserSpec {
    /// `evenkeel` where that user exists, else `nobody`. Only when the supervisor is root.
    Default,
    /// This user (name or number), and its own primary group.
    Named(String),
    /// Keep the supervisor's user.
    Keep,
}

/// One service: what its listeners forward to, and how a backend is picked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// Unique name.
    pub name: ServiceName,
    /// Where connections come in; at least one.
    pub listeners: Vec<ListenerSpec>,
    /// How a backend is picked.
    pub scheduler: Scheduler,
    /// The named pool that the backends came from; `None` when they were written in the service itself.
    pub pool: Option<PoolName>,
    /// Backends in file order, at least one, at most 65,535; names are unique.
    pub backends: Vec<BackendSpec>,
    /// How a backend is connected to.
    pub connect: ConnectSpec,
}

/// A listening address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerSpec {
    /// Address and port; port 0 lets the kernel choose once, and the choice is kept over reloads.
    pub address: SocketAddr,
    /// Bind although the address is not on this host yet (IP_FREEBIND).
    pub freebind: bool,
    /// Length of the accept queue of each worker's socket. Default 4,096; the kernel caps it at net.core.somaxconn.
    pub backlog: u32,
}

/// How a backend is picked among the eligible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scheduler {
    /// Round robin, exact over all workers.
    Rr,
    /// Weighted round robin, interleaved as IPVS does, exact over all workers.
    Wrr,
}

/// One configured server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendSpec {
    /// Name, unique in its service.
    pub name: BackendName,
    /// Where it is.
    pub address: SocketAddr,
    /// Share of new connections under `wrr`, 0..=65,535; 0 = no new connections under any scheduler.
    pub weight: u16,
    /// How it is probed; `None` = never, it counts as up.
    pub check: Option<CheckSpec>,
}

/// An active health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CheckSpec {
    /// What is asked.
    pub kind: CheckKind,
    /// Where it is asked; the backend's own address unless the configuration names another port.
    pub target: SocketAddr,
    /// Between the starts of two probes. Default 2 s.
    pub interval: Duration,
    /// For the whole probe. Default 1 s; never above the interval.
    pub timeout: Duration,
    /// Successes in a row that bring a backend up. Default 2.
    pub rise: u16,
    /// Failures in a row that take a backend down. Default 3.
    pub fall: u16,
    /// Random part of the interval either way, in percent, 0..=50. Default 5.
    pub jitter_percent: u8,
}

/// Kind of a health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CheckKind {
    /// A TCP connection can be made.
    Tcp,
}

/// How a backend is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectSpec {
    /// For one attempt. Default 5 s.
    pub timeout: Duration,
    /// Backends tried for one connection before it is given up, the first included, 1..=16. Default 3.
    pub attempts: u8,
}

impl Default for ConnectSpec {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            attempts: 3,
        }
    }
}

impl Default for DrainSpec {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            deadline: Duration::from_secs(30),
            handshakes: Duration::from_secs(5),
        }
    }
}

impl Default for LogSpec {
    fn default() -> Self {
        Self {
            level: LogLevel::Info,
            format: LogFormat::Human,
        }
    }
}

impl Default for LimitsSpec {
    fn default() -> Self {
        Self {
            workers: 64,
            services: 4_096,
            listeners: 4_096,
            backends: 16_384,
        }
    }
}

impl Default for WatchdogSpec {
    fn default() -> Self {
        Self {
            steer_after: Duration::from_millis(500),
            kill_after: Duration::from_secs(2),
        }
    }
}

impl Default for Globals {
    fn default() -> Self {
        Self {
            workers: Workers::Auto,
            metrics: Vec::new(),
            drain: DrainSpec::default(),
            log: LogSpec::default(),
            limits: LimitsSpec::default(),
            watchdog: WatchdogSpec::default(),
            user: UserSpec::Default,
        }
    }
}
