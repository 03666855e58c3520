//! Files that lines are appended to.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{
    FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::Path;

/// Mode of a file that is made here, whatever the umask.
const MODE: u32 = 0o640;

/// Opens the file at `path` for appending, close-on-exec; makes it, with mode 0640, where there is none. A regular file, a pipe with a
/// name, or a character device such as `/dev/null`. Pipes never block: they are open for reading too, so that they need no reader, and
/// a full one says `WouldBlock`.
///
/// # Errors
/// In words that fit after the path: what else it is (a directory, a symbolic link as its last part), or what the kernel says.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    let with = |reads: bool, makes: bool| {
        OpenOptions::new()
            .append(true)
            .read(reads)
            .create_new(makes)
            .mode(MODE)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
    };
    let file = match with(false, true) {
        Ok(file) => {
            file.set_permissions(std::fs::Permissions::from_mode(MODE))?;
            file
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match with(false, false) {
            Ok(file) => file,
            // A pipe that nobody reads.
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => with(true, false)?,
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
                return Err(io::Error::other(
                    "it is a symbolic link; name the file that it leads to",
                ));
            }
            Err(error) => return Err(error),
        },
        Err(error) => return Err(error),
    };
    let kind = file.metadata()?.file_type();
    if kind.is_fifo() {
        // One that had a reader may lose it: without a reader of our own each line would then be a broken pipe.
        return with(true, false).map(OwnedFd::from);
    }
    match kind.is_file() || kind.is_char_device() {
        true => Ok(file.into()),
        false => Err(io::Error::other(
            "it is no file, no pipe and no character device",
        )),
    }
}

/// Whether two descriptors refer to the same file, under whatever names.
///
/// # Errors
/// What the kernel says.
pub fn is_same_file(one: impl AsFd, other: impl AsFd) -> io::Result<bool> {
    let identity = |fd: &dyn AsFd| -> io::Result<(u64, u64)> {
        let metadata = File::from(fd.as_fd().try_clone_to_owned()?).metadata()?;
        Ok((metadata.dev(), metadata.ino()))
    };
    Ok(identity(&one)? == identity(&other)?)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::path::PathBuf;

    use super::*;

    /// A directory that goes with the test.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("evenkeel-{name}-{}", std::process::id()));
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn write(fd: &OwnedFd, text: &str) -> io::Result<()> {
        File::from(fd.try_clone().unwrap()).write_all(text.as_bytes())
    }

    #[test]
    fn a_file_is_made_readable_for_its_group_and_appended_to() {
        let directory = Directory::new("append");
        let path = directory.at("access.log");
        write(&open(&path).unwrap(), "one\n").unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o640);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let again = open(&path).unwrap();
        write(&again, "two\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600, "what is there keeps its mode");
    }

    #[test]
    fn a_renamed_file_is_another_one() {
        let directory = Directory::new("append-renamed");
        let path = directory.at("access.log");
        let first = open(&path).unwrap();
        assert!(is_same_file(&first, open(&path).unwrap()).unwrap());
        std::fs::rename(&path, directory.at("access.log.1")).unwrap();
        assert!(!is_same_file(&first, open(&path).unwrap()).unwrap());
    }

    #[test]
    fn a_pipe_needs_no_reader_and_never_blocks() {
        let directory = Directory::new("append-pipe");
        let path = directory.at("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        let pipe = open(&path).unwrap();
        write(&pipe, "line\n").unwrap();
        let mut reader = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path)
            .unwrap();
        let mut bytes = [0; 16];
        assert_eq!(reader.read(&mut bytes).unwrap(), 5);
        drop(reader);
        let full = loop {
            if let Err(error) = write(&pipe, &"x".repeat(4_096)) {
                break error;
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn what_is_no_place_for_lines_is_refused() {
        let directory = Directory::new("append-refused");
        let target = directory.at("target");
        drop(open(&target).unwrap());
        let link = directory.at("link");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let words = |path: &Path| open(path).unwrap_err().to_string();
        assert!(words(&link).contains("symbolic link"), "{}", words(&link));
        assert!(words(&directory.0).contains("directory"));
        let socket = directory.at("socket");
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        assert!(open(&socket).is_err());
        assert!(words(&directory.at("none/access.log")).contains("No such file"));
        assert!(open(Path::new("/dev/null")).is_ok());
    }
}
