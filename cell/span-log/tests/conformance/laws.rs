//! What the port promises, tested on every adapter: here on those that need no engine, by
//! `tests/engines` on those that do.

use std::any::Any;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use proto::TraceSlice;
use service_kit::{ManualClock, SystemClock};
use span_log::port::{METRICS_AGGREGATOR, SEARCH_INDEXER, STORAGE_WRITER};
use span_log::{
    Capabilities, CommitError, ForgetLost, GroupId, Hold, LogEraser, LogError, Lost, LostCause,
    LostRun, MissedRun, Sharing, SpanLog,
};
use trace_model::{Clock, LogRange, TimeRange, UnixNanos};

use crate::batches::{PARTITION, batch, batch_of, eventually, read_all, tenant, trace, traces_of};

pub(crate) const NOW: UnixNanos = UnixNanos(1_790_000_000_000_000_000);
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// A log under test, of one partition; what it stands on goes with it.
pub(crate) struct Subject {
    pub(crate) log: Arc<dyn SpanLog>,
    /// What erases a trace from it, where it can.
    pub(crate) eraser: Option<Arc<dyn LogEraser>>,
    /// The clock that gives append times, where a test can set it.
    pub(crate) clock: Option<Arc<ManualClock>>,
    pub(crate) _keep: Box<dyn Any + Send>,
}

impl Subject {
    fn eraser(&self) -> &dyn LogEraser {
        self.eraser.as_deref().unwrap()
    }

    fn clock(&self) -> &ManualClock {
        self.clock.as_ref().unwrap()
    }

    /// Lets time pass: what is appended next has a later append time.
    async fn pass_a_moment(&self) {
        match &self.clock {
            Some(clock) => clock.advance(SECOND),
            None => {
                let clock = SystemClock::new();
                let later = clock.monotonic() + Duration::from_millis(3);
                eventually("time passes", || clock.monotonic() > later).await;
            }
        }
    }
}

pub(crate) fn run<F: Future<Output = ()>>(
    law: impl FnOnce(Subject) -> F,
    subject: impl Future<Output = Subject>,
) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { law(subject.await).await });
}

/// Makes a macro that makes a test of each law.
macro_rules! laws {
    ($dollar:tt $every:ident: $($law:ident),* $(,)?) => {
        macro_rules! $every {
            ($dollar subject:path) => {
                $(
                    #[test]
                    fn $law() {
                        $dollar crate::laws::run($dollar crate::laws::$law, $dollar subject());
                    }
                )*
            };
        }
        pub(crate) use $every;
    };
}

laws!($ every_law:
    capabilities_are_as_this_suite_needs_them,
    records_are_read_in_the_order_of_their_appends,
    every_record_is_read_once_from_any_offset,
    an_empty_batch_takes_no_offset,
    append_times_never_go_back,
    the_end_vouches_for_a_time_that_holds,
    an_offset_is_found_by_its_append_time,
    commits_never_go_back,
    a_commit_beyond_the_end_is_held_at_the_end,
    a_group_without_commit_begins_at_the_oldest,
    a_partition_is_committed_by_the_hold_on_it_and_by_no_other,
    a_group_that_is_read_alone_is_given_whole,
    a_waiter_wakes_at_an_append_and_at_its_time_limit,
    the_tail_has_an_acknowledged_batch_at_once,
    tenants_with_one_trace_id_do_not_see_each_other,
    concurrent_appends_are_all_kept_in_their_own_order,
    tail_and_committed_leave_no_gap,
    a_log_that_is_well_has_lost_nothing,
    what_a_group_has_missed_is_told_until_it_is_forgotten,
    a_partition_that_does_not_exist_is_named,
    a_closed_log_refuses,
);

// Of logs that can erase a trace.
laws!($ every_law_of_erasure:
    an_erased_trace_is_in_no_read_and_offsets_stay,
    the_tail_forgets_an_erased_trace_and_no_other,
    erasing_a_trace_leaves_the_others_of_its_batch_and_those_of_other_tenants,
);

// Of logs whose clock is ours.
laws!($ every_law_of_a_clock_that_is_set:
    a_log_is_born_at_its_first_opening,
    append_times_never_go_back_with_the_clock,
    the_end_keeps_its_word_when_the_clock_goes_back,
);

pub(crate) async fn capabilities_are_as_this_suite_needs_them(subject: Subject) {
    let Capabilities { has_live_tail, can_seek_by_time, .. } = subject.log.capabilities();
    assert!(has_live_tail && can_seek_by_time);
    assert_eq!(subject.log.identity().partitions, 1);
}

pub(crate) async fn a_log_is_born_at_its_first_opening(subject: Subject) {
    subject.log.append(batch(&[1])).await.unwrap();
    assert_eq!(subject.log.identity().incarnation, NOW.millis());
}

pub(crate) async fn records_are_read_in_the_order_of_their_appends(subject: Subject) {
    let mut expected = Vec::new();
    for number in 0..40_u64 {
        let traces: Vec<u64> = (0..=number % 5).map(|part| number * 10 + part).collect();
        let appended = subject.log.append(batch(&traces)).await.unwrap();
        assert_eq!(appended.ranges.len(), 1);
        assert_eq!(appended.ranges[0].first, expected.len() as u64);
        expected.extend(traces.into_iter().map(trace));
        assert_eq!(appended.ranges[0].next, expected.len() as u64);
    }
    let records = read_all(subject.log.as_ref(), 0, 1 << 20).await;
    assert_eq!(traces_of(&records), expected);
    let offsets: Vec<u64> = records.iter().map(|record| record.offset).collect();
    assert_eq!(offsets, (0..expected.len() as u64).collect::<Vec<_>>());
}

pub(crate) async fn every_record_is_read_once_from_any_offset(subject: Subject) {
    // Large enough for several segments of the log from files.
    for number in 0..60 {
        let traces = [number * 3, number * 3 + 1, number * 3 + 2];
        subject.log.append(batch_of("default", &traces, 2_000)).await.unwrap();
    }
    let all = read_all(subject.log.as_ref(), 0, 1 << 20).await;
    assert_eq!(all.len(), 180);
    for from in 0..=180 {
        for bytes_max in [1, 50_000] {
            let records = read_all(subject.log.as_ref(), from, bytes_max).await;
            assert_eq!(records, all[usize::try_from(from).unwrap()..], "from {from}");
        }
    }
}

pub(crate) async fn an_empty_batch_takes_no_offset(subject: Subject) {
    subject.log.append(batch(&[1])).await.unwrap();
    let appended = subject.log.append(batch(&[])).await.unwrap();
    assert_eq!((appended.ranges[0].first, appended.ranges[0].next), (1, 1));
    assert_eq!(subject.log.end(PARTITION).unwrap().next, 1);
    assert_eq!(read_all(subject.log.as_ref(), 0, 1).await.len(), 1);
}

pub(crate) async fn append_times_never_go_back(subject: Subject) {
    let mut last = UnixNanos(0);
    for step in 0..10 {
        subject.pass_a_moment().await;
        let appended = subject.log.append(batch(&[step])).await.unwrap();
        assert!(appended.append_time > last, "{:?} after {last:?}", appended.append_time);
        assert!(subject.log.end(PARTITION).unwrap().append_time >= appended.append_time);
        last = appended.append_time;
    }
    let records = read_all(subject.log.as_ref(), 0, 1 << 20).await;
    assert!(records.is_sorted_by_key(|record| record.append_time));
    assert_eq!(records.last().unwrap().append_time, last);
}

pub(crate) async fn append_times_never_go_back_with_the_clock(subject: Subject) {
    let mut last = UnixNanos(0);
    for step in 0..10 {
        match step {
            3 => subject.clock().set_wall(NOW.minus(3_600_000_000_000)),
            _ => subject.clock().advance(SECOND),
        }
        let appended = subject.log.append(batch(&[step])).await.unwrap();
        assert!(appended.append_time >= last);
        assert!(subject.log.end(PARTITION).unwrap().append_time >= appended.append_time);
        last = appended.append_time;
    }
    let records = read_all(subject.log.as_ref(), 0, 1 << 20).await;
    assert!(records.is_sorted_by_key(|record| record.append_time));
}

pub(crate) async fn the_end_vouches_for_a_time_that_holds(subject: Subject) {
    let appended = subject.log.append(batch(&[1])).await.unwrap();
    let log = subject.log.clone();
    subject.pass_a_moment().await;
    eventually("the idle end's time moves on", || {
        log.end(PARTITION).unwrap().append_time > appended.append_time
    })
    .await;
    let vouched = log.end(PARTITION).unwrap().append_time;
    assert!(log.append(batch(&[2])).await.unwrap().append_time >= vouched);
    let records = read_all(subject.log.as_ref(), 1, 1 << 20).await;
    assert!(records[0].append_time >= vouched);
}

pub(crate) async fn the_end_keeps_its_word_when_the_clock_goes_back(subject: Subject) {
    subject.log.append(batch(&[1])).await.unwrap();
    let log = subject.log.clone();
    subject.clock().advance(SECOND);
    let wanted = NOW.plus(1_000_000_000);
    eventually("the idle end's time follows the clock", || {
        log.end(PARTITION).unwrap().append_time == wanted
    })
    .await;
    subject.clock().set_wall(NOW.minus(3_600_000_000_000));
    assert_eq!(log.end(PARTITION).unwrap().append_time, wanted);
    assert_eq!(log.append(batch(&[2])).await.unwrap().append_time, wanted);
}

pub(crate) async fn an_offset_is_found_by_its_append_time(subject: Subject) {
    let mut times = Vec::new();
    for number in 0..30 {
        let batch = batch_of("default", &[number], 3_000);
        times.push(subject.log.append(batch).await.unwrap().append_time);
        subject.pass_a_moment().await;
    }
    for (time, place) in times.into_iter().zip(0_u64..) {
        assert_eq!(subject.log.offset_at(PARTITION, time).await.unwrap(), place);
        let after = subject.log.offset_at(PARTITION, time.plus(1)).await.unwrap();
        assert_eq!(after, place + 1);
    }
    assert_eq!(subject.log.offset_at(PARTITION, TimeRange::ALL.start).await.unwrap(), 0);
    assert_eq!(subject.log.offset_at(PARTITION, TimeRange::ALL.end).await.unwrap(), 30);
}

pub(crate) async fn commits_never_go_back(subject: Subject) {
    subject.log.append(batch(&[1, 2, 3])).await.unwrap();
    subject.log.commit(STORAGE_WRITER, PARTITION, 2).await.unwrap();
    subject.log.commit(STORAGE_WRITER, PARTITION, 2).await.unwrap();
    let error = subject.log.commit(STORAGE_WRITER, PARTITION, 1).await.unwrap_err();
    assert!(matches!(error, CommitError::Backwards { wanted: 1, committed: 2 }), "{error}");
    assert_eq!(subject.log.committed(STORAGE_WRITER, PARTITION).unwrap(), 2);
    assert_eq!(subject.log.committed(GroupId("other"), PARTITION).unwrap(), 0);
}

pub(crate) async fn a_commit_beyond_the_end_is_held_at_the_end(subject: Subject) {
    subject.log.append(batch(&[1, 2])).await.unwrap();
    subject.log.commit(STORAGE_WRITER, PARTITION, 9).await.unwrap();
    assert_eq!(subject.log.committed(STORAGE_WRITER, PARTITION).unwrap(), 2);
}

pub(crate) async fn a_partition_is_committed_by_the_hold_on_it_and_by_no_other(subject: Subject) {
    let log = &subject.log;
    log.append(batch(&[1, 2, 3])).await.unwrap();
    let mut told = log.join(SEARCH_INDEXER, Sharing::Partitions);
    let given = told.wait_for(|assignment| assignment.is_whole(1));
    let given = tokio::time::timeout(60 * SECOND, given).await.unwrap().unwrap().clone();
    let (hold, share) = given.holds().next().unwrap();
    assert_eq!((hold.partition, share.is_leaving), (PARTITION, false));
    log.commit_held(SEARCH_INDEXER, hold, 2).await.unwrap();
    let void = Hold { since: hold.since + 1, ..hold };
    let fenced = log.commit_held(SEARCH_INDEXER, void, 3).await.unwrap_err();
    assert!(matches!(fenced, CommitError::Fenced(of) if of == void), "{fenced}");
    assert_eq!(log.committed(SEARCH_INDEXER, PARTITION).unwrap(), 2);
    // Nobody has asked for it back.
    log.release(SEARCH_INDEXER, hold);
    log.commit_held(SEARCH_INDEXER, hold, 3).await.unwrap();
    assert_eq!(log.committed(SEARCH_INDEXER, PARTITION).unwrap(), 3);
    assert_eq!(*log.join(SEARCH_INDEXER, Sharing::Partitions).borrow(), given);
}

pub(crate) async fn a_group_that_is_read_alone_is_given_whole(subject: Subject) {
    let mut told = subject.log.join(STORAGE_WRITER, Sharing::Alone);
    let given = told.wait_for(|assignment| assignment.is_whole(1));
    assert!(tokio::time::timeout(60 * SECOND, given).await.unwrap().is_ok());
}

pub(crate) async fn a_group_without_commit_begins_at_the_oldest(subject: Subject) {
    subject.log.append(batch(&[1, 2])).await.unwrap();
    let end = subject.log.end(PARTITION).unwrap();
    assert_eq!((end.first, end.next), (0, 2));
    assert_eq!(subject.log.committed(GroupId("new"), PARTITION).unwrap(), end.first);
}

pub(crate) async fn a_waiter_wakes_at_an_append_and_at_its_time_limit(subject: Subject) {
    let brief = Duration::from_millis(20);
    let end = subject.log.wait_beyond(PARTITION, 0, brief).await.unwrap();
    assert_eq!(end.next, 0);
    let waiting = subject.log.wait_beyond(PARTITION, 0, Duration::from_secs(60));
    let appending = subject.log.append(batch(&[1]));
    let (waited, appended) = tokio::join!(waiting, appending);
    appended.unwrap();
    assert_eq!(waited.unwrap().next, 1);
    let beyond = subject.log.wait_beyond(PARTITION, 0, Duration::from_secs(60)).await.unwrap();
    assert_eq!(beyond.next, 1);
}

pub(crate) async fn the_tail_has_an_acknowledged_batch_at_once(subject: Subject) {
    let log = subject.log.as_ref();
    for number in 0..50 {
        log.append(batch_of("default", &[number, number + 1, 500], 900)).await.unwrap();
        let answer = log.tail(&tenant("default"), trace(number + 1)).await.unwrap();
        assert_eq!(answer.spans.len(), 1, "trace {number} + 1 was just appended");
        assert!(!answer.is_damaged);
        assert_eq!(answer.covered.next[&PARTITION], (number + 1) * 3);
        let common = log.tail(&tenant("default"), trace(500)).await.unwrap();
        assert_eq!(common.spans.len() as u64, number + 1);
    }
    let absent = log.tail(&tenant("default"), trace(9_999)).await.unwrap();
    assert!(absent.spans.is_empty() && !absent.is_damaged);
    assert_eq!(absent.covered.incarnation, log.identity().incarnation);
}

pub(crate) async fn tenants_with_one_trace_id_do_not_see_each_other(subject: Subject) {
    let log = subject.log.as_ref();
    log.append(batch_of("a", &[1], 40)).await.unwrap();
    log.append(batch_of("b", &[1, 2], 40)).await.unwrap();
    assert_eq!(log.tail(&tenant("a"), trace(1)).await.unwrap().spans.len(), 1);
    assert_eq!(log.tail(&tenant("b"), trace(1)).await.unwrap().spans.len(), 1);
    assert!(log.tail(&tenant("a"), trace(2)).await.unwrap().spans.is_empty());
    assert!(log.tail(&tenant("c"), trace(1)).await.unwrap().spans.is_empty());
}

pub(crate) async fn concurrent_appends_are_all_kept_in_their_own_order(subject: Subject) {
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..8_u64 {
        let log = subject.log.clone();
        senders.spawn(async move {
            let mut taken = Vec::new();
            for number in 0..25 {
                // Some are packed by the sender, some by the writer.
                let name_bytes = if number % 3 == 0 { 40_000 } else { 300 };
                let id = sender * 1_000 + number;
                let appended = log.append(batch_of("default", &[id], name_bytes)).await.unwrap();
                taken.push((appended.ranges[0].first, trace(id)));
            }
            taken
        });
    }
    let mut taken = Vec::new();
    while let Some(mine) = senders.join_next().await {
        let mine = mine.unwrap();
        assert!(mine.is_sorted_by_key(|(offset, _)| *offset));
        taken.extend(mine);
    }
    taken.sort_unstable();
    let read = read_all(subject.log.as_ref(), 0, 200_000).await;
    let read: Vec<_> = read.iter().map(|record| (record.offset, record.trace_id)).collect();
    assert_eq!(read, taken);
}

/// A reader that takes the committed offset as "in the stores" and then asks the tail must find
/// every acknowledged record in one or the other.
pub(crate) async fn tail_and_committed_leave_no_gap(subject: Subject) {
    const RECORDS: u64 = 300;
    let mut others = tokio::task::JoinSet::new();
    let log = subject.log.clone();
    others.spawn(async move {
        for number in 0..RECORDS {
            log.append(batch_of("default", &[number], 500)).await.unwrap();
        }
    });
    let log = subject.log.clone();
    others.spawn(async move {
        let mut next = 0;
        while next < RECORDS {
            next = log.wait_beyond(PARTITION, next, SECOND).await.unwrap().next;
            log.commit(STORAGE_WRITER, PARTITION, next).await.unwrap();
        }
    });
    let mut asked = 0_u64;
    while asked < RECORDS {
        let stored = subject.log.committed(STORAGE_WRITER, PARTITION).unwrap();
        let end = subject.log.end(PARTITION).unwrap().next;
        for number in (stored..end).rev().take(5) {
            let answer = subject.log.tail(&tenant("default"), trace(number)).await.unwrap();
            assert_eq!(answer.spans.len(), 1, "record {number} of {stored}..{end}");
            assert!(answer.covered.next[&PARTITION] >= end);
        }
        asked = end;
    }
    while let Some(other) = others.join_next().await {
        other.unwrap();
    }
}

/// Sixty batches of two traces; trace 500 is in every third. Several segments of the log from files.
async fn fill_with_trace_500(log: &dyn SpanLog) {
    for number in 0..60_u64 {
        let also = if number % 3 == 0 { 500 } else { 1_000 + number };
        log.append(batch_of("default", &[number, also], 2_000)).await.unwrap();
    }
}

pub(crate) async fn an_erased_trace_is_in_no_read_and_offsets_stay(subject: Subject) {
    let (log, eraser) = (&subject.log, subject.eraser());
    fill_with_trace_500(log.as_ref()).await;
    let before = read_all(log.as_ref(), 0, 1 << 20).await;
    assert_eq!(eraser.erase(&tenant("default"), trace(500)).await.unwrap().spans, 20);
    let after = read_all(log.as_ref(), 0, 1 << 20).await;
    assert_eq!(after.len(), before.len());
    for (old, new) in before.iter().zip(&after) {
        assert_eq!((old.offset, old.append_time), (new.offset, new.append_time));
        let is_erased = old.trace_id == trace(500);
        assert_eq!(old.trace_id != new.trace_id, is_erased, "{}", old.offset);
    }
    for from in 0..120 {
        let read = log.read(PARTITION, from, 1).await.unwrap();
        let slices = read.iter().flat_map(|logged| logged.batch.traces());
        let (erased, left): (Vec<&TraceSlice>, Vec<&TraceSlice>) =
            slices.partition(|slice| slice.is_erased());
        assert!(left.iter().all(|slice| slice.trace_id != trace(500)));
        assert!(erased.len() <= read.len() && !left.is_empty());
    }
    assert_eq!(eraser.erase(&tenant("default"), trace(500)).await.unwrap().spans, 0);
    assert_eq!(log.append(batch(&[7])).await.unwrap().ranges[0].first, 120);
}

pub(crate) async fn the_tail_forgets_an_erased_trace_and_no_other(subject: Subject) {
    let (log, eraser) = (&subject.log, subject.eraser());
    fill_with_trace_500(log.as_ref()).await;
    log.commit(STORAGE_WRITER, PARTITION, 50).await.unwrap();
    eraser.erase(&tenant("default"), trace(500)).await.unwrap();
    assert!(log.tail(&tenant("default"), trace(500)).await.unwrap().spans.is_empty());
    for number in 25..60 {
        let tail = log.tail(&tenant("default"), trace(number)).await.unwrap();
        assert_eq!((tail.spans.len(), tail.is_damaged), (1, false), "{number}");
    }
    assert_eq!(log.committed(STORAGE_WRITER, PARTITION).unwrap(), 50);
}

pub(crate) async fn erasing_a_trace_leaves_the_others_of_its_batch_and_those_of_other_tenants(
    subject: Subject,
) {
    let (log, eraser) = (&subject.log, subject.eraser());
    for tenant in ["a", "b"] {
        log.append(batch_of(tenant, &[1, 2, 3], 300)).await.unwrap();
    }
    assert_eq!(eraser.erase(&tenant("a"), trace(2)).await.unwrap().spans, 1);
    for (name, number, spans) in [("a", 1, 1), ("a", 2, 0), ("a", 3, 1), ("b", 2, 1)] {
        let tail = log.tail(&tenant(name), trace(number)).await.unwrap();
        assert_eq!(tail.spans.len(), spans, "trace {number} of {name}");
    }
    let read = read_all(log.as_ref(), 3, 1 << 20).await;
    assert_eq!(traces_of(&read), [trace(1), trace(2), trace(3)]);
    assert_eq!(read[0].encoded, batch_of("b", &[1, 2, 3], 300).encoded().to_vec());
}

pub(crate) async fn a_log_that_is_well_has_lost_nothing(subject: Subject) {
    subject.log.append(batch(&[1])).await.unwrap();
    assert_eq!(subject.log.health(), Ok(()));
    assert_eq!(subject.log.lost(), Lost::default());
    let all = ForgetLost::Before(UnixNanos::MAX);
    assert_eq!(subject.log.forget_lost(all).await.unwrap(), 0);
    assert_eq!(subject.log.lost(), Lost::default());
}

pub(crate) async fn what_a_group_has_missed_is_told_until_it_is_forgotten(subject: Subject) {
    let log = subject.log.as_ref();
    log.append(batch(&[1, 2, 3])).await.unwrap();
    let incarnation = log.identity().incarnation;
    let missed = |group, first, next| {
        let range = LogRange { partition: PARTITION, first, next };
        // Whole milliseconds: some adapters keep no more.
        let append_times = (UnixNanos::from_millis(first + 1), UnixNanos::from_millis(next + 1));
        let run = LostRun { incarnation, range, append_times, cause: LostCause::Dropped };
        MissedRun { group, run }
    };
    assert!(!log.has_committed(SEARCH_INDEXER, PARTITION).unwrap());
    log.commit(SEARCH_INDEXER, PARTITION, 1).await.unwrap();
    assert!(log.has_committed(SEARCH_INDEXER, PARTITION).unwrap());
    let indexed = missed(SEARCH_INDEXER, 0, 2);
    let counted = missed(METRICS_AGGREGATOR, 0, 3);
    for run in [&indexed, &counted, &indexed] {
        log.note_missed((*run).clone()).await.unwrap();
    }
    // Who finds it gone again knows less of it.
    let mut vague = missed(SEARCH_INDEXER, 1, 2);
    vague.run.append_times.0 = UnixNanos(0);
    log.note_missed(vague).await.unwrap();
    let lost = log.lost();
    assert_eq!((lost.missed.len(), lost.runs.len()), (2, 0), "the store has it: {lost:?}");
    assert!(lost.missed.contains(&indexed) && lost.missed.contains(&counted), "{lost:?}");
    let of_all = ForgetLost::Run { incarnation, partition: PARTITION, first: 0 };
    assert_eq!(log.forget_lost(of_all).await.unwrap(), 0, "no run that no store has");
    let (partition, first) = (PARTITION, 0);
    let group = SEARCH_INDEXER;
    let of_one = ForgetLost::Missed { group, incarnation, partition, first };
    assert_eq!(log.forget_lost(of_one).await.unwrap(), 1);
    assert_eq!(log.lost().missed, [counted]);
    let before = ForgetLost::Before(UnixNanos::from_millis(5));
    assert_eq!(log.forget_lost(before).await.unwrap(), 1);
    assert!(log.lost().missed.is_empty());
}

pub(crate) async fn a_partition_that_does_not_exist_is_named(subject: Subject) {
    let log = subject.log.as_ref();
    assert!(matches!(log.end(4), Err(LogError::NoPartition(4))));
    assert!(matches!(log.read(4, 0, 1).await, Err(LogError::NoPartition(4))));
    assert!(matches!(log.committed(STORAGE_WRITER, 4), Err(LogError::NoPartition(4))));
    let committed = log.commit(STORAGE_WRITER, 4, 0).await;
    assert!(matches!(committed, Err(CommitError::Log(LogError::NoPartition(4)))));
}

pub(crate) async fn a_closed_log_refuses(subject: Subject) {
    let log = subject.log.as_ref();
    log.append(batch(&[1])).await.unwrap();
    let waiting = log.wait_beyond(PARTITION, 1, Duration::from_secs(60));
    let (waited, closed) = tokio::join!(waiting, log.close());
    closed.unwrap();
    assert!(matches!(waited, Err(LogError::Closed)));
    log.close().await.unwrap();
    assert!(matches!(log.append(batch(&[2])).await, Err(LogError::Closed)));
    assert!(matches!(log.append(batch(&[])).await, Err(LogError::Closed)));
    assert!(matches!(log.read(PARTITION, 0, 1).await, Err(LogError::Closed)));
    assert!(matches!(log.end(PARTITION), Err(LogError::Closed)));
    assert!(matches!(log.tail(&tenant("default"), trace(1)).await, Err(LogError::Closed)));
    assert!(LogError::Closed.is_retryable());
}
