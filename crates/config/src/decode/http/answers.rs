//! Decoding of answers of the daemon itself, and of which answers are compressed.

use evenkeel_plan::http::{AnswerFormat, AnswerPageSpec, AnswersSpec, Coding, CompressionSpec};
use toml::de::DeValue;

use super::super::traffic::{unless_zero, whole_seconds};
use super::route::body;
use super::text::{changeable, field_value, media_type, read, some};
use crate::fields::{Fields, Node, article, integer_of};
use crate::problem::{Sink, shown};
use crate::schema::Section;
use crate::suggest::unknown_word;

/// Most pages of one listener, and most statuses of one page.
const PAGES_MAX: usize = 64;

/// Longest word for who answers, in bytes.
const SERVER_BYTES_MAX: usize = 256;

/// Most types of answers.
const TYPES_MAX: usize = 64;

/// Words of [`AnswerFormat`], as `default` of the answers has them.
const FORMATS: [(&str, AnswerFormat); 3] = [
    ("json", AnswerFormat::Json),
    ("html", AnswerFormat::Html),
    ("text", AnswerFormat::Text),
];

/// Words of [`Coding`].
const CODINGS: [Coding; 3] = [Coding::Zstd, Coding::Br, Coding::Gzip];

/// Most entries of `codings`.
const CODINGS_MAX: usize = 16;

pub(super) fn answers(http: &Fields<'_>, sink: &mut Sink<'_>) -> AnswersSpec {
    let usual = AnswersSpec::default();
    let Some(fields) = http.section("answers", Section::HttpAnswers, sink) else {
        return usual;
    };
    let default = format_of(fields.choice("default", sink)).unwrap_or_default();
    let retry_after = fields.duration("retry_after", sink);
    AnswersSpec {
        default,
        server: read(&fields, "server", sink, server).unwrap_or(usual.server),
        pages: read(&fields, "pages", sink, |node, sink| {
            some(node, PAGES_MAX, sink, |node, sink| {
                page(node, default, sink)
            })
        })
        .unwrap_or_default(),
        retry_after: unless_zero(whole_seconds(retry_after, "`Retry-After` counts", sink)),
        error_field: read(&fields, "error_field", sink, changeable),
    }
}

fn format_of(word: &str) -> Option<AnswerFormat> {
    let found = FORMATS.iter().find(|(known, _)| *known == word);
    found.map(|(_, format)| *format)
}

fn server(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<String> {
    let text = field_value(node, sink)?;
    let text = text.as_str();
    if text.is_empty() || text.len() > SERVER_BYTES_MAX {
        let message = format!("a text of {} bytes is out of range", text.len());
        node.error(sink, message, format!("from 1 to {SERVER_BYTES_MAX}"));
        return None;
    }
    Some(text.to_owned())
}

fn page(node: &Node<'_>, default: AnswerFormat, sink: &mut Sink<'_>) -> Option<AnswerPageSpec> {
    let fields = node.fields(Section::HttpPage, sink)?;
    let statuses = match fields.get("statuses") {
        None => Some(Vec::new()),
        Some(node) => some(&node, PAGES_MAX, sink, status),
    };
    let format = match fields.get("format") {
        None => Some(default),
        Some(node) => format(&node, sink),
    };
    let content_type = match fields.get("content_type") {
        None => Some(None),
        Some(node) => field_value(&node, sink).map(Some),
    };
    if fields.get("body").is_none() {
        let help = "write `body = \"<h1>{status} {title}</h1>\"`";
        sink.missing(node.at, &node.key, "a page without `body`", help);
    }
    Some(AnswerPageSpec {
        body: read(&fields, "body", sink, body)?,
        statuses: statuses?,
        format: format?,
        content_type: content_type?,
    })
}

fn status(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<u16> {
    let DeValue::Integer(number) = node.value else {
        let found = article(node.value);
        let message = format!("expected the integer of a status, found {found}");
        node.error(sink, message, "from 400 to 599");
        return None;
    };
    let status = integer_of(number).and_then(|number| u16::try_from(number).ok());
    let status = status.filter(|status| (400..=599).contains(status));
    if status.is_none() {
        let number = shown(number.as_str());
        let number = number.trim_matches('`');
        let message = format!("{number} is not the status of an answer of the daemon itself");
        node.error(sink, message, "from 400 to 599");
    }
    status
}

fn format(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<AnswerFormat> {
    let text = node.text(sink, "\"html\"")?;
    let found = format_of(text);
    if found.is_none() {
        unknown_word(node, "format", text, &FORMATS.map(|(word, _)| word), sink);
    }
    found
}

pub(super) fn compression(http: &Fields<'_>, sink: &mut Sink<'_>) -> CompressionSpec {
    let usual = CompressionSpec::default();
    let Some(fields) = http.section("compression", Section::HttpCompression, sink) else {
        return usual;
    };
    if fields.get("codings").is_none() {
        let message = "nothing is compressed: there are no `codings`";
        let help = "write `codings = [\"zstd\", \"br\", \"gzip\"]`, or leave the table out";
        sink.missing(fields.at, &fields.key, message, help);
    }
    let codings = read(&fields, "codings", sink, |node, sink| {
        let codings = some(node, CODINGS_MAX, sink, coding)?;
        let twice = |(index, coding): (usize, &Coding)| codings[..index].contains(coding);
        if codings.iter().enumerate().any(twice) {
            node.error(sink, "a coding is there twice", "keep the first");
        }
        Some(codings)
    });
    CompressionSpec {
        codings: codings.unwrap_or_default(),
        types: read(&fields, "types", sink, |node, sink| {
            some(node, TYPES_MAX, sink, compressed_type)
        })
        .unwrap_or(usual.types),
        min_bytes: fields.size("min_bytes", sink).value,
    }
}

fn coding(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<Coding> {
    let text = node.text(sink, "\"gzip\"")?;
    let found = CODINGS.into_iter().find(|coding| coding.as_str() == text);
    if found.is_none() {
        unknown_word(node, "coding", text, &CODINGS.map(Coding::as_str), sink);
    }
    found
}

fn compressed_type(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<String> {
    let text = media_type(node, sink)?;
    if text == "text/event-stream" {
        let message = "`text/event-stream` is never compressed: events would be held back";
        node.error(sink, message, "leave it out");
        return None;
    }
    Some(text)
}
