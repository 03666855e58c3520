//! PROXY protocol headers: what is built is read back, and what is none is refused for its reason.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use evenkeel_net::proxy_protocol::{
    Command, HEADER_BYTES_MAX, Header, Invalid, Parsed, UniqueId, V1_BYTES_MAX, build_v1, build_v2,
    parse,
};
use proptest::collection::vec;
use proptest::prelude::*;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const ADDRESSES: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 0x30, 0x39, 0x01, 0xbb];

proptest! {
    #[test]
    fn what_is_built_is_read_back(
        source in addresses(),
        destination in addresses(),
        id in prop::option::of(vec(any::<u8>(), 0..=128)),
        rest in vec(any::<u8>(), 0..40),
    ) {
        let id = id.map(|id| UniqueId::new(&id).unwrap());
        let expected = Header {
            command: Command::Proxy,
            source: Some(canonical(source)),
            destination: Some(canonical(destination)),
            unique_id: id,
        };
        let mut one = Vec::new();
        build_v1(source, destination, &mut one);
        prop_assert!(one.len() <= V1_BYTES_MAX);
        check(&one, &rest, Header { unique_id: None, ..expected })?;
        let mut two = Vec::new();
        build_v2(source, destination, id.as_ref(), &mut two);
        prop_assert!(two.len() <= 183);
        check(&two, &rest, expected)?;
    }

    #[test]
    fn anything_may_come(bytes in vec(any::<u8>(), 0..200), head in 0..4_usize) {
        let head = [&b""[..], b"PROXY ", b"PROXY TCP4 ", SIGNATURE][head];
        for bytes in [[head, &bytes].concat(), bytes] {
            if let Parsed::Header { consumed, .. } = parse(&bytes) {
                prop_assert!((15..=bytes.len()).contains(&consumed));
            }
        }
    }

    /// A valid header with some bytes changed: another header, or refused, and never read past its end.
    #[test]
    fn damage_is_survived(
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        is_v1: bool,
    ) {
        let mut bytes = if is_v1 {
            b"PROXY TCP6 2001:db8::1 2001:db8::2 12345 443\r\n".to_vec()
        } else {
            with_checksum(block(0x21, 0x11, &[&ADDRESSES[..], &extension(5, b"id")].concat()))
        };
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Parsed::Header { consumed, .. } = parse(&bytes) {
            prop_assert!(consumed <= bytes.len());
        }
    }

    #[test]
    fn the_longest_input_is_always_decided(bytes in vec(any::<u8>(), HEADER_BYTES_MAX), head in 0..3_usize) {
        let mut bytes = bytes;
        let head = [&b""[..], b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n\x21\x11"][head];
        bytes[..head.len()].copy_from_slice(head);
        prop_assert_ne!(parse(&bytes), Parsed::Need);
    }
}

#[test]
fn lines_as_the_specification_has_them() {
    let cases = [
        (
            "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
            Some(("192.168.0.1:56324", "192.168.0.11:443")),
        ),
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 0\r\n",
            Some(("255.255.255.255:65535", "255.255.255.255:0")),
        ),
        (
            "PROXY TCP6 2001:DB8::1 ::1 1 2\r\n",
            Some(("[2001:db8::1]:1", "[::1]:2")),
        ),
        (
            "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            Some((
                "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
                "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
            )),
        ),
        // An IPv4 client of a socket that takes both.
        (
            "PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 1 2\r\n",
            Some(("192.0.2.1:1", "[2001:db8::2]:2")),
        ),
        ("PROXY UNKNOWN\r\n", None),
        ("PROXY UNKNOWN \r\n", None),
        ("PROXY UNKNOWN what ever it says 99999\r\n", None),
        (
            "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            None,
        ),
    ];
    for (line, expected) in cases {
        let addresses = expected
            .map(|(source, destination)| (source.parse().unwrap(), destination.parse().unwrap()));
        check(line.as_bytes(), b"\r\nGET /", header(addresses, None)).unwrap();
    }
}

#[test]
fn lines_that_are_none() {
    let cases: &[(&str, Invalid)] = &[
        ("GET / HTTP/1.1\r\n", Invalid::Signature),
        ("P ", Invalid::Signature),
        ("proxy TCP4 ", Invalid::Signature),
        ("PROXY\r\n", Invalid::Signature),
        ("PROXY \r\n", Invalid::LineProtocol),
        ("PROXY TCP5 1.1.1.1 2.2.2.2 1 2\r\n", Invalid::LineProtocol),
        ("PROXY UNKNOWNX\r\n", Invalid::LineProtocol),
        ("PROXY tcp4 1.1.1.1 2.2.2.2 1 2\r\n", Invalid::LineProtocol),
        ("PROXY TCP4\r\n", Invalid::LineFields),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n", Invalid::LineFields),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n", Invalid::LineFields),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1 2 \r\n", Invalid::LineFields),
        ("PROXY TCP4  1.1.1.1 2.2.2.2 1\r\n", Invalid::LineFields),
        ("PROXY TCP4 1.1.1 2.2.2.2 1 2\r\n", Invalid::LineAddress),
        ("PROXY TCP4 01.1.1.1 2.2.2.2 1 2\r\n", Invalid::LineAddress),
        ("PROXY TCP4 256.1.1.1 2.2.2.2 1 2\r\n", Invalid::LineAddress),
        ("PROXY TCP4 ::1 ::2 1 2\r\n", Invalid::LineAddress),
        ("PROXY TCP4 1.1.1.1 ::2 1 2\r\n", Invalid::LineAddress),
        ("PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n", Invalid::LineAddress),
        ("PROXY TCP6 ::1%lo ::2 1 2\r\n", Invalid::LineAddress),
        ("PROXY TCP6 1::2::3 ::2 1 2\r\n", Invalid::LineAddress),
        ("PROXY TCP6 [::1] ::2 1 2\r\n", Invalid::LineAddress),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 65536 2\r\n", Invalid::LinePort),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 080 2\r\n", Invalid::LinePort),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 00 2\r\n", Invalid::LinePort),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 +80 2\r\n", Invalid::LinePort),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 80 -2\r\n", Invalid::LinePort),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n", Invalid::LineByte),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r ", Invalid::LineByte),
        ("PROXY TCP4\t1.1.1.1", Invalid::LineByte),
        ("PROXY UNKNOWN \u{e9}", Invalid::LineByte),
    ];
    for &(line, reason) in cases {
        assert_eq!(parse(line.as_bytes()), Parsed::Invalid(reason), "{line:?}");
    }
    let filler = |count| [b"PROXY UNKNOWN ", &b"x".repeat(count)[..], b"\r\n"].concat();
    let longest = V1_BYTES_MAX - filler(0).len();
    check(&filler(longest), b"more", header(None, None)).unwrap();
    let too_long = Parsed::Invalid(Invalid::LineTooLong);
    assert_eq!(parse(&filler(longest + 1)), too_long);
    assert_eq!(parse(&filler(longest + 2)), too_long);
    assert_eq!(parse(&filler(longest + 1)[..V1_BYTES_MAX]), too_long);
}

#[test]
fn binary_headers() {
    let tcp4 = Some((
        "192.0.2.1:12345".parse().unwrap(),
        "198.51.100.2:443".parse().unwrap(),
    ));
    let id = UniqueId::new(b"a-b");
    let all = [
        &ADDRESSES[..],
        &extension(0x01, b"h2"),
        &extension(0x02, b"example.org"),
        &extension(0x04, &[0; 9]),
        &extension(0x05, b"a-b"),
        &extension(0x20, &[1, 0, 0, 0, 0]),
        &extension(0xea, b""),
    ]
    .concat();
    let padding = HEADER_BYTES_MAX - 16 - ADDRESSES.len() - 3;
    let cases = [
        (block(0x21, 0x11, &ADDRESSES), header(tcp4, None)),
        (block(0x21, 0x11, &all), header(tcp4, id)),
        (with_checksum(block(0x21, 0x11, &all)), header(tcp4, id)),
        (
            block(
                0x21,
                0x11,
                &[&ADDRESSES[..], &extension(4, &vec![0; padding])].concat(),
            ),
            header(tcp4, None),
        ),
        // UDP and UNIX: no address of use, extensions as everywhere.
        (block(0x21, 0x12, &all), header(None, id)),
        (
            block(0x21, 0x31, &[&[0; 216][..], &extension(5, b"a-b")].concat()),
            header(None, id),
        ),
        (block(0x21, 0x32, &[0; 216]), header(None, None)),
        // Not specified: what follows is not looked at.
        (block(0x21, 0x00, b""), header(None, None)),
        (block(0x21, 0x00, b"x"), header(None, None)),
        (block(0x21, 0x10, b"x"), header(None, None)),
        // A connection of the sender's own, whatever else it says.
        (block(0x20, 0x00, b""), local()),
        (block(0x20, 0x11, &ADDRESSES), local()),
        (block(0x20, 0xff, b"x"), local()),
    ];
    for (bytes, expected) in cases {
        check(&bytes, b"\r\n\r\n\0", expected).unwrap();
    }
}

#[test]
fn binary_headers_that_are_none() {
    let with =
        |extensions: &[&[u8]]| block(0x21, 0x11, &[&ADDRESSES[..], &extensions.concat()].concat());
    let mut wrong_checksum = with_checksum(with(&[&extension(5, b"id")]));
    *wrong_checksum.last_mut().unwrap() ^= 1;
    let mut wrong_address = with_checksum(with(&[]));
    wrong_address[16] ^= 1;
    let too_long = [SIGNATURE, &[0x21, 0x11], &4_081_u16.to_be_bytes()].concat();
    let cases = [
        (b"\r\n\r\n\0\r\nQUIX".to_vec(), Invalid::Signature),
        (b"\r\n\r\n\r".to_vec(), Invalid::Signature),
        ([SIGNATURE, &[0x11]].concat(), Invalid::Version(1)),
        ([SIGNATURE, &[0x31]].concat(), Invalid::Version(3)),
        ([SIGNATURE, &[0x22]].concat(), Invalid::Command(2)),
        ([SIGNATURE, &[0x21, 0x13]].concat(), Invalid::Family(0x13)),
        ([SIGNATURE, &[0x21, 0x41]].concat(), Invalid::Family(0x41)),
        ([SIGNATURE, &[0x21, 0x03]].concat(), Invalid::Family(0x03)),
        (too_long, Invalid::TooLong(HEADER_BYTES_MAX + 1)),
        (
            block(0x21, 0x11, &ADDRESSES[..11]),
            Invalid::AddressesTruncated,
        ),
        (
            block(0x21, 0x12, &ADDRESSES[..11]),
            Invalid::AddressesTruncated,
        ),
        (block(0x21, 0x21, &[0; 35]), Invalid::AddressesTruncated),
        (block(0x21, 0x31, &[0; 215]), Invalid::AddressesTruncated),
        (with(&[&[4]]), Invalid::ExtensionTruncated),
        (with(&[&[4, 0]]), Invalid::ExtensionTruncated),
        (with(&[&[4, 0, 1]]), Invalid::ExtensionTruncated),
        (with(&[&[4, 0xff, 0xff, 0]]), Invalid::ExtensionTruncated),
        (with(&[&extension(3, &[0; 3])]), Invalid::ExtensionLength(3)),
        (with(&[&extension(3, &[0; 5])]), Invalid::ExtensionLength(3)),
        (
            with(&[&extension(5, &[0; 129])]),
            Invalid::ExtensionLength(5),
        ),
        (
            with(&[&extension(5, b"a"), &extension(5, b"a")]),
            Invalid::ExtensionTwice(5),
        ),
        (
            with(&[&extension(3, &[0; 4]), &extension(3, &[0; 4])]),
            Invalid::ExtensionTwice(3),
        ),
        (with(&[&extension(3, &[0; 4])]), Invalid::Checksum),
        (wrong_checksum, Invalid::Checksum),
        (wrong_address, Invalid::Checksum),
    ];
    for (bytes, reason) in cases {
        assert_eq!(
            parse(&bytes),
            Parsed::Invalid(reason),
            "{}",
            bytes.escape_ascii()
        );
    }
}

/// Byte by byte, so that a server that knows the protocol from its specification alone can read it.
#[test]
fn what_is_built_looks_as_specified() {
    let line = |source: &str, destination: &str| {
        let mut out = b"kept".to_vec();
        build_v1(
            source.parse().unwrap(),
            destination.parse().unwrap(),
            &mut out,
        );
        String::from_utf8(out).unwrap()
    };
    assert_eq!(
        line("192.0.2.1:12345", "198.51.100.2:443"),
        "keptPROXY TCP4 192.0.2.1 198.51.100.2 12345 443\r\n"
    );
    assert_eq!(
        line("192.0.2.1:12345", "[2001:db8::2]:443"),
        "keptPROXY TCP6 ::ffff:c000:201 2001:db8::2 12345 443\r\n"
    );
    assert_eq!(
        line("[::ffff:192.0.2.1]:12345", "198.51.100.2:443"),
        "keptPROXY TCP4 192.0.2.1 198.51.100.2 12345 443\r\n"
    );

    let mut out = b"kept".to_vec();
    let id = UniqueId::new(b"id").unwrap();
    build_v2(
        "192.0.2.1:12345".parse().unwrap(),
        "198.51.100.2:443".parse().unwrap(),
        Some(&id),
        &mut out,
    );
    let expected = block(0x21, 0x11, &[&ADDRESSES[..], &[5, 0, 2], b"id"].concat());
    assert_eq!(out, [b"kept", &expected[..]].concat());

    check(&block(0x20, 0, b""), b"x", local()).unwrap();
}

#[test]
fn a_unique_id_has_128_bytes_at_most() {
    assert_eq!(UniqueId::new(&[7; 128]).unwrap().as_bytes(), [7; 128]);
    assert_eq!(UniqueId::new(&[7; 129]), None);
    assert_eq!(
        format!("{:?}", UniqueId::new(b"a\n").unwrap()),
        "UniqueId(\"a\\n\")"
    );
}

/// Every prefix is a beginning; the whole is `expected`, with and without more behind it.
fn check(bytes: &[u8], rest: &[u8], expected: Header) -> Result<(), TestCaseError> {
    for end in 0..bytes.len() {
        prop_assert_eq!(
            parse(&bytes[..end]),
            Parsed::Need,
            "{} of {}",
            end,
            bytes.escape_ascii()
        );
    }
    let whole = Parsed::Header {
        consumed: bytes.len(),
        header: expected,
    };
    prop_assert_eq!(parse(bytes), whole);
    prop_assert_eq!(parse(&[bytes, rest].concat()), whole);
    Ok(())
}

fn header(addresses: Option<(SocketAddr, SocketAddr)>, unique_id: Option<UniqueId>) -> Header {
    Header {
        command: Command::Proxy,
        source: addresses.map(|(source, _)| source),
        destination: addresses.map(|(_, destination)| destination),
        unique_id,
    }
}

fn local() -> Header {
    Header {
        command: Command::Local,
        ..header(None, None)
    }
}

fn block(version_command: u8, family: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[version_command, family], &length, content].concat()
}

fn extension(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[kind], &length[..], value].concat()
}

/// Adds a checksum, computed bit by bit.
fn with_checksum(bytes: Vec<u8>) -> Vec<u8> {
    let content = [&bytes[16..], &extension(3, &[0; 4])].concat();
    let mut bytes = block(bytes[12], bytes[13], &content);
    let mut crc = u32::MAX;
    for &byte in &bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&(!crc).to_be_bytes());
    bytes
}

fn addresses() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::from(Ipv4Addr::from(bits))),
        any::<u128>().prop_map(|bits| IpAddr::from(Ipv6Addr::from(bits))),
        any::<u32>().prop_map(|bits| IpAddr::from(Ipv4Addr::from(bits).to_ipv6_mapped())),
        any::<u32>().prop_map(|bits| IpAddr::from(Ipv6Addr::from(u128::from(bits)))),
    ];
    (ip, any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
