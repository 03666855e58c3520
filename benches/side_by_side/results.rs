//! What was measured, round by round, and what each figure is held against.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::peers::Kind;

/// One measurement of one peer: figures by their names in `Series::columns`, and some that only the JSON shows.
pub(crate) type Sample = BTreeMap<&'static str, f64>;

/// A column of a table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Column {
    pub(crate) figure: &'static str,
    pub(crate) heading: &'static str,
    pub(crate) decimals: usize,
}

const fn column(figure: &'static str, heading: &'static str, decimals: usize) -> Column {
    Column {
        figure,
        heading,
        decimals,
    }
}

/// The highest that the cost may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Target {
    /// This much of the better peer's.
    OfBetter(f64),
    /// This much, in the cost's own unit.
    Absolute(f64),
}

/// One kind of measurement. `columns[cost]` is what ratios are of; less is better.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Series {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) columns: &'static [Column],
    pub(crate) cost: &'static str,
    /// What `at` counts in a series that grows.
    pub(crate) axis: Option<&'static str>,
    pub(crate) target: Option<Target>,
}

const TRAFFIC: &[Column] = &[
    column("rate", "per s", 0),
    column("p50_us", "p50 us", 0),
    column("p99_us", "p99 us", 0),
    column("cpu_us", "CPU us each", 2),
    column("memory_mib", "memory MiB", 1),
    column("log_lines", "log lines each", 2),
    column("errors", "errors", 0),
];
const MEMORY: &[Column] = &[
    column("bytes", "bytes each", 0),
    column("mib_0", "MiB, none", 1),
    column("mib_half", "MiB, half", 1),
    column("mib_all", "MiB, all", 1),
    column("descriptors", "descriptors each", 2),
    column("lost", "lost", 0),
];
const BACKENDS: &[Column] = &[
    column("rate", "per s", 0),
    column("p99_us", "p99 us", 0),
    column("cpu_us", "CPU us each", 2),
    column("standing_ms", "CPU ms/s unused", 2),
    column("start_ms", "start ms", 0),
    column("memory_mib", "memory MiB", 1),
    column("errors", "errors", 0),
];
const RELOAD: &[Column] = &[
    column("reload_ms", "reload ms", 0),
    column("start_ms", "start ms", 0),
    column("memory_mib", "memory MiB", 1),
];

/// In the order of tables and plots.
pub(crate) const SERIES: [Series; 11] = [
    traffic(
        "small",
        "Small exchange, connection kept",
        Target::OfBetter(0.90),
    ),
    traffic(
        "connection",
        "One connection per request",
        Target::OfBetter(0.95),
    ),
    traffic("bulk", "Answers of 1 MiB", Target::OfBetter(1.0)),
    Series {
        target: None,
        ..traffic(
            "idle",
            "Small exchange beside 1,000 idle",
            Target::OfBetter(1.0),
        )
    },
    memory(
        "relay-memory",
        "Idle relay, both sides connected",
        Target::Absolute(400.0),
    ),
    memory(
        "client-memory",
        "Idle client that has sent nothing",
        Target::Absolute(128.0),
    ),
    growth(
        "growth-workers-small",
        "Small exchange, by workers",
        TRAFFIC,
        "cpu_us",
        "workers",
    ),
    growth(
        "growth-workers-connection",
        "Connection per request, by workers",
        TRAFFIC,
        "cpu_us",
        "workers",
    ),
    growth(
        "growth-backends",
        "Connection per request, by backends",
        BACKENDS,
        "cpu_us",
        "backends",
    ),
    growth(
        "growth-idle",
        "Small exchange, by idle connections beside it",
        TRAFFIC,
        "cpu_us",
        "idle connections",
    ),
    growth(
        "growth-reload",
        "Reload of one service among many",
        RELOAD,
        "reload_ms",
        "services",
    ),
];

const fn traffic(name: &'static str, title: &'static str, target: Target) -> Series {
    Series {
        name,
        title,
        columns: TRAFFIC,
        cost: "cpu_us",
        axis: None,
        target: Some(target),
    }
}

const fn memory(name: &'static str, title: &'static str, target: Target) -> Series {
    Series {
        name,
        title,
        columns: MEMORY,
        cost: "bytes",
        axis: None,
        target: Some(target),
    }
}

const fn growth(
    name: &'static str,
    title: &'static str,
    columns: &'static [Column],
    cost: &'static str,
    axis: &'static str,
) -> Series {
    Series {
        name,
        title,
        columns,
        cost,
        axis: Some(axis),
        target: None,
    }
}

/// All rounds of everything.
#[derive(Debug, Default)]
pub(crate) struct Results {
    rounds: BTreeMap<(&'static str, u32, Kind), Vec<Sample>>,
    /// What was not measured, and why; and what was odd.
    pub(crate) notes: Vec<String>,
}

impl Results {
    /// `at` is 0 in a series that does not grow.
    pub(crate) fn add(&mut self, series: &'static str, at: u32, kind: Kind, sample: Sample) {
        self.rounds
            .entry((series, at, kind))
            .or_default()
            .push(sample);
    }

    /// Says something now, and again at the end and in the JSON.
    #[expect(clippy::print_stdout, reason = "a run takes minutes")]
    pub(crate) fn note(&mut self, text: String) {
        println!("note: {text}");
        self.notes.push(text);
    }

    /// Where a series was measured.
    pub(crate) fn points(&self, series: &str) -> Vec<u32> {
        let mut points: Vec<u32> = self
            .rounds
            .keys()
            .filter(|(name, ..)| *name == series)
            .map(|(_, at, _)| *at)
            .collect();
        points.dedup();
        points
    }

    /// The middle of what the rounds saw; the higher one of two in the middle.
    pub(crate) fn median(&self, series: &str, at: u32, kind: Kind, figure: &str) -> Option<f64> {
        let (_, samples) = self
            .rounds
            .iter()
            .find(|((name, point, peer), _)| (*name, *point, *peer) == (series, at, kind))?;
        let mut values: Vec<f64> = samples
            .iter()
            .filter_map(|s| s.get(figure))
            .copied()
            .collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }

    /// Our cost as a share of a peer's; of the better peer's without one.
    pub(crate) fn ratio(&self, series: &Series, at: u32, peer: Option<Kind>) -> Option<f64> {
        let cost = |kind| self.median(series.name, at, kind, series.cost);
        let other = match peer {
            Some(kind) => cost(kind)?,
            None => [cost(Kind::Haproxy), cost(Kind::Nginx)]
                .into_iter()
                .flatten()
                .reduce(f64::min)?,
        };
        Some(cost(Kind::Evenkeel)? / other)
    }

    /// Whether the target was met, and in words what it is.
    pub(crate) fn verdict(&self, series: &Series, at: u32) -> Option<(bool, String)> {
        let (value, limit, text) = match series.target? {
            Target::OfBetter(limit) => (
                self.ratio(series, at, None)?,
                limit,
                format!("{limit:.2} of the better"),
            ),
            Target::Absolute(limit) => (
                self.median(series.name, at, Kind::Evenkeel, series.cost)?,
                limit,
                format!("{limit:.0} bytes"),
            ),
        };
        Some((value <= limit, text))
    }

    /// Everything, as it goes into the file.
    pub(crate) fn json(&self) -> Value {
        let rows = self.rounds.iter().map(|((series, at, kind), samples)| {
            let figures: Vec<&str> = samples.iter().flat_map(|s| s.keys().copied()).collect();
            let median: BTreeMap<&str, Option<f64>> = figures
                .into_iter()
                .map(|figure| (figure, self.median(series, *at, *kind, figure)))
                .collect();
            json!({"work": series, "at": at, "peer": kind.name(), "median": median, "rounds": samples})
        });
        let targets = SERIES.iter().flat_map(|series| {
            let points = self.points(series.name).into_iter();
            points.filter_map(|at| {
                let (met, target) = self.verdict(series, at)?;
                Some(json!({
                    "work": series.name,
                    "cost": series.cost,
                    "of_haproxy": self.ratio(series, at, Some(Kind::Haproxy)),
                    "of_nginx": self.ratio(series, at, Some(Kind::Nginx)),
                    "of_better": self.ratio(series, at, None),
                    "target": target,
                    "met": met,
                }))
            })
        });
        json!({
            "results": rows.collect::<Vec<_>>(),
            "targets": targets.collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }
}
