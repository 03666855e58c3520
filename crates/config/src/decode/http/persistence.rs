//! Decoding of which requests stay with one backend.

use evenkeel_plan::SecretSource;
use evenkeel_plan::http::{
    CookieSpec, FieldName, HostPattern, PersistenceSpec, SameSite, SecureCookie,
};

use super::super::Around;
use super::super::secret::{readable_by_anyone, secret};
use super::super::traffic::{unless_zero, whole_seconds};
use super::text::{field_name, parsed, read};
use crate::fields::{Fields, Node};
use crate::problem::{Sink, shown};
use crate::schema::Section;

/// Longest name of a cookie in bytes.
const NAME_BYTES_MAX: usize = 64;

/// Longest path of a cookie in bytes. Source: RFC 6265bis section 5.6; browsers drop longer attributes.
const PATH_BYTES_MAX: usize = 1_024;

/// Keys that are of one way alone.
const KEYS: [(&str, &[&str]); 4] = [
    (
        "cookie",
        &[
            "name",
            "lifetime",
            "path",
            "domain",
            "secure",
            "http_only",
            "same_site",
            "key_env",
            "key_file",
            "previous_key_env",
            "previous_key_file",
        ],
    ),
    ("header", &["header"]),
    ("uri", &["query"]),
    ("source", &[]),
];

pub(super) fn persistence(
    http: &Fields<'_>,
    around: Around<'_>,
    sink: &mut Sink<'_>,
) -> Option<PersistenceSpec> {
    let fields = http.section("persistence", Section::HttpPersistence, sink)?;
    let by = fields.choice("by", sink);
    let is_known = fields
        .get("by")
        .is_none_or(|node| node.value.as_str() == Some(by));
    // Read whatever `by` says, so that every mistake is found at once.
    let cookie = cookie(&fields, around, sink);
    let header = read(&fields, "header", sink, field_name);
    let query = fields.boolean("query", None, sink).value;
    if !is_known {
        return None;
    }
    for (way, names) in KEYS.iter().filter(|(way, _)| *way != by) {
        for node in names.iter().filter_map(|name| fields.get(name)) {
            let message = format!("`{}` means nothing with `by = \"{by}\"`", node.label);
            node.error(sink, message, format!("it is for `by = \"{way}\"`"));
        }
    }
    match by {
        "header" => {
            if fields.get("header").is_none() {
                let message = "persistence by a field that is not named";
                sink.missing(
                    fields.at,
                    &fields.key,
                    message,
                    "write `header = \"X-Tenant\"`",
                );
            }
            header.map(PersistenceSpec::Header)
        }
        "uri" => Some(PersistenceSpec::Uri { query }),
        "source" => Some(PersistenceSpec::Source),
        _ => Some(PersistenceSpec::Cookie(cookie)),
    }
}

fn cookie(fields: &Fields<'_>, around: Around<'_>, sink: &mut Sink<'_>) -> CookieSpec {
    let lifetime = fields.duration("lifetime", sink);
    let secure = match fields.choice("secure", sink) {
        "always" => SecureCookie::Always,
        "never" => SecureCookie::Never,
        _ => SecureCookie::Auto,
    };
    let same_site = match fields.choice("same_site", sink) {
        "strict" => SameSite::Strict,
        "none" => SameSite::None,
        _ => SameSite::Lax,
    };
    if let (SameSite::None, SecureCookie::Never, Some(node)) =
        (same_site, secure, fields.get("same_site"))
    {
        let message = "browsers drop a cookie with `same_site = \"none\"` that is not Secure";
        let help = "write `secure = \"always\"`, or another `same_site`";
        node.error(sink, message, help);
    }
    let key = key(fields, ["key_env", "key_file"], around, sink);
    let previous = ["previous_key_env", "previous_key_file"];
    let previous_key = self::key(fields, previous, around, sink);
    let is_written = |names: [&'static str; 2]| names.into_iter().find_map(|name| fields.get(name));
    if let Some(node) = is_written(previous)
        && is_written(["key_env", "key_file"]).is_none()
    {
        let message = format!("`{}` without a key that came after it", node.label);
        node.error(sink, message, "write `key_env` or `key_file` too");
    }
    if key.is_some()
        && key == previous_key
        && let Some(node) = is_written(previous)
    {
        let message = "the key and the one before it are the same";
        node.error(sink, message, "leave the one before out");
    }
    CookieSpec {
        name: read(fields, "name", sink, name).unwrap_or_else(usual_name),
        lifetime: unless_zero(whole_seconds(lifetime, "cookies count", sink)),
        path: read(fields, "path", sink, path),
        domain: read(fields, "domain", sink, domain),
        secure,
        http_only: fields.boolean("http_only", None, sink).value,
        same_site,
        key,
        previous_key,
    }
}

fn usual_name() -> FieldName {
    FieldName::new("evenkeel").unwrap_or_else(|error| unreachable!("it is a token: {error}"))
}

fn key(
    fields: &Fields<'_>,
    names: [&'static str; 2],
    around: Around<'_>,
    sink: &mut Sink<'_>,
) -> Option<SecretSource> {
    let found = secret(fields, names, sink);
    if let Some(SecretSource::File(path)) = &found {
        readable_by_anyone(fields, names[1], path, around, sink);
    }
    found
}

fn name(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<FieldName> {
    let new = |text: &str| {
        let name = FieldName::new(text).ok();
        let right = format!("a token of 1 to {NAME_BYTES_MAX} letters, digits and !#$%&'*+-.^_`|~");
        name.filter(|_| text.len() <= NAME_BYTES_MAX).ok_or(right)
    };
    parsed(node, "\"evenkeel\"", "the name of a cookie", new, sink)
}

fn path(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<String> {
    let text = node.text(sink, "\"/app\"")?;
    let usual = |byte: u8| byte.is_ascii_graphic() && byte != b';';
    if text.starts_with('/') && text.len() <= PATH_BYTES_MAX && text.bytes().all(usual) {
        return Some(text.to_owned());
    }
    let message = format!("{} is not the path of a cookie", shown(text));
    let help =
        format!("it starts with `/`, has no space and no `;`, and at most {PATH_BYTES_MAX} bytes");
    node.error(sink, message, help);
    None
}

fn domain(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<String> {
    let text = node.text(sink, "\"example.org\"")?;
    let bare = text.strip_prefix('.').unwrap_or(text);
    match HostPattern::new(bare) {
        Ok(host) if !host.is_wildcard() && bare.len() == text.len() => Some(host.name().to_owned()),
        other => {
            let message = format!("{} is not the domain of a cookie", shown(text));
            let help = match other {
                Ok(host) => format!(
                    "write `\"{}\"`: hosts below it are meant anyway",
                    host.name()
                ),
                Err(error) => error.to_string(),
            };
            node.error(sink, message, help);
            None
        }
    }
}
