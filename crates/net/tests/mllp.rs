//! The framer: whatever the reads, the same frames, and every byte in its place.
//!
//! How: `Relay` does what a relay does, with a buffer of the limit's size.

use evenkeel_net::mllp::{Framer, TooLong, Unit};
use proptest::collection::vec;
use proptest::prelude::*;

const MAX: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Outside(usize),
    Frame(usize),
}

struct Relay {
    framer: Framer,
    held: Vec<u8>,
    writes: Vec<Vec<u8>>,
    pieces: Vec<Piece>,
}

impl Relay {
    fn new(max: usize) -> Self {
        Self {
            framer: Framer::new(max),
            held: Vec::new(),
            writes: Vec::new(),
            pieces: Vec::new(),
        }
    }

    /// Takes `bytes` as one read, or as many as a buffer of the limit's size makes of it.
    fn read(&mut self, mut bytes: &[u8]) -> Result<(), TooLong> {
        while !bytes.is_empty() {
            let space = self.framer.max() - self.held.len();
            let (now, later) = bytes.split_at(space.min(bytes.len()));
            self.held.extend(now);
            bytes = later;
            let mut from = 0;
            while let Some(unit) = self.framer.next(&self.held[from..])? {
                assert!(unit.bytes() > 0);
                self.writes
                    .push(self.held[from..from + unit.bytes()].to_vec());
                self.note(unit);
                from += unit.bytes();
            }
            self.held.drain(..from);
        }
        Ok(())
    }

    /// Bytes outside, which depend on the reads, are summed up between two frames.
    fn note(&mut self, unit: Unit) {
        if unit.outside > 0 {
            if let Some(Piece::Outside(count)) = self.pieces.last_mut() {
                *count += unit.outside;
            } else {
                self.pieces.push(Piece::Outside(unit.outside));
            }
        }
        if unit.frame > 0 {
            self.pieces.push(Piece::Frame(unit.frame));
        }
    }
}

fn frame(content: &[u8]) -> Vec<u8> {
    [b"\x0b", content, b"\x1c\r"].concat()
}

/// Bytes that matter more often than others.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![Just(0x0b), Just(0x1c), Just(0x0d), any::<u8>()]
}

proptest! {
    #[test]
    fn the_reads_do_not_matter(input in vec(byte(), 0..400), cuts in vec(0..400_usize, 0..30)) {
        let mut whole = Relay::new(MAX);
        let expected = whole.read(&input);
        let mut cut = Relay::new(MAX);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|at| at.min(input.len())).collect();
        cuts.sort_unstable();
        cuts.insert(0, 0);
        cuts.push(input.len());
        let result = cuts.windows(2).try_for_each(|ends| cut.read(&input[ends[0]..ends[1]]));

        prop_assert_eq!(result, expected);
        prop_assert_eq!(&cut.pieces, &whole.pieces);
        let written = |relay: &Relay| [relay.writes.concat(), relay.held.clone()].concat();
        if expected.is_ok() {
            prop_assert_eq!(written(&whole), &input[..]);
            prop_assert_eq!(written(&cut), &input[..]);
        } else {
            prop_assert_eq!(whole.writes.concat(), cut.writes.concat());
        }
        // A frame is the end of its write and is what it is found by.
        for write in whole.writes.iter().chain(&cut.writes) {
            if let Some(start) = write.iter().position(|&byte| byte == 0x0b) {
                let end = write[start..].windows(2).position(|end| end == [0x1c, 0x0d]);
                prop_assert_eq!(end, Some(write.len() - start - 2));
            }
        }
    }

    #[test]
    fn frames_that_were_put_in_come_out(
        contents in vec(vec(any::<u8>(), 0..50), 1..20),
        between in vec(prop_oneof![Just(""), Just("\r\n"), Just("\n")], 20),
        read in 1..200_usize,
    ) {
        // An end within the content would make two frames of one.
        let frames: Vec<Vec<u8>> = contents
            .iter()
            .map(|content| frame(&content.iter().copied().filter(|&byte| byte != 0x1c).collect::<Vec<_>>()))
            .collect();
        let input: Vec<u8> = frames
            .iter()
            .zip(between)
            .flat_map(|(frame, between)| [between.as_bytes(), frame].concat())
            .collect();
        let mut relay = Relay::new(MAX);
        for bytes in input.chunks(read) {
            relay.read(bytes).unwrap();
        }
        prop_assert!(relay.held.is_empty());
        let found: Vec<Vec<u8>> = relay
            .writes
            .iter()
            .filter_map(|write| {
                let start = write.iter().position(|&byte| byte == 0x0b)?;
                Some(write[start..].to_vec())
            })
            .collect();
        prop_assert_eq!(found, frames);
    }

    /// Any caller may break the rule that what was not covered comes again.
    #[test]
    fn nothing_panics(inputs in vec(vec(byte(), 0..100), 0..10), max in 0..80_usize) {
        let mut framer = Framer::new(max);
        for input in inputs {
            if let Ok(Some(unit)) = framer.next(&input) {
                prop_assert!(unit.bytes() <= input.len());
            }
        }
    }
}

#[test]
fn units_as_drawn() {
    let input = b"\r\n\x0bone\x1c\r\n\x0btwo\x1c\r\n\x0bth";
    let mut framer = Framer::new(MAX);
    let mut from = 0;
    let mut units = Vec::new();
    while let Some(unit) = framer.next(&input[from..]).unwrap() {
        units.push((unit.outside, unit.frame));
        from += unit.bytes();
    }
    assert_eq!(units, [(2, 6), (1, 6), (1, 0)]);
    assert_eq!(&input[from..], b"\x0bth");
}

#[test]
fn what_is_no_frame_goes_at_once() {
    let mut relay = Relay::new(MAX);
    relay.read(b"\r").unwrap();
    relay.read(b"\n").unwrap();
    relay.read(&frame(b"x")).unwrap();
    relay.read(b"GET / HTTP/1.1\r\n\x1c\r").unwrap();
    assert_eq!(
        relay.writes,
        [
            &b"\r"[..],
            b"\n",
            b"\x0bx\x1c\r",
            b"GET / HTTP/1.1\r\n\x1c\r"
        ]
    );
}

#[test]
fn only_both_bytes_end_a_frame() {
    let frame = b"\x0ba\x1cb\x1c\x1c\x0b\rc\x1c\r";
    for read in 1..=frame.len() {
        let mut relay = Relay::new(MAX);
        for bytes in frame.chunks(read) {
            relay.read(bytes).unwrap();
        }
        assert_eq!(relay.writes, [frame], "reads of {read}");
    }
}

#[test]
fn the_limit_is_exact() {
    let fits = frame(&[b'x'; MAX - 3]);
    let exceeds = frame(&[b'x'; MAX - 2]);
    for read in [1, 7, MAX - 1, MAX, MAX + 1] {
        let mut relay = Relay::new(MAX);
        for bytes in [&b"\n"[..], &fits].concat().chunks(read) {
            relay.read(bytes).unwrap();
        }
        assert_eq!(relay.pieces, [Piece::Outside(1), Piece::Frame(MAX)]);

        let mut relay = Relay::new(MAX);
        let input = [&b"\n"[..], &exceeds].concat();
        let result = input.chunks(read).try_for_each(|bytes| relay.read(bytes));
        assert_eq!(result, Err(TooLong { max: MAX }), "reads of {read}");
        assert_eq!(relay.writes, [b"\n"]);
    }
    // Also when a buffer holds more than the limit; and it stays so.
    let mut framer = Framer::new(MAX);
    assert_eq!(framer.next(&exceeds), Err(TooLong { max: MAX }));
    assert_eq!(framer.next(&exceeds), Err(TooLong { max: MAX }));
}

/// A scan that began anew with each read would take minutes here.
#[test]
fn long_frames_in_small_reads_and_many_small_frames_stay_linear() {
    let long = frame(&vec![0x1c; 1 << 20]);
    let mut framer = Framer::new(long.len());
    for end in 1..long.len() {
        assert_eq!(framer.next(&long[..end]), Ok(None));
    }
    let whole = Unit {
        outside: 0,
        frame: long.len(),
    };
    assert_eq!(framer.next(&long), Ok(Some(whole)));

    let many = frame(b"x").repeat(1_000_000);
    let mut from = 0;
    let mut count = 0;
    while let Some(unit) = framer.next(&many[from..]).unwrap() {
        from += unit.bytes();
        count += 1;
    }
    assert_eq!((count, from), (1_000_000, many.len()));
}
