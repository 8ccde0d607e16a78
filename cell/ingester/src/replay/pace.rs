//! How fast records are taken. Pure: time is given.

use std::time::Duration;

/// A limit of records in a second, kept on the average since the beginning.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    records_per_second: Option<u64>,
    began: Duration,
}

impl Pace {
    pub(super) const fn new(records_per_second: Option<u64>, now: Duration) -> Self {
        Self { records_per_second, began: now }
    }

    /// How many of these may be handed over at once: about a quarter of a second's.
    pub(super) fn at_most(self, records: usize) -> usize {
        let Some(rate) = self.records_per_second else { return records };
        records.min(usize::try_from(rate / 4).unwrap_or(usize::MAX).max(1))
    }

    /// How long to wait before more are taken.
    pub(super) fn wait(self, records: u64, now: Duration) -> Duration {
        let Some(rate) = self.records_per_second else { return Duration::ZERO };
        let due = u128::from(records) * 1_000_000_000 / u128::from(rate.max(1));
        let due = Duration::from_nanos(u64::try_from(due).unwrap_or(u64::MAX));
        self.began.saturating_add(due).saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn without_a_limit_nothing_waits() {
        let pace = Pace::new(None, SECOND);
        assert_eq!(pace.at_most(7_000), 7_000);
        assert_eq!(pace.wait(u64::MAX, SECOND), Duration::ZERO);
    }

    #[test]
    fn a_limit_holds_on_the_average_and_what_was_too_slow_is_made_up() {
        let pace = Pace::new(Some(1_000), SECOND);
        assert_eq!(pace.at_most(7_000), 250);
        assert_eq!(pace.wait(250, SECOND), SECOND / 4);
        assert_eq!(pace.wait(250, 2 * SECOND), Duration::ZERO);
        assert_eq!(pace.wait(3_000, 2 * SECOND), 2 * SECOND);
        assert_eq!(Pace::new(Some(1), SECOND).at_most(9), 1);
        assert_eq!(Pace::new(Some(0), SECOND).wait(1, SECOND), SECOND);
    }
}
