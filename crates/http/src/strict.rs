//! The table of strictness: everything that is refused or taken out, each with its reason, its source and its verdict.
//!
//! Parsers answer with a reference into this table and with nothing else, so that the log, the answer to the client, the
//! tests' corpus and the documentation name the same rule. What two parsers could read in two ways is refused and the
//! connection closed, since what follows on it cannot be told apart any more.
//!
//! Every message of the corpus that is accepted was also sent through HAProxy 2.6.12 and nginx 1.22.1. HAProxy accepts all of
//! them but a 101 behind a 103; nginx refuses methods with letters other than capitals, `OPTIONS *`, and tabs around values of
//! framing fields. These are valid and served here: what goes on is written afresh.
//!
//! Sources: "9110" and "9112" are RFC 9110 and RFC 9112.

mod reference;

pub use reference::reference_markdown;

/// One line of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name in logs, metrics and tests. Lower case, hyphens; unique.
    pub id: &'static str,
    /// What it forbids; a fragment that fits after "refused: ".
    pub forbids: &'static str,
    /// What could go wrong without it.
    pub reason: &'static str,
    /// RFC section or advisory.
    pub source: &'static str,
    /// What happens.
    pub verdict: Verdict,
}

/// What a rule does to the message that breaks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A request is answered with this status and its connection is closed; an answer of a backend becomes a 502 and its
    /// connection is closed.
    Refuse(u16),
    /// An answer that only a backend can give: 502, and its connection is closed.
    BadGateway,
    /// The field is taken out and the message goes on without it.
    Remove,
}

/// Whose message broke a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A client's request: the client's fault, which never counts against a backend.
    Request,
    /// A backend's answer.
    Answer,
}

impl Rule {
    /// The status that the client is answered with. `None` for what is only taken out.
    #[must_use]
    pub const fn status(&self, side: Side) -> Option<u16> {
        match (self.verdict, side) {
            (Remove, _) => None,
            (Refuse(status), Side::Request) => Some(status),
            (Refuse(_) | BadGateway, _) => Some(502),
        }
    }

    /// The rule of that name.
    #[must_use]
    pub fn named(id: &str) -> Option<&'static Self> {
        TABLE.iter().copied().find(|rule| rule.id == id)
    }
}

macro_rules! table {
    ($($(#[$doc:meta])* $name:ident = $id:literal, $verdict:expr, $forbids:literal, $reason:literal, $source:literal;)*) => {
        $(
            #[doc = concat!("`", $id, "`: ", $forbids, ".")]
            pub static $name: Rule = Rule {
                id: $id,
                forbids: $forbids,
                reason: $reason,
                source: $source,
                verdict: $verdict,
            };
        )*
        /// All rules, in the order of a message.
        pub static TABLE: &[&Rule] = &[$(&$name),*];
    };
}

use Verdict::{BadGateway, Refuse, Remove};

table! {
    // Bytes and lines.
    BYTE_NUL = "byte-nul", Refuse(400), "a NUL in a head",
        "ends the text for parsers written in C, so that they see less than others", "9110 5.5; CVE-2019-15605";
    BYTE_CONTROL = "byte-control", Refuse(400), "a control character other than a tab in a head",
        "some parsers take vertical tabs and the like for white space", "9110 5.5";
    LINE_LF = "line-lf", Refuse(400), "a line feed without a carriage return",
        "a line end for some and content for others", "9112 2.2; errata 7633; CVE-2025-22871";
    LINE_CR = "line-cr", Refuse(400), "a carriage return without a line feed",
        "a line end for some and content for others", "9112 2.2";
    LINE_FOLD = "line-fold", Refuse(400), "a line that begins with white space",
        "a continuation for some, a line of its own or nothing for others", "9112 2.2, 5.2; CVE-2025-32094, CVE-2025-55702";
    LINES_EMPTY = "lines-empty", Refuse(400), "more than one empty line before a request, or one before an answer",
        "what precedes a message belongs to none, and there would be no limit to it", "9112 2.2";

    // Limits.
    HEAD_LONG = "head-long", Refuse(431), "a head longer than the limit",
        "memory is held for it before anything is known of its sender", "9110 5.4; CVE-2019-15226";
    FIELDS_MANY = "fields-many", Refuse(431), "more fields than the limit",
        "each costs time in every stage", "9110 5.4; CVE-2019-15226";
    NAME_LONG = "name-long", Refuse(431), "a field name longer than 255 bytes",
        "lengths that overflow a byte cut names short elsewhere", "CVE-2021-40346";
    TARGET_LONG = "target-long", Refuse(414), "a request target longer than the limit",
        "memory is held for it", "9112 3; 9110 4.1";

    // The request line.
    REQUEST_LINE = "request-line", Refuse(400), "a request line that is not method, target and version with one space between",
        "parsers that split at other places see another target", "9112 3; CVE-2021-39241";
    METHOD_BYTE = "method-byte", Refuse(400), "a method that is not a token",
        "it could carry a second request line", "9110 9.1; CVE-2021-39241";
    METHOD_LONG = "method-long", Refuse(501), "a method longer than 32 bytes",
        "no method is", "9112 3";
    METHOD_CONNECT = "method-connect", Refuse(501), "CONNECT",
        "a tunnel carries bytes that nobody parsed", "9110 9.3.6; CVE-2026-71324, CVE-2026-42584";
    METHOD_TRACE = "method-trace", Refuse(501), "TRACE",
        "the answer shows what we added, and cookies to scripts", "9110 9.3.8";
    TARGET_BYTE = "target-byte", Refuse(400), "a byte in the target that is not visible ASCII",
        "encoded by some and cut off by others", "RFC 3986 2; 9112 3.2";
    TARGET_FRAGMENT = "target-fragment", Refuse(400), "a number sign in the target",
        "a path for routing here and another one behind", "9110 7.1; CVE-2023-45539, CVE-2023-47106";
    TARGET_FORM = "target-form", Refuse(400), "a target that is neither a path nor an absolute http URI nor an asterisk",
        "joined to something else behind it becomes another host", "9112 3.2";
    TARGET_ASTERISK = "target-asterisk", Refuse(400), "the target * with a method other than OPTIONS",
        "it names no resource", "9112 3.2.4";
    TARGET_SCHEME = "target-scheme", Refuse(400), "an absolute target with a scheme other than http and https",
        "not ours to serve", "9112 3.2.2; CVE-2021-39240";
    TARGET_AUTHORITY = "target-authority", Refuse(400), "an absolute target with an empty or malformed authority, with user information, or with a query right behind it",
        "user information disguises the host, and so does a query for those who look for a slash", "9110 4.2.4; CVE-2021-39240, CVE-2021-39242";
    TARGET_ESCAPE = "target-escape", Refuse(400), "a percent sign in a path without two hexadecimal digits, or %00",
        "decoded by each in its own way", "RFC 3986 2.1; nginx refuses it";
    TARGET_ABOVE_ROOT = "target-above-root", Refuse(400), "a path whose dot segments climb above the root",
        "it leaves the part of a server that a route was meant to open", "RFC 3986 5.2.4; nginx refuses it";
    VERSION_MALFORMED = "version-malformed", Refuse(400), "a version that is not HTTP/ and two digits, or none",
        "HTTP/0.9 has no head, so that the next line would be another request", "9112 2.3; CVE-2021-39241";
    VERSION_UNSUPPORTED = "version-unsupported", Refuse(505), "a version other than 1.0 and 1.1",
        "its framing is another one", "9110 15.6.6";

    // Fields.
    FIELD_COLON = "field-colon", Refuse(400), "a field line without a colon",
        "skipped by some and the end of the head for others", "9112 5";
    NAME_EMPTY = "name-empty", Refuse(400), "a field without a name",
        "cuts the head short elsewhere", "9112 5; CVE-2023-25725";
    NAME_SPACE = "name-space", Refuse(400), "white space between a field's name and its colon",
        "another name for some", "9112 5.1; CVE-2019-16276";
    NAME_BYTE = "name-byte", Refuse(400), "a field name that is not a token",
        "another name for those who skip the byte", "9110 5.1";

    // Host.
    HOST_MISSING = "host-missing", Refuse(400), "an HTTP/1.1 request without a Host",
        "routed by a default here and by another one behind", "9112 3.2";
    HOST_SEVERAL = "host-several", Refuse(400), "more than one Host",
        "one routes here, the other one behind", "9112 3.2";
    HOST_MALFORMED = "host-malformed", Refuse(400), "a Host that is empty or no host with an optional port",
        "what is not an address or a name is taken apart differently", "9112 3.2; 9110 7.2";
    HOST_AGAINST_TARGET = "host-against-target", Refuse(400), "a Host that is not the authority of an absolute target",
        "one routes here, the other one behind", "9112 3.2.2; CVE-2021-39242";

    // Framing.
    LENGTH_MALFORMED = "length-malformed", Refuse(400), "a Content-Length that is not one decimal number",
        "signs, lists, and empty ones are read as different numbers", "9110 8.6; CVE-2021-32715, CVE-2023-40225, CVE-2023-34188";
    LENGTH_LARGE = "length-large", Refuse(400), "a Content-Length of 2^63 or more",
        "wraps elsewhere", "9110 8.6";
    LENGTH_SEVERAL = "length-several", Refuse(400), "more than one Content-Length, equal ones too",
        "the first counts for some and the last for others", "9112 6.3; nginx refuses it";
    TE_AND_LENGTH = "te-and-length", Refuse(400), "Transfer-Encoding and Content-Length in one message",
        "the classic of request smuggling", "9112 6.1, 6.3";
    TE_SEVERAL = "te-several", Refuse(400), "more than one Transfer-Encoding field",
        "the first counts for some and the last for others", "9112 6.1; CVE-2021-21299, CVE-2026-2835";
    TE_MALFORMED = "te-malformed", Refuse(400), "a Transfer-Encoding that is no list of codings, or where chunked is not the last and the only one of its name",
        "unknown to some, chunked for others", "9112 6.1, 7; CVE-2019-18277, CVE-2019-15605";
    TE_UNSUPPORTED = "te-unsupported", Refuse(501), "a transfer coding other than chunked",
        "who does not know it cannot find the end of the body", "9112 6.1";
    TE_HTTP10 = "te-http10", Refuse(400), "Transfer-Encoding in an HTTP/1.0 message",
        "its version does not know it, so the sender's framing is in doubt", "9112 6.1; CVE-2026-2835";
    BODY_HTTP10 = "body-http10", Refuse(413), "an HTTP/1.0 GET, HEAD or DELETE with a body",
        "servers of that time take the body for the next request", "9112 C.2; HAProxy refuses it";

    // Connection.
    CONNECTION_MALFORMED = "connection-malformed", Refuse(400), "a Connection or Upgrade field that is not a list of tokens",
        "what it names would be kept by us and removed by others, or the other way round", "9110 7.6.1";
    EXPECT_UNKNOWN = "expect-unknown", Refuse(417), "an Expect other than one 100-continue",
        "who does not know it answers before the body, and the body becomes a request", "9110 10.1.1; CVE-2025-32094";
    WEBSOCKET_KEY = "websocket-key", Refuse(400), "an upgrade to websocket without exactly one key of 16 bytes in Base64",
        "no handshake that a server may take", "RFC 6455 4.2.1; HAProxy refuses it";

    // Chunked bodies.
    CHUNK_SIZE = "chunk-size", Refuse(400), "a chunk size that is not hexadecimal digits",
        "signs, prefixes and white space are read as different numbers", "9112 7.1";
    CHUNK_SIZE_LARGE = "chunk-size-large", Refuse(400), "a chunk size of more than 16 digits, or of 2^63 or more",
        "wraps elsewhere", "9112 7.1; CVE-2021-32714";
    CHUNK_EXTENSION = "chunk-extension", Refuse(400), "a malformed chunk extension",
        "lines that end at another place for another parser", "9112 7.1.1; CVE-2025-55315, CVE-2026-24033";
    CHUNK_EXTENSIONS_MANY = "chunk-extensions-many", Refuse(400), "more bytes of chunk extensions in one body than the limit",
        "work without content", "9112 7.1.1; CVE-2023-39326";
    CHUNK_END = "chunk-end", Refuse(400), "chunk data not followed by CR LF",
        "skipped by parsers that take any two bytes", "9112 7.1; Varnish VSV00016";
    TRAILERS_LONG = "trailers-long", Refuse(431), "trailers longer than the limit",
        "memory is held for them", "9112 7.1.2; CVE-2024-35161";

    // Answers.
    STATUS_LINE = "status-line", BadGateway, "a status line that is not a version and three digits",
        "no answer, or what is left of another one", "9112 4";
    STATUS_RANGE = "status-range", BadGateway, "a status below 100 or above 599",
        "outside of every class", "9110 15";
    SWITCH_UNASKED = "switch-unasked", BadGateway, "a 101 to a request that asked for no upgrade",
        "what follows would be a tunnel that nobody asked for", "9110 15.2.2; CVE-2026-2833, CVE-2026-73548";
    SWITCH_UNNAMED = "switch-unnamed", BadGateway, "a 101 that does not name the protocol that was asked for, or without exactly one Sec-WebSocket-Accept",
        "the two sides would speak different protocols", "9110 7.8, 15.2.2; RFC 6455 4.1; HAProxy refuses it";
    INTERIM_FRAMING = "interim-framing", BadGateway, "a 1xx answer with a length or a transfer coding",
        "some would wait for its body", "9112 6.1; 9110 8.6";

    // Taken out.
    REMOVE_HOP_BY_HOP = "remove-hop-by-hop", Remove, "Connection, Keep-Alive, Proxy-*, TE, Trailer, Transfer-Encoding, Upgrade",
        "they are about one connection; ours are written afresh", "9110 7.6.1";
    REMOVE_NAMED = "remove-named", Remove, "every field that Connection names, before ours are added",
        "so that no client can have ours removed behind us", "9110 7.6.1; CVE-2022-31813, CVE-2024-45410, CVE-2025-48865";
    REMOVE_UPGRADE = "remove-upgrade", Remove, "an upgrade to anything but websocket, h2c above all, or with a body, or not with GET over 1.1",
        "a tunnel past the routes", "9110 7.8; h2c smuggling (2020)";
    REMOVE_PROXY = "remove-proxy", Remove, "a request field named Proxy",
        "becomes HTTP_PROXY in CGI environments", "CVE-2016-5385";
    REMOVE_UNDERSCORE = "remove-underscore", Remove, "request fields with an underscore in the name (unless kept; never those of framing and host)",
        "the same variable as the field with a hyphen in CGI and WSGI environments", "CVE-2025-64484; nginx removes them";
    REMOVE_TRAILER = "remove-trailer", Remove, "trailers that frame, route, authenticate or describe content",
        "merged into the head somewhere behind, they change it after it was checked", "9110 6.5.1; CVE-2024-35161";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn rules_have_names_of_their_own_and_known_statuses() {
        let ids: BTreeSet<_> = TABLE.iter().map(|rule| rule.id).collect();
        assert_eq!(ids.len(), TABLE.len());
        for rule in TABLE {
            let word =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            assert!(rule.id.bytes().all(word), "{}", rule.id);
            if let Refuse(status) = rule.verdict {
                assert!(
                    [400, 413, 414, 417, 431, 501, 505].contains(&status),
                    "{}",
                    rule.id
                );
                assert_eq!(rule.status(Side::Answer), Some(502));
            }
        }
        assert_eq!(Rule::named("te-several"), Some(&TE_SEVERAL));
    }
}
