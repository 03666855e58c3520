//! One of the demo's servers: answers every GET with its name, over connections that stay open.

use std::io::{self, ErrorKind, Read as _};
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::arguments::DemoBackend;
use crate::failure::{Exit, Failure};
use crate::{client, output};

/// Longest request head.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// A connection without a request is closed after this.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Serves until standard input ends. Writes its port as the first and only line.
pub(crate) fn execute(backend: &DemoBackend) -> Result<ExitCode, Failure> {
    evenkeel_sys::process::set_name(&format!("ek-backend-{}", backend.name));
    let name = backend.name.clone();
    let port = backend.port;
    client::block_on(async move {
        let cannot = |error: io::Error| Failure::new(Exit::Failed, "cannot listen").cause(&error);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .await
            .map_err(cannot)?;
        let port = listener.local_addr().map_err(cannot)?.port();
        output::print(&format!("{port}\n"))?;
        let body = format!("hello from {name} (pid {})\n", std::process::id());
        tokio::select! {
            () = input_ended() => {}
            () = accept(&listener, &body) => {}
        }
        Ok(Exit::Ok.into())
    })
}

/// Returns at the end of standard input, when whoever started this process has ended. A thread, because a pipe's end that
/// was inherited cannot be made non-blocking for one process alone.
async fn input_ended() {
    let (told, ended) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while matches!(io::stdin().read(&mut buffer), Ok(1..)) {}
        drop(told);
    });
    // An error is the end that is waited for: nothing is ever sent.
    ended.await.unwrap_or(());
}

async fn accept(listener: &TcpListener, body: &str) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let body = body.to_owned();
                tokio::spawn(async move {
                    // A client that goes away is its own affair.
                    serve(stream, &body).await.unwrap_or(());
                });
            }
            // Out of descriptors, most likely: without a pause this would spin.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn serve(mut stream: TcpStream, body: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    loop {
        let head_bytes = loop {
            if let Some(end) = end_of_head(&buffer) {
                break end;
            }
            if buffer.len() > HEAD_BYTES_MAX {
                return Ok(());
            }
            let read = tokio::time::timeout(IDLE_MAX, stream.read_buf(&mut buffer));
            if read.await.map_err(|_| ErrorKind::TimedOut)?? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8_lossy(&buffer[..head_bytes]);
        let (reply, open) = answer(&head, body);
        stream.write_all(reply.as_bytes()).await?;
        if !open {
            return stream.shutdown().await;
        }
        buffer.drain(..head_bytes);
    }
}

/// Bytes of the first request's head with its empty line.
fn end_of_head(buffer: &[u8]) -> Option<usize> {
    buffer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .map(|position| position + 4)
}

/// The answer to a request with this head, and whether the connection stays open.
fn answer(head: &str, body: &str) -> (String, bool) {
    let mut lines = head.split("\r\n");
    let mut request = lines.next().unwrap_or_default().split(' ');
    let method = request.next().unwrap_or_default();
    let newest = request.nth(1) == Some("HTTP/1.1");
    let mut open = newest;
    let mut has_body = false;
    for line in lines {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "connection" if value.eq_ignore_ascii_case("close") => open = false,
            "connection" if value.eq_ignore_ascii_case("keep-alive") => open = true,
            "content-length" if value != "0" => has_body = true,
            "transfer-encoding" => has_body = true,
            _ => {}
        }
    }
    let (status, text) = match method {
        "GET" | "HEAD" if !has_body => ("200 OK", body),
        // What follows is not read, so the connection cannot be used again.
        _ => {
            open = false;
            ("405 Method Not Allowed", "only GET here\n")
        }
    };
    let connection = if open { "keep-alive" } else { "close" };
    let mut reply = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: {connection}\r\n\r\n",
        text.len()
    );
    if method != "HEAD" {
        reply.push_str(text);
    }
    (reply, open)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_stay_open_as_the_client_wishes() {
        for (head, status, open) in [
            ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", "200", true),
            ("GET / HTTP/1.1\r\nConnection: Close\r\n\r\n", "200", false),
            ("GET / HTTP/1.0\r\n\r\n", "200", false),
            (
                "GET / HTTP/1.0\r\nconnection: Keep-Alive\r\n\r\n",
                "200",
                true,
            ),
            ("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", "405", false),
            (
                "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
                "405",
                false,
            ),
            ("nonsense\r\n\r\n", "405", false),
        ] {
            let (reply, stays) = answer(head, "hello\n");
            assert!(reply.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
            assert_eq!(stays, open, "{head}");
        }
        let (reply, _) = answer("HEAD / HTTP/1.1\r\n\r\n", "hello\n");
        assert!(reply.ends_with("\r\n\r\n") && reply.contains("content-length: 6"));
    }

    #[test]
    fn a_head_ends_at_its_empty_line() {
        assert_eq!(end_of_head(b"GET / HTTP/1.1\r\n"), None);
        assert_eq!(end_of_head(b"a\r\n\r\nGET"), Some(5));
    }
}
