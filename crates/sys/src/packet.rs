//! Sequenced-packet Unix sockets: whole messages in order, with descriptors beside them.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sockopt,
};

/// Most descriptors that one message carries (SCM_MAX_FD of the kernel).
pub const DESCRIPTORS_MAX: usize = 253;

/// Longest message in bytes.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// A connected pair, non-blocking and close-on-exec.
///
/// # Errors
/// When no descriptor is left.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?)
}

/// Asks for a send buffer of `bytes`; the kernel doubles it and caps it at net.core.wmem_max.
///
/// # Errors
/// When `fd` is not a socket.
pub fn set_send_buffer(fd: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    Ok(sockopt::set_socket_send_buffer_size(fd, bytes)?)
}

/// Size of the send buffer in bytes, as the kernel counts them: sends fail with `WouldBlock` from there on.
///
/// # Errors
/// When `fd` is not a socket.
pub fn send_buffer(fd: BorrowedFd<'_>) -> io::Result<usize> {
    Ok(sockopt::socket_send_buffer_size(fd)?)
}

/// Bytes that were sent from `fd` and not received yet, as the kernel counts them (SIOCOUTQ of unix(7), in Linux since 2.6):
/// what it allocated for each message, so that a short message costs some 700 bytes, and to be compared with [`send_buffer`].
///
/// # Errors
/// When `fd` is not a socket.
pub fn send_queue(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: `fd` is open while it is borrowed. SIOCOUTQ, the same number as TIOCOUTQ, stores one int where the third
    // argument points, which is a live int of ours.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Sends one message whole, with `descriptors` beside it, or not at all.
///
/// # Errors
/// `WouldBlock` when the peer's queue is full, `BrokenPipe` or `ConnectionReset` when it is gone, `InvalidInput` when
/// there are more than [`DESCRIPTORS_MAX`] descriptors or [`MESSAGE_BYTES_MAX`] bytes.
pub fn send(fd: BorrowedFd<'_>, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    if descriptors.len() > DESCRIPTORS_MAX || message.len() > MESSAGE_BYTES_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let parts = [IoSlice::new(message)];
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    if descriptors.is_empty() {
        rustix::net::sendmsg(fd, &parts, &mut SendAncillaryBuffer::default(), flags)?;
        return Ok(());
    }
    let mut space = [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    rustix::net::sendmsg(fd, &parts, &mut control, flags)?;
    Ok(())
}

/// Receives one message into `buffer`; its length and the descriptors beside it. Length 0 = the peer is gone.
///
/// # Errors
/// `WouldBlock` when nothing waits; `InvalidData` when the message or its descriptors did not fit.
pub fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = rustix::net::recvmsg(fd, &mut parts, &mut control, flags)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a message was cut",
        ));
    }
    Ok((received.bytes, descriptors))
}

/// Who is at the other end of a Unix socket: process, user and group, as they were when it was connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Process id; 0 when it is outside our process namespace.
    pub pid: u32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Credentials of the peer (SO_PEERCRED).
///
/// # Errors
/// When `fd` is not a connected Unix socket.
pub fn peer(fd: impl AsFd) -> io::Result<Peer> {
    let credentials = sockopt::socket_peercred(fd)?;
    Ok(Peer {
        pid: u32::try_from(credentials.pid.as_raw_nonzero().get()).unwrap_or(0),
        uid: credentials.uid.as_raw(),
        gid: credentials.gid.as_raw(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrives_whole_with_its_descriptors() {
        let (a, b) = pair().unwrap();
        let (c, d) = pair().unwrap();
        send(a.as_fd(), b"hello", &[c.as_fd()]).unwrap();
        drop(c);
        let mut buffer = [0; 64];
        let (length, mut descriptors) = receive(b.as_fd(), &mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"hello");
        let c = descriptors.pop().unwrap();
        send(c.as_fd(), b"x", &[]).unwrap();
        assert_eq!(receive(d.as_fd(), &mut buffer).unwrap().0, 1);
    }

    #[test]
    fn a_message_larger_than_the_buffer_is_an_error_and_a_gone_peer_is_length_zero() {
        let (a, b) = pair().unwrap();
        send(a.as_fd(), &[1; 100], &[]).unwrap();
        let error = receive(b.as_fd(), &mut [0; 10]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let empty = receive(b.as_fd(), &mut [0; 10]).unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
        drop(a);
        assert_eq!(receive(b.as_fd(), &mut [0; 10]).unwrap().0, 0);
    }

    #[test]
    fn what_was_not_received_yet_can_be_asked_for() {
        let (a, b) = pair().unwrap();
        assert_eq!(send_queue(a.as_fd()).unwrap(), 0);
        while send(a.as_fd(), &[0; 1_000], &[]).is_ok() {}
        assert!(send_queue(a.as_fd()).unwrap() >= send_buffer(a.as_fd()).unwrap());
        while receive(b.as_fd(), &mut [0; 1_000]).is_ok() {}
        assert_eq!(send_queue(a.as_fd()).unwrap(), 0);
    }

    #[test]
    fn as_many_descriptors_as_the_kernel_allows_travel_in_one_message() {
        let (a, b) = pair().unwrap();
        let many = vec![a.as_fd(); DESCRIPTORS_MAX];
        send(a.as_fd(), b"x", &many).unwrap();
        let (_, descriptors) = receive(b.as_fd(), &mut [0; 10]).unwrap();
        assert_eq!(descriptors.len(), DESCRIPTORS_MAX);
    }
}
