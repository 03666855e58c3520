//! Idle connections to backends, kept for the next request: a stack a backend and worker, the one used last on top.
//!
//! A connection is found again under its endpoint and the address of ours that it comes from. Where it says whose it is (a client's own
//! address, a PROXY protocol header), it is not kept at all. What was kept is looked at when it is taken and by the heartbeat: one
//! on which the backend has done anything is thrown away.

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};

use evenkeel_net::Stream;
use evenkeel_plan::SourceSpec;
use evenkeel_scoreboard::{BackendCount, BackendRow};

use crate::handle::BackendHandle;

/// A connection to a backend, and what is known of it.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) stream: Stream,
    pub(crate) endpoint: SocketAddr,
    /// Our address, where the plan chose it.
    pub(crate) source: Option<IpAddr>,
    /// Requests that it has carried or carries.
    pub(crate) used: u32,
}

#[derive(Debug)]
struct Idle {
    upstream: Upstream,
    /// Tick since which it is idle, and until which it is kept.
    since: u32,
    until: u32,
}

/// The idle connections of one backend.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    idle: RefCell<Vec<Idle>>,
    /// Whether the worker's list has it.
    is_listed: Cell<bool>,
}

/// What a connection has to be like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fit<'a> {
    pub(crate) endpoint: SocketAddr,
    pub(crate) source: &'a SourceSpec,
    /// How long it may have been idle, in ticks.
    pub(crate) idle_max: u32,
}

impl Fit<'_> {
    fn is(&self, idle: &Idle, now: u32) -> bool {
        let fits_source = match (self.source, idle.upstream.source) {
            (SourceSpec::Kernel, None) => true,
            (SourceSpec::Addresses(ours), Some(source)) => ours.contains(&source),
            (SourceSpec::Kernel | SourceSpec::Addresses(_) | SourceSpec::Client, _) => false,
        };
        fits_source
            && idle.upstream.endpoint == self.endpoint
            && now.saturating_sub(idle.since) <= self.idle_max
            && now <= idle.until
            && !idle.upstream.has_stirred()
    }
}

impl Upstream {
    /// Whether the backend has done anything that was not asked for: sent something, ended its direction, or reset the connection.
    pub(crate) fn has_stirred(&self) -> bool {
        self.stream.is_stirring() || self.stream.has_end_arrived()
    }

    /// Whether it has not, asked of the kernel: events tell it only when they are fetched next, and a byte that came meanwhile would be taken for
    /// the next client's answer.
    fn is_silent(&self) -> bool {
        let seen = self.stream.try_peek(&mut [0]);
        seen.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

impl Pool {
    /// Takes the one used last of those that fit.
    pub(crate) fn take(&self, row: BackendRow, fit: Fit<'_>, now: u32) -> Option<Upstream> {
        loop {
            let upstream = {
                let mut idle = self.idle.borrow_mut();
                let place = idle.iter().rposition(|idle| fit.is(idle, now))?;
                idle.remove(place).upstream
            };
            row.lower(BackendCount::Idle);
            if upstream.is_silent() {
                return Some(upstream);
            }
            upstream.stream.finish_on_close();
        }
    }

    fn close(&self, row: BackendRow, mut has_to: impl FnMut(&Idle) -> bool) {
        // Closed when nothing is borrowed any more.
        let closed: Vec<_> = self
            .idle
            .borrow_mut()
            .extract_if(.., |idle| has_to(idle))
            .collect();
        for idle in closed {
            row.lower(BackendCount::Idle);
            idle.upstream.stream.finish_on_close();
        }
    }

    /// The backend is nobody's any more.
    pub(crate) fn end(&self, row: BackendRow) {
        self.close(row, |_| true);
    }
}

/// The pools of a worker.
#[derive(Debug, Default)]
pub(crate) struct Pools(RefCell<Vec<Weak<BackendHandle>>>);

impl Pools {
    /// Keeps `upstream` for `ticks` from `now` on, unless there are `room` already; the one that was used least lately goes then.
    pub(crate) fn keep(
        &self,
        handle: &Rc<BackendHandle>,
        upstream: Upstream,
        now: u32,
        ticks: u32,
        room: usize,
    ) {
        let pool = handle.pool();
        if room == 0 {
            upstream.stream.finish_on_close();
            return;
        }
        let mut surplus = None;
        {
            let mut idle = pool.idle.borrow_mut();
            if idle.len() >= room {
                surplus = Some(idle.remove(0));
            } else {
                handle.row().add(BackendCount::Idle, 1);
            }
            idle.push(Idle {
                upstream,
                since: now,
                until: now.saturating_add(ticks),
            });
        }
        if let Some(surplus) = surplus {
            surplus.upstream.stream.finish_on_close();
        }
        if !pool.is_listed.replace(true) {
            self.0.borrow_mut().push(Rc::downgrade(handle));
        }
    }

    /// Closes all of them; whether there were any.
    pub(crate) fn close_all(&self) -> bool {
        let handles: Vec<_> = self.0.borrow().iter().filter_map(Weak::upgrade).collect();
        let mut is_any = false;
        for handle in handles {
            is_any |= !handle.pool().idle.borrow().is_empty();
            handle.pool().end(handle.row());
        }
        is_any
    }

    /// Closes those whose time is up, and those on which the backend has done something.
    pub(crate) fn sweep(&self, now: u32) {
        // Closing may let the last holder of a backend go, which calls nothing here.
        self.0.borrow_mut().retain(|handle| {
            let Some(handle) = handle.upgrade() else {
                return false;
            };
            let pool = handle.pool();
            pool.close(handle.row(), |idle| {
                now > idle.until || idle.upstream.has_stirred()
            });
            let is_listed = !pool.idle.borrow().is_empty();
            pool.is_listed.set(is_listed);
            is_listed
        });
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{Shutdown, TcpListener, TcpStream};

    use tokio::task::LocalSet;

    use super::*;
    use crate::connection::tests::worker;

    #[tokio::test(flavor = "current_thread")]
    async fn what_came_since_events_were_fetched_is_no_answer() {
        let local = LocalSet::new();
        let test = local.run_until(async {
            let (worker, listener) = worker().await;
            let handle = &listener.service.backends[0].handle;
            let row = handle.row();
            let source = SourceSpec::Kernel;
            let server = TcpListener::bind("127.0.0.1:0").unwrap();
            let endpoint = server.local_addr().unwrap();
            let fit = Fit {
                endpoint,
                source: &source,
                idle_max: u32::MAX,
            };
            let keep = || {
                let ours = TcpStream::connect(endpoint).unwrap();
                ours.set_nonblocking(true).unwrap();
                let upstream = Upstream {
                    stream: Stream::new(ours.into()).unwrap(),
                    endpoint,
                    source: None,
                    used: 1,
                };
                worker.pools.keep(handle, upstream, 1, 100, 8);
                server.accept().unwrap().0
            };
            let quiet = keep();
            let mut poisoned = keep();
            let ended = keep();
            assert_eq!(row.get(BackendCount::Idle), 3);
            // Nothing is awaited from here on, so that nobody fetches events.
            poisoned.write_all(b"HTTP/1.1 200 OK\r\n").unwrap();
            ended.shutdown(Shutdown::Write).unwrap();
            let taken = handle.pool().take(row, fit, 1).unwrap();
            let theirs = quiet.peer_addr().unwrap();
            assert_eq!(taken.stream.local_address().unwrap(), theirs);
            assert!(handle.pool().take(row, fit, 1).is_none());
            assert_eq!(row.get(BackendCount::Idle), 0);
        });
        test.await;
    }
}
