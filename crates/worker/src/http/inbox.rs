//! Bytes that were read from a socket and not used yet.

use std::io;

use evenkeel_net::Stream;
use evenkeel_net::buffer::Buffer;

/// Unused bytes at the head of a stream. While there are none, it holds no buffer; few that wait for more are put by in a room of
/// their own size.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    buffer: Option<Buffer>,
    /// Only while there is no buffer.
    put_by: Vec<u8>,
}

impl Inbox {
    /// What is unused.
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.buffer {
            Some(buffer) => buffer.bytes(),
            None => &self.put_by,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    /// The first `count` bytes were used.
    pub(crate) fn consume(&mut self, count: usize) {
        match &mut self.buffer {
            Some(buffer) => {
                buffer.consume(count);
                if buffer.bytes().is_empty() {
                    self.buffer = None;
                }
            }
            None => drop(self.put_by.drain(..count)),
        }
    }

    /// Reads more behind what is unused; how much, 0 is the end. With a whole buffer unused, nothing is read and that is an error:
    /// whoever reads on has to use some first.
    ///
    /// # Errors
    /// As [`Stream::try_read`].
    pub(crate) fn fill(&mut self, stream: &Stream) -> io::Result<usize> {
        let mut buffer = match self.buffer.take() {
            Some(mut buffer) => {
                if buffer.room().is_empty() {
                    buffer.compact();
                }
                buffer
            }
            None => {
                let mut buffer = Buffer::take();
                let before = std::mem::take(&mut self.put_by);
                buffer.room()[..before.len()].copy_from_slice(&before);
                buffer.fill(before.len());
                buffer
            }
        };
        if buffer.room().is_empty() {
            self.buffer = Some(buffer);
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let read = stream.try_read(buffer.room());
        if let Ok(count) = read {
            buffer.fill(count);
        }
        if !buffer.bytes().is_empty() {
            self.buffer = Some(buffer);
        }
        read
    }

    /// Gives the buffer back for as long as nothing comes.
    pub(crate) fn put_by(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.put_by = buffer.bytes().to_vec();
        }
    }
}
