//! The right to connect to backends from clients' addresses: who needs it, and whether it is there.

use evenkeel_plan::{ServiceSpec, SourceSpec, Spec};
use evenkeel_sys::process;

/// The first service of `spec` whose backends see clients' addresses.
fn first_transparent<'a>(mut services: impl Iterator<Item = &'a ServiceSpec>) -> Option<&'a str> {
    services
        .find(|service| service.connect.source == SourceSpec::Client)
        .map(|service| service.name.as_str())
}

/// Whether workers have to keep CAP_NET_RAW for `services`.
pub(crate) fn needs_net_raw<'a>(services: impl Iterator<Item = &'a ServiceSpec>) -> bool {
    first_transparent(services).is_some()
}

/// What `spec` asks for and this process, and with it every worker, may not do.
///
/// # Errors
/// In words for the operator.
pub(crate) fn check(spec: &Spec) -> Result<(), String> {
    refuse(spec, process::has_net_raw())
}

fn refuse(spec: &Spec, has_net_raw: bool) -> Result<(), String> {
    match first_transparent(spec.services.iter()) {
        Some(service) if !has_net_raw => Err(format!(
            "service `{service}` has source = \"client\", which needs CAP_NET_RAW, and this process does not have it: start it as root, or with AmbientCapabilities=CAP_NET_RAW (deploy/evenkeel.service)"
        )),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_plan::{Globals, ServiceName};

    use super::*;

    #[test]
    fn clients_addresses_need_the_right_and_nothing_else_does() {
        let service = |name: &str, source: SourceSpec| {
            let name = ServiceName::new(name).unwrap();
            let mut service = ServiceSpec::new(name, Vec::new(), Vec::new());
            service.connect.source = source;
            service
        };
        let spec = |services: Vec<ServiceSpec>| Spec {
            globals: Globals::default(),
            services,
        };
        let own = SourceSpec::Addresses(vec!["10.0.0.1".parse().unwrap()]);
        let plain = spec(vec![
            service("a", SourceSpec::Kernel),
            service("b", own.clone()),
        ]);
        assert!(!needs_net_raw(plain.services.iter()));
        assert_eq!(refuse(&plain, false), Ok(()));
        let foreign = spec(vec![service("a", own), service("b", SourceSpec::Client)]);
        assert!(needs_net_raw(foreign.services.iter()));
        assert_eq!(refuse(&foreign, true), Ok(()));
        let words = refuse(&foreign, false).unwrap_err();
        assert!(words.contains("service `b`") && words.contains("CAP_NET_RAW"));
    }
}
