//! The PROXY protocol, in and out.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use evenkeel_testkit::{
    Backend, Daemon, Failure, Mode, TempDir, client, eventually, pause_until, throughout,
};
use serde_json::Value;

use crate::o_limits::{service, start};
use crate::{PROGRAM, SOON, assert_balanced, backend, file};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Type of the extension with the unique id.
const UNIQUE_ID: u8 = 5;

/// A header of version 2 on behalf of `source`.
fn v2(source: SocketAddr, destination: SocketAddr, extensions: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    let family = match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            body.extend(from.octets());
            body.extend(to.octets());
            0x11
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            body.extend(from.octets());
            body.extend(to.octets());
            0x21
        }
        other => panic!("{other:?}"),
    };
    body.extend(source.port().to_be_bytes());
    body.extend(destination.port().to_be_bytes());
    body.extend(extensions);
    let mut header = SIGNATURE.to_vec();
    header.extend([0x21, family]);
    header.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    header.extend(body);
    header
}

/// What a header of version 2 at the head of `bytes` says: source, destination, unique id; and what follows it.
fn parse_v2(bytes: &[u8]) -> (SocketAddr, SocketAddr, Option<String>, Vec<u8>) {
    let rest = bytes.strip_prefix(SIGNATURE).unwrap();
    assert_eq!(rest[0], 0x21, "version 2, PROXY");
    let length = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
    let (mut body, after) = rest[4..].split_at(length);
    let mut take = |count: usize| {
        let (taken, left) = body.split_at(count);
        body = left;
        taken.to_vec()
    };
    let size = match rest[1] {
        0x11 => 4,
        0x21 => 16,
        other => panic!("{other:#x}"),
    };
    let ip = |octets: Vec<u8>| match <[u8; 4]>::try_from(octets.clone()) {
        Ok(octets) => IpAddr::from(octets),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(octets).unwrap()),
    };
    let (source, destination) = (ip(take(size)), ip(take(size)));
    let port = |octets: Vec<u8>| u16::from_be_bytes([octets[0], octets[1]]);
    let (from, to) = (port(take(2)), port(take(2)));
    let mut id = None;
    while !body.is_empty() {
        let length = usize::from(u16::from_be_bytes([body[1], body[2]]));
        if body[0] == UNIQUE_ID {
            id = Some(String::from_utf8(body[3..3 + length].to_vec()).unwrap());
        }
        body = &body[3 + length..];
    }
    let (source, destination) = (
        SocketAddr::new(source, from),
        SocketAddr::new(destination, to),
    );
    (source, destination, id, after.to_vec())
}

/// What comes back when `bytes` are all that is sent.
fn answer(mut stream: TcpStream, bytes: &[u8]) -> Result<Vec<u8>, Failure> {
    // It may be reset in the middle of it.
    drop(stream.write_all(bytes));
    drop(stream.shutdown(Shutdown::Write));
    client::read_to_end(&mut stream)
}

fn text(bytes: Result<Vec<u8>, Failure>) -> String {
    String::from_utf8_lossy(&bytes.unwrap()).into_owned()
}

fn addresses() -> (SocketAddr, SocketAddr) {
    (
        "192.0.2.1:1234".parse().unwrap(),
        "198.51.100.2:80".parse().unwrap(),
    )
}

const LINE: &str = "PROXY TCP4 192.0.2.1 198.51.100.2 1234 80\r\n";

/// An echoing backend behind a daemon that trusts 127.0.0.1 and tells the backend, who sends it all back.
fn echoed(lines: &str) -> (Backend, Daemon) {
    let echo = Backend::start("b1", Mode::Echo);
    let daemon = start(2, &service("web", lines, &[backend("b1", &echo.address())]));
    (echo, daemon)
}

#[test]
fn a_trusted_peer_is_believed_and_nobody_else() {
    let (_echo, daemon) = echoed("accept_proxy = \"127.0.0.1\"\nsend_proxy = \"v1\"");
    let address = daemon.address("web");
    let (source, destination) = addresses();
    let connect = || client::connect(address).unwrap();
    let told = |begin: &[u8]| text(answer(connect(), &[begin, b"hello"].concat()));
    assert_eq!(told(LINE.as_bytes()), format!("{LINE}hello"));
    assert_eq!(told(&v2(source, destination, &[])), format!("{LINE}hello"));
    // Extensions are skipped, whatever they are.
    let extensions = [b"\xee\x03\xe8".as_slice(), &[7; 1_000]].concat();
    assert_eq!(
        told(&v2(source, destination, &extensions)),
        format!("{LINE}hello")
    );
    let six = v2(
        "[2001:db8::1]:9".parse().unwrap(),
        "[2001:db8::2]:10".parse().unwrap(),
        &[],
    );
    assert_eq!(
        told(&six),
        "PROXY TCP6 2001:db8::1 2001:db8::2 9 10\r\nhello"
    );
    // Without addresses it is the peer's own connection.
    let stream = connect();
    let own = stream.local_addr().unwrap();
    let local = [SIGNATURE, b"\x20\0\0\0"].concat();
    let line = format!(
        "PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n",
        own.port(),
        address.port()
    );
    assert_eq!(text(answer(stream, &local)), line);
    // Content of others is content, whatever it looks like.
    let stream = client::connect_from("127.0.0.2".parse().unwrap(), address).unwrap();
    let own = stream.local_addr().unwrap();
    let line = format!(
        "PROXY TCP4 127.0.0.2 127.0.0.1 {} {}\r\n",
        own.port(),
        address.port()
    );
    assert_eq!(
        text(answer(stream, LINE.as_bytes())),
        format!("{line}{LINE}")
    );
    let service = assert_balanced(&daemon, "web");
    assert_eq!(service.relayed, 6, "{service:?}");
    // Headers are no bytes of the client.
    assert_eq!(service.bytes_received, 4 * 5 + LINE.len() as u64);
}

#[test]
fn a_header_may_come_in_pieces_and_with_data() {
    let (_echo, daemon) = echoed("accept_proxy = \"127.0.0.1\"\nsend_proxy = \"v1\"");
    let address = daemon.address("web");
    let (source, destination) = addresses();
    for header in [
        LINE.as_bytes().to_vec(),
        v2(source, destination, b"\xee\0\x02ab"),
    ] {
        let mut stream = client::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let (last, before) = header.split_last().unwrap();
        for byte in before {
            stream.write_all(&[*byte]).unwrap();
            pause_until(Instant::now() + Duration::from_millis(2));
        }
        let mut rest = vec![*last];
        rest.extend(b"data");
        stream.write_all(&rest).unwrap();
        let mut seen = vec![0; LINE.len() + 4];
        stream.read_exact(&mut seen).unwrap();
        assert_eq!(seen, format!("{LINE}data").as_bytes());

        // With much behind it, in one write.
        let data: Vec<u8> = (0..300_000_u32).map(|n| n.to_be_bytes()[3]).collect();
        let mut stream = client::connect(address).unwrap();
        let mut writer = stream.try_clone().unwrap();
        let sent = [header, data.clone()].concat();
        let writing = std::thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let seen = client::read_to_end(&mut stream).unwrap();
        writing.join().unwrap();
        assert!(seen.strip_prefix(LINE.as_bytes()) == Some(&data));
    }
    assert_balanced(&daemon, "web");
}

#[test]
fn a_bad_or_late_header_ends_the_connection() {
    let lines = "accept_proxy = \"127.0.0.1\"\ntimeouts = { handshake = \"300ms\" }";
    let (echo, daemon) = echoed(lines);
    let address = daemon.address("web");
    let connect = || client::connect(address).unwrap();
    let reset = Err(Failure::ResetBeforeFirstByte);
    let wrong: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1234\r\nhello",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c",
        &[0; 200],
        &[b"PROXY ".as_slice(), &[b'x'; 200]].concat(),
    ];
    for bytes in wrong {
        let mut stream = connect();
        let begun = Instant::now();
        drop(stream.write_all(bytes));
        assert_eq!(
            client::read_to_end(&mut stream),
            reset,
            "{}",
            bytes.escape_ascii()
        );
        assert!(
            begun.elapsed() < Duration::from_millis(250),
            "{:?}",
            begun.elapsed()
        );
    }
    // Nothing, a part, and a part that goes on and on.
    for bytes in ["", "PROXY TCP4 192.0.2.1 "] {
        let begun = Instant::now();
        let mut stream = connect();
        stream.write_all(bytes.as_bytes()).unwrap();
        assert_eq!(client::read_to_end(&mut stream), reset);
        let took = begun.elapsed();
        assert!(
            took >= Duration::from_millis(300) && took < Duration::from_millis(800),
            "{took:?}"
        );
    }
    let mut stream = connect();
    let begun = Instant::now();
    let cut = LINE.bytes().cycle().find(|byte| {
        pause_until(Instant::now() + Duration::from_millis(30));
        stream.write_all(&[*byte]).is_err()
    });
    assert!(
        cut.is_some() && begun.elapsed() < Duration::from_millis(900),
        "{:?}",
        begun.elapsed()
    );
    // One that goes is no bad header.
    assert_eq!(answer(connect(), b"PROXY TCP4"), reset);
    client::reset(connect());
    let service = assert_balanced(&daemon, "web");
    assert_eq!(service.failed["proxy_header"], 5 + 2 + 1, "{service:?}");
    assert_eq!(service.failed["client_gone"], 2, "{service:?}");
    assert_eq!(echo.accepted(), 0);
}

#[test]
fn the_claimed_address_is_the_one_that_rules_look_at() {
    let lines = "accept_proxy = \"127.0.0.1\"\nallow = [\"192.0.2.0/24\", \"2001:db8::/32\"]\n\
                 deny = \"192.0.2.9\"\nsource_rate = 1\nsource_burst = 3";
    let (_echo, daemon) = echoed(lines);
    let address = daemon.address("web");
    let comes = |source: &str| {
        let source: SocketAddr = source.parse().unwrap();
        let header = v2(source, source, &[]);
        let outcome = answer(
            client::connect(address).unwrap(),
            &[&header, &b"x"[..]].concat(),
        );
        match outcome.as_deref() {
            Ok(b"x") => true,
            Err(Failure::ResetBeforeFirstByte) => false,
            other => panic!("{other:?}"),
        }
    };
    assert!(comes("192.0.2.1:1"));
    assert!(!comes("192.0.2.9:1") && !comes("10.0.0.1:1") && !comes("127.0.0.1:1"));
    // Of an IPv6 source the first 64 bits count.
    let begun = Instant::now();
    let of_one = (0..12)
        .filter(|n| comes(&format!("[2001:db8:0:1::{n:x}]:1")))
        .count();
    let more = usize::try_from(begun.elapsed().as_secs()).unwrap() + 1;
    assert!((3..=3 + more).contains(&of_one), "{of_one}");
    assert!(comes("[2001:db8:0:2::1]:1"));
    let service = assert_balanced(&daemon, "web");
    assert_eq!(service.failed["denied"], 3, "{service:?}");
    assert_eq!(
        service.failed["source_rate"],
        12 - of_one as u64,
        "{service:?}"
    );
}

#[test]
fn a_backend_sees_the_clients_address_and_the_connections_name() {
    let dir = TempDir::new();
    // Workers do not open it; the supervisor does.
    let log = dir.join("access.log");
    let echo = Backend::start("b1", Mode::Echo);
    let backends = [backend("b1", &echo.address())];
    let services = service("web", "send_proxy = \"v2\"", &backends)
        + &service("six", "send_proxy = \"v2\"", &backends).replace("127.0.0.1:0", "[::1]:0")
        + &service("line", "send_proxy = \"v1\"", &backends).replace("127.0.0.1:0", "[::1]:0");
    let top = format!(
        "access_log = {{ format = \"json\", file = \"{}\" }}",
        log.display()
    );
    let daemon = Daemon::builder(PROGRAM, &file(&top, &services)).start();
    let mut names = Vec::new();
    for name in ["web", "six"] {
        for _ in 0..10 {
            let stream = client::connect(daemon.address(name)).unwrap();
            let own = stream.local_addr().unwrap();
            let bytes = answer(stream, b"hello").unwrap();
            let (source, destination, id, rest) = parse_v2(&bytes);
            assert_eq!((source, destination), (own, daemon.address(name)));
            assert_eq!(rest, b"hello");
            names.push((own, id.unwrap()));
        }
    }
    let stream = client::connect(daemon.address("line")).unwrap();
    let ports = (
        stream.local_addr().unwrap().port(),
        daemon.address("line").port(),
    );
    let line = format!("PROXY TCP6 ::1 ::1 {} {}\r\n", ports.0, ports.1);
    assert_eq!(text(answer(stream, b"")), line);
    let lines = eventually(SOON, "each has a line", || {
        let text = fs::read_to_string(&log).ok()?;
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        (lines.len() == 21).then_some(lines)
    });
    for (own, id) in names {
        let line = lines
            .iter()
            .find(|line| line["client_port"] == own.port())
            .unwrap();
        assert_eq!(line["id"], id, "{line}");
        assert_eq!(line["client"], own.ip().to_string());
    }
}

#[test]
fn balancers_in_a_row_pass_the_client_on() {
    for version in ["v1", "v2"] {
        let send = format!("send_proxy = \"{version}\"");
        let (_echo, inner) = echoed(&format!("accept_proxy = \"127.0.0.0/8\"\n{send}"));
        let middle = [backend("inner", &inner.address("web"))];
        let outer = start(2, &service("web", &send, &middle));
        for _ in 0..20 {
            let stream = client::connect(outer.address("web")).unwrap();
            let own = stream.local_addr().unwrap();
            let there = outer.address("web");
            let bytes = answer(stream, b"hello").unwrap();
            if version == "v2" {
                let (source, destination, _, rest) = parse_v2(&bytes);
                assert_eq!((source, destination, &*rest), (own, there, &b"hello"[..]));
            } else {
                let ports = (own.port(), there.port());
                let line = format!(
                    "PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\nhello",
                    ports.0, ports.1
                );
                assert_eq!(String::from_utf8_lossy(&bytes), line);
            }
        }
        assert_balanced(&inner, "web");
        assert_balanced(&outer, "web");
    }
}

#[test]
fn a_backend_is_connected_to_when_there_is_data() {
    let echo = Backend::start("b1", Mode::Echo);
    let backends = [backend("b1", &echo.address())];
    let lines = "connect_on = \"data\"";
    let proxied = format!("{lines}\naccept_proxy = \"127.0.0.1\"");
    let services = service("web", lines, &backends) + &service("proxied", &proxied, &backends);
    let daemon = start(2, &services);
    let (source, destination) = addresses();
    for (name, header) in [
        ("web", vec![]),
        ("proxied", LINE.as_bytes().to_vec()),
        ("proxied", v2(source, destination, &[])),
    ] {
        let before = echo.accepted();
        let mut stream = client::connect(daemon.address(name)).unwrap();
        stream.write_all(&header).unwrap();
        throughout(Duration::from_millis(200), "nobody is connected to", || {
            echo.accepted() == before
        });
        stream.write_all(b"hello").unwrap();
        let mut seen = [0; 5];
        stream.read_exact(&mut seen).unwrap();
        assert_eq!(&seen, b"hello");
        assert_eq!(echo.accepted(), before + 1);
        // With the data right behind the header.
        let stream = client::connect(daemon.address(name)).unwrap();
        let bytes = [&header, &b"hello"[..]].concat();
        assert_eq!(text(answer(stream, &bytes)), "hello");
    }
    // Those that were quiet for so long that they were parked, with and without a header.
    let mut quiet = Vec::new();
    for name in ["web", "proxied", "web", "proxied"] {
        let mut stream = client::connect(daemon.address(name)).unwrap();
        let header = if name == "web" { "" } else { LINE };
        stream.write_all(header.as_bytes()).unwrap();
        quiet.push(stream);
    }
    let before = echo.accepted();
    eventually(SOON, "they are parked", || {
        let parked = daemon.metrics();
        let parked = parked.value("evenkeel_worker_parked_connections", &[]);
        (parked == Some(4.0)).then_some(())
    });
    assert_eq!(echo.accepted(), before);
    client::reset(quiet.pop().unwrap());
    client::reset(quiet.pop().unwrap());
    for stream in quiet {
        assert_eq!(text(answer(stream, b"hello")), "hello");
    }
    assert_balanced(&daemon, "proxied");
    // Who goes without a word.
    client::reset(client::connect(daemon.address("web")).unwrap());
    assert_eq!(
        answer(client::connect(daemon.address("web")).unwrap(), b"").unwrap(),
        b""
    );
    let service = assert_balanced(&daemon, "web");
    assert_eq!(service.failed["client_gone"], 2, "{service:?}");
}
