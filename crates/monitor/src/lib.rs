//! The monitor process.
//!
//! ```text
//! supervisor --Link--> run: the event loop
//!                        |-- reload:    from the plan in force to the next one (plans: what is checked)
//!                        |-- Checker:   probes (evenkeel-health)
//!                        |     `-> verdicts: cells, gates, bells (doorbells), log lines
//!                        |-- traffic:   what workers count of backends, as evidence for or against them
//!                        |-- refusals:  limits that begin to bite and cease to
//!                        |-- Resolver:  names (evenkeel-resolve)
//!                        |     `-> names: the new addresses, for the next plan
//!                        |-- news:      what the supervisor is told; explain: what it asks
//!                        |-- endpoints: /metrics (evenkeel-metrics)
//!                        `-- lines:     the thread that writes log lines out (evenkeel-log)
//! ```
#![forbid(unsafe_code)]

mod bells;
mod endpoints;
mod explain;
mod gates;
mod lines;
mod names;
mod news;
mod plans;
mod refusals;
mod reload;
mod run;
mod traffic;
mod verdicts;

use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::Duration;

use tokio::task::LocalSet;

/// How long a scrape that is being made may hold up the end.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(1);

/// Runs the monitor on the socket that it inherited, until the supervisor says so or is gone.
#[must_use]
pub fn main(socket: OwnedFd) -> ExitCode {
    evenkeel_sys::process::set_name("ek-monitor");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => {
            let ended = LocalSet::new().block_on(&runtime, run::run(socket));
            runtime.shutdown_timeout(SHUTDOWN_PATIENCE);
            ended
        }
        Err(error) => Err(run::MonitorError::Runtime(error)),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // There may be no log yet, and afterwards nobody of this process writes lines out.
            eprintln!("evenkeel: monitor: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
