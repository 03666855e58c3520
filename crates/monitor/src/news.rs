//! Words on their way to the supervisor: events, gates, names. Collected, and sent when the loop turns to them.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::SystemTime;

use evenkeel_control::Outbox;
use evenkeel_control::child::{Event, FromChild, GateReport, Resolved};
use evenkeel_plan::Address;
use evenkeel_scoreboard::{GlobalCount, Scoreboard};
use evenkeel_sys::clock::{monotonic_ms, unix_seconds};
use evenkeel_sys::packet;
use tokio::sync::Notify;

/// Most events that wait; the oldest go first.
const EVENTS_MAX: usize = 1_024;

/// Most of a kind in one message.
const BATCH_MAX: usize = 32;

/// Longest text that is passed on, in bytes.
pub(crate) const TEXT_BYTES_MAX: usize = 1_024;

const _: () = assert!(BATCH_MAX * (TEXT_BYTES_MAX + 512) < packet::MESSAGE_BYTES_MAX);

/// A supervisor that has not had a turn for this long is sent nothing, since nothing may pile up on the way to it.
const SUPERVISOR_LATE_MS: u64 = 5_000;

#[derive(Debug)]
pub(crate) struct News {
    board: Scoreboard,
    outbox: Outbox,
    waiting: RefCell<Waiting>,
    change: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<Event>,
    gates: BTreeMap<String, GateReport>,
    resolved: BTreeMap<Address, Vec<SocketAddr>>,
}

impl News {
    pub(crate) fn new(board: Scoreboard, outbox: Outbox) -> Self {
        Self {
            board,
            outbox,
            waiting: RefCell::default(),
            change: Notify::new(),
        }
    }

    pub(crate) fn event(&self, kind: &str, subject: &str, text: &str) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.events.len() == EVENTS_MAX {
            waiting.events.pop_front();
        }
        waiting.events.push_back(Event {
            at_ms: unix_ms(),
            kind: kind.to_owned(),
            subject: subject.to_owned(),
            text: shorten(text, TEXT_BYTES_MAX).to_owned(),
        });
        self.change.notify_one();
    }

    pub(crate) fn gate(&self, mut report: GateReport) {
        report
            .reason
            .truncate(shorten(&report.reason, TEXT_BYTES_MAX).len());
        let mut waiting = self.waiting.borrow_mut();
        waiting.gates.insert(report.service.clone(), report);
        self.change.notify_one();
    }

    pub(crate) fn resolved(&self, address: &Address, endpoints: &[SocketAddr]) {
        let mut waiting = self.waiting.borrow_mut();
        waiting.resolved.insert(address.clone(), endpoints.to_vec());
        self.change.notify_one();
    }

    /// There is something to be told that is kept elsewhere.
    pub(crate) fn changed(&self) {
        self.change.notify_one();
    }

    /// Waits until there is something to be told.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn some(&self) {
        self.change.notified().await;
    }

    /// Whether anything may be sent now.
    pub(crate) fn is_heard(&self) -> bool {
        let beat = self.board.get(GlobalCount::SupervisorBeat);
        beat == 0 || monotonic_ms().saturating_sub(beat) <= SUPERVISOR_LATE_MS
    }

    pub(crate) fn send(&self, message: FromChild) {
        self.outbox.send(message);
    }

    pub(crate) fn tell(&self) {
        if !self.is_heard() {
            return;
        }
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        for (address, endpoints) in waiting.resolved {
            self.send(FromChild::Resolved(Resolved { address, endpoints }));
        }
        let gates: Vec<_> = waiting.gates.into_values().collect();
        for gates in gates.chunks(BATCH_MAX) {
            let gates = gates.to_vec();
            self.send(FromChild::Gates { gates });
        }
        let events: Vec<_> = waiting.events.into();
        for events in events.chunks(BATCH_MAX) {
            let events = events.to_vec();
            self.send(FromChild::Events { events });
        }
    }
}

/// The beginning of `text`, at most `bytes` of it.
pub(crate) fn shorten(text: &str, bytes: usize) -> &str {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Milliseconds since 1970.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}

/// Unix seconds of a monotonic time that is over.
pub(crate) fn unix_of(then_ms: u64) -> u64 {
    let age_ms = monotonic_ms().saturating_sub(then_ms);
    unix_seconds().saturating_sub(age_ms / 1_000)
}

/// Unix milliseconds of a monotonic time, over or to come.
pub(crate) fn unix_ms_of(at_ms: u64) -> u64 {
    unix_ms()
        .saturating_add(at_ms)
        .saturating_sub(monotonic_ms())
}
