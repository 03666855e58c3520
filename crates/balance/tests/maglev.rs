//! The table of the source hash: agreement, shares, and what moves.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy's exception covers test functions only"
)]

use evenkeel_balance::maglev::{Size, Table};
use evenkeel_balance::source;
use proptest::collection::{hash_set, vec};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_order_of_the_backends_does_not_matter(
        (entries, shuffled) in entries().prop_flat_map(|entries| (Just(entries.clone()), Just(entries).prop_shuffle())),
        hashes in vec(any::<u64>(), 50),
    ) {
        let (table, other) = (Table::build(&entries, Size::Medium), Table::build(&shuffled, Size::Medium));
        for hash in hashes {
            let identities = |table: &Table, entries: &[(u64, u32)]| -> Vec<u64> {
                table.candidates(hash).map(|index| entries[index].0).collect()
            };
            prop_assert_eq!(identities(&table, &entries), identities(&other, &shuffled));
        }
    }

    #[test]
    fn each_comes_exactly_once(entries in entries(), hash: u64) {
        let table = Table::build(&entries, Size::Medium);
        let mut seen: Vec<usize> = table.candidates(hash).collect();
        seen.sort_unstable();
        let expected: Vec<usize> = (0..entries.len()).filter(|&index| entries[index].1 > 0).collect();
        prop_assert_eq!(seen, expected);
    }

    #[test]
    fn weights_are_kept(weights in vec(1..=20_u32, 1..=30), seed: u64) {
        let entries: Vec<(u64, u32)> = (seed..).map(|n| source::of_bytes(&n.to_le_bytes())).zip(weights).collect();
        let size = Size::of(entries.len());
        let total: u32 = entries.iter().map(|&(_, weight)| weight).sum();
        let slots = slots(&entries, size);
        for &(identity, weight) in &entries {
            let has = slots.iter().filter(|&&slot| slot == identity).count() as f64;
            let due = f64::from(size.slots()) * f64::from(weight) / f64::from(total);
            prop_assert!((has - due).abs() <= 1.0 + 0.02 * due, "{has} of {due}");
        }
    }
}

/// One leaves: its own share moves, and of the others' little. Two backends whose orders happen to
/// run alike make exceptions, which the module names; so many services are looked at, the same ones
/// in every run.
#[test]
fn little_moves_when_one_leaves() {
    let mut others_moved: Vec<f64> = (0..200_u64)
        .map(|service| {
            let count = usize::try_from(2 + service % 39).unwrap();
            let seed = service << 32;
            let entries: Vec<(u64, u32)> = (seed..)
                .map(|number| (source::of_bytes(&number.to_le_bytes()), 1))
                .take(count)
                .collect();
            moved(&entries, &entries[1..], Size::of(count), Some(entries[0].0))
        })
        .collect();
    others_moved.sort_by(f64::total_cmp);
    assert!(others_moved[100] <= 0.02, "{others_moved:?}");
    assert!(others_moved[198] <= 0.05, "{others_moved:?}");
}

/// Shares of those who stand in, when a third of the backends is down.
#[test]
fn what_a_dead_one_had_is_spread_over_all() {
    let entries: Vec<(u64, u32)> = numbered(9).collect();
    let table = Table::build(&entries, Size::of(9));
    let mut shares = [0_u32; 9];
    for source in 0..90_000_u32 {
        let hash = source::of_address(std::net::Ipv4Addr::from(source).into());
        let index = table
            .candidates(hash)
            .find(|index| index % 3 != 0)
            .expect("six are up");
        shares[index] += 1;
    }
    for (index, share) in shares.into_iter().enumerate() {
        if index % 3 == 0 {
            assert_eq!(share, 0);
        } else {
            assert!((14_000..16_000).contains(&share), "{shares:?}");
        }
    }
}

/// The largest weight beside the smallest takes no longer, and the small one is not forgotten.
#[test]
fn weights_far_apart() {
    let mut entries: Vec<(u64, u32)> = numbered(1_000).collect();
    entries[0].1 = 65_535;
    let slots = slots(&entries, Size::Large);
    for (identity, _) in &entries[1..] {
        assert_eq!(slots.iter().filter(|&slot| slot == identity).count(), 1);
    }
}

#[test]
fn more_backends_than_slots() {
    let entries: Vec<(u64, u32)> = numbered(9_000).collect();
    let table = Table::build(&entries, Size::Medium);
    assert_eq!(table.candidates(7).count(), 9_000);
}

#[test]
fn nobody() {
    for entries in [&[][..], &[(1, 0), (2, 0)]] {
        let table = Table::build(entries, Size::Medium);
        assert_eq!(table.candidates(7).next(), None);
    }
}

/// A client of a hashed service must find its backend again after an update, and balancers of
/// different versions agree: these values never change.
#[test]
fn golden() {
    let entries: Vec<(u64, u32)> = ["a=192.0.2.1:80", "b=192.0.2.2:80", "c=[2001:db8::1]:80"]
        .iter()
        .map(|name| source::of_bytes(name.as_bytes()))
        .zip([1, 2, 1])
        .collect();
    let table = Table::build(&entries, Size::Medium);
    let sources = [
        "198.51.100.1",
        "198.51.100.2",
        "::ffff:198.51.100.3",
        "2001:db8::7",
        "2001:db8::8",
        "203.0.113.5",
        "203.0.113.77",
        "10.1.2.3",
        "10.9.8.7",
    ];
    let found: Vec<(u64, Vec<usize>)> = sources
        .iter()
        .map(|source| {
            let hash = source::of_address(source.parse().unwrap());
            (hash, table.candidates(hash).collect())
        })
        .collect();
    let expected = [
        (3_047_238_834_555_437_296, vec![1, 2, 0]),
        (1_775_108_392_077_465_156, vec![1, 2, 0]),
        (15_646_539_190_628_799_908, vec![1, 2, 0]),
        (16_568_197_380_459_318_182, vec![1, 2, 0]),
        (9_830_498_571_603_384_802, vec![1, 2, 0]),
        (13_818_057_712_133_462_141, vec![1, 0, 2]),
        (320_162_664_822_362_440, vec![0, 1, 2]),
        (854_628_244_745_667_172, vec![0, 1, 2]),
        (8_195_870_527_425_928_822, vec![1, 2, 0]),
    ];
    assert_eq!(found, expected);
    // All slots, and orders long enough to reach the sweep.
    let many: Vec<(u64, u32)> = numbered(100).collect();
    let table = Table::build(&many, Size::Medium);
    let mut sum = 0;
    for hash in 0..10_000_u64 {
        for index in table.candidates(hash).take(40) {
            sum = source::of_bytes(
                &[
                    u64::to_le_bytes(sum),
                    u64::try_from(index).unwrap().to_le_bytes(),
                ]
                .concat(),
            );
        }
    }
    assert_eq!(sum, 2_170_704_855_059_390_385);
}

/// Prints how much moves; `cargo test -p evenkeel-balance --release -- --ignored --nocapture`.
#[test]
#[ignore = "measures, asserts nothing"]
fn measure_what_moves() {
    for count in [3_usize, 10, 11, 81, 82, 655, 2_000] {
        let entries: Vec<(u64, u32)> = numbered(count).collect();
        let size = Size::of(count);
        let start = std::time::Instant::now();
        let table = Table::build(&entries, size);
        let took = start.elapsed();
        drop(table);
        let worst = (0..count.min(40))
            .map(|victim| {
                let victim = entries[victim];
                let rest: Vec<_> = entries
                    .iter()
                    .copied()
                    .filter(|&entry| entry != victim)
                    .collect();
                moved(&entries, &rest, size, Some(victim.0))
            })
            .fold(0.0, f64::max);
        let mut heavier = entries.clone();
        heavier[0].1 = 2;
        let reweighted = moved(&entries, &heavier, size, None);
        println!(
            "{count} backends, {} slots, built in {took:?}: others moved {:.2} % at most; one at double weight: {:.2} %",
            size.slots(),
            worst * 100.0,
            reweighted * 100.0,
        );
    }
}

fn numbered(count: usize) -> impl Iterator<Item = (u64, u32)> {
    (0..count as u64).map(|number| (source::of_bytes(&number.to_le_bytes()), 1))
}

fn entries() -> impl Strategy<Value = Vec<(u64, u32)>> {
    hash_set(any::<u64>(), 0..60).prop_flat_map(|identities| {
        let identities: Vec<u64> = identities.into_iter().collect();
        vec(0..5_u32, identities.len())
            .prop_map(move |weights| identities.iter().copied().zip(weights).collect())
    })
}

/// The identity in each slot.
fn slots(entries: &[(u64, u32)], size: Size) -> Vec<u64> {
    let table = Table::build(entries, size);
    (0..u64::from(size.slots()))
        .map(|hash| entries[table.candidates(hash).next().unwrap()].0)
        .collect()
}

/// Share of all slots that changed hands and were not those of `gone`.
fn moved(before: &[(u64, u32)], after: &[(u64, u32)], size: Size, gone: Option<u64>) -> f64 {
    let (before, after) = (slots(before, size), slots(after, size));
    let moved = before
        .iter()
        .zip(&after)
        .filter(|&(before, after)| before != after && Some(*before) != gone)
        .count();
    moved as f64 / f64::from(size.slots())
}
