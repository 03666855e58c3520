//! Relays between a client and its backend, and counts how that ended.

use tokio::net::TcpStream;

use crate::connection::{Connection, Outcome};

/// Relays until both directions have ended or one side fails; both sockets are closed after that was counted.
pub(crate) async fn relay(connection: Connection, client: TcpStream, backend: TcpStream) {
    let ended = evenkeel_net::relay::relay(&client, &backend, &connection).await;
    connection.end(Outcome::Relayed(ended.by));
}
