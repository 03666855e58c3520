//! One process's data plane.
//!
//! ```text
//! accept.rs --> worker.rs (serve) --> pick.rs --> connect.rs --> relay.rs
//!    |                                  |  ^          |  refused: another one
//!    |                                  |  +----------+
//!    |                                  |     closed: its sorry service, or a reset
//!    |                                  `-- plan.rs (the view in force), scoreboard (verdicts, scheduler states)
//!    |-- control.rs (what the supervisor says) --> drain.rs | orphan.rs
//!    |-- doorbell.rs (a backend went down: its connections are reset where the service says so)
//!    `-- connections.rs (all of them, active and parked: the sweep that parks idle ones and ends those whose time is up)
//! ```
//!
//! One thread: a current-thread runtime, `Rc` and `Cell`, one local task a connection. No lock, no file, nothing that
//! blocks. A relay that is idle has no task: it is parked until one of its sockets stirs. The heartbeat comes from the same event loop, so that a loop that hangs is seen.
#![forbid(unsafe_code)]

mod accept;
mod admission;
mod connect;
mod connection;
mod connections;
mod control;
mod cookies;
mod doorbell;
mod drain;
mod entrance;
mod handle;
mod handshake;
mod http;
mod mix;
mod orphan;
mod outcome;
mod peer;
mod pick;
mod plan;
mod queue;
mod relay;
mod upstream;
mod waiting;
mod worker;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use evenkeel_control::child::{Descriptor, FromChild, Hello, LINGERING_MAX, OrphanRule, ToChild};
use evenkeel_control::{ChannelError, Link, Outbox};
use evenkeel_net::{buffer, driver};
use evenkeel_plan::LogSpec;
use evenkeel_scoreboard::{AttachError, Scoreboard, WorkerCount};
use evenkeel_sys::{clock, cpu, process};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::MissedTickBehavior;

use crate::accept::Stop;
use crate::control::{Control, Leave};
use crate::worker::Worker;

/// Between two heartbeats.
pub const HEARTBEAT: Duration = Duration::from_millis(100);

/// Longest time for sending the last messages.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// Why a worker could not serve.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// There is no event loop.
    #[error("cannot make an event loop")]
    Runtime(#[source] io::Error),
    /// The supervisor did not say who we are.
    #[error("no word from the supervisor")]
    Hello(#[source] ChannelError),
    /// The process could not give up its privileges.
    #[error("cannot give up privileges")]
    Privileges(#[source] io::Error),
    /// The scoreboard did not arrive before the first order.
    #[error("the scoreboard has not arrived")]
    NoScoreboard,
    /// The scoreboard is of another kind.
    #[error("cannot use the scoreboard")]
    Scoreboard(#[source] AttachError),
}

/// Runs this process as a worker. `socket` is its end of the channel to the supervisor.
#[must_use]
pub fn main(socket: OwnedFd) -> ExitCode {
    match start(socket) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "cannot serve");
            // The log may not have been there yet.
            eprintln!("evenkeel worker: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(socket: OwnedFd) -> Result<(), WorkerError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(WorkerError::Runtime)?;
    LocalSet::new().block_on(&runtime, async {
        let (hello, link) = Link::open(socket).await.map_err(WorkerError::Hello)?;
        let supervisor_uid = process::effective_uid();
        become_worker(&hello)?;
        log_panics();
        run(hello, link, supervisor_uid).await
    })
}

/// What concerns the process as a whole. It still has one thread, as changing the user demands.
fn become_worker(hello: &Hello) -> Result<(), WorkerError> {
    process::set_name(&format!("ek-worker-{}", hello.slot));
    match hello.become_user {
        Some((uid, gid)) => process::become_user(uid, gid, hello.keep_net_raw),
        None => process::give_up_rights(hello.keep_net_raw),
    }
    .map_err(WorkerError::Privileges)?;
    process::lock_down().map_err(WorkerError::Privileges)
}

/// A panic ends one connection; its text must not end with it.
fn log_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tracing::error!(%panic, "a bug");
        before(panic);
    }));
}

/// Serves until it was told to drain and has drained, or until the supervisor is gone and what `hello` says of that has been
/// done. To be called within a `LocalSet` of a current-thread runtime.
///
/// `supervisor_uid` may take the sockets of an orphan over, beside root.
///
/// # Errors
/// [`WorkerError`] when it could not begin to serve.
pub async fn run(hello: Hello, mut link: Link, supervisor_uid: u32) -> Result<(), WorkerError> {
    // What is needed from the start comes before the first order.
    let first = match link.next().await {
        Ok(ToChild::Drain { .. }) => {
            link.send(FromChild::Drained { cut: 0 });
            flush(&link).await;
            return Ok(());
        }
        Ok(first) => first,
        // Nothing was begun that would have to be ended.
        Err(ChannelError::Closed) => return Ok(()),
        Err(error) => return Err(WorkerError::Hello(error)),
    };
    let memory = link
        .take(&Descriptor::Scoreboard)
        .ok_or(WorkerError::NoScoreboard)?;
    let board = Scoreboard::attach(memory.as_fd()).map_err(WorkerError::Scoreboard)?;
    drop(memory);
    let row = board.row(hello.slot, hello.parity);
    let worker = Rc::new(Worker::new(hello.slot, board, row));
    if let Some(lines) = link.take(&Descriptor::LogSender) {
        match lines.try_clone() {
            Ok(lines) => worker.set_access_log(lines),
            Err(error) => eprintln!("evenkeel worker: no access log: {error}"),
        }
        let own = row.worker();
        let dropped = move |count| own.add(WorkerCount::LogDropped, count);
        let source = format!("worker-{}", hello.slot);
        evenkeel_log::init(lines, LogSpec::default(), source, Box::new(dropped));
    }
    if let Some(cpu) = hello.cpu
        && let Err(error) = cpu::pin(cpu)
    {
        tracing::warn!(cpu, %error, "cannot pin this worker to its CPU");
    }

    driver::start().map_err(WorkerError::Runtime)?;
    let waking = spawn_local(relay::wake_parked(Rc::clone(&worker)));
    let waking_waiting = spawn_local(waiting::wake_waiting(Rc::clone(&worker)));
    let beating = spawn_local(beat(Rc::clone(&worker)));
    let releasing = spawn_local(release(Rc::clone(&worker), link.outbox()));
    let bell = link.take(&Descriptor::Doorbell { slot: hello.slot });
    let attending = bell.map(|bell| spawn_local(doorbell::attend(Rc::clone(&worker), bell)));
    tracing::info!(incarnation = hello.incarnation, "worker is here");

    let mut control = Control::new(link, Rc::clone(&worker));
    let leave = control.serve(first).await;
    let drain_deadline = |worker: &Worker| worker.view().plan().globals.drain.deadline;
    let deadline = match (leave, hello.orphan) {
        (Leave::Drain(deadline), _) => deadline,
        (Leave::Orphaned, OrphanRule::Drain) => {
            tracing::warn!("the supervisor is gone; leaving the sockets to the next one");
            drain_deadline(&worker)
        }
        (Leave::Orphaned, OrphanRule::ServeOn) => {
            tracing::warn!("the supervisor is gone; serving on with the last plan");
            // It may have died between the switch and the word to us.
            drop(control.settle().await);
            orphan::serve_on(&mut control, supervisor_uid).await;
            drain_deadline(&worker)
        }
    };
    // On the way out of the whole daemon nobody may be left who accepts what waits: the supervisor closed its copies first.
    let how = match leave {
        Leave::Drain(_) => Stop::Emptied,
        Leave::Orphaned => Stop::AtOnce,
    };
    drop(control.stop_accepting(how).await);
    worker.begin_draining();
    let cut = drain::drain(&worker, &mut control.link, deadline).await;
    worker.flush_access_log();
    control.link.send(FromChild::Drained { cut });
    flush(&control.link).await;
    beating.abort();
    waking.abort();
    waking_waiting.abort();
    releasing.abort();
    if let Some(attending) = attending {
        attending.abort();
    }
    Ok(())
}

async fn flush(link: &Link) {
    let outbox = link.outbox();
    if tokio::time::timeout(FLUSH_MAX, outbox.flush())
        .await
        .is_err()
    {
        tracing::warn!("the supervisor does not read the last messages");
    }
}

/// Says that the event loop turns, and how much memory it holds in buffers. Looks after the connections by the way.
async fn beat(worker: Rc<Worker>) {
    let slot = worker.board.slot(worker.slot);
    let own = worker.row.worker();
    let mut ticks = tokio::time::interval(HEARTBEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now_ms = clock::monotonic_ms();
        slot.beat(now_ms);
        worker.connections.sweep(now_ms);
        worker.pools.sweep(worker.connections.now());
        worker.flush_access_log();
        evenkeel_log::tell_dropped();
        own.set(WorkerCount::Parked, worker.connections.parked() as u64);
        let held = buffer::held() * buffer::BUFFER_BYTES;
        own.set(WorkerCount::BufferBytes, held as u64);
    }
}

/// Tells the supervisor of backends whose last holder has let go.
async fn release(worker: Rc<Worker>, outbox: Outbox) {
    loop {
        for cells in worker.holders.released().await.chunks(LINGERING_MAX) {
            outbox.send(FromChild::Released {
                cells: cells.to_vec(),
            });
        }
    }
}
