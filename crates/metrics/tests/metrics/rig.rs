//! Boards with something on them, and a strict reader of the text format.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use evenkeel_metrics::table::{Kind, Metric, TABLE};
use evenkeel_plan::{
    Address, BackendCell, BackendName, BackendSpec, Globals, ListenerCell, ListenerSpec, Plan,
    Sealed, ServiceCell, ServiceName, ServiceRecord, ServiceSpec, SlotIdx,
};
use evenkeel_scoreboard::{
    BackendCount, Capacities, GlobalCount, HealthState, LATENCY_BOUNDS_US, Latency, ListenerCount,
    Scoreboard, ServiceCount, SlotState, Verdict, WorkerCount,
};

pub(crate) const NOW_MS: u64 = 100_000;

pub(crate) fn record(name: &str, first: u32, backends: u32) -> Arc<Sealed> {
    let backend = |cell: u32| BackendSpec {
        weight: 3,
        ..BackendSpec::at(
            BackendName::new(format!("b{cell}")).unwrap(),
            Address::Socket("127.0.0.1:1".parse().unwrap()),
        )
    };
    let listener = |address: &str| ListenerSpec::at(address.parse().unwrap());
    Arc::new(Sealed::new(ServiceRecord {
        spec: ServiceSpec::new(
            ServiceName::new(name).unwrap(),
            vec![
                listener("[::1]:0"),
                listener("[::1]:0"),
                listener("0.0.0.0:80"),
            ],
            (first..first + backends).map(backend).collect(),
        ),
        cell: ServiceCell(first),
        listener_cells: (first..first + 3).map(ListenerCell).collect(),
        backend_cells: (first..first + backends).map(BackendCell).collect(),
        endpoints: vec![vec!["127.0.0.1:1".parse().unwrap()]; backends as usize],
        list_generation: 1,
    }))
}

pub(crate) fn board() -> Scoreboard {
    let capacities = Capacities {
        slots: 4,
        services: 16,
        listeners: 16,
        backends: 16,
        sources: 4,
    };
    let (board, _) = Scoreboard::create(capacities).unwrap();
    board.set(GlobalCount::SlotsUsed, 2);
    board
}

/// Values by series; fails on anything that a scraper would refuse, on families out of order, and on labels other than the
/// table's.
pub(crate) fn parse(text: &str) -> BTreeMap<String, f64> {
    let mut values = BTreeMap::new();
    let mut family: Option<Metric> = None;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            let metric = *TABLE.iter().find(|metric| metric.name == name).unwrap();
            assert_eq!(help, metric.help);
            let kind = metric.kind.as_str();
            assert_eq!(lines.next().unwrap(), format!("# TYPE {name} {kind}"));
            let before = family.map_or("", |family| family.name);
            assert!(before < name, "{name} after {before}");
            family = Some(metric);
            continue;
        }
        let metric = family.unwrap();
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let part = name.strip_prefix(metric.name).unwrap();
        let is_histogram = metric.kind == Kind::Histogram;
        assert!(part.is_empty() || is_histogram, "{line}");
        let labels = labels.strip_suffix('}').unwrap();
        let mut names: Vec<_> = Vec::new();
        for label in labels.split_terminator("\",") {
            let (name, value) = label.split_once("=\"").unwrap();
            assert!(!value.trim_end_matches('"').contains(['"', '\n']));
            names.push(name);
        }
        if part == "_bucket" {
            assert_eq!(names.pop(), Some("le"));
        }
        assert_eq!(names, metric.labels, "{line}");
        let before = values.insert(series.to_owned(), value.parse().unwrap());
        assert_eq!(before, None, "twice: {series}");
    }
    values
}

/// Every cell that a scrape shows has a value of its own, every limit is set, and there is every kind of state.
pub(crate) fn full() -> (Scoreboard, Plan) {
    let board = board();
    let mut web = record("web", 0, 6).record().clone();
    web.spec.http = Some(Arc::default());
    web.spec.backends[0].max_connections = Some(50);
    for listener in &mut web.spec.listeners {
        listener.admission.max_connections = Some(100);
    }
    let next = Cell::new(0);
    let value = || {
        next.set(next.get() + 1);
        next.get()
    };
    for slot in 0..2 {
        let row = board.row(SlotIdx(slot), 0);
        let worker = row.worker();
        WorkerCount::ALL
            .iter()
            .for_each(|&c| worker.set(c, value()));
        let service = row.service(ServiceCell(0));
        ServiceCount::ALL
            .iter()
            .for_each(|&c| service.set(c, value()));
        for cell in 0..3 {
            let listener = row.listener(ListenerCell(cell));
            ListenerCount::ALL
                .iter()
                .for_each(|&c| listener.set(c, value()));
        }
        for (cell, state) in (0..).zip(HealthState::ALL) {
            let backend = row.backend(BackendCell(cell));
            BackendCount::ALL
                .iter()
                .for_each(|&c| backend.set(c, value()));
            let since_ms = NOW_MS - value();
            let cells = board.backend(BackendCell(cell));
            cells.set_verdict(Verdict { state, since_ms });
            cells.count_check(false, value());
            cells.count_transition();
        }
        for latency in Latency::ALL {
            let row = row.latencies(ServiceCell(0));
            LATENCY_BOUNDS_US
                .iter()
                .for_each(|us| row.observe(latency, us + value()));
        }
        board.slot(SlotIdx(slot)).set_state(SlotState::Live);
        board.slot(SlotIdx(slot)).beat(NOW_MS - value());
    }
    let records = [Arc::new(Sealed::new(web)), record("old", 8, 1)];
    (board, Plan::new(1, Globals::default(), records))
}
