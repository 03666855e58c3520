//! Which answers are compressed on their way.

use serde::{Deserialize, Serialize};

/// Which answers are compressed, where the client asks for it. Never those that say `no-transform`, have a coding or a range
/// already, have no length (feeds), or are kept apart by their type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompressionSpec {
    /// Codings that may be used, the preferred one first; it counts between those that a client wants equally. Empty = nothing is
    /// compressed, the default.
    pub codings: Vec<Coding>,
    /// Types of answers that are: `application/json`, `text/*`; lower case, parameters do not count. Default: `text/*`,
    /// `application/json`, `application/javascript`, `application/xml`, `application/fhir+json`, `application/fhir+xml`,
    /// `image/svg+xml`; never `text/event-stream`.
    pub types: Vec<String>,
    /// Answers with a shorter `Content-Length` are left as they are. Default 1,024.
    pub min_bytes: u32,
}

/// A content coding (RFC 9110 section 8.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Coding {
    /// Brotli, RFC 7932.
    Br,
    /// Zstandard, RFC 8878.
    Zstd,
    /// Gzip, RFC 1952.
    Gzip,
}

impl Coding {
    /// Its name in `Accept-Encoding`, `Content-Encoding` and the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Br => "br",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }
}

impl Default for CompressionSpec {
    fn default() -> Self {
        let types = [
            "text/*",
            "application/json",
            "application/javascript",
            "application/xml",
            "application/fhir+json",
            "application/fhir+xml",
            "image/svg+xml",
        ];
        Self {
            codings: Vec::new(),
            types: types.map(str::to_owned).to_vec(),
            min_bytes: 1_024,
        }
    }
}
