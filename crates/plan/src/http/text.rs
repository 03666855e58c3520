//! Names and values of fields, and methods: text that goes onto the wire as it is and therefore holds nothing that would end it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest name of a field in bytes.
pub const FIELD_NAME_BYTES_MAX: usize = 128;

/// Longest value of a field in a configuration, in bytes.
pub const FIELD_VALUE_BYTES_MAX: usize = 4_096;

/// Longest method in bytes. The longest registered one, `UPDATEREDIRECTREF`, has 17.
const METHOD_BYTES_MAX: usize = 32;

/// Fields that nobody sets, adds or removes by configuration: the engine writes them, for framing, for the connection, or by
/// [`HostSpec`](super::HostSpec). Lower case.
pub const PROTECTED_FIELDS: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Why a text is no name of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldNameError {
    /// It has no characters.
    #[error("a field's name cannot be empty")]
    Empty,
    /// It has more than [`FIELD_NAME_BYTES_MAX`] bytes.
    #[error("a field's name has at most {FIELD_NAME_BYTES_MAX} characters")]
    TooLong,
    /// A byte that is not allowed (RFC 9110 section 5.6.2).
    #[error("a field's name has letters, digits and !#$%&'*+-.^_`|~ only")]
    Byte,
    /// One of [`PROTECTED_FIELDS`].
    #[error("this field is written by the daemon itself and cannot be changed")]
    Protected,
}

/// Why a text is no value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldValueError {
    /// It has more than [`FIELD_VALUE_BYTES_MAX`] bytes.
    #[error("a field's value has at most {FIELD_VALUE_BYTES_MAX} bytes")]
    TooLong,
    /// A byte that is not allowed (RFC 9110 section 5.5).
    #[error("a field's value has printable ASCII characters, spaces and tabs only")]
    Byte,
    /// A space or tab at an end, which a recipient would drop.
    #[error("a field's value does not start or end with a space")]
    Space,
}

/// Why a text is no method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a method has 1 to 32 letters, digits and !#$%&'*+-.^_`|~")]
pub struct MethodError;

/// A byte of a token, RFC 9110 section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The name of a field, as it is written. Compared without case.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FieldName(String);

impl FieldName {
    /// Checks and takes `text` as a name. It may be one of [`PROTECTED_FIELDS`]: a route may match on those.
    ///
    /// # Errors
    /// [`FieldNameError`], any but `Protected`.
    pub fn new(text: impl Into<String>) -> Result<Self, FieldNameError> {
        let text = text.into();
        if text.is_empty() {
            return Err(FieldNameError::Empty);
        }
        if text.len() > FIELD_NAME_BYTES_MAX {
            return Err(FieldNameError::TooLong);
        }
        if !text.bytes().all(is_token_byte) {
            return Err(FieldNameError::Byte);
        }
        Ok(Self(text))
    }

    /// Checks and takes `text` as the name of a field that a configuration may change.
    ///
    /// # Errors
    /// [`FieldNameError`]; [`PROTECTED_FIELDS`] are `Protected`, also with `_` for `-`.
    pub fn changeable(text: impl Into<String>) -> Result<Self, FieldNameError> {
        let name = Self::new(text)?;
        if name.is_protected() {
            return Err(FieldNameError::Protected);
        }
        Ok(name)
    }

    /// Whether it is one of [`PROTECTED_FIELDS`], also with `_` for `-`.
    #[must_use]
    pub fn is_protected(&self) -> bool {
        PROTECTED_FIELDS
            .iter()
            .any(|protected| same_name(protected.as_bytes(), self.0.as_bytes()))
    }

    /// The name as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PartialEq for FieldName {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for FieldName {}

/// Same name to a backend: without case, and with `_` for `-`, which CGI and its heirs (WSGI, PHP, Rack) do not tell apart.
fn same_name(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len()
        && one
            .iter()
            .zip(other)
            .all(|(one, other)| folded(*one) == folded(*other))
}

fn folded(byte: u8) -> u8 {
    match byte {
        b'_' => b'-',
        _ => byte.to_ascii_lowercase(),
    }
}

/// Which fields are meant: one name, or all that start alike (`X-Auth-CouchDB-*`). Names that differ in case, or in `_` for
/// `-`, are the same here: a backend behind CGI would take the one for the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NamePattern {
    /// Without the star.
    name: FieldName,
    prefix: bool,
}

impl NamePattern {
    /// Reads a name, or the start of one followed by `*`.
    ///
    /// # Errors
    /// [`FieldNameError`]; `Protected` also for a start that a name of [`PROTECTED_FIELDS`] has.
    pub fn new(text: &str) -> Result<Self, FieldNameError> {
        let (name, prefix) = match text.strip_suffix('*') {
            Some(start) => (start, true),
            None => (text, false),
        };
        let pattern = Self {
            name: FieldName::new(name)?,
            prefix,
        };
        let protected = PROTECTED_FIELDS
            .iter()
            .any(|protected| pattern.matches(protected.as_bytes()));
        if protected {
            return Err(FieldNameError::Protected);
        }
        Ok(pattern)
    }

    /// Whether a field of this name is meant.
    #[must_use]
    pub fn matches(&self, name: &[u8]) -> bool {
        let own = self.name.0.as_bytes();
        if self.prefix {
            name.get(..own.len())
                .is_some_and(|start| same_name(own, start))
        } else {
            same_name(own, name)
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name.0)?;
        f.write_str(if self.prefix { "*" } else { "" })
    }
}

/// The value of a field as a configuration gives it: printable ASCII, spaces and tabs within.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FieldValue(String);

impl FieldValue {
    /// Checks and takes `text` as a value. It may be empty.
    ///
    /// # Errors
    /// [`FieldValueError`].
    pub fn new(text: impl Into<String>) -> Result<Self, FieldValueError> {
        let text = text.into();
        if text.len() > FIELD_VALUE_BYTES_MAX {
            return Err(FieldValueError::TooLong);
        }
        if !text.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~')) {
            return Err(FieldValueError::Byte);
        }
        if text.trim_matches([' ', '\t']).len() != text.len() {
            return Err(FieldValueError::Space);
        }
        Ok(Self(text))
    }

    /// The value as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A method, compared with case (RFC 9110 section 9.1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Method(String);

impl Method {
    /// Checks and takes `text` as a method.
    ///
    /// # Errors
    /// [`MethodError`] when it is no token of 1 to 32 bytes.
    pub fn new(text: impl Into<String>) -> Result<Self, MethodError> {
        let text = text.into();
        if text.is_empty() || text.len() > METHOD_BYTES_MAX || !text.bytes().all(is_token_byte) {
            return Err(MethodError);
        }
        Ok(Self(text))
    }

    /// The method as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! through_text {
    ($type:ident, $error:ident) => {
        impl TryFrom<String> for $type {
            type Error = $error;

            fn try_from(text: String) -> Result<Self, $error> {
                Self::new(text)
            }
        }

        impl From<$type> for String {
            fn from(checked: $type) -> Self {
                checked.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

through_text!(FieldName, FieldNameError);
through_text!(FieldValue, FieldValueError);
through_text!(Method, MethodError);

impl TryFrom<String> for NamePattern {
    type Error = FieldNameError;

    fn try_from(text: String) -> Result<Self, FieldNameError> {
        Self::new(&text)
    }
}

impl From<NamePattern> for String {
    fn from(pattern: NamePattern) -> Self {
        pattern.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_ends_a_line_gets_into_a_field() {
        for bad in ["a\r\nb", "a\nb", "a\0", "é", "\u{7f}"] {
            assert_eq!(FieldValue::new(bad), Err(FieldValueError::Byte), "{bad:?}");
            assert_eq!(FieldName::new(bad), Err(FieldNameError::Byte), "{bad:?}");
        }
        assert_eq!(FieldValue::new(" a"), Err(FieldValueError::Space));
        assert_eq!(FieldName::new("a:"), Err(FieldNameError::Byte));
        assert_eq!(FieldName::new(""), Err(FieldNameError::Empty));
        let long = "x".repeat(FIELD_NAME_BYTES_MAX + 1);
        assert_eq!(FieldName::new(long), Err(FieldNameError::TooLong));
        assert!(FieldValue::new("max-age=31536000; includeSubDomains").is_ok());
        for bad in ["", "GET /", "GE\tT"] {
            assert_eq!(Method::new(bad), Err(MethodError), "{bad:?}");
        }
    }

    #[test]
    fn what_the_engine_writes_cannot_be_changed_in_any_spelling() {
        for name in ["Content-Length", "transfer_encoding", "HOST", "Te"] {
            let error = FieldName::changeable(name).unwrap_err();
            assert_eq!(error, FieldNameError::Protected, "{name}");
            let error = NamePattern::new(name).unwrap_err();
            assert_eq!(error, FieldNameError::Protected, "{name}");
        }
        let error = NamePattern::new("Content-*").unwrap_err();
        assert_eq!(error, FieldNameError::Protected);
        assert!(FieldName::changeable("Content-Type").is_ok());
    }

    #[test]
    fn a_pattern_means_twins_too() {
        let couch = NamePattern::new("X-Auth-CouchDB-*").unwrap();
        for name in [
            "X-Auth-CouchDB-UserName",
            "x-auth-couchdb-roles",
            "X_Auth_CouchDB_Token",
            "x-auth_couchdb-",
        ] {
            assert!(couch.matches(name.as_bytes()), "{name}");
        }
        for name in ["X-Auth-CouchDB", "X-Auth", "Y-Auth-CouchDB-UserName", ""] {
            assert!(!couch.matches(name.as_bytes()), "{name}");
        }
        let one = NamePattern::new("X-Real-IP").unwrap();
        assert!(one.matches(b"x_real_ip"));
        assert!(!one.matches(b"x-real-ip2"));
        assert_eq!(String::from(couch), "X-Auth-CouchDB-*");
    }
}
