//! Fairness, bounds and the shared word, over generated lists.
//!
//! How: `Model` is a list of weights with a mask of who is eligible, and counts what a step asks.
//! `naive` holds the schedulers as the kernel writes them, walking pass by pass; ours must pick the
//! same and arrive at the same state.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy's exception covers test functions only"
)]

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use evenkeel_balance::{Candidates, State, WeightSummary, rr, wrr};
use proptest::collection::vec;
use proptest::prelude::*;

const CANDIDATES_MAX: usize = 9;

proptest! {
    #[test]
    fn state_survives_its_word(bits: u64) {
        let state = State::from_bits(bits);
        prop_assert_eq!(state.to_bits(), bits);
        prop_assert_eq!(State::from_bits(state.to_bits()), state);
    }

    #[test]
    fn any_word_is_a_state_to_go_on_from(
        (weights, eligible) in list(0..=65535),
        bits: u64,
        max: u32,
        step: u32,
    ) {
        let model = Model::new(weights, eligible);
        let summaries = [model.summary(), WeightSummary { max, step }];
        let state = State::from_bits(bits);
        let picks = [
            rr::step(&model, state),
            wrr::step(&model, summaries[0], state),
            wrr::step(&model, summaries[1], state),
        ];
        for pick in picks {
            prop_assert_eq!(pick.is_some(), model.pickable().count() > 0);
            if let Some((index, next)) = pick {
                prop_assert!(model.can_pick(index));
                prop_assert_eq!(next.tag, state.tag);
                prop_assert_eq!(usize::try_from(next.position), Ok(index + 1));
            }
        }
    }

    #[test]
    fn a_step_looks_at_each_candidate_twice_at_most(
        (weights, eligible) in list(0..=65535),
        position in 0..=9_u32,
    ) {
        let model = Model::new(weights, eligible);
        let summary = model.summary();
        // The highest threshold leaves the most passes to jump over.
        let threshold = summary.max;
        let _ = wrr::step(&model, summary, State { tag: 0, threshold, position });
        prop_assert!(model.asked.take() <= 2 * model.len());
        let _ = rr::step(&model, State { tag: 0, threshold, position });
        prop_assert!(model.asked.take() <= model.len());
    }

    #[test]
    fn rr_shares_differ_by_one_at_most(
        (weights, eligible) in list(0..=3),
        position in 0..=9_u32,
        count in 1..60_usize,
    ) {
        let model = Model::new(weights, eligible);
        let mut state = State { tag: 0, threshold: 0, position };
        let mut shares = vec![0; model.len()];
        for _ in 0..count {
            let Some((index, next)) = rr::step(&model, state) else { break };
            shares[index] += 1;
            state = next;
        }
        let least = model.pickable().map(|index| shares[index]).min();
        let most = model.pickable().map(|index| shares[index]).max();
        prop_assert!(most.unwrap_or(0) <= least.unwrap_or(0) + 1, "{shares:?}");
    }

    /// With some down as well: the others then divide all picks among themselves in proportion.
    #[test]
    fn wrr_shares_are_exact_over_whole_cycles(
        (weights, eligible) in list(0..=12),
        factor in 1..=5_u32,
        position in 0..=9_u32,
        threshold in 0..=60_u32,
        cycles in 1..=3_usize,
    ) {
        let weights = weights.iter().map(|weight| weight * factor).collect();
        let model = Model::new(weights, eligible);
        let summary = model.summary();
        let turns = |index: usize| {
            if model.can_pick(index) {
                usize::try_from(model.weights[index] / summary.step).unwrap() * cycles
            } else {
                0
            }
        };
        let mut state = State { tag: 0, threshold, position };
        let mut shares = vec![0; model.len()];
        for _ in 0..(0..model.len()).map(turns).sum() {
            let (index, next) = wrr::step(&model, summary, state).unwrap();
            shares[index] += 1;
            state = next;
        }
        prop_assert_eq!(shares, (0..model.len()).map(turns).collect::<Vec<_>>());
    }

    #[test]
    fn rr_picks_as_the_naive_one(
        weights in vec(0..=2_u32, 0..=CANDIDATES_MAX),
        masks in vec(vec(any::<bool>(), CANDIDATES_MAX), 1..40),
    ) {
        let mut state = State::initial(3);
        for mask in masks {
            let model = Model::new(weights.clone(), mask);
            let pick = rr::step(&model, state);
            prop_assert_eq!(pick, naive::rr(&model, state));
            state = pick.map_or(state, |(_, next)| next);
        }
    }

    /// Eligibility changes with every pick.
    #[test]
    fn wrr_picks_as_the_naive_one(
        weights in vec(0..=12_u32, 0..=CANDIDATES_MAX),
        factor in 1..=5_u32,
        masks in vec(vec(any::<bool>(), CANDIDATES_MAX), 1..60),
    ) {
        let weights: Vec<_> = weights.iter().map(|weight| weight * factor).collect();
        compare_wrr(&weights, masks)?;
    }

    #[test]
    fn rr_carry_as_one_change_after_the_other(
        old in Just((0..12_u64).collect::<Vec<_>>()).prop_shuffle(),
        kept in vec(any::<bool>(), 12),
        added in vec(0..=8_usize, 0..6),
        position in 0..=12_u32,
    ) {
        // The kernel's way: a pointer at an element, moved only when that one is deleted.
        let mut list = old.clone();
        let mut pointer = position.checked_sub(1).map(|index| old[usize::try_from(index).unwrap()]);
        for identity in old.iter().copied().filter(|&identity| !kept[usize::try_from(identity).unwrap()]) {
            let at = list.iter().position(|&candidate| candidate == identity).unwrap();
            list.remove(at);
            if pointer == Some(identity) {
                pointer = at.checked_sub(1).map(|before| list[before]);
            }
        }
        for (identity, at) in (100..).zip(added) {
            list.insert(at.min(list.len()), identity);
        }
        let expected = pointer
            .and_then(|identity| list.iter().position(|&candidate| candidate == identity))
            .map_or(0, |index| u32::try_from(index + 1).unwrap());

        let state = rr::carry(&old, &list, State { tag: 1, threshold: 5, position }, 2);
        prop_assert_eq!(state, State { tag: 2, threshold: 5, position: expected });
    }
}

proptest! {
    // The naive one walks up to 65535 passes a pick.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn wrr_with_huge_weights_picks_as_the_naive_one(
        weights in vec(prop_oneof![0..=3_u32, 0..=65535_u32, Just(65535)], 1..=4_usize),
        masks in vec(vec(any::<bool>(), CANDIDATES_MAX), 1..8),
    ) {
        compare_wrr(&weights, masks)?;
    }
}

/// Four equal ones, one dead: the others get a third each, its neighbour no more than they.
#[test]
fn a_dead_ones_share_is_spread() {
    let model = Model::new(vec![1; 4], vec![true, false, true, true]);
    let mut rr_state = State::initial(0);
    let mut wrr_state = State::initial(0);
    let (mut rr_shares, mut wrr_shares) = ([0; 4], [0; 4]);
    for _ in 0..300 {
        let (index, next) = rr::step(&model, rr_state).unwrap();
        rr_shares[index] += 1;
        rr_state = next;
        let (index, next) = wrr::step(&model, model.summary(), wrr_state).unwrap();
        wrr_shares[index] += 1;
        wrr_state = next;
    }
    assert_eq!(rr_shares, [100, 0, 100, 100]);
    assert_eq!(wrr_shares, [100, 0, 100, 100]);
}

#[test]
fn the_heavy_one_down_costs_no_passes() {
    let model = Model::new(vec![65535, 1], vec![false, true]);
    let summary = model.summary();
    let mut state = State {
        tag: 0,
        threshold: 65535,
        position: 0,
    };
    for _ in 0..10 {
        let (index, next) = wrr::step(&model, summary, state).unwrap();
        assert_eq!((index, next.threshold), (1, 1));
        assert!(model.asked.take() <= 4);
        state = next;
    }
}

#[test]
fn nobody_to_pick() {
    let lists = [
        (vec![], vec![]),
        (vec![0, 0], vec![true, true]),
        (vec![5, 3], vec![false, false]),
        (vec![0, 3], vec![true, false]),
    ];
    for (weights, eligible) in lists {
        let model = Model::new(weights, eligible);
        assert_eq!(rr::step(&model, State::initial(0)), None);
        assert_eq!(wrr::step(&model, model.summary(), State::initial(0)), None);
    }
}

/// Workers are processes; to the word it makes no difference that these are threads.
#[test]
fn workers_on_one_word_give_exact_shares() {
    const WORKERS: usize = 4;
    const CYCLES: usize = 2_000;
    let weights = [5, 3, 0, 2, 1];
    let summary = WeightSummary::of(weights);

    let by_weight = share_out(WORKERS, 11 * CYCLES, weights, |model, state| {
        wrr::step(model, summary, state)
    });
    assert_eq!(
        by_weight,
        [5, 3, 0, 2, 1].map(|turns| turns * CYCLES * WORKERS)
    );

    let in_turn = share_out(WORKERS, 4 * CYCLES, weights, |model, state| {
        rr::step(model, state)
    });
    assert_eq!(
        in_turn,
        [1, 1, 0, 1, 1].map(|turns| turns * CYCLES * WORKERS)
    );
}

/// Lets each of `workers` pick `count` times from one word; returns the sums per candidate.
fn share_out(
    workers: usize,
    count: usize,
    weights: [u32; 5],
    step: impl Fn(&Model, State) -> Option<(usize, State)> + Sync,
) -> [usize; 5] {
    let cell = AtomicU64::new(State::initial(9).to_bits());
    let work = || {
        let model = Model::new(weights.to_vec(), vec![true; 5]);
        let mut shares = [0; 5];
        for _ in 0..count {
            let mut seen = cell.load(Ordering::Relaxed);
            loop {
                let (index, next) = step(&model, State::from_bits(seen)).unwrap();
                match cell.compare_exchange_weak(
                    seen,
                    next.to_bits(),
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                ) {
                    Ok(_) => {
                        shares[index] += 1;
                        break;
                    }
                    Err(now) => seen = now,
                }
            }
        }
        shares
    };
    thread::scope(|scope| {
        let running: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let mut sums = [0; 5];
        for worker in running {
            for (sum, share) in sums.iter_mut().zip(worker.join().unwrap()) {
                *sum += share;
            }
        }
        sums
    })
}

fn compare_wrr(weights: &[u32], masks: Vec<Vec<bool>>) -> Result<(), TestCaseError> {
    let summary = WeightSummary::of(weights.iter().copied());
    let mut state = State::initial(3);
    for mask in masks {
        let model = Model::new(weights.to_vec(), mask);
        let pick = wrr::step(&model, summary, state);
        prop_assert_eq!(pick, naive::wrr(&model, summary, state));
        state = pick.map_or(state, |(_, next)| next);
    }
    Ok(())
}

fn list(weights: std::ops::RangeInclusive<u32>) -> impl Strategy<Value = (Vec<u32>, Vec<bool>)> {
    vec((weights, prop::bool::weighted(0.7)), 0..=CANDIDATES_MAX)
        .prop_map(|candidates| candidates.into_iter().unzip())
}

struct Model {
    weights: Vec<u32>,
    eligible: Vec<bool>,
    /// How often a weight was asked for.
    asked: Cell<usize>,
}

impl Model {
    /// `eligible` may be longer than `weights`; the rest of it is not looked at.
    fn new(weights: Vec<u32>, eligible: Vec<bool>) -> Self {
        Self {
            weights,
            eligible,
            asked: Cell::new(0),
        }
    }

    fn summary(&self) -> WeightSummary {
        WeightSummary::of(self.weights.iter().copied())
    }

    fn can_pick(&self, index: usize) -> bool {
        self.weights[index] > 0 && self.eligible[index]
    }

    fn pickable(&self) -> impl Iterator<Item = usize> {
        (0..self.weights.len()).filter(|&index| self.can_pick(index))
    }
}

impl Candidates for Model {
    fn len(&self) -> usize {
        self.weights.len()
    }

    fn weight(&self, index: usize) -> u32 {
        self.asked.set(self.asked.get() + 1);
        self.weights[index]
    }

    fn eligible(&self, index: usize) -> bool {
        self.eligible[index]
    }
}

/// The schedulers as the kernel writes them; `ineligible` stands where it has `overloaded`.
mod naive {
    use super::{Model, State, WeightSummary};

    pub(super) fn rr(model: &Model, state: State) -> Option<(usize, State)> {
        let len = model.weights.len();
        let mut index = usize::try_from(state.position).unwrap();
        for _ in 0..len {
            if index >= len {
                index = 0;
            }
            if model.can_pick(index) {
                let position = u32::try_from(index + 1).unwrap();
                return Some((index, State { position, ..state }));
            }
            index += 1;
        }
        None
    }

    pub(super) fn wrr(
        model: &Model,
        summary: WeightSummary,
        state: State,
    ) -> Option<(usize, State)> {
        let decrease = i64::from(summary.step);
        let highest = i64::from(summary.max) - (decrease - 1);
        if highest == 0 {
            return None;
        }
        // The kernel never has 0 here; the first server added has made it 1.
        let mut threshold = i64::from(state.threshold).max(1);
        let last = usize::try_from(state.position).unwrap();
        let mut stop = None;
        let (mut last_pass, mut restarted) = (false, false);
        let mut index = last;
        loop {
            while index < model.weights.len() {
                if model.eligible[index] && i64::from(model.weights[index]) >= threshold {
                    let picked = State {
                        tag: state.tag,
                        threshold: u32::try_from(threshold).unwrap(),
                        position: u32::try_from(index + 1).unwrap(),
                    };
                    return Some((index, picked));
                }
                index += 1;
                if stop == Some(index) {
                    return None;
                }
            }
            index = 0;
            threshold -= decrease;
            if threshold <= 0 {
                threshold = highest;
                if last_pass || last == 0 {
                    return None;
                }
                restarted = true;
            }
            last_pass = threshold <= decrease;
            if last_pass && restarted && last != 0 {
                stop = Some(last);
            }
        }
    }
}
