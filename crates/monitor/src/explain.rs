//! Why a backend is in its state: everything that is known of it, for whoever asks.

use evenkeel_control::child::{CheckRecord, Explanation, FromChild};
use evenkeel_health::Record;
use evenkeel_plan::{BackendCell, PolicySpec, Require};
use evenkeel_sys::clock::monotonic_ms;
use evenkeel_sys::packet;

use crate::news::{TEXT_BYTES_MAX, shorten, unix_ms_of};
use crate::run::Monitor;

/// Longest text of what was sent or received, in bytes.
const QUOTE_BYTES_MAX: usize = 512;

const _: () = assert!(
    evenkeel_health::RECORDS_MAX * (2 * QUOTE_BYTES_MAX + 64) + 8 * TEXT_BYTES_MAX
        < packet::MESSAGE_BYTES_MAX
);

impl Monitor {
    pub(crate) fn explain(&self, ticket: u64, backend: BackendCell) {
        let explanation = self.explanation(backend).map(Box::new);
        self.link.send(FromChild::Explained {
            ticket,
            explanation,
        });
    }

    fn explanation(&self, cell: BackendCell) -> Option<Explanation> {
        let plan = &self.plan;
        let (sealed, index) = plan.services().find_map(|sealed| {
            let mut cells = sealed.record().backend_cells.iter();
            Some((sealed, cells.position(|other| *other == cell)?))
        })?;
        let record = sealed.record();
        let spec = &record.spec.backends[index];
        let identity = record.identity(&spec.name);
        let mut checks: Vec<_> = self.checker.history(cell, &identity);
        checks.reverse();
        let gate = self.verdicts.gates.report(record.name().as_str());
        let mut policy = policy_words(&record.spec.policy);
        if let Some(gate) = gate {
            policy = format!("{policy}; {}: {}", gate.state, gate.reason);
        }
        let short = |text: String| shorten(&text, TEXT_BYTES_MAX).to_owned();
        let described = self.checker.describe(cell, &identity);
        let next_ms = self.checker.next_check_ms(cell, &identity);
        Some(Explanation {
            check: short(described.unwrap_or_else(|| "it has no checks".to_owned())),
            checks: checks.into_iter().map(check_record).collect(),
            next_ms: next_ms.map_or(0, unix_ms_of),
            passive: short(self.traffic.words(cell, monotonic_ms())),
            dns: short(self.resolver.words(&spec.address)),
            policy: short(policy),
            identity,
        })
    }
}

fn check_record(record: Record) -> CheckRecord {
    // Where nothing came back the answer says what happened instead.
    let received = match record.received.as_ref() {
        "" => &record.answer,
        received => received,
    };
    CheckRecord {
        at_ms: unix_ms_of(record.at_ms),
        result: record.result.as_str().to_owned(),
        sent: shorten(&record.sent, QUOTE_BYTES_MAX).to_owned(),
        received: shorten(received, QUOTE_BYTES_MAX).to_owned(),
        duration_us: record.duration_us,
    }
}

fn policy_words(policy: &PolicySpec) -> String {
    let mut words = match policy.require {
        Require::Any => "no number of healthy backends is required".to_owned(),
        Require::All => "all backends must be healthy".to_owned(),
        Require::Count(count) => format!("{count} backends must be healthy"),
        Require::Share(percent) => format!("{percent} % of the backends must be healthy"),
    };
    if let Some(percent) = policy.panic {
        words.push_str(&format!(
            ", with fewer than {percent} % healthy all enabled ones are used"
        ));
    }
    if let Some(sorry) = &policy.sorry {
        words.push_str(&format!(", else {sorry} takes the connections"));
    }
    words
}
