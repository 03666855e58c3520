//! Exit codes, and how a failure is told.

use std::error::Error;
use std::process::ExitCode;

use crate::output;

/// Exit codes of all commands; listed in the help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done.
    Ok = 0,
    /// The daemon failed while it ran, or a command met something that no other code names.
    Failed = 1,
    /// The arguments make no sense.
    Usage = 2,
    /// The configuration has errors.
    Configuration = 3,
    /// No daemon answers in the runtime directory.
    NoDaemon = 4,
    /// A reload was refused although the configuration has no errors.
    Refused = 5,
    /// `status --wait` or `backend drain --wait` waited in vain.
    TimedOut = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed, for the person who typed it.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What the process returns.
    pub(crate) exit: Exit,
    /// What failed; fits after `error: `.
    message: String,
    /// What lies under it, outermost first.
    causes: Vec<String>,
    /// What to do about it.
    help: Vec<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            causes: Vec::new(),
            help: Vec::new(),
        }
    }

    /// Adds an error and everything under it.
    pub(crate) fn cause(mut self, error: &dyn Error) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            self.causes.push(error.to_string());
            next = error.source();
        }
        self
    }

    /// Adds what to do about it.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    /// Writes it to standard error.
    pub(crate) fn print(&self) {
        let paint = output::paint_stderr();
        let mut text = format!("{} {}\n", paint.red("error:"), self.message);
        for cause in &self.causes {
            text.push_str(&format!("  {} {cause}\n", paint.dim("cause:")));
        }
        for help in &self.help {
            text.push_str(&format!("  {} {help}\n", paint.dim("help:")));
        }
        output::eprint(&text);
    }
}
