//! The table as a page of docs/.

use std::fmt::Write as _;

use super::{Rule, TABLE, Verdict};

/// The page docs/http-rules.md.
#[must_use]
pub fn reference_markdown() -> String {
    let mut page = String::from(
        "# What HTTP services refuse\n\n\
         <!-- Generated from the table of rules in crates/http; changes made here are lost. -->\n\n\
         What two servers could read in two ways is refused, and the connection closed: what follows on it cannot be told apart any \
         more. What is about one connection only, or could be taken for something else behind, is removed and the message goes on \
         without it. Each rule has a name, by which the log calls it (level `debug`).\n\n\
         * A request that breaks a rule gets the answer of the column *request*. It is the client's fault (`malformed` or \
         `too_large` in metrics and access log) and never counts against a backend.\n\
         * An answer that breaks one becomes 502 (`backend_malformed`), or breaks off where it had begun; its connection is closed \
         and it counts among the backend's bad answers. Rules with 502 alone are about answers.\n\
         * Limits that a rule speaks of are in `[services.NAME.http.limits]` for requests. Heads of answers have 64 KiB and 200 \
         lines; extensions of chunks 16 KiB and trailers 8 KiB on both sides.\n\n\
         In *source* four digits are the number of an RFC, with its section: 9110 is the semantics of HTTP, 9112 HTTP/1.1.\n\n\
         | rule | what | request | why | source |\n\
         |---|---|---|---|---|\n",
    );
    for rule in TABLE {
        // Writing to a string does not fail.
        writeln!(
            page,
            "| `{}` | {} | {} | {} | {} |",
            rule.id,
            rule.forbids,
            verdict(rule),
            rule.reason,
            rule.source
        )
        .unwrap_or_default();
    }
    page
}

fn verdict(rule: &Rule) -> String {
    match rule.verdict {
        Verdict::Refuse(status) => status.to_string(),
        Verdict::BadGateway => "502".to_owned(),
        Verdict::Remove => "removed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_one_row_of_five_cells() {
        let page = reference_markdown();
        for rule in TABLE {
            let row = page
                .lines()
                .find(|line| line.starts_with(&format!("| `{}` |", rule.id)));
            let cells = row.map(|row| row.matches('|').count());
            assert_eq!(cells, Some(6), "{}", rule.id);
        }
    }
}
