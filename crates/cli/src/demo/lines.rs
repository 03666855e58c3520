//! The view as lines: one every two seconds, and only when something changed.

use std::time::Duration;

use tokio::time::Instant;

use crate::demo::view::View;
use crate::text;

const BETWEEN: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub(super) struct Lines {
    last: Option<(Instant, String)>,
}

impl Lines {
    /// The line to print now, if any.
    pub(super) fn draw(&mut self, view: &View) -> Option<String> {
        let now = Instant::now();
        let figures = figures(view);
        if let Some((at, last)) = &self.last
            && (now < *at + BETWEEN || *last == figures)
        {
            return None;
        }
        let line = format!("{:>5} s  {figures}\n", (now - view.started).as_secs());
        self.last = Some((now, figures));
        Some(line)
    }
}

/// What a line says, without its time.
fn figures(view: &View) -> String {
    let backends: Vec<String> = view
        .backends()
        .iter()
        .map(|backend| {
            format!(
                "{} {} {} ({} %)",
                backend.name,
                backend.state,
                text::grouped(backend.connections),
                view.permille(backend) / 10
            )
        })
        .collect();
    let workers: Vec<String> = view
        .status
        .workers
        .iter()
        .map(|worker| {
            format!(
                "{} {} {}",
                worker.slot,
                worker.state,
                text::grouped(worker.accepted)
            )
        })
        .collect();
    format!(
        "{} | {} | workers: {}",
        text::count(view.accepted(), "connection"),
        backends.join(", "),
        workers.join(", ")
    )
}
