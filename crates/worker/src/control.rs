//! Does what the supervisor says, one message after the other, beside the traffic.
//!
//! ```text
//!              Prepare                     decoded, listeners here
//!   in force --------> preparing (thread) ------------------------> prepared --+-- Abort --> in force
//!      ^                   |  cannot: Refused                                  |
//!      |                   v                                                   | generation cell, or Commit
//!      |                in force                                               v
//!      +--- Applied ---- listeners registered and let go <--- Commit ---- switched
//! ```

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_control::child::{CookieKeys, Descriptor, FromChild, LINGERING_MAX, ToChild};
use evenkeel_control::{ChannelError, Link};
use evenkeel_plan::{Delta, DeltaError, ListenerCell, Plan, Sealed, SlotIdx, SourceSpec};
use tokio::sync::oneshot;

use crate::accept::{Accepting, Origin, Stop, stop_all};
use crate::cookies;
use crate::worker::{Arrived, Prepared, Worker};

/// Why the worker stops serving under its supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// It was told to drain.
    Drain(Duration),
    /// The supervisor is gone.
    Orphaned,
}

/// The worker's side of the conversation, and the sockets that came over it.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) link: Link,
    pub(crate) worker: Rc<Worker>,
    accepting: HashMap<Origin, Accepting>,
    adopted: BTreeSet<SlotIdx>,
    preparing: Option<Preparing>,
}

/// A plan that is being decoded on a thread of its own.
#[derive(Debug)]
struct Preparing {
    generation: u64,
    result: oneshot::Receiver<Result<Decoded, DecodeError>>,
}

/// What comes with a generation.
#[derive(Debug)]
struct Decoded {
    plan: Plan,
    keys: CookieKeys,
}

#[derive(Debug, thiserror::Error)]
enum DecodeError {
    #[error("cannot read the plan: {0}")]
    Read(#[from] io::Error),
    #[error("cannot decode the plan: {0}")]
    Decode(#[from] DeltaError),
    #[error("{0}")]
    Keys(String),
}

impl Control {
    pub(crate) fn new(link: Link, worker: Rc<Worker>) -> Self {
        Self {
            link,
            worker,
            accepting: HashMap::new(),
            adopted: BTreeSet::new(),
            preparing: None,
        }
    }

    /// Serves under the supervisor until it says to drain or is gone. `first` was received already.
    pub(crate) async fn serve(&mut self, first: ToChild) -> Leave {
        let mut next = Some(Ok(first));
        loop {
            let message = match next.take() {
                Some(message) => message,
                None => tokio::select! {
                    message = self.link.next() => message,
                    (generation, result) = decoded(&mut self.preparing) => {
                        self.decoded(generation, result).await;
                        continue;
                    }
                },
            };
            self.take_bells();
            match message {
                Ok(message) => {
                    if let Some(deadline) = self.obey(message).await {
                        return Leave::Drain(deadline);
                    }
                }
                Err(ChannelError::Closed) => return Leave::Orphaned,
                Err(error @ ChannelError::Io(_)) => {
                    tracing::error!(%error, "the channel to the supervisor is broken");
                    return Leave::Orphaned;
                }
                // One message is lost. What it asked for is not answered, and the supervisor replaces who does not answer.
                Err(error) => tracing::error!(%error, "cannot read a message of the supervisor"),
            }
        }
    }

    async fn obey(&mut self, message: ToChild) -> Option<Duration> {
        match message {
            ToChild::Prepare { generation } => self.prepare(generation),
            ToChild::Commit { generation } => self.commit(generation).await,
            ToChild::Abort { generation } => self.abort(generation),
            ToChild::Adopt { slot } => self.adopt(slot),
            ToChild::Disown { slot } => self.disown(slot).await,
            ToChild::Drain { deadline } => return Some(deadline),
            // The link takes descriptors itself, Hello comes once, and verdicts and names are the monitor's.
            ToChild::Hello(_)
            | ToChild::Descriptors { .. }
            | ToChild::Explain { .. }
            | ToChild::SeedNames { .. }
            | ToChild::Seed { .. } => {
                tracing::warn!("a message that is not for a worker in service");
            }
        }
        None
    }

    /// Doorbells of other workers, which may come with any message.
    fn take_bells(&mut self) {
        let is_bell = |descriptor: &Descriptor| matches!(descriptor, Descriptor::Doorbell { .. });
        for (descriptor, bell) in self.link.take_all(is_bell) {
            if let Descriptor::Doorbell { slot } = descriptor {
                self.worker.queues.bell(slot, bell);
            }
        }
    }

    fn prepare(&mut self, generation: u64) {
        // One that was prepared and is in force already is switched to, so that the delta applies to it.
        let base = Arc::clone(self.worker.view().plan());
        self.preparing = None;
        let keys = self.link.take(&Descriptor::CookieKeys { generation });
        let Some(blob) = self.link.take(&Descriptor::Delta { generation }) else {
            return self.refuse(generation, "the plan has not arrived".to_owned());
        };
        let (sender, result) = oneshot::channel();
        let decode = move || {
            // Who asked may have been told to forget it.
            drop(sender.send(decode(blob, keys, &base)));
        };
        let thread = std::thread::Builder::new().name("ek-plan".to_owned());
        match thread.spawn(decode) {
            Ok(_) => self.preparing = Some(Preparing { generation, result }),
            Err(error) => self.refuse(generation, format!("no thread for the plan: {error}")),
        }
    }

    async fn decoded(&mut self, generation: u64, result: Result<Decoded, String>) {
        let prepared = match result.and_then(|next| check_rights(&next.plan).map(|()| next)) {
            Ok(next) => self.build(next).await,
            Err(reason) => Err(reason),
        };
        match prepared {
            Ok(prepared) => {
                self.worker.prepare(prepared);
                self.link.send(FromChild::Prepared { generation });
            }
            Err(reason) => self.refuse(generation, reason),
        }
    }

    /// Makes the view, and takes the sockets of the listeners that are new in it.
    async fn build(&mut self, next: Decoded) -> Result<Prepared, String> {
        let Decoded { plan, keys } = next;
        let worker = Rc::clone(&self.worker);
        let base = worker.view();
        let change = base.change_to(Arc::new(plan), keys, &worker).await?;
        let slot = worker.slot;
        let mut arrived: HashMap<ListenerCell, Arrived> = self
            .take_listeners(|listener, of| of == slot && change.view.listener(listener).is_some())
            .into_iter()
            .map(|(_, arrived)| (arrived.listener, arrived))
            .collect();
        let mut sockets = Vec::new();
        for (listener, _) in change.view.plan().listeners() {
            let origin = Origin {
                slot,
                listener: listener.cell,
            };
            if self.accepting.contains_key(&origin) {
                continue;
            }
            match arrived.remove(&listener.cell) {
                Some(arrived) => sockets.push(arrived),
                None => {
                    let address = listener.spec.address;
                    return Err(format!("the listening socket of {address} has not arrived"));
                }
            }
        }
        Ok(Prepared { change, sockets })
    }

    fn refuse(&self, generation: u64, reason: String) {
        tracing::error!(generation, reason, "cannot switch to another generation");
        self.link.send(FromChild::Refused { generation, reason });
    }

    fn abort(&mut self, generation: u64) {
        self.preparing
            .take_if(|preparing| preparing.generation == generation);
        self.worker.forget(generation);
        drop(self.link.take(&Descriptor::Delta { generation }));
        drop(self.link.take(&Descriptor::CookieKeys { generation }));
        self.forget_strangers();
    }

    async fn commit(&mut self, generation: u64) {
        self.worker.switch(generation);
        if self.worker.view().generation() != generation {
            // Not answered: a worker that cannot follow has to be replaced, and the supervisor does that.
            tracing::error!(
                generation,
                "told to switch to a generation that was not prepared"
            );
            return;
        }
        let lingering = self.settle().await;
        for cells in lingering.chunks(LINGERING_MAX) {
            self.link.send(FromChild::Lingering {
                generation,
                cells: cells.to_vec(),
            });
        }
        self.worker
            .board
            .slot(self.worker.slot)
            .set_generation(generation);
        self.link.send(FromChild::Applied { generation });
    }

    /// Makes the sockets what the view in force says, and returns the backends that it does not name and that are held.
    pub(crate) async fn settle(&mut self) -> Vec<evenkeel_plan::BackendCell> {
        let view = self.worker.view();
        let uncommitted = self.worker.take_uncommitted();
        for arrived in uncommitted.sockets {
            self.start(self.worker.slot, arrived);
        }
        for slot in self.adopted.clone() {
            self.accept_from(slot);
        }
        let is_gone = |origin: &Origin| view.listener(origin.listener).is_none();
        let gone: Vec<_> = self
            .accepting
            .extract_if(|origin, _| is_gone(origin))
            .map(|(_, accepting)| accepting)
            .collect();
        // The supervisor lets go of its copies after our answer: whoever waits in a queue then is reset.
        drop(stop_all(gone, Stop::Emptied).await);
        self.worker.forget_closing();
        self.forget_strangers();
        self.worker.apply_globals();
        self.worker.holders.linger(&uncommitted.unnamed)
    }

    fn adopt(&mut self, slot: SlotIdx) {
        self.adopted.insert(slot);
        let sockets = self.accept_from(slot);
        tracing::info!(%slot, sockets, "accepting for a slot that has no worker");
    }

    async fn disown(&mut self, slot: SlotIdx) {
        self.adopted.remove(&slot);
        let theirs: Vec<_> = self
            .accepting
            .extract_if(|origin, _| origin.slot == slot)
            .map(|(_, accepting)| accepting)
            .collect();
        drop(stop_all(theirs, Stop::Emptied).await);
        drop(self.take_listeners(|_, of| of == slot));
        tracing::info!(%slot, "accepting no more for another slot");
        self.link.send(FromChild::Disowned { slot });
    }

    /// Accepts from the sockets of an adopted slot that have arrived; how many.
    fn accept_from(&mut self, slot: SlotIdx) -> usize {
        let view = self.worker.view();
        let sockets =
            self.take_listeners(|listener, of| of == slot && view.listener(listener).is_some());
        let count = sockets.len();
        for (slot, arrived) in sockets {
            self.start(slot, arrived);
        }
        count
    }

    fn start(&mut self, slot: SlotIdx, arrived: Arrived) {
        let Arrived {
            listener,
            address,
            socket,
        } = arrived;
        let origin = Origin { slot, listener };
        let accepting = Accepting::start(&self.worker, origin, address, socket);
        self.accepting.insert(origin, accepting);
    }

    /// Listening sockets that have arrived and that `wanted` wants.
    fn take_listeners(
        &mut self,
        wanted: impl Fn(ListenerCell, SlotIdx) -> bool,
    ) -> Vec<(SlotIdx, Arrived)> {
        let is_wanted = |descriptor: &Descriptor| match descriptor {
            Descriptor::Listener { listener, slot, .. } => wanted(*listener, *slot),
            _ => false,
        };
        let taken = self.link.take_all(is_wanted).into_iter();
        taken
            .filter_map(|(descriptor, socket)| match descriptor {
                Descriptor::Listener {
                    listener,
                    slot,
                    address,
                } => Some((
                    slot,
                    Arrived {
                        listener,
                        address,
                        socket,
                    },
                )),
                _ => None,
            })
            .collect()
    }

    /// Drops sockets that have arrived for listeners that the view does not have.
    fn forget_strangers(&mut self) {
        let view = self.worker.view();
        drop(self.take_listeners(|listener, _| view.listener(listener).is_none()));
    }

    /// Stops accepting, deregisters every listening socket, and gives them back: dropping them leaves what still waits in
    /// their queues to whoever else holds them.
    pub(crate) async fn stop_accepting(
        &mut self,
        how: Stop,
    ) -> Vec<(Origin, std::net::SocketAddr, OwnedFd)> {
        let all: Vec<_> = self.accepting.drain().collect();
        let described: Vec<_> = all
            .iter()
            .map(|(origin, accepting)| (*origin, accepting.address))
            .collect();
        let sockets = stop_all(all.into_iter().map(|(_, a)| a), how).await;
        described
            .into_iter()
            .zip(sockets)
            .filter_map(|((origin, address), socket)| Some((origin, address, socket?)))
            .collect()
    }

    /// Accepts again from sockets that were stopped.
    pub(crate) fn accept_again(&mut self, sockets: Vec<(Origin, std::net::SocketAddr, OwnedFd)>) {
        for (origin, address, socket) in sockets {
            let listener = origin.listener;
            self.start(
                origin.slot,
                Arrived {
                    listener,
                    address,
                    socket,
                },
            );
        }
    }
}

/// Whether this process may do what the plan wants. What was given up cannot be had back.
fn check_rights(plan: &Plan) -> Result<(), String> {
    let is_foreign =
        |service: &&Arc<Sealed>| service.record().spec.connect.source == SourceSpec::Client;
    match plan.services().find(is_foreign) {
        Some(service) if !evenkeel_sys::process::has_net_raw() => Err(format!(
            "service `{}` has `source = \"client\"`, and this worker was started without the right to clients' addresses \
             (CAP_NET_RAW): start the daemon with that right, and anew if it runs with a configuration that did not need it",
            service.record().name()
        )),
        _ => Ok(()),
    }
}

/// The outcome of what is being prepared; never while nothing is.
///
/// # Cancel safety
/// Nothing is lost when the future is dropped.
async fn decoded(preparing: &mut Option<Preparing>) -> (u64, Result<Decoded, String>) {
    let Some(running) = preparing else {
        return std::future::pending().await;
    };
    let result = match (&mut running.result).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the thread that decodes the plan has failed".to_owned()),
    };
    let generation = running.generation;
    *preparing = None;
    (generation, result)
}

/// On a thread of its own: ten thousand services must not stall the traffic.
fn decode(blob: OwnedFd, keys: Option<OwnedFd>, base: &Plan) -> Result<Decoded, DecodeError> {
    let bytes = evenkeel_sys::blob::read(blob)?;
    Ok(Decoded {
        plan: base.apply(Delta::decode(&bytes)?)?,
        keys: cookies::read_keys(keys).map_err(DecodeError::Keys)?,
    })
}
