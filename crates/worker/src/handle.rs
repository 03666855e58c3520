//! Who still holds which backend.
//!
//! A connection holds a [`BackendHandle`] and never the plan, so that old plans go while their connections live on. The
//! services of a plan hold the handles of their backends as well. When the last holder of a backend that the plan does not
//! name any more lets go, the supervisor is told, who may then give the cell to another backend.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::{Rc, Weak};

use evenkeel_plan::{BackendCell, ServiceCell};
use evenkeel_scoreboard::{BackendCount, BackendRow, LatencyRow, Row, Scoreboard};
use tokio::sync::Notify;

use crate::http::pool::Pool;
use crate::queue::Queue;

/// One backend, as long as anybody here writes its cells.
#[derive(Debug)]
pub(crate) struct BackendHandle {
    cell: BackendCell,
    row: BackendRow,
    /// Of its service, in this worker's row: whoever holds a backend keeps its service's cells from becoming another's.
    latencies: LatencyRow,
    /// `service/backend`, for the log.
    identity: Box<str>,
    holders: Rc<Holders>,
    /// Where connections wait for one that ends here, if there is a limit.
    queue: RefCell<Option<Rc<Queue>>>,
    /// Idle connections to it.
    pool: Pool,
}

impl BackendHandle {
    /// Its cells in this worker's row.
    pub(crate) fn row(&self) -> BackendRow {
        self.row
    }

    /// How long things take in its service, in this worker's row.
    pub(crate) fn latencies(&self) -> LatencyRow {
        self.latencies
    }

    /// Idle connections to it.
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// `service/backend`.
    pub(crate) fn identity(&self) -> &str {
        &self.identity
    }

    /// Says where connections wait for one that ends here.
    pub(crate) fn set_queue(&self, queue: Option<&Rc<Queue>>) {
        let before = self.queue.replace(queue.map(Rc::clone));
        drop(before);
    }

    /// Its cell.
    pub(crate) fn cell(&self) -> BackendCell {
        self.cell
    }
}

impl Drop for BackendHandle {
    fn drop(&mut self) {
        self.pool.end(self.row);
        self.holders.let_go(self.cell);
    }
}

/// A connection picked for a backend: its active gauge is up while this lives.
#[derive(Debug)]
pub(crate) struct Held(Rc<BackendHandle>);

impl Held {
    /// Counts one more connection, unless that would be more than `limit` over all workers.
    ///
    /// Raised first and summed then: of two workers that do so at the same time one sees the other, so that there is never one
    /// too many. They may both step back, and there is one too few for a moment.
    pub(crate) fn within(
        handle: &Rc<BackendHandle>,
        board: Scoreboard,
        limit: Option<u32>,
    ) -> Option<Self> {
        let Some(limit) = limit else {
            handle.row.add(BackendCount::Active, 1);
            return Some(Self(Rc::clone(handle)));
        };
        handle.row.raise(BackendCount::Active);
        if board.strict_backend(handle.cell, BackendCount::Active) > u64::from(limit) {
            // Without a word to those who wait: nothing was freed.
            handle.row.lower(BackendCount::Active);
            return None;
        }
        Some(Self(Rc::clone(handle)))
    }

    pub(crate) fn handle(&self) -> &BackendHandle {
        &self.0
    }

    /// The handle, for whoever keeps it without a connection there.
    pub(crate) fn shared(&self) -> Rc<BackendHandle> {
        Rc::clone(&self.0)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.row.lower(BackendCount::Active);
        let queue = self.0.queue.borrow().as_ref().map(Rc::clone);
        if let Some(queue) = queue {
            queue.freed();
        }
    }
}

/// All handles of this worker.
#[derive(Debug, Default)]
pub(crate) struct Holders {
    handles: RefCell<HashMap<BackendCell, Weak<BackendHandle>>>,
    /// Cells that the supervisor waits for.
    lingering: RefCell<HashSet<BackendCell>>,
    released: RefCell<Vec<BackendCell>>,
    wake: Notify,
}

impl Holders {
    /// The handle of a backend: the one that is there already, or a new one.
    pub(crate) fn handle(
        self: &Rc<Self>,
        row: &Row,
        service: ServiceCell,
        cell: BackendCell,
        identity: String,
    ) -> Rc<BackendHandle> {
        let mut handles = self.handles.borrow_mut();
        let known = handles.get(&cell).and_then(Weak::upgrade);
        if let Some(known) = known.filter(|known| *known.identity == *identity) {
            return known;
        }
        let new = Rc::new(BackendHandle {
            cell,
            row: row.backend(cell),
            latencies: row.latencies(service),
            identity: identity.into_boxed_str(),
            holders: Rc::clone(self),
            queue: RefCell::default(),
            pool: Pool::default(),
        });
        handles.insert(cell, Rc::downgrade(&new));
        new
    }

    /// Of `unnamed`, backends that the plan has ceased to name, those that somebody still holds. They are told by
    /// [`Self::released`] when the last one lets go.
    pub(crate) fn linger(&self, unnamed: &[BackendCell]) -> Vec<BackendCell> {
        let handles = self.handles.borrow();
        let is_held = |cell: &&BackendCell| {
            let handle = handles.get(cell);
            handle.is_some_and(|handle| handle.strong_count() > 0)
        };
        let held: Vec<_> = unnamed.iter().filter(is_held).copied().collect();
        self.lingering.borrow_mut().extend(&held);
        held
    }

    /// The plan names `cells` (again): nobody waits for them any more.
    pub(crate) fn name_again(&self, cells: &[BackendCell]) {
        let mut lingering = self.lingering.borrow_mut();
        if !lingering.is_empty() {
            for cell in cells {
                lingering.remove(cell);
            }
        }
    }

    /// Cells whose last holder has let go; all that have since the last call.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn released(&self) -> Vec<BackendCell> {
        loop {
            let released = self.released.take();
            if !released.is_empty() {
                return released;
            }
            self.wake.notified().await;
        }
    }

    fn let_go(&self, cell: BackendCell) {
        let mut handles = self.handles.borrow_mut();
        // It may have been replaced by one of another identity, which is alive.
        if handles.get(&cell).is_some_and(|h| h.strong_count() == 0) {
            handles.remove(&cell);
        }
        if self.lingering.borrow_mut().remove(&cell) {
            self.released.borrow_mut().push(cell);
            self.wake.notify_one();
        }
    }
}
