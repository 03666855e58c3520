//! Is a CouchDB node up, and does it see its cluster whole?
//!
//! One connection to the node is kept, so that its end tells at once that the node died, and one session, since every check
//! of a password costs the node a slow hash. `/_up` says what `/_membership` does not (maintenance), and the other way round.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;

use evenkeel_plan::{CouchDbSpec, CredentialsSpec};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, CONTENT_TYPE, COOKIE, HOST, HeaderValue, SET_COOKIE, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use serde::Deserialize;

use super::exchange::{Answer, Connection, Route};
use super::http::{AGENT, ask, host, host_field};
use super::outcome::Outcome;
use super::talk::Talk;
use crate::cluster::Membership;
use crate::question::Question;
use crate::secrets::{Credentials, Secrets};
use crate::tls::{TlsClient, TlsClients};
use crate::verdict::Observation;
use crate::wake::Wake;

/// The name of CouchDB's session cookie, and what follows it.
const SESSION: &str = "AuthSession=";

/// Longest cookie that is taken.
const COOKIE_BYTES_MAX: usize = 4_096;

/// A node, and what is kept of the talk with it.
#[derive(Debug)]
pub(super) struct CouchDbCheck {
    spec: CouchDbSpec,
    tls: Option<TlsClient>,
    name: String,
    wake: Rc<Wake>,
    /// By address: a name may stand for several.
    kept: HashMap<SocketAddr, Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    connection: Option<Connection>,
    session: Option<Session>,
}

/// A session, and whose.
struct Session {
    credentials: Credentials,
    cookie: HeaderValue,
}

/// One round of questions.
struct Round<'a> {
    route: Route,
    host: HeaderValue,
    credentials: Option<Credentials>,
    connection: Option<Connection>,
    session: &'a mut Option<Session>,
    talk: &'a Talk,
}

/// The answer to `/_up`.
#[derive(Deserialize)]
struct Up {
    status: String,
}

impl CouchDbCheck {
    pub(super) fn new(
        question: &Question,
        spec: &CouchDbSpec,
        clients: &TlsClients,
        wake: Rc<Wake>,
    ) -> Result<Self, String> {
        let client = |tls| clients.client(tls, &question.name, true);
        Ok(Self {
            spec: spec.clone(),
            tls: spec.tls.as_ref().map(client).transpose()?,
            name: question.name.clone(),
            wake,
            kept: HashMap::new(),
        })
    }

    /// Asks the node at the route's endpoint.
    ///
    /// # Cancel safety
    /// A connection in the middle of an answer is closed, the session stays.
    pub(super) async fn probe(
        &mut self,
        route: Route,
        secrets: &Secrets,
        talk: &Talk,
    ) -> Result<Outcome, Outcome> {
        let endpoint = route.endpoint;
        let read = |spec: &CredentialsSpec| secrets.credentials(spec).map_err(Outcome::failed);
        let credentials = self.spec.credentials.as_ref().map(read).transpose()?;
        let kept = self.kept.entry(endpoint).or_default();
        let of_another = |session: &mut Session| credentials.as_ref() != Some(&session.credentials);
        drop(kept.session.take_if(of_another));
        let mut round = Round {
            host: host_field(&host(&self.name, endpoint, self.tls.is_some()))?,
            route: Route {
                tls: self.tls.clone(),
                wake: Some(Rc::clone(&self.wake)),
                ..route
            },
            credentials,
            connection: kept.connection.take(),
            session: &mut kept.session,
            talk,
        };
        let found = round.ask(&self.spec).await;
        let Round {
            connection,
            credentials,
            ..
        } = round;
        kept.connection = connection.and_then(Connection::rest);
        let hide = |mut outcome: Outcome| {
            if let Some(credentials) = &credentials {
                outcome.answer = credentials.redact(&outcome.answer).into();
            }
            outcome
        };
        found.map(hide).map_err(hide)
    }
}

impl Round<'_> {
    async fn ask(&mut self, spec: &CouchDbSpec) -> Result<Outcome, Outcome> {
        let up = self.get("/_up").await?;
        match up.status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(maintenance(&up.body)),
            status => return Err(answered("/_up", status)),
        }
        let answer = self.get("/_membership").await?;
        if answer.status != StatusCode::OK {
            return Err(answered("/_membership", answer.status));
        }
        let membership = Membership::parse(&answer.body).ok_or_else(|| {
            Outcome::failed("/_membership answered no JSON with all_nodes and cluster_nodes")
        })?;
        let count = membership.judge(spec).map_err(Outcome::failed)?;
        Ok(Outcome::passed(match count {
            1 => "up, sees 1 node".to_owned(),
            count => format!("up, sees {count} nodes"),
        }))
    }

    /// Asks with the session; where it is refused, with a new one.
    async fn get(&mut self, path: &'static str) -> Result<Answer, Outcome> {
        // The first refusal may be that of a session which has run out.
        let mut tries = 2;
        loop {
            if self.session.is_none() && self.credentials.is_some() {
                self.log_in().await?;
            }
            let answer = self.send(Method::GET, path, None).await?;
            self.talk.received(&self.hidden(&answer.shown()));
            tries -= 1;
            if answer.status != StatusCode::UNAUTHORIZED {
                return Ok(answer);
            }
            *self.session = None;
            if self.credentials.is_none() {
                return Err(Outcome::failed(
                    "401 unauthorized: it wants a user and password, and none are configured",
                ));
            }
            if tries == 0 {
                return Err(unauthorized());
            }
        }
    }

    async fn log_in(&mut self) -> Result<(), Outcome> {
        let Some(credentials) = self.credentials.clone() else {
            return Ok(());
        };
        let form = form(&[
            ("name", &credentials.user),
            ("password", &credentials.password),
        ]);
        let answer = self.send(Method::POST, "/_session", Some(form)).await?;
        match answer.status {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED => return Err(unauthorized()),
            status => return Err(answered("/_session", status)),
        }
        let cookie = cookie_of(&answer)
            .ok_or_else(|| Outcome::failed("/_session answered without a session cookie"))?;
        *self.session = Some(Session {
            credentials,
            cookie,
        });
        Ok(())
    }

    async fn send(
        &mut self,
        method: Method,
        path: &'static str,
        form: Option<String>,
    ) -> Result<Answer, Outcome> {
        self.talk.sent(&format!("{method} {path}"));
        let body = form.map(Bytes::from);
        let cookie = self.session.as_ref().map(|session| session.cookie.clone());
        let message = || {
            let mut message = Request::new(Full::new(body.clone().unwrap_or_default()));
            *message.method_mut() = method.clone();
            *message.uri_mut() = Uri::from_static(path);
            let headers = message.headers_mut();
            headers.insert(HOST, self.host.clone());
            headers.insert(USER_AGENT, AGENT);
            headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
            if body.is_some() {
                let form = HeaderValue::from_static("application/x-www-form-urlencoded");
                headers.insert(CONTENT_TYPE, form);
            }
            if let Some(cookie) = &cookie {
                headers.insert(COOKIE, cookie.clone());
            }
            Ok(message)
        };
        let connection = &mut self.connection;
        let answer = ask(&self.route, connection, message, self.talk).await?;
        // The server renews a session before it runs out.
        if let (Some(session), Some(cookie)) = (&mut *self.session, cookie_of(&answer)) {
            session.cookie = cookie;
        }
        Ok(answer)
    }

    /// `text` without the user's name, the password and the cookie, should the server send them back.
    fn hidden(&self, text: &str) -> String {
        let mut text = match &self.credentials {
            Some(credentials) => credentials.redact_all(text),
            None => text.to_owned(),
        };
        if let Some(session) = &*self.session
            && let Ok(cookie) = session.cookie.to_str()
        {
            text = text.replace(cookie.trim_start_matches(SESSION), "***");
        }
        text
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Session")
    }
}

fn maintenance(body: &[u8]) -> Outcome {
    let status = serde_json::from_slice(body).map(|up: Up| up.status);
    let answer = match status.as_deref() {
        Ok("nolb") => "maintenance mode nolb",
        Ok("seeding") => "seeding: its databases are not complete yet",
        _ => "maintenance mode",
    };
    Outcome::new(Observation::Drain, answer)
}

fn answered(path: &str, status: StatusCode) -> Outcome {
    Outcome::failed(format!("{path} answered {}", status.as_u16()))
}

fn unauthorized() -> Outcome {
    Outcome::failed("401 unauthorized: the user or password is wrong")
}

/// The session cookie that an answer sets, as it is sent back.
fn cookie_of(answer: &Answer) -> Option<HeaderValue> {
    let fields = answer.headers.get_all(SET_COOKIE);
    fields.into_iter().find_map(|field| {
        let field = field.to_str().ok()?;
        let pair = field.split(';').next()?.trim();
        let value = pair.strip_prefix(SESSION)?;
        let is_fit = !value.is_empty() && pair.len() <= COOKIE_BYTES_MAX;
        let mut cookie = HeaderValue::from_str(pair).ok().filter(|_| is_fit)?;
        cookie.set_sensitive(true);
        Some(cookie)
    })
}

/// A form in which every byte but letters and digits is escaped, so that a password may have any.
fn form(fields: &[(&str, &[u8])]) -> String {
    let mut form = String::new();
    for (name, value) in fields {
        if !form.is_empty() {
            form.push('&');
        }
        form.push_str(name);
        form.push('=');
        for &byte in *value {
            if byte.is_ascii_alphanumeric() {
                form.push(char::from(byte));
            } else {
                form.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    form
}
