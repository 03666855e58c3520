//! From the configuration's file to a sealed plan with its sockets bound. Whatever goes wrong, what runs is not touched.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use evenkeel_config::{Change, ConfigErrors, Difference, Loaded};
use evenkeel_control::child::{CookieKeys, Secrets};
use evenkeel_control::operator::Answer;
use evenkeel_plan::{Plan, SecretSource, Spec};
use evenkeel_sys::listen;

use crate::access_log::{self, AccessLog};
use crate::life::{Event, Settings};
use crate::perform::Supervisor;
use crate::rights;
use crate::seal::{self, SealedPlan};
use crate::secrets;
use crate::workers::Machine;

/// A compiled configuration that waits to be put in force.
#[derive(Debug)]
pub(crate) struct Pending {
    /// The plan and its cells.
    pub(crate) sealed: SealedPlan,
    /// What it was made of.
    pub(crate) spec: Spec,
    /// Secrets that its checks need.
    pub(crate) secrets: Secrets,
    /// Keys that its cookies need.
    pub(crate) cookie_keys: CookieKeys,
    /// What to say of it; `None` = only names stand for other addresses.
    pub(crate) of_file: Option<OfFile>,
    /// The metrics endpoint's sockets under it.
    pub(crate) metrics: Metrics,
    /// Where lines of the access log go under it.
    pub(crate) access_log: AccessLog,
}

/// What a reload of the file says.
#[derive(Debug)]
pub(crate) struct OfFile {
    /// What it changes, a line each.
    pub(crate) changes: Vec<String>,
    /// Warnings of the configuration, a line each.
    pub(crate) warnings: Vec<String>,
}

/// Sockets of the metrics endpoint by configured address, with the real one.
pub(crate) type Metrics = BTreeMap<SocketAddr, (SocketAddr, Arc<OwnedFd>)>;

/// The configuration's file and what it names, read and opened on a thread of its own.
#[derive(Debug)]
pub(crate) struct Files {
    loaded: Loaded,
    secrets: Secrets,
    cookie_keys: Result<Vec<(SecretSource, Vec<u8>)>, String>,
    access_log: Result<AccessLog, String>,
}

/// What is to be compiled.
#[derive(Debug)]
pub(crate) enum Read {
    /// The file as it is now.
    File(Box<Result<Files, ConfigErrors>>),
    /// What is in force, with what names stand for now.
    Names,
}

/// Reads the file beside the loop.
pub(crate) async fn read(path: PathBuf) -> Read {
    let task = tokio::task::spawn_blocking(move || {
        let loaded = evenkeel_config::load(&path)?;
        Ok(Files {
            secrets: secrets::read(&loaded.spec),
            cookie_keys: secrets::read_keys(&loaded.spec),
            access_log: access_log::open(&loaded.spec.globals.access_log),
            loaded,
        })
    });
    match task.await {
        Ok(read) => Read::File(Box::new(read)),
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
    /// Takes what was read: the next event, and the answer where the reload ends here.
    pub(crate) fn compiled(&mut self, read: Read) -> Event {
        let read = match read {
            Read::File(read) => *read,
            Read::Names => return self.compile_names(),
        };
        let (answer, applied) = match read {
            Err(errors) => (
                Answer::Invalid {
                    problems: errors.problems().iter().map(ToString::to_string).collect(),
                    report: errors.render(false),
                },
                false,
            ),
            Ok(files) => match self.compile(files) {
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
    fn compile(&mut self, files: Files) -> Result<Option<Event>, String> {
        let Files {
            loaded,
            secrets,
            cookie_keys,
            access_log,
        } = files;
        let access_log = access_log?;
        let cookie_keys = CookieKeys {
            own: self.cookie_keys.own.clone(),
            values: cookie_keys?,
        };
        rights::check(&loaded.spec)?;
        for problem in secrets::problems(&secrets) {
            tracing::warn!("{problem}");
        }
        let is_same_log = access_log::is_same(&access_log, &self.access_log);
        let same_secrets = secrets == self.secrets && cookie_keys == self.cookie_keys;
        if loaded.spec == self.spec && same_secrets && is_same_log {
            return Ok(None);
        }
        let difference = Difference::between(&self.spec, &loaded.spec);
        let mut changes: Vec<String> = difference.changes.iter().map(ToString::to_string).collect();
        if secrets != self.secrets {
            changes.push("secrets of health checks have changed".to_owned());
        }
        if cookie_keys != self.cookie_keys {
            changes.push("keys of cookies have changed".to_owned());
        }
        let same_spec = loaded.spec.globals.access_log == self.spec.globals.access_log;
        if !is_same_log && same_spec {
            changes.push("the access log's file was opened anew".to_owned());
        }
        if loaded.spec.globals.limits != self.spec.globals.limits {
            return Err(fixed(&difference));
        }
        // Some may have become idle since.
        self.free_cells();
        let generation = self.next_generation;
        let sealed = seal::seal(
            &loaded.spec,
            generation,
            &self.plan,
            &self.table,
            &self.names,
        )
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
        seal::seed_gates(&self.board, &self.plan, &sealed.plan);
        let metrics = metrics_sockets(&loaded.spec.globals.metrics, &self.metrics)?;
        self.sockets
            .bind(&sealed.plan)
            .map_err(|error| format!("failed to {error}: {}", error.source))?;
        self.next_generation += 1;
        let settings = settings(&sealed.plan, &self.machine);
        self.pending = Some(Pending {
            sealed,
            spec: loaded.spec,
            secrets,
            cookie_keys,
            of_file: Some(OfFile {
                changes,
                warnings: loaded.warnings.iter().map(ToString::to_string).collect(),
            }),
            metrics,
            access_log,
        });
        Ok(Some(Event::Compiled {
            generation,
            settings,
        }))
    }

    /// The plan in force with what names stand for now. Nothing else changes, so that nothing can be lacking.
    fn compile_names(&mut self) -> Event {
        let generation = self.next_generation;
        let sealed = seal::seal(&self.spec, generation, &self.plan, &self.table, &self.names);
        let sealed = match sealed {
            Ok(sealed) => sealed,
            Err(full) => {
                tracing::error!(%full, "names stand for other addresses, and the plan cannot follow");
                return Event::NothingToDo;
            }
        };
        if sealed.plan.digest() == self.plan.digest() {
            return Event::NothingToDo;
        }
        self.next_generation += 1;
        self.pending = Some(Pending {
            sealed,
            spec: self.spec.clone(),
            secrets: self.secrets.clone(),
            cookie_keys: self.cookie_keys.clone(),
            of_file: None,
            metrics: self.metrics.clone(),
            access_log: self.access_log.clone(),
        });
        Event::Compiled {
            generation,
            settings: self.state.settings,
        }
    }
}

/// Why a reload that changes `[limits]` is refused, with the keys that it would change.
fn fixed(difference: &Difference) -> String {
    let changed = difference.changes.iter().filter_map(|change| match change {
        Change::Setting { key, from, to } if key.starts_with("limits.") => {
            Some(format!("`{key}` ({from} -> {to})"))
        }
        _ => None,
    });
    let changed: Vec<_> = changed.collect();
    let keys = changed.join(", ");
    format!("{keys}: `limits` are fixed for the life of the supervisor: restart it to change them")
}

#[cfg(test)]
mod tests {
    use evenkeel_plan::Globals;

    use super::*;

    #[test]
    fn a_refused_change_of_limits_names_what_would_change() {
        let before = Spec {
            globals: Globals::default(),
            services: Vec::new(),
        };
        let mut after = before.clone();
        after.globals.allow_exec = true;
        after.globals.limits.sources = 4_096;
        assert_eq!(
            fixed(&Difference::between(&before, &after)),
            "`limits.sources` (65536 -> 4096): `limits` are fixed for the life of the supervisor: restart it to change them"
        );
    }
}
