//! What a probe found, and whose fault an error is.

use std::borrow::Cow;
use std::io;
use std::time::Duration;

use rustix::io::Errno;

use crate::verdict::Observation;

/// What one probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// For the verdict.
    pub observation: Observation,
    /// In words, such as `connected` or `connection refused`.
    pub answer: Cow<'static, str>,
    /// What was asked, shortened and without secrets; empty where nothing is sent.
    pub sent: Cow<'static, str>,
    /// What came back, shortened and without secrets.
    pub received: Cow<'static, str>,
    /// The share of its configured weight that the backend wants, in percent.
    pub weight_percent: Option<u16>,
    /// The number of connections that the backend wants at most.
    pub maxconn: Option<u32>,
    /// Monotonic ms when it began.
    pub at_ms: u64,
    /// How long it took.
    pub duration: Duration,
}

impl Outcome {
    /// The backend answered as it should.
    #[must_use]
    pub fn passed(answer: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Observation::Passed, answer)
    }

    /// The backend did not answer as it should.
    #[must_use]
    pub fn failed(answer: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Observation::Failed, answer)
    }

    /// Nothing can be said of the backend.
    #[must_use]
    pub fn inconclusive(answer: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Observation::Inconclusive, answer)
    }

    /// What was observed, and the answer in words.
    #[must_use]
    pub fn new(observation: Observation, answer: impl Into<Cow<'static, str>>) -> Self {
        Self {
            observation,
            answer: answer.into(),
            sent: Cow::Borrowed(""),
            received: Cow::Borrowed(""),
            weight_percent: None,
            maxconn: None,
            at_ms: 0,
            duration: Duration::ZERO,
        }
    }

    /// The time limit passed, in the middle of `step`. Its timer rang `late` after it should have: a probe that was not given
    /// the CPU for that long says more about this host than about the backend.
    pub(crate) fn timed_out(timeout: Duration, late: Duration, step: &str) -> Self {
        if late > timeout / 2 {
            return Self::inconclusive(format!("this process was {} ms late", late.as_millis()));
        }
        let timeout_ms = timeout.as_millis();
        Self::failed(match step {
            "" => format!("no answer within {timeout_ms} ms"),
            step => format!("no answer within {timeout_ms} ms: {step}"),
        })
    }

    /// A system call failed.
    pub(crate) fn error(error: &io::Error) -> Self {
        match Fault::of(error) {
            Fault::Ours(what) => Self::inconclusive(what),
            Fault::Theirs(what) => Self::failed(what),
        }
    }
}

/// Whose fault an error is.
enum Fault {
    Ours(Cow<'static, str>),
    Theirs(Cow<'static, str>),
}

impl Fault {
    fn of(error: &io::Error) -> Self {
        let theirs = |what| Self::Theirs(Cow::Borrowed(what));
        match error.kind() {
            io::ErrorKind::ConnectionRefused => theirs("connection refused"),
            io::ErrorKind::ConnectionReset => theirs("connection reset"),
            io::ErrorKind::TimedOut => theirs("no answer: the kernel gave up"),
            io::ErrorKind::HostUnreachable => theirs("no route to host"),
            io::ErrorKind::NetworkUnreachable => theirs("network unreachable"),
            io::ErrorKind::PermissionDenied => theirs("not permitted, as by a firewall"),
            io::ErrorKind::AddrNotAvailable => {
                Self::Ours(Cow::Borrowed("no local port or address is left"))
            }
            io::ErrorKind::OutOfMemory | io::ErrorKind::WouldBlock => Self::exhausted(error),
            _ => match Errno::from_io_error(error) {
                // These have no stable kind: no descriptors left in the process or the system, no buffer space.
                Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS) => Self::exhausted(error),
                _ => Self::Theirs(Cow::Owned(error.to_string())),
            },
        }
    }

    fn exhausted(error: &io::Error) -> Self {
        Self::Ours(Cow::Owned(format!("nothing left to ask with: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_exhaustion_is_never_held_against_a_backend() {
        // EAGAIN, ENOMEM, ENFILE, EMFILE, EADDRNOTAVAIL, ENOBUFS
        for code in [11, 12, 23, 24, 99, 105] {
            let error = io::Error::from_raw_os_error(code);
            let outcome = Outcome::error(&error);
            assert_eq!(outcome.observation, Observation::Inconclusive, "{error}");
        }
        // EPERM, EACCES, ENETUNREACH, ECONNRESET, ETIMEDOUT, ECONNREFUSED, EHOSTUNREACH
        for code in [1, 13, 101, 104, 110, 111, 113] {
            let error = io::Error::from_raw_os_error(code);
            let outcome = Outcome::error(&error);
            assert_eq!(outcome.observation, Observation::Failed, "{error}");
        }
    }

    #[test]
    fn a_timer_that_rings_far_too_late_says_nothing_of_the_backend() {
        let second = Duration::from_secs(1);
        let outcome = |late| Outcome::timed_out(second, Duration::from_millis(late), "");
        assert_eq!(outcome(499).observation, Observation::Failed);
        assert_eq!(outcome(501).observation, Observation::Inconclusive);
        assert_eq!(outcome(3).answer, "no answer within 1000 ms");
    }
}
