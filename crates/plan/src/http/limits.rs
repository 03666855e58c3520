//! How large, how many, how long.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::text::Method;
use crate::RateSpec;

/// Sizes and numbers of a listener's requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpLimitsSpec {
    /// Bytes of a request's head, first line and fields together, 1 KiB..=64 KiB. Default 32 KiB. More: 431. An answer's may always
    /// have 64 KiB.
    pub head_bytes: u32,
    /// Lines of fields of a request's head, 8..=256. Default 100. More: 431. An answer's may always have 200.
    pub fields: u16,
    /// Bytes of the request's target, 64..=`head_bytes`. Default 8,190. More: 414.
    pub uri_bytes: u32,
    /// Bytes of a request's body where no line of `body_by_type` says otherwise; `None` = any. Default `None`. More: 413.
    pub body_bytes: Option<u64>,
    /// The same by `Content-Type`; the first that matches counts.
    pub body_by_type: Vec<BodyLimitSpec>,
    /// Requests of one connection, 1..=4,294,967,295, then it is closed in order; `None` = any. Default `None`.
    pub requests_per_connection: Option<u32>,
    /// Requests at a time, over all workers, 1..=10,000,000; `None` = any. More: 503. Exact from above, as
    /// `max_connections` is.
    pub concurrent_requests: Option<u32>,
    /// Requests in time of one source (as `source_rate` of connections counts it), over all workers. More: 429.
    pub source_rate: Option<RateSpec>,
}

/// A limit on bodies of one type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BodyLimitSpec {
    /// `application/json`, `image/*` or `*/*`; parameters do not count. Lower case. A request without a `Content-Type` has
    /// `application/octet-stream`.
    pub content_type: String,
    /// Bytes; `None` = any.
    pub bytes: Option<u64>,
}

/// How long a request may take for what. `None` = for ever. For a connection to a backend: [`crate::ConnectSpec::timeout`]; in the
/// queue: [`crate::QueueSpec::timeout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpTimeoutsSpec {
    /// Of listeners: from a request's first byte to its whole head, however its bytes come. Default 30 s. Then 408.
    pub request_head: Duration,
    /// Of listeners: between two bytes of a request's body. Default 60 s. Then 408.
    pub body_idle: Option<Duration>,
    /// Of listeners: for a client that reads nothing of what is there for it. Default 60 s.
    pub client_write: Option<Duration>,
    /// Of listeners: between two requests of a connection, and before the first. Default 5 min.
    pub keep_alive_idle: Duration,
    /// Of backends: from the request's last byte to the first one of the answer. Default: for ever; views that are built and
    /// purges take as long as they take. Then 504.
    pub first_byte: Option<Duration>,
    /// Of backends: between two bytes of an answer. Default 1 h; longer than the longest heartbeat of a feed, or feeds are cut.
    pub answer_idle: Option<Duration>,
    /// Of backends: for an idle connection to one, and shorter than the backend's own, which it may announce itself (`Keep-Alive:
    /// timeout=`; a second less counts then). Default 4 s, since Node closes after 5 s without a word.
    pub upstream_idle: Duration,
    /// Of backends: without a byte in either direction after an upgrade. Default 1 h.
    pub tunnel_idle: Option<Duration>,
}

/// What is tried again, beyond what is always: requests of which no byte was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetrySpec {
    /// Tries of one request, the first one included, 1..=16. Default 3.
    pub attempts: u8,
    /// Methods that may be sent again when a reused connection was closed before a byte of the answer, beside GET, HEAD and
    /// OPTIONS; PUT and DELETE only. Default none.
    pub methods: Vec<Method>,
    /// Bytes of a request's body that are held for it, 0..=1 MiB. Default 16 KiB. A body that is not held whole is not sent again.
    pub body_bytes: u32,
    /// Further tries in per cent of a service's requests, 0..=100. Default 20.
    pub budget_percent: u8,
    /// Further tries a second that are free of the budget, so that a quiet service has them too, 0..=1,000. Default 10.
    pub budget_floor: u16,
}

impl Default for HttpLimitsSpec {
    fn default() -> Self {
        Self {
            head_bytes: 32_768,
            fields: 100,
            uri_bytes: 8_190,
            body_bytes: None,
            body_by_type: Vec::new(),
            requests_per_connection: None,
            concurrent_requests: None,
            source_rate: None,
        }
    }
}

impl HttpLimitsSpec {
    /// Most bytes of a body of this `Content-Type`; `None` = any.
    #[must_use]
    pub fn body_bytes_of(&self, content_type: Option<&[u8]>) -> Option<u64> {
        let given = content_type.unwrap_or(b"application/octet-stream");
        let given = given.split(|byte| *byte == b';').next().unwrap_or(given);
        let given = given.trim_ascii();
        let is_of = |pattern: &str| match pattern.strip_suffix('*') {
            Some("*/") => true,
            Some(start) => given
                .get(..start.len())
                .is_some_and(|given| given.eq_ignore_ascii_case(start.as_bytes())),
            None => given.eq_ignore_ascii_case(pattern.as_bytes()),
        };
        match self
            .body_by_type
            .iter()
            .find(|line| is_of(&line.content_type))
        {
            Some(line) => line.bytes,
            None => self.body_bytes,
        }
    }
}

impl Default for HttpTimeoutsSpec {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self {
            request_head: Duration::from_secs(30),
            body_idle: Some(minute),
            client_write: Some(minute),
            keep_alive_idle: 5 * minute,
            first_byte: None,
            answer_idle: Some(60 * minute),
            upstream_idle: Duration::from_secs(4),
            tunnel_idle: Some(60 * minute),
        }
    }
}

impl Default for RetrySpec {
    fn default() -> Self {
        Self {
            attempts: 3,
            methods: Vec::new(),
            body_bytes: 16_384,
            budget_percent: 20,
            budget_floor: 10,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_a_bodys_type_counts() {
        let line = |content_type: &str, bytes| BodyLimitSpec {
            content_type: content_type.to_owned(),
            bytes,
        };
        let limits = HttpLimitsSpec {
            body_bytes: Some(1),
            body_by_type: vec![
                line("application/json", Some(2)),
                line("image/*", Some(3)),
                line("video/*", None),
            ],
            ..HttpLimitsSpec::default()
        };
        for (given, bytes) in [
            (Some("application/json"), Some(2)),
            (Some("Application/JSON ; charset=utf-8"), Some(2)),
            (Some("application/json2"), Some(1)),
            (Some("image/png"), Some(3)),
            (Some("images/png"), Some(1)),
            (Some("video/mp4"), None),
            (Some(""), Some(1)),
            (None, Some(1)),
        ] {
            assert_eq!(
                limits.body_bytes_of(given.map(str::as_bytes)),
                bytes,
                "{given:?}"
            );
        }
    }
}
