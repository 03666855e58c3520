//! The demo's three servers, as processes: started, watched, started again.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use evenkeel_sys::process::ROLE_VARIABLE;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// How many, named as in the demo's configuration.
const NAMES: [&str; 3] = ["b1", "b2", "b3"];

/// A server that ended comes back after this: time to see that the others take over.
pub(super) const RESTART_AFTER: Duration = Duration::from_secs(10);

/// One must have said its port by then.
const START_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Servers {
    all: Vec<Server>,
}

#[derive(Debug)]
struct Server {
    name: &'static str,
    address: SocketAddr,
    state: State,
}

#[derive(Debug)]
enum State {
    Runs(Child),
    /// Ended; comes back at this time.
    Ended(Instant),
}

impl Servers {
    /// Starts all, each on a free port.
    pub(super) async fn start() -> io::Result<Self> {
        let mut all = Vec::new();
        for name in NAMES {
            let (child, port) = spawn(name, 0).await?;
            all.push(Server {
                name,
                address: (Ipv4Addr::LOCALHOST, port).into(),
                state: State::Runs(child),
            });
        }
        Ok(Self { all })
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.all.iter().map(|server| server.address).collect()
    }

    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// Process ids of those that run.
    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        self.all.iter().filter_map(Server::pid)
    }

    /// Process id of the server called `name`, if it runs.
    pub(super) fn pid(&self, name: &str) -> Option<u32> {
        let server = self.all.iter().find(|server| server.name == name)?;
        server.pid()
    }

    /// Notices who ended and starts again whose time has come; what happened, a line each.
    pub(super) async fn tend(&mut self) -> Vec<String> {
        let mut events = Vec::new();
        for server in &mut self.all {
            let name = server.name;
            match &mut server.state {
                State::Runs(child) => {
                    if let Ok(Some(status)) = child.try_wait() {
                        events.push(format!(
                            "demo: server {name} ended ({status}), comes back in {} s",
                            RESTART_AFTER.as_secs()
                        ));
                        server.state = State::Ended(Instant::now() + RESTART_AFTER);
                    }
                }
                State::Ended(again) if Instant::now() >= *again => {
                    server.state = match spawn(name, server.address.port()).await {
                        Ok((child, _)) => {
                            events.push(format!("demo: server {name} is back"));
                            State::Runs(child)
                        }
                        Err(error) => {
                            events.push(format!("demo: cannot start server {name}: {error}"));
                            State::Ended(Instant::now() + RESTART_AFTER)
                        }
                    };
                }
                State::Ended(_) => {}
            }
        }
        events
    }

    /// Ends all. Connections to them end too.
    pub(super) async fn stop(&mut self) {
        for server in &mut self.all {
            if let State::Runs(child) = &mut server.state {
                // One that has ended already is as good.
                child.kill().await.unwrap_or(());
            }
        }
        self.all.clear();
    }
}

impl Server {
    fn pid(&self) -> Option<u32> {
        match &self.state {
            State::Runs(child) => child.id(),
            State::Ended(_) => None,
        }
    }
}

async fn spawn(name: &str, port: u16) -> io::Result<(Child, u16)> {
    let mut child = Command::new(evenkeel_sys::process::image())
        .arg0("evenkeel")
        .args(["demo-backend", "--name", name, "--port", &port.to_string()])
        .env_remove(ROLE_VARIABLE)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // A Ctrl-C is the demo's: it stops the daemon first.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let stdout = child.stdout.take().ok_or(ErrorKind::BrokenPipe)?;
    let mut line = String::new();
    let mut reader = BufReader::new(stdout);
    tokio::time::timeout(START_DEADLINE, reader.read_line(&mut line))
        .await
        .map_err(|_| ErrorKind::TimedOut)??;
    let port = line
        .trim()
        .parse()
        .map_err(|_| io::Error::other(format!("server {name} did not say its port")))?;
    Ok((child, port))
}
