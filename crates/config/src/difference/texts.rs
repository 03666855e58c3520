//! Settings as texts, for telling two of them apart and for printing.

use std::net::SocketAddr;

use evenkeel_plan::{
    BackendSpec, ConnectSpec, DrainSpec, Globals, LimitsSpec, LogFormat, LogLevel, LogSpec, OnDown,
    PolicySpec, Require, ResolveSpec, Scheduler, ServiceSpec, Stale, Unchecked, UserSpec,
    WatchdogSpec, Workers,
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
    } = limits;
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
        ("limits.workers", worker_slots.to_string()),
        ("limits.services", services.to_string()),
        ("limits.listeners", listeners.to_string()),
        ("limits.backends", backends.to_string()),
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
    let ConnectSpec { timeout, attempts } = connect;
    let scheduler = match scheduler {
        Scheduler::Rr => "rr",
        Scheduler::Wrr => "wrr",
    };
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
    vec![
        ("scheduler", scheduler.to_owned()),
        ("pool", pool),
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
    ]
}

/// Without the check, which has texts of its own.
pub(super) fn backend_texts(backend: &BackendSpec) -> Texts {
    let BackendSpec {
        name: _,
        address,
        weight,
        backup,
        check: _,
    } = backend;
    vec![
        ("address", address.to_string()),
        ("weight", weight.to_string()),
        ("backup", backup.to_string()),
    ]
}

fn list(addresses: &[SocketAddr], none: &str) -> String {
    if addresses.is_empty() {
        return none.to_owned();
    }
    let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    texts.join(", ")
}
