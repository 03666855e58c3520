//! Header fields in one buffer.
//!
//! ```text
//! arena    GET / HTTP/1.1 CR LF Host: a CR LF Accept: */* CR LF CR LF X-Request-Id: 7 CR LF
//! entries                                     ^name  ^value           ^added later
//! ```
//!
//! A parser copies the whole head into the arena and notes where fields are; what is added later is appended. So a head
//! costs two allocations, and none when it is used again. Fields that are removed leave their bytes until then.

use std::ops::Range;

use crate::strict::{self, Rule};

/// Longest field name in bytes; HAProxy's too.
pub const NAME_BYTES_MAX: usize = 255;

/// An ordered list of fields. Names are compared without regard to case; a name may occur more than once.
#[derive(Clone, Default)]
pub struct Fields {
    arena: Vec<u8>,
    entries: Vec<Entry>,
}

/// Place of bytes in an arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    from: u32,
    to: u32,
}

#[derive(Clone, Copy)]
struct Entry {
    name: Span,
    value: Span,
}

/// A field's name: a token of at most [`NAME_BYTES_MAX`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name<'a>(&'a str);

/// A field's value: visible ASCII, bytes above 0x7f, and inside also spaces and tabs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<'a>(&'a [u8]);

/// One field of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    name: &'a [u8],
    /// Its value, without white space around it. Bytes from the network, not safe to print as they are.
    pub value: &'a [u8],
}

impl<'a> Name<'a> {
    /// Checks a name.
    ///
    /// # Errors
    /// `name-empty`, `name-long`, `name-byte`.
    pub fn new(name: &'a str) -> Result<Self, &'static Rule> {
        if name.is_empty() {
            Err(&strict::NAME_EMPTY)
        } else if name.len() > NAME_BYTES_MAX {
            Err(&strict::NAME_LONG)
        } else if name.bytes().all(is_token_byte) {
            Ok(Self(name))
        } else {
            Err(&strict::NAME_BYTE)
        }
    }

    /// A name that the program has.
    ///
    /// # Panics
    /// If it is no token; at compile time where it is a constant.
    #[must_use]
    pub const fn from_static(name: &'static str) -> Name<'static> {
        let bytes = name.as_bytes();
        assert!(!bytes.is_empty() && bytes.len() <= NAME_BYTES_MAX);
        let mut at = 0;
        while at < bytes.len() {
            assert!(is_token_byte(bytes[at]), "a field name is a token");
            at += 1;
        }
        Name(name)
    }

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'a str {
        self.0
    }
}

impl<'a> Value<'a> {
    /// Checks a value; white space around it is taken off.
    ///
    /// # Errors
    /// `byte-nul`, `line-lf`, `line-cr`, `byte-control`.
    pub fn new(value: &'a [u8]) -> Result<Self, &'static Rule> {
        match value.iter().copied().find(|&byte| !is_value_byte(byte)) {
            None => Ok(Self(trimmed(value))),
            Some(0) => Err(&strict::BYTE_NUL),
            Some(b'\n') => Err(&strict::LINE_LF),
            Some(b'\r') => Err(&strict::LINE_CR),
            Some(_) => Err(&strict::BYTE_CONTROL),
        }
    }

    /// A value that the program has.
    ///
    /// # Panics
    /// If a byte of it may not be in a value; at compile time where it is a constant.
    #[must_use]
    pub const fn from_static(value: &'static str) -> Value<'static> {
        let bytes = value.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            assert!(is_value_byte(bytes[at]), "a value has no control character");
            at += 1;
        }
        Value(trimmed(bytes))
    }

    /// As it is written.
    #[must_use]
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }
}

impl<'a> Field<'a> {
    /// Its name as it was written. Always a token.
    #[must_use]
    pub fn name(&self) -> &'a str {
        text(self.name)
    }

    /// The same as bytes, without a look at them.
    #[must_use]
    pub const fn name_bytes(&self) -> &'a [u8] {
        self.name
    }

    /// Whether it has that name.
    #[must_use]
    pub const fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

impl Fields {
    /// An empty list.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            arena: Vec::new(),
            entries: Vec::new(),
        }
    }

    /// Begins anew with `head` as the arena, for a parser that then says where fields are. Keeps what was allocated.
    pub fn begin(&mut self, head: &[u8]) {
        self.entries.clear();
        self.arena.clear();
        self.arena.extend_from_slice(head);
    }

    /// Says that a field is at these places of the arena. The parser has checked both.
    pub fn note(&mut self, name: Range<usize>, value: Range<usize>) {
        debug_assert!(name.end <= self.arena.len() && value.end <= self.arena.len());
        self.entries.push(Entry {
            name: Span::new(name),
            value: Span::new(value),
        });
    }

    /// Adds a field behind all others.
    pub fn append(&mut self, name: Name<'_>, value: Value<'_>) {
        // As the line that it is written as, so that a writer can take it whole.
        let name = self.store(name.0.as_bytes());
        self.arena.extend_from_slice(b": ");
        let value = self.store(value.0);
        self.arena.extend_from_slice(b"\r\n");
        self.entries.push(Entry { name, value });
    }

    /// Adds a field and removes all others of its name.
    pub fn set(&mut self, name: Name<'_>, value: Value<'_>) {
        self.remove(name.0);
        self.append(name, value);
    }

    /// Removes all fields of that name; says how many there were.
    pub fn remove(&mut self, name: &str) -> usize {
        self.remove_where(|field| field.is(name))
    }

    /// Removes the fields for which `is` says so; says how many there were.
    pub fn remove_where(&mut self, mut is: impl FnMut(&Field<'_>) -> bool) -> usize {
        let before = self.entries.len();
        let arena = &self.arena;
        self.entries.retain(|entry| !is(&entry.field(arena)));
        before - self.entries.len()
    }

    /// Removes all fields.
    pub fn clear(&mut self) {
        self.begin(&[]);
    }

    /// How many fields there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All fields in order.
    pub fn iter(&self) -> impl Iterator<Item = Field<'_>> + Clone {
        self.entries.iter().map(|entry| entry.field(&self.arena))
    }

    /// The values of all fields of that name, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let named = move |field: &Field<'_>| field.is(name);
        self.iter().filter(named).map(|field| field.value)
    }

    /// The value of the first field of that name.
    #[must_use]
    pub fn first(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|field| field.is(name)).map(|f| f.value)
    }

    /// The value of the only field of that name; `None` also where there are several.
    #[must_use]
    pub fn only(&self, name: &str) -> Option<&[u8]> {
        let mut of_name = self.iter().filter(|field| field.is(name));
        let first = of_name.next()?;
        of_name.next().is_none().then_some(first.value)
    }

    /// Whether there is a field of that name.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.first(name).is_some()
    }

    /// Writes each field as a line.
    ///
    /// Fields that lie in the arena as the lines that they are written as, one behind the other, are taken as one.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut lines = 0..0;
        for entry in &self.entries {
            if let Some(line) = entry.line(&self.arena) {
                if lines.end != line.start {
                    out.extend_from_slice(&self.arena[lines]);
                    lines = line.start..line.start;
                }
                lines.end = line.end;
            } else {
                out.extend_from_slice(&self.arena[lines]);
                lines = 0..0;
                out.extend_from_slice(self.slice(entry.name));
                out.extend_from_slice(b": ");
                out.extend_from_slice(self.slice(entry.value));
                out.extend_from_slice(b"\r\n");
            }
        }
        out.extend_from_slice(&self.arena[lines]);
    }

    /// Bytes of memory that the list holds, used or not.
    #[must_use]
    pub const fn capacity_bytes(&self) -> usize {
        self.arena.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    pub(crate) fn slice(&self, span: Span) -> &[u8] {
        &self.arena[span.range()]
    }

    pub(crate) fn text(&self, span: Span) -> &str {
        text(self.slice(span))
    }

    pub(crate) fn store(&mut self, bytes: &[u8]) -> Span {
        let from = self.arena.len();
        self.arena.extend_from_slice(bytes);
        Span::new(from..self.arena.len())
    }
}

impl std::fmt::Debug for Fields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pairs = self
            .iter()
            .map(|field| (field.name(), field.value.escape_ascii().to_string()));
        f.debug_list().entries(pairs).finish()
    }
}

/// Equal lists have the same fields in the same order, names without regard to case.
impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        let alike = |(a, b): (Field<'_>, Field<'_>)| a.is(b.name()) && a.value == b.value;
        self.len() == other.len() && self.iter().zip(other.iter()).all(alike)
    }
}

impl Eq for Fields {}

impl Entry {
    fn field<'a>(&self, arena: &'a [u8]) -> Field<'a> {
        Field {
            name: &arena[self.name.range()],
            value: &arena[self.value.range()],
        }
    }

    /// Where the arena has this field just as it is written.
    fn line(&self, arena: &[u8]) -> Option<Range<usize>> {
        let (name, value) = (self.name.range(), self.value.range());
        let between = name.end + 2 == value.start && arena[name.end..].starts_with(b": ");
        let ended = arena[value.end..].starts_with(b"\r\n");
        (between && ended).then_some(name.start..value.end + 2)
    }
}

impl Span {
    pub(crate) fn new(range: Range<usize>) -> Self {
        let place = |at| u32::try_from(at).expect("heads have limits far below 4 GiB");
        Self {
            from: place(range.start),
            to: place(range.end),
        }
    }

    const fn range(self) -> Range<usize> {
        self.from as usize..self.to as usize
    }
}

/// Text of which is known that it is ASCII.
fn text(ascii: &[u8]) -> &str {
    std::str::from_utf8(ascii).unwrap_or_default()
}

/// A byte of a token (RFC 9110 5.6.2).
#[must_use]
pub const fn is_token_byte(byte: u8) -> bool {
    matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
        || byte.is_ascii_alphanumeric()
}

/// A byte of a field's value (RFC 9110 5.5): no control character but the tab.
#[must_use]
pub const fn is_value_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// Without the spaces and tabs around it.
#[must_use]
pub const fn trimmed(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed() -> Fields {
        let mut fields = Fields::new();
        fields.begin(b"Accept:*/*\r\nA: 1\r\nB: 2\r\nC: 3\r\n");
        fields.note(0..6, 7..10);
        fields.note(12..13, 15..16);
        fields.note(18..19, 21..22);
        fields.note(24..25, 27..28);
        fields
    }

    fn written(fields: &Fields) -> String {
        let mut out = Vec::new();
        fields.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn fields_are_written_in_order_whether_taken_whole_or_not() {
        let mut fields = parsed();
        assert_eq!(written(&fields), "Accept: */*\r\nA: 1\r\nB: 2\r\nC: 3\r\n");
        fields.remove("b");
        fields.append(Name::from_static("D"), Value::new(b" 4\t").unwrap());
        fields.set(Name::from_static("a"), Value::new(b"5").unwrap());
        assert_eq!(written(&fields), "Accept: */*\r\nC: 3\r\nD: 4\r\na: 5\r\n");
        fields.clear();
        assert_eq!(written(&fields), "");
    }

    #[test]
    fn a_list_that_is_used_again_allocates_nothing() {
        let mut fields = parsed();
        let capacity = fields.capacity_bytes();
        for _ in 0..3 {
            fields.begin(b"A: 1\r\n");
            fields.note(0..1, 3..4);
        }
        assert_eq!(fields.capacity_bytes(), capacity);
        assert_eq!(fields.len(), 1);
    }

    #[test]
    fn several_are_told_from_one() {
        let mut fields = parsed();
        assert_eq!(fields.only("A"), Some(&b"1"[..]));
        fields.append(Name::from_static("a"), Value::new(b"2").unwrap());
        assert_eq!(fields.only("A"), None);
        assert_eq!(fields.all("a").collect::<Vec<_>>(), [b"1", b"2"]);
        assert_eq!(fields.first("accept"), Some(&b"*/*"[..]));
    }

    #[test]
    fn names_and_values_are_checked() {
        for name in ["", "a b", "a:", "\u{e4}", "a\r", "(a)", "a,b"] {
            assert!(Name::new(name).is_err(), "{name:?}");
        }
        assert!(Name::new("!#$%&'*+-.^_`|~09AZaz").is_ok());
        for value in [&b"a\r\nb"[..], b"\n", b"\0", b"\x0b", b"\x7f"] {
            assert!(Value::new(value).is_err(), "{value:?}");
        }
        assert_eq!(Value::new(b"\t\xe4 b ").unwrap().as_bytes(), b"\xe4 b");
    }
}
