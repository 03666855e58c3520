//! When a service serves at all: what `require` and `sorry` say against what there is.

use std::collections::HashSet;

use evenkeel_plan::{PolicySpec, Require, ServiceName, Stale};

use crate::problem::{Sink, shown};
use crate::suggest::nearest;
use crate::written::{Placed, Pool, Service, Source};

/// The policy of `service`, whose backends are those of `pool`.
pub(super) fn policy(service: &Service, pool: &Pool, sink: &mut Sink<'_>) -> PolicySpec {
    let written = &service.policy;
    let require = &written.require;
    if let Some(at) = require.at
        && require.good
        && pool.complete
    {
        let count = pool.backends.iter().filter(|b| !b.backup.value).count();
        if let Require::Count(wanted) = require.value
            && usize::from(wanted) > count
        {
            let backups = pool.backends.len() - count;
            let besides = match backups {
                0 => String::new(),
                1 => ", besides 1 backup, which does not count".to_owned(),
                backups => format!(", besides {backups} backups, which do not count"),
            };
            let message = format!(
                "service {} needs {wanted} healthy backends and has {count}{besides}",
                shown(&service.label)
            );
            let help = "it would never serve: lower `require`, or add backends";
            sink.error(at, &require.key, message, help);
        }
        if require.value != Require::Any && pool.check.is_none() {
            let message = format!(
                "`require` counts healthy backends, and those of service {} are not checked: they count as healthy",
                shown(&service.label)
            );
            sink.warning(
                at,
                &require.key,
                message,
                "give them a check other than `none`",
            );
        }
    }
    PolicySpec {
        require: require.value,
        // One that is no name of a service is reported with those that are not there.
        sorry: written
            .sorry
            .as_ref()
            .and_then(|name| ServiceName::new(name.value.as_str()).ok()),
        panic: written.panic,
        stale: written.stale.unwrap_or(match require.value {
            Require::All => Stale::Closed,
            Require::Any | Require::Count(_) | Require::Share(_) => Stale::Last,
        }),
        unchecked: written.unchecked,
        on_down: written.on_down,
        slow_start: written.slow_start,
        passive_failures: written.passive_failures,
    }
}

/// Whether every `sorry` is another service.
pub(super) fn sorry(services: &[Service], sink: &mut Sink<'_>) {
    let labels: HashSet<_> = services.iter().map(|s| s.label.as_str()).collect();
    for service in services {
        let Some(sorry) = &service.policy.sorry else {
            continue;
        };
        if sorry.value == service.label {
            let message = format!("service {} is its own `sorry`", shown(&service.label));
            let help = "name another service, or leave it out";
            sink.error(sorry.at, &sorry.key, message, help);
        } else if !labels.contains(sorry.value.as_str()) {
            let mut message = format!("unknown service {}", shown(&sorry.value));
            let others = services.iter().map(|s| s.label.as_str());
            let mut others = others.filter(|label| *label != service.label);
            let help = match nearest(&sorry.value, others.clone()) {
                Some(near) => {
                    message.push_str(&format!("; did you mean {}?", shown(near)));
                    String::new()
                }
                None if others.next().is_none() => {
                    "there is no other service yet; `sorry` names one that takes the connections meanwhile".to_owned()
                }
                None => "`sorry` names a `[services.NAME]` of this file".to_owned(),
            };
            sink.missing(sorry.at, &sorry.key, message, help);
        } else if let Some(other) = services.iter().find(|s| s.label == sorry.value) {
            cannot_stand_in(service, other, sorry, sink);
        }
    }
}

/// What keeps `other` from taking what `service` cannot.
fn cannot_stand_in(
    service: &Service,
    other: &Service,
    sorry: &Placed<String>,
    sink: &mut Sink<'_>,
) {
    let mode = |service: &Service| {
        if service.http.is_some() {
            "http"
        } else {
            "tcp"
        }
    };
    let (own, its) = (mode(service), mode(other));
    if own != its {
        let message = format!(
            "service {} is of mode {its}, and {} of mode {own}: it cannot take what that one cannot",
            shown(&other.label),
            shown(&service.label)
        );
        let help = format!("name a service with `mode = \"{own}\"`");
        sink.error(sorry.at, &sorry.key, message, help);
    } else if matches!(other.source, Source::None) {
        let message = format!(
            "service {} has no backends of its own, and its routes are not followed",
            shown(&other.label)
        );
        sink.error(
            sorry.at,
            &sorry.key,
            message,
            "name a service with backends",
        );
    }
}
