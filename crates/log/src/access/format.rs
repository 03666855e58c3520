//! From a record to a line.
//!
//! A format is compiled once into steps, each a piece of constant text and a field, so that a line is written by one pass
//! over them, without allocation once the buffer has grown.

use evenkeel_plan::{AccessField, AccessFormat, TemplateError, TemplatePart, parse_template};

use super::escape::{self, Dialect};
use super::human::human;
use super::record::{HttpRecord, Record};
use crate::digits;
use crate::text::{CUT_MARK, LINE_BYTES_MAX};

/// Bytes of a name that are shown, as they are written. Names of the plan are shorter; the limit keeps any line within its own.
pub(super) const NAME_SHOWN_MAX: usize = 256;

/// Of a method. Those that are understood at all have 32 bytes at most.
pub(super) const METHOD_SHOWN_MAX: usize = 64;

/// Of a host: a name has 253 bytes at most.
pub(super) const HOST_SHOWN_MAX: usize = 320;

/// Of a path, and of a query.
pub(super) const PATH_SHOWN_MAX: usize = 2_048;

/// Of the id of a request.
const REQUEST_ID_SHOWN_MAX: usize = 256;

/// Of `User-Agent` and `Referer`.
const AGENT_SHOWN_MAX: usize = 1_024;

/// All texts that `json`, `logfmt` and `human` show, beside at most 2 KiB of everything else.
const _: () = assert!(
    3 * NAME_SHOWN_MAX
        + METHOD_SHOWN_MAX
        + HOST_SHOWN_MAX
        + PATH_SHOWN_MAX
        + REQUEST_ID_SHOWN_MAX
        + 2_048
        < LINE_BYTES_MAX
);

/// Writes records in one format.
///
/// `json` is one object a line with numbers as numbers, `logfmt` is `key=value` pairs; both have the fields of
/// [`evenkeel_plan::ACCESS_FIELDS`] in that order, without those that only templates show, and leave out what a connection or
/// request does not have. In a template that is `-`. Milliseconds have three decimals. No line is longer than
/// [`LINE_BYTES_MAX`]; only a template can ask for more, and is cut.
#[derive(Clone, Debug)]
pub struct Formatter {
    shape: Shape,
}

#[derive(Clone, Debug)]
enum Shape {
    Human,
    Steps(Steps),
}

#[derive(Clone, Debug)]
struct Steps {
    steps: Vec<Step>,
    /// So many of them, from the first, may have a value where there is no request.
    of_connections: usize,
    /// After the last field, with the line feed.
    tail: Vec<u8>,
    /// Fields that whoever makes records had better leave out unless they are asked for.
    shows: Shows,
}

#[derive(Clone, Debug)]
struct Step {
    /// What stands before the value.
    before: Vec<u8>,
    field: AccessField,
    dialect: Dialect,
    /// What stands after it.
    after: &'static [u8],
}

/// What of that which costs something to know, or had better not be known, lines show.
#[derive(Clone, Copy, Debug, Default)]
struct Shows {
    source: bool,
    query: bool,
    agents: bool,
}

impl Shows {
    fn of(steps: &[Step]) -> Self {
        let has = |field| steps.iter().any(|step| step.field == field);
        Self {
            source: has(AccessField::Source),
            query: has(AccessField::Query),
            agents: has(AccessField::UserAgent) || has(AccessField::Referer),
        }
    }
}

impl Formatter {
    /// A formatter for `format`; `None` when it says that there is no access log.
    ///
    /// # Errors
    /// When `format` is a template with an error in it. The configuration has refused it by the same parser.
    pub fn new(format: &AccessFormat) -> Result<Option<Self>, TemplateError> {
        let shape = match format {
            AccessFormat::Off => return Ok(None),
            AccessFormat::Human => Shape::Human,
            AccessFormat::Json => Shape::Steps(json()),
            AccessFormat::Logfmt => Shape::Steps(logfmt()),
            AccessFormat::Template(template) => Shape::Steps(self::template(template)?),
        };
        Ok(Some(Self { shape }))
    }

    /// Whether lines show [`Record::source`], which takes a system call to know.
    #[must_use]
    pub fn wants_source(&self) -> bool {
        self.shows().source
    }

    /// Whether lines show [`HttpRecord::query`].
    #[must_use]
    pub fn wants_query(&self) -> bool {
        self.shows().query
    }

    /// Whether lines show [`HttpRecord::user_agent`] or [`HttpRecord::referer`].
    #[must_use]
    pub fn wants_agents(&self) -> bool {
        self.shows().agents
    }

    fn shows(&self) -> Shows {
        match &self.shape {
            Shape::Human => Shows::default(),
            Shape::Steps(steps) => steps.shows,
        }
    }

    /// Appends the line for `record` to `out`, line feed included, at most [`LINE_BYTES_MAX`] bytes.
    pub fn line(&self, out: &mut Vec<u8>, record: &Record<'_>) {
        match &self.shape {
            Shape::Human => human(out, record),
            Shape::Steps(steps) => steps.line(out, record),
        }
    }
}

fn json() -> Steps {
    let step = |(index, field): (usize, AccessField)| {
        let open = if index == 0 { "{" } else { "," };
        let quote = if is_bare(field) { "" } else { "\"" };
        Step {
            before: format!("{open}\"{}\":{quote}", field.name()).into_bytes(),
            field,
            dialect: Dialect::Json,
            after: quote.as_bytes(),
        }
    };
    Steps::keyed(shown().enumerate().map(step).collect(), b"}\n")
}

fn logfmt() -> Steps {
    let step = |(index, field): (usize, AccessField)| {
        let space = if index == 0 { "" } else { " " };
        Step {
            before: format!("{space}{}=", field.name()).into_bytes(),
            field,
            dialect: Dialect::Logfmt,
            after: b"",
        }
    };
    Steps::keyed(shown().enumerate().map(step).collect(), b"\n")
}

/// Fields of `json` and `logfmt`.
fn shown() -> impl Iterator<Item = AccessField> {
    let all = AccessField::ALL.into_iter();
    all.filter(|field| !field.is_for_templates_only())
}

fn template(template: &str) -> Result<Steps, TemplateError> {
    let mut steps = Vec::new();
    let mut before = Vec::new();
    // `"{user_agent}"`: the quotes are there.
    let mut dialect = Dialect::Template;
    for part in parse_template(template)? {
        match part {
            TemplatePart::Literal(text) => {
                if text.bytes().filter(|b| *b == b'"').count() % 2 == 1 {
                    dialect = match dialect {
                        Dialect::Quoted => Dialect::Template,
                        _ => Dialect::Quoted,
                    };
                }
                before.extend_from_slice(text.as_bytes());
            }
            TemplatePart::Field(field) => steps.push(Step {
                before: std::mem::take(&mut before),
                field,
                dialect,
                after: b"",
            }),
        }
    }
    before.push(b'\n');
    Ok(Steps {
        of_connections: steps.len(),
        tail: before,
        shows: Shows::of(&steps),
        steps,
    })
}

impl Steps {
    /// Of fields that are left out with their keys where they are absent.
    fn keyed(steps: Vec<Step>, tail: &[u8]) -> Self {
        let of_connections = steps.partition_point(|step| !step.field.is_of_requests());
        Self {
            of_connections,
            tail: tail.to_vec(),
            shows: Shows::of(&steps),
            steps,
        }
    }

    fn line(&self, out: &mut Vec<u8>, record: &Record<'_>) {
        let start = out.len();
        let steps = match record.http {
            Some(_) => &self.steps[..],
            None => &self.steps[..self.of_connections],
        };
        for step in steps {
            let before = out.len();
            out.extend_from_slice(&step.before);
            if value(out, record, step.field, step.dialect) {
                out.extend_from_slice(step.after);
            } else if step.dialect.has_dashes() {
                out.push(b'-');
            } else {
                out.truncate(before);
            }
        }
        out.extend_from_slice(&self.tail);
        if out.len() - start > LINE_BYTES_MAX {
            cut(out, start);
        }
    }
}

/// Shortens the line from `start` on to its limit, mark and line feed included.
fn cut(out: &mut Vec<u8>, start: usize) {
    let mut end = start + LINE_BYTES_MAX - CUT_MARK.len() - 1;
    // Not inside of a character: its further bytes are 10xxxxxx.
    while out[end] & 0b1100_0000 == 0b1000_0000 {
        end -= 1;
    }
    out.truncate(end);
    out.extend_from_slice(CUT_MARK.as_bytes());
    out.push(b'\n');
}

/// Whether a JSON line has the field without quotes: a number, or a truth value.
fn is_bare(field: AccessField) -> bool {
    use AccessField as F;
    match field {
        F::ClientPort
        | F::PeerPort
        | F::Worker
        | F::Attempts
        | F::HandshakeMs
        | F::QueueMs
        | F::ConnectMs
        | F::FirstByteMs
        | F::DurationMs
        | F::BytesReceived
        | F::BytesSent
        | F::Status
        | F::Route
        | F::Request
        | F::Reused
        | F::HeadMs => true,
        F::Time
        | F::Service
        | F::Listener
        | F::Client
        | F::Peer
        | F::Backend
        | F::Endpoint
        | F::Source
        | F::Id
        | F::End
        | F::EndBy
        | F::EndPhase
        | F::Method
        | F::Host
        | F::Path
        | F::Query
        | F::Version
        | F::RequestId
        | F::UserAgent
        | F::Referer
        | F::Compressed => false,
    }
}

/// Appends the value of `field`; `false` when the record has none.
fn value(out: &mut Vec<u8>, record: &Record<'_>, field: AccessField, dialect: Dialect) -> bool {
    use AccessField as F;
    match field {
        F::Time => digits::time(out, record.ended()),
        F::Service => name(out, record.service, dialect),
        F::Listener => digits::address(out, record.listener),
        F::Client => digits::ip(out, record.client.ip()),
        F::ClientPort => digits::number(out, u64::from(record.client.port())),
        F::Peer => digits::ip(out, record.peer.ip()),
        F::PeerPort => digits::number(out, u64::from(record.peer.port())),
        F::Backend => return present(record.backend, |text| name(out, text, dialect)),
        F::Endpoint => return present(record.endpoint, |at| digits::address(out, at)),
        F::Source => return present(record.source, |at| digits::address(out, at)),
        F::Worker => digits::number(out, u64::from(record.worker)),
        F::Id => digits::id(out, record.id),
        F::Attempts => digits::number(out, u64::from(record.attempts)),
        F::HandshakeMs => return present(record.handshake_us, |us| digits::millis(out, us)),
        F::QueueMs => return present(record.queue_us, |us| digits::millis(out, us)),
        F::ConnectMs => return present(record.connect_us, |us| digits::millis(out, us)),
        F::FirstByteMs => return present(record.first_byte_us, |us| digits::millis(out, us)),
        F::DurationMs => digits::millis(out, record.duration_us),
        F::BytesReceived => digits::number(out, record.bytes_received),
        F::BytesSent => digits::number(out, record.bytes_sent),
        F::End => name(out, record.end.reason, dialect),
        F::EndBy => out.extend_from_slice(record.end.by.word().as_bytes()),
        F::EndPhase => out.extend_from_slice(record.end.phase.word().as_bytes()),
        F::Reused => {
            let reused = record.http.as_ref().map(|http| http.reused);
            let reused = reused.filter(|_| record.backend.is_some());
            let word = |reused| if reused { "true" } else { "false" };
            return present(reused, |is| out.extend_from_slice(word(is).as_bytes()));
        }
        F::Method
        | F::Host
        | F::Path
        | F::Query
        | F::Version
        | F::Status
        | F::Route
        | F::RequestId
        | F::UserAgent
        | F::Referer
        | F::Request
        | F::HeadMs
        | F::Compressed => {
            let http = record.http.as_ref();
            return http.is_some_and(|http| request_value(out, http, field, dialect));
        }
    }
    true
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the only caller has the fields of records above"
)]
fn request_value(
    out: &mut Vec<u8>,
    http: &HttpRecord<'_>,
    field: AccessField,
    dialect: Dialect,
) -> bool {
    use AccessField as F;
    let (text, bytes_max) = match field {
        F::Method => (is_there(http.method), METHOD_SHOWN_MAX),
        F::Host => (http.host, HOST_SHOWN_MAX),
        F::Path => (is_there(http.path), PATH_SHOWN_MAX),
        F::Query => (http.query, PATH_SHOWN_MAX),
        F::Version => (is_there(http.version), NAME_SHOWN_MAX),
        F::RequestId => (http.request_id, REQUEST_ID_SHOWN_MAX),
        F::Compressed => (http.compressed, NAME_SHOWN_MAX),
        F::Status => return number(out, http.status.map(u64::from)),
        F::Route => return number(out, http.route.map(u64::from)),
        F::Request => return number(out, Some(u64::from(http.number))),
        F::HeadMs => return present(http.head_us, |us| digits::millis(out, us)),
        F::UserAgent => return agent(out, http.user_agent, dialect),
        F::Referer => return agent(out, http.referer, dialect),
        _ => return false,
    };
    present(text, |text| escape::text(out, text, bytes_max, dialect))
}

fn present<T>(value: Option<T>, write: impl FnOnce(T)) -> bool {
    value.map(write).is_some()
}

/// What is empty where it could not be known.
pub(super) fn is_there(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn number(out: &mut Vec<u8>, value: Option<u64>) -> bool {
    present(value, |value| digits::number(out, value))
}

fn agent(out: &mut Vec<u8>, value: Option<&[u8]>, dialect: Dialect) -> bool {
    present(value, |raw| {
        escape::bytes(out, raw, AGENT_SHOWN_MAX, dialect);
    })
}

/// Appends a name.
pub(super) fn name(out: &mut Vec<u8>, text: &str, dialect: Dialect) {
    escape::text(out, text, NAME_SHOWN_MAX, dialect);
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
