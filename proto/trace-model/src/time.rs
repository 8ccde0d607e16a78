//! Times of spans: unsigned nanoseconds since the Unix epoch, as OTLP sends them, with arithmetic
//! that cannot wrap.

/// Nanoseconds since the Unix epoch (OTLP `fixed64 *_time_unix_nano`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixNanos(pub u64);

impl UnixNanos {
    /// The latest time that can be said.
    pub const MAX: Self = Self(u64::MAX);

    /// Nanoseconds from `earlier` to here; 0 where `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This much later, at most [`Self::MAX`].
    #[must_use]
    pub const fn plus(self, nanos: u64) -> Self {
        Self(self.0.saturating_add(nanos))
    }

    /// This much earlier, at least 0.
    #[must_use]
    pub const fn minus(self, nanos: u64) -> Self {
        Self(self.0.saturating_sub(nanos))
    }

    /// Whole milliseconds since the epoch.
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// Whole microseconds since the epoch.
    #[must_use]
    pub const fn micros(self) -> u64 {
        self.0 / 1_000
    }

    /// From milliseconds since the epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// From microseconds since the epoch.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros.saturating_mul(1_000))
    }
}

/// Where time comes from: taken by argument everywhere, so that tests own it. Implementations live
/// in `service-kit` (the system's clock) and in tests.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// The wall clock. It may jump either way.
    fn now(&self) -> UnixNanos;

    /// Time since some fixed moment: never backwards.
    fn monotonic(&self) -> std::time::Duration;
}

/// A range of time, `start` included, `end` not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimeRange {
    /// First nanosecond inside.
    pub start: UnixNanos,
    /// First nanosecond after.
    pub end: UnixNanos,
}

impl TimeRange {
    /// All of time.
    pub const ALL: Self = Self { start: UnixNanos(0), end: UnixNanos::MAX };

    /// Whether the time is inside.
    #[must_use]
    pub fn contains(&self, time: UnixNanos) -> bool {
        self.start <= time && time < self.end
    }

    /// Whether the closed interval `[first, last]` touches this range.
    #[must_use]
    pub fn overlaps(&self, first: UnixNanos, last: UnixNanos) -> bool {
        first < self.end && self.start <= last
    }
}

/// Where a span is placed in time for buckets, search and retention, kept beside what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The time by which the span is found.
    pub time: UnixNanos,
    /// Whether the span's own start could not serve and the receive time stands for it.
    pub is_receive_time: bool,
}

/// A start this far after the receive time is a clock or unit fault (24 h).
pub(crate) const AHEAD_NANOS_MAX: u64 = 24 * 3_600 * 1_000_000_000;
/// Starts before this (1980-01-01) are taken as unit slips (seconds, milli- or microseconds sent as
/// nanoseconds) and not as back-fills: no span is older than tracing.
const EARLIEST_START: UnixNanos = UnixNanos(315_532_800_000_000_000);

/// The placement time of a span: its start, or the receive time where the start is 0, after the
/// end, more than 24 h ahead, or so small that it must be in another unit.
#[must_use]
pub fn place(start: UnixNanos, end: UnixNanos, received: UnixNanos) -> Placement {
    let ends_before_start = end < start;
    let ahead = start.since(received) > AHEAD_NANOS_MAX;
    if start < EARLIEST_START || ends_before_start || ahead {
        return Placement { time: received, is_receive_time: true };
    }
    Placement { time: start, is_receive_time: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixNanos = UnixNanos(1_790_000_000_000_000_000);

    #[test]
    fn an_ordinary_or_years_old_span_is_placed_at_its_start() {
        for start in [NOW.minus(5), NOW.minus(300_000_000_000_000_000)] {
            let placed = place(start, start.plus(1), NOW);
            assert_eq!(placed, Placement { time: start, is_receive_time: false });
        }
    }

    #[test]
    fn an_impossible_start_is_placed_at_the_receive_time() {
        let day_ahead = NOW.plus(AHEAD_NANOS_MAX).plus(1);
        let milliseconds = UnixNanos(NOW.millis());
        for (start, end) in [
            (UnixNanos(0), NOW),
            (NOW, NOW.minus(1)),
            (day_ahead, day_ahead.plus(1)),
            (milliseconds, milliseconds),
        ] {
            let placed = place(start, end, NOW);
            assert_eq!(placed, Placement { time: NOW, is_receive_time: true });
        }
    }
}
