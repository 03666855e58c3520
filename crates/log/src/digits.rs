//! Numbers, times and addresses as text, straight into a buffer: several times as fast as through `fmt`.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::time::civil_from_days;

/// `00` to `99`.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[b'0'; 2]; 100];
    let mut n = 0;
    let mut tens = b'0';
    while n < 100 {
        pairs[n] = [tens, b'0'];
        let mut ones = 1;
        while ones < 10 {
            pairs[n + ones as usize] = [tens, b'0' + ones];
            ones += 1;
        }
        tens += 1;
        n += 10;
    }
    pairs
};

/// The last two decimal digits of `n`.
fn pair(n: u64) -> [u8; 2] {
    PAIRS[(n % 100) as usize]
}

/// `n` in decimal.
pub(crate) fn number(out: &mut Vec<u8>, mut n: u64) {
    // 2^64 has 20 digits.
    let mut digits = [0; 20];
    let mut start = digits.len();
    while n >= 10 {
        start -= 2;
        digits[start..start + 2].copy_from_slice(&pair(n));
        n /= 100;
    }
    // What is left is one digit, or nothing after an even number of them.
    if n > 0 || start == digits.len() {
        start -= 1;
        digits[start] = pair(n)[1];
    }
    out.extend_from_slice(&digits[start..]);
}

/// Microseconds as milliseconds with three decimals: `1.042`.
pub(crate) fn millis(out: &mut Vec<u8>, micros: u64) {
    number(out, micros / 1_000);
    out.push(b'.');
    let rest = micros % 1_000;
    out.push(pair(rest / 100)[1]);
    out.extend_from_slice(&pair(rest));
}

/// 32 hexadecimal digits.
pub(crate) fn id(out: &mut Vec<u8>, id: u128) {
    let mut text = [0; 32];
    for (byte, digits) in id.to_be_bytes().into_iter().zip(text.chunks_exact_mut(2)) {
        digits[0] = hex_digit(byte >> 4);
        digits[1] = hex_digit(byte & 15);
    }
    out.extend_from_slice(&text);
}

fn hex_digit(value: u8) -> u8 {
    if value < 10 {
        b'0' + value
    } else {
        b'a' + value - 10
    }
}

/// A time as `2026-11-20T09:46:42.123Z`; years beyond 9999 are shown as 9999.
pub(crate) fn time(out: &mut Vec<u8>, time: SystemTime) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (day, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, date) = civil_from_days(day.min(2_932_896));
    let millis = u64::from(since.subsec_millis());
    let mut text = *b"0000-00-00T00:00:00.000Z";
    for (at, value) in [
        (0, year / 100),
        (2, year),
        (5, month),
        (8, date),
        (11, second / 3_600),
        (14, second / 60 % 60),
        (17, second % 60),
        (20, millis / 10),
    ] {
        text[at..at + 2].copy_from_slice(&pair(value));
    }
    text[22] = pair(millis)[1];
    out.extend_from_slice(&text);
}

/// An address; an IPv4 address that came in by an IPv6 socket is shown as the IPv4 address that it is.
pub(crate) fn ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip4(out, ip),
        IpAddr::V6(ip) => ip6(out, ip),
    }
}

/// `192.0.2.7:80` or `[2001:db8::7]:80`, as [`ip`] shows the address.
pub(crate) fn address(out: &mut Vec<u8>, address: SocketAddr) {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => ip4(out, ip),
        IpAddr::V6(ip) => {
            out.push(b'[');
            ip6(out, ip);
            out.push(b']');
        }
    }
    out.push(b':');
    number(out, u64::from(address.port()));
}

fn ip4(out: &mut Vec<u8>, ip: Ipv4Addr) {
    let [a, b, c, d] = ip.octets();
    number(out, u64::from(a));
    for octet in [b, c, d] {
        out.push(b'.');
        number(out, u64::from(octet));
    }
}

fn ip6(out: &mut Vec<u8>, ip: Ipv6Addr) {
    // Rarer, and the rules of RFC 5952 are already in the standard library. Writing to a vector cannot fail.
    write!(out, "{ip}").ok();
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::time::Utc;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_at_the_borders_of_their_digits() {
        for n in (0..20).flat_map(|digits| {
            let power = 10_u64.pow(digits);
            [power - 1, power, power + 1]
        }) {
            assert_eq!(text(|out| number(out, n)), n.to_string());
        }
        assert_eq!(text(|out| number(out, u64::MAX)), u64::MAX.to_string());
        assert_eq!(text(|out| millis(out, 7)), "0.007");
        assert_eq!(text(|out| millis(out, 35_120)), "35.120");
    }

    #[test]
    fn an_ipv4_address_looks_the_same_from_both_kinds_of_sockets() {
        for (address, expected) in [
            ("192.0.2.7:80", "192.0.2.7:80"),
            ("[::ffff:192.0.2.7]:80", "192.0.2.7:80"),
            ("[2001:db8::7]:65535", "[2001:db8::7]:65535"),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(text(|out| super::address(out, address)), expected);
        }
        assert_eq!(text(|out| ip(out, "::1".parse().unwrap())), "::1");
    }

    proptest! {
        #[test]
        fn the_same_as_by_fmt(n in any::<u64>(), shift in 0..64_u32, wide in any::<u128>(), v4 in any::<u32>()) {
            let n = n >> shift;
            prop_assert_eq!(text(|out| number(out, n)), n.to_string());
            prop_assert_eq!(text(|out| millis(out, n)), format!("{}.{:03}", n / 1_000, n % 1_000));
            prop_assert_eq!(text(|out| id(out, wide)), format!("{wide:032x}"));
            let v4 = Ipv4Addr::from_bits(v4);
            prop_assert_eq!(text(|out| ip(out, v4.into())), v4.to_string());
            let at = UNIX_EPOCH + Duration::from_millis(n % 253_402_300_800_000);
            prop_assert_eq!(text(|out| time(out, at)), Utc(at).to_string());
        }
    }
}
