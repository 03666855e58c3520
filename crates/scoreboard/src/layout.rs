//! Where everything lies. Sizes come from the configured capacities and are fixed for the supervisor's life.

use std::io;

use crate::latency::{HISTOGRAM_CELLS, Latency};
use crate::rows::{BackendCount, ListenerCount, ServiceCount, WorkerCount};

/// Changes with every change of this file's arithmetic or of a cell's meaning.
pub const LAYOUT_VERSION: u64 = 4;

pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"evenkeel");

pub(crate) const HEADER_CELLS: usize = 16;
pub(crate) const GLOBAL_CELLS: usize = 48;
/// Cells of one slot, service and backend in the shared part. A service's cells fill two cache lines of their own, since
/// all workers swap its scheduler state.
pub(crate) const SLOT_CELLS: usize = 16;
pub(crate) const SERVICE_CELLS: usize = 16;
pub(crate) const BACKEND_CELLS: usize = 8;
/// A listener's own cache line: all workers swap its rate.
pub(crate) const LISTENER_CELLS: usize = 8;
/// Ways of a set in the table of sources: half a cache line.
pub(crate) const SOURCE_WAYS: usize = 4;
pub(crate) const ROW_WORKER_CELLS: usize = 16;
pub(crate) const ROW_LISTENER_CELLS: usize = 8;
pub(crate) const ROW_SERVICE_CELLS: usize = 64;
pub(crate) const ROW_BACKEND_CELLS: usize = 16;
/// One service's latencies in a row.
pub(crate) const ROW_LATENCY_CELLS: usize = Latency::ALL.len() * HISTOGRAM_CELLS;
/// A page of 4 KiB: rows of two workers never share one.
const PAGE_CELLS: usize = 512;
/// Two rows a slot, so that across an upgrade the old and the new worker each have their own.
pub(crate) const ROWS_A_SLOT: usize = 2;

const _: () = {
    assert!(WorkerCount::ALL.len() <= ROW_WORKER_CELLS);
    assert!(ListenerCount::ALL.len() <= ROW_LISTENER_CELLS);
    assert!(ServiceCount::ALL.len() <= ROW_SERVICE_CELLS);
    assert!(BackendCount::ALL.len() <= ROW_BACKEND_CELLS);
};

/// How many of each the scoreboard has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacities {
    /// Worker slots, 1..=65,535.
    pub slots: u16,
    /// Services.
    pub services: u32,
    /// Listener addresses.
    pub listeners: u32,
    /// Backends, once for each service that uses them.
    pub backends: u32,
    /// Sources whose rates are watched at the same time, a multiple of 4, at least 4.
    pub sources: u32,
}

/// Why a scoreboard cannot be attached. Nothing is used of one that fails any check.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The memory cannot be made or mapped.
    #[error("map the scoreboard")]
    Map(#[source] io::Error),
    /// The first cell is not the magic number.
    #[error("this memory is no scoreboard")]
    Magic,
    /// Made by another version of the program.
    #[error("scoreboard layout {found}, this program has {LAYOUT_VERSION}")]
    Version {
        /// The version found.
        found: u64,
    },
    /// The capacities in the header do not give the size of the memory.
    #[error("the scoreboard's size does not match its header")]
    Size,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) capacities: Capacities,
    pub(crate) globals: usize,
    pub(crate) slots: usize,
    pub(crate) services: usize,
    pub(crate) backends: usize,
    pub(crate) listeners: usize,
    pub(crate) sources: usize,
    pub(crate) rows: usize,
    pub(crate) row_listeners: usize,
    pub(crate) row_services: usize,
    pub(crate) row_backends: usize,
    pub(crate) row_latencies: usize,
    pub(crate) row_stride: usize,
    pub(crate) total: usize,
}

impl Layout {
    pub(crate) fn new(capacities: Capacities) -> Self {
        let slot_count = usize::from(capacities.slots);
        let service_count = capacities.services as usize;
        let listener_count = capacities.listeners as usize;
        let backend_count = capacities.backends as usize;

        let globals = HEADER_CELLS;
        let slots = globals + GLOBAL_CELLS;
        let services = slots + slot_count * SLOT_CELLS;
        let backends = services + service_count * SERVICE_CELLS;
        let listeners = (backends + backend_count * BACKEND_CELLS).next_multiple_of(LISTENER_CELLS);
        let sources = listeners + listener_count * LISTENER_CELLS;
        let rows = (sources + source_sets(capacities) * SOURCE_WAYS).next_multiple_of(PAGE_CELLS);

        let row_listeners = ROW_WORKER_CELLS;
        let row_services = row_listeners + listener_count * ROW_LISTENER_CELLS;
        let row_backends = row_services + service_count * ROW_SERVICE_CELLS;
        let row_latencies = row_backends + backend_count * ROW_BACKEND_CELLS;
        let row_stride =
            (row_latencies + service_count * ROW_LATENCY_CELLS).next_multiple_of(PAGE_CELLS);
        Self {
            capacities,
            globals,
            slots,
            services,
            backends,
            listeners,
            sources,
            rows,
            row_listeners,
            row_services,
            row_backends,
            row_latencies,
            row_stride,
            total: rows + slot_count * ROWS_A_SLOT * row_stride,
        }
    }
}

/// Sets in the table of sources, at least one.
pub(crate) fn source_sets(capacities: Capacities) -> usize {
    (capacities.sources as usize / SOURCE_WAYS).max(1)
}
