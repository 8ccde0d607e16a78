//! What a log knows to be lost, a log that is an older copy or was made anew, and one whose threads
//! have died.

use std::sync::Arc;
use std::time::Duration;

use service_kit::ManualClock;
use span_log::port::{METADATA_PUBLISHER, SEARCH_INDEXER, STORAGE_WRITER};
use span_log::{
    EmbeddedLog, ForgetLost, LogError, Lost, LostCause, LostRun, MissedRun, OpenError, Seen,
    SpanLog, WhenFull,
};
use trace_model::{Coverage, LogRange, UnixNanos};

use crate::batches::{PARTITION, batch, batch_of, eventually, read_all, tenant, trace, traces_of};
use crate::faulty_disk::FaultyDisk;
use crate::power_cut::{NOW, small_config};

const HOUR_NANOS: u64 = 3_600_000_000_000;

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(NOW))
}

fn open_with(disk: &FaultyDisk, seen: Seen, clock: &Arc<ManualClock>) -> Arc<EmbeddedLog> {
    let mut config = small_config();
    config.seen = seen;
    EmbeddedLog::open_on(Arc::new(disk.clone()), config, clock.clone()).unwrap()
}

fn open(disk: &FaultyDisk) -> Arc<EmbeddedLog> {
    open_with(disk, Seen::default(), &clock())
}

fn cover(incarnation: u64, next: u64) -> Coverage {
    let mut cover = Coverage::none(incarnation);
    cover.extend(PARTITION, next);
    cover
}

/// What readers have seen of the log that these tests open.
fn seen(published: u64, stored: u64) -> Seen {
    let incarnation = NOW.millis();
    Seen {
        covered: cover(incarnation, published),
        stored: cover(incarnation, stored),
        append_time: NOW.plus(HOUR_NANOS),
    }
}

/// A closed log with so many records, one a batch.
async fn log_of(records: u64) -> FaultyDisk {
    let disk = FaultyDisk::new(1);
    let log = open(&disk);
    for number in 0..records {
        log.append(batch(&[number])).await.unwrap();
    }
    log.close().await.unwrap();
    disk
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_a_log_gives_no_offset_again_and_names_what_it_lost() {
    let disk = log_of(4).await;
    for opening in 0..2 {
        let log = open_with(&disk, seen(9, 6), &clock());
        assert_eq!(log.identity().incarnation, NOW.millis());
        let end = log.end(PARTITION).unwrap();
        assert_eq!(end.next, 9, "opening {opening}");
        assert!(end.append_time >= NOW.plus(HOUR_NANOS), "append times never go back");
        assert_eq!(log.committed(STORAGE_WRITER, PARTITION).unwrap(), 6, "the store has them");
        let before = log.read(PARTITION, 0, 1 << 20).await.unwrap();
        assert_eq!(before.last().unwrap().range.next, 4);
        let Err(LogError::Damaged(gone)) = log.read(PARTITION, 4, 1).await else {
            panic!("what is gone must be a hole");
        };
        assert_eq!((gone.range.first, gone.range.next), (4, 9));
        let runs = log.lost().runs;
        assert_eq!(runs.len(), 1);
        assert_eq!((runs[0].range.first, runs[0].range.next), (6, 9), "the store has the others");
        assert_eq!(runs[0].cause, LostCause::WentBack);
        log.close().await.unwrap();
    }
    let log = open_with(&disk, seen(9, 6), &clock());
    assert_eq!(log.append(batch(&[20])).await.unwrap().ranges[0].first, 9);
    assert_eq!(traces_of(&read_all(log.as_ref(), 9, 1).await), [trace(20)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_holds_all_that_was_seen_is_opened_as_it_is() {
    let disk = log_of(4).await;
    let log = open_with(&disk, seen(4, 3), &clock());
    assert_eq!((log.end(PARTITION).unwrap().next, log.lost()), (4, Lost::default()));
    assert_eq!(log.damaged(), []);
    assert_eq!(read_all(log.as_ref(), 0, 1).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_without_any_record_goes_on_behind_what_was_seen() {
    let disk = log_of(0).await;
    let log = open_with(&disk, seen(9, 9), &clock());
    assert_eq!(log.append(batch(&[20])).await.unwrap().ranges[0].first, 9);
    assert_eq!(log.lost(), Lost::default(), "the store has all of it");
    assert!(matches!(log.read(PARTITION, 3, 1).await, Err(LogError::Damaged(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_made_anew_has_a_higher_incarnation_whatever_the_clock_says() {
    let disk = FaultyDisk::new(1);
    let old = NOW.millis() + 50_000;
    let gone = Seen { covered: cover(old, 9), stored: cover(old, 6), append_time: NOW };
    let log = open_with(&disk, gone.clone(), &clock());
    assert_eq!(log.identity().incarnation, old + 1);
    assert_eq!(log.append(batch(&[1])).await.unwrap().ranges[0].first, 0);
    let runs = log.lost().runs;
    assert_eq!((runs.len(), runs[0].cause), (1, LostCause::Recreated));
    assert_eq!((runs[0].incarnation, runs[0].range.first), (old, 6));
    assert_eq!(runs[0].append_times, (NOW, UnixNanos::from_millis(old + 1)));
    log.close().await.unwrap();
    // It is told once, and stays the same log.
    let log = open_with(&disk, gone, &clock());
    assert_eq!((log.identity().incarnation, log.lost().runs.len()), (old + 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_from_before_another_one_is_refused_by_name() {
    let disk = log_of(4).await;
    let mut config = small_config();
    config.seen.stored = cover(NOW.millis() + 1, 2);
    let error = EmbeddedLog::open_on(Arc::new(disk), config, clock()).unwrap_err();
    assert!(matches!(error, OpenError::Older { .. }) && !error.is_retryable(), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_records_are_forgotten_when_no_store_would_have_kept_them() {
    let (disk, clock) = (FaultyDisk::new(1), clock());
    let mut config = small_config();
    config.retention_bytes = 200 << 10;
    config.when_full = WhenFull::DropOldest;
    let log = EmbeddedLog::open_on(Arc::new(disk.clone()), config, clock.clone()).unwrap();
    for number in 0..40 {
        log.append(batch_of("default", &[number], 20_000)).await.unwrap();
    }
    assert_eq!(log.lost().runs.len(), 1);
    assert_eq!(log.forget_lost(ForgetLost::Before(NOW)).await.unwrap(), 0, "not old enough");
    assert_eq!(log.forget_lost(ForgetLost::Before(NOW.plus(1))).await.unwrap(), 1);
    let expired = Lost { expired_until: Some(NOW), ..Lost::default() };
    assert_eq!(log.lost(), expired);
    let killed = disk.after_power_cut();
    assert_eq!(open(&killed).lost(), expired, "durable when it is told");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_takes_before_a_group_has_read_it_is_dated_and_told_over_restarts() {
    let (disk, clock) = (FaultyDisk::new(1), clock());
    let mut config = small_config();
    config.retention_bytes = 200 << 10;
    let log = EmbeddedLog::open_on(Arc::new(disk.clone()), config.clone(), clock.clone()).unwrap();
    log.commit(SEARCH_INDEXER, PARTITION, 0).await.unwrap();
    let mut taken = 0;
    while log.end(PARTITION).unwrap().first == 0 {
        clock.advance(Duration::from_secs(60));
        if log.append(batch_of("default", &[taken], 20_000)).await.is_ok() {
            taken += 1;
        }
        for group in [STORAGE_WRITER, METADATA_PUBLISHER] {
            log.commit(group, PARTITION, taken).await.unwrap();
        }
    }
    let first = log.end(PARTITION).unwrap().first;
    let from = log.committed(SEARCH_INDEXER, PARTITION).unwrap();
    let expired = log.read(PARTITION, from, 1).await;
    assert!(matches!(expired, Err(LogError::Expired { wanted: 0, .. })));
    let since = log.appended_since(PARTITION, from);
    assert_eq!(since, NOW.plus(60_000_000_000), "when its oldest record came");
    let until = log.read(PARTITION, first, 1).await.unwrap()[0].append_time;
    assert!(log.appended_since(PARTITION, first) <= until);
    assert!(log.lost().runs.is_empty(), "the store has all of it");
    let range = LogRange { partition: PARTITION, first: from, next: first };
    let run = LostRun {
        incarnation: log.identity().incarnation,
        range,
        append_times: (since, until),
        cause: LostCause::Dropped,
    };
    let missed = MissedRun { group: SEARCH_INDEXER, run };
    log.note_missed(missed.clone()).await.unwrap();
    // Killed at once: it was durable when it was said to be noted.
    let killed = Arc::new(disk.after_power_cut());
    let log = EmbeddedLog::open_on(killed, config, clock).unwrap();
    assert_eq!(log.lost().missed, [missed]);
    assert_eq!(log.appended_since(PARTITION, 0), since);
    assert_eq!(log.forget_lost(ForgetLost::Before(until.plus(1))).await.unwrap(), 1);
    assert_eq!(log.lost(), Lost { expired_until: Some(until), ..Lost::default() });
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_records_that_the_store_has_are_not_lost() {
    let disk = FaultyDisk::new(1);
    let mut config = small_config();
    config.retention_bytes = 200 << 10;
    config.when_full = WhenFull::DropOldest;
    let log = EmbeddedLog::open_on(Arc::new(disk), config, clock()).unwrap();
    for number in 0..40 {
        let appended = log.append(batch_of("default", &[number], 20_000)).await.unwrap();
        log.commit(STORAGE_WRITER, PARTITION, appended.ranges[0].next).await.unwrap();
    }
    assert!(log.metrics().dropped_records.get() > 0, "the publisher has committed nothing");
    assert!(log.committed(METADATA_PUBLISHER, PARTITION).unwrap() > 0);
    assert_eq!(log.lost(), Lost::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_panics_makes_the_log_unwell_and_every_append_is_refused_retryably() {
    let disk = FaultyDisk::new(1);
    let log = open(&disk);
    log.append(batch(&[1])).await.unwrap();
    assert_eq!(log.health(), Ok(()));
    disk.panic_at_next_sync();
    let refused = tokio::time::timeout(Duration::from_secs(10), log.append(batch(&[2]))).await;
    assert!(refused.unwrap().unwrap_err().is_retryable(), "no sender waits for ever");
    let watched = log.clone();
    eventually("the log says that it is unwell", || watched.health().is_err()).await;
    assert!(log.health().unwrap_err().contains("span-log-writer"));
    for _ in 0..3 {
        assert!(log.append(batch(&[3])).await.unwrap_err().is_retryable());
    }
    // What was acknowledged is read on, and nothing else appears after a restart.
    assert_eq!(traces_of(&read_all(log.as_ref(), 0, 1).await), [trace(1)]);
    assert_eq!(log.tail(&tenant("default"), trace(1)).await.unwrap().spans.len(), 1);
    drop(log);
    let log = open(&disk.after_power_cut());
    assert_eq!(traces_of(&read_all(log.as_ref(), 0, 1).await)[0], trace(1));
    log.append(batch(&[4])).await.unwrap();
}
