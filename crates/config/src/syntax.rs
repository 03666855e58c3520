//! Syntax errors: all of them, in plain words.
//!
//! The reader (toml 1.2) goes on after most mistakes, but stops building tables at a key without a value, and takes what
//! follows an unclosed `[table` for a part of it; mistakes further down then stay hidden. So these two are repaired in a copy
//! and the copy is read again. Places are counted back to the text as written.

use std::collections::HashSet;

use toml::de::{DeTable, Error};

use crate::problem::{Span, clipped, shown};

/// Each round may bring up mistakes that were hidden by those before.
const ROUNDS_MAX: usize = 4;

/// Repairs in all; counting a place back looks at each.
const REPAIRS_MAX: usize = 256;

/// A copy of the text in which tables are closed and keys have values.
#[derive(Debug, Default)]
pub(crate) struct Repaired {
    pub(crate) text: String,
    /// Offset in `text` and length of what was put in, in order.
    inserted: Vec<(usize, usize)>,
}

/// A syntax error in the text as written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Syntax {
    pub(crate) span: Span,
    pub(crate) message: String,
}

impl Repaired {
    /// The place in the text as written.
    pub(crate) fn original(&self, span: Span) -> Span {
        Span::new(self.offset(span.start), self.offset(span.end))
    }

    fn offset(&self, offset: usize) -> usize {
        let before = self.inserted.iter().take_while(|(at, _)| *at < offset);
        let added: usize = before.map(|(at, length)| (*length).min(offset - at)).sum();
        offset - added
    }

    /// Puts `repairs`, which are in order, into `text`.
    fn insert(&mut self, text: &str, repairs: &[(usize, &str)]) {
        let mut out = String::with_capacity(text.len() + 8 * repairs.len());
        let mut inserted = Vec::with_capacity(self.inserted.len() + repairs.len());
        let mut old = self.inserted.iter().peekable();
        let (mut from, mut shift) = (0, 0);
        for (at, piece) in repairs {
            while let Some((place, length)) = old.next_if(|(place, _)| place < at) {
                inserted.push((place + shift, *length));
            }
            out.push_str(&text[from..*at]);
            from = *at;
            inserted.push((out.len(), piece.len()));
            out.push_str(piece);
            shift += piece.len();
        }
        inserted.extend(old.map(|(place, length)| (place + shift, *length)));
        out.push_str(&text[from..]);
        self.text = out;
        self.inserted = inserted;
    }
}

/// All syntax errors, beginning with `errors` of the first reading, and the copy to take the tables from when `text` itself
/// hides some.
pub(crate) fn find(text: &str, errors: &[Error]) -> (Vec<Syntax>, Option<Repaired>) {
    let mut repaired = Repaired::default();
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    let mut repairs = take(errors, text, &repaired, &mut seen, &mut found);
    if repairs.is_empty() {
        return (found, None);
    }
    for round in 0..ROUNDS_MAX {
        repairs.truncate(REPAIRS_MAX - repaired.inserted.len());
        if repairs.is_empty() {
            break;
        }
        let before = match round {
            0 => text.to_owned(),
            _ => std::mem::take(&mut repaired.text),
        };
        repaired.insert(&before, &repairs);
        let (_, errors) = DeTable::parse_recoverable(&repaired.text);
        repairs = take(&errors, &repaired.text, &repaired, &mut seen, &mut found);
    }
    (found, Some(repaired))
}

/// Adds what is new in `errors`, found in `text`, to `found`; returns what would repair them.
fn take(
    errors: &[Error],
    text: &str,
    repaired: &Repaired,
    seen: &mut HashSet<Syntax>,
    found: &mut Vec<Syntax>,
) -> Vec<(usize, &'static str)> {
    let mut repairs = Vec::new();
    for error in errors {
        let span: Span = error.span().unwrap_or_default().into();
        let syntax = Syntax {
            span: repaired.original(span),
            message: error.message().to_owned(),
        };
        if !seen.insert(syntax.clone()) {
            continue;
        }
        found.push(syntax);
        let Some(before) = text.get(..span.start) else {
            continue;
        };
        let repair = match error.message().split(", ").next() {
            Some("unclosed table") => Some("]"),
            Some("unclosed array table") if before.ends_with(']') => Some("]"),
            Some("unclosed array table") => Some("]]"),
            Some("key with no value") => Some(" = 0"),
            _ => None,
        };
        repairs.extend(repair.map(|repair| (span.start, repair)));
    }
    repairs.sort_unstable();
    repairs.dedup_by_key(|(at, _)| *at);
    repairs
}

/// Place, message and what would be right, in words for people who do not read grammars.
pub(crate) fn explain(text: &str, syntax: &Syntax) -> (Span, String, String) {
    let mut span = syntax.span;
    // What is missing at the end of the file is missing after its last character.
    if span.start >= text.len() {
        let end = text.trim_end().len();
        span = Span::new(end, end);
    }
    let (message, expected) = match syntax.message.split_once(", expected ") {
        Some((message, expected)) => (message, expected),
        None => (syntax.message.as_str(), ""),
    };
    let piece = text.get(span.start..span.end).unwrap_or("").trim();
    let is_scalar = message == "string values must be quoted"
        || message.starts_with("invalid float")
        || message.starts_with("invalid integer")
        || message.starts_with("invalid date")
        || message.starts_with("unexpected leading zero");
    match message {
        "duplicate key" => (
            span,
            format!("duplicate key {}", shown(piece)),
            "each key and each table is written once; remove or rename one of them".to_owned(),
        ),
        "string values must be quoted" if piece.is_empty() => (
            span,
            "missing value".to_owned(),
            "write a value after the `=`, or remove the line".to_owned(),
        ),
        _ if is_scalar => {
            let span = word(text, span);
            let piece = text.get(span.start..span.end).unwrap_or("");
            let help = match piece.to_ascii_lowercase().as_str() {
                "yes" | "on" | "true" | "no" | "off" | "false" => {
                    "write `true` or `false`".to_owned()
                }
                _ => format!("write `\"{}\"`", clipped(piece)),
            };
            (span, "string values must be quoted".to_owned(), help)
        }
        "key with no value" => (span, message.to_owned(), "write `key = value`".to_owned()),
        "invalid basic string" | "invalid literal string"
            if matches!(expected, "`\"`" | "'`'" | "`'`") =>
        {
            let help = format!("add `{}`", expected.trim_matches('`'));
            (span, "the string is not closed".to_owned(), help)
        }
        _ if expected.is_empty() || expected == "nothing" => {
            (span, message.to_owned(), String::new())
        }
        _ => {
            let help = match expected.contains(", ") {
                true => format!("expected one of {expected}"),
                false => format!("expected {expected}"),
            };
            (span, message.to_owned(), help)
        }
    }
}

/// The unquoted word that `span` is a part of.
fn word(text: &str, span: Span) -> Span {
    let ends = |c: char| {
        c.is_whitespace() || matches!(c, '=' | ',' | '[' | ']' | '{' | '}' | '#' | '"' | '\'')
    };
    let before = text.get(..span.start).unwrap_or("");
    let after = text.get(span.start..).unwrap_or("");
    let start = before.rfind(ends).map_or(0, |at| {
        at + before[at..].chars().next().map_or(1, char::len_utf8)
    });
    let length = after.find(ends).unwrap_or(after.len());
    Span::new(start, (span.start + length).max(span.end.min(text.len())))
}
