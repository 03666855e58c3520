//! What becomes of a look-up: totals, a log line and an event for each change, and the new addresses for the supervisor, who
//! puts them into the next plan.

use std::net::SocketAddr;
use std::rc::Rc;

use evenkeel_plan::{Address, Plan};
use evenkeel_resolve::{LookUp, Sink};
use evenkeel_scoreboard::{GlobalCount, Scoreboard};

use crate::news::News;

/// The place where the resolver's results go.
#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) board: Scoreboard,
    pub(crate) news: Rc<News>,
}

impl Sink for Names {
    fn resolved(&self, address: &Address, endpoints: &[SocketAddr]) {
        self.news.resolved(address, endpoints);
        let shown: Vec<_> = endpoints.iter().map(ToString::to_string).collect();
        let shown = shown.join(", ");
        tracing::info!("{address} stands for {shown} now");
        let name = address.name().unwrap_or_default();
        self.news.event("dns", name, &format!("stands for {shown}"));
    }

    fn looked_up(&self, address: &Address, ended: LookUp<'_>) {
        self.board.add(GlobalCount::Resolves, 1);
        if ended.failure.is_some() {
            self.board.add(GlobalCount::ResolveFailures, 1);
        }
        if !ended.is_news {
            return;
        }
        let name = address.name().unwrap_or_default();
        match ended.failure {
            Some(why) => {
                tracing::warn!("cannot look up {address}, what was last known stays: {why}");
                let text = format!("cannot be looked up, what was last known stays: {why}");
                self.news.event("dns", name, &text);
            }
            None => {
                tracing::info!("{address} can be looked up again");
                self.news.event("dns", name, "can be looked up again");
            }
        }
    }
}

/// The names of a plan.
pub(crate) fn of(plan: &Plan) -> impl Iterator<Item = Address> + '_ {
    plan.services()
        .flat_map(|sealed| sealed.record().backends())
        .filter(|backend| backend.spec.address.name().is_some())
        .map(|backend| backend.spec.address.clone())
}
