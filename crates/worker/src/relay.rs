//! Relays between a client and its backend; the connection is the meter.

use tokio::net::TcpStream;

use crate::connection::{Connection, Outcome};

/// Relays until both directions have ended or one side fails. Closing the sockets is the caller's, after the end was counted.
pub(crate) async fn relay(
    connection: &Connection,
    client: &TcpStream,
    backend: &TcpStream,
) -> Outcome {
    let ended = evenkeel_net::relay::relay(client, backend, connection).await;
    Outcome::Relayed(ended.by)
}
