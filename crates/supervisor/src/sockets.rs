//! The listening sockets: one a listener and slot, kept while the slot exists.
//!
//! A socket's index in its `SO_REUSEPORT` group is its slot's number, because sockets begin to listen lowest slot first and are
//! closed highest first. What was inherited is taken in only where that still holds; else the group is left to the kernel's
//! hash.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use evenkeel_plan::{KeepaliveSpec, ListenerCell, ListenerSpec, Plan, SlotIdx};
use evenkeel_sys::{listen, outgoing, steer};

use crate::store::Store;

/// Why sockets could not be made.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address} for service `{service}`")]
pub(crate) struct ListenError {
    /// The configured address.
    pub(crate) address: SocketAddr,
    /// The service.
    pub(crate) service: String,
    /// What the kernel said.
    #[source]
    pub(crate) source: io::Error,
}

/// A listening socket from before this supervisor: from systemd's store, or from orphans.
#[derive(Debug)]
pub(crate) struct Inherited {
    /// The slot it belonged to.
    pub(crate) slot: SlotIdx,
    /// Its address.
    pub(crate) address: SocketAddr,
    /// Name of its place in the configuration, where known: decides for listeners whose port the kernel chose.
    pub(crate) place: Option<String>,
    /// The socket.
    pub(crate) socket: OwnedFd,
}

#[derive(Debug)]
struct Group {
    service: String,
    /// Position among the service's listeners.
    index: usize,
    spec: ListenerSpec,
    /// What accepted sockets inherit.
    keepalive: KeepaliveSpec,
    /// With the real port.
    address: SocketAddr,
    sockets: Vec<Arc<OwnedFd>>,
    steerable: bool,
}

/// All listening sockets.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    groups: BTreeMap<ListenerCell, Group>,
    pending: BTreeMap<ListenerCell, Group>,
    open: u16,
    live: Vec<u16>,
}

impl Sockets {
    /// Takes in what was inherited for the listeners of `plan`, and sets the number of open slots to what that needs and at
    /// least `wanted`. Whatever fits no listener is returned, and dropping it closes it.
    pub(crate) fn inherit(
        &mut self,
        plan: &Plan,
        wanted: u16,
        inherited: Vec<Inherited>,
    ) -> Vec<Inherited> {
        let mut rest = inherited;
        let places = places(plan);
        // Explicit addresses first, so that a listener with port 0 takes none of theirs.
        let by_port = |wants_port: bool| {
            let places = places.iter();
            places.filter(move |place| (place.spec.address.port() != 0) == wants_port)
        };
        for found in by_port(true).chain(by_port(false)) {
            let spec = &found.spec;
            let place = place_name(&found.service, found.index);
            let fits = |found: &Inherited| match spec.address.port() {
                0 => {
                    found.address.ip() == spec.address.ip()
                        && found.place.as_ref().is_none_or(|name| *name == place)
                }
                _ => found.address == spec.address,
            };
            let Some(address) = rest
                .iter()
                .find(|found| fits(found))
                .map(|found| found.address)
            else {
                continue;
            };
            let (mut ours, others): (Vec<_>, Vec<_>) =
                rest.into_iter().partition(|found| found.address == address);
            rest = others;
            ours.sort_by_key(|found| found.slot);
            ours.dedup_by_key(|found| found.slot);
            let in_order = ours
                .iter()
                .enumerate()
                .all(|(position, found)| usize::from(found.slot.0) == position);
            self.open = self.open.max(u16::try_from(ours.len()).unwrap_or(u16::MAX));
            let group = Group {
                sockets: ours
                    .into_iter()
                    .map(|found| Arc::new(found.socket))
                    .collect(),
                steerable: in_order,
                ..Group::new(found, address)
            };
            // They have what the configuration of their day said.
            group.hand_keepalive_on();
            self.groups.insert(found.cell, group);
        }
        self.open = self.open.max(wanted);
        rest
    }

    /// Binds sockets for the listeners of `plan` that have none, in every open slot; they do not listen yet.
    ///
    /// # Errors
    /// [`ListenError`]; nothing is kept then.
    pub(crate) fn bind(&mut self, plan: &Plan) -> Result<(), ListenError> {
        self.discard();
        for place in places(plan) {
            if self.groups.contains_key(&place.cell) {
                continue;
            }
            let mut group = Group::new(&place, place.spec.address);
            for _ in 0..self.open {
                if let Err(error) = group.add() {
                    self.discard();
                    return Err(error);
                }
            }
            self.pending.insert(place.cell, group);
        }
        Ok(())
    }

    /// Throws away what was bound and never listened.
    pub(crate) fn discard(&mut self) {
        self.pending.clear();
    }

    /// Puts `plan` in force: what was bound begins to listen, what the plan does not name is closed, and what stays hands the
    /// plan's keepalive on from now on.
    ///
    /// # Errors
    /// [`ListenError`] of the first socket that could not listen; the others do.
    pub(crate) fn commit(&mut self, plan: &Plan, store: &Store) -> Result<(), ListenError> {
        let mut result = Ok(());
        for (cell, group) in std::mem::take(&mut self.pending) {
            for slot in 0..group.sockets.len() {
                if let Err(error) = group.begin(slot, store) {
                    result = Err(error);
                }
            }
            self.groups.insert(cell, group);
        }
        for place in places(plan) {
            if let Some(group) = self.groups.get_mut(&place.cell) {
                group.follow(place);
            }
        }
        let named: Vec<ListenerCell> = plan
            .listeners()
            .map(|(listener, _)| listener.cell)
            .collect();
        let gone = self.groups.extract_if(.., |cell, _| !named.contains(cell));
        for (_, group) in gone {
            for slot in 0..group.sockets.len() {
                store.remove(&group.store_name(slot));
            }
        }
        self.attach();
        result
    }

    /// Brings every group to the number of open slots; used once, after inheriting.
    ///
    /// # Errors
    /// [`ListenError`].
    pub(crate) fn fill(&mut self, store: &Store) -> Result<(), ListenError> {
        for group in self.groups.values_mut() {
            while group.sockets.len() < usize::from(self.open) {
                group.add()?;
                group.begin(group.sockets.len() - 1, store)?;
            }
            for slot in 0..group.sockets.len() {
                group.begin(slot, store)?;
            }
        }
        Ok(())
    }

    /// Makes the sockets of one more slot.
    ///
    /// # Errors
    /// [`ListenError`]; the slot is not open then.
    ///
    /// # Panics
    /// When `slot` is not the next: a bug in the machine that asks for it.
    pub(crate) fn open(&mut self, slot: SlotIdx, store: &Store) -> Result<(), ListenError> {
        assert_eq!(slot.0, self.open, "slots are opened in order");
        let position = usize::from(slot.0);
        let mut result = Ok(());
        for group in self.groups.values_mut().chain(self.pending.values_mut()) {
            if result.is_ok() {
                result = group.add();
            }
        }
        for group in self.groups.values() {
            if result.is_ok() {
                result = group.begin(position, store);
            }
        }
        self.open += 1;
        if result.is_err() {
            self.close(slot, store);
        }
        result
    }

    /// Closes the sockets of the last slot.
    ///
    /// # Panics
    /// When `slot` is not the last: a bug in the machine that asks for it.
    pub(crate) fn close(&mut self, slot: SlotIdx, store: &Store) {
        assert_eq!(slot.0 + 1, self.open, "slots are closed in order");
        self.open -= 1;
        let keep = usize::from(self.open);
        for group in self.groups.values_mut() {
            for position in keep..group.sockets.len() {
                store.remove(&group.store_name(position));
            }
            group.sockets.truncate(keep);
        }
        for group in self.pending.values_mut() {
            group.sockets.truncate(keep);
        }
    }

    /// Closes this process's copies of all sockets.
    pub(crate) fn close_all(&mut self) {
        self.groups.clear();
        self.pending.clear();
        self.open = 0;
    }

    /// Lets every group choose among `live`.
    pub(crate) fn steer(&mut self, live: &[SlotIdx]) {
        self.live = live.iter().map(|slot| slot.0).collect();
        self.attach();
    }

    fn attach(&self) {
        if self.live.is_empty() {
            return;
        }
        for group in self.groups.values() {
            let Some(first) = group.sockets.first() else {
                continue;
            };
            let result = if group.steerable {
                steer::attach(first.as_fd(), &self.live)
            } else {
                steer::detach(first.as_fd())
            };
            if let Err(error) = result {
                tracing::warn!(address = %group.address, %error, "cannot steer new connections");
            }
        }
    }

    /// Sockets of `slot` for every listener of `plan`, bound or listening, with their addresses.
    pub(crate) fn of_slot(
        &self,
        plan: &Plan,
        slot: SlotIdx,
    ) -> Vec<(ListenerCell, SocketAddr, Arc<OwnedFd>)> {
        plan.listeners()
            .filter_map(|(listener, _)| {
                let group = self
                    .groups
                    .get(&listener.cell)
                    .or_else(|| self.pending.get(&listener.cell))?;
                let socket = group.sockets.get(usize::from(slot.0))?;
                Some((listener.cell, group.address, Arc::clone(socket)))
            })
            .collect()
    }

    /// Slots in which somebody waits to be accepted.
    #[must_use]
    pub(crate) fn queued(&self, slots: impl Iterator<Item = SlotIdx>) -> Vec<SlotIdx> {
        let waits = |slot: &SlotIdx| {
            self.groups.values().any(|group| {
                let socket = group.sockets.get(usize::from(slot.0));
                socket.is_some_and(|socket| listen::queued(socket.as_fd()).is_ok_and(|n| n > 0))
            })
        };
        slots.filter(waits).collect()
    }

    /// The real address of a listener.
    #[must_use]
    pub(crate) fn address(&self, cell: ListenerCell) -> Option<SocketAddr> {
        self.groups.get(&cell).map(|group| group.address)
    }

    /// Slots that have sockets.
    #[must_use]
    pub(crate) fn open_slots(&self) -> u16 {
        self.open
    }

    /// How many sockets there are.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.groups.values().map(|group| group.sockets.len()).sum()
    }
}

/// A listener's place in the configuration.
#[derive(Debug)]
struct Place {
    service: String,
    /// Position among the service's listeners.
    index: usize,
    spec: ListenerSpec,
    keepalive: KeepaliveSpec,
    cell: ListenerCell,
}

impl Group {
    /// Without sockets yet.
    fn new(place: &Place, address: SocketAddr) -> Self {
        Self {
            service: place.service.clone(),
            index: place.index,
            spec: place.spec.clone(),
            keepalive: place.keepalive,
            address,
            sockets: Vec::new(),
            steerable: true,
        }
    }

    /// Takes what another plan says of it.
    fn follow(&mut self, place: Place) {
        self.spec = place.spec;
        if self.keepalive != place.keepalive {
            self.keepalive = place.keepalive;
            self.hand_keepalive_on();
        }
    }

    fn hand_keepalive_on(&self) {
        for socket in &self.sockets {
            if let Err(error) = set_keepalive(socket, &self.keepalive) {
                tracing::warn!(address = %self.address, %error, "cannot set keepalive");
            }
        }
    }

    /// Binds one more socket.
    fn add(&mut self) -> Result<(), ListenError> {
        let options = listen::Options {
            freebind: self.spec.freebind,
        };
        let bind = || -> io::Result<(OwnedFd, SocketAddr)> {
            let socket = listen::bind(self.address, options)?;
            set_keepalive(&socket, &self.keepalive)?;
            let address = listen::local_address(socket.as_fd())?;
            Ok((socket, address))
        };
        let (socket, address) = bind().map_err(|source| self.error(source))?;
        self.address = address;
        self.sockets.push(Arc::new(socket));
        Ok(())
    }

    /// Lets a socket listen, and puts it in the store.
    fn begin(&self, slot: usize, store: &Store) -> Result<(), ListenError> {
        let socket = &self.sockets[slot];
        listen::listen(socket.as_fd(), self.spec.backlog).map_err(|source| self.error(source))?;
        store.keep(&self.store_name(slot), socket.as_fd());
        Ok(())
    }

    fn error(&self, source: io::Error) -> ListenError {
        ListenError {
            address: self.address,
            service: self.service.clone(),
            source,
        }
    }

    fn store_name(&self, slot: usize) -> String {
        format!("listener.{slot}.{}", place_name(&self.service, self.index))
    }
}

/// Reads the name that a socket has in the store: slot and place.
#[must_use]
pub(crate) fn parse_store_name(name: &str) -> Option<(SlotIdx, String)> {
    let (slot, place) = name.strip_prefix("listener.")?.split_once('.')?;
    Some((SlotIdx(slot.parse().ok()?), place.to_owned()))
}

/// `INDEX.SERVICE`: the service last, since its name may have dots.
fn place_name(service: &str, index: usize) -> String {
    format!("{index}.{service}")
}

fn places(plan: &Plan) -> Vec<Place> {
    plan.services()
        .flat_map(|sealed| {
            let record = sealed.record();
            let listeners = record.listeners().enumerate();
            listeners.map(move |(index, listener)| Place {
                service: record.name().to_string(),
                index,
                spec: listener.spec.clone(),
                keepalive: record.spec.keepalive,
                cell: listener.cell,
            })
        })
        .collect()
}

/// What accepted sockets inherit from now on.
fn set_keepalive(socket: &OwnedFd, spec: &KeepaliveSpec) -> io::Result<()> {
    outgoing::keepalive(socket.as_fd(), spec.idle, spec.interval, spec.probes)?;
    outgoing::user_timeout(socket.as_fd(), spec.user_timeout)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use evenkeel_plan::{
        Address, BackendName, BackendSpec, Globals, ServiceName, ServiceSpec, Spec,
    };

    use rustix::net::sockopt;

    use super::*;
    use crate::cells::CellTable;
    use crate::seal::{Names, seal};

    fn plan(keepalive: KeepaliveSpec, before: &Plan) -> Plan {
        let address = "127.0.0.1:0".parse().unwrap();
        let backend = BackendSpec::at(BackendName::new("b1").unwrap(), Address::Socket(address));
        let service = ServiceSpec {
            keepalive,
            ..ServiceSpec::new(
                ServiceName::new("web").unwrap(),
                vec![ListenerSpec::at(address)],
                vec![backend],
            )
        };
        let spec = Spec {
            globals: Globals::default(),
            services: vec![service],
        };
        let table = CellTable::new(4, 4, 4);
        let generation = before.generation + 1;
        let sealed = seal(&spec, generation, before, &table, &Names::new());
        sealed.unwrap().plan
    }

    /// Quiet time before the first probe, and user timeout, of a new connection.
    fn inherited(sockets: &Sockets) -> (Duration, Duration) {
        let (_, group) = sockets.groups.first_key_value().unwrap();
        let listener = TcpListener::from(group.sockets[0].try_clone().unwrap());
        let _client = TcpStream::connect(group.address).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let idle = sockopt::tcp_keepidle(&accepted).unwrap();
        let millis = sockopt::tcp_user_timeout(&accepted).unwrap();
        (idle, Duration::from_millis(u64::from(millis)))
    }

    #[test]
    fn living_sockets_hand_on_what_the_plan_in_force_says() {
        let of = |idle, user_timeout| KeepaliveSpec {
            idle: Some(Duration::from_secs(idle)),
            user_timeout: Some(Duration::from_secs(user_timeout)),
            ..KeepaliveSpec::default()
        };
        let expected =
            |idle, user_timeout| (Duration::from_secs(idle), Duration::from_secs(user_timeout));
        let store = Store::none();
        let mut sockets = Sockets {
            open: 1,
            ..Sockets::default()
        };
        let first = plan(of(11, 12), &Plan::empty());
        sockets.bind(&first).unwrap();
        sockets.commit(&first, &store).unwrap();
        assert_eq!(inherited(&sockets), expected(11, 12));
        let second = plan(of(21, 22), &first);
        sockets.bind(&second).unwrap();
        assert_eq!(inherited(&sockets), expected(11, 12), "not in force yet");
        sockets.commit(&second, &store).unwrap();
        assert_eq!(inherited(&sockets), expected(21, 22));
        assert_eq!(sockets.groups.len(), 1);
    }

    #[test]
    fn store_names_say_slot_and_place() {
        let place = place_name("a.b-c", 3);
        let parsed = parse_store_name(&format!("listener.12.{place}"));
        assert_eq!(parsed, Some((SlotIdx(12), "3.a.b-c".to_owned())));
        assert_eq!(parse_store_name("listener"), None);
        assert_eq!(parse_store_name("other.1.0.web"), None);
    }
}
