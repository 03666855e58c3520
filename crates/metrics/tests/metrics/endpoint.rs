//! The endpoint, asked by a plain client.

use std::io::{Read as _, Write as _};
use std::rc::Rc;
use std::time::Duration;

use evenkeel_metrics::{Pages, serve};

/// Sends `request` and reads until the other side closes.
fn ask(address: std::net::SocketAddr, request: &str) -> String {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_endpoint_answers_and_ends_connections_in_order() {
    let listener = evenkeel_sys::listen::bind(
        "127.0.0.1:0".parse().unwrap(),
        evenkeel_sys::listen::Options::default(),
    )
    .unwrap();
    evenkeel_sys::listen::listen(std::os::fd::AsFd::as_fd(&listener), 16).unwrap();
    let listener = std::net::TcpListener::from(listener);
    let address = listener.local_addr().unwrap();
    let client = std::thread::spawn(move || {
        let get = |path: &str| ask(address, &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"));
        let metrics = get("/metrics");
        assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
        assert!(metrics.contains("text/plain; version=0.0.4"), "{metrics}");
        // Larger than any socket buffer that is sent with a reset behind it.
        assert!(metrics.ends_with("the end"), "cut");
        assert!(get("/").starts_with("HTTP/1.1 200"));
        assert!(get("/live").starts_with("HTTP/1.1 200"));
        assert!(get("/ready").starts_with("HTTP/1.1 503"));
        assert!(get("/other").starts_with("HTTP/1.1 404"));
        let post = ask(address, "POST /metrics HTTP/1.1\r\nhost: x\r\n\r\n");
        assert!(post.starts_with("HTTP/1.1 405"));
        assert!(ask(address, "nonsense\r\n\r\n").starts_with("HTTP/1.1 400"));
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let pages = Pages::new(|| format!("{}the end", "x".repeat(1 << 20)), || false);
    let served = async {
        let serving = tokio::task::spawn_local(serve(listener, Rc::new(pages)));
        tokio::task::spawn_blocking(move || client.join())
            .await
            .unwrap()
            .unwrap();
        serving.abort();
    };
    tokio::task::LocalSet::new().block_on(&runtime, served);
}
