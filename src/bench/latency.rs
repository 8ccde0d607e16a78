//! Latencies, all of them kept: percentiles are exact.

use std::time::Duration;

/// Most samples kept; a longer run keeps its first ones.
const SAMPLES_MAX: usize = 8 << 20;

/// Samples of one kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Latencies {
    samples: Vec<Duration>,
    is_sorted: bool,
}

impl Latencies {
    /// Adds one.
    pub(super) fn add(&mut self, sample: Duration) {
        if self.samples.len() < SAMPLES_MAX {
            self.samples.push(sample);
            self.is_sorted = false;
        }
    }

    /// Adds those of another.
    pub(super) fn merge(&mut self, other: &Self) {
        for sample in &other.samples {
            self.add(*sample);
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.samples.len()
    }

    /// The smallest sample that so many percent do not exceed; zero where there are none.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank below 2^23, and a float-to-int cast saturates"
    )]
    pub(super) fn percentile(&mut self, percent: f64) -> Duration {
        if !self.is_sorted {
            self.samples.sort_unstable();
            self.is_sorted = true;
        }
        let rank = (self.samples.len() as f64 * percent / 100.0).ceil() as usize;
        self.samples.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_exact() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentile(99.0), Duration::ZERO);
        for millis in (1..=100).rev() {
            latencies.add(Duration::from_millis(millis));
        }
        for percent in [1_u32, 50, 95, 99, 100] {
            let found = latencies.percentile(percent.into());
            assert_eq!(found, Duration::from_millis(u64::from(percent)), "P{percent}");
        }
    }
}
