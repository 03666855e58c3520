//! The path of a request: its one normal form, and the other ways in which a backend may read it.

use std::borrow::Cow;

use super::Refusal;

/// Most bytes that are written for all readings of one path together; what a hostile path costs is bounded by it.
const READINGS_BYTES_MAX: usize = 32_768;

/// The path in the form that routes are compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Normal<'a> {
    /// `raw` with codes of unreserved characters decoded and other codes in capital letters. As many segments as `raw`.
    pub path: Cow<'a, [u8]>,
    /// Whether a backend may read it in other ways, so that [`Readings`] are to be looked at.
    pub has_readings: bool,
}

/// `raw` in its normal form (RFC 3986 sections 6.2.2.1 and 6.2.2.2).
///
/// # Errors
/// [`Refusal`]: `NotAbsolute`, `Byte`, `Escape`, `Nul`, `DotSegment`.
pub fn normal(raw: &[u8]) -> Result<Normal<'_>, Refusal> {
    if raw == b"*" {
        return Ok(Normal {
            path: Cow::Borrowed(raw),
            has_readings: false,
        });
    }
    if raw.first() != Some(&b'/') {
        return Err(Refusal::NotAbsolute);
    }
    let mut seen = 0;
    let mut before = 0;
    for byte in raw {
        let class = CLASSES[usize::from(*byte)];
        seen |= class;
        // Two slashes, or a slash and a dot.
        if before == b'/' {
            seen |= class << 4;
        }
        before = *byte;
    }
    if seen & BAD != 0 {
        return Err(Refusal::Byte);
    }
    let path = if seen & CODE == 0 {
        Cow::Borrowed(raw)
    } else {
        Cow::Owned(decode_unreserved(raw)?)
    };
    if (seen & (CODE | (DOT << 4))) != 0 && has_dot_segment(&path) {
        return Err(Refusal::DotSegment);
    }
    let has_readings = seen & (OTHER | (SLASH << 4)) != 0 || path.contains(&b'%');
    Ok(Normal { path, has_readings })
}

/// Bits of [`CLASSES`]. The upper four of what was seen stand for the same after a slash.
const BAD: u8 = 1;
const CODE: u8 = 2;
const SLASH: u8 = 4;
const DOT: u8 = 8;
const OTHER: u8 = 16;

static CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte {
            0..=0x20 | 0x23 | 0x3f | 0x7f => BAD,
            0x25 => CODE,
            0x2f => SLASH,
            0x2e => DOT,
            0x3b | 0x5c => OTHER,
            _ => 0,
        };
        byte += 1;
    }
    classes
};

fn decode_unreserved(raw: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            out.push(*first);
            continue;
        }
        let (code, after) = code_of(after).ok_or(Refusal::Escape)?;
        rest = after;
        match code {
            0 => return Err(Refusal::Nul),
            _ if code.is_ascii_alphanumeric() || b"-._~".contains(&code) => out.push(code),
            _ => {
                const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                out.extend([
                    b'%',
                    DIGITS[usize::from(code >> 4)],
                    DIGITS[usize::from(code & 15)],
                ]);
            }
        }
    }
    Ok(out)
}

/// The byte whose two digits `text` starts with, and the rest.
fn code_of(text: &[u8]) -> Option<(u8, &[u8])> {
    let (digits, rest) = text.split_first_chunk::<2>()?;
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let code = digit(digits[0])? * 16 + digit(digits[1])?;
    Some((u8::try_from(code).ok()?, rest))
}

fn has_dot_segment(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/')
        .any(|segment| segment == b"." || segment == b"..")
}

/// All ways in which a backend may read a path, beyond the normal form; made one by one into one buffer.
///
/// A way is a choice of each of these, as far as the path gives a choice:
///
/// | what | seen in |
/// |---|---|
/// | codes are decoded once, twice, or with overlong UTF-8 as well | most; proxies behind proxies; old servers |
/// | what follows `;` in a segment is dropped, before or after decoding | Tomcat, Jetty, Spring |
/// | `\` is `/` | IIS, browsers, Node's `URL` |
/// | a decoded `?` or `#` ends the path | Apache's mod_rewrite (CVE-2024-38474) |
/// | empty segments are dropped | nginx, Apache, Flask |
///
/// Segments `.` and `..`, and NUL, are refused.
#[derive(Debug)]
pub struct Readings<'a> {
    raw: &'a [u8],
    choices: Choices,
    next: u16,
    buffer: Vec<u8>,
}

/// How many ways there are to do each.
#[derive(Clone, Copy, Debug)]
struct Choices {
    decode: u16,
    parameters: u16,
    backslash: u16,
    cut: u16,
    merge: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parameters {
    Keep,
    DropBefore,
    DropAfter,
}

impl<'a> Readings<'a> {
    /// The readings of a path that [`normal`] has accepted.
    ///
    /// # Errors
    /// [`Refusal::TooAmbiguous`] when there are so many that going through them would cost too much.
    pub fn new(raw: &'a [u8]) -> Result<Self, Refusal> {
        let mut once = Vec::with_capacity(raw.len());
        decode_into(raw, &mut once, false);
        let mut twice = Vec::with_capacity(raw.len());
        decode_into(&once, &mut twice, true);
        let anywhere = |byte: u8| twice.contains(&byte);
        let pair = |one: &[u8], other: &[u8]| {
            twice
                .windows(2)
                .any(|two| one.contains(&two[0]) && other.contains(&two[1]))
        };
        let choices = Choices {
            decode: if twice != once {
                4
            } else if once != raw {
                2
            } else {
                1
            },
            parameters: if anywhere(b';') { 3 } else { 1 },
            backslash: if anywhere(b'\\') { 2 } else { 1 },
            cut: if anywhere(b'?') || anywhere(b'#') {
                2
            } else {
                1
            },
            // A parameter that is dropped may leave an empty segment.
            merge: if pair(b"/\\", b"/\\;") { 2 } else { 1 },
        };
        if usize::from(choices.number()) * raw.len() > READINGS_BYTES_MAX {
            return Err(Refusal::TooAmbiguous);
        }
        Ok(Self {
            raw,
            choices,
            next: 0,
            buffer: once,
        })
    }

    /// The next one; `None` after the last.
    ///
    /// # Errors
    /// [`Refusal::DotSegment`] and [`Refusal::Nul`] when there is such in this reading.
    #[expect(
        clippy::should_implement_trait,
        reason = "each reading borrows the one buffer, which Iterator does not allow"
    )]
    pub fn next(&mut self) -> Result<Option<&[u8]>, Refusal> {
        if self.next == self.choices.number() {
            return Ok(None);
        }
        let mut number = self.next;
        self.next += 1;
        let mut pick = |ways: u16| {
            let picked = number % ways;
            number /= ways;
            picked
        };
        let decode = pick(self.choices.decode);
        let parameters = match pick(self.choices.parameters) {
            0 => Parameters::Keep,
            1 => Parameters::DropBefore,
            _ => Parameters::DropAfter,
        };
        let backslash = pick(self.choices.backslash) == 1;
        let cut = pick(self.choices.cut) == 1;
        let merge = pick(self.choices.merge) == 1;
        let mut path = self.raw.to_vec();
        if parameters == Parameters::DropBefore {
            drop_parameters(&mut path);
        }
        // Not at all; once; once with overlong forms; that twice.
        let (rounds, overlong) =
            [(0, false), (1, false), (1, true), (2, true)][usize::from(decode)];
        for _ in 0..rounds {
            self.buffer.clear();
            decode_into(&path, &mut self.buffer, overlong);
            std::mem::swap(&mut path, &mut self.buffer);
        }
        if cut && let Some(end) = path.iter().position(|byte| matches!(byte, b'?' | b'#')) {
            path.truncate(end);
        }
        if backslash {
            for byte in path.iter_mut().filter(|byte| **byte == b'\\') {
                *byte = b'/';
            }
        }
        if parameters == Parameters::DropAfter {
            drop_parameters(&mut path);
        }
        self.buffer.clear();
        resolve(&path, merge, &mut self.buffer)?;
        Ok(Some(&self.buffer))
    }
}

impl Choices {
    fn number(self) -> u16 {
        self.decode * self.parameters * self.backslash * self.cut * self.merge
    }
}

/// Every code decoded; what is no code stays. With `overlong` also two bytes that hold seven bits (0xC0 0xAF is a slash to whoever
/// does not check).
fn decode_into(path: &[u8], out: &mut Vec<u8>, overlong: bool) {
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let mut byte = *first;
        if byte == b'%'
            && let Some((code, after)) = code_of(after)
        {
            byte = code;
            rest = after;
        }
        if overlong && let (Some(lead @ (0xc0 | 0xc1)), 0x80..=0xbf) = (out.last().copied(), byte) {
            out.pop();
            byte = ((lead & 1) << 6) | (byte & 0x3f);
        }
        out.push(byte);
    }
}

/// Drops from each `;` to the next slash.
fn drop_parameters(path: &mut Vec<u8>) {
    let mut inside = false;
    path.retain(|byte| {
        inside = match byte {
            b'/' => false,
            b';' => true,
            _ => inside,
        };
        !inside
    });
}

fn resolve(path: &[u8], merge: bool, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let mut segments = path.split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        if segment == b"." || segment == b".." {
            return Err(Refusal::DotSegment);
        }
        if segment.contains(&0) {
            return Err(Refusal::Nul);
        }
        let is_last = segments.peek().is_none();
        if merge && segment.is_empty() {
            if is_last {
                out.push(b'/');
            }
            continue;
        }
        out.push(b'/');
        out.extend_from_slice(segment);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal_text(raw: &str) -> Result<String, Refusal> {
        normal(raw.as_bytes()).map(|normal| String::from_utf8_lossy(&normal.path).into_owned())
    }

    fn readings(raw: &str) -> Result<Vec<String>, Refusal> {
        let mut readings = Readings::new(raw.as_bytes())?;
        let mut all = Vec::new();
        while let Some(reading) = readings.next()? {
            all.push(String::from_utf8_lossy(reading).into_owned());
        }
        all.sort();
        all.dedup();
        Ok(all)
    }

    #[test]
    fn spellings_that_mean_the_same_to_everybody_are_one() {
        for (raw, normal, has_readings) in [
            ("/", "/", false),
            ("*", "*", false),
            ("/a/b", "/a/b", false),
            ("/%61dmin", "/admin", false),
            ("/a%2db%7E", "/a-b~", false),
            ("/%c3%a9", "/%C3%A9", true),
            ("/a%2fb", "/a%2Fb", true),
            ("/a;b", "/a;b", true),
            ("/a\\b", "/a\\b", true),
            ("//a", "//a", true),
            ("/...", "/...", false),
            ("/.well-known/x", "/.well-known/x", false),
            ("/a.", "/a.", false),
            ("/%2ehtaccess", "/.htaccess", false),
        ] {
            let found = super::normal(raw.as_bytes()).unwrap();
            assert_eq!(String::from_utf8_lossy(&found.path), normal, "{raw}");
            assert_eq!(found.has_readings, has_readings, "{raw}");
        }
    }

    #[test]
    fn what_no_client_sends_is_refused() {
        for (raw, refusal) in [
            ("", Refusal::NotAbsolute),
            ("a", Refusal::NotAbsolute),
            ("**", Refusal::NotAbsolute),
            ("http://x/", Refusal::NotAbsolute),
            ("/a b", Refusal::Byte),
            ("/a\tb", Refusal::Byte),
            ("/a\0", Refusal::Byte),
            ("/a#b", Refusal::Byte),
            ("/a?b", Refusal::Byte),
            ("/a\u{7f}", Refusal::Byte),
            ("/%", Refusal::Escape),
            ("/%2", Refusal::Escape),
            ("/%zz", Refusal::Escape),
            ("/%+1", Refusal::Escape),
            ("/%u002e", Refusal::Escape),
            ("/a%00", Refusal::Nul),
            ("/.", Refusal::DotSegment),
            ("/..", Refusal::DotSegment),
            ("/a/../b", Refusal::DotSegment),
            ("/a/./b", Refusal::DotSegment),
            ("/a/..", Refusal::DotSegment),
            ("/a/%2e%2e/b", Refusal::DotSegment),
            ("/a/.%2E/b", Refusal::DotSegment),
            ("/%2e/b", Refusal::DotSegment),
        ] {
            assert_eq!(normal_text(raw), Err(refusal), "{raw:?}");
        }
    }

    #[test]
    fn every_reading_is_found() {
        for (raw, all) in [
            ("/a%2Fb", vec!["/a%2Fb", "/a/b"]),
            ("//a", vec!["//a", "/a"]),
            ("/a//", vec!["/a/", "/a//"]),
            ("/a;x/b", vec!["/a/b", "/a;x/b"]),
            ("/;x/b", vec!["//b", "/;x/b", "/b"]),
            ("/a\\b", vec!["/a/b", "/a\\b"]),
            ("/a%5Cb", vec!["/a%5Cb", "/a/b", "/a\\b"]),
            ("/a%252Fb", vec!["/a%252Fb", "/a%2Fb", "/a/b"]),
            ("/a%3Fb", vec!["/a", "/a%3Fb", "/a?b"]),
        ] {
            assert_eq!(readings(raw).unwrap(), all, "{raw}");
        }
        let overlong = readings("/a%C0%AFb").unwrap();
        assert!(overlong.contains(&"/a/b".to_owned()), "{overlong:?}");
    }

    #[test]
    fn no_disguise_hides_a_way_up() {
        for raw in [
            "/a/..%2fb",
            "/a/..%2Fb",
            "/a%2f..%2fb",
            "/a/..;/b",
            "/a/..;x=y/b",
            "/a/%2e%2e;/b",
            "/a/..%3b/b",
            "/a/..\\b",
            "/a\\..\\b",
            "/a/..%5cb",
            "/a/%252e%252e/b",
            "/a/%252e%252e%252fb",
            "/a/.%252e/b",
            "/a/%c0%ae%c0%ae/b",
            "/a/..%c0%afb",
            "/a/%c0%ae./b",
            "/a/..%3f",
            "/a/..%23x",
            "/a/.;/..;/b",
            "/a%2F.%2Fb",
            "/a%2F.",
            "/a\\.",
            "/a/.;x",
        ] {
            // Some have a plain dot segment and are refused earlier.
            let refused = normal_text(raw).err().or_else(|| readings(raw).err());
            assert_eq!(refused, Some(Refusal::DotSegment), "{raw}");
        }
        assert_eq!(readings("/a%2500"), Err(Refusal::Nul));
    }

    #[test]
    fn a_path_of_every_kind_of_doubt_is_refused_when_it_is_long() {
        let raw = format!("/%252F;\\%3F//{}", "a".repeat(8_000));
        assert_eq!(readings(&raw), Err(Refusal::TooAmbiguous));
        let raw = format!("/{}%2F{}", "a".repeat(4_000), "b".repeat(3_000));
        assert!(readings(&raw).is_ok());
    }
}
