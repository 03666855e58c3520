//! What a line of the access log can hold, and templates of such lines.
//!
//! ```text
//! "{time} {client} {{{backend}}}" --parse_template--> [Time, " ", Client, " {", Backend, "}"]
//! ```

use thiserror::Error;

/// Fields of a line of the access log, in the order in which the `json` and `logfmt` formats write them: name, and what it is.
///
/// A line is about a connection, or about one request of HTTP. A value that it does not have (it was never queued, no backend
/// was picked, there is no request) is left out by `json` and `logfmt`, and is `-` in a template; so are, in `json` and
/// `logfmt`, fields that only templates show ([`AccessField::is_for_templates_only`]). The configuration checks templates
/// against it; [`AccessField`] has one variant for each row.
pub const ACCESS_FIELDS: &[(&str, &str)] = &[
    (
        "time",
        "when the connection ended, of a request its answer; RFC 3339 in UTC",
    ),
    (
        "service",
        "name of the service; of a request that one that it was routed to",
    ),
    ("listener", "address of the listener, as configured"),
    (
        "client",
        "address of the client: the peer's, that of the PROXY protocol header, or of a request, the one that a trusted proxy tells",
    ),
    (
        "client_port",
        "port of the client; 0 where a trusted proxy tells its address alone",
    ),
    ("peer", "address that the connection came from"),
    ("peer_port", "port that the connection came from"),
    (
        "backend",
        "name of the backend that was connected; absent when none was",
    ),
    (
        "endpoint",
        "address and port that was connected to, or tried last",
    ),
    (
        "source",
        "address and port of ours that the backend was connected to from",
    ),
    ("worker", "slot of the worker"),
    ("id", "unique id of the connection"),
    ("attempts", "backends that were tried"),
    (
        "handshake_ms",
        "milliseconds for the PROXY protocol header; absent without one",
    ),
    (
        "queue_ms",
        "milliseconds in the queue; absent when it did not wait",
    ),
    (
        "connect_ms",
        "milliseconds for connecting, all attempts together; absent for a request that found a connection",
    ),
    (
        "first_byte_ms",
        "milliseconds from being connected, of a request from being sent, to the backend's first byte",
    ),
    (
        "duration_ms",
        "milliseconds from accept to the end, of a request from its first byte to the last of its answer",
    ),
    ("bytes_received", "bytes from the client to the backend"),
    ("bytes_sent", "bytes from the backend to the client"),
    (
        "end",
        "why the connection ended: `end` in order, `reset`, `bug`, else a `reason` of `evenkeel_service_failures_total`; of a request `end` or a `reason` of `evenkeel_http_request_failures_total`, and where it became a tunnel (101) as for a connection",
    ),
    ("end_by", "who ended it: `client`, `backend`, `balancer`"),
    (
        "end_phase",
        "in which phase it ended: `handshake`, `queue`, `connect`, `relay`; of a request also `head` (reading it), `answer` (waiting for the answer to begin), `body` (copying it)",
    ),
    (
        "method",
        "method of the request; this and what follows is absent in the line of a connection, and where no head could be understood",
    ),
    (
        "host",
        "host that was asked for, with the port if it was named",
    ),
    ("path", "path that was asked for, without the query"),
    (
        "query",
        "the query, without the question mark; only in templates that name it, since it may hold what concerns patients",
    ),
    (
        "version",
        "version of HTTP that the client speaks: `1.0`, `1.1`",
    ),
    (
        "status",
        "status of the answer that the client got, or a part of it; absent when it got none",
    ),
    (
        "route",
        "place of the route among those of its service in the file, from 1; absent when none was needed or found",
    ),
    ("request_id", "id of the request, where requests have one"),
    (
        "user_agent",
        "`User-Agent` of the request; only in templates that name it",
    ),
    (
        "referer",
        "`Referer` of the request; only in templates that name it",
    ),
    ("request", "number of the request on its connection, from 1"),
    (
        "reused",
        "`true` when it went over a connection to the backend that had been used before, else `false`; absent without a backend",
    ),
    (
        "head_ms",
        "milliseconds from the first byte of the request to its whole head",
    ),
    (
        "compressed",
        "coding that the answer was compressed with here; absent when it was not",
    ),
];

/// Longest template in bytes.
pub const TEMPLATE_BYTES_MAX: usize = 1_024;

/// A field of a line of the access log. The number of a variant is its row in [`ACCESS_FIELDS`], which says what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "what each is stands in ACCESS_FIELDS, in the same order"
)]
pub enum AccessField {
    Time,
    Service,
    Listener,
    Client,
    ClientPort,
    Peer,
    PeerPort,
    Backend,
    Endpoint,
    Source,
    Worker,
    Id,
    Attempts,
    HandshakeMs,
    QueueMs,
    ConnectMs,
    FirstByteMs,
    DurationMs,
    BytesReceived,
    BytesSent,
    End,
    EndBy,
    EndPhase,
    Method,
    Host,
    Path,
    Query,
    Version,
    Status,
    Route,
    RequestId,
    UserAgent,
    Referer,
    Request,
    Reused,
    HeadMs,
    Compressed,
}

impl AccessField {
    /// All of them, in the order of [`ACCESS_FIELDS`].
    pub const ALL: [Self; 37] = [
        Self::Time,
        Self::Service,
        Self::Listener,
        Self::Client,
        Self::ClientPort,
        Self::Peer,
        Self::PeerPort,
        Self::Backend,
        Self::Endpoint,
        Self::Source,
        Self::Worker,
        Self::Id,
        Self::Attempts,
        Self::HandshakeMs,
        Self::QueueMs,
        Self::ConnectMs,
        Self::FirstByteMs,
        Self::DurationMs,
        Self::BytesReceived,
        Self::BytesSent,
        Self::End,
        Self::EndBy,
        Self::EndPhase,
        Self::Method,
        Self::Host,
        Self::Path,
        Self::Query,
        Self::Version,
        Self::Status,
        Self::Route,
        Self::RequestId,
        Self::UserAgent,
        Self::Referer,
        Self::Request,
        Self::Reused,
        Self::HeadMs,
        Self::Compressed,
    ];

    /// Its name in templates and lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        ACCESS_FIELDS[self as usize].0
    }

    /// Whether it says something of a request of HTTP: no line of a connection has it.
    #[must_use]
    pub const fn is_of_requests(self) -> bool {
        self as usize >= Self::Method as usize
    }

    /// Whether only a template that names it shows it. A query of CHT or `OpenHIM` may hold names and numbers of patients, and a
    /// `Referer` may hold such a query; what a `User-Agent` holds is long, and rarely of use.
    #[must_use]
    pub const fn is_for_templates_only(self) -> bool {
        matches!(self, Self::Query | Self::UserAgent | Self::Referer)
    }

    /// The field of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.name() == name)
    }
}

const _: () = assert!(AccessField::ALL.len() == ACCESS_FIELDS.len());

/// A piece of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplatePart {
    /// Text that stands in every line as it is; never empty, no control characters.
    Literal(String),
    /// The value of a field.
    Field(AccessField),
}

/// What is wrong with a template.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{kind} at byte {at}")]
pub struct TemplateError {
    /// Where, in bytes from the start of the template.
    pub at: usize,
    /// What.
    pub kind: TemplateErrorKind,
}

/// Kinds of errors in a template.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TemplateErrorKind {
    /// It holds nothing.
    #[error("nothing to write")]
    Empty,
    /// It is longer than [`TEMPLATE_BYTES_MAX`].
    #[error("more than {TEMPLATE_BYTES_MAX} bytes")]
    TooLong,
    /// `{` without its `}`.
    #[error("`{{` without `}}` (a brace itself is written twice)")]
    Unclosed,
    /// `}` without a `{` before it.
    #[error("`}}` without `{{` (a brace itself is written twice)")]
    Stray,
    /// No field has this name.
    #[error("no field `{name}`")]
    Unknown {
        /// What stands between the braces.
        name: String,
    },
    /// A control character, such as a line feed: a line would not be one.
    #[error("a control character")]
    Control,
}

/// Takes a template apart: `{name}` is a field of [`ACCESS_FIELDS`], `{{` and `}}` are braces, the rest stands for itself.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn parse_template(template: &str) -> Result<Vec<TemplatePart>, TemplateError> {
    let wrong = |at, kind| Err(TemplateError { at, kind });
    if template.is_empty() {
        return wrong(0, TemplateErrorKind::Empty);
    }
    if template.len() > TEMPLATE_BYTES_MAX {
        return wrong(TEMPLATE_BYTES_MAX, TemplateErrorKind::TooLong);
    }
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut at = 0;
    while let Some(c) = template[at..].chars().next() {
        let rest = &template[at..];
        if c.is_control() {
            return wrong(at, TemplateErrorKind::Control);
        } else if rest.starts_with("{{") || rest.starts_with("}}") {
            literal.push(c);
            at += 2;
        } else if c == '}' {
            return wrong(at, TemplateErrorKind::Stray);
        } else if c == '{' {
            let Some(name) = rest[1..].split_once('}').map(|(name, _)| name) else {
                return wrong(at, TemplateErrorKind::Unclosed);
            };
            let Some(field) = AccessField::from_name(name) else {
                let name = name.to_owned();
                return wrong(at + 1, TemplateErrorKind::Unknown { name });
            };
            if !literal.is_empty() {
                parts.push(TemplatePart::Literal(std::mem::take(&mut literal)));
            }
            parts.push(TemplatePart::Field(field));
            at += name.len() + 2;
        } else {
            literal.push(c);
            at += c.len_utf8();
        }
    }
    if !literal.is_empty() {
        parts.push(TemplatePart::Literal(literal));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_fit_between_braces() {
        for (index, (name, help)) in ACCESS_FIELDS.iter().enumerate() {
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{name}"
            );
            assert!(!help.is_empty() && !help.contains('|'), "{name}");
            assert!(
                ACCESS_FIELDS[..index]
                    .iter()
                    .all(|(other, _)| other != name)
            );
        }
    }

    #[test]
    fn each_field_is_found_by_the_name_in_its_row() {
        for (index, (name, _)) in ACCESS_FIELDS.iter().enumerate() {
            let field = AccessField::from_name(name).unwrap();
            assert_eq!(field as usize, index);
            assert_eq!(field.name(), *name);
        }
        // The last letters tell neighbours in the table apart.
        assert_eq!(AccessField::BytesSent.name(), "bytes_sent");
        assert_eq!(AccessField::EndPhase.name(), "end_phase");
        assert_eq!(AccessField::PeerPort.name(), "peer_port");
        assert_eq!(AccessField::RequestId.name(), "request_id");
        assert_eq!(AccessField::Compressed.name(), "compressed");
        let of_requests = AccessField::ALL.iter().filter(|f| f.is_of_requests());
        assert_eq!(of_requests.count(), 14);
        assert!(!AccessField::EndPhase.is_of_requests());
    }

    #[test]
    fn a_template_is_taken_apart() {
        use AccessField::{Backend, Client, Time};
        use TemplatePart::{Field, Literal};
        let literal = |text: &str| Literal(text.to_owned());
        for (template, expected) in [
            ("{time}", vec![Field(Time)]),
            ("a b", vec![literal("a b")]),
            (
                "{time}{client} \u{fc} {{{backend}}}!",
                vec![
                    Field(Time),
                    Field(Client),
                    literal(" \u{fc} {"),
                    Field(Backend),
                    literal("}!"),
                ],
            ),
        ] {
            assert_eq!(parse_template(template).unwrap(), expected, "{template}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        use TemplateErrorKind as Kind;
        let unknown = |name: &str| Kind::Unknown {
            name: name.to_owned(),
        };
        let long = "x".repeat(TEMPLATE_BYTES_MAX + 1);
        for (template, at, kind) in [
            ("", 0, Kind::Empty),
            (&*long, TEMPLATE_BYTES_MAX, Kind::TooLong),
            ("a {time", 2, Kind::Unclosed),
            ("a {", 2, Kind::Unclosed),
            ("\u{fc}}", 2, Kind::Stray),
            ("{time} }x", 7, Kind::Stray),
            ("{time} {tiem}", 8, unknown("tiem")),
            ("{}", 1, unknown("")),
            ("{time}\n", 6, Kind::Control),
            ("\u{9b}", 0, Kind::Control),
        ] {
            assert_eq!(
                parse_template(template).unwrap_err(),
                TemplateError { at, kind },
                "{template:?}"
            );
        }
    }
}
