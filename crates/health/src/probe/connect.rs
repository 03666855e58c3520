//! A TCP connection to an endpoint, from the address that the check says.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::net::{TcpSocket, TcpStream};

use super::outcome::Outcome;
use super::talk::Talk;

/// Connects.
///
/// # Errors
/// The outcome that the failure means.
pub(super) async fn connect(
    endpoint: SocketAddr,
    source: Option<IpAddr>,
    talk: &Talk,
) -> Result<TcpStream, Outcome> {
    talk.begin("");
    let connected = match source {
        None => TcpStream::connect(endpoint).await,
        Some(source) if source.is_ipv4() != endpoint.is_ipv4() => {
            let answer = format!("{endpoint} cannot be asked from {source}");
            return Err(Outcome::failed(answer));
        }
        Some(source) => connect_from(source, endpoint).await,
    };
    let stream = connected.map_err(|error| Outcome::error(&error))?;
    if is_own_echo(&stream) {
        return Err(Outcome::failed("connection refused"));
    }
    Ok(stream)
}

async fn connect_from(source: IpAddr, endpoint: SocketAddr) -> io::Result<TcpStream> {
    let socket = match endpoint {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.bind(SocketAddr::new(source, 0))?;
    socket.connect(endpoint).await
}

/// Whether the socket is connected to itself: on this host, the kernel may choose the port that is asked for as the local
/// one, and a socket that connects to its own address succeeds (simultaneous open, RFC 9293 section 3.5).
fn is_own_echo(stream: &TcpStream) -> bool {
    let same = || -> io::Result<bool> { Ok(stream.local_addr()? == stream.peer_addr()?) };
    same().unwrap_or(false)
}
