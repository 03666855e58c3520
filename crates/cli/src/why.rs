//! `why`: everything about one backend, for a person at three in the morning.

use std::process::ExitCode;

use evenkeel_control::child::{CheckRecord, Explanation};
use evenkeel_control::operator::{AdminStatus, BackendStatus, Why};

use crate::arguments::Why as Arguments;
use crate::check::json;
use crate::failure::{Exit, Failure};
use crate::output::{self, Paint};
use crate::status::now_unix;
use crate::status_screen::{address, tone_of};
use crate::text::{self, Cell, Tone, one_line};
use crate::{client, events, runtime_dir, status_requests};

/// Longest words of a check.
const CHECK_CHARS_MAX: usize = 70;

/// Longest sentence.
const SENTENCE_CHARS_MAX: usize = 400;

/// Asks and shows.
pub(crate) fn execute(arguments: Arguments) -> Result<ExitCode, Failure> {
    let Arguments {
        name,
        json: as_json,
        runtime_dir,
    } = arguments;
    let directory = runtime_dir::choose(runtime_dir.runtime_dir);
    let why = client::block_on(async { Ok(client::why(&directory, name).await?) })?;
    if as_json {
        output::print(&json(&why)?)?;
    } else {
        output::print(&render(&why, now_unix(), output::paint_stdout()))?;
    }
    Ok(Exit::Ok.into())
}

/// The screen.
fn render(why: &Why, now_unix: u64, paint: Paint) -> String {
    let backend = &why.backend;
    let state = match tone_of(&backend.state) {
        Tone::Good => paint.green(&backend.state),
        Tone::Bad => paint.red(&backend.state),
        Tone::Doubtful => paint.yellow(&backend.state),
        Tone::Plain => backend.state.clone(),
    };
    let since = match backend.since_unix {
        0 => String::new(),
        then => format!(" for {}", text::since(then, now_unix)),
    };
    let eligible = sentence(&why.eligible);
    let eligible = if eligible.starts_with("not eligible") {
        paint.red(&eligible)
    } else {
        paint.green(&eligible)
    };
    let mut page = format!(
        "backend {}  {}  {state}{since}\n{eligible}\n\n",
        paint.bold(&format!("{}/{}", why.service, backend.name)),
        address(backend),
    );
    for (label, words) in facts(why, now_unix) {
        if !words.is_empty() {
            page.push_str(&format!("{label:<9} {}\n", sentence(&words)));
        }
    }
    if let Some(explanation) = &why.explanation {
        page.push_str(&checks(&explanation.checks, now_unix, paint));
    }
    if !why.events.is_empty() {
        page.push_str("\nwhat happened, oldest first\n");
        for event in &why.events {
            page.push_str("  ");
            page.push_str(&events::line(event));
        }
    }
    page
}

/// What is known, each with its label; empty = there is nothing to say.
fn facts(why: &Why, now_unix: u64) -> Vec<(&'static str, String)> {
    let backend = &why.backend;
    let none = String::new;
    let known = why.explanation.as_deref();
    let of_monitor =
        |words: fn(&Explanation) -> &String| known.map_or_else(none, |e| words(e).clone());
    let check = match known {
        Some(explanation) if !explanation.check.is_empty() => explanation.check.clone(),
        _ => backend.check.clone(),
    };
    vec![
        ("why", backend.reason.clone()),
        ("check", check),
        ("answer", answer(backend, now_unix)),
        ("next", next(backend, known, now_unix)),
        ("passive", of_monitor(|e| &e.passive)),
        ("operator", admin(backend.admin.as_ref(), now_unix)),
        ("policy", of_monitor(|e| &e.policy)),
        ("name", of_monitor(|e| &e.dns)),
        ("weight", weight(backend)),
        ("traffic", traffic(backend)),
        (
            "requests",
            backend
                .http
                .as_ref()
                .map_or_else(none, status_requests::words),
        ),
        (
            "monitor",
            match known {
                Some(_) => none(),
                None => "gives no answer: checks and policy cannot be told of".to_owned(),
            },
        ),
    ]
}

fn answer(backend: &BackendStatus, now_unix: u64) -> String {
    if backend.checked_unix == 0 {
        return String::new();
    }
    format!(
        "{} in {:.1} ms, {} ago",
        backend.answer,
        backend.check_ms,
        text::since(backend.checked_unix, now_unix)
    )
}

fn next(backend: &BackendStatus, known: Option<&Explanation>, now_unix: u64) -> String {
    let at = known.map_or(backend.next_ms, |explanation| explanation.next_ms) / 1_000;
    match at {
        0 => String::new(),
        at if at <= now_unix => "check is due now".to_owned(),
        at => format!("check in {}", text::whole_seconds(at - now_unix)),
    }
}

fn admin(admin: Option<&AdminStatus>, now_unix: u64) -> String {
    let Some(admin) = admin else {
        return String::new();
    };
    let weight = match admin.weight {
        Some(weight) => format!(", weight {weight}"),
        None => String::new(),
    };
    let state = match admin.state.as_str() {
        "drain" => "drained",
        state => state,
    };
    format!(
        "{state}{weight}, said by {} {} ago",
        admin.by,
        text::since(admin.at_unix, now_unix)
    )
}

fn weight(backend: &BackendStatus) -> String {
    let backup = if backend.backup { ", a backup" } else { "" };
    match backend.admin.as_ref().and_then(|admin| admin.weight) {
        Some(weight) => format!(
            "{weight}, set by an operator; the configuration says {}{backup}",
            backend.weight
        ),
        None => format!("{}{backup}", backend.weight),
    }
}

fn traffic(backend: &BackendStatus) -> String {
    format!(
        "{} now, {} so far, {} failed connects, {} reset by it",
        text::count(backend.active, "connection"),
        text::grouped(backend.connections),
        text::grouped(backend.connect_failures),
        text::grouped(backend.resets),
    )
}

fn checks(checks: &[CheckRecord], now_unix: u64, paint: Paint) -> String {
    if checks.is_empty() {
        return String::new();
    }
    let mut rows = vec![vec![
        Cell::left("WHEN"),
        Cell::left("RESULT"),
        Cell::right("TOOK"),
        Cell::left("SENT"),
        Cell::left("RECEIVED"),
    ]];
    for check in checks {
        let tone = match check.result.as_str() {
            "passed" => Tone::Good,
            "failed" => Tone::Bad,
            _ => Tone::Doubtful,
        };
        let when = text::whole_seconds(now_unix.saturating_sub(check.at_ms / 1_000));
        rows.push(vec![
            Cell::left(format!("{when} ago")),
            Cell::left(&check.result).tone(tone),
            Cell::right(millis(check.duration_us)),
            Cell::left(one_line(&check.sent, CHECK_CHARS_MAX)),
            Cell::left(one_line(&check.received, CHECK_CHARS_MAX)),
        ]);
    }
    format!(
        "\nlast checks, newest first\n{}",
        text::table("  ", &rows, paint)
    )
}

fn millis(micros: u64) -> String {
    format!("{}.{} ms", micros / 1_000, micros % 1_000 / 100)
}

fn sentence(words: &str) -> String {
    one_line(words, SENTENCE_CHARS_MAX)
}

#[cfg(test)]
mod tests {
    use evenkeel_control::child::Event;
    use evenkeel_control::operator::BackendHttpStatus;

    use super::*;
    use crate::status_screen::tests::sample;

    const NOW: u64 = 1_700_000_000;

    fn why() -> Why {
        let mut status = sample();
        let mut backend = status.services.remove(0).backends.remove(2);
        backend.admin = Some(AdminStatus {
            state: "drain".to_owned(),
            weight: Some(3),
            by: "root (pid 12)".to_owned(),
            at_unix: NOW - 200,
        });
        Why {
            service: "web".to_owned(),
            backend,
            eligible: "not eligible: drained by root (pid 12) 3 min ago".to_owned(),
            explanation: Some(Box::new(Explanation {
                identity: "web/b3".to_owned(),
                check: "http: GET /_up, 200-299 passes, every 2s".to_owned(),
                checks: vec![
                    CheckRecord {
                        at_ms: (NOW - 1) * 1_000,
                        result: "failed".to_owned(),
                        sent: "GET /_up".to_owned(),
                        received: "503 Service Unavailable\n{\"status\":\"maintenance\"}"
                            .to_owned(),
                        duration_us: 1_250,
                    },
                    CheckRecord {
                        at_ms: (NOW - 3) * 1_000,
                        result: "passed".to_owned(),
                        sent: "GET /_up".to_owned(),
                        received: "200 OK".to_owned(),
                        duration_us: 900,
                    },
                ],
                next_ms: (NOW + 1) * 1_000,
                passive: "3 connects failed in a row".to_owned(),
                dns: String::new(),
                policy: "all backends are required; closed: 2 of 3 are healthy".to_owned(),
            })),
            events: vec![Event {
                at_ms: (NOW - 200) * 1_000,
                kind: "admin".to_owned(),
                subject: "web/b3".to_owned(),
                text: "drained by root (pid 12)".to_owned(),
            }],
        }
    }

    #[test]
    fn the_screen_says_first_whether_it_is_used_and_why_not() {
        assert_eq!(
            render(&why(), NOW, Paint::OFF),
            "\
backend web/b3  10.0.0.4:80  down for 3 min
not eligible: drained by root (pid 12) 3 min ago

why       3 checks failed in a row
check     http: GET /_up, 200-299 passes, every 2s
answer    connection refused in 0.4 ms, 1 s ago
next      check in 1 s
passive   3 connects failed in a row
operator  drained, weight 3, said by root (pid 12) 3 min ago
policy    all backends are required; closed: 2 of 3 are healthy
weight    3, set by an operator; the configuration says 1
traffic   4 connections now, 41,152 so far, 0 failed connects, 0 reset by it

last checks, newest first
  WHEN     RESULT    TOOK  SENT      RECEIVED
  1 s ago  failed  1.2 ms  GET /_up  503 Service Unavailable {\"status\":\"maintenance\"}
  3 s ago  passed  0.9 ms  GET /_up  200 OK

what happened, oldest first
  2023-11-14 22:10:00.000Z  admin    web/b3  drained by root (pid 12)
"
        );
    }

    #[test]
    fn a_backend_of_http_has_its_requests_too() {
        let mut why = why();
        assert!(!render(&why, NOW, Paint::OFF).contains("requests"));
        why.backend.http = Some(BackendHttpStatus {
            requests: 98_765,
            reused: 98_000,
            idle: 1,
            answers_5xx: 420,
            bad_answers: 2,
        });
        let page = render(&why, NOW, Paint::OFF);
        assert!(
            page.contains(
                "0 reset by it\nrequests  98,765 so far, 98,000 of them over a connection used before, 1 idle connection; \
                 420 answers of 5xx, 2 bad answers (malformed, broken off, or none)\n"
            ),
            "{page}"
        );
    }

    #[test]
    fn without_the_monitor_the_rest_is_told() {
        let mut why = why();
        why.explanation = None;
        why.events.clear();
        why.backend.admin = None;
        let page = render(&why, NOW, Paint::OFF);
        assert!(page.contains("\nmonitor   gives no answer"), "{page}");
        assert!(page.contains("\nweight    1\n"), "{page}");
        assert!(!page.contains("operator"), "{page}");
    }
}
