//! The one table of keys: names, types, units, ranges, defaults and help.
//!
//! The decoder takes names, ranges and defaults from here, the nearest-name search its candidates, and the reference
//! page all of it.

mod http_keys;
mod keys;
mod kinds;
mod route_keys;
mod synonyms;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub(crate) use self::kinds::{CHECK_WORDS, CheckWord, REQUEST_KEYS};
pub(crate) use self::synonyms::{SYNONYMS, WORD_SYNONYMS};

/// A table of the configuration that has fixed keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    Root,
    Metrics,
    Drain,
    Log,
    AccessLog,
    Limits,
    Watchdog,
    Resolve,
    Pool,
    Backend,
    Check,
    Request,
    Credentials,
    Service,
    Listen,
    Connect,
    Timeouts,
    Keepalive,
    Queue,
    Route,
    RouteHeader,
    Redirect,
    FixedAnswer,
    Edits,
    Http,
    HttpLimits,
    BodyByType,
    HttpTimeouts,
    HttpForwarded,
    HttpRetry,
    HttpPool,
    HttpCompression,
    HttpPersistence,
    HttpAnswers,
    HttpPage,
    HttpTransform,
}

impl Section {
    pub(crate) const ALL: [Self; 36] = [
        Self::Root,
        Self::Metrics,
        Self::Drain,
        Self::Log,
        Self::AccessLog,
        Self::Limits,
        Self::Watchdog,
        Self::Resolve,
        Self::Pool,
        Self::Backend,
        Self::Check,
        Self::Request,
        Self::Credentials,
        Self::Service,
        Self::Listen,
        Self::Connect,
        Self::Timeouts,
        Self::Keepalive,
        Self::Queue,
        Self::Route,
        Self::RouteHeader,
        Self::Redirect,
        Self::FixedAnswer,
        Self::Edits,
        Self::Http,
        Self::HttpLimits,
        Self::BodyByType,
        Self::HttpTimeouts,
        Self::HttpForwarded,
        Self::HttpRetry,
        Self::HttpPool,
        Self::HttpCompression,
        Self::HttpPersistence,
        Self::HttpAnswers,
        Self::HttpPage,
        Self::HttpTransform,
    ];

    /// How the section is written.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Root => "the top of the file",
            Self::Metrics => "[metrics]",
            Self::Drain => "[drain]",
            Self::Log => "[log]",
            Self::AccessLog => "[access_log]",
            Self::Limits => "[limits]",
            Self::Watchdog => "[watchdog]",
            Self::Resolve => "[resolve]",
            Self::Pool => "[pools.NAME]",
            Self::Backend => "an entry of backends",
            Self::Check => "[pools.NAME.check] or [services.NAME.check]",
            Self::Request => "an entry of requests",
            Self::Credentials => "[pools.NAME.check.credentials]",
            Self::Service => "[services.NAME]",
            Self::Listen => "an entry of listen",
            Self::Connect => "[services.NAME.connect]",
            Self::Timeouts => "[services.NAME.timeouts]",
            Self::Keepalive => "[services.NAME.keepalive]",
            Self::Queue => "[services.NAME.queue]",
            Self::Route => "[[services.NAME.routes]]",
            Self::RouteHeader => "an entry of headers",
            Self::Redirect => "redirect of a route",
            Self::FixedAnswer => "answer of a route",
            Self::Edits => "request and response",
            Self::Http => "[services.NAME.http]",
            Self::HttpLimits => "[services.NAME.http.limits]",
            Self::BodyByType => "an entry of body_by_type",
            Self::HttpTimeouts => "[services.NAME.http.timeouts]",
            Self::HttpForwarded => "[services.NAME.http.forwarded]",
            Self::HttpRetry => "[services.NAME.http.retry]",
            Self::HttpPool => "[services.NAME.http.pool]",
            Self::HttpCompression => "[services.NAME.http.compression]",
            Self::HttpPersistence => "[services.NAME.http.persistence]",
            Self::HttpAnswers => "[services.NAME.http.answers]",
            Self::HttpPage => "[[services.NAME.http.answers.pages]]",
            Self::HttpTransform => "[services.NAME.http.transform]",
        }
    }

    /// What the section is for.
    pub(crate) fn help(self) -> &'static str {
        match self {
            Self::Root => "Keys before the first section.",
            Self::Metrics => "The metrics endpoint.",
            Self::Drain => "How the daemon stops.",
            Self::Log => "What is logged, and how.",
            Self::AccessLog => {
                "The line that is written of each connection at its end. Lines that cannot be written fast enough are dropped and \
                 counted; traffic does not wait for them."
            }
            Self::Limits => {
                "Capacities, fixed when the daemon starts; a reload that needs more is refused with the number."
            }
            Self::Watchdog => "When a worker counts as hung.",
            Self::Resolve => "How the names of backends are resolved.",
            Self::Pool => "A named pool of backends; services may share it.",
            Self::Backend => {
                "One backend, as a table: `{ name = \"b1\", address = \"10.0.0.2:80\", weight = 2 }`. A plain string is \
                 the address alone."
            }
            Self::Check => {
                "The health check of a pool, or of the backends written in a service. \
                 Short form: the kind alone, `check = \"tcp\"`. Keys that not every kind has are errors elsewhere."
            }
            Self::Request => {
                "One request of several of an `http` or `https` check: `requests = [{ path = \"/live\" }, { path = \"/ready\" }]`. \
                 They are made in order, and all must pass."
            }
            Self::Credentials => {
                "Who a `couchdb` check asks as. Values are not written in the file: name an environment variable of the daemon, \
                 or a file that only its user can read. Both are read at start and at each reload."
            }
            Self::Service => {
                "A service: where connections come in, and what they are forwarded to."
            }
            Self::Listen => {
                "One listening address, as a table: `{ address = \"10.0.0.1:80\", freebind = true }`. A plain string is \
                 the address alone. What is not written here is as the service says."
            }
            Self::Connect => "How a backend is connected to.",
            Self::Timeouts => {
                "How long a connection may take for what. Each connection is timed by itself, by the worker that has it. \
                 Time-outs of connecting and of waiting are in `connect` and `queue`."
            }
            Self::Keepalive => {
                "Probes of the kernel on connections without traffic, towards clients and backends, and how long sent data may \
                 stay without an acknowledgement. Finds peers that are gone without a word."
            }
            Self::Queue => {
                "Connections that wait while every eligible backend is at its `max_connections`. Over all workers, first come, \
                 first served."
            }
            Self::Route => {
                "Which requests of the service's listeners go where. The most specific route that a request fits is taken: by host \
                 (a name, then the wildcard with the longest name, then any), then by path (exact, regular expression, longest \
                 prefix, any), then with methods before without, then by the number of fields, then by the order in the file. What \
                 no route takes goes to the service's own backends; where it has none, the answer is 404. `evenkeel explain URL` \
                 says which route a request takes, and why."
            }
            Self::RouteHeader => {
                "One condition on a field: `headers = [{ name = \"X-Tenant\", regex = 'a-[0-9]+' }]`. A table of names and values, \
                 `headers = { X-Tenant = \"a\" }`, is the short form of `equals`."
            }
            Self::Redirect => "Where the client is sent.",
            Self::FixedAnswer => "An answer from the daemon itself.",
            Self::Edits => {
                "Changes to fields, in this order: `remove`, `set`, `add`. Not of those that frame a message or are about one \
                 connection (`Content-Length`, `Transfer-Encoding`, `Connection`, ...), nor of `Host`, which has a key of its own."
            }
            Self::Http => {
                "HTTP of a service with `mode = \"http\"`. *Listeners*: of requests that come in by the service's \
                 `listen`, wherever they go. *Backends*: of requests that its backends get, from wherever they come."
            }
            Self::HttpLimits => {
                "Listeners: sizes and numbers of requests. Limits of connections are in the service itself."
            }
            Self::BodyByType => {
                "A limit on bodies of one type: `{ type = \"image/*\", bytes = \"10MiB\" }`."
            }
            Self::HttpTimeouts => {
                "How long a request may take for what. For a connection to a backend and for waiting in the queue: `connect` and \
                 `queue` of the service."
            }
            Self::HttpForwarded => {
                "Listeners: what backends are told of who asked, and who may say so to us."
            }
            Self::HttpRetry => {
                "Backends: what is tried again. A request of which nothing was sent always is; a POST of which something was \
                 sent, never."
            }
            Self::HttpPool => "Backends: connections that are used again.",
            Self::HttpCompression => {
                "Listeners: which answers are compressed where the client asks for it. Off by default. With secrets and what a client \
                 sent in one answer, its length can tell of the secret (BREACH)."
            }
            Self::HttpPersistence => "Backends: which requests stay with one of them.",
            Self::HttpAnswers => {
                "Listeners: answers of the daemon itself, such as 503 when no backend can take a request."
            }
            Self::HttpPage => "A page in place of a built-in one.",
            Self::HttpTransform => {
                "Backends: changes to every request and answer, after those of the route."
            }
        }
    }

    pub(crate) fn keys(self) -> impl Iterator<Item = &'static Key> {
        KEYS.iter().filter(move |key| key.section == self)
    }

    /// The key called `name`.
    pub(crate) fn key(self, name: &str) -> Option<&'static Key> {
        self.keys().find(|key| key.name == name)
    }
}

/// All keys, in the order of the reference page within their sections.
pub(crate) const KEYS: &[Key] = &joined();

const COUNT: usize = keys::KEYS.len() + route_keys::KEYS.len() + http_keys::KEYS.len();

const fn joined() -> [Key; COUNT] {
    let parts = [keys::KEYS, route_keys::KEYS, http_keys::KEYS];
    let mut all = [keys::KEYS[0]; COUNT];
    let (mut part, mut count) = (0, 0);
    while part < parts.len() {
        let mut index = 0;
        while index < parts[part].len() {
            all[count] = parts[part][index];
            count += 1;
            index += 1;
        }
        part += 1;
    }
    all
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    pub(crate) section: Section,
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// A value as it is written in the file, for messages and the reference page.
    pub(crate) example: &'static str,
    pub(crate) help: &'static str,
}

/// Type, range and default of a key.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Integer {
        min: u32,
        max: u32,
        default: u32,
        unit: &'static str,
    },
    /// An integer that may be left out; the default in words.
    Number {
        min: u32,
        max: u32,
        default: &'static str,
        unit: &'static str,
    },
    /// A size such as `1MiB`, in bytes.
    Size {
        min: u32,
        max: u32,
        default: u32,
    },
    Duration {
        min: Duration,
        max: Duration,
        default: Duration,
    },
    /// A share such as `5%`.
    Percent {
        max: u8,
        default: u8,
    },
    Boolean {
        default: bool,
    },
    /// One of these words; the first is the default.
    Choice {
        words: &'static [&'static str],
    },
    /// Read by a function of its own.
    Other {
        shape: &'static str,
        range: &'static str,
        default: &'static str,
    },
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn s(s: u64) -> Duration {
    Duration::from_secs(s)
}

const fn duration(min: Duration, default: Duration, max: Duration) -> Kind {
    Kind::Duration { min, max, default }
}

const fn integer(min: u32, default: u32, max: u32, unit: &'static str) -> Kind {
    Kind::Integer {
        min,
        max,
        default,
        unit,
    }
}

const fn number(min: u32, max: u32, unit: &'static str, default: &'static str) -> Kind {
    Kind::Number {
        min,
        max,
        default,
        unit,
    }
}

const fn other(shape: &'static str, range: &'static str, default: &'static str) -> Kind {
    Kind::Other {
        shape,
        range,
        default,
    }
}

const fn key(
    section: Section,
    name: &'static str,
    kind: Kind,
    example: &'static str,
    help: &'static str,
) -> Key {
    Key {
        section,
        name,
        kind,
        example,
        help,
    }
}
