//! Connections that wait for a backend that is full, first come, first served over all workers.
//!
//! ```text
//! full --> join: a ticket --> turn? ----> pick again --> picked: leave --> the next one's turn
//!             |                ^  |            | full
//!             |                |  `- not yet --+---> waits: a connection ended here, a bell from another worker,
//!             v                |                     or a look round now and then
//!        the queue is full     `--------------------------------------------------------------------'
//! ```
//!
//! Each row shows the ticket of the one that has waited longest there. A backend's connection that ends gives the turn to the
//! lowest of them: to our own, or by that worker's doorbell. Whoever comes while others wait goes behind them. A worker that
//! died has its row settled, and one that hangs is passed over by the look round.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::fence;
use std::time::Duration;

use evenkeel_plan::{ServiceCell, SlotIdx};
use evenkeel_scoreboard::{Scoreboard, ServiceCount, ServiceRow};
use evenkeel_sys::doorbell;
use tokio::sync::Notify;

/// Between two looks of those that wait at what no connection's end tells: a backend that came up, a limit that was raised,
/// a worker that hangs with the lowest ticket.
const LOOK_ROUND: Duration = Duration::from_millis(100);

/// The queues of a worker's services.
#[derive(Debug)]
pub(crate) struct Queues {
    board: Scoreboard,
    slot: SlotIdx,
    queues: RefCell<HashMap<ServiceCell, Rc<Queue>>>,
    /// How many there may be before those that nobody has are let go of.
    sweep_at: Cell<usize>,
    bells: Rc<Bells>,
}

/// Fewest queues for which it is looked whether anybody has them.
const SWEEP_MIN: usize = 64;

impl Queues {
    pub(crate) fn new(board: Scoreboard, slot: SlotIdx) -> Self {
        Self {
            board,
            slot,
            queues: RefCell::default(),
            sweep_at: Cell::new(SWEEP_MIN),
            bells: Rc::default(),
        }
    }

    /// The queue of a service; the same one for as long as anybody has it.
    pub(crate) fn of(&self, cell: ServiceCell, row: ServiceRow) -> Rc<Queue> {
        let mut queues = self.queues.borrow_mut();
        // Not each time: a plan may have ten thousand, and asks for each of them.
        if queues.len() >= self.sweep_at.get() {
            queues.retain(|_, queue| Rc::strong_count(queue) > 1);
            self.sweep_at.set((queues.len() * 2).max(SWEEP_MIN));
        }
        let new = || {
            Rc::new(Queue {
                board: self.board,
                slot: self.slot,
                cell,
                row,
                waiting: RefCell::default(),
                bells: Rc::clone(&self.bells),
            })
        };
        Rc::clone(queues.entry(cell).or_insert_with(new))
    }

    /// Another worker's doorbell.
    pub(crate) fn bell(&self, slot: SlotIdx, bell: OwnedFd) {
        self.bells.0.borrow_mut().insert(slot, bell);
    }

    /// Our own bell was rung: it may be somebody's turn.
    pub(crate) fn rung(&self) {
        self.queues.borrow().values().for_each(|q| q.wake_first());
    }
}

/// Doorbells of other workers.
#[derive(Debug, Default)]
struct Bells(RefCell<HashMap<SlotIdx, OwnedFd>>);

impl Bells {
    fn ring(&self, slot: SlotIdx) {
        let bells = self.0.borrow();
        let rung = bells.get(&slot).map(|bell| doorbell::knock(bell.as_fd()));
        // Without a bell, those who wait there look round themselves.
        if let Some(Err(error)) = rung {
            tracing::error!(%slot, %error, "cannot ring another worker's bell");
        }
    }
}

/// Those of one service that wait in this worker.
#[derive(Debug)]
pub(crate) struct Queue {
    board: Scoreboard,
    slot: SlotIdx,
    cell: ServiceCell,
    row: ServiceRow,
    /// Lowest ticket first.
    waiting: RefCell<VecDeque<Waiting>>,
    bells: Rc<Bells>,
}

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    wake: Rc<Notify>,
}

impl Queue {
    /// Whether anybody waits, in any worker.
    pub(crate) fn is_waited_in(&self) -> bool {
        self.board.sum_service(self.cell, ServiceCount::Queued) > 0
    }

    /// Joins at the end; `None` when `length` wait already.
    pub(crate) fn join(self: &Rc<Self>, length: u32) -> Option<Place> {
        self.row.raise(ServiceCount::Queued);
        let waiting = self.board.strict_service(self.cell, ServiceCount::Queued);
        if waiting > u64::from(length) {
            self.row.lower(ServiceCount::Queued);
            return None;
        }
        self.row.add(ServiceCount::Waited, 1);
        let ticket = self.board.service(self.cell).take_ticket();
        let wake = Rc::new(Notify::new());
        self.waiting.borrow_mut().push_back(Waiting {
            ticket,
            wake: Rc::clone(&wake),
        });
        self.show_oldest();
        // Before the first look at the backends, as in `freed`: of the two at least one sees the other.
        fence(SeqCst);
        Some(Place {
            queue: Rc::clone(self),
            ticket,
            wake,
            is_first_look: Cell::new(true),
        })
    }

    /// A connection to a backend of the service has ended, or somebody has left: whose turn is it?
    pub(crate) fn freed(&self) {
        // The place was given back before this, and the tickets are looked at after it.
        fence(SeqCst);
        match self.lowest() {
            None => {}
            Some((_, slot)) if slot == self.slot => self.wake_first(),
            Some((_, slot)) => self.bells.ring(slot),
        }
    }

    /// The lowest ticket over all workers, and where it is.
    fn lowest(&self) -> Option<(u64, SlotIdx)> {
        let tickets = self.board.service_tickets(self.cell);
        tickets.min()
    }

    fn wake_first(&self) {
        if let Some(first) = self.waiting.borrow().front() {
            first.wake.notify_one();
        }
    }

    fn show_oldest(&self) {
        let oldest = self.waiting.borrow().front().map(|first| first.ticket);
        let shown = oldest.map_or(0, |ticket| ticket + 1);
        self.row.set(ServiceCount::OldestTicket, shown);
    }
}

/// A place in a queue. Dropping it leaves the queue.
#[derive(Debug)]
pub(crate) struct Place {
    queue: Rc<Queue>,
    ticket: u64,
    wake: Rc<Notify>,
    /// What was freed before the ticket was shown woke nobody, so that the first look does not wait.
    is_first_look: Cell<bool>,
}

impl Place {
    /// Waits until it may be this one's turn to pick.
    ///
    /// # Cancel safety
    /// The place is kept when the future is dropped.
    pub(crate) async fn turn(&self) {
        if self.is_first_look.take() && self.is_lowest() {
            return;
        }
        loop {
            tokio::select! {
                () = self.wake.notified() => {
                    if self.is_lowest() {
                        return;
                    }
                }
                // The first of each worker: whoever has the lowest ticket may not be able to use it.
                () = tokio::time::sleep(LOOK_ROUND) => {
                    if self.is_first_here() {
                        return;
                    }
                }
            }
        }
    }

    fn is_lowest(&self) -> bool {
        let lowest = self.queue.lowest();
        lowest.is_none_or(|(ticket, _)| self.ticket <= ticket)
    }

    fn is_first_here(&self) -> bool {
        let waiting = self.queue.waiting.borrow();
        waiting.front().is_some_and(|w| w.ticket == self.ticket)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let place = {
            let waiting = self.queue.waiting.borrow();
            waiting.iter().position(|w| w.ticket == self.ticket)
        };
        if let Some(place) = place {
            self.queue.waiting.borrow_mut().remove(place);
        }
        self.queue.show_oldest();
        self.queue.row.lower(ServiceCount::Queued);
        // There may be room for more than one, and a turn that was given to this one must not be lost.
        self.queue.freed();
    }
}
