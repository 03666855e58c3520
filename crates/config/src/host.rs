//! What the kernel says of the host that the configuration is for.

use std::fs;
use std::io::Read;
use std::ops::RangeInclusive;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Largest file with certificates that is read.
const CA_BYTES_MAX: u64 = 1 << 20;

/// What is known of the host; nothing by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Host {
    /// Ports that the kernel gives to outgoing connections.
    pub(crate) ephemeral: Option<RangeInclusive<u16>>,
    /// Those of them that it leaves out.
    pub(crate) reserved: Vec<RangeInclusive<u16>>,
    /// Whether files that the configuration names are looked at.
    pub(crate) files: bool,
}

impl Host {
    /// Reads it. What cannot be read is not known.
    pub(crate) fn read() -> Self {
        let text = |name: &str| {
            fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default()
        };
        Self {
            files: true,
            ..Self::from_sysctls(
                &text("ip_local_port_range"),
                &text("ip_local_reserved_ports"),
            )
        }
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
            files: false,
        }
    }

    /// Whether an outgoing connection may hold `port` when it is to be listened on.
    pub(crate) fn may_be_taken(&self, port: u16) -> bool {
        self.ephemeral
            .as_ref()
            .is_some_and(|range| range.contains(&port))
            && !self.reserved.iter().any(|range| range.contains(&port))
    }

    /// The text of a file with certificates. `Ok(None)` where files are not looked at.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub(crate) fn text(&self, path: &str) -> Result<Option<String>, String> {
        if !self.files {
            return Ok(None);
        }
        let failed = |error: std::io::Error| error.to_string();
        // Looked at before it is opened: opening a FIFO would wait for its writer.
        if !fs::metadata(path).map_err(failed)?.is_file() {
            return Err("it is not a file".to_owned());
        }
        let mut bytes = Vec::new();
        let file = fs::File::open(path).map_err(failed)?;
        file.take(CA_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        if bytes.len() as u64 > CA_BYTES_MAX {
            return Err("it is larger than 1 MiB".to_owned());
        }
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Whether every user can read the file at `path`, as far as is known.
    pub(crate) fn anyone_reads(&self, path: &str) -> bool {
        let mode = |path: &str| Some(fs::metadata(Path::new(path)).ok()?.permissions().mode());
        self.files && mode(path).is_some_and(|mode| mode & 0o004 != 0)
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
