//! The verdict step against its definition: the health follows from the row of equal observations at the end of the history.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::Duration;

use evenkeel_health::verdict::step;
use evenkeel_health::{Health, Observation, Reason, State};
use evenkeel_plan::{CheckKind, CheckSpec};
use proptest::prelude::*;

fn spec(rise: u16, fall: u16) -> CheckSpec {
    CheckSpec {
        kind: CheckKind::Tcp,
        target: "127.0.0.1:1".parse().unwrap(),
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        rise,
        fall,
        jitter_percent: 0,
    }
}

fn observation() -> impl Strategy<Value = Observation> {
    prop_oneof![
        4 => Just(Observation::Passed),
        4 => Just(Observation::Failed),
        1 => Just(Observation::Inconclusive),
    ]
}

/// Health by definition, looking at the whole history each time.
fn expected(history: &[Observation], rise: u16, fall: u16) -> Health {
    let mut health = Health::Starting;
    let mut row: Vec<Observation> = Vec::new();
    for &observation in history {
        if observation == Observation::Inconclusive {
            continue;
        }
        if row.last() != Some(&observation) {
            row.clear();
        }
        row.push(observation);
        health = match (health, observation) {
            (Health::Starting, Observation::Passed) => Health::Up,
            (Health::Starting, _) => Health::Down,
            (Health::Up, Observation::Failed) if row.len() >= usize::from(fall) => Health::Down,
            (Health::Down, Observation::Passed) if row.len() >= usize::from(rise) => Health::Up,
            (same, _) => same,
        };
    }
    health
}

proptest! {
    #[test]
    fn health_is_what_the_history_says(
        rise in 1_u16..6,
        fall in 1_u16..6,
        history in proptest::collection::vec(observation(), 0..200),
    ) {
        let spec = spec(rise, fall);
        let mut state = State::new(Health::Starting, 0);
        for (index, &observation) in history.iter().enumerate() {
            let now = index as u64 + 1;
            let (next, transition) = step(state, observation, &spec, now);
            prop_assert_eq!(next.health, expected(&history[..=index], rise, fall));
            prop_assert_eq!(transition.is_some(), next.health != state.health);
            if let Some(transition) = transition {
                prop_assert_eq!((transition.from, transition.to), (state.health, next.health));
                prop_assert_eq!((next.since_ms, next.against), (now, 0));
            } else {
                prop_assert_eq!(next.since_ms, state.since_ms);
            }
            if observation == Observation::Inconclusive {
                prop_assert_eq!(next, state);
            }
            state = next;
        }
    }

    #[test]
    fn a_seeded_state_needs_the_whole_row(rise in 1_u16..10, fall in 1_u16..10, up in any::<bool>()) {
        let spec = spec(rise, fall);
        let (health, against, needed) = if up {
            (Health::Up, Observation::Failed, fall)
        } else {
            (Health::Down, Observation::Passed, rise)
        };
        let mut state = State::new(health, 7);
        for turn in 1..=needed {
            let (next, transition) = step(state, against, &spec, 8);
            prop_assert_eq!(transition.is_some(), turn == needed);
            state = next;
        }
    }
}

#[test]
fn reasons_read_as_an_operator_would_say_them() {
    for (reason, words) in [
        (Reason::FirstPassed, "first check passed"),
        (Reason::Failed(3), "3 checks failed in a row"),
        (Reason::Passed(2), "2 checks passed in a row"),
        (Reason::Failed(1), "1 check failed"),
    ] {
        assert_eq!(reason.to_string(), words);
    }
}
