//! Version 1, a line of text. Source: section 2.1.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Command, Header, Invalid, Progress, V1_BYTES_MAX, agrees};

const BEGIN: &[u8] = b"PROXY ";

pub(super) fn parse(bytes: &[u8]) -> Progress {
    if !agrees(bytes, BEGIN) {
        return Err(Invalid::Signature);
    }
    let Some(line) = line(bytes)? else {
        return Ok(None);
    };
    let fields = line.strip_prefix("PROXY ").ok_or(Invalid::Signature)?;
    let header = header(fields)?;
    Ok(Some((line.len() + 2, header)))
}

/// The line without its CR LF.
fn line(bytes: &[u8]) -> Result<Option<&str>, Invalid> {
    let seen = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let end = seen.iter().position(|byte| !matches!(byte, b' '..=b'~'));
    match end.map(|end| (end, &seen[end..])) {
        None if seen.len() == V1_BYTES_MAX => Err(Invalid::LineTooLong),
        None => Ok(None),
        Some((_, [b'\r'])) if seen.len() == V1_BYTES_MAX => Err(Invalid::LineTooLong),
        Some((_, [b'\r'])) => Ok(None),
        // All of it is ASCII, or it would have ended before.
        Some((end, [b'\r', b'\n', ..])) => str::from_utf8(&seen[..end])
            .map(Some)
            .map_err(|_| Invalid::LineByte),
        Some(_) => Err(Invalid::LineByte),
    }
}

fn header(fields: &str) -> Result<Header, Invalid> {
    let mut fields = fields.split(' ');
    let is_v4 = match fields.next() {
        Some("TCP4") => true,
        Some("TCP6") => false,
        // Whatever follows is to be ignored.
        Some("UNKNOWN") => return Ok(Header::without_addresses(Command::Proxy)),
        _ => return Err(Invalid::LineProtocol),
    };
    let found: [Option<&str>; 5] = std::array::from_fn(|_| fields.next());
    let [
        Some(source),
        Some(destination),
        Some(source_port),
        Some(destination_port),
        None,
    ] = found
    else {
        return Err(Invalid::LineFields);
    };
    if [source, destination, source_port, destination_port].contains(&"") {
        return Err(Invalid::LineFields);
    }
    let address = |ip: &str, port: &str| {
        let ip = if is_v4 {
            ip.parse().map(Ipv4Addr::into)
        } else {
            // HAProxy and others write an IPv4 address in IPv6 form with dots (inet_ntop(3) does), which this accepts.
            ip.parse().map(Ipv6Addr::into)
        };
        let ip = ip.map_err(|_| Invalid::LineAddress)?;
        Ok(SocketAddr::new(ip, port_number(port)?))
    };
    Ok(Header::with_addresses(
        address(source, source_port)?,
        address(destination, destination_port)?,
    ))
}

/// Stricter than `parse`, which takes `+80` and `080`.
fn port_number(field: &str) -> Result<u16, Invalid> {
    let is_canonical = field.bytes().all(|byte| byte.is_ascii_digit())
        && (field == "0" || !field.starts_with('0'));
    if !is_canonical {
        return Err(Invalid::LinePort);
    }
    field.parse().map_err(|_| Invalid::LinePort)
}
