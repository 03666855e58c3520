//! A worker's view of one generation: what a pick needs, with its cells looked up once.
//!
//! A view is made beside the traffic: services that did not change are shared with the view before.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use evenkeel_balance::{State, WeightSummary, maglev, source};
use evenkeel_control::child::CookieKeys;
use evenkeel_http::persist::CookieSigner;
use evenkeel_plan::http::PersistenceSpec;
use evenkeel_plan::{
    BackendCell, CheckKind, ENDPOINTS_MAX, ListenerCell, OnDown, Plan, PolicySpec, Scheduler,
    Sealed, ServiceCell, ServiceName, ServiceRecord, ServiceSpec, Stale,
};
use evenkeel_scoreboard::{
    BackendCells, BackendCount, Capacities, SchedulerCell, Scoreboard, ServiceRow,
};

use crate::cookies;
use crate::entrance::Entrance;
use crate::handle::BackendHandle;
use crate::http::budget::Budget;
use crate::http::settings::Http;
use crate::queue::Queue;
use crate::worker::Worker;

/// Services that are looked at before other tasks get their turn.
const SERVICES_A_TURN: usize = 64;

/// Highest weight that a scheduler's state has room for. Only an agent that asks for a multiple gets there.
const WEIGHT_MAX: u32 = State::POSITION_MAX;

/// One generation.
#[derive(Debug)]
pub(crate) struct View {
    plan: Arc<Plan>,
    /// What cookies are signed with.
    keys: CookieKeys,
    services: HashMap<ServiceName, Rc<Service>>,
    listeners: HashMap<ListenerCell, Rc<Listener>>,
    /// Services whose connections are reset when their backend goes down.
    resetting: Vec<Rc<Service>>,
}

/// Where a listener's connections go.
#[derive(Debug)]
pub(crate) struct Listener {
    /// The service.
    pub(crate) service: Rc<Service>,
    /// What its connections keep of it.
    pub(crate) entrance: Rc<Entrance>,
}

/// A service of a generation.
#[derive(Debug)]
pub(crate) struct Service {
    sealed: Arc<Sealed>,
    /// Its cells in this worker's row.
    pub(crate) row: ServiceRow,
    /// State that all workers share.
    pub(crate) scheduler: SchedulerCell,
    /// State to pick from while the shared one belongs to a generation that is not here yet.
    pub(crate) aside: Cell<State>,
    /// Whether it does not serve while nobody has looked at its backends lately.
    pub(crate) closes_when_stale: bool,
    /// How long a backend's share grows after it has come up; 0 = not at all.
    pub(crate) slow_start_ms: u64,
    /// Picks of this worker, counted only with a slow start: which turns a growing backend gets.
    pub(crate) picks: Cell<u64>,
    /// Of the weights, for `wrr` and `wlc`, and of which epoch.
    summary: Cell<(u64, WeightSummary)>,
    /// For `source-hash`, and of which epoch.
    table: RefCell<Option<(u64, Rc<maglev::Table>)>>,
    /// Where connections wait; none when no backend can be full.
    pub(crate) queue: Option<Rc<Queue>>,
    /// In file order.
    pub(crate) backends: Box<[Backend]>,
    /// Whether any of them is a backup.
    pub(crate) has_backups: bool,
    /// What the plan says of its HTTP, compiled; none where it relays bytes.
    pub(crate) http: Option<Rc<Http>>,
    /// How many of its requests may be sent again.
    pub(crate) budget: Budget,
    /// Signs the cookies that keep clients with their backends, if any do.
    pub(crate) cookies: Option<Rc<CookieSigner>>,
}

/// A backend of a service.
#[derive(Debug)]
pub(crate) struct Backend {
    /// Cells that the monitor and the supervisor write.
    pub(crate) cells: BackendCells,
    /// Where it is; none = not known yet.
    pub(crate) endpoints: Box<[SocketAddr]>,
    /// Endpoint that the next pick begins with, modulo their number.
    turn: Cell<usize>,
    /// Weight of the plan.
    weight: u16,
    /// Most connections by the plan.
    max: Option<u32>,
    /// Whether there may be a limit, by the plan or by its agent.
    has_limit: bool,
    /// See [`ServiceRecord::weight_scale`].
    scale: u32,
    /// Whether it is used only while no other can be.
    pub(crate) is_backup: bool,
    /// What a persistence cookie names it by: a hash of its name.
    pub(crate) stickiness: u64,
    /// For who uses it.
    pub(crate) handle: Rc<BackendHandle>,
}

/// A view that could be switched to, and what that changes.
#[derive(Debug)]
pub(crate) struct Change {
    /// The view.
    pub(crate) view: Rc<View>,
    /// Backends that the view before names and this one does not.
    pub(crate) unnamed: Vec<BackendCell>,
    /// Backends of services that are new or changed.
    pub(crate) named: Vec<BackendCell>,
    /// Listeners that the view before has and this one has not.
    pub(crate) closing: HashMap<ListenerCell, Rc<Listener>>,
    /// Services that are new or changed.
    pub(crate) services: Vec<Rc<Service>>,
    /// Ways in that are new.
    pub(crate) entrances: Vec<Rc<Entrance>>,
}

impl View {
    /// The view before the first.
    pub(crate) fn empty() -> Self {
        Self {
            plan: Arc::new(Plan::empty()),
            keys: CookieKeys::default(),
            services: HashMap::new(),
            listeners: HashMap::new(),
            resetting: Vec::new(),
        }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.plan.generation
    }

    pub(crate) fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    pub(crate) fn listener(&self, cell: ListenerCell) -> Option<&Rc<Listener>> {
        self.listeners.get(&cell)
    }

    /// How many listeners there are.
    pub(crate) fn listeners(&self) -> usize {
        self.listeners.len()
    }

    pub(crate) fn service(&self, name: &str) -> Option<&Rc<Service>> {
        self.services.get(name)
    }

    /// The service `name`, if it still has the cells that it had.
    pub(crate) fn service_of(&self, name: &str, cell: ServiceCell) -> Option<&Rc<Service>> {
        let service = self.service(name);
        service.filter(|service| service.record().cell == cell)
    }

    /// Services whose connections are reset when their backend goes down.
    pub(crate) fn resetting(&self) -> &[Rc<Service>] {
        &self.resetting
    }

    /// Makes the view of `plan`, sharing with `self` what did not change, and lets other tasks run meanwhile. A service whose
    /// cookies have other `keys` than before has changed.
    ///
    /// # Errors
    /// In words, when the plan names cells that the scoreboard does not have, or a key of a cookie is missing.
    pub(crate) async fn change_to(
        &self,
        plan: Arc<Plan>,
        keys: CookieKeys,
        worker: &Worker,
    ) -> Result<Change, String> {
        let mut services = HashMap::with_capacity(plan.services().len());
        let mut listeners = HashMap::with_capacity(plan.services().len());
        let mut named = Vec::new();
        let mut resetting = Vec::new();
        let mut entrances = Vec::new();
        let mut changed = Vec::new();
        for (count, sealed) in plan.services().enumerate() {
            if count % SERVICES_A_TURN == SERVICES_A_TURN - 1 {
                tokio::task::yield_now().await;
            }
            let record = sealed.record();
            let before = self.services.get(record.name());
            let is_unchanged = |before: &&Rc<Service>| {
                Arc::ptr_eq(&before.sealed, sealed)
                    && cookies::has_same_keys(record, &self.keys, &keys)
            };
            let service = match before.filter(is_unchanged) {
                Some(unchanged) => Rc::clone(unchanged),
                None => {
                    check_capacity(record, worker.board.capacities())?;
                    named.extend(&record.backend_cells);
                    let http = http_of(record, before.map(Rc::as_ref))?;
                    let cookies = cookies::signer(record, &keys)?;
                    let service = Rc::new(Service::new(sealed, http, cookies, worker));
                    changed.push(Rc::clone(&service));
                    service
                }
            };
            for listener in record.listeners() {
                let before = self.listeners.get(&listener.cell);
                let unchanged = before.filter(|before| Rc::ptr_eq(&before.service, &service));
                let now = unchanged.cloned().unwrap_or_else(|| {
                    let (row, connections) = (worker.row, &worker.connections);
                    let entrance = Entrance::new(record, listener, row, connections);
                    let entrance = Rc::new(entrance);
                    entrances.push(Rc::clone(&entrance));
                    Rc::new(Listener {
                        service: Rc::clone(&service),
                        entrance,
                    })
                });
                listeners.insert(listener.cell, now);
            }
            if service.policy().on_down == OnDown::Reset {
                resetting.push(Rc::clone(&service));
            }
            services.insert(record.name().clone(), service);
        }
        tokio::task::yield_now().await;

        let is_unchanged = |service: &Rc<Service>| {
            let now = services.get(service.name());
            now.is_some_and(|now| Rc::ptr_eq(now, service))
        };
        let gone_or_changed = self.services.values().filter(|s| !is_unchanged(s));
        let still: std::collections::HashSet<BackendCell> = named.iter().copied().collect();
        let unnamed = gone_or_changed
            .flat_map(|service| &service.sealed.record().backend_cells)
            .filter(|cell| !still.contains(cell))
            .copied()
            .collect();
        let is_closing = |cell: &ListenerCell| !listeners.contains_key(cell);
        let closing = self
            .listeners
            .iter()
            .filter(|(cell, _)| is_closing(cell))
            .map(|(&cell, listener)| (cell, Rc::clone(listener)))
            .collect();
        let view = Self {
            plan,
            keys,
            services,
            listeners,
            resetting,
        };
        Ok(Change {
            view: Rc::new(view),
            unnamed,
            named,
            closing,
            services: changed,
            entrances,
        })
    }
}

impl Service {
    fn new(
        sealed: &Arc<Sealed>,
        http: Option<Rc<Http>>,
        cookies: Option<Rc<CookieSigner>>,
        worker: &Worker,
    ) -> Self {
        let (board, row) = (worker.board, worker.row);
        let record = sealed.record();
        let scale = record.weight_scale();
        let has_limit = |spec: &evenkeel_plan::BackendSpec| {
            let check = spec.check.as_ref();
            // An agent may say `maxconn:N` at any time.
            let has_agent = check.is_some_and(|c| matches!(c.kind, CheckKind::Agent { .. }));
            spec.max_connections.is_some() || has_agent
        };
        let queue = record.spec.backends.iter().any(has_limit);
        let queue = queue.then(|| worker.queues.of(record.cell, row.service(record.cell)));
        let backend = |backend: evenkeel_plan::BackendRecord<'_>| Backend {
            cells: board.backend(backend.cell),
            endpoints: endpoints_of(backend.endpoints),
            turn: Cell::new(0),
            weight: backend.spec.weight,
            max: backend.spec.max_connections,
            has_limit: has_limit(backend.spec),
            scale,
            is_backup: backend.spec.backup,
            stickiness: source::of_bytes(backend.spec.name.as_str().as_bytes()),
            handle: {
                let identity = record.identity(&backend.spec.name);
                worker
                    .holders
                    .handle(&row, record.cell, backend.cell, identity)
            },
        };
        let backends: Box<[_]> = record.backends().map(backend).collect();
        let policy = &record.spec.policy;
        // The epoch is looked at first: who changes a weight meanwhile raises it afterwards.
        let epoch = board.service(record.cell).epoch();
        let persistence = record
            .spec
            .http
            .as_ref()
            .and_then(|h| h.persistence.as_ref());
        let is_hashed = record.spec.scheduler == Scheduler::SourceHash
            || persistence.is_some_and(|by| !matches!(by, PersistenceSpec::Cookie(_)));
        let table = is_hashed.then(|| (epoch, table_of(&record.spec, &backends)));
        Self {
            row: row.service(record.cell),
            scheduler: board.scheduler(record.cell),
            aside: Cell::new(State::initial(record.list_tag())),
            closes_when_stale: policy.stale == Stale::Closed,
            slow_start_ms: u64::try_from(policy.slow_start.as_millis()).unwrap_or(u64::MAX),
            picks: Cell::new(0),
            summary: Cell::new((epoch, summary_of(&backends))),
            table: RefCell::new(table),
            has_backups: backends.iter().any(|backend| backend.is_backup),
            backends,
            queue,
            http,
            budget: Budget::default(),
            cookies,
            sealed: Arc::clone(sealed),
        }
    }

    /// Of the weights as they are now, for `wrr`.
    pub(crate) fn summary(&self, board: Scoreboard) -> WeightSummary {
        let now = board.service(self.record().cell).epoch();
        let (epoch, summary) = self.summary.get();
        if epoch == now {
            return summary;
        }
        let summary = summary_of(&self.backends);
        self.summary.set((now, summary));
        summary
    }

    /// Who gets which source address, for `source-hash`. The same in every worker, and on every balancer that has backends of
    /// the same names and weights, in whatever order.
    pub(crate) fn table(&self, board: Scoreboard) -> Rc<maglev::Table> {
        let now = board.service(self.record().cell).epoch();
        if let Some((epoch, table)) = &*self.table.borrow()
            && *epoch == now
        {
            return Rc::clone(table);
        }
        let table = table_of(self.spec(), &self.backends);
        self.table.replace(Some((now, Rc::clone(&table))));
        table
    }

    /// Its plan is in force: who waits for its backends hears of their connections' ends.
    pub(crate) fn attach_queue(&self) {
        for backend in &self.backends {
            let queue = self.queue.as_ref().filter(|_| backend.has_limit);
            backend.handle.set_queue(queue);
        }
    }

    pub(crate) fn spec(&self) -> &ServiceSpec {
        &self.record().spec
    }

    pub(crate) fn policy(&self) -> &PolicySpec {
        &self.record().spec.policy
    }

    pub(crate) fn record(&self) -> &ServiceRecord {
        self.sealed.record()
    }

    pub(crate) fn name(&self) -> &str {
        self.record().name().as_str()
    }
}

impl Backend {
    /// The weight now, times the service's scale: an operator's word comes before the plan's, and the backend's own agent may
    /// ask for a share of either.
    pub(crate) fn weight(&self) -> u32 {
        let weight = u32::from(self.cells.admin().weight.unwrap_or(self.weight));
        match self.cells.agent_percent() {
            // The scale is 100 where there are agents.
            Some(percent) if self.scale > 1 => (weight * u32::from(percent)).min(WEIGHT_MAX),
            _ => weight * self.scale,
        }
    }

    /// The most connections that it may have now: the plan's, or fewer where its agent says so.
    pub(crate) fn limit(&self) -> Option<u32> {
        if !self.has_limit {
            return None;
        }
        match (self.max, self.cells.agent_limit()) {
            (Some(plan), Some(agent)) => Some(plan.min(agent)),
            (plan, agent) => plan.or(agent),
        }
    }

    /// Whether it has as many connections as it may have. Another worker may fill it right after.
    pub(crate) fn is_full(&self, board: Scoreboard) -> bool {
        let active = || board.sum_backend(self.handle.cell(), BackendCount::Active);
        self.limit()
            .is_some_and(|limit| active() >= u64::from(limit))
    }

    /// With which endpoint a pick begins; another one each time.
    pub(crate) fn next_turn(&self) -> usize {
        match self.endpoints.len() {
            0 | 1 => 0,
            count => self.turn.replace((self.turn.get() + 1) % count),
        }
    }
}

/// Compiles what `record` says of HTTP, or shares what is compiled already.
fn http_of(record: &ServiceRecord, before: Option<&Service>) -> Result<Option<Rc<Http>>, String> {
    let Some(spec) = &record.spec.http else {
        return Ok(None);
    };
    let known = before.and_then(|before| before.http.as_ref());
    if let Some(known) = known.filter(|known| known.spec() == spec) {
        return Ok(Some(Rc::clone(known)));
    }
    match Http::new(spec) {
        Ok(http) => Ok(Some(Rc::new(http))),
        Err(error) => Err(format!("service `{}`: {error}", record.name())),
    }
}

fn endpoints_of(endpoints: &[SocketAddr]) -> Box<[SocketAddr]> {
    endpoints.iter().take(ENDPOINTS_MAX).copied().collect()
}

/// A backend is known by its name: an address may change.
fn table_of(spec: &ServiceSpec, backends: &[Backend]) -> Rc<maglev::Table> {
    let names = spec.backends.iter().map(|backend| &backend.name);
    let members: Vec<_> = names
        .zip(backends)
        .map(|(name, backend)| (source::of_bytes(name.as_str().as_bytes()), backend.weight()))
        .collect();
    let size = maglev::Size::of(members.len());
    Rc::new(maglev::Table::build(&members, size))
}

fn summary_of(backends: &[Backend]) -> WeightSummary {
    WeightSummary::of(backends.iter().map(Backend::weight))
}

/// A plan that does not fit is refused; using its cells would end the process.
fn check_capacity(record: &ServiceRecord, capacities: Capacities) -> Result<(), String> {
    let listener = record.listener_cells.iter().map(|cell| cell.0).max();
    let backend = record.backend_cells.iter().map(|cell| cell.0).max();
    if record.cell.0 < capacities.services
        && listener.is_none_or(|cell| cell < capacities.listeners)
        && backend.is_none_or(|cell| cell < capacities.backends)
    {
        return Ok(());
    }
    Err(format!(
        "service `{}` has cells beyond the scoreboard's capacity",
        record.name()
    ))
}
