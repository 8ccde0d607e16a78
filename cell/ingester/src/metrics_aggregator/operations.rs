//! Which operations a service may have series for in a minute: the first so many that are seen.
//!
//! The answer depends on the records alone, not on when counts are flushed: what was let in stays
//! in, and what was refused stays refused, for as long as the minute is remembered.

use rustc_hash::{FxHashMap, FxHashSet};
use trace_model::UnixNanos;

use super::services::ServiceId;

/// A minute of a service that got no operation for so long in the log's time is forgotten.
const IDLE_SECONDS_MAX: u64 = 600;

/// Operations let in, by service and minute.
#[derive(Debug)]
pub(super) struct OperationLimits {
    windows: FxHashMap<(ServiceId, u32), Window>,
    entries: usize,
    entries_max: usize,
    operations_max: usize,
    swept_second: u64,
}

/// One minute of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Window {
    /// xxh3-64 of the operations let in.
    pub(super) operations: FxHashSet<u64>,
    /// Second of the log in which one was last asked for.
    pub(super) last_used: u64,
}

impl OperationLimits {
    pub(super) fn new(operations_max: usize, entries_max: usize) -> Self {
        Self {
            windows: FxHashMap::default(),
            entries: 0,
            entries_max: entries_max.max(1),
            operations_max: operations_max.max(1),
            swept_second: 0,
        }
    }

    /// Whether the operation may have a series of its own.
    pub(super) fn admit(
        &mut self,
        service: ServiceId,
        minute: u32,
        operation: &str,
        now: UnixNanos,
    ) -> bool {
        let second = now.0 / 1_000_000_000;
        self.sweep(second);
        let window = self.windows.entry((service, minute)).or_default();
        window.last_used = window.last_used.max(second);
        let hash = xxhash_rust::xxh3::xxh3_64(operation.as_bytes());
        if window.operations.contains(&hash) {
            return true;
        }
        if window.operations.len() >= self.operations_max {
            return false;
        }
        window.operations.insert(hash);
        self.entries = self.entries.saturating_add(1);
        true
    }

    /// All windows, for the checkpoint.
    pub(super) fn windows(&self) -> impl ExactSizeIterator<Item = (&(ServiceId, u32), &Window)> {
        self.windows.iter()
    }

    /// Puts a window of a checkpoint back.
    pub(super) fn restore(&mut self, service: ServiceId, minute: u32, window: Window) {
        self.entries = self.entries.saturating_add(window.operations.len());
        self.windows.insert((service, minute), window);
    }

    /// Forgets idle windows once a minute, and the longest unused ones where there are too many.
    fn sweep(&mut self, second: u64) {
        if second.saturating_sub(self.swept_second) >= 60 {
            self.swept_second = second;
            self.forget_before(second.saturating_sub(IDLE_SECONDS_MAX));
        }
        while self.entries >= self.entries_max {
            let oldest = self.windows.values().map(|window| window.last_used).min();
            self.forget_before(oldest.unwrap_or(u64::MAX).saturating_add(1));
        }
    }

    fn forget_before(&mut self, second: u64) {
        self.windows.retain(|_, window| window.last_used >= second);
        self.entries = self.windows.values().map(|window| window.operations.len()).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: ServiceId = ServiceId(0);

    #[test]
    fn the_first_operations_of_a_minute_are_let_in_and_stay_in() {
        let mut limits = OperationLimits::new(2, 100);
        for (operation, is_in) in
            [("a", true), ("b", true), ("c", false), ("a", true), ("c", false)]
        {
            assert_eq!(limits.admit(SERVICE, 5, operation, UnixNanos(0)), is_in, "{operation}");
        }
        assert!(limits.admit(SERVICE, 6, "c", UnixNanos(0)));
        assert!(limits.admit(ServiceId(1), 5, "c", UnixNanos(0)));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_idle_minutes_are_forgotten() {
        let mut limits = OperationLimits::new(10, 50);
        for minute in 0..1_000 {
            limits.admit(SERVICE, minute, "a", UnixNanos(u64::from(minute) * 1_000_000_000));
            assert!(limits.entries <= 50 && limits.windows().len() <= 50);
        }
        limits.admit(SERVICE, 5_000, "a", UnixNanos(1_000_000 * 1_000_000_000));
        assert_eq!(limits.windows().len(), 1);
    }
}
