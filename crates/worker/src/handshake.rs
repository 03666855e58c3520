//! What comes before anything else on a connection: a PROXY protocol header of a trusted peer.

use std::io;
use std::time::Duration;

use evenkeel_net::Stream;
use evenkeel_net::proxy_protocol::{HEADER_BYTES_MAX, Header, Invalid, Parsed, parse};

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeaderError {
    /// The peer has ended or reset the connection.
    #[error("the peer has gone")]
    Gone,
    /// It is not whole yet.
    #[error("no whole header in time")]
    Late,
    /// It is none.
    #[error("no valid header: {0}")]
    Invalid(#[from] Invalid),
}

/// Reads the header that `client` begins with, and not a byte behind it.
///
/// # Errors
/// [`HeaderError`].
pub(crate) async fn header(client: &Stream, within: Duration) -> Result<Header, HeaderError> {
    match tokio::time::timeout(within, read(client)).await {
        Ok(result) => result,
        Err(_) => Err(HeaderError::Late),
    }
}

async fn read(client: &Stream) -> Result<Header, HeaderError> {
    // Made and given back with each connection that has one: proxies in front are few, and theirs are quick.
    let mut bytes = vec![0; HEADER_BYTES_MAX];
    loop {
        client.readable().await;
        let seen = match client.try_peek(&mut bytes) {
            Ok(0) => return Err(HeaderError::Gone),
            Ok(seen) => seen,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return Err(HeaderError::Gone),
        };
        match parse(&bytes[..seen]) {
            Parsed::Need if client.has_end_arrived() => return Err(HeaderError::Gone),
            Parsed::Need => client.wait_for_more(),
            Parsed::Invalid(reason) => return Err(reason.into()),
            Parsed::Header { consumed, header } => {
                take(client, &mut bytes[..consumed])?;
                return Ok(header);
            }
        }
    }
}

/// Takes what was looked at off the stream.
fn take(client: &Stream, mut bytes: &mut [u8]) -> Result<(), HeaderError> {
    while !bytes.is_empty() {
        // It was there a moment ago: a read that gives nothing now is a reset.
        match client.try_read(bytes) {
            Ok(read) if read > 0 => bytes = &mut bytes[read..],
            Ok(_) | Err(_) => return Err(HeaderError::Gone),
        }
    }
    Ok(())
}
