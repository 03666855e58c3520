//! A page of the text format, version 0.0.4, under construction.
//!
//! The series of the daemon and its workers are few and go through the exporter's recorder. Those of services, listeners and
//! backends may be a million, which takes seconds there, and the recorder's histograms cannot be set to what the scoreboard
//! has: both are written here. `# HELP` and `# TYPE` come from the table either way.
//!
//! Source: <https://prometheus.io/docs/instrumenting/exposition_formats/>, "Text-based format".

use std::fmt::{Display, Write as _};
use std::sync::LazyLock;

use evenkeel_scoreboard::{Histogram, LATENCY_BOUNDS_US};
use metrics::{Key, Label, Level, Metadata, Recorder as _, SharedString};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use crate::table::{Kind, Metric, TABLE};

/// A page that grows family by family, in any order.
pub(crate) struct Page {
    recorder: PrometheusRecorder,
    /// Those that do not go through the recorder, each whole: help, type, series.
    families: Vec<String>,
}

/// A family under construction.
pub(crate) struct Family {
    metric: Metric,
    text: String,
}

/// Names and values of labels, escaped once for all series that have them.
#[derive(Debug)]
pub(crate) struct Labels {
    names: &'static [&'static str],
    text: String,
}

impl Page {
    pub(crate) fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        for metric in TABLE {
            let help = SharedString::const_str(metric.help);
            match metric.kind {
                Kind::Counter => recorder.describe_counter(metric.name.into(), None, help),
                Kind::Gauge => recorder.describe_gauge(metric.name.into(), None, help),
                Kind::Histogram => {}
            }
        }
        Self {
            recorder,
            families: Vec::new(),
        }
    }

    /// One series through the recorder. All series of a metric must go that way.
    pub(crate) fn set(&self, metric: Metric, labels: &[&str], value: u64) {
        match metric.kind {
            Kind::Counter => self
                .recorder
                .register_counter(&key(metric, labels), &METADATA)
                .absolute(value),
            Kind::Gauge | Kind::Histogram => self.set_f64(metric, labels, to_f64(value)),
        }
    }

    /// The same for a gauge that is no whole number.
    pub(crate) fn set_f64(&self, metric: Metric, labels: &[&str], value: f64) {
        debug_assert_eq!(metric.kind, Kind::Gauge, "{}", metric.name);
        self.recorder
            .register_gauge(&key(metric, labels), &METADATA)
            .set(value);
    }

    /// A family with all its series, in the order in which `write` adds them. One without series leaves no trace.
    pub(crate) fn family(&mut self, metric: Metric, write: impl FnOnce(&mut Family)) {
        let (name, help, kind) = (metric.name, metric.help, metric.kind.as_str());
        let text = format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        let header = text.len();
        let mut family = Family { metric, text };
        write(&mut family);
        if family.text.len() > header {
            self.families.push(family.text);
        }
    }

    /// A family with one series an item.
    pub(crate) fn each<T, V: Display>(
        &mut self,
        metric: Metric,
        items: &[(Labels, T)],
        value: impl Fn(&T) -> V,
    ) {
        self.family(metric, |family| {
            for (labels, item) in items {
                family.add(labels, value(item));
            }
        });
    }

    /// A family with a series for each item and each of `words`: 1 for the item's own word, 0 for the others.
    pub(crate) fn one_of_many<T>(
        &mut self,
        metric: Metric,
        items: &[(Labels, T)],
        words: &[&str],
        word: impl Fn(&T) -> &'static str,
    ) {
        self.family(metric, |family| {
            for (labels, item) in items {
                let own = word(item);
                for other in words {
                    family.add_with(labels, other, u8::from(*other == own));
                }
            }
        });
    }

    /// The text, families in the order of their names, so that two scrapes can be compared by eye.
    pub(crate) fn render(self) -> String {
        let recorded = self.recorder.handle().render();
        let mut families = self.families;
        let blocks = recorded.split("\n\n").map(|block| block.trim_matches('\n'));
        for block in blocks.filter(|block| !block.is_empty()) {
            let mut lines: Vec<_> = block.lines().collect();
            // `# HELP` and `# TYPE` come first in byte order, too.
            lines.sort_unstable();
            families.push(lines.join("\n") + "\n");
        }
        // Each begins with `# HELP` and its name.
        families.sort_unstable();
        let mut text = String::with_capacity(families.iter().map(String::len).sum());
        for family in families {
            text.push_str(&family);
        }
        text
    }
}

impl Family {
    /// Adds a series.
    pub(crate) fn add(&mut self, labels: &Labels, value: impl Display) {
        debug_assert_eq!(self.metric.labels, labels.names, "{}", self.metric.name);
        self.line("", &[&labels.text], value);
    }

    /// Adds a series with one more label, the metric's last. Its value is one of ours that needs no escaping.
    pub(crate) fn add_with(&mut self, labels: &Labels, last: &str, value: impl Display) {
        let Some((name, names)) = self.metric.labels.split_last() else {
            return;
        };
        debug_assert_eq!(names, labels.names, "{}", self.metric.name);
        self.line("", &[&labels.text, ",", name, "=\"", last, "\""], value);
    }

    /// Adds the series of a histogram: buckets that include those below them, the sum in seconds, and the count, which is what
    /// the last bucket has.
    pub(crate) fn add_histogram(&mut self, labels: &Labels, histogram: &Histogram) {
        debug_assert_eq!(self.metric.labels, labels.names, "{}", self.metric.name);
        let mut count = 0_u64;
        for (more, bound) in histogram.buckets.iter().zip(BOUNDS.iter()) {
            count = count.wrapping_add(*more);
            self.line("_bucket", &[&labels.text, ",le=\"", bound, "\""], count);
        }
        self.line("_sum", &[&labels.text], to_f64(histogram.sum_us) / 1e6);
        self.line("_count", &[&labels.text], count);
    }

    fn line(&mut self, suffix: &str, labels: &[&str], value: impl Display) {
        self.text.push_str(self.metric.name);
        self.text.push_str(suffix);
        self.text.push('{');
        for part in labels {
            self.text.push_str(part);
        }
        // Writing to a string does not fail.
        writeln!(self.text, "}} {value}").unwrap_or_default();
    }
}

impl Labels {
    /// `values` in the order of `names`; at least one.
    pub(crate) fn new(names: &'static [&'static str], values: &[&str]) -> Self {
        debug_assert_eq!(names.len(), values.len(), "{names:?}");
        let mut text = String::new();
        for (name, value) in names.iter().zip(values) {
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(name);
            text.push_str("=\"");
            for c in value.chars() {
                match c {
                    '\\' => text.push_str("\\\\"),
                    '"' => text.push_str("\\\""),
                    '\n' => text.push_str("\\n"),
                    c => text.push(c),
                }
            }
            text.push('"');
        }
        Self { names, text }
    }
}

/// Nearest 64-bit float: gauges of the format are floats.
#[expect(
    clippy::cast_precision_loss,
    reason = "exact up to 2^53, which no gauge here reaches"
)]
pub(crate) fn to_f64(value: u64) -> f64 {
    value as f64
}

const METADATA: Metadata<'static> = Metadata::new("evenkeel", Level::INFO, None);

/// Bounds of the buckets in seconds, as they are written.
static BOUNDS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let seconds = |us: &u64| (to_f64(*us) / 1e6).to_string();
    let bounds = LATENCY_BOUNDS_US.iter().map(seconds);
    bounds.chain(["+Inf".to_owned()]).collect()
});

fn key(metric: Metric, values: &[&str]) -> Key {
    debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
    let labels: Vec<_> = metric
        .labels
        .iter()
        .zip(values)
        .map(|(&name, &value)| Label::new(name, value.to_owned()))
        .collect();
    Key::from_parts(metric.name, labels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{SERVICE_CONNECT, SERVICE_CONNECTIONS, SERVICE_GATE, WORKERS};

    #[test]
    fn values_of_labels_are_escaped() {
        let labels = Labels::new(&["a", "b"], &["x\\y \"z\"\n", "plain"]);
        assert_eq!(labels.text, r#"a="x\\y \"z\"\n",b="plain""#);
    }

    #[test]
    fn families_come_whole_in_the_order_of_their_names_and_empty_ones_not_at_all() {
        let mut page = Page::new();
        let web = [(Labels::new(&["service"], &["web"]), ())];
        page.set(WORKERS, &[], 2);
        page.one_of_many(SERVICE_GATE, &web, &["open", "closed"], |()| "closed");
        page.each(SERVICE_CONNECTIONS, &web, |()| u64::MAX);
        page.family(SERVICE_CONNECT, |_| {});
        let text = page.render();
        let series: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            series,
            [
                "evenkeel_service_connections_total{service=\"web\"} 18446744073709551615",
                "evenkeel_service_gate{service=\"web\",state=\"open\"} 0",
                "evenkeel_service_gate{service=\"web\",state=\"closed\"} 1",
                "evenkeel_workers 2",
            ]
        );
        assert!(text.starts_with("# HELP evenkeel_service_connections_total Client"));
        assert_eq!(text.matches("# TYPE ").count(), 3, "{text}");
    }

    #[test]
    fn a_histogram_adds_up_from_bound_to_bound() {
        let mut histogram = Histogram::default();
        histogram.buckets[0] = 2;
        histogram.buckets[3] = 1;
        *histogram.buckets.last_mut().unwrap() = 4;
        histogram.sum_us = 1_500_000;
        let mut page = Page::new();
        let labels = Labels::new(&["service"], &["web"]);
        page.family(SERVICE_CONNECT, |family| {
            family.add_histogram(&labels, &histogram);
        });
        let text = page.render();
        for line in [
            "# TYPE evenkeel_service_connect_seconds histogram",
            "evenkeel_service_connect_seconds_bucket{service=\"web\",le=\"0.0001\"} 2",
            "evenkeel_service_connect_seconds_bucket{service=\"web\",le=\"0.0005\"} 2",
            "evenkeel_service_connect_seconds_bucket{service=\"web\",le=\"0.001\"} 3",
            "evenkeel_service_connect_seconds_bucket{service=\"web\",le=\"3600\"} 3",
            "evenkeel_service_connect_seconds_bucket{service=\"web\",le=\"+Inf\"} 7",
            "evenkeel_service_connect_seconds_sum{service=\"web\"} 1.5",
            "evenkeel_service_connect_seconds_count{service=\"web\"} 7",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
