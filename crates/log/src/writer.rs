//! The thread that writes out the lines of all processes.
//!
//! ```text
//! poll(wake, receivers, outputs that something waits for)
//!   receiver readable --> a turn of packets --> log output (standard error)
//!                                          `--> access output: the same, or a file
//!   receiver at its end --> closed, `ended(source)` is called
//!   wake --> receivers were added, another access output, or stop: what waits in the channels, then the end
//! ```
//!
//! * It never waits in a write: see [`crate::output`].
//! * When every output that there is is stuck, nothing is read: lines wait in their channels, then they are dropped and
//!   counted by their senders. A monitor that is killed then loses one turn of lines, which it had in its hands.
//! * With an access output of its own, one that is stuck does not hold up the other: reading goes on, what is for the stuck one
//!   waits here, 256 KiB of it, and then lines are lost and counted. These are what a killed monitor would take along.
//! * Lines that were lost here are told in the log once it takes lines, every ten seconds at most while it goes on.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use evenkeel_sys::packet;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};

use crate::channel::{Kind, TELL_INTERVAL, is_passing, next_packet};
use crate::output::{Output, PENDING_BYTES_MAX};
use crate::subscriber::{stderr_is_the_journal, tally_line};

/// Packets taken from one receiver before the next gets its turn.
const TURN_PACKETS_MAX: usize = 256;

/// Bytes after which a turn ends too.
const TURN_BYTES_MAX: usize = 64 * 1024;

/// A turn that began with nothing waiting fits.
const _: () = assert!(TURN_BYTES_MAX + packet::MESSAGE_BYTES_MAX < PENDING_BYTES_MAX);

/// The source of lines about lost lines: the process that writes.
const OWN_SOURCE: &str = "monitor";

/// The reading end of somebody's line channel.
#[derive(Debug)]
pub struct Receiver {
    /// Whose lines these are, such as `worker-0`.
    pub source: String,
    /// The descriptor, non-blocking.
    pub fd: OwnedFd,
}

/// A thread that writes packets of any number of line channels to standard error, and lines of the access log there too or
/// to an output of their own.
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
    unwritten_log: AtomicU64,
    unwritten_access: AtomicU64,
}

impl Shared {
    fn unwritten(&self, kind: Kind) -> &AtomicU64 {
        match kind {
            Kind::Log => &self.unwritten_log,
            Kind::Access => &self.unwritten_access,
        }
    }
}

#[derive(Debug, Default)]
struct Orders {
    added: Vec<Receiver>,
    /// Another output for access lines, if one was ordered; the inner `None` = the log's.
    access: Option<Option<OwnedFd>>,
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
            unwritten_log: AtomicU64::new(0),
            unwritten_access: AtomicU64::new(0),
        });
        let (finish, finished) = mpsc::channel();
        let run = Run {
            shared: Arc::clone(&shared),
            receivers,
            log: Output::new(output),
            access: None,
            // One byte more than a packet, for a line feed that may be missing.
            buffer: vec![0; packet::MESSAGE_BYTES_MAX + 1],
            told: [0; 2],
            told_at: [None; 2],
            journal: stderr_is_the_journal(),
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

    /// Writes lines of the access log to `output` from now on: a file opened for appending, or a pipe; `None` = where the log
    /// goes, as at the start. Lines that the output before does not take at once are lost and counted. At the start, to be
    /// called before [`Writer::add`], or the first lines go where the log goes.
    pub fn set_access_output(&self, output: Option<OwnedFd>) {
        self.order(|orders| orders.access = Some(output));
    }

    /// Total of log lines that were received and could not be written. Those that were dropped before are counted by whoever
    /// sent them.
    #[must_use]
    pub fn unwritten_log_lines(&self) -> u64 {
        self.shared.unwritten_log.load(Relaxed)
    }

    /// Total of lines of the access log that were received and could not be written.
    #[must_use]
    pub fn unwritten_access_lines(&self) -> u64 {
        self.shared.unwritten_access.load(Relaxed)
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
    log: Output,
    /// None = access lines go where the log goes.
    access: Option<Output>,
    buffer: Vec<u8>,
    /// Unwritten lines that the log was told of, by kind, and when.
    told: [u64; 2],
    told_at: [Option<Instant>; 2],
    journal: bool,
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
        let mut stop = false;
        loop {
            let ready = self.wait(stop);
            rustix::io::read(&self.shared.wake, &mut [0_u8; 8]).ok();
            stop |= self.take_orders();
            // From the back, so that removing one does not move those still to be looked at.
            for index in ready.into_iter().rev() {
                if self.is_stuck() {
                    break;
                }
                let turn = self.turn(index);
                if turn == Turn::Ended || (stop && turn == Turn::Empty) {
                    let gone = self.receivers.swap_remove(index);
                    if turn == Turn::Ended {
                        ended(&gone.source);
                    }
                }
            }
            self.write();
            self.tell_unwritten();
            if stop && self.receivers.is_empty() && self.waiting() == 0 {
                return;
            }
        }
    }

    /// Waits for lines, orders, or an output that takes what waits for it; the positions of the receivers to look at, rising.
    /// When stopping, these are all of them.
    fn wait(&self, stop: bool) -> Vec<usize> {
        let reading = !self.is_stuck();
        let outputs = self.outputs().filter(|output| output.waiting() > 0);
        let mut polled = vec![PollFd::from_borrowed_fd(
            self.shared.wake.as_fd(),
            PollFlags::IN,
        )];
        polled.extend(outputs.map(|output| PollFd::from_borrowed_fd(output.fd(), PollFlags::OUT)));
        let first = polled.len();
        if reading {
            let fds = self.receivers.iter().map(|receiver| receiver.fd.as_fd());
            polled.extend(fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        }
        let timeout = if stop && reading && !self.receivers.is_empty() {
            Some(Timespec::default())
        } else {
            self.until_tell()
        };
        if rustix::event::poll(&mut polled, timeout.as_ref()).is_err() {
            // Interrupted, or short of memory: look again.
            return Vec::new();
        }
        let ready = |polled: &PollFd<'_>| stop || !polled.revents().is_empty();
        let receivers = polled[first..].iter().enumerate();
        receivers
            .filter(|(_, polled)| ready(polled))
            .map(|(index, _)| index)
            .collect()
    }

    /// Whether it was ordered to stop.
    fn take_orders(&mut self) -> bool {
        let (access, stop) = {
            let mut orders = lock(&self.shared.orders);
            self.receivers.append(&mut orders.added);
            (orders.access.take(), orders.stop)
        };
        if let Some(output) = access {
            // What waits was for the output before.
            self.write();
            let before = std::mem::replace(&mut self.access, output.map(Output::new));
            if let Some(mut before) = before {
                before.give_up(&mut lost(&self.shared));
            }
        }
        stop
    }

    fn outputs(&self) -> impl Iterator<Item = &Output> {
        std::iter::once(&self.log).chain(&self.access)
    }

    /// Whether no output takes anything.
    fn is_stuck(&self) -> bool {
        self.outputs().all(|output| output.waiting() > 0)
    }

    fn waiting(&self) -> usize {
        self.outputs().map(Output::waiting).sum()
    }

    fn turn(&mut self, index: usize) -> Turn {
        let receiver = self.receivers[index].fd.as_fd();
        let mut turn = Turn::More;
        let mut bytes = 0;
        for _ in 0..TURN_PACKETS_MAX {
            match next_packet(receiver, &mut self.buffer) {
                Ok(Some(packet)) => {
                    bytes += packet.lines.len();
                    let output = match (packet.kind, &mut self.access) {
                        (Kind::Access, Some(access)) => access,
                        (Kind::Access, None) | (Kind::Log, _) => &mut self.log,
                    };
                    output.push(packet.kind, packet.lines, &mut lost(&self.shared));
                }
                Ok(None) if has_ended(receiver) => turn = Turn::Ended,
                // An empty packet: nobody of ours sends one.
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => turn = Turn::Empty,
                Err(error) if is_passing(&error) => {}
                Err(_) => turn = Turn::Ended,
            }
            if turn != Turn::More || bytes >= TURN_BYTES_MAX {
                break;
            }
        }
        self.write();
        turn
    }

    fn write(&mut self) {
        self.log.write(&mut lost(&self.shared));
        if let Some(access) = &mut self.access {
            access.write(&mut lost(&self.shared));
        }
    }

    /// Says in the log how many lines were lost here since this was last said.
    fn tell_unwritten(&mut self) {
        if self.log.failure().is_some() || self.log.waiting() > 0 {
            return;
        }
        for (index, (kind, message)) in TOLD.into_iter().enumerate() {
            let total = self.shared.unwritten(kind).load(Relaxed);
            let lines = total - self.told[index];
            let is_due = self.told_at[index].is_none_or(|at| at.elapsed() >= TELL_INTERVAL);
            if lines == 0 || !is_due {
                continue;
            }
            self.told[index] = total;
            self.told_at[index] = Some(Instant::now());
            let failure = match (kind, &self.access) {
                (Kind::Access, Some(access)) => access.failure(),
                (Kind::Access, None) | (Kind::Log, _) => None,
            };
            let error = failure.map(|errno| io::Error::from(errno).to_string());
            let mut line = String::new();
            tally_line(
                &mut line,
                OWN_SOURCE,
                self.journal,
                message,
                lines,
                error.as_deref(),
            );
            let output = &mut self.log;
            output.push(Kind::Log, line.as_bytes(), &mut lost(&self.shared));
            output.write(&mut lost(&self.shared));
        }
    }

    /// How long until unwritten lines are to be told of; `None` = nothing is to be told, or not before an output changes.
    fn until_tell(&self) -> Option<Timespec> {
        if self.log.failure().is_some() || self.log.waiting() > 0 {
            return None;
        }
        let due = TOLD.iter().enumerate().filter_map(|(index, (kind, _))| {
            let untold = self.shared.unwritten(*kind).load(Relaxed) > self.told[index];
            // A kind that was never told of was told of just now.
            let at = self.told_at[index]?;
            untold.then(|| TELL_INTERVAL.saturating_sub(at.elapsed()))
        });
        due.min().and_then(|left| left.try_into().ok())
    }
}

/// What is said of unwritten lines.
const TOLD: [(Kind, &str); 2] = [
    (Kind::Log, "log lines could not be written"),
    (Kind::Access, "lines of the access log could not be written"),
];

/// Counts lines that were lost here.
fn lost(shared: &Shared) -> impl FnMut(Kind, u64) {
    |kind, lines| {
        shared.unwritten(kind).fetch_add(lines, Relaxed);
    }
}

fn has_ended(receiver: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(receiver, PollFlags::IN)];
    let now = Timespec::default();
    rustix::event::poll(&mut polled, Some(&now)).is_ok()
        && polled[0].revents().contains(PollFlags::HUP)
}
