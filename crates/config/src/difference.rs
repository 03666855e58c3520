//! The difference of two specs by identity, for printing and for the reply to a reload.

mod check;
mod http;
mod route;
mod texts;
mod traffic;

use std::collections::{HashMap, HashSet};
use std::fmt;

use evenkeel_plan::http::RouteSpec;
use evenkeel_plan::{
    BackendName, BackendSpec, Globals, ListenerSpec, ServiceName, ServiceSpec, Spec,
};
use serde::{Deserialize, Serialize};

use self::check::check_texts;
pub use self::http::persistence_words;
use self::route::route_texts;
pub use self::route::{action_words, route_words};
use self::texts::{Texts, backend_texts, global_texts, service_texts};
use self::traffic::admission_texts;

/// What a reload would change. Displayed one change a line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Settings of the daemon first, then services: removed, then changed and added in file order.
    pub changes: Vec<Change>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A setting of the daemon itself.
    Setting {
        /// Dotted key.
        key: String,
        /// Value before, as text.
        from: String,
        /// Value after, as text.
        to: String,
    },
    /// A new service.
    ServiceAdded(ServiceName),
    /// A service that is gone.
    ServiceRemoved(ServiceName),
    /// Something within a service.
    Service {
        /// Which.
        service: ServiceName,
        /// What.
        change: ServiceChange,
    },
}

/// One change within a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceChange {
    /// A setting of the service.
    Setting {
        /// Key.
        key: String,
        /// Value before, as text.
        from: String,
        /// Value after, as text.
        to: String,
    },
    /// A new listening address.
    ListenerAdded(String),
    /// A listening address that is gone.
    ListenerRemoved(String),
    /// A setting of a listener.
    Listener {
        /// Its address.
        address: String,
        /// Key.
        key: String,
        /// Value before, as text.
        from: String,
        /// Value after, as text.
        to: String,
    },
    /// A new backend.
    BackendAdded {
        /// Its name.
        backend: BackendName,
        /// Its address.
        address: String,
    },
    /// A backend that is gone: it drains.
    BackendRemoved {
        /// Its name.
        backend: BackendName,
        /// Its address.
        address: String,
    },
    /// A setting of a backend.
    Backend {
        /// Its name.
        backend: BackendName,
        /// Key.
        key: String,
        /// Value before, as text.
        from: String,
        /// Value after, as text.
        to: String,
    },
    /// The same backends in another order: turns are taken in that order.
    BackendsReordered,
    /// The same listening addresses in another order: no effect.
    ListenersReordered,
    /// A new route.
    RouteAdded {
        /// Which requests it is for.
        route: String,
        /// What becomes of them.
        action: String,
    },
    /// A route that is gone.
    RouteRemoved {
        /// Which requests it was for.
        route: String,
        /// What became of them.
        action: String,
    },
    /// A setting of a route.
    Route {
        /// Which requests it is for.
        route: String,
        /// Key; `action` is what becomes of them.
        key: String,
        /// Value before, as text.
        from: String,
        /// Value after, as text.
        to: String,
    },
    /// The same routes in another order, which counts between those that are equally specific.
    RoutesReordered,
}

impl Difference {
    /// What has to change so that `old` becomes `new`. The order of services does not count.
    #[must_use]
    pub fn between(old: &Spec, new: &Spec) -> Self {
        let mut changes = Vec::new();
        settings(&old.globals, &new.globals, &mut changes);
        let before: HashMap<_, _> = old.services.iter().map(|s| (&s.name, s)).collect();
        let after: HashSet<_> = new.services.iter().map(|s| &s.name).collect();
        for service in &old.services {
            if !after.contains(&service.name) {
                changes.push(Change::ServiceRemoved(service.name.clone()));
            }
        }
        for service in &new.services {
            match before.get(&service.name) {
                None => changes.push(Change::ServiceAdded(service.name.clone())),
                Some(old) => {
                    let wrap = |change| Change::Service {
                        service: service.name.clone(),
                        change,
                    };
                    changes.extend(within(old, service).into_iter().map(wrap));
                }
            }
        }
        Self { changes }
    }

    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, change) in self.changes.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            change.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting { key, from, to } => write!(f, "~ {key} {from} -> {to}"),
            Self::ServiceAdded(service) => write!(f, "+ service {service}"),
            Self::ServiceRemoved(service) => write!(f, "- service {service}"),
            Self::Service { service, change } => {
                write!(f, "~ service {service}: ")?;
                match change {
                    ServiceChange::Setting { key, from, to } => write!(f, "{key} {from} -> {to}"),
                    ServiceChange::ListenerAdded(address) => write!(f, "+ listener {address}"),
                    ServiceChange::ListenerRemoved(address) => write!(f, "- listener {address}"),
                    ServiceChange::Listener {
                        address,
                        key,
                        from,
                        to,
                    } => write!(f, "listener {address} {key} {from} -> {to}"),
                    ServiceChange::BackendAdded { backend, address } => {
                        write!(f, "+ backend {service}/{backend} ({address})")
                    }
                    ServiceChange::BackendRemoved { backend, address } => {
                        write!(f, "- backend {service}/{backend} ({address})")
                    }
                    ServiceChange::Backend {
                        backend,
                        key,
                        from,
                        to,
                    } => write!(f, "backend {backend} {key} {from} -> {to}"),
                    ServiceChange::BackendsReordered => f.write_str("backends in another order"),
                    ServiceChange::ListenersReordered => f.write_str("listeners in another order"),
                    ServiceChange::RouteAdded { route, action } => {
                        write!(f, "+ route ({route}) {action}")
                    }
                    ServiceChange::RouteRemoved { route, action } => {
                        write!(f, "- route ({route}) {action}")
                    }
                    ServiceChange::Route {
                        route,
                        key,
                        from,
                        to,
                    } => write!(f, "route ({route}) {key} {from} -> {to}"),
                    ServiceChange::RoutesReordered => f.write_str("routes in another order"),
                }
            }
        }
    }
}

fn settings(old: &Globals, new: &Globals, changes: &mut Vec<Change>) {
    let pairs = global_texts(old).into_iter().zip(global_texts(new));
    for ((key, from), (_, to)) in pairs {
        if from != to {
            changes.push(Change::Setting {
                key: key.to_owned(),
                from,
                to,
            });
        }
    }
}

fn within(old: &ServiceSpec, new: &ServiceSpec) -> Vec<ServiceChange> {
    let mut changes = Vec::new();
    for ((key, from), (_, to)) in service_texts(old).into_iter().zip(service_texts(new)) {
        if from != to {
            let key = key.to_owned();
            changes.push(ServiceChange::Setting { key, from, to });
        }
    }
    listeners(&old.listeners, &new.listeners, &mut changes);
    backends(&old.backends, &new.backends, &mut changes);
    routes(routes_of(old), routes_of(new), &mut changes);
    changes
}

fn routes_of(service: &ServiceSpec) -> &[RouteSpec] {
    service.http.as_ref().map_or(&[], |http| &http.routes)
}

/// A route is the same when it is for the same requests.
fn routes(old: &[RouteSpec], new: &[RouteSpec], changes: &mut Vec<ServiceChange>) {
    let named = |routes: &[RouteSpec]| -> Vec<String> { routes.iter().map(route_words).collect() };
    let (old_names, new_names) = (named(old), named(new));
    let before: HashMap<_, _> = old_names.iter().zip(old).collect();
    let after: HashSet<_> = new_names.iter().collect();
    for (route, spec) in old_names.iter().zip(old) {
        if !after.contains(route) {
            changes.push(ServiceChange::RouteRemoved {
                route: route.clone(),
                action: action_words(&spec.action),
            });
        }
    }
    for (route, spec) in new_names.iter().zip(new) {
        let Some(before) = before.get(route) else {
            changes.push(ServiceChange::RouteAdded {
                route: route.clone(),
                action: action_words(&spec.action),
            });
            continue;
        };
        for ((key, from), (_, to)) in route_texts(before).into_iter().zip(route_texts(spec)) {
            if from != to {
                changes.push(ServiceChange::Route {
                    route: route.clone(),
                    key: key.to_owned(),
                    from,
                    to,
                });
            }
        }
    }
    let kept_before = old_names.iter().filter(|route| after.contains(route));
    let kept_after = new_names.iter().filter(|route| before.contains_key(route));
    if !kept_before.eq(kept_after) {
        changes.push(ServiceChange::RoutesReordered);
    }
}

fn listeners(old: &[ListenerSpec], new: &[ListenerSpec], changes: &mut Vec<ServiceChange>) {
    let texts = |listener: &ListenerSpec| -> Texts {
        let ListenerSpec {
            address: _,
            freebind,
            backlog,
            admission,
        } = listener;
        let mut texts = vec![
            ("freebind", freebind.to_string()),
            ("backlog", backlog.to_string()),
        ];
        texts.extend(admission_texts(admission));
        texts
    };
    let removed = |l: &&ListenerSpec| new.iter().all(|n| n.address != l.address);
    let gone = old.iter().filter(removed).map(|l| l.address.to_string());
    changes.extend(gone.map(ServiceChange::ListenerRemoved));
    for listener in new {
        let address = listener.address.to_string();
        let Some(before) = old.iter().find(|l| l.address == listener.address) else {
            changes.push(ServiceChange::ListenerAdded(address));
            continue;
        };
        for ((key, from), (_, to)) in texts(before).into_iter().zip(texts(listener)) {
            if from != to {
                changes.push(ServiceChange::Listener {
                    address: address.clone(),
                    key: key.to_owned(),
                    from,
                    to,
                });
            }
        }
    }
    let kept_before = old
        .iter()
        .map(|l| l.address)
        .filter(|a| new.iter().any(|l| l.address == *a));
    let kept_after = new
        .iter()
        .map(|l| l.address)
        .filter(|a| old.iter().any(|l| l.address == *a));
    if !kept_before.eq(kept_after) {
        changes.push(ServiceChange::ListenersReordered);
    }
}

fn backends(old: &[BackendSpec], new: &[BackendSpec], changes: &mut Vec<ServiceChange>) {
    let before: HashMap<_, _> = old.iter().map(|b| (&b.name, b)).collect();
    let after: HashSet<_> = new.iter().map(|b| &b.name).collect();
    for backend in old.iter().filter(|b| !after.contains(&b.name)) {
        changes.push(ServiceChange::BackendRemoved {
            backend: backend.name.clone(),
            address: backend.address.to_string(),
        });
    }
    for backend in new {
        let Some(before) = before.get(&backend.name) else {
            changes.push(ServiceChange::BackendAdded {
                backend: backend.name.clone(),
                address: backend.address.to_string(),
            });
            continue;
        };
        let mut pairs: Vec<_> = backend_texts(before)
            .into_iter()
            .zip(backend_texts(backend))
            .collect();
        pairs.extend(check_texts(
            before.check.as_deref(),
            backend.check.as_deref(),
        ));
        for ((key, from), (_, to)) in pairs {
            if from != to {
                changes.push(ServiceChange::Backend {
                    backend: backend.name.clone(),
                    key: key.to_owned(),
                    from,
                    to,
                });
            }
        }
    }
    let kept_before = old
        .iter()
        .map(|b| &b.name)
        .filter(|name| after.contains(name));
    let kept_after = new
        .iter()
        .map(|b| &b.name)
        .filter(|name| before.contains_key(name));
    if !kept_before.eq(kept_after) {
        changes.push(ServiceChange::BackendsReordered);
    }
}
