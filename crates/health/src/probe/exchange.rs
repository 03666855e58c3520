//! One HTTP/1 connection to a backend: requests go out, bounded answers come in.

use std::cell::Cell;
use std::error::Error as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HeaderMap};
use hyper::{Request, StatusCode, Version};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::connect::connect;
use super::outcome::Outcome;
use super::talk::{Talk, short};
use crate::tls::TlsClient;
use crate::wake::Wake;

/// Longest head of an answer.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Most fields of an answer.
const FIELDS_MAX: usize = 100;

/// What is read of a body; the rest is left.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// What is shown of a body.
const SHOWN_BYTES_MAX: usize = 160;

/// How connections to a backend are made.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) endpoint: SocketAddr,
    pub(super) source: Option<IpAddr>,
    pub(super) tls: Option<TlsClient>,
    /// Told when a connection ends while nothing is asked on it.
    pub(super) wake: Option<Rc<Wake>>,
}

/// An open connection. Dropping it closes it.
#[derive(Debug)]
pub(super) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: AbortHandle,
    /// Nothing is asked at present, so that its end is news.
    is_idle: Rc<Cell<bool>>,
}

/// An answer as far as it is of interest.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// The first [`BODY_BYTES_MAX`] bytes.
    pub(super) body: Vec<u8>,
    /// There was more.
    pub(super) is_cut: bool,
    /// Another request may follow on this connection.
    keeps: bool,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The connection ended before the first byte of an answer. On one that was used before, the server may just have
    /// closed it, and the request can be made again on a new one.
    Ended(Outcome),
    /// The answer is not what it should be.
    Bad(Outcome),
}

impl Route {
    /// Connects.
    pub(super) async fn open(&self, talk: &Talk) -> Result<Connection, Outcome> {
        let stream = connect(self.endpoint, self.source, talk).await?;
        // Requests are small, and each is waited for.
        stream
            .set_nodelay(true)
            .map_err(|error| Outcome::error(&error))?;
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(stream),
            Some(tls) => Box::new(secure(stream, tls, self.endpoint.ip(), talk).await?),
        };
        let made = http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(FIELDS_MAX)
            .handshake(TokioIo::new(stream))
            .await;
        let (sender, connection) = made.map_err(|error| outcome_of(&error))?;
        let is_idle = Rc::new(Cell::new(false));
        let watched = Rc::clone(&is_idle);
        let wake = self.wake.clone();
        let driver = tokio::task::spawn_local(async move {
            // How it ended is told to whoever waits for an answer.
            drop(connection.await);
            if let Some(wake) = wake.filter(|_| watched.get()) {
                wake.lost();
            }
        });
        Ok(Connection {
            sender,
            driver: driver.abort_handle(),
            is_idle,
        })
    }
}

impl Connection {
    /// Sends `request` and reads the answer. The connection is given back if another request may follow on it.
    pub(super) async fn ask(
        mut self,
        request: Request<Full<Bytes>>,
        talk: &Talk,
    ) -> Result<(Answer, Option<Self>), Refusal> {
        self.is_idle.set(false);
        talk.begin("the head of the answer");
        let response = match self.sender.send_request(request).await {
            Ok(response) => response,
            Err(error) if error.is_parse() => return Err(Refusal::Bad(outcome_of(&error))),
            Err(error) => return Err(Refusal::Ended(outcome_of(&error))),
        };
        let (head, body) = response.into_parts();
        talk.received(head.status.as_str());
        talk.begin("the body of the answer");
        let (body, is_cut) = read(body).await.map_err(Refusal::Bad)?;
        let answer = Answer {
            keeps: !is_cut && head.version == Version::HTTP_11 && !closes(&head.headers),
            status: head.status,
            headers: head.headers,
            body,
            is_cut,
        };
        let kept = (answer.keeps && self.sender.ready().await.is_ok()).then_some(self);
        Ok((answer, kept))
    }

    /// Leaves it open until the next request. Its end in the meantime is told.
    pub(super) fn rest(self) -> Option<Self> {
        if self.sender.is_closed() {
            return None;
        }
        self.is_idle.set(true);
        Some(self)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Answer {
    /// The body in words: its beginning, on one line.
    pub(super) fn shown(&self) -> String {
        let count = self.body.len();
        let end = count.min(SHOWN_BYTES_MAX);
        let text = String::from_utf8_lossy(&self.body[..end]);
        let text = short(&text, SHOWN_BYTES_MAX);
        let more = if self.is_cut { "more than " } else { "" };
        match (count, end < count) {
            (0, _) => "no body".to_owned(),
            (_, true) => format!("{more}{count} bytes: {text}..."),
            (_, false) => format!("{more}{count} bytes: {text}"),
        }
    }
}

impl Refusal {
    pub(super) fn outcome(self) -> Outcome {
        match self {
            Self::Ended(outcome) | Self::Bad(outcome) => outcome,
        }
    }
}

/// Makes a TLS connection over `stream`.
pub(super) async fn secure(
    stream: TcpStream,
    tls: &TlsClient,
    address: IpAddr,
    talk: &Talk,
) -> Result<TlsStream<TcpStream>, Outcome> {
    talk.begin("the TLS handshake");
    let connector = TlsConnector::from(Arc::clone(&tls.config));
    let made = connector.connect(tls.name(address), stream).await;
    made.map_err(|error| tls_outcome(&error))
}

fn tls_outcome(error: &io::Error) -> Outcome {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return Outcome::failed("the connection was closed during the TLS handshake");
    }
    match error.get_ref().and_then(|error| error.downcast_ref()) {
        Some(error @ rustls::Error::InvalidCertificate(_)) => Outcome::failed(error.to_string()),
        Some(error) => {
            let error: &rustls::Error = error;
            Outcome::failed(format!("no TLS connection: {error}"))
        }
        None => Outcome::error(error),
    }
}

fn outcome_of(error: &hyper::Error) -> Outcome {
    if error.is_parse_too_large() {
        return Outcome::failed("the head of the answer is too large");
    }
    if error.is_parse() {
        return Outcome::failed(format!("not an answer in HTTP/1: {error}"));
    }
    let cause = error.source().and_then(|cause| cause.downcast_ref());
    if let Some(cause) = cause {
        return Outcome::error(cause);
    }
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return Outcome::failed("the connection was closed before the answer was complete");
    }
    Outcome::failed(error.to_string())
}

async fn read(mut body: Incoming) -> Result<(Vec<u8>, bool), Outcome> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| outcome_of(&error))?;
        if let Some(data) = frame.data_ref() {
            let room = BODY_BYTES_MAX - bytes.len();
            if data.len() > room {
                bytes.extend_from_slice(&data[..room]);
                return Ok((bytes, true));
            }
            bytes.extend_from_slice(data);
        }
    }
    Ok((bytes, false))
}

fn closes(headers: &HeaderMap) -> bool {
    let fields = headers.get_all(CONNECTION).into_iter();
    let mut words = fields
        .filter_map(|field| field.to_str().ok())
        .flat_map(|field| field.split(','));
    words.any(|word| word.trim().eq_ignore_ascii_case("close"))
}

/// What HTTP is spoken over.
trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}
