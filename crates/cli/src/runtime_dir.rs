//! Where the daemon's lock and control socket are.

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

fn default_in(surroundings: &Surroundings) -> PathBuf {
    let systemd = surroundings
        .systemd
        .as_ref()
        .and_then(|list| std::env::split_paths(list).find(|path| path.is_absolute()));
    if let Some(directory) = systemd {
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
    }
}
