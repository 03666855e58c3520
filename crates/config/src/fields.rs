//! Tables with fixed keys, and their values: names, ranges and defaults come from the table of keys.

use std::time::Duration;

use toml::Spanned;
use toml::de::{DeInteger, DeString, DeTable, DeValue};

use crate::problem::{Sink, Span, shown};
use crate::schema::{Key, Kind, Section};
use crate::suggest::{Suggestion, suggestion, unknown_word};
use crate::value::{DurationText, SizeText, parse_duration, parse_percent, parse_size};
use crate::written::{Got, Placed};

/// Words for no time at all, or none that ends, where that is `0s`.
const NEVER: [&str; 7] = [
    "never",
    "none",
    "off",
    "infinite",
    "infinity",
    "forever",
    "unlimited",
];

/// A table with fixed keys.
pub(crate) struct Fields<'a> {
    pub(crate) table: &'a DeTable<'a>,
    pub(crate) section: Section,
    pub(crate) key: String,
    pub(crate) at: Span,
}

impl<'a> Fields<'a> {
    /// Takes `table` as `section`, and reports the keys that do not belong there.
    pub(crate) fn new(
        table: &'a DeTable<'a>,
        section: Section,
        key: String,
        at: Span,
        sink: &mut Sink<'_>,
    ) -> Self {
        let fields = Self {
            table,
            section,
            key,
            at,
        };
        for (name, value) in in_order(table) {
            if section.key(name.get_ref()).is_none() {
                fields.unknown_key(name, value.get_ref(), sink);
            }
        }
        fields
    }

    /// A section that is not written: everything has its default.
    pub(crate) fn empty(table: &'a DeTable<'a>, section: Section, key: &str) -> Self {
        Self {
            table,
            section,
            key: key.to_owned(),
            at: Span::new(0, 0),
        }
    }

    pub(crate) fn path(&self, name: &str) -> String {
        if self.key.is_empty() {
            dotted(name)
        } else {
            format!("{}.{}", self.key, dotted(name))
        }
    }

    /// The value of `name`, when it is written and could be read.
    pub(crate) fn get(&self, name: &'static str) -> Option<Node<'a>> {
        debug_assert!(self.section.key(name).is_some(), "{name} is in the table");
        let value = self.table.get(name)?;
        // An empty span is the reader's stand-in for a value that it could not read.
        (value.span() != (0..0)).then(|| Node {
            value: value.get_ref(),
            at: value.span().into(),
            key: self.path(name),
            label: name,
        })
    }

    pub(crate) fn schema(&self, name: &str) -> &'static Key {
        let key = self.section.key(name);
        key.unwrap_or_else(|| unreachable!("{name} is in the table of keys"))
    }

    pub(crate) fn absent<T>(&self, name: &str, value: T) -> Got<T> {
        Got {
            value,
            at: None,
            good: true,
            key: self.path(name),
        }
    }

    pub(crate) fn section(
        &self,
        name: &'static str,
        section: Section,
        sink: &mut Sink<'_>,
    ) -> Option<Self> {
        self.get(name)?.fields(section, sink)
    }

    /// `default` in place of the table's.
    pub(crate) fn integer(
        &self,
        name: &'static str,
        default: Option<u32>,
        sink: &mut Sink<'_>,
    ) -> Got<u32> {
        let Kind::Integer {
            min,
            max,
            default: usual,
            ..
        } = self.schema(name).kind
        else {
            unreachable!("{name} is an integer in the table of keys");
        };
        let default = default.unwrap_or(usual);
        let Some(node) = self.get(name) else {
            return self.absent(name, default);
        };
        let value = node.integer(sink, min, max);
        node.got(value, default)
    }

    /// An integer that may be left out.
    pub(crate) fn number(&self, name: &'static str, sink: &mut Sink<'_>) -> Got<Option<u32>> {
        let Kind::Number {
            min, max, default, ..
        } = self.schema(name).kind
        else {
            unreachable!("{name} is a number in the table of keys");
        };
        let Some(node) = self.get(name) else {
            return self.absent(name, None);
        };
        let is_zero = match node.value {
            DeValue::Integer(number) => integer_of(number) == Some(0),
            _ => false,
        };
        if is_zero && min > 0 {
            // Elsewhere 0 stands for no limit.
            let help = format!("from {min} to {max}; leave it out for {default}");
            node.error(sink, "0 is out of range", help);
            return node.got(None, None);
        }
        let value = node.integer(sink, min, max);
        node.got(value.map(Some), None)
    }

    /// A size in bytes.
    pub(crate) fn size(&self, name: &'static str, sink: &mut Sink<'_>) -> Got<u32> {
        let key = self.schema(name);
        let Kind::Size { min, max, default } = key.kind else {
            unreachable!("{name} is a size in the table of keys");
        };
        let Some(node) = self.get(name) else {
            return self.absent(name, default);
        };
        let value = node.size(u64::from(min), u64::from(max), key.example, sink);
        let value = value.and_then(|size| u32::try_from(size).ok());
        node.got(value, default)
    }

    pub(crate) fn port(&self, name: &'static str, sink: &mut Sink<'_>) -> Got<Option<u16>> {
        let Some(node) = self.get(name) else {
            return self.absent(name, None);
        };
        let value = node.integer(sink, 1, u32::from(u16::MAX)).map(narrow);
        node.got(value.map(Some), None)
    }

    pub(crate) fn duration(&self, name: &'static str, sink: &mut Sink<'_>) -> Got<Duration> {
        self.duration_or(name, None, sink)
    }

    /// `default` in place of the table's.
    pub(crate) fn duration_or(
        &self,
        name: &'static str,
        default: Option<Duration>,
        sink: &mut Sink<'_>,
    ) -> Got<Duration> {
        let key = self.schema(name);
        let Kind::Duration {
            min,
            max,
            default: usual,
        } = key.kind
        else {
            unreachable!("{name} is a duration in the table of keys");
        };
        let default = default.unwrap_or(usual);
        let Some(node) = self.get(name) else {
            return self.absent(name, default);
        };
        let read = |sink: &mut Sink<'_>| {
            let text = match node.value {
                DeValue::Integer(number) => {
                    let help = parse_duration(number.as_str()).err();
                    let help = help.unwrap_or_else(|| format!("write `{}`", key.example));
                    node.error(
                        sink,
                        format!(
                            "expected a duration such as `{}`, found an integer",
                            key.example
                        ),
                        help,
                    );
                    return None;
                }
                _ => node.text(sink, key.example)?,
            };
            let duration = match parse_duration(text) {
                Ok(duration) => duration,
                Err(help) => {
                    let help = match min.is_zero() && NEVER.contains(&text) {
                        true => "write `\"0s\"`".to_owned(),
                        false => help,
                    };
                    node.error(sink, format!("{} is not a duration", shown(text)), help);
                    return None;
                }
            };
            if duration < min || duration > max {
                node.error(
                    sink,
                    format!("{} is out of range", shown(text)),
                    format!(
                        "from `\"{}\"` to `\"{}\"`",
                        DurationText(min),
                        DurationText(max)
                    ),
                );
                return None;
            }
            Some(duration)
        };
        let value = read(sink);
        node.got(value, default)
    }

    pub(crate) fn percent(&self, name: &'static str, sink: &mut Sink<'_>) -> u8 {
        let key = self.schema(name);
        let Kind::Percent { max, default } = key.kind else {
            unreachable!("{name} is a share in the table of keys");
        };
        let Some(node) = self.get(name) else {
            return default;
        };
        node.percent(sink, 0, max, key.example).unwrap_or(default)
    }

    /// `default` in place of the table's.
    pub(crate) fn boolean(
        &self,
        name: &'static str,
        default: Option<bool>,
        sink: &mut Sink<'_>,
    ) -> Got<bool> {
        let Kind::Boolean { default: usual } = self.schema(name).kind else {
            unreachable!("{name} is a boolean in the table of keys");
        };
        let default = default.unwrap_or(usual);
        let Some(node) = self.get(name) else {
            return self.absent(name, default);
        };
        let value = node.value.as_bool();
        if value.is_none() {
            let message = format!("expected `true` or `false`, found {}", article(node.value));
            node.error(
                sink,
                message,
                format!("write `{name} = true` or `{name} = false`"),
            );
        }
        node.got(value, default)
    }

    pub(crate) fn words(&self, name: &str) -> &'static [&'static str] {
        let Kind::Choice { words } = self.schema(name).kind else {
            unreachable!("{name} is a choice in the table of keys");
        };
        words
    }

    pub(crate) fn choice(&self, name: &'static str, sink: &mut Sink<'_>) -> &'static str {
        let words = self.words(name);
        let Some(node) = self.get(name) else {
            return words[0];
        };
        let Some(text) = node.text(sink, self.schema(name).example) else {
            return words[0];
        };
        match words.iter().find(|word| **word == text) {
            Some(word) => word,
            None => {
                unknown_word(&node, name, text, words, sink);
                words[0]
            }
        }
    }

    pub(crate) fn unknown_key(
        &self,
        name: &Spanned<DeString<'_>>,
        value: &DeValue<'_>,
        sink: &mut Sink<'_>,
    ) {
        let key: &str = name.get_ref();
        let mut message = match (self.section, value) {
            (Section::Root, DeValue::Table(_)) => {
                format!("unknown section `[{}]`", shown(key).trim_matches('`'))
            }
            (Section::Root, _) => format!("unknown key {}", shown(key)),
            _ => format!("unknown key {} in `{}`", shown(key), self.key),
        };
        let help = match suggestion(self.section, key) {
            Suggestion::Name(name) => {
                message.push_str(&format!("; did you mean `{name}`?"));
                String::new()
            }
            Suggestion::Elsewhere(name, sections) => {
                if name == key {
                    format!("`{name}` belongs in {sections}")
                } else {
                    format!("perhaps `{name}`, which belongs in {sections}")
                }
            }
            Suggestion::ConnectTimeout => {
                "`connect.timeout` of the service: `connect = { timeout = \"2s\" }`".to_owned()
            }
            Suggestion::Port => "write the port into the address: `\"10.0.0.2:80\"`".to_owned(),
            Suggestion::Secret => {
                "secrets are not written here: `{ user_env = \"COUCHDB_USER\", password_env = \"COUCHDB_PASSWORD\" }` in \
                 `credentials` names environment variables, `user_file` and `password_file` name files"
                    .to_owned()
            }
            Suggestion::CookieKey => {
                "secrets are not written here: `key_env = \"COOKIE_KEY\"` names an environment variable, `key_file` a file"
                    .to_owned()
            }
            Suggestion::None => {
                let names: Vec<_> = self
                    .section
                    .keys()
                    .map(|key| format!("`{}`", key.name))
                    .collect();
                format!("known here: {}", names.join(", "))
            }
        };
        sink.error(name.span().into(), &self.path(key), message, help);
    }
}

/// A value with its place.
#[derive(Clone)]
pub(crate) struct Node<'a> {
    pub(crate) value: &'a DeValue<'a>,
    pub(crate) at: Span,
    /// Dotted key.
    pub(crate) key: String,
    /// The last part of it.
    pub(crate) label: &'a str,
}

impl<'a> Node<'a> {
    pub(crate) fn error(
        &self,
        sink: &mut Sink<'_>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        sink.error(self.at, &self.key, message, help);
    }

    pub(crate) fn placed<T>(&self, value: T) -> Placed<T> {
        Placed {
            value,
            at: self.at,
            key: self.key.clone(),
        }
    }

    pub(crate) fn got<T>(&self, value: Option<T>, default: T) -> Got<T> {
        Got {
            good: value.is_some(),
            value: value.unwrap_or(default),
            at: Some(self.at),
            key: self.key.clone(),
        }
    }

    pub(crate) fn fields(&self, section: Section, sink: &mut Sink<'_>) -> Option<Fields<'a>> {
        let Some(table) = self.value.as_table() else {
            let message = format!("expected a table, found {}", article(self.value));
            let names: Vec<_> = section
                .keys()
                .map(|key| format!("`{}`", key.name))
                .collect();
            self.error(sink, message, format!("a table with {}", names.join(", ")));
            return None;
        };
        Some(Fields::new(table, section, self.key.clone(), self.at, sink))
    }

    pub(crate) fn text(&self, sink: &mut Sink<'_>, example: &str) -> Option<&'a str> {
        if let DeValue::String(text) = self.value {
            return Some(text);
        }
        let found = article(self.value);
        let message = format!("expected a string such as `{example}`, found {found}");
        let help = match self.value {
            DeValue::Array(_) | DeValue::Table(_) => String::new(),
            _ => "put it in quotes".to_owned(),
        };
        self.error(sink, message, help);
        None
    }

    pub(crate) fn integer(&self, sink: &mut Sink<'_>, min: u32, max: u32) -> Option<u32> {
        let DeValue::Integer(number) = self.value else {
            let found = article(self.value);
            let message = format!("expected an integer from {min} to {max}, found {found}");
            let help = match self.value {
                DeValue::String(text) if text.parse::<u32>().is_ok() => {
                    format!("write {text} without quotes")
                }
                _ => String::new(),
            };
            self.error(sink, message, help);
            return None;
        };
        let value = integer_of(number).and_then(|number| u32::try_from(number).ok());
        let value = value.filter(|value| (min..=max).contains(value));
        if value.is_none() {
            let number = number.to_string();
            self.error(
                sink,
                format!("{} is out of range", shown(&number).trim_matches('`')),
                format!("from {min} to {max}"),
            );
        }
        value
    }

    /// A size in bytes from `min` to `max`.
    pub(crate) fn size(
        &self,
        min: u64,
        max: u64,
        example: &str,
        sink: &mut Sink<'_>,
    ) -> Option<u64> {
        let text = match self.value {
            DeValue::Integer(number) => {
                let message = format!("expected a size such as `{example}`, found an integer");
                let help = parse_size(number.as_str()).err();
                self.error(sink, message, help.unwrap_or_default());
                return None;
            }
            _ => self.text(sink, example)?,
        };
        match parse_size(text) {
            Ok(size) if (min..=max).contains(&size) => Some(size),
            Ok(_) => {
                let help = format!("from `\"{}\"` to `\"{}\"`", SizeText(min), SizeText(max));
                self.error(sink, format!("{} is out of range", shown(text)), help);
                None
            }
            Err(help) => {
                self.error(sink, format!("{} is not a size", shown(text)), help);
                None
            }
        }
    }

    pub(crate) fn percent(
        &self,
        sink: &mut Sink<'_>,
        min: u8,
        max: u8,
        example: &str,
    ) -> Option<u8> {
        if let DeValue::Integer(number) = self.value {
            let message = format!("expected a share such as `{example}`, found an integer");
            let number = shown(number.as_str());
            self.error(
                sink,
                message,
                format!("write `\"{}%\"`", number.trim_matches('`')),
            );
            return None;
        }
        let text = self.text(sink, example)?;
        let value = parse_percent(text).and_then(|value| u8::try_from(value).ok());
        let value = value.filter(|value| (min..=max).contains(value));
        if value.is_none() {
            let help = format!("from `\"{min}%\"` to `\"{max}%\"`");
            self.error(
                sink,
                format!("{} is not a share in range", shown(text)),
                help,
            );
        }
        value
    }

    /// The elements of an array, or the value itself.
    pub(crate) fn one_or_many(&self) -> Box<dyn Iterator<Item = Self> + 'a> {
        let this = self.clone();
        let DeValue::Array(array) = self.value else {
            return Box::new(std::iter::once(this));
        };
        Box::new(array.iter().enumerate().map(move |(index, value)| Node {
            value: value.get_ref(),
            at: value.span().into(),
            key: format!("{}[{index}]", this.key),
            label: this.label,
        }))
    }
}

pub(crate) fn in_order<'a>(
    table: &'a DeTable<'a>,
) -> impl Iterator<Item = (&'a Spanned<DeString<'a>>, &'a Spanned<DeValue<'a>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries.into_iter()
}

/// A part of a dotted key, quoted where TOML wants it so.
pub(crate) fn dotted(part: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if !part.is_empty() && part.chars().all(bare) {
        part.to_owned()
    } else {
        format!("\"{}\"", shown(part).trim_matches('`'))
    }
}

pub(crate) fn integer_of(number: &DeInteger<'_>) -> Option<i128> {
    i128::from_str_radix(number.as_str(), number.radix()).ok()
}

/// A type with its article, for "found ...".
pub(crate) fn article(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a decimal number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// Values whose range in the table of keys fits.
pub(crate) fn narrow(value: u32) -> u16 {
    u16::try_from(value).unwrap_or(u16::MAX)
}
