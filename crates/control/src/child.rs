//! Supervisor and child.
//!
//! ```text
//! supervisor                                   child
//!   Hello                                 -->
//!   Descriptors (scoreboard, log, ...)    -->
//!                                         <--  Taken (one for each batch; the next batch waits for it)
//!   Descriptors (listeners, delta)        -->
//!                                         <--  Taken
//!   Prepare g                             -->    decodes beside its traffic
//!                                         <--  Prepared g | Refused g
//!   Commit g                              -->    (the generation cell was stored before this is sent)
//!                                         <--  Lingering g ..., Applied g     the first Applied = READY
//!   ...
//!                                         <--  Released cells                 as the last holders let go
//!   Drain                                 -->
//!                                         <--  Drained, then it exits with 0
//! ```
//!
//! End of file on the channel is the sign that the supervisor is gone.

use std::net::SocketAddr;
use std::time::Duration;

use evenkeel_plan::http::CookieSpec;
use evenkeel_plan::{Address, BackendCell, ListenerCell, SecretSource, SlotIdx};
use serde::{Deserialize, Serialize};

/// Version of this conversation. Both ends are the same binary but across an upgrade.
pub const PROTOCOL_VERSION: u16 = 3;

/// Most descriptors in one batch: below the kernel's 253, and few enough that those in flight do not eat the limit.
pub const BATCH_MAX: usize = 128;

/// What kind of child this is; the value of the role variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Carries traffic.
    Worker,
    /// Health checks, metrics, log writing.
    Monitor,
}

impl Role {
    /// The value of the role variable.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Monitor => "monitor",
        }
    }

    /// Reads the value of the role variable.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Worker, Self::Monitor]
            .into_iter()
            .find(|role| role.as_str() == text)
    }
}

/// The first message to a child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Slot of a worker; 0 for the monitor.
    pub slot: SlotIdx,
    /// How many processes this slot has had, this one included; 1 is the first.
    pub incarnation: u64,
    /// Which of the slot's two rows is this worker's.
    pub parity: u8,
    /// CPU to pin to.
    pub cpu: Option<usize>,
    /// User and group ids to become; `None` = stay.
    pub become_user: Option<(u32, u32)>,
    /// Keep CAP_NET_RAW when becoming that user: a service connects to its backends from its clients' addresses.
    pub keep_net_raw: bool,
    /// What to do when the supervisor is gone.
    pub orphan: OrphanRule,
    /// Process id of the supervisor, for the log.
    pub supervisor: u32,
}

/// What a child does when its supervisor is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OrphanRule {
    /// The listening sockets lie in a descriptor store, from which the next supervisor takes them: stop accepting, drain
    /// within the drain deadline, exit.
    Drain,
    /// Serve on with the last plan, and say so; hand the listening sockets to the next supervisor when it asks for them on
    /// the [`Descriptor::Reunion`] socket, then drain and exit.
    ServeOn,
}

/// What a descriptor of a batch is. Position in the batch's manifest = position beside the message.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Descriptor {
    /// The scoreboard's memory.
    Scoreboard,
    /// This child's end of its line channel: whole log lines, one or more a packet, each ended by a line feed.
    LogSender,
    /// To the monitor: the reading end of somebody's line channel.
    LogReceiver {
        /// Whose lines these are, such as `worker-0`, for counting.
        source: String,
    },
    /// A listening socket. To a worker: of its own slot, or of a slot that it is going to adopt.
    Listener {
        /// Which listener.
        listener: ListenerCell,
        /// Whose slot's socket.
        slot: SlotIdx,
        /// The address it is bound to (the real port where the configuration says 0).
        address: SocketAddr,
    },
    /// To the monitor: a listening socket of the metrics endpoint.
    Metrics {
        /// The address it is bound to.
        address: SocketAddr,
    },
    /// A sealed blob: the delta for the [`ToChild::Prepare`] of this generation.
    Delta {
        /// The generation that results.
        generation: u64,
    },
    /// To the monitor: a sealed blob of [`Secrets`], for the [`ToChild::Prepare`] of this generation.
    Secrets {
        /// The generation.
        generation: u64,
    },
    /// The file that lines of the access log are appended to, to the monitor, with the [`ToChild::Prepare`] of this
    /// generation; without one they go where the log goes.
    AccessLog {
        /// The generation.
        generation: u64,
    },
    /// An eventfd. To a worker: its own, to be read when it is ready, and those of all other slots, to be written to when
    /// somebody there waits for what was freed here. To the monitor: every slot's, to be written to.
    Doorbell {
        /// Whose.
        slot: SlotIdx,
    },
    /// A bound Unix stream socket in the runtime directory, on which orphans answer the next supervisor.
    Reunion,
    /// To a worker: a sealed blob of [`CookieKeys`], for the [`ToChild::Prepare`] of this generation; none where no service of
    /// it has cookies.
    CookieKeys {
        /// The generation.
        generation: u64,
    },
}

/// From the supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToChild {
    /// Who you are.
    Hello(Hello),
    /// Descriptors, beside the message in the manifest's order; at most [`BATCH_MAX`].
    Descriptors {
        /// For [`FromChild::Taken`].
        batch: u64,
        /// What each one is.
        manifest: Vec<Descriptor>,
    },
    /// Decode the delta of this generation, register nothing yet, and answer `Prepared` or `Refused`.
    Prepare {
        /// Generation that results.
        generation: u64,
    },
    /// This generation is in force (its cell is stored): accept on what is new, let go of what is gone, answer `Applied`.
    Commit {
        /// Generation in force.
        generation: u64,
    },
    /// Forget what was prepared for this generation, its descriptors too.
    Abort {
        /// Generation that will not be.
        generation: u64,
    },
    /// Accept from the sockets of `slot` too (sent before as `Listener` of that slot).
    Adopt {
        /// The slot that has no worker that accepts.
        slot: SlotIdx,
    },
    /// Accept no more from the sockets of `slot`: deregister, close the copies, answer `Disowned`.
    Disown {
        /// The slot.
        slot: SlotIdx,
    },
    /// Monitor: what was asked of a backend lately, for [`FromChild::Explained`].
    Explain {
        /// For the answer.
        ticket: u64,
        /// The backend.
        backend: BackendCell,
    },
    /// Monitor: what was last known of these names, so that a new monitor need not wait for DNS.
    SeedNames {
        /// Names and their endpoints.
        names: Vec<Resolved>,
    },
    /// Monitor: what was last known of these backends, so that a new monitor does not begin at `starting`.
    Seed {
        /// One report a backend.
        reports: Vec<Report>,
    },
    /// Accept what waits, then stop accepting (deregister and close every listening socket), finish what runs, exit with 0.
    /// The supervisor has closed its own copies before.
    Drain {
        /// What still runs then is reset.
        deadline: Duration,
    },
}

/// From a child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromChild {
    /// A batch of descriptors has arrived.
    Taken {
        /// Its number.
        batch: u64,
    },
    /// A batch did not arrive whole (no descriptors left). Whatever is being prepared is refused.
    NotTaken {
        /// In words.
        reason: String,
    },
    /// Ready to switch to this generation.
    Prepared {
        /// The generation.
        generation: u64,
    },
    /// Cannot switch to this generation.
    Refused {
        /// The generation.
        generation: u64,
        /// Why, in words.
        reason: String,
    },
    /// Backends that the generation does not name and that running connections still hold. Sent before `Applied`, in as
    /// many messages as it takes.
    Lingering {
        /// The generation.
        generation: u64,
        /// Cells; at most [`LINGERING_MAX`] a message.
        cells: Vec<BackendCell>,
    },
    /// Switched. The first one after the start means READY.
    Applied {
        /// The generation.
        generation: u64,
    },
    /// The last holder of these cells has let go.
    Released {
        /// Cells; at most [`LINGERING_MAX`] a message.
        cells: Vec<BackendCell>,
    },
    /// Accepts no more from the sockets of `slot`.
    Disowned {
        /// The slot.
        slot: SlotIdx,
    },
    /// Everything has ended, or the deadline has passed; exits now.
    Drained {
        /// Connections that the deadline cut.
        cut: u64,
    },
    /// Monitor: a name stands for other addresses than before. The last good answer stays when DNS fails, so this is sent for
    /// good answers only.
    Resolved(Resolved),
    /// Monitor: something happened that an operator may want to see.
    Events {
        /// In the order in which they happened.
        events: Vec<Event>,
    },
    /// Monitor: the answer to [`ToChild::Explain`].
    Explained {
        /// The ticket.
        ticket: u64,
        /// What is known; `None` = it is not known here.
        explanation: Option<Box<Explanation>>,
    },
    /// Monitor: why services' gates are as they are; sent when that changes.
    Gates {
        /// One a service.
        gates: Vec<GateReport>,
    },
    /// Monitor: what changed in what is known of backends.
    Verdicts {
        /// Changed verdicts, and the newest answer of each.
        reports: Vec<Report>,
    },
}

/// Most cells in one message.
pub const LINGERING_MAX: usize = 8_192;

/// A name and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// The name, as in the plan.
    pub address: Address,
    /// At most [`evenkeel_plan::ENDPOINTS_MAX`], in order.
    pub endpoints: Vec<SocketAddr>,
}

/// Why a service's gate is as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateReport {
    /// The service.
    pub service: String,
    /// `open`, `closed`, `panic`.
    pub state: String,
    /// Unix seconds of the last change.
    pub since_unix: u64,
    /// In words, such as `2 of 3 backends are healthy, all are required: couchdb-3 is down`.
    pub reason: String,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Unix milliseconds.
    pub at_ms: u64,
    /// `health`, `policy`, `limit`, `admin`, `reload`, `process`, `dns`.
    pub kind: String,
    /// What it is about: `service/backend`, `service`, `worker 0`, a name; empty = the daemon.
    pub subject: String,
    /// What happened, in words.
    pub text: String,
}

/// Why a backend is in its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// `service/backend`.
    pub identity: String,
    /// Kind of the check and what it asks, in words.
    pub check: String,
    /// The last checks, newest first.
    pub checks: Vec<CheckRecord>,
    /// Unix ms of the next check; 0 = none is planned.
    pub next_ms: u64,
    /// Passive evidence, in words; empty = none.
    pub passive: String,
    /// What its name stands for and since when, in words; empty = it has no name.
    pub dns: String,
    /// The service's policy and what it says now, in words.
    pub policy: String,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckRecord {
    /// Unix ms of its start.
    pub at_ms: u64,
    /// `passed`, `failed`, `drain`, `maint`, `inconclusive`.
    pub result: String,
    /// What was sent, in words, without secrets.
    pub sent: String,
    /// What was received, in words, shortened, without secrets.
    pub received: String,
    /// Microseconds that it took.
    pub duration_us: u64,
}

/// Values of secrets. Travels in a sealed blob to the monitor only; never logged.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets {
    /// Each source that the plan names, and its value, or why it could not be read.
    pub values: Vec<(SecretSource, Result<Vec<u8>, String>)>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets")
            .field("count", &self.values.len())
            .finish_non_exhaustive()
    }
}

/// Keys that cookies are signed with. Travels in a sealed blob to workers only; never logged.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CookieKeys {
    /// The supervisor's own, for cookies that have no source of a key: the same for its whole life.
    pub own: Vec<u8>,
    /// Each source of a key that the plan names, and its value.
    pub values: Vec<(SecretSource, Vec<u8>)>,
}

/// Keys of one cookie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeysOfCookie<'a> {
    /// Signs.
    pub key: &'a [u8],
    /// Still counts.
    pub previous: Option<&'a [u8]>,
}

impl CookieKeys {
    /// Those of `cookie`; `None` = one of them is not here.
    #[must_use]
    pub fn of(&self, cookie: &CookieSpec) -> Option<KeysOfCookie<'_>> {
        let value = |wanted: &SecretSource| {
            let mut values = self.values.iter();
            let (_, value) = values.find(|(source, _)| source == wanted)?;
            Some(value.as_slice())
        };
        Some(KeysOfCookie {
            key: match &cookie.key {
                Some(source) => value(source)?,
                None => &self.own,
            },
            previous: match &cookie.previous_key {
                Some(source) => Some(value(source)?),
                None => None,
            },
        })
    }
}

impl std::fmt::Debug for CookieKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CookieKeys")
            .field("count", &self.values.len())
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for KeysOfCookie<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeysOfCookie").finish_non_exhaustive()
    }
}

/// What the monitor says of a backend: the words that do not fit in its cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The cell.
    pub backend: BackendCell,
    /// `service/backend`, since the cell may have been given to another meanwhile.
    pub identity: String,
    /// State in words: `starting`, `up`, `down`, `unchecked`, `drain`, `maint`.
    pub state: String,
    /// Unix seconds of the last change of state.
    pub since_unix: u64,
    /// Why it is in this state, such as `3 checks failed in a row`.
    pub reason: String,
    /// Last answer, such as `connected` or `connection refused`.
    pub answer: String,
    /// Microseconds that the last check took.
    pub duration_us: u64,
    /// Unix seconds of the last check; 0 = none yet.
    pub checked_unix: u64,
    /// Unix ms of the next check; 0 = none is planned.
    pub next_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_gets_its_own_keys_or_none() {
        let source = |name: &str| SecretSource::Environment(name.to_owned());
        let keys = CookieKeys {
            own: b"made here".to_vec(),
            values: vec![
                (source("A"), b"first".to_vec()),
                (source("B"), b"second".to_vec()),
            ],
        };
        let of = |key: Option<&str>, previous: Option<&str>| {
            let cookie = CookieSpec {
                key: key.map(source),
                previous_key: previous.map(source),
                ..CookieSpec::default()
            };
            let keys = keys.of(&cookie)?;
            Some((keys.key.to_vec(), keys.previous.map(<[u8]>::to_vec)))
        };
        let expected = |key: &str, previous: Option<&str>| {
            let previous = previous.map(|previous| previous.as_bytes().to_vec());
            Some((key.as_bytes().to_vec(), previous))
        };
        assert_eq!(of(None, None), expected("made here", None));
        assert_eq!(of(None, Some("A")), expected("made here", Some("first")));
        assert_eq!(of(Some("B"), Some("A")), expected("second", Some("first")));
        // Rather none than another one.
        assert_eq!(of(Some("C"), None), None);
        assert_eq!(of(Some("A"), Some("C")), None);
    }

    #[test]
    fn keys_are_not_shown() {
        let value = b"0123456789abcdef".to_vec();
        let keys = CookieKeys {
            own: value.clone(),
            values: vec![(SecretSource::File("/k".to_owned()), value.clone())],
        };
        let of_one = keys.of(&CookieSpec::default()).unwrap();
        let shown = format!("{keys:?} {of_one:?}");
        let numbers = format!("{:?}", &value[..4]);
        assert!(!shown.contains("0123"), "{shown}");
        assert!(!shown.contains(numbers.trim_matches(['[', ']'])), "{shown}");
    }
}
