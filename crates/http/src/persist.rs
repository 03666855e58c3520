//! What keeps a client with its backend: a signed cookie of ours, or the hash of something that it sends ([`hash_input`]).
//!
//! ```text
//! evenkeel=AQ...          40 characters, base64url of 30 bytes:
//!
//!   1  version, 1
//!   8  identity of the backend: a hash that the caller makes of its name
//!   5  when it ends, seconds since 1970
//!  16  HMAC-SHA-256 of all before, of the service's and the cookie's name, truncated (RFC 2104 section 5)
//! ```
//!
//! A cookie counts for one service and name only, until it ends, under the present key or the one before. Whoever changes a bit of it has none.
//! Two clients may swap theirs: it says where, not who. There is no clock here: `now_s` is the caller's.

mod cookie;
mod hash;

use evenkeel_plan::http::{CookieSpec, SecureCookie};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

pub use cookie::cookies;
pub use hash::{HashInput, hash_input};

use cookie::{TEXT_BYTES, decode, encode};

/// Shortest key in bytes: as many as the tag.
pub const KEY_BYTES_MIN: usize = evenkeel_plan::http::COOKIE_KEY_BYTES_MIN;

/// How long a cookie without a lifetime counts, in seconds.
const SESSION_S: u64 = 86_400;

/// Most cookies of our name in one request that are checked. A page on a neighbouring host may plant some before ours (RFC 6265
/// section 8.6); each costs a hash.
const TRIES_MAX: usize = 4;

const VERSION: u8 = 1;
const PAYLOAD_BYTES: usize = 14;
const TAG_BYTES: usize = 16;
const _: () = assert!(
    (PAYLOAD_BYTES + TAG_BYTES) * 4 == TEXT_BYTES * 3,
    "no bit is left over"
);
const _: () = assert!(
    KEY_BYTES_MIN >= TAG_BYTES,
    "a key is as hard to guess as a tag"
);

/// Latest end that five bytes hold; in the year 36,812.
const END_MAX: u64 = (1 << 40) - 1;

/// Why cookies cannot be signed as wished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PersistError {
    /// A key that can be guessed.
    #[error("the key of a cookie has at least {KEY_BYTES_MIN} bytes")]
    ShortKey,
    /// An attribute with a byte that would end it (RFC 6265 section 4.1.1).
    #[error("path and domain of a cookie have printable ASCII characters only, and no `;` or `,`")]
    Attribute,
}

/// What a request's cookies say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// There is none of ours.
    Absent,
    /// There are, but none counts: ended, forged, another service's, or of a key that is gone.
    Invalid,
    /// The backend that the client was with.
    Backend {
        /// Its identity.
        identity: u64,
        /// Whether to issue it anew: it ends soon, or is of the key before.
        renew: bool,
    },
}

/// Signs and checks the cookies of one service.
#[derive(Clone)]
pub struct CookieSigner {
    name: Box<[u8]>,
    /// What follows the value, but for `Secure`.
    attributes: String,
    secure: SecureCookie,
    lifetime_s: u64,
    current: Hmac<Sha256>,
    previous: Option<Hmac<Sha256>>,
}

impl std::fmt::Debug for CookieSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The keys stay here.
        f.debug_struct("CookieSigner")
            .field("name", &String::from_utf8_lossy(&self.name))
            .field("attributes", &self.attributes)
            .finish_non_exhaustive()
    }
}

impl CookieSigner {
    /// Prepares cookies of `service` as `spec` wants them. `key` signs; cookies of `previous` still count.
    ///
    /// # Errors
    /// [`PersistError`].
    pub fn new(
        spec: &CookieSpec,
        service: &str,
        key: &[u8],
        previous: Option<&[u8]>,
    ) -> Result<Self, PersistError> {
        let name = spec.name.as_str();
        let mac = |key: &[u8]| {
            if key.len() < KEY_BYTES_MIN {
                return Err(PersistError::ShortKey);
            }
            let mut mac =
                Hmac::<Sha256>::new_from_slice(key).map_err(|_| PersistError::ShortKey)?;
            // Neither name has a NUL, so no pair of names reads as another.
            for part in ["evenkeel cookie", service, name] {
                mac.update(part.as_bytes());
                mac.update(&[0]);
            }
            Ok(mac)
        };
        let mut attributes = String::new();
        let path = spec.path.as_deref().unwrap_or("/");
        let mut attribute = |name: &str, value: &str| {
            let fits = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b';' | b',');
            if !value.bytes().all(fits) {
                return Err(PersistError::Attribute);
            }
            attributes.push_str("; ");
            attributes.push_str(name);
            attributes.push_str(value);
            Ok(())
        };
        attribute("Path=", path)?;
        if let Some(domain) = &spec.domain {
            attribute("Domain=", domain)?;
        }
        if let Some(lifetime) = spec.lifetime {
            attribute("Max-Age=", &lifetime.as_secs().to_string())?;
        }
        if spec.http_only {
            attribute("HttpOnly", "")?;
        }
        attribute("SameSite=", spec.same_site.as_str())?;
        Ok(Self {
            name: name.as_bytes().into(),
            attributes,
            secure: spec.secure,
            lifetime_s: spec
                .lifetime
                .map_or(SESSION_S, |lifetime| lifetime.as_secs()),
            current: mac(key)?,
            previous: previous.map(mac).transpose()?,
        })
    }

    /// What the cookies in these values of `Cookie` say at `now_s`, seconds since 1970.
    pub fn read<'a>(&self, lines: impl IntoIterator<Item = &'a [u8]>, now_s: u64) -> Found {
        let mut found = Found::Absent;
        let ours = lines
            .into_iter()
            .flat_map(cookies)
            .filter(|(name, _)| **name == *self.name)
            .map(|(_, value)| value);
        for value in ours.take(TRIES_MAX) {
            if let Some((identity, renew)) = self.check(value, now_s) {
                return Found::Backend { identity, renew };
            }
            found = Found::Invalid;
        }
        found
    }

    /// The value of `Set-Cookie` for a backend, pushed to `out`.
    pub fn push_set_cookie(&self, identity: u64, now_s: u64, https: bool, out: &mut Vec<u8>) {
        let ends_s = now_s.saturating_add(self.lifetime_s).min(END_MAX);
        let mut bytes = [0; PAYLOAD_BYTES + TAG_BYTES];
        let (payload, tag) = bytes.split_at_mut(PAYLOAD_BYTES);
        let parts = std::iter::once(VERSION)
            .chain(identity.to_be_bytes())
            .chain(ends_s.to_be_bytes().into_iter().skip(3));
        for (to, from) in payload.iter_mut().zip(parts) {
            *to = from;
        }
        let full = self.current.clone().chain_update(&*payload).finalize();
        for (to, from) in tag.iter_mut().zip(full.into_bytes()) {
            *to = from;
        }
        out.extend_from_slice(&self.name);
        out.push(b'=');
        out.extend_from_slice(&encode(&bytes));
        out.extend_from_slice(self.attributes.as_bytes());
        if self.secure == SecureCookie::Always || (self.secure == SecureCookie::Auto && https) {
            out.extend_from_slice(b"; Secure");
        }
    }

    /// A value of `Cookie` without ours, for the backend, pushed to `out`. Whether anything is left; if not, the line goes.
    pub fn push_others(&self, line: &[u8], out: &mut Vec<u8>) -> bool {
        let mut any = false;
        let pairs = line.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        for pair in pairs.filter(|pair| !pair.is_empty()) {
            let name = pair.split(|byte| *byte == b'=').next().unwrap_or(pair);
            if *name.trim_ascii() == *self.name {
                continue;
            }
            if any {
                out.extend_from_slice(b"; ");
            }
            out.extend_from_slice(pair);
            any = true;
        }
        any
    }

    /// The identity in a cookie that counts, and whether to issue it anew.
    fn check(&self, value: &[u8], now_s: u64) -> Option<(u64, bool)> {
        let bytes: [u8; PAYLOAD_BYTES + TAG_BYTES] = decode(value)?;
        let (payload, tag) = bytes.split_at(PAYLOAD_BYTES);
        // The comparison takes as long whatever differs.
        let is_of = |mac: &Hmac<Sha256>| {
            let mac = mac.clone().chain_update(payload);
            mac.verify_truncated_left(tag).is_ok()
        };
        let is_current = is_of(&self.current);
        if !is_current && !self.previous.as_ref().is_some_and(is_of) {
            return None;
        }
        let (version, rest) = payload.split_first()?;
        let (identity, end) = rest.split_first_chunk::<8>()?;
        if *version != VERSION {
            return None;
        }
        let ends_s = end
            .iter()
            .fold(0, |ends_s, byte| ends_s << 8 | u64::from(*byte));
        let left_s = ends_s.checked_sub(now_s).filter(|left_s| *left_s > 0)?;
        let renew = !is_current || left_s <= self.lifetime_s / 3;
        Some((u64::from_be_bytes(*identity), renew))
    }
}

#[cfg(test)]
mod tests;
