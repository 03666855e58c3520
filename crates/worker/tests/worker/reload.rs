//! From one plan to the next.

use std::net::TcpStream as StdStream;
use std::os::fd::AsFd as _;

use evenkeel_control::child::{Descriptor, FromChild, ToChild};
use evenkeel_plan::{BackendCell, ListenerCell, SlotIdx};
use evenkeel_scoreboard::{ServiceCount, WorkerCount};
use evenkeel_sys::listen;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::rig::{Rig, Service, any, backend, echoes, eventually, greeted, listening, run};

#[test]
fn the_generation_cell_alone_switches_a_prepared_worker() {
    run(async {
        let (a, b) = (backend(b'a').await, backend(b'b').await);
        let before = Service::new("s", 0).listener(0, any()).backend(0, a);
        let after = Service::new("s", 0)
            .listener(0, any())
            .backend(1, b)
            .list_generation(2);
        let mut rig = Rig::serving(&[before]).await;
        let address = rig.listener(0);
        let plan = rig.plan_of(&[after]);
        let answer = rig.prepare(&plan, &[]).await;
        assert_eq!(answer, FromChild::Prepared { generation: 2 });
        assert_eq!(greeted(address).await.1, 'a');
        rig.switch(plan);
        assert_eq!(greeted(address).await.1, 'b');
        assert_eq!(rig.commit().await, []);
        assert_eq!(greeted(address).await.1, 'b');
    });
}

#[test]
fn who_waits_in_the_queue_of_a_removed_listener_is_served() {
    run(async {
        let a = backend(b'a').await;
        let keeps = Service::new("keeps", 0).listener(0, any()).backend(0, a);
        let goes = Service::new("goes", 1).listener(1, any()).backend(1, a);
        let mut rig = Rig::serving(&[keeps.clone(), goes]).await;
        let address = rig.listener(1);
        let plan = rig.plan_of(&[keeps]);
        let answer = rig.prepare(&plan, &[]).await;
        assert_eq!(answer, FromChild::Prepared { generation: 2 });
        rig.switch(plan);
        // The worker does not run between these.
        let waiting: Vec<_> = (0..50)
            .map(|_| StdStream::connect(address).unwrap())
            .collect();
        let lingering = rig.commit().await;
        assert_eq!(lingering, [BackendCell(1)]);
        rig.close(1);
        for client in waiting {
            client.set_nonblocking(true).unwrap();
            let mut client = TcpStream::from_std(client).unwrap();
            assert_eq!(client.read_u8().await.unwrap(), b'a');
            echoes(&mut client).await;
        }
        assert!(StdStream::connect(address).is_err());
        let released = rig.hear().await;
        assert!(
            matches!(&released, FromChild::Released { cells } if *cells == [BackendCell(1)]),
            "{released:?}"
        );
        eventually(|| rig.is_balanced()).await;
        assert_eq!(rig.of_service(1, ServiceCount::Relayed), 50);
    });
}

#[test]
fn a_removed_backend_lingers_until_its_last_connection_has_ended() {
    run(async {
        let (a, b) = (backend(b'a').await, backend(b'b').await);
        let both = Service::new("s", 0)
            .listener(0, any())
            .backend(0, a)
            .backend(1, b);
        let one = Service::new("s", 0)
            .listener(0, any())
            .backend(1, b)
            .list_generation(2);
        let mut rig = Rig::serving(std::slice::from_ref(&both)).await;
        let address = rig.listener(0);
        let (mut client, letter) = greeted(address).await;
        assert_eq!(letter, 'a');
        assert_eq!(rig.reload(&[one]).await, [BackendCell(0)]);
        echoes(&mut client).await;
        // Named again: nobody waits for it any more, and the connection is still its own.
        assert_eq!(rig.reload(&[both.list_generation(3)]).await, []);
        echoes(&mut client).await;
        let one = Service::new("s", 0)
            .listener(0, any())
            .backend(1, b)
            .list_generation(4);
        assert_eq!(rig.reload(&[one]).await, [BackendCell(0)]);
        client.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
        let cells = vec![BackendCell(0)];
        assert_eq!(rig.hear().await, FromChild::Released { cells });
        assert!(rig.is_balanced());
    });
}

#[test]
fn a_listener_that_moves_to_another_service_keeps_its_socket() {
    run(async {
        let (a, b) = (backend(b'a').await, backend(b'b').await);
        let old = Service::new("old", 0).listener(0, any()).backend(0, a);
        let new = Service::new("new", 1).listener(0, any()).backend(1, b);
        let mut rig = Rig::serving(&[old]).await;
        let address = rig.listener(0);
        assert_eq!(greeted(address).await.1, 'a');
        rig.reload(&[new]).await;
        assert_eq!(greeted(address).await.1, 'b');
        assert_eq!(rig.of_service(1, ServiceCount::Accepted), 1);
    });
}

#[test]
fn a_plan_without_its_socket_is_refused_and_the_next_one_is_not() {
    run(async {
        let a = backend(b'a').await;
        let one = Service::new("one", 0).listener(0, any()).backend(0, a);
        let two = Service::new("two", 1).listener(1, any()).backend(1, a);
        let mut rig = Rig::serving(std::slice::from_ref(&one)).await;
        let plan = rig.plan_of(&[one.clone(), two.clone()]);
        let answer = rig.prepare(&plan, &[1]).await;
        assert!(
            matches!(&answer, FromChild::Refused { generation: 2, reason } if reason.contains("socket")),
            "{answer:?}"
        );
        rig.say(ToChild::Abort { generation: 2 }).await;
        // Prepared and taken back, again and again, then for good.
        for _ in 0..3 {
            let plan = rig.plan_of(&[one.clone(), two.clone()]);
            let generation = plan.generation;
            let answer = rig.prepare(&plan, &[]).await;
            assert_eq!(answer, FromChild::Prepared { generation });
            rig.say(ToChild::Abort { generation }).await;
        }
        rig.reload(&[one, two]).await;
        let (first, second) = (rig.listener(0), rig.listener(1));
        assert_eq!(greeted(first).await.1, 'a');
        assert_eq!(greeted(second).await.1, 'a');
    });
}

#[test]
fn what_does_not_decode_is_refused_and_traffic_goes_on() {
    run(async {
        let a = backend(b'a').await;
        let one = Service::new("one", 0).listener(0, any()).backend(0, a);
        let mut rig = Rig::serving(std::slice::from_ref(&one)).await;
        let garbage = evenkeel_sys::blob::seal("plan", b"garbage").unwrap();
        let delta = Descriptor::Delta { generation: 9 };
        rig.give(vec![(delta, &garbage)]).await;
        for generation in [9, 10] {
            rig.say(ToChild::Prepare { generation }).await;
            let answer = rig.hear().await;
            assert!(
                matches!(&answer, FromChild::Refused { generation: of, .. } if *of == generation),
                "{answer:?}"
            );
        }
        let beyond = Service::new("beyond", 99).listener(1, any()).backend(1, a);
        let plan = rig.plan_of(&[one, beyond]);
        let answer = rig.prepare(&plan, &[]).await;
        assert!(matches!(answer, FromChild::Refused { generation: 2, .. }));
        let address = rig.listener(0);
        assert_eq!(greeted(address).await.1, 'a');
    });
}

#[test]
fn a_hundred_reloads_lose_nobody_and_leave_nothing_behind() {
    run(async {
        let backends = [backend(b'a').await, backend(b'b').await];
        let service = |round: u32| {
            Service::new("s", 0)
                .listener(0, any())
                .backend(round % 7, backends[round as usize % 2])
                .list_generation(u64::from(round) + 1)
        };
        let mut rig = Rig::serving(&[service(0)]).await;
        let address = rig.listener(0);
        for round in 1..100 {
            let next = [service(round)];
            let ((mut client, _), lingering) = tokio::join!(greeted(address), rig.reload(&next));
            echoes(&mut client).await;
            drop(client);
            // The client may have been given to the backend that goes.
            if !lingering.is_empty() {
                let released = FromChild::Released { cells: lingering };
                assert_eq!(rig.hear().await, released);
            }
            eventually(|| rig.is_balanced()).await;
        }
        assert_eq!(rig.of_service(0, ServiceCount::Relayed), 99);
    });
}

#[test]
fn another_slots_socket_is_adopted_and_given_back() {
    run(async {
        let a = backend(b'a').await;
        let one = Service::new("one", 0).listener(0, any()).backend(0, a);
        let mut rig = Rig::serving(std::slice::from_ref(&one)).await;
        // An address of its own, so that the kernel does not choose between the slots.
        let (socket, address) = listening(any());
        let slot = SlotIdx(3);
        let descriptor = Descriptor::Listener {
            listener: ListenerCell(0),
            slot,
            address,
        };
        let waits = StdStream::connect(address).unwrap();
        rig.give(vec![(descriptor.clone(), &socket)]).await;
        rig.say(ToChild::Adopt { slot }).await;
        waits.set_nonblocking(true).unwrap();
        let mut waits = TcpStream::from_std(waits).unwrap();
        assert_eq!(waits.read_u8().await.unwrap(), b'a');
        assert_eq!(greeted(address).await.1, 'a');
        assert_eq!(rig.of_worker(WorkerCount::Adopted), 2);
        assert_eq!(rig.of_worker(WorkerCount::Accepted), 2);

        // Given back: who waits is served, who comes later waits for somebody else.
        let late: Vec<_> = (0..10)
            .map(|_| StdStream::connect(address).unwrap())
            .collect();
        rig.say(ToChild::Disown { slot }).await;
        assert_eq!(rig.hear().await, FromChild::Disowned { slot });
        assert_eq!(rig.of_worker(WorkerCount::Adopted), 12);
        drop(late);
        let _later = StdStream::connect(address).unwrap();
        let own = rig.listener(0);
        assert_eq!(greeted(own).await.1, 'a');
        assert_eq!(listen::queued(socket.as_fd()).unwrap(), 1);

        // Adopted again, and then no plan names the listener.
        rig.give(vec![(descriptor, &socket)]).await;
        rig.say(ToChild::Adopt { slot }).await;
        eventually(|| rig.of_worker(WorkerCount::Adopted) == 13).await;
        let other = Service::new("other", 1).listener(1, any()).backend(1, a);
        rig.reload(&[other]).await;
        drop(socket);
        assert!(StdStream::connect(address).is_err());
    });
}
