//! The addresses of the metrics endpoint: sockets come from the supervisor, the plan says which to keep.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use evenkeel_metrics::{Pages, serve};
use tokio::task::AbortHandle;

/// Sockets that are served, and sockets that will be when the prepared plan comes into force.
#[derive(Debug)]
pub(crate) struct Endpoints {
    pages: Rc<Pages>,
    serving: HashMap<SocketAddr, AbortHandle>,
    prepared: Vec<(SocketAddr, OwnedFd)>,
}

impl Endpoints {
    pub(crate) fn new(pages: Pages) -> Self {
        Self {
            pages: Rc::new(pages),
            serving: HashMap::new(),
            prepared: Vec::new(),
        }
    }

    pub(crate) fn prepare(&mut self, sockets: impl IntoIterator<Item = (SocketAddr, OwnedFd)>) {
        self.prepared.extend(sockets);
    }

    pub(crate) fn abort(&mut self) {
        self.prepared.clear();
    }

    /// Serves exactly what the plan in force names.
    pub(crate) fn commit(&mut self, configured: &[SocketAddr]) {
        for (address, socket) in std::mem::take(&mut self.prepared) {
            let serving = serve(TcpListener::from(socket), Rc::clone(&self.pages));
            let task = tokio::task::spawn_local(async move {
                // Ends only when it cannot begin.
                let Err(error) = serving.await;
                tracing::error!(%address, %error, "cannot serve metrics");
            });
            // A second socket for the same address is a copy of the first, or its successor.
            if let Some(before) = self.serving.insert(address, task.abort_handle()) {
                before.abort();
            }
        }
        self.serving.retain(|bound, task| {
            let wanted = configured.iter().any(|address| names(address, bound));
            if !wanted {
                task.abort();
            }
            wanted
        });
    }
}

/// Whether a configured address is that of a bound socket; with port 0 the kernel chose the port.
fn names(configured: &SocketAddr, bound: &SocketAddr) -> bool {
    configured.ip() == bound.ip() && (configured.port() == bound.port() || configured.port() == 0)
}
