//! Whatever backends do, each client gets its own answers.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{Shutdown, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use evenkeel_testkit::http::{HttpBackend, HttpClient};
use evenkeel_testkit::pause_until;
use socket2::SockRef;

use crate::alone;
use crate::x_http::{assert_rest, web};

/// Numbers that look random and are the same each time.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        // Steele, Lea, Flood: SplitMix.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }
}

/// An answer that nobody has asked for.
const POISON: &str = "HTTP/1.1 200 OK\r\nX-Id: poison\r\nContent-Length: 6\r\n\r\npoison";

pub(crate) fn pattern(id: &str, length: usize) -> Vec<u8> {
    id.bytes().cycle().take(length).collect()
}

pub(crate) const TRICKS: u64 = 14;

/// Answers `/trick/length/id` as the trick says.
pub(crate) fn trickster(name: &str, wrong: &Arc<Mutex<Vec<String>>>) -> HttpBackend {
    let wrong = Arc::clone(wrong);
    HttpBackend::start(name, move |exchange| {
        let target = exchange.target();
        let parts: Vec<_> = target.split('/').collect();
        let [_, trick, length, id] = parts[..] else {
            wrong.lock().unwrap().push(format!("{:?}", exchange.head));
            return exchange.reset();
        };
        let trick: u64 = trick.parse().unwrap();
        let length: usize = length.parse().unwrap();
        let is_head = exchange.head.method() == "HEAD";
        if !matches!(trick, 6 | 7) {
            if !exchange.body() {
                return;
            }
            if exchange.content() != pattern(id, length) {
                wrong.lock().unwrap().push(format!("body of {target}"));
            }
        }
        let whole = |spare: &str| {
            let body = if is_head { "" } else { id };
            let length = id.len();
            format!(
                "HTTP/1.1 200 OK\r\nX-Id: {id}\r\nContent-Length: {length}\r\n\r\n{body}{spare}"
            )
        };
        let chunked = |spare: &str| {
            let length = id.len();
            let body = match is_head {
                true => String::new(),
                false => format!("{length:x};a=\"b\"\r\n{id}\r\n0\r\nX-Sum: 1\r\n\r\n"),
            };
            format!(
                "HTTP/1.1 200 OK\r\nX-Id: {id}\r\nTransfer-Encoding: chunked\r\n\r\n{body}{spare}"
            )
        };
        match trick {
            0 => exchange.send(whole("")),
            1 => exchange.send(chunked("")),
            2 => exchange.send(whole(POISON)),
            3 => exchange.send(format!("HTTP/1.1 204 Odd\r\nX-Id: {id}\r\n\r\n{POISON}")),
            4 => exchange.send(format!(
                "HTTP/1.1 304 Odd\r\nX-Id: {id}\r\nContent-Length: {}\r\n\r\n{POISON}",
                POISON.len()
            )),
            5 => exchange.send(format!(
                "HTTP/1.1 103 Odd\r\nX-Id: {id}\r\n\r\nHTTP/1.1 100 Odd\r\n\r\n{}",
                whole("")
            )),
            // Whether or not the request has come.
            6 => exchange.send(whole("")),
            7 => {
                exchange.send(whole(""));
                exchange.close();
                true
            }
            8 => {
                exchange.send(format!("HTTP/1.1 200 OK\r\nX-Id: {id}\r\n\r\n{id}"));
                exchange.close();
                true
            }
            9 => exchange.send(chunked(POISON)),
            10 => {
                let cut = whole("");
                exchange.send(&cut[..cut.len() - 3]);
                exchange.close();
                true
            }
            11 => {
                exchange.close();
                true
            }
            12 => {
                let body = pattern(id, 300_000);
                exchange.answer(200, &format!("X-Id: {id}\r\n"), body);
                true
            }
            _ => {
                exchange.send(whole(""));
                exchange.close();
                true
            }
        };
    })
}

pub(crate) fn request(trick: u64, id: &str, dice: &mut Dice) -> (&'static str, Vec<u8>) {
    let method = ["GET", "HEAD", "POST", "PUT"][usize::try_from(dice.roll(4)).unwrap()];
    let length = match (method, dice.roll(4)) {
        ("GET" | "HEAD", _) | (_, 0) => 0,
        (_, 1) => dice.roll(10),
        (_, 2) => dice.roll(3_000),
        _ => dice.roll(200_000),
    };
    let body = pattern(id, usize::try_from(length).unwrap());
    let head = format!("{method} /{trick}/{length}/{id} HTTP/1.1\r\nHost: a\r\nX-Id: {id}\r\n");
    let mut bytes = head.into_bytes();
    if dice.roll(2) == 0 && length > 0 {
        bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
        let piece = usize::try_from(1 + dice.roll(length)).unwrap();
        for piece in body.chunks(piece.max(body.len() / 500 + 1)) {
            bytes.extend(format!("{:X}\r\n", piece.len()).bytes());
            bytes.extend(piece);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n\r\n");
    } else if length > 0 {
        bytes.extend(format!("Content-Length: {length}\r\n\r\n").bytes());
        bytes.extend(&body);
    } else {
        bytes.extend(b"\r\n");
    }
    (method, bytes)
}

/// Asks on and on; what was wrong with the answers. `is_rude`: goes away at any time, and may be refused.
pub(crate) fn ask_on(
    address: SocketAddr,
    thread: u64,
    until: Instant,
    is_rude: bool,
) -> (u64, Vec<String>) {
    let mut dice = Dice(thread);
    let (mut served, mut wrong) = (0, Vec::new());
    let mut number = 0;
    while Instant::now() < until {
        let mut client = HttpClient::connect(address);
        'connection: while Instant::now() < until {
            let mut all = Vec::new();
            let mut expected = Vec::new();
            for _ in 0..=dice.roll(3) {
                number += 1;
                let (trick, id) = (dice.roll(TRICKS), format!("t{thread}-{number}-"));
                let (method, bytes) = request(trick, &id, &mut dice);
                all.extend(bytes);
                expected.push((trick, id, method));
            }
            let mut sender = client.stream().try_clone().unwrap();
            let (piece, pause) = match dice.roll(3) {
                0 => (all.len() / 4 + 1, Duration::from_millis(4)),
                _ => (
                    usize::try_from(1 + dice.roll(100_000)).unwrap(),
                    Duration::ZERO,
                ),
            };
            let sending = std::thread::spawn(move || {
                all.chunks(piece).all(|piece| {
                    let is_sent = sender.write_all(piece).is_ok();
                    pause_until(Instant::now() + pause);
                    is_sent
                })
            });
            let mut is_kept = dice.roll(20) > 0;
            for (trick, id, method) in expected {
                if is_rude && dice.roll(8) == 0 {
                    is_kept = false;
                    pause_until(Instant::now() + Duration::from_millis(dice.roll(5)));
                    SockRef::from(client.stream())
                        .set_linger(Some(Duration::ZERO))
                        .unwrap();
                    break;
                }
                let answer = match client.answer(method) {
                    Ok(answer) => answer,
                    Err(broken) => {
                        if trick != 10 && !is_rude {
                            wrong.push(format!("{method} {trick} {id}: {broken:?}"));
                        }
                        is_kept = false;
                        break;
                    }
                };
                let by = answer.field("x-id");
                let is_right = match answer.status() {
                    200 | 204 | 304 => {
                        let body = match (method, answer.status(), trick) {
                            ("HEAD", ..) | (_, 204 | 304, _) => Vec::new(),
                            (.., 12) => pattern(&id, 300_000),
                            _ => id.clone().into_bytes(),
                        };
                        by.as_deref() == Some(&*id) && answer.body.data == body
                    }
                    // Between them a backend may seem to be gone, by the tricks that end connections.
                    _ if is_rude => answer.status() >= 500,
                    502 => matches!(trick, 7 | 8 | 10 | 11 | 13) || method != "GET",
                    _ => false,
                };
                served += 1;
                if !is_right {
                    wrong.push(format!("{method} {trick} {id}: {answer:?}"));
                }
                is_kept &= !answer.closes();
                if !is_kept {
                    break;
                }
            }
            if !is_kept && !is_rude {
                drop(client.stream().shutdown(Shutdown::Both));
            } else if !is_kept {
                client.reset();
                sending.join().unwrap();
                break 'connection;
            }
            sending.join().unwrap();
            if !is_kept {
                break 'connection;
            }
        }
    }
    (served, wrong)
}

#[test]
fn whatever_backends_do_each_client_gets_its_own_answers() {
    let _alone = alone();
    let wrong = Arc::new(Mutex::new(Vec::new()));
    let servers = [trickster("b1", &wrong), trickster("b2", &wrong)];
    let (daemon, address) = web(&[&servers[0], &servers[1]], "");
    let until = Instant::now() + Duration::from_secs(5);
    let threads: Vec<_> = (0..12)
        .map(|thread| std::thread::spawn(move || ask_on(address, thread, until, false)))
        .collect();
    let mut served = 0;
    for thread in threads {
        let (count, found) = thread.join().unwrap();
        served += count;
        wrong.lock().unwrap().extend(found);
    }
    let wrong = wrong.lock().unwrap();
    let some: Vec<_> = wrong
        .iter()
        .take(8)
        .map(|what| what.get(..600).unwrap_or(what))
        .collect();
    assert!(wrong.is_empty(), "{} of {served}: {some:#?}", wrong.len());
    let mut methods = BTreeMap::<String, Vec<String>>::new();
    for seen in servers.iter().flat_map(HttpBackend::seen) {
        if seen.body.is_some() {
            let of_id = methods.entry(seen.head.field("x-id").unwrap());
            of_id.or_default().push(seen.head.method());
        }
    }
    for (id, methods) in methods {
        let is_safe = methods.len() == 1 || methods.iter().all(|m| ["GET", "HEAD"].contains(&&**m));
        assert!(is_safe, "{id} was executed more than once: {methods:?}");
    }
    assert!(served > 300, "{served}");
    assert_rest(&daemon);
}
