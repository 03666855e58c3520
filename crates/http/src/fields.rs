//! Which fields may pass.
//!
//! What is about one connection never does: `Connection` and what it names, and the fields below. A parser takes them out
//! before anything else sees the head, so that what is added later can be removed by nobody.

use crate::head::Declared;
use crate::list::{self, Fields};
use crate::strict::{self, Rule, Side};

/// Fields that mean something to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// `Connection`.
    Connection,
    /// `Content-Length`.
    ContentLength,
    /// `Expect`.
    Expect,
    /// `Host`.
    Host,
    /// `HTTP2-Settings`: belongs to an upgrade to h2c, which never happens.
    Http2Settings,
    /// `Keep-Alive`.
    KeepAlive,
    /// `Proxy`, which becomes an environment variable that means something else. Requests only.
    Proxy,
    /// Any name that begins with `Proxy-`.
    ProxyAny,
    /// `Sec-WebSocket-Key`.
    SecWebsocketKey,
    /// `TE`.
    Te,
    /// `Trailer`.
    Trailer,
    /// `Transfer-Encoding`.
    TransferEncoding,
    /// `Upgrade`.
    Upgrade,
}

impl Known {
    /// What the field of that name is to us.
    #[must_use]
    pub fn named(name: &[u8]) -> Option<Self> {
        let (known, field) = match name.len() {
            2 => ("te", Self::Te),
            4 => ("host", Self::Host),
            5 => ("proxy", Self::Proxy),
            6 => ("expect", Self::Expect),
            7 if name[0] | 0x20 == b't' => ("trailer", Self::Trailer),
            7 => ("upgrade", Self::Upgrade),
            10 if name[0] | 0x20 == b'k' => ("keep-alive", Self::KeepAlive),
            10 if name[0] | 0x20 == b'c' => ("connection", Self::Connection),
            14 if name[0] | 0x20 == b'c' => ("content-length", Self::ContentLength),
            14 if name[0] | 0x20 == b'h' => ("http2-settings", Self::Http2Settings),
            17 if name[0] | 0x20 == b't' => ("transfer-encoding", Self::TransferEncoding),
            17 if name[0] | 0x20 == b's' => ("sec-websocket-key", Self::SecWebsocketKey),
            _ => return proxy_any(name),
        };
        if name.eq_ignore_ascii_case(known.as_bytes()) {
            Some(field)
        } else {
            proxy_any(name)
        }
    }

    /// Whether it is never copied from one connection to another.
    #[must_use]
    pub const fn is_hop_by_hop(self, side: Side) -> bool {
        match self {
            Self::Connection
            | Self::Http2Settings
            | Self::KeepAlive
            | Self::ProxyAny
            | Self::Te
            | Self::Trailer
            | Self::TransferEncoding
            | Self::Upgrade => true,
            Self::Proxy => matches!(side, Side::Request),
            Self::ContentLength | Self::Expect | Self::Host | Self::SecWebsocketKey => false,
        }
    }
}

fn proxy_any(name: &[u8]) -> Option<Known> {
    let begins = name.first().is_some_and(|first| first | 0x20 == b'p');
    (begins && name.len() > 6 && name[..6].eq_ignore_ascii_case(b"proxy-"))
        .then_some(Known::ProxyAny)
}

/// Whether an underscore makes `name` another spelling of `of`, for environments where both become one variable.
#[must_use]
pub fn is_twin(name: &[u8], of: &str) -> bool {
    let of = of.as_bytes();
    let alike = |(a, b): (&u8, &u8)| a.eq_ignore_ascii_case(b) || (*a == b'_' && *b == b'-');
    name.len() == of.len() && name.contains(&b'_') && name.iter().zip(of).all(alike)
}

/// Whether `name` has an underscore in the place of a hyphen of a field that frames, routes or is about the connection:
/// such a one never passes, even where underscores are kept.
#[must_use]
pub fn is_twin_of_known(name: &[u8]) -> bool {
    const NAMES: [&str; 4] = [
        "content-length",
        "transfer-encoding",
        "keep-alive",
        "http2-settings",
    ];
    NAMES.iter().any(|known| is_twin(name, known))
}

/// What all `Connection` fields of a head say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionOptions {
    /// `close`.
    pub close: bool,
    /// `keep-alive`.
    pub keep_alive: bool,
    /// `upgrade`.
    pub upgrade: bool,
    /// Something else: [`remove_named`] is to be called.
    pub names_others: bool,
}

impl ConnectionOptions {
    /// Reads one more `Connection` field.
    ///
    /// # Errors
    /// `connection-malformed`.
    pub fn read(&mut self, value: &[u8]) -> Result<(), &'static Rule> {
        for option in elements(value) {
            match option.len() {
                5 if option.eq_ignore_ascii_case(b"close") => self.close = true,
                7 if option.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
                10 if option.eq_ignore_ascii_case(b"keep-alive") => self.keep_alive = true,
                _ if option.iter().copied().all(list::is_token_byte) => self.names_others = true,
                _ => return Err(&strict::CONNECTION_MALFORMED),
            }
        }
        Ok(())
    }
}

/// Removes the fields that a `Connection` with this value names. Framing and host are not among the fields of a head, so
/// they cannot be named away.
pub fn remove_named(fields: &mut Fields, connection: &[u8]) {
    for option in elements(connection) {
        if let Ok(name) = std::str::from_utf8(option) {
            fields.remove(name);
        }
    }
}

/// The elements of a list, without white space around them, empty ones passed over. Source: RFC 9110 5.6.1.2.
pub fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let parts = value.split(|&byte| byte == b',');
    parts.map(list::trimmed).filter(|part| !part.is_empty())
}

/// What the framing fields of a head say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FramingFields {
    length: Option<u64>,
    chunked: bool,
}

impl FramingFields {
    /// Reads one more `Content-Length`. Leading zeros are allowed, since the number is written afresh.
    ///
    /// # Errors
    /// `length-several`, `length-malformed`, `length-large`, `te-and-length`.
    pub fn read_length(&mut self, value: &[u8]) -> Result<(), &'static Rule> {
        if self.length.is_some() {
            return Err(&strict::LENGTH_SEVERAL);
        }
        if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
            return Err(&strict::LENGTH_MALFORMED);
        }
        let mut length = 0_u64;
        for digit in value {
            length = length
                .checked_mul(10)
                .and_then(|tenfold| tenfold.checked_add(u64::from(digit - b'0')))
                .filter(|&length| length <= BODY_BYTES_MAX)
                .ok_or(&strict::LENGTH_LARGE)?;
        }
        self.length = Some(length);
        self.check()
    }

    /// Reads one more `Transfer-Encoding`.
    ///
    /// # Errors
    /// The rules `te-*` but `te-http10`.
    pub fn read_transfer_encoding(&mut self, value: &[u8]) -> Result<(), &'static Rule> {
        if self.chunked {
            return Err(&strict::TE_SEVERAL);
        }
        if !value.eq_ignore_ascii_case(b"chunked") {
            return Err(refused_coding(value));
        }
        self.chunked = true;
        self.check()
    }

    /// Both together.
    #[must_use]
    pub const fn declared(self) -> Declared {
        match (self.chunked, self.length) {
            (true, _) => Declared::Streamed,
            (false, Some(length)) => Declared::Length(length),
            (false, None) => Declared::Absent,
        }
    }

    const fn check(self) -> Result<(), &'static Rule> {
        if self.chunked && self.length.is_some() {
            Err(&strict::TE_AND_LENGTH)
        } else {
            Ok(())
        }
    }
}

/// Longest body and longest chunk in bytes.
pub const BODY_BYTES_MAX: u64 = i64::MAX as u64;

/// Why a `Transfer-Encoding` other than `chunked` is refused: well-formed but unknown is another status than ambiguous.
fn refused_coding(value: &[u8]) -> &'static Rule {
    let count = value.split(|&byte| byte == b',').count();
    for (at, coding) in value.split(|&byte| byte == b',').enumerate() {
        let coding = list::trimmed(coding);
        let token = !coding.is_empty() && coding.iter().copied().all(list::is_token_byte);
        let chunked = coding.eq_ignore_ascii_case(b"chunked");
        if !token
            || (chunked && at + 1 != count)
            || coding.eq_ignore_ascii_case(b"identity") && count > 1
        {
            return &strict::TE_MALFORMED;
        }
    }
    &strict::TE_UNSUPPORTED
}

/// Whether a field of that name may pass as a trailer: neither framing, routing, authentication, nor control of the
/// request, nor how content is to be read. Source: RFC 9110 6.5.1.
#[must_use]
pub fn may_be_trailer(name: &[u8]) -> bool {
    const NEVER: [&str; 33] = [
        "age",
        "authorization",
        "cache-control",
        "content-encoding",
        "content-location",
        "content-range",
        "content-type",
        "cookie",
        "date",
        "expires",
        "forwarded",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "location",
        "max-forwards",
        "origin",
        "pragma",
        "range",
        "referer",
        "retry-after",
        "set-cookie",
        "vary",
        "via",
        "warning",
        "www-authenticate",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-real-ip",
        "x-request-id",
    ];
    const NEVER_BEGINS: [&str; 4] = ["access-control-", "sec-", "x-auth-", "x-forwarded-"];
    let is = |other: &&str| name.eq_ignore_ascii_case(other.as_bytes());
    let begins = |other: &&str| {
        let head = name.get(..other.len());
        head.is_some_and(|head| head.eq_ignore_ascii_case(other.as_bytes()))
    };
    Known::named(name).is_none()
        && !name.contains(&b'_')
        && !NEVER.iter().any(is)
        && !NEVER_BEGINS.iter().any(begins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_are_known_in_any_case() {
        for (name, known) in [
            ("HOST", Known::Host),
            ("content-Length", Known::ContentLength),
            ("tE", Known::Te),
            ("Proxy-Whatever", Known::ProxyAny),
            ("Upgrade", Known::Upgrade),
            ("TRAILER", Known::Trailer),
            ("http2-settings", Known::Http2Settings),
            ("Sec-WebSocket-Key", Known::SecWebsocketKey),
            ("Keep-Alive", Known::KeepAlive),
        ] {
            assert_eq!(Known::named(name.as_bytes()), Some(known), "{name}");
        }
        for name in [
            "Accept",
            "Hosts",
            "ho5t",
            "Content-Type",
            "proxy_",
            "",
            "\u{0}e",
            "Content_Length",
        ] {
            assert_eq!(Known::named(name.as_bytes()), None, "{name}");
        }
    }

    #[test]
    fn twins_are_told() {
        assert!(is_twin(b"X_Forwarded-For", "x-forwarded-for"));
        assert!(!is_twin(b"X-Forwarded-For", "x-forwarded-for"));
        assert!(is_twin_of_known(b"content_length"));
    }

    #[test]
    fn connection_options_are_read_over_several_fields() {
        let mut options = ConnectionOptions::default();
        assert_eq!(options.read(b"Close, ,\tX-A"), Ok(()));
        assert_eq!(options.read(b""), Ok(()));
        assert_eq!(options.read(b"UPGRADE"), Ok(()));
        let expected = ConnectionOptions {
            close: true,
            keep_alive: false,
            upgrade: true,
            names_others: true,
        };
        assert_eq!(options, expected);
        assert_eq!(
            options.read(b"\"close\""),
            Err(&strict::CONNECTION_MALFORMED)
        );
        assert_eq!(options.read(b"a b"), Err(&strict::CONNECTION_MALFORMED));
    }

    #[test]
    fn lengths_at_their_limits() {
        let read = |value: &[u8]| {
            let mut framing = FramingFields::default();
            framing.read_length(value).map(|()| framing.declared())
        };
        assert_eq!(
            read(b"9223372036854775807"),
            Ok(Declared::Length(BODY_BYTES_MAX))
        );
        assert_eq!(read(b"9223372036854775808"), Err(&strict::LENGTH_LARGE));
        assert_eq!(
            read(b"000000000000000000000000000007"),
            Ok(Declared::Length(7))
        );
    }

    #[test]
    fn what_describes_the_message_is_no_trailer() {
        for name in [
            "Content-Length",
            "host",
            "TE",
            "Authorization",
            "Content_Type",
            "X-Forwarded-Port",
            "Set-Cookie",
        ] {
            assert!(!may_be_trailer(name.as_bytes()), "{name}");
        }
        for name in ["Digest", "X-Checksum", "Server-Timing", "ETag"] {
            assert!(may_be_trailer(name.as_bytes()), "{name}");
        }
    }
}
