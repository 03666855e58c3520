//! What the configuration says of HTTP, and what it comes to: routes and what they lead to, settings and their defaults.
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy takes for production code"
)]

use std::time::Duration;

use evenkeel_config::{Loaded, parse};
use evenkeel_plan::http::{
    ActionSpec, AnswerFormat, AnswerPageSpec, AnswersSpec, BodyLimitSpec, Coding, CompressionSpec,
    CookieSpec, FieldName, FieldValue, ForwardMode, ForwardedSource, ForwardedSpec,
    HeaderEditsSpec, HeaderMatch, HeaderValueMatch, HostSpec, HttpLimitsSpec, HttpPreset, HttpSpec,
    HttpTimeoutsSpec, Method, NamePattern, PathMatch, PathPrefix, PersistenceSpec, PoolSpec,
    RedirectStatus, RetrySpec, RouteSpec, SameSite, SecureCookie, TransformSpec,
};
use evenkeel_plan::{RateSpec, SecretSource};

fn accept(text: &str) -> Loaded {
    parse("evenkeel.toml", text).unwrap_or_else(|errors| panic!("{errors}"))
}

/// HTTP of the service `web` with `keys` after its listener; there is a service `api` without one.
fn web(keys: &str) -> HttpSpec {
    let text = format!(
        "version = 1\n[services.api]\nmode = \"http\"\nbackends = [\"10.0.0.3:80\"]\n\
         [services.web]\nmode = \"http\"\nlisten = \"127.0.0.1:8000\"\nbackends = [\"10.0.0.2:80\"]\n{keys}"
    );
    let spec = accept(&text).spec;
    let service = spec.services.into_iter().find(|s| s.name.as_str() == "web");
    HttpSpec::clone(&service.unwrap().http.unwrap())
}

fn route(keys: &str) -> RouteSpec {
    web(&format!("[[services.web.routes]]\n{keys}\n"))
        .routes
        .remove(0)
}

fn warnings(text: &str) -> Vec<String> {
    let warnings = accept(text).warnings;
    warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn mode_is_tcp_unless_it_is_http() {
    let text = "version = 1\n[services.a]\nlisten = \"127.0.0.1:1\"\nbackends = [\"10.0.0.2:80\"]\n\
                [services.b]\nmode = \"http\"\nlisten = \"127.0.0.1:2\"\nbackends = [\"10.0.0.2:80\"]\n";
    let services = accept(text).spec.services;
    assert_eq!(services[0].http, None);
    assert_eq!(services[1].http.as_deref(), Some(&HttpSpec::default()));
}

#[test]
fn routes_say_what_they_are_for() {
    let found = route(
        "hosts = [\"A.example.org\", \"*.b.example.org\"]\nprefix = \"/api/\"\nmethods = \"GET\"\n\
         headers = { X-A = \"1\" }\nservice = \"api\"",
    );
    let hosts: Vec<_> = found.hosts.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["a.example.org", "*.b.example.org"]);
    let prefix = PathPrefix::new("/api").unwrap();
    assert_eq!(found.path, Some(PathMatch::Prefix(prefix)));
    assert_eq!(found.methods[0].as_str(), "GET");
    let equals = |name: &str, value: &str| HeaderMatch {
        name: FieldName::new(name).unwrap(),
        value: HeaderValueMatch::Equals(value.to_owned()),
    };
    assert_eq!(found.headers, [equals("x-a", "1")]);
    assert!(matches!(&found.action, ActionSpec::Service(name) if name.as_str() == "api"));

    let found = route(
        "headers = [{ name = \"X-A\", equals = \"1\" }, { name = \"X-B\", regex = '\\d+' }, { name = \"X-C\", present = true }]\n\
         regex = '/v\\d+/.*'\nservice = \"web\"",
    );
    assert_eq!(found.path, Some(PathMatch::Regex("/v\\d+/.*".to_owned())));
    let values: Vec<_> = found.headers.iter().map(|header| &header.value).collect();
    assert_eq!(*values[1], HeaderValueMatch::Regex("\\d+".to_owned()));
    assert_eq!(*values[2], HeaderValueMatch::Present);
    assert_eq!(
        route("path = \"/a\"\nservice = \"api\"").path,
        Some(PathMatch::Exact("/a".to_owned()))
    );
}

#[test]
fn routes_redirect_and_answer() {
    let found = route("redirect = { location = \"https://{host}{path}{query}\" }");
    let ActionSpec::Redirect(redirect) = found.action else {
        panic!("{found:?}");
    };
    assert_eq!(redirect.status, RedirectStatus::Permanent);
    let found = route("redirect = { status = 302, location = \"/\" }");
    let ActionSpec::Redirect(redirect) = found.action else {
        panic!("{found:?}");
    };
    assert_eq!(redirect.status, RedirectStatus::Found);
    let found = route(
        "answer = { status = 404, body = \"no\", content_type = \"text/html\" }\nresponse = { set = { X-A = \"1\" } }",
    );
    assert_eq!(found.transform.response.set.len(), 1);
    let ActionSpec::Fixed(answer) = found.action else {
        panic!("{found:?}");
    };
    assert_eq!((answer.status, &*answer.body), (404, "no"));
    assert_eq!(
        answer.content_type,
        Some(FieldValue::new("text/html").unwrap())
    );
}

#[test]
fn routes_change_requests_and_answers() {
    let found = route(
        "prefix = \"/api\"\nservice = \"api\"\nstrip_prefix = \"/api\"\nadd_prefix = \"/v2\"\nhost_header = { set = \"API.internal\" }\n\
         [services.web.routes.request]\nremove = [\"X-Debug\", \"X-Auth-*\"]\nset = { X-A = \"1\" }\nadd = { X-B = \"\" }\n\
         [services.web.routes.response]\nremove = \"Server\"\n",
    );
    let transform = found.transform;
    assert_eq!(transform.strip_prefix, PathPrefix::new("/api").ok());
    assert_eq!(transform.add_prefix, PathPrefix::new("/v2").ok());
    assert!(matches!(&transform.host, HostSpec::Set(host) if host.name() == "api.internal"));
    assert_eq!(transform.request.remove[1].to_string(), "X-Auth-*");
    let line = |name: &str, value: &str| {
        (
            FieldName::new(name).unwrap(),
            FieldValue::new(value).unwrap(),
        )
    };
    assert_eq!(transform.request.set, [line("X-A", "1")]);
    assert_eq!(transform.request.add, [line("X-B", "")]);
    assert_eq!(transform.response.remove[0].to_string(), "Server");
    for (written, host) in [("keep", HostSpec::Keep), ("backend", HostSpec::Backend)] {
        let found = route(&format!("service = \"api\"\nhost_header = \"{written}\""));
        assert_eq!(found.transform.host, host);
    }
}

#[test]
fn a_service_needs_a_listener_or_a_route_to_it_and_backends_or_routes() {
    let routed = "version = 1\n[services.web]\nmode = \"http\"\nlisten = \"127.0.0.1:1\"\n\
                  routes = [{ service = \"api\" }]\n[services.api]\nmode = \"http\"\nbackends = [\"10.0.0.2:80\"]\n";
    let loaded = accept(routed);
    assert_eq!(loaded.warnings, []);
    let [web, api] = loaded.spec.services.as_slice() else {
        panic!("two services");
    };
    assert_eq!((web.listeners.len(), web.backends.len()), (1, 0));
    assert_eq!((api.listeners.len(), api.backends.len()), (0, 1));
    let by_sorry = routed.replace(
        "routes = [{ service = \"api\" }]",
        "backends = [\"10.0.0.3:80\"]\nsorry = \"api\"",
    );
    assert_eq!(warnings(&by_sorry), [""; 0]);
    let lost = routed.replace("routes = [{ service", "routes = [{ answer = {} }] # ");
    assert_eq!(
        warnings(&lost),
        [
            "evenkeel.toml:6:11: service `api` gets no requests: it has no `listen`, and no route or `sorry` leads to it \
             (write `listen = \"10.0.0.1:80\"`, name it in a route of a service that has it, or remove it)"
        ]
    );
}

#[test]
fn methods_in_small_letters_are_warned_of() {
    let text = "version = 1\n[services.web]\nmode = \"http\"\nlisten = \"127.0.0.1:1\"\n\
                routes = [{ methods = [\"get\", \"HEAD\"], answer = {} }]\n";
    let warnings = warnings(text);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("the method `get` is not in capitals"));
}

#[test]
fn what_is_not_written_is_as_the_plan_says() {
    let tables = "[services.web.http]\nlimits = {}\ntimeouts = {}\nforwarded = {}\nretry = {}\npool = {}\n\
                  answers = {}\ntransform = {}\ncompression = { codings = \"gzip\" }\npersistence = {}\n";
    let mut found = web(tables);
    assert_eq!(found.compression.codings, [Coding::Gzip]);
    found.compression.codings.clear();
    let persistence = found.persistence.take();
    assert_eq!(found, HttpSpec::default());
    let cookie = CookieSpec {
        name: FieldName::new("evenkeel").unwrap(),
        lifetime: None,
        path: None,
        domain: None,
        secure: SecureCookie::Auto,
        http_only: true,
        same_site: SameSite::Lax,
        key: None,
        previous_key: None,
    };
    assert_eq!(persistence, Some(PersistenceSpec::Cookie(cookie)));
}

#[test]
fn every_setting_is_taken_as_it_is_written() {
    let text = r#"
[services.web.http]
allow_half_close = true
presets = "couchdb"
[services.web.http.limits]
head_bytes = "64KiB"
fields = 50
uri_bytes = "1KiB"
body_bytes = "8GiB"
body_by_type = [{ type = "image/*", bytes = "10MiB" }, { type = "video/mp4" }]
requests_per_connection = 7
concurrent_requests = 8
source_rate = 9
[services.web.http.timeouts]
request_head = "1s"
body_idle = "0s"
client_write = "2s"
keep_alive_idle = "3s"
first_byte = "4s"
answer_idle = "0s"
upstream_idle = "5s"
tunnel_idle = "6s"
[services.web.http.forwarded]
trusted = ["10.0.0.0/8", "fd00::1"]
source = "forwarded"
x_forwarded_for = "replace"
x_forwarded_proto = "off"
x_forwarded_host = "replace"
forwarded = "append"
request_id = "X-Id"
[services.web.http.retry]
attempts = 2
methods = ["PUT"]
body_bytes = "0B"
budget = "100%"
budget_floor = 0
[services.web.http.pool]
idle = 0
requests = 3
[services.web.http.compression]
codings = ["zstd", "br"]
types = ["Text/*"]
min_bytes = "100B"
[services.web.http.answers]
default = "html"
server = "gateway"
retry_after = "0s"
error_field = "X-Error"
pages = [{ statuses = [502, 503], body = "<p>{status}</p>" }, { format = "text", content_type = "text/plain", body = "no" }]
[services.web.http.transform]
strip_prefix = "/a"
add_prefix = "/b"
host = "backend"
response = { remove = "Server" }
[services.web.http.persistence]
name = "node"
lifetime = "8h"
path = "/app"
domain = "Example.org"
secure = "always"
http_only = false
same_site = "none"
key_env = "KEY"
previous_key_file = "/run/secrets/key-before"
"#;
    let seconds = Duration::from_secs;
    let name = |text: &str| FieldName::new(text).unwrap();
    let limit = |content_type: &str, bytes| BodyLimitSpec {
        content_type: content_type.to_owned(),
        bytes,
    };
    let page = |statuses: &[u16], format, content_type: Option<&str>, body: &str| AnswerPageSpec {
        statuses: statuses.to_vec(),
        format,
        content_type: content_type.map(|text| FieldValue::new(text).unwrap()),
        body: body.to_owned(),
    };
    let expected = HttpSpec {
        routes: Vec::new(),
        forwarded: ForwardedSpec {
            trusted: vec!["10.0.0.0/8".parse().unwrap(), "fd00::1".parse().unwrap()],
            source: ForwardedSource::Forwarded,
            x_forwarded_for: ForwardMode::Replace,
            x_forwarded_proto: ForwardMode::Off,
            x_forwarded_host: ForwardMode::Replace,
            forwarded: ForwardMode::Append,
            request_id: Some(name("X-Id")),
        },
        limits: HttpLimitsSpec {
            head_bytes: 65_536,
            fields: 50,
            uri_bytes: 1_024,
            body_bytes: Some(8 << 30),
            body_by_type: vec![limit("image/*", Some(10 << 20)), limit("video/mp4", None)],
            requests_per_connection: Some(7),
            concurrent_requests: Some(8),
            source_rate: Some(RateSpec {
                per_second: 9,
                burst: 9,
            }),
        },
        timeouts: HttpTimeoutsSpec {
            request_head: seconds(1),
            body_idle: None,
            client_write: Some(seconds(2)),
            keep_alive_idle: seconds(3),
            first_byte: Some(seconds(4)),
            answer_idle: None,
            upstream_idle: seconds(5),
            tunnel_idle: Some(seconds(6)),
        },
        answers: AnswersSpec {
            default: AnswerFormat::Html,
            server: "gateway".to_owned(),
            pages: vec![
                page(&[502, 503], AnswerFormat::Html, None, "<p>{status}</p>"),
                page(&[], AnswerFormat::Text, Some("text/plain"), "no"),
            ],
            retry_after: None,
            error_field: Some(name("X-Error")),
        },
        allow_half_close: true,
        compression: CompressionSpec {
            codings: vec![Coding::Zstd, Coding::Br],
            types: vec!["text/*".to_owned()],
            min_bytes: 100,
        },
        presets: vec![HttpPreset::CouchDb],
        transform: TransformSpec {
            strip_prefix: PathPrefix::new("/a").ok(),
            add_prefix: PathPrefix::new("/b").ok(),
            host: HostSpec::Backend,
            response: HeaderEditsSpec {
                remove: vec![NamePattern::new("Server").unwrap()],
                ..HeaderEditsSpec::default()
            },
            ..TransformSpec::default()
        },
        persistence: Some(PersistenceSpec::Cookie(CookieSpec {
            name: name("node"),
            lifetime: Some(seconds(8 * 3_600)),
            path: Some("/app".to_owned()),
            domain: Some("example.org".to_owned()),
            secure: SecureCookie::Always,
            http_only: false,
            same_site: SameSite::None,
            key: Some(SecretSource::Environment("KEY".to_owned())),
            previous_key: Some(SecretSource::File("/run/secrets/key-before".to_owned())),
        })),
        retry: RetrySpec {
            attempts: 2,
            methods: vec![Method::new("PUT").unwrap()],
            body_bytes: 0,
            budget_percent: 100,
            budget_floor: 0,
        },
        pool: PoolSpec {
            idle: 0,
            requests: Some(3),
        },
    };
    assert_eq!(web(text), expected);
}

#[test]
fn ways_of_persistence() {
    for (written, expected) in [
        (
            "by = \"header\", header = \"X-Tenant\"",
            PersistenceSpec::Header(FieldName::new("X-Tenant").unwrap()),
        ),
        ("by = \"uri\"", PersistenceSpec::Uri { query: false }),
        (
            "by = \"uri\", query = true",
            PersistenceSpec::Uri { query: true },
        ),
        ("by = \"source\"", PersistenceSpec::Source),
    ] {
        let found = web(&format!("http = {{ persistence = {{ {written} }} }}\n"));
        assert_eq!(found.persistence, Some(expected), "{written}");
    }
}

#[test]
fn a_request_id_can_be_left_to_others_and_trusting_everybody_is_warned_of() {
    let text = "version = 1\n[services.web]\nmode = \"http\"\nlisten = \"127.0.0.1:1\"\nbackends = [\"10.0.0.2:80\"]\n\
                http = { forwarded = { request_id = false, trusted = [\"10.0.0.0/8\", \"0.0.0.0/0\"] } }\n";
    let loaded = accept(text);
    let http = loaded.spec.services[0].http.as_ref().unwrap();
    assert_eq!(http.forwarded.request_id, None);
    assert_eq!(
        loaded.warnings[0].message,
        "`trusted` has 0.0.0.0/0: anybody can then claim any address"
    );
}
