//! Finds the end of a head, and bytes that no head may have, before anything is split.
//!
//! A byte is looked at once, however many reads a head takes; so a client that sends byte after byte costs no more than
//! one that sends all at once. Line ends are CR LF and nothing else, so the end is an LF two bytes behind another.

use evenkeel_http::Rule;
use evenkeel_http::list::is_value_byte;
use evenkeel_http::strict;

/// How far a head was looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Search {
    scanned: usize,
}

/// Bytes that are looked at together; the loop over them becomes vector instructions.
const BLOCK: usize = 32;

impl Search {
    /// The length of the head at the beginning of `bytes`, which is what it was at the last call and perhaps more.
    /// `None`: read on. Nothing beyond the head is looked at.
    pub(crate) fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, &'static Rule> {
        let mut at = self.scanned;
        while at < bytes.len() {
            let block = bytes.len().min(at + BLOCK);
            let plain = at >= 2
                && match (
                    bytes[at - 2..block].first_chunk(),
                    bytes[at - 1..block].first_chunk(),
                    bytes[at..block].first_chunk(),
                ) {
                    (Some(a), Some(b), Some(c)) => is_plain(a, b, c),
                    _ => false,
                };
            if !plain && let Some(end) = one_by_one(bytes, at..block)? {
                self.scanned = 0;
                return Ok(Some(end));
            }
            at = block;
        }
        self.scanned = at;
        Ok(None)
    }
}

/// Whether a block has neither a byte to refuse nor the end; `first` and `second` are the same bytes, two and one earlier.
fn is_plain(first: &[u8; BLOCK], second: &[u8; BLOCK], block: &[u8; BLOCK]) -> bool {
    let mut found = false;
    for ((&a, &b), &c) in first.iter().zip(second).zip(block) {
        let feed = c == b'\n';
        let control = (c < b' ') & (c != b'\t') & (c != b'\r') & !feed;
        found |= (feed != (b == b'\r')) | (feed & (a == b'\n')) | control | (c == 0x7f);
    }
    !found
}

fn one_by_one(bytes: &[u8], block: std::ops::Range<usize>) -> Result<Option<usize>, &'static Rule> {
    for at in block {
        let before = |count: usize| at.checked_sub(count).map(|at| bytes[at]);
        let byte = bytes[at];
        if before(1) == Some(b'\r') && byte != b'\n' {
            return Err(&strict::LINE_CR);
        }
        match byte {
            b'\n' if before(1) != Some(b'\r') => return Err(&strict::LINE_LF),
            b'\n' if before(2) == Some(b'\n') => return Ok(Some(at + 1)),
            b'\n' | b'\r' => {}
            0 => return Err(&strict::BYTE_NUL),
            _ if !is_value_byte(byte) => return Err(&strict::BYTE_CONTROL),
            _ => {}
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_found_at_every_place_and_in_every_split() {
        for length in 0..100 {
            let mut bytes = b"x".repeat(length);
            bytes.extend(b"a\r\nb\r\n\r\n\0\n\r");
            let end = length + 8;
            assert_eq!(Search::default().end(&bytes), Ok(Some(end)));
            for split in 0..end {
                let mut search = Search::default();
                assert_eq!(search.end(&bytes[..split]), Ok(None));
                assert_eq!(search.end(&bytes), Ok(Some(end)));
            }
        }
    }

    #[test]
    fn bad_bytes_are_found_at_every_place() {
        for (bad, rule) in [
            (&b"\0"[..], &strict::BYTE_NUL),
            (b"\x7f", &strict::BYTE_CONTROL),
            (b"\x0b", &strict::BYTE_CONTROL),
            (b"\n", &strict::LINE_LF),
            (b"\r.", &strict::LINE_CR),
            (b"\r\r\n", &strict::LINE_CR),
        ] {
            for length in 0..100 {
                let bytes = [&b"x".repeat(length), bad, &b"x".repeat(100)].concat();
                assert_eq!(Search::default().end(&bytes), Err(rule), "{bad:?} {length}");
            }
        }
    }
}
