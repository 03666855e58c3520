//! The control socket: who may talk, and one request a connection.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_control::operator::{self, Answer, REQUEST_BYTES_MAX, Request};
use evenkeel_sys::packet::{Peer, peer};
use evenkeel_sys::process::effective_uid;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// A request and the way back.
#[derive(Debug)]
pub(crate) struct Asked {
    /// What is asked for.
    pub(crate) request: Request,
    /// Who asks.
    pub(crate) peer: Peer,
    /// Takes the answer.
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// Conversations at the same time.
const CONVERSATIONS_MAX: usize = 64;

/// For reading a request, and for writing an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Binds the control socket in place of one that a dead supervisor left. Nobody else can have one here: the caller holds the
/// lock of the runtime directory.
///
/// # Errors
/// When the directory cannot be written to.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}

/// Takes requests until the receiver is gone.
pub(crate) async fn serve(listener: UnixListener, asked: mpsc::Sender<Asked>) {
    let places = Arc::new(Semaphore::new(CONVERSATIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let asked = asked.clone();
                drop(tokio::task::spawn_local(async move {
                    if let Err(error) = converse(stream, asked).await {
                        tracing::debug!(%error, "a conversation on the control socket broke");
                    }
                    drop(place);
                }));
            }
            Err(error) => {
                // No descriptors, most likely: the operators are told nothing, the traffic goes on.
                tracing::warn!(%error, "cannot accept on the control socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(
    mut stream: UnixStream,
    asked: mpsc::Sender<Asked>,
) -> Result<(), operator::OperatorError> {
    let peer = peer(&stream)?;
    let (reader, mut writer) = stream.split();
    let request = tokio::time::timeout(PATIENCE, operator::read(reader, REQUEST_BYTES_MAX))
        .await
        .map_err(|_| operator::OperatorError::Cut)?;
    let denied = |reason: &str| Answer::Denied {
        reason: reason.to_owned(),
    };
    let answer = match request {
        Err(error) => denied(&error.to_string()),
        Ok(_) if peer.uid != 0 && peer.uid != effective_uid() => {
            denied("only root and the supervisor's own user may control it")
        }
        Ok(request) => {
            let (answer, answered) = oneshot::channel();
            let sent = asked.send(Asked {
                request,
                peer,
                answer,
            });
            match sent.await {
                Ok(()) => answered
                    .await
                    .unwrap_or_else(|_| denied("the supervisor is ending")),
                Err(_) => denied("the supervisor is ending"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, operator::write(&mut writer, answer))
        .await
        .map_err(|_| operator::OperatorError::Cut)?
}
