//! Decoding of how connections look to backends, how long they may take, and who waits.

use std::net::IpAddr;
use std::time::Duration;

use evenkeel_plan::{
    ConnectOn, ConnectSpec, Framing, KeepaliveSpec, ProxyVersion, QueueSpec, SOURCES_MAX,
    SourceSpec, TimeoutsSpec,
};
use toml::de::DeTable;

use crate::fields::{Fields, Node};
use crate::problem::{Sink, shown};
use crate::schema::Section;
use crate::value::DurationText;
use crate::written::{Got, Queue};

/// The connection to a backend; its `source` is the caller's to fill in.
pub(super) fn connect(fields: &Fields<'_>, sink: &mut Sink<'_>) -> ConnectSpec {
    let section = fields.section("connect", Section::Connect, sink);
    let usual = ConnectSpec::default();
    let (timeout, attempts) = match section {
        None => (usual.timeout, usual.attempts),
        Some(fields) => {
            let attempts = fields.integer("attempts", None, sink).value;
            (
                fields.duration("timeout", sink).value,
                u8::try_from(attempts).unwrap_or(u8::MAX),
            )
        }
    };
    ConnectSpec {
        timeout,
        attempts,
        source: usual.source,
        send_proxy: match fields.choice("send_proxy", sink) {
            "v1" => Some(ProxyVersion::V1),
            "v2" => Some(ProxyVersion::V2),
            _ => None,
        },
        on: match fields.choice("connect_on", sink) {
            "data" => ConnectOn::Data,
            _ => ConnectOn::Accept,
        },
    }
}

/// The address that backends see.
pub(super) fn source(fields: &Fields<'_>, sink: &mut Sink<'_>) -> Got<SourceSpec> {
    let Some(node) = fields.get("source") else {
        return fields.absent("source", SourceSpec::Kernel);
    };
    if node.value.as_str() == Some("client") {
        return node.got(Some(SourceSpec::Client), SourceSpec::Kernel);
    }
    let count = node.value.as_array().map_or(1, |array| array.len());
    if count == 0 || count > SOURCES_MAX {
        let message = format!("{count} addresses are out of range");
        let help = format!("from 1 to {SOURCES_MAX}; left out, the kernel chooses");
        node.error(sink, message, help);
        return node.got(None, SourceSpec::Kernel);
    }
    let mut addresses = Vec::with_capacity(count);
    let mut good = true;
    for node in node.one_or_many() {
        match own_address(&node, sink) {
            Some(address) if addresses.contains(&address) => {
                let message = format!("{address} is in `source` twice");
                node.error(sink, message, "remove one of them");
                good = false;
            }
            Some(address) => addresses.push(address),
            None => good = false,
        }
    }
    let spec = good.then_some(SourceSpec::Addresses(addresses));
    node.got(spec, SourceSpec::Kernel)
}

fn own_address(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<IpAddr> {
    let text = node.text(sink, "\"10.0.0.1\"")?;
    let usual = |ip: &IpAddr| !ip.is_unspecified() && !ip.is_multicast();
    let address = text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
    let found = address.filter(usual);
    if found.is_some() {
        return found;
    }
    let what = shown(text);
    let client = ["clientip", "transparent", "$remote_addr", "proxy"];
    let (message, help) = if text == "client" {
        (
            "`client` among addresses".to_owned(),
            "it stands alone: `source = \"client\"`",
        )
    } else if client.contains(&text) || text.starts_with("client") {
        (
            format!("{what} is not an address of this host; did you mean `client`?"),
            "",
        )
    } else if address.is_some_and(|ip| ip.is_unspecified()) {
        (
            format!("{what} is not an address of this host"),
            "leave `source` out and the kernel chooses",
        )
    } else {
        (
            format!("{what} is not an address of this host"),
            "write an IP address without port, such as `\"10.0.0.1\"`, or `\"client\"`",
        )
    };
    node.error(sink, message, help);
    None
}

pub(super) fn framing(fields: &Fields<'_>, sink: &mut Sink<'_>) -> Framing {
    let framing = fields.choice("framing", sink);
    let frame_max = fields.size("frame_max", sink);
    if framing == "mllp" {
        return Framing::Mllp {
            max_bytes: frame_max.value,
        };
    }
    // A word that is not known is reported, and may have been meant.
    let none = |node: Node<'_>| node.value.as_str() == Some("none");
    if fields.get("framing").is_none_or(none)
        && let Some(at) = frame_max.at
    {
        let message = "`frame_max` without `framing = \"mllp\"`: there are no frames";
        let help = "write `framing = \"mllp\"`, or leave `frame_max` out";
        sink.missing(at, &frame_max.key, message, help);
    }
    Framing::None
}

pub(super) fn timeouts(fields: &Fields<'_>, sink: &mut Sink<'_>) -> TimeoutsSpec {
    let Some(fields) = fields.section("timeouts", Section::Timeouts, sink) else {
        return TimeoutsSpec::default();
    };
    TimeoutsSpec {
        handshake: fields.duration("handshake", sink).value,
        idle: unless_zero(fields.duration("idle", sink).value),
        half_closed: unless_zero(fields.duration("half_closed", sink).value),
        total: unless_zero(fields.duration("total", sink).value),
    }
}

pub(super) fn keepalive(fields: &Fields<'_>, sink: &mut Sink<'_>) -> KeepaliveSpec {
    let Some(fields) = fields.section("keepalive", Section::Keepalive, sink) else {
        return KeepaliveSpec::default();
    };
    let probes = fields.integer("probes", None, sink).value;
    KeepaliveSpec {
        idle: unless_zero(whole_seconds(fields.duration("idle", sink), KERNEL, sink)),
        interval: whole_seconds(fields.duration("interval", sink), KERNEL, sink),
        probes: u8::try_from(probes).unwrap_or(u8::MAX),
        user_timeout: unless_zero(fields.duration("user_timeout", sink).value),
    }
}

/// Who takes keepalive's times in seconds.
const KERNEL: &str = "the kernel counts";

/// A time that counts in seconds alone, because of what `who` says.
pub(super) fn whole_seconds(got: Got<Duration>, who: &str, sink: &mut Sink<'_>) -> Duration {
    if let Some(at) = got.at
        && got.value.subsec_nanos() != 0
    {
        let below = Duration::from_secs(got.value.as_secs());
        let above = below + Duration::from_secs(1);
        let message = format!("`{}` is not whole seconds", DurationText(got.value));
        let help = match below.is_zero() {
            true => format!("{who} in seconds: write `\"{}\"`", DurationText(above)),
            false => format!(
                "{who} in seconds: write `\"{}\"` or `\"{}\"`",
                DurationText(below),
                DurationText(above)
            ),
        };
        sink.error(at, &got.key, message, help);
    }
    got.value
}

pub(super) fn queue(fields: &Fields<'_>, sink: &mut Sink<'_>) -> Queue {
    let node = fields.get("queue");
    let empty = DeTable::new();
    let at = node.as_ref().map(|node| (node.at, node.key.clone()));
    let fields = node
        .and_then(|node| node.fields(Section::Queue, sink))
        .unwrap_or_else(|| Fields::empty(&empty, Section::Queue, "queue"));
    Queue {
        spec: QueueSpec {
            length: fields.integer("length", None, sink).value,
            timeout: fields.duration("timeout", sink).value,
        },
        at,
    }
}

/// `0s` is how "never" is written.
pub(super) fn unless_zero(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration)
}
