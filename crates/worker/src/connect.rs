//! Connects to a backend, and to another if that one cannot be reached.

use evenkeel_net::connect::Fault;
use evenkeel_plan::{ConnectSpec, OnDown};
use evenkeel_scoreboard::{BackendCount, ServiceCount};
use tokio::net::TcpStream;

use crate::connection::{Connection, Outcome};
use crate::doorbell::went_down;
use crate::handle::Held;
use crate::pick::{Picked, Refusal, Tried, is_closed, pick};
use crate::worker::Relaying;

/// Picks backends and connects until one is reached. Nothing of the client was read yet, so each attempt is safe.
///
/// # Errors
/// How the connection ends: the service is closed, no backend was eligible, none could be reached, we lack a resource, or
/// the client has gone.
pub(crate) async fn connect(
    connection: &mut Connection,
    client: &TcpStream,
) -> Result<TcpStream, Outcome> {
    let mut tried = Tried::default();
    let mut failure = Outcome::NoBackend;
    let mut is_sorry = false;
    loop {
        let (picked, spec) = match pick_for(connection, &mut tried) {
            Ok(picked) => picked,
            Err(Refusal::NoBackend) => return Err(failure),
            // A sorry service's own one is not followed: there is no way round in circles.
            Err(Refusal::Closed) if is_sorry || !connection.hand_to_sorry() => {
                return Err(Outcome::Closed);
            }
            Err(Refusal::Closed) => {
                is_sorry = true;
                tried = Tried::default();
                failure = Outcome::NoBackend;
                continue;
            }
        };
        if tried.count() > 1 {
            connection.count(ServiceCount::Retries);
        }
        let was_exhausted = failure == Outcome::Exhausted;
        failure = match reach(connection, client, &picked, spec, failure).await {
            // Nobody was told to reset it while it was being connected.
            Ok(_) if is_lost(connection, &picked) => Outcome::DownReset,
            Ok(backend) => {
                let relaying = Relaying {
                    backend: picked.handle.cell(),
                    down_since: picked.down_since,
                };
                let connections = &connection.worker.connections;
                connections.relaying(connection.number(), relaying);
                connection.service = None;
                return Ok(backend);
            }
            Err(Outcome::ClientGone) => return Err(Outcome::ClientGone),
            Err(failure) => failure,
        };
        if was_exhausted || tried.count() >= usize::from(spec.attempts) {
            return Err(failure);
        }
    }
}

fn pick_for(
    connection: &mut Connection,
    tried: &mut Tried,
) -> Result<(Picked, ConnectSpec), Refusal> {
    let service = connection.service.as_mut().ok_or(Refusal::NoBackend)?;
    let picked = pick(&connection.worker, service, tried)?;
    tried.add(picked.handle.cell());
    let spec = service.record().spec.connect;
    connection.backend = Some(Held::new(picked.handle.clone()));
    Ok((picked, spec))
}

/// Tries the endpoints of a backend in turn. All of them together are one attempt, and fail as one. `failure` is how the
/// attempt before ended.
async fn reach(
    connection: &Connection,
    client: &TcpStream,
    picked: &Picked,
    spec: ConnectSpec,
    mut failure: Outcome,
) -> Result<TcpStream, Outcome> {
    let Some(service) = &connection.service else {
        return Err(failure);
    };
    let (before, first) = service.backends[picked.index]
        .endpoints
        .split_at(picked.turn);
    for &address in first.iter().chain(before) {
        let result = tokio::select! {
            biased;
            // An end of file is none: a client may end its direction before it has sent anything.
            () = evenkeel_net::reset(client) => return Err(Outcome::ClientGone),
            result = evenkeel_net::connect::connect(address, spec.timeout) => result,
        };
        let error = match result {
            Ok(backend) => {
                connection.count_backend(BackendCount::Connections);
                return Ok(backend);
            }
            Err(error) => error,
        };
        tracing::debug!(%address, %error, "cannot connect to a backend");
        let was_exhausted = failure == Outcome::Exhausted;
        failure = match error.fault() {
            Fault::Backend => Outcome::ConnectFailed,
            Fault::Own => Outcome::Exhausted,
        };
        // Another address may have a free port, so one more is tried, and not all of them.
        if was_exhausted || is_closed(&connection.worker, service) {
            break;
        }
    }
    if failure == Outcome::ConnectFailed {
        connection.count_backend(BackendCount::ConnectFailures);
    }
    Err(failure)
}

/// Whether the backend went down while it was being connected, and the service wants no connections to it then.
fn is_lost(connection: &Connection, picked: &Picked) -> bool {
    connection.service.as_ref().is_some_and(|service| {
        let backend = &service.backends[picked.index];
        service.policy().on_down == OnDown::Reset
            && went_down(backend.cells.verdict(), picked.down_since)
    })
}
