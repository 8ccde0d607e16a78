//! What the front knows of one collector: pure, and a function of what the collector has said.

use std::collections::VecDeque;

use proto::v1;
use trace_model::{LogRange, UnixNanos};

use super::super::INCARNATION;
use super::seat_note::{Loss, LostNote, RetiredNote, Retiring, SeatNote};
use crate::port::{
    DamagedRange, GroupId, LogEnd, Lost, LostCause, LostRun, METRICS_AGGREGATOR, MissedRun,
    SEARCH_INDEXER, STORAGE_WRITER,
};

/// Ends remembered with their times, and how far apart they lie at least.
const MARKS_MAX: usize = 256;
const MARK_EVERY_NANOS: u64 = 50_000_000;
/// Older ones lie this part of their age apart: of an hour they are some 200.
const MARKS_AN_AGE: u64 = 24;
/// A collector's clock goes ahead of the front's by less than this: what it has taken before it was
/// retired was appended at the latest so long after. It goes behind by less than this as well.
pub(super) const CLOCK_ERROR_MAX_NANOS: u64 = 1_000_000_000;

/// One collector, as the front knows it.
#[derive(Clone, Debug, Default)]
pub(super) struct Seat {
    pub(super) partition: u32,
    pub(super) note: SeatNote,
    pub(super) first: u64,
    /// How many notes of what is lost the collector had when it told them.
    pub(super) notes: u64,
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
        self.learn_lost(state.lost.clone(), state.lost_expired_until_unix_nano, state.notes);
        self.mark();
        self.date();
        Ok(())
    }

    /// Keeps since when what each group has not read was appended: marks are not kept.
    fn date(&mut self) {
        let (stored, indexed) = (self.note.stored, self.note.indexed);
        self.note.stored_until = self.note.stored_until.max(self.not_before(stored).0);
        self.note.indexed_until = self.note.indexed_until.max(self.not_before(indexed).0);
        let commits = self.note.commits.iter();
        let since = commits.map(|(group, next)| (group.clone(), self.not_before(*next).0));
        self.note.since = since.collect();
    }

    /// What is lost of its log, as it says; not what it said before.
    pub(super) fn learn_lost(
        &mut self,
        runs: Vec<v1::LostRecords>,
        expired_until: u64,
        notes: u64,
    ) {
        if self.is_retired() || notes < self.notes {
            return;
        }
        self.notes = notes;
        self.note.lost = runs.into_iter().map(LostNote::from).collect();
        self.note.lost_expired_until = expired_until;
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
            self.thin_marks();
        }
        self.marks.push_back((next, time));
    }

    /// Leaves so many marks that each is as exact as a part of its age.
    fn thin_marks(&mut self) {
        let newest = self.marks.back().map_or(UnixNanos(0), |(_, time)| *time);
        let mut last: Option<UnixNanos> = None;
        let mut kept = VecDeque::with_capacity(MARKS_MAX);
        while let Some((next, time)) = self.marks.pop_back() {
            let gap = newest.since(time) / MARKS_AN_AGE;
            if kept.len() < MARKS_MAX - 1 && last.is_none_or(|last| last.since(time) >= gap) {
                kept.push_front((next, time));
                last = Some(time);
            }
        }
        self.marks = kept;
    }

    /// A time before which no record from `offset` on was appended.
    pub(super) fn not_before(&self, offset: u64) -> UnixNanos {
        let below = self.marks.iter().rev().find(|(next, _)| *next <= offset);
        let marked = below.map_or(UnixNanos(0), |(_, time)| *time);
        marked.max(self.note.not_before(offset))
    }

    /// The end: as it was last heard; of one that is retired, behind the records that nobody knows.
    pub(super) fn end(&self, now: UnixNanos) -> LogEnd {
        let known = UnixNanos(self.note.append_time);
        match &self.note.retired {
            Some(retired) => LogEnd {
                next: self.note.end_of_retired(),
                append_time: now.max(known).max(UnixNanos(retired.at)),
                first: 0,
            },
            None => LogEnd { next: self.note.next, append_time: known, first: self.first },
        }
    }

    /// What a reader at this offset of a retired collector meets, once.
    pub(super) fn missing(&self, from: u64) -> Option<DamagedRange> {
        let retired = self.note.retired.as_ref()?;
        let next = self.note.end_of_retired();
        let range = LogRange { partition: self.partition, first: from, next };
        let at = UnixNanos(retired.at);
        (from < next).then(|| DamagedRange {
            range,
            append_times: (self.not_before(from).min(at), at),
            reason: format!("collector {} was retired", self.partition),
            stranger: None,
        })
    }

    /// What is noted of it when it is retired.
    pub(super) fn retiring(&self, now: UnixNanos) -> Retiring {
        let at = now.0.max(self.note.append_time).saturating_add(CLOCK_ERROR_MAX_NANOS);
        // One that never was of the cell has taken nothing.
        let is_empty = self.note.log == 0 && self.note.next == 0 && !self.note.may_be_known;
        let loss = if is_empty { Loss::Forgotten } else { Loss::Told };
        let retired = RetiredNote { at, is_empty, loss, is_told: false };
        let mut missed = Vec::new();
        if !is_empty {
            let times = |first: u64| (self.not_before(first).min(UnixNanos(at)), UnixNanos(at));
            let mut miss = |group, (first, next), append_times| {
                let range = LogRange { partition: self.partition, first, next };
                let (incarnation, cause) = (INCARNATION, LostCause::Retired);
                let run = LostRun { incarnation, range, append_times, cause };
                missed.push(MissedRun { group, run });
            };
            // Nobody counts what the front has not read of it, and not what nobody knows.
            let counted = self.committed(METRICS_AGGREGATOR);
            let end = self.note.next.saturating_add(1);
            miss(METRICS_AGGREGATOR, (counted, end), times(counted));
            let Seat { note: SeatNote { stored, indexed, indexed_until, .. }, .. } = self;
            if indexed < stored {
                let times = (UnixNanos(*indexed_until), UnixNanos(at));
                miss(SEARCH_INDEXER, (*indexed, *stored), times);
            }
        }
        Retiring { retired, missed }
    }

    /// What is lost of it: what it says itself, what its groups and the front's have missed, and what had
    /// gone to no store when it was retired.
    pub(super) fn lost(&self) -> Lost {
        self.note.tell_lost(self.partition)
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

    /// Whether it is known where a group reads on. The collector's own groups are known to itself.
    pub(super) fn has_committed(&self, group: GroupId) -> bool {
        let is_own = [STORAGE_WRITER, SEARCH_INDEXER].contains(&group);
        is_own || self.note.commits.contains_key(group.0)
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
    use crate::port::{ForgetLost, METADATA_PUBLISHER};

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

    fn retire(seat: &mut Seat) {
        let retiring = seat.retiring(UnixNanos(60 * SECOND));
        seat.note.retire(&retiring);
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
        retire(&mut seat);
        let run = seat.lost().runs.remove(0);
        assert_eq!(
            (run.range.first, run.range.next, run.cause),
            (25, u64::MAX, LostCause::Retired)
        );
        // The end of second 6 was 20: what lies from there on was appended then or later.
        assert_eq!((seconds(run.append_times.0), seconds(run.append_times.1)), (6, 61));
    }

    /// What each group has missed, with the second from which on.
    fn missed(seat: &Seat) -> Vec<(GroupId, u64, u64, u64)> {
        let told = |one: &MissedRun| {
            let range = one.run.range;
            (one.group, range.first, range.next, seconds(one.run.append_times.0))
        };
        seat.lost().missed.iter().map(told).collect()
    }

    #[test]
    fn what_search_indexer_had_not_written_is_missed_by_searches() {
        let mut seat = seat();
        for (next, at, stored, indexed) in [(10, 5, 10, 10), (20, 6, 20, 10), (30, 7, 30, 12)] {
            let mut state = says(next, at, stored);
            state.commits[1].next = indexed;
            seat.learn(&state).unwrap();
        }
        retire(&mut seat);
        let run = seat.lost().runs.remove(0);
        assert_eq!((run.range.first, seconds(run.append_times.0)), (30, 7));
        // Nothing of it was counted.
        let expected = [(METRICS_AGGREGATOR, 0, 31, 0), (SEARCH_INDEXER, 12, 30, 5)];
        assert_eq!(missed(&seat), expected);
    }

    #[test]
    fn what_was_not_counted_of_a_retired_one_is_told_before_it_is_stepped_over() {
        let mut seat = seat();
        for (next, at, counted) in [(10, 5, 0), (20, 6, 10), (30, 8, 20)] {
            seat.note.commits.insert(METRICS_AGGREGATOR.0.to_owned(), counted);
            seat.learn(&says(next, at, next)).unwrap();
        }
        // Also by a front that has no marks any more.
        let mut seat = Seat::new(2, seat.note.clone(), (30, 30), UnixNanos(0));
        retire(&mut seat);
        assert_eq!(missed(&seat), [(METRICS_AGGREGATOR, 20, 31, 6)]);
        // The group meets it itself, and knows it no better.
        let met = seat.missing(25).unwrap();
        let (incarnation, cause) = (INCARNATION, LostCause::Damaged);
        let (range, append_times) = (met.range, met.append_times);
        let run = LostRun { incarnation, range, append_times, cause };
        assert!(seat.note.has_missed(&MissedRun { group: METRICS_AGGREGATOR, run }));
        let group = METRICS_AGGREGATOR;
        let which = ForgetLost::Missed { group, incarnation: INCARNATION, partition: 2, first: 20 };
        assert_eq!((seat.note.forget(2, which), missed(&seat)), (1, vec![]));
        assert_eq!(seat.lost().runs.len(), 1, "what is lost is another matter");
    }

    #[test]
    fn what_the_fronts_groups_have_missed_is_kept_apart_from_what_the_collector_says() {
        let mut seat = seat();
        let run = |first: u64| LostRun {
            incarnation: INCARNATION,
            range: LogRange { partition: 2, first, next: first + 2 },
            append_times: (UnixNanos(first * SECOND), UnixNanos((first + 1) * SECOND)),
            cause: LostCause::Dropped,
        };
        for first in (0..100).map(|place| place * 3) {
            seat.note.note_missed(&MissedRun { group: METRICS_AGGREGATOR, run: run(first) });
        }
        let known = missed(&seat);
        assert_eq!((known.len(), known[15].1, known[15].2), (16, 45, 299), "the last one grows");
        seat.learn(&says(300, 400, 300)).unwrap();
        assert_eq!(missed(&seat), known);
        let (kept, which) = (seat.note.clone(), ForgetLost::Before(UnixNanos(5 * SECOND)));
        assert_eq!(seat.note.forget(2, which), 2);
        assert_eq!(seat.lost().expired_until, Some(UnixNanos(4 * SECOND)));
        assert_eq!(kept.without_times().missed, kept.missed);
    }

    #[test]
    fn a_run_of_known_records_that_says_more_of_time_is_noted_and_one_that_says_less_is_not() {
        let mut seat = seat();
        let run = |from: u64, until: u64| LostRun {
            incarnation: INCARNATION,
            range: LogRange { partition: 2, first: 7, next: 8 },
            append_times: (UnixNanos(from * SECOND), UnixNanos(until * SECOND)),
            cause: LostCause::Dropped,
        };
        let group = METRICS_AGGREGATOR;
        for (from, until, last) in [(5, 90, 90), (6, 80, 90), (5, 200_000, 200_000)] {
            let missed = MissedRun { group, run: run(from, until) };
            seat.note.note_missed(&missed);
            assert!(seat.note.has_missed(&missed));
            let told: Vec<LostRun> = seat.lost().missed.into_iter().map(|one| one.run).collect();
            assert_eq!(told, [run(5, last)]);
        }
    }

    #[test]
    fn one_that_never_was_there_leaves_nothing_behind() {
        let mut seat = seat();
        retire(&mut seat);
        let end = seat.end(UnixNanos(90 * SECOND));
        assert_eq!((end.next, seconds(end.append_time)), (0, 90));
        assert_eq!((seat.missing(0), seat.lost()), (None, Lost::default()));
        // Where the front has lost its directory nobody knows whether it was.
        let mut seat = Seat::default();
        seat.note.may_be_known = true;
        retire(&mut seat);
        assert_eq!((seat.missing(0).unwrap().range.next, seat.lost().runs.len()), (1, 1));
        assert_eq!(seat.lost().missed.len(), 1);
    }

    #[test]
    fn a_reader_of_a_retired_one_meets_one_run_and_is_at_the_end_behind_it() {
        let mut seat = seat();
        seat.learn(&says(10, 5, 10)).unwrap();
        seat.learn(&says(20, 8, 10)).unwrap();
        assert_eq!(seat.missing(20), None);
        retire(&mut seat);
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
        retire(&mut seat);
        let note = seat.note;
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
            missed_by: String::new(),
        };
        let mut seat = seat();
        let state = v1::LogState { lost: vec![run(3, 2), run(7, 4)], ..says(10, 5, 10) };
        seat.learn(&state).unwrap();
        let away = Seat::new(2, seat.note.clone(), (10, 10), UnixNanos(0));
        assert_eq!(away.lost(), seat.lost());
        retire(&mut seat);
        let mut seat = Seat::new(2, seat.note, (11, 10), UnixNanos(0));
        assert_eq!(seat.lost().runs.len(), 3);
        let one = ForgetLost::Run { incarnation: INCARNATION, partition: 2, first: 3 };
        for (which, left) in [(one, 2), (ForgetLost::Before(UnixNanos(9 * SECOND)), 1)] {
            assert_eq!((seat.note.forget(2, which), seat.lost().runs.len()), (1, left));
            assert_eq!(seat.note.forget(2, which), 0);
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
        for offset in 1..2_000 {
            assert!(seconds(seat.not_before(offset)) <= offset, "{offset}");
        }
        assert_eq!(seconds(seat.not_before(1_990)), 1_990);
        // The older, the less exact.
        assert!(seconds(seat.not_before(1_500)) > 1_400 && seconds(seat.not_before(200)) > 0);
    }
}
