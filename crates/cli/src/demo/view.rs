//! What the demo shows, whichever way: the last status and what was counted a moment ago.

use std::time::Duration;

use evenkeel_control::operator::{BackendStatus, Status};
use tokio::time::Instant;

/// Rates are over at least this long.
const RATE_OVER: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct View {
    pub(super) status: Box<Status>,
    /// Connections accepted each second.
    pub(super) rate: f64,
    pub(super) started: Instant,
    counted: Instant,
    counted_connections: u64,
}

impl View {
    pub(super) fn new(status: Box<Status>, now: Instant) -> Self {
        let counted_connections = accepted(&status);
        Self {
            status,
            rate: 0.0,
            started: now,
            counted: now,
            counted_connections,
        }
    }

    pub(super) fn update(&mut self, status: Box<Status>, now: Instant) {
        self.status = status;
        let over = now.duration_since(self.counted);
        if over >= RATE_OVER {
            let connections = self.accepted();
            let new = connections.saturating_sub(self.counted_connections);
            self.rate = u32::try_from(new).map_or(f64::INFINITY, f64::from) / over.as_secs_f64();
            self.counted = now;
            self.counted_connections = connections;
        }
    }

    /// Connections accepted by all workers.
    pub(super) fn accepted(&self) -> u64 {
        accepted(&self.status)
    }

    /// Where the demo's one service listens.
    pub(super) fn address(&self) -> String {
        let services = self.status.services.iter();
        let mut addresses = services.flat_map(|service| &service.listeners);
        addresses
            .next()
            .map(ToString::to_string)
            .unwrap_or_default()
    }

    /// The backends of the demo's one service.
    pub(super) fn backends(&self) -> &[BackendStatus] {
        match self.status.services.first() {
            Some(service) => &service.backends,
            None => &[],
        }
    }

    /// `backend`'s share of all connections, 0 to 1000.
    pub(super) fn permille(&self, backend: &BackendStatus) -> u64 {
        let all: u64 = self.backends().iter().map(|b| b.connections).sum();
        (backend.connections * 1_000).checked_div(all).unwrap_or(0)
    }
}

fn accepted(status: &Status) -> u64 {
    status.workers.iter().map(|worker| worker.accepted).sum()
}
