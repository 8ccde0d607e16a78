//! Merging, retention and erasure of files: what they change and what they must not.

use std::sync::Arc;
use std::time::Duration;

use service_kit::ManualClock;
use trace_model::{Filter, TenantId, TimeRange, UnixNanos};
use trace_store::{EmbeddedStoreConfig, Eraser, SpanWriter, StoreError, TraceReader, TraceSearch};

use crate::files::{files, open, orders};
use crate::fixture::{Log, NOW, Request, span, trace_id};
use crate::harness::{EMBEDDED, Harness, files_with, query, small_config, tag};

#[tokio::test]
async fn merging_changes_no_answer_and_leaves_fewer_segments() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(NOW));
    let store = open(small_config(directory.path()), &clock);
    let mut log = Log::new();
    for round in 0..9 {
        store.write(&[log.append(&orders(round * 3, 6))]).await.unwrap();
        SpanWriter::flush(&*store, NOW, true).await.unwrap();
    }
    let tenant = TenantId::default();
    let before = store.search(&query(Filter::All)).await.unwrap().matches;
    let spans_before = store.read_trace(&tenant, trace_id(4)).await.unwrap().spans.len();
    store.maintain().await.unwrap();
    let figures = store.figures();
    assert!(figures.segments <= 3, "{figures:?}");
    assert_eq!(files(directory.path(), "seg").len() as u64, figures.segments);
    let after = store.search(&query(Filter::All)).await.unwrap().matches;
    let ids = |found: &[trace_model::TraceMatch]| {
        found.iter().map(trace_model::TraceMatch::order_key).collect::<Vec<_>>()
    };
    assert_eq!(ids(&after), ids(&before));
    // The rounds overlap: the same spans came twice, and the merge keeps each once.
    assert!(after.iter().all(|found| found.matched_spans == 2));
    assert_eq!(spans_before, 4);
    assert_eq!(store.read_trace(&tenant, trace_id(4)).await.unwrap().spans.len(), 2);
    drop(store);
    let store = open(small_config(directory.path()), &clock);
    assert_eq!(ids(&store.search(&query(Filter::All)).await.unwrap().matches), ids(&before));
    assert_eq!(store.durable().next.get(&0), Some(&54));
}

#[tokio::test]
async fn full_segments_are_merged_only_where_there_are_too_many() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(NOW));
    let config = EmbeddedStoreConfig { segment_spans_max: 20, ..small_config(directory.path()) };
    let store = open(config.clone(), &clock);
    let mut log = Log::new();
    for round in 0..6 {
        store.write(&[log.append(&orders(round * 10, 10))]).await.unwrap();
    }
    store.maintain().await.unwrap();
    assert_eq!(store.figures().segments, 6);
    drop(store);
    let store = open(EmbeddedStoreConfig { segments_max: 4, ..config }, &clock);
    store.maintain().await.unwrap();
    assert!(store.figures().segments <= 4, "{:?}", store.figures());
    assert_eq!(store.figures().spans, 120);
    let answer = store.search(&query(tag("order", "o-37"))).await.unwrap();
    assert_eq!(answer.matches.len(), 1);
}

#[tokio::test]
async fn a_segment_that_cannot_be_read_makes_every_answer_say_so_until_it_expires() {
    let mut harness = Harness::new(EMBEDDED).await;
    harness.write_sealed(&orders(0, 10)).await;
    harness.write_sealed(&orders(10, 10)).await;
    let directory = harness.directory.path().to_owned();
    let first = files(&directory, "seg").remove(0);
    let cut = std::fs::metadata(&first).unwrap().len() / 2;
    std::fs::File::options().write(true).open(&first).unwrap().set_len(cut).unwrap();
    let clock = harness.clock.clone();
    drop(harness.store);
    let store = open(small_config(&directory), &clock);
    let tenant = TenantId::default();
    let read = store.read_trace(&tenant, trace_id(15)).await.unwrap();
    assert!(read.is_damaged && read.spans.len() == 2);
    assert!(store.search(&query(Filter::All)).await.unwrap().is_damaged);
    assert!(matches!(store.erase(&tenant, trace_id(15)).await, Err(StoreError::Damaged(_))));
    assert_eq!(store.durable().next.get(&0), Some(&20));
    // Files are as old as the machine's clock says: far before the clock that the store is given.
    clock.set_wall(UnixNanos(u64::MAX));
    store.maintain().await.unwrap();
    let read = store.read_trace(&tenant, trace_id(15)).await.unwrap();
    assert!(!read.is_damaged);
    assert!(!first.exists());
}

#[tokio::test]
async fn retention_counts_from_arrival_and_takes_whole_segments() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(NOW));
    let config = EmbeddedStoreConfig {
        retention: Duration::from_secs(3_600),
        merge_fan_in: 100,
        ..small_config(directory.path())
    };
    let store = open(config.clone(), &clock);
    let fresh = store.read_trace(&TenantId::default(), trace_id(1)).await.unwrap();
    assert_eq!(fresh.expired_until, None);
    let fresh = store.search(&query(Filter::All)).await.unwrap();
    assert_eq!(fresh.expired_until, None);
    let mut log = Log::new();
    for round in 0..3 {
        log.append_time = NOW.plus(round * 1_800_000_000_000);
        store.write(&[log.append(&orders(round * 10, 10))]).await.unwrap();
        SpanWriter::flush(&*store, NOW, true).await.unwrap();
    }
    clock.set_wall(NOW.plus(2 * 1_800_000_000_000 + 1));
    store.maintain().await.unwrap();
    assert_eq!(store.figures().segments, 2);
    let tenant = TenantId::default();
    let gone = store.read_trace(&tenant, trace_id(1)).await.unwrap();
    assert!(gone.spans.is_empty());
    assert_eq!(gone.expired_until, Some(NOW));
    let searched = store.search(&query(Filter::All)).await.unwrap();
    assert_eq!((searched.expired_until, searched.covered.next.get(&0)), (Some(NOW), Some(&30)));
    assert_eq!(store.read_trace(&tenant, trace_id(11)).await.unwrap().spans.len(), 2);
    drop(store);
    let config = EmbeddedStoreConfig { bytes_max: 1, ..config };
    let store = open(config.clone(), &clock);
    let read = store.read_trace(&tenant, trace_id(11)).await.unwrap();
    assert_eq!((read.spans.len(), read.expired_until), (2, Some(NOW)));
    store.maintain().await.unwrap();
    assert_eq!(store.figures().segments, 0);
    drop(store);
    let store = open(config, &clock);
    let read = store.read_trace(&tenant, trace_id(21)).await.unwrap();
    assert_eq!(read.expired_until, Some(NOW.plus(2 * 1_800_000_000_000)));
    assert!(files(directory.path(), "seg").is_empty());
    assert_eq!(store.durable().next.get(&0), Some(&30));
}

#[tokio::test]
async fn what_retention_removed_is_told_of_the_times_in_which_it_lay() {
    const DAY: u64 = 24 * 3_600 * 1_000_000_000;
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(NOW));
    let config = EmbeddedStoreConfig {
        retention: Duration::from_secs(3_600),
        merge_fan_in: 100,
        ..small_config(directory.path())
    };
    let mut store = open(config.clone(), &clock);
    let mut log = Log::new();
    let back_fill = |trace: u64, days: u64| {
        let mut old = span(trace, 0, "old");
        old.start_time_unix_nano -= days * DAY;
        old.end_time_unix_nano -= days * DAY;
        Request::of("shop", &[old])
    };
    // Of the present and of a hundred days ago: removed. Of fifty days ago: there.
    let removed = [orders(0, 10), back_fill(20, 100)].map(|request| log.append(&request));
    store.write(&removed).await.unwrap();
    SpanWriter::flush(&*store, NOW, true).await.unwrap();
    log.append_time = NOW.plus(DAY);
    store.write(&[log.append(&back_fill(21, 50))]).await.unwrap();
    SpanWriter::flush(&*store, NOW, true).await.unwrap();
    let around = |days: u64| {
        let start = NOW.minus(days * DAY);
        TimeRange { start, end: start.plus(1_000_000_000) }
    };
    assert_eq!(store.expired_within(TimeRange::ALL, NOW), None);
    clock.set_wall(NOW.plus(DAY));
    store.maintain().await.unwrap();
    for reopened in [false, true] {
        if reopened {
            drop(store);
            store = open(config.clone(), &clock);
        }
        for (days, told) in [(0, true), (100, true), (50, false), (99, false), (101, false)] {
            let expected = told.then_some(NOW);
            assert_eq!(store.expired_within(around(days), NOW), expected, "{days} {reopened}");
        }
        let read = store.read_trace(&TenantId::default(), trace_id(21)).await.unwrap();
        assert_eq!((read.spans.len(), read.expired_until), (1, Some(NOW)));
    }
}

#[tokio::test]
async fn an_erasure_that_a_crash_cut_short_is_finished_by_upkeep() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(NOW));
    let store = open(small_config(directory.path()), &clock);
    let mut log = Log::new();
    store.write(&[log.append(&orders(0, 20))]).await.unwrap();
    SpanWriter::flush(&*store, NOW, true).await.unwrap();
    // The rewritten file cannot be made: the tombstone stands, the bytes are still there.
    for id in 2..40 {
        let full = directory.path().join(format!("{id:010}.seg.tmp"));
        std::os::unix::fs::symlink("/dev/full", full).unwrap();
    }
    let tenant = TenantId::default();
    let error = store.erase(&tenant, trace_id(7)).await.unwrap_err();
    assert!(error.is_retryable());
    assert!(store.read_trace(&tenant, trace_id(7)).await.unwrap().spans.is_empty());
    assert!(store.search(&query(tag("order", "o-7"))).await.unwrap().matches.is_empty());
    for id in 2..40 {
        drop(std::fs::remove_file(directory.path().join(format!("{id:010}.seg.tmp"))));
    }
    assert!(!files_with(directory.path(), trace_id(7).as_bytes()).is_empty());
    drop(store);
    let store = open(small_config(directory.path()), &clock);
    store.maintain().await.unwrap();
    assert_eq!(files_with(directory.path(), trace_id(7).as_bytes()), Vec::<String>::new());
    assert!(store.read_trace(&tenant, trace_id(7)).await.unwrap().spans.is_empty());
    assert_eq!(store.read_trace(&tenant, trace_id(8)).await.unwrap().spans.len(), 2);
}

#[tokio::test]
async fn reads_go_on_while_segments_are_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(NOW));
    let store = open(small_config(directory.path()), &clock);
    let mut log = Log::new();
    for round in 0..12 {
        store.write(&[log.append(&orders(round * 10, 10))]).await.unwrap();
        SpanWriter::flush(&*store, NOW, true).await.unwrap();
    }
    let tenant = TenantId::default();
    let reads = async {
        for trace in (0..120).cycle().take(600) {
            let read = store.read_trace(&tenant, trace_id(trace)).await.unwrap();
            assert_eq!((read.spans.len(), read.is_damaged), (2, false));
        }
    };
    let ((), merged) = tokio::join!(reads, store.maintain());
    merged.unwrap();
    assert!(store.figures().segments < 12);
}
