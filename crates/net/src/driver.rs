//! Readiness of this thread's connected sockets.
//!
//! ```text
//!  kernel --events--> inner epoll --readable--> tokio --wakes--> driver task --+-- sets the readiness bits of an entry
//!                                                                              `-- wakes its task, or says that it is
//!                                                                                  parked and stirs (park.rs)
//! ```
//!
//! A socket is registered once, edge-triggered, for everything, and is never deregistered: closing it does that, since a
//! connected socket has exactly one descriptor and one process. Listening sockets are shared and have no place here.
//!
//! Entries lie in chunks, so that memory grows linearly and nothing ever moves. An entry is used again after its socket was
//! closed; its generation tells an event that was meant for the socket before. A socket belongs to one task, so there is one
//! waker, and it is woken only for what it waits for: the event that every registration begins with wakes nobody.

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::park::Stirred;

/// The next read gives bytes, the end or an error.
pub(crate) const READABLE: u16 = 1;
/// The next write finds room, or an error.
pub(crate) const WRITABLE: u16 = 1 << 1;
/// The connection has failed or was reset (EPOLLERR).
pub(crate) const FAILED: u16 = 1 << 2;
/// The peer's end has arrived (EPOLLRDHUP), behind what can still be read.
pub(crate) const END_ARRIVED: u16 = 1 << 3;
/// Everything before the peer's end was read.
pub(crate) const END_READ: u16 = 1 << 4;
/// Urgent data was seen. Reads stop at its mark, so that a short one tells nothing.
pub(crate) const URGENT: u16 = 1 << 5;
/// The first bytes were written (only while FRESH).
pub(crate) const WRITTEN: u16 = 1 << 11;
/// We made the connection, and may have to be first to end it.
pub(crate) const OUTGOING: u16 = 1 << 6;
/// Nothing was written yet that the next write could be held back for (TCP_NODELAY is not set).
pub(crate) const FRESH: u16 = 1 << 7;
/// `READABLE << WAITED` and so on: what the task waits for.
const WAITED: u16 = 8;
/// The entry's `link` says which parked thing it belongs to.
const PARKED: u16 = 1 << 12;

/// Entries a chunk: 6 KiB.
const CHUNK_LEN: usize = 256;

/// Events that are fetched at once.
const EVENTS_MAX: usize = 256;

/// Ends the list of free entries.
const NONE: u32 = u32::MAX;

/// Most lots a thread (see [`crate::park::Lot`]).
const LOTS_MAX: usize = 16;

/// Bits of a link that say which place of the lot; the others say which lot.
pub(crate) const PLACE_BITS: u32 = 28;

thread_local! {
    static DRIVER: Driver = const { Driver::new() };
}

struct Driver {
    epoll: OnceCell<OwnedFd>,
    is_running: Cell<bool>,
    chunks: RefCell<Vec<Box<[Entry]>>>,
    /// Head of the list of free entries, which goes on through their links.
    free: Cell<u32>,
    lots: RefCell<Vec<Weak<Stirred>>>,
}

/// One socket.
struct Entry {
    waker: Cell<Option<Waker>>,
    /// The next free entry, or the parked thing this belongs to.
    link: Cell<u32>,
    flags: Cell<u16>,
    /// Raised when the entry is freed. It would have to wrap within one batch of events to be mistaken.
    generation: Cell<u16>,
}

const _: () = assert!(size_of::<Entry>() <= 24);

/// A socket's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key(u32);

/// Names a socket without holding it, for [`nudge`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    key: Key,
    generation: u16,
}

impl Token {
    /// As two numbers, for whoever keeps many.
    #[must_use]
    pub fn split(self) -> (u32, u16) {
        (self.key.0, self.generation)
    }

    /// From two numbers.
    #[must_use]
    pub fn join(key: u32, generation: u16) -> Self {
        Self {
            key: Key(key),
            generation,
        }
    }
}

impl Driver {
    const fn new() -> Self {
        Self {
            epoll: OnceCell::new(),
            is_running: Cell::new(false),
            chunks: RefCell::new(Vec::new()),
            free: Cell::new(NONE),
            lots: RefCell::new(Vec::new()),
        }
    }

    fn epoll(&self) -> io::Result<BorrowedFd<'_>> {
        if self.epoll.get().is_none() {
            // Nobody came in between: one thread, and nothing is awaited.
            self.epoll
                .set(epoll::create(CreateFlags::CLOEXEC)?)
                .unwrap_or(());
        }
        self.epoll
            .get()
            .map(OwnedFd::as_fd)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn start(&self) -> io::Result<()> {
        if self.is_running.get() {
            return Ok(());
        }
        crate::ports::read_range();
        // Under tokio lies a second descriptor, which ends with the task; ours stays for the next runtime of this thread.
        let watched = self.epoll()?.try_clone_to_owned()?;
        let watched = evenkeel_sys::watch::watch(watched, Interest::READABLE)?;
        self.is_running.set(true);
        drop(tokio::task::spawn_local(run(watched, Running)));
        Ok(())
    }

    fn with_entry<R>(&self, key: Key, f: impl FnOnce(&Entry) -> R) -> R {
        let index = key.0 as usize;
        f(&self.chunks.borrow()[index / CHUNK_LEN][index % CHUNK_LEN])
    }

    fn take_entry(&self, flags: u16) -> (Key, u16) {
        if self.free.get() == NONE {
            self.grow();
        }
        let key = Key(self.free.get());
        self.with_entry(key, |entry| {
            self.free.set(entry.link.get());
            entry.flags.set(flags);
            (key, entry.generation.get())
        })
    }

    #[cold]
    fn grow(&self) {
        let mut chunks = self.chunks.borrow_mut();
        let first = u32::try_from(chunks.len() * CHUNK_LEN).unwrap_or(NONE);
        // The kernel gives no process this many descriptors (fs.nr_open is an int).
        assert!(first < NONE - 256, "too many sockets");
        let entry = |offset| Entry {
            waker: Cell::new(None),
            link: Cell::new(first + offset + 1),
            flags: Cell::new(0),
            generation: Cell::new(0),
        };
        let chunk: Box<[_]> = (0..256).map(entry).collect();
        const { assert!(CHUNK_LEN == 256) };
        if let Some(last) = chunk.last() {
            last.link.set(self.free.get());
        }
        chunks.push(chunk);
        self.free.set(first);
    }

    fn free_entry(&self, key: Key) {
        let waker = self.with_entry(key, |entry| {
            entry.generation.set(entry.generation.get().wrapping_add(1));
            entry.flags.set(0);
            entry.link.set(self.free.get());
            self.free.set(key.0);
            entry.waker.take()
        });
        drop(waker);
    }

    fn note(&self, event: epoll::Event) {
        let data = event.data.u64();
        // Packed: the low half is the key, the high half the generation.
        let (key, generation) = (data & 0xffff_ffff, data >> 32);
        let Ok(key) = u32::try_from(key).map(Key) else {
            return;
        };
        let flags = event.flags;
        self.with_entry(key, |entry| {
            if u64::from(entry.generation.get()) != generation {
                return;
            }
            self.arrived(entry, readiness(flags));
        });
    }

    fn arrived(&self, entry: &Entry, ready: u16) {
        let before = entry.flags.get();
        let mut now = before | ready;
        if now & PARKED != 0 {
            // Room for writing is no reason: a parked thing has nothing to write.
            if ready & (READABLE | FAILED) != 0 {
                now &= !PARKED;
                self.stir(entry.link.get());
            }
            entry.flags.set(now);
            return;
        }
        let waits = (now >> WAITED) & (READABLE | WRITABLE | FAILED);
        if waits & ready == 0 {
            entry.flags.set(now);
            return;
        }
        entry
            .flags
            .set(now & !((READABLE | WRITABLE | FAILED) << WAITED));
        if let Some(waker) = entry.waker.take() {
            waker.wake();
        }
    }

    fn stir(&self, link: u32) {
        let lot = (link >> PLACE_BITS) as usize;
        let stirred = self.lots.borrow().get(lot).and_then(Weak::upgrade);
        if let Some(stirred) = stirred {
            stirred.add(link & ((1 << PLACE_BITS) - 1));
        }
    }
}

/// Registers `socket`, of which there is no other descriptor. `flags`: what is known of it already.
///
/// # Errors
/// When epoll has no memory or no watches left.
pub(crate) fn register(socket: BorrowedFd<'_>, flags: u16) -> io::Result<Key> {
    DRIVER.with(|driver| {
        driver.start()?;
        let (key, generation) = driver.take_entry(flags);
        let data = u64::from(generation) << 32 | u64::from(key.0);
        let wanted =
            EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::PRI | EventFlags::ET;
        let added = epoll::add(driver.epoll()?, socket, EventData::new_u64(data), wanted);
        added.map_err(|error| {
            driver.free_entry(key);
            io::Error::from(error)
        })?;
        Ok(key)
    })
}

/// Frees the entry of a socket that is closed next.
pub(crate) fn free(key: Key) {
    // Without a driver the thread is ending.
    DRIVER
        .try_with(|driver| driver.free_entry(key))
        .unwrap_or(());
}

/// What is known of a socket.
pub(crate) fn flags(key: Key) -> u16 {
    DRIVER.with(|driver| driver.with_entry(key, |entry| entry.flags.get()))
}

/// Forgets `cleared` and notes `set`.
pub(crate) fn change(key: Key, cleared: u16, set: u16) {
    DRIVER.with(|driver| {
        driver.with_entry(key, |entry| {
            entry.flags.set(entry.flags.get() & !cleared | set);
        });
    });
}

/// Ready when one of `wanted` is; else the task of `cx` is woken then.
pub(crate) fn poll(key: Key, wanted: u16, cx: &Context<'_>) -> Poll<()> {
    poll_by(key, wanted, wanted, cx)
}

/// Ready when one of `wanted` is; else the task of `cx` is woken by the next event that brings one of `wakes`: also by a further one
/// of what is there already.
pub(crate) fn poll_by(key: Key, wanted: u16, wakes: u16, cx: &Context<'_>) -> Poll<()> {
    DRIVER.with(|driver| {
        driver.with_entry(key, |entry| {
            let flags = entry.flags.get();
            if flags & wanted != 0 {
                return Poll::Ready(());
            }
            let waker = match entry.waker.take() {
                Some(waker) if waker.will_wake(cx.waker()) => waker,
                _ => cx.waker().clone(),
            };
            entry.waker.set(Some(waker));
            entry.flags.set(flags | wakes << WAITED);
            Poll::Pending
        })
    })
}

/// The name of a socket.
pub(crate) fn token(key: Key) -> Token {
    let generation = DRIVER.with(|d| d.with_entry(key, |entry| entry.generation.get()));
    Token { key, generation }
}

/// Wakes the task that waits for the socket that `token` names, if it still is open.
pub fn nudge(token: Token) {
    DRIVER.with(|driver| {
        driver.with_entry(token.key, |entry| {
            if entry.generation.get() == token.generation
                && let Some(waker) = entry.waker.take()
            {
                waker.wake();
            }
        });
    });
}

/// From here on the socket belongs to a parked thing.
pub(crate) fn park(key: Key, link: u32) {
    DRIVER.with(|driver| {
        // The waker would keep the memory of its task.
        let waker = driver.with_entry(key, |entry| {
            let waits = (READABLE | WRITABLE | FAILED) << WAITED;
            entry.flags.set(entry.flags.get() & !waits | PARKED);
            entry.link.set(link);
            entry.waker.take()
        });
        drop(waker);
    });
}

/// From here on the socket belongs to a task again.
pub(crate) fn unpark(key: Key) {
    change(key, PARKED, 0);
}

/// A number for a lot, none when there are too many.
pub(crate) fn add_lot(lot: &Rc<Stirred>) -> Option<u32> {
    DRIVER.with(|driver| {
        let mut lots = driver.lots.borrow_mut();
        let free = lots.iter().position(|lot| lot.strong_count() == 0);
        let number = free.unwrap_or(lots.len());
        if number >= LOTS_MAX {
            return None;
        }
        match lots.get_mut(number) {
            Some(free) => *free = Rc::downgrade(lot),
            None => lots.push(Rc::downgrade(lot)),
        }
        u32::try_from(number).ok()
    })
}

/// Makes the driver of this thread, if there is none. To be called within a `LocalSet`; registering a socket does it as well.
///
/// # Errors
/// When no descriptor is left, or epoll has no memory.
pub fn start() -> io::Result<()> {
    DRIVER.with(Driver::start)
}

/// Says that the driver's task is gone, with its runtime.
struct Running;

impl Drop for Running {
    fn drop(&mut self) {
        DRIVER
            .try_with(|driver| driver.is_running.set(false))
            .unwrap_or(());
    }
}

async fn run(watched: AsyncFd<OwnedFd>, _running: Running) {
    let mut events = Vec::with_capacity(EVENTS_MAX);
    loop {
        match watched.readable().await {
            // Cleared before looking: an event after the last look is a new edge for tokio.
            Ok(mut ready) => ready.clear_ready(),
            // Only while the runtime shuts down, which drops this future too.
            Err(_) => return std::future::pending().await,
        }
        // A batch that is not full has taken everything: edge-triggered events are not put back.
        while fetch(watched.get_ref().as_fd(), &mut events) == EVENTS_MAX {
            tokio::task::yield_now().await;
        }
    }
}

/// Fetches events and hands them out; how many.
fn fetch(epoll: BorrowedFd<'_>, events: &mut Vec<epoll::Event>) -> usize {
    const AT_ONCE: Timespec = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    events.clear();
    // It can be interrupted only by a signal, and then has fetched nothing; the next edge comes all the same.
    while epoll::wait(epoll, spare_capacity(events), Some(&AT_ONCE)) == Err(rustix::io::Errno::INTR)
    {
    }
    let count = events.len();
    DRIVER.with(|driver| events.drain(..).for_each(|event| driver.note(event)));
    count
}

fn readiness(flags: EventFlags) -> u16 {
    let has = |wanted: EventFlags| flags.intersects(wanted);
    let mut ready = 0;
    let over = EventFlags::ERR | EventFlags::HUP;
    if has(EventFlags::IN | EventFlags::RDHUP | EventFlags::PRI | over) {
        ready |= READABLE;
    }
    if has(EventFlags::OUT | over) {
        ready |= WRITABLE;
    }
    // A hang-up alone is none: it is also there when both directions have ended in order (linux/net/ipv4/tcp.c, `tcp_poll`).
    if has(EventFlags::ERR) {
        ready |= FAILED;
    }
    if has(EventFlags::RDHUP) {
        ready |= END_ARRIVED;
    }
    if has(EventFlags::PRI) {
        ready |= URGENT;
    }
    ready
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn event(key: Key, generation: u16, flags: EventFlags) -> epoll::Event {
        epoll::Event {
            flags,
            data: EventData::new_u64(u64::from(generation) << 32 | u64::from(key.0)),
        }
    }

    #[test]
    fn a_stale_event_is_not_taken_for_the_next_socket_of_the_entry() {
        DRIVER.with(|driver| {
            let (key, generation) = driver.take_entry(0);
            driver.free_entry(key);
            let (again, next) = driver.take_entry(WRITABLE);
            assert_eq!(key, again);
            assert_ne!(generation, next);
            driver.note(event(key, generation, EventFlags::IN | EventFlags::ERR));
            assert_eq!(flags(again), WRITABLE);
            driver.note(event(key, next, EventFlags::IN));
            assert_eq!(flags(again), WRITABLE | READABLE);
        });
    }

    #[test]
    fn entries_are_used_again_before_more_are_made() {
        DRIVER.with(|driver| {
            let mut keys: Vec<_> = (0..CHUNK_LEN + 1)
                .map(|_| driver.take_entry(0).0.0)
                .collect();
            keys.sort_unstable();
            keys.dedup();
            assert_eq!(keys.len(), CHUNK_LEN + 1);
            assert_eq!(driver.chunks.borrow().len(), 2);
            for &key in &keys {
                driver.free_entry(Key(key));
            }
            for _ in 0..2 * CHUNK_LEN {
                driver.take_entry(0);
            }
            assert_eq!(driver.chunks.borrow().len(), 2);
        });
    }

    #[test]
    fn only_what_is_waited_for_wakes() {
        DRIVER.with(|driver| {
            let (key, generation) = driver.take_entry(0);
            let count = |key| {
                driver.with_entry(key, |e| {
                    let waker = e.waker.take();
                    let is_there = waker.is_some();
                    e.waker.set(waker);
                    is_there
                })
            };
            let cx = Context::from_waker(Waker::noop());
            assert!(poll(key, READABLE, &cx).is_pending());
            driver.note(event(key, generation, EventFlags::OUT));
            assert!(count(key), "it waits still");
            driver.note(event(key, generation, EventFlags::IN));
            assert!(!count(key), "it was woken");
            assert!(poll(key, READABLE, &cx).is_ready());
        });
    }
}
