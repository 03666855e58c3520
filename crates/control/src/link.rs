//! A child's end of the conversation with the supervisor.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use tokio::sync::{mpsc, oneshot};

use crate::channel::{Channel, ChannelError};
use crate::child::{Descriptor, FromChild, Hello, ToChild};

/// Receives messages, keeps the descriptors that came with them until they are asked for, and acknowledges their batches.
///
/// Must be used within a `LocalSet` of a current-thread runtime.
#[derive(Debug)]
pub struct Link {
    channel: Rc<Channel<FromChild, ToChild>>,
    outbox: mpsc::UnboundedSender<Outgoing>,
    held: HashMap<Descriptor, OwnedFd>,
}

/// Sends to the supervisor from anywhere in the child; never waits.
#[derive(Clone, Debug)]
pub struct Outbox(mpsc::UnboundedSender<Outgoing>);

#[derive(Debug)]
enum Outgoing {
    Message(FromChild),
    /// Answered when everything before it was sent.
    Flush(oneshot::Sender<()>),
}

impl Outbox {
    /// Queues a message. When the supervisor is gone it is dropped, and [`Link::next`] says so.
    pub fn send(&self, message: FromChild) {
        // The only error is a supervisor that is gone, which `next` reports.
        drop(self.0.send(Outgoing::Message(message)));
    }

    /// Waits until everything queued so far was sent, or the supervisor is gone. For a child that exits right after.
    pub async fn flush(&self) {
        let (sent, all) = oneshot::channel();
        drop(self.0.send(Outgoing::Flush(sent)));
        // An error is a supervisor that is gone, to whom nothing more can be sent.
        drop(all.await);
    }
}

impl Link {
    /// Takes the inherited socket and waits for the supervisor's first message.
    ///
    /// # Errors
    /// When the supervisor is gone, or its first message is not `Hello`.
    pub async fn open(socket: OwnedFd) -> Result<(Hello, Self), ChannelError> {
        let channel = Rc::new(Channel::new(socket)?);
        let (outbox, mut queue) = mpsc::unbounded_channel();
        let writer = Rc::clone(&channel);
        // Ends when the link and every outbox are dropped, or the supervisor is gone.
        drop(tokio::task::spawn_local(async move {
            while let Some(outgoing) = queue.recv().await {
                match outgoing {
                    Outgoing::Message(message) => {
                        if writer.send(&message, &[]).await.is_err() {
                            break;
                        }
                    }
                    // Who asked may have stopped waiting.
                    Outgoing::Flush(sent) => drop(sent.send(())),
                }
            }
        }));
        let mut link = Self {
            channel,
            outbox,
            held: HashMap::new(),
        };
        match link.next().await? {
            ToChild::Hello(hello) => Ok((hello, link)),
            _ => Err(ChannelError::Cut),
        }
    }

    /// The next message other than `Descriptors`, whose descriptors are kept for [`Self::take`].
    ///
    /// # Errors
    /// [`ChannelError::Closed`] when the supervisor is gone.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<ToChild, ChannelError> {
        loop {
            match self.channel.receive().await {
                Ok((ToChild::Descriptors { batch, manifest }, descriptors)) => {
                    let answer = if manifest.len() == descriptors.len() {
                        self.held.extend(manifest.into_iter().zip(descriptors));
                        FromChild::Taken { batch }
                    } else {
                        not_taken()
                    };
                    self.send(answer);
                }
                Ok((message, _)) => return Ok(message),
                Err(ChannelError::Cut) => self.send(not_taken()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Queues a message to the supervisor; never waits.
    pub fn send(&self, message: FromChild) {
        self.outbox().send(message);
    }

    /// A handle for sending from other tasks.
    #[must_use]
    pub fn outbox(&self) -> Outbox {
        Outbox(self.outbox.clone())
    }

    /// Takes a descriptor that has arrived.
    pub fn take(&mut self, descriptor: &Descriptor) -> Option<OwnedFd> {
        self.held.remove(descriptor)
    }

    /// Takes every descriptor that has arrived and that `wanted` names.
    pub fn take_all(&mut self, wanted: impl Fn(&Descriptor) -> bool) -> Vec<(Descriptor, OwnedFd)> {
        self.held
            .extract_if(|descriptor, _| wanted(descriptor))
            .collect()
    }
}

fn not_taken() -> FromChild {
    FromChild::NotTaken {
        reason: "a batch of descriptors did not arrive whole: this process has no descriptors left"
            .to_owned(),
    }
}
