//! The supervisor's side of a worker.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use evenkeel_balance::State;
use evenkeel_control::child::{Descriptor, FromChild, Hello, OrphanRule, ToChild};
use evenkeel_control::{Channel, Link};
use evenkeel_plan::{
    Address, BackendCell, BackendName, BackendSpec, CheckKind, CheckSpec, ConnectSpec, Globals,
    ListenerCell, ListenerSpec, Plan, PolicySpec, Scheduler, Sealed, ServiceCell, ServiceName,
    ServiceRecord, ServiceSpec, SlotIdx,
};
use evenkeel_scoreboard::{
    BackendCount, Capacities, Gate, GateState, HealthState, Scoreboard, ServiceCount, Verdict,
    WorkerCount,
};
use evenkeel_sys::{blob, doorbell, listen, packet, process};
use evenkeel_worker::WorkerError;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, LocalSet, spawn_local};

pub(crate) const SLOT: SlotIdx = SlotIdx(0);

/// Runs a test with a deadline.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        let within = tokio::time::timeout(Duration::from_secs(30), test);
        within.await.unwrap();
    });
}

/// Lets everybody run until `condition` holds; the test's deadline bounds it.
pub(crate) async fn eventually(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A backend that greets with its letter and then echoes.
pub(crate) async fn backend(letter: u8) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(spawn_local(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            drop(spawn_local(async move {
                let (mut read, mut write) = stream.split();
                // A connection that is reset ends with an error, as it has to.
                if write.write_all(&[letter]).await.is_ok() {
                    drop(tokio::io::copy(&mut read, &mut write).await);
                }
            }));
        }
    }));
    address
}

/// An address at which nobody listens.
pub(crate) fn nobody() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// An address that does not answer, for as long as what comes with it lives.
pub(crate) fn silent() -> (SocketAddr, impl Sized) {
    let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    full.bind(&any().into()).unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    // The accept queue is full now: the next handshake is not answered.
    let first = std::net::TcpStream::connect(address).unwrap();
    (address, (full, first))
}

/// Who greets the next `count` clients, one after the other.
pub(crate) async fn letters(address: SocketAddr, count: usize) -> String {
    let mut letters = String::new();
    for _ in 0..count {
        letters.push(greeted(address).await.1);
    }
    letters
}

/// A service of three backends that greet with `a`, `b` and `c`.
pub(crate) async fn abc() -> Service {
    Service::new("abc", 0)
        .listener(0, any())
        .backend(0, backend(b'a').await)
        .backend(1, backend(b'b').await)
        .backend(2, backend(b'c').await)
}

/// A client that has been greeted, and by whom.
pub(crate) async fn greeted(address: SocketAddr) -> (TcpStream, char) {
    let mut client = TcpStream::connect(address).await.unwrap();
    let letter = client.read_u8().await.unwrap();
    (client, char::from(letter))
}

/// Whether the client's connection is answered and ends in order.
pub(crate) async fn echoes(client: &mut TcpStream) {
    client.write_all(b"hello").await.unwrap();
    let mut seen = [0; 5];
    client.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen, b"hello");
}

pub(crate) async fn is_reset(client: &mut TcpStream) -> bool {
    let result = client.read_u8().await;
    result.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
}

/// A service with listeners and backends, in cells that the test chooses.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) name: &'static str,
    pub(crate) cell: u32,
    pub(crate) listeners: Vec<(u32, SocketAddr)>,
    pub(crate) scheduler: Scheduler,
    pub(crate) backends: Vec<Backend>,
    pub(crate) connect: ConnectSpec,
    pub(crate) policy: PolicySpec,
    pub(crate) list_generation: u64,
}

/// A backend in a cell that the test chooses.
#[derive(Clone)]
pub(crate) struct Backend {
    pub(crate) cell: u32,
    pub(crate) endpoints: Vec<SocketAddr>,
    pub(crate) weight: u16,
    pub(crate) backup: bool,
    pub(crate) check: Option<CheckKind>,
}

impl Service {
    pub(crate) fn new(name: &'static str, cell: u32) -> Self {
        Self {
            name,
            cell,
            listeners: Vec::new(),
            scheduler: Scheduler::Rr,
            backends: Vec::new(),
            connect: ConnectSpec::default(),
            policy: PolicySpec::default(),
            list_generation: 1,
        }
    }

    pub(crate) fn listener(mut self, cell: u32, address: SocketAddr) -> Self {
        self.listeners.push((cell, address));
        self
    }

    pub(crate) fn backend(self, cell: u32, address: SocketAddr) -> Self {
        self.endpoints(cell, &[address])
    }

    pub(crate) fn endpoints(mut self, cell: u32, endpoints: &[SocketAddr]) -> Self {
        self.backends.push(Backend {
            cell,
            endpoints: endpoints.to_vec(),
            weight: 1,
            backup: false,
            check: None,
        });
        self
    }

    /// The backend that was added last is a backup.
    pub(crate) fn backup(mut self) -> Self {
        self.backends.last_mut().unwrap().backup = true;
        self
    }

    pub(crate) fn list_generation(mut self, generation: u64) -> Self {
        self.list_generation = generation;
        self
    }

    fn seal(&self) -> Arc<Sealed> {
        let listener = |&(_, address): &(u32, SocketAddr)| ListenerSpec::at(address);
        let address = || Address::Name {
            host: "backend.example".to_owned(),
            port: 1,
        };
        let name = |cell: u32| BackendName::new(format!("b{cell}")).unwrap();
        let backend = |backend: &Backend| BackendSpec {
            weight: backend.weight,
            backup: backend.backup,
            check: backend
                .check
                .clone()
                .map(|kind| Arc::new(CheckSpec::of(kind))),
            ..BackendSpec::at(name(backend.cell), address())
        };
        let spec = ServiceSpec {
            scheduler: self.scheduler,
            connect: self.connect.clone(),
            policy: self.policy.clone(),
            ..ServiceSpec::new(
                ServiceName::new(self.name).unwrap(),
                self.listeners.iter().map(listener).collect(),
                self.backends.iter().map(backend).collect(),
            )
        };
        Arc::new(Sealed::new(ServiceRecord {
            spec,
            cell: ServiceCell(self.cell),
            listener_cells: self.listeners.iter().map(|l| ListenerCell(l.0)).collect(),
            backend_cells: self.backends.iter().map(|b| BackendCell(b.cell)).collect(),
            endpoints: self.backends.iter().map(|b| b.endpoints.clone()).collect(),
            list_generation: self.list_generation,
        }))
    }
}

/// A listening socket of the group of an address, for `slot`.
pub(crate) fn listening(address: SocketAddr) -> (OwnedFd, SocketAddr) {
    let socket = listen::bind(address, listen::Options::default()).unwrap();
    listen::listen(socket.as_fd(), 128).unwrap();
    let address = listen::local_address(socket.as_fd()).unwrap();
    (socket, address)
}

pub(crate) fn any() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A worker and what its supervisor has.
pub(crate) struct Rig {
    pub(crate) board: Scoreboard,
    pub(crate) channel: Option<Channel<ToChild, FromChild>>,
    pub(crate) worker: JoinHandle<Result<(), WorkerError>>,
    pub(crate) plan: Plan,
    pub(crate) globals: Globals,
    /// The monitor's copy of the worker's doorbell.
    pub(crate) bell: OwnedFd,
    /// The supervisor's copies of the sockets of slot 0.
    sockets: HashMap<u32, (OwnedFd, SocketAddr)>,
    batch: u64,
    early: VecDeque<FromChild>,
}

impl Rig {
    pub(crate) async fn new() -> Self {
        Self::with(OrphanRule::Drain).await
    }

    pub(crate) async fn with(orphan: OrphanRule) -> Self {
        let (ours, theirs) = packet::pair().unwrap();
        let capacities = Capacities {
            slots: 4,
            services: 8,
            listeners: 8,
            backends: 32,
            sources: 64,
        };
        let (board, memory) = Scoreboard::create(capacities).unwrap();
        board.set(evenkeel_scoreboard::GlobalCount::SlotsUsed, 1);
        for cell in 0..capacities.backends {
            let state = HealthState::Unchecked;
            let cells = board.backend(BackendCell(cell));
            cells.set_verdict(Verdict { state, since_ms: 0 });
        }
        let worker = spawn_local(async move {
            let (hello, link) = Link::open(theirs).await.unwrap();
            evenkeel_worker::run(hello, link, process::effective_uid()).await
        });
        let mut rig = Self {
            board,
            channel: Some(Channel::new(ours).unwrap()),
            worker,
            plan: Plan::empty(),
            globals: Globals::default(),
            bell: doorbell::new().unwrap(),
            sockets: HashMap::new(),
            batch: 0,
            early: VecDeque::new(),
        };
        let hello = Hello {
            slot: SLOT,
            incarnation: 1,
            parity: 0,
            cpu: None,
            become_user: None,
            keep_net_raw: false,
            orphan,
            supervisor: std::process::id(),
        };
        rig.say(ToChild::Hello(hello)).await;
        let bell = rig.bell.try_clone().unwrap();
        let doorbell = Descriptor::Doorbell { slot: SLOT };
        rig.give(vec![(Descriptor::Scoreboard, &memory), (doorbell, &bell)])
            .await;
        rig
    }

    /// A worker that serves `services`, whose listeners' addresses get real ports: one address a listener cell.
    pub(crate) async fn serving(services: &[Service]) -> Self {
        let mut rig = Self::new().await;
        rig.reload(services).await;
        rig
    }

    pub(crate) async fn say(&self, message: ToChild) {
        let channel = self.channel.as_ref().unwrap();
        channel.send(&message, &[]).await.unwrap();
    }

    /// The next message of the worker other than those kept aside.
    pub(crate) async fn hear(&mut self) -> FromChild {
        match self.early.pop_front() {
            Some(message) => message,
            None => self.channel.as_ref().unwrap().receive().await.unwrap().0,
        }
    }

    pub(crate) async fn give(&mut self, descriptors: Vec<(Descriptor, &OwnedFd)>) {
        self.batch += 1;
        let batch = self.batch;
        let (manifest, fds): (Vec<_>, Vec<_>) = descriptors
            .into_iter()
            .map(|(descriptor, fd)| (descriptor, fd.as_fd()))
            .unzip();
        let message = ToChild::Descriptors { batch, manifest };
        let channel = self.channel.as_ref().unwrap();
        channel.send(&message, &fds).await.unwrap();
        // `Released` comes whenever it likes.
        loop {
            match channel.receive().await.unwrap().0 {
                FromChild::Taken { batch: taken } => break assert_eq!(taken, batch),
                other => self.early.push_back(other),
            }
        }
    }

    /// Our copy of the socket of a listener, made when it is first asked for.
    pub(crate) fn listener(&mut self, cell: u32) -> SocketAddr {
        self.sockets
            .entry(cell)
            .or_insert_with(|| listening(any()))
            .1
    }

    /// Our copy of the socket is closed, as the supervisor does when every worker has answered.
    pub(crate) fn close(&mut self, cell: u32) {
        drop(self.sockets.remove(&cell).unwrap());
    }

    pub(crate) fn plan_of(&mut self, services: &[Service]) -> Plan {
        let mut services = services.to_vec();
        for service in &mut services {
            for (cell, address) in &mut service.listeners {
                if address.port() == 0 {
                    *address = self.listener(*cell);
                }
            }
        }
        let records = services.iter().map(Service::seal);
        Plan::new(self.plan.generation + 1, self.globals.clone(), records)
    }

    /// Sends the delta to `plan`, and the sockets of new listeners but those in `without`; the worker's answer.
    pub(crate) async fn prepare(&mut self, plan: &Plan, without: &[u32]) -> FromChild {
        let generation = plan.generation;
        let delta = blob::seal("plan", &plan.delta_from(&self.plan).encode()).unwrap();
        let has = |cell: ListenerCell| self.plan.listeners().any(|(l, _)| l.cell == cell);
        let fresh: Vec<_> = plan
            .listeners()
            .map(|(listener, _)| listener.cell)
            .filter(|&cell| !has(cell) && !without.contains(&cell.0))
            .map(|listener| {
                let (socket, address) = &self.sockets[&listener.0];
                let address = *address;
                let descriptor = Descriptor::Listener {
                    listener,
                    slot: SLOT,
                    address,
                };
                (descriptor, socket.try_clone().unwrap())
            })
            .collect();
        let mut batch = vec![(Descriptor::Delta { generation }, &delta)];
        batch.extend(fresh.iter().map(|(d, socket)| (d.clone(), socket)));
        self.give(batch).await;
        self.say(ToChild::Prepare { generation }).await;
        self.hear().await
    }

    /// What the supervisor does between the answers of all workers and `Commit`.
    pub(crate) fn switch(&mut self, plan: Plan) {
        for sealed in plan.services() {
            let record = sealed.record();
            let tag = record.list_tag();
            let cell = self.board.scheduler(record.cell);
            if State::from_bits(cell.load()).tag != tag {
                self.board
                    .set_scheduler(record.cell, State::initial(tag).to_bits());
            }
        }
        self.board.switch_generation(plan.generation);
        self.plan = plan;
    }

    /// Commits and waits for the answer; the cells that linger.
    pub(crate) async fn commit(&mut self) -> Vec<BackendCell> {
        let generation = self.plan.generation;
        self.say(ToChild::Commit { generation }).await;
        let mut lingering = Vec::new();
        loop {
            match self.hear().await {
                FromChild::Lingering {
                    generation: of,
                    cells,
                } => {
                    assert_eq!(of, generation);
                    lingering.extend(cells);
                }
                FromChild::Applied { generation: of } => {
                    assert_eq!(of, generation);
                    assert_eq!(self.board.slot(SLOT).generation(), generation);
                    return lingering;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) async fn reload(&mut self, services: &[Service]) -> Vec<BackendCell> {
        let plan = self.plan_of(services);
        let generation = plan.generation;
        let answer = self.prepare(&plan, &[]).await;
        assert_eq!(answer, FromChild::Prepared { generation });
        self.switch(plan);
        self.commit().await
    }

    pub(crate) fn set_health(&self, cell: u32, state: HealthState) {
        self.set_verdict(cell, state, 1);
    }

    pub(crate) fn set_verdict(&self, cell: u32, state: HealthState, since_ms: u64) {
        let cells = self.board.backend(BackendCell(cell));
        cells.set_verdict(Verdict { state, since_ms });
    }

    pub(crate) fn set_gate(&self, cell: u32, state: GateState) {
        let cells = self.board.service(ServiceCell(cell));
        cells.set_gate(Gate { state, since_ms: 1 });
    }

    pub(crate) fn ring(&self) {
        doorbell::ring(self.bell.as_fd()).unwrap();
    }

    pub(crate) fn of_service(&self, cell: u32, count: ServiceCount) -> u64 {
        self.board.sum_service(ServiceCell(cell), count)
    }

    pub(crate) fn of_backend(&self, cell: u32, count: BackendCount) -> u64 {
        self.board.sum_backend(BackendCell(cell), count)
    }

    pub(crate) fn of_worker(&self, count: WorkerCount) -> u64 {
        self.board.sum_workers(count)
    }

    /// Nothing is open, and every accepted connection has ended in exactly one way. One that went to a sorry service was
    /// accepted by two services, and once by the worker.
    pub(crate) fn is_balanced(&self) -> bool {
        let services = 0..self.board.capacities().services;
        let sum = |count| -> u64 {
            let of = |cell| self.of_service(cell, count);
            services.clone().map(of).sum()
        };
        let accepted = sum(ServiceCount::Accepted) - sum(ServiceCount::Sorry);
        services.clone().all(|cell| {
            let failed: u64 = ServiceCount::FAILURES
                .iter()
                .map(|&count| self.of_service(cell, count))
                .sum();
            self.of_service(cell, ServiceCount::Active) == 0
                && self.of_service(cell, ServiceCount::Accepted)
                    == failed + self.of_service(cell, ServiceCount::Relayed)
        }) && (0..self.board.capacities().backends)
            .all(|cell| self.of_backend(cell, BackendCount::Active) == 0)
            && self.of_worker(WorkerCount::Active) == 0
            && self.of_worker(WorkerCount::Accepted) == accepted
    }
}
