//! New connections at a steady pace, whatever becomes of them, each with its times: an open loop.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::client::{Failure, classify};

/// One connection.
#[derive(Clone, Debug)]
pub struct Probe {
    /// When it was begun.
    pub begun: Instant,
    /// When its outcome was known.
    pub ended: Instant,
    /// All that came until the server ended it in order; or how it failed.
    pub outcome: Result<String, Failure>,
}

/// A steady pace of connections, from a thread of its own.
#[derive(Debug)]
pub struct Probes {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Probe>>>,
    thread: Option<JoinHandle<()>>,
}

impl Probes {
    /// Begins one connection every `pace`: sends `request` (which may be empty) and reads to the end, for at most `patience`.
    #[must_use]
    pub fn start(address: SocketAddr, pace: Duration, request: &str, patience: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let run = {
            let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
            let request = request.to_owned();
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime");
                let keep = |probe| {
                    seen.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(probe);
                };
                runtime.block_on(probe_all(address, pace, &request, patience, &stop, keep));
            }
        };
        let thread = std::thread::Builder::new().name("probes".to_owned());
        Self {
            stop,
            seen,
            thread: Some(thread.spawn(run).expect("a thread")),
        }
    }

    /// Those that have ended so far, in the order of their beginning.
    #[must_use]
    pub fn seen(&self) -> Vec<Probe> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = seen.clone();
        seen.sort_by_key(|probe| probe.begun);
        seen
    }

    /// Begins no more and waits for those that run: all, in the order of their beginning.
    #[must_use]
    pub fn stop(mut self) -> Vec<Probe> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the probing thread does not panic");
        }
        self.seen()
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn probe_all(
    address: SocketAddr,
    pace: Duration,
    request: &str,
    patience: Duration,
    stop: &AtomicBool,
    keep: impl Fn(Probe),
) {
    let mut ticks = tokio::time::interval(pace);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut running = JoinSet::new();
    while !stop.load(Ordering::Relaxed) {
        tokio::select! {
            _ = ticks.tick() => {
                running.spawn(probe(address, request.to_owned(), patience));
            }
            Some(Ok(probe)) = running.join_next() => keep(probe),
        }
    }
    while let Some(joined) = running.join_next().await {
        keep(joined.expect("a probe does not panic"));
    }
}

async fn probe(address: SocketAddr, request: String, patience: Duration) -> Probe {
    let begun = Instant::now();
    let outcome = match tokio::time::timeout(patience, converse(address, &request)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Failure::Timeout),
    };
    Probe {
        begun,
        ended: Instant::now(),
        outcome,
    }
}

async fn converse(address: SocketAddr, request: &str) -> Result<String, Failure> {
    let mut stream = match TcpStream::connect(address).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Err(Failure::Refused),
        Err(error) => return Err(classify(&error, false)),
    };
    // A server that resets may be faster than this. The kernel tells of a reset only once.
    let written = stream.write_all(request.as_bytes()).await;
    written.map_err(|error| classify(&error, false))?;
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes).await {
        Ok(0) => Err(Failure::Empty),
        Ok(_) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) => Err(classify(&error, !bytes.is_empty())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backend, Mode, eventually};

    #[test]
    fn each_has_its_times_and_its_outcome() {
        let backend = Backend::start("b1", Mode::Name);
        let second = Duration::from_secs(1);
        let pace = Duration::from_millis(5);
        let probes = Probes::start(backend.address(), pace, "", second);
        eventually(Duration::from_secs(10), "some answers", || {
            (probes.seen().len() > 5).then_some(())
        });
        let stopped = Instant::now();
        backend.stop();
        eventually(Duration::from_secs(10), "a refusal", || {
            let refused = |probe: &Probe| probe.outcome == Err(Failure::Refused);
            probes.seen().iter().any(refused).then_some(())
        });
        let all = probes.stop();
        assert!(all.is_sorted_by_key(|probe| probe.begun));
        for probe in all {
            assert!(probe.begun <= probe.ended);
            if probe.ended < stopped {
                assert_eq!(probe.outcome.as_deref(), Ok("b1\n"));
            }
        }
    }
}
