//! The cells outside the rows, and the scoreboard as a whole.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use evenkeel_plan::{BackendCell, ListenerCell, ServiceCell, SlotIdx};
use evenkeel_sys::cells::SharedCells;

use crate::latency::{Histogram, Latency};
use crate::layout::{
    AttachError, BACKEND_CELLS, Capacities, LAYOUT_VERSION, LISTENER_CELLS, Layout, MAGIC,
    ROWS_A_SLOT, SERVICE_CELLS, SLOT_CELLS, SOURCE_WAYS, source_sets,
};
use crate::rates::{RateCell, SourceSet};
use crate::rows::{BackendCount, Clear as _, ListenerCount, Row, ServiceCount, WorkerCount};

/// The mapped scoreboard. Copies refer to the same memory, which stays mapped for the life of the process.
#[derive(Clone, Copy, Debug)]
pub struct Scoreboard {
    cells: &'static [AtomicU64],
    layout: Layout,
}

/// Cells of the daemon as a whole. Writer: the supervisor, but for those that name the monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum GlobalCount {
    /// Generation that every pick uses. See [`Scoreboard::generation`].
    Generation = 0,
    /// Highest slot ever used, plus one: readers look at no row beyond.
    SlotsUsed = 1,
    /// Workers that are wanted now.
    Workers = 2,
    /// Monotonic ms of the supervisor's last turn.
    SupervisorBeat = 3,
    /// Monotonic ms of the monitor's last turn. Writer: the monitor.
    MonitorBeat = 4,
    /// Total: monitor processes started.
    MonitorIncarnation = 5,
    /// Process id of the monitor, 0 = none.
    MonitorPid = 6,
    /// Total: reloads that were switched to.
    ReloadsApplied = 7,
    /// Total: reloads that were refused.
    ReloadsRefused = 8,
    /// Unix seconds of the last reload, applied or refused; 0 = none yet.
    LastReload = 9,
    /// 1 when the last reload was applied, 0 when it was refused.
    LastReloadApplied = 10,
    /// Unix seconds of the supervisor's start.
    Started = 11,
    /// Limit on descriptors in force.
    DescriptorLimit = 12,
    /// Total: log lines that the supervisor and the monitor dropped because the channel was full. Writer: each adds its
    /// own by atomic addition.
    LogDropped = 13,
    /// 1 while the daemon is ready (not starting, not stopping).
    Ready = 14,
    /// Total: look-ups of names that failed. Writer: the monitor.
    ResolveFailures = 15,
    /// Total: look-ups of names. Writer: the monitor.
    Resolves = 16,
    /// Total: log lines that could not be written to standard error (nobody reads, no room). Writer: the monitor.
    LogUnwritten = 17,
    /// Total: lines of the access log that could not be written. Writer: the monitor.
    AccessLogUnwritten = 18,
}

/// What a slot is doing. Writer: the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// No worker and none wanted.
    Empty,
    /// A worker was started and is not ready yet.
    Starting,
    /// Its worker takes new connections.
    Live,
    /// Its worker's heartbeat is late; new connections go elsewhere.
    Late,
    /// No worker until its back-off has passed; a neighbour accepts its queue.
    BackingOff,
    /// Being retired: no new connections, a neighbour accepts what is queued.
    Retiring,
}

impl SlotState {
    /// All states, in the order of their codes.
    pub const ALL: [Self; 6] = [
        Self::Empty,
        Self::Starting,
        Self::Live,
        Self::Late,
        Self::BackingOff,
        Self::Retiring,
    ];

    /// The word for `status`, logs and metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Starting => "starting",
            Self::Live => "live",
            Self::Late => "late",
            Self::BackingOff => "backing-off",
            Self::Retiring => "retiring",
        }
    }
}

/// The cells of a slot.
#[derive(Clone, Copy, Debug)]
pub struct SlotCells {
    cells: &'static [AtomicU64],
}

impl SlotCells {
    /// Writer: the slot's worker, every 100 ms. Unit: ms of the monotonic clock.
    pub fn beat(&self, now_ms: u64) {
        self.cells[0].store(now_ms, Relaxed);
    }

    /// Time of the last heartbeat; the supervisor sets it to the time of the spawn.
    #[must_use]
    pub fn last_beat(&self) -> u64 {
        self.cells[0].load(Relaxed)
    }

    /// Writer: the supervisor, before the worker is spawned.
    pub fn set_incarnation(&self, incarnation: u64) {
        self.cells[1].store(incarnation, Relaxed);
    }

    /// Workers started in this slot so far.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.cells[1].load(Relaxed)
    }

    /// Writer: the supervisor. 0 = no process.
    pub fn set_pid(&self, pid: u32) {
        self.cells[2].store(u64::from(pid), Relaxed);
    }

    /// Process id of the worker, 0 = none.
    #[must_use]
    pub fn pid(&self) -> u64 {
        self.cells[2].load(Relaxed)
    }

    /// Writer: the supervisor.
    pub fn set_state(&self, state: SlotState) {
        self.cells[3].store(state as u64, Relaxed);
    }

    /// State of the slot; one that does not decode is `Empty`.
    #[must_use]
    pub fn state(&self) -> SlotState {
        let code = usize::try_from(self.cells[3].load(Relaxed)).unwrap_or(usize::MAX);
        SlotState::ALL
            .get(code)
            .copied()
            .unwrap_or(SlotState::Empty)
    }

    /// Writer: the slot's worker, after it has switched.
    pub fn set_generation(&self, generation: u64) {
        self.cells[4].store(generation, Relaxed);
    }

    /// Generation that the worker last switched to.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.cells[4].load(Relaxed)
    }

    /// Writer: the supervisor. Total of workers that ended without being asked to.
    pub fn add_crash(&self) {
        self.cells[5].fetch_add(1, Relaxed);
    }

    /// Workers of this slot that ended without being asked to.
    #[must_use]
    pub fn crashes(&self) -> u64 {
        self.cells[5].load(Relaxed)
    }
}

/// A service's scheduler state: one word, moved by compare-and-swap by all workers, which makes a scheduler exact over all
/// of them. What the bits mean is the scheduler's business.
#[derive(Clone, Copy, Debug)]
pub struct SchedulerCell {
    cell: &'static AtomicU64,
}

impl SchedulerCell {
    /// The state now.
    #[inline]
    #[must_use]
    pub fn load(&self) -> u64 {
        self.cell.load(Relaxed)
    }

    /// Sets the state to `new` if it still is `current`.
    ///
    /// # Errors
    /// The state now, when it is another one. May fail spuriously.
    #[inline]
    pub fn swap(&self, current: u64, new: u64) -> Result<(), u64> {
        self.cell
            .compare_exchange_weak(current, new, Relaxed, Relaxed)
            .map(drop)
    }
}

/// Result of health checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HealthState {
    /// Not known yet: used only while nothing is known to be up.
    Starting,
    /// Passes its checks.
    Up,
    /// Fails its checks.
    Down,
    /// Has no checks: counts as up.
    Unchecked,
    /// Says of itself that it takes no new work (maintenance mode, an agent): no new connections, what runs goes on.
    Drain,
    /// Says of itself that it is not to be used (an agent): like `Down`, but nothing is wrong.
    Maint,
}

impl HealthState {
    /// All states, in the order of their codes.
    pub const ALL: [Self; 6] = [
        Self::Starting,
        Self::Up,
        Self::Down,
        Self::Unchecked,
        Self::Drain,
        Self::Maint,
    ];

    /// The word for `status`, logs and metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Down => "down",
            Self::Unchecked => "unchecked",
            Self::Drain => "drain",
            Self::Maint => "maint",
        }
    }

    /// Whether it counts as healthy for a service's policy.
    #[must_use]
    pub fn is_healthy(self) -> bool {
        match self {
            Self::Up | Self::Unchecked => true,
            Self::Starting | Self::Down | Self::Drain | Self::Maint => false,
        }
    }
}

/// Whether a service serves at all: its policy, decided once for all workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateState {
    /// It serves.
    Open,
    /// Too few of its backends are healthy: connections go to its sorry service, or are reset at once.
    Closed,
    /// So few are healthy that the checks themselves are doubted: every enabled backend is used, healthy or not.
    Panic,
}

impl GateState {
    /// All states, in the order of their codes.
    pub const ALL: [Self; 3] = [Self::Open, Self::Closed, Self::Panic];

    /// The word for `status`, logs and metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
            Self::Panic => "panic",
        }
    }
}

/// A service's gate and since when, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// The state.
    pub state: GateState,
    /// Monotonic ms of the last change.
    pub since_ms: u64,
}

/// The shared cells of a service beside its scheduler's state.
#[derive(Clone, Copy, Debug)]
pub struct ServiceCells {
    cells: &'static [AtomicU64],
}

impl ServiceCells {
    /// Writer: the monitor; before the first plan names the cell, the supervisor. One store: one instant for all workers.
    /// Ordering: release.
    pub fn set_gate(&self, gate: Gate) {
        self.cells[1].store(gate.since_ms << 8 | gate.state as u64, Release);
    }

    /// The gate; one that does not decode is closed. Ordering: acquire.
    #[inline]
    #[must_use]
    pub fn gate(&self) -> Gate {
        let bits = self.cells[1].load(Acquire);
        let code = usize::try_from(bits & 0xff).unwrap_or(usize::MAX);
        Gate {
            state: GateState::ALL
                .get(code)
                .copied()
                .unwrap_or(GateState::Closed),
            since_ms: bits >> 8,
        }
    }

    /// Writer: the monitor. Counts one change of the gate.
    pub fn count_gate_change(&self) {
        let cell = &self.cells[2];
        cell.store(cell.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// Total: changes of the gate.
    #[must_use]
    pub fn gate_changes(&self) -> u64 {
        self.cells[2].load(Relaxed)
    }

    /// Writers: the supervisor, after it has changed the admin state or weight of a backend of this service, and the monitor, after
    /// it has changed an agent's percentage; an atomic addition. What workers derived from weights is to be derived again.
    /// Ordering: release.
    pub fn raise_epoch(&self) {
        self.cells[3].fetch_add(1, Release);
    }

    /// A ticket for one that begins to wait for a backend that is full: rises by one with each, over all workers. Writers: the
    /// workers, by atomic addition.
    #[must_use]
    pub fn take_ticket(&self) -> u64 {
        self.cells[4].fetch_add(1, Relaxed)
    }

    /// Rises with every change of an admin state, weight or agent's percentage. Ordering: acquire.
    #[inline]
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.cells[3].load(Acquire)
    }
}

/// A backend's verdict and since when, in one word, so that the two never tear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The state.
    pub state: HealthState,
    /// Monotonic ms of the last change of state.
    pub since_ms: u64,
}

impl Verdict {
    fn to_bits(self) -> u64 {
        self.since_ms << 8 | self.state as u64
    }

    fn from_bits(bits: u64) -> Self {
        let code = usize::try_from(bits & 0xff).unwrap_or(usize::MAX);
        let known = HealthState::ALL.get(code).copied();
        Self {
            state: known.unwrap_or(HealthState::Starting),
            since_ms: bits >> 8,
        }
    }
}

/// What an operator has said of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminState {
    /// May be used. The default.
    Enabled,
    /// No new connections; what runs goes on.
    Drain,
    /// Not used at all.
    Disabled,
}

/// An operator's word on a backend, in one cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admin {
    /// The state.
    pub state: AdminState,
    /// A weight that overrides the plan's.
    pub weight: Option<u16>,
}

impl Admin {
    fn to_bits(self) -> u64 {
        let weight = self.weight.map_or(0, |weight| u64::from(weight) + 1);
        weight << 8 | self.state as u64
    }

    fn from_bits(bits: u64) -> Self {
        Self {
            state: match bits & 0xff {
                1 => AdminState::Drain,
                2 => AdminState::Disabled,
                _ => AdminState::Enabled,
            },
            weight: (bits >> 8)
                .checked_sub(1)
                .and_then(|weight| u16::try_from(weight).ok()),
        }
    }
}

/// The shared cells of a backend.
#[derive(Clone, Copy, Debug)]
pub struct BackendCells {
    cells: &'static [AtomicU64],
}

impl BackendCells {
    /// Writer: the monitor; before the first plan names the cell, the supervisor. Readers: all. Ordering: release.
    pub fn set_verdict(&self, verdict: Verdict) {
        self.cells[0].store(verdict.to_bits(), Release);
    }

    /// The verdict. Ordering: acquire.
    #[inline]
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        Verdict::from_bits(self.cells[0].load(Acquire))
    }

    /// Writer: the supervisor.
    pub fn set_admin(&self, admin: Admin) {
        self.cells[1].store(admin.to_bits(), Release);
    }

    /// What an operator has said.
    #[inline]
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin::from_bits(self.cells[1].load(Acquire))
    }

    /// Writer: the monitor. The share of its weight that the backend's agent asks for, in percent; `None` = all of it. To be
    /// followed by [`ServiceCells::raise_epoch`]. Ordering: release.
    pub fn set_agent_percent(&self, percent: Option<u16>) {
        self.cells[6].store(percent.map_or(0, |percent| u64::from(percent) + 1), Release);
    }

    /// The share of its weight that the backend's agent asks for, in percent. Ordering: acquire.
    #[inline]
    #[must_use]
    pub fn agent_percent(&self) -> Option<u16> {
        let bits = self.cells[6].load(Acquire).checked_sub(1)?;
        u16::try_from(bits).ok()
    }

    /// Writer: the monitor. The most connections that the backend's agent asks for; `None` = it says nothing of that.
    /// Ordering: release.
    pub fn set_agent_limit(&self, limit: Option<u32>) {
        self.cells[7].store(limit.map_or(0, |limit| u64::from(limit) + 1), Release);
    }

    /// The most connections that the backend's agent asks for. Ordering: acquire.
    #[inline]
    #[must_use]
    pub fn agent_limit(&self) -> Option<u32> {
        let bits = self.cells[7].load(Acquire).checked_sub(1)?;
        u32::try_from(bits).ok()
    }

    /// Writer: the monitor. Counts one finished check.
    pub fn count_check(&self, passed: bool, duration_us: u64) {
        let add = |index: usize| {
            let cell: &AtomicU64 = &self.cells[index];
            cell.store(cell.load(Relaxed).wrapping_add(1), Relaxed);
        };
        add(2);
        if !passed {
            add(3);
        }
        self.cells[4].store(duration_us, Relaxed);
    }

    /// Writer: the monitor. Counts one change of state.
    pub fn count_transition(&self) {
        let cell = &self.cells[5];
        cell.store(cell.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// Total: checks finished.
    #[must_use]
    pub fn checks(&self) -> u64 {
        self.cells[2].load(Relaxed)
    }

    /// Total: checks failed.
    #[must_use]
    pub fn check_failures(&self) -> u64 {
        self.cells[3].load(Relaxed)
    }

    /// Microseconds that the last check took.
    #[must_use]
    pub fn check_duration_us(&self) -> u64 {
        self.cells[4].load(Relaxed)
    }

    /// Total: changes of state.
    #[must_use]
    pub fn transitions(&self) -> u64 {
        self.cells[5].load(Relaxed)
    }
}

impl Scoreboard {
    /// Makes a scoreboard for `capacities`, all zero but the header. The descriptor is for handing on.
    ///
    /// # Errors
    /// [`AttachError::Map`] when there is no memory or descriptor for it.
    pub fn create(capacities: Capacities) -> Result<(Self, OwnedFd), AttachError> {
        let layout = Layout::new(capacities);
        let (cells, fd) =
            SharedCells::create("evenkeel-scoreboard", layout.total).map_err(AttachError::Map)?;
        let cells = cells.as_slice();
        cells[1].store(LAYOUT_VERSION, Relaxed);
        cells[2].store(u64::from(capacities.slots), Relaxed);
        cells[3].store(u64::from(capacities.services), Relaxed);
        cells[4].store(u64::from(capacities.listeners), Relaxed);
        cells[5].store(u64::from(capacities.backends), Relaxed);
        cells[6].store(u64::from(capacities.sources), Relaxed);
        cells[0].store(MAGIC, Release);
        Ok((Self { cells, layout }, fd))
    }

    /// Attaches to the scoreboard behind `fd`.
    ///
    /// # Errors
    /// [`AttachError`] when it is not one of this version and of exactly the size that its header says.
    pub fn attach(fd: BorrowedFd<'_>) -> Result<Self, AttachError> {
        let cells = SharedCells::map(fd).map_err(AttachError::Map)?.as_slice();
        if cells.len() < crate::layout::HEADER_CELLS || cells[0].load(Acquire) != MAGIC {
            return Err(AttachError::Magic);
        }
        let found = cells[1].load(Relaxed);
        if found != LAYOUT_VERSION {
            return Err(AttachError::Version { found });
        }
        let narrow = |index: usize| u32::try_from(cells[index].load(Relaxed));
        let decode = || -> Result<Capacities, std::num::TryFromIntError> {
            Ok(Capacities {
                slots: u16::try_from(narrow(2)?)?,
                services: narrow(3)?,
                listeners: narrow(4)?,
                backends: narrow(5)?,
                sources: narrow(6)?,
            })
        };
        let layout = Layout::new(decode().map_err(|_| AttachError::Size)?);
        if layout.total != cells.len() {
            return Err(AttachError::Size);
        }
        Ok(Self { cells, layout })
    }

    /// How many of each there is room for.
    #[must_use]
    pub fn capacities(&self) -> Capacities {
        self.layout.capacities
    }

    /// Switches every worker to `generation` at this instant. Writer: the supervisor. Ordering: release, so that whoever
    /// sees it also sees the scheduler states that were carried over before.
    pub fn switch_generation(&self, generation: u64) {
        self.global(GlobalCount::Generation)
            .store(generation, Release);
    }

    /// The generation that a pick must use. Ordering: acquire.
    #[inline]
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.global(GlobalCount::Generation).load(Acquire)
    }

    /// A cell of the daemon as a whole, for reading.
    #[must_use]
    pub fn get(&self, count: GlobalCount) -> u64 {
        self.global(count).load(Relaxed)
    }

    /// Sets a cell of the daemon as a whole. Writer: see [`GlobalCount`].
    pub fn set(&self, count: GlobalCount, value: u64) {
        self.global(count).store(value, Relaxed);
    }

    /// Adds to a cell of the daemon as a whole, atomically.
    pub fn add(&self, count: GlobalCount, delta: u64) {
        self.global(count).fetch_add(delta, Relaxed);
    }

    #[inline]
    fn global(&self, count: GlobalCount) -> &'static AtomicU64 {
        &self.cells[self.layout.globals + count as usize]
    }

    /// The cells of a slot.
    ///
    /// # Panics
    /// When `slot` is beyond the capacity.
    #[must_use]
    pub fn slot(&self, slot: SlotIdx) -> SlotCells {
        assert!(slot.0 < self.layout.capacities.slots);
        let at = self.layout.slots + usize::from(slot.0) * SLOT_CELLS;
        SlotCells {
            cells: &self.cells[at..at + SLOT_CELLS],
        }
    }

    /// The scheduler's state of a service.
    ///
    /// # Panics
    /// When `service` is beyond the capacity.
    #[must_use]
    pub fn scheduler(&self, service: ServiceCell) -> SchedulerCell {
        assert!(service.0 < self.layout.capacities.services);
        SchedulerCell {
            cell: &self.cells[self.layout.services + service.0 as usize * SERVICE_CELLS],
        }
    }

    /// The other shared cells of a service.
    ///
    /// # Panics
    /// When `service` is beyond the capacity.
    #[must_use]
    pub fn service(&self, service: ServiceCell) -> ServiceCells {
        assert!(service.0 < self.layout.capacities.services);
        let at = self.layout.services + service.0 as usize * SERVICE_CELLS;
        ServiceCells {
            cells: &self.cells[at..at + SERVICE_CELLS],
        }
    }

    /// Sets the scheduler's state, whatever it was. Writer: the supervisor, for a service that is new.
    ///
    /// # Panics
    /// When `service` is beyond the capacity.
    pub fn set_scheduler(&self, service: ServiceCell, bits: u64) {
        let cell = self.scheduler(service).cell;
        // Acquire and release: whatever a worker stored before is overwritten, not merged.
        cell.swap(bits, AcqRel);
    }

    /// The shared cells of a backend.
    ///
    /// # Panics
    /// When `backend` is beyond the capacity.
    #[must_use]
    pub fn backend(&self, backend: BackendCell) -> BackendCells {
        assert!(backend.0 < self.layout.capacities.backends);
        let at = self.layout.backends + backend.0 as usize * BACKEND_CELLS;
        BackendCells {
            cells: &self.cells[at..at + BACKEND_CELLS],
        }
    }

    /// The row of `slot`. `parity` is 0 but across an upgrade.
    ///
    /// # Panics
    /// When `slot` is beyond the capacity or `parity` is not 0 or 1.
    #[must_use]
    pub fn row(&self, slot: SlotIdx, parity: u8) -> Row {
        assert!(slot.0 < self.layout.capacities.slots && usize::from(parity) < ROWS_A_SLOT);
        let index = usize::from(slot.0) * ROWS_A_SLOT + usize::from(parity);
        let at = self.layout.rows + index * self.layout.row_stride;
        Row::new(&self.cells[at..at + self.layout.row_stride], self.layout)
    }

    /// Rows of every slot that was ever used; others are not touched, since reading a page allocates it.
    pub fn rows(&self) -> impl Iterator<Item = Row> + use<> {
        let board = *self;
        (0..self.slots_used())
            .flat_map(move |slot| [board.row(SlotIdx(slot), 0), board.row(SlotIdx(slot), 1)])
    }

    fn slots_used(&self) -> u16 {
        let used = self.get(GlobalCount::SlotsUsed);
        u16::try_from(used).map_or(self.layout.capacities.slots, |used| {
            used.min(self.layout.capacities.slots)
        })
    }

    /// Sum over all rows of a worker's cell.
    #[must_use]
    pub fn sum_workers(&self, count: WorkerCount) -> u64 {
        self.rows().map(|row| row.worker().get(count)).sum()
    }

    /// Sum over all rows of a listener's cell.
    #[must_use]
    pub fn sum_listener(&self, cell: ListenerCell, count: ListenerCount) -> u64 {
        self.rows().map(|row| row.listener(cell).get(count)).sum()
    }

    /// Sum over all rows of a service's cell.
    #[must_use]
    pub fn sum_service(&self, cell: ServiceCell, count: ServiceCount) -> u64 {
        self.rows().map(|row| row.service(cell).get(count)).sum()
    }

    /// Sum over all rows of a backend's cell.
    #[must_use]
    pub fn sum_backend(&self, cell: BackendCell, count: BackendCount) -> u64 {
        self.rows().map(|row| row.backend(cell).get(count)).sum()
    }

    /// Sum over all rows of a listener's gauge, in one order with every [`crate::ListenerRow::raise`].
    #[must_use]
    pub fn strict_listener(&self, cell: ListenerCell, count: ListenerCount) -> u64 {
        let rows = self.rows();
        rows.map(|row| row.listener(cell).strict(count)).sum()
    }

    /// Sum over all rows of a service's gauge, in one order with every [`crate::ServiceRow::raise`].
    #[must_use]
    pub fn strict_service(&self, cell: ServiceCell, count: ServiceCount) -> u64 {
        let rows = self.rows();
        rows.map(|row| row.service(cell).strict(count)).sum()
    }

    /// Sum over all rows of a backend's gauge, in one order with every [`crate::BackendRow::raise`].
    #[must_use]
    pub fn strict_backend(&self, cell: BackendCell, count: BackendCount) -> u64 {
        let rows = self.rows();
        rows.map(|row| row.backend(cell).strict(count)).sum()
    }

    /// The ticket of the one that has waited longest, for each worker in which somebody waits ([`ServiceCells::take_ticket`]).
    pub fn service_tickets(
        &self,
        cell: ServiceCell,
    ) -> impl Iterator<Item = (u64, SlotIdx)> + use<> {
        let board = *self;
        (0..self.slots_used()).flat_map(move |slot| {
            (0..2).filter_map(move |parity| {
                let row = board.row(SlotIdx(slot), parity).service(cell);
                let ticket = row.get(ServiceCount::OldestTicket).checked_sub(1)?;
                Some((ticket, SlotIdx(slot)))
            })
        })
    }

    /// Sum over all rows of a service's latencies of one kind.
    #[must_use]
    pub fn sum_latency(&self, cell: ServiceCell, latency: Latency) -> Histogram {
        let mut sum = Histogram::default();
        self.rows()
            .for_each(|row| row.latencies(cell).add_to(latency, &mut sum));
        sum
    }

    /// The rate of a listener over all sources.
    ///
    /// # Panics
    /// When `listener` is beyond the capacity.
    #[must_use]
    pub fn rate(&self, listener: ListenerCell) -> RateCell {
        assert!(listener.0 < self.layout.capacities.listeners);
        RateCell {
            cell: &self.cells[self.layout.listeners + listener.0 as usize * LISTENER_CELLS],
        }
    }

    /// The set in which the rate of a source with this hash is kept.
    #[must_use]
    pub fn sources(&self, hash: u64) -> SourceSet {
        let sets = source_sets(self.layout.capacities) as u64;
        // The high half of the product spreads evenly over any number of sets (Lemire, "fast alternative to modulo").
        let set = usize::try_from((u128::from(hash) * u128::from(sets)) >> 64).unwrap_or(0);
        let at = self.layout.sources + set * SOURCE_WAYS;
        SourceSet {
            cells: &self.cells[at..at + SOURCE_WAYS],
        }
    }

    /// Zeroes a service's cells everywhere. Only for a cell that no plan names and no worker holds.
    pub fn clear_service(&self, cell: ServiceCell) {
        self.set_scheduler(cell, 0);
        for shared in &self.service(cell).cells[1..] {
            shared.store(0, Relaxed);
        }
        self.rows().for_each(|row| {
            row.service(cell).clear();
            row.latencies(cell).clear();
        });
    }

    /// Zeroes a listener's cells everywhere. Only for a cell that no plan names and no worker holds.
    pub fn clear_listener(&self, cell: ListenerCell) {
        let rate = self.rate(cell).cell;
        rate.store(0, Relaxed);
        self.rows().for_each(|row| row.listener(cell).clear());
    }

    /// Zeroes a backend's cells everywhere. Only for a cell that no plan names and no worker holds.
    pub fn clear_backend(&self, cell: BackendCell) {
        for shared in self.backend(cell).cells {
            shared.store(0, Relaxed);
        }
        self.rows().for_each(|row| row.backend(cell).clear());
    }

    /// Settles the row of a worker that has died: connections that it had accepted and not ended count as failed, and so do
    /// requests that it had begun and not ended; gauges go to 0. Writer: the supervisor, between reap and spawn. Returns how
    /// many connections died with it.
    pub fn settle(
        &self,
        slot: SlotIdx,
        parity: u8,
        services: impl IntoIterator<Item = ServiceCell>,
        listeners: impl IntoIterator<Item = ListenerCell>,
        backends: impl IntoIterator<Item = BackendCell>,
    ) -> u64 {
        let row = self.row(slot, parity);
        let mut died = 0;
        for cell in services {
            let service = row.service(cell);
            let ended = ServiceCount::FAILURES
                .iter()
                .fold(service.get(ServiceCount::Relayed), |sum, &count| {
                    sum + service.get(count)
                });
            // Derived from totals and not from the gauge: the worker may have died between the two stores.
            let open = service.get(ServiceCount::Accepted).saturating_sub(ended);
            service.add(ServiceCount::WorkerDied, open);
            service.set(ServiceCount::Active, 0);
            service.set(ServiceCount::Queued, 0);
            service.set(ServiceCount::OldestTicket, 0);
            // From the gauge: totals do not tell how many have ended, since a failure may have had an answer of ours or none.
            // It may be one too many or too few, where the worker died between two stores.
            let requests = service.get(ServiceCount::ActiveRequests);
            service.add(ServiceCount::RequestWorkerDied, requests);
            service.set(ServiceCount::ActiveRequests, 0);
            died += open;
        }
        for cell in listeners {
            row.listener(cell).set(ListenerCount::Active, 0);
            row.listener(cell).set(ListenerCount::Requests, 0);
        }
        for cell in backends {
            row.backend(cell).set(BackendCount::Active, 0);
            row.backend(cell).set(BackendCount::Idle, 0);
        }
        row.worker().set(WorkerCount::Active, 0);
        row.worker().set(WorkerCount::BufferBytes, 0);
        row.worker().set(WorkerCount::Parked, 0);
        died
    }
}

impl From<AttachError> for io::Error {
    fn from(error: AttachError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    const CAPACITIES: Capacities = Capacities {
        slots: 4,
        services: 3,
        listeners: 5,
        backends: 7,
        sources: 8,
    };

    #[test]
    fn every_cell_is_its_own() {
        let (board, fd) = Scoreboard::create(CAPACITIES).unwrap();
        let other = Scoreboard::attach(fd.as_fd()).unwrap();
        board.set(GlobalCount::SlotsUsed, 4);
        let mut value = 1;
        for slot in 0..4 {
            for parity in 0..2 {
                let row = board.row(SlotIdx(slot), parity);
                for &count in WorkerCount::ALL {
                    row.worker().set(count, value);
                    value += 1;
                }
                for cell in 0..5 {
                    for &count in ListenerCount::ALL {
                        row.listener(ListenerCell(cell)).set(count, value);
                        value += 1;
                    }
                }
                for cell in 0..3 {
                    for &count in ServiceCount::ALL {
                        row.service(ServiceCell(cell)).set(count, value);
                        value += 1;
                    }
                }
                for cell in 0..7 {
                    for &count in BackendCount::ALL {
                        row.backend(BackendCell(cell)).set(count, value);
                        value += 1;
                    }
                }
            }
        }
        let mut expected = 1;
        for slot in 0..4 {
            for parity in 0..2 {
                let row = other.row(SlotIdx(slot), parity);
                for &count in WorkerCount::ALL {
                    assert_eq!(row.worker().get(count), expected);
                    expected += 1;
                }
                for cell in 0..5 {
                    for &count in ListenerCount::ALL {
                        assert_eq!(row.listener(ListenerCell(cell)).get(count), expected);
                        expected += 1;
                    }
                }
                for cell in 0..3 {
                    for &count in ServiceCount::ALL {
                        assert_eq!(row.service(ServiceCell(cell)).get(count), expected);
                        expected += 1;
                    }
                }
                for cell in 0..7 {
                    for &count in BackendCount::ALL {
                        assert_eq!(row.backend(BackendCell(cell)).get(count), expected);
                        expected += 1;
                    }
                }
            }
        }
        assert_eq!(board.get(GlobalCount::SlotsUsed), 4);
    }

    #[test]
    fn a_foreign_or_newer_scoreboard_is_refused() {
        let (board, fd) = Scoreboard::create(CAPACITIES).unwrap();
        board.cells[1].store(LAYOUT_VERSION + 1, Relaxed);
        assert!(matches!(
            Scoreboard::attach(fd.as_fd()),
            Err(AttachError::Version { .. })
        ));
        board.cells[1].store(LAYOUT_VERSION, Relaxed);
        board.cells[5].store(8000, Relaxed);
        assert!(matches!(
            Scoreboard::attach(fd.as_fd()),
            Err(AttachError::Size)
        ));
        board.cells[0].store(0, Relaxed);
        assert!(matches!(
            Scoreboard::attach(fd.as_fd()),
            Err(AttachError::Magic)
        ));
    }

    #[test]
    fn settling_a_dead_workers_row_balances_its_books_and_keeps_its_totals() {
        let (board, _fd) = Scoreboard::create(CAPACITIES).unwrap();
        board.set(GlobalCount::SlotsUsed, 1);
        let row = board.row(SlotIdx(0), 0);
        let service = row.service(ServiceCell(1));
        // Ten accepted, six relayed, one failed; killed before the gauge was raised for the last.
        service.set(ServiceCount::Accepted, 10);
        service.set(ServiceCount::Relayed, 6);
        service.set(ServiceCount::NoBackend, 1);
        service.set(ServiceCount::Active, 2);
        row.backend(BackendCell(6)).set(BackendCount::Active, 2);
        row.backend(BackendCell(6))
            .set(BackendCount::Connections, 9);
        row.worker().set(WorkerCount::Active, 2);
        row.listener(ListenerCell(2)).set(ListenerCount::Active, 2);
        service.set(ServiceCount::Queued, 1);
        service.set(ServiceCount::OldestTicket, 9);
        let died = board.settle(
            SlotIdx(0),
            0,
            [ServiceCell(1)],
            [ListenerCell(2)],
            [BackendCell(6)],
        );
        assert_eq!(died, 3);
        assert_eq!(
            board.sum_service(ServiceCell(1), ServiceCount::WorkerDied),
            3
        );
        assert_eq!(board.sum_service(ServiceCell(1), ServiceCount::Active), 0);
        assert_eq!(board.sum_backend(BackendCell(6), BackendCount::Active), 0);
        assert_eq!(
            board.sum_backend(BackendCell(6), BackendCount::Connections),
            9
        );
        assert_eq!(board.sum_workers(WorkerCount::Active), 0);
        let listener = row.listener(ListenerCell(2));
        assert_eq!(listener.get(ListenerCount::Active), 0);
        assert_eq!(service.get(ServiceCount::Queued), 0);
        assert_eq!(service.get(ServiceCount::OldestTicket), 0);
        assert_eq!(board.settle(SlotIdx(0), 0, [ServiceCell(1)], [], []), 0);
    }

    #[test]
    fn requests_that_die_with_their_worker_are_counted_once() {
        let (board, _fd) = Scoreboard::create(CAPACITIES).unwrap();
        board.set(GlobalCount::SlotsUsed, 2);
        let (service, listener, backend) = (ServiceCell(1), ListenerCell(2), BackendCell(6));
        let row = board.row(SlotIdx(0), 0);
        row.service(service).add(ServiceCount::Requests, 9);
        row.service(service).add(ServiceCount::ActiveRequests, 4);
        row.service(service).add(ServiceCount::Answers2xx, 5);
        row.listener(listener).raise(ListenerCount::Requests);
        row.backend(backend).add(BackendCount::Idle, 3);
        row.backend(backend).add(BackendCount::Requests, 8);
        // Those of another worker go on.
        let other = board.row(SlotIdx(1), 0);
        other.service(service).add(ServiceCount::ActiveRequests, 1);
        other.backend(backend).add(BackendCount::Idle, 1);
        for _ in 0..2 {
            let died = board.settle(SlotIdx(0), 0, [service], [listener], [backend]);
            assert_eq!(died, 0, "no connection was counted as accepted");
            let sum = |count| board.sum_service(service, count);
            assert_eq!(sum(ServiceCount::RequestWorkerDied), 4);
            assert_eq!(sum(ServiceCount::ActiveRequests), 1);
            assert_eq!(sum(ServiceCount::Requests), 9);
            assert_eq!(sum(ServiceCount::WorkerDied), 0);
            assert_eq!(board.sum_listener(listener, ListenerCount::Requests), 0);
            assert_eq!(board.sum_backend(backend, BackendCount::Idle), 1);
            assert_eq!(board.sum_backend(backend, BackendCount::Requests), 8);
        }
    }

    #[test]
    fn words_that_hold_two_facts_round_trip() {
        let (board, _fd) = Scoreboard::create(CAPACITIES).unwrap();
        let cells = board.backend(BackendCell(0));
        assert_eq!(cells.verdict().state, HealthState::Starting);
        for state in HealthState::ALL {
            let verdict = Verdict {
                state,
                since_ms: 123_456_789_012,
            };
            cells.set_verdict(verdict);
            assert_eq!(cells.verdict(), verdict);
        }
        for weight in [None, Some(0), Some(u16::MAX)] {
            for state in [AdminState::Enabled, AdminState::Drain, AdminState::Disabled] {
                cells.set_admin(Admin { state, weight });
                assert_eq!(cells.admin(), Admin { state, weight });
            }
        }
        for percent in [None, Some(0), Some(75), Some(u16::MAX)] {
            cells.set_agent_percent(percent);
            assert_eq!(cells.agent_percent(), percent);
        }
        for limit in [None, Some(0), Some(u32::MAX)] {
            cells.set_agent_limit(limit);
            assert_eq!(cells.agent_limit(), limit);
        }
        cells.cells[0].store(u64::MAX, Relaxed);
        assert_eq!(cells.verdict().state, HealthState::Starting);
    }

    #[test]
    fn latencies_fall_into_their_buckets_and_are_summed_over_rows() {
        let (board, _fd) = Scoreboard::create(CAPACITIES).unwrap();
        board.set(GlobalCount::SlotsUsed, 2);
        let cell = ServiceCell(2);
        let row = |slot| board.row(SlotIdx(slot), 0).latencies(cell);
        for us in [0, 100, 101] {
            row(0).observe(Latency::FirstByte, us);
        }
        row(1).observe(Latency::FirstByte, u64::MAX >> 1);
        let sum = board.sum_latency(cell, Latency::FirstByte);
        assert_eq!((sum.buckets[0], sum.buckets[1], sum.buckets[20]), (2, 1, 1));
        assert_eq!((sum.count(), sum.sum_us), (4, (u64::MAX >> 1) + 201));
        for (other, latency) in [
            (cell, Latency::Connect),
            (cell, Latency::Duration),
            (ServiceCell(1), Latency::FirstByte),
        ] {
            assert_eq!(board.sum_latency(other, latency), Histogram::default());
        }
        board.clear_service(cell);
        assert_eq!(board.sum_latency(cell, Latency::FirstByte).count(), 0);
    }

    #[test]
    fn rates_and_sources_are_shared_and_their_own() {
        let (board, fd) = Scoreboard::create(CAPACITIES).unwrap();
        let other = Scoreboard::attach(fd.as_fd()).unwrap();
        for cell in 0..5 {
            let rate = board.rate(ListenerCell(cell));
            while rate.swap(0, u64::from(cell) + 1).is_err() {}
        }
        for hash in [0, u64::MAX] {
            for (index, cell) in board.sources(hash).cells().enumerate() {
                while cell.swap(0, 100 + index as u64 + (hash & 10)).is_err() {}
            }
        }
        for cell in 0..5 {
            assert_eq!(other.rate(ListenerCell(cell)).load(), u64::from(cell) + 1);
        }
        let first: Vec<_> = other.sources(1).cells().map(|cell| cell.load()).collect();
        assert_eq!(first, [100, 101, 102, 103]);
        let last: Vec<_> = other.sources(!1).cells().map(|c| c.load()).collect();
        assert_eq!(last, [110, 111, 112, 113]);
        assert_eq!(
            other.row(SlotIdx(0), 0).worker().get(WorkerCount::Active),
            0
        );
    }

    #[test]
    fn whoever_waits_shows_the_lowest_ticket_of_its_worker() {
        let (board, _fd) = Scoreboard::create(CAPACITIES).unwrap();
        board.set(GlobalCount::SlotsUsed, 3);
        let cell = ServiceCell(1);
        assert_eq!(board.service(cell).take_ticket(), 0);
        assert_eq!(board.service(cell).take_ticket(), 1);
        assert_eq!(board.service_tickets(cell).count(), 0);
        for (slot, ticket) in [(2, 0), (0, 1)] {
            let row = board.row(SlotIdx(slot), 0).service(cell);
            row.set(ServiceCount::OldestTicket, ticket + 1);
        }
        let lowest = board.service_tickets(cell).min();
        assert_eq!(lowest, Some((0, SlotIdx(2))));
    }

    #[test]
    fn of_two_that_raise_and_sum_at_the_same_time_one_sees_the_other() {
        let (board, _fd) = Scoreboard::create(CAPACITIES).unwrap();
        board.set(GlobalCount::SlotsUsed, 2);
        let cell = BackendCell(3);
        let barrier = std::sync::Barrier::new(2);
        let race = |slot| {
            let row = board.row(SlotIdx(slot), 0).backend(cell);
            let mut seen = Vec::new();
            for _ in 0..2_000 {
                barrier.wait();
                row.raise(BackendCount::Active);
                seen.push(board.strict_backend(cell, BackendCount::Active));
                barrier.wait();
                row.lower(BackendCount::Active);
            }
            seen
        };
        let (first, second) = std::thread::scope(|scope| {
            let other = scope.spawn(|| race(1));
            (race(0), other.join().unwrap())
        });
        for (a, b) in first.into_iter().zip(second) {
            assert!(a.max(b) == 2, "{a} and {b}");
        }
    }
}
