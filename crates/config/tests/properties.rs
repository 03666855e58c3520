//! No text makes the reader panic, every refusal has a place in the text, and durations read back as they were written.

use std::time::Duration;

use evenkeel_config::{DEMO, DurationText, Problem, parse, parse_duration};
use proptest::prelude::*;

const TEXTS: [&str; 15] = [
    DEMO,
    include_str!("../../../config/openhim.toml"),
    include_str!("../../../config/minimal.toml"),
    include_str!("../../../config/couchdb.toml"),
    include_str!("../../../config/tcp.toml"),
    include_str!("../../../config/mllp.toml"),
    include_str!("../../../config/http.toml"),
    include_str!("../../../config/websocket.toml"),
    include_str!("broken/http_routes.toml"),
    include_str!("broken/http_settings.toml"),
    include_str!("broken/admission.toml"),
    include_str!("broken/connection.toml"),
    include_str!("broken/check_http.toml"),
    include_str!("broken/wrong_types.toml"),
    include_str!("broken/overlapping_listen.toml"),
];

/// Pieces that mean something to the reader.
const PIECES: [&str; 24] = [
    "[",
    "]",
    "[[services]]",
    "[services.web]",
    "[pools.p.check]",
    "{",
    "}",
    "=",
    ",",
    "\"",
    "'",
    "\"\"\"",
    "\n",
    "\r",
    "#",
    ".",
    "listen",
    "backends",
    "0",
    "-1",
    "\"10.0.0.1:80\"",
    "version = 1\n",
    "é\u{0}",
    "1979-05-27",
];

fn examine(text: &str) {
    match parse("x.toml", text) {
        Ok(loaded) => {
            for service in &loaded.spec.services {
                let routes = service.http.as_ref().map(|http| http.routes.len());
                assert!(!service.listeners.is_empty() || routes == Some(0));
                assert!(!service.backends.is_empty() || routes > Some(0));
            }
            examine_places(text, &loaded.warnings);
        }
        Err(errors) => {
            assert!(!errors.problems().is_empty());
            examine_places(text, errors.problems());
            assert!(errors.render(false).contains("error"));
            assert!(errors.render(true).contains("error"));
        }
    }
}

fn examine_places(text: &str, problems: &[Problem]) {
    for problem in problems.iter().filter(|problem| problem.line > 0) {
        let line = text
            .split('\n')
            .nth(problem.line - 1)
            .expect("the line is in the text");
        assert!(
            (1..=line.chars().count() + 1).contains(&problem.column),
            "{problem}"
        );
        assert!(!problem.message.is_empty());
    }
}

proptest! {
    #[test]
    fn any_text(text in any::<String>()) {
        examine(&text);
    }

    #[test]
    fn any_pieces(pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..40)) {
        examine(&format!("version = 1\n{}", pieces.concat()));
    }

    #[test]
    fn changed_examples(
        text in prop::sample::select(&TEXTS[..]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..12, prop::sample::select(&PIECES[..])), 1..4),
    ) {
        let mut chars: Vec<char> = text.chars().collect();
        for (index, removed, piece) in changes {
            let at = index.index(chars.len() + 1);
            let end = (at + removed).min(chars.len());
            chars.splice(at..end, piece.chars());
        }
        examine(&chars.into_iter().collect::<String>());
    }

    #[test]
    fn changed_values(
        text in prop::sample::select(&TEXTS[..]),
        index in any::<prop::sample::Index>(),
        value in "[0-9a-z:.\\[\\]%/-]{0,12}",
    ) {
        let starts: Vec<_> = text.match_indices('"').map(|(at, _)| at + 1).collect();
        let at = starts[index.index(starts.len())];
        let end = text[at..].find(['"', '\n']).map_or(text.len(), |end| at + end);
        examine(&format!("{}{value}{}", &text[..at], &text[end..]));
    }

    #[test]
    fn durations_read_back(millis in 0_u64..10_000_000_000) {
        let duration = Duration::from_millis(millis);
        prop_assert_eq!(parse_duration(&DurationText(duration).to_string()), Ok(duration));
    }

    #[test]
    fn any_duration(text in "[0-9a-z. ]{0,30}") {
        let _either = parse_duration(&text);
    }
}

/// What a mistake costs to report does not grow with the square of the file.
#[test]
fn large_files_with_many_mistakes_end_soon() {
    let many_keys: String = (0..50_000).map(|index| format!("k{index} = 1\n")).collect();
    let long_line = format!("version = 1\nx = [{}]", "{ y = 1 }, ".repeat(50_000));
    let same = format!(
        "version = 1\n[services.s]\nlisten = \"127.0.0.1:1\"\nbackends = [{}]",
        "\"10.0.0.2:80\", ".repeat(60_000)
    );
    for text in [many_keys, long_line, same] {
        let started = std::time::Instant::now();
        match parse("x", &text) {
            Ok(loaded) => assert!(loaded.warnings.len() <= 1_000),
            Err(errors) => {
                assert!(errors.problems().len() <= evenkeel_config::PROBLEMS_MAX);
                assert!(errors.render(false).len() < 2 << 20);
            }
        }
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "{:?}",
            started.elapsed()
        );
    }
}
