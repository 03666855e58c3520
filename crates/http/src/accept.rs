//! What a client would rather have: `Accept` and `Accept-Encoding` (RFC 9110 sections 12.4 and 12.5).
//!
//! Nothing here fails: an element that is malformed says nothing, and a field that says nothing accepts everything.

/// A weight between 0 and 1 in thousandths; 0 = not wanted.
pub type Quality = u16;

/// Most elements of all lines of a field that are looked at. Browsers send up to ten.
pub const ELEMENTS_MAX: usize = 64;

const QUALITY_MAX: Quality = 1_000;

/// How much a client wants `media_type` (`text/html`, lower case, without parameters), by its lines of `Accept`.
///
/// The most specific range that fits counts: the type itself, then `text/*`, then `*/*`. Ranges with parameters
/// other than `q` ask for something that we do not have, and do not fit. Without a line everything is wanted alike; a type that no
/// range names is not wanted.
pub fn media_quality<'a>(lines: impl IntoIterator<Item = &'a [u8]>, media_type: &str) -> Quality {
    let main = media_type.split('/').next().unwrap_or_default();
    quality(lines, |range| {
        if range.eq_ignore_ascii_case(media_type.as_bytes()) {
            return Some(2);
        }
        let (range_main, b"/*") = range.split_at_checked(range.len().checked_sub(2)?)? else {
            return None;
        };
        match range_main {
            b"*" => Some(0),
            _ if range_main.eq_ignore_ascii_case(main.as_bytes()) => Some(1),
            _ => None,
        }
    })
}

/// How much a client wants `coding` (`gzip`, lower case), by its lines of `Accept-Encoding`. Without a line, or with a line that does
/// not name it, only `identity` is wanted; `identity` is wanted unless it is excluded.
pub fn coding_quality<'a>(
    lines: impl IntoIterator<Item = &'a [u8], IntoIter: Clone>,
    coding: &str,
) -> Quality {
    let lines = lines.into_iter();
    let is_identity = coding == "identity";
    if !names_coding(lines.clone(), coding) {
        return if is_identity { QUALITY_MAX } else { 0 };
    }
    quality(lines, |name| fits_coding(name, coding))
}

/// Whether `coding` is named by these lines of `Accept-Encoding`, perhaps by `*`, if only to exclude it.
pub fn names_coding<'a>(lines: impl IntoIterator<Item = &'a [u8]>, coding: &str) -> bool {
    let mut elements = lines.into_iter().flat_map(elements).take(ELEMENTS_MAX);
    elements.any(|element| fits_coding(element.name, coding).is_some())
}

fn fits_coding(name: &[u8], coding: &str) -> Option<u8> {
    // RFC 9110 section 8.4.1.3: x-gzip is gzip.
    let is_alias = coding == "gzip" && name.eq_ignore_ascii_case(b"x-gzip");
    if is_alias || name.eq_ignore_ascii_case(coding.as_bytes()) {
        Some(1)
    } else {
        (name == b"*").then_some(0)
    }
}

/// The weight of the most specific element; of two that are equally specific, the higher one.
fn quality<'a>(
    lines: impl IntoIterator<Item = &'a [u8]>,
    specific: impl Fn(&[u8]) -> Option<u8>,
) -> Quality {
    let mut any = false;
    let mut best: Option<(u8, Quality)> = None;
    for element in lines.into_iter().flat_map(elements).take(ELEMENTS_MAX) {
        any = true;
        if !element.has_parameters
            && let Some(specific) = specific(element.name)
        {
            best = best.max(Some((specific, element.quality)));
        }
    }
    match best {
        Some((_, quality)) => quality,
        None if any => 0,
        None => QUALITY_MAX,
    }
}

struct Element<'a> {
    name: &'a [u8],
    quality: Quality,
    /// Others than `q`.
    has_parameters: bool,
}

fn elements(line: &[u8]) -> impl Iterator<Item = Element<'_>> {
    let mut rest = line;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let (element, after) = split_unquoted(rest, b',');
            rest = after;
            if let Some(element) = read(element) {
                return Some(element);
            }
        }
        None
    })
}

fn read(text: &[u8]) -> Option<Element<'_>> {
    let (name, mut rest) = split_unquoted(text, b';');
    let name = name.trim_ascii();
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(byte);
    if name.is_empty() || !name.iter().all(is_name) {
        return None;
    }
    let mut element = Element {
        name,
        quality: QUALITY_MAX,
        has_parameters: false,
    };
    while !rest.is_empty() {
        let (parameter, after) = split_unquoted(rest, b';');
        rest = after;
        match parameter.trim_ascii() {
            [] => {}
            // What comes after the weight were extensions, which RFC 9110 has dropped.
            [b'q' | b'Q', b'=', weight @ ..] => {
                element.quality = weight_of(weight)?;
                break;
            }
            // A text answer may always say its charset.
            other if starts_with_charset(other) => {}
            _ => element.has_parameters = true,
        }
    }
    Some(element)
}

fn starts_with_charset(parameter: &[u8]) -> bool {
    let name = b"charset=";
    parameter
        .get(..name.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(name))
}

/// `0`, `1`, or up to three digits after the point (RFC 9110 section 12.4.2).
fn weight_of(text: &[u8]) -> Option<Quality> {
    let (whole, digits) = match text {
        [whole] => (whole, &[][..]),
        [whole, b'.', digits @ ..] if digits.len() <= 3 => (whole, digits),
        _ => return None,
    };
    let mut thousandths = match whole {
        b'0' => 0,
        b'1' => QUALITY_MAX,
        _ => return None,
    };
    for (digit, worth) in digits.iter().zip([100, 10, 1]) {
        let value = digit
            .is_ascii_digit()
            .then(|| Quality::from(digit - b'0'))?;
        thousandths += value * worth;
    }
    (thousandths <= QUALITY_MAX).then_some(thousandths)
}

/// Splits at the first `at` outside of a quoted string.
fn split_unquoted(text: &[u8], at: u8) -> (&[u8], &[u8]) {
    let mut quoted = false;
    let mut escaped = false;
    for (index, byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            byte if *byte == at && !quoted => {
                let (before, after) = text.split_at(index);
                return (before, after.get(1..).unwrap_or_default());
            }
            _ => {}
        }
    }
    (text, &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn media(lines: &[&str], media_type: &str) -> Quality {
        media_quality(lines.iter().map(|line| line.as_bytes()), media_type)
    }

    fn coding(lines: &[&str], coding: &str) -> Quality {
        coding_quality(lines.iter().map(|line| line.as_bytes()), coding)
    }

    #[test]
    fn the_most_specific_range_counts() {
        let chrome = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8,\
                      application/signed-exchange;v=b3;q=0.7";
        for (lines, media_type, quality) in [
            (&[][..], "text/html", 1_000),
            (&[""], "text/html", 1_000),
            (&["*/*"], "text/html", 1_000),
            (&[chrome], "text/html", 1_000),
            (&[chrome], "application/json", 800),
            (&["application/json"], "text/html", 0),
            (&["application/json"], "application/json", 1_000),
            (&["APPLICATION/JSON"], "application/json", 1_000),
            (
                &["text/*;q=0.3, text/html;q=0.7, */*;q=0.5"],
                "text/html",
                700,
            ),
            (
                &["text/*;q=0.3, text/html;q=0.7, */*;q=0.5"],
                "text/plain",
                300,
            ),
            (&["text/*;q=0.3", "*/*;q=0.5"], "application/json", 500),
            (&["text/html;level=1, text/plain;q=0.2"], "text/html", 0),
            (&["text/html;charset=utf-8"], "text/html", 1_000),
            (&["text/html;q=0"], "text/html", 0),
            (&["text/html ; q=0.25;ext=1"], "text/html", 250),
            (&["a/b;x=\"text/html,;q=0\", text/html"], "text/html", 1_000),
            (&["text/html;q=2, */*;q=0.1"], "text/html", 100),
            (&["text/html;q=0.1234, */*;q=0.1"], "text/html", 100),
            (&["text/html;q=-1, te xt/html, */*;q=0.1"], "text/html", 100),
            (&["text/html;q=1.001, */*;q=0.1"], "text/html", 100),
        ] {
            assert_eq!(media(lines, media_type), quality, "{lines:?} {media_type}");
        }
    }

    #[test]
    fn codings_are_used_only_where_they_are_named() {
        for (lines, name, quality) in [
            (&[][..], "gzip", 0),
            (&[][..], "identity", 1_000),
            (&[""], "gzip", 0),
            (&["gzip, br;q=0.5"], "gzip", 1_000),
            (&["gzip, br;q=0.5"], "br", 500),
            (&["gzip, br;q=0.5"], "zstd", 0),
            (&["gzip, br;q=0.5"], "identity", 1_000),
            (&["x-gzip"], "gzip", 1_000),
            (&["*;q=0.1"], "zstd", 100),
            (&["identity;q=0, *"], "identity", 0),
            (&["*;q=0"], "identity", 0),
            (&["gzip;q=0", "*"], "gzip", 0),
        ] {
            assert_eq!(coding(lines, name), quality, "{lines:?} {name}");
        }
    }
}
