//! What workers count, and what agents ask for, as far as limits and clients' addresses go.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use evenkeel_control::child::{Descriptor, FromChild, OrphanRule, ToChild};
use evenkeel_plan::{BackendCell, CheckKind, CheckSpec, Sealed, SlotIdx, SourceSpec};
use evenkeel_scoreboard::{BackendCount, GlobalCount, HealthState, ServiceCount};
use evenkeel_sys::doorbell;

use crate::double::{Supervisor, board, check, check_of, eventually, plan, quiet, run, service};
use crate::{listener, start};

/// The same service, whose backends see clients' addresses.
fn transparent(service: &Arc<Sealed>) -> Arc<Sealed> {
    let mut record = service.record().clone();
    record.spec.connect.source = SourceSpec::Client;
    Arc::new(Sealed::new(record))
}

#[test]
fn clients_addresses_without_an_answer_are_put_down_to_the_way_back() {
    run(async {
        let (_server, alive) = listener();
        let (board, fd) = board();
        board.set(GlobalCount::SlotsUsed, 1);
        let mut supervisor = Supervisor::start((board, fd), OrphanRule::Drain, Vec::new()).await;
        let check = CheckSpec {
            interval: Duration::from_secs(60),
            fast_interval: Duration::from_millis(50),
            timeout: Duration::from_secs(1),
            ..check_of(CheckKind::Tcp)
        };
        let backends = [("b1", 1, alive, Some(check)), ("b2", 2, alive, None)];
        let web = service("web", 0, &backends);
        let first = plan(1, quiet(), [transparent(&web)]);
        supervisor.switch(first, Vec::new()).await;
        supervisor.report(1, |report| report.state == "up").await;
        let row = |cell| board.row(SlotIdx(0), 0).backend(BackendCell(cell));
        let unanswered = |cell| {
            row(cell).add(BackendCount::ConnectTimeouts, 1);
            row(cell).add(BackendCount::ConnectFailures, 1);
        };
        let checks = supervisor.checks(1);
        eventually("it is checked, and passes", || {
            unanswered(1);
            supervisor.checks(1) > checks + 2
        })
        .await;
        assert_eq!(supervisor.state(1), HealthState::Up);
        let hint = "while checks from this host's own address pass";
        let report = supervisor
            .report(1, |report| report.reason.contains(hint))
            .await;
        assert_eq!(report.state, "up");
        let said = |kept: &Supervisor, words: &str| {
            let about = |subject: &str| subject == "web/b1";
            let mut events = kept.events.iter();
            events.any(|event| about(&event.subject) && event.text.contains(words))
        };
        supervisor.until("an event", |kept| said(kept, hint)).await;
        let explain = ToChild::Explain {
            ticket: 1,
            backend: BackendCell(1),
        };
        supervisor.send(explain).await;
        let answered = |message: &FromChild| matches!(message, FromChild::Explained { .. });
        let FromChild::Explained {
            explanation: Some(explanation),
            ..
        } = supervisor.wait(answered).await
        else {
            unreachable!("it is known");
        };
        assert!(explanation.passive.contains("without an answer"));
        assert!(explanation.passive.contains(hint), "{explanation:?}");
        row(1).add(BackendCount::Connections, 1);
        let over = "connects are answered again";
        supervisor
            .until("that it is over", |kept| said(kept, over))
            .await;
        let explain = ToChild::Explain {
            ticket: 2,
            backend: BackendCell(1),
        };
        supervisor.send(explain).await;
        let FromChild::Explained {
            explanation: Some(explanation),
            ..
        } = supervisor.wait(answered).await
        else {
            unreachable!("it is known");
        };
        let passive = &explanation.passive;
        assert!(
            passive.contains("; connections are made again"),
            "{passive}"
        );

        eventually("the one without checks is left out", || {
            unanswered(2);
            supervisor.state(2) == HealthState::Down
        })
        .await;
        let down = supervisor.report(2, |report| report.state == "down").await;
        assert!(!down.reason.contains(hint), "{}", down.reason);
        let route = "does the backend send its answers to clients through this host?";
        assert!(down.reason.contains(route), "{}", down.reason);
    });
}

#[test]
fn a_limit_that_begins_to_bite_is_told_once_and_what_was_refused_before_is_not() {
    run(async {
        let (_server, alive) = listener();
        let (board, fd) = board();
        board.set(GlobalCount::SlotsUsed, 1);
        let mut supervisor = Supervisor::start((board, fd), OrphanRule::Drain, Vec::new()).await;
        let web = service("web", 0, &[("b1", 1, alive, Some(check()))]);
        let cell = web.record().cell;
        let row = board.row(SlotIdx(0), 0).service(cell);
        row.add(ServiceCount::Denied, 5);
        supervisor.switch(plan(1, quiet(), [web]), Vec::new()).await;
        let limits = |kept: &Supervisor| -> Vec<String> {
            let events = kept.events.iter().filter(|event| event.kind == "limit");
            events
                .map(|event| format!("{}: {}", event.subject, event.text))
                .collect()
        };
        // Counting has started with the plan, not with the first look.
        row.add(ServiceCount::SourceRateLimited, 1);
        supervisor
            .until("that a limit bites", |kept| !limits(kept).is_empty())
            .await;
        assert_eq!(
            limits(&supervisor),
            ["web: connections are refused by source_rate"]
        );
    });
}

#[test]
fn from_this_hosts_own_address_no_answer_says_nothing_of_routes() {
    run(async {
        let (_server, alive) = listener();
        let (board, fd) = board();
        board.set(GlobalCount::SlotsUsed, 1);
        let mut supervisor = Supervisor::start((board, fd), OrphanRule::Drain, Vec::new()).await;
        let web = service("web", 0, &[("b1", 1, alive, None)]);
        supervisor.switch(plan(1, quiet(), [web]), Vec::new()).await;
        eventually("it is left out", || {
            let row = board.row(SlotIdx(0), 0).backend(BackendCell(1));
            row.add(BackendCount::ConnectTimeouts, 1);
            row.add(BackendCount::ConnectFailures, 1);
            supervisor.state(1) == HealthState::Down
        })
        .await;
        let down = supervisor.report(1, |report| report.state == "down").await;
        assert!(down.reason.contains("without an answer"), "{}", down.reason);
        assert!(
            !down.reason.contains("through this host"),
            "{}",
            down.reason
        );
    });
}

/// An agent that says each line until the next is asked for.
fn agent(lines: &'static [&'static str]) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let now = Arc::new(AtomicUsize::new(0));
    let line = Arc::clone(&now);
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let line = lines[line.load(Ordering::Relaxed)];
            // It may have had enough of waiting.
            drop(stream.unwrap().write_all(line.as_bytes()));
        }
    });
    (address, now)
}

#[test]
fn an_agents_limit_holds_while_it_says_so_and_those_who_wait_are_told() {
    run(async {
        let (address, line) = agent(&[
            "up maxconn:20\n",
            "down maxconn:7\n",
            "drain maxconn:30\n",
            "up maxconn:0\n",
            "up maxconn:9\n",
            "up 50%\n",
            "up maxconn:3\n",
        ]);
        let check = CheckSpec {
            timeout: Duration::from_millis(500),
            ..check_of(CheckKind::Agent { send: None })
        };
        let mut supervisor = start().await;
        let bell = doorbell::new().unwrap();
        let copy = bell.try_clone().unwrap();
        let slot = SlotIdx(0);
        supervisor
            .send_descriptors(vec![(Descriptor::Doorbell { slot }, copy)])
            .await;
        let asked = [("b1", 1, address, Some(check))];
        let first = plan(1, quiet(), [service("web", 0, &asked)]);
        supervisor.switch(first, Vec::new()).await;
        let cells = supervisor.board.backend(BackendCell(1));
        // A line that is a failure changes nothing.
        let limits = [Some(20), Some(20), Some(30), None, Some(9), None, Some(3)];
        for (index, limit) in limits.into_iter().enumerate() {
            line.store(index, Ordering::Relaxed);
            let checks = cells.checks();
            eventually("two checks", || cells.checks() > checks + 1).await;
            let what = format!("line {index}");
            eventually(&what, || cells.agent_limit() == limit).await;
        }
        eventually("it rang", || doorbell::answer(bell.as_fd()).unwrap()).await;
        let unasked = [("b1", 1, address, None)];
        let next = plan(2, quiet(), [service("web", 0, &unasked)]);
        supervisor.switch(next, Vec::new()).await;
        eventually("no check, no limit", || cells.agent_limit().is_none()).await;
    });
}
