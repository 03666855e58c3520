//! Whether a CouchDB cluster is whole, as one of its nodes sees it.
//!
//! `cluster_nodes` are those that are configured, `all_nodes` those that are connected at present: a node that died leaves
//! `all_nodes` within a tenth of a second and stays in `cluster_nodes`; one that has joined and is not part of the cluster is
//! in `all_nodes` only.

use evenkeel_plan::CouchDbSpec;
use serde::Deserialize;

/// Nodes that a reason names of each kind; more are counted.
const NAMED_MAX: usize = 4;

/// The answer to `/_membership`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Membership {
    pub(crate) all_nodes: Vec<String>,
    pub(crate) cluster_nodes: Vec<String>,
}

impl Membership {
    pub(crate) fn parse(body: &[u8]) -> Option<Self> {
        let mut membership: Self = serde_json::from_slice(body).ok()?;
        membership.all_nodes.sort_unstable();
        membership.cluster_nodes.sort_unstable();
        Some(membership)
    }

    /// How many nodes there are.
    ///
    /// # Errors
    /// In words, everything that is not as `spec` wants it.
    pub(crate) fn judge(&self, spec: &CouchDbSpec) -> Result<usize, String> {
        let mut wrong = Vec::new();
        let count = self.all_nodes.len();
        if self.all_nodes != self.cluster_nodes {
            wrong.push(self.difference());
        }
        if count != usize::from(spec.nodes) {
            wrong.push(format!("{}, {} are configured", nodes(count), spec.nodes));
        }
        if !spec.names.is_empty() {
            let mut names = spec.names.clone();
            names.sort_unstable();
            let absent = without(&names, &self.cluster_nodes);
            if !absent.is_empty() {
                let what = if absent.len() == 1 { "is" } else { "are" };
                wrong.push(format!(
                    "{} {what} configured and not in cluster_nodes",
                    list(&absent)
                ));
            }
            let extra = without(&self.cluster_nodes, &names);
            if !extra.is_empty() {
                let what = if extra.len() == 1 { "is" } else { "are" };
                wrong.push(format!(
                    "{} {what} in cluster_nodes and not configured",
                    list(&extra)
                ));
            }
        }
        if wrong.is_empty() {
            Ok(count)
        } else {
            Err(wrong.join("; "))
        }
    }

    fn difference(&self) -> String {
        let missing = |nodes: &[&str], from: &str| {
            let what = if nodes.len() == 1 { "is" } else { "are" };
            format!("{} {what} missing from {from}", list(nodes))
        };
        let dead = without(&self.cluster_nodes, &self.all_nodes);
        let strange = without(&self.all_nodes, &self.cluster_nodes);
        let mut parts = Vec::new();
        if !dead.is_empty() {
            parts.push(missing(&dead, "all_nodes"));
        }
        if !strange.is_empty() {
            parts.push(missing(&strange, "cluster_nodes"));
        }
        if parts.is_empty() {
            parts.push("a node is named twice".to_owned());
        }
        format!("all_nodes and cluster_nodes differ: {}", parts.join(", "))
    }
}

fn without<'a>(nodes: &'a [String], others: &[String]) -> Vec<&'a str> {
    let left = nodes.iter().filter(|node| !others.contains(node));
    left.map(String::as_str).collect()
}

fn list(nodes: &[&str]) -> String {
    let named = nodes[..nodes.len().min(NAMED_MAX)].join(", ");
    match nodes.len().saturating_sub(NAMED_MAX) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

fn nodes(count: usize) -> String {
    match count {
        1 => "1 node".to_owned(),
        count => format!("{count} nodes"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spec(nodes: u16, names: &[&str]) -> CouchDbSpec {
        CouchDbSpec {
            tls: None,
            credentials: None,
            nodes,
            names: names.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    fn judge(all: &[&str], cluster: &[&str], spec: &CouchDbSpec) -> Result<usize, String> {
        let text = serde_json::json!({ "all_nodes": all, "cluster_nodes": cluster }).to_string();
        Membership::parse(text.as_bytes()).unwrap().judge(spec)
    }

    #[test]
    fn a_whole_cluster_passes_and_everything_else_is_named() {
        let three = spec(3, &[]);
        assert_eq!(judge(&["c", "a", "b"], &["a", "b", "c"], &three), Ok(3));
        for (all, cluster, spec, words) in [
            (
                vec!["a", "b"],
                vec!["a", "b", "couchdb@c"],
                &three,
                "all_nodes and cluster_nodes differ: couchdb@c is missing from all_nodes; 2 nodes, 3 are configured",
            ),
            (
                vec!["a", "b", "couchdb@c"],
                vec!["a", "b"],
                &three,
                "all_nodes and cluster_nodes differ: couchdb@c is missing from cluster_nodes",
            ),
            (
                vec!["a", "b"],
                vec!["a", "b"],
                &three,
                "2 nodes, 3 are configured",
            ),
            (vec!["a"], vec!["a"], &three, "1 node, 3 are configured"),
            (
                vec!["a", "b", "c", "d"],
                vec!["a", "b", "c", "d"],
                &three,
                "4 nodes, 3 are configured",
            ),
            (
                vec!["a", "x"],
                vec!["a", "x"],
                &spec(2, &["b", "a"]),
                "b is configured and not in cluster_nodes; x is in cluster_nodes and not configured",
            ),
            (
                vec!["a", "a", "b"],
                vec!["a", "b"],
                &three,
                "all_nodes and cluster_nodes differ: a node is named twice",
            ),
        ] {
            assert_eq!(judge(&all, &cluster, spec), Err(words.to_owned()));
        }
        assert_eq!(
            judge(&["b", "a"], &["a", "b"], &spec(2, &["b", "a"])),
            Ok(2)
        );
        for body in [
            "",
            "{}",
            "[]",
            r#"{"all_nodes":[]}"#,
            r#"{"all_nodes":1,"cluster_nodes":[]}"#,
        ] {
            assert_eq!(Membership::parse(body.as_bytes()), None, "{body}");
        }
    }

    proptest! {
        #[test]
        fn only_equal_lists_of_the_right_number_pass(
            all in prop::collection::vec("[a-e]", 0..6),
            cluster in prop::collection::vec("[a-e]", 0..6),
            nodes in 0_u16..6,
        ) {
            let membership = Membership { all_nodes: all, cluster_nodes: cluster };
            let text = serde_json::json!({
                "all_nodes": membership.all_nodes,
                "cluster_nodes": membership.cluster_nodes,
            });
            let parsed = Membership::parse(text.to_string().as_bytes()).unwrap();
            let expected = parsed.all_nodes == parsed.cluster_nodes
                && parsed.all_nodes.len() == usize::from(nodes);
            prop_assert_eq!(parsed.judge(&spec(nodes, &[])).is_ok(), expected);
        }
    }
}
