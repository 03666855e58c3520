//! What is wrong with a daemon, in words, out of its status.

use std::time::Duration;

use evenkeel_control::operator::{BackendStatus, NO_WAY_BACK, ServiceStatus, Status, WorkerStatus};

use crate::status_screen::{WORDS_CHARS_MAX, is_full};
use crate::text::{self, one_line};

/// Verdicts older than this are worth a word: the monitor turns many times a second.
const VERDICT_AGE_MAX: Duration = Duration::from_secs(5);

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Clients notice it now.
    pub(crate) urgent: bool,
    pub(crate) words: String,
}

/// Everything that deserves attention, the urgent first.
pub(crate) fn findings(status: &Status, now_unix: u64) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut tell = |urgent, words| found.push(Finding { urgent, words });
    match status.phase.as_str() {
        "running" => {}
        "draining" => tell(
            true,
            "the daemon is draining: no new connections, it ends when the last one has".to_owned(),
        ),
        "delaying" => tell(
            false,
            "the daemon is about to stop: it still accepts, then it drains".to_owned(),
        ),
        phase => tell(true, format!("the daemon is {phase}")),
    }
    for service in &status.services {
        service_findings(service, now_unix, &mut tell);
    }
    let live = status.workers.iter().filter(|w| w.state == "live").count();
    if live == 0 && status.phase == "running" {
        tell(true, "no worker is live".to_owned());
    }
    for worker in &status.workers {
        if let Some(words) = worker_finding(worker) {
            tell(false, words);
        }
        for (number, what) in [
            (
                worker.accept_exhausted,
                "could not accept for lack of descriptors or memory",
            ),
            (worker.log_dropped, "dropped log lines"),
        ] {
            if number > 0 {
                let slot = worker.slot;
                let often = text::times(number);
                tell(false, format!("worker {slot} {what}, {often} so far"));
            }
        }
    }
    let refused: u64 = status.workers.iter().map(|w| w.refused).sum();
    if refused > 0 {
        let clients = text::count(refused, "client");
        let limit = text::grouped(status.descriptor_limit);
        tell(
            false,
            format!(
                "{clients} refused so far: the last descriptors are kept in reserve for what runs (limit {limit}, `LimitNOFILE=`)"
            ),
        );
    }
    let monitor = &status.monitor;
    let age = Duration::from_millis(monitor.age_ms);
    if monitor.state == "ended" {
        // As it should once the workers have.
    } else if monitor.state != "live" {
        tell(
            false,
            format!(
                "the monitor is {}: health verdicts stay as they were",
                monitor.state
            ),
        );
    } else if age > VERDICT_AGE_MAX {
        tell(false, format!("health verdicts are {} old", text::age(age)));
    }
    if let Some(reload) = &status.last_reload
        && !reload.applied
    {
        tell(
            false,
            format!(
                "the last reload was refused {} ago: {}",
                text::since(reload.at_unix, now_unix),
                one_line(&reload.message, 6 * WORDS_CHARS_MAX)
            ),
        );
    }
    let refusal = status
        .last_reload
        .as_ref()
        .filter(|reload| !reload.applied)
        .map(|reload| reload.message.as_str());
    for warning in &status.warnings {
        // The refused reload was told above, with its time.
        if refusal.is_some_and(|message| warning.contains(message)) {
            continue;
        }
        tell(false, one_line(warning, 4 * WORDS_CHARS_MAX));
    }
    found.sort_by_key(|finding| !finding.urgent);
    found
}

fn service_findings(service: &ServiceStatus, now_unix: u64, tell: &mut impl FnMut(bool, String)) {
    gate_finding(service, now_unix, tell);
    limit_findings(service, tell);
    request_findings(service, tell);
    for backend in &service.backends {
        let subject = format!("service {}: backend {}", service.name, backend.name);
        if let Some(words) = admin_finding(backend, now_unix) {
            tell(false, format!("{subject} {words}"));
        }
        if backend.endpoints.is_empty() {
            let name = one_line(&backend.address, WORDS_CHARS_MAX);
            tell(
                false,
                format!("{subject}: nobody knows yet what {name} stands for"),
            );
        }
        if backend.reason.contains(NO_WAY_BACK) {
            tell(
                true,
                format!(
                    "{subject}: {}",
                    one_line(&backend.reason, 4 * WORDS_CHARS_MAX)
                ),
            );
            continue;
        }
        let state = match backend.state.as_str() {
            "down" => "is down",
            "drain" => "asks for no new connections",
            "maint" => "asks not to be used",
            _ => continue,
        };
        let mut words = format!("{subject} {state}");
        if backend.since_unix > 0 {
            let since = text::since(backend.since_unix, now_unix);
            words.push_str(&format!(" for {since}"));
        }
        let causes: Vec<String> = [&backend.reason, &backend.answer]
            .into_iter()
            .filter(|cause| !cause.is_empty())
            .map(|cause| one_line(cause, WORDS_CHARS_MAX))
            .collect();
        if !causes.is_empty() {
            words.push_str(&format!(": {}", causes.join(", ")));
        }
        tell(false, words);
    }
}

fn gate_finding(service: &ServiceStatus, now_unix: u64, tell: &mut impl FnMut(bool, String)) {
    let name = &service.name;
    let state = match service.gate.as_str() {
        "closed" => "closed by its policy",
        "panic" => "too few backends are healthy, all enabled ones are used",
        _ => "",
    };
    if !state.is_empty() {
        let mut words = format!("service {name}: {state}");
        if service.gate_since_unix > 0 {
            let since = text::since(service.gate_since_unix, now_unix);
            words.push_str(&format!(" for {since}"));
        }
        if !service.gate_reason.is_empty() {
            words.push_str(": ");
            words.push_str(&one_line(&service.gate_reason, 4 * WORDS_CHARS_MAX));
        }
        tell(service.gate == "closed", words);
    }
    if !service.serving && service.gate != "closed" {
        tell(
            true,
            format!("service {name}: no eligible backend, its clients are turned away"),
        );
    }
}

/// What is full, and what this host lacked itself: backends and verdicts may all be fine then.
fn limit_findings(service: &ServiceStatus, tell: &mut impl FnMut(bool, String)) {
    let name = &service.name;
    for limit in &service.limits {
        if limit.active >= u64::from(limit.max_connections) {
            tell(
                true,
                format!(
                    "service {name}: {} has as many connections as it may ({}): further clients are turned away",
                    limit.address,
                    text::grouped(limit.max_connections.into())
                ),
            );
        }
    }
    if service.queued > 0 {
        let clients = text::count(service.queued, "client");
        let wait = if service.queued == 1 { "waits" } else { "wait" };
        tell(
            true,
            format!("service {name}: {clients} {wait}: every eligible backend is full"),
        );
    } else if all_full(service) {
        tell(
            false,
            format!(
                "service {name}: every eligible backend is full: further clients wait or are turned away"
            ),
        );
    }
    if let Some(number) = service
        .failed
        .get("exhausted")
        .filter(|number| **number > 0)
    {
        tell(
            false,
            format!(
                "service {name}: this host had no port, descriptor or memory for a connection, or not the address in `source`, {} so far",
                text::times(*number)
            ),
        );
    }
}

/// The same for requests.
fn request_findings(service: &ServiceStatus, tell: &mut impl FnMut(bool, String)) {
    let http = service.http.as_ref();
    let internal = http.and_then(|http| http.failed.get("internal"));
    if let Some(number) = internal.filter(|number| **number > 0) {
        tell(
            false,
            format!(
                "service {}: this host had no resource for a request, or met a bug of this program, {} so far",
                service.name,
                text::times(*number)
            ),
        );
    }
}

/// Whether there are backends that could be used, and none of them has room.
fn all_full(service: &ServiceStatus) -> bool {
    let usable = service.backends.iter().filter(|backend| {
        let admin = backend.admin.as_ref();
        matches!(backend.state.as_str(), "up" | "unchecked")
            && admin.is_none_or(|admin| admin.state == "enabled")
            && admin
                .and_then(|admin| admin.weight)
                .unwrap_or(backend.weight)
                > 0
    });
    let room: Vec<bool> = usable.map(|backend| !is_full(backend)).collect();
    !room.is_empty() && !room.contains(&true)
}

/// What an operator took away.
fn admin_finding(backend: &BackendStatus, now_unix: u64) -> Option<String> {
    let admin = backend.admin.as_ref()?;
    let state = match (admin.state.as_str(), admin.weight) {
        ("drain", _) => "is drained",
        ("disabled", _) => "is disabled",
        (_, Some(0)) => "has weight 0",
        _ => return None,
    };
    Some(format!(
        "{state}, by {} {} ago",
        one_line(&admin.by, WORDS_CHARS_MAX),
        text::since(admin.at_unix, now_unix)
    ))
}

fn worker_finding(worker: &WorkerStatus) -> Option<String> {
    let slot = worker.slot;
    let heartbeat = text::age(Duration::from_millis(worker.heartbeat_age_ms));
    let mut words = match worker.state.as_str() {
        "live" | "retiring" | "ended" => return None,
        "late" => format!("worker {slot} has not turned for {heartbeat}"),
        "backing-off" => format!(
            "worker {slot} is not running: started again in a moment, after {}",
            crashes(worker.crashes)
        ),
        state => format!("worker {slot} is {state}"),
    };
    if let Some(neighbour) = worker.adopted_by {
        words.push_str(&format!("; worker {neighbour} accepts for it"));
    }
    Some(words)
}

fn crashes(number: u64) -> String {
    match number {
        1 => "1 crash".to_owned(),
        number => format!("{} crashes", text::grouped(number)),
    }
}
