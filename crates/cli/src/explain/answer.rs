//! What becomes of a request at one service's listeners: the routes one by one, then where it goes and how it looks there.

use std::collections::BTreeMap;

use evenkeel_config::{action_words, persistence_words, route_words};
use evenkeel_control::operator::{BackendStatus, Status};
use evenkeel_http::route::{
    Candidate, Redirect, RedirectInput, Request, Router, Verdict, rewrite_path,
};
use evenkeel_plan::http::{
    ActionSpec, HeaderEditsSpec, HostSpec, HttpSpec, RedirectSpec, RouteSpec, TransformSpec,
};
use evenkeel_plan::{Require, ServiceSpec};
use serde::Serialize;

use super::{Asked, status_of};

/// Everything that is told.
#[derive(Debug, Serialize)]
pub(super) struct Told {
    pub(super) method: String,
    pub(super) url: String,
    /// The file that was read.
    pub(super) config: String,
    /// Why no daemon could be asked; `None` = one was.
    pub(super) without_daemon: Option<String>,
    /// Services whose listeners may take the request.
    pub(super) takers: Vec<Took>,
    /// Where there is HTTP, when there is no taker.
    pub(super) other_listeners: Vec<String>,
}

/// What becomes of it at a service's listeners.
#[derive(Debug, Default, Serialize)]
pub(super) struct Took {
    pub(super) service: String,
    pub(super) listeners: Vec<String>,
    /// `http`, or `tcp`: then nothing of the request is looked at.
    pub(super) mode: &'static str,
    /// Why it is refused with 400.
    pub(super) refused: Option<String>,
    /// What routes are compared with.
    pub(super) host: Option<String>,
    pub(super) path: Option<String>,
    /// Where a path can be read in several ways.
    pub(super) readings: Vec<ReadingTold>,
    /// Those for the host in the order in which they are asked, then the others.
    pub(super) routes: Vec<RouteTold>,
    pub(super) outcome: Option<Outcome>,
}

/// A way to read the path.
#[derive(Debug, Serialize)]
pub(super) struct ReadingTold {
    pub(super) path: String,
    /// The number of the route that it takes.
    pub(super) route: Option<usize>,
}

/// A route, and why it is taken or not.
#[derive(Debug, Serialize)]
pub(super) struct RouteTold {
    /// Its place in the file, from 1.
    pub(super) number: usize,
    pub(super) requests: String,
    pub(super) action: String,
    pub(super) taken: bool,
    /// It fits too, and another comes first.
    pub(super) fits_too: bool,
    /// It is for other hosts, and was not asked.
    pub(super) other_host: bool,
    pub(super) why: String,
}

/// Where it goes.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(super) enum Outcome {
    /// A backend gets it.
    Service(Box<Forwarded>),
    /// The client is sent elsewhere.
    Redirect {
        status: u16,
        /// `None`: the request lacks what the template needs, and is refused with 400.
        location: Option<String>,
    },
    /// The client gets an answer from the daemon.
    Answer {
        status: u16,
        content_type: Option<String>,
        body: String,
    },
    /// No route takes it, and there are no backends: 404.
    NotFound,
}

/// A request on its way to a backend.
#[derive(Debug, Default, Serialize)]
pub(super) struct Forwarded {
    pub(super) service: String,
    /// Path and query; `None` where bytes are relayed.
    pub(super) path: Option<String>,
    /// What the backend sees as `Host`; `None` = its own address.
    pub(super) host: Option<String>,
    /// Changes to fields, in the order in which they are made.
    pub(super) request_changes: Vec<String>,
    pub(super) response_changes: Vec<String>,
    pub(super) scheduler: &'static str,
    pub(super) persistence: Option<String>,
    pub(super) require: String,
    pub(super) sorry: Option<String>,
    /// Whether the service takes requests; `None` = nobody could be asked.
    pub(super) serving: Option<bool>,
    /// Why the gate of its policy is as it is.
    pub(super) gate_reason: String,
    pub(super) backends: Vec<BackendTold>,
}

/// A backend that may get it.
#[derive(Debug, Serialize)]
pub(super) struct BackendTold {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) weight: u16,
    pub(super) backup: bool,
    /// As `status` has it; `None` = nobody could be asked, or the daemon does not have it.
    pub(super) now: Option<BackendStatus>,
}

/// What becomes of `asked` at the listeners of `service`, whose port is `port`. The listeners are the caller's to fill in.
pub(super) fn took(
    asked: &Asked,
    service: &ServiceSpec,
    port: u16,
    services: &BTreeMap<&str, &ServiceSpec>,
    known: Option<&Status>,
) -> Took {
    let mut took = Took {
        service: service.name.to_string(),
        mode: "tcp",
        ..Took::default()
    };
    let Some(http) = &service.http else {
        let forwarded = forwarded(service, known);
        took.outcome = Some(Outcome::Service(Box::new(forwarded)));
        return took;
    };
    took.mode = "http";
    let router = match Router::new(&http.routes) {
        Ok(router) => router,
        Err(errors) => unreachable!("the configuration was accepted: {errors:?}"),
    };
    let request = Request {
        host: Some(asked.host().as_bytes()),
        path: asked.url.path.as_bytes(),
        method: asked.method.as_bytes(),
        fields: asked.fields(),
    };
    let explanation = router.explain(&request);
    took.host = explanation.host;
    took.path = explanation.path;
    took.readings = explanation
        .readings
        .into_iter()
        .map(|reading| ReadingTold {
            path: reading.path,
            route: reading.route.map(|route| route + 1),
        })
        .collect();
    took.routes = explanation
        .candidates
        .iter()
        .filter_map(|candidate| Some(told(candidate, http.routes.get(candidate.route)?)))
        .collect();
    match explanation.outcome {
        Err(refusal) => took.refused = Some(refusal.to_string()),
        Ok(route) => {
            let route = route.and_then(|route| http.routes.get(route));
            took.outcome = Some(outcome(asked, service, route, port, services, known));
        }
    }
    took
}

fn told(candidate: &Candidate, route: &RouteSpec) -> RouteTold {
    let why = match &candidate.verdict {
        Verdict::After(first) => format!("fits too, but route {} comes first", first + 1),
        verdict => verdict.to_string(),
    };
    RouteTold {
        number: candidate.route + 1,
        requests: route_words(route),
        action: action_words(&route.action),
        taken: candidate.verdict == Verdict::Taken,
        fits_too: matches!(candidate.verdict, Verdict::After(_)),
        other_host: candidate.verdict == Verdict::Host,
        why,
    }
}

/// `route` is the one that is taken, if there is one.
fn outcome(
    asked: &Asked,
    service: &ServiceSpec,
    route: Option<&RouteSpec>,
    port: u16,
    services: &BTreeMap<&str, &ServiceSpec>,
    known: Option<&Status>,
) -> Outcome {
    let nothing = TransformSpec::default();
    match route.map(|route| (&route.action, &route.transform)) {
        None if service.backends.is_empty() => Outcome::NotFound,
        None => on_its_way(asked, service, &nothing, known),
        Some((ActionSpec::Service(name), transform)) => match services.get(name.as_str()) {
            Some(target) => on_its_way(asked, target, transform, known),
            None => unreachable!("the configuration was accepted"),
        },
        Some((ActionSpec::Redirect(spec), _)) => redirect(asked, spec, port),
        Some((ActionSpec::Fixed(spec), _)) => Outcome::Answer {
            status: spec.status,
            content_type: spec.content_type.as_ref().map(ToString::to_string),
            body: spec.body.clone(),
        },
    }
}

/// To a backend of `target`, changed by the route first and then by the service.
fn on_its_way(
    asked: &Asked,
    target: &ServiceSpec,
    route: &TransformSpec,
    known: Option<&Status>,
) -> Outcome {
    let usual = HttpSpec::default();
    let http = target.http.as_deref().unwrap_or(&usual);
    let transforms = [route, &http.transform];
    let mut path = asked.url.path.clone().into_bytes();
    let mut host = asked.host().to_owned();
    for transform in transforms {
        let (strip, add) = (&transform.strip_prefix, &transform.add_prefix);
        path = rewrite_path(&path, strip.as_ref(), add.as_ref()).into_owned();
        if let HostSpec::Set(name) = &transform.host {
            host = name.to_string();
        }
    }
    let is_backends = transforms.iter().any(|t| t.host == HostSpec::Backend);
    let mut path = String::from_utf8_lossy(&path).into_owned();
    if let Some(query) = &asked.url.query {
        path.push('?');
        path.push_str(query);
    }
    let presets = http.presets.iter();
    let presets = presets.flat_map(|preset| preset.request_remove());
    let mut request_changes: Vec<String> = presets.map(|name| format!("remove {name}")).collect();
    request_changes.extend(transforms.iter().flat_map(|t| changes(&t.request)));
    // On the way back the service comes first.
    let response_changes = transforms.iter().rev().flat_map(|t| changes(&t.response));
    Outcome::Service(Box::new(Forwarded {
        path: Some(path),
        host: (!is_backends).then_some(host),
        request_changes,
        response_changes: response_changes.collect(),
        persistence: http.persistence.as_ref().map(persistence_words),
        ..forwarded(target, known)
    }))
}

fn redirect(asked: &Asked, spec: &RedirectSpec, port: u16) -> Outcome {
    let input = RedirectInput {
        https: asked.url.is_https,
        host: Some(asked.host().as_bytes()),
        port,
        path: asked.url.path.as_bytes(),
        query: asked.url.query.as_ref().map(String::as_bytes),
    };
    let redirect = Redirect::new(spec).ok();
    Outcome::Redirect {
        status: spec.status.code(),
        location: redirect.and_then(|redirect| redirect.location(&input)),
    }
}

fn changes(edits: &HeaderEditsSpec) -> Vec<String> {
    let remove = edits.remove.iter().map(|name| format!("remove {name}"));
    let set = edits.set.iter();
    let set = set.map(|(name, value)| format!("set {name}: {value}"));
    let add = edits.add.iter();
    let add = add.map(|(name, value)| format!("add {name}: {value}"));
    remove.chain(set).chain(add).collect()
}

/// Service and backends, with what the daemon says of them.
fn forwarded(service: &ServiceSpec, known: Option<&Status>) -> Forwarded {
    let status = known.and_then(|status| status_of(status, service.name.as_str()));
    let now = |name: &str| {
        let mut backends = status?.backends.iter();
        backends.find(|backend| backend.name == name).cloned()
    };
    let backends = service.backends.iter().map(|backend| BackendTold {
        name: backend.name.to_string(),
        address: backend.address.to_string(),
        weight: backend.weight,
        backup: backend.backup,
        now: now(backend.name.as_str()),
    });
    Forwarded {
        service: service.name.to_string(),
        scheduler: service.scheduler.as_str(),
        require: require_words(service.policy.require),
        sorry: service.policy.sorry.as_ref().map(ToString::to_string),
        serving: status.map(|status| status.serving),
        gate_reason: status.map_or_else(String::new, |status| status.gate_reason.clone()),
        backends: backends.collect(),
        ..Forwarded::default()
    }
}

fn require_words(require: Require) -> String {
    match require {
        Require::Any => "any".to_owned(),
        Require::All => "all".to_owned(),
        Require::Count(count) => count.to_string(),
        Require::Share(share) => format!("{share}%"),
    }
}
