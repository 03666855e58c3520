//! A steady load of requests over kept connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::client::{Answer, HttpClient};
use super::reader::{Broken, Ended};
use crate::pause_until;

/// Threads that each keep a connection and ask over it, again and again.
#[derive(Debug)]
pub struct HttpLoad {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Vec<Outcome>>>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    answered: AtomicU64,
}

/// A request and what became of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its `X-Id`.
    pub id: String,
    /// Its method.
    pub method: String,
    /// When it was sent.
    pub begun: Instant,
    /// When its answer was whole, or would not come any more.
    pub ended: Instant,
    /// Number of the request on its connection, from 1.
    pub number: u32,
    /// The answer.
    pub result: Result<Answer, Broken>,
}

impl HttpLoad {
    /// Starts `threads` threads, each at most one request every `pace`. `request` makes each, from an id that no other one has.
    #[must_use]
    pub fn start(
        address: SocketAddr,
        threads: usize,
        pace: Duration,
        request: impl Fn(&str) -> String + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            answered: AtomicU64::new(0),
        });
        let request = Arc::new(request);
        let spawn = |thread: usize| {
            let (shared, request) = (Arc::clone(&shared), Arc::clone(&request));
            let run = move || shared.run(address, thread, pace, &*request);
            let builder = std::thread::Builder::new().name(format!("load {thread}"));
            builder.spawn(run).expect("a thread")
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

    /// Ends it after the requests that run: all of them, in the order in which they began.
    #[must_use]
    pub fn stop(mut self) -> Vec<Outcome> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for thread in self.threads.drain(..) {
            all.extend(thread.join().expect("a load thread does not panic"));
        }
        all.sort_by_key(|outcome: &Outcome| outcome.begun);
        all
    }
}

impl Drop for HttpLoad {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn run(
        &self,
        address: SocketAddr,
        thread: usize,
        pace: Duration,
        request: &(dyn Fn(&str) -> String + Send + Sync),
    ) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        let mut kept: Option<(HttpClient, u32)> = None;
        let mut next = 0_u64;
        while !self.stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            next += 1;
            let id = format!("{thread}-{next}");
            let text = request(&id);
            let method = text.split(' ').next().unwrap_or_default().to_owned();
            let connection = match kept.take() {
                Some(kept) => Ok(kept),
                None => HttpClient::try_connect(address).map(|client| (client, 0)),
            };
            let (number, result) = match connection {
                Ok((mut client, number)) => {
                    let result = client.ask(&text);
                    if result.as_ref().is_ok_and(|answer| !answer.closes()) {
                        kept = Some((client, number + 1));
                    }
                    (number + 1, result)
                }
                Err(failure) => {
                    let by = Ended::Reset;
                    let got = format!("no connection: {failure:?}").into_bytes();
                    (0, Err(Broken { got, by }))
                }
            };
            if result.is_ok() {
                self.answered.fetch_add(1, Ordering::Relaxed);
            }
            outcomes.push(Outcome {
                id,
                method,
                begun,
                ended: Instant::now(),
                number,
                result,
            });
            pause_until(begun + pace);
        }
        outcomes
    }
}

impl Outcome {
    /// Status of the answer; `None` = none came whole.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.result.as_ref().ok().map(Answer::status)
    }

    /// How long it took.
    #[must_use]
    pub fn took(&self) -> Duration {
        self.ended - self.begun
    }

    /// Whether it ran at some time between `from` and `to`.
    #[must_use]
    pub fn overlaps(&self, (from, to): (Instant, Instant)) -> bool {
        self.begun <= to && self.ended >= from
    }
}
