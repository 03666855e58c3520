//! Accepts from the listening sockets, one task a socket.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use evenkeel_net::accept::{self, AcceptError, Acceptor, Queue};
use evenkeel_plan::{ListenerCell, SlotIdx};
use evenkeel_scoreboard::WorkerCount;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_local};

use crate::connection::Connection;
use crate::worker::{Worker, serve};

/// Longest time for emptying a queue. Reached only while resources are lacking.
pub(crate) const EMPTYING_MAX: Duration = Duration::from_secs(5);

/// Between two attempts to register a socket, which fails only for lack of memory or watches.
const REGISTER_PAUSE: Duration = Duration::from_millis(100);

/// How accepting stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// What waits in the queue is somebody else's.
    AtOnce,
    /// What waits in the queue is taken first.
    Emptied,
}

/// Whose socket of which listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) slot: SlotIdx,
    pub(crate) listener: ListenerCell,
}

/// A task that accepts from one socket.
#[derive(Debug)]
pub(crate) struct Accepting {
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<Stop>,
    task: JoinHandle<Option<OwnedFd>>,
}

impl Accepting {
    /// Accepts from `socket`, which listens.
    pub(crate) fn start(
        worker: &Rc<Worker>,
        origin: Origin,
        address: SocketAddr,
        socket: OwnedFd,
    ) -> Self {
        let (stop, stopped) = oneshot::channel();
        let source = Source {
            worker: Rc::clone(worker),
            origin,
            address,
            is_exhausted: Cell::new(false),
        };
        Self {
            address,
            stop,
            task: spawn_local(source.run(socket, stopped)),
        }
    }

    /// Deregisters the socket, empties its queue if that was asked for, and gives it back.
    pub(crate) async fn stop(self, how: Stop) -> Option<OwnedFd> {
        // A task that is gone has nothing to stop.
        self.stop.send(how).unwrap_or(());
        self.task.await.unwrap_or_else(|error| {
            tracing::error!(address = %self.address, %error, "accepting has failed");
            None
        })
    }
}

/// Stops several at the same time.
pub(crate) async fn stop_all(
    all: impl IntoIterator<Item = Accepting>,
    how: Stop,
) -> Vec<Option<OwnedFd>> {
    let stopping: Vec<_> = all
        .into_iter()
        .map(|accepting| spawn_local(accepting.stop(how)))
        .collect();
    let mut sockets = Vec::with_capacity(stopping.len());
    for stopping in stopping {
        sockets.push(stopping.await.ok().flatten());
    }
    sockets
}

struct Source {
    worker: Rc<Worker>,
    origin: Origin,
    address: SocketAddr,
    /// Whether the last accept failed for lack of a resource, so that this is logged once.
    is_exhausted: Cell<bool>,
}

impl Source {
    async fn run(self, socket: OwnedFd, mut stop: oneshot::Receiver<Stop>) -> Option<OwnedFd> {
        let mut acceptor = loop {
            // On a second descriptor: a listener must not be lost because epoll had no memory for it.
            match socket.try_clone().and_then(Acceptor::new) {
                Ok(acceptor) => break acceptor,
                Err(error) => {
                    tracing::error!(address = %self.address, %error, "cannot watch a listening socket");
                }
            }
            tokio::select! {
                biased;
                how = &mut stop => return self.leave(Ok(socket), how).await,
                () = tokio::time::sleep(REGISTER_PAUSE) => {}
            }
        };
        drop(socket);
        let how = loop {
            tokio::select! {
                biased;
                how = &mut stop => break how,
                accepted = acceptor.next() => {
                    self.take(accepted);
                    if self.worker.shortage.take() {
                        acceptor.pause();
                    }
                }
            }
        };
        self.leave(acceptor.into_socket(), how).await
    }

    async fn leave(
        &self,
        socket: io::Result<OwnedFd>,
        how: Result<Stop, oneshot::error::RecvError>,
    ) -> Option<OwnedFd> {
        match (socket, how) {
            (Ok(socket), Ok(Stop::Emptied)) => Some(self.empty(socket).await),
            // Nobody may be left who could ask for more.
            (Ok(socket), Ok(Stop::AtOnce) | Err(_)) => Some(socket),
            (Err(error), _) => {
                tracing::error!(address = %self.address, %error, "cannot deregister a listening socket");
                None
            }
        }
    }

    async fn empty(&self, socket: OwnedFd) -> OwnedFd {
        let mut queue = Queue::new(socket);
        let empty = async {
            while let Some(accepted) = queue.next().await.transpose() {
                self.take(accepted);
            }
        };
        if tokio::time::timeout(EMPTYING_MAX, empty).await.is_err() {
            tracing::error!(address = %self.address, "a listener is let go with connections in its queue");
        }
        queue.into_socket()
    }

    fn take(&self, accepted: Result<accept::Accepted, AcceptError>) {
        let own = self.worker.row.worker();
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(AcceptError::Aborted(error)) => {
                own.add(WorkerCount::AcceptAborted, 1);
                tracing::debug!(address = %self.address, %error, "a connection was gone before it was accepted");
                return;
            }
            Err(AcceptError::Exhausted(error)) => {
                own.add(WorkerCount::AcceptExhausted, 1);
                if !self.is_exhausted.replace(true) {
                    tracing::warn!(address = %self.address, %error, "no resources for a connection; accepting pauses");
                }
                return;
            }
        };
        if self.is_exhausted.replace(false) {
            tracing::info!(address = %self.address, "accepting goes on");
        }
        let Some(listener) = self.worker.listener(self.origin.listener) else {
            // A socket is registered only while a plan names it, and is emptied before the plan goes.
            tracing::error!(address = %self.address, "a connection of a listener that no plan names");
            return;
        };
        let is_adopted = self.origin.slot != self.worker.slot;
        let connection = Connection::open(&self.worker, &listener, client, is_adopted);
        if let Err(outcome) = connection.enter() {
            // Counted before it is reset: who has seen that finds it in the counters.
            return connection.end(outcome);
        }
        let number = connection.number();
        let task = spawn_local(serve(connection, stream));
        self.worker.connections.running(number, task.abort_handle());
    }
}
