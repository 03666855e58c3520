//! Credentials of checks. Their values are for requests only: never in a text that a person or a log gets.

use std::collections::HashMap;
use std::fmt;

use evenkeel_plan::{CredentialsSpec, SecretSource};

/// The values of a plan's secrets, or why one could not be read.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets(HashMap<SecretSource, Result<Vec<u8>, String>>);

/// A user's name and password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) user: Vec<u8>,
    pub(crate) password: Vec<u8>,
}

impl Secrets {
    /// The name and password that `spec` speaks of, or in words which of them is missing.
    pub(crate) fn credentials(&self, spec: &CredentialsSpec) -> Result<Credentials, String> {
        Ok(Credentials {
            user: self.value("user", &spec.user)?,
            password: self.value("password", &spec.password)?,
        })
    }

    fn value(&self, what: &str, source: &SecretSource) -> Result<Vec<u8>, String> {
        let place = match source {
            SecretSource::Environment(name) => format!("environment variable {name}"),
            SecretSource::File(path) => format!("file {path}"),
        };
        match self.0.get(source) {
            Some(Ok(value)) => Ok(value.clone()),
            Some(Err(error)) => Err(format!("no {what}: {place}: {error}")),
            None => Err(format!("no {what}: {place} was not read")),
        }
    }
}

impl Credentials {
    /// `text` without the password, should a server send it back.
    pub(crate) fn redact(&self, text: &str) -> String {
        match std::str::from_utf8(&self.password) {
            Ok(password) if !password.is_empty() => text.replace(password, "***"),
            _ => text.to_owned(),
        }
    }

    /// `text` without the user's name and the password.
    pub(crate) fn redact_all(&self, text: &str) -> String {
        let text = self.redact(text);
        match std::str::from_utf8(&self.user) {
            Ok(user) if !user.is_empty() => text.replace(user, "***"),
            _ => text,
        }
    }
}

impl From<HashMap<SecretSource, Result<Vec<u8>, String>>> for Secrets {
    fn from(values: HashMap<SecretSource, Result<Vec<u8>, String>>) -> Self {
        Self(values)
    }
}

impl FromIterator<(SecretSource, Result<Vec<u8>, String>)> for Secrets {
    fn from_iter<T>(values: T) -> Self
    where
        T: IntoIterator<Item = (SecretSource, Result<Vec<u8>, String>)>,
    {
        Self(values.into_iter().collect())
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}
