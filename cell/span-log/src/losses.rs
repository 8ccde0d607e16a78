//! Records that were acknowledged and that will not come: which, why, and to whom.

use trace_model::{LogRange, UnixNanos};

use crate::port::GroupId;
#[cfg(doc)]
use crate::port::TOLD_GROUPS;

/// Why records of the log will not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LostCause {
    /// Their bytes are damaged.
    Damaged,
    /// They were dropped unread, because the log was full.
    Dropped,
    /// The log was found to end before what had been read of it.
    WentBack,
    /// Their log is gone, and this one was made in its place.
    Recreated,
    /// A store refused them: they lie in the dead letters of the process that had them.
    SetAside,
    /// The collector whose log had them is gone for good.
    Retired,
}

impl LostCause {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Damaged,
        Self::Dropped,
        Self::WentBack,
        Self::Recreated,
        Self::SetAside,
        Self::Retired,
    ];

    /// The cause in a word, as it is shown and kept.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Damaged => "damaged",
            Self::Dropped => "dropped",
            Self::WentBack => "went-back",
            Self::Recreated => "recreated",
            Self::SetAside => "set-aside",
            Self::Retired => "retired",
        }
    }
}

/// Records that were acknowledged, that no store has and that will not come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostRun {
    /// The incarnation of the log that had them.
    pub incarnation: u64,
    /// Which records; `next` is [`u64::MAX`] where nobody knows how many there were.
    pub range: LogRange,
    /// Append times between which they lie.
    pub append_times: (UnixNanos, UnixNanos),
    /// What happened.
    pub cause: LostCause,
}

impl LostRun {
    /// Whether all of these records of an incarnation are in it.
    #[must_use]
    pub const fn holds(&self, incarnation: u64, range: LogRange) -> bool {
        self.incarnation == incarnation
            && self.range.partition == range.partition
            && self.range.first <= range.first
            && range.next <= self.range.next
    }
}

/// Records that a group will never read, whoever else has them: the log had lost them, or let them go,
/// before the group came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissedRun {
    /// The group, one of [`TOLD_GROUPS`].
    pub group: GroupId,
    /// The records, and why.
    pub run: LostRun,
}

/// What the log knows to be lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Runs of records, each as small as is known.
    pub runs: Vec<LostRun>,
    /// Runs that one group has missed: what it fills lacks them, the trace store need not.
    pub missed: Vec<MissedRun>,
    /// Runs appended at or before this time were forgotten, because no store would have kept their
    /// records until now: as if they had been stored and had expired.
    pub expired_until: Option<UnixNanos>,
}

/// Which lost runs to forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForgetLost {
    /// Those whose last record was appended before: stores keep nothing as old.
    Before(UnixNanos),
    /// Those that begin with this record: a person has seen to them.
    Run {
        /// The incarnation.
        incarnation: u64,
        /// The partition.
        partition: u32,
        /// Offset of the first record.
        first: u64,
    },
    /// The same of those that a group has missed.
    Missed {
        /// The group.
        group: GroupId,
        /// The incarnation.
        incarnation: u64,
        /// The partition.
        partition: u32,
        /// Offset of the first record.
        first: u64,
    },
}
