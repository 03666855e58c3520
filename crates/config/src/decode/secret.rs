//! Decoding of where secrets come from. They are only named here, never read.

use evenkeel_plan::SecretSource;

use super::Around;
use super::tls::path;
use crate::fields::{Fields, Node};
use crate::problem::{Sink, shown};

/// A file with a secret, for messages.
const FILE: &str = "\"/run/secrets/couchdb-password\"";

/// Where the secret comes from whose environment variable and file have these keys; `None` when neither is written.
pub(super) fn secret(
    fields: &Fields<'_>,
    names: [&'static str; 2],
    sink: &mut Sink<'_>,
) -> Option<SecretSource> {
    let [env, file] = names;
    match (fields.get(env), fields.get(file)) {
        (Some(env_node), Some(file_node)) => {
            let message = format!("both `{env}` and `{file}` are written");
            file_node.error(sink, message, "keep one of the two");
            variable(&env_node, sink);
            path(&file_node, FILE, sink);
            None
        }
        (Some(node), None) => variable(&node, sink).map(SecretSource::Environment),
        (None, Some(node)) => {
            path(&node, FILE, sink).map(|path| SecretSource::File(path.to_owned()))
        }
        (None, None) => None,
    }
}

/// Warns of a file that every user can read.
pub(super) fn readable_by_anyone(
    fields: &Fields<'_>,
    name: &'static str,
    path: &str,
    around: Around<'_>,
    sink: &mut Sink<'_>,
) {
    if let Some(node) = fields.get(name)
        && around.host.anyone_reads(path)
    {
        let message = format!("every user of this host can read {}", shown(path));
        sink.warning(node.at, &node.key, message, "`chmod o-r` it");
    }
}

fn variable(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<String> {
    let text = node.text(sink, "\"COUCHDB_USER\"")?;
    let usual = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let good = |text: &str| {
        !text.is_empty()
            && text.len() <= 255
            && text.chars().all(usual)
            && !text.starts_with(|c: char| c.is_ascii_digit())
    };
    if good(text) {
        return Some(text.to_owned());
    }
    // The text is not repeated: it may be the secret itself.
    let bare = text.trim_start_matches('$');
    let bare = bare.trim_start_matches('{').trim_end_matches('}');
    let help = match text.starts_with('$') && good(bare) {
        true => format!("write `\"{bare}\"`"),
        false => "a name has letters, digits and `_`, such as `\"COUCHDB_PASSWORD\"`; the value itself is never written here".to_owned(),
    };
    node.error(sink, "not the name of an environment variable", help);
    None
}
