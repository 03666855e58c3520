//! What a configuration says of HTTP: where requests go, what is changed in them, how long and how large they may be.
//!
//! ```text
//! service with listeners: HttpSpec --> routes --RouteSpec--> action: service | redirect | fixed answer
//!              |                                                     |
//!              +-- forwarded, limits, answers, compression            +--> its HttpSpec: persistence, retries, presets, pool
//! ```
//!
//! Names and values of fields, hosts and prefixes are checked where they are made, so that a plan that
//! arrived over the wire holds no line break either. What needs a library (regular expressions) is checked by
//! whoever compiles it.

mod answers;
mod compression;
mod limits;
mod persistence;
mod pool;
mod route;
mod text;
mod transform;

use serde::{Deserialize, Serialize};

pub use answers::{AnswerFormat, AnswerPageSpec, AnswersSpec, PAGE_BYTES_MAX};
pub use compression::{Coding, CompressionSpec};
pub use limits::{BodyLimitSpec, HttpLimitsSpec, HttpTimeoutsSpec, RetrySpec};
pub use persistence::{COOKIE_KEY_BYTES_MIN, CookieSpec, PersistenceSpec, SameSite, SecureCookie};
pub use pool::PoolSpec;
pub use route::{
    ActionSpec, FixedSpec, HeaderMatch, HeaderValueMatch, HostPattern, HostPatternError, PathMatch,
    PathPrefix, PathPrefixError, REDIRECT_VARIABLES, ROUTES_MAX, RedirectPart, RedirectSpec,
    RedirectStatus, RedirectTemplateError, RouteSpec, parse_redirect,
};
pub use text::{
    FIELD_NAME_BYTES_MAX, FIELD_VALUE_BYTES_MAX, FieldName, FieldNameError, FieldValue,
    FieldValueError, Method, MethodError, NamePattern, PROTECTED_FIELDS,
};
pub use transform::{
    ForwardMode, ForwardedSource, ForwardedSpec, HeaderEditsSpec, HostSpec, HttpPreset,
    TransformSpec,
};

/// HTTP of a service: of the requests that come in by its listeners, and of those that are routed to it, by whichever listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpSpec {
    /// Where requests of its listeners go. The order counts only between routes that are equally specific. At most
    /// [`ROUTES_MAX`]. What no route takes goes to the service's own backends; where it has none, the answer is 404.
    pub routes: Vec<RouteSpec>,
    /// Of its listeners: what is said to backends of who asked, and who may say so to us.
    pub forwarded: ForwardedSpec,
    /// Of its listeners: sizes and numbers.
    pub limits: HttpLimitsSpec,
    /// Times; each says whether it is of the listeners' side or of the backends'.
    pub timeouts: HttpTimeoutsSpec,
    /// Of its listeners: answers of our own.
    pub answers: AnswersSpec,
    /// Of its listeners: a client that ends its direction while it waits for an answer is still there. Default `false`: it is
    /// gone, and its request is cancelled.
    pub allow_half_close: bool,
    /// Of its listeners: which answers are compressed.
    pub compression: CompressionSpec,
    /// Of its backends: bundles of settings for one kind of backend.
    pub presets: Vec<HttpPreset>,
    /// Of its backends: changes to every request and answer, after those of the route.
    pub transform: TransformSpec,
    /// Of its backends: which requests stay with one.
    pub persistence: Option<PersistenceSpec>,
    /// Of its backends: what is tried again.
    pub retry: RetrySpec,
    /// Of its backends: idle connections that are kept.
    pub pool: PoolSpec,
}

impl HttpSpec {
    /// The cookie that keeps requests with one backend.
    #[must_use]
    pub fn cookie(&self) -> Option<&CookieSpec> {
        match &self.persistence {
            Some(PersistenceSpec::Cookie(cookie)) => Some(cookie),
            Some(
                PersistenceSpec::Header(_) | PersistenceSpec::Uri { .. } | PersistenceSpec::Source,
            )
            | None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_arrives_over_the_wire_as_it_was_sent() {
        let route = RouteSpec {
            hosts: vec![HostPattern::new("*.example.org").unwrap()],
            path: Some(PathMatch::Prefix(PathPrefix::new("/api").unwrap())),
            methods: vec![Method::new("GET").unwrap()],
            headers: vec![HeaderMatch {
                name: FieldName::new("X-Tenant").unwrap(),
                value: HeaderValueMatch::Present,
            }],
            action: ActionSpec::Redirect(RedirectSpec {
                status: RedirectStatus::Found,
                location: "https://{host}/".to_owned(),
            }),
            transform: TransformSpec {
                request: HeaderEditsSpec {
                    remove: vec![NamePattern::new("X-Auth-*").unwrap()],
                    ..HeaderEditsSpec::default()
                },
                ..TransformSpec::default()
            },
        };
        let spec = HttpSpec {
            routes: vec![route],
            ..HttpSpec::default()
        };
        let bytes = postcard::to_allocvec(&spec).unwrap();
        assert_eq!(postcard::from_bytes::<HttpSpec>(&bytes).unwrap(), spec);
    }

    #[test]
    fn what_would_be_refused_in_a_file_is_refused_on_the_wire() {
        let bytes = postcard::to_allocvec("a\r\nb").unwrap();
        assert!(postcard::from_bytes::<FieldName>(&bytes).is_err());
        assert!(postcard::from_bytes::<FieldValue>(&bytes).is_err());
        assert!(postcard::from_bytes::<Method>(&bytes).is_err());
        assert!(postcard::from_bytes::<HostPattern>(&bytes).is_err());
        assert!(postcard::from_bytes::<PathPrefix>(&bytes).is_err());
        let bytes = postcard::to_allocvec("Content-*").unwrap();
        assert!(postcard::from_bytes::<NamePattern>(&bytes).is_err());
    }
}
