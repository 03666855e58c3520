//! The control socket: who may talk, and one request a connection. The answer is one too, but for a stream of events.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_control::operator::{self, Answer, REQUEST_BYTES_MAX, Request};
use evenkeel_sys::packet::{Peer, peer};
use evenkeel_sys::process::{self, effective_uid};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::WriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::admin;
use crate::events::Subscription;

/// What goes back.
#[derive(Debug)]
pub(crate) enum Reply {
    /// One answer.
    Answer(Answer),
    /// One answer an event.
    Events(Subscription),
}

/// Answers. Whoever asked may have gone.
pub(crate) fn reply(to: oneshot::Sender<Reply>, answer: Answer) {
    drop(to.send(Reply::Answer(answer)));
}

/// A request and the way back.
#[derive(Debug)]
pub(crate) struct Asked {
    /// What is asked for.
    pub(crate) request: Request,
    /// Who asks.
    pub(crate) peer: Peer,
    /// Who asks, for people: user and process.
    pub(crate) by: String,
    /// Takes the answer.
    pub(crate) answer: oneshot::Sender<Reply>,
}

/// Conversations at the same time.
const CONVERSATIONS_MAX: usize = 64;

/// For reading a request, and for writing an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// For the name of whoever asks: the user data base may be on another host.
const NAME_PATIENCE: Duration = Duration::from_secs(1);

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
            let by = match request {
                Request::Backend { .. } => admin::who(&user_name(peer.uid).await, peer.pid),
                Request::Status
                | Request::Reload
                | Request::Why { .. }
                | Request::Events { .. } => String::new(),
            };
            let (answer, answered) = oneshot::channel();
            let sent = asked.send(Asked {
                request,
                peer,
                by,
                answer,
            });
            match sent.await {
                Ok(()) => match answered.await {
                    Ok(Reply::Answer(answer)) => answer,
                    Ok(Reply::Events(subscription)) => return follow(stream, subscription).await,
                    Err(_) => denied("the supervisor is ending"),
                },
                Err(_) => denied("the supervisor is ending"),
            }
        }
    };
    write(&mut writer, answer).await
}

async fn write(writer: &mut WriteHalf<'_>, answer: Answer) -> Result<(), operator::OperatorError> {
    tokio::time::timeout(PATIENCE, operator::write(writer, answer))
        .await
        .map_err(|_| operator::OperatorError::Cut)?
}

/// Events until the last one, or until the follower closes or is too slow.
async fn follow(
    mut stream: UnixStream,
    subscription: Subscription,
) -> Result<(), operator::OperatorError> {
    let (mut reader, mut writer) = stream.split();
    for event in subscription.past {
        write(&mut writer, Answer::Event(event)).await?;
    }
    let Some(mut live) = subscription.live else {
        return write(&mut writer, Answer::EventsEnd).await;
    };
    let mut nothing = [0_u8; 16];
    loop {
        tokio::select! {
            event = live.queue.recv() => match event {
                Some(event) => write(&mut writer, Answer::Event(event)).await?,
                None => break,
            },
            // It has nothing to say but that it is gone.
            read = reader.read(&mut nothing) => if read? == 0 { return Ok(()); },
        }
    }
    match live.last_word() {
        Some(event) => write(&mut writer, Answer::Event(event)).await,
        None => Ok(()),
    }
}

/// The name of a user; the number where it has none.
async fn user_name(uid: u32) -> String {
    if uid == 0 {
        return "root".to_owned();
    }
    let look_up = tokio::task::spawn_blocking(move || process::user(&uid.to_string()));
    match tokio::time::timeout(NAME_PATIENCE, look_up).await {
        Ok(Ok(Ok(Some(user)))) => user.name,
        _ => format!("user {uid}"),
    }
}
