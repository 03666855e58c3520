//! A server that answers by a script and remembers every byte that it was sent.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use socket2::Socket;

use super::message::{Body, Framing, Head};
use super::reader::{Broken, Ended, Reader};
use super::websocket::Frame;
use crate::backend::{bound, reset};

/// Stack of a connection's thread: thousands of them are idle in some tests.
const STACK_BYTES: usize = 256 * 1024;

type Script = Arc<dyn Fn(&mut Exchange<'_>) + Send + Sync>;

/// An HTTP/1 server on a port of its own, that keeps the port while it is stopped.
pub struct HttpBackend {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    address: SocketAddr,
    /// As in [`crate::Backend`].
    socket: Socket,
    running: Mutex<Option<JoinHandle<()>>>,
    stopping: AtomicBool,
    accepted: AtomicU64,
    script: Mutex<Script>,
    open: Mutex<HashMap<u64, TcpStream>>,
    books: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    seen: Vec<Seen>,
    executed: BTreeMap<String, usize>,
    ends: BTreeMap<u64, (Instant, Ended)>,
    /// What came behind the last whole head of a connection that ended.
    left: BTreeMap<u64, Vec<u8>>,
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Number of its connection, from 1.
    pub connection: u64,
    /// Its number on the connection, from 1.
    pub number: u32,
    /// Where the connection comes from.
    pub peer: Option<SocketAddr>,
    /// Its head.
    pub head: Head,
    /// Its body; `None` = it is not whole, or was not read.
    pub body: Option<Body>,
    /// When its head was there.
    pub at: Instant,
}

/// A request for a script to answer.
pub struct Exchange<'a> {
    /// Name of the server.
    pub name: &'a str,
    /// Number of the connection, from 1.
    pub connection: u64,
    /// Number of the request on it, from 1.
    pub number: u32,
    /// The request's head.
    pub head: Head,
    shared: &'a Shared,
    reader: &'a mut Reader,
    place: usize,
    body: Option<Body>,
    is_skipped: bool,
    is_over: bool,
}

impl HttpBackend {
    /// A server that answers every request with its name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self::start(name, |exchange| {
            let name = exchange.name.to_owned();
            exchange.answer(200, "", name);
        })
    }

    /// A server on a free port of 127.0.0.1 that answers by `script`: called for each request when its head is there. What the
    /// script has not read of the body is read afterwards.
    #[must_use]
    pub fn start(name: &str, script: impl Fn(&mut Exchange<'_>) + Send + Sync + 'static) -> Self {
        let backend = Self::stopped(name, script);
        backend.resume();
        backend
    }

    /// A server that does not listen yet: connecting to it is refused.
    #[must_use]
    pub fn stopped(name: &str, script: impl Fn(&mut Exchange<'_>) + Send + Sync + 'static) -> Self {
        let (socket, address) = bound();
        Self {
            shared: Arc::new(Shared {
                name: name.to_owned(),
                address,
                socket,
                running: Mutex::default(),
                stopping: AtomicBool::new(false),
                accepted: AtomicU64::new(0),
                script: Mutex::new(Arc::new(script)),
                open: Mutex::default(),
                books: Mutex::default(),
            }),
        }
    }

    /// Another script, from the next request on.
    pub fn set(&self, script: impl Fn(&mut Exchange<'_>) + Send + Sync + 'static) {
        *lock(&self.shared.script) = Arc::new(script);
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Where it listens, or would.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Connections so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Connections now.
    #[must_use]
    pub fn open(&self) -> usize {
        lock(&self.shared.open).len()
    }

    /// Every request so far, in the order of their heads.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.books).seen.clone()
    }

    /// The requests behind the first `mark`.
    #[must_use]
    pub fn seen_since(&self, mark: usize) -> Vec<Seen> {
        let books = lock(&self.shared.books);
        books.seen.get(mark..).unwrap_or_default().to_vec()
    }

    /// How many requests there were.
    #[must_use]
    pub fn requests(&self) -> usize {
        lock(&self.shared.books).seen.len()
    }

    /// The last request.
    ///
    /// # Panics
    /// Where there was none.
    #[must_use]
    pub fn last(&self) -> Seen {
        let books = lock(&self.shared.books);
        books.seen.last().expect("a request").clone()
    }

    /// How often the request with this `X-Id` came whole.
    #[must_use]
    pub fn executed(&self, id: &str) -> usize {
        let books = lock(&self.shared.books);
        books.executed.get(id).copied().unwrap_or(0)
    }

    /// Every `X-Id`, and how often it came whole.
    #[must_use]
    pub fn all_executed(&self) -> BTreeMap<String, usize> {
        lock(&self.shared.books).executed.clone()
    }

    /// When and how the daemon ended this connection; `None` = it has not.
    #[must_use]
    pub fn ended(&self, connection: u64) -> Option<(Instant, Ended)> {
        lock(&self.shared.books).ends.get(&connection).copied()
    }

    /// What came of a request that never came whole, on a connection that has ended.
    #[must_use]
    pub fn left(&self, connection: u64) -> Vec<u8> {
        let books = lock(&self.shared.books);
        books.left.get(&connection).cloned().unwrap_or_default()
    }

    /// Ends every connection in order, as a server does with idle ones.
    pub fn end_all(&self) {
        for stream in lock(&self.shared.open).values() {
            // The peer may be gone already.
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    /// Resets every connection.
    pub fn reset_all(&self) {
        for stream in lock(&self.shared.open).values() {
            reset(stream);
        }
    }

    /// Listens again after [`Self::stop`].
    pub fn resume(&self) {
        let mut running = lock(&self.shared.running);
        if running.is_some() {
            return;
        }
        self.shared.stopping.store(false, Ordering::SeqCst);
        let listens = self.shared.socket.listen(4_096);
        listens.expect("the port is still ours");
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name(format!("backend {}", shared.name));
        *running = Some(thread.spawn(move || shared.accept()).expect("a thread"));
    }

    /// Stops listening: connecting is refused, who waits to be accepted is reset. Open connections stay.
    pub fn stop(&self) {
        let thread = lock(&self.shared.running).take();
        let Some(thread) = thread else { return };
        self.shared.stopping.store(true, Ordering::SeqCst);
        // As in crate::Backend.
        let stopped = self.shared.socket.shutdown(Shutdown::Both);
        stopped.expect("it listens");
        thread.join().expect("the accepting thread does not panic");
    }

    /// Stops and resets everything, as a machine that lost its process.
    pub fn kill(&self) {
        self.stop();
        self.reset_all();
    }
}

impl Drop for HttpBackend {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Shared {
    fn accept(self: &Arc<Self>) {
        while !self.stopping.load(Ordering::SeqCst) {
            let Ok((socket, _)) = self.socket.accept() else {
                continue;
            };
            let stream = TcpStream::from(socket);
            let Ok(copy) = stream.try_clone() else {
                continue;
            };
            let connection = self.accepted.fetch_add(1, Ordering::SeqCst) + 1;
            lock(&self.open).insert(connection, copy);
            let shared = Arc::clone(self);
            let talk = move || {
                shared.converse(connection, Reader::new(stream));
                lock(&shared.open).remove(&connection);
            };
            let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
            drop(thread.spawn(talk).expect("a thread"));
        }
    }

    fn converse(&self, connection: u64, mut reader: Reader) {
        let peer = reader.stream.peer_addr().ok();
        for number in 1.. {
            let head = match reader.head() {
                Ok(head) => head,
                Err(broken) => return self.end(connection, broken),
            };
            let seen = Seen {
                connection,
                number,
                peer,
                head: head.clone(),
                body: None,
                at: Instant::now(),
            };
            let place = {
                let mut books = lock(&self.books);
                books.seen.push(seen);
                books.seen.len() - 1
            };
            let script = Arc::clone(&*lock(&self.script));
            let mut exchange = Exchange {
                name: &self.name,
                connection,
                number,
                head,
                shared: self,
                reader: &mut reader,
                place,
                body: None,
                is_skipped: false,
                is_over: false,
            };
            if exchange.framing() == Framing::None {
                exchange.body();
            }
            script(&mut exchange);
            if exchange.is_over || !exchange.body() {
                return;
            }
            reader.message();
        }
    }

    fn end(&self, connection: u64, broken: Broken) {
        let mut books = lock(&self.books);
        let now = Instant::now();
        books.ends.entry(connection).or_insert((now, broken.by));
        books.left.insert(connection, broken.got);
    }

    fn whole(&self, place: usize, head: &Head, body: Body) {
        let mut books = lock(&self.books);
        if let Some(id) = head.all("x-id").pop() {
            *books.executed.entry(id).or_default() += 1;
        }
        if let Some(seen) = books.seen.get_mut(place) {
            seen.body = Some(body);
        }
    }
}

impl Exchange<'_> {
    /// The request's path and query.
    #[must_use]
    pub fn target(&self) -> String {
        self.head.target()
    }

    /// Reads the body, and counts the request as executed; whether it is whole. A second time it does nothing.
    pub fn body(&mut self) -> bool {
        if self.body.is_some() || self.is_skipped {
            return true;
        }
        let framing = self.framing();
        match self.reader.body(framing) {
            Ok(body) => {
                self.shared.whole(self.place, &self.head, body.clone());
                self.body = Some(body);
                true
            }
            Err(broken) => {
                self.shared.end(self.connection, broken);
                self.is_over = true;
                false
            }
        }
    }

    /// Reads a body of a known length and forgets it; whether it was whole.
    pub fn skip_body(&mut self) -> bool {
        let Framing::Length(length) = self.framing() else {
            return self.body();
        };
        match self.reader.skip(length) {
            Ok(()) => {
                let empty = Body {
                    framing: Framing::Length(length),
                    ..Body::default()
                };
                self.shared.whole(self.place, &self.head, empty);
                self.is_skipped = true;
                true
            }
            Err(broken) => {
                self.shared.end(self.connection, broken);
                self.is_over = true;
                false
            }
        }
    }

    /// The body's content, once it was read.
    #[must_use]
    pub fn content(&self) -> &[u8] {
        self.body.as_ref().map_or(&[], |body| &body.data)
    }

    /// Answers with a body by its length, after the request is whole. `fields` are lines, each with its end.
    pub fn answer(&mut self, status: u16, fields: &str, body: impl AsRef<[u8]>) {
        if self.body() {
            self.answer_early(status, fields, body);
        }
    }

    /// Answers with a body by its length, whether or not the request is whole.
    pub fn answer_early(&mut self, status: u16, fields: &str, body: impl AsRef<[u8]>) {
        let body = body.as_ref();
        let length = body.len();
        let head = format!("HTTP/1.1 {status} Odd\r\nContent-Length: {length}\r\n{fields}\r\n");
        let mut bytes = head.into_bytes();
        if self.head.method() != "HEAD" {
            bytes.extend(body);
        }
        self.send(bytes);
    }

    /// Sends bytes; whether the connection took them.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.reader.send(bytes.as_ref()).is_ok()
    }

    /// Ends the connection in order.
    pub fn close(&mut self) {
        self.is_over = true;
        // The peer may be gone already.
        drop(self.reader.stream.shutdown(Shutdown::Both));
    }

    /// Ends the direction to the daemon, and reads on until it ends the other one.
    pub fn end_writing(&mut self) {
        self.reader.end_writing();
    }

    /// Ends the connection by a reset.
    pub fn reset(&mut self) {
        self.is_over = true;
        reset(&self.reader.stream);
    }

    /// Waits until the daemon ends the connection, reading what comes: that.
    pub fn wait_end(&mut self) -> Vec<u8> {
        self.is_over = true;
        let mut all = Vec::new();
        loop {
            match self.reader.some() {
                Ok(bytes) => all.extend(bytes),
                Err(broken) => {
                    self.shared.end(self.connection, broken);
                    return all;
                }
            }
        }
    }

    /// A frame of a tunnel. Without one, the connection has ended.
    pub fn frame(&mut self) -> Option<Frame> {
        match self.reader.frame() {
            Ok(frame) => Some(frame),
            Err(broken) => {
                self.is_over = true;
                self.shared.end(self.connection, broken);
                None
            }
        }
    }

    /// What comes: at least a byte. Empty: the connection has ended.
    pub fn some(&mut self) -> Vec<u8> {
        match self.reader.some() {
            Ok(bytes) => bytes,
            Err(broken) => {
                self.is_over = true;
                self.shared.end(self.connection, broken);
                Vec::new()
            }
        }
    }

    /// Nothing more is to be read as a request on this connection.
    pub fn leave(&mut self) {
        self.is_over = true;
    }

    fn framing(&self) -> Framing {
        self.head.request_framing()
    }
}

impl Seen {
    /// Head and body as they came, with a body in chunks as one chunk.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head.bytes().to_vec();
        if let Some(body) = &self.body {
            bytes.extend(body.in_one_chunk());
        }
        bytes
    }
}

impl fmt::Debug for HttpBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, address) = (&self.shared.name, self.shared.address);
        write!(f, "HttpBackend {name} at {address}")
    }
}

impl fmt::Debug for Exchange<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (connection, number) = (self.connection, self.number);
        write!(f, "Exchange {connection}.{number} {:?}", self.head)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::http::{Gate, HttpClient};
    use crate::{Failure, eventually};

    const SOON: Duration = Duration::from_secs(5);

    #[test]
    fn every_byte_is_remembered_and_every_execution_counted() {
        let backend = HttpBackend::named("b1");
        let mut client = HttpClient::connect(backend.address());
        assert_eq!(client.get_with("/1", "X-Id: a\r\n").text(), "b1");
        let chunked = "POST /2 HTTP/1.1\r\nX-Id: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n";
        assert!(client.send_bytewise(chunked));
        assert_eq!(client.answer("POST").unwrap().text(), "b1");
        let seen = backend.seen();
        assert_eq!((seen[0].number, seen[1].number), (1, 2));
        assert_eq!(seen[0].connection, seen[1].connection);
        let (head, _) = chunked.split_once("2\r\nhe").unwrap();
        assert_eq!(seen[1].head.bytes(), head.as_bytes());
        assert_eq!(seen[1].body.as_ref().unwrap().chunks, [2, 3]);
        assert_eq!((backend.executed("a"), backend.executed("b")), (2, 0));
        drop(client);
        eventually(SOON, "the end is seen", || backend.ended(1));
        assert_eq!(backend.open(), 0);
    }

    #[test]
    fn a_request_that_is_not_whole_is_not_executed() {
        let backend = HttpBackend::named("b1");
        let mut client = HttpClient::connect(backend.address());
        assert!(client.send("POST / HTTP/1.1\r\nX-Id: a\r\nContent-Length: 5\r\n\r\nhel"));
        client.end_writing();
        let (_, by) = eventually(SOON, "the end is seen", || backend.ended(1));
        assert_eq!((by, backend.executed("a")), (Ended::Fin, 0));
        assert!(backend.left(1).ends_with(b"hel") && backend.seen()[0].body.is_none());
    }

    #[test]
    fn it_is_killed_by_resets_and_comes_back_at_the_same_port() {
        let gate = Gate::new();
        let wait = gate.clone();
        let backend = HttpBackend::start("b1", move |exchange| {
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe");
            wait.wait();
        });
        let mut client = HttpClient::connect(backend.address());
        assert!(client.send("GET / HTTP/1.1\r\n\r\n"));
        assert_eq!(client.head().unwrap().status(), 200);
        backend.kill();
        gate.open();
        let broken = client.exactly(5).unwrap_err();
        assert_eq!((broken.by, &*broken.got), (Ended::Reset, &b"he"[..]));
        let refused = HttpClient::try_connect(backend.address()).err();
        assert_eq!(refused, Some(Failure::Refused));
        backend.set(|exchange| exchange.answer(200, "", "again"));
        backend.resume();
        assert_eq!(
            HttpClient::connect(backend.address()).get("/").text(),
            "again"
        );
    }

    #[test]
    fn answers_are_framed_as_they_say_and_not_read_beyond_their_end() {
        let backend = HttpBackend::start("b1", |exchange| {
            let answer = match &*exchange.target() {
                "/to-end" => "HTTP/1.1 200 OK\r\n\r\nhello",
                "/spare" => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhello",
                "/none" => "HTTP/1.1 304 Odd\r\nContent-Length: 2\r\n\r\n",
                "/hints" => {
                    "HTTP/1.1 103 Odd\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n"
                }
                _ => "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
            };
            exchange.send(answer);
            if matches!(&*exchange.target(), "/to-end" | "/half") {
                exchange.close();
            }
        });
        let mut client = HttpClient::connect(backend.address());
        assert_eq!(client.get("/none").body.framing, Framing::None);
        let hints = client.get("/hints");
        assert_eq!((hints.interim.len(), hints.text().as_str()), (1, "abc"));
        assert_eq!(hints.body.trailers, b"A: b\r\n\r\n");
        assert_eq!(client.get("/spare").text(), "he");
        assert_eq!(client.end(SOON), None, "a byte more");
        let mut client = HttpClient::connect(backend.address());
        assert_eq!(client.get("/to-end").body.framing, Framing::ToEnd);
        let mut client = HttpClient::connect(backend.address());
        let broken = client.ask("GET /half HTTP/1.1\r\n\r\n").unwrap_err();
        assert!(broken.by == Ended::Fin && broken.got.ends_with(b"hello"));
    }
}
