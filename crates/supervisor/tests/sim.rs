//! The supervisor's machine in a simulated world, from a seed.
//!
//! Each seed runs about a minute of simulated time with crashes, hangs, starvation, pauses of the whole machine, silent and
//! slow children and storms of reloads; then either the faults end and everything must be as wanted again within a bounded
//! time, or the daemon is told to stop in the middle of them. What must hold is checked after each step (`sim/check.rs`), and
//! each action before it is carried out (`sim/perform.rs`).
//!
//! A failing seed is printed with the last events. `EVENKEEL_SIM_SEED=n` replays one, `EVENKEEL_SIM_SEEDS=n` runs as many.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "sim/check.rs"]
mod check;
#[path = "sim/perform.rs"]
mod perform;
#[path = "sim/rng.rs"]
mod rng;
#[path = "sim/world.rs"]
mod world;

use world::World;

/// Start deadline, longest back-off, a reload that waits for both of its deadlines, a drain, one after the other; and room.
const SETTLED_AFTER: u64 = 45_000;

/// Longest drain delay and deadline of the world's settings, slack for workers that do not end, the monitor's end and slack;
/// and the longest lateness of the supervisor, with room for ticks and for kills to take effect.
const STOPPED_AFTER: u64 = 1_000 + 3_000 + 2_000 + 1_000 + 2_000 + 4_000 + 2_000;

#[test]
fn whatever_happens_the_promises_hold() {
    let number = |name: &str| -> Option<u64> {
        let text = std::env::var(name).ok()?;
        Some(text.parse().expect("a number"))
    };
    let seeds = match number("EVENKEEL_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("EVENKEEL_SIM_SEEDS").unwrap_or(400),
    };
    let mut accepted = 0;
    for seed in seeds {
        accepted += simulate(seed);
    }
    // The world has clients, and somebody accepts them.
    assert!(accepted > 0);
}

fn simulate(seed: u64) -> u64 {
    let mut run = Run {
        seed,
        world: World::new(seed),
    };
    let world = &mut run.world;
    world.begin();
    let faults = world.rng.between(5_000, 60_000);
    world.run(faults);
    if world.rng.percent(60) {
        world.faults = false;
        // Whoever answers to nothing any more is found out by the next reload.
        world.request_reload();
        world.run(world.now + SETTLED_AFTER);
        world.check_settled();
    }
    if world.rng.percent(10) {
        world.request_reload();
        world.run(world.now + 100);
    }
    let told = world.unpaused();
    world.terminate();
    if world.rng.percent(20) {
        let until = world.now + world.rng.below(3_000);
        world.run(until);
        if !world.exited {
            world.terminate();
            assert!(world.exited, "the second one ends at once");
        }
    }
    // On the clock with pauses: a few of them fit in.
    for _ in 0..600 {
        if world.exited {
            break;
        }
        world.run(world.now + 100);
    }
    assert!(world.exited, "the daemon does not end");
    let took = world.unpaused() - told;
    assert!(took <= STOPPED_AFTER, "the end took {took} ms");
    world.accepted
}

/// Says which seed it was when an assertion fails.
struct Run {
    seed: u64,
    world: World,
}

impl Drop for Run {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "{}\nfailed: replay with EVENKEEL_SIM_SEED={}",
                self.world.tail(),
                self.seed
            );
        }
    }
}
