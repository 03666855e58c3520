//! A record as one line of text: escaping, both formats, and the limit on its length.
//!
//! Whatever comes from outside (an answer of a backend, an address, a file name) may end up in a field. No character of
//! it reaches a terminal or ends a line: everything that is not printable is escaped.

use std::fmt::{self, Write as _};
use std::time::SystemTime;

use evenkeel_plan::LogFormat;
use tracing::Level;
use tracing::field::{Field, Visit};

use crate::time::Utc;

/// Longest line in bytes, its line feed included. A longer one is cut, and says so.
pub const LINE_BYTES_MAX: usize = 8 * 1024;

/// Kept free for what must follow a cut: the mark and the closing brackets.
const TAIL_BYTES: usize = 64;

/// What stands where a human-readable line was cut.
pub(crate) const CUT_MARK: &str = "...[cut]";

const _: () = assert!(CUT_MARK.len() + 16 < TAIL_BYTES);

/// What a line says besides its fields.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head<'a> {
    pub(crate) time: SystemTime,
    pub(crate) level: Level,
    pub(crate) source: &'a str,
    /// Begin with the journal's mark of the level, such as `<4>`.
    pub(crate) journal: bool,
}

/// Appends one line to the empty `out`: `head`, then what `record` says to the visitor, then a line feed.
pub(crate) fn line(
    out: &mut String,
    format: LogFormat,
    head: Head<'_>,
    record: impl FnOnce(&mut dyn Visit),
) {
    debug_assert!(out.is_empty(), "a line begins on an empty buffer");
    let mut fields = Fields::default();
    record(&mut fields);
    write_line(out, format, head, &fields);
}

/// Appends a line of the log about itself to the empty `out`: a count of lines, and why.
pub(crate) fn tally(
    out: &mut String,
    format: LogFormat,
    head: Head<'_>,
    message: &str,
    lines: u64,
    error: Option<&str>,
) {
    let mut fields = Fields {
        message: message.to_owned(),
        others: vec![("lines", Value::Bare(lines.to_string()))],
    };
    if let Some(error) = error {
        fields.others.push(("error", Value::Text(error.to_owned())));
    }
    write_line(out, format, head, &fields);
}

fn write_line(out: &mut String, format: LogFormat, head: Head<'_>, fields: &Fields) {
    if head.journal {
        out.push_str(journal_mark(head.level));
    }
    let mut whole = Bounded::new(out);
    let written = match format {
        LogFormat::Human => human(&mut whole, head, fields),
        LogFormat::Json => json(&mut whole, head, fields),
    };
    let cut = written.is_err();
    match format {
        LogFormat::Human if cut => out.push_str(CUT_MARK),
        LogFormat::Human => {}
        LogFormat::Json if cut => out.push_str(",\"cut\":true}"),
        LogFormat::Json => out.push('}'),
    }
    out.push('\n');
    debug_assert!(out.len() <= LINE_BYTES_MAX);
}

/// sd-daemon(3): the journal takes the level from the start of a line.
fn journal_mark(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        _ => "<7>",
    }
}

fn human(out: &mut Bounded<'_>, head: Head<'_>, fields: &Fields) -> fmt::Result {
    write!(out, "{} {} ", Utc(head.time), head.level)?;
    out.escaped(head.source)?;
    out.write_str(" ")?;
    out.escaped(&fields.message)?;
    for (name, value) in &fields.others {
        write!(out, " {name}=")?;
        match value {
            Value::Bare(text) => out.write_str(text)?,
            Value::Text(text) if is_bare(text) => out.escaped(text)?,
            Value::Text(text) => {
                out.write_str("\"")?;
                out.quoted(text)?;
                out.write_str("\"")?;
            }
        }
    }
    Ok(())
}

/// Ends before the closing brace. On a cut, a text that is open is closed, so that what follows is still JSON.
fn json(out: &mut Bounded<'_>, head: Head<'_>, fields: &Fields) -> fmt::Result {
    write!(
        out,
        "{{\"time\":\"{}\",\"level\":\"{}\",\"source\":",
        Utc(head.time),
        level_word(head.level)
    )?;
    out.json_text(head.source)?;
    out.write_str(",\"message\":")?;
    out.json_text(&fields.message)?;
    if fields.others.is_empty() {
        return Ok(());
    }
    out.write_str(",\"fields\":{")?;
    let written = json_fields(out, fields);
    out.close("}");
    written
}

fn json_fields(out: &mut Bounded<'_>, fields: &Fields) -> fmt::Result {
    for (index, (name, value)) in fields.others.iter().enumerate() {
        // A name without its value would not be JSON.
        let comma = if index == 0 { "" } else { "," };
        match value {
            Value::Bare(text) => out.piece(format_args!("{comma}\"{name}\":{text}"))?,
            Value::Text(text) => {
                out.reserve(comma.len() + name.len() + 8)?;
                write!(out, "{comma}\"{name}\":")?;
                out.json_text(text)?;
            }
        }
    }
    Ok(())
}

fn level_word(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

fn is_bare(text: &str) -> bool {
    !text.is_empty() && !text.contains([' ', '"', '=', '\\'])
}

/// Whether a character can be shown as it is: no control character of either kind, nothing that breaks a line elsewhere,
/// nothing that turns the direction of writing.
pub(crate) fn is_safe(c: char) -> bool {
    !c.is_control()
        && !matches!(
            c,
            '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{061c}'
        )
        && !matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A writer that takes no more than fits in a line, and takes each piece whole or not at all.
#[derive(Debug)]
struct Bounded<'a> {
    out: &'a mut String,
}

impl<'a> Bounded<'a> {
    fn new(out: &'a mut String) -> Self {
        Self { out }
    }

    /// Fails when `bytes` more do not fit.
    fn reserve(&self, bytes: usize) -> fmt::Result {
        if self.out.len() + bytes > LINE_BYTES_MAX - TAIL_BYTES {
            return Err(fmt::Error);
        }
        Ok(())
    }

    /// Appends what must follow even after a cut.
    fn close(&mut self, tail: &str) {
        self.out.push_str(tail);
    }

    fn escaped(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| match c {
            '\n' => self.write_str("\\n"),
            '\r' => self.write_str("\\r"),
            '\t' => self.write_str("\\t"),
            c if is_safe(c) => self.write_char(c),
            c => self.piece(format_args!("\\u{{{:x}}}", u32::from(c))),
        })
    }

    fn quoted(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| match c {
            '"' => self.write_str("\\\""),
            '\\' => self.write_str("\\\\"),
            c => self.escaped(c.encode_utf8(&mut [0; 4])),
        })
    }

    fn json_text(&mut self, text: &str) -> fmt::Result {
        self.write_str("\"")?;
        let written = text.chars().try_for_each(|c| match c {
            '"' => self.write_str("\\\""),
            '\\' => self.write_str("\\\\"),
            '\n' => self.write_str("\\n"),
            c if is_safe(c) => self.write_char(c),
            // Everything that is not safe is below 0x10000, so one escape is enough.
            c => self.piece(format_args!("\\u{:04x}", u32::from(c))),
        });
        self.close("\"");
        written
    }

    /// A formatted piece, whole or not at all.
    fn piece(&mut self, piece: fmt::Arguments<'_>) -> fmt::Result {
        let before = self.out.len();
        let written = self.write_fmt(piece);
        if written.is_err() {
            self.out.truncate(before);
        }
        written
    }
}

impl fmt::Write for Bounded<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.reserve(text.len())?;
        self.out.push_str(text);
        Ok(())
    }
}

/// The fields of a record, in the order in which they were written.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, Value)>,
}

#[derive(Debug)]
enum Value {
    /// A number or a truth value: needs neither quotes nor escapes.
    Bare(String),
    Text(String),
}

impl Fields {
    fn push(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::Bare(text) | Value::Text(text)) => self.message = text,
            (name, value) => self.others.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no word for what is not a number.
        self.push(
            field,
            if value.is_finite() {
                Value::Bare(value.to_string())
            } else {
                Value::Text(value.to_string())
            },
        );
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, Value::Bare(value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, Value::Bare(value.to_string()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, Value::Bare(value.to_string()));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, Value::Text(value.to_owned()));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        self.push(field, Value::Text(text));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, Value::Text(format!("{value:?}")));
    }
}
