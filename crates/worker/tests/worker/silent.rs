//! Clients that have sent nothing, where a backend is connected to only then, over reloads.

use std::net::SocketAddr;

use evenkeel_control::child::FromChild;
use evenkeel_plan::{BackendCell, ConnectOn};
use evenkeel_scoreboard::{ServiceCount, WorkerCount};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::rig::{Rig, Service, any, backend, eventually, is_reset, run};

const SILENT: usize = 100;

fn waiting(name: &'static str, cell: u32) -> Service {
    let mut service = Service::new(name, cell);
    service.connect.on = ConnectOn::Data;
    service
}

/// `count` clients that the worker has accepted and that say nothing.
async fn silent(rig: &Rig, address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let accepted = rig.of_worker(WorkerCount::Accepted) + count as u64;
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(TcpStream::connect(address).await.unwrap());
    }
    eventually(|| rig.of_worker(WorkerCount::Accepted) == accepted).await;
    clients
}

async fn are_parked(rig: &Rig, count: usize) {
    eventually(|| rig.of_worker(WorkerCount::Parked) == count as u64).await;
}

/// Who answers the client when it speaks.
async fn answered(client: &mut TcpStream) -> char {
    client.write_all(b"hello").await.unwrap();
    let mut seen = [0; 6];
    client.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen[1..], b"hello");
    char::from(seen[0])
}

/// Waits until the worker has let go of `lingering`.
async fn are_released(rig: &mut Rig, lingering: Vec<BackendCell>) {
    if !lingering.is_empty() {
        let released = FromChild::Released { cells: lingering };
        assert_eq!(rig.hear().await, released);
    }
}

#[test]
fn parked_clients_hold_no_backend_over_any_number_of_reloads() {
    run(async {
        let backends = [backend(b'a').await, backend(b'b').await];
        let round = |round: u32| {
            let cell = round % 2;
            waiting("s", 0)
                .listener(0, any())
                .backend(cell, backends[cell as usize])
                .list_generation(u64::from(round) + 1)
        };
        let mut rig = Rig::serving(&[round(0)]).await;
        let address = rig.listener(0);
        let mut clients = silent(&rig, address, SILENT).await;
        // Who is not parked yet holds what it came for until it is.
        let lingering = rig.reload(&[round(1)]).await;
        are_released(&mut rig, lingering).await;
        are_parked(&rig, SILENT).await;
        for next in 2..=51 {
            assert_eq!(rig.reload(&[round(next)]).await, [], "reload {next}");
        }
        assert_eq!(rig.of_worker(WorkerCount::Active), SILENT as u64);
        assert_eq!(rig.of_service(0, ServiceCount::Active), SILENT as u64);
        for client in &mut clients {
            assert_eq!(answered(client).await, 'b');
        }
        drop(clients);
        eventually(|| rig.is_balanced()).await;
        assert_eq!(rig.of_service(0, ServiceCount::Relayed), SILENT as u64);
    });
}

#[test]
fn parked_clients_of_a_removed_service_end_and_no_others() {
    run(async {
        let (a, b) = (backend(b'a').await, backend(b'b').await);
        let keeps = waiting("keeps", 0).listener(0, any()).backend(0, a);
        let goes = waiting("goes", 1).listener(1, any()).backend(1, b);
        let mut rig = Rig::serving(&[keeps.clone(), goes]).await;
        let (kept, gone) = (rig.listener(0), rig.listener(1));
        let mut others = silent(&rig, kept, 10).await;
        let mut clients = silent(&rig, gone, SILENT).await;
        are_parked(&rig, SILENT + 10).await;
        let lingering = rig.reload(&[keeps]).await;
        are_released(&mut rig, lingering).await;
        for client in &mut clients {
            assert!(is_reset(client).await);
        }
        assert_eq!(rig.of_service(1, ServiceCount::Active), 0);
        assert_eq!(rig.of_service(1, ServiceCount::Closed), SILENT as u64);
        are_parked(&rig, 10).await;
        for client in &mut others {
            assert_eq!(answered(client).await, 'a');
        }
        drop(others);
        eventually(|| rig.is_balanced()).await;
        assert_eq!(rig.of_service(0, ServiceCount::Relayed), 10);
    });
}

#[test]
fn a_client_that_has_not_been_parked_ends_with_its_service_when_it_stays_silent() {
    run(async {
        let a = backend(b'a').await;
        let keeps = Service::new("keeps", 0).listener(0, any()).backend(0, a);
        let goes = waiting("goes", 1).listener(1, any()).backend(1, a);
        let mut rig = Rig::serving(&[keeps.clone(), goes]).await;
        let gone = rig.listener(1);
        let plan = rig.plan_of(&[keeps]);
        let answer = rig.prepare(&plan, &[]).await;
        assert_eq!(answer, FromChild::Prepared { generation: 2 });
        let mut clients = silent(&rig, gone, 2).await;
        rig.switch(plan);
        // The worker does not run between these.
        let mut speaks = clients.pop().unwrap();
        speaks.write_all(b"hello").await.unwrap();
        let lingering = rig.commit().await;
        assert_eq!(speaks.read_u8().await.unwrap(), b'a');
        drop(speaks);
        assert!(is_reset(&mut clients[0]).await);
        are_released(&mut rig, lingering).await;
        eventually(|| rig.is_balanced()).await;
        assert_eq!(rig.of_service(1, ServiceCount::Relayed), 1);
        assert_eq!(rig.of_service(1, ServiceCount::Closed), 1);
    });
}

#[test]
fn without_its_listener_a_parked_client_is_served_for_as_long_as_there_is_its_service() {
    run(async {
        let (a, b) = (backend(b'a').await, backend(b'b').await);
        let one = waiting("s", 0).listener(0, any());
        let both = one.clone().listener(1, any()).backend(0, a);
        let one = one.backend(1, b).list_generation(2);
        let other = Service::new("other", 1).listener(2, any()).backend(2, a);
        let mut rig = Rig::serving(&[both]).await;
        let address = rig.listener(1);
        let mut clients = silent(&rig, address, 2).await;
        are_parked(&rig, 2).await;
        assert_eq!(rig.reload(&[one]).await, []);
        let mut speaks = clients.pop().unwrap();
        assert_eq!(answered(&mut speaks).await, 'b');
        drop(speaks);
        eventually(|| rig.of_service(0, ServiceCount::Relayed) == 1).await;
        let lingering = rig.reload(&[other]).await;
        assert!(is_reset(&mut clients[0]).await);
        are_released(&mut rig, lingering).await;
        eventually(|| rig.is_balanced()).await;
        assert_eq!(rig.of_service(0, ServiceCount::Closed), 1);
    });
}
