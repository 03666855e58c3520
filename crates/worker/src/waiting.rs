//! Clients that have sent nothing yet, where a backend is connected to only then. One that is idle is parked: 48 bytes are kept
//! of it, beside its place and its socket's entry.
//!
//! A parked one holds no plan and no service: however many reloads it sees, the cells of backends that are gone are free for
//! others. One that is not parked yet holds the service it came to, for a second or two.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::rc::Rc;
use std::task::Poll;

use evenkeel_net::Stream;
use evenkeel_net::park::Sockets;
use tokio::task::{coop, spawn_local};

use crate::connection::{Connection, Suspended};
use crate::outcome::Outcome;
use crate::worker::{Worker, serve};

/// A connection that waits without a task.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) connection: Suspended,
    pub(crate) client: Stream,
}

const _: () = assert!(size_of::<Option<Waiting>>() <= 48);

impl Sockets for Waiting {
    fn each(&self, each: &mut dyn FnMut(&Stream)) {
        each(&self.client);
    }
}

/// Waits until the client has sent something, or ended its direction without: what to do with that is the backend's business.
/// `None` when it has ended, or was parked.
pub(crate) async fn wait_for_data(
    connection: Connection,
    client: Stream,
) -> Option<(Connection, Stream)> {
    let worker = Rc::clone(&connection.worker);
    let connections = &worker.connections;
    let number = connection.number();
    let (mut connection, mut client) = (connection, client);
    loop {
        connections.waits(number, client.token());
        let stirred = poll_fn(|cx| {
            if client.poll_reset(cx).is_ready() {
                return Poll::Ready(Some(Err(Outcome::ClientGone)));
            }
            if client.poll_readable(cx).is_ready() {
                return Poll::Ready(Some(Ok(())));
            }
            match connections.may_park(number) {
                true => Poll::Ready(None),
                false => Poll::Pending,
            }
        });
        match stirred.await {
            Some(Ok(())) => match client.try_peek(&mut [0]) {
                // A header that was taken off leaves it open whether there is anything behind it.
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Ok(_) => {
                    connections.has_waited(number);
                    connection.follow_plan();
                    return Some((connection, client));
                }
                Err(_) => {
                    connection.end(Outcome::ClientGone);
                    return None;
                }
            },
            Some(Err(outcome)) => {
                connection.end(outcome);
                return None;
            }
            None => {}
        }
        let waiting = Waiting {
            connection: connection.suspend()?,
            client,
        };
        match connections.park_waiting(number, waiting) {
            Ok(()) => return None,
            // The client has done something at this very moment.
            Err(back) => {
                connection = Connection::resume(&worker, back.connection);
                client = back.client;
            }
        }
    }
}

/// Gives those a task again whose clients have sent something, and ends those who have to end: also those whose service is gone,
/// since their books must not keep its cells, and its backends', for as long as a client likes to be silent.
pub(crate) async fn wake_waiting(worker: Rc<Worker>) {
    loop {
        coop::consume_budget().await;
        let mut waiting = worker.connections.stirred_waiting().await;
        let number = waiting.connection.number();
        let is_abandoned = waiting.connection.is_abandoned();
        let sentence = worker.connections.sentence(number);
        let is_http = waiting.connection.is_http();
        let is_closing = is_http && worker.is_draining();
        if !is_abandoned && sentence.is_none() && !is_closing {
            match worker.connections.park_waiting(number, waiting) {
                // It was asked for because of others.
                Ok(()) => continue,
                Err(back) => waiting = back,
            }
        }
        let Waiting { connection, client } = waiting;
        let connection = Connection::resume(&worker, connection);
        let is_idle_http = is_http && sentence.is_none_or(|by| by == Outcome::IdleTimeout);
        if is_idle_http && (sentence.is_some() || is_closing || is_abandoned) && is_silent(&client)
        {
            // Between two requests it may be closed at any time (RFC 9112 section 9.3): in order.
            client.finish_on_close();
            connection.end(Outcome::Served);
            continue;
        }
        // Its books are closed before its socket is reset.
        if sentence.is_some() && !is_idle_http {
            drop(connection);
            continue;
        }
        if is_abandoned && is_silent(&client) {
            connection.end(Outcome::Closed);
            continue;
        }
        worker.connections.waits(number, client.token());
        let task = spawn_local(serve(connection, client));
        worker.connections.running(number, task.abort_handle());
    }
}

fn is_silent(client: &Stream) -> bool {
    let seen = client.try_peek(&mut [0]);
    seen.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}
