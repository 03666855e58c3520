//! The difference of two configurations, as it is printed.
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy takes for production code"
)]

use evenkeel_config::{Difference, parse};
use evenkeel_plan::Spec;

const BEFORE: &str = r#"version = 1
workers = 2
[pools.p]
backends = [{ name = "b1", address = "10.0.0.1:80" }, { name = "b2", address = "10.0.0.2:80" }, { name = "b3", address = "10.0.0.3:80" }]
[services.old]
listen = "127.0.0.1:1"
pool = "p"
[services.web]
listen = ["127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4"]
pool = "p"
[services.same]
listen = "127.0.0.1:5"
pool = "p"
port = 81
"#;

fn spec(text: &str) -> Spec {
    parse("x", text)
        .unwrap_or_else(|errors| panic!("{errors}"))
        .spec
}

/// The difference from `BEFORE` after the replacements.
fn after(replacements: &[(&str, &str)]) -> String {
    let mut text = BEFORE.to_owned();
    for (from, to) in replacements {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    let (old, new) = (spec(BEFORE), spec(&text));
    let difference = Difference::between(&old, &new);
    assert_eq!(difference.is_empty(), old == new);
    let json = serde_json::to_string(&difference).unwrap();
    assert_eq!(
        serde_json::from_str::<Difference>(&json).unwrap(),
        difference
    );
    difference.to_string()
}

#[test]
fn nothing() {
    assert_eq!(after(&[]), "");
    assert_eq!(after(&[("workers = 2", "# a comment\nworkers    = 2")]), "");
}

#[test]
fn settings_of_the_daemon() {
    assert_eq!(
        after(&[(
            "workers = 2",
            "workers = \"auto\"\nuser = \"keep\"\nmetrics.listen = \"127.0.0.1:9180\"\ndrain.deadline = \"1m\"\nlog.level = \"debug\""
        )]),
        "~ workers 2 -> auto\n~ user default -> keep\n~ metrics.listen none -> 127.0.0.1:9180\n~ drain.deadline 30s -> 1m\n\
         ~ log.level info -> debug"
    );
}

#[test]
fn services() {
    assert_eq!(
        after(&[("[services.old]", "[services.new]")]),
        "- service old\n+ service new"
    );
}

#[test]
fn backends() {
    let same = |lines: &str| {
        let service = |name: &str| lines.replace("web", name);
        [service("old"), service("web"), service("same")].join("\n")
    };
    assert_eq!(
        after(&[("{ name = \"b2\", address = \"10.0.0.2:80\" }, ", "")]),
        same("~ service web: - backend web/b2 (10.0.0.2:80)")
            .replace("same/b2 (10.0.0.2:80)", "same/b2 (10.0.0.2:81)")
    );
    assert_eq!(
        after(&[
            ("{ name = \"b1\",", "{ weight = 3, name = \"b1\","),
            ("port = 81", "port = 81\nscheduler = \"wrr\"")
        ]),
        "~ service old: backend b1 weight 1 -> 3\n~ service web: backend b1 weight 1 -> 3\n\
         ~ service same: scheduler rr -> wrr\n~ service same: backend b1 weight 1 -> 3"
    );
    let added = after(&[("}]", "}, { name = \"b4\", address = \"10.0.0.4:80\" }]")]);
    assert!(
        added.contains("~ service web: + backend web/b4 (10.0.0.4:80)"),
        "{added}"
    );
    let reordered = after(&[
        ("\"b1\"", "\"x\""),
        ("\"b2\"", "\"b1\""),
        ("\"x\"", "\"b2\""),
    ]);
    assert!(
        reordered.contains("~ service web: backend b1 address 10.0.0.1:80 -> 10.0.0.2:80"),
        "{reordered}"
    );
    assert!(
        reordered.contains("~ service web: backends in another order"),
        "{reordered}"
    );
    let check = after(&[("[services.old]", "check = \"none\"\n[services.old]")]);
    assert!(
        check.contains(
            "~ service web: backend b1 check tcp every 2s (jitter 5%), time-out 1s, rise 2, fall 3 -> none"
        ),
        "{check}"
    );
}

#[test]
fn listeners() {
    assert_eq!(
        after(&[(
            "[\"127.0.0.1:2\", \"127.0.0.1:3\", \"127.0.0.1:4\"]",
            "[\"127.0.0.1:4\", { address = \"127.0.0.1:2\", backlog = 8 }, \"127.0.0.1:6\"]"
        )]),
        "~ service web: - listener 127.0.0.1:3\n~ service web: listener 127.0.0.1:2 backlog 4096 -> 8\n\
         ~ service web: + listener 127.0.0.1:6\n~ service web: listeners in another order"
    );
}

#[test]
fn pools_and_connecting() {
    assert_eq!(
        after(&[(
            "port = 81",
            "port = 81\nconnect = { timeout = \"3s\", attempts = 1 }"
        )]),
        "~ service same: connect.timeout 5s -> 3s\n~ service same: connect.attempts 3 -> 1"
    );
    let renamed = after(&[("[pools.p]", "[pools.q]"), ("pool = \"p\"", "pool = \"q\"")]);
    assert_eq!(
        renamed,
        "~ service old: pool p -> q\n~ service web: pool p -> q\n~ service same: pool p -> q"
    );
}

#[test]
fn names_and_running_programs() {
    assert_eq!(
        after(&[(
            "workers = 2",
            "workers = 2\nallow_exec = true\nresolve = { servers = [\"10.0.0.53\", \"[fd00::53]:5353\"], ttl_min = \"2s\", \
             ttl_max = \"2m\", timeout = \"1s\", retry = \"5s\" }"
        )]),
        "~ allow_exec false -> true\n~ resolve.servers /etc/resolv.conf -> 10.0.0.53:53, [fd00::53]:5353\n\
         ~ resolve.ttl_min 1s -> 2s\n~ resolve.ttl_max 1m -> 2m\n~ resolve.timeout 3s -> 1s\n~ resolve.retry 2s -> 5s"
    );
}

#[test]
fn policies() {
    assert_eq!(
        after(&[(
            "port = 81",
            "port = 81\nrequire = \"all\"\nsorry = \"web\"\npanic = \"50%\"\nunchecked = \"never\"\non_down = \"reset\"\n\
             slow_start = \"30s\"\npassive_failures = 0"
        )]),
        [
            "require any -> all",
            "sorry none -> web",
            "panic never -> 50%",
            "stale last -> closed",
            "unchecked if-none-up -> never",
            "on_down keep -> reset",
            "slow_start 0s -> 30s",
            "passive_failures 3 -> 0",
        ]
        .map(|line| format!("~ service same: {line}"))
        .join("\n")
    );
    for (require, text) in [("2", "2"), ("\"67%\"", "67%")] {
        let found = after(&[("port = 81", &format!("port = 81\nrequire = {require}"))]);
        assert_eq!(found, format!("~ service same: require any -> {text}"));
    }
}

/// Every setting of single connections makes a line, in one reload.
#[test]
fn connections() {
    let settings = [
        ("scheduler = \"lc\"", "scheduler rr -> lc"),
        (
            "source = \"client\"",
            "source the kernel's choice -> client",
        ),
        ("send_proxy = \"v2\"", "send_proxy none -> v2"),
        ("connect_on = \"data\"", "connect_on accept -> data"),
        ("framing = \"mllp\"", "framing none -> mllp"),
        ("frame_max = \"10KiB\"", "frame_max none -> 10KiB"),
        ("timeouts.handshake = \"1s\"", "timeouts.handshake 5s -> 1s"),
        ("timeouts.idle = \"0s\"", "timeouts.idle 1h -> 0s"),
        (
            "timeouts.half_closed = \"1m\"",
            "timeouts.half_closed 5m -> 1m",
        ),
        ("timeouts.total = \"1d\"", "timeouts.total 0s -> 1d"),
        ("keepalive.idle = \"0s\"", "keepalive.idle 1m -> 0s"),
        (
            "keepalive.interval = \"5s\"",
            "keepalive.interval 10s -> 5s",
        ),
        ("keepalive.probes = 3", "keepalive.probes 6 -> 3"),
        (
            "keepalive.user_timeout = \"30s\"",
            "keepalive.user_timeout 0s -> 30s",
        ),
        ("queue.length = 5", "queue.length 1024 -> 5"),
        ("queue.timeout = \"1s\"", "queue.timeout 5s -> 1s"),
    ];
    let admission = [
        (
            "allow = [\"10.0.0.0/8\", \"::1\"]",
            "allow everybody -> 10.0.0.0/8, ::1",
        ),
        ("deny = \"10.1.0.0/16\"", "deny nobody -> 10.1.0.0/16"),
        ("max_connections = 5", "max_connections none -> 5"),
        ("rate = 6", "rate none -> 6"),
        ("rate_burst = 7", "rate_burst none -> 7"),
        ("source_rate = 8", "source_rate none -> 8"),
        ("source_burst = 9", "source_burst none -> 9"),
        (
            "accept_proxy = \"10.0.0.1\"",
            "accept_proxy nobody -> 10.0.0.1",
        ),
    ];
    let keys = settings.iter().chain(&admission).map(|(key, _)| *key);
    let keys: Vec<_> = keys.collect();
    let found = after(&[("port = 81", &format!("port = 81\n{}", keys.join("\n")))]);
    let settings = settings
        .iter()
        .map(|(_, text)| format!("~ service same: {text}"));
    let admission = admission
        .iter()
        .map(|(_, text)| format!("~ service same: listener 127.0.0.1:5 {text}"));
    let expected: Vec<_> = settings.chain(admission).collect();
    assert_eq!(found, expected.join("\n"));
    let found = after(&[(
        "port = 81",
        "port = 81\nsource = [\"10.0.0.9\", \"10.0.0.8\"]",
    )]);
    assert_eq!(
        found,
        "~ service same: source the kernel's choice -> 10.0.0.9, 10.0.0.8"
    );
}

/// A change far back in a long list is a line too.
#[test]
fn long_lists_of_networks() {
    let list = |last: u8| {
        let networks = (0..20).chain([last]).map(|n| format!("\"10.0.{n}.0/24\""));
        let networks: Vec<_> = networks.collect();
        let text = BEFORE.replace(
            "port = 81",
            &format!("port = 81\ndeny = [{}]", networks.join(", ")),
        );
        spec(&text)
    };
    let difference = Difference::between(&list(30), &list(31)).to_string();
    assert!(
        difference
            .starts_with("~ service same: listener 127.0.0.1:5 deny 10.0.0.0/24, 10.0.1.0/24"),
        "{difference}"
    );
    assert_eq!(
        difference.matches("and 13 more (").count(),
        2,
        "{difference}"
    );
}

#[test]
fn the_access_log_and_limits_of_the_daemon_and_of_backends() {
    assert_eq!(
        after(&[(
            "workers = 2",
            "workers = 2\naccess_log = { format = \"{client} {end}\", file = \"/x\" }\nlimits.sources = 8"
        )]),
        "~ access_log.format off -> {client} {end}\n~ access_log.file standard error -> /x\n~ limits.sources 65536 -> 8"
    );
    let found = after(&[("}]", "}]\nbackend_max_connections = 5")]);
    assert!(
        found.contains("~ service web: backend b3 max_connections none -> 5"),
        "{found}"
    );
}

#[test]
fn names_and_backups_of_backends() {
    let found = after(&[(
        "address = \"10.0.0.2:80\"",
        "address = \"Db.local:80\", backup = true",
    )]);
    assert!(
        found.contains("~ service web: backend b2 address 10.0.0.2:80 -> db.local:80\n~ service web: backend b2 backup false -> true"),
        "{found}"
    );
    let found = after(&[("10.0.0.1:80", "srv:_a._tcp.b"), ("port = 81", "")]);
    assert!(
        found.contains("backend b1 address 10.0.0.1:80 -> _a._tcp.b (SRV)"),
        "{found}"
    );
}

/// Every field of a check makes a line: whatever changes is seen.
#[test]
fn checks() {
    let check = |keys: &str| {
        let text = BEFORE.replace("[services.old]", &format!("check = {keys}\n[services.old]"));
        spec(&text.replace("workers = 2", "workers = 2\nallow_exec = true"))
    };
    let between = |old: &str, new: &str| {
        let difference = Difference::between(&check(old), &check(new)).to_string();
        let prefix = "~ service web: backend b1 ";
        let lines = difference
            .lines()
            .filter_map(|line| line.strip_prefix(prefix));
        lines.collect::<Vec<_>>().join("\n")
    };
    assert_eq!(
        between(
            "{}",
            "{ port = 8080, source = \"10.0.0.9\", interval = \"3s\", fast_interval = \"1s\", timeout = \"2s\", rise = 3, \
             fall = 4, jitter = \"6%\" }"
        ),
        "check.port its own -> 8080\ncheck.source any -> 10.0.0.9\ncheck.interval 2s -> 3s\ncheck.fast_interval 2s -> 1s\n\
         check.timeout 1s -> 2s\ncheck.rise 2 -> 3\ncheck.fall 3 -> 4\ncheck.jitter 5% -> 6%"
    );
    assert_eq!(
        between("\"openhim\"", "\"none\""),
        "check https (unverified) GET /heartbeat expect 200 on port 8080 every 3s (jitter 5%), time-out 2s, rise 2, fall 2 -> none"
    );
    for (keys, text) in [
        ("\"tls\"", "tls (unverified)"),
        (
            "{ kind = \"tls\", server_name = \"x\", ca_file = \"/x\" }",
            "tls (verified by cbf29ce484222325, as x)",
        ),
        ("\"http\"", "http GET / expect 200-299"),
        (
            "{ kind = \"http\", method = \"HEAD\", path = \"/x\", host = \"h\", headers = { A = \"1\" }, \
             expect = [200, \"300-399\"], drain = 404 }",
            "http HEAD /x expect 200|300-399 drain 404 host h A: \"1\"",
        ),
        (
            "{ kind = \"https\", requests = [{ body_contains = \"ok\" }, { path = \"/b\", body_regex = 'o+' }] }",
            "https (unverified) GET / expect 200-299 body has \"ok\", GET /b expect 200-299 body matches \"o+\"",
        ),
        (
            "{ kind = \"couchdb\", https = true, names = [\"a@b\"], credentials = { user_env = \"U\", password_file = \"/p\" } }",
            "couchdb https (unverified) of 1 nodes [\"a@b\"] as $U with /p",
        ),
        (
            "{ kind = \"agent\", port = 9, send = \"a\\n\" }",
            "agent sent \"a\\n\"",
        ),
        (
            "{ kind = \"exec\", command = [\"/x\", \"y z\"] }",
            "exec [\"/x\", \"y z\"]",
        ),
    ] {
        let found = between("\"tcp\"", keys);
        let line = found.lines().next().unwrap_or_default();
        assert_eq!(line, format!("check tcp -> {text}"));
    }
}

const HTTP: &str = r#"version = 1
[services.api]
mode = "http"
backends = [{ name = "b1", address = "10.0.0.1:80" }]
[services.web]
mode = "http"
listen = "127.0.0.1:1"
backends = [{ name = "b1", address = "10.0.0.1:80" }]
[services.web.http]
presets = []
[[services.web.routes]]
hosts = ["a.example.org", "*.b.example.org"]
prefix = "/api"
methods = ["GET", "HEAD"]
headers = [{ name = "X-A", equals = "1" }, { name = "X-B", regex = '\d' }, { name = "X-C", present = true }]
service = "api"
[[services.web.routes]]
path = "/old"
redirect = { location = "/new" }
[[services.web.routes]]
regex = '/v\d'
answer = { body = "no" }
[[services.web.routes]]
service = "api"
"#;

/// The difference from `HTTP` after the replacements.
fn after_http(replacements: &[(&str, &str)]) -> String {
    let before = HTTP.replace("presets = []\n", "");
    let mut text = HTTP.to_owned();
    for (from, to) in replacements {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    let text = text.replace("presets = []\n", "");
    let difference = Difference::between(&spec(&before), &spec(&text));
    assert_eq!(difference.is_empty(), spec(&before) == spec(&text));
    difference.to_string()
}

#[test]
fn routes() {
    assert_eq!(after_http(&[]), "");
    assert_eq!(
        after_http(&[
            ("path = \"/old\"", "path = \"/older\""),
            ("location = \"/new\"", "location = \"/newer\", status = 302"),
            ("body = \"no\"", "status = 404, content_type = \"text/html\""),
            ("hosts = [\"a.example.org\"", "strip_prefix = \"/api\"\nhost_header = \"backend\"\nrequest = { remove = \"X-A\", set = { X-B = \"1\" } }\nhosts = [\"a.example.org\""),
        ]),
        "\
~ service web: - route (path /old) 308 to /new
~ service web: route (host a.example.org or *.b.example.org, prefix /api, method GET or HEAD, field X-A = \"1\", field X-B ~ \\d, field X-C) strip_prefix nothing -> /api
~ service web: route (host a.example.org or *.b.example.org, prefix /api, method GET or HEAD, field X-A = \"1\", field X-B ~ \\d, field X-C) host_header keep -> backend
~ service web: route (host a.example.org or *.b.example.org, prefix /api, method GET or HEAD, field X-A = \"1\", field X-B ~ \\d, field X-C) request unchanged -> remove X-A; set X-B \"1\"
~ service web: + route (path /older) 302 to /newer
~ service web: route (regex /v\\d) action answer 200 \"no\" -> answer 404 as text/html"
    );
    assert_eq!(
        after_http(&[
            (
                "path = \"/old\"\nredirect = { location = \"/new\" }",
                "PLACE"
            ),
            (
                "regex = '/v\\d'\nanswer = { body = \"no\" }",
                "path = \"/old\"\nredirect = { location = \"/new\" }"
            ),
            ("PLACE", "regex = '/v\\d'\nanswer = { body = \"no\" }"),
        ]),
        "~ service web: routes in another order"
    );
    let long = "x".repeat(100);
    let with = |end: &str| after_http(&[("body = \"no\"", &format!("body = \"{long}{end}\""))]);
    assert_ne!(with("a"), with("b"));
}

#[test]
fn mode() {
    let tcp = "version = 1\n[services.s]\nlisten = \"127.0.0.1:1\"\nbackends = [\"10.0.0.1:80\"]\n";
    let http = format!(
        "{tcp}mode = \"http\"\nhttp = {{ retry = {{ attempts = 2 }} }}\nroutes = [{{ service = \"s\" }}]\n"
    );
    let difference = Difference::between(&spec(tcp), &spec(&http));
    assert_eq!(
        difference.to_string(),
        "~ service s: mode tcp -> http\n~ service s: http.retry.attempts 3 -> 2\n~ service s: + route (every request) service s"
    );
}

#[test]
fn settings_of_http() {
    for (table, key, value, change) in [
        ("", "allow_half_close", "true", "false -> true"),
        ("", "presets", "\"couchdb\"", "none -> couchdb"),
        ("limits", "head_bytes", "\"64KiB\"", "32KiB -> 64KiB"),
        ("limits", "fields", "10", "100 -> 10"),
        ("limits", "uri_bytes", "\"1KiB\"", "8190B -> 1KiB"),
        ("limits", "body_bytes", "\"8GiB\"", "any -> 8GiB"),
        (
            "limits",
            "body_by_type",
            "[{ type = \"a/b\", bytes = \"0B\" }, { type = \"*/*\" }]",
            "none -> a/b 0B, */* any",
        ),
        ("limits", "requests_per_connection", "1", "none -> 1"),
        ("limits", "concurrent_requests", "1", "none -> 1"),
        ("timeouts", "request_head", "\"1s\"", "30s -> 1s"),
        ("timeouts", "body_idle", "\"0s\"", "1m -> 0s"),
        ("timeouts", "client_write", "\"0s\"", "1m -> 0s"),
        ("timeouts", "keep_alive_idle", "\"1s\"", "5m -> 1s"),
        ("timeouts", "first_byte", "\"1s\"", "0s -> 1s"),
        ("timeouts", "answer_idle", "\"0s\"", "1h -> 0s"),
        ("timeouts", "upstream_idle", "\"1s\"", "4s -> 1s"),
        ("timeouts", "tunnel_idle", "\"0s\"", "1h -> 0s"),
        (
            "forwarded",
            "trusted",
            "\"10.0.0.0/8\"",
            "nobody -> 10.0.0.0/8",
        ),
        (
            "forwarded",
            "source",
            "\"forwarded\"",
            "x-forwarded -> forwarded",
        ),
        ("forwarded", "x_forwarded_for", "\"off\"", "append -> off"),
        (
            "forwarded",
            "x_forwarded_proto",
            "\"replace\"",
            "append -> replace",
        ),
        ("forwarded", "x_forwarded_host", "\"off\"", "append -> off"),
        ("forwarded", "forwarded", "\"append\"", "off -> append"),
        ("forwarded", "request_id", "false", "X-Request-Id -> false"),
        ("retry", "attempts", "1", "3 -> 1"),
        ("retry", "methods", "\"PUT\"", "none -> PUT"),
        ("retry", "body_bytes", "\"0B\"", "16KiB -> 0B"),
        ("retry", "budget", "\"0%\"", "20% -> 0%"),
        ("retry", "budget_floor", "0", "10 -> 0"),
        ("pool", "idle", "0", "1024 -> 0"),
        ("pool", "requests", "1", "none -> 1"),
        (
            "compression",
            "codings",
            "[\"gzip\", \"br\"]",
            "none -> gzip, br",
        ),
        ("answers", "default", "\"html\"", "json -> html"),
        ("answers", "server", "\"x\"", "evenkeel -> x"),
        ("answers", "retry_after", "\"0s\"", "5s -> 0s"),
        ("answers", "error_field", "\"X-E\"", "none -> X-E"),
        (
            "answers",
            "pages",
            "[{ statuses = 503, body = \"no\" }, { format = \"html\", content_type = \"a/b\", body = \"\" }]",
            "none -> (503) json \"no\", (all) html \"\" as a/b",
        ),
        ("transform", "strip_prefix", "\"/a\"", "nothing -> /a"),
        ("transform", "add_prefix", "\"/a\"", "nothing -> /a"),
        ("transform", "host", "{ set = \"a\" }", "keep -> set a"),
        (
            "transform",
            "request",
            "{ add = { X-A = \"1\" } }",
            "unchanged -> add X-A \"1\"",
        ),
        (
            "transform",
            "response",
            "{ remove = \"X-*\" }",
            "unchanged -> remove X-*",
        ),
    ] {
        let (dot, section) = match table {
            "" => ("", String::new()),
            table => (".", format!("[services.web.http.{table}]\n")),
        };
        let found = after_http(&[("presets = []\n", &format!("{section}{key} = {value}\n"))]);
        let expected = format!("~ service web: http.{table}{dot}{key} {change}");
        assert_eq!(found, expected);
    }
    let found = after_http(&[(
        "presets = []\n",
        "persistence = { key_env = \"K\", domain = \"a\" }\n",
    )]);
    assert_eq!(
        found,
        "~ service web: http.persistence none -> by cookie evenkeel (lifetime 0s, path /, secure auto, http_only true, \
         same_site lax, domain a, key $K)"
    );
    for (written, text) in [
        ("by = \"header\", header = \"X-A\"", "by header X-A"),
        ("by = \"uri\", query = true", "by uri with query"),
        ("by = \"source\"", "by source"),
    ] {
        let found = after_http(&[(
            "presets = []\n",
            &format!("persistence = {{ {written} }}\n"),
        )]);
        assert_eq!(
            found,
            format!("~ service web: http.persistence none -> {text}")
        );
    }
}
