//! Reading the Prometheus text format, and watching that counters only rise.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::client;
use crate::pause_until;

/// One scrape.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    /// Families by name, with their type.
    pub families: BTreeMap<String, String>,
    /// Values by series, written as in the scrape: `name{label="value"}`.
    pub series: BTreeMap<String, f64>,
}

impl Metrics {
    /// Reads the text; the first line that is not of the format otherwise.
    ///
    /// # Errors
    /// The line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut metrics = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            if let Some(comment) = line.strip_prefix('#') {
                let mut words = comment.split_whitespace();
                if words.next() == Some("TYPE") {
                    let name = words.next().ok_or(line)?;
                    let kind = words.next().ok_or(line)?;
                    metrics.families.insert(name.to_owned(), kind.to_owned());
                }
                continue;
            }
            let (series, value) = line.rsplit_once(' ').ok_or(line)?;
            let value = value.parse().map_err(|_| line)?;
            if metrics.series.insert(series.to_owned(), value).is_some() {
                return Err(format!("twice: {line}"));
            }
        }
        Ok(metrics)
    }

    /// The value of the series of `name` whose labels include all of `labels`, summed where there are several; `None` where
    /// there is none.
    #[must_use]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted = |series: &&String| {
            let (family, rest) = series.split_once('{').unwrap_or((series, ""));
            family == name
                && labels.iter().all(|(label, value)| {
                    let pair = format!("{label}=\"{value}\"");
                    rest.split(&[',', '}', '{'][..]).any(|found| found == pair)
                })
        };
        let mut found = self.series.keys().filter(wanted).peekable();
        found.peek()?;
        Some(found.map(|series| self.series[series]).sum())
    }

    /// Whether the series is of a counter, or of a histogram's or summary's rising parts.
    #[must_use]
    pub fn only_rises(&self, series: &str) -> bool {
        let family = series.split('{').next().unwrap_or(series);
        if self
            .families
            .get(family)
            .is_some_and(|kind| kind == "counter")
        {
            return true;
        }
        ["_bucket", "_count", "_sum"].iter().any(|part| {
            let base = family.strip_suffix(part);
            base.and_then(|base| self.families.get(base))
                .is_some_and(|kind| kind == "histogram" || kind == "summary")
        })
    }
}

/// Asks an HTTP server for `path`: status and body.
///
/// # Errors
/// What went wrong, in words.
pub fn http(address: SocketAddr, path: &str) -> Result<(u16, String), String> {
    let failed = |what: &dyn std::fmt::Debug| format!("GET {path} from {address}: {what:?}");
    let mut stream = client::connect(address).map_err(|error| failed(&error))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .map_err(|error| failed(&error))?;
    let bytes = client::read_to_end(&mut stream).map_err(|error| failed(&error))?;
    let text = String::from_utf8(bytes).map_err(|error| failed(&error))?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| failed(&text))?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| failed(&head))?;
    if head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked")
    {
        return Ok((status, unchunk(body).ok_or_else(|| failed(&body))?));
    }
    Ok((status, body.to_owned()))
}

fn unchunk(mut body: &str) -> Option<String> {
    let mut whole = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n")?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(whole);
        }
        whole.push_str(rest.get(..size)?);
        body = rest.get(size..)?.strip_prefix("\r\n")?;
    }
}

/// Scrapes all the while and notes every counter that fell.
#[derive(Debug)]
pub struct Scraper {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<ScrapeReport>>,
}

/// What a [`Scraper`] saw.
#[derive(Clone, Debug, Default)]
pub struct ScrapeReport {
    /// Scrapes that came whole.
    pub scrapes: u64,
    /// Scrapes that failed, in words.
    pub failures: Vec<String>,
    /// Counters that fell, in words.
    pub fallen: Vec<String>,
    /// The last scrape.
    pub last: Metrics,
}

impl Scraper {
    /// Scrapes `/metrics` of `address` every `pace`.
    #[must_use]
    pub fn start(address: SocketAddr, pace: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let run = move || {
            let mut report = ScrapeReport::default();
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                report.scrape(address);
                pause_until(begun + pace);
            }
            report
        };
        let thread = std::thread::Builder::new().name("scraper".to_owned());
        Self {
            stop,
            thread: Some(thread.spawn(run).expect("a thread")),
        }
    }

    /// Ends it.
    #[must_use]
    pub fn stop(mut self) -> ScrapeReport {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("stopped once");
        thread.join().expect("the scraper does not panic")
    }
}

impl Drop for Scraper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl ScrapeReport {
    fn scrape(&mut self, address: SocketAddr) {
        let scraped = http(address, "/metrics").and_then(|(status, body)| match status {
            200 => Metrics::parse(&body),
            _ => Err(format!("status {status}")),
        });
        match scraped {
            Ok(metrics) => {
                self.scrapes += 1;
                self.compare(&metrics);
                self.last = metrics;
            }
            Err(error) => self.failures.push(error),
        }
    }

    /// A series that is gone and comes back begins anew, as it does for Prometheus: its backend was removed.
    fn compare(&mut self, now: &Metrics) {
        for (series, before) in &self.last.series {
            let after = now.series.get(series);
            if let Some(after) = after.filter(|after| *after < before)
                && now.only_rises(series)
            {
                let scrape = self.scrapes;
                self.fallen
                    .push(format!("{series}: {before} -> {after} at scrape {scrape}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP a_total things\n# TYPE a_total counter\na_total{x=\"1\",y=\"2\"} 3\na_total{x=\"2\"} 4\n\n# TYPE g gauge\ng 1.5\n";

    #[test]
    fn series_are_found_by_some_of_their_labels() {
        let metrics = Metrics::parse(TEXT).unwrap();
        assert_eq!(metrics.value("a_total", &[]), Some(7.0));
        assert_eq!(metrics.value("a_total", &[("y", "2")]), Some(3.0));
        assert_eq!(metrics.value("a_total", &[("y", "3")]), None);
        assert_eq!(metrics.value("g", &[]), Some(1.5));
        assert!(metrics.only_rises("a_total{x=\"2\"}") && !metrics.only_rises("g"));
        assert!(Metrics::parse("a b c d").is_err());
    }

    #[test]
    fn a_counter_that_falls_is_noted_and_a_gauge_is_not() {
        let mut report = ScrapeReport {
            last: Metrics::parse(TEXT).unwrap(),
            ..ScrapeReport::default()
        };
        let later = TEXT.replace("} 4", "} 2").replace("1.5", "0.5");
        report.compare(&Metrics::parse(&later).unwrap());
        assert_eq!(report.fallen.len(), 1, "{report:?}");
    }

    #[test]
    fn chunks_are_put_together() {
        assert_eq!(unchunk("3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n").unwrap(), "abcd");
    }
}
