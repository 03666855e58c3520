//! What travels: the difference between two plans, with a header that is checked before anything else is read.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::name::ServiceName;
use crate::sealed::{Digest, Plan, Sealed, ServiceRecord};
use crate::spec::Globals;

/// Version of the wire form. Both ends are the same binary except across an upgrade, where a mismatch is refused.
pub const FORMAT_VERSION: u16 = 3;

/// First bytes of every delta.
const MAGIC: [u8; 6] = *b"EKPLAN";

/// Added, changed and removed services between two generations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// Generation that this applies to; 0 = the empty plan.
    pub from: u64,
    /// Generation that results.
    pub to: u64,
    /// New settings of the daemon, where they changed.
    pub globals: Option<Globals>,
    /// Added and changed services, whole.
    pub upserts: Vec<ServiceRecord>,
    /// Services that are gone.
    pub removed: Vec<ServiceName>,
    /// Digest of the plan that results.
    pub digest: Digest,
}

/// Why a delta was refused. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum DeltaError {
    /// The first bytes are not those of a delta.
    #[error("not a plan delta")]
    Magic,
    /// Written by another version of the program.
    #[error("plan format {found}, this program reads {FORMAT_VERSION}")]
    Version {
        /// The version found.
        found: u16,
    },
    /// The content does not decode.
    #[error("decode the plan delta")]
    Decode(#[source] postcard::Error),
    /// It applies to another generation than the one at hand.
    #[error("the delta applies to generation {from}, this process has {at}")]
    From {
        /// Generation that the delta applies to.
        from: u64,
        /// Generation at hand.
        at: u64,
    },
    /// A service in it has not one cell for each of its listeners and backends.
    #[error("service `{service}` is not whole")]
    Parts {
        /// The service.
        service: ServiceName,
    },
    /// The result is not what the sender has.
    #[error("the resulting plan has digest {found}, the sender has {expected}")]
    Digest {
        /// The sender's.
        expected: Digest,
        /// Ours.
        found: Digest,
    },
}

impl Delta {
    /// The wire form: magic, format version, then the delta.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64 + 256 * self.upserts.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        postcard::to_extend(self, bytes)
            .unwrap_or_else(|error| unreachable!("plain data encodes: {error}"))
    }

    /// Reads the wire form.
    ///
    /// # Errors
    /// [`DeltaError::Magic`], [`DeltaError::Version`] or [`DeltaError::Decode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DeltaError> {
        let rest = bytes.strip_prefix(&MAGIC).ok_or(DeltaError::Magic)?;
        let (version, body) = rest.split_first_chunk().ok_or(DeltaError::Magic)?;
        let found = u16::from_le_bytes(*version);
        if found != FORMAT_VERSION {
            return Err(DeltaError::Version { found });
        }
        postcard::from_bytes(body).map_err(DeltaError::Decode)
    }

    /// Whether this delta changes nothing but the generation.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.globals.is_none() && self.upserts.is_empty() && self.removed.is_empty()
    }
}

impl Plan {
    /// The plan that results from `delta`. Records that did not change are shared with `self`.
    ///
    /// # Errors
    /// [`DeltaError::From`] when the delta was made for another generation, [`DeltaError::Parts`] when a service in it lacks
    /// cells, [`DeltaError::Digest`] when the result is not what the sender has.
    pub fn apply(&self, delta: Delta) -> Result<Self, DeltaError> {
        if delta.from != self.generation {
            return Err(DeltaError::From {
                from: delta.from,
                at: self.generation,
            });
        }
        let mut plan = self.clone();
        plan.generation = delta.to;
        if let Some(globals) = delta.globals {
            plan.globals = Arc::new(globals);
        }
        for name in &delta.removed {
            plan.services_mut().remove(name);
        }
        for record in delta.upserts {
            let name = record.spec.name.clone();
            if !record.is_whole() {
                return Err(DeltaError::Parts { service: name });
            }
            let sealed = Arc::new(Sealed::new(record));
            plan.services_mut().insert(name, sealed);
        }
        let found = plan.digest();
        if found != delta.digest {
            return Err(DeltaError::Digest {
                expected: delta.digest,
                found,
            });
        }
        Ok(plan)
    }
}
