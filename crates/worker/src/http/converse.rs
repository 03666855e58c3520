//! One try: a request goes to a backend and the head of its answer comes back; then the answer goes to the client. Both directions
//! are polled by the connection's one task, since an answer may come before its request was sent.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::task::{Context, Poll};

use evenkeel_http::{AnswerHead, Rule};
use evenkeel_http1::answer::{Parser, RequestContext};
use evenkeel_http1::framing::Outgoing;
use evenkeel_http1::request::Parsed;
use evenkeel_http1::{Body, Limits, write};
use evenkeel_net::Stream;

use super::down::{Down, DownError};
use super::inbox::Inbox;
use super::settings::Ticks;
use super::transfer::WaitsFor;
use super::up::{Up, UpError};
use crate::connection::Connection;

/// Interim answers (1xx) of one request that are passed on; more are an answer that never comes.
const INTERIM_MAX: u32 = 64;

/// How a try ended before its answer could be passed on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Heard {
    /// The head of the answer is there.
    Answer,
    /// The backend has closed; whether anything of an answer had come.
    Closed {
        /// Whether it had.
        begun: bool,
    },
    /// What came is no answer.
    Malformed(&'static Rule),
    /// The request cannot be read to its end.
    Up(UpError),
    /// The client's request did not come on in time.
    BodyTimeout,
    /// The backend did not answer in time.
    BackendTimeout,
}

/// How the passing on of an answer ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Passed {
    /// To its end.
    Whole,
    /// Not so.
    Broken(DownError),
    /// The backend did not go on in time.
    BackendTimeout,
    /// The client did not read in time.
    ClientTimeout,
}

/// Those who take part in a try.
#[derive(Debug)]
pub(crate) struct Conversation<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) client: &'a Stream,
    pub(crate) backend: &'a Stream,
    /// What came of the client and is not used.
    pub(crate) unread: &'a mut Inbox,
    /// What came of the backend and is not used.
    pub(crate) unheard: &'a mut Inbox,
    pub(crate) up: &'a mut Up,
    pub(crate) down: &'a mut Down,
    /// Times of the listener's side, and of the backend's.
    pub(crate) front: Ticks,
    pub(crate) back: Ticks,
    /// Whether a client that has ended its direction is still there.
    pub(crate) allow_half_close: bool,
}

impl Conversation<'_> {
    /// Sends the request and reads the head of its answer into `head`. Interim answers are passed on, to a client that knows them.
    ///
    /// # Cancel safety
    /// When the future is dropped, both connections are to be as well.
    pub(crate) async fn hear(
        &mut self,
        parser: &mut Parser,
        context: &RequestContext,
        head: &mut AnswerHead,
        knows_interim: bool,
    ) -> Heard {
        let mut interims = 0;
        poll_fn(|cx| {
            let heard = self.poll_hear(cx, parser, context, head, knows_interim, &mut interims);
            self.account();
            if heard.is_pending() {
                self.arm_hearing();
            }
            heard
        })
        .await
    }

    fn poll_hear(
        &mut self,
        cx: &mut Context<'_>,
        parser: &mut Parser,
        context: &RequestContext,
        head: &mut AnswerHead,
        knows_interim: bool,
        interims: &mut u32,
    ) -> Poll<Heard> {
        let connections = &self.connection.worker.connections;
        if connections.is_expired(self.connection.number()) {
            let is_clients = self.up.waits_for() == WaitsFor::Sender;
            return Poll::Ready(match is_clients {
                true => Heard::BodyTimeout,
                false => Heard::BackendTimeout,
            });
        }
        let up = self.up.poll(cx, self.unread, self.client, self.backend);
        if let Poll::Ready(Err(error)) = up {
            return Poll::Ready(Heard::Up(error));
        }
        loop {
            if !self.unheard.is_empty() {
                match parser.parse(self.unheard.bytes(), &Limits::ANSWERS, context, head) {
                    Parsed::Head { consumed } => {
                        self.unheard.consume(consumed);
                        if !head.is_interim() {
                            return Poll::Ready(Heard::Answer);
                        }
                        *interims += 1;
                        if *interims > INTERIM_MAX {
                            return Poll::Ready(Heard::BackendTimeout);
                        }
                        if knows_interim {
                            let none = Outgoing {
                                body: Body::None,
                                length: None,
                            };
                            let stays = write::Connection::Stays;
                            let version = evenkeel_http::Version::Http11;
                            write::answer(&mut self.down.out.bytes, head, none, stays, version);
                        }
                        continue;
                    }
                    Parsed::Bad(rule) => return Poll::Ready(Heard::Malformed(rule)),
                    Parsed::Need => {}
                }
            }
            if self.backend.poll_readable(cx).is_pending() {
                break;
            }
            // An interim answer is one that has begun.
            let begun = !self.unheard.is_empty() || *interims > 0;
            match self.unheard.fill(self.backend) {
                Ok(0) => return Poll::Ready(Heard::Closed { begun }),
                Ok(count) => self.down.note_received(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(Heard::Closed { begun }),
            }
        }
        if let Poll::Ready(Err(_)) = self.down.poll_out(cx, self.client) {
            return Poll::Ready(Heard::Up(UpError::ClientGone));
        }
        self.poll_client_gone(cx)
            .map(|()| Heard::Up(UpError::ClientGone))
    }

    /// Passes the answer on whose head is out, and the rest of the request.
    pub(crate) async fn pass(&mut self) -> Passed {
        poll_fn(|cx| {
            let passed = self.poll_pass(cx);
            self.account();
            if passed.is_pending() {
                self.arm_passing();
            }
            passed
        })
        .await
    }

    fn poll_pass(&mut self, cx: &mut Context<'_>) -> Poll<Passed> {
        let connections = &self.connection.worker.connections;
        if connections.is_expired(self.connection.number()) {
            let is_clients = self.down.waits_for() == WaitsFor::Reader;
            return Poll::Ready(match is_clients {
                true => Passed::ClientTimeout,
                false => Passed::BackendTimeout,
            });
        }
        let down = self.down.poll(cx, self.unheard, self.backend, self.client);
        match down {
            Poll::Ready(Ok(())) => return Poll::Ready(Passed::Whole),
            Poll::Ready(Err(error)) => return Poll::Ready(Passed::Broken(error)),
            Poll::Pending => {}
        }
        // A body that goes wrong now is not answered any more: it goes no further, and the answer does.
        if !self.up.is_done()
            && let Poll::Ready(Err(_)) = self.up.poll(cx, self.unread, self.client, self.backend)
        {
            self.up.give_up();
        }
        self.poll_client_gone(cx)
            .map(|()| Passed::Broken(DownError::ClientGone))
    }

    fn poll_client_gone(&self, cx: &Context<'_>) -> Poll<()> {
        match self.allow_half_close {
            true => self.client.poll_reset(cx),
            false => self.client.poll_gone(cx),
        }
    }

    /// Counts what has flowed.
    fn account(&mut self) {
        let has_progressed = self.up.take_progress() | self.down.take_progress();
        if has_progressed {
            let connection = self.connection;
            connection.worker.connections.touch(connection.number());
            let (received, sent) = (self.down.take_received(), self.down.take_moved());
            connection.moved(self.up.take_moved(), received, sent);
        }
    }

    fn arm_hearing(&self) {
        let ticks = match self.up.waits_for() {
            WaitsFor::Sender => self.front.body_idle,
            WaitsFor::Reader => self.back.answer_idle,
            WaitsFor::Nobody => self.back.first_byte,
        };
        self.arm(ticks);
    }

    fn arm_passing(&self) {
        let ticks = match self.down.waits_for() {
            WaitsFor::Reader => self.front.client_write,
            WaitsFor::Sender | WaitsFor::Nobody => self.back.answer_idle,
        };
        self.arm(ticks);
    }

    fn arm(&self, ticks: u32) {
        let connection = self.connection;
        connection
            .worker
            .connections
            .may_take(connection.number(), ticks);
    }
}
