//! How many workers, and which CPU each is pinned to.

use evenkeel_plan::Workers;

/// What this host lets the daemon use.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// CPUs of the affinity mask, rising, at least one.
    pub cpus: Vec<usize>,
    /// CPU time per wall time that the cgroup allows.
    pub quota: Option<f64>,
}

impl Machine {
    /// Looks at this process's mask and cgroup.
    #[must_use]
    pub fn here() -> Self {
        Self {
            cpus: evenkeel_sys::cpu::affinity(),
            quota: evenkeel_sys::cpu::quota(),
        }
    }

    /// Workers for `wanted`, at most `limit`. `auto`: one a CPU, and no more than the quota keeps busy: 1.5 CPUs are two
    /// workers, since one would leave half a CPU unused.
    #[must_use]
    pub fn workers(&self, wanted: Workers, limit: u16) -> u16 {
        let count = match wanted {
            Workers::Count(count) => count,
            Workers::Auto => {
                let cpus = u16::try_from(self.cpus.len()).unwrap_or(u16::MAX);
                let quota = self.quota.map_or(cpus, whole_cpus);
                cpus.min(quota)
            }
        };
        count.clamp(1, limit.max(1))
    }

    /// The CPU of a slot's worker: pinned only when there is one worker a CPU and no quota, for then the kernel has nothing
    /// better to do with it.
    #[must_use]
    pub fn cpu(&self, slot: u16, workers: u16) -> Option<usize> {
        let pinned = self.quota.is_none() && self.cpus.len() == usize::from(workers);
        pinned
            .then(|| self.cpus.get(usize::from(slot)).copied())
            .flatten()
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to the range before"
)]
fn whole_cpus(quota: f64) -> u16 {
    quota.ceil().clamp(1.0, f64::from(u16::MAX)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(cpus: usize, quota: Option<f64>) -> Machine {
        Machine {
            cpus: (0..cpus).map(|cpu| cpu * 2).collect(),
            quota,
        }
    }

    #[test]
    fn auto_follows_mask_and_quota() {
        for (cpus, quota, workers) in [
            (8, None, 8),
            (8, Some(1.5), 2),
            (8, Some(0.2), 1),
            (2, Some(16.0), 2),
            (200, None, 64),
        ] {
            assert_eq!(machine(cpus, quota).workers(Workers::Auto, 64), workers);
        }
        assert_eq!(machine(2, None).workers(Workers::Count(5), 64), 5);
    }

    #[test]
    fn pinned_only_when_workers_and_cpus_match_and_there_is_no_quota() {
        assert_eq!(machine(4, None).cpu(3, 4), Some(6));
        assert_eq!(machine(4, None).cpu(1, 2), None);
        assert_eq!(machine(4, Some(4.0)).cpu(1, 4), None);
    }
}
