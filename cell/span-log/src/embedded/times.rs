//! The time that a partition gives and vouches for: never backwards, whatever the wall clock does,
//! and over restarts.
//!
//! An append's time is durable with its block. What [`Times::vouch`] gives while nothing is
//! appended is not, so it never exceeds a ceiling that the checkpoint has made durable; after a
//! crash the log goes on from the ceiling. Pure: the clock's reading is an argument.

use trace_model::UnixNanos;

/// How far the ceiling lies ahead when it is renewed: the append times of a log that crashed and
/// was opened again at once may run ahead of the wall clock by so much.
const LEAD_NANOS: u64 = 5_000_000_000;

/// Times of one partition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    vouched: UnixNanos,
    ceiling: UnixNanos,
    in_flight: Option<UnixNanos>,
}

impl Times {
    /// Times that go on from what was given or vouched for before.
    pub(crate) const fn from(vouched: UnixNanos) -> Self {
        Self { vouched, ceiling: vouched, in_flight: None }
    }

    /// A lower bound of the append time of whatever comes next.
    pub(crate) fn vouch(&mut self, now: UnixNanos) -> UnixNanos {
        let bound = self.in_flight.unwrap_or(now).min(self.ceiling);
        self.vouched = self.vouched.max(bound);
        self.vouched
    }

    /// The time of a group that is about to be written.
    pub(crate) fn begin(&mut self, now: UnixNanos) -> UnixNanos {
        let time = self.vouched.max(now);
        self.in_flight = Some(time);
        time
    }

    /// The group is durable.
    pub(crate) fn published(&mut self, time: UnixNanos) {
        self.vouched = self.vouched.max(time);
        self.in_flight = None;
    }

    /// The group was given up.
    pub(crate) const fn abandoned(&mut self) {
        self.in_flight = None;
    }

    /// Whether what may be vouched for will soon reach the ceiling.
    pub(crate) fn wants_ceiling(&self) -> bool {
        self.vouched.plus(LEAD_NANOS / 2) > self.ceiling
    }

    /// A ceiling to make durable.
    pub(crate) fn next_ceiling(&self, now: UnixNanos) -> UnixNanos {
        self.vouched.max(now).plus(LEAD_NANOS).max(self.ceiling)
    }

    /// A ceiling is durable.
    pub(crate) fn raise_ceiling(&mut self, ceiling: UnixNanos) {
        self.ceiling = self.ceiling.max(ceiling);
    }

    /// The highest time given so far.
    pub(crate) const fn vouched(&self) -> UnixNanos {
        self.vouched
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixNanos = UnixNanos(1_790_000_000_000_000_000);
    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_group_in_flight_holds_the_bound() {
        let mut times = Times::from(NOW);
        times.raise_ceiling(NOW.plus(9 * SECOND));
        let appended = times.begin(NOW.plus(1));
        assert_eq!(times.vouch(NOW.plus(SECOND)), appended);
        times.published(appended);
        assert_eq!(times.vouch(NOW.plus(SECOND)), NOW.plus(SECOND));
    }

    #[test]
    fn nothing_beyond_the_durable_ceiling_is_vouched_for() {
        let mut times = Times::from(NOW);
        assert_eq!(times.vouch(NOW.plus(SECOND)), NOW);
        assert!(times.wants_ceiling());
        let ceiling = times.next_ceiling(NOW);
        times.raise_ceiling(ceiling);
        assert_eq!(times.vouch(NOW.plus(SECOND)), NOW.plus(SECOND));
        assert_eq!(times.vouch(NOW.plus(90 * SECOND)), ceiling);
    }

    #[test]
    fn a_clock_that_jumps_back_stops_time() {
        let mut times = Times::from(NOW);
        times.raise_ceiling(NOW.plus(9 * SECOND));
        let before = times.vouch(NOW.plus(SECOND));
        let hour_ago = NOW.minus(3_600 * SECOND);
        assert_eq!(times.vouch(hour_ago), before);
        assert_eq!(times.begin(hour_ago), before);
    }
}
