//! The scoreboard: what processes tell each other without a message.
//!
//! ```text
//! | header | globals | slots | services | backends | listeners | sources | row 0 | row 1 | ... |     row = slot x parity
//!                                                                         `-- worker | listeners | services | backends | latencies
//! ```
//!
//! Rules that hold for every cell:
//! * The memory is `[AtomicU64]`; whatever is read is decoded fallibly, since another process may have died between two
//!   stores.
//! * One writer a cell at any time. A row is written by the worker in its slot while that lives, and by the supervisor
//!   between reap and spawn. The scheduler's state is the exception: every worker moves it, by compare-and-swap, and so are rates and tickets.
//! * Rows belong to a slot and continue over its incarnations: nothing is folded, so sums never fall.
//! * Counters and gauges are relaxed: no other cell may be inferred from one. A scrape is not a consistent cut. What
//!   publishes something else (generation, verdict) is stored with release and loaded with acquire.
#![forbid(unsafe_code)]

mod latency;
mod layout;
mod rates;
mod rows;
mod shared;

pub use latency::{Histogram, LATENCY_BOUNDS_US, LATENCY_BUCKETS, Latency, LatencyRow};
pub use layout::{AttachError, Capacities, LAYOUT_VERSION};
pub use rates::{RateCell, SourceSet};
pub use rows::{
    BackendCount, BackendRow, ListenerCount, ListenerRow, Row, ServiceCount, ServiceRow,
    WorkerCount, WorkerRow,
};
pub use shared::{
    Admin, AdminState, BackendCells, Gate, GateState, GlobalCount, HealthState, SchedulerCell,
    Scoreboard, ServiceCells, SlotCells, SlotState, Verdict,
};
