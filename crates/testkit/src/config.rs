//! A configuration as text.

use std::fmt;
use std::net::SocketAddr;

use crate::Backend;

/// A configuration with short times, so that tests are quick. Its `Display` is the file.
#[derive(Clone, Debug)]
pub struct Config {
    /// Worker processes.
    pub workers: u16,
    /// Address of the metrics endpoint; empty = none.
    pub metrics: String,
    /// `drain.delay`.
    pub drain_delay: String,
    /// `drain.deadline`.
    pub drain_deadline: String,
    /// `drain.handshakes`.
    pub handshakes: String,
    /// `watchdog.steer_after`.
    pub steer_after: String,
    /// `watchdog.kill_after`.
    pub kill_after: String,
    /// Lines of the top of the file, such as `user = "keep"`.
    pub top: String,
    /// Services.
    pub services: Vec<Service>,
}

/// A service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Name.
    pub name: String,
    /// Listening addresses.
    pub listen: Vec<String>,
    /// `rr` or `wrr`.
    pub scheduler: String,
    /// Name, address and weight.
    pub backends: Vec<(String, SocketAddr, u16)>,
    /// `connect.timeout`.
    pub connect_timeout: String,
    /// `connect.attempts`.
    pub connect_attempts: u8,
    /// Whether backends are checked.
    pub check: bool,
    /// `check.interval`, and `check.timeout`.
    pub check_interval: String,
    /// `check.fall`.
    pub fall: u16,
}

impl Config {
    /// Two workers, metrics, and these services.
    #[must_use]
    pub fn new(services: impl IntoIterator<Item = Service>) -> Self {
        Self {
            workers: 2,
            metrics: "127.0.0.1:0".to_owned(),
            drain_delay: "0s".to_owned(),
            drain_deadline: "5s".to_owned(),
            handshakes: "500ms".to_owned(),
            steer_after: "500ms".to_owned(),
            kill_after: "2s".to_owned(),
            top: String::new(),
            services: services.into_iter().collect(),
        }
    }

    /// With this many workers.
    #[must_use]
    pub fn workers(mut self, workers: u16) -> Self {
        self.workers = workers;
        self
    }
}

impl Service {
    /// A service on a port that the kernel chooses, with a weight of 1 for each of `backends`.
    #[must_use]
    pub fn new<'a>(name: &str, backends: impl IntoIterator<Item = &'a Backend>) -> Self {
        Self {
            name: name.to_owned(),
            listen: vec!["127.0.0.1:0".to_owned()],
            scheduler: "rr".to_owned(),
            backends: backends
                .into_iter()
                .map(|backend| (backend.name().to_owned(), backend.address(), 1))
                .collect(),
            connect_timeout: "1s".to_owned(),
            connect_attempts: 3,
            check: true,
            check_interval: "100ms".to_owned(),
            fall: 2,
        }
    }

    /// Without health checks.
    #[must_use]
    pub fn unchecked(mut self) -> Self {
        self.check = false;
        self
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "version = 1")?;
        writeln!(f, "workers = {}", self.workers)?;
        writeln!(f, "{}", self.top)?;
        if !self.metrics.is_empty() {
            writeln!(f, "[metrics]\nlisten = \"{}\"", self.metrics)?;
        }
        writeln!(f, "[drain]")?;
        writeln!(f, "delay = \"{}\"", self.drain_delay)?;
        writeln!(f, "deadline = \"{}\"", self.drain_deadline)?;
        writeln!(f, "handshakes = \"{}\"", self.handshakes)?;
        writeln!(f, "[watchdog]")?;
        writeln!(f, "steer_after = \"{}\"", self.steer_after)?;
        writeln!(f, "kill_after = \"{}\"", self.kill_after)?;
        self.services.iter().try_for_each(|service| service.fmt(f))
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "[services.{}]", self.name)?;
        writeln!(f, "listen = {:?}", self.listen)?;
        writeln!(f, "scheduler = \"{}\"", self.scheduler)?;
        writeln!(
            f,
            "connect = {{ timeout = \"{}\", attempts = {} }}",
            self.connect_timeout, self.connect_attempts
        )?;
        writeln!(f, "backends = [")?;
        for (name, address, weight) in &self.backends {
            writeln!(
                f,
                "  {{ name = \"{name}\", address = \"{address}\", weight = {weight} }},"
            )?;
        }
        writeln!(f, "]")?;
        if self.check {
            writeln!(f, "[services.{}.check]", self.name)?;
            writeln!(f, "kind = \"tcp\"")?;
            writeln!(f, "interval = \"{}\"", self.check_interval)?;
            writeln!(f, "timeout = \"{}\"", self.check_interval)?;
            writeln!(f, "rise = 1\nfall = {}", self.fall)
        } else {
            writeln!(f, "check = \"none\"")
        }
    }
}
