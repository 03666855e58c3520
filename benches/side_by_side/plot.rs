//! The results as one picture: an SVG, written by hand, so that nothing needs to be installed to have it.

use std::fmt::Write as _;

use serde_json::Value;

use crate::chart::{self, Bars, Chart, Group, Line, Lines};
use crate::peers::Kind;
use crate::results::{Results, SERIES, Series, Target};

const WIDTH: f64 = 1_080.0;
const MARGIN: f64 = 40.0;
const GAP: f64 = 40.0;
const HEAD: f64 = 118.0;
const HEIGHT: f64 = 290.0;

/// What growth is shown of: series, figure, title, unit.
const GROWTH: [(&str, &str, &str, &str); 10] = [
    (
        "growth-workers-small",
        "rate",
        "Small exchanges by workers",
        "a second",
    ),
    (
        "growth-workers-small",
        "cpu_us",
        "CPU of a small exchange by workers",
        "us",
    ),
    (
        "growth-workers-connection",
        "rate",
        "Connections by workers",
        "a second",
    ),
    (
        "growth-workers-connection",
        "cpu_us",
        "CPU of a connection by workers",
        "us",
    ),
    (
        "growth-backends",
        "cpu_us",
        "CPU of a connection by backends",
        "us",
    ),
    (
        "growth-backends",
        "start_ms",
        "Time to start by backends",
        "ms",
    ),
    (
        "growth-idle",
        "cpu_us",
        "CPU of a small exchange by idle connections beside it",
        "us",
    ),
    (
        "growth-idle",
        "p99_us",
        "99 % of small exchanges by idle connections beside them",
        "us",
    ),
    (
        "growth-reload",
        "reload_ms",
        "Time to reload by services",
        "ms",
    ),
    (
        "growth-reload",
        "start_ms",
        "Time to start by services",
        "ms",
    ),
];

/// Draws everything that was measured.
pub(crate) fn render(results: &Results, facts: &Value) -> String {
    let mut charts: Vec<(bool, Chart)> = Vec::new();
    for http in [false, true] {
        charts.extend(cpu(results, http).map(|bars| (true, Chart::Bars(bars))));
    }
    charts.extend(
        SERIES
            .iter()
            .filter(|series| series.cost == "bytes")
            .filter_map(|series| memory(series, results))
            .map(|bars| (false, Chart::Bars(bars))),
    );
    charts.extend(
        GROWTH
            .into_iter()
            .filter_map(|(series, figure, title, unit)| {
                let lines = growth(results, series, figure, title, unit)?;
                Some((false, Chart::Lines(lines)))
            }),
    );
    let mut body = String::new();
    let (mut x, mut y) = (MARGIN, HEAD);
    let half = (WIDTH - 2.0 * MARGIN - GAP) / 2.0;
    for (wide, chart) in charts {
        if wide && x > MARGIN {
            (x, y) = (MARGIN, y + HEIGHT + GAP);
        }
        let width = if wide { WIDTH - 2.0 * MARGIN } else { half };
        body.push_str(&chart::draw(&chart, (x, y), (width, HEIGHT)));
        if wide || x > MARGIN {
            (x, y) = (MARGIN, y + HEIGHT + GAP);
        } else {
            x += half + GAP;
        }
    }
    let bottom = if x > MARGIN { y + HEIGHT + GAP } else { y };
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {bottom}\" width=\"{WIDTH}\" height=\"{bottom}\" \
         font-family=\"system-ui, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif\" font-size=\"12\" fill=\"#333\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{}{body}</svg>\n",
        head(facts)
    )
}

/// The colour of a peer, distinguishable without red and green.
pub(crate) fn colour(kind: Kind) -> &'static str {
    match kind {
        Kind::Evenkeel => "#0b62b8",
        Kind::Haproxy => "#e69f00",
        Kind::Nginx => "#7a8a94",
    }
}

fn head(facts: &Value) -> String {
    let text = |pointer: &str| {
        let value = facts.pointer(pointer).unwrap_or(&Value::Null);
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        chart::escape(&text)
    };
    // `HAProxy version 2.6.12-1 2026/10/17 - https://..` and `nginx version: nginx/1.22.1`: the word with the figures.
    let version = |peer: &str| {
        let line = text(&format!("/versions/{peer}"));
        let word = line
            .split([' ', '/'])
            .find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
        word.unwrap_or("?").to_owned()
    };
    let mut head = format!(
        "<text x=\"{MARGIN}\" y=\"40\" font-size=\"22\" font-weight=\"600\" fill=\"#111\">evenkeel beside HAProxy and nginx</text>\n\
         <text x=\"{MARGIN}\" y=\"61\" fill=\"#666\">{} &#183; {} CPUs ({}) &#183; Linux {} &#183; {} interleaved rounds of {} s, medians</text>\n",
        text("/date"),
        text("/machine/cpus"),
        text("/machine/cpu"),
        text("/machine/kernel"),
        text("/rounds"),
        text("/seconds"),
    );
    let mut x = MARGIN;
    for kind in Kind::ALL {
        let label = format!("{} {}", kind.name(), version(kind.name()));
        writeln!(
            head,
            "<rect x=\"{x}\" y=\"76\" width=\"12\" height=\"12\" rx=\"2\" fill=\"{}\"/>\
             <text x=\"{}\" y=\"86.5\">{label}</text>",
            colour(kind),
            x + 18.0,
        )
        .unwrap();
        x += 50.0 + 7.0 * chart::count(label.len());
    }
    head
}

/// CPU time of every work that does not grow, of relays or of HTTP, as a share of the better peer's.
fn cpu(results: &Results, http: bool) -> Option<Bars> {
    let series: Vec<&Series> = SERIES
        .iter()
        .filter(|series| series.cost == "cpu_us" && series.axis.is_none())
        .filter(|series| series.name.starts_with("http-") == http)
        .filter(|series| !results.points(series.name).is_empty())
        .collect();
    let group = |series: &&Series| {
        let cost = |kind| results.median(series.name, 0, kind, series.cost);
        let better = [cost(Kind::Haproxy), cost(Kind::Nginx)]
            .into_iter()
            .flatten()
            .reduce(f64::min)?;
        let bars = Kind::ALL
            .into_iter()
            .filter_map(|kind| {
                let cost = cost(kind)?;
                Some((
                    colour(kind),
                    cost / better,
                    format!("{:.2}", cost / better),
                    format!("{} us", chart::short(cost)),
                ))
            })
            .collect();
        let limit = match series.target {
            Some(Target::OfBetter(limit)) => Some(limit),
            // The stricter one of both.
            Some(Target::OfBoth { haproxy, nginx }) => {
                [(Kind::Haproxy, haproxy), (Kind::Nginx, nginx)]
                    .into_iter()
                    .filter_map(|(kind, limit)| Some(limit * cost(kind)? / better))
                    .reduce(f64::min)
            }
            Some(Target::Absolute(_)) | None => None,
        };
        let target = limit.filter(|_| cost(Kind::Evenkeel).is_some());
        let target = target.map(|limit| (limit, format!("target {limit:.2}")));
        Some(Group {
            label: series.title.to_owned(),
            bars,
            target,
        })
    };
    let groups: Vec<Group> = series.iter().filter_map(group).collect();
    (!groups.is_empty()).then(|| Bars {
        title: if http {
            "CPU time of an HTTP request"
        } else {
            "CPU time of a relayed request or connection"
        }
        .to_owned(),
        subtitle: "share of the better of HAProxy and nginx; less is better".to_owned(),
        groups,
    })
}

fn memory(series: &Series, results: &Results) -> Option<Bars> {
    let bars: Vec<_> = Kind::ALL
        .into_iter()
        .filter_map(|kind| {
            let bytes = results.median(series.name, 0, kind, series.cost)?;
            Some((
                colour(kind),
                bytes,
                chart::short(bytes),
                kind.name().to_owned(),
            ))
        })
        .collect();
    let own = results.median(series.name, 0, Kind::Evenkeel, series.cost);
    let target = match series.target {
        Some(Target::Absolute(limit)) if own.is_some() => {
            Some((limit, format!("target {limit:.0}")))
        }
        _ => None,
    };
    (!bars.is_empty()).then(|| Bars {
        title: series.title.to_owned(),
        subtitle: "bytes of user space for one more connection; less is better".to_owned(),
        groups: vec![Group {
            label: String::new(),
            bars,
            target,
        }],
    })
}

fn growth(results: &Results, series: &str, figure: &str, title: &str, unit: &str) -> Option<Lines> {
    let points = results.points(series);
    let axis = SERIES.iter().find(|s| s.name == series)?.axis?;
    let lines: Vec<Line> = Kind::ALL
        .into_iter()
        .map(|kind| Line {
            colour: colour(kind),
            values: points
                .iter()
                .map(|at| results.median(series, *at, kind, figure))
                .collect(),
        })
        .collect();
    let better = if unit == "a second" { "more" } else { "less" };
    (!points.is_empty()).then(|| Lines {
        title: title.to_owned(),
        subtitle: format!("{unit}; {better} is better"),
        axis: axis.to_owned(),
        points,
        lines,
    })
}
