//! From `tracing` events to lines, for the whole process.

use std::cell::Cell;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

use evenkeel_plan::{LogFormat, LogLevel, LogSpec};
use evenkeel_sys::packet;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::{Layer, Registry};

use crate::text::{self, Head, LINE_BYTES_MAX};

/// Sends every record of this process as lines over `sender` from now on, named `source`. A line that cannot be sent at
/// once is dropped and told to `dropped`. Once a process: later calls are ignored.
///
/// Never waits, never writes to standard error itself.
pub fn init(
    sender: OwnedFd,
    spec: LogSpec,
    source: String,
    dropped: Box<dyn Fn(u64) + Send + Sync>,
) {
    let send = move |line: &[u8]| {
        // Full, or nobody is left to read it: a log never stops a process that carries traffic.
        if packet::send(sender.as_fd(), line, &[]).is_err() {
            dropped(1);
        }
    };
    install(spec, source, send);
}

/// Writes every record of this process to standard error from now on. For commands that are not the daemon.
pub fn init_stderr(spec: LogSpec) {
    let write = |line: &[u8]| {
        // With standard error gone there is nobody left to tell.
        drop(std::io::stderr().lock().write_all(line));
    };
    install(spec, "evenkeel".to_owned(), write);
}

/// Changes level and format from the next record on, in this process.
pub fn set_spec(spec: LogSpec) {
    SPEC.store(spec);
    // Every place that logs has remembered whether it is wanted.
    tracing::callsite::rebuild_interest_cache();
}

fn install(spec: LogSpec, source: String, sink: impl Fn(&[u8]) + Send + Sync + 'static) {
    let lines = Lines {
        spec: &SPEC,
        source,
        journal: stderr_is_the_journal(),
        sink,
    };
    if tracing::subscriber::set_global_default(Registry::default().with(lines)).is_ok() {
        set_spec(spec);
    }
}

static SPEC: SpecCell = SpecCell {
    level: AtomicU8::new(LogLevel::Info as u8),
    format: AtomicU8::new(LogFormat::Human as u8),
};

/// What is logged now, and how. The two need not change at one instant.
#[derive(Debug)]
struct SpecCell {
    level: AtomicU8,
    format: AtomicU8,
}

impl SpecCell {
    fn store(&self, spec: LogSpec) {
        self.level.store(spec.level as u8, Relaxed);
        self.format.store(spec.format as u8, Relaxed);
    }

    fn level(&self) -> LevelFilter {
        let code = self.level.load(Relaxed);
        [
            (LogLevel::Error, LevelFilter::ERROR),
            (LogLevel::Warn, LevelFilter::WARN),
            (LogLevel::Info, LevelFilter::INFO),
        ]
        .into_iter()
        .find_map(|(level, filter)| (level as u8 == code).then_some(filter))
        .unwrap_or(LevelFilter::DEBUG)
    }

    fn format(&self) -> LogFormat {
        if self.format.load(Relaxed) == LogFormat::Json as u8 {
            LogFormat::Json
        } else {
            LogFormat::Human
        }
    }
}

/// Whether standard error goes to the journal: sd-daemon(3), the variable names the device and inode of the stream, and is
/// inherited by processes whose standard error is something else.
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    rustix::fs::fstat(rustix::stdio::stderr())
        .is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// Turns each event into one line for `sink`.
#[derive(Debug)]
struct Lines<S> {
    spec: &'static SpecCell,
    source: String,
    journal: bool,
    sink: S,
}

thread_local! {
    /// A line under construction. Taken while in use, so that a field that logs while it is shown finds an empty one.
    static LINE: Cell<String> = const { Cell::new(String::new()) };
}

impl<S: Fn(&[u8]) + 'static, C: Subscriber> Layer<C> for Lines<S> {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, C>) -> bool {
        *metadata.level() <= self.spec.level()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.spec.level())
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, C>) {
        let mut line = LINE.take();
        line.clear();
        line.reserve(LINE_BYTES_MAX.min(512));
        let head = Head {
            time: SystemTime::now(),
            level: *event.metadata().level(),
            source: &self.source,
            journal: self.journal,
        };
        text::line(&mut line, self.spec.format(), head, |visit| {
            event.record(visit);
        });
        (self.sink)(line.as_bytes());
        LINE.set(line);
    }
}

#[cfg(test)]
#[path = "subscriber_tests.rs"]
mod tests;
