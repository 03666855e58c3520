//! Keys of cookies come beside the plan: what cookies count for says which key a worker has.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use evenkeel_control::child::{CookieKeys, Descriptor, FromChild, ToChild};
use evenkeel_plan::http::{CookieSpec, HttpSpec, PersistenceSpec};
use evenkeel_plan::{Globals, Plan, Sealed, SecretSource};
use evenkeel_sys::blob;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

use crate::rig::{Rig, Service, any, run};

fn source() -> SecretSource {
    SecretSource::File("/run/key".to_owned())
}

/// `plan` with a cookie in each service.
fn with_cookies(plan: &Plan) -> Plan {
    let cookie = CookieSpec {
        key: Some(source()),
        ..CookieSpec::default()
    };
    let http = HttpSpec {
        persistence: Some(PersistenceSpec::Cookie(cookie)),
        ..HttpSpec::default()
    };
    let http = Arc::new(http);
    let services = plan.services().map(|sealed| {
        let mut record = sealed.record().clone();
        record.spec.http = Some(Arc::clone(&http));
        Arc::new(Sealed::new(record))
    });
    Plan::new(plan.generation, Globals::clone(&plan.globals), services)
}

fn sealed(key: &[u8]) -> OwnedFd {
    let keys = CookieKeys {
        own: Vec::new(),
        values: vec![(source(), key.to_vec())],
    };
    blob::seal("keys", &postcard::to_stdvec(&keys).unwrap()).unwrap()
}

/// What the worker says to `plan` with `keys` beside it.
async fn answer(rig: &mut Rig, plan: &Plan, keys: Option<OwnedFd>) -> FromChild {
    let generation = plan.generation;
    if let Some(keys) = keys {
        let keys = vec![(Descriptor::CookieKeys { generation }, &keys)];
        rig.give(keys).await;
    }
    rig.prepare(plan, &[]).await
}

/// A backend that answers one request a connection.
async fn answering() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(spawn_local(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\na";
            stream.write_all(answer).await.unwrap();
        }
    }));
    address
}

/// The cookie that an answer sets, to a request with that one.
async fn cookie(address: SocketAddr, cookie: &str) -> Option<String> {
    let mut client = TcpStream::connect(address).await.unwrap();
    let request =
        format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nCookie: {cookie}\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let mut fields = answer.lines().filter_map(|line| line.split_once(": "));
    let (_, set) = fields.find(|(name, _)| name.eq_ignore_ascii_case("Set-Cookie"))?;
    set.split(';').next().map(str::to_owned)
}

#[test]
fn a_worker_follows_only_with_the_keys_of_its_cookies() {
    run(async {
        let a = answering().await;
        let service = Service::new("s", 0).listener(0, any()).backend(0, a);
        let mut rig = Rig::serving(std::slice::from_ref(&service)).await;
        let address = rig.listener(0);
        let plan = with_cookies(&rig.plan_of(&[service]));
        let generation = plan.generation;
        let garbage = blob::seal("keys", b"0123456789abcdef").unwrap();
        for (keys, words) in [
            (None, "the key of service `s`'s cookies has not arrived"),
            (Some(sealed(b"0123456789abcde")), "at least 16 bytes"),
            (Some(garbage), "cannot decode the keys of cookies"),
        ] {
            let refused = answer(&mut rig, &plan, keys).await;
            let FromChild::Refused { reason, .. } = &refused else {
                panic!("{refused:?}");
            };
            assert!(
                reason.contains(words) && !reason.contains("0123"),
                "{reason}"
            );
            rig.say(ToChild::Abort { generation }).await;
        }
        let prepared = answer(&mut rig, &plan, Some(sealed(b"0123456789abcdef"))).await;
        assert_eq!(prepared, FromChild::Prepared { generation });
        rig.switch(plan.clone());
        assert_eq!(rig.commit().await, []);
        let first = cookie(address, "").await.unwrap();
        assert_eq!(cookie(address, &first).await, None, "it counts");

        // Another key, and nothing else.
        let services = plan.services().cloned();
        let same = Plan::new(generation + 1, Globals::clone(&plan.globals), services);
        let generation = same.generation;
        let prepared = answer(
            &mut rig,
            &same,
            Some(sealed(b"another key of 27 bytes ...")),
        );
        assert_eq!(prepared.await, FromChild::Prepared { generation });
        rig.switch(same);
        assert_eq!(rig.commit().await, []);
        let second = cookie(address, &first).await.unwrap();
        assert_ne!(first, second);
        assert_eq!(cookie(address, &second).await, None, "it counts");
    });
}
