//! What a worker counts. One row a slot (and parity), one writer a row.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use evenkeel_plan::{BackendCell, ListenerCell, ServiceCell};

use crate::layout::{
    Layout, ROW_BACKEND_CELLS, ROW_LISTENER_CELLS, ROW_SERVICE_CELLS, ROW_WORKER_CELLS,
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
    }
}

counts! {
    /// Cells of a listener in a worker's row.
    ListenerCount {
        /// Total: connections accepted.
        Accepted,
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
            Self::Active
            | Self::Accepted
            | Self::Relayed
            | Self::Retries
            | Self::BytesReceived
            | Self::BytesSent
            | Self::ClientResets => None,
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
