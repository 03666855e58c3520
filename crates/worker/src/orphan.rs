//! Serving on without a supervisor, until the next one takes the sockets.

use std::io;
use std::os::fd::OwnedFd;

use evenkeel_control::child::Descriptor;
use evenkeel_control::reunion::{self, Handed};
use evenkeel_sys::packet;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};

use crate::accept::{Origin, Stop};
use crate::control::Control;

/// Serves on with the plan in force until the next supervisor has the sockets, or somebody asks this process to end
/// (`SIGTERM`), which nobody but an orphan listens to. The caller drains afterwards.
pub(crate) async fn serve_on(control: &mut Control, supervisor_uid: u32) {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            // Then it ends the process, as it did before.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = hand_over(control, supervisor_uid) => {
            tracing::info!("the next supervisor has the listening sockets");
        }
        () = terminated => tracing::info!("asked to end"),
    }
}

async fn hand_over(control: &mut Control, supervisor_uid: u32) {
    let reunion = control.link.take(&Descriptor::Reunion).map(listen);
    let reunion = match reunion {
        Some(Ok(reunion)) => reunion,
        Some(Err(error)) => {
            tracing::error!(%error, "cannot listen for the next supervisor");
            return std::future::pending().await;
        }
        None => return std::future::pending().await,
    };
    loop {
        let stream = match reunion.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept the next supervisor");
                tokio::time::sleep(evenkeel_net::accept::PAUSE_MAX).await;
                continue;
            }
        };
        match packet::peer(&stream) {
            Ok(peer) if peer.uid == 0 || peer.uid == supervisor_uid => {}
            Ok(peer) => {
                tracing::warn!(
                    pid = peer.pid,
                    uid = peer.uid,
                    "somebody else asked for the listening sockets"
                );
                continue;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot tell who asks for the listening sockets");
                continue;
            }
        }
        if offer(control, stream).await {
            return;
        }
    }
}

fn listen(socket: OwnedFd) -> io::Result<UnixListener> {
    UnixListener::from_std(socket.into())
}

/// Whether the sockets are the next supervisor's now. Accepting stops first, so that nobody is accepted twice over; who
/// arrives meanwhile waits in the queues.
async fn offer(control: &mut Control, stream: UnixStream) -> bool {
    let (origins, offered): (Vec<Origin>, Vec<(Handed, OwnedFd)>) = control
        .stop_accepting(Stop::AtOnce)
        .await
        .into_iter()
        .map(|(origin, address, socket)| {
            let slot = origin.slot;
            (origin, (Handed { slot, address }, socket))
        })
        .unzip();
    let result = reunion::offer(stream, &offered).await;
    if let Err(error) = &result {
        tracing::warn!(%error, "the next supervisor did not take the listening sockets; serving on");
        let sockets = origins.into_iter().zip(offered);
        control.accept_again(
            sockets
                .map(|(origin, (handed, socket))| (origin, handed.address, socket))
                .collect(),
        );
    }
    result.is_ok()
}
