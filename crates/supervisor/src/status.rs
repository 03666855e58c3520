//! What `evenkeel status` shows.

use std::time::Duration;

use evenkeel_control::operator::{
    BackendHttpStatus, BackendStatus, HttpStatus, ListenerLimit, MonitorStatus, ServiceStatus,
    Status, WorkerStatus,
};
use evenkeel_plan::{BackendRecord, Require, ServiceRecord, SlotIdx};
use evenkeel_scoreboard::{
    BackendCount, GlobalCount, ListenerCount, ServiceCount, SlotState, WorkerCount,
};
use evenkeel_sys::clock::{monotonic_ms, unix_seconds};

use crate::admin::Entry;
use crate::life::{ChildPhase, Phase, Who};
use crate::perform::{Supervisor, has_ended, slot_state};

/// The monitor counts as late here when it has not turned for this long.
const MONITOR_LATE_MS: u64 = 1_000;

/// What went wrong at the start, and is over, is shown for this long.
const START_WARNINGS_FOR: Duration = Duration::from_secs(3_600);

impl Supervisor {
    pub(crate) fn status(&self) -> Status {
        Status {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            phase: self.state.phase.as_str().to_owned(),
            started_unix: self.board.get(GlobalCount::Started),
            config: self.config.display().to_string(),
            generation: self.plan.generation,
            last_reload: self.last_reload.clone(),
            descriptor_limit: self.descriptor_limit,
            metrics: self.metrics.values().map(|(address, _)| *address).collect(),
            descriptor_store: self.store.keeps(),
            warnings: self.status_warnings(),
            monitor: self.monitor_status(),
            workers: self.worker_statuses(),
            services: self
                .plan
                .services()
                .map(|sealed| self.service_status(sealed.record()))
                .collect(),
        }
    }

    fn status_warnings(&self) -> Vec<String> {
        let mut warnings = self.warnings.clone();
        if self.began.elapsed() < START_WARNINGS_FOR {
            warnings.extend(self.start_warnings.iter().cloned());
        }
        warnings.extend(self.keeper.problem.iter().cloned());
        warnings.extend(crate::secrets::problems(&self.secrets));
        if let Some(reload) = self.last_reload.as_ref().filter(|reload| !reload.applied) {
            warnings.push(format!("the last reload was refused: {}", reload.message));
        }
        warnings
    }

    fn monitor_status(&self) -> MonitorStatus {
        let now = self.began.elapsed();
        let age_ms = monotonic_ms().saturating_sub(self.board.get(GlobalCount::MonitorBeat));
        let is_over = matches!(self.state.phase, Phase::Draining | Phase::Ended);
        let state = match self.state.monitor.phase {
            ChildPhase::Absent { .. } if is_over => "ended",
            ChildPhase::Absent { not_before } if not_before > now => "backing-off",
            ChildPhase::Absent { .. } | ChildPhase::Started { .. } => "starting",
            ChildPhase::Live { .. } if age_ms < MONITOR_LATE_MS => "live",
            ChildPhase::Live { .. } | ChildPhase::Late { .. } => "late",
            ChildPhase::Draining { .. } => "draining",
        };
        MonitorStatus {
            pid: self.children.get(Who::Monitor).map_or(0, |child| child.pid),
            state: state.to_owned(),
            incarnation: self.state.monitor.incarnation,
            age_ms,
        }
    }

    fn worker_statuses(&self) -> Vec<WorkerStatus> {
        let now = self.began.elapsed();
        let now_ms = monotonic_ms();
        let slots = self.state.slots.iter().enumerate();
        slots
            .filter_map(|(index, slot)| {
                let index = u16::try_from(index).ok()?;
                let state = slot_state(self.state.phase, slot, now);
                let has_ended = has_ended(self.state.phase, slot);
                let cells = self.board.slot(SlotIdx(index));
                let counts = self.board.row(SlotIdx(index), 0).worker();
                let running = self.children.get(Who::Worker(SlotIdx(index)));
                (state != SlotState::Empty || has_ended).then(|| WorkerStatus {
                    slot: index,
                    pid: running.map_or(0, |running| running.pid),
                    state: if has_ended { "ended" } else { state.as_str() }.to_owned(),
                    incarnation: cells.incarnation(),
                    crashes: cells.crashes(),
                    adopted_by: slot.adopted_by.map(|by| by.0),
                    generation: cells.generation(),
                    heartbeat_age_ms: now_ms.saturating_sub(cells.last_beat()),
                    cpu: self.machine.cpu(index, self.state.settings.workers),
                    active: counts.get(WorkerCount::Active),
                    accepted: counts.get(WorkerCount::Accepted),
                    adopted: counts.get(WorkerCount::Adopted),
                    accept_exhausted: counts.get(WorkerCount::AcceptExhausted),
                    refused: counts.get(WorkerCount::Refused),
                    log_dropped: counts.get(WorkerCount::LogDropped),
                })
            })
            .collect()
    }

    fn service_status(&self, record: &ServiceRecord) -> ServiceStatus {
        let sum = |count| self.board.sum_service(record.cell, count);
        let failed = ServiceCount::FAILURES
            .iter()
            .filter_map(|&count| Some((count.failure()?.to_owned(), sum(count))));
        let backends: Vec<BackendStatus> = record
            .backends()
            .map(|backend| self.backend_status(record, &backend))
            .collect();
        let gate = self.board.service(record.cell).gate();
        ServiceStatus {
            name: record.name().to_string(),
            listeners: record
                .listeners()
                .filter_map(|listener| self.sockets.address(listener.cell))
                .collect(),
            limits: self.listener_limits(record),
            scheduler: record.spec.scheduler.as_str().to_owned(),
            pool: record.spec.pool.as_ref().map(ToString::to_string),
            active: sum(ServiceCount::Active),
            queued: sum(ServiceCount::Queued),
            accepted: sum(ServiceCount::Accepted),
            relayed: sum(ServiceCount::Relayed),
            failed: failed.collect(),
            retries: sum(ServiceCount::Retries),
            bytes_received: sum(ServiceCount::BytesReceived),
            bytes_sent: sum(ServiceCount::BytesSent),
            accepted_by_slot: self.accepted_by_slot(record),
            serving: is_router(record) || self.eligibility(record).serves(),
            gate: gate.state.as_str().to_owned(),
            gate_since_unix: unix_of(gate.since_ms),
            gate_reason: self.gate_reason(record),
            require: require_words(record.spec.policy.require),
            http: record.spec.http.is_some().then(|| http_status(&sum)),
            backends,
        }
    }

    fn listener_limits(&self, record: &ServiceRecord) -> Vec<ListenerLimit> {
        let listeners = record.listeners();
        listeners
            .filter_map(|listener| {
                let max_connections = listener.spec.admission.max_connections?;
                Some(ListenerLimit {
                    address: self.sockets.address(listener.cell)?,
                    active: self
                        .board
                        .sum_listener(listener.cell, ListenerCount::Active),
                    max_connections,
                })
            })
            .collect()
    }

    fn accepted_by_slot(&self, record: &ServiceRecord) -> std::collections::BTreeMap<u16, u64> {
        let used = self.board.get(GlobalCount::SlotsUsed);
        (0..u16::try_from(used).unwrap_or(u16::MAX))
            .map(|slot| {
                let row = self.board.row(SlotIdx(slot), 0);
                (slot, row.service(record.cell).get(ServiceCount::Accepted))
            })
            .collect()
    }

    pub(crate) fn backend_status(
        &self,
        record: &ServiceRecord,
        backend: &BackendRecord<'_>,
    ) -> BackendStatus {
        let sum = |count| self.board.sum_backend(backend.cell, count);
        let cells = self.board.backend(backend.cell);
        let verdict = cells.verdict();
        let identity = record.identity(&backend.spec.name);
        let report = self.report(backend.cell, &identity);
        let check = backend.spec.check.as_ref();
        BackendStatus {
            name: backend.spec.name.to_string(),
            address: backend.spec.address.to_string(),
            endpoints: backend.endpoints.to_vec(),
            weight: backend.spec.weight,
            backup: backend.spec.backup,
            admin: self.admin.get(&identity).map(Entry::status),
            check: check.map_or("none", |check| check.kind.as_str()).to_owned(),
            next_ms: report.map_or(0, |report| report.next_ms),
            state: verdict.state.as_str().to_owned(),
            since_unix: unix_of(verdict.since_ms),
            // The state changes at once; the word why comes a moment later, and one of another state would mislead.
            reason: report
                .filter(|report| report.state == verdict.state.as_str())
                .map_or_else(String::new, |report| report.reason.clone()),
            answer: report.map_or_else(String::new, |report| report.answer.clone()),
            check_ms: Duration::from_micros(cells.check_duration_us()).as_secs_f64() * 1_000.0,
            checked_unix: report.map_or(0, |report| report.checked_unix),
            active: sum(BackendCount::Active),
            max_connections: self.backend_limit(backend),
            connections: sum(BackendCount::Connections),
            connect_failures: sum(BackendCount::ConnectFailures),
            resets: sum(BackendCount::Resets),
            bytes_sent: sum(BackendCount::BytesSent),
            bytes_received: sum(BackendCount::BytesReceived),
            http: record.spec.http.is_some().then(|| BackendHttpStatus {
                requests: sum(BackendCount::Requests),
                reused: sum(BackendCount::Reused),
                idle: sum(BackendCount::Idle),
                answers_5xx: sum(BackendCount::Answers5xx),
                bad_answers: sum(BackendCount::BadAnswers),
            }),
            cell: backend.cell.0,
        }
    }
}

/// Whether a service has no backends because its routes say where requests go: there is nothing that it could lack then.
fn is_router(record: &ServiceRecord) -> bool {
    record.spec.http.is_some() && record.spec.backends.is_empty()
}

/// Requests of a service, from the sums over all workers.
fn http_status(sum: &impl Fn(ServiceCount) -> u64) -> HttpStatus {
    let answers = [
        (ServiceCount::Answers2xx, "2xx"),
        (ServiceCount::Answers3xx, "3xx"),
        (ServiceCount::Answers4xx, "4xx"),
        (ServiceCount::Answers5xx, "5xx"),
    ];
    let by_word = |counts: &[(ServiceCount, &str)]| {
        let counts = counts.iter();
        counts
            .map(|(count, word)| ((*word).to_owned(), sum(*count)))
            .collect()
    };
    HttpStatus {
        requests: sum(ServiceCount::Requests),
        active: sum(ServiceCount::ActiveRequests),
        answers: by_word(&answers),
        own_answers: sum(ServiceCount::OwnAnswers),
        upgrades: sum(ServiceCount::Upgrades),
        failed: by_word(ServiceCount::REQUEST_FAILURES),
        resent: sum(ServiceCount::Resent),
        budget_spent: sum(ServiceCount::BudgetSpent),
    }
}

/// A time of the monotonic clock in Unix seconds; 0 = never.
fn unix_of(since_ms: u64) -> u64 {
    match since_ms {
        0 => 0,
        since => unix_seconds().saturating_sub(monotonic_ms().saturating_sub(since) / 1_000),
    }
}

fn require_words(require: Require) -> String {
    match require {
        Require::Any => "any".to_owned(),
        Require::All => "all".to_owned(),
        Require::Count(count) => count.to_string(),
        Require::Share(percent) => format!("{percent}%"),
    }
}
