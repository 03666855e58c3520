//! Connects to a backend, and to another if that one cannot be reached.

use evenkeel_net::connect::Fault;
use evenkeel_plan::ConnectSpec;
use evenkeel_scoreboard::{BackendCount, ServiceCount};
use tokio::net::TcpStream;

use crate::connection::{Connection, Outcome};
use crate::handle::Held;
use crate::pick::{Tried, pick};

/// Picks backends and connects until one is reached. Nothing of the client was read yet, so each attempt is safe.
///
/// # Errors
/// How the connection ends: no backend was eligible, none could be reached, we lack a resource, or the client has gone.
pub(crate) async fn connect(
    connection: &mut Connection,
    client: &TcpStream,
) -> Result<TcpStream, Outcome> {
    let mut tried = Tried::default();
    let mut failure = Outcome::NoBackend;
    loop {
        let Some((address, spec)) = pick_for(connection, &mut tried) else {
            return Err(failure);
        };
        if tried.count() > 1 {
            connection.count(ServiceCount::Retries);
        }
        let result = tokio::select! {
            biased;
            // An end of file is none: a client may end its direction before it has sent anything.
            () = evenkeel_net::reset(client) => return Err(Outcome::ClientGone),
            result = evenkeel_net::connect::connect(address, spec.timeout) => result,
        };
        let error = match result {
            Ok(backend) => {
                connection.count_backend(BackendCount::Connections);
                connection.service = None;
                return Ok(backend);
            }
            Err(error) => error,
        };
        tracing::debug!(%address, %error, "cannot connect to a backend");
        let was_exhausted = failure == Outcome::Exhausted;
        failure = match error.fault() {
            Fault::Backend => {
                connection.count_backend(BackendCount::ConnectFailures);
                Outcome::ConnectFailed
            }
            Fault::Own => Outcome::Exhausted,
        };
        // Another address may have a free port, so one more is tried, and not all of them.
        if was_exhausted || tried.count() >= usize::from(spec.attempts) {
            return Err(failure);
        }
    }
}

fn pick_for(
    connection: &mut Connection,
    tried: &mut Tried,
) -> Option<(std::net::SocketAddr, ConnectSpec)> {
    let service = connection.service.as_mut()?;
    let picked = pick(&connection.worker, service, tried)?;
    tried.add(picked.handle.cell());
    connection.backend = Some(Held::new(picked.handle));
    Some((picked.address, service.record().spec.connect))
}
