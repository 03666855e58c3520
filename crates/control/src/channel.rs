//! A sequenced-packet socket as an asynchronous channel of typed messages.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use evenkeel_sys::packet;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::child::PROTOCOL_VERSION;

/// Why a channel ended or a message was refused.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The other end is gone.
    #[error("the other process closed the channel")]
    Closed,
    /// A system call failed.
    #[error("use the channel")]
    Io(#[from] io::Error),
    /// The message is of another protocol version.
    #[error("message of protocol {found}, this program speaks {PROTOCOL_VERSION}")]
    Version {
        /// The version found.
        found: u16,
    },
    /// The message does not decode, or does not fit in a packet.
    #[error("code a message")]
    Code(#[from] postcard::Error),
    /// A message or its descriptors did not arrive whole, as when this process has no descriptors left.
    #[error("a message arrived without all of its descriptors")]
    Cut,
}

/// One end of a conversation: sends `S`, receives `R`.
#[derive(Debug)]
pub struct Channel<S, R> {
    socket: AsyncFd<OwnedFd>,
    types: PhantomData<fn(S) -> R>,
}

impl<S: Serialize, R: DeserializeOwned> Channel<S, R> {
    /// Takes a non-blocking sequenced-packet socket. Call it within a tokio runtime.
    ///
    /// # Errors
    /// When it cannot be registered with the runtime.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            socket: evenkeel_sys::watch::watch(socket, Interest::READABLE | Interest::WRITABLE)?,
            types: PhantomData,
        })
    }

    /// Sends one message and the descriptors that go with it; waits while the other end's queue is full.
    ///
    /// # Errors
    /// [`ChannelError::Closed`] when the other end is gone.
    ///
    /// # Cancel safety
    /// A message is sent whole or not at all.
    pub async fn send(
        &self,
        message: &S,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        let bytes = postcard::to_extend(message, PROTOCOL_VERSION.to_le_bytes().to_vec())?;
        if bytes.len() > packet::MESSAGE_BYTES_MAX {
            return Err(postcard::Error::SerializeBufferFull.into());
        }
        let sent = self
            .socket
            .async_io(Interest::WRITABLE, |fd| {
                packet::send(fd.as_fd(), &bytes, descriptors)
            })
            .await;
        sent.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ChannelError::Closed,
            _ => ChannelError::Io(error),
        })
    }

    /// Receives one message and its descriptors.
    ///
    /// # Errors
    /// [`ChannelError::Closed`] when the other end is gone; [`ChannelError::Cut`] leaves the channel usable.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn receive(&self) -> Result<(R, Vec<OwnedFd>), ChannelError> {
        // Lives in the future only while a message is taken from the kernel, not while waiting.
        let received = self
            .socket
            .async_io(Interest::READABLE, |fd| {
                let mut buffer = vec![0; packet::MESSAGE_BYTES_MAX];
                let (length, descriptors) = packet::receive(fd.as_fd(), &mut buffer)?;
                buffer.truncate(length);
                Ok((buffer, descriptors))
            })
            .await;
        let (bytes, descriptors) = received.map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionReset => ChannelError::Closed,
            io::ErrorKind::InvalidData => ChannelError::Cut,
            _ => ChannelError::Io(error),
        })?;
        if bytes.is_empty() {
            return Err(ChannelError::Closed);
        }
        let (version, body) = bytes
            .split_first_chunk()
            .ok_or(postcard::Error::DeserializeUnexpectedEnd)?;
        let found = u16::from_le_bytes(*version);
        if found != PROTOCOL_VERSION {
            return Err(ChannelError::Version { found });
        }
        Ok((postcard::from_bytes(body)?, descriptors))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn messages_and_descriptors_arrive_in_order() {
        let (a, b) = packet::pair().unwrap();
        let (extra, _keep) = packet::pair().unwrap();
        let left = Channel::<u32, String>::new(a).unwrap();
        let right = Channel::<String, u32>::new(b).unwrap();
        left.send(&7, &[extra.as_fd()]).await.unwrap();
        left.send(&8, &[]).await.unwrap();
        let (first, descriptors) = right.receive().await.unwrap();
        assert_eq!((first, descriptors.len()), (7, 1));
        assert_eq!(right.receive().await.unwrap().0, 8);
        right.send(&"yes".to_owned(), &[]).await.unwrap();
        assert_eq!(left.receive().await.unwrap().0, "yes");
        drop(left);
        assert!(matches!(right.receive().await, Err(ChannelError::Closed)));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn another_version_is_refused() {
        let (a, b) = packet::pair().unwrap();
        packet::send(a.as_fd(), &[0xff, 0xff, 1], &[]).unwrap();
        let right = Channel::<String, u32>::new(b).unwrap();
        assert!(matches!(
            right.receive().await,
            Err(ChannelError::Version { found: 0xffff })
        ));
    }
}
