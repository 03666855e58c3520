//! A worker's view of one generation: what a pick needs, with its cells looked up once.
//!
//! A view is made beside the traffic: services that did not change are shared with the view before.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use evenkeel_balance::{State, WeightSummary};
use evenkeel_plan::{
    BackendCell, ENDPOINTS_MAX, ListenerCell, OnDown, Plan, PolicySpec, Sealed, ServiceName,
    ServiceRecord, Stale,
};
use evenkeel_scoreboard::{
    BackendCells, Capacities, ListenerRow, Row, SchedulerCell, Scoreboard, ServiceRow,
};

use crate::handle::{BackendHandle, Holders};

/// Services that are looked at before other tasks get their turn.
const SERVICES_A_TURN: usize = 64;

/// Highest weight that a scheduler's state has room for. Only an agent that asks for a multiple gets there.
const WEIGHT_MAX: u32 = State::POSITION_MAX;

/// One generation.
#[derive(Debug)]
pub(crate) struct View {
    plan: Arc<Plan>,
    services: HashMap<ServiceName, Rc<Service>>,
    listeners: HashMap<ListenerCell, Listener>,
    /// Services whose connections are reset when their backend goes down.
    resetting: Vec<Rc<Service>>,
}

/// Where a listener's connections go.
#[derive(Clone, Debug)]
pub(crate) struct Listener {
    /// The service.
    pub(crate) service: Rc<Service>,
    /// Its cells in this worker's row.
    pub(crate) row: ListenerRow,
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
    /// Of the weights, for `wrr`, and of which epoch.
    summary: Cell<(u64, WeightSummary)>,
    /// In file order.
    pub(crate) backends: Box<[Backend]>,
    /// Whether any of them is a backup.
    pub(crate) has_backups: bool,
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
    /// See [`ServiceRecord::weight_scale`].
    scale: u32,
    /// Whether it is used only while no other can be.
    pub(crate) is_backup: bool,
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
    pub(crate) closing: HashMap<ListenerCell, Listener>,
}

impl View {
    /// The view before the first.
    pub(crate) fn empty() -> Self {
        Self {
            plan: Arc::new(Plan::empty()),
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

    pub(crate) fn listener(&self, cell: ListenerCell) -> Option<&Listener> {
        self.listeners.get(&cell)
    }

    pub(crate) fn service(&self, name: &str) -> Option<&Rc<Service>> {
        self.services.get(name)
    }

    /// Services whose connections are reset when their backend goes down.
    pub(crate) fn resetting(&self) -> &[Rc<Service>] {
        &self.resetting
    }

    /// Makes the view of `plan`, sharing with `self` what did not change, and lets other tasks run meanwhile.
    ///
    /// # Errors
    /// In words, when the plan names cells that the scoreboard does not have.
    pub(crate) async fn change_to(
        &self,
        plan: Arc<Plan>,
        board: Scoreboard,
        row: Row,
        holders: &Rc<Holders>,
    ) -> Result<Change, String> {
        let mut services = HashMap::with_capacity(plan.services().len());
        let mut listeners = HashMap::with_capacity(plan.services().len());
        let mut named = Vec::new();
        let mut resetting = Vec::new();
        for (count, sealed) in plan.services().enumerate() {
            if count % SERVICES_A_TURN == SERVICES_A_TURN - 1 {
                tokio::task::yield_now().await;
            }
            let record = sealed.record();
            let before = self.services.get(record.name());
            let service = match before.filter(|before| Arc::ptr_eq(&before.sealed, sealed)) {
                Some(unchanged) => Rc::clone(unchanged),
                None => {
                    check_capacity(record, board.capacities())?;
                    named.extend(&record.backend_cells);
                    Rc::new(Service::new(sealed, board, row, holders))
                }
            };
            for &cell in &record.listener_cells {
                let listener = Listener {
                    service: Rc::clone(&service),
                    row: row.listener(cell),
                };
                listeners.insert(cell, listener);
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
            .map(|(&cell, listener)| (cell, listener.clone()))
            .collect();
        let view = Self {
            plan,
            services,
            listeners,
            resetting,
        };
        Ok(Change {
            view: Rc::new(view),
            unnamed,
            named,
            closing,
        })
    }
}

impl Service {
    fn new(sealed: &Arc<Sealed>, board: Scoreboard, row: Row, holders: &Rc<Holders>) -> Self {
        let record = sealed.record();
        let scale = record.weight_scale();
        let backend = |backend: evenkeel_plan::BackendRecord<'_>| Backend {
            cells: board.backend(backend.cell),
            endpoints: endpoints_of(backend.endpoints),
            turn: Cell::new(0),
            weight: backend.spec.weight,
            scale,
            is_backup: backend.spec.backup,
            handle: holders.handle(&row, backend.cell, record.identity(&backend.spec.name)),
        };
        let backends: Box<[_]> = record.backends().map(backend).collect();
        let policy = &record.spec.policy;
        Self {
            row: row.service(record.cell),
            scheduler: board.scheduler(record.cell),
            aside: Cell::new(State::initial(record.list_tag())),
            closes_when_stale: policy.stale == Stale::Closed,
            slow_start_ms: u64::try_from(policy.slow_start.as_millis()).unwrap_or(u64::MAX),
            picks: Cell::new(0),
            // The epoch is looked at first: who changes a weight meanwhile raises it afterwards.
            summary: Cell::new((board.service(record.cell).epoch(), summary_of(&backends))),
            has_backups: backends.iter().any(|backend| backend.is_backup),
            backends,
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

    /// With which endpoint a pick begins; another one each time.
    pub(crate) fn next_turn(&self) -> usize {
        match self.endpoints.len() {
            0 | 1 => 0,
            count => self.turn.replace((self.turn.get() + 1) % count),
        }
    }
}

fn endpoints_of(endpoints: &[SocketAddr]) -> Box<[SocketAddr]> {
    endpoints.iter().take(ENDPOINTS_MAX).copied().collect()
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
