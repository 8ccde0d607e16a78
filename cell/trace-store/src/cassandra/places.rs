//! Where things lie: days, hours, slots, hash buckets, shards, and names as keys. Pure.

use std::borrow::Cow;

use trace_model::{TimeRange, TraceId, UnixNanos};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Nanoseconds of a minute: the widest an index row may be.
pub(super) const MINUTE: u64 = 60 * 1_000_000_000;
/// Nanoseconds of a catalogue slot: 10 minutes.
pub(super) const SLOT: u64 = 10 * MINUTE;
/// Nanoseconds of an index partition's time: an hour.
pub(super) const HOUR: u64 = 60 * MINUTE;
/// Nanoseconds of a catalogue partition's time: a day.
pub(super) const DAY: u64 = 24 * HOUR;
/// Into so many partitions the services of a day are spread.
pub(super) const SERVICE_BUCKETS: i16 = 8;
/// The index of an hour has at most 2 to the power of this buckets in a level.
pub(super) const LEVEL_MAX: u8 = 12;
/// Names of more bytes are keys by their hash.
const KEY_BYTES_MAX: usize = 1_024;
/// So much of a long name is listed.
const LISTED_BYTES_MAX: usize = 4_096;
/// What a key that is a hash begins with; a name that begins so is a hash as well.
const HASHED: char = '\u{1}';

fn number(value: u64) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

/// The day of a time, counted from the epoch.
pub(super) fn day_of(time: UnixNanos) -> i32 {
    number(time.0 / DAY)
}

/// The hour of a time, counted from the epoch.
pub(super) fn hour_of(time: UnixNanos) -> i32 {
    number(time.0 / HOUR)
}

/// The slot of a time within its day, 0 to 143.
pub(super) fn slot_of(time: UnixNanos) -> i16 {
    i16::try_from(time.0 % DAY / SLOT).unwrap_or(0)
}

/// First and last nanosecond of a slot.
pub(super) fn slot_times(day: i32, slot: i16) -> (UnixNanos, UnixNanos) {
    let start = u64::try_from(day).unwrap_or(0).saturating_mul(DAY);
    let start = start.saturating_add(u64::try_from(slot).unwrap_or(0).saturating_mul(SLOT));
    (UnixNanos(start), UnixNanos(start.saturating_add(SLOT - 1)))
}

/// The hour of a slot.
pub(super) fn hour_of_slot(day: i32, slot: i16) -> i32 {
    hour_of(slot_times(day, slot).0)
}

/// The days that a range touches, first and last.
pub(super) fn days_of(range: TimeRange) -> (i32, i32) {
    (day_of(range.start), day_of(range.end.minus(1)))
}

/// A level of an hour of the index as an element of the catalogue's set.
pub(super) fn level_mark(hour: i32, level: u8) -> i16 {
    i16::try_from(hour.rem_euclid(24)).unwrap_or(0) * 16 + i16::from(level)
}

/// The level in a mark, if the mark is of this hour.
pub(super) fn level_in(mark: i16, hour: i32) -> Option<u8> {
    let of_hour = i32::from(mark / 16) == hour.rem_euclid(24);
    u8::try_from(mark % 16).ok().filter(|level| of_hour && *level <= LEVEL_MAX)
}

/// The bucket of a trace in a level: levels share no bucket.
pub(super) fn bucket_in(level: u8, trace_id: TraceId) -> i32 {
    let width = 1_u64 << level.min(LEVEL_MAX);
    number(width + xxh3_64(trace_id.as_bytes()) % width)
}

/// All buckets of a level.
pub(super) fn buckets_of(level: u8) -> std::ops::Range<i32> {
    let width = 1_i32 << level.min(LEVEL_MAX);
    width..width * 2
}

/// The catalogue partition of a service within its day.
pub(super) fn service_bucket(service_key: &str) -> i16 {
    let buckets = u64::from(SERVICE_BUCKETS.unsigned_abs());
    i16::try_from(xxh3_64(service_key.as_bytes()) % buckets).unwrap_or(0)
}

/// A name as a key: itself, or its hash where it is long.
pub(super) fn key_of(name: &str) -> Cow<'_, str> {
    if name.len() <= KEY_BYTES_MAX && !name.starts_with(HASHED) {
        return Cow::Borrowed(name);
    }
    Cow::Owned(format!("{HASHED}{:032x}", xxh3_128(name.as_bytes())))
}

/// What the catalogue shows of a name whose key is a hash.
pub(super) fn listed(name: &str) -> Cow<'_, str> {
    if name.len() <= LISTED_BYTES_MAX {
        return Cow::Borrowed(name);
    }
    let shown = name.get(..name.floor_char_boundary(LISTED_BYTES_MAX)).unwrap_or_default();
    Cow::Owned(format!("{shown}…"))
}

/// Whether a listed name is whole, and not the beginning of a longer one.
pub(super) fn is_whole(listed: &str) -> bool {
    !listed.ends_with('…') || listed.len() + 4 <= LISTED_BYTES_MAX
}

/// A count of nanoseconds as CQL's `bigint`; times after the year 2262 share its last value.
pub(super) fn bigint(nanos: u64) -> i64 {
    i64::try_from(nanos).unwrap_or(i64::MAX)
}

/// The inverse of [`bigint`].
pub(super) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// What a TTL may be at most: 20 years, as CQL has it.
const TTL_MAX: u64 = 20 * 365 * 24 * 3_600;

/// Seconds that retention leaves of something received then; `None` where it leaves nothing.
pub(super) fn ttl_seconds(
    received: UnixNanos,
    retention_nanos: u64,
    now: UnixNanos,
) -> Option<i32> {
    let left = received.plus(retention_nanos).since(now).div_ceil(1_000_000_000);
    (left > 0).then(|| number(left.min(TTL_MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixNanos = UnixNanos(1_790_000_400_000_000_000);

    #[test]
    fn slots_lie_in_their_hour_and_day() {
        let (day, slot) = (day_of(NOW), slot_of(NOW));
        let (first, last) = slot_times(day, slot);
        assert!(first <= NOW && NOW <= last && last.since(first) == SLOT - 1);
        assert_eq!(hour_of_slot(day, slot), hour_of(NOW));
        assert_eq!(slot_of(UnixNanos(DAY - 1)), 143);
        assert_eq!(day_of(UnixNanos::MAX), 213_503);
    }

    #[test]
    fn levels_are_marked_by_hour_and_share_no_bucket() {
        let hour = hour_of(NOW);
        for level in 0..=LEVEL_MAX {
            assert_eq!(level_in(level_mark(hour, level), hour), Some(level));
            assert_eq!(level_in(level_mark(hour, level), hour + 1), None);
            let trace_id = TraceId::from_bytes([level + 1; 16]).unwrap();
            assert!(buckets_of(level).contains(&bucket_in(level, trace_id)));
            assert!(level == 0 || buckets_of(level - 1).end == buckets_of(level).start);
        }
    }

    #[test]
    fn a_name_and_its_hash_are_never_one_key() {
        let long = "x".repeat(5_000);
        let hashed = key_of(&long).into_owned();
        assert!(hashed.len() < 64 && key_of(&hashed) != hashed);
        assert_eq!(key_of("web\0'; --"), "web\0'; --");
        assert_eq!(listed("web"), "web");
        assert!(listed(&long).ends_with('…') && listed(&long).len() < 4_200);
        assert!(listed(&"ü".repeat(3_000)).ends_with("ü…"));
        assert!(!is_whole(&listed(&long)) && !is_whole(&listed(&"🦀".repeat(1_025))));
        assert!(is_whole("web…") && is_whole(&listed(&"x".repeat(4_096))));
    }

    #[test]
    fn ttl_is_what_retention_leaves_and_never_nothing() {
        let retention = 100_000_000_000;
        assert_eq!(ttl_seconds(NOW, retention, NOW), Some(100));
        assert_eq!(ttl_seconds(NOW.minus(99_500_000_000), retention, NOW), Some(1));
        assert_eq!(ttl_seconds(NOW.minus(100_000_000_000), retention, NOW), None);
        assert_eq!(ttl_seconds(UnixNanos(0), retention, NOW), None);
        assert_eq!(ttl_seconds(UnixNanos::MAX, u64::MAX, NOW), Some(630_720_000));
    }
}
