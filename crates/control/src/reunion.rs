//! How orphans hand their listening sockets to the next supervisor.
//!
//! ```text
//! new supervisor (take)                      orphan (offer)
//!    connect to the reunion socket    -->      checks who it is
//!                                     <--    length, header: version, what each socket is
//!                                     <--    one byte, and up to BATCH_MAX descriptors beside it
//!    one byte: they have arrived      -->      (the next batch waits for it)
//!    ...
//!                                            lets go of its own copies
//! ```
//!
//! An orphan that does not get its last acknowledgement still owns its sockets and serves on.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use evenkeel_plan::SlotIdx;
use evenkeel_sys::packet;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;

use crate::child::{BATCH_MAX, PROTOCOL_VERSION};

/// Longest time for a whole hand-over.
pub const HAND_OVER_MAX: Duration = Duration::from_secs(10);

/// Longest header in bytes.
pub const HEADER_BYTES_MAX: u32 = 16 * 1024 * 1024;

/// A listening socket that is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Handed {
    /// Whose slot's socket it is.
    pub slot: SlotIdx,
    /// The address that it is bound to.
    pub address: SocketAddr,
}

#[derive(Serialize, Deserialize)]
struct Header {
    version: u16,
    sockets: Vec<Handed>,
}

/// The byte beside descriptors, and the one that acknowledges them.
const MARK: u8 = 1;

/// Hands `sockets` to whoever is at the other end of `stream`, and returns when all have arrived there. The caller keeps
/// its own copies, and must accept from them no more after a success.
///
/// # Errors
/// When the other end is gone or takes longer than [`HAND_OVER_MAX`]: the sockets are still the caller's to serve.
pub async fn offer(stream: UnixStream, sockets: &[(Handed, OwnedFd)]) -> io::Result<()> {
    within(offer_all(stream, sockets)).await
}

/// Takes the sockets of one orphan. To be called again until it says that nobody answers: each call reaches one orphan.
///
/// # Errors
/// `ConnectionRefused` or `NotFound` when no orphan holds the reunion socket any more; `ConnectionReset` when the last one
/// let go of it just then; others when this one went away in the middle or took longer than [`HAND_OVER_MAX`].
pub async fn take(path: &Path) -> io::Result<Vec<(Handed, OwnedFd)>> {
    within(async { take_all(UnixStream::connect(path).await?).await }).await
}

async fn offer_all(mut stream: UnixStream, sockets: &[(Handed, OwnedFd)]) -> io::Result<()> {
    let header = Header {
        version: PROTOCOL_VERSION,
        sockets: sockets.iter().map(|(handed, _)| *handed).collect(),
    };
    let bytes = postcard::to_stdvec(&header).map_err(invalid)?;
    let length = u32::try_from(bytes.len()).map_err(invalid)?;
    stream.write_all(&length.to_le_bytes()).await?;
    stream.write_all(&bytes).await?;
    for batch in sockets.chunks(BATCH_MAX) {
        let descriptors: Vec<BorrowedFd<'_>> = batch.iter().map(|(_, fd)| fd.as_fd()).collect();
        stream
            .async_io(Interest::WRITABLE, || {
                packet::send(stream.as_fd(), &[MARK], &descriptors)
            })
            .await?;
        // Descriptors on their way count against the limit of who sent them, so they go one batch at a time.
        acknowledged(stream.read_u8().await?)?;
    }
    // The header alone is acknowledged when there was nothing else.
    if sockets.is_empty() {
        acknowledged(stream.read_u8().await?)?;
    }
    Ok(())
}

async fn take_all(mut stream: UnixStream) -> io::Result<Vec<(Handed, OwnedFd)>> {
    let length = stream.read_u32_le().await?;
    if length > HEADER_BYTES_MAX {
        return Err(invalid("a header that is too long"));
    }
    let mut bytes = vec![0; length as usize];
    stream.read_exact(&mut bytes).await?;
    let header: Header = postcard::from_bytes(&bytes).map_err(invalid)?;
    if header.version != PROTOCOL_VERSION {
        return Err(invalid("a hand-over of another version"));
    }
    let mut taken = Vec::with_capacity(header.sockets.len());
    for batch in header.sockets.chunks(BATCH_MAX) {
        // The kernel never joins what came with descriptors to anything else: one receive is one batch (unix(7)).
        let (count, descriptors) = stream
            .async_io(Interest::READABLE, || {
                packet::receive(stream.as_fd(), &mut [0; 1])
            })
            .await?;
        if count != 1 || descriptors.len() != batch.len() {
            return Err(invalid("a batch of sockets that is not whole"));
        }
        taken.extend(batch.iter().copied().zip(descriptors));
        stream.write_u8(MARK).await?;
    }
    if header.sockets.is_empty() {
        stream.write_u8(MARK).await?;
    }
    Ok(taken)
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(HAND_OVER_MAX, work)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn acknowledged(byte: u8) -> io::Result<()> {
    match byte {
        MARK => Ok(()),
        _ => Err(invalid("an acknowledgement that is none")),
    }
}

fn invalid(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use evenkeel_sys::listen;

    use super::*;

    fn sockets(count: u16) -> Vec<(Handed, OwnedFd)> {
        (0..count)
            .map(|slot| {
                let any = SocketAddr::from(([127, 0, 0, 1], 0));
                let socket = listen::bind(any, listen::Options::default()).unwrap();
                let handed = Handed {
                    slot: SlotIdx(slot),
                    address: listen::local_address(socket.as_fd()).unwrap(),
                };
                (handed, socket)
            })
            .collect()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn sockets_arrive_with_what_they_are_in_several_batches() {
        for count in [0, 1, 128, 300] {
            let (left, right) = UnixStream::pair().unwrap();
            let offered = sockets(count);
            let (offer, taken) = tokio::join!(offer(left, &offered), take_all(right));
            offer.unwrap();
            let taken = taken.unwrap();
            assert_eq!(taken.len(), usize::from(count));
            for ((expected, _), (handed, socket)) in offered.iter().zip(&taken) {
                assert_eq!(handed, expected);
                assert_eq!(
                    listen::local_address(socket.as_fd()).unwrap(),
                    handed.address
                );
            }
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_offer_to_somebody_who_goes_away_fails() {
        let (left, mut right) = UnixStream::pair().unwrap();
        let offered = sockets(200);
        let read_and_leave = async move {
            let length = right.read_u32_le().await.unwrap();
            let mut header = vec![0; length as usize];
            right.read_exact(&mut header).await.unwrap();
        };
        let (offer, ()) = tokio::join!(offer(left, &offered), read_and_leave);
        assert!(offer.is_err());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn nobody_there_is_told_from_a_failure() {
        let directory = std::env::temp_dir().join(format!("ek-reunion-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("reunion.sock");
        let missing = take(&path).await.unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let refused = take(&path).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
