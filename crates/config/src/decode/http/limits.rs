//! Decoding of how large, how many and how long, and of what is tried again.

use std::time::Duration;

use evenkeel_plan::RateSpec;
use evenkeel_plan::http::{
    BodyLimitSpec, HttpLimitsSpec, HttpTimeoutsSpec, Method, PoolSpec, RetrySpec,
};

use super::super::traffic::unless_zero;
use super::text::{media_type, read, some};
use crate::fields::{Fields, Node, narrow};
use crate::problem::{Sink, shown};
use crate::schema::Section;

/// Largest limit on bodies, 1 TiB.
const BODY_BYTES_MAX: u64 = 1 << 40;

/// Most entries of `body_by_type`.
const TYPES_MAX: usize = 64;

/// Most entries of `methods`.
const METHODS_MAX: usize = 16;

pub(super) fn limits(http: &Fields<'_>, sink: &mut Sink<'_>) -> HttpLimitsSpec {
    let Some(fields) = http.section("limits", Section::HttpLimits, sink) else {
        return HttpLimitsSpec::default();
    };
    let head = fields.size("head_bytes", sink);
    let uri = fields.size("uri_bytes", sink);
    if head.good && uri.good && uri.value > head.value {
        let message = "a head that is within `head_bytes` cannot have a target of `uri_bytes`";
        let help = "raise `head_bytes`, or lower `uri_bytes`";
        let (at, key) = match uri.at {
            Some(at) => (at, &uri.key),
            None => (head.at.unwrap_or(fields.at), &head.key),
        };
        sink.error(at, key, message, help);
    }
    HttpLimitsSpec {
        head_bytes: head.value,
        fields: narrow(fields.integer("fields", None, sink).value),
        uri_bytes: uri.value,
        body_bytes: read(&fields, "body_bytes", sink, body_bytes),
        body_by_type: read(&fields, "body_by_type", sink, |node, sink| {
            some(node, TYPES_MAX, sink, body_limit)
        })
        .unwrap_or_default(),
        requests_per_connection: fields.number("requests_per_connection", sink).value,
        concurrent_requests: fields.number("concurrent_requests", sink).value,
        source_rate: source_rate(&fields, sink),
    }
}

fn source_rate(fields: &Fields<'_>, sink: &mut Sink<'_>) -> Option<RateSpec> {
    let rate = fields.number("source_rate", sink);
    let burst = fields.number("source_burst", sink);
    if let Some(at) = burst.at
        && rate.at.is_none()
    {
        let message = "`source_burst` without `source_rate`: there is no rate to go beyond";
        let help = "write `source_rate` too, in requests a second";
        sink.missing(at, &burst.key, message, help);
    }
    let per_second = rate.value?;
    Some(RateSpec {
        per_second,
        burst: burst.value.unwrap_or(per_second),
    })
}

fn body_bytes(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<u64> {
    node.size(0, BODY_BYTES_MAX, "\"32MiB\"", sink)
}

fn body_limit(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<BodyLimitSpec> {
    let fields = node.fields(Section::BodyByType, sink)?;
    let bytes = match fields.get("bytes") {
        None => Some(None),
        Some(node) => body_bytes(&node, sink).map(Some),
    };
    if fields.get("type").is_none() {
        let help = "write `{ type = \"image/*\", bytes = \"10MiB\" }`";
        sink.missing(node.at, &node.key, "a limit without `type`", help);
    }
    Some(BodyLimitSpec {
        content_type: read(&fields, "type", sink, media_type)?,
        bytes: bytes?,
    })
}

pub(super) fn timeouts(http: &Fields<'_>, sink: &mut Sink<'_>) -> HttpTimeoutsSpec {
    let Some(fields) = http.section("timeouts", Section::HttpTimeouts, sink) else {
        return HttpTimeoutsSpec::default();
    };
    let mut time = |name: &'static str| -> Duration { fields.duration(name, sink).value };
    HttpTimeoutsSpec {
        request_head: time("request_head"),
        body_idle: unless_zero(time("body_idle")),
        client_write: unless_zero(time("client_write")),
        keep_alive_idle: time("keep_alive_idle"),
        first_byte: unless_zero(time("first_byte")),
        answer_idle: unless_zero(time("answer_idle")),
        upstream_idle: time("upstream_idle"),
        tunnel_idle: unless_zero(time("tunnel_idle")),
    }
}

pub(super) fn retry(http: &Fields<'_>, sink: &mut Sink<'_>) -> RetrySpec {
    let Some(fields) = http.section("retry", Section::HttpRetry, sink) else {
        return RetrySpec::default();
    };
    let attempts = fields.integer("attempts", None, sink).value;
    RetrySpec {
        attempts: u8::try_from(attempts).unwrap_or(u8::MAX),
        methods: read(&fields, "methods", sink, |node, sink| {
            some(node, METHODS_MAX, sink, retried)
        })
        .unwrap_or_default(),
        body_bytes: fields.size("body_bytes", sink).value,
        budget_percent: fields.percent("budget", sink),
        budget_floor: narrow(fields.integer("budget_floor", None, sink).value),
    }
}

/// A method that may be executed twice with the same effect, and is not tried again anyway.
fn retried(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<Method> {
    const RIGHT: &str = "`\"PUT\"` or `\"DELETE\"`";
    let text = node.text(sink, "\"PUT\"")?;
    if matches!(text, "PUT" | "DELETE") {
        return Method::new(text).ok();
    }
    let (message, help) = match text {
        "GET" | "HEAD" | "OPTIONS" => (
            format!("{} is tried again anyway", shown(text)),
            "leave it out".to_owned(),
        ),
        "POST" | "PATCH" => (
            format!("{} is never sent again", shown(text)),
            format!("what it does would be done twice; {RIGHT} are possible"),
        ),
        _ => (
            format!("{} cannot be tried again", shown(text)),
            format!("write {RIGHT}"),
        ),
    };
    node.error(sink, message, help);
    None
}

pub(super) fn pool(http: &Fields<'_>, sink: &mut Sink<'_>) -> PoolSpec {
    let Some(fields) = http.section("pool", Section::HttpPool, sink) else {
        return PoolSpec::default();
    };
    PoolSpec {
        idle: fields.integer("idle", None, sink).value,
        requests: fields.number("requests", sink).value,
    }
}
