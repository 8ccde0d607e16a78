//! The metrics stores in memory and in a directory: the whole suite, and what the durable one does
//! beside.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;
use trace_model::{Clock, UnixNanos};
use trace_store::{
    EmbeddedMetricsConfig, EmbeddedMetricsStore, Eraser, MemoryMetricsStore, MetricsDelta,
    MetricsStore, StoreError,
};

use crate::metrics::{
    START, covered, delta, edge, everything, minutes, query, red, series, some_delta, tenant,
    trace, traces,
};

#[derive(Debug)]
struct TestClock(Mutex<UnixNanos>);

impl TestClock {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(UnixNanos(START))))
    }

    fn advance(&self, by: Duration) {
        let mut now = self.0.lock().unwrap();
        *now = now.plus(u64::try_from(by.as_nanos()).unwrap());
    }
}

impl Clock for TestClock {
    fn now(&self) -> UnixNanos {
        *self.0.lock().unwrap()
    }

    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.now().0)
    }
}

mod suites {
    use std::sync::Arc;

    use futures_util::future::BoxFuture;
    use trace_store::MemoryMetricsStore;

    use crate::metrics::Bench;

    fn in_memory() -> BoxFuture<'static, Bench> {
        let store = Arc::new(MemoryMetricsStore::new());
        Box::pin(async { Bench { store, _kept: Box::new(()) } })
    }

    fn in_files(files: super::Files) -> Bench {
        Bench { store: Arc::new(files.store), _kept: Box::new(files.directory) }
    }

    fn embedded() -> BoxFuture<'static, Bench> {
        Box::pin(async { in_files(super::embedded()) })
    }

    fn sealing() -> BoxFuture<'static, Bench> {
        Box::pin(async { in_files(super::embedded_that_seals()) })
    }

    mod memory {
        crate::metrics::every_fact!(super::in_memory);
    }

    mod in_a_directory {
        crate::metrics::every_fact!(super::embedded);
    }

    mod that_seals_often {
        crate::metrics::every_fact!(super::sealing);
    }
}

/// An embedded store with its directory.
struct Files {
    store: EmbeddedMetricsStore,
    directory: TempDir,
    clock: Arc<TestClock>,
}

fn embedded() -> Files {
    let (directory, clock) = (TempDir::new().unwrap(), TestClock::new());
    let store = open(directory.path(), &clock).unwrap();
    Files { store, directory, clock }
}

/// An embedded store that seals after every few deltas.
fn embedded_that_seals() -> Files {
    let (directory, clock) = (TempDir::new().unwrap(), TestClock::new());
    let store = open_small(directory.path(), &clock).unwrap();
    Files { store, directory, clock }
}

fn open(directory: &Path, clock: &Arc<TestClock>) -> Result<EmbeddedMetricsStore, StoreError> {
    let config = EmbeddedMetricsConfig::new(directory.to_owned());
    EmbeddedMetricsStore::open(config, Arc::clone(clock) as _)
}

fn open_small(
    directory: &Path,
    clock: &Arc<TestClock>,
) -> Result<EmbeddedMetricsStore, StoreError> {
    let config = EmbeddedMetricsConfig {
        memory_bytes_max: 2_000,
        retention: Duration::from_secs(3_600),
        ..EmbeddedMetricsConfig::new(directory.to_owned())
    };
    EmbeddedMetricsStore::open(config, Arc::clone(clock) as _)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn the_embedded_store_agrees_with_memory_over_seals_replays_and_restarts(
        steps in proptest::collection::vec((0_u64..60, any::<u8>(), 0_u8..8), 1..40)
    ) {
        runtime().block_on(async {
            let (directory, clock) = (TempDir::new().unwrap(), TestClock::new());
            let memory = MemoryMetricsStore::new();
            let mut embedded = open_small(directory.path(), &clock).unwrap();
            for (next, (minute, service, what)) in (1_u64..).zip(steps) {
                let delta = some_delta(next, minute, service);
                memory.apply(delta.clone()).await.unwrap();
                embedded.apply(delta.clone()).await.unwrap();
                if what == 0 {
                    embedded = open_small(directory.path(), &clock).unwrap();
                }
                if what < 3 {
                    embedded.apply(delta).await.unwrap();
                }
            }
            assert_eq!(everything(&embedded).await, everything(&memory).await);
        });
    }
}

/// The newest file of a kind.
fn newest(directory: &Path, prefix: &str) -> PathBuf {
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let is_kind = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(prefix);
    files.filter(is_kind).max().unwrap()
}

#[tokio::test]
async fn a_delta_is_there_whole_or_not_at_all_wherever_the_log_was_cut() {
    let bench = embedded();
    let directory = bench.directory.path();
    bench.store.apply(some_delta(1, 0, 0)).await.unwrap();
    let before = everything(&bench.store).await;
    let start = fs::read(newest(directory, "log")).unwrap().len();
    bench.store.apply(some_delta(2, 1, 1)).await.unwrap();
    let after = everything(&bench.store).await;
    let bytes = fs::read(newest(directory, "log")).unwrap();
    let name = newest(directory, "log").file_name().unwrap().to_owned();
    for cut in (start..bytes.len()).step_by(7).chain([bytes.len() - 1, bytes.len()]) {
        let copy = copy_of(directory);
        fs::write(copy.path().join(&name), &bytes[..cut]).unwrap();
        let reopened = open(copy.path(), &bench.clock).unwrap();
        let expected = if cut == bytes.len() { &after } else { &before };
        assert_eq!(&everything(&reopened).await, expected, "cut at {cut}");
        reopened.apply(some_delta(2, 1, 1)).await.unwrap();
        assert_eq!(everything(&reopened).await, after, "applied again after a cut at {cut}");
    }
}

#[tokio::test]
async fn rows_sealed_before_a_crash_are_not_counted_twice() {
    let bench = embedded();
    let directory = bench.directory.path();
    for next in 1..=12 {
        bench.store.apply(some_delta(next, next, 0)).await.unwrap();
    }
    let log = fs::read(newest(directory, "log")).unwrap();
    let log_path = newest(directory, "log");
    let expected = everything(&bench.store).await;
    drop(bench.store);
    // Opening with a small limit and asking for retention seals; then the log comes back, as if the
    // crash had been between the two steps.
    let small = open_small(directory, &bench.clock).unwrap();
    small.retain().await.unwrap();
    assert!(!log_path.exists());
    drop(small);
    fs::remove_file(newest(directory, "log")).unwrap();
    fs::write(&log_path, log).unwrap();
    assert_eq!(everything(&open(directory, &bench.clock).unwrap()).await, expected);
    assert!(!log_path.exists());
}

#[tokio::test]
async fn damage_in_the_middle_of_the_log_is_reported_by_name() {
    let bench = embedded();
    let directory = bench.directory.path();
    let first = fs::read(newest(directory, "log")).unwrap().len();
    bench.store.apply(some_delta(1, 0, 0)).await.unwrap();
    bench.store.apply(some_delta(2, 0, 0)).await.unwrap();
    let path = newest(directory, "log");
    let whole = fs::read(&path).unwrap();
    for place in [first, first + 5, first + 9, first + 40] {
        let mut bytes = whole.clone();
        bytes[place] ^= 0x10;
        fs::write(&path, bytes).unwrap();
        let error = open(directory, &bench.clock).unwrap_err();
        assert!(
            matches!(&error, StoreError::Damaged(what) if what.contains("log-")),
            "{place}: {error}"
        );
    }
}

#[tokio::test]
async fn a_damaged_sealed_file_makes_questions_fail_and_not_answer_short() {
    let bench = embedded_that_seals();
    let directory = bench.directory.path();
    for next in 1..=20 {
        bench.store.apply(some_delta(next, next, 0)).await.unwrap();
    }
    let path = newest(directory, "sealed");
    let whole = fs::read(&path).unwrap();
    for place in [3, 20, whole.len() - 3, whole.len() - 30] {
        let mut bytes = whole.clone();
        bytes[place] ^= 0x10;
        fs::write(&path, bytes).unwrap();
        let store = open_small(directory, &bench.clock).unwrap();
        let error = store.red(&query(None, false, minutes(0, 60))).await.unwrap_err();
        assert!(
            matches!(&error, StoreError::Damaged(what) if what.contains("sealed-")),
            "{place}: {error}"
        );
        assert!(store.apply(some_delta(100, 0, 0)).await.is_ok());
        drop(store);
        fs::write(&path, &whole).unwrap();
    }
}

#[tokio::test]
async fn a_newer_format_is_refused_by_name_in_every_kind_of_file() {
    let bench = embedded_that_seals();
    let directory = bench.directory.path();
    for next in 1..=20 {
        let delta = MetricsDelta { extends_checkpoint: false, ..some_delta(next, next, 0) };
        bench.store.apply(delta).await.unwrap();
    }
    for prefix in ["log", "sealed", "checkpoint"] {
        let path = newest(directory, prefix);
        let whole = fs::read(&path).unwrap();
        let mut bytes = whole.clone();
        bytes[8] = 2;
        fs::write(&path, bytes).unwrap();
        let error = match open_small(directory, &bench.clock) {
            Err(error) => error,
            Ok(store) => store.checkpoint().await.unwrap_err(),
        };
        let is_newer = matches!(&error, StoreError::NewerFormat { file, found: 2, known: 1 } if file.starts_with(prefix));
        assert!(is_newer, "{prefix}: {error}");
        fs::write(&path, whole).unwrap();
    }
}

#[tokio::test]
async fn rows_go_when_they_arrived_longer_ago_than_the_retention() {
    let (directory, clock) = (TempDir::new().unwrap(), TestClock::new());
    let store = open_small(directory.path(), &clock).unwrap();
    // Years-old spans: retention counts from arrival.
    for next in 1..=10 {
        store.apply(some_delta(next, next, 0)).await.unwrap();
    }
    clock.advance(Duration::from_secs(1_800));
    for next in 11..=20 {
        store.apply(some_delta(next, next, 0)).await.unwrap();
    }
    store.retain().await.unwrap();
    assert_eq!(series(&store, &query(None, false, minutes(0, 60))).await.len(), 20);
    clock.advance(Duration::from_secs(1_801));
    store.retain().await.unwrap();
    let left = series(&store, &query(None, false, minutes(0, 60))).await;
    assert!(left.len() < 14 && left.iter().filter(|row| row.0 > 10).count() == 10, "{left:?}");
    clock.advance(Duration::from_secs(7_200));
    store.retain().await.unwrap();
    assert_eq!(series(&store, &query(None, false, minutes(0, 60))).await, []);
    drop(store);
    let reopened = open_small(directory.path(), &clock).unwrap();
    assert_eq!(reopened.checkpoint().await.unwrap().0, covered(20));
    reopened.apply(some_delta(20, 0, 0)).await.unwrap();
    assert_eq!(series(&reopened, &query(None, false, minutes(0, 60))).await, []);
}

#[tokio::test]
async fn sealed_files_stay_within_their_bytes() {
    let (directory, clock) = (TempDir::new().unwrap(), TestClock::new());
    let config = EmbeddedMetricsConfig {
        memory_bytes_max: 2_000,
        bytes_max: 4_000,
        ..EmbeddedMetricsConfig::new(directory.path().to_owned())
    };
    let store = EmbeddedMetricsStore::open(config, clock).unwrap();
    for next in 1..=200 {
        store.apply(some_delta(next, next % 60, 0)).await.unwrap();
    }
    let files = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len());
    assert!(files.sum::<u64>() < 10_000);
    assert_eq!(store.checkpoint().await.unwrap().0, covered(200));
}

#[tokio::test]
async fn a_store_is_the_same_after_it_was_opened_again_and_leaves_no_old_files() {
    let bench = embedded_that_seals();
    let directory = bench.directory.path();
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for next in 1..=30 {
        bench.store.apply(some_delta(next, next, 0)).await.unwrap();
    }
    let before = everything(&bench.store).await;
    assert_eq!(everything(&open(directory, &bench.clock).unwrap()).await, before);
    for entry in fs::read_dir(directory).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        *kinds.entry(name.split('-').next().unwrap().to_owned()).or_default() += 1;
    }
    assert_eq!((kinds["log"], kinds["checkpoint"]), (1, 1));
    assert!(kinds["sealed"] > 3, "{kinds:?}");
}

#[tokio::test]
async fn the_bytes_of_an_erased_trace_are_in_no_file_also_after_a_restart() {
    let bench = embedded_that_seals();
    let directory = bench.directory.path();
    for next in 1..=12 {
        let rows = vec![red(next, "web", None, &[next])];
        bench
            .store
            .apply(delta(next, rows, vec![edge(0, "cart", false, &[0, next])]))
            .await
            .unwrap();
    }
    let holding = || {
        let id = *trace(0).as_bytes();
        let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        let holds = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let bytes = fs::read(path).unwrap();
            !name.starts_with("erased") && bytes.windows(16).any(|window| window == id)
        };
        files.filter(holds).count()
    };
    assert!(holding() > 0);
    let receipt = bench.store.erase(&tenant("default"), trace(0)).await.unwrap();
    assert!(receipt.files > 1 && receipt.spans == 0, "{receipt:?}");
    assert_eq!(holding(), 0);
    let reopened = open_small(directory, &bench.clock).unwrap();
    let rows = vec![red(20, "web", None, &[1])];
    reopened.apply(delta(20, rows, vec![edge(0, "cart", false, &[0])])).await.unwrap();
    assert_eq!(holding(), 0);
    assert!(!traces(&reopened, "cart", false, 100).await.contains(&0));
    assert_eq!(reopened.edges(&tenant("default"), minutes(0, 9)).await.unwrap()[0].1.seen, 25);
}

/// Opens a copy of a directory, since opening may write.
fn copy_of(directory: &Path) -> TempDir {
    let copy = TempDir::new().unwrap();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    copy
}

#[tokio::test]
async fn a_directory_of_the_first_released_format_is_read() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/metrics-v1");
    let copy = copy_of(&golden);
    let store = open(copy.path(), &TestClock::new()).unwrap();
    let memory = MemoryMetricsStore::new();
    for next in 1..=12 {
        memory.apply(some_delta(next, next * 3, u8::try_from(next).unwrap())).await.unwrap();
    }
    assert_eq!(everything(&store).await, everything(&memory).await);
}
