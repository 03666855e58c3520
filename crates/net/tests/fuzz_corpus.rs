//! Replays on a stable compiler what fuzzing has found.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "../../../tests/fuzz/checks/net.rs"]
mod checks;

use std::fs;
use std::path::Path;

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
fn proxy_protocol_headers() {
    replay("proxy_protocol", checks::proxy_protocol);
}

#[test]
fn mllp_frames() {
    replay("mllp", checks::mllp);
}
