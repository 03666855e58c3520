//! What is asked, and of whom: what makes two checks the same.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use evenkeel_plan::{CheckKind, CheckSpec, HttpRequestSpec};

/// One distinct check. Backends with an equal one share its answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Question {
    /// Who is asked, with the port that is asked; none = the name is not resolved.
    pub(crate) endpoints: Vec<SocketAddr>,
    /// The name that the answer may depend on: the configured host with HTTP and TLS, the backend's name with programs.
    pub(crate) name: String,
    pub(crate) check: Arc<CheckSpec>,
}

impl Question {
    pub(crate) fn new(
        check: Arc<CheckSpec>,
        mut endpoints: Vec<SocketAddr>,
        host: &str,
        identity: &str,
    ) -> Self {
        if let Some(port) = check.port {
            for endpoint in &mut endpoints {
                endpoint.set_port(port);
            }
        }
        let name = match &check.kind {
            CheckKind::Tcp | CheckKind::Agent { .. } => "",
            CheckKind::Tls(_) | CheckKind::Http { .. } | CheckKind::CouchDb(_) => host,
            CheckKind::Exec { .. } => identity
                .rsplit_once('/')
                .map_or(identity, |(_, backend)| backend),
        };
        Self {
            endpoints,
            name: name.to_owned(),
            check,
        }
    }

    /// Whether the same is asked of the same, whatever the rhythm.
    pub(crate) fn asks_the_same(&self, other: &Self) -> bool {
        self.check.kind == other.check.kind
            && self.check.source == other.check.source
            && self.name == other.name
            && self.endpoints == other.endpoints
    }

    /// Whether the same is asked on the same ports, of what may be other addresses.
    pub(crate) fn asks_elsewhere(&self, other: &Self) -> bool {
        let port = |question: &Self| question.endpoints.first().map(SocketAddr::port);
        let is_unresolved = self.endpoints.is_empty() || other.endpoints.is_empty();
        self.check.kind == other.check.kind
            && self.name == other.name
            && (is_unresolved || port(self) == port(other))
    }
}

/// The check in words, such as `GET https://10.0.0.2:8080/heartbeat expects 200`. `host` is the backend's configured host,
/// `endpoints` are its addresses with its own port.
#[must_use]
pub fn describe(check: &CheckSpec, host: &str, endpoints: &[SocketAddr]) -> String {
    let place = place(check, host, endpoints);
    match &check.kind {
        CheckKind::Tcp => format!("TCP connection to {place}"),
        CheckKind::Tls(_) => format!("TLS handshake with {place}"),
        CheckKind::Http { tls, requests } => {
            let scheme = if tls.is_some() { "https" } else { "http" };
            let requests = requests.iter().map(|request| {
                let HttpRequestSpec { method, path, .. } = request;
                let path = public_path(path);
                format!(
                    "{method} {scheme}://{place}{path} expects {}",
                    expected(request)
                )
            });
            requests.collect::<Vec<_>>().join(", ")
        }
        CheckKind::CouchDb(spec) => {
            let scheme = if spec.tls.is_some() { "https" } else { "http" };
            format!(
                "GET {scheme}://{place}/_up and /_membership expect {} nodes",
                spec.nodes
            )
        }
        CheckKind::Agent { .. } => format!("agent at {place}"),
        CheckKind::Exec { command } => {
            let program = command.first().map_or("", String::as_str);
            format!("{program} for {place}")
        }
    }
}

/// The path without its query, which may hold a key.
pub(crate) fn public_path(path: &str) -> String {
    match path.split_once('?') {
        Some((path, _)) => format!("{path}?..."),
        None => path.to_owned(),
    }
}

/// What is expected of an answer, in words.
fn expected(request: &HttpRequestSpec) -> String {
    let mut words = ranges(&request.expect);
    if let Some(text) = &request.body_contains {
        let _written = write!(words, " and {text:?} in the body");
    }
    if let Some(regex) = &request.body_regex {
        let _written = write!(words, " and a body that matches {regex:?}");
    }
    words
}

/// Status codes as `200-299, 404`.
pub(crate) fn ranges(ranges: &[(u16, u16)]) -> String {
    let range = |&(low, high): &(u16, u16)| {
        if low == high {
            low.to_string()
        } else {
            format!("{low}-{high}")
        }
    };
    ranges.iter().map(range).collect::<Vec<_>>().join(", ")
}

fn place(check: &CheckSpec, host: &str, endpoints: &[SocketAddr]) -> String {
    let with_port = |mut endpoint: SocketAddr| {
        endpoint.set_port(check.port.unwrap_or_else(|| endpoint.port()));
        endpoint
    };
    match endpoints {
        [] => format!("{host} (no address yet)"),
        [endpoint] => with_port(*endpoint).to_string(),
        [endpoint, ..] => match check.port.unwrap_or_else(|| endpoint.port()) {
            port if host.contains(':') => format!("[{host}]:{port}"),
            port => format!("{host}:{port}"),
        },
    }
}
