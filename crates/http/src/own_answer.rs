//! Answers of our own, when there is none of a backend: as JSON, HTML or text.
//!
//! # Shapes, which stay as they are
//!
//! ```text
//! application/json   {"error":"503 Service Unavailable","reason":"no backend is available","server":"evenkeel","request_id":"..."}
//! text/html          a page whose title is "503 Service Unavailable"
//! text/plain         503 Service Unavailable
//!                    no backend is available
//! ```
//!
//! `error` begins with the status; programs read it, so that a proxy in between cannot make them guess. `request_id` is left out where
//! the request has none. The order of keys stays too. Nothing that a client sent is in an answer, but for a request id that was checked.
//!
//! The form is the one that `Accept` wants most, the listener's default among equals; a client that wants none of
//! them gets the default (RFC 9110 section 15.5.7 lets us, and an error in a form that was not asked for says more than none).

mod cause;
mod escape;

use std::fmt::Write;

use evenkeel_plan::http::{AnswerFormat, AnswersSpec, FixedSpec};

pub use cause::{Cause, status_title};

use crate::accept::media_quality;
use escape::{push_html, push_json, push_text};

/// What an answer is about.
#[derive(Clone, Copy, Debug)]
pub struct Occasion<'a> {
    /// Why we answer.
    pub cause: Cause,
    /// The request's id, if it has one.
    pub request_id: Option<&'a str>,
    /// When to come back, in seconds, if it is known better than [`AnswersSpec::retry_after`] knows it.
    pub retry_after_s: Option<u32>,
    /// Whether the method is HEAD, so that no body is sent.
    pub head: bool,
}

/// An answer, ready to be framed. The engine writes Content-Length, Connection and Date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnAnswer {
    /// Status.
    pub status: u16,
    /// Fields in the order in which they are written; none of framing.
    pub fields: Vec<(&'static str, String)>,
    /// What is sent; empty for HEAD.
    pub body: Vec<u8>,
    /// Content-Length: of the body, or for HEAD of the one that a GET would have got. `None` = the field is left out, because the
    /// status has no body (204, 304).
    pub content_bytes: Option<usize>,
}

impl OwnAnswer {
    /// The answer to `occasion` for a client with these lines of `Accept`.
    pub fn new<'a>(
        spec: &AnswersSpec,
        occasion: &Occasion<'_>,
        accept: impl IntoIterator<Item = &'a [u8], IntoIter: Clone>,
    ) -> Self {
        let status = occasion.cause.status();
        let format = preferred(accept.into_iter(), spec.default);
        let page = spec.pages.iter().find(|page| {
            page.format == format && (page.statuses.is_empty() || page.statuses.contains(&status))
        });
        let words = Words {
            status,
            title: status_title(status),
            reason: occasion.cause.reason(),
            server: &spec.server,
            request_id: occasion.request_id.unwrap_or_default(),
        };
        let body = match page {
            Some(page) => words.filled(&page.body, format),
            None => words.built_in(format),
        };
        let content_type = match page.and_then(|page| page.content_type.as_ref()) {
            Some(own) => own.as_str().to_owned(),
            None if format == AnswerFormat::Json => format.media_type().to_owned(),
            None => format!("{}; charset=utf-8", format.media_type()),
        };
        let mut fields = vec![
            ("content-type", content_type),
            // A fault of now is no answer for later; and which form it has depends on who asks.
            ("cache-control", "no-store".to_owned()),
            ("vary", "accept".to_owned()),
            ("x-content-type-options", "nosniff".to_owned()),
        ];
        if matches!(status, 429 | 503)
            && let Some(seconds) = retry_after(spec, occasion)
        {
            fields.push(("retry-after", seconds.to_string()));
        }
        Self::framed(status, fields, body.into_bytes(), occasion.head)
    }

    /// The fixed answer of a route.
    #[must_use]
    pub fn fixed(spec: &FixedSpec, head: bool) -> Self {
        let mut fields = Vec::new();
        if has_body(spec.status) && spec.status != 205 {
            let content_type = spec
                .content_type
                .as_ref()
                .map_or("text/plain; charset=utf-8", |own| own.as_str());
            fields.push(("content-type", content_type.to_owned()));
        }
        let body = if spec.status == 205 { "" } else { &spec.body };
        Self::framed(spec.status, fields, body.as_bytes().to_vec(), head)
    }

    /// A redirect to `location`, which is a URI ([`Redirect::location`](crate::route::Redirect::location)).
    #[must_use]
    pub fn redirect(status: u16, location: String) -> Self {
        Self::framed(status, vec![("location", location)], Vec::new(), false)
    }

    fn framed(status: u16, fields: Vec<(&'static str, String)>, body: Vec<u8>, head: bool) -> Self {
        let content_bytes = has_body(status).then_some(body.len());
        let body = if head || !has_body(status) {
            Vec::new()
        } else {
            body
        };
        Self {
            status,
            fields,
            body,
            content_bytes,
        }
    }
}

fn has_body(status: u16) -> bool {
    !matches!(status, 100..=199 | 204 | 304)
}

fn retry_after(spec: &AnswersSpec, occasion: &Occasion<'_>) -> Option<u64> {
    let known = occasion.retry_after_s.map(u64::from);
    // 0 would mean at once, to everybody.
    known
        .or_else(|| spec.retry_after.map(|after| after.as_secs()))
        .map(|seconds| seconds.max(1))
}

/// The form that `accept` wants most.
fn preferred<'a>(
    accept: impl Iterator<Item = &'a [u8]> + Clone,
    default: AnswerFormat,
) -> AnswerFormat {
    let mut best = (0, default);
    let others = AnswerFormat::ALL.into_iter();
    for format in std::iter::once(default).chain(others) {
        let quality = media_quality(accept.clone(), format.media_type());
        if quality > best.0 {
            best = (quality, format);
        }
    }
    best.1
}

/// What a page can say.
struct Words<'a> {
    status: u16,
    title: &'static str,
    reason: &'a str,
    server: &'a str,
    request_id: &'a str,
}

impl Words<'_> {
    fn built_in(&self, format: AnswerFormat) -> String {
        let page = match (format, self.request_id.is_empty()) {
            (AnswerFormat::Json, true) => {
                "{\"error\":\"{title}\",\"reason\":\"{reason}\",\"server\":\"{server}\"}\n"
            }
            (AnswerFormat::Json, false) => {
                "{\"error\":\"{title}\",\"reason\":\"{reason}\",\"server\":\"{server}\",\
                 \"request_id\":\"{request_id}\"}\n"
            }
            (AnswerFormat::Html, true) => {
                "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title></head>\n\
                 <body><h1>{title}</h1><p>{reason}</p><hr><p>{server}</p></body></html>\n"
            }
            (AnswerFormat::Html, false) => {
                "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title></head>\n\
                 <body><h1>{title}</h1><p>{reason}</p><hr><p>{server}, request {request_id}</p></body></html>\n"
            }
            (AnswerFormat::Text, true) => "{title}\n{reason}\n",
            (AnswerFormat::Text, false) => "{title}\n{reason}\nrequest {request_id}\n",
        };
        self.filled(page, format)
    }

    /// `page` with its variables. What a variable brings is not looked at for variables again.
    fn filled(&self, page: &str, format: AnswerFormat) -> String {
        let mut out = String::with_capacity(page.len() + 128);
        let push = |text: &str, out: &mut String| match format {
            AnswerFormat::Json => push_json(text, out),
            AnswerFormat::Html => push_html(text, out),
            AnswerFormat::Text => push_text(text, out),
        };
        let mut rest = page;
        while let Some((before, after)) = rest.split_once('{') {
            out.push_str(before);
            let Some((name, behind)) = after.split_once('}') else {
                out.push('{');
                rest = after;
                continue;
            };
            rest = behind;
            match name {
                "status" => push_status(self.status, &mut out),
                "title" => {
                    push_status(self.status, &mut out);
                    out.push(' ');
                    push(self.title, &mut out);
                }
                "reason" => push(self.reason, &mut out),
                "server" => push(self.server, &mut out),
                "request_id" => push(self.request_id, &mut out),
                _ => {
                    // Some other brace: of a style sheet, or of JSON around a variable.
                    out.push('{');
                    rest = after;
                }
            }
        }
        out.push_str(rest);
        out
    }
}

fn push_status(status: u16, out: &mut String) {
    write!(out, "{status}").expect("a String takes everything");
}

#[cfg(test)]
mod tests;
