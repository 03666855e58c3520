//! What the configuration says of single connections, and what it comes to: who may come, how many, how they look to
//! backends, how long they take, what is written of them.
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy takes for production code"
)]

use std::path::Path;
use std::time::Duration;

use evenkeel_config::{Loaded, load, parse};
use evenkeel_plan::{
    AccessFormat, AdmissionSpec, ConnectOn, Framing, KeepaliveSpec, Network, ProxyVersion,
    QueueSpec, RateSpec, Scheduler, ServiceSpec, SourceSpec, TimeoutsSpec,
};

fn accept(text: &str) -> Loaded {
    parse("evenkeel.toml", text).unwrap_or_else(|errors| panic!("{errors}"))
}

/// A service with `keys`, and what there is besides.
fn loaded(keys: &str, rest: &str) -> Loaded {
    let text = format!("version = 1\n[services.s]\n{keys}\n{rest}");
    accept(&text)
}

fn service(keys: &str) -> ServiceSpec {
    let keys = format!("listen = \"127.0.0.1:8000\"\nbackends = [\"10.0.0.2:80\"]\n{keys}");
    loaded(&keys, "").spec.services.remove(0)
}

fn lines(problems: &[evenkeel_config::Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

fn networks(texts: &[&str]) -> Vec<Network> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn admission_holds_for_each_listener_and_an_entry_goes_over_it() {
    let keys = r#"
listen = ["127.0.0.1:1", { address = "127.0.0.1:2", deny = [], max_connections = 7, source_rate = 3, accept_proxy = [] },
          { address = "127.0.0.1:3", allow = "::1", rate_burst = 9, backlog = 8 }, { address = "127.0.0.1:4", backlog = 8 }]
backends = ["10.0.0.2:80"]
allow = ["10.0.0.0/8", "192.0.2.7", "10.0.0.0/8"]
deny = "10.1.0.0/16"
max_connections = 100
rate = 50
source_rate = 5
source_burst = 20
accept_proxy = ["10.0.0.1", "fd00::/64"]
"#;
    let spec = loaded(keys, "").spec.services.remove(0);
    let found: Vec<_> = spec.listeners.iter().map(|l| &l.admission).collect();
    let usual = AdmissionSpec {
        allow: networks(&["10.0.0.0/8", "192.0.2.7"]),
        deny: networks(&["10.1.0.0/16"]),
        max_connections: Some(100),
        rate: Some(RateSpec {
            per_second: 50,
            burst: 50,
        }),
        source_rate: Some(RateSpec {
            per_second: 5,
            burst: 20,
        }),
        accept_proxy: Some(evenkeel_plan::AcceptProxySpec {
            from: networks(&["10.0.0.1", "fd00::/64"]),
        }),
    };
    let second = AdmissionSpec {
        deny: Vec::new(),
        max_connections: Some(7),
        source_rate: Some(RateSpec {
            per_second: 3,
            burst: 20,
        }),
        accept_proxy: None,
        ..usual.clone()
    };
    let third = AdmissionSpec {
        allow: networks(&["::1"]),
        rate: Some(RateSpec {
            per_second: 50,
            burst: 9,
        }),
        ..usual.clone()
    };
    assert_eq!(found, [&usual, &second, &third, &usual]);
}

#[test]
fn a_backends_own_limit_goes_over_the_pools() {
    let pool = "[pools.p]\nbackends = [\"10.0.0.2:80\", { address = \"10.0.0.3:80\", max_connections = 5 }]\n";
    let limits = |loaded: Loaded| -> Vec<_> {
        let backends = loaded.spec.services[0].backends.iter();
        backends.map(|b| b.max_connections).collect()
    };
    let keys = "listen = \"127.0.0.1:1\"\npool = \"p\"\nmax_connections = 9";
    assert_eq!(limits(loaded(keys, pool)), [None, Some(5)]);
    let pool = format!("{pool}backend_max_connections = 20");
    assert_eq!(limits(loaded(keys, &pool)), [Some(20), Some(5)]);
    let keys =
        "listen = \"127.0.0.1:1\"\nbackends = [\"10.0.0.2:80\"]\nbackend_max_connections = 7";
    assert_eq!(limits(loaded(keys, "")), [Some(7)]);
}

#[test]
fn schedulers() {
    for (word, scheduler) in [
        ("rr", Scheduler::Rr),
        ("wrr", Scheduler::Wrr),
        ("lc", Scheduler::Lc),
        ("wlc", Scheduler::Wlc),
        ("source-hash", Scheduler::SourceHash),
    ] {
        let spec = service(&format!("scheduler = \"{word}\""));
        assert_eq!((spec.scheduler, spec.scheduler.as_str()), (scheduler, word));
    }
}

#[test]
fn connections_to_backends() {
    let usual = service("").connect;
    assert_eq!(usual.source, SourceSpec::Kernel);
    let spec = service(
        "source = [\"10.0.0.1\", \"::ffff:10.0.0.9\"]\nsend_proxy = \"v2\"\nconnect_on = \"data\"\nconnect.attempts = 2",
    );
    let addresses = ["10.0.0.1", "10.0.0.9"].map(|ip| ip.parse().unwrap());
    assert_eq!(spec.connect.source, SourceSpec::Addresses(addresses.into()));
    assert_eq!(spec.connect.send_proxy, Some(ProxyVersion::V2));
    assert_eq!(spec.connect.on, ConnectOn::Data);
    assert_eq!(spec.connect.attempts, 2);
    let spec = service("source = \"client\"\nsend_proxy = \"v1\"");
    assert_eq!(spec.connect.source, SourceSpec::Client);
    assert_eq!(spec.connect.send_proxy, Some(ProxyVersion::V1));
    assert_eq!(service("send_proxy = \"none\"").connect, usual);
}

#[test]
fn framing() {
    let of = |keys: &str| service(keys).framing;
    let max_bytes = 1 << 20;
    assert_eq!(of("framing = \"mllp\""), Framing::Mllp { max_bytes });
    let max_bytes = 10 << 10;
    let keys = "framing = \"mllp\"\nframe_max = \"10KiB\"";
    assert_eq!(of(keys), Framing::Mllp { max_bytes });
}

#[test]
fn zero_is_never() {
    let s = Duration::from_secs;
    let spec = service(
        "timeouts = { handshake = \"1s\", idle = \"0s\", half_closed = \"0s\", total = \"12h\" }\n\
         keepalive = { idle = \"0s\", interval = \"5s\", probes = 3, user_timeout = \"30s\" }\n\
         queue = { length = 0, timeout = \"1s\" }\nbackend_max_connections = 1",
    );
    let timeouts = TimeoutsSpec {
        handshake: s(1),
        idle: None,
        half_closed: None,
        total: Some(s(12 * 3_600)),
    };
    let keepalive = KeepaliveSpec {
        idle: None,
        interval: s(5),
        probes: 3,
        user_timeout: Some(s(30)),
    };
    let queue = QueueSpec {
        length: 0,
        timeout: s(1),
    };
    let found = (spec.timeouts, spec.keepalive, spec.queue);
    assert_eq!(found, (timeouts, keepalive, queue));
    let never = "timeouts.total = \"0s\"\nkeepalive.user_timeout = \"0s\"";
    assert_eq!(service(never), service(""));
}

#[test]
fn the_access_log() {
    let of = |format: &str| {
        let text =
            format!("version = 1\naccess_log = {{ format = \"{format}\", file = \"/x/y\" }}");
        accept(&text).spec.globals.access_log
    };
    assert_eq!(of("json").file.as_deref(), Some("/x/y"));
    for (format, expected) in [
        ("off", AccessFormat::Off),
        ("human", AccessFormat::Human),
        ("json", AccessFormat::Json),
        ("logfmt", AccessFormat::Logfmt),
    ] {
        assert_eq!(of(format).format, expected);
    }
    let all: Vec<_> = evenkeel_plan::ACCESS_FIELDS
        .iter()
        .map(|(name, _)| format!("{{{name}}}"))
        .collect();
    let template = format!("{{{{$x}}}} {} é%", all.join("\t"));
    let found = of(&template.replace('\t', "\\t")).format;
    assert_eq!(found, AccessFormat::Template(template));
}

#[test]
fn warned_of_but_accepted() {
    let text = r#"version = 1
access_log.file = "/x"
[pools.p]
backends = ["10.0.0.2:80", { address = "10.0.0.3:80", weight = 2 }]
[services.a]
listen = ["127.0.0.1:1", "127.0.0.1:2"]
pool = "p"
scheduler = "lc"
allow = ["10.1.0.0/16", "10.2.0.1"]
deny = ["10.1.0.0/16", "10.2.0.0/24"]
accept_proxy = ["10.0.0.1", "0.0.0.0/0"]
queue = {}
[services.b]
listen = ["127.0.0.1:3", { address = "[::1]:3", deny = "0.0.0.0/0" }]
pool = "p"
scheduler = "wlc"
deny = ["0.0.0.0/1", "0.0.0.0/0"]
[services.c]
listen = ["[fd00::1]:4", "[::]:5", { address = "[fd00::1]:6", accept_proxy = "fd00::9" }]
pool = "p"
scheduler = "source-hash"
source = "client"
deny = "0.0.0.0/0"
[services.c.queue]
length = 5
"#;
    let found = lines(&accept(text).warnings);
    let expected = [
        "2:19: nothing will be written to this file: `format` is `\"off\"`",
        "5:11: service `a` counts connections without looking at weights, such as 2 of backend `10.0.0.3:80` (write `scheduler = \"wlc\"`",
        "10:8: `deny` has all that may connect to service `a`: nobody can",
        "11:16: `accept_proxy` trusts 0.0.0.0/0: anybody can then claim any address",
        "12:9: nothing ever waits in the queue of service `a`: none of its backends has `max_connections` (write `backend_max_connections` in `[pools.p]`",
        "17:8: `deny` has all that may connect to service `b`: nobody can",
        "22:10: clients of [fd00::1]:4 have IPv6 addresses, which backend `10.0.0.2-80` (10.0.0.2:80) cannot be shown",
        "24:1: nothing ever waits in the queue of service `c`",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        let expected = format!("evenkeel.toml:{expected}");
        assert!(found.starts_with(&expected), "{found}\n{expected}");
    }
    let quiet = "listen = \"127.0.0.1:1\"\nbackends = [\"10.0.0.2:80\", { address = \"10.0.0.3:80\", max_connections = 5 }]\nqueue = {}";
    assert_eq!(loaded(quiet, "").warnings, []);
    let agent = "listen = \"127.0.0.1:1\"\nbackends = [\"10.0.0.2:80\"]\nqueue = {}\ncheck = { kind = \"agent\", port = 9 }";
    assert_eq!(loaded(agent, "").warnings, []);
}

#[test]
fn where_backends_see_clients_their_routes_are_noted() {
    let of = |backends: &str| {
        let keys = format!(
            "listen = {{ address = \"[::]:1\", accept_proxy = \"fd00::/8\" }}\nport = 5001\nsource = \"client\"\nbackends = [{backends}]"
        );
        let found = loaded(&keys, "");
        assert_eq!(found.warnings, []);
        lines(&found.notes)
    };
    let said = "evenkeel.toml:5:10: backends of service `s` see the addresses of clients: they must send their answers through \
                this host";
    assert_eq!(
        of("\"10.0.0.2\", \"fd00::2\", \"::ffff:10.0.0.3\""),
        [format!(
            "{said} (`deploy/transparent-routes up 10.0.0.2:5001 [fd00::2]:5001 10.0.0.3:5001` sets up the routes of this host)"
        )]
    );
    assert_eq!(
        of("\"10.0.0.2\", \"Db.local\""),
        [format!(
            "{said} (`deploy/transparent-routes up 10.0.0.2:5001` sets up the routes of this host; add the addresses and ports of \
             `db.local:5001`)"
        )]
    );
    assert_eq!(
        of("\"db.local\""),
        [format!(
            "{said} (`deploy/transparent-routes up ADDRESS:PORT ...` sets up the routes of this host, with the addresses and \
             ports of `db.local:5001`)"
        )]
    );
    assert_eq!(
        loaded("listen = \"127.0.0.1:1\"\nbackends = [\"10.0.0.2:80\"]", "").notes,
        []
    );
}

/// What the example leaves as a comment.
#[test]
fn the_example_of_openhim_can_show_clients_their_own_addresses() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/openhim.toml");
    let text = std::fs::read_to_string(path).unwrap();
    let found = accept(&text.replace("#source =", "source ="));
    assert_eq!(found.warnings, []);
    let notes = lines(&found.notes);
    assert_eq!(notes.len(), 2, "{notes:#?}");
    for (note, port) in notes.iter().zip([5000, 5001]) {
        let backends = [2, 3, 4, 5].map(|host| format!("10.0.0.{host}:{port}"));
        let command = format!("`deploy/transparent-routes up {}`", backends.join(" "));
        assert!(note.contains(&command), "{note}");
    }
}

fn example(name: &str) -> Vec<ServiceSpec> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config");
    load(&path.join(name)).unwrap().spec.services
}

#[test]
fn the_example_of_hl7_keeps_frames_whole_and_sessions_alive() {
    let services = example("mllp.toml");
    assert!(
        services
            .iter()
            .all(|s| matches!(s.framing, Framing::Mllp { .. }))
    );
    assert!(services.iter().all(|s| s.keepalive.idle.is_some()));
}

#[test]
fn the_example_of_tcp_has_every_limit() {
    let services = example("tcp.toml");
    let admission = services
        .iter()
        .flat_map(|s| &s.listeners)
        .map(|l| &l.admission);
    let all: Vec<_> = admission.collect();
    assert!(
        all.iter()
            .any(|a| a.max_connections.is_some() && a.rate.is_some())
    );
    assert!(all.iter().any(|a| a.source_rate.is_some()));
    assert!(all.iter().any(|a| a.accept_proxy.is_some()));
    assert!(services.iter().any(|s| s.connect.send_proxy.is_some()));
}
