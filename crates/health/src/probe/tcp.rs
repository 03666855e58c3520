//! Can a TCP connection be made?

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::outcome::Outcome;

/// Connects, and closes in order: a backend sees a client that came and went, not a reset.
pub(super) async fn probe(target: SocketAddr, timeout: Duration) -> Outcome {
    let started = Instant::now();
    let deadline = started + timeout;
    // When both are due at once, as after a pause of this process, the connection is looked at before the deadline.
    let connected = timeout_at(deadline, TcpStream::connect(target)).await;
    let now = Instant::now();
    let duration = now - started;
    match connected {
        Ok(Ok(stream)) if is_own_echo(&stream) => Outcome::failed("connection refused", duration),
        Ok(Ok(_)) => Outcome::passed("connected", duration),
        Ok(Err(error)) => Outcome::error(&error, duration),
        Err(_) => Outcome::timed_out(timeout, now - deadline, duration),
    }
}

/// Whether the socket is connected to itself: on this host, the kernel may choose the port that is asked for as the local
/// one, and a socket that connects to its own address succeeds (simultaneous open, RFC 9293 section 3.5).
fn is_own_echo(stream: &TcpStream) -> bool {
    let same = || -> io::Result<bool> { Ok(stream.local_addr()? == stream.peer_addr()?) };
    same().unwrap_or(false)
}
