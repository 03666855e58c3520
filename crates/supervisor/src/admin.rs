//! What operators have said of backends, by identity: it outlives reloads, children and this process.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_control::operator::{AdminStatus, Answer, BackendAction};
use evenkeel_plan::{BackendCell, Plan, ServiceRecord};
use evenkeel_scoreboard::{Admin, AdminState, GateState, Scoreboard};
use evenkeel_sys::clock::unix_seconds;
use serde::{Deserialize, Serialize};

use crate::perform::Supervisor;
use crate::words::ago;

/// What was said of a backend that is gone from the configuration is remembered for this long.
const GONE_SECONDS: u64 = 24 * 3_600;

/// Names that are suggested.
const SUGGESTIONS_MAX: usize = 3;

/// Longest name that others are compared with: two names and a slash.
const NAME_BYTES_MAX: usize = 2 * evenkeel_plan::NAME_BYTES_MAX + 1;

/// By `service/backend`.
pub(crate) type Admins = BTreeMap<String, Entry>;

/// What was last said of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) state: Word,
    pub(crate) weight: Option<u16>,
    /// User and process.
    pub(crate) by: String,
    pub(crate) at_unix: u64,
    /// Since when it is gone from the configuration.
    pub(crate) gone_unix: Option<u64>,
}

/// [`AdminState`] as it is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Word {
    Enabled,
    Drain,
    Disabled,
}

impl Entry {
    /// What goes into the cell.
    fn admin(&self) -> Admin {
        Admin {
            state: match self.state {
                Word::Enabled => AdminState::Enabled,
                Word::Drain => AdminState::Drain,
                Word::Disabled => AdminState::Disabled,
            },
            weight: self.weight,
        }
    }

    /// As `status` shows it.
    pub(crate) fn status(&self) -> AdminStatus {
        AdminStatus {
            state: match self.state {
                Word::Enabled => "enabled",
                Word::Drain => "drain",
                Word::Disabled => "disabled",
            }
            .to_owned(),
            weight: self.weight,
            by: self.by.clone(),
            at_unix: self.at_unix,
        }
    }

    fn is_default(&self) -> bool {
        self.state == Word::Enabled && self.weight.is_none()
    }

    /// `drained, weight 5`.
    fn words(&self) -> String {
        let state = match self.state {
            Word::Enabled => "enabled",
            Word::Drain => "drained",
            Word::Disabled => "disabled",
        };
        match self.weight {
            Some(weight) => format!("{state}, weight {weight}"),
            None => state.to_owned(),
        }
    }

    fn take(&mut self, action: BackendAction, by: &str) {
        match action {
            BackendAction::Drain => self.state = Word::Drain,
            BackendAction::Disable => self.state = Word::Disabled,
            BackendAction::Enable => self.state = Word::Enabled,
            BackendAction::Weight(weight) => self.weight = weight,
        }
        by.clone_into(&mut self.by);
        self.at_unix = unix_seconds();
    }
}

/// Gives the backends that `new` names and `old` does not their cells' admin state. Called before anybody uses them.
pub(crate) fn seed(board: &Scoreboard, admins: &Admins, old: &Plan, new: &Plan) {
    for sealed in new.services() {
        let record = sealed.record();
        let before: BTreeSet<BackendCell> = old
            .service(record.name().as_str())
            .map(|old| old.record().backend_cells.iter().copied().collect())
            .unwrap_or_default();
        for backend in record.backends().filter(|b| !before.contains(&b.cell)) {
            let entry = admins.get(&record.identity(&backend.spec.name));
            let admin = entry.map_or(
                Admin {
                    state: AdminState::Enabled,
                    weight: None,
                },
                Entry::admin,
            );
            board.backend(backend.cell).set_admin(admin);
        }
        board.service(record.cell).raise_epoch();
    }
}

/// Brings `admins` in line with what `plan` names. What there is to say about it, a line each.
pub(crate) fn settle(admins: &mut Admins, plan: &Plan, now_unix: u64) -> Vec<String> {
    let named: BTreeSet<String> = identities(plan).collect();
    let mut said = Vec::new();
    admins.retain(|identity, entry| {
        let (words, by) = (entry.words(), &entry.by);
        match (named.contains(identity), entry.gone_unix) {
            (true, None) => true,
            (true, Some(_)) => {
                entry.gone_unix = None;
                let when = ago(entry.at_unix, now_unix);
                said.push(format!(
                    "backend {identity} is back, and still {words} by {by} {when}"
                ));
                true
            }
            (false, None) if entry.is_default() => false,
            (false, None) => {
                entry.gone_unix = Some(now_unix);
                said.push(format!(
                    "backend {identity} is gone; that it was {words} by {by} is remembered for 24 h, should it come back"
                ));
                true
            }
            (false, Some(gone)) => now_unix.saturating_sub(gone) < GONE_SECONDS,
        }
    });
    said
}

fn identities(plan: &Plan) -> impl Iterator<Item = String> {
    plan.services().flat_map(|sealed| {
        let record = sealed.record();
        record
            .backends()
            .map(|backend| record.identity(&backend.spec.name))
    })
}

/// Whether `pattern` (`service/backend`, `*/backend` or `service/*`) stands for `identity`.
fn matches(pattern: &str, identity: &str) -> bool {
    match (pattern.split_once('/'), identity.split_once('/')) {
        (Some(("*", "*")), _) => false,
        (Some((service, backend)), Some((in_service, name))) => {
            (service == "*" || service == in_service) && (backend == "*" || backend == name)
        }
        _ => false,
    }
}

/// Every backend that `pattern` stands for.
pub(crate) fn matching(pattern: &str, plan: &Plan) -> Vec<String> {
    identities(plan)
        .filter(|identity| matches(pattern, identity))
        .collect()
}

/// Why nothing is called `name`, with the nearest names; those with a star too, where several backends may be named.
pub(crate) fn unknown(name: &str, plan: &Plan, several: bool) -> String {
    let known: Vec<String> = identities(plan).collect();
    let mut candidates: BTreeSet<String> = known.iter().cloned().collect();
    for identity in known.iter().filter(|_| several) {
        if let Some((service, backend)) = identity.split_once('/') {
            candidates.insert(format!("*/{backend}"));
            candidates.insert(format!("{service}/*"));
        }
    }
    let mut near: Vec<(usize, &String)> = Vec::new();
    if name.len() <= NAME_BYTES_MAX {
        let whole = |candidate: &String| {
            if name.contains('/') {
                strsim::damerau_levenshtein(name, candidate)
            } else {
                // Half a name: one of a backend, or of a service.
                let halves = candidate.split('/').filter(|half| *half != "*");
                let distances = halves.map(|half| strsim::damerau_levenshtein(name, half));
                distances.min().unwrap_or(usize::MAX)
            }
        };
        let far = 1 + name.len() / 4;
        near = candidates
            .iter()
            .map(|candidate| (whole(candidate), candidate))
            .filter(|(distance, _)| *distance <= far)
            .collect();
        near.sort();
        let best = near.first().map_or(0, |(distance, _)| *distance);
        near.retain(|(distance, _)| *distance == best);
    }
    let backends = near.iter().map(|(_, candidate)| format!("`{candidate}`"));
    let nearest: Vec<String> = backends.take(SUGGESTIONS_MAX).collect();
    let help = match nearest.as_slice() {
        [] => {
            let some: Vec<&str> = known.iter().take(8).map(String::as_str).collect();
            let more = if known.len() > some.len() {
                ", ..."
            } else {
                ""
            };
            format!("there are: {}{more}", some.join(", "))
        }
        names => format!("did you mean {}?", names.join(" or ")),
    };
    format!("there is no backend `{name}`; {help}")
}

/// Who asked, for people.
pub(crate) fn who(user: &str, pid: u32) -> String {
    match pid {
        // Outside of our process namespace.
        0 => user.to_owned(),
        pid => format!("{user} (pid {pid})"),
    }
}

impl Supervisor {
    /// Takes an operator's word on backends.
    pub(crate) fn take_admin(&mut self, name: &str, action: BackendAction, by: &str) -> Answer {
        let mut known: BTreeSet<String> = identities(&self.plan).collect();
        if matches!(action, BackendAction::Enable | BackendAction::Weight(None)) {
            // Also of what is remembered of those that are gone.
            known.extend(self.admin.keys().cloned());
        }
        let backends: Vec<String> = known
            .into_iter()
            .filter(|identity| matches(name, identity))
            .collect();
        if backends.is_empty() {
            let reason = unknown(name, &self.plan, true);
            return Answer::Denied { reason };
        }
        let did = match action {
            BackendAction::Drain => "drained".to_owned(),
            BackendAction::Disable => "disabled".to_owned(),
            BackendAction::Enable => "enabled".to_owned(),
            BackendAction::Weight(Some(weight)) => format!("weight set to {weight}"),
            BackendAction::Weight(None) => "weight as in the configuration again".to_owned(),
        };
        for identity in &backends {
            let entry = self.admin.entry(identity.clone()).or_insert_with(|| Entry {
                state: Word::Enabled,
                weight: None,
                by: String::new(),
                at_unix: 0,
                gone_unix: None,
            });
            entry.take(action, by);
            tracing::info!("backend {identity}: {did} by {by}");
            self.happened("admin", identity, format!("{did} by {by}"));
        }
        self.admin
            .retain(|_, entry| entry.gone_unix.is_none() || !entry.is_default());
        let plan = self.plan.clone();
        let mut warnings = Vec::new();
        for sealed in plan.services() {
            let record = sealed.record();
            let mut touched = false;
            for backend in record.backends() {
                let identity = record.identity(&backend.spec.name);
                if backends.binary_search(&identity).is_ok()
                    && let Some(entry) = self.admin.get(&identity)
                {
                    self.board.backend(backend.cell).set_admin(entry.admin());
                    touched = true;
                }
            }
            if touched {
                self.board.service(record.cell).raise_epoch();
                warnings.extend(self.service_warning(record));
            }
        }
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        self.keep_soon();
        Answer::Backend { backends, warnings }
    }

    /// What deserves attention of a service whose backends an operator has just touched.
    fn service_warning(&self, record: &ServiceRecord) -> Option<String> {
        let eligibility = self.eligibility(record);
        let name = record.name();
        if eligibility.gate == GateState::Closed {
            return Some(self.closed_words(record));
        }
        if !eligibility.serves() {
            return Some(match &record.spec.policy.sorry {
                Some(sorry) => format!(
                    "service {name} has no eligible backend any more: its new connections go to {sorry}"
                ),
                None => format!(
                    "service {name} has no eligible backend any more: its new connections are turned away"
                ),
            });
        }
        let has_primary = record.backends().any(|backend| !backend.spec.backup);
        (has_primary && !eligibility.primary)
            .then(|| format!("service {name} has only backups left"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(state: Word, weight: Option<u16>) -> Entry {
        Entry {
            state,
            weight,
            by: "root (pid 12)".to_owned(),
            at_unix: 1_000,
            gone_unix: None,
        }
    }

    #[test]
    fn a_star_stands_for_one_half_only() {
        for (pattern, identity, expected) in [
            ("web/a", "web/a", true),
            ("web/a", "web/ab", false),
            ("*/a", "web/a", true),
            ("*/a", "web/b", false),
            ("web/*", "web/a", true),
            ("web/*", "api/a", false),
            ("*/*", "web/a", false),
            ("a", "web/a", false),
        ] {
            assert_eq!(matches(pattern, identity), expected, "{pattern}");
        }
    }

    fn plan() -> Plan {
        use evenkeel_plan::{
            Address, BackendName, BackendSpec, Globals, ServiceName, ServiceSpec, Spec,
        };
        let backends = ["couchdb-1", "couchdb-2"].map(|name| {
            let address = Address::Socket("10.0.0.1:80".parse().unwrap());
            BackendSpec::at(BackendName::new(name).unwrap(), address)
        });
        let services = ["web", "api"].map(|name| {
            let name = ServiceName::new(name).unwrap();
            ServiceSpec::new(name, Vec::new(), backends.to_vec())
        });
        let spec = Spec {
            globals: Globals::default(),
            services: services.to_vec(),
        };
        let table = crate::cells::CellTable::new(8, 8, 8);
        let names = crate::seal::Names::new();
        let sealed = crate::seal::seal(&spec, 1, &Plan::empty(), &table, &names);
        sealed.unwrap().plan
    }

    #[test]
    fn the_nearest_names_are_suggested() {
        let plan = plan();
        for (name, several, expected) in [
            ("web/couchdb1", true, "did you mean `web/couchdb-1`?"),
            ("couchdb-1", true, "did you mean `*/couchdb-1`"),
            ("couchdb-1", false, "did you mean `api/couchdb-1` or"),
            (
                "zzz",
                true,
                "there are: api/couchdb-1, api/couchdb-2, web/couchdb-1, web/couchdb-2",
            ),
        ] {
            let words = unknown(name, &plan, several);
            assert!(words.contains(expected), "{words}");
        }
        assert_eq!(
            matching("*/couchdb-1", &plan),
            ["api/couchdb-1", "web/couchdb-1"]
        );
    }

    #[test]
    fn a_cell_gets_what_was_said_of_its_backend_before_anybody_uses_it() {
        let (board, _fd) = Scoreboard::create(evenkeel_scoreboard::Capacities {
            slots: 1,
            services: 8,
            listeners: 8,
            backends: 8,
            sources: 4,
        })
        .unwrap();
        let plan = plan();
        let admins = Admins::from([("web/couchdb-2".to_owned(), entry(Word::Drain, Some(3)))]);
        // A cell that another backend had before.
        let cell = plan.service("api").unwrap().record().backend_cells[0];
        board
            .backend(cell)
            .set_admin(entry(Word::Disabled, None).admin());
        seed(&board, &admins, &Plan::empty(), &plan);
        for sealed in plan.services() {
            for backend in sealed.record().backends() {
                let identity = sealed.record().identity(&backend.spec.name);
                let expected = match identity.as_str() {
                    "web/couchdb-2" => entry(Word::Drain, Some(3)),
                    _ => entry(Word::Enabled, None),
                };
                assert_eq!(
                    board.backend(backend.cell).admin(),
                    expected.admin(),
                    "{identity}"
                );
            }
        }
    }

    #[test]
    fn what_was_said_of_a_backend_that_is_gone_is_remembered_for_a_day() {
        let mut admins = Admins::from([
            ("web/a".to_owned(), entry(Word::Drain, None)),
            ("web/b".to_owned(), entry(Word::Enabled, None)),
        ]);
        let said = settle(&mut admins, &Plan::empty(), 2_000);
        assert_eq!(
            said,
            [
                "backend web/a is gone; that it was drained by root (pid 12) is remembered for 24 h, should it come back"
            ]
        );
        assert_eq!(admins.len(), 1);
        assert_eq!(
            settle(&mut admins, &Plan::empty(), 3_000),
            Vec::<String>::new()
        );
        settle(&mut admins, &Plan::empty(), 2_000 + GONE_SECONDS);
        assert!(admins.is_empty());
    }

    #[test]
    fn a_weight_and_a_state_are_kept_apart() {
        let mut said = entry(Word::Enabled, None);
        said.take(BackendAction::Weight(Some(5)), "a");
        said.take(BackendAction::Drain, "b");
        assert_eq!(said.words(), "drained, weight 5");
        said.take(BackendAction::Enable, "c");
        assert_eq!(said.admin().weight, Some(5));
        said.take(BackendAction::Weight(None), "d");
        assert!(said.is_default());
        assert_eq!(said.by, "d");
    }
}
