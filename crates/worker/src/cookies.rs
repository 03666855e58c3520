//! Who signs a service's cookies. Keys come beside each plan, so that the same record may get others.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use evenkeel_control::child::CookieKeys;
use evenkeel_http::persist::CookieSigner;
use evenkeel_plan::ServiceRecord;

/// Reads what came beside the plan; nothing came = no service of it has cookies.
///
/// # Errors
/// In words. What exactly is wrong with them is not said: nothing of a key may get into a log.
pub(crate) fn read_keys(blob: Option<OwnedFd>) -> Result<CookieKeys, String> {
    let Some(blob) = blob else {
        return Ok(CookieKeys::default());
    };
    let bytes = evenkeel_sys::blob::read(blob)
        .map_err(|error| format!("cannot read the keys of cookies: {error}"))?;
    postcard::from_bytes(&bytes).map_err(|_| "cannot decode the keys of cookies".to_owned())
}

/// Who signs the cookies of `record`; `None` = it has none.
///
/// # Errors
/// In words, when its keys are not there or guard nothing.
pub(crate) fn signer(
    record: &ServiceRecord,
    keys: &CookieKeys,
) -> Result<Option<Rc<CookieSigner>>, String> {
    let Some(cookie) = record.spec.http.as_ref().and_then(|http| http.cookie()) else {
        return Ok(None);
    };
    let service = record.name();
    let keys = keys
        .of(cookie)
        .ok_or_else(|| format!("the key of service `{service}`'s cookies has not arrived"))?;
    CookieSigner::new(cookie, service.as_str(), keys.key, keys.previous)
        .map(|signer| Some(Rc::new(signer)))
        .map_err(|error| format!("service `{service}`: {error}"))
}

/// Whether the cookies of `record` are signed with the same keys under both.
pub(crate) fn has_same_keys(record: &ServiceRecord, a: &CookieKeys, b: &CookieKeys) -> bool {
    let cookie = record.spec.http.as_ref().and_then(|http| http.cookie());
    cookie.is_none_or(|cookie| a.of(cookie) == b.of(cookie))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use evenkeel_http::persist::Found;
    use evenkeel_plan::http::{CookieSpec, HttpSpec, PersistenceSpec};
    use evenkeel_plan::{
        Globals, Plan, Sealed, SecretSource, ServiceCell, ServiceName, ServiceSpec,
    };

    use super::*;
    use crate::connection::tests::worker;
    use crate::plan::View;

    fn record(cookie: CookieSpec) -> ServiceRecord {
        let mut spec = ServiceSpec::new(ServiceName::new("s").unwrap(), Vec::new(), Vec::new());
        let http = HttpSpec {
            persistence: Some(PersistenceSpec::Cookie(cookie)),
            ..HttpSpec::default()
        };
        spec.http = Some(Arc::new(http));
        ServiceRecord {
            spec,
            cell: ServiceCell(0),
            listener_cells: Vec::new(),
            backend_cells: Vec::new(),
            endpoints: Vec::new(),
            list_generation: 1,
        }
    }

    fn source(name: &str) -> SecretSource {
        SecretSource::Environment(name.to_owned())
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_new_key_reaches_a_service_that_did_not_change() {
        let (worker, _) = worker().await;
        let sealed = Arc::new(Sealed::new(record(CookieSpec {
            key: Some(source("K")),
            ..CookieSpec::default()
        })));
        let keys = |key: &[u8], own: &[u8]| CookieKeys {
            own: own.to_vec(),
            values: vec![(source("K"), key.to_vec())],
        };
        let mut view = Rc::new(View::empty());
        let mut signers: Vec<Rc<CookieSigner>> = Vec::new();
        let mut services = Vec::new();
        for (generation, keys) in [
            (1, keys(&[1; 16], &[0; 32])),
            // Not the key of this one.
            (2, keys(&[1; 16], &[9; 32])),
            (3, keys(&[2; 16], &[9; 32])),
        ] {
            let plan = Plan::new(generation, Globals::default(), [Arc::clone(&sealed)]);
            let change = view.change_to(Arc::new(plan), keys, &worker).await.unwrap();
            services.push(change.services.len());
            view = change.view;
            signers.extend(view.service("s").unwrap().cookies.clone());
        }
        assert_eq!(services, [1, 0, 1]);
        let [first, second, third] = &signers[..] else {
            panic!("{}", signers.len());
        };
        assert!(Rc::ptr_eq(first, second));
        let mut cookie = Vec::new();
        third.push_set_cookie(7, 1_000, false, &mut cookie);
        let pair = cookie.split(|byte| *byte == b';').next().unwrap();
        assert_eq!(first.read([pair], 1_001), Found::Invalid);
        assert!(matches!(
            third.read([pair], 1_001),
            Found::Backend { identity: 7, .. }
        ));
    }

    #[test]
    fn cookies_without_a_key_are_signed_with_the_supervisors() {
        let (with, without) = (record(CookieSpec::default()), CookieKeys::default());
        let own = |own: &[u8]| CookieKeys {
            own: own.to_vec(),
            values: Vec::new(),
        };
        assert!(signer(&with, &own(&[1; 32])).unwrap().is_some());
        // Nothing came: rather none than a key that everybody knows.
        let refused = signer(&with, &without).unwrap_err();
        assert!(refused.contains("service `s`"), "{refused}");
        assert!(!has_same_keys(&with, &own(&[1; 32]), &own(&[2; 32])));
        let mut none = with;
        none.spec.http = None;
        assert!(signer(&none, &without).unwrap().is_none());
        assert!(has_same_keys(&none, &own(&[1; 32]), &own(&[2; 32])));
    }
}
