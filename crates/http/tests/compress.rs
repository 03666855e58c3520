//! Bodies in pieces of any size, through each encoder, read back by decoders of the same libraries.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::io::Read as _;

use evenkeel_http::compress::{EncodeError, Encoder};
use evenkeel_plan::http::Coding;
use proptest::prelude::*;

const CODINGS: [Coding; 3] = [Coding::Br, Coding::Zstd, Coding::Gzip];

/// What comes out must be whole: nothing is missing, and nothing follows.
fn decoded(coding: Coding, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = bytes;
    match coding {
        Coding::Br => {
            let mut decoder = brotli::Decompressor::new(&mut rest, 4_096);
            decoder.read_to_end(&mut out).unwrap();
        }
        Coding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(&mut rest)
                .unwrap()
                .single_frame();
            decoder.read_to_end(&mut out).unwrap();
        }
        Coding::Gzip => {
            let mut decoder = flate2::bufread::GzDecoder::new(&mut rest);
            decoder.read_to_end(&mut out).unwrap();
        }
    }
    assert_eq!(rest, b"");
    out
}

/// What a client can read of an answer that goes on.
fn readable(coding: Coding, bytes: &[u8], length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    match coding {
        Coding::Br => brotli::Decompressor::new(bytes, 64).read_exact(&mut out),
        Coding::Zstd => zstd::stream::read::Decoder::new(bytes)
            .unwrap()
            .read_exact(&mut out),
        Coding::Gzip => flate2::read::GzDecoder::new(bytes).read_exact(&mut out),
    }
    .unwrap();
    out
}

fn encoder(coding: Coding, length: usize) -> Encoder {
    Encoder::new(coding, u64::try_from(length).unwrap()).unwrap()
}

/// Bodies that repeat themselves, near and far, and such as nothing shortens.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let random = prop::collection::vec(any::<u8>(), 0..6_000);
    let parts = prop::collection::vec(("[a-z\"{},: ]{0,40}", 1_usize..60), 0..40);
    let repeating = parts.prop_map(|parts| {
        let text = parts.iter().map(|(part, times)| part.repeat(*times));
        text.collect::<String>().into_bytes()
    });
    prop_oneof![
        random,
        repeating.clone(),
        repeating.prop_map(|part| part.repeat(30))
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn what_is_read_is_what_was_sent(
        body in body(),
        sizes in prop::collection::vec((0_usize..20_000, prop::bool::weighted(0.1)), 1..8),
        before in prop::collection::vec(any::<u8>(), 0..10),
    ) {
        for coding in CODINGS {
            let mut out = before.clone();
            let mut encoder = encoder(coding, body.len());
            let mut rest = body.as_slice();
            for &(size, flush) in sizes.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                // A cycle of empty pieces would not end.
                let (piece, after) = rest.split_at(size.max(usize::from(!rest.is_empty())).min(rest.len()));
                encoder.push(piece, &mut out).unwrap();
                encoder.push(b"", &mut out).unwrap();
                if flush {
                    encoder.flush(&mut out).unwrap();
                }
                rest = after;
            }
            encoder.finish(&mut out).unwrap();
            prop_assert!(out.starts_with(&before));
            prop_assert_eq!(&decoded(coding, &out[before.len()..]), &body);
        }
    }
}

#[test]
fn text_becomes_shorter_and_noise_hardly_longer() {
    let mut state = 1_u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    })
    .take(100_000)
    .collect();
    let text = include_bytes!("../src/strict.rs");
    for coding in CODINGS {
        let encoded = |body: &[u8]| {
            let mut out = Vec::new();
            let mut encoder = encoder(coding, body.len());
            for piece in body.chunks(16_384) {
                encoder.push(piece, &mut out).unwrap();
            }
            encoder.finish(&mut out).unwrap();
            assert_eq!(decoded(coding, &out), body);
            out.len()
        };
        assert!(encoded(text) * 5 < text.len() * 2, "{coding:?}");
        assert!(encoded(&noise) < noise.len() + 200, "{coding:?}");
    }
}

#[test]
fn what_was_flushed_can_be_read_before_more_comes() {
    for coding in CODINGS {
        let mut out = Vec::new();
        let mut encoder = encoder(coding, 1 << 20);
        for part in 1..=40 {
            encoder.push(b"{\"seq\": 1}\n", &mut out).unwrap();
            encoder.flush(&mut out).unwrap();
            let length = part * 11;
            let expected = b"{\"seq\": 1}\n".repeat(part);
            assert_eq!(readable(coding, &out, length), expected, "{coding:?}");
        }
        // Larger than any room that is made for it at once.
        let noise: Vec<u8> = (0..200_000_u32)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> 13).to_be_bytes()[3])
            .collect();
        encoder.push(&noise, &mut out).unwrap();
        encoder.flush(&mut out).unwrap();
        let all = readable(coding, &out, 440 + noise.len());
        assert!(all.ends_with(&noise), "{coding:?}");
    }
}

#[test]
fn a_body_of_another_length_than_declared_never_ends_well() {
    for coding in CODINGS {
        let mut out = Vec::new();
        let mut short = encoder(coding, 10);
        short.push(b"123456789", &mut out).unwrap();
        assert!(matches!(short.finish(&mut out), Err(EncodeError::Length)));
        let mut long = encoder(coding, 10);
        let pushed = long.push(b"12345678901", &mut out);
        assert!(matches!(pushed, Err(EncodeError::Length)));
    }
}

#[test]
fn windows_are_not_longer_than_bodies_and_bodies_may_be_longer_than_windows() {
    for length in [0, 1, 2, 511, 512, 513, 1_024, 1_025, 65_537, 3_000_000] {
        let body: Vec<u8> = (0..length)
            .map(|at: u32| (at / 3).to_be_bytes()[3])
            .collect();
        for coding in CODINGS {
            let mut out = Vec::new();
            let mut encoder = encoder(coding, body.len());
            encoder.push(&body, &mut out).unwrap();
            encoder.finish(&mut out).unwrap();
            assert!(decoded(coding, &out) == body, "{coding:?} {length}");
        }
    }
    // So long that nobody could: only what is prepared for it counts.
    for coding in CODINGS {
        let encoder = Encoder::new(coding, (1 << 63) - 1).unwrap();
        assert_eq!(encoder.coding(), coding);
    }
}
