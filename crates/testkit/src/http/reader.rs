//! Reading messages from a connection: exactly to their end, and no byte further.

use std::fmt;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use super::message::{Body, Framing, Head};
use super::websocket::Frame;

/// What came instead of the rest of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The connection's end in order.
    Fin,
    /// A reset.
    Reset,
    /// Nothing in time.
    Timeout,
    /// Bytes that no message may have.
    Nonsense,
}

/// A message that did not come whole.
#[derive(Clone, PartialEq, Eq)]
pub struct Broken {
    /// What came of it.
    pub got: Vec<u8>,
    /// What came instead of the rest.
    pub by: Ended,
}

/// A connection, and what was read of it too early.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) stream: TcpStream,
    unread: Vec<u8>,
    /// Everything of the message that is being read.
    message: Vec<u8>,
    /// Writing has met a reset. Who writes first is told of it, and reading then sees an end like any other (linux/net/ipv4/tcp.c,
    /// tcp_sendmsg_locked; linux/net/core/stream.c, sk_stream_error).
    is_reset: bool,
}

impl Reader {
    pub(crate) fn new(stream: TcpStream) -> Self {
        // Scripts send small pieces, and tests measure when they arrive.
        drop(stream.set_nodelay(true));
        Self {
            stream,
            unread: Vec::new(),
            message: Vec::new(),
            is_reset: false,
        }
    }

    /// Reads a head. What was read of the message before it stays in it.
    pub(crate) fn head(&mut self) -> Result<Head, Broken> {
        let mut from = 0;
        loop {
            let start = self.unread.get(from..).unwrap_or_default();
            if let Some(at) = start.windows(4).position(|four| four == b"\r\n\r\n") {
                let bytes = self.take(from + at + 4);
                return Ok(Head::new(bytes));
            }
            from = self.unread.len().saturating_sub(3);
            self.more()?;
        }
    }

    /// Reads a body.
    pub(crate) fn body(&mut self, framing: Framing) -> Result<Body, Broken> {
        let mut body = Body {
            framing,
            ..Body::default()
        };
        match framing {
            Framing::None => {}
            Framing::Length(length) => body.data = self.exactly(length)?,
            Framing::ToEnd => loop {
                let there = self.unread.len();
                body.data.extend(self.take(there));
                match self.more() {
                    Ok(()) => {}
                    Err(broken) if broken.by == Ended::Fin => return Ok(body),
                    Err(broken) => return Err(broken),
                }
            },
            Framing::Chunked => loop {
                let line = self.line()?;
                let size = std::str::from_utf8(&line).ok();
                let size = size.and_then(|size| usize::from_str_radix(size, 16).ok());
                let Some(size) = size else {
                    return Err(self.broken(Ended::Nonsense));
                };
                if size == 0 {
                    loop {
                        let line = self.line()?;
                        body.trailers.extend(&line);
                        body.trailers.extend(b"\r\n");
                        if line.is_empty() {
                            return Ok(body);
                        }
                    }
                }
                body.data.extend(self.exactly(size)?);
                body.chunks.push(size);
                if self.exactly(2)? != b"\r\n" {
                    return Err(self.broken(Ended::Nonsense));
                }
            },
        }
        Ok(body)
    }

    /// Reads a frame of a tunnel.
    pub(crate) fn frame(&mut self) -> Result<Frame, Broken> {
        loop {
            if let Some((frame, length)) = Frame::decode(&self.unread) {
                self.take(length);
                self.message.clear();
                return Ok(frame);
            }
            self.more()?;
        }
    }

    /// Everything of the message that was read; the next one begins.
    pub(crate) fn message(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.message)
    }

    /// What there is: at least a byte.
    pub(crate) fn some(&mut self) -> Result<Vec<u8>, Broken> {
        if self.unread.is_empty() {
            self.more()?;
        }
        self.message.clear();
        Ok(std::mem::take(&mut self.unread))
    }

    pub(crate) fn exactly(&mut self, length: usize) -> Result<Vec<u8>, Broken> {
        while self.unread.len() < length {
            self.more()?;
        }
        Ok(self.take(length))
    }

    /// Reads and forgets, so that a large body costs no memory: how many bytes.
    pub(crate) fn skip(&mut self, length: usize) -> Result<(), Broken> {
        let mut left = length;
        loop {
            let now = self.unread.len().min(left);
            self.unread.drain(..now);
            left -= now;
            if left == 0 {
                return Ok(());
            }
            self.more()?;
        }
    }

    /// What comes next within `time`: nothing, a byte (`None`), or an end.
    pub(crate) fn end(&mut self, time: Duration) -> Option<Ended> {
        if !self.unread.is_empty() {
            return None;
        }
        let deadline = Instant::now() + time;
        let left = || deadline.saturating_duration_since(Instant::now());
        let before = self.stream.read_timeout().ok().flatten();
        // A time of 0 means for ever.
        let set = |time| self.stream.set_read_timeout(time);
        drop(set(Some(left().max(Duration::from_millis(1)))));
        let outcome = self.more();
        drop(self.stream.set_read_timeout(before));
        outcome.err().map(|broken| broken.by)
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let sent = self.stream.write_all(bytes);
        if let Err(error) = &sent {
            self.is_reset |= error.kind() == ErrorKind::ConnectionReset;
        }
        sent
    }

    pub(crate) fn end_writing(&self) {
        // The peer may be gone already.
        drop(self.stream.shutdown(Shutdown::Write));
    }

    pub(crate) fn broken(&mut self, by: Ended) -> Broken {
        let mut got = self.message();
        got.append(&mut self.unread);
        Broken { got, by }
    }

    fn line(&mut self) -> Result<Vec<u8>, Broken> {
        loop {
            if let Some(at) = self.unread.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.take(at);
                self.take(2);
                return Ok(line);
            }
            self.more()?;
        }
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        let taken: Vec<u8> = self.unread.drain(..length).collect();
        self.message.extend(&taken);
        taken
    }

    fn more(&mut self) -> Result<(), Broken> {
        let mut buffer = [0; 16 * 1024];
        loop {
            let by = match self.stream.read(&mut buffer) {
                Ok(0) if self.is_reset => Ended::Reset,
                Ok(0) => Ended::Fin,
                Ok(length) => {
                    self.unread.extend(&buffer[..length]);
                    return Ok(());
                }
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => continue,
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => Ended::Timeout,
                    _ => Ended::Reset,
                },
            };
            return Err(self.broken(by));
        }
    }
}

impl fmt::Debug for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 1_000;
        let shown = self.got.get(..SHOWN).unwrap_or(&self.got);
        write!(f, "{:?} after \"{}\"", self.by, shown.escape_ascii())
    }
}
