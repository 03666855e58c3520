//! Which identity has which cell of the scoreboard, and when a cell may be used again.
//!
//! A cell that no plan names any more is still held by the connections that were given to its backend. Each worker says
//! which cells it still holds when it switches, and which it lets go of later; a cell is free when every worker that runs has
//! switched to a plan without it and holds it no more. A free cell remembers its identity, so that a backend that comes back
//! finds its totals again, as in IPVS; the longest free is given away first.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use evenkeel_plan::{BackendCell, ListenerCell, ServiceCell};

use crate::life::Who;

/// There are not enough cells of a kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "more than {capacity} {kind} (those that still have connections count); `limits.{kind}` can only change with a restart"
)]
pub struct Full {
    /// `services`, `listeners` or `backends`.
    pub kind: &'static str,
    /// How many there are.
    pub capacity: u32,
}

/// Cells that were given to a new identity and must be zeroed before a plan names them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fresh {
    /// Services.
    pub services: Vec<ServiceCell>,
    /// Listeners.
    pub listeners: Vec<ListenerCell>,
    /// Backends.
    pub backends: Vec<BackendCell>,
}

/// All cells. Clone it, assign in the clone, and keep the clone when the plan is switched to.
#[derive(Clone, Debug)]
pub struct CellTable {
    services: Pool,
    listeners: Pool,
    backends: Pool,
    /// Service of each backend cell: a service's cell is held by the connections of its backends.
    service_of: HashMap<u32, u32>,
}

/// What each running worker holds.
#[derive(Clone, Debug, Default)]
pub struct Holders {
    workers: BTreeMap<Who, Holder>,
}

#[derive(Clone, Debug, Default)]
struct Holder {
    at: u64,
    lingering: HashSet<u32>,
}

impl CellTable {
    /// An empty table.
    #[must_use]
    pub fn new(services: u32, listeners: u32, backends: u32) -> Self {
        Self {
            services: Pool::new("services", services),
            listeners: Pool::new("listeners", listeners),
            backends: Pool::new("backends", backends),
            service_of: HashMap::new(),
        }
    }

    /// The cell of a service.
    ///
    /// # Errors
    /// [`Full`].
    pub fn service(&mut self, name: &str, fresh: &mut Fresh) -> Result<ServiceCell, Full> {
        let (cell, is_fresh) = self.services.assign(name)?;
        if is_fresh {
            fresh.services.push(ServiceCell(cell));
        }
        Ok(ServiceCell(cell))
    }

    /// The cell of a listener.
    ///
    /// # Errors
    /// [`Full`].
    pub fn listener(&mut self, identity: &str, fresh: &mut Fresh) -> Result<ListenerCell, Full> {
        let (cell, is_fresh) = self.listeners.assign(identity)?;
        if is_fresh {
            fresh.listeners.push(ListenerCell(cell));
        }
        Ok(ListenerCell(cell))
    }

    /// The cell of a backend, called `service/backend`.
    ///
    /// # Errors
    /// [`Full`].
    pub fn backend(
        &mut self,
        identity: &str,
        service: ServiceCell,
        fresh: &mut Fresh,
    ) -> Result<BackendCell, Full> {
        let (cell, is_fresh) = self.backends.assign(identity)?;
        if is_fresh {
            fresh.backends.push(BackendCell(cell));
        }
        self.service_of.insert(cell, service.0);
        Ok(BackendCell(cell))
    }

    /// Everything that was assigned before `unname_all` and not again since is gone as of `generation`. Call the pair around
    /// the assignments of a new plan.
    pub fn unname_all(&mut self, generation: u64) {
        self.services.unname_all(generation);
        self.listeners.unname_all(generation);
        self.backends.unname_all(generation);
    }

    /// Frees what no running worker holds any more; the backends that became free. A listener's cell also waits until
    /// `is_idle`: connections that came in by it count there until they end, whatever backend they have.
    pub fn free(
        &mut self,
        holders: &Holders,
        is_idle: impl Fn(ListenerCell) -> bool,
    ) -> Vec<BackendCell> {
        let freed = self
            .backends
            .free(|cell, gone_at| !holders.hold(cell, gone_at));
        let in_use: HashSet<u32> = self
            .backends
            .unfreed()
            .filter_map(|cell| self.service_of.get(&cell).copied())
            .collect();
        self.services
            .free(|cell, gone_at| holders.all_at(gone_at) && !in_use.contains(&cell));
        self.listeners
            .free(|cell, gone_at| holders.all_at(gone_at) && is_idle(ListenerCell(cell)));
        freed.into_iter().map(BackendCell).collect()
    }

    /// Every service cell in use: named, or gone and still held.
    pub fn service_cells(&self) -> impl Iterator<Item = ServiceCell> {
        self.services.unfreed().map(ServiceCell)
    }

    /// Every listener cell in use: named, or gone and still held.
    pub fn listener_cells(&self) -> impl Iterator<Item = ListenerCell> {
        self.listeners.unfreed().map(ListenerCell)
    }

    /// Every backend cell in use: named, or gone and still held.
    pub fn backend_cells(&self) -> impl Iterator<Item = BackendCell> {
        self.backends.unfreed().map(BackendCell)
    }
}

impl Holders {
    /// A worker was started: it has no plan yet.
    pub fn started(&mut self, who: Who) {
        self.workers.insert(who, Holder::default());
    }

    /// A worker has ended and holds nothing.
    pub fn ended(&mut self, who: Who) {
        self.workers.remove(&who);
    }

    /// A worker says which gone cells it still holds as it switches.
    pub fn lingering(&mut self, who: Who, cells: &[BackendCell]) {
        if let Some(holder) = self.workers.get_mut(&who) {
            holder.lingering.extend(cells.iter().map(|cell| cell.0));
        }
    }

    /// A worker has switched to `generation`.
    pub fn applied(&mut self, who: Who, generation: u64) {
        if let Some(holder) = self.workers.get_mut(&who) {
            holder.at = generation;
        }
    }

    /// A worker has let go of cells.
    pub fn released(&mut self, who: Who, cells: &[BackendCell]) {
        if let Some(holder) = self.workers.get_mut(&who) {
            for cell in cells {
                holder.lingering.remove(&cell.0);
            }
        }
    }

    fn all_at(&self, generation: u64) -> bool {
        self.workers.values().all(|holder| holder.at >= generation)
    }

    fn hold(&self, cell: u32, gone_at: u64) -> bool {
        self.workers
            .values()
            .any(|holder| holder.at < gone_at || holder.lingering.contains(&cell))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Named,
    /// Not named by the plan of this generation and later ones; may still be held.
    Gone(u64),
    Free,
}

#[derive(Clone, Debug)]
struct Pool {
    kind: &'static str,
    capacity: u32,
    identities: Vec<String>,
    uses: Vec<Use>,
    by_identity: HashMap<String, u32>,
    free: VecDeque<u32>,
}

impl Pool {
    fn new(kind: &'static str, capacity: u32) -> Self {
        Self {
            kind,
            capacity,
            identities: Vec::new(),
            uses: Vec::new(),
            by_identity: HashMap::new(),
            free: VecDeque::new(),
        }
    }

    /// The cell of `identity`, and whether it is new to it.
    fn assign(&mut self, identity: &str) -> Result<(u32, bool), Full> {
        if let Some(&cell) = self.by_identity.get(identity) {
            let state = &mut self.uses[cell as usize];
            if *state == Use::Free {
                self.free.retain(|&free| free != cell);
            }
            *state = Use::Named;
            return Ok((cell, false));
        }
        let next = u32::try_from(self.uses.len()).unwrap_or(u32::MAX);
        let cell = if next < self.capacity {
            self.identities.push(String::new());
            self.uses.push(Use::Named);
            next
        } else {
            let full = Full {
                kind: self.kind,
                capacity: self.capacity,
            };
            self.free.pop_front().ok_or(full)?
        };
        let before = std::mem::replace(&mut self.identities[cell as usize], identity.to_owned());
        self.by_identity.remove(&before);
        self.by_identity.insert(identity.to_owned(), cell);
        self.uses[cell as usize] = Use::Named;
        Ok((cell, true))
    }

    fn unname_all(&mut self, generation: u64) {
        for state in &mut self.uses {
            if *state == Use::Named {
                *state = Use::Gone(generation);
            }
        }
    }

    fn free(&mut self, may: impl Fn(u32, u64) -> bool) -> Vec<u32> {
        let mut freed = Vec::new();
        for (index, state) in self.uses.iter_mut().enumerate() {
            let cell = u32::try_from(index).unwrap_or(u32::MAX);
            if let Use::Gone(at) = *state
                && may(cell, at)
            {
                *state = Use::Free;
                self.free.push_back(cell);
                freed.push(cell);
            }
        }
        freed
    }

    fn unfreed(&self) -> impl Iterator<Item = u32> {
        self.uses
            .iter()
            .enumerate()
            .filter(|(_, state)| **state != Use::Free)
            .map(|(index, _)| u32::try_from(index).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_plan::SlotIdx;

    use super::*;

    const W0: Who = Who::Worker(SlotIdx(0));
    const W1: Who = Who::Worker(SlotIdx(1));

    fn plan(table: &mut CellTable, generation: u64, backends: &[&str]) -> (Vec<u32>, Fresh) {
        let mut fresh = Fresh::default();
        table.unname_all(generation);
        let service = table.service("s", &mut fresh).unwrap();
        let cells = backends
            .iter()
            .map(|name| table.backend(name, service, &mut fresh).unwrap().0)
            .collect();
        (cells, fresh)
    }

    #[test]
    fn a_cell_is_used_again_only_when_every_worker_has_let_go() {
        let mut table = CellTable::new(4, 4, 2);
        let mut holders = Holders::default();
        holders.started(W0);
        holders.started(W1);
        assert_eq!(plan(&mut table, 1, &["a", "b"]).0, [0, 1]);
        holders.applied(W0, 1);
        holders.applied(W1, 1);
        plan(&mut table, 2, &["a"]);
        assert_eq!(table.free(&holders, |_| true), []);
        holders.applied(W0, 2);
        holders.lingering(W1, &[BackendCell(1)]);
        holders.applied(W1, 2);
        assert_eq!(table.free(&holders, |_| true), []);
        let full = table.backend("c", ServiceCell(0), &mut Fresh::default());
        assert!(full.unwrap_err().to_string().contains("limits.backends"));
        holders.released(W1, &[BackendCell(1)]);
        assert_eq!(table.free(&holders, |_| true), [BackendCell(1)]);
        let (cells, fresh) = plan(&mut table, 3, &["a", "c"]);
        assert_eq!(cells, [0, 1]);
        assert_eq!(fresh.backends, [BackendCell(1)]);
    }

    #[test]
    fn a_backend_that_comes_back_finds_its_cell_and_its_totals() {
        let mut table = CellTable::new(4, 4, 4);
        let holders = Holders::default();
        assert_eq!(plan(&mut table, 1, &["a", "b"]).0, [0, 1]);
        plan(&mut table, 2, &["a"]);
        table.free(&holders, |_| true);
        let (cells, fresh) = plan(&mut table, 3, &["b", "a"]);
        assert_eq!(cells, [1, 0]);
        assert_eq!(fresh, Fresh::default());
    }

    #[test]
    fn a_dead_worker_holds_nothing_and_one_that_has_no_plan_yet_waits() {
        let mut table = CellTable::new(4, 4, 4);
        let mut holders = Holders::default();
        holders.started(W0);
        plan(&mut table, 1, &["a", "b"]);
        plan(&mut table, 2, &["a"]);
        assert_eq!(table.free(&holders, |_| true), []);
        holders.ended(W0);
        assert_eq!(table.free(&holders, |_| true), [BackendCell(1)]);
    }

    #[test]
    fn a_services_cell_stays_while_a_connection_of_any_of_its_backends_runs() {
        let mut table = CellTable::new(1, 4, 4);
        let mut holders = Holders::default();
        holders.started(W0);
        plan(&mut table, 1, &["a"]);
        holders.applied(W0, 1);
        table.unname_all(2);
        holders.lingering(W0, &[BackendCell(0)]);
        holders.applied(W0, 2);
        table.free(&holders, |_| true);
        assert!(
            table
                .clone()
                .service("other", &mut Fresh::default())
                .is_err()
        );
        holders.released(W0, &[BackendCell(0)]);
        table.free(&holders, |_| true);
        assert_eq!(
            table.service("other", &mut Fresh::default()),
            Ok(ServiceCell(0))
        );
    }

    #[test]
    fn a_listeners_cell_stays_while_connections_that_came_in_by_it_run() {
        let mut table = CellTable::new(2, 1, 2);
        let mut holders = Holders::default();
        holders.started(W0);
        let mut fresh = Fresh::default();
        let first = table.listener("10.0.0.1:80", &mut fresh);
        assert_eq!(first, Ok(ListenerCell(0)));
        holders.applied(W0, 1);
        table.unname_all(2);
        holders.applied(W0, 2);
        table.free(&holders, |_| false);
        assert!(table.clone().listener("10.0.0.1:81", &mut fresh).is_err());
        table.free(&holders, |cell| cell == ListenerCell(0));
        assert_eq!(table.listener("10.0.0.1:81", &mut fresh), first);
    }
}
