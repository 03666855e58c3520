//! The one table of keys: names, types, units, ranges, defaults and help.
//!
//! The decoder takes names, ranges and defaults from here, the nearest-name search its candidates, and the reference
//! page all of it.

use std::time::Duration;

/// A table of the configuration that has fixed keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    Root,
    Metrics,
    Drain,
    Log,
    Limits,
    Watchdog,
    Pool,
    Backend,
    Check,
    Service,
    Listen,
    Connect,
}

impl Section {
    pub(crate) const ALL: [Self; 12] = [
        Self::Root,
        Self::Metrics,
        Self::Drain,
        Self::Log,
        Self::Limits,
        Self::Watchdog,
        Self::Pool,
        Self::Backend,
        Self::Check,
        Self::Service,
        Self::Listen,
        Self::Connect,
    ];

    /// How the section is written.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Root => "the top of the file",
            Self::Metrics => "[metrics]",
            Self::Drain => "[drain]",
            Self::Log => "[log]",
            Self::Limits => "[limits]",
            Self::Watchdog => "[watchdog]",
            Self::Pool => "[pools.NAME]",
            Self::Backend => "an entry of backends",
            Self::Check => "[pools.NAME.check] or [services.NAME.check]",
            Self::Service => "[services.NAME]",
            Self::Listen => "an entry of listen",
            Self::Connect => "[services.NAME.connect]",
        }
    }

    /// What the section is for.
    pub(crate) fn help(self) -> &'static str {
        match self {
            Self::Root => "Keys before the first section.",
            Self::Metrics => "The metrics endpoint.",
            Self::Drain => "How the daemon stops.",
            Self::Log => "What is logged, and how.",
            Self::Limits => {
                "Capacities, fixed when the daemon starts; a reload that needs more is refused with the number."
            }
            Self::Watchdog => "When a worker counts as hung.",
            Self::Pool => "A named pool of backends; services may share it.",
            Self::Backend => {
                "One backend, as a table: `{ name = \"b1\", address = \"10.0.0.2:80\", weight = 2 }`. A plain string is \
                 the address alone."
            }
            Self::Check => {
                "The health check of a pool, or of the backends written in a service. \
                 Short forms: `check = \"tcp\"` and `check = \"none\"`."
            }
            Self::Service => {
                "A service: where connections come in, and what they are forwarded to."
            }
            Self::Listen => {
                "One listening address, as a table: `{ address = \"10.0.0.1:80\", freebind = true }`. A plain string is \
                 the address alone."
            }
            Self::Connect => "How a backend is connected to.",
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

/// Longest time that anything is configured to take.
const DAY: Duration = s(86_400);

#[rustfmt::skip]
pub(crate) const KEYS: &[Key] = &[
    key(Section::Root, "version", other("integer", "1", "required"), "1",
        "Version of the configuration language. Always the first line."),
    key(Section::Root, "workers", other("string or integer", "`\"auto\"` or 1 to `limits.workers`", "`\"auto\"`"), "\"auto\"",
        "Worker processes; `auto` is one for each CPU that the daemon may use."),
    key(Section::Root, "user", other("string or integer", "name or number of a user, or `\"keep\"`", "`evenkeel` where it exists, else `nobody`"), "\"evenkeel\"",
        "Whom workers and monitor run as when the daemon is started by root; `keep` keeps the daemon's user."),
    key(Section::Root, "metrics", other("section", "", ""), "{ listen = \"127.0.0.1:9180\" }", "See `[metrics]`."),
    key(Section::Root, "drain", other("section", "", ""), "{ deadline = \"30s\" }", "See `[drain]`."),
    key(Section::Root, "log", other("section", "", ""), "{ level = \"info\" }", "See `[log]`."),
    key(Section::Root, "limits", other("section", "", ""), "{ services = 4096 }", "See `[limits]`."),
    key(Section::Root, "watchdog", other("section", "", ""), "{ kill_after = \"2s\" }", "See `[watchdog]`."),
    key(Section::Root, "pools", other("sections", "", ""), "{ web = { backends = [\"127.0.0.1:81\"] } }", "See `[pools.NAME]`."),
    key(Section::Root, "services", other("sections", "", ""), "{ web = { listen = \"127.0.0.1:80\", backends = [\"127.0.0.1:81\"] } }", "See `[services.NAME]`."),

    key(Section::Metrics, "listen", other("address or array of addresses", "loopback unless `public`", "none"), "\"127.0.0.1:9180\"",
        "Where metrics are served. Without it they are not."),
    key(Section::Metrics, "public", Kind::Boolean { default: false }, "true",
        "Allow addresses that other hosts can reach. There is no password: put it behind a firewall."),

    key(Section::Drain, "delay", duration(s(0), s(0), DAY), "\"5s\"",
        "After SIGTERM: not ready but still accepting, so that whatever stands before this host notices."),
    key(Section::Drain, "deadline", duration(s(0), s(30), DAY), "\"30s\"",
        "How long connections may finish after the delay; then they are cut."),
    key(Section::Drain, "handshakes", duration(s(0), s(5), s(60)), "\"5s\"",
        "How long the socket of a retired worker is kept for handshakes on their way."),

    key(Section::Log, "level", Kind::Choice { words: &["info", "error", "warn", "debug"] }, "\"info\"",
        "Least severe level that is written."),
    key(Section::Log, "format", Kind::Choice { words: &["human", "json"] }, "\"human\"",
        "`json` writes one object a line."),

    key(Section::Limits, "workers", integer(1, 64, 1_024, "worker slots"), "64",
        "Most worker processes."),
    key(Section::Limits, "services", integer(1, 4_096, 100_000, "services"), "4096",
        "Most services."),
    key(Section::Limits, "listeners", integer(1, 4_096, 100_000, "addresses"), "4096",
        "Most listening addresses over all services."),
    key(Section::Limits, "backends", integer(1, 16_384, 1_000_000, "backends"), "16384",
        "Most backends, counted once for each service that uses them."),

    key(Section::Watchdog, "steer_after", duration(ms(50), ms(500), s(60)), "\"500ms\"",
        "Heartbeat this late: new connections go to other workers."),
    key(Section::Watchdog, "kill_after", duration(ms(100), s(2), s(600)), "\"2s\"",
        "Heartbeat this late, and the worker is stopped or burns CPU: it is killed and started again."),

    key(Section::Pool, "backends", other("array of addresses and tables", "1 to 65535 entries", "required"), "[\"10.0.0.2:80\", { name = \"b2\", address = \"10.0.0.3:80\" }]",
        "The servers, in the order in which they are picked."),
    key(Section::Pool, "port", other("integer", "1 to 65535", "none"), "5001",
        "Port of the backends that are written without one."),
    key(Section::Pool, "check", other("string or section", "`\"tcp\"`, `\"none\"` or a table", "`\"tcp\"`"), "\"tcp\"",
        "How the backends are probed; see `[pools.NAME.check]`."),

    key(Section::Backend, "address", other("address", "IPv4 or IPv6, port may be left to pool or service", "required"), "\"10.0.0.2:80\"",
        "Where the backend is."),
    key(Section::Backend, "name", other("name", "letters, digits, `-`, `_`, `.`; at most 63", "its address"), "\"openhim-1\"",
        "Name in commands, metrics and logs. Names outlive a change of address."),
    key(Section::Backend, "weight", integer(0, 1, 65_535, "shares"), "2",
        "Share of new connections under `wrr`; 0 = no new connections under any scheduler."),

    key(Section::Check, "kind", Kind::Choice { words: &["tcp", "none"] }, "\"tcp\"",
        "`tcp`: a connection can be made. `none`: never probed, counts as up."),
    key(Section::Check, "port", other("integer", "1 to 65535", "the backend's"), "8080",
        "Probe this port instead of the backend's."),
    key(Section::Check, "interval", duration(ms(10), s(2), s(3_600)), "\"2s\"",
        "Between the starts of two probes."),
    key(Section::Check, "timeout", duration(ms(1), s(1), s(60)), "\"1s\"",
        "For the whole probe. Not above the interval; where it is not written and the interval is shorter, it is the interval."),
    key(Section::Check, "rise", integer(1, 2, 1_000, "probes"), "2",
        "Successes in a row that bring a backend up."),
    key(Section::Check, "fall", integer(1, 3, 1_000, "probes"), "3",
        "Failures in a row that take a backend down."),
    key(Section::Check, "jitter", Kind::Percent { max: 50, default: 5 }, "\"5%\"",
        "Random part of the interval either way, so that probes do not fall together."),

    key(Section::Service, "listen", other("address, table, or array of both", "at least one; port 0 = the kernel chooses once", "required"), "\"10.0.0.1:80\"",
        "Where connections come in."),
    key(Section::Service, "pool", other("name", "a `[pools.NAME]`", "this or `backends` is required"), "\"openhim\"",
        "The pool that connections are forwarded to."),
    key(Section::Service, "backends", other("array of addresses and tables", "1 to 65535 entries", "this or `pool` is required"), "[\"10.0.0.2:80\"]",
        "Backends of this service alone, instead of `pool`."),
    key(Section::Service, "check", other("string or section", "`\"tcp\"`, `\"none\"` or a table", "`\"tcp\"`"), "\"tcp\"",
        "How `backends` are probed; a pool has a check of its own."),
    key(Section::Service, "port", other("integer", "1 to 65535", "the backends'"), "5001",
        "Port on all backends, whatever pool and backends say. The check goes there too unless it names a port."),
    key(Section::Service, "scheduler", Kind::Choice { words: &["rr", "wrr"] }, "\"rr\"",
        "`rr`: round robin. `wrr`: round robin by weight. Both exact over all workers."),
    key(Section::Service, "freebind", Kind::Boolean { default: false }, "true",
        "Bind addresses that are not on this host yet. For all of `listen`."),
    key(Section::Service, "backlog", integer(1, 4_096, 1_000_000, "connections"), "4096",
        "Accept queue of each worker; the kernel caps it at net.core.somaxconn. For all of `listen`."),
    key(Section::Service, "connect", other("section", "", ""), "{ timeout = \"5s\", attempts = 3 }",
        "See `[services.NAME.connect]`."),

    key(Section::Listen, "address", other("address", "IPv4 or IPv6, with port", "required"), "\"10.0.0.1:80\"",
        "Where connections come in."),
    key(Section::Listen, "freebind", Kind::Boolean { default: false }, "true",
        "As the service's, for this address."),
    key(Section::Listen, "backlog", integer(1, 4_096, 1_000_000, "connections"), "4096",
        "As the service's, for this address."),

    key(Section::Connect, "timeout", duration(ms(1), s(5), s(300)), "\"5s\"",
        "For one attempt."),
    key(Section::Connect, "attempts", integer(1, 3, 16, "backends"), "3",
        "Backends tried for one connection, the first included."),
];

/// What other programs, and haste, call a key of ours.
pub(crate) const SYNONYMS: &[(&str, &str)] = &[
    ("algorithm", "scheduler"),
    ("balance", "scheduler"),
    ("bind", "listen"),
    ("health_check", "check"),
    ("healthcheck", "check"),
    ("host", "address"),
    ("lb_policy", "scheduler"),
    ("method", "scheduler"),
    ("redispatch", "attempts"),
    ("retries", "attempts"),
    ("server", "backends"),
    ("servers", "backends"),
    ("upstream", "pool"),
];

/// What other programs call a word of ours.
pub(crate) const WORD_SYNONYMS: &[(&str, &str)] = &[
    ("round-robin", "rr"),
    ("round_robin", "rr"),
    ("roundrobin", "rr"),
    ("weighted", "wrr"),
    ("weighted-round-robin", "wrr"),
    ("weighted_round_robin", "wrr"),
    ("critical", "error"),
    ("notice", "info"),
    ("trace", "debug"),
    ("verbose", "debug"),
    ("text", "human"),
    ("off", "none"),
];

#[cfg(test)]
mod tests {
    use evenkeel_plan::{ConnectSpec, Globals, ListenerSpec, LogFormat, LogLevel};

    use super::*;
    use crate::parse;

    /// A configuration in which `line` is the only thing of interest.
    fn around(section: Section, line: &str) -> String {
        let service = "[services.s]\nlisten = \"127.0.0.1:8000\"\nbackends = [\"10.0.0.9:80\"]\n";
        let pools = "[pools.p]\nbackends = [\"10.0.0.2:80\"]\n[pools.openhim]\nbackends = [\"10.0.0.2:80\"]\n";
        let listen = if line.starts_with("address") {
            ""
        } else {
            "address = \"127.0.0.1:8001\", "
        };
        let backend = if line.starts_with("address") {
            ""
        } else {
            "address = \"127.0.0.1:8001\", "
        };
        match section {
            Section::Root if line.starts_with("version") => format!("{line}\n{service}"),
            Section::Root if line.starts_with("services") => format!("version = 1\n{line}\n"),
            Section::Root if line.starts_with("pools") => format!("version = 1\n{line}\n{service}"),
            Section::Root => format!("version = 1\n{line}\n{service}{pools}"),
            Section::Pool => {
                let backends = if line.starts_with("backends") {
                    ""
                } else {
                    "backends = [\"10.0.0.2:80\"]\n"
                };
                format!("version = 1\n{service}[pools.q]\n{backends}{line}\n")
            }
            Section::Service => {
                let listen = if line.starts_with("listen") {
                    ""
                } else {
                    "listen = \"127.0.0.1:8001\"\n"
                };
                let backends = match line.starts_with("pool ") || line.starts_with("backends") {
                    true => "",
                    false => "backends = [\"10.0.0.2:80\"]\n",
                };
                format!("version = 1\n{service}{pools}[services.t]\n{listen}{backends}{line}\n")
            }
            Section::Backend => format!(
                "version = 1\n{service}[pools.q]\nbackends = [\"10.0.0.3:80\", {{ {backend}{line} }}]\n"
            ),
            Section::Check => format!(
                "version = 1\n{service}[pools.q]\nbackends = [\"10.0.0.2:80\"]\n[pools.q.check]\n{line}\n"
            ),
            Section::Listen => format!(
                "version = 1\n{service}[services.t]\nbackends = [\"10.0.0.2:80\"]\nlisten = [{{ {listen}{line} }}]\n"
            ),
            Section::Connect => format!("version = 1\n{service}[services.s.connect]\n{line}\n"),
            Section::Metrics if line.starts_with("public") => {
                format!("version = 1\n{service}[metrics]\nlisten = \"127.0.0.1:1\"\n{line}\n")
            }
            section => format!("version = 1\n{service}{}\n{line}\n", section.title()),
        }
    }

    #[test]
    fn every_key_is_read_its_example_accepted_and_a_wrong_type_refused() {
        for key in KEYS {
            let text = around(key.section, &format!("{} = {}", key.name, key.example));
            if let Err(errors) = parse("x", &text) {
                panic!("{key:?}\n{text}\n{errors}");
            }
            // Nothing is a date: a key that is read refuses it, at its value.
            let text = around(key.section, &format!("{} = 1979-05-27", key.name));
            let errors = parse("x", &text).expect_err(key.name);
            let line = text.lines().position(|line| line.contains("1979")).unwrap();
            let found = errors.problems().iter().any(|problem| {
                problem.line == line + 1 && problem.message.contains("found a date")
            });
            assert!(found, "{key:?}\n{text}\n{errors}");
        }
    }

    #[test]
    fn every_key_is_in_the_reference_page() {
        let page = crate::reference_markdown();
        for section in Section::ALL {
            assert!(page.contains(section.help()), "{section:?}");
        }
        for key in KEYS {
            let row = page.lines().find(|line| {
                line.starts_with(&format!("| `{}` |", key.name)) && line.contains(key.help)
            });
            let row = row.unwrap_or_else(|| panic!("{key:?}"));
            // A bar within a cell would start a new one.
            assert_eq!(row.matches('|').count(), 8, "{row}");
        }
    }

    #[test]
    fn names_are_unique_in_their_section() {
        for section in Section::ALL {
            let mut names: Vec<_> = section.keys().map(|key| key.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), section.keys().count(), "{section:?}");
        }
    }

    #[test]
    fn defaults_are_those_of_the_plan() {
        let text = "version = 1\n[services.s]\nlisten = \"127.0.0.1:8000\"\nbackends = [\"10.0.0.2:80\"]\n\
                    connect = {}\n[drain]\n[log]\n[limits]\n[watchdog]\n[metrics]\n";
        let loaded = parse("x", text).unwrap();
        let globals = Globals::default();
        assert_eq!(globals.log.level, LogLevel::Info);
        assert_eq!(globals.log.format, LogFormat::Human);
        assert_eq!(loaded.spec.globals, globals);
        let service = &loaded.spec.services[0];
        assert_eq!(service.connect, ConnectSpec::default());
        let address = "127.0.0.1:8000".parse().unwrap();
        let listener = ListenerSpec {
            address,
            freebind: false,
            backlog: 4_096,
        };
        assert_eq!(service.listeners, [listener]);
        let check = service.backends[0].check.unwrap();
        assert_eq!((check.interval, check.timeout), (s(2), s(1)));
        assert_eq!((check.rise, check.fall, check.jitter_percent), (2, 3, 5));
    }
}
