//! What happened lately, and who listens to what happens next.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::SystemTime;

use evenkeel_control::child::Event;
use tokio::sync::mpsc;

use crate::perform::Supervisor;

/// Events that are remembered.
const EVENTS_MAX: usize = 1_000;

/// Followers at the same time: fewer than conversations, so that they never keep an operator out.
const FOLLOWERS_MAX: usize = 16;

/// Events that wait for one follower; one that is slower is dropped.
const QUEUE_MAX: usize = 256;

/// The ring and its followers.
#[derive(Debug, Default)]
pub(crate) struct Events {
    ring: VecDeque<Event>,
    followers: Vec<Follower>,
}

#[derive(Debug)]
struct Follower {
    queue: mpsc::Sender<Event>,
    dropped: Rc<Cell<bool>>,
}

/// What a conversation gets.
#[derive(Debug)]
pub(crate) struct Subscription {
    /// What is remembered, oldest first.
    pub(crate) past: Vec<Event>,
    /// What happens from now on, where that is wanted.
    pub(crate) live: Option<Live>,
}

/// A follower's end.
#[derive(Debug)]
pub(crate) struct Live {
    /// Ends when the follower was dropped, or the supervisor ends.
    pub(crate) queue: mpsc::Receiver<Event>,
    dropped: Rc<Cell<bool>>,
}

impl Events {
    /// Remembers `event` and passes it on. Never waits.
    pub(crate) fn push(&mut self, event: Event) {
        self.followers
            .retain(|follower| match follower.queue.try_send(event.clone()) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    follower.dropped.set(true);
                    false
                }
                Err(mpsc::error::TrySendError::Closed(_)) => false,
            });
        if self.ring.len() == EVENTS_MAX {
            self.ring.pop_front();
        }
        self.ring.push_back(event);
    }

    /// What is remembered, and with `follow` also what comes.
    ///
    /// # Errors
    /// Why there can be no more followers, in words.
    pub(crate) fn subscribe(&mut self, follow: bool) -> Result<Subscription, String> {
        let past = self.ring.iter().cloned().collect();
        if !follow {
            return Ok(Subscription { past, live: None });
        }
        self.followers
            .retain(|follower| !follower.queue.is_closed());
        if self.followers.len() >= FOLLOWERS_MAX {
            return Err(format!("{FOLLOWERS_MAX} others follow the events already"));
        }
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        let dropped = Rc::new(Cell::new(false));
        self.followers.push(Follower {
            queue: sender,
            dropped: Rc::clone(&dropped),
        });
        let live = Some(Live { queue, dropped });
        Ok(Subscription { past, live })
    }

    /// What is remembered and `wanted`, oldest first, at most the last `most`.
    pub(crate) fn last(&self, most: usize, wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
        let newest = self.ring.iter().rev().filter(|event| wanted(event));
        let mut found: Vec<Event> = newest.take(most).cloned().collect();
        found.reverse();
        found
    }
}

impl Live {
    /// The last event of a follower that was too slow.
    pub(crate) fn last_word(&self) -> Option<Event> {
        self.dropped.get().then(|| {
            let text = format!(
                "no more events here: {QUEUE_MAX} were waiting to be read; `evenkeel events` shows what was missed"
            );
            event("process", "", text)
        })
    }
}

impl Supervisor {
    /// Something happened.
    pub(crate) fn happened(&mut self, kind: &str, subject: &str, text: impl Into<String>) {
        self.events.push(event(kind, subject, text.into()));
    }
}

fn event(kind: &str, subject: &str, text: String) -> Event {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Event {
        at_ms: since.map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        }),
        kind: kind.to_owned(),
        subject: subject.to_owned(),
        text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(n: usize) -> Event {
        event("admin", "web/a", n.to_string())
    }

    #[test]
    fn the_ring_forgets_the_oldest() {
        let mut events = Events::default();
        for n in 0..EVENTS_MAX + 5 {
            events.push(number(n));
        }
        let past = events.subscribe(false).unwrap().past;
        assert_eq!(past.len(), EVENTS_MAX);
        assert_eq!(past[0].text, "5");
        let last: Vec<String> = events
            .last(2, |event| event.subject == "web/a")
            .into_iter()
            .map(|event| event.text)
            .collect();
        assert_eq!(last, ["1003", "1004"]);
    }

    #[test]
    fn a_slow_follower_is_dropped_and_told_and_a_gone_one_is_forgotten() {
        let mut events = Events::default();
        let mut slow = events.subscribe(true).unwrap().live.unwrap();
        for n in 0..QUEUE_MAX {
            events.push(number(n));
        }
        assert!(slow.last_word().is_none());
        events.push(number(QUEUE_MAX));
        let mut got = 0;
        while slow.queue.try_recv().is_ok() {
            got += 1;
        }
        assert_eq!(got, QUEUE_MAX);
        assert!(slow.last_word().unwrap().text.contains("no more events"));
        let many: Vec<_> = (0..FOLLOWERS_MAX)
            .map(|_| events.subscribe(true).unwrap())
            .collect();
        assert!(events.subscribe(true).is_err());
        drop(many);
        assert!(events.subscribe(true).is_ok());
    }
}
