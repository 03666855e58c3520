//! Who may come in: networks, rates and the number of connections of a listener, over all workers.
//!
//! ```text
//! accepted --> peer in `accept_proxy`?
//!               |no                     yes| header is read first (handshake.rs), then its client is asked for
//!               v                          v
//!            networks, source's rate  <----'
//! ```
//!
//! `max_connections` and `rate` are looked at at accept, whoever comes; but who is kept out by the networks or by its own rate uses
//! none of the listener's rate up, as far as the client is known then.

use std::net::{IpAddr, Ipv6Addr};

use evenkeel_balance::gcra::Limit;
use evenkeel_plan::{AdmissionSpec, ListenerCell, Network, RateSpec};
use evenkeel_scoreboard::{ListenerCount, ListenerRow, RateCell, Scoreboard};
use evenkeel_sys::clock;

use crate::mix::mix;
use crate::outcome::Outcome;

/// A cell of the table of sources: 16 bits that tell the source, 48 bits of time in microseconds, which last nine years.
const TAG_SHIFT: u32 = 48;
const TIME_MASK: u64 = (1 << TAG_SHIFT) - 1;

const MICROSECONDS: u64 = 1_000_000;

/// What a listener's connections have to pass, as numbers. One a listener and view.
#[derive(Debug)]
pub(crate) struct Admission {
    spec: AdmissionSpec,
    rate: Option<Limit>,
    source_rate: Option<Limit>,
    cell: ListenerCell,
}

impl Admission {
    pub(crate) fn new(spec: &AdmissionSpec, cell: ListenerCell) -> Self {
        let in_ns = |rate: RateSpec| Limit::per_second(rate.per_second.into(), rate.burst.into());
        Self {
            rate: spec.rate.map(in_ns),
            source_rate: spec.source_rate.map(per_second_in_us),
            spec: spec.clone(),
            cell,
        }
    }

    /// Whether connections of `peer` begin with a PROXY protocol header.
    pub(crate) fn expects_header(&self, peer: IpAddr) -> bool {
        let trusted = self.spec.accept_proxy.as_ref();
        trusted.is_some_and(|trusted| holds(&trusted.from, peer))
    }

    /// Raises the listener's gauge for a connection that was accepted, which is to be lowered at its end whatever comes out
    /// of this.
    ///
    /// # Errors
    /// How the connection ends: the listener is full, `client` may not come in, or connections come too fast. `None` = not known
    /// before the header was read.
    pub(crate) fn enter(
        &self,
        board: Scoreboard,
        row: ListenerRow,
        client: Option<IpAddr>,
    ) -> Result<(), Outcome> {
        match self.spec.max_connections {
            None => row.add(ListenerCount::Active, 1),
            Some(max) => {
                row.raise(ListenerCount::Active);
                if board.strict_listener(self.cell, ListenerCount::Active) > u64::from(max) {
                    row.add(ListenerCount::Limited, 1);
                    return Err(Outcome::Limited);
                }
            }
        }
        if let Some(client) = client {
            self.admit(board, row, client)?;
        }
        match self.rate {
            Some(limit) if !passes(board.rate(self.cell), limit, clock::monotonic_ns()) => {
                row.add(ListenerCount::RateLimited, 1);
                Err(Outcome::RateLimited)
            }
            _ => Ok(()),
        }
    }

    fn lets_in(&self, client: IpAddr) -> bool {
        let AdmissionSpec { allow, deny, .. } = &self.spec;
        !holds(deny, client) && (allow.is_empty() || holds(allow, client))
    }

    /// Looks at whose connection it is.
    ///
    /// # Errors
    /// How the connection ends: its source may not come, or comes too often.
    pub(crate) fn admit(
        &self,
        board: Scoreboard,
        row: ListenerRow,
        client: IpAddr,
    ) -> Result<(), Outcome> {
        if !self.lets_in(client) {
            row.add(ListenerCount::Denied, 1);
            return Err(Outcome::Denied);
        }
        match self.source_rate {
            Some(limit) if !source_passes(board, hash(self.cell, client), limit) => {
                row.add(ListenerCount::SourceRateLimited, 1);
                Err(Outcome::SourceRateLimited)
            }
            _ => Ok(()),
        }
    }
}

/// A source's rate, whose time is counted in microseconds.
pub(crate) fn per_second_in_us(rate: RateSpec) -> Limit {
    Limit {
        interval: MICROSECONDS.div_ceil(u64::from(rate.per_second.max(1))),
        burst: rate.burst.into(),
    }
}

/// Whether one more request of HTTP of `client` at `listener` is within `limit`. Connections of the same source count apart.
pub(crate) fn request_passes(
    board: Scoreboard,
    listener: ListenerCell,
    client: IpAddr,
    limit: Limit,
) -> bool {
    source_passes(board, mix(hash(listener, client) ^ REQUESTS), limit)
}

/// Tells requests from connections in the table of sources.
const REQUESTS: u64 = u64::from_be_bytes(*b"requests");

fn holds(networks: &[Network], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(address))
}

fn passes(cell: RateCell, limit: Limit, now: u64) -> bool {
    let mut seen = cell.load();
    loop {
        let Ok(next) = limit.step(limit.carry(seen, now), now) else {
            return false;
        };
        match cell.swap(seen, next) {
            Ok(()) => return true,
            Err(other) => seen = other,
        }
    }
}

/// A source's rate lies in one of the few cells of its set. Where others that still count have them all, the one whose burst
/// will be whole again soonest is forgotten, which is to its advantage.
fn source_passes(board: Scoreboard, hash: u64, limit: Limit) -> bool {
    // Never 0, which marks a cell that nobody has used.
    let tag = (hash & 0xffff).max(1);
    let set = board.sources(hash);
    let now = clock::monotonic_ns() / 1_000;
    loop {
        let is_ours = |cell: &RateCell| cell.load() >> TAG_SHIFT == tag;
        let cell = set.cells().find(is_ours);
        let oldest = || set.cells().min_by_key(|cell| cell.load() & TIME_MASK);
        let Some(cell) = cell.or_else(oldest) else {
            return true;
        };
        let seen = cell.load();
        let word = if seen >> TAG_SHIFT == tag {
            limit.carry(seen & TIME_MASK, now)
        } else {
            0
        };
        let Ok(next) = limit.step(word, now) else {
            return false;
        };
        if cell.swap(seen, tag << TAG_SHIFT | next & TIME_MASK).is_ok() {
            return true;
        }
    }
}

/// An IPv4 address is a source; of an IPv6 address the first 64 bits are, since a client has all the others to itself (RFC 6177).
fn hash(listener: ListenerCell, client: IpAddr) -> u64 {
    let bits = match client.to_canonical() {
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        IpAddr::V6(v6) => high_half(v6),
    };
    mix(bits ^ mix(u64::from(listener.0) + 1))
}

fn high_half(address: Ipv6Addr) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = address.octets();
    // Told from every IPv4 address.
    u64::from_be_bytes([a, b, c, d, e, f, g, h]) ^ (1 << 63 | 1 << 40)
}
