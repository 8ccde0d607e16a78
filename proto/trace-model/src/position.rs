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

/// Up to which offset (not included) each partition of one log incarnation is covered, and what was
/// covered of the incarnations before it.
///
/// `join` is the least upper bound: commutative, associative, idempotent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// The log's incarnation: offsets of different incarnations cannot be compared.
    pub incarnation: u64,
    /// Next offset by partition; a partition that is not listed is not covered at all.
    pub next: BTreeMap<u32, u64>,
    /// The same of earlier incarnations, by incarnation: how far each was covered in the end. The
    /// newest [`EARLIER_MAX`] are kept.
    pub earlier: BTreeMap<u64, BTreeMap<u32, u64>>,
}

/// Most earlier incarnations whose cover is remembered: a log is made anew after a disaster, not in
/// the ordinary course of things.
pub const EARLIER_MAX: usize = 8;

impl Coverage {
    /// Nothing of this incarnation.
    #[must_use]
    pub const fn none(incarnation: u64) -> Self {
        Self { incarnation, next: BTreeMap::new(), earlier: BTreeMap::new() }
    }

    /// Next offset of a partition of one incarnation; 0 where nothing of it is covered.
    #[must_use]
    pub fn next_in(&self, incarnation: u64, partition: u32) -> u64 {
        let next = self.of(incarnation);
        next.and_then(|next| next.get(&partition)).copied().unwrap_or(0)
    }

    fn of(&self, incarnation: u64) -> Option<&BTreeMap<u32, u64>> {
        if incarnation == self.incarnation {
            Some(&self.next)
        } else {
            self.earlier.get(&incarnation)
        }
    }

    /// Whether the record is covered.
    #[must_use]
    pub fn covers(&self, incarnation: u64, position: LogPosition) -> bool {
        position.offset < self.next_in(incarnation, position.partition)
    }

    /// Whether everything that the other covers of its present incarnation is covered here.
    #[must_use]
    pub fn reaches(&self, other: &Self) -> bool {
        let reached =
            |(partition, next): (&u32, &u64)| *next <= self.next_in(other.incarnation, *partition);
        other.next.iter().all(reached)
    }

    /// Extends one partition's cover of the incarnation; never shrinks it.
    pub fn extend(&mut self, partition: u32, next: u64) {
        let slot = self.next.entry(partition).or_insert(0);
        *slot = next.max(*slot);
    }

    /// The same of any incarnation; a newer one becomes the present one.
    pub fn extend_in(&mut self, incarnation: u64, partition: u32, next: u64) {
        self.begin(incarnation);
        if incarnation == self.incarnation {
            self.extend(partition, next);
            return;
        }
        let slot = self.earlier.entry(incarnation).or_default().entry(partition).or_insert(0);
        *slot = next.max(*slot);
        self.forget_oldest();
    }

    /// The union with another reader's cover. The newer incarnation is the present one; what was
    /// covered of older ones is kept beside it.
    pub fn join(&mut self, other: &Self) {
        self.begin(other.incarnation);
        let others = other.earlier.iter().chain([(&other.incarnation, &other.next)]);
        for (incarnation, next) in others {
            for (partition, next) in next {
                self.extend_in(*incarnation, *partition, *next);
            }
        }
    }

    /// What both cover of the newest incarnation that both know.
    #[must_use]
    pub fn meet(&self, other: &Self) -> Self {
        let incarnation = self.incarnation.min(other.incarnation);
        let mut both = Self::none(incarnation);
        for (partition, next) in self.of(incarnation).into_iter().flatten() {
            let next = other.next_in(incarnation, *partition).min(*next);
            if next > 0 {
                both.extend(*partition, next);
            }
        }
        both
    }

    /// Makes a newer incarnation the present one.
    fn begin(&mut self, incarnation: u64) {
        if incarnation <= self.incarnation {
            return;
        }
        let ended = std::mem::take(&mut self.next);
        if !ended.is_empty() {
            self.earlier.insert(self.incarnation, ended);
            self.forget_oldest();
        }
        self.incarnation = incarnation;
    }

    fn forget_oldest(&mut self) {
        while self.earlier.len() > EARLIER_MAX {
            self.earlier.pop_first();
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

    #[test]
    fn what_both_cover_is_of_one_incarnation() {
        let cover = |parts: &[(u64, u32, u64)]| {
            let mut cover = Coverage::none(0);
            for (incarnation, partition, next) in parts {
                cover.extend_in(*incarnation, *partition, *next);
            }
            cover
        };
        let older = cover(&[(7, 0, 10), (7, 1, 5)]);
        let newer = cover(&[(7, 0, 8), (9, 0, 100)]);
        for both in [older.meet(&newer), newer.meet(&older)] {
            assert_eq!(both, cover(&[(7, 0, 8)]));
        }
        assert_eq!(older.meet(&Coverage::none(0)).next.len(), 0);
    }

    #[test]
    fn a_newer_incarnation_keeps_the_cover_of_the_older_ones() {
        let mut coverage = Coverage::none(7);
        coverage.extend(0, 10);
        coverage.join(&Coverage::none(9));
        assert_eq!((coverage.incarnation, coverage.next_in(9, 0)), (9, 0));
        assert!(coverage.covers(7, LogPosition { partition: 0, offset: 9 }));
        assert!(!coverage.covers(7, LogPosition { partition: 0, offset: 10 }));
        assert!(!coverage.covers(8, LogPosition { partition: 0, offset: 0 }));
    }

    #[test]
    fn covers_join_in_any_order_and_only_the_newest_incarnations_stay() {
        let one = |incarnation: u64| {
            let mut cover = Coverage::none(incarnation);
            cover.extend(0, incarnation * 10);
            cover
        };
        let join = |order: &mut dyn Iterator<Item = u64>| {
            order.fold(Coverage::default(), |mut joined, incarnation| {
                joined.join(&one(incarnation));
                joined
            })
        };
        let ascending = join(&mut (1..=12));
        assert_eq!(ascending, join(&mut (1..=12).rev()));
        assert_eq!(ascending, join(&mut [6, 12, 1, 3, 2, 11, 4, 5, 9, 10, 8, 7].into_iter()));
        let mut halves = join(&mut (1..=6));
        halves.join(&join(&mut (4..=12)));
        halves.join(&ascending);
        assert_eq!(halves, ascending);
        assert_eq!(ascending.incarnation, 12);
        assert_eq!(
            ascending.earlier.keys().copied().collect::<Vec<_>>(),
            [4, 5, 6, 7, 8, 9, 10, 11]
        );
    }

    #[test]
    fn coverage_reaches_another_of_its_log_that_lies_nowhere_ahead() {
        let cover = |incarnation, next: &[(u32, u64)]| Coverage {
            incarnation,
            next: next.iter().copied().collect(),
            ..Coverage::default()
        };
        let own = cover(7, &[(0, 10), (1, 3)]);
        for (other, is_reached) in [
            (cover(7, &[(0, 10), (1, 3)]), true),
            (cover(7, &[(0, 2)]), true),
            (cover(7, &[(0, 11)]), false),
            (cover(7, &[(2, 1)]), false),
            (cover(7, &[(2, 0)]), true),
            (cover(8, &[(0, 1)]), false),
            (cover(8, &[(0, 0)]), true),
        ] {
            assert_eq!(own.reaches(&other), is_reached, "{other:?}");
        }
    }
}
