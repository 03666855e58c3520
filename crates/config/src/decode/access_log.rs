//! Decoding of `[access_log]`.

use evenkeel_plan::{ACCESS_FIELDS, AccessFormat, AccessLogSpec};

use super::tls::path;
use crate::fields::{Fields, Node};
use crate::problem::{Sink, shown};
use crate::schema::Section;
use crate::suggest::{nearest, unknown_word_or};

/// Words of `format`; everything else is a template.
const WORDS: &[&str] = &["off", "human", "json", "logfmt"];

/// Longest template, in bytes.
const TEMPLATE_BYTES_MAX: usize = 1_024;

pub(super) fn access_log(root: &Fields<'_>, sink: &mut Sink<'_>) -> AccessLogSpec {
    let Some(fields) = root.section("access_log", Section::AccessLog, sink) else {
        return AccessLogSpec::default();
    };
    let written = fields.get("format");
    let format = match &written {
        Some(node) => format(node, sink),
        None => Some(AccessFormat::Off),
    };
    let file = fields.get("file").and_then(|node| {
        let text = path(&node, "\"/var/log/evenkeel/access.log\"", sink)?;
        if text.ends_with('/') {
            let message = format!("{} is a directory", shown(text));
            node.error(sink, message, "write the name of the file too");
            return None;
        }
        if format == Some(AccessFormat::Off) {
            let message = "nothing will be written to this file: `format` is `\"off\"`";
            let help = "write `format = \"json\"`, or leave `file` out";
            sink.warning(node.at, &node.key, message, help);
        }
        Some(text.to_owned())
    });
    AccessLogSpec {
        format: format.unwrap_or_default(),
        file,
    }
}

fn format(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<AccessFormat> {
    let text = node.text(sink, "\"json\"")?;
    match text {
        "off" => return Some(AccessFormat::Off),
        "human" => return Some(AccessFormat::Human),
        "json" => return Some(AccessFormat::Json),
        "logfmt" => return Some(AccessFormat::Logfmt),
        text if text.trim().is_empty() => {
            let help = "`\"off\"` for no access log, `\"human\"`, `\"json\"`, `\"logfmt\"`, or text with fields in braces, such as `\"{client} {backend}\"`";
            node.error(sink, "the format is empty", help);
            return None;
        }
        text if text.contains(['%', '$']) && !text.contains(['{', '}']) => {
            let message = format!("{} has no field of ours", shown(text));
            let help = "names of fields stand in braces: `{client} {backend}`";
            node.error(sink, message, help);
            return None;
        }
        text if !text.contains(['{', '}']) => {
            let besides = ", or text with fields in braces, such as `\"{client} {backend}\"`";
            unknown_word_or(node, "format", text, WORDS, besides, sink);
            return None;
        }
        _ => {}
    }
    if text.len() > TEMPLATE_BYTES_MAX {
        let message = format!("a format of {} bytes", text.len());
        let help = format!("at most {TEMPLATE_BYTES_MAX}");
        node.error(sink, message, help);
        return None;
    }
    if text.contains(|c: char| c.is_control() && c != '\t') {
        let message = "a line of the access log cannot have control characters";
        node.error(
            sink,
            message,
            "leave them out: a line feed comes after each line by itself",
        );
        return None;
    }
    match examine(text) {
        Ok(()) => Some(AccessFormat::Template(text.to_owned())),
        Err((message, help)) => {
            node.error(sink, message, help);
            None
        }
    }
}

/// Whether `template` is text with names of fields in braces, at least one.
///
/// # Errors
/// What is wrong, and what would be right.
fn examine(template: &str) -> Result<(), (String, String)> {
    let mut fields = 0_usize;
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        let (brace, after) = rest[at..].split_at(1);
        if let Some(after) = after.strip_prefix(brace) {
            rest = after;
            continue;
        }
        if brace == "}" {
            let message = "a `}` without its `{`".to_owned();
            return Err((message, "write `}}` for the brace itself".to_owned()));
        }
        let name = after.split(['{', '}']).next().unwrap_or(after);
        if !after[name.len()..].starts_with('}') {
            let message = format!("`{{` before {} without its `}}`", shown(name));
            let help = "a field is `{client}`; write `{{` for the brace itself".to_owned();
            return Err((message, help));
        }
        known(name)?;
        fields += 1;
        rest = &after[name.len() + 1..];
    }
    match fields {
        0 => Err((
            "the format has no field".to_owned(),
            "write fields in single braces: `{client} {backend}`".to_owned(),
        )),
        _ => Ok(()),
    }
}

fn known(name: &str) -> Result<(), (String, String)> {
    let names = || ACCESS_FIELDS.iter().map(|(name, _)| *name);
    if names().any(|known| known == name) {
        return Ok(());
    }
    let mut message = format!("unknown field {}", shown(name));
    if let Some(near) = nearest(name, names()) {
        message.push_str(&format!("; did you mean `{near}`?"));
    }
    let all: Vec<_> = names().map(|name| format!("`{name}`")).collect();
    Err((message, format!("one of {}", all.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates() {
        for good in [
            "{client}",
            "{time} {{x}} {end}",
            "{{{client}}}",
            "{client}{backend}é}}",
        ] {
            assert_eq!(examine(good), Ok(()), "{good}");
        }
        for (bad, part) in [
            ("", "no field"),
            ("{{client}}", "no field"),
            ("{", "without its `}`"),
            ("{client", "without its `}`"),
            ("{client{backend}", "without its `}`"),
            ("{client}}", "without its `{`"),
            ("client} {end}", "without its `{`"),
            ("{}", "unknown field the empty text"),
            ("{clien}", "did you mean `client`?"),
            ("{ client }", "did you mean `client`?"),
            ("{étrange}", "unknown field `étrange`"),
        ] {
            let (message, _) = examine(bad).unwrap_err();
            assert!(message.contains(part), "{bad}: {message}");
        }
    }
}
