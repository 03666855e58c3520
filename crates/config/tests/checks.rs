//! Checks and policies that are accepted, and what they come to: kinds, defaults, files that are named.
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy takes for production code"
)]

use std::path::Path;
use std::time::Duration;

use evenkeel_config::{Loaded, load, parse};
use evenkeel_plan::{
    BackendSpec, CheckKind, CheckSpec, HttpRequestSpec, OnDown, PolicySpec, Require, SecretSource,
    ServiceSpec, Stale, TlsSpec, Unchecked,
};

fn accept(text: &str) -> Loaded {
    parse("evenkeel.toml", text).unwrap_or_else(|errors| panic!("{errors}"))
}

/// A service with `keys`, and what there is besides.
fn service(keys: &str, rest: &str) -> ServiceSpec {
    let text = format!("version = 1\n[services.s]\nlisten = \"127.0.0.1:8000\"\n{keys}\n{rest}");
    accept(&text).spec.services.remove(0)
}

fn check_of(backend: &BackendSpec) -> CheckSpec {
    CheckSpec::clone(backend.check.as_ref().unwrap())
}

fn warnings(text: &str) -> Vec<String> {
    accept(text)
        .warnings
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn the_example_of_a_couchdb_cluster() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/couchdb.toml");
    let spec = load(&path).unwrap().spec;
    let service = &spec.services[0];
    let backends = service.backends.iter();
    let found: Vec<_> = backends
        .map(|b| format!("{} {}", b.name, b.address))
        .collect();
    let expected = [1, 2, 3].map(|n| format!("couchdb-{n} couchdb-{n}.local:5984"));
    assert_eq!(found, expected);
    assert_eq!(
        (service.policy.require, service.policy.stale),
        (Require::All, Stale::Closed)
    );
    let CheckKind::CouchDb(check) = check_of(&service.backends[0]).kind else {
        panic!("{service:?}");
    };
    assert_eq!(check.nodes, 3);
    let variable = |name: &str| SecretSource::Environment(name.to_owned());
    let credentials = check.credentials.unwrap();
    assert_eq!(credentials.user, variable("COUCHDB_USER"));
    assert_eq!(credentials.password, variable("COUCHDB_PASSWORD"));
}

#[test]
fn kinds_of_checks_and_their_defaults() {
    let check = |text: &str| {
        let keys = format!(
            "backends = [\"10.0.0.2:80\", \"db-2:80\", {{ address = \"db-3:80\", backup = true }}]\ncheck = {text}"
        );
        check_of(&service(&keys, "").backends[0])
    };
    let usual = |kind: CheckKind| CheckSpec::of(kind);
    let unverified = || TlsSpec {
        server_name: None,
        roots: None,
    };
    assert_eq!(check("\"tls\""), usual(CheckKind::Tls(unverified())));
    let get = |path: &str| HttpRequestSpec {
        path: path.to_owned(),
        ..HttpRequestSpec::default()
    };
    assert_eq!(
        check("\"http\""),
        usual(CheckKind::Http {
            tls: None,
            requests: vec![get("/")]
        })
    );
    assert_eq!(
        check("{ kind = \"https\", requests = [{ path = \"/a\" }, { path = \"/b?c=%20\" }] }"),
        usual(CheckKind::Http {
            tls: Some(unverified()),
            requests: vec![get("/a"), get("/b?c=%20")]
        })
    );
    let http = check(
        "{ kind = \"http\", method = \"POST\", host = \"h:1\", headers = { B = \"2\", A = \"1\" }, expect = [200, \"300-399\", \"500\"], \
         drain = 404, body_contains = \"ok\", body_regex = '^\\d+$' }",
    );
    let CheckKind::Http { requests, .. } = http.kind else {
        panic!("{http:?}");
    };
    let text = |text: &str| Some(text.to_owned());
    let headers = [("B", "2"), ("A", "1")];
    let wanted = HttpRequestSpec {
        method: "POST".to_owned(),
        path: "/".to_owned(),
        host: text("h:1"),
        headers: headers.map(|(n, v)| (n.to_owned(), v.to_owned())).into(),
        expect: vec![(200, 200), (300, 399), (500, 500)],
        drain: vec![(404, 404)],
        body_contains: text("ok"),
        body_regex: text(r"^\d+$"),
    };
    assert_eq!(requests, [wanted]);

    let couchdb = check("\"couchdb\"");
    let times = (couchdb.interval, couchdb.fast_interval, couchdb.timeout);
    let ms = Duration::from_millis;
    assert_eq!(times, (ms(700), ms(200), ms(600)));
    assert_eq!((couchdb.rise, couchdb.fall), (1, 1));
    assert_eq!(couchdb.jitter_percent, 5);
    // Just passed when the node hangs, the longest interval, and the probe runs into its time-out.
    assert!(couchdb.interval * 105 / 100 + couchdb.timeout < ms(1_500));
    assert!(couchdb.interval * 105 / 100 < ms(1_000));
    let CheckKind::CouchDb(couchdb) = couchdb.kind else {
        panic!("{couchdb:?}");
    };
    assert_eq!(couchdb.nodes, 2, "backups are not of the cluster");
    assert_eq!((couchdb.tls, couchdb.credentials), (None, None));
    let named = check("{ kind = \"couchdb\", https = true, names = [\"a@b\", \"a@c\", \"a@d\"] }");
    let CheckKind::CouchDb(named) = named.kind else {
        panic!("{named:?}");
    };
    assert_eq!((named.nodes, named.names.len()), (3, 3));
    assert_eq!(named.tls, Some(unverified()));

    let openhim = check("\"openhim\"");
    let times = (openhim.interval, openhim.fast_interval, openhim.timeout);
    assert_eq!(times, (ms(3_000), ms(3_000), ms(2_000)));
    assert_eq!(
        (openhim.rise, openhim.fall, openhim.port),
        (2, 2, Some(8080))
    );
    let heartbeat = HttpRequestSpec {
        expect: vec![(200, 200)],
        ..get("/heartbeat")
    };
    assert_eq!(
        openhim.kind,
        CheckKind::Http {
            tls: Some(unverified()),
            requests: vec![heartbeat]
        }
    );
    let agent = check("{ kind = \"agent\", port = 5555, send = \"x\\n\", source = \"10.0.0.1\" }");
    assert_eq!(agent.kind, CheckKind::Agent { send: text("x\n") });
    assert_eq!(
        (agent.port, agent.source),
        (Some(5555), Some([10, 0, 0, 1].into()))
    );
    let exec = "version = 1\nallow_exec = true\n[services.s]\nlisten = \"127.0.0.1:1\"\nbackends = [\"a:1\"]\n\
                check = { kind = \"exec\", command = [\"/x\", \"\"] }";
    let spec = accept(exec).spec;
    assert!(spec.globals.allow_exec);
    let command = vec!["/x".to_owned(), String::new()];
    let exec = check_of(&spec.services[0].backends[0]);
    assert_eq!(exec.kind, CheckKind::Exec { command });
}

#[test]
fn checks() {
    let check = |text: &str| {
        let keys = format!("backends = [\"10.0.0.2:80\"]\n{text}");
        service(&keys, "").backends[0].check.clone()
    };
    let usual = check("").unwrap();
    assert_eq!(check("check = \"tcp\""), Some(usual.clone()));
    assert_eq!(check("check = {}"), Some(usual.clone()));
    assert_eq!(check("check = \"none\""), None);
    assert_eq!(check("check = { kind = \"none\" }"), None);
    let short = check("check = { interval = \"500ms\", jitter = \"0%\" }").unwrap();
    assert_eq!(
        (short.timeout, short.fast_interval),
        (short.interval, short.interval),
        "an unwritten time-out follows a shorter interval"
    );
    assert_eq!(short.jitter_percent, 0);
    assert_eq!(short.rise, usual.rise);
}

#[test]
fn policies() {
    let of = |keys: &str| {
        let other = "[services.other]\nlisten = \"127.0.0.1:9\"\nbackends = [\"10.0.0.9:80\"]\nsorry = \"s\"";
        let backends = "backends = [\"a:1\", \"b:1\", { address = \"c:1\", backup = true }]";
        let service = service(&format!("{backends}\n{keys}"), other);
        assert!(service.backends[2].backup);
        service.policy
    };
    let usual = PolicySpec::default();
    assert_eq!(of(""), usual);
    let all = of("require = \"all\"");
    assert_eq!((all.require, all.stale), (Require::All, Stale::Closed));
    assert_eq!(of("require = \"all\"\nstale = \"last\"").stale, Stale::Last);
    assert_eq!(of("require = 2").require, Require::Count(2));
    assert_eq!(of("require = \"100%\"").require, Require::Share(100));
    assert_eq!(of("stale = \"closed\"").stale, Stale::Closed);
    let policy = of(
        "sorry = \"other\"\npanic = \"1%\"\nunchecked = \"always\"\non_down = \"reset\"\nslow_start = \"30s\"\npassive_failures = 0",
    );
    assert_eq!(
        policy.sorry.unwrap().as_str(),
        "other",
        "and back again is fine"
    );
    assert_eq!(policy.panic, Some(1));
    assert_eq!(policy.unchecked, Unchecked::Always);
    assert_eq!(policy.on_down, OnDown::Reset);
    assert_eq!(policy.slow_start, Duration::from_secs(30));
    assert_eq!(policy.passive_failures, 0);
    let found = warnings(
        "version = 1\n[services.s]\nlisten = \"127.0.0.1:1\"\nbackends = [\"a:1\"]\ncheck = \"none\"\nrequire = \"all\"",
    );
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(
        found[0].contains(
            "6:11: `require` counts healthy backends, and those of service `s` are not checked"
        ),
        "{found:#?}"
    );
}

/// Files that the configuration names: certificates are read by `load` alone, secrets never.
#[test]
fn files_that_are_named() {
    let directory = std::env::temp_dir().join(format!("evenkeel-named-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = |name: &str| directory.join(name).display().to_string();
    let certificate = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    let key = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";
    std::fs::write(path("both.pem"), format!("{key}{certificate}")).unwrap();
    std::fs::write(path("key.pem"), key).unwrap();
    std::fs::write(path("password"), "x").unwrap();
    let with = |check: &str| {
        let file = directory.join("evenkeel.toml");
        let text = format!(
            "version = 1\n[services.s]\nlisten = \"127.0.0.1:1\"\nbackends = [\"a:1\"]\ncheck = {check}\n"
        );
        std::fs::write(&file, &text).unwrap();
        (load(&file), accept(&text))
    };
    let roots = |loaded: &Loaded| match check_of(&loaded.spec.services[0].backends[0]).kind {
        CheckKind::Tls(tls) => tls.roots,
        kind => panic!("{kind:?}"),
    };
    let tls = |name: &str| {
        with(&format!(
            "{{ kind = \"tls\", ca_file = \"{}\" }}",
            path(name)
        ))
    };
    let (loaded, parsed) = tls("both.pem");
    assert_eq!(roots(&loaded.unwrap()).as_deref(), Some(certificate));
    assert_eq!(roots(&parsed).as_deref(), Some(""), "nothing is trusted");
    for (name, message) in [
        ("key.pem", "has no certificate in PEM"),
        ("missing.pem", "No such file"),
        ("", "it is not a file"),
    ] {
        let errors = tls(name).0.unwrap_err();
        let problem = &errors.problems()[0];
        assert!(problem.message.contains(message), "{problem}");
        assert_eq!((problem.line, problem.column), (5, 35), "{problem}");
    }

    let couchdb = || {
        let password = path("password");
        with(&format!(
            "{{ kind = \"couchdb\", credentials = {{ user_file = \"/nowhere\", password_file = \"{password}\" }} }}"
        ))
    };
    let mode = |mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(path("password"), mode).unwrap();
    };
    mode(0o644);
    let (loaded, parsed) = couchdb();
    let warnings = loaded.unwrap().warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].to_string().ends_with("(`chmod o-r` it)"),
        "{warnings:?}"
    );
    assert_eq!(parsed.warnings, []);
    mode(0o640);
    assert_eq!(couchdb().0.unwrap().warnings, []);
    let (_, parsed) = with("{ kind = \"http\", headers = { Authorization = \"Basic eDp5\" } }");
    let warning = parsed.warnings[0].to_string();
    assert!(
        warning.contains("puts a secret into the configuration"),
        "{warning}"
    );
    std::fs::remove_dir_all(&directory).unwrap();
}
