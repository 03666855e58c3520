use std::time::Duration;

use evenkeel_plan::http::{AnswerPageSpec, FieldValue};
use proptest::prelude::*;

use super::*;

fn occasion(cause: Cause) -> Occasion<'static> {
    Occasion {
        cause,
        request_id: None,
        retry_after_s: None,
        head: false,
    }
}

fn answer(spec: &AnswersSpec, occasion: &Occasion<'_>, accept: &str) -> OwnAnswer {
    OwnAnswer::new(spec, occasion, [accept.as_bytes()])
}

fn field<'a>(answer: &'a OwnAnswer, name: &str) -> Option<&'a str> {
    let mut lines = answer.fields.iter().filter(|(own, _)| *own == name);
    let value = lines.next().map(|(_, value)| value.as_str());
    assert_eq!(lines.next(), None);
    value
}

fn body(answer: &OwnAnswer) -> &str {
    std::str::from_utf8(&answer.body).unwrap()
}

#[test]
fn shapes_stay_as_they_are() {
    let spec = AnswersSpec::default();
    let plain = occasion(Cause::NoBackend);
    let named = Occasion {
        request_id: Some("0af7"),
        ..plain
    };
    assert_eq!(
        body(&answer(&spec, &plain, "application/json")),
        "{\"error\":\"503 Service Unavailable\",\"reason\":\"no backend is available\",\"server\":\"evenkeel\"}\n"
    );
    assert_eq!(
        body(&answer(&spec, &named, "application/json")),
        "{\"error\":\"503 Service Unavailable\",\"reason\":\"no backend is available\",\"server\":\"evenkeel\",\
         \"request_id\":\"0af7\"}\n"
    );
    assert_eq!(
        body(&answer(&spec, &named, "text/plain")),
        "503 Service Unavailable\nno backend is available\nrequest 0af7\n"
    );
    let html = answer(&spec, &plain, "text/html");
    assert!(body(&html).contains("<title>503 Service Unavailable</title>"));
    assert!(!body(&html).contains('{'));
}

#[test]
fn the_form_is_what_the_client_wants_most() {
    let mut spec = AnswersSpec::default();
    let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    for (default, accept, wanted) in [
        (AnswerFormat::Json, "", "application/json"),
        (AnswerFormat::Html, "*/*", "text/html; charset=utf-8"),
        (AnswerFormat::Json, browser, "text/html; charset=utf-8"),
        (AnswerFormat::Html, "application/json", "application/json"),
        (AnswerFormat::Json, "text/*", "text/html; charset=utf-8"),
        (AnswerFormat::Text, "text/*", "text/plain; charset=utf-8"),
        (AnswerFormat::Text, "image/png", "text/plain; charset=utf-8"),
        (
            AnswerFormat::Json,
            "text/html;q=0.5, text/plain;q=0.6, application/json;q=0.1",
            "text/plain; charset=utf-8",
        ),
        (
            AnswerFormat::Json,
            "application/json;q=0, */*",
            "text/html; charset=utf-8",
        ),
    ] {
        spec.default = default;
        let found = answer(&spec, &occasion(Cause::NoRoute), accept);
        assert_eq!(field(&found, "content-type"), Some(wanted), "{accept}");
        assert_eq!(field(&found, "vary"), Some("accept"));
    }
}

#[test]
fn only_who_should_come_back_is_told_when() {
    let mut spec = AnswersSpec::default();
    for cause in Cause::ALL {
        let found = answer(&spec, &occasion(cause), "");
        let told = matches!(cause.status(), 429 | 503).then_some("5");
        assert_eq!(field(&found, "retry-after"), told, "{cause:?}");
        assert_ne!(status_title(cause.status()), "Unknown", "{cause:?}");
    }
    let known = Occasion {
        retry_after_s: Some(0),
        ..occasion(Cause::TooManyRequests)
    };
    assert_eq!(field(&answer(&spec, &known, ""), "retry-after"), Some("1"));
    spec.retry_after = None;
    let found = answer(&spec, &occasion(Cause::NoBackend), "");
    assert_eq!(field(&found, "retry-after"), None);
    spec.retry_after = Some(Duration::from_secs(60));
    let found = answer(&spec, &occasion(Cause::NoBackend), "");
    assert_eq!(field(&found, "retry-after"), Some("60"));
}

#[test]
fn a_head_request_gets_the_length_and_no_body() {
    let spec = AnswersSpec::default();
    let get = answer(&spec, &occasion(Cause::NoRoute), "");
    let head = Occasion {
        head: true,
        ..occasion(Cause::NoRoute)
    };
    let head = answer(&spec, &head, "");
    assert!(head.body.is_empty());
    assert_eq!(head.content_bytes, Some(get.body.len()));
    assert_eq!(head.fields, get.fields);
}

#[test]
fn a_page_of_the_listener_comes_first() {
    let page = |statuses: &[u16], format, body: &str| AnswerPageSpec {
        statuses: statuses.to_vec(),
        format,
        content_type: None,
        body: body.to_owned(),
    };
    let spec = AnswersSpec {
        server: "a\"<b".to_owned(),
        pages: vec![
            page(
                &[404],
                AnswerFormat::Json,
                "{\"code\":{status},\"by\":\"{server}\",\"{x}\":{}}",
            ),
            AnswerPageSpec {
                content_type: FieldValue::new("application/problem+json").ok(),
                ..page(&[], AnswerFormat::Json, "{{title}}{")
            },
            page(&[], AnswerFormat::Html, "<style>p{}</style>{server}{title"),
        ],
        ..AnswersSpec::default()
    };
    let not_found = occasion(Cause::NoRoute);
    let json = answer(&spec, &not_found, "application/json");
    assert_eq!(
        body(&json),
        "{\"code\":404,\"by\":\"a\\\"\\u003cb\",\"{x}\":{}}"
    );
    let other = answer(&spec, &occasion(Cause::Internal), "application/json");
    assert_eq!(body(&other), "{500 Internal Server Error}{");
    assert_eq!(
        field(&other, "content-type"),
        Some("application/problem+json")
    );
    let html = answer(&spec, &not_found, "text/html");
    assert_eq!(body(&html), "<style>p{}</style>a&quot;&lt;b{title");
    let text = answer(&spec, &not_found, "text/plain");
    assert!(body(&text).starts_with("404 Not Found\n"));
}

#[test]
fn fixed_answers_and_redirects_have_a_body_only_where_they_may() {
    let fixed = |status: u16| FixedSpec {
        status,
        content_type: None,
        body: "hello".to_owned(),
    };
    for (status, head, sent, content_bytes) in [
        (200, false, "hello", Some(5)),
        (200, true, "", Some(5)),
        (204, false, "", None),
        (304, false, "", None),
        (205, false, "", Some(0)),
    ] {
        let found = OwnAnswer::fixed(&fixed(status), head);
        assert_eq!(body(&found), sent, "{status}");
        assert_eq!(found.content_bytes, content_bytes, "{status}");
    }
    let found = OwnAnswer::redirect(308, "/x".to_owned());
    assert_eq!(field(&found, "location"), Some("/x"));
    assert_eq!(found.content_bytes, Some(0));
}

proptest! {
    /// Whatever the operator calls the server, the answer is JSON, and HTML without a tag of the operator's.
    #[test]
    fn what_is_filled_in_stays_text(server in any::<String>()) {
        let spec = AnswersSpec { server, ..AnswersSpec::default() };
        let json = answer(&spec, &occasion(Cause::NoBackend), "application/json");
        let text = body(&json);
        let start = text.find("\"server\":\"").unwrap() + 10;
        let inner = &text[start..text.len() - 3];
        prop_assert!(!inner.contains(['\n', '<']));
        // Every quote inside is escaped, by an odd number of backslashes.
        for (at, _) in inner.match_indices('"') {
            let before = inner[..at].bytes().rev().take_while(|byte| *byte == b'\\').count();
            prop_assert_eq!(before % 2, 1);
        }
        let html = answer(&spec, &occasion(Cause::NoBackend), "text/html");
        let tags = body(&html).matches('<').count();
        prop_assert_eq!(tags, body(&answer(&AnswersSpec::default(), &occasion(Cause::NoBackend), "text/html")).matches('<').count());
    }

    #[test]
    fn any_accept_is_answered(accept in prop::collection::vec(any::<u8>(), 0..200)) {
        let found = OwnAnswer::new(&AnswersSpec::default(), &occasion(Cause::NoBackend), [accept.as_slice()]);
        prop_assert_eq!(found.content_bytes, Some(found.body.len()));
    }
}
