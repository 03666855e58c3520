//! Whether a connection may serve another request.

use evenkeel_http::{AnswerHead, Declared, Method, RequestHead};

use crate::answer::RequestContext;
use crate::framing::{Body, Outgoing};

/// Whether the client's connection stays after this answer, as far as the two heads say. The caller closes it all the same
/// when it drains, when the request's body was not read to its end, and after every refusal.
#[must_use]
pub const fn client_stays(request: &RequestHead, outgoing: &Outgoing) -> bool {
    request.persistent() && !matches!(outgoing.body, Body::ToEnd)
}

/// Whether the backend's connection may be used again after this answer, as far as its head says. The caller throws it away
/// all the same unless the request was sent to its end, the answer read to its end, and no byte followed.
#[must_use]
pub const fn backend_stays(answer: &AnswerHead, body: Body, context: &RequestContext) -> bool {
    if !answer.persistent() || matches!(body, Body::ToEnd) || answer.status() == 101 {
        return false;
    }
    // What a 204 announces and must not have may follow it.
    let announced = !matches!(answer.declared(), Declared::Absent | Declared::Length(0));
    let described = matches!(context.method, Method::Head) || answer.status() == 304;
    !(matches!(body, Body::None) && announced && !described)
}
