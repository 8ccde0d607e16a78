//! A disk that fails to make a directory durable: behind the rename of the manifest nobody knows
//! which one a restart will find, so both have to be whole.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use service_kit::ManualClock;
use trace_model::{Filter, LogPosition, TenantId, TimeRange};
use trace_store::disk::{Disk, LocalDisk};
use trace_store::{
    EmbeddedMetricsConfig, EmbeddedMetricsStore, EmbeddedStore, EmbeddedStoreConfig, Eraser,
    MetricsDelta, MetricsStore, RedKey, RedQuery, RedRow, SpanWriter, StoreError, TraceReader,
    TraceSearch,
};

use crate::files::{files, open, orders};
use crate::fixture::{INCARNATION, Log, NOW, trace_id};
use crate::harness::{copied, files_with, query, small_config};

/// Fails some of its syncs: after so many good ones so many bad ones.
#[derive(Debug, Default)]
struct FailingDisk {
    good: AtomicU32,
    bad: AtomicU32,
    /// The manifest as it was when a sync last succeeded: what a loss of power leaves at least.
    durable: Mutex<Vec<u8>>,
}

impl FailingDisk {
    fn fail(&self, good: u32, bad: u32) {
        self.good.store(good, Ordering::SeqCst);
        self.bad.store(bad, Ordering::SeqCst);
    }

    fn take(counter: &AtomicU32) -> bool {
        let less = |count: u32| count.checked_sub(1);
        counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
    }
}

impl Disk for FailingDisk {
    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        if !Self::take(&self.good) && Self::take(&self.bad) {
            return Err(io::Error::from_raw_os_error(5));
        }
        *self.durable.lock().unwrap() = manifest(directory);
        LocalDisk.sync_directory(directory)
    }
}

fn config(directory: &Path) -> EmbeddedStoreConfig {
    EmbeddedStoreConfig { retention: Duration::from_secs(3_600), ..small_config(directory) }
}

/// The store as a restart finds it, in a copy of its directory; of the manifests this one.
fn restarted(directory: &Path, manifest: &[u8]) -> (tempfile::TempDir, Arc<EmbeddedStore>) {
    let copy = copied(directory);
    std::fs::write(copy.path().join("manifest"), manifest).unwrap();
    let clock = Arc::new(ManualClock::at(NOW));
    let store = open(config(copy.path()), &clock);
    (copy, store)
}

fn manifest(directory: &Path) -> Vec<u8> {
    std::fs::read(directory.join("manifest")).unwrap_or_default()
}

async fn spans(store: &EmbeddedStore, trace: u64) -> usize {
    let read = store.read_trace(&TenantId::default(), trace_id(trace)).await.unwrap();
    assert!(!read.is_damaged);
    read.spans.len()
}

#[tokio::test]
async fn a_segment_that_the_manifest_may_name_is_never_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Arc::new(FailingDisk::default());
    let clock = Arc::new(ManualClock::at(NOW));
    let store = EmbeddedStore::open_on(disk.clone(), config(directory.path()), clock).unwrap();
    let mut log = Log::new();
    store.write(&[log.append(&orders(0, 10))]).await.unwrap();
    SpanWriter::flush(&*store, NOW, true).await.unwrap();
    let before = manifest(directory.path());
    let batch = log.append(&orders(10, 10));
    store.write(std::slice::from_ref(&batch)).await.unwrap();
    // The first sync is that of the segment's files, the second that of the manifest.
    disk.fail(1, 1);
    let error = SpanWriter::flush(&*store, NOW, true).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert_eq!(store.durable().next.get(&0), Some(&10));
    let after = manifest(directory.path());
    assert_ne!(before, after);
    for found in [&before, &after] {
        let (_copy, restarted) = restarted(directory.path(), found);
        assert_eq!(spans(&restarted, 3).await, 2);
        let is_durable =
            restarted.durable().covers(INCARNATION, LogPosition { partition: 0, offset: 19 });
        assert_eq!(is_durable, found == &after);
        assert_eq!(spans(&restarted, 13).await, if is_durable { 2 } else { 0 });
        // What was not committed comes again out of the log, and is there once.
        restarted.write(std::slice::from_ref(&batch)).await.unwrap();
        SpanWriter::flush(&*restarted, NOW, true).await.unwrap();
        assert_eq!(spans(&restarted, 13).await, 2);
        assert_eq!(restarted.figures().spans, 40);
    }
    SpanWriter::flush(&*store, NOW, true).await.unwrap();
    assert_eq!((spans(&store, 3).await, spans(&store, 13).await), (2, 2));
    assert_eq!(store.figures().spans, 40);
    assert_eq!(files(directory.path(), "seg").len(), 2);
}

#[tokio::test]
async fn a_disk_that_goes_on_failing_gets_no_more_files_and_keeps_none_when_it_works_again() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Arc::new(FailingDisk::default());
    let clock = Arc::new(ManualClock::at(NOW));
    let store = EmbeddedStore::open_on(disk.clone(), config(directory.path()), clock).unwrap();
    let mut log = Log::new();
    store.write(&[log.append(&orders(0, 10))]).await.unwrap();
    disk.fail(1, u32::MAX);
    for _ in 0..20 {
        SpanWriter::flush(&*store, NOW, true).await.unwrap_err();
        assert_eq!(files(directory.path(), "seg").len(), 1);
    }
    disk.fail(0, 0);
    // Erased before it was ever sealed well: the file that has it is gone when the erasure is done.
    assert!(!files_with(directory.path(), trace_id(7).as_bytes()).is_empty());
    store.erase(&TenantId::default(), trace_id(7)).await.unwrap();
    assert_eq!(files_with(directory.path(), trace_id(7).as_bytes()), Vec::<String>::new());
    assert_eq!(files(directory.path(), "seg").len(), 1);
    assert_eq!((spans(&store, 7).await, spans(&store, 8).await), (0, 2));
}

/// Seals, merges, erases and expires, with one sync that fails; each step is tried until it passes.
/// After every try a restart finds all that was said to be durable, whichever manifest it finds.
async fn live_with_failure_at(sync: u32) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let disk = Arc::new(FailingDisk::default());
    let clock = Arc::new(ManualClock::at(NOW));
    let config = config(directory.path());
    let store = EmbeddedStore::open_on(disk.clone(), config, clock.clone()).unwrap();
    let mut log = Log::new();
    disk.fail(sync, 1);
    let tenant = TenantId::default();
    for step in 0..9_u64 {
        if step < 6 {
            log.append_time = NOW.plus(step * 1_000_000_000);
            store.write(&[log.append(&orders(step * 10, 10))]).await.unwrap();
        }
        let mut is_done = false;
        while !is_done {
            let tried: Result<(), StoreError> = match step {
                0..6 => SpanWriter::flush(&*store, NOW, true).await,
                6 => store.erase(&tenant, trace_id(31)).await.map(drop),
                7 => store.maintain().await,
                _ => {
                    clock.set_wall(NOW.plus(3_603_500_000_000));
                    store.maintain().await
                }
            };
            is_done = tried.is_ok();
            let durable = store.durable().next.get(&0).copied().unwrap_or(0);
            let first_kept = if step == 8 { 40 } else { 0 };
            let least = disk.durable.lock().unwrap().clone();
            for found in [least, manifest(directory.path())] {
                if found.is_empty() {
                    continue;
                }
                let (_copy, restarted) = restarted(directory.path(), &found);
                for trace in (first_kept..durable).filter(|trace| *trace != 31) {
                    assert_eq!(spans(&restarted, trace).await, 2, "{sync} {step} {trace}");
                }
            }
        }
    }
    let all = store.search(&query(Filter::All)).await.unwrap();
    assert!(!all.is_damaged);
    assert!(
        all.matches.iter().all(|found| found.matched_spans == 2 && found.trace_id != trace_id(31))
    );
    assert_eq!(files_with(directory.path(), trace_id(31).as_bytes()), Vec::<String>::new());
    assert_eq!(files(directory.path(), "seg").len() as u64, store.figures().segments);
    disk.bad.load(Ordering::SeqCst) == 0
}

#[tokio::test]
async fn whichever_sync_fails_a_restart_finds_all_that_was_durable() {
    let mut sync = 0;
    while live_with_failure_at(sync).await {
        sync += 1;
    }
    // Each seal syncs twice, and so do merging and erasing; expiry once.
    assert!(sync > 15, "{sync}");
}

fn one_span(number: u64) -> MetricsDelta {
    let key = RedKey {
        tenant: TenantId::default(),
        minute: NOW,
        service: format!("service-{}", number % 7).into(),
        operation: None,
        kind: trace_model::SpanKind::Server,
        status: trace_model::StatusCode::Unset,
    };
    let mut covered = trace_model::Coverage::none(INCARNATION);
    covered.extend(0, number + 1);
    MetricsDelta {
        red: vec![(key, RedRow { seen: 1, ..RedRow::default() })],
        covered,
        checkpoint: vec![7; 3],
        extends_checkpoint: !number.is_multiple_of(4),
        ..MetricsDelta::default()
    }
}

/// Spans counted, and how far the log is counted.
async fn counted(store: &EmbeddedMetricsStore) -> (u64, u64) {
    let (tenant, range) = (TenantId::default(), TimeRange::ALL);
    let query = RedQuery { tenant, service: None, by_operation: false, range };
    let rows = store.red(&query).await.unwrap();
    let (covered, _) = store.checkpoint().await.unwrap();
    let seen = rows.iter().map(|(_, row)| row.seen).sum();
    (seen, covered.next.get(&0).copied().unwrap_or(0))
}

/// Counts spans one by one, sealing after every few, with syncs that fail. After every try a kill
/// leaves a directory with all that was counted, once.
async fn count_with_failures_at(sync: u32, failures: u32) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let disk = Arc::new(FailingDisk::default());
    let clock = Arc::new(ManualClock::at(NOW));
    let config = |directory: &Path| EmbeddedMetricsConfig {
        memory_bytes_max: 1_000,
        ..EmbeddedMetricsConfig::new(directory.to_owned())
    };
    let on = disk.clone();
    let store = EmbeddedMetricsStore::open_on(on, config(directory.path()), clock.clone()).unwrap();
    disk.fail(sync, failures);
    for number in 0..24 {
        let mut is_done = false;
        while !is_done {
            is_done = store.apply(one_span(number)).await.is_ok();
            let acknowledged = if is_done { number + 1 } else { number };
            let copy = copied(directory.path());
            let killed = EmbeddedMetricsStore::open(config(copy.path()), clock.clone()).unwrap();
            let (seen, covered) = counted(&killed).await;
            assert_eq!(seen, covered, "{sync} {number}");
            assert!(seen >= acknowledged, "{sync} {number}: {seen} of {acknowledged}");
        }
    }
    assert_eq!(counted(&store).await, (24, 24));
    disk.bad.load(Ordering::SeqCst) == 0
}

#[tokio::test]
async fn whichever_sync_fails_every_count_is_there_once() {
    for failures in [1, 2, 3] {
        let mut sync = 0;
        while count_with_failures_at(sync, failures).await {
            sync += 1;
        }
        assert!(sync > 10, "{sync}");
    }
}
