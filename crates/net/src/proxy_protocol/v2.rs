//! Version 2, binary. Source: section 2.2.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::crc32c::Crc32c;
use super::{Command, HEADER_BYTES_MAX, Header, Invalid, Progress, UniqueId, agrees};

pub(super) const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length.
pub(super) const FIXED_BYTES: usize = 16;
pub(super) const VERSION: u8 = 2;
pub(super) const LOCAL: u8 = 0;
pub(super) const PROXY: u8 = 1;
pub(super) const TCP4: u8 = 0x11;
pub(super) const TCP6: u8 = 0x21;
pub(super) const V4_BYTES: usize = 12;
pub(super) const V6_BYTES: usize = 36;
const UNIX_BYTES: usize = 216;

const TYPE_CRC32C: u8 = 0x03;
pub(super) const TYPE_UNIQUE_ID: u8 = 0x05;
/// Type and length of an extension.
pub(super) const EXTENSION_BYTES: usize = 3;
const CHECKSUM_BYTES: usize = 4;

pub(super) fn parse(bytes: &[u8]) -> Progress {
    if !agrees(bytes, &SIGNATURE) {
        return Err(Invalid::Signature);
    }
    let Some(&version_command) = bytes.get(12) else {
        return Ok(None);
    };
    let command = command(version_command)?;
    let Some(&family) = bytes.get(13) else {
        return Ok(None);
    };
    // Of its own connection the sender may say what it likes: the whole block is ignored, the family too.
    let family = match command {
        Command::Local => None,
        Command::Proxy => Some(Family::of(family)?),
    };
    let Some(&[high, low]) = bytes.get(14..FIXED_BYTES) else {
        return Ok(None);
    };
    let consumed = FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if consumed > HEADER_BYTES_MAX {
        return Err(Invalid::TooLong(consumed));
    }
    let Some(whole) = bytes.get(..consumed) else {
        return Ok(None);
    };
    let header = match family {
        None => Header::without_addresses(Command::Local),
        Some(family) => proxied(whole, family)?,
    };
    Ok(Some((consumed, header)))
}

fn command(version_command: u8) -> Result<Command, Invalid> {
    match (version_command >> 4, version_command & 0xf) {
        (VERSION, LOCAL) => Ok(Command::Local),
        (VERSION, PROXY) => Ok(Command::Proxy),
        (VERSION, other) => Err(Invalid::Command(other)),
        (other, _) => Err(Invalid::Version(other)),
    }
}

#[derive(Clone, Copy)]
enum Family {
    /// Nothing is known of what follows, not even how long the addresses are.
    Unspecified,
    Tcp4,
    Tcp6,
    /// Addresses of so many bytes that are no use here: UDP, and sockets in the file system.
    Other(usize),
}

impl Family {
    /// The highest four bits are the family, the lowest the transport.
    fn of(byte: u8) -> Result<Self, Invalid> {
        match (byte >> 4, byte & 0xf) {
            (0, 0..=2) | (1..=3, 0) => Ok(Self::Unspecified),
            (1, 1) => Ok(Self::Tcp4),
            (2, 1) => Ok(Self::Tcp6),
            (1, 2) => Ok(Self::Other(V4_BYTES)),
            (2, 2) => Ok(Self::Other(V6_BYTES)),
            (3, 1 | 2) => Ok(Self::Other(UNIX_BYTES)),
            _ => Err(Invalid::Family(byte)),
        }
    }
}

fn proxied(whole: &[u8], family: Family) -> Result<Header, Invalid> {
    let block = &whole[FIXED_BYTES..];
    let none = Header::without_addresses(Command::Proxy);
    let (mut header, addresses_bytes) = match family {
        Family::Unspecified => return Ok(none),
        Family::Tcp4 => (tcp4(block)?, V4_BYTES),
        Family::Tcp6 => (tcp6(block)?, V6_BYTES),
        Family::Other(length) if block.len() < length => return Err(Invalid::AddressesTruncated),
        Family::Other(length) => (none, length),
    };
    header.unique_id = extensions(whole, FIXED_BYTES + addresses_bytes)?;
    Ok(header)
}

fn tcp4(block: &[u8]) -> Result<Header, Invalid> {
    let (source, rest) = take::<4>(block)?;
    let (destination, rest) = take::<4>(rest)?;
    let (source_port, destination_port) = ports(rest)?;
    Ok(Header::with_addresses(
        SocketAddr::new(Ipv4Addr::from(source).into(), source_port),
        SocketAddr::new(Ipv4Addr::from(destination).into(), destination_port),
    ))
}

fn tcp6(block: &[u8]) -> Result<Header, Invalid> {
    let (source, rest) = take::<16>(block)?;
    let (destination, rest) = take::<16>(rest)?;
    let (source_port, destination_port) = ports(rest)?;
    Ok(Header::with_addresses(
        SocketAddr::new(Ipv6Addr::from(source).into(), source_port),
        SocketAddr::new(Ipv6Addr::from(destination).into(), destination_port),
    ))
}

fn ports(bytes: &[u8]) -> Result<(u16, u16), Invalid> {
    let (source, rest) = take(bytes)?;
    let (destination, _) = take(rest)?;
    Ok((u16::from_be_bytes(source), u16::from_be_bytes(destination)))
}

fn take<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), Invalid> {
    bytes
        .split_first_chunk()
        .map(|(chunk, rest)| (*chunk, rest))
        .ok_or(Invalid::AddressesTruncated)
}

/// Goes through the extensions, which begin at `start`; verifies the checksum if there is one and returns the unique
/// id. The others (ALPN, authority, padding, TLS, and those not known) are passed over.
fn extensions(whole: &[u8], start: usize) -> Result<Option<UniqueId>, Invalid> {
    let mut unique_id = None;
    let mut checksum = None;
    let mut at = start;
    while at < whole.len() {
        let Some(&[kind, high, low]) = whole.get(at..at + EXTENSION_BYTES) else {
            return Err(Invalid::ExtensionTruncated);
        };
        let from = at + EXTENSION_BYTES;
        at = from + usize::from(u16::from_be_bytes([high, low]));
        let value = whole.get(from..at).ok_or(Invalid::ExtensionTruncated)?;
        match kind {
            TYPE_CRC32C => {
                let value: [u8; CHECKSUM_BYTES] = value
                    .try_into()
                    .map_err(|_| Invalid::ExtensionLength(kind))?;
                once(&mut checksum, (from, u32::from_be_bytes(value)), kind)?;
            }
            TYPE_UNIQUE_ID => {
                let id = UniqueId::new(value).ok_or(Invalid::ExtensionLength(kind))?;
                once(&mut unique_id, id, kind)?;
            }
            _ => {}
        }
    }
    match checksum {
        Some((from, expected)) if self::checksum(whole, from) != expected => Err(Invalid::Checksum),
        _ => Ok(unique_id),
    }
}

fn once<T>(slot: &mut Option<T>, value: T, kind: u8) -> Result<(), Invalid> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Invalid::ExtensionTwice(kind)),
    }
}

/// The checksum of the whole header, with zeros for the one in it. Source: section 2.2.3.
fn checksum(whole: &[u8], at: usize) -> u32 {
    let mut crc = Crc32c::new();
    crc.update(&whole[..at]);
    crc.update(&[0; CHECKSUM_BYTES]);
    crc.update(&whole[at + CHECKSUM_BYTES..]);
    crc.finish()
}
