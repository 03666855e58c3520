//! Values as people write them: durations, shares, addresses.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Units of a duration, longest first: how they are written, and milliseconds.
const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Longer words for the units, for suggestions only.
const LONG_UNITS: [(&str, &str); 20] = [
    ("milliseconds", "ms"),
    ("millisecond", "ms"),
    ("millis", "ms"),
    ("msec", "ms"),
    ("seconds", "s"),
    ("second", "s"),
    ("secs", "s"),
    ("sec", "s"),
    ("minutes", "m"),
    ("minute", "m"),
    ("mins", "m"),
    ("min", "m"),
    ("hours", "h"),
    ("hour", "h"),
    ("hrs", "h"),
    ("hr", "h"),
    ("days", "d"),
    ("day", "d"),
    ("ms", "ms"),
    ("s", "s"),
];

/// Writes a duration as the configuration language does: `1m30s`, `500ms`, `0s`. Parts of a millisecond are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DurationText(pub Duration);

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_millis();
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, millis) in UNITS {
            let millis = u128::from(millis);
            if rest >= millis {
                write!(f, "{}{unit}", rest / millis)?;
                rest %= millis;
            }
        }
        Ok(())
    }
}

/// Reads a duration: whole numbers with the units `d`, `h`, `m`, `s`, `ms`, longest first, each at most once.
///
/// # Errors
/// What would be right.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    if let Some(duration) = strict_duration(text) {
        return Ok(duration);
    }
    if !text.is_empty() && text.len() < 20 && text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!(
            "a duration has a unit: `\"{text}s\"` for seconds, `\"{text}ms\"` for milliseconds"
        ));
    }
    match lenient_duration(text) {
        Some(duration) => Err(format!("write `\"{}\"`", DurationText(duration))),
        None => Err("write a duration such as `\"500ms\"`, `\"2s\"` or `\"1m30s\"`".to_owned()),
    }
}

fn strict_duration(text: &str) -> Option<Duration> {
    let mut units = UNITS.iter();
    let mut rest = text;
    let mut millis = 0_u64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(|b| b.is_ascii_alphabetic()).count();
        // Taken from the one iterator, so that units only get shorter.
        let (_, unit) = units.find(|(unit, _)| *unit == &rest[..letters])?;
        millis = millis.checked_add(number.checked_mul(*unit)?)?;
        rest = &rest[letters..];
    }
    (!text.is_empty()).then(|| Duration::from_millis(millis))
}

/// What `text` means to a person: spaces, capitals, long units, decimal fractions. For suggestions.
fn lenient_duration(text: &str) -> Option<Duration> {
    if text.len() > 40 {
        return None;
    }
    let text: String = text.to_ascii_lowercase().split_whitespace().collect();
    if let Some(duration) = strict_duration(&text) {
        return Some(duration);
    }
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[number.len()..];
    let unit = LONG_UNITS
        .iter()
        .find(|(long, _)| *long == unit)
        .map_or(unit, |(_, short)| short);
    let (_, millis) = UNITS.iter().find(|(short, _)| *short == unit)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole: u64 = whole.parse().ok()?;
    if fraction.is_empty() || fraction.len() > 3 || whole > 1_000_000_000 {
        return None;
    }
    let digits = u32::try_from(fraction.len()).ok()?;
    let fraction: u64 = fraction.parse().ok()?;
    let part = fraction * millis;
    let scale = 10_u64.pow(digits);
    part.is_multiple_of(scale)
        .then(|| Duration::from_millis(whole * millis + part / scale))
}

/// Units of a size, largest first: how they are written, and bytes.
const SIZE_UNITS: [(&str, u64); 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// Writes a size as the configuration language does: `1MiB`, `100KiB`, `1000B`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SizeText(pub(crate) u64);

impl fmt::Display for SizeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, bytes) in SIZE_UNITS {
            if self.0 >= bytes && self.0.is_multiple_of(bytes) {
                return write!(f, "{}{unit}", self.0 / bytes);
            }
        }
        f.write_str("0B")
    }
}

/// Reads a size such as `1MiB`, in bytes. One that is too large for the type is as large as that can be.
///
/// # Errors
/// What would be right.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if digits == 0 || digits > 12 {
        return Err("write a size such as `\"512KiB\"` or `\"1MiB\"`".to_owned());
    }
    if let Some((_, bytes)) = SIZE_UNITS.iter().find(|(known, _)| *known == unit) {
        let size = number.parse::<u64>().unwrap_or(u64::MAX);
        return Ok(size.saturating_mul(*bytes));
    }
    Err(match unit.trim().to_ascii_lowercase().as_str() {
        "" => match number.parse() {
            Ok(bytes @ 1_024..) => format!("a size has a unit: `\"{}\"`", SizeText(bytes)),
            _ => format!("a size has a unit: `\"{number}KiB\"`, `\"{number}MiB\"`"),
        },
        "b" | "byte" | "bytes" => format!("write `\"{number}B\"`"),
        "k" | "kb" | "kib" => format!("write `\"{number}KiB\"`"),
        "m" | "mb" | "mib" => format!("write `\"{number}MiB\"`"),
        "g" | "gb" | "gib" => format!("write `\"{number}GiB\"`"),
        _ => "write a size such as `\"512KiB\"` or `\"1MiB\"`".to_owned(),
    })
}

/// Reads a share such as `5%`.
pub(crate) fn parse_percent(text: &str) -> Option<u64> {
    text.strip_suffix('%')?.parse().ok()
}

/// An address that may have no port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    /// With port 0 where none was written.
    address: SocketAddr,
    port: Option<u16>,
}

impl Address {
    pub(crate) fn ip(&self) -> IpAddr {
        self.address.ip()
    }

    /// The port that was written.
    pub(crate) fn port(&self) -> Option<u16> {
        self.port
    }

    pub(crate) fn with_port(&self, port: u16) -> SocketAddr {
        let mut address = self.address;
        address.set_port(port);
        address
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(_) => self.address.fmt(f),
            None => self.ip().fmt(f),
        }
    }
}

/// Reads an address with or without port: `10.0.0.2`, `10.0.0.2:80`, `::1`, `[::1]`, `[::1]:80`.
///
/// # Errors
/// What is wrong, and what would be right.
pub(crate) fn parse_address(text: &str) -> Result<Address, (String, String)> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Address {
            address,
            port: Some(address.port()),
        });
    }
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .filter(|inner| inner.contains(':'))
        .unwrap_or(text);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(Address {
            address: SocketAddr::new(ip, 0),
            port: None,
        });
    }
    Err(explain_address(text))
}

/// Reads an address with port.
///
/// # Errors
/// What is wrong, and what would be right.
pub(crate) fn parse_listen(text: &str) -> Result<SocketAddr, (String, String)> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let port = text.strip_prefix("*:").or_else(|| text.strip_prefix(':'));
    if let Some(port) = port.or(Some(text)).filter(|port| digits(port)) {
        return Err((
            format!("{} has no address", crate::problem::shown(text)),
            format!(
                "write `\"0.0.0.0:{port}\"` for all IPv4 addresses, `\"[::]:{port}\"` for all addresses"
            ),
        ));
    }
    let address = parse_address(text)?;
    match address.port() {
        Some(port) => Ok(address.with_port(port)),
        None => Err((
            format!("{} has no port", crate::problem::shown(text)),
            format!("write the port too: `\"{}\"`", address.with_port(80)),
        )),
    }
}

fn explain_address(text: &str) -> (String, String) {
    let shown = crate::problem::shown(text);
    let usual = "write an address such as `\"10.0.0.2:80\"` or `\"[fd00::2]:80\"`";
    if text.is_empty() {
        return ("the address is empty".to_owned(), usual.to_owned());
    }
    if let Some((_, rest)) = text.split_once("://") {
        let rest = rest.split('/').next().unwrap_or("");
        let help = match parse_address(rest) {
            Ok(_) => format!("write `\"{rest}\"`"),
            Err(_) => usual.to_owned(),
        };
        return (format!("{shown} is a URL, not an address"), help);
    }
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let bare = host.trim_matches(|c| c == '[' || c == ']');
    if bare.parse::<IpAddr>().is_ok() && is_beyond_ports(port) {
        let port = &port[..port.len().min(20)];
        return (
            format!("{shown} has port {port}, which is out of range"),
            "a port is 1 to 65535".to_owned(),
        );
    }
    let letter = host.chars().any(|c| c.is_ascii_alphabetic());
    let hostname = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if letter && host.chars().all(hostname) && port.bytes().all(|b| b.is_ascii_digit()) {
        return (
            format!("{shown} is a name, not an address"),
            "write an address here; only backends can have names".to_owned(),
        );
    }
    (format!("{shown} is not an address"), usual.to_owned())
}

fn is_beyond_ports(port: &str) -> bool {
    !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_people_write_them() {
        for (text, millis) in [
            ("0s", 0),
            ("500ms", 500),
            ("2s", 2_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("1m30s", 90_000),
            ("1d1h1m1s1ms", 90_061_001),
            ("90s", 90_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(millis)),
                "{text}"
            );
        }
    }

    #[test]
    fn durations_that_are_refused_say_what_would_be_right() {
        for (text, help) in [
            (
                "30",
                "a duration has a unit: `\"30s\"` for seconds, `\"30ms\"` for milliseconds",
            ),
            ("30 s", "write `\"30s\"`"),
            ("5 minutes", "write `\"5m\"`"),
            ("1.5s", "write `\"1s500ms\"`"),
            ("2S", "write `\"2s\"`"),
            ("30sec", "write `\"30s\"`"),
            ("1s1m", "write a duration such as"),
            ("1s1s", "write a duration such as"),
            ("", "write a duration such as"),
            ("s", "write a duration such as"),
            ("-1s", "write a duration such as"),
            ("99999999999999999999s", "write a duration such as"),
            ("18446744073709551615d", "write a duration such as"),
            ("2é", "write a duration such as"),
        ] {
            let found = parse_duration(text).unwrap_err();
            assert!(found.contains(help), "{text}: {found}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("1MiB", 1 << 20),
            ("100KiB", 102_400),
            ("1000B", 1_000),
            ("0B", 0),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
            assert_eq!(SizeText(bytes).to_string(), text);
        }
        assert_eq!(parse_size("1024KiB").map(SizeText), Ok(SizeText(1 << 20)));
        assert_eq!(parse_size("999999999999GiB"), Ok(u64::MAX));
        for (text, help) in [
            ("1000", "`\"1000KiB\"`"),
            ("1048576", "a size has a unit: `\"1MiB\"`"),
            ("1M", "write `\"1MiB\"`"),
            ("64 kb", "write `\"64KiB\"`"),
            ("5bytes", "write `\"5B\"`"),
            ("1 gb", "write `\"1GiB\"`"),
            ("1TiB", "write a size such as"),
            ("1.5MiB", "write a size such as"),
            ("-1B", "write a size such as"),
            ("9999999999999B", "write a size such as"),
            ("", "write a size such as"),
            ("1\u{e9}", "write a size such as"),
        ] {
            let found = parse_size(text).unwrap_err();
            assert!(found.contains(help), "{text}: {found}");
        }
    }

    #[test]
    fn addresses() {
        let read = |text: &str| parse_address(text).map(|a| (a.to_string(), a.port()));
        assert_eq!(read("10.0.0.2"), Ok(("10.0.0.2".into(), None)));
        assert_eq!(read("10.0.0.2:80"), Ok(("10.0.0.2:80".into(), Some(80))));
        assert_eq!(read("::1"), Ok(("::1".into(), None)));
        assert_eq!(read("[::1]"), Ok(("::1".into(), None)));
        assert_eq!(read("[::1]:80"), Ok(("[::1]:80".into(), Some(80))));
        for (text, part) in [
            ("", "empty"),
            ("localhost:80", "is a name"),
            ("openhim-1", "is a name"),
            ("http://10.0.0.1:80/x", "is a URL"),
            ("10.0.0.1:70000", "port 70000"),
            ("10.0.0.256:80", "not an address"),
            ("10.0.0.1:", "not an address"),
            ("[fd00::2:80", "not an address"),
            ("[10.0.0.1]:80", "not an address"),
        ] {
            let (message, _) = parse_address(text).unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
