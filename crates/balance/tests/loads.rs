//! Least connections, plain and weighted: against naive ones, and what they are for.
//!
//! How: `Model` is a list of weights and counts with a mask of who is eligible; it counts how often
//! each is asked for that. A pick is held by counting it, as a worker does after its swap.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy's exception covers test functions only"
)]

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use evenkeel_balance::{Candidates, Loads, State, WeightSummary, lc, wlc, wrr};
use proptest::collection::vec;
use proptest::prelude::*;

const CANDIDATES_MAX: usize = 9;

proptest! {
    #[test]
    fn lc_picks_as_the_naive_one(model in models(0..=3), bits: u64) {
        let state = State::from_bits(bits);
        let naive = from(&model, state)
            .filter(|&index| model.can_pick(index))
            .min_by_key(|&index| model.active[index].get());
        let pick = lc::step(&model, state);
        prop_assert_eq!(pick.map(|(index, _)| index), naive);
        if let Some((index, next)) = pick {
            prop_assert_eq!(next, State { position: position(index), ..state });
        }
        prop_assert!(model.asked_once());
    }

    #[test]
    fn wlc_picks_as_the_naive_one(model in models(0..=3), position in 0..=9_u32, threshold in 0..=12_u32) {
        let summary = model.summary();
        let state = State { tag: 1, threshold, position };
        let idle = Idle(&model);
        let naive = wrr::step(&idle, summary, state).or_else(|| {
            let mut least: Option<usize> = None;
            for index in from(&model, state).filter(|&index| model.can_pick(index)) {
                // Of equal ones the first, so only a smaller one replaces it.
                if least.is_none_or(|least| model.load(index) < model.load(least)) {
                    least = Some(index);
                }
            }
            least.map(|index| (index, State { position: self::position(index), ..state }))
        });
        model.forget();
        prop_assert_eq!(wlc::step(&model, summary, state), naive);
        prop_assert!(model.asked_once());
    }

    #[test]
    fn any_word_and_any_summary_will_do(model in models(0..=2), bits: u64, max: u32, step: u32) {
        let picks = [
            lc::step(&model, State::from_bits(bits)),
            wlc::step(&model, model.summary(), State::from_bits(bits)),
            wlc::step(&model, WeightSummary { max, step }, State::from_bits(bits)),
        ];
        let can_pick = (0..model.len()).any(|index| model.can_pick(index));
        for pick in picks {
            prop_assert_eq!(pick.is_some(), can_pick);
            if let Some((index, next)) = pick {
                prop_assert!(model.can_pick(index));
                prop_assert_eq!(next.position, position(index));
            }
        }
    }

    /// Whatever turn it begins with.
    #[test]
    fn connections_that_stay_are_held_in_exact_proportion(
        weights in vec(1..=12_u32, 1..=CANDIDATES_MAX),
        position in 0..=9_u32,
        threshold in 0..=12_u32,
        times in 1..=3_u32,
    ) {
        let model = Model::new(&weights, &[]);
        let mut state = State { tag: 0, threshold, position };
        for _ in 0..weights.iter().sum::<u32>() * times {
            state = model.hold(wlc::step(&model, model.summary(), state));
        }
        prop_assert_eq!(model.held(), weights.iter().map(|weight| u64::from(weight * times)).collect::<Vec<_>>());
    }

    /// One at a time, so that all are idle at each pick: the shares of `wrr`, in its order.
    #[test]
    fn short_connections_are_shared_out_by_weight(
        weights in vec(0..=6_u32, 1..=CANDIDATES_MAX),
        count in 1..60_usize,
    ) {
        let model = Model::new(&weights, &[]);
        let (mut ours, mut turns) = (State::initial(0), State::initial(0));
        for _ in 0..count {
            let pick = wlc::step(&model, model.summary(), ours);
            prop_assert_eq!(pick, wrr::step(&model, model.summary(), turns));
            let Some((_, next)) = pick else { break };
            (ours, turns) = (next, next);
        }
    }

    /// With connections ending in between, `lc` never holds two more at one than at another that it
    /// could have picked.
    #[test]
    fn lc_levels(count in 2..=CANDIDATES_MAX, picks in 1..80_usize, position in 0..=9_u32) {
        let model = Model::new(&vec![1; count], &[]);
        let mut state = State { tag: 0, threshold: 0, position };
        for _ in 0..picks {
            state = model.hold(lc::step(&model, state));
            let held = model.held();
            prop_assert!(held.iter().max().unwrap() - held.iter().min().unwrap() <= 1, "{held:?}");
        }
    }
}

#[test]
fn four_connections_to_four_idle_ones_give_one_each() {
    for position in 0..=4 {
        let state = State {
            tag: 0,
            threshold: 0,
            position,
        };
        let plain = Model::new(&[1; 4], &[]);
        (0..4).fold(state, |state, _| plain.hold(lc::step(&plain, state)));
        assert_eq!(plain.held(), [1; 4]);
        let weighted = Model::new(&[4, 1, 2, 1], &[]);
        (0..4).fold(state, |state, _| {
            weighted.hold(wlc::step(&weighted, weighted.summary(), state))
        });
        assert_eq!(weighted.held(), [1; 4]);
    }
}

/// Without load the kernel's `lc` sends every connection to the same server.
#[test]
fn idle_ones_take_turns_even_when_connections_end_at_once() {
    let model = Model::new(&[1, 1, 0, 1], &[]);
    let mut state = State::initial(0);
    let mut picked = Vec::new();
    for _ in 0..6 {
        let (index, next) = lc::step(&model, state).unwrap();
        picked.push(index);
        state = next;
    }
    assert_eq!(picked, [0, 1, 3, 0, 1, 3]);
}

/// A worker counts after its swap, so others may not see the count yet. Workers are processes; to
/// the words it makes no difference that these are threads.
#[test]
fn workers_that_pick_at_once_get_different_ones() {
    const WORKERS: usize = 4;
    for round in 0..200_u16 {
        let cell = AtomicU64::new(State::initial(round).to_bits());
        let counts: [AtomicU64; WORKERS] = Default::default();
        thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| {
                    let mut seen = cell.load(Ordering::Relaxed);
                    let index = loop {
                        let (index, next) =
                            lc::step(&Shared(&counts), State::from_bits(seen)).unwrap();
                        match cell.compare_exchange_weak(
                            seen,
                            next.to_bits(),
                            Ordering::Relaxed,
                            Ordering::Relaxed,
                        ) {
                            Ok(_) => break index,
                            Err(now) => seen = now,
                        }
                    };
                    counts[index].fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        assert_eq!(counts.map(AtomicU64::into_inner), [1; WORKERS]);
    }
}

fn position(index: usize) -> u32 {
    u32::try_from(index + 1).unwrap()
}

/// All indices, from the one after the last pick.
fn from(model: &Model, state: State) -> impl Iterator<Item = usize> + use<> {
    let len = model.len();
    let resume = usize::try_from(state.position).unwrap();
    let resume = if resume > len { 0 } else { resume };
    (resume..len).chain(0..resume)
}

fn models(active: std::ops::RangeInclusive<u64>) -> impl Strategy<Value = Model> {
    vec(
        (0..=12_u32, prop::bool::weighted(0.7), active),
        0..=CANDIDATES_MAX,
    )
    .prop_map(|candidates| Model {
        weights: candidates.iter().map(|&(weight, _, _)| weight).collect(),
        eligible: candidates.iter().map(|&(_, up, _)| up).collect(),
        active: candidates
            .iter()
            .map(|&(_, _, count)| Cell::new(count))
            .collect(),
        asked: vec![Cell::new(0); candidates.len()],
    })
}

#[derive(Debug)]
struct Model {
    weights: Vec<u32>,
    eligible: Vec<bool>,
    active: Vec<Cell<u64>>,
    /// How often each was asked whether it is eligible.
    asked: Vec<Cell<usize>>,
}

impl Model {
    fn new(weights: &[u32], down: &[usize]) -> Self {
        Self {
            weights: weights.to_vec(),
            eligible: (0..weights.len())
                .map(|index| !down.contains(&index))
                .collect(),
            active: vec![Cell::new(0); weights.len()],
            asked: vec![Cell::new(0); weights.len()],
        }
    }

    fn summary(&self) -> WeightSummary {
        WeightSummary::of(self.weights.iter().copied())
    }

    fn can_pick(&self, index: usize) -> bool {
        self.weights[index] > 0 && self.eligible[index]
    }

    /// Scaled by a multiple of all weights that are generated, so it is exact.
    fn load(&self, index: usize) -> u64 {
        const MULTIPLE: u64 = 27_720;
        (self.active[index].get() + 1) * MULTIPLE / u64::from(self.weights[index])
    }

    fn hold(&self, pick: Option<(usize, State)>) -> State {
        let (index, next) = pick.unwrap();
        self.active[index].set(self.active[index].get() + 1);
        next
    }

    fn held(&self) -> Vec<u64> {
        self.active.iter().map(Cell::get).collect()
    }

    fn asked_once(&self) -> bool {
        self.asked.iter().all(|asked| asked.get() <= 1)
    }

    fn forget(&self) {
        for asked in &self.asked {
            asked.set(0);
        }
    }
}

impl Candidates for Model {
    fn len(&self) -> usize {
        self.weights.len()
    }

    fn weight(&self, index: usize) -> u32 {
        self.weights[index]
    }

    fn eligible(&self, index: usize) -> bool {
        self.asked[index].set(self.asked[index].get() + 1);
        self.eligible[index]
    }
}

impl Loads for Model {
    fn active(&self, index: usize) -> u64 {
        self.active[index].get()
    }
}

/// Those without connections.
struct Idle<'a>(&'a Model);

impl Candidates for Idle<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn weight(&self, index: usize) -> u32 {
        self.0.weights[index]
    }

    fn eligible(&self, index: usize) -> bool {
        self.0.active[index].get() == 0 && self.0.eligible[index]
    }
}

/// Counts that all workers write.
struct Shared<'a>(&'a [AtomicU64]);

impl Candidates for Shared<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn weight(&self, _index: usize) -> u32 {
        1
    }

    fn eligible(&self, _index: usize) -> bool {
        true
    }
}

impl Loads for Shared<'_> {
    fn active(&self, index: usize) -> u64 {
        self.0[index].load(Ordering::Relaxed)
    }
}
