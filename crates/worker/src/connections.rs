//! All connections that have not ended: which there are, who must end, and who has been idle.
//!
//! ```text
//!   begin --> running (a task) --sweep: idle for IDLE_TICKS--> asked --holds nothing--> parked (a place in the lot)
//!                ^  |                                                                    |  |
//!                |  |  cut, lose, expire: the task is aborted       taken and dropped    |  | a peer does something
//!                |  `----------------------> end <---------------------------------------'  |
//!                `--------------------------------------------------------------------------'
//! ```
//!
//! Time is counted in ticks of [`TICK_MS`], kept by the sweep, so that bytes on their way read no clock.

use std::cell::{Cell, RefCell};

use evenkeel_net::driver::{self, Token};
use evenkeel_net::park::{Lot, Spot};
use evenkeel_plan::{BackendCell, TimeoutsSpec};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::outcome::Outcome;
use crate::relay::Relaying;
use crate::waiting::Waiting;

/// A tick, in milliseconds: the heartbeat's.
pub(crate) const TICK_MS: u64 = 100;

/// Ticks a second.
pub(crate) const TICKS_A_SECOND: u32 = 10;

const _: () = assert!(TICK_MS * TICKS_A_SECOND as u64 == 1_000);

/// How long a relay carries nothing before it is parked.
pub(crate) const IDLE_TICKS: u32 = 10;

/// Each place is looked at once in this many sweeps, when there are many.
const SWEEPS_A_ROUND: usize = 10;

/// Fewest places that a sweep looks at: a worker with no more connections looks at all of them at every tick.
const SWEEP_MIN: usize = 1_024;

/// Places a chunk.
const CHUNK_LEN: usize = 256;

/// Connections that have not ended.
#[derive(Debug)]
pub(crate) struct Connections {
    count: Cell<u64>,
    now: Cell<u32>,
    /// What is noted as the time of whatever happens between two sweeps: the tick of the next one, so that nobody is ended
    /// too early.
    stamp: Cell<u32>,
    /// Stamps of sweeps that came late.
    late: RefCell<Vec<Late>>,
    places: RefCell<Places>,
    /// Where the next sweep begins.
    next: Cell<usize>,
    lot: Lot<Relaying>,
    waiting: Lot<Waiting>,
    none_left: Notify,
    /// Every set of limits that some plan has had.
    limits: RefCell<Vec<Limits>>,
}

/// How long a connection may take for what, in ticks; 0 = for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Limits {
    idle: u32,
    half_closed: u32,
    total: u32,
}

/// A stamp that was below the tick of the sweep that ended its time. Whoever has it gets that tick instead.
#[derive(Clone, Copy, Debug)]
struct Late {
    stamp: u32,
    tick: u32,
    /// Sweeps until every place has been looked at.
    sweeps: usize,
}

/// The limits of a connection, as [`Connections`] knows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TimeLimits(u16);

/// A connection's number is its place, which another one gets after its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Number(u32);

/// In chunks: memory grows linearly, and nothing moves.
#[derive(Debug, Default)]
struct Places {
    chunks: Vec<Box<[Place]>>,
    free: Vec<Number>,
}

/// What is known of a connection without asking its task.
#[derive(Default)]
pub(crate) struct Place {
    /// While it is not parked.
    task: Cell<Option<AbortHandle>>,
    standing: Cell<Standing>,
    /// Where it is parked, or the name of its client's socket, which goes on in `generation`.
    place: Cell<u32>,
    generation: Cell<u16>,
    /// Its backend and since when that one was down when it was picked; `BackendCell(u32::MAX)` before there is one.
    backend: Cell<u32>,
    /// Of the milliseconds, as many as fit: they are compared, and not counted from.
    down_since: Cell<u32>,
    /// Tick of the last byte, or of the accept.
    last: Cell<u32>,
    /// Tick at which it was accepted.
    accepted: Cell<u32>,
    /// Of a relay: tick at which one direction ended and the other did not; 0 = not so. Of an exchange: ticks that may pass from
    /// `last` on; 0 = any.
    mark: Cell<u32>,
    limits: Cell<TimeLimits>,
    /// Whether it is asked to park; of an exchange, whether its time is up.
    is_asked: Cell<bool>,
    /// How it ends, when it is ended from outside.
    sentence: Cell<Option<Outcome>>,
}

const _: () = assert!(size_of::<Place>() <= 40);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Standing {
    /// Nobody stands here.
    #[default]
    Vacant,
    /// Accepted, no backend yet.
    Begun,
    /// No backend either before the client has sent something.
    Waiting,
    /// The same without a task; also a connection of HTTP between two requests.
    WaitingParked,
    /// A connection of HTTP between two requests.
    Silent,
    /// A request of HTTP is read, sent or answered. When its time is up, its task is told, since an answer is due.
    Exchanging,
    /// Relaying.
    Relaying,
    /// The same without a task.
    Parked,
}

/// What a connection is to a doorbell that rings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chosen {
    /// Its backend.
    pub(crate) backend: BackendCell,
    /// Since when that backend was down when it was picked nevertheless, see [`since`].
    pub(crate) down_since: Option<u32>,
}

/// As many of the milliseconds of a time as tell it from another change of the same backend.
pub(crate) fn since(ms: u64) -> u32 {
    u32::try_from(ms % u64::from(NEVER)).unwrap_or(0)
}

/// No time at all.
const NEVER: u32 = u32::MAX;

/// No backend yet.
const NOBODY: u32 = u32::MAX;

/// Whether the time of a connection is up, active or parked, and how it ends then. A tick that was noted has not passed when what
/// it is noted for happened, and is whole: one more has to pass.
fn expire(place: &Place, limits: Limits, now: u32) -> Option<Outcome> {
    let is_up = |limit: u32, since: u32| limit > 0 && now.saturating_sub(since) > limit;
    if is_up(limits.total, place.accepted.get()) {
        return Some(Outcome::TotalTimeout);
    }
    match place.standing.get() {
        // Other deadlines hold there.
        Standing::Vacant | Standing::Begun | Standing::Exchanging => return None,
        Standing::Waiting
        | Standing::WaitingParked
        | Standing::Silent
        | Standing::Relaying
        | Standing::Parked => {}
    }
    let last = place.last.get();
    let half_closed = match place.standing.get() {
        Standing::Relaying | Standing::Parked => place.mark.get(),
        _ => 0,
    };
    if half_closed > 0 && is_up(limits.half_closed, last.max(half_closed)) {
        return Some(Outcome::HalfClosedTimeout);
    }
    is_up(limits.idle, last).then_some(Outcome::IdleTimeout)
}

impl Place {
    fn chosen(&self) -> Option<Chosen> {
        let backend = Some(self.backend.get()).filter(|&cell| cell != NOBODY);
        backend.map(|cell| Chosen {
            backend: BackendCell(cell),
            down_since: Some(self.down_since.get()).filter(|&since| since != NEVER),
        })
    }

    fn correct(&self, late: Late) {
        let relay = match self.standing.get() {
            Standing::Exchanging => None,
            _ => Some(&self.mark),
        };
        for noted in [&self.last, &self.accepted].into_iter().chain(relay) {
            if noted.get() == late.stamp {
                noted.set(late.tick);
            }
        }
    }

    fn begin(&self, now: u32, limits: TimeLimits) {
        self.limits.set(limits);
        self.standing.set(Standing::Begun);
        self.backend.set(NOBODY);
        self.down_since.set(NEVER);
        self.last.set(now);
        self.accepted.set(now);
        self.mark.set(0);
        self.is_asked.set(false);
        self.sentence.set(None);
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place")
            .field("standing", &self.standing)
            .finish_non_exhaustive()
    }
}

impl Connections {
    /// None yet, at `now_ms` of the monotonic clock.
    pub(crate) fn new(now_ms: u64) -> Self {
        Self {
            count: Cell::new(0),
            now: Cell::new(tick(now_ms)),
            stamp: Cell::new(tick(now_ms) + 1),
            late: RefCell::default(),
            places: RefCell::default(),
            next: Cell::new(0),
            lot: Lot::new(),
            waiting: Lot::new(),
            none_left: Notify::new(),
            limits: RefCell::default(),
        }
    }

    /// A number for a new connection, which counts from now on.
    pub(crate) fn begin(&self, limits: TimeLimits) -> Number {
        self.count.set(self.count.get() + 1);
        let mut places = self.places.borrow_mut();
        let number = places.vacant();
        places.at(number).begin(self.stamp.get(), limits);
        number
    }

    /// The limits that `spec` sets. Few sets differ; the last of 65,536 stands for whatever more there are.
    pub(crate) fn limits(&self, spec: &TimeoutsSpec) -> TimeLimits {
        let wanted = Limits {
            idle: ticks(spec.idle),
            half_closed: ticks(spec.half_closed),
            total: ticks(spec.total),
        };
        let mut limits = self.limits.borrow_mut();
        let known = limits.iter().position(|limits| *limits == wanted);
        let index = known.unwrap_or_else(|| {
            limits.push(wanted);
            limits.len() - 1
        });
        TimeLimits(u16::try_from(index).unwrap_or(u16::MAX))
    }

    /// A connection waits for its client to send something, and may be idle meanwhile.
    pub(crate) fn waits(&self, number: Number, client: Token) {
        let places = self.places.borrow();
        places.at(number).stand(Standing::Waiting, client);
    }

    /// A connection of HTTP waits for its next request, and is asked to park when it has done so for long enough.
    pub(crate) fn falls_silent(&self, number: Number, client: Token) {
        self.turns(number, Standing::Silent, client, 0);
    }

    /// A connection has become a tunnel to the backend that it has.
    pub(crate) fn relays(&self, number: Number, client: Token) {
        self.turns(number, Standing::Relaying, client, 0);
    }

    fn turns(&self, number: Number, standing: Standing, client: Token, mark: u32) {
        let places = self.places.borrow();
        let place = places.at(number);
        place.stand(standing, client);
        place.mark.set(mark);
        place.is_asked.set(false);
        place.last.set(self.stamp.get());
    }

    /// It does so no longer.
    pub(crate) fn has_waited(&self, number: Number) {
        let places = self.places.borrow();
        let place = places.at(number);
        place.standing.set(Standing::Begun);
        place.last.set(self.stamp.get());
    }

    /// Parks a connection that waits: its task may end.
    ///
    /// # Errors
    /// The connection itself, when its client has done something meanwhile.
    pub(crate) fn park_waiting(&self, number: Number, waiting: Waiting) -> Result<(), Waiting> {
        let spot = self.waiting.park(waiting)?;
        self.parked_at(number, Standing::WaitingParked, spot);
        Ok(())
    }

    /// Makes [`Self::stirred_waiting`] give back all of those who are parked now.
    pub(crate) fn stir_waiting(&self) {
        let places = self.places.borrow();
        let all = places.chunks.iter().flatten();
        all.filter(|place| place.standing.get() == Standing::WaitingParked)
            .for_each(|place| self.waiting.stir(Spot(place.place.get())));
    }

    /// The next of those whose clients have done something, or who have to end.
    pub(crate) async fn stirred_waiting(&self) -> Waiting {
        self.waiting.next().await
    }

    /// The task of a connection.
    pub(crate) fn running(&self, number: Number, task: AbortHandle) {
        self.places.borrow().at(number).task.set(Some(task));
    }

    /// A connection relays to the backend that was chosen from now on. `client` names the client's socket.
    pub(crate) fn relaying(&self, number: Number, client: Token, chosen: Chosen) {
        let places = self.places.borrow();
        let place = places.at(number);
        place.stand(Standing::Relaying, client);
        place.choose(chosen);
        place.mark.set(0);
        place.last.set(self.stamp.get());
    }

    /// A connection carries a request of HTTP from now on, and may do so for `ticks` without [`Self::touch`]; 0 = for ever.
    pub(crate) fn exchanging(&self, number: Number, client: Token, ticks: u32) {
        self.turns(number, Standing::Exchanging, client, ticks);
    }

    /// What may pass from the last [`Self::touch`] on, in ticks; 0 = any time.
    pub(crate) fn may_take(&self, number: Number, ticks: u32) {
        self.places.borrow().at(number).mark.set(ticks);
    }

    /// Whether an exchange has taken longer than it may. Told once.
    pub(crate) fn is_expired(&self, number: Number) -> bool {
        self.places.borrow().at(number).is_asked.replace(false)
    }

    /// An exchange has this backend from now on.
    pub(crate) fn chose(&self, number: Number, chosen: Chosen) {
        self.places.borrow().at(number).choose(chosen);
    }

    /// It has none any more.
    pub(crate) fn let_go(&self, number: Number) {
        let places = self.places.borrow();
        let place = places.at(number);
        place.backend.set(NOBODY);
        place.down_since.set(NEVER);
    }

    /// Other limits for the rest of a connection's life.
    pub(crate) fn limit(&self, number: Number, limits: TimeLimits) {
        self.places.borrow().at(number).limits.set(limits);
    }

    /// A connection has carried bytes.
    pub(crate) fn touch(&self, number: Number) {
        self.places.borrow().at(number).last.set(self.stamp.get());
    }

    /// One of its directions has ended.
    pub(crate) fn half_closed(&self, number: Number) {
        let stamp = self.stamp.get();
        self.places.borrow().at(number).mark.set(stamp);
    }

    /// Whether a sweep has asked it to park, and it has not carried anything since.
    pub(crate) fn may_park(&self, number: Number) -> bool {
        let places = self.places.borrow();
        let place = places.at(number);
        // One that is silent is asked when it has been so for long enough, or must not be any longer: it ends when it is parked.
        let is_silent = place.standing.get() == Standing::Silent;
        place.is_asked.replace(false) && (is_silent || self.is_idle(place))
    }

    fn is_idle(&self, place: &Place) -> bool {
        self.now.get().saturating_sub(place.last.get()) >= IDLE_TICKS
    }

    /// Parks a connection: its task may end.
    ///
    /// # Errors
    /// The connection itself, when one of its peers has done something meanwhile.
    #[expect(
        clippy::result_large_err,
        reason = "it goes back to where it came from, and hardly ever"
    )]
    pub(crate) fn park(&self, number: Number, relaying: Relaying) -> Result<(), Relaying> {
        let spot = self.lot.park(relaying)?;
        self.parked_at(number, Standing::Parked, spot);
        Ok(())
    }

    fn parked_at(&self, number: Number, standing: Standing, spot: Spot) {
        let places = self.places.borrow();
        let place = places.at(number);
        place.standing.set(standing);
        place.place.set(spot.0);
        // The handle would keep the memory of the task.
        drop(place.task.take());
    }

    /// The next parked connection whose peers have done something. It is to get a task at once.
    pub(crate) async fn stirred(&self) -> Relaying {
        self.lot.next().await
    }

    /// A parked connection has a task again.
    pub(crate) fn woken(&self, number: Number, client: Token) {
        let places = self.places.borrow();
        places.at(number).stand(Standing::Relaying, client);
    }

    pub(crate) fn end(&self, number: Number) {
        let task = {
            let mut places = self.places.borrow_mut();
            places.free.push(number);
            let place = places.at(number);
            place.standing.set(Standing::Vacant);
            place.task.take()
        };
        drop(task);
        self.count.set(self.count.get() - 1);
        if self.count.get() == 0 {
            self.none_left.notify_waiters();
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.get()
    }

    /// The tick now.
    pub(crate) fn now(&self) -> u32 {
        self.now.get()
    }

    /// How many of them are parked.
    pub(crate) fn parked(&self) -> usize {
        self.lot.len() + self.waiting.len()
    }

    /// Waits until there are none.
    pub(crate) async fn ended(&self) {
        while self.count.get() > 0 {
            self.none_left.notified().await;
        }
    }

    /// Ends all of them: their futures are dropped at their next turn, parked ones at once.
    pub(crate) fn cut(&self) {
        self.condemn(|_| Some(Outcome::Cut));
    }

    /// Ends those with a backend that `is_lost` names, as lost with it; how many.
    pub(crate) fn lose(&self, is_lost: impl Fn(Chosen) -> bool) -> usize {
        self.condemn(|place| {
            let is_lost = place.chosen().is_some_and(&is_lost);
            is_lost.then_some(Outcome::DownReset)
        })
    }

    /// How this connection has to end, when that was said from outside.
    pub(crate) fn sentence(&self, number: Number) -> Option<Outcome> {
        self.places.borrow().at(number).sentence.get()
    }

    /// Looks at the connections that are due: those whose time is up are ended, idle ones are asked to park. To be called
    /// every [`TICK_MS`].
    pub(crate) fn sweep(&self, now_ms: u64) {
        let now = tick(now_ms);
        self.turn(now);
        let mut idle = Vec::new();
        let mut expired = Vec::new();
        {
            let places = self.places.borrow();
            let limits = self.limits.borrow();
            let late = self.late.borrow();
            let total = places.chunks.len() * CHUNK_LEN;
            let share = total.div_ceil(SWEEPS_A_ROUND).max(SWEEP_MIN).min(total);
            for offset in 0..share {
                let index = (self.next.get() + offset) % total;
                let place = &places.chunks[index / CHUNK_LEN][index % CHUNK_LEN];
                let standing = place.standing.get();
                if standing == Standing::Vacant {
                    continue;
                }
                late.iter().for_each(|late| place.correct(*late));
                if standing == Standing::Exchanging {
                    let mark = place.mark.get();
                    if mark > 0 && now.saturating_sub(place.last.get()) > mark {
                        place.is_asked.set(true);
                        idle.push(place.client());
                    }
                    continue;
                }
                let its = usize::from(place.limits.get().0);
                let its = limits.get(its).copied().unwrap_or_default();
                let outcome = expire(place, its, now);
                if let (Standing::Silent, Some(_)) = (standing, outcome) {
                    place.is_asked.set(true);
                    idle.push(place.client());
                } else if let Some(outcome) = outcome {
                    expired.extend(place.condemn(outcome));
                } else if matches!(
                    standing,
                    Standing::Relaying | Standing::Waiting | Standing::Silent
                ) && self.is_idle(place)
                {
                    place.is_asked.set(true);
                    idle.push(place.client());
                }
            }
            if total > 0 {
                self.next.set((self.next.get() + share) % total);
            }
        }
        idle.into_iter().for_each(driver::nudge);
        self.execute(expired);
    }

    /// The clock is at `now`.
    fn turn(&self, now: u32) {
        let stamp = self.stamp.get();
        let mut late = self.late.borrow_mut();
        late.retain_mut(|late| {
            late.sweeps -= 1;
            late.sweeps > 0
        });
        if stamp < now {
            late.push(Late {
                stamp,
                tick: now,
                // Twice as many, since there may be more places meanwhile.
                sweeps: 2 * SWEEPS_A_ROUND,
            });
        }
        self.now.set(now);
        self.stamp.set(now + 1);
    }

    /// Ends those that `outcome` has one for; how many had none before.
    fn condemn(&self, outcome: impl Fn(&Place) -> Option<Outcome>) -> usize {
        let condemned: Vec<_> = {
            let places = self.places.borrow();
            let all = places.chunks.iter().flatten();
            let standing = all.filter(|place| place.standing.get() != Standing::Vacant);
            standing
                .filter_map(|place| place.condemn(outcome(place)?))
                .collect()
        };
        let count = condemned.len();
        self.execute(condemned);
        count
    }

    /// Nothing may be borrowed: dropping a connection calls back.
    fn execute(&self, condemned: Vec<Condemned>) {
        for condemned in condemned {
            match condemned {
                Condemned::Task(task) => task.abort(),
                Condemned::Parked(spot) => drop(self.lot.take(spot)),
                // What is kept of it cannot close its books; whoever it is given back to does.
                Condemned::WaitingParked(spot) => self.waiting.stir(spot),
            }
        }
    }
}

/// So much time in ticks, rounded up; none is 0, which is for ever.
pub(crate) fn ticks(limit: Option<std::time::Duration>) -> u32 {
    let ms = limit.map_or(0, |limit| limit.as_millis());
    u32::try_from(ms.div_ceil(u128::from(TICK_MS))).unwrap_or(u32::MAX)
}

/// Wraps after 13 years of uptime of the host.
fn tick(now_ms: u64) -> u32 {
    u32::try_from((now_ms / TICK_MS) & u64::from(u32::MAX)).unwrap_or(0)
}

/// One that has to end.
enum Condemned {
    Task(AbortHandle),
    Parked(Spot),
    WaitingParked(Spot),
}

impl Place {
    fn stand(&self, standing: Standing, client: Token) {
        let (key, generation) = client.split();
        self.standing.set(standing);
        self.place.set(key);
        self.generation.set(generation);
    }

    fn choose(&self, chosen: Chosen) {
        self.backend.set(chosen.backend.0);
        self.down_since.set(chosen.down_since.unwrap_or(NEVER));
    }

    fn client(&self) -> Token {
        Token::join(self.place.get(), self.generation.get())
    }

    /// None when it is ending already.
    fn condemn(&self, outcome: Outcome) -> Option<Condemned> {
        if self.sentence.get().is_some() {
            return None;
        }
        let condemned = match self.standing.get() {
            Standing::Vacant => return None,
            Standing::Parked => Condemned::Parked(Spot(self.place.get())),
            Standing::WaitingParked => Condemned::WaitingParked(Spot(self.place.get())),
            Standing::Begun
            | Standing::Waiting
            | Standing::Silent
            | Standing::Exchanging
            | Standing::Relaying => {
                let task = self.task.take();
                self.task.set(task.clone());
                Condemned::Task(task?)
            }
        };
        self.sentence.set(Some(outcome));
        Some(condemned)
    }
}

impl Places {
    fn vacant(&mut self) -> Number {
        if let Some(number) = self.free.pop() {
            return number;
        }
        let first = u32::try_from(self.chunks.len() * CHUNK_LEN).unwrap_or(u32::MAX);
        self.chunks
            .push((0..CHUNK_LEN).map(|_| Place::default()).collect());
        let more = (first..).take(CHUNK_LEN).map(Number);
        self.free.extend(more);
        // The lowest first, so that a sweep over few finds them together.
        self.free.reverse();
        self.free.pop().unwrap_or(Number(first))
    }

    fn at(&self, number: Number) -> &Place {
        let index = number.0 as usize;
        &self.chunks[index / CHUNK_LEN][index % CHUNK_LEN]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::task::{LocalSet, spawn_local};

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_sweep_that_comes_late_ends_nobody_too_early() {
        let local = LocalSet::new();
        let test = local.run_until(async {
            let connections = Connections::new(10_090);
            let limits = connections.limits(&TimeoutsSpec {
                total: Some(Duration::from_millis(300)),
                ..TimeoutsSpec::default()
            });
            connections.sweep(10_090);
            let number = connections.begin(limits);
            let task = spawn_local(std::future::pending::<()>());
            connections.running(number, task.abort_handle());
            // It may have begun right before this one.
            connections.sweep(10_290);
            for now_ms in [10_390, 10_490, 10_590] {
                connections.sweep(now_ms);
                assert_eq!(connections.sentence(number), None, "at {now_ms} ms");
            }
            connections.sweep(10_690);
            assert_eq!(connections.sentence(number), Some(Outcome::TotalTimeout));
        });
        test.await;
    }
}
