//! Secrets of health checks and keys of cookies: read here, since children may not be allowed to. Secrets of checks are passed
//! on to the monitor only, keys of cookies to workers only. A value is never logged and never shown.
//!
//! A secret of a check that cannot be read is a warning: the check says so, and the others go on. Without a key of a
//! cookie nobody would be with the backend that he was with, so that a configuration whose keys cannot be read is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt;

use evenkeel_control::child::{CookieKeys, Secrets};
use evenkeel_plan::http::{COOKIE_KEY_BYTES_MIN, CookieSpec};
use evenkeel_plan::{CheckKind, Plan, SecretSource, Spec};

/// Longest secret that is read from a file, in bytes.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Bytes of a key that is made here.
const OWN_KEY_BYTES: usize = 32;

/// Reads every source that checks of `spec` name. Blocks on files.
#[must_use]
pub(crate) fn read(spec: &Spec) -> Secrets {
    let values = sources(spec).into_iter().map(|source| {
        let value = read_source(&source);
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
            Some(format!(
                "cannot read a health check's secret in {}: {why}",
                place(source)
            ))
        })
        .collect()
}

/// A key for the cookies that have none; for the supervisor's whole life.
///
/// # Errors
/// The kernel has no random bytes.
pub(crate) fn make_key() -> std::io::Result<Vec<u8>> {
    let mut key = vec![0; OWN_KEY_BYTES];
    evenkeel_sys::random::fill(&mut key)?;
    Ok(key)
}

/// Reads every source of a key that cookies of `spec` name. Blocks on files.
///
/// # Errors
/// What cannot be read or guards nothing, in words without values.
pub(crate) fn read_keys(spec: &Spec) -> Result<Vec<(SecretSource, Vec<u8>)>, String> {
    let mut keys = Vec::new();
    let mut problems = Vec::new();
    for (source, service) in key_sources(spec) {
        let of = format!("cookie key of service `{service}` in {}", place(&source));
        match read_source(&source) {
            Ok(key) if key.len() >= COOKIE_KEY_BYTES_MIN => keys.push((source, key)),
            Ok(_) => problems.push(format!(
                "the {of} is too short: it needs {COOKIE_KEY_BYTES_MIN} bytes or more"
            )),
            Err(why) => problems.push(format!("cannot read the {of}: {why}")),
        }
    }
    if problems.is_empty() {
        Ok(keys)
    } else {
        Err(problems.join("; "))
    }
}

/// What workers need of `keys` under `plan`; `None` = no service of it has cookies.
#[must_use]
pub(crate) fn for_workers<'a>(keys: &'a CookieKeys, plan: &Plan) -> Option<&'a CookieKeys> {
    let mut services = plan.services();
    let has_cookies = services.any(|sealed| {
        let http = sealed.record().spec.http.as_ref();
        http.is_some_and(|http| http.cookie().is_some())
    });
    has_cookies.then_some(keys)
}

/// Sources of keys, each with the first service that names it.
fn key_sources(spec: &Spec) -> BTreeMap<SecretSource, String> {
    let mut sources = BTreeMap::new();
    for service in &spec.services {
        let cookie = service.http.as_ref().and_then(|http| http.cookie());
        for source in cookie.into_iter().flat_map(CookieSpec::sources) {
            let first = sources.entry(source.clone());
            first.or_insert_with(|| service.name.as_str().to_owned());
        }
    }
    sources
}

fn place(source: &SecretSource) -> String {
    match source {
        SecretSource::Environment(name) => format!("environment variable {name}"),
        SecretSource::File(path) => format!("file {path}"),
    }
}

fn read_source(source: &SecretSource) -> Result<Vec<u8>, String> {
    match source {
        SecretSource::Environment(name) => std::env::var_os(name)
            .map(OsStringExt::into_vec)
            .ok_or_else(|| "it is not set".to_owned()),
        SecretSource::File(path) => read_file(path),
    }
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
    use evenkeel_plan::http::{HttpSpec, PersistenceSpec};
    use evenkeel_plan::{Globals, ServiceName, ServiceSpec};

    use super::*;
    use crate::cells::CellTable;
    use crate::seal::{self, Names};

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

    fn with_cookies(cookies: &[(&str, Option<SecretSource>, Option<SecretSource>)]) -> Spec {
        let services = cookies.iter().map(|(name, key, previous_key)| {
            let cookie = CookieSpec {
                key: key.clone(),
                previous_key: previous_key.clone(),
                ..CookieSpec::default()
            };
            let http = HttpSpec {
                persistence: Some(PersistenceSpec::Cookie(cookie)),
                ..HttpSpec::default()
            };
            ServiceSpec {
                http: Some(http.into()),
                ..ServiceSpec::new(ServiceName::new(*name).unwrap(), Vec::new(), Vec::new())
            }
        });
        Spec {
            globals: Globals::default(),
            services: services.collect(),
        }
    }

    #[test]
    fn keys_of_cookies_are_read_whole_or_the_configuration_is_refused() {
        let place = |what: &str| {
            let name = format!("evenkeel-key-{what}-{}", std::process::id());
            std::env::temp_dir().join(name).display().to_string()
        };
        let (good, short, absent) = (place("good"), place("short"), place("absent"));
        std::fs::write(&good, "0123456789abcdef\n").unwrap();
        std::fs::write(&short, "0123456789abcde\n").unwrap();
        let file = |path: &String| Some(SecretSource::File(path.clone()));
        let spec = with_cookies(&[
            ("a", file(&good), None),
            ("b", None, file(&good)),
            ("c", None, None),
        ]);
        let keys = read_keys(&spec).unwrap();
        let source = SecretSource::File(good.clone());
        assert_eq!(keys, [(source, b"0123456789abcdef".to_vec())]);
        // Checks have none of it.
        assert_eq!(read(&spec).values, []);

        let spec = with_cookies(&[("a", file(&good), file(&short)), ("b", file(&absent), None)]);
        let refused = read_keys(&spec).unwrap_err();
        let words = [
            format!(
                "the cookie key of service `a` in file {short} is too short: it needs 16 bytes or more"
            ),
            format!("cannot read the cookie key of service `b` in file {absent}: No such file"),
        ];
        for words in words {
            assert!(refused.contains(&words), "{refused}");
        }
        assert!(!refused.contains("0123"), "{refused}");
        for path in [good, short] {
            std::fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn workers_get_keys_only_where_there_are_cookies() {
        let keys = CookieKeys {
            own: make_key().unwrap(),
            values: Vec::new(),
        };
        assert_eq!(keys.own.len(), OWN_KEY_BYTES);
        assert_ne!(keys.own, make_key().unwrap());
        let plan = |spec: &Spec| {
            let table = CellTable::new(4, 4, 4);
            seal::seal(spec, 1, &Plan::empty(), &table, &Names::new())
                .unwrap()
                .plan
        };
        let with = plan(&with_cookies(&[("a", None, None)]));
        assert_eq!(for_workers(&keys, &with), Some(&keys));
        let mut spec = with_cookies(&[("a", None, None)]);
        for service in &mut spec.services {
            service.http = Some(HttpSpec::default().into());
        }
        assert_eq!(for_workers(&keys, &plan(&spec)), None);
    }
}
