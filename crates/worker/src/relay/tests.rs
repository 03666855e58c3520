//! Parked relays on real sockets, with the sweep's time made by the test.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use evenkeel_plan::{BackendCell, ServiceCell};
use evenkeel_scoreboard::{BackendCount, ServiceCount, WorkerCount};
use evenkeel_sys::stream::reset_on_close;
use tokio::task::LocalSet;

use super::*;
use crate::connection::tests::{open, worker};
use crate::connections::{Chosen, IDLE_TICKS, TICK_MS};
use crate::plan::Listener;

struct Rig {
    worker: Rc<Worker>,
    listener: Rc<Listener>,
    now_ms: std::cell::Cell<u64>,
}

/// The outer ends of a relay.
struct Outer {
    client: TcpStream,
    backend: TcpStream,
}

fn run(test: impl AsyncFnOnce(Rig)) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        let (worker, listener) = worker().await;
        let waking = spawn_local(wake_parked(Rc::clone(&worker)));
        let now_ms = std::cell::Cell::new(10_000);
        worker.connections.sweep(now_ms.get());
        let rig = Rig {
            worker,
            listener,
            now_ms,
        };
        let within = tokio::time::timeout(Duration::from_secs(20), test(rig));
        within.await.unwrap();
        waking.abort();
    });
}

impl Rig {
    fn relay(&self) -> Outer {
        let (client, inner_client) = pair();
        let (backend, inner_backend) = pair();
        let connection = open(&self.worker, &self.listener);
        let (number, backend_cell) = (connection.number(), BackendCell(0));
        let chosen = Chosen {
            backend: backend_cell,
            down_since: None,
        };
        let connections = &self.worker.connections;
        connections.relaying(number, inner_client.token(), chosen);
        let relaying = Relaying::new(connection, inner_client, inner_backend);
        let task = spawn_local(relay(relaying));
        connections.running(number, task.abort_handle());
        Outer { client, backend }
    }

    /// A relay that is parked, after a byte each way.
    async fn parked(&self) -> Outer {
        let before = self.worker.connections.parked();
        let mut outer = self.relay();
        self.echo(&mut outer).await;
        self.park(before + 1).await;
        outer
    }

    /// Lets time pass and the relays park.
    async fn park(&self, count: usize) {
        self.pass(u64::from(IDLE_TICKS + 1) * TICK_MS);
        self.eventually(|| self.worker.connections.parked() == count)
            .await;
    }

    /// In ticks, as the heartbeat does.
    fn pass(&self, ms: u64) {
        for _ in 0..ms / TICK_MS {
            self.now_ms.set(self.now_ms.get() + TICK_MS);
            self.worker.connections.sweep(self.now_ms.get());
        }
    }

    async fn eventually(&self, condition: impl Fn() -> bool) {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn echo(&self, outer: &mut Outer) {
        let row = self.worker.row.service(ServiceCell(0));
        let (up, down) = (
            row.get(ServiceCount::BytesReceived),
            row.get(ServiceCount::BytesSent),
        );
        outer.client.write_all(b"u").unwrap();
        self.eventually(|| row.get(ServiceCount::BytesReceived) == up + 1)
            .await;
        outer.backend.read_exact(&mut [0]).unwrap();
        outer.backend.write_all(b"d").unwrap();
        self.eventually(|| row.get(ServiceCount::BytesSent) == down + 1)
            .await;
        outer.client.read_exact(&mut [0]).unwrap();
    }

    fn count(&self, count: ServiceCount) -> u64 {
        self.worker.row.service(ServiceCell(0)).get(count)
    }

    fn is_empty(&self) -> bool {
        let backend = self.worker.row.backend(BackendCell(0));
        self.worker.connections.count() == 0
            && self.worker.connections.parked() == 0
            && self.count(ServiceCount::Active) == 0
            && backend.get(BackendCount::Active) == 0
            && self.worker.row.worker().get(WorkerCount::Active) == 0
    }
}

/// The outer end, which blocks, and ours.
fn pair() -> (TcpStream, Stream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let outer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (inner, _) = listener.accept().unwrap();
    inner.set_nonblocking(true).unwrap();
    reset_on_close(&inner).unwrap();
    (outer, Stream::new(inner.into()).unwrap())
}

fn is_reset(stream: &mut TcpStream) -> bool {
    let result = stream.read(&mut [0]);
    result.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

#[test]
fn a_parked_relay_is_active_in_the_books_and_goes_on_with_the_next_byte_of_either_side() {
    run(async |rig| {
        let mut outer = rig.parked().await;
        assert_eq!(rig.worker.connections.count(), 1);
        assert_eq!(rig.count(ServiceCount::Active), 1);
        for round in 0..3 {
            if round == 1 {
                // The backend speaks first this time.
                let sent = rig.count(ServiceCount::BytesSent);
                outer.backend.write_all(b"d").unwrap();
                rig.eventually(|| rig.count(ServiceCount::BytesSent) == sent + 1)
                    .await;
                outer.client.read_exact(&mut [0]).unwrap();
            }
            rig.echo(&mut outer).await;
            assert_eq!(rig.worker.connections.parked(), 0);
            rig.park(1).await;
        }
        drop(outer);
        rig.eventually(|| rig.is_empty()).await;
        assert_eq!(rig.count(ServiceCount::Relayed), 1);
        assert_eq!(rig.count(ServiceCount::BytesReceived), 4);
        assert_eq!(rig.count(ServiceCount::BytesSent), 5);
    });
}

#[test]
fn a_parked_relay_passes_an_end_on_and_is_parked_again_half_closed() {
    run(async |rig| {
        let mut outer = rig.parked().await;
        outer.client.shutdown(Shutdown::Write).unwrap();
        rig.eventually(|| rig.worker.connections.parked() == 0)
            .await;
        assert_eq!(outer.backend.read(&mut [0]).unwrap(), 0);
        rig.park(1).await;
        // What comes after hours still arrives.
        outer.backend.write_all(b"late").unwrap();
        rig.eventually(|| rig.worker.connections.parked() == 0)
            .await;
        let mut seen = [0; 4];
        outer.client.read_exact(&mut seen).unwrap();
        assert_eq!(&seen, b"late");
        rig.park(1).await;
        outer.backend.shutdown(Shutdown::Write).unwrap();
        rig.eventually(|| rig.is_empty()).await;
        assert_eq!(outer.client.read(&mut seen).unwrap(), 0);
        assert_eq!(rig.count(ServiceCount::Relayed), 1);
        assert_eq!(rig.count(ServiceCount::ClientResets), 0);
    });
}

#[test]
fn a_reset_of_either_side_of_a_parked_relay_is_passed_on_and_counted() {
    run(async |rig| {
        let outer = rig.parked().await;
        let (client, mut backend) = (outer.client, outer.backend);
        reset_on_close(&client).unwrap();
        drop(client);
        rig.eventually(|| rig.is_empty()).await;
        assert!(is_reset(&mut backend));
        assert_eq!(rig.count(ServiceCount::ClientResets), 1);

        let outer = rig.parked().await;
        let (mut client, backend) = (outer.client, outer.backend);
        reset_on_close(&backend).unwrap();
        drop(backend);
        rig.eventually(|| rig.is_empty()).await;
        assert!(is_reset(&mut client));
        let row = rig.worker.row.backend(BackendCell(0));
        assert_eq!(row.get(BackendCount::Resets), 1);
    });
}

#[test]
fn what_is_cut_or_lost_while_it_is_parked_is_reset_and_counted_as_such() {
    run(async |rig| {
        let mut lost = rig.parked().await;
        let other = |chosen: Chosen| chosen.backend == BackendCell(1);
        assert_eq!(rig.worker.connections.lose(other), 0);
        assert_eq!(
            rig.worker
                .connections
                .lose(|chosen| chosen.backend == BackendCell(0)),
            1
        );
        assert!(is_reset(&mut lost.client) && is_reset(&mut lost.backend));
        assert!(rig.is_empty());
        assert_eq!(rig.count(ServiceCount::DownReset), 1);

        let mut parked = rig.parked().await;
        let mut active = rig.relay();
        rig.echo(&mut active).await;
        rig.worker.connections.cut();
        rig.worker.connections.ended().await;
        for outer in [&mut parked, &mut active] {
            assert!(is_reset(&mut outer.client) && is_reset(&mut outer.backend));
        }
        assert!(rig.is_empty());
        assert_eq!(rig.count(ServiceCount::DrainCut), 2);
    });
}

#[test]
fn what_stirs_in_the_very_turn_in_which_it_is_cut_ends_once() {
    run(async |rig| {
        let mut outers = Vec::new();
        for _ in 0..3 {
            outers.push(rig.parked().await);
        }
        for outer in &mut outers {
            outer.client.write_all(b"x").unwrap();
        }
        rig.worker.connections.cut();
        rig.worker.connections.ended().await;
        tokio::task::yield_now().await;
        assert!(rig.is_empty());
        assert_eq!(rig.count(ServiceCount::DrainCut), 3);
    });
}

#[test]
fn only_an_idle_relay_without_bytes_is_parked() {
    run(async |rig| {
        let mut outer = rig.relay();
        rig.echo(&mut outer).await;
        rig.pass(u64::from(IDLE_TICKS - 1) * TICK_MS);
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(rig.worker.connections.parked(), 0);
        // Bytes begin its time anew.
        rig.echo(&mut outer).await;
        rig.pass(TICK_MS);
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(rig.worker.connections.parked(), 0);

        // A backend that does not read: one buffer is held.
        outer.client.set_nonblocking(true).unwrap();
        let chunk = vec![0; 1 << 20];
        rig.eventually(|| {
            let filled = (&outer.client).write(&chunk);
            filled.is_err() && evenkeel_net::buffer::held() == 1
        })
        .await;
        rig.pass(u64::from(IDLE_TICKS) * TICK_MS);
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(rig.worker.connections.parked(), 0);
        drop(outer);
        rig.eventually(|| rig.is_empty()).await;
    });
}
