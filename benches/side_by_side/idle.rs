//! Connections that do nothing: thousands of them, kept open beside the load or measured for themselves.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// How many connections come from one source address. Each address has ports of its own.
const PER_SOURCE: u32 = 5_000;

/// What a connection has been through before it lies idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// Nothing: the client has connected and is silent.
    Connect,
    /// One small exchange with a backend, so that both sides are connected.
    Exchange,
}

/// Idle connections. They are reset when dropped, so that no port waits for a minute.
#[derive(Debug, Default)]
pub(crate) struct Idle(VecDeque<TcpStream>);

impl Idle {
    /// Opens `count` more connections to `address`, one after the other.
    pub(crate) fn open(&mut self, address: SocketAddr, count: u32, before: Before) {
        for number in 0..count {
            let mut stream = connect(Some(source()), address, SocketFlags::empty())
                .unwrap_or_else(|error| unreachable!("connection {number}: {error}"));
            reset_when_dropped(&stream);
            if before == Before::Exchange {
                exchange(&mut stream)
                    .unwrap_or_else(|error| unreachable!("exchange {number}: {error}"));
            }
            self.0.push_back(stream);
        }
    }

    /// Takes in a connection that lies idle from now on, and closes in order the one that has done so for the longest time.
    pub(crate) fn replace_oldest(&mut self, stream: TcpStream) {
        reset_when_dropped(&stream);
        self.0.push_back(stream);
        if let Some(oldest) = self.0.pop_front() {
            sockopt::set_socket_linger(&oldest, None).unwrap();
        }
    }

    /// How many of them were closed by the other side meanwhile.
    pub(crate) fn lost(&self) -> usize {
        let alive = |stream: &TcpStream| {
            stream.set_nonblocking(true).is_ok()
                && stream
                    .peek(&mut [0])
                    .is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
        };
        self.0.iter().filter(|stream| !alive(stream)).count()
    }
}

/// Where the next connection of thousands comes from.
pub(crate) fn source() -> Ipv4Addr {
    static OPENED: AtomicU32 = AtomicU32::new(0);
    let number = OPENED.fetch_add(1, Ordering::Relaxed);
    let [.., low] = (number / PER_SOURCE % 200 + 2).to_be_bytes();
    Ipv4Addr::new(127, 0, 0, low)
}

/// Connects, from `source` where there are many. With `SocketFlags::NONBLOCK` the connection may not be there yet.
pub(crate) fn connect(
    source: Option<Ipv4Addr>,
    address: SocketAddr,
    flags: SocketFlags,
) -> std::io::Result<TcpStream> {
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        // wrk ends with errors when it inherits more descriptors than it is told to use.
        SocketFlags::CLOEXEC | flags,
        None,
    )?;
    if let Some(source) = source {
        rustix::net::bind(&socket, &SocketAddrV4::new(source, 0))?;
    }
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket.into()),
        Err(error) => Err(error.into()),
    }
}

fn reset_when_dropped(stream: &TcpStream) {
    sockopt::set_socket_linger(stream, Some(Duration::ZERO)).unwrap();
}

/// The backend answers 33 bytes and keeps the connection.
fn exchange(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET /small HTTP/1.1\r\nHost: bench\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut buffer = [0; 1024];
    while !answer.ends_with(b"0123456789abcdef\n") {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        answer.extend_from_slice(&buffer[..length]);
    }
    Ok(())
}
