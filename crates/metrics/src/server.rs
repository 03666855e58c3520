//! The metrics endpoint.
//!
//! One request a connection, every wait limited, a bounded number of connections: whoever can reach this port can slow down
//! other scrapes and nothing else.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Most connections at once over all addresses; further ones are closed.
pub const CONNECTIONS_MAX: usize = 64;

/// Largest request head in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// For the whole request head to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// For a whole connection, the answer included.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// After a failed accept, as when no descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const _: () = assert!(HEAD_TIMEOUT.as_millis() < CONNECTION_TIMEOUT.as_millis());

const INDEX: &str = "evenkeel\n\n/metrics  Prometheus text format\n/ready    200 while traffic is taken, else 503\n/live     200 while the monitor runs\n";

/// What the endpoint shows.
pub struct Pages {
    metrics: Arc<dyn Fn() -> String + Send + Sync>,
    ready: Box<dyn Fn() -> bool>,
    connections: Semaphore,
    /// One exposition is made at a time.
    rendering: Semaphore,
}

impl Pages {
    /// `metrics` makes the exposition, on a thread of its own; `ready` says whether the daemon takes traffic.
    #[must_use]
    pub fn new(
        metrics: impl Fn() -> String + Send + Sync + 'static,
        ready: impl Fn() -> bool + 'static,
    ) -> Self {
        Self {
            metrics: Arc::new(metrics),
            ready: Box::new(ready),
            connections: Semaphore::new(CONNECTIONS_MAX),
            rendering: Semaphore::new(1),
        }
    }
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages").finish_non_exhaustive()
    }
}

/// Serves `pages` on `listener`, which listens already, until the future is dropped. Connections go on until they are
/// answered. Must run in a `LocalSet`.
///
/// # Errors
/// When the socket cannot be registered with the runtime; afterwards never.
pub async fn serve(listener: std::net::TcpListener, pages: Rc<Pages>) -> io::Result<Infallible> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let pages = Rc::clone(&pages);
                drop(tokio::task::spawn_local(connection(stream, pages)));
            }
            Err(error) => {
                tracing::debug!(%error, "metrics: accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, pages: Rc<Pages>) {
    // The listener may be one whose connections are reset when they are closed; an answer must arrive.
    let prepared = evenkeel_sys::stream::finish_on_close(&stream);
    let (Ok(()), Ok(_turn)) = (prepared, pages.connections.try_acquire()) else {
        return;
    };
    let answer = service_fn(|request| answer(request, &pages));
    let serving = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), answer);
    // A client that breaks off or dawdles is its own business.
    if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_TIMEOUT, serving).await {
        tracing::debug!(%error, "metrics: serve a connection");
    }
}

async fn answer<B>(
    request: Request<B>,
    pages: &Pages,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        refused
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(refused);
    }
    Ok(match request.uri().path() {
        "/" => text(StatusCode::OK, INDEX),
        "/metrics" => exposition(pages).await,
        "/ready" if (pages.ready)() => text(StatusCode::OK, "ready\n"),
        "/ready" => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        "/live" => text(StatusCode::OK, "live\n"),
        _ => text(StatusCode::NOT_FOUND, "not found; see /\n"),
    })
}

async fn exposition(pages: &Pages) -> Response<Full<Bytes>> {
    // The semaphore is never closed.
    let _turn = pages.rendering.acquire().await.ok();
    let metrics = Arc::clone(&pages.metrics);
    match tokio::task::spawn_blocking(move || metrics()).await {
        Ok(body) => page(
            StatusCode::OK,
            "text/plain; version=0.0.4; charset=utf-8",
            body.into(),
        ),
        Err(_) => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the exposition could not be made\n",
        ),
    }
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    page(
        status,
        "text/plain; charset=utf-8",
        Bytes::from_static(body.as_bytes()),
    )
}

fn page(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
