//! The exposition, read back.

use std::collections::BTreeMap;
use std::sync::Arc;

use evenkeel_metrics::scrape;
use evenkeel_metrics::table::TABLE;
use evenkeel_plan::{BackendCell, Globals, ListenerCell, Plan, Sealed, ServiceCell, SlotIdx};
use evenkeel_scoreboard::{
    BackendCount, Gate, GateState, HealthState, LATENCY_BUCKETS, ListenerCount, ServiceCount,
    SlotState, Verdict, WorkerCount,
};

use crate::rig::{NOW_MS, board, full, parse, record};

#[test]
fn every_metric_of_the_table_appears_and_the_text_parses() {
    let (board, plan) = full();
    let text = scrape(&board, &plan, NOW_MS);
    let values = parse(&text);
    for metric in TABLE {
        let header = format!("# TYPE {} ", metric.name);
        assert_eq!(text.matches(&header).count(), 1, "{}", metric.name);
    }
    assert_eq!(text, scrape(&board, &plan, NOW_MS), "the order is fixed");
    let others = evenkeel_testkit::Metrics::parse(&text).unwrap();
    assert_eq!(others.series, values);
    let failures = |labels| others.value("evenkeel_service_failures_total", labels);
    assert!(failures(&[("service", "web"), ("reason", "queue_full")]) > Some(0.0));
}

#[test]
fn buckets_rise_to_the_count() {
    let (board, plan) = full();
    let text = scrape(&board, &plan, NOW_MS);
    let values = parse(&text);
    for name in ["connect", "first_byte", "duration"] {
        let name = format!("evenkeel_service_{name}_seconds");
        for service in ["web", "old"] {
            let series = format!("{name}_bucket{{service=\"{service}\",le=\"");
            // In the order of the page.
            let buckets: Vec<_> = text
                .lines()
                .filter_map(|line| line.strip_prefix(&series)?.split_once("\"} "))
                .map(|(bound, value)| {
                    (bound.parse::<f64>().unwrap(), value.parse::<u64>().unwrap())
                })
                .collect();
            assert_eq!(buckets.len(), LATENCY_BUCKETS, "{series}");
            for pair in buckets.windows(2) {
                let [(bound, count), (next_bound, next)] = pair else {
                    continue;
                };
                assert!(bound < next_bound && count <= next, "{series} {pair:?}");
            }
            let (bound, all) = buckets[LATENCY_BUCKETS - 1];
            let of = |part| values[&format!("{name}_{part}{{service=\"{service}\"}}")];
            assert!(bound.is_infinite());
            let observed = if service == "web" { 40.0 } else { 0.0 };
            assert_eq!((all as f64, of("count")), (observed, observed));
            assert_eq!(of("sum") > 4_000.0, service == "web");
        }
    }
}

#[test]
fn limits_appear_only_where_one_is_set() {
    let (board, plan) = full();
    let limit = |cell, limit| board.backend(BackendCell(cell)).set_agent_limit(limit);
    limit(0, Some(60));
    limit(1, Some(7));
    let of = |values: &BTreeMap<String, f64>, backend: &str| {
        let labels = format!("{{service=\"web\",backend=\"{backend}\"}}");
        let series = format!("evenkeel_backend_max_connections{labels}");
        values.get(&series).copied()
    };
    let values = parse(&scrape(&board, &plan, NOW_MS));
    assert_eq!(
        ["b0", "b1", "b2"].map(|b| of(&values, b)),
        [Some(50.0), Some(7.0), None]
    );
    limit(0, Some(0));
    let values = parse(&scrape(&board, &plan, NOW_MS));
    assert_eq!(of(&values, "b0"), Some(0.0));
    // Two listeners of one address count as one, with room for both.
    for (series, limit) in [
        ("{service=\"web\",address=\"[::1]:0\"}", Some(&200.0)),
        ("{service=\"web\",address=\"0.0.0.0:80\"}", Some(&100.0)),
        ("{service=\"old\",address=\"0.0.0.0:80\"}", None),
    ] {
        let series = format!("evenkeel_listener_max_connections{series}");
        assert_eq!(values.get(&series), limit, "{series}");
    }
}

#[test]
fn one_listener_without_a_limit_leaves_its_address_without_one() {
    for unlimited in [0, 1] {
        let mut web = record("web", 0, 1).record().clone();
        web.spec.listeners[1 - unlimited].admission.max_connections = Some(100);
        let plan = Plan::new(1, Globals::default(), [Arc::new(Sealed::new(web))]);
        let text = scrape(&board(), &plan, NOW_MS);
        assert!(
            !text.contains("evenkeel_listener_max_connections"),
            "{text}"
        );
    }
}

#[test]
fn imbalance_is_of_live_workers() {
    let board = board();
    let plan = Plan::empty();
    for (slot, state, active) in [(0, SlotState::Live, 6), (1, SlotState::Live, 2)] {
        board.slot(SlotIdx(slot)).set_state(state);
        let row = board.row(SlotIdx(slot), 0);
        row.worker().set(WorkerCount::Active, active);
    }
    let ratio = || parse(&scrape(&board, &plan, NOW_MS))["evenkeel_worker_imbalance_ratio"];
    assert_eq!(ratio(), 1.5);
    board.slot(SlotIdx(1)).set_state(SlotState::Retiring);
    assert_eq!(ratio(), 1.0);
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
fn only_services_that_speak_http_have_series_of_it() {
    let board = board();
    let mut api = record("api", 4, 2).record().clone();
    api.spec.http = Some(Arc::default());
    // By routes to others only.
    let mut door = record("door", 8, 0).record().clone();
    door.spec.http = Some(Arc::default());
    let records = [
        record("tcp", 0, 1),
        Arc::new(Sealed::new(api)),
        Arc::new(Sealed::new(door)),
    ];
    let plan = Plan::new(1, Globals::default(), records);
    for (slot, value) in [(0, 1), (1, 4)] {
        let row = board.row(SlotIdx(slot), 0);
        for cell in [0, 4] {
            let service = row.service(ServiceCell(cell));
            service.set(ServiceCount::Requests, value);
            service.set(ServiceCount::Answers5xx, 2 * value);
            service.set(ServiceCount::RequestBackendTimeout, 3 * value);
        }
        row.backend(BackendCell(5)).set(BackendCount::Idle, value);
        row.backend(BackendCell(5))
            .set(BackendCount::Answers5xx, 2 * value);
    }
    let values = parse(&scrape(&board, &plan, NOW_MS));
    for (series, expected) in [
        ("evenkeel_http_requests_total{service=\"api\"}", 5.0),
        ("evenkeel_http_requests_total{service=\"door\"}", 0.0),
        (
            "evenkeel_http_responses_total{service=\"api\",class=\"5xx\"}",
            10.0,
        ),
        (
            "evenkeel_http_responses_total{service=\"api\",class=\"2xx\"}",
            0.0,
        ),
        (
            "evenkeel_http_request_failures_total{service=\"api\",reason=\"backend_timeout\"}",
            15.0,
        ),
        (
            "evenkeel_backend_http_idle_connections{service=\"api\",backend=\"b5\"}",
            5.0,
        ),
        (
            "evenkeel_backend_http_5xx_total{service=\"api\",backend=\"b5\"}",
            10.0,
        ),
    ] {
        assert_eq!(values.get(series), Some(&expected), "{series}");
    }
    let of_http = |series: &&String| series.contains("_http_");
    let mut others = values.keys().filter(of_http);
    assert!(others.all(|series| !series.contains("\"tcp\"")));
    // A service without backends is not one whose backends are all gone, which somebody is called for.
    let eligible = |service| format!("evenkeel_service_eligible_backends{{service=\"{service}\"}}");
    assert!(values.contains_key(&eligible("api")));
    assert!(!values.contains_key(&eligible("door")));
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

#[test]
fn an_agents_share_and_an_unknown_address_count() {
    let board = board();
    let record = record("s", 0, 2);
    let mut unresolved = record.record().clone();
    unresolved.endpoints[1] = Vec::new();
    let plan = Plan::new(1, Globals::default(), [Arc::new(Sealed::new(unresolved))]);
    for cell in [0, 1] {
        let state = HealthState::Up;
        let cells = board.backend(BackendCell(cell));
        cells.set_verdict(Verdict { state, since_ms: 1 });
    }
    let cells = board.backend(BackendCell(0));
    for (percent, weight, eligible) in [(None, 3.0, 1.0), (Some(50), 1.5, 1.0), (Some(0), 0.0, 0.0)]
    {
        cells.set_agent_percent(percent);
        let values = parse(&scrape(&board, &plan, NOW_MS));
        let shown = values["evenkeel_backend_weight{service=\"s\",backend=\"b0\"}"];
        assert_eq!(shown, weight);
        assert_eq!(
            values["evenkeel_service_eligible_backends{service=\"s\"}"],
            eligible
        );
    }
}
