//! Secrets of health checks: read here, since the monitor may not be allowed to; passed on to the monitor only. A value is
//! never logged and never shown.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt;

use evenkeel_control::child::Secrets;
use evenkeel_plan::{CheckKind, SecretSource, Spec};

/// Longest secret that is read from a file, in bytes.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Reads every source that `spec` names. Blocks on files.
#[must_use]
pub(crate) fn read(spec: &Spec) -> Secrets {
    let values = sources(spec).into_iter().map(|source| {
        let value = match &source {
            SecretSource::Environment(name) => std::env::var_os(name)
                .map(OsStringExt::into_vec)
                .ok_or_else(|| "it is not set".to_owned()),
            SecretSource::File(path) => read_file(path),
        };
        (source, value)
    });
    Secrets {
        values: values.collect(),
    }
}

/// What could not be read, a line each, without values.
#[must_use]
pub(crate) fn problems(secrets: &Secrets) -> Vec<String> {
    let values = secrets.values.iter();
    values
        .filter_map(|(source, value)| {
            let why = value.as_ref().err()?;
            let place = match source {
                SecretSource::Environment(name) => format!("environment variable {name}"),
                SecretSource::File(path) => format!("file {path}"),
            };
            Some(format!(
                "cannot read a health check's secret in {place}: {why}"
            ))
        })
        .collect()
}

fn sources(spec: &Spec) -> BTreeSet<SecretSource> {
    let backends = spec.services.iter().flat_map(|service| &service.backends);
    backends
        .filter_map(|backend| match &backend.check.as_ref()?.kind {
            CheckKind::CouchDb(couch) => couch.credentials.clone(),
            CheckKind::Tcp
            | CheckKind::Tls(_)
            | CheckKind::Http { .. }
            | CheckKind::Agent { .. }
            | CheckKind::Exec { .. } => None,
        })
        .flat_map(|credentials| [credentials.user, credentials.password])
        .collect()
}

fn read_file(path: &str) -> Result<Vec<u8>, String> {
    let words = |error: std::io::Error| error.to_string();
    // A pipe would be waited on for ever.
    if !std::fs::metadata(path).map_err(words)?.is_file() {
        return Err("it is not a file".to_owned());
    }
    let mut value = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut value))
        .map_err(words)?;
    if value.len() as u64 > SECRET_BYTES_MAX {
        return Err(format!("it has more than {SECRET_BYTES_MAX} bytes"));
    }
    if value.last() == Some(&b'\n') {
        value.pop();
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_feed_is_cut_and_what_cannot_be_read_has_words_without_a_value() {
        let path = std::env::temp_dir().join(format!("evenkeel-secret-{}", std::process::id()));
        let name = path.display().to_string();
        for (written, expected) in [("pass word", "pass word"), ("a\n", "a"), ("a\n\n", "a\n")] {
            std::fs::write(&path, written).unwrap();
            assert_eq!(read_file(&name).unwrap(), expected.as_bytes());
        }
        std::fs::write(&path, vec![b'x'; 64 * 1024 + 1]).unwrap();
        let long = read_file(&name).unwrap_err();
        assert!(long.contains("65536"), "{long}");
        assert!(read_file("/dev/zero").is_err());
        std::fs::remove_file(&path).unwrap();
        let secrets = Secrets {
            values: vec![
                (SecretSource::File(name.clone()), read_file(&name)),
                (
                    SecretSource::Environment("GOOD".to_owned()),
                    Ok(b"hidden".to_vec()),
                ),
            ],
        };
        let problems = problems(&secrets);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].contains(&name), "{problems:?}");
        assert!(!format!("{secrets:?}{problems:?}").contains("hidden"));
    }
}
