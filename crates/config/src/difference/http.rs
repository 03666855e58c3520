//! HTTP as texts. Every field but the routes is in them: two services that differ in one have different texts.

use evenkeel_plan::http::{
    AnswerFormat, AnswerPageSpec, AnswersSpec, Coding, CompressionSpec, CookieSpec, ForwardMode,
    ForwardedSource, ForwardedSpec, HttpLimitsSpec, HttpPreset, HttpSpec, HttpTimeoutsSpec,
    PersistenceSpec, PoolSpec, RetrySpec, SecureCookie,
};

use super::check::secret_text;
use super::route::{body_text, transform_texts};
use super::texts::{Texts, number_text};
use super::traffic::{listed, networks_text, or_zero, rate_texts};
use crate::value::{DurationText, SizeText};

/// `None`: a service of TCP, whose texts are those of the defaults.
pub(super) fn http_texts(http: Option<&HttpSpec>) -> Texts {
    let usual = HttpSpec::default();
    let mode = if http.is_some() { "http" } else { "tcp" };
    let HttpSpec {
        routes: _,
        forwarded,
        limits,
        timeouts,
        answers,
        allow_half_close,
        compression,
        presets,
        transform,
        persistence,
        retry,
        pool,
    } = http.unwrap_or(&usual);
    let presets: Vec<_> = presets.iter().copied().map(HttpPreset::as_str).collect();
    let mut texts = vec![
        ("mode", mode.to_owned()),
        ("http.allow_half_close", allow_half_close.to_string()),
        ("http.presets", some(&presets)),
        ("http.persistence", persistence_text(persistence.as_ref())),
    ];
    texts.extend(limits_texts(limits));
    texts.extend(timeouts_texts(timeouts));
    texts.extend(forwarded_texts(forwarded));
    texts.extend(retry_texts(retry));
    texts.extend(pool_texts(pool));
    texts.extend(compression_texts(compression));
    texts.extend(answers_texts(answers));
    let [strip, add, host, request, response] = transform_texts(transform);
    texts.extend([
        ("http.transform.strip_prefix", strip),
        ("http.transform.add_prefix", add),
        ("http.transform.host", host),
        ("http.transform.request", request),
        ("http.transform.response", response),
    ]);
    texts
}

/// A list, or that there is nothing in it.
fn some(items: &[impl std::fmt::Display]) -> String {
    if items.is_empty() {
        return "none".to_owned();
    }
    listed(items)
}

/// A limit on bodies that may be left out.
fn bytes_text(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "any".to_owned(), |bytes| SizeText(bytes).to_string())
}

fn limits_texts(limits: &HttpLimitsSpec) -> Texts {
    let HttpLimitsSpec {
        head_bytes,
        fields,
        uri_bytes,
        body_bytes,
        body_by_type,
        requests_per_connection,
        concurrent_requests,
        source_rate,
    } = limits;
    let types: Vec<_> = body_by_type
        .iter()
        .map(|limit| format!("{} {}", limit.content_type, bytes_text(limit.bytes)))
        .collect();
    let (source_rate, source_burst) = rate_texts(*source_rate);
    let size = |bytes: u32| SizeText(bytes.into()).to_string();
    vec![
        ("http.limits.head_bytes", size(*head_bytes)),
        ("http.limits.fields", fields.to_string()),
        ("http.limits.uri_bytes", size(*uri_bytes)),
        ("http.limits.body_bytes", bytes_text(*body_bytes)),
        ("http.limits.body_by_type", some(&types)),
        (
            "http.limits.requests_per_connection",
            number_text(*requests_per_connection),
        ),
        (
            "http.limits.concurrent_requests",
            number_text(*concurrent_requests),
        ),
        ("http.limits.source_rate", source_rate),
        ("http.limits.source_burst", source_burst),
    ]
}

fn timeouts_texts(timeouts: &HttpTimeoutsSpec) -> Texts {
    let HttpTimeoutsSpec {
        request_head,
        body_idle,
        client_write,
        keep_alive_idle,
        first_byte,
        answer_idle,
        upstream_idle,
        tunnel_idle,
    } = timeouts;
    let time = |time: &std::time::Duration| DurationText(*time).to_string();
    vec![
        ("http.timeouts.request_head", time(request_head)),
        ("http.timeouts.body_idle", or_zero(*body_idle)),
        ("http.timeouts.client_write", or_zero(*client_write)),
        ("http.timeouts.keep_alive_idle", time(keep_alive_idle)),
        ("http.timeouts.first_byte", or_zero(*first_byte)),
        ("http.timeouts.answer_idle", or_zero(*answer_idle)),
        ("http.timeouts.upstream_idle", time(upstream_idle)),
        ("http.timeouts.tunnel_idle", or_zero(*tunnel_idle)),
    ]
}

fn forwarded_texts(forwarded: &ForwardedSpec) -> Texts {
    let ForwardedSpec {
        trusted,
        source,
        x_forwarded_for,
        x_forwarded_proto,
        x_forwarded_host,
        forwarded,
        request_id,
    } = forwarded;
    let mode = |mode: ForwardMode| {
        match mode {
            ForwardMode::Append => "append",
            ForwardMode::Replace => "replace",
            ForwardMode::Off => "off",
        }
        .to_owned()
    };
    let source = match source {
        ForwardedSource::XForwarded => "x-forwarded",
        ForwardedSource::Forwarded => "forwarded",
    };
    let request_id = match request_id {
        Some(name) => name.to_string(),
        None => "false".to_owned(),
    };
    vec![
        ("http.forwarded.trusted", networks_text(trusted, "nobody")),
        ("http.forwarded.source", source.to_owned()),
        ("http.forwarded.x_forwarded_for", mode(*x_forwarded_for)),
        ("http.forwarded.x_forwarded_proto", mode(*x_forwarded_proto)),
        ("http.forwarded.x_forwarded_host", mode(*x_forwarded_host)),
        ("http.forwarded.forwarded", mode(*forwarded)),
        ("http.forwarded.request_id", request_id),
    ]
}

fn retry_texts(retry: &RetrySpec) -> Texts {
    let RetrySpec {
        attempts,
        methods,
        body_bytes,
        budget_percent,
        budget_floor,
    } = retry;
    let body_bytes = SizeText((*body_bytes).into()).to_string();
    vec![
        ("http.retry.attempts", attempts.to_string()),
        ("http.retry.methods", some(methods)),
        ("http.retry.body_bytes", body_bytes),
        ("http.retry.budget", format!("{budget_percent}%")),
        ("http.retry.budget_floor", budget_floor.to_string()),
    ]
}

fn pool_texts(pool: &PoolSpec) -> Texts {
    let PoolSpec { idle, requests } = pool;
    vec![
        ("http.pool.idle", idle.to_string()),
        ("http.pool.requests", number_text(*requests)),
    ]
}

fn compression_texts(compression: &CompressionSpec) -> Texts {
    let CompressionSpec {
        codings,
        types,
        min_bytes,
    } = compression;
    let codings: Vec<_> = codings.iter().copied().map(Coding::as_str).collect();
    vec![
        ("http.compression.codings", some(&codings)),
        ("http.compression.types", some(types)),
        (
            "http.compression.min_bytes",
            SizeText((*min_bytes).into()).to_string(),
        ),
    ]
}

fn answers_texts(answers: &AnswersSpec) -> Texts {
    let AnswersSpec {
        default,
        server,
        pages,
        retry_after,
        error_field,
    } = answers;
    let pages: Vec<_> = pages.iter().map(page_text).collect();
    let error_field = match error_field {
        Some(name) => name.to_string(),
        None => "none".to_owned(),
    };
    vec![
        ("http.answers.default", format_text(*default).to_owned()),
        ("http.answers.server", server.clone()),
        ("http.answers.pages", some(&pages)),
        ("http.answers.retry_after", or_zero(*retry_after)),
        ("http.answers.error_field", error_field),
    ]
}

fn format_text(format: AnswerFormat) -> &'static str {
    match format {
        AnswerFormat::Json => "json",
        AnswerFormat::Html => "html",
        AnswerFormat::Text => "text",
    }
}

fn page_text(page: &AnswerPageSpec) -> String {
    let AnswerPageSpec {
        statuses,
        format,
        content_type,
        body,
    } = page;
    let statuses = match statuses.is_empty() {
        true => "all".to_owned(),
        false => listed(statuses),
    };
    let mut text = format!("({statuses}) {} {}", format_text(*format), body_text(body));
    if let Some(content_type) = content_type {
        text.push_str(&format!(" as {content_type}"));
    }
    text
}

fn persistence_text(persistence: Option<&PersistenceSpec>) -> String {
    persistence.map_or_else(|| "none".to_owned(), persistence_words)
}

/// By what requests stay with a backend, in words: `by header X-Tenant`. Secrets are named only.
#[must_use]
pub fn persistence_words(persistence: &PersistenceSpec) -> String {
    match persistence {
        PersistenceSpec::Header(name) => format!("by header {name}"),
        PersistenceSpec::Uri { query: false } => "by uri".to_owned(),
        PersistenceSpec::Uri { query: true } => "by uri with query".to_owned(),
        PersistenceSpec::Source => "by source".to_owned(),
        PersistenceSpec::Cookie(cookie) => cookie_text(cookie),
    }
}

fn cookie_text(cookie: &CookieSpec) -> String {
    let CookieSpec {
        name,
        lifetime,
        path,
        domain,
        secure,
        http_only,
        same_site,
        key,
        previous_key,
    } = cookie;
    let secure = match secure {
        SecureCookie::Auto => "auto",
        SecureCookie::Always => "always",
        SecureCookie::Never => "never",
    };
    let mut text = format!(
        "by cookie {name} (lifetime {}, path {}, secure {secure}, http_only {http_only}, same_site {}",
        or_zero(*lifetime),
        path.as_deref().unwrap_or("/"),
        same_site.as_str().to_ascii_lowercase(),
    );
    if let Some(domain) = domain {
        text.push_str(&format!(", domain {domain}"));
    }
    if let Some(key) = key {
        text.push_str(&format!(", key {}", secret_text(key)));
    }
    if let Some(key) = previous_key {
        text.push_str(&format!(", previous key {}", secret_text(key)));
    }
    text.push(')');
    text
}
