//! Decoding of a check's TLS, and of paths and lists of texts.

use std::net::IpAddr;

use evenkeel_plan::TlsSpec;

use super::Around;
use crate::fields::{Fields, Node, article};
use crate::pem::certificates;
use crate::place::host_name;
use crate::problem::{Sink, shown};

/// Longest path, in bytes: the kernel's.
const PATH_BYTES_MAX: usize = 4_095;

pub(super) fn tls(fields: &Fields<'_>, around: Around<'_>, sink: &mut Sink<'_>) -> TlsSpec {
    let server_name = fields.get("server_name").and_then(|node| {
        let text = node.text(sink, "\"api.example.org\"")?;
        if text.parse::<IpAddr>().is_ok() {
            return Some(text.to_owned());
        }
        host_name(text)
            .map_err(|(message, help)| node.error(sink, message, help))
            .ok()
    });
    // Never `None` where a file is written: that would mean that nothing is verified.
    let roots = fields
        .get("ca_file")
        .map(|node| roots(&node, around, sink).unwrap_or_default());
    TlsSpec { server_name, roots }
}

fn roots(node: &Node<'_>, around: Around<'_>, sink: &mut Sink<'_>) -> Option<String> {
    let path = path(node, "\"/etc/evenkeel/ca.pem\"", sink)?;
    let text = match around.host.text(path) {
        Ok(text) => text?,
        Err(error) => {
            let message = format!("cannot read {}: {error}", shown(path));
            let help = "name a file with the certificates in PEM, or leave `ca_file` out: then the server's is not verified";
            node.error(sink, message, help);
            return None;
        }
    };
    let found = certificates(&text);
    if found.is_none() {
        let message = format!("{} has no certificate in PEM", shown(path));
        let help = "a certificate stands between `-----BEGIN CERTIFICATE-----` and `-----END CERTIFICATE-----`";
        node.error(sink, message, help);
    }
    found
}

/// An absolute path: what a relative one is relative to would change with who starts the daemon, and where.
pub(super) fn path<'a>(node: &Node<'a>, example: &str, sink: &mut Sink<'_>) -> Option<&'a str> {
    let text = node.text(sink, example)?;
    let good = text.starts_with('/') && text.len() <= PATH_BYTES_MAX && !text.contains('\0');
    if !good {
        let message = format!("{} is not an absolute path", shown(text));
        node.error(sink, message, "write the path from `/` on");
    }
    good.then_some(text)
}

/// An array of 1 to `max` texts, each as its node. `None` when it is none.
pub(super) fn list<'a>(
    node: &Node<'a>,
    max: usize,
    example: &str,
    sink: &mut Sink<'_>,
) -> Option<Vec<Node<'a>>> {
    let Some(array) = node.value.as_array() else {
        let found = article(node.value);
        let message = format!("expected an array such as `{example}`, found {found}");
        node.error(sink, message, "put it in brackets");
        return None;
    };
    if array.is_empty() || array.len() > max {
        let message = format!("{} entries are out of range", array.len());
        node.error(
            sink,
            message,
            format!("from 1 to {max}, such as `{example}`"),
        );
        return None;
    }
    Some(node.one_or_many().collect())
}
