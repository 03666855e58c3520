//! Operator and supervisor, over the control socket: one request and one answer a connection, each a line of JSON.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};

/// The beginning of what is said of a backend whose answers do not find the way to clients' addresses (`source = "client"`).
pub const NO_WAY_BACK: &str = "connects from clients' addresses get no answer";

/// Version of this conversation. An answer of another version is refused with both numbers.
pub const OPERATOR_VERSION: u16 = 3;

/// Longest request in bytes.
pub const REQUEST_BYTES_MAX: u64 = 64 * 1024;

/// Longest answer in bytes.
pub const ANSWER_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Name of the control socket in the runtime directory.
pub const SOCKET_NAME: &str = "control.sock";

/// A message with its version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// [`OPERATOR_VERSION`] of the sender.
    pub version: u16,
    /// The message.
    pub body: T,
}

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// The state of everything.
    Status,
    /// Read the configuration again and switch to it. Answered when it is in force or refused.
    Reload,
    /// Change what an operator says of backends.
    Backend {
        /// `service/backend`, or `*/backend` for one server in all services.
        name: String,
        /// What to do.
        action: BackendAction,
    },
    /// Why a backend is in its state. `service/backend`.
    Why {
        /// `service/backend`.
        name: String,
    },
    /// What happened lately; with `follow`, also what happens from now on: one [`Answer::Event`] each, until the connection is
    /// closed.
    Events {
        /// Go on.
        follow: bool,
    },
}

/// What an operator says of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackendAction {
    /// No new connections; what runs goes on.
    Drain,
    /// Not used at all; what runs goes on.
    Disable,
    /// Used again.
    Enable,
    /// Another weight than the configuration's; `None` = the configuration's again.
    Weight(Option<u16>),
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To `Status`.
    Status(Box<Status>),
    /// The new configuration is in force.
    Reloaded {
        /// Generation in force now.
        generation: u64,
        /// What changed, a line each; empty = nothing.
        changes: Vec<String>,
        /// Warnings of the configuration, a line each.
        warnings: Vec<String>,
    },
    /// To `Backend`.
    Backend {
        /// Backends that the name stood for, as `service/backend`.
        backends: Vec<String>,
        /// What deserves attention, a line each, such as a service that has no eligible backend any more.
        warnings: Vec<String>,
    },
    /// To `Why`.
    Why(Box<Why>),
    /// To `Events`: one of possibly many.
    Event(crate::child::Event),
    /// To `Events` without `follow`: that was the last.
    EventsEnd,
    /// The configuration has errors; what ran runs on.
    Invalid {
        /// One line a problem, with file, line and column.
        problems: Vec<String>,
        /// All of them with their source lines, for a terminal.
        report: String,
    },
    /// The configuration is valid but could not be put in force; what ran runs on.
    Failed {
        /// Why, in words.
        reason: String,
    },
    /// The request was not understood or not allowed.
    Denied {
        /// Why, in words.
        reason: String,
    },
}

/// Why a backend is in its state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Why {
    /// The service.
    pub service: String,
    /// The backend as `status` shows it.
    pub backend: BackendStatus,
    /// Whether it is eligible now, and if not, why, in words.
    pub eligible: String,
    /// What the monitor knows; `None` = it does not answer.
    pub explanation: Option<Box<crate::child::Explanation>>,
    /// Events about it, oldest first.
    pub events: Vec<crate::child::Event>,
}

/// What an operator last said of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminStatus {
    /// `enabled`, `drain`, `disabled`.
    pub state: String,
    /// A weight that overrides the configuration's.
    pub weight: Option<u16>,
    /// Who said it: user and process.
    pub by: String,
    /// Unix seconds.
    pub at_unix: u64,
}

/// The state of everything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program.
    pub program: String,
    /// Process id of the supervisor.
    pub pid: u32,
    /// `starting`, `running`, `delaying`, `draining`.
    pub phase: String,
    /// Unix seconds of the start.
    pub started_unix: u64,
    /// Path of the configuration.
    pub config: String,
    /// Generation in force.
    pub generation: u64,
    /// The last reload.
    pub last_reload: Option<LastReload>,
    /// Limit on descriptors in force.
    pub descriptor_limit: u64,
    /// Addresses of the metrics endpoint.
    pub metrics: Vec<SocketAddr>,
    /// Whether the listening sockets lie in systemd's descriptor store.
    pub descriptor_store: bool,
    /// What deserves attention, a line each.
    pub warnings: Vec<String>,
    /// The monitor.
    pub monitor: MonitorStatus,
    /// One a slot in use.
    pub workers: Vec<WorkerStatus>,
    /// In the order of names.
    pub services: Vec<ServiceStatus>,
}

/// How the last reload ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastReload {
    /// Unix seconds.
    pub at_unix: u64,
    /// Whether it was put in force.
    pub applied: bool,
    /// In a line.
    pub message: String,
}

/// The monitor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MonitorStatus {
    /// Process id, 0 = none now.
    pub pid: u32,
    /// `starting`, `live`, `late`, `backing-off`, `draining`, `ended`.
    pub state: String,
    /// Monitors started so far.
    pub incarnation: u64,
    /// Milliseconds since its last turn: the age of all verdicts.
    pub age_ms: u64,
}

/// A slot and its worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// The slot.
    pub slot: u16,
    /// Process id, 0 = none now.
    pub pid: u32,
    /// `starting`, `live`, `late`, `backing-off`, `retiring`; `ended` when the daemon is draining and it is done.
    pub state: String,
    /// Workers started in this slot so far.
    pub incarnation: u64,
    /// Workers of this slot that ended without being asked to.
    pub crashes: u64,
    /// Slot whose worker accepts for this one at the moment.
    pub adopted_by: Option<u16>,
    /// Generation that it last switched to.
    pub generation: u64,
    /// Milliseconds since its last heartbeat.
    pub heartbeat_age_ms: u64,
    /// CPU that it is pinned to.
    pub cpu: Option<usize>,
    /// Connections now.
    pub active: u64,
    /// Connections accepted by this slot's workers.
    pub accepted: u64,
    /// Those of them from a neighbour's socket.
    pub adopted: u64,
    /// Accepts that failed for lack of a resource.
    pub accept_exhausted: u64,
    /// Clients refused because the last descriptors are kept for what runs. A daemon of before does not say.
    #[serde(default)]
    pub refused: u64,
    /// Log lines dropped.
    pub log_dropped: u64,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Name.
    pub name: String,
    /// Addresses, with real ports.
    pub listeners: Vec<SocketAddr>,
    /// Those of them that have a limit on connections.
    pub limits: Vec<ListenerLimit>,
    /// `rr`, `wrr`, `lc`, `wlc`, `source-hash`.
    pub scheduler: String,
    /// Named pool, if any.
    pub pool: Option<String>,
    /// Connections now.
    pub active: u64,
    /// Those of them that wait for a backend that is full.
    pub queued: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections relayed and ended.
    pub relayed: u64,
    /// Connections failed, by reason: `no_backend`, `connect`, `exhausted`, `client_gone`, `worker_died`, `drain_cut`, `closed`,
    /// `sorry`, `down_reset`, `max_connections`, `rate`, `source_rate`, `denied`, `proxy_header`, `queue_full`, `queue_timeout`,
    /// `idle`, `half_closed`, `total`, `frame_too_long`.
    pub failed: BTreeMap<String, u64>,
    /// Connects tried again on another backend.
    pub retries: u64,
    /// Bytes received from clients.
    pub bytes_received: u64,
    /// Bytes sent to clients.
    pub bytes_sent: u64,
    /// Connections accepted, by slot.
    pub accepted_by_slot: BTreeMap<u16, u64>,
    /// Whether new connections find an eligible backend, or the service has none because its routes send requests elsewhere.
    pub serving: bool,
    /// `open`, `closed`, `panic`.
    pub gate: String,
    /// Unix seconds of the gate's last change; 0 = never changed.
    pub gate_since_unix: u64,
    /// Why the gate is as it is, in words.
    pub gate_reason: String,
    /// `any`, `all`, `2`, `50%`.
    pub require: String,
    /// Requests, where the service speaks HTTP. A daemon of before does not say.
    #[serde(default)]
    pub http: Option<HttpStatus>,
    /// In file order.
    pub backends: Vec<BackendStatus>,
}

/// Requests of a service that speaks HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpStatus {
    /// Requests that were routed to it, and those that no route takes of its own listeners.
    pub requests: u64,
    /// Those of them that have not ended.
    pub active: u64,
    /// Answers that clients got, by class: `2xx`, `3xx`, `4xx`, `5xx`.
    pub answers: BTreeMap<String, u64>,
    /// Answers that no backend gave.
    pub own_answers: u64,
    /// Requests that became a tunnel.
    pub upgrades: u64,
    /// Requests that failed, by reason: `malformed`, `too_large`, `request_timeout`, `no_route`, `concurrent_requests`,
    /// `source_rate`, `closed`, `no_backend`, `connect`, `queue_full`, `queue_timeout`, `internal`, `backend_closed`,
    /// `backend_malformed`, `backend_timeout`, `client_gone`, `cut`, `worker_died`.
    pub failed: BTreeMap<String, u64>,
    /// Requests that were sent again because an idle connection had been closed.
    pub resent: u64,
    /// Requests that were not tried again because the budget was spent.
    pub budget_spent: u64,
}

/// Requests at a backend of a service that speaks HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendHttpStatus {
    /// Requests that were sent to it.
    pub requests: u64,
    /// Those of them that went over a connection that had been used before.
    pub reused: u64,
    /// Connections that are kept for further requests.
    pub idle: u64,
    /// Its answers with a status of 500 to 599.
    pub answers_5xx: u64,
    /// Its answers that were malformed, broken off, or did not come.
    pub bad_answers: u64,
}

/// A listener's limit on connections, and how many there are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerLimit {
    /// Address, with the real port.
    pub address: SocketAddr,
    /// Connections now.
    pub active: u64,
    /// Connections at most.
    pub max_connections: u32,
}

/// A backend of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendStatus {
    /// Name.
    pub name: String,
    /// Address as configured.
    pub address: String,
    /// Addresses that it stands for.
    pub endpoints: Vec<SocketAddr>,
    /// Weight of the configuration.
    pub weight: u16,
    /// Used only while no other is eligible.
    pub backup: bool,
    /// What an operator last said of it.
    pub admin: Option<AdminStatus>,
    /// Kind of its check; `none`.
    pub check: String,
    /// Unix ms of the next check; 0 = none is planned.
    pub next_ms: u64,
    /// `starting`, `up`, `down`, `unchecked`, `drain`, `maint`.
    pub state: String,
    /// Unix seconds of the last change of state; 0 = none yet.
    pub since_unix: u64,
    /// Why, in words.
    pub reason: String,
    /// Last answer to a check.
    pub answer: String,
    /// Milliseconds that the last check took.
    pub check_ms: f64,
    /// Unix seconds of the last check; 0 = none yet.
    pub checked_unix: u64,
    /// Connections now.
    pub active: u64,
    /// Connections at most: of the configuration's limit and its agent's the lower one. `None` = no limit.
    pub max_connections: Option<u32>,
    /// Connections established.
    pub connections: u64,
    /// Connects that failed by its fault.
    pub connect_failures: u64,
    /// Connections that it reset.
    pub resets: u64,
    /// Bytes sent to it.
    pub bytes_sent: u64,
    /// Bytes received from it.
    pub bytes_received: u64,
    /// Requests, where the service speaks HTTP. A daemon of before does not say.
    #[serde(default)]
    pub http: Option<BackendHttpStatus>,
    /// Scoreboard cell, for matching with what tools show of the shared memory.
    pub cell: u32,
}

/// Why a conversation over the control socket failed.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The connection broke.
    #[error("talk to the supervisor")]
    Io(#[from] std::io::Error),
    /// The message is not one of this protocol.
    #[error("read the message")]
    Decode(#[from] serde_json::Error),
    /// The message is longer than allowed, or the connection ended in it.
    #[error("the message did not arrive whole")]
    Cut,
    /// The other side speaks another version.
    #[error("the other side speaks protocol {found}, this program {OPERATOR_VERSION}")]
    Version {
        /// The version found.
        found: u16,
    },
}

/// Writes one message as a line.
///
/// # Errors
/// [`OperatorError::Io`].
pub async fn write<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    body: T,
) -> Result<(), OperatorError> {
    let envelope = Envelope {
        version: OPERATOR_VERSION,
        body,
    };
    let mut line = serde_json::to_vec(&envelope)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    stream.flush().await?;
    Ok(())
}

/// Reads one message, a line of at most `bytes_max` bytes.
///
/// # Errors
/// [`OperatorError`].
pub async fn read<T: for<'de> Deserialize<'de>>(
    stream: impl AsyncRead + Unpin,
    bytes_max: u64,
) -> Result<T, OperatorError> {
    let mut line = Vec::new();
    let mut reader = BufReader::new(stream.take(bytes_max));
    reader.read_until(b'\n', &mut line).await?;
    if line.last() != Some(&b'\n') {
        return Err(OperatorError::Cut);
    }
    // The version is looked at before the body, which another version may have changed.
    let version: Version = serde_json::from_slice(&line)?;
    if version.version != OPERATOR_VERSION {
        return Err(OperatorError::Version {
            found: version.version,
        });
    }
    let envelope: Envelope<T> = serde_json::from_slice(&line)?;
    Ok(envelope.body)
}

#[derive(Deserialize)]
struct Version {
    version: u16,
}
