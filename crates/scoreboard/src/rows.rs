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
            | Self::Waited => None,
        }
    }

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
