//! How far each group is behind the log: what status pages, readiness and tests ask.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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
    /// Whether it waits for what it works with: a store that is away.
    pub is_waiting: bool,
    /// Partitions that this process reads; the figures are about these.
    pub partitions: usize,
    /// The error that the group is retrying, if it is.
    pub retrying: Option<String>,
    /// Milliseconds for which it has failed without a success; 0 while it does not.
    pub failing_ms: u64,
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
            is_waiting: false,
            partitions: 0,
            retrying: None,
            failing_ms: 0,
        }
    }
}

/// A group that fails for longer is worth a person's look: what passes by itself (a broker that
/// starts anew, a disk that is being emptied) has passed by then.
pub const FAILING_IS_WARNED_OF: Duration = Duration::from_secs(60);

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

    /// What a person should know of a group that works and does not get on; `None` where nothing is.
    #[must_use]
    pub fn warning(&self, group: GroupId) -> Option<String> {
        let lag = self.of(group)?;
        let failing = Duration::from_millis(lag.failing_ms);
        let reason = lag.retrying.filter(|_| failing >= FAILING_IS_WARNED_OF)?;
        Some(format!("{group} has been failing for {} s: {reason}", failing.as_secs()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<GroupId, GroupLag>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_warned_of_once_it_has_failed_for_a_minute() {
        let (board, group) = (LagBoard::default(), GroupId("storage-writer"));
        assert_eq!(board.warning(group), None);
        let post = |failing_ms, retrying: Option<&str>| {
            let retrying = retrying.map(str::to_owned);
            board.post(GroupLag { failing_ms, retrying, ..GroupLag::unstarted(group) });
            board.warning(group)
        };
        assert_eq!(post(59_999, Some("cannot flush: x")), None);
        assert_eq!(post(90_000, None), None);
        let warning = post(60_000, Some("cannot flush: x")).unwrap();
        assert_eq!(warning, "storage-writer has been failing for 60 s: cannot flush: x");
    }
}
