//! How connections end.

use evenkeel_log::access::{End as LogEnd, Phase, Side};
use evenkeel_net::relay::End;
use evenkeel_scoreboard::ServiceCount;

/// How a connection ended. Each is counted in one cell of its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was connected to a backend, and has ended.
    Relayed(End),
    /// It was one of HTTP, and has ended between two requests, or with one, whose books say how.
    Served,
    /// No backend was eligible.
    NoBackend,
    /// Every backend that was tried failed.
    ConnectFailed,
    /// A resource of our own was lacking.
    Exhausted,
    /// The service's policy keeps it closed.
    Closed,
    /// Its backend went down, and the service resets then.
    DownReset,
    /// The client had gone before there was a backend.
    ClientGone,
    /// We ended it: the drain deadline has passed.
    Cut,
    /// The listener had as many connections as it may have.
    Limited,
    /// Connections came too fast.
    RateLimited,
    /// Connections of its source came too fast.
    SourceRateLimited,
    /// Its source may not come.
    Denied,
    /// It began with no valid PROXY protocol header in time.
    ProxyHeader,
    /// Every eligible backend was full, and so was the queue.
    QueueFull,
    /// It has waited for a backend that was full for too long.
    QueueTimeout,
    /// It has carried nothing for too long.
    IdleTimeout,
    /// So it has since one side had ended.
    HalfClosedTimeout,
    /// It has lasted too long.
    TotalTimeout,
    /// A bug ended it. Counts as a resource of our own that was lacking.
    Panicked,
}

impl Outcome {
    /// Where it is counted.
    pub(crate) fn count(self) -> ServiceCount {
        match self {
            Self::Relayed(End::ClientFrameTooLong | End::BackendFrameTooLong) => {
                ServiceCount::FrameTooLong
            }
            Self::Relayed(End::Client | End::Backend | End::ClientReset | End::BackendReset)
            | Self::Served => ServiceCount::Relayed,
            Self::NoBackend => ServiceCount::NoBackend,
            Self::ConnectFailed => ServiceCount::ConnectFailed,
            Self::Exhausted | Self::Panicked => ServiceCount::Exhausted,
            Self::Closed => ServiceCount::Closed,
            Self::DownReset => ServiceCount::DownReset,
            Self::ClientGone => ServiceCount::ClientGone,
            Self::Cut => ServiceCount::DrainCut,
            Self::Limited => ServiceCount::Limited,
            Self::RateLimited => ServiceCount::RateLimited,
            Self::SourceRateLimited => ServiceCount::SourceRateLimited,
            Self::Denied => ServiceCount::Denied,
            Self::ProxyHeader => ServiceCount::ProxyHeader,
            Self::QueueFull => ServiceCount::QueueFull,
            Self::QueueTimeout => ServiceCount::QueueTimeout,
            Self::IdleTimeout => ServiceCount::IdleTimeout,
            Self::HalfClosedTimeout => ServiceCount::HalfClosedTimeout,
            Self::TotalTimeout => ServiceCount::TotalTimeout,
        }
    }

    /// What the access log says of it.
    pub(crate) fn end(self, phase: Phase) -> LogEnd {
        let (by, reason) = match self {
            Self::Relayed(End::Client) => (Side::Client, "end"),
            Self::Relayed(End::Backend) => (Side::Backend, "end"),
            Self::Relayed(End::ClientReset) => (Side::Client, "reset"),
            Self::Relayed(End::BackendReset) => (Side::Backend, "reset"),
            Self::ClientGone => (Side::Client, self.word()),
            Self::ConnectFailed => (Side::Backend, self.word()),
            Self::Panicked => (Side::Balancer, "bug"),
            _ => (Side::Balancer, self.word()),
        };
        LogEnd { by, phase, reason }
    }

    fn word(self) -> &'static str {
        self.count().failure().unwrap_or("end")
    }
}
