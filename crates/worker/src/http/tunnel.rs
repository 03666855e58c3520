//! After a 101: bytes both ways, as a connection of TCP has them.

use std::future::poll_fn;
use std::net::IpAddr;
use std::task::Poll;

use evenkeel_http::RequestHead;
use evenkeel_log::access::HttpRecord;
use evenkeel_net::Stream;
use evenkeel_net::relay::{End, Meter as _};
use evenkeel_net::stream::Follows;

use super::books::Request;
use super::inbox::Inbox;
use super::session::Session;
use crate::outcome::Outcome;
use crate::relay::{self, Relaying};

/// What is to be said of the request that made a tunnel, at the tunnel's end.
#[derive(Debug)]
pub(crate) struct Upgraded {
    host: Option<Box<str>>,
    path: Box<str>,
    request_id: Option<Box<str>>,
    /// Who asked, where a trusted proxy says that it was not the peer.
    pub(crate) client: Option<IpAddr>,
    route: Option<u32>,
    number: u32,
    reused: bool,
}

impl Upgraded {
    pub(crate) fn new(head: &RequestHead, request: &Request, number: u32) -> Self {
        Self {
            host: head.asked_authority().map(Into::into),
            path: path_of(head.asked_target()).into(),
            request_id: request.id.as_ref().map(|id| id.as_str().into()),
            client: request.client,
            route: request.route,
            number,
            reused: request.reused,
        }
    }

    pub(crate) fn record(&self) -> HttpRecord<'_> {
        HttpRecord {
            method: "GET",
            host: self.host.as_deref(),
            path: &self.path,
            version: "1.1",
            status: Some(101),
            route: self.route,
            request_id: self.request_id.as_deref(),
            number: self.number,
            reused: self.reused,
            ..HttpRecord::default()
        }
    }
}

/// A target up to its question mark.
pub(crate) fn path_of(target: &str) -> &str {
    target.split_once('?').map_or(target, |(path, _)| path)
}

/// Relays from now on. What `session` has unread goes to `backend` first, and what is `unheard` to the client.
pub(crate) async fn run(session: Session, backend: Stream, mut unheard: Inbox) {
    let Session {
        mut connection,
        client,
        mut inbox,
        front,
        ..
    } = session;
    // It may live for long, and needs nothing of the plan any more.
    connection.forget_plan();
    drop(front);
    let connections = &connection.worker.connections;
    let number = connection.number();
    let through = poll_fn(|cx| {
        let up = poll_all(cx, &mut inbox, &backend, |count| connection.up(count));
        let down = poll_all(cx, &mut unheard, &client, |count| connection.down(count));
        match (up, down) {
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(None),
            (Poll::Ready(Err(())), _) => Poll::Ready(Some(Outcome::Relayed(End::BackendReset))),
            (_, Poll::Ready(Err(()))) => Poll::Ready(Some(Outcome::Relayed(End::ClientReset))),
            _ if connections.is_expired(number) => Poll::Ready(Some(Outcome::IdleTimeout)),
            _ => Poll::Pending,
        }
    });
    if let Some(outcome) = through.await {
        return connection.end(outcome);
    }
    connections.relays(number, client.token());
    relay::relay(Relaying::new(connection, client, backend)).await;
}

fn poll_all(
    cx: &std::task::Context<'_>,
    inbox: &mut Inbox,
    to: &Stream,
    count: impl Fn(usize),
) -> Poll<Result<(), ()>> {
    while !inbox.is_empty() {
        std::task::ready!(to.poll_writable(cx));
        match to.try_write(inbox.bytes(), Follows::Nothing) {
            Ok(written) => {
                count(written);
                inbox.consume(written);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return Poll::Ready(Err(())),
        }
    }
    Poll::Ready(Ok(()))
}
