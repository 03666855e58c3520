//! The end of a connection whose client may still be sending.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::rc::Rc;
use std::task::Poll;

use super::inbox::Inbox;
use super::session::Session;

/// Ticks that a client has to go after an answer that was the last: without a byte of it, and in all.
const LINGER_IDLE_TICKS: u32 = 50;
const LINGER_TICKS: u32 = 300;

/// Bytes that are read of it meanwhile.
const LINGER_BYTES: usize = 16 << 20;

impl Session {
    /// Waits until the client has read that no more comes: closing with something unread would reset the connection, and what it did
    /// not read yet would be lost (RFC 9112 section 9.6).
    pub(super) async fn linger(&mut self) {
        let worker = Rc::clone(self.worker());
        let (number, connections) = (self.connection.number(), &worker.connections);
        self.inbox = Inbox::default();
        connections.exchanging(number, self.client.token(), LINGER_IDLE_TICKS);
        let until = connections.now() + LINGER_TICKS;
        let mut left = LINGER_BYTES;
        loop {
            let is_there = poll_fn(|cx| {
                if connections.is_expired(number) {
                    return Poll::Ready(false);
                }
                self.client.poll_readable(cx).map(|()| true)
            });
            if !is_there.await || connections.now() > until {
                return;
            }
            match self.inbox.fill(&self.client) {
                Ok(0) => return,
                Ok(count) => {
                    self.inbox.consume(count);
                    connections.touch(number);
                    left = left.saturating_sub(count);
                    if left == 0 {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}
