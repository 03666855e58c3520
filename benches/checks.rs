//! What health checks cost: `cargo bench --bench checks`. A thousand backends, each checked every second by the real daemon; the
//! monitor's CPU time over some seconds, from its own schedstat. `BACKENDS` and `SECONDS` in the environment change that.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement stops at the first surprise, and prints what it found"
)]

use std::fmt::Write as _;
use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn main() {
    // `cargo test` builds and starts benches too, so that they cannot rot; measuring is for `cargo bench`.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("skipped: measuring takes `cargo bench --bench checks`");
        return;
    }
    let backends = number("BACKENDS", 1_000);
    let seconds = number("SECONDS", 10);
    let directory = std::env::temp_dir().join(format!("evenkeel-checks-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    // One socket answers for every address of 127/8. Its queue holds a whole round of checks.
    let listener = TcpListener::bind(("0.0.0.0", 0)).unwrap();
    evenkeel_sys::listen::listen(listener.as_fd(), 4_096).unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(std::thread::spawn(move || {
        for stream in listener.incoming() {
            drop(stream);
        }
    }));
    let mut config = String::from(
        "version = 1\nworkers = 1\n[services.bench]\nlisten = \"127.0.0.1:0\"\ncheck = { kind = \"tcp\", interval = \"1s\" }\nbackends = [\n",
    );
    for number in 0..backends {
        let (high, low) = (number / 250, number % 250 + 1);
        writeln!(config, "  \"127.1.{high}.{low}:{port}\",").unwrap();
    }
    config.push_str("]\n");
    let path = directory.join("evenkeel.toml");
    std::fs::write(&path, config).unwrap();
    let daemon = Daemon(
        Command::new(env!("CARGO_BIN_EXE_evenkeel"))
            .arg("run")
            .arg("--config")
            .arg(&path)
            .arg("--runtime-dir")
            .arg(directory.join("run"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    // The first round, with its news of each backend, is not what is measured.
    pause(Duration::from_secs(4));
    let monitor = monitor(daemon.0.id()).unwrap();
    let before = cpu_ns(monitor);
    let started = Instant::now();
    pause(Duration::from_secs(seconds));
    let used = cpu_ns(monitor) - before;
    let share = used / 1e9 / started.elapsed().as_secs_f64() * 100.0;
    println!(
        "{backends} backends checked every second: the monitor uses {share:.2} % of a core ({:.1} us a check)",
        used / 1e3 / f64::from(u32::try_from(backends * seconds).unwrap())
    );
    drop(daemon);
    drop(std::fs::remove_dir_all(directory));
}

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(Command::new("kill").arg(self.0.id().to_string()).status());
        drop(self.0.wait());
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn pause(duration: Duration) {
    let end = Instant::now() + duration;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
}

/// The child whose name says that it is the monitor.
fn monitor(supervisor: u32) -> Option<u32> {
    let path = format!("/proc/{supervisor}/task/{supervisor}/children");
    let children = std::fs::read_to_string(path).ok()?;
    children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .find(|pid: &u32| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
            name.is_ok_and(|name| name.trim() == "ek-monitor")
        })
}

fn cpu_ns(pid: u32) -> f64 {
    std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next()?.parse::<f64>().ok())
        .sum()
}
