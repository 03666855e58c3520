//! What outlives this process, in a file of the state directory: what operators said of backends, and what was last known
//! of health and names.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use evenkeel_control::child::{Report, Resolved};
use evenkeel_plan::Plan;
use evenkeel_scoreboard::{HealthState, Scoreboard, Verdict};
use evenkeel_sys::clock::{monotonic_ms, unix_seconds};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::admin::Admins;
use crate::perform::{Reports, Supervisor};

/// Name of the file.
const FILE_NAME: &str = "state.json";

/// Version of its content.
const VERSION: u16 = 1;

/// Largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Verdicts older than this say nothing any more.
const FRESH_SECONDS: u64 = 5 * 60;

/// A file from further in the future than this has another clock's time.
const CLOCK_SECONDS: u64 = 5;

/// Between two writes for changes of state; what an operator says is written at once.
const NEWS_INTERVAL: Duration = Duration::from_secs(1);

/// Between two writes when nothing but answers to checks is new: often enough for verdicts to be fresh.
const ANSWERS_INTERVAL: Duration = Duration::from_secs(60);

const _: () = assert!(ANSWERS_INTERVAL.as_secs() * 2 < FRESH_SECONDS);

/// The content.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Kept {
    version: u16,
    written_unix: u64,
    pub(crate) admin: Admins,
    pub(crate) reports: Vec<Report>,
    pub(crate) names: Vec<Resolved>,
}

/// The content as it is read: what operators said is worth more than the rest, and is read even where the rest is not.
#[derive(Debug, Deserialize)]
struct Found {
    version: u16,
    written_unix: u64,
    admin: Admins,
    #[serde(default)]
    reports: serde_json::Value,
    #[serde(default)]
    names: serde_json::Value,
}

/// When to write.
#[derive(Debug)]
pub(crate) struct Keeper {
    directory: PathBuf,
    done: mpsc::UnboundedSender<io::Result<()>>,
    /// There is something new, to be written then.
    due: Option<Instant>,
    last: Instant,
    is_writing: bool,
    /// Why the last write failed, in words.
    pub(crate) problem: Option<String>,
}

impl Keeper {
    /// Nothing to be written yet. The results of writes come out of `done`.
    pub(crate) fn new(
        directory: PathBuf,
        done: mpsc::UnboundedSender<io::Result<()>>,
        now: Instant,
    ) -> Self {
        Self {
            directory,
            done,
            due: None,
            last: now.checked_sub(NEWS_INTERVAL).unwrap_or(now),
            is_writing: false,
            problem: None,
        }
    }

    /// Whether a write is on its way.
    pub(crate) fn is_writing(&self) -> bool {
        self.is_writing
    }

    fn want(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// An operator has said something.
    fn want_now(&mut self) {
        self.want(Instant::now());
    }

    /// A state or a name has changed.
    pub(crate) fn news(&mut self) {
        self.want((self.last + NEWS_INTERVAL).max(Instant::now()));
    }

    /// Something is known better than before.
    pub(crate) fn answers(&mut self) {
        self.want((self.last + ANSWERS_INTERVAL).max(Instant::now()));
    }
}

/// Reads what the supervisor before left in `directory`; and what is wrong with it, in words. Names are given back however
/// old they are, verdicts only fresh.
pub(crate) fn read(directory: &Path) -> (Kept, Option<String>) {
    let path = directory.join(FILE_NAME);
    let broken = |why: String| {
        let words = format!(
            "cannot use what was known before, in {}: {why}; starting afresh",
            path.display()
        );
        (Kept::default(), Some(words))
    };
    let mut text = Vec::new();
    let result =
        File::open(&path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut text));
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return (Kept::default(), None),
        Err(error) => return broken(error.to_string()),
        Ok(_) => {}
    }
    let found: Found = match serde_json::from_slice(&text) {
        Ok(found) => found,
        Err(error) => return broken(error.to_string()),
    };
    if found.version != VERSION {
        return broken(format!(
            "it has version {}, this program {VERSION}",
            found.version
        ));
    }
    let now = unix_seconds();
    let is_fresh = now.saturating_sub(found.written_unix) < FRESH_SECONDS
        && found.written_unix <= now + CLOCK_SECONDS;
    let reports = if is_fresh {
        serde_json::from_value(found.reports).unwrap_or_default()
    } else {
        Vec::new()
    };
    let kept = Kept {
        version: VERSION,
        written_unix: found.written_unix,
        admin: found.admin,
        reports,
        names: serde_json::from_value(found.names).unwrap_or_default(),
    };
    (kept, None)
}

/// Replaces the file: whoever reads it, also after a power cut, finds the old content or the new.
fn write(directory: &Path, kept: &Kept) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let text = serde_json::to_vec(kept)?;
    let temporary = directory.join(format!("{FILE_NAME}.new"));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(&text)?;
    file.sync_all()?;
    std::fs::rename(&temporary, directory.join(FILE_NAME))?;
    File::open(directory)?.sync_all()
}

/// Puts fresh verdicts into the cells of `plan`, before anybody uses them; the reports with their cells of today.
pub(crate) fn restore_verdicts(board: &Scoreboard, plan: &Plan, reports: Vec<Report>) -> Reports {
    let mut by_identity: std::collections::HashMap<String, Report> = reports
        .into_iter()
        .map(|report| (report.identity.clone(), report))
        .collect();
    let mut restored = Reports::new();
    for sealed in plan.services() {
        let record = sealed.record();
        for backend in record.backends() {
            let identity = record.identity(&backend.spec.name);
            let Some(mut report) = by_identity.remove(&identity) else {
                continue;
            };
            let mut states = [
                HealthState::Up,
                HealthState::Down,
                HealthState::Drain,
                HealthState::Maint,
            ]
            .into_iter();
            let Some(state) = states.find(|state| state.as_str() == report.state) else {
                continue;
            };
            if backend.spec.check.is_none() {
                continue;
            }
            let age_ms = unix_seconds()
                .saturating_sub(report.since_unix)
                .saturating_mul(1_000);
            // 0 would mean that there is no verdict.
            let since_ms = monotonic_ms().saturating_sub(age_ms).max(1);
            board
                .backend(backend.cell)
                .set_verdict(Verdict { state, since_ms });
            report.backend = backend.cell;
            report.next_ms = 0;
            restored.insert(backend.cell, report);
        }
    }
    restored
}

impl Supervisor {
    /// An operator has said something: written at once, beside the loop.
    pub(crate) fn keep_soon(&mut self) {
        self.keeper.want_now();
        self.keep_if_due();
    }

    /// Writes what is due to be written, one write at a time.
    pub(crate) fn keep_if_due(&mut self) {
        let now = Instant::now();
        if self.keeper.is_writing || self.keeper.due.is_none_or(|due| due > now) {
            return;
        }
        self.keeper.due = None;
        self.keeper.last = now;
        self.keeper.is_writing = true;
        let kept = self.kept();
        let (directory, done) = (self.keeper.directory.clone(), self.keeper.done.clone());
        drop(tokio::task::spawn_blocking(move || {
            drop(done.send(write(&directory, &kept)));
        }));
    }

    /// A write has ended.
    pub(crate) fn kept_result(&mut self, result: io::Result<()>) {
        self.keeper.is_writing = false;
        match result {
            Ok(()) => {
                if self.keeper.problem.take().is_some() {
                    tracing::info!("the state can be written again");
                }
            }
            Err(error) => {
                let words = format!(
                    "cannot write the state in {}, so that what operators said of backends would not outlive a restart: {error}",
                    self.keeper.directory.display()
                );
                if self.keeper.problem.is_none() {
                    tracing::warn!("{words}");
                }
                self.keeper.problem = Some(words);
                self.keeper.want(Instant::now() + ANSWERS_INTERVAL);
            }
        }
    }

    /// The last write, of an end in order.
    pub(crate) fn keep_last(&self) {
        if let Err(error) = write(&self.keeper.directory, &self.kept()) {
            tracing::warn!(%error, "cannot write the state");
        }
    }

    fn kept(&self) -> Kept {
        let names = self.names.iter();
        Kept {
            version: VERSION,
            written_unix: unix_seconds(),
            admin: self.admin.clone(),
            reports: self.reports.values().cloned().collect(),
            names: names
                .map(|(address, endpoints)| Resolved {
                    address: address.clone(),
                    endpoints: endpoints.clone(),
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_plan::{Address, BackendCell};

    use super::*;

    fn directory(name: &str) -> PathBuf {
        let name = format!("evenkeel-keep-{name}-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        drop(std::fs::remove_dir_all(&directory));
        directory
    }

    fn kept(written_unix: u64) -> Kept {
        let admin = serde_json::from_value(serde_json::json!({
            "web/a": {"state": "drain", "weight": 3, "by": "root", "at_unix": 7, "gone_unix": null}
        }));
        Kept {
            version: VERSION,
            written_unix,
            admin: admin.unwrap(),
            reports: vec![Report {
                backend: BackendCell(4),
                identity: "web/a".to_owned(),
                state: "up".to_owned(),
                since_unix: 5,
                reason: String::new(),
                answer: String::new(),
                duration_us: 0,
                checked_unix: 0,
                next_ms: 0,
            }],
            names: vec![Resolved {
                address: Address::Name {
                    host: "db.example.org".to_owned(),
                    port: 5984,
                },
                endpoints: vec!["10.0.0.2:5984".parse().unwrap()],
            }],
        }
    }

    #[test]
    fn what_was_written_is_read_and_old_verdicts_are_not_believed() {
        let directory = directory("ages");
        for (age, reports) in [(0, 1), (FRESH_SECONDS - 10, 1), (FRESH_SECONDS + 1, 0)] {
            let written = kept(unix_seconds() - age);
            write(&directory, &written).unwrap();
            let (found, problem) = read(&directory);
            assert_eq!(problem, None);
            assert_eq!(found.admin, written.admin);
            assert_eq!(found.names, written.names);
            assert_eq!(found.reports.len(), reports, "{age} s old");
        }
        write(&directory, &kept(unix_seconds() + 1_000)).unwrap();
        assert_eq!(read(&directory).0.reports.len(), 0, "from the future");
        assert!(!directory.join("state.json.new").exists());
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_broken_file_is_a_fresh_start_and_a_missing_one_is_none() {
        let directory = directory("broken");
        assert!(read(&directory).1.is_none());
        std::fs::create_dir_all(&directory).unwrap();
        for text in [
            "",
            "{",
            "[]",
            r#"{"version": 2, "written_unix": 0, "admin": {}}"#,
            "\u{0}\u{0}\u{0}",
        ] {
            std::fs::write(directory.join(FILE_NAME), text).unwrap();
            let (found, problem) = read(&directory);
            assert!(found.admin.is_empty());
            assert!(problem.unwrap().contains("starting afresh"), "{text}");
        }
        let text = r#"{"version": 1, "written_unix": 0, "admin": {}, "names": 3, "more": 1}"#;
        std::fs::write(directory.join(FILE_NAME), text).unwrap();
        assert_eq!(read(&directory).1, None);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
