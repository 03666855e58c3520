//! Routes, and what is changed in requests and answers on their way.

use std::net::SocketAddr;

use evenkeel_testkit::http::{Answer, HttpBackend, HttpClient};

use crate::x_http::{inner, service, start, web};

/// Asks by a head without its end: the answer.
fn ask(address: SocketAddr, head: &str) -> Answer {
    let request = format!("{head}\r\nConnection: close\r\n\r\n");
    let answer = HttpClient::connect(address).ask(&request);
    answer.unwrap_or_else(|broken| panic!("{request:?}: {broken:?}"))
}

fn get(address: SocketAddr, host: &str, path: &str) -> Answer {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: {host}"))
}

const ROUTES: &str = r#"
[[services.web.routes]]
hosts = ["a.example.org", "b.example.org"]
service = "host"

[[services.web.routes]]
hosts = "a.example.org"
prefix = "/api"
service = "prefix"

[[services.web.routes]]
hosts = "a.example.org"
prefix = "/api/v2"
service = "longer"

[[services.web.routes]]
hosts = "a.example.org"
path = "/api/v2/exact"
service = "exact"

[[services.web.routes]]
hosts = "a.example.org"
regex = '/files/[0-9]+'
service = "regex"

[[services.web.routes]]
hosts = "a.example.org"
prefix = "/api"
methods = ["DELETE", "PATCH"]
service = "method"

[[services.web.routes]]
hosts = "a.example.org"
prefix = "/api"
headers = { X-Tenant = "t1" }
service = "header"

[[services.web.routes]]
hosts = "a.example.org"
prefix = "/api"
headers = [{ name = "X-Beta", present = true }, { name = "X-Tenant", regex = 't[0-9]' }]
service = "headers"

[[services.web.routes]]
hosts = "*.example.org"
service = "wildcard"

[[services.web.routes]]
hosts = "*.deep.example.org"
service = "deeper"

[[services.web.routes]]
path = "/old"
redirect = { location = "https://{host}{path}{query}" }

[[services.web.routes]]
prefix = "/moved"
redirect = { status = 302, location = "/new{path}" }

[[services.web.routes]]
path = "/health"
answer = { status = 200, body = "fine" }

[[services.web.routes]]
path = "/gone"
answer = { status = 410, body = "<p>gone", content_type = "text/html" }
response = { set = { X-Why = "gone" } }
"#;

#[test]
fn the_most_specific_route_takes_the_request() {
    const NAMES: [&str; 10] = [
        "host", "prefix", "longer", "exact", "regex", "method", "header", "headers", "wildcard",
        "deeper",
    ];
    let servers: Vec<_> = NAMES.map(HttpBackend::named).into();
    let inside = |server: &HttpBackend| inner(server.name(), &[server], "");
    let others: String = servers.iter().map(inside).collect();
    let services = format!("{}{ROUTES}{others}", service("web", &[], ""));
    let (daemon, address) = start(2, &services);
    for (head, taken) in [
        ("GET / HTTP/1.1\r\nHost: a.example.org", "host"),
        ("GET / HTTP/1.1\r\nHost: A.EXAMPLE.ORG.:80", "host"),
        ("GET / HTTP/1.1\r\nHost: b.example.org:8080", "host"),
        (
            "GET http://b.example.org/ HTTP/1.1\r\nHost: b.example.org",
            "host",
        ),
        ("GET /api HTTP/1.1\r\nHost: a.example.org", "prefix"),
        ("GET /api/ HTTP/1.1\r\nHost: a.example.org", "prefix"),
        ("GET /%61pi/x?y HTTP/1.1\r\nHost: a.example.org", "prefix"),
        ("GET /apis HTTP/1.1\r\nHost: a.example.org", "host"),
        ("GET /api/v2/x HTTP/1.1\r\nHost: a.example.org", "longer"),
        (
            "GET /api/v2/exact?q HTTP/1.1\r\nHost: a.example.org",
            "exact",
        ),
        (
            "GET /api/v2/exact/ HTTP/1.1\r\nHost: a.example.org",
            "longer",
        ),
        ("GET /files/17 HTTP/1.1\r\nHost: a.example.org", "regex"),
        ("GET /files/17a HTTP/1.1\r\nHost: a.example.org", "host"),
        ("DELETE /api/1 HTTP/1.1\r\nHost: a.example.org", "method"),
        (
            "GET /api/1 HTTP/1.1\r\nHost: a.example.org\r\nx-tenant: t1",
            "header",
        ),
        (
            "GET /api/1 HTTP/1.1\r\nHost: a.example.org\r\nX-Tenant: T1",
            "prefix",
        ),
        (
            "GET /api/1 HTTP/1.1\r\nHost: a.example.org\r\nX-Tenant: t2\r\nX-Beta: ",
            "headers",
        ),
        (
            "GET /api/1 HTTP/1.1\r\nHost: a.example.org\r\nX-Tenant: t1\r\nX-Tenant: t1",
            "prefix",
        ),
        ("GET / HTTP/1.1\r\nHost: c.example.org", "wildcard"),
        ("GET / HTTP/1.1\r\nHost: d.c.example.org", "wildcard"),
        ("GET / HTTP/1.1\r\nHost: x.deep.example.org", "deeper"),
        ("GET / HTTP/1.1\r\nHost: deep.example.org", "wildcard"),
    ] {
        let answer = ask(address, head);
        assert_eq!(
            (answer.status(), answer.text().as_str()),
            (200, taken),
            "{head}"
        );
    }
    for (host, path, status, location) in [
        ("x.org", "/old?a=b", 308, Some("https://x.org/old?a=b")),
        ("x.org:81", "/moved/on", 302, Some("/new/moved/on")),
        ("x.org", "/health", 200, None),
        ("x.org", "/gone", 410, None),
        ("x.org", "/", 404, None),
        ("example.org", "/", 404, None),
    ] {
        let answer = get(address, host, path);
        assert_eq!(answer.status(), status, "{host}{path}");
        assert_eq!(answer.field("location").as_deref(), location);
    }
    assert_eq!(get(address, "x.org", "/health").text(), "fine");
    let gone = get(address, "x.org", "/gone");
    assert_eq!(gone.field("x-why").as_deref(), Some("gone"));
    assert_eq!(gone.field("content-type").as_deref(), Some("text/html"));
    // Answers of our own keep the connection.
    let mut client = HttpClient::connect(address);
    for path in ["/health", "/nowhere", "/old", "/health"] {
        assert!(!client.get(path).closes(), "{path}");
    }
    let head = client
        .ask("HEAD /health HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    assert_eq!(head.field("content-length").as_deref(), Some("4"));
    let refused = client.post("/nowhere", "a body that nobody reads");
    assert_eq!(refused.status(), 404);
    if !refused.closes() {
        assert_eq!(client.get("/health").text(), "fine");
    }
    drop(daemon);
}

#[test]
fn what_no_route_takes_goes_to_the_services_own_backends() {
    let (own, other) = (HttpBackend::named("own"), HttpBackend::named("other"));
    let routes = "[[services.web.routes]]\nprefix = \"/other\"\nservice = \"other\"\n";
    let services = service("web", &[&own], routes) + &inner("other", &[&other], "");
    let (_daemon, address) = start(1, &services);
    let mut client = HttpClient::connect(address);
    for _ in 0..3 {
        assert_eq!(client.get("/").text(), "own");
        assert_eq!(client.get("/other/x").text(), "other");
    }
    assert_eq!((own.connections(), other.connections()), (1, 1));
}

#[test]
fn paths_hosts_and_fields_are_changed_as_told() {
    let server = HttpBackend::start("b1", |exchange| {
        let fields =
            "X-Powered-By: old\r\nX-Frame-Options: ALLOW\r\nSet-Cookie: a=1\r\nServer: b1\r\n";
        exchange.answer(200, fields, "b1");
    });
    let routes = r#"
[services.web.http.transform]
response = { remove = "Server" }
[[services.web.routes]]
prefix = "/api"
service = "inner"
strip_prefix = "/api"
add_prefix = "/v2"
host_header = { set = "inside.example" }
request = { remove = ["X-Debug", "X-Secret-*"], set = { X-Tenant = "t1" }, add = { Via = "1.1 evenkeel" } }
response = { remove = ["X-Powered-By"], set = { X-Frame-Options = "DENY" }, add = { Set-Cookie = "b=2" } }
[[services.web.routes]]
prefix = "/backend"
service = "inner"
host_header = "backend"
"#;
    let transform = "[services.inner.http.transform]\nresponse = { remove = \"Server\" }\n";
    let services = service("web", &[&server], routes) + &inner("inner", &[&server], transform);
    let (_daemon, address) = start(1, &services);
    let head = "GET /api/x//y?q=/api HTTP/1.1\r\nHost: a.example:81\r\nX-Debug: 1\r\nX-Secret-Key: 2\r\nx-tenant: t9\r\nVia: 1.0 other";
    let answer = ask(address, head);
    let seen = server.last().head;
    assert_eq!(seen.target(), "/v2/x//y?q=/api");
    assert_eq!(seen.field("host").as_deref(), Some("inside.example"));
    assert_eq!(seen.field("x-tenant").as_deref(), Some("t1"));
    assert_eq!(seen.all("via"), ["1.0 other", "1.1 evenkeel"]);
    assert!(seen.field("x-debug").is_none() && seen.field("x-secret-key").is_none());
    assert_eq!(answer.field("x-frame-options").as_deref(), Some("DENY"));
    assert_eq!(answer.head.all("set-cookie"), ["a=1", "b=2"]);
    assert!(answer.field("x-powered-by").is_none() && answer.field("server").is_none());
    for (path, target) in [
        ("/api", "/v2"),
        ("/api/", "/v2/"),
        ("/api/a%2Fb", "/v2/a%2Fb"),
    ] {
        get(address, "a.example", path);
        let seen = server.last().head.target();
        let same = seen.trim_end_matches('/') == target.trim_end_matches('/');
        assert!(same, "{path} became {seen}");
    }
    get(address, "a.example", "/backend/x");
    let seen = server.last().head;
    let address_of = server.address().to_string();
    assert_eq!(
        (seen.target().as_str(), seen.field("host")),
        ("/backend/x", Some(address_of))
    );
    // Without a route: as it came, but for the service's own changes.
    let answer = get(address, "a.example:81", "/other");
    let seen = server.last().head;
    assert_eq!(seen.field("host").as_deref(), Some("a.example:81"));
    assert_eq!(seen.target(), "/other");
    assert_eq!(answer.field("x-powered-by").as_deref(), Some("old"));
    assert!(answer.field("server").is_none());
}

/// The class of CVE-2025-64484: what a client says of itself is not believed, in whatever spelling.
#[test]
fn what_strangers_say_of_who_asked_is_removed() {
    let server = HttpBackend::named("b1");
    let (_daemon, address) = web(&[&server], "");
    let head = "GET / HTTP/1.1\r\nHost: a.example:81\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 7.7.7.7\r\n\
                X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nForwarded: for=6.6.6.6\r\n\
                X_Forwarded_For: 6.6.6.6\r\nX-Forwarded_For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n\
                X-Request-Id: mine";
    ask(address, head);
    let seen = server.last().head;
    assert_eq!(seen.field("x-forwarded-for").as_deref(), Some("127.0.0.1"));
    assert_eq!(seen.field("x-forwarded-proto").as_deref(), Some("http"));
    assert_eq!(
        seen.field("x-forwarded-host").as_deref(),
        Some("a.example:81")
    );
    assert!(
        !seen.text().contains("6.6.6.6") && !seen.text().contains("7.7.7.7"),
        "{seen:?}"
    );
    let id = seen.field("x-request-id").unwrap();
    assert!(
        id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{id}"
    );
    get(address, "a.example", "/");
    assert_ne!(
        server.last().head.field("x-request-id"),
        Some(id),
        "each has its own"
    );
    // Naming ours in Connection takes away what the client sent, not ours (CVE-2022-31813).
    let hop = "GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Forwarded-For, X-Request-Id, Host\r\nX-Forwarded-For: 6.6.6.6";
    ask(address, hop);
    let seen = server.last().head;
    assert_eq!(seen.field("x-forwarded-for").as_deref(), Some("127.0.0.1"));
    assert!(seen.field("x-request-id").is_some() && seen.field("host").is_some());
}

#[test]
fn trusted_proxies_are_believed_and_added_to() {
    let server = HttpBackend::named("b1");
    let keys = "[services.web.http.forwarded]\ntrusted = [\"127.0.0.0/8\", \"10.0.0.0/8\"]\n\
                forwarded = \"append\"\n";
    let (_daemon, address) = web(&[&server], keys);
    let head = "GET / HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-For: 6.6.6.6, 203.0.113.9\r\nX-Forwarded-For: 10.0.0.2\r\n\
                X-Forwarded-Proto: https\r\nX-Forwarded-Host: www.example\r\nX-Request-Id: mine-17\r\n\
                Forwarded: for=6.6.6.6";
    ask(address, head);
    let seen = server.last().head;
    let list = "6.6.6.6, 203.0.113.9, 10.0.0.2, 127.0.0.1";
    assert_eq!(seen.field("x-forwarded-for").as_deref(), Some(list));
    assert_eq!(seen.field("x-forwarded-proto").as_deref(), Some("https"));
    assert_eq!(
        seen.field("x-forwarded-host").as_deref(),
        Some("www.example")
    );
    assert_eq!(seen.field("x-request-id").as_deref(), Some("mine-17"));
    // Only one kind is believed: the other one came from whoever asked.
    let forwarded = seen.field("forwarded").unwrap();
    assert!(
        forwarded.contains("127.0.0.1") && !forwarded.contains("6.6.6.6"),
        "{forwarded}"
    );
    // A malformed id is not taken over.
    ask(address, "GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: a b\"c");
    assert_eq!(server.last().head.field("x-request-id").unwrap().len(), 32);
}

#[test]
fn each_field_of_who_asked_can_be_replaced_or_left_out() {
    let server = HttpBackend::named("b1");
    let keys = "[services.web.http.forwarded]\ntrusted = [\"127.0.0.1\"]\nsource = \"forwarded\"\n\
                x_forwarded_for = \"replace\"\nx_forwarded_proto = \"off\"\nx_forwarded_host = \"off\"\n\
                forwarded = \"replace\"\nrequest_id = \"X-Trace\"\n";
    let (daemon, address) = web(&[&server], keys);
    let head = "GET / HTTP/1.1\r\nHost: a.example\r\nForwarded: for=203.0.113.9;proto=https\r\nX-Forwarded-For: 6.6.6.6";
    ask(address, head);
    let seen = server.last().head;
    assert_eq!(
        seen.field("x-forwarded-for").as_deref(),
        Some("203.0.113.9")
    );
    let forwarded = seen.field("forwarded").unwrap();
    assert!(
        forwarded.contains("for=203.0.113.9") && forwarded.contains("https"),
        "{forwarded}"
    );
    assert!(seen.field("x-forwarded-proto").is_none() && seen.field("x-forwarded-host").is_none());
    assert!(seen.field("x-trace").is_some() && seen.field("x-request-id").is_none());
    daemon.apply(&crate::file(
        "",
        &service(
            "web",
            &[&server],
            "[services.web.http.forwarded]\nrequest_id = false\nx_forwarded_for = \"off\"\n",
        ),
    ));
    ask(address, "GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: theirs");
    let seen = server.last().head;
    assert!(seen.field("x-forwarded-for").is_none());
    assert_eq!(seen.field("x-request-id").as_deref(), Some("theirs"));
}

/// CouchDB's proxy authentication believes these fields, with or without a secret (its default).
#[test]
fn couchdb_never_sees_who_a_client_says_it_is() {
    let server = HttpBackend::named("b1");
    let (_daemon, address) = web(&[&server], "[services.web.http]\npresets = [\"couchdb\"]");
    for name in [
        "X-Auth-CouchDB-UserName",
        "x-auth-couchdb-roles",
        "X-Auth-CouchDB-Token",
        "X_Auth_CouchDB_UserName",
        "X-Auth-CouchDB_Roles",
    ] {
        ask(
            address,
            &format!("GET /_session HTTP/1.1\r\nHost: a\r\n{name}: admin"),
        );
        let seen = server.last().head;
        assert!(!seen.text().contains("admin"), "{seen:?}");
    }
    // Nor in trailers.
    let mut client = HttpClient::connect(address);
    let request = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Auth-CouchDB-UserName: admin\r\n\r\n";
    assert_eq!(client.ask(request).unwrap().status(), 200);
    assert_eq!(server.last().body.unwrap().trailers, b"\r\n");
    // Authorization is CouchDB's own.
    client.get_with("/", "Authorization: Basic dTpw\r\n");
    let seen = server.last().head;
    assert_eq!(seen.field("authorization").as_deref(), Some("Basic dTpw"));
}
