//! Runs of records that no store has and that will not come: remembered over restarts until they are
//! forgotten, by retention or by a person. Bounded: beyond the limit the last run grows.

use serde::{Deserialize, Serialize};
use trace_model::{LogRange, UnixNanos};

use super::checkpoint::Checkpoint;
use super::shared::PARTITION;
use crate::port::{ForgetLost, Lost, LostCause, LostRun};

/// Runs remembered. With the dropped ones they fit the checkpoint's slot.
const LOST_MAX: usize = 128;

/// A cause as the checkpoint names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Cause {
    Damaged,
    Dropped,
    WentBack,
    Recreated,
    SetAside,
    Retired,
    /// One of a later release.
    #[serde(other)]
    Unknown,
}

/// A run as the checkpoint keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptRun {
    pub(crate) incarnation: u64,
    pub(crate) first: u64,
    pub(crate) next: u64,
    first_time: u64,
    pub(crate) last_time: u64,
    cause: Cause,
}

impl KeptRun {
    pub(crate) const fn new(
        incarnation: u64,
        (first, next): (u64, u64),
        (first_time, last_time): (UnixNanos, UnixNanos),
        cause: LostCause,
    ) -> Self {
        let cause = match cause {
            LostCause::Damaged => Cause::Damaged,
            LostCause::Dropped => Cause::Dropped,
            LostCause::WentBack => Cause::WentBack,
            LostCause::Recreated => Cause::Recreated,
            LostCause::SetAside => Cause::SetAside,
            LostCause::Retired => Cause::Retired,
        };
        Self { incarnation, first, next, first_time: first_time.0, last_time: last_time.0, cause }
    }

    pub(crate) const fn tell(&self) -> LostRun {
        LostRun {
            incarnation: self.incarnation,
            range: LogRange { partition: PARTITION, first: self.first, next: self.next },
            append_times: (UnixNanos(self.first_time), UnixNanos(self.last_time)),
            cause: match self.cause {
                Cause::Damaged | Cause::Unknown => LostCause::Damaged,
                Cause::Dropped => LostCause::Dropped,
                Cause::WentBack => LostCause::WentBack,
                Cause::Recreated => LostCause::Recreated,
                Cause::SetAside => LostCause::SetAside,
                Cause::Retired => LostCause::Retired,
            },
        }
    }

    /// Whether both are, or touch, one run.
    pub(crate) const fn touches(&self, other: &Self) -> bool {
        self.incarnation == other.incarnation
            && self.first <= other.next
            && other.first <= self.next
    }

    pub(crate) fn grow(&mut self, other: &Self) {
        self.first = self.first.min(other.first);
        self.next = self.next.max(other.next);
        self.first_time = self.first_time.min(other.first_time);
        self.last_time = self.last_time.max(other.last_time);
    }
}

/// What a log knows to be lost.
#[derive(Clone, Debug, Default)]
pub(crate) struct LostRuns {
    runs: Vec<KeptRun>,
    expired_until: Option<UnixNanos>,
}

impl LostRuns {
    /// As the checkpoint has it. One of a release that did not tell lost runs from those that were
    /// set aside or dropped: all of them.
    pub(crate) fn from_checkpoint(checkpoint: &Checkpoint, incarnation: u64) -> Self {
        let mut lost = Self {
            runs: checkpoint.lost.clone().unwrap_or_default(),
            expired_until: checkpoint.expired_until.map(UnixNanos),
        };
        if checkpoint.lost.is_none() {
            let aside = checkpoint.set_aside.iter().map(|run| (run, LostCause::Damaged));
            let dropped = checkpoint.dropped.iter().map(|run| (run, LostCause::Dropped));
            for (run, cause) in aside.chain(dropped) {
                let times = (UnixNanos(run.first_time), UnixNanos(run.last_time));
                lost.note(KeptRun::new(incarnation, (run.first, run.next), times, cause));
            }
        }
        lost
    }

    pub(crate) fn put_into(&self, checkpoint: &mut Checkpoint) {
        checkpoint.lost = Some(self.runs.clone());
        checkpoint.expired_until = self.expired_until.map(|until| until.0);
    }

    /// Remembers a run, joined to those that it touches.
    pub(crate) fn note(&mut self, mut run: KeptRun) {
        if run.first >= run.next {
            return;
        }
        self.runs.retain(|known| {
            let is_joined = known.touches(&run);
            if is_joined {
                run.grow(known);
                run.cause = known.cause;
            }
            !is_joined
        });
        let is_full = self.runs.len() >= LOST_MAX;
        match self.runs.last_mut().filter(|_| is_full) {
            Some(last) => last.grow(&run),
            None => self.runs.push(run),
        }
    }

    /// Forgets runs; gives how many.
    pub(crate) fn forget(&mut self, which: ForgetLost) -> usize {
        let before = self.runs.len();
        let mut expired_until = self.expired_until;
        self.runs.retain(|run| match which {
            ForgetLost::Before(time) if run.last_time < time.0 => {
                expired_until = expired_until.max(Some(UnixNanos(run.last_time)));
                false
            }
            ForgetLost::Before(_) | ForgetLost::Missed { .. } => true,
            ForgetLost::Run { incarnation, partition, first } => {
                (incarnation, partition, first) != (run.incarnation, PARTITION, run.first)
            }
        });
        self.expired_until = expired_until;
        before.saturating_sub(self.runs.len())
    }

    /// What was appended until then counts as expired, too.
    pub(crate) fn expire_until(&mut self, until: Option<UnixNanos>) {
        self.expired_until = self.expired_until.max(until);
    }

    pub(crate) fn tell(&self) -> Lost {
        let runs = self.runs.iter().map(KeptRun::tell).collect();
        Lost { runs, missed: Vec::new(), expired_until: self.expired_until }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u64, next: u64) -> KeptRun {
        let times = (UnixNanos(first * 10), UnixNanos(next * 10));
        KeptRun::new(7, (first, next), times, LostCause::Damaged)
    }

    fn ranges(lost: &LostRuns) -> Vec<(u64, u64)> {
        lost.tell().runs.iter().map(|run| (run.range.first, run.range.next)).collect()
    }

    #[test]
    fn runs_that_touch_are_one_and_an_empty_one_is_none() {
        let mut lost = LostRuns::default();
        for (first, next) in [(4, 6), (10, 12), (6, 7), (5, 5), (11, 11), (20, 25), (7, 10)] {
            lost.note(run(first, next));
        }
        assert_eq!(ranges(&lost), [(20, 25), (4, 12)]);
        assert_eq!(lost.tell().runs[1].append_times, (UnixNanos(40), UnixNanos(120)));
    }

    #[test]
    fn beyond_the_limit_the_last_run_grows_and_none_is_forgotten() {
        let mut lost = LostRuns::default();
        let count = LOST_MAX as u64 + 50;
        for place in 0..count {
            lost.note(run(place * 10, place * 10 + 1));
        }
        let ranges = ranges(&lost);
        assert_eq!(ranges.len(), LOST_MAX);
        for place in 0..count {
            let is_in = |(first, next): &(u64, u64)| (*first..*next).contains(&(place * 10));
            assert!(ranges.iter().any(is_in), "{place}");
        }
    }

    #[test]
    fn what_expires_is_remembered_by_its_time_and_what_a_person_forgets_is_not() {
        let mut lost = LostRuns::default();
        for first in [1, 5, 9] {
            lost.note(run(first, first + 1));
        }
        let place = ForgetLost::Run { incarnation: 7, partition: 0, first: 9 };
        assert_eq!((lost.forget(place), lost.forget(place)), (1, 0));
        assert_eq!(lost.tell().expired_until, None);
        assert_eq!(lost.forget(ForgetLost::Before(UnixNanos(60))), 1);
        assert_eq!(lost.tell().expired_until, Some(UnixNanos(20)));
        assert_eq!(ranges(&lost), [(5, 6)]);
    }

    #[test]
    fn a_cause_of_a_later_release_leaves_the_checkpoint_readable() {
        let json = r#"{"first":4,"end":9,"time_ceiling":1,"commits":{},"dropped":[],
            "lost":[{"incarnation":7,"first":1,"next":2,"first_time":3,"last_time":4,
            "cause":"eaten"}]}"#;
        let checkpoint: Checkpoint = serde_json::from_str(json).unwrap();
        let told = LostRuns::from_checkpoint(&checkpoint, 7).tell().runs;
        assert_eq!((told.len(), told[0].cause), (1, LostCause::Damaged));
    }

    #[test]
    fn a_checkpoint_of_before_keeps_what_it_had_set_aside_or_dropped() {
        let json = r#"{"first":4,"end":9,"time_ceiling":1,"commits":{},
            "dropped":[{"first":0,"next":4,"first_time":1,"last_time":2}],
            "set_aside":[{"first":6,"next":7,"first_time":3,"last_time":4}]}"#;
        let checkpoint: Checkpoint = serde_json::from_str(json).unwrap();
        let mut lost = LostRuns::from_checkpoint(&checkpoint, 7);
        assert_eq!(ranges(&lost), [(6, 7), (0, 4)]);
        // Once it was written by this release, what was forgotten stays so.
        lost.forget(ForgetLost::Run { incarnation: 7, partition: 0, first: 0 });
        let mut written = checkpoint;
        lost.put_into(&mut written);
        let read: Checkpoint =
            serde_json::from_str(&serde_json::to_string(&written).unwrap()).unwrap();
        assert_eq!(ranges(&LostRuns::from_checkpoint(&read, 7)), [(6, 7)]);
    }
}
