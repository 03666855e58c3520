//! systemd: readiness, watchdog, and the descriptor store in which the listening sockets outlive this process.

use std::os::fd::{AsFd as _, BorrowedFd};

use evenkeel_sys::{inherit, listen};
use sd_notify::NotifyState;

use crate::sockets::{Inherited, parse_store_name};

/// Says how many descriptors the store takes (systemd 254); also how a unit on an older systemd says that it has a store.
const STORE_VARIABLE: &str = "FDSTORE";

/// The service manager, if there is one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Store {
    notifies: bool,
    keeps: bool,
}

impl Store {
    /// Looks at the environment that the service manager gave.
    #[must_use]
    pub(crate) fn from_environment() -> Self {
        let notifies = std::env::var_os("NOTIFY_SOCKET").is_some();
        let room = std::env::var(STORE_VARIABLE).ok();
        let keeps = room.and_then(|room| room.parse::<u32>().ok()).unwrap_or(0) > 0;
        Self {
            notifies,
            keeps: notifies && keeps,
        }
    }

    /// No service manager.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self {
            notifies: false,
            keeps: false,
        }
    }

    /// Whether the listening sockets outlive this process.
    #[must_use]
    pub(crate) fn keeps(&self) -> bool {
        self.keeps
    }

    /// Keeps a copy of `socket` under `name`. systemd recognises one that it has already.
    pub(crate) fn keep(&self, name: &str, socket: BorrowedFd<'_>) {
        if self.keeps {
            let state = [NotifyState::FdStore, NotifyState::FdName(name)];
            report(sd_notify::notify_with_fds(&state, &[socket]));
        }
    }

    /// Lets go of everything kept under `name`.
    pub(crate) fn remove(&self, name: &str) {
        if self.keeps {
            self.notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
        }
    }

    /// Tells the service manager something.
    pub(crate) fn notify(&self, state: &[NotifyState<'_>]) {
        if self.notifies {
            report(sd_notify::notify(state));
        }
    }

    /// How often the service manager wants to hear that all is well.
    #[must_use]
    pub(crate) fn watchdog(&self) -> Option<std::time::Duration> {
        sd_notify::watchdog_enabled()
    }

    /// Takes the listening sockets that were kept for this process. What is none of ours, or not listening, is closed.
    #[must_use]
    pub(crate) fn take(&self) -> Vec<Inherited> {
        let descriptors = match sd_notify::listen_fds_with_names() {
            Ok(descriptors) => descriptors,
            Err(error) => {
                tracing::warn!(%error, "cannot read what the service manager passed on");
                return Vec::new();
            }
        };
        descriptors
            .filter_map(|(raw, name)| {
                let socket = inherit::take(raw).ok()?;
                let usable =
                    listen::is_listening(socket.as_fd()) && listen::is_reuseport(socket.as_fd());
                let Some((slot, place)) = parse_store_name(&name).filter(|_| usable) else {
                    tracing::warn!(
                        name,
                        "passed on a descriptor that is no listening socket of ours"
                    );
                    return None;
                };
                let address = listen::local_address(socket.as_fd()).ok()?;
                Some(Inherited {
                    slot,
                    address,
                    place: Some(place),
                    socket,
                })
            })
            .collect()
    }
}

fn report(result: std::io::Result<()>) {
    if let Err(error) = result {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}
