//! A status as a page for a person at three in the morning: first what is wrong, in words, then the figures.

use std::net::SocketAddr;
use std::time::Duration;

use evenkeel_control::operator::{BackendStatus, ServiceStatus, Status, WorkerStatus};

use crate::findings::findings;
use crate::output::Paint;
use crate::status_requests;
use crate::text::{self, Cell, Tone, one_line};

/// Longest reason, answer or message that is shown.
pub(crate) const WORDS_CHARS_MAX: usize = 60;

/// Columns of the backends' table that a terminal of too few columns goes without, the first one first. `why` has all of them, and
/// the first lines of the page have those of backends that are down.
const DISPENSABLE: [&str; 3] = ["LAST ANSWER", "REASON", "SINCE"];

/// Place of the column of connections in the backends' table.
const CONNECTIONS_AT: usize = 6;

/// The whole page, for so many columns; without a number of columns tables are as wide as they come.
pub(crate) fn render(
    status: &Status,
    now_unix: u64,
    paint: Paint,
    columns: Option<usize>,
) -> String {
    let mut page = String::new();
    page.push_str(&head(status, now_unix, paint));
    page.push('\n');
    page.push_str(&daemon(status, now_unix));
    page.push('\n');
    page.push_str(&text::table("", &worker_rows(&status.workers), paint));
    for service in &status.services {
        page.push('\n');
        page.push_str(&service_head(service, now_unix, paint, columns));
        if service.backends.is_empty() {
            page.push_str("  no backends of its own\n");
            continue;
        }
        let dispensable: &[&str] = match service.http {
            Some(_) => &status_requests::DISPENSABLE,
            None => &DISPENSABLE,
        };
        let rows = backend_rows(service, now_unix);
        page.push_str(&text::table_within("  ", rows, paint, columns, dispensable));
    }
    page
}

/// Backends known to work, or taken to because nobody checks them.
pub(crate) fn backends_up(service: &ServiceStatus) -> usize {
    let backends = service.backends.iter();
    backends
        .filter(|backend| matches!(backend.state.as_str(), "up" | "unchecked"))
        .count()
}

/// How good a state of a worker or a backend is.
pub(crate) fn tone_of(state: &str) -> Tone {
    match state {
        "up" | "live" => Tone::Good,
        "down" | "backing-off" => Tone::Bad,
        "starting" | "late" | "retiring" | "drain" | "maint" => Tone::Doubtful,
        _ => Tone::Plain,
    }
}

/// What is wrong; or, in one line, that nothing is.
fn head(status: &Status, now_unix: u64, paint: Paint) -> String {
    let findings = findings(status, now_unix);
    if findings.is_empty() {
        let up: usize = status.services.iter().map(backends_up).sum();
        let all: usize = status.services.iter().map(|s| s.backends.len()).sum();
        return format!(
            "{} {} serving, {up} of {} up, {} live\n",
            paint.green("ALL IS WELL:"),
            text::count(status.services.len() as u64, "service"),
            text::count(all as u64, "backend"),
            text::count(status.workers.len() as u64, "worker"),
        );
    }
    let urgent = findings.iter().any(|finding| finding.urgent);
    let mut lines = if urgent {
        format!("{}\n", paint.red("CLIENTS ARE AFFECTED"))
    } else {
        format!("{}\n", paint.yellow("CLIENTS ARE SERVED, BUT"))
    };
    for finding in findings {
        let words = if finding.urgent {
            paint.red(&finding.words)
        } else {
            paint.yellow(&finding.words)
        };
        lines.push_str(&format!("  * {words}\n"));
    }
    lines
}

/// The daemon itself, in two or three lines.
fn daemon(status: &Status, now_unix: u64) -> String {
    let reload = match &status.last_reload {
        None => "no reload yet".to_owned(),
        Some(reload) => format!(
            "last reload {} {} ago: {}",
            if reload.applied { "applied" } else { "refused" },
            text::since(reload.at_unix, now_unix),
            one_line(&reload.message, WORDS_CHARS_MAX)
        ),
    };
    let metrics: Vec<String> = status
        .metrics
        .iter()
        .map(|address| format!("http://{address}/metrics"))
        .collect();
    let monitor = &status.monitor;
    let store = if status.descriptor_store {
        "sockets kept by systemd"
    } else {
        "sockets not kept by systemd"
    };
    let mut lines = format!(
        "evenkeel {}  {} for {}  pid {}\n",
        status.program,
        status.phase,
        text::since(status.started_unix, now_unix),
        status.pid,
    );
    lines.push_str(&format!(
        "plan      generation {} of {}  {reload}\n",
        status.generation, status.config
    ));
    lines.push_str(&format!(
        "monitor   {}  pid {}  started {}  verdicts {} old\n",
        monitor.state,
        pid(monitor.pid),
        text::times(monitor.incarnation),
        text::age(Duration::from_millis(monitor.age_ms)),
    ));
    lines.push_str(&format!(
        "limits    {} descriptors  {store}\n",
        text::grouped(status.descriptor_limit)
    ));
    if !metrics.is_empty() {
        lines.push_str(&format!("metrics   {}\n", metrics.join("  ")));
    }
    lines
}

fn worker_rows(workers: &[WorkerStatus]) -> Vec<Vec<Cell>> {
    let mut rows = vec![vec![
        Cell::left("WORKER"),
        Cell::right("PID"),
        Cell::left("STATE"),
        Cell::right("CRASHES"),
        Cell::right("ACTIVE"),
        Cell::right("ACCEPTED"),
        Cell::right("HEARTBEAT"),
        Cell::left("ADOPTED BY"),
    ]];
    for worker in workers {
        let heartbeat = match worker.pid {
            0 => "-".to_owned(),
            _ => text::age(Duration::from_millis(worker.heartbeat_age_ms)),
        };
        let crashes = match worker.crashes {
            0 => Tone::Plain,
            _ => Tone::Doubtful,
        };
        rows.push(vec![
            Cell::left(worker.slot.to_string()),
            Cell::right(pid(worker.pid)),
            Cell::left(&worker.state).tone(tone_of(&worker.state)),
            Cell::right(text::grouped(worker.crashes)).tone(crashes),
            Cell::right(text::grouped(worker.active)),
            Cell::right(text::grouped(worker.accepted)),
            Cell::right(heartbeat),
            Cell::left(
                worker
                    .adopted_by
                    .map_or_else(|| "-".to_owned(), |slot| format!("worker {slot}")),
            ),
        ]);
    }
    rows
}

fn service_head(
    service: &ServiceStatus,
    now_unix: u64,
    paint: Paint,
    columns: Option<usize>,
) -> String {
    let mut listeners: Vec<String> = service
        .listeners
        .iter()
        .map(|address| {
            let mut limits = service.limits.iter();
            match limits.find(|limit| limit.address == *address) {
                Some(limit) => {
                    let most = Some(limit.max_connections);
                    format!("{address} ({})", active_of(limit.active, most))
                }
                None => address.to_string(),
            }
        })
        .collect();
    if listeners.is_empty() {
        listeners.push("no listener".to_owned());
    }
    let pool = match &service.pool {
        Some(pool) => format!("  pool {pool}"),
        None => String::new(),
    };
    let state = match service.gate.as_str() {
        "closed" => paint.red("CLOSED"),
        _ if !service.serving => paint.red("NOT SERVING"),
        "panic" => paint.yellow("PANIC"),
        _ => paint.green("serving"),
    };
    let mut lines = format!(
        "service {}  {state}  {}  {}{pool}\n",
        paint.bold(&service.name),
        listeners.join(" "),
        service.scheduler,
    );
    let connections = connections(service);
    match &service.http {
        Some(http) => lines.push_str(&status_requests::lines(&connections, http, columns)),
        None => lines.push_str(&format!("  {}\n", connections.join("  "))),
    }
    if let Some(policy) = policy(service, now_unix) {
        lines.push_str(&format!("  {policy}\n"));
    }
    lines
}

/// What became of its connections.
fn connections(service: &ServiceStatus) -> Vec<String> {
    let all: u64 = service.failed.values().sum();
    let mut failed = format!("{all} failed");
    let reasons: Vec<String> = service
        .failed
        .iter()
        .filter(|(_, number)| **number > 0)
        .map(|(reason, number)| format!("{reason} {}", text::grouped(*number)))
        .collect();
    if !reasons.is_empty() {
        failed.push_str(&format!(" ({})", reasons.join(", ")));
    }
    let mut pieces = vec![
        format!("{} active", text::grouped(service.active)),
        format!("{} accepted", text::grouped(service.accepted)),
        failed,
    ];
    for (number, what) in [
        (service.retries, "tried on another backend"),
        (service.queued, "waiting for a backend"),
    ] {
        if number > 0 {
            pieces.push(format!("{} {what}", text::grouped(number)));
        }
    }
    pieces
}

/// What the policy says, where there is one or it has something to say.
fn policy(service: &ServiceStatus, now_unix: u64) -> Option<String> {
    if service.require == "any" && service.gate == "open" {
        return None;
    }
    let required = match service.require.as_str() {
        "any" => "any backend is enough".to_owned(),
        "all" => "all backends required".to_owned(),
        share if share.ends_with('%') => format!("{share} of the backends required"),
        count => format!("{count} backends required"),
    };
    let mut words = format!("policy: {required}, {}", service.gate);
    if service.gate_since_unix > 0 {
        let since = text::since(service.gate_since_unix, now_unix);
        words.push_str(&format!(" for {since}"));
    }
    if !service.gate_reason.is_empty() {
        words.push_str(": ");
        words.push_str(&one_line(&service.gate_reason, 4 * WORDS_CHARS_MAX));
    }
    Some(words)
}

/// Where a backend is; behind a name, what it stands for.
pub(crate) fn address(backend: &BackendStatus) -> String {
    if backend.address.parse::<SocketAddr>().is_ok() {
        return backend.address.clone();
    }
    let name = one_line(&backend.address, 4 * WORDS_CHARS_MAX);
    match backend.endpoints.as_slice() {
        [] => format!("{name} -> not known yet"),
        [one] => format!("{name} -> {one}"),
        [first, others @ ..] => format!("{name} -> {first} and {} more", others.len()),
    }
}

/// Connections now, and how many there may be where there is a limit: `90 of 100`.
fn active_of(active: u64, most: Option<u32>) -> String {
    match most {
        Some(most) => format!(
            "{} of {}",
            text::grouped(active),
            text::grouped(u64::from(most))
        ),
        None => text::grouped(active),
    }
}

/// State, and what else decides whether it is used: `up, backup, drained, full`.
fn state(backend: &BackendStatus) -> String {
    let mut words = backend.state.clone();
    if backend.backup {
        words.push_str(", backup");
    }
    match backend.admin.as_ref().map(|admin| admin.state.as_str()) {
        Some("drain") => words.push_str(", drained"),
        Some("disabled") => words.push_str(", disabled"),
        _ => {}
    }
    if is_full(backend) {
        words.push_str(", full");
    }
    words
}

/// Whether it has as many connections as it may have.
pub(crate) fn is_full(backend: &BackendStatus) -> bool {
    let most = backend.max_connections.map(u64::from);
    most.is_some_and(|most| backend.active >= most)
}

/// The weight in force, and what the configuration says where an operator has set another.
fn weight(backend: &BackendStatus) -> String {
    match backend.admin.as_ref().and_then(|admin| admin.weight) {
        Some(weight) => format!("{weight} (was {})", backend.weight),
        None => backend.weight.to_string(),
    }
}

fn backend_rows(service: &ServiceStatus, now_unix: u64) -> Vec<Vec<Cell>> {
    let mut rows = vec![vec![
        Cell::left("BACKEND"),
        Cell::left("ADDRESS"),
        Cell::right("WEIGHT"),
        Cell::left("STATE"),
        Cell::left("SINCE"),
        Cell::right("ACTIVE"),
        Cell::right("CONNECTIONS"),
        Cell::right("FAILURES"),
        Cell::left("REASON"),
        Cell::left("LAST ANSWER"),
    ]];
    for backend in &service.backends {
        let failures = backend.connect_failures + backend.resets;
        rows.push(vec![
            Cell::left(&backend.name),
            Cell::left(address(backend)),
            Cell::right(weight(backend)),
            Cell::left(state(backend)).tone(backend_tone(backend)),
            Cell::left(text::since(backend.since_unix, now_unix)),
            Cell::right(active_of(backend.active, backend.max_connections)),
            Cell::right(text::grouped(backend.connections)),
            Cell::right(text::grouped(failures)),
            Cell::left(one_line(&backend.reason, WORDS_CHARS_MAX)),
            Cell::left(answer(backend, now_unix)),
        ]);
    }
    if service.http.is_some() {
        // Behind the connections, in order.
        let of_requests = service.backends.iter().map(status_requests::cells);
        let of_requests = std::iter::once(status_requests::headings()).chain(of_requests);
        for (row, cells) in rows.iter_mut().zip(of_requests) {
            row.splice(CONNECTIONS_AT + 1..CONNECTIONS_AT + 1, cells);
        }
    }
    rows
}

fn backend_tone(backend: &BackendStatus) -> Tone {
    let admin = backend.admin.as_ref();
    match tone_of(&backend.state) {
        Tone::Good if admin.is_some_and(|admin| admin.state != "enabled") => Tone::Doubtful,
        tone => tone,
    }
}

fn answer(backend: &BackendStatus, now_unix: u64) -> String {
    if backend.checked_unix == 0 {
        return "-".to_owned();
    }
    format!(
        "{} in {:.1} ms, {} ago",
        one_line(&backend.answer, WORDS_CHARS_MAX),
        backend.check_ms,
        text::since(backend.checked_unix, now_unix),
    )
}

fn pid(pid: u32) -> String {
    match pid {
        0 => "-".to_owned(),
        pid => pid.to_string(),
    }
}

#[cfg(test)]
#[path = "status_screen_tests.rs"]
pub(crate) mod tests;
