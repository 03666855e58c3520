//! Problems: collected with byte spans while reading, turned into lines and columns once at the end.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use evenkeel_plan::Spec;
use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError,
    MietteSpanContents, SourceCode, SourceSpan, SpanContents,
};
use serde::Serialize;

use crate::Loaded;
use crate::syntax::{self, Repaired, Syntax};

/// More problems than this are counted, not listed.
pub const PROBLEMS_MAX: usize = 1_000;

/// Characters of a source line that are shown to either side of the place.
const EXCERPT_CHARS_MAX: usize = 80;

/// Characters of a piece of the user's text that are repeated in a message.
const SHOWN_CHARS_MAX: usize = 60;

/// One mistake, or something that is probably not meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file, as it was named to the program.
    pub path: String,
    /// 1-based; 0 = the file as a whole.
    pub line: usize,
    /// In characters, 1-based; 0 = the file as a whole.
    pub column: usize,
    /// The dotted key, such as `services.web.listen`; may be empty.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub help: Option<String>,
}

impl Problem {
    /// A problem with the file as a whole.
    pub(crate) fn whole_file(path: &str, message: impl Into<String>, help: Option<&str>) -> Self {
        Self {
            path: path.to_owned(),
            line: 0,
            column: 0,
            key: String::new(),
            message: message.into(),
            help: help.map(str::to_owned),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            write!(f, "{}: {}", self.path, self.message)?;
        } else {
            let Self {
                path, line, column, ..
            } = self;
            write!(f, "{path}:{line}:{column}: {}", self.message)?;
        }
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

/// Every mistake of a configuration, in order of place. Displayed as a report with the source lines, without colour.
#[derive(Clone)]
pub struct ConfigErrors {
    problems: Vec<Problem>,
    /// Runs parallel to `problems`.
    excerpts: Vec<Option<Excerpt>>,
    /// Those beyond [`PROBLEMS_MAX`].
    omitted: usize,
}

impl ConfigErrors {
    /// A problem with the file as a whole.
    pub(crate) fn whole_file(path: &str, message: impl Into<String>, help: Option<&str>) -> Self {
        Self {
            problems: vec![Problem::whole_file(path, message, help)],
            excerpts: vec![None],
            omitted: 0,
        }
    }

    /// A problem at one place of `text`.
    pub(crate) fn at_offset(
        path: &str,
        text: &str,
        offset: usize,
        message: &str,
        help: &str,
    ) -> Self {
        let mut sink = Sink::new(text);
        sink.error(Span::new(offset, offset + 1), "", message, help);
        match sink.finish(path, None) {
            Err(errors) => errors,
            Ok(_) => unreachable!("the sink holds an error"),
        }
    }

    /// The problems in order of place; at least one, at most [`PROBLEMS_MAX`].
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The report: each problem with its source line and what would be right.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        let theme = if color {
            GraphicalTheme::unicode()
        } else {
            GraphicalTheme::unicode_nocolor()
        };
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_width(100)
            .with_links(false)
            .with_context_lines(1);
        let mut report = String::new();
        for (problem, excerpt) in self.problems.iter().zip(&self.excerpts) {
            let view = View {
                problem,
                excerpt: excerpt.as_ref(),
            };
            if handler.render_report(&mut report, &view).is_err() {
                report.push_str(&problem.to_string());
            }
            let end = report.trim_end_matches('\n').len();
            report.truncate(end);
            report.push_str("\n\n");
        }
        let count = self.problems.len() + self.omitted;
        if self.omitted > 0 {
            report.push_str(&format!("and {} more\n", self.omitted));
        }
        let noun = if count == 1 { "error" } else { "errors" };
        report.push_str(&format!("{count} {noun}\n"));
        report
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}

impl fmt::Debug for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.problems.iter().map(ToString::to_string))
            .finish()
    }
}

impl std::error::Error for ConfigErrors {}

/// Bytes of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Span {
    pub(crate) fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }
}

impl From<Range<usize>> for Span {
    fn from(range: Range<usize>) -> Self {
        Self::new(range.start, range.end)
    }
}

/// Where problems are put while reading.
#[derive(Debug)]
pub(crate) struct Sink<'a> {
    text: &'a str,
    /// Spans are of this copy.
    repaired: Option<&'a Repaired>,
    /// First byte of each line.
    lines: Vec<usize>,
    errors: Vec<Found>,
    warnings: Vec<Found>,
    notes: Vec<Found>,
    /// The text could not be read as TOML in full: parts of it may be missing from the tables.
    torn: bool,
    /// Lines with a syntax error; what else is found there follows from it.
    torn_lines: HashSet<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Found {
    span: Span,
    message: String,
    key: String,
    help: String,
}

impl<'a> Sink<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        let starts = text.bytes().enumerate().filter(|&(_, b)| b == b'\n');
        let lines = std::iter::once(0)
            .chain(starts.map(|(at, _)| at + 1))
            .collect();
        Self {
            text,
            repaired: None,
            lines,
            errors: Vec::new(),
            warnings: Vec::new(),
            notes: Vec::new(),
            torn: false,
            torn_lines: HashSet::new(),
        }
    }

    /// Takes the syntax errors, and the copy that the tables were read from where that is not the text itself.
    pub(crate) fn syntax(&mut self, found: &[Syntax], repaired: Option<&'a Repaired>) {
        self.repaired = repaired;
        for syntax in found {
            let (span, message, help) = syntax::explain(self.text, syntax);
            // With a duplicate both are in the tables or the second is left out: everything else still is as written.
            if !message.starts_with("duplicate") {
                self.torn = true;
                self.torn_lines.insert(self.line_as_written(span));
            }
            self.errors.push(Found {
                span,
                message,
                key: String::new(),
                help,
            });
        }
    }

    /// A mistake.
    pub(crate) fn error(
        &mut self,
        span: Span,
        key: &str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let span = self.as_written(span);
        let follows = self.torn && self.torn_lines.contains(&self.line_as_written(span));
        if !follows {
            self.errors.push(Found {
                span,
                message: message.into(),
                key: key.to_owned(),
                help: help.into(),
            });
        }
    }

    /// Something that is missing. Says nothing when the text is torn: it may be in the part that was not read.
    pub(crate) fn missing(
        &mut self,
        span: Span,
        key: &str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        if !self.torn {
            self.error(span, key, message, help);
        }
    }

    /// Something that is allowed but probably not meant.
    pub(crate) fn warning(
        &mut self,
        span: Span,
        key: &str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.warnings.push(Found {
            span: self.as_written(span),
            message: message.into(),
            key: key.to_owned(),
            help: help.into(),
        });
    }

    /// Something that is as it should be here, and needs something elsewhere.
    pub(crate) fn note(
        &mut self,
        span: Span,
        key: &str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.notes.push(Found {
            span: self.as_written(span),
            message: message.into(),
            key: key.to_owned(),
            help: help.into(),
        });
    }

    /// 1-based line of `span`, for messages that point at a second place.
    pub(crate) fn line(&self, span: Span) -> usize {
        self.line_as_written(self.as_written(span))
    }

    /// The outcome: `spec`, warnings and notes when there was no error.
    pub(crate) fn finish(self, path: &str, spec: Option<Spec>) -> Result<Loaded, ConfigErrors> {
        match spec {
            Some(spec) if self.errors.is_empty() => {
                let (warnings, _, _) = place(path, self.text, self.warnings);
                let (notes, _, _) = place(path, self.text, self.notes);
                Ok(Loaded {
                    spec,
                    warnings,
                    notes,
                })
            }
            _ => {
                assert!(!self.errors.is_empty(), "no spec without a reason");
                let (problems, excerpts, omitted) = place(path, self.text, self.errors);
                Err(ConfigErrors {
                    problems,
                    excerpts,
                    omitted,
                })
            }
        }
    }

    fn as_written(&self, span: Span) -> Span {
        self.repaired
            .map_or(span, |repaired| repaired.original(span))
    }

    fn line_as_written(&self, span: Span) -> usize {
        self.lines.partition_point(|&start| start <= span.start)
    }
}

/// Sorts, removes what was found twice, and turns spans into lines and columns.
fn place(
    path: &str,
    text: &str,
    mut found: Vec<Found>,
) -> (Vec<Problem>, Vec<Option<Excerpt>>, usize) {
    found.sort();
    found.dedup_by(|a, b| a.span == b.span && a.message == b.message);
    let omitted = found.len().saturating_sub(PROBLEMS_MAX);
    found.truncate(PROBLEMS_MAX);

    let mut problems = Vec::with_capacity(found.len());
    let mut excerpts = Vec::with_capacity(found.len());
    // Offsets rise, so that one walk over the text finds all places.
    let (mut at, mut line, mut line_start, mut column) = (0, 1, 0, 1);
    for Found {
        span,
        message,
        key,
        help,
    } in found
    {
        let start = floor_char(text, span.start);
        for (index, c) in text[at..start].char_indices() {
            if c == '\n' {
                line += 1;
                column = 1;
                line_start = at + index + 1;
            } else {
                column += 1;
            }
        }
        at = start;
        excerpts.push(Some(Excerpt::new(text, line_start, span, line, column)));
        problems.push(Problem {
            path: path.to_owned(),
            line,
            column,
            key,
            message,
            help: (!help.is_empty()).then_some(help),
        });
    }
    (problems, excerpts, omitted)
}

fn floor_char(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

/// `text` in backquotes for a message, clipped, control characters escaped.
pub(crate) fn shown(text: &str) -> String {
    if text.is_empty() {
        return "the empty text".to_owned();
    }
    format!("`{}`", clipped(text))
}

pub(crate) fn clipped(text: &str) -> String {
    let mut out = String::new();
    for (index, c) in text.chars().enumerate() {
        if index == SHOWN_CHARS_MAX {
            out.push('…');
            break;
        }
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// The source line of one problem, clipped, without control characters: it goes to a terminal.
#[derive(Clone, Debug)]
struct Excerpt {
    text: String,
    /// In `text`.
    mark: Range<usize>,
    line: usize,
    column: usize,
}

impl Excerpt {
    fn new(text: &str, line_start: usize, span: Span, line: usize, column: usize) -> Self {
        let start = floor_char(text, span.start);
        let before = &text[line_start..start];
        let after = &text[start..];
        let after = after.split('\n').next().unwrap_or("");
        let skipped = before
            .char_indices()
            .rev()
            .nth(EXCERPT_CHARS_MAX)
            .map_or(0, |(index, c)| index + c.len_utf8());
        let clean = |c: char| match c {
            '\t' => ' ',
            c if c.is_control() => '?',
            c => c,
        };

        let mut out = String::new();
        if skipped > 0 {
            out.push('…');
        }
        out.extend(before[skipped..].chars().map(clean));
        let mark_start = out.len();
        let mut mark_end = None;
        for (count, (index, c)) in after.trim_end().char_indices().enumerate() {
            if start + index >= span.end && mark_end.is_none() {
                mark_end = Some(out.len());
            }
            if count == EXCERPT_CHARS_MAX {
                out.push('…');
                break;
            }
            out.push(clean(c));
        }
        if mark_start == out.len() {
            // The place is the end of the line: there has to be something to mark.
            out.push(' ');
        }
        let mark_end = mark_end.unwrap_or(out.len()).max(mark_start + 1);
        Self {
            text: out,
            mark: mark_start..mark_end,
            line,
            column,
        }
    }
}

/// A problem as miette wants to see it.
#[derive(Debug)]
struct View<'a> {
    problem: &'a Problem,
    excerpt: Option<&'a Excerpt>,
}

impl fmt::Display for View<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.excerpt.is_none() {
            write!(f, "{}: ", self.problem.path)?;
        }
        f.write_str(&self.problem.message)
    }
}

impl std::error::Error for View<'_> {}

impl Diagnostic for View<'_> {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        let help = self.problem.help.as_ref()?;
        Some(Box::new(help))
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.excerpt.map(|_| self as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let mark = self.excerpt?.mark.clone();
        let label = LabeledSpan::new_primary_with_span(None, mark);
        Some(Box::new(std::iter::once(label)))
    }
}

impl SourceCode for View<'_> {
    fn read_span<'a>(
        &'a self,
        _span: &SourceSpan,
        _before: usize,
        _after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let excerpt = self.excerpt.ok_or(MietteError::OutOfBounds)?;
        Ok(Box::new(MietteSpanContents::new_named(
            self.problem.path.clone(),
            excerpt.text.as_bytes(),
            (0, excerpt.text.len()).into(),
            excerpt.line - 1,
            excerpt.column - 1,
            1,
        )))
    }
}
