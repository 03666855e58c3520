//! What routing, forwarding fields, cookies and answers of our own cost. `cargo bench -p evenkeel-http`.

use std::hint::black_box;
use std::net::SocketAddr;

use criterion::{Criterion, criterion_group, criterion_main};
use evenkeel_http::forwarded::{Forwarding, Seen};
use evenkeel_http::own_answer::{Cause, Occasion, OwnAnswer};
use evenkeel_http::persist::CookieSigner;
use evenkeel_http::route::{Request, Router};
use evenkeel_plan::ServiceName;
use evenkeel_plan::http::{
    ActionSpec, AnswersSpec, CookieSpec, FieldName, ForwardedSpec, HostPattern, PathMatch,
    PathPrefix, RouteSpec, SameSite, SecureCookie, TransformSpec,
};

type Field = (&'static [u8], &'static [u8]);

const FIELDS: &[Field] = &[
    (b"Host", b"host-7.example.org"),
    (
        b"User-Agent",
        b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
    ),
    (
        b"Accept",
        b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    ),
    (b"Accept-Encoding", b"gzip, deflate, br"),
    (
        b"Cookie",
        b"AuthSession=Y2hhbmdlbWU6NjU1RTI0QjM6; locale=en",
    ),
    (b"X-Forwarded-For", b"203.0.113.9, 10.0.0.2"),
    (b"X-Requested-With", b"XMLHttpRequest"),
];

fn route(host: Option<&str>, path: Option<PathMatch>) -> RouteSpec {
    RouteSpec {
        hosts: host
            .map(|host| HostPattern::new(host).expect("a host"))
            .into_iter()
            .collect(),
        path,
        methods: Vec::new(),
        headers: Vec::new(),
        action: ActionSpec::Service(ServiceName::new("s").expect("a name")),
        transform: TransformSpec::default(),
    }
}

fn prefix(text: &str) -> Option<PathMatch> {
    Some(PathMatch::Prefix(PathPrefix::new(text).expect("a prefix")))
}

/// Ten routes on each of a hundred hosts, some wildcards, some for any host.
fn thousand() -> Router {
    let mut routes = Vec::new();
    for host in 0..99 {
        let name = format!("host-{host}.example.org");
        for path in 0..10 {
            let text = format!("/api/v{path}");
            routes.push(route(Some(&name), prefix(&text)));
        }
    }
    for path in 0..5 {
        routes.push(route(
            Some("*.example.org"),
            prefix(&format!("/any/{path}")),
        ));
        routes.push(route(None, prefix(&format!("/all/{path}"))));
    }
    Router::new(&routes).expect("they differ")
}

fn request(
    host: &'static str,
    path: &'static str,
) -> Request<'static, impl Iterator<Item = Field> + Clone> {
    Request {
        host: Some(host.as_bytes()),
        path: path.as_bytes(),
        method: b"GET",
        fields: FIELDS.iter().copied(),
    }
}

fn routing(c: &mut Criterion) {
    let one = Router::new(&[route(None, None)]).expect("one route");
    let thousand = thousand();
    let mut group = c.benchmark_group("route");
    for (name, router, host, path) in [
        (
            "1_any",
            &one,
            "couchdb:5984",
            "/medic/_design%2Fmedic/_view/x",
        ),
        (
            "1000_prefix",
            &thousand,
            "host-7.example.org:443",
            "/api/v7/users/12",
        ),
        (
            "1000_any_host",
            &thousand,
            "host-7.example.org:443",
            "/all/4/users/12",
        ),
        ("1000_none", &thousand, "a.b.c.d.example.com", "/x/y/z"),
        (
            "1000_encoded",
            &thousand,
            "host-7.example.org",
            "/api/v7/%C3%A9t%C3%A9",
        ),
        (
            "1000_encoded_slash",
            &thousand,
            "host-7.example.org",
            "/api/v7/_design%2Fmedic",
        ),
        (
            "1000_hostile",
            &thousand,
            "host-7.example.org",
            "/api/v7/%252F;a\\b%3F//c",
        ),
    ] {
        let request = request(host, path);
        group.bench_function(name, |b| b.iter(|| router.route(black_box(&request))));
    }
    let long: &'static str = String::leak(format!("/api/v7/%252F;{}", "a".repeat(1_500)));
    let request = request("host-7.example.org", long);
    group.bench_function("1000_hostile_long", |b| {
        b.iter(|| thousand.route(black_box(&request)));
    });
    group.finish();
}

fn telling(c: &mut Criterion) {
    let seen = Seen {
        peer: SocketAddr::from(([10, 0, 0, 1], 4_711)),
        https: true,
        host: Some(b"host-7.example.org"),
    };
    let spec = ForwardedSpec {
        trusted: vec!["10.0.0.0/8".parse().expect("a network")],
        ..ForwardedSpec::default()
    };
    let mut scratch = Vec::new();
    let mut group = c.benchmark_group("forwarded");
    for (name, spec) in [("untrusted", ForwardedSpec::default()), ("trusted", spec)] {
        let forwarding = Forwarding::new(&spec);
        group.bench_function(name, |b| {
            b.iter(|| {
                let fields = FIELDS.iter().copied();
                let origin = forwarding.origin(seen.peer, seen.https, fields.clone());
                let id = forwarding.request_id(&origin, || 7, fields.clone());
                let dropped = fields
                    .clone()
                    .filter(|(name, _)| forwarding.drops(name, &origin))
                    .count();
                let mut bytes = dropped;
                forwarding.write(
                    &seen,
                    &origin,
                    id.as_ref(),
                    fields,
                    &mut scratch,
                    |name, value| {
                        bytes += name.len() + value.len();
                    },
                );
                black_box(bytes)
            });
        });
    }
    group.finish();
}

fn keeping(c: &mut Criterion) {
    let spec = CookieSpec {
        name: FieldName::new("evenkeel").expect("a name"),
        lifetime: None,
        path: None,
        domain: None,
        secure: SecureCookie::Auto,
        http_only: true,
        same_site: SameSite::Lax,
        key: None,
        previous_key: None,
    };
    let signer = CookieSigner::new(&spec, "s", &[7; 32], None).expect("a key");
    let mut line = Vec::new();
    signer.push_set_cookie(7, 1_800_000_000, true, &mut line);
    line.truncate(49);
    c.bench_function("cookie_read", |b| {
        b.iter(|| signer.read([black_box(line.as_slice())], 1_800_000_001));
    });
    c.bench_function("cookie_write", |b| {
        let mut out = Vec::new();
        b.iter(|| {
            out.clear();
            signer.push_set_cookie(7, 1_800_000_000, true, &mut out);
            black_box(out.len())
        });
    });
}

fn answering(c: &mut Criterion) {
    let spec = AnswersSpec::default();
    let occasion = Occasion {
        cause: Cause::NoBackend,
        request_id: Some("0af7651916cd43dd8448eb211c80319c"),
        retry_after_s: None,
        head: false,
    };
    c.bench_function("own_answer", |b| {
        b.iter(|| OwnAnswer::new(&spec, black_box(&occasion), [FIELDS[2].1]));
    });
}

criterion_group!(benches, routing, telling, keeping, answering);
criterion_main!(benches);
