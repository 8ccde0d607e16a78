//! Runs of records that one group has missed, remembered over restarts until they are forgotten.
//! Bounded: beyond the limit a group's last run grows.

use serde::{Deserialize, Serialize};
use trace_model::UnixNanos;

use super::checkpoint::DroppedRun;
use super::lost::KeptRun;
use super::shared::PARTITION;
use crate::port::{ForgetLost, GroupId, MissedRun, TOLD_GROUPS};

/// Runs remembered of one group. With the lost and the dropped ones they fit the checkpoint's slot.
const MISSED_MAX: usize = 16;

/// A run as the checkpoint keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptMissed {
    group: String,
    #[serde(flatten)]
    run: KeptRun,
}

/// What the groups have missed.
#[derive(Clone, Debug, Default)]
pub(crate) struct MissedRuns {
    runs: Vec<(GroupId, KeptRun)>,
}

impl MissedRuns {
    /// As the checkpoint has it; of groups that are known.
    pub(crate) fn from_checkpoint(kept: &[KeptMissed]) -> Self {
        let known = kept.iter().filter_map(|one| {
            let group = TOLD_GROUPS.into_iter().find(|group| group.0 == one.group)?;
            Some((group, one.run))
        });
        Self { runs: known.collect() }
    }

    pub(crate) fn to_checkpoint(&self) -> Vec<KeptMissed> {
        let kept =
            |(group, run): &(GroupId, KeptRun)| KeptMissed { group: group.0.to_owned(), run: *run };
        self.runs.iter().map(kept).collect()
    }

    /// Remembers what a group has missed. Says whether it is news.
    pub(crate) fn note_run(&mut self, missed: &MissedRun) -> bool {
        let MissedRun { group, run } = missed;
        let offsets = (run.range.first, run.range.next);
        self.note(*group, KeptRun::new(run.incarnation, offsets, run.append_times, run.cause))
    }

    /// Remembers a run, joined to those of the group that it touches. Says whether it is news: what is
    /// known of a run is not made vaguer by whoever finds it gone again.
    pub(crate) fn note(&mut self, group: GroupId, mut run: KeptRun) -> bool {
        let of_group = |one: &&(GroupId, KeptRun)| one.0 == group;
        let holds = |(_, known): &(GroupId, KeptRun)| {
            known.incarnation == run.incarnation
                && known.first <= run.first
                && run.next <= known.next
        };
        if run.first >= run.next || self.runs.iter().filter(of_group).any(holds) {
            return false;
        }
        self.runs.retain(|(of, known)| {
            let is_joined = *of == group && known.touches(&run);
            if is_joined {
                run.grow(known);
            }
            !is_joined
        });
        let is_full = self.runs.iter().filter(of_group).count() >= MISSED_MAX;
        let mut last = self.runs.iter_mut().rev().filter(|(of, _)| is_full && *of == group);
        match last.next() {
            Some((_, last)) => last.grow(&run),
            None => self.runs.push((group, run)),
        }
        true
    }

    /// Forgets runs; gives how many, and up to when those were appended that no store would have kept.
    pub(crate) fn forget(&mut self, which: ForgetLost) -> (usize, Option<UnixNanos>) {
        let (before, mut expired_until) = (self.runs.len(), None);
        self.runs.retain(|(of, run)| match which {
            ForgetLost::Before(time) if run.last_time < time.0 => {
                expired_until = expired_until.max(Some(UnixNanos(run.last_time)));
                false
            }
            ForgetLost::Before(_) | ForgetLost::Run { .. } => true,
            ForgetLost::Missed { group, incarnation, partition, first } => {
                (group, incarnation, partition, first)
                    != (*of, run.incarnation, PARTITION, run.first)
            }
        });
        (before.saturating_sub(self.runs.len()), expired_until)
    }

    pub(crate) fn tell(&self) -> Vec<MissedRun> {
        self.runs.iter().map(|(group, run)| MissedRun { group: *group, run: run.tell() }).collect()
    }
}

/// Where segments began that are gone, and when: whoever finds their records gone learns since when they
/// may have been appended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Removed(Vec<(u64, u64)>);

/// Segments remembered; beyond it every second one is forgotten.
const REMOVED_MAX: usize = 32;

impl Removed {
    pub(crate) fn note(&mut self, run: &DroppedRun) {
        if self.0.len() >= REMOVED_MAX {
            let mut is_kept = false;
            self.0.retain(|_| {
                is_kept = !is_kept;
                is_kept
            });
        }
        self.0.push((run.first, run.first_time));
    }

    /// No record at or behind the offset was appended before.
    pub(crate) fn since(&self, offset: u64) -> UnixNanos {
        let before = self.0.iter().rev().find(|(first, _)| *first <= offset);
        UnixNanos(before.map_or(0, |(_, time)| *time))
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::{LostCause, METRICS_AGGREGATOR, SEARCH_INDEXER};

    fn run(first: u64, next: u64) -> KeptRun {
        let times = (UnixNanos(first * 10), UnixNanos(next * 10));
        KeptRun::new(7, (first, next), times, LostCause::Dropped)
    }

    fn ranges(missed: &MissedRuns, group: GroupId) -> Vec<(u64, u64)> {
        let told = missed.tell().into_iter().filter(|one| one.group == group);
        told.map(|one| (one.run.range.first, one.run.range.next)).collect()
    }

    #[test]
    fn each_group_has_runs_of_its_own_and_a_known_one_is_not_made_vaguer() {
        let mut missed = MissedRuns::default();
        assert!(missed.note(SEARCH_INDEXER, run(2, 6)));
        let vague = KeptRun::new(7, (3, 5), (UnixNanos(0), UnixNanos(999)), LostCause::Dropped);
        assert!(!missed.note(SEARCH_INDEXER, vague));
        assert!(!missed.note(SEARCH_INDEXER, run(5, 5)));
        assert!(missed.note(METRICS_AGGREGATOR, vague));
        assert!(missed.note(SEARCH_INDEXER, run(6, 8)));
        assert_eq!(ranges(&missed, SEARCH_INDEXER), [(2, 8)]);
        assert_eq!(ranges(&missed, METRICS_AGGREGATOR), [(3, 5)]);
        let times = |place: usize| missed.tell()[place].run.append_times;
        assert_eq!(times(1), (UnixNanos(20), UnixNanos(80)));
    }

    #[test]
    fn beyond_the_limit_the_last_run_of_the_group_grows_and_none_is_forgotten() {
        let mut missed = MissedRuns::default();
        missed.note(METRICS_AGGREGATOR, run(1, 2));
        for place in 0..50 {
            missed.note(SEARCH_INDEXER, run(place * 10, place * 10 + 1));
        }
        assert_eq!(ranges(&missed, METRICS_AGGREGATOR), [(1, 2)]);
        let ranges = ranges(&missed, SEARCH_INDEXER);
        assert_eq!(ranges.len(), MISSED_MAX);
        for place in 0..50 {
            assert!(ranges.iter().any(|(first, next)| (*first..*next).contains(&(place * 10))));
        }
    }

    #[test]
    fn what_expires_is_told_by_its_time_and_what_a_person_forgets_is_not() {
        let mut missed = MissedRuns::default();
        missed.note(SEARCH_INDEXER, run(1, 2));
        missed.note(METRICS_AGGREGATOR, run(1, 4));
        let of = |group| ForgetLost::Missed { group, incarnation: 7, partition: 0, first: 1 };
        assert_eq!(missed.forget(ForgetLost::Before(UnixNanos(20))), (0, None));
        assert_eq!(missed.forget(ForgetLost::Before(UnixNanos(21))), (1, Some(UnixNanos(20))));
        assert_eq!(missed.forget(of(SEARCH_INDEXER)), (0, None));
        assert_eq!(missed.forget(of(METRICS_AGGREGATOR)), (1, None));
        assert!(missed.tell().is_empty());
    }

    #[test]
    fn the_checkpoint_keeps_them_and_leaves_out_groups_that_are_not_known() {
        let mut missed = MissedRuns::default();
        missed.note(SEARCH_INDEXER, run(1, 2));
        let json = serde_json::to_string(&missed.to_checkpoint()).unwrap();
        let kept: Vec<KeptMissed> = serde_json::from_str(&json).unwrap();
        assert_eq!(MissedRuns::from_checkpoint(&kept).tell(), missed.tell());
        let later = json.replace("search-indexer", "of-a-later-release");
        let kept: Vec<KeptMissed> = serde_json::from_str(&later).unwrap();
        assert!(MissedRuns::from_checkpoint(&kept).tell().is_empty());
    }

    #[test]
    fn segments_that_are_gone_tell_since_when_their_records_may_have_come() {
        let mut removed = Removed::default();
        for place in 1..200 {
            let (first, next) = (place * 10, place * 10 + 10);
            removed.note(&DroppedRun { first, next, first_time: first, last_time: next });
            assert!(removed.0.len() <= REMOVED_MAX);
            for offset in 10..next {
                assert!(removed.since(offset).0 <= offset, "{offset}");
            }
            assert_eq!(removed.since(next).0, first);
        }
        assert_eq!(removed.since(19), UnixNanos(10), "the oldest is kept");
        assert_eq!(removed.since(9), UnixNanos(0));
    }
}
