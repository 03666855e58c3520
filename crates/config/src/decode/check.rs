//! Decoding of health checks: the kind, what all kinds have, and which keys belong to which.

use std::net::IpAddr;
use std::sync::Arc;

use evenkeel_plan::{CheckKind, CheckSpec, HttpRequestSpec};
use toml::de::{DeTable, DeValue};

use super::Around;
use super::couchdb::couchdb;
use super::request::requests;
use super::tls::{list, path, tls};
use crate::fields::{Fields, Node, article, in_order, narrow};
use crate::problem::{Sink, shown};
use crate::schema::{CHECK_WORDS, CheckWord, Section};
use crate::suggest::unknown_word;
use crate::value::DurationText;
use crate::written::Got;

/// Longest text that an agent is sent, in bytes.
const SEND_BYTES_MAX: usize = 1_024;

/// Most entries of `command`, and the longest, in bytes.
const COMMAND_MAX: (usize, usize) = (64, 4_096);

/// The check that `fields` of a pool or service have. `members`: how many servers the pool has, where that is known.
pub(super) fn check(
    fields: &Fields<'_>,
    members: Option<u16>,
    around: Around<'_>,
    sink: &mut Sink<'_>,
) -> Option<Arc<CheckSpec>> {
    let empty = DeTable::new();
    let mut defaults = Fields::empty(&empty, Section::Check, &fields.path("check"));
    let words = defaults.words("kind");
    let Some(node) = fields.get("check") else {
        return check_table(&defaults, CheckWord::of(words[0]), members, around, sink);
    };
    match node.value {
        DeValue::String(text) => {
            let kind = CheckWord::of(text);
            if kind.is_none() {
                unknown_word(&node, "check", text, words, sink);
                return None;
            }
            defaults.at = node.at;
            check_table(&defaults, kind, members, around, sink)
        }
        DeValue::Table(_) => {
            let fields = node.fields(Section::Check, sink)?;
            let kind = match fields.get("kind") {
                None => CheckWord::of(words[0]),
                Some(node) => {
                    let word = fields.choice("kind", sink);
                    let good = matches!(node.value, DeValue::String(text) if text == word);
                    good.then(|| CheckWord::of(word)).flatten()
                }
            };
            check_table(&fields, kind, members, around, sink)
        }
        other => {
            let found = article(other);
            let message = format!("expected a string such as `\"tcp\"` or a table, found {found}");
            node.error(
                sink,
                message,
                "`\"tcp\"`, `\"none\"`, or `{ interval = \"2s\", timeout = \"1s\" }`",
            );
            None
        }
    }
}

/// `kind`: `None` when it could not be read; then the other keys are looked at all the same.
fn check_table(
    fields: &Fields<'_>,
    kind: Option<&'static CheckWord>,
    members: Option<u16>,
    around: Around<'_>,
    sink: &mut Sink<'_>,
) -> Option<Arc<CheckSpec>> {
    let usual = kind.unwrap_or(&CHECK_WORDS[0]);
    if let Some(kind) = kind {
        strangers(fields, kind, sink);
    }
    let port = fields.port("port", sink);
    let interval = fields.duration_or("interval", Some(usual.interval), sink);
    let fast = usual.fast_interval.unwrap_or(interval.value);
    let mut fast_interval = fields.duration_or("fast_interval", Some(fast), sink);
    let mut timeout = fields.duration_or("timeout", Some(usual.timeout), sink);
    at_most(&mut fast_interval, &interval, "fast interval", sink);
    at_most(&mut timeout, &interval, "time-out", sink);
    let rise = fields.integer("rise", Some(usual.rise), sink).value;
    let fall = fields.integer("fall", Some(usual.fall), sink).value;
    let source = fields.get("source").and_then(|node| source(&node, sink));
    let jitter_percent = fields.percent("jitter", sink);
    let kind = match kind {
        Some(kind) => kind_of(fields, kind, &port, members, around, sink)?,
        None => {
            requests(fields, sink);
            couchdb(fields, members.or(Some(1)), around, sink);
            send(fields, sink);
            command(fields, sink);
            return None;
        }
    };
    Some(Arc::new(CheckSpec {
        kind,
        port: port.value.or(usual.port),
        source,
        interval: interval.value,
        fast_interval: fast_interval.value,
        timeout: timeout.value,
        rise: narrow(rise),
        fall: narrow(fall),
        jitter_percent,
    }))
}

/// `None` for `none`, and for what could not be read.
fn kind_of(
    fields: &Fields<'_>,
    kind: &CheckWord,
    port: &Got<Option<u16>>,
    members: Option<u16>,
    around: Around<'_>,
    sink: &mut Sink<'_>,
) -> Option<CheckKind> {
    Some(match kind.word {
        "none" => return None,
        "tcp" => CheckKind::Tcp,
        "tls" => CheckKind::Tls(tls(fields, around, sink)),
        "http" => CheckKind::Http {
            tls: None,
            requests: requests(fields, sink),
        },
        "https" => CheckKind::Http {
            tls: Some(tls(fields, around, sink)),
            requests: requests(fields, sink),
        },
        "couchdb" => CheckKind::CouchDb(couchdb(fields, members, around, sink)),
        "openhim" => CheckKind::Http {
            tls: Some(tls(fields, around, sink)),
            requests: vec![HttpRequestSpec {
                path: "/heartbeat".to_owned(),
                expect: vec![(200, 200)],
                ..HttpRequestSpec::default()
            }],
        },
        "agent" => {
            if port.good && port.value.is_none() {
                let message = "an `agent` check without `port`: agents have ports of their own";
                let help = "write `check = { kind = \"agent\", port = 5555 }`";
                sink.missing(fields.at, &fields.key, message, help);
            }
            CheckKind::Agent {
                send: send(fields, sink),
            }
        }
        "exec" => {
            if around.exec_refused {
                let (at, key) = match fields.get("kind") {
                    Some(node) => (node.at, node.key),
                    None => (fields.at, fields.key.clone()),
                };
                let message = "checks that run programs are not allowed here";
                let help = "write `allow_exec = true` at the top of the file, if whoever can change the file may run programs";
                sink.error(at, &key, message, help);
            }
            let command = command(fields, sink);
            if fields.get("command").is_none() {
                let message = "an `exec` check without `command`";
                let help =
                    "write `check = { kind = \"exec\", command = [\"/usr/local/bin/probe\"] }`";
                sink.missing(fields.at, &fields.key, message, help);
            }
            CheckKind::Exec { command: command? }
        }
        word => unreachable!("{word} is in the table of kinds"),
    })
}

/// Keys that belong to other kinds.
fn strangers(fields: &Fields<'_>, kind: &CheckWord, sink: &mut Sink<'_>) {
    for (name, _) in in_order(fields.table) {
        let key: &str = name.get_ref();
        let owners: Vec<_> = CHECK_WORDS
            .iter()
            .filter(|kind| kind.keys.contains(&key))
            .map(|kind| format!("`{}`", kind.word))
            .collect();
        if owners.is_empty() || kind.keys.contains(&key) {
            continue;
        }
        let first = owners[0].trim_matches('`');
        let message = format!(
            "`{key}` belongs to {} checks, and this is `{}`",
            joined(&owners),
            kind.word
        );
        let help = format!("remove it, or write `kind = \"{first}\"`");
        sink.error(name.span().into(), &fields.path(key), message, help);
    }
}

/// A list as it is read aloud.
fn joined(words: &[String]) -> String {
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => String::new(),
    }
}

/// Holds `time` to the interval: silently where it is not written.
fn at_most(
    time: &mut Got<std::time::Duration>,
    interval: &Got<std::time::Duration>,
    what: &str,
    sink: &mut Sink<'_>,
) {
    let Some(at) = time.at else {
        time.value = time.value.min(interval.value);
        return;
    };
    if time.good && interval.good && time.value > interval.value {
        let (long, short) = (DurationText(time.value), DurationText(interval.value));
        sink.error(
            at,
            &time.key,
            format!("the {what} {long} is longer than the interval {short}"),
            format!("a {what} of at most `\"{short}\"`, or an interval of at least `\"{long}\"`"),
        );
    }
}

fn source(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<IpAddr> {
    let text = node.text(sink, "\"10.0.0.1\"")?;
    let usual = |ip: &IpAddr| !ip.is_unspecified() && !ip.is_multicast();
    let found = text.parse().ok().filter(usual);
    if found.is_none() {
        let message = format!("{} is not an address of this host", shown(text));
        node.error(
            sink,
            message,
            "write an IP address without port, such as `\"10.0.0.1\"`",
        );
    }
    found
}

fn send(fields: &Fields<'_>, sink: &mut Sink<'_>) -> Option<String> {
    let node = fields.get("send")?;
    let text = node.text(sink, "\"status\\n\"")?;
    if text.is_empty() || text.len() > SEND_BYTES_MAX {
        let message = format!("a text of {} bytes is out of range", text.len());
        node.error(sink, message, format!("from 1 to {SEND_BYTES_MAX}"));
        return None;
    }
    Some(text.to_owned())
}

fn command(fields: &Fields<'_>, sink: &mut Sink<'_>) -> Option<Vec<String>> {
    const EXAMPLE: &str = "[\"/usr/local/bin/probe\"]";
    let node = fields.get("command")?;
    let (entries_max, bytes_max) = COMMAND_MAX;
    let nodes = list(&node, entries_max, EXAMPLE, sink)?;
    let mut command = Vec::with_capacity(nodes.len());
    let mut good = true;
    for (index, node) in nodes.iter().enumerate() {
        let text = match index {
            0 => path(node, "\"/usr/local/bin/probe\"", sink),
            _ => node.text(sink, "\"--fast\""),
        };
        let Some(text) = text else {
            good = false;
            continue;
        };
        if text.contains('\0') || text.len() > bytes_max {
            let message = format!("{} cannot be an argument", shown(text));
            let help = format!("no character 0, at most {bytes_max} bytes");
            node.error(sink, message, help);
            good = false;
        }
        command.push(text.to_owned());
    }
    good.then_some(command)
}
