//! The metrics store in memory: the oracle that the conformance suite trusts, and the store of
//! tests. Nothing survives the process.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use trace_model::{Coverage, TenantId, TimeRange, TraceId, UnixNanos};

use crate::port::{
    EdgeKey, EdgeRow, EdgeTraceQuery, EdgeTraces, Eraser, ErasureReceipt, MetricsDelta,
    MetricsStore, RedKey, RedQuery, RedRow, StoreError,
};

/// Newest traces kept of an edge and bucket.
pub const TRACES_PER_EDGE_MAX: usize = 128;

/// Counts in memory.
#[derive(Debug, Default)]
pub struct MemoryMetricsStore {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    red: BTreeMap<RedKey, RedRow>,
    edges: BTreeMap<EdgeKey, EdgeRow>,
    covered: Coverage,
    checkpoint: Vec<u8>,
    erased: Vec<(TenantId, TraceId)>,
}

impl MemoryMetricsStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget(&mut self, tenant: &TenantId, trace_id: TraceId) {
        for (_, row) in self.red.iter_mut().filter(|(key, _)| key.tenant == *tenant) {
            row.forget(trace_id);
        }
        for (_, row) in self.edges.iter_mut().filter(|(key, _)| key.tenant == *tenant) {
            row.forget(trace_id);
        }
    }
}

/// Whether a delta that covers `new` says something about the log that `held` does not. Nothing is
/// new of an older incarnation.
pub(crate) fn covers_more(held: &Coverage, new: &Coverage) -> bool {
    let mut joined = held.clone();
    joined.join(new);
    new.incarnation >= held.incarnation && joined != *held
}

/// Width of a series' minute, in nanoseconds.
pub(crate) const MINUTE_NANOS: u64 = 60 * 1_000_000_000;
/// Width of an edge's bucket, in nanoseconds.
pub const BUCKET_NANOS: u64 = 600 * 1_000_000_000;

/// The range of the starts of all steps that touch a range: a question about half a minute is
/// answered with the whole one, not with nothing.
pub(crate) fn touching(range: TimeRange, step_nanos: u64) -> TimeRange {
    let start = range.start.0.checked_div(step_nanos).unwrap_or(0).saturating_mul(step_nanos);
    TimeRange { start: UnixNanos(start), end: range.end }
}

/// Whether the query asks for the series.
pub(crate) fn asks_for(query: &RedQuery, key: &RedKey) -> bool {
    key.tenant == query.tenant
        && key.operation.is_some() == query.by_operation
        && touching(query.range, MINUTE_NANOS).contains(key.minute)
        && query.service.as_ref().is_none_or(|service| *service == key.service)
}

/// Sums edges over their buckets. They come in ascending order of buckets.
#[derive(Debug)]
pub(crate) struct EdgeSum {
    range: TimeRange,
    sums: BTreeMap<EdgeKey, EdgeRow>,
}

impl EdgeSum {
    pub(crate) const fn over(range: TimeRange) -> Self {
        Self { range, sums: BTreeMap::new() }
    }

    pub(crate) fn add(&mut self, key: &EdgeKey, row: &EdgeRow) {
        let key = EdgeKey { bucket: self.range.start, ..key.clone() };
        self.sums.entry(key).or_default().merge(row, TRACES_PER_EDGE_MAX);
    }

    pub(crate) fn finish(self) -> Vec<(EdgeKey, EdgeRow)> {
        self.sums.into_iter().collect()
    }
}

/// Collects the traces of edges. They come in descending order of buckets.
#[derive(Debug)]
pub(crate) struct TraceList {
    limit: usize,
    found: EdgeTraces,
}

impl TraceList {
    pub(crate) const fn of(query: &EdgeTraceQuery) -> Self {
        let found = EdgeTraces { trace_ids: Vec::new(), is_cut: false };
        Self { limit: query.limit, found }
    }

    pub(crate) fn add(&mut self, row: &EdgeRow) {
        self.found.is_cut |= row.traces.len() >= TRACES_PER_EDGE_MAX;
        for trace_id in &row.traces {
            if self.found.trace_ids.len() >= self.limit {
                return;
            }
            if !self.found.trace_ids.contains(trace_id) {
                self.found.trace_ids.push(*trace_id);
            }
        }
    }

    pub(crate) fn finish(self) -> EdgeTraces {
        let is_short = self.found.trace_ids.len() < self.limit;
        EdgeTraces { is_cut: self.found.is_cut && is_short, ..self.found }
    }
}

/// Whether the query asks for the edge's traces.
pub(crate) fn asks_for_edge(query: &EdgeTraceQuery, key: &EdgeKey) -> bool {
    key.tenant == query.tenant
        && key.caller == query.caller
        && key.callee == query.callee
        && (key.is_error || !query.only_errors)
        && touching(query.range, BUCKET_NANOS).contains(key.bucket)
}

#[async_trait]
impl MetricsStore for MemoryMetricsStore {
    async fn apply(&self, delta: MetricsDelta) -> Result<(), StoreError> {
        let mut state = self.lock();
        if !covers_more(&state.covered, &delta.covered) {
            return Ok(());
        }
        for (key, row) in delta.red {
            state.red.entry(key).or_default().merge(&row);
        }
        for (key, row) in delta.edges {
            state.edges.entry(key).or_default().merge(&row, TRACES_PER_EDGE_MAX);
        }
        for (tenant, trace_id) in state.erased.clone() {
            state.forget(&tenant, trace_id);
        }
        state.covered.join(&delta.covered);
        if !delta.extends_checkpoint {
            state.checkpoint.clear();
        }
        state.checkpoint.extend_from_slice(&delta.checkpoint);
        Ok(())
    }

    async fn checkpoint(&self) -> Result<(Coverage, Vec<u8>), StoreError> {
        let state = self.lock();
        Ok((state.covered.clone(), state.checkpoint.clone()))
    }

    async fn covered(&self) -> Result<Coverage, StoreError> {
        Ok(self.lock().covered.clone())
    }

    async fn red(&self, query: &RedQuery) -> Result<Vec<(RedKey, RedRow)>, StoreError> {
        let state = self.lock();
        let rows = state.red.iter().filter(|(key, _)| asks_for(query, key));
        Ok(rows.map(|(key, row)| (key.clone(), row.clone())).collect())
    }

    async fn edges(
        &self,
        tenant: &TenantId,
        range: TimeRange,
    ) -> Result<Vec<(EdgeKey, EdgeRow)>, StoreError> {
        let state = self.lock();
        let range = touching(range, BUCKET_NANOS);
        let mut sum = EdgeSum::over(range);
        for (key, row) in &state.edges {
            if key.tenant == *tenant && range.contains(key.bucket) {
                sum.add(key, row);
            }
        }
        drop(state);
        Ok(sum.finish())
    }

    async fn edge_traces(&self, query: &EdgeTraceQuery) -> Result<EdgeTraces, StoreError> {
        let state = self.lock();
        let mut list = TraceList::of(query);
        for (_, row) in state.edges.iter().rev().filter(|(key, _)| asks_for_edge(query, key)) {
            list.add(row);
        }
        drop(state);
        Ok(list.finish())
    }
}

#[async_trait]
impl Eraser for MemoryMetricsStore {
    async fn erase(
        &self,
        tenant: &TenantId,
        trace_id: TraceId,
    ) -> Result<ErasureReceipt, StoreError> {
        let mut state = self.lock();
        state.forget(tenant, trace_id);
        state.erased.push((tenant.clone(), trace_id));
        Ok(ErasureReceipt { files: 0, spans: 0 })
    }
}
