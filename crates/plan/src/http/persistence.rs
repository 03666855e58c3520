//! Which requests stay with one backend.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::text::FieldName;
use crate::SecretSource;

/// Shortest key of cookies, bytes: as many as a cookie's tag.
pub const COOKIE_KEY_BYTES_MIN: usize = 16;

/// By what requests stay with one backend while it is eligible.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PersistenceSpec {
    /// By a cookie of ours that names it. Moves, and is issued anew, when its backend is not eligible.
    Cookie(CookieSpec),
    /// By the hash of this field (Maglev). Requests without it are scheduled.
    Header(FieldName),
    /// By the hash of the path (Maglev).
    Uri {
        /// And of the query. Default `false`.
        query: bool,
    },
    /// By the hash of the client's address (Maglev), as trusted peers tell it.
    Source,
}

/// A cookie that names a backend by a hash, signed, so that no client chooses a backend by it. The hash is no secret: who can guess a
/// backend's name can check it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CookieSpec {
    /// Its name, a token of 1..=64 bytes. Default `evenkeel`.
    pub name: FieldName,
    /// How long it counts, whole seconds, 1 s..=400 days, and is kept by the browser (Max-Age). `None`: a cookie that the browser
    /// drops when it is closed and that counts for 24 h here. It is issued anew in the last third of its time. Default `None`.
    pub lifetime: Option<Duration>,
    /// Path; `None` = `/`.
    pub path: Option<String>,
    /// Domain; `None` = the host that was asked, and no other.
    pub domain: Option<String>,
    /// Secure. Default `Auto`.
    pub secure: SecureCookie,
    /// HttpOnly. Default `true`.
    pub http_only: bool,
    /// SameSite. Default `Lax`.
    pub same_site: SameSite,
    /// Key that new cookies are signed with; goes to workers only. `None` = one that the supervisor makes at its start, after
    /// whose end cookies do not count any more.
    pub key: Option<SecretSource>,
    /// Key before, whose cookies still count and are issued anew with `key`.
    pub previous_key: Option<SecretSource>,
}

/// When a cookie has the attribute Secure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SecureCookie {
    /// Where the client asked by https.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The attribute SameSite of a cookie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SameSite {
    /// Also when the user follows a link from elsewhere.
    #[default]
    Lax,
    /// From the same site only.
    Strict,
    /// Always; browsers want Secure with it.
    None,
}

impl CookieSpec {
    /// Where its keys come from; none = the supervisor makes one.
    pub fn sources(&self) -> impl Iterator<Item = &SecretSource> {
        self.key.iter().chain(&self.previous_key)
    }
}

impl Default for CookieSpec {
    fn default() -> Self {
        Self {
            name: FieldName::new("evenkeel").expect("it is a token"),
            lifetime: None,
            path: None,
            domain: None,
            secure: SecureCookie::default(),
            http_only: true,
            same_site: SameSite::default(),
            key: None,
            previous_key: None,
        }
    }
}

impl SameSite {
    /// The attribute's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lax => "Lax",
            Self::Strict => "Strict",
            Self::None => "None",
        }
    }
}
