//! One connection's books: opened when it is accepted, balanced whatever ends it.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use evenkeel_log::access::{AccessLog, Phase, Record};
use evenkeel_net::Stream;
use evenkeel_net::proxy_protocol::Header;
use evenkeel_net::relay::{End, Meter};
use evenkeel_scoreboard::{
    BackendCount, Latency, ListenerCount, ServiceCount, ServiceRow, WorkerCount,
};
use evenkeel_sys::clock;

use crate::connections::Number;
use crate::entrance::Entrance;
use crate::handle::{BackendHandle, Held};
use crate::http::books::Carried;
use crate::http::tunnel::Upgraded;
use crate::outcome::Outcome;
use crate::peer::Peer;
use crate::plan::{Listener, Service};
use crate::worker::Worker;

/// An accepted connection. Dropping it ends its books: one that was not told its outcome was cut, lost its backend, or has
/// panicked.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) worker: Rc<Worker>,
    /// Until a backend is connected: a relaying connection holds no plan.
    pub(crate) service: Option<Rc<Service>>,
    /// The backend that it was picked for.
    pub(crate) backend: Option<Held>,
    /// The one before, which could not be reached: for the log.
    before: Option<Rc<BackendHandle>>,
    /// The way it came in.
    pub(crate) entrance: Rc<Entrance>,
    /// Where that backend was tried last.
    pub(crate) endpoint: Option<Peer>,
    /// Our address towards it, for the access log.
    source: Option<Peer>,
    /// The client: the other end, or what that said in a PROXY protocol header.
    pub(crate) client: Peer,
    /// What a PROXY protocol header has said.
    claim: Option<Box<Claim>>,
    number: Number,
    /// The service's cells. They stay its own while a backend handle of it is held.
    row: ServiceRow,
    /// Its unique id, within this worker.
    id: u64,
    /// Monotonic ns.
    accepted: u64,
    pub(crate) times: Times,
    pub(crate) attempts: u8,
    phase: Phase,
    /// Whether the backend's socket has keepalive.
    pub(crate) is_kept_alive: bool,
    /// Its books go on in [`Suspended`].
    is_suspended: bool,
    are_books_closed: bool,
    outcome: Option<Outcome>,
    up: Cell<u64>,
    down: Cell<u64>,
    /// Whether a client that ends its direction has gone.
    pub(crate) is_gone_at_end: bool,
    /// Requests of HTTP that it has begun with.
    pub(crate) requests: u32,
    /// The request that it carries now: backend, times and bytes are that one's then.
    pub(crate) carried: Option<Box<Carried>>,
    /// The request that made a tunnel of it.
    pub(crate) upgraded: Option<Box<Upgraded>>,
}

/// What a connection's PROXY protocol header has said, but for the client.
#[derive(Debug)]
struct Claim {
    /// The other end, who said it.
    peer: Peer,
    /// Where the client meant to connect to.
    destination: Option<Peer>,
}

/// A connection that waits for its client to send something, and has been idle. It holds nothing of a plan, whose backends could
/// not be forgotten while it does: its service is looked up again.
#[derive(Debug)]
pub(crate) struct Suspended {
    entrance: Rc<Entrance>,
    who: Who,
    number: Number,
    /// When it was accepted, monotonic ms, modulo [`SPAN_MS`]. Of HTTP: how many requests it has begun with; each has a time of its own.
    note: u32,
}

/// Whose connection it is. Few come through a proxy: the others do not keep room for what one says.
#[derive(Debug)]
enum Who {
    /// The other end.
    Peer(Peer),
    /// The client, and what else a PROXY protocol header has said.
    Claimed(Box<(Peer, Claim)>),
}

impl Suspended {
    /// Its number, for [`crate::connections::Connections`].
    pub(crate) fn number(&self) -> Number {
        self.number
    }

    /// Whether no plan has its service any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.entrance.is_abandoned()
    }

    /// Whether it is one of HTTP.
    pub(crate) fn is_http(&self) -> bool {
        self.entrance.is_http
    }
}

/// 49 days: one that waits for longer has an age that is shorter by that.
const SPAN_MS: u64 = 1 << 32;

/// How long the phases took.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times {
    /// For the PROXY protocol header.
    pub(crate) handshake: Span,
    /// In the queue.
    pub(crate) queue: Span,
    /// Connecting.
    pub(crate) connect: Span,
    /// When the connection was made, in monotonic ns: one that waited for its client's first bytes may have done so for days.
    connected: u64,
    /// From then to the backend's first byte.
    first_byte: Cell<Span>,
}

/// Microseconds, or none: 71 minutes at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(u32);

impl Span {
    const NONE: Self = Self(u32::MAX);

    fn of(ns: u64) -> Self {
        Self(u32::try_from(ns / 1_000).map_or(u32::MAX - 1, |us| us.min(u32::MAX - 1)))
    }

    fn us(self) -> Option<u64> {
        (self != Self::NONE).then_some(u64::from(self.0))
    }
}

impl Default for Span {
    fn default() -> Self {
        Self::NONE
    }
}

impl Connection {
    /// Opens the books of a connection that was just accepted.
    pub(crate) fn open(
        worker: &Rc<Worker>,
        listener: &Rc<Listener>,
        peer: SocketAddr,
        is_adopted: bool,
    ) -> Self {
        let own = worker.row.worker();
        own.add(WorkerCount::Accepted, 1);
        own.add(WorkerCount::Active, 1);
        if is_adopted {
            own.add(WorkerCount::Adopted, 1);
        }
        let Listener { service, entrance } = &**listener;
        entrance.row.add(ListenerCount::Accepted, 1);
        let row = service.row;
        row.add(ServiceCount::Accepted, 1);
        row.add(ServiceCount::Active, 1);
        let number = worker.connections.begin(entrance.limits);
        let mut connection = Self::begun(worker, Rc::clone(entrance), number, Peer::from(peer));
        connection.service = Some(Rc::clone(service));
        connection
    }

    /// One whose books are open, accepted now, and without a service.
    fn begun(worker: &Rc<Worker>, entrance: Rc<Entrance>, number: Number, client: Peer) -> Self {
        Self {
            number,
            worker: Rc::clone(worker),
            row: worker.row.service(entrance.service_cell),
            service: None,
            backend: None,
            before: None,
            entrance,
            endpoint: None,
            source: None,
            client,
            claim: None,
            id: worker.next_id(),
            accepted: clock::monotonic_ns(),
            times: Times::default(),
            attempts: 0,
            phase: Phase::Handshake,
            is_kept_alive: false,
            is_suspended: false,
            are_books_closed: false,
            outcome: None,
            up: Cell::new(0),
            down: Cell::new(0),
            is_gone_at_end: false,
            requests: 0,
            carried: None,
            upgraded: None,
        }
    }

    /// What is kept of one that waits without a task. Its books stay open, and are closed by [`Self::resume`] and what follows:
    /// it must not be dropped. `None`, and then it is over, when its service is in no plan any more.
    pub(crate) fn suspend(mut self) -> Option<Suspended> {
        if self.worker.service_of(&self.entrance).is_none() {
            self.end(Outcome::Closed);
            return None;
        }
        self.is_suspended = true;
        self.entrance.suspend();
        Some(Suspended {
            entrance: Rc::clone(&self.entrance),
            who: match self.claim.take() {
                None => Who::Peer(self.client),
                Some(claim) => Who::Claimed(Box::new((self.client, *claim))),
            },
            number: self.number,
            note: match self.entrance.is_http {
                true => self.requests,
                false => u32::try_from(self.accepted / 1_000_000 % SPAN_MS).unwrap_or(0),
            },
        })
    }

    /// The connection again, with its service as the plan in force says it; as it was last when it is gone.
    pub(crate) fn resume(worker: &Rc<Worker>, suspended: Suspended) -> Self {
        let Suspended {
            entrance,
            who,
            number,
            note,
        } = suspended;
        let (client, claim) = match who {
            Who::Peer(peer) => (peer, None),
            Who::Claimed(claimed) => (claimed.0, Some(Box::new(claimed.1))),
        };
        let gone = entrance.resume();
        let is_http = entrance.is_http;
        let service = gone.or_else(|| worker.service_of(&entrance));
        let mut connection = Self::begun(worker, entrance, number, client);
        connection.service = service;
        connection.claim = claim;
        if is_http {
            connection.requests = note;
        } else {
            let now_ms = clock::monotonic_ms();
            let age_ms = (now_ms % SPAN_MS + SPAN_MS - u64::from(note)) % SPAN_MS;
            connection.accepted = now_ms.saturating_sub(age_ms) * 1_000_000;
        }
        connection
    }

    /// Takes its service as the plan in force says it.
    pub(crate) fn follow_plan(&mut self) {
        if let Some(service) = &mut self.service {
            *service = self.worker.now(service);
        }
    }

    /// Lets it in, as far as that can be decided now.
    ///
    /// # Errors
    /// How it ends instead. The listener is left at its end in any case.
    pub(crate) fn enter(&self) -> Result<(), Outcome> {
        let board = self.worker.board;
        let expects_header = self.expects_header();
        let client = (!expects_header).then(|| self.client.ip());
        self.entrance.enter(board, client)?;
        if self.worker.is_full() {
            self.worker.row.worker().add(WorkerCount::Refused, 1);
            return Err(Outcome::Exhausted);
        }
        Ok(())
    }

    /// Whether it begins with a PROXY protocol header, which was not read yet.
    pub(crate) fn expects_header(&self) -> bool {
        self.claim.is_none() && self.entrance.admission.expects_header(self.peer().ip())
    }

    /// Looks at whose it is.
    ///
    /// # Errors
    /// How it ends, when it may not come in.
    pub(crate) fn admit(&self) -> Result<(), Outcome> {
        self.entrance.admit(self.worker.board, self.client.ip())
    }

    /// Forgets the backend, the times and the bytes of a request before: another one begins.
    pub(crate) fn begin_journey(&mut self, phase: Phase) {
        self.phase = phase;
        self.attempts = 0;
        self.endpoint = None;
        self.source = None;
        self.times.queue = Span::NONE;
        self.times.connect = Span::NONE;
        self.up.set(0);
        self.down.set(0);
    }

    /// Of the service that the connection counts for, whatever its requests do.
    fn home(&self) -> ServiceRow {
        match self.entrance.is_http {
            true => self.worker.row.service(self.entrance.service_cell),
            // A sorry service may have it.
            false => self.row,
        }
    }

    /// A request of it has ended: it counts for the service again by whose listener it came.
    pub(crate) fn end_journey(&mut self) {
        self.row = self.home();
        self.worker.connections.let_go(self.number);
        self.backend = None;
        self.before = None;
        self.service = None;
    }

    /// A request goes to `service`, and counts for it.
    pub(crate) fn set_out(&mut self, service: &Rc<Service>) {
        self.row = service.row;
        self.service = Some(Rc::clone(service));
    }

    /// Its listener counts one more request, unless there are `most` already, over all workers.
    pub(crate) fn raise_requests(&self, most: u32) -> bool {
        self.entrance.raise_requests(self.worker.board, most)
    }

    /// Bytes of a request have flowed: to the backend, from it, and to the client.
    pub(crate) fn moved(&self, sent: u64, received: u64, answered: u64) {
        self.up.set(self.up.get() + sent);
        self.down.set(self.down.get() + answered);
        self.row.add(ServiceCount::BytesReceived, sent);
        self.row.add(ServiceCount::BytesSent, answered);
        if let Some(backend) = &self.backend {
            let row = backend.handle().row();
            row.add(BackendCount::BytesSent, sent);
            row.add(BackendCount::BytesReceived, received);
        }
    }

    /// What goes on now.
    pub(crate) fn phase_now(&self) -> Phase {
        self.phase
    }

    /// What an answer of our own says of an error, to a person who asks why.
    pub(crate) fn words(&self, error: &str) -> String {
        let held = self.backend.as_ref().map(Held::handle);
        let backend = held.or(self.before.as_deref());
        let backend = backend.map_or("-", BackendHandle::identity);
        let (phase, attempt) = (self.phase.word(), self.attempts);
        format!("backend={backend} phase={phase} error={error} attempt={attempt}")
    }

    /// Gives up the backend that it was picked for.
    pub(crate) fn let_go(&mut self) {
        if let Some(held) = self.backend.take() {
            self.before = Some(held.shared());
        }
    }

    /// It has a backend: it needs nothing of the plan any more.
    pub(crate) fn forget_plan(&mut self) {
        self.service = None;
        self.before = None;
    }

    /// Its number, for [`crate::connections::Connections`].
    pub(crate) fn number(&self) -> Number {
        self.number
    }

    /// Its unique id, over all workers and times.
    pub(crate) fn unique_id(&self) -> u128 {
        u128::from(self.worker.id) << 64 | u128::from(self.id)
    }

    /// The same as text, 32 hexadecimal digits.
    pub(crate) fn unique_id_text(&self) -> String {
        format!("{:032x}", self.unique_id())
    }

    /// Takes the client's word for who it is: it came through a trusted peer. A header without addresses is that of the peer's own
    /// connection.
    pub(crate) fn claim(&mut self, header: &Header) {
        let claim = Claim {
            peer: self.client,
            destination: header.destination.map(Peer::from),
        };
        self.claim = Some(Box::new(claim));
        if let Some(source) = header.source {
            self.client = source.into();
        }
    }

    /// The other end.
    pub(crate) fn peer(&self) -> Peer {
        self.claim.as_ref().map_or(self.client, |claim| claim.peer)
    }

    /// Where the client meant to connect to, as the PROXY protocol header says it.
    pub(crate) fn claimed_destination(&self) -> Option<SocketAddr> {
        let claimed = self.claim.as_ref()?.destination?;
        Some(claimed.into())
    }

    /// What goes on from now on.
    pub(crate) fn phase(&mut self, phase: Phase) {
        self.phase = phase;
    }

    /// A backend has been connected, and it took since `begun` (monotonic ns).
    pub(crate) fn connected(&mut self, begun: u64) {
        let now = clock::monotonic_ns();
        self.times.connect = Span::of(now.saturating_sub(begun));
        self.times.connected = now;
        self.observe(Latency::Connect, self.times.connect);
        self.phase = Phase::Relay;
    }

    /// Notes from where `backend` is connected to, if anybody wants to know that.
    pub(crate) fn note_source(&mut self, backend: &Stream) {
        let log = self.worker.access_log();
        if log.is_some_and(AccessLog::wants_source) {
            self.source = backend.local_address().ok().map(Peer::from);
        }
    }

    /// How long something took that began at `begun` (monotonic ns).
    pub(crate) fn since(begun: u64) -> Span {
        Span::of(clock::monotonic_ns().saturating_sub(begun))
    }

    fn observe(&self, latency: Latency, span: Span) {
        if let Some(us) = span.us() {
            self.observe_us(latency, us);
        }
    }

    /// Something took `us` microseconds with its backend.
    pub(crate) fn observe_us(&self, latency: Latency, us: u64) {
        if let Some(held) = &self.backend {
            held.handle().latencies().observe(latency, us);
        }
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
            client = %SocketAddr::from(self.client),
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

    /// Closes the books and leaves.
    pub(crate) fn end(mut self, outcome: Outcome) {
        self.ends(outcome);
    }

    /// How it ends.
    pub(crate) fn ends(&mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }

    /// Counts its end, the first time. Its places at listener and backend are taken until it is dropped: to be called before its
    /// sockets are closed, so that who has seen the end finds it in the counters, while nobody gets its place at a backend
    /// that still has the connection.
    pub(crate) fn close_books(&mut self) {
        if self.are_books_closed {
            return;
        }
        self.are_books_closed = true;
        let outcome = self.outcome.unwrap_or_else(|| {
            if std::thread::panicking() {
                Outcome::Panicked
            } else {
                let sentence = self.worker.connections.sentence(self.number);
                sentence.unwrap_or(Outcome::Cut)
            }
        });
        self.home().add(outcome.count(), 1);
        match outcome {
            Outcome::Relayed(End::ClientReset) => self.count(ServiceCount::ClientResets),
            Outcome::Relayed(End::BackendReset) => self.count_backend(BackendCount::Resets),
            _ => {}
        }
        let duration_us = clock::monotonic_ns().saturating_sub(self.accepted) / 1_000;
        if self.phase == Phase::Relay
            && let Some(held) = &self.backend
        {
            let latencies = held.handle().latencies();
            latencies.observe(Latency::Duration, duration_us);
        }
        self.log(outcome, duration_us);
    }

    fn log(&self, outcome: Outcome, duration_us: u64) {
        if outcome == Outcome::Panicked {
            tracing::error!(
                service = &*self.entrance.service,
                client = %SocketAddr::from(self.client),
                "a connection was ended by a bug"
            );
        }
        // What is left to say of it was said of each request.
        let is_said = self.entrance.is_http && self.requests > 0 && self.upgraded.is_none();
        if outcome == Outcome::Served || is_said {
            return;
        }
        let Some(log) = self.worker.access_log() else {
            return;
        };
        let now = SystemTime::now();
        let duration = Duration::from_micros(duration_us);
        log.write(&Record {
            accepted: now.checked_sub(duration).unwrap_or(now),
            handshake_us: self.times.handshake.us(),
            first_byte_us: self.times.first_byte.get().us(),
            duration_us,
            end: outcome.end(self.phase),
            http: self.upgraded.as_deref().map(Upgraded::record),
            client: self.asker(self.upgraded.as_ref().and_then(|upgraded| upgraded.client)),
            ..self.record(&self.entrance.service)
        });
    }

    /// What is known of it, without its times and its end. `front`: the service, where it has set out for none.
    pub(crate) fn record<'a>(&'a self, front: &'a str) -> Record<'a> {
        // Neither name has a slash.
        let backend = self.backend.as_ref().map(Held::handle);
        let identity = backend
            .or(self.before.as_deref())
            .map(BackendHandle::identity);
        let names = identity.and_then(|identity| identity.split_once('/'));
        let service = match (&self.service, names) {
            (Some(service), _) => service.name(),
            (None, Some((service, _))) => service,
            (None, None) => front,
        };
        Record {
            accepted: SystemTime::UNIX_EPOCH,
            service,
            listener: self.entrance.address,
            client: self.client.into(),
            peer: self.peer().into(),
            backend: names.map(|(_, backend)| backend),
            endpoint: self.endpoint.map(SocketAddr::from),
            source: self.source.map(SocketAddr::from),
            worker: self.worker.slot.0,
            id: self.unique_id(),
            attempts: self.attempts,
            handshake_us: None,
            queue_us: self.times.queue.us(),
            connect_us: self.times.connect.us(),
            first_byte_us: None,
            duration_us: 0,
            bytes_received: self.up.get(),
            bytes_sent: self.down.get(),
            end: Outcome::Served.end(self.phase),
            http: None,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.is_suspended {
            return;
        }
        drop(self.close_request());
        self.close_books();
        self.home().lower(ServiceCount::Active);
        self.entrance.leave();
        self.worker.row.worker().lower(WorkerCount::Active);
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
        self.worker.connections.touch(self.number);
        self.up.set(self.up.get() + count);
        self.row.add(ServiceCount::BytesReceived, count);
        if let Some(backend) = &self.backend {
            backend.handle().row().add(BackendCount::BytesSent, count);
        }
    }

    fn down(&self, count: usize) {
        let count = count as u64;
        self.worker.connections.touch(self.number);
        if self.down.replace(self.down.get() + count) == 0 {
            let first = Self::since(self.times.connected);
            self.times.first_byte.set(first);
            self.observe(Latency::FirstByte, first);
        }
        self.row.add(ServiceCount::BytesSent, count);
        if let Some(backend) = &self.backend {
            let row = backend.handle().row();
            row.add(BackendCount::BytesReceived, count);
        }
    }

    fn half_closed(&self) {
        self.worker.connections.half_closed(self.number);
    }

    fn may_park(&self) -> bool {
        self.worker.connections.may_park(self.number)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use evenkeel_control::child::CookieKeys;
    use evenkeel_plan::{
        BackendCell, BackendName, BackendSpec, Globals, ListenerCell, ListenerSpec, Plan, Sealed,
        ServiceCell, ServiceName, ServiceRecord, ServiceSpec, SlotIdx,
    };
    use evenkeel_scoreboard::{Capacities, GlobalCount, Scoreboard};
    use tokio::task::LocalSet;

    use super::*;
    use crate::plan::View;

    fn plan() -> Plan {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let backend = BackendSpec::at(BackendName::new("b").unwrap(), address.into());
        let spec = ServiceSpec::new(
            ServiceName::new("s").unwrap(),
            vec![ListenerSpec::at(address)],
            vec![backend],
        );
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

    pub(crate) async fn worker() -> (Rc<Worker>, Rc<Listener>) {
        let capacities = Capacities {
            slots: 1,
            services: 1,
            listeners: 1,
            backends: 1,
            sources: 4,
        };
        let (board, _) = Scoreboard::create(capacities).unwrap();
        board.set(GlobalCount::SlotsUsed, 1);
        let row = board.row(SlotIdx(0), 0);
        let worker = Rc::new(Worker::new(SlotIdx(0), board, row));
        let change = View::empty()
            .change_to(Arc::new(plan()), CookieKeys::default(), &worker)
            .await
            .unwrap();
        let listener = change.view.listener(ListenerCell(0)).unwrap().clone();
        (worker, listener)
    }

    pub(crate) fn open(worker: &Rc<Worker>, listener: &Rc<Listener>) -> Connection {
        let client = SocketAddr::from(([192, 0, 2, 1], 1));
        let mut connection = Connection::open(worker, listener, client, false);
        let backend = &listener.service.backends[0];
        connection.enter().unwrap();
        connection.backend = Held::within(&backend.handle, worker.board, None);
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
        let local = LocalSet::new();
        local
            .run_until(async {
                let (worker, listener) = worker().await;
                let socket = || {
                    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                    let address = listener.local_addr().unwrap();
                    let stream = std::net::TcpStream::connect(address).unwrap();
                    stream.set_nonblocking(true).unwrap();
                    Stream::new(stream.into()).unwrap()
                };
                let connection = open(&worker, &listener);
                let size = size_of_val(&crate::worker::serve(connection, socket()));
                assert!(size <= 840, "{size} bytes while it is served");
                let size = size_of::<crate::relay::Relaying>();
                assert!(size <= 240, "{size} bytes while it is parked");
            })
            .await;
    }
}
