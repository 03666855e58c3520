//! Sequences recorded from IPVS (Linux 6.1) with `ipvsadm`, reproduced pick by pick.
//!
//! How: servers are added one after the other, as `ipvsadm -a` does, each with its `carry`; IPVS
//! puts the newest first, so the list is prepended to. Then connections are made and the digits of
//! the chosen servers compared. Recordings of connections that stayed open are the same to these
//! two schedulers, which do not look at connections.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy's exception covers test functions only"
)]

use evenkeel_balance::{Candidates, State, WeightSummary, rr, wrr};

#[test]
fn rr_as_recorded() {
    let cases = [
        ([1, 1, 1], "321321321321321321321321"),
        ([1, 0, 1], "313131313131313131313131"),
        // Connections held open.
        ([1, 1, 1], "321321"),
    ];
    for (weights, expected) in cases {
        let mut service = Service::new(Scheduler::Rr, weights);
        assert_eq!(service.picks(expected.len()), expected, "rr {weights:?}");
    }
}

#[test]
fn wrr_as_recorded() {
    let cases = [
        ([1, 1, 1], "321321321321321321321321"),
        ([4, 3, 2], "321121321321121321321121"),
        ([2, 3, 4], "321332321321332321321332"),
        ([5, 1, 1], "321111132111113211111321"),
        ([1, 1, 5], "321333332133333213333321"),
        ([10, 5, 5], "321132113211321132113211"),
        ([3, 0, 1], "311131113111311131113111"),
        // Connections held open.
        ([4, 3, 2], "321121321321"),
    ];
    for (weights, expected) in cases {
        let mut service = Service::new(Scheduler::Wrr, weights);
        assert_eq!(service.picks(expected.len()), expected, "wrr {weights:?}");
    }
}

/// A plan brings all servers at once; the sequence must not depend on that.
#[test]
fn wrr_given_the_whole_list_at_once() {
    let mut service = Service::new(Scheduler::Wrr, [2, 3, 4]);
    service.state = State::initial(0);
    assert_eq!(service.picks(24), "321332321321332321321332");
}

#[test]
fn rr_changed_on_the_fly() {
    let mut service = Service::new(Scheduler::Rr, [1, 1, 1]);
    assert_eq!(service.picks(4), "3213");
    service.add(4, 1);
    assert_eq!(service.picks(8), "21432143");
    service.delete(2);
    assert_eq!(service.picks(8), "14314314");
    service.set_weight(3, 0);
    assert_eq!(service.picks(6), "141414");
}

#[test]
fn wrr_changed_on_the_fly() {
    let mut service = Service::new(Scheduler::Wrr, [4, 2, 1]);
    assert_eq!(service.picks(9), "321112132");
    service.add(4, 3);
    assert_eq!(service.picks(12), "432114142143");
    service.set_weight(1, 1);
    assert_eq!(service.picks(12), "432144243214");
    service.delete(4);
    assert_eq!(service.picks(8), "23212321");
}

#[derive(Clone, Copy)]
enum Scheduler {
    Rr,
    Wrr,
}

#[derive(Clone, Copy)]
struct Server {
    digit: u64,
    weight: u32,
}

/// An IPVS service: newest server first.
struct Service {
    scheduler: Scheduler,
    servers: Vec<Server>,
    state: State,
}

impl Service {
    /// Adds a server per weight, numbered from 1.
    fn new(scheduler: Scheduler, weights: [u32; 3]) -> Self {
        let mut service = Self {
            scheduler,
            servers: Vec::new(),
            state: State::initial(0),
        };
        for (digit, weight) in (1..).zip(weights) {
            service.add(digit, weight);
        }
        service
    }

    fn add(&mut self, digit: u64, weight: u32) {
        self.change(|servers| servers.insert(0, Server { digit, weight }));
    }

    fn delete(&mut self, digit: u64) {
        self.change(|servers| servers.retain(|server| server.digit != digit));
    }

    fn set_weight(&mut self, digit: u64, weight: u32) {
        self.change(|servers| {
            for server in servers.iter_mut().filter(|server| server.digit == digit) {
                server.weight = weight;
            }
        });
    }

    fn picks(&mut self, count: usize) -> String {
        (0..count).map(|_| self.pick()).collect()
    }

    fn pick(&mut self) -> char {
        let picked = match self.scheduler {
            Scheduler::Rr => rr::step(self, self.state),
            Scheduler::Wrr => wrr::step(self, self.summary(), self.state),
        };
        let (index, state) = picked.expect("all are eligible");
        self.state = state;
        let digit = u32::try_from(self.servers[index].digit).unwrap();
        char::from_digit(digit, 10).unwrap()
    }

    fn change(&mut self, edit: impl FnOnce(&mut Vec<Server>)) {
        let old = self.identities();
        edit(&mut self.servers);
        let tag = self.state.tag + 1;
        self.state = match self.scheduler {
            Scheduler::Rr => rr::carry(&old, &self.identities(), self.state, tag),
            Scheduler::Wrr => wrr::carry(self.state, self.summary(), tag),
        };
    }

    fn identities(&self) -> Vec<u64> {
        self.servers.iter().map(|server| server.digit).collect()
    }

    fn summary(&self) -> WeightSummary {
        WeightSummary::of(self.servers.iter().map(|server| server.weight))
    }
}

impl Candidates for Service {
    fn len(&self) -> usize {
        self.servers.len()
    }

    fn weight(&self, index: usize) -> u32 {
        self.servers[index].weight
    }

    fn eligible(&self, _index: usize) -> bool {
        true
    }
}
