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
            "~ service web: backend b1 check tcp 10.0.0.1:80 every 2s (jitter 5%), time-out 1s, rise 2, fall 3 -> none"
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
