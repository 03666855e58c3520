//! Routes as texts.

use evenkeel_plan::http::{
    ActionSpec, FieldName, FieldValue, FixedSpec, HeaderEditsSpec, HeaderMatch, HeaderValueMatch,
    HostSpec, PathMatch, RedirectSpec, RouteSpec, TransformSpec,
};

use super::check::fingerprint;
use super::texts::Texts;
use super::traffic::listed;

/// Longest body that is shown, in bytes.
const BODY_BYTES_MAX: usize = 60;

/// Which requests a route is for, in words: `host a.example.org, prefix /api, method GET`. Two routes of a service differ in it.
#[must_use]
pub fn route_words(route: &RouteSpec) -> String {
    let RouteSpec {
        hosts,
        path,
        methods,
        headers,
        action: _,
        transform: _,
    } = route;
    let mut parts = Vec::new();
    if !hosts.is_empty() {
        parts.push(format!("host {}", alternatives(hosts)));
    }
    match path {
        None => {}
        Some(PathMatch::Exact(path)) => parts.push(format!("path {path}")),
        Some(PathMatch::Prefix(prefix)) => parts.push(format!("prefix {}", prefix.as_str())),
        Some(PathMatch::Regex(regex)) => parts.push(format!("regex {regex}")),
    }
    if !methods.is_empty() {
        parts.push(format!("method {}", alternatives(methods)));
    }
    parts.extend(headers.iter().map(header_words));
    if parts.is_empty() {
        return "every request".to_owned();
    }
    parts.join(", ")
}

fn alternatives(items: &[impl std::fmt::Display]) -> String {
    let texts: Vec<_> = items.iter().map(ToString::to_string).collect();
    texts.join(" or ")
}

fn header_words(header: &HeaderMatch) -> String {
    let HeaderMatch { name, value } = header;
    match value {
        HeaderValueMatch::Present => format!("field {name}"),
        HeaderValueMatch::Equals(text) => format!("field {name} = {text:?}"),
        HeaderValueMatch::Regex(regex) => format!("field {name} ~ {regex}"),
    }
}

/// What becomes of a route's requests, in words: `service api`, `308 to https://{host}{path}{query}`, `answer 404`.
#[must_use]
pub fn action_words(action: &ActionSpec) -> String {
    match action {
        ActionSpec::Service(name) => format!("service {name}"),
        ActionSpec::Redirect(RedirectSpec { status, location }) => {
            format!("{} to {location}", status.code())
        }
        ActionSpec::Fixed(fixed) => {
            let FixedSpec {
                status,
                content_type,
                body,
            } = fixed;
            let mut words = format!("answer {status}");
            if !body.is_empty() {
                words.push_str(&format!(" {}", body_text(body)));
            }
            if let Some(content_type) = content_type {
                words.push_str(&format!(" as {content_type}"));
            }
            words
        }
    }
}

/// Two bodies that differ anywhere have different texts.
pub(super) fn body_text(body: &str) -> String {
    if body.len() <= BODY_BYTES_MAX {
        return format!("{body:?}");
    }
    format!("{} bytes ({})", body.len(), fingerprint(body))
}

pub(super) fn route_texts(route: &RouteSpec) -> Texts {
    let [strip, add, host, request, response] = transform_texts(&route.transform);
    vec![
        ("action", action_words(&route.action)),
        ("strip_prefix", strip),
        ("add_prefix", add),
        ("host_header", host),
        ("request", request),
        ("response", response),
    ]
}

/// What is stripped, added, the host, and what is changed in requests and answers.
pub(super) fn transform_texts(transform: &TransformSpec) -> [String; 5] {
    let TransformSpec {
        strip_prefix,
        add_prefix,
        host,
        request,
        response,
    } = transform;
    let prefix = |prefix: &Option<evenkeel_plan::http::PathPrefix>| {
        let text = prefix.as_ref().map(|prefix| prefix.as_str().to_owned());
        text.unwrap_or_else(|| "nothing".to_owned())
    };
    let host = match host {
        HostSpec::Keep => "keep".to_owned(),
        HostSpec::Backend => "backend".to_owned(),
        HostSpec::Set(name) => format!("set {name}"),
    };
    [
        prefix(strip_prefix),
        prefix(add_prefix),
        host,
        edits_text(request),
        edits_text(response),
    ]
}

fn edits_text(edits: &HeaderEditsSpec) -> String {
    let HeaderEditsSpec { remove, set, add } = edits;
    let lines = |lines: &[(FieldName, FieldValue)]| {
        let texts = lines.iter().map(|(name, value)| {
            let value = value.as_str();
            format!("{name} {value:?}")
        });
        texts.collect::<Vec<_>>().join(", ")
    };
    let mut parts = Vec::new();
    if !remove.is_empty() {
        parts.push(format!("remove {}", listed(remove)));
    }
    if !set.is_empty() {
        parts.push(format!("set {}", lines(set)));
    }
    if !add.is_empty() {
        parts.push(format!("add {}", lines(add)));
    }
    if parts.is_empty() {
        return "unchanged".to_owned();
    }
    parts.join("; ")
}
