//! Decoding of texts of HTTP: names and values of fields, prefixes, regular expressions. What is right is the plan's to say.

use std::fmt::Display;

use evenkeel_http::route::{CompileErrorKind, Router};
use evenkeel_plan::http::{
    ActionSpec, FieldName, FieldValue, FixedSpec, PathMatch, PathPrefix, RouteSpec, TransformSpec,
};

use crate::fields::{Fields, Node, article, dotted, in_order};
use crate::problem::{Sink, shown};

/// The value of `name`, read by `read`.
pub(super) fn read<'a, T>(
    fields: &Fields<'a>,
    name: &'static str,
    sink: &mut Sink<'_>,
    read: impl FnOnce(&Node<'a>, &mut Sink<'_>) -> Option<T>,
) -> Option<T> {
    fields.get(name).and_then(|node| read(&node, sink))
}

/// A text as what `parse` makes of it; its error is what would be right.
pub(super) fn parsed<T, E: Display>(
    node: &Node<'_>,
    example: &str,
    what: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
    sink: &mut Sink<'_>,
) -> Option<T> {
    let text = node.text(sink, example)?;
    parse(text)
        .map_err(|error| {
            let message = format!("{} is not {what}", shown(text));
            node.error(sink, message, error.to_string());
        })
        .ok()
}

/// The elements of an array of at most `max`, or the one that is written without brackets, each as `read` says. `None` when one
/// of them could not be read.
pub(super) fn some<T>(
    node: &Node<'_>,
    max: usize,
    sink: &mut Sink<'_>,
    mut read: impl FnMut(&Node<'_>, &mut Sink<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    if let Some(array) = node.value.as_array()
        && (array.is_empty() || array.len() > max)
    {
        let message = format!("{} entries are out of range", array.len());
        let help = format!(
            "from 1 to {max}; leave `{}` out for its default",
            node.label
        );
        node.error(sink, message, help);
        return None;
    }
    let all: Vec<_> = node.one_or_many().map(|node| read(&node, sink)).collect();
    all.into_iter().collect()
}

pub(super) fn prefix(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<PathPrefix> {
    parsed(node, "\"/api\"", "a prefix", PathPrefix::new, sink)
}

pub(super) fn field_value(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<FieldValue> {
    let new = |text: &str| FieldValue::new(text);
    parsed(node, "\"a\"", "the value of a field", new, sink)
}

/// The name of a field that a route may look at.
pub(super) fn field_name(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<FieldName> {
    let new = |text: &str| FieldName::new(text);
    parsed(node, "\"X-Tenant\"", "the name of a field", new, sink)
}

/// The name of a field that a configuration may change.
pub(super) fn changeable(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<FieldName> {
    let new = |text: &str| FieldName::changeable(text);
    parsed(
        node,
        "\"X-Request-Id\"",
        "a field that can be written",
        new,
        sink,
    )
}

/// A type of bodies, or all that start alike (`image/*`), in small letters.
pub(super) fn media_type(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<String> {
    let text = node.text(sink, "\"image/*\"")?;
    let usual = |part: &str| FieldName::new(part).is_ok() && !part.contains('*');
    let good = text
        .split_once('/')
        .is_some_and(|(kind, rest)| match (kind, rest) {
            ("*", "*") => true,
            (kind, "*") => usual(kind),
            (kind, rest) => usual(kind) && usual(rest),
        });
    if good {
        return Some(text.to_ascii_lowercase());
    }
    let message = format!("{} is not a type of bodies", shown(text));
    let help = match text.contains(';') {
        true => "leave out what follows `;`: parameters do not count",
        false => "write a type such as `\"application/json\"`, or `\"image/*\"`",
    };
    node.error(sink, message, help);
    None
}

/// A table of names and values of fields, each name as `name_of` says.
pub(super) fn field_table<V>(
    node: &Node<'_>,
    example: &str,
    name_of: impl Fn(&str) -> Result<FieldName, evenkeel_plan::http::FieldNameError>,
    value_of: impl Fn(&Node<'_>, &mut Sink<'_>) -> Option<V>,
    sink: &mut Sink<'_>,
) -> Option<Vec<(FieldName, V)>> {
    let Some(table) = node.value.as_table() else {
        let found = article(node.value);
        let message = format!("expected a table such as `{example}`, found {found}");
        node.error(sink, message, "names on the left, values on the right");
        return None;
    };
    let mut found: Vec<(FieldName, V)> = Vec::with_capacity(table.len());
    let mut good = true;
    for (key, value) in in_order(table) {
        let text: &str = key.get_ref();
        let path = format!("{}.{}", node.key, dotted(text));
        let name = match name_of(text) {
            Ok(name) if found.iter().any(|(other, _)| *other == name) => {
                let message = format!("the field {} is there twice", shown(text));
                let help = "capitals make no difference; keep one";
                sink.error(key.span().into(), &path, message, help);
                None
            }
            Ok(name) => Some(name),
            Err(error) => {
                let message = format!("{} cannot be the field here", shown(text));
                sink.error(key.span().into(), &path, message, error.to_string());
                None
            }
        };
        let value = Node {
            value: value.get_ref(),
            at: value.span().into(),
            key: path,
            label: text,
        };
        match (name, value_of(&value, sink)) {
            (Some(name), Some(value)) => found.push((name, value)),
            _ => good = false,
        }
    }
    good.then_some(found)
}

/// A regular expression, as a route compiles it.
pub(super) fn regex(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<String> {
    let text = node.text(sink, "'/v[0-9]+/.*'")?;
    compiles(PathMatch::Regex(text.to_owned()), node, sink).then(|| text.to_owned())
}

/// An exact path, as a route compiles it.
pub(super) fn exact(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<String> {
    let text = node.text(sink, "\"/login\"")?;
    compiles(PathMatch::Exact(text.to_owned()), node, sink).then(|| text.to_owned())
}

/// Whether a route with this path alone compiles; says at `node` why not.
fn compiles(path: PathMatch, node: &Node<'_>, sink: &mut Sink<'_>) -> bool {
    let route = RouteSpec {
        hosts: Vec::new(),
        path: Some(path),
        methods: Vec::new(),
        headers: Vec::new(),
        action: ActionSpec::Fixed(FixedSpec {
            status: 200,
            content_type: None,
            body: String::new(),
        }),
        transform: TransformSpec::default(),
    };
    let Err(errors) = Router::new(&[route]) else {
        return true;
    };
    let what = shown(node.value.as_str().unwrap_or_default());
    for error in errors {
        match error.kind {
            CompileErrorKind::Path(refusal) => {
                let message = format!("{what} is not a path: {refusal}");
                let help = "write it as clients send it, such as `\"/login\"`, without a query";
                node.error(sink, message, help);
            }
            CompileErrorKind::Regex(reason) => {
                // A drawing of several lines with the reason at its end.
                let reason = reason.lines().last().unwrap_or_default().trim();
                let reason = reason.trim_start_matches("error: ");
                let message = format!("{what} is not a regular expression: {reason}");
                let help = "in single quotes backslashes stay as they are: `'/\\d+'`";
                node.error(sink, message, help);
            }
            CompileErrorKind::TooMany | CompileErrorKind::Shadowed(_) => {
                unreachable!("it is one route")
            }
        }
    }
    false
}
