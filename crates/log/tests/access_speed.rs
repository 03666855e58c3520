//! What a line of the access log costs whoever writes it. Only prints; in a debug build the numbers mean nothing.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::time::{Duration, SystemTime};

use evenkeel_log::access::{AccessLog, End, Formatter, HttpRecord, Phase, Record, Side};
use evenkeel_log::channel;
use evenkeel_plan::AccessFormat;
use evenkeel_sys::packet;
use rustix::time::{ClockId, clock_gettime};

/// Enough to print something true in a release build, and soon over in any other.
const LINES: u32 = if cfg!(debug_assertions) {
    2_000
} else {
    1_000_000
};

#[test]
fn cost_of_a_line() {
    let formats = [
        ("human", AccessFormat::Human),
        ("json", AccessFormat::Json),
        ("logfmt", AccessFormat::Logfmt),
        (
            "template",
            AccessFormat::Template(
                "{time} {client}:{client_port} {service}/{backend} {queue_ms}/{connect_ms}/{duration_ms} \
                 {bytes_received} {bytes_sent} {end_by}/{end_phase}/{end}"
                    .to_owned(),
            ),
        ),
    ];
    for (name, format) in formats {
        for (of, make) in [
            ("connections", record as fn(u32) -> Record<'static>),
            ("requests", request),
        ] {
            cost(&format!("{name} of {of}"), &format, make);
        }
    }
    let common = AccessFormat::Template(
        "{client} {time} \"{method} {path} HTTP/{version}\" {status} {bytes_sent} \"{referer}\" \"{user_agent}\" {duration_ms}"
            .to_owned(),
    );
    cost("common of requests", &common, request);
}

fn cost(name: &str, format: &AccessFormat, record: fn(u32) -> Record<'static>) {
    let formatter = Formatter::new(format).unwrap().unwrap();
    let mut out = Vec::new();
    let formatting = per_line(|n| {
        out.clear();
        formatter.line(&mut out, &record(n));
    });
    println!("{name}: {formatting} ns to format, {} bytes", out.len());

    let (sender, receiver) = channel().unwrap();
    let dropped = Box::new(|lines| assert_eq!(lines, 0, "dropped"));
    let access = AccessLog::new(sender, format, dropped).unwrap();
    let mut buffer = vec![0; packet::MESSAGE_BYTES_MAX];
    let mut receiving = Duration::ZERO;
    let all = per_line(|n| {
        access.write(&record(n));
        // Ten batches wait at most; what it costs to receive them is not the writer's.
        if n % 256 == 0 {
            let before = cpu();
            while packet::receive(receiver.as_fd(), &mut buffer).is_ok() {}
            receiving += cpu() - before;
        }
    });
    let receiving = receiving.as_nanos() / u128::from(LINES);
    println!("{name}: {} ns with hand-over", all - receiving);
}

fn per_line(mut write: impl FnMut(u32)) -> u128 {
    let before = cpu();
    (0..LINES).for_each(&mut write);
    (cpu() - before).as_nanos() / u128::from(LINES)
}

/// CPU time of this thread.
fn cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap()
}

fn record(n: u32) -> Record<'static> {
    let address = |ip: [u8; 4], port| SocketAddr::from((ip, port));
    let n = u64::from(n);
    Record {
        accepted: SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_185_378_088_000 + n * 37),
        service: "transactions-https",
        listener: address([192, 0, 2, 1], 443),
        client: address([203, 0, 113, 77], 51_234),
        peer: address([203, 0, 113, 77], 51_234),
        backend: Some("openhim-1"),
        endpoint: Some(address([10, 0, 0, 2], 5_000)),
        source: Some(address([10, 0, 0, 1], 33_333)),
        worker: 3,
        id: 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef ^ u128::from(n),
        attempts: 1,
        handshake_us: None,
        queue_us: None,
        connect_us: Some(250 + n % 1_000),
        first_byte_us: Some(1_149),
        duration_us: 35_000 + n,
        bytes_received: 1_250 + n,
        bytes_sent: 88_999 + n,
        http: None,
        end: End {
            by: Side::Client,
            phase: Phase::Relay,
            reason: "end",
        },
    }
}

/// As a browser of CHT sends it.
fn request(n: u32) -> Record<'static> {
    Record {
        attempts: 1,
        connect_us: None,
        http: Some(HttpRecord {
            method: "GET",
            host: Some("cht.example.org"),
            path: "/medic-user-chw-4711-meta/_local/Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4",
            query: Some("timeout=30000&heartbeat=10000"),
            version: "1.1",
            status: Some(200),
            route: Some(2),
            request_id: Some("0123456789abcdef0123456789abcdef"),
            user_agent: Some(
                b"Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/127.0.0.0 Mobile Safari/537.36",
            ),
            referer: Some(b"https://cht.example.org/medic/_design/medic/_rewrite/"),
            number: n,
            reused: true,
            head_us: Some(35),
            compressed: None,
        }),
        end: End {
            by: Side::Balancer,
            phase: Phase::Body,
            reason: "end",
        },
        ..record(n)
    }
}
