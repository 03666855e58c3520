use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;

/// Runs `log` with a subscriber of its own and returns the lines.
fn lines(level: LogLevel, format: LogFormat, journal: bool, log: impl FnOnce()) -> Vec<String> {
    let spec = Box::leak(Box::new(SpecCell {
        level: AtomicU8::new(level as u8),
        format: AtomicU8::new(format as u8),
    }));
    let written = Arc::new(Mutex::new(Vec::new()));
    let sink = {
        let written = Arc::clone(&written);
        move |line: &[u8]| {
            let line = String::from_utf8(line.to_vec()).unwrap();
            written.lock().unwrap().push(line);
        }
    };
    let layer = Lines {
        spec,
        source: "worker-0".to_owned(),
        journal,
        sink,
    };
    tracing::subscriber::with_default(Registry::default().with(layer), log);
    let written = written.lock().unwrap();
    written.clone()
}

/// The line after its time.
fn after_time(line: &str) -> &str {
    line.split_once(' ').unwrap().1
}

#[test]
fn a_line_for_people_has_time_level_source_message_and_fields() {
    let lines = lines(LogLevel::Info, LogFormat::Human, false, || {
        tracing::info!(backend = "web/b2", port = 80, ok = true, "is up");
        tracing::warn!(answer = "no route to host", "is {}", "down");
        tracing::debug!("not wanted");
    });
    assert_eq!(lines.len(), 2);
    assert_eq!(
        after_time(&lines[0]),
        "INFO worker-0 is up backend=web/b2 port=80 ok=true\n"
    );
    assert_eq!(
        after_time(&lines[1]),
        "WARN worker-0 is down answer=\"no route to host\"\n"
    );
    let time = lines[0].split_once(' ').unwrap().0;
    assert_eq!(time.len(), "2026-11-20T09:46:42.123Z".len());
}

#[test]
fn a_json_line_is_one_object() {
    let lines = lines(LogLevel::Debug, LogFormat::Json, false, || {
        tracing::error!(bytes = 7, ratio = f64::NAN, text = "a\"b\\c\n", "over");
        tracing::debug!("no fields");
    });
    let value: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(value["level"], "error");
    assert_eq!(value["source"], "worker-0");
    assert_eq!(value["message"], "over");
    assert_eq!(value["fields"]["bytes"], 7);
    assert_eq!(value["fields"]["ratio"], "NaN");
    assert_eq!(value["fields"]["text"], "a\"b\\c\n");
    let value: serde_json::Value = serde_json::from_str(&lines[1]).unwrap();
    assert_eq!(value.get("fields"), None);
}

#[test]
fn the_journal_gets_its_mark_before_everything_else() {
    let log = || {
        tracing::error!("a");
        tracing::warn!("b");
        tracing::info!("c");
        tracing::debug!("d");
    };
    for format in [LogFormat::Human, LogFormat::Json] {
        let lines = lines(LogLevel::Debug, format, true, log);
        let marks: Vec<_> = lines.iter().map(|line| &line[..3]).collect();
        assert_eq!(marks, ["<3>", "<4>", "<6>", "<7>"]);
    }
}

#[test]
fn an_error_is_told_with_its_causes() {
    let cause = std::io::Error::other("no space");
    let error = std::io::Error::other(Outer(cause));
    let lines = lines(LogLevel::Info, LogFormat::Human, false, || {
        let error: &(dyn std::error::Error + 'static) = &error;
        tracing::warn!(error, "failed");
    });
    assert!(
        lines[0].ends_with("error=\"write the file: no space\"\n"),
        "{}",
        lines[0]
    );
}

#[derive(Debug)]
struct Outer(std::io::Error);

impl std::fmt::Display for Outer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("write the file")
    }
}

impl std::error::Error for Outer {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

#[test]
fn a_field_that_logs_while_it_is_shown_does_no_harm() {
    struct Chatty;
    impl std::fmt::Debug for Chatty {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            tracing::info!("inner");
            f.write_str("chatty")
        }
    }
    let lines = lines(LogLevel::Info, LogFormat::Human, false, || {
        tracing::info!(value = ?Chatty, "outer");
    });
    assert!(
        lines
            .iter()
            .any(|line| line.ends_with("outer value=chatty\n"))
    );
}

proptest! {
    #[test]
    fn whatever_is_logged_is_one_printable_line_within_the_limit(
        message in any::<String>(),
        text in any::<String>(),
        repeat in 0_usize..3_000,
        json in any::<bool>(),
    ) {
        let format = if json { LogFormat::Json } else { LogFormat::Human };
        let long = text.repeat(repeat);
        let lines = lines(LogLevel::Info, format, false, || {
            tracing::info!(long, number = 1_u64, text, "{message}");
        });
        let line = &lines[0];
        prop_assert!(line.len() <= LINE_BYTES_MAX);
        let body = line.strip_suffix('\n').unwrap();
        prop_assert!(!body.chars().any(char::is_control));
        if json {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            let cut = value.get("cut").is_some();
            if !cut {
                prop_assert_eq!(&value["message"], &message);
                prop_assert_eq!(&value["fields"]["long"], &long);
                prop_assert_eq!(&value["fields"]["text"], &text);
            }
        } else if long.len() > LINE_BYTES_MAX {
            prop_assert!(body.ends_with("...[cut]"));
        }
    }

    #[test]
    fn a_line_is_cut_at_any_length_without_tearing_it(length in 7_900_usize..8_300, json in any::<bool>()) {
        let format = if json { LogFormat::Json } else { LogFormat::Human };
        let text = "\u{1b}".repeat(length / 6);
        let lines = lines(LogLevel::Info, format, false, || {
            tracing::info!(text, after = "x", number = 5, "{}", "y".repeat(length % 6));
        });
        prop_assert!(lines[0].len() <= LINE_BYTES_MAX);
        if json {
            serde_json::from_str::<serde_json::Value>(&lines[0]).unwrap();
        }
    }
}
