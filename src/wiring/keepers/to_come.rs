//! Stores that were away when their cell started: the cell takes spans and answers what it can, and each
//! of its consumer groups begins when its store is there.
//!
//! **Never** answer for a store that is not there: every question and every write fails as it does where
//! a store goes away later, retryably, and says what is waited for.
#![cfg_attr(
    not(all(feature = "clickhouse", feature = "elasticsearch")),
    expect(dead_code, reason = "a build without these engines waits for none")
)]

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use proto::LoggedBatch;
use service_kit::{BackOff, Readiness};
use span_log::SpanLog;
use trace_model::{Coverage, SearchQuery, TenantId, TimeRange, UnixNanos};
use trace_store::{
    EdgeKey, EdgePlace, EdgeRow, EdgeTraceQuery, EdgeTraces, MetricsDelta, MetricsStore, NameList,
    Operation, Page, RedKey, RedQuery, RedRow, SearchAnswer, SearchIndexer, ServiceCatalog,
    SpanWriter, StoreError, TraceSearch,
};

use super::Searching;
use crate::wiring::opening::{Refusal, WAIT_MAX, WAIT_MIN};

/// What opens a store that is away, once the log is open.
pub(in crate::wiring) struct Awaiting(
    Box<dyn FnOnce(Arc<dyn SpanLog>) -> BoxFuture<'static, ()> + Send>,
);

impl fmt::Debug for Awaiting {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Awaiting")
    }
}

impl Awaiting {
    pub(super) fn new<F>(open: impl FnOnce(Arc<dyn SpanLog>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self(Box::new(move |log| Box::pin(open(log))))
    }

    /// Waits for the store, and opens it.
    pub(in crate::wiring) fn with(self, log: Arc<dyn SpanLog>) -> BoxFuture<'static, ()> {
        (self.0)(log)
    }
}

/// The counts, and raw spans beside them.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    pub(super) metrics: Arc<dyn MetricsStore>,
    /// How far the log is counted and its spans are kept.
    pub(super) covered: Coverage,
    pub(super) spans: Option<Arc<dyn SpanWriter>>,
}

/// A store that is there, or comes later.
pub(super) struct ToCome<T> {
    what: &'static str,
    store: OnceLock<T>,
    /// Why it is not there.
    reason: Mutex<String>,
}

impl<T> fmt::Debug for ToCome<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ToCome").field("what", &self.what).finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> ToCome<T> {
    /// A store that is away, which the report of the process says until it is there.
    pub(super) fn away(what: &'static str, reason: String, readiness: &Readiness) -> Arc<Self> {
        tracing::warn!(
            store = what,
            error = reason,
            "the cell starts without a store and waits for it"
        );
        let to_come = Arc::new(Self { what, store: OnceLock::new(), reason: Mutex::new(reason) });
        let asked = Arc::clone(&to_come);
        readiness.warn(what, move || asked.waits());
        to_come
    }

    /// What is waited for and why; `None` once it is there.
    fn waits(&self) -> Option<String> {
        let reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        self.store.get().is_none().then(|| format!("waits for {}: {reason}", self.what))
    }

    fn here(&self) -> Result<&T, StoreError> {
        self.store.get().ok_or_else(|| {
            let waits = self.waits().unwrap_or_default();
            StoreError::Unavailable(format!("it was away when this process started; {waits}"))
        })
    }

    /// Tries to open it until it is there. What a person must mend makes the process not ready: it is to
    /// be started again then.
    pub(super) async fn come(
        &self,
        readiness: &Readiness,
        mut open: impl FnMut() -> BoxFuture<'static, Result<T, Refusal>>,
    ) {
        let mut back_off = BackOff::new(WAIT_MIN, WAIT_MAX, u64::from(std::process::id()));
        loop {
            match open().await {
                Ok(opened) => {
                    if self.store.set(opened).is_err() {
                        tracing::error!(
                            store = self.what,
                            "a store was opened twice; the first one stays"
                        );
                    }
                    tracing::info!(store = self.what, "a store that was away is there");
                    return;
                }
                Err(Refusal::Away(error)) => self.note(format!("{error:#}")),
                Err(Refusal::Final(error)) => {
                    let words = format!("{error:#}; mend it and start this process again");
                    tracing::error!(store = self.what, error = words, "a store cannot be opened");
                    readiness.check(self.what).fail(&words);
                    return self.note(words);
                }
            }
            tokio::time::sleep(back_off.next_wait()).await;
        }
    }

    fn note(&self, reason: String) {
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }
}

/// A log hears of its end from others within a second or so; counts may have come to it before.
const END_WITHIN: Duration = Duration::from_secs(10);

/// Refuses counts of a log that this one is not: it was opened without knowing of them. Another process
/// may have counted what this one has not heard of yet, so that the end is waited for.
pub(super) async fn agree(counted: &Coverage, log: &dyn SpanLog) -> Result<(), Refusal> {
    let identity = log.identity();
    if counted.incarnation > identity.incarnation {
        return Err(unfit("they are of a newer span log"));
    }
    for partition in 0..identity.partitions {
        let next = counted.next_in(identity.incarnation, partition);
        if next > 0 {
            let last = next.saturating_sub(1);
            let end = log.wait_beyond(partition, last, END_WITHIN).await;
            let end = end.map_err(|error| Refusal::Away(error.into()))?;
            if end.next < next {
                return Err(unfit(&format!("they reach beyond the end of partition {partition}")));
            }
        }
    }
    Ok(())
}

fn unfit(why: &str) -> Refusal {
    Refusal::Final(anyhow::anyhow!(
        "the counts do not fit the span log, which was opened without them: {why}"
    ))
}

#[async_trait]
impl MetricsStore for ToCome<Counts> {
    async fn apply(&self, delta: MetricsDelta) -> Result<(), StoreError> {
        self.here()?.metrics.apply(delta).await
    }

    async fn checkpoint(&self) -> Result<(Coverage, Vec<u8>), StoreError> {
        self.here()?.metrics.checkpoint().await
    }

    async fn covered(&self) -> Result<Coverage, StoreError> {
        self.here()?.metrics.covered().await
    }

    async fn red(&self, query: &RedQuery) -> Result<Vec<(RedKey, RedRow)>, StoreError> {
        self.here()?.metrics.red(query).await
    }

    async fn edges(
        &self,
        tenant: &TenantId,
        range: TimeRange,
    ) -> Result<Vec<(EdgeKey, EdgeRow)>, StoreError> {
        self.here()?.metrics.edges(tenant, range).await
    }

    async fn red_page(
        &self,
        query: &RedQuery,
        after: Option<&RedKey>,
        rows_max: usize,
    ) -> Result<Page<(RedKey, RedRow)>, StoreError> {
        self.here()?.metrics.red_page(query, after, rows_max).await
    }

    async fn edges_page(
        &self,
        tenant: &TenantId,
        range: TimeRange,
        after: Option<&EdgePlace>,
        edges_max: usize,
    ) -> Result<Page<(EdgeKey, EdgeRow)>, StoreError> {
        self.here()?.metrics.edges_page(tenant, range, after, edges_max).await
    }

    async fn edge_traces(&self, query: &EdgeTraceQuery) -> Result<EdgeTraces, StoreError> {
        self.here()?.metrics.edge_traces(query).await
    }
}

impl ToCome<Counts> {
    fn spans(&self) -> Result<&Arc<dyn SpanWriter>, StoreError> {
        let none = || StoreError::Unsupported("raw spans".to_owned());
        self.here()?.spans.as_ref().ok_or_else(none)
    }
}

#[async_trait]
impl SpanWriter for ToCome<Counts> {
    async fn write(&self, batches: &[LoggedBatch]) -> Result<(), StoreError> {
        self.spans()?.write(batches).await
    }

    async fn write_again(&self, batch: &LoggedBatch) -> Result<(), StoreError> {
        self.spans()?.write_again(batch).await
    }

    async fn write_all_again(&self, batches: &[LoggedBatch]) -> Result<(), StoreError> {
        self.spans()?.write_all_again(batches).await
    }

    async fn flush(&self, now: UnixNanos, force: bool) -> Result<(), StoreError> {
        self.spans()?.flush(now, force).await
    }

    fn durable(&self) -> Coverage {
        self.spans().map_or_else(|_| Coverage::none(0), |spans| spans.durable())
    }

    async fn begin_turn(&self) -> Result<(), StoreError> {
        self.spans()?.begin_turn().await
    }
}

#[async_trait]
impl SearchIndexer for ToCome<Searching> {
    async fn index(&self, batches: &[LoggedBatch]) -> Result<(), StoreError> {
        self.here()?.indexer.index(batches).await
    }

    async fn index_again(&self, batch: &LoggedBatch) -> Result<(), StoreError> {
        self.here()?.indexer.index_again(batch).await
    }

    async fn index_all_again(&self, batches: &[LoggedBatch]) -> Result<(), StoreError> {
        self.here()?.indexer.index_all_again(batches).await
    }

    async fn flush(&self, now: UnixNanos, force: bool) -> Result<(), StoreError> {
        self.here()?.indexer.flush(now, force).await
    }

    fn indexed(&self) -> Coverage {
        self.here().map_or_else(|_| Coverage::none(0), |store| store.indexer.indexed())
    }
}

#[async_trait]
impl TraceSearch for ToCome<Searching> {
    async fn search(&self, query: &SearchQuery) -> Result<SearchAnswer, StoreError> {
        self.here()?.search.search(query).await
    }
}

#[async_trait]
impl ServiceCatalog for ToCome<Searching> {
    async fn services(
        &self,
        tenant: &TenantId,
        range: TimeRange,
    ) -> Result<NameList<Arc<str>>, StoreError> {
        self.here()?.catalog.services(tenant, range).await
    }

    async fn operations(
        &self,
        tenant: &TenantId,
        service: &str,
        range: TimeRange,
    ) -> Result<NameList<Operation>, StoreError> {
        self.here()?.catalog.operations(tenant, service, range).await
    }

    async fn listed(&self) -> Result<Coverage, StoreError> {
        self.here()?.catalog.listed().await
    }
}

#[cfg(test)]
mod tests {
    use proto::{BatchSource, SpanBatchBuilder};
    use service_kit::ManualClock;
    use span_log::memory::{MemoryConfig, MemoryLog};
    use trace_model::sampling_threshold::Threshold;
    use trace_model::{Region, TraceId};
    use trace_store::memory_metrics::MemoryMetricsStore;

    use super::*;

    fn counts() -> Counts {
        let metrics = Arc::new(MemoryMetricsStore::default());
        Counts { metrics, covered: Coverage::none(0), spans: None }
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_away_fails_retryably_and_is_named_until_it_is_there() {
        let readiness = Readiness::default();
        let store = ToCome::<Counts>::away("ClickHouse", "no answer".to_owned(), &readiness);
        assert!(readiness.is_ready(), "a cell without counts takes spans");
        assert_eq!(readiness.report(), "warning: waits for ClickHouse: no answer\n");
        let refused = store.checkpoint().await.unwrap_err();
        assert!(refused.is_retryable() && refused.to_string().contains("no answer"), "{refused}");
        let mut tries = 0;
        store
            .come(&readiness, || {
                tries += 1;
                let away = Refusal::Away(anyhow::anyhow!("still none"));
                Box::pin(std::future::ready(if tries < 9 { Err(away) } else { Ok(counts()) }))
            })
            .await;
        assert_eq!((tries, readiness.report()), (9, String::new()));
        store.checkpoint().await.unwrap();
        assert!(!store.flush(UnixNanos(1), true).await.unwrap_err().is_retryable());
    }

    #[tokio::test]
    async fn what_a_person_must_mend_makes_the_process_not_ready() {
        let readiness = Readiness::default();
        let store = ToCome::<Counts>::away("ClickHouse", "no answer".to_owned(), &readiness);
        let refused = || -> BoxFuture<'static, _> {
            let wrong = anyhow::anyhow!("the password is wrong");
            Box::pin(std::future::ready(Err(Refusal::Final(wrong))))
        };
        store.come(&readiness, refused).await;
        assert!(!readiness.is_ready());
        let report = readiness.report();
        assert!(report.contains("ClickHouse: the password is wrong; mend it"), "{report}");
        assert!(store.covered().await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn counts_of_another_log_are_refused_and_the_end_of_this_one_is_waited_for() {
        let clock = Arc::new(ManualClock::at(UnixNanos(9_000_000_000)));
        let log = MemoryLog::new(MemoryConfig::default(), clock);
        let append = || async {
            let source = BatchSource {
                tenant: TenantId::default(),
                region: Region::new("eu-west-1").unwrap(),
                collector: "c".into(),
                receive_time: UnixNanos(1),
                digest: 1,
            };
            let mut bytes = Vec::new();
            proto::wire::put_bytes_field(&mut bytes, 1, &[1; 16]);
            proto::wire::put_bytes_field(&mut bytes, 2, &[1; 8]);
            let mut builder = SpanBatchBuilder::new();
            let resource = builder.add_resource(Vec::new());
            let scope = builder.add_scope(resource, Vec::new());
            let trace_id = TraceId::from_bytes([1; 16]).unwrap();
            builder.add_span(trace_id, Threshold::KEEP_ALL, scope, &bytes);
            log.append(Arc::new(builder.finish(source).unwrap())).await.unwrap();
        };
        append().await;
        let (incarnation, end) = (log.identity().incarnation, log.end(0).unwrap().next);
        let agrees = async |incarnation, next| {
            let mut counted = Coverage::none(incarnation);
            counted.extend(0, next);
            agree(&counted, &*log).await.is_ok()
        };
        assert!(agrees(incarnation, end).await && agrees(incarnation - 1, 1 << 40).await);
        assert!(!agrees(incarnation + 1, 0).await);
        assert!(!agrees(incarnation, end + 1).await);
        // Another process has counted what this one hears of a moment later.
        let (agreed, ()) = tokio::join!(agrees(incarnation, end + 1), async {
            tokio::task::yield_now().await;
            append().await;
        });
        assert!(agreed && log.end(0).unwrap().next > end);
    }
}
