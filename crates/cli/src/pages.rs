//! Pages that the program writes about itself.

use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::arguments::{Arguments, Page};
use crate::failure::{Exit, Failure};
use crate::output;

/// Completions for `shell`.
pub(crate) fn completions(shell: Shell) -> Result<ExitCode, Failure> {
    let mut page = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "evenkeel", &mut page);
    output::print(&String::from_utf8_lossy(&page))?;
    Ok(Exit::Ok.into())
}

/// The manual page, or a page for each command in `directory`.
pub(crate) fn manual(directory: Option<&Path>) -> Result<ExitCode, Failure> {
    let Some(directory) = directory else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Arguments::command())
            .render(&mut page)
            .map_err(|error| {
                Failure::new(Exit::Failed, "cannot make the manual page").cause(&error)
            })?;
        output::print(&String::from_utf8_lossy(&page))?;
        return Ok(Exit::Ok.into());
    };
    std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(Arguments::command(), directory))
        .map_err(|error| {
            let message = format!("cannot write manual pages to {}", directory.display());
            Failure::new(Exit::Failed, message).cause(&error)
        })?;
    Ok(Exit::Ok.into())
}

/// A generated page of docs/.
pub(crate) fn reference(page: Page) -> Result<ExitCode, Failure> {
    let text = match page {
        Page::Config => evenkeel_config::reference_markdown(),
        Page::HttpRules => evenkeel_http::strict::reference_markdown(),
        Page::Metrics => evenkeel_metrics::reference_markdown(),
    };
    output::print(&text)?;
    Ok(Exit::Ok.into())
}
