//! One connection and how it ended.

use std::io::{self, ErrorKind, Read as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

/// Longest wait for a connection, and for each read. Longer than anything in a test may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How a connection failed, from the client's side.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// Nobody listens.
    Refused,
    /// Connected, then reset before a byte came: also what a client in a closed accept queue sees.
    ResetBeforeFirstByte,
    /// Reset, or ended without a line feed, after the first byte.
    Cut,
    /// No connection or no byte in time.
    Timeout,
    /// Ended in order without a byte.
    Empty,
    /// Our own side: no port, no descriptor.
    Local(String),
}

/// Connects, within [`PATIENCE`].
///
/// # Errors
/// [`Failure::Refused`], [`Failure::Timeout`], [`Failure::Local`].
pub fn connect(address: SocketAddr) -> Result<TcpStream, Failure> {
    connect_within(address, PATIENCE)
}

/// Connects, within `patience`, which then also holds for each read.
///
/// # Errors
/// As [`connect`].
pub fn connect_within(address: SocketAddr, patience: Duration) -> Result<TcpStream, Failure> {
    let stream =
        TcpStream::connect_timeout(&address, patience).map_err(|error| match error.kind() {
            ErrorKind::ConnectionRefused => Failure::Refused,
            ErrorKind::ConnectionReset => Failure::ResetBeforeFirstByte,
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Failure::Timeout,
            _ => Failure::Local(error.to_string()),
        })?;
    let ready = stream
        .set_read_timeout(Some(patience))
        .and_then(|()| stream.set_write_timeout(Some(patience)));
    ready.map_err(|error| Failure::Local(error.to_string()))?;
    Ok(stream)
}

/// Connects from this address of this host, within [`PATIENCE`].
///
/// # Errors
/// As [`connect`].
pub fn connect_from(source: IpAddr, address: SocketAddr) -> Result<TcpStream, Failure> {
    let local = |error: io::Error| Failure::Local(error.to_string());
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM.cloexec(), None).map_err(local)?;
    let from = SocketAddr::new(source, 0);
    socket.bind(&from.into()).map_err(local)?;
    socket
        .connect_timeout(&address.into(), PATIENCE)
        .map_err(|error| match error.kind() {
            ErrorKind::ConnectionRefused => Failure::Refused,
            _ => classify(&error, false),
        })?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).map_err(local)?;
    Ok(stream)
}

/// Connects, reads a line up to the end of the connection, and closes: the line without its line feed.
///
/// The server closes first, so no port of the client waits in TIME_WAIT.
///
/// # Errors
/// [`Failure`].
pub fn one_shot(address: SocketAddr) -> Result<String, Failure> {
    one_shot_within(address, PATIENCE)
}

/// As [`one_shot`], within `patience` for the connection and again for each read.
///
/// # Errors
/// [`Failure`].
pub fn one_shot_within(address: SocketAddr, patience: Duration) -> Result<String, Failure> {
    let mut stream = connect_within(address, patience)?;
    let bytes = read_to_end(&mut stream)?;
    line(bytes)
}

/// Reads until the end in order.
///
/// # Errors
/// [`Failure::Cut`] and the others.
pub fn read_to_end(stream: &mut TcpStream) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(bytes),
            Ok(length) => bytes.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(classify(&error, !bytes.is_empty())),
        }
    }
}

/// Reads one line and leaves the connection open: the line without its line feed.
///
/// # Errors
/// [`Failure`].
pub fn read_line(stream: &mut TcpStream) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(0) => return line(bytes),
            Ok(_) => bytes.push(byte[0]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(classify(&error, !bytes.is_empty())),
        }
        if byte == *b"\n" {
            return line(bytes);
        }
    }
}

/// Ends a connection by a reset.
pub fn reset(stream: TcpStream) {
    // Fails only where the connection is gone already.
    drop(SockRef::from(&stream).set_linger(Some(Duration::ZERO)));
}

pub(crate) fn classify(error: &io::Error, begun: bool) -> Failure {
    match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
            if begun {
                Failure::Cut
            } else {
                Failure::ResetBeforeFirstByte
            }
        }
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Failure::Timeout,
        _ => Failure::Local(error.to_string()),
    }
}

fn line(mut bytes: Vec<u8>) -> Result<String, Failure> {
    match bytes.pop() {
        None => Err(Failure::Empty),
        Some(b'\n') => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Some(_) => Err(Failure::Cut),
    }
}
