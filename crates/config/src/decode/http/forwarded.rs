//! Decoding of what backends are told of who asked.

use evenkeel_plan::http::{FieldName, ForwardMode, ForwardedSource, ForwardedSpec};

use super::super::admission::networks;
use super::text::changeable;
use crate::fields::{Fields, Node, article};
use crate::problem::Sink;
use crate::schema::Section;

pub(super) fn forwarded(http: &Fields<'_>, sink: &mut Sink<'_>) -> ForwardedSpec {
    let Some(fields) = http.section("forwarded", Section::HttpForwarded, sink) else {
        return ForwardedSpec::default();
    };
    let trusted = networks(&fields, "trusted", sink);
    let all = trusted.value.iter().find(|network| network.bits() == 0);
    if let (Some(at), Some(all)) = (trusted.at, all) {
        let message = format!("`trusted` has {all}: anybody can then claim any address");
        let help = "name only the proxies and balancers that stand before this one";
        sink.warning(at, &trusted.key, message, help);
    }
    let mut mode = |name| match fields.choice(name, sink) {
        "append" => ForwardMode::Append,
        "replace" => ForwardMode::Replace,
        _ => ForwardMode::Off,
    };
    ForwardedSpec {
        trusted: trusted.value,
        x_forwarded_for: mode("x_forwarded_for"),
        x_forwarded_proto: mode("x_forwarded_proto"),
        x_forwarded_host: mode("x_forwarded_host"),
        forwarded: mode("forwarded"),
        source: match fields.choice("source", sink) {
            "forwarded" => ForwardedSource::Forwarded,
            _ => ForwardedSource::XForwarded,
        },
        request_id: match fields.get("request_id") {
            None => ForwardedSpec::default().request_id,
            Some(node) => request_id(&node, sink),
        },
    }
}

fn request_id(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<FieldName> {
    const RIGHT: &str = "the name of a field, such as `\"X-Request-Id\"`, or `false`";
    match (node.value.as_bool(), node.value.as_str()) {
        (Some(false), _) => None,
        (_, Some(_)) => changeable(node, sink),
        (Some(true), _) => {
            node.error(sink, "`true` does not say which field", RIGHT);
            None
        }
        _ => {
            let found = article(node.value);
            let message = format!("expected a string or `false`, found {found}");
            node.error(sink, message, RIGHT);
            None
        }
    }
}
