//! Listening sockets of a `SO_REUSEPORT` group.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// What is special about a listening socket.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Bind although the address is not on this host (IP_FREEBIND).
    pub freebind: bool,
}

/// Binds a socket to `address` with `SO_REUSEPORT`, and does not listen yet: until then it takes no connection.
///
/// Accepted sockets inherit TCP_NODELAY and a linger time of 0, so that the kernel resets the connections of a worker
/// that dies, instead of ending them as if the answer were complete.
///
/// # Errors
/// What the kernel says to each step.
pub fn bind(address: SocketAddr, options: Options) -> io::Result<OwnedFd> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(
        domain,
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        // `[::]:80` and `0.0.0.0:80` are two listeners that can stand side by side, whatever bindv6only says.
        socket.set_only_v6(true)?;
    }
    // With SO_REUSEADDR a restart does not wait for connections in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if options.freebind {
        match address {
            SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
            SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
        }
    }
    socket.set_tcp_nodelay(true)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Begins to listen; on a socket that listens already, sets a new backlog.
///
/// # Errors
/// What the kernel says.
pub fn listen(socket: BorrowedFd<'_>, backlog: u32) -> io::Result<()> {
    SockRef::from(&socket).listen(i32::try_from(backlog).unwrap_or(i32::MAX))
}

/// Whether `socket` listens (SO_ACCEPTCONN).
#[must_use]
pub fn is_listening(socket: BorrowedFd<'_>) -> bool {
    SockRef::from(&socket).is_listener().unwrap_or(false)
}

/// Whether `socket` belongs to a reuseport group (SO_REUSEPORT is set).
#[must_use]
pub fn is_reuseport(socket: BorrowedFd<'_>) -> bool {
    SockRef::from(&socket).reuse_port().unwrap_or(false)
}

/// The address that `socket` is bound to.
///
/// # Errors
/// When `socket` is not an internet socket.
pub fn local_address(socket: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    SockRef::from(&socket)
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// How many finished handshakes wait to be accepted on a listening socket (TCP_INFO: `tcpi_unacked` is the length of the
/// accept queue there; linux/net/ipv4/tcp.c, `tcp_get_info`).
///
/// # Errors
/// What the kernel says.
pub fn queued(socket: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(tcp_info(socket)?.tcpi_unacked)
}

fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<libc::tcp_info> {
    use std::os::fd::AsRawFd as _;
    let mut info = std::mem::MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>())
        .map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the kernel writes at most `length` bytes, which is the size of the struct it is given.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the struct was zeroed, it is plain integers, and the kernel wrote over a prefix of it.
    Ok(unsafe { info.assume_init() })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn a_bound_socket_takes_nothing_until_it_listens() {
        let first = bind(SocketAddr::from(([127, 0, 0, 1], 0)), Options::default()).unwrap();
        let address = local_address(first.as_fd()).unwrap();
        let second = bind(address, Options::default()).unwrap();
        listen(first.as_fd(), 128).unwrap();
        assert!(is_listening(first.as_fd()) && !is_listening(second.as_fd()));
        let clients: Vec<_> = (0..30)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        assert_eq!(queued(first.as_fd()).unwrap() as usize, clients.len());
    }

    #[test]
    fn an_accepted_socket_inherits_nodelay_and_linger_zero() {
        let socket = bind(SocketAddr::from(([127, 0, 0, 1], 0)), Options::default()).unwrap();
        listen(socket.as_fd(), 128).unwrap();
        let address = local_address(socket.as_fd()).unwrap();
        let _client = TcpStream::connect(address).unwrap();
        let (accepted, _) = TcpListener::from(socket).accept().unwrap();
        assert!(accepted.nodelay().unwrap());
        let linger = SockRef::from(&accepted).linger().unwrap();
        assert_eq!(linger, Some(Duration::ZERO));
    }

    #[test]
    fn freebind_takes_an_address_that_is_not_here() {
        let elsewhere = SocketAddr::from(([192, 0, 2, 1], 8080));
        assert!(bind(elsewhere, Options::default()).is_err());
        assert!(bind(elsewhere, Options { freebind: true }).is_ok());
    }
}
