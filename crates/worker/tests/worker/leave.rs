//! The ways out.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use evenkeel_control::child::{Descriptor, FromChild, OrphanRule, ToChild};
use evenkeel_control::reunion;
use evenkeel_scoreboard::ServiceCount;
use evenkeel_sys::listen;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::rig::{Rig, SLOT, Service, any, backend, echoes, greeted, is_reset, run};

async fn one() -> Service {
    Service::new("one", 0)
        .listener(0, any())
        .backend(0, backend(b'a').await)
}

#[test]
fn a_drain_waits_for_what_runs() {
    run(async {
        let mut rig = Rig::serving(&[one().await]).await;
        let address = rig.listener(0);
        let (mut client, _) = greeted(address).await;
        let deadline = Duration::from_secs(20);
        rig.say(ToChild::Drain { deadline }).await;
        echoes(&mut client).await;
        client.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
        assert_eq!(rig.hear().await, FromChild::Drained { cut: 0 });
        assert!(rig.worker.await.unwrap().is_ok());
        // The supervisor still listens: who comes now waits for whom it lets accept next.
        drop(TcpStream::connect(address).await.unwrap());
    });
}

#[test]
fn a_drain_resets_what_its_deadline_finds() {
    run(async {
        let mut rig = Rig::serving(&[one().await]).await;
        let address = rig.listener(0);
        let (mut client, _) = greeted(address).await;
        rig.say(ToChild::Drain {
            deadline: Duration::from_secs(20),
        })
        .await;
        // Another word shortens it.
        rig.say(ToChild::Drain {
            deadline: Duration::from_millis(50),
        })
        .await;
        assert!(is_reset(&mut client).await);
        assert_eq!(rig.hear().await, FromChild::Drained { cut: 1 });
        assert!((&mut rig.worker).await.unwrap().is_ok());
        assert!(rig.is_balanced());
        assert_eq!(rig.of_service(0, ServiceCount::DrainCut), 1);
    });
}

#[test]
fn a_worker_without_work_drains_at_once_even_before_it_has_begun() {
    run(async {
        let mut rig = Rig::new().await;
        let deadline = Duration::from_secs(20);
        rig.say(ToChild::Drain { deadline }).await;
        assert_eq!(rig.hear().await, FromChild::Drained { cut: 0 });
        assert!(rig.worker.await.unwrap().is_ok());
    });
}

#[test]
fn an_orphan_whose_sockets_are_stored_drains() {
    run(async {
        let mut rig = Rig::serving(&[one().await]).await;
        let address = rig.listener(0);
        let (mut client, _) = greeted(address).await;
        rig.channel = None;
        echoes(&mut client).await;
        drop(client);
        assert!((&mut rig.worker).await.unwrap().is_ok());
        assert!(rig.is_balanced());
        assert_eq!(rig.of_service(0, ServiceCount::Relayed), 1);
    });
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the test makes the directory, not the worker"
)]
fn an_orphan_that_serves_on_hands_its_sockets_to_the_next_supervisor() {
    run(async {
        let mut rig = Rig::with(OrphanRule::ServeOn).await;
        rig.reload(&[one().await]).await;
        let address = rig.listener(0);
        let directory = std::env::temp_dir().join(format!("ek-worker-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("reunion.sock");
        let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let socket = OwnedFd::from(socket);
        rig.give(vec![(Descriptor::Reunion, &socket)]).await;
        drop(socket);
        let (mut client, _) = greeted(address).await;
        rig.channel = None;
        // It serves on.
        assert_eq!(greeted(address).await.1, 'a');
        // Somebody who goes away in the middle changes nothing.
        drop(tokio::net::UnixStream::connect(&path).await.unwrap());
        assert_eq!(greeted(address).await.1, 'a');

        let taken = reunion::take(&path).await.unwrap();
        let (handed, socket) = taken.into_iter().next().unwrap();
        assert_eq!((handed.slot, handed.address), (SLOT, address));
        assert!(listen::is_listening(socket.as_fd()));
        let listener = TcpListener::from_std(socket.into()).unwrap();
        let (mine, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        drop((mine.unwrap(), accepted.unwrap()));
        // What ran runs on.
        echoes(&mut client).await;
        client.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
        assert!((&mut rig.worker).await.unwrap().is_ok());
        assert!(rig.is_balanced());
        let refused = reunion::take(&path).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        std::fs::remove_dir_all(&directory).unwrap();
    });
}
