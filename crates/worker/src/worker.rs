//! What all tasks of a worker share, and the way of one connection through it.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use evenkeel_log::access::AccessLog;
use evenkeel_net::Stream;
use evenkeel_net::connect::ConnectError;
use evenkeel_plan::{AccessFormat, BackendCell, ConnectOn, ListenerCell, SlotIdx};
use evenkeel_scoreboard::{GlobalCount, Row, Scoreboard, WorkerCount};
use evenkeel_sys::clock;

use crate::connect;
use crate::connection::Connection;
use crate::connections::Connections;
use crate::entrance::{Entrance, Entrances};
use crate::handle::Holders;
use crate::http::down::Encodings;
use crate::http::pool::Pools;
use crate::http::scratch::Scratches;
use crate::http::session;
use crate::plan::{Change, Listener, Service, View};
use crate::queue::Queues;
use crate::relay::{self, Relaying};
use crate::waiting::wait_for_data;

/// Descriptors that no client gets: control, log, plans on their way, doorbells. Listening sockets come on top.
const RESERVE: u64 = 128;

/// Descriptors of a connection: the client's and the backend's.
const A_CONNECTION: u64 = 2;

/// One accepted connection, from stage to stage. Whatever ends it early, also a panic or an abort, the guard counts it and
/// the sockets are reset, since they have linger 0 until an orderly end.
#[expect(
    clippy::manual_async_fn,
    reason = "an async fn keeps room for its arguments twice, 150 bytes a connection"
)]
pub(crate) fn serve(mut connection: Connection, mut client: Stream) -> impl Future<Output = ()> {
    async move {
        if connection.expects_header()
            && let Err(outcome) = Box::pin(connect::shake_hands(&mut connection, &client)).await
        {
            return connection.end(outcome);
        }
        if connection.entrance.is_http {
            return Box::pin(session::serve(connection, client)).await;
        }
        if connection.entrance.connect_on == ConnectOn::Data {
            match Box::pin(wait_for_data(connection, client)).await {
                Some(stirred) => (connection, client) = stirred,
                None => return,
            }
        }
        // What it takes to get a backend is given back once there is one: a connection may relay for hours.
        let connected = Box::pin(connect::connect(&mut connection, &client)).await;
        // An end is counted before the sockets are closed: who has seen it finds it in the counters.
        match connected {
            Ok(backend) => relay::relay(Relaying::new(connection, client, backend)).await,
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
    pub(crate) queues: Queues,
    pub(crate) entrances: Entrances,
    /// Idle connections to backends.
    pub(crate) pools: Pools,
    /// Memory of requests.
    pub(crate) scratches: Scratches,
    /// Answers that are being compressed.
    pub(crate) encodings: Encodings,
    is_draining: Cell<bool>,
    /// For ids that nobody can guess.
    random: RandomState,
    /// Told from every other worker's, also of other times and hosts.
    pub(crate) id: u64,
    ids: Cell<u64>,
    /// A connection to a backend has failed for lack of descriptors or memory.
    pub(crate) shortage: Cell<bool>,
    /// The last connect failed for lack of something of our own, and the log was told so.
    is_exhausted: Cell<bool>,
    /// Turns of source addresses.
    pub(crate) sources: Cell<usize>,
    access_log: OnceCell<AccessLog>,
    view: RefCell<Rc<View>>,
    prepared: RefCell<Option<Prepared>>,
    uncommitted: RefCell<Uncommitted>,
    /// Listeners that the view has no more and whose queue may still hold somebody, with the service they had last.
    closing: RefCell<HashMap<ListenerCell, Rc<Listener>>>,
}

impl Worker {
    pub(crate) fn new(slot: SlotIdx, board: Scoreboard, row: Row) -> Self {
        Self {
            slot,
            board,
            row,
            holders: Rc::default(),
            connections: Connections::new(clock::monotonic_ms()),
            queues: Queues::new(board, slot),
            entrances: Entrances::default(),
            pools: Pools::default(),
            scratches: Scratches::default(),
            encodings: Encodings::default(),
            is_draining: Cell::new(false),
            random: RandomState::new(),
            id: RandomState::new().hash_one(slot),
            ids: Cell::new(0),
            shortage: Cell::new(false),
            is_exhausted: Cell::new(false),
            sources: Cell::new(0),
            access_log: OnceCell::new(),
            view: RefCell::new(Rc::new(View::empty())),
            prepared: RefCell::default(),
            uncommitted: RefCell::default(),
            closing: RefCell::default(),
        }
    }

    /// The number of the next connection.
    pub(crate) fn next_id(&self) -> u64 {
        self.ids.replace(self.ids.get() + 1)
    }

    /// 128 bits that nobody can guess, never twice the same.
    pub(crate) fn next_random(&self) -> u128 {
        let id = self.next_id();
        let half = |which: u8| u128::from(self.random.hash_one((id, which)));
        half(0) << 64 | half(1)
    }

    /// No connection is kept for another request from now on, and those that are idle end.
    pub(crate) fn begin_draining(&self) {
        self.is_draining.set(true);
        self.connections.stir_waiting();
    }

    /// Whether that is so.
    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.get()
    }

    /// Where a line of each connection goes, if anywhere.
    pub(crate) fn access_log(&self) -> Option<&AccessLog> {
        self.access_log.get().filter(|log| log.is_on())
    }

    /// Lines of connections go to the line channel `lines` from now on, once a plan says so.
    pub(crate) fn set_access_log(&self, lines: OwnedFd) {
        let own = self.row.worker();
        let dropped = move |count| own.add(WorkerCount::AccessLogDropped, count);
        match AccessLog::new(lines, &AccessFormat::Off, Box::new(dropped)) {
            Ok(log) => self.access_log.set(log).unwrap_or(()),
            Err(error) => tracing::error!(%error, "no access log"),
        }
    }

    /// What concerns the process in the view in force.
    pub(crate) fn apply_globals(&self) {
        let view = self.view();
        let globals = &view.plan().globals;
        evenkeel_log::set_spec(globals.log);
        let set = |log: &AccessLog| log.set_format(&globals.access_log.format);
        if let Some(Err(error)) = self.access_log.get().map(set) {
            // The configuration has read it before.
            tracing::error!(%error, "cannot write the access log as the plan says");
        }
    }

    /// Sends what was written of connections lately.
    pub(crate) fn flush_access_log(&self) {
        if let Some(log) = self.access_log.get() {
            log.flush();
        }
    }

    /// Tells the log of a lack of something of our own, once until a connect has succeeded again.
    pub(crate) fn note_exhaustion(&self, error: &ConnectError, backend: SocketAddr) {
        if let ConnectError::Exhausted(cause) = error
            && !self.is_exhausted.replace(true)
        {
            tracing::warn!(%backend, %cause, "cannot connect for lack of a local port, address, descriptor or memory");
        }
    }

    /// A connect has succeeded.
    pub(crate) fn note_success(&self) {
        if self.is_exhausted.get() {
            self.is_exhausted.set(false);
            tracing::info!("backends can be connected to again");
        }
    }

    /// Whether there are as many connections as there are descriptors for, but for those that are kept in reserve: one more is
    /// refused, so that what runs, health and control do not suffer.
    pub(crate) fn is_full(&self) -> bool {
        let limit = self.board.get(GlobalCount::DescriptorLimit);
        let reserve = RESERVE + self.view.borrow().listeners() as u64;
        // 0 = not known.
        limit > 0 && (self.connections.count() * A_CONNECTION).saturating_add(reserve) > limit
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
    pub(crate) fn listener(&self, cell: ListenerCell) -> Option<Rc<Listener>> {
        let view = self.view();
        let closing = || self.closing.borrow().get(&cell).cloned();
        view.listener(cell).cloned().or_else(closing)
    }

    /// What the plan in force says of a service; the service itself when it is gone.
    pub(crate) fn now(&self, service: &Rc<Service>) -> Rc<Service> {
        let view = self.view();
        let now = view.service_of(service.name(), service.record().cell);
        Rc::clone(now.unwrap_or(service))
    }

    /// The service that `entrance` led to, as the plan in force says it.
    pub(crate) fn service_of(&self, entrance: &Entrance) -> Option<Rc<Service>> {
        let view = self.view();
        view.service_of(&entrance.service, entrance.service_cell)
            .cloned()
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
        change.services.iter().for_each(|new| new.attach_queue());
        self.entrances.add(&change.entrances);
        let before = self.view.replace(change.view);
        if self.entrances.switch(&before, &self.view.borrow()) {
            self.connections.stir_waiting();
        }
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
