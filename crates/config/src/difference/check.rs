//! Checks as texts. Every field is in them: two checks that differ have different texts.

use evenkeel_plan::{
    CheckKind, CheckSpec, CouchDbSpec, CredentialsSpec, HttpRequestSpec, SecretSource, TlsSpec,
};

use super::texts::Texts;
use crate::value::DurationText;

/// Key and value, before and after.
type Pair = ((&'static str, String), (&'static str, String));

/// What to compare of two checks: their settings one by one, or each as a whole where there was or will be none.
pub(super) fn check_texts(old: Option<&CheckSpec>, new: Option<&CheckSpec>) -> Vec<Pair> {
    let whole =
        |check: Option<&CheckSpec>| ("check", check.map_or_else(|| "none".to_owned(), summary));
    match (old, new) {
        (Some(old), Some(new)) => settings(old).into_iter().zip(settings(new)).collect(),
        (None, None) => Vec::new(),
        _ => vec![(whole(old), whole(new))],
    }
}

fn settings(check: &CheckSpec) -> Texts {
    let CheckSpec {
        kind,
        port,
        source,
        interval,
        fast_interval,
        timeout,
        rise,
        fall,
        jitter_percent,
    } = check;
    vec![
        ("check", kind_text(kind)),
        (
            "check.port",
            port.map_or("its own".to_owned(), |port| port.to_string()),
        ),
        (
            "check.source",
            source.map_or("any".to_owned(), |ip| ip.to_string()),
        ),
        ("check.interval", DurationText(*interval).to_string()),
        (
            "check.fast_interval",
            DurationText(*fast_interval).to_string(),
        ),
        ("check.timeout", DurationText(*timeout).to_string()),
        ("check.rise", rise.to_string()),
        ("check.fall", fall.to_string()),
        ("check.jitter", format!("{jitter_percent}%")),
    ]
}

fn summary(check: &CheckSpec) -> String {
    let mut text = kind_text(&check.kind);
    if let Some(port) = check.port {
        text.push_str(&format!(" on port {port}"));
    }
    let (interval, timeout) = (DurationText(check.interval), DurationText(check.timeout));
    let CheckSpec {
        jitter_percent,
        rise,
        fall,
        ..
    } = check;
    text.push_str(&format!(
        " every {interval} (jitter {jitter_percent}%), time-out {timeout}, rise {rise}, fall {fall}"
    ));
    text
}

fn kind_text(kind: &CheckKind) -> String {
    let word = kind.as_str();
    match kind {
        CheckKind::Tcp => word.to_owned(),
        CheckKind::Tls(tls) => format!("{word} {}", tls_text(tls)),
        CheckKind::Http { tls, requests } => {
            let requests: Vec<_> = requests.iter().map(request_text).collect();
            let tls = tls.as_ref().map(|tls| format!(" {}", tls_text(tls)));
            format!("{word}{} {}", tls.unwrap_or_default(), requests.join(", "))
        }
        CheckKind::CouchDb(couchdb) => format!("{word}{}", couchdb_text(couchdb)),
        CheckKind::Agent { send } => match send {
            Some(send) => format!("{word} sent {send:?}"),
            None => word.to_owned(),
        },
        CheckKind::Exec { command } => format!("{word} {command:?}"),
    }
}

fn tls_text(tls: &TlsSpec) -> String {
    let TlsSpec { server_name, roots } = tls;
    let verified = match roots {
        Some(roots) => format!("verified by {}", fingerprint(roots)),
        None => "unverified".to_owned(),
    };
    match server_name {
        Some(name) => format!("({verified}, as {name})"),
        None => format!("({verified})"),
    }
}

fn couchdb_text(couchdb: &CouchDbSpec) -> String {
    let CouchDbSpec {
        tls,
        credentials,
        nodes,
        names,
    } = couchdb;
    let mut text = match tls {
        Some(tls) => format!(" https {}", tls_text(tls)),
        None => String::new(),
    };
    text.push_str(&format!(" of {nodes} nodes"));
    if !names.is_empty() {
        text.push_str(&format!(" {names:?}"));
    }
    if let Some(CredentialsSpec { user, password }) = credentials {
        let (user, password) = (secret_text(user), secret_text(password));
        text.push_str(&format!(" as {user} with {password}"));
    }
    text
}

pub(super) fn secret_text(source: &SecretSource) -> String {
    match source {
        SecretSource::Environment(name) => format!("${name}"),
        SecretSource::File(path) => path.clone(),
    }
}

fn request_text(request: &HttpRequestSpec) -> String {
    let HttpRequestSpec {
        method,
        path,
        host,
        headers,
        expect,
        drain,
        body_contains,
        body_regex,
    } = request;
    let mut text = format!("{method} {path} expect {}", ranges(expect));
    if !drain.is_empty() {
        text.push_str(&format!(" drain {}", ranges(drain)));
    }
    if let Some(host) = host {
        text.push_str(&format!(" host {host}"));
    }
    for (name, value) in headers {
        text.push_str(&format!(" {name}: {value:?}"));
    }
    if let Some(part) = body_contains {
        text.push_str(&format!(" body has {part:?}"));
    }
    if let Some(pattern) = body_regex {
        text.push_str(&format!(" body matches {pattern:?}"));
    }
    text
}

fn ranges(ranges: &[(u16, u16)]) -> String {
    let range = |(first, last): &(u16, u16)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    ranges.iter().map(range).collect::<Vec<_>>().join("|")
}

/// A short text that differs where `text` does: certificates and long lists are too long to print. FNV-1a; nobody gains by making two alike.
pub(super) fn fingerprint(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}
