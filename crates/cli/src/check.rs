//! `check`: everything that is wrong with a file. Nothing is bound: a second socket beside a running daemon's would take
//! a share of its connections.

use std::path::Path;
use std::process::ExitCode;

use evenkeel_config::{Loaded, Problem};
use evenkeel_plan::{Spec, Workers};
use serde::Serialize;

use crate::arguments::Check;
use crate::failure::{Exit, Failure};
use crate::output::{self, Paint};
use crate::text;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Verdict<'a> {
    file: &'a Path,
    valid: bool,
    services: usize,
    listeners: usize,
    backends: usize,
    problems: &'a [Problem],
    warnings: &'a [Problem],
}

/// Validates the file.
pub(crate) fn execute(check: &Check) -> Result<ExitCode, Failure> {
    let loaded = evenkeel_config::load(&check.file);
    let exit = if loaded.is_ok() {
        Exit::Ok
    } else {
        Exit::Configuration
    };
    if check.json {
        let verdict = match &loaded {
            Ok(loaded) => Verdict::of_valid(&check.file, loaded),
            Err(errors) => Verdict {
                file: &check.file,
                valid: false,
                services: 0,
                listeners: 0,
                backends: 0,
                problems: errors.problems(),
                warnings: &[],
            },
        };
        output::print(&json(&verdict)?)?;
        return Ok(exit.into());
    }
    match &loaded {
        Ok(loaded) => output::print(&summary(&check.file, loaded, output::paint_stdout()))?,
        Err(errors) => output::eprint(&errors.render(output::paint_stderr().is_on())),
    }
    Ok(exit.into())
}

/// One JSON object and a line feed.
pub(crate) fn json(value: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(Exit::Failed, "cannot write JSON").cause(&error))?;
    Ok(text + "\n")
}

fn summary(file: &Path, loaded: &Loaded, paint: Paint) -> String {
    let Spec { globals, services } = &loaded.spec;
    let (listeners, backends) = sizes(&loaded.spec);
    let workers = match globals.workers {
        Workers::Auto => "one worker per CPU".to_owned(),
        Workers::Count(number) => text::count(number.into(), "worker"),
    };
    let mut lines = format!(
        "{}: {} ({}, {}, {}, {workers}",
        file.display(),
        paint.green("ok"),
        text::count(services.len() as u64, "service"),
        text::count(listeners as u64, "listener"),
        text::count(backends as u64, "backend"),
    );
    match loaded.warnings.len() {
        0 => lines.push_str(")\n"),
        number => lines.push_str(&format!(", {})\n", text::count(number as u64, "warning"))),
    }
    for warning in &loaded.warnings {
        lines.push_str(&format!("{} {warning}\n", paint.yellow("warning:")));
    }
    lines
}

fn sizes(spec: &Spec) -> (usize, usize) {
    let services = &spec.services;
    (
        services.iter().map(|service| service.listeners.len()).sum(),
        services.iter().map(|service| service.backends.len()).sum(),
    )
}

impl<'a> Verdict<'a> {
    fn of_valid(file: &'a Path, loaded: &'a Loaded) -> Self {
        let (listeners, backends) = sizes(&loaded.spec);
        Self {
            file,
            valid: true,
            services: loaded.spec.services.len(),
            listeners,
            backends,
            problems: &[],
            warnings: &loaded.warnings,
        }
    }
}
