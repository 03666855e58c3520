//! Routes: order, attackers' paths, and that the fast way and the slow way agree.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::LazyLock;

use evenkeel_http::route::{
    CompileErrorKind, Explanation, Refusal, Request, Router, Verdict, rewrite_path,
};
use evenkeel_plan::ServiceName;
use evenkeel_plan::http::{
    ActionSpec, FieldName, HeaderMatch, HeaderValueMatch, HostPattern, Method, PathMatch,
    PathPrefix, RouteSpec, TransformSpec,
};
use proptest::prelude::*;

/// A route in a line: host, kind of path and path, methods, condition on a field; `-` = any.
fn route(host: &str, path: &str, methods: &str, field: &str) -> RouteSpec {
    let words = |text: &str| -> Vec<String> {
        text.split(',')
            .filter(|word| *word != "-")
            .map(str::to_owned)
            .collect()
    };
    let path = match path.split_once(' ') {
        Some(("=", text)) => Some(PathMatch::Exact(text.to_owned())),
        Some(("~", text)) => Some(PathMatch::Regex(text.to_owned())),
        _ if path == "-" => None,
        _ => Some(PathMatch::Prefix(PathPrefix::new(path).unwrap())),
    };
    let headers = words(field)
        .iter()
        .map(|text| {
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name, HeaderValueMatch::Equals(value.to_owned())),
                None => match text.split_once('~') {
                    Some((name, value)) => (name, HeaderValueMatch::Regex(value.to_owned())),
                    None => (text.as_str(), HeaderValueMatch::Present),
                },
            };
            HeaderMatch {
                name: FieldName::new(name).unwrap(),
                value,
            }
        })
        .collect();
    RouteSpec {
        hosts: words(host)
            .iter()
            .map(|host| HostPattern::new(host).unwrap())
            .collect(),
        path,
        methods: words(methods)
            .into_iter()
            .map(|method| Method::new(method).unwrap())
            .collect(),
        headers,
        action: ActionSpec::Service(ServiceName::new("s").unwrap()),
        transform: TransformSpec::default(),
    }
}

fn router(routes: &[(&str, &str, &str, &str)]) -> Router {
    let routes: Vec<_> = routes
        .iter()
        .map(|(host, path, methods, field)| route(host, path, methods, field))
        .collect();
    Router::new(&routes).unwrap()
}

type Fields<'a> = &'a [(&'a str, &'a str)];

fn request<'a>(
    host: &'a str,
    path: &'a str,
    method: &'a str,
    fields: Fields<'a>,
) -> Request<'a, impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone> {
    Request {
        host: (host != "-").then_some(host.as_bytes()),
        path: path.as_bytes(),
        method: method.as_bytes(),
        fields: fields
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes())),
    }
}

fn taken(router: &Router, host: &str, path: &str) -> Result<Option<usize>, Refusal> {
    router.route(&request(host, path, "GET", &[]))
}

#[test]
fn the_host_that_says_most_comes_first() {
    let router = router(&[
        ("-", "-", "-", "-"),
        ("*.org", "-", "-", "-"),
        ("*.example.org", "-", "-", "-"),
        ("www.example.org,example.net", "-", "-", "-"),
        ("[2001:db8::1]", "-", "-", "-"),
    ]);
    for (host, index) in [
        ("www.example.org", 3),
        ("WWW.Example.ORG.:8080", 3),
        ("example.net", 3),
        ("a.example.org", 2),
        ("b.a.example.org", 2),
        ("x.www.example.org", 2),
        ("example.org", 1),
        ("notexample.org", 1),
        ("org", 0),
        ("example.com", 0),
        ("[2001:DB8:0::1]:443", 4),
        ("[2001:db8::2]", 0),
        ("-", 0),
        ("", 0),
    ] {
        assert_eq!(taken(&router, host, "/"), Ok(Some(index)), "{host}");
    }
    assert_eq!(taken(&router, "a..org", "/"), Err(Refusal::Host));
}

#[test]
fn the_path_that_says_most_comes_first() {
    let router = router(&[
        ("-", "-", "-", "-"),
        ("-", "/", "-", "-"),
        ("-", "/api", "-", "-"),
        ("-", "/api/v1/", "-", "-"),
        ("-", r"~ /api/.*\.js", "-", "-"),
        ("-", r"~ /api/v1/a\.js|/x", "-", "-"),
        ("-", "= /api/v1/b.js", "-", "-"),
        ("-", "= /%61pi", "-", "-"),
    ]);
    for (path, index) in [
        ("*", 0),
        ("/", 1),
        ("/apis", 1),
        ("/api", 7),
        ("/api/", 2),
        ("/api/v", 2),
        ("/api/v1", 3),
        ("/%61pi/v%31", 3),
        ("/api/v1/x/y", 3),
        ("/api/v1/a.js", 4),
        ("/x", 5),
        ("/xy", 1),
        ("/y/x", 1),
        ("/api/v1/b.js", 6),
        ("/API", 1),
    ] {
        assert_eq!(taken(&router, "-", path), Ok(Some(index)), "{path}");
    }
}

#[test]
fn method_fields_and_order_decide_between_equals() {
    let router = router(&[
        ("-", "/a", "-", "-"),
        ("-", "/a", "-", "x=1"),
        ("-", "/a", "-", "x=1,y"),
        ("-", "/a", "GET,PUT", "-"),
        ("-", "/b", "-", "x=1"),
        ("-", "/b", "-", "x~[0-9]+"),
    ]);
    for (path, method, fields, index) in [
        ("/a", "POST", &[][..], Some(0)),
        ("/a", "POST", &[("X", "1")], Some(1)),
        ("/a", "POST", &[("x", "1"), ("Y", "")], Some(2)),
        ("/a", "PUT", &[("x", "1"), ("y", "")], Some(3)),
        ("/a", "get", &[], Some(0)),
        ("/b", "GET", &[("x", "1")], Some(4)),
        ("/b", "GET", &[("x", "12")], Some(5)),
        ("/b", "GET", &[("x", "12a")], None),
        ("/b", "GET", &[], None),
        // A second line is not hidden behind the first, and the first not behind the second.
        ("/b", "GET", &[("x", "1"), ("X", "2")], None),
        ("/b", "GET", &[("x", "2"), ("X", "1")], None),
    ] {
        let found = router.route(&request("-", path, method, fields));
        assert_eq!(found, Ok(index), "{path} {method} {fields:?}");
    }
}

#[test]
fn routes_of_less_special_hosts_are_asked_too() {
    let router = router(&[
        ("www.example.org", "/a", "-", "-"),
        ("*.example.org", "/b", "-", "-"),
        ("-", "/c", "-", "-"),
    ]);
    for (path, found) in [
        ("/a", Some(0)),
        ("/b", Some(1)),
        ("/c", Some(2)),
        ("/d", None),
    ] {
        assert_eq!(taken(&router, "www.example.org", path), Ok(found));
    }
}

#[test]
fn routes_that_cannot_be_are_named() {
    let long = format!("~ {}", "a".repeat(2_000));
    for (path, what) in [
        ("~ (", "Regex"),
        ("~ a)|(?:b", "Regex"),
        ("~ (?:[a-z]{500}){500}", "Regex"),
        (long.as_str(), "Regex"),
        ("= a", "Path(NotAbsolute)"),
        ("= /a/../b", "Path(DotSegment)"),
        ("= /a b", "Path(Byte)"),
    ] {
        let routes = [route("-", "-", "-", "-"), route("-", path, "-", "-")];
        let errors = Router::new(&routes).unwrap_err();
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].route, 1);
        assert!(format!("{:?}", errors[0].kind).starts_with(what), "{path}");
    }
    let twice = [
        route("a.org,b.org", "/", "GET,PUT", "x=1"),
        route("c.org,a.org", "/", "PUT,GET", "X=1"),
        route("c.org,b.org", "/", "GET,PUT", "x=1"),
    ];
    let errors = Router::new(&twice).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].route, 2);
    assert!(matches!(errors[0].kind, CompileErrorKind::Shadowed(_)));
}

/// Routes as somebody would write them who wants `/admin` closed, `/api` rewritten and the rest open.
fn guarded() -> &'static Router {
    static GUARDED: LazyLock<Router> = LazyLock::new(|| {
        router(&[
            ("-", "/", "-", "-"),
            ("-", "/admin", "-", "-"),
            ("-", "/public", "-", "-"),
            ("-", "= /login", "-", "-"),
            ("-", r"~ /static/.*\.js", "-", "-"),
        ])
    });
    &GUARDED
}

/// Each is a way past a route that was used against some proxy and backend.
#[test]
fn no_way_past_a_route_is_open() {
    use Refusal::{Ambiguous, Byte, DotSegment, Escape, NotAbsolute, Nul};
    let router = guarded();
    for (path, refusal) in [
        // Traversal, plain and in the disguises of Apache CVE-2021-41773 and CVE-2021-42013.
        ("/public/../admin", DotSegment),
        ("/public/.%2e/admin", DotSegment),
        ("/public/%2e%2e/admin", DotSegment),
        ("/public/%%32%65%%32%65/admin", Escape),
        ("/public/%252e%252e/admin", DotSegment),
        // Envoy CVE-2019-9901 (dot segments) and CVE-2021-29492 (encoded slashes).
        ("/public/%2e%2e%2fadmin", DotSegment),
        ("/public%2f..%2fadmin", DotSegment),
        ("/%2fadmin", Ambiguous),
        ("/admin%2f", Ambiguous),
        ("/admin%2Fx", Ambiguous),
        ("/static%2fa.js", Ambiguous),
        // Backslashes: Envoy CVE-2021-29492, IIS.
        ("/\\admin", Ambiguous),
        ("/admin\\x", Ambiguous),
        ("/admin%5cx", Ambiguous),
        ("/public\\..\\admin", DotSegment),
        ("/public/..%5cadmin", DotSegment),
        // Path parameters: Tomcat behind a proxy ("Breaking Parser Logic", Orange Tsai 2018), Spring CVE-2016-5007.
        ("/public/..;/admin", DotSegment),
        ("/public/..;a=b/admin", DotSegment),
        ("/admin;x", Ambiguous),
        ("/;/admin", Ambiguous),
        ("/a;/../admin", DotSegment),
        ("/login;jsessionid=1", Ambiguous),
        ("/admin%3bx", Ambiguous),
        // Several slashes: nginx merges by default, Envoy does not.
        ("//admin", Ambiguous),
        ("///admin/x", Ambiguous),
        ("/.//admin", DotSegment),
        ("//login", Ambiguous),
        // A query that only the backend sees: Apache CVE-2024-38474.
        ("/login%3Fx", Ambiguous),
        ("/admin%3f/a", Ambiguous),
        ("/login%23", Ambiguous),
        ("/static/a.js%3F/x", Ambiguous),
        // Overlong UTF-8: Tomcat CVE-2008-2938.
        ("/public/%c0%ae%c0%ae/admin", DotSegment),
        ("/%c0%afadmin", Ambiguous),
        // Twice encoded.
        ("/%2561dmin", Ambiguous),
        ("/%252fadmin", Ambiguous),
        // NUL and control bytes, fragments: HAProxy CVE-2023-45539, Traefik CVE-2023-47106.
        ("/public%00/../admin", Nul),
        ("/admin%00", Nul),
        ("/login\0", Byte),
        ("/x#/admin", Byte),
        ("/admin\t", Byte),
        ("/admin ", Byte),
        // Not a path at all.
        ("admin", NotAbsolute),
        ("http://x/admin", NotAbsolute),
        ("\\admin", NotAbsolute),
        ("", NotAbsolute),
        ("/%u002e%u002e/admin", Escape),
        ("/admin%", Escape),
    ] {
        assert_eq!(taken(router, "-", path), Err(refusal), "{path:?}");
    }
}

/// What applications send. CouchDB: ids with slashes, designs, revisions; jsessionid below a prefix.
#[test]
fn valid_paths_in_doubt_are_served_where_the_doubt_does_not_matter() {
    let router = guarded();
    for (path, index) in [
        ("/medic/_design%2Fmedic/_view/x", 0),
        ("/medic/org.couchdb.user%3Aanna", 0),
        ("/medic/a%252Fb", 0),
        ("/medic/x%3Fy%23z", 0),
        ("/medic/%C3%A9t%C3%A9", 0),
        ("/medic/...", 0),
        ("/medic//x", 0),
        ("//x", 0),
        ("/admin//x", 1),
        ("/admin/x;jsessionid=1", 1),
        ("/admin/a%2Fb", 1),
        ("/public/http%3A%2F%2Fexample.org%2Fa%3Bb", 2),
        ("/static/a/b.js", 4),
        ("/%61dmin", 1),
    ] {
        assert_eq!(taken(router, "-", path), Ok(Some(index)), "{path}");
    }
    // One route for all paths: nothing to be fooled.
    let open = self::router(&[("-", "/", "-", "-")]);
    assert_eq!(taken(&open, "-", "/a;/..%2f..%5c"), Ok(Some(0)));
    let all = self::router(&[("-", "-", "-", "-")]);
    assert_eq!(taken(&all, "-", "/a/../b"), Ok(Some(0)));
}

#[test]
fn an_explanation_says_why_of_every_route() {
    let router = router(&[
        ("-", "/", "-", "-"),
        ("a.org", "/x", "POST", "-"),
        ("a.org", "/x", "-", "k=v"),
        ("a.org", "= /y", "-", "-"),
        ("a.org", "/x/z", "-", "-"),
        ("b.org", "-", "-", "-"),
        ("*.org", "/x", "-", "-"),
    ]);
    let explanation = router.explain(&request("A.org:80", "/x/%7a/q", "GET", &[]));
    assert_eq!(explanation.outcome, Ok(Some(4)));
    assert_eq!(explanation.host.as_deref(), Some("a.org"));
    assert_eq!(explanation.path.as_deref(), Some("/x/z/q"));
    let found: Vec<_> = explanation
        .candidates
        .iter()
        .map(|candidate| (candidate.route, candidate.verdict.clone()))
        .collect();
    assert_eq!(
        found,
        [
            (3, Verdict::Path),
            (4, Verdict::Taken),
            (1, Verdict::Method),
            (2, Verdict::Field("k".to_owned())),
            (6, Verdict::After(4)),
            (0, Verdict::After(4)),
            (5, Verdict::Host),
        ]
    );
    let Explanation {
        outcome, readings, ..
    } = router.explain(&request("a.org", "/%2Fx", "GET", &[]));
    assert_eq!(outcome, Err(Refusal::Ambiguous));
    let routes: Vec<_> = readings.iter().map(|reading| reading.route).collect();
    assert!(
        routes.contains(&Some(0)) && routes.contains(&Some(6)),
        "{readings:?}"
    );
}

/// How some backends read a path, each written for itself.
mod backends {
    fn decode(path: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let mut at = 0;
        let bytes = path.as_bytes();
        while at < bytes.len() {
            let hex = path
                .get(at + 1..at + 3)
                .filter(|_| bytes[at] == b'%')
                .and_then(|digits| u8::from_str_radix(digits, 16).ok());
            out.push(hex.unwrap_or(bytes[at]));
            at += if hex.is_some() { 3 } else { 1 };
        }
        out
    }

    fn climb(path: &str, skip_empty: bool) -> String {
        let mut kept: Vec<&str> = Vec::new();
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let last = parts.len() - 1;
        for (at, part) in parts.iter().enumerate() {
            match *part {
                ".." => {
                    kept.pop();
                }
                "." => {}
                "" if skip_empty && at != last => {}
                part => kept.push(part),
            }
        }
        format!("/{}", kept.join("/"))
    }

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// nginx: decodes, then resolves and merges.
    pub(super) fn nginx(path: &str) -> String {
        climb(&text(decode(path)), true)
    }

    /// Tomcat: drops parameters, decodes, resolves.
    pub(super) fn tomcat(path: &str) -> String {
        let plain: Vec<&str> = path
            .split('/')
            .map(|part| part.split(';').next().unwrap_or(part))
            .collect();
        climb(&text(decode(&plain.join("/"))), true)
    }

    /// IIS: decodes, backslashes are slashes, resolves.
    pub(super) fn iis(path: &str) -> String {
        climb(&text(decode(path)).replace('\\', "/"), true)
    }

    /// A browser's URL: backslashes are slashes, resolves, does not decode.
    pub(super) fn url(path: &str) -> String {
        climb(&path.replace('\\', "/"), false)
    }

    /// A careless application behind a framework: decodes twice.
    pub(super) fn twice(path: &str) -> String {
        climb(&text(decode(&text(decode(path)))), true)
    }

    /// mod_rewrite: decodes, and begins a query at what was encoded.
    pub(super) fn rewritten(path: &str) -> String {
        let decoded = text(decode(path));
        climb(decoded.split('?').next().unwrap_or(&decoded), true)
    }
}

fn hostile_path() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "/", "/", "/", "admin", "admin", "public", "login", "static", "a.js", "a", ".", "..", ";",
        ";x=y", "\\", "%2f", "%2F", "%5c", "%2e", "%2E", "%252f", "%252e", "%25", "%61", "%3b",
        "%3f", "%23", "%c0%af", "%c0%ae", "%00", "%", "%2", "//", "..;", "x",
    ]);
    prop::collection::vec(piece, 0..9).prop_map(|pieces| format!("/{}", pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whoever gets a request got it by the route that its path takes, as that backend reads it.
    #[test]
    fn no_backend_reads_a_path_that_takes_another_route(path in hostile_path()) {
        let router = guarded();
        if let Ok(taken) = taken(router, "-", &path) {
            let readers = [
                backends::nginx,
                backends::tomcat,
                backends::iis,
                backends::url,
                backends::twice,
                backends::rewritten,
            ];
            for reader in readers {
                let read = reader(&path);
                // What it read is compared as it stands, so what has a meaning to us is encoded again.
                let again: String = read
                    .chars()
                    .map(|c| match c {
                        '%' => "%25".to_owned(),
                        '?' => "%3F".to_owned(),
                        '#' => "%23".to_owned(),
                        c => c.to_string(),
                    })
                    .collect();
                let again = router.explain(&request("-", &again, "GET", &[]));
                let of_it = again.candidates.iter().find(|one| one.verdict == Verdict::Taken);
                if again.outcome != Err(Refusal::Nul) {
                    prop_assert_eq!(of_it.map(|one| one.route), taken, "{} read as {}", path, read);
                }
            }
        }
    }

    /// What was stripped was there, and a rewritten path never starts with two slashes nor climbs out of what was added.
    #[test]
    fn a_rewritten_path_stays_below_what_was_added(path in hostile_path()) {
        let router = router(&[("-", "/", "-", "-"), ("-", "/a", "-", "-")]);
        if taken(&router, "-", &path) == Ok(Some(1)) {
            let (strip, add) = (PathPrefix::new("/a").unwrap(), PathPrefix::new("/tenant").unwrap());
            let found = rewrite_path(path.as_bytes(), Some(&strip), Some(&add));
            let found = String::from_utf8_lossy(&found).into_owned();
            prop_assert!(found == "/tenant" || found.starts_with("/tenant/"));
            prop_assert!(!found.starts_with("/tenant//"));
            for reader in [backends::nginx, backends::tomcat, backends::iis, backends::twice] {
                let read = reader(&found);
                prop_assert!(read == "/tenant" || read.starts_with("/tenant/"), "{} read as {}", found, read);
            }
        }
    }
}

fn some_route() -> impl Strategy<Value = RouteSpec> {
    let host = prop::sample::select(vec![
        "-",
        "-",
        "a.org",
        "*.org",
        "*.a.org",
        "b.a.org",
        "b.a.org,*.org",
    ]);
    let path = prop::sample::select(vec![
        "-",
        "/",
        "/a",
        "/a/b",
        "/a/b/c",
        "= /a",
        "= /a/b",
        "~ /a.*",
        "~ /a/[a-c]",
        "~ .*c",
        "~ /.*b/.*",
    ]);
    let methods = prop::sample::select(vec!["-", "-", "GET", "GET,PUT"]);
    let field = prop::sample::select(vec!["-", "-", "x", "x=1", "x=1,y"]);
    (host, path, methods, field)
        .prop_map(|(host, path, methods, field)| route(host, path, methods, field))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// The tables and the search through all routes agree.
    #[test]
    fn what_is_taken_is_what_is_explained(
        routes in prop::collection::vec(some_route(), 0..12),
        host in prop::sample::select(vec!["-", "a.org", "b.a.org", "c.b.a.org", "org", "x.org"]),
        path in prop::sample::select(vec!["*", "/", "/a", "/a/", "/a/b", "/a/b/c", "/a/bc", "/b/b/c"]),
        method in prop::sample::select(vec!["GET", "PUT", "POST"]),
        fields in prop::sample::select(vec![&[][..], &[("X", "1")], &[("x", "1"), ("Y", "")], &[("x", "2")]]),
    ) {
        if let Ok(router) = Router::new(&routes) {
            let request = request(host, path, method, fields);
            let explanation = router.explain(&request);
            let taken = explanation.candidates.iter().find(|one| one.verdict == Verdict::Taken);
            prop_assert_eq!(router.route(&request), Ok(taken.map(|one| one.route)));
        }
    }

    /// No bytes make it panic.
    #[test]
    fn any_bytes_are_answered(
        host in prop::collection::vec(any::<u8>(), 0..40),
        path in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let router = guarded();
        let fields = std::iter::empty::<(&[u8], &[u8])>();
        let request = Request { host: Some(&host), path: &path, method: b"GET", fields };
        let explanation = router.explain(&request);
        prop_assert_eq!(router.route(&request), explanation.outcome);
    }
}
