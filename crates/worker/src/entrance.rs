//! A listener as its connections know it: what they passed at the way in, and how long they may take. They hold it for life,
//! and neither the plan nor the service.
//!
//! A client that has sent nothing may be parked for hours, over any number of plans, and has a service all that time. When a plan
//! comes without that one, the entrance keeps it until the last of those clients is gone: it protects their books' cells.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::time::Duration;

use evenkeel_balance::gcra::Limit;
use evenkeel_plan::{
    ConnectOn, Framing, KeepaliveSpec, ListenerCell, ListenerRecord, ServiceCell, ServiceRecord,
};
use evenkeel_scoreboard::{ListenerCount, ListenerRow, Row, Scoreboard};

use crate::admission::{Admission, request_passes};
use crate::connections::{Connections, TimeLimits};
use crate::http::settings::idle_timeouts;
use crate::outcome::Outcome;
use crate::plan::{Service, View};

/// The way into a service through one of its listeners, by one plan.
#[derive(Debug)]
pub(crate) struct Entrance {
    /// Its cells in this worker's row.
    pub(crate) row: ListenerRow,
    /// Where it listens, as configured.
    pub(crate) address: SocketAddr,
    /// Name of the service.
    pub(crate) service: Box<str>,
    /// The service's cells.
    pub(crate) service_cell: ServiceCell,
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
    /// Whether its connections carry requests of HTTP.
    pub(crate) is_http: bool,
    cell: ListenerCell,
    /// Connections of this worker that came in here and have not ended.
    count: Cell<u64>,
    /// Requests of HTTP of this worker that came in here, are counted, and have not ended.
    requests: Cell<u64>,
    /// Those of them that are suspended, and hold no service.
    suspended: Cell<u64>,
    /// Their service, when no plan has it any more.
    abandoned: RefCell<Option<Rc<Service>>>,
    /// The plan has no such listener any more, and its cells may become another's.
    is_gone: Cell<bool>,
}

impl Entrance {
    pub(crate) fn new(
        record: &ServiceRecord,
        listener: ListenerRecord<'_>,
        row: Row,
        connections: &Connections,
    ) -> Self {
        let service = &record.spec;
        Self {
            row: row.listener(listener.cell),
            address: listener.spec.address,
            service: service.name.as_str().into(),
            service_cell: record.cell,
            admission: Admission::new(&listener.spec.admission, listener.cell),
            handshake: service.timeouts.handshake,
            limits: match service.http.as_deref() {
                None => connections.limits(&service.timeouts),
                Some(http) => connections.limits(&idle_timeouts(http)),
            },
            is_http: service.http.is_some(),
            keepalive: service.keepalive,
            connect_on: service.connect.on,
            framing: service.framing,
            cell: listener.cell,
            count: Cell::new(0),
            requests: Cell::new(0),
            suspended: Cell::new(0),
            abandoned: RefCell::default(),
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

    /// Counts a request of HTTP, unless there are `most` already.
    pub(crate) fn raise_requests(&self, board: Scoreboard, most: u32) -> bool {
        if self.is_gone.get() {
            return true;
        }
        self.row.raise(ListenerCount::Requests);
        let present = board.strict_listener(self.cell, ListenerCount::Requests);
        if present > u64::from(most) {
            self.row.lower(ListenerCount::Requests);
            return false;
        }
        self.requests.set(self.requests.get() + 1);
        true
    }

    /// One of those that were counted has ended.
    pub(crate) fn lower_requests(&self) {
        // One that came after the listener had gone was not counted.
        if self.requests.get() > 0 {
            self.requests.set(self.requests.get() - 1);
            if !self.is_gone.get() {
                self.row.lower(ListenerCount::Requests);
            }
        }
    }

    /// Whether one more request of `client` is within `limit`.
    pub(crate) fn request_passes(&self, board: Scoreboard, client: IpAddr, limit: Limit) -> bool {
        self.is_gone.get() || request_passes(board, self.cell, client, limit)
    }

    /// Whether no plan has the listener any more: nothing that it limits is counted, so that nobody is to stay for long.
    pub(crate) fn is_gone(&self) -> bool {
        self.is_gone.get()
    }

    pub(crate) fn leave(&self) {
        self.count.set(self.count.get() - 1);
        if !self.is_gone.get() {
            self.row.lower(ListenerCount::Active);
        }
    }

    /// One of its connections lets go of its service, which is in force.
    pub(crate) fn suspend(&self) {
        self.suspended.set(self.suspended.get() + 1);
    }

    /// One of them is back. Its service, when no plan has that any more.
    pub(crate) fn resume(&self) -> Option<Rc<Service>> {
        self.suspended.set(self.suspended.get() - 1);
        match self.suspended.get() {
            0 => self.abandoned.take(),
            _ => self.abandoned.borrow().clone(),
        }
    }

    /// Whether no plan has the service of those who are suspended.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.borrow().is_some()
    }

    /// Keeps the service of those who are suspended, when `after` does not have it; whether it has just become so.
    fn abandon(&self, before: &View, after: &View) -> bool {
        let of = |view: &View| view.service_of(&self.service, self.service_cell).cloned();
        if self.suspended.get() == 0 || self.is_abandoned() || of(after).is_some() {
            return false;
        }
        self.abandoned.replace(of(before));
        self.is_abandoned()
    }

    fn go(&self) {
        if !self.is_gone.replace(true) {
            let others = self.row.get(ListenerCount::Active);
            let left = others.saturating_sub(self.count.get());
            self.row.set(ListenerCount::Active, left);
            let others = self.row.get(ListenerCount::Requests);
            let left = others.saturating_sub(self.requests.get());
            self.row.set(ListenerCount::Requests, left);
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

    /// `after` takes the place of `before`. Those of listeners that it does not name are gone: what runs there counts no longer for
    /// them. Whether it has left suspended connections without their service.
    pub(crate) fn switch(&self, before: &View, after: &View) -> bool {
        let mut is_abandoned = false;
        self.0.borrow_mut().retain(|entrance| {
            let Some(entrance) = entrance.upgrade() else {
                return false;
            };
            if after.listener(entrance.cell).is_none() {
                entrance.go();
            }
            is_abandoned |= entrance.abandon(before, after);
            true
        });
        is_abandoned
    }
}
