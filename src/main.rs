//! The `evenkeel` program: one binary that is the supervisor, each of its children, and every command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    evenkeel_cli::main()
}
