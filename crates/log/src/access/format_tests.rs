use std::time::{Duration, UNIX_EPOCH};

use super::super::record::{End, Side};
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
    for (name, _) in evenkeel_plan::ACCESS_FIELDS {
        assert!(value.get(name).is_some(), "{name}");
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
    assert_eq!(pairs.len(), evenkeel_plan::ACCESS_FIELDS.len());
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
        assert!(text.len() <= LINE_BYTES_MAX && !text.contains(CUT_MARK));
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
fn spans_and_sizes_are_cut_to_what_a_reader_needs() {
    let text = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    };
    for (micros, expected) in [
        (0, "0us"),
        (99, "99us"),
        (100, "0.1ms"),
        (9_999, "9.9ms"),
        (10_000, "10ms"),
        (9_999_999, "9999ms"),
        (10_000_000, "10.0s"),
        (1_000_000_000, "1000s"),
    ] {
        assert_eq!(text(&|out| span(out, micros)), expected);
    }
    for (bytes, expected) in [
        (0, "0B"),
        (999, "999B"),
        (1_000, "1.0kB"),
        (9_999, "9.9kB"),
        (10_000, "10kB"),
        (999_999, "999kB"),
        (1_000_000, "1.0MB"),
        (u64::MAX, "18EB"),
    ] {
        assert_eq!(text(&|out| size(out, bytes)), expected);
    }
}

#[test]
fn no_access_log_is_no_formatter_and_a_wrong_template_is_an_error() {
    assert!(Formatter::new(&AccessFormat::Off).unwrap().is_none());
    assert_eq!(Formatter::new(&template("{x}")).unwrap_err().at, 1);
}
