//! Who asked: what is believed, and what is written.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::net::{IpAddr, SocketAddr};

use evenkeel_http::forwarded::{
    Forwarding, ForwardingField, Node, Origin, RequestId, Seen, parse_forwarded,
};
use evenkeel_plan::http::{ForwardMode, ForwardedSource, ForwardedSpec};
use proptest::prelude::*;

type Fields<'a> = &'a [(&'a str, &'a str)];

fn spec(source: ForwardedSource) -> ForwardedSpec {
    ForwardedSpec {
        trusted: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
        source,
        ..ForwardedSpec::default()
    }
}

fn peer(address: &str) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), 4_711)
}

fn pairs<'a>(fields: Fields<'a>) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone {
    fields
        .iter()
        .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
}

fn origin(spec: &ForwardedSpec, from: &str, fields: Fields<'_>) -> Origin {
    Forwarding::new(spec).origin(peer(from), false, pairs(fields))
}

fn written(
    forwarding: &Forwarding,
    seen: &Seen<'_>,
    origin: &Origin,
    id: Option<&RequestId>,
    fields: Fields<'_>,
) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut lines = Vec::new();
    let mut scratch = b"left over".to_vec();
    forwarding.write(
        seen,
        origin,
        id,
        pairs(fields),
        &mut scratch,
        |name, value| {
            lines.push((text(name), text(value)));
        },
    );
    lines
}

/// What a backend gets of `fields` and of ours, in lines of `name: value`.
fn sent(spec: &ForwardedSpec, from: &str, fields: Fields<'_>) -> Vec<String> {
    let forwarding = Forwarding::new(spec);
    let origin = forwarding.origin(peer(from), false, pairs(fields));
    let seen = Seen {
        peer: peer(from),
        https: false,
        host: Some(b"example.org:8080"),
    };
    let id = forwarding.request_id(&origin, || 1, pairs(fields));
    let kept = fields
        .iter()
        .filter(|(name, _)| !forwarding.drops(name.as_bytes(), &origin))
        .map(|(name, value)| format!("{name}: {value}"));
    let ours = written(&forwarding, &seen, &origin, id.as_ref(), fields);
    let ours = ours.iter().map(|(name, value)| format!("{name}: {value}"));
    kept.chain(ours).collect()
}

#[test]
fn the_client_is_the_last_who_is_no_trusted_proxy() {
    let spec = spec(ForwardedSource::XForwarded);
    for (from, fields, client) in [
        // Nobody is believed who is not trusted.
        (
            "203.0.113.1",
            &[("X-Forwarded-For", "6.6.6.6")][..],
            "203.0.113.1",
        ),
        (
            "203.0.113.1",
            &[("Forwarded", "for=6.6.6.6")],
            "203.0.113.1",
        ),
        ("10.0.0.1", &[], "10.0.0.1"),
        ("10.0.0.1", &[("X-Forwarded-For", "")], "10.0.0.1"),
        (
            "10.0.0.1",
            &[("X-Forwarded-For", "203.0.113.9")],
            "203.0.113.9",
        ),
        (
            "::ffff:10.0.0.1",
            &[("X-Forwarded-For", "203.0.113.9")],
            "203.0.113.9",
        ),
        (
            "10.0.0.1",
            &[("x-forwarded-for", "6.6.6.6, 203.0.113.9")],
            "203.0.113.9",
        ),
        (
            "10.0.0.1",
            &[("X-Forwarded-For", "6.6.6.6, 203.0.113.9 , 10.0.0.2")],
            "203.0.113.9",
        ),
        (
            "10.0.0.1",
            &[
                ("X-Forwarded-For", "6.6.6.6"),
                ("X-Forwarded-For", "203.0.113.9"),
            ],
            "203.0.113.9",
        ),
        (
            "10.0.0.1",
            &[
                ("X-Forwarded-For", "203.0.113.9"),
                ("X-Forwarded-For", "10.0.0.2"),
            ],
            "203.0.113.9",
        ),
        // All are proxies: the one that is furthest away.
        (
            "10.0.0.1",
            &[("X-Forwarded-For", "10.0.0.3, 10.0.0.2")],
            "10.0.0.3",
        ),
        // What is no address ends the walk, whatever is left of it.
        (
            "10.0.0.1",
            &[("X-Forwarded-For", "6.6.6.6, unknown")],
            "10.0.0.1",
        ),
        (
            "10.0.0.1",
            &[("X-Forwarded-For", "6.6.6.6, unknown, 10.0.0.2")],
            "10.0.0.2",
        ),
        ("10.0.0.1", &[("X-Forwarded-For", "6.6.6.6,")], "10.0.0.1"),
        (
            "10.0.0.1",
            &[("X-Forwarded-For", "6.6.6.6, 127.1")],
            "10.0.0.1",
        ),
        (
            "10.0.0.1",
            &[("X-Forwarded-For", "203.0.113.9:4711")],
            "203.0.113.9",
        ),
        (
            "10.0.0.1",
            &[("X-Forwarded-For", "2001:db8::1")],
            "2001:db8::1",
        ),
        (
            "10.0.0.1",
            &[("X-Forwarded-For", "[2001:db8::1]:99, [fd00::7]:80")],
            "2001:db8::1",
        ),
        (
            "10.0.0.1",
            &[("X-Forwarded-For", "::ffff:203.0.113.9, ::ffff:10.1.1.1")],
            "203.0.113.9",
        ),
        // The kind that is not believed, and twins.
        ("10.0.0.1", &[("Forwarded", "for=6.6.6.6")], "10.0.0.1"),
        ("10.0.0.1", &[("X_Forwarded_For", "6.6.6.6")], "10.0.0.1"),
        ("10.0.0.1", &[("X-Real-IP", "6.6.6.6")], "10.0.0.1"),
    ] {
        let client: IpAddr = client.parse().unwrap();
        assert_eq!(
            origin(&spec, from, fields).client,
            client,
            "{from} {fields:?}"
        );
    }
    for (value, malformed) in [
        ("6.6.6.6, unknown", false),
        ("6.6.6.6, _x", false),
        ("", false),
        ("6.6.6.6, 127.1", true),
        ("6.6.6.6,", true),
        ("junk, 203.0.113.9", false),
        ("junk, 10.0.0.2", true),
    ] {
        let found = origin(&spec, "10.0.0.1", &[("X-Forwarded-For", value)]);
        assert_eq!(found.malformed, malformed, "{value}");
    }
    let loops = vec!["10.0.0.9"; 100].join(", ");
    let fields = format!("6.6.6.6, {loops}");
    let found = origin(&spec, "10.0.0.1", &[("X-Forwarded-For", &fields)]);
    assert_eq!(found.client, "10.0.0.9".parse::<IpAddr>().unwrap());
}

#[test]
fn the_same_by_forwarded() {
    let spec = spec(ForwardedSource::Forwarded);
    for (value, client, https, host) in [
        (
            "for=203.0.113.9;proto=https;host=a.org",
            "203.0.113.9",
            true,
            Some("a.org"),
        ),
        (
            "for=6.6.6.6;host=evil.example, for=203.0.113.9;proto=http",
            "203.0.113.9",
            false,
            None,
        ),
        (
            "for=203.0.113.9, for=\"[fd00::1]\";host=\"a.org:80\"",
            "203.0.113.9",
            false,
            Some("a.org:80"),
        ),
        (
            "for=6.6.6.6, for=_hidden;proto=https",
            "10.0.0.1",
            true,
            None,
        ),
        ("for=6.6.6.6, by=10.0.0.1", "10.0.0.1", false, None),
        ("for=6.6.6.6, for=\"10.0.0.2", "10.0.0.1", false, None),
        ("for=203.0.113.9;host=\"a b\"", "203.0.113.9", false, None),
        ("for=203.0.113.9;proto=gopher", "203.0.113.9", false, None),
    ] {
        let found = origin(&spec, "10.0.0.1", &[("Forwarded", value)]);
        assert_eq!(found.client, client.parse::<IpAddr>().unwrap(), "{value}");
        assert_eq!(found.https, https, "{value}");
        assert_eq!(found.host.as_deref(), host, "{value}");
    }
    let found = origin(
        &spec,
        "10.0.0.1",
        &[
            ("X-Forwarded-For", "6.6.6.6"),
            ("X-Forwarded-Proto", "https"),
        ],
    );
    assert_eq!(found.client, "10.0.0.1".parse::<IpAddr>().unwrap());
    assert!(!found.https);
}

const LIES: Fields<'_> = &[
    ("X-Forwarded-For", "6.6.6.6"),
    ("X_Forwarded_For", "6.6.6.6"),
    ("X-Forwarded_for", "6.6.6.6"),
    ("x-forwarded-proto", "https"),
    ("X-Forwarded-Host", "evil.example"),
    ("X-Forwarded-Port", "443"),
    ("X-Forwarded-Server", "evil.example"),
    ("X-Forwarded-Prefix", "/evil"),
    ("Forwarded", "for=6.6.6.6;host=evil.example"),
    ("X-Real-IP", "6.6.6.6"),
    ("True-Client-IP", "6.6.6.6"),
    ("CF-Connecting-IP", "6.6.6.6"),
    ("X-Client-IP", "6.6.6.6"),
    ("X-Cluster-Client-IP", "6.6.6.6"),
    ("X-Request-Id", "6.6.6.6"),
    ("X_Request_Id", "6.6.6.6"),
];

#[test]
fn nothing_of_an_untrusted_peers_word_reaches_a_backend() {
    for source in [ForwardedSource::XForwarded, ForwardedSource::Forwarded] {
        for mode in [ForwardMode::Append, ForwardMode::Replace, ForwardMode::Off] {
            let spec = ForwardedSpec {
                x_forwarded_for: mode,
                x_forwarded_proto: mode,
                x_forwarded_host: mode,
                forwarded: mode,
                ..spec(source)
            };
            let lines = sent(&spec, "203.0.113.1", LIES);
            let all = lines.join("\n");
            for lie in ["6.6.6.6", "evil", "https", "443"] {
                assert!(!all.contains(lie), "{mode:?}: {all}");
            }
            let ours = if mode == ForwardMode::Off { 1 } else { 5 };
            assert_eq!(lines.len(), ours, "{all}");
        }
    }
}

#[test]
fn each_mode_writes_what_it_says() {
    let fields: Fields<'_> = &[
        ("X-Forwarded-For", "6.6.6.6, 203.0.113.9"),
        ("X-Forwarded-For", "10.0.0.2"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "www.example.org"),
        ("Forwarded", "for=6.6.6.6"),
        ("X-Real-IP", "203.0.113.9"),
        ("X-Request-Id", "abc-1"),
        ("Accept", "*/*"),
    ];
    let mut spec = ForwardedSpec {
        forwarded: ForwardMode::Append,
        ..spec(ForwardedSource::XForwarded)
    };
    assert_eq!(
        sent(&spec, "10.0.0.1", fields),
        [
            "X-Real-IP: 203.0.113.9",
            "Accept: */*",
            "x-forwarded-for: 6.6.6.6, 203.0.113.9, 10.0.0.2, 10.0.0.1",
            "x-forwarded-proto: https",
            "x-forwarded-host: www.example.org",
            "forwarded: for=10.0.0.1;proto=http;host=\"example.org:8080\"",
            "X-Request-Id: abc-1",
        ]
    );
    spec.x_forwarded_for = ForwardMode::Replace;
    spec.x_forwarded_proto = ForwardMode::Off;
    spec.x_forwarded_host = ForwardMode::Off;
    spec.forwarded = ForwardMode::Replace;
    spec.request_id = None;
    assert_eq!(
        sent(&spec, "10.0.0.1", fields),
        [
            "X-Forwarded-Proto: https",
            "X-Forwarded-Host: www.example.org",
            "X-Real-IP: 203.0.113.9",
            "X-Request-Id: abc-1",
            "Accept: */*",
            "x-forwarded-for: 203.0.113.9",
            "forwarded: for=203.0.113.9;proto=https;host=www.example.org",
        ]
    );
    let ipv6 = ForwardedSpec {
        forwarded: ForwardMode::Append,
        x_forwarded_for: ForwardMode::Append,
        x_forwarded_proto: ForwardMode::Off,
        x_forwarded_host: ForwardMode::Off,
        request_id: None,
        ..ForwardedSpec::default()
    };
    assert_eq!(
        sent(&ipv6, "2001:db8::1", &[]),
        [
            "x-forwarded-for: 2001:db8::1",
            "forwarded: for=\"[2001:db8::1]\";proto=http;host=\"example.org:8080\"",
        ]
    );
}

#[test]
fn a_request_id_is_taken_over_only_where_it_is_safe() {
    let forwarding = Forwarding::new(&spec(ForwardedSource::XForwarded));
    let id = |from: &str, fields: Fields<'_>| {
        let origin = forwarding.origin(peer(from), false, pairs(fields));
        let id = forwarding.request_id(&origin, || 0xabc, pairs(fields));
        id.unwrap().to_string()
    };
    let ours = format!("{:032x}", 0xabc);
    let long = "a".repeat(129);
    assert_eq!(id("10.0.0.1", &[("x-request-id", "3f2b-A.~")]), "3f2b-A.~");
    assert_eq!(id("203.0.113.1", &[("x-request-id", "3f2b")]), ours);
    assert_eq!(id("10.0.0.1", &[]), ours);
    for bad in [
        "", "a b", "a,b", "a\"b", "a|b", "<a>", "a\r\nb", "\u{e9}", &long, "a{b}", "a;b",
    ] {
        assert_eq!(id("10.0.0.1", &[("X-Request-Id", bad)]), ours, "{bad}");
    }
    let twice = [("X-Request-Id", "a"), ("X-Request-Id", "b")];
    assert_eq!(id("10.0.0.1", &twice), ours);
    assert!(RequestId::parse("a".repeat(128).as_bytes()).is_some());
}

#[test]
fn fields_are_known_in_every_spelling() {
    for (name, field) in [
        ("X-Forwarded-For", Some(ForwardingField::XForwardedFor)),
        ("FORWARDED", Some(ForwardingField::Forwarded)),
        ("x-forwarded-anything", Some(ForwardingField::Other)),
        ("x-forwarded_proto", Some(ForwardingField::Twin)),
        ("X_REAL_IP", Some(ForwardingField::Twin)),
        ("X-Forwarded", None),
        ("Forwarded-For", None),
        ("Cookie", None),
        ("", None),
    ] {
        assert_eq!(ForwardingField::of(name.as_bytes()), field, "{name}");
    }
}

fn element() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<u32>().prop_map(|bits| std::net::Ipv4Addr::from(bits).to_string()),
        any::<u128>().prop_map(|bits| format!("[{}]:1", std::net::Ipv6Addr::from(bits))),
        (0u8..=255).prop_map(|last| format!("10.0.0.{last}")),
        "[ -~]{0,12}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// However a client begins the list, its address is what the trusted proxy in front of us saw.
    #[test]
    fn no_beginning_of_a_list_changes_who_the_client_is(
        lies in prop::collection::vec(element(), 0..6),
        second_line in any::<bool>(),
    ) {
        let spec = spec(ForwardedSource::XForwarded);
        let lies = lies.join(",");
        let one = format!("{lies}, 203.0.113.9, 10.0.0.2");
        let fields: &[(&str, &str)] = if second_line {
            &[("X-Forwarded-For", &lies), ("X-Forwarded-For", "203.0.113.9, 10.0.0.2")]
        } else {
            &[("X-Forwarded-For", &one)]
        };
        let client = origin(&spec, "10.0.0.1", fields).client;
        prop_assert_eq!(client, "203.0.113.9".parse::<IpAddr>().unwrap());
    }

    /// The same with Forwarded, where a client also has quotes to play with: what it can reach is that the proxy counts
    /// as the client, when the proxy appended to a string without an end on the same line.
    #[test]
    fn no_beginning_of_forwarded_names_another_client(
        lies in prop::collection::vec("[ -~]{0,16}", 0..4),
        second_line in any::<bool>(),
    ) {
        let spec = spec(ForwardedSource::Forwarded);
        let lies = lies.join(",");
        let one = format!("{lies}, for=203.0.113.9, for=10.0.0.2");
        let fields: &[(&str, &str)] = if second_line {
            &[("Forwarded", &lies), ("Forwarded", "for=203.0.113.9, for=10.0.0.2")]
        } else {
            &[("Forwarded", &one)]
        };
        let Origin { client, malformed, .. } = origin(&spec, "10.0.0.1", fields);
        let told = client == "203.0.113.9".parse::<IpAddr>().unwrap();
        let proxy = client == "10.0.0.1".parse::<IpAddr>().unwrap();
        prop_assert!(told || (proxy && malformed && !second_line), "{}", client);
    }

    /// What we write of any peer is read as that peer.
    #[test]
    fn what_is_written_is_read(bits in any::<u128>(), v4 in any::<bool>(), https in any::<bool>()) {
        let address: IpAddr = if v4 {
            IpAddr::V4(std::net::Ipv4Addr::from(u32::try_from(bits >> 96).unwrap()))
        } else {
            IpAddr::V6(std::net::Ipv6Addr::from(bits))
        };
        let address = address.to_canonical();
        let forwarding = Forwarding::new(&ForwardedSpec {
            forwarded: ForwardMode::Replace,
            ..ForwardedSpec::default()
        });
        let peer = SocketAddr::new(address, 1);
        let origin = forwarding.origin(peer, https, pairs(&[]));
        let seen = Seen { peer, https, host: Some(b"[::1]:80") };
        let lines = written(&forwarding, &seen, &origin, None, &[]);
        let value = |wanted: &str| lines.iter().find(|(name, _)| name == wanted).unwrap().1.as_bytes();
        prop_assert_eq!(parse_forwarded(value("forwarded")), [Node::Address(address, None)]);
        prop_assert_eq!(Node::parse(value("x-forwarded-for")), Node::Address(address, None));
    }

    #[test]
    fn any_bytes_are_read(value in prop::collection::vec(any::<u8>(), 0..100)) {
        let forwarding = Forwarding::new(&spec(ForwardedSource::Forwarded));
        let fields = [(&b"forwarded"[..], value.as_slice()), (b"x-forwarded-for", &value)];
        let origin = forwarding.origin(peer("10.0.0.1"), false, fields.into_iter());
        let seen = Seen { peer: peer("10.0.0.1"), https: false, host: Some(&value) };
        let mut lines = 0;
        forwarding.write(&seen, &origin, None, fields.into_iter(), &mut Vec::new(), |_, _| lines += 1);
        prop_assert!((2..=3).contains(&lines));
    }
}
