//! Where the daemon's lock and control socket are, and what outlives it.

use std::ffi::OsString;
use std::path::PathBuf;

/// What the choice depends on.
#[derive(Clone, Debug, Default)]
struct Surroundings {
    /// `RUNTIME_DIRECTORY`, as systemd sets it: one path or several with colons between.
    systemd: Option<OsString>,
    /// `XDG_RUNTIME_DIR`.
    session: Option<OsString>,
    uid: u32,
}

/// `explicit` (`--runtime-dir` or `EVENKEEL_RUNTIME_DIR`), else what suits the surroundings.
pub(crate) fn choose(explicit: Option<PathBuf>) -> PathBuf {
    explicit.unwrap_or_else(|| {
        default_in(&Surroundings {
            systemd: std::env::var_os("RUNTIME_DIRECTORY"),
            session: std::env::var_os("XDG_RUNTIME_DIR"),
            uid: evenkeel_sys::process::effective_uid(),
        })
    })
}

/// `explicit` (`--state-dir` or `EVENKEEL_STATE_DIR`), else what systemd made; `None` = the runtime directory.
pub(crate) fn choose_state(explicit: Option<PathBuf>) -> Option<PathBuf> {
    explicit.or_else(|| first_of(std::env::var_os("STATE_DIRECTORY").as_ref()))
}

/// The first of one path or several with colons between, as systemd passes them on.
fn first_of(list: Option<&OsString>) -> Option<PathBuf> {
    std::env::split_paths(list?).find(|path| path.is_absolute())
}

fn default_in(surroundings: &Surroundings) -> PathBuf {
    if let Some(directory) = first_of(surroundings.systemd.as_ref()) {
        return directory;
    }
    if surroundings.uid == 0 {
        return PathBuf::from("/run/evenkeel");
    }
    match &surroundings.session {
        Some(session) if !session.is_empty() => PathBuf::from(session).join("evenkeel"),
        _ => PathBuf::from(format!("/tmp/evenkeel-{}", surroundings.uid)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_surroundings_decide_in_order() {
        let mut surroundings = Surroundings {
            systemd: Some("/run/evenkeel-a:/run/other".into()),
            session: Some("/run/user/7".into()),
            uid: 0,
        };
        assert_eq!(default_in(&surroundings), PathBuf::from("/run/evenkeel-a"));
        surroundings.systemd = Some("".into());
        assert_eq!(default_in(&surroundings), PathBuf::from("/run/evenkeel"));
        surroundings.uid = 7;
        let session = PathBuf::from("/run/user/7/evenkeel");
        assert_eq!(default_in(&surroundings), session);
        surroundings.session = None;
        assert_eq!(default_in(&surroundings), PathBuf::from("/tmp/evenkeel-7"));
    }

    #[test]
    fn what_was_said_counts_first() {
        assert_eq!(choose(Some("/x".into())), PathBuf::from("/x"));
        assert_eq!(choose_state(Some("/x".into())), Some(PathBuf::from("/x")));
        let list = OsString::from("/var/lib/evenkeel:/var/lib/other");
        assert_eq!(first_of(Some(&list)), Some("/var/lib/evenkeel".into()));
    }
}
