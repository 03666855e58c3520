//! What a configuration says, validated and with every default filled in. No cell numbers yet.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::http::HttpSpec;
use crate::name::{BackendName, PoolName, ServiceName};
use crate::traffic::{
    AdmissionSpec, ConnectOn, Framing, KeepaliveSpec, ProxyVersion, QueueSpec, SourceSpec,
    TimeoutsSpec,
};

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
    /// The line that is written of each connection.
    pub access_log: AccessLogSpec,
    /// Sizes that are fixed for the life of the supervisor.
    pub limits: LimitsSpec,
    /// When a worker counts as hung.
    pub watchdog: WatchdogSpec,
    /// Whom workers and monitor run as when the supervisor is root.
    pub user: UserSpec,
    /// How names are resolved.
    pub resolve: ResolveSpec,
    /// Whether checks may run programs.
    pub allow_exec: bool,
}

/// How names are resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolveSpec {
    /// Name servers; empty = those of `/etc/resolv.conf`, which is read again when it changes.
    pub servers: Vec<SocketAddr>,
    /// Answers are kept for at least this long. Default 1 s.
    pub ttl_min: Duration,
    /// Answers are kept for at most this long. Default 60 s.
    pub ttl_max: Duration,
    /// For one look-up, all its tries included. Default 3 s.
    pub timeout: Duration,
    /// A failed look-up is tried again after this long. Default 2 s.
    pub retry: Duration,
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

/// The line that is written of each connection at its end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessLogSpec {
    /// Its shape.
    pub format: AccessFormat,
    /// A file that lines are appended to, opened by the supervisor at start and again at each reload; `None` = where the
    /// log goes, standard error.
    pub file: Option<String>,
}

/// Shape of a line of the access log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccessFormat {
    /// There is none.
    #[default]
    Off,
    /// For reading.
    Human,
    /// One JSON object a line.
    Json,
    /// `key=value` pairs.
    Logfmt,
    /// Text with names of fields in braces, such as `{client} {service} {duration_ms}`. Checked by the configuration.
    Template(String),
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
    /// Sources whose rates are watched at the same time (`source_rate`), a multiple of 4. Default 65,536.
    pub sources: u32,
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
    /// Where connections come in; at least one, unless it is a service of HTTP that others' routes lead to.
    pub listeners: Vec<ListenerSpec>,
    /// How a backend is picked.
    pub scheduler: Scheduler,
    /// The named pool that the backends came from; `None` when they were written in the service itself.
    pub pool: Option<PoolName>,
    /// Backends in file order, at least one unless it has routes, at most 65,535; names are unique.
    pub backends: Vec<BackendSpec>,
    /// How a backend is connected to.
    pub connect: ConnectSpec,
    /// When the service serves at all, and what it does when it does not.
    pub policy: PolicySpec,
    /// How long a connection may take for what.
    pub timeouts: TimeoutsSpec,
    /// Probes on connections without traffic.
    pub keepalive: KeepaliveSpec,
    /// Who waits for a backend that is full.
    pub queue: QueueSpec,
    /// What is written at once.
    pub framing: Framing,
    /// HTTP: requests are balanced and not connections. `None` = the bytes of connections are relayed as they are.
    pub http: Option<Arc<HttpSpec>>,
}

/// When a service serves at all, and what it does when it does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicySpec {
    /// How many backends must be healthy. Counts health and not admin state; backups never count.
    pub require: Require,
    /// Takes the connections while this service does not serve. Its own `sorry` is not followed further.
    pub sorry: Option<ServiceName>,
    /// With fewer healthy backends than this share, in percent 1..=100, all enabled ones are used, healthy or not. Default
    /// `None` = never.
    pub panic: Option<u8>,
    /// What counts when there is no fresh news of health, because the monitor is gone. Default: `Closed` with
    /// [`Require::All`], else `Last`.
    pub stale: Stale,
    /// When a backend that was never checked yet is used. Default `IfNoneUp`.
    pub unchecked: Unchecked,
    /// What happens to the connections of a backend that goes down. Default `Keep`.
    pub on_down: OnDown,
    /// For this long after it comes up, a backend gets a share that grows from a tenth to the whole. 0 = off, the default.
    pub slow_start: Duration,
    /// Failed connects in a row to a backend, over all workers, that are taken as evidence. 0 = none are. Default 3.
    pub passive_failures: u16,
}

/// How many backends must be healthy for a service to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Require {
    /// One that is eligible is enough. The default. `starting` does not close the service.
    Any,
    /// Every one, as CHT's healthcheck wants it of a CouchDB cluster. `starting` counts as not healthy.
    All,
    /// At least this many. `starting` counts as not healthy.
    Count(u16),
    /// At least this share, in percent 1..=100, rounded up. `starting` counts as not healthy.
    Share(u8),
}

/// What counts when there is no fresh news of health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stale {
    /// What was last known.
    Last,
    /// The service does not serve.
    Closed,
}

/// When a backend that was never checked yet is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unchecked {
    /// Only while nothing is known to be up.
    IfNoneUp,
    /// Never.
    Never,
    /// As if it were up.
    Always,
}

/// What happens to the connections of a backend that goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnDown {
    /// They go on.
    Keep,
    /// They are reset, on both sides.
    Reset,
}

/// A listening address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerSpec {
    /// Address and port; port 0 lets the kernel choose once, and the choice is kept over reloads.
    pub address: SocketAddr,
    /// Bind although the address is not on this host yet (IP_FREEBIND).
    pub freebind: bool,
    /// Length of the accept queue of each worker's socket. Default 4,096; the kernel caps it at net.core.somaxconn.
    pub backlog: u32,
    /// Who may connect, and how often.
    pub admission: AdmissionSpec,
}

impl ListenerSpec {
    /// A listener at `address` with every default.
    #[must_use]
    pub fn at(address: SocketAddr) -> Self {
        Self {
            address,
            freebind: false,
            backlog: 4_096,
            admission: AdmissionSpec::default(),
        }
    }
}

/// How a backend is picked among the eligible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scheduler {
    /// Round robin, exact over all workers.
    Rr,
    /// Weighted round robin, interleaved as IPVS does, exact over all workers.
    Wrr,
    /// Least connections, those of all workers; backends that have as few take turns.
    Lc,
    /// Weighted least connections, those of all workers.
    Wlc,
    /// The same backend for the same source address (Maglev hashing): the same in every worker and on every balancer that has the
    /// same backends.
    SourceHash,
}

impl Scheduler {
    /// The word for it in the configuration and in `status`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rr => "rr",
            Self::Wrr => "wrr",
            Self::Lc => "lc",
            Self::Wlc => "wlc",
            Self::SourceHash => "source-hash",
        }
    }
}

/// One configured server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendSpec {
    /// Name, unique in its service.
    pub name: BackendName,
    /// Where it is.
    pub address: Address,
    /// Share of new connections under `wrr`, 0..=65,535; 0 = no new connections under any scheduler.
    pub weight: u16,
    /// Used only while no other backend of the service is eligible.
    pub backup: bool,
    /// Connections at a time, over all workers, 1..=10,000,000; where an agent says fewer, that counts. Exact from above: never
    /// more; while several workers pick at the limit at the same instant, one may be passed over although there is room.
    pub max_connections: Option<u32>,
    /// How it is probed; `None` = never, it counts as up.
    pub check: Option<Arc<CheckSpec>>,
}

impl BackendSpec {
    /// A backend at `address` with every default, and without checks.
    #[must_use]
    pub fn at(name: BackendName, address: Address) -> Self {
        Self {
            name,
            address,
            weight: 1,
            backup: false,
            max_connections: None,
            check: None,
        }
    }
}

impl ServiceSpec {
    /// A service called `name` with every default.
    #[must_use]
    pub fn new(
        name: ServiceName,
        listeners: Vec<ListenerSpec>,
        backends: Vec<BackendSpec>,
    ) -> Self {
        Self {
            name,
            listeners,
            scheduler: Scheduler::Rr,
            pool: None,
            backends,
            connect: ConnectSpec::default(),
            policy: PolicySpec::default(),
            timeouts: TimeoutsSpec::default(),
            keepalive: KeepaliveSpec::default(),
            queue: QueueSpec::default(),
            framing: Framing::default(),
            http: None,
        }
    }
}

/// Where a backend is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Address {
    /// An address and port.
    Socket(SocketAddr),
    /// A name that is resolved to addresses (A and AAAA), and a port.
    Name {
        /// The name, without a trailing dot.
        host: String,
        /// The port.
        port: u16,
    },
    /// A name that is resolved to names and ports (SRV), such as `_couchdb._tcp.example.org`.
    Service {
        /// The name, without a trailing dot.
        name: String,
    },
}

impl Address {
    /// The name to be resolved, if it is not an address already.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Socket(_) => None,
            Self::Name { host, .. } => Some(host),
            Self::Service { name } => Some(name),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
            Self::Service { name } => write!(f, "{name} (SRV)"),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Socket(address)
    }
}

/// Most addresses that one backend's name stands for; further ones are left out, in the order of the addresses.
pub const ENDPOINTS_MAX: usize = 16;

/// An active health check.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CheckSpec {
    /// What is asked.
    pub kind: CheckKind,
    /// Port that is asked, at the backend's addresses; `None` = the backend's own.
    pub port: Option<u16>,
    /// Address of ours that it is asked from; `None` = the kernel chooses.
    pub source: Option<IpAddr>,
    /// Between the starts of two probes. Default 2 s.
    pub interval: Duration,
    /// The same while in doubt: after a result that speaks against the state, and while passive evidence is fresh. Default: the
    /// interval, and never above it.
    pub fast_interval: Duration,
    /// For the whole probe, all its requests included. Default 1 s; never above the interval.
    pub timeout: Duration,
    /// Successes in a row that bring a backend up. Default 2.
    pub rise: u16,
    /// Failures in a row that take a backend down. Default 3.
    pub fall: u16,
    /// Random part of the interval either way, in percent, 0..=50. Default 5.
    pub jitter_percent: u8,
}

/// Kind of a health check.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CheckKind {
    /// A TCP connection can be made. Closed cleanly.
    Tcp,
    /// A TLS handshake can be made.
    Tls(TlsSpec),
    /// Every request is answered as expected. Over TLS where that is given.
    Http {
        /// HTTPS.
        tls: Option<TlsSpec>,
        /// In order, on one connection where the server keeps it; at least one.
        requests: Vec<HttpRequestSpec>,
    },
    /// A CouchDB node: `/_up`, and `/_membership` as the other nodes of the pool see it.
    CouchDb(CouchDbSpec),
    /// HAProxy's agent protocol: a line of words such as `up`, `down`, `drain`, `maint`, `ready`, `75%`, `maxconn:20`.
    Agent {
        /// Sent first, where given.
        send: Option<String>,
    },
    /// A program of the operator's; exit code 0 = passed. Gets `EVENKEEL_ADDRESS`, `EVENKEEL_BACKEND`; one line of output is
    /// the answer.
    Exec {
        /// Absolute path and arguments, at least the path.
        command: Vec<String>,
    },
}

impl CheckKind {
    /// The word for it in the configuration and in `status`.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls(_) => "tls",
            Self::Http { tls: None, .. } => "http",
            Self::Http { tls: Some(_), .. } => "https",
            Self::CouchDb(_) => "couchdb",
            Self::Agent { .. } => "agent",
            Self::Exec { .. } => "exec",
        }
    }
}

/// TLS of a check.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TlsSpec {
    /// Name that is asked for (SNI) and verified; `None` = the backend's name or address.
    pub server_name: Option<String>,
    /// Certificates in PEM that the server's must lead to; `None` = the server's certificate is not verified.
    pub roots: Option<String>,
}

/// One request of an HTTP check and the answer that is expected.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HttpRequestSpec {
    /// Method. Default `GET`.
    pub method: String,
    /// Path and query. Default `/`.
    pub path: String,
    /// `Host`; `None` = the backend's address.
    pub host: Option<String>,
    /// Further fields.
    pub headers: Vec<(String, String)>,
    /// Status codes that pass, as ranges. Default 200..=299.
    pub expect: Vec<(u16, u16)>,
    /// Status codes that mean: no new connections, keep what runs. Default none.
    pub drain: Vec<(u16, u16)>,
    /// A text that the body's first 64 KiB must have.
    pub body_contains: Option<String>,
    /// A regular expression that must match in the body's first 64 KiB.
    pub body_regex: Option<String>,
}

/// A check of a CouchDB node within its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CouchDbSpec {
    /// HTTPS.
    pub tls: Option<TlsSpec>,
    /// Who asks; `None` = without credentials.
    pub credentials: Option<CredentialsSpec>,
    /// How many nodes there must be, in `all_nodes` and in `cluster_nodes`. Default: as many as the pool has backends.
    pub nodes: u16,
    /// Names that `cluster_nodes` must have exactly, such as `couchdb@couchdb-1.local`; empty = any.
    pub names: Vec<String>,
}

/// Where a check's credentials come from. The values themselves are never part of a plan.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CredentialsSpec {
    /// The user's name.
    pub user: SecretSource,
    /// The password.
    pub password: SecretSource,
}

/// Where a secret's value comes from. The supervisor reads it at start and at each reload, and passes it to the monitor only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SecretSource {
    /// The supervisor's environment variable of this name.
    Environment(String),
    /// A file; one line feed at its end is not part of the value.
    File(String),
}

/// How a backend is connected to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectSpec {
    /// For one attempt. Default 5 s.
    pub timeout: Duration,
    /// Backends tried for one connection before it is given up, the first included, 1..=16. Default 3.
    pub attempts: u8,
    /// The address that backends see as the peer's.
    pub source: SourceSpec,
    /// Begin with a PROXY protocol header of this version. Default: none.
    pub send_proxy: Option<ProxyVersion>,
    /// When it is connected to.
    pub on: ConnectOn,
}

impl Default for PolicySpec {
    fn default() -> Self {
        Self {
            require: Require::Any,
            sorry: None,
            panic: None,
            stale: Stale::Last,
            unchecked: Unchecked::IfNoneUp,
            on_down: OnDown::Keep,
            slow_start: Duration::ZERO,
            passive_failures: 3,
        }
    }
}

impl Default for HttpRequestSpec {
    fn default() -> Self {
        Self {
            method: "GET".to_owned(),
            path: "/".to_owned(),
            host: None,
            headers: Vec::new(),
            expect: vec![(200, 299)],
            drain: Vec::new(),
            body_contains: None,
            body_regex: None,
        }
    }
}

impl CheckSpec {
    /// A check of `kind` with every default.
    #[must_use]
    pub fn of(kind: CheckKind) -> Self {
        Self {
            kind,
            port: None,
            source: None,
            interval: Duration::from_secs(2),
            fast_interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
            jitter_percent: 5,
        }
    }
}

impl Default for ConnectSpec {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            attempts: 3,
            source: SourceSpec::default(),
            send_proxy: None,
            on: ConnectOn::default(),
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
            sources: 65_536,
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

impl Default for ResolveSpec {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            ttl_min: Duration::from_secs(1),
            ttl_max: Duration::from_secs(60),
            timeout: Duration::from_secs(3),
            retry: Duration::from_secs(2),
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
            access_log: AccessLogSpec::default(),
            limits: LimitsSpec::default(),
            watchdog: WatchdogSpec::default(),
            user: UserSpec::Default,
            resolve: ResolveSpec::default(),
            allow_exec: false,
        }
    }
}
