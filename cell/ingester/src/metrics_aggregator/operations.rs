//! Which operations a service may have series for in a minute: the first so many that arrive.
//!
//! The answer depends on the records alone, not on when counts are flushed: within an hour of the
//! log's time what was let in stays in and what was refused stays refused. Each hour of arrival
//! starts anew, so that late records of an old minute need no memory of years.

use std::collections::BTreeMap;

use rustc_hash::{FxHashMap, FxHashSet};
use trace_model::UnixNanos;

use super::services::ServiceId;

const HOUR_NANOS: u64 = 3_600 * 1_000_000_000;

/// Hour of the log's time in which a record arrived.
pub(super) fn arrival_hour(now: UnixNanos) -> u32 {
    u32::try_from(now.0 / HOUR_NANOS).unwrap_or(u32::MAX)
}

/// xxh3-64 of the operations let in, by service and minute.
pub(super) type Windows = FxHashMap<(ServiceId, u32), FxHashSet<u64>>;

/// Operations let in, by hour of arrival.
#[derive(Debug)]
pub(super) struct OperationLimits {
    hours: BTreeMap<u32, Windows>,
    entries: usize,
    entries_max: usize,
    operations_max: usize,
}

impl OperationLimits {
    pub(super) fn new(operations_max: usize, entries_max: usize) -> Self {
        let (entries_max, operations_max) = (entries_max.max(1), operations_max.max(1));
        Self { hours: BTreeMap::new(), entries: 0, entries_max, operations_max }
    }

    /// Whether the operation may have a series of its own.
    pub(super) fn admit(
        &mut self,
        hour: u32,
        service: ServiceId,
        minute: u32,
        operation: &str,
    ) -> bool {
        while self.entries >= self.entries_max {
            self.forget_oldest();
        }
        let windows = self.hours.entry(hour).or_default();
        let operations = windows.entry((service, minute)).or_default();
        let hash = xxhash_rust::xxh3::xxh3_64(operation.as_bytes());
        if operations.contains(&hash) {
            return true;
        }
        if operations.len() >= self.operations_max {
            return false;
        }
        operations.insert(hash);
        self.entries = self.entries.saturating_add(1);
        true
    }

    /// Forgets hours before this one: no partition is there any more.
    pub(super) fn forget_before(&mut self, hour: u32) {
        while self.hours.first_key_value().is_some_and(|(oldest, _)| *oldest < hour) {
            self.forget_oldest();
        }
    }

    /// All hours, for the checkpoint.
    pub(super) const fn hours(&self) -> &BTreeMap<u32, Windows> {
        &self.hours
    }

    /// Puts an hour of a checkpoint back.
    pub(super) fn restore(&mut self, hour: u32, windows: Windows) {
        let entries: usize = windows.values().map(FxHashSet::len).sum();
        self.entries = self.entries.saturating_add(entries);
        self.hours.insert(hour, windows);
    }

    fn forget_oldest(&mut self) {
        let Some((_, windows)) = self.hours.pop_first() else {
            self.entries = 0;
            return;
        };
        let entries: usize = windows.values().map(FxHashSet::len).sum();
        self.entries = self.entries.saturating_sub(entries);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: ServiceId = ServiceId(0);

    #[test]
    fn the_first_operations_of_a_minute_are_let_in_and_stay_in() {
        let mut limits = OperationLimits::new(2, 100);
        let asked = [("a", true), ("b", true), ("c", false), ("a", true), ("c", false)];
        for (operation, is_in) in asked {
            assert_eq!(limits.admit(1, SERVICE, 5, operation), is_in, "{operation}");
        }
        assert!(limits.admit(1, SERVICE, 6, "c"));
        assert!(limits.admit(1, ServiceId(1), 5, "c"));
        assert!(limits.admit(2, SERVICE, 5, "c"));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_past_hours_are_forgotten() {
        let mut limits = OperationLimits::new(10, 50);
        for minute in 0..1_000 {
            limits.admit(minute / 60, SERVICE, minute, "a");
            assert!(limits.entries <= 50 && limits.hours.len() <= 2);
        }
        limits.forget_before(99);
        assert_eq!((limits.entries, limits.hours.len()), (0, 0));
        assert!(limits.admit(99, SERVICE, 5, "a"));
    }
}
