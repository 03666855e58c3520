//! `events`: what happened lately, and what happens next.

use std::process::ExitCode;

use evenkeel_control::child::Event;

use crate::arguments::Events;
use crate::failure::{Exit, Failure};
use crate::{client, output, runtime_dir, text};

/// Longest subject and text that are shown.
const SUBJECT_CHARS_MAX: usize = 130;
const TEXT_CHARS_MAX: usize = 500;

/// Prints each event on a line.
pub(crate) fn execute(arguments: Events) -> Result<ExitCode, Failure> {
    let Events {
        follow,
        json,
        runtime_dir,
    } = arguments;
    let directory = runtime_dir::choose(runtime_dir.runtime_dir);
    client::block_on(async {
        let print = |event: &Event| {
            let line = if json {
                serde_json::to_string(event).map_err(|error| {
                    Failure::new(Exit::Failed, "cannot write an event").cause(&error)
                })? + "\n"
            } else {
                line(event)
            };
            output::try_print(&line)
        };
        client::events(&directory, follow, print).await
    })?;
    Ok(Exit::Ok.into())
}

/// `2026-11-20 12:00:00.123Z  health   web/b1  down: ...`
pub(crate) fn line(event: &Event) -> String {
    let subject = match event.subject.as_str() {
        "" => "evenkeel",
        subject => subject,
    };
    format!(
        "{}  {:<7}  {}  {}\n",
        text::utc(event.at_ms),
        text::one_line(&event.kind, 7),
        text::one_line(subject, SUBJECT_CHARS_MAX),
        text::one_line(&event.text, TEXT_CHARS_MAX),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line_whatever_it_says() {
        let mut event = Event {
            at_ms: 1_700_000_000_123,
            kind: "admin".to_owned(),
            subject: "web/b1".to_owned(),
            text: "drained by root (pid 12)".to_owned(),
        };
        assert_eq!(
            line(&event),
            "2023-11-14 22:13:20.123Z  admin    web/b1  drained by root (pid 12)\n"
        );
        event.subject.clear();
        event.text = "a\nb".to_owned();
        assert!(line(&event).ends_with("  evenkeel  a b\n"));
    }
}
