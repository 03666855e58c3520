//! The one table of kinds of checks: their words, defaults and own keys.

use std::time::Duration;

use super::{ms, s};

/// A kind of check, as it is written.
#[derive(Debug)]
pub(crate) struct CheckWord {
    pub(crate) word: &'static str,
    pub(crate) interval: Duration,
    /// `None` = the interval.
    pub(crate) fast_interval: Option<Duration>,
    pub(crate) timeout: Duration,
    pub(crate) rise: u32,
    pub(crate) fall: u32,
    /// `None` = the backend's.
    pub(crate) port: Option<u16>,
    /// Keys that not every kind has.
    pub(crate) keys: &'static [&'static str],
    pub(crate) help: &'static str,
}

impl CheckWord {
    /// The kind that is written as `word`.
    pub(crate) fn of(word: &str) -> Option<&'static Self> {
        CHECK_WORDS.iter().find(|kind| kind.word == word)
    }
}

/// Keys of one request, in a check and in an entry of `requests`.
pub(crate) const REQUEST_KEYS: [&str; 8] = [
    "method",
    "path",
    "host",
    "headers",
    "expect",
    "drain",
    "body_contains",
    "body_regex",
];

/// Words of `kind`; the first is the default.
pub(crate) const WORDS: &[&str] = &[
    "tcp", "tls", "http", "https", "couchdb", "openhim", "agent", "exec", "none",
];

/// What a kind has unless it says otherwise.
const USUAL: CheckWord = CheckWord {
    word: "",
    interval: s(2),
    fast_interval: None,
    timeout: s(1),
    rise: 2,
    fall: 3,
    port: None,
    keys: &[],
    help: "",
};

/// Kinds in the order of [`WORDS`].
pub(crate) const CHECK_WORDS: [CheckWord; 9] = [
    CheckWord {
        word: "tcp",
        help: "A connection can be made.",
        ..USUAL
    },
    CheckWord {
        word: "tls",
        keys: &["server_name", "ca_file"],
        help: "A TLS handshake can be made.",
        ..USUAL
    },
    CheckWord {
        word: "http",
        keys: &[
            "method",
            "path",
            "host",
            "headers",
            "expect",
            "drain",
            "body_contains",
            "body_regex",
            "requests",
        ],
        help: "Every request is answered as expected.",
        ..USUAL
    },
    CheckWord {
        word: "https",
        keys: &[
            "method",
            "path",
            "host",
            "headers",
            "expect",
            "drain",
            "body_contains",
            "body_regex",
            "requests",
            "server_name",
            "ca_file",
        ],
        help: "The same over TLS.",
        ..USUAL
    },
    // A node that hangs is off within 1.5 s (interval, its jitter, time-out), one that was killed within 1 s.
    CheckWord {
        word: "couchdb",
        interval: ms(700),
        fast_interval: Some(ms(200)),
        timeout: ms(600),
        rise: 1,
        fall: 1,
        keys: &[
            "credentials",
            "https",
            "nodes",
            "names",
            "server_name",
            "ca_file",
        ],
        help: "A CouchDB node is up (`/_up`), and it and the others of the pool are the whole cluster (`/_membership`).",
        ..USUAL
    },
    CheckWord {
        word: "openhim",
        interval: s(3),
        timeout: s(2),
        fall: 2,
        port: Some(8080),
        keys: &["server_name", "ca_file"],
        help: "HTTPS `GET /heartbeat` on OpenHIM's API port is answered with 200. It decides for all ports of the backend.",
        ..USUAL
    },
    CheckWord {
        word: "agent",
        keys: &["send"],
        help: "HAProxy's agent protocol: the server's own word (`up`, `down`, `drain`, `maint`, `ready`, `75%`, `maxconn:20`). \
               Needs `port`.",
        ..USUAL
    },
    CheckWord {
        word: "exec",
        keys: &["command"],
        help: "A program of yours; exit code 0 = passed. Needs `command`, and `allow_exec = true` at the top of the file.",
        ..USUAL
    },
    CheckWord {
        word: "none",
        help: "Never probed; counts as up.",
        ..USUAL
    },
];
