//! Plans as the monitor sees them: backends with their checks.

use std::collections::HashSet;
use std::os::fd::OwnedFd;

use evenkeel_plan::{BackendCell, CheckSpec, Delta, Plan};
use evenkeel_scoreboard::Capacities;

/// A backend of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backend {
    pub(crate) cell: BackendCell,
    /// `service/backend`.
    pub(crate) identity: String,
    pub(crate) check: Option<CheckSpec>,
}

/// Reads the delta behind `blob` and applies it to `base`. For a thread of its own: a whole plan of ten thousand services
/// takes a while.
///
/// # Errors
/// Why not, in words for the operator.
pub(crate) fn decode(blob: OwnedFd, base: &Plan, capacities: Capacities) -> Result<Plan, String> {
    let bytes = evenkeel_sys::blob::read(blob).map_err(|error| words(&error))?;
    let delta = Delta::decode(&bytes).map_err(|error| words(&error))?;
    let plan = base.apply(delta).map_err(|error| words(&error))?;
    if fits(&plan, capacities) {
        Ok(plan)
    } else {
        Err("the plan names cells beyond the scoreboard's capacity".to_owned())
    }
}

fn words(error: &dyn std::error::Error) -> String {
    crate::chain(error)
}

fn fits(plan: &Plan, capacities: Capacities) -> bool {
    plan.services().all(|sealed| {
        let record = sealed.record();
        record.cell.0 < capacities.services
            && record.listeners().all(|l| l.cell.0 < capacities.listeners)
            && record.backends().all(|b| b.cell.0 < capacities.backends)
    })
}

/// Every backend of `plan`.
pub(crate) fn backends(plan: &Plan) -> impl Iterator<Item = Backend> + '_ {
    plan.services().flat_map(|sealed| {
        let record = sealed.record();
        record.backends().map(|backend| Backend {
            cell: backend.cell,
            identity: record.identity(&backend.spec.name),
            check: backend.spec.check,
        })
    })
}

/// Backends of `next` that `current` does not have.
pub(crate) fn new_backends(current: &Plan, next: &Plan) -> Vec<Backend> {
    let known: HashSet<_> = backends(current)
        .map(|backend| (backend.cell, backend.identity))
        .collect();
    backends(next)
        .filter(|backend| !known.contains(&(backend.cell, backend.identity.clone())))
        .collect()
}
