//! Connecting to a backend, and whose fault it is when that fails.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use crate::stream::Stream;
use crate::{is_exhaustion, ports};

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

/// Most ports that are tried one by one when the kernel finds none itself. With nine of ten ports in use, one attempt in thirty
/// fails; trying more would cost more time than a worker has that is so short of ports.
pub const PORTS_MAX: usize = 32;

/// From where to connect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Our address; none = what the route says. A port other than 0 is taken as it is, and none other is tried.
    pub source: Option<SocketAddr>,
    /// Whether `source` need not be ours (IP_TRANSPARENT; needs CAP_NET_RAW).
    pub transparent: bool,
}

/// Connects to `address` within `deadline`. The socket has linger 0: should this process be killed, the
/// backend sees a reset, and never a clean end in the middle of a request. To be called within a `LocalSet`.
///
/// Ports never run out because of connections in TIME_WAIT: where the kernel finds no port, one is bound explicitly.
///
/// # Errors
/// [`ConnectError`].
///
/// # Cancel safety
/// The attempt is given up when the future is dropped.
pub async fn connect(
    address: SocketAddr,
    options: &Options,
    deadline: Duration,
) -> Result<Stream, ConnectError> {
    let stream = Stream::connecting(begin(address, options)?)?;
    // Room to write and no failure is success: no need to ask for SO_ERROR.
    let settled = poll_fn(|cx| stream.poll_writable(cx));
    if tokio::time::timeout(deadline, settled).await.is_err() {
        return Err(ConnectError::TimedOut);
    }
    if stream.has_failed() {
        stream.take_error()?;
    }
    Ok(stream)
}

/// A socket on its way to `address`.
fn begin(address: SocketAddr, options: &Options) -> io::Result<OwnedFd> {
    let error = match start(address, options, None) {
        Ok(socket) => return Ok(socket),
        Err(error) => error,
    };
    let is_port_free = options.source.is_none_or(|source| source.port() == 0);
    if !is_port_free || !is_taken(error) {
        return Err(error.into());
    }
    // Every port to this address is in use or in TIME_WAIT. A socket that is bound to a port itself may take the place of a
    // connection in TIME_WAIT at once, whereas the search of `connect` wants net.ipv4.tcp_tw_reuse and a second of age
    // (linux/net/ipv4/tcp_ipv4.c, `tcp_twsk_unique` without a `twp`). Timestamps keep the old segments out.
    for _ in 0..PORTS_MAX {
        match start(address, options, Some(ports::random())) {
            Err(error) if is_taken(error) => {}
            result => return Ok(result?),
        }
    }
    Err(error.into())
}

fn is_taken(error: Errno) -> bool {
    matches!(error, Errno::ADDRNOTAVAIL | Errno::ADDRINUSE)
}

fn start(address: SocketAddr, options: &Options, port: Option<u16>) -> Result<OwnedFd, Errno> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    if options.transparent {
        outgoing(evenkeel_sys::outgoing::set_transparent(
            socket.as_fd(),
            address.is_ipv6(),
        ))?;
    }
    match (options.source, port) {
        (None, None) => {}
        (Some(source), None) => {
            if source.port() == 0 {
                // Else bind would take a port for this address alone, whatever the other end.
                outgoing(evenkeel_sys::outgoing::bind_address_no_port(socket.as_fd()))?;
            }
            rustix::net::bind(&socket, &source)?;
        }
        (source, Some(port)) => {
            let unspecified = match address {
                SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            let unspecified = SocketAddr::new(unspecified, 0);
            let mut source = source.unwrap_or(unspecified);
            source.set_port(port);
            // The socket in TIME_WAIT has it as well (`Stream::shutdown_write`).
            sockopt::set_socket_reuseaddr(&socket, true)?;
            rustix::net::bind(&socket, &source)?;
        }
    }
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(socket),
        Err(error) => Err(error),
    }
}

fn outgoing(result: io::Result<()>) -> Result<(), Errno> {
    result.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use socket2::SockRef;

    use super::*;
    use crate::stream::Follows;

    #[test]
    fn a_connection_has_linger_zero_and_nodelay_when_it_needs_it() {
        crate::tests::run(has_linger_zero_and_nodelay());
    }

    async fn has_linger_zero_and_nodelay() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stream = connect(address, &Options::default(), Duration::from_secs(5))
            .await
            .unwrap();
        let has_nodelay = |stream: &Stream| SockRef::from(stream).tcp_nodelay().unwrap();
        stream.try_write(b"hello", Follows::Nothing).unwrap();
        assert!(!has_nodelay(&stream));
        stream.try_write(b"again", Follows::Nothing).unwrap();
        assert!(has_nodelay(&stream));
        let long = connect(address, &Options::default(), Duration::from_secs(5))
            .await
            .unwrap();
        long.try_write(&[0; 1_000], Follows::Nothing).unwrap();
        assert!(has_nodelay(&long));
        let linger = SockRef::from(&stream).linger().unwrap();
        assert_eq!(linger, Some(Duration::ZERO));
    }

    #[test]
    fn refused_and_late_are_the_backends_fault() {
        crate::tests::run(refused_and_late());
    }

    async fn refused_and_late() {
        let closed = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        let error = connect(closed, &Options::default(), Duration::from_secs(5))
            .await
            .unwrap_err();
        assert!(matches!(error, ConnectError::Refused), "{error:?}");

        // A full accept queue makes the kernel drop the SYN, as a host that does not answer would.
        let full =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        full.listen(0).unwrap();
        let address = full.local_addr().unwrap().as_socket().unwrap();
        let _first = std::net::TcpStream::connect(address).unwrap();
        let error = connect(address, &Options::default(), Duration::from_millis(50))
            .await
            .unwrap_err();
        assert!(matches!(error, ConnectError::TimedOut), "{error:?}");
        assert_eq!(error.fault(), Fault::Backend);
    }

    #[test]
    fn a_lack_of_ports_is_our_own_fault() {
        let error = io::Error::from(Errno::ADDRNOTAVAIL);
        assert_eq!(ConnectError::from(error).fault(), Fault::Own);
    }
}
