//! A steady load of new connections.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::client::{Failure, one_shot};
use crate::pause_until;

/// Threads that each connect, read a name and close, again and again.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<LoadReport>>,
}

#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    pace: Duration,
    started: Instant,
    stop: AtomicBool,
    answered: AtomicU64,
}

/// How it went.
#[derive(Clone, Debug, Default)]
pub struct LoadReport {
    /// Answers by the name that was read.
    pub answers: BTreeMap<String, u64>,
    /// Failures, each with the time since the start.
    pub failures: Vec<(Duration, Failure)>,
    /// Longest time that an answer took.
    pub slowest: Duration,
}

impl Load {
    /// Starts `threads` threads, each at most one connection every `pace`.
    #[must_use]
    pub fn start(address: SocketAddr, threads: usize, pace: Duration) -> Self {
        let shared = Arc::new(Shared {
            address,
            pace,
            started: Instant::now(),
            stop: AtomicBool::new(false),
            answered: AtomicU64::new(0),
        });
        let spawn = |number| {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name(format!("load {number}"));
            thread.spawn(move || shared.run()).expect("a thread")
        };
        Self {
            threads: (0..threads).map(spawn).collect(),
            shared,
        }
    }

    /// Answers so far.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Ends it after the connections that run.
    #[must_use]
    pub fn stop(mut self) -> LoadReport {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut total = LoadReport::default();
        for thread in self.threads.drain(..) {
            let one = thread.join().expect("a load thread does not panic");
            for (name, count) in one.answers {
                *total.answers.entry(name).or_default() += count;
            }
            total.failures.extend(one.failures);
            total.slowest = total.slowest.max(one.slowest);
        }
        total.failures.sort();
        total
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn run(&self) -> LoadReport {
        let mut report = LoadReport::default();
        while !self.stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            match one_shot(self.address) {
                Ok(name) => {
                    *report.answers.entry(name).or_default() += 1;
                    report.slowest = report.slowest.max(begun.elapsed());
                    self.answered.fetch_add(1, Ordering::Relaxed);
                }
                Err(failure) => report.failures.push((self.started.elapsed(), failure)),
            }
            pause_until(begun + self.pace);
        }
        report
    }
}

impl LoadReport {
    /// All answers.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answers.values().sum()
    }

    /// How many failed in this way.
    #[must_use]
    pub fn failed(&self, failure: &Failure) -> usize {
        let found = self.failures.iter();
        found.filter(|(_, found)| found == failure).count()
    }

    /// Failures by kind, for messages.
    #[must_use]
    pub fn failures_by_kind(&self) -> BTreeMap<Failure, usize> {
        let mut kinds = BTreeMap::new();
        for (_, failure) in &self.failures {
            *kinds.entry(failure.clone()).or_default() += 1;
        }
        kinds
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backend, Mode, eventually};

    #[test]
    fn answers_and_failures_are_told_apart() {
        let backend = Backend::start("b1", Mode::Name);
        let load = Load::start(backend.address(), 2, Duration::from_millis(1));
        eventually(Duration::from_secs(10), "50 answers", || {
            (load.answered() > 50).then_some(())
        });
        backend.stop();
        pause_until(Instant::now() + Duration::from_millis(20));
        let report = load.stop();
        assert!(report.answered() > 50);
        assert_eq!(report.answers.keys().collect::<Vec<_>>(), ["b1"]);
        assert!(report.failed(&Failure::Refused) > 0, "{report:?}");
    }
}
