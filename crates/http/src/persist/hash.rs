//! What of a request is hashed to find its backend.

use std::net::IpAddr;

use evenkeel_plan::http::PersistenceSpec;

/// What is to be hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashInput<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// The address of the client.
    Address(IpAddr),
}

/// What of a request `spec` hashes; `None` = nothing, it is scheduled: persistence is by cookie, or the field is missing or empty.
/// Of a field in several lines the first one counts. `target` is path and query as they came, `client` who asked by
/// the word of trusted proxies.
pub fn hash_input<'a>(
    spec: &PersistenceSpec,
    target: &'a [u8],
    client: IpAddr,
    fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
) -> Option<HashInput<'a>> {
    match spec {
        PersistenceSpec::Cookie(_) => None,
        PersistenceSpec::Header(wanted) => fields
            .into_iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted.as_str().as_bytes()))
            .map(|(_, value)| value)
            .filter(|value| !value.is_empty())
            .map(HashInput::Bytes),
        PersistenceSpec::Uri { query: true } => Some(HashInput::Bytes(target)),
        PersistenceSpec::Uri { query: false } => {
            let path = target.split(|byte| *byte == b'?').next();
            path.map(HashInput::Bytes)
        }
        PersistenceSpec::Source => Some(HashInput::Address(client)),
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_plan::http::FieldName;

    use super::*;

    #[test]
    fn each_kind_hashes_its_part() {
        let client: IpAddr = "192.0.2.1".parse().unwrap();
        let fields = [
            (&b"x-tenant"[..], &b"a"[..]),
            (b"X-Tenant", b"b"),
            (b"X-Empty", b""),
        ];
        let of = |spec: &PersistenceSpec| hash_input(spec, b"/a?b?c", client, fields);
        let header = |name: &str| PersistenceSpec::Header(FieldName::new(name).unwrap());
        assert_eq!(of(&header("X-TENANT")), Some(HashInput::Bytes(b"a")));
        assert_eq!(of(&header("X-Empty")), None);
        assert_eq!(of(&header("X-Other")), None);
        let uri = |query| PersistenceSpec::Uri { query };
        assert_eq!(of(&uri(false)), Some(HashInput::Bytes(b"/a")));
        assert_eq!(of(&uri(true)), Some(HashInput::Bytes(b"/a?b?c")));
        let source = of(&PersistenceSpec::Source);
        assert_eq!(source, Some(HashInput::Address(client)));
    }
}
