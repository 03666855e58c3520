//! `source = "client"`: backends see the clients' own addresses, between hosts that the tests make themselves.
//!
//! ```text
//!            10.1.0.0/24             10.2.1.0/24   b1 10.2.1.2 and fd02:1::2
//!   client --------------- balancer --------------
//!   .2, .3  fd01::/64   .1          .1 ----------- b2 10.2.2.2 and fd02:2::2
//!                                    10.2.2.0/24
//! ```
//!
//! The backends' default route leads through the balancer, and `deploy/transparent-routes` is run as it is shipped.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use evenkeel_control::operator::Answer;
use evenkeel_testkit::client::{connect_from, read_line, read_to_end};
use evenkeel_testkit::{
    Backend, Daemon, Failure, Mode, Namespace, Serving, Signal, eventually, one_shot, proc,
    throughout,
};

use crate::{PROGRAM, SOON, alone, assert_balanced, backend, file, skipped};

const CLIENTS: [&str; 3] = ["10.1.0.2", "10.1.0.3", "fd01::2"];
const PORT: u16 = 7_000;

/// Bit of CAP_NET_RAW (linux/capability.h).
const NET_RAW: u64 = 1 << 13;

/// The hosts.
struct Net {
    client: Namespace,
    balancer: Namespace,
    backends: [Namespace; 2],
}

impl Net {
    fn new() -> Result<Self, String> {
        let space = Namespace::new;
        let net = Self {
            client: space()?,
            balancer: space()?,
            backends: [space()?, space()?],
        };
        net.client.cable("out", &net.balancer, "clients")?;
        let own = CLIENTS.map(|ip| format!("{ip}/{}", if ip.contains(':') { 64 } else { 24 }));
        net.client
            .address("out", &own.each_ref().map(String::as_str));
        net.balancer
            .address("clients", &["10.1.0.1/24", "fd01::1/64"]);
        for (number, host) in (1..).zip(&net.backends) {
            let link = format!("to{number}");
            net.balancer.cable(&link, host, "out")?;
            let [v4, v6] = [format!("10.2.{number}."), format!("fd02:{number}::")];
            let at = |last: u8| [format!("{v4}{last}/24"), format!("{v6}{last}/64")];
            net.balancer
                .address(&link, &at(1).each_ref().map(String::as_str));
            host.address("out", &at(2).each_ref().map(String::as_str));
            host.ip(&format!("route add default via {v4}1"));
            host.ip(&format!("-6 route add default via {v6}1"));
        }
        // It is the backends' way to everywhere else, too.
        net.balancer.set("ipv4/ip_forward", "1");
        net.balancer.set("ipv6/conf/all/forwarding", "1");
        Ok(net)
    }

    /// The hosts, or why there are none is printed.
    fn or_skip() -> Option<Self> {
        let made = Self::new();
        if let Err(reason) = &made {
            skipped("clients' addresses", reason);
        }
        made.ok()
    }

    /// Runs the script that operators get.
    fn routes(&self, verb: &str, addresses: &[SocketAddr]) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/transparent-routes");
        let words: Vec<String> = [script.to_owned(), verb.to_owned()]
            .into_iter()
            .chain(addresses.iter().map(ToString::to_string))
            .collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (script, rest) = words.split_first().unwrap();
        self.balancer.exec(script, rest, "").unwrap();
    }

    /// Starts a daemon on the balancer. Its metrics are to be reached from there.
    fn daemon(&self, text: &str) -> Daemon {
        let daemon = Daemon::builder(PROGRAM, &text)
            .inside(&self.balancer)
            .start();
        daemon.wait_backends_up();
        daemon
    }

    /// A connection from this address of the client, and the first line that it reads.
    fn ask(&self, source: &str, address: SocketAddr) -> Result<(TcpStream, String), Failure> {
        let source: IpAddr = source.parse().unwrap();
        let mut stream = self.client.enter(|| connect_from(source, address))?;
        let line = read_line(&mut stream)?;
        Ok((stream, line))
    }
}

/// A server that says its name and whom it sees, and sends back what comes. It serves only whom it has on its list.
struct Named {
    _servings: Vec<Serving>,
    seen: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Named {
    fn start(net: &Net, number: usize, welcome: &[&str]) -> Self {
        let seen = Arc::<Mutex<Vec<SocketAddr>>>::default();
        let welcome: Vec<IpAddr> = welcome.iter().map(|ip| ip.parse().unwrap()).collect();
        let serve = |address: SocketAddr| {
            let (seen, welcome) = (Arc::clone(&seen), welcome.clone());
            Serving::start(
                Some(&net.backends[number - 1]),
                address,
                move |stream, peer| {
                    seen.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(peer);
                    if !welcome.is_empty() && !welcome.contains(&peer.ip()) {
                        return;
                    }
                    let talk = move || drop(talk(stream, number, peer.ip()));
                    drop(
                        std::thread::Builder::new()
                            .stack_size(64 * 1024)
                            .spawn(talk)
                            .unwrap(),
                    );
                },
            )
        };
        Self {
            _servings: addresses(number).map(serve).into(),
            seen,
        }
    }

    fn seen(&self) -> Vec<SocketAddr> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn seen_hosts(&self) -> BTreeSet<String> {
        self.seen()
            .iter()
            .map(|peer| peer.ip().to_string())
            .collect()
    }
}

fn talk(mut stream: TcpStream, number: usize, peer: IpAddr) -> std::io::Result<()> {
    stream.write_all(format!("b{number} {peer}\n").as_bytes())?;
    let mut buffer = [0; 256];
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.shutdown(Shutdown::Write),
            length => stream.write_all(&buffer[..length])?,
        }
    }
}

/// Of a backend: IPv4 and IPv6.
fn addresses(number: usize) -> [SocketAddr; 2] {
    [
        format!("10.2.{number}.2:{PORT}").parse().unwrap(),
        format!("[fd02:{number}::2]:{PORT}").parse().unwrap(),
    ]
}

fn all_addresses() -> Vec<SocketAddr> {
    [1, 2].into_iter().flat_map(addresses).collect()
}

/// A service of the balancer towards backends at `addresses`.
fn service(name: &str, listen: &str, addresses: &[SocketAddr], lines: &str) -> String {
    let backends = (1..).zip(addresses);
    let backends: Vec<_> = backends
        .map(|(number, address)| backend(&format!("b{number}"), address))
        .collect();
    format!(
        "[services.{name}]\nlisten = \"{listen}\"\nsource = \"client\"\nbackends = [{}]\n\
         connect = {{ timeout = \"1s\", attempts = 2 }}\n{lines}\n",
        backends.join(", ")
    )
}

const CHECK: &str = "check = { interval = \"200ms\", timeout = \"200ms\", rise = 1, fall = 2 }";

fn echoes(stream: &mut TcpStream) -> bool {
    stream.write_all(b"ping\n").is_ok() && read_line(stream).as_deref() == Ok("ping")
}

/// Effective capabilities and user of a process.
fn rights(pid: u32) -> (u64, u32) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().split_whitespace().next().unwrap().to_owned()
    };
    let capabilities = u64::from_str_radix(&field("CapEff:"), 16).unwrap();
    (capabilities, field("Uid:").parse().unwrap())
}

#[test]
fn backends_see_the_clients_own_addresses() {
    let Some(net) = Net::or_skip() else { return };
    // Checks come from the balancer, and the others are on no list.
    let welcome = [CLIENTS[0], CLIENTS[2]];
    let servers = [1, 2].map(|number| Named::start(&net, number, &welcome));
    let [one, two] = [1, 2].map(addresses);
    let closed: SocketAddr = format!("10.2.1.2:{}", PORT + 1).parse().unwrap();
    let mut all = all_addresses();
    all.push(closed);
    net.routes("up", &all);
    net.routes("status", &all);
    let services = [
        service("v4", "10.1.0.1:0", &[one[0], two[0]], CHECK),
        service("v6", "[fd01::1]:0", &[one[1], two[1]], CHECK),
        service(
            "retry",
            "10.1.0.1:0",
            &[closed, two[0]],
            "check = \"none\"\npassive_failures = 0",
        ),
    ];
    let daemon = net.daemon(&file("", &services.concat()));
    for (name, client) in [("v4", CLIENTS[0]), ("v6", CLIENTS[2])] {
        let address = daemon.address(name);
        let mut names = BTreeMap::<String, usize>::new();
        for _ in 0..10 {
            let (mut stream, line) = net.ask(client, address).unwrap();
            let (backend, seen) = line.split_once(' ').unwrap();
            assert_eq!(seen, client);
            assert!(echoes(&mut stream));
            *names.entry(backend.to_owned()).or_default() += 1;
        }
        assert_eq!((names["b1"], names["b2"]), (5, 5), "{names:?}");
    }
    // The whitelist of the backend holds: who is not on it gets nothing from it.
    for _ in 0..4 {
        let refused = net
            .ask(CLIENTS[1], daemon.address("v4"))
            .map(|(_, line)| line);
        assert!(
            matches!(refused, Err(Failure::Empty | Failure::ResetBeforeFirstByte)),
            "{refused:?}"
        );
    }
    // A refusal arrives, too, and the second backend is tried from the same address.
    for _ in 0..4 {
        let (_, line) = net.ask(CLIENTS[0], daemon.address("retry")).unwrap();
        assert_eq!(line, format!("b2 {}", CLIENTS[0]));
    }
    let retry = daemon.service("retry");
    assert!(retry.retries > 0, "{retry:?}");
    assert_eq!(
        retry.backends[0].connect_failures, retry.retries,
        "{retry:?}"
    );
    // Checks come from the balancer's own address.
    for (number, server) in (1..).zip(&servers) {
        let hosts = server.seen_hosts();
        let expected = [
            format!("10.2.{number}.1"),
            format!("fd02:{number}::1"),
            CLIENTS[0].to_owned(),
            CLIENTS[1].to_owned(),
            CLIENTS[2].to_owned(),
        ];
        assert_eq!(hosts, expected.into());
    }
    // Nobody runs as root but the supervisor, and only workers may do what it takes.
    for worker in daemon.workers() {
        let (capabilities, user) = rights(worker);
        assert_eq!(capabilities, NET_RAW, "of a worker");
        assert_ne!(user, 0);
    }
    let (capabilities, user) = rights(daemon.monitor());
    assert_eq!(capabilities, 0, "of the monitor");
    assert_ne!(user, 0);
    for name in ["v4", "v6", "retry"] {
        let balanced = assert_balanced(&daemon, name);
        assert!(
            balanced.failed.values().all(|&count| count == 0),
            "{balanced:?}"
        );
    }
    net.routes("down", &all);
    assert!(net.balancer.enter(rules_left).is_empty());
}

/// Rules that the script has left, as `ip rule` shows them.
fn rules_left() -> Vec<String> {
    let show = |family: &str| {
        let words = [family, "rule", "show", "priority", "100"];
        let output = std::process::Command::new("ip")
            .args(words)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let shown = show("-4") + &show("-6");
    shown.lines().map(str::to_owned).collect()
}

#[test]
fn connections_of_one_client_get_ports_of_their_own() {
    const CONNECTIONS: usize = 2_000;
    let Some(net) = Net::or_skip() else { return };
    let _alone = alone();
    assert!(proc::raise_descriptors() > 3 * CONNECTIONS as u64);
    // Two of three ports are needed, so that workers that went by chance would meet at once.
    net.balancer.set("ipv4/ip_local_port_range", "20000 22999");
    let server = Named::start(&net, 1, &[]);
    net.routes("up", &addresses(1));
    let [address, _] = addresses(1);
    let services = service("web", "10.1.0.1:0", &[address], "check = \"none\"");
    let text = file("", &services).replace("workers = 2", "workers = 3");
    let daemon = net.daemon(&text);
    let address = daemon.address("web");
    let client: IpAddr = CLIENTS[0].parse().unwrap();
    let begun = Instant::now();
    let mut streams: Vec<TcpStream> = net.client.enter(|| {
        let connect = |_| connect_from(client, address).unwrap();
        (0..CONNECTIONS).map(connect).collect()
    });
    for (number, stream) in streams.iter_mut().enumerate() {
        let line = read_line(stream);
        assert_eq!(line.as_deref(), Ok("b1 10.1.0.2"), "connection {number}");
    }
    eprintln!(
        "{CONNECTIONS} connections of one client in {:?}",
        begun.elapsed()
    );
    let seen = server.seen();
    let ports: BTreeSet<u16> = seen.iter().map(SocketAddr::port).collect();
    assert_eq!((seen.len(), ports.len()), (CONNECTIONS, CONNECTIONS));
    let status = daemon.status();
    assert!(
        status.workers.iter().all(|worker| worker.active > 0),
        "{:?}",
        status.workers
    );
    assert!(streams.iter_mut().all(echoes));
    drop(streams);
    let service = assert_balanced(&daemon, "web");
    assert_eq!(service.relayed, CONNECTIONS as u64, "{service:?}");
    assert_eq!(service.backends[0].connect_failures, 0);
}

/// Connections that the client ends first, at an address that is not the balancer's: what waits there in TIME_WAIT takes no port
/// away.
#[test]
fn connections_of_one_client_one_by_one_need_few_ports() {
    const CONNECTIONS: usize = 1_500;
    let Some(net) = Net::or_skip() else { return };
    net.balancer.set("ipv4/ip_local_port_range", "20000 20499");
    let _server = Named::start(&net, 1, &[]);
    net.routes("up", &addresses(1));
    let listen = ["10.1.0.1:0", "[fd01::1]:0"];
    let services = addresses(1).into_iter().zip(listen).zip(["v4", "v6"]);
    let services: Vec<_> = services
        .map(|((address, listen), name)| service(name, listen, &[address], "check = \"none\""))
        .collect();
    let daemon = net.daemon(&file("", &services.concat()));
    for (name, client) in [("v4", CLIENTS[0]), ("v6", CLIENTS[2])] {
        let address = daemon.address(name);
        let source: IpAddr = client.parse().unwrap();
        net.client.enter(|| {
            for number in 0..CONNECTIONS {
                let mut stream = connect_from(source, address).unwrap();
                stream.write_all(b"ping\n").unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                let all = read_to_end(&mut stream).unwrap_or_else(|end| {
                    panic!("{end:?} at {number}: {:?}", daemon.service(name))
                });
                let expected = format!("b1 {client}\nping\n");
                assert_eq!(
                    String::from_utf8_lossy(&all),
                    expected,
                    "connection {number}"
                );
            }
        });
        let service = assert_balanced(&daemon, name);
        assert_eq!(service.relayed, CONNECTIONS as u64, "{service:?}");
        assert_eq!(service.backends[0].connect_failures, 0, "{service:?}");
    }
}

#[test]
fn a_killed_worker_and_a_drain_end_connections_from_clients_addresses() {
    let Some(net) = Net::or_skip() else { return };
    let server = Named::start(&net, 1, &[]);
    net.routes("up", &addresses(1));
    let [address, _] = addresses(1);
    let services = service("web", "10.1.0.1:0", &[address], CHECK);
    let text = file("", &services).replace("deadline = \"5s\"", "deadline = \"1s\"");
    let mut daemon = net.daemon(&text);
    let web = daemon.address("web");
    let mut streams: Vec<TcpStream> = (0..16)
        .map(|_| net.ask(CLIENTS[0], web).unwrap().0)
        .collect();
    let status = daemon.status();
    let killed = status
        .workers
        .iter()
        .find(|worker| worker.active > 0)
        .unwrap();
    let lost = usize::try_from(killed.active).unwrap();
    assert!(proc::signal(killed.pid, Signal::KILL));
    let begun = Instant::now();
    let mut kept = Vec::new();
    for mut stream in streams.drain(..) {
        if echoes(&mut stream) {
            kept.push(stream);
        }
    }
    assert_eq!(16 - kept.len(), lost, "only the killed worker's are lost");
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    daemon.wait_ready();
    // The one that was started in its place has the right, too.
    for _ in 0..16 {
        let (mut stream, line) = net.ask(CLIENTS[0], web).unwrap();
        assert_eq!(line, "b1 10.1.0.2");
        assert!(echoes(&mut stream));
    }
    for worker in daemon.workers() {
        assert_eq!(rights(worker).0, NET_RAW);
    }
    assert!(kept.iter_mut().all(echoes));
    let service = daemon.service("web");
    assert_eq!(service.failed["worker_died"], lost as u64, "{service:?}");
    // A drain cuts what has not ended by its deadline.
    let begun = Instant::now();
    assert!(daemon.stop().success(), "{}", daemon.log());
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    for stream in &mut kept {
        let cut = read_line(stream);
        assert_eq!(cut, Err(Failure::ResetBeforeFirstByte), "{cut:?}");
    }
    assert!(!server.seen().is_empty());
}

#[test]
fn a_missing_way_back_is_said_in_words() {
    let Some(net) = Net::or_skip() else { return };
    let _server = Named::start(&net, 1, &[]);
    let [address, _] = addresses(1);
    let services = service("web", "10.1.0.1:0", &[address], CHECK).replace("\"1s\"", "\"200ms\"");
    let daemon = net.daemon(&file("", &services));
    let web = daemon.address("web");
    for _ in 0..4 {
        let outcome = net.ask(CLIENTS[0], web).map(|(_, line)| line);
        assert_eq!(outcome, Err(Failure::ResetBeforeFirstByte));
    }
    let words = "does the backend send its answers to clients through this host?";
    eventually(SOON, "why mentions the way back", || {
        daemon
            .tell(&["why", "web/b1"])
            .contains(words)
            .then_some(())
    });
    let status = daemon.tell(&["status"]);
    let short = "connects from clients' addresses get no answer";
    assert!(status.contains(short), "{status}");
    assert!(daemon.tell(&["events"]).contains(words));
    throughout(Duration::from_secs(1), "checks keep it up", || {
        daemon.backend("web", "b1").state == "up"
    });
    let service = daemon.service("web");
    assert_eq!(service.failed["connect"], 4, "{service:?}");
    let timeouts = net.balancer.enter(|| {
        let labels = [("service", "web"), ("backend", "b1")];
        daemon
            .metrics()
            .value("evenkeel_backend_connect_timeouts_total", &labels)
    });
    assert_eq!(timeouts, Some(4.0));
    // With the routes there it works, and the words go.
    net.routes("up", &addresses(1));
    let (mut stream, line) = net.ask(CLIENTS[0], web).unwrap();
    assert_eq!(line, "b1 10.1.0.2");
    assert!(echoes(&mut stream));
    eventually(SOON, "the words are gone", || {
        (!daemon.tell(&["status"]).contains(short)).then_some(())
    });
    drop(stream);
    assert_balanced(&daemon, "web");
}

/// Workers drop to their user for good: those that were started without the right cannot get it.
#[test]
fn workers_without_the_right_refuse_the_first_service_that_needs_it() {
    let server = Backend::start("b1", Mode::Name);
    let plain = |lines: &str| {
        let backends = backend("b1", &server.address());
        let service = format!(
            "[services.web]\nlisten = \"127.0.0.1:0\"\nbackends = [{backends}]\ncheck = \"none\"\n{lines}\n"
        );
        file("", &service)
    };
    let daemon = Daemon::builder(PROGRAM, &plain("")).start();
    let web = daemon.address("web");
    assert_eq!(one_shot(web).as_deref(), Ok("b1"));
    let before = daemon.status();
    daemon.rewrite_config(&plain("source = \"client\""));
    let answer = daemon.reload();
    let words = format!("{answer:?}");
    assert!(!matches!(answer, Answer::Reloaded { .. }), "{words}");
    assert!(
        words.contains("CAP_NET_RAW") && words.contains("web"),
        "{words}"
    );
    let after = daemon.status();
    assert_eq!(after.generation, before.generation);
    let pids = |status: &evenkeel_control::operator::Status| -> Vec<u32> {
        status.workers.iter().map(|worker| worker.pid).collect()
    };
    assert_eq!(pids(&after), pids(&before), "nobody was replaced");
    for _ in 0..10 {
        assert_eq!(one_shot(web).as_deref(), Ok("b1"));
    }
    // Another reload still works.
    daemon.apply(&plain("connect = { timeout = \"2s\" }"));
    assert_eq!(one_shot(web).as_deref(), Ok("b1"));
    assert_balanced(&daemon, "web");
}

/// It is nobody's fault that an IPv6 client's address cannot be shown to an IPv4 backend.
#[test]
fn a_backend_of_the_other_family_is_passed_over_and_not_blamed() {
    const CLIENTS: usize = 10;
    let own = rights(std::process::id()).0;
    if own & NET_RAW == 0 || TcpListener::bind("[::1]:0").is_err() {
        return skipped("families", "it needs CAP_NET_RAW and IPv6");
    }
    let other = Backend::start("b1", Mode::Name);
    let name = |mut stream: TcpStream, _| drop(stream.write_all(b"b2\n"));
    let same = Serving::start(None, "[::1]:0".parse().unwrap(), name);
    let services = [
        service(
            "both",
            "[::1]:0",
            &[other.address(), same.address()],
            "check = \"none\"",
        ),
        service("none", "[::1]:0", &[other.address()], "check = \"none\""),
    ];
    let daemon = Daemon::builder(PROGRAM, &file("", &services.concat())).start();
    for _ in 0..CLIENTS {
        assert_eq!(one_shot(daemon.address("both")).as_deref(), Ok("b2"));
        let refused = one_shot(daemon.address("none"));
        assert!(refused.is_err(), "{refused:?}");
    }
    let both = assert_balanced(&daemon, "both");
    assert_eq!(both.relayed, CLIENTS as u64, "{both:?}");
    let none = assert_balanced(&daemon, "none");
    assert_eq!(none.failed["no_backend"], CLIENTS as u64, "{none:?}");
    for service in [both, none] {
        assert_eq!(service.backends[0].connect_failures, 0, "{service:?}");
        assert_eq!(service.backends[0].state, "unchecked", "{service:?}");
    }
    assert_eq!(other.accepted(), 0);
}
