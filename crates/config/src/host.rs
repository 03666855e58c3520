//! What the kernel says of the host that the configuration is for.

use std::fs;
use std::ops::RangeInclusive;

/// What is known of the host; nothing by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Host {
    /// Ports that the kernel gives to outgoing connections.
    pub(crate) ephemeral: Option<RangeInclusive<u16>>,
    /// Those of them that it leaves out.
    pub(crate) reserved: Vec<RangeInclusive<u16>>,
}

impl Host {
    /// Reads it. What cannot be read is not known.
    pub(crate) fn read() -> Self {
        let text = |name: &str| {
            fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default()
        };
        Self::from_sysctls(
            &text("ip_local_port_range"),
            &text("ip_local_reserved_ports"),
        )
    }

    fn from_sysctls(range: &str, reserved: &str) -> Self {
        let mut ports = range.split_whitespace().map(str::parse);
        let ephemeral = match (ports.next(), ports.next()) {
            (Some(Ok(first)), Some(Ok(last))) => Some(first..=last),
            _ => None,
        };
        let reserved = reserved
            .trim()
            .split(',')
            .filter_map(|part| {
                let (first, last) = part.split_once('-').unwrap_or((part, part));
                Some(first.parse().ok()?..=last.parse().ok()?)
            })
            .collect();
        Self {
            ephemeral,
            reserved,
        }
    }

    /// Whether an outgoing connection may hold `port` when it is to be listened on.
    pub(crate) fn may_be_taken(&self, port: u16) -> bool {
        self.ephemeral
            .as_ref()
            .is_some_and(|range| range.contains(&port))
            && !self.reserved.iter().any(|range| range.contains(&port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_forms() {
        let host = Host::from_sysctls("32768\t60999\n", "40000,50000-50010\n");
        assert!(host.may_be_taken(32_768));
        assert!(!host.may_be_taken(40_000));
        assert!(!host.may_be_taken(50_005));
        assert!(!host.may_be_taken(80));
        assert_eq!(Host::from_sysctls("", "\n"), Host::default());
        assert_eq!(Host::from_sysctls("a b", ""), Host::default());
    }
}
