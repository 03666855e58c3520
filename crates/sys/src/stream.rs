//! Options of connected sockets.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::SockRef;

/// From here on, closing the socket resets the connection.
///
/// # Errors
/// What the kernel says.
pub fn reset_on_close(socket: impl AsFd) -> io::Result<()> {
    SockRef::from(&socket.as_fd()).set_linger(Some(Duration::ZERO))
}

/// From here on, closing the socket ends the connection in order: what was written is still delivered.
///
/// # Errors
/// What the kernel says.
pub fn finish_on_close(socket: impl AsFd) -> io::Result<()> {
    SockRef::from(&socket.as_fd()).set_linger(None)
}
