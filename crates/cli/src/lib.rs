//! Commands, screens and the demo.
//!
//! ```text
//! main --EVENKEEL_ROLE set--> worker | monitor
//!   `--else--> arguments --> run          becomes the supervisor
//!                        |-> check        reads a file, binds nothing
//!                        |-> reload       one question over the control socket
//!                        |-> status       one question, or one every 100 ms with --wait
//!                        |-> backend      one word on backends; status until they are idle with --wait
//!                        |-> why, events  one question; with --follow until it is closed
//!                        |-> explain      reads a file, asks for states where a daemon runs
//!                        |-> demo         a `run`, three backends, and a screen of `status`
//!                        `-> completions, man, reference
//! ```
//!
//! Called by `src/main.rs`. A command returns its exit code or a `failure::Failure`, which is printed here and nowhere
//! else. No runtime is started before the role is known: a supervisor and its children set up their processes while there
//! is one thread.
#![forbid(unsafe_code)]

mod arguments;
mod backend;
mod check;
mod client;
mod demo;
mod events;
mod explain;
mod failure;
mod findings;
mod output;
mod pages;
mod processes;
mod reload;
mod runtime_dir;
mod status;
mod status_requests;
mod status_screen;
mod text;
mod why;

use std::process::ExitCode;

use clap::Parser as _;
use evenkeel_sys::process::ROLE_VARIABLE;

use crate::arguments::{Arguments, Command};
use crate::failure::{Exit, Failure};

/// Everything that the program does; the value is the process's exit code.
#[must_use]
pub fn main() -> ExitCode {
    if let Some(role) = std::env::var_os(ROLE_VARIABLE) {
        return processes::child(&role);
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(stop) => {
            // Help and version too come this way, with code 0. A closed standard output is no reason to fail.
            stop.print().unwrap_or(());
            return ExitCode::from(u8::try_from(stop.exit_code()).unwrap_or(Exit::Usage as u8));
        }
    };
    match execute(arguments.command) {
        Ok(code) => code,
        Err(failure) => {
            failure.print();
            failure.exit.into()
        }
    }
}

fn execute(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Run(run) => Ok(processes::run(run)),
        Command::Check(check) => check::execute(&check),
        Command::Reload(reload) => reload::execute(reload),
        Command::Status(status) => status::execute(status),
        Command::Backend(backend) => backend::execute(backend),
        Command::Why(why) => why::execute(why),
        Command::Events(events) => events::execute(events),
        Command::Explain(explain) => explain::execute(explain),
        Command::Demo(demo) => demo::execute(&demo),
        Command::DemoBackend(backend) => demo::backend::execute(&backend),
        Command::Completions { shell } => pages::completions(shell),
        Command::Man { dir } => pages::manual(dir.as_deref()),
        Command::Reference { page } => pages::reference(page),
    }
}

/// The commands and their options, for tests and for tools that build pages from them.
#[must_use]
pub fn command() -> clap::Command {
    <Arguments as clap::CommandFactory>::command()
}
