use evenkeel_plan::http::{Coding, CompressionSpec};

use super::*;
use crate::head::{AnswerParts, RequestParts};
use crate::target::Form;

fn all_three() -> CompressionSpec {
    CompressionSpec {
        codings: vec![Coding::Zstd, Coding::Br, Coding::Gzip],
        ..CompressionSpec::default()
    }
}

fn with(fields: &mut Fields, lines: &[&str]) {
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap_or((line, ""));
        fields.append(
            Name::new(name).unwrap(),
            Value::new(value.as_bytes()).unwrap(),
        );
    }
}

fn request(method: Method, version: Version, lines: &[&str]) -> RequestHead {
    let mut head = RequestHead::new();
    head.assemble(RequestParts {
        method,
        method_name: 0..0,
        version,
        form: Form::Origin,
        target: 0..0,
        authority: None,
        declared: Declared::Absent,
        persistent: true,
        websocket: false,
        expects_continue: false,
    });
    with(&mut head.fields, lines);
    head
}

fn get(lines: &[&str]) -> RequestHead {
    request(Method::Get, Version::Http11, lines)
}

fn answer(status: u16, declared: Declared, lines: &[&str]) -> AnswerHead {
    let mut head = AnswerHead::new();
    head.assemble(AnswerParts {
        status,
        reason: 0..0,
        version: Version::Http11,
        declared,
        persistent: true,
        kept_s: None,
    });
    with(&mut head.fields, lines);
    head
}

fn json(lines: &[&str]) -> AnswerHead {
    let mut head = answer(200, Declared::Length(5_000), lines);
    with(&mut head.fields, &["Content-Type: application/json"]);
    head
}

fn choose(request: &RequestHead, answer: &AnswerHead) -> Choice {
    Compression::new(&all_three()).choose(request, answer)
}

#[test]
fn the_client_says_which_coding_and_the_server_which_of_equals() {
    use Choice::{Encode, Vary};
    for (lines, choice) in [
        (
            &["Accept-Encoding: gzip, deflate, br, zstd"][..],
            Encode(Coding::Zstd),
        ),
        (&["Accept-Encoding: gzip, deflate, br"], Encode(Coding::Br)),
        (&["Accept-Encoding: gzip, deflate"], Encode(Coding::Gzip)),
        (&["Accept-Encoding: x-gzip"], Encode(Coding::Gzip)),
        (
            &["Accept-Encoding: gzip;q=1.0, br;q=0.9, zstd;q=0.9"],
            Encode(Coding::Gzip),
        ),
        (
            &["Accept-Encoding: gzip;q=0.5, br;q=0.7, zstd;q=0"],
            Encode(Coding::Br),
        ),
        (
            &["Accept-Encoding: gzip", "Accept-Encoding: br"],
            Encode(Coding::Br),
        ),
        (&["Accept-Encoding: *"], Encode(Coding::Zstd)),
        (&["Accept-Encoding: *, zstd;q=0"], Encode(Coding::Br)),
        (&["Accept-Encoding: gzip;q=0.5"], Encode(Coding::Gzip)),
        (&["Accept-Encoding: identity, gzip"], Encode(Coding::Gzip)),
        (
            &["Accept-Encoding: identity;q=0.5, gzip;q=0.6"],
            Encode(Coding::Gzip),
        ),
        (
            &["Accept-Encoding: identity;q=0, gzip;q=0.1"],
            Encode(Coding::Gzip),
        ),
        (&["Accept-Encoding: identity, gzip;q=0.9"], Vary),
        (&["Accept-Encoding: gzip;q=0.5, *"], Encode(Coding::Zstd)),
        (&["Accept-Encoding: gzip;q=0"], Vary),
        (&["Accept-Encoding: deflate"], Vary),
        (&["Accept-Encoding: "], Vary),
        (&["Accept-Encoding: *;q=0"], Vary),
        (&["Accept-Encoding: gzip;q=2"], Vary),
        (&[], Vary),
    ] {
        assert_eq!(choose(&get(lines), &json(&[])), choice, "{lines:?}");
    }
}

#[test]
fn only_whole_answers_of_a_declared_length_are_compressed() {
    let asks = get(&["Accept-Encoding: gzip"]);
    let gzip = Choice::Encode(Coding::Gzip);
    let of = |status, declared, lines: &[&str]| choose(&asks, &answer(status, declared, lines));
    let long = Declared::Length(5_000);
    let json = &["Content-Type: application/json"][..];
    for (status, choice) in [
        (200, gzip),
        (201, gzip),
        (202, gzip),
        (203, gzip),
        (403, gzip),
        (404, gzip),
        (101, Choice::Leave),
        (204, Choice::Leave),
        (205, Choice::Leave),
        (206, Choice::Leave),
        (302, Choice::Leave),
        (304, Choice::Leave),
        (416, Choice::Leave),
        (502, Choice::Leave),
    ] {
        assert_eq!(of(status, long, json), choice, "{status}");
    }
    for (declared, choice) in [
        (Declared::Length(1_024), gzip),
        (Declared::Length(1 << 40), gzip),
        (Declared::Length(1_023), Choice::Leave),
        (Declared::Length(0), Choice::Leave),
        // Feeds, for all that can be known.
        (Declared::Streamed, Choice::Leave),
        (Declared::Absent, Choice::Leave),
    ] {
        assert_eq!(of(200, declared, json), choice, "{declared:?}");
    }
    for (lines, choice) in [
        (&["Content-Type: text/html; charset=utf-8"][..], gzip),
        (&["Content-Type: TEXT/Plain"], gzip),
        (&["Content-Type: image/svg+xml"], gzip),
        (
            &["Content-Type: application/fhir+json;fhirVersion=4.0"],
            gzip,
        ),
        (&["Content-Type: image/png"], Choice::Leave),
        (&["Content-Type: application/jsonp"], Choice::Leave),
        (&["Content-Type: textual/x"], Choice::Leave),
        (&["Content-Type: text/event-stream"], Choice::Leave),
        (
            &["Content-Type: Text/Event-Stream ; charset=utf-8"],
            Choice::Leave,
        ),
        (
            &["Content-Type: text/html", "Content-Type: image/png"],
            Choice::Leave,
        ),
        (&["Content-Type: "], Choice::Leave),
        (&[], Choice::Leave),
    ] {
        assert_eq!(of(200, long, lines), choice, "{lines:?}");
    }
}

#[test]
fn what_must_not_be_changed_is_left_alone() {
    let asks = get(&["Accept-Encoding: gzip"]);
    for line in [
        "Content-Encoding: br",
        "Content-Encoding: identity",
        "Content-Range: bytes 0-4999/9000",
        "Cache-Control: no-transform",
        "Cache-Control: max-age=3, No-Transform",
        "Signature: sig=:AAAA:",
    ] {
        assert_eq!(choose(&asks, &json(&[line])), Choice::Leave, "{line}");
    }
    assert_ne!(
        choose(
            &asks,
            &json(&["Cache-Control: no-transformation, max-age=9"])
        ),
        Choice::Leave
    );
    let asks = ["Accept-Encoding: gzip"];
    let head = request(Method::Head, Version::Http11, &asks);
    assert_eq!(choose(&head, &json(&[])), Choice::Leave);
    let old = request(Method::Get, Version::Http10, &asks);
    assert_eq!(choose(&old, &json(&[])), Choice::Leave);
    let newer = request(Method::Post, Version::Http2, &asks);
    assert_ne!(choose(&newer, &json(&[])), Choice::Leave);
    let unchanged = get(&["Accept-Encoding: gzip", "Cache-Control: no-transform"]);
    assert_eq!(choose(&unchanged, &json(&[])), Choice::Leave);
}

#[test]
fn a_configuration_that_names_nothing_changes_nothing() {
    let off = Compression::new(&CompressionSpec::default());
    assert!(off.is_off());
    let mut head = json(&[]);
    let asks = get(&["Accept-Encoding: gzip"]);
    assert_eq!(off.apply(&asks, &mut head), None);
    assert_eq!(head, json(&[]));
    let any = Compression::new(&CompressionSpec {
        types: vec!["*/*".to_owned(), "text/event-stream".to_owned()],
        min_bytes: 0,
        ..all_three()
    });
    let of = |declared, content_type| any.choose(&asks, &answer(200, declared, &[content_type]));
    let (png, feed) = ("Content-Type: image/png", "Content-Type: text/event-stream");
    assert_ne!(of(Declared::Length(1), png), Choice::Leave);
    assert_eq!(of(Declared::Length(0), png), Choice::Leave);
    assert_eq!(of(Declared::Length(1), feed), Choice::Leave);
}

#[test]
fn a_head_is_changed_as_its_body_is() {
    let mut head = json(&[
        "ETag: \"1-abc\"",
        "Accept-Ranges: bytes",
        "Content-MD5: Q2hlY2sgSW50ZWdyaXR5IQ==",
        "Digest: sha-256=AAAA",
        "Repr-Digest: sha-256=:AAAA:",
        "content-digest: sha-256=:AAAA:",
        "Vary: Origin",
        "Server: CouchDB",
    ]);
    let asks = get(&["Accept-Encoding: br"]);
    let coding = Compression::new(&all_three()).apply(&asks, &mut head);
    assert_eq!(coding, Some(Coding::Br));
    let mut expected = answer(200, Declared::Streamed, &["Server: CouchDB"]);
    let lines = [
        "Content-Type: application/json",
        "ETag: W/\"1-abc\"",
        "Content-Encoding: br",
        "Vary: Origin, Accept-Encoding",
    ];
    with(&mut expected.fields, &lines);
    assert_eq!(head, expected);
}

#[test]
fn tags_that_are_not_strong_stay_or_go() {
    for (tags, after) in [
        (&["ETag: W/\"a\""][..], Some(&b"W/\"a\""[..])),
        (&["ETag: \"\""], Some(b"W/\"\"")),
        (&["ETag: abc"], None),
        (&["ETag: \""], None),
        (&["ETag: \"a\"", "ETag: \"b\""], None),
        (&[], None),
    ] {
        let mut head = json(tags);
        prepare(&mut head, Coding::Gzip);
        assert_eq!(head.fields.first("ETag"), after, "{tags:?}");
    }
}

#[test]
fn vary_names_the_field_once_and_keeps_the_others() {
    for (before, after) in [
        (&[][..], &["Accept-Encoding"][..]),
        (&["Vary: Origin"], &["Origin, Accept-Encoding"]),
        (
            &["Vary: Origin", "Vary: Accept,Cookie"],
            &["Origin, Accept, Cookie, Accept-Encoding"],
        ),
        (&["Vary: "], &["Accept-Encoding"]),
        (&["Vary: accept-encoding"], &["accept-encoding"]),
        (
            &["Vary: Origin", "Vary: Accept,Accept-encoding"],
            &["Origin", "Accept,Accept-encoding"],
        ),
        (&["Vary: *"], &["*"]),
        (&["Vary: Origin, *"], &["Origin, *"]),
    ] {
        let mut head = json(before);
        vary(&mut head);
        let lines: Vec<_> = head.fields.all("Vary").collect();
        let after: Vec<_> = after.iter().map(|line| line.as_bytes()).collect();
        assert_eq!(lines, after, "{before:?}");
        let once = head.clone();
        vary(&mut head);
        assert_eq!(head, once);
    }
}

#[test]
fn who_wants_no_coding_is_told_that_others_may() {
    let mut head = json(&["ETag: \"a\""]);
    let coding = Compression::new(&all_three()).apply(&get(&[]), &mut head);
    assert_eq!(coding, None);
    let mut expected = json(&["ETag: \"a\""]);
    with(&mut expected.fields, &["Vary: Accept-Encoding"]);
    assert_eq!(head, expected);
}
