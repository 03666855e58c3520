//! What a worker counts. One row a slot (and parity), one writer a row.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use evenkeel_plan::{BackendCell, ListenerCell, ServiceCell};

use crate::latency::LatencyRow;
use crate::layout::{
    Layout, ROW_BACKEND_CELLS, ROW_LATENCY_CELLS, ROW_LISTENER_CELLS, ROW_SERVICE_CELLS,
    ROW_WORKER_CELLS,
};

macro_rules! counts {
    ($(#[$doc:meta])* $type:ident { $($(#[$variant_doc:meta])* $variant:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $type {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $type {
            /// All of them, in the order of their cells.
            pub const ALL: &[Self] = &[$(Self::$variant),*];
        }
    };
}

counts! {
    /// Cells of a worker.
    WorkerCount {
        /// Gauge: connections accepted and not ended.
        Active,
        /// Total: connections accepted, from any slot's socket.
        Accepted,
        /// Total: connections accepted from a neighbour's socket while that slot had no worker.
        Adopted,
        /// Total: accepts that failed for the connection's own reason (it was gone already).
        AcceptAborted,
        /// Total: accepts that failed for lack of a resource (descriptors, memory); accepting pauses after each.
        AcceptExhausted,
        /// Total: log lines dropped because the line channel was full.
        LogDropped,
        /// Gauge: bytes of relay buffers held now.
        BufferBytes,
        /// Gauge: connections that are parked: idle, without a task.
        Parked,
        /// Total: lines of the access log dropped because the line channel was full.
        AccessLogDropped,
        /// Total: connections refused because descriptors are kept in reserve for what runs.
        Refused,
    }
}

counts! {
    /// Cells of a listener in a worker's row.
    ListenerCount {
        /// Total: connections accepted.
        Accepted,
        /// Gauge: connections accepted and not ended. See [`ListenerRow::raise`].
        Active,
        /// Total: refused because `max_connections` was reached.
        Limited,
        /// Total: refused because of the listener's rate.
        RateLimited,
        /// Total: refused because of their source's rate.
        SourceRateLimited,
        /// Total: refused by `allow` or `deny`.
        Denied,
        /// Gauge: requests of HTTP that are not answered yet. See [`ListenerRow::raise`].
        Requests,
    }
}

counts! {
    /// Cells of a service in a worker's row. At rest, `Accepted` = `Relayed` + all failures.
    ServiceCount {
        /// Gauge: connections accepted and not ended.
        Active,
        /// Total: connections accepted.
        Accepted,
        /// Total: connections that were connected to a backend and have ended, in order or by either side.
        Relayed,
        /// Total failures: reset because no backend was eligible.
        NoBackend,
        /// Total failures: reset because every backend tried refused or did not answer in time.
        ConnectFailed,
        /// Total failures: reset for lack of a resource of our own (descriptors, ports, memory).
        Exhausted,
        /// Total failures: the client was gone before a backend was connected.
        ClientGone,
        /// Total failures: the worker died with the connection open. Written by the supervisor between reap and spawn.
        WorkerDied,
        /// Total failures: ended by us because the drain deadline passed.
        DrainCut,
        /// Total: connects tried again on another backend.
        Retries,
        /// Total: bytes received from clients.
        BytesReceived,
        /// Total: bytes sent to clients.
        BytesSent,
        /// Total: ends by a reset from the client.
        ClientResets,
        /// Total failures: reset because the service's policy keeps it closed, and it has no sorry service.
        Closed,
        /// Total: connections handed to the sorry service. They are counted there from then on, and here as ended.
        Sorry,
        /// Total failures: reset because their backend went down and the service says `on_down = "reset"`.
        DownReset,
        /// Total failures: refused because the listener's `max_connections` was reached.
        Limited,
        /// Total failures: refused because of the listener's rate.
        RateLimited,
        /// Total failures: refused because of their source's rate.
        SourceRateLimited,
        /// Total failures: refused by `allow` or `deny`.
        Denied,
        /// Total failures: no PROXY protocol header where one had to be, not whole in time, or not valid.
        ProxyHeader,
        /// Total failures: every eligible backend was full, and so was the queue.
        QueueFull,
        /// Total failures: they waited for a backend that was full until the queue's timeout.
        QueueTimeout,
        /// Total failures: ended by us because no byte had moved for `timeouts.idle`.
        IdleTimeout,
        /// Total failures: ended by us because no byte had moved for `timeouts.half_closed` after one side had ended.
        HalfClosedTimeout,
        /// Total failures: ended by us at `timeouts.total`.
        TotalTimeout,
        /// Total failures: ended by us because a frame was longer than the framing allows.
        FrameTooLong,
        /// Gauge: connections that wait for a backend that is full. See [`ServiceRow::raise`].
        Queued,
        /// The ticket of the one that has waited longest, plus one; 0 = nobody waits.
        OldestTicket,
        /// Total: connections that had to wait for a backend that was full.
        Waited,
        /// Gauge: requests of HTTP that were routed to the service and have not ended.
        ActiveRequests,
        /// Total: requests of HTTP that were routed to the service; those that no route takes, or that are no requests, count for the
        /// service whose listener they came by. At rest: the sum of all answers, upgrades and [`Self::REQUEST_FAILURES`] without an
        /// answer.
        Requests,
        /// Total: answers with a status of 200 to 299, of backends and our own.
        Answers2xx,
        /// Total: answers with a status of 300 to 399, of backends and our own.
        Answers3xx,
        /// Total: answers with a status of 400 to 499, of backends and our own.
        Answers4xx,
        /// Total: answers with a status of 500 to 599, of backends and our own.
        Answers5xx,
        /// Total: requests that became a tunnel (101).
        Upgrades,
        /// Total: answers that no backend gave, redirects and fixed answers of routes included.
        OwnAnswers,
        /// Total: requests that were sent again because a connection that was used again had been closed.
        Resent,
        /// Total: requests that were not tried again because the budget was spent.
        BudgetSpent,
        /// Total failures of requests: malformed, or to be understood in two ways (400, 501, 505).
        RequestMalformed,
        /// Total failures of requests: head, target or body larger than allowed (413, 414, 431).
        RequestTooLarge,
        /// Total failures of requests: not whole in time (408).
        RequestTimeout,
        /// Total failures of requests: no route takes it (404).
        RequestNoRoute,
        /// Total failures of requests: `concurrent_requests` was reached (503).
        RequestLimited,
        /// Total failures of requests: their source's rate (429).
        RequestRateLimited,
        /// Total failures of requests: the service's policy keeps it closed (503).
        RequestClosed,
        /// Total failures of requests: no backend was eligible (503).
        RequestNoBackend,
        /// Total failures of requests: no backend could be connected to (503).
        RequestConnectFailed,
        /// Total failures of requests: every eligible backend was full, and so was the queue (503).
        RequestQueueFull,
        /// Total failures of requests: they waited for a backend that was full until the queue's timeout (503).
        RequestQueueTimeout,
        /// Total failures of requests: a resource of our own was lacking, or a bug (500).
        RequestInternal,
        /// Total failures of requests: the backend closed before its answer had begun (502), or was whole.
        RequestBackendClosed,
        /// Total failures of requests: the backend's answer was malformed or too large (502).
        RequestBackendMalformed,
        /// Total failures of requests: the backend did not answer, or go on answering, in time (504).
        RequestBackendTimeout,
        /// Total failures of requests: the client was gone before its answer was whole.
        RequestClientGone,
        /// Total failures of requests: ended by us, without an answer or in the middle of it: the drain deadline, a backend that went down,
        /// a client that read nothing in time.
        RequestCut,
        /// Total failures of requests: the worker died with the request open. Written by the supervisor between reap and spawn.
        RequestWorkerDied,
    }
}

impl ServiceCount {
    /// The word for a failure in `status` and in metric labels; `None` for what is no failure.
    #[must_use]
    pub fn failure(self) -> Option<&'static str> {
        match self {
            Self::NoBackend => Some("no_backend"),
            Self::ConnectFailed => Some("connect"),
            Self::Exhausted => Some("exhausted"),
            Self::ClientGone => Some("client_gone"),
            Self::WorkerDied => Some("worker_died"),
            Self::DrainCut => Some("drain_cut"),
            Self::Closed => Some("closed"),
            Self::Sorry => Some("sorry"),
            Self::DownReset => Some("down_reset"),
            Self::Limited => Some("max_connections"),
            Self::RateLimited => Some("rate"),
            Self::SourceRateLimited => Some("source_rate"),
            Self::Denied => Some("denied"),
            Self::ProxyHeader => Some("proxy_header"),
            Self::QueueFull => Some("queue_full"),
            Self::QueueTimeout => Some("queue_timeout"),
            Self::IdleTimeout => Some("idle"),
            Self::HalfClosedTimeout => Some("half_closed"),
            Self::TotalTimeout => Some("total"),
            Self::FrameTooLong => Some("frame_too_long"),
            Self::Active
            | Self::Accepted
            | Self::Relayed
            | Self::Retries
            | Self::BytesReceived
            | Self::BytesSent
            | Self::ClientResets
            | Self::Queued
            | Self::OldestTicket
            | Self::Waited
            | Self::ActiveRequests
            | Self::Requests
            | Self::Answers2xx
            | Self::Answers3xx
            | Self::Answers4xx
            | Self::Answers5xx
            | Self::Upgrades
            | Self::OwnAnswers
            | Self::Resent
            | Self::BudgetSpent
            | Self::RequestMalformed
            | Self::RequestTooLarge
            | Self::RequestTimeout
            | Self::RequestNoRoute
            | Self::RequestLimited
            | Self::RequestRateLimited
            | Self::RequestClosed
            | Self::RequestNoBackend
            | Self::RequestConnectFailed
            | Self::RequestQueueFull
            | Self::RequestQueueTimeout
            | Self::RequestInternal
            | Self::RequestBackendClosed
            | Self::RequestBackendMalformed
            | Self::RequestBackendTimeout
            | Self::RequestClientGone
            | Self::RequestCut
            | Self::RequestWorkerDied => None,
        }
    }

    /// The word for a failure of requests in `status`, metric labels and the access log; `None` for what is no such failure.
    #[must_use]
    pub fn request_failure(self) -> Option<&'static str> {
        let (_, word) = Self::REQUEST_FAILURES
            .iter()
            .find(|(count, _)| *count == self)?;
        Some(word)
    }

    /// Every way for a request to fail, and its word.
    pub const REQUEST_FAILURES: &[(Self, &str)] = &[
        (Self::RequestMalformed, "malformed"),
        (Self::RequestTooLarge, "too_large"),
        (Self::RequestTimeout, "request_timeout"),
        (Self::RequestNoRoute, "no_route"),
        (Self::RequestLimited, "concurrent_requests"),
        (Self::RequestRateLimited, "source_rate"),
        (Self::RequestClosed, "closed"),
        (Self::RequestNoBackend, "no_backend"),
        (Self::RequestConnectFailed, "connect"),
        (Self::RequestQueueFull, "queue_full"),
        (Self::RequestQueueTimeout, "queue_timeout"),
        (Self::RequestInternal, "internal"),
        (Self::RequestBackendClosed, "backend_closed"),
        (Self::RequestBackendMalformed, "backend_malformed"),
        (Self::RequestBackendTimeout, "backend_timeout"),
        (Self::RequestClientGone, "client_gone"),
        (Self::RequestCut, "cut"),
        (Self::RequestWorkerDied, "worker_died"),
    ];

    /// Every way for a connection to end other than [`Self::Relayed`].
    pub const FAILURES: &[Self] = &[
        Self::NoBackend,
        Self::ConnectFailed,
        Self::Exhausted,
        Self::ClientGone,
        Self::WorkerDied,
        Self::DrainCut,
        Self::Closed,
        Self::Sorry,
        Self::DownReset,
        Self::Limited,
        Self::RateLimited,
        Self::SourceRateLimited,
        Self::Denied,
        Self::ProxyHeader,
        Self::QueueFull,
        Self::QueueTimeout,
        Self::IdleTimeout,
        Self::HalfClosedTimeout,
        Self::TotalTimeout,
        Self::FrameTooLong,
    ];
}

counts! {
    /// Cells of a backend in a worker's row.
    BackendCount {
        /// Gauge: connections picked for it and not ended.
        Active,
        /// Total: connections established to it.
        Connections,
        /// Total: connects that it refused or did not answer in time. Never our own exhaustion.
        ConnectFailures,
        /// Total: connections that it reset after they were established.
        Resets,
        /// Total: bytes sent to it.
        BytesSent,
        /// Total: bytes received from it.
        BytesReceived,
        /// Total: those of the failed connects that got no answer in time.
        ConnectTimeouts,
        /// Total: requests of HTTP that were sent to it, or begun to be.
        Requests,
        /// Total: those of the requests that went over a connection that was used before.
        Reused,
        /// Gauge: connections to it that are kept for the next request.
        Idle,
        /// Total: its answers with a status of 500 to 599.
        Answers5xx,
        /// Total: its answers that were malformed, broken off, or did not come although it took the request.
        BadAnswers,
    }
}

macro_rules! row {
    ($(#[$doc:meta])* $type:ident, $count:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $type {
            cells: &'static [AtomicU64],
        }

        impl $type {
            /// Adds `delta` to a total or gauge. Writer: the row's worker only, so it is a plain load and store.
            #[inline]
            pub fn add(&self, count: $count, delta: u64) {
                let cell = &self.cells[count as usize];
                cell.store(cell.load(Relaxed).wrapping_add(delta), Relaxed);
            }

            /// Lowers a gauge by one. Writer: the row's worker only. Never below 0.
            #[inline]
            pub fn lower(&self, count: $count) {
                let cell = &self.cells[count as usize];
                let now = cell.load(Relaxed);
                debug_assert!(now > 0, "{count:?} lowered below 0");
                cell.store(now.saturating_sub(1), Relaxed);
            }

            /// Sets a cell. Writer: the row's worker, or the supervisor between reap and spawn.
            #[inline]
            pub fn set(&self, count: $count, value: u64) {
                self.cells[count as usize].store(value, Relaxed);
            }

            /// The value now. Readers: all.
            #[inline]
            #[must_use]
            pub fn get(&self, count: $count) -> u64 {
                self.cells[count as usize].load(Relaxed)
            }
        }
    };
}

row! {
    /// A worker's own cells.
    WorkerRow, WorkerCount
}
row! {
    /// One listener's cells in a worker's row.
    ListenerRow, ListenerCount
}
row! {
    /// One service's cells in a worker's row.
    ServiceRow, ServiceCount
}
row! {
    /// One backend's cells in a worker's row.
    BackendRow, BackendCount
}

macro_rules! limited {
    ($($type:ident $count:ident)*) => {
        $(impl $type {
            /// Raises a gauge that a limit over all rows goes by, before the rows are summed: of two workers that raise and
            /// sum at the same time, at least one sees the other. Writer: the row's worker only. Ordering: sequentially
            /// consistent.
            #[inline]
            pub fn raise(&self, count: $count) {
                let cell = &self.cells[count as usize];
                cell.store(cell.load(Relaxed).wrapping_add(1), SeqCst);
            }

            /// The value now, in one order with every [`Self::raise`]. Readers: all.
            #[inline]
            #[must_use]
            pub(crate) fn strict(&self, count: $count) -> u64 {
                self.cells[count as usize].load(SeqCst)
            }
        })*
    };
}

limited! { ListenerRow ListenerCount ServiceRow ServiceCount BackendRow BackendCount }

/// Zeroes every cell of a part of a row.
pub(crate) trait Clear {
    fn clear(&self);
}

macro_rules! clear {
    ($($type:ident)*) => {
        $(impl Clear for $type {
            fn clear(&self) {
                self.cells.iter().for_each(|cell| cell.store(0, Relaxed));
            }
        })*
    };
}

clear! { ListenerRow ServiceRow BackendRow }

/// All that one worker counts.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    cells: &'static [AtomicU64],
    layout: Layout,
}

impl Row {
    pub(crate) fn new(cells: &'static [AtomicU64], layout: Layout) -> Self {
        Self { cells, layout }
    }

    /// The worker's own cells.
    #[must_use]
    pub fn worker(&self) -> WorkerRow {
        WorkerRow {
            cells: &self.cells[..ROW_WORKER_CELLS],
        }
    }

    /// A listener's cells.
    ///
    /// # Panics
    /// When `cell` is beyond the capacity.
    #[must_use]
    pub fn listener(&self, cell: ListenerCell) -> ListenerRow {
        assert!(cell.0 < self.layout.capacities.listeners);
        let at = self.layout.row_listeners + cell.0 as usize * ROW_LISTENER_CELLS;
        ListenerRow {
            cells: &self.cells[at..at + ROW_LISTENER_CELLS],
        }
    }

    /// A service's cells.
    ///
    /// # Panics
    /// When `cell` is beyond the capacity.
    #[must_use]
    pub fn service(&self, cell: ServiceCell) -> ServiceRow {
        assert!(cell.0 < self.layout.capacities.services);
        let at = self.layout.row_services + cell.0 as usize * ROW_SERVICE_CELLS;
        ServiceRow {
            cells: &self.cells[at..at + ROW_SERVICE_CELLS],
        }
    }

    /// A service's latencies.
    ///
    /// # Panics
    /// When `cell` is beyond the capacity.
    #[must_use]
    pub fn latencies(&self, cell: ServiceCell) -> LatencyRow {
        assert!(cell.0 < self.layout.capacities.services);
        let at = self.layout.row_latencies + cell.0 as usize * ROW_LATENCY_CELLS;
        LatencyRow::new(&self.cells[at..at + ROW_LATENCY_CELLS])
    }

    /// A backend's cells.
    ///
    /// # Panics
    /// When `cell` is beyond the capacity.
    #[must_use]
    pub fn backend(&self, cell: BackendCell) -> BackendRow {
        assert!(cell.0 < self.layout.capacities.backends);
        let at = self.layout.row_backends + cell.0 as usize * ROW_BACKEND_CELLS;
        BackendRow {
            cells: &self.cells[at..at + ROW_BACKEND_CELLS],
        }
    }
}
