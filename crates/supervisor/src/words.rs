//! Times as a person reads them.

/// `3 s`, `12 min`, `3 h 12 min`, `5 d 4 h`.
#[must_use]
pub(crate) fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// Time from `then` to `now`, both in Unix seconds, as `3 min ago`.
#[must_use]
pub(crate) fn ago(then: u64, now: u64) -> String {
    format!("{} ago", span(now.saturating_sub(then)))
}
