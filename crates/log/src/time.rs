//! A wall-clock time as RFC 3339 text.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// Shows a time as `2026-11-20T09:46:42.123Z`.
#[derive(Clone, Copy, Debug)]
pub struct Utc(pub SystemTime);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A clock before 1970 is a clock that was never set; its time says nothing.
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (day, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, date) = civil_from_days(day);
        write!(
            f,
            "{year:04}-{month:02}-{date:02}T{:02}:{:02}:{:02}.{:03}Z",
            second / 3_600,
            second / 60 % 60,
            second % 60,
            since.subsec_millis()
        )
    }
}

/// Year, month 1..=12 and date 1..=31 of a day counted from 1970-01-01.
///
/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`. Years there begin in March,
/// so that the leap day is the last of its year; eras are the 400 years after which the calendar repeats.
pub(crate) fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let date = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, date)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn known_times_read_as_they_should() {
        for (millis, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_000, "2024-02-29T23:59:59.000Z"),
            (1_795_168_002_123, "2026-11-20T09:46:42.123Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            let time = UNIX_EPOCH + Duration::from_millis(millis);
            assert_eq!(Utc(time).to_string(), expected);
        }
        let before = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(Utc(before).to_string(), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn every_day_of_eight_centuries_follows_the_one_before() {
        let mut before = civil_from_days(0);
        assert_eq!(before, (1970, 1, 1));
        for day in 1..2 * 146_097 {
            let (year, month, date) = civil_from_days(day);
            let leap = before.0.is_multiple_of(4)
                && (!before.0.is_multiple_of(100) || before.0.is_multiple_of(400));
            let length = match before.1 {
                2 => 28 + u64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            let expected = match before {
                (y, 12, 31) => (y + 1, 1, 1),
                (y, m, d) if d == length => (y, m + 1, 1),
                (y, m, d) => (y, m, d + 1),
            };
            assert_eq!((year, month, date), expected);
            before = expected;
        }
    }
}
