//! A broken configuration changes nothing, and whoever asked is told where it is broken.

use std::path::{Path, PathBuf};
use std::process::Command;

use evenkeel_control::operator::{Answer, ServiceStatus};
use evenkeel_testkit::{Backend, Config, Mode, Service};

use crate::{PROGRAM, start, tally};

/// Broken files, with what is expected of each: `line:column: message` a line.
fn broken() -> Vec<(PathBuf, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/config/tests/broken");
    let entries = std::fs::read_dir(directory).unwrap();
    let files = entries.map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .map(|path| {
            let expected = std::fs::read_to_string(path.with_extension("expect")).unwrap();
            (path, expected)
        })
        .collect();
    files.sort();
    assert!(files.len() >= 30, "{}", files.len());
    files
}

/// `line` of the first `line:column:` that is expected; a problem of the file as a whole has none.
fn first_line(expected: &str) -> Option<&str> {
    let (line, rest) = expected.lines().next()?.split_once(':')?;
    let (column, _) = rest.split_once(':')?;
    (line.parse::<u32>().is_ok() && column.parse::<u32>().is_ok()).then_some(line)
}

#[test]
fn check_names_file_and_line_of_each() {
    for (path, expected) in broken() {
        let file = path.display().to_string();
        let output = Command::new(PROGRAM)
            .args(["check", &file])
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert_eq!(output.status.code(), Some(3), "{file}\n{text}");
        let place = match first_line(&expected) {
            Some(line) => format!("{file}:{line}"),
            None => file.clone(),
        };
        assert!(text.contains(&place), "{place} is not in\n{text}");
    }
}

#[test]
fn a_reload_with_each_leaves_everything_as_it_was() {
    let backends = Backend::several(&["b1", "b2"], Mode::Name);
    let good = Config::new([Service::new("web", &backends)]);
    let daemon = start(&good);
    let before = daemon.status();
    // What the configuration decides, without what moves by itself.
    let decided = |services: &[ServiceStatus]| -> Vec<String> {
        let described = services.iter().map(|service| {
            let backends = service.backends.iter().map(|backend| {
                let identity = (
                    &backend.name,
                    backend.address.clone(),
                    backend.weight,
                    backend.cell,
                );
                format!("{identity:?} {}", backend.state)
            });
            let backends: Vec<_> = backends.collect();
            format!(
                "{} {:?} {} {backends:?}",
                service.name, service.listeners, service.scheduler
            )
        });
        described.collect()
    };
    for (path, _) in broken() {
        // Not by `rewrite_config`: some are not UTF-8.
        std::fs::copy(&path, daemon.config_path()).unwrap();
        let answer = daemon.reload();
        let Answer::Invalid { problems, report } = &answer else {
            panic!("{}: {answer:?}", path.display())
        };
        assert!(
            !problems.is_empty() && !report.is_empty(),
            "{}",
            path.display()
        );
        let config = daemon.config_path().display().to_string();
        assert!(
            problems.iter().all(|problem| problem.contains(&config)),
            "{problems:?}"
        );
        let after = daemon.status();
        assert_eq!(after.generation, before.generation, "{}", path.display());
        assert_eq!(
            decided(&after.services),
            decided(&before.services),
            "{}",
            path.display()
        );
        assert!(after.last_reload.is_some_and(|reload| !reload.applied));
    }
    assert_eq!(tally(daemon.address("web"), 20)["b1"], 10);
    let after = daemon.status();
    for (before, after) in before.workers.iter().zip(&after.workers) {
        assert_eq!(before.pid, after.pid);
    }
    daemon.apply(&good);
}
