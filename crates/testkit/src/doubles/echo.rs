//! A server that sends back what comes, with room for as many connections as a process may have: they are not the test's.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::Role;
use super::process::Process;
use crate::proc;

/// An echo, from the test's side.
#[derive(Debug)]
pub struct Echo {
    process: Process,
    address: SocketAddr,
}

impl Default for Echo {
    fn default() -> Self {
        Self::start()
    }
}

impl Echo {
    /// Starts one at an address of its own.
    #[must_use]
    pub fn start() -> Self {
        let process = Process::start("echo", &[]);
        let answer = process.tell(&format!("listen {}", super::loopback()));
        let address = answer.parse().expect("an address");
        Self { process, address }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections accepted so far, those of health checks too.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.process.tell("accepted").parse().expect("a number")
    }

    /// Refuses from now on; open connections go on.
    pub fn refuse(&self) {
        self.process.tell("refuse");
    }
}

/// The double's side.
#[derive(Debug, Default)]
pub(super) struct Server {
    accepted: Arc<AtomicU64>,
    stop: Mutex<Option<oneshot::Sender<()>>>,
}

impl Server {
    pub(super) fn new() -> Self {
        // Fewer than it may have is what a test finds out when it needs more.
        let _most: u64 = proc::raise_descriptors();
        Self::default()
    }

    fn listen(&self, ip: &str) -> Result<String, String> {
        let words = |error: &dyn std::fmt::Display| error.to_string();
        let listener = std::net::TcpListener::bind(format!("{ip}:0")).map_err(|e| words(&e))?;
        // Beyond the 128 of the standard library (listen(2) may be called again).
        let made = socket2::SockRef::from(&listener)
            .listen(4_096)
            .and_then(|()| listener.set_nonblocking(true))
            .and_then(|()| listener.local_addr());
        let address = made.map_err(|e| words(&e))?;
        let (stop, stopped) = oneshot::channel();
        self.lock().replace(stop);
        let accepted = Arc::clone(&self.accepted);
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(serve(listener, stopped, &accepted));
        };
        let thread = std::thread::Builder::new().name("echo".to_owned());
        drop(thread.spawn(run).map_err(|e| words(&e))?);
        Ok(address.to_string())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<oneshot::Sender<()>>> {
        self.stop.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Role for Server {
    fn command(&self, line: &str) -> Result<String, String> {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("listen", ip) => self.listen(ip),
            ("accepted", "") => Ok(self.accepted.load(Ordering::SeqCst).to_string()),
            ("refuse", "") => match self.lock().take() {
                Some(stop) => stop
                    .send(())
                    .map_err(|()| "it has ended".to_owned())
                    .map(|()| String::new()),
                None => Err("it does not listen".to_owned()),
            },
            _ => Err(format!("no such command: {line}")),
        }
    }
}

async fn serve(
    listener: std::net::TcpListener,
    mut stopped: oneshot::Receiver<()>,
    accepted: &AtomicU64,
) {
    let listener = TcpListener::from_std(listener).expect("a fresh socket");
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            Ok((stream, _)) = listener.accept() => {
                accepted.fetch_add(1, Ordering::SeqCst);
                drop(tokio::spawn(echo(stream)));
            }
        }
    }
    drop(listener);
    // Those that are open go on for as long as the process.
    std::future::pending().await
}

async fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 512];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;
    use crate::client;
    use crate::eventually;

    #[test]
    fn it_goes_on_with_those_that_it_has_when_it_refuses() {
        let echo = Echo::start();
        let mut stream = client::connect(echo.address()).unwrap();
        let mut talk = || {
            stream.write_all(b"x").unwrap();
            let mut back = [0];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(&back, b"x");
        };
        talk();
        assert_eq!(echo.accepted(), 1);
        echo.refuse();
        let refused = || client::connect(echo.address()).err();
        eventually(std::time::Duration::from_secs(5), "it refuses", refused);
        talk();
    }
}
