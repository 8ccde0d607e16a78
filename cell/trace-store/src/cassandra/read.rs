//! Reads a trace page by page, in bounded memory: shard after shard, contexts before spans.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use proto::wire::service_name;
use scylla::deserialize::value::ListlikeIterator;
use scylla::response::PagingState;
use scylla::response::query_result::QueryRowsResult;
use trace_model::merge::Envelope;
use trace_model::span::UNKNOWN_SERVICE;
use trace_model::{
    Region, ScopeContext, SpanId, SpanKey, StoredSpan, TenantId, TraceId, UnixNanos,
};

use super::engine::Engine;
use super::fault;
use super::places::unsigned;
use super::rows::{EnvelopeValue, PART_ACCOUNT, PART_CONTEXT};
use crate::port::StoreError;

/// A page is to have about so many bytes.
const PAGE_BYTES: u64 = 4 << 20;
/// Rows of the first page: enough for most traces, few enough where each has a megabyte.
const FIRST_ROWS: i32 = 128;
/// Rows of the largest page.
const ROWS_MAX: u64 = 5_000;
/// Contexts out of rows of spans that are shared between spans of a trace.
const CONTEXTS_MAX: usize = 4_096;
/// Envelopes that are shared between spans of a trace.
const ENVELOPES_MAX: usize = 16;

/// A row as it is read.
type Row<'r> = (
    i8,
    &'r [u8],
    i8,
    i64,
    Option<Bytes>,
    Option<i64>,
    Option<Bytes>,
    Option<Bytes>,
    Option<ListlikeIterator<'r, 'r, EnvelopeValue<'r>>>,
);

/// A piece of a trace.
#[derive(Debug, Default)]
pub struct TracePage {
    /// Its spans.
    pub spans: Vec<StoredSpan>,
    /// When the copies of each of its spans were received, where that was asked for.
    pub(super) received: Vec<Vec<UnixNanos>>,
    /// A span in it could not be read.
    pub is_damaged: bool,
    /// Bytes that came for it.
    pub bytes: u64,
}

/// A trace that is being read. A page that fails fails the trace: what came before is not an answer.
#[derive(Debug)]
pub struct TracePages {
    engine: Arc<Engine>,
    tenant: TenantId,
    trace_id: TraceId,
    /// Shards that were announced; those before `shard` are read.
    shards: BTreeSet<i32>,
    shard: i32,
    /// Where the next page begins; `None`: all is read.
    state: Option<PagingState>,
    rows: i32,
    contexts: HashMap<i64, Arc<ScopeContext>>,
    envelopes: Vec<Arc<Envelope>>,
    with_received: bool,
}

impl TracePages {
    pub(super) fn new(engine: Arc<Engine>, tenant: TenantId, trace_id: TraceId) -> Self {
        Self {
            engine,
            tenant,
            trace_id,
            shards: BTreeSet::from([0]),
            shard: 0,
            state: Some(PagingState::start()),
            rows: FIRST_ROWS,
            contexts: HashMap::new(),
            envelopes: Vec::new(),
            with_received: false,
        }
    }

    /// With the receive times of all copies of each span.
    pub(super) const fn with_received(mut self) -> Self {
        self.with_received = true;
        self
    }

    /// Whether all was read.
    pub(super) const fn is_done(&self) -> bool {
        self.state.is_none()
    }

    /// The shards that were met.
    pub(super) const fn shards(&self) -> &BTreeSet<i32> {
        &self.shards
    }

    /// The next piece; `None` where all was read.
    ///
    /// # Errors
    ///
    /// As [`crate::TraceReader::read_trace`].
    pub async fn next_page(&mut self) -> Result<Option<TracePage>, StoreError> {
        let Some(state) = self.state.take() else { return Ok(None) };
        let statement = &self.engine.statements.read_spans;
        let trace = self.trace_id.as_bytes().as_slice();
        let values = (self.tenant.as_str(), trace, self.shard);
        let (rows, next) = self.engine.page(statement, values, (state, self.rows)).await?;
        self.size_next(&rows);
        let page = self.read(&rows)?;
        self.state = next;
        if self.state.is_none() {
            let after = self.shards.range(self.shard.saturating_add(1)..).next().copied();
            if let Some(shard) = after {
                self.shard = shard;
                self.state = Some(PagingState::start());
            }
        }
        Ok(Some(page))
    }

    /// Chooses how many rows the next page has, by what this one's weighed.
    fn size_next(&mut self, rows: &QueryRowsResult) {
        let count = rows.rows_num() as u64;
        if count > 0 {
            let each = (rows.rows_bytes_size() as u64).div_ceil(count).max(1);
            let fitting = (PAGE_BYTES / each).clamp(4, ROWS_MAX);
            self.rows = i32::try_from(fitting).unwrap_or(FIRST_ROWS);
        }
    }

    fn read(&mut self, rows: &QueryRowsResult) -> Result<TracePage, StoreError> {
        let mut page = TracePage { bytes: rows.rows_bytes_size() as u64, ..TracePage::default() };
        page.spans.reserve(rows.rows_num());
        for row in rows.rows::<Row<'_>>().map_err(|error| fault::of_types(&error))? {
            let row = row.map_err(|error| fault::of_row(&error))?;
            match row.0 {
                PART_ACCOUNT => {
                    self.shards.extend(i32::try_from(row.3).ok());
                }
                PART_CONTEXT => {
                    let context = scope_context(&row.6.unwrap_or_default(), row.7);
                    self.contexts.insert(row.3, Arc::new(context));
                }
                _ => self.read_span(row, &mut page)?,
            }
        }
        Ok(page)
    }

    fn read_span(&mut self, row: Row<'_>, page: &mut TracePage) -> Result<(), StoreError> {
        let mut received = Vec::new();
        match self.stored_span(row, &mut received)? {
            Some(stored) => page.spans.push(stored),
            // A row that lacks what belongs to it: the answer says so.
            None => {
                page.is_damaged = true;
                self.engine.metrics.damaged_rows.inc();
                return Ok(());
            }
        }
        if self.with_received {
            page.received.push(received);
        }
        Ok(())
    }

    /// The span in a row, and when each of its copies was received.
    fn stored_span(
        &mut self,
        row: Row<'_>,
        received: &mut Vec<UnixNanos>,
    ) -> Result<Option<StoredSpan>, StoreError> {
        let (_, span_id, kind, content, span, context, resource, scope, envelopes) = row;
        let mut least: Option<EnvelopeValue<'_>> = None;
        for envelope in envelopes.into_iter().flatten() {
            let envelope = envelope.map_err(|error| fault::of_row(&error))?;
            received.push(UnixNanos(unsigned(envelope.0)));
            least = Some(least.map_or(envelope, |least| least.min(envelope)));
        }
        let (Some(span), Some(hash)) = (span, context) else { return Ok(None) };
        let context = match (self.contexts.get(&hash), resource) {
            (Some(known), _) => Some(Arc::clone(known)),
            (None, Some(resource)) => Some(self.own_context(hash, &resource, scope)),
            (None, None) => None,
        };
        let envelope = least.and_then(|least| self.envelope(least));
        let (Some(context), Some(envelope)) = (context, envelope) else { return Ok(None) };
        let Ok(span_id) = SpanId::try_from(span_id) else { return Ok(None) };
        let (kind, content) = (kind.cast_unsigned(), content.cast_unsigned());
        let key = SpanKey { span_id, kind, content };
        Ok(Some(StoredSpan { key, span, context, envelope }))
    }

    /// The context that stands in a span's row; remembered for its likes, within a bound.
    fn own_context(
        &mut self,
        hash: i64,
        resource: &Bytes,
        scope: Option<Bytes>,
    ) -> Arc<ScopeContext> {
        let context = Arc::new(scope_context(resource, scope));
        if self.contexts.len() < CONTEXTS_MAX {
            self.contexts.insert(hash, Arc::clone(&context));
        }
        context
    }

    /// An envelope; spans that follow one another share it, and so do most others.
    fn envelope(&mut self, value: EnvelopeValue<'_>) -> Option<Arc<Envelope>> {
        let (received, region, collector) = value;
        let received = UnixNanos(unsigned(received));
        let is_alike = |known: &&Arc<Envelope>| {
            known.receive_time == received
                && known.region.as_str() == region
                && *known.collector == *collector
        };
        if let Some(known) = self.envelopes.iter().rev().find(is_alike) {
            return Some(Arc::clone(known));
        }
        let region = Region::new(region).ok()?;
        let envelope =
            Arc::new(Envelope { receive_time: received, region, collector: collector.into() });
        if self.envelopes.len() >= ENVELOPES_MAX {
            self.envelopes.clear();
        }
        self.envelopes.push(Arc::clone(&envelope));
        Some(envelope)
    }
}

/// A copy: a context outlives its page, whose frame is not to be kept for it.
fn scope_context(resource: &Bytes, scope: Option<Bytes>) -> ScopeContext {
    let service = service_name(resource).ok().flatten().unwrap_or(UNKNOWN_SERVICE).into();
    let resource = Bytes::copy_from_slice(resource);
    ScopeContext { resource, scope: Bytes::copy_from_slice(&scope.unwrap_or_default()), service }
}
