//! What every metrics store does, and what the durable one does beside.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test says what went wrong by failing"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use proto::DurationSketch;
use tempfile::TempDir;
use trace_model::{Clock, Coverage, SpanKind, StatusCode, TenantId, TimeRange, TraceId, UnixNanos};
use trace_store::port::EdgeTraceQuery;
use trace_store::{
    EdgeKey, EdgeRow, EmbeddedMetricsConfig, EmbeddedMetricsStore, Eraser, MemoryMetricsStore,
    MetricsDelta, MetricsStore, RedKey, RedQuery, RedRow, StoreError,
};

const MINUTE: u64 = 60_000_000_000;
const BUCKET: u64 = 10 * MINUTE;
const INCARNATION: u64 = 5;
/// A minute at which a bucket starts.
const START: u64 = 2_000_000 * BUCKET;

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

/// What every adapter is.
trait Adapter: MetricsStore + Eraser {}

impl<A: MetricsStore + Eraser> Adapter for A {}

/// An adapter with the place where it keeps its files, if it has one.
struct Bench {
    store: Arc<dyn Adapter>,
    directory: Option<TempDir>,
    clock: Arc<TestClock>,
}

fn memory() -> Bench {
    let store = Arc::new(MemoryMetricsStore::new());
    Bench { store, directory: None, clock: TestClock::new() }
}

fn embedded() -> Bench {
    let (directory, clock) = (TempDir::new().unwrap(), TestClock::new());
    let store = Arc::new(open(directory.path(), &clock).unwrap());
    Bench { store, directory: Some(directory), clock }
}

/// An embedded store that seals after every few deltas.
fn embedded_that_seals() -> Bench {
    let (directory, clock) = (TempDir::new().unwrap(), TestClock::new());
    let store = Arc::new(open_small(directory.path(), &clock).unwrap());
    Bench { store, directory: Some(directory), clock }
}

fn every_adapter() -> [(&'static str, Bench); 3] {
    [("memory", memory()), ("embedded", embedded()), ("sealing", embedded_that_seals())]
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

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

fn trace(number: u64) -> TraceId {
    TraceId::from_bytes(u128::from(number + 1).to_be_bytes()).unwrap()
}

fn red(minute: u64, service: &str, operation: Option<&str>, nanos: &[u64]) -> (RedKey, RedRow) {
    let key = RedKey {
        tenant: tenant("default"),
        minute: UnixNanos(START + minute * MINUTE),
        service: service.into(),
        operation: operation.map(Into::into),
        kind: SpanKind::Server,
        status: StatusCode::Unset,
    };
    let mut row = RedRow::default();
    for (place, duration) in (0_u64..).zip(nanos) {
        row.seen += 1;
        row.estimated += 2.0;
        row.durations.add(*duration);
        if row.exemplar.is_none_or(|(slowest, _)| *duration > slowest) {
            row.exemplar = Some((*duration, trace(place)));
        }
    }
    (key, row)
}

fn edge(bucket: u64, callee: &str, is_error: bool, traces: &[u64]) -> (EdgeKey, EdgeRow) {
    let key = EdgeKey {
        tenant: tenant("default"),
        bucket: UnixNanos(START + bucket * BUCKET),
        caller: "web".into(),
        callee: callee.into(),
        is_error,
    };
    let mut durations = DurationSketch::default();
    for number in traces {
        durations.add(1_000 + number);
    }
    let seen = traces.len() as u64;
    let traces = traces.iter().rev().map(|number| trace(*number)).collect();
    (key, EdgeRow { seen, estimated: 3.0, durations, traces })
}

fn covered(next: u64) -> Coverage {
    let mut covered = Coverage::none(INCARNATION);
    covered.extend(0, next);
    covered
}

fn delta(next: u64, red: Vec<(RedKey, RedRow)>, edges: Vec<(EdgeKey, EdgeRow)>) -> MetricsDelta {
    let checkpoint = format!("state at {next}").into_bytes();
    MetricsDelta { red, edges, covered: covered(next), checkpoint, extends_checkpoint: false }
}

fn minutes(first: u64, end: u64) -> TimeRange {
    TimeRange { start: UnixNanos(START + first * MINUTE), end: UnixNanos(START + end * MINUTE) }
}

fn query(service: Option<&str>, by_operation: bool, range: TimeRange) -> RedQuery {
    RedQuery { tenant: tenant("default"), service: service.map(Into::into), by_operation, range }
}

async fn series(store: &dyn MetricsStore, query: &RedQuery) -> Vec<(u64, String, u64)> {
    let rows = store.red(query).await.unwrap();
    let short = |(key, row): &(RedKey, RedRow)| {
        let operation = key.operation.as_deref().unwrap_or("");
        ((key.minute.0 - START) / MINUTE, format!("{}/{operation}", key.service), row.seen)
    };
    rows.iter().map(short).collect()
}

async fn traces(
    store: &dyn MetricsStore,
    callee: &str,
    only_errors: bool,
    limit: usize,
) -> Vec<u64> {
    let query = EdgeTraceQuery {
        tenant: tenant("default"),
        caller: "web".into(),
        callee: callee.into(),
        only_errors,
        range: minutes(0, 60),
        limit,
    };
    let found = store.edge_traces(&query).await.unwrap();
    let number = |id: &TraceId| u64::try_from(u128::from_be_bytes(*id.as_bytes())).unwrap() - 1;
    found.iter().map(number).collect()
}

#[tokio::test]
async fn counts_are_summed_over_deltas() {
    for (name, bench) in every_adapter() {
        let store = &*bench.store;
        for next in 1..=10 {
            let rows =
                vec![red(0, "web", None, &[next * 1_000_000, 5]), red(next, "web", None, &[7])];
            store.apply(delta(next, rows, vec![])).await.unwrap();
        }
        let rows = store.red(&query(Some("web"), false, minutes(0, 1))).await.unwrap();
        let [(_, row)] = &rows[..] else { panic!("{name}: {rows:?}") };
        assert_eq!(
            (row.seen, row.durations.count(), row.exemplar),
            (20, 20, Some((10_000_000, trace(0)))),
            "{name}"
        );
        assert!((row.estimated - 40.0).abs() < 1e-9, "{name}");
        let median = row.durations.quantile(0.99).unwrap();
        assert!((median / 9_000_000.0 - 1.0).abs() < 0.011, "{name}: {median}");
    }
}

#[tokio::test]
async fn a_delta_that_covers_nothing_new_is_not_counted_again() {
    for (name, bench) in every_adapter() {
        let store = &*bench.store;
        let first = delta(10, vec![red(0, "web", None, &[1])], vec![edge(0, "cart", false, &[1])]);
        store.apply(first.clone()).await.unwrap();
        store.apply(first).await.unwrap();
        store.apply(delta(9, vec![red(0, "web", None, &[1])], vec![])).await.unwrap();
        let mut older = delta(99, vec![red(0, "web", None, &[1])], vec![]);
        older.covered.incarnation = INCARNATION - 1;
        store.apply(older).await.unwrap();
        let found = series(store, &query(None, false, minutes(0, 9))).await;
        assert_eq!(found, [(0, "web/".to_owned(), 1)], "{name}");
        assert_eq!(
            store.edges(&tenant("default"), minutes(0, 9)).await.unwrap()[0].1.seen,
            1,
            "{name}"
        );
        let mut newer = delta(1, vec![red(0, "web", None, &[1])], vec![]);
        newer.covered.incarnation = INCARNATION + 1;
        store.apply(newer).await.unwrap();
        assert_eq!(series(store, &query(None, false, minutes(0, 9))).await[0].2, 2, "{name}");
    }
}

#[tokio::test]
async fn a_query_gives_its_tenant_service_level_and_minutes_alone() {
    for (name, bench) in every_adapter() {
        let store = &*bench.store;
        for minute in 0..60 {
            let mut rows = Vec::new();
            for service in ["cart", "web", "web2"] {
                rows.push(red(minute, service, None, &[1, 2]));
                rows.push(red(minute, service, Some("GET /"), &[1]));
                rows.push(red(minute, service, Some("PUT /"), &[2]));
            }
            let mut foreign = red(minute, "web", None, &[9]);
            foreign.0.tenant = tenant("other");
            rows.push(foreign);
            store.apply(delta(minute + 1, rows, vec![])).await.unwrap();
        }
        let hour = series(store, &query(Some("web"), false, minutes(0, 60))).await;
        let expected: Vec<_> = (0..60).map(|minute| (minute, "web/".to_owned(), 2)).collect();
        assert_eq!(hour, expected, "{name}");
        let part = series(store, &query(Some("web"), true, minutes(10, 12))).await;
        let names: Vec<_> = part.iter().map(|row| (row.0, &*row.1)).collect();
        let expected = [(10, "web/GET /"), (10, "web/PUT /"), (11, "web/GET /"), (11, "web/PUT /")];
        assert_eq!(names, expected, "{name}");
        assert_eq!(series(store, &query(None, false, minutes(0, 60))).await.len(), 180, "{name}");
        assert_eq!(
            series(store, &query(Some("nobody"), false, minutes(0, 60))).await,
            [],
            "{name}"
        );
        let half = TimeRange {
            start: UnixNanos(START + 30_000_000_000),
            end: UnixNanos(START + 31_000_000_000),
        };
        assert_eq!(series(store, &query(Some("web"), false, half)).await.len(), 1, "{name}");
    }
}

#[tokio::test]
async fn edges_are_summed_over_the_buckets_of_a_range() {
    for (name, bench) in every_adapter() {
        let store = &*bench.store;
        for next in 1..=4 {
            let edges =
                vec![edge(next, "cart", false, &[next]), edge(next, "cart", true, &[next, 90])];
            store.apply(delta(next, vec![], edges)).await.unwrap();
        }
        let found = store.edges(&tenant("default"), minutes(15, 35)).await.unwrap();
        let short: Vec<_> = found
            .iter()
            .map(|(key, row)| ((key.bucket.0 - START) / BUCKET, key.is_error, row.seen))
            .collect();
        assert_eq!(short, [(1, false, 3), (1, true, 6)], "{name}");
        assert!(found.iter().all(|(_, row)| row.durations.count() == row.seen), "{name}");
        assert!(store.edges(&tenant("other"), minutes(0, 60)).await.unwrap().is_empty(), "{name}");
    }
}

#[tokio::test]
async fn traces_of_an_edge_come_newest_first_each_once_and_bounded() {
    for (name, bench) in every_adapter() {
        let store = &*bench.store;
        store.apply(delta(1, vec![], vec![edge(0, "cart", false, &[1, 2])])).await.unwrap();
        store.apply(delta(2, vec![], vec![edge(0, "cart", false, &[3, 1])])).await.unwrap();
        store.apply(delta(3, vec![], vec![edge(1, "cart", true, &[4])])).await.unwrap();
        store.apply(delta(4, vec![], vec![edge(1, "fraud", true, &[5])])).await.unwrap();
        assert_eq!(traces(store, "cart", false, 10).await, [4, 1, 3, 2], "{name}");
        assert_eq!(traces(store, "cart", false, 2).await, [4, 1], "{name}");
        assert_eq!(traces(store, "cart", true, 10).await, [4], "{name}");
        assert_eq!(traces(store, "nobody", false, 10).await, [0_u64; 0], "{name}");
        let many: Vec<_> = (100..300).collect();
        store.apply(delta(5, vec![], vec![edge(2, "cart", false, &many)])).await.unwrap();
        store.apply(delta(6, vec![], vec![edge(2, "cart", false, &[7])])).await.unwrap();
        let found = traces(store, "cart", false, 100).await;
        assert_eq!((found.len(), found[0], found[1]), (100, 7, 299), "{name}");
    }
}

#[tokio::test]
async fn the_checkpoint_is_replaced_or_extended() {
    for (name, bench) in every_adapter() {
        let store = &*bench.store;
        assert_eq!(store.checkpoint().await.unwrap().1, b"", "{name}");
        store.apply(delta(1, vec![], vec![])).await.unwrap();
        for (next, text) in [(2, "+a"), (3, ""), (4, "+b")] {
            let checkpoint = text.as_bytes().to_vec();
            let extending = MetricsDelta {
                checkpoint,
                extends_checkpoint: true,
                ..delta(next, vec![], vec![])
            };
            store.apply(extending).await.unwrap();
        }
        assert_eq!(
            store.checkpoint().await.unwrap(),
            (covered(4), b"state at 1+a+b".to_vec()),
            "{name}"
        );
        store.apply(delta(5, vec![], vec![])).await.unwrap();
        assert_eq!(
            store.checkpoint().await.unwrap(),
            (covered(5), b"state at 5".to_vec()),
            "{name}"
        );
    }
}

/// What a store holds, to compare two.
async fn everything(store: &dyn MetricsStore) -> String {
    let mut found = String::new();
    for by_operation in [false, true] {
        for (key, row) in store.red(&query(None, by_operation, minutes(0, 600))).await.unwrap() {
            let sketch = (row.durations.count(), row.durations.quantile(0.5));
            let counts = (row.seen, row.estimated, row.exemplar, sketch);
            found.push_str(&format!("{key:?} {counts:?}\n"));
        }
    }
    for (key, row) in store.edges(&tenant("default"), minutes(0, 600)).await.unwrap() {
        found.push_str(&format!("{key:?} {} {} {:?}\n", row.seen, row.estimated, row.traces));
    }
    let (covered, checkpoint) = store.checkpoint().await.unwrap();
    found.push_str(&format!("{covered:?} {checkpoint:?}"));
    found
}

fn some_delta(next: u64, minute: u64, service: u8) -> MetricsDelta {
    let service = ["web", "cart", "fraud"][usize::from(service % 3)];
    let rows = vec![
        red(minute, service, None, &[next * 100, 7]),
        red(minute, service, Some("op"), &[next * 100, 7]),
    ];
    let mut delta =
        delta(next, rows, vec![edge(minute / 10, service, next.is_multiple_of(2), &[next])]);
    delta.extends_checkpoint = !next.is_multiple_of(3);
    delta
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
    let directory = bench.directory.as_ref().unwrap().path();
    bench.store.apply(some_delta(1, 0, 0)).await.unwrap();
    let before = everything(&*bench.store).await;
    let start = fs::read(newest(directory, "log")).unwrap().len();
    bench.store.apply(some_delta(2, 1, 1)).await.unwrap();
    let after = everything(&*bench.store).await;
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
    let directory = bench.directory.as_ref().unwrap().path();
    for next in 1..=12 {
        bench.store.apply(some_delta(next, next, 0)).await.unwrap();
    }
    let log = fs::read(newest(directory, "log")).unwrap();
    let log_path = newest(directory, "log");
    let expected = everything(&*bench.store).await;
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
    let directory = bench.directory.as_ref().unwrap().path();
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
    let directory = bench.directory.as_ref().unwrap().path();
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
    let directory = bench.directory.as_ref().unwrap().path();
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
    let directory = bench.directory.as_ref().unwrap().path();
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for next in 1..=30 {
        bench.store.apply(some_delta(next, next, 0)).await.unwrap();
    }
    let before = everything(&*bench.store).await;
    assert_eq!(everything(&open(directory, &bench.clock).unwrap()).await, before);
    for entry in fs::read_dir(directory).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        *kinds.entry(name.split('-').next().unwrap().to_owned()).or_default() += 1;
    }
    assert_eq!((kinds["log"], kinds["checkpoint"]), (1, 1));
    assert!(kinds["sealed"] > 3, "{kinds:?}");
}

#[tokio::test]
async fn an_erased_trace_leaves_exemplars_and_edges_and_no_count_and_does_not_come_back() {
    for (name, bench) in every_adapter() {
        let store = &*bench.store;
        let some = |next: u64| {
            let rows = vec![red(0, "web", None, &[next, 1]), red(next, "web", Some("op"), &[9])];
            let mut foreign = edge(0, "cart", false, &[0]);
            foreign.0.tenant = tenant("other");
            delta(next, rows, vec![edge(0, "cart", false, &[0, next]), foreign])
        };
        for next in 1..=12 {
            store.apply(some(next)).await.unwrap();
        }
        store.erase(&tenant("default"), trace(0)).await.unwrap();
        store.erase(&tenant("default"), trace(0)).await.unwrap();
        store.apply(some(13)).await.unwrap();
        let rows = store.red(&query(None, false, minutes(0, 60))).await.unwrap();
        assert!(
            rows.iter().all(|(_, row)| row.exemplar.is_none_or(|held| held.1 != trace(0))),
            "{name}"
        );
        assert_eq!(rows.iter().map(|(_, row)| row.seen).sum::<u64>(), 26, "{name}");
        let found = traces(store, "cart", false, 100).await;
        assert_eq!(found, (1..=13).rev().collect::<Vec<_>>(), "{name}");
        let foreign = store.edges(&tenant("other"), minutes(0, 60)).await.unwrap();
        assert_eq!(foreign[0].1.traces, [trace(0)], "{name}");
    }
}

#[tokio::test]
async fn the_bytes_of_an_erased_trace_are_in_no_file_also_after_a_restart() {
    let bench = embedded_that_seals();
    let directory = bench.directory.as_ref().unwrap().path();
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
