//! The verdict step against its definition: the health follows from the row of equal observations at the end of the history.

use std::time::Duration;

use evenkeel_health::verdict::step;
use evenkeel_health::{Health, Observation, Reason, State};
use evenkeel_plan::{CheckKind, CheckSpec};
use proptest::prelude::*;

fn spec(rise: u16, fall: u16) -> CheckSpec {
    CheckSpec {
        interval: Duration::from_secs(1),
        rise,
        fall,
        jitter_percent: 0,
        ..CheckSpec::of(CheckKind::Tcp)
    }
}

fn observation() -> impl Strategy<Value = Observation> {
    prop_oneof![
        8 => Just(Observation::Passed),
        8 => Just(Observation::Failed),
        2 => Just(Observation::Inconclusive),
        1 => Just(Observation::Drain),
        1 => Just(Observation::Maint),
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
            (_, Observation::Drain) => Health::Drain,
            (_, Observation::Maint) => Health::Maint,
            (Health::Starting | Health::Drain | Health::Maint, Observation::Passed) => Health::Up,
            (Health::Starting, Observation::Failed) => Health::Down,
            (Health::Up | Health::Drain | Health::Maint, Observation::Failed)
                if row.len() >= usize::from(fall) =>
            {
                Health::Down
            }
            (Health::Down, Observation::Passed) if row.len() >= usize::from(rise) => Health::Up,
            (same, _) => same,
        };
    }
    health
}

/// So far apart that no change is recent.
const QUIET_MS: u64 = 60_000;

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
            let now = (index as u64 + 1) * QUIET_MS;
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

    /// Whatever the rhythm: what fails `fall` times in a row is down, and what passes comes up after at most 16 times `rise`.
    #[test]
    fn damping_never_delays_going_down_and_has_a_limit(
        rise in 1_u16..4,
        fall in 1_u16..4,
        history in proptest::collection::vec((any::<bool>(), 1_u64..20_000), 0..300),
    ) {
        let spec = spec(rise, fall);
        let mut state = State::new(Health::Starting, 0);
        let (mut now, mut failed, mut passed) = (1, 0, 0);
        for (passes, wait_ms) in history {
            now += wait_ms;
            let observation = if passes { Observation::Passed } else { Observation::Failed };
            (failed, passed) = if passes { (0, passed + 1) } else { (failed + 1, 0) };
            let before = state;
            let (next, transition) = step(state, observation, &spec, now);
            state = next;
            if failed >= fall {
                prop_assert_eq!(state.health, Health::Down);
            }
            if passed >= 16 * rise {
                prop_assert_eq!(state.health, Health::Up);
            }
            let came_up = transition.is_some_and(|change| change.to == Health::Up);
            if came_up && before.health == Health::Down {
                prop_assert!(passed >= rise);
            }
        }
    }

    #[test]
    fn after_quiet_minutes_nothing_is_damped(changes in 0_u64..40, quiet in 5_u64..10) {
        let spec = spec(1, 1);
        let mut state = State::new(Health::Down, 1);
        let mut now = 1_000;
        for change in 0..changes {
            let observation = if change % 2 == 0 { Observation::Passed } else { Observation::Failed };
            now += 1;
            (state, _) = step(state, observation, &spec, now);
        }
        prop_assert_eq!(state.rise(&spec, now + quiet * 60_000), 1);
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
fn what_flaps_needs_twice_the_passes_with_each_further_change() {
    let spec = spec(2, 1);
    let mut state = State::new(Health::Up, 1);
    let mut needed = Vec::new();
    let mut now = 1_000;
    for _ in 0..5 {
        now += 10;
        let (down, _) = step(state, Observation::Failed, &spec, now);
        assert_eq!(down.health, Health::Down, "one failure is enough");
        state = down;
        let mut passes = 0;
        while state.health == Health::Down {
            now += 10;
            passes += 1;
            (state, _) = step(state, Observation::Passed, &spec, now);
        }
        needed.push(passes);
    }
    // Changes: down 1, up 2, down 3, up 4 = the first further one, down 5 ...
    assert_eq!(needed, [2, 2, 8, 32, 32]);
    assert_eq!(state.rise(&spec, now), 32);
    assert_eq!(state.rise(&spec, now + 59_999), 32);
    assert_eq!(state.rise(&spec, now + 60_000), 16);
    assert_eq!(state.rise(&spec, now + 300_000), 2);
}

#[test]
fn a_name_that_moved_is_decided_by_its_next_check() {
    let spec = spec(5, 5);
    for (health, observation, expected) in [
        (Health::Up, Observation::Failed, Health::Down),
        (Health::Down, Observation::Passed, Health::Up),
    ] {
        let anew = State {
            anew: true,
            ..State::new(health, 1)
        };
        let (state, _) = step(anew, Observation::Inconclusive, &spec, 2);
        let (state, transition) = step(state, observation, &spec, 3);
        assert_eq!((state.health, state.anew), (expected, false));
        assert!(transition.is_some());
    }
    let anew = State {
        anew: true,
        ..State::new(Health::Up, 1)
    };
    let (state, _) = step(anew, Observation::Passed, &spec, 2);
    assert_eq!(state, State::new(Health::Up, 1));
}

#[test]
fn reasons_read_as_an_operator_would_say_them() {
    for (reason, words) in [
        (Reason::FirstPassed, "first check passed"),
        (Reason::Failed(3), "3 checks failed in a row"),
        (Reason::Passed(2), "2 checks passed in a row"),
        (Reason::Failed(1), "1 check failed"),
        (Reason::Said, "the backend says so"),
    ] {
        assert_eq!(reason.to_string(), words);
    }
}
