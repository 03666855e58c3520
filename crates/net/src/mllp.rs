//! Frames of MLLP, the minimal lower layer protocol of HL7, in a stream of bytes.
//!
//! ```text
//! 0x0B  content ...  0x1C 0x0D        a frame
//! ```
//!
//! Some servers take each read of their socket as one message. A relay that writes each frame in one write serves
//! them: it holds an incomplete frame in its buffer, up to a limit, and writes it when its end has come. [`Framer`] says
//! how far the next write goes. What is no frame (a line end between two frames, or another protocol altogether) is
//! written as soon as it is there; nothing is dropped, changed or put in another order.
//!
//! ```text
//! buffer      [ CR LF | 0B frame 1C 0D | LF | 0B frame 1C 0D | 0B fra            ]
//! next        <-------- one ---------->|<------- two ------->|  none: read on
//! ```
//!
//! What precedes a frame goes in the same write if both are there, as the sender wrote them; what follows a frame
//! never does.
//!
//! A relay's loop: read to the end of the buffer; while [`Framer::next`] gives a unit of what is not written yet, write
//! that in one write and take it off the front; move what is left to the head of the buffer. A buffer of `max` bytes
//! suffices. At the end of the stream the rest is a frame that was broken off; it is written as it is.
//!
//! Source: HL7 Version 2.5 implementation guide, appendix C, "Minimal Lower Layer Protocol"; it forbids 0x0B and 0x1C in
//! the content. Here 0x0B is content until the frame ends, and so is 0x1C when no 0x0D follows.

const START: u8 = 0x0b;
const END: [u8; 2] = [0x1c, 0x0d];

/// Shortest frame, without content.
pub const FRAME_BYTES_MIN: usize = 3;

/// Finds where frames end. One for each direction of a connection.
#[derive(Clone, Debug)]
pub struct Framer {
    max: usize,
    /// Bytes at the head of what is not written yet that were looked at and need not be again: the beginning of a frame
    /// whose end was not among them. 0 when the head was not looked at.
    scanned: usize,
}

/// What goes in one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Bytes outside of frames, which come first.
    pub outside: usize,
    /// Bytes of the frame that follows, from its 0x0B to its 0x0D; 0 when none does.
    pub frame: usize,
}

/// A frame is longer than the limit. The connection can only be closed: what is held of the frame cannot be written in
/// one write, and what would follow could not be told from content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an MLLP frame longer than {max} bytes")]
pub struct TooLong {
    /// The limit in bytes.
    pub max: usize,
}

impl Framer {
    /// `max` is the limit for a frame with its three bytes of framing, in bytes; at least [`FRAME_BYTES_MIN`].
    #[must_use]
    pub const fn new(max: usize) -> Self {
        let max = if max < FRAME_BYTES_MIN {
            FRAME_BYTES_MIN
        } else {
            max
        };
        Self { max, scanned: 0 }
    }

    /// The limit for a frame in bytes.
    #[must_use]
    pub const fn max(&self) -> usize {
        self.max
    }

    /// The next unit at the head of `unwritten`: all bytes that were read and that no unit before has covered. `None`:
    /// read on; nothing but the beginning of a frame is there, or nothing.
    ///
    /// A byte of a frame is not searched again with every call, however many it takes to arrive.
    ///
    /// # Errors
    /// [`TooLong`] as soon as so many bytes of a frame are there that it cannot end within the limit; and again when
    /// asked again.
    pub fn next(&mut self, unwritten: &[u8]) -> Result<Option<Unit>, TooLong> {
        // A frame that was begun is at the head, so nothing is outside.
        let outside = if self.scanned > 0 {
            0
        } else {
            find(unwritten, START).unwrap_or(unwritten.len())
        };
        let frame = &unwritten[outside..];
        match self.end(frame) {
            Some(end) if end <= self.max => {
                self.scanned = 0;
                Ok(Some(Unit {
                    outside,
                    frame: end,
                }))
            }
            _ if outside > 0 => {
                // The frame, if any, is at the head then.
                self.scanned = Self::settled(frame);
                Ok(Some(Unit { outside, frame: 0 }))
            }
            _ if frame.len() >= self.max => Err(TooLong { max: self.max }),
            _ => {
                self.scanned = Self::settled(frame);
                Ok(None)
            }
        }
    }

    /// Length of the frame at the head of `frame`, if its end is there.
    fn end(&self, frame: &[u8]) -> Option<usize> {
        let mut from = self.scanned;
        loop {
            from += find(frame.get(from..)?, END[0])?;
            match frame.get(from + 1) {
                Some(&next) if next == END[1] => return Some(from + END.len()),
                Some(_) => from += 1,
                None => return None,
            }
        }
    }

    /// How much of a frame without an end need not be looked at again: all but a last byte that may begin the end.
    fn settled(frame: &[u8]) -> usize {
        match frame.split_last() {
            Some((&last, before)) if last == END[0] => before.len(),
            _ => frame.len(),
        }
    }
}

impl Unit {
    /// Its length in bytes; above 0.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self.outside + self.frame
    }
}

/// Position of the first `needle`.
fn find(bytes: &[u8], needle: u8) -> Option<usize> {
    // Most chunks do not have it, and `contains` reads many bytes at a time.
    const CHUNK: usize = 256;
    let chunk = bytes
        .chunks(CHUNK)
        .position(|chunk| chunk.contains(&needle))?;
    let rest = &bytes[chunk * CHUNK..];
    rest.iter()
        .position(|&byte| byte == needle)
        .map(|position| chunk * CHUNK + position)
}
