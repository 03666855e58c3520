//! Frames of RFC 6455, as much as tests need.

use std::fmt;

/// A key and what a server makes of it, both from RFC 6455 section 1.3.
const UPGRADE_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// `Sec-WebSocket-Accept` for the key of [`upgrade_request`].
pub const UPGRADE_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A frame.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// Whether it is the last one of its message.
    pub is_last: bool,
    /// 0 further, 1 text, 2 binary, 8 close, 9 ping, 10 pong.
    pub opcode: u8,
    /// Key of the mask; clients have one, servers none.
    pub mask: Option<[u8; 4]>,
    /// Without the mask.
    pub payload: Vec<u8>,
}

/// A request for an upgrade at `path`.
#[must_use]
pub fn upgrade_request(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {UPGRADE_KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}

/// The answer that takes it.
#[must_use]
pub fn upgrade_answer() -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {UPGRADE_ACCEPT}\r\n\r\n"
    )
}

impl Frame {
    /// One that is a whole message, without a mask.
    #[must_use]
    pub fn new(opcode: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            is_last: true,
            opcode,
            mask: None,
            payload: payload.into(),
        }
    }

    /// The end, with a code (RFC 6455 section 7.4) and a reason.
    #[must_use]
    pub fn close(code: u16, reason: &str) -> Self {
        let mut payload = code.to_be_bytes().to_vec();
        payload.extend(reason.bytes());
        Self::new(8, payload)
    }

    /// Not the last one of its message.
    #[must_use]
    pub fn further(mut self) -> Self {
        self.is_last = false;
        self
    }

    /// As a client sends it.
    #[must_use]
    pub fn masked(mut self) -> Self {
        self.mask = Some([0x12, 0xff, 0x00, 0x5a]);
        self
    }

    /// Its bytes (RFC 6455 section 5.2).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![u8::from(self.is_last) << 7 | self.opcode];
        let masked = u8::from(self.mask.is_some()) << 7;
        let length = self.payload.len();
        if let Some(short) = u8::try_from(length).ok().filter(|short| *short < 126) {
            out.push(masked | short);
        } else if let Ok(medium) = u16::try_from(length) {
            out.push(masked | 126);
            out.extend(medium.to_be_bytes());
        } else {
            out.push(masked | 127);
            out.extend((length as u64).to_be_bytes());
        }
        out.extend(self.mask.iter().flatten());
        let key = self.mask.unwrap_or_default();
        let mask = key.iter().cycle();
        out.extend(
            self.payload
                .iter()
                .zip(mask)
                .map(|(byte, mask)| byte ^ mask),
        );
        out
    }

    /// The first frame of `bytes` and its length; `None` where it is not all there.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(Self, usize)> {
        let (first, second) = (*bytes.first()?, *bytes.get(1)?);
        let (length, mut at) = match second & 0x7f {
            126 => {
                let two: [u8; 2] = bytes.get(2..4)?.try_into().ok()?;
                (usize::from(u16::from_be_bytes(two)), 4)
            }
            127 => {
                let eight: [u8; 8] = bytes.get(2..10)?.try_into().ok()?;
                (usize::try_from(u64::from_be_bytes(eight)).ok()?, 10)
            }
            short => (usize::from(short), 2),
        };
        let mask: Option<[u8; 4]> = if second & 0x80 == 0 {
            None
        } else {
            let key = bytes.get(at..at + 4)?.try_into().ok()?;
            at += 4;
            Some(key)
        };
        let data = bytes.get(at..at + length)?;
        let key = mask.unwrap_or_default();
        let keys = key.iter().cycle();
        let frame = Self {
            is_last: first & 0x80 != 0,
            opcode: first & 0x0f,
            mask,
            payload: data
                .iter()
                .zip(keys)
                .map(|(byte, key)| byte ^ key)
                .collect(),
        };
        Some((frame, at + length))
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (last, length) = (self.is_last, self.payload.len());
        write!(f, "frame {} of {length} bytes, last: {last}", self.opcode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_standard() {
        // RFC 6455 section 5.7.
        let hello = Frame::new(1, "Hello");
        assert_eq!(hello.encode(), b"\x81\x05Hello");
        let mut masked = Frame::new(1, "Hello");
        masked.mask = Some([0x37, 0xfa, 0x21, 0x3d]);
        assert_eq!(
            masked.encode(),
            b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"
        );
        assert_eq!(Frame::new(1, "Hel").further().encode(), b"\x01\x03Hel");
        assert_eq!(
            Frame::new(2, vec![0; 256]).encode()[..4],
            *b"\x82\x7e\x01\x00"
        );
        assert_eq!(
            Frame::new(2, vec![0; 65_536]).encode()[..10],
            *b"\x82\x7f\0\0\0\0\0\x01\0\0"
        );
    }

    #[test]
    fn what_was_written_is_read_and_what_is_not_whole_is_waited_for() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            let frame = Frame::new(2, vec![7; length]).masked();
            let bytes = frame.encode();
            assert_eq!(Frame::decode(&bytes), Some((frame, bytes.len())));
            assert_eq!(Frame::decode(&bytes[..bytes.len() - 1]), None);
        }
    }
}
