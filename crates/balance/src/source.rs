//! The hash of a source address, the same for ever and on every balancer.
//!
//! SipHash-2-4 under a key that is part of this file: a balancer of another version or make can
//! compute the same. The key is no secret. Whoever can choose among many source addresses can thus
//! aim at one backend; a limit per source is the answer to that, not a key that balancers would have
//! to share.
//!
//! Source: Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012.

use std::net::IpAddr;

/// "evenkeel" and "source\0\0" as little-endian words. Never to be changed: every client of a hashed
/// service would move.
const KEY: [u64; 2] = [
    u64::from_le_bytes(*b"evenkeel"),
    u64::from_le_bytes(*b"source\0\0"),
];

/// The hash of `address`, over its 4 or 16 bytes in network order. An IPv4 address hashes the same
/// when it is written as an IPv6 one (`::ffff:192.0.2.1`). The port is not part of it.
#[must_use]
pub fn of_address(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => of_bytes(&address.octets()),
        IpAddr::V6(address) => of_bytes(&address.octets()),
    }
}

/// The hash of any bytes, for what else must be the same everywhere, such as the identity of a
/// backend in [`maglev`](crate::maglev).
#[must_use]
pub fn of_bytes(bytes: &[u8]) -> u64 {
    siphash_2_4(KEY, bytes)
}

fn siphash_2_4(key: [u64; 2], bytes: &[u8]) -> u64 {
    let mut state = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ];
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        absorb(&mut state, u64::from_le_bytes(*word));
    }
    // The last word: what is left, and the length modulo 256 in the highest byte.
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let length = (bytes.len() as u64) << 56;
    absorb(&mut state, u64::from_le_bytes(last) | length);
    state[2] ^= 0xff;
    for _ in 0..4 {
        round(&mut state);
    }
    state[0] ^ state[1] ^ state[2] ^ state[3]
}

#[inline]
fn absorb(state: &mut [u64; 4], word: u64) {
    state[3] ^= word;
    round(state);
    round(state);
    state[0] ^= word;
}

#[inline]
fn round([a, b, c, d]: &mut [u64; 4]) {
    *a = a.wrapping_add(*b);
    *b = b.rotate_left(13) ^ *a;
    *a = a.rotate_left(32);
    *c = c.wrapping_add(*d);
    *d = d.rotate_left(16) ^ *c;
    *a = a.wrapping_add(*d);
    *d = d.rotate_left(21) ^ *a;
    *c = c.wrapping_add(*b);
    *b = b.rotate_left(17) ^ *c;
    *c = c.rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors of the paper and of its reference implementation: key 00 01 .. 0f, message 00 01 ..
    #[test]
    fn siphash_as_published() {
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        let message: Vec<u8> = (0..15).collect();
        assert_eq!(siphash_2_4(key, &[]), 0x726f_db47_dd0e_0e31);
        assert_eq!(siphash_2_4(key, &message[..1]), 0x74f8_39c5_93dc_67fd);
        assert_eq!(siphash_2_4(key, &message), 0xa129_ca61_49be_45e5);
    }

    /// The standard library's is the same function, but may not stay.
    #[test]
    #[expect(
        deprecated,
        reason = "deprecated in favour of a hasher that is not specified"
    )]
    fn siphash_as_in_the_standard_library() {
        use std::hash::{Hasher, SipHasher};
        let message: Vec<u8> = (0..=255).cycle().take(600).collect();
        for length in (0..40).chain([255, 256, 257, 600]) {
            let mut theirs = SipHasher::new_with_keys(KEY[0], KEY[1]);
            theirs.write(&message[..length]);
            assert_eq!(of_bytes(&message[..length]), theirs.finish(), "{length}");
        }
    }

    #[test]
    fn an_address_hashes_the_same_in_both_forms() {
        let plain: IpAddr = "192.0.2.1".parse().unwrap();
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(of_address(plain), of_address(mapped));
        assert_ne!(of_address(plain), of_address("192.0.2.2".parse().unwrap()));
    }
}
