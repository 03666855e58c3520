//! A server that a test says itself what it does, in whichever namespace its socket was made.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use socket2::SockRef;

use crate::Namespace;

/// Hands each connection to what it was started with, one after another. Refuses from when it is dropped.
#[derive(Debug)]
pub struct Serving {
    address: SocketAddr,
    listener: Arc<TcpListener>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    /// Listens at `address` of `space`, or of this host, and calls `serve` with each connection and where it comes from. The
    /// next one waits meanwhile: who has much to say makes a thread.
    #[must_use]
    pub fn start(
        space: Option<&Namespace>,
        address: SocketAddr,
        serve: impl Fn(TcpStream, SocketAddr) + Send + 'static,
    ) -> Self {
        let bind = || {
            let listener = TcpListener::bind(address)?;
            // Beyond the 128 of the standard library (listen(2) may be called again).
            SockRef::from(&listener).listen(4_096)?;
            std::io::Result::Ok(listener)
        };
        let bound = match space {
            Some(space) => space.enter(bind),
            None => bind(),
        };
        let listener = Arc::new(bound.unwrap_or_else(|error| panic!("{address}: {error}")));
        let stop = Arc::new(AtomicBool::new(false));
        let accept = {
            let (listener, stop) = (Arc::clone(&listener), Arc::clone(&stop));
            move || {
                while !stop.load(Ordering::SeqCst) {
                    if let Ok((stream, peer)) = listener.accept() {
                        serve(stream, peer);
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("serving".to_owned());
        Self {
            address: listener.local_addr().expect("bound"),
            listener,
            stop,
            thread: Some(thread.spawn(accept).expect("a thread")),
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes accept (linux/net/ipv4/af_inet.c, inet_shutdown).
        drop(SockRef::from(&*self.listener).shutdown(Shutdown::Both));
        if let Some(thread) = self.thread.take() {
            // A panic of it has been printed.
            drop(thread.join());
        }
    }
}
