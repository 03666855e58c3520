//! Are requests answered as they should be?

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{
    AUTHORIZATION, CONNECTION, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT,
};
use hyper::{Method, Request, Uri};
use regex::bytes::Regex;
use std::net::SocketAddr;

use evenkeel_plan::{HttpRequestSpec, TlsSpec};

use super::exchange::{Answer, Connection, Refusal, Route};
use super::outcome::Outcome;
use super::talk::Talk;
use crate::question::{Question, public_path, ranges};
use crate::tls::{TlsClient, TlsClients};
use crate::verdict::Observation;

/// What we call ourselves.
pub(super) const AGENT: HeaderValue = HeaderValue::from_static("evenkeel-check");

/// Shorter values are not looked for in answers: they are in many.
const SECRET_BYTES_MIN: usize = 4;

/// The requests of a check, ready to be sent.
#[derive(Debug)]
pub(super) struct HttpCheck {
    tls: Option<TlsClient>,
    /// For `Host`, without a port.
    name: String,
    requests: Vec<Prepared>,
    /// Values of ours that must not be shown, should a server send them back.
    hidden: Vec<String>,
}

#[derive(Debug)]
struct Prepared {
    spec: HttpRequestSpec,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    regex: Option<Regex>,
}

impl HttpCheck {
    /// Makes everything ready, or says what cannot be sent.
    pub(super) fn new(
        question: &Question,
        tls: Option<&TlsSpec>,
        requests: &[HttpRequestSpec],
        clients: &TlsClients,
    ) -> Result<Self, String> {
        let tls = tls
            .map(|spec| clients.client(spec, &question.name, true))
            .transpose()?;
        let requests = requests.iter().map(Prepared::new);
        let requests = requests.collect::<Result<Vec<_>, _>>()?;
        let hidden = requests.iter().flat_map(Prepared::secrets).collect();
        Ok(Self {
            tls,
            name: question.name.clone(),
            requests,
            hidden,
        })
    }

    /// Makes all requests in order, on one connection as long as the server keeps it.
    pub(super) async fn probe(&self, route: Route, talk: &Talk) -> Result<Outcome, Outcome> {
        let mut route = route;
        route.tls.clone_from(&self.tls);
        let mut connection = None;
        let mut last = Outcome::failed("no request is configured");
        for (index, request) in self.requests.iter().enumerate() {
            let is_last = index + 1 == self.requests.len();
            let asked = || request.message(&self.host(route.endpoint), is_last);
            talk.sent(&request.words());
            let answer = ask(&route, &mut connection, asked, talk).await?;
            talk.received(&self.shown(&answer));
            last = request.judge(&answer)?;
        }
        Ok(last)
    }

    fn host(&self, endpoint: SocketAddr) -> String {
        host(&self.name, endpoint, self.tls.is_some())
    }

    fn shown(&self, answer: &Answer) -> String {
        let mut shown = answer.shown();
        for hidden in &self.hidden {
            shown = shown.replace(hidden.as_str(), "***");
        }
        shown
    }
}

impl Prepared {
    fn new(spec: &HttpRequestSpec) -> Result<Self, String> {
        let method = Method::from_bytes(spec.method.as_bytes())
            .map_err(|_| format!("{:?} is not a method", spec.method))?;
        let uri = spec.path.parse();
        let uri = uri.map_err(|_| format!("{:?} cannot be asked for", public_path(&spec.path)))?;
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, AGENT);
        for (name, _) in &spec.headers {
            // What is configured takes the place of ours.
            headers.remove(name);
        }
        let host = spec.host.iter().map(|host| ("host", host.as_str()));
        let fields = spec
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in fields.chain(host) {
            let refused = || format!("the field {name:?} cannot be sent");
            let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| refused())?;
            let value = HeaderValue::from_str(value).map_err(|_| refused())?;
            if key == HOST {
                headers.insert(key, value);
            } else {
                headers.append(key, value);
            }
        }
        let regex = spec.body_regex.as_deref().map(Regex::new).transpose();
        Ok(Self {
            spec: spec.clone(),
            method,
            uri,
            headers,
            regex: regex.map_err(|error| format!("the regular expression is wrong: {error}"))?,
        })
    }

    fn message(&self, host: &str, is_last: bool) -> Result<Request<Full<Bytes>>, Outcome> {
        let mut message = Request::new(Full::default());
        *message.method_mut() = self.method.clone();
        *message.uri_mut() = self.uri.clone();
        *message.headers_mut() = self.headers.clone();
        let headers = message.headers_mut();
        if !headers.contains_key(HOST) {
            headers.insert(HOST, host_field(host)?);
        }
        if is_last && !headers.contains_key(CONNECTION) {
            // The one who closes first keeps the port for a minute: let that be the server's.
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(message)
    }

    /// What may be secret of what is sent: values of fields and of the query.
    fn secrets(&self) -> Vec<String> {
        let mut secrets = Vec::new();
        for (name, value) in &self.spec.headers {
            if is_secret(name) {
                secrets.push(value.as_str());
                secrets.extend(value.split_once(' ').map(|(_, credentials)| credentials));
            }
        }
        if let Some((_, query)) = self.spec.path.split_once('?') {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            secrets.extend(pairs.map(|(_, value)| value));
        }
        let is_one = |secret: &&str| secret.len() >= SECRET_BYTES_MIN;
        secrets
            .into_iter()
            .filter(is_one)
            .map(str::to_owned)
            .collect()
    }

    fn words(&self) -> String {
        format!("{} {}", self.method, public_path(&self.spec.path))
    }

    /// # Errors
    /// The outcome that ends the probe.
    fn judge(&self, answer: &Answer) -> Result<Outcome, Outcome> {
        let status = answer.status.as_u16();
        let has = |ranges: &[(u16, u16)]| {
            ranges
                .iter()
                .any(|(low, high)| (*low..=*high).contains(&status))
        };
        let answered = format!("{} answered {status}", self.words());
        if has(&self.spec.drain) {
            return Err(Outcome::new(Observation::Drain, answered));
        }
        if !has(&self.spec.expect) {
            let expected = ranges(&self.spec.expect);
            return Err(Outcome::failed(format!(
                "{answered}, expected is {expected}"
            )));
        }
        if let Some(text) = &self.spec.body_contains {
            let is_in = text.is_empty() || contains(&answer.body, text.as_bytes());
            if !is_in {
                return Err(Outcome::failed(format!(
                    "{answered}, but {text:?} is not in the body"
                )));
            }
        }
        if let Some(regex) = &self.regex
            && !regex.is_match(&answer.body)
        {
            let regex = regex.as_str();
            return Err(Outcome::failed(format!(
                "{answered}, but the body does not match {regex:?}"
            )));
        }
        Ok(Outcome::passed(answered))
    }
}

/// Makes one request on `connection`, or on a new one where there is none or the server has closed it in the meantime.
pub(super) async fn ask(
    route: &Route,
    connection: &mut Option<Connection>,
    message: impl Fn() -> Result<Request<Full<Bytes>>, Outcome>,
    talk: &Talk,
) -> Result<Answer, Outcome> {
    if let Some(kept) = connection.take() {
        match kept.ask(message()?, talk).await {
            Ok((answer, kept)) => {
                *connection = kept;
                return Ok(answer);
            }
            Err(Refusal::Ended(_)) => {}
            Err(Refusal::Bad(outcome)) => return Err(outcome),
        }
    }
    let fresh = route.open(talk).await?;
    let asked = fresh.ask(message()?, talk).await;
    let (answer, kept) = asked.map_err(Refusal::outcome)?;
    *connection = kept;
    Ok(answer)
}

/// The value of `Host`: the port is left out where it is the scheme's.
pub(super) fn host(name: &str, endpoint: SocketAddr, is_tls: bool) -> String {
    let name = match name {
        "" => endpoint.ip().to_string(),
        name => name.to_owned(),
    };
    let name = if name.contains(':') {
        format!("[{name}]")
    } else {
        name
    };
    match (endpoint.port(), is_tls) {
        (80, false) | (443, true) => name,
        (port, _) => format!("{name}:{port}"),
    }
}

pub(super) fn host_field(host: &str) -> Result<HeaderValue, Outcome> {
    HeaderValue::from_str(host)
        .map_err(|_| Outcome::failed(format!("{host:?} cannot be sent as host")))
}

fn contains(body: &[u8], text: &[u8]) -> bool {
    body.windows(text.len()).any(|window| window == text)
}

/// Whether a field of that name may hold a secret.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let words = ["auth", "cookie", "key", "password", "secret", "token"];
    name == AUTHORIZATION.as_str()
        || name == COOKIE.as_str()
        || words.iter().any(|word| name.contains(word))
}
