//! Settings as texts, for telling two of them apart and for printing.

use std::net::SocketAddr;

use evenkeel_plan::{
    AccessFormat, AccessLogSpec, BackendSpec, ConnectSpec, DrainSpec, Globals, LimitsSpec,
    LogFormat, LogLevel, LogSpec, OnDown, PolicySpec, Require, ResolveSpec, ServiceSpec, Stale,
    Unchecked, UserSpec, WatchdogSpec, Workers,
};

use super::http::http_texts;
use super::traffic::{
    connect_on_text, framing_texts, keepalive_texts, queue_texts, send_proxy_text, source_text,
    timeouts_texts,
};

use crate::value::DurationText;

/// Key and value as text, in the order of the configuration language. Patterns name every field, so that a new one is not
/// forgotten here.
pub(super) type Texts = Vec<(&'static str, String)>;

pub(super) fn global_texts(globals: &Globals) -> Texts {
    let Globals {
        workers,
        metrics,
        drain,
        log,
        access_log,
        limits,
        watchdog,
        user,
        resolve,
        allow_exec,
    } = globals;
    let ResolveSpec {
        servers,
        ttl_min,
        ttl_max,
        timeout,
        retry,
    } = resolve;
    let DrainSpec {
        delay,
        deadline,
        handshakes,
    } = drain;
    let LogSpec { level, format } = log;
    let LimitsSpec {
        workers: worker_slots,
        services,
        listeners,
        backends,
        sources,
    } = limits;
    let AccessLogSpec {
        format: access_format,
        file,
    } = access_log;
    let access_format = match access_format {
        AccessFormat::Off => "off",
        AccessFormat::Human => "human",
        AccessFormat::Json => "json",
        AccessFormat::Logfmt => "logfmt",
        AccessFormat::Template(template) => template,
    };
    let WatchdogSpec {
        steer_after,
        kill_after,
    } = watchdog;
    let workers = match workers {
        Workers::Auto => "auto".to_owned(),
        Workers::Count(count) => count.to_string(),
    };
    let user = match user {
        UserSpec::Default => "default".to_owned(),
        UserSpec::Named(name) => name.clone(),
        UserSpec::Keep => "keep".to_owned(),
    };
    let level = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
    };
    let format = match format {
        LogFormat::Human => "human",
        LogFormat::Json => "json",
    };
    vec![
        ("workers", workers),
        ("user", user),
        ("allow_exec", allow_exec.to_string()),
        ("metrics.listen", list(metrics, "none")),
        ("drain.delay", DurationText(*delay).to_string()),
        ("drain.deadline", DurationText(*deadline).to_string()),
        ("drain.handshakes", DurationText(*handshakes).to_string()),
        ("log.level", level.to_owned()),
        ("log.format", format.to_owned()),
        ("access_log.format", access_format.to_owned()),
        (
            "access_log.file",
            file.clone().unwrap_or_else(|| "standard error".to_owned()),
        ),
        ("limits.workers", worker_slots.to_string()),
        ("limits.services", services.to_string()),
        ("limits.listeners", listeners.to_string()),
        ("limits.backends", backends.to_string()),
        ("limits.sources", sources.to_string()),
        (
            "watchdog.steer_after",
            DurationText(*steer_after).to_string(),
        ),
        ("watchdog.kill_after", DurationText(*kill_after).to_string()),
        ("resolve.servers", list(servers, "/etc/resolv.conf")),
        ("resolve.ttl_min", DurationText(*ttl_min).to_string()),
        ("resolve.ttl_max", DurationText(*ttl_max).to_string()),
        ("resolve.timeout", DurationText(*timeout).to_string()),
        ("resolve.retry", DurationText(*retry).to_string()),
    ]
}

pub(super) fn service_texts(service: &ServiceSpec) -> Texts {
    let ServiceSpec {
        name: _,
        listeners: _,
        backends: _,
        scheduler,
        pool,
        connect,
        policy,
        timeouts,
        keepalive,
        queue,
        framing,
        http,
    } = service;
    let PolicySpec {
        require,
        sorry,
        panic,
        stale,
        unchecked,
        on_down,
        slow_start,
        passive_failures,
    } = policy;
    let ConnectSpec {
        timeout,
        attempts,
        source,
        send_proxy,
        on,
    } = connect;
    let pool = match pool {
        Some(pool) => pool.to_string(),
        None => "none".to_owned(),
    };
    let require = match require {
        Require::Any => "any".to_owned(),
        Require::All => "all".to_owned(),
        Require::Count(count) => count.to_string(),
        Require::Share(share) => format!("{share}%"),
    };
    let sorry = match sorry {
        Some(service) => service.to_string(),
        None => "none".to_owned(),
    };
    let panic = match panic {
        Some(share) => format!("{share}%"),
        None => "never".to_owned(),
    };
    let stale = match stale {
        Stale::Last => "last",
        Stale::Closed => "closed",
    };
    let unchecked = match unchecked {
        Unchecked::IfNoneUp => "if-none-up",
        Unchecked::Never => "never",
        Unchecked::Always => "always",
    };
    let on_down = match on_down {
        OnDown::Keep => "keep",
        OnDown::Reset => "reset",
    };
    let mut texts = vec![
        ("scheduler", scheduler.as_str().to_owned()),
        ("pool", pool),
        ("source", source_text(source)),
        ("send_proxy", send_proxy_text(*send_proxy).to_owned()),
        ("connect_on", connect_on_text(*on).to_owned()),
    ];
    texts.extend(framing_texts(*framing));
    texts.extend([
        ("require", require),
        ("sorry", sorry),
        ("panic", panic),
        ("stale", stale.to_owned()),
        ("unchecked", unchecked.to_owned()),
        ("on_down", on_down.to_owned()),
        ("slow_start", DurationText(*slow_start).to_string()),
        ("passive_failures", passive_failures.to_string()),
        ("connect.timeout", DurationText(*timeout).to_string()),
        ("connect.attempts", attempts.to_string()),
    ]);
    texts.extend(timeouts_texts(timeouts));
    texts.extend(keepalive_texts(keepalive));
    texts.extend(queue_texts(queue));
    texts.extend(http_texts(http.as_deref()));
    texts
}

/// Without the check, which has texts of its own.
pub(super) fn backend_texts(backend: &BackendSpec) -> Texts {
    let BackendSpec {
        name: _,
        address,
        weight,
        backup,
        max_connections,
        check: _,
    } = backend;
    vec![
        ("address", address.to_string()),
        ("weight", weight.to_string()),
        ("backup", backup.to_string()),
        ("max_connections", number_text(*max_connections)),
    ]
}

/// A limit that may be left out.
pub(super) fn number_text(number: Option<u32>) -> String {
    number.map_or_else(|| "none".to_owned(), |number| number.to_string())
}

fn list(addresses: &[SocketAddr], none: &str) -> String {
    if addresses.is_empty() {
        return none.to_owned();
    }
    let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    texts.join(", ")
}
