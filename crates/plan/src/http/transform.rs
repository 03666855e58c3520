//! What is changed in requests and answers on their way.

use serde::{Deserialize, Serialize};

use super::route::{HostPattern, PathPrefix};
use super::text::{FieldName, FieldValue, NamePattern};
use crate::Network;

/// Changes to a request and its answer. Nothing by default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransformSpec {
    /// Taken from the start of the path, where it is there: `/api` makes `/api/v1` to `/v1` and `/api` to `/`.
    pub strip_prefix: Option<PathPrefix>,
    /// Put before the path, after `strip_prefix`.
    pub add_prefix: Option<PathPrefix>,
    /// What backends see as `Host`.
    pub host: HostSpec,
    /// Changes to the fields of the request.
    pub request: HeaderEditsSpec,
    /// Changes to the fields of the answer.
    pub response: HeaderEditsSpec,
}

/// The `Host` that a backend sees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostSpec {
    /// As the client sent it.
    #[default]
    Keep,
    /// This name, without port; no wildcard.
    Set(HostPattern),
    /// The backend's address as the configuration writes it, with port.
    Backend,
}

/// Changes to fields, in this order: remove, set, add.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderEditsSpec {
    /// Every line of these goes.
    pub remove: Vec<NamePattern>,
    /// Every line of these goes, and one with this value comes.
    pub set: Vec<(FieldName, FieldValue)>,
    /// A line more.
    pub add: Vec<(FieldName, FieldValue)>,
}

/// A bundle of settings for one kind of backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HttpPreset {
    /// CouchDB: requests lose `X-Auth-CouchDB-*`. CouchDB's proxy authentication believes these, so that whoever may
    /// send them is whoever they say.
    CouchDb,
}

impl HttpPreset {
    /// The word for it in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CouchDb => "couchdb",
        }
    }

    /// Fields that requests lose.
    #[must_use]
    pub fn request_remove(self) -> &'static [&'static str] {
        match self {
            Self::CouchDb => &["X-Auth-CouchDB-*"],
        }
    }
}

/// What becomes of a field that says who asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ForwardMode {
    /// What a trusted peer sent stays, and we add what we see. `-Proto` and `-Host` have one value: a trusted peer's stays,
    /// else ours is written. What anybody else sent is removed first.
    Append,
    /// Ours alone, whatever came: the client's address, and the scheme and host that it asked for, as far as trusted peers tell.
    Replace,
    /// We write nothing. A trusted peer's passes; anybody else's is removed.
    #[default]
    Off,
}

/// Which fields of trusted peers are believed. A proxy that writes the one kind passes the other on as its client sent it, so
/// believing both would be believing clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ForwardedSource {
    /// `X-Forwarded-For`, `-Proto`, `-Host`.
    #[default]
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// What is said to backends of who asked, and who may say so to us.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardedSpec {
    /// Peers whose word counts: proxies in front of us. Default: nobody. At most [`NETWORKS_MAX`](crate::NETWORKS_MAX).
    pub trusted: Vec<Network>,
    /// Which of their fields. Default `XForwarded`.
    pub source: ForwardedSource,
    /// `X-Forwarded-For`. Default `Append`.
    pub x_forwarded_for: ForwardMode,
    /// `X-Forwarded-Proto`. Default `Append`.
    pub x_forwarded_proto: ForwardMode,
    /// `X-Forwarded-Host`. Default `Append`.
    pub x_forwarded_host: ForwardMode,
    /// `Forwarded` (RFC 7239). Default `Off`.
    pub forwarded: ForwardMode,
    /// The field with the request's id; `None` = none is made, and what comes passes. Default `X-Request-Id`.
    pub request_id: Option<FieldName>,
}

impl Default for ForwardedSpec {
    fn default() -> Self {
        Self {
            trusted: Vec::new(),
            source: ForwardedSource::default(),
            x_forwarded_for: ForwardMode::Append,
            x_forwarded_proto: ForwardMode::Append,
            x_forwarded_host: ForwardMode::Append,
            forwarded: ForwardMode::Off,
            request_id: FieldName::new("X-Request-Id").ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_presets_name_can_be_removed() {
        for name in HttpPreset::CouchDb.request_remove() {
            assert!(NamePattern::new(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_request_id_is_made_by_default_and_nobody_is_trusted() {
        let spec = ForwardedSpec::default();
        assert!(spec.request_id.is_some());
        assert!(spec.trusted.is_empty());
    }
}
