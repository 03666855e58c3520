//! Everybody's log lines on their way to standard error.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use evenkeel_log::{Receiver, Writer};
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
}

impl Lines {
    /// Starts the thread. Call it after the change of user: threads have users of their own.
    ///
    /// # Errors
    /// When no thread or descriptor is left.
    pub(crate) fn start() -> io::Result<Self> {
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
        })
    }

    pub(crate) fn add(&mut self, source: String, fd: OwnedFd) {
        if source != OWN_SOURCE {
            self.others += 1;
        }
        self.writer.add(Receiver { source, fd });
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
    pub(crate) fn stop(self) {
        // If nobody reads standard error there is nobody to tell.
        let _whole: bool = self.writer.stop(STOP_PATIENCE);
    }
}
