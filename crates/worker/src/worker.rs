//! What all tasks of a worker share, and the way of one connection through it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use evenkeel_plan::{BackendCell, ListenerCell, SlotIdx};
use evenkeel_scoreboard::{Row, Scoreboard};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::connection::Connection;
use crate::handle::Holders;
use crate::plan::{Change, Listener, Service, View};
use crate::{connect, relay};

/// One accepted connection, from stage to stage. Whatever ends it early, also a panic or an abort, the guard counts it and
/// the sockets are reset, since they have linger 0 until an orderly end.
#[expect(
    clippy::manual_async_fn,
    reason = "an async fn keeps room for its arguments twice, 150 bytes a connection"
)]
pub(crate) fn serve(mut connection: Connection, client: TcpStream) -> impl Future<Output = ()> {
    async move {
        // What it takes to get a backend is given back once there is one: a connection may relay for hours.
        let connected = Box::pin(connect::connect(&mut connection, &client)).await;
        // An end is counted before the sockets are closed: who has seen it finds it in the counters.
        match connected {
            Ok(backend) => {
                let outcome = relay::relay(&connection, &client, &backend).await;
                connection.end(outcome);
            }
            Err(outcome) => connection.end(outcome),
        }
    }
}

/// A listening socket of our own slot that has arrived.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) listener: ListenerCell,
    pub(crate) address: SocketAddr,
    pub(crate) socket: OwnedFd,
}

/// A generation that could be switched to at any pick.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) change: Change,
    /// Sockets of listeners that are new in it.
    pub(crate) sockets: Vec<Arrived>,
}

/// What is left to do after a switch.
#[derive(Debug, Default)]
pub(crate) struct Uncommitted {
    /// Listeners to accept from.
    pub(crate) sockets: Vec<Arrived>,
    /// Backends that are not named any more.
    pub(crate) unnamed: Vec<BackendCell>,
}

/// Shared by all tasks of the one thread.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) slot: SlotIdx,
    pub(crate) board: Scoreboard,
    pub(crate) row: Row,
    pub(crate) holders: Rc<Holders>,
    pub(crate) connections: Connections,
    view: RefCell<Rc<View>>,
    prepared: RefCell<Option<Prepared>>,
    uncommitted: RefCell<Uncommitted>,
    /// Listeners that the view has no more and whose queue may still hold somebody, with the service they had last.
    closing: RefCell<HashMap<ListenerCell, Listener>>,
}

impl Worker {
    pub(crate) fn new(slot: SlotIdx, board: Scoreboard, row: Row) -> Self {
        Self {
            slot,
            board,
            row,
            holders: Rc::default(),
            connections: Connections::default(),
            view: RefCell::new(Rc::new(View::empty())),
            prepared: RefCell::default(),
            uncommitted: RefCell::default(),
            closing: RefCell::default(),
        }
    }

    /// The view in force. All workers switch at the instant at which the supervisor stores the generation; it need not be
    /// told them. A generation that is in force and not here yet leaves the view as it is.
    pub(crate) fn view(&self) -> Rc<View> {
        let in_force = self.board.generation();
        if self.view.borrow().generation() != in_force {
            self.switch(in_force);
        }
        Rc::clone(&self.view.borrow())
    }

    /// Where connections of a listener go now, also while it is being closed.
    pub(crate) fn listener(&self, cell: ListenerCell) -> Option<Listener> {
        let view = self.view();
        let closing = || self.closing.borrow().get(&cell).cloned();
        view.listener(cell).cloned().or_else(closing)
    }

    /// What the plan in force says of a service; the service itself when it is gone.
    pub(crate) fn now(&self, service: &Rc<Service>) -> Rc<Service> {
        let view = self.view();
        let is_same = |now: &&Rc<Service>| now.record().cell == service.record().cell;
        Rc::clone(
            view.service(service.name())
                .filter(is_same)
                .unwrap_or(service),
        )
    }

    /// Who takes the connections of `service` while it does not serve; `None` when nobody does.
    pub(crate) fn sorry(&self, service: &Service) -> Option<Rc<Service>> {
        let name = service.policy().sorry.as_ref()?;
        self.view().service(name.as_str()).cloned()
    }

    /// Keeps a prepared generation, in the place of another that was not switched to.
    pub(crate) fn prepare(&self, prepared: Prepared) {
        self.prepared.replace(Some(prepared));
    }

    /// Drops what was prepared, if it is of `generation`.
    pub(crate) fn forget(&self, generation: u64) {
        let is_it = |p: &mut Prepared| p.change.view.generation() == generation;
        let forgotten = self.prepared.borrow_mut().take_if(is_it);
        drop(forgotten);
    }

    /// Switches to `generation` if it is the one prepared.
    pub(crate) fn switch(&self, generation: u64) {
        let is_it = |p: &mut Prepared| p.change.view.generation() == generation;
        let Some(Prepared { change, sockets }) = self.prepared.borrow_mut().take_if(is_it) else {
            return;
        };
        self.holders.name_again(&change.named);
        let mut closing = self.closing.borrow_mut();
        closing.retain(|&cell, _| change.view.listener(cell).is_none());
        closing.extend(change.closing);
        let mut uncommitted = self.uncommitted.borrow_mut();
        uncommitted.sockets.extend(sockets);
        uncommitted.unnamed.extend(change.unnamed);
        self.view.replace(change.view);
        tracing::info!(generation, "switched to another generation of the plan");
    }

    /// What is left to do after the switches since the last call.
    pub(crate) fn take_uncommitted(&self) -> Uncommitted {
        self.uncommitted.take()
    }

    /// The queues of closing listeners are empty: their services may go.
    pub(crate) fn forget_closing(&self) {
        // Taken out first, since letting go of a service may call back.
        drop(self.closing.take());
    }
}

/// Connections that have not ended.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    count: Cell<u64>,
    places: RefCell<Places>,
    none_left: Notify,
}

/// A connection's number is its place, which another one gets after its end.
#[derive(Debug, Default)]
struct Places {
    all: Vec<Place>,
    free: Vec<usize>,
}

#[derive(Debug, Default)]
struct Place {
    task: Option<AbortHandle>,
    /// Once it relays.
    relaying: Option<Relaying>,
    /// Whether it is being ended because its backend went down.
    is_lost: bool,
}

/// What a relaying connection is to a doorbell that rings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Relaying {
    /// Its backend.
    pub(crate) backend: BackendCell,
    /// Monotonic ms since when that backend was down when it was picked nevertheless.
    pub(crate) down_since: Option<u64>,
}

impl Connections {
    /// A number for a new connection, which counts from now on.
    pub(crate) fn begin(&self) -> usize {
        self.count.set(self.count.get() + 1);
        let mut places = self.places.borrow_mut();
        places.free.pop().unwrap_or_else(|| {
            places.all.push(Place::default());
            places.all.len() - 1
        })
    }

    /// The task of a connection.
    pub(crate) fn running(&self, number: usize, task: AbortHandle) {
        self.places.borrow_mut().all[number].task = Some(task);
    }

    /// A connection relays from now on.
    pub(crate) fn relaying(&self, number: usize, relaying: Relaying) {
        self.places.borrow_mut().all[number].relaying = Some(relaying);
    }

    pub(crate) fn end(&self, number: usize) {
        let ended = {
            let mut places = self.places.borrow_mut();
            places.free.push(number);
            mem::take(&mut places.all[number])
        };
        drop(ended);
        self.count.set(self.count.get() - 1);
        if self.count.get() == 0 {
            self.none_left.notify_waiters();
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.get()
    }

    /// Waits until there are none.
    pub(crate) async fn ended(&self) {
        while self.count.get() > 0 {
            self.none_left.notified().await;
        }
    }

    /// Ends all of them: their futures are dropped at their next turn.
    pub(crate) fn cut(&self) {
        self.abort(|_| true);
    }

    /// Ends the relaying ones that `is_lost` names, as lost with their backend; how many.
    pub(crate) fn lose(&self, is_lost: impl Fn(Relaying) -> bool) -> usize {
        self.abort(|place| {
            let is_new = !place.is_lost && place.relaying.is_some_and(&is_lost);
            place.is_lost |= is_new;
            is_new
        })
    }

    /// Whether this connection is ended by [`Self::lose`].
    pub(crate) fn is_lost(&self, number: usize) -> bool {
        self.places.borrow().all[number].is_lost
    }

    fn abort(&self, is_wanted: impl Fn(&mut Place) -> bool) -> usize {
        let tasks: Vec<_> = {
            let mut places = self.places.borrow_mut();
            let wanted = places.all.iter_mut().filter_map(|place| {
                let is_wanted = is_wanted(place);
                is_wanted.then(|| place.task.clone()).flatten()
            });
            wanted.collect()
        };
        tasks.iter().for_each(AbortHandle::abort);
        tasks.len()
    }
}
