//! What a line of the access log can hold, and templates of such lines.
//!
//! ```text
//! "{time} {client} {{{backend}}}" --parse_template--> [Time, " ", Client, " {", Backend, "}"]
//! ```

use thiserror::Error;

/// Fields of a line of the access log, in the order in which the `json` and `logfmt` formats write them: name, and what it is.
///
/// A value that a connection does not have (it was never queued, no backend was picked) is left out by `json` and `logfmt`, and
/// is `-` in a template. The configuration checks templates against it; [`AccessField`] has one variant for each row.
pub const ACCESS_FIELDS: &[(&str, &str)] = &[
    ("time", "when the connection ended, RFC 3339 in UTC"),
    ("service", "name of the service"),
    ("listener", "address of the listener, as configured"),
    (
        "client",
        "address of the client: the peer's, or that of the PROXY protocol header",
    ),
    ("client_port", "port of the client"),
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
        "milliseconds for connecting, all attempts together",
    ),
    (
        "first_byte_ms",
        "milliseconds from being connected to the backend's first byte",
    ),
    ("duration_ms", "milliseconds from accept to the end"),
    ("bytes_received", "bytes from the client to the backend"),
    ("bytes_sent", "bytes from the backend to the client"),
    (
        "end",
        "why the connection ended: `end` in order, `reset`, `bug`, else a `reason` of `evenkeel_service_failures_total`",
    ),
    ("end_by", "who ended it: `client`, `backend`, `balancer`"),
    (
        "end_phase",
        "in which phase it ended: `handshake`, `queue`, `connect`, `relay`",
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
}

impl AccessField {
    /// All of them, in the order of [`ACCESS_FIELDS`].
    pub const ALL: [Self; 23] = [
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
    ];

    /// Its name in templates and lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        ACCESS_FIELDS[self as usize].0
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
