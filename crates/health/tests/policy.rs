//! The gate against its definition, and its words.

use evenkeel_health::policy::{Gate, Member, Standing, gate};
use evenkeel_plan::{PolicySpec, Require};
use proptest::prelude::*;

fn policy(require: Require, panic: Option<u8>) -> PolicySpec {
    PolicySpec {
        require,
        panic,
        ..PolicySpec::default()
    }
}

fn member(name: &str, health: Standing) -> Member<'_> {
    Member {
        name,
        health,
        backup: false,
        weight: 1,
    }
}

#[test]
fn a_service_without_backends_serves_whatever_is_required() {
    for require in [
        Require::Any,
        Require::All,
        Require::Count(1),
        Require::Share(50),
    ] {
        let decision = gate(&policy(require, Some(50)), &[], Some(Gate::Closed));
        assert_eq!(decision.state, Gate::Open, "{require:?}");
        assert_eq!(decision.reason, "it has no backends of its own");
    }
}

#[test]
fn the_reason_names_who_is_not_well() {
    let members = [
        member("couchdb-1", Standing::Up),
        member("couchdb-2", Standing::Unchecked),
        member("couchdb-3", Standing::Down),
    ];
    for (require, panic, state, words) in [
        (
            Require::All,
            None,
            Gate::Closed,
            "2 of 3 backends are healthy, all are required: couchdb-3 is down",
        ),
        (
            Require::Count(3),
            None,
            Gate::Closed,
            "2 of 3 backends are healthy, 3 are required: couchdb-3 is down",
        ),
        (
            Require::Share(67),
            None,
            Gate::Closed,
            "2 of 3 backends are healthy, 67 % are required, that is 3: couchdb-3 is down",
        ),
        (
            Require::Share(66),
            None,
            Gate::Open,
            "2 of 3 backends are healthy: couchdb-3 is down",
        ),
        (
            Require::Any,
            Some(70),
            Gate::Panic,
            "2 of 3 backends are healthy, less than 70 %: all that are enabled are used: couchdb-3 is down",
        ),
        (
            Require::All,
            Some(70),
            Gate::Closed,
            "2 of 3 backends are healthy, all are required: couchdb-3 is down",
        ),
    ] {
        let decision = gate(&policy(require, panic), &members, None);
        assert_eq!((decision.state, decision.reason.as_str()), (state, words));
    }
    let all = [member("a", Standing::Up), member("b", Standing::Up)];
    let decision = gate(&policy(Require::All, None), &all, None);
    assert_eq!(decision.reason, "2 of 2 backends are healthy");
}

#[test]
fn while_first_checks_could_still_decide_the_panic_waits() {
    let starting = [member("a", Standing::Starting), member("b", Standing::Down)];
    let policy = policy(Require::Any, Some(50));
    assert_eq!(gate(&policy, &starting, None).state, Gate::Open);
    assert_eq!(gate(&policy, &starting, Some(Gate::Open)).state, Gate::Open);
    assert_eq!(
        gate(&policy, &starting, Some(Gate::Panic)).state,
        Gate::Panic
    );
    let down = [member("a", Standing::Down), member("b", Standing::Down)];
    assert_eq!(gate(&policy, &down, Some(Gate::Open)).state, Gate::Panic);
    let up = [member("a", Standing::Up), member("b", Standing::Down)];
    assert_eq!(gate(&policy, &up, Some(Gate::Panic)).state, Gate::Open);
}

fn standing() -> impl Strategy<Value = Standing> {
    prop::sample::select(vec![
        Standing::Up,
        Standing::Unchecked,
        Standing::Starting,
        Standing::Down,
        Standing::Drain,
        Standing::Maint,
        Standing::Ejected,
    ])
}

fn require() -> impl Strategy<Value = Require> {
    prop_oneof![
        Just(Require::Any),
        Just(Require::All),
        (1_u16..8).prop_map(Require::Count),
        (1_u8..=100).prop_map(Require::Share),
    ]
}

fn rank(state: Gate) -> u8 {
    match state {
        Gate::Closed => 0,
        Gate::Panic => 1,
        Gate::Open => 2,
    }
}

proptest! {
    #[test]
    fn the_gate_is_what_its_definition_says(
        require in require(),
        panic in prop::option::of(1_u8..=100),
        healths in prop::collection::vec((standing(), any::<bool>(), 0_u16..3), 1..8),
    ) {
        let members: Vec<_> = healths
            .iter()
            .map(|&(health, backup, weight)| Member { name: "b", health, backup, weight })
            .collect();
        let decision = gate(&policy(require, panic), &members, None);
        let primaries: Vec<_> = members.iter().filter(|member| !member.backup).collect();
        let healthy = primaries.iter().filter(|member| member.health.is_healthy()).count();
        let total = primaries.len();
        let is_met = match require {
            Require::Any => true,
            Require::All => healthy == total,
            Require::Count(count) => healthy >= usize::from(count),
            Require::Share(share) => healthy * 100 >= total * usize::from(share),
        };
        prop_assert_eq!(decision.state == Gate::Closed, !is_met);
        if decision.state == Gate::Panic {
            prop_assert!(healthy * 100 < total * usize::from(panic.unwrap()));
        }
        if require == Require::Any && panic.is_none() {
            prop_assert_eq!(decision.state, Gate::Open);
        }
        prop_assert!(!decision.reason.is_empty());
        // Backups and weights never count; none at all is something else.
        let others: Vec<_> = members
            .iter()
            .filter(|member| !member.backup)
            .map(|member| Member { weight: 7, ..*member })
            .collect();
        if !others.is_empty() {
            prop_assert_eq!(gate(&policy(require, panic), &others, None), decision);
        }
    }

    #[test]
    fn one_more_that_is_well_never_makes_it_worse(
        require in require(),
        panic in prop::option::of(1_u8..=100),
        healths in prop::collection::vec(standing(), 1..8),
        index in any::<prop::sample::Index>(),
        before in prop::option::of(prop::sample::select(vec![Gate::Open, Gate::Panic])),
    ) {
        let mut members: Vec<_> = healths.iter().map(|&health| member("b", health)).collect();
        let worse = gate(&policy(require, panic), &members, before);
        members[index.index(healths.len())].health = Standing::Up;
        let better = gate(&policy(require, panic), &members, before);
        prop_assert!(rank(better.state) >= rank(worse.state));
    }
}
