//! Addresses in 18 bytes: a connection may be kept for hours.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The address and port of somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// An IPv4 address is mapped. No listener takes mapped ones from the network: those of IPv6 are IPv6 only.
    address: [u8; 16],
    port: u16,
}

impl Peer {
    pub(crate) fn ip(self) -> IpAddr {
        Ipv6Addr::from(self.address).to_canonical()
    }
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        let ip = match address.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        Self {
            address: ip.octets(),
            port: address.port(),
        }
    }
}

impl From<Peer> for SocketAddr {
    fn from(peer: Peer) -> Self {
        Self::new(peer.ip(), peer.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_the_address_it_was_made_of() {
        for address in ["192.0.2.1:80", "[2001:db8::1]:65535"] {
            let address: SocketAddr = address.parse().unwrap();
            assert_eq!(SocketAddr::from(Peer::from(address)), address);
        }
    }
}
