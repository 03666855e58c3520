//! Immutable bytes in a sealed memory file: how anything larger than a message travels between processes.

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{MemfdFlags, SealFlags};

/// Largest blob that is read, in bytes.
pub const BLOB_BYTES_MAX: u64 = 1 << 30;

/// Writes `bytes` to a new memory file that nobody can change any more.
///
/// # Errors
/// When the file cannot be made, written or sealed.
pub fn seal(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(bytes)?;
    let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, all)?;
    Ok(file.into())
}

/// Reads a sealed memory file from its start.
///
/// # Errors
/// When it is not sealed against writing, larger than [`BLOB_BYTES_MAX`], or cannot be read.
pub fn read(fd: OwnedFd) -> io::Result<Vec<u8>> {
    let invalid = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
    if !rustix::fs::fcntl_get_seals(&fd)?.contains(SealFlags::WRITE | SealFlags::SHRINK) {
        return Err(invalid("a blob that is not sealed"));
    }
    let file = std::fs::File::from(fd);
    let size = file.metadata()?.len();
    if size > BLOB_BYTES_MAX {
        return Err(invalid("a blob that is too large"));
    }
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    // The file offset is shared with every other process that reads this blob now, so it is not used.
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_reads_back_and_cannot_be_written() {
        let fd = seal("test", b"plan").unwrap();
        let again = fd.try_clone().unwrap();
        let mut file = std::fs::File::from(fd.try_clone().unwrap());
        assert!(file.write_all(b"x").is_err());
        assert_eq!(read(fd).unwrap(), b"plan");
        assert_eq!(read(again).unwrap(), b"plan");
    }
}
