//! What must hold of PROXY protocol headers and MLLP frames, whatever the bytes.
#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each fuzz target uses one of these, and a test all"
)]

use evenkeel_net::mllp::Framer;
use evenkeel_net::proxy_protocol::{self, HEADER_BYTES_MAX, Parsed};

/// A header is within the limits, and every beginning of it is one.
pub(crate) fn proxy_protocol(bytes: &[u8]) {
    match proxy_protocol::parse(bytes) {
        Parsed::Need => assert!(bytes.len() < HEADER_BYTES_MAX),
        Parsed::Header { consumed, header } => {
            assert!(consumed > 0 && consumed <= bytes.len() && consumed <= HEADER_BYTES_MAX);
            assert_eq!(header.source.is_some(), header.destination.is_some());
            assert_eq!(
                proxy_protocol::parse(&bytes[..consumed]),
                Parsed::Header { consumed, header }
            );
            for length in [0, 1, consumed / 2, consumed - 1] {
                assert_eq!(proxy_protocol::parse(&bytes[..length]), Parsed::Need);
            }
        }
        Parsed::Invalid(_) => {}
    }
}

/// Units cover all bytes in order, whole frames only, and are the same however the bytes arrive.
pub(crate) fn mllp(bytes: &[u8]) {
    let Some((&step, bytes)) = bytes.split_first() else {
        return;
    };
    let (mut framer, mut at, mut there) = (Framer::new(64), 0, 0);
    loop {
        match framer.next(&bytes[at..there]) {
            Err(too_long) => {
                assert_eq!(bytes[at], 0x0b);
                assert!(there - at >= too_long.max);
                return;
            }
            Ok(Some(unit)) => {
                assert!(unit.bytes() > 0 && at + unit.bytes() <= there);
                let (outside, frame) = bytes[at..at + unit.bytes()].split_at(unit.outside);
                assert!(!outside.contains(&0x0b));
                if unit.frame > 0 {
                    assert!(
                        frame.len() <= framer.max()
                            && frame[0] == 0x0b
                            && frame.ends_with(&[0x1c, 0x0d])
                    );
                }
                at += unit.bytes();
            }
            Ok(None) if there == bytes.len() => return,
            Ok(None) => {
                assert!(at == there || bytes[at] == 0x0b);
                there = bytes.len().min(there + usize::from(step).max(1));
            }
        }
    }
}
