//! Options of sockets that carry traffic: what listening sockets hand on to accepted ones, and what sockets to backends get.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::time::Duration;

use rustix::net::sockopt;

/// Lets the socket bind to an address that is not this host's, such as a client's (IP_TRANSPARENT, IPV6_TRANSPARENT). `v6` is the
/// socket's own family. Before it is bound. What comes back reaches the socket only where routes deliver it to this host.
///
/// # Errors
/// `EPERM` without CAP_NET_RAW (or CAP_NET_ADMIN); linux/net/ipv4/ip_sockglue.c, `ip_setsockopt`.
pub fn set_transparent(socket: BorrowedFd<'_>, v6: bool) -> io::Result<()> {
    match v6 {
        false => set(socket, libc::IPPROTO_IP, libc::IP_TRANSPARENT, 1),
        true => set(socket, libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT, 1),
    }
}

/// Puts the choice of a port off from bind to connect, where the other end is known: each backend then has all ports to itself
/// (IP_BIND_ADDRESS_NO_PORT, which is the option for both families).
///
/// # Errors
/// What the kernel says.
pub fn bind_address_no_port(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

/// Probes after `idle` without traffic, `interval` apart; as many unanswered ones as `probes` end the connection (SO_KEEPALIVE,
/// TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT). `idle` = `None`: no probes. Whole seconds, 1 s..=32,767 s; `probes` 1..=127. Accepted
/// sockets have what their listening socket had when the connection came.
///
/// # Errors
/// What the kernel says: `EINVAL` beyond these ranges.
pub fn keepalive(
    socket: BorrowedFd<'_>,
    idle: Option<Duration>,
    interval: Duration,
    probes: u8,
) -> io::Result<()> {
    let Some(idle) = idle else {
        return Ok(sockopt::set_socket_keepalive(socket, false)?);
    };
    sockopt::set_tcp_keepidle(socket, idle)?;
    sockopt::set_tcp_keepintvl(socket, interval)?;
    sockopt::set_tcp_keepcnt(socket, u32::from(probes))?;
    sockopt::set_socket_keepalive(socket, true)?;
    Ok(())
}

/// How long sent data may stay without an acknowledgement before the connection ends (TCP_USER_TIMEOUT), at least 1 ms; `None` = the
/// kernel's own, about 15 minutes. Where it is set it also takes the place of the number of keepalive probes. Accepted sockets have
/// what their listening socket had.
///
/// # Errors
/// What the kernel says.
pub fn user_timeout(socket: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<()> {
    let millis = timeout.map_or(0, |timeout| {
        let millis = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        // 0 would be the kernel's own, and it takes an int.
        millis.clamp(1, i32::MAX.unsigned_abs())
    });
    Ok(sockopt::set_tcp_user_timeout(socket, millis)?)
}

fn set(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let length =
        libc::socklen_t::try_from(size_of_val(&value)).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the kernel reads `length` bytes of `value`, which lives until the call is over, and writes nothing.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            length,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::listen;

    fn options(socket: BorrowedFd<'_>) -> (bool, Duration, Duration, u32, u32) {
        (
            sockopt::socket_keepalive(socket).unwrap(),
            sockopt::tcp_keepidle(socket).unwrap(),
            sockopt::tcp_keepintvl(socket).unwrap(),
            sockopt::tcp_keepcnt(socket).unwrap(),
            sockopt::tcp_user_timeout(socket).unwrap(),
        )
    }

    fn second(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn accepted_sockets_inherit_probes_and_user_timeout_as_they_are_when_the_connection_comes() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let address: SocketAddr = address.parse().unwrap();
            let Ok(socket) = listen::bind(address, listen::Options::default()) else {
                assert!(address.is_ipv6());
                eprintln!("skipped for IPv6: this host has none");
                continue;
            };
            listen::listen(socket.as_fd(), 8).unwrap();
            let address = listen::local_address(socket.as_fd()).unwrap();
            let listener = TcpListener::from(socket);
            let accept = || {
                let client = TcpStream::connect(address).unwrap();
                (client, listener.accept().unwrap().0)
            };
            keepalive(listener.as_fd(), Some(second(7)), second(3), 4).unwrap();
            user_timeout(listener.as_fd(), Some(second(9))).unwrap();
            let (_client, accepted) = accept();
            let expected = (true, second(7), second(3), 4, 9_000);
            assert_eq!(options(accepted.as_fd()), expected);
            // A living listening socket can be given others.
            keepalive(listener.as_fd(), None, second(3), 4).unwrap();
            user_timeout(listener.as_fd(), None).unwrap();
            let (_client, later) = accept();
            assert!(!options(later.as_fd()).0);
            assert_eq!(options(later.as_fd()).4, 0);
            assert_eq!(options(accepted.as_fd()), expected);
        }
    }

    #[test]
    fn a_user_timeout_below_a_millisecond_is_not_the_kernels_own() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        user_timeout(listener.as_fd(), Some(Duration::from_micros(1))).unwrap();
        assert_eq!(options(listener.as_fd()).4, 1);
    }

    #[test]
    fn two_sockets_bound_to_an_address_without_a_port_may_have_the_same_port_to_two_backends() {
        let socket = |backend: SocketAddr, port: u16| {
            let socket = socket2::Socket::new(
                socket2::Domain::IPV4,
                socket2::Type::STREAM,
                Some(socket2::Protocol::TCP),
            )
            .unwrap();
            socket.set_reuse_address(true).unwrap();
            bind_address_no_port(socket.as_fd()).unwrap();
            let own = SocketAddr::from(([127, 0, 0, 1], port));
            socket.bind(&own.into())?;
            socket.connect(&backend.into())?;
            io::Result::Ok(socket)
        };
        let port_of = |s: &socket2::Socket| s.local_addr().unwrap().as_socket().unwrap().port();
        let backends = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        // Others on this host use ports, too: one of theirs that the kernel has given us as well is in the way, and so is what many tests
        // leave in TIME_WAIT.
        let is_shared = |_| {
            let first = socket(backends[0].local_addr().unwrap(), 0).unwrap();
            let port = port_of(&first);
            assert_ne!(port, 0);
            let second = socket(backends[1].local_addr().unwrap(), port);
            second.is_ok_and(|second| port_of(&second) == port)
        };
        assert!((0..4_096).any(is_shared));
    }
}
