//! The host of a request in the one form that routes are compared with.

use std::io::Write;
use std::net::Ipv6Addr;

use super::Refusal;

/// Longest host in bytes (RFC 1035 section 2.3.4, without the root's dot).
pub const HOST_BYTES_MAX: usize = 253;

/// Room for a host in its normal form.
#[derive(Debug)]
pub struct HostBuffer([u8; HOST_BYTES_MAX]);

impl HostBuffer {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self([0; HOST_BYTES_MAX])
    }
}

impl Default for HostBuffer {
    fn default() -> Self {
        Self::new()
    }
}

/// `raw` in lower case, without port and without the root's dot; an IPv6 address in its canonical spelling (RFC 5952), in
/// brackets. `None` where there is none (an empty `Host` is valid, RFC 9110 section 7.2).
///
/// # Errors
/// [`Refusal::Host`] when it is neither a name of letters, digits, `-`, `_` and `.` nor an address, or its port is no number.
pub fn normal_host<'b>(
    raw: &[u8],
    buffer: &'b mut HostBuffer,
) -> Result<Option<&'b [u8]>, Refusal> {
    if raw.is_empty() {
        return Ok(None);
    }
    if let Some(inner) = raw.strip_prefix(b"[") {
        let end = inner
            .iter()
            .position(|byte| *byte == b']')
            .ok_or(Refusal::Host)?;
        let (address, rest) = inner.split_at(end);
        check_port(rest.get(1..).unwrap_or_default())?;
        let address: Ipv6Addr = std::str::from_utf8(address)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or(Refusal::Host)?;
        let mut room = buffer.0.as_mut_slice();
        write!(room, "[{address}]").map_err(|_| Refusal::Host)?;
        let left = room.len();
        let (host, _) = buffer.0.split_at(HOST_BYTES_MAX - left);
        return Ok(Some(host));
    }
    let end = raw
        .iter()
        .position(|byte| *byte == b':')
        .unwrap_or(raw.len());
    let (name, port) = raw.split_at(end);
    check_port(port)?;
    let name = name.strip_suffix(b".").unwrap_or(name);
    let room = buffer.0.get_mut(..name.len()).ok_or(Refusal::Host)?;
    let mut label_bytes = 0;
    for (to, from) in room.iter_mut().zip(name) {
        match from {
            b'.' if label_bytes == 0 => return Err(Refusal::Host),
            b'.' => label_bytes = 0,
            b'-' | b'_' => label_bytes += 1,
            byte if byte.is_ascii_alphanumeric() => label_bytes += 1,
            _ => return Err(Refusal::Host),
        }
        *to = from.to_ascii_lowercase();
    }
    if label_bytes == 0 {
        return Err(Refusal::Host);
    }
    Ok(Some(room))
}

/// `rest` is nothing, or a colon and a port; a colon alone is valid (RFC 3986 section 3.2.3).
fn check_port(rest: &[u8]) -> Result<(), Refusal> {
    match rest.strip_prefix(b":") {
        None if rest.is_empty() => Ok(()),
        Some(digits) if digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit) => Ok(()),
        _ => Err(Refusal::Host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_spellings_of_a_host_are_one() {
        for (raw, normal) in [
            ("example.org", "example.org"),
            ("EXAMPLE.org", "example.org"),
            ("example.org.", "example.org"),
            ("example.org:8080", "example.org"),
            ("example.org.:80", "example.org"),
            ("example.org:", "example.org"),
            ("10.0.0.1:80", "10.0.0.1"),
            ("[2001:DB8:0:0::1]:80", "[2001:db8::1]"),
            ("[::ffff:192.0.2.1]", "[::ffff:192.0.2.1]"),
            ("a_b-c", "a_b-c"),
        ] {
            let mut buffer = HostBuffer::new();
            let host = normal_host(raw.as_bytes(), &mut buffer).unwrap().unwrap();
            assert_eq!(std::str::from_utf8(host).unwrap(), normal);
        }
        assert_eq!(normal_host(b"", &mut HostBuffer::new()), Ok(None));
    }

    #[test]
    fn what_is_no_host_is_refused() {
        let long = "a".repeat(254);
        for raw in [
            ".",
            "..",
            ".example.org",
            "a..b",
            "example.org..",
            ":80",
            "example.org:80x",
            "example.org:123456",
            "example.org:80:90",
            "user@example.org",
            "example.org/x",
            "example.org,evil",
            "exa mple.org",
            "ex%61mple.org",
            "\u{e9}.org",
            "[::1",
            "[::1]x",
            "[::1%25eth0]",
            "[1.2.3.4]",
            "::1",
            "example.org\0",
            &long,
        ] {
            let mut buffer = HostBuffer::new();
            assert_eq!(
                normal_host(raw.as_bytes(), &mut buffer),
                Err(Refusal::Host),
                "{raw}"
            );
        }
    }
}
