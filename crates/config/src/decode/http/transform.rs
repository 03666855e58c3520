//! Decoding of what is changed in requests and answers.

use evenkeel_plan::http::{
    FieldName, FieldValue, HeaderEditsSpec, HostPattern, HostSpec, NamePattern, TransformSpec,
};
use toml::de::DeValue;

use super::text::{field_table, field_value, parsed, prefix, read, some};
use crate::fields::{Fields, Node, article};
use crate::problem::{Sink, shown};
use crate::schema::Section;

/// Most names of one list, and most fields of one table.
const EDITS_MAX: usize = 256;

/// The changes of a route or a service, whose key for `Host` is called `host`.
pub(super) fn transform(
    fields: &Fields<'_>,
    host: &'static str,
    sink: &mut Sink<'_>,
) -> TransformSpec {
    TransformSpec {
        strip_prefix: read(fields, "strip_prefix", sink, prefix),
        add_prefix: read(fields, "add_prefix", sink, prefix),
        host: read(fields, host, sink, host_spec).unwrap_or_default(),
        request: edits(fields, "request", sink),
        response: edits(fields, "response", sink),
    }
}

fn host_spec(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<HostSpec> {
    const RIGHT: &str = "`\"keep\"`, `\"backend\"`, or `{ set = \"api.internal\" }`";
    match node.value {
        DeValue::String(text) => match text.as_ref() {
            "keep" => Some(HostSpec::Keep),
            "backend" => Some(HostSpec::Backend),
            text => {
                let message = format!("unknown word {}", shown(text));
                let help = match HostPattern::new(text) {
                    Ok(name) if !name.is_wildcard() => {
                        format!("for this name write `{{ set = \"{name}\" }}`; else {RIGHT}")
                    }
                    _ => RIGHT.to_owned(),
                };
                node.error(sink, message, help);
                None
            }
        },
        DeValue::Table(table) if table.len() == 1 && table.contains_key("set") => {
            let (_, value) = table.iter().next()?;
            let node = Node {
                value: value.get_ref(),
                at: value.span().into(),
                key: format!("{}.set", node.key),
                label: "set",
            };
            let name = parsed(
                &node,
                "\"api.internal\"",
                "a host",
                |text| match HostPattern::new(text) {
                    Ok(name) if name.is_wildcard() => {
                        Err("a name in full, without a star".to_owned())
                    }
                    other => other.map_err(|error| error.to_string()),
                },
                sink,
            );
            name.map(HostSpec::Set)
        }
        other => {
            let message = format!(
                "expected a string or `{{ set = \"NAME\" }}`, found {}",
                article(other)
            );
            node.error(sink, message, RIGHT);
            None
        }
    }
}

pub(super) fn edits(
    fields: &Fields<'_>,
    name: &'static str,
    sink: &mut Sink<'_>,
) -> HeaderEditsSpec {
    let Some(fields) = fields.section(name, Section::Edits, sink) else {
        return HeaderEditsSpec::default();
    };
    let pattern = |node: &Node<'_>, sink: &mut Sink<'_>| {
        parsed(
            node,
            "\"X-Debug\"",
            "a field that can be removed",
            NamePattern::new,
            sink,
        )
    };
    HeaderEditsSpec {
        remove: read(&fields, "remove", sink, |node, sink| {
            some(node, EDITS_MAX, sink, pattern)
        })
        .unwrap_or_default(),
        set: read(&fields, "set", sink, field_lines).unwrap_or_default(),
        add: read(&fields, "add", sink, field_lines).unwrap_or_default(),
    }
}

fn field_lines(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<Vec<(FieldName, FieldValue)>> {
    if let Some(table) = node.value.as_table()
        && table.len() > EDITS_MAX
    {
        let message = format!("{} fields, at most {EDITS_MAX} are possible", table.len());
        node.error(sink, message, "leave some out");
        return None;
    }
    let changeable = |text: &str| FieldName::changeable(text);
    field_table(node, "{ X-Tenant = \"a\" }", changeable, field_value, sink)
}
