//! From a configuration to a plan: every service, listener and backend gets its cell.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use evenkeel_balance::{State, WeightSummary};
use evenkeel_plan::{
    Address, BackendSpec, ENDPOINTS_MAX, Plan, Require, Scheduler, Sealed, ServiceRecord,
    ServiceSpec, Spec,
};
use evenkeel_scoreboard::{Gate, GateState, Scoreboard};
use evenkeel_sys::clock::monotonic_ms;

use crate::cells::{CellTable, Fresh, Full};

/// What names last stood for.
pub type Names = BTreeMap<Address, Vec<SocketAddr>>;

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

/// Seals `spec` as `generation`. `before` is the plan in force; what did not change keeps its record. A name that is not in
/// `names` has no endpoints yet.
///
/// # Errors
/// [`Full`] when there are not enough cells of a kind.
pub fn seal(
    spec: &Spec,
    generation: u64,
    before: &Plan,
    table: &CellTable,
    names: &Names,
) -> Result<SealedPlan, Full> {
    let mut table = table.clone();
    let mut fresh = Fresh::default();
    table.unname_all(generation);
    let mut records = BTreeMap::new();
    for service in &spec.services {
        let old = before.service(service.name.as_str());
        let record = record(service, generation, old, names, &mut table, &mut fresh)?;
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
    names: &Names,
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
        endpoints: service
            .backends
            .iter()
            .map(|backend| endpoints(&backend.address, names))
            .collect(),
        list_generation: generation,
    };
    if let Some(old) = old.map(|old| old.record())
        && same_list(old, &record)
    {
        record.list_generation = old.list_generation;
    }
    Ok(record)
}

/// Where `address` is, as far as is known.
pub(crate) fn endpoints(address: &Address, names: &Names) -> Vec<SocketAddr> {
    match address {
        Address::Socket(address) => vec![*address],
        Address::Name { .. } | Address::Service { .. } => {
            let known = names.get(address).map_or(&[][..], Vec::as_slice);
            known.iter().take(ENDPOINTS_MAX).copied().collect()
        }
    }
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
        && old.weight_scale() == new.weight_scale()
}

/// Gives the gates of services that `new` names and `old` does not their first state: one that has to be earned is closed
/// until the monitor says that enough backends are healthy. A service without backends has nothing to earn. Called before
/// anybody uses them.
pub(crate) fn seed_gates(board: &Scoreboard, old: &Plan, new: &Plan) {
    let is_fresh = |sealed: &&Arc<Sealed>| old.service(sealed.record().name().as_str()).is_none();
    for sealed in new.services().filter(is_fresh) {
        let record = sealed.record();
        let state = match record.spec.policy.require {
            _ if record.spec.backends.is_empty() => GateState::Open,
            Require::Any => GateState::Open,
            Require::All | Require::Count(_) | Require::Share(_) => GateState::Closed,
        };
        board.service(record.cell).set_gate(Gate {
            state,
            since_ms: monotonic_ms(),
        });
    }
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
                Scheduler::Lc => evenkeel_balance::lc::carry(
                    &identities(before),
                    &identities(record),
                    state,
                    tag,
                ),
                Scheduler::Wlc => evenkeel_balance::wlc::carry(state, summary(record), tag),
                // It has none: the source decides.
                Scheduler::SourceHash => State::initial(tag),
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
    let scale = record.weight_scale();
    WeightSummary::of(backends.map(|backend| u32::from(backend.weight) * scale))
}

#[cfg(test)]
mod tests {
    use evenkeel_plan::{BackendName, Globals, PolicySpec, ServiceName};
    use evenkeel_scoreboard::Capacities;

    use super::*;

    fn name() -> Address {
        Address::Name {
            host: "db.example.org".to_owned(),
            port: 5984,
        }
    }

    fn spec(require: Require) -> Spec {
        let backend =
            |name: &str, address| BackendSpec::at(BackendName::new(name).unwrap(), address);
        let backends = vec![
            backend("a", Address::Socket("10.0.0.1:80".parse().unwrap())),
            backend("b", name()),
        ];
        spec_of(require, backends)
    }

    fn spec_of(require: Require, backends: Vec<BackendSpec>) -> Spec {
        Spec {
            globals: Globals::default(),
            services: vec![ServiceSpec {
                policy: PolicySpec {
                    require,
                    ..PolicySpec::default()
                },
                ..ServiceSpec::new(ServiceName::new("db").unwrap(), Vec::new(), backends)
            }],
        }
    }

    #[test]
    fn other_endpoints_make_another_record_and_leave_the_scheduler_alone() {
        let table = CellTable::new(4, 4, 4);
        let spec = spec(Require::Any);
        let first = seal(&spec, 1, &Plan::empty(), &table, &Names::new()).unwrap();
        let record = first.plan.service("db").unwrap().record();
        assert_eq!(record.endpoints[0], ["10.0.0.1:80".parse().unwrap()]);
        assert_eq!(record.endpoints[1], []);
        let same = seal(&spec, 2, &first.plan, &first.table, &Names::new()).unwrap();
        assert_eq!(same.plan.digest(), first.plan.digest());
        let many: Vec<SocketAddr> = (0..20)
            .map(|n| SocketAddr::from(([10, 0, 1, n], 5984)))
            .collect();
        let names = Names::from([(name(), many.clone())]);
        let moved = seal(&spec, 2, &first.plan, &first.table, &names).unwrap();
        let record = moved.plan.service("db").unwrap().record();
        assert_eq!(record.endpoints[1], many[..ENDPOINTS_MAX]);
        assert_eq!(record.list_generation, 1);
        assert_ne!(moved.plan.digest(), first.plan.digest());
    }

    fn board() -> Scoreboard {
        let capacities = Capacities {
            slots: 1,
            services: 4,
            listeners: 4,
            backends: 4,
            sources: 4,
        };
        Scoreboard::create(capacities).unwrap().0
    }

    #[test]
    fn backends_may_all_go_and_come_back() {
        let table = CellTable::new(4, 4, 4);
        for scheduler in [Scheduler::Rr, Scheduler::Wrr, Scheduler::Lc, Scheduler::Wlc] {
            let board = board();
            let seal = |mut spec: Spec, generation, before: &Plan, table: &CellTable| {
                spec.services[0].scheduler = scheduler;
                seal(&spec, generation, before, table, &Names::new()).unwrap()
            };
            let with = seal(spec(Require::Any), 1, &Plan::empty(), &table);
            carry_schedulers(&board, &Plan::empty(), &with.plan);
            let none = spec_of(Require::Any, Vec::new());
            let without = seal(none, 2, &with.plan, &with.table);
            carry_schedulers(&board, &with.plan, &without.plan);
            let record = without.plan.service("db").unwrap().record();
            assert_eq!(record.backends().count(), 0);
            let again = seal(spec(Require::Any), 3, &without.plan, &without.table);
            carry_schedulers(&board, &without.plan, &again.plan);
            let record = again.plan.service("db").unwrap().record();
            let state = State::from_bits(board.scheduler(record.cell).load());
            // As of a list that was never picked from.
            assert_eq!(state.tag, record.list_tag(), "{scheduler:?}");
            assert_eq!(state.position, 0, "{scheduler:?}");
        }
    }

    #[test]
    fn without_backends_there_is_nothing_to_earn() {
        let board = board();
        let spec = spec_of(Require::All, Vec::new());
        let table = CellTable::new(4, 4, 4);
        let sealed = seal(&spec, 1, &Plan::empty(), &table, &Names::new()).unwrap();
        seed_gates(&board, &Plan::empty(), &sealed.plan);
        let cells = board.service(sealed.plan.service("db").unwrap().record().cell);
        assert_eq!(cells.gate().state, GateState::Open);
    }

    #[test]
    fn a_gate_that_has_to_be_earned_begins_closed_and_one_in_use_is_left_alone() {
        for (require, expected) in [
            (Require::Any, GateState::Open),
            (Require::All, GateState::Closed),
            (Require::Count(1), GateState::Closed),
            (Require::Share(50), GateState::Closed),
        ] {
            let board = board();
            let table = CellTable::new(4, 4, 4);
            let sealed = seal(&spec(require), 1, &Plan::empty(), &table, &Names::new()).unwrap();
            seed_gates(&board, &Plan::empty(), &sealed.plan);
            let cells = board.service(sealed.plan.service("db").unwrap().record().cell);
            assert_eq!(cells.gate().state, expected);
            let open = Gate {
                state: GateState::Open,
                since_ms: 1,
            };
            cells.set_gate(open);
            seed_gates(&board, &sealed.plan, &sealed.plan);
            assert_eq!(cells.gate(), open);
        }
    }
}
