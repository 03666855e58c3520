//! The peers as processes: started, asked whether they answer, reloaded, stopped.

use std::fs;
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::processes::pause;
use crate::template::{self, Setup};

/// The daemon that this tree builds.
pub(crate) const OWN: &str = env!("CARGO_BIN_EXE_evenkeel");

/// How long a peer may take until it answers. Thousands of services take some of them a while.
const START: Duration = Duration::from_secs(180);

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Evenkeel,
    Haproxy,
    Nginx,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Evenkeel, Self::Haproxy, Self::Nginx];

    /// As it stands in tables and files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Evenkeel => "evenkeel",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// All of them, with another one first in each round.
    pub(crate) fn rotated(round: u32) -> [Self; 3] {
        let mut kinds = Self::ALL;
        kinds.rotate_left(usize::try_from(round).unwrap_or(0) % 3);
        kinds
    }
}

/// A peer that runs, or the HTTP servers behind it. Stopped when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) kind: Option<Kind>,
    /// Of the first service.
    pub(crate) address: SocketAddr,
    /// From the start of the process to the first answer through it.
    pub(crate) start: Duration,
    process: Child,
    lines: Arc<AtomicU64>,
    tail: Arc<Mutex<Vec<u8>>>,
    label: String,
    directory: PathBuf,
}

impl Running {
    /// Starts a peer and waits until it answers.
    pub(crate) fn start(kind: Kind, setup: &Setup, directory: &Path) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let label = format!("{}-{number}", kind.name());
        let config = directory.join(format!("{label}.conf"));
        fs::write(&config, template::fill(kind, setup, &label, directory)).unwrap();
        let mut command = match kind {
            Kind::Evenkeel => {
                let mut command = Command::new(OWN);
                command.arg("run").arg("--config").arg(&config);
                command.arg("--runtime-dir").arg(directory.join(&label));
                command
            }
            Kind::Haproxy => {
                let mut command = Command::new("haproxy");
                if setup.reloadable {
                    command.arg("-W");
                }
                command.arg("-f").arg(&config);
                command
            }
            Kind::Nginx => {
                let mut command = Command::new("nginx");
                command.arg("-c").arg(&config);
                command
            }
        };
        Self::spawn(Some(kind), &mut command, setup.listens[0], label, directory)
    }

    /// Starts the HTTP servers behind the peers.
    pub(crate) fn start_backend(setup: &Setup, directory: &Path) -> Self {
        let config = directory.join("backend.conf");
        fs::write(&config, template::fill_backend(setup, directory)).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-c").arg(config);
        Self::spawn(
            None,
            &mut command,
            setup.backends[0],
            "backend".to_owned(),
            directory,
        )
    }

    /// Its output goes into pipes that are read and counted, as a log collector would.
    fn spawn(
        kind: Option<Kind>,
        command: &mut Command,
        address: SocketAddr,
        label: String,
        directory: &Path,
    ) -> Self {
        let begin = Instant::now();
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::<AtomicU64>::default();
        let tail = Arc::<Mutex<Vec<u8>>>::default();
        drain(process.stdout.take().unwrap(), &lines, &tail);
        drain(process.stderr.take().unwrap(), &lines, &tail);
        let mut running = Self {
            kind,
            address,
            start: Duration::ZERO,
            process,
            lines,
            tail,
            label,
            directory: directory.to_owned(),
        };
        running.wait_for_answer(address, begin + START);
        running.start = begin.elapsed();
        running
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Lines that it has written so far.
    pub(crate) fn log_lines(&self) -> u64 {
        self.lines.load(Ordering::Relaxed)
    }

    /// Puts another configuration in force: from the request until `probe` answers and, with us, the command has returned too.
    pub(crate) fn reload(&mut self, setup: &Setup, probe: SocketAddr) -> Duration {
        let kind = self.kind.unwrap();
        let config = self.directory.join(format!("{}.conf", self.label));
        let text = template::fill(kind, setup, &self.label, &self.directory);
        fs::write(&config, text).unwrap();
        let begin = Instant::now();
        let pid = self.process.id().to_string();
        let mut command = match kind {
            Kind::Evenkeel => {
                let mut command = Command::new(OWN);
                command.arg("reload").arg("--runtime-dir");
                command.arg(self.directory.join(&self.label));
                command
            }
            Kind::Haproxy => {
                let mut command = Command::new("kill");
                command.arg("-USR2").arg(pid);
                command
            }
            Kind::Nginx => {
                let mut command = Command::new("nginx");
                command.args(["-s", "reload", "-c"]).arg(&config);
                command
            }
        };
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{} does not reload: {}",
            self.label,
            String::from_utf8_lossy(&output.stderr)
        );
        self.wait_for_answer(probe, begin + START);
        begin.elapsed()
    }

    fn wait_for_answer(&mut self, address: SocketAddr, deadline: Instant) {
        while !answers(address) {
            let ended = self.process.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "{} does not answer on {address} ({ended:?}): {}",
                self.label,
                String::from_utf8_lossy(&self.tail.lock().unwrap())
            );
            pause(Duration::from_millis(1));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // SIGTERM lets each take its workers along; whatever is left then is killed.
        let pid = self.process.id().to_string();
        drop(Command::new("kill").arg(&pid).status());
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if let Ok(Some(_)) = self.process.try_wait() {
                return;
            }
            pause(Duration::from_millis(20));
        }
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// A port that is free on every address of this host, outside the range that the kernel takes for connections.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(20_000);
    loop {
        let port = u16::try_from(NEXT.fetch_add(1, Ordering::Relaxed)).unwrap();
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
}

/// The `index`-th address of 127.`net`.0.0/16.
pub(crate) fn loopback(net: u8, index: usize, port: u16) -> SocketAddr {
    let [.., high, low] = u32::try_from(index / 250 * 256 + index % 250 + 1)
        .unwrap()
        .to_be_bytes();
    SocketAddr::from(([127, net, high, low], port))
}

fn drain(mut pipe: impl Read + Send + 'static, lines: &Arc<AtomicU64>, tail: &Arc<Mutex<Vec<u8>>>) {
    let (lines, tail) = (Arc::clone(lines), Arc::clone(tail));
    drop(std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            let read = &buffer[..length];
            let ends = read.iter().filter(|&&byte| byte == b'\n').count();
            lines.fetch_add(u64::try_from(ends).unwrap(), Ordering::Relaxed);
            // Shown when it fails.
            let mut tail = tail.lock().unwrap();
            tail.clear();
            tail.extend_from_slice(&read[length.saturating_sub(2_000)..]);
        }
    }));
}

/// Whether a backend's answer comes; what an HTTP proxy says of itself, that it has none yet, is not one.
fn answers(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<[u8; 12]> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET /small HTTP/1.0\r\nHost: bench\r\n\r\n")?;
        let mut line = [0; 12];
        stream.read_exact(&mut line)?;
        Ok(line)
    };
    ask().is_ok_and(|line| line.ends_with(b" 200"))
}
