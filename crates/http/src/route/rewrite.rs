//! Taking away and adding the start of a path.

use std::borrow::Cow;

use evenkeel_plan::http::PathPrefix;

use super::path;

/// `raw` without `strip` at its start, if it has it, and with `add` before it. `*` stays as it is.
///
/// Only whole segments count, in any spelling of unreserved characters (`/%61pi/x` starts with `/api`). What stays is as the
/// client wrote it, but for several slashes where `strip` was: they become one, because a path that starts with two can be
/// taken for a host.
#[must_use]
pub fn rewrite_path<'a>(
    raw: &'a [u8],
    strip: Option<&PathPrefix>,
    add: Option<&PathPrefix>,
) -> Cow<'a, [u8]> {
    if raw.first() != Some(&b'/') {
        return Cow::Borrowed(raw);
    }
    let rest = strip.map_or(raw, |strip| stripped(raw, strip));
    let add = add.map_or("", |add| add.as_str().trim_end_matches('/'));
    if add.is_empty() && !rest.is_empty() {
        return Cow::Borrowed(rest);
    }
    let mut path = add.as_bytes().to_vec();
    path.extend_from_slice(rest);
    if path.is_empty() {
        path.push(b'/');
    }
    Cow::Owned(path)
}

/// What follows the segments of `strip`, from the slash before it; empty when nothing does. All of `raw` when it does not start so.
fn stripped<'a>(raw: &'a [u8], strip: &PathPrefix) -> &'a [u8] {
    let segments = strip.segments();
    if segments == 0 {
        return raw;
    }
    let mut ends = raw
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'/')
        .map(|(at, _)| at)
        .chain([raw.len()]);
    let Some((start, rest)) = ends.nth(segments).map(|end| raw.split_at(end)) else {
        return raw;
    };
    // Its normal form has the same segments.
    let is_start =
        path::normal(start).is_ok_and(|normal| *normal.path == *strip.as_str().as_bytes());
    if !is_start {
        return raw;
    }
    let slashes = rest.iter().take_while(|byte| **byte == b'/').count();
    rest.get(slashes.saturating_sub(1)..).unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_come_and_go_in_whole_segments() {
        for (raw, strip, add, result) in [
            ("/api/v1", Some("/api"), None, "/v1"),
            ("/api", Some("/api"), None, "/"),
            ("/api/", Some("/api"), None, "/"),
            ("/apis", Some("/api"), None, "/apis"),
            ("/%61pi/%2F%20", Some("/api"), None, "/%2F%20"),
            ("/api//evil.example/", Some("/api"), None, "/evil.example/"),
            ("//api/x", Some("/api"), None, "//api/x"),
            ("/a/b/c", Some("/a/b"), Some("/x"), "/x/c"),
            ("/a/b", Some("/a/b"), Some("/x"), "/x"),
            ("/a", Some("/a/b"), Some("/x"), "/x/a"),
            ("/a", None, Some("/x/"), "/x/a"),
            ("/", None, Some("/x"), "/x/"),
            ("/a", Some("/"), Some("/"), "/a"),
            ("*", Some("/a"), Some("/x"), "*"),
        ] {
            let prefix = |text: Option<&str>| text.map(|text| PathPrefix::new(text).unwrap());
            let (strip, add) = (prefix(strip), prefix(add));
            let found = rewrite_path(raw.as_bytes(), strip.as_ref(), add.as_ref());
            assert_eq!(String::from_utf8_lossy(&found), result, "{raw}");
        }
    }
}
