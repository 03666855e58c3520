//! The file of the access log: opened here, written by the monitor.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use evenkeel_plan::{AccessFormat, AccessLogSpec};
use evenkeel_sys::append;

/// The file's descriptor; `None` = lines go where the log goes.
pub(crate) type AccessLog = Option<Arc<OwnedFd>>;

/// Opens the file that `spec` names, if there is an access log and it goes to one.
///
/// # Errors
/// The path and why not, in words.
pub(crate) fn open(spec: &AccessLogSpec) -> Result<AccessLog, String> {
    match (&spec.format, &spec.file) {
        (AccessFormat::Off, _) | (_, None) => Ok(None),
        (_, Some(path)) => append::open(Path::new(path))
            .map(|file| Some(Arc::new(file)))
            .map_err(|error| format!("failed to open the access log {path}: {error}")),
    }
}

/// Whether lines go where they went before. After the file was renamed they do not, although nothing else has changed.
pub(crate) fn is_same(one: &AccessLog, other: &AccessLog) -> bool {
    match (one, other) {
        (None, None) => true,
        // One of which nothing can be told is another one.
        (Some(one), Some(other)) => append::is_same_file(one, other).unwrap_or(false),
        (None, Some(_)) | (Some(_), None) => false,
    }
}
