//! What is measured, and how each measurement goes.

use std::path::PathBuf;

use crate::idle::{Before, Idle};
use crate::load::Load;
use crate::peers::{Kind, Running, free_port};
use crate::processes::{cpu_ns, settled, usage};
use crate::results::{Results, Sample};
use crate::template::{Mode, Setup};
use crate::{growth, processes};

const MIB: f64 = 1_048_576.0;

/// Idle connections beside the load of `idle`.
const BESIDE: u32 = 1_000;

/// Clients that lie idle after their request beside the load of `http-cht`.
const HELD: u32 = 5_000;

/// Idle connections of each step when memory is measured.
const STEP: u32 = 5_000;

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    Small,
    Connection,
    Bulk,
    Idle,
    RelayMemory,
    ClientMemory,
    HttpSmall,
    Http16k,
    Http1m,
    HttpConnection,
    HttpCht,
    HttpClientMemory,
    GrowthWorkers,
    GrowthBackends,
    GrowthIdle,
    GrowthReload,
}

impl Work {
    /// Those that take seconds each.
    pub(crate) const USUAL: [Self; 6] = [
        Self::Small,
        Self::Connection,
        Self::Bulk,
        Self::Idle,
        Self::RelayMemory,
        Self::ClientMemory,
    ];
    /// The same for HTTP.
    pub(crate) const HTTP: [Self; 6] = [
        Self::HttpSmall,
        Self::Http16k,
        Self::Http1m,
        Self::HttpConnection,
        Self::HttpCht,
        Self::HttpClientMemory,
    ];
    pub(crate) const ALL: [Self; 16] = [
        Self::Small,
        Self::Connection,
        Self::Bulk,
        Self::Idle,
        Self::RelayMemory,
        Self::ClientMemory,
        Self::HttpSmall,
        Self::Http16k,
        Self::Http1m,
        Self::HttpConnection,
        Self::HttpCht,
        Self::HttpClientMemory,
        Self::GrowthWorkers,
        Self::GrowthBackends,
        Self::GrowthIdle,
        Self::GrowthReload,
    ];

    /// As `--works` calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Connection => "connection",
            Self::Bulk => "bulk",
            Self::Idle => "idle",
            Self::RelayMemory => "relay-memory",
            Self::ClientMemory => "client-memory",
            Self::HttpSmall => "http-small",
            Self::Http16k => "http-16k",
            Self::Http1m => "http-1m",
            Self::HttpConnection => "http-connection",
            Self::HttpCht => "http-cht",
            Self::HttpClientMemory => "http-client-memory",
            Self::GrowthWorkers => "growth-workers",
            Self::GrowthBackends => "growth-backends",
            Self::GrowthIdle => "growth-idle",
            Self::GrowthReload => "growth-reload",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|work| work.name() == name)
    }
}

/// What all measurements share.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) directory: PathBuf,
    pub(crate) rounds: u32,
    pub(crate) seconds: u32,
    /// Who takes part.
    pub(crate) peers: Vec<Kind>,
    /// Most descriptors of a process.
    pub(crate) descriptors: u64,
    /// One port, on every address of this host.
    pub(crate) backend_port: u16,
    pub(crate) _backend: Running,
}

impl Bench {
    /// A set-up with one service, as the works that do not grow have it; `relays` is how many connections there will be at once.
    pub(crate) fn setup(&self, relays: u32) -> Setup {
        Setup {
            mode: Mode::Tcp,
            workers: 2,
            listens: vec![([127, 0, 0, 1], free_port()).into()],
            backends: growth::backends(3, self.backend_port),
            hold: false,
            reloadable: false,
            clients: 2_500.max(u64::from(relays) + 500),
        }
    }

    /// Who takes part, with another one first in each round.
    pub(crate) fn kinds(&self, round: u32) -> Vec<Kind> {
        let kinds = Kind::rotated(round).into_iter();
        kinds.filter(|kind| self.peers.contains(kind)).collect()
    }

    /// Whether the largest process of a peer gets along with the limit on descriptors.
    pub(crate) fn room(&self, kind: Kind, setup: &Setup) -> Result<(), String> {
        let listens = u64::try_from(setup.listens.len()).unwrap_or(u64::MAX);
        let workers = u64::from(setup.workers);
        let need = match kind {
            // The supervisor has a socket a service and worker; connections are spread over workers, not quite evenly.
            Kind::Evenkeel => listens * workers + 2 * setup.clients * 5 / 4 / workers + 500,
            // One process, and it wants the descriptors when it starts.
            Kind::Haproxy => 2 * listens + 2 * setup.clients + 200,
            Kind::Nginx => listens + 2 * setup.clients * 5 / 4 / workers + 500,
        };
        if need > self.descriptors {
            return Err(format!(
                "it wants {need} descriptors and may have {} (RLIMIT_NOFILE)",
                self.descriptors
            ));
        }
        Ok(())
    }

    /// The same, with the reason among the notes.
    pub(crate) fn has_room(
        &self,
        kind: Kind,
        setup: &Setup,
        what: &str,
        results: &mut Results,
    ) -> bool {
        let room = self.room(kind, setup);
        if let Err(reason) = &room {
            results.note(format!("{what}: not for {}: {reason}", kind.name()));
        }
        room.is_ok()
    }

    pub(crate) fn start(&self, kind: Kind, setup: &Setup) -> Running {
        Running::start(kind, setup, &self.directory)
    }

    /// All peers that have room, each with a port of its own.
    pub(crate) fn start_all(
        &self,
        setup: &Setup,
        what: &str,
        results: &mut Results,
    ) -> Vec<Running> {
        let start = |kind| {
            let mut setup = setup.clone();
            setup.listens = vec![([127, 0, 0, 1], free_port()).into()];
            self.start(kind, &setup)
        };
        self.kinds(0)
            .into_iter()
            .filter(|kind| self.has_room(*kind, setup, what, results))
            .map(start)
            .collect()
    }

    /// Puts a load on a peer, beside idle connections, and takes its figures.
    pub(crate) fn load(&self, peer: &Running, load: Load, idle: &mut Idle) -> Sample {
        let lines = peer.log_lines();
        let before = cpu_ns(peer.pid());
        let seen = load.run(peer.address, self.seconds, idle);
        let after = usage(peer.pid());
        // The last lines of the log are still on their way.
        processes::pause(std::time::Duration::from_millis(200));
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let lines = (peer.log_lines() - lines) as f64;
        if let Some(error) = seen.first_error {
            println!("{} has errors, the first one: {error}", peer.address);
        }
        let mut sample = Sample::from([
            ("rate", seen.rate),
            ("requests", seen.requests),
            ("p50_us", seen.p50_us),
            ("p99_us", seen.p99_us),
            ("errors", seen.errors),
            ("cpu_us", (after.cpu_ns - before) / 1e3 / seen.requests),
            ("memory_mib", after.memory / MIB),
        ]);
        if load.line_each() {
            sample.insert("log_lines", lines / seen.requests);
        }
        sample
    }

    /// Measures one work and adds what came of it.
    pub(crate) fn measure(&self, work: Work, results: &mut Results) {
        match work {
            Work::Small => self.traffic("small", Load::SMALL, 0, results),
            Work::Connection => self.traffic("connection", Load::CONNECTION, 0, results),
            Work::Bulk => self.traffic("bulk", Load::BULK, 0, results),
            Work::Idle => self.traffic("idle", Load::SMALL, BESIDE, results),
            Work::RelayMemory => self.memory("relay-memory", Mode::Tcp, Before::Exchange, results),
            Work::ClientMemory => self.memory("client-memory", Mode::Tcp, Before::Connect, results),
            Work::HttpSmall => self.traffic("http-small", Load::HTTP_SMALL, 0, results),
            Work::Http16k => self.traffic("http-16k", Load::HTTP_16K, 0, results),
            Work::Http1m => self.traffic("http-1m", Load::HTTP_1M, 0, results),
            Work::HttpConnection => {
                self.traffic("http-connection", Load::HTTP_CONNECTION, 0, results)
            }
            Work::HttpCht => self.traffic("http-cht", Load::HTTP_CHT, HELD, results),
            Work::HttpClientMemory => {
                self.memory("http-client-memory", Mode::Http, Before::Exchange, results)
            }
            Work::GrowthWorkers => growth::workers(self, results),
            Work::GrowthBackends => growth::backends_of_a_service(self, results),
            Work::GrowthIdle => growth::idle(self, results),
            Work::GrowthReload => growth::reload(self, results),
        }
    }

    fn traffic(&self, series: &'static str, load: Load, beside: u32, results: &mut Results) {
        let mut setup = self.setup(beside + 64);
        setup.mode = load.mode();
        let peers = self.start_all(&setup, series, results);
        self.rounds(&peers, series, 0, load, beside, results);
    }

    /// Interleaved rounds of one load on peers that run, beside idle connections that are opened first.
    pub(crate) fn rounds(
        &self,
        peers: &[Running],
        series: &'static str,
        at: u32,
        load: Load,
        beside: u32,
        results: &mut Results,
    ) {
        for round in 0..self.rounds {
            for kind in self.kinds(round) {
                let Some(peer) = peers.iter().find(|peer| peer.kind == Some(kind)) else {
                    continue;
                };
                let mut idle = Idle::default();
                if beside > 0 {
                    idle.open(peer.address, beside, Before::Exchange);
                    settled(peer.pid());
                }
                let sample = self.load(peer, load, &mut idle);
                if sample.get("log_lines").is_some_and(|lines| *lines < 0.95) {
                    results.note(format!(
                        "{series}: {} wrote {:.2} lines of log instead of 1, so what it saved thereby counts as speed",
                        kind.name(),
                        sample["log_lines"]
                    ));
                }
                let lost = idle.lost();
                if lost > 0 {
                    results.note(format!(
                        "{series}: {} closed {lost} of {beside} idle connections",
                        kind.name()
                    ));
                }
                results.add(series, at, kind, sample);
            }
        }
    }

    /// What an idle connection takes: the slope between 5,000 and 10,000 of them, in fresh processes. With fewer descriptors
    /// than HAProxy wants for 10,000 relays, between the most that it can have and half of them; the note says so.
    fn memory(&self, series: &'static str, mode: Mode, before: Before, results: &mut Results) {
        let most = u32::try_from(self.descriptors.saturating_sub(1_400) / 4 / 100 * 100);
        let step_count = STEP.min(most.unwrap_or(STEP));
        if step_count < STEP {
            results.note(format!(
                "{series}: slope between {step_count} and {} connections, for a process may have {} descriptors",
                2 * step_count,
                self.descriptors
            ));
        }
        let mut setup = self.setup(2 * step_count);
        setup.mode = mode;
        setup.hold = before == Before::Connect;
        for round in 0..self.rounds {
            for kind in self.kinds(round) {
                setup.listens = vec![([127, 0, 0, 1], free_port()).into()];
                let peer = self.start(kind, &setup);
                let none = settled(peer.pid());
                let mut idle = Idle::default();
                idle.open(peer.address, step_count, before);
                let first = settled(peer.pid());
                idle.open(peer.address, step_count, before);
                let second = settled(peer.pid());
                let step = f64::from(step_count);
                let lost = u32::try_from(idle.lost()).unwrap_or(u32::MAX);
                let sample = Sample::from([
                    ("bytes", (second.own_memory - first.own_memory) / step),
                    ("mib_0", none.memory / MIB),
                    ("mib_half", first.memory / MIB),
                    ("mib_all", second.memory / MIB),
                    (
                        "descriptors",
                        (second.descriptors - first.descriptors) / step,
                    ),
                    ("lost", f64::from(lost)),
                ]);
                results.add(series, 0, kind, sample);
            }
        }
    }
}
