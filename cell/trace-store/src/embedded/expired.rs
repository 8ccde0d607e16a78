//! What retention has removed, by the 10-minute buckets of placement time in which it lay.
//!
//! Retention goes by arrival, questions go by placement time, and spans of any date arrive at any
//! time. So "removed until then" alone would say of a back-fill of years ago that it may have
//! expired, though nothing of those years was ever removed. Here it is known for which times
//! something was.

use serde::{Deserialize, Serialize};
use trace_model::{TimeRange, UnixNanos};

use super::index_build::BUCKET_NANOS;

/// Runs that are kept; beyond, the two nearest become one, which errs towards "removed".
const RUNS_MAX: usize = 256;

/// Buckets side by side from which something was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExpiredRun {
    /// The first bucket.
    first: u64,
    /// The last bucket.
    last: u64,
    /// The latest append time of what was removed.
    until: u64,
}

impl ExpiredRun {
    /// Something placed between these times, included, was removed.
    pub(crate) const fn of_times(first: u64, last: u64, until: u64) -> Self {
        Self { first: first / BUCKET_NANOS, last: last / BUCKET_NANOS, until }
    }

    /// Something in this bucket was removed.
    pub(crate) const fn of_bucket(bucket: u64, until: u64) -> Self {
        Self { first: bucket, last: bucket, until }
    }

    /// Something was removed, nobody knows when it was placed.
    pub(crate) const fn of_all_time(until: u64) -> Self {
        Self::of_times(0, u64::MAX, until)
    }

    fn overlaps(&self, range: TimeRange) -> bool {
        let first = UnixNanos(self.first.saturating_mul(BUCKET_NANOS));
        let last = self.last.saturating_mul(BUCKET_NANOS).saturating_add(BUCKET_NANOS - 1);
        range.overlaps(first, UnixNanos(last))
    }

    fn join(&mut self, other: Self) {
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        self.until = self.until.max(other.until);
    }
}

/// The runs, in order, apart from one another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Expired(Vec<ExpiredRun>);

impl Expired {
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Notes what is removed.
    pub(crate) fn note(&mut self, runs: impl IntoIterator<Item = ExpiredRun>) {
        self.0.extend(runs);
        self.0.sort_unstable_by_key(|run| run.first);
        let mut joined: Vec<ExpiredRun> = Vec::with_capacity(self.0.len());
        for run in self.0.drain(..) {
            match joined.last_mut() {
                Some(last) if run.first <= last.last.saturating_add(1) => last.join(run),
                _ => joined.push(run),
            }
        }
        self.0 = joined;
        while self.0.len() > RUNS_MAX {
            self.join_nearest();
        }
    }

    fn join_nearest(&mut self) {
        let gaps =
            self.0.iter().zip(self.0.iter().skip(1)).map(|(run, next)| next.first - run.last);
        let Some((place, _)) = gaps.enumerate().min_by_key(|(_, gap)| *gap) else { return };
        let next = self.0.remove(place + 1);
        if let Some(run) = self.0.get_mut(place) {
            run.join(next);
        }
    }

    /// The latest append time of what was removed and lay in the range; `None` where nothing did.
    pub(crate) fn until_within(&self, range: TimeRange) -> Option<UnixNanos> {
        let touched = self.0.iter().filter(|run| run.overlaps(range));
        touched.map(|run| UnixNanos(run.until)).max()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn range(first: u64, last: u64) -> TimeRange {
        let start = UnixNanos(first * BUCKET_NANOS);
        TimeRange { start, end: UnixNanos((last + 1) * BUCKET_NANOS) }
    }

    proptest! {
        #[test]
        fn a_bucket_that_was_removed_is_always_known_and_others_are_not(
            runs in vec((0_u64..2_000, 0_u64..3, 0_u64..100), 0..60),
            asked in vec((0_u64..2_100, 0_u64..40), 1..20),
        ) {
            let mut expired = Expired::default();
            for (first, length, until) in &runs {
                expired.note([ExpiredRun { first: *first, last: first + length, until: *until }]);
            }
            for (first, length) in asked {
                let range = range(first, first + length);
                let touches = |run: &&(u64, u64, u64)| run.0 <= first + length && first <= run.0 + run.1;
                let expected = runs.iter().filter(touches).map(|run| UnixNanos(run.2)).max();
                let found = expired.until_within(range);
                // Runs that touch become one, with the later time of both.
                prop_assert!(found >= expected);
                prop_assert_eq!(found.is_some(), expected.is_some());
            }
        }
    }

    #[test]
    fn runs_are_bounded_and_err_towards_removed() {
        let mut expired = Expired::default();
        for back_fill in 0..10_000 {
            expired.note([ExpiredRun::of_bucket(back_fill * 7, back_fill)]);
        }
        assert_eq!(expired.0.len(), RUNS_MAX);
        for back_fill in 0..10_000 {
            let removed = range(back_fill * 7, back_fill * 7);
            assert!(expired.until_within(removed) >= Some(UnixNanos(back_fill)));
        }
        assert_eq!(expired.until_within(range(70_001, 80_000)), None);
    }

    #[test]
    fn the_ends_of_time_are_times_too() {
        let mut expired = Expired::default();
        expired.note([ExpiredRun::of_times(u64::MAX, u64::MAX, 3)]);
        assert_eq!(expired.until_within(TimeRange::ALL), Some(UnixNanos(3)));
        assert_eq!(expired.until_within(range(0, 5)), None);
        expired.note([ExpiredRun::of_all_time(5)]);
        assert_eq!(expired.until_within(range(0, 0)), Some(UnixNanos(5)));
        assert_eq!(expired.0.len(), 1);
    }
}
