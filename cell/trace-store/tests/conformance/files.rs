//! What only a store with files promises: damage is said, a full disk passes, leftovers vanish,
//! merges and retention change no answer that they should not.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use service_kit::ManualClock;
use trace_model::query::Field;
use trace_model::{Filter, LogPosition, SearchQuery, TenantId, TimeRange, UnixNanos};
use trace_store::{
    EmbeddedStore, EmbeddedStoreConfig, SearchIndexer, ServiceCatalog, SpanWriter, StoreError,
    TraceReader, TraceSearch,
};

use crate::fixture::{
    INCARNATION, Log, NOW, Request, attribute, resource, scope, span, text, trace_id,
};
use crate::harness::{EMBEDDED, Harness, equals, query, small_config, tag};

pub(crate) fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    found.sort();
    found
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x40;
    std::fs::write(path, bytes).unwrap();
}

pub(crate) fn open(config: EmbeddedStoreConfig, clock: &Arc<ManualClock>) -> Arc<EmbeddedStore> {
    EmbeddedStore::open(config, clock.clone()).unwrap()
}

/// A request of so many traces of two spans, each with an order number.
pub(crate) fn orders(first: u64, count: u64) -> Request {
    let spans: Vec<_> = (first..first + count)
        .flat_map(|trace| {
            [0, 1].map(|id| {
                let mut span = span(trace, trace % 40 + id, "order");
                span.attributes = vec![attribute("order", text(&format!("o-{trace}")))];
                span
            })
        })
        .collect();
    Request::of("shop", &spans)
}

#[tokio::test]
async fn every_flipped_byte_of_a_segment_is_said_or_harmless() {
    let mut harness = Harness::new(EMBEDDED).await;
    harness.write_sealed(&orders(0, 12)).await;
    let expected = harness.read(trace_id(3)).await;
    let path = files(harness.directory.path(), "seg").remove(0);
    let whole = std::fs::read(&path).unwrap();
    drop(harness.store);
    for at in (0..whole.len()).step_by(7) {
        flip(&path, at);
        let clock = Arc::new(ManualClock::at(NOW));
        let opened = EmbeddedStore::open(small_config(harness.directory.path()), clock);
        match opened {
            Ok(store) => {
                let read = store.read_trace(&TenantId::default(), trace_id(3)).await.unwrap();
                assert!(read.is_damaged || read.spans.len() == expected.len(), "byte {at}");
                let answer = store.search(&query(tag("order", "o-3"))).await.unwrap();
                assert!(answer.is_damaged || answer.matches.len() == 1, "byte {at}");
            }
            Err(error) => assert!(matches!(error, StoreError::NewerFormat { .. }), "{error}"),
        }
        std::fs::write(&path, &whole).unwrap();
    }
}

#[tokio::test]
async fn a_damaged_index_makes_searches_slower_and_not_shorter_and_is_built_anew() {
    let mut harness = Harness::new(EMBEDDED).await;
    harness.write_sealed(&orders(0, 40)).await;
    let path = files(harness.directory.path(), "idx").remove(0);
    let length = std::fs::metadata(&path).unwrap().len();
    for at in (12..usize::try_from(length).unwrap()).step_by(53) {
        let path = files(harness.directory.path(), "idx").remove(0);
        flip(&path, at % usize::try_from(std::fs::metadata(&path).unwrap().len()).unwrap());
        harness = harness.reopen().await;
        assert_eq!(harness.find(tag("order", "o-3")).await, [trace_id(3)], "byte {at}");
        SearchIndexer::flush(&*harness.store, NOW, true).await.unwrap();
        assert_eq!(harness.store.indexed(), harness.store.durable());
        let stats = harness.search(tag("order", "o-3")).await.stats;
        assert!(stats.buckets_checked > 0 && stats.blocks_opened <= 2, "{stats:?}");
    }
}

#[tokio::test]
async fn a_lost_index_holds_back_the_indexer_alone() {
    let mut harness = Harness::new(EMBEDDED).await;
    harness.write_sealed(&orders(0, 40)).await;
    std::fs::remove_file(files(harness.directory.path(), "idx").remove(0)).unwrap();
    let harness = harness.reopen().await;
    let first = LogPosition { partition: 0, offset: 0 };
    assert!(harness.store.durable().covers(INCARNATION, first));
    assert!(!harness.store.indexed().covers(INCARNATION, first));
    assert_eq!(harness.find(tag("order", "o-3")).await, [trace_id(3)]);
    SearchIndexer::flush(&*harness.store, NOW, false).await.unwrap();
    assert!(harness.store.indexed().covers(INCARNATION, first));
    assert_eq!(harness.read(trace_id(3)).await.len(), 2);
}

#[tokio::test]
async fn files_of_a_newer_release_are_refused_by_name() {
    for (extension, version) in [("seg", 1), ("idx", 2)] {
        let mut harness = Harness::new(EMBEDDED).await;
        harness.write_sealed(&orders(0, 4)).await;
        let path = files(harness.directory.path(), extension).remove(0);
        drop(harness.store);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[8] = 9;
        std::fs::write(&path, bytes).unwrap();
        let config = small_config(harness.directory.path());
        let error = EmbeddedStore::open(config, harness.clock).unwrap_err();
        let StoreError::NewerFormat { found: 9, known, .. } = error else { panic!("{error}") };
        assert_eq!(known, version);
    }
}

#[tokio::test]
async fn a_directory_is_one_process_at_a_time() {
    let harness = Harness::new(EMBEDDED).await;
    let error = EmbeddedStore::open(small_config(harness.directory.path()), harness.clock.clone());
    assert!(matches!(error, Err(StoreError::Unavailable(_))));
}

#[tokio::test]
async fn leftovers_of_a_crash_vanish_and_nothing_else_does() {
    let mut harness = Harness::new(EMBEDDED).await;
    harness.write_sealed(&orders(0, 4)).await;
    let directory = harness.directory.path().to_owned();
    let segment = files(&directory, "seg").remove(0);
    for name in ["0000000900.seg", "0000000900.idx", "0000000901.seg.tmp", "manifest.tmp"] {
        std::fs::copy(&segment, directory.join(name)).unwrap();
    }
    std::fs::write(directory.join("notes.txt"), "not ours").unwrap();
    let harness = harness.reopen().await;
    assert_eq!(files(&directory, "seg"), [segment]);
    assert!(files(&directory, "tmp").is_empty());
    assert!(directory.join("notes.txt").exists());
    assert_eq!(harness.read(trace_id(1)).await.len(), 2);
}

#[tokio::test]
async fn a_full_disk_refuses_for_a_while_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(NOW));
    let config = EmbeddedStoreConfig { segment_spans_max: 30, ..small_config(directory.path()) };
    let store = open(config, &clock);
    let mut log = Log::new();
    // Writing to this device fails as on a disk without room.
    for id in 1..40 {
        let full = directory.path().join(format!("{id:010}.seg.tmp"));
        std::os::unix::fs::symlink("/dev/full", full).unwrap();
    }
    let batches: Vec<_> = (0..6).map(|at| log.append(&orders(at * 10, 10))).collect();
    let error = store.write(&batches).await.unwrap_err();
    assert!(matches!(error, StoreError::Full) && error.is_retryable(), "{error}");
    let again = store.write(&batches).await.unwrap_err();
    assert!(again.is_retryable());
    assert!(store.durable().next.is_empty());
    for id in 1..40 {
        drop(std::fs::remove_file(directory.path().join(format!("{id:010}.seg.tmp"))));
    }
    store.write(&batches).await.unwrap();
    SpanWriter::flush(&*store, NOW, true).await.unwrap();
    assert!(store.durable().covers(INCARNATION, LogPosition { partition: 0, offset: 59 }));
    assert_eq!(store.figures().spans, 120);
}

#[tokio::test]
async fn what_waits_is_sealed_when_it_is_old_and_not_before() {
    let mut harness = Harness::new(EMBEDDED).await;
    harness.write(&orders(0, 4)).await;
    SpanWriter::flush(&*harness.store, NOW, false).await.unwrap();
    assert!(harness.store.durable().next.is_empty());
    harness.clock.set_wall(NOW.minus(3_600_000_000_000));
    harness.clock.advance(Duration::from_secs(2));
    SpanWriter::flush(&*harness.store, UnixNanos(0), false).await.unwrap();
    assert_eq!(harness.store.durable().next.get(&0), Some(&4));
}

#[tokio::test]
async fn a_hundred_thousand_keys_cost_no_more_index_than_their_entries() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(NOW));
    let store = open(EmbeddedStoreConfig::at(directory.path()), &clock);
    let mut log = Log::new();
    for round in 0..100_u64 {
        let spans: Vec<_> = (0..100_u64)
            .map(|trace| {
                let mut span = span(round * 100 + trace, 0, "op");
                span.attributes = (0..10)
                    .map(|key| attribute(&format!("key.{round}.{trace}.{key}"), text("v")))
                    .collect();
                span
            })
            .collect();
        store.write(&[log.append(&Request::of("web", &spans))]).await.unwrap();
    }
    SpanWriter::flush(&*store, NOW, true).await.unwrap();
    let index = files(directory.path(), "idx").remove(0);
    let bytes = std::fs::metadata(index).unwrap().len();
    // Per key: its entry and its presence, at 10 bits each, once in the bucket and once in a block.
    assert!(bytes < 100_000 * 6, "{bytes}");
    for key in ["key.0.0.0", "key.99.99.9", "key.50.3.7"] {
        let answer = store.search(&query(tag(key, "v"))).await.unwrap();
        assert_eq!(answer.matches.len(), 1);
        assert!(answer.stats.blocks_opened <= 2, "{:?}", answer.stats);
    }
    let answer = store.search(&query(tag("key.0.0.0", "other"))).await.unwrap();
    assert!(answer.matches.is_empty() && answer.stats.blocks_opened <= 1, "{:?}", answer.stats);
}

#[tokio::test]
async fn a_back_fill_over_thousands_of_buckets_is_found_by_service_value_and_time() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(NOW));
    let store = open(EmbeddedStoreConfig::at(directory.path()), &clock);
    let mut log = Log::new();
    let bucket_nanos = 600_000_000_000;
    for service in ["web", "cart"] {
        let spans: Vec<_> = (0..3_000)
            .map(|bucket| {
                let mut span = span(bucket, 0, "old");
                span.start_time_unix_nano -= bucket * bucket_nanos;
                span.end_time_unix_nano -= bucket * bucket_nanos;
                span.attributes = vec![attribute("order", text(&format!("o-{bucket}")))];
                span
            })
            .collect();
        store.write(&[log.append(&Request::of(service, &spans))]).await.unwrap();
    }
    SpanWriter::flush(&*store, NOW, true).await.unwrap();
    for bucket in [0, 1_500, 2_999] {
        let start = NOW.minus(bucket * bucket_nanos);
        let range = TimeRange { start, end: start.plus(1) };
        let services = store.services(&TenantId::default(), range).await.unwrap();
        assert_eq!(services, ["cart".into(), "web".into()]);
        let parts = vec![equals(Field::Service, "cart"), tag("order", &format!("o-{bucket}"))];
        let search = SearchQuery { range, ..query(Filter::And(parts)) };
        let answer = store.search(&search).await.unwrap();
        assert_eq!(answer.matches.len(), 1);
        assert_eq!(answer.stats.blocks_opened, 1);
        let search = SearchQuery { range, ..query(tag("order", "o-7")) };
        assert!(store.search(&search).await.unwrap().matches.is_empty());
    }
}

/// One span of each of so many services.
fn crowd(count: u64) -> Request {
    let group = |number: u64| {
        let one = prost::Message::encode_to_vec(&span(number, 0, "GET"));
        (resource(&format!("svc{number:05}"), &[]), scope("lib", &[]), vec![one])
    };
    let groups = (0..count).map(group).collect();
    Request { tenant: "crowd", groups, ..Request::of("", &[]) }
}

#[tokio::test]
async fn a_crowd_of_services_hides_no_service_of_another_tenant_nor_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(NOW));
    let store = open(EmbeddedStoreConfig::at(directory.path()), &clock);
    let mut log = Log::new();
    // More than the groups of a segment's filters.
    store.write(&[log.append(&crowd(5_000))]).await.unwrap();
    let quiet = Request { tenant: "quiet", ..Request::of("mine", &[span(1, 0, "pay")]) };
    store.write(&[log.append(&quiet)]).await.unwrap();
    SpanWriter::flush(&*store, NOW, true).await.unwrap();
    drop(store);
    let store = open(EmbeddedStoreConfig::at(directory.path()), &clock);
    let range = TimeRange { start: NOW, end: NOW.plus(1) };
    let [crowd, quiet] = ["crowd", "quiet"].map(|name| TenantId::new(name).unwrap());
    for range in [TimeRange::ALL, range] {
        assert_eq!(store.services(&quiet, range).await.unwrap(), ["mine".into()]);
        assert_eq!(store.operations(&quiet, "mine", range).await.unwrap().len(), 1);
        let services = store.services(&crowd, range).await.unwrap();
        assert_eq!((services.len(), services.is_cut), (5_000, false));
        for service in ["svc00000", "svc04999"] {
            let operations = store.operations(&crowd, service, range).await.unwrap();
            assert_eq!((operations.len(), operations.is_cut), (1, false), "{service}");
        }
    }
    let later = TimeRange { start: NOW.plus(3_600_000_000_000), end: UnixNanos(u64::MAX) };
    assert_eq!(store.services(&crowd, later).await.unwrap(), []);
}

#[tokio::test]
async fn a_segment_says_for_good_that_it_kept_not_every_operation_of_a_service() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(NOW));
    let store = open(EmbeddedStoreConfig::at(directory.path()), &clock);
    let mut log = Log::new();
    let spans: Vec<_> = (0..50_001).map(|number| span(number, 0, &format!("op{number}"))).collect();
    store.write(&[log.append(&Request::of("many", &spans))]).await.unwrap();
    store.write(&[log.append(&Request::of("web", &[span(1, 1, "GET")]))]).await.unwrap();
    let tenant = TenantId::default();
    let all = store.operations(&tenant, "many", TimeRange::ALL).await.unwrap();
    assert_eq!((all.len(), all.is_cut), (50_001, false), "nothing is sealed yet");
    SpanWriter::flush(&*store, NOW, true).await.unwrap();
    drop(store);
    let store = open(EmbeddedStoreConfig::at(directory.path()), &clock);
    let cut = store.operations(&tenant, "many", TimeRange::ALL).await.unwrap();
    assert_eq!((cut.len(), cut.is_cut), (50_000, true));
    let whole = store.operations(&tenant, "web", TimeRange::ALL).await.unwrap();
    assert_eq!((whole.len(), whole.is_cut), (1, false));
    let services = store.services(&tenant, TimeRange::ALL).await.unwrap();
    assert_eq!(services, ["many".into(), "web".into()]);
}

#[tokio::test]
async fn a_service_of_a_few_spans_is_found_without_opening_every_block() {
    let mut harness = Harness::new(EMBEDDED).await;
    harness.write(&orders(0, 90)).await;
    harness.write_sealed(&Request::of("rare-service", &[span(200, 0, "once")])).await;
    let answer = harness.search(equals(Field::Service, "rare-service")).await;
    assert_eq!(answer.matches.len(), 1);
    assert_eq!(answer.stats.blocks_opened, 1);
    assert!(answer.stats.blocks_total > 10);
}
