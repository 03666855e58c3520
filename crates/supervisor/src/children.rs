//! The executor's side of the children: processes, their sockets, and what was sent to each.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use evenkeel_control::child::{BATCH_MAX, Descriptor, FromChild, Hello, Role, ToChild};
use evenkeel_control::{Channel, ChannelError};
use evenkeel_plan::Plan;
use evenkeel_sys::process;
use evenkeel_sys::watch::watch;
use tokio::io::Interest;
use tokio::sync::{Notify, mpsc};

use crate::life::Who;

/// What the tasks around a child tell the executor.
#[derive(Debug)]
pub(crate) enum FromTasks {
    /// A message.
    Message {
        /// Which child.
        who: Who,
        /// Which of its processes.
        incarnation: u64,
        /// What it says.
        message: FromChild,
    },
    /// It ended.
    Exited {
        /// Which child.
        who: Who,
        /// Which of its processes.
        incarnation: u64,
        /// How.
        status: process::ExitStatus,
    },
}

type Parcel = (ToChild, Vec<Arc<OwnedFd>>);

/// A running child.
#[derive(Debug)]
pub(crate) struct Running {
    /// Which of its processes.
    pub(crate) incarnation: u64,
    /// Process id.
    pub(crate) pid: u32,
    /// The plan it has switched to, or is switching to.
    pub(crate) base: Plan,
    /// What it was sent and still has.
    pub(crate) sent: HashSet<Descriptor>,
    /// What it was sent for the plan it prepares.
    pub(crate) sent_for_prepare: Vec<Descriptor>,
    pidfd: Rc<OwnedFd>,
    outbox: mpsc::UnboundedSender<Parcel>,
    batches: u64,
}

/// All running children.
#[derive(Debug)]
pub(crate) struct Children {
    running: BTreeMap<Who, Running>,
    events: mpsc::UnboundedSender<FromTasks>,
}

impl Children {
    /// None yet; what happens to them will come out of `events`.
    #[must_use]
    pub(crate) fn new(events: mpsc::UnboundedSender<FromTasks>) -> Self {
        Self {
            running: BTreeMap::new(),
            events,
        }
    }

    /// Starts a child and greets it.
    ///
    /// # Errors
    /// When no process or descriptor is left.
    pub(crate) fn spawn(
        &mut self,
        who: Who,
        incarnation: u64,
        hello: Hello,
    ) -> std::io::Result<u32> {
        let (role, title) = match who {
            Who::Monitor => (Role::Monitor, "evenkeel: monitor".to_owned()),
            Who::Worker(slot) => (Role::Worker, format!("evenkeel: worker {slot}")),
        };
        let child = process::spawn(role.as_str(), &title)?;
        let channel = Rc::new(Channel::<ToChild, FromChild>::new(child.socket)?);
        let pidfd = Rc::new(child.pidfd);
        let (outbox, queue) = mpsc::unbounded_channel();
        let taken = Rc::new(Notify::new());
        spawn_task(write(Rc::clone(&channel), queue, Rc::clone(&taken)));
        let events = self.events.clone();
        spawn_task(async move {
            read(channel, &taken, who, incarnation, events).await;
            // Nobody will take what is on its way any more: the writer goes on, finds the channel closed and ends.
            taken.notify_one();
        });
        let exit = process::duplicate(&*pidfd)?;
        spawn_task(wait(exit, who, incarnation, self.events.clone()));
        let mut running = Running {
            incarnation,
            pid: child.pid,
            base: Plan::empty(),
            sent: HashSet::new(),
            sent_for_prepare: Vec::new(),
            pidfd,
            outbox,
            batches: 0,
        };
        running.send(ToChild::Hello(hello));
        let pid = running.pid;
        self.running.insert(who, running);
        Ok(pid)
    }

    /// A child that runs.
    pub(crate) fn get_mut(&mut self, who: Who) -> Option<&mut Running> {
        self.running.get_mut(&who)
    }

    /// A child that runs.
    #[must_use]
    pub(crate) fn get(&self, who: Who) -> Option<&Running> {
        self.running.get(&who)
    }

    /// Every child that runs.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Who, &Running)> {
        self.running.iter().map(|(who, running)| (*who, running))
    }

    /// Every child that runs.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Running> {
        self.running.values_mut()
    }

    /// Whether `pid` is a child's.
    #[must_use]
    pub(crate) fn has_pid(&self, pid: u32) -> bool {
        self.running.values().any(|running| running.pid == pid)
    }

    /// Kills a child at once; its end comes as an event.
    pub(crate) fn kill(&self, who: Who) {
        if let Some(running) = self.running.get(&who)
            && let Err(error) = process::kill(running.pidfd.as_fd())
        {
            tracing::error!(%who, %error, "cannot kill");
        }
    }

    /// Forgets a child that has ended.
    pub(crate) fn remove(&mut self, who: Who, incarnation: u64) {
        self.running
            .extract_if(.., |at, running| {
                *at == who && running.incarnation == incarnation
            })
            .for_each(drop);
    }
}

impl Running {
    /// Queues a message; never waits.
    pub(crate) fn send(&mut self, message: ToChild) {
        // The only error is a child that has ended, which comes as an event of its own.
        drop(self.outbox.send((message, Vec::new())));
    }

    /// Queues descriptors that the child does not have yet, in batches. They go before any message queued later.
    pub(crate) fn send_descriptors(
        &mut self,
        descriptors: impl IntoIterator<Item = (Descriptor, Arc<OwnedFd>)>,
        for_prepare: bool,
    ) {
        let mut pending: VecDeque<_> = descriptors
            .into_iter()
            .filter(|(descriptor, _)| self.sent.insert(descriptor.clone()))
            .collect();
        if for_prepare {
            let names = pending.iter().map(|(descriptor, _)| descriptor.clone());
            self.sent_for_prepare.extend(names);
        }
        while !pending.is_empty() {
            let take = pending.len().min(BATCH_MAX);
            let (manifest, descriptors) = pending.drain(..take).unzip();
            self.batches += 1;
            let message = ToChild::Descriptors {
                batch: self.batches,
                manifest,
            };
            drop(self.outbox.send((message, descriptors)));
        }
    }
}

/// What has not been sent when the child ends is dropped with the queue, and the descriptors with it: a listening socket that
/// somebody still holds stays in its group.
///
/// Messages in order. After a batch of descriptors the next message waits until the child has taken them: descriptors in
/// flight count against this process's limit.
async fn write(
    channel: Rc<Channel<ToChild, FromChild>>,
    mut queue: mpsc::UnboundedReceiver<Parcel>,
    taken: Rc<Notify>,
) {
    while let Some((message, descriptors)) = queue.recv().await {
        let borrowed: Vec<_> = descriptors.iter().map(|fd| fd.as_fd()).collect();
        if channel.send(&message, &borrowed).await.is_err() {
            return;
        }
        if !borrowed.is_empty() {
            taken.notified().await;
        }
    }
}

async fn read(
    channel: Rc<Channel<ToChild, FromChild>>,
    taken: &Notify,
    who: Who,
    incarnation: u64,
    events: mpsc::UnboundedSender<FromTasks>,
) {
    loop {
        let message = match channel.receive().await {
            Ok((message, _)) => message,
            Err(ChannelError::Closed) => return,
            Err(error) => {
                tracing::error!(%who, %error, "a child speaks another language");
                return;
            }
        };
        if matches!(
            message,
            FromChild::Taken { .. } | FromChild::NotTaken { .. }
        ) {
            taken.notify_one();
        }
        let event = FromTasks::Message {
            who,
            incarnation,
            message,
        };
        if events.send(event).is_err() {
            return;
        }
    }
}

/// A process descriptor becomes readable when the process has ended, whoever sent it what signal.
async fn wait(
    pidfd: OwnedFd,
    who: Who,
    incarnation: u64,
    events: mpsc::UnboundedSender<FromTasks>,
) {
    let Ok(pidfd) = watch(pidfd, Interest::READABLE) else {
        return;
    };
    loop {
        let Ok(mut ready) = pidfd.readable().await else {
            return;
        };
        match process::reap(pidfd.get_ref().as_fd()) {
            Ok(Some(status)) => {
                let event = FromTasks::Exited {
                    who,
                    incarnation,
                    status,
                };
                drop(events.send(event));
                return;
            }
            Ok(None) => ready.clear_ready(),
            Err(error) => {
                tracing::error!(%who, %error, "cannot reap");
                return;
            }
        }
    }
}

fn spawn_task(task: impl Future<Output = ()> + 'static) {
    // Detached: ends with the child.
    drop(tokio::task::spawn_local(task));
}
