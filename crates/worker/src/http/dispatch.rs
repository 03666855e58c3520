//! A request gets a backend, and the head of its answer comes back: tried again where that cannot do harm.
//!
//! ```text
//! pick (a cookie's, a hash's, the scheduler's) --> idle connection, or a new one --> converse --> answer
//!   ^  ^                                               |                  |
//!   |  `--- cannot be reached: elsewhere --------------'                  |
//!   `------ closed before a byte of the answer -------------------------- '
//!             nothing was sent: always
//!             else: a safe method, or one that was configured, whose body is still held; within the budget
//! ```

use std::rc::Rc;

use evenkeel_http::own_answer::Cause;
use evenkeel_http::strict::Side;
use evenkeel_http::{AnswerHead, Version};
use evenkeel_http1::answer::{Parser, RequestContext};
use evenkeel_http1::{Body, framing, write};
use evenkeel_log::access::Phase;
use evenkeel_plan::{ConnectSpec, SourceSpec};
use evenkeel_scoreboard::{BackendCount, ServiceCount};
use evenkeel_sys::clock;

use super::books::{cause_of, failure_of};
use super::converse::{Conversation, Heard};
use super::inbox::Inbox;
use super::pool::{Fit, Upstream};
use super::scratch::Scratch;
use super::session::Session;
use super::settings::{Http, Target};
use super::up::UpError;
use crate::connect::{choose, is_lost, reach};
use crate::connections::{Chosen, TICKS_A_SECOND};
use crate::outcome::Outcome;
use crate::pick::{Picked, Refusal, Wanted};
use crate::plan::Service;

/// How long a connection may have been idle that carries what must not be sent twice: one that was used just now is hardly being
/// closed by the backend.
const JUST_USED_TICKS: u32 = TICKS_A_SECOND;

/// A request whose answer has begun.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) upstream: Upstream,
    /// What came of the backend behind the head.
    pub(crate) unheard: Inbox,
    /// By whose plan it was picked.
    pub(crate) service: Rc<Service>,
    /// Which of its backends.
    pub(crate) stickiness: u64,
}

/// Why there is no answer of a backend.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Failed {
    /// The client has gone.
    ClientGone,
    /// It gets one of ours. `is_fatal`: what follows of the client cannot be understood.
    Refused {
        /// Why.
        cause: Cause,
        /// What is counted.
        failure: ServiceCount,
        /// Whether the connection has to end.
        is_fatal: bool,
    },
}

impl Failed {
    /// For this cause, after which the connection may go on.
    pub(crate) fn because(cause: Cause) -> Self {
        Self::Refused {
            cause,
            failure: failure_of(cause),
            is_fatal: false,
        }
    }

    fn fatal(cause: Cause) -> Self {
        Self::Refused {
            cause,
            failure: failure_of(cause),
            is_fatal: true,
        }
    }
}

/// How a connect that came to nothing is told.
fn refused(outcome: Outcome) -> Failed {
    let (cause, failure) = match outcome {
        Outcome::ClientGone => return Failed::ClientGone,
        Outcome::NoBackend => (Cause::NoBackend, ServiceCount::RequestNoBackend),
        Outcome::Closed => (Cause::NoBackend, ServiceCount::RequestClosed),
        Outcome::QueueFull => (Cause::Overloaded, ServiceCount::RequestQueueFull),
        Outcome::QueueTimeout => (Cause::QueueTimeout, ServiceCount::RequestQueueTimeout),
        Outcome::Exhausted => (Cause::Internal, ServiceCount::RequestInternal),
        _ => (Cause::ConnectFailed, ServiceCount::RequestConnectFailed),
    };
    Failed::Refused {
        cause,
        failure,
        is_fatal: false,
    }
}

impl Session {
    /// Sends the request that is carried to a backend of `target`, and reads the head of the answer.
    ///
    /// # Errors
    /// [`Failed`].
    pub(crate) async fn dispatch(
        &mut self,
        scratch: &mut Scratch,
        front: &Http,
        target: &Target,
        wanted: Wanted,
    ) -> Result<Answered, Failed> {
        let mut wanted = wanted;
        let mut tries = Tries::default();
        self.connection.set_out(&target.service);
        let worker = Rc::clone(&self.connection.worker);
        worker.connections.may_take(self.connection.number(), 0);
        let head = self.connection.request().map(|(_, head)| head);
        let has_host = head.is_some_and(|head| head.authority_bytes().is_some());
        loop {
            let (upstream, picked, service) = self.acquire(&mut wanted, &mut tries).await?;
            let backend = &service.backends[picked.index];
            let stickiness = backend.stickiness;
            let back = match &service.http {
                Some(http) => Rc::clone(http),
                None => return Err(Failed::because(Cause::NoBackend)),
            };
            if std::mem::take(&mut tries.is_resend) {
                self.connection.count(ServiceCount::Resent);
            }
            let is_reused = upstream.used > 1;
            self.write_head(scratch, &service, picked.index, target, has_host);
            self.connection.count_backend(BackendCount::Requests);
            if is_reused {
                self.connection.count_backend(BackendCount::Reused);
            }
            self.connection.phase(Phase::Answer);
            let Some((request, head)) = self.connection.request() else {
                return Err(Failed::because(Cause::Internal));
            };
            request.sent = clock::monotonic_ns();
            request.reused = is_reused;
            let (method, version) = (head.method(), head.version());
            let context = RequestContext::of(head);
            let may_resend = method.is_safe() || back.may_resend(head.method_name());
            let mut unheard = Inbox::default();
            scratch.answer_parser = Parser::new();
            let Scratch {
                up,
                down,
                answer,
                answer_parser,
                ..
            } = scratch;
            let mut conversation = Conversation {
                connection: &self.connection,
                client: &self.client,
                backend: &upstream.stream,
                unread: &mut self.inbox,
                unheard: &mut unheard,
                up,
                down,
                front: front.ticks,
                back: back.ticks,
                allow_half_close: front.spec().allow_half_close,
            };
            let knows_interim = version != Version::Http10;
            let heard = conversation
                .hear(answer_parser, &context, answer, knows_interim)
                .await;
            let begun = match heard {
                Heard::Answer => {
                    self.note_answer(&scratch.answer);
                    return Ok(Answered {
                        upstream,
                        unheard,
                        service,
                        stickiness,
                    });
                }
                Heard::Closed { begun } => begun,
                other => return Err(self.failed(other)),
            };
            let is_unsent = scratch.up.is_unsent();
            // A reused one may have been closed before the request came: nothing is to be said of the backend.
            if !is_reused || begun {
                self.connection.count_backend(BackendCount::BadAnswers);
            }
            let closed = Failed::because(Cause::BackendClosed);
            let may = !begun
                && scratch.up.is_held()
                && (is_unsent || may_resend)
                && self.connection.attempts < back.spec().retry.attempts;
            if !may {
                return Err(closed);
            }
            if !is_unsent {
                let retry = &back.spec().retry;
                let now = worker.connections.now();
                if !service
                    .budget
                    .allows(now, retry.budget_percent, retry.budget_floor)
                {
                    self.connection.count(ServiceCount::BudgetSpent);
                    return Err(closed);
                }
                tries.is_resend = true;
            }
            if is_reused {
                // The backend itself may be well.
                wanted.tried.forget_last();
            }
            tries.needs_fresh = true;
            tries.is_closed = true;
            drop(upstream);
            // That one may go down from now on, and its connections be reset.
            worker.connections.let_go(self.connection.number());
        }
    }

    /// Picks a backend and gets a connection to it.
    async fn acquire(
        &mut self,
        wanted: &mut Wanted,
        tries: &mut Tries,
    ) -> Result<(Upstream, Picked, Rc<Service>), Failed> {
        // The clock is read again only where something has taken time.
        let headed = self.connection.request().map(|(request, _)| request.headed);
        let mut begun = match headed {
            Some(headed) if self.connection.attempts == 0 => headed,
            _ => clock::monotonic_ns(),
        };
        loop {
            if self.connection.attempts > 0 {
                self.connection.count(ServiceCount::Retries);
            }
            let connection = &mut self.connection;
            let chosen = choose(connection, &self.client, wanted, &mut begun);
            let picked = match chosen.await.map_err(refused)? {
                Ok(picked) => picked,
                Err(Refusal::NoBackend) if tries.is_closed => {
                    // There is nobody else; what has failed is the try before.
                    self.connection.phase(Phase::Answer);
                    return Err(Failed::because(Cause::BackendClosed));
                }
                Err(Refusal::NoBackend) => return Err(refused(tries.failure)),
                Err(Refusal::Full) => return Err(refused(Outcome::QueueFull)),
                Err(Refusal::Closed) => return Err(refused(Outcome::Closed)),
            };
            let Some(service) = self.connection.service.as_ref().map(Rc::clone) else {
                return Err(refused(tries.failure));
            };
            let attempts_max = service.http.as_ref().map_or(1, |h| h.spec().retry.attempts);
            let was_exhausted = tries.failure == Outcome::Exhausted;
            let chosen = Chosen {
                backend: picked.cell,
                down_since: picked.down_since,
            };
            let number = self.connection.number();
            if let Some(idle) = self.idle(&service, &picked, tries.needs_fresh) {
                self.connection.attempts = self.connection.attempts.saturating_add(1);
                self.connection.endpoint = Some(idle.endpoint.into());
                let connections = &self.connection.worker.connections;
                connections.chose(number, chosen);
                return Ok((idle, picked, service));
            }
            let connection = &mut self.connection;
            let reached = reach(connection, &self.client, &service, &picked, tries.failure).await;
            tries.failure = match reached {
                Ok(_) if is_lost(&service, &picked) => Outcome::DownReset,
                Ok(stream) => {
                    connection.connected(begun);
                    let endpoint = connection.endpoint.map_or(
                        service.backends[picked.index].endpoints[picked.turn],
                        Into::into,
                    );
                    let source = match &service.spec().connect.source {
                        SourceSpec::Addresses(_) => stream.local_address().ok(),
                        SourceSpec::Kernel | SourceSpec::Client => None,
                    };
                    let upstream = Upstream {
                        stream,
                        endpoint,
                        source: source.map(|source| source.ip()),
                        used: 1,
                    };
                    connection.worker.connections.chose(number, chosen);
                    return Ok((upstream, picked, service));
                }
                Err(Outcome::ClientGone) => return Err(Failed::ClientGone),
                Err(failure) => failure,
            };
            if tries.failure == Outcome::Exhausted
                && !was_exhausted
                && self.connection.worker.pools.close_all()
            {
                // What was kept for later has given back what was missing now.
                wanted.tried.forget_last();
            }
            if was_exhausted || self.connection.attempts >= attempts_max {
                return Err(refused(tries.failure));
            }
        }
    }

    /// An idle connection to the backend that was picked.
    fn idle(&self, service: &Service, picked: &Picked, needs_fresh: bool) -> Option<Upstream> {
        let connect = &service.spec().connect;
        if needs_fresh || !is_pooled(connect) {
            return None;
        }
        let head = &self.connection.carried.as_ref()?.head;
        let backend = &service.backends[picked.index];
        let fit = Fit {
            endpoint: backend.endpoints[picked.turn],
            source: &connect.source,
            idle_max: match head.method().is_idempotent() {
                true => u32::MAX,
                false => JUST_USED_TICKS,
            },
        };
        let now = self.connection.worker.connections.now();
        let mut idle = backend.handle.pool().take(backend.handle.row(), fit, now)?;
        idle.used = idle.used.saturating_add(1);
        Some(idle)
    }

    /// Writes the head for this backend, and what is held of the body for another try.
    fn write_head(
        &mut self,
        scratch: &mut Scratch,
        service: &Service,
        index: usize,
        target: &Target,
        has_host: bool,
    ) {
        let Some((_, head)) = self.connection.request() else {
            return;
        };
        // Each backend is told its own address, also when it is not the first that is tried.
        if !has_host || target.edits.is_host_backends {
            let address = service.spec().backends[index].address.to_string();
            // What a name cannot say (SRV) is left as it is.
            head.set_authority(&address).unwrap_or(());
        }
        let out = &mut scratch.up.out;
        out.clear();
        let body = framing::of_request(head);
        let connection = match head.websocket() && body == Body::None {
            true => write::Connection::Websocket,
            false if is_pooled(&service.spec().connect) => write::Connection::Stays,
            false => write::Connection::Closes,
        };
        write::request(&mut out.bytes, head, body, connection);
        scratch.up.begin_try();
    }

    fn note_answer(&mut self, answer: &AnswerHead) {
        if answer.status() >= 500 {
            self.connection.count_backend(BackendCount::Answers5xx);
        }
        let Some((request, _)) = self.connection.request() else {
            return;
        };
        let us = clock::monotonic_ns().saturating_sub(request.sent) / 1_000;
        request.first_byte_us = Some(us);
        self.connection
            .observe_us(evenkeel_scoreboard::Latency::FirstByte, us);
        self.connection.phase(Phase::Body);
    }

    fn failed(&mut self, heard: Heard) -> Failed {
        match heard {
            Heard::Up(UpError::ClientGone) => Failed::ClientGone,
            Heard::Up(UpError::Malformed(rule)) => {
                tracing::debug!(rule = rule.id, "a malformed body");
                Failed::fatal(cause_of(rule.status(Side::Request).unwrap_or(400)))
            }
            Heard::Up(UpError::TooLarge) => Failed::fatal(Cause::BodyTooLarge),
            Heard::BodyTimeout => Failed::fatal(Cause::BodyTimeout),
            Heard::BackendTimeout => {
                self.connection.count_backend(BackendCount::BadAnswers);
                Failed::because(Cause::BackendTimeout)
            }
            Heard::Malformed(rule) => {
                let backend = self.connection.words(rule.id);
                tracing::debug!(rule = rule.id, backend, "a malformed answer");
                self.connection.count_backend(BackendCount::BadAnswers);
                Failed::because(match rule.id {
                    "head-long" | "fields-many" => Cause::BackendHeadTooLarge,
                    _ => Cause::BackendMalformed,
                })
            }
            Heard::Answer | Heard::Closed { .. } => Failed::because(Cause::BackendClosed),
        }
    }
}

/// How the tries of a request went.
#[derive(Debug)]
struct Tries {
    failure: Outcome,
    /// No idle connection is used any more.
    needs_fresh: bool,
    /// A backend has closed instead of answering.
    is_closed: bool,
    /// The next try sends again what may have been taken before.
    is_resend: bool,
}

impl Default for Tries {
    fn default() -> Self {
        Self {
            failure: Outcome::NoBackend,
            needs_fresh: false,
            is_closed: false,
            is_resend: false,
        }
    }
}

/// Whether connections may carry requests of several clients: not where they say whose they are.
pub(crate) fn is_pooled(connect: &ConnectSpec) -> bool {
    connect.send_proxy.is_none() && connect.source != SourceSpec::Client
}
