//! Can a TLS connection be made?

use std::net::{IpAddr, SocketAddr};

use tokio::io::AsyncWriteExt as _;

use super::connect::connect;
use super::exchange::secure;
use super::outcome::Outcome;
use super::talk::Talk;
use crate::tls::TlsClient;

/// Connects, shakes hands, and says goodbye in order.
pub(super) async fn probe(
    endpoint: SocketAddr,
    source: Option<IpAddr>,
    client: &TlsClient,
    talk: &Talk,
) -> Result<Outcome, Outcome> {
    let stream = connect(endpoint, source, talk).await?;
    talk.begin("the TLS handshake");
    let mut stream = secure(stream, client, endpoint.ip(), talk).await?;
    let version = stream.get_ref().1.protocol_version();
    let answer = match version.and_then(|version| version.as_str()) {
        Some(version) => format!("connected with {}", version.replace("TLSv1_", "TLS 1.")),
        None => "connected with TLS".to_owned(),
    };
    // It has passed already: how the goodbye goes does not matter.
    drop(stream.shutdown().await);
    Ok(Outcome::passed(answer))
}
