//! Tables to what the user wrote: one value at a time, each with its place.
//!
//! Every function returns something usable even for a value that is wrong, so that one pass finds every mistake; a wrong
//! value is reported here and marked (`good`, `complete`), and assembling says nothing more of it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use evenkeel_plan::{
    BackendName, CheckKind, ConnectSpec, DrainSpec, LimitsSpec, LogFormat, LogLevel, LogSpec,
    NameError, PoolName, Scheduler, ServiceName, UserSpec, WatchdogSpec, Workers,
};
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use crate::problem::{Sink, Span, shown};
use crate::schema::{KEYS, Key, Kind, SYNONYMS, Section, WORD_SYNONYMS};
use crate::value::{
    Address, DurationText, parse_address, parse_duration, parse_listen, parse_percent,
};

/// What the user wrote.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) workers: Got<Workers>,
    pub(crate) user: UserSpec,
    pub(crate) metrics: Vec<Placed<SocketAddr>>,
    pub(crate) drain: DrainSpec,
    pub(crate) log: LogSpec,
    pub(crate) limits: Limits,
    pub(crate) watchdog: WatchdogSpec,
    /// In file order.
    pub(crate) pools: Vec<Pool>,
    /// In file order.
    pub(crate) services: Vec<Service>,
}

/// A value with its place.
#[derive(Clone, Debug)]
pub(crate) struct Placed<T> {
    pub(crate) value: T,
    pub(crate) at: Span,
    /// Dotted key.
    pub(crate) key: String,
}

/// The value of a key that has a default.
#[derive(Clone, Debug)]
pub(crate) struct Got<T> {
    pub(crate) value: T,
    /// Where it is written; `None` = the default.
    pub(crate) at: Option<Span>,
    /// Whether it could be read.
    pub(crate) good: bool,
    /// Dotted key.
    pub(crate) key: String,
}

impl<T> Got<T> {
    fn map<U>(self, f: impl FnOnce(T) -> U) -> Got<U> {
        Got {
            value: f(self.value),
            at: self.at,
            good: self.good,
            key: self.key,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Limits {
    pub(crate) spec: LimitsSpec,
    pub(crate) services: Got<u32>,
    pub(crate) listeners: Got<u32>,
    pub(crate) backends: Got<u32>,
}

/// A pool, named or written in a service.
#[derive(Debug)]
pub(crate) struct Pool {
    /// `None` for a bad name, and for one that is written in a service.
    pub(crate) name: Option<PoolName>,
    /// As written.
    pub(crate) label: String,
    pub(crate) at: Span,
    pub(crate) key: String,
    pub(crate) backends: Vec<Backend>,
    /// Whether all of `backends` could be read.
    pub(crate) complete: bool,
    pub(crate) port: Option<u16>,
    pub(crate) check: Option<Check>,
}

#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) name: Option<Placed<BackendName>>,
    pub(crate) address: Address,
    pub(crate) at: Span,
    pub(crate) key: String,
    pub(crate) weight: Got<u16>,
}

/// A check without its address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Check {
    pub(crate) kind: CheckKind,
    pub(crate) port: Option<u16>,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    pub(crate) rise: u16,
    pub(crate) fall: u16,
    pub(crate) jitter_percent: u8,
}

#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) name: Option<ServiceName>,
    /// As written.
    pub(crate) label: String,
    pub(crate) at: Span,
    pub(crate) key: String,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) source: Source,
    pub(crate) port: Got<Option<u16>>,
    pub(crate) scheduler: Scheduler,
    pub(crate) connect: ConnectSpec,
}

#[derive(Clone, Debug)]
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    pub(crate) at: Span,
    pub(crate) key: String,
    pub(crate) freebind: bool,
    pub(crate) backlog: u32,
}

/// Where a service's backends come from.
#[derive(Debug)]
pub(crate) enum Source {
    Named(Placed<String>),
    Inline(Pool),
    /// Could not be read; reported.
    Broken,
}

/// Decodes the whole document. `None` when it is written in another version of the language.
pub(crate) fn document(table: &DeTable<'_>, sink: &mut Sink<'_>) -> Option<Written> {
    let top = Span::new(0, 0);
    if let Version::Other = version(table, top, sink) {
        return None;
    }
    let root = Fields::new(table, Section::Root, String::new(), top, sink);
    let limits = limits(&root, sink);
    let written = Written {
        workers: workers(&root, limits.spec.workers, sink),
        user: user(&root, sink),
        metrics: metrics(&root, sink),
        drain: drain(&root, sink),
        log: log(&root, sink),
        limits,
        watchdog: watchdog(&root, sink),
        pools: named(&root, "pools", sink)
            .into_iter()
            .map(|node| named_pool(node, sink))
            .collect(),
        services: named(&root, "services", sink)
            .into_iter()
            .map(|node| service(node, sink))
            .collect(),
    };
    Some(written)
}

enum Version {
    Ours,
    Other,
}

/// The version comes first: nothing else can be judged in another language.
fn version(table: &DeTable<'_>, top: Span, sink: &mut Sink<'_>) -> Version {
    const RIGHT: &str = "this program reads `version = 1`";
    match table.get("version") {
        None => {
            sink.missing(
                top,
                "version",
                "`version` is missing",
                "start the file with `version = 1`",
            );
            Version::Ours
        }
        // The reader's stand-in for a value that it could not read.
        Some(value) if value.span() == (0..0) => Version::Ours,
        Some(value) => match value.get_ref() {
            DeValue::Integer(number) if integer_of(number) == Some(1) => Version::Ours,
            DeValue::Integer(number) => {
                let message = format!("unknown version {number}");
                sink.error(value.span().into(), "version", message, RIGHT);
                Version::Other
            }
            other => {
                let message = format!("expected the integer `1`, found {}", article(other));
                sink.error(value.span().into(), "version", message, RIGHT);
                Version::Ours
            }
        },
    }
}

fn workers(root: &Fields<'_>, limit: u16, sink: &mut Sink<'_>) -> Got<Workers> {
    let default = root.absent("workers", Workers::Auto);
    let Some(node) = root.get("workers") else {
        return default;
    };
    let right = format!("`\"auto\"` or a number from 1 to {limit}");
    let value = match node.value {
        DeValue::String(text) if text == "auto" => Some(Workers::Auto),
        DeValue::Integer(number) => match integer_of(number) {
            Some(0) => {
                node.error(sink, "no workers: nothing would carry traffic", &right);
                None
            }
            Some(count) if count > 0 && count <= i128::from(limit) => {
                Some(Workers::Count(u16::try_from(count).unwrap_or(limit)))
            }
            Some(count) if count > 0 => {
                node.error(
                    sink,
                    format!("{count} workers, but `limits.workers` is {limit}"),
                    format!("{right}; or raise `limits.workers`"),
                );
                None
            }
            _ => {
                node.error(sink, format!("{number} is out of range"), &right);
                None
            }
        },
        DeValue::String(text) => {
            node.error(
                sink,
                format!("unknown number of workers {}", shown(text)),
                &right,
            );
            None
        }
        other => {
            node.error(
                sink,
                format!(
                    "expected `\"auto\"` or an integer, found {}",
                    article(other)
                ),
                &right,
            );
            None
        }
    };
    node.got(value, default.value)
}

fn user(root: &Fields<'_>, sink: &mut Sink<'_>) -> UserSpec {
    let Some(node) = root.get("user") else {
        return UserSpec::Default;
    };
    const RIGHT: &str = "a user's name or number, such as `\"evenkeel\"`, or `\"keep\"`";
    let usual = |c: char| !c.is_control() && !c.is_whitespace() && !matches!(c, ':' | '/' | ',');
    match node.value {
        DeValue::String(text) if text == "keep" => return UserSpec::Keep,
        DeValue::String(text)
            if !text.is_empty() && text.len() <= 256 && text.chars().all(usual) =>
        {
            return UserSpec::Named(text.to_string());
        }
        DeValue::String(text) => {
            node.error(sink, format!("{} is not a user", shown(text)), RIGHT);
        }
        DeValue::Integer(number) => match integer_of(number).map(u32::try_from) {
            Some(Ok(id)) => return UserSpec::Named(id.to_string()),
            _ => node.error(sink, format!("{number} is not a user's number"), RIGHT),
        },
        other => {
            let found = article(other);
            node.error(
                sink,
                format!("expected a string or an integer, found {found}"),
                RIGHT,
            );
        }
    }
    UserSpec::Default
}

fn metrics(root: &Fields<'_>, sink: &mut Sink<'_>) -> Vec<Placed<SocketAddr>> {
    let Some(fields) = root.section("metrics", Section::Metrics, sink) else {
        return Vec::new();
    };
    let public = fields.boolean("public", None, sink);
    let Some(node) = fields.get("listen") else {
        return Vec::new();
    };
    let mut addresses: Vec<Placed<SocketAddr>> = Vec::new();
    for node in node.one_or_many() {
        let Some(address) = node.text(sink, "\"127.0.0.1:9180\"").and_then(|text| {
            parse_listen(text)
                .map_err(|(message, help)| node.error(sink, message, help))
                .ok()
        }) else {
            continue;
        };
        if !address.ip().to_canonical().is_loopback() && public.good && !public.value {
            node.error(
                sink,
                format!("other hosts can reach {address}, and metrics have no password"),
                "listen on a loopback address such as `127.0.0.1:9180`, or say `public = true`",
            );
            continue;
        }
        addresses.push(node.placed(address));
    }
    addresses
}

fn drain(root: &Fields<'_>, sink: &mut Sink<'_>) -> DrainSpec {
    let Some(fields) = root.section("drain", Section::Drain, sink) else {
        return DrainSpec::default();
    };
    DrainSpec {
        delay: fields.duration("delay", sink).value,
        deadline: fields.duration("deadline", sink).value,
        handshakes: fields.duration("handshakes", sink).value,
    }
}

fn log(root: &Fields<'_>, sink: &mut Sink<'_>) -> LogSpec {
    let Some(fields) = root.section("log", Section::Log, sink) else {
        return LogSpec::default();
    };
    LogSpec {
        level: match fields.choice("level", sink) {
            "error" => LogLevel::Error,
            "warn" => LogLevel::Warn,
            "debug" => LogLevel::Debug,
            _ => LogLevel::Info,
        },
        format: match fields.choice("format", sink) {
            "json" => LogFormat::Json,
            _ => LogFormat::Human,
        },
    }
}

fn limits(root: &Fields<'_>, sink: &mut Sink<'_>) -> Limits {
    let empty = DeTable::new();
    let fields = root
        .section("limits", Section::Limits, sink)
        .unwrap_or_else(|| Fields::empty(&empty, Section::Limits, "limits"));
    let services = fields.integer("services", None, sink);
    let listeners = fields.integer("listeners", None, sink);
    let backends = fields.integer("backends", None, sink);
    Limits {
        spec: LimitsSpec {
            workers: narrow(fields.integer("workers", None, sink).value),
            services: services.value,
            listeners: listeners.value,
            backends: backends.value,
        },
        services,
        listeners,
        backends,
    }
}

fn watchdog(root: &Fields<'_>, sink: &mut Sink<'_>) -> WatchdogSpec {
    let Some(fields) = root.section("watchdog", Section::Watchdog, sink) else {
        return WatchdogSpec::default();
    };
    let steer = fields.duration("steer_after", sink);
    let kill = fields.duration("kill_after", sink);
    if steer.good && kill.good && kill.value < steer.value {
        let (at, key) = match (kill.at, steer.at) {
            (Some(at), _) => (at, &kill.key),
            (None, at) => (at.unwrap_or(fields.at), &steer.key),
        };
        sink.error(
            at,
            key,
            format!(
                "a worker would be killed after {}, before new connections are steered away after {}",
                DurationText(kill.value),
                DurationText(steer.value)
            ),
            format!("make `kill_after` `\"{}\"` or more", DurationText(steer.value)),
        );
    }
    WatchdogSpec {
        steer_after: steer.value,
        kill_after: kill.value,
    }
}

/// The tables under `pools` or `services`, in file order.
fn named<'a>(root: &Fields<'a>, name: &'static str, sink: &mut Sink<'_>) -> Vec<Node<'a>> {
    let Some(node) = root.get(name) else {
        return Vec::new();
    };
    let Some(table) = node.value.as_table() else {
        let message = format!(
            "expected tables named `[{name}.NAME]`, found {}",
            article(node.value)
        );
        node.error(sink, message, format!("give each a name: `[{name}.web]`"));
        return Vec::new();
    };
    in_order(table)
        .map(|(key, value)| Node {
            value: value.get_ref(),
            // A table that is missing something is best shown where its name is written.
            at: key.span().into(),
            key: format!("{name}.{}", dotted(key.get_ref())),
            label: key.get_ref(),
        })
        .collect()
}

fn named_pool(node: Node<'_>, sink: &mut Sink<'_>) -> Pool {
    let name = PoolName::new(node.label)
        .map_err(|error| bad_name(&node, "pool", error, sink))
        .ok();
    let Some(fields) = node.fields(Section::Pool, sink) else {
        return Pool {
            name,
            label: node.label.to_owned(),
            at: node.at,
            key: node.key,
            backends: Vec::new(),
            complete: false,
            port: None,
            check: None,
        };
    };
    if fields.get("backends").is_none() {
        sink.missing(
            node.at,
            &node.key,
            format!("pool {} has no backends", shown(node.label)),
            "write `backends = [\"10.0.0.2:80\", \"10.0.0.3:80\"]`",
        );
    }
    let port = fields.port("port", sink).value;
    pool(&fields, name, node.label, port, sink)
}

/// The keys that named pools and services have in common.
fn pool(
    fields: &Fields<'_>,
    name: Option<PoolName>,
    label: &str,
    port: Option<u16>,
    sink: &mut Sink<'_>,
) -> Pool {
    let (backends, complete) = backends(fields, label, sink);
    let pool = Pool {
        name,
        label: label.to_owned(),
        at: fields.at,
        key: fields.key.clone(),
        backends,
        complete,
        port,
        check: check(fields, sink),
    };
    examine(&pool, sink);
    pool
}

fn backends(fields: &Fields<'_>, label: &str, sink: &mut Sink<'_>) -> (Vec<Backend>, bool) {
    const RIGHT: &str = "write `backends = [\"10.0.0.2:80\", \"10.0.0.3:80\"]`";
    let Some(node) = fields.get("backends") else {
        return (Vec::new(), false);
    };
    let Some(array) = node.value.as_array() else {
        let found = article(node.value);
        node.error(
            sink,
            format!("expected an array of backends, found {found}"),
            RIGHT,
        );
        return (Vec::new(), false);
    };
    let limit = usize::from(u16::MAX);
    if array.is_empty() {
        let message = format!("{} has no backends", shown(label));
        sink.missing(node.at, &node.key, message, RIGHT);
        return (Vec::new(), false);
    }
    if array.len() > limit {
        let message = format!("{} backends, at most {limit} are possible", array.len());
        node.error(sink, message, "divide them over several services");
        return (Vec::new(), false);
    }
    let backends: Vec<Backend> = node
        .one_or_many()
        .filter_map(|node| backend(&node, sink))
        .collect();
    let complete = backends.len() == array.len();
    (backends, complete)
}

fn backend(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<Backend> {
    const SHORT: &str = "\"10.0.0.2:80\"";
    let address_of = |node: &Node<'_>, sink: &mut Sink<'_>| {
        let text = node.text(sink, SHORT)?;
        match backend_address(text) {
            Ok(address) => Some(address),
            Err((message, help)) => {
                node.error(sink, message, help);
                None
            }
        }
    };
    if !node.value.is_table() {
        if !node.value.is_str() {
            let found = article(node.value);
            let message = format!("expected a string such as `{SHORT}` or a table, found {found}");
            node.error(
                sink,
                message,
                "a table is `{ name = \"b1\", address = \"10.0.0.2:80\" }`",
            );
            return None;
        }
        return Some(Backend {
            name: None,
            address: address_of(node, sink)?,
            at: node.at,
            key: node.key.clone(),
            weight: Got {
                value: 1,
                at: None,
                good: true,
                key: node.key.clone(),
            },
        });
    }
    let fields = node.fields(Section::Backend, sink)?;
    let name = fields.get("name").and_then(|node| {
        let text = node.text(sink, "\"openhim-1\"")?;
        match BackendName::new(text) {
            Ok(name) => Some(node.placed(name)),
            Err(error) => {
                bad_name(
                    &Node {
                        label: text,
                        ..node
                    },
                    "backend",
                    error,
                    sink,
                );
                None
            }
        }
    });
    let name_is_bad = fields.get("name").is_some() && name.is_none();
    let weight = fields.integer("weight", None, sink).map(narrow);
    let Some(address_node) = fields.get("address") else {
        sink.missing(
            node.at,
            &node.key,
            "a backend without `address`",
            "write `{ address = \"10.0.0.2:80\" }`",
        );
        return None;
    };
    let address = address_of(&address_node, sink)?;
    (!name_is_bad).then_some(Backend {
        name,
        address,
        at: address_node.at,
        key: node.key.clone(),
        weight,
    })
}

fn backend_address(text: &str) -> Result<Address, (String, String)> {
    let address = parse_address(text)?;
    let ip = address.ip();
    let shown = shown(text);
    if address.port() == Some(0) {
        return Err((
            format!("{shown} has port 0, which cannot be connected to"),
            "a port is 1 to 65535; leave it out to take the one of the pool or service".to_owned(),
        ));
    }
    let broadcast = match ip {
        std::net::IpAddr::V4(ip) => ip.is_broadcast(),
        std::net::IpAddr::V6(_) => false,
    };
    if ip.is_unspecified() || ip.is_multicast() || broadcast {
        return Err((
            format!("{shown} is not the address of a server"),
            "write the address of one host; for this host `127.0.0.1`".to_owned(),
        ));
    }
    Ok(address)
}

/// What can be said of a pool on its own.
fn examine(pool: &Pool, sink: &mut Sink<'_>) {
    let weights = pool.backends.iter().map(|backend| &backend.weight);
    if pool.complete
        && weights
            .clone()
            .all(|weight| weight.good && weight.value == 0)
    {
        let first = weights
            .clone()
            .find_map(|weight| Some((weight.at?, &weight.key)));
        if let Some((at, key)) = first {
            sink.error(
                at,
                key,
                format!(
                    "all backends of {} have weight 0: none would get a connection",
                    shown(&pool.label)
                ),
                "give at least one a weight of 1 or more",
            );
        }
    }

    let mut names: HashMap<&BackendName, Span> = HashMap::new();
    let mut addresses: HashMap<(std::net::IpAddr, Option<u16>), Span> = HashMap::new();
    for backend in &pool.backends {
        if let Some(name) = &backend.name {
            if let Some(first) = names.get(&name.value) {
                let message = format!("duplicate backend name {}", shown(name.value.as_str()));
                let help = format!(
                    "the first is in line {}; names are unique in a pool",
                    sink.line(*first)
                );
                sink.error(name.at, &name.key, message, help);
            } else {
                names.insert(&name.value, name.at);
            }
        }
        let place = (
            backend.address.ip().to_canonical(),
            backend.address.port().or(pool.port),
        );
        if let Some(first) = addresses.get(&place) {
            let message = format!(
                "duplicate backend address {}",
                shown(&backend.address.to_string())
            );
            let help = format!(
                "the first is in line {}; one server with more share has a `weight` under `wrr`",
                sink.line(*first)
            );
            sink.warning(backend.at, &backend.key, message, help);
        } else {
            addresses.insert(place, backend.at);
        }
    }
}

fn check(fields: &Fields<'_>, sink: &mut Sink<'_>) -> Option<Check> {
    let empty = DeTable::new();
    let defaults = Fields::empty(&empty, Section::Check, "check");
    let Some(node) = fields.get("check") else {
        return check_table(&defaults, sink);
    };
    match node.value {
        DeValue::String(text) => {
            let words = defaults.words("kind");
            if words.contains(&text.as_ref()) {
                (text != "none")
                    .then(|| check_table(&defaults, sink))
                    .flatten()
            } else {
                unknown_word(&node, "check", text, words, sink);
                None
            }
        }
        DeValue::Table(_) => {
            let fields = node.fields(Section::Check, sink)?;
            check_table(&fields, sink)
        }
        other => {
            let found = article(other);
            let message = format!("expected a string such as `\"tcp\"` or a table, found {found}");
            node.error(
                sink,
                message,
                "`\"tcp\"`, `\"none\"`, or `{ interval = \"2s\", timeout = \"1s\" }`",
            );
            None
        }
    }
}

fn check_table(fields: &Fields<'_>, sink: &mut Sink<'_>) -> Option<Check> {
    let kind = fields.choice("kind", sink);
    let port = fields.port("port", sink).value;
    let interval = fields.duration("interval", sink);
    let mut timeout = fields.duration("timeout", sink);
    if timeout.at.is_none() {
        timeout.value = timeout.value.min(interval.value);
    }
    if let Some(at) = timeout.at
        && timeout.good
        && interval.good
        && timeout.value > interval.value
    {
        sink.error(
            at,
            &timeout.key,
            format!(
                "the time-out {} is longer than the interval {}",
                DurationText(timeout.value),
                DurationText(interval.value)
            ),
            format!(
                "a time-out of at most `\"{}\"`, or an interval of at least `\"{}\"`",
                DurationText(interval.value),
                DurationText(timeout.value)
            ),
        );
    }
    let check = Check {
        kind: CheckKind::Tcp,
        port,
        interval: interval.value,
        timeout: timeout.value,
        rise: narrow(fields.integer("rise", None, sink).value),
        fall: narrow(fields.integer("fall", None, sink).value),
        jitter_percent: fields.percent("jitter", sink),
    };
    (kind != "none").then_some(check)
}

fn service(node: Node<'_>, sink: &mut Sink<'_>) -> Service {
    let name = ServiceName::new(node.label)
        .map_err(|error| bad_name(&node, "service", error, sink))
        .ok();
    let empty = DeTable::new();
    let label = node.label.to_owned();
    let (fields, readable) = match node.fields(Section::Service, sink) {
        Some(fields) => (fields, true),
        None => (Fields::empty(&empty, Section::Service, &node.key), false),
    };
    let source = if readable {
        source(&fields, &node, sink)
    } else {
        Source::Broken
    };
    let listeners = if readable {
        listeners(&fields, &node, sink)
    } else {
        Vec::new()
    };
    let connect = match fields.section("connect", Section::Connect, sink) {
        None => ConnectSpec::default(),
        Some(fields) => ConnectSpec {
            timeout: fields.duration("timeout", sink).value,
            attempts: u8::try_from(fields.integer("attempts", None, sink).value).unwrap_or(u8::MAX),
        },
    };
    Service {
        name,
        label,
        at: node.at,
        listeners,
        source,
        port: fields.port("port", sink),
        scheduler: match fields.choice("scheduler", sink) {
            "wrr" => Scheduler::Wrr,
            _ => Scheduler::Rr,
        },
        connect,
        key: node.key,
    }
}

fn source(fields: &Fields<'_>, node: &Node<'_>, sink: &mut Sink<'_>) -> Source {
    let label = node.label;
    match (fields.get("pool"), fields.get("backends")) {
        (Some(pool_node), Some(inline)) => {
            inline.error(
                sink,
                format!("service {} has both `pool` and `backends`", shown(label)),
                "keep one of the two",
            );
            // What is written there is still looked at.
            pool(fields, None, label, None, sink);
            pool_node.text(sink, "\"openhim\"");
            Source::Broken
        }
        (Some(pool_node), None) => {
            if let Some(check_node) = fields.get("check") {
                let message = "a check goes with the backends, and these are in a pool";
                let help = "move it to the pool: `[pools.NAME.check]`";
                check_node.error(sink, message, help);
            }
            match pool_node.text(sink, "\"openhim\"") {
                Some(text) => Source::Named(pool_node.placed(text.to_owned())),
                None => Source::Broken,
            }
        }
        (None, Some(_)) => Source::Inline(pool(fields, None, label, None, sink)),
        (None, None) => {
            sink.missing(
                node.at,
                &node.key,
                format!("service {} has no backends", shown(label)),
                "write `backends = [\"10.0.0.2:80\"]`, or `pool = \"NAME\"` and a `[pools.NAME]`",
            );
            check(fields, sink);
            Source::Broken
        }
    }
}

fn listeners(fields: &Fields<'_>, service: &Node<'_>, sink: &mut Sink<'_>) -> Vec<Listener> {
    const RIGHT: &str = "write `listen = \"10.0.0.1:80\"`";
    let freebind = fields.boolean("freebind", None, sink).value;
    let backlog = fields.integer("backlog", None, sink).value;
    let Some(node) = fields.get("listen") else {
        let message = format!("service {} has no `listen`", shown(service.label));
        sink.missing(service.at, &service.key, message, RIGHT);
        return Vec::new();
    };
    if node.value.as_array().is_some_and(|array| array.is_empty()) {
        let message = format!(
            "service {} has no address in `listen`",
            shown(service.label)
        );
        sink.missing(node.at, &node.key, message, RIGHT);
    }
    node.one_or_many()
        .filter_map(|node| listener(&node, freebind, backlog, sink))
        .collect()
}

fn listener(
    node: &Node<'_>,
    freebind: bool,
    backlog: u32,
    sink: &mut Sink<'_>,
) -> Option<Listener> {
    const SHORT: &str = "\"10.0.0.1:80\"";
    let address_of = |node: &Node<'_>, sink: &mut Sink<'_>| {
        let text = node.text(sink, SHORT)?;
        match listen_address(text) {
            Ok(address) => Some(address),
            Err((message, help)) => {
                node.error(sink, message, help);
                None
            }
        }
    };
    if !node.value.is_table() {
        return Some(Listener {
            address: address_of(node, sink)?,
            at: node.at,
            key: node.key.clone(),
            freebind,
            backlog,
        });
    }
    let fields = node.fields(Section::Listen, sink)?;
    let freebind = fields.boolean("freebind", Some(freebind), sink).value;
    let backlog = fields.integer("backlog", Some(backlog), sink).value;
    let Some(address_node) = fields.get("address") else {
        let help = "write `{ address = \"10.0.0.1:80\" }`";
        sink.missing(node.at, &node.key, "a listener without `address`", help);
        return None;
    };
    Some(Listener {
        address: address_of(&address_node, sink)?,
        at: address_node.at,
        key: node.key.clone(),
        freebind,
        backlog,
    })
}

fn listen_address(text: &str) -> Result<SocketAddr, (String, String)> {
    let address = parse_listen(text)?;
    if address.ip().is_multicast() {
        let message = format!("{} cannot be listened on with TCP", shown(text));
        return Err((message, "write an address of this host".to_owned()));
    }
    Ok(address)
}

fn bad_name(node: &Node<'_>, what: &str, error: NameError, sink: &mut Sink<'_>) {
    let message = format!("{} cannot be the name of a {what}", shown(node.label));
    sink.error(node.at, &node.key, message, error.to_string());
}

/// A table with fixed keys.
struct Fields<'a> {
    table: &'a DeTable<'a>,
    section: Section,
    key: String,
    at: Span,
}

impl<'a> Fields<'a> {
    /// Takes `table` as `section`, and reports the keys that do not belong there.
    fn new(
        table: &'a DeTable<'a>,
        section: Section,
        key: String,
        at: Span,
        sink: &mut Sink<'_>,
    ) -> Self {
        let fields = Self {
            table,
            section,
            key,
            at,
        };
        for (name, value) in in_order(table) {
            if section.key(name.get_ref()).is_none() {
                fields.unknown_key(name, value.get_ref(), sink);
            }
        }
        fields
    }

    /// A section that is not written: everything has its default.
    fn empty(table: &'a DeTable<'a>, section: Section, key: &str) -> Self {
        Self {
            table,
            section,
            key: key.to_owned(),
            at: Span::new(0, 0),
        }
    }

    fn path(&self, name: &str) -> String {
        if self.key.is_empty() {
            dotted(name)
        } else {
            format!("{}.{}", self.key, dotted(name))
        }
    }

    /// The value of `name`, when it is written and could be read.
    fn get(&self, name: &'static str) -> Option<Node<'a>> {
        debug_assert!(self.section.key(name).is_some(), "{name} is in the table");
        let value = self.table.get(name)?;
        // An empty span is the reader's stand-in for a value that it could not read.
        (value.span() != (0..0)).then(|| Node {
            value: value.get_ref(),
            at: value.span().into(),
            key: self.path(name),
            label: name,
        })
    }

    fn schema(&self, name: &str) -> &'static Key {
        let key = self.section.key(name);
        key.unwrap_or_else(|| unreachable!("{name} is in the table of keys"))
    }

    fn absent<T>(&self, name: &str, value: T) -> Got<T> {
        Got {
            value,
            at: None,
            good: true,
            key: self.path(name),
        }
    }

    fn section(&self, name: &'static str, section: Section, sink: &mut Sink<'_>) -> Option<Self> {
        self.get(name)?.fields(section, sink)
    }

    /// `default` in place of the table's.
    fn integer(&self, name: &'static str, default: Option<u32>, sink: &mut Sink<'_>) -> Got<u32> {
        let Kind::Integer {
            min,
            max,
            default: usual,
            ..
        } = self.schema(name).kind
        else {
            unreachable!("{name} is an integer in the table of keys");
        };
        let default = default.unwrap_or(usual);
        let Some(node) = self.get(name) else {
            return self.absent(name, default);
        };
        let value = node.integer(sink, min, max);
        node.got(value, default)
    }

    fn port(&self, name: &'static str, sink: &mut Sink<'_>) -> Got<Option<u16>> {
        let Some(node) = self.get(name) else {
            return self.absent(name, None);
        };
        let value = node.integer(sink, 1, u32::from(u16::MAX)).map(narrow);
        node.got(value.map(Some), None)
    }

    fn duration(&self, name: &'static str, sink: &mut Sink<'_>) -> Got<Duration> {
        let key = self.schema(name);
        let Kind::Duration { min, max, default } = key.kind else {
            unreachable!("{name} is a duration in the table of keys");
        };
        let Some(node) = self.get(name) else {
            return self.absent(name, default);
        };
        let read = |sink: &mut Sink<'_>| {
            let text = match node.value {
                DeValue::Integer(number) => {
                    let help = parse_duration(number.as_str()).err();
                    let help = help.unwrap_or_else(|| format!("write `{}`", key.example));
                    node.error(
                        sink,
                        format!(
                            "expected a duration such as `{}`, found an integer",
                            key.example
                        ),
                        help,
                    );
                    return None;
                }
                _ => node.text(sink, key.example)?,
            };
            let duration = match parse_duration(text) {
                Ok(duration) => duration,
                Err(help) => {
                    node.error(sink, format!("{} is not a duration", shown(text)), help);
                    return None;
                }
            };
            if duration < min || duration > max {
                node.error(
                    sink,
                    format!("{} is out of range", shown(text)),
                    format!(
                        "from `\"{}\"` to `\"{}\"`",
                        DurationText(min),
                        DurationText(max)
                    ),
                );
                return None;
            }
            Some(duration)
        };
        let value = read(sink);
        node.got(value, default)
    }

    fn percent(&self, name: &'static str, sink: &mut Sink<'_>) -> u8 {
        let key = self.schema(name);
        let Kind::Percent { max, default } = key.kind else {
            unreachable!("{name} is a share in the table of keys");
        };
        let Some(node) = self.get(name) else {
            return default;
        };
        if let DeValue::Integer(number) = node.value {
            let message = format!(
                "expected a share such as `{}`, found an integer",
                key.example
            );
            node.error(
                sink,
                message,
                format!("write `\"{}%\"`", shown(number.as_str()).trim_matches('`')),
            );
            return default;
        }
        let Some(text) = node.text(sink, key.example) else {
            return default;
        };
        let value = parse_percent(text).and_then(|value| u8::try_from(value).ok());
        match value.filter(|value| *value <= max) {
            Some(value) => value,
            None => {
                let help = format!("from `\"0%\"` to `\"{max}%\"`");
                node.error(
                    sink,
                    format!("{} is not a share in range", shown(text)),
                    help,
                );
                default
            }
        }
    }

    /// `default` in place of the table's.
    fn boolean(&self, name: &'static str, default: Option<bool>, sink: &mut Sink<'_>) -> Got<bool> {
        let Kind::Boolean { default: usual } = self.schema(name).kind else {
            unreachable!("{name} is a boolean in the table of keys");
        };
        let default = default.unwrap_or(usual);
        let Some(node) = self.get(name) else {
            return self.absent(name, default);
        };
        let value = node.value.as_bool();
        if value.is_none() {
            let message = format!("expected `true` or `false`, found {}", article(node.value));
            node.error(
                sink,
                message,
                format!("write `{name} = true` or `{name} = false`"),
            );
        }
        node.got(value, default)
    }

    fn words(&self, name: &str) -> &'static [&'static str] {
        let Kind::Choice { words } = self.schema(name).kind else {
            unreachable!("{name} is a choice in the table of keys");
        };
        words
    }

    fn choice(&self, name: &'static str, sink: &mut Sink<'_>) -> &'static str {
        let words = self.words(name);
        let Some(node) = self.get(name) else {
            return words[0];
        };
        let Some(text) = node.text(sink, self.schema(name).example) else {
            return words[0];
        };
        match words.iter().find(|word| **word == text) {
            Some(word) => word,
            None => {
                unknown_word(&node, name, text, words, sink);
                words[0]
            }
        }
    }

    fn unknown_key(&self, name: &Spanned<DeString<'_>>, value: &DeValue<'_>, sink: &mut Sink<'_>) {
        let key: &str = name.get_ref();
        let mut message = match (self.section, value) {
            (Section::Root, DeValue::Table(_)) => {
                format!("unknown section `[{}]`", shown(key).trim_matches('`'))
            }
            (Section::Root, _) => format!("unknown key {}", shown(key)),
            _ => format!("unknown key {} in `{}`", shown(key), self.key),
        };
        let help = match suggestion(self.section, key) {
            Suggestion::Name(name) => {
                message.push_str(&format!("; did you mean `{name}`?"));
                String::new()
            }
            Suggestion::Elsewhere(name, sections) => {
                if name == key {
                    format!("`{name}` belongs in {sections}")
                } else {
                    format!("perhaps `{name}`, which belongs in {sections}")
                }
            }
            Suggestion::Port => "write the port into the address: `\"10.0.0.2:80\"`".to_owned(),
            Suggestion::None => {
                let names: Vec<_> = self
                    .section
                    .keys()
                    .map(|key| format!("`{}`", key.name))
                    .collect();
                format!("known here: {}", names.join(", "))
            }
        };
        sink.error(name.span().into(), &self.path(key), message, help);
    }
}

/// A value with its place.
#[derive(Clone)]
struct Node<'a> {
    value: &'a DeValue<'a>,
    at: Span,
    /// Dotted key.
    key: String,
    /// The last part of it.
    label: &'a str,
}

impl<'a> Node<'a> {
    fn error(&self, sink: &mut Sink<'_>, message: impl Into<String>, help: impl Into<String>) {
        sink.error(self.at, &self.key, message, help);
    }

    fn placed<T>(&self, value: T) -> Placed<T> {
        Placed {
            value,
            at: self.at,
            key: self.key.clone(),
        }
    }

    fn got<T>(&self, value: Option<T>, default: T) -> Got<T> {
        Got {
            good: value.is_some(),
            value: value.unwrap_or(default),
            at: Some(self.at),
            key: self.key.clone(),
        }
    }

    fn fields(&self, section: Section, sink: &mut Sink<'_>) -> Option<Fields<'a>> {
        let Some(table) = self.value.as_table() else {
            let message = format!("expected a table, found {}", article(self.value));
            let names: Vec<_> = section
                .keys()
                .map(|key| format!("`{}`", key.name))
                .collect();
            self.error(sink, message, format!("a table with {}", names.join(", ")));
            return None;
        };
        Some(Fields::new(table, section, self.key.clone(), self.at, sink))
    }

    fn text(&self, sink: &mut Sink<'_>, example: &str) -> Option<&'a str> {
        if let DeValue::String(text) = self.value {
            return Some(text);
        }
        let found = article(self.value);
        let message = format!("expected a string such as `{example}`, found {found}");
        let help = match self.value {
            DeValue::Array(_) | DeValue::Table(_) => String::new(),
            _ => "put it in quotes".to_owned(),
        };
        self.error(sink, message, help);
        None
    }

    fn integer(&self, sink: &mut Sink<'_>, min: u32, max: u32) -> Option<u32> {
        let DeValue::Integer(number) = self.value else {
            let found = article(self.value);
            let message = format!("expected an integer from {min} to {max}, found {found}");
            let help = match self.value {
                DeValue::String(text) if text.parse::<u32>().is_ok() => {
                    format!("write {text} without quotes")
                }
                _ => String::new(),
            };
            self.error(sink, message, help);
            return None;
        };
        let value = integer_of(number).and_then(|number| u32::try_from(number).ok());
        let value = value.filter(|value| (min..=max).contains(value));
        if value.is_none() {
            let number = number.to_string();
            self.error(
                sink,
                format!("{} is out of range", shown(&number).trim_matches('`')),
                format!("from {min} to {max}"),
            );
        }
        value
    }

    /// The elements of an array, or the value itself.
    fn one_or_many(&self) -> Box<dyn Iterator<Item = Self> + 'a> {
        let this = self.clone();
        let DeValue::Array(array) = self.value else {
            return Box::new(std::iter::once(this));
        };
        Box::new(array.iter().enumerate().map(move |(index, value)| Node {
            value: value.get_ref(),
            at: value.span().into(),
            key: format!("{}[{index}]", this.key),
            label: this.label,
        }))
    }
}

/// What to say of a key that is not known.
enum Suggestion {
    /// This one, in the same section.
    Name(&'static str),
    /// This one, in other sections.
    Elsewhere(&'static str, String),
    /// A port that has no key of its own.
    Port,
    None,
}

fn suggestion(section: Section, key: &str) -> Suggestion {
    let synonym = SYNONYMS
        .iter()
        .find(|(theirs, _)| key.eq_ignore_ascii_case(theirs))
        .map(|(_, ours)| *ours);
    let names = || section.keys().map(|key| key.name);
    if let Some(name) = synonym.filter(|name| names().any(|known| known == *name)) {
        return Suggestion::Name(name);
    }
    if key == "port" && matches!(section, Section::Backend | Section::Listen) {
        return Suggestion::Port;
    }
    let elsewhere = |name: &str| {
        let titles: Vec<_> = Section::ALL
            .into_iter()
            .filter(|other| *other != section && other.key(name).is_some())
            .map(Section::title)
            .collect();
        titles.join(" or ")
    };
    let exact = KEYS.iter().find(|known| known.name == key);
    if let Some(known) = exact {
        return Suggestion::Elsewhere(known.name, elsewhere(known.name));
    }
    if let Some(name) = nearest(key, names()) {
        return Suggestion::Name(name);
    }
    match synonym {
        Some(name) => Suggestion::Elsewhere(name, elsewhere(name)),
        None => Suggestion::None,
    }
}

/// The candidate that `word` is a slip of, if there is one.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let length = word.chars().count();
    if length > 64 {
        return None;
    }
    let word = word.to_lowercase();
    let distance = |candidate: &str| {
        let candidate = candidate.to_lowercase();
        let shorter = length.min(candidate.len());
        let distance = strsim::osa_distance(&word, &candidate);
        let extended =
            shorter >= 3 && (word.starts_with(&candidate) || candidate.starts_with(&word));
        let close = distance <= (shorter / 3).max(1) || extended;
        // Of equals the one with the same first letter: `wr` is `wrr` and not `rr`.
        close.then(|| (distance, word.chars().next() != candidate.chars().next()))
    };
    candidates
        .filter_map(|candidate| Some((distance(candidate)?, candidate)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn unknown_word(node: &Node<'_>, what: &str, text: &str, words: &[&str], sink: &mut Sink<'_>) {
    let mut message = format!("unknown {what} {}", shown(text));
    let synonym = WORD_SYNONYMS
        .iter()
        .find(|(theirs, ours)| text.eq_ignore_ascii_case(theirs) && words.contains(ours))
        .map(|(_, ours)| *ours);
    if let Some(word) = synonym.or_else(|| nearest(text, words.iter().copied())) {
        message.push_str(&format!("; did you mean `{word}`?"));
    }
    let known: Vec<_> = words.iter().map(|word| format!("`\"{word}\"`")).collect();
    node.error(sink, message, format!("one of {}", known.join(", ")));
}

fn in_order<'a>(
    table: &'a DeTable<'a>,
) -> impl Iterator<Item = (&'a Spanned<DeString<'a>>, &'a Spanned<DeValue<'a>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries.into_iter()
}

/// A part of a dotted key, quoted where TOML wants it so.
fn dotted(part: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if !part.is_empty() && part.chars().all(bare) {
        part.to_owned()
    } else {
        format!("\"{}\"", shown(part).trim_matches('`'))
    }
}

fn integer_of(number: &toml::de::DeInteger<'_>) -> Option<i128> {
    i128::from_str_radix(number.as_str(), number.radix()).ok()
}

/// A type with its article, for "found ...".
fn article(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a decimal number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// Values whose range in the table of keys fits.
fn narrow(value: u32) -> u16 {
    u16::try_from(value).unwrap_or(u16::MAX)
}
