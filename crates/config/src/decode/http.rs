//! Decoding of a service's HTTP: its mode, what has no meaning in the other one, and `[services.NAME.http]`.

mod answers;
mod forwarded;
mod limits;
mod persistence;
mod route;
mod text;
mod transform;

use evenkeel_plan::http::{HttpPreset, HttpSpec};
use toml::de::DeTable;

use self::text::{read, some};
use super::Around;
use crate::fields::{Fields, Node};
use crate::problem::Sink;
use crate::schema::Section;
use crate::suggest::unknown_word;
use crate::written::Http;

/// Keys that are of HTTP alone.
const HTTP_KEYS: [&str; 2] = ["routes", "http"];

/// Keys of a service that mean nothing for HTTP, and what would be right.
const TCP_KEYS: [(&str, &str); 3] = [
    (
        "connect_on",
        "leave it out: a backend is picked for each request, when its head is there",
    ),
    ("framing", "leave it out: HTTP has a framing of its own"),
    (
        "frame_max",
        "leave it out: `head_bytes` and `body_bytes` in `[services.NAME.http.limits]` are the limits of requests",
    ),
];

/// The same for `timeouts`.
const TCP_TIMEOUTS: [(&str, &str); 3] = [
    (
        "idle",
        "in `[services.NAME.http.timeouts]` there are `keep_alive_idle` (between two requests), `body_idle`, `answer_idle` and \
         `tunnel_idle` (after an upgrade)",
    ),
    (
        "half_closed",
        "`allow_half_close` in `[services.NAME.http]` says whether such a client is still there, and \
         `[services.NAME.http.timeouts]` how long it may take for what",
    ),
    (
        "total",
        "requests have time-outs of their own, in `[services.NAME.http.timeouts]`",
    ),
];

/// Keys of a service that are about its listeners.
const LISTENER_KEYS: [&str; 10] = [
    "freebind",
    "backlog",
    "allow",
    "deny",
    "max_connections",
    "rate",
    "rate_burst",
    "source_rate",
    "source_burst",
    "accept_proxy",
];

/// Keys of a service that are about its backends.
const BACKEND_KEYS: [&str; 16] = [
    "check",
    "port",
    "backend_max_connections",
    "scheduler",
    "source",
    "send_proxy",
    "require",
    "sorry",
    "panic",
    "stale",
    "unchecked",
    "on_down",
    "slow_start",
    "passive_failures",
    "connect",
    "queue",
];

/// Keys of `http` that are of requests of the service's listeners, and the same of its `timeouts`.
const HTTP_LISTENER_KEYS: [&str; 5] = [
    "allow_half_close",
    "limits",
    "forwarded",
    "answers",
    "compression",
];
const LISTENER_TIMEOUTS: [&str; 4] = [
    "request_head",
    "body_idle",
    "client_write",
    "keep_alive_idle",
];

/// Keys of `http` that are of requests that the service's backends get, and the same of its `timeouts`.
const HTTP_BACKEND_KEYS: [&str; 5] = ["presets", "retry", "pool", "persistence", "transform"];
const BACKEND_TIMEOUTS: [&str; 4] = ["first_byte", "answer_idle", "upstream_idle", "tunnel_idle"];

const PRESETS: [HttpPreset; 1] = [HttpPreset::CouchDb];

/// Most entries of `presets`.
const PRESETS_MAX: usize = 16;

/// Whether the service is one of HTTP. Where the word is not known, as what else is written suggests.
pub(super) fn is_http(fields: &Fields<'_>, sink: &mut Sink<'_>) -> bool {
    let word = fields.choice("mode", sink);
    let is_known = |text: &str| fields.words("mode").contains(&text);
    match fields.get("mode") {
        Some(node) if !node.value.as_str().is_some_and(is_known) => {
            HTTP_KEYS.iter().any(|name| fields.get(name).is_some())
        }
        _ => word == "http",
    }
}

/// What is written of HTTP. `None` for a service of TCP, where nothing of it may be.
pub(super) fn http(
    fields: &Fields<'_>,
    label: &str,
    is_http: bool,
    around: Around<'_>,
    sink: &mut Sink<'_>,
) -> Option<Http> {
    if !is_http {
        for name in HTTP_KEYS {
            if let Some(node) = fields.get(name) {
                let message = format!("`{name}` is of HTTP, and this service relays connections");
                let help = "write `mode = \"http\"` in the service, or remove it";
                node.error(sink, message, help);
            }
        }
        return None;
    }
    without_tcp_keys(fields, sink);
    let empty = DeTable::new();
    let http = fields
        .section("http", Section::Http, sink)
        .unwrap_or_else(|| Fields::empty(&empty, Section::Http, &fields.path("http")));
    without_meaning(fields, &http, sink);
    Some(Http {
        spec: spec(&http, around, sink),
        routes: route::routes(fields, label, sink),
    })
}

/// `[services.NAME.http]`; its routes are the caller's to fill in.
fn spec(http: &Fields<'_>, around: Around<'_>, sink: &mut Sink<'_>) -> HttpSpec {
    let transform = http.section("transform", Section::HttpTransform, sink);
    HttpSpec {
        routes: Vec::new(),
        forwarded: forwarded::forwarded(http, sink),
        limits: limits::limits(http, sink),
        timeouts: limits::timeouts(http, sink),
        answers: answers::answers(http, sink),
        allow_half_close: http.boolean("allow_half_close", None, sink).value,
        compression: answers::compression(http, sink),
        presets: read(http, "presets", sink, |node, sink| {
            some(node, PRESETS_MAX, sink, preset)
        })
        .unwrap_or_default(),
        transform: transform
            .map(|fields| transform::transform(&fields, "host", sink))
            .unwrap_or_default(),
        persistence: persistence::persistence(http, around, sink),
        retry: limits::retry(http, sink),
        pool: limits::pool(http, sink),
    }
}

fn preset(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<HttpPreset> {
    let text = node.text(sink, "\"couchdb\"")?;
    let found = PRESETS.into_iter().find(|preset| preset.as_str() == text);
    if found.is_none() {
        unknown_word(node, "preset", text, &PRESETS.map(HttpPreset::as_str), sink);
    }
    found
}

fn without_tcp_keys(fields: &Fields<'_>, sink: &mut Sink<'_>) {
    for (name, help) in TCP_KEYS {
        if let Some(node) = fields.get(name) {
            let message = format!("`{name}` means nothing with `mode = \"http\"`");
            node.error(sink, message, help);
        }
    }
    if let Some(timeouts) = fields.section("timeouts", Section::Timeouts, sink) {
        for (name, help) in TCP_TIMEOUTS {
            if let Some(node) = timeouts.get(name) {
                let message = format!("`timeouts.{name}` means nothing with `mode = \"http\"`");
                node.error(sink, message, help);
            }
        }
    }
    if let Some(connect) = fields.section("connect", Section::Connect, sink)
        && let Some(node) = connect.get("attempts")
    {
        let message = "`connect.attempts` means nothing with `mode = \"http\"`";
        let help = "the tries of a request are `attempts` in `[services.NAME.http.retry]`";
        node.error(sink, message, help);
    }
}

/// Keys about listeners in a service without, and about backends likewise: whoever wrote them believes that they count.
fn without_meaning(fields: &Fields<'_>, http: &Fields<'_>, sink: &mut Sink<'_>) {
    let timeouts = http.section("timeouts", Section::HttpTimeouts, sink);
    let mut refuse = |of: &Fields<'_>, names: &[&'static str], why: &str, help: &str| {
        for node in names.iter().filter_map(|name| of.get(name)) {
            let message = format!("`{}` means nothing here: {why}", node.label);
            node.error(sink, message, help);
        }
    };
    if fields.get("listen").is_none() {
        let why = "the service has no `listen`";
        let help = "write it in the service whose `listen` takes the requests";
        refuse(fields, &LISTENER_KEYS, why, help);
        refuse(fields, &["routes"], why, help);
        refuse(http, &HTTP_LISTENER_KEYS, why, help);
        if let Some(timeouts) = &timeouts {
            refuse(timeouts, &LISTENER_TIMEOUTS, why, help);
        }
    }
    let is_named = ["backends", "pool"]
        .iter()
        .any(|name| fields.get(name).is_some());
    // Where nothing leads to other services either, backends are missing, and that is said.
    if !is_named && fields.get("routes").is_some() {
        let why = "the service has no backends";
        let help = "write it in the services that its routes lead to";
        refuse(fields, &BACKEND_KEYS, why, help);
        refuse(http, &HTTP_BACKEND_KEYS, why, help);
        if let Some(timeouts) = &timeouts {
            refuse(timeouts, &BACKEND_TIMEOUTS, why, help);
        }
    }
}
