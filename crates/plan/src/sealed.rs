//! The sealed plan: a spec whose listeners, services and backends have their scoreboard cells.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::delta::Delta;
use crate::name::{BackendName, ServiceName};
use crate::spec::{BackendSpec, CheckKind, Globals, ListenerSpec, ServiceSpec};

macro_rules! index {
    ($(#[$doc:meta])* $type:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        pub struct $type(pub $inner);

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

index! {
    /// Position 0..N of a worker; owns one listening socket a listener and outlives its workers.
    SlotIdx(u16)
}
index! {
    /// A service's place in the scoreboard, 0..capacity. Kept while the service's name is in the plan.
    ServiceCell(u32)
}
index! {
    /// A listener address's place in the scoreboard, and its identity in descriptor hand-overs, 0..capacity.
    ListenerCell(u32)
}
index! {
    /// A backend's (`service/backend`) place in the scoreboard, 0..capacity. Used again only after every worker
    /// has let go of it.
    BackendCell(u32)
}

/// SHA-256 of a record's or a plan's content.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..8].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// A service with its cells: all that a worker or the monitor needs to know of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRecord {
    /// What the configuration says of it. `listeners` and `backends` run parallel to the cells below.
    pub spec: ServiceSpec,
    /// The service's cell.
    pub cell: ServiceCell,
    /// One a listener.
    pub listener_cells: Vec<ListenerCell>,
    /// One a backend.
    pub backend_cells: Vec<BackendCell>,
    /// Addresses of each backend as last resolved, at most [`crate::ENDPOINTS_MAX`] each; none = not resolved yet.
    pub endpoints: Vec<Vec<SocketAddr>>,
    /// Generation in which the list of backends, a weight or the scheduler last changed. Its low 16 bits tag the
    /// scheduler's state, so that a worker still on the plan before never misreads a position.
    pub list_generation: u64,
}

/// A backend with its cell, as [`ServiceRecord::backends`] yields it.
#[derive(Clone, Copy, Debug)]
pub struct BackendRecord<'a> {
    /// What the configuration says of it.
    pub spec: &'a BackendSpec,
    /// Its cell.
    pub cell: BackendCell,
    /// Its addresses as last resolved; none = not resolved yet.
    pub endpoints: &'a [SocketAddr],
}

/// A listener with its cell, as [`ServiceRecord::listeners`] yields it.
#[derive(Clone, Copy, Debug)]
pub struct ListenerRecord<'a> {
    /// What the configuration says of it.
    pub spec: &'a ListenerSpec,
    /// Its cell.
    pub cell: ListenerCell,
}

impl ServiceRecord {
    /// The service's name.
    #[must_use]
    pub fn name(&self) -> &ServiceName {
        &self.spec.name
    }

    /// Tag of the scheduler's state under this record.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the tag is the low 16 bits by definition"
    )]
    pub fn list_tag(&self) -> u16 {
        self.list_generation as u16
    }

    /// Backends in file order, with their cells.
    pub fn backends(&self) -> impl ExactSizeIterator<Item = BackendRecord<'_>> {
        let placed = self.backend_cells.iter().zip(&self.endpoints);
        let specs = self.spec.backends.iter();
        specs
            .zip(placed)
            .map(|(spec, (&cell, endpoints))| BackendRecord {
                spec,
                cell,
                endpoints,
            })
    }

    /// Listeners with their cells.
    pub fn listeners(&self) -> impl ExactSizeIterator<Item = ListenerRecord<'_>> {
        let cells = self.listener_cells.iter();
        let specs = self.spec.listeners.iter();
        specs
            .zip(cells)
            .map(|(spec, &cell)| ListenerRecord { spec, cell })
    }

    /// What weights are multiplied by for the scheduler: 100 where a backend's agent may ask for a share of its weight in
    /// percent, so that half of 1 is a weight too; else 1.
    #[must_use]
    pub fn weight_scale(&self) -> u32 {
        let mut checks = self.spec.backends.iter().flat_map(|backend| &backend.check);
        let has_agent = checks.any(|check| matches!(check.kind, CheckKind::Agent { .. }));
        if has_agent { 100 } else { 1 }
    }

    /// Whether there is exactly one cell for each listener and each backend, and one list of endpoints for each backend. One
    /// that was received may lack some.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.spec.listeners.len() == self.listener_cells.len()
            && self.spec.backends.len() == self.backend_cells.len()
            && self.spec.backends.len() == self.endpoints.len()
    }

    /// The backend's full identity, `service/backend`.
    #[must_use]
    pub fn identity(&self, backend: &BackendName) -> String {
        format!("{}/{backend}", self.spec.name)
    }
}

/// A record with the digest of its wire form; made once, then shared by every generation it stays in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    record: ServiceRecord,
    digest: Digest,
}

impl Sealed {
    /// Seals `record`.
    ///
    /// # Panics
    /// When `record` has not exactly one cell for each listener and each backend, and one list of endpoints for each backend: a bug in who assigned them.
    #[must_use]
    pub fn new(record: ServiceRecord) -> Self {
        assert!(record.is_whole(), "cells and endpoints run parallel");
        let digest = digest_of(&record);
        Self { record, digest }
    }

    /// The record.
    #[must_use]
    pub fn record(&self) -> &ServiceRecord {
        &self.record
    }

    /// Digest of the record.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

/// All services at one generation. Cheap to clone: records are shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Rises by at least one with every reload that was switched to; 0 = the empty plan before the first.
    pub generation: u64,
    /// Settings of the daemon itself.
    pub globals: Arc<Globals>,
    services: BTreeMap<ServiceName, Arc<Sealed>>,
}

impl Plan {
    /// The plan before the first: generation 0, no services.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            generation: 0,
            globals: Arc::new(Globals::default()),
            services: BTreeMap::new(),
        }
    }

    /// A plan of `records` at `generation`.
    #[must_use]
    pub fn new(
        generation: u64,
        globals: Globals,
        records: impl IntoIterator<Item = Arc<Sealed>>,
    ) -> Self {
        let services = records
            .into_iter()
            .map(|sealed| (sealed.record.spec.name.clone(), sealed))
            .collect();
        Self {
            generation,
            globals: Arc::new(globals),
            services,
        }
    }

    /// Services in the order of their names.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Arc<Sealed>> {
        self.services.values()
    }

    /// The service called `name`.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&Arc<Sealed>> {
        self.services.get(name)
    }

    /// Digest of the plan's content: its globals and the digests of its records. The generation does not enter, so
    /// that two plans that say the same have the same digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut hash = Sha256::new();
        hash.update(digest_of(&*self.globals).0);
        for sealed in self.services.values() {
            hash.update(sealed.digest.0);
        }
        Digest(hash.finalize().into())
    }

    /// Every listener address, with its service.
    pub fn listeners(&self) -> impl Iterator<Item = (ListenerRecord<'_>, &Arc<Sealed>)> {
        self.services
            .values()
            .flat_map(|sealed| sealed.record.listeners().map(move |l| (l, sealed)))
    }

    /// What has to be sent to whoever has `old` so that it has `self`.
    #[must_use]
    pub fn delta_from(&self, old: &Self) -> Delta {
        let changed = |sealed: &&Arc<Sealed>| {
            old.services
                .get(&sealed.record.spec.name)
                .is_none_or(|before| before.digest != sealed.digest)
        };
        Delta {
            from: old.generation,
            to: self.generation,
            globals: (self.globals != old.globals).then(|| (*self.globals).clone()),
            upserts: self
                .services
                .values()
                .filter(changed)
                .map(|sealed| sealed.record.clone())
                .collect(),
            removed: old
                .services
                .keys()
                .filter(|name| !self.services.contains_key(*name))
                .cloned()
                .collect(),
            digest: self.digest(),
        }
    }

    pub(crate) fn services_mut(&mut self) -> &mut BTreeMap<ServiceName, Arc<Sealed>> {
        &mut self.services
    }
}

fn digest_of<T: Serialize>(value: &T) -> Digest {
    let bytes = postcard::to_stdvec(value)
        .unwrap_or_else(|error| unreachable!("plain data encodes: {error}"));
    Digest(Sha256::digest(&bytes).into())
}
