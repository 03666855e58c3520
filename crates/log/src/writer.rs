//! The thread that writes out the lines of all processes.
//!
//! ```text
//! poll(wake, receiver 1, receiver 2, ...)
//!   receiver readable --> up to TURN_LINES_MAX packets --> one buffer --> output, whole lines only
//!   receiver at its end --> closed, `ended(source)` is called
//!   wake --> receivers were added, or stop: one last turn over all of them, without waiting
//! ```
//!
//! It may wait on its output, since it does nothing else: meanwhile lines wait in their channels, then they are dropped
//! and counted by their senders.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use evenkeel_sys::packet;
use rustix::event::{EventfdFlags, PollFd, PollFlags};

use crate::channel::{next_line, wait_writable};

/// Packets taken from one receiver before the next gets its turn.
const TURN_LINES_MAX: usize = 256;

/// The reading end of somebody's line channel.
#[derive(Debug)]
pub struct Receiver {
    /// Whose lines these are, such as `worker-0`.
    pub source: String,
    /// The descriptor, non-blocking.
    pub fd: OwnedFd,
}

/// A thread that writes packets of any number of line channels to one output.
///
/// Dropping it leaves the thread running; [`Writer::stop`] ends it after what waits is written.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    finished: mpsc::Receiver<()>,
}

#[derive(Debug)]
struct Shared {
    wake: OwnedFd,
    orders: Mutex<Orders>,
}

#[derive(Debug, Default)]
struct Orders {
    added: Vec<Receiver>,
    stop: bool,
}

/// What standard error refers to, as an output for [`Writer::start`].
///
/// # Errors
/// When standard error is closed or no descriptor is left.
pub fn stderr() -> io::Result<OwnedFd> {
    rustix::stdio::stderr().try_clone_to_owned()
}

impl Writer {
    /// Starts the thread. `ended` is called on it when every sender of a source has closed its end.
    ///
    /// # Errors
    /// When no thread or descriptor is left.
    pub fn start(
        receivers: Vec<Receiver>,
        output: OwnedFd,
        ended: impl Fn(&str) + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            wake: rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            orders: Mutex::default(),
        });
        let (finish, finished) = mpsc::channel();
        let run = Run {
            shared: Arc::clone(&shared),
            receivers,
            output,
            buffer: vec![0; packet::MESSAGE_BYTES_MAX],
            batch: Vec::new(),
        };
        thread::Builder::new()
            .name("ek-log".to_owned())
            .spawn(move || {
                run.run(&ended);
                // Nobody may be waiting.
                finish.send(()).ok();
            })?;
        Ok(Self { shared, finished })
    }

    /// Reads from one more channel from now on.
    pub fn add(&self, receiver: Receiver) {
        self.order(|orders| orders.added.push(receiver));
    }

    /// Writes what waits in the channels now and ends the thread. `false` when that took longer than `within`, as when
    /// nobody reads the output.
    #[must_use]
    pub fn stop(self, within: Duration) -> bool {
        self.order(|orders| orders.stop = true);
        self.finished.recv_timeout(within).is_ok()
    }

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        change(&mut lock(&self.shared.orders));
        // Fails only when the counter is full of wake-ups, and then the thread wakes anyway.
        rustix::io::write(&self.shared.wake, &1_u64.to_ne_bytes()).ok();
    }
}

fn lock(orders: &Mutex<Orders>) -> std::sync::MutexGuard<'_, Orders> {
    orders.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Run {
    shared: Arc<Shared>,
    receivers: Vec<Receiver>,
    output: OwnedFd,
    buffer: Vec<u8>,
    batch: Vec<u8>,
}

/// What a turn at one receiver found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    More,
    Empty,
    Ended,
}

impl Run {
    fn run(mut self, ended: &dyn Fn(&str)) {
        loop {
            let ready = self.wait();
            rustix::io::read(&self.shared.wake, &mut [0_u8; 8]).ok();
            let stop = self.take_orders();
            if stop {
                self.drain();
                return;
            }
            // From the back, so that removing one does not move those still to be looked at.
            for index in ready.into_iter().rev() {
                if self.turn(index) == Turn::Ended {
                    let gone = self.receivers.swap_remove(index);
                    ended(&gone.source);
                }
            }
        }
    }

    /// Waits for lines or orders; the positions of the receivers that have something, rising.
    fn wait(&self) -> Vec<usize> {
        let mut polled: Vec<_> = std::iter::once(self.shared.wake.as_fd())
            .chain(self.receivers.iter().map(|receiver| receiver.fd.as_fd()))
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        if rustix::event::poll(&mut polled, None).is_err() {
            // Interrupted, or short of memory: look again.
            return Vec::new();
        }
        let ready = |polled: &PollFd<'_>| !polled.revents().is_empty();
        let receivers = polled[1..].iter().enumerate();
        receivers
            .filter(|(_, polled)| ready(polled))
            .map(|(index, _)| index)
            .collect()
    }

    fn take_orders(&mut self) -> bool {
        let mut orders = lock(&self.shared.orders);
        self.receivers.append(&mut orders.added);
        orders.stop
    }

    /// Writes what waits everywhere now, without waiting for more.
    fn drain(&mut self) {
        for index in 0..self.receivers.len() {
            while self.turn(index) == Turn::More {}
        }
    }

    fn turn(&mut self, index: usize) -> Turn {
        let receiver = self.receivers[index].fd.as_fd();
        let mut turn = Turn::More;
        for _ in 0..TURN_LINES_MAX {
            match next_line(receiver, &mut self.buffer) {
                Ok(Some(line)) => self.batch.extend_from_slice(line),
                Ok(None) if has_ended(receiver) => turn = Turn::Ended,
                // An empty packet: nobody of ours sends one.
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => turn = Turn::Empty,
                // A packet larger than any of ours, or a signal: the next one is whole again.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::InvalidData | io::ErrorKind::Interrupted
                    ) => {}
                Err(_) => turn = Turn::Ended,
            }
            if turn != Turn::More {
                break;
            }
        }
        write_whole(self.output.as_fd(), &self.batch);
        self.batch.clear();
        turn
    }
}

fn has_ended(receiver: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(receiver, PollFlags::IN)];
    let now = rustix::time::Timespec::default();
    rustix::event::poll(&mut polled, Some(&now)).is_ok()
        && polled[0].revents().contains(PollFlags::HUP)
}

/// Writes all of `bytes`, however long it takes. Lines are lost only when the output is gone.
fn write_whole(output: BorrowedFd<'_>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match rustix::io::write(output, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(rustix::io::Errno::INTR) => {}
            // Somebody who shares our standard error has made it non-blocking.
            Err(rustix::io::Errno::AGAIN) => {
                if wait_writable(output, None).is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}
