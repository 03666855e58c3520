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
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use evenkeel_control::child::{Descriptor, FromChild, Secrets};
use evenkeel_health::{Health, State, Target};
use evenkeel_plan::{BackendCell, Plan};
use evenkeel_scoreboard::HealthState;
use evenkeel_sys::clock::monotonic_ms;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::names;
use crate::plans::{self, Backend, Decoded};
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
        result: JoinHandle<Result<Decoded, String>>,
        access_log: Option<OwnedFd>,
    },
    Awaiting {
        next: Next,
        backends: Vec<BackendCell>,
        deadline: Instant,
    },
    Ready {
        next: Next,
    },
}

/// A plan that is not in force yet.
pub(crate) struct Next {
    plan: Arc<Plan>,
    secrets: Option<Secrets>,
    /// Backends without checks that were left out when the monitor started.
    held: Vec<BackendCell>,
    /// The access log's file.
    access_log: Option<OwnedFd>,
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
        let mut access_log = self.link.take(&Descriptor::AccessLog { generation });
        if self.plan.generation == 0 {
            // The first plan is in force everywhere else, if it is not the first of all.
            self.lines.set_access(access_log.take());
            self.lines.release();
        }
        let secrets = self.link.take(&Descriptor::Secrets { generation });
        let Some(blob) = self.link.take(&Descriptor::Delta { generation }) else {
            self.refuse(generation, "its delta did not arrive".to_owned());
            return;
        };
        let base = Arc::clone(&self.plan);
        let capacities = self.board.capacities();
        let decode = move || plans::decode(blob, secrets, &base, capacities);
        let result = tokio::task::spawn_blocking(decode);
        self.stage = Stage::Decoding {
            generation,
            result,
            access_log,
        };
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
                self.use_secrets(None);
                self.check(plans::backends(&plan), &HashMap::new());
                self.keep_only(&plan);
                self.verdicts.gates.apply(&plan, None);
                self.resolver.apply(&plan.globals.resolve, names::of(&plan));
            }
        }
    }

    pub(crate) fn take_decoded(&mut self, decoded: Result<Decoded, String>) {
        let (generation, access_log) = match std::mem::replace(&mut self.stage, Stage::Settled) {
            Stage::Decoding {
                generation,
                access_log,
                ..
            } => (generation, access_log),
            stage => {
                self.stage = stage;
                return;
            }
        };
        let (plan, secrets) = match decoded {
            Ok(decoded) if decoded.plan.generation == generation => {
                (Arc::new(decoded.plan), decoded.secrets)
            }
            Ok(Decoded { plan, .. }) => {
                let reason = format!("its delta leads to generation {}", plan.generation);
                return self.refuse(generation, reason);
            }
            Err(reason) => return self.refuse(generation, reason),
        };
        let is_first = self.plan.generation == 0;
        if is_first {
            evenkeel_log::set_spec(plan.globals.log);
        }
        let current = Arc::clone(&self.plan);
        for backend in plan
            .services()
            .flat_map(|sealed| sealed.record().backends())
        {
            let (address, endpoints) = (&backend.spec.address, backend.endpoints);
            if address.name().is_some() {
                self.resolver.seed(address.clone(), endpoints.to_vec());
            }
        }
        let named = names::of(&current).chain(names::of(&plan));
        self.resolver.apply(&plan.globals.resolve, named);
        self.use_secrets(secrets.as_ref());
        let new = plans::new_backends(&current, &plan);
        let mut held = Vec::new();
        let known: HashMap<_, _> = new
            .iter()
            .map(|backend| {
                let seed = self.seeds.remove(&backend.cell);
                let seed = seed.filter(|report| report.identity == backend.identity);
                let known = match backend.check {
                    Some(_) => self.verdicts.meet(backend, seed),
                    None if is_first && self.verdicts.state(backend.cell) == HealthState::Down => {
                        held.push(backend.cell);
                        self.verdicts.keep_left_out(backend)
                    }
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
            .filter(|backend| backend.check.is_some() && !backend.endpoints.is_empty())
            .map(|backend| backend.cell)
            .collect();
        // Before the first check of a service that is new, so that no verdict comes before its gate.
        self.verdicts.gates.apply(&current, Some(&plan));
        self.check(plans::backends(&current).chain(new), &known);
        self.stage = Stage::Awaiting {
            next: Next {
                plan,
                secrets,
                held,
                access_log,
            },
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
        self.stage = match std::mem::replace(&mut self.stage, Stage::Settled) {
            Stage::Awaiting { next, .. } => {
                self.verdicts.tell_all();
                self.news.tell();
                self.link.send(FromChild::Prepared {
                    generation: next.plan.generation,
                });
                Stage::Ready { next }
            }
            other => other,
        };
    }

    pub(crate) fn commit(&mut self, generation: u64) {
        match std::mem::replace(&mut self.stage, Stage::Settled) {
            Stage::Ready { next } | Stage::Awaiting { next, .. }
                if next.plan.generation == generation =>
            {
                self.switch(next);
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

    fn switch(&mut self, next: Next) {
        let Next {
            plan,
            secrets,
            held,
            access_log,
        } = next;
        if self.plan.generation > 0 {
            self.lines.set_access(access_log);
        }
        self.plan = Arc::clone(&plan);
        self.seeds.clear();
        for backend in plans::backends(&plan) {
            self.verdicts.forget_agent(&backend);
            // Checks were taken away from one that had them.
            let is_left_out =
                || self.traffic.is_left_out(backend.cell) || held.contains(&backend.cell);
            if backend.check.is_none()
                && self.verdicts.state(backend.cell) != HealthState::Unchecked
                && !is_left_out()
            {
                self.verdicts.uncheck(&backend);
            }
        }
        // Before all that takes time: workers have switched already.
        self.verdicts.gates.apply(&plan, None);
        if let Some(secrets) = secrets {
            self.secrets = secrets.values.into_iter().collect();
            self.use_secrets(None);
        }
        self.traffic.apply(&plan, &held, monotonic_ms());
        self.refusals.apply(&plan, monotonic_ms());
        self.resolver.apply(&plan.globals.resolve, names::of(&plan));
        self.check(plans::backends(&plan), &HashMap::new());
        self.keep_only(&plan);
        self.endpoints.commit(&plan.globals.metrics);
        evenkeel_log::set_spec(plan.globals.log);
        let mut scraped = self.scraped.lock().unwrap_or_else(PoisonError::into_inner);
        *scraped = plan;
    }

    /// Hands the checks their secrets: those of the plan in force and, beside them, those of a plan that is being prepared.
    fn use_secrets(&mut self, next: Option<&Secrets>) {
        let mut values = self.secrets.clone();
        for (source, value) in next.into_iter().flat_map(|next| &next.values) {
            // What checks of the plan in force work with stays until the next one is.
            if !matches!(values.get(source), Some(Ok(_))) {
                values.insert(source.clone(), value.clone());
            }
        }
        self.checker.set_secrets(Rc::new(values.into()));
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
                endpoints: backend.endpoints,
                host: backend.host,
                service: backend.service,
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
                let failed = |error| Err(format!("decoding it failed: {error}"));
                Event::Decoded(Box::new(decoded.unwrap_or_else(failed)))
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
    let checks = new.iter().filter_map(|backend| backend.check.as_ref());
    let slowest = checks.map(|check| check.timeout).max();
    (slowest.unwrap_or_default() + FIRST_CHECK_SLACK).min(RELOAD_PATIENCE_MAX)
}
