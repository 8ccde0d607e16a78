//! Rate, errors and durations, and caller→callee edges.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use proto::DurationSketch;
use trace_model::{Coverage, SpanKind, StatusCode, TenantId, TimeRange, TraceId, UnixNanos};

use super::StoreError;

/// A series of spans within one minute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RedKey {
    /// The tenant.
    pub tenant: TenantId,
    /// Start of the minute, by placement time.
    pub minute: UnixNanos,
    /// The service.
    pub service: Arc<str>,
    /// The operation; `None` in the roll-up over operations.
    pub operation: Option<Arc<str>>,
    /// The kind.
    pub kind: SpanKind,
    /// The status.
    pub status: StatusCode,
}

/// What is counted of a series.
#[derive(Clone, Debug, Default)]
pub struct RedRow {
    /// Spans seen.
    pub seen: u64,
    /// Spans estimated: seen, weighted by the adjusted count of head sampling.
    pub estimated: f64,
    /// Durations in nanoseconds: DurationSketch, relative error 1 %, mergeable.
    pub durations: DurationSketch,
    /// A trace of the series: the slowest seen.
    pub exemplar: Option<(u64, TraceId)>,
}

impl RedRow {
    /// Adds the counts of later records of the same series, or of another series.
    pub fn merge(&mut self, later: &Self) {
        self.seen = self.seen.saturating_add(later.seen);
        self.estimated += later.estimated;
        self.durations.merge(&later.durations);
        let slowest = self.exemplar.map(|(nanos, _)| nanos);
        if later.exemplar.map(|(nanos, _)| nanos) > slowest {
            self.exemplar = later.exemplar;
        }
    }
}

impl RedRow {
    /// Takes a trace out of the exemplars; says whether it was there. Counts stay.
    pub fn forget(&mut self, trace_id: TraceId) -> bool {
        self.exemplar.take_if(|(_, exemplar)| *exemplar == trace_id).is_some()
    }
}

/// A call between two services within a 10-minute bucket.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EdgeKey {
    /// The tenant.
    pub tenant: TenantId,
    /// Start of the bucket, by the callee's placement time.
    pub bucket: UnixNanos,
    /// The service of the parent span.
    pub caller: Arc<str>,
    /// The service of the child span.
    pub callee: Arc<str>,
    /// Whether the child's status is error.
    pub is_error: bool,
}

/// What is counted of a call.
#[derive(Clone, Debug, Default)]
pub struct EdgeRow {
    /// Calls seen.
    pub seen: u64,
    /// Calls estimated.
    pub estimated: f64,
    /// Durations of the child spans, as in [`RedRow`].
    pub durations: DurationSketch,
    /// Traces with such a call, newest first, each once, bounded (at least 100 a key).
    pub traces: Vec<TraceId>,
}

impl EdgeRow {
    /// Adds the counts of later records of the same edge, or of another edge; keeps the newest
    /// `traces_max` traces.
    pub fn merge(&mut self, later: &Self, traces_max: usize) {
        self.seen = self.seen.saturating_add(later.seen);
        self.estimated += later.estimated;
        self.durations.merge(&later.durations);
        let mut traces = later.traces.clone();
        traces.extend(self.traces.iter().filter(|held| !later.traces.contains(held)));
        traces.truncate(traces_max);
        self.traces = traces;
    }

    /// Takes a trace out of the list; says whether it was there. Counts stay.
    pub fn forget(&mut self, trace_id: TraceId) -> bool {
        let before = self.traces.len();
        self.traces.retain(|held| *held != trace_id);
        self.traces.len() < before
    }
}

/// What a run of the log adds to the counts.
#[derive(Clone, Debug, Default)]
pub struct MetricsDelta {
    /// Series.
    pub red: Vec<(RedKey, RedRow)>,
    /// Calls.
    pub edges: Vec<(EdgeKey, EdgeRow)>,
    /// How far the log is counted once this delta is in. Deltas are applied in order; one that
    /// covers nothing new is dropped (a replay after a crash).
    pub covered: Coverage,
    /// State that the aggregator needs to go on exactly after a crash (open traces, digests seen):
    /// opaque here, given back by [`MetricsStore::checkpoint`].
    pub checkpoint: Vec<u8>,
    /// Whether `checkpoint` is appended to the state that is held instead of replacing it: the
    /// whole state is large and written seldom.
    pub extends_checkpoint: bool,
}

/// Which series.
#[derive(Clone, Debug)]
pub struct RedQuery {
    /// The tenant.
    pub tenant: TenantId,
    /// One service, or all.
    pub service: Option<Arc<str>>,
    /// By operation, or the roll-up (60 rows for an hour of one service and kind).
    pub by_operation: bool,
    /// Minutes.
    pub range: TimeRange,
}

/// A part of an answer that is in order.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// What is next.
    pub rows: Vec<T>,
    /// Whether there is more behind it.
    pub has_more: bool,
}

impl<T> Default for Page<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), has_more: false }
    }
}

/// An edge's place among the edges of a range: caller, then callee.
pub type EdgePlace = (Arc<str>, Arc<str>);

/// Which edges' traces.
#[derive(Clone, Debug)]
pub struct EdgeTraceQuery {
    /// The tenant.
    pub tenant: TenantId,
    /// The caller.
    pub caller: Arc<str>,
    /// The callee.
    pub callee: Arc<str>,
    /// Calls with errors alone.
    pub only_errors: bool,
    /// Buckets.
    pub range: TimeRange,
    /// Most traces.
    pub limit: usize,
}

/// Traces of an edge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EdgeTraces {
    /// The traces, newest bucket first, each once.
    pub trace_ids: Vec<TraceId>,
    /// Whether there are less than were asked for and a bucket holds as many as are kept of one: it
    /// may have had more.
    pub is_cut: bool,
}

/// So many edges, each with all its rows.
pub(crate) fn first_edges(
    rows: impl Iterator<Item = (EdgeKey, EdgeRow)>,
    edges_max: usize,
) -> Page<(EdgeKey, EdgeRow)> {
    let mut page = Page::default();
    let mut last: Option<EdgePlace> = None;
    let mut edges = 0_usize;
    for (key, row) in rows {
        let place = (Arc::clone(&key.caller), Arc::clone(&key.callee));
        if last.as_ref() != Some(&place) {
            if edges >= edges_max.max(1) {
                page.has_more = true;
                break;
            }
            edges = edges.saturating_add(1);
            last = Some(place);
        }
        page.rows.push((key, row));
    }
    page
}

/// Keeps the counts.
///
/// **Idempotence.** Deltas carry the log range that they come from; what is covered is not counted
/// again, and of two deltas that cover the same only the first counts. **Order.** One writer at a
/// time: whoever asked for the checkpoint last. Where processes take turns, the deltas of the one
/// before are refused from then on ([`StoreError::Fenced`]), whatever it still believes. An adapter of
/// one process refuses none.
/// **Durability.** After `apply` returned the delta survives kill and loss of power.
#[async_trait]
pub trait MetricsStore: Send + Sync + fmt::Debug {
    /// Takes a delta in, whole or not at all.
    async fn apply(&self, delta: MetricsDelta) -> Result<(), StoreError>;

    /// Makes the caller the one that counts, and gives how far the log is counted, with the aggregator's
    /// state there.
    async fn checkpoint(&self) -> Result<(Coverage, Vec<u8>), StoreError>;

    /// How far the log is counted, for whoever does not count: who asks for counts afterwards is given
    /// all of that. Costs no more than a question.
    async fn covered(&self) -> Result<Coverage, StoreError>;

    /// Series of the minutes that touch the range, by key.
    async fn red(&self, query: &RedQuery) -> Result<Vec<(RedKey, RedRow)>, StoreError>;

    /// Edges of the buckets that touch the range, summed over them; `bucket` is the first of them.
    async fn edges(
        &self,
        tenant: &TenantId,
        range: TimeRange,
    ) -> Result<Vec<(EdgeKey, EdgeRow)>, StoreError>;

    /// [`Self::red`] by pages: at least one series behind this one and at most so many, where there are
    /// any; fewer do not mean that it was the last page. Each page is a question of its own: what is counted
    /// between two may be in the later one alone. A store that holds its counts in memory asks itself for
    /// all.
    async fn red_page(
        &self,
        query: &RedQuery,
        after: Option<&RedKey>,
        rows_max: usize,
    ) -> Result<Page<(RedKey, RedRow)>, StoreError> {
        let rows = self.red(query).await?;
        let first = rows.partition_point(|(key, _)| after.is_some_and(|after| key <= after));
        let mut rows = rows.into_iter().skip(first);
        let page = rows.by_ref().take(rows_max.max(1)).collect();
        Ok(Page { rows: page, has_more: rows.next().is_some() })
    }

    /// [`Self::edges`] by pages, as [`Self::red_page`]: at most so many edges. Calls with errors and calls
    /// without are two rows of one edge, and on one page.
    async fn edges_page(
        &self,
        tenant: &TenantId,
        range: TimeRange,
        after: Option<&EdgePlace>,
        edges_max: usize,
    ) -> Result<Page<(EdgeKey, EdgeRow)>, StoreError> {
        let is_behind = |key: &EdgeKey| {
            after.is_none_or(|(caller, callee)| (&key.caller, &key.callee) > (caller, callee))
        };
        let rows = self.edges(tenant, range).await?.into_iter();
        Ok(first_edges(rows.filter(|(key, _)| is_behind(key)), edges_max))
    }

    /// Traces with such a call in the buckets that touch the range.
    async fn edge_traces(&self, query: &EdgeTraceQuery) -> Result<EdgeTraces, StoreError>;
}
