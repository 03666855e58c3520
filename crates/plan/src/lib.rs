//! The plan: the one type that crosses from the configuration to the processes that act on it.
//!
//! ```text
//! config text --config--> Spec --supervisor: cells--> Plan(generation g)
//!                                                       |  Plan::delta_from(g-1)
//!                                                       v
//!                          monitor, workers: Plan(g-1).apply(Delta) = Plan(g), digests compared
//! ```
//!
//! A plan is never changed: a reload makes a new one. A plan holds one sealed [`ServiceRecord`] a service,
//! shared between generations where it did not change, so that a change to one service among ten
//! thousand costs one record on the wire and not ten thousand.
#![forbid(unsafe_code)]

mod access;
mod delta;
pub mod http;
mod name;
mod sealed;
mod spec;
mod traffic;

pub use access::{
    ACCESS_FIELDS, AccessField, TEMPLATE_BYTES_MAX, TemplateError, TemplateErrorKind, TemplatePart,
    parse_template,
};
pub use delta::{Delta, DeltaError, FORMAT_VERSION};
pub use name::{BackendName, NAME_BYTES_MAX, NameError, PoolName, ServiceName};
pub use sealed::{
    BackendCell, BackendRecord, Digest, ListenerCell, ListenerRecord, Plan, Sealed, ServiceCell,
    ServiceRecord, SlotIdx,
};
pub use spec::{
    AccessFormat, AccessLogSpec, Address, BackendSpec, CheckKind, CheckSpec, ConnectSpec,
    CouchDbSpec, CredentialsSpec, DrainSpec, ENDPOINTS_MAX, Globals, HttpRequestSpec, LimitsSpec,
    ListenerSpec, LogFormat, LogLevel, LogSpec, OnDown, PolicySpec, Require, ResolveSpec,
    Scheduler, SecretSource, ServiceSpec, Spec, Stale, TlsSpec, Unchecked, UserSpec, WatchdogSpec,
    Workers,
};
pub use traffic::{
    AcceptProxySpec, AdmissionSpec, ConnectOn, Framing, KeepaliveSpec, NETWORKS_MAX, Network,
    NetworkError, ProxyVersion, QueueSpec, RateSpec, SOURCES_MAX, SourceSpec, TimeoutsSpec,
};
