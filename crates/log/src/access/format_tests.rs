use std::time::{Duration, UNIX_EPOCH};

use super::super::record::{End, Phase, Side};
use super::*;

fn record() -> Record<'static> {
    Record {
        accepted: UNIX_EPOCH + Duration::from_millis(1_795_185_378_088),
        service: "transactions-https",
        listener: "[::ffff:192.0.2.1]:443".parse().unwrap(),
        client: "[2001:db8::7]:51234".parse().unwrap(),
        peer: "198.51.100.9:40000".parse().unwrap(),
        backend: Some("openhim-1"),
        endpoint: Some("10.0.0.2:5000".parse().unwrap()),
        source: Some("10.0.0.1:33333".parse().unwrap()),
        worker: 3,
        id: 0x0123_4567_89ab_cdef,
        attempts: 2,
        handshake_us: Some(85),
        queue_us: Some(12),
        connect_us: Some(250),
        first_byte_us: Some(1_149),
        duration_us: 35_000,
        bytes_received: 1_250,
        bytes_sent: 88_999,
        http: None,
        end: End {
            by: Side::Client,
            phase: Phase::Relay,
            reason: "end",
        },
    }
}

/// A connection that got nowhere.
fn refused() -> Record<'static> {
    Record {
        client: "198.51.100.9:40000".parse().unwrap(),
        backend: None,
        endpoint: None,
        source: None,
        attempts: 0,
        handshake_us: None,
        queue_us: Some(10_000_000),
        connect_us: None,
        first_byte_us: None,
        duration_us: 10_000_100,
        bytes_received: 0,
        bytes_sent: 0,
        end: End {
            by: Side::Balancer,
            phase: Phase::Queue,
            reason: "queue_timeout",
        },
        ..record()
    }
}

/// A request over a connection to the backend that was used before.
fn request() -> Record<'static> {
    Record {
        client: "203.0.113.7:51234".parse().unwrap(),
        peer: "203.0.113.7:51234".parse().unwrap(),
        attempts: 1,
        handshake_us: None,
        queue_us: None,
        connect_us: None,
        http: Some(HttpRecord {
            method: "GET",
            host: Some("api.example.org"),
            path: "/medic/_all_docs",
            query: Some("key=%22patient-7%22"),
            version: "1.1",
            status: Some(200),
            route: Some(3),
            request_id: Some("0123abcd"),
            user_agent: Some(b"curl/8 (x)"),
            referer: Some(b"https://example.org/?q=\"patient 8\""),
            number: 12,
            reused: true,
            head_us: Some(42),
            compressed: Some("zstd"),
        }),
        end: End {
            by: Side::Balancer,
            phase: Phase::Body,
            reason: "end",
        },
        ..record()
    }
}

/// What could not be understood, and was answered with 400.
fn malformed() -> Record<'static> {
    Record {
        backend: None,
        endpoint: None,
        source: None,
        attempts: 0,
        first_byte_us: None,
        http: Some(HttpRecord {
            status: Some(400),
            number: 1,
            ..HttpRecord::default()
        }),
        end: End {
            by: Side::Balancer,
            phase: Phase::Head,
            reason: "malformed",
        },
        ..request()
    }
}

fn line(format: &AccessFormat, record: &Record<'_>) -> String {
    // Lines are appended: what is before stays.
    let mut out = b"before".to_vec();
    let formatter = Formatter::new(format).unwrap().unwrap();
    formatter.line(&mut out, record);
    let out = String::from_utf8(out).unwrap();
    out.strip_prefix("before").unwrap().to_owned()
}

fn template(text: &str) -> AccessFormat {
    AccessFormat::Template(text.to_owned())
}

#[test]
fn a_line_for_people_leaves_out_what_goes_without_saying() {
    assert_eq!(
        line(&AccessFormat::Human, &record()),
        "2026-11-20T14:36:18.123Z transactions-https [2001:db8::7]:51234 via 198.51.100.9:40000 -> openhim-1 10.0.0.2:5000 \
         attempts 2 handshake 85us queue 12us connect 0.2ms first 1.1ms total 35ms in 1.2kB out 88kB ended by client\n"
    );
    assert_eq!(
        line(&AccessFormat::Human, &refused()),
        "2026-11-20T14:36:28.088Z transactions-https 198.51.100.9:40000 -> - queue 10.0s total 10.0s in 0B out 0B \
         ended by balancer in queue: queue_timeout\n"
    );
}

#[test]
fn a_request_is_read_from_what_became_of_it_to_how_long_it_took() {
    assert_eq!(
        line(&AccessFormat::Human, &request()),
        "2026-11-20T14:36:18.123Z transactions-https 200 GET api.example.org /medic/_all_docs 203.0.113.7:51234 \
         -> openhim-1 10.0.0.2:5000 reused first 1.1ms total 35ms in 1.2kB out 88kB zstd\n"
    );
    assert_eq!(
        line(&AccessFormat::Human, &malformed()),
        "2026-11-20T14:36:18.123Z transactions-https 400 - - - 203.0.113.7:51234 -> - total 35ms in 1.2kB out 88kB \
         ended by balancer in head: malformed\n"
    );
    let mut late = request();
    late.end.phase = Phase::Answer;
    late.end.reason = "backend_timeout";
    let http = late.http.as_mut().unwrap();
    http.head_us = Some(12_000);
    http.path = "/a b/\u{1b}[2J\n2026-11-20";
    http.reused = false;
    http.compressed = None;
    assert_eq!(
        line(&AccessFormat::Human, &late),
        "2026-11-20T14:36:18.123Z transactions-https 200 GET api.example.org \"/a b/\\u{1b}[2J\\u{a}2026-11-20\" 203.0.113.7:51234 \
         -> openhim-1 10.0.0.2:5000 head 12ms first 1.1ms total 35ms in 1.2kB out 88kB \
         ended by balancer in answer: backend_timeout\n"
    );
}

#[test]
fn the_line_of_a_request_has_its_own_fields_last_and_nothing_of_patients() {
    let text = line(&AccessFormat::Json, &request());
    let (_, of_request) = text.split_once(r#""end_phase":"body","#).unwrap();
    assert_eq!(
        of_request,
        concat!(
            r#""method":"GET","host":"api.example.org","path":"/medic/_all_docs","version":"1.1","status":200,"#,
            r#""route":3,"request_id":"0123abcd","request":12,"reused":true,"head_ms":0.042,"compressed":"zstd"}"#,
            "\n"
        )
    );
    let text = line(&AccessFormat::Logfmt, &request());
    assert!(
        text.ends_with(
            " method=GET host=api.example.org path=/medic/_all_docs version=1.1 status=200 route=3 request_id=0123abcd \
             request=12 reused=true head_ms=0.042 compressed=zstd\n"
        ),
        "{text}"
    );
    for format in [
        AccessFormat::Json,
        AccessFormat::Logfmt,
        AccessFormat::Human,
    ] {
        let text = line(&format, &request());
        assert!(
            !text.contains("patient") && !text.contains("curl"),
            "{text}"
        );
        let formatter = Formatter::new(&format).unwrap().unwrap();
        assert!(!formatter.wants_query() && !formatter.wants_agents());
    }
    let value: serde_json::Value =
        serde_json::from_str(&line(&AccessFormat::Json, &malformed())).unwrap();
    for name in ["method", "host", "path", "version", "route", "reused"] {
        assert_eq!(value.get(name), None, "{name}");
    }
    assert_eq!(value["status"], 400);
}

#[test]
fn a_template_shows_what_it_names_within_the_quotes_it_has() {
    let common =
        template("\"{method} {path}?{query}\" {status} \"{referer}\" {user_agent} {reused}");
    assert_eq!(
        line(&common, &request()),
        "\"GET /medic/_all_docs?key=%22patient-7%22\" 200 \"https://example.org/?q=\\\"patient 8\\\"\" \"curl/8 (x)\" true\n"
    );
    assert_eq!(line(&common, &malformed()), "\"- -?-\" 400 \"-\" - -\n");
    assert_eq!(line(&common, &record()), "\"- -?-\" - \"-\" - -\n");
    for (text, wants) in [
        ("{path}", [false; 3]),
        ("{source}", [true, false, false]),
        ("{query}", [false, true, false]),
        ("{user_agent}", [false, false, true]),
        ("{time} {referer}", [false, false, true]),
    ] {
        let formatter = Formatter::new(&template(text)).unwrap().unwrap();
        let found = [
            formatter.wants_source(),
            formatter.wants_query(),
            formatter.wants_agents(),
        ];
        assert_eq!(found, wants, "{text}");
    }
}

#[test]
fn what_a_client_sends_is_cut_and_keeps_the_line_whole() {
    let long = "/\u{1b}".repeat(20_000);
    let mut record = request();
    let http = record.http.as_mut().unwrap();
    http.path = &long;
    http.host = Some(&long);
    http.request_id = Some(&long);
    http.method = &long;
    http.user_agent = Some(long.as_bytes());
    for format in [
        AccessFormat::Json,
        AccessFormat::Logfmt,
        AccessFormat::Human,
        template("{path} {user_agent} {end}"),
    ] {
        let text = line(&format, &record);
        assert!(text.len() < LINE_BYTES_MAX && !text.ends_with("...[cut]\n"));
        assert!(text.len() > PATH_SHOWN_MAX && text.contains("...[cut]\""));
    }
    let value: serde_json::Value =
        serde_json::from_str(&line(&AccessFormat::Json, &record)).unwrap();
    let path = value["path"].as_str().unwrap();
    assert!(
        path.starts_with("/\u{1b}/") && path.ends_with("...[cut]"),
        "{path}"
    );
}

#[test]
fn a_json_line_has_every_field_in_the_order_of_the_table() {
    let text = line(&AccessFormat::Json, &record());
    assert_eq!(
        text,
        concat!(
            r#"{"time":"2026-11-20T14:36:18.123Z","service":"transactions-https","listener":"192.0.2.1:443","#,
            r#""client":"2001:db8::7","client_port":51234,"peer":"198.51.100.9","peer_port":40000,"#,
            r#""backend":"openhim-1","endpoint":"10.0.0.2:5000","source":"10.0.0.1:33333","worker":3,"#,
            r#""id":"00000000000000000123456789abcdef","attempts":2,"handshake_ms":0.085,"queue_ms":0.012,"#,
            r#""connect_ms":0.250,"first_byte_ms":1.149,"duration_ms":35.000,"bytes_received":1250,"bytes_sent":88999,"#,
            r#""end":"end","end_by":"client","end_phase":"relay"}"#,
            "\n"
        )
    );
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    for field in AccessField::ALL {
        let is_there = value.get(field.name()).is_some();
        assert_eq!(is_there, !field.is_of_requests(), "{}", field.name());
    }
}

#[test]
fn what_is_absent_is_left_out_or_a_dash() {
    let value: serde_json::Value =
        serde_json::from_str(&line(&AccessFormat::Json, &refused())).unwrap();
    for name in [
        "backend",
        "endpoint",
        "source",
        "handshake_ms",
        "connect_ms",
    ] {
        assert_eq!(value.get(name), None);
    }
    assert_eq!(value["queue_ms"], 10_000.0);
    let text = line(&AccessFormat::Logfmt, &refused());
    assert!(!text.contains("backend=") && text.ends_with("end_by=balancer end_phase=queue\n"));
    assert_eq!(
        line(&template("{{{backend}|{connect_ms}}}{end}"), &refused()),
        "{-|-}queue_timeout\n"
    );
}

#[test]
fn a_logfmt_line_is_pairs() {
    let text = line(&AccessFormat::Logfmt, &record());
    let pairs: Vec<_> = text
        .trim_end()
        .split(' ')
        .map(|pair| pair.split_once('=').unwrap())
        .collect();
    let of_connections = AccessField::ALL.iter().filter(|f| !f.is_of_requests());
    assert_eq!(pairs.len(), of_connections.count());
    assert_eq!(pairs[1], ("service", "transactions-https"));
    assert_eq!(pairs[13], ("handshake_ms", "0.085"));
}

#[test]
fn strange_names_neither_end_a_line_nor_reach_a_terminal() {
    let nasty = "a \"b\\\n\u{1b}\u{202e}\u{fc}=";
    let record = Record {
        service: nasty,
        ..record()
    };
    let value: serde_json::Value =
        serde_json::from_str(&line(&AccessFormat::Json, &record)).unwrap();
    assert_eq!(value["service"], nasty);
    for format in [
        AccessFormat::Human,
        AccessFormat::Logfmt,
        template("{service}"),
    ] {
        let text = line(&format, &record);
        let quoted = "\"a \\\"b\\\\\\u{a}\\u{1b}\\u{202e}\u{fc}=\"";
        assert!(text.contains(quoted), "{text}");
        assert!(!text.trim_end_matches('\n').chars().any(char::is_control));
    }
}

#[test]
fn no_line_is_longer_than_the_limit() {
    let name = "\u{1b}".repeat(NAME_SHOWN_MAX) + "rest";
    let record = Record {
        service: &name,
        backend: Some(&name),
        end: End {
            reason: Box::leak(name.clone().into_boxed_str()),
            ..record().end
        },
        ..record()
    };
    for format in [
        AccessFormat::Json,
        AccessFormat::Logfmt,
        AccessFormat::Human,
    ] {
        let text = line(&format, &record);
        assert!(text.len() <= LINE_BYTES_MAX && !text.ends_with("...[cut]\n"));
        assert!(!text.contains("rest"));
    }
    for length in 0..8 {
        let text = format!("{}{}", "x".repeat(length), "{service}".repeat(100));
        let service = "\u{fc}\u{20ac}".repeat(51);
        let record = Record {
            service: &service,
            ..record
        };
        let text = line(&template(&text), &record);
        assert!(text.len() <= LINE_BYTES_MAX && text.len() > LINE_BYTES_MAX - 4);
        assert!(text.ends_with("...[cut]\n"));
    }
}

#[test]
fn no_access_log_is_no_formatter_and_a_wrong_template_is_an_error() {
    assert!(Formatter::new(&AccessFormat::Off).unwrap().is_none());
    assert_eq!(Formatter::new(&template("{x}")).unwrap_err().at, 1);
}
