//! From `tracing` events to lines, for the whole process.

use std::cell::Cell;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU64};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use evenkeel_plan::{LogFormat, LogLevel, LogSpec};
use evenkeel_sys::packet;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::{Layer, Registry};

use crate::text::{self, Head, LINE_BYTES_MAX};

/// Sends every record of this process as lines over `sender` from now on, named `source`. A line that cannot be sent at
/// once is dropped and told to `dropped`. Once a process: later calls are ignored.
///
/// Never waits, never writes to standard error itself. How many lines were dropped is said in a line of its own before the
/// next that can be sent, or by [`tell_dropped`].
pub fn init(
    sender: OwnedFd,
    spec: LogSpec,
    source: String,
    dropped: Box<dyn Fn(u64) + Send + Sync>,
) {
    let channel = Arc::new(Channel {
        sender,
        source: source.clone(),
        journal: stderr_is_the_journal(),
        dropped,
        untold: AtomicU64::new(0),
    });
    let sink = {
        let channel = Arc::clone(&channel);
        move |line: &[u8]| channel.line(line)
    };
    if install(spec, source, sink) {
        // The first time, as installing was.
        CHANNEL.set(channel).ok();
    }
}

/// Says in a line of the log how many lines were dropped since this was last said, if any and if there is room for it now. To
/// be called now and then by a process that may have nothing to log for long.
pub fn tell_dropped() {
    if let Some(channel) = CHANNEL.get() {
        channel.tell_dropped();
    }
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

/// Whether this was the first call in this process; a later one does nothing.
fn install(spec: LogSpec, source: String, sink: impl Fn(&[u8]) + Send + Sync + 'static) -> bool {
    let lines = Lines {
        spec: &SPEC,
        source,
        journal: stderr_is_the_journal(),
        sink,
    };
    let first = tracing::subscriber::set_global_default(Registry::default().with(lines)).is_ok();
    if first {
        set_spec(spec);
    }
    first
}

/// This process's end of its line channel.
static CHANNEL: OnceLock<Arc<Channel>> = OnceLock::new();

struct Channel {
    sender: OwnedFd,
    source: String,
    journal: bool,
    dropped: Box<dyn Fn(u64) + Send + Sync>,
    /// Lines that were dropped and of which nobody was told.
    untold: AtomicU64,
}

impl Channel {
    fn line(&self, line: &[u8]) {
        self.tell_dropped();
        if !self.send(line) {
            self.untold.fetch_add(1, Relaxed);
            (self.dropped)(1);
        }
    }

    /// A full channel, or nobody left to read it: a log never stops a process that carries traffic.
    fn send(&self, line: &[u8]) -> bool {
        packet::send(self.sender.as_fd(), line, &[]).is_ok()
    }

    fn tell_dropped(&self) {
        if self.untold.load(Relaxed) == 0 {
            return;
        }
        // Taken before it is said, so that two threads do not say the same lines.
        let lines = self.untold.swap(0, Relaxed);
        if lines == 0 {
            return;
        }
        let mut text = String::new();
        let message = "log lines were dropped";
        tally_line(&mut text, &self.source, self.journal, message, lines, None);
        if !self.send(text.as_bytes()) {
            self.untold.fetch_add(lines, Relaxed);
        }
    }
}

/// Appends a warning about lost lines to the empty `out`, in the format that is in force.
pub(crate) fn tally_line(
    out: &mut String,
    source: &str,
    journal: bool,
    message: &str,
    lines: u64,
    error: Option<&str>,
) {
    let head = Head {
        time: SystemTime::now(),
        level: Level::WARN,
        source,
        journal,
    };
    text::tally(out, SPEC.format(), head, message, lines, error);
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
pub(crate) fn stderr_is_the_journal() -> bool {
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
