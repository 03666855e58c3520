//! How costs grow: with workers, backends, idle connections and services.

use std::net::SocketAddr;
use std::time::Duration;

use crate::idle::Idle;
use crate::load::Load;
use crate::peers::{Kind, Running, free_port, loopback};
use crate::processes::{cpu_ns, pause, settled, usage};
use crate::results::Results;
use crate::works::Bench;

const MIB: f64 = 1_048_576.0;

const WORKERS: [u32; 3] = [1, 2, 4];
const BACKENDS: [u32; 4] = [3, 50, 500, 5_000];
const IDLE: [u32; 4] = [0, 5_000, 10_000, 15_000];
const SERVICES: [u32; 4] = [100, 1_000, 5_000, 10_000];

/// One whole interval of health checks in the peers' configurations.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Networks of 127/8: backends lie in one, the services of `reload` in another, and where one of them moves to in a third.
const BACKEND_NET: u8 = 1;
const SERVICE_NET: u8 = 2;
const MOVED_NET: u8 = 3;

/// So many backends: one port on different addresses.
pub(crate) fn backends(count: u32, port: u16) -> Vec<SocketAddr> {
    addresses(BACKEND_NET, count, port)
}

/// Rate and CPU with 1, 2 and 4 workers, as far as there are CPUs for them.
pub(crate) fn workers(bench: &Bench, results: &mut Results) {
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get());
    for workers in WORKERS {
        if usize::try_from(workers).unwrap_or(usize::MAX) > cpus {
            results.note(format!(
                "growth-workers: not with {workers} workers, for there are {cpus} CPUs"
            ));
            continue;
        }
        let mut setup = bench.setup(64);
        setup.workers = workers;
        let peers = bench.start_all(&setup, "growth-workers", results);
        let mut run = |series, load| bench.rounds(&peers, series, workers, load, 0, results);
        run("growth-workers-small", Load::SMALL);
        run("growth-workers-connection", Load::CONNECTION);
    }
}

/// CPU of a connection, CPU without any, and time to start, with 3 to 5,000 backends in one service.
pub(crate) fn backends_of_a_service(bench: &Bench, results: &mut Results) {
    for count in BACKENDS {
        let mut setup = bench.setup(64);
        setup.backends = backends(count, bench.backend_port);
        for round in 0..bench.rounds {
            let kinds = bench.kinds(round);
            let start = |kind| {
                setup.listens = vec![([127, 0, 0, 1], free_port()).into()];
                bench.start(kind, &setup)
            };
            let peers: Vec<Running> = kinds.iter().copied().map(start).collect();
            for peer in &peers {
                settled(peer.pid());
            }
            let before: Vec<f64> = peers.iter().map(|peer| cpu_ns(peer.pid())).collect();
            pause(CHECK_INTERVAL);
            let standing: Vec<f64> = peers
                .iter()
                .zip(before)
                .map(|(peer, before)| {
                    (cpu_ns(peer.pid()) - before) / 1e6 / CHECK_INTERVAL.as_secs_f64()
                })
                .collect();
            for ((peer, kind), standing) in peers.iter().zip(kinds).zip(standing) {
                let mut sample = bench.load(peer, Load::CONNECTION, &mut Idle::default());
                sample.insert("standing_ms", standing);
                sample.insert("start_ms", peer.start.as_secs_f64() * 1e3);
                results.add("growth-backends", count, kind, sample);
            }
        }
    }
}

/// Latency and CPU of 64 busy connections beside 0 to 15,000 idle ones.
pub(crate) fn idle(bench: &Bench, results: &mut Results) {
    for count in IDLE {
        let setup = bench.setup(count + 64);
        let peers = bench.start_all(&setup, &format!("growth-idle, {count}"), results);
        bench.rounds(&peers, "growth-idle", count, Load::SMALL, count, results);
    }
}

/// The time of a reload that moves one service to another address, with 100 to 10,000 services.
pub(crate) fn reload(bench: &Bench, results: &mut Results) {
    for count in SERVICES {
        let mut setup = bench.setup(64);
        setup.backends.truncate(1);
        setup.reloadable = true;
        setup.listens = addresses(SERVICE_NET, count, free_port());
        if bench.room(Kind::Evenkeel, &setup).is_err() {
            setup.workers = 1;
            results.note(format!(
                "growth-reload: {count} services with one worker, for descriptors are short"
            ));
        }
        // Each on a port of its own, all at once, so that rounds can be interleaved.
        let mut peers: Vec<(Running, Vec<SocketAddr>)> = bench
            .kinds(0)
            .into_iter()
            .filter(|kind| {
                bench.has_room(*kind, &setup, &format!("growth-reload, {count}"), results)
            })
            .map(|kind| {
                let port = free_port();
                let mut setup = setup.clone();
                setup.listens.iter_mut().for_each(|a| a.set_port(port));
                (bench.start(kind, &setup), setup.listens)
            })
            .collect();
        for round in 0..bench.rounds {
            for kind in bench.kinds(round) {
                let Some((peer, listens)) = peers.iter_mut().find(|(p, _)| p.kind == Some(kind))
                else {
                    continue;
                };
                // The last service, an address that it has not had yet.
                let moved = loopback(
                    MOVED_NET,
                    usize::try_from(round).unwrap_or(0),
                    listens[0].port(),
                );
                if let Some(last) = listens.last_mut() {
                    *last = moved;
                }
                setup.listens.clone_from(listens);
                let took = peer.reload(&setup, moved);
                settled(peer.pid());
                let sample = [
                    ("reload_ms", took.as_secs_f64() * 1e3),
                    ("start_ms", peer.start.as_secs_f64() * 1e3),
                    ("memory_mib", usage(peer.pid()).memory / MIB),
                ];
                results.add("growth-reload", count, kind, sample.into());
            }
        }
    }
}

fn addresses(net: u8, count: u32, port: u16) -> Vec<SocketAddr> {
    (0..usize::try_from(count).unwrap_or(0))
        .map(|index| loopback(net, index, port))
        .collect()
}
