//! One request: who asked, whether it may, where it goes, what is changed; and its answer.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use evenkeel_balance::source;
use evenkeel_http::compress::{self, Choice, Encoder};
use evenkeel_http::forwarded::Origin;
use evenkeel_http::own_answer::{Cause, OwnAnswer};
use evenkeel_http::persist::{Found, HashInput, hash_input};
use evenkeel_http::route::{Redirect, RedirectInput, Refusal, Request as Asked};
use evenkeel_http::{Declared, RequestHead};
use evenkeel_http1::answer::RequestContext;
use evenkeel_http1::{Body, Limits, framing, persistence, write};
use evenkeel_plan::http::PersistenceSpec;
use evenkeel_scoreboard::{BackendCount, GlobalCount, ServiceCount};

use super::converse::{Conversation, Passed};
use super::dispatch::{Answered, Failed, is_pooled};
use super::down::{DownError, Encoding};
use super::prepare;
use super::scratch::Scratch;
use super::session::{After, Session};
use super::settings::{Decision, Http, Route, Target};
use crate::connections::TICKS_A_SECOND;
use crate::handle::Held;
use crate::pick::{Wanted, is_closed};

/// What a cookie is to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sticking {
    /// Whom the client's cookie names, if it counts.
    named: Option<u64>,
    /// Whether it is issued anew in any case.
    renew: bool,
}

impl Session {
    /// Answers the request that is carried.
    pub(crate) async fn exchange(&mut self) -> After {
        let Some(http) = self.http() else {
            return After::Close;
        };
        let Some(mut scratch) = self.scratch.take() else {
            return After::Close;
        };
        let result = self.exchange_by(&http, &mut scratch).await;
        self.scratch = Some(scratch);
        match result {
            Ok(after) => after,
            Err(Failed::ClientGone) => {
                if let Some((request, _)) = self.connection.request() {
                    request.failure = Some(ServiceCount::RequestClientGone);
                }
                After::Reset
            }
            Err(Failed::Refused {
                cause,
                failure,
                is_fatal,
            }) => self.refuse(cause, failure, is_fatal).await,
        }
    }

    async fn exchange_by(
        &mut self,
        http: &Rc<Http>,
        scratch: &mut Scratch,
    ) -> Result<After, Failed> {
        self.connection.is_gone_at_end = !http.spec().allow_half_close;
        if let Some((_, head)) = self.connection.request() {
            // Whatever answer of our own comes from here on: whether there is a body behind the head is known by this.
            let body = framing::of_request(head);
            scratch.up.begin(body, &http.limits, 0, None);
        }
        let (origin, route) = self.admit(http)?;
        let worker = Rc::clone(self.worker());
        let view = worker.view();
        let decision = http.route(route).decide(&self.front, &view);
        drop(view);
        let route = http.route(route);
        let target = match decision {
            Decision::Serve(target) => target,
            Decision::Gone => return Err(Failed::because(Cause::NoRoute)),
            Decision::Redirect(redirect) => {
                return self.redirect(redirect, route, &origin, scratch).await;
            }
            Decision::Fixed(fixed) => {
                let Some((_, head)) = self.connection.request() else {
                    return Err(Failed::because(Cause::Internal));
                };
                let is_head = head.method() == evenkeel_http::Method::Head;
                let answer = OwnAnswer::fixed(fixed, is_head);
                return Ok(self.own(&answer, route, scratch).await);
            }
        };
        let target = self.or_sorry(target, route);
        let Some(back) = target.service.http.clone() else {
            return Err(Failed::because(Cause::NoRoute));
        };
        if target.service.backends.is_empty() {
            return Err(Failed::because(Cause::NoRoute));
        }
        target.service.budget.note(worker.connections.now());
        let (wanted, sticking) = self.prepare(http, &back, &target, route, &origin, scratch)?;
        let answered = self.dispatch(scratch, http, &target, wanted).await?;
        Ok(self
            .pass(http, &target, answered, sticking, &origin, scratch)
            .await)
    }

    /// Who asked, whether it may, and the place of its route.
    fn admit(&mut self, http: &Http) -> Result<(Origin, Option<usize>), Failed> {
        let peer: SocketAddr = self.connection.client.into();
        let board = self.connection.worker.board;
        let entrance = Rc::clone(&self.connection.entrance);
        let is_raised = match http.spec().limits.concurrent_requests {
            None => false,
            Some(most) if self.connection.raise_requests(most) => true,
            Some(_) => return Err(Failed::because(Cause::Overloaded)),
        };
        let worker = Rc::clone(&self.connection.worker);
        let Some((request, head)) = self.connection.request() else {
            return Err(Failed::because(Cause::Internal));
        };
        request.is_limited = is_raised;
        let fields = || prepare::pairs(&head.fields);
        let origin = http.forwarding.origin(peer, false, fields());
        request.id = http
            .forwarding
            .request_id(&origin, || worker.next_random(), fields());
        request.client = Some(origin.client).filter(|client| *client != peer.ip().to_canonical());
        if origin.malformed {
            return Err(Failed::because(Cause::Malformed));
        }
        if let Some(limit) = http.source_rate
            && !entrance.request_passes(board, origin.client, limit)
        {
            return Err(Failed::because(Cause::TooManyRequests));
        }
        if let Declared::Length(length) = head.declared()
            && body_max(http, head).is_some_and(|most| length > most)
        {
            return Err(Failed::because(Cause::BodyTooLarge));
        }
        let asked = Asked {
            host: head.authority_bytes(),
            path: head.path_bytes(),
            method: head.method_bytes(),
            fields: fields(),
        };
        let place = http.router().route(&asked).map_err(|refusal| {
            Failed::because(match refusal {
                Refusal::Ambiguous | Refusal::TooAmbiguous => Cause::AmbiguousPath,
                _ => Cause::Malformed,
            })
        })?;
        request.route = place.and_then(|place| u32::try_from(place + 1).ok());
        Ok((origin, place))
    }

    /// The service that takes the requests of the one in `target` while that is closed, if there is one. Its own is not followed.
    fn or_sorry(&mut self, target: Target, route: &Route) -> Target {
        let worker = Rc::clone(self.worker());
        let service = &target.service;
        if !is_closed(&worker, service) {
            return target;
        }
        let sorry = worker.sorry(service).filter(|sorry| sorry.http.is_some());
        let Some(sorry) = sorry else {
            return target;
        };
        if let Some((request, _)) = self.connection.request() {
            request.count_for(service.row);
            request.hand_on(sorry.row);
        }
        route.target(&sorry)
    }

    /// Changes the request as it is to be, and says who is to have it.
    fn prepare(
        &mut self,
        http: &Http,
        back: &Http,
        target: &Target,
        route: &Route,
        origin: &Origin,
        scratch: &mut Scratch,
    ) -> Result<(Wanted, Sticking), Failed> {
        let peer: SocketAddr = self.connection.client.into();
        let Some((request, head)) = self.connection.request() else {
            return Err(Failed::because(Cause::Internal));
        };
        request.count_for(target.service.row);
        let most = body_max(http, head);
        let mut wanted = Wanted::of(origin.client);
        let mut sticking = Sticking {
            named: None,
            renew: false,
        };
        match &back.spec().persistence {
            None => {}
            Some(PersistenceSpec::Cookie(_)) => {
                if let Some(signer) = target.service.cookies.as_deref() {
                    if let Found::Backend { identity, renew } =
                        signer.read(head.fields.all("cookie"), unix_seconds())
                    {
                        wanted.preferred = Some(identity);
                        sticking = Sticking {
                            named: Some(identity),
                            renew,
                        };
                    }
                    prepare::remove_own_cookies(&mut head.fields, signer, &mut scratch.rooms);
                }
            }
            Some(by) => {
                let fields = prepare::pairs(&head.fields);
                let input = hash_input(by, head.target().as_bytes(), origin.client, fields);
                wanted.hash = input.map(hash_of);
            }
        }
        let edits = &target.edits;
        let is_changed = !http.compression.is_off() && edits.request.drops(b"accept-encoding");
        scratch.asked = is_changed.then(|| head.clone());
        prepare::request_fields(
            head,
            &http.forwarding,
            peer,
            origin,
            request.id.as_ref(),
            &edits.request,
            &mut scratch.rooms,
        );
        for transform in [route.transform(), &back.spec().transform] {
            prepare::rewrite(head, transform).map_err(|_| Failed::because(Cause::Malformed))?;
        }
        let body = framing::of_request(head);
        let held = back.spec().retry.body_bytes;
        scratch.up.begin(body, &http.limits, held, most);
        scratch.down.clear();
        Ok((wanted, sticking))
    }

    /// Passes the answer on, and keeps the backend's connection if that is clean.
    async fn pass(
        &mut self,
        http: &Rc<Http>,
        target: &Target,
        answered: Answered,
        sticking: Sticking,
        origin: &Origin,
        scratch: &mut Scratch,
    ) -> After {
        let Answered {
            upstream,
            mut unheard,
            service,
            stickiness,
        } = answered;
        let is_last = self.is_last();
        let place = match http.compression.is_off() {
            true => None,
            false => self.worker().encodings.place(),
        };
        let Some((request, head)) = self.connection.request() else {
            return After::Reset;
        };
        let answer = &mut scratch.answer;
        let context = RequestContext::of(head);
        let body = framing::of_answer(answer, &context);
        let backend_stays = persistence::backend_stays(answer, body, &context);
        prepare::response_fields(&mut answer.fields, &target.edits.response);
        if let Some(signer) = service.cookies.as_deref()
            && (sticking.renew || sticking.named != Some(stickiness))
        {
            let mut value = Vec::new();
            signer.push_set_cookie(stickiness, unix_seconds(), origin.https, &mut value);
            prepare::add(&mut answer.fields, "Set-Cookie", &value);
        }
        let declared = answer.declared();
        let asked = scratch.asked.take();
        let asked = asked.as_ref().unwrap_or(head);
        let encoder = match &place {
            Some(_) => http
                .compression
                .apply(asked, answer)
                .zip(length_of(declared)),
            None => {
                if http.compression.choose(asked, answer) != Choice::Leave {
                    compress::vary(answer);
                }
                None
            }
        };
        let framed = match encoder {
            Some(_) => Body::Chunked,
            None => body,
        };
        let outgoing = framing::to_client(answer, framed, head.version());
        let encoder = encoder.map(|(coding, length)| Encoder::new(coding, length));
        let encoder = match encoder.zip(place) {
            None => None,
            Some((Ok(encoder), place)) => {
                request.compressed = Some(encoder.coding().as_str());
                Some(Box::new(Encoding { encoder, place }))
            }
            Some((Err(error), _)) => {
                tracing::warn!(%error, "an answer cannot be compressed");
                request.failure = Some(ServiceCount::RequestInternal);
                return After::Reset;
            }
        };
        // A body that has not come whole by now may never do so.
        let is_read = scratch.up.is_read();
        let stays = !is_last && is_read && persistence::client_stays(head, &outgoing);
        request.status = Some(answer.status());
        let is_tunnel = answer.status() == 101;
        let manner = match (is_tunnel, stays) {
            (true, _) => write::Connection::Websocket,
            (false, true) => write::Connection::Stays,
            (false, false) => write::Connection::Closes,
        };
        let out = &mut scratch.down.out.bytes;
        write::answer(out, answer, outgoing, manner, head.version());
        scratch
            .down
            .begin(body, &Limits::ANSWERS, outgoing.body, encoder);
        let back = service.http.as_ref().unwrap_or(http);
        scratch.down.is_last = !stays && !is_tunnel;
        let mut conversation = Conversation {
            connection: &self.connection,
            client: &self.client,
            backend: &upstream.stream,
            unread: &mut self.inbox,
            unheard: &mut unheard,
            up: &mut scratch.up,
            down: &mut scratch.down,
            front: http.ticks,
            back: back.ticks,
            allow_half_close: http.spec().allow_half_close,
        };
        let passed = conversation.pass().await;
        if is_tunnel && matches!(passed, Passed::Whole) {
            let connections = &self.connection.worker.connections;
            let limits = connections.limits(&back.tunnel_timeouts());
            connections.limit(self.connection.number(), limits);
            self.connection.upgrade();
            return After::Tunnel(upstream.stream, unheard);
        }
        let failure = match passed {
            Passed::Whole => None,
            Passed::Broken(DownError::ClientGone) => Some(ServiceCount::RequestClientGone),
            Passed::Broken(DownError::BackendClosed) => Some(ServiceCount::RequestBackendClosed),
            Passed::Broken(DownError::Malformed(_)) => Some(ServiceCount::RequestBackendMalformed),
            Passed::Broken(DownError::Encoding) => Some(ServiceCount::RequestInternal),
            Passed::BackendTimeout => Some(ServiceCount::RequestBackendTimeout),
            Passed::ClientTimeout => Some(ServiceCount::RequestCut),
        };
        if let Some(failure) = failure {
            if matches!(
                passed,
                Passed::Broken(DownError::BackendClosed | DownError::Malformed(_))
                    | Passed::BackendTimeout
            ) {
                self.connection.count_backend(BackendCount::BadAnswers);
            }
            if let Passed::Broken(DownError::Malformed(rule)) = passed {
                let backend = self.connection.words(rule.id);
                tracing::debug!(rule = rule.id, backend, "a malformed body of an answer");
            }
            if let Some((request, _)) = self.connection.request() {
                request.failure = Some(failure);
            }
            // What frames itself tells the client that it is not whole; the rest has to be reset.
            return match (failure, outgoing.body) {
                (
                    ServiceCount::RequestBackendClosed
                    | ServiceCount::RequestBackendMalformed
                    | ServiceCount::RequestBackendTimeout,
                    Body::Length(_) | Body::Chunked,
                ) => After::Close,
                _ => After::Reset,
            };
        }
        let is_clean = backend_stays && scratch.up.is_done() && unheard.is_empty();
        let is_through = scratch.up.is_read();
        if is_clean && !upstream.has_stirred() && is_pooled(&service.spec().connect) {
            self.keep(upstream, back, scratch);
        } else if scratch.up.is_done() {
            // All was said on both sides.
            upstream.stream.finish_on_close();
        }
        match (stays, is_through) {
            (true, true) => After::Next,
            (false, true) => After::Close,
            (_, false) => After::Linger,
        }
    }

    /// Keeps a connection to the backend for the next request.
    fn keep(&self, upstream: super::pool::Upstream, back: &Http, scratch: &Scratch) {
        let worker = &self.connection.worker;
        let Some(handle) = self.connection.backend.as_ref().map(Held::shared) else {
            return;
        };
        let pool = back.spec().pool;
        if pool.requests.is_some_and(|most| upstream.used >= most) {
            return upstream.stream.finish_on_close();
        }
        let workers = worker.board.get(GlobalCount::SlotsUsed).max(1);
        let share = u64::from(pool.idle).div_ceil(workers);
        let room = usize::try_from(share).unwrap_or(usize::MAX);
        // A second less than it says, for what is on its way.
        let kept_ticks = |s: u32| s.saturating_sub(1).saturating_mul(TICKS_A_SECOND);
        let announced = scratch.answer.kept_s().map_or(u32::MAX, kept_ticks);
        let ticks = back.ticks.upstream_idle.min(announced);
        let now = worker.connections.now();
        worker.pools.keep(&handle, upstream, now, ticks, room);
    }

    async fn redirect(
        &mut self,
        redirect: &Redirect,
        route: &Route,
        origin: &Origin,
        scratch: &mut Scratch,
    ) -> Result<After, Failed> {
        let port = self.connection.entrance.address.port();
        let Some((_, head)) = self.connection.request() else {
            return Err(Failed::because(Cause::Internal));
        };
        let own = head.authority();
        let host = origin
            .host
            .as_deref()
            .or_else(|| own.as_ref().map(|own| own.as_str()));
        let input = RedirectInput {
            https: origin.https,
            host: host.map(str::as_bytes),
            port,
            path: head.path().as_bytes(),
            query: head.query().map(str::as_bytes),
        };
        let location = redirect
            .location(&input)
            .ok_or_else(|| Failed::because(Cause::Malformed))?;
        let answer = OwnAnswer::redirect(redirect.status(), location);
        Ok(self.own(&answer, route, scratch).await)
    }

    /// An answer of a route.
    async fn own(&mut self, answer: &OwnAnswer, route: &Route, scratch: &mut Scratch) -> After {
        self.answer(answer, route.own_edits(), None, false, scratch)
            .await
    }
}

/// Most bytes of the request's body.
fn body_max(http: &Http, head: &RequestHead) -> Option<u64> {
    let limits = &http.spec().limits;
    if limits.body_by_type.is_empty() {
        return limits.body_bytes;
    }
    limits.body_bytes_of(head.fields.first("content-type"))
}

fn hash_of(input: HashInput<'_>) -> u64 {
    match input {
        HashInput::Bytes(bytes) => source::of_bytes(bytes),
        HashInput::Address(address) => source::of_address(address),
    }
}

fn length_of(declared: Declared) -> Option<u64> {
    match declared {
        Declared::Length(length) => Some(length),
        Declared::Absent | Declared::Streamed => None,
    }
}

fn unix_seconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
