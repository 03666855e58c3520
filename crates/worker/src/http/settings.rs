//! What a plan says of a service's HTTP, compiled. Shared by all views in which it is the same.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use evenkeel_balance::gcra::Limit;
use evenkeel_http::compress::Compression;
use evenkeel_http::forwarded::Forwarding;
use evenkeel_http::route::{Edits, Redirect, Router};
use evenkeel_http1::{Limits, Underscores};
use evenkeel_net::buffer::BUFFER_BYTES;
use evenkeel_plan::TimeoutsSpec;
use evenkeel_plan::http::{
    ActionSpec, FixedSpec, HostSpec, HttpSpec, Method, RouteSpec, TransformSpec,
};

use crate::admission::per_second_in_us;
use crate::connections::ticks;
use crate::plan::{Service, View};

// The longest head that can be configured is read into one buffer, with the empty line that may come before it.
const _: () = assert!(BUFFER_BYTES >= 64 * 1024 + 2);

/// HTTP of a service: of its listeners' side, and of its backends'.
#[derive(Debug)]
pub(crate) struct Http {
    spec: Arc<HttpSpec>,
    router: Router,
    routes: Box<[Route]>,
    /// What no route takes, where the service has backends itself.
    own: Route,
    pub(crate) forwarding: Forwarding,
    pub(crate) compression: Compression,
    pub(crate) limits: Limits,
    pub(crate) source_rate: Option<Limit>,
    pub(crate) ticks: Ticks,
}

/// Time-outs in ticks; 0 = for ever.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticks {
    pub(crate) request_head: u32,
    pub(crate) body_idle: u32,
    pub(crate) client_write: u32,
    pub(crate) first_byte: u32,
    pub(crate) answer_idle: u32,
    pub(crate) upstream_idle: u32,
}

/// Where a request goes, and what is changed in it.
#[derive(Debug)]
pub(crate) struct Route {
    action: Action,
    transform: TransformSpec,
    /// Changes to answers of our own.
    own_edits: Edits,
    /// Of the service that it led to last. That one is not kept by it: an old plan's could never go.
    target: RefCell<Option<(Weak<Service>, Rc<TargetEdits>)>>,
}

#[derive(Debug)]
enum Action {
    /// The service of the listener itself.
    Own,
    Service(Box<str>),
    Redirect(Redirect),
    Fixed(FixedSpec),
}

/// What becomes of a request.
#[derive(Debug)]
pub(crate) enum Decision<'a> {
    /// It goes to a backend of this service.
    Serve(Target),
    /// The client is sent elsewhere.
    Redirect(&'a Redirect),
    /// The client gets this.
    Fixed(&'a FixedSpec),
    /// Its service is in no plan any more.
    Gone,
}

/// A service, and all that is changed on the way to it and back.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) service: Rc<Service>,
    pub(crate) edits: Rc<TargetEdits>,
}

/// Changes of a route and of the service that it leads to.
#[derive(Debug)]
pub(crate) struct TargetEdits {
    pub(crate) request: Edits,
    pub(crate) response: Edits,
    /// Whether backends are told their own address as the host.
    pub(crate) is_host_backends: bool,
}

impl Http {
    /// Compiles `spec`.
    ///
    /// # Errors
    /// In words, when a route cannot be compiled; the configuration has done so before.
    pub(crate) fn new(spec: &Arc<HttpSpec>) -> Result<Self, String> {
        let router = Router::new(&spec.routes).map_err(|errors| {
            let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
            errors.join("; ")
        })?;
        let routes: Result<Box<[_]>, String> = spec.routes.iter().map(Route::new).collect();
        let times = &spec.timeouts;
        let size = |bytes: u32| usize::try_from(bytes).unwrap_or(usize::MAX);
        Ok(Self {
            router,
            routes: routes?,
            own: Route {
                action: Action::Own,
                transform: TransformSpec::default(),
                own_edits: Edits::default(),
                target: RefCell::default(),
            },
            forwarding: Forwarding::new(&spec.forwarded),
            compression: Compression::new(&spec.compression),
            limits: Limits {
                head_bytes: size(spec.limits.head_bytes),
                fields: spec.limits.fields.into(),
                target_bytes: size(spec.limits.uri_bytes),
                underscores: Underscores::Remove,
                ..Limits::REQUESTS
            },
            source_rate: spec.limits.source_rate.map(per_second_in_us),
            ticks: Ticks {
                request_head: ticks(Some(times.request_head)),
                body_idle: ticks(times.body_idle),
                client_write: ticks(times.client_write),
                first_byte: ticks(times.first_byte),
                answer_idle: ticks(times.answer_idle),
                upstream_idle: ticks(Some(times.upstream_idle)),
            },
            spec: Arc::clone(spec),
        })
    }

    /// What the plan says.
    pub(crate) fn spec(&self) -> &Arc<HttpSpec> {
        &self.spec
    }

    pub(crate) fn router(&self) -> &Router {
        &self.router
    }

    /// The route of that place in the file; `None` = what no route takes.
    pub(crate) fn route(&self, index: Option<usize>) -> &Route {
        index
            .and_then(|index| self.routes.get(index))
            .unwrap_or(&self.own)
    }

    /// Whether a method may be sent again although a backend may have acted on it.
    pub(crate) fn may_resend(&self, method: &str) -> bool {
        let is_it = |listed: &Method| listed.as_str() == method;
        self.spec.retry.methods.iter().any(is_it)
    }

    /// How long a tunnel may be idle, and stay half closed.
    pub(crate) fn tunnel_timeouts(&self) -> TimeoutsSpec {
        TimeoutsSpec {
            idle: self.spec.timeouts.tunnel_idle,
            total: None,
            ..TimeoutsSpec::default()
        }
    }
}

/// How long a client may be silent between two requests.
pub(crate) fn idle_timeouts(spec: &HttpSpec) -> TimeoutsSpec {
    TimeoutsSpec {
        idle: Some(spec.timeouts.keep_alive_idle),
        half_closed: None,
        total: None,
        ..TimeoutsSpec::default()
    }
}

impl Route {
    fn new(spec: &RouteSpec) -> Result<Self, String> {
        let action = match &spec.action {
            ActionSpec::Service(name) => Action::Service(name.as_str().into()),
            ActionSpec::Redirect(redirect) => {
                Action::Redirect(Redirect::new(redirect).map_err(|error| error.to_string())?)
            }
            ActionSpec::Fixed(fixed) => Action::Fixed(fixed.clone()),
        };
        Ok(Self {
            action,
            transform: spec.transform.clone(),
            own_edits: Edits::new([&spec.transform.response]),
            target: RefCell::default(),
        })
    }

    /// Changes that are its own, before those of the service.
    pub(crate) fn transform(&self) -> &TransformSpec {
        &self.transform
    }

    /// What becomes of its requests, that came in by `front`.
    pub(crate) fn decide(&self, front: &Rc<Service>, view: &View) -> Decision<'_> {
        let service = match &self.action {
            Action::Own => Some(front),
            Action::Service(name) => view.service(name),
            Action::Redirect(redirect) => return Decision::Redirect(redirect),
            Action::Fixed(fixed) => return Decision::Fixed(fixed),
        };
        match service {
            Some(service) => Decision::Serve(self.target(service)),
            None => Decision::Gone,
        }
    }

    /// `service`, and what is changed on the way there and back.
    pub(crate) fn target(&self, service: &Rc<Service>) -> Target {
        if let Some((known, edits)) = &*self.target.borrow()
            && std::ptr::eq(known.as_ptr(), Rc::as_ptr(service))
        {
            return Target {
                service: Rc::clone(service),
                edits: Rc::clone(edits),
            };
        }
        let own = service.http.as_deref().map(|http| &*http.spec);
        let none = TransformSpec::default();
        let transform = own.map_or(&none, |own| &own.transform);
        let presets = own.map_or(&[][..], |own| &own.presets);
        let request = [&self.transform.request, &transform.request];
        // On the way back the service comes first.
        let response = [&transform.response, &self.transform.response];
        let edits = Rc::new(TargetEdits {
            request: Edits::new(request).with_presets(presets),
            response: Edits::new(response),
            is_host_backends: [&self.transform.host, &transform.host].contains(&&HostSpec::Backend),
        });
        let kept = (Rc::downgrade(service), Rc::clone(&edits));
        self.target.replace(Some(kept));
        Target {
            service: Rc::clone(service),
            edits,
        }
    }

    /// Changes to answers of our own.
    pub(crate) fn own_edits(&self) -> &Edits {
        &self.own_edits
    }
}
