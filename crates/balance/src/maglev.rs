//! Source hash: the same source goes to the same backend, in every worker and on every balancer.
//!
//! Nothing is shared and nobody is asked: a [`Table`] is computed from the backends alone, so all who
//! know the same backends have the same table, in whatever order they know them. A backend is known
//! by its identity, a hash that the caller makes of its name and address; tables are built in
//! the order of identities.
//!
//! ```text
//! source address --hash--> slot --> backend, if eligible
//!                            |
//!                            +----> up to 16 further slots, from the hash (by weight)
//!                                     |
//!                                     +----> the rest, from the hash, each once
//! ```
//!
//! # Weights
//!
//! Each backend fills slots of the table in an order of its own, by turns; one with half the weight
//! has a turn every other round (as Envoy does, and Katran in its second version). Each gets one slot
//! at least, so weights are kept to within about a slot.
//!
//! # What moves
//!
//! When a backend stops being eligible, the table stays: its sources go to others, each to one that
//! its hash says, and nobody else moves. They return when it does.
//!
//! When a backend leaves the list, its sources move and some of the others'. Measured over 60,000
//! services of 2 to 40 backends, these are 1.2 % of all in the median, 3 % at most in 99 of 100, and 30 %
//! in the worst one, where two backends' orders happened to run alike. When a weight changes, the
//! difference of the shares moves and about as few others.
//!
//! When the list grows over a limit of [`Size::of`] (10 or 81 backends), the size of the table
//! changes and nearly everything moves once. Whoever cannot have that fixes the size from the start.
//!
//! Source: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016,
//! section 3.4.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Most backends in a table; entries after so many are left out.
pub const MEMBERS_MAX: usize = u16::MAX as usize;

/// How many slots are asked after the first one before the rest is gone through. With half of the
/// backends down, one source in 131,072 gets further than this.
const PROBES: usize = 16;

const EMPTY: u16 = u16::MAX;
const _: () = assert!(MEMBERS_MAX <= EMPTY as usize, "no member is EMPTY");

/// Number of slots. A prime, so that each backend's order reaches every slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// 8,191 slots, 16 KiB.
    Medium,
    /// 65,537 slots, 128 KiB: the size of the paper.
    Large,
}

impl Size {
    /// The size for so many backends: at least 100 slots a backend, which are what the paper asks for
    /// to keep the shares equal to within 1 %; beyond 655 backends fewer. A service that grows past
    /// 81 backends changes its size, and nearly every source moves once; so there is no smaller one,
    /// which would be passed sooner.
    #[must_use]
    pub const fn of(backends: usize) -> Self {
        match backends {
            0..=81 => Self::Medium,
            82.. => Self::Large,
        }
    }

    /// Number of slots.
    #[must_use]
    pub const fn slots(self) -> u32 {
        match self {
            Self::Medium => 8_191,
            Self::Large => 65_537,
        }
    }
}

/// Who gets which hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Index of a backend for each slot; empty when there is no backend.
    slots: Box<[u16]>,
    /// Indices of all backends in the table, in the order of identities.
    members: Box<[u16]>,
    /// The least prime that is not below the number of members.
    stride: u32,
}

impl Table {
    /// The table of `entries`, each an identity and a weight; those with weight 0 are left out.
    ///
    /// Identities are distinct; equal ones share the slots of one order, and which of the two gets
    /// which then depends on the order of `entries`.
    ///
    /// Takes time in proportion to the slots: 0.2 milliseconds for 8,191 of them, 3 milliseconds for 65,537
    /// (measured), so a worker had better not build many large ones between two events.
    #[must_use]
    pub fn build(entries: &[(u64, u32)], size: Size) -> Self {
        let mut ranked: Vec<(u64, u16, u32)> = (0..EMPTY)
            .zip(entries)
            .filter(|&(_, &(_, weight))| weight > 0)
            .map(|(index, &(identity, weight))| (identity, index, weight))
            .collect();
        ranked.sort_unstable();
        Self {
            slots: fill(&ranked, size.slots()),
            members: ranked.iter().map(|&(_, index, _)| index).collect(),
            stride: prime_from(ranked.len()),
        }
    }

    /// The backends for `hash`, as indices of the entries the table was built from: first the one
    /// that has it, then in which order the others stand in. Each comes exactly once.
    ///
    /// The order depends on the hash and on the identities and weights alone. A step is short; going
    /// through all of them grows with their number.
    #[inline]
    #[must_use]
    pub fn candidates(&self, hash: u64) -> Candidates<'_> {
        Candidates {
            table: self,
            hash,
            given: [EMPTY; PROBES + 1],
            given_count: 0,
            probe: 0,
            swept: 0,
        }
    }
}

/// What [`Table::candidates`] returns.
#[derive(Clone, Debug)]
pub struct Candidates<'a> {
    table: &'a Table,
    hash: u64,
    /// What the probes gave, so that none comes twice.
    given: [u16; PROBES + 1],
    given_count: usize,
    /// The next probe; 0 is the slot that the hash has.
    probe: usize,
    /// Steps of the sweep that were made.
    swept: u32,
}

impl Iterator for Candidates<'_> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        while self.probe <= PROBES && !self.table.slots.is_empty() {
            let hash = match self.probe {
                0 => self.hash,
                probe => mix(self.hash ^ mix(probe as u64)),
            };
            self.probe += 1;
            let index = self.table.slots[reduce(hash, self.table.slots.len())];
            if !self.was_given(index) {
                self.given[self.given_count] = index;
                self.given_count += 1;
                return Some(usize::from(index));
            }
        }
        self.sweep()
    }
}

impl Candidates<'_> {
    /// The next of those that no probe gave. Steps of one length, from one start, both from the hash,
    /// meet every number below a prime once.
    fn sweep(&mut self) -> Option<usize> {
        let stride = u64::from(self.table.stride);
        let start = mix(self.hash ^ START) % stride;
        let length = mix(self.hash ^ LENGTH) % (stride - 1) + 1;
        while self.swept < self.table.stride {
            let position = (start + u64::from(self.swept) * length) % stride;
            self.swept += 1;
            let member = usize::try_from(position)
                .ok()
                .and_then(|position| self.table.members.get(position));
            if let Some(&index) = member
                && !self.was_given(index)
            {
                return Some(usize::from(index));
            }
        }
        None
    }

    #[inline]
    fn was_given(&self, index: u16) -> bool {
        self.given[..self.given_count].contains(&index)
    }
}

// Which number is derived from a hash or an identity. Any distinct constants do, but never others:
// all tables would change.
const OFFSET: u64 = 0x6f66_6673_6574_0001;
const SKIP: u64 = 0x736b_6970_0000_0002;
const START: u64 = 0x7374_6172_7400_0003;
const LENGTH: u64 = 0x6c65_6e67_7468_0004;

/// Fills the slots: by turns, in the order of `ranked`, each takes the next slot of its own order
/// that is free. Source: the paper's listing 1.
///
/// Turns are kept in a heap and not gone through round by round, since between two turns of a weight
/// of 1 there are 65,535 rounds when the heaviest weighs that.
fn fill(ranked: &[(u64, u16, u32)], size: u32) -> Box<[u16]> {
    let Some(heaviest) = ranked.iter().map(|&(_, _, weight)| u64::from(weight)).max() else {
        return Box::default();
    };
    let size = u64::from(size);
    let mut orders: Vec<Order> = ranked
        .iter()
        .map(|&(identity, _, _)| Order::new(identity, size))
        .collect();
    // Everybody's first turn is in round 0; the heap gives the lowest round, then the lowest rank.
    let mut turns: BinaryHeap<Reverse<(u64, usize)>> =
        (0..ranked.len()).map(|rank| Reverse((0, rank))).collect();
    let mut slots: Box<[u16]> = (0..size).map(|_| EMPTY).collect();
    for _ in 0..size {
        let Some(mut turn) = turns.peek_mut() else {
            break;
        };
        let Reverse((round, rank)) = &mut *turn;
        let (_, index, weight) = ranked[*rank];
        let order = &mut orders[*rank];
        while slots[order.position()] != EMPTY {
            order.advance(size);
        }
        slots[order.position()] = index;
        order.taken += 1;
        *round = (order.taken * heaviest).div_ceil(u64::from(weight));
    }
    slots
}

/// The order in which one backend wants the slots.
struct Order {
    position: u64,
    skip: u64,
    /// Slots that it has.
    taken: u64,
}

impl Order {
    fn new(identity: u64, size: u64) -> Self {
        Self {
            position: mix(identity ^ OFFSET) % size,
            skip: mix(identity ^ SKIP) % (size - 1) + 1,
            taken: 0,
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "below the number of slots, which fits 32 bits"
    )]
    const fn position(&self) -> usize {
        self.position as usize
    }

    const fn advance(&mut self, size: u64) {
        self.position += self.skip;
        if self.position >= size {
            self.position -= size;
        }
    }
}

/// The least prime that is not below `count`, and 2 at least. `count` is [`MEMBERS_MAX`] at most.
fn prime_from(count: usize) -> u32 {
    let is_prime = |number: u32| {
        (2..)
            .take_while(|divisor| divisor * divisor <= number)
            .all(|divisor| !number.is_multiple_of(divisor))
    };
    let mut number = u32::try_from(count).map_or(2, |count| count.max(2));
    while !is_prime(number) {
        number += 1;
    }
    number
}

#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the remainder is below a length"
)]
const fn reduce(hash: u64, len: usize) -> usize {
    (hash % len as u64) as usize
}

/// Spreads the bits. Source: the finalizer of SplitMix64.
#[inline]
const fn mix(bits: u64) -> u64 {
    let bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_primes_and_have_a_hundred_slots_a_backend() {
        for (backends, size) in [(10, Size::Medium), (81, Size::Medium), (655, Size::Large)] {
            let slots = size.slots();
            assert_eq!(prime_from(usize::try_from(slots).unwrap()), slots);
            assert_eq!(Size::of(backends), size);
            assert!(usize::try_from(slots).unwrap() >= 100 * backends);
        }
        assert_eq!(Size::of(5_000), Size::Large);
    }

    #[test]
    fn primes() {
        for (count, prime) in [(0, 2), (2, 2), (4, 5), (90, 97), (65_535, 65_537)] {
            assert_eq!(prime_from(count), prime);
        }
    }
}
