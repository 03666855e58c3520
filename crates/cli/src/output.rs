//! Writing to the terminal, or to whatever stands in its place.

use std::io::{self, ErrorKind, IsTerminal, Write};

use crate::failure::{Exit, Failure};

/// Colours, or none: only on a terminal that has them, and not where `NO_COLOR` is set (<https://no-color.org>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Paint {
    on: bool,
}

impl Paint {
    /// Plain text.
    pub(crate) const OFF: Self = Self { on: false };

    pub(crate) fn is_on(self) -> bool {
        self.on
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.wrap("33", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.on {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Whether standard output takes colours.
pub(crate) fn paint_stdout() -> Paint {
    paint(io::stdout().is_terminal())
}

/// Columns of the terminal that standard output is; `None` where it is none.
pub(crate) fn columns_stdout() -> Option<usize> {
    if !io::stdout().is_terminal() {
        return None;
    }
    match crossterm::terminal::size() {
        Ok((columns, _)) if columns > 0 => Some(columns.into()),
        _ => None,
    }
}

/// Whether standard error takes colours.
pub(crate) fn paint_stderr() -> Paint {
    paint(io::stderr().is_terminal())
}

fn paint(terminal: bool) -> Paint {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    Paint {
        on: terminal && !refused && !dumb,
    }
}

/// Writes all of `text` to standard output. A reader that went away (`| head`) is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    try_print(text).map(drop)
}

/// As [`print()`]; whether there is still a reader.
pub(crate) fn try_print(text: &str) -> Result<bool, Failure> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => {
            Err(Failure::new(Exit::Failed, "cannot write to standard output").cause(&error))
        }
    }
}

/// Writes to standard error; there is nowhere to complain when that fails.
pub(crate) fn eprint(text: &str) {
    io::stderr().write_all(text.as_bytes()).unwrap_or(());
}
