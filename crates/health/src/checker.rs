//! Runs the checks of a plan.
//!
//! Backends with an equal question, addresses and settings alike, share one check: a server in ten services is asked once
//! an interval, and every one of its backends gets the answer. Each backend has its own state, since they may have come at
//! different times.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_plan::{BackendCell, CheckKind, CheckSpec};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use crate::history::{History, Record};
use crate::probe::{Outcome, Prober};
use crate::question::{Question, describe};
use crate::schedule;
use crate::secrets::Secrets;
use crate::tls::TlsClients;
use crate::verdict::{Health, Observation, Reason, State, Transition, step};
use crate::wake::Wake;

/// Most probes under way at once; each holds a descriptor. Further ones wait for their turn.
pub const PROBES_MAX: usize = 2_048;

/// The answer where there is nobody to ask.
const NO_ADDRESS: &str = "its name has no address yet";

/// A backend to be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its cell; with `identity`, what makes it the same backend in two plans.
    pub backend: BackendCell,
    /// `service/backend`.
    pub identity: String,
    /// How it is checked.
    pub check: Arc<CheckSpec>,
    /// Its addresses with its own port, which the check's goes before; none = its name is not resolved yet, and nothing is
    /// asked.
    pub endpoints: Vec<SocketAddr>,
    /// The host as configured, name or address: for `Host`, SNI and verification.
    pub host: String,
    /// What is known of it already. Used only when it was not checked before.
    pub known: State,
    /// The service that it belongs to.
    pub service: String,
}

/// What is told after each check of each backend.
#[derive(Clone, Copy, Debug)]
pub struct Checked<'a> {
    /// The backend.
    pub backend: BackendCell,
    /// `service/backend`.
    pub identity: &'a str,
    /// Its service.
    pub service: &'a str,
    /// Its state after this check.
    pub state: State,
    /// The change of health, if there was one.
    pub transition: Option<Transition>,
    /// What the probe found, with the weight and the limit that the backend wants.
    pub outcome: &'a Outcome,
    /// Monotonic ms of the next check; `None` = not before its name has an address.
    pub next_ms: Option<u64>,
}

/// Where results go. Must not call back into the checker.
pub trait Sink {
    /// A check of a backend has ended.
    fn checked(&self, checked: Checked<'_>);

    /// Monotonic ms, for [`State::since_ms`].
    fn now_ms(&self) -> u64;
}

/// Runs checks as local tasks of the current `LocalSet`. Dropping it stops them.
pub struct Checker<S> {
    shared: Rc<Shared<S>>,
    groups: HashMap<Rc<Question>, Group>,
    /// Which question is asked of each backend.
    members: HashMap<Key, Rc<Question>>,
}

type Key = (BackendCell, String);

struct Shared<S> {
    sink: S,
    probes: Semaphore,
    random: Cell<u64>,
    secrets: RefCell<Rc<Secrets>>,
    tls: TlsClients,
}

/// One distinct check and the backends that share it.
struct Group {
    members: Rc<RefCell<Members>>,
    wake: Rc<Wake>,
    /// `None` = nobody to ask.
    task: Option<AbortHandle>,
}

#[derive(Default)]
struct Members {
    of: HashMap<Key, Member>,
    last: Option<Outcome>,
    history: History,
    /// Passive evidence spoke against it, and no check has cleared it since.
    is_doubted: bool,
    /// When the next check begins.
    next: Option<Instant>,
}

struct Member {
    service: String,
    host: String,
    state: State,
}

/// A backend that is to join a group.
struct Joining {
    key: Key,
    question: Rc<Question>,
    member: Member,
    history: History,
}

impl<S: Sink + 'static> Checker<S> {
    /// Checks nothing yet.
    #[must_use]
    pub fn new(sink: S) -> Self {
        Self {
            shared: Rc::new(Shared {
                sink,
                probes: Semaphore::new(PROBES_MAX),
                // From the seed that the system gives every hash map.
                random: Cell::new(RandomState::new().hash_one(0)),
                secrets: RefCell::default(),
                tls: TlsClients::default(),
            }),
            groups: HashMap::new(),
            members: HashMap::new(),
        }
    }

    /// Takes the values of the plan's secrets. Where they changed, the checks that use them are made at once.
    pub fn set_secrets(&mut self, secrets: Rc<Secrets>) {
        let before = self.shared.secrets.replace(Rc::clone(&secrets));
        if before == secrets {
            return;
        }
        for (question, group) in &self.groups {
            if matches!(question.check.kind, CheckKind::CouchDb(_)) {
                group.wake.changed();
            }
        }
    }

    /// Checks exactly `targets` from now on. What was checked in the same way before goes on undisturbed; where only the
    /// rhythm or the thresholds changed, the health stays; where a name stands for other addresses, the health stays until
    /// the next check, which decides alone; what is asked elsewhere or otherwise is decided by its first check.
    ///
    /// # Panics
    /// Outside a `LocalSet`.
    pub fn apply(&mut self, targets: impl IntoIterator<Item = Target>) {
        let mut before = std::mem::take(&mut self.members);
        let mut joining = Vec::new();
        for target in targets {
            let question = Rc::new(Question::new(
                target.check,
                target.endpoints,
                &target.host,
                &target.identity,
            ));
            let key = (target.backend, target.identity);
            let mut history = History::default();
            let state = match before.remove(&key) {
                Some(same) if same == question => {
                    self.members.insert(key, same);
                    continue;
                }
                Some(other) => {
                    let left = self.leave(&key, &other);
                    let was = left.map(|(member, records)| {
                        history = records;
                        member
                    });
                    self.state_elsewhere(was, &other, &question, &target.host)
                }
                None => target.known,
            };
            joining.push(Joining {
                key,
                question,
                member: Member {
                    service: target.service,
                    host: target.host,
                    state,
                },
                history,
            });
        }
        for (key, question) in before {
            self.leave(&key, &question);
        }
        self.join(joining);
        self.groups.retain(|_, group| {
            let used = !group.members.borrow().of.is_empty();
            if !used {
                group.abort();
            }
            used
        });
        self.shared.tls.forget();
    }

    /// The traffic speaks against `backend`: it is checked at once, and often until a result agrees with its state.
    pub fn doubt(&self, backend: BackendCell) {
        for (_, question) in self
            .members
            .iter()
            .filter(|((cell, _), _)| *cell == backend)
        {
            if let Some(group) = self.groups.get(question) {
                group.members.borrow_mut().is_doubted = true;
                group.wake.doubted();
            }
        }
    }

    /// Whether `backend` is checked and nothing is known of it yet.
    #[must_use]
    pub fn is_starting(&self, backend: BackendCell, identity: &str) -> bool {
        let state = |_: &Question, members: &Members, key: &Key| {
            Some(members.of.get(key)?.state.health == Health::Starting)
        };
        self.look(backend, identity, state).unwrap_or(false)
    }

    /// The last checks of `backend`, oldest first.
    #[must_use]
    pub fn history(&self, backend: BackendCell, identity: &str) -> Vec<Record> {
        let records = |_: &Question, members: &Members, _: &Key| Some(members.history.records());
        self.look(backend, identity, records).unwrap_or_default()
    }

    /// Monotonic ms of the next check of `backend`; `None` = it is not checked, or its name has no address.
    #[must_use]
    pub fn next_check_ms(&self, backend: BackendCell, identity: &str) -> Option<u64> {
        let next = |_: &Question, members: &Members, _: &Key| members.next;
        let next = self.look(backend, identity, next)?;
        Some(self.shared.ms(next))
    }

    /// How `backend` is checked, in words; see [`describe`].
    #[must_use]
    pub fn describe(&self, backend: BackendCell, identity: &str) -> Option<String> {
        self.look(backend, identity, |question, members, key| {
            let host = &members.of.get(key)?.host;
            Some(describe(&question.check, host, &question.endpoints))
        })
    }

    /// Distinct checks that run.
    #[must_use]
    pub fn distinct(&self) -> usize {
        self.groups.len()
    }

    fn look<T>(
        &self,
        backend: BackendCell,
        identity: &str,
        at: impl FnOnce(&Question, &Members, &Key) -> Option<T>,
    ) -> Option<T> {
        let key = (backend, identity.to_owned());
        let question = self.members.get(&key)?;
        let group = self.groups.get(question)?;
        at(question, &group.members.borrow(), &key)
    }

    fn leave(&self, key: &Key, question: &Question) -> Option<(Member, History)> {
        let mut members = self.groups.get(question)?.members.borrow_mut();
        let member = members.of.remove(key)?;
        Some((member, members.history.clone()))
    }

    /// The state of a backend of which something else was asked before.
    fn state_elsewhere(
        &self,
        was: Option<Member>,
        before: &Question,
        question: &Question,
        host: &str,
    ) -> State {
        let starting = || State::new(Health::Starting, self.shared.sink.now_ms());
        let Some(was) = was else {
            return starting();
        };
        let kept = State {
            against: 0,
            ..was.state
        };
        if before.asks_the_same(question) {
            kept
        } else if was.host == host
            && host.parse::<IpAddr>().is_err()
            && before.asks_elsewhere(question)
        {
            // A name whose addresses come and go in turn is still the same backend.
            State { anew: true, ..kept }
        } else {
            starting()
        }
    }

    fn join(&mut self, joining: Vec<Joining>) {
        let count = joining.len();
        for joining in joining {
            let Joining {
                key,
                question,
                mut member,
                history,
            } = joining;
            self.members.insert(key.clone(), Rc::clone(&question));
            let group = self
                .groups
                .entry(Rc::clone(&question))
                .or_insert_with(|| Group::start(&self.shared, question, count));
            let mut members = group.members.borrow_mut();
            if members.history.is_empty() {
                members.history = history;
            }
            if group.task.is_none() {
                self.shared.tell_no_address(&mut members, &key, &member);
            } else {
                member.state = self.shared.welcome(&members, &key, &member);
            }
            members.of.insert(key, member);
        }
    }
}

impl Group {
    fn start<S: Sink + 'static>(
        shared: &Rc<Shared<S>>,
        question: Rc<Question>,
        count: usize,
    ) -> Self {
        let members = Rc::new(RefCell::new(Members::default()));
        let wake = Rc::new(Wake::default());
        let task = (!question.endpoints.is_empty()).then(|| {
            let delay = schedule::first(question.check.interval, count, shared.random());
            let at = Instant::now() + delay;
            members.borrow_mut().next = Some(at);
            let run = Run {
                shared: Rc::clone(shared),
                members: Rc::clone(&members),
                wake: Rc::clone(&wake),
                question,
                at,
                doubted: None,
                lost: None,
            };
            tokio::task::spawn_local(run.run()).abort_handle()
        });
        Self {
            members,
            wake,
            task,
        }
    }

    fn abort(&self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl<S> Drop for Checker<S> {
    fn drop(&mut self) {
        for group in self.groups.values() {
            group.abort();
        }
    }
}

impl<S> fmt::Debug for Checker<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checker")
            .field("groups", &self.groups.len())
            .field("members", &self.members.len())
            .finish_non_exhaustive()
    }
}

impl<S: Sink> Shared<S> {
    /// The state of a backend that joins a check: what is known of it, or else what the check has found for others.
    fn welcome(&self, members: &Members, key: &Key, member: &Member) -> State {
        if member.state.health != Health::Starting {
            return member.state;
        }
        let Some(outcome) = &members.last else {
            return member.state;
        };
        let decided = |other: &&Member| other.state.health != Health::Starting;
        let Some(other) = members.of.values().find(decided) else {
            return member.state;
        };
        let state = State::new(other.state.health, self.sink.now_ms());
        self.sink.checked(Checked {
            backend: key.0,
            identity: &key.1,
            service: &member.service,
            state,
            transition: Some(Transition {
                from: Health::Starting,
                to: state.health,
                reason: Reason::Shared,
            }),
            outcome,
            next_ms: members.next.map(|next| self.ms(next)),
        });
        state
    }

    /// Nobody can be asked, which changes nothing.
    fn tell_no_address(&self, members: &mut Members, key: &Key, member: &Member) {
        let outcome = Outcome {
            at_ms: self.sink.now_ms(),
            ..Outcome::inconclusive(NO_ADDRESS)
        };
        if members.of.is_empty() {
            members.history.push(&outcome);
        }
        self.sink.checked(Checked {
            backend: key.0,
            identity: &key.1,
            service: &member.service,
            state: member.state,
            transition: None,
            outcome: &outcome,
            next_ms: None,
        });
    }

    /// Monotonic ms of a time of tokio's clock.
    fn ms(&self, at: Instant) -> u64 {
        let wait = at.saturating_duration_since(Instant::now());
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        self.sink.now_ms().saturating_add(wait_ms)
    }
}

impl<S> Shared<S> {
    /// splitmix64 (Steele, Lea, Flood 2014): enough to spread checks over time.
    fn random(&self) -> u32 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 32) as u32
    }
}

/// The task of a group.
struct Run<S> {
    shared: Rc<Shared<S>>,
    question: Rc<Question>,
    members: Rc<RefCell<Members>>,
    wake: Rc<Wake>,
    /// When the next check begins.
    at: Instant,
    /// When a doubt last had a check made at once.
    doubted: Option<Instant>,
    /// When a lost connection last did.
    lost: Option<Instant>,
}

impl<S: Sink> Run<S> {
    async fn run(mut self) {
        let mut prober = Prober::new(
            Rc::clone(&self.question),
            &self.shared.tls,
            Rc::clone(&self.wake),
        );
        let shared = Rc::clone(&self.shared);
        loop {
            self.wait().await;
            // The semaphore is never closed.
            let Ok(turn) = shared.probes.acquire().await else {
                return;
            };
            let started = Instant::now();
            let at_ms = shared.sink.now_ms();
            let secrets = Rc::clone(&shared.secrets.borrow());
            let mut outcome = prober.probe(&secrets).await;
            drop(turn);
            outcome.at_ms = at_ms;
            self.settle(started, outcome);
        }
    }

    /// Waits for the next check: a doubt or a lost connection brings it forward.
    async fn wait(&mut self) {
        let fast = self.question.check.fast_interval;
        loop {
            tokio::select! {
                biased;
                () = sleep_until(self.at) => return,
                () = self.wake.notified() => {}
            }
            let now = Instant::now();
            let mut earliest = self.at;
            if self.wake.take_changed() {
                earliest = now;
            }
            if self.wake.take_doubted() {
                earliest = earliest.min(brought(&mut self.doubted, now, fast));
            }
            if self.wake.take_lost() {
                earliest = earliest.min(brought(&mut self.lost, now, fast));
            }
            self.at = earliest;
            self.members.borrow_mut().next = Some(self.at);
        }
    }

    fn settle(&mut self, started: Instant, outcome: Outcome) {
        let check = &*self.question.check;
        let mut members = self.members.borrow_mut();
        let members = &mut *members;
        let now_ms = self.shared.sink.now_ms();
        let mut in_doubt = false;
        let mut transitions = Vec::with_capacity(members.of.len());
        for member in members.of.values_mut() {
            let (next, transition) = step(member.state, outcome.observation, check, now_ms);
            member.state = next;
            in_doubt |= next.against > 0 || next.health == Health::Starting;
            transitions.push(transition);
        }
        if outcome.observation != Observation::Inconclusive {
            members.is_doubted &= in_doubt;
        }
        let interval = if in_doubt || members.is_doubted {
            check.fast_interval
        } else {
            check.interval
        };
        self.at = Instant::from_std(schedule::next(
            started.into_std(),
            Instant::now().into_std(),
            interval,
            check.jitter_percent,
            self.shared.random(),
        ));
        members.next = Some(self.at);
        let next_ms = Some(self.shared.ms(self.at));
        for (((backend, identity), member), transition) in members.of.iter().zip(transitions) {
            self.shared.sink.checked(Checked {
                backend: *backend,
                identity,
                service: &member.service,
                state: member.state,
                transition,
                outcome: &outcome,
                next_ms,
            });
        }
        members.history.push(&outcome);
        members.last = Some(outcome);
    }
}

/// When a check that is brought forward begins: at once, but not more often than in the fast rhythm, however often a backend
/// is doubted and even if its server closes every connection. `last` is when one was last brought forward for this reason.
fn brought(last: &mut Option<Instant>, now: Instant, fast: Duration) -> Instant {
    let at = match *last {
        // One is on its way already.
        Some(last) if last > now => last,
        Some(last) => now.max(last + fast),
        None => now,
    };
    *last = Some(at);
    at
}
