//! Every kind of check against scripted servers on loopback, asked through the checker as the monitor does. Waits have
//! deadlines.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod couchdb;
mod kinds;
mod rhythm;
mod tls;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use evenkeel_health::{
    Checked, Checker, Health, Observation, Outcome, Sink, State, Target, Transition,
};
use evenkeel_plan::{BackendCell, CheckKind, CheckSpec};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Never within a test.
pub(crate) const NEVER: Duration = Duration::from_secs(600);

pub(crate) const BACKEND: BackendCell = BackendCell(1);
pub(crate) const IDENTITY: &str = "web/b1";

#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) state: State,
    pub(crate) transition: Option<Transition>,
    pub(crate) outcome: Outcome,
    pub(crate) next_ms: Option<u64>,
    pub(crate) at: Instant,
}

#[derive(Clone)]
pub(crate) struct Notes {
    seen: Rc<RefCell<Vec<Seen>>>,
    notify: Rc<tokio::sync::Notify>,
    begun: Instant,
}

impl Default for Notes {
    fn default() -> Self {
        Self {
            seen: Rc::default(),
            notify: Rc::default(),
            begun: Instant::now(),
        }
    }
}

impl Sink for Notes {
    fn checked(&self, checked: Checked<'_>) {
        assert_eq!((checked.identity, checked.service), (IDENTITY, "web"));
        self.seen.borrow_mut().push(Seen {
            state: checked.state,
            transition: checked.transition,
            outcome: checked.outcome.clone(),
            next_ms: checked.next_ms,
            at: Instant::now(),
        });
        self.notify.notify_one();
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap()
    }
}

impl Notes {
    pub(crate) async fn until(&self, found: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
        let wait = async {
            while !found(&self.seen.borrow()) {
                self.notify.notified().await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        let seen = self.seen.borrow().clone();
        assert!(waited.is_ok(), "{seen:#?}");
        seen
    }

    pub(crate) async fn count(&self, count: usize) -> Vec<Seen> {
        self.until(|seen| seen.len() >= count).await
    }
}

pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, test);
}

/// Asked once; generous with time.
pub(crate) fn check(kind: CheckKind) -> CheckSpec {
    CheckSpec {
        interval: NEVER,
        fast_interval: NEVER,
        timeout: Duration::from_secs(5),
        ..CheckSpec::of(kind)
    }
}

pub(crate) fn target(check: &CheckSpec, endpoints: &[SocketAddr]) -> Target {
    Target {
        backend: BACKEND,
        identity: IDENTITY.to_owned(),
        check: Arc::new(check.clone()),
        endpoints: endpoints.to_vec(),
        host: "b1.example".to_owned(),
        known: State::new(Health::Starting, 0),
        service: "web".to_owned(),
    }
}

/// One check.
pub(crate) async fn ask(check: &CheckSpec, endpoints: &[SocketAddr]) -> Outcome {
    let notes = Notes::default();
    let mut checker = Checker::new(notes.clone());
    checker.apply([target(check, endpoints)]);
    let seen = notes.count(1).await;
    let outcome = seen[0].outcome.clone();
    let records = checker.history(BACKEND, IDENTITY);
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].answer, outcome.answer);
    outcome
}

/// One check that does not pass within a short time, and is over in time.
pub(crate) async fn ask_in_vain(check: &CheckSpec, endpoints: &[SocketAddr]) -> Outcome {
    let check = CheckSpec {
        timeout: Duration::from_millis(200),
        ..check.clone()
    };
    let begun = Instant::now();
    let outcome = ask(&check, endpoints).await;
    assert_eq!(outcome.observation, Observation::Failed, "{outcome:?}");
    assert!(begun.elapsed() < Duration::from_secs(2), "{outcome:?}");
    outcome
}

/// A server that does `script` with every connection. It is gone when the test is.
pub(crate) async fn serve<F>(script: impl Fn(TcpStream) -> F + 'static) -> SocketAddr
where
    F: Future<Output = ()> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(spawn_local(script(stream)));
        }
    }));
    address
}

/// A server that says `text` and no more, but holds the connection.
pub(crate) async fn say(text: &'static [u8]) -> SocketAddr {
    serve(move |mut stream| async move {
        drop(stream.write_all(text).await);
        std::future::pending::<()>().await;
    })
    .await
}

/// A server that says `text` and then one byte of `drip` every few milliseconds.
pub(crate) async fn drip(text: &'static [u8], drip: u8) -> SocketAddr {
    serve(move |mut stream| async move {
        drop(stream.write_all(text).await);
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        while stream.write_all(&[drip]).await.is_ok() {
            ticks.tick().await;
        }
    })
    .await
}

/// A server that floods with `byte` after `text`.
pub(crate) async fn flood(text: &'static [u8], byte: u8) -> SocketAddr {
    serve(move |mut stream| async move {
        drop(stream.write_all(text).await);
        while stream.write_all(&[byte; 16 * 1024]).await.is_ok() {}
    })
    .await
}

/// Reads one request: its head and its body.
pub(crate) async fn request(stream: &mut TcpStream) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .filter_map(|line| {
                    line.to_ascii_lowercase()
                        .strip_prefix("content-length: ")?
                        .parse()
                        .ok()
                })
                .next()
                .unwrap_or(0_usize);
            if body.len() >= length {
                return Some((head.to_owned(), body.to_owned()));
            }
        }
        let mut part = [0; 1_024];
        let count = stream
            .read(&mut part)
            .await
            .ok()
            .filter(|&count| count > 0)?;
        bytes.extend_from_slice(&part[..count]);
    }
}

pub(crate) async fn answer(stream: &mut TcpStream, head: &str, body: &str) {
    let text = format!(
        "HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    drop(stream.write_all(text.as_bytes()).await);
}
