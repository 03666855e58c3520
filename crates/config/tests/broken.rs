//! Every file in `tests/broken` is refused with exactly the problems in the `.expect` file beside it: all at once, each with
//! its place, its text and what would be right, and no other.
//!
//! After a deliberate change of a message: `UPDATE_EXPECT=1 cargo test -p evenkeel-config --test broken`, then read the
//! difference.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy takes for production code"
)]

use std::fs;
use std::path::{Path, PathBuf};

use evenkeel_config::{Problem, load, parse};

fn files() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/broken");
    let entries = fs::read_dir(directory).unwrap();
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect();
    files.sort();
    files
}

#[test]
fn every_problem_and_no_other() {
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let files = files();
    assert!(files.len() >= 32, "{}", files.len());
    let mut wrong = Vec::new();
    for file in files {
        let errors = load(&file).expect_err(&format!("{} is broken", file.display()));
        let found: String = errors.problems().iter().map(without_path).collect();
        let expect = file.with_extension("expect");
        if update {
            fs::write(&expect, &found).unwrap();
        }
        let expected = fs::read_to_string(&expect).unwrap_or_default();
        if found != expected {
            wrong.push(format!(
                "{}\n-- found\n{found}-- expected\n{expected}",
                file.display()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// `Problem`'s own line without the file, whose name depends on where the tree lies.
fn without_path(problem: &Problem) -> String {
    let mut problem = problem.clone();
    problem.path = String::new();
    let line = problem.to_string();
    format!("{}\n", line.trim_start_matches([':', ' ']))
}

/// Problems come in the order of their places, none twice, each place within the file and each report with the line itself.
#[test]
fn places_are_in_the_file_and_in_order() {
    for file in files() {
        let text = fs::read_to_string(&file).unwrap();
        let errors = parse("evenkeel.toml", &text).unwrap_err();
        let places: Vec<_> = errors
            .problems()
            .iter()
            .map(|p| (p.line, p.column))
            .collect();
        assert!(places.is_sorted(), "{}: {places:?}", file.display());
        let report = errors.render(false);
        for problem in errors.problems() {
            let place = format!("evenkeel.toml:{}:{}", problem.line, problem.column);
            if problem.line > 0 {
                let line = text.lines().nth(problem.line - 1).unwrap_or("");
                assert!(problem.column <= line.chars().count() + 1, "{problem}");
                assert!(report.contains(&place), "{place} is not in\n{report}");
                let shown: String = line.trim().chars().take(40).collect();
                let shown = shown.replace('\t', " ");
                assert!(report.contains(&shown), "{shown} is not in\n{report}");
            }
        }
        assert!(!report.contains('\u{1b}'), "no colour unless asked for");
        assert_eq!(errors.to_string(), report.trim_end());
    }
}
