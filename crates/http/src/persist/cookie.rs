//! Values of `Cookie`, and the text of ours.

/// Characters of a cookie of ours.
pub(super) const TEXT_BYTES: usize = 40;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Names and values in a value of `Cookie`, in order, without a copy (RFC 6265 section 4.2.1). A part without `=` is none. Names
/// are compared with case. Quotes are part of a value.
pub fn cookies(line: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    line.split(|byte| *byte == b';').filter_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = pair.split_at(at);
        Some((name.trim_ascii(), value.get(1..)?.trim_ascii()))
    })
}

/// base64url (RFC 4648 section 5) of 30 bytes; nothing is left over, so there is one text for each value and no padding.
pub(super) fn encode(bytes: &[u8; TEXT_BYTES / 4 * 3]) -> [u8; TEXT_BYTES] {
    let mut text = [0; TEXT_BYTES];
    for (four, three) in text.chunks_exact_mut(4).zip(bytes.chunks_exact(3)) {
        let word = three
            .iter()
            .fold(0, |word, byte| word << 8 | usize::from(*byte));
        for (place, to) in four.iter_mut().rev().enumerate() {
            *to = ALPHABET[(word >> (place * 6)) & 63];
        }
    }
    text
}

pub(super) fn decode(text: &[u8]) -> Option<[u8; TEXT_BYTES / 4 * 3]> {
    if text.len() != TEXT_BYTES {
        return None;
    }
    let mut bytes = [0; TEXT_BYTES / 4 * 3];
    for (three, four) in bytes.chunks_exact_mut(3).zip(text.chunks_exact(4)) {
        let mut word = 0_u32;
        for c in four {
            word = word << 6 | u32::from(value_of(*c)?);
        }
        let [_, high, middle, low] = word.to_be_bytes();
        three.copy_from_slice(&[high, middle, low]);
    }
    Some(bytes)
}

fn value_of(c: u8) -> Option<u8> {
    match c {
        b'A'..=b'Z' => Some(c - b'A'),
        b'a'..=b'z' => Some(c - b'a' + 26),
        b'0'..=b'9' => Some(c - b'0' + 52),
        b'-' => Some(62),
        b'_' => Some(63),
        _ => None,
    }
}
