//! What the front knows of one collector: pure, and a function of what the collector has said.

use std::collections::{BTreeMap, VecDeque};

use proto::v1;
use serde::{Deserialize, Serialize};
use trace_model::{LogRange, UnixNanos};

use super::super::INCARNATION;
use super::super::wire::lost_run;
use crate::port::{
    DamagedRange, ForgetLost, GroupId, LogEnd, Lost, LostCause, LostRun, SEARCH_INDEXER,
    STORAGE_WRITER,
};

/// Ends remembered with their times, and how far apart they lie at least.
const MARKS_MAX: usize = 256;
const MARK_EVERY_NANOS: u64 = 50_000_000;
/// A collector's clock goes ahead of the front's by less than this: what it has taken before it was
/// retired was appended at the latest so long after. It goes behind by less than this as well.
pub(super) const CLOCK_ERROR_MAX_NANOS: u64 = 1_000_000_000;

/// What is kept of a collector over restarts of the front. `(next, append_time)` is an end that the
/// collector has vouched for; any earlier one would do as well.
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
    /// Where the front's own groups read on.
    pub(super) commits: BTreeMap<String, u64>,
    pub(super) retired: Option<RetiredNote>,
    /// What the collector has said to be lost of its log: it may not be there to say it again.
    pub(super) lost: Vec<LostNote>,
    pub(super) lost_expired_until: u64,
}

/// A run of lost records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LostNote {
    first: u64,
    next: u64,
    first_time: u64,
    last_time: u64,
    cause: String,
}

impl LostNote {
    fn of(run: &v1::LostRecords) -> Self {
        Self {
            first: run.first,
            next: run.next,
            first_time: run.appended_from_unix_nano,
            last_time: run.appended_until_unix_nano,
            cause: run.cause.clone(),
        }
    }

    fn run_of(&self, partition: u32) -> LostRun {
        let Self { first, next, first_time, last_time, cause } = self;
        let message = v1::LostRecords {
            first: *first,
            next: *next,
            appended_from_unix_nano: *first_time,
            appended_until_unix_nano: *last_time,
            cause: cause.clone(),
        };
        lost_run(partition, &message)
    }
}

/// A collector that is gone for good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RetiredNote {
    /// When, in nanoseconds.
    pub(super) at: u64,
    /// Its lost records are forgotten: by retention, or by a person.
    pub(super) is_forgotten: bool,
    /// … by retention.
    pub(super) is_expired: bool,
    /// The collector was told.
    pub(super) is_told: bool,
}

/// One collector, as the front knows it.
#[derive(Clone, Debug, Default)]
pub(super) struct Seat {
    pub(super) partition: u32,
    pub(super) note: SeatNote,
    pub(super) first: u64,
    lost: Vec<LostRun>,
    /// Why it does not answer; `None`: it does.
    pub(super) fault: Option<String>,
    pub(super) is_registered: bool,
    /// When it was last heard, by the front's clock.
    pub(super) heard_at: UnixNanos,
    /// It is being given up: it is not let take more.
    pub(super) is_retiring: bool,
    /// Ends with their times, oldest first: what lies behind such an end was appended at its time at
    /// the earliest.
    marks: VecDeque<(u64, UnixNanos)>,
}

impl Seat {
    /// As it was left, or new. Readers have seen `seen` of it, of which the stores hold `stored`; what
    /// lies behind that is not published, so that it was appended later than `published`.
    pub(super) fn new(
        partition: u32,
        note: SeatNote,
        (seen, stored): (u64, u64),
        published: UnixNanos,
    ) -> Self {
        let mut seat = Self { partition, note, ..Self::default() };
        seat.lost = seat.note.lost.iter().map(|run| run.run_of(partition)).collect();
        seat.note.stored = seat.note.stored.max(stored);
        // Readers of a retired one are at the end behind the records that nobody knows: it has none there.
        if !seat.is_retired() {
            seat.note.next = seat.note.next.max(seen).max(stored);
            seat.note.append_time = seat.note.append_time.max(published.0);
        }
        seat.fault = Some("it has not answered yet".to_owned());
        seat.mark();
        seat
    }

    pub(super) const fn is_retired(&self) -> bool {
        self.note.retired.is_some()
    }

    pub(super) const fn is_away(&self) -> bool {
        !self.is_retired() && self.fault.is_some()
    }

    /// Takes in what the collector says of itself, or says why that cannot be.
    pub(super) fn learn(&mut self, state: &v1::LogState) -> Result<(), String> {
        if self.note.log != 0 && self.note.log != state.log {
            return Err("it has another log than the one of its number".to_owned());
        }
        if state.next < self.note.next {
            return Err(format!(
                "its log ends at {}, and was read up to {}: it is an older copy",
                state.next, self.note.next
            ));
        }
        let note = &mut self.note;
        note.next = state.next;
        note.append_time = note.append_time.max(state.append_time_unix_nano);
        for commit in &state.commits {
            match commit.group.as_str() {
                group if group == STORAGE_WRITER.0 => note.stored = note.stored.max(commit.next),
                group if group == SEARCH_INDEXER.0 => note.indexed = note.indexed.max(commit.next),
                // A front that has lost its directory goes on from what it had told.
                group => {
                    let own = note.commits.entry(group.to_owned()).or_insert(0);
                    *own = commit.next.max(*own);
                }
            }
        }
        self.first = state.first;
        self.is_registered = state.is_registered;
        self.learn_lost(&state.lost, state.lost_expired_until_unix_nano);
        self.mark();
        let (stored, indexed) = (self.note.stored, self.note.indexed);
        self.note.stored_until = self.note.stored_until.max(self.not_before(stored).0);
        self.note.indexed_until = self.note.indexed_until.max(self.not_before(indexed).0);
        Ok(())
    }

    /// What is lost of its log, as it says.
    pub(super) fn learn_lost(&mut self, runs: &[v1::LostRecords], expired_until: u64) {
        if self.is_retired() {
            return;
        }
        self.note.lost = runs.iter().map(LostNote::of).collect();
        self.note.lost_expired_until = expired_until;
        self.lost = runs.iter().map(|run| lost_run(self.partition, run)).collect();
    }

    /// Storage-writer has committed so far, as an answer of the tail has said.
    pub(super) fn note_stored(&mut self, next: u64) {
        self.note.stored = self.note.stored.max(next);
    }

    fn mark(&mut self) {
        let (next, time) = (self.note.next, UnixNanos(self.note.append_time));
        if let Some((last, at)) = self.marks.back_mut() {
            if *last == next {
                *at = time.max(*at);
                return;
            }
            if time.since(*at) < MARK_EVERY_NANOS {
                return;
            }
        }
        if self.marks.len() >= MARKS_MAX {
            self.marks.pop_front();
        }
        self.marks.push_back((next, time));
    }

    /// A time before which no record from `offset` on was appended.
    fn not_before(&self, offset: u64) -> UnixNanos {
        let below = self.marks.iter().rev().find(|(next, _)| *next <= offset);
        below.map_or(UnixNanos(0), |(_, time)| *time)
    }

    /// The end: as it was last heard; of one that is retired, behind the records that nobody knows.
    pub(super) fn end(&self, now: UnixNanos) -> LogEnd {
        let known = UnixNanos(self.note.append_time);
        match &self.note.retired {
            Some(retired) => LogEnd {
                next: self.note.next.saturating_add(1),
                append_time: now.max(known).max(UnixNanos(retired.at)),
                first: 0,
            },
            None => LogEnd { next: self.note.next, append_time: known, first: self.first },
        }
    }

    /// What a reader at this offset of a retired collector meets, once.
    pub(super) fn missing(&self, from: u64) -> Option<DamagedRange> {
        let retired = self.note.retired.as_ref()?;
        let next = self.note.next.saturating_add(1);
        let range = LogRange { partition: self.partition, first: from, next };
        let at = UnixNanos(retired.at);
        (from < next).then(|| DamagedRange {
            range,
            append_times: (self.not_before(from).min(at), at),
            reason: format!("collector {} was retired", self.partition),
            stranger: None,
        })
    }

    /// Retires it: the note to be made durable.
    pub(super) fn retiring(&self, now: UnixNanos) -> SeatNote {
        let at = now.0.max(self.note.append_time).saturating_add(CLOCK_ERROR_MAX_NANOS);
        // One that never was of the cell has taken nothing.
        let is_forgotten = self.note.log == 0 && self.note.next == 0;
        let retired = RetiredNote { at, is_forgotten, ..RetiredNote::default() };
        SeatNote { retired: Some(retired), ..self.note.clone() }
    }

    /// What is lost of it: what it says itself, and what had gone to no store when it was retired.
    pub(super) fn lost(&self) -> Lost {
        let until = UnixNanos(self.note.lost_expired_until);
        let mut lost = Lost {
            runs: self.lost.clone(),
            missed: Vec::new(),
            expired_until: Some(until).filter(|until| until.0 > 0),
        };
        let Some(retired) = &self.note.retired else { return lost };
        if !retired.is_forgotten {
            lost.runs.push(self.retired_run(retired));
        }
        if retired.is_expired {
            lost.expired_until = lost.expired_until.max(Some(UnixNanos(retired.at)));
        }
        lost
    }

    fn retired_run(&self, retired: &RetiredNote) -> LostRun {
        let from = self.note.stored_until.min(self.note.indexed_until);
        let first = self.lost_from();
        LostRun {
            incarnation: INCARNATION,
            range: LogRange { partition: self.partition, first, next: u64::MAX },
            append_times: (UnixNanos(from), UnixNanos(retired.at)),
            cause: LostCause::Retired,
        }
    }

    /// Forgets lost runs of a retired one, whom nobody else can ask: the note to be kept, with how many
    /// were forgotten.
    pub(super) fn forgetting(&self, which: ForgetLost) -> Option<(SeatNote, usize)> {
        let retired = self.note.retired.as_ref()?;
        let (mut note, before) = (self.note.clone(), self.lost().runs.len());
        let (is_expired, is_meant) = match which {
            ForgetLost::Before(time) => {
                let old = |run: &LostNote| run.last_time < time.0;
                let until = note.lost.iter().filter(|run| old(run)).map(|run| run.last_time).max();
                note.lost_expired_until = note.lost_expired_until.max(until.unwrap_or(0));
                note.lost.retain(|run| !old(run));
                (true, retired.at < time.0)
            }
            ForgetLost::Run { incarnation, partition, first } => {
                let is_of_it = (incarnation, partition) == (INCARNATION, self.partition);
                note.lost.retain(|run| !is_of_it || run.first != first);
                (false, is_of_it && first == self.lost_from())
            }
            ForgetLost::Missed { .. } => return None,
        };
        if is_meant && !retired.is_forgotten {
            note.retired = Some(RetiredNote { is_forgotten: true, is_expired, ..retired.clone() });
        }
        let mut after = self.clone();
        after.take_kept(note.clone());
        let forgotten = before.saturating_sub(after.lost().runs.len());
        (forgotten > 0).then_some((note, forgotten))
    }

    /// Takes over what was written of it.
    pub(super) fn take_kept(&mut self, note: SeatNote) {
        self.note.log = note.log;
        if note.retired.is_some() {
            self.lost = note.lost.iter().map(|run| run.run_of(self.partition)).collect();
            self.note.lost = note.lost;
            self.note.lost_expired_until = note.lost_expired_until;
        }
        self.note.retired = note.retired;
    }

    /// The first record of which not all stores are known to have everything: what search-indexer had not
    /// written is in no search, whoever else has it.
    pub(super) fn lost_from(&self) -> u64 {
        self.note.stored.min(self.note.indexed)
    }

    /// Where a group reads on.
    pub(super) fn committed(&self, group: GroupId) -> u64 {
        match group.0 {
            name if name == STORAGE_WRITER.0 => self.note.stored,
            name if name == SEARCH_INDEXER.0 => self.note.indexed,
            name => self.note.commits.get(name).copied().unwrap_or(self.first),
        }
    }

    /// The front's own commits, as the collector is told them.
    pub(super) fn commits(&self) -> Vec<v1::GroupCommit> {
        let commits = self.note.commits.iter().filter(|(_, next)| **next > 0);
        commits.map(|(group, next)| v1::GroupCommit { group: group.clone(), next: *next }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::METADATA_PUBLISHER;

    const SECOND: u64 = 1_000_000_000;

    fn seat() -> Seat {
        Seat::new(2, SeatNote::default(), (0, 0), UnixNanos(0))
    }

    fn says(next: u64, seconds: u64, stored: u64) -> v1::LogState {
        let commit = |group: GroupId| v1::GroupCommit { group: group.0.to_owned(), next: stored };
        v1::LogState {
            log: 7,
            next,
            append_time_unix_nano: seconds * SECOND,
            commits: vec![commit(STORAGE_WRITER), commit(SEARCH_INDEXER)],
            ..v1::LogState::default()
        }
    }

    fn seconds(time: UnixNanos) -> u64 {
        time.0 / SECOND
    }

    #[test]
    fn the_end_is_the_last_one_heard_and_never_goes_back() {
        let mut seat = seat();
        assert_eq!(seat.end(UnixNanos(99 * SECOND)).append_time, UnixNanos(0));
        seat.learn(&says(10, 5, 4)).unwrap();
        let end = seat.end(UnixNanos(99 * SECOND));
        assert_eq!((end.next, seconds(end.append_time)), (10, 5));
        assert!(seat.learn(&says(9, 6, 4)).unwrap_err().contains("older copy"));
        // Any log will do until one is noted.
        seat.note.log = 7;
        let other = v1::LogState { log: 8, ..says(11, 6, 4) };
        assert!(seat.learn(&other).unwrap_err().contains("another log"));
        assert_eq!(seat.end(UnixNanos(0)).next, 10);
    }

    #[test]
    fn what_a_retired_one_had_is_lost_from_the_last_moment_at_which_all_of_it_was_stored() {
        let mut seat = seat();
        for (next, at, stored) in [(10, 5, 10), (20, 6, 10), (30, 7, 20), (40, 9, 25)] {
            seat.learn(&says(next, at, stored)).unwrap();
        }
        seat.note = seat.retiring(UnixNanos(60 * SECOND));
        let run = seat.lost().runs.remove(0);
        assert_eq!(
            (run.range.first, run.range.next, run.cause),
            (25, u64::MAX, LostCause::Retired)
        );
        // The end of second 6 was 20: what lies from there on was appended then or later.
        assert_eq!((seconds(run.append_times.0), seconds(run.append_times.1)), (6, 61));
    }

    #[test]
    fn what_search_indexer_had_not_written_is_lost_to_searches() {
        let mut seat = seat();
        for (next, at, stored, indexed) in [(10, 5, 10, 10), (20, 6, 20, 10), (30, 7, 30, 12)] {
            let mut state = says(next, at, stored);
            state.commits[1].next = indexed;
            seat.learn(&state).unwrap();
        }
        seat.note = seat.retiring(UnixNanos(60 * SECOND));
        let run = seat.lost().runs.remove(0);
        assert_eq!((run.range.first, seconds(run.append_times.0)), (12, 5));
    }

    #[test]
    fn a_reader_of_a_retired_one_meets_one_run_and_is_at_the_end_behind_it() {
        let mut seat = seat();
        seat.learn(&says(10, 5, 10)).unwrap();
        seat.learn(&says(20, 8, 10)).unwrap();
        assert_eq!(seat.missing(20), None);
        seat.note = seat.retiring(UnixNanos(60 * SECOND));
        for (from, since) in [(10, 5), (15, 5), (20, 8)] {
            let missing = seat.missing(from).unwrap();
            assert_eq!((missing.range.first, missing.range.next), (from, 21));
            assert_eq!(seconds(missing.append_times.0), since, "{from}");
            assert_eq!(seconds(missing.append_times.1), 61);
        }
        assert_eq!((seat.missing(21), seat.end(UnixNanos(0)).next), (None, 21));
        // Its end goes with the time, so that it holds nothing up.
        assert_eq!(seconds(seat.end(UnixNanos(90 * SECOND)).append_time), 90);
    }

    #[test]
    fn a_front_that_is_started_again_reads_nothing_more_of_a_retired_one() {
        let mut seat = seat();
        seat.learn(&says(10, 5, 4)).unwrap();
        let note = seat.retiring(UnixNanos(60 * SECOND));
        // Readers are behind the run that they met, and have published long after that.
        let seat = Seat::new(2, note, (11, 4), UnixNanos(900 * SECOND));
        assert_eq!((seat.missing(11), seat.end(UnixNanos(0)).next), (None, 11));
        let missing = seat.missing(7).unwrap();
        assert_eq!(missing.range.next, 11);
        assert!(missing.append_times.0 <= missing.append_times.1);
    }

    #[test]
    fn what_a_collector_has_said_to_be_lost_stays_when_it_is_gone() {
        let run = |first: u64, second: u64| v1::LostRecords {
            first,
            next: first + 1,
            appended_from_unix_nano: second * SECOND,
            appended_until_unix_nano: second * SECOND,
            cause: "set-aside".to_owned(),
        };
        let mut seat = seat();
        let state = v1::LogState { lost: vec![run(3, 2), run(7, 4)], ..says(10, 5, 10) };
        seat.learn(&state).unwrap();
        let away = Seat::new(2, seat.note.clone(), (10, 10), UnixNanos(0));
        assert_eq!(away.lost(), seat.lost());
        let note = seat.retiring(UnixNanos(60 * SECOND));
        let mut seat = Seat::new(2, note, (11, 10), UnixNanos(0));
        assert_eq!(seat.lost().runs.len(), 3);
        let one = ForgetLost::Run { incarnation: INCARNATION, partition: 2, first: 3 };
        for (which, left) in [(one, 2), (ForgetLost::Before(UnixNanos(9 * SECOND)), 1)] {
            let (note, forgotten) = seat.forgetting(which).unwrap();
            seat.take_kept(note);
            assert_eq!((forgotten, seat.lost().runs.len()), (1, left));
            assert!(seat.forgetting(which).is_none());
        }
        assert_eq!(seat.lost().expired_until, Some(UnixNanos(4 * SECOND)));
    }

    #[test]
    fn a_front_that_has_lost_its_directory_goes_on_from_what_it_had_told() {
        let mut seat = Seat::new(0, SeatNote::default(), (12, 8), UnixNanos(3 * SECOND));
        assert_eq!((seat.end(UnixNanos(0)).next, seat.note.stored), (12, 8));
        let mut state = says(30, 9, 20);
        let told = v1::GroupCommit { group: METADATA_PUBLISHER.0.to_owned(), next: 17 };
        state.commits.push(told);
        seat.learn(&state).unwrap();
        assert_eq!(seat.committed(METADATA_PUBLISHER), 17);
        assert_eq!(seat.committed(STORAGE_WRITER), 20);
    }

    #[test]
    fn marks_are_bounded_and_times_stay_lower_bounds() {
        let mut seat = seat();
        for step in 1..2_000 {
            seat.learn(&says(step, step, 0)).unwrap();
        }
        assert!(seat.marks.len() <= MARKS_MAX);
        assert_eq!(seat.not_before(5), UnixNanos(0));
        assert_eq!(seconds(seat.not_before(1_990)), 1_990);
    }
}
