//! How far each group is behind the log: what status pages, readiness and tests ask.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use span_log::GroupId;

/// How far one group is behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupLag {
    /// The group.
    pub group: GroupId,
    /// Records in the log that the group has not taken yet.
    pub records: u64,
    /// Records that the group has not committed yet: what a restart would read again.
    pub uncommitted_records: u64,
    /// Milliseconds since the oldest record that was not taken was appended (an upper bound while
    /// it was not read); 0 where all was taken.
    pub age_ms: u64,
    /// Whether its runner is at work. A group that ended without being told to has failed.
    pub is_running: bool,
    /// Whether another process reads the group, and this one is ready to take over.
    pub is_standing_by: bool,
    /// Partitions that this process reads; the figures are about these.
    pub partitions: usize,
    /// The error that the group is retrying, if it is.
    pub retrying: Option<String>,
}

impl GroupLag {
    /// A group that has not started.
    #[must_use]
    pub const fn unstarted(group: GroupId) -> Self {
        Self {
            group,
            records: 0,
            uncommitted_records: 0,
            age_ms: 0,
            is_running: false,
            is_standing_by: false,
            partitions: 0,
            retrying: None,
        }
    }
}

/// The latest lag of every group; shared, cheap to ask.
#[derive(Clone, Debug, Default)]
pub struct LagBoard {
    groups: Arc<Mutex<BTreeMap<GroupId, GroupLag>>>,
}

impl LagBoard {
    /// Puts a group's latest lag up.
    pub fn post(&self, lag: GroupLag) {
        self.lock().insert(lag.group, lag);
    }

    /// Changes a group's lag where it was posted before.
    pub fn amend(&self, group: GroupId, change: impl FnOnce(&mut GroupLag)) {
        if let Some(lag) = self.lock().get_mut(&group) {
            change(lag);
        }
    }

    /// The lag of every group, in the order of their names.
    #[must_use]
    pub fn snapshot(&self) -> Vec<GroupLag> {
        self.lock().values().cloned().collect()
    }

    /// The lag of one group, where it was posted.
    #[must_use]
    pub fn of(&self, group: GroupId) -> Option<GroupLag> {
        self.lock().get(&group).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<GroupId, GroupLag>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
