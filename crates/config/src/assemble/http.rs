//! Where routes lead, and which services nothing leads to.

use std::collections::{HashMap, HashSet};

use evenkeel_plan::http::HttpSpec;

use crate::problem::{Sink, shown};
use crate::suggest::nearest;
use crate::written::{Http, Placed, Service, Source};

/// HTTP of a service, with its routes.
pub(super) fn spec(http: &Http) -> HttpSpec {
    let routes = http.routes.iter().filter_map(|route| route.spec.clone());
    HttpSpec {
        routes: routes.collect(),
        ..http.spec.clone()
    }
}

/// Whether every route leads to a service that can take its requests, and something leads to every service.
pub(super) fn services(services: &[Service], sink: &mut Sink<'_>) {
    let by_label: HashMap<_, _> = services.iter().map(|s| (s.label.as_str(), s)).collect();
    let mut led_to: HashSet<&str> = HashSet::new();
    for service in services {
        let sorry = service.policy.sorry.as_ref();
        led_to.extend(sorry.map(|sorry| sorry.value.as_str()));
        let routes = service.http.iter().flat_map(|http| &http.routes);
        for target in routes.filter_map(|route| route.service.as_ref()) {
            match by_label.get(target.value.as_str()) {
                Some(other) => {
                    led_to.insert(other.label.as_str());
                    cannot_take(other, target, sink);
                }
                None => led_to.extend(unknown(target, services, sink)),
            }
        }
    }
    for service in services {
        let reached = service.has_listen || led_to.contains(service.label.as_str());
        if service.http.is_some() && !reached {
            let message = format!(
                "service {} gets no requests: it has no `listen`, and no route or `sorry` leads to it",
                shown(&service.label)
            );
            let help = "write `listen = \"10.0.0.1:80\"`, name it in a route of a service that has it, or remove it";
            sink.warning(service.at, &service.key, message, help);
        }
    }
}

/// What keeps `other` from taking requests of a route.
fn cannot_take(other: &Service, target: &Placed<String>, sink: &mut Sink<'_>) {
    if other.http.is_none() {
        let message = format!(
            "service {} relays connections and takes no requests",
            shown(&other.label)
        );
        let help = format!(
            "write `mode = \"http\"` in `[{}]`, or name another",
            other.key
        );
        sink.error(target.at, &target.key, message, help);
    } else if matches!(other.source, Source::None) {
        let message = format!(
            "service {} has no backends of its own, and routes are followed once",
            shown(&other.label)
        );
        sink.error(
            target.at,
            &target.key,
            message,
            "name a service with backends",
        );
    }
}

/// Reports a name that no service has; returns the one that is probably meant.
fn unknown<'a>(
    target: &Placed<String>,
    services: &'a [Service],
    sink: &mut Sink<'_>,
) -> Option<&'a str> {
    let mut message = format!("unknown service {}", shown(&target.value));
    let of_http = services.iter().filter(|service| service.http.is_some());
    let near = nearest(&target.value, of_http.map(|service| service.label.as_str()));
    let help = match near {
        Some(near) => {
            message.push_str(&format!("; did you mean {}?", shown(near)));
            String::new()
        }
        None => format!(
            "a route leads to a service of this file: `[services.{}]` with `mode = \"http\"` and `backends`",
            crate::fields::dotted(&target.value)
        ),
    };
    sink.missing(target.at, &target.key, message, help);
    near
}
