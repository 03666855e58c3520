//! What is told, for a person.

use super::answer::{BackendTold, Forwarded, Outcome, RouteTold, Told, Took};
use crate::output::Paint;
use crate::status_screen::{address, tone_of};
use crate::text::{self, Cell, Tone, one_line};

/// Longest conditions and actions of a route in the table.
const ROUTE_CHARS_MAX: usize = 60;

/// Routes in the table; more are counted.
const ROUTES_MAX: usize = 40;

/// Longest sentence.
const SENTENCE_CHARS_MAX: usize = 400;

pub(super) fn render(told: &Told, now_unix: u64, paint: Paint) -> String {
    let line = format!("{} {}", told.method, told.url);
    let mut page = format!("{}\n", paint.bold(&one_line(&line, SENTENCE_CHARS_MAX)));
    if told.takers.is_empty() {
        page.push_str(&format!("\n{}\n", paint.red(&nobody(told))));
    }
    for took in &told.takers {
        page.push('\n');
        let has_daemon = told.without_daemon.is_none();
        page.push_str(&taker(took, has_daemon, now_unix, paint));
    }
    let source = match &told.without_daemon {
        None => format!(
            "from {}, with the states of the daemon that runs",
            told.config
        ),
        Some(why) => format!("from {} alone: {why}", told.config),
    };
    let source = one_line(&source, SENTENCE_CHARS_MAX);
    page.push_str(&format!("\n{}\n", paint.dim(&source)));
    page
}

fn nobody(told: &Told) -> String {
    let mut words = match told.url.starts_with("https:") {
        true => "no listener takes https".to_owned(),
        false => "no listener of this configuration takes it".to_owned(),
    };
    if !told.other_listeners.is_empty() {
        let others = told.other_listeners.join(", ");
        words.push_str(&format!("; there is HTTP at {others}"));
    }
    words
}

fn taker(took: &Took, has_daemon: bool, now_unix: u64, paint: Paint) -> String {
    let mut page = String::new();
    for (label, words) in facts(took) {
        let words = one_line(&words, SENTENCE_CHARS_MAX);
        let words = match label {
            "refused" => paint.red(&words),
            _ => words,
        };
        page.push_str(&format!("{label:<9} {words}\n"));
    }
    page.push_str(&readings(took));
    page.push_str(&routes(took, paint));
    if let Some(Outcome::Service(forwarded)) = &took.outcome {
        page.push_str(&service(forwarded, has_daemon, now_unix, paint));
    }
    page
}

fn facts(took: &Took) -> Vec<(&'static str, String)> {
    let listeners = took.listeners.join(" ");
    let mut facts = vec![(
        "listener",
        format!("{listeners} of service {}", took.service),
    )];
    if took.mode == "tcp" {
        let words = "none: the service relays connections, and looks at no request";
        facts.push(("route", words.to_owned()));
    } else if took.refused.is_none() {
        facts.push(("route", taken(took)));
    }
    facts.extend(
        took.refused
            .iter()
            .map(|why| ("refused", format!("400: {why}"))),
    );
    match &took.outcome {
        None => {}
        Some(Outcome::NotFound) => {
            let words = "404: the service has no backends of its own";
            facts.push(("answer", words.to_owned()));
        }
        Some(Outcome::Redirect { status, location }) => {
            let words = match location {
                Some(location) => format!("{status} to {location}"),
                None => "400: the request lacks what the location needs".to_owned(),
            };
            facts.push(("redirect", words));
        }
        Some(Outcome::Answer {
            status,
            content_type,
            body,
        }) => {
            let words = match (content_type, body.is_empty()) {
                (_, true) => format!("{status}, without a body"),
                (None, false) => format!("{status}, {body}"),
                (Some(content_type), false) => format!("{status}, {content_type}, {body}"),
            };
            facts.push(("answer", words));
        }
        Some(Outcome::Service(forwarded)) => facts.extend(on_its_way(forwarded)),
    }
    facts
}

fn taken(took: &Took) -> String {
    match took.routes.iter().find(|route| route.taken) {
        Some(route) => format!("{} ({}): {}", route.number, route.requests, route.action),
        None if took.routes.is_empty() => "none: the service has no routes".to_owned(),
        None => "none takes it".to_owned(),
    }
}

/// How the backend sees it.
fn on_its_way(forwarded: &Forwarded) -> Vec<(&'static str, String)> {
    let mut facts = vec![("service", forwarded.service.clone())];
    let Some(path) = &forwarded.path else {
        return facts;
    };
    facts.push(("path", path.clone()));
    let host = forwarded.host.as_deref().unwrap_or("the backend's address");
    facts.push(("host", host.to_owned()));
    for (label, changes) in [
        ("request", &forwarded.request_changes),
        ("response", &forwarded.response_changes),
    ] {
        if !changes.is_empty() {
            facts.push((label, changes.join(", ")));
        }
    }
    facts
}

fn readings(took: &Took) -> String {
    let mut lines = String::new();
    if !took.readings.is_empty() {
        lines.push_str("\nbackends may read the path in several ways\n");
    }
    for reading in &took.readings {
        let route = match reading.route {
            Some(number) => format!("route {number}"),
            None => "no route".to_owned(),
        };
        let path = one_line(&reading.path, ROUTE_CHARS_MAX);
        lines.push_str(&format!("  {path} takes {route}\n"));
    }
    lines
}

/// Routes that were asked, up to the one that is taken, and those that would fit too.
fn routes(took: &Took, paint: Paint) -> String {
    let end = took.routes.iter().position(|route| route.taken);
    let told = took.routes.iter().enumerate().filter(|(index, route)| {
        let is_before = end.is_none_or(|end| *index <= end);
        !route.other_host && (is_before || route.fits_too)
    });
    let told: Vec<&RouteTold> = told.map(|(_, route)| route).collect();
    let mut page = String::new();
    if !took.routes.is_empty() {
        page.push_str("\nroutes, in the order in which they are asked\n");
    }
    if !told.is_empty() {
        let mut rows = vec![vec![
            Cell::right("ROUTE"),
            Cell::left("REQUESTS"),
            Cell::left("ACTION"),
            Cell::left("RESULT"),
        ]];
        for route in told.iter().take(ROUTES_MAX) {
            let tone = if route.taken { Tone::Good } else { Tone::Plain };
            rows.push(vec![
                Cell::right(route.number),
                Cell::left(one_line(&route.requests, ROUTE_CHARS_MAX)),
                Cell::left(one_line(&route.action, ROUTE_CHARS_MAX)),
                Cell::left(&route.why).tone(tone),
            ]);
        }
        page.push_str(&text::table("  ", &rows, paint));
    }
    let other_hosts = took.routes.iter().filter(|route| route.other_host).count();
    let of_host = told.len().min(ROUTES_MAX);
    let left = took.routes.len() - other_hosts - of_host;
    let routes = |count: usize, what: &str| {
        let routes = text::count(count as u64, "route");
        (count > 0).then(|| format!("  and {routes} {what}\n"))
    };
    page.extend(routes(left, "behind these"));
    page.extend(routes(other_hosts, "for other hosts"));
    page
}

fn service(forwarded: &Forwarded, has_daemon: bool, now_unix: u64, paint: Paint) -> String {
    let mut words = vec![forwarded.scheduler.to_owned()];
    words.extend(forwarded.persistence.clone());
    if forwarded.require != "any" {
        words.push(format!("require {}", forwarded.require));
    }
    words.extend(forwarded.sorry.iter().map(|sorry| format!("else {sorry}")));
    let state = match (forwarded.serving, has_daemon) {
        (Some(true), _) => paint.green("  serving"),
        (Some(false), _) => paint.red("  NOT SERVING"),
        (None, true) => paint.yellow("  not known to the daemon: `evenkeel reload`?"),
        (None, false) => String::new(),
    };
    let name = paint.bold(&forwarded.service);
    let mut page = format!("\nservice {name}  {}{state}\n", words.join(", "));
    if forwarded.serving == Some(false) && !forwarded.gate_reason.is_empty() {
        let reason = one_line(&forwarded.gate_reason, SENTENCE_CHARS_MAX);
        page.push_str(&format!("  {reason}\n"));
    }
    let mut heading = vec![
        Cell::left("BACKEND"),
        Cell::left("ADDRESS"),
        Cell::right("WEIGHT"),
    ];
    if has_daemon {
        heading.extend([Cell::left("STATE"), Cell::right("ACTIVE")]);
    }
    let rows = forwarded.backends.iter();
    let rows = rows.map(|backend| row(backend, has_daemon, now_unix));
    let rows: Vec<_> = std::iter::once(heading).chain(rows).collect();
    page.push_str(&text::table("  ", &rows, paint));
    page
}

fn row(backend: &BackendTold, has_daemon: bool, now_unix: u64) -> Vec<Cell> {
    let name = match backend.backup {
        true => format!("{} (backup)", backend.name),
        false => backend.name.clone(),
    };
    let place = match &backend.now {
        Some(now) => address(now),
        None => backend.address.clone(),
    };
    let mut cells = vec![
        Cell::left(name),
        Cell::left(place),
        Cell::right(backend.weight),
    ];
    if !has_daemon {
        return cells;
    }
    let Some(now) = &backend.now else {
        cells.push(Cell::left("not known to the daemon").tone(Tone::Doubtful));
        return cells;
    };
    let mut state = now.state.clone();
    if now.since_unix > 0 {
        let since = text::since(now.since_unix, now_unix);
        state.push_str(&format!(" for {since}"));
    }
    let mut tone = tone_of(&now.state);
    if let Some(admin) = now.admin.as_ref().filter(|admin| admin.state != "enabled") {
        state.push_str(&format!(", {} by an operator", admin.state));
        tone = Tone::Doubtful;
    }
    cells.push(Cell::left(state).tone(tone));
    cells.push(Cell::right(text::grouped(now.active)));
    cells
}
