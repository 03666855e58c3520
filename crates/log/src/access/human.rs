//! Lines for people: what is absent is left out, and so is what goes without saying.

use super::escape::{self, Dialect};
use super::format::{HOST_SHOWN_MAX, METHOD_SHOWN_MAX, PATH_SHOWN_MAX, is_there, name};
use super::record::{HttpRecord, Phase, Record};
use crate::digits;

/// A head that took less is not worth a word, in microseconds.
const HEAD_SHOWN_US_MIN: u64 = 1_000;

/// Appends the line for `record`.
pub(super) fn human(out: &mut Vec<u8>, record: &Record<'_>) {
    digits::time(out, record.ended());
    out.push(b' ');
    name(out, record.service, Dialect::Human);
    match &record.http {
        Some(http) => request(out, record, http),
        None => connection(out, record),
    }
    out.push(b'\n');
}

/// `2026-11-20T14:36:18.123Z api 192.0.2.7:51234 -> b1 10.0.0.2:5000 connect 0.2ms first 1.1ms total 35ms in 1.2kB out 88kB
/// ended by client`
fn connection(out: &mut Vec<u8>, record: &Record<'_>) {
    out.push(b' ');
    client(out, record);
    backend(out, record);
    times(out, record, None);
    bytes(out, record);
    ended(out, record);
}

/// `2026-11-20T14:36:18.123Z api 200 GET api.example.org /medic/_all_docs 192.0.2.7:51234 -> b1 10.0.0.2:5984 reused
/// first 1.1ms total 35ms in 640B out 88kB`, and the end where it is a failure
fn request(out: &mut Vec<u8>, record: &Record<'_>, http: &HttpRecord<'_>) {
    out.push(b' ');
    match http.status {
        Some(status) => digits::number(out, u64::from(status)),
        None => out.push(b'-'),
    }
    for (text, bytes_max) in [
        (is_there(http.method), METHOD_SHOWN_MAX),
        (http.host, HOST_SHOWN_MAX),
        (is_there(http.path), PATH_SHOWN_MAX),
    ] {
        out.push(b' ');
        match text {
            Some(text) => escape::text(out, text, bytes_max, Dialect::Human),
            None => out.push(b'-'),
        }
    }
    out.push(b' ');
    client(out, record);
    backend(out, record);
    if http.reused {
        out.extend_from_slice(b" reused");
    }
    let head_us = http.head_us.filter(|us| *us >= HEAD_SHOWN_US_MIN);
    times(out, record, head_us);
    bytes(out, record);
    if let Some(coding) = http.compressed {
        out.push(b' ');
        name(out, coding, Dialect::Human);
    }
    if record.end.reason != "end" {
        ended(out, record);
    }
}

fn client(out: &mut Vec<u8>, record: &Record<'_>) {
    digits::address(out, record.client);
    if record.client != record.peer {
        out.extend_from_slice(b" via ");
        digits::address(out, record.peer);
    }
}

fn backend(out: &mut Vec<u8>, record: &Record<'_>) {
    out.extend_from_slice(b" -> ");
    match record.backend {
        Some(backend) => name(out, backend, Dialect::Human),
        None => out.push(b'-'),
    }
    if let Some(endpoint) = record.endpoint {
        out.push(b' ');
        digits::address(out, endpoint);
    }
    if record.attempts > 1 {
        out.extend_from_slice(b" attempts ");
        digits::number(out, u64::from(record.attempts));
    }
}

fn times(out: &mut Vec<u8>, record: &Record<'_>, head_us: Option<u64>) {
    for (word, micros) in [
        (" head ", head_us),
        (" handshake ", record.handshake_us),
        (" queue ", record.queue_us),
        (" connect ", record.connect_us),
        (" first ", record.first_byte_us),
        (" total ", Some(record.duration_us)),
    ] {
        if let Some(micros) = micros {
            out.extend_from_slice(word.as_bytes());
            span(out, micros);
        }
    }
}

fn bytes(out: &mut Vec<u8>, record: &Record<'_>) {
    for (word, bytes) in [
        (" in ", record.bytes_received),
        (" out ", record.bytes_sent),
    ] {
        out.extend_from_slice(word.as_bytes());
        size(out, bytes);
    }
}

fn ended(out: &mut Vec<u8>, record: &Record<'_>) {
    out.extend_from_slice(b" ended by ");
    out.extend_from_slice(record.end.by.word().as_bytes());
    if record.end.phase != Phase::Relay {
        out.extend_from_slice(b" in ");
        out.extend_from_slice(record.end.phase.word().as_bytes());
    }
    if record.end.reason != "end" {
        out.extend_from_slice(b": ");
        name(out, record.end.reason, Dialect::Human);
    }
}

/// Microseconds for reading: `85us`, `0.8ms`, `35ms`, `12.3s`, `3600s`. Cut, not rounded.
fn span(out: &mut Vec<u8>, micros: u64) {
    match micros {
        0..100 => with_unit(out, micros, b"us"),
        100..10_000 => with_tenth(out, micros / 100, b"ms"),
        10_000..10_000_000 => with_unit(out, micros / 1_000, b"ms"),
        10_000_000..1_000_000_000 => with_tenth(out, micros / 100_000, b"s"),
        _ => with_unit(out, micros / 1_000_000, b"s"),
    }
}

/// Bytes for reading, in powers of 1,000: `640B`, `1.2kB`, `88kB`. Cut, not rounded.
fn size(out: &mut Vec<u8>, bytes: u64) {
    let units: [&[u8]; 7] = [b"B", b"kB", b"MB", b"GB", b"TB", b"PB", b"EB"];
    let mut unit = 0;
    let mut scale = 1_u64;
    while bytes / scale >= 1_000 {
        scale *= 1_000;
        unit += 1;
    }
    if unit > 0 && bytes / scale < 10 {
        with_tenth(out, bytes / (scale / 10), units[unit]);
    } else {
        with_unit(out, bytes / scale, units[unit]);
    }
}

fn with_unit(out: &mut Vec<u8>, n: u64, unit: &[u8]) {
    digits::number(out, n);
    out.extend_from_slice(unit);
}

fn with_tenth(out: &mut Vec<u8>, tenths: u64, unit: &[u8]) {
    digits::number(out, tenths / 10);
    out.push(b'.');
    with_unit(out, tenths % 10, unit);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_sizes_are_cut_to_what_a_reader_needs() {
        let text = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            write(&mut out);
            String::from_utf8(out).unwrap()
        };
        for (micros, expected) in [
            (0, "0us"),
            (99, "99us"),
            (100, "0.1ms"),
            (9_999, "9.9ms"),
            (10_000, "10ms"),
            (9_999_999, "9999ms"),
            (10_000_000, "10.0s"),
            (1_000_000_000, "1000s"),
        ] {
            assert_eq!(text(&|out| span(out, micros)), expected);
        }
        for (bytes, expected) in [
            (0, "0B"),
            (999, "999B"),
            (1_000, "1.0kB"),
            (9_999, "9.9kB"),
            (10_000, "10kB"),
            (999_999, "999kB"),
            (1_000_000, "1.0MB"),
            (u64::MAX, "18EB"),
        ] {
            assert_eq!(text(&|out| size(out, bytes)), expected);
        }
    }
}
