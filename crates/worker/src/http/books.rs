//! The books of one request: opened when its head has come, balanced whatever ends it.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::SystemTime;

use evenkeel_http::forwarded::RequestId;
use evenkeel_http::own_answer::Cause;
use evenkeel_http::{RequestHead, Version};
use evenkeel_log::access::{End, HttpRecord, Phase, Record, Side};
use evenkeel_scoreboard::{Latency, ServiceCount, ServiceRow};
use evenkeel_sys::clock;

use crate::connection::Connection;
use crate::http::tunnel::{Upgraded, path_of};
use crate::plan::Service;

/// What a connection carries: the head of a request, and its books once it is whole.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    pub(crate) head: RequestHead,
    request: Option<Request>,
    /// The service by whose listener it came.
    front: Option<Rc<Service>>,
}

impl Connection {
    /// Its next request begins.
    pub(crate) fn begin_request(&mut self, carried: Box<Carried>) {
        self.requests = self.requests.saturating_add(1);
        self.begin_journey(Phase::Head);
        self.carried = Some(carried);
    }

    /// The head of the request is whole, or never will be.
    pub(crate) fn open_request(&mut self, request: Request, front: Rc<Service>) {
        if let Some(carried) = &mut self.carried {
            carried.request = Some(request);
            carried.front = Some(front);
        }
    }

    /// The request that it carries, and its head.
    pub(crate) fn request(&mut self) -> Option<(&mut Request, &mut RequestHead)> {
        let carried = self.carried.as_mut()?;
        Some((carried.request.as_mut()?, &mut carried.head))
    }

    /// Its request has made a tunnel of it, whose end is to say what it was.
    pub(crate) fn upgrade(&mut self) {
        let Some(mut carried) = self.carried.take() else {
            return;
        };
        let Some(mut request) = carried.request.take() else {
            return;
        };
        self.settle(&mut request);
        let upgraded = Upgraded::new(&carried.head, &request, self.requests);
        self.upgraded = Some(Box::new(upgraded));
        self.phase(Phase::Relay);
        self.is_gone_at_end = false;
    }

    /// Closes the books of its request, if it carries one, and gives the room for the next.
    pub(crate) fn close_request(&mut self) -> Option<Box<Carried>> {
        let mut carried = self.carried.take()?;
        if let Some(mut request) = carried.request.take()
            && let Some(front) = carried.front.take()
        {
            if request.status.is_none() && request.failure.is_none() {
                // Its task was ended from outside.
                request.failure = Some(match std::thread::panicking() {
                    true => ServiceCount::RequestInternal,
                    false => ServiceCount::RequestCut,
                });
            }
            self.settle(&mut request);
            self.log_request(&request, &carried.head, &front);
        }
        self.end_journey();
        Some(carried)
    }

    /// Who asked, for the log: `told` by a trusted proxy, which tells no port, or the peer.
    pub(crate) fn asker(&self, told: Option<IpAddr>) -> SocketAddr {
        told.map_or_else(|| self.client.into(), |told| SocketAddr::new(told, 0))
    }

    fn settle(&self, request: &mut Request) {
        request.close();
        if request.is_limited {
            self.entrance.lower_requests();
        }
    }

    fn log_request(&self, request: &Request, head: &RequestHead, front: &Service) {
        let duration_us = clock::monotonic_ns().saturating_sub(request.begun) / 1_000;
        if request.sent > 0 {
            self.observe_us(Latency::Duration, duration_us);
        }
        let Some(log) = self.worker.access_log() else {
            return;
        };
        let mut http = HttpRecord {
            status: request.status,
            number: self.requests,
            request_id: request.id.as_ref().map(RequestId::as_str),
            head_us: Some(request.headed.saturating_sub(request.begun) / 1_000),
            route: request.route,
            reused: request.reused,
            compressed: request.compressed,
            ..HttpRecord::default()
        };
        if request.is_understood {
            http.method = head.method_name();
            http.host = head.asked_authority();
            let target = head.asked_target();
            http.path = path_of(target);
            if log.wants_query() {
                http.query = target.split_once('?').map(|(_, query)| query);
            }
            if log.wants_agents() {
                http.user_agent = head.fields.first("user-agent");
                http.referer = head.fields.first("referer");
            }
            http.version = match head.version() {
                Version::Http10 => "1.0",
                Version::Http11 => "1.1",
                Version::Http2 => "2",
            };
        }
        let end = request.end(self.phase_now());
        log.write(&Record {
            accepted: request.begun_at,
            duration_us,
            first_byte_us: request.first_byte_us,
            end,
            http: Some(http),
            client: self.asker(request.client),
            ..self.record(front.name())
        });
    }
}

/// A request that has not ended.
#[derive(Debug)]
pub(crate) struct Request {
    /// Of the service that it counts for.
    pub(crate) row: ServiceRow,
    is_counted: bool,
    /// Its first byte, monotonic ns, and wall time.
    pub(crate) begun: u64,
    pub(crate) begun_at: SystemTime,
    /// Its head was whole, monotonic ns.
    pub(crate) headed: u64,
    /// It was sent, or began to be, monotonic ns; 0 = not so.
    pub(crate) sent: u64,
    /// Microseconds from then to the answer's head.
    pub(crate) first_byte_us: Option<u64>,
    /// Who asked, where a trusted proxy says that it was not the peer.
    pub(crate) client: Option<IpAddr>,
    /// Place of its route, from 1.
    pub(crate) route: Option<u32>,
    pub(crate) id: Option<RequestId>,
    /// What the client got, or is getting.
    pub(crate) status: Option<u16>,
    /// Why it is no answer of a backend that is whole.
    pub(crate) failure: Option<ServiceCount>,
    /// Whether it went over a connection that was used before.
    pub(crate) reused: bool,
    /// Whether the listener counts it.
    pub(crate) is_limited: bool,
    /// Whether its head was understood.
    pub(crate) is_understood: bool,
    pub(crate) compressed: Option<&'static str>,
}

impl Request {
    /// A request whose first byte came at `begun` and whose head is whole now. It came in by the service with this row, and counts
    /// for it unless [`Self::count_for`] another.
    pub(crate) fn open(row: ServiceRow, begun: u64, now: u64) -> Self {
        let wall = SystemTime::now();
        let age = std::time::Duration::from_nanos(now.saturating_sub(begun));
        Self {
            row,
            is_counted: false,
            begun,
            begun_at: wall.checked_sub(age).unwrap_or(wall),
            headed: now,
            sent: 0,
            first_byte_us: None,
            client: None,
            route: None,
            id: None,
            status: None,
            failure: None,
            reused: false,
            is_limited: false,
            is_understood: false,
            compressed: None,
        }
    }

    /// It counts for the service with this row.
    pub(crate) fn count_for(&mut self, row: ServiceRow) {
        if !self.is_counted {
            self.is_counted = true;
            self.row = row;
            row.add(ServiceCount::Requests, 1);
            row.add(ServiceCount::ActiveRequests, 1);
        }
    }

    /// It is handed on because its service is closed.
    pub(crate) fn hand_on(&mut self, row: ServiceRow) {
        self.row.lower(ServiceCount::ActiveRequests);
        self.row.add(ServiceCount::RequestClosed, 1);
        self.row = row;
        self.row.add(ServiceCount::Requests, 1);
        self.row.add(ServiceCount::ActiveRequests, 1);
    }

    /// Counts its end.
    pub(crate) fn close(&mut self) {
        self.count_for(self.row);
        self.row.lower(ServiceCount::ActiveRequests);
        if let Some(failure) = self.failure {
            self.row.add(failure, 1);
        }
        let class = match self.status {
            Some(101) => ServiceCount::Upgrades,
            Some(200..=299) => ServiceCount::Answers2xx,
            Some(300..=399) => ServiceCount::Answers3xx,
            Some(400..=499) => ServiceCount::Answers4xx,
            Some(500..=599) => ServiceCount::Answers5xx,
            _ => return,
        };
        self.row.add(class, 1);
    }

    /// How it ended, for the log.
    pub(crate) fn end(&self, phase: Phase) -> End {
        let Some(failure) = self.failure else {
            return End {
                by: match self.sent {
                    0 => Side::Balancer,
                    _ => Side::Backend,
                },
                phase,
                reason: "end",
            };
        };
        End {
            by: side(failure),
            phase,
            reason: failure.request_failure().unwrap_or("internal"),
        }
    }
}

fn side(failure: ServiceCount) -> Side {
    match failure {
        ServiceCount::RequestMalformed
        | ServiceCount::RequestTooLarge
        | ServiceCount::RequestTimeout
        | ServiceCount::RequestClientGone => Side::Client,
        ServiceCount::RequestBackendClosed
        | ServiceCount::RequestBackendMalformed
        | ServiceCount::RequestBackendTimeout
        | ServiceCount::RequestConnectFailed => Side::Backend,
        _ => Side::Balancer,
    }
}

/// Why we answer ourselves, by the status of a broken rule.
pub(crate) fn cause_of(status: u16) -> Cause {
    match status {
        411 => Cause::LengthRequired,
        413 => Cause::BodyTooLarge,
        414 => Cause::UriTooLong,
        417 => Cause::ExpectationFailed,
        431 => Cause::HeadTooLarge,
        501 => Cause::NotImplemented,
        505 => Cause::Version,
        _ => Cause::Malformed,
    }
}

/// Where an answer of our own is counted, where nothing more exact is known.
pub(crate) fn failure_of(cause: Cause) -> ServiceCount {
    match cause {
        Cause::Malformed
        | Cause::AmbiguousPath
        | Cause::Forbidden
        | Cause::LengthRequired
        | Cause::ExpectationFailed
        | Cause::Misdirected
        | Cause::NotImplemented
        | Cause::Version => ServiceCount::RequestMalformed,
        Cause::NoRoute => ServiceCount::RequestNoRoute,
        Cause::HeadTimeout | Cause::BodyTimeout => ServiceCount::RequestTimeout,
        Cause::BodyTooLarge | Cause::UriTooLong | Cause::HeadTooLarge => {
            ServiceCount::RequestTooLarge
        }
        Cause::TooManyRequests => ServiceCount::RequestRateLimited,
        Cause::Internal => ServiceCount::RequestInternal,
        Cause::ConnectFailed => ServiceCount::RequestConnectFailed,
        Cause::BackendClosed => ServiceCount::RequestBackendClosed,
        Cause::BackendMalformed | Cause::BackendHeadTooLarge => {
            ServiceCount::RequestBackendMalformed
        }
        Cause::NoBackend => ServiceCount::RequestNoBackend,
        Cause::Overloaded => ServiceCount::RequestLimited,
        Cause::QueueTimeout => ServiceCount::RequestQueueTimeout,
        Cause::Draining => ServiceCount::RequestCut,
        Cause::BackendTimeout => ServiceCount::RequestBackendTimeout,
    }
}
