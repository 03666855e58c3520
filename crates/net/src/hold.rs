//! What a direction of a relay holds between reading and writing, and how much of it is written at once.

use crate::buffer::Buffer;
use crate::mllp::{Framer, TooLong};

/// Bytes that were read and not yet written.
pub(crate) trait Hold {
    /// Room for the next read; never empty. Asked for only while [`Self::unit`] is empty.
    fn room(&mut self) -> &mut [u8];

    /// The read has put `count` bytes at the start of the room; 0 when it has not come to anything.
    ///
    /// # Errors
    /// When they can never be written as they have to be.
    fn fill(&mut self, count: usize) -> Result<(), TooLong>;

    /// No more will come: whatever is left may be written.
    fn end(&mut self);

    /// What goes in the next write. Empty: read on.
    fn unit(&self) -> &[u8];

    /// Whether the end, when it has been read, may be sent together with the unit: nothing else goes in between.
    fn is_last(&self) -> bool;

    /// The first `count` bytes of the unit were written.
    ///
    /// # Errors
    /// As of [`Self::fill`], of what follows them.
    fn consume(&mut self, count: usize) -> Result<(), TooLong>;

    /// Bytes that the socket which is written should have room for from now on, if that is more than it was told before.
    fn room_wanted(&mut self) -> Option<usize>;

    /// Whether it holds anything at all.
    fn is_empty(&self) -> bool;
}

/// Everything goes as it comes. A buffer is taken when a read is about to succeed, and given back as soon as it is empty.
#[derive(Debug, Default)]
pub(crate) struct Plain(Option<Buffer>);

impl Hold for Plain {
    fn room(&mut self) -> &mut [u8] {
        self.0.get_or_insert_with(Buffer::take).room()
    }

    fn fill(&mut self, count: usize) -> Result<(), TooLong> {
        if let Some(buffer) = &mut self.0 {
            buffer.fill(count);
        }
        if self.unit().is_empty() {
            self.0 = None;
        }
        Ok(())
    }

    fn end(&mut self) {}

    fn unit(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], Buffer::bytes)
    }

    fn is_last(&self) -> bool {
        true
    }

    fn consume(&mut self, count: usize) -> Result<(), TooLong> {
        if let Some(buffer) = &mut self.0 {
            buffer.consume(count);
        }
        if self.unit().is_empty() {
            self.0 = None;
        }
        Ok(())
    }

    fn room_wanted(&mut self) -> Option<usize> {
        None
    }

    fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

/// Each MLLP frame in a write of its own. The memory grows with the frame, and goes when nothing is held.
#[derive(Debug)]
pub(crate) struct Frames {
    framer: Framer,
    /// Read and not yet written: `bytes[from..filled]`; what is behind is room.
    bytes: Vec<u8>,
    from: usize,
    filled: usize,
    /// Bytes of the unit that are still to be written.
    unit: usize,
    /// Longest unit that the socket was told to have room for.
    room_told: usize,
    is_ended: bool,
}

/// Fewest bytes that there is room for before a read.
const READ_BYTES: usize = 64 * 1024;

/// A socket has room for this much without being told (net.ipv4.tcp_wmem begins with 16 KiB).
const ROOM_BYTES: usize = 16 * 1024;

impl Frames {
    pub(crate) fn new(frame_bytes_max: usize) -> Self {
        Self {
            framer: Framer::new(frame_bytes_max),
            bytes: Vec::new(),
            from: 0,
            filled: 0,
            unit: 0,
            room_told: ROOM_BYTES,
            is_ended: false,
        }
    }

    fn look_for_unit(&mut self) -> Result<(), TooLong> {
        let held = &self.bytes[self.from..self.filled];
        self.unit = match self.framer.next(held)? {
            Some(unit) => unit.bytes(),
            // A frame that was broken off.
            None if self.is_ended => held.len(),
            None => 0,
        };
        if self.from == self.filled {
            (self.from, self.filled) = (0, 0);
            self.bytes = Vec::new();
        }
        Ok(())
    }
}

impl Hold for Frames {
    fn room(&mut self) -> &mut [u8] {
        if self.from > 0 {
            self.bytes.copy_within(self.from..self.filled, 0);
            self.filled -= self.from;
            self.from = 0;
        }
        if self.bytes.len() - self.filled < READ_BYTES {
            // Doubled, so that a long frame is moved few times; the framer refuses it before it is much above its limit.
            let wanted = (self.bytes.len() * 2).max(READ_BYTES);
            self.bytes.resize(wanted, 0);
        }
        &mut self.bytes[self.filled..]
    }

    fn fill(&mut self, count: usize) -> Result<(), TooLong> {
        self.filled += count;
        self.look_for_unit()
    }

    fn end(&mut self) {
        self.is_ended = true;
        self.unit = self.filled - self.from;
    }

    fn unit(&self) -> &[u8] {
        &self.bytes[self.from..self.from + self.unit]
    }

    fn is_last(&self) -> bool {
        self.from + self.unit == self.filled
    }

    fn consume(&mut self, count: usize) -> Result<(), TooLong> {
        self.from += count;
        self.unit -= count;
        if self.unit > 0 {
            return Ok(());
        }
        self.look_for_unit()
    }

    fn room_wanted(&mut self) -> Option<usize> {
        if self.unit <= self.room_told {
            return None;
        }
        self.room_told = self.unit;
        Some(self.unit)
    }

    fn is_empty(&self) -> bool {
        self.from == self.filled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(frames: &mut Frames, bytes: &[u8]) -> Result<(), TooLong> {
        frames.room()[..bytes.len()].copy_from_slice(bytes);
        frames.fill(bytes.len())
    }

    fn drain(frames: &mut Frames) -> Vec<Vec<u8>> {
        let mut units = Vec::new();
        while !frames.unit().is_empty() {
            let unit = frames.unit().to_vec();
            frames.consume(unit.len()).unwrap();
            units.push(unit);
        }
        units
    }

    #[test]
    fn a_frame_is_held_until_it_is_whole_and_each_is_a_unit() {
        let mut frames = Frames::new(1_000);
        feed(&mut frames, b"\x0bone\x1c\x0d\x0btw").unwrap();
        assert_eq!(drain(&mut frames), [b"\x0bone\x1c\x0d"]);
        assert!(!frames.is_empty());
        feed(&mut frames, b"o\x1c").unwrap();
        assert!(frames.unit().is_empty());
        feed(&mut frames, b"\x0d\x0bthree\x1c\x0d").unwrap();
        // What is held back for the end would go in one piece with the next.
        assert!(!frames.is_last());
        let expected: [&[u8]; 2] = [b"\x0btwo\x1c\x0d", b"\x0bthree\x1c\x0d"];
        assert_eq!(drain(&mut frames), expected);
        assert!(frames.is_empty() && frames.bytes.is_empty());
    }

    #[test]
    fn what_was_broken_off_goes_at_the_end_and_what_is_too_long_never() {
        let mut frames = Frames::new(16);
        feed(&mut frames, b"\x0bbroken").unwrap();
        assert!(frames.unit().is_empty());
        frames.end();
        assert_eq!(drain(&mut frames), [b"\x0bbroken"]);
        let mut frames = Frames::new(16);
        assert!(feed(&mut frames, &[0x0b; 17]).is_err());
    }

    #[test]
    fn room_is_asked_for_once_for_each_longer_unit() {
        let mut frames = Frames::new(1 << 20);
        let mut ask = |content: usize| {
            let mut frame = vec![0x0b];
            frame.resize(content, b'm');
            frame.extend([0x1c, 0x0d]);
            for piece in frame.chunks(READ_BYTES) {
                feed(&mut frames, piece).unwrap();
            }
            let wanted = frames.room_wanted();
            assert_eq!(frames.room_wanted(), None);
            drain(&mut frames);
            wanted
        };
        assert_eq!(ask(1_000), None);
        assert_eq!(ask(100_000), Some(100_002));
        assert_eq!(ask(90_000), None);
        assert_eq!(ask(300_000), Some(300_002));
    }

    #[test]
    fn a_unit_that_was_written_in_part_goes_on() {
        let mut frames = Frames::new(1_000);
        feed(&mut frames, b"\x0bmessage\x1c\x0d").unwrap();
        frames.consume(4).unwrap();
        assert_eq!(frames.unit(), b"sage\x1c\x0d");
        frames.consume(6).unwrap();
        assert!(frames.is_empty());
    }
}
