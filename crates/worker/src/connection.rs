//! One connection's books: opened when it is accepted, balanced whatever ends it.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use evenkeel_net::relay::{End, Meter};
use evenkeel_scoreboard::{BackendCount, ListenerCount, ServiceCount, ServiceRow, WorkerCount};

use crate::handle::Held;
use crate::plan::{Listener, Service};
use crate::worker::Worker;

/// How a connection ended. Each is counted in one cell of its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was connected to a backend, and has ended.
    Relayed(End),
    /// No backend was eligible.
    NoBackend,
    /// Every backend that was tried failed.
    ConnectFailed,
    /// A resource of our own was lacking.
    Exhausted,
    /// The service's policy keeps it closed.
    Closed,
    /// Its backend went down, and the service resets then.
    DownReset,
    /// The client had gone before there was a backend.
    ClientGone,
    /// We ended it: the drain deadline has passed.
    Cut,
    /// A bug ended it. Counts as a resource of our own that was lacking.
    Panicked,
}

impl Outcome {
    fn count(self) -> ServiceCount {
        match self {
            Self::Relayed(_) => ServiceCount::Relayed,
            Self::NoBackend => ServiceCount::NoBackend,
            Self::ConnectFailed => ServiceCount::ConnectFailed,
            Self::Exhausted | Self::Panicked => ServiceCount::Exhausted,
            Self::Closed => ServiceCount::Closed,
            Self::DownReset => ServiceCount::DownReset,
            Self::ClientGone => ServiceCount::ClientGone,
            Self::Cut => ServiceCount::DrainCut,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Relayed(End::Client) => "ended by the client",
            Self::Relayed(End::Backend) => "ended by the backend",
            Self::Relayed(End::ClientReset) => "reset by the client",
            Self::Relayed(End::BackendReset) => "reset by the backend",
            Self::NoBackend => "no backend is eligible",
            Self::ConnectFailed => "no backend could be reached",
            Self::Exhausted => "out of resources",
            Self::Closed => "the service is closed",
            Self::DownReset => "the backend went down",
            Self::ClientGone => "the client was gone",
            Self::Cut => "cut by the drain deadline",
            Self::Panicked => "a bug ended it",
        }
    }
}

/// An accepted connection. Dropping it ends its books: one that was not told its outcome was cut, lost its backend, or has
/// panicked.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) worker: Rc<Worker>,
    /// Until a backend is connected: a relaying connection holds no plan.
    pub(crate) service: Option<Rc<Service>>,
    /// The backend that it was picked for.
    pub(crate) backend: Option<Held>,
    number: usize,
    /// The service's cells. They stay its own while a backend handle of it is held.
    row: ServiceRow,
    client: SocketAddr,
    accepted: Instant,
    up: Cell<u64>,
    down: Cell<u64>,
    outcome: Option<Outcome>,
}

impl Connection {
    /// Opens the books of a connection that was just accepted.
    pub(crate) fn open(
        worker: &Rc<Worker>,
        listener: Listener,
        client: SocketAddr,
        is_adopted: bool,
    ) -> Self {
        let own = worker.row.worker();
        own.add(WorkerCount::Accepted, 1);
        own.add(WorkerCount::Active, 1);
        if is_adopted {
            own.add(WorkerCount::Adopted, 1);
        }
        listener.row.add(ListenerCount::Accepted, 1);
        let row = listener.service.row;
        row.add(ServiceCount::Accepted, 1);
        row.add(ServiceCount::Active, 1);
        Self {
            number: worker.connections.begin(),
            worker: Rc::clone(worker),
            row,
            service: Some(listener.service),
            backend: None,
            client,
            accepted: Instant::now(),
            up: Cell::new(0),
            down: Cell::new(0),
            outcome: None,
        }
    }

    /// Its number, for [`crate::worker::Connections`].
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// Counts for its service.
    pub(crate) fn count(&self, count: ServiceCount) {
        self.row.add(count, 1);
    }

    /// Counts for its backend.
    pub(crate) fn count_backend(&self, count: BackendCount) {
        if let Some(backend) = &self.backend {
            backend.handle().row().add(count, 1);
        }
    }

    /// Hands it to the service that takes the connections of its own, if there is one: here it has ended, and there it was
    /// accepted. Listener and worker have accepted it once.
    pub(crate) fn hand_to_sorry(&mut self) -> bool {
        let service = self.service.as_ref();
        let Some(sorry) = service.and_then(|service| self.worker.sorry(service)) else {
            return false;
        };
        tracing::debug!(
            service = service.map_or("", |service| service.name()),
            sorry = sorry.name(),
            client = %self.client,
            "a connection of a closed service goes to its sorry service"
        );
        self.backend = None;
        self.row.add(ServiceCount::Sorry, 1);
        self.row.lower(ServiceCount::Active);
        self.row = sorry.row;
        self.row.add(ServiceCount::Accepted, 1);
        self.row.add(ServiceCount::Active, 1);
        self.service = Some(sorry);
        true
    }

    /// Closes the books.
    pub(crate) fn end(mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }

    fn log(&self, outcome: Outcome) {
        let identity = self.backend.as_ref().map(|held| held.handle().identity());
        let service = match (&self.service, identity) {
            (Some(service), _) => service.name(),
            // Neither name has a slash.
            (None, Some(identity)) => identity.split('/').next().unwrap_or(identity),
            (None, None) => "",
        };
        if outcome == Outcome::Panicked {
            tracing::error!(service, client = %self.client, "a connection was ended by a bug");
        }
        tracing::debug!(
            service,
            client = %self.client,
            backend = identity.unwrap_or("-"),
            duration_ms = u64::try_from(self.accepted.elapsed().as_millis()).unwrap_or(u64::MAX),
            bytes_received = self.up.get(),
            bytes_sent = self.down.get(),
            end = outcome.as_str(),
            "connection"
        );
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let outcome = self.outcome.unwrap_or_else(|| {
            if std::thread::panicking() {
                Outcome::Panicked
            } else if self.worker.connections.is_lost(self.number) {
                Outcome::DownReset
            } else {
                Outcome::Cut
            }
        });
        self.count(outcome.count());
        match outcome {
            Outcome::Relayed(End::ClientReset) => self.count(ServiceCount::ClientResets),
            Outcome::Relayed(End::BackendReset) => self.count_backend(BackendCount::Resets),
            _ => {}
        }
        self.row.lower(ServiceCount::Active);
        self.worker.row.worker().lower(WorkerCount::Active);
        self.log(outcome);
        // Before the worker is told, so that nothing is held any more when the last one has ended.
        self.backend = None;
        self.service = None;
        self.worker.connections.end(self.number);
    }
}

/// Bytes are counted as they flow, since a connection may live for hours.
impl Meter for Connection {
    fn up(&self, count: usize) {
        let count = count as u64;
        self.up.set(self.up.get() + count);
        self.row.add(ServiceCount::BytesReceived, count);
        if let Some(backend) = &self.backend {
            backend.handle().row().add(BackendCount::BytesSent, count);
        }
    }

    fn down(&self, count: usize) {
        let count = count as u64;
        self.down.set(self.down.get() + count);
        self.row.add(ServiceCount::BytesSent, count);
        if let Some(backend) = &self.backend {
            let row = backend.handle().row();
            row.add(BackendCount::BytesReceived, count);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use evenkeel_plan::{
        BackendCell, BackendName, BackendSpec, ConnectSpec, Globals, ListenerCell, ListenerSpec,
        Plan, PolicySpec, Scheduler, Sealed, ServiceCell, ServiceName, ServiceRecord, ServiceSpec,
        SlotIdx,
    };
    use evenkeel_scoreboard::{Capacities, GlobalCount, Scoreboard};
    use tokio::task::LocalSet;

    use super::*;
    use crate::plan::View;

    fn plan() -> Plan {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let spec = ServiceSpec {
            name: ServiceName::new("s").unwrap(),
            listeners: vec![ListenerSpec {
                address,
                freebind: false,
                backlog: 1,
            }],
            scheduler: Scheduler::Rr,
            pool: None,
            backends: vec![BackendSpec {
                name: BackendName::new("b").unwrap(),
                address: address.into(),
                weight: 1,
                backup: false,
                check: None,
            }],
            connect: ConnectSpec::default(),
            policy: PolicySpec::default(),
        };
        let record = ServiceRecord {
            spec,
            cell: ServiceCell(0),
            listener_cells: vec![ListenerCell(0)],
            backend_cells: vec![BackendCell(0)],
            endpoints: vec![vec![address]],
            list_generation: 1,
        };
        Plan::new(1, Globals::default(), [Arc::new(Sealed::new(record))])
    }

    async fn worker() -> (Rc<Worker>, Listener) {
        let capacities = Capacities {
            slots: 1,
            services: 1,
            listeners: 1,
            backends: 1,
        };
        let (board, _) = Scoreboard::create(capacities).unwrap();
        board.set(GlobalCount::SlotsUsed, 1);
        let row = board.row(SlotIdx(0), 0);
        let worker = Rc::new(Worker::new(SlotIdx(0), board, row));
        let change = View::empty()
            .change_to(Arc::new(plan()), board, row, &worker.holders)
            .await
            .unwrap();
        let listener = change.view.listener(ListenerCell(0)).unwrap().clone();
        (worker, listener)
    }

    fn open(worker: &Rc<Worker>, listener: &Listener) -> Connection {
        let client = SocketAddr::from(([192, 0, 2, 1], 1));
        let mut connection = Connection::open(worker, listener.clone(), client, false);
        let backend = &listener.service.backends[0];
        connection.backend = Some(Held::new(Rc::clone(&backend.handle)));
        connection
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_panic_ends_one_connection_and_its_books() {
        let local = LocalSet::new();
        local
            .run_until(async {
                let (worker, listener) = worker().await;
                let doomed = open(&worker, &listener);
                let other = open(&worker, &listener);
                let task = tokio::task::spawn_local(async move {
                    tokio::task::yield_now().await;
                    panic!(
                        "a bug in a stage, while {doomed:p} is held",
                        doomed = &doomed
                    );
                });
                assert!(task.await.unwrap_err().is_panic());
                let row = worker.row.service(ServiceCell(0));
                assert_eq!(row.get(ServiceCount::Exhausted), 1);
                assert_eq!(row.get(ServiceCount::Active), 1);
                assert_eq!(worker.row.worker().get(WorkerCount::Active), 1);
                let backend = worker.row.backend(BackendCell(0));
                assert_eq!(backend.get(BackendCount::Active), 1);
                other.end(Outcome::Relayed(End::Client));
                worker.connections.ended().await;
                assert_eq!(row.get(ServiceCount::Active), 0);
            })
            .await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_each_connection_keeps_is_small() {
        let (worker, listener) = worker().await;
        let socket = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            stream.set_nonblocking(true).unwrap();
            tokio::net::TcpStream::from_std(stream).unwrap()
        };
        let connection = open(&worker, &listener);
        let size = size_of_val(&crate::worker::serve(connection, socket()));
        assert!(size <= 480, "{size} bytes");
    }
}
