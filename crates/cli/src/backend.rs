//! `backend`: an operator's word on backends, and the wait for their last connections.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use evenkeel_control::operator::{BackendAction, Status};
use tokio::time::Instant;

use crate::arguments::{Backend, BackendCommand, Drain, RuntimeDir};
use crate::client::{self, AskError};
use crate::failure::{Exit, Failure};
use crate::output::{self, Paint};
use crate::{runtime_dir, text};

/// Between two questions while waiting.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Questions in a row that must find no connection: a worker may have picked a backend just before it heard of the drain.
const QUIET_POLLS: u32 = 3;

/// Says it to the daemon, and waits if so asked.
pub(crate) fn execute(backend: Backend) -> Result<ExitCode, Failure> {
    let (name, action, wait, runtime_dir) = match backend.command {
        BackendCommand::Drain(Drain {
            name,
            wait,
            timeout,
            runtime_dir,
        }) => (
            name,
            BackendAction::Drain,
            wait.then_some(timeout),
            runtime_dir,
        ),
        BackendCommand::Disable(named) => {
            (named.name, BackendAction::Disable, None, named.runtime_dir)
        }
        BackendCommand::Enable(named) => {
            (named.name, BackendAction::Enable, None, named.runtime_dir)
        }
        BackendCommand::Weight(weight) => (
            weight.name,
            BackendAction::Weight(weight.weight.0),
            None,
            weight.runtime_dir,
        ),
    };
    let RuntimeDir { runtime_dir } = runtime_dir;
    let directory = runtime_dir::choose(runtime_dir);
    client::block_on(async {
        let (backends, warnings) = client::backend(&directory, name, action).await?;
        let paint = output::paint_stdout();
        output::print(&said(&backends, action, &warnings, paint))?;
        if let Some(timeout) = wait {
            wait_for_last(&directory, &backends, timeout).await?;
            output::print(&format!("{}\n", paint.green("no connection is left")))?;
        }
        Ok(Exit::Ok.into())
    })
}

fn said(backends: &[String], action: BackendAction, warnings: &[String], paint: Paint) -> String {
    let what = match action {
        BackendAction::Drain => "drained".to_owned(),
        BackendAction::Disable => "disabled".to_owned(),
        BackendAction::Enable => "enabled".to_owned(),
        BackendAction::Weight(Some(weight)) => format!("weight {weight}"),
        BackendAction::Weight(None) => "weight of the configuration".to_owned(),
    };
    let mut text = format!("{}: {}\n", paint.green(&what), backends.join(", "));
    for warning in warnings {
        text.push_str(&format!("{} {warning}\n", paint.yellow("warning:")));
    }
    text
}

async fn wait_for_last(
    directory: &Path,
    backends: &[String],
    timeout: Duration,
) -> Result<(), Failure> {
    let deadline = Instant::now() + timeout;
    let mut quiet = 0;
    let mut left = "there was no answer yet".to_owned();
    loop {
        match tokio::time::timeout_at(deadline, client::status(directory)).await {
            Err(_) => {}
            Ok(Ok(status)) => match connections_left(&status, backends) {
                None => quiet += 1,
                Some(words) => {
                    quiet = 0;
                    left = words;
                }
            },
            // Time does not help against this.
            Ok(Err(error @ AskError::NotAllowed { .. })) => return Err(error.into()),
            // A supervisor that is started again is back in a moment.
            Ok(Err(error)) => {
                quiet = 0;
                left = error.to_string();
            }
        }
        if quiet >= QUIET_POLLS {
            return Ok(());
        }
        if Instant::now() + POLL_INTERVAL >= deadline {
            let waited = evenkeel_config::DurationText(timeout);
            return Err(
                Failure::new(Exit::TimedOut, format!("waited {waited} in vain: {left}"))
                    .help("they stay drained; `evenkeel backend enable` takes it back"),
            );
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// How many connections the backends still have, in words; `None` = none.
fn connections_left(status: &Status, backends: &[String]) -> Option<String> {
    let mut all = 0;
    let mut parts = Vec::new();
    for service in &status.services {
        for backend in &service.backends {
            let identity = format!("{}/{}", service.name, backend.name);
            if backend.active > 0 && backends.contains(&identity) {
                all += backend.active;
                parts.push(format!("{identity} {}", text::grouped(backend.active)));
            }
        }
    }
    let verb = if all == 1 { "is" } else { "are" };
    (all > 0).then(|| {
        format!(
            "{} {verb} left ({})",
            text::count(all, "connection"),
            parts.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status_screen::tests::sample;

    #[test]
    fn what_is_left_is_counted_over_the_named_backends_only() {
        let mut status = sample();
        let names = ["web/b1".to_owned(), "api/b1".to_owned()];
        assert_eq!(
            connections_left(&status, &names).unwrap(),
            "8 connections are left (web/b1 4, api/b1 4)"
        );
        status.services[0].backends[0].active = 1;
        status.services[1].backends[0].active = 0;
        assert_eq!(
            connections_left(&status, &names).unwrap(),
            "1 connection is left (web/b1 1)"
        );
        status.services[0].backends[0].active = 0;
        assert_eq!(connections_left(&status, &names), None);
    }

    #[test]
    fn what_was_done_and_its_warnings_are_told() {
        let backends = ["web/b1".to_owned(), "api/b1".to_owned()];
        let warnings = ["service api has no eligible backend any more".to_owned()];
        assert_eq!(
            said(&backends, BackendAction::Drain, &warnings, Paint::OFF),
            "drained: web/b1, api/b1\nwarning: service api has no eligible backend any more\n"
        );
        assert_eq!(
            said(&backends[..1], BackendAction::Weight(None), &[], Paint::OFF),
            "weight of the configuration: web/b1\n"
        );
    }
}
