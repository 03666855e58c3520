//! How many requests of a service may be sent again.

use std::cell::Cell;

/// Ticks of a window: 5 s.
const WINDOW_TICKS: u32 = 50;

/// Requests and those sent again, of the last five to ten seconds.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    /// Tick at which the present window began.
    begun: Cell<u32>,
    requests: Cell<[u32; 2]>,
    resent: Cell<[u32; 2]>,
}

impl Budget {
    /// Counts a request at tick `now`.
    pub(crate) fn note(&self, now: u32) {
        self.turn(now);
        let [present, before] = self.requests.get();
        self.requests.set([present.saturating_add(1), before]);
    }

    /// Whether one more may be sent again at tick `now`, within `percent` of the requests and `floor` a second beside. Counts it then.
    pub(crate) fn allows(&self, now: u32, percent: u8, floor: u16) -> bool {
        self.turn(now);
        let sum = |[present, before]: [u32; 2]| u64::from(present) + u64::from(before);
        let free = u64::from(floor) * u64::from(WINDOW_TICKS) / 10;
        let room = sum(self.requests.get()) * u64::from(percent) / 100 + free;
        let [present, before] = self.resent.get();
        if sum([present, before]) >= room {
            return false;
        }
        self.resent.set([present + 1, before]);
        true
    }

    fn turn(&self, now: u32) {
        let age = now.saturating_sub(self.begun.get());
        if age < WINDOW_TICKS {
            return;
        }
        for counts in [&self.requests, &self.resent] {
            let [present, _] = counts.get();
            let before = if age < 2 * WINDOW_TICKS { present } else { 0 };
            counts.set([0, before]);
        }
        self.begun.set(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_and_a_floor_of_the_last_seconds() {
        let budget = Budget::default();
        for _ in 0..100 {
            budget.note(1_000);
        }
        let allowed = |now, percent, floor| {
            (0..1_000)
                .take_while(|_| budget.allows(now, percent, floor))
                .count()
        };
        assert_eq!(allowed(1_000, 20, 0), 20);
        assert_eq!(allowed(1_001, 20, 2), 10);
        // The requests of the window before still count, and so does what was sent again.
        assert_eq!(allowed(1_050, 20, 2), 0);
        assert_eq!(allowed(1_050, 40, 2), 20);
        // All is forgotten.
        assert_eq!(allowed(1_200, 20, 1), 5);
        assert_eq!(allowed(1_200, 0, 0), 0);
    }
}
