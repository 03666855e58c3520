//! Chunked bodies.
//!
//! The decoder is a state machine over single bytes of framing and whole ranges of data: nothing is looked at twice, however
//! the body arrives, and nothing is kept but trailers. Extensions are checked, counted and dropped; line ends are CR LF.
//!
//! ```text
//! 5;a="b" CR LF  hello  CR LF  0 CR LF  Digest: x CR LF  CR LF
//! size, extension       data            trailers
//! ```
//!
//! Source: RFC 9112 7.1.

use std::ops::Range;

use evenkeel_http::fields::{BODY_BYTES_MAX, may_be_trailer};
use evenkeel_http::list::{NAME_BYTES_MAX, is_token_byte, is_value_byte};
use evenkeel_http::{Fields, Rule, strict};
use httparse::{Header, Status};

use crate::explain;
use crate::limits::Limits;
use crate::request::place;

/// Longest line that [`size_line`] writes: 16 digits, CR LF.
pub const SIZE_LINE_BYTES_MAX: usize = 18;

/// Most fields in trailers.
pub const TRAILERS_MAX: usize = 32;

const SIZE_DIGITS_MAX: u8 = 16;

/// Decodes one body. Small where there are no trailers.
#[derive(Clone, Debug)]
pub struct Decoder {
    state: State,
    /// Of the size: value so far. Of the data: bytes still to come.
    left: u64,
    digits: u8,
    extension_bytes_left: u32,
    trailer_bytes_max: u32,
    /// Raw lines of the trailers, with their CR LF.
    trailers: Vec<u8>,
}

/// What [`Decoder::decode`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// How many of the given bytes are done with, data included.
    pub consumed: usize,
    /// Where in the given bytes data is; empty if there is none.
    pub data: Range<usize>,
    /// Whether the body has ended. What follows `consumed` belongs to something else.
    pub ended: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    Extension(Extension),
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    Ended,
}

/// Where in `chunk-ext = *( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] )` (RFC 9112 7.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extension {
    BeforeSemicolon,
    NameStart,
    Name,
    BehindName,
    ValueStart,
    Value,
    Quoted,
    Escaped,
    Behind,
}

impl Decoder {
    /// Decodes a body within `limits`.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let number = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        Self {
            state: State::Size,
            left: 0,
            digits: 0,
            extension_bytes_left: number(limits.extension_bytes),
            trailer_bytes_max: number(limits.trailer_bytes),
            trailers: Vec::new(),
        }
    }

    /// Finds the next data at the beginning of `bytes`, which is what follows all that was consumed before.
    ///
    /// Either there is data, or the body has ended, or all bytes were consumed and more are needed. After the end nothing is
    /// consumed.
    ///
    /// # Errors
    /// The rules `chunk-*`, `trailers-long`, `line-*`, `byte-*`, and those of fields for trailers. The connection is to be
    /// closed; nothing more may be decoded.
    pub fn decode(&mut self, bytes: &[u8]) -> Result<Piece, &'static Rule> {
        let mut at = 0;
        while self.state != State::Ended {
            let Some(&byte) = bytes.get(at) else { break };
            if self.state == State::Data {
                let there = u64::try_from(bytes.len() - at).unwrap_or(u64::MAX);
                let length = self.left.min(there);
                self.left -= length;
                if self.left == 0 {
                    self.state = State::DataCr;
                }
                // No more than there are bytes.
                let to = at + usize::try_from(length).unwrap_or(usize::MAX);
                return Ok(Piece {
                    consumed: to,
                    data: at..to,
                    ended: false,
                });
            }
            self.state = self.step(byte)?;
            at += 1;
        }
        Ok(Piece {
            consumed: at,
            data: at..at,
            ended: self.state == State::Ended,
        })
    }

    /// Bytes of the current chunk that are still to come; 0 between chunks.
    #[must_use]
    pub fn data_left(&self) -> u64 {
        if self.state == State::Data {
            self.left
        } else {
            0
        }
    }

    /// Whether the body has ended.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.state == State::Ended
    }

    /// The trailers that may pass, when the body has ended; the others are left out (`remove-trailer`).
    ///
    /// # Errors
    /// `fields-many`, `name-long`, and those of malformed fields.
    pub fn trailers(&self) -> Result<Fields, &'static Rule> {
        let mut fields = Fields::new();
        if self.trailers.is_empty() {
            return Ok(fields);
        }
        let mut headers = [httparse::EMPTY_HEADER; TRAILERS_MAX];
        let split = httparse::parse_headers(&self.trailers, &mut headers);
        let headers = match split {
            Ok(Status::Complete((_, headers))) => headers,
            Err(httparse::Error::TooManyHeaders) => return Err(&strict::FIELDS_MANY),
            Ok(Status::Partial) | Err(_) => return Err(explain::fields(&self.trailers)),
        };
        fields.begin(&self.trailers);
        for Header { name, value } in headers {
            if name.len() > NAME_BYTES_MAX {
                return Err(&strict::NAME_LONG);
            }
            if may_be_trailer(name.as_bytes()) {
                fields.note(
                    place(&self.trailers, name.as_bytes()),
                    place(&self.trailers, value),
                );
            }
        }
        Ok(fields)
    }

    fn step(&mut self, byte: u8) -> Result<State, &'static Rule> {
        match self.state {
            State::Size => self.size(byte),
            State::Extension(state) => self.extension(state, byte),
            State::SizeLf if byte != b'\n' => Err(&strict::LINE_CR),
            State::SizeLf if self.left > 0 => Ok(State::Data),
            State::SizeLf => Ok(State::TrailerStart),
            State::DataCr if byte == b'\r' => Ok(State::DataLf),
            State::DataLf if byte == b'\n' => {
                self.digits = 0;
                Ok(State::Size)
            }
            State::DataCr | State::DataLf => Err(&strict::CHUNK_END),
            State::TrailerStart if byte == b'\r' => Ok(State::EndLf),
            State::TrailerStart | State::Trailer => self.trailer(byte),
            State::TrailerLf if byte != b'\n' => Err(&strict::LINE_CR),
            State::TrailerLf => {
                self.trailers.push(b'\n');
                Ok(State::TrailerStart)
            }
            State::EndLf if byte != b'\n' => Err(&strict::LINE_CR),
            State::EndLf => {
                if !self.trailers.is_empty() {
                    self.trailers.extend_from_slice(b"\r\n");
                    // A malformed one is refused here, where the connection can still be closed.
                    self.trailers()?;
                }
                Ok(State::Ended)
            }
            State::Data | State::Ended => Ok(self.state),
        }
    }

    fn size(&mut self, byte: u8) -> Result<State, &'static Rule> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b'\n' => return Err(&strict::LINE_LF),
            _ if self.digits == 0 => return Err(&strict::CHUNK_SIZE),
            b'\r' => return Ok(State::SizeLf),
            b';' | b' ' | b'\t' => return self.extension(Extension::BeforeSemicolon, byte),
            _ => return Err(&strict::CHUNK_SIZE),
        };
        if self.digits == 0 {
            self.left = 0;
        }
        self.digits += 1;
        self.left = self.left << 4 | u64::from(digit);
        if self.digits > SIZE_DIGITS_MAX || self.left > BODY_BYTES_MAX {
            return Err(&strict::CHUNK_SIZE_LARGE);
        }
        Ok(State::Size)
    }

    fn extension(&mut self, state: Extension, byte: u8) -> Result<State, &'static Rule> {
        use Extension::{
            BeforeSemicolon, Behind, BehindName, Escaped, Name, NameStart, Quoted, Value,
            ValueStart,
        };
        let left = self.extension_bytes_left.checked_sub(1);
        self.extension_bytes_left = left.ok_or(&strict::CHUNK_EXTENSIONS_MANY)?;
        let next = match (state, byte) {
            (_, b'\n') => return Err(&strict::LINE_LF),
            (_, 0) => return Err(&strict::BYTE_NUL),
            (Name | Value | Behind, b'\r') => return Ok(State::SizeLf),
            (_, _) if !is_value_byte(byte) => return Err(&strict::CHUNK_EXTENSION),
            (Quoted, b'"') => Behind,
            (Quoted, b'\\') => Escaped,
            (Quoted | Escaped, _) => Quoted,
            (BeforeSemicolon | NameStart | BehindName | ValueStart | Behind, b' ' | b'\t') => {
                match state {
                    // A space behind a value is part of the next extension, so that one has to come.
                    Behind => BeforeSemicolon,
                    _ => state,
                }
            }
            (Name, b' ' | b'\t') => BehindName,
            (Value, b' ' | b'\t') => BeforeSemicolon,
            (BeforeSemicolon | Name | BehindName | Value | Behind, b';') => NameStart,
            (Name | BehindName, b'=') => ValueStart,
            (ValueStart, b'"') => Quoted,
            (NameStart | Name, _) if is_token_byte(byte) => Name,
            (ValueStart | Value, _) if is_token_byte(byte) => Value,
            (_, _) => return Err(&strict::CHUNK_EXTENSION),
        };
        Ok(State::Extension(next))
    }

    fn trailer(&mut self, byte: u8) -> Result<State, &'static Rule> {
        if self.trailers.len() >= self.trailer_bytes_max as usize {
            return Err(&strict::TRAILERS_LONG);
        }
        match byte {
            b'\n' => return Err(&strict::LINE_LF),
            0 => return Err(&strict::BYTE_NUL),
            b' ' | b'\t' if self.state == State::TrailerStart => return Err(&strict::LINE_FOLD),
            b'\r' => {}
            _ if !is_value_byte(byte) => return Err(&strict::BYTE_CONTROL),
            _ => {}
        }
        self.trailers.push(byte);
        Ok(if byte == b'\r' {
            State::TrailerLf
        } else {
            State::Trailer
        })
    }
}

/// Writes the line before a chunk of `length` bytes into `line`; returns what to send. CR LF follows the data
/// ([`CHUNK_END`]). 0 is not a chunk but the end: [`end`].
pub fn size_line(length: usize, line: &mut [u8; SIZE_LINE_BYTES_MAX]) -> &[u8] {
    debug_assert!(length > 0);
    let mut at = SIZE_LINE_BYTES_MAX - 2;
    line[at..].copy_from_slice(b"\r\n");
    let mut rest = length;
    loop {
        at -= 1;
        line[at] = b"0123456789abcdef"[rest % 16];
        rest /= 16;
        if rest == 0 {
            break;
        }
    }
    &line[at..]
}

/// What follows the data of a chunk.
pub const CHUNK_END: &[u8] = b"\r\n";

/// The end of a body without trailers.
pub const BODY_END: &[u8] = b"0\r\n\r\n";

/// Writes `data` as one chunk; nothing if there is none, since that would be the end.
pub fn chunk(out: &mut Vec<u8>, data: &[u8]) {
    if !data.is_empty() {
        out.extend_from_slice(size_line(data.len(), &mut [0; SIZE_LINE_BYTES_MAX]));
        out.extend_from_slice(data);
        out.extend_from_slice(CHUNK_END);
    }
}

/// Writes the end of a body, with `trailers`.
pub fn end(out: &mut Vec<u8>, trailers: &Fields) {
    out.extend_from_slice(b"0\r\n");
    trailers.write(out);
    out.extend_from_slice(b"\r\n");
}
