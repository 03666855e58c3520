//! Loads, and what the client saw: `wrk` for relays, a client of our own for proxies.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use crate::client::{self, After, Order, Outcome};
use crate::idle::Idle;
use crate::template::Mode;

/// One kind of request, over and over, by so many connections at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// By `wrk`, through a relay.
    Tcp {
        path: &'static str,
        connections: u32,
        close: bool,
    },
    /// By the driver's own client, through a proxy.
    Http(Order),
}

impl Load {
    /// A small answer on a connection that stays.
    pub(crate) const SMALL: Self = Self::Tcp {
        path: "/small",
        connections: 64,
        close: false,
    };
    /// A small answer, and a new connection each time.
    pub(crate) const CONNECTION: Self = Self::Tcp {
        path: "/small",
        connections: 64,
        close: true,
    };
    /// 1 MiB on a connection that stays.
    pub(crate) const BULK: Self = Self::Tcp {
        path: "/bulk",
        connections: 8,
        close: false,
    };
    pub(crate) const HTTP_SMALL: Self = http("/short", 66, 64, After::Next);
    pub(crate) const HTTP_16K: Self = http("/16k", 16 << 10, 64, After::Next);
    pub(crate) const HTTP_1M: Self = http("/bulk", 1 << 20, 8, After::Next);
    pub(crate) const HTTP_CONNECTION: Self = http("/short", 66, 64, After::Close);
    /// As phones do it: a new connection, one request, and then they keep it and say nothing.
    pub(crate) const HTTP_CHT: Self = http("/short", 66, 64, After::Hold);

    /// What it is measured through.
    pub(crate) fn mode(self) -> Mode {
        match self {
            Self::Tcp { .. } => Mode::Tcp,
            Self::Http(_) => Mode::Http,
        }
    }

    /// Whether each request is one line of the peers' logs.
    pub(crate) fn line_each(self) -> bool {
        match self {
            Self::Tcp { close, .. } => close,
            Self::Http(_) => true,
        }
    }

    /// Puts the load on `address`. `idle` are the connections beside it.
    pub(crate) fn run(self, address: SocketAddr, seconds: u32, idle: &mut Idle) -> Seen {
        match self {
            Self::Tcp {
                path,
                connections,
                close,
            } => wrk(path, connections, close, address, seconds),
            Self::Http(order) => {
                let time = Duration::from_secs(seconds.into());
                seen(client::run(order, address, time, idle))
            }
        }
    }
}

const fn http(path: &'static str, body_bytes: usize, connections: usize, after: After) -> Load {
    Load::Http(Order {
        path,
        body_bytes,
        connections,
        after,
    })
}

/// What the client saw.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) requests: f64,
    /// Requests a second.
    pub(crate) rate: f64,
    /// Microseconds from a request to its whole answer. A slow answer also delays the request after it: a closed loop.
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Connections that failed, and answers that were not 2xx; for HTTP, not those that were asked for.
    pub(crate) errors: f64,
    /// One of them, where it is known.
    pub(crate) first_error: Option<String>,
}

fn wrk(path: &str, connections: u32, close: bool, address: SocketAddr, seconds: u32) -> Seen {
    let mut command = Command::new("wrk");
    command
        .args(["-t", "1", "-c", &connections.to_string(), "--latency"])
        .args(["-d", &format!("{seconds}s"), "--timeout", "10s"]);
    if close {
        command.args(["-H", "Connection: close"]);
    }
    let output = command
        .arg(format!("http://{address}{path}"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    parse(&text).unwrap_or_else(|| unreachable!("wrk printed: {text}"))
}

fn seen(mut outcome: Outcome) -> Seen {
    outcome.latencies_us.sort_unstable();
    let count = outcome.latencies_us.len();
    let part = |hundredths: usize| {
        let latency = outcome.latencies_us.get(count * hundredths / 100);
        latency.map_or(f64::NAN, |micros| f64::from(*micros))
    };
    let requests = f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    Seen {
        requests,
        rate: requests / outcome.took.as_secs_f64(),
        p50_us: part(50),
        p99_us: part(99),
        errors: f64::from(outcome.errors),
        first_error: outcome.first_error,
    }
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
        first_error: None,
    })
}

fn microseconds(text: &str) -> Option<f64> {
    let (number, scale) = [("us", 1.0), ("ms", 1e3), ("s", 1e6), ("m", 60e6)]
        .into_iter()
        .find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, scale)))?;
    Some(number.parse::<f64>().ok()? * scale)
}
