//! Everybody's log lines on their way to standard error, and the access log's to its file.
//!
//! What waits in the channels of a monitor that died may be lines of the access log, so nothing is read before it is known where
//! those go: with the first plan.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use evenkeel_log::{Receiver, Writer};
use evenkeel_scoreboard::{GlobalCount, Scoreboard};
use evenkeel_sys::append::is_same_file;
use tokio::sync::mpsc;

/// The source whose lines come from this process: its channel does not end while this process lives.
const OWN_SOURCE: &str = "monitor";

/// How long the last lines may wait for a standard error that nobody reads.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// The writing thread, and how many other processes it still hears from.
#[derive(Debug)]
pub(crate) struct Lines {
    writer: Writer,
    others: usize,
    ended: mpsc::UnboundedReceiver<String>,
    /// Channels that are not read yet; `None` = all are.
    held: Option<Vec<Receiver>>,
    /// The access log's file.
    access: Option<OwnedFd>,
    board: Scoreboard,
    /// What monitors before this one could not write: lines of the log, and of the access log.
    unwritten_before: (u64, u64),
}

impl Lines {
    /// Starts the thread. Call it after the change of user: threads have users of their own.
    ///
    /// # Errors
    /// When no thread or descriptor is left.
    pub(crate) fn start(board: Scoreboard) -> io::Result<Self> {
        let output = match evenkeel_log::stderr() {
            Ok(output) => output,
            // Started with standard error closed: channels must be emptied all the same.
            Err(_) => std::fs::OpenOptions::new()
                .write(true)
                .open("/dev/null")?
                .into(),
        };
        let (tell, ended) = mpsc::unbounded_channel();
        let writer = Writer::start(Vec::new(), output, move |source| {
            // Nobody listens only while this process ends.
            drop(tell.send(source.to_owned()));
        })?;
        Ok(Self {
            writer,
            others: 0,
            ended,
            held: Some(Vec::new()),
            access: None,
            unwritten_before: (
                board.get(GlobalCount::LogUnwritten),
                board.get(GlobalCount::AccessLogUnwritten),
            ),
            board,
        })
    }

    pub(crate) fn add(&mut self, source: String, fd: OwnedFd) {
        if source != OWN_SOURCE {
            self.others += 1;
        }
        let receiver = Receiver { source, fd };
        match &mut self.held {
            Some(held) => held.push(receiver),
            None => self.writer.add(receiver),
        }
    }

    /// Reads from all channels from now on.
    pub(crate) fn release(&mut self) {
        for receiver in self.held.take().into_iter().flatten() {
            self.writer.add(receiver);
        }
    }

    /// Lines of the access log go to `file` from now on; `None` = where the log goes.
    pub(crate) fn set_access(&mut self, file: Option<OwnedFd>) {
        let is_same = match (&self.access, &file) {
            (None, None) => true,
            (Some(before), Some(file)) => is_same_file(before, file).unwrap_or(false),
            (None, Some(_)) | (Some(_), None) => false,
        };
        // Another output loses what the one before has not taken yet.
        if is_same {
            return;
        }
        let copy = file.as_ref().map(OwnedFd::try_clone).transpose();
        match copy {
            Ok(copy) => {
                self.writer.set_access_output(copy);
                self.access = file;
            }
            Err(error) => {
                tracing::error!(%error, "cannot switch to another file of the access log")
            }
        }
    }

    /// Publishes how many lines could not be written.
    pub(crate) fn publish(&self) {
        let (log, access) = self.unwritten_before;
        let log = log.wrapping_add(self.writer.unwritten_log_lines());
        let access = access.wrapping_add(self.writer.unwritten_access_lines());
        self.board.set(GlobalCount::LogUnwritten, log);
        self.board.set(GlobalCount::AccessLogUnwritten, access);
    }

    /// Waits until no other process has a line channel open. While the supervisor lives it holds all of them open.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn all_ended(&mut self) {
        while self.others > 0 {
            match self.ended.recv().await {
                Some(source) if source == OWN_SOURCE => {}
                Some(_) => self.others -= 1,
                // The thread is gone, and with it whatever would tell.
                None => return,
            }
        }
    }

    /// Writes what waits and ends the thread.
    pub(crate) fn stop(mut self) {
        self.release();
        // If nobody reads standard error there is nobody to tell.
        let _whole: bool = self.writer.stop(STOP_PATIENCE);
    }
}
