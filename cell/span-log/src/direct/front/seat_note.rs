//! What the front keeps of one collector over restarts: pure.

use std::collections::BTreeMap;

use proto::v1;
use serde::{Deserialize, Serialize};
use trace_model::{LogRange, UnixNanos};

use super::super::INCARNATION;
use super::super::wire::{lost_message, lost_run, told_group};
use crate::port::{ForgetLost, GroupId, Lost, LostCause, LostRun, MissedRun};

/// Runs remembered that the front's own groups have missed; beyond it the last one grows.
const MISSED_MAX: usize = 16;

/// What is kept of a collector. `(next, append_time)` is an end that the collector has vouched for; any
/// earlier one would do as well.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct SeatNote {
    /// The log that the number was given to; 0: none yet.
    pub(super) log: u64,
    pub(super) next: u64,
    pub(super) append_time: u64,
    /// What storage-writer had committed, and that whatever is not below was appended later than this.
    pub(super) stored: u64,
    pub(super) stored_until: u64,
    /// The same of search-indexer.
    pub(super) indexed: u64,
    pub(super) indexed_until: u64,
    /// Where the front's own groups read on, and since when whatever is not below was appended.
    pub(super) commits: BTreeMap<String, u64>,
    pub(super) since: BTreeMap<String, u64>,
    pub(super) retired: Option<RetiredNote>,
    /// What the collector has said to be lost of its log: it may not be there to say it again.
    pub(super) lost: Vec<LostNote>,
    pub(super) lost_expired_until: u64,
    /// What groups have missed, as the front knows itself.
    pub(super) missed: Vec<LostNote>,
    pub(super) missed_expired_until: u64,
    /// The front has lost its directory since: it may have been of the cell without being known.
    pub(super) may_be_known: bool,
}

/// A run of lost records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct LostNote {
    first: u64,
    next: u64,
    first_time: u64,
    last_time: u64,
    cause: String,
    missed_by: String,
}

impl From<v1::LostRecords> for LostNote {
    fn from(run: v1::LostRecords) -> Self {
        Self {
            first: run.first,
            next: run.next,
            first_time: run.appended_from_unix_nano,
            last_time: run.appended_until_unix_nano,
            cause: run.cause,
            missed_by: run.missed_by,
        }
    }
}

impl LostNote {
    fn of(missed: &MissedRun) -> Self {
        lost_message(&missed.run, missed.group.0).into()
    }

    fn run_of(&self, partition: u32) -> LostRun {
        let Self { first, next, first_time, last_time, cause, missed_by } = self;
        let message = v1::LostRecords {
            first: *first,
            next: *next,
            appended_from_unix_nano: *first_time,
            appended_until_unix_nano: *last_time,
            cause: cause.clone(),
            missed_by: missed_by.clone(),
        };
        lost_run(partition, &message)
    }

    /// Whether it has all of another run of its group, and of the times of that.
    fn holds(&self, other: &Self) -> bool {
        let is_within = self.first <= other.first && other.next <= self.next;
        let is_in_time = self.first_time <= other.first_time && other.last_time <= self.last_time;
        self.missed_by == other.missed_by && is_within && is_in_time
    }

    fn touches(&self, other: &Self) -> bool {
        let is_near = self.first <= other.next && other.first <= self.next;
        self.missed_by == other.missed_by && is_near
    }

    fn grow(&mut self, other: &Self) {
        self.first = self.first.min(other.first);
        self.next = self.next.max(other.next);
        self.first_time = self.first_time.min(other.first_time);
        self.last_time = self.last_time.max(other.last_time);
    }
}

/// Whether what was lost with a retired collector is told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Loss {
    #[default]
    Told,
    /// A person has ended it, or there was none.
    Forgotten,
    /// No store would have kept it until now.
    Expired,
}

/// A collector that is gone for good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct RetiredNote {
    /// When, in nanoseconds.
    pub(super) at: u64,
    /// It never was of the cell, and had no records.
    pub(super) is_empty: bool,
    /// Whether its lost records are still told of.
    pub(super) loss: Loss,
    /// The collector was told.
    pub(super) is_told: bool,
}

/// What is noted of a collector when it is retired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Retiring {
    pub(super) retired: RetiredNote,
    /// What groups miss by that.
    pub(super) missed: Vec<MissedRun>,
}

impl SeatNote {
    /// Without what goes on by itself as time does.
    pub(super) fn without_times(&self) -> Self {
        let mut note = Self { append_time: 0, stored_until: 0, indexed_until: 0, ..self.clone() };
        note.since.clear();
        note
    }

    /// A time before which no record from `offset` on was appended.
    pub(super) fn not_before(&self, offset: u64) -> UnixNanos {
        let groups = self.commits.iter();
        let groups = groups.filter_map(|(group, next)| Some((*next, *self.since.get(group)?)));
        let own = [(self.stored, self.stored_until), (self.indexed, self.indexed_until)];
        let below = own.into_iter().chain(groups).filter(|(next, _)| *next <= offset);
        UnixNanos(below.map(|(_, time)| time).max().unwrap_or(0))
    }

    /// Where readers of a retired one are at the end: behind the records that nobody knows.
    pub(super) fn end_of_retired(&self) -> u64 {
        let is_empty = self.retired.as_ref().is_some_and(|retired| retired.is_empty);
        self.next.saturating_add(u64::from(!is_empty))
    }

    pub(super) fn retire(&mut self, retiring: &Retiring) {
        self.retired = Some(retiring.retired.clone());
        for missed in &retiring.missed {
            self.note_missed(missed);
        }
    }

    /// Whether it is known that the group has missed all of the run.
    pub(super) fn has_missed(&self, missed: &MissedRun) -> bool {
        let run = LostNote::of(missed);
        self.missed.iter().any(|known| known.holds(&run))
    }

    /// Notes what a group has missed, joined to what it touches.
    pub(super) fn note_missed(&mut self, missed: &MissedRun) {
        let mut run = LostNote::of(missed);
        if run.first >= run.next || self.has_missed(missed) {
            return;
        }
        self.missed.retain(|known| {
            let is_joined = known.touches(&run);
            if is_joined {
                run.grow(known);
            }
            !is_joined
        });
        let is_full = self.missed.len() >= MISSED_MAX;
        let mut last = self.missed.iter_mut().rev();
        match last.find(|known| is_full && known.missed_by == run.missed_by) {
            Some(last) => last.grow(&run),
            None => self.missed.push(run),
        }
    }

    /// What is lost of it.
    pub(super) fn tell_lost(&self, partition: u32) -> Lost {
        let mut lost = Lost::default();
        for note in self.lost.iter().chain(&self.missed) {
            let run = note.run_of(partition);
            match told_group(&note.missed_by) {
                Some(group) => lost.missed.push(MissedRun { group, run }),
                // What a group has missed that is not known is told to all.
                None => lost.runs.push(run),
            }
        }
        let mut until = self.lost_expired_until.max(self.missed_expired_until);
        if let Some(retired) = &self.retired {
            match retired.loss {
                Loss::Told => lost.runs.push(self.retired_run(partition, retired)),
                Loss::Forgotten => {}
                Loss::Expired => until = until.max(retired.at),
            }
        }
        lost.expired_until = (until > 0).then_some(UnixNanos(until));
        lost
    }

    /// What had not gone to the trace store, and what nobody knows.
    fn retired_run(&self, partition: u32, retired: &RetiredNote) -> LostRun {
        LostRun {
            incarnation: INCARNATION,
            range: LogRange { partition, first: self.stored, next: u64::MAX },
            append_times: (UnixNanos(self.stored_until), UnixNanos(retired.at)),
            cause: LostCause::Retired,
        }
    }

    /// Forgets what the front knows to be missed; of a retired one, whom nobody else can ask, all that is
    /// lost. Gives how many runs.
    pub(super) fn forget(&mut self, partition: u32, which: ForgetLost) -> usize {
        let (is_retired, count) = (self.retired.is_some(), self.runs());
        match which {
            ForgetLost::Before(time) => self.forget_before(time.0),
            ForgetLost::Run { incarnation, partition: of, first } => {
                if is_retired && (incarnation, of) == (INCARNATION, partition) {
                    self.lost.retain(|run| !run.missed_by.is_empty() || run.first != first);
                    let stored = self.stored;
                    let told =
                        |retired: &&mut RetiredNote| retired.loss == Loss::Told && first == stored;
                    if let Some(retired) = self.retired.as_mut().filter(told) {
                        retired.loss = Loss::Forgotten;
                    }
                }
            }
            ForgetLost::Missed { group, incarnation, partition: of, first } => {
                if (incarnation, of) == (INCARNATION, partition) {
                    self.forget_missed(group, first);
                }
            }
        }
        count.saturating_sub(self.runs())
    }

    fn forget_missed(&mut self, group: GroupId, first: u64) {
        let stays = |run: &LostNote| run.missed_by != group.0 || run.first != first;
        self.missed.retain(stays);
        if self.retired.is_some() {
            self.lost.retain(stays);
        }
    }

    fn forget_before(&mut self, time: u64) {
        let old = |run: &LostNote| run.last_time < time;
        let until = |runs: &[LostNote]| {
            runs.iter().filter(|run| old(run)).map(|run| run.last_time).max().unwrap_or(0)
        };
        self.missed_expired_until = self.missed_expired_until.max(until(&self.missed));
        self.missed.retain(|run| !old(run));
        let Some(retired) = &mut self.retired else { return };
        self.lost_expired_until = self.lost_expired_until.max(until(&self.lost));
        self.lost.retain(|run| !old(run));
        if retired.at < time && retired.loss == Loss::Told {
            retired.loss = Loss::Expired;
        }
    }

    /// How many runs it tells of.
    fn runs(&self) -> usize {
        let of_retired = self.retired.as_ref().is_some_and(|retired| retired.loss == Loss::Told);
        self.lost.len().saturating_add(self.missed.len()).saturating_add(usize::from(of_retired))
    }
}
