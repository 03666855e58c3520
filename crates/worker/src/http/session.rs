//! A client's connection: its requests, one after the other.
//!
//! ```text
//!   serve --> next ----- a head --------> exchange ----> next request | linger | closed | tunnel
//!              |  ^                          (exchange.rs)
//!              |  `-- silent for a second: parked (waiting.rs), and served again when it stirs
//!              `----- malformed, late, too large: an answer of our own, and closed
//! ```

use std::future::poll_fn;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;

use evenkeel_http::own_answer::Cause;
use evenkeel_http::strict::Side;
use evenkeel_http1::request;
use evenkeel_http1::request::Parsed;
use evenkeel_net::Stream;
use evenkeel_scoreboard::ServiceCount;
use evenkeel_sys::clock;
use tokio::task::coop;

use super::books::{Request, cause_of, failure_of};
use super::inbox::Inbox;
use super::scratch::Scratch;
use super::settings::Http;
use super::tunnel;
use crate::connection::Connection;
use crate::outcome::Outcome;
use crate::plan::Service;
use crate::waiting::Waiting;
use crate::worker::Worker;

/// A connection that is served.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) connection: Connection,
    pub(crate) client: Stream,
    /// What came of the client and is not used.
    pub(crate) inbox: Inbox,
    /// While a request runs.
    pub(crate) scratch: Option<Box<Scratch>>,
    /// The listener's service, by the plan of that generation.
    pub(crate) front: Rc<Service>,
    generation: u64,
    /// Whether that plan still has it.
    pub(crate) is_named: bool,
}

/// What comes after a request.
#[derive(Debug)]
pub(crate) enum After {
    /// Another one may.
    Next,
    /// Nothing is under way: the connection is closed in order.
    Gone,
    /// The connection is closed in order behind an answer, whose last bytes wait for that.
    Close,
    /// The same, once the client has read the answer: it may still be sending.
    Linger,
    /// It is reset: what was begun is not whole.
    Reset,
    /// It becomes a tunnel to this backend, which has said this already.
    Tunnel(Stream, Inbox),
}

/// What came of a client.
enum Next {
    Request,
    /// An answer is due, and the connection ends.
    Refuse(Cause, ServiceCount),
    /// It has gone, or is not to be served any more: closed in order.
    Gone,
    /// It was parked.
    Parked,
}

/// Serves a client's requests until it goes, is parked, or has to.
pub(crate) async fn serve(mut connection: Connection, client: Stream) {
    let Some(front) = connection.service.take() else {
        return connection.end(Outcome::Closed);
    };
    let mut session = Session {
        connection,
        client,
        inbox: Inbox::default(),
        scratch: None,
        front,
        generation: 0,
        is_named: true,
    };
    loop {
        // Who pipelines what we answer ourselves never waits for anything.
        coop::consume_budget().await;
        let after = match session.next().await {
            Next::Request => session.exchange().await,
            Next::Refuse(cause, failure) => session.refuse(cause, failure, true).await,
            Next::Gone => After::Gone,
            Next::Parked => match session.park() {
                None => return,
                Some(back) => {
                    session = back;
                    continue;
                }
            },
        };
        session.close_request();
        match after {
            After::Next => {}
            After::Gone => return session.finish(),
            After::Close | After::Linger => {
                // The end goes out with the last bytes here. A close that finds something unread is a reset, and would throw them away.
                let has_ended = session.client.shutdown_write().is_ok();
                let is_heard_out = matches!(after, After::Close) && session.is_heard_out();
                if has_ended && !is_heard_out {
                    session.linger().await;
                }
                return session.finish();
            }
            After::Reset => return session.connection.ends(Outcome::Served),
            After::Tunnel(backend, unheard) => return tunnel::run(session, backend, unheard).await,
        }
    }
}

impl Session {
    pub(crate) fn worker(&self) -> &Rc<Worker> {
        &self.connection.worker
    }

    /// HTTP as the listener has it. A service that has become one of TCP serves what runs by what it was.
    pub(crate) fn http(&self) -> Option<Rc<Http>> {
        self.front.http.clone()
    }

    /// Takes what the plan in force says.
    fn follow_plan(&mut self) {
        let worker = Rc::clone(&self.connection.worker);
        let view = worker.view();
        if view.generation() == self.generation {
            return;
        }
        self.generation = view.generation();
        let entrance = &self.connection.entrance;
        let now = view
            .service_of(&entrance.service, entrance.service_cell)
            .filter(|now| now.http.is_some());
        self.is_named = now.is_some();
        if let Some(now) = now {
            self.front = Rc::clone(now);
        }
    }

    /// Waits for a request and reads its head.
    async fn next(&mut self) -> Next {
        let worker = Rc::clone(self.worker());
        let number = self.connection.number();
        let mut begun = None;
        while self.inbox.is_empty() {
            let connections = &worker.connections;
            connections.falls_silent(number, self.client.token());
            let stirred = poll_fn(|cx| {
                if self.client.poll_reset(cx).is_ready() {
                    return Poll::Ready(Some(Next::Gone));
                }
                if self.client.poll_readable(cx).is_ready() {
                    return Poll::Ready(None);
                }
                match connections.may_park(number) {
                    true => Poll::Ready(Some(Next::Parked)),
                    false => Poll::Pending,
                }
            });
            if let Some(next) = stirred.await {
                return next;
            }
            begun = Some(clock::monotonic_ns());
            match self.inbox.fill(&self.client) {
                Ok(0) => return Next::Gone,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return Next::Gone,
            }
        }
        let begun = begun.unwrap_or_else(clock::monotonic_ns);
        self.follow_plan();
        let Some(http) = self.http() else {
            return Next::Gone;
        };
        let ticks = http.ticks.request_head;
        worker
            .connections
            .exchanging(number, self.client.token(), ticks);
        let mut scratch = worker.scratches.take();
        scratch.request_parser = request::Parser::new();
        let carried = scratch.carried.take().unwrap_or_default();
        self.connection.begin_request(carried);
        let parsed = self.read_head(&mut scratch, &http).await;
        self.scratch = Some(scratch);
        // What was no request yet is none.
        let is_begun = !self.inbox.bytes().iter().all(|byte| b"\r\n".contains(byte));
        if parsed.is_err_and(|why| why.is_none_or(|(cause, _)| cause == Cause::HeadTimeout))
            && !is_begun
        {
            return Next::Gone;
        }
        let mut request = Request::open(self.front.row, begun, clock::monotonic_ns());
        request.is_understood = parsed.is_ok();
        if parsed == Err(None) {
            request.failure = Some(ServiceCount::RequestClientGone);
        }
        let front = Rc::clone(&self.front);
        self.connection.open_request(request, front);
        match parsed {
            Ok(()) => Next::Request,
            Err(Some((cause, failure))) => Next::Refuse(cause, failure),
            Err(None) => Next::Gone,
        }
    }

    async fn read_head(
        &mut self,
        scratch: &mut Scratch,
        http: &Http,
    ) -> Result<(), Option<(Cause, ServiceCount)>> {
        let number = self.connection.number();
        loop {
            let bytes = self.inbox.bytes();
            let Some(carried) = &mut self.connection.carried else {
                return Err(None);
            };
            let head = &mut carried.head;
            match scratch.request_parser.parse(bytes, &http.limits, head) {
                Parsed::Head { consumed } => {
                    self.inbox.consume(consumed);
                    return Ok(());
                }
                Parsed::Bad(rule) => {
                    tracing::debug!(
                        client = %SocketAddr::from(self.connection.client),
                        rule = rule.id,
                        "a malformed request"
                    );
                    let cause = cause_of(rule.status(Side::Request).unwrap_or(400));
                    return Err(Some((cause, failure_of(cause))));
                }
                Parsed::Need => {}
            }
            self.inbox.put_by();
            let connections = &self.connection.worker.connections;
            let is_there = poll_fn(|cx| {
                if connections.is_expired(number) {
                    return Poll::Ready(false);
                }
                self.client.poll_readable(cx).map(|()| true)
            });
            if !is_there.await {
                let cause = Cause::HeadTimeout;
                return Err(Some((cause, failure_of(cause))));
            }
            match self.inbox.fill(&self.client) {
                Ok(0) => return Err(None),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return Err(None),
            }
        }
    }

    /// Whether the connection ends after this request, whatever the heads say.
    pub(crate) fn is_last(&self) -> bool {
        let http = self.front.http.as_deref();
        let most = http.and_then(|http| http.spec().limits.requests_per_connection);
        self.worker().is_draining()
            || !self.is_named
            || self.connection.entrance.is_gone()
            || most.is_some_and(|most| self.connection.requests >= most)
    }

    /// Closes the books of the request, if there is one.
    fn close_request(&mut self) {
        let carried = self.connection.close_request();
        if let Some(mut scratch) = self.scratch.take() {
            scratch.carried = carried;
            self.connection.worker.scratches.give_back(scratch);
        }
    }

    /// Parks it; itself when the client has done something at this very moment.
    fn park(mut self) -> Option<Self> {
        let worker = Rc::clone(self.worker());
        self.follow_plan();
        // A new service by the name is not the one that it came to.
        if worker.is_draining() || !self.is_named {
            self.finish();
            return None;
        }
        let number = self.connection.number();
        let Self {
            connection,
            client,
            front,
            generation,
            ..
        } = self;
        let connection = connection.suspend()?;
        let waiting = Waiting { connection, client };
        match worker.connections.park_waiting(number, waiting) {
            Ok(()) => None,
            Err(back) => {
                let mut connection = Connection::resume(&worker, back.connection);
                connection.service = None;
                Some(Self {
                    connection,
                    client: back.client,
                    inbox: Inbox::default(),
                    scratch: None,
                    front,
                    generation,
                    is_named: true,
                })
            }
        }
    }

    /// Closes the connection in order.
    fn finish(mut self) {
        self.client.finish_on_close();
        self.connection.ends(Outcome::Served);
    }

    /// Whether nothing of the client is left unread that has come so far.
    fn is_heard_out(&self) -> bool {
        self.inbox.is_empty() && !self.client.is_stirring()
    }
}
