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
    notes: &'a [Problem],
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
                notes: &[],
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
    for (problems, what) in [(&loaded.warnings, "warning"), (&loaded.notes, "note")] {
        if !problems.is_empty() {
            let count = text::count(problems.len() as u64, what);
            lines.push_str(&format!(", {count}"));
        }
    }
    lines.push_str(")\n");
    for warning in &loaded.warnings {
        lines.push_str(&format!("{} {warning}\n", paint.yellow("warning:")));
    }
    for note in &loaded.notes {
        lines.push_str(&format!("note: {note}\n"));
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
            notes: &loaded.notes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_told_after_warnings_and_counted_by_themselves() {
        let text = "version = 1\n[services.s]\nlisten = \"127.0.0.1:1\"\nbackends = [\"10.0.0.2:80\"]\nsource = \"client\"\nqueue = {}";
        let loaded = evenkeel_config::parse("x.toml", text).unwrap();
        let said = summary(Path::new("x.toml"), &loaded, Paint::OFF);
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(lines.len(), 3, "{said}");
        assert!(lines[0].ends_with(", 1 warning, 1 note)"), "{said}");
        assert!(lines[1].starts_with("warning: x.toml:6:9: "), "{said}");
        assert!(lines[2].starts_with("note: x.toml:5:10: "), "{said}");
        assert!(lines[2].contains("transparent-routes up 10.0.0.2:80"));
        let json = json(&Verdict::of_valid(Path::new("x.toml"), &loaded)).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["notes"][0]["key"], "services.s.source");
    }
}
