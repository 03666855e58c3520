//! Headers for the server behind.

use std::fmt;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::UniqueId;
use super::v2::{
    EXTENSION_BYTES, PROXY, SIGNATURE, TCP4, TCP6, TYPE_UNIQUE_ID, V4_BYTES, V6_BYTES, VERSION,
};

/// Appends a header of version 1 for a connection from `source` to `destination`: at most
/// [`V1_BYTES_MAX`](super::V1_BYTES_MAX) bytes.
///
/// If one address is IPv4 and the other IPv6, both are written as IPv6. Version 1 has no form for a connection of our
/// own; section 2.1 recommends a line with that connection's two addresses.
pub fn build_v1(source: SocketAddr, destination: SocketAddr, out: &mut Vec<u8>) {
    let ports = (source.port(), destination.port());
    match Pair::of(source.ip(), destination.ip()) {
        Pair::V4(source, destination) => line(out, "TCP4", source, destination, ports),
        Pair::V6(source, destination) => line(out, "TCP6", Hex(source), Hex(destination), ports),
    }
}

/// Appends a header of version 2 for a connection from `source` to `destination`: at most 183 bytes. Addresses of two
/// families as in [`build_v1`].
pub fn build_v2(
    source: SocketAddr,
    destination: SocketAddr,
    unique_id: Option<&UniqueId>,
    out: &mut Vec<u8>,
) {
    const {
        // A length is written as two bytes, the upper of which is 0.
        assert!(V6_BYTES + EXTENSION_BYTES + super::UNIQUE_ID_BYTES_MAX <= u8::MAX as usize);
        assert!(V4_BYTES < V6_BYTES);
    }
    let extension_bytes = unique_id.map_or(0, |id| EXTENSION_BYTES + id.as_bytes().len());
    match Pair::of(source.ip(), destination.ip()) {
        Pair::V4(source, destination) => {
            begin(out, TCP4, V4_BYTES + extension_bytes);
            out.extend(source.octets());
            out.extend(destination.octets());
        }
        Pair::V6(source, destination) => {
            begin(out, TCP6, V6_BYTES + extension_bytes);
            out.extend(source.octets());
            out.extend(destination.octets());
        }
    }
    out.extend(source.port().to_be_bytes());
    out.extend(destination.port().to_be_bytes());
    if let Some(id) = unique_id {
        out.push(TYPE_UNIQUE_ID);
        out.extend(length(id.as_bytes().len()));
        out.extend(id.as_bytes());
    }
}

fn begin(out: &mut Vec<u8>, family: u8, bytes: usize) {
    out.extend(SIGNATURE);
    out.extend([VERSION << 4 | PROXY, family]);
    out.extend(length(bytes));
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes)
        .expect("at most what `build_v2` asserts")
        .to_be_bytes()
}

fn line(
    out: &mut Vec<u8>,
    protocol: &str,
    source: impl fmt::Display,
    destination: impl fmt::Display,
    (source_port, destination_port): (u16, u16),
) {
    write!(
        out,
        "PROXY {protocol} {source} {destination} {source_port} {destination_port}\r\n"
    )
    .expect("a vector takes every write");
}

/// Two addresses of one family.
enum Pair {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

impl Pair {
    fn of(source: IpAddr, destination: IpAddr) -> Self {
        let mapped = |address| match address {
            IpAddr::V4(address) => Ipv4Addr::to_ipv6_mapped(&address),
            IpAddr::V6(address) => address,
        };
        match (source.to_canonical(), destination.to_canonical()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Self::V4(source, destination),
            (source, destination) => Self::V6(mapped(source), mapped(destination)),
        }
    }
}

/// An IPv6 address in hexadecimal throughout: the protocol does not know the form with dots at the end, in which an
/// address in IPv4 space would otherwise be written.
struct Hex(Ipv6Addr);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.segments() {
            [0, 0, 0, 0, 0, 0xffff, high, low] => write!(f, "::ffff:{high:x}:{low:x}"),
            _ => self.0.fmt(f),
        }
    }
}
