//! Backends with names: whatever DNS says or does not say, what was known serves on.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use evenkeel_plan::ENDPOINTS_MAX;
use evenkeel_testkit::doubles::{Dns, Speaker, Zone, loopback};
use evenkeel_testkit::{Backend, Daemon, Mode, Probes, client, eventually, one_shot, pause_until};

use crate::{PROGRAM, SOON, assert_only_in_flight, backend, file, tally};

const NAME: &str = "couchdb-1.test";

/// A daemon with one backend, known by name.
fn config(dns: &Dns, port: u16, more: &[String]) -> String {
    let mut backends = vec![backend("named", &format!("{NAME}:{port}"))];
    backends.extend_from_slice(more);
    let services = format!(
        "[resolve]\nservers = [\"{}\"]\nttl_min = \"200ms\"\ntimeout = \"500ms\"\nretry = \"200ms\"\n\
         [services.web]\nlisten = \"127.0.0.1:0\"\nbackends = [{}]\n\
         check = {{ interval = \"100ms\", timeout = \"100ms\", rise = 1, fall = 2 }}\n",
        dns.address(),
        backends.join(", ")
    );
    file("", &services)
}

fn start(dns: &Dns, port: u16) -> Daemon {
    let daemon = Daemon::builder(PROGRAM, &config(dns, port, &[])).start();
    daemon.wait_backends_up();
    daemon
}

fn addresses(addresses: &[IpAddr]) -> Zone {
    Zone::Addresses(addresses.to_vec(), 1)
}

/// Waits until the name was asked for several times more.
fn asked_again(dns: &Dns) {
    let before = dns.asked(NAME);
    eventually(SOON, "the name is asked for again", || {
        (dns.asked(NAME) >= before + 4).then_some(())
    });
}

#[test]
fn what_was_known_serves_on_whatever_dns_says() {
    let dns = Dns::start();
    let server = Speaker::start("b1");
    let good = addresses(&[server.address().ip()]);
    dns.set(NAME, &good);
    let daemon = start(&dns, server.address().port());
    let probes = Probes::start(
        daemon.address("web"),
        Duration::from_millis(10),
        "",
        Duration::from_secs(5),
    );
    for zone in [Zone::Silence, Zone::NxDomain, Zone::Empty, Zone::ServFail] {
        dns.set(NAME, &zone);
        asked_again(&dns);
        let found = daemon.backend("web", "named");
        assert_eq!(found.endpoints, [server.address()], "{zone:?}");
        assert_eq!(found.state, "up", "{zone:?}");
        let why = daemon.tell(&["why", "web/named"]);
        assert!(why.contains(NAME), "{zone:?}: {why}");
        dns.set(NAME, &good);
        asked_again(&dns);
    }
    let seen = probes.stop();
    assert!(seen.len() > 100, "{}", seen.len());
    assert_only_in_flight(&seen, &[]);
    let events = daemon.tell(&["events"]);
    assert!(events.contains(NAME), "{events}");
}

#[test]
fn a_new_address_is_followed_and_what_runs_at_the_old_one_goes_on() {
    let dns = Dns::start();
    let (old, new) = (Backend::start("old", Mode::Greet), loopback());
    let port = old.address().port();
    let new = Speaker::start_at_port(SocketAddr::from((new, port)), "new");
    dns.set(NAME, &addresses(&[old.address().ip()]));
    let daemon = start(&dns, port);
    let address = daemon.address("web");
    let mut stream = client::connect(address).unwrap();
    assert_eq!(client::read_line(&mut stream).as_deref(), Ok("old"));
    dns.set(NAME, &addresses(&[new.address().ip()]));
    let changed = Instant::now();
    eventually(SOON, "the new address serves", || {
        (daemon.backend("web", "named").endpoints == [new.address()]).then_some(())
    });
    // The answer's lifetime, and a busy machine.
    assert!(
        changed.elapsed() < Duration::from_secs(3),
        "{:?}",
        changed.elapsed()
    );
    daemon.wait_backends_up();
    eventually(SOON, "the new one answers", || {
        let mut stream = client::connect(address).unwrap();
        (client::read_line(&mut stream).unwrap() == "new").then_some(())
    });
    assert_eq!(tally(address, 10)["new"], 10);
    std::io::Write::write_all(&mut stream, b"still here\n").unwrap();
    assert_eq!(client::read_line(&mut stream).as_deref(), Ok("still here"));
    let events = daemon.tell(&["events"]);
    assert!(events.contains(&new.address().ip().to_string()), "{events}");
}

#[test]
fn a_thousand_addresses_are_some() {
    let dns = Dns::start();
    let anywhere = Speaker::start_at(Ipv4Addr::UNSPECIFIED.into(), 1_024, "b1", &[]);
    let mut many: Vec<IpAddr> = Vec::new();
    for number in 0..1_000_u32 {
        let [_, _, high, low] = number.to_be_bytes();
        many.push([127, 50, high, low].into());
    }
    dns.set(NAME, &addresses(&many));
    let daemon = start(&dns, anywhere.address().port());
    let found = daemon.backend("web", "named");
    assert_eq!(found.endpoints.len(), ENDPOINTS_MAX, "{found:?}");
    assert_eq!(tally(daemon.address("web"), 50)["b1"], 50);
    // The order of an answer says nothing: the same addresses are used.
    many.reverse();
    dns.set(NAME, &addresses(&many));
    asked_again(&dns);
    assert_eq!(daemon.backend("web", "named").endpoints, found.endpoints);
}

#[test]
fn a_lifetime_of_0_does_not_make_a_storm() {
    let dns = Dns::start();
    let server = Speaker::start("b1");
    dns.set(NAME, &Zone::Addresses(vec![server.address().ip()], 0));
    let daemon = start(&dns, server.address().port());
    let (before, begun) = (dns.asked(NAME), Instant::now());
    pause_until(begun + Duration::from_secs(2));
    let asked = dns.asked(NAME) - before;
    let passed = begun.elapsed().as_millis();
    // A and AAAA, at most every `ttl_min`.
    let most = 2 * (passed / 200 + 1);
    assert!(
        u128::from(asked) <= most,
        "{asked} questions in {passed} ms"
    );
    assert!(asked >= 2, "{asked}");
    assert_eq!(tally(daemon.address("web"), 10)["b1"], 10);
}

#[test]
fn a_start_without_dns_is_not_delayed() {
    let dns = Dns::start();
    let (server, other) = (Speaker::start("b1"), Speaker::start("other"));
    dns.set(NAME, &Zone::Silence);
    dns.freeze();
    let more = [backend("other", &other.address())];
    let config = config(&dns, server.address().port(), &more);
    let begun = Instant::now();
    let daemon = Daemon::builder(PROGRAM, &config).start();
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    let address = daemon.address("web");
    eventually(Duration::from_secs(3), "the other backend serves", || {
        (one_shot(address).as_deref() == Ok("other")).then_some(())
    });
    assert_eq!(tally(address, 20)["other"], 20);
    let found = daemon.backend("web", "named");
    assert!(found.endpoints.is_empty(), "{found:?}");
    let why = daemon.tell(&["why", "web/named"]);
    assert!(why.contains("not eligible"), "{why}");
    // And it is taken when it is known at last.
    dns.thaw();
    dns.set(NAME, &addresses(&[server.address().ip()]));
    daemon.wait_backends_up();
    assert_eq!(tally(address, 20).len(), 2);
}

#[test]
fn a_service_record_names_hosts_and_ports() {
    let dns = Dns::start();
    let servers = ["b1", "b2", "b3"].map(Speaker::start);
    for (number, server) in servers.iter().enumerate() {
        let zone = addresses(&[server.address().ip()]);
        dns.set(&format!("host-{number}.test"), &zone);
    }
    let targets = |numbers: &[usize]| {
        let targets = numbers.iter().map(|&number| {
            let port = servers[number].address().port();
            (format!("host-{number}.test"), port)
        });
        Zone::Services(targets.collect(), 1)
    };
    let record = "_couchdb._tcp.test";
    dns.set(record, &targets(&[0, 1]));
    let config = config(&dns, 0, &[]).replace(&format!("{NAME}:0"), &format!("srv:{record}"));
    let daemon = Daemon::builder(PROGRAM, &config).start();
    daemon.wait_backends_up();
    let address = daemon.address("web");
    // All addresses of one backend are used in turn, by each worker for itself.
    let names = tally(address, 20);
    assert!(names["b1"] > 5 && names["b2"] > 5, "{names:?}");
    // One goes and another one comes.
    dns.set(record, &targets(&[1, 2]));
    let wanted = [servers[1].address(), servers[2].address()];
    eventually(SOON, "the other hosts are used", || {
        let endpoints = daemon.backend("web", "named").endpoints;
        wanted
            .iter()
            .all(|wanted| endpoints.contains(wanted))
            .then_some(())
    });
    eventually(SOON, "by all workers", || {
        (!tally(address, 20).contains_key("b1")).then_some(())
    });
    let names = tally(address, 20);
    assert!(names["b2"] > 5 && names["b3"] > 5, "{names:?}");
}
