//! Positions in a cell's span log, and how far a reader covers it.

use std::collections::BTreeMap;

/// One record of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition {
    /// The partition.
    pub partition: u32,
    /// The record's offset in it.
    pub offset: u64,
}

/// A run of records of one partition: `first` included, `next` not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogRange {
    /// The partition.
    pub partition: u32,
    /// Offset of the first record.
    pub first: u64,
    /// Offset after the last record.
    pub next: u64,
}

/// Up to which offset (not included) each partition of one log incarnation is covered.
///
/// `join` is the least upper bound: commutative, associative, idempotent within an incarnation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// The log's incarnation: offsets of different incarnations cannot be compared.
    pub incarnation: u64,
    /// Next offset by partition; a partition that is not listed is not covered at all.
    pub next: BTreeMap<u32, u64>,
}

impl Coverage {
    /// Nothing of this incarnation.
    #[must_use]
    pub const fn none(incarnation: u64) -> Self {
        Self { incarnation, next: BTreeMap::new() }
    }

    /// Whether the record is covered.
    #[must_use]
    pub fn covers(&self, incarnation: u64, position: LogPosition) -> bool {
        let next = self.next.get(&position.partition).copied().unwrap_or(0);
        self.incarnation == incarnation && position.offset < next
    }

    /// Extends one partition's cover; never shrinks it.
    pub fn extend(&mut self, partition: u32, next: u64) {
        let slot = self.next.entry(partition).or_insert(0);
        *slot = next.max(*slot);
    }

    /// The union with another reader's cover; a newer incarnation replaces an older one.
    pub fn join(&mut self, other: &Self) {
        if other.incarnation > self.incarnation {
            self.clone_from(other);
            return;
        }
        if other.incarnation < self.incarnation {
            return;
        }
        for (partition, next) in &other.next {
            self.extend(*partition, *next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coverage_reaches_to_the_next_offset_and_never_shrinks() {
        let mut coverage = Coverage::none(7);
        coverage.extend(0, 10);
        coverage.extend(0, 4);
        assert!(coverage.covers(7, LogPosition { partition: 0, offset: 9 }));
        assert!(!coverage.covers(7, LogPosition { partition: 0, offset: 10 }));
        assert!(!coverage.covers(7, LogPosition { partition: 1, offset: 0 }));
        assert!(!coverage.covers(8, LogPosition { partition: 0, offset: 0 }));
    }
}
