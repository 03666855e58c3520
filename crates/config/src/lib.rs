//! Configuration text to [`Spec`], every error at once and each with its place; the difference of two specs.
//!
//! ```text
//! text --toml, spanned--> tables --decode--> what the user wrote --assemble--> Spec
//!            |                      |                                  |
//!            +----------------------+---- found problems --------------+--> ConfigErrors | warnings
//! ```
//!
//! * `schema` is the one table of keys: the decoder takes names, ranges and defaults from it, and so does the
//!   reference page.
//! * `decode` looks at one value at a time, `assemble` at what must fit together (ports, pools, overlaps).
//! * A value that could not be read is reported once; whatever depends on it is not reported again.
//!
//! Called by the supervisor (start, reload) and by the commands `check` and `demo`.
#![forbid(unsafe_code)]

mod assemble;
mod decode;
mod difference;
mod example;
mod fields;
mod host;
mod load;
mod own;
mod pem;
mod place;
mod problem;
mod reference;
mod schema;
mod suggest;
mod syntax;
mod value;
mod written;

pub use difference::{
    Change, Difference, ServiceChange, action_words, persistence_words, route_words,
};
pub use example::{DEMO, demo};
pub use load::{FILE_BYTES_MAX, load};
pub use problem::{ConfigErrors, PROBLEMS_MAX, Problem};
pub use reference::reference_markdown;
pub use value::{DurationText, parse_duration};

use evenkeel_plan::Spec;
use toml::de::DeTable;

use crate::host::Host;
use crate::problem::Sink;

/// A configuration that was accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// What it says.
    pub spec: Spec,
    /// What is allowed but probably not meant, in order of place.
    pub warnings: Vec<Problem>,
    /// What has to be done elsewhere so that it works, such as routes on backends, in order of place.
    pub notes: Vec<Problem>,
}

/// Reads and validates `text`. `path` is used for messages only.
///
/// Looks at no file: a check with `ca_file` gets no certificate, and then trusts none. [`load()`] reads them.
///
/// # Errors
/// Every mistake in `text`, in order of place.
pub fn parse(path: &str, text: &str) -> Result<Loaded, ConfigErrors> {
    parse_on(path, text, &Host::default())
}

/// As [`parse`], with what is known of the host that the configuration is for.
fn parse_on(path: &str, text: &str, host: &Host) -> Result<Loaded, ConfigErrors> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim().is_empty() {
        return Err(ConfigErrors::whole_file(
            path,
            "the configuration is empty",
            Some(
                "the shortest one: `version = 1`, then a `[services.NAME]` with `listen` and `backends`",
            ),
        ));
    }
    let (document, errors) = DeTable::parse_recoverable(text);
    let (found, repaired) = syntax::find(text, &errors);
    let document = match &repaired {
        Some(repaired) => DeTable::parse_recoverable(&repaired.text).0,
        None => document,
    };
    let mut sink = Sink::new(text);
    sink.syntax(&found, repaired.as_ref());
    let spec = decode::document(document.get_ref(), host, &mut sink)
        .and_then(|written| assemble::assemble(written, host, &mut sink));
    sink.finish(path, spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_outgoing_connections_may_hold_is_warned_of() {
        let text = "version = 1\n[services.s]\nlisten = [\"127.0.0.1:40000\", \"127.0.0.1:40001\", \"127.0.0.1:80\", \
                    \"127.0.0.1:0\"]\nbackends = [\"10.0.0.2:80\"]";
        let host = Host {
            ephemeral: Some(32_768..=60_999),
            reserved: vec![40_001..=40_001],
            files: false,
        };
        let warnings = parse_on("x", text, &host).unwrap().warnings;
        let found: Vec<_> = warnings
            .iter()
            .map(|w| (w.line, w.column, &*w.message))
            .collect();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].0, found[0].1), (3, 11));
        assert!(
            found[0]
                .2
                .starts_with("port 40000 is one that the kernel gives")
        );
        assert_eq!(parse("x", text).unwrap().warnings, []);
    }
}
