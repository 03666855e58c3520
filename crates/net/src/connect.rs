//! Connecting to a backend, and whose fault it is when that fails.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};

use crate::is_exhaustion;

/// Why there is no connection. Closed on purpose: every match names every variant.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens there.
    #[error("connection refused")]
    Refused,
    /// No answer within the deadline, or the kernel's own.
    #[error("no answer in time")]
    TimedOut,
    /// No way to the host or network.
    #[error("unreachable")]
    Unreachable(#[source] io::Error),
    /// The handshake was reset or aborted.
    #[error("reset during the handshake")]
    Reset(#[source] io::Error),
    /// Anything else that stands between us and this address.
    #[error("cannot connect")]
    Other(#[source] io::Error),
    /// We lack ports, descriptors or memory. Says nothing about the backend.
    #[error("no resources for a connection")]
    Exhausted(#[source] io::Error),
}

/// Whose fault a failed connect is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The backend's, or of the way to it.
    Backend,
    /// Our own: it must never count against a backend.
    Own,
}

impl ConnectError {
    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Refused
            | Self::TimedOut
            | Self::Unreachable(_)
            | Self::Reset(_)
            | Self::Other(_) => Fault::Backend,
            Self::Exhausted(_) => Fault::Own,
        }
    }
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        if is_exhaustion(&error) {
            return Self::Exhausted(error);
        }
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::TimedOut,
            io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown => Self::Unreachable(error),
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => Self::Reset(error),
            _ => Self::Other(error),
        }
    }
}

/// Connects to `address` within `deadline`. The socket has TCP_NODELAY and linger 0: should this process be killed, the
/// backend sees a reset, and never a clean end in the middle of a request.
///
/// # Errors
/// [`ConnectError`].
///
/// # Cancel safety
/// The attempt is given up when the future is dropped.
pub async fn connect(address: SocketAddr, deadline: Duration) -> Result<TcpStream, ConnectError> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_zero_linger()?;
    socket.set_nodelay(true)?;
    match tokio::time::timeout(deadline, socket.connect(address)).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(ConnectError::TimedOut),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use socket2::SockRef;

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_connection_has_nodelay_and_linger_zero() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stream = connect(address, Duration::from_secs(5)).await.unwrap();
        assert!(stream.nodelay().unwrap());
        let linger = SockRef::from(&stream).linger().unwrap();
        assert_eq!(linger, Some(Duration::ZERO));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn refused_and_late_are_the_backends_fault() {
        let closed = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        let error = connect(closed, Duration::from_secs(5)).await.unwrap_err();
        assert!(matches!(error, ConnectError::Refused), "{error:?}");

        // A full accept queue makes the kernel drop the SYN, as a host that does not answer would.
        let full =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        full.listen(0).unwrap();
        let address = full.local_addr().unwrap().as_socket().unwrap();
        let _first = std::net::TcpStream::connect(address).unwrap();
        let error = connect(address, Duration::from_millis(50))
            .await
            .unwrap_err();
        assert!(matches!(error, ConnectError::TimedOut), "{error:?}");
        assert_eq!(error.fault(), Fault::Backend);
    }

    #[test]
    fn a_lack_of_ports_is_our_own_fault() {
        let error = io::Error::from(rustix::io::Errno::ADDRNOTAVAIL);
        assert_eq!(ConnectError::from(error).fault(), Fault::Own);
    }
}
