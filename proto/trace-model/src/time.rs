//! Times of spans: unsigned nanoseconds since the Unix epoch, as OTLP sends them, with arithmetic
//! that cannot wrap.

use std::fmt;

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

/// RFC 3339 in UTC, to the millisecond: `2026-11-21T12:00:00.250Z`.
impl fmt::Display for UnixNanos {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.millis();
        let (days, in_day) = (millis / 86_400_000, millis % 86_400_000);
        let (year, month, day) = civil_date(days);
        let (hour, minute) = (in_day / 3_600_000, in_day / 60_000 % 60);
        let (second, milli) = (in_day / 1_000 % 60, in_day % 1_000);
        write!(formatter, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:")?;
        write!(formatter, "{second:02}.{milli:03}Z")
    }
}

/// Year, month and day of a number of days since 1970-01-01, in the Gregorian calendar. Years are
/// counted from March, so that the leap day is a year's last.
#[expect(clippy::arithmetic_side_effects, reason = "64 bits of nanoseconds are few days")]
const fn civil_date(days: u64) -> (u64, u64, u64) {
    // Days from 0000-03-01 to 1970-01-01, and in 400, 100, 4 years and one.
    const EPOCH: u64 = 719_468;
    const ERA: u64 = 146_097;
    let (era, in_era) = ((days + EPOCH) / ERA, (days + EPOCH) % ERA);
    let leaps = in_era / 1_460 + in_era / 146_096;
    let year_of_era = (in_era - leaps + in_era / 36_524) / 365;
    let in_year = in_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // March is 0; months of 153 days in five.
    let month = (5 * in_year + 2) / 153;
    let day = in_year - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year_of_era;
    if month < 10 { (year, month + 3, day) } else { (year + 1, month - 9, day) }
}

/// Where time comes from: taken by argument everywhere, so that tests own it. Implementations live
/// in `service-kit` (the system's clock) and in tests.
pub trait Clock: Send + Sync + fmt::Debug {
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

    #[test]
    fn a_time_is_shown_as_a_date_in_utc() {
        for (nanos, shown) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000_000_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000_000_000, "2000-03-01T00:00:00.000Z"),
            (1_709_251_199_999_999_999, "2024-02-29T23:59:59.999Z"),
            (1_790_000_000_250_000_000, "2026-09-21T14:13:20.250Z"),
            (4_107_542_399_000_000_000, "2100-02-28T23:59:59.000Z"),
            (4_107_542_400_000_000_000, "2100-03-01T00:00:00.000Z"),
            (u64::MAX, "2554-07-21T23:34:33.709Z"),
        ] {
            assert_eq!(UnixNanos(nanos).to_string(), shown);
        }
    }

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
