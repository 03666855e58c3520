//! What is known of a name, and in words.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use evenkeel_plan::Address;
use tokio::time::Instant;

/// What is known of a name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// The last good answer, in order; empty = none yet.
    pub(crate) endpoints: Vec<SocketAddr>,
    /// When that was; `None` = it was known before this process began, or there is none.
    pub(crate) resolved: Option<Instant>,
    /// When the next look-up begins; `None` = one is under way.
    pub(crate) next: Option<Instant>,
    /// The last failure and when it was.
    pub(crate) failure: Option<(String, Instant)>,
    /// Whether the last look-up failed.
    pub(crate) failing: bool,
}

/// Such as `couchdb-1.local = 10.0.0.2, 10.0.0.3; resolved 12 s ago, again in 48 s; last failure: timeout, 3 s ago`.
pub(crate) fn words(address: &Address, known: &Known, now: Instant) -> String {
    let mut text = address.name().unwrap_or_default().to_owned();
    let shown = |endpoint: &SocketAddr| match address {
        Address::Name { .. } => endpoint.ip().to_string(),
        Address::Service { .. } | Address::Socket(_) => endpoint.to_string(),
    };
    let endpoints: Vec<_> = known.endpoints.iter().map(shown).collect();
    // Writing to a string does not fail.
    let mut add = |arguments: std::fmt::Arguments<'_>| text.write_fmt(arguments).unwrap_or(());
    if endpoints.is_empty() {
        add(format_args!(" = not resolved yet"));
    } else {
        add(format_args!(" = {}", endpoints.join(", ")));
        match known.resolved {
            Some(at) => add(format_args!("; resolved {} ago", age(now, at))),
            None => add(format_args!("; known from before")),
        }
    }
    match known.next {
        Some(at) => add(format_args!(", again in {}", age(at, now))),
        None => add(format_args!(", being asked for now")),
    }
    if let Some((why, at)) = &known.failure {
        add(format_args!("; last failure: {why}, {} ago", age(now, *at)));
    }
    text
}

fn age(later: Instant, earlier: Instant) -> String {
    let age = later.saturating_duration_since(earlier);
    // Rounded, since `again in 0 s` says nothing of interest below.
    format!("{} s", (age + Duration::from_millis(500)).as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_explained() {
        let address = Address::Name {
            host: "couchdb-1.local".to_owned(),
            port: 5984,
        };
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut known = Known::default();
        assert_eq!(
            words(&address, &known, begin),
            "couchdb-1.local = not resolved yet, being asked for now"
        );
        known.endpoints = vec![
            "10.0.0.2:5984".parse().unwrap(),
            "[::1]:5984".parse().unwrap(),
        ];
        known.resolved = Some(at(8));
        known.next = Some(at(68));
        known.failure = Some(("timeout".to_owned(), at(17)));
        assert_eq!(
            words(&address, &known, at(20)),
            "couchdb-1.local = 10.0.0.2, ::1; resolved 12 s ago, again in 48 s; last failure: timeout, 3 s ago"
        );
    }
}
