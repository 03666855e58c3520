//! What a configuration says of single connections: who may come, how many, how long, and how they look to backends.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Most networks in one list.
pub const NETWORKS_MAX: usize = 1_024;

/// Most addresses in [`SourceSpec::Addresses`].
pub const SOURCES_MAX: usize = 64;

/// A block of addresses, such as `10.0.0.0/8`. IPv4 addresses that are written as IPv6 (`::ffff:10.0.0.1`) are IPv4 here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// Why a text is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// The part before the slash is no IP address.
    #[error("no IP address")]
    Address,
    /// The part after the slash is no number of bits of such an address.
    #[error("the prefix length is not 0 to {max}")]
    Bits {
        /// Most bits.
        max: u8,
    },
    /// The address has bits beyond the prefix.
    #[error("the address has bits beyond the prefix; the network is {network}")]
    Host {
        /// The network that it is in.
        network: Network,
    },
}

impl Network {
    /// The network of the first `bits` of `address`.
    ///
    /// # Errors
    /// [`NetworkError::Bits`], and [`NetworkError::Host`] when `address` has bits beyond them.
    pub fn new(address: IpAddr, bits: u8) -> Result<Self, NetworkError> {
        let (address, bits, max) = match address {
            IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(v4) if bits >= 96 => (IpAddr::V4(v4), bits - 96, 32),
                _ => (address, bits, 128),
            },
            IpAddr::V4(_) => (address, bits, 32),
        };
        if bits > max {
            return Err(NetworkError::Bits { max });
        }
        let network = Self {
            address: masked(address, bits),
            bits,
        };
        if network.address == address {
            Ok(network)
        } else {
            Err(NetworkError::Host { network })
        }
    }

    /// Whether `address` is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.address.is_ipv4() == address.is_ipv4() && masked(address, self.bits) == self.address
    }

    /// Whether every address of `other` is in it.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.bits <= other.bits && self.contains(other.address)
    }

    /// How many first bits its addresses have in common; 0 = it is every address of its family.
    #[must_use]
    pub fn bits(&self) -> u8 {
        self.bits
    }
}

fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    /// An address alone is the network of this one address.
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NetworkError::Address)?;
        let max = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => max,
            Some(bits) => bits.parse().map_err(|_| NetworkError::Bits { max })?,
        };
        Self::new(address, bits)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let max = if self.address.is_ipv4() { 32 } else { 128 };
        if self.bits == max {
            self.address.fmt(f)
        } else {
            write!(f, "{}/{}", self.address, self.bits)
        }
    }
}

/// A limit on new connections in time (GCRA).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateSpec {
    /// New connections a second in the long run, 1..=1,000,000.
    pub per_second: u32,
    /// New connections that may come at once after a quiet time, 1..=1,000,000. Default: as many as in a second.
    pub burst: u32,
}

/// Who may connect to a listener, and how often.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmissionSpec {
    /// Only these; empty = everybody. At most [`NETWORKS_MAX`].
    pub allow: Vec<Network>,
    /// Not these, also where `allow` has them. At most [`NETWORKS_MAX`].
    pub deny: Vec<Network>,
    /// Connections at a time, over all workers, 1..=10,000,000. Exact from above: never more; while several workers accept at
    /// the limit at the same instant, one may be refused although there is room for it.
    pub max_connections: Option<u32>,
    /// New connections in time, all sources together, over all workers. Exact.
    pub rate: Option<RateSpec>,
    /// New connections in time of one source: an IPv4 address, or the first 64 bits of an IPv6 address; over all workers.
    /// Exact while the sources that come at the same time fit the table (`limits.sources`).
    pub source_rate: Option<RateSpec>,
    /// Whose connections begin with a PROXY protocol header.
    pub accept_proxy: Option<AcceptProxySpec>,
}

/// Connections that begin with a PROXY protocol header, version 1 or 2. The address in it then counts as the client's, also for
/// `allow`, `deny` and `source_rate`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptProxySpec {
    /// Peers that are trusted: their connections must begin with a header. Those of others are clients' own, and what they
    /// begin with is content. At least one, at most [`NETWORKS_MAX`].
    pub from: Vec<Network>,
}

/// How long a connection may take for what. `None` = for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeoutsSpec {
    /// From accept to a whole PROXY protocol header. Default 5 s.
    pub handshake: Duration,
    /// Without a byte in either direction. Default 1 h.
    pub idle: Option<Duration>,
    /// The same once one side has ended its direction. Default 5 min.
    pub half_closed: Option<Duration>,
    /// From accept to the end. Default: for ever.
    pub total: Option<Duration>,
}

/// Probes of the kernel on connections without traffic, towards clients and backends, and how long sent data may stay without
/// an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepaliveSpec {
    /// Quiet time before the first probe (TCP_KEEPIDLE), whole seconds, 1 s..=32,767 s; `None` = no probes. Default 60 s.
    pub idle: Option<Duration>,
    /// Between two probes (TCP_KEEPINTVL), whole seconds, 1 s..=32,767 s. Default 10 s.
    pub interval: Duration,
    /// Unanswered probes that end the connection (TCP_KEEPCNT), 1..=127. Default 6.
    pub probes: u8,
    /// Sent data that nobody has acknowledged for this long ends the connection (TCP_USER_TIMEOUT); `None` = the kernel's
    /// own, about 15 minutes. Default `None`.
    pub user_timeout: Option<Duration>,
}

/// Connections that wait while every eligible backend is at its `max_connections`. Over all workers, first come, first served; ten
/// times a second the first of each worker looks for itself, so that one that hangs does not hold the others up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueSpec {
    /// How many may wait, 0..=1,000,000. Default 1,024. Exact from above, as `max_connections` is.
    pub length: u32,
    /// For how long. Default 5 s.
    pub timeout: Duration,
}

/// The address that a backend sees as the peer's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceSpec {
    /// One of this host's, by the kernel's choice.
    #[default]
    Kernel,
    /// One of these, in turn, those of the backend's family; at least one, at most [`SOURCES_MAX`]. Each gives another range
    /// of ports.
    Addresses(Vec<IpAddr>),
    /// The client's own (IP_TRANSPARENT).
    Client,
}

/// When a backend is connected to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConnectOn {
    /// As soon as the client is there. The default: many protocols let the server speak first.
    #[default]
    Accept,
    /// When the client has sent something.
    Data,
}

/// Version of a PROXY protocol header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary, with the connection's unique id.
    V2,
}

/// How the stream is cut into what is written at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Framing {
    /// As it comes.
    #[default]
    None,
    /// MLLP: each frame (0x0B ... 0x1C 0x0D) in one write, in both directions.
    Mllp {
        /// Longest frame, 1 KiB..=64 MiB. Default 1 MiB. A longer one ends the connection.
        max_bytes: u32,
    },
}

impl Default for TimeoutsSpec {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(5),
            idle: Some(Duration::from_secs(3_600)),
            half_closed: Some(Duration::from_secs(300)),
            total: None,
        }
    }
}

impl Default for KeepaliveSpec {
    fn default() -> Self {
        Self {
            idle: Some(Duration::from_secs(60)),
            interval: Duration::from_secs(10),
            probes: 6,
            user_timeout: None,
        }
    }
}

impl Default for QueueSpec {
    fn default() -> Self {
        Self {
            length: 1_024,
            timeout: Duration::from_secs(5),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn networks_hold_their_addresses_and_no_other() {
        for (text, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("0.0.0.0/0", "203.0.113.9", "::1"),
            ("::/0", "2001:db8::1", "10.0.0.1"),
            ("2001:db8::/32", "2001:db8:1::", "2001:db9::"),
            ("fd00::1", "fd00::1", "fd00::2"),
            ("::ffff:10.0.0.0/104", "10.1.2.3", "11.1.2.3"),
        ] {
            let network = network(text);
            assert!(network.contains(inside.parse().unwrap()), "{text} {inside}");
            assert!(
                !network.contains(outside.parse().unwrap()),
                "{text} {outside}"
            );
        }
        assert!(network("10.0.0.0/8").contains("::ffff:10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn a_network_covers_what_is_in_it_whole() {
        for (outer, inner, covers) in [
            ("10.0.0.0/8", "10.1.0.0/16", true),
            ("10.0.0.0/8", "10.0.0.0/8", true),
            ("10.1.0.0/16", "10.0.0.0/8", false),
            ("10.0.0.0/8", "192.0.2.7", false),
            ("::/0", "10.0.0.0/8", false),
            ("0.0.0.0/0", "::ffff:10.0.0.0/104", true),
        ] {
            let found = network(outer).covers(&network(inner));
            assert_eq!(found, covers, "{outer} {inner}");
        }
        assert_eq!(network("::/0").bits(), 0);
    }

    #[test]
    fn what_is_no_network_says_why() {
        let error = |text: &str| text.parse::<Network>().unwrap_err();
        assert_eq!(error("10.0.0.x/8"), NetworkError::Address);
        assert_eq!(error("10.0.0.0/33"), NetworkError::Bits { max: 32 });
        assert_eq!(error("::/129"), NetworkError::Bits { max: 128 });
        assert_eq!(error("::/x"), NetworkError::Bits { max: 128 });
        let network = network("10.0.0.0/8");
        assert_eq!(error("10.0.0.1/8"), NetworkError::Host { network });
    }

    #[test]
    fn networks_are_written_as_they_are_read() {
        for text in [
            "10.0.0.0/8",
            "192.0.2.7",
            "2001:db8::/32",
            "::/0",
            "fd00::1",
        ] {
            assert_eq!(network(text).to_string(), text);
        }
    }
}
