//! Cells of rates over all workers: what a cell holds is the rate limiter's business, who moves it does so by compare-and-swap.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// One rate. 0 = nobody has come yet.
#[derive(Clone, Copy, Debug)]
pub struct RateCell {
    pub(crate) cell: &'static AtomicU64,
}

impl RateCell {
    /// The state now.
    #[must_use]
    pub fn load(&self) -> u64 {
        self.cell.load(Relaxed)
    }

    /// Sets the state to `new` if it still is `current`.
    ///
    /// # Errors
    /// The state now, when it is another one. May fail spuriously.
    pub fn swap(&self, current: u64, new: u64) -> Result<(), u64> {
        self.cell
            .compare_exchange_weak(current, new, Relaxed, Relaxed)
            .map(drop)
    }
}

/// A set of the table of sources: a source is in any of its cells, or in none.
#[derive(Clone, Copy, Debug)]
pub struct SourceSet {
    pub(crate) cells: &'static [AtomicU64],
}

impl SourceSet {
    /// The cells.
    pub fn cells(&self) -> impl ExactSizeIterator<Item = RateCell> + use<> {
        self.cells.iter().map(|cell| RateCell { cell })
    }
}
