//! What `status` and `why` show of requests, where a service speaks HTTP.

use std::cmp::Reverse;

use evenkeel_control::operator::{BackendHttpStatus, BackendStatus, HttpStatus};

use crate::text::{self, Cell, grouped, labelled};

/// Columns of the labels before the lines of a service.
const LABEL_COLUMNS: usize = 15;

/// Columns of the backends' table that a terminal of too few columns goes without, the first one first; `why` has all of them.
pub(crate) const DISPENSABLE: [&str; 6] = [
    "LAST ANSWER",
    "REASON",
    "SINCE",
    "CONNECTIONS",
    "IDLE",
    "WEIGHT",
];

/// The lines of a service: its connections, then its requests.
pub(crate) fn lines(connections: &[String], http: &HttpStatus, columns: Option<usize>) -> String {
    let line = |label, pieces: &[String]| labelled(label, LABEL_COLUMNS, pieces, columns);
    let mut text = line("  connections", connections);
    let mut pieces = vec![
        format!("{} active", grouped(http.active)),
        format!("{} so far", grouped(http.requests)),
    ];
    for (class, number) in &http.answers {
        pieces.push(format!("{class} {}", grouped(*number)));
    }
    for (number, what) in [
        (http.upgrades, "became tunnels"),
        (http.own_answers, "answered here"),
        (http.resent, "sent again"),
        (http.budget_spent, "not tried again: budget spent"),
    ] {
        if number > 0 {
            pieces.push(format!("{} {what}", grouped(number)));
        }
    }
    text.push_str(&line("  requests", &pieces));
    let mut failed: Vec<_> = http.failed.iter().filter(|(_, n)| **n > 0).collect();
    if !failed.is_empty() {
        failed.sort_by_key(|(_, number)| Reverse(**number));
        let all = failed.iter().map(|(_, number)| **number).sum();
        let mut pieces = vec![text::count(all, "request")];
        let reasons = failed.into_iter();
        pieces.extend(reasons.map(|(reason, number)| format!("{reason} {}", grouped(*number))));
        text.push_str(&line("  failed", &pieces));
    }
    text
}

/// Headings of the columns that only such a service has.
pub(crate) fn headings() -> [Cell; 4] {
    ["REQUESTS", "IDLE", "5XX", "BAD"].map(Cell::right)
}

/// The same columns of a backend.
pub(crate) fn cells(backend: &BackendStatus) -> [Cell; 4] {
    let http = backend.http.unwrap_or_default();
    let numbers = [http.requests, http.idle, http.answers_5xx, http.bad_answers];
    numbers.map(|number| Cell::right(grouped(number)))
}

/// In words, for one backend.
pub(crate) fn words(http: &BackendHttpStatus) -> String {
    format!(
        "{} so far, {} of them over a connection used before, {}; {}, {}",
        grouped(http.requests),
        grouped(http.reused),
        text::count(http.idle, "idle connection"),
        text::count(http.answers_5xx, "answer") + " of 5xx",
        text::count(http.bad_answers, "bad answer") + " (malformed, broken off, or none)",
    )
}
