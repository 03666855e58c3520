//! From a configuration to a plan: every service, listener and backend gets its cell.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use evenkeel_balance::{State, WeightSummary};
use evenkeel_plan::{BackendSpec, Plan, Scheduler, Sealed, ServiceRecord, ServiceSpec, Spec};
use evenkeel_scoreboard::Scoreboard;

use crate::cells::{CellTable, Fresh, Full};

/// A plan with the cells that it took.
#[derive(Clone, Debug)]
pub struct SealedPlan {
    /// The plan.
    pub plan: Plan,
    /// The table after the assignments.
    pub table: CellTable,
    /// Cells to be zeroed before anybody uses them.
    pub fresh: Fresh,
}

/// Seals `spec` as `generation`. `before` is the plan in force; what did not change keeps its record.
///
/// # Errors
/// [`Full`] when there are not enough cells of a kind.
pub fn seal(
    spec: &Spec,
    generation: u64,
    before: &Plan,
    table: &CellTable,
) -> Result<SealedPlan, Full> {
    let mut table = table.clone();
    let mut fresh = Fresh::default();
    table.unname_all(generation);
    let mut records = BTreeMap::new();
    for service in &spec.services {
        let old = before.service(service.name.as_str());
        let record = record(service, generation, old, &mut table, &mut fresh)?;
        let unchanged = old.filter(|old| *old.record() == record);
        let sealed = match unchanged {
            Some(old) => Arc::clone(old),
            None => Arc::new(Sealed::new(record)),
        };
        records.insert(service.name.clone(), sealed);
    }
    Ok(SealedPlan {
        plan: Plan::new(generation, spec.globals.clone(), records.into_values()),
        table,
        fresh,
    })
}

fn record(
    service: &ServiceSpec,
    generation: u64,
    old: Option<&Arc<Sealed>>,
    table: &mut CellTable,
    fresh: &mut Fresh,
) -> Result<ServiceRecord, Full> {
    let name = service.name.as_str();
    let cell = table.service(name, fresh)?;
    let mut listener_cells = Vec::with_capacity(service.listeners.len());
    for (index, listener) in service.listeners.iter().enumerate() {
        let identity = listener_identity(name, index, listener.address);
        listener_cells.push(table.listener(&identity, fresh)?);
    }
    let mut backend_cells = Vec::with_capacity(service.backends.len());
    for backend in &service.backends {
        let identity = format!("{name}/{}", backend.name);
        backend_cells.push(table.backend(&identity, cell, fresh)?);
    }
    let mut record = ServiceRecord {
        spec: service.clone(),
        cell,
        listener_cells,
        backend_cells,
        list_generation: generation,
    };
    if let Some(old) = old.map(|old| old.record())
        && same_list(old, &record)
    {
        record.list_generation = old.list_generation;
    }
    Ok(record)
}

/// Two listeners are the same when their addresses are; where the kernel chooses the port, when they have the same place.
#[must_use]
pub fn listener_identity(service: &str, index: usize, address: SocketAddr) -> String {
    if address.port() == 0 {
        format!("{service}#{index} {address}")
    } else {
        address.to_string()
    }
}

fn same_list(old: &ServiceRecord, new: &ServiceRecord) -> bool {
    let weights = |record: &ServiceRecord| -> Vec<u16> {
        let backends = record.spec.backends.iter();
        backends
            .map(|backend: &BackendSpec| backend.weight)
            .collect()
    };
    old.spec.scheduler == new.spec.scheduler
        && old.backend_cells == new.backend_cells
        && weights(old) == weights(new)
}

/// Carries the scheduler states over from `old` to `new`. Called before the generation is stored, so that whoever picks by
/// the new plan finds states of the new plan; whoever still picks by the old one sees by the tag that they are not his.
pub fn carry_schedulers(board: &Scoreboard, old: &Plan, new: &Plan) {
    for sealed in new.services() {
        let record = sealed.record();
        let cell = board.scheduler(record.cell);
        let tag = record.list_tag();
        let before = old.service(record.name().as_str());
        let state = State::from_bits(cell.load());
        let carried = match before.map(|before| before.record()) {
            None => State::initial(tag),
            Some(before) if before.list_generation == record.list_generation => continue,
            Some(before) if before.spec.scheduler != record.spec.scheduler => State::initial(tag),
            Some(before) => match record.spec.scheduler {
                Scheduler::Rr => evenkeel_balance::rr::carry(
                    &identities(before),
                    &identities(record),
                    state,
                    tag,
                ),
                Scheduler::Wrr => evenkeel_balance::wrr::carry(state, summary(record), tag),
            },
        };
        board.set_scheduler(record.cell, carried.to_bits());
    }
}

fn identities(record: &ServiceRecord) -> Vec<u64> {
    let cells = record.backend_cells.iter();
    cells.map(|cell| u64::from(cell.0)).collect()
}

fn summary(record: &ServiceRecord) -> WeightSummary {
    let backends = record.spec.backends.iter();
    WeightSummary::of(backends.map(|backend| u32::from(backend.weight)))
}
