//! Names of services, pools and backends.

use std::borrow::Borrow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest name in bytes. Names end up in metric labels, log lines and file names.
pub const NAME_BYTES_MAX: usize = 63;

/// Why a text is not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text has no characters.
    #[error("a name cannot be empty")]
    Empty,
    /// The text has more than [`NAME_BYTES_MAX`] bytes.
    #[error("a name has at most {NAME_BYTES_MAX} characters")]
    TooLong,
    /// A character other than an ASCII letter, a digit, `-`, `_` or `.`, or the first is not a letter or digit.
    #[error("a name has letters, digits, `-`, `_` and `.` only, and starts with a letter or digit")]
    Character,
}

fn validate(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong);
    }
    let body = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) || !text.chars().all(body) {
        return Err(NameError::Character);
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// Checks and takes `text` as a name.
            ///
            /// # Errors
            /// [`NameError`] when `text` is empty, longer than [`NAME_BYTES_MAX`] bytes, or has a character
            /// that is not allowed.
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                validate(&text)?;
                Ok(Self(text))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
            }
        }
    };
}

name! {
    /// Name of a service, unique in a plan.
    ServiceName
}
name! {
    /// Name of a pool, unique in a configuration.
    PoolName
}
name! {
    /// Name of a backend, unique in its pool; with its service it is the identity `service/backend`.
    BackendName
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_operators_write_and_refuses_what_breaks_labels() {
        for good in [
            "a",
            "openhim-1",
            "couchdb-1.local",
            "10.0.0.2",
            "x_y",
            "9lives",
        ] {
            assert!(BackendName::new(good).is_ok(), "{good}");
        }
        assert_eq!(ServiceName::new(""), Err(NameError::Empty));
        assert_eq!(ServiceName::new("x".repeat(64)), Err(NameError::TooLong));
        for bad in ["-a", ".a", "a b", "a/b", "a\"", "é", "a\n"] {
            assert_eq!(ServiceName::new(bad), Err(NameError::Character), "{bad}");
        }
    }
}
