//! Questions to the embedded store are bounded in number, and none works for nobody.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use futures_util::future::{BoxFuture, poll_immediate};
use trace_model::{Clock, Filter, SearchQuery, TenantId, TimeRange, UnixNanos};
use trace_store::{
    EdgeTraceQuery, EmbeddedMetricsConfig, EmbeddedMetricsStore, EmbeddedStore,
    EmbeddedStoreConfig, MetricsStore, QuestionLimits, RedQuery, ServiceCatalog, SpanWriter,
    StoreError, TraceReader, TraceSearch,
};

use crate::files::orders;
use crate::fixture::{Log, NOW, Request, span, trace_id};
use crate::harness::{query, small_config};

/// A clock that stands; while its gate is shut, whoever asks how late it is waits.
#[derive(Debug, Default)]
struct Gate {
    is_shut: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn set(&self, is_shut: bool) {
        *self.is_shut.lock().unwrap() = is_shut;
        self.opened.notify_all();
    }
}

impl Clock for Gate {
    fn now(&self) -> UnixNanos {
        NOW
    }

    fn monotonic(&self) -> Duration {
        let mut is_shut = self.is_shut.lock().unwrap();
        while *is_shut {
            is_shut = self.opened.wait(is_shut).unwrap();
        }
        Duration::ZERO
    }
}

/// Opens the gate also when a test fails: the runtime waits for its blocking threads.
struct Opened(Arc<Gate>);

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

async fn filled(
    limits: QuestionLimits,
) -> (Arc<EmbeddedStore>, Arc<Gate>, Opened, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    let config =
        EmbeddedStoreConfig { searches: limits, reads: limits, ..small_config(directory.path()) };
    let store = EmbeddedStore::open(config, gate.clone()).unwrap();
    let mut log = Log::new();
    store.write(&[log.append(&orders(0, 90))]).await.unwrap();
    SpanWriter::flush(&*store, NOW, true).await.unwrap();
    (store, Arc::clone(&gate), Opened(gate), directory)
}

async fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.expect(what);
}

type Question = fn(Arc<EmbeddedStore>) -> BoxFuture<'static, Result<(), StoreError>>;

const SEARCH: Question =
    |store| Box::pin(async move { store.search(&query(Filter::All)).await.map(drop) });
const SERVICES: Question = |store| {
    Box::pin(async move { store.services(&TenantId::default(), TimeRange::ALL).await.map(drop) })
};
const OPERATIONS: Question = |store| {
    Box::pin(async move {
        store.operations(&TenantId::default(), "shop", TimeRange::ALL).await.map(drop)
    })
};
const READ: Question = |store| {
    Box::pin(async move { store.read_trace(&TenantId::default(), trace_id(1)).await.map(drop) })
};

/// Kinds of questions, and which others share their places.
fn kinds(store: &EmbeddedStore) -> [(Question, trace_store::QuestionMetrics); 4] {
    let metrics = store.metrics();
    [
        (SEARCH, metrics.searches.clone()),
        (SERVICES, metrics.searches.clone()),
        (OPERATIONS, metrics.searches.clone()),
        (READ, metrics.reads.clone()),
    ]
}

#[tokio::test]
async fn questions_beyond_the_places_wait_and_beyond_the_queue_are_refused() {
    let limits = QuestionLimits { at_work_max: 2, waiting_max: 3 };
    let (store, gate, _opened, _directory) = filled(limits).await;
    for (kind, (question, metrics)) in kinds(&store).into_iter().enumerate() {
        gate.set(true);
        let mut asked: Vec<_> = (0..5).map(|_| question(Arc::clone(&store))).collect();
        for asked in &mut asked {
            assert!(poll_immediate(asked).await.is_none(), "{kind}");
        }
        wait_until("two at work", || metrics.at_work.get() == 2).await;
        assert_eq!(metrics.waiting.get(), 3, "{kind}");
        let refused = question(Arc::clone(&store)).await.unwrap_err();
        assert!(matches!(refused, StoreError::Busy) && refused.is_retryable(), "{kind}");
        let before = metrics.refused.get();
        assert!(before > 0);
        // Who gives up in the queue makes room for another.
        drop(asked.pop());
        asked.push(question(Arc::clone(&store)));
        assert!(poll_immediate(asked.last_mut().unwrap()).await.is_none(), "{kind}");
        assert_eq!((metrics.waiting.get(), metrics.refused.get()), (3, before), "{kind}");
        gate.set(false);
        for asked in asked {
            asked.await.unwrap();
        }
        wait_until("all done", || metrics.at_work.get() == 0).await;
        assert_eq!(metrics.waiting.get(), 0);
    }
}

#[tokio::test]
async fn a_full_house_of_searches_keeps_neither_reads_nor_the_writer_waiting() {
    let limits = QuestionLimits { at_work_max: 1, waiting_max: 0 };
    let (store, gate, _opened, _directory) = filled(limits).await;
    let mut log = Log::new();
    log.next = 500;
    gate.set(true);
    let mut search = SEARCH(Arc::clone(&store));
    assert!(poll_immediate(&mut search).await.is_none());
    wait_until("at work", || store.metrics().searches.at_work.get() == 1).await;
    let mut read = READ(Arc::clone(&store));
    assert!(poll_immediate(&mut read).await.is_none());
    wait_until("a read at work", || store.metrics().reads.at_work.get() == 1).await;
    assert!(matches!(SEARCH(Arc::clone(&store)).await, Err(StoreError::Busy)));
    gate.set(false);
    store.write(&[log.append(&orders(500, 10))]).await.unwrap();
    gate.set(true);
    SpanWriter::flush(&*store, NOW, true).await.unwrap();
    gate.set(false);
    search.await.unwrap();
    read.await.unwrap();
}

#[tokio::test]
async fn a_question_whose_caller_is_gone_looks_at_nothing_and_frees_its_place() {
    let limits = QuestionLimits { at_work_max: 1, waiting_max: 0 };
    let (store, gate, _opened, _directory) = filled(limits).await;
    let opened = || store.metrics().searched_blocks.get();
    for (question, metrics) in kinds(&store) {
        let (abandoned, before) = (metrics.abandoned.get(), opened());
        gate.set(true);
        let mut asked = question(Arc::clone(&store));
        assert!(poll_immediate(&mut asked).await.is_none());
        wait_until("at work", || metrics.at_work.get() == 1).await;
        drop(asked);
        // The place is the work's: it is not free while the work still runs.
        assert!(matches!(question(Arc::clone(&store)).await, Err(StoreError::Busy)));
        assert_eq!(metrics.abandoned.get(), abandoned + 1);
        gate.set(false);
        wait_until("the work is over", || metrics.at_work.get() == 0).await;
        assert_eq!(opened(), before);
        question(Arc::clone(&store)).await.unwrap();
        assert_eq!(metrics.abandoned.get(), abandoned + 1);
    }
    assert!(opened() > 0);
}

type MetricsQuestion = fn(EmbeddedMetricsStore) -> BoxFuture<'static, Result<(), StoreError>>;

const RED: MetricsQuestion = |store| {
    Box::pin(async move {
        let (tenant, range) = (TenantId::default(), TimeRange::ALL);
        let query = RedQuery { tenant, service: None, by_operation: false, range };
        store.red(&query).await.map(drop)
    })
};
const EDGES: MetricsQuestion = |store| {
    Box::pin(async move { store.edges(&TenantId::default(), TimeRange::ALL).await.map(drop) })
};
const EDGE_TRACES: MetricsQuestion = |store| {
    Box::pin(async move {
        let query = EdgeTraceQuery {
            tenant: TenantId::default(),
            caller: "web".into(),
            callee: "cart".into(),
            only_errors: false,
            range: TimeRange::ALL,
            limit: 5,
        };
        store.edge_traces(&query).await.map(drop)
    })
};

#[tokio::test]
async fn questions_for_rates_and_edges_are_bounded_and_abandoned_alike() {
    let directory = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    let _opened = Opened(Arc::clone(&gate));
    let config = EmbeddedMetricsConfig {
        questions: QuestionLimits { at_work_max: 1, waiting_max: 1 },
        ..EmbeddedMetricsConfig::new(directory.path().to_owned())
    };
    let store = EmbeddedMetricsStore::open(config, gate.clone()).unwrap();
    for question in [RED, EDGES, EDGE_TRACES] {
        gate.set(true);
        let (mut first, mut second) = (question(store.clone()), question(store.clone()));
        assert!(poll_immediate(&mut first).await.is_none());
        assert!(poll_immediate(&mut second).await.is_none());
        assert!(matches!(question(store.clone()).await, Err(StoreError::Busy)));
        // The place of what is at work is not free before its work is over, that in the queue is.
        drop(first);
        assert!(matches!(question(store.clone()).await, Err(StoreError::Busy)));
        drop(second);
        let mut third = question(store.clone());
        assert!(poll_immediate(&mut third).await.is_none());
        gate.set(false);
        third.await.unwrap();
    }
}

/// Traces of two spans each, the second of each third trace so much later.
fn spread(first: u64, count: u64, late_nanos: u64) -> Request {
    let spans: Vec<_> = (first..first + count)
        .flat_map(|trace| {
            [0, 1].map(|id| {
                let mut span = span(trace, id, "step");
                let late = if id == 1 && trace % 3 == 0 { late_nanos } else { 0 };
                span.start_time_unix_nano += trace * 1_000_000_000 + late;
                span.end_time_unix_nano = span.start_time_unix_nano + 5;
                span
            })
        })
        .collect();
    Request::of("shop", &spans)
}

/// Pages to the end; gives the blocks opened for each, and those for all in one.
async fn page_costs(late_nanos: u64) -> (Vec<u64>, u64) {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(service_kit::ManualClock::at(NOW));
    let store = EmbeddedStore::open(small_config(directory.path()), clock).unwrap();
    let mut log = Log::new();
    for first in (0..2_000).step_by(50) {
        store.write(&[log.append(&spread(first, 50, late_nanos))]).await.unwrap();
    }
    let whole = SearchQuery { limit: 5_000, ..query(Filter::All) };
    let whole = store.search(&whole).await.unwrap();
    assert_eq!(whole.matches.len(), 2_000);
    let mut pages = Vec::new();
    let mut costs = Vec::new();
    let mut search = SearchQuery { limit: 40, ..query(Filter::All) };
    loop {
        let page = store.search(&search).await.unwrap();
        let Some(last) = page.matches.last() else { break };
        search.before = Some((last.newest_match, last.trace_id));
        costs.push(page.stats.blocks_opened);
        pages.extend(page.matches);
    }
    let keys = |matches: &[trace_model::TraceMatch]| {
        matches.iter().map(trace_model::TraceMatch::order_key).collect::<Vec<_>>()
    };
    assert_eq!(keys(&pages), keys(&whole.matches));
    (costs, whole.stats.blocks_opened)
}

#[tokio::test]
async fn a_late_page_costs_what_lies_behind_its_cursor_and_not_the_pages_before_it() {
    let (costs, all) = page_costs(10_000_000_000).await;
    assert!(costs.iter().all(|cost| *cost * 5 < all), "{costs:?} of {all}");
}

#[tokio::test]
async fn a_page_among_traces_that_come_back_for_hours_costs_no_multiple_of_everything() {
    let (costs, all) = page_costs(3_600_000_000_000).await;
    assert!(costs.iter().all(|cost| *cost < all + all / 2), "{costs:?} of {all}");
}
