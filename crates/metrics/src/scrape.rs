//! From the scoreboard to the text format.

use std::collections::BTreeMap;

use evenkeel_plan::{BackendSpec, ListenerCell, Plan, ServiceRecord, SlotIdx, Unchecked};
use evenkeel_scoreboard::{
    AdminState, BackendCells, BackendCount, GateState, GlobalCount, HealthState, Latency,
    ListenerCount, Scoreboard, ServiceCount, SlotState, WorkerCount,
};

use crate::exposition::{Labels, Page, to_f64};
use crate::table;

/// The whole exposition at `now_ms` of the monotonic clock: everything that `plan` names, and the daemon itself.
///
/// Made afresh, so that nothing of a removed backend remains. It is not a consistent cut: workers count on meanwhile.
/// Takes some 10 ms and 4 MB a thousand backends; do not call it on an event loop.
#[must_use]
pub fn scrape(board: &Scoreboard, plan: &Plan, now_ms: u64) -> String {
    let mut page = Page::new();
    daemon(&page, board, plan, now_ms);
    workers(&page, board, now_ms);
    services(&mut page, board, plan, now_ms);
    requests(&mut page, board, plan);
    listeners(&mut page, board, plan);
    backends(&mut page, board, plan, now_ms);
    page.render()
}

fn daemon(page: &Page, board: &Scoreboard, plan: &Plan, now_ms: u64) {
    page.set(table::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1);
    page.set(table::READY, &[], board.get(GlobalCount::Ready));
    page.set(table::START_TIME, &[], board.get(GlobalCount::Started));
    page.set(table::GENERATION, &[], board.generation());
    let (applied, refused) = (
        board.get(GlobalCount::ReloadsApplied),
        board.get(GlobalCount::ReloadsRefused),
    );
    page.set(table::RELOADS, &["applied"], applied);
    page.set(table::RELOADS, &["refused"], refused);
    let last = board.get(GlobalCount::LastReload);
    page.set(table::LAST_RELOAD, &[], last);
    let success = last == 0 || board.get(GlobalCount::LastReloadApplied) == 1;
    page.set(table::LAST_RELOAD_SUCCESS, &[], u64::from(success));
    let limit = board.get(GlobalCount::DescriptorLimit);
    page.set(table::DESCRIPTOR_LIMIT, &[], limit);
    let beat = board.get(GlobalCount::SupervisorBeat);
    page.set_f64(table::SUPERVISOR_BEAT, &[], age(beat, now_ms));
    for (metric, count) in [
        (table::LOG_DROPPED, GlobalCount::LogDropped),
        (table::LOG_UNWRITTEN, GlobalCount::LogUnwritten),
        (table::ACCESS_LOG_UNWRITTEN, GlobalCount::AccessLogUnwritten),
    ] {
        page.set(metric, &[], board.get(count));
    }
    let sources = board.capacities().sources;
    page.set(table::SOURCES_CAPACITY, &[], u64::from(sources));
    let starts = board.get(GlobalCount::MonitorIncarnation);
    page.set(table::MONITOR_STARTS, &[], starts);
    let beat = board.get(GlobalCount::MonitorBeat);
    page.set_f64(table::MONITOR_BEAT, &[], age(beat, now_ms));
    page.set(table::RESOLVES, &[], board.get(GlobalCount::Resolves));
    let failures = board.get(GlobalCount::ResolveFailures);
    page.set(table::RESOLVE_FAILURES, &[], failures);
    page.set(table::WORKERS, &[], board.get(GlobalCount::Workers));
    page.set(table::SERVICES, &[], plan.services().len() as u64);
}

fn workers(page: &Page, board: &Scoreboard, now_ms: u64) {
    let mut active_of_live = Vec::new();
    for slot in slots(board) {
        worker(page, board, slot, now_ms);
        if board.slot(slot).state() == SlotState::Live {
            active_of_live.push(sum_of_slot(board, slot, WorkerCount::Active));
        }
    }
    page.set_f64(table::WORKER_IMBALANCE, &[], imbalance(&active_of_live));
}

/// The most to the mean; 1 where there is nothing to share out.
fn imbalance(active: &[u64]) -> f64 {
    let (most, sum) = (active.iter().max(), active.iter().sum::<u64>());
    match most {
        Some(most) if sum > 0 => to_f64(most * active.len() as u64) / to_f64(sum),
        _ => 1.0,
    }
}

/// Both rows of the slot.
fn sum_of_slot(board: &Scoreboard, slot: SlotIdx, count: WorkerCount) -> u64 {
    let rows = [board.row(slot, 0), board.row(slot, 1)];
    rows.iter().map(|row| row.worker().get(count)).sum()
}

fn worker(page: &Page, board: &Scoreboard, slot: SlotIdx, now_ms: u64) {
    let cells = board.slot(slot);
    let name = slot.to_string();
    let labels = &[name.as_str()];
    let state = cells.state();
    for other in SlotState::ALL {
        let is = u64::from(other == state);
        page.set(table::WORKER_STATE, &[&name, other.as_str()], is);
    }
    page.set(table::WORKER_STARTS, labels, cells.incarnation());
    page.set(table::WORKER_CRASHES, labels, cells.crashes());
    page.set(table::WORKER_GENERATION, labels, cells.generation());
    let age = match state {
        SlotState::Empty => 0.0,
        _ => age(cells.last_beat(), now_ms),
    };
    page.set_f64(table::WORKER_BEAT, labels, age);
    let sum = |count| sum_of_slot(board, slot, count);
    for (metric, count) in [
        (table::WORKER_ACTIVE, WorkerCount::Active),
        (table::WORKER_ACCEPTED, WorkerCount::Accepted),
        (table::WORKER_ADOPTED, WorkerCount::Adopted),
        (table::WORKER_BUFFER, WorkerCount::BufferBytes),
        (table::WORKER_LOG_DROPPED, WorkerCount::LogDropped),
        (table::WORKER_PARKED, WorkerCount::Parked),
        (
            table::WORKER_ACCESS_LOG_DROPPED,
            WorkerCount::AccessLogDropped,
        ),
        (table::WORKER_REFUSED, WorkerCount::Refused),
    ] {
        page.set(metric, labels, sum(count));
    }
    for (reason, count) in [
        ("aborted", WorkerCount::AcceptAborted),
        ("exhausted", WorkerCount::AcceptExhausted),
    ] {
        page.set(table::WORKER_ACCEPT_ERRORS, &[&name, reason], sum(count));
    }
}

fn services(page: &mut Page, board: &Scoreboard, plan: &Plan, now_ms: u64) {
    let services: Vec<_> = plan
        .services()
        .map(|sealed| {
            let record = sealed.record();
            let labels = Labels::new(&["service"], &[record.name().as_str()]);
            (labels, record)
        })
        .collect();
    for (metric, count) in [
        (table::SERVICE_ACTIVE, ServiceCount::Active),
        (table::SERVICE_QUEUED, ServiceCount::Queued),
        (table::SERVICE_CONNECTIONS, ServiceCount::Accepted),
        (table::SERVICE_RELAYED, ServiceCount::Relayed),
        (table::SERVICE_RETRIES, ServiceCount::Retries),
        (table::SERVICE_WAITED, ServiceCount::Waited),
        (table::SERVICE_CLIENT_RESETS, ServiceCount::ClientResets),
        (table::SERVICE_BYTES_IN, ServiceCount::BytesReceived),
        (table::SERVICE_BYTES_OUT, ServiceCount::BytesSent),
    ] {
        page.each(metric, &services, |record| {
            board.sum_service(record.cell, count)
        });
    }
    page.family(table::SERVICE_FAILURES, |family| {
        for (labels, record) in &services {
            for &count in ServiceCount::FAILURES {
                if let Some(reason) = count.failure() {
                    let value = board.sum_service(record.cell, count);
                    family.add_with(labels, reason, value);
                }
            }
        }
    });
    for (metric, latency) in [
        (table::SERVICE_CONNECT, Latency::Connect),
        (table::SERVICE_FIRST_BYTE, Latency::FirstByte),
        (table::SERVICE_DURATION, Latency::Duration),
    ] {
        page.family(metric, |family| {
            for (labels, record) in &services {
                family.add_histogram(labels, &board.sum_latency(record.cell, latency));
            }
        });
    }
    page.family(table::SERVICE_ELIGIBLE, |family| {
        for (labels, record) in &services {
            // None of none is no trouble: its routes send requests elsewhere.
            if !record.spec.backends.is_empty() {
                family.add(labels, eligible(board, record));
            }
        }
    });
    let words = GateState::ALL.map(GateState::as_str);
    page.one_of_many(table::SERVICE_GATE, &services, &words, |record| {
        board.service(record.cell).gate().state.as_str()
    });
    page.each(table::SERVICE_GATE_CHANGES, &services, |record| {
        board.service(record.cell).gate_changes()
    });
    page.each(table::SERVICE_GATE_LAST_CHANGE, &services, |record| {
        age(board.service(record.cell).gate().since_ms, now_ms)
    });
}

/// What services that speak HTTP say of requests.
fn requests(page: &mut Page, board: &Scoreboard, plan: &Plan) {
    let records = plan.services().map(|sealed| sealed.record());
    let services: Vec<_> = records
        .filter(|record| record.spec.http.is_some())
        .map(|record| {
            let labels = Labels::new(&["service"], &[record.name().as_str()]);
            (labels, record.cell)
        })
        .collect();
    for (metric, count) in [
        (table::HTTP_REQUESTS, ServiceCount::Requests),
        (table::HTTP_ACTIVE, ServiceCount::ActiveRequests),
        (table::HTTP_UPGRADES, ServiceCount::Upgrades),
        (table::HTTP_OWN_ANSWERS, ServiceCount::OwnAnswers),
        (table::HTTP_RESENT, ServiceCount::Resent),
        (table::HTTP_BUDGET_SPENT, ServiceCount::BudgetSpent),
    ] {
        page.each(metric, &services, |cell| board.sum_service(*cell, count));
    }
    let classes: &[_] = &[
        (ServiceCount::Answers2xx, "2xx"),
        (ServiceCount::Answers3xx, "3xx"),
        (ServiceCount::Answers4xx, "4xx"),
        (ServiceCount::Answers5xx, "5xx"),
    ];
    for (metric, words) in [
        (table::HTTP_RESPONSES, classes),
        (table::HTTP_FAILURES, ServiceCount::REQUEST_FAILURES),
    ] {
        page.family(metric, |family| {
            for (labels, cell) in &services {
                for (count, word) in words {
                    family.add_with(labels, word, board.sum_service(*cell, *count));
                }
            }
        });
    }
}

/// Backends in use: those known to be good, or, while there is none, those of which nothing is known yet; backups only while
/// there is nobody else. The service's policy may want it otherwise.
fn eligible(board: &Scoreboard, record: &ServiceRecord) -> u64 {
    let policy = &record.spec.policy;
    let gate = board.service(record.cell).gate().state;
    if gate == GateState::Closed {
        return 0;
    }
    let eligible_of = |backup: bool| {
        let (mut good, mut unknown) = (0, 0);
        for backend in record.backends() {
            let cells = board.backend(backend.cell);
            let admin = cells.admin();
            let is_enabled = admin.state == AdminState::Enabled;
            let has_share = weight(cells, backend.spec.weight) > 0.0;
            let is_known = !backend.endpoints.is_empty();
            if backend.spec.backup != backup || !is_enabled || !has_share || !is_known {
                continue;
            }
            match (cells.verdict().state, policy.unchecked) {
                _ if gate == GateState::Panic => good += 1,
                (HealthState::Up | HealthState::Unchecked, _)
                | (HealthState::Starting, Unchecked::Always) => good += 1,
                (HealthState::Starting, Unchecked::IfNoneUp) => unknown += 1,
                (HealthState::Starting, Unchecked::Never)
                | (HealthState::Down | HealthState::Drain | HealthState::Maint, _) => {}
            }
        }
        (good, unknown)
    };
    let [(good, unknown), (good_backups, unknown_backups)] = [false, true].map(eligible_of);
    [good, unknown, good_backups, unknown_backups]
        .into_iter()
        .find(|count| *count > 0)
        .unwrap_or(0)
}

/// An operator's word comes before the plan's, and the backend's own agent may ask for a share of either.
fn weight(cells: BackendCells, configured: u16) -> f64 {
    let weight = f64::from(cells.admin().weight.unwrap_or(configured));
    let percent = cells.agent_percent();
    percent.map_or(weight, |percent| weight * f64::from(percent) / 100.0)
}

/// Listeners of a service that have the same configured address. Several may have port 0: their sum is one series.
#[derive(Default)]
struct Listeners {
    cells: Vec<ListenerCell>,
    /// All their limits together; `None` while one of them has none.
    max_connections: Option<u64>,
}

fn listeners(page: &mut Page, board: &Scoreboard, plan: &Plan) {
    let mut listeners = Vec::new();
    for sealed in plan.services() {
        let record = sealed.record();
        let mut by_address: BTreeMap<_, Listeners> = BTreeMap::new();
        for listener in record.listeners() {
            let address = listener.spec.address.to_string();
            let limit = listener.spec.admission.max_connections.map(u64::from);
            let group = by_address.entry(address).or_default();
            let before = match group.cells[..] {
                [] => Some(0),
                _ => group.max_connections,
            };
            group.max_connections = before.zip(limit).map(|(before, limit)| before + limit);
            group.cells.push(listener.cell);
        }
        listeners.extend(by_address.into_iter().map(|(address, group)| {
            let labels = Labels::new(&["service", "address"], &[record.name().as_str(), &address]);
            (labels, group)
        }));
    }
    let sum = |group: &Listeners, count| -> u64 {
        let cells = group.cells.iter();
        cells.map(|&cell| board.sum_listener(cell, count)).sum()
    };
    page.each(table::LISTENER_ACTIVE, &listeners, |group| {
        sum(group, ListenerCount::Active)
    });
    page.each(table::LISTENER_ACCEPTED, &listeners, |group| {
        sum(group, ListenerCount::Accepted)
    });
    page.family(table::LISTENER_MAX_CONNECTIONS, |family| {
        for (labels, group) in &listeners {
            if let Some(limit) = group.max_connections {
                family.add(labels, limit);
            }
        }
    });
    page.family(table::LISTENER_REFUSED, |family| {
        for (labels, group) in &listeners {
            for (reason, count) in [
                ("max_connections", ListenerCount::Limited),
                ("rate", ListenerCount::RateLimited),
                ("source_rate", ListenerCount::SourceRateLimited),
                ("denied", ListenerCount::Denied),
            ] {
                family.add_with(labels, reason, sum(group, count));
            }
        }
    });
}

fn backends(page: &mut Page, board: &Scoreboard, plan: &Plan, now_ms: u64) {
    let mut backends = Vec::new();
    let mut of_http = Vec::new();
    for sealed in plan.services() {
        let service = sealed.record().name().as_str();
        if sealed.record().spec.http.is_some() {
            of_http.push(backends.len()..backends.len() + sealed.record().backends().count());
        }
        backends.extend(sealed.record().backends().map(|backend| {
            let labels = Labels::new(
                &["service", "backend"],
                &[service, backend.spec.name.as_str()],
            );
            (labels, (backend, board.backend(backend.cell)))
        }));
    }
    let words = HealthState::ALL.map(HealthState::as_str);
    page.one_of_many(table::BACKEND_STATE, &backends, &words, |(_, cells)| {
        cells.verdict().state.as_str()
    });
    page.each(table::BACKEND_UP, &backends, |(_, cells)| {
        u8::from(cells.verdict().state.is_healthy())
    });
    let words = ["enabled", "drain", "disabled"];
    page.one_of_many(
        table::BACKEND_ADMIN,
        &backends,
        &words,
        |(_, cells)| match cells.admin().state {
            AdminState::Enabled => "enabled",
            AdminState::Drain => "drain",
            AdminState::Disabled => "disabled",
        },
    );
    page.each(table::BACKEND_WEIGHT, &backends, |(backend, cells)| {
        weight(*cells, backend.spec.weight)
    });
    page.family(table::BACKEND_MAX_CONNECTIONS, |family| {
        for (labels, (backend, cells)) in &backends {
            if let Some(limit) = max_connections(backend.spec, cells) {
                family.add(labels, limit);
            }
        }
    });
    for (metric, count) in [
        (table::BACKEND_ACTIVE, BackendCount::Active),
        (table::BACKEND_CONNECTIONS, BackendCount::Connections),
        (
            table::BACKEND_CONNECT_FAILURES,
            BackendCount::ConnectFailures,
        ),
        (
            table::BACKEND_CONNECT_TIMEOUTS,
            BackendCount::ConnectTimeouts,
        ),
        (table::BACKEND_RESETS, BackendCount::Resets),
        (table::BACKEND_BYTES_IN, BackendCount::BytesSent),
        (table::BACKEND_BYTES_OUT, BackendCount::BytesReceived),
    ] {
        page.each(metric, &backends, |(backend, _)| {
            board.sum_backend(backend.cell, count)
        });
    }
    for (metric, count) in [
        (table::BACKEND_HTTP_REQUESTS, BackendCount::Requests),
        (table::BACKEND_HTTP_REUSED, BackendCount::Reused),
        (table::BACKEND_HTTP_IDLE, BackendCount::Idle),
        (table::BACKEND_HTTP_5XX, BackendCount::Answers5xx),
        (table::BACKEND_HTTP_BAD_ANSWERS, BackendCount::BadAnswers),
    ] {
        page.family(metric, |family| {
            let of_http = of_http.iter().cloned();
            for (labels, (backend, _)) in of_http.flat_map(|range| &backends[range]) {
                family.add(labels, board.sum_backend(backend.cell, count));
            }
        });
    }
    page.each(table::BACKEND_CHECKS, &backends, |(_, cells)| {
        cells.checks()
    });
    page.each(table::BACKEND_CHECK_FAILURES, &backends, |(_, cells)| {
        cells.check_failures()
    });
    page.each(table::BACKEND_STATE_CHANGES, &backends, |(_, cells)| {
        cells.transitions()
    });
    page.each(table::BACKEND_CHECK_DURATION, &backends, |(_, cells)| {
        to_f64(cells.check_duration_us()) / 1e6
    });
    page.each(table::BACKEND_LAST_CHANGE, &backends, |(_, cells)| {
        age(cells.verdict().since_ms, now_ms)
    });
}

/// The lower of what the plan and the backend's agent say.
fn max_connections(spec: &BackendSpec, cells: &BackendCells) -> Option<u32> {
    let limits = [spec.max_connections, cells.agent_limit()];
    limits.into_iter().flatten().min()
}

/// Slots that were ever used: rows of others are not touched.
fn slots(board: &Scoreboard) -> impl Iterator<Item = SlotIdx> {
    let capacity = board.capacities().slots;
    let used = board.get(GlobalCount::SlotsUsed);
    let used = u16::try_from(used).map_or(capacity, |used| used.min(capacity));
    (0..used).map(SlotIdx)
}

/// In seconds; 0 for what never happened.
fn age(then_ms: u64, now_ms: u64) -> f64 {
    if then_ms == 0 {
        return 0.0;
    }
    to_f64(now_ms.saturating_sub(then_ms)) / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_worker_is_compared_with_the_mean() {
        for (active, expected) in [
            (&[][..], 1.0),
            (&[0, 0], 1.0),
            (&[7], 1.0),
            (&[5, 5, 5], 1.0),
            (&[6, 2], 1.5),
            (&[0, 0, 0, 9], 4.0),
        ] {
            assert_eq!(imbalance(active), expected, "{active:?}");
        }
    }
}
