//! The generated pages in docs/ say what the program says.

use std::path::Path;

/// Compares `docs/{page}` with what `evenkeel reference {word}` prints.
#[track_caller]
fn is_current(page: &str, word: &str, generated: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs")
        .join(page);
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == generated,
        "docs/{page} is not what the program says; write it again: evenkeel reference {word} > docs/{page}"
    );
}

#[test]
fn the_page_of_configuration_keys_is_current() {
    let generated = evenkeel_config::reference_markdown();
    is_current("configuration.md", "config", &generated);
}

#[test]
fn the_page_of_rules_of_http_is_current() {
    let generated = evenkeel_http::strict::reference_markdown();
    is_current("http-rules.md", "http-rules", &generated);
}

#[test]
fn the_page_of_metrics_is_current() {
    let generated = evenkeel_metrics::reference_markdown();
    is_current("metrics.md", "metrics", &generated);
}
