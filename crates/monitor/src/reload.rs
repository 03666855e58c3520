//! From the plan in force to the next one.
//!
//! ```text
//!             Prepare g               decoded              first verdicts, or time
//!   Settled ------------> Decoding -----------> Awaiting ---------------------------> Ready
//!      ^                     |                     |              Prepared g -->        |
//!      |                     |  Abort g            |  Abort g                  Abort g  |
//!      |<--------------------+---------------------+------------------------------------|
//!      `------------------------------------------------------ Commit g, Applied g --> -'
//! ```
//!
//! Checks of the plan in force go on in every stage. A prepared plan only adds checks of backends that are new in it:
//! their cells are used by nobody yet.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use evenkeel_control::child::{Descriptor, FromChild};
use evenkeel_health::{Health, State, Target};
use evenkeel_plan::{BackendCell, Plan};
use evenkeel_scoreboard::HealthState;
use evenkeel_sys::clock::monotonic_ms;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::plans::{self, Backend};
use crate::run::{Event, Monitor};

/// How long a start waits for first verdicts: a host with a dead backend must not start late.
const FIRST_PLAN_PATIENCE: Duration = Duration::from_millis(300);

/// How long a reload waits for the first verdicts of new backends, at most.
const RELOAD_PATIENCE_MAX: Duration = Duration::from_secs(2);

/// Beyond its timeout, what a first check may need to begin and to be told.
const FIRST_CHECK_SLACK: Duration = Duration::from_millis(300);

/// How far the next plan is.
pub(crate) enum Stage {
    Settled,
    Decoding {
        generation: u64,
        result: JoinHandle<Result<Plan, String>>,
    },
    Awaiting {
        plan: Arc<Plan>,
        backends: Vec<BackendCell>,
        deadline: Instant,
    },
    Ready {
        plan: Arc<Plan>,
    },
}

impl Monitor {
    pub(crate) fn prepare(&mut self, generation: u64) {
        self.forget_prepared();
        let is_metrics = |descriptor: &Descriptor| matches!(descriptor, Descriptor::Metrics { .. });
        let sockets = self.link.take_all(is_metrics).into_iter();
        self.endpoints
            .prepare(sockets.filter_map(|(descriptor, fd)| match descriptor {
                Descriptor::Metrics { address } => Some((address, fd)),
                _ => None,
            }));
        let Some(blob) = self.link.take(&Descriptor::Delta { generation }) else {
            self.refuse(generation, "its delta did not arrive".to_owned());
            return;
        };
        let base = Arc::clone(&self.plan);
        let capacities = self.board.capacities();
        let result = tokio::task::spawn_blocking(move || plans::decode(blob, &base, capacities));
        self.stage = Stage::Decoding { generation, result };
    }

    fn refuse(&mut self, generation: u64, reason: String) {
        tracing::error!(generation, reason, "cannot switch to a plan");
        self.forget_prepared();
        self.link.send(FromChild::Refused { generation, reason });
    }

    pub(crate) fn forget_prepared(&mut self) {
        self.endpoints.abort();
        match std::mem::replace(&mut self.stage, Stage::Settled) {
            Stage::Settled => {}
            Stage::Decoding { result, .. } => result.abort(),
            Stage::Awaiting { .. } | Stage::Ready { .. } => {
                let plan = Arc::clone(&self.plan);
                self.check(plans::backends(&plan), &HashMap::new());
                self.keep_only(&plan);
            }
        }
    }

    pub(crate) fn take_decoded(&mut self, decoded: Result<Plan, String>) {
        let Stage::Decoding { generation, .. } = self.stage else {
            return;
        };
        self.stage = Stage::Settled;
        let plan = match decoded {
            Ok(plan) if plan.generation == generation => Arc::new(plan),
            Ok(plan) => {
                let reason = format!("its delta leads to generation {}", plan.generation);
                return self.refuse(generation, reason);
            }
            Err(reason) => return self.refuse(generation, reason),
        };
        let is_first = self.plan.generation == 0;
        if is_first {
            evenkeel_log::set_spec(plan.globals.log);
        }
        let new = plans::new_backends(&self.plan, &plan);
        let known: HashMap<_, _> = new
            .iter()
            .map(|backend| {
                let seed = self.seeds.remove(&backend.cell);
                let seed = seed.filter(|report| report.identity == backend.identity);
                let known = match backend.check {
                    Some(_) => self.verdicts.meet(backend, seed),
                    None => self.verdicts.uncheck(backend),
                };
                (backend.cell, known)
            })
            .collect();
        let patience = if is_first {
            FIRST_PLAN_PATIENCE
        } else {
            reload_patience(&new)
        };
        let awaited: Vec<_> = new
            .iter()
            .filter(|backend| backend.check.is_some())
            .map(|backend| backend.cell)
            .collect();
        let current = Arc::clone(&self.plan);
        self.check(plans::backends(&current).chain(new), &known);
        self.stage = Stage::Awaiting {
            plan,
            backends: awaited,
            deadline: Instant::now() + patience,
        };
        self.look_at_awaited();
    }

    /// Ends the waiting when every new backend has its first verdict.
    pub(crate) fn look_at_awaited(&mut self) {
        let Stage::Awaiting { backends, .. } = &mut self.stage else {
            return;
        };
        backends.retain(|cell| {
            // `Unchecked` is what a cell says from before, until its first check.
            matches!(
                self.verdicts.state(*cell),
                HealthState::Starting | HealthState::Unchecked
            )
        });
        if backends.is_empty() {
            self.prepared();
        }
    }

    pub(crate) fn prepared(&mut self) {
        let Stage::Awaiting { plan, .. } = &self.stage else {
            return;
        };
        let plan = Arc::clone(plan);
        self.verdicts.tell_all();
        self.link.send(FromChild::Prepared {
            generation: plan.generation,
        });
        self.stage = Stage::Ready { plan };
    }

    pub(crate) fn commit(&mut self, generation: u64) {
        match std::mem::replace(&mut self.stage, Stage::Settled) {
            Stage::Ready { plan } | Stage::Awaiting { plan, .. }
                if plan.generation == generation =>
            {
                self.switch(plan);
            }
            stage => {
                self.stage = stage;
                if self.plan.generation != generation {
                    tracing::error!(generation, "was told to switch to a plan that is not there");
                    return;
                }
            }
        }
        self.link.send(FromChild::Applied { generation });
    }

    fn switch(&mut self, plan: Arc<Plan>) {
        self.plan = Arc::clone(&plan);
        self.seeds.clear();
        for backend in plans::backends(&plan) {
            // Checks were taken away from one that had them.
            if backend.check.is_none()
                && self.verdicts.state(backend.cell) != HealthState::Unchecked
            {
                self.verdicts.uncheck(&backend);
            }
        }
        self.check(plans::backends(&plan), &HashMap::new());
        self.keep_only(&plan);
        self.endpoints.commit(&plan.globals.metrics);
        evenkeel_log::set_spec(plan.globals.log);
        let mut scraped = self.scraped.lock().unwrap_or_else(PoisonError::into_inner);
        *scraped = plan;
    }

    /// Checks exactly `backends`; `known` is for those that were not checked before.
    fn check(
        &mut self,
        backends: impl Iterator<Item = Backend>,
        known: &HashMap<BackendCell, State>,
    ) {
        self.checker.apply(backends.filter_map(|backend| {
            Some(Target {
                backend: backend.cell,
                check: backend.check?,
                known: known
                    .get(&backend.cell)
                    .copied()
                    .unwrap_or_else(|| State::new(Health::Starting, monotonic_ms())),
                identity: backend.identity,
            })
        }));
    }

    fn keep_only(&self, plan: &Plan) {
        let kept: HashSet<_> = plans::backends(plan).map(|backend| backend.cell).collect();
        self.verdicts.retain(&kept);
    }
}

impl Stage {
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn next_event(&mut self) -> Event {
        match self {
            Self::Decoding { result, .. } => {
                let decoded = result.await;
                Event::Decoded(
                    decoded.unwrap_or_else(|error| Err(format!("decoding it failed: {error}"))),
                )
            }
            Self::Awaiting { deadline, .. } => {
                sleep_until(*deadline).await;
                Event::Waited
            }
            Self::Settled | Self::Ready { .. } => std::future::pending().await,
        }
    }
}

/// Long enough for one check of the slowest new backend, within limits.
fn reload_patience(new: &[Backend]) -> Duration {
    let checks = new.iter().filter_map(|backend| backend.check);
    let slowest = checks.map(|check| check.timeout).max();
    (slowest.unwrap_or_default() + FIRST_CHECK_SLACK).min(RELOAD_PATIENCE_MAX)
}
