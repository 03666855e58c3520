//! What is accepted, and what it comes to: examples, short forms, ports, names, warnings.
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy takes for production code"
)]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use evenkeel_config::{Loaded, demo, load, parse};
use evenkeel_plan::{Address, BackendSpec, CheckSpec, Scheduler, ServiceSpec, UserSpec, Workers};

fn accept(text: &str) -> Loaded {
    parse("evenkeel.toml", text).unwrap_or_else(|errors| panic!("{errors}"))
}

/// A service with `keys`, and what there is besides.
fn service(keys: &str, rest: &str) -> ServiceSpec {
    let text = format!("version = 1\n[services.s]\nlisten = \"127.0.0.1:8000\"\n{keys}\n{rest}");
    accept(&text).spec.services.remove(0)
}

fn names(service: &ServiceSpec) -> Vec<&str> {
    service.backends.iter().map(|b| b.name.as_str()).collect()
}

fn addresses(service: &ServiceSpec) -> Vec<String> {
    service
        .backends
        .iter()
        .map(|b| b.address.to_string())
        .collect()
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
fn examples() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config");
    let mut count = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            load(&path).unwrap_or_else(|errors| panic!("{errors}"));
            // Without what the kernel of this host says there is nothing to warn of.
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(accept(&text).warnings, [], "{}", path.display());
            count += 1;
        }
    }
    assert!(count >= 6, "{count}");
}

#[test]
fn openhim_is_one_pool_with_a_port_a_service_and_an_instance_for_the_api() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/openhim.toml");
    let spec = load(&path).unwrap().spec;
    let listen: Vec<_> = spec
        .services
        .iter()
        .map(|s| s.listeners[0].address.to_string())
        .collect();
    assert_eq!(listen, ["10.0.0.1:5000", "10.0.0.1:5001", "10.0.0.1:8080"]);
    assert!(spec.services.iter().all(|s| s.listeners[0].freebind));
    assert_eq!(
        addresses(&spec.services[0]),
        [
            "10.0.0.2:5000",
            "10.0.0.3:5000",
            "10.0.0.4:5000",
            "10.0.0.5:5000"
        ]
    );
    assert_eq!(names(&spec.services[0]), names(&spec.services[1]));
    assert_eq!(
        addresses(&spec.services[1])[3],
        "10.0.0.5:5001",
        "as the service says"
    );
    for service in &spec.services[..2] {
        let check = check_of(&service.backends[3]);
        assert_eq!(
            (check.port, check.kind.as_str()),
            (Some(8080), "https"),
            "one port decides for all"
        );
    }
    assert_eq!(addresses(&spec.services[2]), ["10.0.0.6:8080"]);
}

#[test]
fn demo_takes_the_backends_that_are_given() {
    let backends: Vec<SocketAddr> = ["127.0.0.1:40001", "[::1]:40002"]
        .map(|a| a.parse().unwrap())
        .into();
    let spec = accept(&demo(&backends)).spec;
    assert_eq!(
        addresses(&spec.services[0]),
        ["127.0.0.1:40001", "[::1]:40002"]
    );
    assert_eq!(names(&spec.services[0]), ["b1", "b2"]);
    assert_eq!(spec.services[0].listeners[0].address.port(), 0);
    let unchanged: Vec<SocketAddr> = (18081..=18083)
        .map(|port| ([127, 0, 0, 1], port).into())
        .collect();
    assert_eq!(demo(&unchanged), evenkeel_config::DEMO);
}

#[test]
fn globals() {
    let spec = accept(
        "version = 1\nworkers = 4\nuser = 1000\n[metrics]\nlisten = [\"127.0.0.1:1\", \"[::1]:1\"]\n[drain]\n\
         delay = \"1m30s\"\n[watchdog]\nsteer_after = \"1s\"\nkill_after = \"1s\"",
    )
    .spec;
    assert_eq!(spec.globals.workers, Workers::Count(4));
    assert_eq!(spec.globals.user, UserSpec::Named("1000".to_owned()));
    assert_eq!(spec.globals.metrics.len(), 2);
    assert_eq!(spec.globals.drain.delay, Duration::from_secs(90));
    let spec =
        accept("version = 1\nuser = \"keep\"\n[metrics]\nlisten = \"0.0.0.0:9180\"\npublic = true")
            .spec;
    assert_eq!(spec.globals.user, UserSpec::Keep);
    assert_eq!(spec.globals.metrics[0].to_string(), "0.0.0.0:9180");
}

#[test]
fn a_services_port_goes_over_the_backends_and_that_over_the_pools() {
    let pool = "[pools.p]\nport = 70\nbackends = [\"10.0.0.2\", \"10.0.0.3:71\", \"fd00::2\", \"[fd00::3]\"]";
    let plain = service("pool = \"p\"", pool);
    assert_eq!(
        addresses(&plain),
        ["10.0.0.2:70", "10.0.0.3:71", "[fd00::2]:70", "[fd00::3]:70"]
    );
    assert_eq!(check_of(&plain.backends[1]).port, None);
    let over = service("pool = \"p\"\nport = 5001", pool);
    assert_eq!(
        addresses(&over),
        [
            "10.0.0.2:5001",
            "10.0.0.3:5001",
            "[fd00::2]:5001",
            "[fd00::3]:5001"
        ]
    );
    let check = service(
        "pool = \"p\"\nport = 5001",
        &format!("{pool}\n[pools.p.check]\nport = 8080"),
    );
    assert_eq!(check_of(&check.backends[0]).port, Some(8080));
    assert_eq!(names(&over), names(&plain));
}

#[test]
fn names_of_backends_without_one() {
    let of = |backends: &str| {
        let service = service(&format!("port = 80\nbackends = [{backends}]"), "");
        names(&service)
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        of(r#""10.0.0.2:1", "10.0.0.3""#),
        ["10.0.0.2-1", "10.0.0.3"]
    );
    assert_eq!(
        of(r#""10.0.0.2:1", "10.0.0.2:2""#),
        ["10.0.0.2-1", "10.0.0.2-2"]
    );
    assert_eq!(
        of(r#""10.0.0.2:1", "10.0.0.2:1""#),
        ["10.0.0.2-1", "10.0.0.2-1-2"]
    );
    assert_eq!(
        of(r#""::1", "[fd00::2]:5", "fd00::0:3""#),
        ["0--1", "fd00--2-5", "fd00--3"]
    );
    assert_eq!(
        of(r#""10.0.0.2", { name = "10.0.0.2", address = "10.0.0.3" }, { address = "10.0.0.4" }"#),
        ["10.0.0.2-2", "10.0.0.2", "10.0.0.4"]
    );
}

#[test]
fn host_names() {
    let of = |keys: &str| {
        let service = service(keys, "");
        let names = names(&service).into_iter().map(str::to_owned);
        let both: Vec<_> = names.zip(addresses(&service)).collect();
        both.into_iter()
            .map(|(name, address)| format!("{name} {address}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        of(
            r#"backends = ["couchdb-1.local:5984", "Db.Example.org.:80", "srv:_couchdb._tcp.example.org", { name = "x", address = "localhost:1" }]"#
        ),
        [
            "couchdb-1.local-5984 couchdb-1.local:5984",
            "Db.Example.org-80 db.example.org:80",
            "srv-_couchdb._tcp.example.org _couchdb._tcp.example.org (SRV)",
            "x localhost:1",
        ]
    );
    assert_eq!(
        of("port = 80\nbackends = [\"db_1\", \"db-2:81\"]"),
        ["db_1 db_1:80", "db-2-81 db-2:80"]
    );
    let spec = service("backends = [\"srv:_a._tcp.b.\"]", "");
    let name = "_a._tcp.b".to_owned();
    assert_eq!(spec.backends[0].address, Address::Service { name });
    let found = warnings(
        "version = 1\n[services.s]\nlisten = \"127.0.0.1:1\"\nbackends = [\"db:80\", \"DB.:80\", \"db:81\", \"srv:a\", \"srv:A\"]",
    );
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(
        found[0].contains("duplicate backend address `DB:80`"),
        "{found:#?}"
    );
}

#[test]
fn name_servers() {
    let spec = accept(
        "version = 1\n[resolve]\nservers = [\"10.0.0.53\", \"fd00::53\", \"[fd00::53]:54\"]",
    )
    .spec;
    let servers: Vec<_> = spec
        .globals
        .resolve
        .servers
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(servers, ["10.0.0.53:53", "[fd00::53]:53", "[fd00::53]:54"]);
    let spec = accept("version = 1\nresolve = { servers = \"10.0.0.53\" }").spec;
    assert_eq!(spec.globals.resolve.servers.len(), 1);
}

#[test]
fn listeners() {
    let text = "version = 1\n[services.s]\nfreebind = true\nbacklog = 100\nbackends = [\"10.0.0.2:80\"]\n\
                listen = [\"10.0.0.1:80\", { address = \"[::1]:80\", freebind = false }, { address = \"127.0.0.1:0\", backlog = 7 }]\n\
                [services.t]\nlisten = { address = \"127.0.0.1:0\" }\nbackends = [\"10.0.0.2:80\"]";
    let spec = accept(text).spec;
    let found: Vec<_> = spec.services[0]
        .listeners
        .iter()
        .map(|l| (l.address.to_string(), l.freebind, l.backlog))
        .collect();
    assert_eq!(
        found,
        [
            ("10.0.0.1:80".to_owned(), true, 100),
            ("[::1]:80".to_owned(), false, 100),
            ("127.0.0.1:0".to_owned(), true, 7),
        ]
    );
    assert_eq!(
        spec.services[1].listeners[0].address.to_string(),
        "127.0.0.1:0"
    );
}

#[test]
fn addresses_that_do_not_overlap() {
    accept(
        "version = 1\n[metrics]\nlisten = \"127.0.0.1:81\"\n[services.a]\nlisten = [\"0.0.0.0:80\", \"[fd00::1]:80\", \"[fd00::2]:80\", \
         \"10.0.0.1:81\", \"[::]:82\"]\nbackends = [\"10.0.0.2:80\", \"10.0.0.2:81\"]",
    );
}

#[test]
fn services_are_in_file_order() {
    let text = "version = 1\n[services.z]\nlisten = \"127.0.0.1:1\"\nbackends = [\"10.0.0.2:80\"]\n\
                [services.\"a.b\"]\nlisten = \"127.0.0.1:2\"\nbackends = [\"10.0.0.2:80\"]\nscheduler = \"wrr\"";
    let spec = accept(text).spec;
    assert_eq!(spec.services[0].name.as_str(), "z");
    assert_eq!(spec.services[1].name.as_str(), "a.b");
    assert_eq!(spec.services[1].scheduler, Scheduler::Wrr);
}

#[test]
fn warned_of_but_accepted() {
    assert_eq!(
        warnings("version = 1\n"),
        [
            "evenkeel.toml:1:1: no services: nothing will be listened on (write a `[services.NAME]` with `listen` and `backends`)"
        ]
    );
    let text = "version = 1
[pools.unused]
backends = [\"10.0.0.2\"]
[pools.p]
backends = [\"10.0.0.2:1\", \"10.0.0.2:2\", { address = \"10.0.0.3:7788\", weight = 3 }, \"10.0.0.3:7788\"]
[services.a]
listen = \"127.0.0.1:1\"
pool = \"p\"
[services.b]
listen = \"127.0.0.1:2\"
pool = \"p\"
scheduler = \"wrr\"
port = 7786
";
    let found = warnings(text);
    let expected = [
        "2:8: pool `unused` is not used by any service",
        "5:53: port 7788 is OpenHIM's own polling port",
        "5:84: duplicate backend address `10.0.0.3:7788` (the first is in line 5;",
        "5:84: port 7788 is OpenHIM's own polling port",
        "6:11: service `a` takes turns without looking at weights, such as 3 of backend `10.0.0.3:7788`",
        "13:8: port 7786 is OpenHIM's own rerun port",
        "13:8: with `port = 7786` the backends 10.0.0.2:1 and 10.0.0.2:2 are the same address",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            found.starts_with(&format!("evenkeel.toml:{expected}")),
            "{found}\n{expected}"
        );
    }
}

#[test]
fn default_limits_hold_and_the_place_is_the_first_service_beyond() {
    let mut text = "version = 1\n".to_owned();
    for index in 0..4_097 {
        text.push_str(&format!(
            "services.s{index} = {{ listen = \"127.0.0.1:0\", backends = [\"10.0.0.2:80\"] }}\n"
        ));
    }
    let errors = parse("x", &text).unwrap_err();
    let found: Vec<_> = errors
        .problems()
        .iter()
        .map(|p| (p.line, p.message.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            (
                4_098,
                "4097 listening addresses, but `limits.listeners` is 4096"
            ),
            (4_098, "4097 services, but `limits.services` is 4096"),
        ]
    );
    let many = "\"10.0.0.2:80\",".repeat(65_536);
    let text = format!("version = 1\n[services.s]\nlisten = \"127.0.0.1:1\"\nbackends = [{many}]");
    let errors = parse("x", &text).unwrap_err();
    assert_eq!(
        errors.problems()[0].message,
        "65536 backends, at most 65535 are possible"
    );
    assert_eq!(errors.problems().len(), 1);
}

#[test]
fn files_that_cannot_be_read() {
    let directory = std::env::temp_dir().join(format!("evenkeel-config-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = directory.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let link = directory.join("loop.toml");
    std::os::unix::fs::symlink(&link, &link).unwrap();
    let large = vec![b'#'; (16 << 20) + 1];
    for (path, line, column, message) in [
        (directory.clone(), 0, 0, "is a directory"),
        (directory.join("missing.toml"), 0, 0, "No such file"),
        (link, 0, 0, "symbolic links"),
        (write("empty.toml", b""), 0, 0, "is empty"),
        (
            write("bom.toml", "\u{feff} \n".as_bytes()),
            0,
            0,
            "is empty",
        ),
        (
            write("latin1.toml", b"version = 1\n# gr\xfc\xdfe\n"),
            2,
            5,
            "is not UTF-8",
        ),
        (write("nul.toml", b"version = 1\n\0\n"), 2, 1, "invalid"),
        (write("large.toml", &large), 0, 0, "larger than 16 MiB"),
    ] {
        let errors = load(&path).unwrap_err();
        let problem = &errors.problems()[0];
        assert!(problem.message.contains(message), "{problem}");
        assert_eq!((problem.line, problem.column), (line, column), "{problem}");
        let report = errors.to_string();
        assert!(report.contains(&path.display().to_string()), "{report}");
        assert!(
            !report.contains('\0'),
            "control characters stay out of the report"
        );
    }
    let bom = write("good.toml", "\u{feff}version = 1\nworkers = 0\n".as_bytes());
    assert_eq!(load(&bom).unwrap_err().problems()[0].line, 2);
    let open = write("open.toml", b"version = 1\n");
    let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(&open, mode(0o666)).unwrap();
    let warning = &load(&open).unwrap().warnings[0];
    assert!(
        warning
            .to_string()
            .ends_with("change the configuration (`chmod o-w` it)"),
        "{warning}"
    );
    std::fs::set_permissions(&open, mode(0o644)).unwrap();
    assert_eq!(
        load(&open).unwrap().warnings.len(),
        1,
        "only that there are no services"
    );
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn errors_can_cross_threads_and_are_errors() {
    fn check<E: std::error::Error + Send + Sync + 'static>(_: &E) {}
    let errors = parse("x.toml", "version = 1\nworkers = 0").unwrap_err();
    check(&errors);
    let report = errors.to_string();
    for part in [
        "x.toml:2:11",
        "workers = 0",
        "no workers",
        "help:",
        "1 error",
    ] {
        assert!(report.contains(part), "{part} is not in\n{report}");
    }
    assert!(errors.render(true).contains('\u{1b}'));
    let json = serde_json::to_value(&errors.problems()[0]).unwrap();
    assert_eq!(json["key"], "workers");
    assert_eq!(json["column"], 11);
}
