//! From a record to a line.
//!
//! A format is compiled once into steps, each a piece of constant text and a field, so that a line is written by one pass
//! over them, without allocation once the buffer has grown.

use evenkeel_plan::{AccessField, AccessFormat, TemplateError, TemplatePart, parse_template};

use super::record::{Phase, Record};
use crate::digits;
use crate::text::{CUT_MARK, LINE_BYTES_MAX, is_safe};

/// Bytes of a name that are shown. Names of the plan are shorter; the limit keeps any line within its own.
const NAME_SHOWN_MAX: usize = 256;

/// Three texts, each byte escaped in six, beside at most 1 KiB of everything else.
const _: () = assert!(3 * 6 * NAME_SHOWN_MAX + 1_024 < LINE_BYTES_MAX);

/// Writes records in one format.
///
/// `json` is one object a line with numbers as numbers, `logfmt` is `key=value` pairs; both have the fields of
/// [`evenkeel_plan::ACCESS_FIELDS`] in that order and leave out what a connection does not have. In a template that is `-`.
/// Milliseconds have three decimals. No line is longer than [`LINE_BYTES_MAX`]; only a template can ask for more, and is cut.
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
    /// After the last field, with the line feed.
    tail: Vec<u8>,
    dialect: Dialect,
}

#[derive(Clone, Debug)]
struct Step {
    /// What stands before the value.
    before: Vec<u8>,
    field: AccessField,
    /// What stands after it.
    after: &'static [u8],
}

/// What becomes of a value that is absent, or that is not made of plain characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    Json,
    Logfmt,
    Text,
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
        match &self.shape {
            Shape::Human => false,
            Shape::Steps(steps) => {
                let mut fields = steps.steps.iter().map(|step| step.field);
                fields.any(|field| field == AccessField::Source)
            }
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
        let quote = if is_number(field) { "" } else { "\"" };
        Step {
            before: format!("{open}\"{}\":{quote}", field.name()).into_bytes(),
            field,
            after: quote.as_bytes(),
        }
    };
    Steps {
        steps: AccessField::ALL.into_iter().enumerate().map(step).collect(),
        tail: b"}\n".to_vec(),
        dialect: Dialect::Json,
    }
}

fn logfmt() -> Steps {
    let step = |(index, field): (usize, AccessField)| {
        let space = if index == 0 { "" } else { " " };
        Step {
            before: format!("{space}{}=", field.name()).into_bytes(),
            field,
            after: b"",
        }
    };
    Steps {
        steps: AccessField::ALL.into_iter().enumerate().map(step).collect(),
        tail: b"\n".to_vec(),
        dialect: Dialect::Logfmt,
    }
}

fn template(template: &str) -> Result<Steps, TemplateError> {
    let mut steps = Vec::new();
    let mut before = Vec::new();
    for part in parse_template(template)? {
        match part {
            TemplatePart::Literal(text) => before.extend_from_slice(text.as_bytes()),
            TemplatePart::Field(field) => steps.push(Step {
                before: std::mem::take(&mut before),
                field,
                after: b"",
            }),
        }
    }
    before.push(b'\n');
    Ok(Steps {
        steps,
        tail: before,
        dialect: Dialect::Text,
    })
}

impl Steps {
    fn line(&self, out: &mut Vec<u8>, record: &Record<'_>) {
        let start = out.len();
        for step in &self.steps {
            let before = out.len();
            out.extend_from_slice(&step.before);
            if value(out, record, step.field, self.dialect) {
                out.extend_from_slice(step.after);
            } else if self.dialect == Dialect::Text {
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

/// Whether a JSON line has the field as a number.
fn is_number(field: AccessField) -> bool {
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
        | F::BytesSent => true,
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
        | F::EndPhase => false,
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
    }
    true
}

fn present<T>(value: Option<T>, write: impl FnOnce(T)) -> bool {
    value.map(write).is_some()
}

/// Appends a name. Names of the plan are plain and go the first way.
fn name(out: &mut Vec<u8>, text: &str, dialect: Dialect) {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if !text.is_empty() && text.len() <= NAME_SHOWN_MAX && text.bytes().all(plain) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    let text = &text[..text.floor_char_boundary(NAME_SHOWN_MAX)];
    let quote = dialect != Dialect::Json;
    out.extend_from_slice(if quote { b"\"" } else { b"" });
    for c in text.chars() {
        let code = u32::from(c);
        match c {
            '"' | '\\' => out.extend_from_slice(&[b'\\', u8::try_from(code).unwrap_or(b'?')]),
            c if is_safe(c) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            _ if quote => out.extend_from_slice(format!("\\u{{{code:x}}}").as_bytes()),
            _ => out.extend_from_slice(format!("\\u{code:04x}").as_bytes()),
        }
    }
    out.extend_from_slice(if quote { b"\"" } else { b"" });
}

/// `2026-11-20T14:36:18.123Z api 192.0.2.7:51234 -> b1 10.0.0.2:5000 connect 0.2ms first 1.1ms total 35ms in 1.2kB out 88kB
/// ended by client`: what is absent is left out, and so is what goes without saying.
fn human(out: &mut Vec<u8>, record: &Record<'_>) {
    digits::time(out, record.ended());
    out.push(b' ');
    name(out, record.service, Dialect::Text);
    out.push(b' ');
    digits::address(out, record.client);
    if record.client != record.peer {
        out.extend_from_slice(b" via ");
        digits::address(out, record.peer);
    }
    out.extend_from_slice(b" -> ");
    name(out, record.backend.unwrap_or("-"), Dialect::Text);
    if let Some(endpoint) = record.endpoint {
        out.push(b' ');
        digits::address(out, endpoint);
    }
    if record.attempts > 1 {
        out.extend_from_slice(b" attempts ");
        digits::number(out, u64::from(record.attempts));
    }
    for (word, micros) in [
        (" handshake ", record.handshake_us),
        (" queue ", record.queue_us),
        (" connect ", record.connect_us),
        (" first ", record.first_byte_us),
        (" total ", Some(record.duration_us)),
    ] {
        if let Some(micros) = micros {
            out.extend_from_slice(word.as_bytes());
            span(out, micros);
        }
    }
    for (word, bytes) in [
        (" in ", record.bytes_received),
        (" out ", record.bytes_sent),
    ] {
        out.extend_from_slice(word.as_bytes());
        size(out, bytes);
    }
    out.extend_from_slice(b" ended by ");
    out.extend_from_slice(record.end.by.word().as_bytes());
    if record.end.phase != Phase::Relay {
        out.extend_from_slice(b" in ");
        out.extend_from_slice(record.end.phase.word().as_bytes());
    }
    if record.end.reason != "end" {
        out.extend_from_slice(b": ");
        name(out, record.end.reason, Dialect::Text);
    }
    out.push(b'\n');
}

/// Microseconds for reading: `85us`, `0.8ms`, `35ms`, `12.3s`, `3600s`. Cut, not rounded.
fn span(out: &mut Vec<u8>, micros: u64) {
    match micros {
        0..100 => with_unit(out, micros, b"us"),
        100..10_000 => with_tenth(out, micros / 100, b"ms"),
        10_000..10_000_000 => with_unit(out, micros / 1_000, b"ms"),
        10_000_000..1_000_000_000 => with_tenth(out, micros / 100_000, b"s"),
        _ => with_unit(out, micros / 1_000_000, b"s"),
    }
}

/// Bytes for reading, in powers of 1,000: `640B`, `1.2kB`, `88kB`. Cut, not rounded.
fn size(out: &mut Vec<u8>, bytes: u64) {
    let units: [&[u8]; 7] = [b"B", b"kB", b"MB", b"GB", b"TB", b"PB", b"EB"];
    let mut unit = 0;
    let mut scale = 1_u64;
    while bytes / scale >= 1_000 {
        scale *= 1_000;
        unit += 1;
    }
    if unit > 0 && bytes / scale < 10 {
        with_tenth(out, bytes / (scale / 10), units[unit]);
    } else {
        with_unit(out, bytes / scale, units[unit]);
    }
}

fn with_unit(out: &mut Vec<u8>, n: u64, unit: &[u8]) {
    digits::number(out, n);
    out.extend_from_slice(unit);
}

fn with_tenth(out: &mut Vec<u8>, tenths: u64, unit: &[u8]) {
    digits::number(out, tenths / 10);
    out.push(b'.');
    with_unit(out, tenths % 10, unit);
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
