//! Which rule a head breaks that could not be split.
//!
//! `httparse` says where it stopped and not why in our words; refusals are rare, so the lines are looked at again.

use evenkeel_http::Rule;
use evenkeel_http::head::METHOD_BYTES_MAX;
use evenkeel_http::list::is_token_byte;
use evenkeel_http::strict;

/// Why these lines, each with its CR LF, are no fields.
pub(crate) fn fields(lines: &[u8]) -> &'static Rule {
    let lines = lines.split(|&byte| byte == b'\n');
    lines.filter_map(field).next().unwrap_or(&strict::NAME_BYTE)
}

fn field(line: &[u8]) -> Option<&'static Rule> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match line {
        [] => return None,
        [b' ' | b'\t', ..] => return Some(&strict::LINE_FOLD),
        _ => {}
    }
    let Some(colon) = line.iter().position(|&byte| byte == b':') else {
        return Some(&strict::FIELD_COLON);
    };
    match &line[..colon] {
        [] => Some(&strict::NAME_EMPTY),
        [.., b' ' | b'\t'] => Some(&strict::NAME_SPACE),
        name if name.iter().copied().all(is_token_byte) => None,
        _ => Some(&strict::NAME_BYTE),
    }
}

/// Why this line is no request line; without its CR LF.
pub(crate) fn request_line(line: &[u8]) -> &'static Rule {
    let mut parts = line.split(|&byte| byte == b' ');
    let (method, target) = (parts.next().unwrap_or_default(), parts.next());
    let (version, more) = (parts.next(), parts.next());
    if method.is_empty() || target == Some(b"") || version == Some(b"") || more.is_some() {
        return &strict::REQUEST_LINE;
    }
    if !method.iter().copied().all(is_token_byte) {
        return &strict::METHOD_BYTE;
    }
    if method.len() > METHOD_BYTES_MAX {
        return &strict::METHOD_LONG;
    }
    match (target, version) {
        (None, _) => &strict::REQUEST_LINE,
        (Some(_), None) => &strict::VERSION_MALFORMED,
        (Some(_), Some(version)) if version != b"HTTP/1.0" && version != b"HTTP/1.1" => {
            self::version(version)
        }
        (Some(_), Some(_)) => &strict::TARGET_BYTE,
    }
}

fn version(version: &[u8]) -> &'static Rule {
    match version {
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            &strict::VERSION_UNSUPPORTED
        }
        _ => &strict::VERSION_MALFORMED,
    }
}

/// Why this line is no status line; without its CR LF.
pub(crate) fn status_line(line: &[u8]) -> &'static Rule {
    match line {
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor, b' ', ..]
            if major.is_ascii_digit()
                && minor.is_ascii_digit()
                && !line.starts_with(b"HTTP/1.0")
                && !line.starts_with(b"HTTP/1.1") =>
        {
            &strict::VERSION_UNSUPPORTED
        }
        _ => &strict::STATUS_LINE,
    }
}
