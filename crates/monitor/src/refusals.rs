//! Limits that begin to bite and cease to: what workers counted of refused connections, looked at in turns.
//!
//! ```text
//!   quiet --- the total has risen ---> biting --- it has not risen for 10 s ---> quiet
//!             Change::Begun                       Change::Ended
//! ```
//!
//! So that of each service and reason there is at most one of each kind in 10 s, however many connections are refused.

use std::collections::HashMap;
use std::time::Duration;

use evenkeel_plan::{Plan, ServiceCell};
use evenkeel_scoreboard::{Scoreboard, ServiceCount};

/// A limit that has refused nobody for this long does not bite any more.
const QUIET_MS: u64 = 10_000;

/// What refuses connections, and the words for it.
const REASONS: [(ServiceCount, &str); 7] = [
    (ServiceCount::Limited, "max_connections"),
    (ServiceCount::RateLimited, "rate"),
    (ServiceCount::SourceRateLimited, "source_rate"),
    (ServiceCount::Denied, "`allow` and `deny` (denied)"),
    (ServiceCount::QueueFull, "a full queue (queue_full)"),
    (
        ServiceCount::QueueTimeout,
        "the queue's timeout (queue_timeout)",
    ),
    (ServiceCount::ProxyHeader, "accept_proxy (proxy_header)"),
];

/// Most cells in one turn: each service has one a reason in every row.
const CELLS_MAX: usize = 64 * 1_024;

/// Something to tell of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) service: String,
    pub(crate) words: String,
    /// A limit of ours has begun to turn clients away who may come; not so who is kept out on purpose, and what is over.
    pub(crate) is_warning: bool,
}

#[derive(Debug)]
pub(crate) struct Refusals {
    board: Scoreboard,
    watched: Vec<Watched>,
    /// Whose turn is next.
    turn: usize,
}

#[derive(Debug)]
struct Watched {
    cell: ServiceCell,
    name: String,
    bites: [Bite; REASONS.len()],
}

/// One reason of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bite {
    last: Look,
    now: Option<Biting>,
}

/// A total, and when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    total: u64,
    at_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Biting {
    /// The last look before.
    before: Look,
    /// When the total was last seen to have risen.
    rose_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Begun,
    Ended { connections: u64, lasted: Duration },
}

impl Refusals {
    pub(crate) fn new(board: Scoreboard) -> Self {
        Self {
            board,
            watched: Vec::new(),
            turn: 0,
        }
    }

    /// Watches the services of `plan`. What is known of those that were watched before stays; of others counting starts now.
    pub(crate) fn apply(&mut self, plan: &Plan, now_ms: u64) {
        let before = std::mem::take(&mut self.watched).into_iter();
        let mut before: HashMap<_, _> = before
            .map(|watched| ((watched.cell, watched.name), watched.bites))
            .collect();
        for sealed in plan.services() {
            let record = sealed.record();
            let key = (record.cell, record.name().to_string());
            let known = before.remove(&key);
            let (cell, name) = key;
            let start = |(count, _)| {
                Bite::from(Look {
                    total: self.board.sum_service(cell, count),
                    at_ms: now_ms,
                })
            };
            let bites = known.unwrap_or_else(|| REASONS.map(start));
            self.watched.push(Watched { cell, name, bites });
        }
    }

    /// Looks at some services: the next ones after those of the last call.
    pub(crate) fn look(&mut self, now_ms: u64) -> Vec<Told> {
        let rows = self.board.rows().count().max(1);
        let most = (CELLS_MAX / (REASONS.len() * rows)).max(1);
        let count = self.watched.len();
        let mut told = Vec::new();
        for _ in 0..count.min(most) {
            if self.turn >= count {
                self.turn = 0;
            }
            let watched = &mut self.watched[self.turn];
            self.turn += 1;
            watched.look(&self.board, now_ms, &mut told);
        }
        told
    }
}

impl Watched {
    fn look(&mut self, board: &Scoreboard, now_ms: u64, told: &mut Vec<Told>) {
        for (bite, (count, words)) in self.bites.iter_mut().zip(REASONS) {
            let look = Look {
                total: board.sum_service(self.cell, count),
                at_ms: now_ms,
            };
            let (next, change) = bite.step(look);
            *bite = next;
            if let Some(change) = change {
                let is_ours = !matches!(count, ServiceCount::Denied | ServiceCount::ProxyHeader);
                told.push(Told {
                    service: self.name.clone(),
                    words: change.words(words),
                    is_warning: is_ours && change == Change::Begun,
                });
            }
        }
    }
}

impl Bite {
    /// Takes the total of now. At one that has fallen counting starts anew.
    fn step(self, look: Look) -> (Self, Option<Change>) {
        let start = Self::from(look);
        let last = self.last;
        if look.total < last.total {
            return (start, None);
        }
        let has_risen = look.total > last.total;
        match self.now {
            None if !has_risen => (start, None),
            None => {
                let biting = Biting {
                    before: last,
                    rose_ms: look.at_ms,
                };
                let now = Some(biting);
                (Self { now, ..start }, Some(Change::Begun))
            }
            Some(biting) if has_risen => {
                let now = Some(Biting {
                    rose_ms: look.at_ms,
                    ..biting
                });
                (Self { now, ..start }, None)
            }
            Some(biting) if look.at_ms.saturating_sub(biting.rose_ms) >= QUIET_MS => {
                let lasted = biting.rose_ms.saturating_sub(biting.before.at_ms);
                let ended = Change::Ended {
                    connections: look.total - biting.before.total,
                    lasted: Duration::from_millis(lasted),
                };
                (start, Some(ended))
            }
            Some(_) => {
                let now = self.now;
                (Self { now, ..start }, None)
            }
        }
    }
}

impl From<Look> for Bite {
    /// Quiet, and counting starts at `last`.
    fn from(last: Look) -> Self {
        Self { last, now: None }
    }
}

impl Change {
    fn words(self, reason: &str) -> String {
        match self {
            Self::Begun => format!("connections are refused by {reason}"),
            Self::Ended {
                connections,
                lasted,
            } => {
                let noun = match connections {
                    1 => "connection",
                    _ => "connections",
                };
                let number = grouped(connections);
                let seconds = lasted.as_millis().div_ceil(1_000).max(1);
                format!(
                    "{number} {noun} refused by {reason} in {seconds} s, none for {} s",
                    QUIET_MS / 1_000
                )
            }
        }
    }
}

/// `1,234`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of these totals, looked at in these seconds.
    fn told(looks: &[(u64, u64)]) -> Vec<(u64, String)> {
        let look = |&(seconds, total): &(u64, u64)| Look {
            total,
            at_ms: seconds * 1_000,
        };
        let mut bite = Bite::from(look(&looks[0]));
        let mut told = Vec::new();
        for at @ (seconds, _) in &looks[1..] {
            let (next, change) = bite.step(look(at));
            bite = next;
            told.extend(change.map(|change| (*seconds, change.words("rate"))));
        }
        told
    }

    #[test]
    fn a_pair_tells_of_all_that_was_refused_until_it_was_quiet() {
        // What was refused before the first look is nobody's news.
        let mut looks = vec![(1, 7), (2, 7), (3, 8), (4, 500)];
        // Gaps shorter than the quiet belong to it.
        looks.extend((5..=13).map(|second| (second, 500)));
        looks.extend([(14, 501), (37, 1_241)]);
        looks.extend((38..=60).map(|second| (second, 1_241)));
        let found = told(&looks);
        let begun = "connections are refused by rate".to_owned();
        let ended = "1,234 connections refused by rate in 35 s, none for 10 s".to_owned();
        assert_eq!(found, [(3, begun), (47, ended)]);
    }

    #[test]
    fn one_that_is_refused_now_and_then_makes_no_more_than_a_pair_in_ten_seconds() {
        // One connection every so many seconds for an hour.
        for gap in 1..30 {
            let looks: Vec<(u64, u64)> = (0..3_600).map(|now| (now, now / gap)).collect();
            let found = told(&looks);
            let begins: Vec<u64> = found
                .iter()
                .filter(|(_, words)| words.starts_with("connections are"))
                .map(|(at, _)| *at)
                .collect();
            assert!(!begins.is_empty(), "every {gap} s");
            assert!(
                begins.is_sorted_by(|one, next| one + 10 <= *next),
                "every {gap} s: {begins:?}"
            );
        }
    }

    #[test]
    fn one_connection_is_told_of_and_a_total_that_falls_starts_anew() {
        let ended = "1 connection refused by rate in 1 s, none for 10 s";
        let found = told(&[(0, 0), (1, 1), (10, 1), (11, 1)]);
        assert_eq!(found[1], (11, ended.to_owned()));
        assert_eq!(told(&[(0, 100), (1, 5), (2, 5), (20, 5)]), []);
        assert_eq!(told(&[(0, 100), (1, 5), (2, 6)]).len(), 1);
    }

    #[test]
    fn reasons_are_told_in_the_words_of_status_and_metrics() {
        for (count, words) in REASONS {
            let word = count.failure().unwrap();
            assert!(words.contains(word), "{words} without {word}");
        }
    }
}
