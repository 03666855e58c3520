//! Decoding of a CouchDB check's own keys. Secrets are only named here, never read.

use evenkeel_plan::{CouchDbSpec, CredentialsSpec, SecretSource};

use super::Around;
use super::secret::{readable_by_anyone, secret};
use super::tls::{list, tls};
use crate::fields::{Fields, narrow};
use crate::problem::{Sink, shown};
use crate::schema::Section;

/// Most nodes of a cluster.
const NODES_MAX: u16 = 1_000;

/// Longest name of a node, in bytes: an Erlang atom's.
const NODE_BYTES_MAX: usize = 255;

/// `members`: how many servers the pool has, where that is known.
pub(super) fn couchdb(
    fields: &Fields<'_>,
    members: Option<u16>,
    around: Around<'_>,
    sink: &mut Sink<'_>,
) -> CouchDbSpec {
    let https = fields.boolean("https", None, sink);
    let tls = tls(fields, around, sink);
    if https.good && !https.value {
        for name in ["server_name", "ca_file"] {
            if let Some(node) = fields.get(name) {
                let message = format!("`{name}` is for TLS, and this check is made without");
                node.error(sink, message, "write `https = true`, or remove it");
            }
        }
    }
    let credentials = fields
        .section("credentials", Section::Credentials, sink)
        .and_then(|fields| credentials(&fields, around, sink));
    let names = names(fields, sink);
    let nodes = match fields.get("nodes") {
        Some(node) => node
            .integer(sink, 1, u32::from(NODES_MAX))
            .map(|count| (narrow(count), node)),
        None => None,
    };
    if let (Some((count, node)), Some(names)) = (&nodes, &names)
        && usize::from(*count) != names.len()
    {
        let message = format!("{count} nodes, but `names` has {}", names.len());
        node.error(sink, message, "`nodes` can be left out beside `names`");
    }
    let named = names
        .as_ref()
        .and_then(|names| u16::try_from(names.len()).ok());
    let nodes = nodes.map(|(count, _)| count).or(named).or(members);
    if nodes.is_none() && fields.get("nodes").is_none() && fields.get("names").is_none() {
        let message = "how many nodes the cluster has cannot be seen from an SRV name";
        sink.missing(
            fields.at,
            &fields.key,
            message,
            "write `nodes = 3` into the check",
        );
    }
    CouchDbSpec {
        tls: https.value.then_some(tls),
        credentials,
        nodes: nodes.unwrap_or(1),
        names: names.unwrap_or_default(),
    }
}

fn names(fields: &Fields<'_>, sink: &mut Sink<'_>) -> Option<Vec<String>> {
    const EXAMPLE: &str = "\"couchdb@couchdb-1.local\"";
    let node = fields.get("names")?;
    let nodes = list(&node, usize::from(NODES_MAX), &format!("[{EXAMPLE}]"), sink)?;
    let mut names: Vec<String> = Vec::with_capacity(nodes.len());
    let mut good = true;
    for node in nodes {
        let Some(text) = node.text(sink, EXAMPLE) else {
            good = false;
            continue;
        };
        let usual =
            |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_graphic() && c != '@');
        let parts = text.split_once('@');
        if !parts.is_some_and(|(name, host)| usual(name) && usual(host))
            || text.len() > NODE_BYTES_MAX
        {
            let message = format!("{} is not the name of a node", shown(text));
            let help = format!("write `{EXAMPLE}`, as `cluster_nodes` of `/_membership` has it");
            node.error(sink, message, help);
            good = false;
        } else if names.iter().any(|name| name == text) {
            let message = format!("{} is in `names` twice", shown(text));
            node.error(sink, message, "remove one of them");
            good = false;
        } else {
            names.push(text.to_owned());
        }
    }
    good.then_some(names)
}

fn credentials(
    fields: &Fields<'_>,
    around: Around<'_>,
    sink: &mut Sink<'_>,
) -> Option<CredentialsSpec> {
    let user = required(fields, "user", ["user_env", "user_file"], sink);
    let password = required(fields, "password", ["password_env", "password_file"], sink);
    if let Some(SecretSource::File(path)) = &password {
        readable_by_anyone(fields, "password_file", path, around, sink);
    }
    Some(CredentialsSpec {
        user: user?,
        password: password?,
    })
}

fn required(
    fields: &Fields<'_>,
    what: &str,
    names: [&'static str; 2],
    sink: &mut Sink<'_>,
) -> Option<SecretSource> {
    // Written as if it were a value: reported as a key that is not known.
    let is_written = fields.table.contains_key(what);
    if !is_written && names.iter().all(|name| fields.get(name).is_none()) {
        let [env, file] = names;
        let message = format!("credentials without a {what}");
        let example = what.to_ascii_uppercase();
        let help = format!("write `{env} = \"COUCHDB_{example}\"`, or `{file}` with a path");
        sink.missing(fields.at, &fields.key, message, help);
    }
    secret(fields, names, sink)
}
