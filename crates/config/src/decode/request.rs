//! Decoding of the requests of HTTP checks.

use evenkeel_plan::HttpRequestSpec;
use regex::{Error, Regex};
use toml::de::DeValue;

use super::tls::list;
use crate::fields::{Fields, Node, article, in_order, integer_of};
use crate::place::{Place, parse_place};
use crate::problem::{Sink, shown};
use crate::schema::{REQUEST_KEYS, Section};

/// Most requests of one check.
const REQUESTS_MAX: usize = 16;

/// Most fields of one request, besides `Host`.
const HEADERS_MAX: usize = 32;

/// Longest path, and longest value of a field, in bytes.
const TEXT_BYTES_MAX: usize = 4_096;

/// Most entries of `expect` and `drain`.
const STATUSES_MAX: usize = 64;

/// Fields that the check writes itself.
const OWN_HEADERS: [&str; 4] = ["connection", "content-length", "te", "transfer-encoding"];

pub(super) fn requests(fields: &Fields<'_>, sink: &mut Sink<'_>) -> Vec<HttpRequestSpec> {
    let Some(node) = fields.get("requests") else {
        return vec![request(fields, sink)];
    };
    for name in REQUEST_KEYS {
        if let Some(node) = fields.get(name) {
            let message = format!("`{name}` beside `requests`");
            node.error(sink, message, "move it into an entry of `requests`");
        }
    }
    let nodes = list(&node, REQUESTS_MAX, "[{ path = \"/live\" }]", sink).unwrap_or_default();
    let fields = nodes
        .iter()
        .filter_map(|node| node.fields(Section::Request, sink))
        .collect::<Vec<_>>();
    fields.iter().map(|fields| request(fields, sink)).collect()
}

/// One request out of the keys of `fields`.
fn request(fields: &Fields<'_>, sink: &mut Sink<'_>) -> HttpRequestSpec {
    let usual = HttpRequestSpec::default();
    let method = read(fields, "method", sink, method);
    let expect = read(fields, "expect", sink, statuses).unwrap_or(usual.expect);
    let drain = read(fields, "drain", sink, statuses).unwrap_or(usual.drain);
    let both = drain.iter().find_map(|(first, last)| {
        let hit = expect
            .iter()
            .find(|(from, to)| first <= to && from <= last)?;
        Some((*first).max(hit.0))
    });
    if let (Some(status), Some(node)) = (both, fields.get("drain")) {
        let message = format!("status {status} is in `expect` and in `drain`");
        node.error(
            sink,
            message,
            "a status means one of the two: keep it in one",
        );
    }
    let body_contains = read(fields, "body_contains", sink, |node, sink| {
        bounded(node, "\"ok\"", sink).map(str::to_owned)
    });
    let body_regex = read(fields, "body_regex", sink, pattern);
    if method.as_deref() == Some("HEAD") {
        for name in ["body_contains", "body_regex"] {
            if let Some(node) = fields.get(name) {
                let message = "the answer to `HEAD` has no body to look at";
                node.error(sink, message, "write `method = \"GET\"`, or leave it out");
            }
        }
    }
    HttpRequestSpec {
        method: method.unwrap_or(usual.method),
        path: read(fields, "path", sink, path).unwrap_or(usual.path),
        host: read(fields, "host", sink, host),
        headers: read(fields, "headers", sink, headers).unwrap_or_default(),
        expect,
        drain,
        body_contains,
        body_regex,
    }
}

fn read<'a, T>(
    fields: &Fields<'a>,
    name: &'static str,
    sink: &mut Sink<'_>,
    read: impl FnOnce(&Node<'a>, &mut Sink<'_>) -> Option<T>,
) -> Option<T> {
    fields.get(name).and_then(|node| read(&node, sink))
}

/// Source: RFC 9110 section 5.6.2.
fn is_token(text: &str) -> bool {
    let usual = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    !text.is_empty() && text.len() <= 255 && text.chars().all(usual)
}

fn method(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<String> {
    let text = node.text(sink, "\"GET\"")?;
    if is_token(text) && text != "CONNECT" {
        return Some(text.to_owned());
    }
    let message = format!("{} is not a method that a check can use", shown(text));
    node.error(
        sink,
        message,
        "write `\"GET\"`, `\"HEAD\"`, `\"OPTIONS\"` or `\"POST\"`",
    );
    None
}

fn path(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<String> {
    let text = bounded(node, "\"/healthz\"", sink)?;
    if !text.starts_with('/') {
        let message = format!("{} is not a path", shown(text));
        let rest = text.split_once("://").map(|(_, rest)| rest);
        let help = match rest {
            Some(rest) => format!(
                "write `\"/{}\"`",
                rest.split_once('/').map_or("", |(_, p)| p)
            ),
            None => format!("it starts with `/`: `\"/{text}\"`"),
        };
        node.error(sink, message, help);
        return None;
    }
    if let Some(c) = text.chars().find(|c| !c.is_ascii_graphic() || *c == '#') {
        let found = shown(&c.to_string());
        let message = format!("{} has the character {found}", shown(text));
        let mut bytes = [0; 4];
        let encoded: String = c
            .encode_utf8(&mut bytes)
            .bytes()
            .map(|b| format!("%{b:02X}"))
            .collect();
        node.error(sink, message, format!("write `{encoded}` for it"));
        return None;
    }
    Some(text.to_owned())
}

fn host(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<String> {
    let text = node.text(sink, "\"api.example.org\"")?;
    match parse_place(text) {
        Ok(Place::Ip(_) | Place::Name { .. }) => Some(text.to_owned()),
        Ok(Place::Service { .. }) | Err(_) => {
            let message = format!("{} is not a host", shown(text));
            let help = "write a name such as `\"api.example.org\"` or `\"api.example.org:8080\"`";
            node.error(sink, message, help);
            None
        }
    }
}

fn headers(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<Vec<(String, String)>> {
    const EXAMPLE: &str = "{ Accept = \"application/json\" }";
    let Some(table) = node.value.as_table() else {
        let found = article(node.value);
        let message = format!("expected a table such as `{EXAMPLE}`, found {found}");
        node.error(sink, message, "names on the left, values on the right");
        return None;
    };
    if table.len() > HEADERS_MAX {
        let message = format!("{} fields, at most {HEADERS_MAX} are possible", table.len());
        node.error(sink, message, "leave some out");
        return None;
    }
    let mut headers: Vec<(String, String)> = Vec::with_capacity(table.len());
    for (key, value) in in_order(table) {
        let name: &str = key.get_ref();
        let lower = name.to_ascii_lowercase();
        let path = format!("{}.{}", node.key, crate::fields::dotted(name));
        let at = key.span().into();
        if !is_token(name) {
            let message = format!("{} is not the name of a field", shown(name));
            let help = "a name has letters, digits and `-`, such as `X-Probe`";
            sink.error(at, &path, message, help);
        } else if lower == "host" {
            let message = "`Host` is not one of the further fields";
            sink.error(at, &path, message, "write the key `host` instead");
        } else if OWN_HEADERS.contains(&&*lower) {
            let message = format!("{} is for the check itself to write", shown(name));
            sink.error(at, &path, message, "remove it");
        } else if headers
            .iter()
            .any(|(other, _)| other.eq_ignore_ascii_case(name))
        {
            let message = format!("the field {} is there twice", shown(name));
            let help = "capitals make no difference; write both values into one, with a comma";
            sink.error(at, &path, message, help);
        } else if lower == "authorization" {
            let message = "this puts a secret into the configuration";
            let help =
                "anyone who can read the file, or the plan that is made of it, has the secret";
            sink.warning(at, &path, message, help);
        }
        let value = Node {
            value: value.get_ref(),
            at: value.span().into(),
            key: path,
            label: name,
        };
        let Some(text) = value.text(sink, "\"application/json\"") else {
            continue;
        };
        let inside = |c: char| c == '\t' || !c.is_control();
        if text.len() > TEXT_BYTES_MAX || !text.chars().all(inside) || text.trim() != text {
            let message = format!("{} is not the value of a field", shown(text));
            let help = format!(
                "no control characters, no space at either end, at most {TEXT_BYTES_MAX} bytes"
            );
            value.error(sink, message, help);
        }
        headers.push((name.to_owned(), text.to_owned()));
    }
    Some(headers)
}

/// Status codes as ranges.
fn statuses(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<Vec<(u16, u16)>> {
    if let Some(array) = node.value.as_array()
        && (array.is_empty() || array.len() > STATUSES_MAX)
    {
        let message = format!("{} entries are out of range", array.len());
        let help = format!("from 1 to {STATUSES_MAX}, such as `[200, \"300-399\"]`");
        node.error(sink, message, help);
        return None;
    }
    let ranges: Vec<_> = node.one_or_many().map(|node| range(&node, sink)).collect();
    ranges.into_iter().collect()
}

fn range(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<(u16, u16)> {
    const RIGHT: &str = "a status such as `200`, or a range such as `\"200-299\"`";
    let status = |number: i128| {
        u16::try_from(number)
            .ok()
            .filter(|n| (100..=599).contains(n))
    };
    match node.value {
        DeValue::Integer(number) => {
            let found = integer_of(number).and_then(status);
            if found.is_none() {
                let number = shown(number.as_str());
                let message = format!("{} is not a status", number.trim_matches('`'));
                node.error(sink, message, "from 100 to 599");
            }
            found.map(|status| (status, status))
        }
        DeValue::String(text) => {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let number = |text: &str| text.trim().parse().ok().and_then(status);
            if let (Some(first), Some(last)) = (number(first), number(last))
                && first <= last
            {
                return Some((first, last));
            }
            let class = match text.to_ascii_lowercase().as_bytes() {
                [digit @ b'1'..=b'5', b'x', b'x'] => Some(char::from(*digit)),
                _ => None,
            };
            let help = match class {
                Some(class) => format!("write `\"{class}00-{class}99\"`"),
                None => format!("{RIGHT}; from 100 to 599"),
            };
            node.error(
                sink,
                format!("{} is not a range of statuses", shown(text)),
                help,
            );
            None
        }
        other => {
            let found = article(other);
            node.error(
                sink,
                format!("expected a status or a range, found {found}"),
                RIGHT,
            );
            None
        }
    }
}

fn pattern(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<String> {
    let text = bounded(node, "\"ok\"", sink)?;
    // With the crate's own limits, which hold again where the pattern is used.
    let reason = match Regex::new(text) {
        Ok(_) => return Some(text.to_owned()),
        Err(Error::CompiledTooBig(_)) => "it is too large".to_owned(),
        // A drawing of several lines with the reason at its end.
        Err(error) => {
            let error = error.to_string();
            let reason = error.lines().last().unwrap_or("").trim();
            reason.trim_start_matches("error: ").to_owned()
        }
    };
    let message = format!("{} is not a regular expression: {reason}", shown(text));
    node.error(
        sink,
        message,
        "in single quotes backslashes stay as they are: `'\\d+'`",
    );
    None
}

/// A text that is not empty and not too long.
fn bounded<'a>(node: &Node<'a>, example: &str, sink: &mut Sink<'_>) -> Option<&'a str> {
    let text = node.text(sink, example)?;
    if text.is_empty() || text.len() > TEXT_BYTES_MAX {
        let message = format!("a text of {} bytes is out of range", text.len());
        node.error(sink, message, format!("from 1 to {TEXT_BYTES_MAX}"));
        return None;
    }
    Some(text)
}
