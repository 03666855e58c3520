//! Scripted servers.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

/// What a backend does with a connection. Bytes are counted in every mode that reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Writes its name and a line feed, and closes.
    Name,
    /// Writes its name and a line feed, then sends back what comes; ends its side when the client has ended its own.
    Greet,
    /// Sends back what comes; ends its side when the client has ended its own.
    Echo,
    /// Writes its name and a line feed and keeps the connection until [`Backend::release`], whatever the client does.
    Hold,
    /// Writes its name and a line feed, ends its side, and reads until the client ends the other.
    HalfClose,
    /// Resets at once.
    Reset,
    /// Reads until the end, then writes how many bytes came and a line feed.
    Sink,
    /// Reads nothing and says nothing until [`Backend::release`].
    Deaf,
    /// Writes without end until the client is gone.
    Flood,
}

/// A server on a port of its own, that keeps the port while it is stopped.
#[derive(Debug)]
pub struct Backend {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    address: SocketAddr,
    /// Bound for as long as the backend lives; listens unless stopped. So nobody else gets the port meanwhile.
    socket: Socket,
    mode: Mutex<Mode>,
    running: Mutex<Option<JoinHandle<()>>>,
    stopping: AtomicBool,
    accepted: AtomicU64,
    bytes: AtomicU64,
    resets: AtomicU64,
    ended: AtomicU64,
    next: AtomicU64,
    open: Mutex<HashMap<u64, TcpStream>>,
}

impl Backend {
    /// Starts a server on a free port of 127.0.0.1.
    #[must_use]
    pub fn start(name: &str, mode: Mode) -> Self {
        let backend = Self::stopped(name, mode);
        backend.resume();
        backend
    }

    /// A server that does not listen yet: connecting to it is refused.
    #[must_use]
    pub fn stopped(name: &str, mode: Mode) -> Self {
        let (socket, address) = bound();
        Self {
            shared: Arc::new(Shared {
                name: name.to_owned(),
                address,
                socket,
                mode: Mutex::new(mode),
                running: Mutex::new(None),
                stopping: AtomicBool::new(false),
                accepted: AtomicU64::new(0),
                bytes: AtomicU64::new(0),
                resets: AtomicU64::new(0),
                ended: AtomicU64::new(0),
                next: AtomicU64::new(0),
                open: Mutex::new(HashMap::new()),
            }),
        }
    }

    /// As many as there are names, all in the same mode.
    #[must_use]
    pub fn several(names: &[&str], mode: Mode) -> Vec<Self> {
        names.iter().map(|name| Self::start(name, mode)).collect()
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

    /// Connections accepted so far, those of health checks too.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Bytes read so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::SeqCst)
    }

    /// Connections that the client has reset, in modes that read.
    #[must_use]
    pub fn resets(&self) -> u64 {
        self.shared.resets.load(Ordering::SeqCst)
    }

    /// Connections that the client has ended in order, in modes that read.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.shared.ended.load(Ordering::SeqCst)
    }

    /// Connections open now, in modes that keep them.
    #[must_use]
    pub fn open(&self) -> usize {
        lock(&self.shared.open).len()
    }

    /// What it does with connections from now on.
    pub fn set_mode(&self, mode: Mode) {
        *lock(&self.shared.mode) = mode;
    }

    /// Listens again after [`Self::stop`].
    pub fn resume(&self) {
        let mut running = lock(&self.shared.running);
        if running.is_some() {
            return;
        }
        self.shared.stopping.store(false, Ordering::SeqCst);
        self.shared
            .socket
            .listen(4_096)
            .expect("the port is still ours");
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name(format!("backend {}", shared.name));
        *running = Some(thread.spawn(move || shared.accept()).expect("a thread"));
    }

    /// Stops listening: connecting is refused, who waits to be accepted is reset. Open connections stay.
    pub fn stop(&self) {
        let thread = lock(&self.shared.running).take();
        let Some(thread) = thread else { return };
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Takes a listening socket back to a bound one (linux/net/ipv4/af_inet.c, inet_shutdown) and wakes accept.
        self.shared
            .socket
            .shutdown(Shutdown::Both)
            .expect("it listens");
        thread.join().expect("the accepting thread does not panic");
    }

    /// Ends what is held, in order.
    pub fn release(&self) {
        for (_, stream) in lock(&self.shared.open).drain() {
            // The peer may be gone already.
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    /// Resets what is held.
    pub fn reset_all(&self) {
        for (_, stream) in lock(&self.shared.open).drain() {
            reset(&stream);
        }
    }

    /// Stops and resets everything, as a machine that lost its process.
    pub fn kill(&self) {
        self.stop();
        self.reset_all();
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if lock(&self.shared.running).is_some() {
            self.stop();
        }
        self.reset_all();
    }
}

impl Shared {
    fn accept(self: &Arc<Self>) {
        while !self.stopping.load(Ordering::SeqCst) {
            let Ok((socket, _)) = self.socket.accept() else {
                continue;
            };
            self.accepted.fetch_add(1, Ordering::SeqCst);
            let stream = TcpStream::from(socket);
            match *lock(&self.mode) {
                Mode::Name => {
                    // A health check may be gone already.
                    drop(self.greet(&stream));
                }
                Mode::Reset => reset(&stream),
                Mode::Hold => {
                    if self.greet(&stream).is_ok() {
                        self.keep(stream);
                    }
                }
                Mode::Deaf => {
                    self.keep(stream);
                }
                mode @ (Mode::Greet | Mode::Echo | Mode::Sink | Mode::HalfClose | Mode::Flood) => {
                    self.converse(stream, mode);
                }
            }
        }
    }

    fn greet(&self, mut stream: &TcpStream) -> std::io::Result<()> {
        stream.write_all(format!("{}\n", self.name).as_bytes())
    }

    fn keep(&self, stream: TcpStream) -> u64 {
        let id = self.next.fetch_add(1, Ordering::SeqCst);
        lock(&self.open).insert(id, stream);
        id
    }

    fn converse(self: &Arc<Self>, stream: TcpStream, mode: Mode) {
        let Ok(copy) = stream.try_clone() else { return };
        let id = self.keep(copy);
        let shared = Arc::clone(self);
        let talk = move || {
            let count = match shared.talk(&stream, mode) {
                Ok(()) => &shared.ended,
                Err(_) => &shared.resets,
            };
            count.fetch_add(1, Ordering::SeqCst);
            lock(&shared.open).remove(&id);
        };
        drop(std::thread::Builder::new().spawn(talk).expect("a thread"));
    }

    fn talk(&self, mut stream: &TcpStream, mode: Mode) -> std::io::Result<()> {
        if matches!(mode, Mode::Greet | Mode::HalfClose) {
            self.greet(stream)?;
        }
        if mode == Mode::HalfClose {
            stream.shutdown(Shutdown::Write)?;
        }
        let mut buffer = vec![0; 64 * 1024];
        if mode == Mode::Flood {
            loop {
                stream.write_all(&buffer)?;
            }
        }
        let mut total = 0_u64;
        loop {
            let length = stream.read(&mut buffer)?;
            if length == 0 {
                break;
            }
            total += length as u64;
            self.bytes.fetch_add(length as u64, Ordering::SeqCst);
            if matches!(mode, Mode::Greet | Mode::Echo) {
                stream.write_all(&buffer[..length])?;
            }
        }
        if mode == Mode::Sink {
            stream.write_all(format!("{total}\n").as_bytes())?;
        }
        if mode == Mode::HalfClose {
            return Ok(());
        }
        stream.shutdown(Shutdown::Write)
    }
}

/// An address where a connection is neither made nor refused: the accept queue is full and nobody accepts.
#[derive(Debug)]
pub struct Blackhole {
    address: SocketAddr,
    _listener: Socket,
    _queued: Vec<TcpStream>,
}

impl Default for Blackhole {
    fn default() -> Self {
        Self::new()
    }
}

impl Blackhole {
    /// Fills a queue of its own.
    #[must_use]
    pub fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM.cloexec(), None).expect("a socket");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        listener.bind(&any.into()).expect("a free port");
        listener.listen(0).expect("it is bound");
        let address = listener.local_addr().expect("bound").as_socket();
        let address = address.expect("an internet socket");
        let mut queued = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
            queued.push(stream);
        }
        Self {
            address,
            _listener: listener,
            _queued: queued,
        }
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// A socket on a free port of 127.0.0.1 that keeps the port when it stops listening.
pub(crate) fn bound() -> (Socket, SocketAddr) {
    let reusable = |address: SocketAddr| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.cloexec(), None).expect("a socket");
        socket.set_reuse_address(true).expect("a fresh socket");
        socket.bind(&address.into()).map(|()| socket)
    };
    let chosen = reusable(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let address = chosen.local_addr().expect("bound").as_socket();
    let address = address.expect("an internet socket");
    // Only a port that was asked for by number stays when a socket stops listening (linux/net/ipv4/tcp.c,
    // tcp_set_state: SOCK_BINDPORT_LOCK). Two that do not listen may share it for a moment.
    let named = reusable(address).expect("the port is held until here");
    (named, address)
}

/// Ends a connection by a reset, whoever else holds a copy.
pub(crate) fn reset(stream: &TcpStream) {
    // Both fail only where the connection is gone already.
    drop(SockRef::from(stream).set_linger(Some(Duration::ZERO)));
    rustix::net::connect_unspec(stream).unwrap_or(());
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{self, Failure, one_shot};
    use crate::eventually;

    const SOON: Duration = Duration::from_secs(5);

    #[test]
    fn a_name_a_refusal_and_the_name_again() {
        let backend = Backend::start("b1", Mode::Name);
        assert_eq!(one_shot(backend.address()).unwrap(), "b1");
        backend.stop();
        assert_eq!(one_shot(backend.address()), Err(Failure::Refused));
        backend.resume();
        assert_eq!(one_shot(backend.address()).unwrap(), "b1");
        assert_eq!(backend.accepted(), 2);
    }

    #[test]
    fn a_reset_before_the_first_byte_and_one_after_it_are_told_apart() {
        let backend = Backend::start("b1", Mode::Reset);
        assert_eq!(
            one_shot(backend.address()),
            Err(Failure::ResetBeforeFirstByte)
        );
        backend.set_mode(Mode::Hold);
        let address = backend.address();
        let reader = std::thread::spawn(move || one_shot(address));
        eventually(SOON, "the connection is held", || {
            (backend.open() == 1).then_some(())
        });
        // The name is on its way: loopback delivers before `write` returns.
        backend.reset_all();
        let outcome = reader.join().unwrap();
        assert!(
            matches!(outcome, Err(Failure::Cut | Failure::ResetBeforeFirstByte)),
            "{outcome:?}"
        );
    }

    #[test]
    fn echo_and_sink_see_half_closes() {
        let echo = Backend::start("e", Mode::Echo);
        let mut stream = client::connect(echo.address()).unwrap();
        stream.write_all(b"hello").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client::read_to_end(&mut stream).unwrap(), b"hello");
        let sink = Backend::start("s", Mode::Sink);
        let mut stream = client::connect(sink.address()).unwrap();
        stream.write_all(&[7; 1000]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client::read_to_end(&mut stream).unwrap(), b"1000\n");
        assert_eq!(sink.bytes(), 1000);
    }

    #[test]
    fn a_black_hole_neither_accepts_nor_refuses() {
        let hole = Blackhole::new();
        let outcome = TcpStream::connect_timeout(&hole.address(), Duration::from_millis(300));
        assert_eq!(outcome.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    }
}
