//! What goes into the machine, and what comes out.

use std::fmt;
use std::time::Duration;

use evenkeel_plan::SlotIdx;

use super::state::Settings;

/// A child: the worker in a slot, or the monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Who {
    /// The monitor.
    Monitor,
    /// The worker in this slot.
    Worker(SlotIdx),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Monitor => f.write_str("monitor"),
            Self::Worker(slot) => write!(f, "worker {slot}"),
        }
    }
}

/// Who asked for a reload, for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// A child's vitals, as sampled at a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Which child.
    pub who: Who,
    /// Time since its last heartbeat.
    pub beat_age: Duration,
    /// Stopped by a signal or a debugger.
    pub stopped: bool,
    /// CPU time used so far.
    pub cpu: Duration,
}

/// One fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The first plan (generation 1) is sealed, its sockets listen in `open` slots.
    Begin {
        /// Slots that have sockets now: at least as many as are wanted.
        open: u16,
        /// Settings of the plan.
        settings: Settings,
    },
    /// A process could not be started.
    SpawnFailed {
        /// Which child.
        who: Who,
        /// Which of its processes.
        incarnation: u64,
    },
    /// A slot's sockets could not be made.
    OpenFailed {
        /// The slot.
        slot: SlotIdx,
    },
    /// A process ended and was reaped.
    Exited {
        /// Which child.
        who: Who,
        /// Which of its processes.
        incarnation: u64,
    },
    /// A child is ready to switch.
    Prepared {
        /// Which child.
        who: Who,
        /// Which of its processes.
        incarnation: u64,
        /// To this generation.
        generation: u64,
    },
    /// A child cannot switch.
    Refused {
        /// Which child.
        who: Who,
        /// Which of its processes.
        incarnation: u64,
        /// To this generation.
        generation: u64,
        /// Why, in words.
        reason: String,
    },
    /// A child has switched.
    Applied {
        /// Which child.
        who: Who,
        /// Which of its processes.
        incarnation: u64,
        /// To this generation.
        generation: u64,
    },
    /// A worker accepts no more from a slot's sockets and has closed its copies.
    Disowned {
        /// The slot of the worker that says so.
        by: SlotIdx,
        /// Which of its processes.
        incarnation: u64,
        /// The slot whose sockets it let go of.
        slot: SlotIdx,
    },
    /// Somebody wants the configuration read again.
    ReloadRequested {
        /// For the answer.
        ticket: Ticket,
    },
    /// Names stand for other addresses than the plan in force says.
    NamesChanged,
    /// The configuration was read, sealed as this generation, and its new sockets are bound.
    Compiled {
        /// The generation.
        generation: u64,
        /// Settings of the new plan.
        settings: Settings,
    },
    /// The configuration was read and says what is in force already, or it has errors; the executor answers the tickets
    /// with the details.
    NothingToDo,
    /// Time has passed. Comes every [`super::state::TICK`].
    Tick {
        /// Whether the supervisor itself got to run in time. If not, nobody is judged.
        on_time: bool,
        /// One a child that runs.
        samples: Vec<Sample>,
        /// Slots among those open in which somebody waits to be accepted.
        queued: Vec<SlotIdx>,
    },
    /// `SIGTERM` or Ctrl-C.
    Terminate,
}

/// How a reload ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// In force.
    Applied {
        /// The generation.
        generation: u64,
    },
    /// A child could not switch; everything is as it was.
    Failed {
        /// Why, in words.
        reason: String,
    },
    /// Not now.
    Denied {
        /// Why, in words.
        reason: String,
    },
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start a process. For a worker: its slot's row is settled and its sockets are there.
    Spawn {
        /// Which child.
        who: Who,
        /// Which of its processes.
        incarnation: u64,
    },
    /// Kill a process at once.
    Kill {
        /// Which child.
        who: Who,
        /// Why, in words, for the log.
        reason: &'static str,
    },
    /// Settle the row of a worker that has ended.
    Settle {
        /// Its slot.
        slot: SlotIdx,
        /// It ended without being asked to.
        crashed: bool,
    },
    /// Send the delta from what the child has to this generation, with the sockets it lacks.
    Prepare {
        /// Which child.
        who: Who,
        /// The generation.
        generation: u64,
    },
    /// Tell a child to switch.
    Commit {
        /// Which child.
        who: Who,
        /// The generation.
        generation: u64,
    },
    /// Tell a child to forget what it prepared.
    Abort {
        /// Which child.
        who: Who,
        /// The generation.
        generation: u64,
    },
    /// Put a compiled generation in force: new sockets begin to listen, scheduler states are carried over, the generation
    /// cell is stored, sockets of removed listeners are closed.
    Switch {
        /// The generation.
        generation: u64,
    },
    /// Throw a compiled generation away, with its sockets.
    Discard {
        /// The generation.
        generation: u64,
    },
    /// Read the configuration again: answered by `Compiled` or `NothingToDo`.
    Compile {
        /// All that wait for it; none = the file is not read, only what names stand for is brought up to date, and nobody
        /// is answered.
        tickets: Vec<Ticket>,
    },
    /// Answer who asked.
    Answer {
        /// Who.
        tickets: Vec<Ticket>,
        /// How it ended.
        outcome: Outcome,
    },
    /// Make listening sockets for this slot, in every listener's group; it becomes the group's last index.
    Open {
        /// The slot.
        slot: SlotIdx,
    },
    /// Close the sockets of this slot, the last index of every group.
    Close {
        /// The slot.
        slot: SlotIdx,
    },
    /// Let every group choose among these slots.
    Steer {
        /// Slots, rising, at least one.
        live: Vec<SlotIdx>,
    },
    /// Give a slot's sockets to another slot's worker.
    Adopt {
        /// The slot without a worker that accepts.
        slot: SlotIdx,
        /// The slot whose worker accepts for it.
        by: SlotIdx,
    },
    /// Take a slot's sockets back; answered by `Disowned`.
    Disown {
        /// The slot.
        slot: SlotIdx,
        /// The slot whose worker has them.
        by: SlotIdx,
    },
    /// Tell a child to finish what runs and to exit.
    Drain {
        /// Which child.
        who: Who,
        /// What still runs then is cut.
        deadline: Duration,
    },
    /// Stop listening for good: close the supervisor's own copies of all listening sockets.
    CloseAll,
    /// The daemon is ready, or no longer.
    Ready {
        /// Which.
        ready: bool,
    },
    /// Stopping has begun.
    Stopping,
    /// End the supervisor.
    Exit,
}
