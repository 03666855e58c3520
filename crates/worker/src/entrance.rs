//! A listener as its connections know it: what they passed at the way in, and how long they may take. They hold it for life,
//! and neither the plan nor the service.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::time::Duration;

use evenkeel_plan::{ConnectOn, Framing, KeepaliveSpec, ListenerCell, ListenerRecord, ServiceSpec};
use evenkeel_scoreboard::{ListenerCount, ListenerRow, Row, Scoreboard};

use crate::admission::Admission;
use crate::connections::{Connections, TimeLimits};
use crate::outcome::Outcome;

/// The way into a service through one of its listeners, by one plan.
#[derive(Debug)]
pub(crate) struct Entrance {
    /// Its cells in this worker's row.
    pub(crate) row: ListenerRow,
    /// Where it listens, as configured.
    pub(crate) address: SocketAddr,
    /// Name of the service.
    pub(crate) service: Box<str>,
    /// Who may come in.
    pub(crate) admission: Admission,
    /// For a PROXY protocol header.
    pub(crate) handshake: Duration,
    /// For everything after it.
    pub(crate) limits: TimeLimits,
    /// Towards backends; the listening socket has it for clients.
    pub(crate) keepalive: KeepaliveSpec,
    /// When a backend is connected to.
    pub(crate) connect_on: ConnectOn,
    /// What is written at once.
    pub(crate) framing: Framing,
    cell: ListenerCell,
    /// Connections of this worker that came in here and have not ended.
    count: Cell<u64>,
    /// The plan has no such listener any more, and its cells may become another's.
    is_gone: Cell<bool>,
}

impl Entrance {
    pub(crate) fn new(
        service: &ServiceSpec,
        listener: ListenerRecord<'_>,
        row: Row,
        connections: &Connections,
    ) -> Self {
        Self {
            row: row.listener(listener.cell),
            address: listener.spec.address,
            service: service.name.as_str().into(),
            admission: Admission::new(&listener.spec.admission, listener.cell),
            handshake: service.timeouts.handshake,
            limits: connections.limits(&service.timeouts),
            keepalive: service.keepalive,
            connect_on: service.connect.on,
            framing: service.framing,
            cell: listener.cell,
            count: Cell::new(0),
            is_gone: Cell::new(false),
        }
    }

    /// Counts a connection, which is to [`Self::leave`] whatever comes out of this.
    ///
    /// # Errors
    /// How it ends at once.
    pub(crate) fn enter(&self, board: Scoreboard, client: Option<IpAddr>) -> Result<(), Outcome> {
        self.count.set(self.count.get() + 1);
        match self.is_gone.get() {
            true => Ok(()),
            false => self.admission.enter(board, self.row, client),
        }
    }

    /// Looks at whose connection it is. Nothing is counted for a listener whose cells may be another's.
    ///
    /// # Errors
    /// How it ends, when it may not come in.
    pub(crate) fn admit(&self, board: Scoreboard, client: IpAddr) -> Result<(), Outcome> {
        match self.is_gone.get() {
            true => Ok(()),
            false => self.admission.admit(board, self.row, client),
        }
    }

    pub(crate) fn leave(&self) {
        self.count.set(self.count.get() - 1);
        if !self.is_gone.get() {
            self.row.lower(ListenerCount::Active);
        }
    }

    fn go(&self) {
        if !self.is_gone.replace(true) {
            let others = self.row.get(ListenerCount::Active);
            let left = others.saturating_sub(self.count.get());
            self.row.set(ListenerCount::Active, left);
        }
    }
}

/// All entrances that anybody still knows.
#[derive(Debug, Default)]
pub(crate) struct Entrances(RefCell<Vec<Weak<Entrance>>>);

impl Entrances {
    /// Notes those that are in use from now on.
    pub(crate) fn add(&self, new: &[Rc<Entrance>]) {
        self.0.borrow_mut().extend(new.iter().map(Rc::downgrade));
    }

    /// Those of listeners that are not `named` any more are gone: what runs there counts no longer for them.
    pub(crate) fn keep(&self, named: impl Fn(ListenerCell) -> bool) {
        self.0.borrow_mut().retain(|entrance| {
            let Some(entrance) = entrance.upgrade() else {
                return false;
            };
            if !named(entrance.cell) {
                entrance.go();
            }
            !entrance.is_gone.get()
        });
    }
}
