//! Evidence from totals, tick by tick.

use std::time::Duration;

use evenkeel_health::passive::{EJECT_FIRST, EJECT_MAX, Evidence, Passive, Rows, Rule, Sample};
use proptest::prelude::*;

const UNCHECKED: Rule = Rule {
    checked: false,
    failures: 3,
};

const CHECKED: Rule = Rule {
    checked: true,
    failures: 3,
};

/// A backend, its totals and the time.
#[derive(Default)]
struct Backend {
    passive: Passive,
    sample: Sample,
    now_ms: u64,
}

impl Backend {
    fn new() -> Self {
        let mut backend = Self::default();
        assert_eq!(backend.tick(0, 0, UNCHECKED), None);
        backend
    }

    fn tick(&mut self, failed: u64, made: u64, rule: Rule) -> Option<Evidence> {
        self.sample.connect_failures += failed;
        self.sample.connections += made;
        self.now_ms += 100;
        let (passive, evidence) = self.passive.step(self.sample, rule, self.now_ms);
        self.passive = passive;
        evidence
    }

    fn reset(&mut self, resets: u64, made: u64, rule: Rule) -> Option<Evidence> {
        self.sample.resets += resets;
        self.tick(0, made, rule)
    }

    fn unanswered(&mut self, count: u64, rule: Rule) -> Option<Evidence> {
        self.sample.connect_timeouts += count;
        self.tick(count, 0, rule)
    }

    fn eject(&mut self) -> Duration {
        match self.tick(3, 0, UNCHECKED) {
            Some(Evidence::Eject { duration, .. }) => duration,
            other => unreachable!("not ejected: {other:?}"),
        }
    }

    fn return_after(&mut self, duration: Duration) {
        assert!(self.passive.is_ejected());
        self.now_ms += u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        assert_eq!(
            self.tick(0, 0, UNCHECKED),
            Some(Evidence::Return { after: duration })
        );
    }
}

#[test]
fn failures_in_a_row_are_counted_over_ticks_and_a_connection_ends_the_row() {
    let mut backend = Backend::new();
    assert_eq!(backend.tick(1, 0, CHECKED), None);
    assert_eq!(backend.tick(1, 1, CHECKED), None);
    assert_eq!(backend.tick(2, 0, CHECKED), None);
    let doubt = backend.tick(1, 0, CHECKED);
    let expected = Evidence::Doubt(Rows {
        failures: 3,
        ..Rows::default()
    });
    assert_eq!(doubt, Some(expected));
    assert_eq!(
        expected.to_string(),
        "3 connects in a row failed; checked at once"
    );
    assert_eq!(backend.tick(0, 0, CHECKED), None, "nothing new");
}

#[test]
fn without_checks_it_is_left_out_for_longer_each_time_and_proves_itself() {
    let mut backend = Backend::new();
    assert_eq!(backend.eject(), EJECT_FIRST);
    assert_eq!(backend.tick(0, 0, UNCHECKED), None);
    backend.return_after(EJECT_FIRST);
    // On trial, one failure is enough.
    let again = backend.tick(1, 0, UNCHECKED);
    assert_eq!(
        again.map(|evidence| evidence.to_string()).as_deref(),
        Some("1 connect failed; left out for 20 s")
    );
    let mut span = EJECT_FIRST * 2;
    for _ in 0..8 {
        backend.return_after(span);
        span = (span * 2).min(EJECT_MAX);
        assert!(backend.tick(1, 0, UNCHECKED).is_some());
        assert_eq!(
            backend.passive.ejected_until_ms(),
            Some(backend.now_ms + u64::try_from(span.as_millis()).unwrap_or(0))
        );
    }
    assert_eq!(span, EJECT_MAX);
    backend.return_after(span);
    assert_eq!(backend.tick(0, 1, UNCHECKED), None);
    backend.now_ms += 300_000;
    assert_eq!(backend.tick(0, 1, UNCHECKED), None);
    assert_eq!(backend.eject(), EJECT_FIRST);
}

#[test]
fn a_new_rule_takes_it_back_in() {
    let mut backend = Backend::new();
    backend.eject();
    assert!(matches!(
        backend.tick(0, 0, CHECKED),
        Some(Evidence::Return { .. })
    ));
    assert!(!backend.passive.is_ejected());
    let off = Rule {
        failures: 0,
        ..UNCHECKED
    };
    assert_eq!(backend.tick(100, 0, off), None);
}

fn words(evidence: Option<Evidence>) -> String {
    evidence.map_or_else(String::new, |evidence| evidence.to_string())
}

#[test]
fn resets_in_a_row_have_the_backend_checked_and_a_connection_that_stays_ends_the_row() {
    let mut backend = Backend::new();
    assert_eq!(backend.reset(1, 1, CHECKED), None);
    assert_eq!(backend.reset(1, 1, CHECKED), None);
    assert_eq!(backend.tick(0, 0, CHECKED), None, "a quiet tick is none");
    // Made before, and reset now.
    let doubt = backend.reset(1, 0, CHECKED);
    assert_eq!(
        words(doubt),
        "3 connections in a row were reset; checked at once"
    );
    assert_eq!(backend.tick(0, 0, CHECKED), None, "nothing new");
    assert!(backend.reset(1, 1, CHECKED).is_some(), "it goes on");
    // Of five made two were not reset.
    assert_eq!(backend.reset(3, 5, CHECKED), None);
    assert_eq!(backend.reset(2, 2, CHECKED), None);
    assert!(backend.reset(1, 1, CHECKED).is_some());
    // A process that dies with its connections.
    assert_eq!(backend.reset(0, 40, CHECKED), None);
    assert!(backend.reset(40, 0, CHECKED).is_some());
}

#[test]
fn resets_alone_never_leave_a_backend_out_and_mean_nothing_where_failures_do_not() {
    let mut backend = Backend::new();
    for _ in 0..50 {
        assert_eq!(backend.reset(10, 3, UNCHECKED), None);
    }
    let off = Rule {
        failures: 0,
        ..CHECKED
    };
    assert_eq!(backend.reset(10, 3, off), None);
}

#[test]
fn evidence_says_which_connects_got_no_answer() {
    let mut backend = Backend::new();
    backend.tick(1, 0, CHECKED);
    assert_eq!(
        words(backend.unanswered(2, CHECKED)),
        "3 connects in a row failed, 2 of them without an answer; checked at once"
    );
    backend.tick(0, 1, CHECKED);
    assert_eq!(
        words(backend.tick(3, 0, CHECKED)),
        "3 connects in a row failed; checked at once"
    );
    let one = Rule {
        failures: 1,
        ..UNCHECKED
    };
    backend.tick(0, 1, one);
    assert_eq!(
        words(backend.unanswered(1, one)),
        "1 connect failed, without an answer; left out for 10 s"
    );
}

proptest! {
    #[test]
    fn evidence_needs_a_whole_row_and_ejections_end(
        limit in 1_u16..6,
        ticks in prop::collection::vec((0_u64..4, 0_u64..2, 1_u64..20_000), 0..200),
    ) {
        let rule = Rule { checked: false, failures: limit };
        let mut backend = Backend::new();
        let (mut row, mut on_trial) = (0_u64, false);
        for (failed, made, wait_ms) in ticks {
            backend.now_ms += wait_ms;
            let was_ejected = backend.passive.is_ejected();
            let until = backend.passive.ejected_until_ms();
            row = if made > 0 { 0 } else { row + failed };
            on_trial &= made == 0;
            match backend.tick(failed, made, rule) {
                Some(Evidence::Eject { duration, .. }) => {
                    prop_assert!(!was_ejected);
                    prop_assert!(row >= u64::from(limit) || on_trial && failed > 0);
                    prop_assert!(duration >= EJECT_FIRST && duration <= EJECT_MAX);
                }
                Some(Evidence::Return { .. }) => {
                    prop_assert!(until.is_some_and(|until| until <= backend.now_ms));
                    (row, on_trial) = (0, true);
                }
                Some(Evidence::Doubt { .. }) => prop_assert!(false, "it has no checks"),
                None => prop_assert!(until.is_none_or(|until| until > backend.now_ms)),
            }
        }
    }
}
