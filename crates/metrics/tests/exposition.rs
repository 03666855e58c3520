//! The exposition read back by a small parser of the text format, and the endpoint by a plain client.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::{BTreeMap, HashSet};
use std::io::{Read as _, Write as _};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_metrics::table::{Kind, TABLE};
use evenkeel_metrics::{Pages, scrape, serve};
use evenkeel_plan::{
    Address, BackendCell, BackendName, BackendSpec, ConnectSpec, Globals, ListenerCell,
    ListenerSpec, Plan, PolicySpec, Scheduler, Sealed, ServiceCell, ServiceName, ServiceRecord,
    ServiceSpec, SlotIdx,
};
use evenkeel_scoreboard::{
    BackendCount, Capacities, Gate, GateState, GlobalCount, HealthState, ListenerCount, Scoreboard,
    ServiceCount, SlotState, Verdict, WorkerCount,
};

const NOW_MS: u64 = 100_000;

fn record(name: &str, first: u32, backends: u32) -> Arc<Sealed> {
    let backend = |cell: u32| BackendSpec {
        name: BackendName::new(format!("b{cell}")).unwrap(),
        address: Address::Socket("127.0.0.1:1".parse().unwrap()),
        weight: 3,
        backup: false,
        check: None,
    };
    let listener = |address: &str| ListenerSpec {
        address: address.parse().unwrap(),
        freebind: false,
        backlog: 1,
    };
    Arc::new(Sealed::new(ServiceRecord {
        spec: ServiceSpec {
            name: ServiceName::new(name).unwrap(),
            listeners: vec![
                listener("[::1]:0"),
                listener("[::1]:0"),
                listener("0.0.0.0:80"),
            ],
            scheduler: Scheduler::Rr,
            pool: None,
            backends: (first..first + backends).map(backend).collect(),
            connect: ConnectSpec::default(),
            policy: PolicySpec::default(),
        },
        cell: ServiceCell(first),
        listener_cells: (first..first + 3).map(ListenerCell).collect(),
        backend_cells: (first..first + backends).map(BackendCell).collect(),
        endpoints: vec![Vec::new(); backends as usize],
        list_generation: 1,
    }))
}

fn board() -> Scoreboard {
    let capacities = Capacities {
        slots: 4,
        services: 8,
        listeners: 16,
        backends: 16,
    };
    let (board, _) = Scoreboard::create(capacities).unwrap();
    board.set(GlobalCount::SlotsUsed, 2);
    board
}

/// Values by series; fails on anything that a scraper would refuse.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let mut values = BTreeMap::new();
    let (mut helps, mut types) = (HashSet::new(), HashSet::new());
    let mut family = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let name = rest.split_once(' ').unwrap().0;
            assert!(helps.insert(name.to_owned()), "second help: {line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(types.insert(name.to_owned()), "second type: {line}");
            let metric = TABLE.iter().find(|metric| metric.name == name).unwrap();
            assert_eq!(kind == "counter", metric.kind == Kind::Counter);
            name.clone_into(&mut family);
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            assert_eq!(name, family, "outside its family");
            if let Some(labels) = series.strip_prefix(name).and_then(|l| l.strip_prefix('{')) {
                let labels = labels.strip_suffix('}').unwrap();
                for label in labels.split("\",") {
                    let (_, value) = label.split_once("=\"").unwrap();
                    assert!(!value.trim_end_matches('"').contains(['"', '\n']));
                }
            }
            let value = value.parse().unwrap();
            let before = values.insert(series.to_owned(), value);
            assert_eq!(before, None, "twice: {series}");
        }
    }
    assert_eq!(helps, types);
    values
}

#[test]
fn every_metric_of_the_table_appears_and_the_text_parses() {
    let plan = Plan::new(1, Globals::default(), [record("web", 0, 2)]);
    let text = scrape(&board(), &plan, NOW_MS);
    let values = parse(&text);
    for metric in TABLE {
        assert!(
            values
                .keys()
                .any(|series| series.split('{').next() == Some(metric.name)),
            "{}",
            metric.name
        );
    }
    assert_eq!(text, scrape(&board(), &plan, NOW_MS), "the order is fixed");
}

#[test]
fn values_come_from_all_rows_and_states_are_one_of_many() {
    let board = board();
    let plan = Plan::new(1, Globals::default(), [record("web", 0, 2)]);
    for (slot, parity, value) in [(0, 0, 1), (0, 1, 2), (1, 0, 4)] {
        let row = board.row(SlotIdx(slot), parity);
        row.service(ServiceCell(0))
            .set(ServiceCount::Accepted, value);
        row.service(ServiceCell(0))
            .set(ServiceCount::ConnectFailed, value);
        row.backend(BackendCell(1))
            .set(BackendCount::BytesSent, value);
        row.worker().set(WorkerCount::Accepted, value);
        for cell in 0..3 {
            row.listener(ListenerCell(cell))
                .set(ListenerCount::Accepted, value);
        }
    }
    board.slot(SlotIdx(1)).set_state(SlotState::Late);
    board.slot(SlotIdx(1)).beat(NOW_MS - 2_500);
    board.backend(BackendCell(0)).set_verdict(Verdict {
        state: HealthState::Down,
        since_ms: NOW_MS - 1_000,
    });
    board.backend(BackendCell(0)).count_check(false, 1_500);
    let values = parse(&scrape(&board, &plan, NOW_MS));
    for (series, expected) in [
        ("evenkeel_service_connections_total{service=\"web\"}", 7.0),
        (
            "evenkeel_service_failures_total{service=\"web\",reason=\"connect\"}",
            7.0,
        ),
        (
            "evenkeel_backend_bytes_in_total{service=\"web\",backend=\"b1\"}",
            7.0,
        ),
        ("evenkeel_worker_accepted_total{slot=\"0\"}", 3.0),
        ("evenkeel_worker_accepted_total{slot=\"1\"}", 4.0),
        ("evenkeel_worker_state{slot=\"1\",state=\"late\"}", 1.0),
        ("evenkeel_worker_state{slot=\"1\",state=\"live\"}", 0.0),
        ("evenkeel_worker_heartbeat_age_seconds{slot=\"1\"}", 2.5),
        ("evenkeel_worker_heartbeat_age_seconds{slot=\"0\"}", 0.0),
        (
            "evenkeel_listener_accepted_total{service=\"web\",address=\"[::1]:0\"}",
            14.0,
        ),
        (
            "evenkeel_backend_state{service=\"web\",backend=\"b0\",state=\"down\"}",
            1.0,
        ),
        (
            "evenkeel_backend_state{service=\"web\",backend=\"b0\",state=\"up\"}",
            0.0,
        ),
        (
            "evenkeel_backend_last_change_seconds{service=\"web\",backend=\"b0\"}",
            1.0,
        ),
        (
            "evenkeel_backend_check_duration_seconds{service=\"web\",backend=\"b0\"}",
            0.0015,
        ),
        (
            "evenkeel_backend_check_failures_total{service=\"web\",backend=\"b0\"}",
            1.0,
        ),
        ("evenkeel_service_eligible_backends{service=\"web\"}", 1.0),
        ("evenkeel_last_reload_success", 1.0),
    ] {
        assert_eq!(values.get(series), Some(&expected), "{series}");
    }
}

#[test]
fn the_gate_and_the_states_of_backends_say_who_is_used() {
    let board = board();
    let plan = Plan::new(1, Globals::default(), [record("web", 0, 3)]);
    let cells = board.service(ServiceCell(0));
    let verdict = |cell, state| {
        let since_ms = NOW_MS - 1_000;
        let cells = board.backend(BackendCell(cell));
        cells.set_verdict(Verdict { state, since_ms });
    };
    verdict(0, HealthState::Up);
    verdict(1, HealthState::Drain);
    verdict(2, HealthState::Maint);
    for (state, eligible) in [
        (GateState::Open, 1.0),
        (GateState::Closed, 0.0),
        (GateState::Panic, 3.0),
    ] {
        let since_ms = NOW_MS - 2_000;
        cells.set_gate(Gate { state, since_ms });
        cells.count_gate_change();
        let values = parse(&scrape(&board, &plan, NOW_MS));
        for other in GateState::ALL {
            let other_word = other.as_str();
            let series = format!("evenkeel_service_gate{{service=\"web\",state=\"{other_word}\"}}");
            let is = if other == state { 1.0 } else { 0.0 };
            assert_eq!(values[&series], is, "{series}");
        }
        let of_web = |name: &str| values[&format!("{name}{{service=\"web\"}}")];
        assert_eq!(of_web("evenkeel_service_eligible_backends"), eligible);
        assert_eq!(of_web("evenkeel_service_gate_last_change_seconds"), 2.0);
    }
    let values = parse(&scrape(&board, &plan, NOW_MS));
    for series in [
        "evenkeel_service_gate_changes_total{service=\"web\"}",
        "evenkeel_backend_state{service=\"web\",backend=\"b1\",state=\"drain\"}",
        "evenkeel_backend_state{service=\"web\",backend=\"b2\",state=\"maint\"}",
    ] {
        assert!(values[series] >= 1.0, "{series}");
    }
}

#[test]
fn totals_rise_and_what_the_plan_no_longer_names_is_gone() {
    let board = board();
    let both = [record("web", 0, 2), record("old", 4, 1)];
    let plan = Plan::new(1, Globals::default(), both);
    let row = board.row(SlotIdx(0), 0);
    row.service(ServiceCell(0)).add(ServiceCount::Accepted, 5);
    let first = parse(&scrape(&board, &plan, NOW_MS));
    row.service(ServiceCell(0)).add(ServiceCount::Accepted, 1);
    let plan = Plan::new(2, Globals::default(), [record("web", 0, 2)]);
    let second = parse(&scrape(&board, &plan, NOW_MS));
    assert!(first.keys().any(|series| series.contains("\"old\"")));
    assert!(!second.keys().any(|series| series.contains("\"old\"")));
    for (series, value) in &second {
        if series.split('{').next().unwrap().ends_with("_total") {
            assert!(value >= first.get(series).unwrap_or(&0.0), "{series}");
        }
    }
}

/// Sends `request` and reads until the other side closes.
fn ask(address: std::net::SocketAddr, request: &str) -> String {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_endpoint_answers_and_ends_connections_in_order() {
    let listener = evenkeel_sys::listen::bind(
        "127.0.0.1:0".parse().unwrap(),
        evenkeel_sys::listen::Options::default(),
    )
    .unwrap();
    evenkeel_sys::listen::listen(std::os::fd::AsFd::as_fd(&listener), 16).unwrap();
    let listener = std::net::TcpListener::from(listener);
    let address = listener.local_addr().unwrap();
    let client = std::thread::spawn(move || {
        let get = |path: &str| ask(address, &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"));
        let metrics = get("/metrics");
        assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
        assert!(metrics.contains("text/plain; version=0.0.4"), "{metrics}");
        // Larger than any socket buffer that is sent with a reset behind it.
        assert!(metrics.ends_with("the end"), "cut");
        assert!(get("/").starts_with("HTTP/1.1 200"));
        assert!(get("/live").starts_with("HTTP/1.1 200"));
        assert!(get("/ready").starts_with("HTTP/1.1 503"));
        assert!(get("/other").starts_with("HTTP/1.1 404"));
        let post = ask(address, "POST /metrics HTTP/1.1\r\nhost: x\r\n\r\n");
        assert!(post.starts_with("HTTP/1.1 405"));
        assert!(ask(address, "nonsense\r\n\r\n").starts_with("HTTP/1.1 400"));
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let pages = Pages::new(|| format!("{}the end", "x".repeat(1 << 20)), || false);
    let served = async {
        let serving = tokio::task::spawn_local(serve(listener, Rc::new(pages)));
        tokio::task::spawn_blocking(move || client.join())
            .await
            .unwrap()
            .unwrap();
        serving.abort();
    };
    tokio::task::LocalSet::new().block_on(&runtime, served);
}
