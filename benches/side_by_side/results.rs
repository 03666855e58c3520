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
    /// These shares of both peers', and a p99 below those of both.
    OfBoth { haproxy: f64, nginx: f64 },
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
pub(crate) const SERIES: [Series; 17] = [
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
    traffic("http-small", "66 bytes", of_both(0.65, 0.78)),
    traffic("http-16k", "16 KiB", of_both(0.68, 0.75)),
    traffic("http-1m", "1 MiB", of_both(0.80, 0.88)),
    traffic("http-connection", "New connection", of_both(0.65, 0.78)),
    Series {
        target: None,
        ..traffic(
            "http-cht",
            "New connection, kept idle",
            Target::OfBetter(1.0),
        )
    },
    memory(
        "http-client-memory",
        "Idle HTTP client after a request",
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

const fn of_both(haproxy: f64, nginx: f64) -> Target {
    Target::OfBoth { haproxy, nginx }
}

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

    /// The parts of the target in words, and whether each was met. What there is nothing to hold against is left out.
    pub(crate) fn verdicts(&self, series: &Series, at: u32) -> Vec<(bool, String)> {
        let share = |peer: Option<Kind>, limit: f64| {
            let of = peer.map_or("the better", Kind::name);
            let met = self.ratio(series, at, peer)? <= limit;
            Some((met, format!("{limit:.2} of {of}")))
        };
        let verdicts = match series.target {
            None => vec![],
            Some(Target::OfBetter(limit)) => vec![share(None, limit)],
            Some(Target::OfBoth { haproxy, nginx }) => vec![
                share(Some(Kind::Haproxy), haproxy),
                share(Some(Kind::Nginx), nginx),
                self.p99_verdict(series, at),
            ],
            Some(Target::Absolute(limit)) => {
                let own = self.median(series.name, at, Kind::Evenkeel, series.cost);
                vec![own.map(|own| (own <= limit, format!("{limit:.0} bytes")))]
            }
        };
        verdicts.into_iter().flatten().collect()
    }

    fn p99_verdict(&self, series: &Series, at: u32) -> Option<(bool, String)> {
        let p99 = |kind| self.median(series.name, at, kind, "p99_us");
        let least = [Kind::Haproxy, Kind::Nginx]
            .into_iter()
            .filter_map(p99)
            .reduce(f64::min)?;
        Some((p99(Kind::Evenkeel)? < least, "p99 below both".to_owned()))
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
                let verdicts = self.verdicts(series, at);
                let parts: Vec<Value> = verdicts
                    .iter()
                    .map(|(met, target)| json!({"target": target, "met": met}))
                    .collect();
                let target: Vec<&str> = verdicts.iter().map(|(_, text)| text.as_str()).collect();
                (!verdicts.is_empty()).then(|| {
                    json!({
                        "work": series.name,
                        "cost": series.cost,
                        "of_haproxy": self.ratio(series, at, Some(Kind::Haproxy)),
                        "of_nginx": self.ratio(series, at, Some(Kind::Nginx)),
                        "of_better": self.ratio(series, at, None),
                        "target": target.join(", "),
                        "met": verdicts.iter().all(|(met, _)| *met),
                        "parts": parts,
                    })
                })
            })
        });
        json!({
            "results": rows.collect::<Vec<_>>(),
            "targets": targets.collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }
}
