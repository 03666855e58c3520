//! How long things took: buckets that a worker counts in, and that a scrape sums over all rows.
//!
//! Buckets are totals as everything in a row is: they survive the worker, and the exporter's own histograms, which could not be
//! set to what they had, are not needed.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// Upper bounds of the buckets in microseconds, all included in their bucket; what is above the last has a bucket of its own.
pub const LATENCY_BOUNDS_US: [u64; 20] = [
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    600_000_000,
    3_600_000_000,
];

/// Buckets of a histogram.
pub const LATENCY_BUCKETS: usize = LATENCY_BOUNDS_US.len() + 1;

/// One histogram: its buckets, then the sum.
pub(crate) const HISTOGRAM_CELLS: usize = 24;

const SUM: usize = LATENCY_BUCKETS;

const _: () = assert!(LATENCY_BUCKETS < HISTOGRAM_CELLS);

/// What was measured, of connections that got a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latency {
    /// From the first attempt to the made connection to a backend.
    Connect,
    /// From the made connection to the backend's first byte.
    FirstByte,
    /// From accept to the end.
    Duration,
}

impl Latency {
    /// All of them, in the order of their cells.
    pub const ALL: [Self; 3] = [Self::Connect, Self::FirstByte, Self::Duration];
}

/// One service's latencies in a worker's row.
#[derive(Clone, Copy, Debug)]
pub struct LatencyRow {
    cells: &'static [AtomicU64],
}

impl LatencyRow {
    pub(crate) fn new(cells: &'static [AtomicU64]) -> Self {
        Self { cells }
    }

    /// Counts one that took `us` microseconds. Writer: the row's worker only. Ordering: relaxed.
    pub fn observe(&self, latency: Latency, us: u64) {
        let at = latency as usize * HISTOGRAM_CELLS;
        let bucket = LATENCY_BOUNDS_US.partition_point(|&bound| bound < us);
        for (index, more) in [(at + bucket, 1), (at + SUM, us)] {
            let cell = &self.cells[index];
            cell.store(cell.load(Relaxed).wrapping_add(more), Relaxed);
        }
    }

    /// Adds what was counted to `histogram`. Readers: all.
    pub fn add_to(&self, latency: Latency, histogram: &mut Histogram) {
        let at = latency as usize * HISTOGRAM_CELLS;
        for (sum, cell) in histogram.buckets.iter_mut().zip(&self.cells[at..]) {
            *sum = sum.wrapping_add(cell.load(Relaxed));
        }
        let sum = self.cells[at + SUM].load(Relaxed);
        histogram.sum_us = histogram.sum_us.wrapping_add(sum);
    }

    pub(crate) fn clear(&self) {
        self.cells.iter().for_each(|cell| cell.store(0, Relaxed));
    }
}

/// A sum of histograms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// How many fell into each bucket (not cumulative), in the order of [`LATENCY_BOUNDS_US`], then those above.
    pub buckets: [u64; LATENCY_BUCKETS],
    /// Microseconds, all together.
    pub sum_us: u64,
}

impl Histogram {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}
