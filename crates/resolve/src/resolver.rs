//! Follows names: one task each.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;

use evenkeel_plan::{Address, ResolveSpec};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::client::{Client, Contents, Files};
use crate::lookup::{Found, Memory, in_order, look_up};
use crate::schedule::{self, PACE};
use crate::words::{Known, words};

/// How often the system's files are looked at.
const FILES_PERIOD: Duration = Duration::from_secs(5);

/// How a look-up ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LookUp<'a> {
    /// Why it failed, in words that are the same for the same cause; `None` = it did not.
    pub failure: Option<&'a str>,
    /// Whether the one before ended otherwise. The first one is news only when it failed.
    pub is_news: bool,
}

/// Where answers go. Must not call back into the resolver.
pub trait Sink {
    /// A name stands for `endpoints` from now on, and not for what it stood for before: in order, at least one and at most
    /// [`evenkeel_plan::ENDPOINTS_MAX`].
    fn resolved(&self, address: &Address, endpoints: &[SocketAddr]);

    /// A look-up has ended. Called before [`Self::resolved`].
    fn looked_up(&self, address: &Address, ended: LookUp<'_>);
}

/// Follows names as local tasks of the current `LocalSet`. Dropping it stops them.
pub struct Resolver<S> {
    shared: Rc<Shared<S>>,
    names: HashMap<Address, Name>,
    /// Last good answers of names that are not followed yet.
    seeds: HashMap<Address, Vec<SocketAddr>>,
    watch: Option<AbortHandle>,
}

struct Shared<S> {
    sink: S,
    files: Files,
    settings: RefCell<Settings>,
    entries: RefCell<HashMap<Address, Weak<Entry>>>,
    random: Cell<u64>,
}

struct Settings {
    spec: ResolveSpec,
    contents: Contents,
    client: Option<Rc<Client>>,
}

struct Entry {
    address: Address,
    known: RefCell<Known>,
    /// Look up now.
    wake: Notify,
}

struct Name {
    entry: Rc<Entry>,
    task: AbortHandle,
}

impl<S: Sink + 'static> Resolver<S> {
    /// Follows nothing yet.
    #[must_use]
    pub fn new(sink: S, files: Files) -> Self {
        Self {
            shared: Rc::new(Shared {
                sink,
                files,
                settings: RefCell::new(Settings {
                    spec: ResolveSpec::default(),
                    contents: Contents::default(),
                    client: None,
                }),
                entries: RefCell::default(),
                // From the seed that the system gives every hash map.
                random: Cell::new(RandomState::new().hash_one(0)),
            }),
            names: HashMap::new(),
            seeds: HashMap::new(),
            watch: None,
        }
    }

    /// What was last known of a name, for when it is followed. Not told to the sink, and told no more when DNS says the same.
    pub fn seed(&mut self, address: Address, endpoints: Vec<SocketAddr>) {
        if endpoints.is_empty() {
            return;
        }
        let endpoints = in_order(endpoints);
        match self.names.get(&address) {
            Some(name) => {
                let known = &mut *name.entry.known.borrow_mut();
                if known.endpoints.is_empty() {
                    known.endpoints = endpoints;
                }
            }
            None => {
                self.seeds.insert(address, endpoints);
            }
        }
    }

    /// Follows exactly `addresses` from now on; those that are no names are passed over. What was followed before goes on
    /// undisturbed, but for other name servers everything is asked for again.
    ///
    /// # Panics
    /// Outside a `LocalSet`.
    pub fn apply(&mut self, spec: &ResolveSpec, addresses: impl IntoIterator<Item = Address>) {
        let wanted: HashSet<_> = addresses
            .into_iter()
            .filter(|address| address.name().is_some())
            .collect();
        self.names.retain(|address, name| {
            let keep = wanted.contains(address);
            if !keep {
                name.task.abort();
            }
            keep
        });
        if wanted.is_empty() {
            // No name, no file: where nothing is to be resolved nothing is read.
            if let Some(watch) = self.watch.take() {
                watch.abort();
            }
            self.shared.settings.borrow_mut().client = None;
            self.shared.settings.borrow_mut().spec = spec.clone();
            return;
        }
        let contents = match &self.watch {
            Some(_) => self.shared.settings.borrow().contents.clone(),
            None => self.shared.files.read(),
        };
        self.shared.set(spec.clone(), contents);
        for address in wanted {
            if !self.names.contains_key(&address) {
                self.follow(address);
            }
        }
        if self.watch.is_none() {
            let task = tokio::task::spawn_local(watch(Rc::clone(&self.shared)));
            self.watch = Some(task.abort_handle());
        }
    }

    fn follow(&mut self, address: Address) {
        let known = Known {
            endpoints: self.seeds.remove(&address).unwrap_or_default(),
            ..Known::default()
        };
        let entry = Rc::new(Entry {
            address: address.clone(),
            known: RefCell::new(known),
            wake: Notify::new(),
        });
        let mut entries = self.shared.entries.borrow_mut();
        entries.insert(address.clone(), Rc::downgrade(&entry));
        let task = follow(Rc::clone(&self.shared), Rc::clone(&entry));
        let task = tokio::task::spawn_local(task).abort_handle();
        self.names.insert(address, Name { entry, task });
    }

    /// Looks a name up now, since what it last stood for does not answer; not more often than [`PACE`].
    pub fn again(&self, address: &Address) {
        if let Some(name) = self.names.get(address) {
            name.entry.wake.notify_one();
        }
    }

    /// The last good answer; empty when there is none or the name is not followed.
    #[must_use]
    pub fn endpoints(&self, address: &Address) -> Vec<SocketAddr> {
        let name = self.names.get(address);
        name.map_or_else(Vec::new, |name| name.entry.known.borrow().endpoints.clone())
    }

    /// What is known of a name, in words; empty when it is not followed.
    #[must_use]
    pub fn words(&self, address: &Address) -> String {
        self.names.get(address).map_or_else(String::new, |name| {
            words(address, &name.entry.known.borrow(), Instant::now())
        })
    }
}

impl<S> Drop for Resolver<S> {
    fn drop(&mut self) {
        for name in self.names.values() {
            name.task.abort();
        }
        if let Some(watch) = &self.watch {
            watch.abort();
        }
    }
}

impl<S> fmt::Debug for Resolver<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver")
            .field("names", &self.names.len())
            .finish_non_exhaustive()
    }
}

impl<S> Shared<S> {
    /// Takes new settings; where they lead to other name servers or fixed names, everything is looked up again.
    fn set(&self, spec: ResolveSpec, contents: Contents) {
        let mut settings = self.settings.borrow_mut();
        let is_same = settings.client.is_some()
            && (&settings.spec.servers, settings.spec.timeout) == (&spec.servers, spec.timeout)
            && settings.contents == contents;
        if !is_same {
            match Client::new(&spec, &contents) {
                Ok(client) => settings.client = Some(Rc::new(client)),
                // Those before are better than none.
                Err(error) => tracing::error!(error, "cannot use the name servers"),
            }
        }
        settings.spec = spec;
        settings.contents = contents;
        drop(settings);
        let mut entries = self.entries.borrow_mut();
        entries.retain(|_, entry| entry.strong_count() > 0);
        if !is_same {
            let entries = entries.values().filter_map(Weak::upgrade);
            entries.for_each(|entry| entry.wake.notify_one());
        }
    }

    /// splitmix64 (Steele, Lea, Flood 2014): enough to spread look-ups over time.
    fn random(&self) -> u32 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 32) as u32
    }
}

impl<S: Sink> Shared<S> {
    /// Takes the end of a look-up. Returns how long after its start the next one begins.
    fn settle(&self, entry: &Entry, found: Found) -> Duration {
        let now = Instant::now();
        let mut known = entry.known.borrow_mut();
        let was_failing = known.failing;
        known.failing = found.is_err();
        let spec = self.settings.borrow().spec.clone();
        match found {
            Ok((endpoints, ttl)) => {
                let changed = known.endpoints != endpoints;
                known.endpoints.clone_from(&endpoints);
                known.resolved = Some(now);
                drop(known);
                let ended = LookUp {
                    failure: None,
                    is_news: was_failing,
                };
                self.sink.looked_up(&entry.address, ended);
                if changed {
                    self.sink.resolved(&entry.address, &endpoints);
                }
                schedule::kept(ttl, spec.ttl_min, spec.ttl_max, self.random())
            }
            Err(why) => {
                let before = known.failure.as_ref().map(|(why, _)| why);
                let is_news = !was_failing || before != Some(&why);
                known.failure = Some((why.clone(), now));
                drop(known);
                let ended = LookUp {
                    failure: Some(&why),
                    is_news,
                };
                self.sink.looked_up(&entry.address, ended);
                schedule::retry(spec.retry, self.random())
            }
        }
    }
}

async fn follow<S: Sink>(shared: Rc<Shared<S>>, entry: Rc<Entry>) {
    let mut memory = Memory::new();
    loop {
        let started = Instant::now();
        entry.known.borrow_mut().next = None;
        let (client, timeout) = {
            let settings = shared.settings.borrow();
            (settings.client.clone(), settings.spec.timeout)
        };
        let found = match client {
            Some(client) => {
                let looking = look_up(&client, &entry.address, &mut memory, started + timeout);
                Box::pin(looking).await
            }
            None => Err("there is no name server".to_owned()),
        };
        let wait = shared.settle(&entry, found);
        let now = Instant::now();
        let next = (started + wait.max(PACE)).max(now);
        entry.known.borrow_mut().next = Some(next);
        tokio::select! {
            () = sleep_until(next) => {}
            () = entry.wake.notified() => {
                let soonest = started + PACE;
                if soonest > now {
                    entry.known.borrow_mut().next = Some(soonest);
                    sleep_until(soonest).await;
                }
            }
        }
    }
}

/// Looks whether the system's files have changed.
async fn watch<S>(shared: Rc<Shared<S>>) {
    loop {
        sleep(FILES_PERIOD).await;
        let files = shared.files.clone();
        let read = tokio::task::spawn_blocking(move || files.read());
        // It neither panics nor is aborted.
        let Ok(contents) = read.await else { continue };
        let spec = {
            let settings = shared.settings.borrow();
            if settings.contents == contents {
                continue;
            }
            settings.spec.clone()
        };
        tracing::info!("name servers or fixed names of this host have changed");
        shared.set(spec, contents);
    }
}
