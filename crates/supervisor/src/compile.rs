//! From the configuration's file to a sealed plan with its sockets bound. Whatever goes wrong, what runs is not touched.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use evenkeel_config::{ConfigErrors, Difference, Loaded};
use evenkeel_control::operator::Answer;
use evenkeel_plan::{Plan, Spec};
use evenkeel_sys::listen;

use crate::life::{Event, Settings};
use crate::perform::Supervisor;
use crate::seal::{self, SealedPlan};
use crate::workers::Machine;

/// A compiled configuration that waits to be put in force.
#[derive(Debug)]
pub(crate) struct Pending {
    /// The plan and its cells.
    pub(crate) sealed: SealedPlan,
    /// What it was made of.
    pub(crate) spec: Spec,
    /// What it changes, a line each.
    pub(crate) changes: Vec<String>,
    /// Warnings of the configuration, a line each.
    pub(crate) warnings: Vec<String>,
    /// The metrics endpoint's sockets under it.
    pub(crate) metrics: Metrics,
}

/// Sockets of the metrics endpoint by configured address, with the real one.
pub(crate) type Metrics = BTreeMap<SocketAddr, (SocketAddr, Arc<OwnedFd>)>;

/// Result of reading the file on a thread of its own.
pub(crate) type Read = Result<Loaded, ConfigErrors>;

/// Reads the file beside the loop.
pub(crate) async fn read(path: PathBuf) -> Read {
    let task = tokio::task::spawn_blocking(move || evenkeel_config::load(&path));
    match task.await {
        Ok(read) => read,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// The parts of `plan` that steer the machine.
#[must_use]
pub(crate) fn settings(plan: &Plan, machine: &Machine) -> Settings {
    let globals = &plan.globals;
    Settings {
        workers: machine.workers(globals.workers, globals.limits.workers),
        steer_after: globals.watchdog.steer_after,
        kill_after: globals.watchdog.kill_after,
        drain_delay: globals.drain.delay,
        drain_deadline: globals.drain.deadline,
        handshakes: globals.drain.handshakes,
    }
}

/// The metrics endpoint's sockets for `wanted`: those in `have` are kept.
///
/// # Errors
/// The address that cannot be listened on, and why.
pub(crate) fn metrics_sockets(wanted: &[SocketAddr], have: &Metrics) -> Result<Metrics, String> {
    let open = |address: SocketAddr| -> std::io::Result<(SocketAddr, Arc<OwnedFd>)> {
        let socket = listen::bind(address, listen::Options::default())?;
        let real = listen::local_address(socket.as_fd())?;
        listen::listen(socket.as_fd(), 128)?;
        Ok((real, Arc::new(socket)))
    };
    wanted
        .iter()
        .map(|&address| match have.get(&address) {
            Some((real, socket)) => Ok((address, (*real, Arc::clone(socket)))),
            None => open(address)
                .map(|opened| (address, opened))
                .map_err(|error| format!("failed to listen on {address} for metrics: {error}")),
        })
        .collect()
}

impl Supervisor {
    /// Takes the result of reading the file: the next event, and the answer where the reload ends here.
    pub(crate) fn compiled(&mut self, read: Read) -> Event {
        let (answer, applied) = match read {
            Err(errors) => (
                Answer::Invalid {
                    problems: errors.problems().iter().map(ToString::to_string).collect(),
                    report: errors.render(false),
                },
                false,
            ),
            Ok(loaded) => match self.compile(loaded) {
                Ok(Some(event)) => return event,
                Ok(None) => (
                    Answer::Reloaded {
                        generation: self.plan.generation,
                        changes: Vec::new(),
                        warnings: Vec::new(),
                    },
                    true,
                ),
                Err(reason) => (Answer::Failed { reason }, false),
            },
        };
        self.remember_reload(applied, &answer);
        let tickets = std::mem::take(&mut self.compiling);
        self.answer(tickets, &answer);
        Event::NothingToDo
    }

    /// `None` = nothing has changed.
    fn compile(&mut self, loaded: Loaded) -> Result<Option<Event>, String> {
        let difference = Difference::between(&self.spec, &loaded.spec);
        if difference.is_empty() {
            return Ok(None);
        }
        if loaded.spec.globals.limits != self.spec.globals.limits {
            return Err(
                "`limits` are fixed for the life of the supervisor: restart it to change them"
                    .to_owned(),
            );
        }
        let generation = self.next_generation;
        let sealed = seal::seal(&loaded.spec, generation, &self.plan, &self.table)
            .map_err(|full| full.to_string())?;
        for &cell in &sealed.fresh.services {
            self.board.clear_service(cell);
        }
        for &cell in &sealed.fresh.listeners {
            self.board.clear_listener(cell);
        }
        for cell in &sealed.fresh.backends {
            self.board.clear_backend(*cell);
            self.reports.remove(cell);
        }
        let metrics = metrics_sockets(&loaded.spec.globals.metrics, &self.metrics)?;
        self.sockets
            .bind(&sealed.plan)
            .map_err(|error| format!("failed to {error}: {}", error.source))?;
        self.next_generation += 1;
        let settings = settings(&sealed.plan, &self.machine);
        self.pending = Some(Pending {
            sealed,
            spec: loaded.spec,
            changes: difference.changes.iter().map(ToString::to_string).collect(),
            warnings: loaded.warnings.iter().map(ToString::to_string).collect(),
            metrics,
        });
        Ok(Some(Event::Compiled {
            generation,
            settings,
        }))
    }
}
