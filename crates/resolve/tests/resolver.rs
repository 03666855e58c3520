//! A resolver, and a name server on loopback that says what the test tells it to. Waits have deadlines.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use evenkeel_plan::{Address, ENDPOINTS_MAX, ResolveSpec};
use evenkeel_resolve::{Files, LookUp, PACE, Resolver, Sink};
use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::{Instant, timeout};

const PATIENCE: Duration = Duration::from_secs(10);

/// What the server says to a question.
#[derive(Clone, Debug)]
enum Say {
    /// These, with this lifetime in seconds.
    Records(Vec<RData>, u32),
    Code(ResponseCode),
    Silence,
}

type Script = Arc<Mutex<HashMap<(String, RecordType), Say>>>;

/// A name server over UDP and TCP. What is not in its script has no records.
struct Server {
    address: SocketAddr,
    script: Script,
    asked: Arc<Mutex<Vec<(Instant, String, RecordType)>>>,
}

impl Server {
    async fn start() -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let udp = UdpSocket::bind(address).await.unwrap();
        let server = Self {
            address,
            script: Arc::default(),
            asked: Arc::default(),
        };
        let (script, asked) = (Arc::clone(&server.script), Arc::clone(&server.asked));
        tokio::task::spawn_local(async move {
            let mut buffer = [0; 2_048];
            loop {
                let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
                let request = Message::from_vec(&buffer[..length]).unwrap();
                let query = &request.queries[0];
                let seen = (Instant::now(), host(query.name()), query.query_type());
                asked.lock().unwrap().push(seen);
                let Some(mut answer) = answer(&request, &script) else {
                    continue;
                };
                if answer.to_vec().unwrap().len() > 512 {
                    answer.answers.clear();
                    answer.metadata.truncation = true;
                }
                udp.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
            }
        });
        let script = Arc::clone(&server.script);
        tokio::task::spawn_local(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let script = Arc::clone(&script);
                tokio::task::spawn_local(async move {
                    while let Ok(length) = stream.read_u16().await {
                        let mut request = vec![0; length.into()];
                        stream.read_exact(&mut request).await.unwrap();
                        let request = Message::from_vec(&request).unwrap();
                        let Some(answer) = answer(&request, &script) else {
                            continue;
                        };
                        let answer = answer.to_vec().unwrap();
                        let length = u16::try_from(answer.len()).unwrap();
                        stream.write_u16(length).await.unwrap();
                        stream.write_all(&answer).await.unwrap();
                    }
                });
            }
        });
        server
    }

    fn say(&self, name: &str, kind: RecordType, say: Say) {
        let mut script = self.script.lock().unwrap();
        script.insert((name.to_owned(), kind), say);
    }

    /// The addresses of a name, with this lifetime in seconds.
    fn addresses(&self, name: &str, addresses: &[&str], ttl: u32) {
        let addresses = addresses.iter().map(|text| text.parse().unwrap());
        let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = addresses.partition(IpAddr::is_ipv4);
        let records = |of: Vec<IpAddr>| of.into_iter().map(RData::from).collect();
        self.say(name, RecordType::A, Say::Records(records(v4), ttl));
        self.say(name, RecordType::AAAA, Say::Records(records(v6), ttl));
    }

    fn both(&self, name: &str, say: Say) {
        self.say(name, RecordType::A, say.clone());
        self.say(name, RecordType::AAAA, say);
    }

    /// When `name` was asked for.
    fn asked(&self, name: &str, kind: RecordType) -> Vec<Instant> {
        let asked = self.asked.lock().unwrap();
        let same = asked.iter().filter(|(_, n, k)| n == name && *k == kind);
        same.map(|(at, ..)| *at).collect()
    }

    fn spec(&self) -> ResolveSpec {
        ResolveSpec {
            servers: vec![self.address],
            timeout: Duration::from_millis(300),
            retry: Duration::from_millis(100),
            ..ResolveSpec::default()
        }
    }
}

fn host(name: &Name) -> String {
    name.to_utf8().trim_end_matches('.').to_owned()
}

fn answer(request: &Message, script: &Script) -> Option<Message> {
    let query = request.queries[0].clone();
    let mut answer = Message::response(request.metadata.id, request.metadata.op_code);
    answer.metadata.message_type = MessageType::Response;
    answer.metadata.recursion_desired = true;
    answer.metadata.recursion_available = true;
    let key = (host(query.name()), query.query_type());
    match script.lock().unwrap().get(&key).cloned() {
        Some(Say::Records(data, ttl)) => {
            let record = |data| Record::from_rdata(query.name().clone(), ttl, data);
            answer.add_answers(data.into_iter().map(record));
        }
        Some(Say::Code(code)) => answer.metadata.response_code = code,
        Some(Say::Silence) => return None,
        None => {}
    }
    answer.add_query(query);
    Some(answer)
}

/// What the sink was told.
#[derive(Debug, Default)]
struct Told {
    resolved: Vec<(Address, Vec<SocketAddr>)>,
    looked_up: usize,
    /// Failures that were news, and ends of failing.
    news: Vec<Option<String>>,
}

#[derive(Clone, Debug, Default)]
struct Ear(Rc<RefCell<Told>>);

impl Sink for Ear {
    fn resolved(&self, address: &Address, endpoints: &[SocketAddr]) {
        let mut told = self.0.borrow_mut();
        told.resolved.push((address.clone(), endpoints.to_vec()));
    }

    fn looked_up(&self, _: &Address, ended: LookUp<'_>) {
        let mut told = self.0.borrow_mut();
        told.looked_up += 1;
        if ended.is_news {
            told.news.push(ended.failure.map(str::to_owned));
        }
    }
}

impl Ear {
    async fn until(&self, what: &str, found: impl Fn(&Told) -> bool) {
        let wait = async {
            let mut turns = tokio::time::interval(Duration::from_millis(2));
            while !found(&self.0.borrow()) {
                turns.tick().await;
            }
        };
        let waited = timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "{what}: {:?}", self.0.borrow());
    }

    /// Waits for the `count`th change and returns its endpoints.
    async fn change(&self, count: usize) -> Vec<SocketAddr> {
        self.until("a change", |told| told.resolved.len() >= count)
            .await;
        let told = self.0.borrow();
        assert_eq!(told.resolved.len(), count, "{told:?}");
        told.resolved[count - 1].1.clone()
    }

    async fn more(&self, count: usize) {
        let before = self.0.borrow().looked_up;
        self.until("look-ups", |told| told.looked_up >= before + count)
            .await;
    }
}

fn name(host: &str) -> Address {
    Address::Name {
        host: host.to_owned(),
        port: 5984,
    }
}

fn endpoints(addresses: &[&str]) -> Vec<SocketAddr> {
    let parse = |text: &&str| text.parse().unwrap();
    addresses.iter().map(parse).collect()
}

fn no_files() -> Files {
    Files {
        resolv_conf: "/nonexistent/resolv.conf".into(),
        hosts: "/nonexistent/hosts".into(),
    }
}

fn follow(spec: &ResolveSpec, address: Address) -> (Resolver<Ear>, Ear) {
    let ear = Ear::default();
    let mut resolver = Resolver::new(ear.clone(), no_files());
    resolver.apply(spec, [address]);
    (resolver, ear)
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let limited = async { timeout(3 * PATIENCE, test).await.unwrap() };
    tokio::task::LocalSet::new().block_on(&runtime, limited);
}

#[test]
fn both_families_are_found_and_a_change_is_noticed() {
    run(async {
        let server = Server::start().await;
        server.addresses(
            "db.test",
            &["10.0.0.3", "10.0.0.2", "10.0.0.2", "fd00::1"],
            0,
        );
        let (resolver, ear) = follow(&server.spec(), name("db.test"));
        let first = endpoints(&["10.0.0.2:5984", "10.0.0.3:5984", "[fd00::1]:5984"]);
        assert_eq!(ear.change(1).await, first);
        let words = resolver.words(&name("db.test"));
        let begin = "db.test = 10.0.0.2, 10.0.0.3, fd00::1; resolved 0 s ago, again in 1 s";
        assert_eq!(words, begin);
        // The same in another order is no change; a lifetime of nothing is the floor.
        server.addresses("db.test", &["fd00::1", "10.0.0.2", "10.0.0.3"], 0);
        ear.more(1).await;
        server.addresses("db.test", &["10.0.0.9"], 0);
        assert_eq!(ear.change(2).await, endpoints(&["10.0.0.9:5984"]));
        assert_eq!(
            resolver.endpoints(&name("db.test")),
            endpoints(&["10.0.0.9:5984"])
        );
        let asked = server.asked("db.test", RecordType::A);
        assert!(
            asked
                .windows(2)
                .all(|two| two[1] - two[0] > PACE.mul_f64(0.9))
        );
        assert_eq!(ear.0.borrow().news, []);
    });
}

#[test]
fn a_service_name_stands_for_the_ports_and_addresses_of_its_first_choice() {
    run(async {
        let server = Server::start().await;
        let target = |priority, port, host: &str| {
            RData::SRV(SRV::new(priority, 1, port, Name::from_utf8(host).unwrap()))
        };
        let targets = vec![
            target(1, 5985, "b.test."),
            target(1, 5984, "a.test."),
            target(2, 1, "c.test."),
        ];
        server.say("_db._tcp.test", RecordType::SRV, Say::Records(targets, 60));
        server.addresses("a.test", &["10.0.0.1"], 60);
        server.addresses("b.test", &["10.0.0.2", "fd00::2"], 0);
        server.addresses("c.test", &["10.0.0.3"], 60);
        let address = Address::Service {
            name: "_db._tcp.test".to_owned(),
        };
        let (resolver, ear) = follow(&server.spec(), address.clone());
        let first = endpoints(&["10.0.0.1:5984", "10.0.0.2:5985", "[fd00::2]:5985"]);
        assert_eq!(ear.change(1).await, first);
        // A target that fails keeps its addresses; the shortest lifetime counts.
        server.both("a.test", Say::Code(ResponseCode::ServFail));
        server.addresses("b.test", &["10.0.0.4"], 0);
        let second = endpoints(&["10.0.0.1:5984", "10.0.0.4:5985"]);
        assert_eq!(ear.change(2).await, second);
        assert!(resolver.words(&address).contains(" = 10.0.0.1:5984, "));
    });
}

#[test]
fn the_last_good_answer_outlives_every_kind_of_failure() {
    run(async {
        let server = Server::start().await;
        server.both("db.test", Say::Silence);
        let (resolver, ear) = follow(&server.spec(), name("db.test"));
        let nth = |count: usize| move |told: &Told| told.news.len() >= count;
        ear.until("silence is noticed", nth(1)).await;
        server.addresses("db.test", &["10.0.0.1"], 0);
        assert_eq!(ear.change(1).await, endpoints(&["10.0.0.1:5984"]));
        server.both("db.test", Say::Code(ResponseCode::NXDomain));
        ear.until("it is gone", nth(3)).await;
        // The same again is no news.
        ear.more(1).await;
        server.both("db.test", Say::Code(ResponseCode::ServFail));
        ear.until("the server fails", nth(4)).await;
        server.addresses("db.test", &[], 0);
        ear.until("it is empty", nth(5)).await;
        server.addresses("db.test", &["10.0.0.1"], 0);
        ear.until("it is well again", nth(6)).await;
        let told = ear.0.borrow();
        assert_eq!(told.resolved.len(), 1, "never taken away, never told twice");
        let news: Vec<_> = told.news.iter().map(Option::as_deref).collect();
        let expected = [
            Some("timeout"),
            None,
            Some("there is no such name (NXDOMAIN)"),
            Some("the name server failed (SERVFAIL)"),
            Some("no addresses"),
            None,
        ];
        assert_eq!(news, expected);
        let words = resolver.words(&name("db.test"));
        assert!(
            words.starts_with("db.test = 10.0.0.1; resolved 0 s ago"),
            "{words}"
        );
        assert!(words.contains("; last failure: no addresses, "), "{words}");
    });
}

#[test]
fn a_thousand_addresses_come_over_tcp_and_are_cut() {
    run(async {
        let server = Server::start().await;
        let many: Vec<_> = (0..1_000)
            .map(|n| format!("10.0.{}.{}", n / 250, n % 250))
            .collect();
        let many: Vec<_> = many.iter().map(String::as_str).rev().collect();
        server.addresses("db.test", &many, 60);
        let (_resolver, ear) = follow(&server.spec(), name("db.test"));
        let found = ear.change(1).await;
        assert_eq!(found.len(), ENDPOINTS_MAX);
        assert_eq!(found[0], "10.0.0.0:5984".parse().unwrap());
        assert!(found.is_sorted());
    });
}

#[test]
fn it_asks_again_when_told_to_and_not_more_than_once_a_second() {
    run(async {
        let server = Server::start().await;
        server.addresses("db.test", &["10.0.0.1"], 3_600);
        let (resolver, ear) = follow(&server.spec(), name("db.test"));
        ear.change(1).await;
        server.addresses("db.test", &["10.0.0.2"], 3_600);
        let begun = Instant::now();
        let mut turns = tokio::time::interval(Duration::from_millis(10));
        while ear.0.borrow().resolved.len() < 2 {
            turns.tick().await;
            resolver.again(&name("db.test"));
            assert!(begun.elapsed() < PATIENCE);
        }
        ear.more(1).await;
        let asked = server.asked("db.test", RecordType::A);
        assert!(
            asked
                .windows(2)
                .all(|two| two[1] - two[0] > PACE.mul_f64(0.9)),
            "{asked:?}"
        );
        resolver.again(&name("other.test"));
    });
}

#[test]
fn what_was_known_before_is_not_told_again() {
    run(async {
        let server = Server::start().await;
        server.addresses("db.test", &["10.0.0.1"], 0);
        let ear = Ear::default();
        let mut resolver = Resolver::new(ear.clone(), no_files());
        resolver.seed(name("db.test"), endpoints(&["10.0.0.1:5984"]));
        resolver.apply(
            &server.spec(),
            [name("db.test"), endpoints(&["10.0.0.5:1"])[0].into()],
        );
        assert_eq!(
            resolver.endpoints(&name("db.test")),
            endpoints(&["10.0.0.1:5984"])
        );
        ear.more(1).await;
        assert_eq!(ear.0.borrow().resolved, []);
        // No longer followed, it is no longer asked for.
        resolver.apply(&server.spec(), [name("other.test")]);
        let asked = server.asked("db.test", RecordType::A).len();
        ear.more(3).await;
        assert_eq!(server.asked("db.test", RecordType::A).len(), asked);
        assert_eq!(resolver.words(&name("db.test")), "");
    });
}

#[test]
fn files_are_honoured_and_read_again() {
    run(async {
        let dir = std::env::temp_dir().join(format!("evenkeel-resolve-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let files = Files {
            resolv_conf: dir.join("resolv.conf"),
            hosts: dir.join("hosts"),
        };
        std::fs::write(&files.hosts, "10.1.0.1 db.test\n").unwrap();
        let ear = Ear::default();
        let mut resolver = Resolver::new(ear.clone(), files.clone());
        // Neither needs a name server, and there is none.
        let spec = ResolveSpec {
            timeout: Duration::from_millis(300),
            ..ResolveSpec::default()
        };
        resolver.apply(&spec, [name("db.test")]);
        assert_eq!(ear.change(1).await, endpoints(&["10.1.0.1:5984"]));
        resolver.apply(&spec, [name("db.test"), name("localhost")]);
        assert_eq!(
            ear.change(2).await,
            endpoints(&["127.0.0.1:5984", "[::1]:5984"])
        );
        std::fs::write(&files.hosts, "10.1.0.2 db.test\n").unwrap();
        assert_eq!(ear.change(3).await, endpoints(&["10.1.0.2:5984"]));
        std::fs::remove_dir_all(&dir).unwrap();
    });
}
