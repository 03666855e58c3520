//! Compression of answers: which ones, as what, and how their heads change.
//!
//! ```text
//! choose(request, answer) --Encode(coding)--> prepare(answer, coding); body: Encoder::push.., finish; framed as it comes
//!                       |---Vary-----------> vary(answer); body as it is
//!                       `---Leave----------> as it is
//! ```
//!
//! Only answers with a declared length are compressed. One without (`chunked`, or to the connection's end) may be a feed that
//! goes on for hours, and nothing in its head says so: CouchDB's `_changes?feed=continuous` is chunked `application/json` as its
//! documents are. An encoder would hold its heartbeats back.
//!
//! What an attacker can have reflected in an answer next to a secret can be guessed from its compressed length (BREACH). Nothing
//! here can tell such answers from others; compression is off unless a configuration names codings.

mod encoder;

use evenkeel_plan::http::{Coding, CompressionSpec};

use crate::accept;
use crate::fields;
use crate::head::{AnswerHead, Declared, Method, RequestHead, Version};
use crate::list::{Fields, Name, Value};

pub use encoder::{EncodeError, Encoder};

const VARY: Name<'static> = Name::from_static("Vary");
const ACCEPT_ENCODING: &str = "Accept-Encoding";

/// Digests of an answer's content or representation. All of them are over the coded bytes (RFC 9530 section 3 and appendix A,
/// RFC 3230 section 4.1.1, RFC 2616 section 14.15), so that they are wrong once the coding has changed; whoever wants one of
/// the coded answer cannot have it, since it would have to be known before the body.
const DIGESTS: [&str; 4] = ["Content-Digest", "Repr-Digest", "Digest", "Content-MD5"];

/// Which answers of a listener's service are compressed, ready to be asked.
#[derive(Clone, Debug)]
pub struct Compression {
    codings: Vec<Coding>,
    types: Vec<TypePattern>,
    bytes_min: u64,
}

/// What becomes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// It goes as it is.
    Leave,
    /// It goes as it is, because this client wants no coding of ours; another one would get something else, which caches
    /// must be told by [`vary`].
    Vary,
    /// It is compressed: [`prepare`], then [`Encoder`].
    Encode(Coding),
}

/// A type of `types`, lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
enum TypePattern {
    /// `*/*`.
    Any,
    /// `text/*`, with the slash.
    Main(String),
    /// `text/html`.
    Exact(String),
}

impl Compression {
    /// What the specification says.
    #[must_use]
    pub fn new(spec: &CompressionSpec) -> Self {
        Self {
            codings: spec.codings.clone(),
            types: spec
                .types
                .iter()
                .map(|text| TypePattern::new(text))
                .collect(),
            bytes_min: spec.min_bytes.into(),
        }
    }

    /// Whether nothing is ever compressed, so that requests need not be kept for it.
    #[must_use]
    pub const fn is_off(&self) -> bool {
        self.codings.is_empty()
    }

    /// What becomes of `answer` to `request`, as the client sent that: what is changed for the backend does not count.
    ///
    /// Compressed is a whole answer of one of the types, long enough by its own word, without a coding, to a client that
    /// wants one. Status codes: 200, 201, 202, 203 (HAProxy's), 403, 404 (nginx's). A 206 is a part of something coded
    /// otherwise; 204, 205 and 304 have no content; redirects and other errors are short and rare.
    #[must_use]
    pub fn choose(&self, request: &RequestHead, answer: &AnswerHead) -> Choice {
        if self.is_off() || !self.fits(request, answer) {
            return Choice::Leave;
        }
        match self.wanted(&request.fields) {
            Some(coding) => Choice::Encode(coding),
            None => Choice::Vary,
        }
    }

    /// [`choose`](Self::choose), and changes the head as that says. The coding is that of the [`Encoder`] that the body goes
    /// through, whose length is what the answer has declared before.
    pub fn apply(&self, request: &RequestHead, answer: &mut AnswerHead) -> Option<Coding> {
        match self.choose(request, answer) {
            Choice::Leave => None,
            Choice::Vary => {
                vary(answer);
                None
            }
            Choice::Encode(coding) => {
                prepare(answer, coding);
                Some(coding)
            }
        }
    }

    /// All but what the client wants.
    fn fits(&self, request: &RequestHead, answer: &AnswerHead) -> bool {
        let long_enough = matches!(answer.declared(), Declared::Length(length) if length >= self.bytes_min.max(1));
        // A client of HTTP/1.0 can only be given a body of unknown length by ending its connection.
        long_enough
            && request.version() >= Version::Http11
            && request.method() != Method::Head
            && matches!(answer.status(), 200..=203 | 403 | 404)
            && !is_bound(&answer.fields)
            && self.has_type(&answer.fields)
            && !forbids_transforms(&answer.fields)
            && !forbids_transforms(&request.fields)
    }

    fn has_type(&self, answer: &Fields) -> bool {
        let Some(value) = answer.only("Content-Type") else {
            return false;
        };
        let essence = value.split(|&byte| byte == b';').next().unwrap_or_default();
        let Ok(essence) = std::str::from_utf8(essence) else {
            return false;
        };
        let essence = essence.trim().to_ascii_lowercase();
        essence != "text/event-stream" && self.types.iter().any(|pattern| pattern.fits(&essence))
    }

    /// The coding that the client wants most; the first of those that it wants equally.
    fn wanted(&self, request: &Fields) -> Option<Coding> {
        let lines = || request.all(ACCEPT_ENCODING).collect::<Vec<_>>();
        let quality = |name| accept::coding_quality(lines(), name);
        let mut best = None;
        for &coding in &self.codings {
            let wish = quality(coding.as_str());
            if wish > best.map_or(0, |(_, wish)| wish) {
                best = Some((coding, wish));
            }
        }
        let (coding, wish) = best?;
        // Who lists codings and not `identity` prefers those, whatever their weights.
        let plain = if accept::names_coding(lines(), "identity") {
            quality("identity")
        } else {
            0
        };
        (wish >= plain).then_some(coding)
    }
}

/// Changes the head of an answer whose body is going to be encoded as `coding`.
///
/// * `Content-Encoding`, and `Vary: Accept-Encoding`.
/// * A strong `ETag` becomes weak: the bytes are others than those that it names (RFC 9110 section 8.8.3.3). What a client
///   sends back in `If-None-Match` still counts, in `If-Match` no more.
/// * `Accept-Ranges` goes: ranges would be counted in bytes that the client has never seen.
/// * Digests go, see `DIGESTS`.
/// * The length goes; the body is framed as it comes.
pub fn prepare(answer: &mut AnswerHead, coding: Coding) {
    answer.forget_length();
    let fields = &mut answer.fields;
    let gone = |name: &str| name.eq_ignore_ascii_case("Accept-Ranges") || is_digest(name);
    fields.remove_where(|field| gone(field.name()));
    weaken(fields);
    fields.set(
        Name::from_static("Content-Encoding"),
        Value::from_static(coding.as_str()),
    );
    vary(answer);
}

/// Tells caches that another client may get another coding of this answer: `Accept-Encoding` joins what `Vary` names.
pub fn vary(answer: &mut AnswerHead) {
    let fields = &mut answer.fields;
    let names = |name: &[u8]| name == b"*" || name.eq_ignore_ascii_case(ACCEPT_ENCODING.as_bytes());
    if fields
        .all(VARY.as_str())
        .flat_map(fields::elements)
        .any(names)
    {
        return;
    }
    // One line: there are caches that read the first one only.
    let mut line: Vec<u8> = Vec::new();
    for element in fields.all(VARY.as_str()).flat_map(fields::elements) {
        line.extend_from_slice(element);
        line.extend_from_slice(b", ");
    }
    line.extend_from_slice(ACCEPT_ENCODING.as_bytes());
    if let Ok(value) = Value::new(&line) {
        fields.set(VARY, value);
    }
}

fn weaken(fields: &mut Fields) {
    let weak = match fields.only("ETag") {
        // Already weak; case-sensitive, RFC 9110 section 8.8.3.
        Some([b'W', b'/', ..]) => return,
        Some(strong @ [b'"', .., b'"']) => [b"W/", strong].concat(),
        // No tag, or none that may be kept with other bytes.
        _ => Vec::new(),
    };
    match Value::new(&weak) {
        Ok(value) if !weak.is_empty() => fields.set(Name::from_static("ETag"), value),
        _ => {
            fields.remove("ETag");
        }
    }
}

/// Whether the answer is of a coding or a part already, or signed as it is.
fn is_bound(answer: &Fields) -> bool {
    // RFC 9421: what is signed would not be what arrives.
    const BINDING: [&str; 3] = ["Content-Encoding", "Content-Range", "Signature"];
    BINDING.iter().any(|name| answer.contains(name))
}

/// Source: RFC 9111 sections 5.2.1.6 and 5.2.2.6, RFC 9110 section 7.7.
fn forbids_transforms(fields: &Fields) -> bool {
    let mut directives = fields.all("Cache-Control").flat_map(fields::elements);
    directives.any(|directive| directive.eq_ignore_ascii_case(b"no-transform"))
}

fn is_digest(name: &str) -> bool {
    DIGESTS
        .iter()
        .any(|digest| name.eq_ignore_ascii_case(digest))
}

impl TypePattern {
    fn new(text: &str) -> Self {
        let text = text.to_ascii_lowercase();
        match text.strip_suffix('*') {
            Some("*/") => Self::Any,
            Some(main) if main.ends_with('/') => Self::Main(main.to_owned()),
            _ => Self::Exact(text),
        }
    }

    fn fits(&self, essence: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Main(main) => essence.starts_with(main.as_str()),
            Self::Exact(exact) => essence == exact,
        }
    }
}

#[cfg(test)]
mod tests;
