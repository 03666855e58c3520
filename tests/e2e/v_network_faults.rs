//! Networks and hosts that fail: no ports, no descriptors, nobody who reads the log, floods, peers that are gone or slow.
//!
//! ```text
//!   client 10.1.0.2 --------------- 10.1.0.1 balancer 10.2.1.1 --------------- 10.2.1.2 backend
//! ```

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use evenkeel_testkit::client::{connect, read_line, read_to_end};
use evenkeel_testkit::{
    Backend, Daemon, Failure, Mode, Namespace, Probes, Serving, TempDir, eventually, one_shot,
    pause_until, proc, throughout,
};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto};

use crate::{
    PROGRAM, SOON, alone, assert_balanced, backend, descriptors_or_skip, file, skipped, start_file,
};

const MIB: usize = 1024 * 1024;

/// The hosts.
struct Net {
    client: Namespace,
    balancer: Namespace,
    backend: Namespace,
}

impl Net {
    fn or_skip(part: &str) -> Option<Self> {
        let made = Self::new();
        if let Err(reason) = &made {
            skipped(part, reason);
        }
        made.ok()
    }

    fn new() -> Result<Self, String> {
        let net = Self {
            client: Namespace::new()?,
            balancer: Namespace::new()?,
            backend: Namespace::new()?,
        };
        net.client.cable("out", &net.balancer, "clients")?;
        net.balancer.cable("back", &net.backend, "out")?;
        net.client.address("out", &["10.1.0.2/24"]);
        net.balancer.address("clients", &["10.1.0.1/24"]);
        net.balancer.address("back", &["10.2.1.1/24"]);
        net.backend.address("out", &["10.2.1.2/24"]);
        Ok(net)
    }

    fn daemon(&self, text: &str) -> Daemon {
        let daemon = Daemon::builder(PROGRAM, &text)
            .inside(&self.balancer)
            .start();
        daemon.wait_backends_up();
        daemon
    }

    /// An echo on the backend's host.
    fn echo(&self) -> Serving {
        Serving::start(Some(&self.backend), "10.2.1.2:7000".parse().unwrap(), echo)
    }

    fn connect(&self, address: SocketAddr) -> TcpStream {
        self.client.enter(|| connect(address)).unwrap()
    }
}

/// Sends back what comes, in a thread.
fn echo(mut stream: TcpStream, _: SocketAddr) {
    let mut talk = move || -> std::io::Result<()> {
        let mut buffer = [0; 4 * 1024];
        loop {
            match stream.read(&mut buffer)? {
                0 => return stream.shutdown(Shutdown::Write),
                length => stream.write_all(&buffer[..length])?,
            }
        }
    };
    let thread = std::thread::Builder::new().stack_size(64 * 1024);
    drop(thread.spawn(move || drop(talk())).unwrap());
}

fn service(name: &str, listen: &str, address: &dyn std::fmt::Display, lines: &str) -> String {
    let backends = backend("b1", address);
    format!("[services.{name}]\nlisten = \"{listen}\"\nbackends = [{backends}]\n{lines}\n")
}

const UNCHECKED: &str = "check = \"none\"";
const CHECK: &str = "check = { interval = \"100ms\", timeout = \"100ms\", rise = 1, fall = 2 }";

fn echoes(stream: &mut TcpStream, word: &str) -> bool {
    let line = format!("{word}\n");
    stream.write_all(line.as_bytes()).is_ok() && read_line(stream).as_deref() == Ok(word)
}

#[test]
fn six_thousand_connections_one_by_one_through_two_thousand_ports() {
    const CONNECTIONS: usize = 6_000;
    let Some(net) = Net::or_skip("few ports") else {
        return;
    };
    let _alone = alone();
    net.balancer.set("ipv4/ip_local_port_range", "20000 21999");
    let server = net.echo();
    let daemon = net.daemon(&file(
        "",
        &service("web", "10.1.0.1:0", &server.address(), UNCHECKED),
    ));
    let address = daemon.address("web");
    let begun = Instant::now();
    net.client.enter(|| {
        for number in 0..CONNECTIONS {
            let mut stream = connect(address).unwrap();
            stream.write_all(b"a").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let answer = read_to_end(&mut stream);
            assert_eq!(answer.as_deref(), Ok(&b"a"[..]), "connection {number}");
        }
    });
    eprintln!("{CONNECTIONS} connections in {:?}", begun.elapsed());
    let web = assert_balanced(&daemon, "web");
    assert_eq!(web.relayed, CONNECTIONS as u64, "{web:?}");
    assert_eq!(
        (web.backends[0].connect_failures, web.retries),
        (0, 0),
        "{web:?}"
    );
}

#[test]
fn no_port_left_is_nobodys_fault_but_ours() {
    const PORTS: usize = 2_000;
    let Some(net) = Net::or_skip("no ports") else {
        return;
    };
    let _alone = alone();
    assert!(proc::raise_descriptors() > 3 * PORTS as u64);
    net.balancer.set("ipv4/ip_local_port_range", "20000 21999");
    let (server, other) = (
        net.echo(),
        Serving::start(Some(&net.backend), "10.2.1.2:7001".parse().unwrap(), echo),
    );
    let services = [
        service("web", "10.1.0.1:0", &server.address(), CHECK),
        service("other", "10.1.0.1:0", &other.address(), CHECK),
    ];
    let daemon = net.daemon(&file("", &services.concat()));
    let (web, elsewhere) = (daemon.address("web"), daemon.address("other"));
    // As many as there are: what is above is refused. A check may have a port in use at any moment.
    let mut held = Vec::new();
    let mut refused = 0;
    net.client.enter(|| {
        while refused < 20 {
            // The reset may come before the client knows that it is connected.
            let stream = connect(web).ok();
            match stream.and_then(|mut stream| echoes(&mut stream, "here").then_some(stream)) {
                Some(stream) => held.push(stream),
                None => refused += 1,
            }
            assert!(held.len() <= PORTS);
        }
    });
    assert!(held.len() >= PORTS - 50, "{} of {PORTS} ports", held.len());
    throughout(Duration::from_secs(1), "nobody is blamed", || {
        let status = daemon.service("web");
        status.backends[0].state == "up" && status.backends[0].connect_failures == 0
    });
    let mut one = net.connect(elsewhere);
    assert!(
        echoes(&mut one, "elsewhere"),
        "others have all ports to themselves"
    );
    let status = daemon.service("web");
    assert_eq!(status.failed["exhausted"], refused, "{status:?}");
    assert_eq!(status.failed["connect"], 0, "{status:?}");
    assert!(
        held.iter_mut()
            .step_by(50)
            .all(|stream| echoes(stream, "held"))
    );
    // What is given back can be used at once.
    held.truncate(PORTS / 2);
    eventually(SOON, "ports are free", || {
        let mut stream = net.client.enter(|| connect(web)).ok()?;
        echoes(&mut stream, "again").then_some(())
    });
    net.client.enter(|| {
        for _ in 0..100 {
            let mut stream = connect(web).unwrap();
            assert!(echoes(&mut stream, "more"));
            held.push(stream);
        }
    });
    drop((held, one));
    let web = assert_balanced(&daemon, "web");
    assert_eq!(web.backends[0].connect_failures, 0, "{web:?}");
    let events = daemon.tell(&["events"]);
    assert!(!events.to_lowercase().contains("down"), "{events}");
}

/// CPU time of a process in a second, in milliseconds.
fn busy_ms(pid: u32) -> u64 {
    let before = proc::cpu_ticks(pid).unwrap();
    pause_until(Instant::now() + Duration::from_secs(1));
    (proc::cpu_ticks(pid).unwrap() - before) * 10
}

/// The limit below which `free` numbers of descriptors are not in use.
fn limit_with(pid: u32, free: usize) -> Option<u64> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let used: BTreeSet<u64> = numbers.collect();
    let last = (0..)
        .filter(|number| !used.contains(number))
        .nth(free - 1)?;
    Some(last + 1)
}

#[test]
fn a_worker_without_descriptors_waits_without_spinning() {
    const CLIENTS: usize = 60;
    let server = Backend::start("b1", Mode::Echo);
    // Limits of another user's process are not ours to change.
    let daemon = start_file(&file(
        "user = \"keep\"",
        &service("web", "127.0.0.1:0", &server.address(), UNCHECKED),
    ));
    let address = daemon.address("web");
    let starved = daemon.workers()[0];
    if descriptors_or_skip(starved, "a worker at its limit").is_none() {
        return;
    }
    // A client and its backend, and no more. A plan that has just come may still be open.
    let mut limit = None;
    eventually(SOON, "its descriptors are at rest", || {
        let before = limit;
        pause_until(Instant::now() + Duration::from_millis(100));
        limit = limit_with(starved, 2);
        (limit == before).then_some(())
    });
    proc::limit_descriptors(starved, limit.unwrap()).unwrap();
    let mut streams: Vec<TcpStream> = (0..CLIENTS).map(|_| connect(address).unwrap()).collect();
    let exhausted = |slot: usize| daemon.status().workers[slot].accept_exhausted;
    eventually(SOON, "accepting has failed for lack of descriptors", || {
        (exhausted(0) > 0).then_some(())
    });
    let spent = busy_ms(starved);
    eprintln!("a worker at its limit of descriptors used {spent} ms of CPU time in a second");
    assert!(spent < 100, "{spent} ms");
    let attempts = exhausted(0);
    assert!(attempts < 1_000, "{attempts} attempts");
    // Those that the other worker has are served.
    let other = usize::try_from(daemon.status().workers[1].active).unwrap();
    assert!(other > 5);
    let brief = Some(Duration::from_millis(20));
    let mut waiting = Vec::new();
    let mut served = 0;
    let all = std::mem::take(&mut streams);
    for mut stream in all {
        stream.set_read_timeout(brief).unwrap();
        let asked = stream.write_all(b"here\n");
        let answer = match asked {
            Ok(()) => read_line(&mut stream),
            Err(_) => Err(Failure::ResetBeforeFirstByte),
        };
        match answer {
            Ok(line) => {
                assert_eq!(line, "here");
                served += 1;
                streams.push(stream);
            }
            Err(Failure::Timeout) => waiting.push(stream),
            // Accepted with the last descriptor, and none was left for the backend.
            Err(failure) => assert_eq!(failure, Failure::ResetBeforeFirstByte),
        }
    }
    assert!(served >= other && served <= other + 2, "{served}, {other}");
    assert!(!waiting.is_empty());
    proc::limit_descriptors(starved, 1_024).unwrap();
    for mut stream in waiting {
        stream.set_read_timeout(Some(SOON)).unwrap();
        assert_eq!(read_line(&mut stream).as_deref(), Ok("here"));
        streams.push(stream);
    }
    let web = daemon.service("web");
    assert_eq!(web.backends[0].connect_failures, 0, "{web:?}");
    drop(streams);
    let web = assert_balanced(&daemon, "web");
    assert_eq!(web.accepted, CLIENTS as u64, "{web:?}");
    assert!(exhausted(1) == 0);
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    const CONNECTIONS: usize = 20_000;
    let _alone = alone();
    let server = Backend::start("b1", Mode::Name);
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let top = "[access_log]\nformat = \"json\"\n[log]\nlevel = \"debug\"\n";
    let text = file("", &service("web", "127.0.0.1:0", &server.address(), CHECK));
    let text = text.replace("[metrics]", &format!("{top}[metrics]"));
    let mut daemon = Daemon::builder(PROGRAM, &text).stderr(writer).start();
    daemon.wait_backends_up();
    let address = daemon.address("web");
    let begun = Instant::now();
    let lost = || {
        let metrics = daemon.metrics();
        let value = |name: &str| metrics.value(name, &[]).unwrap();
        value("evenkeel_access_log_unwritten_total")
            + value("evenkeel_worker_access_log_dropped_total")
    };
    let mut count = 0;
    while lost() < 100.0 {
        for _ in 0..100 {
            count += 1;
            let answer = one_shot(address);
            assert_eq!(answer.as_deref(), Ok("b1"), "connection {count}");
        }
        assert!(count < CONNECTIONS, "no line of {count} was lost");
    }
    eprintln!(
        "{count} connections with a log that nobody reads in {:?}",
        begun.elapsed()
    );
    // Nor do reloads, checks and the loss of a worker wait for it.
    let before = daemon.status();
    daemon.apply(&text.replace("\"100ms\"", "\"150ms\""));
    assert!(proc::signal(
        before.workers[0].pid,
        evenkeel_testkit::Signal::KILL
    ));
    daemon.wait_status("another worker is there", |status| {
        let worker = &status.workers[0];
        worker.state == "live" && worker.pid != before.workers[0].pid
    });
    for _ in 0..50 {
        assert_eq!(one_shot(address).as_deref(), Ok("b1"));
    }
    // Somebody reads again: lines come whole, and none is lost any more.
    let read = Arc::new(std::sync::Mutex::new(String::new()));
    let into = Arc::clone(&read);
    let follow = move || follow(reader, &into);
    let follower = std::thread::Builder::new().spawn(follow).unwrap();
    let mut last = lost();
    eventually(SOON, "no more lines are lost", || {
        for _ in 0..20 {
            one_shot(address).unwrap();
        }
        let now = lost();
        let is_still = now.total_cmp(&last).is_eq();
        last = now;
        is_still.then_some(())
    });
    let text = read.lock().unwrap().clone();
    let accessed = |text: &str| text.matches("\"duration_ms\"").count();
    let seen = accessed(&text);
    for _ in 0..100 {
        assert_eq!(one_shot(address).as_deref(), Ok("b1"));
    }
    eventually(SOON, "all the new lines are there", || {
        (accessed(&read.lock().unwrap()) >= seen + 100).then_some(())
    });
    assert!(daemon.stop().success());
    drop(daemon);
    follower.join().unwrap();
    let text = read.lock().unwrap().clone();
    for line in text.lines().filter(|line| line.contains("\"duration_ms\"")) {
        assert!(line.starts_with('{') && line.ends_with('}'), "torn: {line}");
    }
}

fn follow(reader: OwnedFd, into: &std::sync::Mutex<String>) {
    let mut reader = std::fs::File::from(reader);
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = reader.read(&mut buffer) {
        let text = String::from_utf8_lossy(&buffer[..length]);
        into.lock().unwrap().push_str(&text);
    }
}

/// A file system of 64 KiB.
struct SmallDisk {
    dir: TempDir,
}

impl SmallDisk {
    fn new() -> Result<Self, String> {
        let disk = Self {
            dir: TempDir::new(),
        };
        let path = disk.dir.path().to_str().unwrap();
        let mount = [
            "-t",
            "tmpfs",
            "-o",
            "size=64k,mode=755",
            "evenkeel-test",
            path,
        ];
        let output = Command::new("mount").args(mount).output();
        let output = output.map_err(|error| format!("mount: {error}"))?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        output.status.success().then_some(disk).ok_or(error)
    }

    fn file(&self) -> PathBuf {
        self.dir.join("access.log")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(
            Command::new("umount")
                .arg("-l")
                .arg(self.dir.path())
                .output(),
        );
    }
}

#[test]
fn an_access_log_on_a_full_disk_stops_nothing() {
    let disk = match SmallDisk::new() {
        Ok(disk) => disk,
        Err(reason) => return skipped("an access log on a full disk", &reason),
    };
    let server = Backend::start("b1", Mode::Name);
    let top = format!(
        "[access_log]\nformat = \"json\"\nfile = {:?}\n",
        disk.file()
    );
    let text = file(
        "",
        &service("web", "127.0.0.1:0", &server.address(), UNCHECKED),
    );
    let daemon = start_file(&text.replace("[metrics]", &format!("{top}[metrics]")));
    let address = daemon.address("web");
    let unwritten = || {
        let metrics = daemon.metrics();
        metrics
            .value("evenkeel_access_log_unwritten_total", &[])
            .unwrap()
    };
    let begun = Instant::now();
    let mut count = 0_u64;
    while unwritten() < 20.0 {
        for _ in 0..20 {
            assert_eq!(one_shot(address).as_deref(), Ok("b1"));
            count += 1;
        }
        assert!(begun.elapsed() < SOON, "{count} connections filled nothing");
    }
    for _ in 0..100 {
        assert_eq!(one_shot(address).as_deref(), Ok("b1"));
        count += 1;
    }
    // Every line is in the file or was counted.
    let lines = || {
        let text = std::fs::read_to_string(disk.file()).unwrap();
        let whole = |line: &&str| line.starts_with('{') && line.ends_with('}');
        // The end of a torn line may be on its own.
        let all = text.lines().filter(|line| !line.is_empty()).count();
        (text.lines().filter(whole).count(), all)
    };
    eventually(SOON, "every line is written or counted", || {
        let (whole, _) = lines();
        let gone = daemon
            .metrics()
            .value("evenkeel_worker_access_log_dropped_total", &[]);
        let sum = whole as f64 + unwritten() + gone.unwrap();
        (sum >= count as f64).then_some(())
    });
    let (whole, all) = lines();
    assert!(all - whole <= 1, "{} of {all} lines are torn", all - whole);
    let all_lost = unwritten();
    assert!(
        whole as f64 + all_lost <= count as f64 + 1.0,
        "{whole} + {all_lost}, {count}"
    );
    // Room again: without a reload, and from a line of its own.
    let file = std::fs::File::options()
        .write(true)
        .open(disk.file())
        .unwrap();
    file.set_len(0).unwrap();
    for _ in 0..10 {
        assert_eq!(one_shot(address).as_deref(), Ok("b1"));
    }
    eventually(SOON, "lines are written again", || {
        (lines() == (10, 10)).then_some(())
    });
    assert!(unwritten().total_cmp(&all_lost).is_eq(), "no more are lost");
    assert_balanced(&daemon, "web");
}

/// One's complement sum of RFC 1071.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let mut sum = 0_u32;
    for part in parts {
        for pair in part.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u32::from(u16::from_be_bytes([pair[0], low]));
        }
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap()).to_be_bytes()
}

/// An IPv4 packet with the beginning of a connection (RFC 9293), from whomever.
fn syn(source: Ipv4Addr, source_port: u16, target: Ipv4Addr, port: u16, sequence: u32) -> Vec<u8> {
    let mut tcp = Vec::with_capacity(20);
    tcp.extend(source_port.to_be_bytes());
    tcp.extend(port.to_be_bytes());
    tcp.extend(sequence.to_be_bytes());
    // No acknowledgement, five words of header, SYN, a window, and room for the checksum and the urgent pointer.
    tcp.extend([0, 0, 0, 0, 5 << 4, 2, 0xff, 0xff, 0, 0, 0, 0]);
    let pseudo = [source.octets(), target.octets(), [0, 6, 0, 20]].concat();
    let sum = checksum(&[&pseudo, &tcp]);
    tcp[16..18].copy_from_slice(&sum);
    // The kernel fills in length, identification and checksum (raw(7)).
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
    packet.extend(source.octets());
    packet.extend(target.octets());
    packet.extend(tcp);
    packet
}

#[test]
fn honest_clients_get_through_a_flood_of_syns() {
    let Some(net) = Net::or_skip("a flood of SYNs") else {
        return;
    };
    let _alone = alone();
    if !net
        .balancer
        .read("/proc/sys/net/ipv4/tcp_syncookies")
        .starts_with('1')
    {
        net.balancer.set("ipv4/tcp_syncookies", "1");
    }
    // What answers the flood is lost: nobody resets what it has begun.
    net.balancer.ip("route add default via 10.1.0.2");
    let server = net.echo();
    let text = service(
        "web",
        "10.1.0.1:0",
        &server.address(),
        "check = \"none\"\nbacklog = 64",
    );
    let daemon = net.daemon(&file("", &text));
    let address = daemon.address("web");
    let workers = daemon.workers();
    let stop = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicUsize::new(0));
    // Headers and all are ours (raw(7): IPPROTO_RAW).
    let raw = net.client.enter(|| {
        let family = AddressFamily::INET;
        let flags = SocketFlags::CLOEXEC;
        rustix::net::socket_with(family, SocketType::RAW, flags, Some(ipproto::RAW)).unwrap()
    });
    let flood = {
        let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
        let target = Ipv4Addr::new(10, 1, 0, 1);
        move || {
            let mut number = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                number = number.wrapping_add(1);
                let [_, a, b, c] = number.to_be_bytes();
                let source = Ipv4Addr::new(10, 64 | a & 0x3f, b, c);
                let packet = syn(source, 1_024 + u16::from(c), target, address.port(), number);
                // A full queue on the way is part of a flood.
                let to = SocketAddr::from((target, 0));
                if rustix::net::sendto(&raw, &packet, SendFlags::empty(), &to).is_ok() {
                    sent.fetch_add(1, Ordering::Relaxed);
                }
                if number.is_multiple_of(200) {
                    pause_until(Instant::now() + Duration::from_millis(2));
                }
            }
        }
    };
    let flood = std::thread::Builder::new().spawn(flood).unwrap();
    let cookies = || tcp_extension(&net.balancer, "SyncookiesSent");
    eventually(SOON, "the queue of beginnings is full", || {
        (cookies() > 100).then_some(())
    });
    let mut slowest = Duration::ZERO;
    net.client.enter(|| {
        for number in 0..200 {
            let begun = Instant::now();
            let mut stream = connect(address).unwrap();
            assert!(echoes(&mut stream, "honest"), "connection {number}");
            slowest = slowest.max(begun.elapsed());
        }
    });
    stop.store(true, Ordering::Relaxed);
    flood.join().unwrap();
    let sent = sent.load(Ordering::Relaxed);
    eprintln!(
        "through a flood of {sent} SYNs, {} cookies: slowest {slowest:?}",
        cookies()
    );
    assert!(tcp_extension(&net.balancer, "SyncookiesRecv") > 0);
    assert_eq!(daemon.workers(), workers, "nobody has ended");
    let web = assert_balanced(&daemon, "web");
    assert_eq!((web.accepted, web.relayed), (200, 200), "{web:?}");
}

/// A counter of `/proc/net/netstat`.
fn tcp_extension(space: &Namespace, name: &str) -> u64 {
    let text = space.read("/proc/thread-self/net/netstat");
    let mut lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, value) = pairs.find(|(found, _)| *found == name).unwrap();
    value.parse().unwrap()
}

#[test]
fn peers_that_vanish_are_found_out() {
    let Some(net) = Net::or_skip("peers that vanish") else {
        return;
    };
    let server = net.echo();
    let quick = "check = \"none\"\nkeepalive = { idle = \"1s\", interval = \"1s\", probes = 2 }";
    let data = "check = \"none\"\nkeepalive = { idle = \"0s\", user_timeout = \"2s\" }";
    let services = [
        service("web", "10.1.0.1:0", &server.address(), quick),
        service("data", "10.1.0.1:0", &server.address(), data),
    ];
    let daemon = net.daemon(&file("", &services.concat()));
    let (web, sending) = (daemon.address("web"), daemon.address("data"));
    let workers = daemon.workers();
    let free = || {
        workers
            .iter()
            .map(|pid| proc::descriptors(*pid).unwrap())
            .sum::<usize>()
    };
    let before = free();
    let hold = |address| {
        let mut stream = net.connect(address);
        assert!(echoes(&mut stream, "here"));
        stream
    };
    let gone = |what: &str| {
        eventually(SOON, what, || {
            let status = daemon.status();
            status
                .services
                .iter()
                .all(|service| service.active == 0)
                .then_some(())
        });
        eventually(SOON, "its descriptors are free", || {
            (free() == before).then_some(())
        });
    };
    // Living peers answer the probes, and nothing ends.
    let mut streams: Vec<_> = (0..10).map(|_| hold(web)).collect();
    throughout(Duration::from_secs(4), "living peers are kept", || {
        daemon.service("web").active == 10
    });
    assert!(
        streams
            .iter_mut()
            .all(|stream| echoes(stream, "still here"))
    );
    // The clients' host is gone: whatever it sends is lost.
    net.client.ip("route add blackhole 10.1.0.1/32");
    gone("clients that have vanished are given up");
    let ended = daemon.service("web");
    assert_eq!(
        (ended.relayed, ended.backends[0].resets),
        (10, 0),
        "{ended:?}"
    );
    net.client.ip("route del blackhole 10.1.0.1/32");
    drop(streams);
    // The backend's host is gone.
    let mut streams: Vec<_> = (0..10).map(|_| hold(web)).collect();
    let mut sender = hold(sending);
    net.backend.ip("route add blackhole 10.2.1.1/32");
    // Here there are no probes, but something that nobody acknowledges.
    sender.write_all(b"anybody?\n").unwrap();
    for stream in &mut streams {
        assert_eq!(read_line(stream), Err(Failure::ResetBeforeFirstByte));
    }
    assert_eq!(read_line(&mut sender), Err(Failure::ResetBeforeFirstByte));
    gone("backends that have vanished are given up");
    let ended = daemon.service("web");
    assert_eq!(
        (ended.relayed, ended.backends[0].resets),
        (20, 10),
        "{ended:?}"
    );
    net.backend.ip("route del blackhole 10.2.1.1/32");
    drop(hold(web));
    assert_balanced(&daemon, "web");
}

/// Endless bytes of which each tells its position, as far as that matters: 251 is a prime.
fn pattern() -> Vec<u8> {
    let byte_at = |position: usize| u8::try_from(position % 251).unwrap();
    (0..251 * 1_024).map(byte_at).collect()
}

/// Writes `total` bytes of it.
fn write_pattern(mut stream: &TcpStream, total: usize) -> std::io::Result<()> {
    let pattern = pattern();
    let mut left = total;
    while left > 0 {
        let part = left.min(pattern.len());
        stream.write_all(&pattern[..part])?;
        left -= part;
    }
    stream.shutdown(Shutdown::Write)
}

/// Reads it to the end: how much there was.
fn read_pattern(mut stream: &TcpStream) -> usize {
    let pattern = pattern();
    let mut buffer = vec![0; 128 * 1024];
    let mut position = 0;
    loop {
        let length = stream.read(&mut buffer).unwrap();
        if length == 0 {
            return position;
        }
        let phase = position % 251;
        assert!(
            buffer[..length] == pattern[phase..phase + length],
            "after {position} bytes"
        );
        position += length;
    }
}

#[test]
fn a_client_that_never_reads_a_gigabyte_costs_nothing() {
    const TOTAL: usize = 1_024 * MIB;
    let _alone = alone();
    let sender = Serving::start(None, "127.0.0.1:0".parse().unwrap(), |stream, _| {
        let send = move || drop(write_pattern(&stream, TOTAL));
        drop(std::thread::Builder::new().spawn(send).unwrap());
    });
    let other = Backend::start("other", Mode::Name);
    let services = [
        service("web", "127.0.0.1:0", &sender.address(), UNCHECKED),
        service("other", "127.0.0.1:0", &other.address(), UNCHECKED),
    ];
    let text = file("", &services.concat()).replace("workers = 2", "workers = 1");
    let daemon = start_file(&text);
    let worker = daemon.workers()[0];
    one_shot(daemon.address("other")).unwrap();
    let before = proc::memory_kib(worker).unwrap();
    let deaf = connect(daemon.address("web")).unwrap();
    let mut sent = 0;
    eventually(SOON, "everything that has room is under way", || {
        let now = daemon.service("web").bytes_sent;
        let is_still = now > 0 && now == sent;
        sent = now;
        pause_until(Instant::now() + Duration::from_millis(100));
        is_still.then_some(())
    });
    throughout(
        Duration::from_secs(1),
        "memory is bounded, others are served",
        || {
            let held = daemon
                .metrics()
                .value("evenkeel_worker_buffer_bytes", &[])
                .unwrap();
            let memory = proc::memory_kib(worker).unwrap();
            assert!(
                memory < before + 2 * 1_024,
                "{memory} KiB, {before} KiB before"
            );
            assert!(held <= 128.0 * 1_024.0, "{held} bytes of buffers");
            one_shot(daemon.address("other")).as_deref() == Ok("other")
        },
    );
    assert_eq!(daemon.service("web").active, 1);
    let begun = Instant::now();
    assert_eq!(read_pattern(&deaf), TOTAL);
    eprintln!("then {} MiB in {:?}", TOTAL / MIB, begun.elapsed());
    assert!(proc::memory_kib(worker).unwrap() < before + 2 * 1_024);
    drop(deaf);
    let web = assert_balanced(&daemon, "web");
    assert_eq!((web.relayed, web.bytes_sent), (1, TOTAL as u64));
    let held = || daemon.metrics().value("evenkeel_worker_buffer_bytes", &[]);
    eventually(SOON, "no buffer is held", || {
        (held() == Some(0.0)).then_some(())
    });
}

/// Times of probes, the middle one.
fn median(probes: Probes, name: &str) -> Duration {
    let mut times: Vec<_> = Vec::new();
    for probe in probes.stop() {
        let line = format!("{name}\n");
        assert_eq!(probe.outcome.as_deref(), Ok(line.as_str()));
        times.push(probe.ended - probe.begun);
    }
    times.sort();
    times[times.len() / 2]
}

const PACE: Duration = Duration::from_millis(10);

#[test]
fn a_bad_line_harms_only_who_is_behind_it() {
    const TOTAL: usize = 200_000;
    let Some(net) = Net::or_skip("a bad line") else {
        return;
    };
    let drops = "add table inet loss\n\
        add chain inet loss in { type filter hook input priority 0; }\n\
        add chain inet loss out { type filter hook output priority 0; }\n\
        add rule inet loss in numgen random mod 100 < 5 drop\n\
        add rule inet loss out numgen random mod 100 < 5 drop\n";
    let lossy = net.client.exec("nft", &["-f", "-"], drops);
    let slow = ["qdisc", "add", "dev", "out", "root", "tbf"];
    let rate = ["rate", "1mbit", "burst", "16kb", "latency", "200ms"];
    let narrow = net.client.exec("tc", &[&slow[..], &rate[..]].concat(), "");
    if let Err(reason) = lossy.and(narrow) {
        return skipped("a bad line", &reason);
    }
    let server = net.echo();
    let other = net.balancer.enter(|| Backend::start("other", Mode::Name));
    let services = [
        service("web", "10.1.0.1:0", &server.address(), UNCHECKED),
        service("other", "127.0.0.1:0", &other.address(), UNCHECKED),
    ];
    let daemon = net.daemon(&file("", &services.concat()));
    let (web, local) = (daemon.address("web"), daemon.address("other"));
    let probes = net.balancer.enter(|| Probes::start(local, PACE, "", SOON));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let stream = net.connect(web);
                let writer = stream.try_clone().unwrap();
                scope.spawn(move || write_pattern(&writer, TOTAL).unwrap());
                assert_eq!(read_pattern(&stream), TOTAL);
            });
        }
    });
    let took = begun.elapsed();
    let median = median(probes, "other");
    eprintln!(
        "2 x {TOTAL} bytes both ways over a bad line in {took:?}; median of others {median:?}"
    );
    assert!(took > Duration::from_secs(1), "the line was none: {took:?}");
    assert!(median < Duration::from_millis(200), "{median:?}");
    let bytes = 2 * TOTAL as u64;
    let web = assert_balanced(&daemon, "web");
    assert_eq!(
        (web.bytes_received, web.bytes_sent),
        (bytes, bytes),
        "{web:?}"
    );
    assert_eq!(web.relayed, 2);
}

#[test]
fn slow_clients_change_nothing_for_the_others() {
    const CLIENTS: usize = 2_000;
    let _alone = alone();
    assert!(proc::raise_descriptors() > 3 * CLIENTS as u64);
    let server = Serving::start(None, "127.0.0.1:0".parse().unwrap(), echo);
    let other = Backend::start("other", Mode::Name);
    let services = [
        service("web", "127.0.0.1:0", &server.address(), UNCHECKED),
        service("other", "127.0.0.1:0", &other.address(), UNCHECKED),
    ];
    let daemon = start_file(&file("", &services.concat()));
    let (web, quick) = (daemon.address("web"), daemon.address("other"));
    let quiet = Probes::start(quick, PACE, "", SOON);
    pause_until(Instant::now() + Duration::from_secs(1));
    let quiet = median(quiet, "other");
    let mut streams: Vec<TcpStream> = (0..CLIENTS).map(|_| connect(web).unwrap()).collect();
    let probes = Probes::start(quick, PACE, "", SOON);
    // Each sends a byte now and then, and has had the ones before back.
    let words = b"dribbling";
    for (number, byte) in words.iter().enumerate() {
        let turn = Instant::now();
        for stream in &mut streams {
            stream.write_all(&[*byte]).unwrap();
        }
        for (client, stream) in streams.iter_mut().enumerate() {
            let mut back = [0];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(back, [*byte], "byte {number} of client {client}");
        }
        pause_until(turn + Duration::from_millis(300));
    }
    let busy = median(probes, "other");
    eprintln!("median beside {CLIENTS} slow clients {busy:?}, without {quiet:?}");
    assert!(
        busy < quiet * 20 + Duration::from_millis(50),
        "{busy:?}, {quiet:?}"
    );
    assert_eq!(daemon.service("web").active, CLIENTS as u64);
    drop(streams);
    let web = assert_balanced(&daemon, "web");
    let bytes = (CLIENTS * words.len()) as u64;
    assert_eq!(
        (web.relayed, web.bytes_received),
        (CLIENTS as u64, bytes),
        "{web:?}"
    );
}
