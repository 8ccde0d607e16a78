//! Which partitions of a group a process reads: the part of the port that changes with time.

use std::collections::BTreeMap;

/// How the processes of a cell share a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// Each partition is read by one process, and several processes read.
    Partitions,
    /// One process reads all partitions; the others stand by and take over when it is gone.
    Alone,
}

/// A partition that a process reads for a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The generation in which it was given. A partition that was taken and given again in between
    /// has another one: what is known of it from before is void.
    pub since: u64,
    /// It is wanted elsewhere: finish, commit and [`release`](crate::SpanLog::release) it.
    pub is_leaving: bool,
}

/// What a process reads for a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// Grows with every change.
    pub generation: u64,
    /// The partitions.
    pub partitions: BTreeMap<u32, Share>,
}

/// A hold on one partition, as commits name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The partition.
    pub partition: u32,
    /// [`Share::since`].
    pub since: u64,
}

impl Assignment {
    /// All of a log's partitions, for good.
    #[must_use]
    pub fn of_all(partitions: u32) -> Self {
        let share = Share { since: 0, is_leaving: false };
        Self { generation: 0, partitions: (0..partitions).map(|one| (one, share)).collect() }
    }

    /// Whether it holds every one of so many partitions, and none is wanted elsewhere.
    #[must_use]
    pub fn is_whole(&self, partitions: u32) -> bool {
        let held = self.partitions.values().filter(|share| !share.is_leaving).count();
        held == partitions as usize
    }

    /// Whether a partition is held as it was given then.
    #[must_use]
    pub fn has(&self, hold: Hold) -> bool {
        self.partitions.get(&hold.partition).is_some_and(|share| share.since == hold.since)
    }

    /// The holds, in the order of their partitions.
    pub fn holds(&self) -> impl Iterator<Item = (Hold, Share)> + '_ {
        let hold = |(partition, share): (&u32, &Share)| {
            (Hold { partition: *partition, since: share.since }, *share)
        };
        self.partitions.iter().map(hold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_is_void_when_its_partition_was_given_again() {
        let mut assignment = Assignment::of_all(2);
        let hold = Hold { partition: 1, since: 0 };
        assert!(assignment.has(hold) && assignment.is_whole(2) && !assignment.is_whole(3));
        assignment.partitions.insert(1, Share { since: 4, is_leaving: true });
        assert!(!assignment.has(hold) && assignment.has(Hold { partition: 1, since: 4 }));
        assert!(!assignment.is_whole(2), "one is wanted elsewhere");
    }
}
