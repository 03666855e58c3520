//! What is changed in a head on its way, either way.

use std::net::SocketAddr;

use evenkeel_http::forwarded::{Forwarding, Origin, RequestId, Seen};
use evenkeel_http::list::{Name, Value};
use evenkeel_http::persist::CookieSigner;
use evenkeel_http::route::{Edits, rewrite_path};
use evenkeel_http::{Fields, RequestHead, Rule};
use evenkeel_plan::http::{HostSpec, TransformSpec};

/// Name and value of each field.
pub(crate) fn pairs(fields: &Fields) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
    fields.iter().map(|field| (field.name_bytes(), field.value))
}

/// Rooms that are used again.
#[derive(Debug, Default)]
pub(crate) struct Rooms {
    value: Vec<u8>,
    lines: Vec<u8>,
    ends: Vec<(usize, usize)>,
}

impl Rooms {
    fn clear(&mut self) {
        self.lines.clear();
        self.ends.clear();
    }

    fn push(&mut self, name: &[u8], value: &[u8]) {
        self.lines.extend_from_slice(name);
        let name_end = self.lines.len();
        self.lines.extend_from_slice(value);
        self.ends.push((name_end, self.lines.len()));
    }

    fn append_to(&self, fields: &mut Fields) {
        let mut from = 0;
        for &(name_end, end) in &self.ends {
            append(
                fields,
                &self.lines[from..name_end],
                &self.lines[name_end..end],
            );
            from = end;
        }
    }
}

fn append(fields: &mut Fields, name: &[u8], value: &[u8]) {
    // Names come from checked settings, values from checked heads: what is neither is left out, and never sent.
    if let Ok(name) = std::str::from_utf8(name)
        && let (Ok(name), Ok(value)) = (Name::new(name), Value::new(value))
    {
        fields.append(name, value);
    }
}

/// Says to backends who asked, and applies `edits`.
pub(crate) fn request_fields(
    head: &mut RequestHead,
    forwarding: &Forwarding,
    peer: SocketAddr,
    origin: &Origin,
    id: Option<&RequestId>,
    edits: &Edits,
    rooms: &mut Rooms,
) {
    rooms.clear();
    let seen = Seen {
        peer,
        https: false,
        host: head.authority_bytes(),
    };
    let mut value = std::mem::take(&mut rooms.value);
    forwarding.write(
        &seen,
        origin,
        id,
        pairs(&head.fields),
        &mut value,
        |name, value| rooms.push(name, value),
    );
    rooms.value = value;
    head.fields.remove_where(|field| {
        let name = field.name_bytes();
        forwarding.drops(name, origin) || edits.drops(name)
    });
    rooms.append_to(&mut head.fields);
    for (name, value) in edits.lines() {
        append(&mut head.fields, name.as_bytes(), value.as_bytes());
    }
}

/// Applies `edits` to an answer.
pub(crate) fn response_fields(fields: &mut Fields, edits: &Edits) {
    fields.remove_where(|field| edits.drops(field.name_bytes()));
    for (name, value) in edits.lines() {
        append(fields, name.as_bytes(), value.as_bytes());
    }
}

/// Adds a field.
pub(crate) fn add(fields: &mut Fields, name: &str, value: &[u8]) {
    append(fields, name.as_bytes(), value);
}

/// Rewrites the path as `transform` says, and the host where it names one.
///
/// # Errors
/// The rules `target-*` and `host-malformed`.
pub(crate) fn rewrite(
    head: &mut RequestHead,
    transform: &TransformSpec,
) -> Result<(), &'static Rule> {
    let (strip, add) = (
        transform.strip_prefix.as_ref(),
        transform.add_prefix.as_ref(),
    );
    if strip.is_some() || add.is_some() {
        let path = rewrite_path(head.path().as_bytes(), strip, add);
        let path = String::from_utf8_lossy(&path);
        if *path != *head.path() {
            let target = match head.query() {
                Some(query) => format!("{path}?{query}"),
                None => path.into_owned(),
            };
            head.set_target(&target)?;
        }
    }
    if let HostSpec::Set(host) = &transform.host {
        head.set_authority(host.name())?;
    }
    Ok(())
}

/// Takes our own cookies out of a request.
pub(crate) fn remove_own_cookies(fields: &mut Fields, signer: &CookieSigner, rooms: &mut Rooms) {
    rooms.clear();
    for line in fields.all("cookie") {
        let mut others = std::mem::take(&mut rooms.value);
        others.clear();
        if signer.push_others(line, &mut others) {
            rooms.push(b"cookie", &others);
        }
        rooms.value = others;
    }
    fields.remove("cookie");
    rooms.append_to(fields);
}
