//! Decoding of when a service serves at all.

use evenkeel_plan::{OnDown, Require, Stale, Unchecked};
use toml::de::DeValue;

use crate::fields::{Fields, article, narrow};
use crate::problem::{Sink, shown};
use crate::suggest::nearest;
use crate::written::{Got, Policy};

pub(super) fn policy(fields: &Fields<'_>, sink: &mut Sink<'_>) -> Policy {
    let sorry = fields.get("sorry").and_then(|node| {
        let text = node.text(sink, "\"maintenance\"")?;
        Some(node.placed(text.to_owned()))
    });
    let panic = fields
        .get("panic")
        .and_then(|node| node.percent(sink, 1, 100, "\"50%\""));
    let stale = match fields.choice("stale", sink) {
        "closed" => Stale::Closed,
        _ => Stale::Last,
    };
    Policy {
        require: require(fields, sink),
        sorry,
        panic,
        stale: fields.get("stale").map(|_| stale),
        unchecked: match fields.choice("unchecked", sink) {
            "never" => Unchecked::Never,
            "always" => Unchecked::Always,
            _ => Unchecked::IfNoneUp,
        },
        on_down: match fields.choice("on_down", sink) {
            "reset" => OnDown::Reset,
            _ => OnDown::Keep,
        },
        slow_start: fields.duration("slow_start", sink).value,
        passive_failures: narrow(fields.integer("passive_failures", None, sink).value),
    }
}

fn require(fields: &Fields<'_>, sink: &mut Sink<'_>) -> Got<Require> {
    const RIGHT: &str = "`\"any\"`, `\"all\"`, a number such as `2`, or a share such as `\"50%\"`";
    let Some(node) = fields.get("require") else {
        return fields.absent("require", Require::Any);
    };
    let value = match node.value {
        DeValue::Integer(_) => node
            .integer(sink, 1, u32::from(u16::MAX))
            .map(|count| Require::Count(narrow(count))),
        DeValue::String(text) => match text.as_ref() {
            "any" => Some(Require::Any),
            "all" => Some(Require::All),
            text if text.ends_with('%') => {
                node.percent(sink, 1, 100, "\"50%\"").map(Require::Share)
            }
            text => {
                let mut message = format!("{} is not a number of backends", shown(text));
                if let Some(word) = nearest(text, ["any", "all"].into_iter()) {
                    message.push_str(&format!("; did you mean `{word}`?"));
                }
                let help = match text.parse::<u16>() {
                    Ok(number) => format!("write {number} without quotes, or `\"{number}%\"`"),
                    Err(_) => RIGHT.to_owned(),
                };
                node.error(sink, message, help);
                None
            }
        },
        other => {
            let found = article(other);
            let message = format!("expected a string or an integer, found {found}");
            node.error(sink, message, RIGHT);
            None
        }
    };
    node.got(value, Require::Any)
}
