//! Steering: which sockets of a `SO_REUSEPORT` group get new connections.
//!
//! A classic BPF program attached to any socket of a group runs for each new connection and returns an index into the
//! group, in the order in which the sockets began to listen. It needs no privilege. An index beyond the group falls
//! back to the kernel's hash. Connections that already wait in a queue stay where they are. Closing a socket moves the
//! last one into its place, so only the highest index may be closed without a new program.
//! Source: linux/net/core/sock_reuseport.c (`reuseport_select_sock`, `__reuseport_detach_sock`).

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// Most live slots that one program tells apart: two instructions a slot, and the kernel takes 4,096 (BPF_MAXINSNS).
pub const LIVE_MAX: usize = 2_000;

/// Lets the group of `socket` choose evenly at random among the indices `live`.
///
/// # Errors
/// `InvalidInput` when `live` is empty or longer than [`LIVE_MAX`]; else what the kernel says.
pub fn attach(socket: BorrowedFd<'_>, live: &[u16]) -> io::Result<()> {
    let mut program = program(live).ok_or(io::ErrorKind::InvalidInput)?;
    let argument = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: `argument` and the program behind it outlive the call; the kernel copies them and keeps no pointer.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const argument).cast(),
            socklen::<libc::sock_fprog>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Takes the group's program away: the kernel's hash over all sockets decides again. No program is no error.
///
/// # Errors
/// What the kernel says.
pub fn detach(socket: BorrowedFd<'_>) -> io::Result<()> {
    let unused: libc::c_int = 0;
    // SAFETY: the kernel reads at most the four bytes of `unused`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_DETACH_REUSEPORT_BPF,
            (&raw const unused).cast(),
            socklen::<libc::c_int>(),
        )
    };
    match result {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::NotFound => Ok(()),
            error => Err(error),
        },
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "option structs are a few bytes"
)]
const fn socklen<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "operation codes are 16 bits wide; libc types them wider"
)]
const fn code(operation: u32) -> u16 {
    operation as u16
}

/// `load random; modulo len(live); return live[that]`.
fn program(live: &[u16]) -> Option<Vec<libc::sock_filter>> {
    const LOAD: u16 = code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS);
    const MODULO: u16 = code(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K);
    const JUMP_IF_EQUAL: u16 = code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
    const RETURN: u16 = code(libc::BPF_RET | libc::BPF_K);
    #[expect(
        clippy::cast_sign_loss,
        reason = "the kernel's ancillary offsets are negative numbers in an unsigned field"
    )]
    const RANDOM: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM) as u32;
    let (&last, rest) = live.split_last()?;
    if live.len() > LIVE_MAX {
        return None;
    }
    let instruction = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let mut program = Vec::with_capacity(3 + 2 * live.len());
    if !rest.is_empty() {
        program.push(instruction(LOAD, RANDOM, 0, 0));
        program.push(instruction(MODULO, u32::try_from(live.len()).ok()?, 0, 0));
        for (position, &index) in rest.iter().enumerate() {
            program.push(instruction(
                JUMP_IF_EQUAL,
                u32::try_from(position).ok()?,
                0,
                1,
            ));
            program.push(instruction(RETURN, u32::from(index), 0, 0));
        }
    }
    program.push(instruction(RETURN, u32::from(last), 0, 0));
    Some(program)
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::listen;

    fn group(count: usize) -> (SocketAddr, Vec<TcpListener>) {
        let mut address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut sockets = Vec::new();
        for _ in 0..count {
            let socket = listen::bind(address, listen::Options::default()).unwrap();
            address = listen::local_address(socket.as_fd()).unwrap();
            listen::listen(socket.as_fd(), 512).unwrap();
            sockets.push(TcpListener::from(socket));
        }
        (address, sockets)
    }

    fn waiting(listener: &TcpListener) -> usize {
        std::iter::from_fn(|| listener.accept().ok()).count()
    }

    #[test]
    fn only_live_indices_get_connections_and_all_of_them_do() {
        let (address, sockets) = group(4);
        attach(sockets[0].as_fd(), &[1, 3]).unwrap();
        let clients: Vec<_> = (0..200)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        let counts: Vec<_> = sockets.iter().map(waiting).collect();
        assert_eq!((counts[0], counts[2]), (0, 0), "{counts:?}");
        assert_eq!(counts[1] + counts[3], clients.len());
        assert!(counts[1] > 50 && counts[3] > 50, "{counts:?}");
    }

    #[test]
    fn a_queue_stays_where_it_is_when_steering_changes_and_survives_the_close_of_a_dup() {
        let (address, sockets) = group(2);
        attach(sockets[0].as_fd(), &[1]).unwrap();
        let _waits: Vec<_> = (0..20)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        attach(sockets[0].as_fd(), &[0]).unwrap();
        drop(sockets[1].try_clone().unwrap());
        let _more: Vec<_> = (0..10)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        assert_eq!(waiting(&sockets[0]), 10);
        assert_eq!(waiting(&sockets[1]), 20);
    }

    #[test]
    fn closing_the_highest_index_leaves_the_others_in_place() {
        let (address, mut sockets) = group(3);
        attach(sockets[0].as_fd(), &[1]).unwrap();
        sockets.pop();
        let _clients: Vec<_> = (0..10)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        assert_eq!(waiting(&sockets[1]), 10);
    }

    #[test]
    fn detaching_gives_the_choice_back_to_the_kernel() {
        let (address, sockets) = group(2);
        detach(sockets[0].as_fd()).unwrap();
        attach(sockets[0].as_fd(), &[0]).unwrap();
        detach(sockets[1].as_fd()).unwrap();
        let _clients: Vec<_> = (0..100)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        assert!(waiting(&sockets[0]) > 0 && waiting(&sockets[1]) > 0);
    }

    #[test]
    fn no_live_index_is_refused() {
        let (_, sockets) = group(1);
        assert!(attach(sockets[0].as_fd(), &[]).is_err());
    }
}
