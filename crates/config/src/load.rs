//! A file to a spec: read once, within limits.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::host::Host;
use crate::problem::{ConfigErrors, Problem};
use crate::{Loaded, parse_on};

/// Largest file that is read.
pub const FILE_BYTES_MAX: u64 = 16 << 20;

/// Reads the file at `path`, once, and validates what it says.
///
/// # Errors
/// The file cannot be read, or every mistake in it.
pub fn load(path: &Path) -> Result<Loaded, ConfigErrors> {
    let name = path.display().to_string();
    let (bytes, anyone_writes) = read(path, &name)?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => {
            let mut loaded = parse_on(&name, text, &Host::read())?;
            if anyone_writes {
                let message = "every user of this host can change the configuration";
                let help = "`chmod o-w` it";
                let warning = Problem::whole_file(&name, message, Some(help));
                loaded.warnings.insert(0, warning);
            }
            Ok(loaded)
        }
        Err(error) => {
            let text = String::from_utf8_lossy(&bytes);
            let offset = error.valid_up_to();
            let message = "the file is not UTF-8";
            let help = format!("byte {:#04x} here; save the file as UTF-8", bytes[offset]);
            Err(ConfigErrors::at_offset(
                &name, &text, offset, message, &help,
            ))
        }
    }
}

/// The content, and whether every user may write to it.
fn read(path: &Path, name: &str) -> Result<(Vec<u8>, bool), ConfigErrors> {
    let failed = |error: &std::io::Error| {
        let help = match error.kind() {
            ErrorKind::NotFound => Some("name the file, or create it"),
            ErrorKind::PermissionDenied => {
                Some("the user that starts the daemon must be able to read it")
            }
            _ => None,
        };
        ConfigErrors::whole_file(
            name,
            format!("cannot read the configuration: {error}"),
            help,
        )
    };
    let directory = || {
        let help = Some("name one file; directories are not read");
        ConfigErrors::whole_file(name, "the configuration is a directory", help)
    };

    let file = File::open(path).map_err(|error| failed(&error))?;
    let metadata = file.metadata().map_err(|error| failed(&error))?;
    if metadata.is_dir() {
        return Err(directory());
    }
    let mut bytes = Vec::new();
    // Not the length from the metadata: a pipe has none, and a file may grow.
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| failed(&error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let message = "the configuration is larger than 16 MiB";
        return Err(ConfigErrors::whole_file(
            name,
            message,
            Some("is this the right file?"),
        ));
    }
    let anyone_writes = metadata.is_file() && metadata.permissions().mode() & 0o002 != 0;
    Ok((bytes, anyone_writes))
}
