//! evenkeel beside HAProxy and nginx on this machine: `cargo bench --bench side_by_side`.
//!
//! Every peer relays to the same three HTTP servers, with two workers or threads and one log line a connection into a pipe.
//! Rounds are interleaved, so that whatever else the machine does falls on all alike; medians are shown. The rate depends on
//! who else uses the cores; the CPU time per request, read from the peer's own schedstat, does not.
//!
//! Needs Debian's `haproxy`, `nginx`, `libnginx-mod-stream` and `wrk`. The peers' configurations lie in `benches/peers/`.
//! `ROUNDS` and `SECONDS_EACH` in the environment change how long it takes.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement stops at the first surprise, and prints what it found"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const CONFIG: &str = r#"
version = 1
workers = 2
[log]
level = "debug"
[services.bench]
listen = "@LISTEN@"
backends = ["@B1@", "@B2@", "@B3@"]
"#;

struct Work {
    name: &'static str,
    path: &'static str,
    connections: &'static str,
    close: bool,
}

const WORKS: [Work; 3] = [
    Work {
        name: "small keep-alive",
        path: "/small",
        connections: "64",
        close: false,
    },
    Work {
        name: "connection each",
        path: "/small",
        connections: "64",
        close: true,
    },
    Work {
        name: "bulk 1 MiB",
        path: "/bulk",
        connections: "8",
        close: false,
    },
];

#[derive(Clone, Copy)]
struct Measured {
    rate: f64,
    cpu_us: f64,
    p99_us: f64,
}

fn main() {
    // `cargo test` builds and starts benches too, so that they cannot rot; measuring is for `cargo bench`.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("skipped: measuring takes `cargo bench --bench side_by_side`");
        return;
    }
    for tool in ["haproxy", "nginx", "wrk"] {
        if Command::new(tool).arg("-v").output().is_err() {
            println!(
                "skipped: {tool} is not installed (apt-get install haproxy nginx libnginx-mod-stream wrk)"
            );
            return;
        }
    }
    let rounds = number("ROUNDS", 3);
    let seconds = number("SECONDS_EACH", 3);
    let directory = Directory::new();
    let bench = Bench::start(&directory.0);
    let mut results: BTreeMap<(usize, &str), Vec<Measured>> = BTreeMap::new();
    for _ in 0..rounds {
        for (index, work) in WORKS.iter().enumerate() {
            for peer in &bench.peers {
                let measured = measure(peer, work, seconds);
                results
                    .entry((index, peer.name))
                    .or_default()
                    .push(measured);
            }
        }
    }
    report(&results, &bench.peers);
}

fn number(name: &str, default: u32) -> u32 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("evenkeel-bench-{}", std::process::id()));
        fs::create_dir_all(path.join("root")).unwrap();
        fs::write(path.join("root/bulk"), vec![b'x'; 1 << 20]).unwrap();
        // nginx's workers run as another user.
        for part in [path.clone(), path.join("root")] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(part, mode).unwrap();
        }
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

struct Peer {
    name: &'static str,
    address: SocketAddr,
    process: Child,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // SIGTERM lets each take its workers along; whatever is left then is killed.
        let pid = self.process.id().to_string();
        drop(Command::new("kill").arg(&pid).status());
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if let Ok(Some(_)) = self.process.try_wait() {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

struct Bench {
    peers: Vec<Peer>,
    _backend: Peer,
}

impl Bench {
    fn start(directory: &Path) -> Self {
        let addresses: Vec<SocketAddr> = free_addresses(6);
        let fill = |template: &str, listen: SocketAddr| {
            template
                .replace("@DIR@", &directory.display().to_string())
                .replace("@LISTEN@", &listen.to_string())
                .replace("@B1@", &addresses[0].to_string())
                .replace("@B2@", &addresses[1].to_string())
                .replace("@B3@", &addresses[2].to_string())
        };
        let write = |name: &str, template: &str, listen| {
            let path = directory.join(name);
            fs::write(&path, fill(template, listen)).unwrap();
            path
        };
        let backend_config = write(
            "backend.conf",
            include_str!("peers/backend.conf"),
            addresses[0],
        );
        let backend = start(
            "backend",
            addresses[0],
            Command::new("nginx").arg("-c").arg(backend_config),
        );
        let own = write("evenkeel.toml", CONFIG, addresses[3]);
        let haproxy = write(
            "haproxy.cfg",
            include_str!("peers/haproxy.cfg"),
            addresses[4],
        );
        let nginx = write(
            "stream.conf",
            include_str!("peers/nginx-stream.conf"),
            addresses[5],
        );
        let peers = vec![
            start(
                "evenkeel",
                addresses[3],
                Command::new(env!("CARGO_BIN_EXE_evenkeel"))
                    .arg("run")
                    .arg("--config")
                    .arg(own)
                    .arg("--runtime-dir")
                    .arg(directory.join("run")),
            ),
            start(
                "haproxy",
                addresses[4],
                Command::new("haproxy").arg("-f").arg(haproxy),
            ),
            start(
                "nginx",
                addresses[5],
                Command::new("nginx").arg("-c").arg(nginx),
            ),
        ];
        Self {
            peers,
            _backend: backend,
        }
    }
}

fn free_addresses(count: usize) -> Vec<SocketAddr> {
    let listeners: Vec<_> = (0..count)
        .map(|_| TcpListener::bind(("127.0.0.1", 0)).unwrap())
        .collect();
    listeners.iter().map(|l| l.local_addr().unwrap()).collect()
}

/// Starts a process whose output goes into pipes that are read and thrown away, as a log collector would.
fn start(name: &'static str, address: SocketAddr, command: &mut Command) -> Peer {
    let mut process = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drain(process.stdout.take().unwrap());
    drain(process.stderr.take().unwrap());
    let peer = Peer {
        name,
        address,
        process,
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    while !answers(address) {
        assert!(
            Instant::now() < deadline,
            "{name} does not answer on {address}"
        );
        std::thread::park_timeout(Duration::from_millis(50));
    }
    peer
}

fn drain(mut pipe: impl std::io::Read + Send + 'static) {
    drop(std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while pipe.read(&mut buffer).is_ok_and(|n| n > 0) {}
    }));
}

fn answers(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<usize> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET /small HTTP/1.0\r\n\r\n")?;
        stream.read(&mut [0; 16])
    };
    ask().is_ok_and(|n| n > 0)
}

fn measure(peer: &Peer, work: &Work, seconds: u32) -> Measured {
    let before = cpu_ns(peer.process.id());
    let mut command = Command::new("wrk");
    command
        .args(["-t", "1", "-c", work.connections, "--latency"])
        .args(["-d", &format!("{seconds}s")]);
    if work.close {
        command.args(["-H", "Connection: close"]);
    }
    let output = command
        .arg(format!("http://{}{}", peer.address, work.path))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let used = cpu_ns(peer.process.id()) - before;
    let requests = requests(&text).unwrap_or_else(|| unreachable!("wrk printed: {text}"));
    Measured {
        rate: requests / f64::from(seconds),
        cpu_us: used / 1_000.0 / requests,
        p99_us: p99(&text).unwrap_or(f64::NAN),
    }
}

fn requests(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.contains(" requests in "))?;
    line.split_whitespace().next()?.parse().ok()
}

fn p99(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.trim().starts_with("99%"))?;
    let value = line.split_whitespace().nth(1)?;
    let (number, scale) = ["us", "ms", "s"]
        .iter()
        .zip([1.0, 1_000.0, 1_000_000.0])
        .find_map(|(unit, scale)| Some((value.strip_suffix(unit)?, scale)))?;
    Some(number.parse::<f64>().ok()? * scale)
}

/// On-CPU time of a process, its children and their threads (proc_pid_schedstat: the first field, in ns).
fn cpu_ns(pid: u32) -> f64 {
    let own: f64 = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next()?.parse::<f64>().ok())
        .sum();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    let pids = children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok());
    own + pids.map(cpu_ns).sum::<f64>()
}

fn report(results: &BTreeMap<(usize, &str), Vec<Measured>>, peers: &[Peer]) {
    let median = |values: &[Measured], of: fn(&Measured) -> f64| {
        let mut values: Vec<f64> = values.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    println!(
        "{:<18} {:<10} {:>12} {:>12} {:>10} {:>18}",
        "work", "peer", "requests/s", "CPU us/req", "p99 us", "evenkeel CPU ratio"
    );
    let mut json = Vec::new();
    for (index, work) in WORKS.iter().enumerate() {
        let own = median(&results[&(index, "evenkeel")], |m| m.cpu_us);
        for peer in peers {
            let values = &results[&(index, peer.name)];
            let rate = median(values, |m| m.rate);
            let cpu = median(values, |m| m.cpu_us);
            let p99 = median(values, |m| m.p99_us);
            println!(
                "{:<18} {:<10} {rate:>12.0} {cpu:>12.2} {p99:>10.0} {:>18.2}",
                work.name,
                peer.name,
                own / cpu
            );
            json.push(format!(
                r#"{{"work":"{}","peer":"{}","rate":{rate:.1},"cpu_us":{cpu:.3},"p99_us":{p99:.0}}}"#,
                work.name, peer.name
            ));
        }
    }
    println!("[{}]", json.join(",\n "));
}
