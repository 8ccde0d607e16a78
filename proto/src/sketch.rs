//! Sketches of durations that merge over services, minutes and regions without losing their error.

use std::fmt;

use sketches_ddsketch::{Config, DDSketch};

mod parts;

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

/// What a sketch is made of, for stores that merge sketches themselves: counts add up bucket by
/// bucket, and the sum of the parts is the parts of the sum.
#[derive(Clone, Debug, PartialEq)]
pub struct SketchParts {
    /// Durations of 0 ns.
    pub zeros: u64,
    /// Count by bucket, ascending. Bucket `k` holds the durations from γ^k to γ^(k+1) ns and stands
    /// for [`bucket_nanos`] of `k`.
    pub buckets: Vec<(i32, u64)>,
    /// The shortest duration; infinite where there is none.
    pub shortest: f64,
    /// The longest duration; minus infinite where there is none.
    pub longest: f64,
    /// Sum of all durations.
    pub total: f64,
}

/// The ratio of a bucket's two ends: (1 + 0.01) / (1 − 0.01).
pub const BUCKET_RATIO: f64 = (1.0 + RELATIVE_ERROR) / (1.0 - RELATIVE_ERROR);

/// The duration that a bucket stands for, in nanoseconds.
#[must_use]
pub fn bucket_nanos(bucket: i32) -> f64 {
    (f64::from(bucket) * BUCKET_RATIO.ln()).exp() * (2.0 * BUCKET_RATIO / (1.0 + BUCKET_RATIO))
}

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

    /// What the sketch is made of. A sketch with negative values is none of durations.
    pub fn parts(&self) -> Result<SketchParts, InvalidSketch> {
        // The encoded form is the one public view of the library's buckets.
        parts::read(&self.to_bytes()).map_err(|error| InvalidSketch(error.to_string()))
    }

    /// The sketch of these parts.
    pub fn from_parts(parts: &SketchParts) -> Result<Self, InvalidSketch> {
        if parts.zeros == 0 && parts.buckets.is_empty() {
            return Ok(Self::default());
        }
        Self::from_bytes(&parts::write(parts))
    }
}

impl fmt::Debug for DurationSketch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "DurationSketch({} durations)", self.count())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sketch_of(durations: &[u64]) -> DurationSketch {
        let mut sketch = DurationSketch::default();
        for nanos in durations {
            sketch.add(*nanos);
        }
        sketch
    }

    proptest! {
        #[test]
        fn a_sketch_is_its_parts(durations in proptest::collection::vec(
            prop_oneof![0_u64..3, 0_u64..10_000_000_000, any::<u64>().prop_map(|nanos| nanos >> 4)],
            0..300,
        )) {
            let sketch = sketch_of(&durations);
            let parts = sketch.parts().unwrap();
            let counted: u64 = parts.buckets.iter().map(|(_, count)| count).sum();
            prop_assert_eq!(parts.zeros + counted, sketch.count());
            prop_assert_eq!(parts.zeros, durations.iter().filter(|nanos| **nanos == 0).count() as u64);
            let again = DurationSketch::from_parts(&parts).unwrap();
            prop_assert_eq!(again.to_bytes(), sketch.to_bytes());
            for quantile in [0.0, 0.5, 0.99, 1.0] {
                prop_assert_eq!(again.quantile(quantile), sketch.quantile(quantile));
            }
        }
    }

    #[test]
    fn parts_of_two_sketches_add_up_to_the_parts_of_their_sum() {
        let (left, right) = (sketch_of(&[5, 1_000, 0]), sketch_of(&[1_000, 77_000_000]));
        let mut both = left.clone();
        both.merge(&right);
        let (left, right, both) =
            (left.parts().unwrap(), right.parts().unwrap(), both.parts().unwrap());
        let mut sums = std::collections::BTreeMap::new();
        for (bucket, count) in left.buckets.iter().chain(&right.buckets) {
            *sums.entry(*bucket).or_insert(0) += count;
        }
        assert_eq!(both.buckets, sums.into_iter().collect::<Vec<_>>());
        assert_eq!((both.zeros, both.shortest, both.longest), (1, 0.0, 77_000_000.0));
        assert!((both.total - left.total - right.total).abs() < 1.0, "{}", both.total);
    }

    #[test]
    fn a_bucket_stands_for_a_duration_within_the_error() {
        for nanos in [1_u32, 17, 1_000, 123_456_789, u32::MAX] {
            let parts = sketch_of(&[u64::from(nanos)]).parts().unwrap();
            let [(bucket, 1)] = parts.buckets[..] else { panic!("{parts:?}") };
            let ratio = bucket_nanos(bucket) / f64::from(nanos);
            assert!((ratio - 1.0).abs() < 0.0101, "{nanos}: {ratio}");
        }
    }

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
