//! The PROXY protocol, versions 1 and 2, over byte slices: who connected to the balancer in front of us,
//! and how we tell it to the server behind.
//!
//! ```text
//! bytes so far --parse--> Need     read on (until the deadline that the caller keeps)
//!                         Header   `consumed` bytes are the header, what follows is the client's
//!                         Invalid  close: somebody else speaks here
//! ```
//!
//! Whether a peer may send a header at all is the caller's to decide, before it calls: a header from anybody
//! lets anybody be anyone (section 5). No header is looked for where none is expected, and where one is
//! expected nothing else is let through.
//!
//! Source: Tarreau, "The PROXY protocol, versions 1 & 2", <https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>;
//! sections are cited as of there.

mod build;
mod crc32c;
mod v1;
mod v2;

use std::fmt;
use std::net::SocketAddr;

pub use build::{build_v1, build_v2};

/// Longest header that is accepted, in bytes. The protocol allows 65,551; a reader must hold it all.
pub const HEADER_BYTES_MAX: usize = 4_096;

/// Longest header of version 1, with its CR LF. Source: section 2.1.
pub const V1_BYTES_MAX: usize = 107;

/// Longest unique id. Source: section 2.2.5.
pub const UNIQUE_ID_BYTES_MAX: usize = 128;

const _: () = assert!(V1_BYTES_MAX <= HEADER_BYTES_MAX);

/// What [`parse`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The beginning of a header. With [`HEADER_BYTES_MAX`] bytes the answer is another one.
    Need,
    /// A header.
    Header {
        /// Its length in bytes. What follows is the client's first data, of which nothing was looked at.
        consumed: usize,
        /// What it says.
        header: Header,
    },
    /// No header. The connection is to be closed.
    Invalid(Invalid),
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whether the connection stands for another one.
    pub command: Command,
    /// The client. An IPv4 address in IPv6 form is given as IPv4, so that access lists know it. None: the sender
    /// does not know or may not say (`LOCAL`, `UNKNOWN`), or it is no TCP address; use the connection's own.
    pub source: Option<SocketAddr>,
    /// What the client connected to; set when `source` is.
    pub destination: Option<SocketAddr>,
    /// The name that the sender gave to the connection.
    pub unique_id: Option<UniqueId>,
}

/// Source: section 2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// The sender's own connection, such as a health check.
    Local,
    /// A connection on behalf of a client.
    Proxy,
}

/// Why something is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Neither version's first bytes.
    #[error("no PROXY protocol signature")]
    Signature,
    /// Version 1 without CR LF in its first 107 bytes.
    #[error("a PROXY line longer than {V1_BYTES_MAX} bytes")]
    LineTooLong,
    /// Version 1 with a CR or LF alone, or with a byte that is not printable ASCII.
    #[error("a PROXY line with a stray control character or a byte that is not ASCII")]
    LineByte,
    /// Version 1 with a protocol other than `TCP4`, `TCP6` and `UNKNOWN`.
    #[error("an unknown protocol in a PROXY line")]
    LineProtocol,
    /// Version 1 with too few or too many fields, or more than one space between them.
    #[error("a PROXY line with missing or additional fields")]
    LineFields,
    /// Version 1 with an address that is none, or is of another family than announced.
    #[error("an invalid address in a PROXY line")]
    LineAddress,
    /// Version 1 with a port that is no number from 0 to 65535 without leading zeros.
    #[error("an invalid port in a PROXY line")]
    LinePort,
    /// Version 2's signature with another version.
    #[error("version {0} of the PROXY protocol")]
    Version(u8),
    /// Version 2 with a command other than `LOCAL` and `PROXY`.
    #[error("unknown PROXY command {0}")]
    Command(u8),
    /// Version 2 with an address family or transport that is not assigned.
    #[error("unknown PROXY address family and transport {0:#04x}")]
    Family(u8),
    /// Longer than [`HEADER_BYTES_MAX`].
    #[error("a PROXY header of {0} bytes, more than {HEADER_BYTES_MAX}")]
    TooLong(usize),
    /// Version 2 too short for the addresses of its family.
    #[error("a PROXY header too short for its addresses")]
    AddressesTruncated,
    /// Version 2 with an extension that is longer than the header.
    #[error("a PROXY header with a truncated extension")]
    ExtensionTruncated,
    /// Version 2 with a checksum or unique id of a length that it cannot have.
    #[error("a PROXY extension of type {0:#04x} with a wrong length")]
    ExtensionLength(u8),
    /// Version 2 with two checksums or two unique ids.
    #[error("two PROXY extensions of type {0:#04x}")]
    ExtensionTwice(u8),
    /// Version 2 with a checksum that is not that of the header.
    #[error("a PROXY header with a wrong checksum")]
    Checksum,
}

/// Reads the header at the beginning of `bytes`, all that has arrived so far.
///
/// Wrong bytes are told as early as they can be: what is not the beginning of a header is never `Need`, except that
/// the fields of a line and the extensions are looked at when all of them are there (section 2.1 and 2.2 say so).
#[must_use]
pub fn parse(bytes: &[u8]) -> Parsed {
    let parsed = match bytes.first() {
        None => Ok(None),
        Some(&first) if first == v2::SIGNATURE[0] => v2::parse(bytes),
        Some(_) => v1::parse(bytes),
    };
    match parsed {
        Ok(None) => Parsed::Need,
        Ok(Some((consumed, header))) => Parsed::Header { consumed, header },
        Err(reason) => Parsed::Invalid(reason),
    }
}

/// A header and its length, or none yet.
type Progress = Result<Option<(usize, Header)>, Invalid>;

/// Whether one is the beginning of the other.
fn agrees(bytes: &[u8], expected: &[u8]) -> bool {
    bytes.iter().zip(expected).all(|(a, b)| a == b)
}

impl Header {
    const fn without_addresses(command: Command) -> Self {
        Self {
            command,
            source: None,
            destination: None,
            unique_id: None,
        }
    }

    fn with_addresses(source: SocketAddr, destination: SocketAddr) -> Self {
        let canonical =
            |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        Self {
            source: Some(canonical(source)),
            destination: Some(canonical(destination)),
            ..Self::without_addresses(Command::Proxy)
        }
    }
}

/// The name of a connection over several balancers: any bytes, of which at most [`UNIQUE_ID_BYTES_MAX`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct UniqueId {
    // What is beyond the length is 0, so that equal ones are equal.
    bytes: [u8; UNIQUE_ID_BYTES_MAX],
    len: u8,
}

const _: () = assert!(UNIQUE_ID_BYTES_MAX <= u8::MAX as usize);

impl UniqueId {
    /// None if `id` is too long.
    #[must_use]
    pub fn new(id: &[u8]) -> Option<Self> {
        let mut bytes = [0; UNIQUE_ID_BYTES_MAX];
        bytes.get_mut(..id.len())?.copy_from_slice(id);
        let len = u8::try_from(id.len()).ok()?;
        Some(Self { bytes, len })
    }

    /// Its bytes, which may be none. They come from the network: not text, and not safe to print as they are.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Debug for UniqueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UniqueId(\"{}\")", self.as_bytes().escape_ascii())
    }
}
