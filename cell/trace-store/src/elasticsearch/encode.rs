//! Batches of the log as chunks of documents, made one batch at a time while earlier chunks travel.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use proto::decode::{ReadContext, read_context, read_span};
use proto::{LoggedBatch, SpanBatch, SpanSlice, TraceSlice};
use trace_model::time::place;
use trace_model::{ScopeContext, Span, TenantId, TraceId, UnixNanos};

use super::bulk::Chunk;
use super::catalog::{BUCKET_NANOS, Entry};
use super::document::{ContextJson, SpanDocument};
use super::identity::{document_id, entry_hash, span_hash, trace_hash};
use super::names::{Day, Kind, Names, Shelf, TenantNames};
use super::state::State;

/// A start this long after the arrival lies ahead of time.
const AHEAD_NANOS_MAX: u64 = 3_600 * 1_000_000_000;

/// The shelf of a span that arrived and is placed at these times. Said by the arrival, so that a
/// replay says the same; what the retention has passed meanwhile is outlying as well.
pub(super) fn shelf(
    placed: UnixNanos,
    received: UnixNanos,
    now: UnixNanos,
    retention: Duration,
) -> Shelf {
    let retention = u64::try_from(retention.as_nanos()).unwrap_or(u64::MAX);
    let is_old = placed < received.minus(retention) || placed < now.minus(retention);
    let is_ahead = placed > received.plus(AHEAD_NANOS_MAX);
    if is_old || is_ahead { Shelf::Outlying } else { Shelf::Day(Day::of(placed)) }
}

/// What was left out, and what lies apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LeftOut {
    pub(super) erased: u64,
    pub(super) unreadable: u64,
    /// Not left out, but beside their days.
    pub(super) outlying: u64,
}

/// Makes chunks of batches.
#[derive(Debug)]
pub(super) struct Encoder<'a> {
    batches: std::slice::Iter<'a, LoggedBatch>,
    names: &'a Names,
    state: &'a State,
    erased: Arc<HashSet<u128>>,
    now: UnixNanos,
    retention: Duration,
    bytes_max: usize,
    /// Contexts within this call, by their hashes: a record of the log is one trace, and its contexts
    /// are those of many others.
    contexts: HashMap<u64, KnownContext<'a>>,
    /// Entries of the catalogue within this call.
    entries: HashSet<u128>,
    chunk: Chunk,
    ready: VecDeque<Chunk>,
    pub(super) left_out: LeftOut,
}

/// A context, read and rendered; `None` where it cannot be read.
type Rendered = Option<Arc<(ReadContext, ContextJson)>>;

#[derive(Debug)]
struct KnownContext<'a> {
    context: &'a ScopeContext,
    rendered: Rendered,
}

fn render(context: &ScopeContext) -> Rendered {
    let context = read_context(context).ok()?;
    let json = ContextJson::of(&context);
    Some(Arc::new((context, json)))
}

/// The names of a tenant's indices.
struct Indices {
    spans: TenantNames,
    services: TenantNames,
}

impl<'a> Encoder<'a> {
    pub(super) fn new(
        batches: &'a [LoggedBatch],
        (names, state): (&'a Names, &'a State),
        erased: Arc<HashSet<u128>>,
        now: UnixNanos,
        (retention, bytes_max): (Duration, usize),
    ) -> Self {
        Self {
            batches: batches.iter(),
            names,
            state,
            erased,
            now,
            retention,
            bytes_max,
            contexts: HashMap::new(),
            entries: HashSet::new(),
            chunk: Chunk::default(),
            ready: VecDeque::new(),
            left_out: LeftOut::default(),
        }
    }

    /// The next chunk.
    pub(super) fn next_chunk(&mut self) -> Option<Chunk> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Some(chunk);
            }
            match self.batches.next() {
                Some(logged) => self.encode(&logged.batch),
                None if self.chunk.items.is_empty() => return None,
                None => return Some(std::mem::take(&mut self.chunk)),
            }
        }
    }

    /// The context of this hash, rendered once within this call.
    fn rendered(&mut self, hash: u64, context: &'a ScopeContext) -> Rendered {
        // A hash can be met on purpose: the bytes decide.
        if let Some(known) = self.contexts.get(&hash)
            && known.context == context
        {
            return known.rendered.clone();
        }
        let rendered = render(context);
        self.contexts.insert(hash, KnownContext { context, rendered: rendered.clone() });
        rendered
    }

    fn encode(&mut self, batch: &'a SpanBatch) {
        let tenant = &batch.source().tenant;
        let indices = Indices {
            spans: self.names.of(tenant, Kind::Spans),
            services: self.names.of(tenant, Kind::Services),
        };
        let hashes = batch.context_hashes().iter().zip(batch.contexts());
        let contexts: Vec<Rendered> =
            hashes.map(|(hash, context)| self.rendered(*hash, context)).collect();
        for trace in batch.traces() {
            if self.erased.contains(&trace_hash(tenant, trace.trace_id)) {
                self.left_out.erased += u64::from(trace.span_count);
                continue;
            }
            for span in batch.spans_of(trace) {
                let context = contexts.get(span.scope as usize).and_then(Option::as_deref);
                let is_read = context.is_some_and(|(context, json)| {
                    self.push(batch, (trace, span), (context, json), &indices)
                });
                self.left_out.unreadable += u64::from(!is_read);
            }
        }
    }

    /// Adds a span and, where it is new, its entry in the catalogue. Says whether it can be read.
    fn push(
        &mut self,
        batch: &SpanBatch,
        (trace, slice): (&TraceSlice, &SpanSlice),
        (context, json): (&ReadContext, &ContextJson),
        indices: &Indices,
    ) -> bool {
        let Ok(span) = read_span(batch.bytes_of(slice), context) else { return false };
        let source = batch.source();
        let received = source.receive_time;
        let placed = place(span.start, span.end, received).time;
        let shelf = shelf(placed, received, self.now, self.retention);
        self.left_out.outlying += u64::from(shelf == Shelf::Outlying);
        let key = batch.key_of(slice);
        let id = document_id(span_hash(&source.tenant, trace.trace_id, key));
        let target = self.chunk.target(&indices.spans, Kind::Spans, shelf);
        let document = SpanDocument {
            tenant: &source.tenant,
            region: &source.region,
            received,
            placed,
            key,
            span: &span,
            context: json,
        };
        self.chunk.push(target, id, None, |out| document.write(out));
        self.push_entry((&source.tenant, received), &span, placed, (indices, shelf));
        if self.chunk.documents.len() >= self.bytes_max {
            // Another will be as large: one that grows by doubling is copied, into memory that nobody has touched.
            let next = Chunk::with_room(self.chunk.documents.len());
            self.ready.push_back(std::mem::replace(&mut self.chunk, next));
        }
        true
    }

    fn push_entry(
        &mut self,
        (tenant, received): (&TenantId, UnixNanos),
        span: &Span,
        placed: UnixNanos,
        (indices, shelf): (&Indices, Shelf),
    ) {
        let bucket = placed.0 / BUCKET_NANOS;
        let hash = entry_hash(tenant, &span.resource.service, &span.name, span.kind, bucket);
        if !self.entries.insert(hash) || self.state.knows_entry(hash) {
            return;
        }
        let target = self.chunk.target(&indices.services, Kind::Services, shelf);
        let id = document_id(hash);
        self.chunk.push(target, id.clone(), Some(hash), |out| {
            let (service, name) = (&*span.resource.service, &*span.name);
            let entry = Entry { tenant, service, operation: name, kind: span.kind, bucket };
            entry.write(out, received, &id);
        });
    }
}

/// The traces of the batches that are erased.
pub(super) fn erased_traces(
    batches: &[LoggedBatch],
    erased: &HashSet<u128>,
) -> BTreeSet<(TenantId, TraceId)> {
    let mut traces = BTreeSet::new();
    for batch in batches.iter().map(|logged| &logged.batch) {
        let tenant = &batch.source().tenant;
        let ids = batch.traces().iter().map(|trace| trace.trace_id);
        let gone = ids.filter(|trace_id| erased.contains(&trace_hash(tenant, *trace_id)));
        traces.extend(gone.map(|trace_id| (tenant.clone(), trace_id)));
    }
    traces
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3_600 * 1_000_000_000;
    const NOW: UnixNanos = UnixNanos(20_718 * DAY + DAY / 2);
    const WEEK: Duration = Duration::from_secs(7 * 24 * 3_600);

    #[test]
    fn a_span_goes_to_its_day_unless_it_lies_outside_the_retention_or_ahead_of_time() {
        let of = |placed: UnixNanos| shelf(placed, NOW, NOW, WEEK);
        assert_eq!(of(NOW), Shelf::Day(Day::of(NOW)));
        assert_eq!(of(NOW.minus(7 * DAY)), Shelf::Day(Day::of(NOW.minus(7 * DAY))));
        assert_eq!(of(NOW.minus(7 * DAY + 1)), Shelf::Outlying);
        assert_eq!(of(NOW.plus(DAY / 24)), Shelf::Day(Day::of(NOW)));
        assert_eq!(of(NOW.plus(DAY / 24 + 1)), Shelf::Outlying);
    }

    #[test]
    fn a_replay_says_the_same_until_the_retention_has_passed() {
        let (ahead, received) = (NOW.plus(DAY / 12), NOW);
        assert_eq!(shelf(ahead, received, NOW, WEEK), Shelf::Outlying);
        assert_eq!(shelf(ahead, received, NOW.plus(DAY), WEEK), Shelf::Outlying);
        assert_eq!(shelf(NOW, received, NOW.plus(6 * DAY), WEEK), Shelf::Day(Day::of(NOW)));
        assert_eq!(shelf(NOW, received, NOW.plus(8 * DAY), WEEK), Shelf::Outlying);
    }
}
