//! Runs the checks of a plan.
//!
//! Backends with equal check settings, target included, share one check: a server in ten services is asked once an
//! interval, and every one of its backends gets the answer. Each backend has its own state, since they may have come at
//! different times.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::rc::Rc;
use std::time::Duration;

use evenkeel_plan::{BackendCell, CheckSpec};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use crate::probe::{Outcome, probe};
use crate::schedule;
use crate::verdict::{Health, Reason, State, Transition, step};

/// Most probes under way at once; each holds a descriptor. Further ones wait for their turn.
pub const PROBES_MAX: usize = 2_048;

/// A backend to be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its cell; with `identity`, what makes it the same backend in two plans.
    pub backend: BackendCell,
    /// `service/backend`.
    pub identity: String,
    /// How it is checked.
    pub check: CheckSpec,
    /// What is known of it already. Used only when it was not checked before.
    pub known: State,
}

/// What is told after each check of each backend.
#[derive(Clone, Copy, Debug)]
pub struct Checked<'a> {
    /// The backend.
    pub backend: BackendCell,
    /// `service/backend`.
    pub identity: &'a str,
    /// Its state after this check.
    pub state: State,
    /// The change of health, if there was one.
    pub transition: Option<Transition>,
    /// What the probe found.
    pub outcome: &'a Outcome,
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
    groups: HashMap<CheckSpec, Group>,
    /// Which check each backend has.
    members: HashMap<Key, CheckSpec>,
}

type Key = (BackendCell, String);

struct Shared<S> {
    sink: S,
    probes: Semaphore,
    random: Cell<u64>,
}

/// One distinct check and the backends that share it.
struct Group {
    members: Rc<RefCell<Members>>,
    task: AbortHandle,
}

#[derive(Default)]
struct Members {
    states: HashMap<Key, State>,
    last: Option<Outcome>,
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
            }),
            groups: HashMap::new(),
            members: HashMap::new(),
        }
    }

    /// Checks exactly `targets` from now on. What was checked in the same way before goes on undisturbed; where only the
    /// rhythm or the thresholds changed, the health stays; what is asked elsewhere or otherwise is decided by its first
    /// check.
    ///
    /// # Panics
    /// Outside a `LocalSet`.
    pub fn apply(&mut self, targets: impl IntoIterator<Item = Target>) {
        let mut before = std::mem::take(&mut self.members);
        let mut joining = Vec::new();
        for target in targets {
            let key = (target.backend, target.identity);
            match before.remove(&key) {
                Some(check) if check == target.check => {
                    self.members.insert(key, check);
                }
                Some(check) => {
                    let state = self.leave(&key, &check);
                    let same_question =
                        (check.kind, check.target) == (target.check.kind, target.check.target);
                    let known = match state {
                        Some(state) if same_question => State::new(state.health, state.since_ms),
                        _ => State::new(Health::Starting, self.shared.sink.now_ms()),
                    };
                    joining.push((key, target.check, known));
                }
                None => joining.push((key, target.check, target.known)),
            }
        }
        for (key, check) in before {
            self.leave(&key, &check);
        }
        self.join(joining);
        self.groups.retain(|_, group| {
            let used = !group.members.borrow().states.is_empty();
            if !used {
                group.task.abort();
            }
            used
        });
    }

    /// Whether `backend` is checked and nothing is known of it yet.
    #[must_use]
    pub fn is_starting(&self, backend: BackendCell, identity: &str) -> bool {
        let key = (backend, identity.to_owned());
        let group = self
            .members
            .get(&key)
            .and_then(|check| self.groups.get(check));
        group.is_some_and(|group| {
            let members = group.members.borrow();
            members
                .states
                .get(&key)
                .is_some_and(|state| state.health == Health::Starting)
        })
    }

    /// Distinct checks that run.
    #[must_use]
    pub fn distinct(&self) -> usize {
        self.groups.len()
    }

    fn leave(&self, key: &Key, check: &CheckSpec) -> Option<State> {
        let group = self.groups.get(check)?;
        group.members.borrow_mut().states.remove(key)
    }

    fn join(&mut self, joining: Vec<(Key, CheckSpec, State)>) {
        let count = joining.len();
        for (key, check, known) in joining {
            self.members.insert(key.clone(), check);
            let group = self.groups.entry(check).or_insert_with(|| {
                let members = Rc::new(RefCell::new(Members::default()));
                let delay = schedule::first(check.interval, count, self.shared.random());
                let run = run(Rc::clone(&self.shared), check, Rc::clone(&members), delay);
                let task = tokio::task::spawn_local(run).abort_handle();
                Group { members, task }
            });
            let mut members = group.members.borrow_mut();
            let state = self.shared.welcome(&members, &key, known);
            members.states.insert(key, state);
        }
    }
}

impl<S> Drop for Checker<S> {
    fn drop(&mut self) {
        for group in self.groups.values() {
            group.task.abort();
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
    fn welcome(&self, members: &Members, key: &Key, known: State) -> State {
        if known.health != Health::Starting {
            return known;
        }
        let Some(outcome) = &members.last else {
            return known;
        };
        let decided = |state: &&State| state.health != Health::Starting;
        let Some(other) = members.states.values().find(decided) else {
            return known;
        };
        let state = State::new(other.health, self.sink.now_ms());
        self.sink.checked(Checked {
            backend: key.0,
            identity: &key.1,
            state,
            transition: Some(Transition {
                from: Health::Starting,
                to: state.health,
                reason: Reason::Shared,
            }),
            outcome,
        });
        state
    }

    fn settle(&self, check: &CheckSpec, members: &mut Members, outcome: Outcome) {
        let now_ms = self.sink.now_ms();
        for ((backend, identity), state) in &mut members.states {
            let (next, transition) = step(*state, outcome.observation, check, now_ms);
            *state = next;
            self.sink.checked(Checked {
                backend: *backend,
                identity,
                state: next,
                transition,
                outcome: &outcome,
            });
        }
        members.last = Some(outcome);
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

async fn run<S: Sink>(
    shared: Rc<Shared<S>>,
    check: CheckSpec,
    members: Rc<RefCell<Members>>,
    delay: Duration,
) {
    let mut at = Instant::now() + delay;
    loop {
        sleep_until(at).await;
        // The semaphore is never closed.
        let Ok(turn) = shared.probes.acquire().await else {
            return;
        };
        let started = Instant::now();
        let outcome = probe(&check).await;
        drop(turn);
        shared.settle(&check, &mut members.borrow_mut(), outcome);
        let next = schedule::next(
            started.into_std(),
            Instant::now().into_std(),
            check.interval,
            check.jitter_percent,
            shared.random(),
        );
        at = Instant::from_std(next);
    }
}
