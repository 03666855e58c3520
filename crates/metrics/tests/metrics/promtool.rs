//! What Prometheus itself says of the exposition and of the alert rules: Debian's `promtool`, of the package `prometheus`. Where it
//! is not installed, these tests say so and pass.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use evenkeel_metrics::scrape;
use evenkeel_metrics::table::{Kind, TABLE};

use crate::rig::{NOW_MS, full};

#[test]
fn promtool_has_nothing_to_say_of_a_scrape() {
    let (board, plan) = full();
    let text = scrape(&board, &plan, NOW_MS);
    promtool(&["check", "metrics"], &text);
}

#[test]
fn promtool_accepts_the_rules() {
    promtool(&["check", "rules", rules().to_str().unwrap()], "");
}

#[test]
fn alerts_fire_when_they_should_and_not_before() {
    let tests = here().join("tests/metrics/rules_test.yml");
    promtool(&["test", "rules", tests.to_str().unwrap()], "");
}

#[test]
fn the_rules_and_their_tests_name_metrics_that_exist() {
    for path in [rules(), here().join("tests/metrics/rules_test.yml")] {
        let text = std::fs::read_to_string(&path).unwrap();
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let words = text.split(|c| !is_name(c));
        let mut names = 0;
        for word in words.filter(|word| word.starts_with("evenkeel_")) {
            let known = TABLE.iter().any(|metric| {
                let part = word.strip_prefix(metric.name);
                match metric.kind {
                    Kind::Counter | Kind::Gauge => part == Some(""),
                    Kind::Histogram => matches!(part, Some("_bucket" | "_sum" | "_count")),
                }
            });
            assert!(known, "{}: {word}", path.display());
            names += 1;
        }
        assert!(names > 10, "{}", path.display());
    }
}

/// Runs it and fails when it fails or has anything to complain of.
#[expect(
    clippy::print_stdout,
    reason = "a test that is skipped must not look like one that passed"
)]
fn promtool(arguments: &[&str], input: &str) {
    let spawned = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: promtool is not installed (apt-get install prometheus)");
            return;
        }
        spawned => spawned.unwrap(),
    };
    // It reads all of its input before it writes. What reads none of it breaks the pipe.
    child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
    let output = child.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && words.trim().is_empty(),
        "promtool {arguments:?}: {}\n{words}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout)
    );
}

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rules() -> PathBuf {
    here().join("../../deploy/prometheus-rules.yml")
}
