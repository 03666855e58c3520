//! The way out: what runs may end, until a deadline.

use std::rc::Rc;
use std::time::Duration;

use evenkeel_control::child::ToChild;
use evenkeel_control::{ChannelError, Link};
use tokio::time::Instant;

use crate::worker::Worker;

/// Waits until every connection has ended, and resets what still runs when `deadline` has passed; how many that were.
/// Accepting has stopped before. The supervisor may set another deadline meanwhile.
pub(crate) async fn drain(worker: &Rc<Worker>, link: &mut Link, deadline: Duration) -> u64 {
    tracing::info!(
        connections = worker.connections.count(),
        deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
        "draining"
    );
    let mut until = later(deadline);
    let mut is_supervised = true;
    loop {
        tokio::select! {
            biased;
            () = worker.connections.ended() => return 0,
            () = tokio::time::sleep_until(until) => break,
            message = link.next(), if is_supervised => match message {
                Ok(ToChild::Drain { deadline }) => until = later(deadline),
                // A worker on its way out switches to nothing any more.
                Ok(_) => {}
                Err(ChannelError::Closed | ChannelError::Io(_)) => is_supervised = false,
                Err(ChannelError::Version { .. } | ChannelError::Code(_) | ChannelError::Cut) => {}
            },
        }
    }
    let cut = worker.connections.count();
    worker.connections.cut();
    worker.connections.ended().await;
    tracing::warn!(
        connections = cut,
        "the drain deadline has passed; what still ran was reset"
    );
    cut
}

/// A deadline that is too far away to be told is one in a long time.
fn later(deadline: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(30 * 24 * 60 * 60);
    Instant::now() + deadline.min(FAR)
}
