//! What there is against what `limits` allow.

use evenkeel_plan::ServiceSpec;

use super::TOP;
use crate::problem::Sink;
use crate::written::{Got, Written};

/// What there is against what `limits` allow.
pub(super) fn capacities(written: &Written, services: &[ServiceSpec], sink: &mut Sink<'_>) {
    let limits = &written.limits;
    let count = |count: usize, limit: &Got<u32>, what: &str| {
        let limit_value = usize::try_from(limit.value).unwrap_or(usize::MAX);
        (limit.good && count > limit_value).then(|| {
            (
                format!("{count} {what}, but `{}` is {}", limit.key, limit.value),
                format!("raise `{}`; it is fixed while the daemon runs", limit.key),
            )
        })
    };
    let at_service = |index: usize| {
        let last = written.services.len().saturating_sub(1);
        let service = written.services.get(index.min(last));
        service.map_or(limits.services.at, |service| Some(service.at))
    };
    // The first service that goes beyond, where the limit itself is not written.
    let beyond = |limit: u32, of: &dyn Fn(&ServiceSpec) -> usize| {
        let mut sum = 0;
        services.iter().position(|service| {
            sum += of(service);
            u32::try_from(sum).is_ok_and(|sum| sum > limit)
        })
    };
    let listeners_of = |service: &ServiceSpec| service.listeners.len();
    let backends_of = |service: &ServiceSpec| service.backends.len();
    let found = [
        (
            &limits.services,
            count(written.services.len(), &limits.services, "services"),
            usize::try_from(limits.services.value).ok(),
        ),
        (
            &limits.listeners,
            count(
                services.iter().map(listeners_of).sum(),
                &limits.listeners,
                "listening addresses",
            ),
            beyond(limits.listeners.value, &listeners_of),
        ),
        (
            &limits.backends,
            count(
                services.iter().map(backends_of).sum(),
                &limits.backends,
                "backends",
            ),
            beyond(limits.backends.value, &backends_of),
        ),
    ];
    for (limit, problem, index) in found {
        if let Some((message, help)) = problem {
            let at = limit
                .at
                .or_else(|| at_service(index.unwrap_or(0)))
                .unwrap_or(TOP);
            sink.error(at, &limit.key, message, help);
        }
    }
}
