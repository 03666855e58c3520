//! Load by `wrk`, and what its report says.

use std::net::SocketAddr;
use std::process::Command;

/// One kind of request, over and over, by so many connections at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    path: &'static str,
    connections: u32,
    close: bool,
}

impl Load {
    /// A small answer on a connection that stays.
    pub(crate) const SMALL: Self = Self {
        path: "/small",
        connections: 64,
        close: false,
    };
    /// A small answer, and a new connection each time.
    pub(crate) const CONNECTION: Self = Self {
        path: "/small",
        connections: 64,
        close: true,
    };
    /// 1 MiB on a connection that stays.
    pub(crate) const BULK: Self = Self {
        path: "/bulk",
        connections: 8,
        close: false,
    };
}

/// What `wrk` saw.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) requests: f64,
    /// Requests a second.
    pub(crate) rate: f64,
    /// Microseconds from a request to its whole answer. A slow answer also delays the request after it: a closed loop.
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Connections that failed, and answers that were not 2xx.
    pub(crate) errors: f64,
}

/// Puts the load on `address`.
pub(crate) fn run(load: Load, address: SocketAddr, seconds: u32) -> Seen {
    let mut command = Command::new("wrk");
    command
        .args(["-t", "1", "-c", &load.connections.to_string(), "--latency"])
        .args(["-d", &format!("{seconds}s"), "--timeout", "10s"]);
    if load.close {
        command.args(["-H", "Connection: close"]);
    }
    let output = command
        .arg(format!("http://{address}{}", load.path))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    parse(&text).unwrap_or_else(|| unreachable!("wrk printed: {text}"))
}

fn parse(text: &str) -> Option<Seen> {
    let line = |begin: &str| {
        text.lines()
            .map(str::trim)
            .find(|line| line.starts_with(begin))
    };
    let requests = text.lines().find(|line| line.contains(" requests in "))?;
    let percentile = |name| microseconds(line(name)?.split_whitespace().nth(1)?);
    // `Socket errors: connect 0, read 0, write 0, timeout 0`, only where there are any.
    let socket_errors = line("Socket errors:").map_or(0.0, |line| {
        line.split([' ', ','])
            .filter_map(|word| word.parse::<f64>().ok())
            .sum()
    });
    let refused = line("Non-2xx or 3xx responses:").map_or(0.0, |line| {
        line.split_whitespace()
            .next_back()
            .and_then(|word| word.parse::<f64>().ok())
            .unwrap_or(0.0)
    });
    Some(Seen {
        requests: requests.split_whitespace().next()?.parse().ok()?,
        rate: line("Requests/sec:")?
            .split_whitespace()
            .nth(1)?
            .parse()
            .ok()?,
        p50_us: percentile("50%")?,
        p99_us: percentile("99%")?,
        errors: socket_errors + refused,
    })
}

fn microseconds(text: &str) -> Option<f64> {
    let (number, scale) = [("us", 1.0), ("ms", 1e3), ("s", 1e6), ("m", 60e6)]
        .into_iter()
        .find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, scale)))?;
    Some(number.parse::<f64>().ok()? * scale)
}
