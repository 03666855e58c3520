//! Answers of our own.

use std::future::poll_fn;
use std::task::Poll;
use std::time::SystemTime;

use evenkeel_http::Version;
use evenkeel_http::own_answer::{Cause, Occasion, OwnAnswer, status_title};
use evenkeel_http::route::Edits;
use evenkeel_scoreboard::ServiceCount;

use super::scratch::Scratch;
use super::session::{After, Session};

/// How an answer goes out.
#[derive(Clone, Copy, Debug)]
struct Manner<'a> {
    /// Whether the connection stays.
    stays: bool,
    /// What the client spoke.
    version: Version,
    /// A field more: its name, and value.
    field: Option<(&'a str, &'a str)>,
}

/// Writes `answer`, changed as `edits` say.
fn write(out: &mut Vec<u8>, answer: &OwnAnswer, edits: &Edits, manner: Manner<'_>) {
    let title = status_title(answer.status);
    let mut line = |parts: &[&str]| {
        parts
            .iter()
            .for_each(|part| out.extend_from_slice(part.as_bytes()));
        out.extend_from_slice(b"\r\n");
    };
    line(&["HTTP/1.1 ", &answer.status.to_string(), " ", title]);
    // RFC 9110 6.6.1: whoever makes an answer and has a clock says when.
    line(&["date: ", &httpdate::fmt_http_date(SystemTime::now())]);
    let own = answer.fields.iter();
    for (name, value) in own.filter(|(name, _)| !edits.drops(name.as_bytes())) {
        line(&[name, ": ", value]);
    }
    for (name, value) in edits.lines() {
        line(&[name, ": ", value]);
    }
    if let Some((name, value)) = manner.field {
        line(&[name, ": ", value]);
    }
    if let Some(length) = answer.content_bytes {
        line(&["content-length: ", &length.to_string()]);
    }
    match (manner.stays, manner.version) {
        (true, Version::Http10) => line(&["connection: keep-alive"]),
        (true, Version::Http11 | Version::Http2) => {}
        (false, _) => line(&["connection: close"]),
    }
    line(&[]);
    out.extend_from_slice(&answer.body);
}

impl Session {
    /// Gives the client an answer of our own. `is_fatal`: nothing after it can be understood.
    pub(crate) async fn refuse(
        &mut self,
        cause: Cause,
        failure: ServiceCount,
        is_fatal: bool,
    ) -> After {
        let Some(http) = self.http() else {
            return After::Close;
        };
        let spec = &http.spec().answers;
        let Some((request, head)) = self.connection.request() else {
            return After::Close;
        };
        request.failure = Some(failure);
        let head = request.is_understood.then_some(&*head);
        let occasion = Occasion {
            cause,
            request_id: request.id.as_ref().map(|id| id.as_str()),
            retry_after_s: None,
            head: head.is_some_and(|head| head.method() == evenkeel_http::Method::Head),
        };
        let accepts: Vec<&[u8]> = head
            .map(|head| head.fields.all("accept").collect())
            .unwrap_or_default();
        let answer = OwnAnswer::new(spec, &occasion, accepts.iter().copied());
        let field = spec.error_field.as_ref().map(|name| {
            let words = self
                .connection
                .words(failure.request_failure().unwrap_or("internal"));
            (name.as_str().to_owned(), words)
        });
        let Some(mut scratch) = self.scratch.take() else {
            return After::Close;
        };
        let none = Edits::default();
        let after = self
            .answer(&answer, &none, field, is_fatal, &mut scratch)
            .await;
        self.scratch = Some(scratch);
        after
    }

    /// Writes an answer of our own.
    pub(crate) async fn answer(
        &mut self,
        answer: &OwnAnswer,
        edits: &Edits,
        field: Option<(String, String)>,
        is_fatal: bool,
        scratch: &mut Scratch,
    ) -> After {
        let is_last = self.is_last();
        let Some((request, head)) = self.connection.request() else {
            return After::Close;
        };
        // What the body has left is not read: it could be any length.
        let is_read = request.is_understood && scratch.up.is_read();
        let stays = !is_fatal && !is_last && is_read && head.persistent();
        let manner = Manner {
            stays,
            version: match request.is_understood {
                true => head.version(),
                false => Version::Http11,
            },
            field: field
                .as_ref()
                .map(|(name, value)| (name.as_str(), value.as_str())),
        };
        request.status = Some(answer.status);
        request.count_for(request.row);
        request.row.add(ServiceCount::OwnAnswers, 1);
        scratch.down.is_last = !stays;
        // Behind what is left of an interim answer that is being written.
        write(&mut scratch.down.out.bytes, answer, edits, manner);
        let worker = &self.connection.worker;
        let (number, connections) = (self.connection.number(), &worker.connections);
        let ticks = self
            .front
            .http
            .as_ref()
            .map_or(0, |http| http.ticks.client_write);
        connections.may_take(number, ticks);
        connections.touch(number);
        let (down, client) = (&mut scratch.down, &self.client);
        let written = poll_fn(|cx| {
            if connections.is_expired(number) {
                return Poll::Ready(false);
            }
            let written = down.poll_out(cx, client);
            if down.take_progress() {
                connections.touch(number);
            }
            match written {
                Poll::Ready(written) => Poll::Ready(written.is_ok()),
                Poll::Pending => client.poll_reset(cx).map(|()| false),
            }
        });
        let is_written = written.await;
        self.connection.moved(0, 0, scratch.down.take_moved());
        match (is_written, stays, is_fatal || !is_read) {
            (false, _, _) => After::Reset,
            (true, true, _) => After::Next,
            (true, false, true) => After::Linger,
            (true, false, false) => After::Close,
        }
    }
}
