//! Every metric, declared once.
//!
//! Names follow HAProxy's exporter where the meaning is the same (`bytes_in` is what comes from clients, `bytes_out` what
//! goes to them, also at a backend), and end in their unit.

use std::fmt::Write as _;

/// How a metric moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises, for the life of the supervisor, over all restarts of workers and monitor and over all reloads.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size: for each bound how many were not above it, all of them, and their sum. Rises as a counter does.
    Histogram,
}

impl Kind {
    /// The format's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Full name.
    pub name: &'static str,
    /// How it moves.
    pub kind: Kind,
    /// What one of it is.
    pub unit: &'static str,
    /// Label names.
    pub labels: &'static [&'static str],
    /// What it says, in a sentence or two.
    pub help: &'static str,
}

macro_rules! table {
    ($($constant:ident $kind:ident $name:literal $unit:literal [$($label:literal),*] $help:literal;)*) => {
        $(
            pub(crate) const $constant: Metric = Metric {
                name: $name,
                kind: Kind::$kind,
                unit: $unit,
                labels: &[$($label),*],
                help: $help,
            };
        )*

        /// Every metric, in the order of the reference page.
        pub const TABLE: &[Metric] = &[$($constant),*];
    };
}

table! {
    BUILD_INFO Gauge "evenkeel_build_info" "always 1" ["version"]
        "The program that runs.";
    READY Gauge "evenkeel_ready" "0 or 1" []
        "1 while the daemon takes traffic; 0 while it starts and from the moment it is asked to stop.";
    START_TIME Gauge "evenkeel_start_time_seconds" "Unix seconds" []
        "When the supervisor started.";
    GENERATION Gauge "evenkeel_generation" "number" []
        "Generation of the plan in force; rises with every reload that was applied.";
    RELOADS Counter "evenkeel_reloads_total" "reloads" ["result"]
        "Reloads by result: applied, or refused (what ran runs on).";
    LAST_RELOAD Gauge "evenkeel_last_reload_timestamp_seconds" "Unix seconds" []
        "When the last reload ended, applied or refused; 0 = none yet.";
    LAST_RELOAD_SUCCESS Gauge "evenkeel_last_reload_success" "0 or 1" []
        "1 when the last reload was applied or there was none yet, 0 when it was refused.";
    DESCRIPTOR_LIMIT Gauge "evenkeel_descriptor_limit" "descriptors" []
        "Limit on open descriptors of each process.";
    SUPERVISOR_BEAT Gauge "evenkeel_supervisor_heartbeat_age_seconds" "seconds" []
        "Time since the supervisor's last turn. It rises while there is no supervisor.";
    LOG_DROPPED Counter "evenkeel_log_dropped_total" "lines" []
        "Log lines of supervisor and monitor that were dropped because the line channel was full.";
    LOG_UNWRITTEN Counter "evenkeel_log_unwritten_total" "lines" []
        "Log lines of all processes that could not be written to standard error: nobody reads it, or there is no room.";
    ACCESS_LOG_UNWRITTEN Counter "evenkeel_access_log_unwritten_total" "lines" []
        "Lines of the access log that could not be written to where it goes: nobody reads it, or there is no room.";
    SOURCES_CAPACITY Gauge "evenkeel_sources_capacity" "sources" []
        "Sources whose rates can be watched at the same time (`limits.sources`). With more, `source_rate` is no longer exact.";
    MONITOR_STARTS Counter "evenkeel_monitor_starts_total" "processes" []
        "Monitor processes started; more than one means that it ended unasked.";
    MONITOR_BEAT Gauge "evenkeel_monitor_heartbeat_age_seconds" "seconds" []
        "Time since the monitor's last turn, the age of all verdicts.";
    RESOLVES Counter "evenkeel_resolves_total" "look-ups" []
        "Look-ups of backends' names, failed ones too.";
    RESOLVE_FAILURES Counter "evenkeel_resolve_failures_total" "look-ups" []
        "Look-ups of backends' names that gave no address: no answer, or one that says that there is none. The last good answer stays in use.";

    SERVICES Gauge "evenkeel_services" "services" []
        "Services in the plan in force.";
    SERVICE_ACTIVE Gauge "evenkeel_service_active_connections" "connections" ["service"]
        "Client connections accepted and not ended.";
    SERVICE_QUEUED Gauge "evenkeel_service_queued_connections" "connections" ["service"]
        "Client connections that wait because every eligible backend is at its max_connections.";
    SERVICE_WAITED Counter "evenkeel_service_waited_total" "connections" ["service"]
        "Client connections that had to wait for that reason, whatever became of them.";
    SERVICE_CONNECTIONS Counter "evenkeel_service_connections_total" "connections" ["service"]
        "Client connections accepted. At rest this is relayed plus all failures.";
    SERVICE_RELAYED Counter "evenkeel_service_relayed_total" "connections" ["service"]
        "Client connections that were connected to a backend and have ended, in order or by either side.";
    SERVICE_FAILURES Counter "evenkeel_service_failures_total" "connections" ["service", "reason"]
        "Client connections that ended otherwise. no_backend: none was eligible. connect: every backend tried refused or did not answer. exhausted: we had no descriptor, port or memory left. client_gone: the client left before a backend was connected. worker_died: the worker ended with the connection open. drain_cut: the drain deadline passed. closed: the service's policy kept it closed. sorry: so it did, and the sorry service took the connection, where it counts once more. down_reset: the backend went down and the service says that its connections are reset then. max_connections, rate, source_rate: refused by this limit of the listener. denied: refused by allow or deny. proxy_header: the PROXY protocol header was missing, late or not valid. queue_full: every eligible backend was full, and so was the queue. queue_timeout: it waited in the queue for too long. idle, half_closed, total: ended at this one of the service's timeouts. frame_too_long: a frame was longer than the framing allows.";
    SERVICE_RETRIES Counter "evenkeel_service_retries_total" "connects" ["service"]
        "Connects tried again on another backend.";
    SERVICE_CLIENT_RESETS Counter "evenkeel_service_client_resets_total" "connections" ["service"]
        "Connections that the client ended by a reset.";
    SERVICE_CONNECT Histogram "evenkeel_service_connect_seconds" "seconds" ["service"]
        "Time from the first attempt to connect to a backend until one was connected, retries included. At a service with `mode = \"http\"`: of requests for which a connection was made; the others found one that was idle.";
    SERVICE_FIRST_BYTE Histogram "evenkeel_service_first_byte_seconds" "seconds" ["service"]
        "Time from there to the backend's first byte, of connections that had one. At a service with `mode = \"http\"`: from the request that was sent to the first byte of its answer.";
    SERVICE_DURATION Histogram "evenkeel_service_duration_seconds" "seconds" ["service"]
        "Time from accept to the end, of connections that got a backend. At a service with `mode = \"http\"`: from the first byte of a request to the last of its answer.";
    SERVICE_BYTES_IN Counter "evenkeel_service_bytes_in_total" "bytes" ["service"]
        "Bytes received from clients.";
    SERVICE_BYTES_OUT Counter "evenkeel_service_bytes_out_total" "bytes" ["service"]
        "Bytes sent to clients.";
    SERVICE_ELIGIBLE Gauge "evenkeel_service_eligible_backends" "backends" ["service"]
        "Backends that new connections, or requests, go to. At 0 the service refuses all of them. Not there for a service without backends of its own, whose requests go where its routes say.";
    SERVICE_GATE Gauge "evenkeel_service_gate" "0 or 1" ["service", "state"]
        "1 for what the service's policy says: open, closed (too few backends are healthy), panic (so few that all enabled ones are used); 0 for the others.";
    SERVICE_GATE_CHANGES Counter "evenkeel_service_gate_changes_total" "changes" ["service"]
        "Changes of what the service's policy says.";
    SERVICE_GATE_LAST_CHANGE Gauge "evenkeel_service_gate_last_change_seconds" "seconds" ["service"]
        "Time since the last change of what the service's policy says; 0 when there was none yet.";
    LISTENER_ACCEPTED Counter "evenkeel_listener_accepted_total" "connections" ["service", "address"]
        "Client connections accepted, by configured address.";
    LISTENER_ACTIVE Gauge "evenkeel_listener_active_connections" "connections" ["service", "address"]
        "Client connections accepted at the address and not ended.";
    LISTENER_MAX_CONNECTIONS Gauge "evenkeel_listener_max_connections" "connections" ["service", "address"]
        "Limit on them, over all workers; there only where one is set.";
    LISTENER_REFUSED Counter "evenkeel_listener_refused_total" "connections" ["service", "address", "reason"]
        "Client connections refused at the address. max_connections: too many at a time. rate: too many new ones in time. source_rate: too many new ones of their source. denied: by allow or deny. They count as failures of the service, too.";

    HTTP_REQUESTS Counter "evenkeel_http_requests_total" "requests" ["service"]
        "Requests of HTTP that were routed to the service, by whichever listener they came; what no route takes, or is no request, counts for the service of the listener. All metrics of HTTP are there only for services with `mode = \"http\"`.";
    HTTP_ACTIVE Gauge "evenkeel_http_active_requests" "requests" ["service"]
        "Those of them that have not ended.";
    HTTP_RESPONSES Counter "evenkeel_http_responses_total" "answers" ["service", "class"]
        "Answers that clients got, by the first digit of their status: 2xx, 3xx, 4xx, 5xx. Those of backends and our own.";
    HTTP_UPGRADES Counter "evenkeel_http_upgrades_total" "requests" ["service"]
        "Requests that became a tunnel (101), such as those of WebSocket.";
    HTTP_OWN_ANSWERS Counter "evenkeel_http_own_answers_total" "answers" ["service"]
        "Those of the answers that no backend gave: errors, redirects and fixed answers of routes. A 5xx that is not among them came from a backend.";
    HTTP_FAILURES Counter "evenkeel_http_request_failures_total" "requests" ["service", "reason"]
        "Requests that failed. By the client's fault or will: malformed (400, 501, 505), too_large (413, 414, 431), request_timeout: not whole in time (408), source_rate: too many of their source (429), no_route: none takes it and the service has no backends (404), client_gone: the client left before its answer was whole. For lack of a backend (503): closed: the service's policy keeps it closed, no_backend: none was eligible, connect: none could be connected to, queue_full: every eligible one was full, and so was the queue, queue_timeout: it waited there for too long. By the backend's fault: backend_closed: it closed before its answer had begun (502) or was whole, backend_malformed: its answer was (502), backend_timeout: it did not answer or go on in time (504). By us: concurrent_requests: so many run already (503), internal: a resource was lacking, or a bug (500), cut: ended without an answer or in the middle of it (the drain deadline, a backend that went down, a client that read nothing in time), worker_died: so did the worker. An answer of ours to one of them counts among the answers, too.";
    HTTP_RESENT Counter "evenkeel_http_resent_total" "requests" ["service"]
        "Requests that were sent again because an idle connection to the backend, which they were sent over, had been closed.";
    HTTP_BUDGET_SPENT Counter "evenkeel_http_retry_budget_spent_total" "requests" ["service"]
        "Requests that were not tried again because the budget for that was spent.";

    BACKEND_STATE Gauge "evenkeel_backend_state" "0 or 1" ["service", "backend", "state"]
        "1 for the state that health checks give: starting, up, down, unchecked, drain (it says that it takes no new connections), maint (it says that it is not to be used); 0 for the others.";
    BACKEND_UP Gauge "evenkeel_backend_up" "0 or 1" ["service", "backend"]
        "1 while the backend is up or unchecked, 0 in every other state.";
    BACKEND_ADMIN Gauge "evenkeel_backend_admin_state" "0 or 1" ["service", "backend", "state"]
        "1 for the state that an operator has set: enabled, drain, disabled; 0 for the others.";
    BACKEND_WEIGHT Gauge "evenkeel_backend_weight" "number" ["service", "backend"]
        "Weight in force; 0 takes no new connections.";
    BACKEND_ACTIVE Gauge "evenkeel_backend_active_connections" "connections" ["service", "backend"]
        "Connections picked for the backend and not ended.";
    BACKEND_MAX_CONNECTIONS Gauge "evenkeel_backend_max_connections" "connections" ["service", "backend"]
        "Limit on them, over all workers: the configured one, or the backend's agent's where that is lower; there only where one is set.";
    BACKEND_CONNECTIONS Counter "evenkeel_backend_connections_total" "connections" ["service", "backend"]
        "Connections established to the backend.";
    BACKEND_CONNECT_FAILURES Counter "evenkeel_backend_connect_failures_total" "connects" ["service", "backend"]
        "Connects that the backend refused or did not answer in time. What we lacked ourselves is not counted here.";
    BACKEND_CONNECT_TIMEOUTS Counter "evenkeel_backend_connect_timeouts_total" "connects" ["service", "backend"]
        "Those of them that got no answer in time. Checks that pass while connects time out speak for a missing way back, above all with `source = \"client\"`.";
    BACKEND_RESETS Counter "evenkeel_backend_resets_total" "connections" ["service", "backend"]
        "Connections that the backend reset after they were established.";
    BACKEND_BYTES_IN Counter "evenkeel_backend_bytes_in_total" "bytes" ["service", "backend"]
        "Bytes sent to the backend, which came in from clients.";
    BACKEND_BYTES_OUT Counter "evenkeel_backend_bytes_out_total" "bytes" ["service", "backend"]
        "Bytes received from the backend, which go out to clients.";
    BACKEND_HTTP_REQUESTS Counter "evenkeel_backend_http_requests_total" "requests" ["service", "backend"]
        "Requests of HTTP that were sent to the backend, or begun to be.";
    BACKEND_HTTP_REUSED Counter "evenkeel_backend_http_reused_total" "requests" ["service", "backend"]
        "Those of them that went over a connection that had been used before.";
    BACKEND_HTTP_IDLE Gauge "evenkeel_backend_http_idle_connections" "connections" ["service", "backend"]
        "Connections to the backend that are kept for further requests, over all workers.";
    BACKEND_HTTP_5XX Counter "evenkeel_backend_http_5xx_total" "answers" ["service", "backend"]
        "The backend's answers with a status of 500 to 599.";
    BACKEND_HTTP_BAD_ANSWERS Counter "evenkeel_backend_http_bad_answers_total" "answers" ["service", "backend"]
        "Answers of the backend that were malformed, broken off, or did not come although it took the request.";
    BACKEND_CHECKS Counter "evenkeel_backend_checks_total" "checks" ["service", "backend"]
        "Health checks that passed or failed.";
    BACKEND_CHECK_FAILURES Counter "evenkeel_backend_check_failures_total" "checks" ["service", "backend"]
        "Health checks that failed.";
    BACKEND_CHECK_DURATION Gauge "evenkeel_backend_check_duration_seconds" "seconds" ["service", "backend"]
        "How long the last health check took.";
    BACKEND_STATE_CHANGES Counter "evenkeel_backend_state_changes_total" "changes" ["service", "backend"]
        "Changes of state by health checks.";
    BACKEND_LAST_CHANGE Gauge "evenkeel_backend_last_change_seconds" "seconds" ["service", "backend"]
        "Time since the last change of state by health checks; 0 when there was none yet.";

    WORKERS Gauge "evenkeel_workers" "processes" []
        "Workers that are wanted.";
    WORKER_STATE Gauge "evenkeel_worker_state" "0 or 1" ["slot", "state"]
        "1 for the state of the slot: empty, starting, live, late, backing-off, retiring; 0 for the others.";
    WORKER_STARTS Counter "evenkeel_worker_starts_total" "processes" ["slot"]
        "Workers started in the slot.";
    WORKER_CRASHES Counter "evenkeel_worker_crashes_total" "processes" ["slot"]
        "Workers of the slot that ended without being asked to.";
    WORKER_BEAT Gauge "evenkeel_worker_heartbeat_age_seconds" "seconds" ["slot"]
        "Time since the worker's last turn; 0 for an empty slot.";
    WORKER_GENERATION Gauge "evenkeel_worker_generation" "number" ["slot"]
        "Generation of the plan that the worker last switched to.";
    WORKER_ACTIVE Gauge "evenkeel_worker_active_connections" "connections" ["slot"]
        "Client connections that the worker has.";
    WORKER_ACCEPTED Counter "evenkeel_worker_accepted_total" "connections" ["slot"]
        "Client connections accepted by the slot's workers.";
    WORKER_ADOPTED Counter "evenkeel_worker_adopted_total" "connections" ["slot"]
        "Those of them that came to a neighbour's socket while that had no worker.";
    WORKER_ACCEPT_ERRORS Counter "evenkeel_worker_accept_errors_total" "accepts" ["slot", "reason"]
        "Accepts that failed. aborted: the connection was gone already. exhausted: no descriptor or memory was left.";
    WORKER_REFUSED Counter "evenkeel_worker_refused_total" "connections" ["slot"]
        "Client connections refused because the last descriptors are kept for what runs.";
    WORKER_PARKED Gauge "evenkeel_worker_parked_connections" "connections" ["slot"]
        "Client connections of the worker that are idle and parked: they hold neither a task nor a buffer.";
    WORKER_IMBALANCE Gauge "evenkeel_worker_imbalance_ratio" "ratio" []
        "Most active connections of a live worker to the mean of all live workers: 1 = evenly spread or none at all, the number of live workers = one has all. With few connections it is high by chance. How evenly new ones come is max(rate(evenkeel_worker_accepted_total[5m])) / avg(rate(evenkeel_worker_accepted_total[5m])).";
    WORKER_BUFFER Gauge "evenkeel_worker_buffer_bytes" "bytes" ["slot"]
        "Relay buffers that the worker holds now.";
    WORKER_LOG_DROPPED Counter "evenkeel_worker_log_dropped_total" "lines" ["slot"]
        "Log lines that the slot's workers dropped because the line channel was full.";
    WORKER_ACCESS_LOG_DROPPED Counter "evenkeel_worker_access_log_dropped_total" "lines" ["slot"]
        "Lines of the access log that the slot's workers dropped because the line channel was full.";
}

/// The reference page.
#[must_use]
pub fn reference_markdown() -> String {
    let mut page = String::from(
        "# Metrics\n\n\
         Served in the Prometheus text format at `/metrics` of the addresses in `metrics`. This page is made from the table \
         in `crates/metrics`.\n\n\
         Counters rise for the life of the supervisor: a worker or monitor that is started again, a reload and a removed \
         worker take nothing away. Series of removed services and backends disappear.\n\n\
         Histograms have the same buckets everywhere, from 100 us to an hour; `le` is the upper bound in seconds. Label values \
         come from the configuration or are words of ours: no address of a client is among them.\n\n\
         | name | kind | unit | labels | meaning |\n\
         | --- | --- | --- | --- | --- |\n",
    );
    for metric in TABLE {
        let kind = metric.kind.as_str();
        let labels = match metric.labels {
            [] => "-".to_owned(),
            labels => format!("`{}`", labels.join("`, `")),
        };
        // Writing to a string does not fail.
        writeln!(
            page,
            "| `{}` | {kind} | {} | {labels} | {} |",
            metric.name, metric.unit, metric.help
        )
        .unwrap_or_default();
    }
    page
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use evenkeel_scoreboard::ServiceCount;

    use super::*;

    #[test]
    fn names_are_unique_and_end_in_their_unit() {
        let mut names = HashSet::new();
        for metric in TABLE {
            assert!(names.insert(metric.name), "{}", metric.name);
            assert!(metric.name.starts_with("evenkeel_"), "{}", metric.name);
            let total = metric.name.ends_with("_total");
            assert_eq!(total, metric.kind == Kind::Counter, "{}", metric.name);
            let seconds = metric.unit.ends_with("seconds");
            assert_eq!(
                metric.name.ends_with("_seconds"),
                seconds,
                "{}",
                metric.name
            );
            assert!(metric.help.ends_with('.'), "{}", metric.name);
            // These would have to be escaped in the exposition, and a bar ends a cell of the reference page.
            assert!(!metric.help.contains(['\\', '\n', '|']), "{}", metric.name);
        }
    }

    #[test]
    fn every_reason_of_a_failure_is_explained() {
        for count in ServiceCount::FAILURES {
            let reason = count.failure().unwrap();
            let words = SERVICE_FAILURES.help.split([' ', ',', ':']);
            let explained = words.filter(|word| *word == reason).count();
            assert!(explained > 0, "{reason}");
        }
    }

    #[test]
    fn every_reason_of_a_failed_request_is_explained_once() {
        for (_, reason) in ServiceCount::REQUEST_FAILURES {
            let explained = [format!(" {reason}: "), format!(" {reason} (")];
            let of_each = explained.map(|words| HTTP_FAILURES.help.matches(&words).count());
            assert_eq!(of_each.iter().sum::<usize>(), 1, "{reason}");
        }
    }

    #[test]
    fn the_page_has_a_row_for_each() {
        let page = reference_markdown();
        for metric in TABLE {
            assert_eq!(page.matches(&format!("| `{}` |", metric.name)).count(), 1);
        }
    }
}
