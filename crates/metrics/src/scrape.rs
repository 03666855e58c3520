//! From the scoreboard to the text format.

use std::collections::BTreeMap;

use evenkeel_plan::{Plan, ServiceRecord, SlotIdx, Unchecked};
use evenkeel_scoreboard::{
    Admin, AdminState, BackendCount, GateState, GlobalCount, HealthState, ListenerCount,
    Scoreboard, ServiceCount, SlotState, WorkerCount,
};
use metrics::{Key, Label, Level, Metadata, Recorder as _, SharedString};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use crate::table::{self, Kind, Metric, TABLE};

/// The whole exposition at `now_ms` of the monotonic clock: everything that `plan` names, and the daemon itself.
///
/// Made afresh, so that nothing of a removed backend remains. It is not a consistent cut: workers count on meanwhile.
/// Takes some 50 ms a thousand backends, most of it in the exporter; do not call it on an event loop.
#[must_use]
pub fn scrape(board: &Scoreboard, plan: &Plan, now_ms: u64) -> String {
    let page = Page::new();
    daemon(&page, board, plan, now_ms);
    for slot in slots(board) {
        worker(&page, board, slot, now_ms);
    }
    for sealed in plan.services() {
        service(&page, board, sealed.record(), now_ms);
        listeners(&page, board, sealed.record());
        backends(&page, board, sealed.record(), now_ms);
    }
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
    page.set_seconds(table::SUPERVISOR_BEAT, &[], age_ms(beat, now_ms));
    page.set(table::LOG_DROPPED, &[], board.get(GlobalCount::LogDropped));
    let starts = board.get(GlobalCount::MonitorIncarnation);
    page.set(table::MONITOR_STARTS, &[], starts);
    let beat = board.get(GlobalCount::MonitorBeat);
    page.set_seconds(table::MONITOR_BEAT, &[], age_ms(beat, now_ms));
    page.set(table::RESOLVES, &[], board.get(GlobalCount::Resolves));
    let failures = board.get(GlobalCount::ResolveFailures);
    page.set(table::RESOLVE_FAILURES, &[], failures);
    page.set(table::WORKERS, &[], board.get(GlobalCount::Workers));
    page.set(table::SERVICES, &[], plan.services().len() as u64);
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
        SlotState::Empty => 0,
        _ => age_ms(cells.last_beat(), now_ms),
    };
    page.set_seconds(table::WORKER_BEAT, labels, age);
    let sum = |count| {
        let rows = [board.row(slot, 0), board.row(slot, 1)];
        rows.iter().map(|row| row.worker().get(count)).sum::<u64>()
    };
    for (metric, count) in [
        (table::WORKER_ACTIVE, WorkerCount::Active),
        (table::WORKER_ACCEPTED, WorkerCount::Accepted),
        (table::WORKER_ADOPTED, WorkerCount::Adopted),
        (table::WORKER_BUFFER, WorkerCount::BufferBytes),
        (table::WORKER_LOG_DROPPED, WorkerCount::LogDropped),
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

fn service(page: &Page, board: &Scoreboard, record: &ServiceRecord, now_ms: u64) {
    let name = record.name().as_str();
    for (metric, count) in [
        (table::SERVICE_ACTIVE, ServiceCount::Active),
        (table::SERVICE_CONNECTIONS, ServiceCount::Accepted),
        (table::SERVICE_RELAYED, ServiceCount::Relayed),
        (table::SERVICE_RETRIES, ServiceCount::Retries),
        (table::SERVICE_CLIENT_RESETS, ServiceCount::ClientResets),
        (table::SERVICE_BYTES_IN, ServiceCount::BytesReceived),
        (table::SERVICE_BYTES_OUT, ServiceCount::BytesSent),
    ] {
        page.set(metric, &[name], board.sum_service(record.cell, count));
    }
    for &count in ServiceCount::FAILURES {
        if let Some(reason) = count.failure() {
            let value = board.sum_service(record.cell, count);
            page.set(table::SERVICE_FAILURES, &[name, reason], value);
        }
    }
    page.set(table::SERVICE_ELIGIBLE, &[name], eligible(board, record));
    let cells = board.service(record.cell);
    let gate = cells.gate();
    for state in GateState::ALL {
        let is = u64::from(state == gate.state);
        page.set(table::SERVICE_GATE, &[name, state.as_str()], is);
    }
    page.set(table::SERVICE_GATE_CHANGES, &[name], cells.gate_changes());
    let age = age_ms(gate.since_ms, now_ms);
    page.set_seconds(table::SERVICE_GATE_LAST_CHANGE, &[name], age);
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
            let in_force = weight(admin, backend.spec.weight);
            if backend.spec.backup != backup || !is_enabled || in_force == 0 {
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

fn weight(admin: Admin, configured: u16) -> u16 {
    admin.weight.unwrap_or(configured)
}

fn listeners(page: &Page, board: &Scoreboard, record: &ServiceRecord) {
    // Several may have port 0 of one address: their sum is one series.
    let mut accepted = BTreeMap::new();
    for listener in record.listeners() {
        let count = board.sum_listener(listener.cell, ListenerCount::Accepted);
        *accepted
            .entry(listener.spec.address.to_string())
            .or_insert(0_u64) += count;
    }
    for (address, count) in accepted {
        let labels = &[record.name().as_str(), &address];
        page.set(table::LISTENER_ACCEPTED, labels, count);
    }
}

fn backends(page: &Page, board: &Scoreboard, record: &ServiceRecord, now_ms: u64) {
    let service = record.name().as_str();
    for backend in record.backends() {
        let name = backend.spec.name.as_str();
        let labels = &[service, name];
        let cells = board.backend(backend.cell);
        let verdict = cells.verdict();
        for state in HealthState::ALL {
            let labels = &[service, name, state.as_str()];
            let is = u64::from(state == verdict.state);
            page.set(table::BACKEND_STATE, labels, is);
        }
        let up = matches!(verdict.state, HealthState::Up | HealthState::Unchecked);
        page.set(table::BACKEND_UP, labels, u64::from(up));
        let admin = cells.admin();
        for (state, word) in [
            (AdminState::Enabled, "enabled"),
            (AdminState::Drain, "drain"),
            (AdminState::Disabled, "disabled"),
        ] {
            let labels = &[service, name, word];
            let is = u64::from(state == admin.state);
            page.set(table::BACKEND_ADMIN, labels, is);
        }
        let in_force = weight(admin, backend.spec.weight);
        page.set(table::BACKEND_WEIGHT, labels, u64::from(in_force));
        for (metric, count) in [
            (table::BACKEND_ACTIVE, BackendCount::Active),
            (table::BACKEND_CONNECTIONS, BackendCount::Connections),
            (
                table::BACKEND_CONNECT_FAILURES,
                BackendCount::ConnectFailures,
            ),
            (table::BACKEND_RESETS, BackendCount::Resets),
            (table::BACKEND_BYTES_IN, BackendCount::BytesSent),
            (table::BACKEND_BYTES_OUT, BackendCount::BytesReceived),
        ] {
            page.set(metric, labels, board.sum_backend(backend.cell, count));
        }
        page.set(table::BACKEND_CHECKS, labels, cells.checks());
        let failures = cells.check_failures();
        page.set(table::BACKEND_CHECK_FAILURES, labels, failures);
        page.set(table::BACKEND_STATE_CHANGES, labels, cells.transitions());
        let micros = to_f64(cells.check_duration_us());
        page.set_f64(table::BACKEND_CHECK_DURATION, labels, micros / 1e6);
        let age = age_ms(verdict.since_ms, now_ms);
        page.set_seconds(table::BACKEND_LAST_CHANGE, labels, age);
    }
}

/// Slots that were ever used: rows of others are not touched.
fn slots(board: &Scoreboard) -> impl Iterator<Item = SlotIdx> {
    let capacity = board.capacities().slots;
    let used = board.get(GlobalCount::SlotsUsed);
    let used = u16::try_from(used).map_or(capacity, |used| used.min(capacity));
    (0..used).map(SlotIdx)
}

/// 0 for what never happened.
fn age_ms(then_ms: u64, now_ms: u64) -> u64 {
    if then_ms == 0 {
        return 0;
    }
    now_ms.saturating_sub(then_ms)
}

/// Nearest 64-bit float: gauges of the format are floats.
#[expect(
    clippy::cast_precision_loss,
    reason = "exact up to 2^53, which no gauge here reaches"
)]
fn to_f64(value: u64) -> f64 {
    value as f64
}

/// An exposition under construction.
struct Page {
    recorder: PrometheusRecorder,
}

const METADATA: Metadata<'static> = Metadata::new("evenkeel", Level::INFO, None);

impl Page {
    fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        for metric in TABLE {
            let help = SharedString::const_str(metric.help);
            match metric.kind {
                Kind::Counter => recorder.describe_counter(metric.name.into(), None, help),
                Kind::Gauge => recorder.describe_gauge(metric.name.into(), None, help),
            }
        }
        Self { recorder }
    }

    fn set(&self, metric: Metric, labels: &[&str], value: u64) {
        match metric.kind {
            Kind::Counter => self
                .recorder
                .register_counter(&key(metric, labels), &METADATA)
                .absolute(value),
            Kind::Gauge => self.set_f64(metric, labels, to_f64(value)),
        }
    }

    fn set_seconds(&self, metric: Metric, labels: &[&str], millis: u64) {
        self.set_f64(metric, labels, to_f64(millis) / 1e3);
    }

    fn set_f64(&self, metric: Metric, labels: &[&str], value: f64) {
        debug_assert_eq!(metric.kind, Kind::Gauge, "{}", metric.name);
        self.recorder
            .register_gauge(&key(metric, labels), &METADATA)
            .set(value);
    }

    /// The text, families and series in the order of their names, so that two scrapes can be compared by eye.
    fn render(&self) -> String {
        let text = self.recorder.handle().render();
        let mut families: Vec<_> = text
            .split("\n\n")
            .map(|family| family.trim_matches('\n'))
            .filter(|family| !family.is_empty())
            .map(|family| {
                let mut lines: Vec<_> = family.lines().collect();
                // `# HELP` and `# TYPE` come first in byte order, too.
                lines.sort_unstable();
                lines
            })
            .collect();
        families.sort_unstable();
        let mut sorted = String::with_capacity(text.len());
        for line in families.into_iter().flatten() {
            sorted.push_str(line);
            sorted.push('\n');
        }
        sorted
    }
}

fn key(metric: Metric, values: &[&str]) -> Key {
    debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
    let labels: Vec<_> = metric
        .labels
        .iter()
        .zip(values)
        .map(|(&name, &value)| Label::new(name, value.to_owned()))
        .collect();
    Key::from_parts(metric.name, labels)
}
