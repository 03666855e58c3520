//! A scripted name server, over UDP and TCP.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Role;
use super::process::Process;

/// Longest answer over UDP; longer ones are cut and asked for again over TCP.
const UDP_BYTES_MAX: usize = 1_200;

const A: u16 = 1;
const AAAA: u16 = 28;
const SRV: u16 = 33;
const CLASS_IN: u16 = 1;

/// What the server says of a name. Of those that it was told nothing about it says NXDOMAIN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Zone {
    /// These addresses, for this many seconds.
    Addresses(Vec<IpAddr>, u32),
    /// These hosts and their ports (SRV), for this many seconds.
    Services(Vec<(String, u16)>, u32),
    /// The name exists and has no address.
    Empty,
    /// The name does not exist.
    NxDomain,
    /// The server cannot say.
    ServFail,
    /// No answer at all.
    Silence,
}

/// A name server, from the test's side.
#[derive(Debug)]
pub struct Dns {
    process: Process,
    address: SocketAddr,
}

impl Default for Dns {
    fn default() -> Self {
        Self::start()
    }
}

impl Dns {
    /// Starts one that knows no name.
    #[must_use]
    pub fn start() -> Self {
        let process = Process::start("dns", &[]);
        let wanted = SocketAddr::from((super::loopback(), 0));
        let address = process.tell(&format!("listen {wanted}"));
        Self {
            process,
            address: address.parse().expect("an address"),
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it says of `name` from now on.
    pub fn set(&self, name: &str, zone: &Zone) {
        self.process.tell(&match zone {
            Zone::Addresses(addresses, ttl) => {
                let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
                format!("{name} addresses {ttl} {}", addresses.join(" "))
            }
            Zone::Services(targets, ttl) => {
                let targets: Vec<String> = targets
                    .iter()
                    .map(|(host, port)| format!("{host}:{port}"))
                    .collect();
                format!("{name} services {ttl} {}", targets.join(" "))
            }
            Zone::Empty => format!("{name} empty"),
            Zone::NxDomain => format!("{name} nxdomain"),
            Zone::ServFail => format!("{name} servfail"),
            Zone::Silence => format!("{name} silence"),
        });
    }

    /// Questions so far about `name`.
    #[must_use]
    pub fn asked(&self, name: &str) -> u64 {
        let count = self.process.tell(&format!("{name} asked"));
        count.parse().expect("a number")
    }

    /// Stops it: no question is answered, until [`Self::thaw`].
    pub fn freeze(&self) {
        self.process.freeze();
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.process.thaw();
    }
}

/// The server itself.
pub(super) struct Server {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    names: BTreeMap<String, Zone>,
    asked: BTreeMap<String, u64>,
}

impl Server {
    pub(super) fn new() -> Self {
        Self {
            state: Arc::default(),
        }
    }

    fn listen(&self, address: SocketAddr) -> std::io::Result<SocketAddr> {
        let tcp = TcpListener::bind(address)?;
        let address = tcp.local_addr()?;
        let udp = UdpSocket::bind(address)?;
        let state = Arc::clone(&self.state);
        let over_udp = move || {
            let mut buffer = [0; 4_096];
            while let Ok((length, client)) = udp.recv_from(&mut buffer) {
                if let Some(answer) = lock(&state).answer(&buffer[..length], UDP_BYTES_MAX) {
                    // The client may be gone.
                    drop(udp.send_to(&answer, client));
                }
            }
        };
        let state = Arc::clone(&self.state);
        let over_tcp = move || {
            for stream in tcp.incoming().flatten() {
                let state = Arc::clone(&state);
                let talk = move || drop(converse(stream, &state));
                drop(std::thread::Builder::new().spawn(talk).expect("a thread"));
            }
        };
        drop(std::thread::Builder::new().spawn(over_udp)?);
        drop(std::thread::Builder::new().spawn(over_tcp)?);
        Ok(address)
    }
}

impl Role for Server {
    fn command(&self, line: &str) -> Result<String, String> {
        let words: Vec<&str> = line.split(' ').collect();
        let zone = match words.as_slice() {
            ["listen", address] => {
                let address = address.parse().map_err(|_| "not an address")?;
                let address = self.listen(address).map_err(|error| error.to_string())?;
                return Ok(address.to_string());
            }
            [name, "asked"] => {
                let asked = lock(&self.state).asked.get(*name).copied();
                return Ok(asked.unwrap_or(0).to_string());
            }
            [_, "empty"] => Zone::Empty,
            [_, "nxdomain"] => Zone::NxDomain,
            [_, "servfail"] => Zone::ServFail,
            [_, "silence"] => Zone::Silence,
            [_, "addresses", ttl, addresses @ ..] => {
                let ttl = ttl.parse().map_err(|_| "not a number")?;
                let addresses: Result<_, _> = addresses.iter().map(|word| word.parse()).collect();
                Zone::Addresses(addresses.map_err(|_| "not an address")?, ttl)
            }
            [_, "services", ttl, targets @ ..] => {
                let ttl = ttl.parse().map_err(|_| "not a number")?;
                let target = |word: &&str| {
                    let (host, port) = word.split_once(':')?;
                    Some((host.to_owned(), port.parse().ok()?))
                };
                let targets: Option<_> = targets.iter().map(target).collect();
                Zone::Services(targets.ok_or("not a host and port")?, ttl)
            }
            _ => return Err(format!("what is {line}?")),
        };
        lock(&self.state).names.insert(words[0].to_owned(), zone);
        Ok(String::new())
    }
}

impl State {
    /// `None` = silence, also to what is no question.
    fn answer(&mut self, question: &[u8], bytes_max: usize) -> Option<Vec<u8>> {
        const HEADER: usize = 12;
        let mut at = HEADER;
        let mut name = String::new();
        loop {
            let length = usize::from(*question.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            let label = question.get(at..at + length)?;
            if !name.is_empty() {
                name.push('.');
            }
            name.push_str(&String::from_utf8_lossy(label).to_ascii_lowercase());
            at += length;
        }
        let kind = u16::from_be_bytes(question.get(at..at + 2)?.try_into().ok()?);
        let asked = question.get(HEADER..at + 4)?;
        *self.asked.entry(name.clone()).or_default() += 1;
        let zone = self.names.get(&name).unwrap_or(&Zone::NxDomain);
        let (code, records) = match zone {
            Zone::Silence => return None,
            Zone::Empty => (0, Vec::new()),
            Zone::NxDomain => (3, Vec::new()),
            Zone::ServFail => (2, Vec::new()),
            Zone::Addresses(addresses, ttl) => {
                let of_kind = addresses
                    .iter()
                    .filter(|ip| (kind == A && ip.is_ipv4()) || (kind == AAAA && ip.is_ipv6()));
                (0, of_kind.map(|ip| address(*ip, *ttl)).collect())
            }
            Zone::Services(targets, ttl) => {
                let of_kind = targets.iter().filter(|_| kind == SRV);
                let records = of_kind.map(|(host, port)| service(host, *port, *ttl));
                (0, records.collect())
            }
        };
        let length: usize = records.iter().map(Vec::len).sum();
        let cut = HEADER + asked.len() + length > bytes_max;
        let records = if cut { Vec::new() } else { records };
        let mut answer = question.get(..2)?.to_vec();
        // An answer, with authority, recursion asked for and done; cut or not; the code.
        answer.extend([0x85 | if cut { 2 } else { 0 }, 0x80 | code]);
        for count in [1, u16::try_from(records.len()).ok()?, 0, 0] {
            answer.extend(count.to_be_bytes());
        }
        answer.extend(asked);
        records.iter().for_each(|record| answer.extend(record));
        Some(answer)
    }
}

fn address(ip: IpAddr, ttl: u32) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => record(A, ttl, &ip.octets()),
        IpAddr::V6(ip) => record(AAAA, ttl, &ip.octets()),
    }
}

/// All of one priority and weight.
fn service(host: &str, port: u16, ttl: u32) -> Vec<u8> {
    let mut data = vec![0, 10, 0, 10];
    data.extend(port.to_be_bytes());
    for label in host.split('.') {
        data.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
        data.extend(label.bytes());
    }
    data.push(0);
    record(SRV, ttl, &data)
}

fn record(kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    // The name: where the question has it.
    let mut record = vec![0xc0, 12];
    record.extend(kind.to_be_bytes());
    record.extend(CLASS_IN.to_be_bytes());
    record.extend(ttl.to_be_bytes());
    record.extend(u16::try_from(data.len()).unwrap_or(u16::MAX).to_be_bytes());
    record.extend(data);
    record
}

fn converse(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut question)?;
        let answer = lock(state).answer(&question, usize::from(u16::MAX));
        let Some(answer) = answer else { continue };
        let length = u16::try_from(answer.len()).unwrap_or(u16::MAX);
        stream.write_all(&length.to_be_bytes())?;
        stream.write_all(&answer)?;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;

    fn question(kind: u16) -> Vec<u8> {
        let mut question = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        question.extend(b"\x02b1\x04test\0");
        question.extend(kind.to_be_bytes());
        question.extend(CLASS_IN.to_be_bytes());
        question
    }

    /// Code, whether it was cut, number of answers.
    fn ask(dns: &Dns, kind: u16) -> Option<(u8, bool, u16)> {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let time = Some(Duration::from_millis(300));
        socket.set_read_timeout(time).unwrap();
        socket.send_to(&question(kind), dns.address()).unwrap();
        let mut answer = [0; 2_000];
        let length = socket.recv(&mut answer).ok()?;
        assert!(length <= UDP_BYTES_MAX && answer[..2] == [0xab, 0xcd]);
        let count = u16::from_be_bytes([answer[6], answer[7]]);
        Some((answer[3] & 0xf, answer[2] & 2 != 0, count))
    }

    #[test]
    fn it_answers_as_it_was_told() {
        let dns = Dns::start();
        assert_eq!(ask(&dns, A), Some((3, false, 0)));
        let ip = |last| IpAddr::from(Ipv4Addr::new(127, 0, 0, last));
        dns.set("b1.test", &Zone::Addresses(vec![ip(1), ip(2)], 5));
        assert_eq!(ask(&dns, A), Some((0, false, 2)));
        assert_eq!(ask(&dns, AAAA), Some((0, false, 0)));
        dns.set("b1.test", &Zone::Addresses(vec![ip(1); 1_000], 5));
        assert_eq!(ask(&dns, A), Some((0, true, 0)));
        let target = ("b2.test".to_owned(), 5_984);
        dns.set("b1.test", &Zone::Services(vec![target], 5));
        assert_eq!(ask(&dns, SRV), Some((0, false, 1)));
        dns.set("b1.test", &Zone::ServFail);
        assert_eq!(ask(&dns, A), Some((2, false, 0)));
        dns.set("b1.test", &Zone::Silence);
        assert_eq!(ask(&dns, A), None);
        assert_eq!(dns.asked("b1.test"), 7);
        let mut stream = TcpStream::connect(dns.address()).unwrap();
        dns.set("b1.test", &Zone::Addresses(vec![ip(1); 1_000], 5));
        let question = question(A);
        let length = u16::try_from(question.len()).unwrap();
        stream.write_all(&length.to_be_bytes()).unwrap();
        stream.write_all(&question).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        assert!(u16::from_be_bytes(length) > 16_000);
    }
}
