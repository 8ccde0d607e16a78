//! Spans, search, catalogue and erasure over a map.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use proto::LoggedBatch;
use trace_model::query::SearchStats;
use trace_model::time::place;
use trace_model::{
    Coverage, LogPosition, Region, SearchQuery, Span, SpanKind, StoredSpan, TenantId, TimeRange,
    TraceId, TraceMatch, TraceSpans, UnixNanos,
};

use crate::port::{
    Eraser, ErasureReceipt, NAMES_MAX, NameList, NamesFound, Operation, SearchAnswer,
    SearchIndexer, ServiceCatalog, SpanWriter, StoreError, StoreFigures, TraceRead, TraceReader,
    TraceSearch,
};

/// Width of the catalogue's buckets: 10 minutes.
const BUCKET_NANOS: u64 = 600 * 1_000_000_000;

/// Everything in one map. What is written is at once "durable", as far as memory can be.
#[derive(Debug)]
pub struct MemoryStore {
    state: Mutex<State>,
    names_max: usize,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self { state: Mutex::default(), names_max: NAMES_MAX }
    }
}

#[derive(Debug, Default)]
struct State {
    traces: BTreeMap<(TenantId, TraceId), TraceSpans>,
    covered: Coverage,
    erased: BTreeSet<(TenantId, TraceId)>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with so many names in a list at most.
    #[must_use]
    pub fn with_names_max(self, names_max: usize) -> Self {
        Self { names_max, ..self }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes in what the cover does not reach, and moves it.
    fn write(&mut self, logged: &LoggedBatch) {
        self.put(logged, |covered, position| covered.covers(logged.incarnation, position));
        self.covered.extend_in(logged.incarnation, logged.range.partition, logged.range.next);
    }

    fn put(&mut self, logged: &LoggedBatch, is_known: impl Fn(&Coverage, LogPosition) -> bool) {
        let batch = &logged.batch;
        let tenant = &batch.source().tenant;
        let envelope = Arc::new(batch.envelope());
        for (slice, offset) in batch.traces().iter().zip(logged.range.first..) {
            let position = LogPosition { partition: logged.range.partition, offset };
            let key = (tenant.clone(), slice.trace_id);
            let is_known = is_known(&self.covered, position);
            if slice.is_erased() || is_known || self.erased.contains(&key) {
                continue;
            }
            let trace = self.traces.entry(key);
            let trace = trace.or_insert_with(|| TraceSpans::new(slice.trace_id));
            for span in batch.spans_of(slice) {
                if let Some(stored) = batch.stored_span(span, &envelope) {
                    trace.insert(stored);
                }
            }
        }
    }

    /// Calls for each readable span of the tenant.
    fn visit(&self, tenant: &TenantId, mut see: impl FnMut(TraceId, &Span, &StoredSpan)) -> u64 {
        let mut seen = 0;
        for ((of, trace_id), spans) in &self.traces {
            for stored in spans.iter().filter(|_| of == tenant) {
                seen += 1;
                let (read, _) = proto::decode::read_spans([stored]);
                for (span, _) in read {
                    see(*trace_id, &span, stored);
                }
            }
        }
        seen
    }
}

fn placed(span: &Span, stored: &StoredSpan) -> UnixNanos {
    place(span.start, span.end, stored.envelope.receive_time).time
}

#[async_trait]
impl SpanWriter for MemoryStore {
    async fn write(&self, batches: &[LoggedBatch]) -> Result<(), StoreError> {
        let mut state = self.state();
        batches.iter().for_each(|batch| state.write(batch));
        Ok(())
    }

    async fn write_again(&self, batch: &LoggedBatch) -> Result<(), StoreError> {
        self.state().put(batch, |_, _| false);
        Ok(())
    }

    async fn flush(&self, _now: UnixNanos, _force: bool) -> Result<(), StoreError> {
        Ok(())
    }

    fn durable(&self) -> Coverage {
        self.state().covered.clone()
    }
}

#[async_trait]
impl SearchIndexer for MemoryStore {
    async fn index(&self, _batches: &[LoggedBatch]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn index_again(&self, _batch: &LoggedBatch) -> Result<(), StoreError> {
        Ok(())
    }

    async fn flush(&self, _now: UnixNanos, _force: bool) -> Result<(), StoreError> {
        Ok(())
    }

    fn indexed(&self) -> Coverage {
        self.state().covered.clone()
    }
}

#[async_trait]
impl TraceReader for MemoryStore {
    async fn read_trace(
        &self,
        tenant: &TenantId,
        trace_id: TraceId,
    ) -> Result<TraceRead, StoreError> {
        let state = self.state();
        let spans = state.traces.get(&(tenant.clone(), trace_id));
        let spans = spans.map(|spans| spans.iter().cloned().collect()).unwrap_or_default();
        let covered = state.covered.clone();
        Ok(TraceRead { spans, covered, is_damaged: false, is_away: false, expired_until: None })
    }

    fn figures(&self) -> StoreFigures {
        let state = self.state();
        let spans = || state.traces.values().flat_map(TraceSpans::iter);
        StoreFigures {
            spans: spans().count() as u64,
            bytes: spans().map(|stored| stored.span.len() as u64).sum(),
            segments: 0,
        }
    }
}

#[async_trait]
impl TraceSearch for MemoryStore {
    async fn search(&self, query: &SearchQuery) -> Result<SearchAnswer, StoreError> {
        query.filter.check_size().map_err(|error| StoreError::Unsupported(error.to_string()))?;
        let state = self.state();
        let mut found: BTreeMap<TraceId, TraceMatch> = BTreeMap::new();
        let spans_scanned = state.visit(&query.tenant, |trace_id, span, stored| {
            let placed = placed(span, stored);
            if query.range.contains(placed) && query.filter.matches(span) {
                let region = stored.envelope.region.clone();
                let one = match_of(trace_id, placed, &span.resource.service, region);
                found.entry(trace_id).and_modify(|known| known.join(one.clone())).or_insert(one);
            }
        });
        let mut matches: Vec<TraceMatch> = found.into_values().collect();
        matches.sort_by_key(TraceMatch::order_key);
        if let Some((time, trace_id)) = query.before {
            let cursor = (std::cmp::Reverse(time), trace_id);
            matches.retain(|found| found.order_key() > cursor);
        }
        matches.truncate(query.limit);
        let stats = SearchStats { spans_scanned, ..SearchStats::default() };
        let covered = state.covered.clone();
        let (is_damaged, is_away) = (false, false);
        Ok(SearchAnswer { matches, stats, covered, is_damaged, is_away, expired_until: None })
    }
}

fn match_of(
    trace_id: TraceId,
    newest_match: UnixNanos,
    service: &Arc<str>,
    region: Region,
) -> TraceMatch {
    TraceMatch {
        trace_id,
        newest_match,
        matched_spans: 1,
        services: BTreeSet::from([Arc::clone(service)]),
        regions: BTreeSet::from([region]),
    }
}

/// Whether the 10 minutes in which the time lies touch the range.
fn shares_bucket(range: TimeRange, placed: UnixNanos) -> bool {
    let first = placed.0 - placed.0 % BUCKET_NANOS;
    range.overlaps(UnixNanos(first), UnixNanos(first).plus(BUCKET_NANOS - 1))
}

#[async_trait]
impl ServiceCatalog for MemoryStore {
    async fn services(
        &self,
        tenant: &TenantId,
        range: TimeRange,
    ) -> Result<NameList<Arc<str>>, StoreError> {
        let mut found = NamesFound::new(self.names_max);
        self.state().visit(tenant, |_, span, stored| {
            if shares_bucket(range, placed(span, stored)) {
                found.insert(Arc::clone(&span.resource.service));
            }
        });
        Ok(found.into_list())
    }

    async fn operations(
        &self,
        tenant: &TenantId,
        service: &str,
        range: TimeRange,
    ) -> Result<NameList<Operation>, StoreError> {
        let mut found = NamesFound::new(self.names_max);
        self.state().visit(tenant, |_, span, stored| {
            if *span.resource.service == *service && shares_bucket(range, placed(span, stored)) {
                let kind = SpanKind::from_number(span.kind as i32);
                found.insert(Operation { name: span.name.as_str().into(), kind });
            }
        });
        Ok(found.into_list())
    }

    async fn listed(&self) -> Result<Coverage, StoreError> {
        Ok(self.state().covered.clone())
    }
}

#[async_trait]
impl Eraser for MemoryStore {
    async fn erase(
        &self,
        tenant: &TenantId,
        trace_id: TraceId,
    ) -> Result<ErasureReceipt, StoreError> {
        let mut state = self.state();
        let key = (tenant.clone(), trace_id);
        let removed = state.traces.remove(&key);
        state.erased.insert(key);
        let spans = removed.map_or(0, |spans| spans.len() as u64);
        Ok(ErasureReceipt { files: 0, spans })
    }
}
