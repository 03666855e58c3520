//! Settings of single connections as texts.

use std::fmt::Display;
use std::time::Duration;

use evenkeel_plan::{
    AcceptProxySpec, AdmissionSpec, ConnectOn, Framing, KeepaliveSpec, Network, ProxyVersion,
    QueueSpec, RateSpec, SourceSpec, TimeoutsSpec,
};

use super::check::fingerprint;
use super::texts::{Texts, number_text};
use crate::value::{DurationText, SizeText};

/// Networks of a list that are named; the rest is a number and a digest.
const NAMED_MAX: usize = 8;

pub(super) fn admission_texts(admission: &AdmissionSpec) -> Texts {
    let AdmissionSpec {
        allow,
        deny,
        max_connections,
        rate,
        source_rate,
        accept_proxy,
    } = admission;
    let (rate, rate_burst) = rate_texts(*rate);
    let (source_rate, source_burst) = rate_texts(*source_rate);
    let from = match accept_proxy {
        Some(AcceptProxySpec { from }) => from.as_slice(),
        None => &[],
    };
    vec![
        ("allow", networks_text(allow, "everybody")),
        ("deny", networks_text(deny, "nobody")),
        ("max_connections", number_text(*max_connections)),
        ("rate", rate),
        ("rate_burst", rate_burst),
        ("source_rate", source_rate),
        ("source_burst", source_burst),
        ("accept_proxy", networks_text(from, "nobody")),
    ]
}

pub(super) fn rate_texts(rate: Option<RateSpec>) -> (String, String) {
    let text = |of: fn(RateSpec) -> u32| number_text(rate.map(of));
    (text(|rate| rate.per_second), text(|rate| rate.burst))
}

/// Two lists that differ anywhere have different texts, also beyond what is named.
pub(super) fn networks_text(networks: &[Network], none: &str) -> String {
    if networks.is_empty() {
        return none.to_owned();
    }
    let named = listed(&networks[..networks.len().min(NAMED_MAX)]);
    match networks.len().saturating_sub(NAMED_MAX) {
        0 => named,
        more => {
            let rest = listed(&networks[NAMED_MAX..]);
            format!("{named} and {more} more ({})", fingerprint(&rest))
        }
    }
}

pub(super) fn listed(items: &[impl Display]) -> String {
    let texts: Vec<_> = items.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

pub(super) fn source_text(source: &SourceSpec) -> String {
    match source {
        SourceSpec::Kernel => "the kernel's choice".to_owned(),
        SourceSpec::Addresses(addresses) => listed(addresses),
        SourceSpec::Client => "client".to_owned(),
    }
}

pub(super) fn send_proxy_text(version: Option<ProxyVersion>) -> &'static str {
    match version {
        None => "none",
        Some(ProxyVersion::V1) => "v1",
        Some(ProxyVersion::V2) => "v2",
    }
}

pub(super) fn connect_on_text(on: ConnectOn) -> &'static str {
    match on {
        ConnectOn::Accept => "accept",
        ConnectOn::Data => "data",
    }
}

pub(super) fn framing_texts(framing: Framing) -> Texts {
    let (framing, frame_max) = match framing {
        Framing::None => ("none", "none".to_owned()),
        Framing::Mllp { max_bytes } => ("mllp", SizeText(max_bytes.into()).to_string()),
    };
    vec![("framing", framing.to_owned()), ("frame_max", frame_max)]
}

pub(super) fn timeouts_texts(timeouts: &TimeoutsSpec) -> Texts {
    let TimeoutsSpec {
        handshake,
        idle,
        half_closed,
        total,
    } = timeouts;
    vec![
        ("timeouts.handshake", DurationText(*handshake).to_string()),
        ("timeouts.idle", or_zero(*idle)),
        ("timeouts.half_closed", or_zero(*half_closed)),
        ("timeouts.total", or_zero(*total)),
    ]
}

pub(super) fn keepalive_texts(keepalive: &KeepaliveSpec) -> Texts {
    let KeepaliveSpec {
        idle,
        interval,
        probes,
        user_timeout,
    } = keepalive;
    vec![
        ("keepalive.idle", or_zero(*idle)),
        ("keepalive.interval", DurationText(*interval).to_string()),
        ("keepalive.probes", probes.to_string()),
        ("keepalive.user_timeout", or_zero(*user_timeout)),
    ]
}

pub(super) fn queue_texts(queue: &QueueSpec) -> Texts {
    let QueueSpec { length, timeout } = queue;
    vec![
        ("queue.length", length.to_string()),
        ("queue.timeout", DurationText(*timeout).to_string()),
    ]
}

/// As it is written: `0s` is "never".
pub(super) fn or_zero(duration: Option<Duration>) -> String {
    DurationText(duration.unwrap_or_default()).to_string()
}
