//! From an accepted connection to one with a backend.
//!
//! ```text
//! PROXY header? --> data first? (waiting.rs) --> pick --> connect --> greeted: relay
//!                                                 ^  ^ |      | failed: another one
//!                                                 |  | |      |
//!                                                 |  | `------)-- full: queue.rs, then pick again
//!                                                 |  `--------'
//!                                                 `- closed: its sorry service
//! ```

use std::net::SocketAddr;
use std::rc::Rc;

use evenkeel_log::access::Phase;
use evenkeel_net::Stream;
use evenkeel_net::connect::{ConnectError, Fault};
use evenkeel_plan::OnDown;
use evenkeel_scoreboard::{BackendCount, ServiceCount};
use evenkeel_sys::clock;
use tokio::time::{Instant, sleep_until};

use crate::connection::Connection;
use crate::connections::Chosen;
use crate::doorbell::went_down;
use crate::handshake::{self, HeaderError};
use crate::outcome::Outcome;
use crate::pick::{Picked, Refusal, Tried, Wanted, is_closed, pick};
use crate::plan::Service;
use crate::upstream;

/// Reads the PROXY protocol header of a trusted peer, and looks at whose connection it is.
///
/// # Errors
/// How the connection ends.
pub(crate) async fn shake_hands(
    connection: &mut Connection,
    client: &Stream,
) -> Result<(), Outcome> {
    let begun = clock::monotonic_ns();
    let header = handshake::header(client, connection.entrance.handshake).await;
    connection.times.handshake = Connection::since(begun);
    match header {
        Ok(header) => connection.claim(&header),
        Err(HeaderError::Gone) => return Err(Outcome::ClientGone),
        Err(error @ (HeaderError::Late | HeaderError::Invalid(_))) => {
            let peer = SocketAddr::from(connection.client);
            tracing::debug!(%peer, %error, "a trusted peer sent no PROXY protocol header");
            return Err(Outcome::ProxyHeader);
        }
    }
    connection.admit()
}

/// Picks backends and connects until one is reached. Nothing of the client was passed on yet, so each attempt is safe.
///
/// # Errors
/// How the connection ends: the service is closed, no backend was eligible, none could be reached, we lack a resource, or
/// the client has gone.
pub(crate) async fn connect(
    connection: &mut Connection,
    client: &Stream,
) -> Result<Stream, Outcome> {
    let mut wanted = Wanted::of(connection.client.ip());
    let mut failure = Outcome::NoBackend;
    let mut is_sorry = false;
    let mut attempts_before = 0;
    let mut begun = clock::monotonic_ns();
    loop {
        let picked = match choose(connection, client, &mut wanted, &mut begun).await? {
            Ok(picked) => picked,
            Err(Refusal::NoBackend) => return Err(failure),
            Err(Refusal::Full) => return Err(Outcome::QueueFull),
            // A sorry service's own one is not followed: there is no way round in circles.
            Err(Refusal::Closed) if is_sorry || !connection.hand_to_sorry() => {
                return Err(Outcome::Closed);
            }
            Err(Refusal::Closed) => {
                is_sorry = true;
                attempts_before = connection.attempts;
                wanted = Wanted::of(wanted.client);
                failure = Outcome::NoBackend;
                continue;
            }
        };
        if connection.attempts > attempts_before {
            connection.count(ServiceCount::Retries);
        }
        let was_exhausted = failure == Outcome::Exhausted;
        let Some(service) = connection.service.as_ref().map(Rc::clone) else {
            return Err(failure);
        };
        if service.http.is_some() {
            // It was one of TCP when the client came. Bytes that nobody has looked at would pass its routes and rules by.
            return Err(Outcome::Closed);
        }
        let reached = reach(connection, client, &service, &picked, failure).await;
        if reached.is_err() {
            connection.times.connect = Connection::since(begun);
        }
        failure = match reached {
            // Nobody was told to reset it while it was being connected.
            Ok(_) if is_lost(&service, &picked) => Outcome::DownReset,
            Ok(backend) => {
                connection.connected(begun);
                let chosen = Chosen {
                    backend: picked.cell,
                    down_since: picked.down_since,
                };
                let connections = &connection.worker.connections;
                connections.relaying(connection.number(), client.token(), chosen);
                connection.forget_plan();
                return Ok(backend);
            }
            Err(Outcome::ClientGone) => return Err(Outcome::ClientGone),
            Err(failure) => failure,
        };
        let attempts_max = service.spec().connect.attempts;
        if was_exhausted || connection.attempts - attempts_before >= attempts_max {
            return Err(failure);
        }
    }
}

/// Picks a backend, and waits for one that is full if there is none else. `begun` becomes the time at which connecting begins.
pub(crate) async fn choose(
    connection: &mut Connection,
    client: &Stream,
    wanted: &mut Wanted,
    begun: &mut u64,
) -> Result<Result<Picked, Refusal>, Outcome> {
    // What it was picked for before counts no longer.
    connection.let_go();
    let Some(service) = connection.service.as_mut() else {
        return Ok(Err(Refusal::NoBackend));
    };
    let is_waited_for = || service.queue.as_ref().is_some_and(|q| q.is_waited_in());
    // Who comes while others wait goes behind them.
    let mut result = match wanted.tried.count() == 0 && is_waited_for() {
        true => Err(Refusal::Full),
        false => pick(&connection.worker, service, wanted),
    };
    if matches!(result, Err(Refusal::Full)) {
        connection.phase(Phase::Queue);
        let waited = clock::monotonic_ns();
        let waiting = wait_in_queue(connection, client, wanted).await;
        if matches!(waiting, Ok(Err(Refusal::Full))) {
            return Ok(Err(Refusal::Full));
        }
        connection.times.queue = Connection::since(waited);
        result = waiting?;
        *begun = clock::monotonic_ns();
    }
    connection.phase(Phase::Connect);
    Ok(result.map(|mut picked| {
        wanted.tried.add(picked.cell);
        connection.backend = picked.held.take();
        picked
    }))
}

async fn wait_in_queue(
    connection: &mut Connection,
    client: &Stream,
    wanted: &mut Wanted,
) -> Result<Result<Picked, Refusal>, Outcome> {
    let Some(service) = connection.service.as_mut() else {
        return Ok(Err(Refusal::NoBackend));
    };
    let spec = service.spec().queue;
    let queue = service.queue.as_ref().map(Rc::clone);
    let Some(place) = queue.and_then(|queue| queue.join(spec.length)) else {
        return Ok(Err(Refusal::Full));
    };
    let deadline = Instant::now() + spec.timeout;
    let is_gone_at_end = connection.is_gone_at_end;
    // Who waits takes any backend that has room, also one that could not be reached before: else those behind would wait for what
    // only this one cannot use.
    wanted.tried = Tried::default();
    loop {
        tokio::select! {
            biased;
            () = until_gone(client, is_gone_at_end) => return Err(Outcome::ClientGone),
            () = place.turn() => {}
            () = sleep_until(deadline) => return Err(Outcome::QueueTimeout),
        }
        // A plan that came meanwhile may have another limit, or another backend.
        *service = connection.worker.now(service);
        match pick(&connection.worker, service, wanted) {
            Err(Refusal::Full) => {}
            result => return Ok(result),
        }
    }
}

/// Tries the endpoints of a backend in turn. All of them together are one attempt, and fail as one. `failure` is how the
/// attempt before ended.
pub(crate) async fn reach(
    connection: &mut Connection,
    client: &Stream,
    service: &Service,
    picked: &Picked,
    mut failure: Outcome,
) -> Result<Stream, Outcome> {
    let spec = &service.spec().connect;
    connection.attempts = connection.attempts.saturating_add(1);
    let (before, first) = service.backends[picked.index]
        .endpoints
        .split_at(picked.turn);
    let mut is_silent = false;
    let mut is_tried = false;
    for &address in first.iter().chain(before) {
        if !upstream::suits(connection, client, spec, address) {
            let client = SocketAddr::from(connection.client);
            tracing::debug!(%address, %client, "a backend cannot be shown its client's address");
            continue;
        }
        is_tried = true;
        connection.endpoint = Some(address.into());
        let result = tokio::select! {
            biased;
            () = until_gone(client, connection.is_gone_at_end) => return Err(Outcome::ClientGone),
            result = upstream::open(connection, client, spec, address) => result,
        };
        let error = match result {
            Ok(backend) => {
                connection.count_backend(BackendCount::Connections);
                connection.worker.note_success();
                connection.note_source(&backend);
                return Ok(backend);
            }
            Err(error) => error,
        };
        tracing::debug!(%address, %error, "cannot connect to a backend");
        connection.worker.note_exhaustion(&error, address);
        if let ConnectError::Exhausted(cause) = &error
            && evenkeel_net::is_shortage(cause)
        {
            // Accepting would only reset whoever waits in the queue.
            connection.worker.shortage.set(true);
        }
        let was_exhausted = failure == Outcome::Exhausted;
        is_silent = matches!(error, ConnectError::TimedOut);
        failure = match error.fault() {
            Fault::Backend => Outcome::ConnectFailed,
            Fault::Own => Outcome::Exhausted,
        };
        // Another address may have a free port, so one more is tried, and not all of them.
        if was_exhausted || is_closed(&connection.worker, service) {
            break;
        }
    }
    if is_tried && failure == Outcome::ConnectFailed {
        connection.count_backend(BackendCount::ConnectFailures);
        if is_silent {
            connection.count_backend(BackendCount::ConnectTimeouts);
        }
    }
    Err(failure)
}

/// Until the client has gone. An end of file is no sign of it in TCP: a client may end its direction before it has sent anything.
async fn until_gone(client: &Stream, at_end: bool) {
    match at_end {
        true => client.gone().await,
        false => client.reset().await,
    }
}

/// Whether the backend went down while it was being connected, and the service wants no connections to it then.
pub(crate) fn is_lost(service: &Service, picked: &Picked) -> bool {
    let backend = &service.backends[picked.index];
    service.policy().on_down == OnDown::Reset
        && went_down(backend.cells.verdict(), picked.down_since)
}
