use std::time::Duration;

use evenkeel_plan::http::{FieldName, SameSite};
use proptest::prelude::*;

use super::*;

const NOW_S: u64 = 1_800_000_000;
const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";
const OTHER_KEY: &[u8] = b"fedcba9876543210fedcba9876543210";

fn spec(lifetime_s: Option<u64>) -> CookieSpec {
    CookieSpec {
        name: FieldName::new("evenkeel").unwrap(),
        lifetime: lifetime_s.map(Duration::from_secs),
        path: None,
        domain: None,
        secure: SecureCookie::Auto,
        http_only: true,
        same_site: SameSite::Lax,
        key: None,
        previous_key: None,
    }
}

fn signer(service: &str, key: &[u8], previous: Option<&[u8]>) -> CookieSigner {
    CookieSigner::new(&spec(Some(900)), service, key, previous).unwrap()
}

/// `evenkeel=...`, as the client sends it back.
fn issued(signer: &CookieSigner, identity: u64) -> String {
    let mut line = Vec::new();
    signer.push_set_cookie(identity, NOW_S, false, &mut line);
    let line = String::from_utf8(line).unwrap();
    line.split(';').next().unwrap().to_owned()
}

fn read(signer: &CookieSigner, line: &str, now_s: u64) -> Found {
    signer.read([line.as_bytes()], now_s)
}

fn backend(identity: u64, renew: bool) -> Found {
    Found::Backend { identity, renew }
}

#[test]
fn a_cookie_is_read_as_it_was_issued_until_it_ends() {
    let signer = signer("shop", KEY, None);
    let cookie = issued(&signer, 7);
    for (after_s, found) in [
        (0, backend(7, false)),
        (599, backend(7, false)),
        (600, backend(7, true)),
        (899, backend(7, true)),
        (900, Found::Invalid),
        (1_000_000, Found::Invalid),
    ] {
        assert_eq!(read(&signer, &cookie, NOW_S + after_s), found, "{after_s}");
    }
    assert_eq!(read(&signer, "", NOW_S), Found::Absent);
    assert_eq!(read(&signer, "Evenkeel=x; a=b", NOW_S), Found::Absent);
}

#[test]
fn it_is_found_among_others_and_behind_planted_ones() {
    let signer = signer("shop", KEY, None);
    let cookie = issued(&signer, 7);
    for line in [
        format!("a=b; {cookie}; c=d"),
        format!("a=b;{cookie}"),
        format!("evenkeel=planted; {cookie}"),
        format!(" ; =; x ;a=\"b; {cookie}"),
    ] {
        assert_eq!(read(&signer, &line, NOW_S), backend(7, false), "{line}");
    }
    let lines = ["a=b".as_bytes(), cookie.as_bytes()];
    assert_eq!(signer.read(lines, NOW_S), backend(7, false));
    let many = format!("{}{cookie}", "evenkeel=x; ".repeat(TRIES_MAX));
    assert_eq!(read(&signer, &many, NOW_S), Found::Invalid);
}

#[test]
fn it_counts_for_its_service_name_and_key_only() {
    let shop = signer("shop", KEY, None);
    let cookie = issued(&shop, 7);
    assert_eq!(
        read(&signer("blog", KEY, None), &cookie, NOW_S),
        Found::Invalid
    );
    assert_eq!(
        read(&signer("shop", OTHER_KEY, None), &cookie, NOW_S),
        Found::Invalid
    );
    let rotated = signer("shop", OTHER_KEY, Some(KEY));
    assert_eq!(read(&rotated, &cookie, NOW_S), backend(7, true));
    assert_eq!(read(&shop, &issued(&rotated, 7), NOW_S), Found::Invalid);
    let renamed = CookieSpec {
        name: FieldName::new("other").unwrap(),
        ..spec(Some(900))
    };
    let renamed = CookieSigner::new(&renamed, "shop", KEY, None).unwrap();
    let planted = cookie.replace("evenkeel=", "other=");
    assert_eq!(read(&renamed, &planted, NOW_S), Found::Invalid);
}

#[test]
fn attributes_are_written_as_wished() {
    let line = |spec: &CookieSpec, https| {
        let mut line = Vec::new();
        let signer = CookieSigner::new(spec, "shop", KEY, None).unwrap();
        signer.push_set_cookie(1, NOW_S, https, &mut line);
        let line = String::from_utf8(line).unwrap();
        let (value, attributes) = line.split_once("; ").unwrap();
        assert_eq!(value.len(), "evenkeel=".len() + TEXT_BYTES);
        attributes.to_owned()
    };
    assert_eq!(line(&spec(None), false), "Path=/; HttpOnly; SameSite=Lax");
    assert_eq!(
        line(&spec(None), true),
        "Path=/; HttpOnly; SameSite=Lax; Secure"
    );
    let full = CookieSpec {
        path: Some("/app".to_owned()),
        domain: Some("example.org".to_owned()),
        secure: SecureCookie::Always,
        http_only: false,
        same_site: SameSite::None,
        ..spec(Some(60))
    };
    assert_eq!(
        line(&full, false),
        "Path=/app; Domain=example.org; Max-Age=60; SameSite=None; Secure"
    );
    let never = CookieSpec {
        secure: SecureCookie::Never,
        ..spec(None)
    };
    assert!(!line(&never, true).contains("Secure"));
}

#[test]
fn what_would_be_unsafe_is_refused() {
    let short = CookieSigner::new(&spec(None), "shop", &KEY[..15], None);
    assert_eq!(short.unwrap_err(), PersistError::ShortKey);
    let short = CookieSigner::new(&spec(None), "shop", KEY, Some(b""));
    assert_eq!(short.unwrap_err(), PersistError::ShortKey);
    for path in ["/; Domain=evil.example", "/a\r\nX: y", "/\u{e9}", "/a,b"] {
        let spec = CookieSpec {
            path: Some(path.to_owned()),
            ..spec(None)
        };
        let error = CookieSigner::new(&spec, "shop", KEY, None).unwrap_err();
        assert_eq!(error, PersistError::Attribute, "{path:?}");
    }
    let debug = format!("{:?}", signer("shop", KEY, None));
    assert!(!debug.contains("0123456789"));
}

/// The same bytes for ever: workers of two versions run side by side during an upgrade. The value was computed by Python's `hmac`.
#[test]
fn the_format_stays() {
    let signer = signer("shop", KEY, None);
    assert_eq!(
        issued(&signer, 0x0102_0304_0506_0708),
        "evenkeel=AQECAwQFBgcIAGtJ1YR3ZQoWjHIKNleGJ1ro94FN"
    );
}

#[test]
fn a_backend_does_not_see_our_cookie() {
    let signer = signer("shop", KEY, None);
    for (line, left) in [
        ("a=b; evenkeel=x; c=d", Some("a=b; c=d")),
        ("evenkeel=x", None),
        ("evenkeel=x; evenkeel=y;", None),
        ("evenkeel2=x;a", Some("evenkeel2=x; a")),
        ("evenkeel", None),
        ("", None),
    ] {
        let mut out = Vec::new();
        let any = signer.push_others(line.as_bytes(), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), left.unwrap_or_default());
        assert_eq!(any, left.is_some(), "{line}");
    }
}

proptest! {
    #[test]
    fn every_identity_comes_back(identity in any::<u64>(), now_s in 0..END_MAX - 900) {
        let signer = signer("shop", KEY, None);
        let mut line = Vec::new();
        signer.push_set_cookie(identity, now_s, false, &mut line);
        let pair = line.split(|byte| *byte == b';').next().unwrap();
        prop_assert_eq!(signer.read([pair], now_s), backend(identity, false));
    }

    /// No bit can be changed.
    #[test]
    fn a_changed_cookie_does_not_count(at in 0..TEXT_BYTES, to in any::<u8>()) {
        let signer = signer("shop", KEY, None);
        let mut cookie = issued(&signer, 7).into_bytes();
        let place = "evenkeel=".len() + at;
        prop_assume!(cookie[place] != to && to != b';');
        cookie[place] = to;
        prop_assert_eq!(signer.read([cookie.as_slice()], NOW_S), Found::Invalid);
    }

    #[test]
    fn any_bytes_are_read(line in prop::collection::vec(any::<u8>(), 0..100)) {
        let signer = signer("shop", KEY, Some(OTHER_KEY));
        let found = signer.read([line.as_slice()], NOW_S);
        let counts = matches!(found, Found::Backend { .. });
        prop_assert!(!counts);
    }
}
