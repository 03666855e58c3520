//! What becomes of every message of the corpus: the bytes that come out at the other side, and how it ends.
//!
//! How: a model of a relay takes each entry at once, byte by byte and in other pieces; the outcome is the same. All
//! mismatches are printed together.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![expect(clippy::panic, reason = "a test stops at the first surprise")]

mod common;

use std::collections::BTreeSet;
use std::fmt::Write;

use common::Entry;
use evenkeel_http::strict::{TABLE, Verdict};
use evenkeel_http1::Limits;

const STEPS: [usize; 5] = [usize::MAX / 2, 1, 2, 7, 31];

fn requests() -> Vec<Entry> {
    common::read("requests", Limits::REQUESTS)
}

fn answers() -> Vec<Entry> {
    common::read("answers", Limits::ANSWERS)
}

/// Compares what came out; what a backend had seen before a refusal is compared where the entry says it.
fn compare(entry: &Entry, step: usize, seen: &[u8], ending: &str, mismatches: &mut String) {
    let refused = ending.starts_with("bad ") || matches!(ending, "need" | "cut");
    let right = match &entry.seen {
        Some(expected) => expected == seen,
        None => refused,
    };
    if !right || ending != entry.ending {
        let expected = entry.seen.as_deref().unwrap_or_default().escape_ascii();
        writeln!(
            mismatches,
            "{} [{}] {step} at a time:\n  is         {ending}: {}\n  should be  {}: {expected}",
            entry.file,
            entry.name,
            seen.escape_ascii(),
            entry.ending,
        )
        .unwrap();
    }
}

#[test]
fn requests_go_on_as_they_should() {
    let mut mismatches = String::new();
    for entry in requests() {
        for step in STEPS {
            let (seen, ending) = common::relay_requests(&entry.sent, &entry.limits, step);
            compare(&entry, step, &seen, &ending, &mut mismatches);
        }
    }
    assert!(mismatches.is_empty(), "\n{mismatches}");
}

#[test]
fn answers_go_on_as_they_should() {
    let mut mismatches = String::new();
    for entry in answers() {
        for step in STEPS {
            let (seen, ending) =
                common::relay_answer(&entry.sent, &entry.limits, &entry.context, step);
            compare(&entry, step, &seen, &ending, &mut mismatches);
        }
    }
    assert!(mismatches.is_empty(), "\n{mismatches}");
}

/// What follows a good request is the next request, and what follows a refused one is nothing.
#[test]
fn the_next_good_request_is_seen_where_one_may_follow() {
    let next = b"GET /next HTTP/1.1\r\nHost: next.example\r\n\r\n";
    for entry in requests() {
        let (seen, ending) = common::relay_requests(&entry.sent, &entry.limits, usize::MAX / 2);
        let both = [&entry.sent[..], next].concat();
        let (seen_both, ending_both) = common::relay_requests(&both, &entry.limits, usize::MAX / 2);
        match ending.as_str() {
            "ok" => assert_eq!(seen_both, [&seen[..], next].concat(), "{}", entry.name),
            "need" => {}
            _ => assert_eq!((seen_both, ending_both), (seen, ending), "{}", entry.name),
        }
    }
}

/// What a backend was sent is a valid request for ourselves, and goes on unchanged.
#[test]
fn what_goes_on_would_go_on_unchanged() {
    for entry in requests().iter().filter(|entry| entry.ending == "ok") {
        let seen = entry.seen.as_ref().unwrap();
        let limits = Limits {
            fields: entry.limits.fields + 2,
            ..entry.limits
        };
        // An HTTP/1.0 client may have named no host, and the empty one that goes on may not come from a client.
        if !seen.windows(8).any(|bytes| bytes == b"Host: \r\n") {
            let (again, ending) = common::relay_requests(seen, &limits, usize::MAX / 2);
            assert_eq!(
                (again.escape_ascii().to_string(), ending.as_str()),
                (seen.escape_ascii().to_string(), "ok"),
                "{}",
                entry.name
            );
        }
    }
}

#[test]
fn the_corpus_is_whole() {
    let (requests, answers) = (requests(), answers());
    assert!(requests.len() >= 200, "{} requests", requests.len());
    assert!(answers.len() >= 60, "{} answers", answers.len());
    let mut names = BTreeSet::new();
    for entry in requests.iter().chain(&answers) {
        assert!(
            names.insert(entry.name.clone()),
            "two entries [{}]",
            entry.name
        );
        assert!(!entry.source.is_empty(), "[{}] has no source", entry.name);
        assert!(!entry.ending.is_empty(), "[{}] has no ending", entry.name);
    }
    let tested: BTreeSet<_> = requests
        .iter()
        .chain(&answers)
        .filter_map(|entry| entry.ending.strip_prefix("bad "))
        .collect();
    for rule in TABLE {
        if rule.verdict != Verdict::Remove {
            assert!(tested.contains(rule.id), "no entry breaks {}", rule.id);
        }
    }
    let rules: BTreeSet<_> = TABLE.iter().map(|rule| rule.id).collect();
    assert!(tested.is_subset(&rules));
    for (class, name) in CLASSES {
        assert!(names.contains(*name), "{class}: no entry [{name}]");
    }
}

/// Classes of advisories about requests and answers, each with an entry that stands for it.
const CLASSES: &[(&str, &str)] = &[
    ("both lengths", "cl-te"),
    ("both lengths, other order", "te-cl"),
    ("lists of codings", "te-chunked-chunked"),
    ("lists of codings, two fields", "te-two-fields"),
    ("lists of codings, identity", "te-identity-chunked"),
    ("lists of codings, empty element", "te-empty-element"),
    ("lists of codings, vertical tab", "te-vertical-tab"),
    ("lists of codings, NUL", "te-nul"),
    ("lists of codings, NBSP", "te-nbsp"),
    ("lists of codings, quotes", "te-quoted"),
    ("lists of codings, parameters", "te-parameter"),
    ("codings over 1.0", "te-http10"),
    ("length with a sign", "cl-plus"),
    ("empty length", "cl-empty"),
    ("negative length", "cl-negative"),
    ("length over 2^64", "cl-2pow64"),
    ("GET with a body", "cl-get"),
    ("HEAD with a body", "cl-head"),
    ("OPTIONS with a body in chunks", "te-options"),
    ("chunk sizes", "ch-17-digits"),
    ("bare LF in chunks", "ch-lf-size"),
    ("no CR LF behind a chunk", "ch-xx"),
    ("LF in an extension", "ch-ext-lf"),
    ("CR in an extension", "ch-ext-cr"),
    ("CR LF in a quoted extension", "ch-ext-quoted-crlf"),
    ("extensions without end", "ch-ext-volume"),
    ("malformed trailers", "ch-trailer-malformed"),
    ("framing in trailers", "ch-trailer-framing"),
    ("empty name", "fd-empty-name"),
    ("long name", "cl-long-name"),
    ("method with spaces", "rl-second-line"),
    ("scheme and authority", "rl-absolute-other-host"),
    ("fragment", "rl-fragment"),
    ("folding with Expect", "cl-expect-folded"),
    ("Expect that is unknown", "cl-expect-unknown"),
    ("dead pipeline", "pl-bad-second"),
    ("splitting of answers", "r-lf-in-value"),
    ("bare CR in answers", "r-cr-in-value"),
    ("framing of answers, lengths", "r-cl-two"),
    ("framing of answers, both", "r-cl-te"),
    ("framing of answers, chunks", "r-ch-size"),
    ("spare bytes behind an answer", "r-two"),
    ("body with HEAD", "r-head-body"),
    ("body with 204", "r-204-body"),
    ("body with 304", "r-304-body"),
    ("premature upgrade", "up-body"),
    ("200 to an upgrade", "r-200-upgrade"),
    ("101 that nobody asked for", "r-101-unasked"),
    ("CONNECT", "rl-connect"),
    ("upgrade to h2c", "up-h2c"),
    ("fields named away", "hop-named-forwarded"),
    ("host and length named away", "hop-named-host"),
    ("twins with underscores", "xff-underscore"),
];
