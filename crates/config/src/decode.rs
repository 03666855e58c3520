//! Tables to what the user wrote: one value at a time, each with its place. This file: the document and the daemon's settings.
//!
//! Every function returns something usable even for a value that is wrong, so that one pass finds every mistake; a wrong
//! value is reported here and marked (`good`, `complete`), and assembling says nothing more of it.

mod access_log;
mod admission;
mod check;
mod couchdb;
mod http;
mod policy;
mod pool;
mod request;
mod resolve;
mod secret;
mod service;
mod tls;
mod traffic;

use std::net::SocketAddr;

use evenkeel_plan::{
    DrainSpec, LimitsSpec, LogFormat, LogLevel, LogSpec, UserSpec, WatchdogSpec, Workers,
};
use toml::de::{DeTable, DeValue};

use self::access_log::access_log;
use self::pool::named_pool;
use self::resolve::resolve;
use self::service::service;
use crate::fields::{Fields, Node, article, dotted, in_order, integer_of, narrow};
use crate::host::Host;
use crate::problem::{Sink, Span, shown};
use crate::schema::Section;
use crate::value::{DurationText, parse_listen};
use crate::written::{Got, Limits, Placed, Written};

/// `limits.sources` is a multiple of this: sources stand in groups in the table.
const SOURCES_STEP: u32 = 4;

/// What the parts of the document have to know of what is around them.
#[derive(Clone, Copy)]
struct Around<'a> {
    host: &'a Host,
    /// `allow_exec` is there and false, or not there.
    exec_refused: bool,
}

/// Decodes the whole document. `None` when it is written in another version of the language.
pub(crate) fn document(table: &DeTable<'_>, host: &Host, sink: &mut Sink<'_>) -> Option<Written> {
    let top = Span::new(0, 0);
    if let Version::Other = version(table, top, sink) {
        return None;
    }
    let root = Fields::new(table, Section::Root, String::new(), top, sink);
    let limits = limits(&root, sink);
    let allow_exec = root.boolean("allow_exec", None, sink);
    let around = Around {
        host,
        exec_refused: allow_exec.good && !allow_exec.value,
    };
    let written = Written {
        workers: workers(&root, limits.spec.workers, sink),
        user: user(&root, sink),
        metrics: metrics(&root, sink),
        drain: drain(&root, sink),
        log: log(&root, sink),
        access_log: access_log(&root, sink),
        limits,
        watchdog: watchdog(&root, sink),
        resolve: resolve(&root, sink),
        allow_exec,
        pools: named(&root, "pools", sink)
            .into_iter()
            .map(|node| named_pool(node, around, sink))
            .collect(),
        services: named(&root, "services", sink)
            .into_iter()
            .map(|node| service(node, around, sink))
            .collect(),
    };
    Some(written)
}

enum Version {
    Ours,
    Other,
}

/// The version comes first: nothing else can be judged in another language.
fn version(table: &DeTable<'_>, top: Span, sink: &mut Sink<'_>) -> Version {
    const RIGHT: &str = "this program reads `version = 1`";
    match table.get("version") {
        None => {
            sink.missing(
                top,
                "version",
                "`version` is missing",
                "start the file with `version = 1`",
            );
            Version::Ours
        }
        // The reader's stand-in for a value that it could not read.
        Some(value) if value.span() == (0..0) => Version::Ours,
        Some(value) => match value.get_ref() {
            DeValue::Integer(number) if integer_of(number) == Some(1) => Version::Ours,
            DeValue::Integer(number) => {
                let message = format!("unknown version {number}");
                sink.error(value.span().into(), "version", message, RIGHT);
                Version::Other
            }
            other => {
                let message = format!("expected the integer `1`, found {}", article(other));
                sink.error(value.span().into(), "version", message, RIGHT);
                Version::Ours
            }
        },
    }
}

fn workers(root: &Fields<'_>, limit: u16, sink: &mut Sink<'_>) -> Got<Workers> {
    let default = root.absent("workers", Workers::Auto);
    let Some(node) = root.get("workers") else {
        return default;
    };
    let right = format!("`\"auto\"` or a number from 1 to {limit}");
    let value = match node.value {
        DeValue::String(text) if text == "auto" => Some(Workers::Auto),
        DeValue::Integer(number) => match integer_of(number) {
            Some(0) => {
                node.error(sink, "no workers: nothing would carry traffic", &right);
                None
            }
            Some(count) if count > 0 && count <= i128::from(limit) => {
                Some(Workers::Count(u16::try_from(count).unwrap_or(limit)))
            }
            Some(count) if count > 0 => {
                node.error(
                    sink,
                    format!("{count} workers, but `limits.workers` is {limit}"),
                    format!("{right}; or raise `limits.workers`"),
                );
                None
            }
            _ => {
                node.error(sink, format!("{number} is out of range"), &right);
                None
            }
        },
        DeValue::String(text) => {
            node.error(
                sink,
                format!("unknown number of workers {}", shown(text)),
                &right,
            );
            None
        }
        other => {
            node.error(
                sink,
                format!(
                    "expected `\"auto\"` or an integer, found {}",
                    article(other)
                ),
                &right,
            );
            None
        }
    };
    node.got(value, default.value)
}

fn user(root: &Fields<'_>, sink: &mut Sink<'_>) -> UserSpec {
    let Some(node) = root.get("user") else {
        return UserSpec::Default;
    };
    const RIGHT: &str = "a user's name or number, such as `\"evenkeel\"`, or `\"keep\"`";
    let usual = |c: char| !c.is_control() && !c.is_whitespace() && !matches!(c, ':' | '/' | ',');
    match node.value {
        DeValue::String(text) if text == "keep" => return UserSpec::Keep,
        DeValue::String(text)
            if !text.is_empty() && text.len() <= 256 && text.chars().all(usual) =>
        {
            return UserSpec::Named(text.to_string());
        }
        DeValue::String(text) => {
            node.error(sink, format!("{} is not a user", shown(text)), RIGHT);
        }
        DeValue::Integer(number) => match integer_of(number).map(u32::try_from) {
            Some(Ok(id)) => return UserSpec::Named(id.to_string()),
            _ => node.error(sink, format!("{number} is not a user's number"), RIGHT),
        },
        other => {
            let found = article(other);
            node.error(
                sink,
                format!("expected a string or an integer, found {found}"),
                RIGHT,
            );
        }
    }
    UserSpec::Default
}

fn metrics(root: &Fields<'_>, sink: &mut Sink<'_>) -> Vec<Placed<SocketAddr>> {
    let Some(fields) = root.section("metrics", Section::Metrics, sink) else {
        return Vec::new();
    };
    let public = fields.boolean("public", None, sink);
    let Some(node) = fields.get("listen") else {
        return Vec::new();
    };
    let mut addresses: Vec<Placed<SocketAddr>> = Vec::new();
    for node in node.one_or_many() {
        let Some(address) = node.text(sink, "\"127.0.0.1:9180\"").and_then(|text| {
            parse_listen(text)
                .map_err(|(message, help)| node.error(sink, message, help))
                .ok()
        }) else {
            continue;
        };
        if !address.ip().to_canonical().is_loopback() && public.good && !public.value {
            node.error(
                sink,
                format!("other hosts can reach {address}, and metrics have no password"),
                "listen on a loopback address such as `127.0.0.1:9180`, or say `public = true`",
            );
            continue;
        }
        addresses.push(node.placed(address));
    }
    addresses
}

fn drain(root: &Fields<'_>, sink: &mut Sink<'_>) -> DrainSpec {
    let Some(fields) = root.section("drain", Section::Drain, sink) else {
        return DrainSpec::default();
    };
    DrainSpec {
        delay: fields.duration("delay", sink).value,
        deadline: fields.duration("deadline", sink).value,
        handshakes: fields.duration("handshakes", sink).value,
    }
}

fn log(root: &Fields<'_>, sink: &mut Sink<'_>) -> LogSpec {
    let Some(fields) = root.section("log", Section::Log, sink) else {
        return LogSpec::default();
    };
    LogSpec {
        level: match fields.choice("level", sink) {
            "error" => LogLevel::Error,
            "warn" => LogLevel::Warn,
            "debug" => LogLevel::Debug,
            _ => LogLevel::Info,
        },
        format: match fields.choice("format", sink) {
            "json" => LogFormat::Json,
            _ => LogFormat::Human,
        },
    }
}

fn limits(root: &Fields<'_>, sink: &mut Sink<'_>) -> Limits {
    let empty = DeTable::new();
    let fields = root
        .section("limits", Section::Limits, sink)
        .unwrap_or_else(|| Fields::empty(&empty, Section::Limits, "limits"));
    let services = fields.integer("services", None, sink);
    let listeners = fields.integer("listeners", None, sink);
    let backends = fields.integer("backends", None, sink);
    let sources = fields.integer("sources", None, sink);
    if let Some(at) = sources.at
        && !sources.value.is_multiple_of(SOURCES_STEP)
    {
        let below = sources.value / SOURCES_STEP * SOURCES_STEP;
        let message = format!("{} is not a multiple of {SOURCES_STEP}", sources.value);
        let help = format!("write {below} or {}", below + SOURCES_STEP);
        sink.error(at, &sources.key, message, help);
    }
    Limits {
        spec: LimitsSpec {
            workers: narrow(fields.integer("workers", None, sink).value),
            services: services.value,
            listeners: listeners.value,
            backends: backends.value,
            sources: sources.value,
        },
        services,
        listeners,
        backends,
    }
}

fn watchdog(root: &Fields<'_>, sink: &mut Sink<'_>) -> WatchdogSpec {
    let Some(fields) = root.section("watchdog", Section::Watchdog, sink) else {
        return WatchdogSpec::default();
    };
    let steer = fields.duration("steer_after", sink);
    let kill = fields.duration("kill_after", sink);
    if steer.good && kill.good && kill.value < steer.value {
        let (at, key) = match (kill.at, steer.at) {
            (Some(at), _) => (at, &kill.key),
            (None, at) => (at.unwrap_or(fields.at), &steer.key),
        };
        sink.error(
            at,
            key,
            format!(
                "a worker would be killed after {}, before new connections are steered away after {}",
                DurationText(kill.value),
                DurationText(steer.value)
            ),
            format!("make `kill_after` `\"{}\"` or more", DurationText(steer.value)),
        );
    }
    WatchdogSpec {
        steer_after: steer.value,
        kill_after: kill.value,
    }
}

/// The tables under `pools` or `services`, in file order.
fn named<'a>(root: &Fields<'a>, name: &'static str, sink: &mut Sink<'_>) -> Vec<Node<'a>> {
    let Some(node) = root.get(name) else {
        return Vec::new();
    };
    let Some(table) = node.value.as_table() else {
        let message = format!(
            "expected tables named `[{name}.NAME]`, found {}",
            article(node.value)
        );
        node.error(sink, message, format!("give each a name: `[{name}.web]`"));
        return Vec::new();
    };
    in_order(table)
        .map(|(key, value)| Node {
            value: value.get_ref(),
            // A table that is missing something is best shown where its name is written.
            at: key.span().into(),
            key: format!("{name}.{}", dotted(key.get_ref())),
            label: key.get_ref(),
        })
        .collect()
}
