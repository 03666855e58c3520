//! The doorbell: a backend went down, and where its service says so, its connections are reset; or another worker has freed
//! what somebody here waits for. The latter knocks, since it comes with every connection that ends while others wait, and costs no
//! look at verdicts and connections.
//!
//! ```text
//! monitor: verdict `down` stored --> rings --> here: every connection with a backend is looked at once
//! ```
//!
//! A connection that was still being connected is looked at when it has been (`connect.rs`).

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;

use evenkeel_plan::BackendCell;
use evenkeel_scoreboard::{HealthState, Verdict};
use evenkeel_sys::{doorbell, watch};
use tokio::io::Interest;

use crate::connections::since;
use crate::worker::Worker;

/// Answers `bell` for ever.
pub(crate) async fn attend(worker: Rc<Worker>, bell: OwnedFd) {
    if let Err(error) = answer(&worker, bell).await {
        tracing::error!(%error, "deaf to the doorbell: connections of backends that go down are not reset");
    }
}

/// Whether `verdict` is that of a backend that went down after it was picked. `down_since` is since when it was down when
/// it was picked nevertheless.
pub(crate) fn went_down(verdict: Verdict, down_since: Option<u32>) -> bool {
    verdict.state == HealthState::Down && down_since != Some(since(verdict.since_ms))
}

async fn answer(worker: &Worker, bell: OwnedFd) -> io::Result<()> {
    let bell = watch::watch(bell, Interest::READABLE)?;
    loop {
        let mut ready = bell.readable().await?;
        // Answered before looking, so that whoever rings meanwhile is heard.
        let heard = doorbell::hear(bell.get_ref().as_fd())?;
        if heard.ring {
            reset_lost(worker);
        }
        // A ring may be about a limit that was raised.
        if heard.ring || heard.knock {
            worker.queues.rung();
        }
        ready.clear_ready();
    }
}

fn reset_lost(worker: &Worker) {
    let view = worker.view();
    let backends = view.resetting().iter().flat_map(|s| s.backends.iter());
    let down: HashMap<BackendCell, Verdict> = backends
        .map(|backend| (backend.handle.cell(), backend.cells.verdict()))
        .filter(|(_, verdict)| verdict.state == HealthState::Down)
        .collect();
    if down.is_empty() {
        return;
    }
    let lost = worker.connections.lose(|chosen| {
        let verdict = down.get(&chosen.backend);
        verdict.is_some_and(|&verdict| went_down(verdict, chosen.down_since))
    });
    if lost > 0 {
        tracing::info!(
            connections = lost,
            "resetting the connections of backends that went down"
        );
    }
}
