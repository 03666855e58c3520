//! Ports to connect from.

use std::cell::{Cell, OnceCell};
use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::ops::RangeInclusive;

/// What the kernel begins with (linux/net/ipv4/af_inet.c, `inet_init_net`).
const DEFAULT: RangeInclusive<u16> = 32_768..=60_999;

thread_local! {
    static RANGE: OnceCell<RangeInclusive<u16>> = const { OnceCell::new() };
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// Reads net.ipv4.ip_local_port_range, once a thread: nothing reads files while traffic flows.
pub(crate) fn read_range() {
    RANGE.with(|range| {
        range.get_or_init(|| {
            let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
            text.ok().and_then(|text| parse(&text)).unwrap_or(DEFAULT)
        });
    });
}

/// A port of the range.
pub(crate) fn random() -> u16 {
    let range = RANGE.with(|range| range.get().cloned()).unwrap_or(DEFAULT);
    let count = u64::from(range.end() - range.start()) + 1;
    let offset = u16::try_from(next() % count).unwrap_or(0);
    range.start() + offset
}

/// Xorshift (Marsaglia 2003): ports have to differ between workers, not to be secret; the kernel hides its own choice so
/// far as it matters, and this one is made only when nearly every port is in use.
fn next() -> u64 {
    SEED.with(|seed| {
        let mut state = seed.get();
        if state == 0 {
            state = RandomState::new().hash_one(0_u8) | 1;
        }
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        seed.set(state);
        state
    })
}

fn parse(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) if first <= last => Some(first..=last),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_of_the_range_of_the_host() {
        assert_eq!(parse("20000\t21999\n"), Some(20_000..=21_999));
        for wrong in ["", "1", "2 1", "1 70000", "a b"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
        read_range();
        let range = RANGE.with(|range| range.get().cloned().unwrap());
        let drawn: std::collections::HashSet<_> = (0..64).map(|_| random()).collect();
        assert!(drawn.iter().all(|port| range.contains(port)));
        assert!(drawn.len() > 1 || range.start() == range.end());
    }
}
