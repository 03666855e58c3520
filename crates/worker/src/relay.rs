//! Relays between a client and its backend; the connection is the meter. An idle relay is parked and goes on later.

use std::rc::Rc;

use evenkeel_net::Stream;
use evenkeel_net::park::Sockets;
use evenkeel_net::relay::{State, Stopped, relay_frames};
use evenkeel_plan::Framing;
use tokio::task::{coop, spawn_local};

use crate::connection::Connection;
use crate::outcome::Outcome;
use crate::upstream;
use crate::worker::Worker;

/// A connection with a backend: all that is kept of one that is parked. Dropping it closes the books, then the sockets, and gives
/// back its places at listener and backend last.
#[derive(Debug)]
pub(crate) struct Relaying {
    client: Stream,
    backend: Stream,
    state: State,
    connection: Connection,
}

impl Drop for Relaying {
    fn drop(&mut self) {
        self.connection.close_books();
    }
}

impl Relaying {
    pub(crate) fn new(connection: Connection, client: Stream, backend: Stream) -> Self {
        Self {
            client,
            backend,
            state: State::default(),
            connection,
        }
    }
}

impl Sockets for Relaying {
    fn each(&self, each: &mut dyn FnMut(&Stream)) {
        each(&self.client);
        each(&self.backend);
    }
}

/// Relays until both directions have ended, one side fails, or it has been parked.
#[expect(
    clippy::manual_async_fn,
    reason = "an async fn keeps room for its arguments twice"
)]
pub(crate) fn relay(mut relaying: Relaying) -> impl Future<Output = ()> {
    async move {
        loop {
            let Relaying {
                connection,
                client,
                backend,
                state,
            } = &relaying;
            let stopped = match connection.entrance.framing {
                Framing::None => {
                    evenkeel_net::relay::relay(client, backend, connection, *state).await
                }
                Framing::Mllp { max_bytes } => {
                    let max = max_bytes as usize;
                    Box::pin(relay_frames(client, backend, connection, *state, max)).await
                }
            };
            match stopped {
                Stopped::Ended(by) => {
                    relaying.connection.ends(Outcome::Relayed(by));
                    return;
                }
                Stopped::Idle(state) => relaying.state = state,
            }
            upstream::keep_alive(&mut relaying.connection, &relaying.backend);
            let worker = Rc::clone(&relaying.connection.worker);
            match worker
                .connections
                .park(relaying.connection.number(), relaying)
            {
                Ok(()) => return,
                // A peer has done something at this very moment.
                Err(back) => relaying = back,
            }
        }
    }
}

/// Gives parked connections a task again when one of their peers does something.
pub(crate) async fn wake_parked(worker: Rc<Worker>) {
    loop {
        coop::consume_budget().await;
        let relaying = worker.connections.stirred().await;
        let number = relaying.connection.number();
        worker.connections.woken(number, relaying.client.token());
        let task = spawn_local(relay(relaying));
        worker.connections.running(number, task.abort_handle());
    }
}

#[cfg(test)]
mod tests;
