//! Deltas: whatever the two plans are, applying the delta between them gives the second; a delta that was meant for
//! another plan, or was damaged, is refused and changes nothing.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::net::SocketAddr;
use std::sync::Arc;

use evenkeel_plan::{
    BackendCell, BackendName, BackendSpec, Delta, DeltaError, Globals, ListenerCell, ListenerSpec,
    Plan, Sealed, ServiceCell, ServiceName, ServiceRecord, ServiceSpec,
};
use proptest::prelude::*;

fn record(number: u16, weights: &[u16]) -> ServiceRecord {
    let backends = weights.iter().enumerate().map(|(i, &weight)| BackendSpec {
        weight,
        ..BackendSpec::at(
            BackendName::new(format!("b{i}")).unwrap(),
            SocketAddr::from(([10, 0, 0, 1], 1000 + u16::try_from(i).unwrap())).into(),
        )
    });
    let listener = ListenerSpec::at(SocketAddr::from(([127, 0, 0, 1], 2000 + number)));
    ServiceRecord {
        spec: ServiceSpec::new(
            ServiceName::new(format!("s{number}")).unwrap(),
            vec![listener],
            backends.collect(),
        ),
        cell: ServiceCell(u32::from(number)),
        listener_cells: vec![ListenerCell(u32::from(number))],
        backend_cells: (0..weights.len())
            .map(|i| BackendCell(u32::from(number) * 100 + u32::try_from(i).unwrap()))
            .collect(),
        endpoints: vec![Vec::new(); weights.len()],
        list_generation: 1,
    }
}

fn plan(generation: u64, services: &[(u16, Vec<u16>)]) -> Plan {
    let records = services
        .iter()
        .map(|(number, weights)| Arc::new(Sealed::new(record(*number, weights))));
    Plan::new(generation, Globals::default(), records)
}

fn services() -> impl Strategy<Value = Vec<(u16, Vec<u16>)>> {
    proptest::collection::vec((0u16..12, proptest::collection::vec(0u16..5, 1..4)), 0..10)
}

proptest! {
    #[test]
    fn a_delta_makes_the_second_plan_of_the_first(old in services(), new in services()) {
        let old = plan(7, &old);
        let new = plan(9, &new);
        let delta = new.delta_from(&old);
        let wire = Delta::decode(&delta.encode()).unwrap();
        prop_assert_eq!(&wire, &delta);
        prop_assert_eq!(old.apply(wire).unwrap(), new);
    }

    #[test]
    fn damage_is_refused(old in services(), new in services(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let old = plan(7, &old);
        let new = plan(9, &new);
        let mut bytes = new.delta_from(&old).encode();
        let index = at.index(bytes.len());
        bytes[index] ^= 1 << bit;
        // Damage may hit the one field that is not content: the generation that results.
        if let Ok(plan) = Delta::decode(&bytes).and_then(|delta| old.apply(delta)) {
            prop_assert_eq!(plan.digest(), new.digest());
        }
    }
}

#[test]
fn a_delta_carries_only_what_changed() {
    let old = plan(1, &[(1, vec![1]), (2, vec![1]), (3, vec![1])]);
    let new = plan(2, &[(1, vec![1]), (2, vec![2]), (4, vec![1])]);
    let delta = new.delta_from(&old);
    let names: Vec<_> = delta.upserts.iter().map(|r| r.name().as_str()).collect();
    assert_eq!(names, ["s2", "s4"]);
    assert_eq!(delta.removed.len(), 1);
    assert!(new.delta_from(&new).is_empty());
}

#[test]
fn a_delta_for_another_generation_is_refused() {
    let old = plan(1, &[]);
    let delta = plan(3, &[(1, vec![1])]).delta_from(&plan(2, &[]));
    assert!(matches!(
        old.apply(delta),
        Err(DeltaError::From { from: 2, at: 1 })
    ));
}
