//! Plans as the monitor sees them: backends with their checks.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use evenkeel_control::child::Secrets;
use evenkeel_plan::{Address, BackendCell, CheckSpec, Delta, Plan, ServiceCell};
use evenkeel_scoreboard::Capacities;

/// A backend of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backend {
    pub(crate) cell: BackendCell,
    /// `service/backend`.
    pub(crate) identity: String,
    pub(crate) service: String,
    pub(crate) service_cell: ServiceCell,
    /// Its address or name, as configured.
    pub(crate) host: String,
    /// None = its name is not resolved yet.
    pub(crate) endpoints: Vec<SocketAddr>,
    pub(crate) check: Option<Arc<CheckSpec>>,
}

/// What comes with a generation.
pub(crate) struct Decoded {
    pub(crate) plan: Plan,
    /// Values of its secrets; `None` = those before.
    pub(crate) secrets: Option<Secrets>,
}

/// Reads the delta behind `blob`, applies it to `base`, and reads the secrets. For a thread of its own: a whole plan of ten
/// thousand services takes a while.
///
/// # Errors
/// Why not, in words for the operator.
pub(crate) fn decode(
    blob: OwnedFd,
    secrets: Option<OwnedFd>,
    base: &Plan,
    capacities: Capacities,
) -> Result<Decoded, String> {
    let bytes = evenkeel_sys::blob::read(blob).map_err(|error| words(&error))?;
    let delta = Delta::decode(&bytes).map_err(|error| words(&error))?;
    let plan = base.apply(delta).map_err(|error| words(&error))?;
    if !fits(&plan, capacities) {
        return Err("the plan names cells beyond the scoreboard's capacity".to_owned());
    }
    let secrets = secrets.map(read_secrets).transpose()?;
    Ok(Decoded { plan, secrets })
}

fn read_secrets(blob: OwnedFd) -> Result<Secrets, String> {
    let bytes = evenkeel_sys::blob::read(blob).map_err(|error| words(&error))?;
    // What exactly is wrong with it is not said: nothing of it may get into a log.
    postcard::from_bytes(&bytes).map_err(|_| "its secrets cannot be read".to_owned())
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
            service_cell: record.cell,
            cell: backend.cell,
            identity: record.identity(&backend.spec.name),
            service: record.name().to_string(),
            host: match &backend.spec.address {
                Address::Socket(address) => address.ip().to_string(),
                Address::Name { host, .. } => host.clone(),
                Address::Service { name } => name.clone(),
            },
            endpoints: match backend.spec.address {
                Address::Socket(address) => vec![address],
                Address::Name { .. } | Address::Service { .. } => backend.endpoints.to_vec(),
            },
            check: backend.spec.check.clone(),
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
