//! The operator's side of the control socket.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use evenkeel_control::child::Event;
use evenkeel_control::operator::{
    self, ANSWER_BYTES_MAX, Answer, BackendAction, OperatorError, Request, SOCKET_NAME, Status, Why,
};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::UnixStream;

use crate::failure::{Exit, Failure};

/// A daemon that takes longer to tell its state is stuck.
const STATUS_DEADLINE: Duration = Duration::from_secs(10);

/// A reload waits for first verdicts of new backends and for every worker.
const RELOAD_DEADLINE: Duration = Duration::from_secs(180);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// Nobody listens there.
    #[error("no daemon answers in {}", directory.display())]
    NoDaemon {
        /// The runtime directory.
        directory: PathBuf,
        /// What connecting to the socket said.
        #[source]
        source: std::io::Error,
    },
    /// The socket or its directory is closed to this user.
    #[error("this user may not talk to the daemon in {}", directory.display())]
    NotAllowed {
        /// The runtime directory.
        directory: PathBuf,
        /// What connecting to the socket said.
        #[source]
        source: std::io::Error,
    },
    /// It took the question and says nothing.
    #[error("the daemon in {} gave no answer within {} s", directory.display(), deadline.as_secs())]
    Silent {
        /// The runtime directory.
        directory: PathBuf,
        /// How long we waited.
        deadline: Duration,
    },
    /// The conversation broke off.
    #[error("the conversation with the daemon in {} failed", directory.display())]
    Broken {
        /// The runtime directory.
        directory: PathBuf,
        /// How.
        #[source]
        source: OperatorError,
    },
    /// The daemon refused, or answered something else.
    #[error("the daemon refused: {0}")]
    Denied(String),
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        let exit = match &error {
            AskError::Denied(_) => Exit::Failed,
            _ => Exit::NoDaemon,
        };
        let failure = Self::new(exit, error.to_string());
        match &error {
            AskError::NoDaemon { directory, source } => {
                let failure = failure.cause(&Tried { directory, source });
                // The socket of a supervisor that ended in order is removed.
                if source.kind() == ErrorKind::ConnectionRefused {
                    failure.help(
                        "its supervisor was killed; its workers may still serve: start it again",
                    )
                } else {
                    failure
                        .help("is evenkeel running? see `systemctl status evenkeel`")
                        .help("in another runtime directory? name it with --runtime-dir")
                }
            }
            AskError::NotAllowed { directory, source } => failure
                .cause(&Tried { directory, source })
                .help("use the user that the daemon was started by, or root (sudo)"),
            AskError::Silent { .. } => failure
                .help("its supervisor is stopped or overloaded; traffic does not depend on it")
                .help("see its log: `journalctl -u evenkeel -e`"),
            AskError::Broken { source, .. } => {
                let failure = failure.cause(source);
                match source {
                    OperatorError::Version { .. } => {
                        failure.help("use the `evenkeel` that the daemon was started from")
                    }
                    _ => failure.help("see its log: `journalctl -u evenkeel -e`"),
                }
            }
            AskError::Denied(_) => failure,
        }
    }
}

/// What was tried; what came of it is its source.
#[derive(Debug, thiserror::Error)]
#[error("connect to {}", directory.join(SOCKET_NAME).display())]
struct Tried<'a> {
    directory: &'a Path,
    source: &'a std::io::Error,
}

/// Asks for the state of everything.
pub(crate) async fn status(directory: &Path) -> Result<Box<Status>, AskError> {
    match ask(directory, Request::Status, STATUS_DEADLINE).await? {
        Answer::Status(status) => Ok(status),
        answer => Err(unexpected(answer)),
    }
}

/// Says something of backends: those that the name stood for, and warnings.
pub(crate) async fn backend(
    directory: &Path,
    name: String,
    action: BackendAction,
) -> Result<(Vec<String>, Vec<String>), AskError> {
    match ask(
        directory,
        Request::Backend { name, action },
        STATUS_DEADLINE,
    )
    .await?
    {
        Answer::Backend { backends, warnings } => Ok((backends, warnings)),
        answer => Err(unexpected(answer)),
    }
}

/// Asks why a backend is in its state.
pub(crate) async fn why(directory: &Path, name: String) -> Result<Box<Why>, AskError> {
    match ask(directory, Request::Why { name }, STATUS_DEADLINE).await? {
        Answer::Why(why) => Ok(why),
        answer => Err(unexpected(answer)),
    }
}

/// Hands every event to `take`, until there is no more or it returns false.
pub(crate) async fn events(
    directory: &Path,
    follow: bool,
    take: impl Fn(&Event) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let broken = |source| AskError::Broken {
        directory: directory.to_owned(),
        source,
    };
    let mut stream = connect(directory).await?;
    operator::write(&mut stream, Request::Events { follow })
        .await
        .map_err(broken)?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        let read = reader.read_until(b'\n', &mut line).await;
        if read.map_err(|error| broken(error.into()))? == 0 && follow {
            return Err(
                Failure::new(Exit::NoDaemon, "the daemon tells no more events")
                    .help("it has ended, or this was read too slowly: the last line says so"),
            );
        }
        match operator::read(line.as_slice(), ANSWER_BYTES_MAX)
            .await
            .map_err(broken)?
        {
            Answer::Event(event) => {
                if !take(&event)? {
                    return Ok(());
                }
            }
            Answer::EventsEnd => return Ok(()),
            answer => return Err(unexpected(answer).into()),
        }
    }
}

/// A refusal, or the answer to another question.
fn unexpected(answer: Answer) -> AskError {
    AskError::Denied(match answer {
        Answer::Denied { reason } | Answer::Failed { reason } => reason,
        Answer::Status(_)
        | Answer::Reloaded { .. }
        | Answer::Backend { .. }
        | Answer::Why(_)
        | Answer::Event(_)
        | Answer::EventsEnd
        | Answer::Invalid { .. } => "it answered another question".to_owned(),
    })
}

/// Asks for a reload.
pub(crate) async fn reload(directory: &Path) -> Result<Answer, AskError> {
    ask(directory, Request::Reload, RELOAD_DEADLINE).await
}

async fn ask(directory: &Path, request: Request, deadline: Duration) -> Result<Answer, AskError> {
    let conversation = async {
        let mut stream = connect(directory).await?;
        let broken = |source| AskError::Broken {
            directory: directory.to_owned(),
            source,
        };
        operator::write(&mut stream, request)
            .await
            .map_err(broken)?;
        operator::read(&mut stream, ANSWER_BYTES_MAX)
            .await
            .map_err(broken)
    };
    match tokio::time::timeout(deadline, conversation).await {
        Ok(answer) => answer,
        Err(_) => Err(AskError::Silent {
            directory: directory.to_owned(),
            deadline,
        }),
    }
}

async fn connect(directory: &Path) -> Result<UnixStream, AskError> {
    let socket = directory.join(SOCKET_NAME);
    UnixStream::connect(&socket).await.map_err(|source| {
        let directory = directory.to_owned();
        if source.kind() == ErrorKind::PermissionDenied {
            AskError::NotAllowed { directory, source }
        } else {
            AskError::NoDaemon { directory, source }
        }
    })
}

/// Runs a conversation on a small runtime of its own.
pub(crate) fn block_on<T>(
    conversation: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, "cannot start").cause(&error))?
        .block_on(conversation)
}
