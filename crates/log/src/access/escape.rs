//! Texts in lines: names, and what clients sent.
//!
//! A text is shown as it is where each of its characters is plain for the place that it stands in, and otherwise with
//! everything escaped that could end its place or the line, or move a terminal's cursor. None is longer than it may be.

use std::io::Write as _;

use crate::text::{CUT_MARK, is_safe};

/// The rules of the place that a value stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// In the quotes of JSON.
    Json,
    /// After `key=`.
    Logfmt,
    /// Bare in a template, whatever its author takes to tell fields apart.
    Template,
    /// In a template, between quotes that its author has written.
    Quoted,
    /// Between two blanks of a line for people.
    Human,
}

impl Dialect {
    /// Whether a text that is not plain gets quotes here.
    const fn quotes(self) -> bool {
        !matches!(self, Self::Json | Self::Quoted)
    }

    /// Whether a dash means that there is no value.
    pub(super) const fn has_dashes(self) -> bool {
        !matches!(self, Self::Json | Self::Logfmt)
    }

    /// Whether all of `raw` is plain here.
    fn is_plain(self, raw: &[u8]) -> bool {
        match self {
            Self::Json | Self::Quoted => all(raw, in_quotes),
            Self::Human => all(raw, in_words),
            Self::Logfmt => all(raw, |b| in_words(b) & (b != b'=')),
            Self::Template => all(raw, |b| in_words(b) & !is_between_fields(b)),
        }
    }
}

/// Whether all bytes are so: without a branch a byte, so that many can be looked at together.
fn all(raw: &[u8], is: impl Fn(u8) -> bool) -> bool {
    raw.iter().fold(true, |all, b| all & is(*b))
}

fn in_quotes(b: u8) -> bool {
    (b' '..=b'~').contains(&b) & (b != b'"') & (b != b'\\')
}

fn in_words(b: u8) -> bool {
    in_quotes(b) & (b != b' ')
}

/// What templates are likely to have there.
fn is_between_fields(b: u8) -> bool {
    b",;|'`()[]{}<>"
        .iter()
        .fold(false, |any, mark| any | (b == *mark))
}

/// Appends `text`, at most `bytes_max` bytes and its quotes; a longer one is cut, and says so.
pub(super) fn text(out: &mut Vec<u8>, text: &str, bytes_max: usize, dialect: Dialect) {
    bytes(out, text.as_bytes(), bytes_max, dialect);
}

/// The same for what need not be UTF-8.
pub(super) fn bytes(out: &mut Vec<u8>, raw: &[u8], bytes_max: usize, dialect: Dialect) {
    let is_sign = dialect.quotes() && (raw.is_empty() || raw == b"-");
    if raw.len() <= bytes_max && !is_sign && dialect.is_plain(raw) {
        out.extend_from_slice(raw);
        return;
    }
    let quote: &[u8] = if dialect.quotes() { b"\"" } else { b"" };
    out.extend_from_slice(quote);
    escaped(out, raw, bytes_max, dialect);
    out.extend_from_slice(quote);
}

fn escaped(out: &mut Vec<u8>, raw: &[u8], bytes_max: usize, dialect: Dialect) {
    let start = out.len();
    // As far as it may go if the mark is to follow.
    let mut cut_at = start;
    for chunk in raw.utf8_chunks() {
        let valid = chunk.valid().chars().map(Ok);
        let invalid = chunk.invalid().iter().map(|byte| Err(*byte));
        for piece in valid.chain(invalid) {
            match piece {
                Ok(c) => character(out, c, dialect),
                // JSON has no word for what is no character.
                Err(_) if dialect == Dialect::Json => out.extend_from_slice("\u{fffd}".as_bytes()),
                Err(byte) => written(write!(out, "\\x{byte:02x}")),
            }
            let length = out.len() - start;
            if length > bytes_max {
                out.truncate(cut_at);
                out.extend_from_slice(CUT_MARK.as_bytes());
                return;
            }
            if length <= bytes_max - CUT_MARK.len() {
                cut_at = out.len();
            }
        }
    }
}

fn character(out: &mut Vec<u8>, c: char, dialect: Dialect) {
    let code = u32::from(c);
    match c {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        c if is_safe(c) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        // Everything that is not safe is below 0x10000, so one escape is enough.
        _ if dialect == Dialect::Json => written(write!(out, "\\u{code:04x}")),
        _ => written(write!(out, "\\u{{{code:x}}}")),
    }
}

/// Writing to a vector cannot fail.
fn written(result: std::io::Result<()>) {
    debug_assert!(result.is_ok(), "{result:?}");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Dialect::{Human, Json, Logfmt, Quoted, Template};
    use super::*;

    const ALL: [Dialect; 5] = [Json, Logfmt, Template, Quoted, Human];

    fn shown(raw: &[u8], bytes_max: usize, dialect: Dialect) -> String {
        let mut out = Vec::new();
        bytes(&mut out, raw, bytes_max, dialect);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_is_plain_depends_on_the_place() {
        for (raw, json, logfmt, template, quoted, human) in [
            (
                "/medic/_up",
                "/medic/_up",
                "/medic/_up",
                "/medic/_up",
                "/medic/_up",
                "/medic/_up",
            ),
            ("a=b", "a=b", "\"a=b\"", "a=b", "a=b", "a=b"),
            ("a,b", "a,b", "a,b", "\"a,b\"", "a,b", "a,b"),
            ("a b", "a b", "\"a b\"", "\"a b\"", "a b", "\"a b\""),
            (
                "a\"b",
                "a\\\"b",
                "\"a\\\"b\"",
                "\"a\\\"b\"",
                "a\\\"b",
                "\"a\\\"b\"",
            ),
            ("", "", "\"\"", "\"\"", "", "\"\""),
            ("-", "-", "\"-\"", "\"-\"", "-", "\"-\""),
            (
                "\r\n",
                "\\u000d\\u000a",
                "\"\\u{d}\\u{a}\"",
                "\"\\u{d}\\u{a}\"",
                "\\u{d}\\u{a}",
                "\"\\u{d}\\u{a}\"",
            ),
        ] {
            for (dialect, expected) in ALL.into_iter().zip([json, logfmt, template, quoted, human])
            {
                assert_eq!(shown(raw.as_bytes(), 100, dialect), expected, "{dialect:?}");
            }
        }
    }

    #[test]
    fn what_is_no_utf8_is_shown_byte_by_byte() {
        let raw = b"\xfcber \xe2\x82\xac \xe2\x82";
        assert_eq!(shown(raw, 100, Quoted), "\\xfcber \u{20ac} \\xe2\\x82");
        assert_eq!(
            shown(raw, 100, Json),
            "\u{fffd}ber \u{20ac} \u{fffd}\u{fffd}"
        );
    }

    #[test]
    fn what_is_long_is_cut_between_two_characters() {
        assert_eq!(shown(&[b'x'; 20], 20, Human), "x".repeat(20));
        assert_eq!(
            shown(&[b'x'; 21], 20, Json),
            format!("{}...[cut]", "x".repeat(12))
        );
        assert_eq!(shown(&[0x1b; 21], 20, Json), "\\u001b\\u001b...[cut]");
        assert_eq!(
            shown("\u{20ac}".repeat(7).as_bytes(), 20, Human),
            format!("\"{}...[cut]\"", "\u{20ac}".repeat(4))
        );
    }

    proptest! {
        #[test]
        fn nothing_leaves_its_place(raw in proptest::collection::vec(any::<u8>(), 0..60), bytes_max in 8..80_usize) {
            for dialect in ALL {
                let text = shown(&raw, bytes_max, dialect);
                let inside = text.strip_prefix('"').filter(|_| dialect.quotes());
                let inside = inside.map_or(text.as_str(), |rest| rest.strip_suffix('"').unwrap());
                prop_assert!(inside.len() <= bytes_max);
                prop_assert!(inside.chars().all(is_safe));
                // Whoever reads from quote to quote finds the end of the value and nothing else.
                let mut rest = inside.chars();
                while let Some(c) = rest.next() {
                    prop_assert!(c != '"');
                    if c == '\\' {
                        prop_assert!(rest.next().is_some());
                    }
                }
                if inside.len() == text.len() && dialect.quotes() {
                    prop_assert!(!text.contains(' ') && !text.is_empty() && text != "-");
                }
                if dialect == Json {
                    let value: Result<String, _> = serde_json::from_str(&format!("\"{text}\""));
                    prop_assert!(value.is_ok());
                    if let Ok(valid) = str::from_utf8(&raw)
                        && raw.len() <= bytes_max / 6
                    {
                        prop_assert_eq!(value.unwrap(), valid);
                    }
                }
            }
        }
    }
}
