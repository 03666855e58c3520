//! A supervisor for one monitor, in the test's own process.

use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use evenkeel_control::Channel;
use evenkeel_control::child::{
    Descriptor, Event, FromChild, GateReport, Hello, OrphanRule, Report, Resolved, ToChild,
};
use evenkeel_plan::{
    Address, BackendCell, BackendName, BackendSpec, CheckKind, CheckSpec, Globals, ListenerCell,
    ListenerSpec, LogLevel, Plan, PolicySpec, Sealed, ServiceCell, ServiceName, ServiceRecord,
    ServiceSpec, SlotIdx,
};
use evenkeel_scoreboard::{Capacities, HealthState, Scoreboard};

pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Backends of one service: name, cell, address, check.
pub(crate) type Backend = (&'static str, u32, SocketAddr, Option<CheckSpec>);

pub(crate) struct Supervisor {
    channel: Channel<ToChild, FromChild>,
    pub(crate) board: Scoreboard,
    plan: Plan,
    batch: u64,
    monitor: JoinHandle<ExitCode>,
    /// Messages that came while another was waited for.
    pub(crate) reports: Vec<Report>,
    pub(crate) gates: Vec<GateReport>,
    pub(crate) events: Vec<Event>,
    pub(crate) resolved: Vec<Resolved>,
}

pub(crate) fn check() -> CheckSpec {
    check_of(CheckKind::Tcp)
}

pub(crate) fn check_of(kind: CheckKind) -> CheckSpec {
    CheckSpec {
        interval: Duration::from_millis(30),
        fast_interval: Duration::from_millis(30),
        timeout: Duration::from_millis(30),
        ..CheckSpec::of(kind)
    }
}

pub(crate) fn service(name: &str, cell: u32, backends: &[Backend]) -> Arc<Sealed> {
    service_with(name, cell, backends, PolicySpec::default())
}

pub(crate) fn service_with(
    name: &str,
    cell: u32,
    backends: &[Backend],
    policy: PolicySpec,
) -> Arc<Sealed> {
    let addresses = backends.iter().map(|(.., address, _)| (*address).into());
    let endpoints = backends.iter().map(|(.., address, _)| vec![*address]);
    let (addresses, endpoints) = (addresses.collect(), endpoints.collect());
    placed(name, cell, backends, policy, (addresses, endpoints))
}

/// A service whose backends have these addresses and endpoints instead of their own.
pub(crate) fn placed(
    name: &str,
    cell: u32,
    backends: &[Backend],
    policy: PolicySpec,
    (addresses, endpoints): (Vec<Address>, Vec<Vec<SocketAddr>>),
) -> Arc<Sealed> {
    Arc::new(Sealed::new(ServiceRecord {
        spec: ServiceSpec {
            policy,
            ..ServiceSpec::new(
                ServiceName::new(name).unwrap(),
                vec![ListenerSpec::at("127.0.0.1:0".parse().unwrap())],
                backends
                    .iter()
                    .zip(addresses)
                    .map(|((name, .., check), address)| BackendSpec {
                        check: check.clone().map(Arc::new),
                        ..BackendSpec::at(BackendName::new(*name).unwrap(), address)
                    })
                    .collect(),
            )
        },
        cell: ServiceCell(cell),
        listener_cells: vec![ListenerCell(cell)],
        backend_cells: backends
            .iter()
            .map(|(_, cell, ..)| BackendCell(*cell))
            .collect(),
        endpoints,
        list_generation: 1,
    }))
}

pub(crate) fn quiet() -> Globals {
    let mut globals = Globals::default();
    globals.log.level = LogLevel::Error;
    globals
}

pub(crate) fn plan(
    generation: u64,
    globals: Globals,
    services: impl IntoIterator<Item = Arc<Sealed>>,
) -> Plan {
    Plan::new(generation, globals, services)
}

pub(crate) fn board() -> (Scoreboard, OwnedFd) {
    Scoreboard::create(Capacities {
        slots: 2,
        services: 8,
        listeners: 8,
        backends: 16,
        sources: 4,
    })
    .unwrap()
}

/// Runs `test` as a supervisor would run: in a local set of one thread, within a time limit.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let limited = async { tokio::time::timeout(3 * PATIENCE, test).await.unwrap() };
    tokio::task::LocalSet::new().block_on(&runtime, limited);
}

impl Supervisor {
    /// Starts a monitor on a thread and sends what a supervisor sends first.
    pub(crate) async fn start(
        (board, board_fd): (Scoreboard, OwnedFd),
        orphan: OrphanRule,
        others: Vec<(Descriptor, OwnedFd)>,
    ) -> Self {
        let (ours, theirs) = evenkeel_sys::packet::pair().unwrap();
        let monitor = std::thread::spawn(move || evenkeel_monitor::main(theirs));
        let mut supervisor = Self {
            channel: Channel::new(ours).unwrap(),
            board,
            plan: Plan::empty(),
            batch: 0,
            monitor,
            reports: Vec::new(),
            gates: Vec::new(),
            events: Vec::new(),
            resolved: Vec::new(),
        };
        let hello = Hello {
            slot: SlotIdx(0),
            incarnation: 1,
            parity: 0,
            cpu: None,
            become_user: None,
            keep_net_raw: false,
            orphan,
            supervisor: std::process::id(),
        };
        supervisor.send(ToChild::Hello(hello)).await;
        let mut first = vec![(Descriptor::Scoreboard, board_fd)];
        first.extend(others);
        supervisor.send_descriptors(first).await;
        supervisor
    }

    pub(crate) async fn send(&self, message: ToChild) {
        self.channel.send(&message, &[]).await.unwrap();
    }

    pub(crate) async fn send_descriptors(&mut self, descriptors: Vec<(Descriptor, OwnedFd)>) {
        self.batch += 1;
        let batch = self.batch;
        let (manifest, fds): (Vec<_>, Vec<_>) = descriptors.into_iter().unzip();
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(|fd: &OwnedFd| fd.as_fd()).collect();
        let message = ToChild::Descriptors { batch, manifest };
        self.channel.send(&message, &borrowed).await.unwrap();
        let taken = |message: &FromChild| *message == FromChild::Taken { batch };
        self.wait(taken).await;
    }

    /// Sends the delta to `next` and asks to prepare it; does not wait.
    pub(crate) async fn prepare(&mut self, next: &Plan, metrics: Vec<(Descriptor, OwnedFd)>) {
        let generation = next.generation;
        let delta = next.delta_from(&self.plan).encode();
        let blob = evenkeel_sys::blob::seal("delta", &delta).unwrap();
        let mut descriptors = vec![(Descriptor::Delta { generation }, blob)];
        descriptors.extend(metrics);
        self.send_descriptors(descriptors).await;
        self.send(ToChild::Prepare { generation }).await;
    }

    pub(crate) async fn prepared(&mut self, generation: u64) {
        self.wait(|message| *message == FromChild::Prepared { generation })
            .await;
    }

    pub(crate) async fn commit(&mut self, next: Plan) {
        let generation = next.generation;
        self.board.switch_generation(generation);
        self.send(ToChild::Commit { generation }).await;
        self.wait(|message| *message == FromChild::Applied { generation })
            .await;
        self.plan = next;
    }

    pub(crate) async fn switch(&mut self, next: Plan, metrics: Vec<(Descriptor, OwnedFd)>) {
        self.prepare(&next, metrics).await;
        self.prepared(next.generation).await;
        self.commit(next).await;
    }

    /// Waits for a message; news that come before it are kept, anything else is a surprise.
    pub(crate) async fn wait(&mut self, wanted: impl Fn(&FromChild) -> bool) -> FromChild {
        loop {
            let received = tokio::time::timeout(PATIENCE, self.channel.receive()).await;
            let (message, _) = received.unwrap().unwrap();
            if wanted(&message) {
                return message;
            }
            self.keep(message);
        }
    }

    fn keep(&mut self, message: FromChild) {
        match message {
            FromChild::Verdicts { reports } => self.reports.extend(reports),
            FromChild::Gates { gates } => self.gates.extend(gates),
            FromChild::Events { events } => self.events.extend(events),
            FromChild::Resolved(resolved) => self.resolved.push(resolved),
            other => panic!("unexpected: {other:?}"),
        }
    }

    /// Takes news until `found` in what was kept.
    pub(crate) async fn until(&mut self, what: &str, found: impl Fn(&Self) -> bool) {
        while !found(self) {
            let received = tokio::time::timeout(PATIENCE, self.channel.receive()).await;
            let Ok(received) = received else {
                panic!("{what}: {:?} {:?}", self.gates, self.events);
            };
            self.keep(received.unwrap().0);
        }
    }

    /// Waits for a report on `cell` that `found` likes, the ones that came before included.
    pub(crate) async fn report(&mut self, cell: u32, found: impl Fn(&Report) -> bool) -> Report {
        let likes = |report: &&Report| report.backend == BackendCell(cell) && found(report);
        let has = |kept: &Self| kept.reports.iter().any(|report| likes(&report));
        self.until("a report", has).await;
        self.reports.iter().find(likes).unwrap().clone()
    }

    /// The last report on a service's gate; waits for one with this state.
    pub(crate) async fn gate(&mut self, service: &str, state: &str) -> GateReport {
        let last = |kept: &Self| {
            let mut gates = kept.gates.iter().rev();
            gates.find(|gate| gate.service == service).cloned()
        };
        let is_so = |kept: &Self| last(kept).is_some_and(|gate| gate.state == state);
        self.until("a gate", is_so).await;
        last(self).unwrap()
    }

    pub(crate) fn state(&self, cell: u32) -> HealthState {
        self.board.backend(BackendCell(cell)).verdict().state
    }

    pub(crate) fn checks(&self, cell: u32) -> u64 {
        self.board.backend(BackendCell(cell)).checks()
    }

    /// Waits for the monitor's end; the supervisor's end of the channel is closed first if `gone`.
    pub(crate) async fn ended(self, gone: bool) -> ExitCode {
        let Self {
            channel, monitor, ..
        } = self;
        let kept = (!gone).then_some(channel);
        let ended = tokio::task::spawn_blocking(move || monitor.join().unwrap());
        let code = tokio::time::timeout(PATIENCE, ended).await.unwrap();
        drop(kept);
        code.unwrap()
    }
}

/// Turns of a clock until `found`, within the patience.
pub(crate) async fn eventually(what: &str, found: impl Fn() -> bool) {
    let wait = async {
        let mut turns = tokio::time::interval(Duration::from_millis(2));
        while !found() {
            turns.tick().await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "{what}");
}
