//! A connection to a backend: from which address, and what it begins with.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;

use evenkeel_net::connect::{ConnectError, Options, connect};
use evenkeel_net::proxy_protocol::{UniqueId, build_v1, build_v2};
use evenkeel_net::stream::{Follows, Stream};
use evenkeel_plan::{ConnectSpec, ProxyVersion, SourceSpec};
use evenkeel_sys::outgoing;

use crate::connection::Connection;

/// Connects to `address`, which [`suits`] it, for `connection`, and sends the PROXY protocol header where one is to be sent.
///
/// # Errors
/// [`ConnectError`].
///
/// # Cancel safety
/// The attempt is given up when the future is dropped.
pub(crate) async fn open(
    connection: &Connection,
    client: &Stream,
    spec: &ConnectSpec,
    address: SocketAddr,
) -> Result<Stream, ConnectError> {
    let options = options(connection, &spec.source, address)?;
    let stream = connect(address, &options, spec.timeout).await?;
    let keepalive = &connection.entrance.keepalive;
    if keepalive.user_timeout.is_some() {
        outgoing::user_timeout(stream.as_fd(), keepalive.user_timeout)?;
    }
    if let Some(version) = spec.send_proxy {
        let header = header(connection, client, version)?;
        match tokio::time::timeout(spec.timeout, send(&stream, &header)).await {
            Ok(sent) => sent?,
            Err(_) => return Err(ConnectError::TimedOut),
        }
    }
    Ok(stream)
}

/// Whether `address` can be connected to from where `connection` has to come from: clients' own addresses are of one family, and
/// what a PROXY protocol header says may be nobody's.
pub(crate) fn suits(
    connection: &Connection,
    client: &Stream,
    spec: &ConnectSpec,
    address: SocketAddr,
) -> bool {
    match spec.source {
        SourceSpec::Client => {
            let (source, peer) = (connection.client.ip(), connection.peer().ip());
            // A host drops what comes to it from its own address: the backend's own connections are for other backends. On this
            // host there is nothing on the way that could.
            let is_itself = || {
                let is_ours = || client.local_address().is_ok_and(|ours| ours.ip() == source);
                source == address.ip() && !is_ours()
            };
            can_be_shown(source, peer, address.ip()) && !is_itself()
        }
        SourceSpec::Kernel | SourceSpec::Addresses(_) => true,
    }
}

/// Whether `backend` can be connected to from the address of `client`, who came by `peer`. With the others the kernel refuses or no
/// answer ever comes, for which no backend is to be blamed; the unspecified one would become ours. A backend on this host may trust
/// whoever comes from it, so that such an address has to be true.
fn can_be_shown(client: IpAddr, peer: IpAddr, backend: IpAddr) -> bool {
    if client.is_loopback() {
        return peer.is_loopback()
            && backend.is_loopback()
            && client.is_ipv4() == backend.is_ipv4();
    }
    match (client, backend) {
        // 0/8 is "this network", 224/4 is multicast, 240/4 is reserved (RFC 6890).
        (IpAddr::V4(v4), IpAddr::V4(_)) => (1..224).contains(&v4.octets()[0]),
        // Which link a link-local one is of is not known any more.
        (IpAddr::V6(v6), IpAddr::V6(_)) => {
            !(v6.is_unspecified() || v6.is_multicast() || v6.is_unicast_link_local())
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

fn options(
    connection: &Connection,
    source: &SourceSpec,
    address: SocketAddr,
) -> io::Result<Options> {
    match source {
        SourceSpec::Kernel => Ok(Options::default()),
        SourceSpec::Addresses(addresses) => {
            let of_family = |ip: &&IpAddr| ip.is_ipv4() == address.is_ipv4();
            let count = addresses.iter().filter(of_family).count();
            let turns = &connection.worker.sources;
            let turn = turns.replace(turns.get().wrapping_add(1));
            let ours = addresses.iter().filter(of_family);
            // The configuration has one for each backend that is written as an address; a name may stand for others.
            let source = ours.cycle().nth(turn % count.max(1));
            Ok(Options {
                source: source.map(|&ip| SocketAddr::new(ip, 0)),
                transparent: false,
            })
        }
        SourceSpec::Client => {
            let client = connection.client.ip();
            Ok(Options {
                source: Some(SocketAddr::new(client, 0)),
                transparent: true,
            })
        }
    }
}

fn header(connection: &Connection, client: &Stream, version: ProxyVersion) -> io::Result<Vec<u8>> {
    let mut header = Vec::with_capacity(128);
    let source = connection.client.into();
    let destination = match connection.claimed_destination() {
        Some(claimed) => claimed,
        // Not what is configured: that may be any address of this host, or any port.
        None => client.local_address()?,
    };
    match version {
        ProxyVersion::V1 => build_v1(source, destination, &mut header),
        ProxyVersion::V2 => {
            let id = connection.unique_id_text();
            let id = UniqueId::new(id.as_bytes());
            build_v2(source, destination, id.as_ref(), &mut header);
        }
    }
    Ok(header)
}

async fn send(stream: &Stream, mut bytes: &[u8]) -> Result<(), ConnectError> {
    while !bytes.is_empty() {
        stream.writable().await;
        match stream.try_write(bytes, Follows::Nothing) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Whom a relay that carries nothing is kept alive towards. Done when it is parked: what lasts shorter never asks the kernel.
pub(crate) fn keep_alive(connection: &mut Connection, backend: &Stream) {
    if connection.is_kept_alive {
        return;
    }
    connection.is_kept_alive = true;
    let spec = &connection.entrance.keepalive;
    let set = outgoing::keepalive(backend.as_fd(), spec.idle, spec.interval, spec.probes);
    if let Err(error) = set {
        tracing::warn!(%error, "a connection to a backend goes without keepalive");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_has_is_shown_to_no_backend_and_what_is_ours_only_if_it_is_true() {
        let shown = |client: &str, peer: &str, backend: &str| {
            let [client, peer, backend] = [client, peer, backend].map(|ip| ip.parse().unwrap());
            can_be_shown(client, peer, backend)
        };
        let proxy = "198.51.100.1";
        assert!(shown("192.0.2.7", proxy, "10.0.0.1"));
        assert!(shown("2001:db8::7", proxy, "2001:db8::1"));
        assert!(!shown("192.0.2.7", proxy, "2001:db8::1"));
        assert!(!shown("2001:db8::7", proxy, "10.0.0.1"));
        for nobody in [
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
        ] {
            assert!(!shown(nobody, proxy, "10.0.0.1"), "{nobody}");
        }
        for nobody in ["::", "ff02::1", "fe80::1"] {
            assert!(!shown(nobody, proxy, "2001:db8::1"), "{nobody}");
        }
        for [client, peer, backend] in [
            ["127.0.0.1", proxy, "127.0.0.1"],
            ["127.0.0.1", "127.0.0.1", "10.0.0.1"],
            ["127.0.0.1", "127.0.0.1", "::1"],
            ["::1", proxy, "::1"],
        ] {
            assert!(!shown(client, peer, backend), "{client} {peer} {backend}");
        }
        assert!(shown("127.0.0.1", "127.0.0.1", "127.0.0.1"));
        assert!(shown("::1", "::1", "::1"));
    }
}
