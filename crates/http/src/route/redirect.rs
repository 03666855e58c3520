//! Where a redirect leads.

use evenkeel_plan::http::{RedirectPart, RedirectSpec, RedirectTemplateError, parse_redirect};

use super::host::{HostBuffer, normal_host};

/// A redirect, read.
#[derive(Clone, Debug)]
pub struct Redirect {
    status: u16,
    parts: Vec<RedirectPart>,
}

/// What of a request goes into a location.
#[derive(Clone, Copy, Debug)]
pub struct RedirectInput<'a> {
    /// Whether the client asked by https.
    pub https: bool,
    /// The authority that it asked for, with or without port.
    pub host: Option<&'a [u8]>,
    /// The port that counts where the authority has none: the listener's.
    pub port: u16,
    /// The path as it came.
    pub path: &'a [u8],
    /// The query as it came, without `?`.
    pub query: Option<&'a [u8]>,
}

impl Redirect {
    /// Reads the template of `spec`.
    ///
    /// # Errors
    /// [`RedirectTemplateError`].
    pub fn new(spec: &RedirectSpec) -> Result<Self, RedirectTemplateError> {
        Ok(Self {
            status: spec.status.code(),
            parts: parse_redirect(&spec.location)?,
        })
    }

    /// 301, 302, 307 or 308.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The value of `Location`: a URI in ASCII without a control byte or space, whatever `input` has. `None` when the template
    /// needs a host or path that the request does not have (400).
    ///
    /// A location that starts with the path starts with one slash, or it would lead to another host.
    #[must_use]
    pub fn location(&self, input: &RedirectInput<'_>) -> Option<String> {
        let mut out = String::with_capacity(64 + input.path.len());
        for part in &self.parts {
            match part {
                RedirectPart::Text(text) => out.push_str(text),
                RedirectPart::Scheme => out.push_str(if input.https { "https" } else { "http" }),
                RedirectPart::Host => {
                    let mut buffer = HostBuffer::new();
                    let host = normal_host(input.host?, &mut buffer).ok()??;
                    push_encoded(host, &mut out);
                }
                RedirectPart::Port => out.push_str(&port(input).to_string()),
                RedirectPart::Path => push_path(input.path, &mut out)?,
                RedirectPart::Query => {
                    if let Some(query) = input.query {
                        out.push('?');
                        push_encoded(query, &mut out);
                    }
                }
            }
        }
        Some(out)
    }
}

fn port(input: &RedirectInput<'_>) -> u16 {
    let host = input.host.unwrap_or_default();
    let digits = match host.iter().rposition(|byte| matches!(byte, b':' | b']')) {
        Some(at) if host.get(at) == Some(&b':') => host.get(at + 1..).unwrap_or_default(),
        _ => b"",
    };
    let text = std::str::from_utf8(digits).unwrap_or_default();
    text.parse().unwrap_or(input.port)
}

fn push_path(path: &[u8], out: &mut String) -> Option<()> {
    if path.first() != Some(&b'/') {
        return None;
    }
    let mut path = path;
    if out.is_empty() {
        // A backslash is a slash to browsers.
        let more = path
            .iter()
            .take_while(|byte| matches!(byte, b'/' | b'\\'))
            .count();
        path = path.get(more..)?;
        out.push('/');
    }
    push_encoded(path, out);
    Some(())
}

/// Pushes what a URI may have as it is, codes included, and the rest percent-encoded.
fn push_encoded(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?[]%".contains(byte) {
            out.push(char::from(*byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_plan::http::RedirectStatus;

    use super::*;

    fn location(template: &str, input: &RedirectInput<'_>) -> Option<String> {
        let spec = RedirectSpec {
            status: RedirectStatus::Permanent,
            location: template.to_owned(),
        };
        Redirect::new(&spec).unwrap().location(input)
    }

    const INPUT: RedirectInput<'_> = RedirectInput {
        https: false,
        host: Some(b"Example.org:8080"),
        port: 80,
        path: b"/a%20b",
        query: Some(b"c=d"),
    };

    #[test]
    fn variables_are_filled_in() {
        for (template, result) in [
            (
                "https://{host}{path}{query}",
                "https://example.org/a%20b?c=d",
            ),
            ("{scheme}://{host}:{port}/", "http://example.org:8080/"),
            ("/x{path}", "/x/a%20b"),
            ("{path}", "/a%20b"),
        ] {
            assert_eq!(location(template, &INPUT).as_deref(), Some(result));
        }
        let plain = RedirectInput {
            host: Some(b"[::1]"),
            query: None,
            ..INPUT
        };
        let found = location("https://{host}:{port}{path}{query}", &plain);
        assert_eq!(found.as_deref(), Some("https://[::1]:80/a%20b"));
    }

    #[test]
    fn no_client_leads_others_elsewhere() {
        for path in [
            "//evil.example",
            "/\\evil.example",
            "/\\/evil.example",
            "///evil.example",
        ] {
            let input = RedirectInput {
                path: path.as_bytes(),
                ..INPUT
            };
            let found = location("{path}", &input);
            assert_eq!(found.as_deref(), Some("/evil.example"), "{path}");
        }
        let input = RedirectInput {
            path: b"/a\r\nSet-Cookie: x\"\xff",
            query: Some(b"\n"),
            ..INPUT
        };
        let found = location("{path}{query}", &input);
        assert_eq!(found.as_deref(), Some("/a%0D%0ASet-Cookie:%20x%22%FF?%0A"));
        for host in [
            None,
            Some(&b""[..]),
            Some(b"evil.example/"),
            Some(b"a\r\nb"),
        ] {
            let input = RedirectInput { host, ..INPUT };
            assert_eq!(location("https://{host}/", &input), None);
        }
        let input = RedirectInput {
            path: b"*",
            ..INPUT
        };
        assert_eq!(location("https://{host}{path}", &input), None);
    }
}
