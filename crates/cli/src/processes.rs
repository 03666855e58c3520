//! The long-lived processes: what each role's crate is handed.

use std::ffi::OsStr;
use std::process::ExitCode;

use crate::arguments::Run;
use crate::failure::{Exit, Failure};
use crate::{output, runtime_dir};

/// A child: takes its socket and becomes what its role says.
pub(crate) fn child(role: &OsStr) -> ExitCode {
    let socket = match evenkeel_sys::process::inherited_socket() {
        Ok(socket) => socket,
        Err(error) => {
            let failure = Failure::new(
                Exit::Failed,
                "a child process was started without its socket",
            );
            failure.cause(&error).print();
            return Exit::Failed.into();
        }
    };
    match role.to_str() {
        Some("worker") => evenkeel_worker::main(socket),
        Some("monitor") => evenkeel_monitor::main(socket),
        _ => {
            output::eprint(&format!("error: there is no role {role:?}\n"));
            Exit::Usage.into()
        }
    }
}

/// The supervisor, in the foreground.
pub(crate) fn run(run: Run) -> ExitCode {
    if run.end_with_parent {
        // Only the demo asks for it: a demo that is killed must not leave a daemon behind.
        let signal = Some(rustix::process::Signal::TERM);
        if let Err(error) = rustix::process::set_parent_process_death_signal(signal) {
            output::eprint(&format!("warning: cannot follow the parent: {error}\n"));
        }
    }
    evenkeel_supervisor::run(&evenkeel_supervisor::Options {
        config: run.config,
        runtime_dir: runtime_dir::choose(run.runtime_dir.runtime_dir),
        state_dir: runtime_dir::choose_state(run.state_dir),
    })
}
