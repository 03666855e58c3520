//! What there is to say of a connection.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

/// A connection that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// When it was accepted.
    pub accepted: SystemTime,
    /// Name of the service. Of this and the other names at most 256 bytes are shown.
    pub service: &'a str,
    /// The address that the client connected to.
    pub listener: SocketAddr,
    /// The client: from the PROXY protocol header where there was one, else the same as `peer`.
    pub client: SocketAddr,
    /// The other end of the TCP connection.
    pub peer: SocketAddr,
    /// Name of the backend, without that of the service; `None` = none was picked.
    pub backend: Option<&'a str>,
    /// Address of the backend; `None` = none was tried.
    pub endpoint: Option<SocketAddr>,
    /// Our own address towards the backend; `None` = never connected.
    pub source: Option<SocketAddr>,
    /// Slot of the worker.
    pub worker: u16,
    /// Unique id of the connection.
    pub id: u128,
    /// Backends that were tried.
    pub attempts: u8,
    /// Microseconds for the PROXY protocol header; `None` = there was none to wait for.
    pub handshake_us: Option<u64>,
    /// Microseconds in the queue; `None` = it did not wait.
    pub queue_us: Option<u64>,
    /// Microseconds for connecting, all attempts together; `None` = not tried.
    pub connect_us: Option<u64>,
    /// Microseconds from being connected to the backend's first byte; `None` = there was none.
    pub first_byte_us: Option<u64>,
    /// Microseconds from accept to the end.
    pub duration_us: u64,
    /// Bytes from the client to the backend.
    pub bytes_received: u64,
    /// Bytes from the backend to the client.
    pub bytes_sent: u64,
    /// How it ended.
    pub end: End,
    /// The request of HTTP that the line is about: `accepted`, the times and the bytes are its own then. `None` = the line is about
    /// the connection.
    pub http: Option<HttpRecord<'a>>,
}

/// A request of HTTP, and its answer. What a client sent is shown with control bytes escaped, and cut where it is long.
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpRecord<'a> {
    /// The method; empty where there was no head that could be understood.
    pub method: &'a str,
    /// The authority that was asked for; `None` = none was.
    pub host: Option<&'a str>,
    /// Path of the target, without the query.
    pub path: &'a str,
    /// The query, without the question mark. It may hold what concerns patients: in templates that name it only.
    pub query: Option<&'a str>,
    /// `1.0`, `1.1`, `2`; empty where there was no head.
    pub version: &'static str,
    /// Status of the answer that the client got, or a part of it; `None` = it got none.
    pub status: Option<u16>,
    /// Place of the route among those of its service in the file, from 1; `None` = the service's own backends, or no route.
    pub route: Option<u32>,
    /// Its id.
    pub request_id: Option<&'a str>,
    /// `User-Agent`; in templates that name it only.
    pub user_agent: Option<&'a [u8]>,
    /// `Referer`; in templates that name it only.
    pub referer: Option<&'a [u8]>,
    /// Its number on the connection, from 1.
    pub number: u32,
    /// Whether it went over a connection to the backend that was used before.
    pub reused: bool,
    /// Microseconds from its first byte to its whole head.
    pub head_us: Option<u64>,
    /// The coding that the answer was compressed with, if it was.
    pub compressed: Option<&'static str>,
}

impl Record<'_> {
    /// When the connection ended.
    pub(crate) fn ended(&self) -> SystemTime {
        let duration = Duration::from_micros(self.duration_us);
        self.accepted.checked_add(duration).unwrap_or(self.accepted)
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Who ended it.
    pub by: Side,
    /// What was going on then.
    pub phase: Phase,
    /// Why, in a word: `end` = in order; else the word that counts the failure, such as `no_backend` or `idle`.
    pub reason: &'static str,
}

/// One of those who take part in a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Client,
    /// The backend.
    Backend,
    /// This daemon.
    Balancer,
}

impl Side {
    /// Its word in lines.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Backend => "backend",
            Self::Balancer => "balancer",
        }
    }
}

/// A stage of a connection's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Before a backend was looked for: rules, limits, PROXY protocol header.
    Handshake,
    /// Waiting for a backend that is not full.
    Queue,
    /// Connecting to a backend.
    Connect,
    /// Copying bytes.
    Relay,
    /// Reading the head of a request.
    Head,
    /// Sending a request to the backend, and waiting for its answer to begin.
    Answer,
    /// Copying the answer.
    Body,
}

impl Phase {
    /// Its word in lines.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Queue => "queue",
            Self::Connect => "connect",
            Self::Relay => "relay",
            Self::Head => "head",
            Self::Answer => "answer",
            Self::Body => "body",
        }
    }
}
