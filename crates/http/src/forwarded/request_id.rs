//! The id of a request.

use std::fmt;

use super::{Forwarding, Origin};

/// Longest id that is taken over, in bytes.
pub const REQUEST_ID_BYTES_MAX: usize = 128;

/// The id of a request: a trusted peer's, or ours of 128 bits, in 32 hexadecimal digits. Safe in a field, a log line
/// of any format, JSON and HTML.
#[derive(Clone, Copy)]
pub struct RequestId {
    // In place, because each request has one.
    bytes: [u8; REQUEST_ID_BYTES_MAX],
    len: u8,
}

impl RequestId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let used = self.bytes.get(..usize::from(self.len));
        used.and_then(|used| std::str::from_utf8(used).ok())
            .unwrap_or_default()
    }

    /// An id of ours.
    #[must_use]
    pub fn random(random: u128) -> Self {
        let mut id = Self {
            bytes: [0; REQUEST_ID_BYTES_MAX],
            len: 32,
        };
        for (byte, place) in id.bytes.iter_mut().zip((0..32).rev()) {
            *byte = b"0123456789abcdef"[(random >> (place * 4)) as usize & 15];
        }
        id
    }

    /// `text`, if it is a safe one: 1 to [`REQUEST_ID_BYTES_MAX`] letters, digits and `-._~+/=@`. No comma, quote or bar: logs
    /// are split at them.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let safe = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=@".contains(byte);
        if !(1..=REQUEST_ID_BYTES_MAX).contains(&text.len()) || !text.iter().all(safe) {
            return None;
        }
        let mut bytes = [0; REQUEST_ID_BYTES_MAX];
        bytes.get_mut(..text.len())?.copy_from_slice(text);
        let len = u8::try_from(text.len()).ok()?;
        Some(Self { bytes, len })
    }
}

impl PartialEq for RequestId {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for RequestId {}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RequestId").field(&self.as_str()).finish()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Forwarding {
    /// The request's id: that of a trusted peer if there is one line of it and it is safe, else one of `random`: 128 bits that
    /// nobody can guess. `None` where no ids are wanted.
    pub fn request_id<'a>(
        &self,
        origin: &Origin,
        random: impl FnOnce() -> u128,
        fields: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Option<RequestId> {
        let own = self.spec.request_id.as_ref()?.as_str().as_bytes();
        let mut lines = fields
            .filter(|(name, _)| name.eq_ignore_ascii_case(own))
            .map(|(_, value)| value);
        let theirs = match (origin.peer_trusted, lines.next(), lines.next()) {
            (true, Some(only), None) => RequestId::parse(only),
            _ => None,
        };
        Some(theirs.unwrap_or_else(|| RequestId::random(random())))
    }
}
