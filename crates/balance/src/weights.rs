//! What `wrr` needs to know of all weights of a service together.

/// Weights' greatest common divisor and maximum, over all weights above 0, eligible or not.
///
/// Computed once per plan version. Weights that changed since then are still served safely
/// (nothing ineligible is picked, every step ends), only not in exact proportion.
///
/// Source: kernel `ip_vs_wrr.c`, `ip_vs_wrr_gcd_weight` (`di`) and `ip_vs_wrr_max_weight`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightSummary {
    /// The highest weight. Range: 0..=16,777,215 (24 bits); 0 when there is no weight above 0.
    pub max: u32,
    /// How far the threshold falls from one pass to the next: the weights' greatest common
    /// divisor. Range: 1..=16,777,215; 1 when there is no weight above 0.
    pub step: u32,
}

impl WeightSummary {
    /// Summarizes `weights`; zeros are passed over.
    pub fn of(weights: impl IntoIterator<Item = u32>) -> Self {
        let (max, divisor) = weights.into_iter().fold((0, 0), |(max, divisor), weight| {
            (weight.max(max), greatest_common_divisor(divisor, weight))
        });
        Self {
            max,
            step: divisor.max(1),
        }
    }

    /// The threshold of the first pass of a cycle (`mw` in the kernel); 0 without weights.
    ///
    /// All thresholds of a cycle are 1 more than a multiple of `step`: this one, then down by
    /// `step` to 1. Each weight is a multiple of `step`, so it passes `weight / step` of them.
    #[inline]
    pub(crate) const fn top(self) -> u32 {
        self.max.saturating_add(1).saturating_sub(self.step)
    }

    /// The highest threshold of a cycle that `bound`, above 0, still reaches.
    #[inline]
    pub(crate) fn threshold_within(self, bound: u32) -> u32 {
        let step = self.step.max(1);
        (bound - 1) / step * step + 1
    }
}

/// Of `a` and 0 it is `a`.
fn greatest_common_divisor(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_passes_zeros_over() {
        let cases: [(&[u32], u32, u32); 6] = [
            (&[], 0, 1),
            (&[0, 0], 0, 1),
            (&[0, 6, 4], 6, 2),
            (&[10, 0, 5, 5], 10, 5),
            (&[7], 7, 7),
            (&[65535, 1], 65535, 1),
        ];
        for (weights, max, step) in cases {
            let summary = WeightSummary::of(weights.iter().copied());
            assert_eq!(summary, WeightSummary { max, step }, "{weights:?}");
        }
    }
}
