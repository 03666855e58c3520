//! A server that knows how many connections it has at a time.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::net::RecvFlags;

use crate::backend::reset;

/// Greets every connection with its number, from 1, and a line feed; reads what comes; and ends its side when the client has
/// ended its own; resets when it is told to ([`Gauge::release`]). Counts how many there are at a time: one that the client has ended
/// counts no longer.
#[derive(Debug)]
pub struct Gauge {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    books: Mutex<Books>,
    is_ending: AtomicBool,
}

#[derive(Debug, Default)]
struct Books {
    accepted: u64,
    most: usize,
    open: BTreeMap<u64, TcpStream>,
}

impl Gauge {
    /// Starts one on a free port of 127.0.0.1.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::<Shared>::default();
        let accept = {
            let shared = Arc::clone(&shared);
            move || shared.accept(&listener)
        };
        let thread = std::thread::Builder::new().name("gauge".to_owned());
        drop(thread.spawn(accept).expect("a thread"));
        Self { address, shared }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections now.
    #[must_use]
    pub fn open(&self) -> usize {
        let mut books = self.shared.books();
        books.forget_ended();
        books.open.len()
    }

    /// Most connections at a time so far.
    #[must_use]
    pub fn most(&self) -> usize {
        self.shared.books().most
    }

    /// Connections so far.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.shared.books().accepted
    }

    /// Resets the connection that it has had for the longest time; whether there was one. It does not count any more then.
    pub fn release(&self) -> bool {
        let first = self.shared.books().open.pop_first();
        if let Some((_, stream)) = &first {
            reset(stream);
        }
        first.is_some()
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.shared.is_ending.store(true, Ordering::SeqCst);
        while self.release() {}
        // Wakes the one that accepts.
        drop(TcpStream::connect(self.address));
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        while let Ok((mut stream, _)) = listener.accept() {
            if self.is_ending.load(Ordering::SeqCst) {
                return;
            }
            let number = {
                let mut books = self.books();
                books.forget_ended();
                books.accepted += 1;
                let number = books.accepted;
                let copy = stream.try_clone().expect("descriptors left");
                books.open.insert(number, copy);
                books.most = books.most.max(books.open.len());
                number
            };
            let shared = Arc::clone(self);
            let talk = move || {
                let mut buffer = vec![0; 16 * 1024];
                let greeted = stream.write_all(format!("{number}\n").as_bytes());
                while greeted.is_ok() && stream.read(&mut buffer).is_ok_and(|length| length > 0) {}
                shared.books().open.remove(&number);
            };
            drop(std::thread::Builder::new().spawn(talk).expect("a thread"));
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    /// Asks the kernel, since the threads that read are told later than it.
    fn forget_ended(&mut self) {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        self.open.retain(|_, stream| {
            let seen = rustix::net::recv(&*stream, &mut [0_u8; 1][..], flags);
            match seen {
                Ok((length, _)) => length > 0,
                Err(error) => error == rustix::io::Errno::AGAIN,
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Failure, client, eventually};

    #[test]
    fn it_knows_how_many_there_are_and_were() {
        let gauge = Gauge::start();
        let mut streams: Vec<_> = (0..3)
            .map(|_| client::connect(gauge.address()).unwrap())
            .collect();
        for (number, stream) in (1..).zip(&mut streams) {
            assert_eq!(client::read_line(stream), Ok(format!("{number}")));
        }
        assert_eq!((gauge.open(), gauge.most()), (3, 3));
        assert!(gauge.release());
        let outcome = client::read_to_end(&mut streams[0]);
        assert_eq!(outcome, Err(Failure::ResetBeforeFirstByte));
        streams.pop();
        eventually(Duration::from_secs(5), "one is left", || {
            (gauge.open() == 1).then_some(())
        });
        assert_eq!((gauge.accepted(), gauge.most()), (3, 3));
    }
}
