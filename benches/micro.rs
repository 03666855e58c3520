//! What one pick and one count cost: `cargo bench --bench micro`. In `cargo test` each runs once, so that it cannot rot.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use criterion::{Criterion, criterion_group, criterion_main};
use evenkeel_balance::gcra::Limit;
use evenkeel_balance::maglev::{Size, Table};
use evenkeel_balance::{Candidates, Loads, State, WeightSummary, lc, rr, source, wlc, wrr};
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

/// As many connections as a little arithmetic says; none is idle.
impl Loads for All {
    fn active(&self, index: usize) -> u64 {
        1 + (index as u64 * 7) % 5
    }
}

fn board() -> Scoreboard {
    let capacities = Capacities {
        slots: 64,
        services: 16,
        listeners: 16,
        backends: 64,
        sources: 16,
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
        let mut state = State::initial(0);
        c.bench_function(&format!("lc_step_{name}"), |b| {
            b.iter(|| {
                if let Some((index, next)) = lc::step(&candidates, state) {
                    state = next;
                    black_box(index);
                }
            });
        });
        let summary = WeightSummary::of(candidates.weights.iter().copied());
        let mut state = State::initial(0);
        c.bench_function(&format!("wlc_step_{name}"), |b| {
            b.iter(|| {
                if let Some((index, next)) = wlc::step(&candidates, summary, state) {
                    state = next;
                    black_box(index);
                }
            });
        });
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

fn stateless(c: &mut Criterion) {
    for (name, count) in [("4", 4_u64), ("1000", 1_000)] {
        let entries: Vec<(u64, u32)> = (0..count)
            .map(|number| (source::of_bytes(&number.to_le_bytes()), 1))
            .collect();
        let size = Size::of(entries.len());
        let table = Table::build(&entries, size);
        let mut address = 0_u32;
        let mut next = move || {
            address = address.wrapping_add(0x9e37_79b9);
            source::of_address(std::net::Ipv4Addr::from(address).into())
        };
        c.bench_function(&format!("maglev_pick_{name}"), |b| {
            b.iter(|| black_box(table.candidates(next()).next()));
        });
        c.bench_function(&format!("maglev_pick_{name}_half_down"), |b| {
            b.iter(|| black_box(table.candidates(next()).find(|index| index % 2 == 0)));
        });
        c.bench_function(&format!("maglev_build_{name}"), |b| {
            b.iter(|| black_box(Table::build(&entries, size)));
        });
    }
    let limit = Limit::per_second(1_000_000, 100);
    let (mut word, mut now) = (0, 0);
    c.bench_function("gcra_step", |b| {
        b.iter(|| {
            now += 700;
            if let Ok(next) = black_box(limit.step(word, now)) {
                word = next;
            }
        });
    });
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

criterion_group!(benches, schedulers, stateless, cells);
criterion_main!(benches);
