//! Descriptors run out: nobody who waits is lost, no backend is blamed. In a process of its own, since the limit is the
//! process's.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![expect(clippy::panic, reason = "a test stops at the first surprise")]
#![expect(dead_code, reason = "this test needs a part of what the others do")]

#[path = "worker/rig.rs"]
mod rig;

use std::net::TcpStream as StdStream;

use evenkeel_scoreboard::{BackendCount, ServiceCount, WorkerCount};
use rig::{Rig, Service, any, backend, eventually, is_reset, run};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// Leaves room for `free` more descriptors. The lowest free numbers are found by taking them.
fn leave_room(free: u64) {
    let lowest: Vec<_> = (0..free)
        .map(|_| rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 0).unwrap())
        .collect();
    let highest = lowest.iter().map(std::os::fd::AsRawFd::as_raw_fd).max();
    let current = highest.map_or(0, |fd| u64::try_from(fd).unwrap() + 1);
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = Some(current);
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
}

fn lift_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = maximum;
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
}

#[test]
fn running_out_of_descriptors_loses_nobody_who_waits_and_blames_no_backend() {
    run(async {
        let service = Service::new("s", 0)
            .listener(0, any())
            .backend(0, backend(b'a').await)
            .backend(1, backend(b'b').await)
            .backend(2, backend(b'c').await);
        let mut rig = Rig::serving(&[service]).await;
        let address = rig.listener(0);
        // The clients' own descriptors are taken before the limit.
        let waiting: Vec<_> = (0..10)
            .map(|_| StdStream::connect(address).unwrap())
            .collect();

        // No room to accept: they wait in the queue, and the worker does not spin.
        leave_room(0);
        eventually(|| rig.of_worker(WorkerCount::AcceptExhausted) >= 3).await;
        assert_eq!(rig.of_worker(WorkerCount::Accepted), 0);
        assert!(rig.of_worker(WorkerCount::AcceptExhausted) < 20);
        lift_limit();
        for client in waiting {
            client.set_nonblocking(true).unwrap();
            let mut client = TcpStream::from_std(client).unwrap();
            client.read_u8().await.unwrap();
        }
        eventually(|| rig.is_balanced()).await;
        assert_eq!(rig.of_service(0, ServiceCount::Relayed), 10);

        // Room to accept, and none to connect: the client is reset, after one other backend was tried.
        let client = StdStream::connect(address).unwrap();
        client.set_nonblocking(true).unwrap();
        let mut client = TcpStream::from_std(client).unwrap();
        leave_room(1);
        assert!(is_reset(&mut client).await);
        lift_limit();
        assert!(rig.is_balanced());
        assert_eq!(rig.of_service(0, ServiceCount::Exhausted), 1);
        assert_eq!(rig.of_service(0, ServiceCount::Retries), 1);
        let blamed = [0, 1, 2].map(|cell| rig.of_backend(cell, BackendCount::ConnectFailures));
        assert_eq!(blamed, [0, 0, 0]);
    });
}
