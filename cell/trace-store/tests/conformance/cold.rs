//! The suites on a store whose segments all lie in objects, and what only such a store has: names,
//! owners, retention, requests that are not made.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};
use proptest::collection::vec;
use proptest::prelude::*;
use service_kit::{ManualClock, SystemClock};
use trace_model::{Clock, Filter, TenantId, TimeRange, UnixNanos};
use trace_store::{
    ColdLimits, EmbeddedStore, EmbeddedStoreConfig, Eraser, SearchIndexer, ServiceCatalog,
    SpanWriter, StoreError, TraceReader, TraceSearch,
};

use crate::cold_store::{AlwaysCold, limits, tier};
use crate::differential::{any_filter, any_request, check};
use crate::files::{files, orders};
use crate::fixture::{Log, NOW, Request, attribute, span, text, trace_id};
use crate::harness::{Adapter, files_with, query, ready, small_config, tag};

/// Files of the store and objects side by side: what must be in no file is in no object either.
pub(crate) const COLD: Adapter = Adapter {
    open: |directory, clock| {
        let objects = directory.join("objects");
        std::fs::create_dir_all(&objects).unwrap();
        let objects = Arc::new(LocalFileSystem::new_with_prefix(objects).unwrap());
        ready(Arc::new(AlwaysCold::open(&directory.join("store"), objects, clock)))
    },
    is_durable: true,
};

const IN_MEMORY: Adapter = Adapter {
    open: |directory, clock| {
        ready(Arc::new(AlwaysCold::open(&directory, Arc::new(InMemory::new()), clock)))
    },
    is_durable: false,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn every_answer_is_the_oracles(
        requests in vec((any_request(), any::<bool>()), 1..5),
        filters in vec(any_filter(), 1..24),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(check(IN_MEMORY, &requests, &filters))?;
    }
}

/// A store over objects in memory.
pub(crate) struct Bench {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) store: Arc<EmbeddedStore>,
    pub(crate) log: Log,
}

pub(crate) fn open(
    config: EmbeddedStoreConfig,
    objects: &Arc<dyn ObjectStore>,
    limits: ColdLimits,
    clock: &Arc<ManualClock>,
) -> Arc<EmbeddedStore> {
    let clock = Arc::clone(clock) as Arc<dyn Clock>;
    let tier = tier(Arc::clone(objects), limits, &clock);
    EmbeddedStore::open_tiered(config, tier, clock).unwrap()
}

/// Two blocks of a segment and more, and no merging.
pub(crate) fn config(directory: &Path) -> EmbeddedStoreConfig {
    let retention = Duration::from_secs(3_600);
    EmbeddedStoreConfig { retention, merge_fan_in: 100, ..small_config(directory) }
}

impl Bench {
    pub(crate) fn over(objects: Arc<dyn ObjectStore>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(NOW));
        let store = open(config(directory.path()), &objects, limits(), &clock);
        Self { directory, clock, objects, store, log: Log::new() }
    }

    pub(crate) fn in_memory() -> Self {
        Self::over(Arc::new(InMemory::new()))
    }

    /// One more segment: ten traces from this one on.
    pub(crate) async fn seal(&mut self, first: u64) {
        self.store.write(&[self.log.append(&orders(first, 10))]).await.unwrap();
        SpanWriter::flush(&*self.store, NOW, true).await.unwrap();
    }

    pub(crate) fn reopen(self) -> Self {
        let Self { directory, clock, objects, store, log } = self;
        drop(store);
        let store = open(config(directory.path()), &objects, limits(), &clock);
        Self { directory, clock, objects, store, log }
    }

    /// Requests that reads have made.
    fn reads(&self) -> u64 {
        self.store.metrics().cold.reads.get()
    }
}

/// Names of the objects that are there, without the owner's mark.
pub(crate) async fn names(objects: &Arc<dyn ObjectStore>) -> BTreeSet<String> {
    let found: Vec<_> = objects.list(None).try_collect().await.unwrap();
    let names = found.into_iter().map(|meta| meta.location.to_string());
    names.filter(|name| !name.ends_with("/owner")).collect()
}

/// All that a store answers about the first traces: for each its spans, and whether it is found.
pub(crate) async fn answers(store: &EmbeddedStore, traces: u64) -> Vec<(usize, usize)> {
    let tenant = TenantId::default();
    let mut answers = Vec::new();
    for trace in 0..traces {
        let read = store.read_trace(&tenant, trace_id(trace)).await.unwrap();
        assert!(!read.is_damaged && !read.is_away, "trace {trace}");
        let found = store.search(&query(tag("order", &format!("o-{trace}")))).await.unwrap();
        assert!(!found.is_damaged, "trace {trace}");
        answers.push((read.spans.len(), found.matches.len()));
    }
    answers
}

#[tokio::test]
async fn what_has_moved_gives_the_same_answers_and_its_files_are_gone() {
    let mut bench = Bench::in_memory();
    bench.seal(0).await;
    bench.seal(10).await;
    let hot = answers(&bench.store, 22).await;
    assert_eq!((hot[0], hot[19], hot[20]), ((2, 1), (2, 1), (0, 0)));
    assert_eq!(bench.store.move_cold().await.unwrap(), 2);
    assert_eq!(answers(&bench.store, 22).await, hot);
    assert!(files(bench.directory.path(), "seg").is_empty());
    assert_eq!(names(&bench.objects).await.len(), 2);
    assert_eq!(bench.store.move_cold().await.unwrap(), 0);
    let mut bench = bench.reopen();
    assert_eq!(answers(&bench.store, 22).await, hot);
    bench.seal(20).await;
    assert_eq!(bench.store.move_cold().await.unwrap(), 1);
    assert_eq!(answers(&bench.store, 22).await[20..], [(2, 1), (2, 1)]);
    let cold = &bench.store.metrics().cold;
    assert_eq!((cold.objects.get(), cold.moved_segments.get()), (3, 1));
    assert!(cold.object_bytes.get() > 0);
}

#[tokio::test]
async fn a_no_costs_no_request_and_a_yes_one() {
    let mut bench = Bench::in_memory();
    bench.seal(0).await;
    bench.store.move_cold().await.unwrap();
    let bench = bench.reopen();
    let (store, tenant) = (&bench.store, TenantId::default());
    for trace in 100..200 {
        assert!(store.read_trace(&tenant, trace_id(trace)).await.unwrap().spans.is_empty());
    }
    assert!(store.search(&query(tag("order", "o-500"))).await.unwrap().matches.is_empty());
    assert_eq!(store.services(&tenant, TimeRange::ALL).await.unwrap().len(), 1);
    assert_eq!(bench.reads(), 0);
    assert_eq!(store.read_trace(&tenant, trace_id(3)).await.unwrap().spans.len(), 2);
    assert_eq!(bench.reads(), 1);
    assert_eq!(store.read_trace(&tenant, trace_id(3)).await.unwrap().spans.len(), 2);
    assert_eq!((bench.reads(), store.metrics().cold.cache_hits.get()), (1, 1));
}

#[tokio::test]
async fn blocks_that_are_read_one_after_another_come_with_one_request() {
    let mut bench = Bench::in_memory();
    let long: Vec<_> = (0..100).map(|id| span(1, id, "step")).collect();
    let batch = bench.log.append(&Request::of("shop", &long));
    bench.store.write(&[batch]).await.unwrap();
    SpanWriter::flush(&*bench.store, NOW, true).await.unwrap();
    bench.store.move_cold().await.unwrap();
    // 100 spans in blocks of 16: seven.
    let read = bench.store.read_trace(&TenantId::default(), trace_id(1)).await.unwrap();
    assert_eq!((read.spans.len(), bench.reads()), (100, 1));
    let bench = bench.reopen();
    let stats = bench.store.search(&query(Filter::All)).await.unwrap().stats;
    assert_eq!((stats.spans_scanned, stats.blocks_opened, bench.reads()), (100, 7, 1));
}

#[tokio::test]
async fn segments_move_when_they_are_old_enough_and_sooner_where_the_disk_fills() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(NOW));
    let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let open_after = |after: u64, bytes_max: u64| {
        let shared = Arc::clone(&clock) as Arc<dyn Clock>;
        let prefix = ObjectPath::from("p");
        let storage =
            trace_store::ObjectStorage::over(objects.clone(), prefix, limits(), shared.clone());
        let after = Duration::from_secs(after);
        let tier = trace_store::ColdTier::new(Arc::new(storage), after, 1 << 20, rand::random());
        let config = EmbeddedStoreConfig { bytes_max, ..config(directory.path()) };
        EmbeddedStore::open_tiered(config, tier, shared).unwrap()
    };
    let store = open_after(60, 1 << 30);
    let mut log = Log::new();
    for round in 0..2 {
        log.append_time = NOW.plus(round * 30_000_000_000);
        store.write(&[log.append(&orders(round * 10, 10))]).await.unwrap();
        SpanWriter::flush(&*store, NOW, true).await.unwrap();
    }
    clock.set_wall(NOW.plus(59_999_999_999));
    assert_eq!(store.move_cold().await.unwrap(), 0);
    clock.set_wall(NOW.plus(60_000_000_000));
    assert_eq!(store.move_cold().await.unwrap(), 1);
    assert_eq!(store.move_cold().await.unwrap(), 0);
    let bytes = store.figures().bytes;
    drop(store);
    let store = open_after(60, bytes + 1);
    assert_eq!(store.move_cold().await.unwrap(), 1);
    assert_eq!(answers(&store, 20).await, vec![(2, 1); 20]);
}

#[tokio::test]
async fn retention_takes_cold_segments_and_then_their_objects() {
    let mut bench = Bench::in_memory();
    bench.seal(0).await;
    bench.log.append_time = NOW.plus(1_800_000_000_000);
    bench.seal(10).await;
    bench.clock.set_wall(bench.log.append_time);
    bench.store.move_cold().await.unwrap();
    let before = names(&bench.objects).await;
    bench.clock.set_wall(NOW.plus(3_600_000_000_001));
    bench.store.maintain().await.unwrap();
    let tenant = TenantId::default();
    let gone = bench.store.read_trace(&tenant, trace_id(1)).await.unwrap();
    assert_eq!((gone.spans.len(), gone.expired_until), (0, Some(NOW)));
    // Readers may be at work on it.
    bench.store.move_cold().await.unwrap();
    assert_eq!(names(&bench.objects).await, before);
    // Also where the process ended in between.
    let bench = bench.reopen();
    bench.clock.set_wall(NOW.plus(3_661_000_000_000));
    bench.store.move_cold().await.unwrap();
    let after = names(&bench.objects).await;
    assert!(after.len() == 1 && after.is_subset(&before));
    assert_eq!(bench.store.read_trace(&tenant, trace_id(11)).await.unwrap().spans.len(), 2);
    assert_eq!(bench.store.metrics().cold.deleted_objects.get(), 1);
}

#[tokio::test]
async fn a_prefix_belongs_to_one_store() {
    let mut first = Bench::in_memory();
    first.seal(0).await;
    first.store.claim_cold().await.unwrap();
    let mut second = Bench::over(Arc::clone(&first.objects));
    second.seal(0).await;
    for error in
        [second.store.claim_cold().await.unwrap_err(), second.store.move_cold().await.unwrap_err()]
    {
        assert!(matches!(&error, StoreError::Refused(text) if text.contains("another store")));
    }
    first.store.move_cold().await.unwrap();
    let first = first.reopen();
    first.store.claim_cold().await.unwrap();
    assert_eq!(names(&first.objects).await.len(), 1);
    // Another place than that of its objects.
    let Bench { directory, clock, store, .. } = first;
    drop(store);
    let elsewhere: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let store = open(config(directory.path()), &elsewhere, limits(), &clock);
    let error = store.claim_cold().await.unwrap_err();
    assert!(matches!(&error, StoreError::Refused(text) if text.contains("the right place")));
    drop(store);
    // And none at all.
    let error = EmbeddedStore::open(config(directory.path()), clock).unwrap_err();
    assert!(matches!(&error, StoreError::Unsupported(text) if text.contains("`cold`")), "{error}");
}

#[tokio::test]
async fn a_cold_segment_without_its_index_is_read_whole_and_gets_a_new_one() {
    let mut bench = Bench::in_memory();
    bench.seal(0).await;
    bench.store.move_cold().await.unwrap();
    std::fs::remove_file(files(bench.directory.path(), "idx").remove(0)).unwrap();
    let bench = bench.reopen();
    assert_eq!(answers(&bench.store, 10).await, vec![(2, 1); 10]);
    // It holds up no indexer.
    SearchIndexer::flush(&*bench.store, NOW, true).await.unwrap();
    assert_eq!(bench.store.indexed(), bench.store.durable());
    assert_eq!(bench.store.move_cold().await.unwrap(), 1);
    assert_eq!(answers(&bench.store, 10).await, vec![(2, 1); 10]);
    assert_eq!(files(bench.directory.path(), "idx").len(), 1);
    assert_eq!(names(&bench.objects).await.len(), 2, "readers may be at work on the old one");
    bench.clock.advance(Duration::from_secs(61));
    bench.store.move_cold().await.unwrap();
    assert_eq!(names(&bench.objects).await.len(), 1);
}

#[tokio::test]
async fn what_stays_here_is_damaged_and_every_answer_says_so() {
    let mut bench = Bench::in_memory();
    bench.seal(0).await;
    bench.store.move_cold().await.unwrap();
    let path = files(bench.directory.path(), "cold").remove(0);
    let whole = std::fs::read(&path).unwrap();
    for at in (0..whole.len()).step_by(11) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        std::fs::write(&path, bytes).unwrap();
        let clock = Arc::clone(&bench.clock) as Arc<dyn Clock>;
        let tier = tier(Arc::clone(&bench.objects), limits(), &clock);
        drop(bench.store);
        let opened = EmbeddedStore::open_tiered(config(bench.directory.path()), tier, clock);
        if let Ok(store) = &opened {
            let read = store.read_trace(&TenantId::default(), trace_id(3)).await.unwrap();
            assert!(read.is_damaged || read.spans.len() == 2, "byte {at}");
            let found = store.search(&query(tag("order", "o-3"))).await.unwrap();
            assert!(found.is_damaged || found.matches.len() == 1, "byte {at}");
        }
        drop(opened);
        std::fs::write(&path, &whole).unwrap();
        bench.store = open(config(bench.directory.path()), &bench.objects, limits(), &bench.clock);
    }
}

#[tokio::test]
async fn objects_that_nobody_names_go_when_they_are_old() {
    let mut bench = Bench::in_memory();
    bench.seal(0).await;
    bench.store.move_cold().await.unwrap();
    let named = names(&bench.objects).await;
    let stray = named.first().unwrap().replace(".seg", "-stray.seg");
    bench.objects.put(&ObjectPath::from(stray), "x".into()).await.unwrap();
    let others = ObjectPath::from("spans/eu-west-1/0123/of-another.seg");
    bench.objects.put(&others, "x".into()).await.unwrap();
    let written = SystemClock::new().now();
    let config = EmbeddedStoreConfig {
        retention: Duration::from_secs(50 * 365 * 24 * 3_600),
        ..config(bench.directory.path())
    };
    let Bench { directory: _kept, clock, objects, store, .. } = bench;
    drop(store);
    for (hours, left) in [(23, 3), (49, 2)] {
        clock.set_wall(UnixNanos(written.0 + hours * 3_600_000_000_000));
        let store = open(config.clone(), &objects, limits(), &clock);
        store.move_cold().await.unwrap();
        assert_eq!(names(&objects).await.len(), left);
        assert_eq!(answers(&store, 10).await, vec![(2, 1); 10]);
    }
    assert!(names(&objects).await.is_superset(&named));
}

#[tokio::test]
async fn an_erased_trace_is_in_no_object_and_the_rest_is_whole() {
    let directory = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(NOW));
    let place = directory.path().join("objects");
    std::fs::create_dir_all(&place).unwrap();
    let objects: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(place).unwrap());
    let tier = tier(objects.clone(), limits(), &clock);
    let config = config(&directory.path().join("store"));
    let store = EmbeddedStore::open_tiered(config, tier, clock).unwrap();
    let mut log = Log::new();
    for trace in 0..3_u64 {
        let canary = format!("canary-{trace}-5hz8rk2m");
        let mut span = span(trace, 0, "order");
        span.attributes = vec![attribute("order", text(&canary))];
        store.write(&[log.append(&Request::of("shop", &[span]))]).await.unwrap();
    }
    SpanWriter::flush(&*store, NOW, true).await.unwrap();
    store.move_cold().await.unwrap();
    assert!(!files_with(directory.path(), b"canary-1-5hz8rk2m").is_empty());
    let before = names(&objects).await;
    let receipt = store.erase(&TenantId::default(), trace_id(1)).await.unwrap();
    assert_eq!((receipt.files, receipt.spans), (3, 1));
    let nothing: [String; 0] = [];
    assert_eq!(files_with(directory.path(), b"canary-1-5hz8rk2m"), nothing);
    assert_eq!(files_with(directory.path(), trace_id(1).as_bytes()), nothing);
    assert!(names(&objects).await.is_empty());
    assert_eq!(store.move_cold().await.unwrap(), 1);
    let after = names(&objects).await;
    assert!(after.len() == 1 && after.is_disjoint(&before), "a name is used once");
    for (trace, spans) in [(0, 1), (1, 0), (2, 1)] {
        let read = store.read_trace(&TenantId::default(), trace_id(trace)).await.unwrap();
        assert_eq!((read.spans.len(), read.is_damaged, read.is_away), (spans, false, false));
    }
}
