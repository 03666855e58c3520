//! How long a scrape takes, by number of backends. `cargo bench -p evenkeel-metrics` times it up to 16,000 backends of 4,000
//! services; run as a test it makes one small scrape.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench prints its figures and stops at the first surprise"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use evenkeel_plan::{
    Address, BackendCell, BackendName, BackendSpec, Globals, ListenerCell, ListenerSpec, Plan,
    Sealed, ServiceCell, ServiceName, ServiceRecord, ServiceSpec, SlotIdx,
};
use evenkeel_scoreboard::{BackendCount, Capacities, GlobalCount, Latency, Scoreboard};

/// Of each size, the median counts.
const ROUNDS: usize = 5;

const BACKENDS_A_SERVICE: u32 = 4;

const SLOTS: u16 = 2;

fn main() {
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let sizes: &[u32] = if is_bench {
        &[1_000, 4_000, 16_000]
    } else {
        &[16]
    };
    for &backends in sizes {
        let (board, plan) = filled(backends);
        let mut times = Vec::new();
        let mut bytes = 0;
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            bytes = black_box(evenkeel_metrics::scrape(&board, &plan, 100_000)).len();
            times.push(begun.elapsed());
        }
        println!(
            "scrape_{backends}_backends: {:?}, {bytes} bytes",
            median(times)
        );
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn filled(backends: u32) -> (Scoreboard, Plan) {
    let services = backends / BACKENDS_A_SERVICE;
    let (board, _fd) = Scoreboard::create(Capacities {
        slots: SLOTS,
        services,
        listeners: services,
        backends,
        sources: 4,
    })
    .unwrap();
    board.set(GlobalCount::SlotsUsed, u64::from(SLOTS));
    for slot in 0..SLOTS {
        let row = board.row(SlotIdx(slot), 0);
        for cell in 0..backends {
            let backend = row.backend(BackendCell(cell));
            backend.set(BackendCount::Connections, 1_000_003 * u64::from(cell));
            backend.set(BackendCount::BytesSent, 1_000_000_007 * u64::from(cell));
        }
        for cell in 0..services {
            let row = row.latencies(ServiceCell(cell));
            for latency in Latency::ALL {
                (0..20).for_each(|step| row.observe(latency, 1 << step));
            }
        }
    }
    let records = (0..services).map(|cell| Arc::new(Sealed::new(record(cell))));
    (board, Plan::new(1, Globals::default(), records))
}

fn record(cell: u32) -> ServiceRecord {
    let cells = cell * BACKENDS_A_SERVICE..(cell + 1) * BACKENDS_A_SERVICE;
    let backend = |cell: u32| {
        let name = BackendName::new(format!("backend-{cell}")).unwrap();
        BackendSpec::at(name, Address::Socket("192.0.2.1:80".parse().unwrap()))
    };
    let address = format!("192.0.2.1:{}", cell + 1).parse().unwrap();
    ServiceRecord {
        spec: ServiceSpec::new(
            ServiceName::new(format!("service-{cell}")).unwrap(),
            vec![ListenerSpec::at(address)],
            cells.clone().map(backend).collect(),
        ),
        cell: ServiceCell(cell),
        listener_cells: vec![ListenerCell(cell)],
        backend_cells: cells.map(BackendCell).collect(),
        endpoints: vec![Vec::new(); BACKENDS_A_SERVICE as usize],
        list_generation: 1,
    }
}
