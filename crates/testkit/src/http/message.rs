//! Heads and bodies, as they came.

use std::fmt;

/// A head byte for byte, up to and with its empty line.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Head {
    bytes: Vec<u8>,
}

/// How the end of a body was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// There was none.
    #[default]
    None,
    /// By its length.
    Length(usize),
    /// By its last chunk.
    Chunked,
    /// By the end of the connection.
    ToEnd,
}

/// A body.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Body {
    /// Its content.
    pub data: Vec<u8>,
    /// How its end was found.
    pub framing: Framing,
    /// Lengths of its chunks, the last one of 0 bytes left out.
    pub chunks: Vec<usize>,
    /// What stands behind the last chunk: trailers and the empty line. Empty where it was not chunked.
    pub trailers: Vec<u8>,
}

impl Head {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    /// As it came.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// As text, with its line ends.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// Its first line. One empty line before it is passed over.
    #[must_use]
    pub fn first_line(&self) -> String {
        let text = self.text();
        let text = text.strip_prefix("\r\n").unwrap_or(&text);
        text.lines().next().unwrap_or_default().to_owned()
    }

    /// Method of a request.
    #[must_use]
    pub fn method(&self) -> String {
        self.word(0)
    }

    /// Target of a request.
    #[must_use]
    pub fn target(&self) -> String {
        self.word(1)
    }

    /// Status of an answer; 0 where there is none.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.word(1).parse().unwrap_or(0)
    }

    /// Names and values, in order.
    #[must_use]
    pub fn fields(&self) -> Vec<(String, String)> {
        let text = self.text();
        let text = text.strip_prefix("\r\n").unwrap_or(&text);
        let lines = text.split("\r\n").skip(1);
        let pairs = lines.filter_map(|line| line.split_once(':'));
        pairs
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect()
    }

    /// Values of the lines of this name, whatever its case.
    #[must_use]
    pub fn all(&self, name: &str) -> Vec<String> {
        let fields = self.fields().into_iter();
        fields
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .collect()
    }

    /// The value of this field; `None` = it is not there.
    ///
    /// # Panics
    /// Where there are several lines of this name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<String> {
        let mut all = self.all(name);
        assert!(all.len() < 2, "several lines of {name}: {self:?}");
        all.pop()
    }

    /// Whether the list in this field names `word`.
    #[must_use]
    pub fn names(&self, field: &str, word: &str) -> bool {
        let values = self.all(field);
        let mut words = values.iter().flat_map(|value| value.split(','));
        words.any(|found| found.trim().eq_ignore_ascii_case(word))
    }

    /// How the body of a request with this head ends.
    pub(crate) fn request_framing(&self) -> Framing {
        if self.names("transfer-encoding", "chunked") {
            return Framing::Chunked;
        }
        match self.length() {
            None | Some(0) => Framing::None,
            Some(length) => Framing::Length(length),
        }
    }

    /// How the body of an answer to `method` with this head ends (RFC 9112 section 6.3).
    pub(crate) fn answer_framing(&self, method: &str) -> Framing {
        if method == "HEAD" || matches!(self.status(), 100..=199 | 204 | 304) {
            return Framing::None;
        }
        if self.names("transfer-encoding", "chunked") {
            return Framing::Chunked;
        }
        self.length().map_or(Framing::ToEnd, Framing::Length)
    }

    fn length(&self) -> Option<usize> {
        self.all("content-length").first()?.parse().ok()
    }

    fn word(&self, place: usize) -> String {
        let line = self.first_line();
        line.split(' ').nth(place).unwrap_or_default().to_owned()
    }
}

impl Body {
    /// As text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.data).into_owned()
    }

    /// Its bytes with framing; what was in chunks is in one, so that two ways of cutting the same body are the same.
    #[must_use]
    pub fn in_one_chunk(&self) -> Vec<u8> {
        if self.framing != Framing::Chunked {
            return self.data.clone();
        }
        let mut out = Vec::new();
        if !self.data.is_empty() {
            out.extend(format!("{:x}\r\n", self.data.len()).bytes());
            out.extend(&self.data);
            out.extend(b"\r\n");
        }
        out.extend(b"0\r\n");
        out.extend(&self.trailers);
        out
    }
}

/// The content of a body in chunks that is all there; `None` where it is not.
#[must_use]
pub fn dechunked(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let line = bytes.windows(2).position(|pair| pair == b"\r\n")?;
        let size = std::str::from_utf8(bytes.get(..line)?).ok()?;
        let size = usize::from_str_radix(size, 16).ok()?;
        bytes = bytes.get(line + 2..)?;
        if size == 0 {
            return Some(whole);
        }
        whole.extend(bytes.get(..size)?);
        bytes = bytes.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.bytes.escape_ascii())
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 300;
        let shown = self.data.get(..SHOWN).unwrap_or(&self.data);
        let length = self.data.len();
        write!(
            f,
            "{length} bytes by {:?}: {}",
            self.framing,
            shown.escape_ascii()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_whatever_their_case_and_in_order() {
        let head = Head::new(
            b"GET /a?b HTTP/1.1\r\nA: 1\r\na:2 \r\nConnection: x, Close\r\n\r\n".to_vec(),
        );
        assert_eq!(
            (head.method().as_str(), head.target().as_str()),
            ("GET", "/a?b")
        );
        assert_eq!(head.all("a"), ["1", "2"]);
        assert!(head.names("connection", "close") && !head.names("connection", "clos"));
        assert_eq!(head.field("b"), None);
    }

    #[test]
    fn a_body_in_chunks_is_the_same_however_it_was_cut() {
        let body = Body {
            data: b"hello".to_vec(),
            framing: Framing::Chunked,
            chunks: vec![2, 3],
            trailers: b"A: b\r\n\r\n".to_vec(),
        };
        assert_eq!(body.in_one_chunk(), b"5\r\nhello\r\n0\r\nA: b\r\n\r\n");
        assert_eq!(
            dechunked(b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n").as_deref(),
            Some(&b"hello"[..])
        );
        assert_eq!(dechunked(b"2\r\nhe\r\n3\r\nll"), None);
    }
}
