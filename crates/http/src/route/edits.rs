//! Changes to fields, as a service and its route say.

use evenkeel_plan::http::{HeaderEditsSpec, HttpPreset, NamePattern};

/// Which lines of a head go, and which come. Made once for each pair of route and service.
#[derive(Clone, Debug, Default)]
pub struct Edits {
    drops: Vec<NamePattern>,
    lines: Vec<(String, String)>,
}

impl Edits {
    /// All of `specs`, one after the other: what a later one removes or sets, it also removes of what earlier ones brought.
    #[must_use]
    pub fn new<'a>(specs: impl IntoIterator<Item = &'a HeaderEditsSpec>) -> Self {
        let mut edits = Self::default();
        for spec in specs {
            for pattern in &spec.remove {
                edits.drop_all(pattern.clone());
            }
            for (name, value) in &spec.set {
                // A name that may be set is a pattern too: neither can be a protected one.
                if let Ok(pattern) = NamePattern::new(name.as_str()) {
                    edits.drop_all(pattern);
                    edits.push(name.as_str(), value.as_str());
                }
            }
            for (name, value) in &spec.add {
                if !name.is_protected() {
                    edits.push(name.as_str(), value.as_str());
                }
            }
        }
        edits
    }

    /// And what `presets` take out of requests. Lines that were set before stay: they are the operator's.
    #[must_use]
    pub fn with_presets(mut self, presets: &[HttpPreset]) -> Self {
        let names = presets.iter().flat_map(|preset| preset.request_remove());
        self.drops
            .extend(names.filter_map(|name| NamePattern::new(name).ok()));
        self
    }

    /// Whether a line of this name, as the peer sent it, goes.
    #[must_use]
    pub fn drops(&self, name: &[u8]) -> bool {
        self.drops.iter().any(|pattern| pattern.matches(name))
    }

    /// The lines that come, in order.
    pub fn lines(&self) -> impl Iterator<Item = (&str, &str)> {
        self.lines
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    fn drop_all(&mut self, pattern: NamePattern) {
        self.lines
            .retain(|(name, _)| !pattern.matches(name.as_bytes()));
        self.drops.push(pattern);
    }

    fn push(&mut self, name: &str, value: &str) {
        self.lines.push((name.to_owned(), value.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_plan::http::{FieldName, FieldValue};

    use super::*;

    fn line(name: &str, value: &str) -> (FieldName, FieldValue) {
        (
            FieldName::new(name).unwrap(),
            FieldValue::new(value).unwrap(),
        )
    }

    #[test]
    fn later_changes_are_made_to_what_earlier_ones_left() {
        let route = HeaderEditsSpec {
            remove: vec![NamePattern::new("X-Debug-*").unwrap()],
            set: vec![line("X-Tenant", "a"), line("X-Team", "b")],
            add: vec![line("X-Via", "1")],
        };
        let service = HeaderEditsSpec {
            remove: vec![NamePattern::new("X-Team").unwrap()],
            set: vec![line("x-tenant", "c")],
            add: vec![line("X-Via", "2"), line("Content-Length", "0")],
        };
        let edits = Edits::new([&route, &service]).with_presets(&[HttpPreset::CouchDb]);
        let lines: Vec<_> = edits.lines().collect();
        assert_eq!(lines, [("X-Via", "1"), ("x-tenant", "c"), ("X-Via", "2")]);
        for name in [
            "x-debug-level",
            "X-Tenant",
            "X_Tenant",
            "x-team",
            "X-Auth-CouchDB-Roles",
        ] {
            assert!(edits.drops(name.as_bytes()), "{name}");
        }
        for name in ["X-Via", "Cookie", "X-Debug"] {
            assert!(!edits.drops(name.as_bytes()), "{name}");
        }
    }
}
