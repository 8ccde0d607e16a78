//! How far a group that writes into a store is durable, where the store only knows what it was
//! given and not what was set aside.

use std::collections::BTreeMap;

use trace_model::{Coverage, LogRange};

/// What was taken in and what was handed to the store, by partition of one log incarnation.
///
/// A record that was set aside never reaches the store, so the store's own cover would stop before
/// it for ever. Where the store has made durable all that it was given, the group is durable up to
/// everything taken, set-aside records included.
#[derive(Clone, Debug)]
pub struct Progress {
    incarnation: u64,
    /// By partition: next offset taken in, and next offset handed to the store.
    partitions: BTreeMap<u32, Taken>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    next: u64,
    handed: u64,
}

impl Progress {
    /// Nothing of this log taken yet.
    #[must_use]
    pub const fn new(incarnation: u64) -> Self {
        Self { incarnation, partitions: BTreeMap::new() }
    }

    /// Notes that the store was given a run of records.
    pub fn hand(&mut self, incarnation: u64, range: LogRange) {
        let taken = self.slot(incarnation, range.partition);
        taken.next = taken.next.max(range.next);
        taken.handed = taken.handed.max(range.next);
    }

    /// Notes that a run of records was set aside.
    pub fn set_aside(&mut self, range: LogRange) {
        let taken = self.slot(self.incarnation, range.partition);
        taken.next = taken.next.max(range.next);
    }

    /// The group's durable cover, given the store's.
    #[must_use]
    pub fn durable(&self, store: &Coverage) -> Coverage {
        let is_same_log = store.incarnation == self.incarnation;
        let mut durable =
            if is_same_log { store.clone() } else { Coverage::none(self.incarnation) };
        for (partition, taken) in &self.partitions {
            let held = durable.next.get(partition).copied().unwrap_or(0);
            if held >= taken.handed {
                durable.extend(*partition, taken.next);
            }
        }
        durable
    }

    fn slot(&mut self, incarnation: u64, partition: u32) -> &mut Taken {
        if incarnation != self.incarnation {
            self.incarnation = incarnation;
            self.partitions.clear();
        }
        self.partitions.entry(partition).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn range(first: u64, next: u64) -> LogRange {
        LogRange { partition: 0, first, next }
    }

    fn cover(next: u64) -> Coverage {
        let mut coverage = Coverage::none(7);
        coverage.extend(0, next);
        coverage
    }

    #[test]
    fn what_was_set_aside_is_durable_once_all_before_it_is() {
        let mut progress = Progress::new(7);
        progress.hand(7, range(0, 10));
        progress.set_aside(range(10, 15));
        assert_eq!(progress.durable(&Coverage::none(7)).next.get(&0), None);
        assert_eq!(progress.durable(&cover(9)).next.get(&0), Some(&9));
        assert_eq!(progress.durable(&cover(10)).next.get(&0), Some(&15));
    }

    #[test]
    fn cover_of_an_older_log_says_nothing_about_the_new_one() {
        let mut progress = Progress::new(7);
        progress.hand(8, range(0, 5));
        progress.set_aside(range(5, 6));
        let durable = progress.durable(&cover(100));
        assert_eq!((durable.incarnation, durable.next.get(&0)), (8, None));
    }
}
