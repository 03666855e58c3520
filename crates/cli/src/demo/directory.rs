//! The demo's private runtime directory, removed at the end.

use std::fs::DirBuilder;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// Longest path of the directory: a Unix socket's path has 107 bytes, and the socket lies in it.
const PATH_BYTES_MAX: usize = 90;

/// Names that are tried.
const ATTEMPTS: u32 = 100;

#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Makes it, for this user only. Never one that is there already: somebody else may have put it there.
    pub(super) fn create() -> io::Result<Self> {
        let pid = std::process::id();
        for attempt in 0..ATTEMPTS {
            let name = format!("evenkeel-demo-{pid}-{attempt}");
            let mut path = std::env::temp_dir().join(&name);
            if path.as_os_str().len() > PATH_BYTES_MAX {
                path = Path::new("/tmp").join(&name);
            }
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self { path }),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What cannot be removed lies in the temporary directory and goes with it.
        std::fs::remove_dir_all(&self.path).unwrap_or(());
    }
}
