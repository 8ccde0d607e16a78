//! Sketches of durations that merge over services, minutes and regions without losing their error.

use std::fmt;

use sketches_ddsketch::{Config, DDSketch};

/// Durations in nanoseconds as a DDSketch (Masson, Rim, Lee: *DDSketch*, VLDB 2019) with a relative
/// error of 1 %. Sketches merge; percentiles never do.
#[derive(Clone)]
pub struct DurationSketch(DDSketch);

/// Relative error of every quantile.
const RELATIVE_ERROR: f64 = 0.01;
/// Bins kept: at 1 % they span 17 orders of magnitude, from nanoseconds to years.
const BINS_MAX: u32 = 2048;
/// What is smaller counts as zero. Durations are whole nanoseconds, so only 0 is; the encoded form
/// does not carry this number and is read with the library's default, which it therefore must be.
const VALUE_MIN: f64 = 1.0e-9;

/// Bytes that are not a sketch of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a sketch of durations: {0}")]
pub struct InvalidSketch(String);

impl Default for DurationSketch {
    fn default() -> Self {
        Self(DDSketch::new(Config::new(RELATIVE_ERROR, BINS_MAX, VALUE_MIN)))
    }
}

impl DurationSketch {
    /// Adds a duration.
    #[expect(clippy::cast_precision_loss, reason = "the loss lies far below the sketch's error")]
    pub fn add(&mut self, nanos: u64) {
        self.0.add(nanos as f64);
    }

    /// Adds another sketch's durations.
    pub fn merge(&mut self, other: &Self) {
        // Both have the same configuration: checked in `from_bytes`, fixed in `default`.
        let merged = self.0.merge(&other.0);
        debug_assert!(merged.is_ok());
    }

    /// The duration at a quantile from 0 to 1; `None` where nothing was added.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        self.0.quantile(quantile).ok().flatten()
    }

    /// How many durations were added.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.count() as u64
    }

    /// The encoded form (DataDog's `sketches-java` binary encoding).
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.to_java_bytes()
    }

    /// Reads the encoded form; a sketch of another relative error is refused.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidSketch> {
        let read =
            DDSketch::from_java_bytes(bytes).map_err(|error| InvalidSketch(error.to_string()))?;
        let mut sketch = Self::default();
        sketch.0.merge(&read).map_err(|error| InvalidSketch(format!("{error:?}")))?;
        Ok(sketch)
    }
}

impl fmt::Debug for DurationSketch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "DurationSketch({} durations)", self.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merged_sketch_that_crossed_the_wire_keeps_its_error() {
        let (mut left, mut right) = (DurationSketch::default(), DurationSketch::default());
        for nanos in 1..=10_000_u64 {
            if nanos % 2 == 0 { left.add(nanos * 1_000) } else { right.add(nanos * 1_000) }
        }
        let read = DurationSketch::from_bytes(&right.to_bytes()).unwrap();
        left.merge(&read);
        assert_eq!(left.count(), 10_000);
        let p99 = left.quantile(0.99).unwrap();
        assert!((p99 / 9_900_000.0 - 1.0).abs() < 0.011, "{p99}");
        assert!(DurationSketch::from_bytes(b"nonsense").is_err());
    }
}
