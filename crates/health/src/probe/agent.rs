//! HAProxy's agent protocol: a backend says in one line how it is and how much it wants.
//!
//! ```text
//! up 75% maxconn:100\n         down#disk full\n         drain\n
//! ```
//!
//! Words are set apart by blanks, tabs or commas; what follows `#` is for people. The worst word decides: `maint`, then
//! `down`, `failed`, `stopped`, then `drain`; a line with none of these but with a word that is known passes, since an agent
//! that speaks of weight alone is well. Unlike with HAProxy, where the agent stands beside a check, an agent that cannot be
//! reached has failed, and `down` counts towards `fall` as any failure does.
//! Source: HAProxy configuration manual, `agent-check`.

use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::connect::connect;
use super::outcome::Outcome;
use super::talk::{Talk, short};
use crate::verdict::Observation;

/// Longest line that is read.
const LINE_BYTES_MAX: usize = 4_096;

/// Longest answer in words.
const ANSWER_BYTES_MAX: usize = 256;

/// Most percent of the configured weight, as in HAProxy.
const WEIGHT_PERCENT_MAX: u16 = 25_600;

/// Asks the agent at `endpoint`, after sending `send`.
pub(super) async fn probe(
    endpoint: SocketAddr,
    source: Option<IpAddr>,
    send: Option<&str>,
    talk: &Talk,
) -> Result<Outcome, Outcome> {
    let io = |error| Outcome::error(&error);
    let mut stream = connect(endpoint, source, talk).await?;
    if let Some(send) = send {
        talk.begin("sending");
        talk.sent(send);
        stream.write_all(send.as_bytes()).await.map_err(io)?;
    }
    talk.begin("the agent's line");
    let mut line = Vec::new();
    let mut bytes = [0; 512];
    let text = loop {
        let count = stream.read(&mut bytes).await.map_err(io)?;
        let (read, is_end) = (&bytes[..count], count == 0);
        line.extend_from_slice(read);
        let end = line.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        if let Some(end) = end {
            line.truncate(end);
        }
        if end.is_some() || is_end {
            break String::from_utf8_lossy(&line);
        }
        if line.len() > LINE_BYTES_MAX {
            talk.received(&String::from_utf8_lossy(&line));
            return Err(Outcome::failed(format!(
                "the agent's line is longer than {LINE_BYTES_MAX} bytes"
            )));
        }
    };
    talk.received(&text);
    Ok(parse(&text).outcome(&text))
}

/// What one line says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Line {
    /// The worst of the words; `None` = no word is known.
    observation: Option<Observation>,
    weight_percent: Option<u16>,
    maxconn: Option<u32>,
}

fn parse(line: &str) -> Line {
    let words = line.split_once('#').map_or(line, |(words, _)| words);
    let mut parsed = Line::default();
    for word in words
        .split([' ', '\t', ','])
        .filter(|word| !word.is_empty())
    {
        parsed.take(&word.to_ascii_lowercase());
    }
    parsed
}

impl Line {
    fn take(&mut self, word: &str) {
        let observation = match word {
            "up" | "ready" => Observation::Passed,
            "drain" => Observation::Drain,
            "down" | "failed" | "fail" | "stopped" => Observation::Failed,
            "maint" => Observation::Maint,
            _ => {
                let percent = word.strip_suffix('%').and_then(number);
                let maxconn = word.strip_prefix("maxconn:").and_then(number);
                if percent.is_none() && maxconn.is_none() {
                    return;
                }
                if let Some(percent) = percent {
                    let percent = u16::try_from(percent).unwrap_or(u16::MAX);
                    self.weight_percent = Some(percent.min(WEIGHT_PERCENT_MAX));
                }
                self.maxconn = maxconn.or(self.maxconn);
                Observation::Passed
            }
        };
        if self
            .observation
            .is_none_or(|before| severity(observation) > severity(before))
        {
            self.observation = Some(observation);
        }
    }

    fn outcome(self, line: &str) -> Outcome {
        let said = short(line, ANSWER_BYTES_MAX);
        let Some(observation) = self.observation else {
            return Outcome::failed(match said.as_str() {
                "" => "the agent said nothing".to_owned(),
                _ => format!("the agent said {said:?}, which has no word of the protocol"),
            });
        };
        Outcome {
            weight_percent: self.weight_percent,
            maxconn: self.maxconn,
            ..Outcome::new(observation, format!("the agent said {said:?}"))
        }
    }
}

fn severity(observation: Observation) -> u8 {
    match observation {
        Observation::Passed | Observation::Inconclusive => 0,
        Observation::Drain => 1,
        Observation::Failed => 2,
        Observation::Maint => 3,
    }
}

/// Decimal digits and nothing else; what is too large is the largest.
fn number(text: &str) -> Option<u32> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(observation: Observation, weight_percent: Option<u16>, maxconn: Option<u32>) -> Line {
        Line {
            observation: Some(observation),
            weight_percent,
            maxconn,
        }
    }

    #[test]
    fn every_word_is_known_and_the_worst_decides() {
        use Observation::{Drain, Failed, Maint, Passed};
        for (text, expected) in [
            ("up", line(Passed, None, None)),
            ("READY", line(Passed, None, None)),
            ("ready up 75%", line(Passed, Some(75), None)),
            ("up,maxconn:20,100%", line(Passed, Some(100), Some(20))),
            ("30%", line(Passed, Some(30), None)),
            ("maxconn:7", line(Passed, None, Some(7))),
            ("0%", line(Passed, Some(0), None)),
            ("down#disk is full, up", line(Failed, None, None)),
            ("failed", line(Failed, None, None)),
            ("stopped", line(Failed, None, None)),
            ("up drain", line(Drain, None, None)),
            ("drain down", line(Failed, None, None)),
            ("maint\tdown", line(Maint, None, None)),
            ("what up", line(Passed, None, None)),
            ("99999999999%", line(Passed, Some(WEIGHT_PERCENT_MAX), None)),
            ("maxconn:99999999999", line(Passed, None, Some(u32::MAX))),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
        for text in [
            "",
            "  ",
            "#up",
            "75",
            "-3%",
            "maxconn:",
            "maxconn:x",
            "%",
            "upward",
        ] {
            assert_eq!(parse(text), Line::default(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_line_is_taken_and_its_answer_is_short_and_printable(text in any::<String>()) {
            let outcome = parse(&text).outcome(&text);
            prop_assert!(outcome.answer.len() < 2 * ANSWER_BYTES_MAX + 100);
            prop_assert!(!outcome.answer.chars().any(char::is_control));
        }

        #[test]
        fn what_an_agent_writes_is_what_is_read(
            word in prop::sample::select(vec!["up", "down", "drain", "maint"]),
            percent in 0_u16..=WEIGHT_PERCENT_MAX,
            maxconn in any::<u32>(),
            separator in prop::sample::select(vec![" ", ",", "\t", ", "]),
            order in Just([0_usize, 1, 2]).prop_shuffle(),
        ) {
            let parts = [word.to_owned(), format!("{percent}%"), format!("maxconn:{maxconn}")];
            let text = order.map(|index| parts[index].clone()).join(separator);
            let parsed = parse(&text);
            prop_assert_eq!(parsed.weight_percent, Some(percent));
            prop_assert_eq!(parsed.maxconn, Some(maxconn));
            prop_assert_eq!(parsed, parse(&format!("{text}#down maint 1%")));
        }
    }
}
