//! What one pick and one count cost: `cargo bench --bench micro`. In `cargo test` each runs once, so that it cannot rot.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use criterion::{Criterion, criterion_group, criterion_main};
use evenkeel_balance::{Candidates, State, WeightSummary, rr, wrr};
use evenkeel_plan::{ServiceCell, SlotIdx};
use evenkeel_scoreboard::{Capacities, GlobalCount, Scoreboard, ServiceCount};

struct All {
    weights: Vec<u32>,
    down: usize,
}

impl Candidates for All {
    fn len(&self) -> usize {
        self.weights.len()
    }

    fn weight(&self, index: usize) -> u32 {
        self.weights[index]
    }

    fn eligible(&self, index: usize) -> bool {
        index >= self.down
    }
}

fn board() -> Scoreboard {
    let capacities = Capacities {
        slots: 64,
        services: 16,
        listeners: 16,
        backends: 64,
    };
    let Ok((board, _)) = Scoreboard::create(capacities) else {
        unreachable!("there is memory for a small scoreboard")
    };
    board.set(GlobalCount::SlotsUsed, 64);
    board
}

fn schedulers(c: &mut Criterion) {
    for (name, count, down) in [
        ("4_all_up", 4, 0),
        ("4_half_down", 4, 2),
        ("1000_all_up", 1_000, 0),
    ] {
        let candidates = All {
            weights: (0..count).map(|i| 1 + i % 5).collect(),
            down,
        };
        let mut state = State::initial(0);
        c.bench_function(&format!("rr_step_{name}"), |b| {
            b.iter(|| {
                if let Some((index, next)) = rr::step(&candidates, state) {
                    state = next;
                    black_box(index);
                }
            });
        });
        let summary = WeightSummary::of(candidates.weights.iter().copied());
        let mut state = State::initial(0);
        c.bench_function(&format!("wrr_step_{name}"), |b| {
            b.iter(|| {
                if let Some((index, next)) = wrr::step(&candidates, summary, state) {
                    state = next;
                    black_box(index);
                }
            });
        });
    }
}

/// A pick as a worker does it: load, step, swap.
fn pick(board: Scoreboard, candidates: &All) {
    let cell = board.scheduler(ServiceCell(0));
    loop {
        let seen = cell.load();
        if let Some((index, next)) = rr::step(candidates, State::from_bits(seen))
            && cell.swap(seen, next.to_bits()).is_ok()
        {
            black_box(index);
            return;
        }
    }
}

fn cells(c: &mut Criterion) {
    let board = board();
    let candidates = Arc::new(All {
        weights: vec![1; 4],
        down: 0,
    });
    c.bench_function("pick_rr_4_alone", |b| b.iter(|| pick(board, &candidates)));
    let stop = Arc::new(AtomicBool::new(false));
    let rival = std::thread::spawn({
        let (stop, candidates) = (Arc::clone(&stop), Arc::clone(&candidates));
        move || {
            while !stop.load(Ordering::Relaxed) {
                pick(board, &candidates);
            }
        }
    });
    c.bench_function("pick_rr_4_contended_by_one", |b| {
        b.iter(|| pick(board, &candidates));
    });
    stop.store(true, Ordering::Relaxed);
    drop(rival.join());
    let row = board.row(SlotIdx(0), 0).service(ServiceCell(0));
    c.bench_function("count_own_cell", |b| {
        b.iter(|| row.add(ServiceCount::BytesSent, black_box(66)));
    });
    c.bench_function("sum_64_slots", |b| {
        b.iter(|| black_box(board.sum_service(ServiceCell(0), ServiceCount::BytesSent)));
    });
    c.bench_function("load_generation", |b| {
        b.iter(|| black_box(board.generation()))
    });
}

criterion_group!(benches, schedulers, cells);
criterion_main!(benches);
