//! Shared memory as an array of 64-bit atomics, and nothing else.
//!
//! The adversary: another process writes at any moment and may die between any two stores. So there is no struct
//! overlay, no `bool`, no enum and no lock in the mapping; a value read is a `u64` that its reader decodes fallibly.
//! The size is sealed, so that no process can turn another's read into a bus error by shrinking the file.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

const CELL_BYTES: usize = size_of::<AtomicU64>();

/// A mapped array of cells. The mapping lives as long as the process.
#[derive(Clone, Copy, Debug)]
pub struct SharedCells {
    cells: &'static [AtomicU64],
}

impl SharedCells {
    /// Makes a zeroed array of `count` cells, its size sealed. Pages are allocated when first touched.
    ///
    /// # Errors
    /// When the memory file cannot be made, sized, sealed or mapped.
    pub fn create(name: &str, count: usize) -> io::Result<(Self, OwnedFd)> {
        let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let bytes = count
            .checked_mul(CELL_BYTES)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        rustix::fs::ftruncate(&fd, bytes as u64)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let cells = Self::map(fd.as_fd())?;
        Ok((cells, fd))
    }

    /// Maps the array behind `fd`, for the life of the process.
    ///
    /// # Errors
    /// When the file is not sealed against shrinking and growing, is empty, is no whole number of cells, or cannot
    /// be mapped.
    pub fn map(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let invalid = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
        let seals = rustix::fs::fcntl_get_seals(fd)?;
        if !seals.contains(SealFlags::SHRINK | SealFlags::GROW) {
            return Err(invalid("shared memory that is not sealed"));
        }
        let bytes = usize::try_from(rustix::fs::fstat(fd)?.st_size)
            .map_err(|_| invalid("shared memory with a negative size"))?;
        if bytes == 0 || !bytes.is_multiple_of(CELL_BYTES) {
            return Err(invalid("shared memory that is no array of cells"));
        }
        // SAFETY: a new shared mapping of `bytes` bytes at an address of the kernel's choice overlaps nothing.
        let address = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                fd,
                0,
            )
        }?;
        // SAFETY: the mapping is page-aligned, `bytes` long and never unmapped; the size is sealed, so every page of it
        // stays backed; any bit pattern is a valid AtomicU64; all access to it, in every process, is atomic.
        let cells =
            unsafe { std::slice::from_raw_parts(address.cast::<AtomicU64>(), bytes / CELL_BYTES) };
        Ok(Self { cells })
    }

    /// The cells.
    #[must_use]
    #[inline]
    pub fn as_slice(&self) -> &'static [AtomicU64] {
        self.cells
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    fn two_mappings_see_the_same_cells_and_nobody_can_resize_them() {
        let (one, fd) = SharedCells::create("test", 1000).unwrap();
        let two = SharedCells::map(fd.as_fd()).unwrap();
        one.as_slice()[999].store(7, Relaxed);
        assert_eq!(two.as_slice()[999].load(Relaxed), 7);
        assert!(rustix::fs::ftruncate(&fd, 8).is_err());
        assert!(rustix::fs::ftruncate(&fd, 1 << 20).is_err());
    }

    #[test]
    fn unsealed_memory_is_refused() {
        let fd = rustix::fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&fd, 800).unwrap();
        assert!(SharedCells::map(fd.as_fd()).is_err());
    }
}
