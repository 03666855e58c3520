//! Replays on a stable compiler what fuzzing has found, and the tests' own corpus through the same checks.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![expect(clippy::panic, reason = "a test stops at the first surprise")]

#[path = "../../../tests/fuzz/checks/http1.rs"]
mod checks;
mod common;

use std::fs;
use std::path::Path;

use evenkeel_http1::Limits;

fn replay(target: &str, check: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fuzz/corpus")
        .join(target);
    let mut count = 0;
    for file in fs::read_dir(corpus).unwrap() {
        check(&fs::read(file.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn requests() {
    replay("request", checks::request);
    for entry in common::read("requests", Limits::REQUESTS) {
        checks::request(&entry.sent);
        if let Some(body) = entry.sent.windows(4).position(|four| four == b"\r\n\r\n") {
            checks::chunked(&entry.sent[body + 4..]);
        }
    }
}

#[test]
fn answers() {
    replay("answer", checks::answer);
    for entry in common::read("answers", Limits::ANSWERS) {
        for asked in 0..8 {
            checks::answer(&[&[asked], &entry.sent[..]].concat());
        }
    }
}

#[test]
fn bodies_in_chunks() {
    replay("chunked", checks::chunked);
}
